package cgroup

import (
	"fmt"
	"path"
	"strings"
)

// A QoS is a class in which the kubelet groups pods.
type QoS string

// The kubelet's classes.
const (
	Guaranteed QoS = "guaranteed" // directly below the root of the pods
	Burstable  QoS = "burstable"
	BestEffort QoS = "besteffort"
)

// A Layout is how the kubelet of a machine names its groups.
type Layout struct {
	Parent  Group // the kubelet's --cgroup-root, "/" by default
	Systemd bool  // the driver is systemd, not cgroupfs
}

// FindLayout finds the groups of the kubelet below a parent ("" for the root). It
// is ErrGone when no kubelet has made any.
func (t *Tree) FindLayout(parent Group) (Layout, error) {
	if parent == "" {
		parent = "/"
	}
	for _, systemd := range []bool{true, false} {
		if l := (Layout{parent, systemd}); t.Exists(l.Pods()) {
			return l, nil
		}
	}
	return Layout{}, fmt.Errorf("find the kubelet's groups kubepods or kubepods.slice below %s: %w", parent, ErrGone)
}

// Pods returns the group that all pods are in.
func (l Layout) Pods() Group { return l.group("kubepods") }

// Class returns the group of a class; for Guaranteed that of all pods.
func (l Layout) Class(q QoS) Group {
	if q == Guaranteed {
		return l.Pods()
	}
	return l.group("kubepods", string(q))
}

// Pod returns the group of a pod. The uid is metadata.uid, or for a static pod
// the hash in its annotation kubernetes.io/config.hash.
func (l Layout) Pod(q QoS, uid string) Group {
	if q == Guaranteed {
		return l.group("kubepods", "pod"+uid)
	}
	return l.group("kubepods", string(q), "pod"+uid)
}

// UID returns the uid of the pod whose group it is, and false for other groups.
func (l Layout) UID(g Group) (string, bool) {
	name := g.Name()
	if l.Systemd {
		rest, ok := strings.CutSuffix(name, ".slice")
		if i := strings.LastIndex(rest, "-pod"); ok && i >= 0 {
			return strings.ReplaceAll(rest[i+len("-pod"):], "_", "-"), true
		}
		return "", false
	}
	uid, ok := strings.CutPrefix(name, "pod")
	return uid, ok && uid != ""
}

// group joins the kubelet's names: a/b/c, or a.slice/a-b.slice/a-b-c.slice with
// dashes in the names written as _.
func (l Layout) group(names ...string) Group {
	at := l.Parent
	if at == "" {
		at = "/"
	}
	if !l.Systemd {
		return Group(path.Join(append([]string{string(at)}, names...)...))
	}
	prefix := ""
	for i, name := range names {
		if i > 0 {
			prefix += "-"
		}
		prefix += strings.ReplaceAll(name, "-", "_")
		at = at.Child(prefix + ".slice")
	}
	return at
}
