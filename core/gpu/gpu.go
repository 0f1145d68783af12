package gpu

import (
	"fmt"
	"math/bits"
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
	CPU     int64  // milli-cores
	Memory  int64  // in the unit of [Machine.Memory]
	Devices int    // GPUs, each another one
	Milli   int64  // thousandths of each; below Whole only with one device
	Models  Models // acceptable ones; none named means any
}

// GPU returns the thousandths of GPUs asked for in total.
func (d Demand) GPU() int64 { return int64(d.Devices) * d.Milli }

// Validate says what is wrong with d, nil if nothing is.
func (d Demand) Validate() error {
	switch {
	case d.CPU < 0:
		return fmt.Errorf("cpu %d is negative", d.CPU)
	case d.Memory < 0:
		return fmt.Errorf("memory %d is negative", d.Memory)
	case d.Devices < 0 || d.Devices > MaxDevices:
		return fmt.Errorf("%d GPUs are not between 0 and %d", d.Devices, MaxDevices)
	case d.Milli < 0 || d.Milli > Whole:
		return fmt.Errorf("gpu milli %d is not between 0 and %d", d.Milli, Whole)
	case d.Devices == 0 && d.Milli != 0:
		return fmt.Errorf("gpu milli %d of no GPU", d.Milli)
	case d.Devices > 0 && d.Milli == 0:
		return fmt.Errorf("%d GPUs with gpu milli 0; a GPU is asked for with 1 to %d", d.Devices, Whole)
	case d.Devices > 1 && d.Milli != Whole:
		return fmt.Errorf("gpu milli %d of each of %d GPUs; several GPUs are given whole", d.Milli, d.Devices)
	}
	return nil
}

// A Machine is what is left on one machine. As given to [NewFleet] nothing runs
// on it, so that what is left is what it has.
type Machine struct {
	ID     int // its index in the fleet; [NewFleet] sets it
	CPU    int64
	Memory int64
	GPUs   int // how many of Idle count
	Model  Model
	Pods   int               // running
	Idle   [MaxDevices]int16 // thousandths left of each device
}

// IdleMilli returns the thousandths left on all devices.
func (m *Machine) IdleMilli() int64 {
	var sum int64
	for _, v := range m.Idle[:m.GPUs] {
		sum += int64(v)
	}
	return sum
}

// Fits reports whether d fits on m now.
func (m *Machine) Fits(d *Demand) bool {
	if d.CPU > m.CPU || d.Memory > m.Memory {
		return false
	}
	if d.Devices == 0 {
		return true
	}
	if d.Devices > m.GPUs || !d.Models.Accepts(m.Model) {
		return false
	}
	n := d.Devices
	for _, v := range m.Idle[:m.GPUs] {
		if int64(v) >= d.Milli {
			if n--; n == 0 {
				return true
			}
		}
	}
	return false
}

// Tightest returns the device on which a demand for one piece of a GPU leaves
// least, the first among equals, or −1 if it fits on none.
func (m *Machine) Tightest(milli int64) int {
	best := -1
	for i, v := range m.Idle[:m.GPUs] {
		if int64(v) >= milli && (best < 0 || v < m.Idle[best]) {
			best = i
		}
	}
	return best
}

// Devices is a set of a machine's devices, bit i being device i.
type Devices uint16

// A Spot is where a demand runs: a machine by its index in the fleet, and devices.
type Spot struct {
	Machine int
	Devices Devices
}

// spotOn returns the devices d takes on m: device if it asks for a piece of one,
// else the first idle ones.
func (m *Machine) spotOn(d *Demand, device int) Devices {
	if d.Devices == 0 {
		return 0
	}
	if d.Devices == 1 && d.Milli < Whole {
		return 1 << device
	}
	var set Devices
	n := d.Devices
	for i := 0; i < m.GPUs && n > 0; i++ {
		if m.Idle[i] == Whole {
			set |= 1 << i
			n--
		}
	}
	return set
}

// take places d on the devices; give undoes it.
func (m *Machine) take(d *Demand, on Devices) {
	m.CPU -= d.CPU
	m.Memory -= d.Memory
	m.Pods++
	for set := on; set != 0; set &= set - 1 {
		m.Idle[bits.TrailingZeros16(uint16(set))] -= int16(d.Milli)
	}
}

func (m *Machine) give(d *Demand, on Devices) {
	m.CPU += d.CPU
	m.Memory += d.Memory
	m.Pods--
	for set := on; set != 0; set &= set - 1 {
		m.Idle[bits.TrailingZeros16(uint16(set))] += int16(d.Milli)
	}
}

// A Scorer says how good a machine is for a demand.
type Scorer interface {
	// Score returns the score of a machine that d fits on, higher being better,
	// and the device for a piece of a GPU (any number if d asks for none or for
	// whole ones: those get the first idle devices). It must depend on nothing but
	// its arguments and what it knew when the fleet was made, or on m's ID if that
	// part changes only when the machine does: fleets remember the answer until then.
	// It must not keep or change its arguments.
	Score(m *Machine, d *Demand) (score int64, device int)
}

// A Fleet is machines and a way to choose among them. It is not safe for
// concurrent use.
type Fleet struct {
	machines []Machine
	whole    []Machine // as given
	version  []uint32  // counts the changes of each machine
	scorer   Scorer
	classes  map[Demand]*class
	last     *class // of the last call, to spare the look-up
}

// A class remembers the scores of one demand.
type class struct {
	demand  Demand
	version []uint32 // the machine's version the score was made at; never 0
	score   []int64
	device  []int8 // −1: does not fit
}

// maxClasses bounds how many demands a fleet remembers scores for.
const maxClasses = 4096

// NewFleet returns a fleet of empty machines; their order decides between equal
// scores. The machines are copied. It panics if one has more devices or a higher
// model than the package allows.
func NewFleet(machines []Machine, scorer Scorer) *Fleet {
	f := &Fleet{
		machines: append([]Machine(nil), machines...), whole: append([]Machine(nil), machines...),
		version: make([]uint32, len(machines)), scorer: scorer, classes: map[Demand]*class{},
	}
	for i := range f.machines {
		if m := &f.machines[i]; m.GPUs < 0 || m.GPUs > MaxDevices || m.Model >= MaxModels {
			panic(fmt.Sprintf("gpu: machine %d has %d GPUs of model %d", i, m.GPUs, m.Model))
		}
		f.machines[i].ID = i
		f.version[i] = 1
	}
	return f
}

// Len returns how many machines there are.
func (f *Fleet) Len() int { return len(f.machines) }

// Machine returns machine i as it is now. The caller must not change it.
func (f *Fleet) Machine(i int) *Machine { return &f.machines[i] }

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
	best, top := -1, int64(0)
	for i, v := range f.version {
		if c.version[i] != v {
			c.version[i] = v
			c.device[i] = -1
			if m := &f.machines[i]; m.Fits(&d) {
				score, device := f.scorer.Score(m, &d)
				c.score[i], c.device[i] = score, int8(device)
			}
		}
		if c.device[i] >= 0 && (best < 0 || c.score[i] > top) {
			best, top = i, c.score[i]
		}
	}
	if best < 0 {
		return Spot{}, false
	}
	return Spot{best, f.machines[best].spotOn(&d, int(c.device[best]))}, true
}

func (f *Fleet) class(d Demand) *class {
	if f.last != nil && f.last.demand == d {
		return f.last
	}
	c := f.classes[d]
	if c == nil {
		if len(f.classes) >= maxClasses {
			clear(f.classes)
		}
		n := len(f.machines)
		c = &class{demand: d, version: make([]uint32, n), score: make([]int64, n), device: make([]int8, n)}
		f.classes[d] = c
	}
	f.last = c
	return c
}

// Place books d on s. It returns an error, and changes nothing, if d does not
// fit there.
func (f *Fleet) Place(d Demand, s Spot) error {
	if err := d.Validate(); err != nil {
		return err
	}
	if s.Machine < 0 || s.Machine >= len(f.machines) {
		return fmt.Errorf("there is no machine %d", s.Machine)
	}
	m := &f.machines[s.Machine]
	switch {
	case d.CPU > m.CPU:
		return fmt.Errorf("machine %d has %d milli-cores left, not %d", s.Machine, m.CPU, d.CPU)
	case d.Memory > m.Memory:
		return fmt.Errorf("machine %d has memory %d left, not %d", s.Machine, m.Memory, d.Memory)
	case bits.OnesCount16(uint16(s.Devices)) != d.Devices || bits.Len16(uint16(s.Devices)) > m.GPUs:
		return fmt.Errorf("devices %b of machine %d are not the %d asked for", s.Devices, s.Machine, d.Devices)
	case d.Devices > 0 && !d.Models.Accepts(m.Model):
		return fmt.Errorf("machine %d has a model that is not acceptable", s.Machine)
	}
	for set := s.Devices; set != 0; set &= set - 1 {
		if i := bits.TrailingZeros16(uint16(set)); int64(m.Idle[i]) < d.Milli {
			return fmt.Errorf("device %d of machine %d has %d milli left, not %d", i, s.Machine, m.Idle[i], d.Milli)
		}
	}
	m.take(&d, s.Devices)
	f.touch(s.Machine)
	return nil
}

// Remove undoes a Place of d on s. It returns an error, and changes nothing, if
// the machine would then have more than it was made with.
func (f *Fleet) Remove(d Demand, s Spot) error {
	if err := d.Validate(); err != nil {
		return err
	}
	if s.Machine < 0 || s.Machine >= len(f.machines) {
		return fmt.Errorf("there is no machine %d", s.Machine)
	}
	m, has := f.machines[s.Machine], &f.whole[s.Machine]
	if bits.OnesCount16(uint16(s.Devices)) != d.Devices || bits.Len16(uint16(s.Devices)) > m.GPUs {
		return fmt.Errorf("devices %b of machine %d are not the %d asked for", s.Devices, s.Machine, d.Devices)
	}
	m.give(&d, s.Devices)
	if m.CPU > has.CPU || m.Memory > has.Memory || m.Pods < has.Pods {
		return fmt.Errorf("machine %d does not run that", s.Machine)
	}
	for i := range m.Idle[:m.GPUs] {
		if m.Idle[i] > has.Idle[i] {
			return fmt.Errorf("device %d of machine %d does not run that", i, s.Machine)
		}
	}
	f.machines[s.Machine] = m
	f.touch(s.Machine)
	return nil
}

func (f *Fleet) touch(i int) {
	if f.version[i]++; f.version[i] == 0 { // 0 means "never scored"
		f.version[i] = 1
	}
}
