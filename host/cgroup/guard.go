package cgroup

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"
)

// A guard keeps a group idle without ever letting a writer of its weight meet an
// idle group. Its invariant: the group is idle only while the lease on the weight
// stands, and the lease stands only while nobody has the weight open for writing.
type guard struct {
	group  Group
	name   string // of the weight's file
	lease  lease
	idle   bool // the lease is ours and the group is idle
	since  time.Time
	wrote  time.Time // when a writer closed the weight since; zero: none did
	read   bool      // it was read after that
	helped bool      // nobody wrote, so we did
}

// The times of a yield.
const (
	settle  = 10 * time.Millisecond // after the last that a writer did
	unheard = 50 * time.Millisecond // who opened and did not write by now will not soon
	patient = 2 * time.Second       // for a writer on V1 to read back what it wrote
)

// A lease is a read lease on a file.
type lease interface {
	take() error  // EAGAIN while somebody has the file open for writing
	broken() bool // somebody waits to open it for writing
	give() error
	close() error
}

// A watch hears of files.
type watch interface {
	events() <-chan event
	add(name string, closing bool) error // closing: also when somebody closes it
	remove(name string)
	close() error
}

// An event is something that happened to a file; with no op, a lease may be asked back.
type event struct {
	name string
	op   op
}

type op int

const (
	modified op = 1 + iota
	closedWriter
	closedReader
)

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
	g := &guard{group: at, name: name, lease: lease, since: time.Now()}
	switch err := g.engage(l.tree); {
	case errors.Is(err, syscall.EAGAIN): // the kubelet is writing: it comes in some milliseconds
	case errors.Is(err, syscall.EINVAL), errors.Is(err, syscall.ENOLCK), errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		lease.close()
		return fmt.Errorf("idle of %s: %w: leases on %s, without which a kubelet's write would fail: %w", at, ErrAbsent, name, err)
	case err != nil:
		lease.close()
		return err
	}
	if err := l.watch.add(name, true); err != nil {
		l.tree.Set(at, Idle, 0)
		lease.close()
		return fmt.Errorf("idle of %s: watch %s: %w", at, name, err)
	}
	if idle, err := l.tree.file(at, Idle); err == nil {
		l.watch.add(idle, false)
	}
	l.guards[at] = g
	return nil
}

// engage takes the lease, then makes the group idle.
func (g *guard) engage(t *Tree) error {
	if err := g.lease.take(); err != nil {
		return err
	}
	if err := t.Set(g.group, Idle, 1); err != nil {
		g.lease.give()
		return err
	}
	g.idle = true
	return nil
}

// step does what is due: let a writer in, or be idle again when it is done.
func (g *guard) step(l *Ledger, now time.Time) {
	if g.idle && g.lease.broken() {
		// Not idle before the lease goes: only then does the writer's open return.
		if err := l.tree.Set(g.group, Idle, 0); err != nil && !errors.Is(err, ErrGone) {
			return // the kernel holds the writer; the next step tries again
		}
		g.lease.give()
		g.idle, g.since, g.wrote, g.read, g.helped = false, now, time.Time{}, false, false
	}
	if g.idle {
		return
	}
	if g.wrote.IsZero() && !g.helped && now.Sub(g.since) > unheard {
		// It opened the file and wrote nothing: the weight must not stay the kernel's default.
		l.weigh(g.group)
		g.helped = true
	}
	switch {
	case g.wrote.IsZero() && now.Sub(g.since) < 2*unheard,
		!g.wrote.IsZero() && now.Sub(g.wrote) < settle,
		!g.wrote.IsZero() && l.tree.version == V1 && !g.read && now.Sub(g.wrote) < patient:
		return
	}
	g.engage(l.tree) // a writer that came meanwhile: the next step tries again
}

// heard notes what a writer did.
func (g *guard) heard(e event) {
	if g.idle || e.name != g.name {
		return
	}
	switch e.op {
	case closedWriter:
		g.wrote, g.read = time.Now(), false
	case closedReader:
		g.read = true
	}
}

// busy tells whether a knob of the group is the guard's to write just now.
func (g *guard) busy(k Knob) bool { return g != nil && k == Idle && !g.idle }

// yielding tells whether some guard waits for a writer to finish.
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

// weigh writes the weight that a group without idle has: the one wanted, or the
// one found.
func (l *Ledger) weigh(at Group) error {
	if w, ok := l.want[place{at, Weight}]; ok {
		return l.tree.Set(at, Weight, w.Value)
	}
	return l.found.write(l.tree, place{at, Weight})
}

// unguard ends idle and gives the weight back. The lease goes in between, for it
// would stop our own write as well.
func (l *Ledger) unguard(at Group) error {
	err := l.tree.Set(at, Idle, 0)
	if g := l.guards[at]; g != nil {
		if err != nil && !errors.Is(err, ErrGone) {
			return err // still idle: the lease must stay
		}
		l.watch.remove(g.name)
		g.lease.close()
		delete(l.guards, at)
	}
	if err == nil {
		err = l.weigh(at)
	}
	if errors.Is(err, ErrGone) {
		return nil
	}
	return err
}
