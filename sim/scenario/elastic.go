package scenario

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/neap-dev/neap/core/resource"
)

// An Elastic is a module's policy: how many replicas it has from minute to
// minute, and in which pools. While it acts, the module's own replicas,
// schedule and pools and the events that scale it are left out: one knob has one
// owner. The fields mean what those of an ElasticPolicy of the same name mean.
type Elastic struct {
	Mode     string // Observe, Preview or Auto
	Min, Max int

	PerReplica   float64 // requests a second that one replica carries when fully used
	TargetPerMil int64   // thousandths of PerReplica that a replica should be given

	Manual    []ElasticManual
	Cron      []ElasticWindow
	Timetable *ElasticTimetable // nil: no classes
	Forecast  *ElasticForecast  // nil: no forecast
	Reactive  ElasticReactive
	Pools     []ElasticPool // the first filled first and left last; never empty
	ScaleIn   ElasticScaleIn
	Headroom  *ElasticHeadroom // nil: none
}

// An ElasticManual is what a person decided. Exactly one of the pointers is set.
type ElasticManual struct {
	Name            string
	Pin, Floor, Cap *int
	From, Until     time.Time // zero: without end
	Reason, By      string
}

// An ElasticWindow is a stretch of time that comes again. Exactly one of the
// pointers is set.
type ElasticWindow struct {
	Name       string
	Start      time.Duration // since local midnight
	Duration   time.Duration
	Ramp       time.Duration
	Days       []string // Monday … Sunday, Workday, Weekend, Holiday, MakeUp; empty: all
	Except     []string // dates such as 2026-10-01
	Floor, Cap *int
}

// An ElasticTimetable makes a module ready for the classes of timetables.
type ElasticTimetable struct {
	Names        []string
	PerSeat      float64 // requests a second of one attending student
	ReleaseAfter time.Duration
}

// An ElasticForecast makes a module ready for the load that its past foretells.
type ElasticForecast struct {
	HistoryDays int
	UnderCost   float64
	MaxLift     float64
}

// An ElasticReactive follows the load.
type ElasticReactive struct {
	UpPerMil, DownPerMil int64 // tolerance, thousandths
	Stabilization        time.Duration
	PanicPerMil          int64 // thousandths of what the ready replicas carry
}

// An ElasticPool is a pool that replicas may be in.
type ElasticPool struct {
	Name string
	Min  int
	Max  int // 0: the pool's own limit
}

// An ElasticScaleIn says how replicas are taken away.
type ElasticScaleIn struct {
	Watch              time.Duration
	StepPerMil         int64 // thousandths of the replicas that go at once
	HoldIfNeededWithin time.Duration
	Return             bool
}

// An ElasticHeadroom is room on owned machines kept free ahead of need.
type ElasticHeadroom struct {
	PerMil int64 // thousandths of the replicas desired at the horizon
	Max    int   // 0: no bound
}

// A Timetable holds classes.
type Timetable struct {
	Name, Namespace string
	Sessions        []Session // by start, then id
}

// A Session is one meeting of a course.
type Session struct {
	ID, Course, Room string
	Start            time.Time
	Length           time.Duration
	Enrolled         int
	Modules          []string // empty: every module that names the timetable
}

// A CalendarDay is a day that is not what its weekday says.
type CalendarDay struct {
	Date    string // such as 2026-10-01
	Holiday bool   // else a weekend day that is worked to make up for one
	Name    string
}

// Acts reports whether the policy sets replicas; others only watch, and leave the
// module to its own replicas, schedule and pools. A nil policy does not act.
func (e *Elastic) Acts() bool { return e != nil && e.Mode == "Auto" }

// Places returns the pools that the module's pods may run in, most wanted first:
// those of a policy that acts, or without one its own.
func (m *Module) Places() []string {
	if !m.Elastic.Acts() {
		return m.Pools
	}
	names := make([]string, len(m.Elastic.Pools))
	for i, p := range m.Elastic.Pools {
		names[i] = p.Name
	}
	return names
}

// Elastic reports whether a module of the scenario has a policy.
func (s *Scenario) Elastic() bool {
	return slices.ContainsFunc(s.Modules, func(m Module) bool { return m.Elastic != nil })
}

// Scheduled returns the scenario without its policies: modules have the replicas
// and schedules, and pools the machines, that are written for the day without.
func (s *Scenario) Scheduled() *Scenario {
	plain := *s
	plain.Modules = slices.Clone(s.Modules)
	for i := range plain.Modules {
		plain.Modules[i].Elastic = nil
	}
	plain.Pools = slices.Clone(s.Pools)
	for i := range plain.Pools {
		plain.Pools[i].Elastic = nil
	}
	plain.Events = slices.Clone(s.Events)
	for i := range plain.Events {
		if d := plain.Events[i].Deploy; d != nil {
			c := *d
			c.Spec.Elastic = nil
			plain.Events[i].Deploy = &c
		}
	}
	return &plain
}

// Later returns the policy with what people decided moved by shift.
func (e *Elastic) Later(shift time.Duration) *Elastic {
	c := *e
	c.Manual = slices.Clone(e.Manual)
	for i := range c.Manual {
		for _, t := range []*time.Time{&c.Manual[i].From, &c.Manual[i].Until} {
			if !t.IsZero() {
				*t = t.Add(shift)
			}
		}
	}
	return &c
}

// elastic reads a module's policy. What a class says stays unless the module
// says otherwise.
func (d *draft) elastic(r *reading) func(*yaml.Node, string) {
	return func(n *yaml.Node, field string) {
		if b := target(n); b.Kind == yaml.ScalarNode {
			on := true
			into(r.decoder, &on, parseBool)(n, field)
			if on {
				r.fail(n, field, "here must be the fields of a policy such as {max: 40}, or false")
			}
			d.m.Elastic = nil
			return
		}
		e := d.m.Elastic
		if e == nil {
			e = &Elastic{
				Mode: "Auto", Min: 1, TargetPerMil: 600,
				Reactive: ElasticReactive{UpPerMil: 50, DownPerMil: 100, Stabilization: 5 * time.Minute, PanicPerMil: 2000},
				ScaleIn:  ElasticScaleIn{StepPerMil: 1000, HoldIfNeededWithin: 10 * time.Minute, Return: true},
			}
			d.m.Elastic = e
		}
		seen := r.mapping(n, field, table{
			"mode":               into(r.decoder, &e.Mode, oneOf("Observe", "Preview", "Auto")),
			"min":                into(r.decoder, &e.Min, whole(0, 20000)),
			"max":                into(r.decoder, &e.Max, whole(1, 20000)),
			"requestsPerReplica": into(r.decoder, &e.PerReplica, number(1e-6, 1e9)),
			"target":             into(r.decoder, &e.TargetPerMil, share(1000)),
			"manual": func(n *yaml.Node, field string) {
				e.Manual = nil
				r.list(n, field, func(n *yaml.Node, field string) { r.manual(e, n, field) })
			},
			"cron": func(n *yaml.Node, field string) {
				e.Cron = nil
				r.list(n, field, func(n *yaml.Node, field string) { r.window(e, n, field) })
			},
			"timetable": func(n *yaml.Node, field string) {
				e.Timetable = &ElasticTimetable{PerSeat: 1, ReleaseAfter: 15 * time.Minute}
				seen := r.mapping(n, field, table{
					"names":        r.names(&e.Timetable.Names),
					"perSeat":      into(r.decoder, &e.Timetable.PerSeat, number(1e-6, 1e9)),
					"releaseAfter": into(r.decoder, &e.Timetable.ReleaseAfter, positive),
				})
				if seen["names"] == nil {
					r.fail(n, at(field, "names"), "missing; name timetables of the scenario")
				}
			},
			"forecast": func(n *yaml.Node, field string) {
				e.Forecast = &ElasticForecast{HistoryDays: 15, UnderCost: 10, MaxLift: 3}
				r.mapping(n, field, table{
					"historyDays": into(r.decoder, &e.Forecast.HistoryDays, whole(2, 60)),
					"underCost":   into(r.decoder, &e.Forecast.UnderCost, number(0.01, 1e6)),
					"maxLift":     into(r.decoder, &e.Forecast.MaxLift, number(1, 1000)),
				})
			},
			"reactive": func(n *yaml.Node, field string) {
				r.mapping(n, field, table{
					"tolerance": func(n *yaml.Node, field string) {
						r.mapping(n, field, table{
							"up":   into(r.decoder, &e.Reactive.UpPerMil, share(1000)),
							"down": into(r.decoder, &e.Reactive.DownPerMil, share(1000)),
						})
					},
					"stabilization": into(r.decoder, &e.Reactive.Stabilization, positive),
					"panic":         into(r.decoder, &e.Reactive.PanicPerMil, percents),
				})
			},
			"pools": func(n *yaml.Node, field string) {
				e.Pools = nil
				r.list(n, field, func(n *yaml.Node, field string) { r.elasticPool(e, n, field) })
			},
			"scaleIn": func(n *yaml.Node, field string) {
				r.mapping(n, field, table{
					"watch":              into(r.decoder, &e.ScaleIn.Watch, positive),
					"step":               into(r.decoder, &e.ScaleIn.StepPerMil, share(1000)),
					"holdIfNeededWithin": into(r.decoder, &e.ScaleIn.HoldIfNeededWithin, positive),
					"return":             into(r.decoder, &e.ScaleIn.Return, parseBool),
				})
			},
			"headroom": func(n *yaml.Node, field string) {
				e.Headroom = &ElasticHeadroom{PerMil: 100}
				r.mapping(n, field, table{
					"percent": into(r.decoder, &e.Headroom.PerMil, share(1000)),
					"max":     into(r.decoder, &e.Headroom.Max, whole(0, 20000)),
				})
			},
		})
		if t := seen["target"]; t != nil && e.TargetPerMil == 0 {
			r.fail(t, at(field, "target"), "at 0 no number of replicas is enough; write a share such as 60%%")
		}
		for name, f := range seen {
			d.nodes["elastic."+name] = f
		}
	}
}

// percents reads "200%" as thousandths; unlike a share it may be above 100 %.
func percents(s string) (int64, error) {
	t, ok := strings.CutSuffix(s, "%")
	v, err := number(100, 10000)(t)
	if !ok || err != nil {
		return 0, fmt.Errorf("%q is not a percentage from 100%% to 10000%%, such as 200%%", s)
	}
	return int64(math.Round(v * 10)), nil
}

func oneOf(names ...string) func(string) (string, error) {
	return func(s string) (string, error) {
		if !slices.Contains(names, s) {
			return "", fmt.Errorf("%q is not one of %s", s, strings.Join(names, ", "))
		}
		return s, nil
	}
}

func (r *reading) names(to *[]string) func(*yaml.Node, string) {
	return func(n *yaml.Node, field string) {
		*to = nil
		r.list(n, field, func(n *yaml.Node, field string) {
			var s string
			into(r.decoder, &s, parseLabel)(n, field)
			if s != "" {
				*to = append(*to, s)
			}
		})
	}
}

// optional reads a whole number into a pointer.
func (r *reading) optional(to **int) func(*yaml.Node, string) {
	return func(n *yaml.Node, field string) {
		v := 0
		before := len(r.errs)
		into(r.decoder, &v, whole(0, 20000))(n, field)
		if len(r.errs) == before {
			*to = &v
		}
	}
}

// moment reads a time after the start such as 20h15m, or a date and time.
func (r *reading) moment(to *time.Time) func(*yaml.Node, string) {
	return func(n *yaml.Node, field string) {
		s, ok := r.text(n, field)
		if !ok {
			return
		}
		if d, err := time.ParseDuration(s); err == nil {
			*to = r.s.Start.Add(d)
		} else if *to, err = r.parseStart(s); err != nil {
			r.fail(n, field, "%q is neither a time after the start such as 20h15m, nor a date and time", s)
		}
	}
}

func (r *reading) manual(e *Elastic, n *yaml.Node, field string) {
	var m ElasticManual
	seen := r.mapping(n, field, table{
		"name": into(r.decoder, &m.Name, parseLabel), "reason": into(r.decoder, &m.Reason, parseText), "by": into(r.decoder, &m.By, parseText),
		"pin": r.optional(&m.Pin), "floor": r.optional(&m.Floor), "cap": r.optional(&m.Cap),
		"from": r.moment(&m.From), "until": r.moment(&m.Until),
	})
	for _, need := range []string{"name", "reason"} {
		if seen[need] == nil {
			r.fail(n, at(field, need), "missing; a manual layer needs it")
		}
	}
	if count(seen, "pin", "floor", "cap") != 1 {
		r.fail(n, field, "give exactly one of pin, floor and cap")
	}
	if !m.Until.IsZero() && !m.From.Before(m.Until) {
		r.fail(seen["until"], at(field, "until"), "it must be after from")
	}
	if slices.ContainsFunc(e.Manual, func(o ElasticManual) bool { return o.Name == m.Name }) {
		r.fail(n, at(field, "name"), "there are two layers called %s; give one another name", m.Name)
	}
	e.Manual = append(e.Manual, m)
}

// dayKinds are what a window's days may be.
var dayKinds = []string{"Workday", "Weekend", "Holiday", "MakeUp", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"}

func (r *reading) days(to *[]string, kinds []string) func(*yaml.Node, string) {
	return func(n *yaml.Node, field string) {
		*to = nil
		r.list(n, field, func(n *yaml.Node, field string) {
			s, ok := r.text(n, field)
			switch {
			case !ok:
			case !slices.Contains(kinds, s):
				r.fail(n, field, "%q is no kind of day; %s", s, hint(s, kinds))
			case slices.Contains(*to, s):
				r.fail(n, field, "%s is named twice; remove one", s)
			default:
				*to = append(*to, s)
			}
		})
	}
}

func parseDate(s string) (string, error) {
	if t, err := time.Parse(time.DateOnly, s); err != nil || t.Format(time.DateOnly) != s {
		return "", fmt.Errorf("%q is not a date such as 2026-10-01", s)
	}
	return s, nil
}

func (r *reading) window(e *Elastic, n *yaml.Node, field string) {
	var w ElasticWindow
	seen := r.mapping(n, field, table{
		"name":     into(r.decoder, &w.Name, parseLabel),
		"start":    into(r.decoder, &w.Start, parseTimeOfDay),
		"duration": into(r.decoder, &w.Duration, positive),
		"ramp":     into(r.decoder, &w.Ramp, positive),
		"days":     r.days(&w.Days, dayKinds),
		"except": func(n *yaml.Node, field string) {
			r.list(n, field, func(n *yaml.Node, field string) {
				var s string
				into(r.decoder, &s, parseDate)(n, field)
				w.Except = append(w.Except, s)
			})
		},
		"floor": r.optional(&w.Floor), "cap": r.optional(&w.Cap),
	})
	for _, need := range []string{"name", "start", "duration"} {
		if seen[need] == nil {
			r.fail(n, at(field, need), "missing; a window needs it")
		}
	}
	if count(seen, "floor", "cap") != 1 {
		r.fail(n, field, "give exactly one of floor and cap")
	}
	if v := seen["duration"]; v != nil && (w.Duration <= 0 || w.Duration > 7*24*time.Hour) {
		r.fail(v, at(field, "duration"), "it must be above 0 and at most 168h")
	}
	if v := seen["ramp"]; v != nil && w.Duration > 0 && w.Ramp >= w.Duration {
		r.fail(v, at(field, "ramp"), "it must be shorter than the duration")
	}
	if slices.ContainsFunc(e.Cron, func(o ElasticWindow) bool { return o.Name == w.Name }) {
		r.fail(n, at(field, "name"), "there are two windows called %s; give one another name", w.Name)
	}
	e.Cron = append(e.Cron, w)
}

func count(seen map[string]*yaml.Node, names ...string) int {
	n := 0
	for _, name := range names {
		if seen[name] != nil {
			n++
		}
	}
	return n
}

// elasticPool reads a pool's name, or {name: pods, max: 20}.
func (r *reading) elasticPool(e *Elastic, n *yaml.Node, field string) {
	var p ElasticPool
	if target(n).Kind == yaml.ScalarNode {
		into(r.decoder, &p.Name, parseLabel)(n, field)
	} else {
		seen := r.mapping(n, field, table{
			"name": into(r.decoder, &p.Name, parseLabel),
			"min":  into(r.decoder, &p.Min, whole(0, 20000)),
			"max":  into(r.decoder, &p.Max, whole(1, 20000)),
		})
		if seen["name"] == nil {
			r.fail(n, at(field, "name"), "missing; name a pool of the scenario")
		}
		if p.Max > 0 && p.Min > p.Max {
			r.fail(seen["min"], at(field, "min"), "it is above max")
		}
	}
	switch {
	case p.Name == "":
		return
	case r.s.Pool(p.Name) == nil:
		var names []string
		for i := range r.s.Pools {
			names = append(names, r.s.Pools[i].Name)
		}
		r.fail(n, field, "there is no pool called %s; %s", p.Name, hint(p.Name, names))
		return
	case slices.ContainsFunc(e.Pools, func(o ElasticPool) bool { return o.Name == p.Name }):
		r.fail(n, field, "the pool %s is named twice; remove one", p.Name)
		return
	}
	e.Pools = append(e.Pools, p)
}

// finishElastic checks a module's policy and works out what it leaves open.
func (r *reading) finishElastic(d *draft, n *yaml.Node, field string) {
	m, e := d.m, d.m.Elastic
	if e == nil {
		return
	}
	where := func(name string) *yaml.Node {
		for _, k := range []string{"elastic." + name, "elastic"} {
			if v := d.nodes[k]; v != nil {
				return v
			}
		}
		return n
	}
	fail := func(name, format string, args ...any) {
		r.fail(where(name), at(field, at("elastic", name)), format, args...)
	}
	switch {
	case e.Max == 0:
		fail("max", "missing; how many replicas may there be at most?")
	case e.Min > e.Max:
		fail("min", "%d is above the max of %d", e.Min, e.Max)
	}
	if len(e.Pools) == 0 {
		for _, p := range m.Pools {
			e.Pools = append(e.Pools, ElasticPool{Name: p})
		}
	}
	for _, p := range e.Pools {
		pool := r.s.Pool(p.Name)
		switch t := r.types[pool.MachineType]; {
		case pool.Kind == Serverless && m.Requests[resource.GPU] > 0 && t.UnitList[resource.GPU] == 0:
			fail("pools", "the pool %s sells no GPUs, and the module requests one; leave it out", p.Name)
		case pool.Kind != Serverless && !pool.Allocatable.IsZero() && !m.Requests.Fits(pool.Allocatable):
			fail("pools", "no machine of the pool %s is large enough for one pod; leave it out", p.Name)
		}
	}
	if e.PerReplica == 0 {
		if len(e.Pools) > 0 {
			e.PerReplica = r.carries(m)
		}
		if e.PerReplica == 0 && m.Load != nil {
			fail("requestsPerReplica", "missing; nothing about a request says how many one replica carries")
		}
	}
	if t := e.Timetable; t != nil {
		r.later = append(r.later, func() {
			for _, name := range t.Names {
				if !slices.ContainsFunc(r.s.Timetables, func(x Timetable) bool { return x.Name == name && x.Namespace == m.Namespace }) {
					fail("timetable", "there is no timetable called %s in the namespace %s", name, m.Namespace)
				}
			}
		})
	}
}

// carries returns how many requests a second use all that one replica asks for,
// in the last of its policy's pools: where there is no more than was asked for.
func (r *reading) carries(m *Module) float64 {
	last := r.types[r.s.Pool(m.Elastic.Pools[len(m.Elastic.Pools)-1].Name).MachineType].Rating()
	rps := math.Inf(1)
	if c := m.Needs.CPUPerRequest.Seconds(); c > 0 {
		rps = min(rps, float64(m.Requests[resource.CPU]*last/1000-m.Needs.BaseCPU)/1000/c)
	}
	if g := m.Needs.GPUPerRequest.Seconds(); g > 0 {
		rps = min(rps, float64(m.Requests[resource.GPU])/1000/g)
	}
	if s := (m.Needs.ServiceTime + m.Needs.CPUPerRequest + m.Needs.GPUPerRequest).Seconds(); s > 0 && m.Needs.Concurrency > 0 {
		rps = min(rps, float64(m.Needs.Concurrency)/s)
	}
	if math.IsInf(rps, 0) || rps <= 0 {
		return 0
	}
	return math.Round(rps*1e6) / 1e6
}

// timetable reads classes: each once, or on days of the week.
func (r *reading) timetable(n *yaml.Node, field string) {
	var t Timetable
	seen := r.mapping(n, field, table{
		"name":      into(r.decoder, &t.Name, parseLabel),
		"namespace": into(r.decoder, &t.Namespace, parseLabel),
		"sessions": func(n *yaml.Node, field string) {
			r.list(n, field, func(n *yaml.Node, field string) { r.session(&t, n, field) })
		},
	})
	for _, need := range []string{"name", "namespace", "sessions"} {
		if seen[need] == nil {
			r.fail(n, at(field, need), "missing; a timetable needs it")
		}
	}
	if slices.ContainsFunc(r.s.Timetables, func(o Timetable) bool { return o.Name == t.Name && o.Namespace == t.Namespace }) {
		r.fail(n, at(field, "name"), "there are two timetables %s/%s; give one another name", t.Namespace, t.Name)
	}
	slices.SortStableFunc(t.Sessions, func(a, b Session) int {
		if c := a.Start.Compare(b.Start); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	r.s.Timetables = append(r.s.Timetables, t)
}

// Weekly classes are laid out from so long before the scenario's start, so that
// attendance can be learnt, until so long after its end.
const classesBefore, classesAfter = 21, 8 // days

func (r *reading) session(t *Timetable, n *yaml.Node, field string) {
	var s Session
	var start string
	var days []string
	minutes := 0
	seen := r.mapping(n, field, table{
		"course":   into(r.decoder, &s.Course, parseText),
		"room":     into(r.decoder, &s.Room, parseText),
		"start":    into(r.decoder, &start, parseText),
		"minutes":  into(r.decoder, &minutes, whole(1, 10080)),
		"enrolled": into(r.decoder, &s.Enrolled, whole(0, 10_000_000)),
		"days":     r.days(&days, dayKinds[4:]),
		"modules":  r.names(&s.Modules),
	})
	for _, need := range []string{"course", "start", "minutes", "enrolled"} {
		if seen[need] == nil {
			r.fail(n, at(field, need), "missing; a class needs it")
			return
		}
	}
	s.Length = time.Duration(minutes) * time.Minute
	add := func(at time.Time) {
		s.Start = at
		s.ID = strings.ToLower(s.Course) + "-" + at.UTC().Format("20060102T1504")
		t.Sessions = append(t.Sessions, s)
	}
	if seen["days"] == nil {
		var when time.Time
		r.moment(&when)(seen["start"], at(field, "start"))
		add(when)
		return
	}
	var clock time.Duration
	before := len(r.errs)
	into(r.decoder, &clock, parseTimeOfDay)(seen["start"], at(field, "start"))
	if len(r.errs) > before {
		return
	}
	y, mo, day := r.s.Start.In(r.s.Location).Date()
	for i := -classesBefore; i <= int(r.s.Length.Hours()/24)+classesAfter; i++ {
		h, m := int(clock.Hours()), int(clock.Minutes())%60
		if at := time.Date(y, mo, day+i, h, m, 0, 0, r.s.Location); slices.Contains(days, at.Weekday().String()) {
			add(at)
		}
	}
}

// calendarDay reads {date: 2026-10-01, kind: Holiday, name: National Day}.
func (r *reading) calendarDay(n *yaml.Node, field string) {
	var c CalendarDay
	var kind string
	seen := r.mapping(n, field, table{
		"date": into(r.decoder, &c.Date, parseDate),
		"kind": into(r.decoder, &kind, oneOf("Holiday", "MakeUp")),
		"name": into(r.decoder, &c.Name, parseText),
	})
	for _, need := range []string{"date", "kind"} {
		if seen[need] == nil {
			r.fail(n, at(field, need), "missing; a day needs it")
		}
	}
	if slices.ContainsFunc(r.s.Calendar, func(o CalendarDay) bool { return o.Date == c.Date }) {
		r.fail(n, at(field, "date"), "%s is given twice; remove one", c.Date)
	}
	c.Holiday = kind == "Holiday"
	r.s.Calendar = append(r.s.Calendar, c)
}
