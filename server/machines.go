package server

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/core/workload"
)

type machinesAnswer struct {
	At       time.Time     `json:"at"`
	Live     bool          `json:"live"` // false: means over the last closed hour
	Modules  []string      `json:"modules"`
	Machines []machineTile `json:"machines"`
	Guard    guard         `json:"guard"`
}

type machineTile struct {
	Name       string          `json:"name"`
	Pool       string          `json:"pool"`
	Type       string          `json:"type"`
	Domain     string          `json:"domain,omitempty"`
	Serverless bool            `json:"serverless,omitempty"`
	Closed     bool            `json:"closed,omitempty"`
	Capacity   resource.Vector `json:"capacity"`
	Pods       []podTile       `json:"pods"`
}

type podTile struct {
	Module   int             `json:"module"` // index into modules
	Name     string          `json:"name"`
	Request  resource.Vector `json:"request"`
	Use      resource.Vector `json:"use"`
	Waiting  bool            `json:"waiting,omitempty"` // not ready yet
	Headroom bool            `json:"headroom,omitempty"`
}

// machines answers /api/v1/machines: what runs where, now or in the last hour.
func (s *Server) machines(r *http.Request) (any, error) {
	ctx := r.Context()
	var fleet Fleet
	var err error
	if s.opts.Live != nil {
		if fleet, err = s.opts.Live.Fleet(ctx); err != nil {
			return nil, err
		}
	} else {
		w, err := s.window(r)
		if err != nil {
			return nil, err
		}
		if err := s.each(ctx, span{w.To.Add(-time.Hour), w.To}, func(_ int, f bill.Facts) { fleet = fleetOf(f) }); err != nil {
			return nil, err
		}
	}
	a := tiles(fleet)
	a.Live, a.Guard = s.opts.Live != nil, guardOf(nil)
	if w, err := s.window(r); err == nil {
		if a.Guard, err = s.guard(ctx, w); err != nil {
			return nil, err
		}
	} else if s.opts.Live == nil {
		return nil, err
	}
	return a, nil
}

// fleetOf is the mean of an hour in the shape of a moment.
func fleetOf(f bill.Facts) Fleet {
	fleet := Fleet{At: f.To}
	at := map[string]int{}
	for i := range f.Machines {
		m := &f.Machines[i]
		at[m.Name] = len(fleet.Machines)
		fm := FleetMachine{Name: m.Name, Pool: m.Pool, Type: m.Type, Serverless: m.Serverless, Capacity: mean(m.CapacitySeconds, m.To.Sub(m.From))}
		fm.Allocatable = fm.Capacity
		fleet.Machines = append(fleet.Machines, fm)
	}
	for i := range f.Pods {
		p := &f.Pods[i]
		j, ok := at[p.Machine]
		if !ok {
			continue
		}
		fleet.Machines[j].Pods = append(fleet.Machines[j].Pods, FleetPod{
			Namespace: p.Namespace, Name: p.Name, Module: p.Module, Ready: true, Headroom: p.IsHeadroom,
			Request: mean(p.RequestSeconds, p.To.Sub(p.From)), Use: mean(p.UseSeconds, p.To.Sub(p.From)),
		})
	}
	return fleet
}

// mean turns an integral of the facts into an amount of resources.
func mean(integral [resource.Kinds]int64, over time.Duration) resource.Vector {
	sec := over.Seconds()
	if sec <= 0 {
		return resource.Vector{}
	}
	var v resource.Vector
	for k := range v {
		v[k] = int64(float64(integral[k]) / sec)
	}
	v[resource.Memory] *= resource.MiB
	return v
}

func tiles(f Fleet) machinesAnswer {
	a := machinesAnswer{At: f.At.UTC(), Modules: []string{}, Machines: make([]machineTile, 0, len(f.Machines))}
	index := map[workload.Key]int{}
	var keys []workload.Key
	for i := range f.Machines {
		for j := range f.Machines[i].Pods {
			if k := f.Machines[i].Pods[j].Module; index[k] == 0 {
				index[k] = 1
				keys = append(keys, k)
			}
		}
	}
	slices.SortFunc(keys, workload.Key.Compare)
	for i, k := range keys {
		index[k] = i
		a.Modules = append(a.Modules, k.String())
	}
	for i := range f.Machines {
		m := &f.Machines[i]
		t := machineTile{Name: m.Name, Pool: m.Pool, Type: m.Type, Domain: m.Domain, Serverless: m.Serverless, Closed: m.Closed, Capacity: m.Capacity, Pods: make([]podTile, 0, len(m.Pods))}
		for j := range m.Pods {
			p := &m.Pods[j]
			t.Pods = append(t.Pods, podTile{Module: index[p.Module], Name: p.Name, Request: p.Request, Use: p.Use, Waiting: !p.Ready, Headroom: p.Headroom})
		}
		slices.SortFunc(t.Pods, func(a, b podTile) int {
			if a.Module != b.Module {
				return a.Module - b.Module
			}
			return strings.Compare(a.Name, b.Name)
		})
		a.Machines = append(a.Machines, t)
	}
	slices.SortFunc(a.Machines, func(a, b machineTile) int {
		if c := strings.Compare(a.Pool, b.Pool); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	return a
}
