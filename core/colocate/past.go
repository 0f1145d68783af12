package colocate

import (
	"math"
	"slices"
	"time"
)

// A History is what online pods and the system of one machine used together: the
// mean, or better the highest, of each step. NaN, negative and infinite values
// are not known.
type History struct {
	Start               time.Time
	Step                time.Duration // at most [Step]
	CPUMilli, MemoryMiB []float64
	// Location is the zone in which days begin; nil means UTC.
	Location *time.Location
}

// memory is how many days a Past remembers.
const memory = 15

// A Past is what is known of the use of one machine: the highest of each quarter
// of an hour, fifteen days back. It is not safe for concurrent use.
type Past struct {
	zone   *time.Location
	origin int64        // the quarter of peak[·][0] since 1970
	peak   [2][]float32 // CPU in milli, memory in MiB; NaN is not known
	at     time.Time    // when CPU was last measured
	seen   view
	habit  habit
	all    []sample // scratch

	worth   []float64 // what the days before the quarter worthAt are worth
	worthAt int64
}

// Learn reads a history. It never fails: what makes no sense is not known.
func Learn(h History) *Past {
	p := &Past{zone: h.Location}
	if h.Step <= 0 || h.Step > Step {
		return p
	}
	for i := range max(len(h.CPUMilli), len(h.MemoryMiB)) {
		p.Observe(h.Start.Add(time.Duration(i)*h.Step), at(h.CPUMilli, i), at(h.MemoryMiB, i))
	}
	return p
}

func at(v []float64, i int) float64 {
	if i < len(v) {
		return v[i]
	}
	return math.NaN()
}

// Observe tells what is used at t. NaN says that it is not known. A time before
// the last quarter of an hour is ignored.
func (p *Past) Observe(t time.Time, cpuMilli, memoryMiB float64) {
	q := quarter(t)
	if len(p.peak[0]) == 0 || q >= p.origin+int64(len(p.peak[0]))+memory*Steps {
		*p = Past{origin: q, zone: p.zone}
	}
	i := int(q - p.origin)
	if i < len(p.peak[0])-1 || i < 0 {
		return
	}
	for kind, v := range [2]float64{cpuMilli, memoryMiB} {
		for len(p.peak[kind]) <= i {
			p.peak[kind] = append(p.peak[kind], float32(math.NaN()))
		}
		if v >= 0 && v < 1e15 {
			if have := p.peak[kind][i]; !(float64(have) >= v) {
				p.peak[kind][i] = float32(v)
			}
			if kind == 0 {
				p.at = t
			}
		}
	}
	if n := len(p.peak[0]); n > (memory+1)*Steps {
		for kind := range p.peak {
			p.peak[kind] = slices.Delete(p.peak[kind], 0, Steps)
		}
		p.origin += Steps
	}
}

func quarter(t time.Time) int64 {
	s, n := t.Unix(), int64(Step/time.Second)
	return (s - ((s%n)+n)%n) / n
}

// Measured is when CPU was last measured; zero if never.
func (p *Past) Measured() time.Time {
	if p == nil {
		return time.Time{}
	}
	return p.at
}

// Days is of how many days something is known, rounded down.
func (p *Past) Days() int64 {
	if p == nil {
		return 0
	}
	known := int64(0)
	for _, v := range p.peak[0] {
		if v == v {
			known++
		}
	}
	return known / Steps
}

// most is the highest CPU (kind 0) or memory (1) of the last day; NaN if nothing is
// known.
func (p *Past) most(kind int, now time.Time) float64 {
	v := math.NaN()
	i := int(quarter(now) - p.origin)
	for j := max(0, i-Steps); j <= i && j < len(p.peak[kind]); j++ {
		if w := float64(p.peak[kind][j]); !(v >= w) && w == w {
			v = w
		}
	}
	return v
}
