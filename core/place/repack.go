package place

import (
	"cmp"
	"slices"

	"github.com/neap-dev/neap/core/resource"
)

// A Label divides what is free on a machine: Waiting can be given back now,
// Constraint could be but for a placement rule, Shape cannot.
type Label struct {
	Waiting, Constraint, Shape resource.Vector
}

// Repack labels the free capacity of a fleet, one label a machine in the same
// order; the parts of a label add up to what is free (allocatable − spare −
// requests, if positive). A machine that can be emptied gives back its free
// capacity, and so does the room on other machines that its pods would take.
func Repack(machines []Machine) []Label {
	r := newRepacker(machines)
	labels := make([]Label, len(machines))
	start := make([]resource.Vector, len(machines))
	for i := range r.machines {
		start[i] = r.machines[i].free.Max(resource.Vector{})
	}
	// 1. By the rules.
	r.run(false)
	for i := range r.machines {
		labels[i].Waiting = r.taken(i, start[i])
	}
	// 2. Without them, from there.
	r.run(true)
	for i := range r.machines {
		all := r.taken(i, start[i]).Max(labels[i].Waiting)
		labels[i].Constraint = all.Sub(labels[i].Waiting)
		labels[i].Shape = start[i].Sub(all)
	}
	return labels
}

type repacker struct {
	machines []packed
	groups   map[string]int32
	spread   []map[int32]int // by group: domain: pods
	domains  map[string]int32
	relaxed  bool
}

type packed struct {
	name    string
	pool    string
	domain  int32
	free    resource.Vector
	count   int
	maxPods int
	closed  bool
	emptied bool
	pods    []item  // that would have to move
	alone   []int32 // groups on it
	load    int64   // millionths of allocatable that its pods to move take
}

type item struct {
	request resource.Vector
	pools   []string
	home    string // pool it is in, if pools is empty
	alone   int32  // group + 1; 0 is none
	spread  int32
	domains int
	pinned  bool
	spare   bool // declared spare, which counts as no pod
}

func newRepacker(machines []Machine) *repacker {
	r := &repacker{machines: make([]packed, len(machines)), groups: map[string]int32{}, domains: map[string]int32{}}
	total := 0
	for i := range machines {
		total += len(machines[i].Pods) + 1
	}
	items := make([]item, 0, total)
	for i := range machines {
		m, p := &machines[i], &r.machines[i]
		d, ok := r.domains[m.Domain]
		if !ok {
			d = int32(len(r.domains))
			r.domains[m.Domain] = d
		}
		*p = packed{name: m.Name, pool: m.Pool, domain: d, free: m.Allocatable.Sub(m.Spare), count: len(m.Pods), maxPods: m.MaxPods, closed: m.Closed}
		first := len(items)
		for n := range m.Pods {
			pod := &m.Pods[n]
			p.free = p.free.Sub(pod.Request)
			it := item{request: pod.Request, pools: pod.Pools, home: m.Pool, alone: r.group(pod.Alone), spread: r.group(pod.spreadGroup()), domains: pod.Domains, pinned: pod.Pinned}
			if it.alone > 0 {
				p.alone = append(p.alone, it.alone)
			}
			if it.spread > 0 {
				r.spread[it.spread-1][d]++
			}
			if !pod.Daemon {
				items = append(items, it)
			}
		}
		if !m.Spare.IsZero() {
			items = append(items, item{request: m.Spare, home: m.Pool, spare: true})
		}
		p.pods = items[first:len(items):len(items)]
		p.sortPods(m.Allocatable)
	}
	return r
}

func (r *repacker) group(name string) int32 {
	if name == "" {
		return 0
	}
	g, ok := r.groups[name]
	if !ok {
		r.spread = append(r.spread, map[int32]int{})
		g = int32(len(r.spread))
		r.groups[name] = g
	}
	return g
}

// sortPods puts the hardest pod to place first, so that a machine that cannot be
// emptied is known soon.
func (p *packed) sortPods(allocatable resource.Vector) {
	size := func(v resource.Vector) int64 {
		largest := int64(0)
		for k := range v {
			if allocatable[k] > 0 {
				largest = max(largest, v[k]/max(allocatable[k]/1_000_000, 1))
			}
		}
		return largest
	}
	slices.SortStableFunc(p.pods, func(a, b item) int { return cmp.Compare(size(b.request), size(a.request)) })
	var sum resource.Vector
	for i := range p.pods {
		sum = sum.Add(p.pods[i].request)
	}
	p.load = size(sum)
}

// taken is how much of what was free at the start is free no longer, or is gone
// with its machine.
func (r *repacker) taken(i int, start resource.Vector) resource.Vector {
	if r.machines[i].emptied {
		return start
	}
	return start.Sub(r.machines[i].free.Max(resource.Vector{})).Max(resource.Vector{}).Min(start)
}

// run empties what it can, the least loaded machine first, filling the fullest
// first.
func (r *repacker) run(relaxed bool) {
	r.relaxed = relaxed
	order := make([]int32, 0, len(r.machines))
	room := map[string]resource.Vector{} // by pool; under "" of all
	for i := range r.machines {
		m := &r.machines[i]
		if m.emptied {
			continue
		}
		order = append(order, int32(i))
		m.addRoom(room, 1)
	}
	slices.SortStableFunc(order, func(a, b int32) int {
		return cmp.Or(cmp.Compare(r.machines[a].load, r.machines[b].load), cmp.Compare(r.machines[a].name, r.machines[b].name))
	})
	targets := slices.Clone(order)
	slices.Reverse(targets)
	moves := make([]int32, 0, 64)
	for _, s := range order {
		source := &r.machines[s]
		source.addRoom(room, -1)
		if r.empty(s, targets, room, &moves) {
			source.emptied = true
			for n, t := range moves {
				it, target := &source.pods[n], &r.machines[t]
				target.pods = append(target.pods, *it)
				for _, pool := range [2]string{"", "\x00" + target.pool} {
					room[pool] = room[pool].Sub(it.request)
				}
			}
			source.pods = nil
			targets = slices.DeleteFunc(targets, func(t int32) bool { return t == s })
			continue
		}
		source.addRoom(room, 1)
	}
}

func (m *packed) addRoom(room map[string]resource.Vector, sign int64) {
	for _, pool := range [2]string{"", "\x00" + m.pool} {
		v := room[pool]
		for k := range v {
			v[k] += sign * max(m.free[k], 0)
		}
		room[pool] = v
	}
}

// empty moves every pod of a machine elsewhere, noting where, or leaves
// everything as it was and returns false.
func (r *repacker) empty(s int32, targets []int32, room map[string]resource.Vector, moves *[]int32) bool {
	source := &r.machines[s]
	*moves = (*moves)[:0]
	pool := "\x00" + source.pool
	if r.relaxed {
		pool = ""
	}
	var need resource.Vector
	for i := range source.pods {
		it := &source.pods[i]
		if it.pinned && !r.relaxed {
			return false
		}
		if len(it.pools) > 0 {
			pool = ""
		}
		need = need.Add(it.request)
	}
	if !fits(need, room[pool]) {
		return false
	}
	undo := func() {
		for n, t := range *moves {
			r.move(&source.pods[n], t, s)
		}
	}
	from := 0
	for i := range source.pods {
		it := &source.pods[i]
		if i == 0 || !same(it, &source.pods[i-1]) {
			from = 0 // an equal pod need not ask the same machines again
		}
		placed := false
		for ; from < len(targets); from++ {
			t := targets[from]
			if t != s && r.accepts(it, &r.machines[t], source) {
				r.move(it, s, t)
				*moves = append(*moves, t)
				placed = true
				break
			}
		}
		if !placed {
			undo()
			return false
		}
	}
	return true
}

func same(a, b *item) bool {
	return a.request == b.request && a.alone == b.alone && a.spread == b.spread && a.domains == b.domains &&
		a.spare == b.spare && a.spread == 0 && slices.Equal(a.pools, b.pools)
}

func fits(need, free resource.Vector) bool {
	for k := range need {
		if need[k] > 0 && need[k] > free[k] {
			return false
		}
	}
	return true
}

func (r *repacker) accepts(it *item, t, source *packed) bool {
	if !fits(it.request, t.free) || t.maxPods > 0 && t.count >= t.maxPods && !it.spare {
		return false
	}
	if r.relaxed {
		return true
	}
	if t.closed {
		return false
	}
	if len(it.pools) > 0 {
		if !slices.Contains(it.pools, t.pool) {
			return false
		}
	} else if t.pool != it.home {
		return false
	}
	if it.alone > 0 && slices.Contains(t.alone, it.alone) {
		return false
	}
	if it.spread > 0 && it.domains > 0 && t.domain != source.domain {
		counts := r.spread[it.spread-1]
		least := -1
		for _, d := range r.domains {
			n := counts[d]
			if d == source.domain {
				n--
			}
			if least < 0 || n < least {
				least = n
			}
		}
		if counts[t.domain]+1-least > it.domains {
			return false
		}
	}
	return true
}

func (r *repacker) move(it *item, from, to int32) {
	a, b := &r.machines[from], &r.machines[to]
	a.free, b.free = a.free.Add(it.request), b.free.Sub(it.request)
	if !it.spare {
		a.count, b.count = a.count-1, b.count+1
	}
	if it.alone > 0 {
		if i := slices.Index(a.alone, it.alone); i >= 0 {
			a.alone = slices.Delete(a.alone, i, i+1)
		}
		b.alone = append(b.alone, it.alone)
	}
	if it.spread > 0 {
		r.spread[it.spread-1][a.domain]--
		r.spread[it.spread-1][b.domain]++
	}
}
