package openb

import (
	"hash/fnv"
	"slices"

	"github.com/neap-dev/neap/core/gpu"
)

// modelMiB is the memory of the models in the published lists. G2 and G3 are names
// of the operator's own; 24 and 80 GiB stand in for what is not published.
var modelMiB = map[string]int32{
	"P100": 16 << 10, "T4": 16 << 10, "V100M16": 16 << 10, "V100M32": 32 << 10, "A10": 24 << 10, "G2": 24 << 10, "G3": 80 << 10,
}

// podMiB is what pods ask for of each GPU, drawn by their names.
var podMiB = []int64{6 << 10, 8 << 10, 10 << 10, 12 << 10, 12 << 10, 14 << 10, 16 << 10, 20 << 10}

// WithMemory returns the trace with memory of GPUs, of which the published lists say
// nothing: invented, the same for equal lists, and so much that GPUs shared by several
// pods run out of memory before they run out of milli. The names are those of the
// catalogue that the lists were read with; a model that is not published has 24 GiB.
func (t *Trace) WithMemory(names []string) *Trace {
	out := &Trace{Name: t.Name + "+memory", Nodes: slices.Clone(t.Nodes), Pods: slices.Clone(t.Pods)}
	for i := range out.Nodes {
		m := &out.Nodes[i].Machine
		for k := range m.GPUs {
			mib, ok := modelMiB[names[m.Model[k]]]
			if !ok {
				mib = 24 << 10
			}
			m.IdleMemory[k] = mib
		}
	}
	for i := range out.Pods {
		d := &out.Pods[i].Demand
		if d.Devices == 0 {
			continue
		}
		h := fnv.New32a()
		h.Write([]byte(out.Pods[i].Name))
		d.DeviceMemory = podMiB[h.Sum32()>>8%uint32(len(podMiB))]
		if d.Models != 0 { // it ran on those, so it fits there
			for m, name := range names {
				if mib, ok := modelMiB[name]; ok && d.Models.Accepts(gpu.Model(m)) {
					d.DeviceMemory = min(d.DeviceMemory, int64(mib))
				}
			}
		}
	}
	return out
}

// withoutMemory returns the shares as one sees them who is blind to memory of GPUs.
func withoutMemory(shares []gpu.Share) []gpu.Share {
	out := slices.Clone(shares)
	for i := range out {
		out[i].Demand.DeviceMemory = 0
	}
	return out
}
