package colocation

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/sim/autoscale"
	"github.com/neap-dev/neap/sim/replay"
	"github.com/neap-dev/neap/sim/scenario"
	"github.com/neap-dev/neap/sim/world"
)

// A Day is a scenario's machines without batch jobs, and how its services did.
type Day struct {
	Scenario string
	From, To time.Time // what counts
	Machines []*Machine
	// HoursMet and HoursBroken are of the services' quality.
	HoursMet, HoursBroken int
}

// Record replays a scenario for so many days to learn from and one that counts,
// and keeps what was used of every machine that was there all the time. Batch jobs
// have only what online pods leave of the machines, so that the services' quality
// is the replay's.
func Record(ctx context.Context, s *scenario.Scenario, learnDays int, progress func(at time.Time)) (*Day, error) {
	minutes := (learnDays + 1) * day
	from := s.Start
	machines := map[string]*Machine{}
	r, err := replay.Run(ctx, s, replay.Options{
		Until: time.Duration(minutes) * time.Minute, Progress: progress,
		Frame: func(f *world.Frame) {
			first, last := int(f.From.Sub(from)/time.Minute), int((f.To.Sub(from)+time.Minute-1)/time.Minute)
			for _, mf := range f.Machines {
				if mf.Machine.Serverless {
					continue
				}
				m := machines[mf.Machine.Name]
				if m == nil {
					m = &Machine{Name: mf.Machine.Name, From: from, Milli: float64(mf.Machine.Capacity[resource.CPU]), Test: learnDays * day, Unit: 1}
					m.Online = slices.Repeat([]float64{math.NaN()}, minutes)
					machines[m.Name] = m
				}
				for t := first; t < last && t < minutes; t++ {
					m.Online[t] = float64(mf.Use[resource.CPU])
				}
			}
		},
	})
	if err != nil {
		return nil, err
	}
	d := &Day{Scenario: s.Name, From: from.Add(time.Duration(learnDays) * day * time.Minute), To: r.To}
	for _, name := range slices.Sorted(maps.Keys(machines)) {
		m := machines[name]
		if slices.ContainsFunc(m.Online[m.Test:], func(v float64) bool { return !known(v) }) {
			continue // it was bought or given back on the day
		}
		m.Peak = autoscale.Percentile(m.Online, 0.999)
		d.Machines = append(d.Machines, m)
	}
	if len(d.Machines) == 0 {
		return nil, fmt.Errorf("scenario %s: no machine is there all day; batch needs machines, not only pods that are bought one by one", s.Name)
	}
	for _, m := range r.Modules {
		d.HoursMet += m.HoursMet
		d.HoursBroken += m.HoursBad
	}
	return d, nil
}
