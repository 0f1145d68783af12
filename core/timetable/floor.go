package timetable

import (
	"fmt"
	"math"
	"slices"
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
	// Fill is how much of what a replica carries is planned for: who is expected is
	// served within it, more who may come, up to the quantile, may fill the
	// replicas. 0 means 1: the floor is the quantile itself.
	Fill float64
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

// Floor returns the greatest demand of the classes at any time from from to to,
// both included: capacity that takes to−from to start must be asked for at from.
func (a Attendance) Floor(t Timetable, from, to time.Time, opts Options) Floor {
	if opts.Quantile == 0 {
		opts.Quantile = .9
	}
	if opts.Release == 0 {
		opts.Release = DefaultRelease
	}
	early := -PriorCurve()[0].At
	classes := t.Between(from, to.Add(1), early, 0)
	// Curves only rise: the demand is greatest at the end, or just before a class
	// is released.
	times := []time.Time{from, to}
	for _, s := range classes {
		if at := s.Start.Add(opts.release(s) - time.Second); at.After(from) && at.Before(to) {
			times = append(times, at)
		}
	}
	slices.SortFunc(times, time.Time.Compare)
	var best Floor
	var when time.Time
	var greatest Session
	for _, at := range slices.CompactFunc(times, time.Time.Equal) {
		if f, g := a.at(classes, at, opts); f.Demand > best.Demand {
			best, when, greatest = f, at, g
		}
	}
	if best.Classes > 0 {
		best.Reason = fmt.Sprintf("%s at %s", greatest.Course, greatest.Start.Format("15:04"))
		if best.Classes > 1 {
			best.Reason = fmt.Sprintf("%d classes, the greatest %s", best.Classes, best.Reason)
		}
		best.Reason += fmt.Sprintf(": %.4g expected by %s", best.Demand, when.Round(time.Minute).Format("15:04"))
	}
	return best
}

// release is how long after its start the class is held.
func (o Options) release(s Session) time.Duration {
	length := s.End.Sub(s.Start)
	if o.Release < 0 {
		return length
	}
	return min(o.Release, length)
}

// at is the floor at one moment: the quantile of a sum of independent lognormal
// classes, taken as lognormal with the same mean and variance (Fenton and
// Wilkinson). It returns the class that is expected to bring most, too.
func (a Attendance) at(classes []Session, at time.Time, opts Options) (f Floor, greatest Session) {
	var mean, variance, most float64
	for _, s := range classes {
		since, release := at.Sub(s.Start), opts.release(s)
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
		if m > most {
			most, greatest = m, s
		}
		if until := s.Start.Add(release); until.After(f.Until) {
			f.Until = until
		}
	}
	if f.Classes == 0 {
		return Floor{}, greatest
	}
	spread := math.Log1p(variance / (mean * mean))
	f.Demand = math.Exp(math.Log(mean) - spread/2 + normal(opts.Quantile)*math.Sqrt(spread))
	if opts.Fill > 0 && opts.Fill < 1 {
		f.Demand = max(mean, f.Demand*opts.Fill)
	}
	return f, greatest
}
