package bill

import (
	"math"
	"math/rand"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/neap-dev/neap/core/resource"
)

func points(values ...float64) []CounterPoint {
	var out []CounterPoint
	for i, v := range values {
		if v == -1 { // a gap
			continue
		}
		out = append(out, CounterPoint{after(time.Duration(i) * time.Minute), v})
	}
	return out
}

func minutes(from, to int, use int64) Reading {
	return Reading{after(time.Duration(from) * time.Minute), after(time.Duration(to) * time.Minute), use}
}

func TestFromCounter(t *testing.T) {
	cases := map[string]struct {
		points []CounterPoint
		want   []Reading
	}{
		"growth over time is use":                     {points(0, 30, 90), []Reading{minutes(0, 1, 500), minutes(1, 2, 1000)}},
		"a counter that falls starts from zero":       {points(100, 130, 6), []Reading{minutes(0, 1, 500), minutes(1, 2, 100)}},
		"a short gap is bridged exactly":              {points(0, -1, 60), []Reading{minutes(0, 2, 500)}},
		"a long gap stays a gap":                      {points(0, -1, -1, -1, -1, -1, 60, 120), []Reading{minutes(6, 7, 1000)}},
		"what is not a number is left out":            {points(0, math.NaN(), math.Inf(1), 90), []Reading{minutes(0, 3, 500)}},
		"one reading says nothing":                    {points(7), nil},
		"none says nothing":                           {nil, nil},
		"an absurd number is bounded, not overflowed": {points(0, 1e300), []Reading{minutes(0, 1, 1e15)}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, FromCounter(tc.points, 1000, 0)); diff != "" {
				t.Errorf("readings (-want +got):\n%s", diff)
			}
		})
	}
	back := points(0, 30, 60)
	back[1].T = hour0.Add(-time.Hour)
	if diff := cmp.Diff([]Reading{minutes(0, 2, 500)}, FromCounter(back, 1000, 0)); diff != "" {
		t.Errorf("a reading that goes back in time (-want +got):\n%s", diff)
	}
}

func TestFromGauge(t *testing.T) {
	if diff := cmp.Diff([]Reading{minutes(0, 1, 15), minutes(1, 2, 30)}, FromGauge(points(10, 20, 40), 1, 0)); diff != "" {
		t.Errorf("readings (-want +got):\n%s", diff)
	}
}

func TestAddAndMergeReadings(t *testing.T) {
	sum := AddReadings([]Reading{minutes(0, 2, 100)}, []Reading{minutes(1, 3, 10)})
	if diff := cmp.Diff([]Reading{minutes(0, 1, 100), minutes(1, 2, 110), minutes(2, 3, 10)}, sum); diff != "" {
		t.Errorf("sum (-want +got):\n%s", diff)
	}
	got := MergeSamples([resource.Kinds][]Reading{{minutes(0, 2, 100)}, {minutes(1, 3, 7)}, nil})
	at := func(m int) time.Time { return after(time.Duration(m) * time.Minute) }
	want := []Sample{
		{From: at(0), To: at(1), Use: resource.Vector{100, 0, 0}, Missing: [3]bool{false, true, true}},
		{From: at(1), To: at(2), Use: resource.Vector{100, 7, 0}, Missing: [3]bool{false, false, true}},
		{From: at(2), To: at(3), Use: resource.Vector{0, 7, 0}, Missing: [3]bool{true, false, true}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("samples (-want +got):\n%s", diff)
	}
}

// FuzzUsage makes readings of any points: they come oldest first, never overlap
// and are never negative, and so do the sums and samples made of them.
func FuzzUsage(f *testing.F) {
	f.Add(int64(1), 5.0, -1.0)
	f.Add(int64(2), math.NaN(), 1e300)
	f.Add(int64(3), math.Inf(-1), 0.0)
	f.Fuzz(func(t *testing.T, seed int64, a, b float64) {
		dice := rand.New(rand.NewSource(seed))
		list := func() []CounterPoint {
			var out []CounterPoint
			at, v := hour0, 0.0
			for range dice.Intn(20) {
				at = at.Add(time.Duration(dice.Int63n(int64(8*time.Minute))) - time.Minute)
				switch dice.Intn(6) {
				case 0:
					v = a
				case 1:
					v = b
				default:
					v += dice.Float64() * 60
				}
				out = append(out, CounterPoint{at, v})
			}
			return out
		}
		check := func(what string, rs []Reading) {
			for i, r := range rs {
				if !r.From.Before(r.To) || r.Use < 0 || i > 0 && r.From.Before(rs[i-1].To) {
					t.Fatalf("%s: %v", what, rs)
				}
			}
		}
		x, y, z := FromCounter(list(), 1000, 0), FromGauge(list(), 1, time.Hour), FromCounter(list(), 1000, time.Nanosecond)
		sum := AddReadings(x, y, z)
		check("counter", x)
		check("gauge", y)
		check("sum", sum)
		samples := MergeSamples([resource.Kinds][]Reading{x, y, sum})
		for i, s := range samples {
			if !s.From.Before(s.To) || i > 0 && s.From.Before(samples[i-1].To) || s.Missing == [3]bool{true, true, true} {
				t.Fatalf("samples %v", samples)
			}
		}
	})
}

func TestAttachUsageCutsSamplesAtThePod(t *testing.T) {
	h := Hour{Pods: []Pod{{UID: "u", From: after(10 * time.Minute), To: after(20 * time.Minute)}, {UID: "v"}}}
	var all []Sample
	for m := range 60 {
		all = append(all, Sample{From: after(time.Duration(m)*time.Minute + 30*time.Second), To: after(time.Duration(m+1)*time.Minute + 30*time.Second)})
	}
	AttachUsage(&h, map[string][]Sample{"u": all})
	u := h.Pods[0].Usage
	if len(u) != 11 || !u[0].From.Equal(h.Pods[0].From) || !u[10].To.Equal(h.Pods[0].To) || h.Pods[1].Usage != nil {
		t.Errorf("got %v", u)
	}
}
