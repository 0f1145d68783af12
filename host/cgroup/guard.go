package cgroup

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"
)

// A guard keeps a group idle without ever letting anybody else meet that in the
// weight's file. Its invariant: the group is idle only while the lease on the
// weight stands, and the lease stands only while nobody else has the file open.
type guard struct {
	group  Group
	name   string // of the weight's file
	lease  lease
	idle   bool   // the lease is ours and the group is idle
	weight string // what the file held when the lease was taken last
	since  time.Time
	pause  time.Duration // from the last yield to the next try
}

// The time from letting somebody in to the next try. It doubles up to the longest
// while others come as soon as the guard is back, so that they make progress on a
// machine that is slow to run them.
const (
	shortest = 5 * time.Millisecond
	longest  = 320 * time.Millisecond
)

// A lease is a write lease on a file that is held open.
type lease interface {
	take() error  // EAGAIN while somebody else has the file open
	broken() bool // somebody waits to open it
	give() error
	read() (string, error) // the file, past the lease
	write(text string) error
	close() error // gives the lease too
}

// A watch hears of files.
type watch interface {
	events() <-chan event
	add(name string) error
	remove(name string)
	close() error
}

// An event is a write to a file; without a name, a lease may be asked back.
type event struct{ name string }

// managed tells whether systemd writes the group's knobs.
func managed(g Group) bool { return strings.HasSuffix(string(g), ".slice") }

// guard makes a group idle under a lease on its weight.
func (l *Ledger) guard(at Group) error {
	if l.guards[at] != nil {
		return nil
	}
	name, err := l.tree.file(at, Weight)
	if err != nil {
		return err
	}
	lease, err := l.tree.files.lease(name)
	if err != nil {
		return l.tree.missing("lease", at, name, err)
	}
	g := &guard{group: at, name: name, lease: lease, since: time.Now(), pause: shortest}
	switch err := g.engage(l.tree); {
	case errors.Is(err, syscall.EAGAIN): // somebody has it open: the ledger's goroutine goes on trying
	case errors.Is(err, errNoLease):
		lease.close()
		return fmt.Errorf("idle of %s: %w", at, err)
	case err != nil:
		lease.close()
		return err
	}
	l.listen(place{at, Idle})
	l.guards[at] = g
	l.poke()
	return nil
}

// MayIdle tells whether a group can be idle without a kubelet's write to its weight
// failing for it: nil, or why not, such as [ErrAbsent]. It needs the right to write
// the group; the group stays as it is.
func (t *Tree) MayIdle(g Group) error {
	if err := t.Has(g, Idle); err != nil || managed(g) {
		return err
	}
	name, err := t.file(g, Weight)
	if err != nil {
		return err
	}
	lease, err := t.files.lease(name)
	if err != nil {
		return t.missing("lease", g, name, err)
	}
	defer lease.close()
	if err := lease.take(); err != nil && !errors.Is(err, syscall.EAGAIN) { // it is taken, or asked for: it can be
		return fmt.Errorf("idle of %s: %w (%w)", g, errNoLease, err)
	}
	return nil
}

// errNoLease says that the group is better not idle here.
var errNoLease = fmt.Errorf("%w: leases on cgroup files, without which a kubelet's write to an idle group would fail", ErrAbsent)

// engage takes the lease, then makes the group idle.
func (g *guard) engage(t *Tree) error {
	switch err := g.lease.take(); {
	case errors.Is(err, syscall.EAGAIN):
		return err
	case err != nil:
		return fmt.Errorf("%w (%w)", errNoLease, err)
	}
	weight, err := g.lease.read()
	if err == nil {
		err = t.Set(g.group, Idle, 1)
	}
	if err != nil {
		g.lease.give()
		return err
	}
	g.idle, g.weight, g.since = true, weight, time.Now()
	return nil
}

// yield ends idle, writes the weight that ending it reset, and only then lets the
// lease go: who opens the file finds it as it was before.
func (g *guard) yield(l *Ledger) error {
	if g.idle {
		if err := l.tree.Set(g.group, Idle, 0); err != nil {
			return err // still idle: the kernel holds who waits, and we try again
		}
		weight := g.weight
		if w, ok := l.want[place{g.group, Weight}]; ok {
			if text, err := l.tree.format(g.group, Weight, w.Value); err == nil {
				weight = text
			}
		}
		if err := g.lease.write(weight); err != nil {
			return err
		}
		g.idle = false
	}
	return g.lease.give()
}

// step does what is due: let somebody in, or be idle again.
func (g *guard) step(l *Ledger) {
	switch since := time.Since(g.since); {
	case g.idle && g.lease.broken():
		if g.yield(l) == nil {
			if since > g.pause {
				g.pause = shortest
			} else {
				g.pause = min(2*g.pause, longest)
			}
			g.since = time.Now()
		}
	case !g.idle && since >= g.pause:
		if g.engage(l.tree) != nil {
			g.since, g.pause = time.Now(), min(2*g.pause, longest)
		}
	}
}

// yielding tells whether some guard waits for its next try.
func (l *Ledger) yielding() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, g := range l.guards {
		if !g.idle {
			return true
		}
	}
	return false
}

// unguard ends idle and gives the weight back.
func (l *Ledger) unguard(at Group) error {
	g := l.guards[at]
	if g == nil {
		return nil
	}
	if err := g.yield(l); err != nil && !errors.Is(err, ErrGone) && !errors.Is(err, syscall.ENODEV) {
		return err
	}
	l.found.learn(place{at, Weight}, g.weight)
	g.lease.close()
	delete(l.guards, at)
	return nil
}

// Holds tells whether the group is idle now. It is not in the milliseconds in
// which somebody else has its weight open, nor when the ledger was not told to
// make it so.
func (l *Ledger) Holds(at Group) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if g := l.guards[at]; g != nil {
		return g.idle
	}
	return l.want[place{at, Idle}].Value == 1
}
