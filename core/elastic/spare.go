package elastic

import "github.com/neap-dev/neap/core/resource"

// A SpareMachine is a GPU machine whose spare CPU and memory others may use.
type SpareMachine struct {
	Allocatable resource.Vector // what pods can have of it
	PerGPU      resource.Vector // kept for each GPU, used or not
	GPUPods     resource.Vector // what the pods with a GPU ask for
}

// Lendable is what pods without a GPU may hold of m together: what is left when
// every GPU has its part, or more where the pods on the GPUs ask for more.
//
//	lendable = allocatable - max(PerGPU · GPUs, GPUPods + PerGPU · free GPUs)
//
// A pod that asks for no more than PerGPU of each of its GPUs thus always fits,
// without anybody having to leave.
func (m SpareMachine) Lendable() resource.Vector {
	out := m.Allocatable
	out[resource.GPU] = 0
	for _, k := range []resource.Kind{resource.CPU, resource.Memory} {
		kept := func(milliGPUs int64) int64 { // rounded up; products of real machines are far from overflow
			whole, part := milliGPUs/1000, milliGPUs%1000
			return m.PerGPU[k]*whole + (m.PerGPU[k]*part+999)/1000
		}
		free := max(m.Allocatable[resource.GPU]-m.GPUPods[resource.GPU], 0)
		out[k] = max(0, out[k]-max(kept(m.Allocatable[resource.GPU]), m.GPUPods[k]+kept(free)))
	}
	return out
}
