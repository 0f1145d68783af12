package physics

import (
	"fmt"
	"math"
	"time"
)

// A Quantile is one row of a table: Share of the cases take at most Value.
type Quantile struct {
	Share float64 // 0 to 1
	Value time.Duration
}

// Quantiles is a distribution as a table, in rising order of both columns. The
// zero Quantiles is always 0; a table of one row is always that value.
type Quantiles []Quantile

// At returns the value below which share u of the cases lie, straight lines
// between the rows. Below the first row it is the first value and above the
// last the last, so a table never invents a value it does not span.
func (q Quantiles) At(u float64) time.Duration {
	if len(q) == 0 {
		return 0
	}
	if !(u > q[0].Share) { // also NaN
		return q[0].Value
	}
	for i := 1; i < len(q); i++ {
		if u <= q[i].Share {
			a, b := q[i-1], q[i]
			return a.Value + time.Duration((u-a.Share)/(b.Share-a.Share)*float64(b.Value-a.Value))
		}
	}
	return q[len(q)-1].Value
}

// Mean returns the mean of the distribution.
func (q Quantiles) Mean() time.Duration {
	if len(q) == 0 {
		return 0
	}
	sum := q[0].Share * float64(q[0].Value)
	for i := 1; i < len(q); i++ {
		sum += (q[i].Share - q[i-1].Share) * (float64(q[i].Value) + float64(q[i-1].Value)) / 2
	}
	last := q[len(q)-1]
	return time.Duration(sum + (1-last.Share)*float64(last.Value))
}

// Validate says what is wrong with a table, if anything is.
func (q Quantiles) Validate() error {
	for i, r := range q {
		switch {
		case math.IsNaN(r.Share) || r.Share < 0 || r.Share > 1:
			return fmt.Errorf("the share %v is outside 0 to 1", r.Share)
		case r.Value < 0:
			return fmt.Errorf("the value %v is negative", r.Value)
		case i > 0 && r.Share <= q[i-1].Share:
			return fmt.Errorf("the shares must rise, but %v follows %v", r.Share, q[i-1].Share)
		case i > 0 && r.Value < q[i-1].Value:
			return fmt.Errorf("the values must not fall, but %v follows %v", r.Value, q[i-1].Value)
		}
	}
	return nil
}

// A Start is how long the parts of a pod's start take.
type Start struct {
	Schedule  Quantiles // from the creation until it is bound to a machine
	ImagePull Quantiles // from then until the container runs
	ModelLoad Quantiles // an AI module reads its model; empty for the others
	Readiness Quantiles // until the first probe succeeds
}

// A Drawn is the start of one pod: four durations after its creation.
type Drawn struct {
	Schedule, ImagePull, ModelLoad, Readiness time.Duration
}

// Bound is when the pod is bound, from its creation on.
func (d Drawn) Bound() time.Duration { return d.Schedule }

// AfterBound is how long the pod takes from its binding until it is ready.
func (d Drawn) AfterBound() time.Duration { return d.ImagePull + d.ModelLoad + d.Readiness }

// Draw returns the start of one pod. dice returns numbers in [0,1); it is asked
// four times whatever the tables are, so that changing one table leaves the
// other draws alone.
func (s Start) Draw(dice func() float64) Drawn {
	a, b, c, d := dice(), dice(), dice(), dice()
	return Drawn{Schedule: s.Schedule.At(a), ImagePull: s.ImagePull.At(b), ModelLoad: s.ModelLoad.At(c), Readiness: s.Readiness.At(d)}
}
