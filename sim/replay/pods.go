package replay

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/core/place"
	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/core/workload"
	"github.com/neap-dev/neap/sim/physics"
	"github.com/neap-dev/neap/sim/scenario"
	"github.com/neap-dev/neap/sim/world"
)

// stopTime is how long a deleted pod takes to end.
const stopTime = time.Second

// A pod from its creation until it is gone.
type pod struct {
	id      string
	number  int // in order of creation
	created time.Time
	module  *module
	spec    *scenario.Module
	version int
	request resource.Vector
	limits  resource.Vector
	start   physics.Drawn
	work    float64 // the die that decides how long a job works

	pool    string
	machine string // "" while pending
	piece   *piece // of a machine whose GPUs are shared; nil elsewhere
	virtual bool
	readyAt time.Time // zero until ready
	ending  bool
	why     string // it is pending
	cost    int32  // those of lower cost leave first
	cut     bool   // it gets no traffic, for it is about to leave
}

// A module and its pods.
type module struct {
	key    workload.Key
	pods   []*pod  // that are not ending, in order of creation
	scaler *scaler // nil without a policy

	// What its users met.
	requests, failed   int64 // so far
	hourReqs, hourFail int64
	last               [len(world.Bounds)]int64
	hour, total        histogram
	high, low          float64
	met, broken, most  int
	gaps               int // minutes of the hour
}

// A node is a machine that was bought.
type node struct {
	pool    *scenario.Pool
	index   int
	leaving bool
	ready   bool
}

func nodeName(pool string, i int) string { return fmt.Sprintf("%s-%03d", pool, i) }

// buy adds machine i of a pool; it takes pods after a while.
func (r *run) buy(p *scenario.Pool, i int, after time.Duration) {
	name := nodeName(p.Name, i)
	if n := r.machines[name]; n != nil {
		n.leaving = false // it was about to go and stays
		if n.ready {
			r.setClosed(name, false)
			r.machineEvent(p, name, i, false)
			r.retry()
		}
		return
	}
	n := &node{pool: p, index: i}
	r.machines[name] = n
	zone := p.Zones[i%len(p.Zones)]
	r.fleet.Add(place.Machine{Name: name, Pool: p.Name, Domain: zone, Allocatable: p.Allocatable, MaxPods: p.MaxPods, Closed: after > 0})
	if !p.PerGPU.IsZero() {
		spare := p.Allocatable
		spare[resource.GPU] = 0
		for _, k := range []resource.Kind{resource.CPU, resource.Memory} {
			spare[k] = max(0, spare[k]-p.PerGPU[k]*p.Allocatable[resource.GPU]/1000)
		}
		r.spare.Add(place.Machine{Name: name, Pool: p.Name, Domain: zone, Allocatable: spare, MaxPods: p.MaxPods, Closed: after > 0})
	}
	r.sharing.add(name, p)
	rating := int64(0)
	if t, ok := r.state.Types[p.MachineType]; ok {
		rating = t.Rating()
	}
	r.world.AddMachine(world.Machine{Name: name, Pool: p.Name, Type: p.MachineType, Capacity: p.Capacity, RatingMillis: rating})
	r.machineEvent(p, name, i, after > 0)
	r.result.Counts.MachinesMost = max(r.result.Counts.MachinesMost, len(r.machines))
	r.owned[p.Name]++
	most := &r.result.Counts.OwnedMost
	if *most == nil {
		*most = map[string]int{}
	}
	(*most)[p.Name] = max((*most)[p.Name], r.owned[p.Name])
	open := func() {
		n.ready = true
		if r.machines[name] == n && !n.leaving {
			r.setClosed(name, false)
			if after > 0 {
				r.machineEvent(p, name, i, false)
			}
			r.retry()
		}
	}
	if after > 0 {
		r.e.After(after, open)
	} else {
		open()
	}
}

func (r *run) setClosed(name string, closed bool) {
	r.fleet.SetClosed(name, closed)
	r.spare.SetClosed(name, closed)
}

// machineEvent tells the bill of a machine.
func (r *run) machineEvent(p *scenario.Pool, name string, i int, closed bool) {
	spare := resource.Vector{}
	for k, v := range p.Allocatable {
		spare[k] = v * p.SparePerMil / 1000
	}
	r.journal.Apply(bill.Event{At: r.e.Now(), Kind: bill.MachineSeen, Name: name, Machine: &bill.Machine{
		Name: name, Pool: p.Name, Type: p.MachineType, Capacity: p.Capacity, Allocatable: p.Allocatable, Spare: spare,
		Domain: p.Zones[i%len(p.Zones)], Closed: closed, MaxPods: p.MaxPods,
	}})
}

// resizePool buys or gives back machines; the newest go first.
func (r *run) resizePool(p *scenario.Pool, from, to int) {
	why := r.because(p.Name, "the pool's schedule")
	inputs := map[string]string{"from": fmt.Sprint(from), "to": fmt.Sprint(to)}
	for i := range to {
		r.buy(p, i, p.StartTime)
	}
	if to > from {
		r.decide("buy", "elastic", p.Name, why, inputs)
		return
	}
	r.decide("give-back", "elastic", p.Name, why, inputs)
	for i := from - 1; i >= to; i-- {
		r.giveBack(nodeName(p.Name, i))
	}
}

// giveBack closes a machine, moves its pods and returns it.
func (r *run) giveBack(name string) {
	n := r.machines[name]
	if n == nil || n.leaving {
		return
	}
	n.leaving = true
	r.setClosed(name, true)
	r.machineEvent(n.pool, name, n.index, true)
	for _, uid := range r.fleet.On(name) {
		p := r.pods[uid]
		if p == nil || p.ending {
			continue
		}
		r.remove(p)
		if p.spec.Work != nil { // its work begins again elsewhere
			r.create(p.module, r.state.Modules[p.module.key])
		}
		r.reconcile(p.module)
	}
	r.e.After(stopTime, func() {
		if r.machines[name] != n || !n.leaving {
			return
		}
		r.fleet.Remove(name)
		r.spare.Remove(name)
		r.sharing.drop(name)
		delete(r.machines, name)
		r.owned[n.pool.Name]--
		r.journal.Apply(bill.Event{At: r.e.Now(), Kind: bill.MachineGone, Name: name})
		r.gone = append(r.gone, name)
	})
}

// create makes a pod of a module and asks for its binding.
func (r *run) create(m *module, s scenario.ModuleState) {
	r.nextID++
	r.result.Counts.PodsCreated++
	p := &pod{id: fmt.Sprintf("%s/%s-%06d", m.key.Namespace, m.key.Name, r.nextID), number: r.nextID, created: r.e.Now(), module: m, spec: s.Spec, version: s.Version, request: s.Requests, limits: s.Limits}
	dice := r.e.Dice(p.id)
	if p.start = s.Spec.Start.Draw(dice.Float64); r.filling {
		p.start = physics.Drawn{}
	}
	p.work = dice.Float64()
	r.pods[p.id] = p
	m.pods = append(m.pods, p)
	m.most = max(m.most, len(m.pods))
	r.result.Counts.PodsMost = max(r.result.Counts.PodsMost, len(r.pods))
	r.e.After(p.start.Bound(), func() { r.bind(p) })
}

// bind finds a machine for a pod, pool by pool in the module's order.
func (r *run) bind(p *pod) {
	if p.ending || p.machine != "" {
		return
	}
	if p.spec.GPU != nil {
		if !r.bindPiece(p) {
			r.wait(p, "no machine has the GPUs, the cores and the memory left")
		}
		return
	}
	why := map[place.Reason]int{}
	for _, name := range p.spec.Places() {
		pool := r.s.Pool(name)
		if a := p.module.scaler; a != nil && len(a.plan) > 0 && a.m.in(name) >= a.plan[name]+a.extra(r) {
			why["the policy plans no more of its pods in the pool"]++
			continue
		}
		if pool.Kind == scenario.Serverless {
			if pool.Limit > 0 && r.virtual[name] >= pool.Limit {
				why["the pool's limit of pods is reached"]++
				continue
			}
			r.bindVirtual(p, pool)
			return
		}
		want := place.Pod{Request: p.request, Owner: p.module.key.String(), Pools: []string{name}}
		if p.spec.Alone {
			want.Alone = p.module.key.String()
		}
		seen := r.fleetFor(pool, p.request)
		on, no := seen.Pick(want)
		if on != "" && r.fleet.Fit(want, on) == place.Fits {
			r.fleet.Bind(p.id, want, on)
			if seen != &r.fleet {
				seen.Bind(p.id, want, on)
			}
			r.bound(p, name, on)
			return
		}
		for k, v := range no {
			why[k] += v
		}
	}
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(why)) {
		if k != place.WrongPool {
			parts = append(parts, fmt.Sprintf("%d machines: %s", why[k], k))
		}
	}
	r.wait(p, strings.Join(parts, ", "))
}

// wait puts a pod aside until something changes.
func (r *run) wait(p *pod, why string) {
	p.why = why
	if !slices.Contains(r.pending, p) {
		r.pending = append(r.pending, p)
		r.result.Counts.PendingMost = max(r.result.Counts.PendingMost, len(r.pending))
	}
}

// bindVirtual buys a pod's own serverless machine.
func (r *run) bindVirtual(p *pod, pool *scenario.Pool) {
	node := "virtual-" + pool.Name
	name := node + "/" + p.id
	p.virtual = true
	r.virtual[pool.Name]++
	r.result.Counts.ServerlessPods++
	t := r.state.Types[pool.MachineType]
	zone := pool.Zones[0]
	r.world.AddMachine(world.Machine{Name: name, Pool: pool.Name, Type: pool.MachineType, Capacity: p.request, RatingMillis: t.Rating(), Serverless: true})
	r.journal.Apply(bill.Event{At: r.e.Now(), Kind: bill.MachineSeen, Name: name, Machine: &bill.Machine{
		Name: name, Pool: pool.Name, Type: pool.MachineType, Capacity: p.request, Allocatable: p.request, Serverless: true, Domain: zone, MaxPods: 1,
	}})
	r.bound(p, pool.Name, name)
}

// bound starts a pod on its machine.
func (r *run) bound(p *pod, pool, machine string) {
	now := r.e.Now()
	p.machine, p.pool = machine, pool
	r.hold(p)
	_, short, _ := strings.Cut(p.id, "/")
	rules := bill.Rules{Pools: p.spec.Places()}
	if a := p.module.scaler; a != nil {
		p.cost = a.deletionCost(r, pool, machine)
	}
	if p.spec.Alone {
		rules.Alone = p.module.key.String()
	}
	r.journal.Apply(bill.Event{At: now, Kind: bill.PodSeen, Name: p.id, Pod: &bill.Pod{
		UID: p.id, Namespace: p.module.key.Namespace, Name: short, Module: p.module.key, Machine: machine,
		Labels:   map[string]string{"app.kubernetes.io/name": p.module.key.Name, "neap.dev/kind": string(p.spec.Kind)},
		Requests: []bill.Step{{At: now, Request: p.request}}, Rules: rules,
	}})
	r.world.AddPod(world.Pod{ID: p.id, Namespace: p.module.key.Namespace, Name: short, Module: p.module.key, Machine: machine, Requests: p.request, Limits: p.limits}, now)
	r.e.After(p.start.AfterBound(), func() {
		if p.ending {
			return
		}
		p.readyAt = r.e.Now()
		r.world.SetReady(p.id, p.readyAt)
		if a := p.module.scaler; a != nil && !r.filling {
			r.started(a, p)
		}
		if w := p.spec.Work; w != nil {
			rating := r.state.Types[r.s.Pool(pool).MachineType].Rating()
			r.e.After(w.RunTime.At(p.work)*1000/time.Duration(rating), func() { r.finished(p) })
			return
		}
		r.reconcile(p.module)
	})
}

// finished ends a pod that has done its work.
func (r *run) finished(p *pod) {
	if p.ending {
		return
	}
	p.ending = true
	p.module.pods = slices.DeleteFunc(p.module.pods, func(q *pod) bool { return q == p })
	r.release(p)
}

// remove deletes a pod: it takes no more load, and is gone a moment later.
func (r *run) remove(p *pod) {
	p.ending = true
	p.module.pods = slices.DeleteFunc(p.module.pods, func(q *pod) bool { return q == p })
	if p.machine == "" {
		r.pending = slices.DeleteFunc(r.pending, func(q *pod) bool { return q == p })
		delete(r.pods, p.id)
		return
	}
	r.world.SetUnready(p.id)
	r.e.After(stopTime, func() { r.release(p) })
}

// release takes a pod off its machine.
func (r *run) release(p *pod) {
	now := r.e.Now()
	r.journal.Apply(bill.Event{At: now, Kind: bill.PodGone, Name: p.id})
	r.world.RemovePod(p.id, now)
	if p.virtual {
		r.virtual[p.pool]--
		r.journal.Apply(bill.Event{At: now, Kind: bill.MachineGone, Name: p.machine})
		r.gone = append(r.gone, p.machine)
	} else {
		r.fleet.Unbind(p.id)
		r.spare.Unbind(p.id)
		r.letGo(p)
	}
	delete(r.pods, p.id)
	r.retry()
}

// retry tries to bind what waits, once a moment.
func (r *run) retry() {
	if len(r.pending) == 0 || r.retrying {
		return
	}
	r.retrying = true
	r.e.After(0, func() {
		r.retrying = false
		waiting := r.pending
		r.pending = nil
		for _, p := range waiting {
			r.bind(p)
		}
	})
}

// resizePods changes what running pods ask for, in place.
func (r *run) resizePods(m *module, s scenario.ModuleState) {
	for _, p := range m.pods {
		was := p.request[resource.GPU]
		p.request, p.limits = s.Requests, s.Limits
		if p.piece != nil {
			p.request[resource.GPU] = was
			changed := *p.piece
			changed.demand.CPU, changed.demand.Memory = p.request[resource.CPU], p.request[resource.Memory]
			r.letGo(p)
			p.piece = &changed
			r.hold(p)
		}
		if p.machine == "" || p.virtual {
			continue
		}
		want := place.Pod{Request: p.request, Owner: m.key.String(), Pools: []string{p.pool}}
		if p.spec.Alone {
			want.Alone = m.key.String()
		}
		r.fleet.Bind(p.id, want, p.machine)
		if seen := r.fleetFor(r.s.Pool(p.pool), p.request); seen != &r.fleet {
			seen.Bind(p.id, want, p.machine)
		}
		r.world.Resize(p.id, p.request, p.limits)
		r.journal.Apply(bill.Event{At: r.e.Now(), Kind: bill.PodRequest, Name: p.id, Request: &p.request})
	}
	r.retry()
}

// reconcile does the next step towards the replicas and the version a module
// should have, as a Deployment with maxSurge 1 and maxUnavailable 0.
func (r *run) reconcile(m *module) {
	s := r.state.Modules[m.key]
	if s.Spec == nil || s.Spec.Work != nil {
		return
	}
	var old, ready int
	for _, p := range m.pods {
		if p.version != s.Version {
			old++
		}
		if !p.readyAt.IsZero() {
			ready++
		}
	}
	fresh, all := len(m.pods)-old, len(m.pods)
	if old == 0 && all == s.Replicas {
		return
	}
	// 1. Too many: unready ones first, then the newest. While a new version comes
	// in, a ready old pod goes only as far as enough others are ready.
	victims := r.leaving(m)
	rollout := old > 0
	before := len(m.pods)
	for _, p := range victims {
		isOld, isReady := p.version != s.Version, !p.readyAt.IsZero()
		switch {
		case !rollout && all > s.Replicas:
		case rollout && isOld && (!isReady || ready > s.Replicas):
		case rollout && !isOld && fresh > s.Replicas:
		default:
			continue
		}
		r.remove(p)
		all--
		if isReady {
			ready--
		}
		if isOld {
			old--
		} else {
			fresh--
		}
	}
	if m.scaler != nil && !rollout && all < before {
		m.scaler.judgeOrder(victims[:before-all], victims[before-all:])
	}
	// 2. Too few: create, one beyond the replicas while old ones are left.
	surge := 0
	if old > 0 {
		surge = 1
	}
	for fresh < s.Replicas && all < s.Replicas+surge {
		r.create(m, s)
		fresh, all = fresh+1, all+1
	}
}

func boolCompare(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}
