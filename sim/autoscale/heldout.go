package autoscale

import (
	"math"
	"math/rand/v2"
	"time"
)

// A HeldOutSeries is a made series that nothing is tuned on.
type HeldOutSeries struct {
	*Series
	// Daily says that it repeats by the day or the week, so that a forecast may
	// have skill; the others must never be called periodic.
	Daily bool
	What  string // in a clause
}

// HeldOut makes the series on which it is seen whether what was tuned elsewhere
// holds: shapes of days and weeks, changes of regime, noise, steps and gaps, and
// loads that do not repeat. Equal calls give equal series.
func HeldOut() []HeldOutSeries {
	var all []HeldOutSeries
	for i, m := range made {
		days, step := m.days, m.step
		if days == 0 {
			days = 18
		}
		if step == 0 {
			step = 1
		}
		g := &generator{dice: rand.New(rand.NewPCG(20261122, uint64(i)))}
		minutes := make([]float64, days*day)
		for t := range minutes {
			minutes[t] = max(0, m.at(g, t))
		}
		// A step is the mean of its minutes, as a monitoring system gives it.
		var points []Sample
		for t := 0; t < len(minutes); t += step {
			sum := 0.0
			for _, v := range minutes[t : t+step] {
				sum += v
			}
			at := heldOutBegin.Add(time.Duration(t) * time.Minute)
			if m.gap == nil || !m.gap(t) {
				points = append(points, Sample{at, sum / float64(step)})
			}
		}
		s, err := Grid(m.name, points)
		if err != nil {
			panic(err) // the table below is wrong
		}
		all = append(all, HeldOutSeries{Series: s, Daily: m.daily, What: m.what})
	}
	return all
}

// heldOutBegin is a Monday.
var heldOutBegin = time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)

// A generator remembers what a series' chance did before.
type generator struct {
	dice  *rand.Rand
	drift float64 // autoregressive noise
	until int     // the minute at which a burst or pulse ends
	level float64
}

// noise is a log-normal factor with the standard deviation sigma of its
// logarithm, half of whose variance lasts some 20 minutes.
func (g *generator) noise(sigma float64) float64 {
	const keep = 0.95
	g.drift = keep*g.drift + math.Sqrt(1-keep*keep)*g.dice.NormFloat64()
	return math.Exp(sigma * math.Sqrt(0.5) * (g.drift + g.dice.NormFloat64()))
}

// pulse is high for length minutes, every so often by chance.
func (g *generator) pulse(t, length int, perDay, high float64) float64 {
	if t >= g.until && g.dice.Float64() < perDay/day {
		g.until = t + length/2 + g.dice.IntN(length)
	}
	if t < g.until {
		return high
	}
	return 0
}

// ramp is 0 before from, 1 after to, and a line between them; hours of the day.
func ramp(h, from, to float64) float64 { return min(max((h-from)/(to-from), 0), 1) }

// block is 1 from from to to, with edges of so many hours before and after.
func block(h, from, to, edge float64) float64 {
	return ramp(h, from-edge, from) * (1 - ramp(h, to, to+edge))
}

func hour(t int) float64 { return float64(t%day) / 60 }
func weekend(t int) bool { return t/day%7 >= 5 }

// office is a working day with two humps; weekends have a tenth.
func office(t int) float64 {
	h := hour(t)
	v := 3 + 60*block(h, 9.5, 11.5, 1.5) + 50*block(h, 14, 17, 1)
	if weekend(t) {
		v = 3 + (v-3)/10
	}
	return v
}

// evening is four hours of lessons, each of which begins within minutes.
func evening(t int) float64 {
	h, v := hour(t), 2.0
	for _, bell := range []float64{18.5, 19.5, 20.5} {
		v += 90 * block(h, bell, bell+0.8, 0.12)
	}
	return v
}

// shop is a smooth day with its peak at nine in the evening.
func shop(t int) float64 {
	x := 2 * math.Pi * (hour(t) - 21) / 24
	return 50 + 38*math.Cos(x) + 9*math.Cos(2*x)
}

var made = []struct {
	name, what string
	daily      bool
	days, step int
	at         func(g *generator, t int) float64
	gap        func(t int) bool
}{
	{name: "office", what: "working days with two humps, weekends a tenth", daily: true, at: func(g *generator, t int) float64 { return office(t) * g.noise(0.08) }},
	{name: "office-5min", what: "the same every 5 minutes", daily: true, step: 5, at: func(g *generator, t int) float64 { return office(t) * g.noise(0.08) }},
	{name: "office-30min", what: "the same every 30 minutes, four weeks", daily: true, step: 30, days: 28, at: func(g *generator, t int) float64 { return office(t) * g.noise(0.08) }},
	{name: "evening", what: "three lessons an evening that begin within minutes, 90 times the night", daily: true, at: func(g *generator, t int) float64 { return evening(t) * g.noise(0.1) }},
	{name: "shop", what: "a smooth day", daily: true, at: func(g *generator, t int) float64 { return shop(t) * g.noise(0.05) }},
	{name: "shop-noisy", what: "the same with six times the noise", daily: true, at: func(g *generator, t int) float64 { return shop(t) * g.noise(0.3) }},
	{name: "shop-grows", what: "the same, 4 % more each day", daily: true, at: func(g *generator, t int) float64 { return shop(t) * math.Pow(1.04, float64(t)/day) * g.noise(0.05) }},
	{name: "shop-wins", what: "the same, 1.7 times as much from the eleventh day on", daily: true, at: func(g *generator, t int) float64 {
		v := shop(t) * g.noise(0.05)
		if t >= 10*day+700 {
			v *= 1.7
		}
		return v
	}},
	{name: "shop-loses", what: "the same, two fifths as much from the eleventh day on", daily: true, at: func(g *generator, t int) float64 {
		v := shop(t) * g.noise(0.05)
		if t >= 10*day+700 {
			v *= 0.4
		}
		return v
	}},
	{name: "shop-dst", what: "the same, an hour earlier from the twelfth day on", daily: true, at: func(g *generator, t int) float64 {
		if t >= 11*day {
			return shop(t+60) * g.noise(0.05)
		}
		return shop(t) * g.noise(0.05)
	}},
	{name: "shop-bursts", what: "the same with a burst of three times for some 20 minutes a day, by chance", daily: true, at: func(g *generator, t int) float64 { return shop(t) * g.noise(0.05) * (1 + g.pulse(t, 20, 1, 2)) }},
	{name: "shop-gaps", what: "the same, three hours of every third day not recorded", daily: true, at: func(g *generator, t int) float64 { return shop(t) * g.noise(0.05) },
		gap: func(t int) bool { return t/day%3 == 1 && t%day >= 540 && t%day < 720 }},
	{name: "holiday", what: "working days after five days of holiday", daily: true, at: func(g *generator, t int) float64 {
		v := office(t + 3*day)
		if t < 5*day {
			v = 3 + (v-3)/8
		}
		return v * g.noise(0.08)
	}},
	{name: "weekend", what: "busy at weekends only", daily: true, days: 28, at: func(g *generator, t int) float64 {
		if weekend(t) {
			return (4 + 70*block(hour(t), 11, 20, 2)) * g.noise(0.08)
		}
		return (4 + 12*block(hour(t), 17, 20, 1)) * g.noise(0.08)
	}},
	{name: "hourly", what: "a burst of three minutes at every full hour on a smooth day", daily: true, at: func(g *generator, t int) float64 {
		v := 20 + shop(t)/4
		if t%60 < 3 {
			v *= 2.5
		}
		return v * g.noise(0.05)
	}},
	{name: "nightly", what: "a job of 40 minutes at two in the morning and little else", daily: true, at: func(g *generator, t int) float64 { return (1 + 80*block(hour(t), 2, 2.67, 0.03)) * g.noise(0.08) }},
	{name: "few", what: "a smooth day of a few whole requests", daily: true, at: func(g *generator, t int) float64 { return math.Round(shop(t) / 16 * g.noise(0.25)) }},

	{name: "noise", what: "noise around a level", at: func(g *generator, t int) float64 { return 40 * g.noise(0.3) }},
	{name: "constant", what: "always the same", at: func(g *generator, t int) float64 { return 40 }},
	{name: "walk", what: "a random walk", at: func(g *generator, t int) float64 {
		g.level = min(max(g.level+0.5*g.dice.NormFloat64(), -40), 60)
		return 50 + g.level
	}},
	{name: "jump", what: "noise whose level jumps to a hundred times on the tenth day", at: func(g *generator, t int) float64 {
		if t >= 9*day+333 {
			return 60 * g.noise(0.1)
		}
		return 0.6 * g.noise(0.1)
	}},
	{name: "pulses", what: "half an hour of load some four times a day, by chance", at: func(g *generator, t int) float64 { return (2 + g.pulse(t, 30, 4, 60)) * g.noise(0.1) }},
	{name: "pulses-5min", what: "hours of load some twice a day, by chance, every 5 minutes", step: 5, at: func(g *generator, t int) float64 { return (0.5 + g.pulse(t, 180, 2, 90)) * g.noise(0.1) }},
	{name: "17-hours", what: "a smooth cycle of 17 hours", at: func(g *generator, t int) float64 {
		return (50 + 40*math.Cos(2*math.Pi*float64(t)/1020)) * g.noise(0.05)
	}},
}
