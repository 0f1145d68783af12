package colocate

import (
	"cmp"
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
}

// memory is how many days a Past remembers.
const memory = 15

// A Past is what is known of the use of one machine: the highest of each quarter
// of an hour, fifteen days back. It is not safe for concurrent use.
type Past struct {
	origin  int64        // the quarter of peak[·][0] since 1970
	peak    [2][]float32 // CPU in milli, memory in MiB; NaN is not known
	last    [2]float64   // the newest value known
	at      time.Time    // when that was measured
	ordered []sample     // scratch
}

type sample struct{ value, weight float64 }

// Learn reads a history. It never fails: what makes no sense is not known.
func Learn(u History) *Past {
	p := &Past{}
	if u.Step <= 0 || u.Step > Step {
		return p
	}
	for i := range max(len(u.CPUMilli), len(u.MemoryMiB)) {
		p.Observe(u.Start.Add(time.Duration(i)*u.Step), at(u.CPUMilli, i), at(u.MemoryMiB, i))
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
		*p = Past{origin: q}
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
			p.last[kind] = v
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

// level is the highest use of the quarter of an hour of now and of the one before.
func (p *Past) level(kind, i int) float64 {
	v := math.NaN()
	for _, j := range []int{i, i - 1} {
		if j >= 0 && j < len(p.peak[kind]) {
			if w := float64(p.peak[kind][j]); !(v >= w) && w == w {
				v = w
			}
		}
	}
	return v
}

// foresee returns the quantile of the highest CPU use k steps from now; NaN if
// nothing is known.
func (p *Past) foresee(now time.Time, k int, quantile float64) float64 {
	i := int(quarter(now) - p.origin)
	x := p.level(0, i)
	all := p.ordered[:0]
	if k == 0 {
		return x
	}
	for d := 1; d <= memory; d++ {
		for o := -1; o <= 1; o++ {
			c := i - d*Steps + o
			if c < 0 || c+k >= i || c+k >= len(p.peak[0]) {
				continue
			}
			y, xc := float64(p.peak[0][c+k]), p.level(0, c)
			if y != y {
				continue
			}
			if xc == xc && x == x && x > xc {
				y += (x - xc) * math.Exp(-float64(k)/8)
			}
			all = append(all, sample{y, math.Pow(0.97, float64(d))})
		}
	}
	p.ordered = all
	if len(all) == 0 {
		return math.NaN()
	}
	slices.SortFunc(all, func(a, b sample) int { return cmp.Compare(a.value, b.value) })
	total := 0.0
	for _, s := range all {
		total += s.weight
	}
	sum := 0.0
	for _, s := range all {
		if sum += s.weight; sum >= quantile*total {
			return s.value
		}
	}
	return all[len(all)-1].value
}

// most is the highest memory of the last day; NaN if nothing is known.
func (p *Past) most(now time.Time) float64 {
	v := math.NaN()
	i := int(quarter(now) - p.origin)
	for j := max(0, i-Steps); j <= i && j < len(p.peak[1]); j++ {
		if w := float64(p.peak[1][j]); !(v >= w) && w == w {
			v = w
		}
	}
	return v
}
