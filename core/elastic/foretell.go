package elastic

import (
	"math"
	"time"
)

// A Foreteller knows what demand will come: a core/forecast Model.
type Foreteller interface {
	// Peak returns the tau-quantile of the highest demand from t+from to t+to, as
	// seen from t. ok is false when it cannot tell.
	Peak(t time.Time, from, to time.Duration, tau float64) (demand float64, ok bool)
}

// Foretell asks f what a decision at now has to know: what must be ready until
// replicas asked for at the next decision would be, horizon from now, and what
// may come back within the stabilisation and within ScaleIn.HoldIfNeededWithin.
// tau is the quantile to make ready for; reason is a clause for people.
func (p Policy) Foretell(f Foreteller, now time.Time, horizon time.Duration, tau float64, reason string) Forecast {
	peak := func(to time.Duration) float64 {
		v, ok := f.Peak(now, 0, to, tau)
		if !ok || to <= 0 {
			return math.NaN()
		}
		return v
	}
	return Forecast{Demand: peak(horizon), Return: peak(max(horizon, p.Reactive.Down.Stabilize)), Soon: peak(p.ScaleIn.HoldIfNeededWithin), Reason: reason}
}
