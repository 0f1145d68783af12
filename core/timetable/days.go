package timetable

import (
	"time"

	"github.com/neap-dev/neap/core/elastic"
)

// A Date is a day of the calendar.
type Date = elastic.Date

// DateOf returns the date of the time in its own location.
func DateOf(t time.Time) Date { return elastic.DateOf(t) }

// ParseDate reads a date such as 2026-10-01.
func ParseDate(s string) (Date, error) { return elastic.ParseDate(s) }

// Days is a calendar made of the days that differ from the week. The zero value
// has Saturday and Sunday for weekend and no holidays.
type Days struct {
	Named map[Date]elastic.DayType
}

var _ elastic.Calendar = Days{}

// DayType implements [elastic.Calendar].
func (d Days) DayType(t time.Time) elastic.DayType {
	if kind, ok := d.Named[DateOf(t)]; ok {
		return kind
	}
	if w := t.Weekday(); w == time.Saturday || w == time.Sunday {
		return elastic.Weekend
	}
	return elastic.Workday
}
