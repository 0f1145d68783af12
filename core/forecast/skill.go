package forecast

import (
	"fmt"
	"math"
	"slices"
	"time"
)

const (
	leastDays   = 3    // without so many there is nothing to be compared with
	origins     = 300  // forecasts made to judge the model
	judgedDays  = 7    // the days from which they are made
	leastGain   = 0.02 // share by which the loss must be below the others'
	leastRepeat = 0.45 // autocorrelation at the period, below which nothing repeats
)

// The candidates among which a series' own past chooses.
var (
	inertias = []float64{1, 0.5, 0}
	widths   = []int{20, 1}
)

var taus = [3]float64{beyond, 0.5, 1 - beyond}

// learn judges the model on its own past. A model whose forerunner was believed
// is believed a little longer, so that it does not flap.
func (m *Model) learn(before bool) {
	m.skill = Skill{Horizon: time.Duration(m.horizon) * time.Minute}
	known := 0
	for _, v := range m.value {
		if v == v {
			known++
		}
	}
	switch {
	case known < leastDays*day*3/4 || len(m.value) < leastDays*day:
		m.skill.Reason = fmt.Sprintf("%.1f days of demand are known, and a forecast needs %d", float64(known)/day, leastDays)
		return
	case !(m.mean > 0):
		m.skill.Reason = "there is no demand"
		return
	}
	period, repeat := m.period()
	// What is best on a third of the origins is judged on all of them.
	best, inertia, within := math.Inf(1), 1.0, 20
	for _, m.inertia = range inertias {
		for _, m.within = range widths {
			if m.rollingOrigins(origins / 3); m.skill.Loss < best {
				best, inertia, within = m.skill.Loss, m.inertia, m.within
			}
		}
	}
	m.inertia, m.within = inertia, within
	m.rollingOrigins(origins)
	s := &m.skill
	needed, better := leastRepeat, leastGain
	if before {
		needed, better = leastRepeat*2/3, 0
	}
	at := fmt.Sprintf("%d min ahead", m.horizon)
	switch {
	case repeat < needed:
		s.Reason = fmt.Sprintf("demand does not repeat from day to day (correlation %.2f, %.2f needed)", repeat, needed)
	case !(s.Loss < (1-better)*s.Naive):
		s.Reason = fmt.Sprintf("%s the same time of the day before is as good (loss %.4f, the model's %.4f)", at, s.Naive, s.Loss)
	case !(s.Loss < (1-better)*s.Persistence):
		s.Reason = fmt.Sprintf("%s what is now is as good (loss %.4f, the model's %.4f)", at, s.Persistence, s.Loss)
	default:
		s.Periodic, s.Period = true, period
		what := "day"
		if period > 24*time.Hour {
			what = "week"
		}
		s.Reason = fmt.Sprintf("demand repeats by the %s: %s it is %.0f %% nearer than the day before and %.0f %% nearer than what is now",
			what, at, 100*(1-s.Loss/s.Naive), 100*(1-s.Loss/s.Persistence))
	}
}

// rollingOrigins makes forecasts from within the past, with nothing later known,
// and sets the losses and where the band begins.
func (m *Model) rollingOrigins(origins int) {
	m.views = [3]view{}
	h := m.horizon + 1
	first := max(2*day, len(m.value)-judgedDays*day)
	last := len(m.value) - 1 - h
	stride := max(1, (last-first)/origins) | 1
	var naive, persistence, lowScore, highScore []float64
	loss, demand, n, inside := 0.0, 0.0, 0, 0
	type made struct {
		q              [3]float64
		d, before, now float64
	}
	var all []made
	for s := first; s <= last; s += stride {
		d := m.value[s+h]
		x, _ := m.level(s)
		before := m.value[s+h-day]
		if d != d || x != x || before != before {
			continue
		}
		samples := m.look(s, h, h, false)
		if len(samples) == 0 {
			continue
		}
		f := made{d: d, before: before, now: x}
		for i, tau := range taus {
			f.q[i] = quantile(samples, tau)
		}
		all = append(all, f)
		naive, persistence = append(naive, d-before), append(persistence, d-x)
		lowScore = append(lowScore, (f.q[0]-d)/m.width(f.q[0], f.q[1]))
		highScore = append(highScore, (d-f.q[2])/m.width(f.q[2], f.q[1]))
		n++
		demand += d
	}
	if n < 30 || demand <= 0 {
		m.skill.Loss, m.skill.Naive, m.skill.Persistence = math.Inf(1), math.Inf(1), math.Inf(1)
		return
	}
	// The rivals have the residuals that they will turn out to have had.
	lossN, lossP := 0.0, 0.0
	for _, r := range [2]struct {
		residuals []float64
		sum       *float64
	}{{naive, &lossN}, {persistence, &lossP}} {
		slices.Sort(r.residuals)
		for _, e := range r.residuals {
			for _, tau := range taus {
				*r.sum += pinball(e, sortedQuantile(r.residuals, tau), tau)
			}
		}
	}
	for _, f := range all {
		for i, tau := range taus {
			loss += pinball(f.d, f.q[i], tau)
		}
	}
	slices.Sort(lowScore)
	slices.Sort(highScore)
	m.low.shift = min(max(sortedQuantile(lowScore, 1-beyond), -2), 20)
	m.high.shift = min(max(sortedQuantile(highScore, 1-beyond), -2), 20)
	for i := range lowScore {
		if lowScore[i] <= m.low.shift {
			inside++
		}
		if highScore[i] <= m.high.shift {
			inside++
		}
	}
	m.skill.Loss, m.skill.Naive, m.skill.Persistence = loss/demand/3, lossN/demand/3, lossP/demand/3
	m.skill.Coverage = float64(inside)/float64(n) - 1
}

// pinball is the loss of having said that d would be at most q with probability tau.
func pinball(d, q, tau float64) float64 {
	if d >= q {
		return tau * (d - q)
	}
	return (1 - tau) * (q - d)
}

func sortedQuantile(s []float64, tau float64) float64 {
	return s[min(int(tau*float64(len(s))), len(s)-1)]
}

// period returns the period at which demand repeats best, a day or a week, and
// its autocorrelation from day to day. (Two weeks are one pair, which proves
// nothing: whether it is periodic at all, the days say.) The extremes are cut, and what changes slower than
// a day is taken out, so that neither one burst nor a trend looks like a period.
func (m *Model) period() (time.Duration, float64) {
	sorted := make([]float64, 0, len(m.value))
	for _, v := range m.value {
		if v == v {
			sorted = append(sorted, v)
		}
	}
	slices.Sort(sorted)
	m.usual = sortedQuantile(sorted, 0.95)
	low, high := sortedQuantile(sorted, 0.01), sortedQuantile(sorted, 0.99)
	cut := make([]float64, len(m.value))
	for i, v := range m.value {
		cut[i] = min(max(v, low), high) // NaN stays
	}
	// A centred mean over a day, from running sums.
	sum, n := make([]float64, len(cut)+1), make([]int, len(cut)+1)
	for i, v := range cut {
		sum[i+1], n[i+1] = sum[i], n[i]
		if v == v {
			sum[i+1] += v
			n[i+1]++
		}
	}
	flat := make([]float64, len(cut))
	for i := range cut {
		a, b := max(0, min(i-day/2, len(cut)-day)), min(len(cut), max(i+day/2, day))
		flat[i] = cut[i] - (sum[b]-sum[a])/float64(max(n[b]-n[a], 1))
	}
	// In both halves, so that one coincidence is not enough.
	half := (len(flat) - day) / 2
	daily := min(correlation(flat[day:], flat[:len(flat)-day]),
		2*correlation(flat[day:day+half], flat[:half]), 2*correlation(flat[day+half:], flat[half:len(flat)-day]))
	if week := 7 * day; len(flat) >= 2*week && correlation(flat[week:], flat[:len(flat)-week]) > daily {
		return 7 * 24 * time.Hour, daily
	}
	return 24 * time.Hour, daily
}

// correlation of what is known in both; 0 if either does not change.
func correlation(a, b []float64) float64 {
	var ab, aa, bb float64
	for i := range a {
		if x, y := a[i], b[i]; x == x && y == y {
			ab += x * y
			aa += x * x
			bb += y * y
		}
	}
	if !(aa > 0 && bb > 0) {
		return 0
	}
	return ab / math.Sqrt(aa*bb)
}
