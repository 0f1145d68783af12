package physics

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

func TestQuantilesReadAsATable(t *testing.T) {
	q := Quantiles{{0.05, 2 * time.Second}, {0.5, 20 * time.Second}, {0.95, 40 * time.Second}}
	for u, want := range map[float64]time.Duration{
		0: 2 * time.Second, 0.05: 2 * time.Second, 0.5: 20 * time.Second, 0.725: 30 * time.Second, 0.95: 40 * time.Second, 1: 40 * time.Second,
	} {
		if got := q.At(u); (got - want).Abs() > time.Microsecond {
			t.Errorf("at %v it is %v, want %v", u, got, want)
		}
	}
	if got := (Quantiles)(nil).At(0.5); got != 0 {
		t.Errorf("no table gives %v", got)
	}
	if got := (Quantiles{{1, time.Second}}).Mean(); got != time.Second {
		t.Errorf("the mean of a constant is %v", got)
	}
}

func TestModelLoadingDrawsWhatWasMeasured(t *testing.T) {
	// alibaba/clusterdata, cluster-trace-v2026-GenAI: p50 22.718 s, p95 45.449 s.
	s := Start{ModelLoad: Quantiles{{0.05, 2287 * time.Millisecond}, {0.5, 22718 * time.Millisecond}, {0.9, 41988 * time.Millisecond}, {0.95, 45449 * time.Millisecond}, {0.99, 51856 * time.Millisecond}, {1, 79436 * time.Millisecond}}}
	dice := rand.New(rand.NewPCG(1, 2))
	below50, below95, n := 0, 0, 20000
	for range n {
		d := s.Draw(dice.Float64).AfterBound()
		if d <= 22718*time.Millisecond {
			below50++
		}
		if d <= 45449*time.Millisecond {
			below95++
		}
	}
	if p := float64(below50) / float64(n); math.Abs(p-0.5) > 0.02 {
		t.Errorf("%.3f of the draws are below the measured median", p)
	}
	if p := float64(below95) / float64(n); math.Abs(p-0.95) > 0.01 {
		t.Errorf("%.3f of the draws are below the measured p95", p)
	}
}

func TestAFullMachineIsSharedByRequest(t *testing.T) {
	cases := map[string]struct {
		capacity float64
		claims   []Claim
		want     []float64
	}{
		"there is enough for everybody":              {8, []Claim{{3, 1, 0}, {2, 1, 0}}, []float64{3, 2}},
		"two greedy ones share by their requests":    {6, []Claim{{9, 1, 0}, {9, 2, 0}}, []float64{2, 4}},
		"a modest one gets all it wants":             {6, []Claim{{1, 1, 0}, {9, 1, 0}, {9, 1, 0}}, []float64{1, 2.5, 2.5}},
		"a limit holds although there is room":       {8, []Claim{{5, 1, 2}}, []float64{2}},
		"what a limit leaves goes to the others":     {6, []Claim{{9, 1, 1}, {9, 1, 0}}, []float64{1, 5}},
		"a pod without a request gets the crumbs":    {2, []Claim{{9, 1, 0}, {9, 0, 0}}, []float64{2 / (1 + minWeight), 2 * minWeight / (1 + minWeight)}},
		"no capacity is shared as nothing":           {0, []Claim{{1, 1, 0}}, []float64{0}},
		"a negative demand is none and gives none":   {2, []Claim{{-1, 1, 0}, {3, 1, 0}}, []float64{0, 2}},
		"nobody asks on a machine without any claim": {2, nil, nil},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got := make([]float64, len(tc.claims))
			Share(tc.capacity, tc.claims, got)
			for i := range got {
				if math.Abs(got[i]-tc.want[i]) > 1e-9 {
					t.Errorf("got %v, want %v", got, tc.want)
					break
				}
			}
		})
	}
}

// FuzzShare holds the laws of sharing: never more than there is, than asked,
// than the limit; nothing is left while somebody wants; nobody envies.
func FuzzShare(f *testing.F) {
	f.Add(uint64(1), 8.0, 5)
	f.Add(uint64(2), 0.5, 100)
	f.Fuzz(func(t *testing.T, seed uint64, capacity float64, n int) {
		if math.IsNaN(capacity) || capacity < 0 || capacity > 1e6 || n < 0 || n > 300 {
			return
		}
		r := rand.New(rand.NewPCG(seed, 0))
		claims := make([]Claim, n)
		for i := range claims {
			claims[i] = Claim{Demand: r.Float64() * 8, Weight: float64(r.IntN(5)), Limit: float64(r.IntN(4)) * 1.5}
		}
		got := make([]float64, n)
		Share(capacity, claims, got)
		sum, wanted := 0.0, 0.0
		for i, g := range got {
			sum += g
			wanted += claims[i].want()
			if g < 0 || g > claims[i].want()+1e-9 {
				t.Fatalf("claim %+v was granted %v", claims[i], g)
			}
		}
		if sum > capacity+1e-6 {
			t.Fatalf("%v was shared of %v", sum, capacity)
		}
		if sum < min(capacity, wanted)-1e-6 {
			t.Fatalf("%v was shared although %v is wanted of %v", sum, wanted, capacity)
		}
		// A pod that wants more has at least as much per weight as any other.
		for i := range got {
			if got[i] >= claims[i].want()-1e-9 {
				continue
			}
			for j := range got {
				if got[j]/claims[j].weight() > got[i]/claims[i].weight()+1e-6 {
					t.Fatalf("%+v got %v and wants more, while %+v got %v", claims[i], got[i], claims[j], got[j])
				}
			}
		}
	})
}

func TestServingHasTheRightLimits(t *testing.T) {
	s := Station{Servers: 4, Capacity: 100, Service: 40 * time.Millisecond, Timeout: 2 * time.Second}
	t.Run("without load nobody waits", func(t *testing.T) {
		o := s.Serve(0)
		if o.Success != 1 || o.Mean() != 40*time.Millisecond {
			t.Errorf("got %+v, mean %v", o, o.Mean())
		}
	})
	t.Run("at little load the response is the service time", func(t *testing.T) {
		o := s.Serve(1)
		if m := o.Mean(); m < 40*time.Millisecond || m > 41*time.Millisecond {
			t.Errorf("mean %v", m)
		}
		if q, want := o.Quantile(0.5), 27726*time.Microsecond; (q - want).Abs() > time.Millisecond { // 40 ms · ln 2
			t.Errorf("p50 %v, want %v", q, want)
		}
	})
	t.Run("one server at half load waits as M/M/1 does", func(t *testing.T) {
		o := Station{Servers: 1, Capacity: 10, Service: 100 * time.Millisecond, Timeout: 60 * time.Second}.Serve(5)
		// M/M/1: W = ρ ÷ (μ − λ) = 0.5 ÷ 5 = 100 ms, T = 200 ms; P(T > t) = e^{−(μ−λ)t}.
		if m := o.Mean(); (m - 200*time.Millisecond).Abs() > time.Millisecond {
			t.Errorf("mean %v, want 200 ms", m)
		}
		if p, want := o.Slower(300*time.Millisecond), math.Exp(-1.5); math.Abs(p-want) > 1e-3 {
			t.Errorf("P(T > 300 ms) = %v, want %v", p, want)
		}
	})
	t.Run("beyond saturation the served part is capacity ÷ load", func(t *testing.T) {
		o := s.Serve(200)
		if math.Abs(o.Success-0.5) > 0.01 || o.Busy < 0.99 {
			t.Errorf("got %+v", o)
		}
		if q := o.Quantile(0.5); q < time.Second || q > 3*time.Second {
			t.Errorf("p50 is %v, want about the timeout of 2 s", q)
		}
	})
	t.Run("far beyond saturation nothing overflows", func(t *testing.T) {
		o := s.Serve(1e9)
		if o.Success > 1e-6 || math.IsNaN(o.Slower(time.Second)) || o.Mean() > 4*time.Second {
			t.Errorf("got %+v, mean %v", o, o.Mean())
		}
	})
	t.Run("without capacity nothing succeeds", func(t *testing.T) {
		if o := (Station{}).Serve(1); o.Success != 0 {
			t.Errorf("got %+v", o)
		}
	})
}

// FuzzServe holds the laws of waiting: shares stay shares, more load is never
// better, the tail falls with time, and never more is served than can be.
func FuzzServe(f *testing.F) {
	f.Add(4, 100.0, int64(40), int64(2000), 99.0, 100.5)
	f.Add(1, 10.0, int64(100), int64(60000), 5.0, 10.0)
	f.Add(200, 1e4, int64(1), int64(10), 1e4, 1e7)
	f.Fuzz(func(t *testing.T, servers int, capacity float64, serviceMS, timeoutMS int64, a, b float64) {
		bad := func(v float64) bool { return math.IsNaN(v) || v < 0 || v > 1e7 }
		if bad(capacity) || bad(a) || bad(b) || servers < 0 || servers > 1000 || serviceMS < 0 || serviceMS > 1e6 || timeoutMS < 0 || timeoutMS > 1e6 {
			return
		}
		if a > b {
			a, b = b, a
		}
		s := Station{servers, capacity, time.Duration(serviceMS) * time.Millisecond, time.Duration(timeoutMS) * time.Millisecond}
		x, y := s.Serve(a), s.Serve(b)
		for _, o := range []Outcome{x, y} {
			if !(o.Success >= 0 && o.Success <= 1) || !(o.Busy >= 0 && o.Busy <= 1) {
				t.Fatalf("%+v at %v, %v gives %+v", s, a, b, o)
			}
			last := 1.0
			for _, at := range []time.Duration{0, time.Millisecond, 10 * time.Millisecond, 100 * time.Millisecond, time.Second, 10 * time.Second, time.Hour} {
				p := o.Slower(at)
				if !(p >= 0 && p <= last+1e-6) {
					t.Fatalf("%+v: P(T > %v) = %v after %v", s, at, p, last)
				}
				last = p
			}
			if m := o.Mean(); m < 0 || m < s.Service-time.Microsecond {
				t.Fatalf("%+v: the mean %v is below the service time", s, m)
			}
		}
		if y.Success > x.Success+1e-6 {
			t.Fatalf("%+v: success rises from %v to %v as load rises from %v to %v", s, x.Success, y.Success, a, b)
		}
		if served := b * y.Success; served > capacity*(1+1e-6)+1e-9 {
			t.Fatalf("%+v: serves %v a second", s, served)
		}
	})
}

func TestNeedFallsWithTheRating(t *testing.T) {
	if got := Need(0.1, 100, 0.01, 1000); math.Abs(got-1.1) > 1e-12 {
		t.Errorf("got %v", got)
	}
	if got := Need(0.1, 100, 0.01, 2000); math.Abs(got-0.55) > 1e-12 {
		t.Errorf("a core twice as fast needs %v", got)
	}
	if got := Need(0, -5, 1, 0); got != 0 {
		t.Errorf("negative load needs %v", got)
	}
}
