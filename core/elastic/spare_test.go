package elastic

import (
	"testing"

	"github.com/neap-dev/neap/core/resource"
)

func TestLendable(t *testing.T) {
	machine := resource.Vector{resource.CPU: 96_000, resource.Memory: 768 * resource.GiB, resource.GPU: 8000}
	guard := resource.Vector{resource.CPU: 8_000, resource.Memory: 64 * resource.GiB}
	cases := map[string]struct {
		of   SpareMachine
		want resource.Vector
	}{
		"without a guard all is lent that GPU pods do not ask for": {
			SpareMachine{Allocatable: machine, GPUPods: resource.Vector{resource.CPU: 16_000, resource.GPU: 1000}},
			resource.Vector{resource.CPU: 80_000, resource.Memory: 768 * resource.GiB},
		},
		"idle GPUs keep their part": {
			SpareMachine{Allocatable: machine, PerGPU: guard},
			resource.Vector{resource.CPU: 32_000, resource.Memory: 256 * resource.GiB},
		},
		"GPU pods that ask for less than their part keep it all the same": {
			SpareMachine{Allocatable: machine, PerGPU: guard, GPUPods: resource.Vector{resource.CPU: 1000, resource.GPU: 8000}},
			resource.Vector{resource.CPU: 32_000, resource.Memory: 256 * resource.GiB},
		},
		"GPU pods that ask for more than their part are not lent from": {
			SpareMachine{Allocatable: machine, PerGPU: guard, GPUPods: resource.Vector{resource.CPU: 30_000, resource.GPU: 1000}},
			resource.Vector{resource.CPU: 10_000, resource.Memory: 256 * resource.GiB},
		},
		"a guard beyond the machine lends nothing": {
			SpareMachine{Allocatable: machine, PerGPU: resource.Vector{resource.CPU: 64_000, resource.Memory: 960 * resource.GiB}},
			resource.Vector{},
		},
		"parts of a GPU are kept for in part": {
			SpareMachine{Allocatable: resource.Vector{resource.CPU: 4000, resource.GPU: 1500}, PerGPU: resource.Vector{resource.CPU: 1001}},
			resource.Vector{resource.CPU: 4000 - 1502},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got := tc.of.Lendable(); got != tc.want {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}

func FuzzLendable(f *testing.F) {
	f.Add(int64(96_000), int64(8000), int64(8_000), int64(30_000), int64(1000))
	f.Fuzz(func(t *testing.T, cpu, gpus, perGPU, asked, used int64) {
		bound := func(v, most int64) int64 { return ((v % most) + most) % most }
		cpu, gpus, perGPU = bound(cpu, 1<<30), bound(gpus, 1<<20), bound(perGPU, 1<<30)
		asked, used = bound(asked, 1<<30), bound(used, 1<<20)
		m := SpareMachine{
			Allocatable: resource.Vector{resource.CPU: cpu, resource.GPU: gpus},
			PerGPU:      resource.Vector{resource.CPU: perGPU},
			GPUPods:     resource.Vector{resource.CPU: asked, resource.GPU: used},
		}
		lent := m.Lendable()[resource.CPU]
		switch {
		case lent < 0 || lent > cpu:
			t.Fatalf("%+v lends %d", m, lent)
		case lent > 0 && lent+asked > cpu:
			t.Fatalf("%+v lends %d of what GPU pods hold", m, lent)
		case lent > 0 && used+1000 <= gpus && lent+asked+perGPU > cpu:
			t.Fatalf("%+v lends %d, and the next GPU's pod has no room", m, lent)
		}
	})
}
