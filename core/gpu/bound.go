package gpu

import (
	"cmp"
	"math"
	"math/big"
	"slices"
)

// A shape is machines that a bound does not tell apart.
type shape struct {
	model   Model
	gpus    int
	cpu     int64 // of one machine
	memory  int64 // of one machine
	count   int64
	devices int64 // of all
	cpus    int64 // of all
}

// A classDemand is one row of the packing: a demand and how often it comes.
type classDemand struct {
	d Demand
	n int64
}

// packing is the relaxed packing problem: whole demands cut into devices' worth,
// processors pooled over the machines of a shape, memory left out.
//
//	maximise   Σ milli placed
//	such that  each class is placed at most as often as it comes
//	           each shape gives at most its devices, and its processors
//
// whose columns are the ways to fill one device of a shape, and the demands for
// several devices. Any prices y ≥ 0 of classes and l ≥ 0 of a shape's processors
// give a bound: with p the most a device can then earn,
//
//	Σ y·comes + Σ (p·devices + l·processors)
type packing struct {
	shapes  []shape
	classes []classDemand
	step    int64 // divides every milli
}

func newPacking(machines []Machine, shares []Share) *packing {
	p := &packing{step: Whole}
	at := map[shape]int{}
	for i := range machines {
		m := &machines[i]
		if m.GPUs == 0 {
			continue
		}
		key := shape{model: m.Model[0], gpus: m.GPUs, cpu: m.CPU, memory: m.Memory}
		k, ok := at[key]
		if !ok {
			k = len(p.shapes)
			at[key] = k
			p.shapes = append(p.shapes, key)
		}
		p.shapes[k].count++
		p.shapes[k].devices += int64(m.GPUs)
		p.shapes[k].cpus += m.CPU
	}
	sum := map[Demand]int64{}
	for _, s := range shares {
		if d := s.Demand; s.Count > 0 && d.Devices > 0 && d.Validate() == nil {
			d.Memory, d.DeviceMemory = 0, 0
			sum[d] += s.Count
		}
	}
	for d, n := range sum {
		p.classes = append(p.classes, classDemand{d, n})
		for a, b := p.step, d.Milli; ; a, b = b, a%b {
			if b == 0 {
				p.step = a
				break
			}
		}
	}
	slices.SortFunc(p.classes, func(a, b classDemand) int { return compareDemands(&a.d, &b.d) })
	slices.SortFunc(p.shapes, func(a, b shape) int {
		return cmp.Or(cmp.Compare(a.model, b.model), cmp.Compare(a.gpus, b.gpus), cmp.Compare(a.cpu, b.cpu), cmp.Compare(a.memory, b.memory))
	})
	return p
}

// shapeOf returns the shape of an empty machine, −1 if it has no GPUs.
func (p *packing) shapeOf(m *Machine) int {
	return slices.IndexFunc(p.shapes, func(s shape) bool {
		return s.model == m.Model[0] && s.gpus == m.GPUs && s.cpu == m.CPU && s.memory == m.Memory
	})
}

// hosts reports whether a demand of class c fits on an empty machine of shape k.
func (p *packing) hosts(k, c int) bool {
	s, d := &p.shapes[k], &p.classes[c].d
	return d.CPU <= s.cpu && d.Devices <= s.gpus && d.Models.Accepts(s.model)
}

// prices are what solve found: of classes, and of shapes' devices and processors,
// in milli earned.
type prices struct{ class, device, cpu []float64 }

type column struct {
	rows []int32
	vals []float64
	cost float64
}

// solve finds prices near the best ones. What it returns is always usable; how
// near it is depends on steps, the most columns tried.
func (p *packing) solve(steps int) prices {
	nc, ns := len(p.classes), len(p.shapes)
	rows := nc + 2*ns
	x := make([]float64, rows) // value of each row's basic variable
	for i, c := range p.classes {
		x[i] = float64(c.n) + 1e-4*float64(1+(i*7919)%101) // off each other, or the steps could go round in circles
	}
	for k := range p.shapes {
		x[nc+k] = float64(p.shapes[k].devices) + 1e-4*float64(1+(k*104729)%97)
		x[nc+ns+k] = float64(p.shapes[k].cpus) / 1000
	}
	inv := make([][]float64, rows)
	for i := range inv {
		inv[i] = make([]float64, rows)
		inv[i][i] = 1
	}
	y := make([]float64, rows)
	direction := make([]float64, rows)
	type best struct {
		value float64
		item  int32
	}
	size := int(Whole/p.step) + 1
	table := make([]best, size)
	order := make([]int32, nc)
	for i := range order {
		order[i] = int32(i)
	}
	price := func(k int) (column, float64) {
		// The best single machine-wide demand, and the best fill of one device.
		var top column
		gain := 1e-6
		for i := range table {
			table[i] = best{0, -1}
		}
		lp := y[nc+ns+k]
		for c := range p.classes {
			d := &p.classes[c].d
			if !p.hosts(k, c) {
				continue
			}
			v := float64(d.GPU()) - y[c] - lp*float64(d.CPU)/1000
			if d.Devices > 1 {
				if g := v - y[nc+k]*float64(d.Devices); g > gain {
					gain = g
					top = column{[]int32{int32(c), int32(nc + k), int32(nc + ns + k)}, []float64{1, float64(d.Devices), float64(d.CPU) / 1000}, float64(d.GPU())}
				}
				continue
			}
			if v <= 0 {
				continue
			}
			w := int(d.Milli / p.step)
			for f := w; f < size; f++ {
				if t := table[f-w].value + v; t > table[f].value+1e-9 {
					table[f] = best{t, int32(c)}
				}
			}
		}
		if g := table[size-1].value - y[nc+k]; g > gain {
			gain = g
			counts := map[int32]int{}
			cpu := 0.0
			cost := 0.0
			for f := size - 1; f >= 0 && table[f].item >= 0; {
				c := table[f].item
				counts[c]++
				cpu += float64(p.classes[c].d.CPU) / 1000
				cost += float64(p.classes[c].d.Milli)
				f -= int(p.classes[c].d.Milli / p.step)
			}
			top = column{cost: cost}
			for c := range int32(nc) {
				if n := counts[c]; n > 0 {
					top.rows = append(top.rows, c)
					top.vals = append(top.vals, float64(n))
				}
			}
			top.rows = append(top.rows, int32(nc+k), int32(nc+ns+k))
			top.vals = append(top.vals, 1, cpu)
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
		for range ns {
			if entered {
				break
			}
			k := next
			if col, gain := price(k); gain > 1e-5 && col.rows != nil {
				entered = enter(col)
			}
			if !entered {
				next = (next + 1) % ns
			}
		}
		if !entered {
			break
		}
	}
	out := prices{make([]float64, nc), make([]float64, ns), make([]float64, ns)}
	for i := range out.class {
		out.class[i] = max(0, y[i])
	}
	for k := range p.shapes {
		out.device[k] = max(0, y[nc+k])
		out.cpu[k] = max(0, y[nc+ns+k])
	}
	return out
}

// priceUnit is how many parts a milli is cut into when prices are made integers.
const priceUnit = 1 << 20

// certify turns prices into a bound in integers: the most milli that can be placed.
// It is valid whatever the prices are.
func (p *packing) certify(at prices) int64 {
	whole := func(v float64) int64 {
		if !(v > 0) { // NaN too
			return 0
		}
		return int64(min(v, MaxDevices*Whole) * priceUnit)
	}
	var total, all big.Int
	add := func(sum *big.Int, a, b int64) {
		sum.Add(sum, new(big.Int).Mul(big.NewInt(a), big.NewInt(b)))
	}
	y := make([]int64, len(p.classes))
	for c := range p.classes {
		y[c] = whole(at.class[c])
		add(&total, y[c], p.classes[c].n)
		add(&all, p.classes[c].n, p.classes[c].d.GPU())
	}
	table := make([]int64, Whole/p.step+1)
	for k := range p.shapes {
		l := whole(at.cpu[k] / 1000) // of a milli-core
		clear(table)
		var device int64 // the least price of a device that no column beats
		for c := range p.classes {
			d := &p.classes[c].d
			v := d.GPU()*priceUnit - y[c]
			if !p.hosts(k, c) || v <= 0 || l > 0 && d.CPU > v/l {
				continue
			}
			if v -= l * d.CPU; d.Devices > 1 {
				device = max(device, (v+int64(d.Devices)-1)/int64(d.Devices))
				continue
			}
			for f, w := int(d.Milli/p.step), int(d.Milli/p.step); f < len(table); f++ {
				table[f] = max(table[f], table[f-w]+v)
			}
		}
		add(&total, max(device, table[len(table)-1]), p.shapes[k].devices)
		add(&total, l, p.shapes[k].cpus)
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
	simple := true
	var have, want int64
	for i := range machines {
		m := &machines[i]
		have += m.IdleMilli()
		simple = simple && m.Sick == 0 && (m.GPUs == 0 || m.alike(1<<m.GPUs-1) == 1<<m.GPUs-1)
	}
	for _, s := range shares {
		if s.valid() {
			most := s.Demand.GPU()
			for _, d := range s.Or {
				most = max(most, d.GPU())
			}
			want += s.Count * most
			simple = simple && len(s.Or) == 0 && (s.Demand.Devices < 2 || s.Demand.Milli == Whole)
		}
	}
	if !simple {
		return min(have, want)
	}
	p := newPacking(machines, shares)
	if len(p.shapes) == 0 || len(p.classes) == 0 {
		return 0
	}
	return p.certify(p.solve(steps))
}

// Fewest returns a lower bound on the price of the machines that any placement of
// all the demands on the machines, empty as given, uses: price[i], 0 or more and in
// any unit, for each machine i that runs something. It is valid always, and near the
// best such bound after enough steps. If there is no such placement the bound says
// nothing; it is at most the price of all machines.
func Fewest(machines []Machine, price []int64, shares []Share, steps int) int64 {
	return 0
}
