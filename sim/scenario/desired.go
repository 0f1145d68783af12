package scenario

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/robfig/cron/v3"

	"github.com/neap-dev/neap/core/machine"
	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/core/workload"
)

// A State is what should be in the fleet at one moment.
type State struct {
	At       time.Time
	Machines map[string]int // by pool; serverless pools have none
	Modules  map[workload.Key]ModuleState
	Types    map[string]machine.Type // by name, as priced then
	Sick     map[MachineGPU]string   // GPUs that are sick, and why
	Plans    []*Repack               // made so far

	// Why names the event that last set a subject, where one did: a pool's name,
	// a module's key or a machine type's name.
	Why map[string]string
}

// A ModuleState is what should be of one module.
type ModuleState struct {
	Spec     *Module // the version in force
	Version  int     // 1 and up
	Replicas int     // 0 for batch and cron

	// Requests and Limits are the spec's, unless the running pods were resized.
	Requests, Limits resource.Vector
}

// machines returns how many machines a pool has by time of day, and without steps.
func (p *Pool) machines() ([]CountStep, int) {
	if p.Elastic != nil {
		return p.Elastic.Schedule, p.Elastic.Count
	}
	return p.Schedule, p.Count
}

// first is what a module with a policy begins with, as if the policy had played
// before: what its load at the scenario's start takes.
func (s *Scenario) first(m *Module) int {
	e := m.Elastic
	n := 0.0
	if rps, ok := s.Requests(m, s.Start); ok {
		n = math.Ceil(rps / (e.PerReplica * float64(e.TargetPerMil) / 1000))
	}
	return int(min(max(n, float64(e.Min)), float64(e.Max)))
}

// Desired returns what should be in the fleet at t: schedules by time of day,
// and events, which hold until their schedule's next step. The replicas of a
// module with a policy are those that it begins with.
func Desired(s *Scenario, t time.Time) State {
	d := State{
		At: t, Machines: map[string]int{}, Modules: map[workload.Key]ModuleState{},
		Types: map[string]machine.Type{}, Sick: map[MachineGPU]string{}, Why: map[string]string{},
	}
	for _, mt := range s.MachineTypes {
		d.Types[mt.Name] = mt
	}
	since := map[string]time.Time{} // when the schedule of a subject last stepped
	for i := range s.Pools {
		p := &s.Pools[i]
		if p.Kind == Serverless {
			continue
		}
		steps, count := p.machines()
		d.Machines[p.Name] = CountAt(steps, count, t, s.Location)
		since[p.Name] = stepBefore(steps, t, s.Location)
	}
	for i := range s.Modules {
		m := &s.Modules[i]
		replicas := CountAt(m.Schedule, m.Replicas, t, s.Location)
		if m.Elastic.Acts() {
			replicas = s.first(m)
		}
		d.Modules[m.Key()] = ModuleState{
			Spec: m, Version: 1, Replicas: replicas,
			Requests: m.Requests, Limits: m.Limits,
		}
		since[m.Key().String()] = stepBefore(m.Schedule, t, s.Location)
	}
	// An event says why only until the schedule's next step says otherwise.
	because := func(subject string, e *Event) {
		if !e.At.Before(since[subject]) {
			d.Why[subject] = e.Reason
		}
	}
	for i := range s.Events { // by time
		e := &s.Events[i]
		if e.At.After(t) {
			break
		}
		switch {
		case e.Scale != nil:
			if k := e.Scale.Module; !e.At.Before(since[k.String()]) && !d.Modules[k].Spec.Elastic.Acts() {
				m := d.Modules[k]
				m.Replicas = e.Scale.Replicas
				d.Modules[k] = m
				because(k.String(), e)
			}
		case e.Resize != nil:
			k := e.Resize.Module
			m := d.Modules[k]
			m.Requests, m.Limits = e.Resize.Requests, e.Resize.Limits
			d.Modules[k] = m
			because(k.String(), e)
		case e.Deploy != nil:
			k := e.Deploy.Module
			m := d.Modules[k]
			m.Spec, m.Requests, m.Limits = &e.Deploy.Spec, e.Deploy.Spec.Requests, e.Deploy.Spec.Limits
			m.Version++
			d.Modules[k] = m
			because(k.String(), e)
		case e.Machines != nil:
			if !e.At.Before(since[e.Machines.Pool]) && s.Pool(e.Machines.Pool).Elastic == nil {
				d.Machines[e.Machines.Pool] = e.Machines.Count
				because(e.Machines.Pool, e)
			}
		case e.Price != nil:
			d.Types[e.Price.Type.Name] = e.Price.Type
			because(e.Price.Type.Name, e)
		case e.Sick != nil:
			if t.Before(e.Sick.Until) {
				d.Sick[e.Sick.GPU] = e.Sick.Why
			}
		case e.Repack != nil:
			d.Plans = append(d.Plans, e.Repack)
			d.Why[e.Repack.Name] = e.Reason
		}
	}
	return d
}

// midnights returns local midnight of the days around t.
func midnights(t time.Time, in *time.Location) [3]time.Time {
	y, m, d := t.In(in).Date()
	var out [3]time.Time
	for i := range out {
		out[i] = time.Date(y, m, d-1+i, 0, 0, 0, 0, in)
	}
	return out
}

// stepBefore returns the last step up to t; the zero time if there are no steps.
func stepBefore(steps []CountStep, t time.Time, in *time.Location) time.Time {
	var last time.Time
	for _, day := range midnights(t, in) {
		for _, s := range steps {
			if at := day.Add(s.At); !at.After(t) {
				last = at
			}
		}
	}
	return last
}

// stepAfter returns the first step after t; the zero time if there are no steps.
func stepAfter(steps []CountStep, t time.Time, in *time.Location) time.Time {
	for _, day := range midnights(t, in) {
		for _, s := range steps {
			if at := day.Add(s.At); at.After(t) {
				return at
			}
		}
	}
	return time.Time{}
}

// A Calendar knows when the jobs of a scenario start and when anything changes.
type Calendar struct {
	s     *Scenario
	crons map[workload.Key]cron.Schedule
}

// NewCalendar returns the calendar of a scenario.
func NewCalendar(s *Scenario) (*Calendar, error) {
	c := &Calendar{s: s, crons: map[workload.Key]cron.Schedule{}}
	for i := range s.Modules {
		m := &s.Modules[i]
		if m.Work == nil || m.Work.Cron == "" {
			continue
		}
		sched, err := cron.ParseStandard(m.Work.Cron)
		if err != nil {
			return nil, fmt.Errorf("schedule of %s: %w", m.Key(), err)
		}
		c.crons[m.Key()] = sched
	}
	return c, nil
}

// Next returns the first start of a job of m after t; the zero time if there is none.
func (c *Calendar) Next(m *Module, t time.Time) time.Time {
	if m.Work == nil {
		return time.Time{}
	}
	if sched, ok := c.crons[m.Key()]; ok {
		return sched.Next(t.In(c.s.Location))
	}
	steps := m.Work.Jobs
	if len(steps) == 0 {
		return time.Time{}
	}
	// The stretches between two steps, from the one that t is in on.
	from := stepBefore(steps, t, c.s.Location)
	for range len(steps) + 1 {
		to := stepAfter(steps, from, c.s.Location)
		if n := CountAt(steps, 0, from, c.s.Location); n > 0 {
			gap := to.Sub(from) / time.Duration(n)
			k := time.Duration(0)
			if !t.Before(from) {
				k = t.Sub(from)/gap + 1
			}
			if k < time.Duration(n) {
				return from.Add(k * gap)
			}
		}
		from = to
	}
	return time.Time{}
}

// A JobStart is the start of a job.
type JobStart struct {
	At     time.Time
	Module workload.Key
}

// Starts returns the jobs that start in (from, to], in order of time.
func (c *Calendar) Starts(from, to time.Time) []JobStart {
	var out []JobStart
	for i := range c.s.Modules {
		m := &c.s.Modules[i]
		for t := c.Next(m, from); !t.IsZero() && !t.After(to); t = c.Next(m, t) {
			out = append(out, JobStart{t, m.Key()})
		}
	}
	slices.SortStableFunc(out, func(a, b JobStart) int { return a.At.Compare(b.At) })
	return out
}

// After returns the first moment after t at which something changes or a job
// starts; at most an hour later.
func (c *Calendar) After(t time.Time) time.Time {
	first := t.Add(time.Hour)
	sooner := func(at time.Time) {
		if !at.IsZero() && at.After(t) && at.Before(first) {
			first = at
		}
	}
	for i := range c.s.Pools {
		steps, _ := c.s.Pools[i].machines()
		sooner(stepAfter(steps, t, c.s.Location))
	}
	for i := range c.s.Modules {
		sooner(stepAfter(c.s.Modules[i].Schedule, t, c.s.Location))
		sooner(c.Next(&c.s.Modules[i], t))
	}
	for i := range c.s.Events {
		sooner(c.s.Events[i].At)
		if s := c.s.Events[i].Sick; s != nil {
			sooner(s.Until)
		}
	}
	return first
}
