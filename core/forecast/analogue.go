package forecast

import (
	"cmp"
	"math"
	"slices"
)

// What an analogue is worth. The figures hold for every series; they were chosen
// on recorded ones, and none changes the outcome much when it is doubled or halved.
const (
	memory     = 15   // days that are remembered
	fading     = 0.97 // a day's worth to that of the day after it
	otherKind  = 0.3  // worth of a day of another kind, such as a weekend for a working day
	unlike     = 5    // how fast worth falls as the last six hours of the days differ
	likeness   = 360  // minutes that are compared
	likeEvery  = 5    // of these, every so many
	near       = 2.0  // minutes: how exact people keep the time
	sameMinute = 0.3  // worth of the same minute of another half hour: schedules keep to the clock
	sameLevel  = 0.5  // logarithm of the ratio of levels at which worth falls by 40 %
	anyLevel   = 0.05 // worth of an analogue of quite another level
	asItWas    = 0.1  // worth of an analogue that came from elsewhere to the same end
	roughly    = 0.07 // logarithm: how well an analogue knows a height
	oldest     = 5    // minutes that a value stands for those that are not known yet
	least      = 1e-4 // worth below which an analogue says nothing
)

// offsets are where analogues are looked for around the minute of the day.
var offsets = func() (all []offset) {
	for _, o := range []int{0, 1, 2, 3, 4, 6, 9, 13, 20, 30, 45, 60} {
		w := 1 / (1 + float64(o*o)/(near*near)) * max(1, float64(o)/3)
		if o%30 == 0 && o > 0 {
			w = max(w, sameMinute)
		}
		all = append(all, offset{o, w})
		if o > 0 {
			all = append(all, offset{-o, w})
		}
	}
	return all
}()

type offset struct {
	minutes int
	worth   float64
}

// A sample is a demand that may come, and how likely it is beside the others.
type sample struct{ demand, weight float64 }

// look returns what may come between a and b minutes after minute s, of which
// nothing later is known, sorted by demand. With rough, the heights are as
// uncertain as they are to one who must provide for them.
func (m *Model) look(s, a, b int, rough bool) []sample {
	// What is asked again in the same minute is not looked up again.
	v := &m.views[0]
	switch {
	case rough:
		v = &m.views[1]
	case a != b:
		v = &m.views[2]
	}
	if v.s == s && v.a == a && v.b == b && v.samples != nil {
		return v.samples
	}
	*v = view{s, a, b, m.survey(v.samples[:0], s, a, b, rough)}
	return v.samples
}

// A view is what was looked up last.
type view struct {
	s, a, b int
	samples []sample
}

func (m *Model) survey(all []sample, s, a, b int, rough bool) []sample {
	x, lx := m.level(s)
	here, kind := m.slot(s), m.slot(s+a).kind
	for k, fade := 0, 1.0; k <= memory; k, fade = k+1, fade*fading {
		then := s - k*day
		if then+60 < 0 {
			break
		}
		then += here.offset - m.slot(then).offset
		worth := fade
		if k > 0 {
			worth *= m.alike(s, then)
		}
		for _, o := range offsets {
			c := then + o.minutes
			if c < 0 || c+b > s || !rough && max(o.minutes, -o.minutes) > m.within {
				continue
			}
			w := worth * o.worth
			if m.slot(c+a).kind != kind {
				w *= otherKind
			}
			xc, lc := m.value[c], float64(m.log[c])
			y := math.Inf(-1)
			for _, v := range m.value[c+a : c+b+1] {
				if v > y {
					y = v
				}
			}
			if xc != xc || math.IsInf(y, -1) {
				continue
			}
			if x != x { // what is now is not known: what was then is all there is
				all = add(all, y, w, rough)
				continue
			}
			l := lx - lc
			w *= max(anyLevel, math.Exp(-l*l/(2*sameLevel*sameLevel)))
			if w < least {
				continue
			}
			if !rough {
				all = append(all, sample{y + m.inertia*(m.carry(x, xc, y)-y), w})
				continue
			}
			all = add(all, m.carry(x, xc, y), w, rough)
			all = append(all, sample{y, w * asItWas})
		}
	}
	slices.SortFunc(all, func(p, q sample) int { return cmp.Compare(p.demand, q.demand) })
	return all
}

// carry says what demand comes of x, if y came of then.
func (m *Model) carry(x, then, y float64) float64 {
	switch {
	case y < then: // it fell: by the same share
		return x * (y + m.small) / (then + m.small)
	case x <= then: // it rose: by as much
		return x + y - then
	default: // from a higher level: to the same height, or a little above
		return max(x, y, min(x*(y+m.small)/(then+m.small), 1.3*max(x, y)))
	}
}

// spread is a normal distribution in five points (Gauss and Hermite).
var spread = []struct{ factor, weight float64 }{
	{math.Exp(-2.857 * roughly), 0.01126}, {math.Exp(-1.3556 * roughly), 0.22208}, {1, 0.53333},
	{math.Exp(1.3556 * roughly), 0.22208}, {math.Exp(2.857 * roughly), 0.01126},
}

func add(all []sample, demand, weight float64, rough bool) []sample {
	if !rough {
		return append(all, sample{demand, weight})
	}
	for _, p := range spread {
		all = append(all, sample{demand * p.factor, weight * p.weight})
	}
	return all
}

// alike is how much the hours before then were like those before s.
func (m *Model) alike(s, then int) float64 {
	sum, n := 0.0, 0
	for i := likeEvery; i < likeness && then-i >= 0; i += likeEvery {
		d := float64(m.log[s-i] - m.log[then-i])
		if d == d {
			sum += min(d*d, 1)
			n++
		}
	}
	if n == 0 {
		return 1
	}
	return math.Exp(-unlike * math.Sqrt(sum/float64(n)))
}

// level returns the newest demand known at s and its logarithm, NaN if it is too old.
func (m *Model) level(s int) (v, log float64) {
	for i := s; i >= 0 && i > s-oldest; i-- {
		if m.value[i] == m.value[i] {
			return m.value[i], float64(m.log[i])
		}
	}
	return math.NaN(), math.NaN()
}

// quantile of samples that are sorted; NaN if there are none.
func quantile(s []sample, tau float64) float64 {
	total := 0.0
	for _, p := range s {
		total += p.weight
	}
	sum := 0.0
	for _, p := range s {
		if sum += p.weight; sum >= tau*total {
			return p.demand
		}
	}
	if len(s) == 0 {
		return math.NaN()
	}
	return s[len(s)-1].demand
}
