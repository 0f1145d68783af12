package colocate

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

const look = 5 * time.Second

func TestSlackIsWhatIsLeftOfTheTarget(t *testing.T) {
	for _, tc := range []struct{ value, target, want int64 }{
		{0, 100, 1000}, {80, 100, 200}, {100, 100, 0}, {150, 100, -500}, {5, 0, 1000}, {-7, 100, 1000},
		{1 << 62, 1, 1000 - 1000*1000}, {1 << 62, 1 << 62, 0},
	} {
		if got := (Signal{Value: tc.value, Target: tc.target}).Slack(); got != tc.want {
			t.Errorf("the slack of %d of %d is %d, want %d", tc.value, tc.target, got, tc.want)
		}
	}
}

// feel is what workload w feels of a target of 1000.
func feel(w string, value int64) Signal {
	return Signal{Workload: w, Kind: "p99", Value: value, Target: 1000}
}

func TestSlackHoldsBatchBackByWhatIsMissing(t *testing.T) {
	s := NewSlack(SlackRule{CapacityMilli: 8000, FloorMilli: 40, CoolDown: time.Minute, Exposed: true})
	at := time.Duration(0)
	step := func(want Restraint, signals ...Signal) SlackVerdict {
		t.Helper()
		at += look
		v := s.Look(at, signals, 4000)
		if v.Restraint != want {
			t.Fatalf("at %v of %v: %+v, want %+v", at, signals, v.Restraint, want)
		}
		if want != (Restraint{}) && v.Why == "" && !v.Capped {
			t.Fatalf("at %v it does not say why", at)
		}
		return v
	}
	step(Restraint{})
	step(Restraint{}, feel("a", 100))
	step(Restraint{NoGrowth: true}, feel("a", 920))
	step(Restraint{NoGrowth: true, Capped: true, CapMilli: 3200}, feel("a", 960), feel("b", 0))
	if v := step(Restraint{Capped: true, CapMilli: 40}, feel("a", 1200), feel("b", 0)); !v.Missed || v.Worst.Workload != "a" {
		t.Errorf("the verdict is %+v", v)
	}
	for at < 90*time.Second-look {
		if at-25*time.Second < time.Minute-look {
			step(Restraint{NoGrowth: true, Capped: true, CapMilli: 40}, feel("a", 100))
			continue
		}
		break
	}
	// Twice as much up to half of the 4000 it had, then by a twentieth of the machine.
	step(Restraint{Capped: true, CapMilli: 440}, feel("a", 100))
	step(Restraint{Capped: true, CapMilli: 440}, feel("a", 850)) // neither fine nor scarce
	step(Restraint{Capped: true, CapMilli: 440, NoGrowth: true}) // nothing is heard
	for _, want := range []int64{880, 1760, 2160, 2560} {
		step(Restraint{Capped: true, CapMilli: want}, feel("a", 100))
	}
	for range 13 {
		s.Look(at, []Signal{feel("a", 1)}, 4000)
	}
	step(Restraint{}, feel("a", 1))
}

// TestIdleMakesBatchAWitnessFirst holds where cpu.idle stands before online: one bad
// look is not believed, scarce slack takes nothing away, a target missed by far or
// twice does; and batch stays down for long only when it does so again and again.
func TestIdleMakesBatchAWitnessFirst(t *testing.T) {
	s := NewSlack(SlackRule{CapacityMilli: 8000, FloorMilli: 40, CoolDown: 5 * time.Minute})
	at := time.Duration(0)
	step := func(want Restraint, value int64) SlackVerdict {
		t.Helper()
		at += look
		v := s.Look(at, []Signal{feel("a", value)}, 4000)
		if v.Restraint != want {
			t.Fatalf("at %v, feeling %d: %+v, want %+v", at, value, v.Restraint, want)
		}
		return v
	}
	floor := Restraint{Capped: true, CapMilli: 40}
	waits := Restraint{Capped: true, CapMilli: 40, NoGrowth: true}
	step(Restraint{}, 990)
	if v := step(Restraint{NoGrowth: true}, 1300); v.Missed || v.Why == "" {
		t.Errorf("one bad look: %+v", v)
	}
	step(Restraint{}, 700)
	step(Restraint{NoGrowth: true}, 1300)
	if v := step(floor, 1300); !v.Missed {
		t.Errorf("two bad looks: %+v", v)
	}
	down := func() (cool time.Duration) { // until batch may rise again
		began := at
		for at-began < time.Hour {
			at += look
			if v := s.Look(at, []Signal{feel("a", 100)}, 40); v.Restraint != waits {
				return at - began
			}
		}
		return time.Hour
	}
	for i, want := range []time.Duration{30 * time.Second, time.Minute, 2 * time.Minute, 4 * time.Minute, 5 * time.Minute, 5 * time.Minute} {
		if i > 0 {
			step(floor, 2500) // by far
		}
		if got := down(); got != want {
			t.Errorf("offence %d: batch stays down for %v, want %v", i+1, got, want)
		}
	}
	at += time.Hour
	step(floor, 2500)
	if got := down(); got != 30*time.Second {
		t.Errorf("after an hour of peace batch stays down for %v", got)
	}
}

func TestWhoFeelsTheSameWithoutBatchIsNotHeard(t *testing.T) {
	s := NewSlack(SlackRule{CapacityMilli: 8000, FloorMilli: 40, CoolDown: 0, Exposed: true})
	var v SlackVerdict
	for i := range 5 {
		v = s.Look(time.Duration(i+1)*look, []Signal{feel("slow", 2000), feel("hurt", 2000-int64(i)*200)}, 4000)
		if want := i >= 2; v.Stronger != want {
			t.Errorf("look %d: stronger is %v", i+1, v.Stronger)
		}
	}
	if !slices.Equal(v.Acquitted, []string{"slow"}) {
		t.Fatalf("acquitted are %q, want slow, for which nothing changed", v.Acquitted)
	}
	if v = s.Look(6*look, []Signal{feel("slow", 2000), feel("hurt", 500)}, 40); v.Missed || !v.Capped || v.CapMilli != 440 {
		t.Errorf("with only the acquitted missing its target: %+v, want batch to rise", v)
	}
	at := 5 * look
	for _, minutes := range []int{1, 2, 4} { // it counts again when it is fine, later each time
		until := at + time.Duration(minutes)*time.Minute
		for at += look; at < until; at += look {
			if v = s.Look(at, []Signal{feel("slow", 2000), feel("hurt", 0)}, 40); v.Missed {
				t.Fatalf("at %v it is heard, before %v: %+v", at, until, v)
			}
			if v = s.Look(at, []Signal{feel("slow", 100)}, 40); !slices.Equal(v.Acquitted, []string{"slow"}) {
				t.Fatalf("at %v the acquitted are %q, before %v", at, v.Acquitted, until)
			}
		}
		if v = s.Look(at, []Signal{feel("slow", 100)}, 40); len(v.Acquitted) != 0 {
			t.Errorf("at %v it is fine again, and still acquitted: %+v", at, v)
		}
		for i := range 5 {
			at += look
			if v = s.Look(at, []Signal{feel("slow", 2000)}, 40); v.Missed != (i < 4) {
				t.Errorf("look %d since it counts again: %+v", i+1, v)
			}
		}
		if v.Capped || v.Stronger || !slices.Equal(v.Acquitted, []string{"slow"}) {
			t.Errorf("acquitted once more, batch is restrained: %+v", v)
		}
	}
}

func TestTheLadderIsClimbedRungByRung(t *testing.T) {
	all := Means{true, true, true, true, true, true}
	var l Ladder
	at := time.Duration(0)
	step := func(trouble Trouble, may Means, want Rung, wantAct bool) {
		t.Helper()
		at += look
		if got, act := l.Next(at, trouble, may); got != want || act != wantAct {
			t.Fatalf("at %v: %v, act %v; want %v, %v", at, got, act, want, wantAct)
		}
	}
	fine, bound, hurt, short := Trouble{Batch: true}, Trouble{Batch: true, Bound: true}, Trouble{Batch: true, Stronger: true}, Trouble{Batch: true, Short: true}
	step(Trouble{}, all, RungNone, false)
	step(fine, all, RungIdle, false)
	step(bound, all, RungQuota, false)
	step(bound, Means{true, true}, RungIdle, false)
	step(bound, Means{true}, RungNone, false)
	step(hurt, all, RungMemory, true)
	step(hurt, all, RungMemory, false)
	step(hurt, all, RungFreeze, true)
	step(hurt, all, RungFreeze, false)
	step(hurt, all, RungEvict, true)
	step(hurt, all, RungEvict, false)
	step(hurt, all, RungEvict, true) // one more
	for range 11 {
		step(fine, all, RungEvict, false)
	}
	step(fine, all, RungFreeze, false)
	l = Ladder{}
	step(short, all, RungMemory, true)
	step(short, all, RungMemory, false)
	step(short, all, RungEvict, true) // freezing frees no memory
	step(short, Means{true, true, true}, RungIdle, false)
	l = Ladder{}
	step(hurt, Means{true, true, true, false, true, false}, RungFreeze, true)
	step(hurt, Means{true, true, true, false, false, false}, RungIdle, false) // its time is up
	step(Trouble{}, all, RungNone, false)
}

// FuzzLadder holds the ladder's laws whatever happens: it is never on a rung that is
// not allowed, and acts only where there is trouble and batch.
func FuzzLadder(f *testing.F) {
	f.Add([]byte{0xff, 1, 2, 3, 4, 0xff, 0x3f})
	f.Fuzz(func(t *testing.T, script []byte) {
		var l Ladder
		for i := 0; i+1 < len(script); i += 2 {
			at := time.Duration(i) * time.Second
			var may Means
			for r := range may {
				may[r] = script[i]>>r&1 == 1
			}
			may[RungNone] = true
			b := script[i+1]
			got, act := l.Next(at, Trouble{Batch: b&1 > 0, Bound: b&2 > 0, Short: b&4 > 0, Stronger: b&8 > 0}, may)
			if !may[got] {
				t.Fatalf("at %v it is on %v, which is not allowed", at, got)
			}
			if act && b&1 == 0 {
				t.Fatalf("at %v it acts without batch", at)
			}
			if act && b&12 == 0 {
				t.Fatalf("at %v it acts without trouble", at)
			}
			if got == RungFreeze && act && b&4 > 0 && b&8 == 0 {
				t.Fatalf("at %v it freezes for want of memory", at)
			}
		}
	})
}

func TestEvictionsAreBounded(t *testing.T) {
	now := time.Date(2026, 11, 11, 20, 0, 0, 0, time.UTC)
	past := []time.Time{now.Add(-90 * time.Minute), now.Add(-50 * time.Minute), now.Add(-10 * time.Minute)}
	for name, tc := range map[string]struct {
		past    []time.Time
		perHour int64
		wait    time.Duration
		ok      bool
	}{
		"none before":                   {nil, 1, 0, true},
		"none are allowed":              {nil, 0, time.Hour, false},
		"a negative rate allows none":   {nil, -3, time.Hour, false},
		"the hour has room":             {past, 3, 0, true},
		"the hour is full":              {past, 2, 10 * time.Minute, false},
		"the hour is more than full":    {past, 1, 50 * time.Minute, false},
		"the clock was set back a year": {[]time.Time{now.AddDate(1, 0, 0)}, 1, time.Hour, false},
	} {
		if wait, ok := MayEvict(tc.past, now, tc.perHour); wait != tc.wait || ok != tc.ok {
			t.Errorf("%s: wait %v, %v; want %v, %v", name, wait, ok, tc.wait, tc.ok)
		}
	}
}

// TestEvictLosesLittle compares the choice with all choices there are.
func TestEvictLosesLittle(t *testing.T) {
	now := time.Date(2026, 11, 11, 20, 0, 0, 0, time.UTC)
	dice := rand.New(rand.NewPCG(5, 6))
	var lost, least int64
	for range 300 {
		var running []Task
		for i := range 1 + dice.IntN(8) {
			running = append(running, Task{Name: string(rune('a' + i)), Need: Room{100 * (1 + dice.Int64N(40)), 1 + dice.Int64N(100)},
				Started: now.Add(-time.Duration(dice.Int64N(int64(2 * time.Hour))))})
		}
		need := Room{dice.Int64N(8000), dice.Int64N(200)}
		got := Evict(running, need, now)
		sum, cost := Room{}, int64(0)
		for _, i := range got {
			sum, cost = sum.Add(running[i].Need), cost+running[i].Lost(now)
		}
		best, all := int64(-1), Room{}
		for _, task := range running {
			all = all.Add(task.Need)
		}
		for set := range 1 << len(running) {
			r, c := Room{}, int64(0)
			for i, task := range running {
				if set>>i&1 == 1 {
					r, c = r.Add(task.Need), c+task.Lost(now)
				}
			}
			if need.Fits(r) && (best < 0 || c < best) {
				best = c
			}
		}
		if best < 0 {
			continue
		}
		if !need.Fits(sum) {
			t.Fatalf("evicting %v of %v frees %v, want %v", got, running, sum, need)
		}
		for _, i := range got {
			if need.Fits(sum.Sub(running[i].Need)) {
				t.Fatalf("evicting %v of %v: %d is not needed for %v", got, running, i, need)
			}
		}
		lost, least = lost+cost, least+best
	}
	if float64(lost) > 1.5*float64(least) {
		t.Errorf("the choices lose %d, the best ones %d", lost, least)
	} else {
		t.Logf("the choices lose %.2f times what the best ones do", float64(lost)/float64(least))
	}
}

func TestFreezingIsBounded(t *testing.T) {
	const most = 5 * time.Minute
	for name, tc := range map[string]struct {
		f    Freeze
		now  time.Duration
		most time.Duration
		want bool
	}{
		"never frozen":               {Freeze{}, time.Hour, most, true},
		"it does not allow it":       {Freeze{}, time.Hour, 0, false},
		"it is frozen and has time":  {Freeze{At: time.Hour}, time.Hour + most - 1, most, true},
		"it is frozen and has none":  {Freeze{At: time.Hour}, time.Hour + most, most, false},
		"it was let go a moment ago": {Freeze{At: time.Hour, Till: time.Hour + time.Minute}, time.Hour + 2*time.Minute, most, false},
		"it was let go long ago":     {Freeze{At: time.Hour, Till: time.Hour + time.Minute}, time.Hour + 6*time.Minute, most, true},
		"the clock is behind":        {Freeze{At: time.Hour}, time.Minute, most, false},
	} {
		if got := tc.f.MayFreeze(tc.now, tc.most); got != tc.want {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}
