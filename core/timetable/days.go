package timetable

import (
	"fmt"
	"time"
)

// A DayType says what kind of a day a date is.
type DayType string

// The kinds of days.
const (
	Workday DayType = "workday"
	Weekend DayType = "weekend"
	Holiday DayType = "holiday"
	MakeUp  DayType = "makeup" // a weekend day that is worked, in exchange for a holiday
)

// A Calendar tells what kind of a day the date of day is, in day's own location.
type Calendar interface {
	DayType(day time.Time) DayType
}

// A Date is a day of the calendar, wherever it is.
type Date struct {
	Year  int
	Month time.Month
	Day   int
}

// DateOf returns the date of the time in its own location.
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

// Days is a [Calendar] made of the days that differ from the week. The zero
// value has Saturday and Sunday for weekend and no holidays.
type Days struct {
	Named   map[Date]DayType
	Weekend []time.Weekday // nil means Saturday and Sunday
}

var _ Calendar = Days{}

// DayType implements [Calendar].
func (d Days) DayType(day time.Time) DayType {
	if kind, ok := d.Named[DateOf(day)]; ok {
		return kind
	}
	w := day.Weekday()
	if d.Weekend == nil {
		if w == time.Saturday || w == time.Sunday {
			return Weekend
		}
		return Workday
	}
	for _, end := range d.Weekend {
		if w == end {
			return Weekend
		}
	}
	return Workday
}
