package cgroup

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"sync"
	"time"
)

// A Want is what a knob should hold, and why.
type Want struct {
	Group  Group
	Knob   Knob
	Value  int64
	Reason string // one sentence for who asks; the newest is kept
}

// Options say how a [Ledger] works.
type Options struct {
	// Scope is the group that the ledger owns with all below it; required. Two
	// ledgers of overlapping scopes are refused when the scopes are equal: give
	// the group of all pods.
	Scope Group
	// Dir is a directory of this ledger's own that outlives the process, and is
	// the same when it starts again; required. It is made when it is missing.
	Dir string
	// Every is how often all files are looked at, beside what inotify tells at
	// once; 0 is 5 s.
	Every time.Duration
	// Foreign is told of every write of somebody else's that was undone, from the
	// ledger's own goroutine; it must not call the ledger. It may be nil.
	Foreign func(Foreign)
}

// A Foreign is a write that was not ours.
type Foreign struct {
	Group           Group
	Knob            Knob
	Found, Restored int64
}

// A Ledger is the one owner of the groups in its scope: a table of what the
// files should hold, which it keeps so. Its methods may be called by several
// goroutines at a time.
type Ledger struct {
	tree    *Tree
	options Options
	unlock  func()
	watch   watch
	stop    chan struct{}
	poked   chan struct{} // there is a guard that waits for its next try
	stopped sync.WaitGroup

	mu      sync.Mutex
	want    map[place]Want
	names   map[string][]place // of the files that are watched
	guards  map[Group]*guard
	found   *record
	foreign map[Knob]int64
	closed  bool
}

// A place is a knob of a group.
type place struct {
	group Group
	knob  Knob
}

// compare orders places, parents before children.
func (p place) compare(q place) int {
	return cmp.Or(cmp.Compare(p.group.depth(), q.group.depth()), cmp.Compare(p.group, q.group),
		cmp.Compare(slices.Index(Knobs, p.knob), slices.Index(Knobs, q.knob)))
}

// OpenLedger becomes the owner of the scope. What a predecessor left there that
// did not end in order is put back first, so the files are as they were found.
// It is ErrOwned when another process owns the scope.
func OpenLedger(t *Tree, o Options) (*Ledger, error) {
	if o.Scope == "" || o.Dir == "" {
		return nil, errors.New("open the ledger of cgroups: it needs a scope and a directory")
	}
	if o.Every <= 0 {
		o.Every = 5 * time.Second
	}
	unlock, err := t.files.lock(t.dir("cpu", o.Scope))
	if err != nil {
		if errors.Is(err, ErrOwned) {
			return nil, fmt.Errorf("own %s: %w: stop it first", o.Scope, err)
		}
		return nil, t.missing("own", o.Scope, path.Join(t.dir("cpu", o.Scope), "."), err)
	}
	l := &Ledger{tree: t, options: o, unlock: unlock, stop: make(chan struct{}), poked: make(chan struct{}, 1),
		want: map[place]Want{}, names: map[string][]place{}, guards: map[Group]*guard{}, foreign: map[Knob]int64{}}
	if l.found, err = load(o.Dir, t.files.boot()); err == nil {
		err = l.found.restore(t, "/")
	}
	if err == nil {
		l.watch, err = t.files.watch()
	}
	if err != nil {
		unlock()
		return nil, err
	}
	l.stopped.Go(l.serve)
	return l, nil
}

// Set makes the table hold the wants and the files follow, in the order in which
// the kernel takes it. What the table already holds is not written again. Errors
// are of single wants, joined: those are not in the table, the others are. A
// weight that is wanted for an idle group is written when idle ends.
func (l *Ledger) Set(wants ...Want) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return errors.New("set cgroups: the ledger is closed")
	}
	var errs []error
	var todo []Want
	for _, w := range wants {
		p := place{w.Group, w.Knob}
		if !w.Group.Within(l.options.Scope) {
			errs = append(errs, fmt.Errorf("set %s of %s: it is not within %s", w.Knob, w.Group, l.options.Scope))
			continue
		}
		if old, ok := l.want[p]; ok && old.Value == w.Value {
			l.want[p] = w
			continue
		}
		todo = append(todo, w)
	}
	// What the files hold is on disk before the first of them is written.
	for _, s := range l.plan(l.keep(todo, &errs)) {
		if err := l.apply(s.Want); err != nil {
			errs = append(errs, err)
			if delete(l.want, place{s.Group, s.Knob}); errors.Is(err, ErrGone) {
				l.found.forget(s.Group)
			}
		} else if !s.beside {
			l.want[place{s.Group, s.Knob}] = s.Want
		}
	}
	return errors.Join(errs...)
}

// keep records what the places of the wants hold, once each, and returns those
// wants that are safe to write.
func (l *Ledger) keep(wants []Want, errs *[]error) []Want {
	var known, fresh []Want
	var added []place
	for _, w := range wants {
		places, err := l.found.add(l.tree, place{w.Group, w.Knob})
		added = append(added, places...)
		switch {
		case err != nil:
			*errs = append(*errs, err)
		case len(places) > 0:
			fresh = append(fresh, w)
		default:
			known = append(known, w)
		}
	}
	if len(added) == 0 {
		return known
	}
	if err := l.found.save(); err != nil {
		l.found.strike(added)
		*errs = append(*errs, fmt.Errorf("set cgroups: %w: %w", ErrDisk, err))
		return known
	}
	return append(known, fresh...)
}

// A step is a want with its place in the order of writing.
type step struct {
	Want
	rank   int
	beside bool // not asked for: what another step took away
}

// The ranks of steps. What the kernel compares never meets a rule on the way when
// what is left and what is to come both keep the rules.
const (
	freely     = iota // thaw, idle, weight, memory
	burstFalls        // below the quota that comes
	period            // with no quota meanwhile
	quotaFalls        // children first
	quotaRises        // parents first
	burstRises
)

// plan orders wants.
func (l *Ledger) plan(wants []Want) []step {
	var steps []step
	asked := func(g Group, k Knob) bool {
		return slices.ContainsFunc(wants, func(w Want) bool { return w.Group == g && w.Knob == k })
	}
	add := func(w Want, beside bool) {
		now, err := l.tree.Get(w.Group, w.Knob)
		rises := err == nil && now != Unlimited && (w.Value == Unlimited || w.Value > now)
		rank := map[bool]int{false: quotaFalls, true: quotaRises}[rises]
		if w.Knob == Burst {
			rank = map[bool]int{false: burstFalls, true: burstRises}[rises || asked(w.Group, Period)]
		}
		steps = append(steps, step{w, rank, beside})
	}
	for _, w := range wants {
		switch w.Knob {
		case Quota, Burst:
			add(w, false)
		case Period:
			steps = append(steps, step{w, period, false})
			for _, k := range []Knob{Quota, Burst} {
				if now, err := l.tree.Get(w.Group, k); err == nil && !asked(w.Group, k) {
					add(Want{w.Group, k, now, w.Reason}, true)
				}
			}
		default:
			steps = append(steps, step{w, freely, false})
		}
	}
	slices.SortStableFunc(steps, func(a, b step) int {
		c := place{a.Group, a.Knob}.compare(place{b.Group, b.Knob})
		if a.rank == quotaFalls {
			c = -c
		}
		return cmp.Or(cmp.Compare(a.rank, b.rank), c)
	})
	return steps
}

// apply writes one want and reads it back.
func (l *Ledger) apply(w Want) error {
	switch {
	case w.Knob == Idle && w.Value == 1 && !managed(w.Group):
		return l.guard(w.Group)
	case w.Knob == Idle && l.guards[w.Group] != nil:
		return l.unguard(w.Group)
	case w.Knob == Weight && l.want[place{w.Group, Idle}].Value == 1:
		return nil
	}
	return l.write(w)
}

func (l *Ledger) write(w Want) error {
	if w.Knob == Period { // the plan writes both again
		l.tree.Set(w.Group, Burst, 0)
		l.tree.Set(w.Group, Quota, Unlimited)
	}
	if err := l.tree.Set(w.Group, w.Knob, w.Value); err != nil {
		return fmt.Errorf("set %s of %s to %d: %w", w.Knob, w.Group, w.Value, err)
	}
	got, err := l.tree.Get(w.Group, w.Knob)
	if err != nil {
		return fmt.Errorf("read %s of %s back: %w", w.Knob, w.Group, err)
	}
	if !l.tree.same(w.Knob, w.Value, got) {
		return fmt.Errorf("set %s of %s to %d: it reads back as %d", w.Knob, w.Group, w.Value, got)
	}
	l.listen(place{w.Group, w.Knob})
	return nil
}

// listen watches the file of a place. Without inotify's word the next sweep sees
// what others write.
func (l *Ledger) listen(p place) {
	name, err := l.tree.file(p.group, p.knob)
	if err != nil || slices.Contains(l.names[name], p) {
		return
	}
	if l.watch.add(name) == nil {
		l.names[name] = append(l.names[name], p)
	}
}

// Forget strikes the groups that are gone off the table. An agent calls it with
// a pod's group when the pod has ended.
func (l *Ledger) Forget(groups ...Group) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for p := range l.want {
		for _, g := range groups {
			if p.group.Within(g) {
				l.drop(p)
			}
		}
	}
	for _, g := range groups {
		l.found.forget(g)
	}
}

// drop strikes one place off the table; its file is gone or given back.
func (l *Ledger) drop(p place) {
	for name, places := range l.names {
		if i := slices.Index(places, p); i >= 0 {
			if places = slices.Delete(places, i, i+1); len(places) == 0 {
				delete(l.names, name)
				l.watch.remove(name)
			} else {
				l.names[name] = places
			}
		}
	}
	if g := l.guards[p.group]; g != nil && p.knob == Idle {
		g.lease.close()
		delete(l.guards, p.group)
	}
	delete(l.want, p)
}

// Release gives groups back: what the ledger wrote there is as it was found, and
// no longer kept so.
func (l *Ledger) Release(groups ...Group) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	for _, g := range groups {
		errs = append(errs, l.release(g))
	}
	return errors.Join(errs...)
}

func (l *Ledger) release(g Group) error {
	var errs []error
	for at := range l.guards {
		if at.Within(g) {
			errs = append(errs, l.unguard(at))
		}
	}
	for p := range l.want {
		if p.group.Within(g) {
			l.drop(p)
		}
	}
	return errors.Join(append(errs, l.found.restore(l.tree, g))...)
}

// Table returns what the files should hold, parents first.
func (l *Ledger) Table() []Want {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []Want
	for _, w := range l.want {
		all = append(all, w)
	}
	slices.SortFunc(all, func(a, b Want) int {
		return place{a.Group, a.Knob}.compare(place{b.Group, b.Knob})
	})
	return all
}

// ForeignWrites returns how often somebody else's write was undone, by knob.
func (l *Ledger) ForeignWrites() map[Knob]int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.foreign)
}

// Close puts every file back as it was found and ends the ownership.
func (l *Ledger) Close() error { return l.end(true) }

// Leave ends the ownership and leaves the bounds in place, except idle, which
// must not be without its holder. The next ledger of the directory, or [Restore],
// puts the files back. It is for who bounds batch work after an agent's death.
func (l *Ledger) Leave() error { return l.end(false) }

func (l *Ledger) end(restore bool) error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	var err error
	if restore {
		err = l.release("/")
	} else {
		for g := range l.guards {
			err = errors.Join(err, l.unguard(g))
		}
	}
	l.mu.Unlock()
	close(l.stop)
	l.stopped.Wait()
	err = errors.Join(err, l.watch.close())
	l.unlock()
	return err
}

// Restore puts every file back as it was found by the ledger of that directory,
// whose process has ended. It is ErrOwned while that process lives.
func Restore(t *Tree, scope Group, dir string) error {
	l, err := OpenLedger(t, Options{Scope: scope, Dir: dir})
	if errors.Is(err, ErrGone) {
		return nil // groups that are gone took their files with them
	}
	if err != nil {
		return err
	}
	return l.Close()
}

// serve keeps the files as the table says, until the ledger ends.
func (l *Ledger) serve() {
	every := time.NewTicker(l.options.Every)
	defer every.Stop()
	for {
		var soon <-chan time.Time
		if l.yielding() {
			soon = time.After(shortest)
		}
		select {
		case <-l.stop:
			return
		case e := <-l.watch.events():
			l.heard(e)
		case <-l.poked:
		case <-soon:
			l.heard(event{})
		case <-every.C:
			l.sweep()
		}
	}
}

// poke makes serve look whether some guard waits.
func (l *Ledger) poke() {
	select {
	case l.poked <- struct{}{}:
	default:
	}
}

// heard acts on an event of a file, or on a lease that the kernel asks back.
func (l *Ledger) heard(e event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	for _, g := range l.guards {
		g.step(l)
	}
	for _, p := range slices.Clone(l.names[e.name]) { // a place whose file is gone is dropped
		l.check(p)
	}
}

// sweep looks at every file.
func (l *Ledger) sweep() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	for _, g := range l.guards {
		g.step(l)
	}
	places := make([]place, 0, len(l.want))
	for p := range l.want {
		places = append(places, p)
	}
	slices.SortFunc(places, place.compare)
	for _, p := range places {
		l.check(p)
	}
}

// check undoes what somebody else wrote.
func (l *Ledger) check(p place) {
	w, ok := l.want[p]
	if !ok || (p.knob == Weight && l.want[place{p.group, Idle}].Value == 1) {
		return
	}
	got, err := l.tree.Get(p.group, p.knob)
	if errors.Is(err, ErrGone) || !l.found.still(l.tree, p) {
		l.drop(p)
		l.found.forget(p.group)
		return
	}
	g := l.guards[p.group]
	if g != nil && p.knob == Idle && !g.idle {
		return // the guard lets somebody in
	}
	if err != nil || l.tree.same(p.knob, w.Value, got) {
		return
	}
	if g != nil && p.knob == Idle {
		err = l.tree.Set(p.group, Idle, w.Value)
	} else {
		for _, s := range l.plan([]Want{w}) {
			err = errors.Join(err, l.apply(s.Want))
		}
	}
	if err != nil {
		return // refused for now: the next look tries again
	}
	l.foreign[p.knob]++
	if l.options.Foreign != nil {
		l.options.Foreign(Foreign{p.group, p.knob, got, w.Value})
	}
}
