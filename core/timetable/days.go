package timetable

import (
	"fmt"
	"time"

	"github.com/neap-dev/neap/core/elastic"
)

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
