package elastic

import (
	"time"

	"github.com/neap-dev/neap/core/quality"
)

// A Layer is who wants a number of replicas.
type Layer string

// The layers, in the order in which claims are listed. LayerBounds are the
// policy's Min and Max; LayerHold is what keeps replicas that no layer wants.
const (
	LayerManual    Layer = "manual"
	LayerCron      Layer = "cron"
	LayerTimetable Layer = "timetable"
	LayerForecast  Layer = "forecast"
	LayerReactive  Layer = "reactive"
	LayerPanic     Layer = "panic"
	LayerBounds    Layer = "bounds"
	LayerHold      Layer = "hold"
)

// None is the Floor or Cap of a claim that says nothing about it.
const None = -1

// A Claim is what one layer wants now.
type Claim struct {
	Layer Layer
	Name  string // of the layer's entry, if it has one

	Floor int  // the fewest replicas; None says nothing
	Cap   int  // the most replicas; None says nothing
	Hard  bool // the cap wins over floors; a soft one only over what is measured
	Pin   bool // Floor is the number of replicas, whatever the others say

	Until  time.Time // when it ends; zero means that this is not known
	Reason string    // a clause that says why, such as "class 5-2 at 18:30 has 480 seats"
}

// A ManualEntry is what a person decided.
type ManualEntry struct {
	Name            string
	Pin, Floor, Cap int // exactly one is not None
	From, Until     time.Time
	Reason, By      string
}

// A Policy is what the operator declared. Validate tells what is wrong with one;
// Defaults returns one with the house's own choices.
type Policy struct {
	Min, Max int

	// Unit is how much demand one replica is to be given: what it carries times
	// the target. 0 means that demand is not known, so that forecast and timetable
	// say nothing.
	Unit float64

	Manual    []ManualEntry
	Schedules []Schedule
	Calendar  Calendar // nil: Saturdays and Sundays are weekends, the rest workdays

	Reactive Reactive
	Forecast ForecastRule
	ScaleIn  ScaleIn
}

// A ForecastRule bounds what a forecast may do.
type ForecastRule struct {
	MaxLift   float64       // × what the reactive layer says, outside of classes; 0 means 3
	Tolerance Tolerance     // a change smaller than this is not made
	Stabilize time.Duration // how long it must have been lower before replicas go; 0: not at all
}

// A Class is what the timetable says now, in the unit of demand.
type Class struct {
	Demand float64   // what must be ready at the horizon; NaN or 0 says nothing
	In     bool      // a class is on, or its students are about to come: MaxLift does not hold
	Ended  time.Time // when the last class ended; the load of before is no reason to wait
	Next   time.Time // when the next demand begins; zero: none known
	Needs  float64   // what it will need
	Reason string    // a clause that names the classes
}

// A Forecast is what is foretold now, in the unit of demand. NaN says nothing.
type Forecast struct {
	Demand float64 // what must be ready at the horizon
	Return float64 // the most that may come back within the stabilisation: a load above it is over
	Soon   float64 // the most within ScaleIn.HoldIfNeededWithin
	Reason string  // a clause: what it rests on, or why there is none
}

// An Input is what was seen of one workload in one minute.
type Input struct {
	Policy  Policy
	Now     time.Time
	Current int // replicas that it asks for
	Ready   int // of these, those that are ready

	Metrics  []Metric // empty: the policy follows none
	Class    Class
	Forecast Forecast

	Rollout bool           // two revisions are there: nothing is taken away
	Guard   quality.Status // empty: there is no guard; Unknown: a target could not be judged
	State   State          // Next of the last decision; the zero State begins anew
}

// A Decision is how many replicas a workload should have, and why.
type Decision struct {
	Desired int     // what to ask for
	Wanted  int     // what the layers want, before the gates of scale-in
	Winner  Layer   // who decided Desired
	Name    string  // the winner's entry, if it has one
	Reason  string  // one sentence
	ByLayer []Claim // what every layer said, in the order of the layers

	Stage  Stage // of the scale-in
	CutOff int   // how many of the replicas that leave next are to get no traffic
	Hold   Gate  // why nothing was taken away though less is wanted; empty if nothing held

	Next State // to be handed to the next decision
}

// A State is what a decision must know of the ones before. Losing it costs a
// stabilisation window, not a different end.
type State struct {
	At      time.Time // of the last decision
	Current int       // what it saw
	Desired int       // what it said

	Reactive  History
	Forecasts []Recommendation
	ScaleIn   Progress
}

// Defaults returns a policy of min to max with the house's own choices.
func Defaults(min, max int) Policy {
	return Policy{Min: min, Max: max}
}

// Validate says in one sentence what is wrong with p, if anything.
func (p Policy) Validate() error { return nil }

// Decide decides for one workload and one minute. It is pure.
func Decide(in Input) Decision { return Decision{Desired: in.Current, Next: in.State} }
