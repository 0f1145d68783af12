package elastic

import "time"

// A Tolerance is how far from its target a figure may be, as a share: 0.1 is 10 %.
type Tolerance struct{ Up, Down float64 }

// A Rate allows a change within a period: Pods if it is not 0, else Share of the
// replicas at the period's start (1 is 100 %).
type Rate struct {
	Pods   int
	Share  float64
	Period time.Duration
}

// A Behavior is how fast the reactive layer moves in one direction.
type Behavior struct {
	Stabilize time.Duration // the gentlest recommendation of this long counts
	Rates     []Rate        // none: no bound
	Least     bool          // the rate that allows least counts, not the one that allows most
	Off       bool          // no change in this direction
}

// Reactive follows the load as autoscaling/v2 does.
type Reactive struct {
	Tolerance Tolerance
	Up, Down  Behavior

	PanicShare  float64       // burst ÷ what the ready carry that starts the panic; 0: no panic
	PanicWindow time.Duration // how long after the last such burst it ends

	MaxAge time.Duration // a metric older than this is gone
}

// A Metric is a figure that the reactive layer follows: either Total over the
// whole workload, or Pods, figure by figure.
type Metric struct {
	Name string
	At   time.Time // when it was true; zero: now

	Total      float64 // NaN: gone
	Burst      float64 // the same of the last moments, for the panic rule; NaN or 0: not known
	PerReplica float64 // how much of it one replica should have

	Pods []PodFigure // used instead of Total if it is not empty
}

// A PodFigure is one pod's share of a metric.
type PodFigure struct {
	Value   float64 // NaN: missing
	Target  float64 // what it should have: request × utilisation, or the average value
	Request float64 // what a missing pod is taken to use on the way in; 0 means Target
	Ready   bool    // false: not ready yet, or in its initialisation period
}

// A Recommendation is what a layer wanted at one time.
type Recommendation struct {
	At       time.Time
	Replicas int
}

// A Change is replicas added (or taken away, below 0) at one time.
type Change struct {
	At    time.Time
	Delta int
}

// A History is what the reactive layer must know of the minutes before.
type History struct {
	Recommended []Recommendation // oldest first
	Changes     []Change         // oldest first
	PanicUntil  time.Time
	PanicFloor  int
	Last        int // the last recommendation that rested on metrics
}
