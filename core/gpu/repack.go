package gpu

import (
	"cmp"
	"fmt"
	"math"
	"math/bits"
	"slices"
)

// A Goal is what a [Plan] is for.
type Goal uint8

const (
	// Admit makes room for [Situation.Pending].
	Admit Goal = iota + 1
	// Empty gives machines back: it empties those whose price is worth the moves.
	Empty
	// Evacuate moves everything away from [Situation.Leave].
	Evacuate
)

// A Situation is what a plan starts from. Planning changes nothing of it.
type Situation struct {
	Fleet   *Fleet     // as it is, with every tenant on it; its scorer chooses where the moved go
	Prices  []int64    // of each machine for an hour, in any unit; nil: 1,000 for each GPU
	Tenants []Tenant   // what a plan may move; what is not listed stays
	Pending [][]Demand // what waits for a place, the most urgent first: for each the acceptable demands
	Holds   []Hold     // spots kept for others that are not on the fleet yet; no move takes them
	Groups  []Group    // limits that tenants share
	Leave   []Spot     // for [Evacuate]: machines, or with Devices set only those devices
}

// A Tenant is a pod that runs on the fleet.
type Tenant struct {
	Demands []Demand // acceptable ones; it holds Demands[Now]
	Now     int
	Spot    Spot
	Seconds int64 // from the start of a replacement until it serves; so long both places are held
	Stops   bool  // it is stopped before the replacement starts, and its Seconds are lost serving
	Fixed   bool  // it is never moved
	Groups  []int // of [Situation.Groups]: all of them must allow a move
}

// A Group is tenants that share limits: those of one service (its cool-down) or
// of one disruption budget. The zero Group allows no move.
type Group struct {
	Moves int // most moves of its tenants in a plan
	// Slack is how many of its tenants serve beyond those that must; below 0 some
	// are missing already. A tenant moves only if Slack is at least 0, for its
	// replacement serves first; one that stops, only if it is at least 1.
	Slack int
}

// A Hold is a spot that is kept.
type Hold struct {
	Demand Demand
	Spot   Spot
}

// Options limit a plan. The zero value of a field stands for the default.
type Options struct {
	MaxMoves  int   // 0: as many as it takes; below 0: none
	Steps     int   // work done at most, in machines looked at; 0: [DefaultSteps]
	Depth     int   // longest chain of pods that make room for one another; 0 and above 3: 3
	MoveCost  int64 // of every move, in the unit of prices, besides what the second place costs
	MinSaving int64 // for an hour: moves that belong together and save less are left out
	Horizon   int64 // seconds in which a saving must have paid for its moves; 0: a day
	Parallel  int   // moves under way at once, for [Plan.Peak]; 0: 1
}

// DefaultSteps is enough to plan for a thousand machines within seconds.
const DefaultSteps = 500_000_000

// A Move takes one tenant from one spot to another. The new place is taken when the
// move starts and the old one given when it ends. Moves start in their order.
type Move struct {
	Tenant   int // of [Situation.Tenants]
	From, To Spot
	Demand   int   // which of its Demands it has at To
	After    int   // it may start when so many moves, from the first, have ended
	Seconds  int64 // both places are held
	Cost     int64 // in the unit of prices
}

// A Place is where something of [Situation.Pending] will run.
type Place struct {
	Pending int
	Demand  int // which of its demands
	Spot    Spot
	After   int // there is room when so many moves, from the first, have ended
}

// A Level is what a fleet uses.
type Level struct {
	Machines int   // that run something
	GPUs     int   // of those machines
	Price    int64 // of those machines for an hour
	Milli    int64 // placed
}

// A Plan is moves in an order in which each finds its place free. The zero Plan
// does nothing.
type Plan struct {
	Moves   []Move
	Places  []Place // for what was pending, in its order
	Refused []int   // of Pending: no place was found
	Left    []int   // of Tenants: could not be moved away from Leave
	Freed   []int   // machines that ran something before and run nothing after, ascending
	Before  Level
	After   Level // with what was pending
	Peak    Level // the most of each on the way, without what was pending
	// Gain is for an hour: of [Empty] the price of what is given back less that of what
	// is opened, of [Admit] the price of what is placed, of [Evacuate] 0.
	Gain        int64
	Cost        int64 // of all moves
	LostSeconds int64 // without serving, over all tenants that stop
	Stopped     Stop  // why there is not more
	Steps       int   // work done
}

// A Stop is why a plan goes no further.
type Stop string

// The reasons to stop.
const (
	Done      Stop = "Done"      // the goal is reached
	NoMore    Stop = "NoMore"    // nothing further was found
	NotWorth  Stop = "NotWorth"  // what is further costs more than it gains
	MoveLimit Stop = "MoveLimit" // of [Options.MaxMoves]
	StepLimit Stop = "StepLimit" // of [Options.Steps]
)

// Repack plans for a goal. Equal arguments give equal plans, and every plan
// verifies. It returns an error only if the situation or the options contradict
// themselves.
func Repack(s *Situation, goal Goal, opts Options) (Plan, error) {
	if err := s.validate(); err != nil {
		return Plan{}, err
	}
	if err := opts.validate(); err != nil {
		return Plan{}, err
	}
	r := newRepacker(s, opts.defaults())
	switch goal {
	case Admit:
		r.admit()
	case Empty:
		r.empty()
	case Evacuate:
		r.evacuate()
	default:
		return Plan{}, fmt.Errorf("there is no goal %d", goal)
	}
	return r.plan(goal), nil
}

func (o Options) validate() error {
	switch {
	case o.Steps < 0, o.Depth < 0, o.MoveCost < 0, o.MinSaving < 0, o.Horizon < 0, o.Parallel < 0:
		return fmt.Errorf("options %+v: only MaxMoves may be negative", o)
	}
	return nil
}

func (o Options) defaults() Options {
	if o.MaxMoves == 0 {
		o.MaxMoves = math.MaxInt
	}
	o.MaxMoves = max(0, o.MaxMoves)
	o.Steps = cmp.Or(o.Steps, DefaultSteps)
	if o.Depth == 0 || o.Depth > 3 {
		o.Depth = 3
	}
	o.Horizon = cmp.Or(o.Horizon, 24*60*60)
	o.Parallel = cmp.Or(o.Parallel, 1)
	return o
}

// validate says what is wrong with the situation, nil if nothing is.
func (s *Situation) validate() error {
	if s.Fleet == nil {
		return fmt.Errorf("there is no fleet")
	}
	if s.Prices != nil && len(s.Prices) != s.Fleet.Len() {
		return fmt.Errorf("%d prices for %d machines", len(s.Prices), s.Fleet.Len())
	}
	var sum int64
	for i, p := range s.Prices {
		if p < 0 || p > math.MaxInt64/4-sum {
			return fmt.Errorf("price %d of machine %d is negative or too much", p, i)
		}
		sum += p
	}
	full := s.Fleet.Clone()
	for i := range s.Tenants {
		t := &s.Tenants[i]
		if t.Now < 0 || t.Now >= len(t.Demands) {
			return fmt.Errorf("tenant %d holds demand %d of %d", i, t.Now, len(t.Demands))
		}
		if t.Seconds < 0 {
			return fmt.Errorf("tenant %d: %d seconds", i, t.Seconds)
		}
		for _, d := range t.Demands {
			if err := d.Validate(); err != nil {
				return fmt.Errorf("tenant %d: %w", i, err)
			}
		}
		for k, g := range t.Groups {
			if g < 0 || g >= len(s.Groups) || slices.Contains(t.Groups[:k], g) {
				return fmt.Errorf("tenant %d: there is no group %d, or it is named twice", i, g)
			}
		}
		if err := full.Remove(t.Demands[t.Now], t.Spot); err != nil {
			return fmt.Errorf("tenant %d: %w", i, err)
		}
	}
	for i, alternatives := range s.Pending {
		for _, d := range alternatives {
			if err := d.Validate(); err != nil {
				return fmt.Errorf("pending %d: %w", i, err)
			}
		}
	}
	full = s.Fleet.Clone()
	for i, h := range s.Holds {
		if err := full.Place(h.Demand, h.Spot); err != nil {
			return fmt.Errorf("hold %d: %w", i, err)
		}
	}
	for i, l := range s.Leave {
		if l.Machine < 0 || l.Machine >= s.Fleet.Len() {
			return fmt.Errorf("leave %d: there is no machine %d", i, l.Machine)
		}
	}
	return nil
}

func (s *Situation) price(machine int) int64 {
	if s.Prices == nil {
		return 1000 * int64(s.Fleet.whole[machine].GPUs)
	}
	return s.Prices[machine]
}

// share returns what d is of a machine's price for an hour.
func (s *Situation) share(d *Demand, machine int) int64 {
	has := &s.Fleet.whole[machine]
	if d.Devices > 0 {
		return mulDiv(s.price(machine), d.GPU(), int64(max(1, has.GPUs))*Whole)
	}
	return mulDiv(s.price(machine), d.CPU, max(1, has.CPU))
}

// moveCost returns what moving tenant t to a machine with a demand costs: the
// second place, or the place without service, for its seconds.
func (s *Situation) moveCost(t *Tenant, d *Demand, machine int, o *Options) int64 {
	return plus(mulDiv(s.share(d, machine), t.Seconds, 3600), o.MoveCost)
}

// mulDiv returns a·b/c of numbers that are not negative, rounded down, at most the
// largest int64.
func mulDiv(a, b, c int64) int64 {
	hi, lo := bits.Mul64(uint64(a), uint64(b))
	if hi >= uint64(c) {
		return math.MaxInt64
	}
	q, _ := bits.Div64(hi, lo, uint64(c))
	return int64(min(q, math.MaxInt64))
}

// plus returns a+b of numbers that are not negative, at most the largest int64.
func plus(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}

// A repacker is a plan in the making. What it moves it moves in the order of the
// plan: into a place that is free while the old one is still held.
type repacker struct {
	s     *Situation
	opts  Options
	f     *Fleet    // what may be used: the truth less what is kept and closed
	truth []Machine // what is left
	keeps []keep
	shut  []bool    // machines that nothing may come to
	on    [][]int32 // movable or not: the tenants of each machine
	at    []Spot    // of each tenant
	now   []int     // demand of each tenant
	kind  []int     // of each tenant: those of a kind would take the same
	kinds int
	quota []int // moves left of each group
	moves int   // left
	log   []shift
	steps int
	stop  Stop

	places  []Place
	refused []int
	left    []int
}

// A keep is room on a machine that is being made for somebody: the devices whole,
// and what they need beside them.
type keep struct {
	machine     int
	devices     Devices
	cpu, memory int64
}

// A shift is one tenant moved.
type shift struct {
	tenant   int
	from, to Spot
	was, is  int // demands
	cost     int64
}

func newRepacker(s *Situation, opts Options) *repacker {
	r := &repacker{
		s: s, opts: opts, f: s.Fleet.Clone(), on: make([][]int32, s.Fleet.Len()), shut: make([]bool, s.Fleet.Len()),
		at: make([]Spot, len(s.Tenants)), now: make([]int, len(s.Tenants)), moves: opts.MaxMoves, stop: Done,
	}
	r.f.classes = make(map[Demand]*class, len(s.Fleet.classes)) // what it knows, the copy knows
	for d, c := range s.Fleet.classes {
		r.f.classes[d] = &class{d, slices.Clone(c.version), slices.Clone(c.score), slices.Clone(c.on)}
	}
	for _, h := range s.Holds {
		r.f.machines[h.Spot.Machine].take(&h.Demand, h.Spot.Devices)
		r.f.touch(h.Spot.Machine)
	}
	r.truth = slices.Clone(r.f.machines)
	known := map[Demand]int{}
	for i := range s.Tenants {
		t := &s.Tenants[i]
		k, ok := known[t.Demands[0]]
		if !ok || len(t.Demands) > 1 {
			k = r.kinds
			r.kinds++
			if len(t.Demands) == 1 {
				known[t.Demands[0]] = k
			}
		}
		r.kind = append(r.kind, k)
		r.at[i], r.now[i] = t.Spot, t.Now
		r.on[t.Spot.Machine] = append(r.on[t.Spot.Machine], int32(i))
	}
	for _, g := range s.Groups {
		r.quota = append(r.quota, g.Moves)
	}
	return r
}

// show makes what may be used of machine i follow from the truth.
func (r *repacker) show(i int) {
	m := r.truth[i]
	if r.shut[i] {
		m.CPU, m.Memory = -1, -1
	}
	for _, k := range r.keeps {
		if k.machine == i {
			m.CPU -= k.cpu
			m.Memory -= k.memory
			m.Sick |= k.devices
		}
	}
	r.f.machines[i] = m
	r.f.touch(i)
}

func (r *repacker) take(d *Demand, at Spot) {
	r.truth[at.Machine].take(d, at.Devices)
	r.show(at.Machine)
}
func (r *repacker) give(d *Demand, at Spot) {
	r.truth[at.Machine].give(d, at.Devices)
	r.show(at.Machine)
}

func (r *repacker) demand(t int) *Demand { return &r.s.Tenants[t].Demands[r.now[t]] }

// movable reports whether the limits allow another move of tenant t.
func (r *repacker) movable(t int) bool {
	own := &r.s.Tenants[t]
	if own.Fixed || r.moves <= 0 {
		return false
	}
	for _, g := range own.Groups {
		if r.quota[g] <= 0 || !r.s.Groups[g].allows(own) {
			return false
		}
	}
	return true
}

// allows reports whether the group's slack allows a move of t.
func (g *Group) allows(t *Tenant) bool {
	return g.Slack >= 1 || g.Slack == 0 && !t.Stops
}

// shift moves tenant t, which must be movable, to a free spot.
func (r *repacker) shift(t, demand int, to Spot) {
	own := &r.s.Tenants[t]
	d := &own.Demands[demand]
	s := shift{tenant: t, from: r.at[t], to: to, was: r.now[t], is: demand, cost: r.s.moveCost(own, d, to.Machine, &r.opts)}
	r.take(d, to)
	r.give(&own.Demands[s.was], s.from)
	r.settleAt(t, s.from, to, demand, -1)
	r.log = append(r.log, s)
}

func (r *repacker) settleAt(t int, from, to Spot, demand, quota int) {
	if from.Machine != to.Machine {
		old := r.on[from.Machine]
		r.on[from.Machine] = slices.Delete(old, slices.Index(old, int32(t)), slices.Index(old, int32(t))+1)
		r.on[to.Machine] = append(r.on[to.Machine], int32(t))
	}
	r.at[t], r.now[t] = to, demand
	r.moves += quota
	for _, g := range r.s.Tenants[t].Groups {
		r.quota[g] += quota
	}
}

// undo takes moves back until the log has so many.
func (r *repacker) undo(mark int) {
	for i := len(r.log) - 1; i >= mark; i-- {
		s := &r.log[i]
		own := &r.s.Tenants[s.tenant]
		r.give(&own.Demands[s.is], s.to)
		r.take(&own.Demands[s.was], s.from)
		r.settleAt(s.tenant, s.to, s.from, s.was, 1)
	}
	r.log = r.log[:mark]
}

// costSince returns what the moves since a mark cost.
func (r *repacker) costSince(mark int) int64 {
	var sum int64
	for _, s := range r.log[mark:] {
		sum = plus(sum, s.cost)
	}
	return sum
}

// pays reports whether a gain for an hour is worth a cost.
func (r *repacker) pays(gain, cost int64) bool {
	return gain >= r.opts.MinSaving && mulDiv(max(0, gain), r.opts.Horizon, 3600) >= cost
}

// spent counts work and reports whether there is none left.
func (r *repacker) spent(work int) bool {
	if r.steps >= r.opts.Steps {
		r.stop = StepLimit
		return true
	}
	r.steps += work
	return false
}

// find returns a free spot for one of the demands, making room by chains of at
// most depth pods, the shortest that do.
func (r *repacker) find(demands []Demand, depth int) (int, Spot, bool) {
	if r.spent(len(demands) * r.f.Len()) {
		return 0, Spot{}, false
	}
	if len(demands) == 1 { // the usual case, and quicker
		if spot, ok := r.f.Pick(demands[0]); ok {
			return 0, spot, true
		}
	} else if best := r.f.Best(demands, 1, nil); len(best) > 0 {
		return best[0].Alternative, best[0].Spot, true
	}
	var all []candidate
	for deep := range depth {
		switch deep {
		case 0: // those that fit nowhere need not be tried
			all = r.candidates(demands, make([]int8, r.kinds))
		case 1:
			all = r.candidates(demands, nil)
			all = all[:min(len(all), width[depth])]
		}
		for i := range all {
			c := &all[i]
			if r.clear(&demands[c.demand], c, deep) {
				return c.demand, c.spot, true
			}
			if r.stop == StepLimit {
				return 0, Spot{}, false
			}
		}
	}
	return 0, Spot{}, false
}

// width is how many candidates are tried to make room, by what is left of a chain.
var width = [...]int{0, 400, 24, 8}

// A candidate is room that could be made for one of the demands.
type candidate struct {
	demand  int
	spot    Spot
	victims []int32
	milli   int64 // of the victims
}

// stuck reports whether tenant t fits nowhere else as things are; known remembers it
// by kind, and is nil if nobody asks.
func (r *repacker) stuck(t int32, known []int8) bool {
	if known == nil {
		return false
	}
	k := &known[r.kind[t]]
	if *k == 0 {
		*k = 1
		if demands := r.s.Tenants[t].Demands; len(demands) == 1 && !r.fits(demands[0]) || len(demands) > 1 && len(r.f.Best(demands, 1, nil)) == 0 {
			*k = -1
		}
	}
	return *k < 0
}

func (r *repacker) fits(d Demand) bool {
	_, ok := r.f.Pick(d)
	return ok
}

// clear makes the room of one candidate, or does nothing.
func (r *repacker) clear(d *Demand, c *candidate, depth int) bool {
	if len(c.victims) > r.moves {
		return false
	}
	mark := len(r.log)
	r.keeps = append(r.keeps, keep{c.spot.Machine, c.spot.Devices, d.CPU, d.Memory})
	r.show(c.spot.Machine)
	ok := true
	for _, v := range c.victims {
		if ok = r.move(int(v), depth); !ok {
			break
		}
	}
	r.keeps = r.keeps[:len(r.keeps)-1]
	r.show(c.spot.Machine)
	if ok && r.truth[c.spot.Machine].admits(d, c.spot.Devices) {
		return true
	}
	r.undo(mark)
	return false
}

// move moves tenant t to the best spot, or does nothing.
func (r *repacker) move(t, depth int) bool {
	if !r.movable(t) {
		return false
	}
	mark, at := len(r.log), r.at[t]
	demand, spot, ok := r.find(r.s.Tenants[t].Demands, depth)
	if !ok || r.at[t] != at || !r.movable(t) { // a chain may have taken it along
		r.undo(mark)
		return false
	}
	r.shift(t, demand, spot)
	return true
}

// admits reports whether d fits on these very devices.
func (m *Machine) admits(d *Demand, on Devices) bool {
	return d.CPU <= m.CPU && d.Memory <= m.Memory && on&^m.Usable(d) == 0
}

// perCandidates is how many machines looked at one machine's candidates count for.
const perCandidates = 20

// candidates returns where room for one of the demands could be made, the easiest
// first. Tenants that are stuck are left where they are.
func (r *repacker) candidates(demands []Demand, stuck []int8) []candidate {
	r.spent(len(demands) * r.f.Len() * perCandidates)
	var all []candidate
	for a := range demands {
		d := &demands[a]
		from := len(all)
		for i := range r.truth {
			if has := &r.f.whole[i]; !r.shut[i] && d.CPU <= has.CPU && d.Memory <= has.Memory && d.Devices <= has.GPUs {
				all = r.candidatesOn(all, d, i, stuck)
			}
		}
		for i := from; i < len(all); i++ {
			all[i].demand = a
		}
	}
	slices.SortFunc(all, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(len(a.victims), len(b.victims)), cmp.Compare(a.milli, b.milli), cmp.Compare(a.demand, b.demand),
			cmp.Compare(a.spot.Machine, b.spot.Machine), cmp.Compare(a.spot.Devices, b.spot.Devices), slices.Compare(a.victims, b.victims))
	})
	return all[:min(len(all), width[1])]
}

func (r *repacker) candidatesOn(all []candidate, d *Demand, machine int, stuck []int8) []candidate {
	var movable []int32
	for _, t := range r.on[machine] {
		if r.movable(int(t)) && r.smaller(int(t), d) && !r.stuck(t, stuck) {
			movable = append(movable, t)
		}
	}

	if d.Devices == 0 {
		return r.withProcessors(all, d, machine, 0, nil, movable)
	}
	m, has := &r.f.machines[machine], &r.f.whole[machine]
	type way struct {
		device  int
		victims []int32
		milli   int64
	}
	var ways []way
	for could := has.Usable(d) &^ m.Sick; could != 0; could &= could - 1 {
		k := could.First()
		lack, lackMemory := d.Milli-int64(m.Idle[k]), d.DeviceMemory-int64(m.IdleMemory[k])
		if lack <= 0 && lackMemory <= 0 {
			ways = append(ways, way{device: k})
			continue
		}
		var there []int32 // on the device, the smallest first
		milli, memory := lack, lackMemory
		for _, t := range movable {
			if r.at[t].Devices>>k&1 == 1 {
				there = append(there, t)
				milli -= r.demand(int(t)).Milli
				memory -= r.demand(int(t)).DeviceMemory
			}
		}
		if milli > 0 || memory > 0 {
			continue
		}
		slices.SortFunc(there, func(a, b int32) int {
			x, y := r.demand(int(a)), r.demand(int(b))
			return cmp.Or(cmp.Compare(x.GPU(), y.GPU()), cmp.Compare(x.DeviceMemory, y.DeviceMemory), cmp.Compare(x.CPU, y.CPU), cmp.Compare(a, b))
		})
		single := false
		for _, t := range there {
			if v := r.demand(int(t)); v.Milli >= lack && v.DeviceMemory >= lackMemory {
				ways = append(ways, way{k, []int32{t}, v.GPU()})
				single = true
				if d.Devices > 1 {
					break
				}
			}
		}
		if single {
			continue
		}
		w := way{device: k}
		for i := len(there) - 1; i >= 0 && (lack > 0 || lackMemory > 0); i-- {
			v := r.demand(int(there[i]))
			w.victims = append(w.victims, there[i])
			w.milli += v.GPU()
			lack -= v.Milli
			lackMemory -= v.DeviceMemory
		}
		ways = append(ways, w)
	}
	if d.Devices == 1 {
		for _, w := range ways {
			all = r.withProcessors(all, d, machine, 1<<w.device, w.victims, movable)
		}
		return all
	}
	slices.SortStableFunc(ways, func(a, b way) int {
		return cmp.Or(cmp.Compare(len(a.victims), len(b.victims)), cmp.Compare(a.milli, b.milli))
	})
	// Of each model the easiest devices.
	for len(ways) >= d.Devices {
		model := m.Model[ways[0].device]
		var devices Devices
		var victims []int32
		others := ways[:0:0]
		for _, w := range ways {
			if m.Model[w.device] != model {
				others = append(others, w)
			} else if devices.Len() < d.Devices {
				devices |= 1 << w.device
				for _, v := range w.victims {
					if !slices.Contains(victims, v) {
						victims = append(victims, v)
					}
				}
			}
		}
		if devices.Len() == d.Devices {
			all = r.withProcessors(all, d, machine, devices, victims, movable)
		}
		ways = others
	}
	return all
}

// smaller reports whether tenant t may be moved for d: if it is smaller, or takes
// what d cannot.
func (r *repacker) smaller(t int, d *Demand) bool {
	v := r.demand(t)
	return v.GPU() < d.GPU() || v.GPU() == d.GPU() && (v.CPU < d.CPU || v.Models.Len() == 0 && d.Models != 0 || v.Models.Len() > d.Models.Len() && d.Models != 0)
}

// withProcessors adds the candidate to all, with as many victims more as the
// processors and the memory of d need; or does not.
func (r *repacker) withProcessors(all []candidate, d *Demand, machine int, devices Devices, victims, movable []int32) []candidate {
	m := &r.f.machines[machine]
	cpu, memory := d.CPU-m.CPU, d.Memory-m.Memory
	c := candidate{spot: Spot{machine, devices}, victims: victims}
	for _, v := range victims {
		cpu -= r.demand(int(v)).CPU
		memory -= r.demand(int(v)).Memory
	}
	if cpu > 0 || memory > 0 {
		c.victims = slices.Clone(victims)
		for cpu > 0 || memory > 0 {
			best, enough := int32(-1), false
			for _, t := range movable {
				if slices.Contains(c.victims, t) {
					continue
				}
				v := r.demand(int(t))
				if v.CPU == 0 && v.Memory == 0 {
					continue
				}
				does := v.CPU >= cpu && v.Memory >= memory
				if best < 0 || does && !enough {
					best, enough = t, does
					continue
				}
				b := r.demand(int(best))
				// Enough of the smallest, else the most.
				switch {
				case does && (v.GPU() < b.GPU() || v.GPU() == b.GPU() && v.CPU < b.CPU):
					best = t
				case !does && !enough && (cpu > 0 && v.CPU > b.CPU || cpu <= 0 && v.Memory > b.Memory):
					best = t
				}
			}
			if best < 0 {
				return all
			}
			c.victims = append(c.victims, best)
			cpu -= r.demand(int(best)).CPU
			memory -= r.demand(int(best)).Memory
		}
	}
	if len(c.victims) > r.moves {
		return all
	}
	for _, v := range c.victims {
		c.milli += r.demand(int(v)).GPU()
	}
	return append(all, c)
}

// worth returns what a place for d is worth for an hour: at the mean price of a GPU,
// or as much of the machine as it takes of the processors.
func (s *Situation) worth(d *Demand, machine int) int64 {
	if d.Devices == 0 {
		return s.share(d, machine)
	}
	var gpus, price int64
	for i := range s.Fleet.whole {
		if has := &s.Fleet.whole[i]; has.GPUs > 0 {
			gpus += int64(has.GPUs)
			price += s.price(i)
		}
	}
	return mulDiv(price, d.GPU(), gpus*Whole)
}

// admit finds places for what is pending.
func (r *repacker) admit() {
	for i, demands := range r.s.Pending {
		mark := len(r.log)
		demand, spot, ok := r.find(demands, r.opts.Depth)
		switch {
		case !ok:
			r.why(NoMore)
		case len(r.log) > mark && !r.pays(r.s.worth(&demands[demand], spot.Machine), r.costSince(mark)):
			r.undo(mark)
			r.why(NotWorth)
			ok = false
		}
		if !ok {
			r.refused = append(r.refused, i)
			continue
		}
		r.take(&demands[demand], spot)
		r.places = append(r.places, Place{Pending: i, Demand: demand, Spot: spot})
	}
}

// why keeps the first reason.
func (r *repacker) why(s Stop) {
	if r.stop == Done {
		r.stop = s
		if r.moves <= 0 && s == NoMore {
			r.stop = MoveLimit
		}
	}
}

// close keeps everything away from machine i, or no longer.
func (r *repacker) close(i int, shut bool) {
	r.shut[i] = shut
	r.show(i)
}

// harder orders tenants by how hard they are to place, the hardest first.
func (r *repacker) harder(a, b int32) int {
	x, y := r.demand(int(a)), r.demand(int(b))
	return cmp.Or(-cmp.Compare(x.GPU(), y.GPU()), -cmp.Compare(x.Devices, y.Devices),
		-cmp.Compare(min(1, x.Models.Len()), min(1, y.Models.Len())), -cmp.Compare(x.CPU, y.CPU), cmp.Compare(a, b))
}

// empty gives machines back.
func (r *repacker) empty() {
	for i := range r.truth {
		if r.truth[i].Pods == 0 {
			r.close(i, true)
		}
	}
	for depth := range r.opts.Depth {
		for again := true; again; {
			again = false
			hopeless := make([]bool, r.kinds)
			for _, i := range r.drainable() {
				if r.drain(i, depth, hopeless) {
					again = true
					clear(hopeless)
				}
				if r.stop == StepLimit {
					return
				}
			}
		}
	}
	for r.trade() {
	}
	if r.stop != StepLimit {
		r.why(NoMore)
	}
}

// trade opens an empty machine if more can be given back for it, or does nothing.
func (r *repacker) trade() bool {
	var tried []Machine // of each shape one
	for e := range r.truth {
		shape := r.f.whole[e]
		shape.ID = 0
		if !r.shut[e] || r.truth[e].Pods != 0 || slices.Contains(tried, shape) {
			continue
		}
		tried = append(tried, shape)
		mark, gain := len(r.log), -r.s.price(e)
		var drained []int
		r.close(e, false)
		hopeless := make([]bool, r.kinds)
		for _, i := range r.drainable() {
			if r.drain(i, 1, hopeless) {
				clear(hopeless)
				drained = append(drained, i)
				gain += r.s.price(i)
			}
			if r.stop == StepLimit {
				break
			}
		}
		if gain > 0 && r.pays(gain, r.costSince(mark)) {
			return r.stop != StepLimit
		}
		r.undo(mark)
		for _, i := range drained {
			r.close(i, false)
		}
		r.close(e, true)
		if r.stop == StepLimit {
			return false
		}
	}
	return false
}

// drainable returns the machines that could be emptied, those first that give most
// for what has to be moved.
func (r *repacker) drainable() []int {
	type machine struct {
		i           int
		price, load int64
	}
	var all []machine
	for i := range r.truth {
		if r.shut[i] || r.truth[i].Pods == 0 || r.truth[i].Pods != len(r.on[i]) || r.s.price(i) == 0 {
			continue
		}
		m := machine{i: i, price: r.s.price(i)}
		ok := true
		for _, t := range r.on[i] {
			ok = ok && r.movable(int(t))
			m.load += 100 + r.demand(int(t)).GPU()
		}
		if ok {
			all = append(all, m)
		}
	}
	slices.SortFunc(all, func(a, b machine) int {
		return cmp.Or(cmp.Compare(float64(a.load)/float64(a.price), float64(b.load)/float64(b.price)), cmp.Compare(a.i, b.i))
	})
	out := make([]int, len(all))
	for k := range all {
		out[k] = all[k].i
	}
	return out
}

// drain moves everything away from machine i and closes it, or does nothing. It
// gives up at once if one is of a kind that, first of all, found no place since
// something was drained.
func (r *repacker) drain(i, depth int, hopeless []bool) bool {
	if r.truth[i].Pods == 0 || r.truth[i].Pods != len(r.on[i]) {
		return false
	}
	if len(r.on[i]) > r.moves {
		r.why(MoveLimit)
		return false
	}
	there := slices.Clone(r.on[i])
	slices.SortFunc(there, r.harder)
	if slices.ContainsFunc(there, func(t int32) bool { return hopeless[r.kind[t]] }) {
		return false
	}
	mark := len(r.log)
	r.close(i, true)
	for _, t := range there {
		if r.at[t].Machine == i && !r.move(int(t), depth) {
			if len(r.log) == mark {
				hopeless[r.kind[t]] = true
			}
			r.undo(mark)
			r.close(i, false)
			return false
		}
	}
	if gain := r.s.price(i); !r.pays(gain, r.costSince(mark)) {
		r.undo(mark)
		r.close(i, false)
		r.why(NotWorth)
		return false
	}
	return true
}

// evacuate moves everything away from what is to be left.
func (r *repacker) evacuate() {
	for _, l := range r.s.Leave {
		if l.Devices == 0 {
			r.close(l.Machine, true)
		} else {
			r.keeps = append(r.keeps, keep{machine: l.Machine, devices: l.Devices})
			r.show(l.Machine)
		}
	}
	var all []int32
	for t := range r.at {
		if slices.ContainsFunc(r.s.Leave, func(l Spot) bool { return r.at[t].on(l) }) {
			all = append(all, int32(t))
		}
	}
	slices.SortFunc(all, r.harder)
	for _, t := range all {
		if slices.ContainsFunc(r.s.Leave, func(l Spot) bool { return r.at[t].on(l) }) && !r.move(int(t), r.opts.Depth) {
			r.left = append(r.left, int(t))
			r.why(NoMore)
		}
	}
	slices.Sort(r.left)
}

// on reports whether s is on any of the devices of part, or on its machine if it
// names none.
func (s Spot) on(part Spot) bool {
	return s.Machine == part.Machine && (part.Devices == 0 || s.Devices&part.Devices != 0)
}

// plan makes the plan of what was moved.
func (r *repacker) plan(goal Goal) Plan {
	s := r.s
	p := Plan{Places: r.places, Refused: r.refused, Left: r.left, Stopped: r.stop, Steps: r.steps}
	if moves, ok := r.direct(); ok {
		p.Moves = moves
	} else {
		for _, l := range r.log {
			p.Moves = append(p.Moves, Move{Tenant: l.tenant, From: l.from, To: l.to, Demand: l.is})
		}
	}
	for i := range p.Places {
		at := &p.Places[i]
		for k := range p.Moves {
			if m := &p.Moves[k]; m.From.Machine == at.Spot.Machine || m.To.Machine == at.Spot.Machine {
				at.After = k + 1
			}
		}
	}
	start, prior := s.start(), p.prior(s)
	for i := range p.Moves {
		m := &p.Moves[i]
		t := &s.Tenants[m.Tenant]
		m.Seconds = t.Seconds
		m.Cost = s.moveCost(t, &t.Demands[m.Demand], m.To.Machine, &r.opts)
		m.After = p.earliest(s, start, prior, i)
	}
	p.figures(s, goal, &r.opts)
	return p
}

// direct returns one move for each tenant that is elsewhere now, from where it was
// to where it is, in an order that works. It returns false if there is none, for they
// go in a circle, which the log breaks by a stop on the way, or if they cost more.
func (r *repacker) direct() ([]Move, bool) {
	left := r.s.start()
	var open, moves []Move
	seen := make([]bool, len(r.at))
	for _, l := range r.log {
		if t := &r.s.Tenants[l.tenant]; !seen[l.tenant] && (r.at[l.tenant] != t.Spot || r.now[l.tenant] != t.Now) {
			open = append(open, Move{Tenant: l.tenant, From: t.Spot, To: r.at[l.tenant], Demand: r.now[l.tenant]})
		}
		seen[l.tenant] = true
	}
	for len(open) > 0 {
		n := 0
		for _, m := range open {
			t := &r.s.Tenants[m.Tenant]
			if d := &t.Demands[m.Demand]; left[m.To.Machine].admits(d, m.To.Devices) {
				left[m.To.Machine].take(d, m.To.Devices)
				left[m.From.Machine].give(&t.Demands[t.Now], m.From.Devices)
				moves = append(moves, m)
			} else {
				open[n] = m
				n++
			}
		}
		if n == len(open) {
			return nil, false
		}
		open = open[:n]
	}
	var cost int64
	for _, m := range moves {
		t := &r.s.Tenants[m.Tenant]
		cost = plus(cost, r.s.moveCost(t, &t.Demands[m.Demand], m.To.Machine, &r.opts))
	}
	return moves, cost <= r.costSince(0)
}

// start returns what is left on the machines at the start, the holds taken.
func (s *Situation) start() []Machine {
	left := slices.Clone(s.Fleet.machines)
	for _, h := range s.Holds {
		left[h.Spot.Machine].take(&h.Demand, h.Spot.Devices)
	}
	return left
}

// prior returns which demand the tenant of each move has before it.
func (p *Plan) prior(s *Situation) []int {
	now := map[int]int{}
	prior := make([]int, len(p.Moves))
	for i, m := range p.Moves {
		d, moved := now[m.Tenant]
		if !moved {
			d = s.Tenants[m.Tenant].Now
		}
		prior[i] = d
		now[m.Tenant] = m.Demand
	}
	return prior
}

// earliest returns how many of the moves before i, from the first, must have ended
// for its tenant to be settled and its place to be free while the others are under
// way; at most all of them.
func (p *Plan) earliest(s *Situation, start []Machine, prior []int, i int) int {
	to := p.Moves[i].To
	m := start[to.Machine]
	settled := 0
	for k := range i {
		o := &p.Moves[k]
		if o.Tenant == p.Moves[i].Tenant {
			settled = k + 1
		}
		if o.To.Machine == to.Machine {
			m.take(&s.Tenants[o.Tenant].Demands[o.Demand], o.To.Devices)
		}
	}
	for k := range p.Places {
		if at := &p.Places[k]; at.After <= i && at.Spot.Machine == to.Machine {
			m.take(&s.Pending[at.Pending][at.Demand], at.Spot.Devices)
		}
	}
	for ended := range i {
		if ended >= settled && m.admits(&s.Tenants[p.Moves[i].Tenant].Demands[p.Moves[i].Demand], to.Devices) {
			return ended
		}
		if o := &p.Moves[ended]; o.From.Machine == to.Machine {
			m.give(&s.Tenants[o.Tenant].Demands[prior[ended]], o.From.Devices)
		}
	}
	return i
}

// level returns what machines with this left use.
func (s *Situation) level(left []Machine) Level {
	var l Level
	for i := range left {
		m, has := &left[i], &s.Fleet.whole[i]
		if m.Pods > 0 {
			l.Machines++
			l.GPUs += has.GPUs
			l.Price += s.price(i)
		}
		for k := range MaxDevices {
			l.Milli += int64(has.Idle[k]) - int64(m.Idle[k])
		}
	}
	return l
}

// figures fills in what follows from the moves and places.
func (p *Plan) figures(s *Situation, goal Goal, o *Options) {
	left, prior := s.start(), p.prior(s)
	p.Before = s.level(left)
	p.Peak = p.Before
	now := p.Before
	change := func(machine int, d *Demand, on Devices, take bool) {
		m := &left[machine]
		was := m.Pods
		sign := int64(1)
		if take {
			m.take(d, on)
		} else {
			m.give(d, on)
			sign = -1
		}
		now.Milli += sign * d.GPU()
		if (was > 0) != (m.Pods > 0) {
			now.Machines += int(sign)
			now.GPUs += int(sign) * s.Fleet.whole[machine].GPUs
			now.Price += sign * s.price(machine)
		}
	}
	p.Cost, p.LostSeconds = 0, 0
	ended := 0
	end := func(until int) {
		for ; ended < until; ended++ {
			m := &p.Moves[ended]
			change(m.From.Machine, &s.Tenants[m.Tenant].Demands[prior[ended]], m.From.Devices, false)
		}
	}
	for i := range p.Moves {
		m := &p.Moves[i]
		end(max(m.After, i+1-o.Parallel))
		change(m.To.Machine, &s.Tenants[m.Tenant].Demands[m.Demand], m.To.Devices, true)
		p.Peak = Level{max(p.Peak.Machines, now.Machines), max(p.Peak.GPUs, now.GPUs), max(p.Peak.Price, now.Price), max(p.Peak.Milli, now.Milli)}
		p.Cost = plus(p.Cost, m.Cost)
		if s.Tenants[m.Tenant].Stops {
			p.LostSeconds = plus(p.LostSeconds, m.Seconds)
		}
	}
	end(len(p.Moves))
	p.Gain = 0
	for _, at := range p.Places {
		d := &s.Pending[at.Pending][at.Demand]
		change(at.Spot.Machine, d, at.Spot.Devices, true)
		if goal == Admit {
			p.Gain = plus(p.Gain, s.worth(d, at.Spot.Machine))
		}
	}
	p.After = now
	if goal == Empty {
		p.Gain = p.Before.Price - p.After.Price
	}
	p.Freed = nil
	for i := range left {
		if s.Fleet.machines[i].Pods > 0 && left[i].Pods == 0 {
			p.Freed = append(p.Freed, i)
		}
	}
}

// Verify replays the plan step by step and says what is wrong with it, nil if
// nothing is: that each move finds its tenant and its place free while the first
// [Move.After] have ended and the others before it are under way, that the limits
// are kept, that every place has room, that nothing is lost, and that the figures
// are right.
func (p *Plan) Verify(s *Situation, goal Goal, opts Options) error {
	if err := s.validate(); err != nil {
		return err
	}
	if err := opts.validate(); err != nil {
		return err
	}
	opts = opts.defaults()
	if len(p.Moves) > opts.MaxMoves {
		return fmt.Errorf("%d moves are more than %d", len(p.Moves), opts.MaxMoves)
	}
	at, now := make([]Spot, len(s.Tenants)), make([]int, len(s.Tenants))
	for i := range s.Tenants {
		at[i], now[i] = s.Tenants[i].Spot, s.Tenants[i].Now
	}
	quota := make([]int, len(s.Groups))
	for i := range p.Moves {
		m := &p.Moves[i]
		if m.Tenant < 0 || m.Tenant >= len(s.Tenants) {
			return fmt.Errorf("move %d: there is no tenant %d", i, m.Tenant)
		}
		t := &s.Tenants[m.Tenant]
		switch {
		case t.Fixed:
			return fmt.Errorf("move %d: tenant %d is not to be moved", i, m.Tenant)
		case m.From != at[m.Tenant]:
			return fmt.Errorf("move %d: tenant %d is on %v, not %v", i, m.Tenant, at[m.Tenant], m.From)
		case m.Demand < 0 || m.Demand >= len(t.Demands):
			return fmt.Errorf("move %d: tenant %d has no demand %d", i, m.Tenant, m.Demand)
		case m.To.Machine < 0 || m.To.Machine >= s.Fleet.Len():
			return fmt.Errorf("move %d: there is no machine %d", i, m.To.Machine)
		case m.After < 0 || m.After > i:
			return fmt.Errorf("move %d: starts after %d", i, m.After)
		case m.Seconds != t.Seconds || m.Cost != s.moveCost(t, &t.Demands[m.Demand], m.To.Machine, &opts):
			return fmt.Errorf("move %d: %d seconds and cost %d are wrong", i, m.Seconds, m.Cost)
		}
		for _, g := range t.Groups {
			if quota[g]++; quota[g] > s.Groups[g].Moves || !s.Groups[g].allows(t) {
				return fmt.Errorf("move %d: group %d does not allow it", i, g)
			}
		}
		at[m.Tenant], now[m.Tenant] = m.To, m.Demand
	}
	// Every pending one has a place or has none.
	seen := make([]bool, len(s.Pending))
	count := func(i int) error {
		if i < 0 || i >= len(seen) || seen[i] {
			return fmt.Errorf("pending %d is not there, or there twice", i)
		}
		seen[i] = true
		return nil
	}
	for _, a := range p.Places {
		if err := count(a.Pending); err != nil {
			return err
		}
		if a.Demand < 0 || a.Demand >= len(s.Pending[a.Pending]) || a.Spot.Machine < 0 || a.Spot.Machine >= s.Fleet.Len() || a.After < 0 || a.After > len(p.Moves) {
			return fmt.Errorf("place of pending %d: %+v is not there", a.Pending, a)
		}
	}
	for _, i := range p.Refused {
		if err := count(i); err != nil {
			return err
		}
	}
	if i := slices.Index(seen, false); i >= 0 && goal == Admit {
		return fmt.Errorf("pending %d is forgotten", i)
	}
	// One after another on a fleet, which refuses what does not fit; and under way
	// together as far as the plan says.
	f := s.Fleet.Clone()
	for i, h := range s.Holds {
		if err := f.Place(h.Demand, h.Spot); err != nil {
			return fmt.Errorf("hold %d: %w", i, err)
		}
	}
	start, prior := s.start(), p.prior(s)
	for i := range len(p.Moves) + 1 {
		for _, a := range p.Places {
			if a.After != i {
				continue
			}
			if err := f.Place(s.Pending[a.Pending][a.Demand], a.Spot); err != nil {
				return fmt.Errorf("place of pending %d after %d moves: %w", a.Pending, i, err)
			}
		}
		if i == len(p.Moves) {
			break
		}
		m := &p.Moves[i]
		demands := s.Tenants[m.Tenant].Demands
		if err := f.Place(demands[m.Demand], m.To); err != nil {
			return fmt.Errorf("move %d: %w", i, err)
		}
		if need := p.earliest(s, start, prior, i); m.After < need {
			return fmt.Errorf("move %d: has no room when only %d have ended; %d must have", i, m.After, need)
		}
		if err := f.Remove(demands[prior[i]], m.From); err != nil {
			return fmt.Errorf("move %d: %w", i, err)
		}
	}
	for _, l := range s.Leave {
		if goal != Evacuate {
			break
		}
		for t := range at {
			if at[t].on(l) && !slices.Contains(p.Left, t) {
				return fmt.Errorf("tenant %d stays on %v and nobody says so", t, l)
			}
		}
		for i := range p.Moves {
			if p.Moves[i].To.on(l) {
				return fmt.Errorf("move %d goes to %v, which is to be left", i, l)
			}
		}
	}
	q := Plan{Moves: p.Moves, Places: p.Places}
	q.figures(s, goal, &opts)
	if q.Before != p.Before || q.After != p.After || q.Peak != p.Peak || q.Gain != p.Gain || q.Cost != p.Cost || q.LostSeconds != p.LostSeconds || !slices.Equal(q.Freed, p.Freed) {
		return fmt.Errorf("the figures are %+v, not %+v", *p, q)
	}
	if goal != Evacuate && p.Cost > 0 && mulDiv(max(0, p.Gain), opts.Horizon, 3600) < p.Cost {
		return fmt.Errorf("a gain of %d an hour is not worth a cost of %d", p.Gain, p.Cost)
	}
	return nil
}
