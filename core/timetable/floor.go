package timetable

import (
	"fmt"
	"math"
	"time"
)

// Options say what a floor is for. The zero value asks for the module-less
// default.
type Options struct {
	// Module is whose demand is asked for.
	Module string
	// Quantile is how sure the floor must be; 0 means 0.9, which is right when a
	// missing unit costs nine times an idle one.
	Quantile float64
	// Release is how long after its start a class is held; 0 means 15 minutes,
	// negative until its end.
	Release time.Duration
}

// DefaultRelease is how long after its start a class is held unless told
// otherwise. In the rooms of the prior a floor held for the whole hour cost half
// as much again and kept no more people from waiting.
const DefaultRelease = 15 * time.Minute

// A Floor is what the classes ask for.
type Floor struct {
	Demand  float64   // in the module's unit; 0 if no class asks
	Classes int       // that ask, at the time of the greatest demand
	Until   time.Time // when the last of them is released
	Reason  string    // one sentence for people; empty if no class asks
}

// most is the longest stretch that Floor looks at, in minutes.
const most = 6 * 60

// Floor returns the greatest demand of the classes at any minute from from to
// to, both included: capacity that takes to−from to start must be asked for at
// from. It looks six hours ahead at most.
func (a Attendance) Floor(t Timetable, from, to time.Time, opts Options) Floor {
	if opts.Quantile == 0 {
		opts.Quantile = .9
	}
	if opts.Release == 0 {
		opts.Release = DefaultRelease
	}
	early := -PriorCurve()[0].At
	classes := t.Between(from, to.Add(time.Minute), early, 0)
	var best Floor
	for i := 0; i <= most; i++ {
		at := from.Add(time.Duration(i) * time.Minute)
		if at.After(to) {
			break
		}
		if f := a.at(classes, at, opts); f.Demand > best.Demand {
			best = f
		}
	}
	return best
}

// at is the floor at one moment: the quantile of a sum of independent lognormal
// classes, taken as lognormal with the same mean and variance (Fenton and
// Wilkinson).
func (a Attendance) at(classes []Session, at time.Time, opts Options) Floor {
	var f Floor
	var mean, variance, enrolled float64
	var greatest Session
	for _, s := range classes {
		since := at.Sub(s.Start)
		release := opts.Release
		if release < 0 || release > s.End.Sub(s.Start) {
			release = s.End.Sub(s.Start)
		}
		if since >= release {
			continue
		}
		c, size := a.expect(s, opts.Module)
		if size *= c.curve.At(since); !(size > 0) {
			continue
		}
		v := c.doubt + c.within
		m := size * math.Exp(c.median+v/2)
		mean += m
		variance += m * m * math.Expm1(v)
		f.Classes++
		enrolled += float64(s.Enrolled)
		if s.Enrolled > greatest.Enrolled {
			greatest = s
		}
		if until := s.Start.Add(release); until.After(f.Until) {
			f.Until = until
		}
	}
	if f.Classes == 0 {
		return Floor{}
	}
	spread := math.Log1p(variance / (mean * mean))
	f.Demand = math.Exp(math.Log(mean) - spread/2 + normal(opts.Quantile)*math.Sqrt(spread))
	f.Reason = fmt.Sprintf("%s at %s", greatest.Course, greatest.Start.Format("15:04"))
	if f.Classes > 1 {
		f.Reason = fmt.Sprintf("%d classes, the greatest %s", f.Classes, f.Reason)
	}
	f.Reason += fmt.Sprintf(": %.0f enrolled, %.4g expected by %s", enrolled, f.Demand, at.Format("15:04"))
	return f
}
