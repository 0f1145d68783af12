package servertest

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/core/machine"
	"github.com/neap-dev/neap/core/money"
	"github.com/neap-dev/neap/core/workload"
	"github.com/neap-dev/neap/metrics"
	"github.com/neap-dev/neap/server"
)

// Start is the first hour of the fleet: a Monday's midnight in its zone.
var Start = time.Date(2026, 3, 1, 16, 0, 0, 0, time.UTC)

// Zone is where the fleet's users live, eight hours east of UTC.
var Zone = time.FixedZone("Asia/Shanghai", 8*3600)

// A Fleet is the made-up fleet from [Start] up to its clock. It is safe for
// concurrent use.
type Fleet struct {
	modules []module
	book    *machine.PriceBook
	closed  []bill.Facts

	mu        sync.Mutex
	now       time.Time
	decisions []bill.Decision
	placed    map[time.Time][]*host
}

var (
	_ server.Store   = (*Fleet)(nil)
	_ server.Live    = (*Fleet)(nil)
	_ metrics.Source = (*Fleet)(nil)
)

// New makes a fleet with so many hours closed, and 20 minutes of the next one.
func New(hours int) (*Fleet, error) {
	f := &Fleet{modules: modules(), book: machine.NewPriceBook("USD")}
	for _, t := range types {
		if err := f.book.Set(Start.Add(-24*time.Hour), t); err != nil {
			return nil, err
		}
	}
	cheaper := types[1]
	cheaper.DiscountMillis = 330 // a better contract for GPU machines on the second day
	if err := f.book.Set(Start.Add(24*time.Hour), cheaper); err != nil {
		return nil, err
	}
	f.now = Start
	if err := f.Advance(time.Duration(hours)*time.Hour + 20*time.Minute); err != nil {
		return nil, err
	}
	return f, nil
}

// Advance moves the fleet's clock on and closes the hours that end meanwhile.
func (f *Fleet) Advance(d time.Duration) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now = f.now.Add(d)
	for {
		from := Start.Add(time.Duration(len(f.closed)) * time.Hour)
		if from.Add(time.Hour).After(f.now) {
			return nil
		}
		facts, err := bill.Close(f.Hour(from, from.Add(time.Hour)), f.book, bill.Options{})
		if err != nil {
			return fmt.Errorf("close the hour from %s: %w", from.Format(time.RFC3339), err)
		}
		f.closed = append(f.closed, facts)
		f.decide(from.Add(time.Hour), facts)
	}
}

// decide writes what the fleet's autoscaler would have to say of an hour.
func (f *Fleet) decide(at time.Time, facts bill.Facts) {
	count := map[string]int{}
	for _, m := range facts.Machines {
		count[m.Pool]++
	}
	add := func(d bill.Decision) {
		d.ID, d.At = fmt.Sprintf("%s-%03d", at.Format("20060102T15"), len(f.decisions)), at
		f.decisions = append(f.decisions, d)
	}
	if len(f.closed) > 1 {
		was := map[string]int{}
		for _, m := range f.closed[len(f.closed)-2].Machines {
			was[m.Pool]++
		}
		for _, pool := range []string{steady, burst} {
			if n := count[pool] - was[pool]; n != 0 {
				action, price := "buy", money.Amount(-476_000_000)
				if n < 0 {
					action = "give-back"
				}
				add(bill.Decision{Actor: "scenario", Lever: "elastic", Mode: "Auto", Action: action, Subject: "pool/" + pool,
					Reason:        fmt.Sprintf("The pods of the hour need %d machines and the pool had %d.", count[pool], was[pool]),
					Inputs:        map[string]string{"need": fmt.Sprint(count[pool]), "had": fmt.Sprint(was[pool])},
					Considered:    []string{"wait another hour: the last two hours point the same way"},
					PredictedNano: price * money.Amount(n), Outcome: "done"})
			}
		}
	}
	for i := range f.modules {
		m := &f.modules[i]
		if !slices.Contains(scaled, m.key.Namespace+"/"+m.key.Name) {
			continue
		}
		was, _ := m.layers(at.Add(-time.Minute))
		now, winner := m.layers(at)
		if was["desired"] == now["desired"] {
			continue
		}
		add(bill.Decision{Actor: "scaler", Lever: "elastic", Mode: "Auto", Action: "scale", Subject: m.key.String(),
			Reason:        fmt.Sprintf("%.0f replicas instead of %.0f: the %s layer wants the most.", now["desired"], was["desired"], winner),
			Inputs:        map[string]string{"reactive": fmt.Sprint(now["reactive"]), "forecast": fmt.Sprint(now["forecast"])},
			PredictedNano: money.Amount(was["desired"]-now["desired"]) * 48_000_000, Outcome: "done"})
	}
	if at.In(Zone).Hour() == 9 {
		realised := money.Amount(1_310_000_000)
		add(bill.Decision{Actor: "repacker", Lever: "gpu", Mode: "Preview", Action: "repack", Subject: "pool/gpu",
			Reason: "Two GPU machines are less than half full and their pods fit on the other machines.", Considered: []string{"move one only: frees no machine"},
			PredictedNano: 1_420_000_000, RealisedNano: &realised, Outcome: "advised"})
	}
}

func (f *Fleet) between(from, to time.Time) []bill.Facts {
	f.mu.Lock()
	defer f.mu.Unlock()
	var in []bill.Facts
	for _, h := range f.closed {
		if !h.From.Before(from) && (to.IsZero() || h.From.Before(to)) {
			in = append(in, h)
		}
	}
	return in
}

// Hours implements [server.Store].
func (f *Fleet) Hours(_ context.Context, from, to time.Time) ([]time.Time, error) {
	var hours []time.Time
	for _, h := range f.between(from, to) {
		hours = append(hours, h.From)
	}
	return hours, nil
}

// Facts implements [server.Store].
func (f *Fleet) Facts(_ context.Context, from, to time.Time) ([]bill.Facts, error) {
	return f.between(from, to), nil
}

// Window implements [server.Store].
func (f *Fleet) Window(_ context.Context, from, to time.Time) (bill.Window, error) {
	w, err := bill.Rollup(f.between(from, to)...)
	w.Offers = bill.OfferTypes(f.book, from)
	return w, err
}

// Report implements [server.Store].
func (f *Fleet) Report(ctx context.Context, from, to time.Time, by string) (bill.Report, error) {
	features, err := f.Features(ctx)
	if err != nil {
		return bill.Report{}, err
	}
	return bill.Summarise(f.between(from, to), by, features)
}

// Decisions implements [server.Store].
func (f *Fleet) Decisions(_ context.Context, from, to time.Time) ([]bill.Decision, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var in []bill.Decision
	for _, d := range f.decisions {
		if !d.At.Before(from) && (to.IsZero() || d.At.Before(to)) {
			in = append(in, d)
		}
	}
	return in, nil
}

// Features implements [server.Store].
func (f *Fleet) Features(context.Context) (map[workload.Key][]workload.Feature, error) {
	all := map[workload.Key][]workload.Feature{}
	for _, m := range f.modules {
		all[m.key] = m.features
	}
	return all, nil
}

// Now is the fleet's clock.
func (f *Fleet) Now() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now
}

// Status implements [server.Live].
func (f *Fleet) Status() server.Status {
	now := f.Now()
	h := f.Hour(now.Truncate(time.Hour), now.Truncate(time.Hour).Add(time.Minute))
	return server.Status{Now: now, Speed: 60, Simulated: true, Scenario: "servertest", From: Start, Until: Start.Add(72 * time.Hour),
		State: "running", Machines: len(h.Machines), Pods: len(h.Pods), Pending: 0}
}

// Fleet implements [server.Live].
func (f *Fleet) Fleet(context.Context) (server.Fleet, error) {
	now := f.Now()
	out := server.Fleet{At: now}
	start := now.Truncate(time.Hour)
	h := f.Hour(start, start.Add(time.Minute))
	at := map[string]int{}
	for _, m := range h.Machines {
		at[m.Name] = len(out.Machines)
		out.Machines = append(out.Machines, server.FleetMachine{Name: m.Name, Pool: m.Pool, Type: m.Type, Domain: m.Domain, Serverless: m.Serverless, Capacity: m.Capacity, Allocatable: m.Allocatable})
	}
	for i, p := range h.Pods {
		m := &out.Machines[at[p.Machine]]
		m.Pods = append(m.Pods, server.FleetPod{Namespace: p.Namespace, Name: p.Name, Module: p.Module, Request: p.Requests[0].Request, Use: p.Usage[0].Use, Ready: i%97 != 3})
	}
	return out, nil
}

// Provisional implements [server.Live].
func (f *Fleet) Provisional(context.Context) (bill.Facts, error) {
	now := f.Now()
	from := now.Truncate(time.Hour)
	if !now.After(from) {
		return bill.Facts{From: from, To: from, Currency: "USD"}, nil
	}
	return bill.Close(f.Hour(from, now), f.book, bill.Options{})
}

// Instant implements [metrics.Source].
func (f *Fleet) Instant(ctx context.Context, query string, at time.Time) ([]metrics.Series, error) {
	return f.Range(ctx, query, at, at, time.Minute)
}

// Range implements [metrics.Source] for the questions that the server asks. The
// metrics have a gap of 20 minutes in every day, at four in the morning.
func (f *Fleet) Range(_ context.Context, query string, from, to time.Time, step time.Duration) ([]metrics.Series, error) {
	var out []metrics.Series
	series := func(labels map[string]string, value func(time.Time) float64) {
		s := metrics.Series{Labels: labels}
		for t := from; !t.After(to); t = t.Add(step) {
			if lt := t.In(Zone); lt.Hour() == 4 && lt.Minute() < 20 || t.After(f.Now()) {
				continue
			}
			if v := value(t); !math.IsNaN(v) {
				s.Points = append(s.Points, metrics.Point{T: t, V: v})
			}
		}
		if len(s.Points) > 0 {
			out = append(out, s)
		}
	}
	switch {
	case f.elastic(query, series):
	case f.colocation(query, series):
	case strings.Contains(query, "http_requests_total"):
		for i := range f.modules {
			m := &f.modules[i]
			series(map[string]string{"namespace": m.key.Namespace, "module": m.key.Name}, func(t time.Time) float64 {
				if m.pods(t.Truncate(time.Hour)) == 0 {
					return 0
				}
				return m.load(t)
			})
		}
	case strings.Contains(query, "neap_module_ready_replicas"):
		for i := range f.modules {
			m := &f.modules[i]
			series(map[string]string{"namespace": m.key.Namespace, "module": m.key.Name, "pool": m.pool}, func(t time.Time) float64 {
				n := m.pods(t.Truncate(time.Hour))
				if t.Minute() < 3 { // new pods start for three minutes
					n = min(n, m.pods(t.Truncate(time.Hour).Add(-time.Hour)))
				}
				return float64(n)
			})
		}
	case strings.Contains(query, "node_cpu_usage_seconds_total"):
		used := map[string]map[time.Time]float64{}
		for t := from; !t.After(to); t = t.Add(step) {
			uses := map[*module]float64{} // of one pod, in cores
			for _, h := range f.hosts(t.Truncate(time.Hour)) {
				name, _, _ := strings.Cut(h.name, "/")
				if used[name] == nil {
					used[name] = map[time.Time]float64{}
				}
				sum := 0.0
				for _, p := range h.pods {
					use, ok := uses[p.m]
					if !ok {
						use = float64(p.m.use(t, p.of)[0]) / 1000
						uses[p.m] = use
					}
					sum += use
				}
				used[name][t] += sum
			}
		}
		names := make([]string, 0, len(used))
		for name := range used {
			names = append(names, name)
		}
		slices.Sort(names)
		for _, name := range names {
			series(map[string]string{"node": name}, func(t time.Time) float64 { return used[name][t] })
		}
	default:
		return nil, fmt.Errorf("query %q: the made-up fleet has no such metric", query)
	}
	return out, nil
}
