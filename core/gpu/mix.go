package gpu

import (
	"cmp"
	"math"
	"math/bits"
	"slices"
)

// A Share is one demand of a mix and how often it occurs.
type Share struct {
	Demand Demand
	Count  int64
	Or     []Demand // what does as well, such as another amount on another model
}

// demands yields the demand and what does as well.
func (s *Share) demands(yield func(*Demand) bool) {
	if !yield(&s.Demand) {
		return
	}
	for i := range s.Or {
		if !yield(&s.Or[i]) {
			return
		}
	}
}

// valid reports whether the share counts: often enough, and every demand valid.
func (s *Share) valid() bool {
	for d := range s.demands {
		if d.Validate() != nil {
			return false
		}
	}
	return s.Count > 0
}

// A Mix is the demands a fleet serves, by which it judges what is idle. It does
// not change and is safe for concurrent use.
type Mix struct {
	total    int64
	cpus     []int64           // distinct demands for processor, ascending
	pieces   []int64           // distinct milli of demands for one device, ascending
	memories []int64           // distinct device memory of those, but 0, ascending
	level    [Whole + 1]uint16 // how many pieces are at most this
	below    []int32           // how many memories are below this many times 1<<shift
	shift    int
	kinds    []kind // of demands for several devices
	models   [MaxModels]*tables
	step     [101]int64 // least decrease of fragments for each published score
}

// A kind is what demands for several devices ask of each.
type kind struct{ milli, memory int64 }

// tables count the demands that may run on a model, by what they find there.
type tables struct {
	one  []int64   // [cell]: those for one device that such a device is enough for
	many [][]int64 // by kind, [cpu level · (MaxDevices+1) + devices that are enough]
}

// maxCells bounds the cells of all models' tables. A mix that needs more is judged
// as if some of its demands asked for a little more than they do.
const maxCells = 1 << 20

// NewMix returns the mix of shares whose count is above 0; others are left out, as
// are shares with a demand that is not valid. The machine's memory is not part of
// the judgement. Of alternatives on one model the first counts.
func NewMix(shares []Share) *Mix {
	mix := &Mix{}
	var used []Share
	named := Models(0)
	for _, s := range shares {
		if !s.valid() {
			continue
		}
		used = append(used, s)
		mix.total += s.Count
		for d := range s.demands {
			named |= d.Models
			mix.cpus = append(mix.cpus, d.CPU)
			switch {
			case d.Devices == 1:
				mix.pieces = append(mix.pieces, d.Milli)
				if d.DeviceMemory > 0 {
					mix.memories = append(mix.memories, d.DeviceMemory)
				}
			case d.Devices > 1:
				mix.kinds = append(mix.kinds, kind{d.Milli, d.DeviceMemory})
			}
		}
	}
	for _, l := range []*[]int64{&mix.cpus, &mix.pieces, &mix.memories} {
		slices.Sort(*l)
		*l = slices.Compact(*l)
	}
	slices.SortFunc(mix.kinds, func(a, b kind) int { return cmp.Or(cmp.Compare(a.milli, b.milli), cmp.Compare(a.memory, b.memory)) })
	mix.kinds = slices.Compact(mix.kinds)
	for mix.cells()*(named.Len()+1) > maxCells {
		longest := &mix.cpus
		for _, l := range []*[]int64{&mix.pieces, &mix.memories} {
			if len(*l) > len(*longest) {
				longest = l
			}
		}
		*longest = everySecond(*longest)
	}
	for v := range mix.level {
		mix.level[v] = uint16(atMost(mix.pieces, int64(v)))
	}
	if n := len(mix.memories); n > 0 {
		mix.shift = max(0, bits.Len64(uint64(mix.memories[n-1]))-10)
		for v := int64(0); v <= mix.memories[n-1]+1<<mix.shift; v += 1 << mix.shift {
			mix.below = append(mix.below, int32(atMost(mix.memories, v-1)))
		}
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
	others := mix.tables(used, func(set Models) bool { return set == 0 })
	for m := range Model(MaxModels) {
		mix.models[m] = others
		if named>>m&1 == 1 {
			mix.models[m] = mix.tables(used, func(set Models) bool { return set.Accepts(m) })
		}
	}
	return mix
}

// cells returns how many cells a model's table for one device has.
func (mix *Mix) cells() int {
	return (len(mix.cpus) + 1) * (len(mix.pieces) + 1) * (len(mix.memories) + 1)
}

// everySecond leaves out every second value, never the last one.
func everySecond(values []int64) []int64 {
	var out []int64
	for i := (len(values) - 1) % 2; i < len(values); i += 2 {
		out = append(out, values[i])
	}
	return out
}

// atMost returns how many of the ascending values are at most v.
func atMost(values []int64, v int64) int {
	n, exact := slices.BinarySearch(values, v)
	if exact {
		n++
	}
	return n
}

// atLeast returns the first level with which v is satisfied: the reverse of atMost.
func atLeast(values []int64, v int64) int {
	n, _ := slices.BinarySearch(values, v)
	return n + 1
}

func (mix *Mix) tables(shares []Share, accept func(Models) bool) *tables {
	t := &tables{one: make([]int64, mix.cells()), many: make([][]int64, len(mix.kinds))}
	for k := range t.many {
		t.many[k] = make([]int64, (len(mix.cpus)+1)*(MaxDevices+1))
	}
	for _, s := range shares {
		for d := range s.demands {
			if !accept(d.Models) {
				continue
			}
			c := atLeast(mix.cpus, d.CPU)
			switch {
			case d.Devices == 1:
				h := 0
				if d.DeviceMemory > 0 {
					h = atLeast(mix.memories, d.DeviceMemory)
				}
				t.one[mix.cell(c, atLeast(mix.pieces, d.Milli), h)] += s.Count
			case d.Devices > 1:
				t.many[slices.Index(mix.kinds, kind{d.Milli, d.DeviceMemory})][c*(MaxDevices+1)+d.Devices] += s.Count
			}
			break
		}
	}
	// What is enough for one is enough for all who ask for less.
	sum := func(table []int64, stride, n int) {
		for i := range table {
			if i/stride%n > 0 {
				table[i] += table[i-stride]
			}
		}
	}
	h, w, n := len(mix.memories)+1, len(mix.pieces)+1, len(mix.cpus)+1
	sum(t.one, 1, h)
	sum(t.one, h, w)
	sum(t.one, h*w, n)
	for _, many := range t.many {
		sum(many, 1, MaxDevices+1)
		sum(many, MaxDevices+1, n)
	}
	return t
}

// cell returns the index into tables.one of three levels.
func (mix *Mix) cell(cpu, piece, memory int) int {
	return (cpu*(len(mix.pieces)+1)+piece)*(len(mix.memories)+1) + memory
}

// Total returns the sum of counts: the unit of [Mix.Fragment].
func (mix *Mix) Total() int64 { return mix.total }

// Fragment returns the idle milli on m that the mix cannot use, summed over the
// mix: divided by [Mix.Total] it is milli.
func (mix *Mix) Fragment(m *Machine) int64 {
	cpu := atMost(mix.cpus, m.CPU)
	sum := -mix.several(m, cpu)
	for i := range m.GPUs {
		sum += mix.single(m, i, cpu)
	}
	return sum
}

// single returns what one device adds to the fragments, demands for several devices
// taken to have no use for it.
func (mix *Mix) single(m *Machine, device, cpu int) int64 {
	v := m.Idle[device]
	if v <= 0 || m.Sick>>device&1 == 1 {
		return 0
	}
	memory := 0
	if len(mix.memories) > 0 && m.IdleMemory[device] > 0 {
		mib := int64(m.IdleMemory[device])
		memory = int(mix.below[min(mib>>mix.shift, int64(len(mix.below)-1))])
		for memory < len(mix.memories) && mix.memories[memory] <= mib {
			memory++
		}
	}
	return int64(v) * (mix.total - mix.models[m.Model[device]].one[mix.cell(cpu, int(mix.level[v]), memory)])
}

// several returns the use that demands for several devices have for m.
func (mix *Mix) several(m *Machine, cpu int) int64 {
	if len(mix.kinds) == 0 || m.GPUs < 2 {
		return 0
	}
	var use int64
	for healthy := (Devices(1)<<m.GPUs - 1) &^ m.Sick; healthy != 0; {
		same := m.alike(healthy)
		healthy &^= same
		many := mix.models[m.Model[same.First()]].many
		for k := range mix.kinds {
			t := mix.kinds[k].on(m, same)
			use += t.idle * many[k][cpu*(MaxDevices+1)+t.n]
		}
	}
	return use
}

// A tally is how many devices are enough for a kind, and what is idle on them.
type tally struct {
	n    int
	idle int64
}

// on counts the devices of a set that are enough.
func (k *kind) on(m *Machine, set Devices) (t tally) {
	for ; set != 0; set &= set - 1 {
		if i := set.First(); int64(m.Idle[i]) >= k.milli && int64(m.IdleMemory[i]) >= k.memory {
			t.n++
			t.idle += int64(m.Idle[i])
		}
	}
	return t
}

// fewKinds is how many kinds are counted once for all devices a demand may take.
const fewKinds = 32

// each calls try with every way to place d on m that is worth a look: with m as it
// is then, which try must not keep or change, the devices taken, and how much the
// fragments decrease. It comes to the same as [Mix.Fragment] before and after, but
// counts what does not change once.
func (mix *Mix) each(m *Machine, d *Demand, try func(after *Machine, on Devices, decrease int64)) {
	after := *m
	after.take(d, 0)
	cpu := atMost(mix.cpus, after.CPU)
	var parts [MaxDevices]int64
	var sum int64
	for i := range m.GPUs {
		parts[i] = mix.single(&after, i, cpu)
		sum += parts[i]
	}
	use := mix.several(&after, cpu)
	before := sum - use
	if atMost(mix.cpus, m.CPU) != cpu {
		before = mix.Fragment(m)
	}
	if d.Devices == 0 {
		try(&after, 0, before-sum+use)
		return
	}
	all := (Devices(1)<<m.GPUs - 1) &^ m.Sick
	count := use != 0 && len(mix.kinds) <= fewKinds && m.alike(all) == all
	var tallies [fewKinds]tally
	if count {
		for k := range mix.kinds {
			tallies[k] = mix.kinds[k].on(&after, all)
		}
	}
	many := mix.models[m.Model[0]].many
	var choices [MaxDevices]Devices
	for _, on := range m.choices(d, &choices) {
		now := sum
		for rest := on; rest != 0; rest &= rest - 1 {
			i := rest.First()
			after.Idle[i] -= int16(d.Milli)
			after.IdleMemory[i] -= int32(d.DeviceMemory)
			now += mix.single(&after, i, cpu) - parts[i]
		}
		left := use // none, if there was none before
		if count {
			left = 0
			for k := range mix.kinds {
				ask, t := &mix.kinds[k], tallies[k]
				for rest := on; rest != 0; rest &= rest - 1 {
					i := rest.First()
					if int64(m.Idle[i]) < ask.milli || int64(m.IdleMemory[i]) < ask.memory {
						continue
					}
					if int64(after.Idle[i]) >= ask.milli && int64(after.IdleMemory[i]) >= ask.memory {
						t.idle -= d.Milli
					} else {
						t.idle -= int64(m.Idle[i])
						t.n--
					}
				}
				left += t.idle * many[k][cpu*(MaxDevices+1)+t.n]
			}
		} else if use != 0 {
			left = mix.several(&after, cpu)
		}
		try(&after, on, before-now+left)
		for rest := on; rest != 0; rest &= rest - 1 {
			i := rest.First()
			after.Idle[i], after.IdleMemory[i] = m.Idle[i], m.IdleMemory[i]
		}
	}
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
	sums := summed(all)
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

// summed returns the shares in order of what they ask for, those that ask for the same
// as one. It changes its argument.
func summed(shares []Share) []Share {
	slices.SortStableFunc(shares, func(a, b Share) int { return compareWants(&a, &b) })
	sums := shares[:0]
	for _, s := range shares {
		if n := len(sums); n > 0 && compareWants(&sums[n-1], &s) == 0 {
			sums[n-1].Count += s.Count
		} else {
			sums = append(sums, s)
		}
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
	best, where := int64(-1), Devices(0)
	f.Mix.each(m, d, func(_ *Machine, on Devices, decrease int64) {
		if s := f.Mix.published(decrease); s > best {
			best, where = s, on
		}
	})
	return best, where
}
