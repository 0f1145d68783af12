package gpu

import "errors"

// A Goal is what a [Plan] is for.
type Goal uint8

const (
	// Admit makes room for [Situation.Pending].
	Admit Goal = iota + 1
	// Empty gives machines back: it empties those whose price is worth the moves.
	Empty
	// Evacuate moves everything away from [Situation.Leave].
	Evacuate
)

// A Situation is what a plan starts from. Planning changes nothing of it.
type Situation struct {
	Fleet   *Fleet     // as it is, with every tenant on it; its scorer chooses where the moved go
	Prices  []int64    // of each machine for an hour, in any unit; nil: 1,000 for each GPU
	Tenants []Tenant   // what a plan may move; what is not listed stays
	Pending [][]Demand // what waits for a place, the most urgent first: for each the acceptable demands
	Holds   []Hold     // spots kept for others that are not on the fleet yet; no move takes them
	Groups  []Group    // limits that tenants share
	Leave   []Spot     // for [Evacuate]: machines, or with Devices set only those devices
}

// A Tenant is a pod that runs on the fleet.
type Tenant struct {
	Demands []Demand // acceptable ones; it holds Demands[Now]
	Now     int
	Spot    Spot
	Seconds int64 // from the start of a replacement until it serves; so long both places are held
	Stops   bool  // it is stopped before the replacement starts, and its Seconds are lost serving
	Fixed   bool  // it is never moved
	Groups  []int // of [Situation.Groups]: all of them must allow a move
}

// A Group is tenants that share limits: those of one service (its cool-down) or
// of one disruption budget. The zero Group allows no move.
type Group struct {
	Moves int // most moves of its tenants in a plan
	// Slack is how many of its tenants serve beyond those that must; below 0 some
	// are missing already. A tenant moves only if Slack is at least 0, for its
	// replacement serves first; one that stops, only if it is at least 1.
	Slack int
}

// A Hold is a spot that is kept.
type Hold struct {
	Demand Demand
	Spot   Spot
}

// Options limit a plan. The zero value of a field stands for the default.
type Options struct {
	MaxMoves  int   // 0: none at all
	Steps     int   // work done at most, in machines looked at; 0: [DefaultSteps]
	Depth     int   // longest chain of pods that make room for one another, 1 to 3; 0: 3
	MoveCost  int64 // of every move, in the unit of prices, besides what the second place costs
	MinSaving int64 // for an hour: moves that belong together and save less are left out
	Horizon   int64 // seconds in which a saving must have paid for its moves; 0: a day
	Parallel  int   // moves under way at once, for [Plan.Peak]; 0: 1
}

// DefaultSteps is enough to plan for a thousand machines within seconds.
const DefaultSteps = 20_000_000

// A Move takes one tenant from one spot to another. The new place is taken when the
// move starts and the old one given when it ends.
type Move struct {
	Tenant   int // of [Situation.Tenants]
	From, To Spot
	Demand   int   // which of its Demands it has at To
	After    int   // it may start when so many moves, from the first, have ended
	Seconds  int64 // both places are held
	Cost     int64 // in the unit of prices
}

// A Place is where something of [Situation.Pending] will run.
type Place struct {
	Pending int
	Demand  int // which of its demands
	Spot    Spot
	After   int // there is room when so many moves, from the first, have ended
}

// A Level is what a fleet uses.
type Level struct {
	Machines int   // that run something
	GPUs     int   // of those machines
	Price    int64 // of those machines for an hour
	Milli    int64 // placed
}

// A Plan is moves in an order in which each finds its place free. The zero Plan
// does nothing.
type Plan struct {
	Moves   []Move
	Places  []Place // for what was pending, in its order
	Refused []int   // of Pending: no place was found
	Left    []int   // of Tenants: could not be moved away from Leave
	Freed   []int   // machines that ran something before and run nothing after, ascending
	Before  Level
	After   Level
	Peak    Level // the most of each on the way, places of pending ones not counted
	// Gain is the price for an hour of what is given back, or of what is admitted.
	Gain        int64
	Cost        int64 // of all moves
	LostSeconds int64 // without serving, over all tenants that stop
	Stopped     Stop  // why there is not more
	Steps       int   // work done
}

// A Stop is why a plan goes no further.
type Stop string

// The reasons to stop.
const (
	Done      Stop = "Done"      // the goal is reached
	NoMore    Stop = "NoMore"    // nothing further was found
	NotWorth  Stop = "NotWorth"  // what is further costs more than it gains
	MoveLimit Stop = "MoveLimit" // of [Options.MaxMoves]
	StepLimit Stop = "StepLimit" // of [Options.Steps]
)

// Repack plans for a goal. Equal arguments give equal plans, and every plan
// verifies. It returns an error only if the situation or the options contradict
// themselves.
func Repack(s *Situation, goal Goal, opts Options) (Plan, error) {
	if err := s.Validate(); err != nil {
		return Plan{}, err
	}
	return Plan{}, errors.New("not planned yet")
}

// Validate says what is wrong with the situation, nil if nothing is.
func (s *Situation) Validate() error {
	if s.Fleet == nil {
		return errors.New("there is no fleet")
	}
	return nil
}

// Verify replays the plan step by step and says what is wrong with it, nil if
// nothing is: that each move finds its tenant and its place free while everything
// before [Move.After] has ended and the rest is still under way, that limits are
// kept, that every pending place fits in the end, and that the figures are right.
func (p *Plan) Verify(s *Situation, opts Options) error {
	return s.Validate()
}
