package replay

import (
	"fmt"
	"time"

	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/core/quality"
	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/core/workload"
	"github.com/neap-dev/neap/sim/world"
)

// A histogram counts requests by latency: cumulative over world.Bounds, and all.
type histogram struct {
	within [len(world.Bounds)]int64
	all    int64
}

// quantile returns seconds, as PromQL's histogram_quantile does.
func (h *histogram) quantile(p float64) float64 {
	if h.all == 0 {
		return 0
	}
	want := p * float64(h.all)
	below, lo := 0.0, 0.0
	for i, c := range h.within {
		n := float64(c)
		if n >= want {
			if n > below {
				lo += (world.Bounds[i] - lo) * (want - below) / (n - below)
			}
			return lo
		}
		below, lo = n, world.Bounds[i]
	}
	return lo
}

// hourSums are integrals since the hour began, milli-core-seconds.
type hourSums struct {
	from                    time.Time
	used, requested, bought map[string]float64 // by pool
	gpuUsed, gpuBought      map[string]float64
}

// pointSums are integrals since the last point.
type pointSums struct {
	from                    time.Time
	load                    float64
	used, requested, bought map[string]float64
}

func add(m *map[string]float64, k string, v float64) {
	if *m == nil {
		*m = map[string]float64{}
	}
	(*m)[k] += v
}

// tick advances the physics to now, and closes what is full.
func (r *run) tick() {
	now := r.e.Now()
	r.advance(now)
	if !now.Truncate(time.Hour).Before(now) {
		r.closeHour(now)
		if r.o.Progress != nil {
			r.o.Progress(now)
		}
	}
	if len(r.scalers) > 0 && now.Sub(r.scaled) >= time.Minute {
		r.scaled = now
		r.scale()
	}
	// The next step, but never across a full hour.
	next := now.Add(r.o.Step)
	if full := now.Truncate(time.Hour).Add(time.Hour); full.Before(next) {
		next = full
	}
	r.e.At(next, r.tick)
}

// advance steps the world from where it stands to an instant.
func (r *run) advance(to time.Time) {
	from := r.stepped
	if !to.After(from) {
		return
	}
	r.stepped = to
	mid := from.Add(to.Sub(from) / 2)
	span := to.Sub(from).Seconds()
	total := 0.0
	f := r.world.Step(from, to, func(k workload.Key) float64 {
		rps, known := r.s.Requests(r.s.Module(k), mid)
		m := r.modules[k]
		if !known {
			r.result.Counts.GapMinutes++
			m.gaps++
			return 0
		}
		if m.scaler != nil {
			m.scaler.asked += rps * span
			m.scaler.seconds += span
		}
		total += rps
		m.high = max(m.high, rps)
		if m.low < 0 || rps < m.low {
			m.low = rps
		}
		return rps
	})

	if r.o.Frame != nil {
		r.o.Frame(f)
	}

	// 1. Pods: their use for the bill.
	ready := map[string]int{}
	readyMilli := map[string]int64{}
	pods := 0
	for i := range f.Pods {
		p := &f.Pods[i]
		secs := p.To.Sub(p.From).Seconds()
		if secs > 0 {
			r.samples[p.Pod.ID] = append(r.samples[p.Pod.ID], bill.Sample{From: p.From, To: p.To, Use: p.Use})
		}
		pool := r.poolOf(p.Pod.Machine)
		add(&r.hour.used, pool, float64(p.Use[resource.CPU])*secs)
		add(&r.hour.gpuUsed, pool, float64(p.Use[resource.GPU])*secs)
		add(&r.hour.requested, pool, float64(p.Pod.Requests[resource.CPU])*secs)
		add(&r.point.used, pool, float64(p.Use[resource.CPU])*secs)
		add(&r.point.requested, pool, float64(p.Pod.Requests[resource.CPU])*secs)
		if p.Ready {
			ready[pool]++
			readyMilli[pool] += p.Pod.Requests[resource.CPU]
		}
		if !p.Gone {
			pods++
		}
	}
	// 2. Machines: what was bought.
	for i := range f.Machines {
		m := f.Machines[i].Machine
		have := span
		if m.Serverless { // it lives as long as its pod, which is in this frame
			continue
		}
		add(&r.hour.bought, m.Pool, float64(m.Capacity[resource.CPU])*have)
		add(&r.hour.gpuBought, m.Pool, float64(m.Capacity[resource.GPU])*have)
		add(&r.point.bought, m.Pool, float64(m.Capacity[resource.CPU])*have)
	}
	for i := range r.s.Pools {
		if p := &r.s.Pools[i]; p.Capacity.IsZero() { // serverless: what is requested is bought
			r.boughtAsRequested(f, p.Name)
		}
	}
	// 3. Modules: what their users met.
	for i := range f.Modules {
		mf := &f.Modules[i]
		m := r.modules[mf.Module]
		m.requests += mf.Requests
		m.failed += mf.Failed
		m.hourReqs += mf.Requests
		m.hourFail += mf.Failed
		m.hour.all += mf.Requests
		m.total.all += mf.Requests
		for b, v := range mf.BucketTotals {
			m.hour.within[b] += v - m.last[b]
			m.total.within[b] += v - m.last[b]
			m.last[b] = v
		}
	}
	for _, p := range r.pending {
		if p.spec.Work == nil && to.Sub(p.created) > time.Minute {
			r.result.Counts.ReplicasWaiting++
			if p.request[resource.GPU] > 0 {
				r.result.Counts.WaitingGPU++
			}
		}
	}
	// 4. Machines that went are forgotten now that their last seconds are counted.
	for _, name := range r.gone {
		if r.machines[name] == nil {
			r.world.RemoveMachine(name)
		}
	}
	r.gone = r.gone[:0]

	r.point.load += total * span
	if to.Sub(r.point.from) >= r.o.Point || !to.Before(r.end) {
		r.addPoint(to, pods, ready, readyMilli)
	}
}

func (r *run) boughtAsRequested(f *world.Frame, pool string) {
	for i := range f.Pods {
		p := &f.Pods[i]
		if r.poolOf(p.Pod.Machine) != pool {
			continue
		}
		secs := p.To.Sub(p.From).Seconds()
		add(&r.hour.bought, pool, float64(p.Pod.Requests[resource.CPU])*secs)
		add(&r.point.bought, pool, float64(p.Pod.Requests[resource.CPU])*secs)
	}
}

func (r *run) poolOf(machine string) string { return r.world.PoolOf(machine) }

func (r *run) addPoint(to time.Time, pods int, ready map[string]int, readyMilli map[string]int64) {
	span := to.Sub(r.point.from).Seconds()
	pt := Point{T: to, Load: round2(r.point.load / span), Pods: pods}
	for i := range r.s.Pools {
		name := r.s.Pools[i].Name
		pt.Ready += ready[name]
		pt.Pools = append(pt.Pools, PoolPoint{Name: name, Ready: ready[name], ReadyMilli: readyMilli[name],
			UsedMilli: int64(r.point.used[name] / span), RequestedMilli: int64(r.point.requested[name] / span), BoughtMilli: int64(r.point.bought[name] / span)})
	}
	r.result.Curves = append(r.result.Curves, pt)
	r.point = pointSums{from: to}
}

func round2(v float64) float64 { return float64(int64(v*100+0.5)) / 100 }

// closeHour closes the time since the last full hour.
func (r *run) closeHour(to time.Time) {
	from := r.hour.from
	if !to.After(from) || r.err != nil {
		return
	}
	h := r.journal.Hour(from, to)
	bill.AttachUsage(&h, r.samples)
	clear(r.samples)
	for _, k := range r.keys {
		h.Loads = append(h.Loads, r.loadOf(k, to))
	}
	facts, err := bill.Close(h, r.book, bill.Options{})
	if err != nil {
		r.fail(fmt.Errorf("close the hour from %s: %w", from.Format(time.RFC3339), err))
		return
	}
	r.result.Facts = append(r.result.Facts, facts)
	r.addHour(from, to, &facts)
	r.journal.Forget(to)
	r.hour = hourSums{from: to}
	if r.o.Sink != nil {
		if err := r.o.Sink.WriteHour(r.ctx, facts); err != nil {
			r.fail(err)
		}
	}
}

// loadOf is what a module was asked in the hour, and how well it answered.
func (r *run) loadOf(k workload.Key, at time.Time) bill.Load {
	m, spec := r.modules[k], r.s.Module(k)
	l := bill.Load{Module: k, Requests: -1}
	if spec.Load != nil {
		l.Requests = m.hourReqs
		if m.hourReqs > 0 && m.gaps == 0 {
			l.Known = true
			l.SuccessMicros = 1_000_000 - bigShare(m.hourFail, m.hourReqs)
			p99 := m.hour.quantile(0.99)
			l.P99 = time.Duration(p99 * float64(time.Second))
			g := quality.Guard{SuccessMicros: spec.Targets.SuccessMicros, P99: spec.Targets.P99}
			v := g.Judge(quality.Observation{At: at, Success: float64(l.SuccessMicros) / 1e6, P99: p99})
			l.Met = v.Status == quality.Met || g.IsZero()
			if l.Met {
				m.met++
			} else {
				m.broken++
			}
		}
	}
	m.hourReqs, m.hourFail, m.gaps, m.hour = 0, 0, 0, histogram{}
	return l
}

// bigShare is part ÷ whole in millionths.
func bigShare(part, whole int64) int64 {
	return int64(float64(part) / float64(whole) * 1e6)
}

func (r *run) addHour(from, to time.Time, f *bill.Facts) {
	span := to.Sub(from).Seconds()
	h := Hour{From: from, To: to}
	for i := range f.Machines {
		h.BillNano += int64(f.Machines[i].Bill.Sum())
	}
	for i := range r.s.Pools {
		name := r.s.Pools[i].Name
		c := Capacity{
			UsedMilli: int64(r.hour.used[name] / span), RequestedMilli: int64(r.hour.requested[name] / span), BoughtMilli: int64(r.hour.bought[name] / span),
			GPUUsedMilli: int64(r.hour.gpuUsed[name] / span), GPUBoughtMilli: int64(r.hour.gpuBought[name] / span),
		}
		c.set()
		h.Pools = append(h.Pools, Pool{name, c})
		h.Total.UsedMilli += c.UsedMilli
		h.Total.RequestedMilli += c.RequestedMilli
		h.Total.BoughtMilli += c.BoughtMilli
		h.Total.GPUUsedMilli += c.GPUUsedMilli
		h.Total.GPUBoughtMilli += c.GPUBoughtMilli
	}
	h.Total.set()
	r.result.Hours = append(r.result.Hours, h)
}

func (c *Capacity) set() {
	if c.BoughtMilli > 0 {
		c.Utilisation = float64(int64(float64(c.UsedMilli)/float64(c.BoughtMilli)*10000+0.5)) / 10000
	}
}
