package bill

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/neap-dev/neap/core/resource"
)

// A CounterPoint is one reading of a counter that only grows, such as
// container_cpu_usage_seconds_total, or of a gauge.
type CounterPoint struct {
	T time.Time
	V float64
}

// A Reading is the average of one resource between two instants, in the unit of
// [resource.Vector].
type Reading struct {
	From, To time.Time
	Use      int64
}

// FromCounter turns readings of a counter into averages between them, perSecond
// units of the resource for each unit of growth a second: 1000 makes milli-cores
// of CPU seconds. A counter that falls was reset and counts from zero. Readings
// further apart than maxGap leave a gap, not a guess (0 means five minutes);
// readings that go back in time or are not numbers are left out.
func FromCounter(points []CounterPoint, perSecond float64, maxGap time.Duration) []Reading {
	points = clean(points)
	var out []Reading
	for i := 1; i < len(points); i++ {
		a, b := points[i-1], points[i]
		if b.T.Sub(a.T) > gapOr(maxGap) {
			continue
		}
		grown := b.V - a.V
		if grown < 0 {
			grown = b.V
		}
		use := math.Round(grown / b.T.Sub(a.T).Seconds() * perSecond)
		out = append(out, Reading{a.T, b.T, toInt(use)})
	}
	return out
}

// FromGauge turns readings of a gauge into averages: the mean of two readings
// holds between them. unit is how much of the resource one unit of the gauge is:
// 1 for bytes, 10 for a GPU's percent. Gaps as in [FromCounter].
func FromGauge(points []CounterPoint, unit float64, maxGap time.Duration) []Reading {
	points = clean(points)
	var out []Reading
	for i := 1; i < len(points); i++ {
		a, b := points[i-1], points[i]
		if b.T.Sub(a.T) > gapOr(maxGap) {
			continue
		}
		out = append(out, Reading{a.T, b.T, toInt(math.Round((a.V + b.V) / 2 * unit))})
	}
	return out
}

func gapOr(d time.Duration) time.Duration {
	if d <= 0 {
		return 5 * time.Minute
	}
	return d
}

// clean keeps the points that are numbers, not negative and later than the ones
// before them.
func clean(points []CounterPoint) []CounterPoint {
	kept := make([]CounterPoint, 0, len(points))
	for _, p := range points {
		if math.IsNaN(p.V) || math.IsInf(p.V, 0) || p.V < 0 {
			continue
		}
		if n := len(kept); n > 0 && !p.T.After(kept[n-1].T) {
			continue
		}
		kept = append(kept, p)
	}
	return kept
}

// toInt bounds nonsense: a pod uses less than a million billion of anything.
func toInt(v float64) int64 { return int64(min(max(v, 0), 1e15)) }

// AddReadings returns the sum of several readings of one resource, such as a
// pod's containers or GPUs: over the time that any of them covers.
func AddReadings(lists ...[]Reading) []Reading {
	var edges []time.Time
	for _, l := range lists {
		for _, r := range l {
			edges = append(edges, r.From, r.To)
		}
	}
	edges = sortTimes(edges)
	at := make([]int, len(lists))
	var out []Reading
	for i := 0; i+1 < len(edges); i++ {
		sum, covered := int64(0), false
		for n, l := range lists {
			for at[n] < len(l) && !l[at[n]].To.After(edges[i]) {
				at[n]++
			}
			if at[n] < len(l) && !l[at[n]].From.After(edges[i]) {
				sum, covered = sum+l[at[n]].Use, true
			}
		}
		if covered {
			out = append(out, Reading{edges[i], edges[i+1], sum})
		}
	}
	return out
}

// MergeSamples joins the readings of a pod's resources into samples. A resource
// without a reading for some time is Missing there; time without any is a gap.
func MergeSamples(readings [resource.Kinds][]Reading) []Sample {
	var edges []time.Time
	for _, l := range readings {
		for _, r := range l {
			edges = append(edges, r.From, r.To)
		}
	}
	edges = sortTimes(edges)
	var at [resource.Kinds]int
	var out []Sample
	for i := 0; i+1 < len(edges); i++ {
		s := Sample{From: edges[i], To: edges[i+1]}
		known := false
		for k, l := range readings {
			for at[k] < len(l) && !l[at[k]].To.After(s.From) {
				at[k]++
			}
			if at[k] < len(l) && !l[at[k]].From.After(s.From) {
				s.Use[k], known = l[at[k]].Use, true
			} else {
				s.Missing[k] = true
			}
		}
		if known {
			out = append(out, s)
		}
	}
	return out
}

func sortTimes(times []time.Time) []time.Time {
	slices.SortFunc(times, time.Time.Compare)
	return slices.CompactFunc(times, time.Time.Equal)
}

// AttachUsage gives every pod of the hour its samples by UID, clipped to the
// pod's time; a pod without any keeps none and is billed by its request, as
// estimated. Samples must be oldest first.
func AttachUsage(h *Hour, byUID map[string][]Sample) {
	for i := range h.Pods {
		p := &h.Pods[i]
		all := byUID[p.UID]
		first, _ := slices.BinarySearchFunc(all, p.From, func(s Sample, t time.Time) int {
			return cmp.Compare(boolInt(s.To.After(t)), 1)
		})
		var kept []Sample
		for _, s := range all[first:] {
			if !s.From.Before(p.To) {
				break
			}
			s.From, s.To = later(s.From, p.From), earlier(s.To, p.To)
			if s.From.Before(s.To) {
				kept = append(kept, s)
			}
		}
		p.Usage = kept
	}
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}
