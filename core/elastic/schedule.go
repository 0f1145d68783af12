package elastic

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// A DayType is a kind of day.
type DayType string

// The kinds of days. A MakeUp day is a weekend day that is worked: it is a
// workday too. A Holiday is neither workday nor weekend.
const (
	Workday DayType = "workday"
	Weekend DayType = "weekend"
	Holiday DayType = "holiday"
	MakeUp  DayType = "makeup"
)

// A Calendar says what kind of day a date is; of t only the date counts, in t's
// own location.
type Calendar interface {
	DayType(t time.Time) DayType
}

// A Recurrence says when windows start, such as an RRULE. Starts returns the
// starts in [from, to), oldest first.
type Recurrence interface {
	Starts(from, to time.Time) []time.Time
}

// A Date is a day of the calendar.
type Date struct {
	Year  int
	Month time.Month
	Day   int
}

// DateOf returns the date of t in t's own location.
func DateOf(t time.Time) Date {
	y, m, d := t.Date()
	return Date{y, m, d}
}

// ParseDate reads a date such as 2026-10-01.
func ParseDate(s string) (Date, error) {
	t, err := time.Parse(time.DateOnly, s)
	if err != nil {
		return Date{}, fmt.Errorf("%q is not a date such as 2026-10-01", s)
	}
	return DateOf(t), nil
}

// String returns the date such as 2026-10-01.
func (d Date) String() string { return fmt.Sprintf("%04d-%02d-%02d", d.Year, d.Month, d.Day) }

// ParseClock reads a time of day such as 18:30 and returns it since midnight.
func ParseClock(s string) (time.Duration, error) {
	t, err := time.Parse("15:04", s)
	if err != nil || len(s) != len("15:04") {
		return 0, fmt.Errorf("%q is not a time of day: write it like 18:30", s)
	}
	return time.Duration(t.Hour())*time.Hour + time.Duration(t.Minute())*time.Minute, nil
}

// A Schedule is a window of time that comes again: a start and a duration.
//
// Times are read as RFC 5545 reads them: a start that a change of the clock
// leaves out counts by the clock of before, one that comes twice is the first;
// whole days of a duration are days of the calendar, the rest is time that passes.
type Schedule struct {
	Name string
	Zone *time.Location // nil means UTC

	// Either Rule, or Start (since midnight) on Days and Weekdays. A day that is
	// one of either counts; with none of both it is every day.
	Rule     Recurrence
	Start    time.Duration
	Days     []DayType
	Weekdays []time.Weekday

	Duration time.Duration // above 0, up to a week
	Except   []Date        // local dates on which it does not start

	Floor, Cap int           // exactly one is not None
	Ramp       time.Duration // how long the floor rises after the start and falls before the end
}

const (
	day        = 24 * time.Hour
	maxWindow  = 7 * day
	maxHorizon = 400 * day // no schedule is looked for beyond
)

// Validate says in one sentence what is wrong with s, if anything.
func (s Schedule) Validate() error {
	switch {
	case s.Duration <= 0 || s.Duration > maxWindow:
		return fmt.Errorf("cron %q lasts %v; its duration must be above 0 and at most 168h", s.Name, s.Duration)
	case s.Rule == nil && (s.Start < 0 || s.Start >= day):
		return fmt.Errorf("cron %q starts %v after midnight; it must start between 00:00 and 23:59", s.Name, s.Start)
	case s.Rule != nil && len(s.Days)+len(s.Weekdays) > 0:
		return fmt.Errorf("cron %q has a rule and days; the rule says the days itself, so leave days out", s.Name)
	case (s.Floor == None) == (s.Cap == None) || s.Floor < None || s.Cap < None:
		return fmt.Errorf("cron %q must have either a floor or a cap, of 0 or more", s.Name)
	case s.Ramp < 0 || 2*s.Ramp > s.Duration:
		return fmt.Errorf("cron %q ramps for %v; it must be at most half of its duration of %v", s.Name, s.Ramp, s.Duration)
	}
	for _, d := range s.Days {
		if d != Workday && d != Weekend && d != Holiday && d != MakeUp {
			return fmt.Errorf("cron %q is on %q; days are workday, weekend, holiday and makeup", s.Name, d)
		}
	}
	return nil
}

// At says what the schedule wants at t. ok is false outside of its windows.
// Where windows overlap, the highest floor and the lowest cap count.
func (s Schedule) At(t time.Time, days Calendar) (c Claim, ok bool) {
	c = Claim{Layer: LayerCron, Name: s.Name, Floor: None, Cap: None, Hard: true}
	if s.Duration <= 0 || s.Duration > maxWindow {
		return c, false
	}
	for _, start := range s.starts(t.Add(-s.Duration-day), t.Add(1), days) {
		end := s.end(start)
		if start.After(t) || !end.After(t) {
			continue
		}
		ok = true
		if end.After(c.Until) {
			c.Until = end
		}
		if s.Cap != None {
			c.Cap = s.Cap
		}
		if s.Floor != None {
			c.Floor = max(c.Floor, s.height(t.Sub(start), end.Sub(t)))
		}
	}
	if !ok {
		return c, false
	}
	if c.Floor != None {
		c.Reason = fmt.Sprintf("cron %s has a floor of %d until %s", s.Name, c.Floor, clock(c.Until))
		if c.Floor < s.Floor {
			c.Reason += fmt.Sprintf(", on its ramp to or from %d", s.Floor)
		}
	} else {
		c.Reason = fmt.Sprintf("cron %s has a cap of %d until %s", s.Name, c.Cap, clock(c.Until))
	}
	return c, true
}

// Next returns when the first window after t begins, if one does before limit.
func (s Schedule) Next(t, limit time.Time, days Calendar) (time.Time, bool) {
	if s.Duration <= 0 || s.Duration > maxWindow {
		return time.Time{}, false
	}
	for _, start := range s.starts(t, limit, days) {
		if start.After(t) {
			return start, true
		}
	}
	return time.Time{}, false
}

// needs returns the highest floor of windows that begin in (t, limit].
func (s Schedule) needs(t, limit time.Time, days Calendar) (floor int, start time.Time) {
	if s.Floor == None {
		return 0, time.Time{}
	}
	start, ok := s.Next(t, limit.Add(1), days)
	if !ok {
		return 0, time.Time{}
	}
	if s.Ramp == 0 {
		return s.Floor, start
	}
	c, _ := s.At(limit, days)
	return max(c.Floor, 0), start
}

// height is the floor so long after the start and so long before the end.
func (s Schedule) height(since, left time.Duration) int {
	if s.Ramp <= 0 {
		return s.Floor
	}
	share := min(1, float64(since)/float64(s.Ramp), float64(left)/float64(s.Ramp))
	return int(math.Ceil(share * float64(s.Floor)))
}

// starts returns the starts in [from, to), oldest first.
func (s Schedule) starts(from, to time.Time, days Calendar) []time.Time {
	if to.Sub(from) > maxHorizon {
		to = from.Add(maxHorizon)
	}
	var out []time.Time
	add := func(start time.Time, date Date) {
		if !start.Before(from) && start.Before(to) && !slices.Contains(s.Except, date) {
			out = append(out, start)
		}
	}
	if s.Rule != nil {
		for _, start := range s.Rule.Starts(from, to) {
			add(start.In(s.zone()), DateOf(start.In(s.zone())))
		}
	} else {
		// A day more at both ends, for a start may be moved over midnight by a
		// change of the clock.
		y, m, d := from.In(s.zone()).Date()
		for i := -1; i <= int(maxHorizon/day)+2; i++ {
			date := time.Date(y, m, d+i, 0, 0, 0, 0, time.UTC)
			start := s.resolve(date.Add(s.Start))
			if !start.Before(to) {
				break
			}
			if s.on(date, days) {
				add(start, DateOf(date))
			}
		}
	}
	slices.SortFunc(out, time.Time.Compare)
	return out
}

// on reports whether the schedule starts on a date.
func (s Schedule) on(date time.Time, days Calendar) bool {
	if len(s.Days)+len(s.Weekdays) == 0 || slices.Contains(s.Weekdays, date.Weekday()) {
		return true
	}
	if len(s.Days) == 0 {
		return false
	}
	kind := dayType(date, days)
	return slices.Contains(s.Days, kind) || kind == MakeUp && slices.Contains(s.Days, Workday)
}

// end is when a window that starts at start ends.
func (s Schedule) end(start time.Time) time.Time {
	whole := int(s.Duration / day)
	if whole == 0 {
		return start.Add(s.Duration)
	}
	l := start.In(s.zone())
	wall := time.Date(l.Year(), l.Month(), l.Day()+whole, l.Hour(), l.Minute(), l.Second(), l.Nanosecond(), time.UTC)
	return s.resolve(wall).Add(s.Duration % day)
}

// resolve returns the moment at which the clocks of the zone show wall, whose
// own location does not count.
func (s Schedule) resolve(wall time.Time) time.Time {
	zone := s.zone()
	at := func(probe time.Time) time.Time {
		_, offset := probe.In(zone).Zone()
		return wall.Add(-time.Duration(offset) * time.Second).In(zone)
	}
	shows := func(t time.Time) bool {
		_, offset := t.Zone()
		return t.Add(time.Duration(offset) * time.Second).Equal(wall)
	}
	before, after := at(wall.Add(-day)), at(wall.Add(day))
	if shows(before) || !shows(after) {
		return before
	}
	return after
}

func (s Schedule) zone() *time.Location {
	if s.Zone == nil {
		return time.UTC
	}
	return s.Zone
}

// dayType asks the calendar, or the week where there is none.
func dayType(date time.Time, days Calendar) DayType {
	if days != nil {
		return days.DayType(date)
	}
	if d := date.Weekday(); d == time.Saturday || d == time.Sunday {
		return Weekend
	}
	return Workday
}

// clock prints a moment for people.
func clock(t time.Time) string { return t.Format("Mon 15:04 MST") }
