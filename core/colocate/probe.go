package colocate

import (
	"fmt"
	"strings"
	"time"
)

// A State says whether a machine has a feature.
type State string

// The states of a Feature.
const (
	Yes     State = "yes"
	No      State = "no"
	Unknown State = "unknown" // it could not be told
)

// A Feature is one thing that colocation can use, as a machine has it.
type Feature struct {
	Name   string `json:"name"`             // stable, such as "cpu.idle"
	State  State  `json:"state"`            //
	Use    string `json:"use,omitempty"`    // what it is good for
	Detail string `json:"detail,omitempty"` // what was seen
}

// An Avoidance is how a machine keeps batch out of online's way on the CPU.
type Avoidance string

// The avoidances, best first.
const (
	AvoidIdle   Avoidance = "idle"         // online goes before batch at once
	AvoidWeight Avoidance = "weight+quota" // batch has the least weight and a ceiling
	AvoidNone   Avoidance = "none"
)

// A Probe is what a machine's kernel, hardware and kubelet can do for colocation.
type Probe struct {
	At        time.Time `json:"at"`
	Kernel    string    `json:"kernel"`
	Cgroup    string    `json:"cgroup"` // "v2", "v1", "v1 with v2 beside it", or why it cannot be told
	Driver    string    `json:"driver"` // of the kubelet: systemd, cgroupfs; "" if there is none
	Avoidance Avoidance `json:"avoidance"`
	// Others are colocation systems that run here already: Neap does not own a
	// machine together with one.
	Others   []string  `json:"others,omitempty"`
	Features []Feature `json:"features"`
}

// Feature returns what is known of a feature; an unknown one is Unknown.
func (p Probe) Feature(name string) Feature {
	for _, f := range p.Features {
		if f.Name == name {
			return f
		}
	}
	return Feature{Name: name, State: Unknown}
}

// Verdict says whether batch may run beside online here, in one word and one sentence.
func (p Probe) Verdict() (ok bool, reason, message string) {
	switch {
	case len(p.Others) > 0:
		return false, "OtherSystem", fmt.Sprintf("%s runs here and writes the same cgroups: remove it from this node, or leave the node out of the policy", strings.Join(p.Others, ", "))
	case p.Avoidance == AvoidNone:
		return false, "NoAvoidance", fmt.Sprintf("nothing keeps batch out of online's way here (cgroups: %s): the agent needs CPU cgroups it may write", p.Cgroup)
	}
	var lacks []string
	for _, f := range p.Features {
		if f.State == No && f.Name != "smt" && f.Name != "numa" { // those two are no gifts
			lacks = append(lacks, f.Name)
		}
	}
	message = fmt.Sprintf("online is kept first by %s on kernel %s", p.Avoidance, p.Kernel)
	if len(lacks) > 0 {
		message += "; not there: " + strings.Join(lacks, ", ")
	}
	return true, "Able", message
}
