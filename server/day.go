package server

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/core/money"
	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/metrics"
)

// The questions that the day's curves ask; $window is the step.
const (
	loadQuery  = `sum by (namespace, module) (rate(http_requests_total[$window]))`
	readyQuery = `sum by (namespace, module, pool) (neap_module_ready_replicas)`
	usedQuery  = `sum by (node) (rate(node_cpu_usage_seconds_total[$window]))`
)

// maxPoints is how many points a curve has at most: two days at a minute.
const maxPoints = 2 * 24 * 60

type dayAnswer struct {
	span
	StepSeconds int64       `json:"stepSeconds"`
	Points      int         `json:"points"`
	Pools       []poolDay   `json:"pools"`
	Modules     []moduleDay `json:"modules"`
	Money       []moneyHour `json:"money"`
	Notes       []string    `json:"notes"` // codes: no-metrics, no-load, no-ready, used-hourly, window: MINUTES, metrics: …
	Currency    string      `json:"currency"`
	Guard       guard       `json:"guard"`
}

// A poolDay is one pool's curves, in cores.
type poolDay struct {
	Name   string `json:"name"`
	Bought curve  `json:"bought"` // capacity paid for
	Held   curve  `json:"held"`   // max(request, use) of the pods: hourly means of each pod
	Ready  curve  `json:"ready"`  // requests of the pods that are ready
	Used   curve  `json:"used"`
}

// A moduleDay is one module's load, in requests a second.
type moduleDay struct {
	Name string `json:"name"`
	Load curve  `json:"load"`
}

// A moneyHour is what one hour cost, for the strip beneath the curves.
type moneyHour struct {
	From     time.Time    `json:"from"`
	BillNano money.Amount `json:"billNano"`
	UsedNano money.Amount `json:"usedNano"`
}

// A curve is one value for each step; NaN, a gap, is null in JSON.
type curve []float64

// MarshalJSON writes five significant digits, which a screen cannot tell from more.
func (c curve) MarshalJSON() ([]byte, error) {
	buf := make([]byte, 0, 8*len(c)+2)
	buf = append(buf, '[')
	for i, v := range c {
		if i > 0 {
			buf = append(buf, ',')
		}
		switch {
		case math.IsNaN(v) || math.IsInf(v, 0):
			buf = append(buf, "null"...)
		case v == 0:
			buf = append(buf, '0')
		case math.Abs(v) < 1e-6 || math.Abs(v) >= 1e15:
			buf = strconv.AppendFloat(buf, v, 'e', 4, 64)
		default:
			prec := max(0, 4-int(math.Floor(math.Log10(math.Abs(v)))))
			s := strconv.AppendFloat(nil, v, 'f', min(prec, 9), 64)
			if prec > 0 {
				s = []byte(strings.TrimRight(strings.TrimRight(string(s), "0"), "."))
			}
			buf = append(buf, s...)
		}
	}
	return append(buf, ']'), nil
}

func gaps(n int) curve {
	c := make(curve, n)
	for i := range c {
		c[i] = math.NaN()
	}
	return c
}

// day answers /api/v1/day?from&to: load, and ready, used, held and bought
// capacity by pool, at a minute's step for windows up to two days.
func (s *Server) day(r *http.Request) (any, error) {
	ctx := r.Context()
	w, err := s.window(r)
	if err != nil {
		return nil, err
	}
	var running *bill.Facts
	closed := w
	if s.opts.Live != nil && !r.URL.Query().Has("to") { // the hour that runs belongs to the day
		if f, err := s.opts.Live.Provisional(ctx); err == nil && f.To.Sub(w.To) >= time.Minute && !f.From.Before(w.To) {
			running, w.To = &f, f.To.Truncate(time.Minute)
		}
	}
	step := time.Minute
	for w.To.Sub(w.From)/step > maxPoints {
		step *= 5
	}
	n := int(w.To.Sub(w.From) / step)
	a := dayAnswer{span: w, StepSeconds: int64(step / time.Second), Points: n, Notes: []string{}, Pools: []poolDay{}, Modules: []moduleDay{}, Money: []moneyHour{}}
	base := &dayBase{from: w.From, step: step, n: n, pools: map[string]*poolDay{}, nodePool: map[string]string{}, perPod: map[string]float64{}, podSeconds: map[string]float64{}, load: map[string]curve{}}
	if err := s.each(ctx, closed, func(_ int, f bill.Facts) { base.add(f) }); err != nil {
		return nil, err
	}
	if running != nil {
		base.add(*running)
	}
	base.finish()
	a.Currency, a.Money = base.currency, base.money
	s.measured(ctx, &a, base, step)
	a.Guard, err = s.guard(ctx, closed)
	return a, err
}

// A dayBase is what the hours' facts alone say of the day.
type dayBase struct {
	from time.Time
	step time.Duration
	n    int

	currency   string
	money      []moneyHour
	pools      map[string]*poolDay
	nodePool   map[string]string  // machine, or virtual node, to pool
	perPod     map[string]float64 // cores that one pod of namespace/name requests, mean
	podSeconds map[string]float64
	load       map[string]curve // namespace/name to requests a second, hourly
	covered    []bool           // by step: an hour is recorded
}

// spread adds an integral of milli-core-seconds over [f, t) to the steps it covers.
func (b *dayBase) spread(c curve, integral int64, f, t time.Time) {
	sec := t.Sub(f).Seconds()
	if sec <= 0 || integral == 0 {
		return
	}
	cores := float64(integral) / 1000 / sec
	lo, hi := f.Sub(b.from).Seconds()/b.step.Seconds(), t.Sub(b.from).Seconds()/b.step.Seconds()
	for i := max(0, int(lo)); i < b.n && float64(i) < hi; i++ {
		c[i] += cores * (min(hi, float64(i+1)) - max(lo, float64(i)))
	}
}

func (b *dayBase) add(f bill.Facts) {
	pool := func(name string) *poolDay {
		p := b.pools[name]
		if p == nil {
			p = &poolDay{Name: name, Bought: make(curve, b.n), Held: make(curve, b.n), Used: make(curve, b.n)}
			b.pools[name] = p
		}
		return p
	}
	if b.covered == nil {
		b.covered = make([]bool, b.n)
	}
	for i := max(0, int(f.From.Sub(b.from)/b.step)); i < b.n && b.from.Add(time.Duration(i)*b.step).Before(f.To); i++ {
		b.covered[i] = true
	}
	b.currency = f.Currency
	h := moneyHour{From: f.From.UTC()}
	for i := range f.Machines {
		m := &f.Machines[i]
		name, _, _ := strings.Cut(m.Name, "/")
		b.nodePool[name] = m.Pool
		b.spread(pool(m.Pool).Bought, m.CapacitySeconds[resource.CPU], m.From, m.To)
		h.BillNano += m.Bill.Sum()
	}
	for i := range f.Pods {
		p := &f.Pods[i]
		b.spread(pool(p.Pool).Held, p.HeldSeconds[resource.CPU], p.From, p.To)
		b.spread(pool(p.Pool).Used, p.UseSeconds[resource.CPU], p.From, p.To)
		h.UsedNano += p.Used.Sum()
		name := p.Module.Namespace + "/" + p.Module.Name
		b.perPod[name] += float64(p.RequestSeconds[resource.CPU]) / 1000
		b.podSeconds[name] += p.To.Sub(p.From).Seconds()
	}
	for i := range f.Loads {
		l := &f.Loads[i]
		if l.Requests < 0 {
			continue
		}
		name := l.Module.Namespace + "/" + l.Module.Name
		c := b.load[name]
		if c == nil {
			c = gaps(b.n)
			b.load[name] = c
		}
		lo, hi := int(f.From.Sub(b.from)/b.step), int(f.To.Sub(b.from)/b.step)
		for i := max(0, lo); i < min(b.n, hi); i++ {
			c[i] = float64(l.Requests) / f.To.Sub(f.From).Seconds()
		}
	}
	b.money = append(b.money, h)
}

func (b *dayBase) finish() {
	for name, sec := range b.podSeconds {
		if sec > 0 {
			b.perPod[name] /= sec
		}
	}
	for i, ok := range b.covered {
		if ok {
			continue
		}
		for _, p := range b.pools { // an hour that is not recorded is a gap, not a zero
			p.Bought[i], p.Held[i], p.Used[i] = math.NaN(), math.NaN(), math.NaN()
		}
	}
}

// measured adds what only the metrics know. A question they do not answer
// leaves the hourly figure, or a gap, and a note.
func (s *Server) measured(ctx context.Context, a *dayAnswer, b *dayBase, step time.Duration) {
	note := func(code string) {
		if !slices.Contains(a.Notes, code) {
			a.Notes = append(a.Notes, code)
		}
	}
	// A rate needs two samples in its window. Where samples are rarer than the
	// step, as in a day that runs 600 times as fast, the window grows.
	windows := []time.Duration{step}
	for _, w := range []time.Duration{5 * time.Minute, 15 * time.Minute, time.Hour} {
		if w > step {
			windows = append(windows, w)
		}
	}
	ask := func(query string) (best []metrics.Series) {
		if s.opts.Metrics == nil {
			return nil
		}
		most, chosen := 0, 0
		defer func() {
			if windows = windows[chosen:]; windows[0] > step { // what was too rare once is so again
				note(fmt.Sprintf("window: %d", int(windows[0]/time.Minute)))
			}
		}()
		for i, window := range windows {
			asked := strings.ReplaceAll(query, "$window", fmt.Sprintf("%ds", int(window/time.Second)))
			series, err := s.opts.Metrics.Range(ctx, asked, a.From.Add(step), a.From.Add(time.Duration(a.Points)*step), step)
			if err != nil {
				note("metrics: " + err.Error())
				return best
			}
			points := 0
			for _, sr := range series {
				points = max(points, len(sr.Points))
			}
			if points > most*5/4 { // a longer window fills the start as well; that alone is no reason
				most, best, chosen = points, series, i
			}
			if points*2 > a.Points || asked == query {
				break
			}
		}
		return best
	}
	// at is the step that ends at t.
	at := func(t time.Time) (int, bool) {
		i := int(math.Round(t.Sub(a.From).Seconds()/step.Seconds())) - 1
		return i, i >= 0 && i < a.Points
	}
	if s.opts.Metrics == nil {
		note("no-metrics")
	}

	load := map[string]curve{}
	for _, sr := range ask(loadQuery) {
		name := sr.Labels["namespace"] + "/" + sr.Labels["module"]
		c := gaps(a.Points)
		for _, p := range sr.Points {
			if i, ok := at(p.T); ok {
				c[i] = p.V
			}
		}
		load[name] = c
	}
	if len(load) == 0 {
		if load = b.load; s.opts.Metrics != nil && len(load) > 0 {
			note("load-hourly")
		}
	}
	for name, c := range load {
		a.Modules = append(a.Modules, moduleDay{name, c})
	}
	slices.SortFunc(a.Modules, func(x, y moduleDay) int { return strings.Compare(x.Name, y.Name) })

	ready := false
	for _, sr := range ask(readyQuery) {
		p := b.pools[sr.Labels["pool"]]
		each := b.perPod[sr.Labels["namespace"]+"/"+sr.Labels["module"]]
		if p == nil || each == 0 {
			continue
		}
		ready = true
		if p.Ready == nil {
			p.Ready = gaps(a.Points)
		}
		for _, pt := range sr.Points {
			if i, ok := at(pt.T); ok {
				if math.IsNaN(p.Ready[i]) {
					p.Ready[i] = 0
				}
				p.Ready[i] += pt.V * each
			}
		}
	}
	if !ready && s.opts.Metrics != nil {
		note("no-ready")
	}

	used := map[string]curve{}
	for _, sr := range ask(usedQuery) {
		node, _, _ := strings.Cut(sr.Labels["node"], "/")
		pool, ok := b.nodePool[node]
		if !ok {
			continue
		}
		if used[pool] == nil {
			used[pool] = gaps(a.Points)
		}
		for _, pt := range sr.Points {
			if i, ok := at(pt.T); ok {
				if math.IsNaN(used[pool][i]) {
					used[pool][i] = 0
				}
				used[pool][i] += pt.V
			}
		}
	}
	hourly := false
	for name, p := range b.pools {
		if c := used[name]; c != nil {
			p.Used = c
		} else {
			hourly = true
		}
		if p.Ready == nil {
			p.Ready = gaps(a.Points)
		}
		a.Pools = append(a.Pools, *p)
	}
	if hourly && s.opts.Metrics != nil {
		note("used-hourly")
	}
	slices.SortFunc(a.Pools, func(x, y poolDay) int { return strings.Compare(x.Name, y.Name) })
}
