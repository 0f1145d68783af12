// Package burst decides which of many jobs that are due at once start now.
//
//	due   = min(born + spread × hash(group) / 2⁶⁴, deadline)
//	start = due, with a token and with room in every pool that the job may go to
//
// Thousands of jobs are due at second zero; a provider creates only so many pods
// at once and a second (a token bucket) and lends only so much. Every group, all
// pods of one Job, has its own moment in its spread, and the same one whenever it
// is asked for. Starts that are due go in the order of that moment; nothing
// overtakes a start that waits for the same pool, so large ones are not starved.
//
// A start takes a token of every pool that it may go to, so that no pool is
// overrun whichever the scheduler chooses. Nothing is remembered here but the
// buckets: the same waiting list, given again after a crash, is decided again.
//
// [Decide] is the whole package. Not here: which pods wait and how they are let
// go (kube/controller/releaser).
package burst

import (
	"cmp"
	"hash/fnv"
	"math"
	"math/bits"
	"slices"
	"time"
)

// A Start is one that waits.
type Start struct {
	// ID names it; unique.
	ID string
	// Group has a moment of its own in the spread, such as a Job's UID.
	Group string
	// Born is when it could have started first.
	Born time.Time
	// Spread is over how long groups are spread; 0 or less means not at all.
	Spread time.Duration
	// Deadline is when it should have started at the latest; zero means never. The
	// spread keeps it, a pool without tokens may not.
	Deadline time.Time
	// Pools are those it may go to. Those that Input does not name limit nothing.
	Pools []string
	// CPU is what it asks for, in milli-cores.
	CPU int64
}

// Due returns when a start may happen, as far as time is concerned: never before
// Born, never after Born + Spread, and after Deadline only if Born is.
func (s Start) Due() time.Time {
	due := s.Born
	if s.Spread > 0 {
		h := fnv.New64a()
		_, _ = h.Write([]byte(s.Group)) // never fails
		// The last bytes of FNV's input stir the high bits little: mix once more.
		x := h.Sum64()
		x = (x ^ x>>33) * 0xff51afd7ed558ccd
		x = (x ^ x>>33) * 0xc4ceb9fe1a85ec53
		part, _ := bits.Mul64(x^x>>33, uint64(s.Spread))
		due = due.Add(time.Duration(part))
	}
	if !s.Deadline.IsZero() && due.After(s.Deadline) {
		due = s.Deadline
		if due.Before(s.Born) {
			due = s.Born
		}
	}
	return due
}

// recheck is when to look again whether those that were let go have come.
const recheck = 250 * time.Millisecond

// A Pool is what limits starts.
type Pool struct {
	Name string
	// PerSecond and Burst are a token bucket: Burst starts at once, and PerSecond
	// more every second. PerSecond 0 or less means no limit.
	PerSecond float64
	Burst     int
	// Bucket is what was left of it; see [Decision].
	Bucket Bucket
	// Coming counts the starts that were let go and that the provider may not have
	// been asked for yet. They may arrive all at once, so the bucket fills only as
	// far as they leave room: however they bunch, the provider's own bucket holds.
	Coming int
	// Limit is the most that may be used at once, in milli-cores; 0 means no limit.
	// InUse is what is.
	Limit, InUse int64
}

// A Bucket is how many tokens there were at a moment. The zero Bucket is empty
// at the moment it is first used: whoever forgot what he took may not take again.
type Bucket struct {
	Tokens float64
	At     time.Time
}

// fill returns the bucket at now. A clock that went back fills nothing.
func (p *Pool) fill(now time.Time) Bucket {
	b := p.Bucket
	if b.At.IsZero() {
		return Bucket{At: now}
	}
	if passed := now.Sub(b.At); passed > 0 {
		b.Tokens += passed.Seconds() * p.PerSecond
	}
	if math.IsNaN(b.Tokens) || b.Tokens < 0 {
		b.Tokens = 0
	}
	b.Tokens, b.At = max(0, min(b.Tokens, float64(max(p.Burst, 1)-p.Coming))), now
	return b
}

// An Input is everything that a decision rests on.
type Input struct {
	Now     time.Time
	Pools   []Pool
	Waiting []Start // in any order
}

// A Reason says why a start waits.
type Reason string

// The reasons.
const (
	Early   Reason = "Spread" // its moment in the spread has not come
	NoToken Reason = "Pace"   // the pool's provider would refuse it now
	NoRoom  Reason = "Limit"  // the pool's limit is used up
	Never   Reason = "Size"   // it asks for more than a pool's whole limit
)

// A Decision says what starts now.
type Decision struct {
	// Starts are the IDs that start now, in order.
	Starts []string
	// Buckets are what is left, by pool in the order of Input: for the next Input.
	Buckets []Bucket
	// Again is when the next start may be possible without anything else
	// changing; zero if none waits for time.
	Again time.Time
	// Waits counts those that wait, by reason.
	Waits map[Reason]int
}

// Decide returns what starts now. It is pure, and the order of Waiting does not
// matter.
func Decide(in Input) Decision {
	d := Decision{Waits: map[Reason]int{}}
	index := map[string]int{}
	free := make([]int64, len(in.Pools))
	closed := make([]Reason, len(in.Pools)) // a start waits for it: none passes
	for i := range in.Pools {
		p := &in.Pools[i]
		index[p.Name] = i
		d.Buckets = append(d.Buckets, p.fill(in.Now))
		free[i] = p.Limit - p.InUse
	}
	again := func(t time.Time) {
		if d.Again.IsZero() || t.Before(d.Again) {
			d.Again = t
		}
	}
	type queued struct {
		due time.Time
		s   *Start
	}
	queue := make([]queued, 0, len(in.Waiting))
	for i := range in.Waiting {
		s := &in.Waiting[i]
		due := s.Due()
		if due.After(in.Now) {
			d.Waits[Early]++
			again(due)
			continue
		}
		queue = append(queue, queued{due, s})
	}
	slices.SortFunc(queue, func(a, b queued) int {
		return cmp.Or(a.due.Compare(b.due), cmp.Compare(a.s.ID, b.s.ID))
	})
	for _, q := range queue {
		if slices.ContainsFunc(q.s.Pools, func(name string) bool {
			i, ok := index[name]
			return ok && in.Pools[i].Limit > 0 && q.s.CPU > in.Pools[i].Limit
		}) {
			d.Waits[Never]++ // and holds up nobody
			continue
		}
		held := Reason("")
		for _, name := range q.s.Pools {
			i, ok := index[name]
			if !ok {
				continue
			}
			p := &in.Pools[i]
			switch {
			case closed[i] != "":
			case p.PerSecond > 0 && d.Buckets[i].Tokens < 1:
				closed[i] = NoToken
				wait := (1 - d.Buckets[i].Tokens) / p.PerSecond
				if p.Coming >= max(p.Burst, 1) { // it waits for those that come, not for time
					wait = max(wait, recheck.Seconds())
				}
				again(in.Now.Add(time.Duration(math.Ceil(wait * float64(time.Second)))))
			case p.Limit > 0 && q.s.CPU > free[i]:
				closed[i] = NoRoom
			}
			held = cmp.Or(held, closed[i])
		}
		if held != "" {
			for _, name := range q.s.Pools { // and whoever waits here lets none pass elsewhere
				if i, ok := index[name]; ok {
					closed[i] = cmp.Or(closed[i], held)
				}
			}
			d.Waits[held]++
			continue
		}
		for _, name := range q.s.Pools {
			if i, ok := index[name]; ok {
				d.Buckets[i].Tokens--
				free[i] -= q.s.CPU
			}
		}
		d.Starts = append(d.Starts, q.s.ID)
	}
	return d
}
