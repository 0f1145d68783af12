package gpu

import (
	"math"
	"math/big"
)

// priceUnit is how many parts a unit of worth is cut into when prices are made
// integers.
const priceUnit = 1 << 20

// whole returns v in parts, at most so many units.
func whole(v, most float64) int64 {
	if !(v > 0) { // NaN too
		return 0
	}
	return int64(min(v, most) * priceUnit)
}

func addProduct(sum *big.Int, a, b int64) {
	sum.Add(sum, new(big.Int).Mul(big.NewInt(a), big.NewInt(b)))
}

// earns returns the most that a device of pool k can earn with items that are worth
// so much, in parts, and cost a part l for each milli-core.
func (p *packing) earns(k int, worth []int64, l int64) int64 {
	f := p.fill(k, p.most(certifyCells))
	wide := f.have + 1
	table := make([]int64, (int(Whole/p.step)+1)*wide)
	var device int64
	for i, at := range f.items {
		d := &p.items[at].d
		v := worth[at]
		if v <= 0 || l > 0 && d.CPU > v/l {
			continue
		}
		n := int64(d.Devices)
		v = (v - l*d.CPU + n - 1) / n // of a piece
		if d.Milli == Whole {
			device = max(device, v)
			continue
		}
		back := int(d.Milli/p.step)*wide + f.parts[i]
		for from := back - f.parts[i]; from < len(table); from += wide {
			for c := from + f.parts[i]; c < from+wide; c++ {
				table[c] = max(table[c], table[c-back]+v)
			}
		}
	}
	return max(device, table[len(table)-1])
}

// certify turns prices into a bound in integers: the most milli that can be placed.
// It is valid whatever the prices are: with y of a class, l of a shape's
// processors, and e the most that a device of a pool can then earn, it is
//
//	Σ y·comes + Σ l·processors + Σ e·devices
func (p *packing) certify(at prices) int64 {
	var total, all big.Int
	y := make([]int64, len(p.comes))
	for c := range y {
		y[c] = whole(at.class[c], MaxDevices*Whole)
		addProduct(&total, y[c], p.comes[c])
	}
	worth := make([]int64, len(p.items))
	most := make([]int64, len(p.comes))
	for i := range p.items {
		it := &p.items[i]
		worth[i] = it.d.GPU()*priceUnit - y[it.class]
		most[it.class] = max(most[it.class], it.d.GPU())
	}
	for c, n := range p.comes {
		addProduct(&all, most[c], n)
	}
	for k := range p.pools {
		s := p.pools[k].shape
		addProduct(&total, p.earns(k, worth, whole(at.core[s]/1000, MaxDevices*Whole)), p.pools[k].devices)
	}
	for k := range p.shapes {
		s := &p.shapes[k]
		var cpus big.Int
		addProduct(&cpus, max(0, s.key.cpu), s.count)
		total.Add(&total, cpus.Mul(&cpus, big.NewInt(whole(at.core[k]/1000, MaxDevices*Whole))))
	}
	total.Div(&total, big.NewInt(priceUnit)) // down: what is placed is a whole number
	if all.Cmp(&total) < 0 {
		total = all
	}
	if !total.IsInt64() {
		return math.MaxInt64
	}
	return total.Int64()
}

// Bound returns an upper bound on the milli of GPUs that any placement of the
// demands on the machines, empty as given, can hold at once, whichever of them it
// leaves out. It is valid always, and near the best such bound after enough steps:
// a few thousand are enough for hundreds of kinds of demands.
func Bound(machines []Machine, shares []Share, steps int) int64 {
	p := newPacking(machines, shares, nil, maxShapes)
	if len(p.shapes) == 0 || len(p.comes) == 0 {
		return 0
	}
	return p.certify(p.solve(steps))
}

// dear is what the dearest machine costs in the search for prices, and reward what
// placing a demand is worth there: more than it can cost, unless machines run out.
const (
	dear   = 1000
	reward = 16 * dear
)

// Fewest returns a lower bound on the price of the machines that any placement of
// all the demands on the machines, empty as given, uses: the sum of price[i], in any
// unit, over the machines i that run something. It is valid always, and near the best
// such bound after enough steps. If there is no such placement it says nothing, and
// is at most the price of all machines. No price may be below 0, nor their sum
// overflow.
func Fewest(machines []Machine, price []int64, shares []Share, steps int) int64 {
	var common, all int64
	for _, v := range price {
		common = gcd(common, v)
		all += v
	}
	p := newPacking(machines, shares, price, maxShapes)
	if p.dearest == 0 {
		return 0
	}
	least := p.certifyPrice(p.solve(steps), all)
	// Up to what prices can add up to.
	return min((least+common-1)/common*common, all)
}

// certifyPrice turns prices into a bound in integers: the least price of machines
// that hold everything, at most all. It is valid whatever the prices are: with y of a
// class, and v the most that all demands on one machine of a shape can then be
// worth, it is
//
//	Σ y·comes − Σ machines · max(0, v − price of one)
//
// and that for y and v times any number, of which the best is taken.
func (p *packing) certifyPrice(at prices, all int64) int64 {
	y := make([]int64, len(p.comes))
	for c := range y {
		y[c] = whole(reward-at.class[c], reward) // what it pays for its place
	}
	l := make([]int64, len(p.shapes)) // of a milli-core
	for k := range l {
		l[k] = whole(at.core[k]/1000, reward)
	}
	for i := range p.items {
		// What asks for no GPU is worth no more than its processors anywhere.
		if it := &p.items[i]; it.d.Devices == 0 {
			for k := range p.shapes {
				if it.d.CPU <= p.shapes[k].key.cpu && (it.d.CPU == 0 || l[k] < y[it.class]/it.d.CPU+1) {
					y[it.class] = min(y[it.class], l[k]*it.d.CPU)
				}
			}
		}
	}
	worth := make([]int64, len(p.items))
	for i := range p.items {
		worth[i] = y[p.items[i].class]
	}
	var sum big.Int // Σ y·comes, in parts of the dearest machine's price
	for c, n := range p.comes {
		addProduct(&sum, y[c], n)
	}
	sum.Mul(&sum, big.NewInt(p.dearest))
	values := make([]big.Int, len(p.shapes)) // v, in the same
	for k := range p.shapes {
		addProduct(&values[k], l[k], max(0, p.shapes[k].key.cpu))
		for _, i := range p.shapes[k].pools {
			addProduct(&values[k], p.earns(i, worth, l[k]), p.pools[i].each)
		}
		values[k].Mul(&values[k], big.NewInt(p.dearest))
	}
	costs := make([]big.Int, len(p.shapes))
	for k := range costs {
		addProduct(&costs[k], p.shapes[k].key.price, dear*priceUnit)
	}
	// bound returns the bound for y times num/den, rounded up.
	bound := func(num, den *big.Int) int64 {
		total := new(big.Int).Mul(&sum, num)
		for k := range values {
			over := new(big.Int).Mul(&values[k], num)
			over.Sub(over, new(big.Int).Mul(&costs[k], den))
			if over.Sign() > 0 {
				total.Sub(total, over.Mul(over, big.NewInt(p.shapes[k].count)))
			}
		}
		by := new(big.Int).Mul(den, big.NewInt(dear*priceUnit))
		total.Add(total, by).Sub(total, big.NewInt(1)).Div(total, by)
		switch {
		case total.Sign() < 0:
			return 0
		case !total.IsInt64():
			return all
		}
		return min(total.Int64(), all)
	}
	best := bound(big.NewInt(1<<30), big.NewInt(1)) // the last of these numbers: if machines run out there is no end
	for k := range values {
		if values[k].Sign() > 0 {
			best = max(best, bound(&costs[k], &values[k]))
		}
	}
	return best
}
