package world

import (
	"math"
	"slices"
	"time"

	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/core/workload"
	"github.com/neap-dev/neap/sim/physics"
)

// Bounds are the upper ends of the latency histogram's buckets in seconds; the
// bucket without an end (+Inf) is the number of all requests.
var Bounds = [...]float64{0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30}

// A Frame is what happened between two instants. It belongs to the World and
// is overwritten by the next Step.
type Frame struct {
	From, To time.Time
	Pods     []PodFrame     // in the order they were added
	Modules  []ModuleFrame  // by key
	Machines []MachineFrame // by name
}

// A PodFrame is what one pod used.
type PodFrame struct {
	Pod      *Pod      // belongs to the World
	From, To time.Time // the part of the step it was there
	Ready    bool      // at the end of the step
	Gone     bool      // this is its last frame

	Use               resource.Vector // average over From … To; GPU thousandths in use
	CPUSeconds        float64         // in the step
	CPUSecondsTotal   float64         // since it was added
	ThrottledSeconds  float64         // core-seconds it wanted and did not get
	GPUUtilPercent    float64         // of the GPUs it asked for, 0 to 100
	RequestsPerSecond float64         // average over the step
}

// A ModuleFrame is what the users of one module met. Counters are whole
// numbers; what a step leaves over is counted in the next.
type ModuleFrame struct {
	Module workload.Key
	Load   float64 // requests a second it was asked for

	Requests, Failed           int64 // in the step
	RequestsTotal, FailedTotal int64
	BucketTotals               [len(Bounds)]int64 // requests within Bounds[i], as Prometheus counts: cumulative
	SumSecondsTotal            float64

	Success float64       // share answered in time, 0 to 1; 1 without load
	P99     time.Duration // of all requests; a failed one took its timeout. 0 without load
	P50     time.Duration

	Ready []PoolCount // pods ready at the end of the step, by pool
	Pods  int         // pods there at the end of the step
}

// A PoolCount is a number of pods in a pool.
type PoolCount struct {
	Pool string
	Pods int
}

// A MachineFrame is what one machine did.
type MachineFrame struct {
	Machine         *Machine        // belongs to the World
	Use             resource.Vector // average over the step
	CPUSecondsTotal float64
	Pods            int // at the end of the step
	// Of a machine on which batch pods use what others leave ([World.Lend]), in
	// milli-cores: what all others used, what batch pods used and could have used.
	Lent                  bool
	Online, Batch, Budget int64
}

// unknownShare is what a pod that no module of the scenario describes uses of
// its requests: system pods, and what users start by hand.
const unknownShare = 0.2

// Step advances to another instant, not before the last one, and returns what
// happened. load gives the requests a second of a module, the average over the
// step. Steps of a minute or less are right; longer ones smear what changes.
func (w *World) Step(from, to time.Time, load func(workload.Key) float64) *Frame {
	f := &w.frame
	*f = Frame{From: from, To: to, Pods: f.Pods[:0], Modules: f.Modules[:0], Machines: f.Machines[:0]}
	span := to.Sub(from).Seconds()
	if span <= 0 {
		return f
	}

	// 1. How long each pod was there and ready.
	for _, p := range w.podOrder {
		start, end := later(p.from, from), to
		if !p.gone.IsZero() && p.gone.Before(to) {
			end = p.gone
		}
		p.alive = max(0, end.Sub(start).Seconds())
		p.up, p.rps, p.inFlight = 0, 0, 0
		if !p.ready.IsZero() {
			p.up = max(0, end.Sub(later(p.ready, start)).Seconds())
		}
		p.need = 0
	}

	// 2. The modules' load falls on their ready pods.
	asked := make([]float64, len(w.modOrder))
	served := make([]float64, len(w.modOrder)) // share that finds a ready pod
	for i, m := range w.modOrder {
		if m.spec.Load == nil || load == nil {
			continue
		}
		asked[i] = max(0, load(m.key))
		up := 0.0
		for _, p := range m.pods {
			up += p.up
		}
		if up <= 0 {
			continue
		}
		served[i] = min(1, up/span)
		for _, p := range m.pods {
			if p.up > 0 {
				p.rps = asked[i] * served[i] * span / up
			}
		}
	}

	// 3. Every machine divides its cores.
	for _, m := range w.order {
		w.share(m)
	}

	// 4. What the users feel; it needs the cores.
	for i, m := range w.modOrder {
		f.Modules = append(f.Modules, w.serve(m, asked[i], served[i], span))
	}

	// 5. What everybody used.
	for _, m := range w.order {
		mf := MachineFrame{Machine: &m.Machine}
		for _, p := range m.pods {
			pf := w.use(p, f, span)
			part := p.alive / span
			for k := range mf.Use {
				mf.Use[k] += int64(math.Round(float64(pf.Use[k]) * part))
			}
			m.cpu += pf.CPUSeconds
			if !pf.Gone {
				mf.Pods++
			}
		}
		mf.CPUSecondsTotal = m.cpu
		mf.Lent, mf.Online, mf.Batch, mf.Budget = m.lent, toMilli(m.online), toMilli(m.batch), toMilli(m.budget)
		f.Machines = append(f.Machines, mf)
	}
	for _, p := range w.podOrder {
		if p.alive > 0 || !p.gone.IsZero() {
			f.Pods = append(f.Pods, w.use(p, f, span))
			p.cpuSum = f.Pods[len(f.Pods)-1].CPUSecondsTotal
		}
	}

	// 6. Those that are gone are forgotten.
	w.sweep(to)
	return f
}

// sweep forgets the pods gone by the end of a step, all at once.
func (w *World) sweep(to time.Time) {
	gone := func(p *podState) bool { return !p.gone.IsZero() && !p.gone.After(to) }
	if !slices.ContainsFunc(w.podOrder, gone) {
		return
	}
	for _, p := range w.podOrder {
		if gone(p) {
			delete(w.pods, p.ID)
		}
	}
	for _, m := range w.order {
		m.pods = slices.DeleteFunc(m.pods, gone)
	}
	for _, m := range w.modOrder {
		m.pods = slices.DeleteFunc(m.pods, gone)
	}
	w.podOrder = slices.DeleteFunc(w.podOrder, gone)
}

// share divides a machine's cores over its pods.
func (w *World) share(m *machineState) {
	w.claims, w.grants = w.claims[:0], w.grants[:0]
	weights, n := 0.0, 0
	for _, p := range m.pods {
		c := physics.Claim{Weight: float64(p.Requests[resource.CPU]) / 1000, Limit: float64(p.Limits[resource.CPU]) / 1000}
		if p.Batch && p.spec != nil && p.spec.Work != nil {
			c.Weight = float64(p.spec.Work.Use[resource.CPU]) / 1000 // it asks for no CPU
		}
		if p.alive > 0 {
			c.Demand = p.demand(m.RatingMillis)
			if !(m.lent && p.Batch) { // what batch has, the others can have at once
				weights += c.Weight
			}
			n++
		}
		w.claims = append(w.claims, c)
		w.grants = append(w.grants, 0)
	}
	capacity := float64(m.Capacity[resource.CPU]) / 1000
	if m.Serverless {
		capacity = math.Inf(1)
	}
	if m.lent {
		w.lend(m, capacity)
	} else {
		physics.Share(capacity, w.claims, w.grants)
	}
	free := capacity
	for i, g := range w.grants {
		if !(m.lent && m.pods[i].Batch) {
			free -= g
		}
	}
	for i, p := range m.pods {
		c := w.claims[i]
		p.need, p.grant = c.Demand, w.grants[i]
		if m.Serverless {
			// It is as large as the pod asked and paid for; there is nobody to
			// borrow from.
			if p.avail = c.Weight; p.avail <= 0 {
				p.avail = p.grant
			}
			p.grant = min(p.grant, p.avail)
			continue
		}
		fair := 0.0
		if weights > 0 {
			fair = capacity * c.Weight / weights
		}
		p.avail = c.Available(w.grants[i], free, fair)
	}
}

// leastBatch is what every batch pod keeps, in cores.
const leastBatch = 0.01

// lend divides the cores of a machine on which batch pods use what the others leave.
func (w *World) lend(m *machineState, capacity float64) {
	online, batch := slices.Clone(w.claims), slices.Clone(w.claims)
	pods := 0
	for i, p := range m.pods {
		if p.Batch {
			online[i].Demand = 0
			if p.alive > 0 {
				pods++
			}
		} else {
			batch[i].Demand = 0
		}
	}
	physics.Share(capacity, online, w.grants)
	m.online, m.batch = 0, 0
	for i, p := range m.pods {
		if !p.Batch {
			m.online += w.grants[i]
		}
	}
	m.budget = min(max(float64(m.most)/1000-m.online, leastBatch*float64(pods)), max(capacity-m.online, 0))
	grants := make([]float64, len(batch))
	physics.Share(m.budget, batch, grants)
	for i, p := range m.pods {
		if p.Batch {
			w.grants[i] = grants[i]
			m.batch += grants[i]
		}
	}
}

func toMilli(cores float64) int64 { return int64(math.Round(cores * 1000)) }

// demand is the cores a pod would use if it were alone, averaged over the time
// it is there.
func (p *podState) demand(rating int64) float64 {
	s := p.spec
	switch {
	case s == nil:
		return unknownShare * float64(p.Requests[resource.CPU]) / 1000
	case s.Work != nil:
		// Jobs are described by what they use of a core rated 1; a faster core
		// does the same work in less time, not with less use.
		return float64(s.Work.Use[resource.CPU]) / 1000 * p.up / p.alive
	}
	return physics.Need(float64(s.Needs.BaseCPU)/1000, p.rps*p.up/p.alive, s.Needs.CPUPerRequest.Seconds(), rating)
}

// station is the narrowest place of a pod.
func (p *podState) station() physics.Station {
	n := &p.spec.Needs
	rating := float64(p.machine.RatingMillis) / 1000
	if rating <= 0 {
		rating = 1
	}
	cpu := n.CPUPerRequest.Seconds() / rating
	gpu := n.GPUPerRequest.Seconds()
	service := n.ServiceTime.Seconds() + cpu + gpu
	st := physics.Station{Servers: 1, Capacity: math.Inf(1), Service: time.Duration(service * float64(time.Second)), Timeout: n.Timeout}
	narrow := func(servers, capacity float64) {
		if capacity < st.Capacity {
			st.Capacity, st.Servers = capacity, max(1, int(servers))
		}
	}
	if n.Concurrency > 0 && service > 0 {
		narrow(float64(n.Concurrency), float64(n.Concurrency)/service)
	}
	if cpu > 0 {
		base := float64(n.BaseCPU) / 1000 / rating
		cores := max(0, p.avail-base)
		narrow(cores, cores/cpu)
	}
	if gpu > 0 {
		gpus := float64(p.Requests[resource.GPU]) / 1000
		narrow(gpus, gpus/gpu)
	}
	if math.IsInf(st.Capacity, 1) {
		st.Capacity = 1e9
	}
	return st
}

// serve adds a step to a module's counters.
func (w *World) serve(m *moduleState, asked, found, span float64) ModuleFrame {
	mf := ModuleFrame{Module: m.key, Load: asked, Success: 1}
	w.serving = w.serving[:0]
	for _, p := range m.pods {
		if !p.gone.IsZero() && !p.gone.After(w.frame.To) {
			if p.up > 0 {
				w.serving = append(w.serving, p)
			}
			continue
		}
		mf.Pods++
		if !p.ready.IsZero() && p.ready.Before(w.frame.To) {
			mf.Ready = countPool(mf.Ready, p.machine.Pool)
		}
		if p.up > 0 {
			w.serving = append(w.serving, p)
		}
	}
	was := *m
	all := asked * span
	if all > 0 {
		timeout := m.spec.Needs.Timeout.Seconds()
		if timeout <= 0 {
			timeout = 10
		}
		var step [len(Bounds)]float64 // answered within, this step
		failed, sum := all*(1-found), 0.0
		for _, p := range w.serving {
			n := p.rps * p.up
			key := serveKey{p.station(), p.rps}
			if key != m.last {
				m.last, m.lastOut = key, key.station.Serve(p.rps)
				for b, le := range Bounds {
					m.lastTail[b] = 1 - m.lastOut.Slower(time.Duration(le*float64(time.Second)))
				}
			}
			p.outcome = m.lastOut
			ok := n * p.outcome.Success
			failed += n - ok
			mean := p.outcome.Mean().Seconds()
			p.inFlight = p.rps * mean
			sum += ok * mean
			for b := range step {
				step[b] += ok * m.lastTail[b]
			}
		}
		failed = min(max(failed, 0), all)
		sum += failed * timeout
		for b, le := range Bounds {
			if le >= timeout {
				step[b] += failed
			}
			m.buckets[b] += min(step[b], all)
		}
		m.requests += all
		m.failed += failed
		m.sum += sum
		mf.Success = 1 - failed/all
		mf.P50, mf.P99 = quantile(0.5, step[:], all), quantile(0.99, step[:], all)
	}
	mf.RequestsTotal, mf.FailedTotal = int64(m.requests), int64(m.failed)
	mf.Requests, mf.Failed = mf.RequestsTotal-int64(was.requests), mf.FailedTotal-int64(was.failed)
	for b := range mf.BucketTotals {
		mf.BucketTotals[b] = min(int64(m.buckets[b]), mf.RequestsTotal)
	}
	mf.SumSecondsTotal = m.sum
	return mf
}

// quantile reads a histogram as PromQL's histogram_quantile does.
func quantile(p float64, cumulative []float64, all float64) time.Duration {
	want := p * all
	below, lo := 0.0, 0.0
	for b, n := range cumulative {
		if n >= want {
			if n > below {
				lo += (Bounds[b] - lo) * (want - below) / (n - below)
			}
			return time.Duration(lo * float64(time.Second))
		}
		below, lo = n, Bounds[b]
	}
	return time.Duration(Bounds[len(Bounds)-1] * float64(time.Second))
}

func countPool(counts []PoolCount, pool string) []PoolCount {
	for i := range counts {
		if counts[i].Pool == pool {
			counts[i].Pods++
			return counts
		}
	}
	counts = append(counts, PoolCount{Pool: pool, Pods: 1})
	slices.SortFunc(counts, func(a, b PoolCount) int {
		switch {
		case a.Pool < b.Pool:
			return -1
		case a.Pool > b.Pool:
			return 1
		}
		return 0
	})
	return counts
}

// use is what a pod used in the step; it changes nothing.
func (w *World) use(p *podState, f *Frame, span float64) PodFrame {
	end := f.To
	gone := !p.gone.IsZero() && !p.gone.After(f.To)
	if gone {
		end = p.gone
	}
	pf := PodFrame{Pod: &p.Pod, From: later(p.from, f.From), To: end, Gone: gone, Ready: !p.ready.IsZero() && p.ready.Before(f.To) && !gone}
	if pf.To.Before(pf.From) {
		pf.From = pf.To
	}
	pf.CPUSeconds = p.grant * p.alive
	pf.CPUSecondsTotal = p.cpuSum + pf.CPUSeconds
	if p.alive <= 0 {
		pf.CPUSeconds, pf.CPUSecondsTotal = 0, p.cpuSum
		return pf
	}
	pf.ThrottledSeconds = max(0, p.need-p.grant) * p.alive
	pf.RequestsPerSecond = p.rps * p.up / span

	memory := unknownShare * float64(p.Requests[resource.Memory])
	gpu := 0.0 // GPUs in use while it is there
	if s := p.spec; s != nil {
		switch {
		case s.Work != nil:
			memory = float64(s.Work.Use[resource.Memory])
			gpu = float64(s.Work.Use[resource.GPU]) / 1000 * p.up / p.alive
		default:
			memory = float64(s.Needs.BaseMemory) + float64(s.Needs.MemoryPerRequest)*p.inFlight
			gpu = p.rps * p.outcome.Success * s.Needs.GPUPerRequest.Seconds() * p.up / p.alive
			if p.up == 0 {
				gpu = 0
			}
		}
	}
	if l := float64(p.Limits[resource.Memory]); l > 0 {
		memory = min(memory, l)
	}
	gpus := float64(p.Requests[resource.GPU]) / 1000
	gpu = min(gpu, gpus)
	if gpus > 0 {
		pf.GPUUtilPercent = 100 * gpu / gpus
	}
	pf.Use = resource.Vector{
		resource.CPU:    int64(math.Round(p.grant * 1000)),
		resource.Memory: int64(memory),
		resource.GPU:    int64(math.Round(gpu * 1000)),
	}
	return pf
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
