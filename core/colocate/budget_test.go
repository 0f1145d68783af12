package colocate

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

const tick = 100 * time.Millisecond

// steady is a machine of 8 cores with cpu.idle.
var steady = BudgetRule{CapacityMilli: 8000, Percent: 100, FloorMilli: 40}

// play runs a budget over a time; use returns what online uses at each tick.
func play(rule BudgetRule, inForce int64, over time.Duration, use func(time.Duration) float64, each func(time.Duration, float64, Ceiling)) *Budget {
	b := NewBudget(rule, inForce)
	for at := tick; at <= over; at += tick {
		online := max(use(at), 0)
		c := b.Next(Use{At: at, OnlineMilli: int64(online)}, Restraint{})
		if each != nil {
			each(at, online, c)
		}
	}
	return b
}

func square01(at, period time.Duration) float64 {
	if at%period < period/2 {
		return 0
	}
	return 1
}

// TestBatchDoesNotFlapUnderSquareWaves holds for waves of every period from 2 to 60
// s, small and large, with noise: at most one reversal a minute beyond the changes
// that really are.
func TestBatchDoesNotFlapUnderSquareWaves(t *testing.T) {
	for _, seconds := range []int{2, 3, 5, 7, 10, 12, 15, 20, 30, 45, 60} {
		for _, high := range []float64{0.22, 0.25, 0.3, 0.35, 0.5, 0.8} {
			for _, noise := range []float64{0, 0.01, 0.03} {
				for _, exposed := range []bool{false, true} {
					dice := rand.New(rand.NewPCG(uint64(seconds), uint64(high*1000)))
					rule := steady
					rule.Exposed = exposed
					period := time.Duration(seconds) * time.Second
					const minutes = 10
					b := play(rule, -1, minutes*time.Minute, func(at time.Duration) float64 {
						return 8000 * (0.2 + (high-0.2)*square01(at, period) + noise*dice.NormFloat64())
					}, nil)
					changes := int64(2 * minutes * 60 / seconds)
					if got := b.Reversals(); got > changes+minutes {
						t.Errorf("period %v, 20 to %.0f %%, noise %.0f %%, exposed %v: %d reversals in %d minutes, with %d true changes",
							period, high*100, noise*100, exposed, got, minutes, changes)
					}
					if high-0.2 > movingPart && b.Reversals() > minutes {
						t.Errorf("period %v, 20 to %.0f %%, noise %.0f %%, exposed %v: %d reversals in %d minutes under a wave that it should sit out",
							period, high*100, noise*100, exposed, b.Reversals(), minutes)
					}
				}
			}
		}
	}
}

func TestBatchDoesNotFlapUnderSteadyLoad(t *testing.T) {
	// Poisson arrivals of half a millisecond on two cores, as the bench has them.
	for _, load := range []float64{0.25, 0.5, 0.7} {
		dice := rand.New(rand.NewPCG(1, uint64(load*100)))
		rule := BudgetRule{CapacityMilli: 2000, Percent: 100, FloorMilli: 10}
		var offered, left float64
		b := play(rule, -1, 10*time.Minute, func(time.Duration) float64 {
			mean := 2 * load * tick.Seconds() / 0.0005 // requests in a tick
			return 1000 * (mean + math.Sqrt(mean)*dice.NormFloat64()) * 0.0005 / tick.Seconds()
		}, func(_ time.Duration, online float64, c Ceiling) {
			offered += float64(c.Milli)
			left += 2000 * (1 - load)
		})
		t.Logf("%.0f %%: %d reversals, %.3f offered", load*100, b.Reversals(), offered/left)
		if b.Reversals() > 10 {
			t.Errorf("at %.0f %% the ceiling turned %d times in 10 minutes", load*100, b.Reversals())
		}
		if offered/left < 0.9 {
			t.Errorf("at %.0f %% batch is offered %.0f %% of what online leaves, want 90 or more", load*100, 100*offered/left)
		}
	}
}

func TestAStepIsAnsweredAtOnce(t *testing.T) {
	for _, exposed := range []bool{false, true} {
		rule := steady
		rule.Exposed = exposed
		dice := rand.New(rand.NewPCG(3, 4))
		at := 2 * time.Minute
		play(rule, -1, at+time.Minute, func(now time.Duration) float64 {
			level := 0.2
			if now >= at {
				level = 0.8
			}
			return 8000 * (level + 0.005*dice.NormFloat64())
		}, func(now time.Duration, online float64, c Ceiling) {
			if now == at-tick && c.Milli < 5600 {
				t.Errorf("exposed %v: before the step batch has %d of 6400", exposed, c.Milli)
			}
			if now >= at && c.Milli > 8000-int64(online)+80 {
				t.Errorf("exposed %v: %v after the step batch has %d beside %.0f of 8000", exposed, now-at, c.Milli, online)
			}
			if now == at && !c.Moved {
				t.Errorf("exposed %v: the first sample of the step moved nothing", exposed)
			}
		})
	}
}

// TestAStepWithinASampleIsAnsweredByTheNext has steps that begin in the middle of a
// sample, which sees a part of them, and the noise of a small machine.
func TestAStepWithinASampleIsAnsweredByTheNext(t *testing.T) {
	const runs = 400
	late := 0
	for run := range uint64(runs) {
		dice := rand.New(rand.NewPCG(run, 5))
		step := 30*time.Second + time.Duration(dice.Int64N(int64(tick)))
		queue, slow := 0.0, false
		play(BudgetRule{CapacityMilli: 2000, Percent: 100, FloorMilli: 20}, -1, step+2*time.Second, func(at time.Duration) float64 {
			part := min(max(float64(at-step)/float64(tick), 0), 1)
			mean := 2 * (0.2 + 0.6*part) * tick.Seconds() / 0.001 // requests of a millisecond
			queue += (mean + math.Sqrt(mean)*dice.NormFloat64()) * 0.001
			did := min(queue, 0.19)
			queue -= did
			return 1000 * did / tick.Seconds()
		}, func(at time.Duration, _ float64, c Ceiling) {
			slow = slow || at > step+200*time.Millisecond && c.Milli > 2020-1600
		})
		if slow {
			late++
		}
	}
	if t.Logf("%d of %d steps took longer than 200 ms", late, runs); late > runs/10 {
		t.Errorf("%d of %d steps took longer than 200 ms", late, runs)
	}
}

// TestASpikeIsNoStep holds beside idle: batch falls at once when online needs the
// machine for a moment, and has back what it had when that was all.
func TestASpikeIsNoStep(t *testing.T) {
	for _, long := range []time.Duration{tick, 2 * tick} {
		dice := rand.New(rand.NewPCG(8, uint64(long)))
		at := time.Minute
		before := int64(0)
		play(steady, -1, at+time.Minute, func(now time.Duration) float64 {
			if now >= at && now < at+long {
				return 8000
			}
			return 8000 * (0.3 + 0.005*dice.NormFloat64())
		}, func(now time.Duration, _ float64, c Ceiling) {
			switch {
			case now == at-tick:
				before = c.Milli
			case now == at && c.Milli > 40:
				t.Errorf("a spike of %v: batch keeps %d", long, c.Milli)
			case now > at+spikeOver && (c.Milli > before || c.Milli < before-160):
				t.Errorf("a spike of %v: %v after it began batch has %d, before it had %d", long, now-at, c.Milli, before)
			}
		})
	}
}

func TestBatchComesBackSlowly(t *testing.T) {
	b := NewBudget(steady, 1000)
	was, at := int64(1000), time.Duration(0)
	for at = tick; at < 30*time.Second; at += tick {
		c := b.Next(Use{At: at, OnlineMilli: 800}, Restraint{})
		if at < 5*time.Second && c.Moved {
			t.Fatalf("it rose after %v, before 5 s", at)
		}
		if c.Milli-was > 401 {
			t.Fatalf("at %v it rose by %d at once", at, c.Milli-was)
		}
		was = c.Milli
	}
	if was < 7000 {
		t.Errorf("after 30 s batch has %d of 7200", was)
	}
}

func TestNothingIsTrusted(t *testing.T) {
	cases := map[string]struct {
		rule BudgetRule
		uses []Use
		r    Restraint
		want int64
		why  Reason
	}{
		"the first sample is lost":                   {steady, []Use{{At: tick, Lost: true}}, Restraint{}, 40, ReasonLost},
		"samples are lost for a second":              {steady, []Use{{At: tick}, {At: tick + time.Second, Lost: true}}, Restraint{}, 40, ReasonLost},
		"a sample is lost":                           {steady, []Use{{At: tick}, {At: 2 * tick, Lost: true}}, Restraint{}, 8000, ReasonHeld},
		"use is negative for a second":               {steady, []Use{{At: tick}, {At: tick + time.Second, OnlineMilli: -5}}, Restraint{}, 40, ReasonLost},
		"use is more than there is":                  {steady, []Use{{At: tick, OnlineMilli: 1 << 50}}, Restraint{}, 40, ReasonNothing},
		"time goes back":                             {steady, []Use{{At: time.Hour}, {At: time.Minute, OnlineMilli: 8000}}, Restraint{}, 8000, ReasonHeld},
		"batch is out":                               {BudgetRule{CapacityMilli: 8000, FloorMilli: 40}, []Use{{At: tick}}, Restraint{}, 40, ReasonOut},
		"a share beyond the machine is cut":          {BudgetRule{CapacityMilli: 1000, Percent: 400}, []Use{{At: tick}}, Restraint{}, 1000, ReasonFree},
		"a floor beyond the machine is cut":          {BudgetRule{CapacityMilli: 1000, Percent: 10, FloorMilli: 4000}, []Use{{At: tick}}, Restraint{}, 1000, ReasonNothing},
		"a machine without cores":                    {BudgetRule{CapacityMilli: -4, Percent: 50}, []Use{{At: tick}}, Restraint{}, 0, ReasonNothing},
		"slack caps":                                 {steady, []Use{{At: tick}}, Restraint{Capped: true, CapMilli: 500}, 500, ReasonSlack},
		"slack caps below the floor":                 {steady, []Use{{At: tick}}, Restraint{Capped: true, CapMilli: -500}, 40, ReasonNothing},
		"the machine slept":                          {steady, []Use{{At: tick}, {At: time.Hour, OnlineMilli: 6000}}, Restraint{}, 2000, ReasonFree},
		"system use counts as well as what pods use": {steady, []Use{{At: tick, SystemMilli: 6000}}, Restraint{}, 2000, ReasonFree},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			b := NewBudget(tc.rule, -1)
			var got Ceiling
			for _, u := range tc.uses {
				got = b.Next(u, tc.r)
			}
			if got.Milli != tc.want || got.Reason != tc.why {
				t.Errorf("the ceiling is %+v, want %d because %q", got, tc.want, tc.why)
			}
		})
	}
}

// FuzzBudget holds the laws of the fast loop whatever is observed: batch is never
// below its floor, never above the machine, never over what online left in the
// sample by more than the noise, and its ceiling rises by no more than a twentieth
// of the machine in a second.
func FuzzBudget(f *testing.F) {
	f.Add(uint64(1), int64(8000), int64(80), int64(100), int64(40), false, int64(-1))
	f.Add(uint64(2), int64(2000), int64(100), int64(0), int64(10), true, int64(500))
	f.Add(uint64(3), int64(-1), int64(200), int64(-4), int64(1)<<60, true, int64(1)<<60)
	f.Fuzz(func(t *testing.T, seed uint64, capacity, percent, guard, floor int64, exposed bool, inForce int64) {
		capacity %= 1 << 20
		rule := BudgetRule{capacity, percent, guard, floor, exposed}
		b, again := NewBudget(rule, inForce), NewBudget(rule, inForce)
		rule = rule.bounds()
		dice := rand.New(rand.NewPCG(seed, 7))
		at, was, high := time.Duration(0), int64(-1), int64(0)
		level := dice.Float64()
		var moves []Ceiling
		var when []time.Duration
		for range 600 {
			gap := time.Duration(dice.Int64N(int64(300 * time.Millisecond)))
			at += gap
			if dice.IntN(50) == 0 {
				level = dice.Float64() * 1.2
			}
			u := Use{At: at, OnlineMilli: int64(float64(rule.CapacityMilli) * (level + 0.02*dice.NormFloat64())), Lost: dice.IntN(40) == 0}
			r := Restraint{Capped: dice.IntN(10) == 0, CapMilli: dice.Int64N(10000) - 1000, NoGrowth: dice.IntN(4) == 0}
			c := b.Next(u, r)
			if other := again.Next(u, r); other != c {
				t.Fatalf("equal samples gave %+v and %+v", c, other)
			}
			if c.Milli < rule.FloorMilli || c.Milli > rule.CapacityMilli {
				t.Fatalf("the ceiling is %d, outside of %d to %d", c.Milli, rule.FloorMilli, rule.CapacityMilli)
			}
			if c.Moved != (c.Milli != was) && was >= 0 {
				t.Fatalf("the ceiling went from %d to %d and says moved: %v", was, c.Milli, c.Moved)
			}
			slip := rule.CapacityMilli / 100
			if !exposed {
				slip = c.MarginMilli
			}
			if over := c.Milli - max(rule.FloorMilli, c.LimitMilli-c.BusyMilli) - slip - 2; gap > 0 && !u.Lost && u.OnlineMilli >= 0 && over > 0 {
				t.Fatalf("the ceiling %+v is over what is free by %d", c, over)
			}
			jump := float64(u.OnlineMilli) - float64(c.BusyMilli)
			if exposed && gap > 0 && !u.Lost && jump > 0 && u.OnlineMilli <= rule.CapacityMilli {
				t.Fatalf("online uses %d and the budget reckons with %d", u.OnlineMilli, c.BusyMilli)
			}
			if c.Reason == ReasonSpike {
				if exposed || c.Milli > high {
					t.Fatalf("after a spike it has %d, before it had %d at most; exposed %v", c.Milli, high, exposed)
				}
				moves, when = nil, nil
			} else if was >= 0 && c.Milli > was && c.Milli > rule.FloorMilli {
				moves, when = append(moves, c), append(when, at)
				if n := len(moves); n > 1 && when[n-1]-when[n-2] < time.Second && moves[n-2].Milli < c.Milli {
					t.Fatalf("it rose twice within %v", when[n-1]-when[n-2])
				}
				if most := max(rule.CapacityMilli/20, 1); c.Milli-was > most+1 && was >= rule.FloorMilli {
					t.Fatalf("it rose by %d at once, from %d", c.Milli-was, was)
				}
			}
			was, high = c.Milli, max(high, c.Milli)
		}
	})
}
