package gpubook

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/gpu"
	"github.com/neap-dev/neap/kube/convert"
)

// A Device is one GPU and who holds it.
type Device struct {
	v1alpha1.GPUDevice
	// IdleMilli and IdleMemoryMiB are left; below 0 where more is held than there is.
	IdleMilli, IdleMemoryMiB int64
	Holders                  []Holder // in the order of their names
}

// A Holder is who holds a piece of a GPU.
type Holder struct {
	Pod       *v1.Pod // nil if the piece is kept for a pod that is not there
	For       string  // the pod, or whom it is kept for, as namespace/name; "" nobody
	Milli     int64
	MemoryMiB int64
}

// Nodes returns the nodes with GPUs, in the order of their names.
func (b *Book) Nodes() []*v1.Node {
	var out []*v1.Node
	for _, name := range slices.Sorted(maps.Keys(b.machines)) {
		if m := b.machines[name]; len(m.devices) > 0 {
			out = append(out, m.node)
		}
	}
	return out
}

// Devices returns the GPUs of a node in the order of their indices.
func (b *Book) Devices(node string) []Device {
	m := b.machines[node]
	if m == nil {
		return nil
	}
	out := make([]Device, len(m.devices))
	for i, d := range m.devices {
		out[i] = Device{GPUDevice: d, IdleMilli: gpu.Whole, IdleMemoryMiB: d.MemoryMiB}
	}
	put := func(share v1alpha1.GPUShare, h Holder) {
		if i := m.device(share.UUID); i >= 0 {
			d := &out[i]
			d.IdleMilli -= share.Milli
			d.IdleMemoryMiB -= share.MemoryMiB
			h.Milli, h.MemoryMiB = share.Milli, share.MemoryMiB
			d.Holders = append(d.Holders, h)
		}
	}
	for _, e := range sorted(m.pods) {
		if e.has != nil {
			for _, s := range e.has.Devices {
				put(s, Holder{Pod: e.pod, For: nameOf(e.pod)})
			}
		}
	}
	for _, key := range slices.Sorted(maps.Keys(m.holds)) {
		h := m.holds[key]
		if !h.claim && b.holding(m, h.Pod) {
			continue
		}
		who := Holder{For: h.Pod}
		if e := b.pods[h.owner]; e != nil {
			who.Pod = e.pod
		}
		for _, uuid := range h.Devices {
			put(v1alpha1.GPUShare{UUID: uuid, Milli: h.Milli, MemoryMiB: h.MemoryMiB}, who)
		}
	}
	return out
}

// A Pod is a pod that asks for GPUs, or holds some by a ResourceClaim.
type Pod struct {
	*v1.Pod
	Node string // "" waits for a place
	// Has is what it holds; nil: nothing.
	Has *v1alpha1.GPUAllocation
	// Demands are what it asks for, one of them; Now is the one that it has, below 0
	// if none. What it has otherwise than it asked for is a demand too, the last.
	Demands []gpu.Demand
	Now     int
	Spot    gpu.Spot // where it is, if Now is not below 0
	Wrong   string   // what is wrong with the pod, in a sentence; "" nothing
}

// Pods returns the pods that ask for GPUs or hold some by a claim, in the order of
// their names. One that waits for its claim to be allocated is not among them.
func (b *Book) Pods() []Pod {
	b.Fleet()
	var out []Pod
	for _, e := range sorted(b.pods) {
		if p, ok := b.claimant(e); ok {
			out = append(out, p)
			continue
		}
		if !e.asks {
			continue
		}
		p := Pod{Pod: e.pod, Node: e.node, Has: e.has, Wrong: e.wrong}
		p.Demands, p.Now, p.Spot = b.held(e)
		out = append(out, p)
	}
	return out
}

// held returns what a pod asks for, which of it it has, and where.
func (b *Book) held(e *entry) ([]gpu.Demand, int, gpu.Spot) {
	if e.known != b.models.Len() {
		e.demands, _ = b.Demands(e.pod) // none if it makes no sense
		e.demands, e.known = slices.Clip(e.demands), b.models.Len()
	}
	all := e.demands
	if e.has == nil || len(e.booked) == 0 {
		return all, -1, gpu.Spot{}
	}
	d, s := e.booked[0].demand, e.booked[0].spot
	if d.Devices != len(e.has.Devices) {
		return all, -1, gpu.Spot{} // some are gone, or it has unequal pieces
	}
	m := b.machines[e.node]
	for rest := s.Devices; rest != 0; rest &= rest - 1 {
		d.Models = d.Models.With(m.models[rest.First()])
	}
	for i, a := range all {
		if a.Devices == d.Devices && a.Milli == d.Milli && a.DeviceMemory == d.DeviceMemory && (a.Models == 0 || a.Models&d.Models == d.Models) {
			return all, i, s
		}
	}
	return append(all, d), len(all), s
}

// A Conflict is something that must not be: a GPU of which pods hold more than
// there is, or a pod that does not have what it should.
type Conflict struct {
	Node    string
	UUID    string    // of the GPU; "" if the conflict is the pod's own
	Pods    []*v1.Pod // that are in it, the last one bound last as far as can be told
	Message string    // says what is wrong, in a sentence
}

// Conflicts returns what is wrong, in the order of the nodes.
func (b *Book) Conflicts() []Conflict {
	var out []Conflict
	for _, name := range slices.Sorted(maps.Keys(b.machines)) {
		out = append(out, b.ConflictsOn(name)...)
	}
	return out
}

// ConflictsOn returns what is wrong on one node.
func (b *Book) ConflictsOn(node string) []Conflict {
	m := b.machines[node]
	if m == nil {
		return nil
	}
	var out []Conflict
	for _, d := range b.Devices(node) {
		if d.IdleMilli >= 0 && d.IdleMemoryMiB >= 0 {
			continue
		}
		c := Conflict{Node: node, UUID: d.UUID}
		var names []string
		for _, h := range d.Holders {
			if h.Pod != nil {
				c.Pods = append(c.Pods, h.Pod)
			}
			names = append(names, h.For)
		}
		if len(c.Pods) == 0 {
			continue // too much is kept, and nobody is there
		}
		slices.SortStableFunc(c.Pods, func(x, y *v1.Pod) int { return boundAt(x).Compare(boundAt(y).Time) })
		c.Message = fmt.Sprintf("GPU %s of node %s is given away twice: %s hold %d of %d thousandths and %d of %d MiB", d.UUID, node,
			strings.Join(slices.DeleteFunc(names, func(s string) bool { return s == "" }), ", "), gpu.Whole-d.IdleMilli, gpu.Whole, d.MemoryMiB-d.IdleMemoryMiB, d.MemoryMiB)
		out = append(out, c)
	}
	for _, e := range sorted(m.pods) {
		wrong := e.wrong
		if e.has != nil && m.node != nil {
			for _, s := range e.has.Devices {
				if m.device(s.UUID) < 0 {
					wrong = fmt.Sprintf("GPU %s is not on node %s any more", s.UUID, node)
				}
			}
		}
		if wrong != "" {
			out = append(out, Conflict{Node: node, Pods: []*v1.Pod{e.pod}, Message: fmt.Sprintf("pod %s: %s", nameOf(e.pod), wrong)})
		}
	}
	return out
}

func sorted(pods map[types.UID]*entry) []*entry {
	return slices.SortedFunc(maps.Values(pods), func(x, y *entry) int { return compareNames(x.pod, y.pod) })
}

// boundAt returns when a pod was bound, to the second; its creation if nobody says.
func boundAt(pod *v1.Pod) metav1.Time {
	if t, ok := convert.Bound(pod); ok {
		return metav1.Time{Time: t}
	}
	return pod.CreationTimestamp
}
