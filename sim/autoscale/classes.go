package autoscale

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/neap-dev/neap/core/elastic"
	"github.com/neap-dev/neap/core/timetable"
)

// Classes are a timetable and what was counted in its rooms.
type Classes struct {
	Sessions []timetable.Session // of the rooms that were counted
	Rooms    map[string]*Series  // by the sessions' names of the rooms
}

// Match puts a timetable and counts together. Rooms have one name if their
// letters and digits are the same: B-002 is B0.02. Sessions of rooms that were
// not counted, and counts of rooms that have no session, are left out and named
// in the notes.
func Match(sessions []timetable.Session, counts map[string]*Series) (c *Classes, notes []string, err error) {
	c = &Classes{Rooms: map[string]*Series{}}
	byKey, rooms := map[string]string{}, []string{}
	for room := range counts {
		rooms = append(rooms, room)
	}
	slices.Sort(rooms)
	for _, room := range rooms {
		if other, twice := byKey[roomKey(room)]; twice {
			return nil, nil, fmt.Errorf("the counts' rooms %q and %q cannot be told apart by their letters and digits; rename one", other, room)
		}
		byKey[roomKey(room)] = room
	}
	left := map[string]int{}
	for _, s := range sessions {
		room, ok := byKey[roomKey(s.Room)]
		if !ok {
			left[s.Room]++
			continue
		}
		s.Room = room
		c.Rooms[room] = counts[room]
		c.Sessions = append(c.Sessions, s)
	}
	if len(c.Sessions) == 0 {
		return nil, nil, fmt.Errorf("no class meets in a room that was counted (%s); see whether the rooms have the same names in both files", strings.Join(rooms, ", "))
	}
	for _, room := range slices.Sorted(maps.Keys(left)) {
		notes = append(notes, fmt.Sprintf("%d classes in %q are left out: that room was not counted", left[room], room))
	}
	for _, room := range rooms {
		if c.Rooms[room] == nil {
			notes = append(notes, fmt.Sprintf("the counts of %q are left out: no class meets there", room))
		}
	}
	return c, notes, nil
}

// roomKey is a room's name without what is written differently.
func roomKey(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsDigit(r) {
			return unicode.ToUpper(r)
		}
		return -1
	}, s)
}

// Prepare adds the rooms up and sets a time to learn from apart: the test goes
// from the day from, which is a week after the first class's if it is zero, to
// the end of the last class's day. Days are those of in.
func (c *Classes) Prepare(name string, from time.Time, in *time.Location) (*Workload, error) {
	first, last := c.Sessions[0].Start, c.Sessions[0].End
	for _, s := range c.Sessions {
		if s.Start.Before(first) {
			first = s.Start
		}
		if s.End.After(last) {
			last = s.End
		}
	}
	begins, ends := time.Time{}, time.Time{}
	for _, s := range c.Rooms {
		if begins.IsZero() || s.From.After(begins) {
			begins = s.From
		}
		if e := s.From.Add(time.Duration(len(s.Value)) * time.Minute); ends.IsZero() || e.Before(ends) {
			ends = e
		}
	}
	midnight := func(t time.Time, days int) time.Time {
		y, m, d := t.In(in).Date()
		return time.Date(y, m, d+days, 0, 0, 0, 0, in)
	}
	if from.IsZero() {
		from = midnight(first, 7)
	}
	if end := midnight(last.Add(-time.Second), 1); end.Before(ends) {
		ends = end
	}
	if from.Sub(begins) < 24*time.Hour || ends.Sub(from) < 24*time.Hour {
		return nil, fmt.Errorf("%s: the rooms were counted from %s to %s, as far as there are classes; a test from %s needs a day at least before it and after it", name,
			begins.In(in).Format("2006-01-02 15:04"), ends.In(in).Format("2006-01-02 15:04"), from.Format("2006-01-02 15:04"))
	}
	s := &Series{Name: name, From: begins, Value: make([]float64, int(ends.Sub(begins)/time.Minute))}
	for _, room := range c.Rooms {
		off := int(begins.Sub(room.From) / time.Minute)
		for i := range s.Value {
			s.Value[i] += room.Value[off+i] // what is unknown of one room is unknown of the sum
		}
	}
	w := &Workload{Name: name, From: begins, Demand: s.Value, Test: int(from.Sub(begins) / time.Minute)}
	top := Percentile(w.Demand, 0.999)
	if !(top > 0) {
		return nil, errors.New(name + ": hardly anybody was counted; there is nothing to scale")
	}
	w.Scale = Peak / top
	for i := range w.Demand {
		w.Demand[i] *= w.Scale
	}
	return w, nil
}

// classPolicies lists the policies for classes.
var classPolicies = []struct {
	name, what string
	make       func(c *Classes, w *Workload) Policy
}{
	{"neap", "this product: core/timetable, core/forecast and core/elastic", func(c *Classes, w *Workload) Policy { return &Neap{Class: c.learnt(w)} }},
	{"neap-without-timetable", "the same without core/timetable", func(*Classes, *Workload) Policy { return &Neap{} }},
	{"hpa", "HPA v2 with its defaults", func(*Classes, *Workload) Policy { return NewHPA() }},
	{"class-hour", "HPA, and a pod's room for each enrolled from 25 minutes before the class to its end", func(c *Classes, w *Workload) Policy {
		return newFloors(c.floors(w, 1, 25, -1))
	}},
	{"class-15min", "the same until 15 minutes after its start", func(c *Classes, w *Workload) Policy {
		return newFloors(c.floors(w, 1, 25, 15))
	}},
	{"weekly", "HPA, and what the same minute of last week had", func(_ *Classes, w *Workload) Policy {
		floor, _ := lastWeek(w, 0)
		return newFloors(floor)
	}},
	{"weekly-timetable", "HPA, and the most of last week's ten minutes; where last week is not known three quarters of the enrolled, from 15 minutes before to 15 after", func(c *Classes, w *Workload) Policy {
		floor, known := lastWeek(w, 5)
		for m, classes := range c.floors(w, 0.75, 15, 15) {
			if !known[m] {
				floor[m] = classes
			}
		}
		return newFloors(floor)
	}},
	{"oracle", "knows the demand until a pod asked for now is ready", func(_ *Classes, w *Workload) Policy { return &Oracle{Demand: w.Demand} }},
}

// ClassPolicies lists the names that [Classes.Policy] takes.
func ClassPolicies() []string {
	var names []string
	for _, p := range classPolicies {
		names = append(names, p.name)
	}
	return names
}

// ExplainClassPolicy says in a clause what the policy of that name is.
func ExplainClassPolicy(name string) string {
	for _, p := range classPolicies {
		if p.name == name {
			return p.what
		}
	}
	return ""
}

// Policy makes the policy of that name, to be replayed once over w.
func (c *Classes) Policy(name string, w *Workload) (Policy, error) {
	for _, p := range classPolicies {
		if p.name == name {
			return p.make(c, w), nil
		}
	}
	return nil, fmt.Errorf("there is no policy %q; take one of %s", name, strings.Join(ClassPolicies(), ", "))
}

// learnt returns what core/timetable says of a minute. Who comes is learnt once
// a day from what was counted until then.
func (c *Classes) learnt(w *Workload) func(now time.Time, horizon time.Duration) elastic.Class {
	table := timetable.New(c.Sessions)
	var (
		attendance timetable.Attendance
		learntAt   time.Time
	)
	return func(now time.Time, horizon time.Duration) elastic.Class {
		if learntAt.IsZero() || now.Sub(learntAt) >= 24*time.Hour {
			attendance, learntAt = timetable.Learn(table, "", c.counts(now)), now
		}
		class := attendance.Class(table, now, horizon, timetable.Options{Fill: Target})
		class.Demand *= w.Scale
		class.Needs *= w.Scale
		return class
	}
}

// counts is what was known at now, every five minutes of each room.
func (c *Classes) counts(now time.Time) []timetable.Count {
	var out []timetable.Count
	for _, room := range slices.Sorted(maps.Keys(c.Rooms)) {
		s := c.Rooms[room]
		for m := 0; m < len(s.Value); m += 5 {
			at := s.From.Add(time.Duration(m) * time.Minute)
			if at.After(now.Add(-Delay * time.Minute)) {
				break
			}
			if v := s.Value[m]; !math.IsNaN(v) {
				out = append(out, timetable.Count{At: at, Demand: v, Room: room})
			}
		}
	}
	return out
}

// floors is, by the minute and in pods' worth of demand, share of the enrolled of
// every class from before minutes ahead of its start to hold minutes after it, to
// its end if hold is negative.
func (c *Classes) floors(w *Workload, share float64, before, hold int) []float64 {
	out := make([]float64, len(w.Demand))
	for _, s := range c.Sessions {
		from := int(s.Start.Sub(w.From) / time.Minute)
		to := from + hold
		if hold < 0 {
			to = int(s.End.Sub(w.From) / time.Minute)
		}
		for m := max(from-before, 0); m < to && m < len(out); m++ {
			out[m] += share * float64(max(s.Enrolled, 0)) * w.Scale
		}
	}
	return out
}

// lastWeek is, by the minute, the highest demand within around minutes of the
// same minute a week before, and whether that is known.
func lastWeek(w *Workload, around int) (top []float64, known []bool) {
	top, known = make([]float64, len(w.Demand)), make([]bool, len(w.Demand))
	for m := 7 * day; m < len(top); m++ {
		known[m] = !math.IsNaN(w.Demand[m-7*day])
		for k := max(m-7*day-around, 0); k <= m-7*day+around; k++ {
			if !math.IsNaN(w.Demand[k]) {
				top[m] = max(top[m], w.Demand[k])
			}
		}
	}
	return top, known
}

// floors is the HPA above a floor of demand by the minute, known in advance.
type floors struct {
	hpa   HPA
	floor []float64
}

func newFloors(floor []float64) *floors { return &floors{hpa: HPA{Tolerance: 0.1}, floor: floor} }

// Decide implements [Policy].
func (f *floors) Decide(s Seen) int {
	n, top := f.hpa.recommend(s), 0.0
	for m := s.Minute; m <= s.Minute+s.StartMinutes+1 && m < len(f.floor); m++ {
		top = max(top, f.floor[m])
	}
	return f.hpa.stabilise(max(n, ideal(top)))
}
