package replay

import (
	"fmt"

	"github.com/neap-dev/neap/core/gpu"
	"github.com/neap-dev/neap/core/place"
	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/sim/scenario"
)

// sharing places pods on machines whose GPUs may be shared, as the scheduler's
// plugin does: core/gpu says which machine, and which of its GPUs.
type sharing struct {
	fleet    *gpu.Fleet
	machines []gpu.Machine // empty, as bought; without GPUs once given back
	names    []string
	index    map[string]int
	models   map[string]gpu.Model
	changed  bool // machines since the scorer was made
}

// A piece is what a pod has of a machine with GPUs to share.
type piece struct {
	demand gpu.Demand
	spot   gpu.Spot
}

func newSharing(s *scenario.Scenario) *sharing {
	h := &sharing{index: map[string]int{}, models: map[string]gpu.Model{}}
	for i := range s.Pools {
		if m := s.Pools[i].GPUModel; m != "" {
			if _, ok := h.models[m]; !ok {
				h.models[m] = gpu.Model(len(h.models) + 1)
			}
		}
	}
	h.fleet = gpu.NewFleet(nil, gpu.NewNeap(nil, nil, 0))
	return h
}

func (h *sharing) add(name string, p *scenario.Pool) {
	if p.GPUModel == "" {
		return
	}
	m := gpu.Machine{
		CPU: p.Allocatable[resource.CPU], Memory: p.Allocatable[resource.Memory], GPUs: int(p.Capacity[resource.GPU] / gpu.Whole),
	}
	for k := range m.GPUs {
		m.Model[k], m.Idle[k], m.IdleMemory[k] = h.models[p.GPUModel], gpu.Whole, int32(p.GPUMemory)
	}
	h.index[name] = h.fleet.Add(m)
	h.machines, h.names, h.changed = append(h.machines, m), append(h.names, name), true
}

func (h *sharing) drop(name string) {
	i, ok := h.index[name]
	if !ok {
		return
	}
	h.machines[i], h.names[i], h.changed = gpu.Machine{}, "", true
	h.fleet.Set(i, gpu.Machine{})
	delete(h.index, name)
}

// demands returns what a pod of a module may have, one for each model that differs.
func (h *sharing) demands(m *scenario.Module, request resource.Vector) []gpu.Demand {
	base := gpu.Demand{CPU: request[resource.CPU], Memory: request[resource.Memory]}
	if m.GPU == nil {
		return []gpu.Demand{base}
	}
	base.Devices = m.GPU.Count
	with := func(a scenario.GPUAmount) gpu.Demand {
		d := base
		d.Milli, d.DeviceMemory = a.Milli, a.Memory
		return d
	}
	if len(m.GPU.Models) == 0 {
		return []gpu.Demand{with(m.GPU.GPUAmount)}
	}
	var out []gpu.Demand
	for _, n := range m.GPU.Models {
		model, there := h.models[n.Model]
		if !there {
			continue
		}
		d, known := with(n.GPUAmount), false
		for i := range out { // models of which the same is asked are one demand
			if o := out[i]; o.Milli == d.Milli && o.DeviceMemory == d.DeviceMemory {
				out[i].Models, known = o.Models.With(model), true
			}
		}
		if !known {
			d.Models = d.Models.With(model)
			out = append(out, d)
		}
	}
	return out
}

// shares are the demands of the services as they are wanted now.
func (r *run) shares() []gpu.Share {
	var out []gpu.Share
	for _, k := range r.keys {
		m := r.state.Modules[k]
		if d := r.sharing.demands(m.Spec, m.Requests); len(d) > 0 && m.Replicas > 0 {
			out = append(out, gpu.Share{Demand: d[0], Or: d[1:], Count: int64(m.Replicas)})
		}
	}
	return out
}

// bindPiece finds a machine and GPUs for a pod that needs pieces of them.
func (r *run) bindPiece(p *pod) bool {
	h := r.sharing
	if h.changed {
		h.fleet.Rescore(gpu.NewNeap(h.machines, r.shares(), 0))
		h.changed = false
	}
	var want place.Pod
	best := h.fleet.Best(h.demands(p.spec, p.request), 1, func(i int) bool {
		name := h.names[i]
		if name == "" {
			return false
		}
		want = place.Pod{Request: p.request, Owner: p.module.key.String(), Pools: p.spec.Places()}
		if p.spec.Alone {
			want.Alone = p.module.key.String()
		}
		return r.fleet.Fit(want, name) == place.Fits
	})
	if len(best) == 0 {
		return false
	}
	on := h.names[best[0].Spot.Machine]
	d := h.demands(p.spec, p.request)[best[0].Alternative]
	p.request[resource.GPU] = d.GPU() // another model may take more
	want.Request = p.request
	r.fleet.Bind(p.id, want, on)
	p.piece = &piece{d, best[0].Spot}
	r.bound(p, r.machines[on].pool.Name, on)
	return true
}

// hold books what a pod has of a machine with GPUs to share, which for most pods is
// CPU and memory.
func (r *run) hold(p *pod) {
	h := r.sharing
	i, ok := h.index[p.machine]
	if !ok {
		return
	}
	if p.piece == nil {
		p.piece = &piece{h.demands(p.spec, p.request)[0], gpu.Spot{Machine: i}}
	}
	if err := h.fleet.Record(p.piece.demand, p.piece.spot); err != nil {
		r.fail(fmt.Errorf("book %s on %s: %w", p.id, p.machine, err))
	}
}

// letGo gives back what a pod has of a machine with GPUs to share.
func (r *run) letGo(p *pod) {
	if p.piece == nil {
		return
	}
	if _, ok := r.sharing.index[p.machine]; ok {
		if err := r.sharing.fleet.Remove(p.piece.demand, p.piece.spot); err != nil {
			r.fail(fmt.Errorf("give back what %s has of %s: %w", p.id, p.machine, err))
		}
	}
	p.piece = nil
}
