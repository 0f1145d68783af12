package series

import (
	"math"
	"time"
)

// A Curve is a value over time.
type Curve interface {
	// At returns the value at t; ok is false where nothing is known.
	At(t time.Time) (v float64, ok bool)
}

// A Noise is a random factor around 1, log-normal, whose logarithm has the
// standard deviation Sigma and the autocorrelation Rho from one minute to the
// next. It is a function of the time and the seed alone, so that a run that is
// stopped and continued has the same noise. The zero Noise is always 1.
type Noise struct {
	Sigma float64
	Rho   float64 // 0 ≤ Rho < 1
	Seed  uint64
}

// Factor returns the factor in the minute of t. Its median is 1.
func (n Noise) Factor(t time.Time) float64 {
	if n.Sigma == 0 {
		return 1
	}
	return math.Exp(n.Sigma * n.at(t.Unix()/60))
}

// at is a moving average of independent normal numbers with weights ρ^k, which
// has the autocorrelation ρ^k; it is cut off where the weights no longer matter.
func (n Noise) at(minute int64) float64 {
	rho := min(max(n.Rho, 0), 0.999)
	sum, weights, w := 0.0, 0.0, 1.0
	for k := int64(0); k < maxMemory && w > 0.02; k++ {
		sum += w * normal(n.Seed, minute-k)
		weights += w * w
		w *= rho
	}
	return sum / math.Sqrt(weights)
}

const maxMemory = 240 // minutes

// normal returns a standard normal number for (seed, i): the sum of twelve
// hashed uniform ones less six, so within ±6.
func normal(seed uint64, i int64) float64 {
	h := mix(seed ^ mix(uint64(i)))
	s := 0.0
	for range 3 {
		h = mix(h)
		s += float64(h&0xffff) + float64(h>>16&0xffff) + float64(h>>32&0xffff) + float64(h>>48)
	}
	return s/65536 - 6 + 12.0/131072
}

// uniform returns a number in [0,1) for (seed, i).
func uniform(seed uint64, i int64) float64 {
	return float64(mix(seed^mix(uint64(i)))>>11) / (1 << 53)
}

// mix is the finaliser of SplitMix64.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
