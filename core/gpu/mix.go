package gpu

import (
	"cmp"
	"math"
	"slices"
)

// A Share is one demand of a mix and how often it occurs.
type Share struct {
	Demand Demand
	Count  int64
	Or     []Demand // what does as well, such as another amount on another model
}

// valid reports whether the share counts: often enough, and every demand valid.
func (s *Share) valid() bool {
	if s.Count <= 0 || s.Demand.Validate() != nil {
		return false
	}
	for i := range s.Or {
		if s.Or[i].Validate() != nil {
			return false
		}
	}
	return true
}

// A Mix is the demands a fleet serves, by which it judges what is idle. It does
// not change and is safe for concurrent use.
type Mix struct {
	shares []Share
	total  int64
	plain  bool               // one demand each, no memory, several devices only whole
	cpus   []int64            // distinct demands for processor, ascending
	pieces []int16            // distinct milli of demands for one device, ascending
	level  [Whole + 1]uint8   // how many pieces are at most this
	one    [MaxModels][]int64 // [cpu level · (pieces+1) + piece level]: count that fits on one device
	many   [MaxModels][]int64 // [cpu level · (MaxDevices+1) + whole devices]: count of demands for several
	step   [101]int64         // least decrease of fragments for each published score
}

// NewMix returns the mix of shares whose count is above 0; others are left out,
// as are demands that are not valid. Memory is not part of the judgement.
func NewMix(shares []Share) *Mix {
	mix := &Mix{plain: true}
	for _, s := range shares {
		if s.valid() {
			mix.plain = mix.plain && len(s.Or) == 0 && s.Demand.DeviceMemory == 0 && (s.Demand.Devices < 2 || s.Demand.Milli == Whole)
			mix.shares = append(mix.shares, s)
			mix.total += s.Count
			mix.cpus = append(mix.cpus, s.Demand.CPU)
			if s.Demand.Devices == 1 {
				mix.pieces = append(mix.pieces, int16(s.Demand.Milli))
			}
		}
	}
	slices.Sort(mix.cpus)
	mix.cpus = slices.Compact(mix.cpus)
	slices.Sort(mix.pieces)
	mix.pieces = slices.Compact(mix.pieces)
	for v := range mix.level {
		n, exact := slices.BinarySearch(mix.pieces, int16(v))
		if exact {
			n++
		}
		mix.level[v] = uint8(n)
	}
	for i := range mix.step {
		switch i {
		case 0:
			mix.step[i] = math.MinInt64
		case 100:
			mix.step[i] = math.MaxInt64
		default:
			mix.step[i] = int64(math.Ceil(1000 * math.Log(float64(i)/float64(100-i)) * float64(mix.total)))
		}
	}
	used := Models(0)
	for _, s := range mix.shares {
		used |= s.Demand.Models
	}
	anyOne, anyMany := mix.tables(func(set Models) bool { return set == 0 })
	for m := range Model(MaxModels) {
		mix.one[m], mix.many[m] = anyOne, anyMany
		if used != 0 && used.Accepts(m) {
			mix.one[m], mix.many[m] = mix.tables(func(set Models) bool { return set.Accepts(m) })
		}
	}
	return mix
}

func (mix *Mix) tables(accept func(Models) bool) (one, many []int64) {
	wide := len(mix.pieces) + 1
	one = make([]int64, (len(mix.cpus)+1)*wide)
	many = make([]int64, (len(mix.cpus)+1)*(MaxDevices+1))
	for _, s := range mix.shares {
		d := &s.Demand
		if d.Devices == 0 || !accept(d.Models) {
			continue
		}
		from := mix.cpuLevel(d.CPU)
		for c := from; c <= len(mix.cpus); c++ {
			if d.Devices == 1 {
				for p := int(mix.level[d.Milli]); p < wide; p++ {
					one[c*wide+p] += s.Count
				}
			} else {
				for n := d.Devices; n <= MaxDevices; n++ {
					many[c*(MaxDevices+1)+n] += s.Count
				}
			}
		}
	}
	return one, many
}

// cpuLevel returns how many of the mix's demands for processor are at most cpu.
func (mix *Mix) cpuLevel(cpu int64) int {
	n, exact := slices.BinarySearch(mix.cpus, cpu)
	if exact {
		n++
	}
	return n
}

// Total returns the sum of counts: the unit of [Mix.Fragment].
func (mix *Mix) Total() int64 { return mix.total }

// Fragment returns the idle milli on m that the mix cannot use, summed over the
// mix: divided by [Mix.Total] it is milli.
func (mix *Mix) Fragment(m *Machine) int64 {
	if !mix.plain || m.Sick != 0 || m.GPUs > 0 && m.alike(1<<m.GPUs-1) != 1<<m.GPUs-1 {
		return mix.slowFragment(m)
	}
	wide := len(mix.pieces) + 1
	c := mix.cpuLevel(m.CPU)
	one := mix.one[m.Model[0]][c*wide : (c+1)*wide]
	var idle, usable int64
	whole := 0
	for _, v := range m.Idle[:m.GPUs] {
		idle += max(0, int64(v))
		usable += int64(v) * one[mix.level[max(0, v)]]
		if v == Whole {
			whole++
		}
	}
	usable += int64(whole) * Whole * mix.many[m.Model[0]][c*(MaxDevices+1)+whole]
	return mix.total*idle - usable
}

func (mix *Mix) slowFragment(m *Machine) int64 {
	fragment := mix.total * m.IdleMilli()
	for i := range mix.shares {
		var used Devices
		for a := range 1 + len(mix.shares[i].Or) {
			d := &mix.shares[i].Demand
			if a > 0 {
				d = &mix.shares[i].Or[a-1]
			}
			if d.Devices == 0 || d.CPU > m.CPU {
				continue
			}
			for set := m.Usable(d); set.Len() >= d.Devices; {
				same := m.alike(set)
				set &^= same
				if same.Len() >= d.Devices {
					used |= same
				}
			}
		}
		for ; used != 0; used &= used - 1 {
			fragment -= mix.shares[i].Count * int64(m.Idle[used.First()])
		}
	}
	return fragment
}

// published returns the score, 0 to 100, that the published FGD gives to a
// decrease of fragments.
func (mix *Mix) published(decrease int64) int64 {
	// The last step that is at most decrease.
	lo, hi := 0, 100
	for lo+1 < hi {
		if mid := (lo + hi) / 2; mix.step[mid] <= decrease {
			lo = mid
		} else {
			hi = mid
		}
	}
	return int64(lo)
}

// Typical returns the most frequent shares that make up at least percent of the
// counts, by descending count; equal ones are added up first.
func Typical(shares []Share, percent int64) []Share {
	all := make([]Share, len(shares))
	var total int64
	for i, s := range shares {
		s.Demand.Memory = 0
		s.Or = slices.Clone(s.Or)
		for k := range s.Or {
			s.Or[k].Memory = 0
		}
		all[i] = s
		total += s.Count
	}
	slices.SortStableFunc(all, func(a, b Share) int { return compareWants(&a, &b) })
	sums := all[:0]
	for _, s := range all {
		if n := len(sums); n > 0 && compareWants(&sums[n-1], &s) == 0 {
			sums[n-1].Count += s.Count
		} else {
			sums = append(sums, s)
		}
	}
	slices.SortStableFunc(sums, func(a, b Share) int { return cmp.Compare(b.Count, a.Count) })
	var have int64
	for i := range sums {
		if have*100 >= total*percent {
			return sums[:i]
		}
		have += sums[i].Count
	}
	return sums
}

func compareDemands(a, b *Demand) int {
	return cmp.Or(cmp.Compare(a.CPU, b.CPU), cmp.Compare(a.Devices, b.Devices), cmp.Compare(a.Milli, b.Milli),
		cmp.Compare(a.Models, b.Models), cmp.Compare(a.DeviceMemory, b.DeviceMemory), cmp.Compare(a.Memory, b.Memory))
}

// compareWants compares what is asked for, not how often.
func compareWants(a, b *Share) int {
	return cmp.Or(compareDemands(&a.Demand, &b.Demand),
		slices.CompareFunc(a.Or, b.Or, func(x, y Demand) int { return compareDemands(&x, &y) }))
}

// Fragmentation is the published FGD: the machine, and the device, where the
// fragments of the mix grow least, in a hundred steps.
type Fragmentation struct{ Mix *Mix }

// Score implements [Scorer].
func (f Fragmentation) Score(m *Machine, d *Demand) (int64, Devices) {
	before := f.Mix.Fragment(m)
	best, where := int64(-1), Devices(0)
	try := func(on Devices) {
		after := *m
		after.take(d, on)
		if s := f.Mix.published(before - f.Mix.Fragment(&after)); s > best {
			best, where = s, on
		}
	}
	if d.Devices == 0 {
		try(0)
	}
	var choices [MaxDevices]Devices
	for _, on := range m.choices(d, &choices) {
		try(on)
	}
	return best, where
}
