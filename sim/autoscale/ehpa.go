package autoscale

import (
	"math"
	"math/cmplx"
	"math/rand/v2"
	"slices"

	"gonum.org/v1/gonum/dsp/fourier"
)

// EHPA is Crane's EffectiveHorizontalPodAutoscaler with its DSP forecast: the
// HPA, lifted to the highest demand forecast for the hour to come. The forecast
// is fitted every twelve hours, in the series' own unit, for its thresholds
// depend on it; a fit that finds no period forecasts nothing.
type EHPA struct {
	HPA    HPA
	Window int     // minutes that the highest forecast is taken from: 60
	Scale  float64 // of the demand: 1 unit of the series is so many pods

	fitted   bool
	at       int       // the minute of the next fit
	from     int       // the minute of the forecast's first value
	forecast []float64 // one period, in pods; empty if none was found
	periodic bool
	dice     *rand.Rand
}

// NewEHPA returns Crane's autoscaler with its defaults for a series that was
// scaled by scale.
func NewEHPA(scale float64) *EHPA {
	return &EHPA{HPA: HPA{Tolerance: 0.1}, Window: 60, Scale: scale, dice: rand.New(rand.NewPCG(1, 2))}
}

const refit = 12 * 60 // minutes

// Decide implements [Policy].
func (e *EHPA) Decide(s Seen) int {
	n := e.HPA.recommend(s)
	if top, ok := e.Top(s); ok {
		n = max(n, ideal(top))
	}
	return e.HPA.stabilise(n)
}

// Top is the highest demand that DSP forecasts for its window from s on; ok is
// false if it found no period.
func (e *EHPA) Top(s Seen) (demand float64, ok bool) {
	if !e.fitted || s.Minute >= e.at {
		e.fitted, e.at = true, s.Minute+refit
		e.from = len(s.Demand)
		e.forecast = e.fit(s.Demand)
		e.periodic = e.periodic || len(e.forecast) > 0
	}
	return e.top(s.Minute, s.Minute+e.Window)
}

// Periodic implements [Forecaster]: whether any fit found a period.
func (e *EHPA) Periodic() bool { return e.periodic }

// Forecast implements [Forecaster]: DSP forecasts no quantiles.
func (e *EHPA) Forecast() (Quantiles, bool) { return Quantiles{}, false }

// top is the highest forecast of the minutes from a to b.
func (e *EHPA) top(a, b int) (float64, bool) {
	top, ok := 0.0, false
	for m := max(a-e.from, 0); m <= b-e.from && m < len(e.forecast); m++ {
		top, ok = max(top, e.forecast[m]), true
	}
	return top, ok
}

// fit returns the forecast of one period from the end of demand on.
func (e *EHPA) fit(demand []float64) []float64 {
	x := clean(demand[max(0, len(demand)-15*day):], e.Scale)
	period := 0
	if weeks := len(x) / (7 * day); weeks >= 2 {
		period = e.period(x[len(x)-weeks*7*day:])
	}
	if days := len(x) / day; period == 0 && days >= 2 {
		period = e.period(x[len(x)-days*day:])
	}
	cycles := 0
	if period > 0 {
		cycles = len(x) / period
	}
	if cycles < 2 {
		return nil
	}
	x = x[len(x)-cycles*period:]
	var best []float64
	lowest := math.Inf(1)
	past, actual := x[:(cycles-1)*period], x[(cycles-1)*period:]
	for _, est := range []struct{ least, amplitude float64 }{{3, 1}, {50, 0.05}} {
		before := reconstruct(past, period, int(est.least), est.amplitude)
		var now []float64
		for _, margin := range []float64{0.01, 0.1, 0.15, 0.2} {
			if loss := craneError(actual, before, margin); loss < lowest {
				lowest = loss
				if now == nil {
					now = reconstruct(x, period, int(est.least), est.amplitude)
				}
				best = slices.Clone(now)
				for i := range best {
					best[i] *= (1 + margin) * e.Scale
				}
			}
		}
	}
	return best
}

// clean is what Crane does to a history: nothing before a gap of an hour, gaps
// filled by a straight line, extremes replaced by the value before.
func clean(demand []float64, scale float64) []float64 {
	from, silent, any := 0, 0, false
	for i, d := range demand {
		if math.IsNaN(d) {
			silent++
			continue
		}
		if silent > 60 || !any {
			from = i
		}
		silent, any = 0, true
	}
	x := slices.Clone(demand[from : len(demand)-silent])
	if !any {
		return nil
	}
	last := 0
	for i := range x {
		if math.IsNaN(x[i]) {
			continue
		}
		for j := last + 1; j < i; j++ {
			x[j] = x[last] + (x[i]-x[last])*float64(j-last)/float64(i-last)
		}
		last = i
	}
	low, high := Percentile(x, 0.001), Percentile(x, 0.999)
	for i := 1; i < len(x); i++ {
		if x[i] > high || x[i] < low {
			x[i] = x[i-1]
		}
	}
	for i := range x {
		x[i] /= scale
	}
	return x
}

// period is Crane's test: a frequency that stands out of a hundred shuffles and
// whose period is the highest peak of the autocorrelation; 0 unless that is
// exactly a day or a week.
func (e *EHPA) period(x []float64) int {
	n := len(x)
	fft := fourier.NewFFT(n)
	shuffled := slices.Clone(x)
	highest := make([]float64, 100)
	var c []complex128
	for i := range highest {
		e.dice.Shuffle(n, func(a, b int) { shuffled[a], shuffled[b] = shuffled[b], shuffled[a] })
		c = fft.Coefficients(c, shuffled)
		for k := 1; k < n/2; k++ {
			highest[i] = max(highest[i], cmplx.Abs(c[k]))
		}
	}
	slices.Sort(highest)
	threshold := highest[98]
	c = fft.Coefficients(c, x)
	acf := autocorrelation(fft, c)
	best, top := 0, 0.0
	for k, last := 2, 0; k < n/2; k++ {
		hint := n / k
		if cmplx.Abs(c[k]) <= threshold || hint == last {
			continue
		}
		last = hint
		if acf[hint] > top && peak(acf, hint, min(4*60, hint/2)) {
			best, top = hint, acf[hint]
		}
	}
	if best == day || best == 7*day {
		return best
	}
	return 0
}

// autocorrelation is the circular one, from the coefficients; they are changed.
func autocorrelation(fft *fourier.FFT, c []complex128) []float64 {
	power := make([]complex128, len(c))
	for i := 1; i < len(c); i++ {
		power[i] = complex(real(c[i])*real(c[i])+imag(c[i])*imag(c[i]), 0)
	}
	acf := fft.Sequence(nil, power)
	if acf[0] > 0 {
		for i := len(acf) - 1; i >= 0; i-- {
			acf[i] /= acf[0]
		}
	}
	return acf
}

// peak says whether x rises to i and falls from it, by straight lines through r
// points on each side.
func peak(x []float64, i, r int) bool {
	return i > 0 && slope(x[max(0, i-r):i+1]) > 0 && slope(x[i:min(len(x), i+r+1)]) < 0
}

func slope(y []float64) float64 {
	n := float64(len(y))
	var sx, sy, sxy, sxx float64
	for i, v := range y {
		f := float64(i)
		sx, sy, sxy, sxx = sx+f, sy+v, sxy+f*v, sxx+f*f
	}
	return (n*sxy - sx*sy) / (n*sxx - sx*sx)
}

// reconstruct is the last period of x, rebuilt from the frequencies below one an
// hour and those whose amplitude is among the hundred highest and above the
// threshold, at least so many.
func reconstruct(x []float64, period, least int, threshold float64) []float64 {
	n := len(x)
	fft := fourier.NewFFT(n)
	c := fft.Coefficients(nil, x)
	amplitudes := make([]float64, 0, len(c))
	for k := 1; k < n/2; k++ {
		amplitudes = append(amplitudes, cmplx.Abs(c[k])/float64(n))
	}
	slices.Sort(amplitudes)
	slices.Reverse(amplitudes)
	lowest := max(amplitudes[min(99, len(amplitudes)-1)], threshold)
	if len(amplitudes) >= least {
		lowest = min(lowest, amplitudes[least-1])
	}
	for k := range c {
		if cmplx.Abs(c[k])/float64(n) < lowest && float64(k)/float64(n) > 1.0/60 {
			c[k] = 0
		}
	}
	y := fft.Sequence(nil, c)[n-period:]
	for i := range y {
		if y[i] /= float64(n); y[i] <= 0 {
			y[i] = 0.01
		}
	}
	return y
}

// craneError is Crane's loss: what is too little counts far more than what is
// too much.
func craneError(actual, expected []float64, margin float64) float64 {
	sum, n := 0.0, 0
	for i, a := range actual {
		if a <= 0 {
			continue
		}
		p := expected[i] * (1 + margin)
		if p >= a {
			sum += (p - a) / a
		} else {
			sum += -math.Log(1-(a-p)/a) / math.Log(1.25)
		}
		n++
	}
	if n == 0 {
		return math.Inf(1)
	}
	return sum / float64(n)
}
