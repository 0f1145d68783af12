package replay

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/core/elastic"
	"github.com/neap-dev/neap/core/forecast"
	"github.com/neap-dev/neap/core/money"
	"github.com/neap-dev/neap/core/place"
	"github.com/neap-dev/neap/core/quality"
	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/core/timetable"
	"github.com/neap-dev/neap/core/workload"
	"github.com/neap-dev/neap/sim/scenario"
)

// A Past is what was asked of the modules with policies in the days before the
// scenario's start, minute by minute: what their forecasts learn from. It is as
// simulated, or as recorded, as the day itself.
type Past map[workload.Key]forecast.Series

// Before returns the past of a scenario. Minutes that a recording does not have
// are not known.
func Before(s *scenario.Scenario) Past {
	past := Past{}
	for i := range s.Modules {
		m := &s.Modules[i]
		if m.Elastic == nil || (m.Elastic.Forecast == nil && m.Elastic.Timetable == nil) {
			continue
		}
		days := 15
		if f := m.Elastic.Forecast; f != nil {
			days = f.HistoryDays
		}
		begin := s.Start.Truncate(time.Minute).Add(-time.Duration(days) * 24 * time.Hour)
		out := forecast.Series{Start: begin, Step: time.Minute, Values: make([]float64, days*24*60)}
		for j := range out.Values {
			rps, known := s.Requests(m, begin.Add(time.Duration(j)*time.Minute+30*time.Second))
			if !known {
				rps = math.NaN()
			}
			out.Values[j] = rps
		}
		past[m.Key()] = out
	}
	return past
}

const (
	refit      = 24 * time.Hour  // between two fits of a forecast; it hears of every minute
	firstStart = 5 * time.Minute // a replica's start in a pool until one was seen there
	judged     = 5 * time.Minute // of which the guard judges the answers
)

// A scaler plays the policy of one module: what kube/controller/scaler does.
type scaler struct {
	m      *module
	spec   *scenario.Module
	policy elastic.Policy
	tau    float64

	series forecast.Series // what the forecast learns from
	model  *forecast.Model // nil until it is asked
	fitted time.Time       // when it learnt, for fitFor ahead
	fitFor time.Duration
	learnt int // values that it learnt from
	heard  int // values that it knows

	classes    timetable.Timetable
	attendance timetable.Attendance
	options    timetable.Options

	state     elastic.State
	requests  resource.Vector // of one replica
	desired   int
	plan      map[string]int // replicas that may be in a pool
	room      map[string]time.Time
	surge     int // replicas beyond desired, for the way back from serverless
	movingTo  string
	moveSince time.Time
	starts    map[string]*startTimes
	said      string

	load           float64  // of the last minute
	ready          int      // replicas that get load
	asked, seconds float64  // since the last decision
	answers        []answer // of the last minutes, oldest first
	result         Policy
}

// An answer is a module's counters at one moment.
type answer struct {
	at               time.Time
	requests, failed int64
	within           histogram
}

// A startTimes remembers how long the last replicas took to start.
type startTimes struct {
	ring [64]time.Duration
	n    int
}

func (s *startTimes) add(took time.Duration) {
	s.ring[s.n%len(s.ring)] = took
	s.n++
}

func (s *startTimes) p95() (time.Duration, bool) {
	if s == nil || s.n == 0 {
		return 0, false
	}
	n := min(s.n, len(s.ring))
	sorted := slices.Sorted(slices.Values(s.ring[:n]))
	return (sorted[min(n*95/100, n-1)] + time.Second - 1).Truncate(time.Second), true
}

// newScaler prepares the policy of a module.
func newScaler(s *scenario.Scenario, m *module, spec *scenario.Module, past forecast.Series, days elastic.Calendar) (*scaler, error) {
	e := spec.Elastic
	a := &scaler{m: m, spec: spec, requests: spec.Requests, series: past, plan: map[string]int{}, room: map[string]time.Time{}, starts: map[string]*startTimes{}, result: Policy{Winners: map[string]int{}}}
	a.policy = CorePolicy(s, spec, days)
	if err := a.policy.Validate(); err != nil {
		return nil, fmt.Errorf("policy of %s: %w", spec.Key(), err)
	}
	if e.Forecast != nil {
		a.tau = forecast.Newsvendor(e.Forecast.UnderCost, 1)
	}
	if t := e.Timetable; t != nil {
		a.options = timetable.Options{Module: spec.Name, Release: t.ReleaseAfter, Fill: float64(e.TargetPerMil) / 1000}
		var sessions []timetable.Session
		for _, name := range t.Names {
			for _, table := range s.Timetables {
				if table.Name != name || table.Namespace != spec.Namespace {
					continue
				}
				for _, c := range table.Sessions {
					if len(c.Modules) == 0 || slices.Contains(c.Modules, spec.Name) {
						sessions = append(sessions, timetable.Session{ID: c.ID, Course: c.Course, Room: c.Room, Start: c.Start, End: c.Start.Add(c.Length),
							Enrolled: c.Enrolled, Modules: []timetable.Need{{Module: spec.Name, Factor: t.PerSeat}}})
					}
				}
			}
		}
		a.classes = timetable.New(sessions)
		var counts []timetable.Count
		for i, v := range past.Values {
			if i%5 == 0 {
				counts = append(counts, timetable.Count{At: past.Start.Add(time.Duration(i) * past.Step), Demand: v})
			}
		}
		a.attendance = timetable.Learn(a.classes, spec.Name, counts)
	}
	return a, nil
}

// CorePolicy returns a module's policy as core/elastic has it.
func CorePolicy(s *scenario.Scenario, m *scenario.Module, days elastic.Calendar) elastic.Policy {
	e := m.Elastic
	p := elastic.Defaults(e.Min, e.Max)
	p.Unit, p.Carries = e.PerReplica*float64(e.TargetPerMil)/1000, e.PerReplica
	p.Calendar = days
	none := func(v *int) int {
		if v == nil {
			return elastic.None
		}
		return *v
	}
	for _, l := range e.Manual {
		p.Manual = append(p.Manual, elastic.ManualEntry{Name: l.Name, Pin: none(l.Pin), Floor: none(l.Floor), Cap: none(l.Cap), From: l.From, Until: l.Until, Reason: l.Reason, By: l.By})
	}
	for _, w := range e.Cron {
		c := elastic.Schedule{Name: w.Name, Zone: s.Location, Start: w.Start, Duration: w.Duration, Ramp: w.Ramp, Floor: none(w.Floor), Cap: none(w.Cap)}
		for _, d := range w.Days {
			if i := slices.Index(weekdays, d); i >= 0 {
				c.Weekdays = append(c.Weekdays, time.Weekday(i))
			} else {
				c.Days = append(c.Days, elastic.DayType(strings.ToLower(d)))
			}
		}
		for _, d := range w.Except {
			if t, err := time.Parse(time.DateOnly, d); err == nil {
				c.Except = append(c.Except, elastic.Date{Year: t.Year(), Month: t.Month(), Day: t.Day()})
			}
		}
		p.Schedules = append(p.Schedules, c)
	}
	p.Reactive.Tolerance = elastic.Tolerance{Up: float64(e.Reactive.UpPerMil) / 1000, Down: float64(e.Reactive.DownPerMil) / 1000}
	p.Reactive.Down.Stabilize = e.Reactive.Stabilization
	p.Reactive.PanicShare = float64(e.Reactive.PanicPerMil) / 1000
	if e.Forecast != nil {
		p.Forecast.MaxLift = e.Forecast.MaxLift
	}
	p.ScaleIn.Watch, p.ScaleIn.Step, p.ScaleIn.HoldIfNeededWithin = e.ScaleIn.Watch, float64(e.ScaleIn.StepPerMil)/1000, e.ScaleIn.HoldIfNeededWithin
	return p
}

var weekdays = []string{"Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"}

// calendarOf returns the scenario's calendar.
func calendarOf(s *scenario.Scenario) elastic.Calendar {
	days := timetable.Days{Named: map[timetable.Date]elastic.DayType{}}
	for _, c := range s.Calendar {
		if date, err := timetable.ParseDate(c.Date); err == nil { // the reader checked it
			days.Named[date] = elastic.MakeUp
			if c.Holiday {
				days.Named[date] = elastic.Holiday
			}
		}
	}
	return days
}

// startScalers prepares the policies.
func (r *run) startScalers() error {
	past := r.o.Past
	days := calendarOf(r.s)
	for _, k := range r.keys {
		spec := r.s.Module(k)
		if spec.Elastic == nil {
			continue
		}
		if past == nil {
			past = Before(r.s)
		}
		a, err := newScaler(r.s, r.modules[k], spec, past[k], days)
		if err != nil {
			return err
		}
		a.desired = r.state.Modules[k].Replicas
		r.modules[k].scaler = a
		r.scalers = append(r.scalers, a)
	}
	return nil
}

// scale decides for every policy, once a minute.
func (r *run) scale() {
	claims := map[string]resource.Vector{} // room of pools that pods on their way will take
	for _, a := range r.scalers {
		a.claim(claims, +1)
	}
	for _, a := range r.scalers {
		a.claim(claims, -1)
		r.decideReplicas(a, claims)
		a.claim(claims, +1)
	}
}

// claim adds what the module's pods on their way will take of pools, or takes it away.
func (a *scaler) claim(claims map[string]resource.Vector, sign int64) {
	for _, name := range a.spec.Places() {
		if n := a.plan[name] - a.m.in(name); n > 0 {
			v := claims[name]
			for k := range v {
				v[k] += sign * int64(n) * a.requests[k]
			}
			claims[name] = v
		}
	}
}

// in counts the pods of a module in a pool.
func (m *module) in(pool string) int {
	n := 0
	for _, p := range m.pods {
		if p.machine != "" && p.pool == pool {
			n++
		}
	}
	return n
}

func (r *run) decideReplicas(a *scaler, claims map[string]resource.Vector) {
	now := r.e.Now()
	key := a.m.key
	// 1. What was asked in the last minute, and how it was answered.
	demand := math.NaN()
	if a.seconds > 0 {
		demand = a.asked / a.seconds
	}
	a.asked, a.seconds, a.load = 0, 0, demand
	if a.series.Step > 0 {
		a.series.Values = append(a.series.Values, demand)
	}
	guard := a.judge(now)
	// 2. What will be asked until replicas asked for at the next decision are ready.
	horizon := r.horizon(a)
	var foretold elastic.Forecast
	if a.tau > 0 {
		foretold = r.foretell(a, now, horizon)
	}
	var class elastic.Class
	if a.spec.Elastic.Timetable != nil {
		class = a.attendance.Class(a.classes, now, horizon, a.options)
	}
	// 3. Decide.
	old := false
	a.ready = 0
	for _, p := range a.m.pods {
		if !p.readyAt.IsZero() && !p.cut {
			a.ready++
		}
		old = old || p.version != r.state.Modules[key].Version
	}
	d := elastic.Decide(elastic.Input{
		Policy: a.policy, Now: now, Current: a.desired, Ready: a.ready,
		Metrics: []elastic.Metric{{Name: "load", Total: demand, PerReplica: a.policy.Unit}},
		Class:   class, Forecast: foretold, Rollout: old, Guard: guard, State: a.state,
	})
	a.state = d.Next
	a.result.count(d.Winner, demand, float64(a.ready)*a.spec.Elastic.PerReplica)
	if !a.spec.Elastic.Acts() {
		r.say(a, d)
		return
	}
	// 4. Where.
	pools := r.poolsOf(a, claims)
	a.surge = r.moveBack(a, d, pools, old || guard != "" && guard != quality.Met)
	targets, unplaced := elastic.Spread(elastic.SpreadInput{Desired: d.Desired + a.surge, Need: horizon, Pools: pools})
	for _, t := range targets {
		a.plan[t.Name] = t.Planned
	}
	a.result.Unplaced = max(a.result.Unplaced, unplaced)
	// 5. Act, and say so.
	r.say(a, d)
	a.desired = d.Desired
	m := r.state.Modules[key]
	m.Replicas = a.desired + a.surge
	r.state.Modules[key] = m
	r.cutOff(a, d.CutOff)
	r.reconcile(a.m)
	r.retry() // those that wait may go elsewhere now
}

// A Foresight keeps what the forecasts of a scenario said, for replays of the same
// load: what is foretold depends on nothing that they decide but the horizon. The
// zero Foresight is empty and ready, and safe for concurrent use.
type Foresight struct {
	mu   sync.Mutex
	said map[foresaid]foretold
}

type foresaid struct {
	module  workload.Key
	at      int64
	horizon time.Duration
}

type foretold struct {
	elastic.Forecast
	skilled bool
}

// foretell asks the forecast of a module, in whole minutes.
func (r *run) foretell(a *scaler, now time.Time, horizon time.Duration) elastic.Forecast {
	horizon = (horizon + time.Minute - 1).Truncate(time.Minute)
	if a.fitted.IsZero() || now.Sub(a.fitted) >= refit {
		a.fitted, a.fitFor, a.learnt, a.model = now, horizon, len(a.series.Values), nil
	}
	key := foresaid{a.m.key, now.Unix(), horizon}
	if f := r.o.Foresight; f != nil {
		f.mu.Lock()
		said, ok := f.said[key]
		f.mu.Unlock()
		if ok {
			a.result.Skilled = said.skilled
			return said.Forecast
		}
	}
	// 1. What it has not learnt or heard of yet.
	if a.model == nil {
		past := a.series
		if n := a.learnt - a.spec.Elastic.Forecast.HistoryDays*24*60; n > 0 {
			past.Start = past.Start.Add(time.Duration(n) * past.Step)
			past.Values = past.Values[n:]
			past.Values = past.Values[:a.learnt-n]
		} else {
			past.Values = past.Values[:a.learnt]
		}
		days := a.policy.Calendar
		a.model = forecast.Fit(past, forecast.Options{Horizon: a.fitFor, Location: r.s.Location, DayKind: func(t time.Time) string {
			switch k := days.DayType(t); k {
			case elastic.Holiday, elastic.MakeUp:
				return string(k)
			}
			return ""
		}})
		a.heard = a.learnt
	}
	for ; a.heard < len(a.series.Values); a.heard++ {
		a.model.Observe(a.series.Start.Add(time.Duration(a.heard)*a.series.Step), a.series.Values[a.heard])
	}
	// 2. What it says.
	skill := a.model.Skill()
	out := foretold{a.policy.Foretell(a.model, now, horizon, a.tau, skill.Reason), skill.Periodic}
	a.result.Skilled = out.skilled
	if f := r.o.Foresight; f != nil {
		f.mu.Lock()
		if f.said == nil {
			f.said = map[foresaid]foretold{}
		}
		f.said[key] = out
		f.mu.Unlock()
	}
	return out.Forecast
}

// start is how long a replica takes to be ready in a pool: what was learnt of this
// module, else of all modules there.
func (r *run) start(a *scaler, pool string) time.Duration {
	if d, ok := a.starts[pool].p95(); ok {
		return d
	}
	if d, ok := r.starts[pool].p95(); ok {
		return d
	}
	return firstStart
}

// horizon is how far ahead a module's policy looks: replicas asked for at the next
// decision must be ready, in the slowest of its pools.
func (r *run) horizon(a *scaler) time.Duration {
	longest := time.Duration(0)
	for _, p := range a.spec.Elastic.Pools {
		longest = max(longest, r.start(a, p.Name))
	}
	return longest + time.Minute
}

// judge holds the last minutes against the module's targets.
func (a *scaler) judge(now time.Time) quality.Status {
	g := quality.Guard{SuccessMicros: a.spec.Targets.SuccessMicros, P99: a.spec.Targets.P99}
	a.answers = append(a.answers, answer{now, a.m.requests, a.m.failed, a.m.total})
	for len(a.answers) > 1 && now.Sub(a.answers[1].at) >= judged {
		a.answers = a.answers[1:]
	}
	if g.IsZero() {
		return ""
	}
	was := &a.answers[0]
	asked := a.m.requests - was.requests
	if asked <= 0 {
		return quality.Met // nobody was there to be disappointed
	}
	h := a.m.total
	h.all -= was.within.all
	for i := range h.within {
		h.within[i] -= was.within.within[i]
	}
	return g.Judge(quality.Observation{At: now, Success: 1 - float64(a.m.failed-was.failed)/float64(asked), P99: h.quantile(0.99)}).Status
}

// poolsOf says what is in a module's pools and what could still come.
func (r *run) poolsOf(a *scaler, claims map[string]resource.Vector) []elastic.Pool {
	var out []elastic.Pool
	for _, e := range a.spec.Elastic.Pools {
		pool := r.s.Pool(e.Name)
		p := elastic.Pool{Name: e.Name, Serverless: pool.Kind == scenario.Serverless, Min: e.Min, Max: elastic.None, Pods: a.m.in(e.Name), Price: r.price(pool, a.requests)}
		if e.Max > 0 {
			p.Max = e.Max
		}
		p.Start = r.start(a, e.Name)
		switch {
		case !p.Serverless:
			p.Room = r.roomFor(a, pool, claims[e.Name])
		case pool.Limit == 0:
			p.Room = elastic.None
		default:
			p.Room = max(0, pool.Limit-r.virtual[e.Name])
		}
		out = append(out, p)
	}
	return out
}

// roomFor counts how many more pods of a module the machines of a pool take,
// beside those that are on their way.
func (r *run) roomFor(a *scaler, pool *scenario.Pool, claimed resource.Vector) int {
	want := place.Pod{Request: a.requests, Owner: a.m.key.String(), Pools: []string{pool.Name}}
	if a.spec.Alone {
		want.Alone = a.m.key.String()
	}
	fleet, n := r.fleetFor(pool, a.requests), 0
	for i := range r.state.Machines[pool.Name] {
		name := nodeName(pool.Name, i)
		if fleet.Fit(want, name) != place.Fits || r.fleet.Fit(want, name) != place.Fits {
			continue
		}
		free, pods, _ := fleet.Free(name)
		fit := int64(pool.MaxPods - pods)
		if a.spec.Alone {
			fit = 1
		}
		for _, k := range resource.All {
			if ask := a.requests[k]; ask > 0 {
				fit = min(fit, free[k]/ask)
			}
		}
		n += int(max(0, fit))
	}
	taken := int64(0)
	for _, k := range resource.All {
		if ask := a.requests[k]; ask > 0 {
			taken = max(taken, (claimed[k]+ask-1)/ask)
		}
	}
	return max(0, n-int(taken))
}

// extra is how many pods beyond the plan may be there: one while a new version
// comes in.
func (a *scaler) extra(r *run) int {
	if slices.ContainsFunc(a.m.pods, func(p *pod) bool { return p.version != r.state.Modules[a.m.key].Version }) {
		return 1
	}
	return 0
}

// rank is the place of a pool in the policy's order.
func (a *scaler) rank(pool string) int {
	return slices.IndexFunc(a.spec.Elastic.Pools, func(p scenario.ElasticPool) bool { return p.Name == pool })
}

// deletionCost is what kube/controller/leaver writes once, when a pod is bound.
func (a *scaler) deletionCost(r *run, pool, machine string) int32 {
	fullness := 0.0
	if free, _, ok := r.fleet.Free(machine); ok {
		if all := r.s.Pool(pool).Allocatable[resource.CPU]; all > 0 {
			fullness = 1 - float64(free[resource.CPU])/float64(all)
		}
	}
	return elastic.DeletionCost(max(0, a.rank(pool)), len(a.spec.Elastic.Pools), min(1, max(0, fullness)))
}

// started notes how long a replica took to start.
func (r *run) started(a *scaler, p *pod) {
	for _, all := range []map[string]*startTimes{a.starts, r.starts} {
		s := all[p.pool]
		if s == nil {
			s = &startTimes{}
			all[p.pool] = s
		}
		s.add(p.readyAt.Sub(p.created))
	}
}

// judgeOrder counts the pods that left though others should have left first.
func (a *scaler) judgeOrder(left, stayed []*pod) {
	of := func(pods []*pod) []elastic.Leaver {
		var out []elastic.Leaver
		for _, p := range pods {
			if p.machine != "" {
				out = append(out, elastic.Leaver{Name: p.id, Rank: max(0, a.rank(p.pool)), Ready: !p.readyAt.IsZero()})
			}
		}
		return out
	}
	n, _ := elastic.Judge(of(left), of(stayed), false)
	a.result.Violations += n
}

// price is what one replica costs in an hour in a pool: its share of a machine,
// or its own price.
func (r *run) price(pool *scenario.Pool, request resource.Vector) money.Amount {
	capacity := pool.Capacity
	if pool.Kind == scenario.Serverless {
		capacity = request
	}
	p, err := r.book.At(pool.MachineType, capacity, r.e.Now())
	if err != nil {
		return 0
	}
	if pool.Kind == scenario.Serverless {
		return money.Amount(p.Effective)
	}
	sum := money.Amount(0)
	shares := money.Split(money.Amount(p.Effective), p.Weights[:])
	for _, k := range resource.All {
		if have := pool.Allocatable[k]; have > 0 {
			sum += shares[k].Scale(min(request[k], have), have)
		}
	}
	return sum
}

// What kube/controller/scaler moves at once, what it takes the risk of a move to
// be, and when it gives a move up.
const (
	moveShare   = 20
	moveRisk    = 5 * time.Minute
	moveGivesUp = 15 * time.Minute
)

// moveBack decides the next step of the replicas' way from a serverless pool to
// machines that have had room for long enough, and returns how many run besides
// those desired meanwhile.
func (r *run) moveBack(a *scaler, d elastic.Decision, pools []elastic.Pool, held bool) (surge int) {
	now := r.e.Now()
	from, to := -1, -1
	for i, p := range pools {
		if p.Room == 0 || p.Room == elastic.None {
			delete(a.room, p.Name)
		} else if a.room[p.Name].IsZero() {
			a.room[p.Name] = now
		}
		switch {
		case p.Serverless && p.Pods > 0:
			from = i
		case !p.Serverless && (p.Room > 0 || a.surge > 0 && a.movingTo == p.Name) && to < 0:
			to = i
		}
	}
	if !a.spec.Elastic.ScaleIn.Return || from < 0 || to < 0 || to > from || held || d.Desired != a.desired {
		return 0
	}
	x, y := pools[from], pools[to]
	step, _ := elastic.Return(elastic.ReturnInput{
		Now: now, PriceFrom: x.Price, PriceTo: y.Price,
		StartCost: (x.Price + y.Price).Scale(int64(max(y.Start, time.Second)), int64(time.Hour)), Risk: x.Price.Scale(int64(moveRisk), int64(time.Hour)),
		RoomSince: a.room[y.Name], Held: d.Gate != elastic.GateNone, Surge: a.surge, NewReady: a.ready >= a.desired+a.surge,
	})
	switch {
	case step == elastic.ReturnSurge:
		a.movingTo, a.moveSince = y.Name, now
		return min(x.Pods, y.Room, max(1, d.Desired/moveShare))
	case step == elastic.ReturnWait && now.Sub(a.moveSince) <= moveGivesUp:
		return a.surge
	case step == elastic.ReturnDrain:
		a.result.Moved += a.surge
	}
	return 0
}

// cutOff takes the traffic from the n replicas that leave next, and gives it back
// to the others.
func (r *run) cutOff(a *scaler, n int) {
	for i, p := range r.leaving(a.m) {
		switch cut := i < n; {
		case cut && !p.cut:
			r.world.SetUnready(p.id)
		case !cut && p.cut && !p.readyAt.IsZero():
			r.world.SetReady(p.id, r.e.Now())
		}
		p.cut = i < n
	}
}

// leaving returns a module's pods in the order in which they leave.
func (r *run) leaving(m *module) []*pod {
	pods := slices.Clone(m.pods)
	slices.SortStableFunc(pods, func(a, b *pod) int {
		return cmp.Or(
			boolCompare(!a.readyAt.IsZero(), !b.readyAt.IsZero()),
			cmp.Compare(a.cost, b.cost),
			b.readyAt.Compare(a.readyAt),
			b.number-a.number,
		)
	})
	return pods
}

// say writes a row of the ledger when the decision has changed.
func (r *run) say(a *scaler, d elastic.Decision) {
	action := "scale"
	switch {
	case d.Desired != a.desired:
	case d.Gate != elastic.GateNone:
		action = "hold"
	default:
		a.said = ""
		return
	}
	what := fmt.Sprint(action, d.Desired, d.Gate)
	if a.said == what {
		return
	}
	a.said = what
	// The words are those of kube/controller/scaler.
	inputs := map[string]string{"current": fmt.Sprint(a.desired), "desired": fmt.Sprint(d.Desired), "ready": fmt.Sprint(a.ready), "winner": string(d.Winner)}
	if !math.IsNaN(a.load) {
		inputs["load"] = strconv.FormatFloat(a.load, 'g', 6, 64)
	}
	for _, c := range d.ByLayer {
		key := string(c.Layer)
		if c.Name != "" {
			key += " " + c.Name
		}
		switch {
		case c.Layer == elastic.LayerBounds || c.Layer == elastic.LayerHold:
		case c.Pin:
			inputs[key] = fmt.Sprintf("pin %d", c.Floor)
		case c.Floor != elastic.None:
			inputs[key] = fmt.Sprint(c.Floor)
		case c.Cap != elastic.None:
			inputs[key] = fmt.Sprintf("at most %d", c.Cap)
		}
	}
	for _, e := range a.spec.Elastic.Pools {
		inputs["pool "+e.Name] = fmt.Sprint(a.plan[e.Name])
	}
	now := r.e.Now()
	r.result.Decisions = append(r.result.Decisions, bill.Decision{
		ID: strings.Join([]string{"replay", now.UTC().Format(time.RFC3339Nano), action, a.m.key.String()}, "/"),
		At: now, Actor: "scaler", Lever: "elastic", Mode: a.spec.Elastic.Mode, Action: action, Subject: a.m.key.String(), Reason: d.Reason, Inputs: inputs, Outcome: "done",
	})
}

// A Policy is what became of a module's policy. Minutes are of the replayed time.
type Policy struct {
	Winners    map[string]int `json:"winners"`    // minutes that each layer decided
	Under      int            `json:"under"`      // minutes in which more was asked than the ready replicas carry
	Unknown    int            `json:"unknown"`    // minutes without a known load
	Unplaced   int            `json:"unplaced"`   // most replicas without a place at once
	Moved      int            `json:"moved"`      // replicas moved back from serverless to machines
	Violations int            `json:"violations"` // replicas that left before those that should have
	Skilled    bool           `json:"skilled"`    // the forecast was worth its name at the end
}

func (p *Policy) count(winner elastic.Layer, demand, carried float64) {
	p.Winners[string(winner)]++
	switch {
	case math.IsNaN(demand):
		p.Unknown++
	case demand > carried:
		p.Under++
	}
}

// fleetFor is where a pod of a pool is placed: pods without a GPU see only what a
// pool's guard leaves them.
func (r *run) fleetFor(pool *scenario.Pool, request resource.Vector) *place.Fleet {
	if pool.PerGPU.IsZero() || request[resource.GPU] > 0 {
		return &r.fleet
	}
	return &r.spare
}
