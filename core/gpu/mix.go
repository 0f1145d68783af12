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
}

// A Mix is the demands a fleet serves, by which it judges what is idle. It does
// not change and is safe for concurrent use.
type Mix struct {
	shares []Share
	total  int64
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
	mix := &Mix{}
	for _, s := range shares {
		if s.Count > 0 && s.Demand.Validate() == nil {
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
	wide := len(mix.pieces) + 1
	c := mix.cpuLevel(m.CPU)
	one := mix.one[m.Model][c*wide : (c+1)*wide]
	var idle, usable int64
	whole := 0
	for _, v := range m.Idle[:m.GPUs] {
		idle += int64(v)
		usable += int64(v) * one[mix.level[v]]
		if v == Whole {
			whole++
		}
	}
	usable += int64(whole) * Whole * mix.many[m.Model][c*(MaxDevices+1)+whole]
	return mix.total*idle - usable
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
// counts, by descending count; equal demands are added up first.
func Typical(shares []Share, percent int64) []Share {
	sum := map[Demand]int64{}
	var total int64
	for _, s := range shares {
		s.Demand.Memory = 0
		sum[s.Demand] += s.Count
		total += s.Count
	}
	all := make([]Share, 0, len(sum))
	for d, n := range sum {
		all = append(all, Share{d, n})
	}
	slices.SortFunc(all, func(a, b Share) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), compareDemands(&a.Demand, &b.Demand))
	})
	var have int64
	for i := range all {
		if have*100 >= total*percent {
			return all[:i]
		}
		have += all[i].Count
	}
	return all
}

func compareDemands(a, b *Demand) int {
	return cmp.Or(cmp.Compare(a.CPU, b.CPU), cmp.Compare(a.Devices, b.Devices), cmp.Compare(a.Milli, b.Milli),
		cmp.Compare(a.Models, b.Models), cmp.Compare(a.Memory, b.Memory))
}

// Fragmentation is the published FGD: the machine, and the device, where the
// fragments of the mix grow least, in a hundred steps.
type Fragmentation struct{ Mix *Mix }

// Score implements [Scorer].
func (f Fragmentation) Score(m *Machine, d *Demand) (int64, int) {
	before := f.Mix.Fragment(m)
	after := *m
	if d.Devices != 1 || d.Milli == Whole {
		after.take(d, m.spotOn(d, 0))
		return f.Mix.published(before - f.Mix.Fragment(&after)), 0
	}
	after.CPU -= d.CPU
	best, device := int64(-1), 0
	for i, v := range m.Idle[:m.GPUs] {
		if int64(v) < d.Milli || slices.Contains(m.Idle[:i], v) { // an equal device scores the same
			continue
		}
		after.Idle[i] = v - int16(d.Milli)
		if s := f.Mix.published(before - f.Mix.Fragment(&after)); s > best {
			best, device = s, i
		}
		after.Idle[i] = v
	}
	return best, device
}
