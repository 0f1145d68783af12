package gpu

import (
	"fmt"
	"math"
	"math/bits"
	"slices"
)

const (
	// Whole is one GPU: a thousand thousandths.
	Whole = 1000
	// MaxDevices is the most GPUs a machine can have.
	MaxDevices = 16
	// MaxModels is the most GPU models a fleet can have.
	MaxModels = 64
)

// A Model is a GPU model: a number below [MaxModels] that the caller gives out.
type Model uint8

// Models is a set of GPU models. The zero set means "any" in a [Demand].
type Models uint64

// With returns the set with m in it.
func (s Models) With(m Model) Models { return s | 1<<m }

// Accepts reports whether a demand with this set may run on m.
func (s Models) Accepts(m Model) bool { return s == 0 || s>>m&1 == 1 }

// Len returns how many models are named.
func (s Models) Len() int { return bits.OnesCount64(uint64(s)) }

// A Demand is what one pod asks for. It is comparable: equal demands are
// interchangeable. The zero Demand asks for nothing.
type Demand struct {
	CPU          int64  // milli-cores
	Memory       int64  // in the unit of [Machine.Memory]
	Devices      int    // GPUs, each another one, all of one model
	Milli        int64  // thousandths of each
	DeviceMemory int64  // MiB of each; 0 asks for none
	Models       Models // acceptable ones; none named means any
}

// GPU returns the thousandths of GPUs asked for in total.
func (d Demand) GPU() int64 { return int64(d.Devices) * d.Milli }

// The most a demand can ask for: beyond any machine, and far from overflowing sums.
const (
	maxCPU          = 1 << 40
	maxMemory       = 1 << 56
	maxDeviceMemory = 1 << 30
)

// Validate says what is wrong with d, nil if nothing is.
func (d Demand) Validate() error {
	switch {
	case d.CPU < 0:
		return fmt.Errorf("cpu %d is negative", d.CPU)
	case d.CPU > maxCPU:
		return fmt.Errorf("cpu %d is more than any machine has", d.CPU)
	case d.Memory < 0:
		return fmt.Errorf("memory %d is negative", d.Memory)
	case d.Memory > maxMemory:
		return fmt.Errorf("memory %d is more than any machine has", d.Memory)
	case d.Devices < 0 || d.Devices > MaxDevices:
		return fmt.Errorf("%d GPUs are not between 0 and %d", d.Devices, MaxDevices)
	case d.Milli < 0 || d.Milli > Whole:
		return fmt.Errorf("gpu milli %d is not between 0 and %d", d.Milli, Whole)
	case d.Devices == 0 && d.Milli != 0:
		return fmt.Errorf("gpu milli %d of no GPU", d.Milli)
	case d.Devices > 0 && d.Milli == 0:
		return fmt.Errorf("%d GPUs with gpu milli 0; a GPU is asked for with 1 to %d", d.Devices, Whole)
	case d.DeviceMemory < 0:
		return fmt.Errorf("gpu memory %d is negative", d.DeviceMemory)
	case d.DeviceMemory > maxDeviceMemory:
		return fmt.Errorf("gpu memory %d MiB is more than any GPU has", d.DeviceMemory)
	case d.Devices == 0 && d.DeviceMemory != 0:
		return fmt.Errorf("gpu memory %d of no GPU", d.DeviceMemory)
	}
	return nil
}

// A Machine is what is left on one machine. As given to [NewFleet] nothing runs
// on it, so that what is left is what it has. Entries of devices beyond GPUs mean
// nothing.
type Machine struct {
	ID         int // its index in the fleet, which sets it
	CPU        int64
	Memory     int64
	GPUs       int // how many devices there are
	Pods       int // running
	Sick       Devices
	Model      [MaxDevices]Model
	Idle       [MaxDevices]int16 // thousandths left of each device
	IdleMemory [MaxDevices]int32 // MiB left of each device
}

// IdleMilli returns the thousandths left on all devices that are not sick.
func (m *Machine) IdleMilli() int64 {
	var sum int64
	for i, v := range m.Idle[:m.GPUs] {
		if m.Sick>>i&1 == 0 {
			sum += max(0, int64(v))
		}
	}
	return sum
}

// Usable returns the devices on which one of the pieces that d asks for fits:
// healthy, of an acceptable model, with enough left. What d asks for besides, and
// of how many devices, is not looked at.
func (m *Machine) Usable(d *Demand) Devices {
	var set Devices
	for i, v := range m.Idle[:m.GPUs] {
		if int64(v) >= d.Milli && int64(m.IdleMemory[i]) >= d.DeviceMemory && d.Models.Accepts(m.Model[i]) {
			set |= 1 << i
		}
	}
	return set &^ m.Sick
}

// Fits reports whether d fits on m now.
func (m *Machine) Fits(d *Demand) bool {
	if d.CPU > m.CPU || d.Memory > m.Memory {
		return false
	}
	if d.Devices == 0 {
		return true
	}
	set := m.Usable(d)
	for set.Len() >= d.Devices {
		same := m.alike(set)
		if same.Len() >= d.Devices {
			return true
		}
		set &^= same
	}
	return false
}

// alike returns those of a set of devices that are of the first one's model.
func (m *Machine) alike(set Devices) Devices {
	if set == 0 {
		return 0
	}
	first, same := m.Model[set.First()], set
	for rest := set; rest != 0; rest &= rest - 1 {
		if i := rest.First(); m.Model[i] != first {
			same &^= 1 << i
		}
	}
	return same
}

// Tightest returns the devices on which d leaves least: of the model of the tightest
// one, those with the least milli left, then the least memory, then the first. It
// returns none if d asks for none or they are not there.
func (m *Machine) Tightest(d *Demand) Devices {
	var choices [MaxDevices]Devices
	best := Devices(0)
	for _, on := range m.choices(d, &choices) {
		if best == 0 || m.tighter(on.First(), best.First()) {
			best = on
		}
	}
	return best
}

// tighter reports whether device a has less left than b; between equals it is the
// first.
func (m *Machine) tighter(a, b int) bool {
	if m.Idle[a] != m.Idle[b] {
		return m.Idle[a] < m.Idle[b]
	}
	if m.IdleMemory[a] != m.IdleMemory[b] {
		return m.IdleMemory[a] < m.IdleMemory[b]
	}
	return a < b
}

// choices returns the sets of devices worth a look for d: each usable device that
// differs from those before it, if d asks for one; else of each model the tightest.
// It returns none if d asks for none or they are not there.
func (m *Machine) choices(d *Demand, buf *[MaxDevices]Devices) []Devices {
	out := buf[:0]
	if d.Devices == 0 {
		return out
	}
	set := m.Usable(d)
	if d.Devices == 1 {
	next:
		for rest := set; rest != 0; rest &= rest - 1 {
			i := rest.First()
			for _, on := range out {
				if j := on.First(); m.Idle[i] == m.Idle[j] && m.IdleMemory[i] == m.IdleMemory[j] && m.Model[i] == m.Model[j] {
					continue next
				}
			}
			out = append(out, 1<<i)
		}
		return out
	}
	for set.Len() >= d.Devices {
		same := m.alike(set)
		set &^= same
		for same.Len() > d.Devices {
			loosest := same.First()
			for rest := same; rest != 0; rest &= rest - 1 {
				if i := rest.First(); m.tighter(loosest, i) {
					loosest = i
				}
			}
			same &^= 1 << loosest
		}
		if same.Len() == d.Devices {
			out = append(out, same)
		}
	}
	return out
}

// Devices is a set of a machine's devices, bit i being device i.
type Devices uint16

// Len returns how many devices there are in the set.
func (s Devices) Len() int { return bits.OnesCount16(uint16(s)) }

// First returns the lowest device in the set, [MaxDevices] if there is none.
func (s Devices) First() int { return bits.TrailingZeros16(uint16(s)) }

// A Spot is where a demand runs: a machine by its index in the fleet, and devices.
type Spot struct {
	Machine int
	Devices Devices
}

// take places d on the devices; give undoes it.
func (m *Machine) take(d *Demand, on Devices) {
	m.CPU -= d.CPU
	m.Memory -= d.Memory
	m.Pods++
	for ; on != 0; on &= on - 1 {
		m.Idle[on.First()] -= int16(d.Milli)
		m.IdleMemory[on.First()] -= int32(d.DeviceMemory)
	}
}

func (m *Machine) give(d *Demand, on Devices) {
	m.CPU += d.CPU
	m.Memory += d.Memory
	m.Pods--
	for ; on != 0; on &= on - 1 {
		m.Idle[on.First()] += int16(d.Milli)
		m.IdleMemory[on.First()] += int32(d.DeviceMemory)
	}
}

// A Scorer says how good a machine is for a demand.
type Scorer interface {
	// Score returns the score of a machine that d fits on, higher being better,
	// and the devices to take, as many as d asks for, of one model and usable. It
	// must depend on nothing but its arguments and what it knew when it was made, or
	// on m's ID if that part changes only when the machine does: fleets remember the
	// answer until then. It must not keep or change its arguments.
	Score(m *Machine, d *Demand) (score int64, on Devices)
}

// A Fleet is machines and a way to choose among them. It is not safe for
// concurrent use.
type Fleet struct {
	machines []Machine
	whole    []Machine // as given
	version  []uint32  // counts the changes of each machine
	scorer   Scorer
	prices   []int64 // by model; nil: all cost the same
	classes  map[Demand]*class
	last     *class // of the last call, to spare the look-up
}

// A class remembers the scores of one demand.
type class struct {
	demand  Demand
	version []uint32 // the machine's version the score was made at; 0: never
	score   []int64  // misfit where it does not fit
	on      []Devices
}

// misfit is the score where a demand does not fit.
const misfit = math.MinInt64

// maxClasses bounds how many demands a fleet remembers scores for.
const maxClasses = 4096

// NewFleet returns a fleet of empty machines; their order decides between equal
// scores. The machines are copied. It panics if one has more devices or a higher
// model than the package allows.
func NewFleet(machines []Machine, scorer Scorer) *Fleet {
	f := &Fleet{scorer: scorer, classes: map[Demand]*class{}}
	for _, m := range machines {
		f.Add(m)
	}
	return f
}

// Clone returns a fleet that is equal and independent of f, but for the scorer,
// which they share.
func (f *Fleet) Clone() *Fleet {
	return &Fleet{
		machines: slices.Clone(f.machines), whole: slices.Clone(f.whole), version: slices.Clone(f.version),
		scorer: f.scorer, prices: slices.Clone(f.prices), classes: map[Demand]*class{},
	}
}

// Rescore makes the fleet choose by another scorer.
func (f *Fleet) Rescore(s Scorer) {
	f.scorer = s
	clear(f.classes)
	f.last = nil
}

// SetPrices says what a GPU of each model of the fleet costs, by model and in any
// unit, for [Fleet.Best] to choose between alternatives. A price below 1, or that is
// missing, is not known.
func (f *Fleet) SetPrices(perGPU []int64) { f.prices = slices.Clone(perGPU) }

// cost returns what d's GPUs cost on the cheapest model it accepts, 0 if that is not
// known.
func (f *Fleet) cost(d *Demand) int64 {
	var least int64
	for m, p := range f.prices {
		if p > 0 && d.Models.Accepts(Model(m)) && (least == 0 || p < least) {
			least = p
		}
	}
	return min(least, 1<<40) * d.GPU()
}

// proper returns m as machine i, with nothing in entries that mean nothing.
func proper(i int, m Machine) Machine {
	if m.GPUs < 0 || m.GPUs > MaxDevices {
		panic(fmt.Sprintf("gpu: machine %d has %d GPUs", i, m.GPUs))
	}
	for k := range MaxDevices {
		if k >= m.GPUs {
			m.Model[k], m.Idle[k], m.IdleMemory[k] = 0, 0, 0
		} else if m.Model[k] >= MaxModels {
			panic(fmt.Sprintf("gpu: device %d of machine %d is of model %d", k, i, m.Model[k]))
		}
	}
	m.Sick &= 1<<m.GPUs - 1
	m.ID, m.Pods = i, 0
	return m
}

// Add adds an empty machine, as [NewFleet] takes it, and returns its index.
func (f *Fleet) Add(m Machine) int {
	i := len(f.machines)
	m = proper(i, m)
	f.machines = append(f.machines, m)
	f.whole = append(f.whole, m)
	f.version = append(f.version, 1)
	return i
}

// Set changes what machine i has to m, given empty as to [NewFleet]. What runs
// there stays where it is, on devices of the same number, also on such that are
// gone: what is left may be below 0 until it is removed. The zero Machine is one
// that is gone itself.
func (f *Fleet) Set(i int, m Machine) {
	m = proper(i, m)
	has, left := &f.whole[i], &f.machines[i]
	if m == *has {
		return
	}
	now := m
	now.CPU -= has.CPU - left.CPU
	now.Memory -= has.Memory - left.Memory
	now.Pods = left.Pods
	for k := range MaxDevices {
		now.Idle[k] -= has.Idle[k] - left.Idle[k]
		now.IdleMemory[k] -= has.IdleMemory[k] - left.IdleMemory[k]
	}
	*has, *left = m, now
	f.touch(i)
}

// Len returns how many machines there are.
func (f *Fleet) Len() int { return len(f.machines) }

// Machine returns machine i as it is now. The caller must not change it.
func (f *Fleet) Machine(i int) *Machine { return &f.machines[i] }

// Has returns what machine i has when it is empty. The caller must not change it.
func (f *Fleet) Has(i int) *Machine { return &f.whole[i] }

// Empty returns how many machines run nothing.
func (f *Fleet) Empty() int {
	n := 0
	for i := range f.machines {
		if f.machines[i].Pods == 0 {
			n++
		}
	}
	return n
}

// Pick returns the best spot for d, and false if it fits nowhere. It changes
// nothing.
func (f *Fleet) Pick(d Demand) (Spot, bool) {
	c := f.class(d)
	best, top := -1, int64(misfit)
	for i, s := range c.score {
		if s > top {
			best, top = i, s
		}
	}
	if best < 0 {
		return Spot{}, false
	}
	return Spot{best, c.on[best]}, true
}

// A Choice is a spot for one of several alternatives.
type Choice struct {
	Alternative int // which of them
	Spot        Spot
	Score       int64 // what it was chosen by: higher is better
}

// Best returns the k best spots on different machines for whichever of the
// alternatives is best there, best first; of equal ones the first machine, and the
// first alternative. Machines for which may is false are left out; nil leaves out
// none. It changes nothing.
//
// The score of an alternative is the scorer's, divided by what its GPUs cost on the
// cheapest model it accepts (see [Fleet.SetPrices]) as a multiple of what those of
// the cheapest alternative cost; a score below 0 is multiplied by it. So one that
// costs twice as much must score twice as high. What an alternative costs counts as
// little as the cheapest if it is not known.
func (f *Fleet) Best(alternatives []Demand, k int, may func(machine int) bool) []Choice {
	classes, costs := make([]*class, len(alternatives)), make([]int64, len(alternatives))
	var cheapest int64
	for a, d := range alternatives {
		classes[a], costs[a] = f.class(d), f.cost(&d)
		if costs[a] > 0 && (cheapest == 0 || costs[a] < cheapest) {
			cheapest = costs[a]
		}
	}
	k = max(0, min(k, len(f.machines)))
	best := make([]Choice, 0, k)
	for i := range f.machines {
		c := Choice{Score: misfit}
		for a, of := range classes {
			if of.score[i] == misfit {
				continue
			}
			if s := perCost(of.score[i], costs[a], cheapest); s > c.Score {
				c = Choice{a, Spot{i, of.on[i]}, s}
			}
		}
		if c.Score == misfit || len(best) == k && (k == 0 || c.Score <= best[k-1].Score) || may != nil && !may(i) {
			continue
		}
		at := len(best)
		for at > 0 && best[at-1].Score < c.Score {
			at--
		}
		if len(best) == k {
			best = best[:k-1]
		}
		best = slices.Insert(best, at, c)
	}
	return best
}

// perCost divides a score by cost/cheapest, or multiplies it if it is below 0. A
// cost of 0 is not known.
func perCost(score, cost, cheapest int64) int64 {
	if cost <= cheapest {
		return score
	}
	if score >= 0 {
		hi, lo := bits.Mul64(uint64(score), uint64(cheapest))
		q, _ := bits.Div64(hi, lo, uint64(cost)) // less than score, so that it fits
		return int64(q)
	}
	hi, lo := bits.Mul64(uint64(-score), uint64(cost))
	if hi >= uint64(cheapest) {
		return misfit + 1
	}
	q, _ := bits.Div64(hi, lo, uint64(cheapest))
	return -int64(min(q, math.MaxInt64))
}

// class returns d's class, up to date.
func (f *Fleet) class(d Demand) *class {
	c := f.last
	if c == nil || c.demand != d {
		if c = f.classes[d]; c == nil {
			if len(f.classes) >= maxClasses {
				clear(f.classes)
			}
			c = &class{demand: d}
			f.classes[d] = c
		}
		f.last = c
	}
	if more := len(f.machines) - len(c.version); more > 0 {
		c.version = append(c.version, make([]uint32, more)...)
		c.score = append(c.score, make([]int64, more)...)
		c.on = append(c.on, make([]Devices, more)...)
	}
	for i, v := range f.version {
		if c.version[i] == v {
			continue
		}
		c.version[i], c.score[i], c.on[i] = v, misfit, 0
		if m := &f.machines[i]; m.Fits(&d) {
			score, on := f.scorer.Score(m, &d)
			c.score[i], c.on[i] = max(score, misfit+1), on
		}
	}
	return c
}

// Place books d on s. It returns an error, and changes nothing, if d does not
// fit there.
func (f *Fleet) Place(d Demand, s Spot) error {
	if err := f.check(&d, s); err != nil {
		return err
	}
	m := &f.machines[s.Machine]
	switch {
	case d.CPU > m.CPU:
		return fmt.Errorf("machine %d has %d milli-cores left, not %d", s.Machine, m.CPU, d.CPU)
	case d.Memory > m.Memory:
		return fmt.Errorf("machine %d has memory %d left, not %d", s.Machine, m.Memory, d.Memory)
	case s.Devices>>m.GPUs != 0:
		return fmt.Errorf("machine %d has %d GPUs, so devices %b are not there", s.Machine, m.GPUs, s.Devices)
	}
	for on := s.Devices; on != 0; on &= on - 1 {
		switch i := on.First(); {
		case m.Sick>>i&1 == 1:
			return fmt.Errorf("device %d of machine %d is sick", i, s.Machine)
		case !d.Models.Accepts(m.Model[i]):
			return fmt.Errorf("device %d of machine %d is of a model that is not acceptable", i, s.Machine)
		case m.Model[i] != m.Model[s.Devices.First()]:
			return fmt.Errorf("devices %b of machine %d are not of one model", s.Devices, s.Machine)
		case int64(m.Idle[i]) < d.Milli:
			return fmt.Errorf("device %d of machine %d has %d milli left, not %d", i, s.Machine, m.Idle[i], d.Milli)
		case int64(m.IdleMemory[i]) < d.DeviceMemory:
			return fmt.Errorf("device %d of machine %d has %d MiB left, not %d", i, s.Machine, m.IdleMemory[i], d.DeviceMemory)
		}
	}
	m.take(&d, s.Devices)
	f.touch(s.Machine)
	return nil
}

// Record books d on s although it may not fit: for what runs there already,
// whoever put it there. What is left may be below 0 then.
func (f *Fleet) Record(d Demand, s Spot) error {
	if err := f.check(&d, s); err != nil {
		return err
	}
	m := &f.machines[s.Machine]
	if m.CPU < -maxCPU || m.Memory < -maxMemory {
		return fmt.Errorf("machine %d is booked beyond all measure", s.Machine)
	}
	for on := s.Devices; on != 0; on &= on - 1 {
		if i := on.First(); int64(m.Idle[i])-d.Milli < math.MinInt16 || int64(m.IdleMemory[i])-d.DeviceMemory < math.MinInt32 {
			return fmt.Errorf("device %d of machine %d is booked beyond all measure", i, s.Machine)
		}
	}
	m.take(&d, s.Devices)
	f.touch(s.Machine)
	return nil
}

// Remove undoes a Place or Record of d on s. It returns an error, and changes
// nothing, if the machine would then have more than it was made with.
func (f *Fleet) Remove(d Demand, s Spot) error {
	if err := f.check(&d, s); err != nil {
		return err
	}
	m, has := f.machines[s.Machine], &f.whole[s.Machine]
	m.give(&d, s.Devices)
	if m.CPU > has.CPU || m.Memory > has.Memory || m.Pods < 0 {
		return fmt.Errorf("machine %d does not run that", s.Machine)
	}
	for i := range MaxDevices {
		if m.Idle[i] > has.Idle[i] || m.IdleMemory[i] > has.IdleMemory[i] {
			return fmt.Errorf("device %d of machine %d does not run that", i, s.Machine)
		}
	}
	f.machines[s.Machine] = m
	f.touch(s.Machine)
	return nil
}

// check says what is wrong with a demand and a spot whatever is left there.
func (f *Fleet) check(d *Demand, s Spot) error {
	if err := d.Validate(); err != nil {
		return err
	}
	if s.Machine < 0 || s.Machine >= len(f.machines) {
		return fmt.Errorf("there is no machine %d", s.Machine)
	}
	if s.Devices.Len() != d.Devices {
		return fmt.Errorf("devices %b of machine %d are not the %d asked for", s.Devices, s.Machine, d.Devices)
	}
	return nil
}

func (f *Fleet) touch(i int) {
	if f.version[i]++; f.version[i] == 0 { // 0 means "never scored"
		f.version[i] = 1
	}
}
