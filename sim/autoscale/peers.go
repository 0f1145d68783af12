package autoscale

import (
	"math"
	"slices"
)

// HPA is the Horizontal Pod Autoscaler v2 with its defaults, asked once a
// minute: a pod reports at most its capacity, within the tolerance nothing
// changes, and the highest recommendation of 300 s holds on the way in.
type HPA struct {
	Tolerance float64
	// Requests says that the metric is the demand itself, counted before the
	// pods, and not what the pods use, which is at most their capacity.
	Requests bool
	window   []int
}

// NewHPA returns the HPA with the usual tolerance of 0.1.
func NewHPA() *HPA { return &HPA{Tolerance: 0.1} }

// stabilisation is 300 s: the recommendations of this minute and the five before.
const stabilisation = 6

// Decide implements [Policy].
func (h *HPA) Decide(s Seen) int { return h.stabilise(h.recommend(s)) }

// recommend is the number before stabilisation.
func (h *HPA) recommend(s Seen) int {
	pods := s.Ready + s.Starting
	d := s.Last()
	if math.IsNaN(d) || s.Ready == 0 {
		return pods // without a metric nothing changes
	}
	if !h.Requests {
		d = min(d, float64(s.Ready))
	}
	ratio, counted := d/float64(s.Ready)/Target, s.Ready
	if ratio > 1 && s.Starting > 0 { // those not ready yet are taken to use nothing
		ratio, counted = d/float64(pods)/Target, pods
		if ratio < 1 {
			return pods // and are not allowed to turn it round
		}
	}
	if math.Abs(1-ratio) <= h.Tolerance {
		return pods
	}
	return int(math.Ceil(ratio*float64(counted) - 1e-9))
}

// stabilise returns the highest recommendation of the last 300 s.
func (h *HPA) stabilise(n int) int {
	n = max(n, 1)
	h.window = append(h.window, n)
	if len(h.window) > stabilisation {
		h.window = h.window[1:]
	}
	return slices.Max(h.window)
}

// Seasonal asks for the highest quantile, until a pod asked for now is ready and
// a minute more, of what the same minute of day, give or take five, had in the
// seven days before; the HPA if that is more.
type Seasonal struct {
	Quantile float64
	HPA      HPA
	first    int       // the minute of known[0]
	known    []float64 // the quantiles found so far
}

// NewSeasonal returns the seasonal policy with that quantile and the HPA.
func NewSeasonal(q float64) *Seasonal { return &Seasonal{Quantile: q, HPA: HPA{Tolerance: 0.1}} }

// Decide implements [Policy].
func (p *Seasonal) Decide(s Seen) int {
	if len(p.known) == 0 {
		p.first = s.Minute
	}
	top := 0.0
	for t := s.Minute; t <= s.Minute+s.StartMinutes+1; t++ {
		for len(p.known) <= t-p.first {
			p.known = append(p.known, p.at(s, p.first+len(p.known)))
		}
		top = max(top, p.known[t-p.first])
	}
	return p.HPA.stabilise(max(p.HPA.recommend(s), ideal(top)))
}

// at is the quantile for minute t.
func (p *Seasonal) at(s Seen, t int) float64 {
	var v []float64
	for d := 1; d <= 7; d++ {
		for m := max(t-d*day-5, 0); m <= t-d*day+5 && m < len(s.Demand); m++ {
			if !math.IsNaN(s.Demand[m]) {
				v = append(v, s.Demand[m])
			}
		}
	}
	if len(v) == 0 {
		return 0
	}
	slices.Sort(v)
	return quantileSorted(v, p.Quantile)
}

// Oracle knows the demand until a pod asked for now is ready, and a minute more.
type Oracle struct {
	Demand []float64
	hpa    HPA // for its stabilisation
}

// Decide implements [Policy].
func (o *Oracle) Decide(s Seen) int {
	top := math.NaN()
	for t := s.Minute; t <= s.Minute+s.StartMinutes+1 && t < len(o.Demand); t++ {
		if d := o.Demand[t]; !(d <= top) && !math.IsNaN(d) {
			top = d
		}
	}
	if math.IsNaN(top) {
		return s.Ready + s.Starting
	}
	return o.hpa.stabilise(ideal(top))
}

// Fixed is a number of pods that never changes.
type Fixed int

// Decide implements [Policy].
func (f Fixed) Decide(Seen) int { return int(f) }
