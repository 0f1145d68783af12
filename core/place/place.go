package place

import (
	"slices"
	"strings"

	"github.com/neap-dev/neap/core/resource"
)

// A Pod is what placement needs to know of one pod.
type Pod struct {
	Request resource.Vector
	Owner   string   // siblings have the same; they are spread when there is a choice
	Pools   []string // pools the pod may run in; empty means any, or in [Repack] the one it is in
	Alone   string   // anti-affinity group: no two pods of a group on one machine
	Spread  string   // the group that Domains counts; "" means Alone's
	Domains int      // at most this many more pods of the group in one domain than in another; 0 means no rule
	Pinned  bool     // may not be moved
	Daemon  bool     // every machine has one: it never keeps a machine
}

func (p *Pod) spreadGroup() string {
	if p.Domains <= 0 {
		return ""
	}
	if p.Spread != "" {
		return p.Spread
	}
	return p.Alone
}

// A Machine is what placement needs to know of one machine.
type Machine struct {
	Name, Pool, Domain string

	Allocatable resource.Vector
	Spare       resource.Vector // declared: to be kept free
	Closed      bool            // takes no new pods
	MaxPods     int             // 0 means no limit
	Pods        []Pod           // for [Repack]; a [Fleet] takes pods by Bind
}

// A Reason says why a pod does not fit on a machine; "" says that it does.
type Reason string

// The reasons, in the order they are checked.
const (
	Fits         Reason = ""
	Unknown      Reason = "no such machine"
	Closed       Reason = "closed to new pods"
	WrongPool    Reason = "not in a pool the pod may use"
	TooManyPods  Reason = "too many pods"
	TooLittleCPU Reason = "too little CPU"
	TooLittleMem Reason = "too little memory"
	TooFewGPU    Reason = "too few GPUs"
	NotAlone     Reason = "a pod of the same anti-affinity group is there"
	Uneven       Reason = "its failure domain has its share of the pods already"
)

// A Fleet is machines and the pods bound to them, indexed for placing many pods
// one after the other. The zero Fleet is empty and ready. It is not safe for
// concurrent use.
type Fleet struct {
	machines []*fleetMachine // by name
	byName   map[string]*fleetMachine
	pods     map[string]bound
	groups   map[string]map[string]int // spread group, domain: pods
	domains  map[string]int            // domain: machines
}

type fleetMachine struct {
	Machine
	free   resource.Vector
	count  int
	alone  map[string]int
	owners map[string]int
}

type bound struct {
	pod Pod
	on  *fleetMachine
}

// Add adds a machine, or replaces what is known of it; its bound pods stay.
// m.Pods is ignored.
func (f *Fleet) Add(m Machine) {
	if f.byName == nil {
		f.byName, f.pods = map[string]*fleetMachine{}, map[string]bound{}
		f.groups, f.domains = map[string]map[string]int{}, map[string]int{}
	}
	m.Pods = nil
	if old := f.byName[m.Name]; old != nil {
		if old.Domain != m.Domain {
			for _, b := range f.pods {
				if b.on == old {
					f.count(b.pod, old.Domain, -1)
					f.count(b.pod, m.Domain, 1)
				}
			}
			f.domain(old.Domain, -1)
			f.domain(m.Domain, 1)
		}
		used := old.Allocatable.Sub(old.Spare).Sub(old.free)
		old.Machine = m
		old.free = m.Allocatable.Sub(m.Spare).Sub(used)
		return
	}
	fm := &fleetMachine{Machine: m, free: m.Allocatable.Sub(m.Spare), alone: map[string]int{}, owners: map[string]int{}}
	f.byName[m.Name] = fm
	at, _ := slices.BinarySearchFunc(f.machines, m.Name, func(x *fleetMachine, name string) int { return strings.Compare(x.Name, name) })
	f.machines = slices.Insert(f.machines, at, fm)
	f.domain(m.Domain, 1)
}

// Remove takes a machine away and returns the UIDs of the pods that were on it,
// in order.
func (f *Fleet) Remove(name string) []string {
	m := f.byName[name]
	if m == nil {
		return nil
	}
	var gone []string
	for uid, b := range f.pods {
		if b.on == m {
			gone = append(gone, uid)
		}
	}
	slices.Sort(gone)
	for _, uid := range gone {
		f.Unbind(uid)
	}
	f.domain(m.Domain, -1)
	delete(f.byName, name)
	f.machines = slices.DeleteFunc(f.machines, func(x *fleetMachine) bool { return x == m })
	return gone
}

// SetClosed opens or closes a machine to new pods.
func (f *Fleet) SetClosed(name string, closed bool) {
	if m := f.byName[name]; m != nil {
		m.Closed = closed
	}
}

// Bind puts a pod on a machine whether it fits or not, as the API does, and
// reports whether the machine exists. Binding a UID again moves it.
func (f *Fleet) Bind(uid string, p Pod, machine string) bool {
	m := f.byName[machine]
	if m == nil {
		return false
	}
	f.Unbind(uid)
	f.pods[uid] = bound{p, m}
	m.free = m.free.Sub(p.Request)
	m.count++
	if p.Alone != "" {
		m.alone[p.Alone]++
	}
	if p.Owner != "" {
		m.owners[p.Owner]++
	}
	f.count(p, m.Domain, 1)
	return true
}

// Unbind takes a pod away, and reports whether it was there.
func (f *Fleet) Unbind(uid string) bool {
	b, ok := f.pods[uid]
	if !ok {
		return false
	}
	delete(f.pods, uid)
	m := b.on
	m.free = m.free.Add(b.pod.Request)
	m.count--
	less(m.alone, b.pod.Alone)
	less(m.owners, b.pod.Owner)
	f.count(b.pod, m.Domain, -1)
	return true
}

func less(m map[string]int, key string) {
	if m[key]--; m[key] <= 0 {
		delete(m, key)
	}
}

func (f *Fleet) count(p Pod, domain string, by int) {
	for _, group := range [2]string{p.spreadGroup(), ownerGroup(p.Owner)} {
		if group == "" {
			continue
		}
		if f.groups[group] == nil {
			f.groups[group] = map[string]int{}
		}
		if f.groups[group][domain] += by; f.groups[group][domain] <= 0 {
			delete(f.groups[group], domain)
			if len(f.groups[group]) == 0 {
				delete(f.groups, group)
			}
		}
	}
}

// ownerGroup keeps owners apart from spread groups of the same name.
func ownerGroup(owner string) string {
	if owner == "" {
		return ""
	}
	return "\x00" + owner
}

func (f *Fleet) domain(name string, by int) {
	if f.domains[name] += by; f.domains[name] <= 0 {
		delete(f.domains, name)
	}
}

// Free returns what is free on a machine and how many pods it has.
func (f *Fleet) Free(machine string) (free resource.Vector, pods int, ok bool) {
	m := f.byName[machine]
	if m == nil {
		return resource.Vector{}, 0, false
	}
	return m.free, m.count, true
}

// On returns the UIDs of the pods on a machine, in order.
func (f *Fleet) On(machine string) []string {
	var uids []string
	for uid, b := range f.pods {
		if b.on.Name == machine {
			uids = append(uids, uid)
		}
	}
	slices.Sort(uids)
	return uids
}

// Machines returns how many machines there are, and Pods how many bound pods.
func (f *Fleet) Machines() int { return len(f.machines) }

// Pods returns how many pods are bound.
func (f *Fleet) Pods() int { return len(f.pods) }

// Fit says why a pod does not fit on a machine.
func (f *Fleet) Fit(p Pod, machine string) Reason {
	m := f.byName[machine]
	if m == nil {
		return Unknown
	}
	return f.fit(&p, m, f.leastIn(&p))
}

// leastIn is the smallest number of the pod's spread group in any domain.
func (f *Fleet) leastIn(p *Pod) int {
	group := p.spreadGroup()
	if group == "" {
		return 0
	}
	least := -1
	for d := range f.domains {
		if n := f.groups[group][d]; least < 0 || n < least {
			least = n
		}
	}
	return max(least, 0)
}

func (f *Fleet) fit(p *Pod, m *fleetMachine, least int) Reason {
	switch {
	case m.Closed && !p.Daemon:
		return Closed
	case len(p.Pools) > 0 && !slices.Contains(p.Pools, m.Pool):
		return WrongPool
	case m.MaxPods > 0 && m.count >= m.MaxPods:
		return TooManyPods
	case p.Request[resource.CPU] > 0 && p.Request[resource.CPU] > m.free[resource.CPU]:
		return TooLittleCPU
	case p.Request[resource.Memory] > 0 && p.Request[resource.Memory] > m.free[resource.Memory]:
		return TooLittleMem
	case p.Request[resource.GPU] > 0 && p.Request[resource.GPU] > m.free[resource.GPU]:
		return TooFewGPU
	case p.Alone != "" && m.alone[p.Alone] > 0:
		return NotAlone
	}
	if group := p.spreadGroup(); group != "" && f.groups[group][m.Domain]+1-least > p.Domains {
		return Uneven
	}
	return Fits
}

// Pick returns the machine for a pod, or "" and for each reason how many
// machines it rules out. It is deterministic: equal scores go to the earlier
// name.
func (f *Fleet) Pick(p Pod) (machine string, why map[Reason]int) {
	least := f.leastIn(&p)
	var best *fleetMachine
	bestScore := int64(-1)
	siblings := f.groups[ownerGroup(p.Owner)]
	all := 0
	for _, n := range siblings {
		all += n
	}
	for _, m := range f.machines {
		if r := f.fit(&p, m, least); r != Fits {
			if why == nil {
				why = map[Reason]int{}
			}
			why[r]++
			continue
		}
		if s := score(&p, m, siblings[m.Domain], all); s > bestScore {
			best, bestScore = m, s
		}
	}
	if best == nil {
		return "", why
	}
	return best.Name, nil
}

// score is kube-scheduler's default for what is known here: least allocated and
// balanced allocation of CPU and memory, each 0 to 100 with weight 1, and the
// soft spread over machines and domains with weight 2.
func score(p *Pod, m *fleetMachine, inDomain, all int) int64 {
	var after [2]int64 // thousandths of allocatable that would be taken
	leastAllocated := int64(0)
	for i, k := range [2]resource.Kind{resource.CPU, resource.Memory} {
		have := m.Allocatable[k]
		if have <= 0 {
			after[i] = 1000
			continue
		}
		free := max(m.free[k]-p.Request[k], 0)
		share := free / max(have/1000, 1)
		after[i] = 1000 - min(share, 1000)
		leastAllocated += min(share, 1000)
	}
	// Both are in tenths of a point, so that large machines still differ.
	leastAllocated /= 2
	uneven := after[0] - after[1]
	if uneven < 0 {
		uneven = -uneven
	}
	balanced := 1000 - uneven/2
	spread := int64(1000)
	if all > 0 {
		here := int64(m.owners[p.Owner])
		spread = 1000 - (here*600+int64(inDomain)*400)/int64(all)
	}
	score := leastAllocated + balanced + 2*max(spread, 0)
	if p.Request[resource.GPU] == 0 && m.Allocatable[resource.GPU] > 0 {
		score /= 4 // what needs no GPU goes to a machine without, if there is one
	}
	return score
}
