package autoscale

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"
)

// Target is the share of a pod's capacity that autoscalers aim at.
const Target = 0.6

// Peak is how many pods' worth of demand a series has at its 99.9th percentile
// once it is scaled.
const Peak = 100

// Delay is how many minutes pass before a demand is known.
const Delay = 1

// MaxPods bounds what a policy may ask for.
const MaxPods = 100_000

// Seen is what a policy knows when it decides.
type Seen struct {
	Minute int       // since the series began
	Now    time.Time // that minute
	// Demand is what is known of the demand, one value a minute since the series
	// began and up to Minute−Delay; NaN where nothing is known. It must not be
	// changed.
	Demand []float64
	// Ready and Starting are the pods there are now.
	Ready, Starting int
	// StartMinutes is how long a pod takes to get ready.
	StartMinutes int
}

// Last is the newest demand, NaN if unknown.
func (s Seen) Last() float64 {
	if len(s.Demand) == 0 {
		return math.NaN()
	}
	return s.Demand[len(s.Demand)-1]
}

// A Policy says every minute how many pods there should be.
type Policy interface {
	Decide(Seen) int
}

// A Forecaster is a policy that says what it expects.
type Forecaster interface {
	// Forecast returns quantiles of the demand that it expected, at its last
	// decision, in the minute a pod asked for then gets ready; ok is false if it
	// made no forecast.
	Forecast() (q Quantiles, ok bool)
	// Periodic says whether it took the workload for one with a day or a week.
	Periodic() bool
}

// Quantiles of the demand expected.
type Quantiles struct{ Q05, Q50, Q95 float64 }

// Workload is a series made ready to be replayed.
type Workload struct {
	Name   string
	From   time.Time
	Demand []float64 // one a minute, in pods; NaN where nothing is known
	Scale  float64   // what the series was multiplied by
	Test   int       // the first minute that counts
}

// DefaultTrainDays is how many days are for learning where the caller does not
// say: eight, or half of a series of less than twelve.
func DefaultTrainDays(s *Series) int {
	if d := s.Days(); d < 12 {
		return int(d / 2)
	}
	return 8
}

// A Preparation says how to make a series ready. The zero value does as the
// package comment says.
type Preparation struct {
	TrainDays int     // days to learn from; 0 means [DefaultTrainDays]
	PerPod    float64 // demand that a pod carries, in the series' unit; 0 scales to [Peak]
}

// Prepare scales a series and sets the days to learn from apart. It refuses a
// series that has no such days.
func Prepare(s *Series, p Preparation) (*Workload, error) {
	days := p.TrainDays
	if days == 0 {
		days = max(DefaultTrainDays(s), 2)
	}
	if days < 1 || days > maxMinutes/day {
		return nil, fmt.Errorf("%s: %d days to learn from make no sense; give 1 to %d", s.Name, days, maxMinutes/day)
	}
	test := days * day
	if len(s.Value) < test+day {
		advice := "give a longer series"
		if p.TrainDays > 1 {
			advice += " or fewer days to learn from"
		}
		return nil, fmt.Errorf("%s: the series covers %.1f days, and a replay needs %d days to learn from and at least one to test; %s", s.Name, s.Days(), days, advice)
	}
	if share := float64(known(s.Value[:test])) / float64(test); share < 0.25 {
		return nil, fmt.Errorf("%s: of the %d days to learn from only %.0f %% are known; give a series with fewer gaps", s.Name, days, 100*share)
	}
	if known(s.Value[test:]) < day/4 {
		return nil, fmt.Errorf("%s: after the %d days to learn from hardly anything is known; give a series with fewer gaps", s.Name, days)
	}
	w := &Workload{Name: s.Name, From: s.From, Demand: slices.Clone(s.Value), Test: test}
	top := Percentile(w.Demand, 0.999)
	if !(top > 0) {
		return nil, fmt.Errorf("%s: the demand is 0 nearly all the time; there is nothing to scale", s.Name)
	}
	w.Scale = Peak / top
	if p.PerPod > 0 {
		w.Scale = 1 / p.PerPod
		if top*w.Scale > MaxPods/2 {
			return nil, fmt.Errorf("%s: with %v a pod the demand needs more than %d pods; give a larger one", s.Name, p.PerPod, MaxPods)
		}
	}
	for i := range w.Demand {
		w.Demand[i] *= w.Scale
	}
	return w, nil
}

func known(v []float64) (n int) {
	for _, x := range v {
		if !math.IsNaN(x) {
			n++
		}
	}
	return n
}

// Percentile returns the q-quantile of what is known of v, interpolated, and
// NaN if nothing is.
func Percentile(v []float64, q float64) float64 {
	s := make([]float64, 0, len(v))
	for _, x := range v {
		if !math.IsNaN(x) {
			s = append(s, x)
		}
	}
	if len(s) == 0 {
		return math.NaN()
	}
	slices.Sort(s)
	return quantileSorted(s, q)
}

// quantileSorted is the interpolated q-quantile of s, which is sorted.
func quantileSorted(s []float64, q float64) float64 {
	x := q * float64(len(s)-1)
	i := int(x)
	if i+1 >= len(s) {
		return s[len(s)-1]
	}
	u := x - float64(i)
	return s[i]*(1-u) + s[i+1]*u
}

// Result is how a policy did over the test's minutes.
type Result struct {
	UnderPercent float64 // of the minutes
	UnmetPercent float64 // of the demand
	CostRatio    float64 // pod-minutes ÷ ideal pod-minutes
	PodMinutes   float64 // ready and starting
	IdealMinutes float64
	Minutes      int // with a known demand
	// Coverage90 is the share, in percent, of the forecasts made whose 5 % to 95 %
	// band held the demand; NaN if there was none.
	Coverage90 float64
	// Pinball is the mean pinball loss of the 5, 50 and 95 % quantiles, relative
	// to the mean demand; NaN if there was no forecast.
	Pinball   float64
	Forecasts int // minutes for which there was one
	Periodic  bool
}

// Options say how to replay.
type Options struct {
	StartMinutes int
	// Each, if set, is called after each minute of the test.
	Each func(m Minute)
}

// A Minute is what happened in one.
type Minute struct {
	Minute                   int
	Demand                   float64
	Ready, Starting, Desired int
}

// Replay plays p over the test's minutes of w, beginning with the ideal number
// of pods. It stops early, with an error, only if ctx ends.
func Replay(ctx context.Context, w *Workload, p Policy, o Options) (Result, error) {
	var (
		r        Result
		ready    = ideal(firstKnown(w.Demand[w.Test:]))
		starting = make([]int, max(o.StartMinutes, 1)) // a ring: [minute % len] gets ready in that minute
		inFlight = 0
		demand   = 0.0
		unmet    = 0.0
		under    = 0
		expected = make([]Quantiles, max(o.StartMinutes, 1)) // likewise
		made     = make([]bool, len(expected))
		covered  = 0
		pinball  = 0.0
		judged   = 0.0
	)
	forecaster, _ := p.(Forecaster)
	for t := w.Test; t < len(w.Demand); t++ {
		if t%day == 0 && ctx.Err() != nil {
			return r, ctx.Err()
		}
		// 1. What was asked for start minutes ago gets ready.
		slot := t % len(starting)
		ready += starting[slot]
		inFlight -= starting[slot]
		starting[slot] = 0
		d := w.Demand[t]
		// 2. The forecast made then is judged.
		if made[slot] && !math.IsNaN(d) {
			q := expected[slot]
			r.Forecasts++
			if q.Q05 <= d && d <= q.Q95 {
				covered++
			}
			pinball += (Pinball(d, q.Q05, 0.05) + Pinball(d, q.Q50, 0.5) + Pinball(d, q.Q95, 0.95)) / 3
			judged += d
		}
		made[slot] = false
		// 3. The minute is counted.
		if !math.IsNaN(d) {
			r.Minutes++
			demand += d
			if d > float64(ready) {
				under++
				unmet += d - float64(ready)
			}
			r.PodMinutes += float64(ready + inFlight)
			r.IdealMinutes += float64(ideal(d))
		}
		// 4. The policy decides.
		want := p.Decide(Seen{Minute: t, Now: w.From.Add(time.Duration(t) * time.Minute), Demand: w.Demand[: t+1-Delay : t+1-Delay],
			Ready: ready, Starting: inFlight, StartMinutes: o.StartMinutes})
		want = min(max(want, 1), MaxPods)
		if o.Each != nil {
			o.Each(Minute{t, d, ready, inFlight, want})
		}
		if forecaster != nil {
			expected[slot], made[slot] = forecaster.Forecast()
		}
		switch more := want - ready - inFlight; {
		case more > 0 && o.StartMinutes == 0:
			ready += more
		case more > 0:
			starting[slot] += more
			inFlight += more
		case more < 0: // the youngest first
			for k := range len(starting) {
				i := ((slot-k)%len(starting) + len(starting)) % len(starting)
				n := min(-more, starting[i])
				starting[i] -= n
				inFlight -= n
				more += n
			}
			ready += more
		}
	}
	r.UnderPercent = 100 * float64(under) / float64(max(r.Minutes, 1))
	if demand > 0 {
		r.UnmetPercent = 100 * unmet / demand
	}
	r.CostRatio = r.PodMinutes / max(r.IdealMinutes, 1)
	r.Coverage90, r.Pinball = math.NaN(), math.NaN()
	if r.Forecasts > 0 {
		r.Coverage90 = 100 * float64(covered) / float64(r.Forecasts)
		if judged > 0 {
			r.Pinball = pinball / judged
		}
	}
	if forecaster != nil {
		r.Periodic = forecaster.Periodic()
	}
	return r, nil
}

// Pinball is the loss of having said that d would be at most q with
// probability tau.
func Pinball(d, q, tau float64) float64 {
	if d >= q {
		return tau * (d - q)
	}
	return (1 - tau) * (q - d)
}

// ideal is the least number of pods that keep within the target.
func ideal(d float64) int {
	if !(d > 0) {
		return 1
	}
	return min(max(int(math.Ceil(d/Target-1e-9)), 1), MaxPods)
}

func firstKnown(v []float64) float64 {
	for _, x := range v {
		if !math.IsNaN(x) {
			return x
		}
	}
	return math.NaN()
}
