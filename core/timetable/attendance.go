package timetable

import (
	"cmp"
	"maps"
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
// before the bell. What is there earlier than a quarter of an hour before is from
// the classes that follow a free hour; others cannot tell who comes from who has
// not left.
func PriorCurve() Curve {
	return Curve{
		{-45 * time.Minute, 0}, {-25 * time.Minute, .1}, {-15 * time.Minute, .24}, {-5 * time.Minute, .44}, {0, .54},
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
	courses  map[string]course
	unlisted map[string]course // courses without an enrolled count, by people instead of a ratio
	all      course            // for a course that was never seen
	known    bool
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

// expect returns what is known of the session's course, and by what its ratio is
// to be multiplied: those enrolled or, where they are not known but people were
// counted, one. It is 0 where neither is known.
func (a Attendance) expect(s Session, module string) (c course, size float64) {
	if s.Enrolled > 0 {
		c, size = a.about(s.Course), float64(s.Enrolled)
	} else if u, ok := a.unlisted[s.Course]; ok {
		c, size = u, 1
	}
	if size *= s.Factor(module); !(size > 0) || math.IsInf(size, 1) {
		return c, 0
	}
	return c, size
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
	return a.courses[name].meetings + a.unlisted[name].meetings
}

// Learn learns from demand that was seen, for one module. Demand at a time when
// several classes meet is divided between them by what each is expected to
// bring. The order of the counts does not matter.
func Learn(t Timetable, module string, counts []Count) Attendance {
	counts = thin(counts)
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

// grain is the step in which arrivals are learnt: the knots of curves are no
// closer, and finer counts only cost time.
const grain = 5 * time.Minute

// thin averages the counts of each room over every step, in the order of time,
// and leaves out those that are none.
func thin(counts []Count) []Count {
	counts = slices.DeleteFunc(slices.Clone(counts), func(c Count) bool {
		return !(c.Demand >= 0) || math.IsInf(c.Demand, 1)
	})
	slices.SortFunc(counts, func(a, b Count) int {
		return cmp.Or(a.At.Truncate(grain).Compare(b.At.Truncate(grain)), cmp.Compare(a.Room, b.Room), a.At.Compare(b.At), cmp.Compare(a.Demand, b.Demand))
	})
	out := counts[:0]
	n := 0.0
	var step time.Time
	for _, c := range counts {
		if last := len(out) - 1; last >= 0 && out[last].Room == c.Room && c.At.Truncate(grain).Equal(step) {
			n++
			out[last].Demand += (c.Demand - out[last].Demand) / n
			out[last].At = out[last].At.Add(time.Duration(float64(c.At.Sub(out[last].At)) / n))
			continue
		}
		out, n, step = append(out, c), 1, c.At.Truncate(grain)
	}
	return out
}

// A meeting is what one session was seen to bring.
type meeting struct {
	course   string
	unlisted bool
	ratio    float64 // greatest demand to enrolled · factor, or to the factor
	shares   []float64
}

// meetings returns what every session that the counts cover has brought, in the
// order of the sessions. Of a class of which nothing is known, neither how many
// are enrolled nor how many came before, that is what the others leave.
func meetings(t Timetable, module string, counts []Count, a Attendance) []meeting {
	type seen struct {
		at     []time.Duration
		demand []float64
	}
	knots := PriorCurve()
	early := -knots[0].At
	classes := t.Between(counts[0].At, counts[len(counts)-1].At.Add(1), early, 0)
	all := make([]seen, len(classes))
	type prospect struct {
		heads float64 // expected at most; 0 if that is not known
		curve Curve
	}
	prospects := make([]prospect, len(classes))
	for i, s := range classes {
		if k, size := a.expect(s, module); size > 0 {
			prospects[i] = prospect{math.Exp(k.median) * size, k.curve}
		}
	}
	var present []int
	var expected []float64
	first := 0 // no class before it meets a later count
	for _, c := range counts {
		for first < len(classes) && c.At.Sub(classes[first].Start) > t.longest {
			first++
		}
		present, expected = present[:0], expected[:0]
		sum, unknown := 0.0, 0
		for i := first; i < len(classes) && !classes[i].Start.Add(-early).After(c.At); i++ {
			s := classes[i]
			if !s.End.After(c.At) || c.Room != "" && c.Room != s.Room || !(s.Factor(module) > 0) {
				continue
			}
			e := 0.0
			if k := prospects[i]; k.heads > 0 {
				if e = k.heads * k.curve.At(c.At.Sub(s.Start)); e == 0 {
					continue
				}
			} else {
				unknown++
			}
			sum += e
			present, expected = append(present, i), append(expected, e)
		}
		share := c.Demand
		if unknown > 0 {
			share = min(share, sum)
		}
		for j, i := range present {
			demand := (c.Demand - share) / float64(max(unknown, 1))
			if expected[j] > 0 {
				demand = share * expected[j] / sum
			}
			all[i].at = append(all[i].at, c.At.Sub(classes[i].Start))
			all[i].demand = append(all[i].demand, demand)
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
		m := meeting{course: s.Course, unlisted: s.Enrolled <= 0, ratio: most / (float64(max(s.Enrolled, 1)) * s.Factor(module))}
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
	var logs []float64 // of those whose course has an enrolled count
	for _, m := range seen {
		if !m.unlisted {
			logs = append(logs, math.Log(m.ratio)) // -Inf for an empty class
		}
	}
	least := math.Inf(-1)
	if len(logs) > 0 {
		least = median(logs) - emptyDeviations*math.Sqrt(priorVariance)
	}
	type group struct {
		meetings []int
		logs     []float64
		mean     float64
	}
	groups := [2]map[string]*group{{}, {}} // listed and unlisted courses
	for i, m := range seen {
		of, log := groups[0], max(math.Log(m.ratio), least)
		if m.unlisted {
			of, log = groups[1], math.Log(m.ratio)
		}
		if math.IsInf(log, 0) || math.IsNaN(log) {
			continue // nobody came to any class, or to one that may not exist
		}
		if of[m.course] == nil {
			of[m.course] = &group{}
		}
		of[m.course].meetings = append(of[m.course].meetings, i)
		of[m.course].logs = append(of[m.course].logs, log)
	}
	names := [2][]string{slices.Sorted(maps.Keys(groups[0])), slices.Sorted(maps.Keys(groups[1]))}

	// 1. The spread between the meetings of one course.
	within, free := priorMeetings*p.within, float64(priorMeetings)
	for k := range groups {
		for _, name := range names[k] {
			g := groups[k][name]
			for _, v := range g.logs {
				g.mean += v / float64(len(g.logs))
			}
			for _, v := range g.logs {
				within += (v - g.mean) * (v - g.mean)
			}
			free += float64(len(g.logs) - 1)
		}
	}
	within /= free

	// 2. The median of all courses, and the spread between them.
	weight := 1 / priorVariance
	centre := weight * p.median
	for _, name := range names[0] {
		g := groups[0][name]
		w := 1 / (p.doubt + within/float64(len(g.logs)))
		weight += w
		centre += w * g.mean
	}
	centre /= weight
	between, courses := priorMeetings*p.doubt, float64(priorMeetings)
	for _, name := range names[0] {
		g := groups[0][name]
		between += max(0, (g.mean-centre)*(g.mean-centre)-within/float64(len(g.logs)))
		courses++
	}
	between /= courses

	// 3. The courses.
	a := Attendance{known: len(names[0]) > 0, courses: map[string]course{}, unlisted: map[string]course{}}
	var listed []int
	for _, name := range names[0] {
		listed = append(listed, groups[0][name].meetings...)
	}
	a.all = course{meetings: len(listed), median: centre, doubt: between + 1/weight, within: within,
		curve: curveOf(seen, listed, p.curve, priorMeetings)}
	for _, name := range names[0] {
		g := groups[0][name]
		n := float64(len(g.logs))
		w := 1/between + n/within
		a.courses[name] = course{meetings: len(g.logs), within: within,
			median: (centre/between + n*g.mean/within) / w,
			doubt:  1/w + math.Pow(1/between/w, 2)/weight,
			curve:  curveOf(seen, g.meetings, a.all.curve, courseMeetings)}
	}
	for _, name := range names[1] {
		g := groups[1][name]
		a.unlisted[name] = course{meetings: len(g.logs), within: within, median: g.mean, doubt: within / float64(len(g.logs)),
			curve: curveOf(seen, g.meetings, a.all.curve, courseMeetings)}
	}
	return a
}

// curveOf averages the curves of the meetings with a curve that weighs as much
// as prior meetings.
func curveOf(seen []meeting, which []int, from Curve, prior float64) Curve {
	out := slices.Clone(from)
	for k := range out {
		sum, n := prior*from[k].Share, prior
		for _, i := range which {
			if v := seen[i].shares[k]; v >= 0 && v <= 1 { // NaN where it was not seen
				sum, n = sum+v, n+1
			}
		}
		out[k].Share = sum / n
		if k > 0 { // who has come stays
			out[k].Share = max(out[k].Share, out[k-1].Share)
		}
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
