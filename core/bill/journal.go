package bill

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/core/workload"
)

// An EventKind says what an [Event] reports.
type EventKind string

// The kinds of events, with the fields each one needs.
const (
	MachineSeen   EventKind = "machine"        // Machine: as it is from At on, new or changed
	MachineGone   EventKind = "machine-gone"   // Name
	PodSeen       EventKind = "pod"            // Pod: bound since At, or changed at At (request, labels, module)
	PodRequest    EventKind = "pod-request"    // Name (UID), Request: it requests this from At on
	PodModule     EventKind = "pod-module"     // Name (UID), Module: it belongs to this module
	PodGone       EventKind = "pod-gone"       // Name (UID): gone from its machine since At
	ModuleRenamed EventKind = "module-renamed" // OldModule, Module: every pod of the one belongs to the other
)

// An Event is one observation for the [Journal]. It can be stored as JSON and
// applied again.
type Event struct {
	At   time.Time `json:"at"`
	Kind EventKind `json:"kind"`
	Name string    `json:"name,omitempty"` // machine name or pod UID

	// Machine and Pod carry no times of their own: At counts. Pod.Requests
	// holds one step, the request from At on; its At is ignored.
	Machine *Machine `json:"machine,omitempty"`
	Pod     *Pod     `json:"pod,omitempty"`

	Request   *resource.Vector `json:"request,omitempty"`
	Module    *workload.Key    `json:"module,omitempty"`
	OldModule *workload.Key    `json:"oldModule,omitempty"`
}

// A Journal records exact lifetimes and request steps from events. Applying an
// event twice, or the whole sequence again, changes nothing. Events of different
// objects may come in any order; an event of one object that is older than what
// is known of it (a clock that stepped back) is taken to have happened at the
// last known moment, and counted. The zero Journal is empty and ready. It is not
// safe for concurrent use.
type Journal struct {
	machines map[string][]*machineLife // by name, oldest first
	pods     map[string]*podLife       // by UID

	// Clamped counts events that were older than what was known of their object.
	Clamped int
	// Ignored counts events about objects that are unknown, and events that
	// lack what their kind needs.
	Ignored int
}

type machineLife struct {
	Machine           // From is right; To is right if gone
	gone    bool      // To is set
	last    time.Time // newest event
	seen    []seen    // what changed when, to know a repetition; oldest first
}

type seen struct {
	at time.Time
	m  Machine
}

type podLife struct {
	Pod            // Requests hold every step
	gone bool      // To is set
	last time.Time // newest event about times: bound, request, gone
	meta time.Time // newest event about labels and module
}

// Apply records one event.
func (j *Journal) Apply(e Event) {
	if j.pods == nil {
		j.machines, j.pods = map[string][]*machineLife{}, map[string]*podLife{}
	}
	switch e.Kind {
	case MachineSeen:
		if e.Machine == nil || e.Machine.Name == "" {
			j.Ignored++
			return
		}
		j.machineSeen(e.At, *e.Machine)
	case MachineGone:
		j.machineGone(e.At, e.Name)
	case PodSeen:
		if e.Pod == nil || e.Pod.UID == "" || e.Pod.Machine == "" {
			j.Ignored++
			return
		}
		j.podSeen(e.At, *e.Pod)
	case PodRequest, PodModule, PodGone:
		p := j.pods[e.Name]
		switch {
		case p == nil:
			j.Ignored++
		case e.Kind == PodRequest && e.Request != nil:
			j.request(p, e.At, *e.Request)
		case e.Kind == PodModule && e.Module != nil:
			if !e.At.Before(p.meta) {
				p.Module, p.meta = *e.Module, e.At
			}
		case e.Kind == PodGone:
			if !p.gone { // the first end is the true one: later ones only clear the object away
				p.gone, p.To = true, j.notBefore(e.At, p.last)
				p.last = p.To
			}
		default:
			j.Ignored++
		}
	case ModuleRenamed:
		if e.Module == nil || e.OldModule == nil {
			j.Ignored++
			return
		}
		for _, p := range j.pods {
			if p.Module == *e.OldModule && !e.At.Before(p.meta) && !(p.gone && p.To.Before(e.At)) {
				p.Module, p.meta = *e.Module, e.At
			}
		}
	default:
		j.Ignored++
	}
}

func (j *Journal) notBefore(at, last time.Time) time.Time {
	if at.Before(last) {
		j.Clamped++
		return last
	}
	return at
}

func (j *Journal) machineSeen(at time.Time, m Machine) {
	m.From, m.To = time.Time{}, time.Time{}
	lives := j.machines[m.Name]
	for _, l := range lives { // a repetition, or nothing new?
		if at.Before(l.From) || l.gone && !at.Before(l.To) {
			continue
		}
		for i := len(l.seen) - 1; i >= 0; i-- {
			if !l.seen[i].at.After(at) {
				if l.seen[i].m == m {
					return
				}
				break
			}
		}
	}
	if n := len(lives); n > 0 {
		l := lives[n-1]
		if !l.gone {
			when := j.notBefore(at, l.last)
			l.last = when
			l.seen = append(l.seen, seen{when, m})
			if len(l.seen) > 64 { // only guards against repetition; a bound is enough
				l.seen = slices.Delete(l.seen, 1, 33)
			}
			if samePurchase(l.Machine, m) || l.Capacity.IsZero() {
				// The first report of a machine often comes before its kubelet
				// has said how large it is.
				from := l.From
				l.Machine = m
				l.From = from
				return
			}
			l.gone, l.To = true, when
			at = when
		} else {
			at = j.notBefore(at, l.To)
		}
	}
	l := &machineLife{Machine: m, last: at, seen: []seen{{at, m}}}
	l.From = at
	j.machines[m.Name] = append(lives, l)
}

// samePurchase reports whether a and b differ only in what new pods may do, so
// that the machine need not have a second fact.
func samePurchase(a, b Machine) bool {
	a.From, a.To, a.Closed, a.Domain, a.MaxPods = b.From, b.To, b.Closed, b.Domain, b.MaxPods
	return a == b
}

func (j *Journal) machineGone(at time.Time, name string) {
	lives := j.machines[name]
	if len(lives) == 0 {
		j.Ignored++
		return
	}
	for _, l := range lives {
		if l.gone && l.To.Equal(at) {
			return // a repetition
		}
	}
	l := lives[len(lives)-1]
	if l.gone {
		return // the first end is the true one
	}
	if at.Before(l.From) { // of an earlier machine of that name, long forgotten
		j.Ignored++
		return
	}
	l.gone, l.To = true, j.notBefore(at, l.last)
	l.last = l.To
}

func (j *Journal) podSeen(at time.Time, p Pod) {
	var request resource.Vector
	if len(p.Requests) > 0 {
		request = p.Requests[0].Request
	}
	life := j.pods[p.UID]
	if life == nil {
		p.From, p.To, p.Usage = at, time.Time{}, nil
		p.Requests = []Step{{At: at, Request: request}}
		p.Labels = maps.Clone(p.Labels)
		p.Rules.Pools = slices.Clone(p.Rules.Pools)
		j.pods[p.UID] = &podLife{Pod: p, last: at, meta: at}
		return
	}
	j.request(life, at, request)
	if at.Before(life.meta) {
		return
	}
	life.meta = at
	life.Module, life.Labels = p.Module, maps.Clone(p.Labels)
	life.Headroom, life.Daemon, life.Rules = p.Headroom, p.Daemon, p.Rules
	life.Rules.Pools = slices.Clone(p.Rules.Pools)
}

// request records a step unless the pod already requested the same then.
func (j *Journal) request(p *podLife, at time.Time, r resource.Vector) {
	if p.gone && !at.Before(p.To) {
		return
	}
	if at.Before(p.last) {
		for i := len(p.Requests) - 1; i >= 0; i-- {
			if !p.Requests[i].At.After(at) {
				if p.Requests[i].Request == r {
					return // a repetition
				}
				break
			}
		}
		if p.gone {
			return
		}
	}
	if p.Requests[len(p.Requests)-1].Request == r {
		p.last = later(p.last, at)
		return
	}
	at = j.notBefore(at, p.last)
	p.last = at
	if last := &p.Requests[len(p.Requests)-1]; last.At.Equal(at) {
		last.Request = r
		return
	}
	p.Requests = append(p.Requests, Step{At: at, Request: r})
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// Hour returns what is known of [from, to), clipped to it, in a fixed order and
// sharing nothing with the journal that changes. Usage and Loads are left for
// the caller ([AttachUsage]). A pod outlives its machine only in name: its time
// ends with the machine's.
func (j *Journal) Hour(from, to time.Time) Hour {
	h := Hour{From: from, To: to}
	for _, lives := range j.machines {
		for _, l := range lives {
			m := l.Machine
			m.From, m.To = clip(m.From, m.To, l.gone, from, to)
			if m.From.Before(m.To) {
				h.Machines = append(h.Machines, m)
			}
		}
	}
	for _, l := range j.pods {
		p := l.Pod
		p.From, p.To = clip(p.From, p.To, l.gone, from, to)
		if lives := j.machines[p.Machine]; len(lives) > 0 {
			if last := lives[len(lives)-1]; last.gone && last.To.Before(p.To) {
				p.To = last.To
			}
		}
		if !p.From.Before(p.To) {
			continue
		}
		p.Requests = clipSteps(l.Requests, p.From, p.To)
		h.Pods = append(h.Pods, p)
	}
	slices.SortFunc(h.Machines, compareMachines)
	slices.SortFunc(h.Pods, comparePods)
	return h
}

func compareMachines(a, b Machine) int {
	if c := strings.Compare(a.Name, b.Name); c != 0 {
		return c
	}
	return a.From.Compare(b.From)
}

func comparePods(a, b Pod) int {
	if c := strings.Compare(a.Namespace, b.Namespace); c != 0 {
		return c
	}
	if c := strings.Compare(a.Name, b.Name); c != 0 {
		return c
	}
	if c := strings.Compare(a.UID, b.UID); c != 0 {
		return c
	}
	return a.From.Compare(b.From)
}

func clip(from, to time.Time, ended bool, lo, hi time.Time) (time.Time, time.Time) {
	if from.Before(lo) {
		from = lo
	}
	if !ended || to.After(hi) {
		to = hi
	}
	return from, to
}

// clipSteps returns the steps that hold in [from, to), the first of them at from.
func clipSteps(steps []Step, from, to time.Time) []Step {
	var kept []Step
	for _, s := range steps {
		if !s.At.Before(to) {
			break
		}
		if !s.At.After(from) {
			s.At = from
			kept = kept[:0]
		}
		kept = append(kept, s)
	}
	return kept
}

// Forget drops what ended at or before an instant, and the request steps that
// nothing after it needs. Hours that reach before it can no longer be asked for.
func (j *Journal) Forget(before time.Time) {
	for uid, p := range j.pods {
		if p.gone && !p.To.After(before) {
			delete(j.pods, uid)
			continue
		}
		first := 0
		for i, s := range p.Requests {
			if !s.At.After(before) {
				first = i
			}
		}
		p.Requests = slices.Delete(p.Requests, 0, first)
	}
	needed := map[string]bool{} // a pod that is left over still needs to know that its machine is gone
	for _, p := range j.pods {
		needed[p.Machine] = true
	}
	for name, lives := range j.machines {
		last := lives[len(lives)-1]
		lives = slices.DeleteFunc(lives, func(l *machineLife) bool {
			return l.gone && !l.To.After(before) && !(l == last && needed[name])
		})
		if len(lives) == 0 {
			delete(j.machines, name)
			continue
		}
		j.machines[name] = lives
	}
}

// Events returns the shortest events that rebuild the journal, in a fixed order:
// what a store keeps in place of all that were applied.
func (j *Journal) Events() []Event {
	var out []Event
	for name, lives := range j.machines {
		for _, l := range lives {
			m := l.Machine
			m.From, m.To = time.Time{}, time.Time{}
			out = append(out, Event{At: l.From, Kind: MachineSeen, Machine: &m})
			if l.gone {
				out = append(out, Event{At: l.To, Kind: MachineGone, Name: name})
			}
		}
	}
	for uid, l := range j.pods {
		p := l.Pod
		p.From, p.To = time.Time{}, time.Time{}
		p.Requests = []Step{{Request: l.Requests[0].Request}}
		out = append(out, Event{At: l.From, Kind: PodSeen, Pod: &p})
		for _, s := range l.Requests[1:] {
			out = append(out, Event{At: s.At, Kind: PodRequest, Name: uid, Request: &s.Request})
		}
		if l.gone {
			out = append(out, Event{At: l.To, Kind: PodGone, Name: uid})
		}
	}
	rank := map[EventKind]int{MachineGone: 0, MachineSeen: 1, PodSeen: 2, PodRequest: 3, PodGone: 4}
	slices.SortFunc(out, func(a, b Event) int {
		if c := a.At.Compare(b.At); c != 0 {
			return c
		}
		if c := rank[a.Kind] - rank[b.Kind]; c != 0 {
			return c
		}
		return strings.Compare(a.subject(), b.subject())
	})
	return out
}

func (e Event) subject() string {
	switch {
	case e.Machine != nil:
		return e.Machine.Name
	case e.Pod != nil:
		return e.Pod.UID
	}
	return e.Name
}

// Len returns how many machines and pods the journal holds, ended ones included.
func (j *Journal) Len() (machines, pods int) {
	for _, lives := range j.machines {
		machines += len(lives)
	}
	return machines, len(j.pods)
}

// PodOf returns the UID's module and machine, and whether it is known and alive.
func (j *Journal) PodOf(uid string) (module workload.Key, machine string, alive bool) {
	p := j.pods[uid]
	if p == nil {
		return workload.Key{}, "", false
	}
	return p.Module, p.Machine, !p.gone
}
