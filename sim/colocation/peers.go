package colocation

import (
	"math"
	"time"

	"github.com/neap-dev/neap/core/colocate"
	"github.com/neap-dev/neap/sim/autoscale"
)

// A scalar is a capacity without a horizon: jobs fit while their cores do.
type scalar struct {
	machine, capacity float64 // thousandths of a core
}

// Fits implements [Lender].
func (c *scalar) Fits(_ time.Time, asks colocate.Task, running []colocate.Task) bool {
	sum := asks.Need.CPUMilli
	for _, t := range running {
		sum += t.Need.CPUMilli
	}
	return float64(sum) <= c.capacity
}

// Leave implements [Lender]: peers leave eviction to the node.
func (*scalar) Leave(time.Time, []colocate.Task) []int { return nil }

// last returns the newest value known and its age in minutes.
func last(v []float64) (float64, int) {
	for age := range len(v) {
		if x := v[len(v)-1-age]; known(x) {
			return x, age
		}
	}
	return math.NaN(), len(v)
}

// Koordinator is the policy "usage" of its slo-controller:
//
//	machine · threshold − mean use of the last five minutes
//
// written when it differs by a tenth, or after five minutes; nothing after fifteen
// minutes without metrics.
type Koordinator struct {
	scalar
	Threshold float64 // percent; its default is 60
	written   int
}

// Look implements [Lender].
func (k *Koordinator) Look(s Seen) {
	sum, n := 0.0, 0.0
	for _, v := range s.Online[max(0, len(s.Online)-5):] {
		if known(v) {
			sum, n = sum+v, n+1
		}
	}
	if n == 0 {
		if _, age := last(s.Online); age >= 15 {
			k.capacity = 0
		}
		return
	}
	value := max(0, k.machine*k.Threshold/100-sum/n)
	if math.Abs(value-k.capacity) > 0.1*k.capacity || s.Minute-k.written >= 5 {
		k.capacity, k.written = value, s.Minute
	}
}

// Volcano is its agent's oversubscription: every ten seconds
//
//	x = (allocatable − use) · ratio
//
// published as the mean of ten samples, each of twice the weight of the one
// before. Between minutes the use is a straight line.
type Volcano struct {
	scalar
	Ratio float64 // percent; its default is 60
}

// Look implements [Lender].
func (v *Volcano) Look(s Seen) {
	n := len(s.Online)
	if n < 3 || !known(s.Online[n-1]+s.Online[n-2]+s.Online[n-3]) {
		return // it keeps what it said
	}
	sum, total, w := 0.0, 0.0, 1.0
	for i := 9; i >= 0; i-- {
		x := float64(n-1) - float64(i)/6
		j := min(int(x), n-2)
		u := x - float64(j)
		use := s.Online[j]*(1-u) + s.Online[j+1]*u
		sum, total, w = sum+w*max(0, v.machine-use)*v.Ratio/100, total+w, 2*w
	}
	v.capacity = sum / total
}

// Crane is its node resource controller:
//
//	allocatable · (1 − reserve) − max(highest DSP forecast of the hour to come, use)
//
// written when it differs by a tenth. Without metrics it counts a use of zero, as
// its source does.
type Crane struct {
	scalar
	Reserve float64 // percent
	DSP     *dsp    // shared by all that look at one machine
}

// Look implements [Lender].
func (c *Crane) Look(s Seen) {
	use := s.Online[len(s.Online)-1]
	if !known(use) {
		use = 0
	}
	if top, ok := c.DSP.top(s); ok {
		use = max(use, top)
	}
	value := max(0, c.machine*(1-c.Reserve/100)-use)
	if math.Abs(value-c.capacity) > 0.1*c.capacity {
		c.capacity = value
	}
}

// dsp is Crane's forecast of one machine, once a minute however many ask.
type dsp struct {
	ehpa   *autoscale.EHPA
	minute int
	value  float64
	ok     bool
}

func newDSP(unit float64) *dsp { return &dsp{ehpa: autoscale.NewEHPA(unit), minute: -1} }

func (d *dsp) top(s Seen) (float64, bool) {
	if d.minute != s.Minute {
		d.minute = s.Minute
		d.value, d.ok = d.ehpa.Top(autoscale.Seen{Minute: s.Minute, Now: s.Now, Demand: s.Online})
	}
	return d.value, d.ok
}

// Katalyst is its canonical headroom:
//
//	upper bound − max(1.25 · use, load of one minute, load of five) − reserved + 4
//
// Loads are decaying means of the use. Without metrics nothing is known of
// requests here: it counts 4 cores, as its source does.
type Katalyst struct {
	scalar
	Reserved     float64 // cores, ReservedForAllocate; its default is 4
	load1, load5 float64
	begun        bool
}

// Look implements [Lender].
func (k *Katalyst) Look(s Seen) {
	estimate := 4000.0
	if use := s.Online[len(s.Online)-1]; known(use) {
		if !k.begun {
			k.load1, k.load5, k.begun = use, use, true
		}
		k.load1 += (use - k.load1) * (1 - math.Exp(-1))
		k.load5 += (use - k.load5) * (1 - math.Exp(-1.0/5))
		estimate = max(1.25*use, k.load1, k.load5)
	}
	k.capacity = max(0, k.machine-estimate-k.Reserved*1000+4000)
}

// An Oracle knows what online pods will use; of jobs it knows no more than others.
type Oracle struct {
	Share   float64 // percent of the machine
	Machine *Machine
	curve   colocate.Curve
}

// Look implements [Lender].
func (o *Oracle) Look(s Seen) {
	o.curve = colocate.Curve{Start: s.Now, Step: time.Minute, CPUMilli: o.curve.CPUMilli[:0], MemoryMiB: o.curve.MemoryMiB[:0]}
	for t := s.Minute; t < s.Minute+day; t++ {
		free := o.Machine.Milli * o.Share / 100
		if t < len(o.Machine.Online) && known(o.Machine.Online[t]) {
			free -= o.Machine.Online[t]
		}
		o.curve.CPUMilli, o.curve.MemoryMiB = append(o.curve.CPUMilli, int64(free)), append(o.curve.MemoryMiB, 0)
	}
}

// Fits implements [Lender].
func (o *Oracle) Fits(now time.Time, asks colocate.Task, running []colocate.Task) bool {
	return colocate.Admit(o.curve, now, asks, running).Fits
}

// Leave implements [Lender].
func (*Oracle) Leave(time.Time, []colocate.Task) []int { return nil }
