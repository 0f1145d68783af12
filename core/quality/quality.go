// Package quality decides whether a module keeps its promises: the share of
// requests that succeed and the 99th percentile of its latency.
//
//	met     = success ≥ target and p99 ≤ target, of every target that is set
//	unknown = a figure that a target needs was not measured
//
// [Guard.Judge] judges one moment, [Guard.JudgeHour] an hour of moments,
// [History] keeps the hours. Money is never shown without the verdict beside it.
//
// Not here: the PromQL that finds the figures (metrics/), and what is done about
// a broken guard.
package quality

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// A Guard is what a module promises. The zero Guard promises nothing.
type Guard struct {
	SuccessMicros int64         // millionths of requests that must succeed; 0 means no target
	P99           time.Duration // the 99th percentile must not be above; 0 means no target
}

// Validate says in one sentence what is wrong with g, if anything.
func (g Guard) Validate() error {
	if g.SuccessMicros < 0 || g.SuccessMicros > 1_000_000 {
		return fmt.Errorf("the target of the success rate is %d millionths; it must be between 0 and 1000000", g.SuccessMicros)
	}
	if g.P99 < 0 {
		return fmt.Errorf("the target of the 99th percentile is %v; it must not be negative", g.P99)
	}
	return nil
}

// IsZero reports whether g promises nothing.
func (g Guard) IsZero() bool { return g == Guard{} }

// A Status is a verdict.
type Status string

// The verdicts. The empty Status counts as Unknown.
const (
	Met     Status = "met"
	Broken  Status = "broken"
	Unknown Status = "unknown"
)

// A Reason says why a verdict is not Met.
type Reason string

// The reasons.
const (
	NoReason    Reason = ""
	NoGuard     Reason = "no target is set"
	NotMeasured Reason = "not measured"
	TooManyFail Reason = "too many requests fail"
	TooSlow     Reason = "too slow"
)

// An Observation is what one moment, or the stretch of time before it, showed. A
// figure that was not measured, or is not a number (no request came), is NaN.
type Observation struct {
	At      time.Time
	Success float64 // 0 to 1
	P99     float64 // seconds
}

// A Verdict is the result of judging.
type Verdict struct {
	Status Status
	Reason Reason

	// The figures judged: of an hour the worst of each, in the units of Guard.
	// −1 means not measured.
	SuccessMicros int64
	P99           time.Duration

	// Judged counts the moments that could be judged, Broke those that were broken.
	Judged, Broke int
}

// Judge judges one moment.
func (g Guard) Judge(o Observation) Verdict {
	v := Verdict{Status: Met, SuccessMicros: micros(o.Success), P99: duration(o.P99)}
	switch {
	case g.IsZero():
		v.Status, v.Reason = Unknown, NoGuard
	case g.SuccessMicros > 0 && v.SuccessMicros >= 0 && v.SuccessMicros < g.SuccessMicros:
		v.Status, v.Reason = Broken, TooManyFail
	case g.P99 > 0 && v.P99 > g.P99:
		v.Status, v.Reason = Broken, TooSlow
	case g.SuccessMicros > 0 && v.SuccessMicros < 0, g.P99 > 0 && v.P99 < 0:
		v.Status, v.Reason = Unknown, NotMeasured
	}
	if v.Status != Unknown {
		v.Judged = 1
	}
	if v.Status == Broken {
		v.Broke = 1
	}
	return v
}

// JudgeHour judges the moments of an hour together: broken if any was, unknown
// if none could be judged. The order of the moments does not matter.
func (g Guard) JudgeHour(moments []Observation) Verdict {
	sum := Verdict{Status: Unknown, Reason: NotMeasured, SuccessMicros: -1, P99: -1}
	if g.IsZero() {
		sum.Reason = NoGuard
	}
	broken := map[Reason]int{}
	for _, o := range moments {
		v := g.Judge(o)
		if v.SuccessMicros >= 0 && (sum.SuccessMicros < 0 || v.SuccessMicros < sum.SuccessMicros) {
			sum.SuccessMicros = v.SuccessMicros
		}
		sum.P99 = max(sum.P99, v.P99)
		sum.Judged += v.Judged
		sum.Broke += v.Broke
		if v.Status == Broken {
			broken[v.Reason]++
		}
	}
	switch {
	case sum.Broke > 0:
		sum.Status, sum.Reason = Broken, TooManyFail
		if broken[TooSlow] > broken[TooManyFail] {
			sum.Reason = TooSlow
		}
	case sum.Judged > 0:
		sum.Status, sum.Reason = Met, NoReason
	}
	return sum
}

// A History keeps a module's verdicts by hour, at most Keep of them. The zero
// History keeps four weeks.
type History struct {
	Keep  int // hours; 0 means 672
	Hours []HourVerdict
}

// An HourVerdict is the verdict of the hour that starts at From.
type HourVerdict struct {
	From time.Time
	Verdict
}

// Record adds the verdict of an hour, or replaces it. Hours may come in any order.
func (h *History) Record(from time.Time, v Verdict) {
	i, found := slices.BinarySearchFunc(h.Hours, from, func(x HourVerdict, t time.Time) int { return x.From.Compare(t) })
	if found {
		h.Hours[i].Verdict = v
	} else {
		h.Hours = slices.Insert(h.Hours, i, HourVerdict{from, v})
	}
	keep := h.Keep
	if keep <= 0 {
		keep = 672
	}
	if extra := len(h.Hours) - keep; extra > 0 {
		h.Hours = slices.Delete(h.Hours, 0, extra)
	}
}

// Between counts the hours that start in [from, to) by verdict.
func (h *History) Between(from, to time.Time) (met, broken, unknown int) {
	for _, v := range h.Hours {
		if v.From.Before(from) || !v.From.Before(to) {
			continue
		}
		switch v.Status {
		case Met:
			met++
		case Broken:
			broken++
		default:
			unknown++
		}
	}
	return met, broken, unknown
}

func micros(share float64) int64 {
	if math.IsNaN(share) || share < 0 {
		return -1
	}
	return int64(math.Round(min(share, 1) * 1e6))
}

func duration(seconds float64) time.Duration {
	if math.IsNaN(seconds) || seconds < 0 {
		return -1
	}
	return time.Duration(min(seconds, 1e9) * float64(time.Second)) // an infinite quantile is a very slow one
}
