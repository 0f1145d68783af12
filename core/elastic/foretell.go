package elastic

import (
	"math"
	"time"
)

// A Foreteller knows what demand will come: a core/forecast Model. ok is false
// when it cannot tell.
type Foreteller interface {
	// Quantile returns the tau-quantile of the demand at t+horizon, as seen from t.
	Quantile(t time.Time, horizon time.Duration, tau float64) (demand float64, ok bool)
	// Peak returns the tau-quantile of the highest demand from t+from until t+to.
	Peak(t time.Time, from, to time.Duration, tau float64) (demand float64, ok bool)
	// Provide returns the capacity that is worth having from t+from until t+to,
	// where tau says how dear it is to be short.
	Provide(t time.Time, from, to time.Duration, tau float64) (capacity float64, ok bool)
	// Usual returns what demand is at the workload's busy times.
	Usual() float64
}

// Foretell asks f what a decision at now has to know: what must be ready until
// replicas asked for at the next decision would be, horizon from now, and what
// may come back meanwhile and within ScaleIn.HoldIfNeededWithin. What is expected
// may use half of what the target keeps free, for the reactive layer restores the
// target meanwhile; what is only feared, and worth being ready for, may use all.
// Where classes are announced, no more is feared of the rest than the
// tau-quantile. tau says how dear it is to be short; reason is a clause for people.
func (p Policy) Foretell(f Foreteller, now time.Time, horizon time.Duration, tau float64, reason string) Forecast {
	carries := max(p.Carries, p.Unit)
	fill := 1.0
	if carries > 0 {
		fill = p.Unit / carries
	}
	known := func(v float64, ok bool) float64 {
		if !ok {
			return math.NaN()
		}
		return v
	}
	feared := known(f.Provide(now, 0, horizon, tau)) * fill
	expected := known(f.Quantile(now, horizon, 0.5)) * fill / ((fill + 1) / 2)
	announced := known(f.Quantile(now, horizon, tau)) * fill
	soon := math.NaN()
	if w := p.ScaleIn.HoldIfNeededWithin; w > 0 {
		soon = known(f.Peak(now, 0, w, 0.5))
	}
	return Forecast{Demand: max(feared, expected), Return: feared, Announced: max(announced, expected), Soon: soon, Usual: f.Usual(), Reason: reason}
}
