package bill

import (
	"fmt"
	"math/big"
	"math/rand"
	"slices"
	"testing"
	"time"

	"github.com/neap-dev/neap/core/money"
	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/core/workload"
)

// window makes a window of one module, one type and only CPU from the factors'
// integers.
func window(q, use, held, bought int64, cost money.Amount) Window {
	r := Row{Module: key("a"), Namespace: "ns-a", Type: "c8", PodMillis: 1}
	r.Cells[resource.CPU] = Cell{Use: use, Held: held, Bought: bought, Used: cost, List: cost}
	l := LoadRow{Module: key("a"), Hours: 1, Requests: q}
	if q < 0 {
		l.Requests, l.HoursUnknown = 0, 1
	}
	return Window{From: hour0, To: hour0.Add(time.Hour), Currency: "USD", Rows: []Row{r}, Loads: []LoadRow{l}}
}

func explain(t testing.TB, a, b Window) Change {
	t.Helper()
	c, err := Explain(a, b)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestTheGoldenCase(t *testing.T) {
	// (Q, k, r, f, π) = (1000, 2, 2.5, 1.6, 0.01) → (1300, 1.6, 2.0, 1.4, 0.009).
	c := explain(t, window(1000, 2000, 5000, 8000, 80_000_000_000), window(1300, 2080, 4160, 5824, 52_416_000_000))
	want := map[Effect]string{EffectLoad: "17.5584", EffectNeed: "-14.6833", EffectSlack: "-14.6833", EffectMatch: "-8.8143", EffectList: "-6.9616"}
	for _, e := range c.Effects {
		got := fmt.Sprintf("%.4f", e.Nano.Float())
		if w, ok := want[e.Effect]; ok && got != w || !ok && e.Nano != 0 {
			t.Errorf("%s is %s, want %s", e.Effect, got, w)
		}
	}
	if c.ChangeNano != -27_584_000_000 || c.ResidualNano != 0 {
		t.Errorf("change %s, residual %d; want -27.584 and 0", c.ChangeNano, c.ResidualNano)
	}
}

func TestShapleyIsTheMeanOverAllOrders(t *testing.T) {
	dice := rand.New(rand.NewSource(1))
	for range 50 {
		var factors []shift
		var a, b []*big.Rat
		for range 5 {
			x0, y0, x1, y1 := dice.Int63n(50), 1+dice.Int63n(50), dice.Int63n(50), 1+dice.Int63n(50)
			factors = append(factors, quotient(x0, y0, x1, y1))
			a, b = append(a, big.NewRat(x0, y0)), append(b, big.NewRat(x1, y1))
		}
		want := make([]*big.Rat, 5)
		for i := range want {
			want[i] = new(big.Rat)
		}
		orders := 0
		permute([]int{0, 1, 2, 3, 4}, 0, func(order []int) {
			orders++
			now := slices.Clone(a)
			value := product(now)
			for _, i := range order {
				now[i] = b[i]
				next := product(now)
				want[i].Add(want[i], new(big.Rat).Sub(next, value))
				value = next
			}
		})
		g := shapley(factors)
		for i := range want {
			got := new(big.Rat).SetFrac(g.value[i], g.den)
			if want[i].Mul(want[i], big.NewRat(1, int64(orders))).Cmp(got) != 0 {
				t.Fatalf("factor %d: %s, the mean over %d orders is %s", i, got, orders, want[i])
			}
			w := new(big.Rat).SetFrac(g.weight[i], g.weightDen[i])
			if w.Mul(w, new(big.Rat).Sub(b[i], a[i])).Cmp(got) != 0 {
				t.Fatalf("factor %d: weight times change is %s, want %s", i, w, got)
			}
		}
	}
}

func permute(p []int, k int, visit func([]int)) {
	if k == len(p) {
		visit(p)
		return
	}
	for i := k; i < len(p); i++ {
		p[k], p[i] = p[i], p[k]
		permute(p, k+1, visit)
		p[k], p[i] = p[i], p[k]
	}
}

func product(f []*big.Rat) *big.Rat {
	p := big.NewRat(1, 1)
	for _, x := range f {
		p.Mul(p, x)
	}
	return p
}

// randomWindow closes hours of small fleets; modules, types, loads and prices
// appear and vanish from one window to the next.
func randomWindow(t testing.TB, dice *rand.Rand) Window {
	t.Helper()
	var facts []Facts
	book := testBook(t, dice)
	for i := range 1 + dice.Intn(3) {
		from := hour0.Add(time.Duration(i) * time.Hour)
		f, err := Close(randomHour(dice, from), book, Options{})
		if err != nil {
			t.Fatal(err)
		}
		facts = append(facts, f)
	}
	w, err := Rollup(facts...)
	if err != nil {
		t.Fatal(err)
	}
	if dice.Intn(2) == 0 {
		w.Offers = OfferTypes(book, hour0)
	}
	return w
}

func TestNothingIsLeftUnexplained(t *testing.T) {
	pairs := 1500
	if testing.Short() {
		pairs = 300
	}
	vanished, mixed := 0, 0
	for seed := range pairs {
		dice := rand.New(rand.NewSource(int64(seed)))
		a, b := randomWindow(t, dice), randomWindow(t, dice)
		c := explain(t, a, b)
		checkChange(t, seed, a, b, c)
		effects := map[Effect]money.Amount{}
		for _, e := range c.Effects {
			effects[e.Effect] = e.Nano
		}
		if effects[EffectNew] != 0 && effects[EffectGone] != 0 {
			vanished++
		}
		if effects[EffectMix] != 0 {
			mixed++
		}

		// Time reversal turns every sign, and new into gone.
		back := map[Effect]money.Amount{}
		for _, e := range explain(t, b, a).Effects {
			back[e.Effect] = -e.Nano
		}
		back[EffectNew], back[EffectGone] = back[EffectGone], back[EffectNew]
		for _, e := range Effects {
			if back[e] != effects[e] {
				t.Fatalf("seed %d: %s is %d forth and %d back", seed, e, effects[e], -back[e])
			}
		}

		// Nothing changed: no effect.
		for _, e := range explain(t, a, a).Effects {
			if e.Nano != 0 {
				t.Fatalf("seed %d: %s has the effect %d between a window and itself", seed, e.Effect, e.Nano)
			}
		}
	}
	if vanished < pairs/10 || mixed < pairs/10 {
		t.Errorf("of %d pairs only %d have modules that appear and vanish, %d a change of types", pairs, vanished, mixed)
	}
}

func checkChange(t testing.TB, seed int, a, b Window, c Change) {
	t.Helper()
	cost := func(w Window) (sum money.Amount) {
		for i := range w.Boxes {
			sum += w.Boxes[i].Bill.Sum()
		}
		return sum
	}
	if c.BeforeNano != cost(a) || c.AfterNano != cost(b) || c.ChangeNano != cost(b)-cost(a) {
		t.Fatalf("seed %d: explains %d to %d, the bills are %d and %d", seed, c.BeforeNano, c.AfterNano, cost(a), cost(b))
	}
	sum := money.Amount(0)
	totals := map[Effect]money.Amount{}
	for _, e := range c.Effects {
		sum += e.Nano
		totals[e.Effect] = e.Nano
	}
	if c.ResidualNano != 0 || sum != c.ChangeNano {
		t.Fatalf("seed %d: residual %d, effects sum to %d of %d", seed, c.ResidualNano, sum, c.ChangeNano)
	}
	byResource := map[Effect]money.Amount{}
	for _, r := range c.Resources {
		for e, v := range r.Effects {
			byResource[e] += v
		}
	}
	byModule := map[Effect]money.Amount{}
	for _, l := range c.Lines {
		part := money.Amount(0)
		for e, v := range l.Effects {
			byModule[e] += v
			part += v
		}
		if l.ResidualNano != 0 || part != l.ChangeNano {
			t.Fatalf("seed %d: %s changed by %d, its effects sum to %d", seed, l.Key, l.ChangeNano, part)
		}
		for _, r := range l.Resources {
			part := money.Amount(0)
			for _, v := range r.Effects {
				part += v
			}
			if part != r.ChangeNano {
				t.Fatalf("seed %d: %s %s changed by %d, its effects sum to %d", seed, l.Key, r.Resource, r.ChangeNano, part)
			}
		}
	}
	for _, e := range Effects {
		if byModule[e] != totals[e] || byResource[e] != totals[e] {
			t.Fatalf("seed %d: %s is %d in total, %d over modules, %d over resources", seed, e, totals[e], byModule[e], byResource[e])
		}
	}
}

// FuzzExplain makes rows of any integers, also such as no hour could leave.
func FuzzExplain(f *testing.F) {
	for seed := range int64(300) {
		f.Add(seed, seed*104729, int64(1)<<(seed%50))
	}
	f.Fuzz(func(t *testing.T, seed, a, b int64) {
		dice := rand.New(rand.NewSource(seed))
		number := func() int64 {
			switch dice.Intn(5) {
			case 0:
				return 0
			case 1:
				return a & (1<<50 - 1)
			case 2:
				return b & (1<<50 - 1)
			}
			return dice.Int63n(1000)
		}
		make := func() Window {
			w := Window{From: hour0, To: hour0.Add(time.Hour), Currency: "USD"}
			for _, m := range []string{"a", "b", "c", ""} {
				if dice.Intn(3) == 0 {
					continue
				}
				k := workload.Key{}
				if m != "" {
					k = key(m)
				}
				for _, typ := range []string{"x", "y", "z"} {
					if dice.Intn(3) == 0 {
						continue
					}
					r := Row{Module: k, Namespace: k.Namespace, Pool: "p", Type: typ}
					b := BoxRow{Pool: "p", Type: typ}
					for i := range r.Cells {
						r.Cells[i] = Cell{Use: number(), Held: number(), Bought: number(), Used: money.Amount(number()), Slack: money.Amount(number()), List: money.Amount(number())}
						b.Bill[i] = r.Cells[i].Cost()
					}
					w.Rows = append(w.Rows, r)
					w.Boxes = append(w.Boxes, b)
				}
				w.Loads = append(w.Loads, LoadRow{Module: k, Hours: 1, Requests: number(), HoursUnknown: dice.Intn(2)})
			}
			if dice.Intn(2) == 0 {
				w.Offers = []Offer{{Type: "x", List: [3]money.Amount{money.Amount(number())}, Amount: [3]int64{number(), number(), 0}}}
			}
			return w
		}
		x, y := make(), make()
		checkChange(t, int(seed), x, y, explain(t, x, y))
	})
}

func TestAFactorThatDidNotChangeHasNoEffect(t *testing.T) {
	base := [5]int64{1000, 2000, 5000, 8000, 80_000_000_000}
	cases := map[string]struct {
		after [5]int64
		want  Effect
	}{
		"twice the load with everything in proportion":  {[5]int64{2000, 4000, 10000, 16000, 160_000_000_000}, EffectLoad},
		"the same load with half the use":               {[5]int64{1000, 1000, 2500, 4000, 40_000_000_000}, EffectNeed},
		"the same use with half the request":            {[5]int64{1000, 2000, 2500, 4000, 40_000_000_000}, EffectSlack},
		"the same request on half the machines":         {[5]int64{1000, 2000, 5000, 4000, 40_000_000_000}, EffectMatch},
		"the same machines at twice the price":          {[5]int64{1000, 2000, 5000, 8000, 160_000_000_000}, EffectList},
		"half the use in time that has no load measure": {[5]int64{-1, 1000, 2500, 4000, 40_000_000_000}, EffectUse},
		"nothing used any more, the same held":          {[5]int64{1000, 0, 2500, 4000, 40_000_000_000}, EffectHeld},
		"the resource is not used any more":             {[5]int64{1000, 0, 0, 0, 0}, EffectHeld},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			a := window(base[0], base[1], base[2], base[3], money.Amount(base[4]))
			b := window(tc.after[0], tc.after[1], tc.after[2], tc.after[3], money.Amount(tc.after[4]))
			c := explain(t, a, b)
			for _, e := range c.Effects {
				want := money.Amount(0)
				if e.Effect == tc.want {
					want = c.ChangeNano
				}
				if e.Nano != want {
					t.Errorf("%s is %d, want %d", e.Effect, e.Nano, want)
				}
			}
		})
	}
}

func TestThePriceIsToldApart(t *testing.T) {
	typed := func(typ string, bought int64, list, cost money.Amount) Row {
		r := Row{Module: key("a"), Namespace: "ns-a", Type: typ}
		r.Cells[resource.CPU] = Cell{Use: 100, Held: 200, Bought: bought, Used: cost, List: list}
		return r
	}
	w := func(rows ...Row) Window {
		return Window{From: hour0, To: hour0.Add(time.Hour), Currency: "USD", Rows: rows, Loads: []LoadRow{{Module: key("a"), Hours: 1, Requests: 10}}}
	}
	cheap := Offer{Type: "new", List: [3]money.Amount{60}, Paid: [3]money.Amount{60}, Amount: [3]int64{1, 1, 1}}
	dear := Offer{Type: "new", List: [3]money.Amount{80}, Paid: [3]money.Amount{80}, Amount: [3]int64{1, 1, 1}}
	offering := func(o Offer, w Window) Window { w.Offers = []Offer{o}; return w }
	cases := map[string]struct {
		before, after Window
		want          map[Effect]money.Amount
	}{
		"a list price that rises": {
			w(typed("old", 100, 10_000, 10_000)), w(typed("old", 100, 12_000, 12_000)), map[Effect]money.Amount{EffectList: 2_000},
		},
		"a discount": {
			w(typed("old", 100, 10_000, 10_000)), w(typed("old", 100, 10_000, 8_000)), map[Effect]money.Amount{EffectDiscount: -2_000},
		},
		"another type at the price it always had": {
			offering(cheap, w(typed("old", 100, 10_000, 10_000))), w(typed("new", 100, 6_000, 6_000)), map[Effect]money.Amount{EffectMix: -4_000},
		},
		"another type that became cheaper": { // half of the 20 it fell by counts: the order is unknown
			offering(dear, w(typed("old", 100, 10_000, 10_000))), w(typed("new", 100, 6_000, 6_000)), map[Effect]money.Amount{EffectMix: -3_000, EffectList: -1_000},
		},
		"another type whose old price nobody knows": {
			w(typed("old", 100, 10_000, 10_000)), w(typed("new", 100, 6_000, 6_000)), map[Effect]money.Amount{EffectMix: -4_000},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			c := explain(t, tc.before, tc.after)
			for _, e := range c.Effects {
				if e.Nano != tc.want[e.Effect] {
					t.Errorf("%s is %d, want %d", e.Effect, e.Nano, tc.want[e.Effect])
				}
			}
		})
	}
}

func TestBillsInTwoCurrenciesAreNotAddedOrCompared(t *testing.T) {
	a, b := window(1, 1, 1, 1, 1), window(1, 1, 1, 1, 1)
	b.Currency = "CNY"
	if _, err := Explain(a, b); err == nil {
		t.Error("compared dollars with yuan")
	}
	if _, err := Merge(a, b); err == nil {
		t.Error("added dollars to yuan")
	}
}

func BenchmarkExplain1000Modules(b *testing.B) {
	dice := rand.New(rand.NewSource(1))
	make := func() Window {
		w := Window{From: hour0, To: hour0.Add(time.Hour), Currency: "USD"}
		for i := range 1000 {
			m := workload.Key{Namespace: "n", Kind: "Deployment", Name: fmt.Sprintf("m%04d", i)}
			for _, typ := range []string{"x", "y", "z"} {
				r := Row{Module: m, Namespace: "n", Type: typ}
				for k := range 2 {
					use := 1 + dice.Int63n(1e9)
					cost := money.Amount(1 + dice.Int63n(1e12))
					r.Cells[k] = Cell{Use: use, Held: 2 * use, Bought: 3 * use, Used: cost, List: 2 * cost}
				}
				w.Rows = append(w.Rows, r)
			}
			w.Loads = append(w.Loads, LoadRow{Module: m, Hours: 1, Requests: 1 + dice.Int63n(1e6)})
		}
		return w
	}
	x, y := make(), make()
	for b.Loop() {
		if _, err := Explain(x, y); err != nil {
			b.Fatal(err)
		}
	}
}
