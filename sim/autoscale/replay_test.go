package autoscale

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
)

// steps is a policy that asks for what is written down.
type steps struct {
	from int
	want []int
	seen []Seen
}

func (p *steps) Decide(s Seen) int {
	p.seen = append(p.seen, s)
	return p.want[s.Minute-p.from]
}

func TestTheModelByHand(t *testing.T) {
	w := &Workload{From: time.Unix(0, 0).UTC(), Test: 1, Demand: []float64{6, 6, 6, 12, 12, 30, math.NaN(), 3}}
	p := &steps{from: 1, want: []int{15, 14, 50, 20, 50, 5, 5}}
	var got []Minute
	r, err := Replay(t.Context(), w, p, Options{StartMinutes: 2, Each: func(m Minute) { got = append(got, m) }})
	if err != nil {
		t.Fatal(err)
	}
	// Ready and starting as counted in each minute: 15 asked for in minute 1 are
	// there in minute 3, less the one that was starting and left in minute 2.
	want := []Minute{
		{1, 6, 10, 0, 15},
		{2, 6, 10, 5, 14},
		{3, 12, 14, 0, 50},
		{4, 12, 14, 36, 20},
		{5, 30, 20, 0, 50},
		{6, math.NaN(), 20, 30, 5},
		{7, 3, 5, 0, 5},
	}
	for i := range want {
		same := got[i] == want[i]
		if math.IsNaN(want[i].Demand) {
			same = math.IsNaN(got[i].Demand) && got[i].Ready == want[i].Ready && got[i].Starting == want[i].Starting && got[i].Desired == want[i].Desired
		}
		if !same {
			t.Errorf("minute %d: %+v, want %+v", i+1, got[i], want[i])
		}
	}
	near(t, "minutes", float64(r.Minutes), 6, 0)
	near(t, "under", r.UnderPercent, 100.0/6, 1e-9)
	near(t, "unmet", r.UnmetPercent, 100.0*10/69, 1e-9)
	near(t, "pod-minutes", r.PodMinutes, 10+15+14+50+20+5, 0)
	near(t, "ideal pod-minutes", r.IdealMinutes, 10+10+20+20+50+5, 0)
	for _, s := range p.seen {
		if len(s.Demand) != s.Minute {
			t.Errorf("in minute %d the demand of %d minutes is known; want all but this one", s.Minute, len(s.Demand))
		}
	}
}

func TestPodsThatNeedNoTimeAreReadyAtOnce(t *testing.T) {
	w := &Workload{Test: 1, Demand: []float64{6, 6, 30}}
	r, err := Replay(t.Context(), w, &steps{from: 1, want: []int{40, 40}}, Options{})
	if err != nil || r.UnderPercent != 0 || r.PodMinutes != 50 {
		t.Errorf("%+v, %v", r, err)
	}
}

// band expects the same every minute.
type band struct {
	Fixed
	q Quantiles
}

func (b band) Forecast() (Quantiles, bool) { return b.q, true }
func (b band) Periodic() bool              { return true }

func TestForecastsAreJudgedWhenTheirMinuteComes(t *testing.T) {
	w := &Workload{Test: 1, Demand: []float64{10, 90, 90, 90, 10, 20}}
	r, err := Replay(t.Context(), w, band{1, Quantiles{5, 10, 15}}, Options{StartMinutes: 3})
	if err != nil {
		t.Fatal(err)
	}
	// Made in minutes 1 and 2 for 4 and 5; the test ends before the others' come.
	if r.Forecasts != 2 || r.Coverage90 != 50 || !r.Periodic {
		t.Errorf("%+v", r)
	}
	loss := ((0.05*5 + 0 + 0.05*5) + (0.05*15 + 0.5*10 + 0.95*5)) / 3
	near(t, "pinball", r.Pinball, loss/30, 1e-12)
}

func TestAReplayCanBeStopped(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if _, err := Replay(ctx, &Workload{Test: 0, Demand: make([]float64, 3*day)}, Fixed(1), Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestPrepareRefuses(t *testing.T) {
	flat := func(minutes int, v float64) *Series {
		return &Series{Name: "load", Value: slices.Repeat([]float64{v}, minutes)}
	}
	gappy := flat(16*day, 1)
	for i := range 7 * day {
		gappy.Value[i] = math.NaN()
	}
	silent := flat(16*day, 1)
	for i := 8 * day; i < 16*day; i++ {
		silent.Value[i] = math.NaN()
	}
	cases := map[string]struct {
		s    *Series
		p    Preparation
		want string
	}{
		"a series without the days to learn from": {flat(5*day, 1), Preparation{TrainDays: 8}, "load: the series covers 5.0 days, and a replay needs 8 days to learn from and at least one to test; give a longer series or fewer days"},
		"a day of data":                              {flat(day, 1), Preparation{}, "the series covers 1.0 days, and a replay needs 2 days"},
		"nothing after the days to learn from":       {flat(8*day+60, 1), Preparation{TrainDays: 8}, "at least one to test"},
		"no demand":                                  {flat(16*day, 0), Preparation{}, "the demand is 0 nearly all the time"},
		"days to learn from in gaps":                 {gappy, Preparation{}, "of the 8 days to learn from only 12 % are known"},
		"a test in a gap":                            {silent, Preparation{}, "after the 8 days to learn from hardly anything is known"},
		"more pods than the model has":               {flat(16*day, 1e9), Preparation{PerPod: 1}, "needs more than 100000 pods"},
		"days that nobody has":                       {flat(16*day, 1), Preparation{TrainDays: 1 << 40}, "make no sense"},
		"fewer than one day to learn from":           {flat(16*day, 1), Preparation{TrainDays: -1}, "make no sense"},
		"a series of two weeks learns from a half":   {flat(14*day, 1), Preparation{}, ""},
		"a series of eight days learns from four":    {flat(8*day, 1), Preparation{}, ""},
		"a load that fits the pods it is divided by": {flat(16*day, 7), Preparation{PerPod: 2}, ""},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := Prepare(tc.s, tc.p)
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
	for days, want := range map[int]int{8: 4, 11: 5, 12: 8, 16: 8, 30: 8} {
		if got := DefaultTrainDays(flat(days*day, 1)); got != want {
			t.Errorf("of %d days %d are to learn from, want %d", days, got, want)
		}
	}
}

func TestTheHighestDemandsButOneInAThousandAreAHundredPods(t *testing.T) {
	s := &Series{Name: "load", Value: make([]float64, 16*day)}
	for i := range s.Value {
		s.Value[i] = float64(i)
	}
	w, err := Prepare(s, Preparation{})
	if err != nil {
		t.Fatal(err)
	}
	near(t, "p99.9", Percentile(w.Demand, 0.999), Peak, 1e-9)
	if w, err = Prepare(s, Preparation{PerPod: 50}); err != nil || w.Demand[100] != 2 {
		t.Errorf("100 at 50 a pod is %v pods, %v", w.Demand[100], err)
	}
}
