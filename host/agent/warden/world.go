package warden

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/colocate"
	"github.com/neap-dev/neap/core/workload"
	"github.com/neap-dev/neap/host/cgroup"
	"github.com/neap-dev/neap/kube/convert"
)

// A World is what the cluster says of this machine. The zero World says nothing.
type World struct {
	Pods []Pod // those that run here, by name

	Machine colocate.Room // what there is of the machine
	Policy  string        // the ColocationPolicy that holds here; empty if none does
	Spec    v1alpha1.ColocationPolicySpec
	Hours   []colocate.Hours
	Grace   time.Duration // of an eviction
	PerHour int64         // evictions
	// Broken says why the policy cannot be carried out, Rival what other colocation
	// system runs here; empty if there is nothing.
	Broken, Rival string
	LentMilli     int64 // what the controller lends now
	// Mute says that the cluster has not been heard for long.
	Mute bool
}

// A Pod is one pod of the machine.
type Pod struct {
	Object   *corev1.Pod
	Name     string // namespace/name
	Workload string // what it is part of: namespace/kind/name
	UID      string // as its group has it
	Class    cgroup.QoS
	Batch    bool
	Task     colocate.Task // of a batch pod
	Freeze   time.Duration // how long a batch pod may be frozen; 0: not at all
	Leaving  bool          // it is being deleted
}

// rivals are pods of other colocation systems' agents, by a label of theirs.
var rivals = []struct{ key, value, name string }{
	{"koord-app", "koordlet", "Koordinator"},
	{"app", "volcano-agent", "Volcano"},
	{"name", "volcano-agent", "Volcano"},
	{"app", "crane-agent", "Crane"},
	{"app", "katalyst-agent", "Katalyst"},
	{"name", "rubik-agent", "rubik"},
}

// Look puts a World together: pods are those of the node, policies and calendars all
// there are.
func Look(node *corev1.Node, pods []*corev1.Pod, policies []*v1alpha1.ColocationPolicy, calendars []*v1alpha1.HolidayCalendar) World {
	w := World{Machine: colocate.Room{
		CPUMilli:  node.Status.Capacity.Cpu().MilliValue(),
		MemoryMiB: node.Status.Capacity.Memory().Value() >> 20,
	}}
	policy := convert.ColocationOf(node, policies, nil)
	usual := time.Hour
	if policy != nil {
		w.Policy, w.Spec = policy.Name, policy.Spec
		declared, err := declare(policy, calendars)
		if err != nil {
			w.Broken = err.Error()
		}
		w.Hours, w.Grace, w.PerHour, usual = declared.Hours, declared.Grace, declared.Leaving.PerHour, declared.Policy.RunTime
	}
	learnt := convert.LearntRunTimes(policies...)
	for _, p := range pods {
		for _, r := range rivals {
			if p.Labels[r.key] == r.value {
				w.Rival = r.name
			}
		}
		if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
			continue
		}
		w.Pods = append(w.Pods, look(p, learnt, usual))
	}
	slices.SortFunc(w.Pods, func(a, b Pod) int { return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.UID, b.UID)) })
	return w
}

func declare(p *v1alpha1.ColocationPolicy, calendars []*v1alpha1.HolidayCalendar) (convert.Colocation, error) {
	if p.Spec.HolidayCalendar == "" {
		return convert.DeclaredColocation(p, nil)
	}
	for _, c := range calendars {
		if c.Name == p.Spec.HolidayCalendar {
			days, err := convert.Days(c)
			if err != nil {
				return convert.Colocation{}, err
			}
			return convert.DeclaredColocation(p, days)
		}
	}
	declared, err := convert.DeclaredColocation(p, nil) // by the week, until there is a calendar
	if err == nil {
		return declared, nil
	}
	return declared, fmt.Errorf("%w; and HolidayCalendar %s does not exist", err, p.Spec.HolidayCalendar)
}

func look(p *corev1.Pod, learnt map[workload.Key]time.Duration, usual time.Duration) Pod {
	var owners convert.Owners
	owner := owners.Of(p)
	out := Pod{
		Object: p, Name: p.Namespace + "/" + p.Name, Workload: owner.String(), UID: string(p.UID),
		Class: cgroup.Burstable, Leaving: p.DeletionTimestamp != nil,
	}
	if hash := p.Annotations["kubernetes.io/config.hash"]; hash != "" {
		out.UID = hash // a static pod's group has the name of its manifest's hash
	}
	switch p.Status.QOSClass {
	case corev1.PodQOSGuaranteed:
		out.Class = cgroup.Guaranteed
	case corev1.PodQOSBestEffort:
		out.Class = cgroup.BestEffort
	}
	if !convert.Batch(p) {
		return out
	}
	// A batch pod with requests of its own is in another group: it counts as online.
	out.Batch = out.Class == cgroup.BestEffort
	said, _ := convert.BatchSays(p)
	out.Freeze = said.Freeze
	out.Task = convert.BatchTask(p, owner, learnt, usual)
	return out
}

// shares returns how much of the machine online, system and batch may use now, in
// percent, and the window that says so, empty if none does.
func (w *World) shares(now time.Time) (cpu, memory int64, window string) {
	cpu, memory = int64(cmp.Or(w.Spec.CPUPercent, 80)), int64(cmp.Or(w.Spec.MemoryPercent, 80))
	for _, v := range colocate.Windows(w.Hours, now, now.Add(time.Second)) {
		if v.From.After(now) {
			continue
		}
		if v.CPUPercent < cpu {
			cpu, window = v.CPUPercent, v.Name
		}
		memory = min(memory, v.MemoryPercent)
	}
	return cpu, memory, window
}
