package timetable

import (
	"math"
	"slices"
	"time"
)

// What is believed before anything was seen, from the Wi-Fi clients and the
// timetable of three lecture rooms at University College Dublin (135 class-hours
// of November 2015).
const (
	// PriorRatio is the median of those present to those enrolled.
	PriorRatio = 0.75
	// PriorSpread is the 90th percentile of that ratio over its median.
	PriorSpread = 1.8
)

// z90 is the 90th percentile of the standard normal distribution.
const z90 = 1.2815515655446004

// priorVariance is the variance of the logarithm of a class's ratio. Half of it
// is taken to lie between courses, half between the meetings of one course.
var priorVariance = math.Pow(math.Log(PriorSpread)/z90, 2)

const (
	priorMeetings   = 8 // what the prior's variance and curve weigh, in meetings
	courseMeetings  = 3 // what the curve of all courses weighs against a course's own, in meetings
	emptyDeviations = 3 // a class emptier than this many deviations below the median tells no more than that
)

// A Knot is a point of a [Curve].
type Knot struct {
	At    time.Duration // from the start of the class
	Share float64       // of the most that will be there
}

// A Curve says which share of a class is there how long after its start: linear
// between knots, 0 before the first, level after the last.
type Curve []Knot

// PriorCurve returns the curve of the three rooms: half of the class is there
// before the bell.
func PriorCurve() Curve {
	return Curve{
		{-25 * time.Minute, 0}, {-15 * time.Minute, .24}, {-5 * time.Minute, .44}, {0, .54},
		{5 * time.Minute, .73}, {15 * time.Minute, .81}, {30 * time.Minute, 1},
	}
}

// At returns the share that is there at the time from the start.
func (c Curve) At(d time.Duration) float64 {
	if len(c) == 0 || d < c[0].At {
		return 0
	}
	for i := 1; i < len(c); i++ {
		if a, b := c[i-1], c[i]; d < b.At {
			return a.Share + (b.Share-a.Share)*float64(d-a.At)/float64(b.At-a.At)
		}
	}
	return c[len(c)-1].Share
}

// A Count is demand that was seen.
type Count struct {
	At     time.Time
	Demand float64 // in the module's unit; NaN, infinite and negative values are left out
	Room   string  // whose demand it is; empty means all classes together
}

// An Attendance is what was learnt about who comes, and when. The zero value
// knows the priors only.
type Attendance struct {
	courses map[string]course
	all     course // for a course that was never seen
	known   bool
}

// A course is what was learnt about one course, or about all of them.
type course struct {
	meetings int
	median   float64 // logarithm of the median ratio
	doubt    float64 // variance of that logarithm
	within   float64 // variance of the logarithm of a meeting's ratio about it
	curve    Curve
}

// prior is a course of which nothing was seen.
func prior() course {
	return course{median: math.Log(PriorRatio), doubt: priorVariance / 2, within: priorVariance / 2, curve: PriorCurve()}
}

// about returns what is known of the course.
func (a Attendance) about(name string) course {
	if c, ok := a.courses[name]; ok {
		return c
	}
	if a.known {
		return a.all
	}
	return prior()
}

// Ratio returns the q-quantile (0 < q < 1) of those present to those enrolled in
// the next meeting of the course.
func (a Attendance) Ratio(name string, q float64) float64 {
	c := a.about(name)
	return math.Exp(c.median + normal(q)*math.Sqrt(c.doubt+c.within))
}

// Curve returns how the course arrives. The caller owns it.
func (a Attendance) Curve(name string) Curve { return slices.Clone(a.about(name).curve) }

// Meetings returns how many meetings of the course were seen.
func (a Attendance) Meetings(name string) int {
	if c, ok := a.courses[name]; ok {
		return c.meetings
	}
	return 0
}

// Learn learns from demand that was seen, for one module. Demand at a time when
// several classes meet is divided between them by what each is expected to
// bring. The order of the counts does not matter.
func Learn(t Timetable, module string, counts []Count) Attendance {
	counts = slices.DeleteFunc(slices.Clone(counts), func(c Count) bool {
		return !(c.Demand >= 0) || math.IsInf(c.Demand, 1)
	})
	slices.SortStableFunc(counts, func(a, b Count) int { return a.At.Compare(b.At) })
	var a Attendance
	if len(counts) == 0 {
		return a
	}
	// What is expected of a class depends on what was learnt, and what was learnt
	// on how demand was divided: two rounds settle it where rooms differ.
	for range 2 {
		a = estimate(meetings(t, module, counts, a))
	}
	return a
}

// A meeting is what one session was seen to bring.
type meeting struct {
	course string
	ratio  float64 // greatest demand to enrolled · factor
	shares []float64
}

// meetings returns what every session that the counts cover has brought, in the
// order of the sessions.
func meetings(t Timetable, module string, counts []Count, a Attendance) []meeting {
	type seen struct {
		at     []time.Duration
		demand []float64
	}
	knots := PriorCurve()
	early := -knots[0].At
	classes := t.Between(counts[0].At, counts[len(counts)-1].At.Add(1), early, 0)
	all := make([]seen, len(classes))
	first := 0 // no class before it meets a later count
	for _, c := range counts {
		for first < len(classes) && c.At.Sub(classes[first].Start) > t.longest {
			first++
		}
		var sum float64
		var present []int
		var expected []float64
		for i := first; i < len(classes) && classes[i].Start.Add(-early).Before(c.At.Add(1)); i++ {
			s := classes[i]
			if !s.End.After(c.At) || c.Room != "" && c.Room != s.Room {
				continue
			}
			k := a.about(s.Course)
			e := math.Exp(k.median) * float64(s.Enrolled) * s.Factor(module) * k.curve.At(c.At.Sub(s.Start))
			if e > 0 {
				sum += e
				present = append(present, i)
				expected = append(expected, e)
			}
		}
		for j, i := range present {
			all[i].at = append(all[i].at, c.At.Sub(classes[i].Start))
			all[i].demand = append(all[i].demand, c.Demand*expected[j]/sum)
		}
	}
	var out []meeting
	for i, s := range classes {
		var most float64
		during := 0
		for j, at := range all[i].at {
			if at >= 0 {
				most = max(most, all[i].demand[j])
				during++
			}
		}
		// A class that was seen for less than half of its time may have been fuller.
		if during == 0 || all[i].at[len(all[i].at)-1] < s.End.Sub(s.Start)/2 {
			continue
		}
		m := meeting{course: s.Course, ratio: most / (float64(s.Enrolled) * s.Factor(module))}
		for _, k := range knots {
			m.shares = append(m.shares, shareAt(all[i].at, all[i].demand, k.At)/most)
		}
		out = append(out, m)
	}
	return out
}

// shareAt interpolates demand at d; NaN if it was not seen within five minutes
// on either side.
func shareAt(at []time.Duration, demand []float64, d time.Duration) float64 {
	const near = 5*time.Minute + 30*time.Second
	i, _ := slices.BinarySearch(at, d)
	var a, b float64
	okA, okB := i > 0 && d-at[i-1] <= near, i < len(at) && at[i]-d <= near
	if okA {
		a = demand[i-1]
	}
	if okB {
		b = demand[i]
	}
	switch {
	case okA && okB:
		return a + (b-a)*float64(d-at[i-1])/float64(at[i]-at[i-1])
	case okA:
		return a
	case okB:
		return b
	}
	return math.NaN()
}

// estimate shrinks what was seen: meetings to their course, courses to all
// courses, and those to the prior.
func estimate(seen []meeting) Attendance {
	p := prior()
	if len(seen) == 0 {
		return Attendance{}
	}
	logs := make([]float64, len(seen))
	for i, m := range seen {
		logs[i] = math.Log(m.ratio) // -Inf for an empty class
	}
	middle := median(logs)
	if math.IsInf(middle, -1) {
		return Attendance{}
	}
	least := middle - emptyDeviations*math.Sqrt(priorVariance)

	var names []string
	of := map[string][]int{}
	for i, m := range seen {
		logs[i] = max(logs[i], least)
		if of[m.course] == nil {
			names = append(names, m.course)
		}
		of[m.course] = append(of[m.course], i)
	}
	slices.Sort(names)

	// 1. The spread between the meetings of one course.
	within, free := priorMeetings*p.within, float64(priorMeetings)
	means := map[string]float64{}
	for _, name := range names {
		var sum float64
		for _, i := range of[name] {
			sum += logs[i]
		}
		means[name] = sum / float64(len(of[name]))
		for _, i := range of[name] {
			within += (logs[i] - means[name]) * (logs[i] - means[name])
		}
		free += float64(len(of[name]) - 1)
	}
	within /= free

	// 2. The median of all courses, and the spread between them.
	weight := 1 / priorVariance
	centre := weight * p.median
	for _, name := range names {
		w := 1 / (p.doubt + within/float64(len(of[name])))
		weight += w
		centre += w * means[name]
	}
	centre /= weight
	between, courses := priorMeetings*p.doubt, float64(priorMeetings)
	for _, name := range names {
		between += max(0, (means[name]-centre)*(means[name]-centre)-within/float64(len(of[name])))
		courses++
	}
	between /= courses

	// 3. The courses.
	a := Attendance{known: true, courses: map[string]course{}}
	a.all = course{meetings: len(seen), median: centre, doubt: between + 1/weight, within: within,
		curve: curveOf(seen, nil, p.curve, priorMeetings)}
	for _, name := range names {
		n := float64(len(of[name]))
		w := 1/between + n/within
		c := course{meetings: len(of[name]), within: within}
		c.median = (centre/between + n*means[name]/within) / w
		c.doubt = 1/w + math.Pow(1/between/w, 2)/weight
		c.curve = curveOf(seen, of[name], a.all.curve, courseMeetings)
		a.courses[name] = c
	}
	return a
}

// curveOf averages the curves of the meetings named (nil means all) with a
// curve that weighs as much as prior meetings.
func curveOf(seen []meeting, which []int, from Curve, prior float64) Curve {
	out := slices.Clone(from)
	for k := range out {
		sum, n := prior*from[k].Share, prior
		add := func(m meeting) {
			if v := m.shares[k]; v >= 0 && v <= 1 { // NaN where it was not seen
				sum, n = sum+v, n+1
			}
		}
		if which == nil {
			for _, m := range seen {
				add(m)
			}
		}
		for _, i := range which {
			add(seen[i])
		}
		out[k].Share = sum / n
	}
	return out
}

// median returns the median of the values, the lower one of two.
func median(values []float64) float64 {
	v := slices.Clone(values)
	slices.Sort(v)
	return v[(len(v)-1)/2]
}

// normal returns the q-quantile of the standard normal distribution, for q
// from .01 to .99.
func normal(q float64) float64 {
	q = min(max(q, .01), .99)
	return math.Sqrt2 * math.Erfinv(2*q-1)
}
