package elastic

import (
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

// Spread divides the desired replicas over the pools. Those that have no place
// anywhere are returned as unplaced.
func Spread(in SpreadInput) (targets []PoolTarget, unplaced int) { return nil, in.Desired }

// DeletionCost is the value of controller.kubernetes.io/pod-deletion-cost for a
// pod of the pool with this rank (0 is filled first and left last) of pools in
// all, on a node that is so full (0 to 1): the emptiest node goes first. It is to
// be written once.
func DeletionCost(rank, pools int, fullness float64) int32 { return 0 }

// A Leaver is a pod that left or stayed.
type Leaver struct {
	Name    string
	Rank    int  // of its pool: 0 is filled first
	Ready   bool // before the scale-in
	Ordinal int  // of a StatefulSet's pod
}

// Judge counts the pods that left though others should have left first.
// Not-ready pods go first, whatever their pool, as Kubernetes has it; of a
// StatefulSet the highest ordinals do.
func Judge(left, stayed []Leaver, stateful bool) (violations int, reason string) { return 0, "" }

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

// Return decides the next step of a return trip, and says why.
//
//	break-even T = (start cost + risk) / (price there - price here)
func Return(in ReturnInput) (step ReturnStep, reason string) { return ReturnStay, "" }
