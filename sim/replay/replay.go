package replay

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/core/machine"
	"github.com/neap-dev/neap/core/place"
	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/core/workload"
	"github.com/neap-dev/neap/sim/engine"
	"github.com/neap-dev/neap/sim/scenario"
	"github.com/neap-dev/neap/sim/world"
)

// A Sink keeps the facts of closed hours; store.Store is one.
type Sink interface {
	WriteHour(ctx context.Context, f bill.Facts) error
}

// Options say how to replay. The zero Options replay the scenario's length.
type Options struct {
	Until time.Duration // how long; 0 means the scenario's length
	Step  time.Duration // of the physics, at most a minute; 0 means a minute
	Point time.Duration // between two points of the curves; 0 means five minutes
	By    string        // what the bill is grouped by; "" means module
	// Past is what [Before] returns; nil works it out. It is read only, so one
	// serves many replays of a scenario.
	Past Past
	// Foresight, if any, is shared by replays of the same scenario that differ in
	// their machines only.
	Foresight *Foresight
	// Sink, if any, gets every hour as it is closed.
	Sink Sink
	// Progress, if any, is called after every simulated hour.
	Progress func(at time.Time)
	// Frame, if any, is called after every step of the physics. The frame is
	// overwritten by the next.
	Frame func(*world.Frame)
}

// A Result is a replayed stretch of time. All of it is simulated.
type Result struct {
	Scenario   string    `json:"scenario"`
	Seed       uint64    `json:"seed"`
	Simulated  bool      `json:"simulated"`  // true: nothing of this happened
	RealSeries bool      `json:"realSeries"` // the load is a recording, not generated
	From       time.Time `json:"from"`
	To         time.Time `json:"to"`

	Bill bill.Report `json:"bill"`

	Hours     []Hour          `json:"hours"`
	Curves    []Point         `json:"curves"`
	Modules   []Module        `json:"modules"`
	Decisions []bill.Decision `json:"decisions"`
	Counts    Counts          `json:"counts"`
	Notes     []string        `json:"notes,omitempty"`

	Facts []bill.Facts                        `json:"-"`
	Book  *machine.PriceBook                  `json:"-"`
	ByKey map[workload.Key][]workload.Feature `json:"-"` // features by module
}

// An Hour is the fleet in one hour: averages over its time.
type Hour struct {
	From     time.Time `json:"from"`
	To       time.Time `json:"to"`
	BillNano int64     `json:"billNano"`
	Total    Capacity  `json:"total"`
	Pools    []Pool    `json:"pools"`
}

// A Pool is the capacity of one pool.
type Pool struct {
	Name string `json:"name"`
	Capacity
}

// Capacity is what was used, requested and bought, as averages.
type Capacity struct {
	UsedMilli      int64   `json:"usedMilli"`
	RequestedMilli int64   `json:"requestedMilli"`
	BoughtMilli    int64   `json:"boughtMilli"`
	Utilisation    float64 `json:"utilisation"` // used ÷ bought CPU
	GPUUsedMilli   int64   `json:"gpuUsedMilli,omitempty"`
	GPUBoughtMilli int64   `json:"gpuBoughtMilli,omitempty"`
}

// A Point is one moment of the day's curves, averages since the one before.
type Point struct {
	T     time.Time   `json:"t"`
	Load  float64     `json:"load"` // requests a second of all modules
	Pods  int         `json:"pods"`
	Ready int         `json:"ready"`
	Pools []PoolPoint `json:"pools"`
}

// A PoolPoint is one pool in a Point.
type PoolPoint struct {
	Name           string `json:"name"`
	Ready          int    `json:"ready"`      // pods
	ReadyMilli     int64  `json:"readyMilli"` // requests of the ready pods
	UsedMilli      int64  `json:"usedMilli"`
	RequestedMilli int64  `json:"requestedMilli"`
	BoughtMilli    int64  `json:"boughtMilli"`
}

// A Module is what the users of one module met over the whole time.
type Module struct {
	Module   string             `json:"module"`
	Kind     string             `json:"kind"`
	Features map[string]float64 `json:"features,omitempty"` // shares, 0 to 1
	Requests int64              `json:"requests"`
	Failed   int64              `json:"failed"`
	P99MS    float64            `json:"p99Millis"`
	PeakLoad float64            `json:"peakLoad"` // requests a second, average of a minute
	LowLoad  float64            `json:"lowLoad"`
	HoursMet int                `json:"hoursMet"`
	HoursBad int                `json:"hoursBroken"`
	PodsMost int                `json:"podsMost"`
	Policy   *Policy            `json:"policy,omitempty"` // nil without one
}

// Counts say how much there was to do.
type Counts struct {
	PodsCreated    int    `json:"podsCreated"`
	PodsMost       int    `json:"podsMost"`
	MachinesMost   int    `json:"machinesMost"`
	PendingMost    int    `json:"pendingMost"` // pods that waited for room at one time
	PendingLeft    int    `json:"pendingLeft"` // at the end
	Jobs           int    `json:"jobs"`
	Events         uint64 `json:"events"`         // of the simulation
	GapMinutes     int    `json:"gapMinutes"`     // module-minutes without a known load
	ServerlessPods int    `json:"serverlessPods"` // pods bought one by one

	ReplicasWaiting int            `json:"replicasWaiting"` // replica-minutes without room
	WaitingGPU      int            `json:"waitingGPU"`      // of these, those with a GPU, and jobs with one that waited to the end
	OwnedMost       map[string]int `json:"ownedMost"`       // machines by pool
}

// A run is one replay under way.
type run struct {
	ctx context.Context
	s   *scenario.Scenario
	o   Options
	e   *engine.Engine
	end time.Time

	calendar *scenario.Calendar
	state    scenario.State

	fleet   place.Fleet
	spare   place.Fleet // guarded machines as pods without a GPU see them
	sharing *sharing    // machines whose GPUs are shared
	world   *world.World
	journal bill.Journal
	book    *machine.PriceBook

	pods     map[string]*pod
	modules  map[workload.Key]*module
	keys     []workload.Key // of modules, sorted
	machines map[string]*node
	pending  []*pod
	retrying bool
	filling  bool // pods that are made now are ready at once
	scalers  []*scaler
	scaled   time.Time // when the policies last decided
	starts   map[string]*startTimes
	nextID   int
	gone     []string       // machines to forget after the next step
	virtual  map[string]int // serverless pods by pool
	owned    map[string]int // machines by pool

	stepped time.Time
	hour    hourSums
	point   pointSums
	samples map[string][]bill.Sample

	result Result
	err    error  // the first; it ends the run
	stop   func() // ends the run early
}

func (r *run) fail(err error) {
	if r.err == nil {
		r.err = err
		if r.stop != nil {
			r.stop()
		}
	}
}

// Run replays a scenario.
func Run(ctx context.Context, s *scenario.Scenario, o Options) (*Result, error) {
	if o.Until == 0 {
		o.Until = s.Length
	}
	if o.Until < 0 {
		return nil, fmt.Errorf("replay %s: until %v is negative; give how long to replay, such as 24h", s.Name, o.Until)
	}
	if o.Step <= 0 || o.Step > time.Minute {
		o.Step = time.Minute
	}
	if o.Point <= 0 {
		o.Point = 5 * time.Minute
	}
	if o.By == "" {
		o.By = "module"
	}
	calendar, err := scenario.NewCalendar(s)
	if err != nil {
		return nil, fmt.Errorf("replay %s: %w", s.Name, err)
	}
	r := &run{
		ctx: ctx, s: s, o: o, e: engine.New(s.Start, s.Seed), end: s.Start.Add(o.Until), calendar: calendar,
		world: world.New(s.Modules), book: machine.NewPriceBook(s.Currency),
		pods: map[string]*pod{}, modules: map[workload.Key]*module{}, machines: map[string]*node{},
		virtual: map[string]int{}, owned: map[string]int{}, starts: map[string]*startTimes{}, sharing: newSharing(s), stepped: s.Start, scaled: s.Start, samples: map[string][]bill.Sample{},
	}
	for _, t := range s.MachineTypes {
		if err := r.book.Set(s.Start, t); err != nil {
			return nil, fmt.Errorf("replay %s: price of %s: %w", s.Name, t.Name, err)
		}
	}
	for i := range s.Modules {
		m := &s.Modules[i]
		r.modules[m.Key()] = &module{key: m.Key(), low: -1}
		r.keys = append(r.keys, m.Key())
	}
	slices.SortFunc(r.keys, workload.Key.Compare)
	r.hour.from, r.point.from = s.Start, s.Start

	// 1. The machines that are there when it begins.
	r.state = scenario.Desired(s, s.Start)
	for i := range s.Pools {
		p := &s.Pools[i]
		for n := range r.state.Machines[p.Name] {
			r.buy(p, n, 0)
		}
	}
	if err := r.startScalers(); err != nil {
		return nil, fmt.Errorf("replay %s: %w", s.Name, err)
	}
	// Their pods are at work already, as in the live fleet: the day begins when
	// the fleet is full.
	r.filling = true
	for _, k := range r.keys {
		r.reconcile(r.modules[k])
	}
	r.filling = false
	// 2. Physics, changes and jobs, each asking for its next one.
	r.e.At(s.Start.Add(o.Step), r.tick)
	r.e.At(r.calendar.After(s.Start), r.change)
	r.fire(s.Start.Add(-time.Nanosecond), s.Start)
	// 3. Run.
	running, stop := context.WithCancel(ctx)
	defer stop()
	r.stop = stop
	if err := r.e.Run(running, r.end); err != nil && r.err == nil {
		return nil, fmt.Errorf("replay %s: stopped at %s: %w", s.Name, r.e.Now().Format(time.RFC3339), err)
	}
	if r.err != nil {
		return nil, fmt.Errorf("replay %s: %w", s.Name, r.err)
	}
	if r.stepped.Before(r.end) {
		r.advance(r.end)
	}
	if r.hour.from.Before(r.end) {
		r.closeHour(r.end)
	}
	if r.err != nil {
		return nil, fmt.Errorf("replay %s: %w", s.Name, r.err)
	}
	return r.finish()
}

// change makes the fleet what it should be now.
func (r *run) change() {
	now := r.e.Now()
	was := r.state
	r.state = scenario.Desired(r.s, now)
	for _, a := range r.scalers { // theirs to say
		m := r.state.Modules[a.m.key]
		if a.spec.Elastic.Acts() {
			m.Replicas = a.desired + a.surge
		} else {
			a.desired = m.Replicas
		}
		r.state.Modules[a.m.key] = m
		a.spec, a.requests = m.Spec, m.Requests
	}
	for i := range r.s.Pools {
		p := &r.s.Pools[i]
		if a, b := was.Machines[p.Name], r.state.Machines[p.Name]; a != b {
			r.resizePool(p, a, b)
		}
	}
	for _, t := range r.s.MachineTypes {
		if a, b := was.Types[t.Name], r.state.Types[t.Name]; a != b {
			if err := r.book.Set(now, b); err != nil {
				r.fail(fmt.Errorf("price of %s: %w", t.Name, err))
			}
			r.decide("price", "price", t.Name, r.because(t.Name, "the scenario changes the price"), nil)
		}
	}
	for _, k := range r.keys {
		a, b := was.Modules[k], r.state.Modules[k]
		switch {
		case a.Version != b.Version:
			r.world.SetModule(*b.Spec)
			r.decide("deploy", "", k.String(), r.because(k.String(), "the scenario deploys a new version"), nil)
		case a.Requests != b.Requests || a.Limits != b.Limits:
			r.resizePods(r.modules[k], b)
			r.decide("resize", "", k.String(), r.because(k.String(), "the scenario changes the requests"), map[string]string{
				"from": text(a.Requests), "to": text(b.Requests)})
		}
		if a.Replicas != b.Replicas {
			r.decide("scale", "elastic", k.String(), r.because(k.String(), "the module's schedule"), map[string]string{
				"from": fmt.Sprint(a.Replicas), "to": fmt.Sprint(b.Replicas)})
		}
		r.reconcile(r.modules[k])
	}
	r.fire(was.At, now)
	r.e.At(r.calendar.After(now), r.change)
}

// fire starts the jobs of (from, to].
func (r *run) fire(from, to time.Time) {
	for _, j := range r.calendar.Starts(from, to) {
		m := r.state.Modules[j.Module]
		r.result.Counts.Jobs++
		for range max(m.Spec.Work.Pods, 1) {
			r.create(r.modules[j.Module], m)
		}
	}
}

func (r *run) because(subject, otherwise string) string {
	if why := r.state.Why[subject]; why != "" {
		return why
	}
	return otherwise
}

func (r *run) decide(action, lever, subject, reason string, inputs map[string]string) {
	now := r.e.Now()
	r.result.Decisions = append(r.result.Decisions, bill.Decision{
		ID: strings.Join([]string{"replay", now.UTC().Format(time.RFC3339Nano), action, subject}, "/"),
		At: now, Actor: "scenario", Lever: lever, Mode: "Auto", Action: action, Subject: subject, Reason: reason, Inputs: inputs, Outcome: "done",
	})
}

func text(v resource.Vector) string {
	s := fmt.Sprintf("%dm CPU, %d MiB", v[resource.CPU], v[resource.Memory]/resource.MiB)
	if v[resource.GPU] > 0 {
		s += fmt.Sprintf(", %dm GPU", v[resource.GPU])
	}
	return s
}

// finish adds the result up.
func (r *run) finish() (*Result, error) {
	res := &r.result
	res.Scenario, res.Seed, res.Simulated, res.RealSeries = r.s.Name, r.s.Seed, true, r.s.RealSeries
	res.From, res.To, res.Book = r.s.Start, r.end, r.book
	res.ByKey = map[workload.Key][]workload.Feature{}
	for i := range r.s.Modules {
		m := &r.s.Modules[i]
		if len(m.Features) > 0 {
			res.ByKey[m.Key()] = m.Features
		}
		st := r.modules[m.Key()]
		out := Module{Module: m.Key().String(), Kind: string(m.Kind), Requests: st.requests, Failed: st.failed,
			P99MS: 1000 * st.total.quantile(0.99), PeakLoad: st.high, LowLoad: max(0, st.low), HoursMet: st.met, HoursBad: st.broken, PodsMost: st.most}
		if a := st.scaler; a != nil {
			out.Policy = &a.result
		}
		for _, f := range m.Features {
			if out.Features == nil {
				out.Features = map[string]float64{}
			}
			out.Features[f.Name] = float64(f.ShareMillis) / 1000
		}
		res.Modules = append(res.Modules, out)
	}
	res.Counts.PendingLeft, res.Counts.Events = len(r.pending), r.e.Events()
	for _, p := range r.pending {
		if p.spec.Work != nil && p.request[resource.GPU] > 0 {
			res.Counts.WaitingGPU++
		}
	}
	if n := len(r.pending); n > 0 {
		res.Notes = append(res.Notes, fmt.Sprintf("%d pods still wait for room at the end; the first is %s: %s.", n, r.pending[0].id, r.pending[0].why))
	}
	for i := range r.s.Events {
		if e := &r.s.Events[i]; e.Sick != nil || e.Repack != nil {
			res.Notes = append(res.Notes, "GPUs that turn sick and RepackPlans are events of neap up; here nothing of them happened.")
			break
		}
	}
	if n := res.Counts.GapMinutes; n > 0 {
		res.Notes = append(res.Notes, fmt.Sprintf("The recorded load has gaps: %d module-minutes were played without load.", n))
	}
	var err error
	res.Bill, err = bill.Summarise(res.Facts, r.o.By, res.ByKey)
	if err != nil {
		return nil, fmt.Errorf("replay %s: add the bill up: %w", r.s.Name, err)
	}
	return res, nil
}
