package elastic

import (
	"math/rand"
	"slices"
	"testing"
	"time"

	"github.com/neap-dev/neap/core/money"
)

// three pools: machines that start in two minutes and take seven to buy, spare CPU
// of GPU machines, and serverless capacity.
func three() []Pool {
	return []Pool{
		{Name: "machines", Max: None, Room: 10, Start: 2 * time.Minute, Grow: None, GrowStart: 7 * time.Minute},
		{Name: "spare", Max: 8, Room: 8, Start: 2 * time.Minute},
		{Name: "serverless", Serverless: true, Max: 100, Room: None, Start: 90 * time.Second},
	}
}

func TestSpread(t *testing.T) {
	cases := map[string]struct {
		desired      int
		need         time.Duration
		change       func([]Pool)
		want         []int
		wantUnplaced int
	}{
		"the first pool first":                             {5, 2 * time.Minute, nil, []int{5, 0, 0}, 0},
		"what cannot be ready in time goes further":        {30, 2 * time.Minute, nil, []int{10, 8, 12}, 0},
		"what is needed later waits for machines":          {30, 10 * time.Minute, nil, []int{30, 0, 0}, 0},
		"less than a minute goes unnoticed":                {5, 0, nil, []int{5, 0, 0}, 0},
		"none is ready in time: the first to be ready":     {300, 30 * time.Second, func(p []Pool) { p[0].Room, p[1].Room = 0, 0; p[2].Max = 50 }, []int{250, 0, 50}, 0},
		"no place is said":                                 {300, 2 * time.Minute, func(p []Pool) { p[0].Grow = 0 }, []int{10, 8, 100}, 182},
		"the last pool leaves first":                       {30, 0, func(p []Pool) { p[0].Pods, p[1].Pods, p[2].Pods = 28, 8, 12 }, []int{28, 2, 0}, 0},
		"a min stays":                                      {30, 0, func(p []Pool) { p[0].Pods, p[1].Pods, p[2].Pods, p[2].Min = 28, 8, 12, 3 }, []int{27, 0, 3}, 0},
		"but not when there are fewer":                     {2, 0, func(p []Pool) { p[0].Pods, p[2].Pods, p[2].Min = 5, 3, 3 }, []int{0, 0, 2}, 0},
		"a min is filled before":                           {5, 10 * time.Minute, func(p []Pool) { p[2].Min = 2 }, []int{3, 0, 2}, 0},
		"beyond its max a pool gives back":                 {20, 10 * time.Minute, func(p []Pool) { p[1].Pods = 12; p[0].Pods = 8 }, []int{12, 8, 0}, 0},
		"pods that are there stay while others are needed": {20, 10 * time.Minute, func(p []Pool) { p[2].Pods = 15 }, []int{5, 0, 15}, 0},
		"nothing desired":                                  {0, 0, func(p []Pool) { p[0].Pods = 5 }, []int{0, 0, 0}, 0},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			pools := three()
			if tc.change != nil {
				tc.change(pools)
			}
			targets, unplaced := Spread(SpreadInput{Desired: tc.desired, Need: tc.need, Pools: pools})
			var got []int
			for _, target := range targets {
				got = append(got, target.Planned)
				if target.Reason == "" {
					t.Errorf("%s gives no reason", target.Name)
				}
			}
			if !slices.Equal(got, tc.want) || unplaced != tc.wantUnplaced {
				t.Errorf("got %v and %d unplaced, want %v and %d: %+v", got, unplaced, tc.want, tc.wantUnplaced, targets)
			}
		})
	}
}

func TestLawSpreadPlacesAllItMayAndNoMore(t *testing.T) {
	for seed := range int64(20_000) {
		r := rand.New(rand.NewSource(seed))
		in := SpreadInput{Desired: r.Intn(100), Need: time.Duration(r.Intn(600)) * time.Second}
		for range r.Intn(5) {
			in.Pools = append(in.Pools, Pool{
				Min: r.Intn(5), Max: r.Intn(60) - 1, Pods: r.Intn(20), Room: r.Intn(20) - 1, Grow: r.Intn(20) - 1,
				Start: time.Duration(r.Intn(300)) * time.Second, GrowStart: time.Duration(r.Intn(900)) * time.Second,
			})
		}
		targets, unplaced := Spread(in)
		sum := unplaced
		for i, target := range targets {
			p := in.Pools[i]
			sum += target.Planned
			if target.Planned < 0 || p.Max != None && target.Planned > p.Max {
				t.Fatalf("seed %d: %d planned of at most %d", seed, target.Planned, p.Max)
			}
			if p.Room != None && p.Grow != None && target.Planned > p.Pods+p.Room+p.Grow {
				t.Fatalf("seed %d: %d planned, though there are %d and room for %d", seed, target.Planned, p.Pods, p.Room+p.Grow)
			}
			if unplaced > 0 && (p.Max == None || target.Planned < p.Max) && (p.Room == None || p.Grow == None) {
				t.Fatalf("seed %d: %d unplaced, though there is room", seed, unplaced)
			}
		}
		if unplaced < 0 || sum != in.Desired {
			t.Fatalf("seed %d: %d placed and unplaced of %d", seed, sum, in.Desired)
		}
		// Once the pods are where they were planned, nothing moves.
		for i := range in.Pools {
			moved := targets[i].Planned - in.Pools[i].Pods
			in.Pools[i].Pods = targets[i].Planned
			if in.Pools[i].Room != None {
				in.Pools[i].Room = max(in.Pools[i].Room-max(moved, 0), 0)
			}
		}
		in.Desired -= unplaced
		again, _ := Spread(in)
		for i := range again {
			if again[i].Planned != targets[i].Planned {
				t.Fatalf("seed %d: planned %+v, and then %+v", seed, targets, again)
			}
		}
	}
}

func TestDeletionCostTakesTheDearestPoolFirst(t *testing.T) {
	if s, g, m := DeletionCost(2, 3, 1), DeletionCost(1, 3, 0), DeletionCost(0, 3, 0); !(s < g && g < m) {
		t.Errorf("serverless %d, GPU spare %d, machines %d", s, g, m)
	}
	if empty, full := DeletionCost(0, 3, 0.1), DeletionCost(0, 3, 0.9); !(empty < full) {
		t.Errorf("an empty node %d, a full node %d", empty, full)
	}
}

func TestJudge(t *testing.T) {
	pod := func(rank int, ready bool) Leaver { return Leaver{Name: "p", Rank: rank, Ready: ready} }
	ordinal := func(n int) Leaver { return Leaver{Name: "p", Ordinal: n, Rank: n % 3, Ready: true} }
	cases := map[string]struct {
		left, stayed []Leaver
		stateful     bool
		want         int
	}{
		"the dearest left":                      {[]Leaver{pod(2, true)}, []Leaver{pod(0, true), pod(1, true)}, false, 0},
		"a cheaper one left":                    {[]Leaver{pod(0, true)}, []Leaver{pod(2, true)}, false, 1},
		"two left, one of them wrongly":         {[]Leaver{pod(2, true), pod(0, true)}, []Leaver{pod(2, true), pod(2, true)}, false, 1},
		"a pod that was not ready may go":       {[]Leaver{pod(0, false)}, []Leaver{pod(2, true)}, false, 0},
		"and should":                            {[]Leaver{pod(2, true)}, []Leaver{pod(0, false)}, false, 1},
		"of those not ready any may go":         {[]Leaver{pod(0, false)}, []Leaver{pod(2, false)}, false, 0},
		"all left":                              {[]Leaver{pod(0, true), pod(2, true)}, nil, false, 0},
		"the highest ordinal left":              {[]Leaver{ordinal(5), ordinal(4)}, []Leaver{ordinal(3), ordinal(2)}, true, 0},
		"another ordinal left":                  {[]Leaver{ordinal(5), ordinal(1)}, []Leaver{ordinal(4)}, true, 1},
		"a StatefulSet's pools do not matter":   {[]Leaver{ordinal(6)}, []Leaver{ordinal(5)}, true, 0},
		"equal pods may go in any order":        {[]Leaver{pod(1, true)}, []Leaver{pod(1, true)}, false, 0},
		"nothing left, so nothing was violated": {nil, []Leaver{pod(2, true)}, false, 0},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got, reason := Judge(tc.left, tc.stayed, tc.stateful)
			if got != tc.want || (reason == "") != (got == 0) {
				t.Errorf("got %d (%s), want %d", got, reason, tc.want)
			}
		})
	}
}

func TestReturnPaysAfterTheBreakEven(t *testing.T) {
	unit := money.Amount(1_000_000_000)
	in := ReturnInput{Now: monday, PriceFrom: 3 * unit, PriceTo: unit, StartCost: unit / 2, Risk: unit / 2} // T = 30 min
	if even, ok := in.BreakEven(); !ok || even != 30*time.Minute {
		t.Fatalf("the break-even is %v, %v", even, ok)
	}
	cases := map[string]struct {
		change func(*ReturnInput)
		want   ReturnStep
	}{
		"no room":          {func(in *ReturnInput) {}, ReturnStay},
		"room for a while": {func(in *ReturnInput) { in.RoomSince = monday.Add(-20 * time.Minute) }, ReturnStay},
		"room for long":    {func(in *ReturnInput) { in.RoomSince = monday.Add(-31 * time.Minute) }, ReturnSurge},
		"room for long, but wanted soon": {func(in *ReturnInput) {
			in.RoomSince, in.RoomUntil = monday.Add(-2*time.Hour), monday.Add(20*time.Minute)
		}, ReturnStay},
		"room just now, and for the night":      {func(in *ReturnInput) { in.RoomSince, in.RoomUntil = monday, monday.Add(8*time.Hour) }, ReturnSurge},
		"a gate holds":                          {func(in *ReturnInput) { in.RoomSince, in.Held = monday.Add(-time.Hour), true }, ReturnStay},
		"it is not cheaper":                     {func(in *ReturnInput) { in.RoomSince, in.PriceTo = monday.Add(-time.Hour), 3*unit }, ReturnStay},
		"the new one is not ready":              {func(in *ReturnInput) { in.Surge = 1 }, ReturnWait},
		"the new one is ready":                  {func(in *ReturnInput) { in.Surge, in.NewReady = 1, true }, ReturnDrain},
		"the new one is ready but a gate holds": {func(in *ReturnInput) { in.Surge, in.NewReady, in.Held = 1, true, true }, ReturnWait},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			in := in
			tc.change(&in)
			if got, reason := Return(in); got != tc.want || reason == "" {
				t.Errorf("got %s (%s), want %s", got, reason, tc.want)
			}
		})
	}
}
