package elastic

import (
	"math"
	"math/rand"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/neap-dev/neap/core/quality"
)

var monday = time.Date(2026, 11, 23, 18, 0, 0, 0, time.UTC)

// load is a metric of the whole workload; one replica should have 0.6 of it.
func load(total float64) []Metric { return []Metric{{Name: "load", Total: total, PerReplica: 0.6}} }

// base is a policy without rules that make a test wait.
func base() Policy {
	p := Defaults(1, 100)
	p.Unit = 0.6
	p.Reactive.Down.Stabilize = 0
	p.Reactive.Up.Rates = nil
	return p
}

func floorOf(n int) Schedule {
	return Schedule{Name: "evening", Start: 18 * time.Hour, Duration: 4 * time.Hour, Floor: n, Cap: None}
}

func TestDecide(t *testing.T) {
	pin := func(n int) ManualEntry {
		return ManualEntry{Name: "exam", Pin: n, Floor: None, Cap: None, By: "li", Reason: "exam week", Until: monday.Add(time.Hour)}
	}
	limit := func(n int) ManualEntry { return ManualEntry{Name: "budget", Pin: None, Floor: None, Cap: n} }

	cases := map[string]struct {
		change     func(*Input)
		want       int
		wantWinner Layer
		wantGate   Gate
		wantReason string // a part of it
	}{
		"the load decides alone": {
			func(in *Input) { in.Metrics = load(12) }, 20, LayerReactive, GateNone, "the load (load) needs 20"},
		"a change within the tolerance is not made": {
			func(in *Input) { in.Metrics = load(6.2) }, 10, LayerReactive, GateNone, "keep 10"},
		"the clock's floor is above the load": {
			func(in *Input) { in.Policy.Schedules = []Schedule{floorOf(30)} }, 30, LayerCron, GateNone, "cron evening has a floor of 30 until Mon 22:00 UTC"},
		"outside of its window the clock says nothing": {
			func(in *Input) {
				in.Policy.Schedules = []Schedule{floorOf(30)}
				in.Now = monday.Add(-time.Hour)
			}, 10, LayerReactive, GateNone, ""},
		"a pin is the whole answer": {
			func(in *Input) {
				in.Policy.Manual = []ManualEntry{pin(3)}
				in.Policy.Schedules = []Schedule{floorOf(30)}
				in.Rollout = true
			}, 3, LayerManual, GateNone, "li pinned it to 3 until Mon 19:00 UTC (exam week)"},
		"a pin goes beyond max": {
			func(in *Input) { in.Policy.Manual = []ManualEntry{pin(300)} }, 300, LayerManual, GateNone, ""},
		"a pin that is over is over": {
			func(in *Input) {
				in.Policy.Manual = []ManualEntry{pin(3)}
				in.Now = monday.Add(time.Hour)
			}, 10, LayerReactive, GateNone, ""},
		"a hard cap wins over a floor": {
			func(in *Input) {
				in.Policy.Manual = []ManualEntry{limit(12)}
				in.Policy.Schedules = []Schedule{floorOf(30)}
			}, 12, LayerManual, GateNone, "somebody set a cap of 12"},
		"a hard cap does not wait for metrics": {
			func(in *Input) {
				in.Policy.Manual = []ManualEntry{limit(5)}
				in.Metrics = load(math.NaN())
			}, 5, LayerManual, GateMetrics, "from 10 to 5 replicas: somebody set a cap of 5; no fewer, for the metric \"load\" is gone"},
		"max is a hard cap": {
			func(in *Input) { in.Metrics = load(600) }, 100, LayerBounds, GateNone, "the policy allows 1 to 100"},
		"min is a floor": {
			func(in *Input) { in.Policy.Min = 15 }, 15, LayerBounds, GateNone, ""},
		"classes ask before their load is there": {
			func(in *Input) { in.Class = Class{Demand: 30, In: true, Reason: "2 classes bring 30"} }, 50, LayerTimetable, GateNone, "2 classes bring 30, which needs 50"},
		"the forecast lifts": {
			func(in *Input) { in.Forecast = Forecast{Demand: 9} }, 15, LayerForecast, GateNone, "the forecast expects 9, which needs 15"},
		"the forecast never lowers": {
			func(in *Input) { in.Forecast = Forecast{Demand: 1} }, 10, LayerReactive, GateNone, ""},
		"a wrong forecast does bounded damage": {
			func(in *Input) { in.Forecast = Forecast{Demand: 59} }, 30, LayerForecast, GateNone, "may lift to no more than 30 (3 × 10)"},
		"in a class the forecast may lift as it likes": {
			func(in *Input) { in.Forecast, in.Class.In = Forecast{Demand: 59}, true }, 99, LayerForecast, GateNone, ""},
		"a forecast that is not a number says nothing": {
			func(in *Input) { in.Forecast = Forecast{Demand: math.NaN(), Return: math.NaN(), Soon: math.NaN()} }, 10, LayerReactive, GateNone, ""},
		"less load takes away": {
			func(in *Input) { in.Metrics = load(3) }, 5, LayerReactive, GateNone, "from 10 to 5 replicas"},
		"metrics that are gone take nothing away": {
			func(in *Input) { in.Metrics = load(math.NaN()) }, 10, LayerHold, GateMetrics, "keep 10 replicas: the metric \"load\" is gone"},
		"a metric without a name too": {
			func(in *Input) { in.Metrics = []Metric{{Total: math.NaN(), PerReplica: 1}} }, 10, LayerHold, GateMetrics, ""},
		"late metrics are gone": {
			func(in *Input) {
				in.Metrics = load(3)
				in.Metrics[0].At = in.Now.Add(-time.Hour)
			}, 10, LayerHold, GateMetrics, ""},
		"metrics from the future are gone": {
			func(in *Input) {
				in.Metrics = load(3)
				in.Metrics[0].At = in.Now.Add(time.Hour)
			}, 10, LayerHold, GateMetrics, ""},
		"one metric of two that is gone takes nothing away": {
			func(in *Input) { in.Metrics = append(load(3), load(math.Inf(1))...) }, 10, LayerHold, GateMetrics, ""},
		"but the other may add": {
			func(in *Input) { in.Metrics = append(load(12), load(math.Inf(1))...) }, 20, LayerReactive, GateNone, ""},
		"without metrics the clock's floor still adds": {
			func(in *Input) {
				in.Metrics = load(math.NaN())
				in.Policy.Schedules = []Schedule{floorOf(30)}
			}, 30, LayerCron, GateNone, ""},
		"the metric that wants most counts": {
			func(in *Input) { in.Metrics = append(load(12), load(15)...) }, 25, LayerReactive, GateNone, ""},
		"a policy that follows no metric is level-triggered": {
			func(in *Input) { in.Metrics = nil }, 1, LayerBounds, GateNone, ""},
		"a rollout takes nothing away": {
			func(in *Input) { in.Metrics, in.Rollout = load(3), true }, 10, LayerHold, GateRollout, "a rollout is in progress"},
		"but may add": {
			func(in *Input) { in.Metrics, in.Rollout = load(12), true }, 20, LayerReactive, GateNone, ""},
		"a broken guard takes nothing away": {
			func(in *Input) { in.Metrics, in.Guard = load(3), quality.Broken }, 10, LayerHold, GateGuard, "guard"},
		"a guard that cannot be judged takes nothing away": {
			func(in *Input) { in.Metrics, in.Guard = load(3), quality.Unknown }, 10, LayerHold, GateGuard, ""},
		"but without any load there is nothing to judge": {
			func(in *Input) { in.Metrics, in.Guard = load(0), quality.Unknown }, 1, LayerBounds, GateNone, ""},
		"a guard that is met lets go": {
			func(in *Input) { in.Metrics, in.Guard = load(3), quality.Met }, 5, LayerReactive, GateNone, ""},
		"a class that comes soon keeps replicas": {
			func(in *Input) {
				in.Metrics = load(3)
				in.Class = Class{Next: in.Now.Add(9 * time.Minute), Needs: 4.8}
			}, 8, LayerHold, GateSoon, "wanted again soon"},
		"a class later on does not": {
			func(in *Input) {
				in.Metrics = load(3)
				in.Class = Class{Next: in.Now.Add(11 * time.Minute), Needs: 4.8}
			}, 5, LayerReactive, GateNone, ""},
		"a cron window that comes soon keeps replicas": {
			func(in *Input) {
				in.Metrics = load(3)
				in.Now = monday.Add(-9 * time.Minute)
				in.Policy.Schedules = []Schedule{floorOf(30)}
			}, 10, LayerHold, GateSoon, ""},
		"a forecast of more soon keeps replicas": {
			func(in *Input) { in.Metrics, in.Forecast = load(3), Forecast{Demand: 3, Soon: 4.2} }, 7, LayerHold, GateSoon, ""},
		"a burst is a panic": {
			func(in *Input) { in.Metrics[0].Burst = 15 }, 25, LayerPanic, GateNone, "a burst asked for 25"},
		"a step bounds what goes at once": {
			func(in *Input) { in.Metrics, in.Policy.ScaleIn.Step = load(3), 0.2 }, 8, LayerHold, GateRate, "no more may go at once"},
		"a soft cap bounds what is measured": {
			func(in *Input) {
				in.Metrics = load(12)
				s := floorOf(None)
				s.Cap = 14
				in.Policy.Schedules = []Schedule{s}
			}, 14, LayerCron, GateNone, "cap of 14"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			in := Input{Policy: base(), Now: monday, Current: 10, Ready: 10, Metrics: load(6)}
			tc.change(&in)
			d := Decide(in)
			if d.Desired != tc.want || d.Winner != tc.wantWinner || d.Gate != tc.wantGate {
				t.Errorf("got %d by %s with gate %q, want %d by %s with gate %q", d.Desired, d.Winner, d.Gate, tc.want, tc.wantWinner, tc.wantGate)
			}
			if !strings.Contains(d.Reason, tc.wantReason) {
				t.Errorf("the reason is %q, want it to say %q", d.Reason, tc.wantReason)
			}
			if n := d.ByLayer[len(d.ByLayer)-1]; n.Layer != LayerBounds {
				t.Errorf("the last claim is %+v, want the bounds", n)
			}
		})
	}
}

// minutes is a workload that does at once what it is told.
type minutes struct {
	in Input
	d  Decision
}

// tick lets a minute pass with some demand.
func (w *minutes) tick(demand float64) Decision {
	w.in.Now = w.in.Now.Add(time.Minute)
	w.in.Metrics = load(demand)
	w.d = Decide(w.in)
	w.in.State = w.d.Next
	w.in.Current, w.in.Ready = w.d.Desired, w.d.Desired
	return w.d
}

func start(p Policy, current int) *minutes {
	return &minutes{in: Input{Policy: p, Now: monday, Current: current, Ready: current}}
}

func TestScaleInWaitsForTheStabilisation(t *testing.T) {
	p := base()
	p.Reactive.Down.Stabilize = 5 * time.Minute
	w := start(p, 10)
	w.tick(12)
	for i := range 6 {
		if d := w.tick(3); (d.Desired == 20) != (i < 5) {
			t.Fatalf("minute %d: %d, %s", i, d.Desired, d.Reason)
		}
	}
	if w.d.Desired != 5 {
		t.Errorf("after more than five minutes: %d, %s", w.d.Desired, w.d.Reason)
	}
}

func TestTheKnownEndOfAClassDoesNotWait(t *testing.T) {
	p := base()
	p.Reactive.Down.Stabilize = 5 * time.Minute
	w := start(p, 20)
	w.tick(12)
	w.tick(12)
	w.in.Class.Ended = w.in.Now.Add(30 * time.Second)
	if d := w.tick(3); d.Desired != 5 {
		t.Errorf("the class is over: %d, %s", d.Desired, d.Reason)
	}
}

func TestAForecastThatSeesNoReturnDoesNotWait(t *testing.T) {
	p := base()
	p.Reactive.Down.Stabilize = 5 * time.Minute
	w := start(p, 20)
	w.tick(12)
	w.in.Forecast = Forecast{Demand: 3, Return: 4.8}
	if d := w.tick(3); d.Desired != 8 {
		t.Errorf("no more than 8 return: %d, %s", d.Desired, d.Reason)
	}
}

func TestWhereClassesAreAnnouncedTheForecastFearsLess(t *testing.T) {
	wary := Forecast{Demand: 30, Return: 30, Announced: 18, Usual: 30}
	cases := map[string]struct {
		class Class
		want  int
	}{
		"without a timetable all that is feared counts": {Class{}, 30},
		"a class is on":             {Class{In: true}, 18},
		"the next class is known":   {Class{Next: monday.Add(time.Hour)}, 18},
		"a class has just ended":    {Class{Ended: monday.Add(-time.Hour)}, 18},
		"a class asks for yet more": {Class{In: true, Demand: 25}, 25},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			p := Defaults(1, 100)
			p.Unit, p.Forecast.Tolerance = 1, Tolerance{}
			got := Decide(Input{Policy: p, Now: monday, Current: 10, Ready: 10, Metrics: []Metric{{Total: 10, PerReplica: 1}}, Forecast: wary, Class: tc.class})
			if got.Desired != tc.want {
				t.Errorf("%d desired, want %d: %s", got.Desired, tc.want, got.Reason)
			}
		})
	}
}

// What the forecast may lift by must not grow with what it has lifted.
func TestALiftIsNotLiftedAgain(t *testing.T) {
	p := base()
	p.Reactive.Down.Stabilize = 5 * time.Minute
	w := start(p, 10)
	w.tick(6)
	w.in.State.Reactive.Recommended[0].Replicas = 20 // more than was ever there
	w.in.Forecast = Forecast{Demand: 59}
	for range 3 {
		if d := w.tick(1); d.Desired > 3*20 {
			t.Fatalf("%d: %s", d.Desired, d.Reason)
		}
	}
}

func TestARestartTakesNothingAwayAtOnce(t *testing.T) {
	p := base()
	p.Reactive.Down.Stabilize = 5 * time.Minute
	for name, jump := range map[string]time.Duration{"a restart": 0, "the clock goes far forward": 90 * 24 * time.Hour, "the clock goes back": -3 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			w := start(p, 20)
			w.tick(12)
			w.in.Now = w.in.Now.Add(jump)
			if jump == 0 {
				w.in.State = State{}
			}
			if d := w.tick(3); d.Desired != 20 {
				t.Fatalf("at once: %d, %s", d.Desired, d.Reason)
			}
			for range 6 {
				w.tick(3)
			}
			if w.d.Desired != 5 {
				t.Errorf("more than five minutes later: %d, %s", w.d.Desired, w.d.Reason)
			}
		})
	}
}

func TestAPanicOnlyAdds(t *testing.T) {
	w := start(base(), 10)
	w.in.Policy.Reactive.PanicWindow = 2 * time.Minute
	w.in.Now = w.in.Now.Add(time.Minute)
	w.in.Metrics = []Metric{{Name: "load", Total: 6, Burst: 15, PerReplica: 0.6}}
	d := Decide(w.in)
	if d.Desired != 25 || d.Winner != LayerPanic {
		t.Fatalf("the burst: %d by %s", d.Desired, d.Winner)
	}
	w.in.State, w.in.Current, w.in.Ready = d.Next, 25, 25
	if d = w.tick(6); d.Desired != 25 {
		t.Errorf("in the panic: %d, %s", d.Desired, d.Reason)
	}
	if d = w.tick(6); d.Desired != 10 {
		t.Errorf("after the panic: %d, %s", d.Desired, d.Reason)
	}
}

func TestHPAsRatesOutAreKept(t *testing.T) {
	p := Defaults(1, 1000)
	w := start(p, 1)
	var got []int
	for range 4 {
		got = append(got, w.tick(300).Desired)
	}
	if want := []int{5, 10, 20, 40}; !slices.Equal(got, want) {
		t.Errorf("from 1 with a minute between: got %v, want %v", got, want)
	}
	// Four times a minute is no faster than once in 15 seconds.
	if d := Decide(w.in); d.Desired != 40 {
		t.Errorf("asked again at the same time: %d", d.Desired)
	}
}

func TestStagedScaleIn(t *testing.T) {
	staged := func() *minutes {
		p := base()
		p.ScaleIn.Watch = 2 * time.Minute
		return start(p, 10)
	}
	type seen struct {
		desired, cut int
		stage        Stage
	}
	run := func(w *minutes, demand float64) seen {
		d := w.tick(demand)
		return seen{d.Desired, d.CutOff, d.Stage}
	}
	expect := func(t *testing.T, what string, got, want seen) {
		t.Helper()
		if got != want {
			t.Fatalf("%s: got %+v, want %+v", what, got, want)
		}
	}

	t.Run("cut off, watched, deleted", func(t *testing.T) {
		w := staged()
		expect(t, "first", run(w, 3), seen{10, 5, StageCutOff})
		expect(t, "a minute later", run(w, 3), seen{10, 5, StageWatch})
		expect(t, "two minutes later", run(w, 3), seen{5, 5, StageDelete})
		expect(t, "afterwards", run(w, 3), seen{5, 0, StageNone})
	})
	t.Run("a breach takes them back, and nothing goes for a while", func(t *testing.T) {
		w := staged()
		run(w, 3)
		w.in.Guard = quality.Broken
		expect(t, "the breach", run(w, 3), seen{10, 0, StageRollback})
		w.in.Guard = quality.Met
		for range 4 {
			expect(t, "the guard is met again", run(w, 3), seen{10, 0, StageRollback})
		}
		expect(t, "five minutes later", run(w, 3), seen{10, 5, StageCutOff})
	})
	t.Run("a load that rises for a moment does not end the wait", func(t *testing.T) {
		w := staged()
		run(w, 3)
		w.in.Guard = quality.Broken
		run(w, 3)
		w.in.Guard = quality.Met
		run(w, 6)
		expect(t, "it falls again", run(w, 3), seen{10, 0, StageRollback})
	})
	t.Run("a need takes back what it needs", func(t *testing.T) {
		w := staged()
		run(w, 3)
		expect(t, "some", run(w, 4.8), seen{10, 2, StageWatch})
		expect(t, "all", run(w, 6), seen{10, 0, StageNone})
		expect(t, "more", run(w, 9), seen{15, 0, StageNone})
	})
	t.Run("less load does not widen the cut", func(t *testing.T) {
		w := staged()
		run(w, 4.2)
		expect(t, "much less", run(w, 1), seen{10, 3, StageWatch})
	})
	t.Run("a rollout takes them back", func(t *testing.T) {
		w := staged()
		run(w, 3)
		w.in.Rollout = true
		expect(t, "in the rollout", run(w, 3), seen{10, 0, StageNone})
	})
	t.Run("an order that was not carried out is given again", func(t *testing.T) {
		w := staged()
		run(w, 3)
		run(w, 3)
		run(w, 3)
		w.in.Current, w.in.Ready = 10, 10
		expect(t, "again", run(w, 3), seen{5, 5, StageDelete})
	})
	t.Run("an order that was carried out is not given again by an old state", func(t *testing.T) {
		w := staged()
		run(w, 3.6)
		run(w, 3.6)
		old := w.in.State
		run(w, 3.6)
		w.in.State = old
		expect(t, "the rest is watched first", run(w, 1.2), seen{6, 4, StageCutOff})
	})
	t.Run("silence is not watching", func(t *testing.T) {
		w := staged()
		run(w, 3)
		w.in.Now = w.in.Now.Add(time.Hour)
		if got := run(w, 3); got.desired != 10 || got.cut != 5 {
			t.Fatalf("after an hour of silence: %+v", got)
		}
		run(w, 3)
		expect(t, "two minutes later", run(w, 3), seen{5, 5, StageDelete})
	})
	t.Run("a clock that goes back watches again", func(t *testing.T) {
		w := staged()
		run(w, 3)
		w.in.Now = w.in.Now.Add(-time.Hour)
		run(w, 3)
		run(w, 3)
		expect(t, "two minutes later", run(w, 3), seen{5, 5, StageDelete})
	})
}

func TestPolicyValidate(t *testing.T) {
	for name, change := range map[string]func(*Policy){
		"no max":         func(p *Policy) { p.Min, p.Max = 0, 0 },
		"min above max":  func(p *Policy) { p.Min = 101 },
		"a unit of NaN":  func(p *Policy) { p.Unit = math.NaN() },
		"a lift below 1": func(p *Policy) { p.Forecast.MaxLift = 0.5 },
		"two answers":    func(p *Policy) { p.Manual = []ManualEntry{{Name: "a", Pin: 1, Floor: 2, Cap: None}} },
		"no answer":      func(p *Policy) { p.Manual = []ManualEntry{{Name: "a", Pin: None, Floor: None, Cap: None}} },
		"until before from": func(p *Policy) {
			p.Manual = []ManualEntry{{Pin: 1, Floor: None, Cap: None, From: monday, Until: monday}}
		},
		"a name twice":        func(p *Policy) { p.Schedules = []Schedule{floorOf(1), floorOf(2)} },
		"a tolerance of NaN":  func(p *Policy) { p.Reactive.Tolerance.Up = math.NaN() },
		"a panic at 100 %":    func(p *Policy) { p.Reactive.PanicShare = 1 },
		"a rate without time": func(p *Policy) { p.Reactive.Up.Rates = []Rate{{Pods: 1}} },
		"a step of 200 %":     func(p *Policy) { p.ScaleIn.Step = 2 },
		"a watch below 0":     func(p *Policy) { p.ScaleIn.Watch = -1 },
	} {
		p := base()
		change(&p)
		err := p.Validate()
		if err == nil {
			t.Errorf("%s: not refused", name)
		} else if s := err.Error(); strings.Contains(s, "\n") || len(s) < 20 {
			t.Errorf("%s: %q is no clear sentence", name, s)
		}
	}
	p := base()
	if err := p.Validate(); err != nil {
		t.Error(err)
	}
}

// random makes an input of some rules, with nonsense among the figures.
func random(r *rand.Rand) Input {
	figure := func() float64 {
		switch r.Intn(12) {
		case 0:
			return math.NaN()
		case 1:
			return math.Inf(1 - 2*r.Intn(2))
		case 2:
			return -1
		case 3:
			return 1e300
		case 4:
			return 0
		}
		return 80 * r.Float64()
	}
	p := base()
	p.Min, p.Max = r.Intn(5), 5+r.Intn(200)
	if r.Intn(2) == 0 {
		p = Defaults(p.Min, p.Max)
		p.Unit = 0.6
	}
	p.ScaleIn.Watch = time.Duration(r.Intn(3)) * time.Minute
	p.ScaleIn.Step = []float64{0, 0.1, 0.5, 1}[r.Intn(4)]
	for range r.Intn(3) {
		s := floorOf(r.Intn(120))
		s.Start = time.Duration(r.Intn(24)) * time.Hour
		p.Schedules = append(p.Schedules, s)
	}
	if r.Intn(4) == 0 {
		p.Manual = append(p.Manual, ManualEntry{Name: "floor", Pin: None, Floor: r.Intn(120), Cap: None})
	}
	if r.Intn(6) == 0 {
		p.Manual = append(p.Manual, ManualEntry{Name: "cap", Pin: None, Floor: None, Cap: r.Intn(120)})
	}
	in := Input{
		Policy: p, Now: monday.Add(time.Duration(r.Intn(48*60)) * time.Minute), Current: r.Intn(150), Rollout: r.Intn(8) == 0,
		Class:    Class{Demand: figure(), In: r.Intn(3) == 0, Needs: figure()},
		Forecast: Forecast{Demand: figure(), Return: figure(), Soon: figure()},
		Guard:    []quality.Status{"", quality.Met, quality.Met, quality.Broken, quality.Unknown}[r.Intn(5)],
	}
	in.Ready = r.Intn(in.Current + 1)
	in.Class.Next = in.Now.Add(time.Duration(r.Intn(30)) * time.Minute)
	for range r.Intn(3) {
		m := Metric{Name: "m", Total: figure(), Burst: figure(), PerReplica: 0.6}
		if r.Intn(4) == 0 {
			for range r.Intn(8) {
				m.Pods = append(m.Pods, PodFigure{Value: figure(), Target: 0.6, Ready: r.Intn(4) > 0})
			}
		}
		in.Metrics = append(in.Metrics, m)
	}
	if r.Intn(2) == 0 { // a state of some minute before, or of a clock that went wrong
		was := in
		was.Now = in.Now.Add(-time.Duration(r.Intn(20)-4) * time.Minute)
		in.State = Decide(was).Next
	}
	return in
}

const rounds = 5_000

// laws runs a law over random inputs.
func laws(t *testing.T, law func(t *testing.T, r *rand.Rand, in Input)) {
	t.Helper()
	for seed := range int64(rounds) {
		r := rand.New(rand.NewSource(seed))
		law(t, r, random(r))
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func TestLawCapsAndBoundsAreKept(t *testing.T) {
	laws(t, func(t *testing.T, r *rand.Rand, in Input) {
		d := Decide(in)
		limit := in.Policy.Max
		for _, c := range d.ByLayer {
			if c.Cap != None && c.Hard {
				limit = min(limit, c.Cap)
			}
		}
		if d.Desired > limit || d.Desired < min(in.Policy.Min, limit) {
			t.Errorf("%d is beyond %d to %d: %s", d.Desired, in.Policy.Min, limit, d.Reason)
		}
		if d.Reason == "" || d.Winner == "" || strings.Contains(d.Reason, "NaN") {
			t.Errorf("the decision says %q by %q", d.Reason, d.Winner)
		}
		if d.CutOff > in.Current-min(d.Wanted, in.Current) {
			t.Errorf("%d of %d are cut off, though %d are wanted", d.CutOff, in.Current, d.Wanted)
		}
	})
}

func TestLawAHigherFloorNeverGivesLess(t *testing.T) {
	laws(t, func(t *testing.T, r *rand.Rand, in Input) {
		low := Decide(in)
		more := 1 + r.Intn(30)
		switch kind := r.Intn(5); {
		case kind == 0:
			in.Policy.Min = min(in.Policy.Min+more, in.Policy.Max)
		case kind == 1 && len(in.Policy.Schedules) > 0:
			in.Policy.Schedules = slices.Clone(in.Policy.Schedules)
			in.Policy.Schedules[0].Floor += more
		case kind == 2 && known(in.Class.Demand):
			in.Class.Demand += float64(more)
		case kind == 3 && known(in.Forecast.Demand) && in.Forecast.Demand > 0:
			// Beyond the tolerance, within which a change is not made.
			in.Forecast.Demand += float64(more)
		default:
			in.Policy.Manual = append(slices.Clone(in.Policy.Manual), ManualEntry{Name: "more", Pin: None, Floor: more, Cap: None})
		}
		if high := Decide(in); high.Desired < low.Desired {
			t.Errorf("a higher floor gives %d (%s) instead of %d (%s)", high.Desired, high.Reason, low.Desired, low.Reason)
		}
	})
}

func TestLawTheForecastLiftsAndNeverLowers(t *testing.T) {
	laws(t, func(t *testing.T, r *rand.Rand, in Input) {
		in.Forecast.Return = 0 // a shorter stabilisation is not a lower floor
		with := Decide(in)
		in.Forecast = Forecast{}
		in.State.Foretold = nil
		if without := Decide(in); with.Desired < without.Desired {
			t.Errorf("with a forecast %d (%s), without %d (%s)", with.Desired, with.Reason, without.Desired, without.Reason)
		}
	})
}

func TestLawWithoutMetricsNothingGoes(t *testing.T) {
	laws(t, func(t *testing.T, r *rand.Rand, in Input) {
		in.Metrics = load(math.NaN())
		d := Decide(in)
		limit := in.Policy.Max
		for _, c := range d.ByLayer {
			if c.Cap != None && c.Hard {
				limit = min(limit, c.Cap)
			}
		}
		if d.Desired < min(in.Current, limit) || d.CutOff > 0 {
			t.Errorf("from %d to %d with %d cut off: %s", in.Current, d.Desired, d.CutOff, d.Reason)
		}
	})
}

func TestLawAskedAgainItAnswersTheSame(t *testing.T) {
	laws(t, func(t *testing.T, r *rand.Rand, in Input) {
		d := Decide(in)
		if again := Decide(in); !reflect.DeepEqual(d, again) {
			t.Errorf("the same input gives %+v and %+v", d, again)
		}
		for i := range in.Metrics {
			in.Metrics[i].Pods = nil // their figures would change with the replicas
		}
		d = Decide(in)
		in.State, in.Current = d.Next, d.Desired
		if in.Policy.ScaleIn.Watch == 0 {
			// What the load needs is rounded to what is there, within the tolerance;
			// a lift is a multiple of it.
			slack := 0
			if d.Winner == LayerForecast {
				slack = int(in.Policy.Reactive.Tolerance.Up*float64(d.Desired)) + 3
			}
			if again := Decide(in); again.Desired < d.Desired || again.Desired > d.Desired+slack {
				t.Errorf("%d (%s), and asked again %d (%s)", d.Desired, d.Reason, again.Desired, again.Reason)
			}
		}
	})
}

func TestLawConstantLoadComesToRestWhateverWasBefore(t *testing.T) {
	for seed := range int64(300) {
		r := rand.New(rand.NewSource(seed))
		in := random(r)
		in.Rollout, in.Guard = false, quality.Met
		in.Class.Next = time.Time{}
		in.Policy.Schedules, in.Policy.ScaleIn.Step = nil, max(in.Policy.ScaleIn.Step, 0.5)
		demand := 60 * r.Float64()
		in.Forecast = Forecast{Demand: demand * (0.5 + r.Float64())}
		if !known(in.Class.Demand) {
			in.Class.Demand = 0
		}
		settle := func(current int, state State, silence time.Duration) (end int) {
			w := &minutes{in: in}
			w.in.Now = w.in.Now.Add(silence)
			w.in.Current, w.in.Ready, w.in.State = current, current, state
			for range 90 {
				end = w.tick(demand).Desired
			}
			for range 30 {
				if d := w.tick(demand); d.Desired != end || d.CutOff != 0 {
					t.Fatalf("seed %d: under a constant load from %d to %d: %s", seed, end, d.Desired, d.Reason)
				}
			}
			return end
		}
		// 1. It comes to rest, and 2. after a downtime in the same place, from there.
		end := settle(in.Current, in.State, 0)
		if again := settle(end, State{}, 6*time.Hour); again != end {
			t.Fatalf("seed %d: %d, and after a downtime %d", seed, end, again)
		}
		// 3. From elsewhere no further off than the tolerance lets it stay.
		other := settle(r.Intn(150), State{}, 0)
		slack := 1 + int(math.Ceil(0.12*float64(max(end, other))))
		if d := other - end; d > slack || -d > slack {
			t.Fatalf("seed %d: %d from one place and %d from another", seed, end, other)
		}
	}
}

func FuzzDecide(f *testing.F) {
	f.Add(int64(1), 3.0, 10)
	f.Add(int64(2), math.NaN(), 0)
	f.Fuzz(func(t *testing.T, seed int64, demand float64, current int) {
		in := random(rand.New(rand.NewSource(seed)))
		in.Current = max(current%most, 0)
		in.Metrics = append(in.Metrics, load(demand)...)
		d := Decide(in)
		if d.Desired < 0 || d.Desired > in.Policy.Max {
			t.Errorf("%d replicas: %s", d.Desired, d.Reason)
		}
	})
}

func BenchmarkDecide(b *testing.B) {
	p := Defaults(1, 1000)
	p.Unit = 0.6
	p.Schedules = []Schedule{floorOf(30)}
	w := start(p, 10)
	w.in.Forecast = Forecast{Demand: 9, Return: 12, Soon: 10}
	for b.Loop() {
		w.tick(12)
	}
}
