package colocation

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/neap-dev/neap/core/colocate"
)

// A policy is a family of lenders, one for each value of its safety parameter.
type policy struct {
	name, what string
	parameter  string
	standard   float64   // the value that it ships with
	values     []float64 // from careful to careless
	make       func(m *Machine, shared *shared, value float64) Lender
}

// shared is what lenders of one machine have in common, so that it is reckoned once.
type shared struct {
	dsp   *dsp
	past  *past
	hours []colocate.Hours
}

// What is swept. For the peers percentages.
var percents = []float64{20, 30, 40, 50, 60, 70, 80, 90, 100}

// For Neap the share of the machine at the quantile 0.95, and then lower quantiles,
// for to lend beyond the line is no use to anybody.
var cares = []float64{20, 30, 40, 50, 60, 70, 80, 80.2, shipped, 80.5, 80.8, 80.95}

// shipped is the value of the default policy.
const shipped = 80.3

var policies = []policy{
	{"neap", "core/colocate: like times and levels, horizon, run times as declared or learnt", "cpuPercent at quantile 0.95; 80 + r: 80 % at quantile 1 − r", shipped, cares,
		func(m *Machine, s *shared, v float64) Lender {
			return &Neap{Policy: neapPolicy(v), Machine: m, Past: s.past, Hours: s.hours}
		}},
	{"neap-blind", "the same, no run time known: an hour for every job", "cpuPercent at quantile 0.95; 80 + r: 80 % at quantile 1 − r", shipped, cares,
		func(m *Machine, s *shared, v float64) Lender {
			return &Neap{Policy: neapPolicy(v), Machine: m, Past: s.past, Hours: s.hours, Blind: true}
		}},
	{"koordinator", "machine · threshold − mean use of five minutes", "cpuReclaimThresholdPercent", 60, percents,
		func(m *Machine, _ *shared, v float64) Lender {
			return &Koordinator{scalar: scalar{machine: m.Milli}, Threshold: v}
		}},
	{"volcano", "(machine − use) · ratio, recent samples of ten seconds count most", "oversubscription-ratio", 60, percents,
		func(m *Machine, _ *shared, v float64) Lender {
			return &Volcano{scalar: scalar{machine: m.Milli}, Ratio: v}
		}},
	{"crane", "machine · (1 − reserve) − max(DSP forecast of an hour, use)", "100 − node-resource-reserved cpu", 60, percents,
		func(m *Machine, s *shared, v float64) Lender {
			return &Crane{scalar: scalar{machine: m.Milli}, Reserve: 100 - v, DSP: s.dsp}
		}},
	{"katalyst", "machine − max(1.25 · use, loads) − reserved + 4 cores", "100 − ReservedForAllocate, of the machine", 87.5, percents,
		func(m *Machine, _ *shared, v float64) Lender {
			return &Katalyst{scalar: scalar{machine: m.Milli}, Reserved: m.Milli / 1000 * (100 - v) / 100}
		}},
	{"oracle", "knows what online pods will use", "share", 80, percents,
		func(m *Machine, _ *shared, v float64) Lender { return &Oracle{Share: v, Machine: m} }},
}

// neapPolicy is the policy of one value: see cares.
func neapPolicy(value float64) colocate.Policy {
	p := colocate.Policy{CPUPercent: int64(min(value, Line)), MemoryPercent: 100, RunTime: time.Hour, Quantile: 0.95}
	switch {
	case value == shipped:
		p.Quantile = 0 // whatever that is
	case value > Line:
		p.Quantile = 1 - (value - Line)
	}
	return p
}

// Policies lists the policies in their order.
func Policies() []string {
	var names []string
	for _, p := range policies {
		names = append(names, p.name)
	}
	return names
}

// Explain says what a policy does, and which parameter is swept.
func Explain(name string) (what, parameter string, standard float64) {
	for _, p := range policies {
		if p.name == name {
			return p.what, p.parameter, p.standard
		}
	}
	return "", "", 0
}

// A Row is how one policy with one value of its parameter did on one machine.
type Row struct {
	Machine  string  `json:"machine"`
	Policy   string  `json:"policy"`
	Value    float64 `json:"value"`    // of the policy's parameter
	Standard bool    `json:"standard"` // it is the one that the policy ships with
	First    Result  `json:"first"`    // half of the test
	Second   Result  `json:"second"`
}

// All is both halves together.
func (r Row) All() Result {
	all := r.First
	all.add(r.Second)
	return all
}

// A Sweep is every policy with every value on every machine.
type Sweep struct {
	Machines []*Machine
	Policies []string
	Mix      Mix
	Seed     uint64
	Hours    []colocate.Hours // windows; peers do not know of them
	Workers  int              // machines at once; 0 means as many as there are processors
	// Done, if set, is called after each machine, one call at a time.
	Done func(done, of int, m *Machine)
}

// Run replays the sweep. Rows come by machine, policy and value.
func (x *Sweep) Run(ctx context.Context) ([]Row, error) {
	for _, name := range x.Policies {
		if !slices.Contains(Policies(), name) {
			return nil, fmt.Errorf("no policy is called %q; there are %v", name, Policies())
		}
	}
	rows := make([][]Row, len(x.Machines))
	errs := make([]error, len(x.Machines))
	next := make(chan int)
	var wg sync.WaitGroup
	var mu sync.Mutex
	done := 0
	workers := x.Workers
	if workers <= 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	for range workers {
		wg.Go(func() {
			for i := range next {
				rows[i], errs[i] = x.machine(ctx, x.Machines[i], uint64(i))
				if errs[i] == nil && x.Done != nil {
					mu.Lock()
					done++
					x.Done(done, len(x.Machines), x.Machines[i])
					mu.Unlock()
				}
			}
		})
	}
	for i := range x.Machines {
		next <- i
	}
	close(next)
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return slices.Concat(rows...), nil
}

func (x *Sweep) machine(ctx context.Context, m *Machine, index uint64) ([]Row, error) {
	s := &shared{dsp: newDSP(m.Unit), past: &past{}, hours: x.Hours}
	var rows []Row
	var lenders []Lender
	for _, p := range policies {
		if !slices.Contains(x.Policies, p.name) {
			continue
		}
		for _, v := range p.all() {
			lenders = append(lenders, p.make(m, s, v))
			rows = append(rows, Row{Machine: m.Name, Policy: p.name, Value: v, Standard: v == p.standard})
		}
	}
	results, err := play(ctx, m, x.Mix, x.Seed+index, x.Hours, lenders)
	if err != nil {
		return nil, err
	}
	for i := range rows {
		rows[i].First, rows[i].Second = results[i][0], results[i][1]
	}
	return rows, nil
}

// all is every value, with the one that the policy ships with.
func (p policy) all() []float64 {
	v := slices.Clone(p.values)
	if !slices.Contains(v, p.standard) {
		v = append(v, p.standard)
		slices.Sort(v)
	}
	return v
}

// A Point is a policy with one value over all machines.
type Point struct {
	Policy   string  `json:"policy"`
	Value    float64 `json:"value"`
	Standard bool    `json:"standard"`
	Result
}

// Points adds rows up over the machines; half is 1 or 2 for a half of the test, or
// 0 for all.
func Points(rows []Row, half int) []Point {
	var out []Point
	for _, r := range rows {
		part := r.All()
		switch half {
		case 1:
			part = r.First
		case 2:
			part = r.Second
		}
		i := slices.IndexFunc(out, func(p Point) bool { return p.Policy == r.Policy && p.Value == r.Value })
		if i < 0 {
			i = len(out)
			out = append(out, Point{Policy: r.Policy, Value: r.Value, Standard: r.Standard})
		}
		out[i].Result.add(part)
	}
	return out
}

// Standard is the point of a policy with the value that it ships with; the zero
// Point if it was not replayed.
func Standard(points []Point, policy string) Point {
	for _, p := range points {
		if p.Policy == policy && p.Standard {
			return p
		}
	}
	return Point{}
}

// AtOffered reads the curve of a policy where it offers so many core-hours, by
// straight lines between its points; ok is false outside of the curve.
func AtOffered(points []Point, policy string, hours float64) (r Result, ok bool) {
	var curve []Point
	for _, p := range points {
		if p.Policy == policy {
			curve = append(curve, p)
		}
	}
	for i := 1; i < len(curve); i++ {
		a, b := curve[i-1].Result, curve[i].Result
		if !(a.OfferedHours <= hours && hours <= b.OfferedHours) || a.OfferedHours == b.OfferedHours {
			continue
		}
		u := (hours - a.OfferedHours) / (b.OfferedHours - a.OfferedHours)
		mix := func(x, y float64) float64 { return x*(1-u) + y*u }
		whole := func(x, y int) int { return int(mix(float64(x), float64(y)) + 0.5) }
		return Result{
			Minutes: a.Minutes, OfferedHours: hours,
			GotHours: mix(a.GotHours, b.GotHours), LostHours: mix(a.LostHours, b.LostHours),
			EvictedJobs: whole(a.EvictedJobs, b.EvictedJobs), DoneJobs: whole(a.DoneJobs, b.DoneJobs), DoneMinutes: mix(a.DoneMinutes, b.DoneMinutes),
			Violations: whole(a.Violations, b.Violations), ViolatedHours: mix(a.ViolatedHours, b.ViolatedHours),
		}, true
	}
	return Result{}, false
}
