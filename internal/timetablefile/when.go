package timetablefile

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/neap-dev/neap/core/timetable"
)

// A moment is what a text says about a time: maybe only a part of it.
type moment struct {
	instant time.Time // complete, with a zone; the rest is then unset

	year, month, day int // 0 where not given
	weekday          time.Weekday
	hasWeekday       bool
	clock            int // minutes from midnight, or -1
}

func (m moment) hasDate() bool { return m.month > 0 && m.day > 0 }

// weekdayWord and the patterns below find the parts of a time in a text. What is
// left of the text when they are taken out must be nothing.
var (
	weekdayWord  = regexp.MustCompile(`(?i)\b(?:mon(?:day)?|tue(?:s(?:day)?)?|wed(?:nesday|s)?|thu(?:rs?(?:day)?)?|fri(?:day)?|sat(?:urday)?|sun(?:day)?)\b\.?|(?:星期|周|礼拜)[一二三四五六日天]`)
	isoDate      = regexp.MustCompile(`\b(\d{4})\s*[-/.年]\s*(\d{1,2})\s*[-/.月]\s*(\d{1,2})(?:\s*日|T|\b)`)
	numericDate  = regexp.MustCompile(`\b(\d{1,2})[-/.](\d{1,2})[-/.](\d{4})\b`)
	dayMonth     = regexp.MustCompile(`(?i)\b(\d{1,2})(?:st|nd|rd|th)?[\s-]+(?:of\s+)?(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?(?:[\s,-]+(\d{4})\b)?`)
	monthDay     = regexp.MustCompile(`(?i)\b(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?\s+(\d{1,2})(?:st|nd|rd|th)?\b(?:[\s,]+(\d{4})\b)?`)
	chineseDate  = regexp.MustCompile(`(\d{1,2})\s*月\s*(\d{1,2})\s*[日号]`)
	ordinal      = regexp.MustCompile(`(?i)\b(\d{1,2})(?:st|nd|rd|th)\b`)
	clockTime    = regexp.MustCompile(`(?i)(上午|下午|晚上|早上)?\s*\b(\d{1,2})[:：.](\d{2})(?:[:：](\d{2}))?(?:\.\d+)?\s*(am|pm|a\.m\.|p\.m\.)?`)
	clockHour    = regexp.MustCompile(`(?i)\b(\d{1,2})\s*(am|pm)\b`)
	months       = []string{"jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"}
	zonedLayouts = []string{time.RFC3339, "2006-01-02 15:04:05Z07:00", "2006-01-02T15:04Z07:00", "2006-01-02 15:04:05 -0700"}
)

// parseMoment reads what a text says about a time.
func parseMoment(text string, opts Options) (moment, error) {
	m := moment{clock: -1}
	s := strings.TrimSpace(text)
	if len(s) > 100 {
		return m, errors.New("it is too long for a time")
	}
	for _, l := range zonedLayouts {
		if t, err := time.Parse(l, s); err == nil {
			m.instant = t.In(opts.zone())
			return m, nil
		}
	}
	if v, err := strconv.ParseFloat(s, 64); err == nil {
		return numericMoment(v)
	}
	fail := func() (moment, error) {
		return moment{clock: -1}, fmt.Errorf("%q is not a time that can be read", clip(text))
	}
	number := func(s string) int { n, _ := strconv.Atoi(s); return n }
	cut := func(p *regexp.Regexp) []string {
		at := p.FindStringSubmatchIndex(s)
		if at == nil {
			return nil
		}
		var groups []string
		for i := 0; i < len(at); i += 2 {
			if at[i] < 0 {
				groups = append(groups, "")
			} else {
				groups = append(groups, s[at[i]:at[i+1]])
			}
		}
		s = s[:at[0]] + " " + s[at[1]:]
		return groups
	}

	// 1. The date, in the first of the forms that is there.
	if g := cut(isoDate); g != nil {
		m.year, m.month, m.day = number(g[1]), number(g[2]), number(g[3])
	} else if g := cut(numericDate); g != nil {
		a, b := number(g[1]), number(g[2])
		switch m.year = number(g[3]); {
		case a > 12 || opts.DateOrder == "dmy" || a == b:
			m.day, m.month = a, b
		case b > 12 || opts.DateOrder == "mdy":
			m.month, m.day = a, b
		default:
			return m, fmt.Errorf("%q may be %d %s or %d %s: give --date-order dmy or mdy", clip(text), a, time.Month(b), b, time.Month(a))
		}
	} else if g := cut(dayMonth); g != nil {
		m.day, m.month, m.year = number(g[1]), 1+slices.Index(months, strings.ToLower(g[2])), number(g[3])
	} else if g := cut(monthDay); g != nil {
		m.month, m.day, m.year = 1+slices.Index(months, strings.ToLower(g[1])), number(g[2]), number(g[3])
	} else if g := cut(chineseDate); g != nil {
		m.month, m.day = number(g[1]), number(g[2])
	}

	// 2. The weekday and the time of day.
	if g := cut(weekdayWord); g != nil {
		m.hasWeekday, m.weekday = true, weekdayOf(g[0])
	}
	if g := cut(clockTime); g != nil {
		if m.clock = clockOf(number(g[2]), number(g[3]), g[1]+g[5]); m.clock < 0 {
			return fail()
		}
	} else if g := cut(clockHour); g != nil {
		if m.clock = clockOf(number(g[1]), 0, g[2]); m.clock < 0 {
			return fail()
		}
	}
	if m.month == 0 && m.day == 0 {
		if g := cut(ordinal); g != nil {
			m.day = number(g[1])
		}
	}
	if strings.Trim(s, " \t\n,;()（）") != "" || m == (moment{clock: -1}) {
		return fail()
	}
	if m.month > 12 || m.day > 31 || m.month > 0 && m.day < 1 {
		return fail()
	}
	return m, nil
}

// numericMoment reads a number: a time of Excel, a year, month and day in one,
// or Unix seconds.
func numericMoment(v float64) (moment, error) {
	m := moment{clock: -1}
	switch {
	case v >= 0 && v < 1: // a time of day
		m.clock = int(math.Round(v * 24 * 60))
		if m.clock >= 24*60 {
			m.clock = 0
		}
	case v >= 25569 && v < 110_000: // days since the end of 1899
		minutes := int(math.Round((v - 25569) * 24 * 60))
		t := time.Unix(int64(minutes)*60, 0).UTC()
		m.year, m.month, m.day = t.Year(), int(t.Month()), t.Day()
		if v != math.Floor(v) {
			m.clock = t.Hour()*60 + t.Minute()
		}
	case v >= 19700101 && v < 22000101 && v == math.Floor(v): // 20260302
		n := int(v)
		m.year, m.month, m.day = n/10000, n/100%100, n%100
		if m.month < 1 || m.month > 12 || m.day < 1 || m.day > 31 {
			return m, fmt.Errorf("%v is not a time that can be read", v)
		}
	case v >= 1e9 && v < 7.2e9:
		m.instant = time.Unix(int64(v), 0)
	default:
		return m, fmt.Errorf("%v is not a time that can be read", v)
	}
	return m, nil
}

func weekdayOf(word string) time.Weekday {
	for i, names := range []string{"sun日天", "mon一", "tue二", "wed三", "thu四", "fri五", "sat六"} {
		if len(word) >= 3 && strings.EqualFold(word[:3], names[:3]) {
			return time.Weekday(i)
		}
		for _, c := range names[3:] {
			if strings.HasSuffix(word, string(c)) {
				return time.Weekday(i)
			}
		}
	}
	return time.Sunday
}

// clockOf returns minutes from midnight, or -1.
func clockOf(hour, minute int, half string) int {
	half = strings.ToLower(strings.ReplaceAll(half, ".", ""))
	switch {
	case strings.Contains(half, "pm") || strings.Contains(half, "下午") || strings.Contains(half, "晚上"):
		if hour < 12 {
			hour += 12
		}
	case strings.Contains(half, "am"):
		if hour == 12 {
			hour = 0
		}
		if hour > 12 {
			return -1
		}
	}
	if hour > 24 || minute > 59 || hour == 24 && minute > 0 {
		return -1
	}
	return hour*60 + minute
}

// rangeMark stands between the ends of a range of times or dates.
var rangeMark = regexp.MustCompile(`\s*(?:[–—~～至到]|\s-\s|-|\bto\b|\buntil\b)\s*`)

// parseClocks reads a range of times of day such as 9:00 - 10:00. One time alone
// has the end -1.
func parseClocks(text string, opts Options) (start, end int, ok bool) {
	only := func(s string) int {
		m, err := parseMoment(s, opts)
		if err != nil || m.hasDate() || m.hasWeekday || m.day > 0 || !m.instant.IsZero() {
			return -1
		}
		return m.clock
	}
	if start = only(text); start >= 0 {
		return start, -1, true
	}
	for _, at := range rangeMark.FindAllStringIndex(text, 4) {
		a, b := only(text[:at[0]]), only(text[at[1]:])
		if a < 0 || b < 0 {
			continue
		}
		a, b = sameHalf(text[:at[0]], text[at[1]:], a, b)
		return a, b, true
	}
	return -1, -1, false
}

var (
	afternoon = regexp.MustCompile(`(?i)pm|p\.m\.|下午|晚上`)
	morning   = regexp.MustCompile(`(?i)am|a\.m\.|上午|早上`)
)

// sameHalf lets one end of a range say for both that they are after noon, as in
// 1:00 - 2:30 pm and 下午2:00至3:30.
func sameHalf(left, right string, a, b int) (int, int) {
	const half = 12 * 60
	marked := func(s string) bool { return afternoon.MatchString(s) || morning.MatchString(s) }
	switch {
	case afternoon.MatchString(left) && !marked(right) && b < half && b <= a:
		b += half
	case afternoon.MatchString(right) && !marked(left) && a < half && a+half < b:
		a += half
	}
	return a, b
}

// parseDates reads a range of dates such as 2 Nov - 6 Nov.
func parseDates(text string, opts Options) (from, to timetable.Date, ok bool) {
	for _, at := range rangeMark.FindAllStringIndex(text, 8) {
		a, err := parseMoment(text[:at[0]], opts)
		b, err2 := parseMoment(text[at[1]:], opts)
		if err2 == nil && b.hasDate() && b.year == 0 {
			b.year = opts.Year
		}
		if err == nil && a.month == 0 && a.day > 0 { // 2nd – 6th November
			a.month = b.month
		}
		if err == nil && a.year == 0 {
			a.year = b.year
		}
		if err != nil || err2 != nil || !a.hasDate() || !b.hasDate() {
			continue
		}
		from, to = timetable.Date{Year: a.year, Month: time.Month(a.month), Day: a.day}, timetable.Date{Year: b.year, Month: time.Month(b.month), Day: b.day}
		return from, to, a.year > 0 && !dayOf(to).Before(dayOf(from)) && dayOf(to).Sub(dayOf(from)) < 32*24*time.Hour
	}
	return from, to, false
}

func dayOf(d timetable.Date) time.Time {
	return time.Date(d.Year, d.Month, d.Day, 0, 0, 0, 0, time.UTC)
}

// date returns the date that m names. A weekday beside it must agree.
func (m moment) date(opts Options) (timetable.Date, error) {
	d := timetable.Date{Year: m.year, Month: time.Month(m.month), Day: m.day}
	if d.Year == 0 {
		d.Year = opts.Year
	}
	if d.Year == 0 {
		return d, fmt.Errorf("%d %s has no year: give --year", m.day, d.Month)
	}
	if t := dayOf(d); t.Day() != d.Day {
		return d, fmt.Errorf("there is no %d %s %d", d.Day, d.Month, d.Year)
	} else if m.hasWeekday && t.Weekday() != m.weekday {
		return d, fmt.Errorf("%d %s %d is a %s, not a %s", d.Day, d.Month, d.Year, t.Weekday(), m.weekday)
	}
	return d, nil
}

// midnight reads the end of a class at 00:00 as the end of the day.
func midnight(clock int) int {
	if clock == 0 {
		return 24 * 60
	}
	return clock
}

// on returns the time of day on the date. A time that the zone's clock skips is
// the one an hour later.
func on(d timetable.Date, clock int, opts Options) time.Time {
	return time.Date(d.Year, d.Month, d.Day, clock/60, clock%60, 0, 0, opts.zone())
}

var weekSpan = regexp.MustCompile(`(\d{1,2})(?:\s*[-–—~～至]\s*(\d{1,2}))?`)

// parseWeeks reads weeks of a term such as 1-8,10-16, 第1-15周(单) or odd 1-15.
func parseWeeks(text string) ([]int, error) {
	s := strings.ToLower(text)
	odd := strings.Contains(s, "单") || strings.Contains(s, "odd")
	even := strings.Contains(s, "双") || strings.Contains(s, "even")
	var out []int
	rest := s
	for _, g := range weekSpan.FindAllStringSubmatch(s, 64) {
		from, _ := strconv.Atoi(g[1])
		to := from
		if g[2] != "" {
			to, _ = strconv.Atoi(g[2])
		}
		if from < 1 || to < from || to > 60 {
			return nil, fmt.Errorf("weeks %q: weeks go from 1 to 60", clip(text))
		}
		for w := from; w <= to; w++ {
			if (!odd || w%2 == 1) && (!even || w%2 == 0) && !slices.Contains(out, w) {
				out = append(out, w)
			}
		}
		rest = strings.Replace(rest, g[0], "", 1)
	}
	for _, word := range []string{"第", "周", "单", "双", "odd", "even", "weeks", "week", "wk", ",", "，", "、", ";", "(", ")", "（", "）", "全", " "} {
		rest = strings.ReplaceAll(rest, word, "")
	}
	if len(out) == 0 || rest != "" {
		return nil, fmt.Errorf("weeks %q cannot be read; write such as 1-8,10-16", clip(text))
	}
	slices.Sort(out)
	return out, nil
}

// weekly returns the dates of the weekday in the weeks of the term.
func weekly(day time.Weekday, weeks string, opts Options) ([]timetable.Date, error) {
	if opts.TermStart == (timetable.Date{}) {
		return nil, fmt.Errorf("it names only the weekday: give --term-start, a day of week 1")
	}
	if weeks == "" {
		weeks = opts.Weeks
	}
	if weeks == "" {
		return nil, fmt.Errorf("it names only the weekday: give --weeks, such as 1-16")
	}
	numbers, err := parseWeeks(weeks)
	if err != nil {
		return nil, err
	}
	first := dayOf(opts.TermStart)
	first = first.AddDate(0, 0, -(int(first.Weekday())+6)%7) // its Monday
	var out []timetable.Date
	for _, w := range numbers {
		out = append(out, timetable.DateOf(first.AddDate(0, 0, 7*(w-1)+(int(day)+6)%7)))
	}
	return out, nil
}

var periodSpan = regexp.MustCompile(`^\s*第?\s*(\d{1,2})(?:\s*[-–—~～,，、至]\s*(\d{1,2}))?\s*节?\s*$`)

// parsePeriods reads periods of the day such as 1-2 or 第3节, as times of day.
func parsePeriods(text string, opts Options) (start, end int, err error) {
	g := periodSpan.FindStringSubmatch(text)
	if g == nil {
		return 0, 0, fmt.Errorf("periods %q cannot be read; write such as 1-2", clip(text))
	}
	from, _ := strconv.Atoi(g[1])
	to := from
	if g[2] != "" {
		to, _ = strconv.Atoi(g[2])
	}
	a, okA := opts.Periods[from]
	b, okB := opts.Periods[to]
	if !okA || !okB || b.End <= a.Start {
		return 0, 0, fmt.Errorf("periods %q: give --mapping with periods, when each begins and ends", clip(text))
	}
	return a.Start, b.End, nil
}
