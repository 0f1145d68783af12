package colocate

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// How the past is read. The figures hold for every machine; they were chosen on
// recorded loads, and the halves of these that were not looked at agree.
const (
	fading    = 0.97 // a day's worth to that of the day after it
	otherKind = 0.3  // worth of a weekend for a working day, and the other way
	sameLevel = 0.5  // logarithm of the ratio of levels at which worth falls by 40 %
	anyLevel  = 0.05 // worth of a like time at quite another level
	likeHours = 24   // quarters that are compared
	unlike    = 3    // how fast worth falls as the hours before differ
	keeps     = 16   // quarters in which what is above or below its like time comes closer to it
	sparse    = 7    // of the quarters at any time, every so many

	fadingSparse = 0.9978 // fading over sparse quarters
)

// around is the worth of a quarter so many beside the same time of the day.
var around = [...]float64{1, 0.6, 0.2}

// rates are how much a quarter at any time is worth beside one at the same time,
// from loads that keep to the clock to those that do not.
var rates = [...]float64{0.001, 0.01, 0.1}

// A sample is a use that may come; like is its worth as one at a like time, any as
// one at any time.
type sample struct{ use, like, any float64 }

// A view is what was foreseen last, from one quarter at one level, for every
// quantile that was ever asked for.
type view struct {
	from     int64 // quarter
	known    int   // peaks
	level    float64
	quantile []float64
	online   [][Steps]float64
}

// outlook returns the quantile of the highest CPU use in each step from now on;
// NaN where nothing is known.
func (p *Past) outlook(now time.Time, quantile float64) *[Steps]float64 {
	from := quarter(now)
	i := int(from - p.origin)
	x := p.level(i)
	v := &p.seen
	n := slices.Index(v.quantile, quantile)
	if n < 0 {
		n = len(v.quantile)
		v.quantile, v.online = append(v.quantile, quantile), append(v.online, [Steps]float64{})
	} else if v.from == from && v.known == len(p.peak[0]) && (v.level == x || x != x) {
		return &v.online[n]
	}
	v.from, v.known, v.level = from, len(p.peak[0]), x
	rate := p.rate(i)
	for k := range Steps {
		all := p.look(i, k, x)
		for n, q := range v.quantile {
			v.online[n][k] = read(all, q, rate)
			if k == 0 && !(v.online[n][k] > x) {
				v.online[n][k] = x
			}
		}
	}
	return &v.online[n]
}

// look returns what may be used k quarters after quarter i, of which no more is
// known than that its level is x, sorted.
func (p *Past) look(i, k int, x float64) []sample {
	all := p.all[:0]
	small := p.small()
	known := min(i, len(p.peak[0])) // nothing may have been observed for long
	inertia := math.Exp(-float64(k) / keeps)
	add := func(c int, like, any float64) {
		if c < 0 || c+k >= known {
			return
		}
		y, then := float64(p.peak[0][c+k]), p.level(c-1)
		if y != y {
			return
		}
		if x == x && then == then {
			l := apart(x, then, small) / sameLevel
			near := 1 / (1 + l*l)
			like *= max(near, anyLevel)
			any *= near * near
			y += inertia * (carry(x, then, y, small) - y)
		}
		all = append(all, sample{y, like, any})
	}
	weekend := p.weekend(i + k)
	for d, worth := range p.days(i) {
		c := i - (d+1)*Steps
		if p.weekend(c+k) != weekend {
			worth *= otherKind
		}
		for o := 1 - len(around); o < len(around); o++ {
			add(c+o, worth*around[max(o, -o)], 0)
		}
	}
	fade := 1.0
	for c := known - k - 1; c >= 0; c -= sparse {
		add(c, 0, fade)
		fade *= fadingSparse
	}
	slices.SortFunc(all, func(a, b sample) int { return cmp.Compare(a.use, b.use) })
	p.all = all
	return all
}

// days is what each day before quarter i is worth, the last first: by its age, and
// by how much the hours before the same time of it were like those before i.
func (p *Past) days(i int) []float64 {
	if p.worthAt == p.origin+int64(i) && len(p.worth) > 0 {
		return p.worth
	}
	p.worthAt, p.worth = p.origin+int64(i), p.worth[:0]
	fade := 1.0
	for then := i - Steps; then+len(around) > 0; then -= Steps {
		fade *= fading
		p.worth = append(p.worth, fade*p.alike(i, then))
	}
	return p.worth
}

// carry says what use comes of x, if y came of then.
func carry(x, then, y, small float64) float64 {
	switch {
	case y < then: // it fell: by the same share
		return x * (y + small) / (then + small)
	case x <= then: // it rose: by as much
		return x + y - then
	default: // from a higher level: to the same height, or a little above
		return max(x, y, min(x*(y+small)/(then+small), 1.3*max(x, y)))
	}
}

// read returns the quantile of samples that are sorted; NaN if there are none.
func read(all []sample, quantile, rate float64) float64 {
	total := 0.0
	for _, s := range all {
		total += s.like + rate*s.any
	}
	if !(total > 0) {
		return math.NaN()
	}
	sum := 0.0
	for _, s := range all {
		if sum += s.like + rate*s.any; sum >= quantile*total {
			return s.use
		}
	}
	return all[len(all)-1].use
}

// level is the highest use of quarter i and of the one before.
func (p *Past) level(i int) float64 {
	v := math.NaN()
	for _, j := range [...]int{i, i - 1} {
		if j >= 0 && j < len(p.peak[0]) {
			if w := float64(p.peak[0][j]); !(v >= w) && w == w {
				v = w
			}
		}
	}
	return v
}

// small is a use that is next to nothing.
func (p *Past) small() float64 {
	h := &p.habit
	if h.known != len(p.peak[0]) {
		sum, n := 0.0, 0.0
		for _, v := range p.peak[0] {
			if v == v {
				sum, n = sum+float64(v), n+1
			}
		}
		h.known, h.small = len(p.peak[0]), 0.02*sum/max(n, 1)+1
	}
	return h.small
}

// apart is about the logarithm of the ratio of two uses.
func apart(v, w, small float64) float64 { return 2 * (v - w) / (v + w + 2*small) }

// weekend reports whether quarter i is on a Saturday or Sunday.
func (p *Past) weekend(i int) bool {
	t := time.Unix((p.origin+int64(i))*int64(Step/time.Second), 0).UTC()
	if p.zone != nil {
		t = t.In(p.zone)
	}
	w := t.Weekday()
	return w == time.Saturday || w == time.Sunday
}

// alike is how much the hours before quarter then were like those before i.
func (p *Past) alike(i, then int) float64 {
	sum, n := 0.0, 0.0
	for b := 1; b <= likeHours && then-b >= 0; b++ {
		if i-b >= len(p.peak[0]) {
			continue
		}
		if d := apart(float64(p.peak[0][i-b]), float64(p.peak[0][then-b]), p.small()); d == d {
			sum, n = sum+min(d*d, 1), n+1
		}
	}
	if n == 0 {
		return 1
	}
	return math.Exp(-unlike * math.Sqrt(sum/n))
}

// A habit is how far a machine keeps to the clock.
type habit struct {
	known int // peaks that small was taken of
	small float64
	until int64 // the quarter until which rate holds
	rate  float64
}

// rate is that of rates with which the last week would have been foreseen best.
func (p *Past) rate(i int) float64 {
	const holds, tried, tau = 24, 5, 0.95
	h := &p.habit
	if p.origin+int64(i) < h.until {
		return h.rate
	}
	h.until, h.rate = p.origin+int64(i)+holds, rates[1]
	if len(p.peak[0]) < 3*Steps {
		return h.rate
	}
	var loss [len(rates)]float64
	for o := i - 1 - 7*Steps; o+8 < i; o += tried {
		if o < 2*Steps {
			continue
		}
		x := p.level(o)
		for _, k := range [...]int{1, 4, 8} {
			y := float64(p.peak[0][min(o+k, len(p.peak[0])-1)])
			if y != y || x != x {
				continue
			}
			all := p.look(o, k, x)
			for n, r := range rates {
				if q := read(all, tau, r); y > q {
					loss[n] += tau * (y - q)
				} else if q == q {
					loss[n] += (1 - tau) * (q - y)
				}
			}
		}
	}
	least := math.Inf(1)
	for n, r := range rates {
		if loss[n] < least {
			least, h.rate = loss[n], r
		}
	}
	return h.rate
}
