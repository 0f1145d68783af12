package elastic

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/neap-dev/neap/core/money"
)

// A Pool is where replicas may be, as declared and as seen.
type Pool struct {
	Name       string
	Serverless bool         // bought by the pod
	Price      money.Amount // of one replica for an hour

	Min int // kept here while there are as many
	Max int // None: no limit

	Pods int // replicas bound here or on their way

	Room      int           // how many more could be bound now; None: as many as wanted
	Start     time.Duration // p95 from creation to ready, on that room
	Grow      int           // how many more on machines still to be bought; None: as many as wanted
	GrowStart time.Duration // p95 from asking to ready, there
}

// A SpreadInput asks where replicas should be. Pools are in the order in which
// they are filled; they leave in the opposite order.
type SpreadInput struct {
	Desired int
	Need    time.Duration // how soon the new ones are needed: the horizon; 0 is now
	Pools   []Pool
}

// A PoolTarget is how many replicas may be in a pool.
type PoolTarget struct {
	Name    string
	Planned int
	Late    int    // of these, those that will not be ready in time
	Reason  string // a clause: why this many and not more
}

// patience is how much later a cheaper pool may be ready: less than a minute goes
// unnoticed, for that is how often decisions are made.
const patience = time.Minute

// A share is room of one pool that is ready at one time.
type share struct {
	pool  int
	room  int // None: as many as wanted
	start time.Duration
	late  bool
}

// Spread divides the desired replicas over the pools. Those that have no place
// anywhere are returned as unplaced.
//
// Out, they go to the first pool that is ready by the time they are needed; where
// none is, to the one that is ready first. In, they leave the last pool first. No
// pool is planned beyond its Max or below its Min, while there are as many.
func Spread(in SpreadInput) (targets []PoolTarget, unplaced int) {
	planned := make([]int, len(in.Pools))
	late := make([]int, len(in.Pools))
	desired := max(in.Desired, 0)

	// 1. What is there stays, as far as it may.
	sum := 0
	for i, p := range in.Pools {
		planned[i] = min(max(p.Pods, 0), p.limit())
		sum += planned[i]
	}

	// 2. In: the last pool first, and below a Min only when nothing else is left.
	for _, keep := range []bool{true, false} {
		for i := len(in.Pools) - 1; i >= 0 && sum > desired; i-- {
			least := 0
			if keep {
				least = max(in.Pools[i].Min, 0)
			}
			if gone := min(planned[i]-least, sum-desired); gone > 0 {
				planned[i] -= gone
				sum -= gone
			}
		}
	}

	// 3. Out: every Min, then what is ready in time in the order of the pools,
	// then what is ready first.
	shares := in.shares()
	place := func(s *share, wanted int) {
		n := min(wanted, in.Pools[s.pool].limit()-planned[s.pool])
		if s.room != None {
			n = min(n, s.room)
		}
		if n <= 0 {
			return
		}
		if s.room != None {
			s.room -= n
		}
		planned[s.pool] += n
		sum += n
		if s.late {
			late[s.pool] += n
		}
	}
	for i := range shares {
		s := &shares[i]
		place(s, min(desired-sum, in.Pools[s.pool].Min-planned[s.pool]))
	}
	for i := range shares {
		place(&shares[i], desired-sum)
	}

	for i, p := range in.Pools {
		targets = append(targets, PoolTarget{Name: p.Name, Planned: planned[i], Late: late[i], Reason: in.why(i, planned[i], shares)})
	}
	return targets, desired - sum
}

// limit is the most replicas in the pool.
func (p Pool) limit() int {
	if p.Max == None {
		return most
	}
	return max(p.Max, 0)
}

// shares returns the room there is, in the order in which it is taken.
func (in SpreadInput) shares() []share {
	var all []share
	first := time.Duration(math.MaxInt64)
	for i, p := range in.Pools {
		for _, s := range []share{{pool: i, room: p.Room, start: p.Start}, {pool: i, room: p.Grow, start: p.GrowStart}} {
			if s.room > 0 || s.room == None {
				all = append(all, s)
				first = min(first, s.start)
			}
		}
	}
	limit := max(in.Need, first)
	if limit < math.MaxInt64-patience {
		limit += patience
	}
	for i := range all {
		all[i].late = all[i].start > limit
	}
	slices.SortStableFunc(all, func(a, b share) int {
		switch {
		case a.late && b.late:
			return cmp.Compare(a.start, b.start)
		case a.late:
			return 1
		case b.late:
			return -1
		}
		return 0
	})
	for i := range all {
		all[i].late = all[i].start > in.Need
	}
	return all
}

// why says in a clause why a pool holds so many and not more.
func (in SpreadInput) why(i, planned int, shares []share) string {
	p := in.Pools[i]
	var parts []string
	switch {
	case planned > p.Pods:
		parts = append(parts, fmt.Sprintf("%d more", planned-p.Pods))
	case planned < p.Pods:
		parts = append(parts, fmt.Sprintf("%d leave", p.Pods-planned))
	}
	free, slow := false, time.Duration(0)
	for _, s := range shares {
		if s.pool == i && s.room != 0 {
			free = true
			if s.late && s.start > slow {
				slow = s.start
			}
		}
	}
	switch {
	case p.Max != None && planned >= p.Max:
		parts = append(parts, fmt.Sprintf("its most is %d", p.Max))
	case !free:
		parts = append(parts, "no more room")
	case slow > 0 && in.Need > 0:
		parts = append(parts, fmt.Sprintf("more would take %v, and they are needed in %v", slow, in.Need))
	case slow > 0:
		parts = append(parts, fmt.Sprintf("more would take %v, and they are needed now", slow))
	case len(parts) == 0:
		parts = append(parts, "no more are needed here")
	}
	return strings.Join(parts, ", ")
}

// DeletionCost is the value of controller.kubernetes.io/pod-deletion-cost for a
// pod of the pool with this rank (0 is filled first and left last) of pools in
// all, on a node that is so full (0 to 1): the emptiest node goes first. It is to
// be written once.
func DeletionCost(rank, pools int, fullness float64) int32 {
	if !(fullness > 0) {
		fullness = 0
	}
	steps := min(max(pools-1-rank, 0), 1_000_000)
	return int32(1000*steps + int(999*min(fullness, 1)))
}

// A Leaver is a pod that left or stayed.
type Leaver struct {
	Name    string
	Rank    int  // of its pool: 0 is filled first
	Ready   bool // before the scale-in
	Ordinal int  // of a StatefulSet's pod
}

// Judge counts the pods that left though others should have left first.
// Pods that were not ready go first, whatever their pool, as Kubernetes has it; of
// a StatefulSet the highest ordinals do.
func Judge(left, stayed []Leaver, stateful bool) (violations int, reason string) {
	// before says which of two pods should leave first.
	before := func(a, b Leaver) int {
		if stateful {
			return cmp.Compare(b.Ordinal, a.Ordinal)
		}
		if a.Ready != b.Ready {
			if b.Ready {
				return -1
			}
			return 1
		}
		if !a.Ready {
			return 0
		}
		return cmp.Compare(b.Rank, a.Rank)
	}
	if len(left) == 0 || len(stayed) == 0 {
		return 0, ""
	}
	// The fewest that must be exchanged for all that left to come before all that
	// stayed: the k-th of the wrongly left against the k-th of the wrongly stayed.
	gone, kept := slices.Clone(left), slices.Clone(stayed)
	slices.SortStableFunc(gone, func(a, b Leaver) int { return before(b, a) }) // those that should stay first
	slices.SortStableFunc(kept, before)                                        // those that should leave first
	for violations < min(len(gone), len(kept)) && before(kept[violations], gone[violations]) < 0 {
		violations++
	}
	if violations == 0 {
		return 0, ""
	}
	what := "of a dearer pool"
	switch {
	case stateful:
		what = "with a higher ordinal"
	case !kept[0].Ready:
		what = "and was not ready"
	}
	return violations, fmt.Sprintf("%s left while %s %s stayed", gone[0].Name, kept[0].Name, what)
}

// A ReturnInput asks whether a replica may move from a dear pool to a cheap one.
type ReturnInput struct {
	Now time.Time

	PriceFrom, PriceTo money.Amount // of one replica for an hour
	StartCost          money.Amount // of one replica started: both run until the new one is ready
	Risk               money.Amount // what a move may cost beyond
	RoomSince          time.Time    // since when the cheap pool has room; zero: it has none
	RoomUntil          time.Time    // when it is wanted otherwise; zero: not known
	Held               bool         // a gate of scale-in holds

	Surge    int  // replicas started for moves and not matched by a drain yet
	NewReady bool // the started one is ready
}

// A ReturnStep is what to do next.
type ReturnStep string

// The steps of a return trip.
const (
	ReturnStay  ReturnStep = "stay"  // nothing
	ReturnSurge ReturnStep = "surge" // start one in the cheap pool
	ReturnWait  ReturnStep = "wait"  // until it is ready
	ReturnDrain ReturnStep = "drain" // take one from the dear pool
)

// BreakEven is how long room in the cheap pool must last for a move to pay:
//
//	T = (start cost + risk) / (price there − price here)
//
// ok is false if it never does.
func (in ReturnInput) BreakEven() (t time.Duration, ok bool) {
	saved := float64(in.PriceFrom) - float64(in.PriceTo)
	if saved <= 0 {
		return 0, false
	}
	hours := (float64(in.StartCost) + float64(in.Risk)) / saved
	if hours > 1e6 {
		return 0, false
	}
	return time.Duration(max(hours, 0) * float64(time.Hour)), true
}

// Return decides the next step of a return trip, and says why. A move pays when
// the room is expected to last longer than the break-even: until it is wanted
// otherwise, or, where that is not known, as long again as it has lasted.
func Return(in ReturnInput) (step ReturnStep, reason string) {
	even, pays := in.BreakEven()
	even = even.Round(time.Second)
	if in.Surge > 0 {
		switch {
		case !in.NewReady:
			return ReturnWait, "the replica that was started for the move is not ready yet"
		case in.Held:
			return ReturnWait, "the new replica is ready, but a gate of scale-in holds the old one"
		}
		return ReturnDrain, "the replica that was started for the move is ready"
	}
	switch {
	case !pays:
		return ReturnStay, "the other pool is not cheaper"
	case in.RoomSince.IsZero() || in.RoomSince.After(in.Now):
		return ReturnStay, "the cheaper pool has no room"
	case in.Held:
		return ReturnStay, "a gate of scale-in holds"
	}
	lasted, whence := in.Now.Sub(in.RoomSince), "as long again as it has been there"
	if !in.RoomUntil.IsZero() {
		lasted, whence = in.RoomUntil.Sub(in.Now), "until it is wanted otherwise"
	}
	lasted = lasted.Round(time.Second)
	if lasted <= even {
		return ReturnStay, fmt.Sprintf("room is expected for %v, %s, and a move pays after %v", lasted, whence, even)
	}
	return ReturnSurge, fmt.Sprintf("room is expected for %v, %s, and a move pays after %v", lasted, whence, even)
}
