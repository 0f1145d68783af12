package scenario

import (
	"time"

	"github.com/neap-dev/neap/sim/series"
)

// A Demand is the requests a second of one module over time:
//
//	trough + (peak − trough) · curve(t + shift), times 1 ± noise
//
// where curve runs from 0 (the quietest of the scenario's first day) to 1 (its
// busiest).
type Demand struct {
	Curve  series.Curve
	Low    float64 // the curve's own value that counts as 0
	High   float64 // the curve's own value that counts as 1
	Peak   float64 // requests a second
	Trough float64 // requests a second
	Shift  time.Duration
	Noise  series.Noise
	Name   string // of the series, for showing
}

// At returns the requests a second at t. known is false in a gap of the curve.
func (l *Demand) At(t time.Time) (rps float64, known bool) {
	v, ok := l.Curve.At(t.Add(-l.Shift))
	if !ok {
		return 0, false
	}
	n := 0.0
	if l.High > l.Low {
		n = max(0, (v-l.Low)/(l.High-l.Low))
	}
	rps = l.Trough + (l.Peak-l.Trough)*n
	return max(0, rps*l.Noise.Factor(t)), true
}
