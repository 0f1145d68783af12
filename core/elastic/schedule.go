package elastic

import "time"

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

// At says what the schedule wants at t. ok is false outside of its windows.
func (s Schedule) At(t time.Time, days Calendar) (c Claim, ok bool) { return Claim{}, false }

// Next returns when the first window after t begins, if one does before limit.
func (s Schedule) Next(t, limit time.Time, days Calendar) (time.Time, bool) {
	return time.Time{}, false
}
