// Package engine runs a simulation: what happens next, what time it is, and
// dice that fall the same way every time.
//
// Events of one moment run in the order in which they were asked for. Nothing
// here knows what is simulated.
package engine

import (
	"container/heap"
	"context"
	"hash/fnv"
	"math/rand/v2"
	"time"
)

// An Engine is a clock that jumps from event to event. Use [New]. It is not
// safe for concurrent use: events run one after another.
type Engine struct {
	now   time.Time
	seed  uint64
	queue queue
	count uint64
}

// New returns an engine whose clock shows start.
func New(start time.Time, seed uint64) *Engine {
	return &Engine{now: start, seed: seed}
}

// Now returns the simulated time.
func (e *Engine) Now() time.Time { return e.now }

// Events returns how many events have been asked for.
func (e *Engine) Events() uint64 { return e.count }

// At asks for do to be called at t; a t that has passed is now.
func (e *Engine) At(t time.Time, do func()) {
	if t.Before(e.now) {
		t = e.now
	}
	e.count++
	heap.Push(&e.queue, event{t, e.count, do})
}

// After asks for do to be called after d; a negative d is 0.
func (e *Engine) After(d time.Duration, do func()) { e.At(e.now.Add(max(0, d)), do) }

// Run runs the events up to and including those at until, and then sets the
// clock there. It stops early, between two events, when ctx is done.
func (e *Engine) Run(ctx context.Context, until time.Time) error {
	for i := 0; len(e.queue) > 0 && !e.queue[0].at.After(until); i++ {
		if i%256 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		next := heap.Pop(&e.queue).(event)
		e.now = next.at
		next.do()
	}
	if e.now.Before(until) {
		e.now = until
	}
	return ctx.Err()
}

// Dice returns dice of their own for a name: what is thrown for one thing does
// not change what is thrown for another.
func (e *Engine) Dice(name string) *rand.Rand {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name)) // never fails
	return rand.New(rand.NewPCG(e.seed, h.Sum64()))
}

type event struct {
	at  time.Time
	seq uint64
	do  func()
}

type queue []event

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	if c := q[i].at.Compare(q[j].at); c != 0 {
		return c < 0
	}
	return q[i].seq < q[j].seq
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(event)) }
func (q *queue) Pop() any {
	old := *q
	x := old[len(old)-1]
	old[len(old)-1] = event{}
	*q = old[:len(old)-1]
	return x
}
