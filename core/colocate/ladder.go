package colocate

import (
	"cmp"
	"time"
)

// A Rung is the strongest means by which batch is held back.
type Rung uint8

// The rungs, each stronger than the one before it.
const (
	RungNone   Rung = iota // nothing holds batch back: there is none, or nothing may
	RungIdle               // online goes first on every core
	RungQuota              // a ceiling binds the CPU time of batch
	RungMemory             // batch's memory is braked
	RungFreeze             // batch pods that allow it are frozen
	RungEvict              // batch pods are evicted

	Rungs = 6 // how many there are
)

// String returns the name that the node's annotation and the metrics have for it.
func (r Rung) String() string {
	return [...]string{"None", "Idle", "Quota", "Memory", "Freeze", "Evict"}[min(r, RungEvict)]
}

// Means says which rungs are allowed and can be taken on a machine now: Freeze only
// where a pod allows it and has time left, Evict only where there is a pod and the
// rate of evictions leaves room.
type Means [Rungs]bool

// A Trouble is what the machine and its online pods suffer at one look.
type Trouble struct {
	Batch bool // there are batch pods
	// Bound says that batch's ceiling binds: batch uses it up, or is restrained.
	Bound bool
	// Short says that the machine is nearly out of memory, or that its online pods
	// stall for it. Slowing batch or freezing it frees no memory: those rungs are
	// passed over.
	Short bool
	// Stronger says that an online workload misses its target although batch has
	// been at its floor for long enough. See SlackVerdict.
	Stronger bool
}

// A Ladder says by which means batch is held back. Up it goes one rung at a time
// while a trouble lasts, each rung having its time to help; down when the trouble
// has been gone for long enough. The zero Ladder is at its foot. It is not safe for
// use from several goroutines.
type Ladder struct {
	// Patience is how long a rung has to help before the next is taken; zero means
	// 10 s.
	Patience time.Duration
	// Calm is how long there must have been no trouble before a rung is taken back;
	// zero means a minute.
	Calm time.Duration

	rung         Rung // in force above Quota, or None
	since, quiet time.Duration
}

// Next takes one look and returns the rung in force from now on, and whether it was
// reached by this look, or is to be acted on anew: to evict one more pod.
func (l *Ladder) Next(at time.Duration, t Trouble, may Means) (rung Rung, act bool) {
	if !t.Batch {
		*l = Ladder{Patience: l.Patience, Calm: l.Calm}
		return RungNone, false
	}
	if !may[l.rung] {
		l.rung = RungNone // what was in force no longer can be
	}
	switch {
	case t.Short || t.Stronger:
		l.quiet = at
		if l.rung != RungNone && at-l.since < cmp.Or(l.Patience, 10*time.Second) {
			break
		}
		if next := l.above(t, may); next != l.rung || next == RungEvict {
			l.rung, l.since, act = next, at, true
		}
	case l.rung != RungNone && at-l.quiet >= cmp.Or(l.Calm, time.Minute):
		l.rung, l.quiet, l.since = l.below(may), at, at
	}
	switch {
	case l.rung != RungNone:
		return l.rung, act
	case t.Bound && may[RungQuota]:
		return RungQuota, act
	case may[RungIdle]:
		return RungIdle, act
	}
	return RungNone, act
}

// above returns the weakest rung above the one in force that helps against a trouble
// and can be taken; the one in force if there is none.
func (l *Ladder) above(t Trouble, may Means) Rung {
	for r := max(l.rung, RungQuota) + 1; r <= RungEvict; r++ {
		if may[r] && (r != RungFreeze || !t.Short) {
			return r
		}
	}
	return l.rung
}

// below returns the strongest rung that can be taken below the one in force, above
// quota.
func (l *Ladder) below(may Means) Rung {
	for r := l.rung - 1; r > RungQuota; r-- {
		if may[r] {
			return r
		}
	}
	return RungNone
}
