package gpu

import (
	"math/rand"
	"slices"
	"strings"
	"testing"
)

// machine returns an empty machine.
func machine(cpu, memory int64, gpus int, model Model) Machine {
	m := Machine{CPU: cpu, Memory: memory, GPUs: gpus}
	for i := range gpus {
		m.Model[i], m.Idle[i] = model, Whole
	}
	return m
}

// anyDemand draws a valid demand that small machines may host.
func anyDemand(rng *rand.Rand) Demand {
	d := Demand{CPU: int64(rng.Intn(9)), Memory: int64(rng.Intn(5))}
	switch rng.Intn(6) {
	case 0:
	case 1:
		d.Devices, d.Milli = 1+rng.Intn(4), Whole
	default:
		d.Devices, d.Milli = 1, int64(1+rng.Intn(20))*50
	}
	if d.Devices > 0 && rng.Intn(4) == 0 {
		d.Models = Models(1 + rng.Intn(7))
	}
	return d
}

func anyMachines(rng *rand.Rand, most int) []Machine {
	var machines []Machine
	for range 1 + rng.Intn(most) {
		machines = append(machines, machine(int64(rng.Intn(40)), int64(rng.Intn(30)), rng.Intn(5), Model(rng.Intn(3))))
	}
	return machines
}

func anyShares(rng *rand.Rand) []Share {
	var shares []Share
	for range 1 + rng.Intn(12) {
		shares = append(shares, Share{Demand: anyDemand(rng), Count: int64(1 + rng.Intn(50))})
	}
	return shares
}

func FuzzFleet(f *testing.F) {
	for seed := range int64(40) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed int64) {
		rng := rand.New(rand.NewSource(seed))
		machines, shares := anyMachines(rng, 6), anyShares(rng)
		var scorer Scorer = NewNeap(machines, shares, Terms(rng.Intn(16)))
		if rng.Intn(3) == 0 {
			scorer = Fragmentation{NewMix(shares)}
		}
		fleet := NewFleet(machines, scorer)
		type placed struct {
			d Demand
			s Spot
		}
		var running []placed
		for range 120 {
			if len(running) > 0 && rng.Intn(4) == 0 {
				i := rng.Intn(len(running))
				if err := fleet.Remove(running[i].d, running[i].s); err != nil {
					t.Fatalf("remove what runs: %v", err)
				}
				running = slices.Delete(running, i, i+1)
			}
			d := anyDemand(rng)
			s, ok := fleet.Pick(d)
			// A fleet that never remembered anything chooses the same.
			fresh := NewFleet(machines, scorer)
			for _, p := range running {
				if err := fresh.Place(p.d, p.s); err != nil {
					t.Fatalf("place what runs once more: %v", err)
				}
			}
			if again, too := fresh.Pick(d); again != s || too != ok {
				t.Fatalf("%+v goes to %v %v, and in a fresh fleet to %v %v", d, s, ok, again, too)
			}
			if fits := slices.ContainsFunc(fleet.machines, func(m Machine) bool { return m.Fits(&d) }); fits != ok {
				t.Fatalf("%+v fits %v but picked is %v", d, fits, ok)
			}
			if ok {
				if err := fleet.Place(d, s); err != nil {
					t.Fatalf("place what was picked: %v", err)
				}
				running = append(running, placed{d, s})
			}
			// What is left and what runs is what there was, of everything.
			left := slices.Clone(fleet.machines)
			for _, p := range running {
				left[p.s.Machine].give(&p.d, p.s.Devices)
			}
			for i, m := range fleet.machines {
				if m.CPU < 0 || m.Memory < 0 || slices.Min(m.Idle[:]) < 0 {
					t.Fatalf("machine %d is given out beyond what it has: %+v", i, m)
				}
				if left[i].ID = 0; left[i] != machines[i] {
					t.Fatalf("machine %d: what runs and what is left is %+v, not %+v", i, left[i], machines[i])
				}
			}
		}
	})
}

func TestPlaceRefusesWhatDoesNotFit(t *testing.T) {
	fleet := NewFleet([]Machine{machine(8, 8, 2, 1)}, Fragmentation{NewMix(nil)})
	half := Demand{CPU: 1, Memory: 1, Devices: 1, Milli: 600}
	if err := fleet.Place(half, Spot{0, 1}); err != nil {
		t.Fatal(err)
	}
	before := *fleet.Machine(0)
	cases := map[string]struct {
		d    Demand
		s    Spot
		want string
	}{
		"a piece larger than what is left":     {half, Spot{0, 1}, "device 0 of machine 0 has 400 milli left, not 600"},
		"two devices for one":                  {half, Spot{0, 3}, "not the 1 asked for"},
		"a device the machine does not have":   {half, Spot{0, 4}, "devices 100 are not there"},
		"a machine that is not there":          {half, Spot{1, 1}, "no machine 1"},
		"a machine below the first":            {half, Spot{-1, 1}, "no machine -1"},
		"more processors than are left":        {Demand{CPU: 8}, Spot{}, "7 milli-cores left, not 8"},
		"more memory than is left":             {Demand{Memory: 8}, Spot{}, "memory 7 left, not 8"},
		"a model that is not on the list":      {Demand{Devices: 1, Milli: 100, Models: Models(0).With(0)}, Spot{0, 2}, "not acceptable"},
		"a negative demand":                    {Demand{CPU: -1}, Spot{}, "cpu -1 is negative"},
		"pieces of several devices, one full":  {Demand{Devices: 2, Milli: 500}, Spot{0, 3}, "device 0 of machine 0 has 400 milli left, not 500"},
		"nothing of a GPU":                     {Demand{Devices: 1}, Spot{0, 1}, "gpu milli 0"},
		"more of one GPU than there is of one": {Demand{Devices: 1, Milli: 1001}, Spot{0, 2}, "1001 is not between"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if err := fleet.Place(tc.d, tc.s); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want one with %q", err, tc.want)
			}
			if *fleet.Machine(0) != before {
				t.Error("the machine was changed")
			}
		})
	}
	t.Run("what does not run cannot be removed", func(t *testing.T) {
		if err := fleet.Remove(half, Spot{0, 2}); err == nil {
			t.Error("no error")
		}
		if *fleet.Machine(0) != before {
			t.Error("the machine was changed")
		}
	})
}

func TestFragment(t *testing.T) {
	// Of four demands one wants 500 of a device with 4 cores, two a whole one with 8,
	// one nothing.
	mix := NewMix([]Share{
		{Demand: Demand{CPU: 4, Devices: 1, Milli: 500}, Count: 1}, {Demand: Demand{CPU: 8, Devices: 1, Milli: Whole}, Count: 2}, {Demand: Demand{CPU: 1}, Count: 1},
	})
	cases := map[string]struct {
		cpu  int64
		idle []int16
		want int64
	}{
		"all of an idle machine is of use, but not to who wants none": {16, []int16{1000, 1000}, 2000},
		"a rest too small for a whole demand":                         {16, []int16{1000, 600}, 600*2 + 1600},
		"a rest too small for any":                                    {16, []int16{400}, 400 * 4},
		"processors for the small one only":                           {4, []int16{1000}, 1000*2 + 1000},
		"no processors":                                               {3, []int16{1000}, 4000},
		"nothing idle":                                                {16, []int16{0}, 0},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			m := Machine{CPU: tc.cpu, GPUs: len(tc.idle)}
			copy(m.Idle[:], tc.idle)
			if got := mix.Fragment(&m); got != tc.want {
				t.Errorf("got %d, want %d", got, tc.want)
			}
		})
	}
}

func FuzzFragment(f *testing.F) {
	for seed := range int64(40) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed int64) {
		rng := rand.New(rand.NewSource(seed))
		shares := anyShares(rng)
		mix := NewMix(shares)
		for range 50 {
			m := machine(int64(rng.Intn(10)), 0, rng.Intn(5), Model(rng.Intn(4)))
			for i := range m.GPUs {
				m.Idle[i] = int16(rng.Intn(Whole + 1))
			}
			// As the definition says, one demand after the other.
			var want int64
			for _, s := range shares {
				d := s.Demand
				d.Memory = 0
				use := int64(0)
				if d.Devices > 0 && m.Fits(&d) {
					for _, v := range m.Idle[:m.GPUs] {
						if int64(v) >= d.Milli {
							use += int64(v)
						}
					}
				}
				want += s.Count * (m.IdleMilli() - use)
			}
			if got := mix.Fragment(&m); got != want {
				t.Fatalf("machine %+v: got %d, want %d", m, got, want)
			}
		}
	})
}

func TestPublishedScore(t *testing.T) {
	mix := NewMix([]Share{{Demand: Demand{Devices: 1, Milli: 500}, Count: 3}})
	for decrease, want := range map[int64]int64{0: 50, -1: 49, 1: 50, 3 * 1000: 73, -3 * 1000: 26, 3 * 100_000: 99, -3 * 100_000: 0} {
		if got := mix.published(decrease); got != want { // int(100/(1+e^−(decrease/3/1000)))
			t.Errorf("a decrease of %d scores %d, want %d", decrease, got, want)
		}
	}
}

func TestTypical(t *testing.T) {
	a, b, c := Demand{CPU: 1}, Demand{CPU: 2}, Demand{CPU: 3}
	got := Typical([]Share{{Demand: a, Count: 2}, {Demand: b, Count: 90}, {Demand: a, Count: 4}, {Demand: c, Count: 4}}, 95)
	want := []Share{{Demand: b, Count: 90}, {Demand: a, Count: 6}}
	if !slices.EqualFunc(got, want, func(a, b Share) bool { return a.Count == b.Count && compareWants(&a, &b) == 0 }) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// most returns the most milli that can be placed, by trying everything.
func most(machines []Machine, demands []Demand) int64 {
	if len(demands) == 0 {
		return 0
	}
	d := demands[0]
	best := most(machines, demands[1:])
	for i := range machines {
		m := &machines[i]
		if !m.Fits(&d) {
			continue
		}
		for set := Devices(0); set < 1<<m.GPUs; set++ {
			n, ok := 0, true
			for b := range m.GPUs {
				if set>>b&1 == 1 {
					n++
					ok = ok && int64(m.Idle[b]) >= d.Milli
				}
			}
			if !ok || n != d.Devices {
				continue
			}
			m.take(&d, set)
			best = max(best, d.GPU()+most(machines, demands[1:]))
			m.give(&d, set)
		}
	}
	return best
}

func TestBoundIsNeverBeaten(t *testing.T) {
	instances := 10_000
	if testing.Short() {
		instances = 1000
	}
	rng := rand.New(rand.NewSource(1))
	tight := 0
	for i := range instances {
		var machines []Machine
		for range 1 + rng.Intn(2) {
			machines = append(machines, machine(int64(rng.Intn(20)), int64(rng.Intn(12)), 1+rng.Intn(2), Model(rng.Intn(2))))
		}
		var demands []Demand
		var shares []Share
		for range 1 + rng.Intn(5) {
			d := anyDemand(rng)
			if d.Devices > 2 {
				d.Devices = 2
			}
			demands = append(demands, d)
			shares = append(shares, Share{Demand: d, Count: 1})
		}
		held := most(machines, demands)
		if bound := Bound(machines, shares, 1000); bound < held {
			t.Fatalf("instance %d: %d milli can be placed, above the bound %d\n%+v\n%+v", i, held, bound, machines, demands)
		} else if bound == held {
			tight++
		}
		// Whatever the prices, they prove a bound.
		p := newPacking(machines, shares)
		any := prices{make([]float64, len(p.classes)), make([]float64, len(p.shapes)), make([]float64, len(p.shapes))}
		for c := range any.class {
			any.class[c] = rng.ExpFloat64() * 300
		}
		for k := range any.cpu {
			any.cpu[k] = rng.ExpFloat64() * float64(rng.Intn(3)) * 1e5
		}
		if bound := p.certify(any); bound < held {
			t.Fatalf("instance %d: %d milli can be placed, above the bound %d of prices %v\n%+v\n%+v", i, held, bound, any, machines, demands)
		}
	}
	t.Logf("the bound is what can be placed in %d of %d instances", tight, instances)
	if tight*2 < instances {
		t.Errorf("the bound is what can be placed in only %d of %d instances", tight, instances)
	}
}

func TestBound(t *testing.T) {
	cases := map[string]struct {
		machines []Machine
		shares   []Share
		want     int64
	}{
		"no machines":                     {nil, []Share{{Demand: Demand{Devices: 1, Milli: 500}, Count: 3}}, 0},
		"no demands":                      {[]Machine{machine(9, 9, 2, 0)}, nil, 0},
		"two of 600 need two devices":     {[]Machine{machine(9, 9, 1, 0)}, []Share{{Demand: Demand{Devices: 1, Milli: 600}, Count: 2}}, 600},
		"no more than is asked for":       {[]Machine{machine(9, 9, 8, 0)}, []Share{{Demand: Demand{Devices: 1, Milli: 600}, Count: 2}}, 1200},
		"processors for one of two":       {[]Machine{machine(9000, 9, 2, 0)}, []Share{{Demand: Demand{CPU: 9000, Devices: 1, Milli: 1000}, Count: 2}}, 1000},
		"a model nobody has":              {[]Machine{machine(9, 9, 2, 0)}, []Share{{Demand: Demand{Devices: 1, Milli: 600, Models: 2}, Count: 2}}, 0},
		"more devices than a machine has": {[]Machine{machine(9, 9, 2, 0), machine(9, 9, 2, 0)}, []Share{{Demand: Demand{Devices: 4, Milli: 1000}, Count: 1}}, 0},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got := Bound(tc.machines, tc.shares, 1000); got != tc.want {
				t.Errorf("got %d, want %d", got, tc.want)
			}
		})
	}
}

func TestNeapKeepsScarceMachinesForThoseWhoNeedThem(t *testing.T) {
	// Only the first machine has the processors for the large demand, which is too
	// rare to count among the typical ones.
	machines := []Machine{machine(128, 100, 8, 0), machine(96, 100, 8, 0), machine(96, 100, 8, 0), machine(96, 100, 8, 0)}
	shares := []Share{{Demand: Demand{CPU: 112, Devices: 8, Milli: Whole}, Count: 1}, {Demand: Demand{CPU: 8, Devices: 1, Milli: Whole}, Count: 30}}
	pick := func(without Terms) int {
		s, _ := NewFleet(machines, NewNeap(machines, shares, without)).Pick(shares[1].Demand)
		return s.Machine
	}
	if got := pick(0); got == 0 {
		t.Error("a small demand goes to the machine that the large one needs")
	}
	if got := pick(Scarcity); got != 0 {
		t.Errorf("without the price of scarcity it goes to machine %d, not to the first of equals", got)
	}
}

func BenchmarkPick(b *testing.B) {
	rng := rand.New(rand.NewSource(1))
	var machines []Machine
	for range 1213 {
		machines = append(machines, machine(96_000, 393_216, 8, Model(rng.Intn(6))))
	}
	var shares []Share
	for range 90 {
		shares = append(shares, Share{Demand: Demand{CPU: int64(1+rng.Intn(16)) * 1000, Memory: 1000, Devices: 1, Milli: int64(1+rng.Intn(100)) * 10}, Count: int64(1 + rng.Intn(100))})
	}
	for name, scorer := range map[string]Scorer{"neap": NewNeap(machines, shares, 0), "fgd": Fragmentation{NewMix(shares)}} {
		b.Run(name, func(b *testing.B) {
			fleet := NewFleet(machines, scorer)
			for b.Loop() {
				d := shares[rng.Intn(len(shares))].Demand
				s, ok := fleet.Pick(d)
				if !ok {
					fleet = NewFleet(machines, scorer)
					continue
				}
				if err := fleet.Place(d, s); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
