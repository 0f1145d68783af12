package timetablefile

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/neap-dev/neap/core/timetable"
)

// fields are the columns that a list may have, with the headers by which they
// are known, in small letters without spaces and marks.
var fields = map[string][]string{
	"course": {"course", "module", "subject", "class", "title", "summary", "unit", "coursename", "coursecode", "moduleid", "modulecode", "event",
		"课程", "课程名称", "课程名", "课程代码", "科目", "课名", "班级课程"},
	"room": {"room", "location", "venue", "classroom", "where", "place", "教室", "地点", "上课地点", "场地", "上课教室"},
	"date": {"date", "startdate", "日期", "上课日期"},
	"start": {"start", "starts", "begin", "begins", "from", "starttime", "begintime", "time", "datetime", "dtstart", "when",
		"开始", "开始时间", "上课时间", "起始时间", "时间"},
	"end":     {"end", "ends", "to", "until", "finish", "endtime", "finishtime", "dtend", "结束", "结束时间", "下课时间"},
	"minutes": {"minutes", "duration", "length", "min", "mins", "durationminutes", "时长", "分钟", "时长分钟"},
	"weekday": {"weekday", "day", "days", "dayofweek", "星期", "周几", "上课星期"},
	"weeks":   {"weeks", "week", "teachingweeks", "weekpattern", "周次", "教学周", "上课周次", "起止周"},
	"periods": {"periods", "period", "slot", "节次", "上课节次"},
	"enrolled": {"enrolled", "size", "students", "registered", "enrolment", "enrollment", "headcount", "seats", "noofregisteredstudents",
		"numberofstudents", "studentsregistered", "classsize", "人数", "选课人数", "学生人数", "上课人数", "班级人数"},
	"modules": {"modules", "needs", "services", "workloads", "模块", "服务", "所需模块"},
	"status":  {"status", "state", "状态"},
	"id":      {"id", "uid", "sessionid", "编号", "课次编号"},
}

var exampleHeader = []string{"course", "room", "start", "end", "enrolled", "modules"}

func fieldNames() []string { return slices.Sorted(maps.Keys(fields)) }

// plain drops all but letters and digits, and makes letters small.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsDigit(r) {
			return unicode.ToLower(r)
		}
		return -1
	}, s)
}

// fieldOf returns the field that a header names, or "".
func (r *reader) fieldOf(header string) string {
	for h, field := range r.opts.Columns {
		if plain(h) == plain(header) {
			return field
		}
	}
	p := plain(header)
	for _, field := range fieldNames() {
		if slices.Contains(fields[field], p) {
			return field
		}
	}
	// 开始时间(北京时间), Start (local): what stands in brackets is a remark.
	if i := strings.IndexAny(header, "(（["); i > 0 {
		return r.fieldOf(header[:i])
	}
	return ""
}

// header finds the row that names the columns, among the first thirty.
func (r *reader) header(t *table) (index int, columns map[string]int) {
	for i := range min(len(t.rows), 30) {
		columns = map[string]int{}
		for c := range t.rows[i].cells {
			text := t.rows[i].cell(c)
			if len(text) > 60 {
				continue
			}
			field := r.fieldOf(text)
			if field == "" {
				continue
			}
			// Where there is a course, a column called module names what the class needs.
			if before, twice := columns[field]; twice && field == "course" {
				switch {
				case plain(text) == "module":
					field = "modules"
				case plain(t.rows[i].cell(before)) == "module":
					columns["modules"] = before
				default:
					continue
				}
			} else if twice {
				continue
			}
			columns[field] = c
		}
		_, course := columns["course"]
		when := false
		for _, f := range []string{"start", "date", "weekday", "periods"} {
			if _, ok := columns[f]; ok {
				when = true
			}
		}
		if course && when && len(columns) >= 2 {
			return i, columns
		}
	}
	return -1, nil
}

// list reads a table of one class a row. It reports false if no row names the
// columns of one.
func (r *reader) list(t *table) bool {
	first, columns := r.header(t)
	if first < 0 {
		return false
	}
	_, end := columns["end"]
	_, minutes := columns["minutes"]
	_, periods := columns["periods"]
	guessed := 0
	for _, w := range t.rows[first+1:] {
		if !w.empty() && r.listed(t, w, columns) {
			guessed++
		}
	}
	if guessed > 0 && !end && !minutes && !periods {
		r.note(t.at(t.rows[first].number, -1, ""), "no column says when a class ends; %d are taken to last %d minutes", guessed, r.opts.minutes())
	}
	if _, ok := columns["enrolled"]; !ok {
		r.note(t.at(t.rows[first].number, -1, ""), "no column says how many are enrolled; without that a class raises no floor")
	}
	return true
}

// nothing holds what people write where there is nothing.
var nothing = []string{"", "none", "na", "nil", "null", "tbc", "tba", "无", "空", "没有", "待定"}

// noClass holds what people write where there is no class.
var noClass = append([]string{"noclass", "noclasstimetabled", "free", "empty", "无课", "没课"}, nothing...)

// listed reads one row, and reports whether the length of its classes was a guess.
func (r *reader) listed(t *table, w row, columns map[string]int) (guessed bool) {
	get := func(field string) string {
		if c, ok := columns[field]; ok {
			return w.cell(c)
		}
		return ""
	}
	place := func(field string) Problem { return t.at(w.number, columnOf(columns, field), get(field)) }
	fail := func(field string, err error) { r.problem(place(field), "%v", err) }

	// 1. When: dates, and the time of day.
	start := moment{clock: -1}
	endClock := -1
	var err error
	whenField := "start"
	if text := get("start"); text != "" {
		if a, b, ok := parseClocks(text, r.opts); ok {
			start.clock, endClock = a, b
		} else if start, err = parseMoment(text, r.opts); err != nil {
			a, b, ok := splitRange(text, r.opts)
			if !ok {
				fail("start", err)
				return false
			}
			start, endClock = a, b
		}
	}
	for _, field := range []string{"date", "weekday"} {
		text := get(field)
		if text == "" || !start.instant.IsZero() {
			continue
		}
		m, err := parseMoment(text, r.opts)
		if err != nil && field == "weekday" {
			if n, e := strconv.Atoi(text); e == nil && n >= 1 && n <= 7 {
				m, err = moment{clock: -1, hasWeekday: true, weekday: time.Weekday(n % 7)}, nil
			}
		}
		if err != nil {
			fail(field, err)
			return false
		}
		if m.hasDate() {
			start.year, start.month, start.day = m.year, m.month, m.day
			whenField = field
		}
		if m.hasWeekday {
			start.hasWeekday, start.weekday = true, m.weekday
			if !start.hasDate() {
				whenField = field
			}
		}
		if start.clock < 0 {
			start.clock = m.clock
		}
	}
	if text := get("periods"); text != "" && start.clock < 0 {
		if start.clock, endClock, err = parsePeriods(text, r.opts); err != nil {
			fail("periods", err)
			return false
		}
	}
	var starts []time.Time
	switch {
	case !start.instant.IsZero():
		starts = []time.Time{start.instant.In(r.opts.zone())}
	case start.clock < 0:
		fail(whenField, fmt.Errorf("it has no time of day"))
		return false
	case start.hasDate():
		d, err := start.date(r.opts)
		if err != nil {
			fail(whenField, err)
			return false
		}
		starts = []time.Time{on(d, start.clock, r.opts)}
	case start.hasWeekday:
		days, err := weekly(start.weekday, get("weeks"), r.opts)
		if err != nil {
			fail(whenField, err)
			return false
		}
		for _, d := range days {
			starts = append(starts, on(d, start.clock, r.opts))
		}
	default:
		fail(whenField, fmt.Errorf("it has no date"))
		return false
	}

	// 2. What: an entry without a class is none.
	course := get("course")
	if slices.Contains(noClass, plain(course)) {
		r.out.Free++
		return false
	}
	if s := plain(get("status")); strings.Contains(s, "cancel") || strings.Contains(s, "取消") || strings.Contains(s, "停课") {
		r.note(place("status"), "%s is cancelled: no class", clip(course))
		return false
	}
	class := timetable.Session{ID: get("id"), Course: course, Room: get("room")}
	if len(class.ID) > 100 {
		fail("id", fmt.Errorf("it is longer than 100 bytes"))
		return false
	}
	if class.Enrolled, err = people(get("enrolled")); err != nil {
		fail("enrolled", err)
		return false
	}
	if class.Enrolled < 0 {
		if _, ok := columns["enrolled"]; ok {
			r.note(place("enrolled"), "%s at %s: how many are enrolled is not known, so it raises no floor", clip(course), starts[0].Format("2006-01-02 15:04"))
		}
		class.Enrolled = 0
	}
	if class.Modules, err = needs(get("modules")); err != nil {
		fail("modules", err)
		return false
	}

	// 3. How long.
	length := time.Duration(0)
	var until time.Time
	if text := get("minutes"); text != "" {
		if length, err = duration(text); err != nil {
			fail("minutes", err)
			return false
		}
	} else if text := get("end"); text != "" {
		m, err := parseMoment(text, r.opts)
		switch {
		case err != nil:
			fail("end", err)
			return false
		case !m.instant.IsZero():
			until = m.instant.In(r.opts.zone())
		case m.clock < 0:
			fail("end", fmt.Errorf("it has no time of day"))
			return false
		case m.hasDate():
			d, err := m.date(r.opts)
			if err != nil {
				fail("end", err)
				return false
			}
			until = on(d, m.clock, r.opts)
		default:
			endClock = m.clock
		}
	}
	for n, s := range starts {
		class.Start = s
		switch {
		case length > 0:
			class.End = s.Add(length)
		case !until.IsZero():
			class.End = until
		case endClock >= 0:
			class.End = on(timetable.DateOf(s), midnight(endClock), r.opts)
		default:
			class.End = s.Add(time.Duration(r.opts.minutes()) * time.Minute)
			guessed = true
		}
		one := class
		if one.ID != "" && len(starts) > 1 {
			one.ID = fmt.Sprintf("%s-%d", class.ID, n+1)
		}
		r.session(one, place("course"))
	}
	return guessed
}

func columnOf(columns map[string]int, field string) int {
	if c, ok := columns[field]; ok {
		return c
	}
	return -1
}

// splitRange reads a date with a range of times, such as 2026-03-02 9:00-10:30.
func splitRange(text string, opts Options) (moment, int, bool) {
	for _, at := range rangeMark.FindAllStringIndex(text, 8) {
		m, err := parseMoment(text[:at[0]], opts)
		end, err2 := parseMoment(text[at[1]:], opts)
		if err == nil && err2 == nil && m.clock >= 0 && end.clock >= 0 && !end.hasDate() {
			m.clock, end.clock = sameHalf(text[:at[0]], text[at[1]:], m.clock, end.clock)
			return m, end.clock, true
		}
	}
	return moment{clock: -1}, -1, false
}

// people reads a number of people; -1 if it is not known.
func people(text string) (int, error) {
	if slices.Contains(nothing, plain(text)) {
		return -1, nil
	}
	s := strings.TrimSpace(text)
	for _, unit := range []string{"人", "名", "students", "enrolled", "people"} {
		s = strings.TrimSpace(strings.TrimSuffix(s, unit))
	}
	v, err := strconv.ParseFloat(strings.ReplaceAll(s, ",", ""), 64)
	if err != nil || v != float64(int(v)) {
		return 0, fmt.Errorf("%q is no number of people", clip(text))
	}
	if v < 0 || v > 10_000_000 {
		return 0, fmt.Errorf("%q people: at least 0 and at most 10 million", clip(text))
	}
	return int(v), nil
}

// needs reads modules such as chat;video=2.
func needs(text string) ([]timetable.Need, error) {
	var out []timetable.Need
	for _, part := range strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(";,，、+ |", r) }) {
		n, err := timetable.ParseNeed(part)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(out, func(o timetable.Need) bool { return o.Module == n.Module }) {
			return nil, fmt.Errorf("module %s stands there twice", n.Module)
		}
		out = append(out, n)
	}
	if len(out) > 64 {
		return nil, fmt.Errorf("%d modules; at most 64", len(out))
	}
	return out, nil
}

// duration reads minutes such as 90, or a length such as 1h30m or 1:30.
func duration(text string) (time.Duration, error) {
	s := strings.TrimSpace(text)
	d, err := time.ParseDuration(s)
	if v, e := strconv.ParseFloat(s, 64); e == nil && v >= 0 && v <= 24*60 {
		d, err = time.Duration(v*float64(time.Minute)), nil
		if v > 0 && v < 1 { // a time of Excel
			d = time.Duration(v * 24 * float64(time.Hour)).Round(time.Minute)
		}
	} else if h, m, ok := strings.Cut(s, ":"); ok {
		hours, e1 := strconv.Atoi(h)
		minutes, e2 := strconv.Atoi(m)
		if e1 == nil && e2 == nil && hours >= 0 && hours <= 24 && minutes >= 0 && minutes < 60 {
			d, err = time.Duration(hours*60+minutes)*time.Minute, nil
		}
	}
	if err != nil || d < time.Minute || d > 24*time.Hour {
		return 0, fmt.Errorf("%q is no length of a class such as 90 or 1h30m", clip(text))
	}
	return d, nil
}
