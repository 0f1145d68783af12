package series

import (
	"errors"
	"math"
	"slices"
	"time"
)

// Fit estimates the generator's parameters from a series, in local time:
//
//	level    mean over the quarter-hours that have data
//	shape    per quarter-hour, the median over days of value ÷ the day's mean
//	weekday  per weekday, the median of the day's mean ÷ level; 1 without a day
//	sigma    per hour, 1.4826 × median absolute deviation of ln(value ÷ model)
//	rho      autocorrelation of that residual (over its sigma, cut at ±3) from one
//	         step to the next, as of one minute
//	bursts   runs of the residual above max(4 sigma, ln 1.5)
//
// It needs at least one whole day.
func Fit(s *Series, in *time.Location) (Parameters, error) {
	var p Parameters
	if in == nil {
		in = time.UTC
	}
	// 1. Means by day and quarter-hour.
	type day struct {
		sum  [Quarters]float64
		n    [Quarters]int
		mean float64
		wd   int
	}
	days := map[string]*day{}
	var order []string
	for _, pt := range s.Points {
		l := pt.T.In(in)
		k := l.Format("2006-01-02")
		d := days[k]
		if d == nil {
			d = &day{wd: (int(l.Weekday()) + 6) % 7}
			days[k] = d
			order = append(order, k)
		}
		q := (l.Hour()*60 + l.Minute()) / 15
		d.sum[q] += pt.V
		d.n[q]++
	}
	var whole []*day
	most := 0
	for _, k := range order {
		most = max(most, filled(days[k].n))
	}
	for _, k := range order {
		d := days[k]
		if f := filled(d.n); f < most*9/10 {
			continue // a day that begins or ends the recording
		}
		sum, n := 0.0, 0
		for q := range Quarters {
			if d.n[q] > 0 {
				sum += d.sum[q] / float64(d.n[q])
				n++
			}
		}
		d.mean = sum / float64(n)
		if d.mean > 0 {
			whole = append(whole, d)
		}
	}
	if len(whole) == 0 {
		return p, errors.New("fit: the series does not cover one whole day with values above 0")
	}
	// 2. Level, shape, weekday.
	for _, d := range whole {
		p.Level += d.mean / float64(len(whole))
	}
	total := 0.0
	for q := range Quarters {
		var v []float64
		for _, d := range whole {
			if d.n[q] > 0 {
				v = append(v, d.sum[q]/float64(d.n[q])/d.mean)
			}
		}
		p.Shape[q] = max(0, median(v))
		total += p.Shape[q]
	}
	low, high := math.Inf(1), 0.0
	for q := range Quarters {
		p.Shape[q] *= Quarters / total
		if p.Shape[q] > 0 {
			low = min(low, p.Shape[q])
		}
		high = max(high, p.Shape[q])
	}
	p.PeakToTrough = high / low
	for wd := range 7 {
		var v []float64
		for _, d := range whole {
			if d.wd == wd {
				v = append(v, d.mean/p.Level)
			}
		}
		p.Weekday[wd] = 1
		if len(v) > 0 {
			p.Weekday[wd] = median(v)
		}
	}
	// 3. What the model leaves over.
	g := Generator{Parameters: p, Location: in, Quiet: true}
	type residual struct {
		t time.Time
		r float64
	}
	var rest []residual
	for _, pt := range s.Points {
		if m, _ := g.At(pt.T); m > 0 && pt.V > 0 {
			rest = append(rest, residual{pt.T, math.Log(pt.V / m)})
		}
	}
	if len(rest) == 0 {
		return p, nil
	}
	var byHour [24][]float64
	for _, r := range rest {
		h := r.t.In(in).Hour()
		byHour[h] = append(byHour[h], math.Abs(r.r))
	}
	for h := range byHour {
		p.Sigma[h] = min(1.4826*median(byHour[h]), 2)
	}
	z := func(i int) float64 { // in sigmas, cut
		s := max(p.Sigma[rest[i].t.In(in).Hour()], 1e-6)
		return min(max(rest[i].r/s, -3), 3)
	}
	var xy, xx float64
	for i := 1; i < len(rest); i++ {
		if rest[i].t.Sub(rest[i-1].t) == s.Step {
			xy += z(i) * z(i-1)
			xx += z(i-1) * z(i-1)
		}
	}
	if xx > 0 {
		p.Rho = math.Pow(min(max(xy/xx, 0), 0.999), 1/max(s.Step.Minutes(), 1.0/60))
		p.Rho = min(p.Rho, 0.98) // the generator remembers four hours
	}
	// 4. Bursts.
	runs, steps, height, inside := 0, 0, 0.0, false
	for _, r := range rest {
		above := r.r > max(4*p.Sigma[r.t.In(in).Hour()], math.Log(1.5))
		if above {
			steps++
			height += math.Exp(r.r)
			if !inside {
				runs++
			}
		}
		inside = above
	}
	span := s.Points[len(s.Points)-1].T.Sub(s.Points[0].T) + s.Step
	if runs > 0 {
		p.BurstsPerDay = float64(runs) / (span.Hours() / 24)
		p.BurstHeight = min(height/float64(steps), 20)
		p.BurstMinutes = float64(steps) / float64(runs) * s.Step.Minutes()
	}
	round(&p)
	return p, nil
}

// round keeps five digits: more would be the data's accidents.
func round(p *Parameters) {
	r := func(v *float64) {
		if *v == 0 || math.IsInf(*v, 0) || math.IsNaN(*v) {
			*v = 0
			return
		}
		scale := math.Pow(10, 4-math.Floor(math.Log10(math.Abs(*v))))
		*v = math.Round(*v*scale) / scale
	}
	for i := range p.Shape {
		r(&p.Shape[i])
	}
	for i := range p.Weekday {
		r(&p.Weekday[i])
	}
	for i := range p.Sigma {
		r(&p.Sigma[i])
	}
	for _, v := range []*float64{&p.Level, &p.PeakToTrough, &p.Rho, &p.BurstsPerDay, &p.BurstHeight, &p.BurstMinutes} {
		r(v)
	}
}

func filled(n [Quarters]int) int {
	f := 0
	for _, c := range n {
		if c > 0 {
			f++
		}
	}
	return f
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(v))
	if len(s)%2 == 1 {
		return s[len(s)/2]
	}
	return (s[len(s)/2-1] + s[len(s)/2]) / 2
}
