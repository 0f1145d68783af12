package gpu

import (
	"math/rand"
	"slices"
	"strings"
	"testing"
	"time"
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
	switch rng.Intn(7) {
	case 0:
	case 1:
		d.Devices, d.Milli = 1+rng.Intn(4), Whole
	case 2:
		d.Devices, d.Milli = 2+rng.Intn(2), int64(1+rng.Intn(20))*50
	default:
		d.Devices, d.Milli = 1, int64(1+rng.Intn(20))*50
	}
	if d.Devices > 0 && rng.Intn(2) == 0 {
		d.DeviceMemory = int64(rng.Intn(9))
	}
	if d.Devices > 0 && rng.Intn(4) == 0 {
		d.Models = Models(1 + rng.Intn(7))
	}
	return d
}

// anyMachine draws a small machine, with different and sick devices at times.
func anyMachine(rng *rand.Rand) Machine {
	m := machine(int64(rng.Intn(40)), int64(rng.Intn(30)), rng.Intn(5), Model(rng.Intn(3)))
	for i := range m.GPUs {
		m.IdleMemory[i] = 8
		if rng.Intn(8) == 0 {
			m.Model[i] = Model(rng.Intn(3))
		}
		if rng.Intn(8) == 0 {
			m.IdleMemory[i] = int32(rng.Intn(17))
		}
		if rng.Intn(16) == 0 {
			m.Sick |= 1 << i
		}
	}
	return m
}

func anyMachines(rng *rand.Rand, most int) []Machine {
	var machines []Machine
	for range 1 + rng.Intn(most) {
		machines = append(machines, anyMachine(rng))
	}
	return machines
}

func anyShares(rng *rand.Rand) []Share {
	var shares []Share
	for range 1 + rng.Intn(12) {
		s := Share{Demand: anyDemand(rng), Count: int64(1 + rng.Intn(50))}
		for rng.Intn(4) == 0 {
			s.Or = append(s.Or, anyDemand(rng))
		}
		shares = append(shares, s)
	}
	return shares
}

func anyScorer(rng *rand.Rand, machines []Machine) Scorer {
	shares := anyShares(rng)
	if rng.Intn(3) == 0 {
		return Fragmentation{NewMix(shares)}
	}
	return NewNeap(machines, shares, Terms(rng.Intn(16)))
}

// sameBooks reports whether the fleets have the same machines with the same left.
func sameBooks(a, b *Fleet) bool {
	return slices.Equal(a.machines, b.machines) && slices.Equal(a.whole, b.whole)
}

func FuzzFleet(f *testing.F) {
	for seed := range int64(40) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed int64) {
		rng := rand.New(rand.NewSource(seed))
		machines := anyMachines(rng, 6)
		scorer := anyScorer(rng, machines)
		fleet := NewFleet(machines, scorer)
		prices := []int64{int64(rng.Intn(3)), 1 + int64(rng.Intn(9)), 5}
		fleet.SetPrices(prices)
		machines = slices.Clone(fleet.machines)
		type placed struct {
			d Demand
			s Spot
		}
		var running []placed
		// fresh is a fleet that never remembered anything and was never changed.
		fresh := func() *Fleet {
			f := NewFleet(machines, scorer)
			f.SetPrices(prices)
			for _, p := range running {
				if err := f.Record(p.d, p.s); err != nil {
					t.Fatalf("book what runs once more: %v", err)
				}
			}
			return f
		}
		for range 120 {
			switch i := rng.Intn(len(machines)); rng.Intn(12) {
			case 0: // the machine becomes another, whatever runs there
				machines[i] = proper(i, anyMachine(rng))
				fleet.Set(i, machines[i])
			case 1: // a device falls sick or recovers
				m := machines[i]
				m.Sick ^= 1 << rng.Intn(MaxDevices)
				machines[i] = proper(i, m)
				fleet.Set(i, m)
			case 2:
				if m := anyMachine(rng); len(machines) < 10 {
					at := fleet.Add(m)
					machines = append(machines, proper(at, m))
				}
			case 3:
				scorer = anyScorer(rng, machines)
				fleet.Rescore(scorer)
			case 4: // what somebody else put there, fit or not
				d := anyDemand(rng)
				s := Spot{Machine: i}
				for s.Devices.Len() < d.Devices {
					s.Devices |= 1 << rng.Intn(MaxDevices)
				}
				if err := fleet.Record(d, s); err != nil {
					t.Fatalf("record %+v on %+v: %v", d, s, err)
				}
				running = append(running, placed{d, s})
			case 5:
				copied := fleet.Clone()
				if d := anyDemand(rng); d.Devices > 0 {
					if s, ok := copied.Pick(d); ok && copied.Place(d, s) == nil && sameBooks(copied, fleet) {
						t.Fatal("a placement on a clone does not show there, or shows on the fleet")
					}
				}
				copied.Set(i, anyMachine(rng))
			}
			if len(running) > 0 && rng.Intn(4) == 0 {
				i := rng.Intn(len(running))
				if err := fleet.Remove(running[i].d, running[i].s); err != nil {
					t.Fatalf("remove what runs: %v", err)
				}
				running = slices.Delete(running, i, i+1)
			}
			again := fresh()
			if !sameBooks(fleet, again) {
				t.Fatalf("what is left is %+v\nwith what runs put on afresh %+v", fleet.machines, again.machines)
			}
			d := anyDemand(rng)
			s, ok := fleet.Pick(d)
			if s2, ok2 := again.Pick(d); s2 != s || ok2 != ok {
				t.Fatalf("%+v goes to %v %v, and in a fresh fleet to %v %v", d, s, ok, s2, ok2)
			}
			if fits := slices.ContainsFunc(fleet.machines, func(m Machine) bool { return m.Fits(&d) }); fits != ok {
				t.Fatalf("%+v fits %v but picked is %v", d, fits, ok)
			}
			if one := fleet.Best([]Demand{d}, 1, nil); len(one) > 0 != ok || ok && one[0].Spot != s {
				t.Fatalf("%+v is picked for %v %v but the best is %+v", d, s, ok, one)
			}
			checkBest(t, rng, fleet, again)
			if ok {
				if m := fleet.Machine(s.Machine); s.Devices&m.Sick != 0 || s.Devices.Len() != d.Devices || s.Devices&^m.Usable(&d) != 0 {
					t.Fatalf("%+v is given %b of %+v", d, s.Devices, *m)
				}
				if err := fleet.Place(d, s); err != nil {
					t.Fatalf("place what was picked: %v", err)
				}
				running = append(running, placed{d, s})
			}
		}
		for _, p := range running {
			if err := fleet.Remove(p.d, p.s); err != nil {
				t.Fatalf("remove what runs: %v", err)
			}
		}
		if !slices.Equal(fleet.machines, fleet.whole) {
			t.Fatalf("with nothing running %+v is left of %+v", fleet.machines, fleet.whole)
		}
	})
}

// checkBest tests the choice among drawn alternatives: every machine that may host
// one of them once, in order, each spot free, and fewer being the first of many.
func checkBest(t *testing.T, rng *rand.Rand, fleet, again *Fleet) {
	t.Helper()
	var alternatives []Demand
	for range 1 + rng.Intn(3) {
		alternatives = append(alternatives, anyDemand(rng))
	}
	barred := rng.Intn(fleet.Len() + 1)
	may := func(i int) bool { return i != barred }
	all := fleet.Best(alternatives, fleet.Len()+5, may)
	if other := again.Best(alternatives, fleet.Len(), may); !slices.Equal(all, other) {
		t.Fatalf("the best are %+v, and in a fresh fleet %+v", all, other)
	}
	k := rng.Intn(fleet.Len() + 1)
	if few := fleet.Best(alternatives, k, may); !slices.Equal(few, all[:min(k, len(all))]) {
		t.Fatalf("the %d best are %+v of %+v", k, few, all)
	}
	var seen uint64
	for i, c := range all {
		if i > 0 && (c.Score > all[i-1].Score || c.Score == all[i-1].Score && c.Spot.Machine < all[i-1].Spot.Machine) {
			t.Fatalf("not in order: %+v", all)
		}
		if seen>>c.Spot.Machine&1 == 1 || c.Spot.Machine == barred {
			t.Fatalf("machine %d is there twice, or must not be: %+v", c.Spot.Machine, all)
		}
		seen |= 1 << c.Spot.Machine
		if err := fleet.Clone().Place(alternatives[c.Alternative], c.Spot); err != nil {
			t.Fatalf("%+v: %v", c, err)
		}
	}
	for i := range fleet.Len() {
		fits := slices.ContainsFunc(alternatives, func(d Demand) bool { return fleet.Machine(i).Fits(&d) })
		if fits && i != barred != (seen>>i&1 == 1) {
			t.Fatalf("machine %d fits %v, barred is %d: %+v", i, fits, barred, all)
		}
	}
}

func TestPlaceRefusesWhatDoesNotFit(t *testing.T) {
	mixed := machine(8, 8, 3, 1)
	mixed.IdleMemory, mixed.Model[2], mixed.Sick = [MaxDevices]int32{24, 24, 80}, 2, 2
	fleet := NewFleet([]Machine{machine(8, 8, 2, 1), mixed}, Fragmentation{NewMix(nil)})
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
		"a machine that is not there":          {half, Spot{2, 1}, "no machine 2"},
		"more memory of a GPU than is left":    {Demand{Devices: 1, Milli: 100, DeviceMemory: 25}, Spot{1, 1}, "device 0 of machine 1 has 24 MiB left, not 25"},
		"a sick device":                        {half, Spot{1, 2}, "device 1 of machine 1 is sick"},
		"devices of two models":                {Demand{Devices: 2, Milli: 100}, Spot{1, 5}, "devices 101 of machine 1 are not of one model"},
		"memory of no GPU":                     {Demand{DeviceMemory: 5}, Spot{1, 0}, "gpu memory 5 of no GPU"},
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

func TestBestWeighsWhatAlternativesCost(t *testing.T) {
	// Two empty machines of two models, on which the scorer sees no difference.
	fleet := NewFleet([]Machine{machine(8, 8, 1, 0), machine(8, 8, 1, 1)}, Fragmentation{NewMix(nil)})
	slow, fast := Demand{Devices: 1, Milli: 600, Models: 1}, Demand{Devices: 1, Milli: 200, Models: 2}
	cases := map[string]struct {
		prices []int64
		want   int // alternative
	}{
		"without prices the first":                  {nil, 0},
		"the fast one costs less for a third":       {[]int64{10, 20}, 1},
		"the slow one costs less at a fifth":        {[]int64{10, 50}, 0},
		"a price that is not known counts as least": {[]int64{10, 0}, 0},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			fleet.SetPrices(tc.prices)
			best := fleet.Best([]Demand{slow, fast}, 2, nil)
			if len(best) != 2 || best[0].Alternative != tc.want || best[0].Spot.Machine != tc.want {
				t.Errorf("got %+v, want alternative %d first", best, tc.want)
			}
		})
	}
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
			m := anyMachine(rng)
			m.Memory = 100
			for i := range m.GPUs {
				m.Idle[i] = int16(rng.Intn(Whole + 1))
				m.IdleMemory[i] = int32(rng.Intn(17))
			}
			want := plainFragment(shares, &m)
			if got := mix.Fragment(&m); got != want {
				t.Fatalf("machine %+v: got %d, want %d", m, got, want)
			}
			// The short way to what it is with a demand placed comes to the same.
			d := anyDemand(rng)
			if !m.Fits(&d) {
				continue
			}
			mix.each(&m, &d, func(after *Machine, on Devices, decrease int64) {
				now := m
				now.take(&d, on)
				if now != *after || mix.Fragment(&now) != want-decrease {
					t.Fatalf("%+v with %+v on %b: decrease %d to %+v", m, d, on, decrease, *after)
				}
			})
		}
	})
}

// plainFragment is as the definition says, one demand after the other.
func plainFragment(shares []Share, m *Machine) int64 {
	var sum int64
	for _, s := range shares {
		use := int64(0)
		for model := range Model(MaxModels) {
			for d := range s.demands {
				if !d.Models.Accepts(model) {
					continue
				}
				n, idle := 0, int64(0)
				for i := range m.GPUs {
					if m.Model[i] == model && m.Sick>>i&1 == 0 && int64(m.Idle[i]) >= d.Milli && int64(m.IdleMemory[i]) >= d.DeviceMemory {
						n++
						idle += int64(m.Idle[i])
					}
				}
				if d.Devices > 0 && d.CPU <= m.CPU && n >= d.Devices {
					use += idle
				}
				break // of alternatives on one model the first counts
			}
		}
		sum += s.Count * (m.IdleMilli() - use)
	}
	return sum
}

func TestAMixOfManyAmountsStaysSmall(t *testing.T) {
	rng := rand.New(rand.NewSource(1))
	var shares []Share
	for range 3000 {
		shares = append(shares, Share{Demand: Demand{CPU: rng.Int63n(100_000), Devices: 1, Milli: 1 + rng.Int63n(1000), DeviceMemory: rng.Int63n(80_000)}, Count: 1})
	}
	mix := NewMix(shares)
	if n := mix.cells(); n > maxCells {
		t.Errorf("%d cells are more than %d", n, maxCells)
	}
	m := machine(50_000, 0, 8, 0)
	for i := range m.GPUs {
		m.Idle[i], m.IdleMemory[i] = int16(rng.Intn(Whole+1)), rng.Int31n(80_000)
	}
	exact, got := plainFragment(shares, &m), mix.Fragment(&m)
	if got < exact || got > exact+exact/10 {
		t.Errorf("%d is not a little above %d", got, exact)
	}
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

// benchFleet draws 1,213 machines and 90 demands.
func benchFleet(memory bool) ([]Machine, []Share) {
	rng := rand.New(rand.NewSource(1))
	var machines []Machine
	for i := range 1213 {
		m := machine(96_000, 393_216, 8, Model(rng.Intn(6)))
		for k := range m.GPUs {
			if memory {
				m.IdleMemory[k] = []int32{16 << 10, 24 << 10, 40 << 10, 80 << 10}[int(m.Model[k])%4]
			}
			if memory && i%10 == 0 && k >= 4 { // two models on one machine
				m.Model[k] = 5
			}
		}
		machines = append(machines, m)
	}
	var shares []Share
	for range 90 {
		d := Demand{CPU: int64(1+rng.Intn(16)) * 1000, Memory: 1000, Devices: 1, Milli: int64(1+rng.Intn(100)) * 10}
		if memory {
			d.DeviceMemory = int64(1+rng.Intn(20)) << 10
			if rng.Intn(10) == 0 {
				d.Devices = 2
			}
		}
		shares = append(shares, Share{Demand: d, Count: int64(1 + rng.Intn(100))})
	}
	return machines, shares
}

// BenchmarkPick places and removes on 1,213 machines. Besides the mean of both it
// reports the median and the 99th percentile of the choice alone, in µs.
func BenchmarkPick(b *testing.B) {
	for _, memory := range []bool{false, true} {
		machines, shares := benchFleet(memory)
		for name, scorer := range map[string]Scorer{"neap": NewNeap(machines, shares, 0), "fgd": Fragmentation{NewMix(shares)}} {
			if memory {
				name += "-memory"
			}
			b.Run(name, func(b *testing.B) {
				rng := rand.New(rand.NewSource(1))
				fleet := NewFleet(machines, scorer)
				type placed struct {
					d Demand
					s Spot
				}
				var running []placed
				took := make([]time.Duration, 0, 1<<20)
				for b.Loop() {
					d := shares[rng.Intn(len(shares))].Demand
					began := time.Now()
					s, ok := fleet.Pick(d)
					took = append(took, time.Since(began))
					if ok {
						if err := fleet.Place(d, s); err != nil {
							b.Fatal(err)
						}
						running = append(running, placed{d, s})
					}
					for n := rng.Intn(3); !ok && n >= 0; n-- { // full: some go
						i := rng.Intn(len(running))
						if err := fleet.Remove(running[i].d, running[i].s); err != nil {
							b.Fatal(err)
						}
						running[i] = running[len(running)-1]
						running = running[:len(running)-1]
					}
				}
				slices.Sort(took)
				b.ReportMetric(float64(took[len(took)/2])/1e3, "p50-µs")
				b.ReportMetric(float64(took[len(took)*99/100])/1e3, "p99-µs")
				b.ReportMetric(float64(took[len(took)-1])/1e3, "max-µs")
			})
		}
	}
}

// BenchmarkBest chooses 16 machines among two alternatives, each on its own model.
func BenchmarkBest(b *testing.B) {
	var machines []Machine
	for i := range 1213 {
		machines = append(machines, machine(96_000, 393_216, 8, Model(i%3)))
	}
	or := []Demand{{CPU: 1000, Devices: 1, Milli: 650, Models: 1}, {CPU: 1000, Devices: 1, Milli: 300, Models: 2}}
	fleet := NewFleet(machines, NewNeap(machines, []Share{{Demand: or[0], Or: or[1:], Count: 1}}, 0))
	fleet.SetPrices([]int64{1, 2, 3})
	for b.Loop() {
		best := fleet.Best(or, 16, nil)
		if len(best) == 0 {
			fleet = NewFleet(machines, fleet.scorer)
			continue
		}
		if err := fleet.Place(or[best[0].Alternative], best[0].Spot); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkFirstPick chooses for a demand that the fleet has never seen, with every
// device in another state: nothing is remembered.
func BenchmarkFirstPick(b *testing.B) {
	for _, memory := range []bool{false, true} {
		machines, shares := benchFleet(memory)
		name := "neap"
		if memory {
			name = "neap-memory"
		}
		b.Run(name, func(b *testing.B) {
			rng := rand.New(rand.NewSource(1))
			scorer := NewNeap(machines, shares, 0)
			fleet := NewFleet(machines, scorer)
			for range 9000 {
				d := shares[rng.Intn(len(shares))].Demand
				if s, ok := fleet.Pick(d); ok && fleet.Place(d, s) != nil {
					b.Fatal("what was picked does not fit")
				}
			}
			d := Demand{CPU: 500, Devices: 1, Milli: 50}
			for b.Loop() {
				fleet.Rescore(scorer)
				fleet.Pick(d)
			}
		})
	}
}
