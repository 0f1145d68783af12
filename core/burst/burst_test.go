package burst

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

var midnight = time.Date(2026, 9, 16, 0, 0, 0, 0, time.UTC)

func starts(n int, spread time.Duration, pools ...string) []Start {
	var out []Start
	for i := range n {
		out = append(out, Start{ID: fmt.Sprintf("pod-%04d", i), Group: fmt.Sprintf("job-%04d", i), Born: midnight, Spread: spread, Pools: pools, CPU: 250})
	}
	return out
}

func TestDecide(t *testing.T) {
	eci := Pool{Name: "eci", PerSecond: 20, Burst: 100, Bucket: Bucket{100, midnight}}
	full := eci
	full.Limit, full.InUse = 1000, 500
	cases := map[string]struct {
		in    Input
		want  int
		again time.Duration // after midnight; 0 for none
		waits map[Reason]int
	}{
		"nothing waits":                        {Input{Now: midnight, Pools: []Pool{eci}}, 0, 0, nil},
		"all start where nothing limits":       {Input{Now: midnight, Waiting: starts(3000, 0, "eci")}, 3000, 0, nil},
		"a burst takes the bucket":             {Input{Now: midnight, Pools: []Pool{eci}, Waiting: starts(3000, 0, "eci")}, 100, 50 * time.Millisecond, map[Reason]int{NoToken: 2900}},
		"a forgotten bucket is empty":          {Input{Now: midnight, Pools: []Pool{{Name: "eci", PerSecond: 20, Burst: 100}}, Waiting: starts(3, 0, "eci")}, 0, 50 * time.Millisecond, map[Reason]int{NoToken: 3}},
		"a limit lets in what has room":        {Input{Now: midnight, Pools: []Pool{full}, Waiting: starts(5, 0, "eci")}, 2, 0, map[Reason]int{NoRoom: 3}},
		"the slowest of several pools paces":   {Input{Now: midnight, Pools: []Pool{eci, {Name: "slow", PerSecond: 1, Burst: 2, Bucket: Bucket{2, midnight}}}, Waiting: starts(9, 0, "eci", "slow")}, 2, time.Second, map[Reason]int{NoToken: 7}},
		"a pool that nobody knows limits none": {Input{Now: midnight, Pools: []Pool{eci}, Waiting: starts(200, 0, "other")}, 200, 0, nil},
		"a deadline cuts the spread short": {Input{Now: midnight, Waiting: []Start{
			{ID: "a", Group: "a", Born: midnight, Spread: time.Hour, Deadline: midnight.Add(time.Second)}}}, 0, time.Second, map[Reason]int{Early: 1}},
		"a deadline that has passed starts it": {Input{Now: midnight, Waiting: []Start{
			{ID: "a", Group: "a", Born: midnight, Spread: time.Hour, Deadline: midnight.Add(-time.Hour)}}}, 1, 0, nil},
		"a negative spread is none": {Input{Now: midnight, Waiting: starts(2, -time.Hour)}, 2, 0, nil},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			d := Decide(tc.in)
			if len(d.Starts) != tc.want {
				t.Errorf("%d start, want %d", len(d.Starts), tc.want)
			}
			var again time.Duration
			if !d.Again.IsZero() {
				again = d.Again.Sub(midnight)
			}
			if again != tc.again {
				t.Errorf("again after %v, want %v", again, tc.again)
			}
			for _, r := range []Reason{Early, NoToken, NoRoom} {
				if d.Waits[r] != tc.waits[r] {
					t.Errorf("%d wait for %s, want %d", d.Waits[r], r, tc.waits[r])
				}
			}
		})
	}
}

func TestTheLargeAreNotStarved(t *testing.T) {
	waiting := starts(3, 0, "eci")
	waiting[0].CPU = 900 // first in line, and there is no room for it
	d := Decide(Input{Now: midnight, Pools: []Pool{{Name: "eci", Limit: 1000, InUse: 500}}, Waiting: waiting})
	if len(d.Starts) != 0 {
		t.Errorf("%v overtook a large one that waits", d.Starts)
	}
}

func TestWhatCanNeverStartHoldsUpNobody(t *testing.T) {
	waiting := starts(3, 0, "eci")
	waiting[0].CPU = 2000
	d := Decide(Input{Now: midnight, Pools: []Pool{{Name: "eci", Limit: 1000}}, Waiting: waiting})
	if len(d.Starts) != 2 || d.Waits[Never] != 1 {
		t.Errorf("%v start and %v wait, want the two small ones", d.Starts, d.Waits)
	}
}

func TestTheSpreadIsEven(t *testing.T) {
	var tenth [10]int
	for _, s := range starts(10_000, 10*time.Minute) {
		tenth[s.Due().Sub(midnight)/time.Minute]++
	}
	for i, n := range tenth {
		if n < 900 || n > 1100 {
			t.Errorf("%d of 10,000 are due in minute %d of ten", n, i)
		}
	}
}

// run lets time pass from one moment to the next that Decide names, as the
// controller does, with things that end meanwhile.
func run(dice *rand.Rand, pools []Pool, waiting []Start) (at map[string]time.Time) {
	at = map[string]time.Time{}
	now := midnight
	cpu := map[string]Start{}
	for range 100 * (len(waiting) + 1) {
		left := slices.DeleteFunc(slices.Clone(waiting), func(s Start) bool { _, ok := at[s.ID]; return ok })
		if len(left) == 0 {
			return at
		}
		dice.Shuffle(len(left), func(i, j int) { left[i], left[j] = left[j], left[i] })
		d := Decide(Input{Now: now, Pools: pools, Waiting: left})
		for i := range pools {
			pools[i].Bucket = d.Buckets[i]
		}
		for _, id := range d.Starts {
			at[id] = now
			i := slices.IndexFunc(waiting, func(s Start) bool { return s.ID == id })
			cpu[id] = waiting[i]
			for j := range pools {
				if slices.Contains(waiting[i].Pools, pools[j].Name) {
					pools[j].InUse += waiting[i].CPU
				}
			}
		}
		if d.Again.After(now) {
			now = d.Again
			continue
		}
		for id, s := range cpu { // all that runs ends
			for j := range pools {
				if slices.Contains(s.Pools, pools[j].Name) {
					pools[j].InUse -= s.CPU
				}
			}
			delete(cpu, id)
		}
		now = now.Add(time.Millisecond)
	}
	return at
}

func FuzzDecide(f *testing.F) {
	f.Add(uint64(1), uint8(50), 20.0, 100, int64(60_000), int64(0))
	f.Add(uint64(2), uint8(200), 0.5, 1, int64(0), int64(2000))
	f.Add(uint64(3), uint8(9), math.NaN(), -5, int64(-1), int64(1))
	f.Fuzz(func(t *testing.T, seed uint64, n uint8, perSecond float64, burst int, spreadMillis, limit int64) {
		if perSecond > 0 && perSecond < 0.01 || perSecond > 1e6 {
			return // waits for ages, or no limit at all
		}
		dice := rand.New(rand.NewPCG(seed, 7))
		spread := time.Duration(spreadMillis%86_400_000) * time.Millisecond
		pools := []Pool{{Name: "a", PerSecond: perSecond, Burst: burst, Limit: limit}, {Name: "b", PerSecond: 5, Burst: 3}}
		var waiting []Start
		for i := range int(n) {
			s := Start{ID: fmt.Sprint(i), Group: fmt.Sprint(i / 3), Born: midnight.Add(time.Duration(dice.IntN(60)) * time.Second), Spread: spread, CPU: 1 + dice.Int64N(500)}
			if limit > 0 {
				s.CPU = min(s.CPU, limit) // a larger one waits for ever, and should
			}
			s.Pools = [][]string{{"a"}, {"b"}, {"a", "b"}, nil}[dice.IntN(4)]
			if dice.IntN(3) == 0 {
				s.Deadline = s.Born.Add(time.Duration(dice.IntN(600)) * time.Second)
			}
			waiting = append(waiting, s)
		}
		at := run(dice, slices.Clone(pools), waiting)
		// None is lost, none is early, and none is spread beyond its deadline.
		for _, s := range waiting {
			started, ok := at[s.ID]
			if !ok {
				t.Fatalf("%+v never started", s)
			}
			if due := s.Due(); started.Before(due) || due.Before(s.Born) || due.After(s.Born.Add(max(spread, 0))) {
				t.Fatalf("%+v is due at %v and started at %v", s, due, started)
			}
			if !s.Deadline.IsZero() && s.Due().After(s.Deadline) {
				t.Fatalf("%+v is due at %v", s, s.Due())
			}
		}
		// No pool is overrun in any stretch of time.
		for _, p := range pools {
			if !(p.PerSecond > 0) {
				continue
			}
			var took []time.Time
			for _, s := range waiting {
				if slices.Contains(s.Pools, p.Name) {
					took = append(took, at[s.ID])
				}
			}
			slices.SortFunc(took, time.Time.Compare)
			for i := range took {
				for j := i; j < len(took); j++ {
					allowed := float64(max(p.Burst, 1)) + took[j].Sub(took[i]).Seconds()*p.PerSecond + 1e-6
					if float64(j-i+1) > allowed {
						t.Fatalf("%d starts in pool %s within %v, and it takes %v", j-i+1, p.Name, took[j].Sub(took[i]), allowed)
					}
				}
			}
		}
	})
}

func TestTheOrderOfTheListDoesNotMatter(t *testing.T) {
	dice := rand.New(rand.NewPCG(1, 2))
	waiting := starts(300, time.Minute, "eci")
	in := Input{Now: midnight.Add(30 * time.Second), Pools: []Pool{{Name: "eci", PerSecond: 20, Burst: 50, Bucket: Bucket{50, midnight}}}, Waiting: waiting}
	want := Decide(in).Starts
	for range 20 {
		dice.Shuffle(len(waiting), func(i, j int) { waiting[i], waiting[j] = waiting[j], waiting[i] })
		if got := Decide(in).Starts; !slices.Equal(got, want) {
			t.Fatalf("%v start, and %v in another order", got, want)
		}
	}
}

func TestAClockThatJumps(t *testing.T) {
	pool := Pool{Name: "eci", PerSecond: 20, Burst: 100, Bucket: Bucket{0, midnight}}
	back := Decide(Input{Now: midnight.Add(-time.Hour), Pools: []Pool{pool}, Waiting: starts(5, 0, "eci")})
	if len(back.Starts) != 0 || back.Buckets[0].Tokens != 0 {
		t.Errorf("an hour back gives tokens: %+v", back)
	}
	pool.Bucket = back.Buckets[0]
	forth := Decide(Input{Now: midnight.Add(1000 * time.Hour), Pools: []Pool{pool}, Waiting: starts(500, 0, "eci")})
	if len(forth.Starts) != 100 {
		t.Errorf("1000 hours on %d start, want the burst of 100", len(forth.Starts))
	}
}

func BenchmarkDecide(b *testing.B) {
	in := Input{Now: midnight, Pools: []Pool{{Name: "eci", PerSecond: 20, Burst: 100, Bucket: Bucket{100, midnight}}}, Waiting: starts(3000, 0, "eci")}
	for b.Loop() {
		Decide(in)
	}
}

// TestHoweverTheyBunchTheProviderRefusesNone lets starts reach the provider after
// random delays, whole batches at once among them, and be seen there later still.
func TestHoweverTheyBunchTheProviderRefusesNone(t *testing.T) {
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 7))
		rate, size := float64(1+r.IntN(30)), 1+r.IntN(60)
		now := time.Unix(1_000_000, 0)
		provider, at := float64(size), now
		var bucket Bucket
		var coming, seen []time.Time // when they reach the provider, and when that is known
		left, refused := 300, 0
		for step := 0; left > 0 && step < 200_000; step++ {
			now = now.Add(time.Duration(10+r.IntN(400)) * time.Millisecond)
			slices.SortFunc(coming, time.Time.Compare)
			for len(coming) > 0 && !coming[0].After(now) {
				provider = min(float64(size), provider+coming[0].Sub(at).Seconds()*rate)
				at = coming[0]
				if provider < 1-1e-9 {
					refused++
				}
				provider--
				coming = coming[1:]
			}
			known := 0
			for _, s := range seen {
				if s.After(now) {
					known++
				}
			}
			in := Input{Now: now, Pools: []Pool{{Name: "p", PerSecond: rate, Burst: size, Bucket: bucket, Coming: known}}}
			for i := range left {
				in.Waiting = append(in.Waiting, Start{ID: fmt.Sprint(i), Born: now, Pools: []string{"p"}})
			}
			d := Decide(in)
			bucket, left = d.Buckets[0], left-len(d.Starts)
			late := time.Duration(r.IntN(3000)) * time.Millisecond
			for range d.Starts {
				reach := now.Add(late)
				if r.IntN(3) == 0 {
					reach = now.Add(time.Duration(r.IntN(5000)) * time.Millisecond)
				}
				coming = append(coming, reach)
				seen = append(seen, reach.Add(time.Duration(r.IntN(500))*time.Millisecond))
			}
		}
		if refused > 0 || left > 0 {
			t.Fatalf("seed %d, %v a second, burst %d: %d refused, %d left", seed, rate, size, refused, left)
		}
	}
}
