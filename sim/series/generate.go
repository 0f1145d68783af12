package series

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"
)

// Quarters is how many quarter-hours a day has.
const Quarters = 96

// Parameters describe a typical series: everything the generator knows.
type Parameters struct {
	Source string `json:"source"` // what they were fitted to, and how

	Level   float64           `json:"level"`   // mean
	Shape   [Quarters]float64 `json:"shape"`   // by quarter-hour of the local day, mean 1
	Weekday [7]float64        `json:"weekday"` // Monday first, mean 1

	// PeakToTrough is max ÷ min of Shape, for people; the generator does not use it.
	PeakToTrough float64 `json:"peakToTrough"`

	Sigma [24]float64 `json:"sigma"` // by local hour, standard deviation of the noise's logarithm
	Rho   float64     `json:"rho"`   // its autocorrelation from minute to minute

	// Bursts are short-lived multiples of what was to be expected.
	BurstsPerDay float64 `json:"burstsPerDay"`
	BurstHeight  float64 `json:"burstHeight"`  // factor
	BurstMinutes float64 `json:"burstMinutes"` // length
}

// Validate says which parameter makes no sense, if one does not.
func (p *Parameters) Validate() error {
	ok := func(v float64) bool { return v >= 0 && !math.IsInf(v, 0) }
	for i, v := range p.Shape {
		if !ok(v) {
			return fmt.Errorf("shape: quarter-hour %d is %v; it must be 0 or more", i, v)
		}
	}
	for i, v := range p.Weekday {
		if !ok(v) {
			return fmt.Errorf("weekday: day %d is %v; it must be 0 or more", i, v)
		}
	}
	for name, v := range map[string]float64{"level": p.Level, "burstsPerDay": p.BurstsPerDay, "burstHeight": p.BurstHeight, "burstMinutes": p.BurstMinutes} {
		if !ok(v) {
			return fmt.Errorf("%s is %v; it must be 0 or more", name, v)
		}
	}
	for i, v := range p.Sigma {
		if !ok(v) || v > 5 {
			return fmt.Errorf("sigma: hour %d is %v; it must be 0 to 5", i, v)
		}
	}
	if !(p.Rho >= 0 && p.Rho < 1) {
		return fmt.Errorf("rho is %v; it must be at least 0 and below 1", p.Rho)
	}
	return nil
}

// A Generator makes a series from parameters. It is a function of time, zone
// and seed alone.
type Generator struct {
	Parameters Parameters
	Location   *time.Location // nil means UTC
	Seed       uint64
	// Quiet leaves out noise and bursts.
	Quiet bool
}

// At implements [Curve]; it knows every time.
func (g *Generator) At(t time.Time) (float64, bool) {
	loc := g.Location
	if loc == nil {
		loc = time.UTC
	}
	l := t.In(loc)
	p := &g.Parameters
	// The shape holds in the middle of its quarter-hour.
	q := (float64(l.Hour()*3600+l.Minute()*60+l.Second())+float64(l.Nanosecond())/1e9)/900 - 0.5
	i := int(math.Floor(q))
	u := q - float64(i)
	v := p.Shape[(i+Quarters)%Quarters]*(1-u) + p.Shape[(i+1)%Quarters]*u
	v *= p.Level * p.Weekday[(int(l.Weekday())+6)%7]
	if g.Quiet {
		return v, true
	}
	v *= Noise{Sigma: p.Sigma[l.Hour()], Rho: p.Rho, Seed: g.Seed}.Factor(t)
	return v * g.burst(t), true
}

// burst is the factor of a burst under way at t, or 1.
func (g *Generator) burst(t time.Time) float64 {
	p := &g.Parameters
	if p.BurstsPerDay <= 0 || p.BurstHeight <= 1 || p.BurstMinutes <= 0 {
		return 1
	}
	const slot = 15 * 60
	now := t.Unix()
	length := int64(min(p.BurstMinutes, 24*60) * 60)
	for s := now / slot; s >= (now-length)/slot; s-- {
		if uniform(g.Seed^0xb1257, s) >= p.BurstsPerDay/Quarters {
			continue
		}
		start := s*slot + int64(uniform(g.Seed^0x57a27, s)*slot)
		if start <= now && now < start+length {
			return p.BurstHeight
		}
	}
	return 1
}

//go:embed fitted.json
var fittedJSON []byte

var fitted = func() map[string]Parameters {
	m := map[string]Parameters{}
	if err := json.Unmarshal(fittedJSON, &m); err != nil {
		panic("series: fitted.json: " + err.Error())
	}
	return m
}()

// Fitted returns the parameters fitted to a real series (see hack/fit), and
// whether there are any of that name.
func Fitted(name string) (Parameters, bool) {
	p, ok := fitted[name]
	return p, ok
}

// FittedNames lists the names [Fitted] knows, sorted.
func FittedNames() []string { return slices.Sorted(maps.Keys(fitted)) }
