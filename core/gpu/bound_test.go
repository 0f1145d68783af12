package gpu

import (
	"math/rand"
	"testing"
)

// try calls next with each way to place one of the demands, and undoes it.
func try(machines []Machine, s *Share, next func(d *Demand)) {
	for d := range s.demands {
		for i := range machines {
			m := &machines[i]
			if !m.Fits(d) {
				continue
			}
			usable := m.Usable(d)
			for on := Devices(0); on < 1<<m.GPUs; on++ {
				if on.Len() == d.Devices && on&^usable == 0 && m.alike(on) == on {
					m.take(d, on)
					next(d)
					m.give(d, on)
				}
			}
		}
	}
}

// most returns the most milli that can be placed, by trying everything.
func most(machines []Machine, shares []Share) int64 {
	if len(shares) == 0 {
		return 0
	}
	best := most(machines, shares[1:])
	try(machines, &shares[0], func(d *Demand) { best = max(best, d.GPU()+most(machines, shares[1:])) })
	return best
}

// least returns the least price of machines on which everything can be placed, −1 if
// it cannot, by trying everything.
func least(machines []Machine, price []int64, shares []Share) int64 {
	if len(shares) == 0 {
		var sum int64
		for i := range machines {
			if machines[i].Pods > 0 {
				sum += price[i]
			}
		}
		return sum
	}
	best := int64(-1)
	try(machines, &shares[0], func(*Demand) {
		if v := least(machines, price, shares[1:]); v >= 0 && (best < 0 || v < best) {
			best = v
		}
	})
	return best
}

// anyInstance draws machines and single demands that exhaustive search can do.
func anyInstance(rng *rand.Rand) ([]Machine, []Share) {
	memory := rng.Intn(3) > 0
	var machines []Machine
	for range 1 + rng.Intn(2) {
		m := machine(int64(rng.Intn(20)), int64(rng.Intn(12)), 1+rng.Intn(2), Model(rng.Intn(2)))
		for i := range m.GPUs {
			if memory {
				m.IdleMemory[i] = int32(8 + 8*rng.Intn(2))
			}
			if rng.Intn(6) == 0 {
				m.Model[i] = Model(rng.Intn(2))
			}
			if rng.Intn(12) == 0 {
				m.Sick |= 1 << i
			}
		}
		machines = append(machines, m)
	}
	draw := func() Demand {
		d := anyDemand(rng)
		d.Devices = min(d.Devices, 2)
		if d.DeviceMemory = 0; memory && d.Devices > 0 {
			d.DeviceMemory = int64(rng.Intn(12))
		}
		return d
	}
	var shares []Share
	for range 1 + rng.Intn(5) {
		s := Share{Demand: draw(), Count: 1}
		if rng.Intn(6) == 0 {
			s.Or = append(s.Or, draw())
		}
		shares = append(shares, s)
	}
	return machines, shares
}

func instances() int {
	if testing.Short() {
		return 1000
	}
	return 10_000
}

// anyPrices draws prices of an LP that may be far off.
func anyPrices(rng *rand.Rand, p *packing, scale float64) prices {
	out := prices{make([]float64, len(p.comes)), make([]float64, len(p.pools)), make([]float64, len(p.shapes))}
	for c := range out.class {
		out.class[c] = rng.ExpFloat64() * scale
	}
	for k := range out.core {
		out.core[k] = rng.ExpFloat64() * float64(rng.Intn(3)) * 300 * scale
	}
	return out
}

// checkBound tests the bound of one instance, and that whatever the prices, and
// however coarse the shapes, they prove one. It reports whether the bound is met.
func checkBound(t *testing.T, rng *rand.Rand) bool {
	t.Helper()
	machines, shares := anyInstance(rng)
	held := most(machines, shares)
	bound := Bound(machines, shares, 1000)
	if bound < held {
		t.Fatalf("%d milli can be placed, above the bound %d\n%+v\n%+v", held, bound, machines, shares)
	}
	p := newPacking(machines, shares, nil, rng.Intn(3))
	at := anyPrices(rng, p, 300)
	if loose := p.certify(at); loose < held {
		t.Fatalf("%d milli can be placed, above the bound %d of prices %v\n%+v\n%+v", held, loose, at, machines, shares)
	}
	return bound == held
}

// checkFewest does the same for the price of machines. It reports whether there is a
// placement, and whether the bound is its price.
func checkFewest(t *testing.T, rng *rand.Rand) (possible, tight bool) {
	t.Helper()
	machines, shares := anyInstance(rng)
	price := make([]int64, len(machines))
	var all int64
	for i := range price {
		price[i] = int64(rng.Intn(5) * (1 + rng.Intn(100)))
		all += price[i]
	}
	cost := least(machines, price, shares)
	bound := Fewest(machines, price, shares, 1000)
	if bound < 0 || bound > all {
		t.Fatalf("the bound %d is not between 0 and the price of all machines, %d", bound, all)
	}
	if cost < 0 {
		return false, false
	}
	if bound > cost {
		t.Fatalf("everything fits for %d, below the bound %d\nprices %v\n%+v\n%+v", cost, bound, price, machines, shares)
	}
	if p := newPacking(machines, shares, price, rng.Intn(3)); p.dearest > 0 {
		at := anyPrices(rng, p, 50)
		for c := range at.class {
			at.class[c] = reward - at.class[c]
		}
		if loose := p.certifyPrice(at, all); loose > cost {
			t.Fatalf("everything fits for %d, below the bound %d of prices %v\n%v\n%+v\n%+v", cost, loose, at, price, machines, shares)
		}
	}
	return true, bound == cost
}

func TestBoundIsNeverBeaten(t *testing.T) {
	rng := rand.New(rand.NewSource(1))
	tight := 0
	for range instances() {
		if checkBound(t, rng) {
			tight++
		}
	}
	t.Logf("the bound is what can be placed in %d of %d instances", tight, instances())
	if tight*2 < instances() {
		t.Error("that is less than half")
	}
}

func TestFewestIsNeverBeaten(t *testing.T) {
	rng := rand.New(rand.NewSource(2))
	tight := 0
	for done := 0; done < instances(); {
		possible, met := checkFewest(t, rng)
		if possible {
			done++
		}
		if met {
			tight++
		}
	}
	t.Logf("the bound is what is needed in %d of %d instances", tight, instances())
	if tight*2 < instances() {
		t.Error("that is less than half")
	}
}

func FuzzBound(f *testing.F) {
	for seed := range int64(40) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed int64) {
		rng := rand.New(rand.NewSource(seed))
		checkBound(t, rng)
		checkFewest(t, rng)
	})
}

func TestFewest(t *testing.T) {
	of24 := machine(9, 9, 2, 0)
	of24.IdleMemory[0], of24.IdleMemory[1] = 24, 24
	two := []Machine{of24, of24, of24}
	half := Demand{Devices: 1, Milli: 500}
	cases := map[string]struct {
		price  []int64
		shares []Share
		want   int64
	}{
		"nothing needs nothing":                           {[]int64{5, 5, 5}, nil, 0},
		"four halves need one machine":                    {[]int64{5, 5, 5}, []Share{{Demand: half, Count: 4}}, 5},
		"a fifth half needs another":                      {[]int64{5, 5, 5}, []Share{{Demand: half, Count: 5}}, 10},
		"the cheapest machine is enough":                  {[]int64{7, 3, 7}, []Share{{Demand: half, Count: 4}}, 3},
		"memory for three needs a machine and a half":     {[]int64{5, 5, 5}, []Share{{Demand: Demand{Devices: 1, Milli: 100, DeviceMemory: 13}, Count: 3}}, 10},
		"processors alone need machines":                  {[]int64{5, 5, 5}, []Share{{Demand: Demand{CPU: 9}, Count: 2}}, 10},
		"what fits nowhere costs no more than there is":   {[]int64{5, 5, 5}, []Share{{Demand: Demand{Devices: 4, Milli: 10}, Count: 1}}, 15},
		"the lesser of two alternatives is what it costs": {[]int64{5, 5, 5}, []Share{{Demand: Demand{Devices: 1, Milli: 1000}, Or: []Demand{half}, Count: 4}}, 5},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got := Fewest(two, tc.price, tc.shares, 1000); got != tc.want {
				t.Errorf("got %d, want %d", got, tc.want)
			}
		})
	}
}
