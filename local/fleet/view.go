package fleet

import (
	"maps"
	"slices"
	"time"

	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/core/workload"
	"github.com/neap-dev/neap/sim/world"
)

// A View is what the fleet did in the last step. It is for showing; the bill
// takes the exported metrics.
type View struct {
	At       time.Time
	Pods     map[string]resource.Vector // use, by UID
	Machines map[string]resource.Vector // use, by name
	Modules  map[workload.Key]ModuleView
}

// A ModuleView is what one module did in the last step.
type ModuleView struct {
	RequestsPerSecond float64
	Success           float64
	P99               time.Duration
	Ready             []world.PoolCount
}

func (v *View) take(f *world.Frame) {
	v.At = f.To
	v.Pods = make(map[string]resource.Vector, len(f.Pods))
	for i := range f.Pods {
		if p := &f.Pods[i]; !p.Gone {
			v.Pods[p.Pod.ID] = p.Use
		}
	}
	v.Machines = make(map[string]resource.Vector, len(f.Machines))
	for i := range f.Machines {
		v.Machines[f.Machines[i].Machine.Name] = f.Machines[i].Use
	}
	v.Modules = make(map[workload.Key]ModuleView, len(f.Modules))
	for i := range f.Modules {
		m := &f.Modules[i]
		v.Modules[m.Module] = ModuleView{RequestsPerSecond: m.Load, Success: m.Success, P99: m.P99, Ready: slices.Clone(m.Ready)}
	}
}

// View returns what the fleet did in the last step. The caller may keep it.
func (f *Fleet) View() View {
	f.mu.Lock()
	defer f.mu.Unlock()
	v := f.view // its maps are made anew in every step and never changed after
	v.Modules = maps.Clone(v.Modules)
	return v
}
