package quality

import (
	"math"
	"math/rand"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var guard = Guard{SuccessMicros: 999_000, P99: 300 * time.Millisecond}

func TestJudge(t *testing.T) {
	nan := math.NaN()
	cases := map[string]struct {
		guard Guard
		seen  Observation
		want  Status
		why   Reason
	}{
		"both targets kept":                              {guard, Observation{Success: 0.9995, P99: 0.2}, Met, NoReason},
		"exactly the targets":                            {guard, Observation{Success: 0.999, P99: 0.3}, Met, NoReason},
		"too many failures":                              {guard, Observation{Success: 0.9989, P99: 0.2}, Broken, TooManyFail},
		"too slow":                                       {guard, Observation{Success: 1, P99: 0.301}, Broken, TooSlow},
		"an infinite quantile is too slow":               {guard, Observation{Success: 1, P99: math.Inf(1)}, Broken, TooSlow},
		"a gap is unknown, not kept":                     {guard, Observation{Success: nan, P99: nan}, Unknown, NotMeasured},
		"half a gap is unknown if the other half is met": {guard, Observation{Success: 1, P99: nan}, Unknown, NotMeasured},
		"half a gap is broken if the other half is":      {guard, Observation{Success: nan, P99: 9}, Broken, TooSlow},
		"only a latency target":                          {Guard{P99: time.Second}, Observation{Success: nan, P99: 0.5}, Met, NoReason},
		"only a success target":                          {Guard{SuccessMicros: 1}, Observation{Success: 0, P99: nan}, Broken, TooManyFail},
		"no target":                                      {Guard{}, Observation{Success: 1, P99: 0.1}, Unknown, NoGuard},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got := tc.guard.Judge(tc.seen); got.Status != tc.want || got.Reason != tc.why {
				t.Errorf("got %s (%s), want %s (%s)", got.Status, got.Reason, tc.want, tc.why)
			}
		})
	}
}

func TestJudgeHour(t *testing.T) {
	nan := math.NaN()
	good, slow, failing, gap := Observation{Success: 1, P99: 0.1}, Observation{Success: 1, P99: 2}, Observation{Success: 0.5, P99: 0.2}, Observation{Success: nan, P99: nan}
	cases := map[string]struct {
		moments []Observation
		want    Verdict
	}{
		"every moment kept":        {[]Observation{good, good}, Verdict{Met, NoReason, 1_000_000, 100 * time.Millisecond, 2, 0}},
		"one moment breaks it":     {[]Observation{good, slow, good}, Verdict{Broken, TooSlow, 1_000_000, 2 * time.Second, 3, 1}},
		"the commoner reason":      {[]Observation{slow, failing, failing}, Verdict{Broken, TooManyFail, 500_000, 2 * time.Second, 3, 3}},
		"gaps do not count":        {[]Observation{gap, good, gap}, Verdict{Met, NoReason, 1_000_000, 100 * time.Millisecond, 1, 0}},
		"nothing but gaps":         {[]Observation{gap}, Verdict{Unknown, NotMeasured, -1, -1, 0, 0}},
		"nothing observed":         {nil, Verdict{Unknown, NotMeasured, -1, -1, 0, 0}},
		"a broken moment in a gap": {[]Observation{gap, slow, gap}, Verdict{Broken, TooSlow, 1_000_000, 2 * time.Second, 1, 1}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, guard.JudgeHour(tc.moments)); diff != "" {
				t.Errorf("verdict (-want +got):\n%s", diff)
			}
		})
	}
	if got := (Guard{}).JudgeHour([]Observation{good}); got.Status != Unknown || got.Reason != NoGuard {
		t.Errorf("without a guard: %+v", got)
	}
}

// FuzzJudgeHour: the order of moments does not matter, a worse moment never
// mends a verdict, and nonsense never counts as kept.
func FuzzJudgeHour(f *testing.F) {
	f.Add(int64(1), 1.0, 0.1)
	f.Add(int64(2), math.NaN(), math.Inf(1))
	f.Add(int64(3), -1.0, -5.0)
	f.Fuzz(func(t *testing.T, seed int64, success, p99 float64) {
		dice := rand.New(rand.NewSource(seed))
		moments := []Observation{{Success: success, P99: p99}}
		for range dice.Intn(8) {
			moments = append(moments, Observation{Success: dice.Float64()*0.01 + 0.99, P99: dice.Float64()})
		}
		v := guard.JudgeHour(moments)
		dice.Shuffle(len(moments), func(i, j int) { moments[i], moments[j] = moments[j], moments[i] })
		if diff := cmp.Diff(v, guard.JudgeHour(moments)); diff != "" {
			t.Fatalf("the order matters:\n%s", diff)
		}
		if worse := guard.JudgeHour(append(moments, Observation{Success: 0, P99: 100})); worse.Status != Broken {
			t.Fatalf("a broken moment makes %+v", worse)
		}
		if only := guard.JudgeHour(moments[:1]); only.Status == Met {
			o := moments[0]
			if !(o.Success >= 0.9989995 && o.P99 >= 0 && o.P99 <= 0.3000001) {
				t.Fatalf("%+v counts as kept", o)
			}
		}
	})
}

func TestHistory(t *testing.T) {
	day := time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)
	h := History{Keep: 3}
	hour := func(n int) time.Time { return day.Add(time.Duration(n) * time.Hour) }
	for _, n := range []int{2, 0, 1, 3} { // in any order; the oldest is dropped
		h.Record(hour(n), Verdict{Status: Met})
	}
	h.Record(hour(2), Verdict{Status: Broken}) // replaced
	h.Record(hour(3), Verdict{})
	met, broken, unknown := h.Between(hour(0), hour(4))
	if met != 1 || broken != 1 || unknown != 1 || len(h.Hours) != 3 || !h.Hours[0].From.Equal(hour(1)) {
		t.Errorf("met %d, broken %d, unknown %d of %v", met, broken, unknown, h.Hours)
	}
	if met, _, _ := h.Between(hour(0), hour(1)); met != 0 {
		t.Errorf("a forgotten hour counts")
	}
}

func TestValidate(t *testing.T) {
	for _, g := range []Guard{{SuccessMicros: -1}, {SuccessMicros: 1_000_001}, {P99: -1}} {
		if g.Validate() == nil {
			t.Errorf("%+v is accepted", g)
		}
	}
	if err := guard.Validate(); err != nil {
		t.Error(err)
	}
}
