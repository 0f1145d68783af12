package gpu

import (
	"cmp"
	"math"
	"math/bits"
	"slices"
)

// A shape is machines that a bound does not tell apart. Sick devices are left out.
type shape struct {
	key   shapeKey
	count int64
	pools []int // of its devices
}

// devices returns how many there are of all machines.
func (s *shape) devices() int64 { return s.count * int64(s.key.gpus) }

// A shapeKey is what makes a shape. Devices are in order of model and memory.
type shapeKey struct {
	gpus   int
	model  [MaxDevices]Model
	mib    [MaxDevices]int32
	cpu    int64
	memory int64
	price  int64 // of one machine; 0 if prices do not matter
}

func compareShapes(a, b *shapeKey) int {
	return cmp.Or(cmp.Compare(a.model[0], b.model[0]), cmp.Compare(a.gpus, b.gpus), cmp.Compare(a.cpu, b.cpu), cmp.Compare(a.memory, b.memory),
		slices.Compare(a.model[:], b.model[:]), slices.Compare(a.mib[:], b.mib[:]), cmp.Compare(a.price, b.price))
}

// keyOf returns the key of an empty machine. The coarser, the more machines share
// one: what they have is rounded up and their price down.
func keyOf(m *Machine, price int64, coarse int) shapeKey {
	key := shapeKey{cpu: m.CPU, memory: m.Memory, price: price}
	mib := m.IdleMemory
	if coarse > 0 {
		key.memory = roundUp(m.Memory, 2)
	}
	if keep := 8 - coarse; coarse > 1 {
		key.cpu = roundUp(m.CPU, keep)
		for i, v := range mib {
			mib[i] = int32(min(roundUp(int64(v), keep), math.MaxInt32))
		}
		key.price = price - price&(1<<max(0, bits.Len64(uint64(price))-keep)-1)
	}
	devices := inOrder(m, &mib)
	key.gpus = len(devices)
	for k, i := range devices {
		key.model[k], key.mib[k] = m.Model[i], mib[i]
	}
	return key
}

// inOrder returns the healthy devices of m in order of model and memory.
func inOrder(m *Machine, mib *[MaxDevices]int32) []int {
	devices := make([]int, 0, MaxDevices)
	for i := range m.GPUs {
		if m.Sick>>i&1 == 0 {
			devices = append(devices, i)
		}
	}
	slices.SortStableFunc(devices, func(a, b int) int {
		return cmp.Or(cmp.Compare(m.Model[a], m.Model[b]), cmp.Compare(mib[a], mib[b]))
	})
	return devices
}

// roundUp returns the least number at least v that has zeros after its first so many
// bits.
func roundUp(v int64, keep int) int64 {
	if v <= 0 {
		return 0
	}
	low := int64(1)<<max(0, bits.Len64(uint64(v))-keep) - 1
	return (min(v, math.MaxInt64-low) + low) &^ low
}

// A pool is the equal devices of a shape's machines.
type pool struct {
	shape   int
	model   Model
	mib     int64 // of one device
	each    int64 // devices of one machine
	devices int64 // of all
}

// An item is a demand that a class is placed as.
type item struct {
	class int
	d     Demand
	worth float64 // of placing it
}

// packing is the relaxed packing problem: whole demands cut into devices' worth,
// processors pooled over the machines of a shape, the machines' memory left out.
//
//	maximise   Σ worth of what is placed
//	such that  each class is placed at most as often as it comes
//	           each pool gives at most its devices, each shape its processors
//
// whose columns are the ways to fill one device of a pool, with milli and with
// memory, and the demands for several whole devices. With prices of machines there
// are columns for renting one besides, for their price, and a shape has as many
// devices and processors as are rented, at most all.
type packing struct {
	shapes []shape
	pools  []pool
	comes  []int64 // by class
	items  []item  // by class
	step   int64   // divides every milli

	of      []int // by machine: its shape, −1 if it has none
	priced  bool
	dearest int64 // price of a machine
}

// newPacking returns the packing of demands for GPUs, each worth its milli, or of
// all demands if there are prices, by machine. If there are more shapes than so many
// the machines are told apart less well.
func newPacking(machines []Machine, shares []Share, price []int64, shapes int) *packing {
	p := &packing{step: Whole, priced: price != nil}
	for coarse := range 8 {
		if p.group(machines, price, coarse); len(p.shapes) <= shapes {
			break
		}
	}
	for k := range p.shapes {
		s := &p.shapes[k]
		for i := range s.key.gpus {
			n := len(p.pools)
			if i == 0 || s.key.model[i] != s.key.model[i-1] || s.key.mib[i] != s.key.mib[i-1] {
				p.pools = append(p.pools, pool{shape: k, model: s.key.model[i], mib: int64(s.key.mib[i])})
				s.pools = append(s.pools, n)
				n++
			}
			p.pools[n-1].each++
			p.pools[n-1].devices += s.count
		}
	}
	var classes []Share
	for _, s := range shares {
		if !s.valid() {
			continue
		}
		c := Share{Demand: s.Demand, Count: s.Count, Or: slices.Clone(s.Or)}
		some := false
		for d := range c.demands {
			d.Memory = 0
			some = some || d.Devices > 0
		}
		if some || p.priced {
			classes = append(classes, c)
		}
	}
	for _, c := range summed(classes) {
		for d := range c.demands {
			worth := float64(d.GPU())
			if p.priced {
				worth = reward
			}
			p.items = append(p.items, item{len(p.comes), *d, worth})
			if d.Devices > 0 {
				p.step = gcd(p.step, d.Milli)
			}
		}
		p.comes = append(p.comes, c.Count)
	}
	return p
}

func gcd(a, b int64) int64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// maxShapes is the shapes told apart well: more of them are more work.
const maxShapes = 128

// group puts the machines into shapes.
func (p *packing) group(machines []Machine, price []int64, coarse int) {
	p.shapes, p.of = nil, make([]int, len(machines))
	at := map[shapeKey]int{}
	keys := make([]shapeKey, len(machines))
	for i := range machines {
		var each int64
		if p.priced {
			each = price[i]
		}
		keys[i] = keyOf(&machines[i], each, coarse)
		if _, ok := at[keys[i]]; !ok && (keys[i].gpus > 0 || p.priced) {
			at[keys[i]] = 0
			p.shapes = append(p.shapes, shape{key: keys[i]})
		}
	}
	slices.SortFunc(p.shapes, func(a, b shape) int { return compareShapes(&a.key, &b.key) })
	for k := range p.shapes {
		at[p.shapes[k].key] = k
	}
	for i, key := range keys {
		if k, ok := at[key]; ok {
			p.of[i] = k
			p.shapes[k].count++
		} else {
			p.of[i] = -1
		}
	}
	p.dearest = 0
	for k := range p.shapes {
		p.dearest = max(p.dearest, p.shapes[k].key.price)
	}
}

// fits reports whether d, which asks for GPUs, fits on an empty machine of the shape,
// its memory left out.
func (s *shapeKey) fits(d *Demand) bool {
	if d.CPU > s.cpu {
		return false
	}
	n := 0
	for i := range s.gpus {
		if i > 0 && s.model[i] != s.model[i-1] {
			n = 0
		}
		if int64(s.mib[i]) >= d.DeviceMemory && d.Models.Accepts(s.model[i]) {
			if n++; n >= d.Devices {
				return true
			}
		}
	}
	return false
}

// hosts reports whether a piece of d may be on a device of pool k.
func (p *packing) hosts(k int, d *Demand) bool {
	pool := &p.pools[k]
	if d.Devices == 0 || d.DeviceMemory > pool.mib || !d.Models.Accepts(pool.model) {
		return false
	}
	one := *d
	one.Models = Models(0).With(pool.model)
	return p.shapes[pool.shape].key.fits(&one)
}

// A filling is how devices of a pool may be filled: the items that fit, and the
// memory each takes of it, in parts of which a device has some. Parts are rounded
// so that nothing that fits is left out.
type filling struct {
	items []int
	parts []int // by place in items
	have  int
}

// fill returns the filling of pool k with at most so many parts of memory.
func (p *packing) fill(k, most int) filling {
	var f filling
	var unit int64
	for i := range p.items {
		if d := &p.items[i].d; p.hosts(k, d) {
			f.items = append(f.items, i)
			unit = gcd(unit, d.DeviceMemory)
		}
	}
	f.parts = make([]int, len(f.items))
	if unit == 0 { // no item asks for memory
		return f
	}
	mib := p.pools[k].mib
	have := mib / unit
	f.have = int(min(have, int64(most)))
	for i, at := range f.items {
		f.parts[i] = int(p.items[at].d.DeviceMemory / unit)
		if have > int64(most) {
			f.parts[i] = int(p.items[at].d.DeviceMemory * int64(most) / mib)
		}
	}
	return f
}

// most is how many parts of memory a table of so many cells has room for.
func (p *packing) most(cells int64) int { return int(max(1, cells/(Whole/p.step+1))) }

// affordable returns how many of the steps solve can take in a moment.
func (p *packing) affordable(steps int) int {
	rows := len(p.comes) + len(p.pools) + len(p.shapes)
	return max(1, min(steps, affordableWork/(rows*rows+1)))
}

// affordableWork is a few seconds of [packing.solve].
const affordableWork = 4_000_000_000

// prices are what solve found, in worth: of classes, of pools' devices and of
// shapes' cores.
type prices struct{ class, device, core []float64 }

type column struct {
	rows []int32
	vals []float64
	cost float64
}

func (c *column) add(row int, val float64) {
	c.rows = append(c.rows, int32(row))
	c.vals = append(c.vals, val)
}

const (
	solveCells   = 1 << 13 // of the tables that columns are found by
	certifyCells = 1 << 19 // of the tables that prove a bound
)

// solve finds prices near the best ones. What it returns is always usable; how
// near it is depends on steps, the most columns tried.
func (p *packing) solve(steps int) prices {
	nc, np, ns := len(p.comes), len(p.pools), len(p.shapes)
	device, core, rent := nc, nc+np, nc+np+ns // first rows
	rows := rent
	if p.priced {
		rows += ns
	}
	x := make([]float64, rows) // value of each row's basic variable
	for i, n := range p.comes {
		x[i] = float64(n) + 1e-4*float64(1+(i*7919)%101) // off each other, or the steps could go round in circles
	}
	for k := range p.pools {
		x[device+k] = 1e-4 * float64(1+(k*104729)%97)
		if !p.priced {
			x[device+k] += float64(p.pools[k].devices)
		}
	}
	for k := range p.shapes {
		s := &p.shapes[k]
		if p.priced {
			x[core+k] = 1e-4 * float64(1+(k*15485863)%89)
			x[rent+k] = float64(s.count)
		} else {
			x[core+k] = float64(s.key.cpu*s.count) / 1000 // no sum of processors is near what overflows
		}
	}
	inv := make([][]float64, rows)
	for i := range inv {
		inv[i] = make([]float64, rows)
		inv[i][i] = 1
	}
	y := make([]float64, rows)
	direction := make([]float64, rows)
	fillings := make([]filling, np)
	wide := 0
	for k := range fillings {
		fillings[k] = p.fill(k, p.most(solveCells))
		wide = max(wide, fillings[k].have+1)
	}
	size := int(Whole/p.step) + 1
	value := make([]float64, size*wide)
	last := make([]int32, size*wide)
	// price finds a column of pool k that is worth more than it costs.
	price := func(k int) (column, float64) {
		var top column
		gain := 1e-6
		f := &fillings[k]
		wide := f.have + 1
		value, last := value[:size*wide], last[:size*wide]
		clear(value)
		for i := range last {
			last[i] = -1
		}
		core := core + p.pools[k].shape
		for i, at := range f.items {
			it := &p.items[at]
			d := &it.d
			v := it.worth - y[it.class] - y[core]*float64(d.CPU)/1000
			if d.Devices > 1 && d.Milli == Whole {
				if g := v - y[device+k]*float64(d.Devices); g > gain {
					gain = g
					top = column{cost: it.worth}
					top.add(it.class, 1)
					top.add(device+k, float64(d.Devices))
					top.add(core, float64(d.CPU)/1000)
				}
				continue
			}
			v /= float64(d.Devices)
			if v <= 0 {
				continue
			}
			back := int(d.Milli/p.step)*wide + f.parts[i]
			for from := back - f.parts[i]; from < len(value); from += wide {
				for c := from + f.parts[i]; c < from+wide; c++ {
					if t := value[c-back] + v; t > value[c]+1e-9 {
						value[c], last[c] = t, int32(i)
					}
				}
			}
		}
		if g := value[len(value)-1] - y[device+k]; g > gain {
			gain = g
			top = column{}
			counts := make([]float64, nc)
			cpu := 0.0
			for c := len(value) - 1; c >= 0 && last[c] >= 0; {
				i := last[c]
				it := &p.items[f.items[i]]
				n := float64(it.d.Devices)
				counts[it.class] += 1 / n
				cpu += float64(it.d.CPU) / 1000 / n
				top.cost += it.worth / n
				c -= int(it.d.Milli/p.step)*wide + f.parts[i]
			}
			for c, n := range counts {
				if n > 0 {
					top.add(c, n)
				}
			}
			top.add(device+k, 1)
			top.add(core, cpu)
		}
		return top, gain
	}
	// rentOne returns the column of renting a machine, and of running a demand
	// without GPUs there, whichever is worth more than it costs.
	rentOne := func(k int) (column, float64) {
		s := &p.shapes[k]
		top := column{cost: -dear * float64(s.key.price) / float64(p.dearest)}
		gain := top.cost - y[rent+k] + y[core+k]*float64(s.key.cpu)/1000
		for _, i := range s.pools {
			gain += y[device+i] * float64(p.pools[i].each)
			top.add(device+i, -float64(p.pools[i].each))
		}
		top.add(core+k, -float64(s.key.cpu)/1000)
		top.add(rent+k, 1)
		for i := range p.items {
			it := &p.items[i]
			if it.d.Devices > 0 || it.d.CPU > s.key.cpu {
				continue
			}
			if g := it.worth - y[it.class] - y[core+k]*float64(it.d.CPU)/1000; g > gain {
				gain = g
				top = column{cost: it.worth}
				top.add(it.class, 1)
				top.add(core+k, float64(it.d.CPU)/1000)
			}
		}
		return top, gain
	}
	// enter brings a column into the basis; slack columns leave the prices ≥ 0.
	enter := func(col column) bool {
		clear(direction)
		for i := range rows {
			for j, r := range col.rows {
				direction[i] += inv[i][r] * col.vals[j]
			}
		}
		out, least := -1, math.Inf(1)
		for i, v := range direction {
			if v > 1e-7 && x[i]/v < least {
				out, least = i, x[i]/v
			}
		}
		if out < 0 {
			return false
		}
		pivot := direction[out]
		for j := range inv[out] {
			inv[out][j] /= pivot
		}
		for i := range rows {
			if i == out || direction[i] == 0 {
				continue
			}
			f := direction[i]
			row, by := inv[i], inv[out]
			for j, v := range by {
				if v != 0 {
					row[j] -= f * v
				}
			}
			x[i] = max(0, x[i]-f*least)
		}
		x[out] = least
		reduced := col.cost
		for j, r := range col.rows {
			reduced -= y[r] * col.vals[j]
		}
		for j, v := range inv[out] {
			y[j] += reduced * v
		}
		return true
	}
	sources := np
	if p.priced {
		sources += ns
	}
	next := 0
	for range steps {
		entered := false
		// A slack whose price went below 0 comes back first.
		low, at := -1e-6, -1
		for i, v := range y {
			if v < low {
				low, at = v, i
			}
		}
		if at >= 0 {
			entered = enter(column{rows: []int32{int32(at)}, vals: []float64{1}})
		}
		for range sources {
			if entered {
				break
			}
			find := price
			k := next
			if k >= np {
				find, k = rentOne, k-np
			}
			if col, gain := find(k); gain > 1e-5 && col.rows != nil {
				entered = enter(col)
			}
			if !entered {
				next = (next + 1) % sources
			}
		}
		if !entered {
			break
		}
	}
	for i := range y {
		y[i] = max(0, y[i])
	}
	return prices{y[:nc], y[device:core], y[core:rent]}
}
