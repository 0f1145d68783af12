package timetablefile

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/teambition/rrule-go"

	"github.com/neap-dev/neap/core/timetable"
)

// A property is one line of a calendar, unfolded.
type property struct {
	line   int
	name   string
	params map[string]string
	value  string
}

// An event is one VEVENT.
type event struct {
	line       int
	properties []property
}

// get returns the first property of the name.
func (e *event) get(name string) (property, bool) {
	for _, p := range e.properties {
		if p.name == name {
			return p, true
		}
	}
	return property{}, false
}

// text returns the value of the property as people read it.
func (e *event) text(name string) string {
	p, _ := e.get(name)
	return unescape.Replace(p.value)
}

var unescape = strings.NewReplacer(`\n`, "\n", `\N`, "\n", `\,`, ",", `\;`, ";", `\\`, `\`)

// components is what a calendar file holds.
type components struct {
	events    []event
	zones     map[string]string // TZID → the IANA name that its VTIMEZONE gives
	cancelled bool              // METHOD:CANCEL
}

// components takes a calendar apart. Lines that are none are problems.
func (r *reader) components(data []byte) (components, error) {
	out := components{zones: map[string]string{}}
	if !utf8.Valid(data) {
		return out, errors.New("it is not UTF-8, as a calendar must be")
	}
	var stack []string
	var current *event
	zone := ""
	began := false
	lines := strings.Split(strings.TrimPrefix(string(data), "\ufeff"), "\n")
	for i := 0; i < len(lines); i++ {
		number := i + 1
		var line strings.Builder
		line.WriteString(strings.TrimSuffix(lines[i], "\r"))
		for i+1 < len(lines) && (strings.HasPrefix(lines[i+1], " ") || strings.HasPrefix(lines[i+1], "\t")) {
			i++
			line.WriteString(strings.TrimSuffix(lines[i], "\r")[1:])
		}
		if strings.TrimSpace(line.String()) == "" {
			continue
		}
		p, ok := parseProperty(number, line.String())
		if !ok {
			r.problem(Problem{Row: number, Text: line.String()}, "it is no line of a calendar (NAME:value)")
			continue
		}
		switch {
		case p.name == "BEGIN":
			name := strings.ToUpper(strings.TrimSpace(p.value))
			began = began || name == "VCALENDAR"
			if len(stack) < 100 {
				stack = append(stack, name)
			}
			switch name {
			case "VEVENT":
				current = &event{line: number}
			case "VTIMEZONE":
				zone = ""
			}
		case p.name == "END":
			name := strings.ToUpper(strings.TrimSpace(p.value))
			if len(stack) > 0 && stack[len(stack)-1] == name {
				stack = stack[:len(stack)-1]
			}
			if name == "VEVENT" && current != nil {
				if len(out.events) >= maxSessions {
					return out, fmt.Errorf("more than %d events; export the term alone", maxSessions)
				}
				out.events = append(out.events, *current)
				current = nil
			}
		case current != nil && len(stack) > 0 && stack[len(stack)-1] == "VEVENT": // not of a VALARM within
			if len(current.properties) < 2000 {
				current.properties = append(current.properties, p)
			}
		case slices.Contains(stack, "VTIMEZONE") && p.name == "TZID":
			zone = p.value
		case slices.Contains(stack, "VTIMEZONE") && p.name == "X-LIC-LOCATION" && zone != "":
			out.zones[zone] = p.value
		case p.name == "METHOD":
			out.cancelled = strings.EqualFold(p.value, "CANCEL")
		}
	}
	if !began {
		return out, errors.New("it is no calendar: BEGIN:VCALENDAR is missing")
	}
	if current != nil {
		r.problem(Problem{Row: current.line, Text: "BEGIN:VEVENT"}, "the event does not end; the file is cut off")
	}
	return out, nil
}

// parseProperty reads NAME;PARAM=value;PARAM="value":value.
func parseProperty(number int, line string) (property, bool) {
	p := property{line: number}
	quoted := false
	var parts []string
	from := 0
	colon := -1
	for i := 0; i < len(line) && colon < 0; i++ {
		switch line[i] {
		case '"':
			quoted = !quoted
		case ';', ':':
			if quoted {
				continue
			}
			parts = append(parts, line[from:i])
			from = i + 1
			if line[i] == ':' {
				colon = i
			}
		}
	}
	if colon < 0 || strings.TrimSpace(parts[0]) == "" || strings.ContainsAny(parts[0], " \t\"") {
		return p, false
	}
	p.name, p.value = strings.ToUpper(parts[0]), line[colon+1:]
	for _, part := range parts[1:] {
		name, value, _ := strings.Cut(part, "=")
		if p.params == nil {
			p.params = map[string]string{}
		}
		p.params[strings.ToUpper(name)] = strings.Trim(value, `"`)
	}
	return p, true
}

// calendar reads the classes of an iCalendar file.
func (r *reader) calendar(data []byte) error {
	c, err := r.components(data)
	if err != nil {
		return err
	}
	if c.cancelled {
		return errors.New("it is a notice that events are cancelled (METHOD:CANCEL), not a timetable; export the whole calendar")
	}
	// An event stands under its UID; changes of single meetings stand beside it.
	type series struct {
		main    *event
		changes []*event
	}
	var order []string
	all := map[string]*series{}
	for i := range c.events {
		e := &c.events[i]
		uid := e.text("UID")
		if uid == "" {
			uid = fmt.Sprintf("\x00%d", e.line) // alone
		}
		s := all[uid]
		if s == nil {
			s = &series{}
			all[uid], order = s, append(order, uid)
		}
		_, change := e.get("RECURRENCE-ID")
		switch {
		case change:
			s.changes = append(s.changes, e)
		case s.main == nil || sequence(e) >= sequence(s.main):
			s.main = e
		}
	}
	for _, uid := range order {
		s := all[uid]
		slices.SortStableFunc(s.changes, func(a, b *event) int { return cmp.Compare(sequence(a), sequence(b)) })
		r.series(strings.Trim(uid, "\x00"), s.main, s.changes, c.zones, strings.HasPrefix(uid, "\x00"))
	}
	return nil
}

func sequence(e *event) int {
	n, _ := strconv.Atoi(e.text("SEQUENCE"))
	return n
}

// series reads one event with all its meetings.
func (r *reader) series(uid string, main *event, changes []*event, zones map[string]string, anonymous bool) {
	moved := map[int64]bool{} // meetings that a change stands for, by their first start
	id := func(at *time.Time) string {
		switch {
		case anonymous:
			return ""
		case at == nil:
			return identity(uid)
		}
		return identity(uid + "/" + at.UTC().Format("20060102T1504"))
	}
	for _, e := range changes {
		p, _ := e.get("RECURRENCE-ID")
		was, _, err := r.when(p, p.value, zones)
		if err != nil {
			r.problem(Problem{Row: p.line, Text: p.value}, "RECURRENCE-ID: %v", err)
			continue
		}
		if p.params["RANGE"] != "" {
			r.note(Problem{Row: p.line, Text: e.text("SUMMARY")}, "the change is for this meeting and those after it (RANGE=%s); only this one is changed", p.params["RANGE"])
		}
		moved[was.Unix()] = true
		if class, _, ok := r.event(e, zones); ok {
			class.ID = id(&was)
			r.session(class, Problem{Row: e.line, Text: class.Course})
		}
	}
	if main == nil {
		return
	}
	class, start, ok := r.event(main, zones)
	if !ok {
		return
	}
	length := class.End.Sub(class.Start)
	starts, recurring := r.repeats(main, start, zones)
	for _, at := range starts {
		if moved[at.Unix()] {
			continue
		}
		one := class
		one.Start, one.End = at, at.Add(length)
		if one.ID = id(nil); recurring {
			one.ID = id(&at)
		}
		r.session(one, Problem{Row: main.line, Text: class.Course})
	}
}

// identity keeps an ID within what an object may hold.
func identity(s string) string {
	if s = strings.Join(strings.Fields(strings.ToValidUTF8(s, "")), " "); len(s) <= 128 {
		return s
	}
	sum := sha256.Sum256([]byte(s))
	return strings.ToValidUTF8(s[:90], "") + hex.EncodeToString(sum[:12])
}

var (
	enrolledLine = regexp.MustCompile(`(?im)^\s*(?:enrolled|enrolment|enrollment|students|class size|size|人数|选课人数)\s*[:：=]\s*([\d,]+)\s*$`)
	modulesLine  = regexp.MustCompile(`(?im)^\s*(?:modules|needs|模块)\s*[:：]\s*(.+?)\s*$`)
)

// event reads what an event says of each of its meetings, and when the first
// begins. It reports false, and has said why, if that is no class.
func (r *reader) event(e *event, zones map[string]string) (timetable.Session, time.Time, bool) {
	course := strings.TrimSpace(e.text("SUMMARY"))
	place := Problem{Row: e.line, Text: course}
	bad := func(format string, args ...any) (timetable.Session, time.Time, bool) {
		r.problem(place, format, args...)
		return timetable.Session{}, time.Time{}, false
	}
	if strings.EqualFold(strings.TrimSpace(e.text("STATUS")), "CANCELLED") {
		r.note(place, "the event is cancelled: no class")
		return timetable.Session{}, time.Time{}, false
	}
	if course == "" {
		return bad("the event has no SUMMARY: a class needs the name of its course")
	}
	p, ok := e.get("DTSTART")
	if !ok {
		return bad("the event has no DTSTART")
	}
	start, whole, err := r.when(p, p.value, zones)
	if err != nil {
		return bad("DTSTART: %v", err)
	}
	if whole {
		return bad("it lasts whole days: a class needs a time of day")
	}
	class := timetable.Session{Course: course, Room: e.text("LOCATION"), Start: start}
	if p, ok := e.get("DTEND"); ok {
		end, whole, err := r.when(p, p.value, zones)
		if err != nil || whole {
			return bad("DTEND %q cannot be read", clip(p.value))
		}
		class.End = end
	} else if p, ok := e.get("DURATION"); ok {
		d, ok := parseDuration(p.value)
		if !ok {
			return bad("DURATION %q is no length of a class such as PT50M", clip(p.value))
		}
		class.End = start.Add(d)
	} else {
		class.End = start.Add(time.Duration(r.opts.minutes()) * time.Minute)
		r.note(place, "the event does not say when it ends; it is taken to last %d minutes", r.opts.minutes())
	}

	about := e.text("DESCRIPTION")
	enrolled := strings.TrimSpace(e.text("X-NEAP-ENROLLED"))
	if m := enrolledLine.FindStringSubmatch(about); enrolled == "" && m != nil {
		enrolled = m[1]
	}
	n, err := people(enrolled)
	if err != nil {
		return bad("enrolled: %v", err)
	}
	if n < 0 {
		r.note(place, "how many are enrolled is not known, so it raises no floor; write X-NEAP-ENROLLED:160, or a line \"enrolled: 160\" in its description")
	}
	class.Enrolled = max(n, 0)
	modules := e.text("X-NEAP-MODULES")
	if m := modulesLine.FindStringSubmatch(about); modules == "" && m != nil {
		modules = m[1]
	}
	if class.Modules, err = needs(modules); err != nil {
		return bad("%v", err)
	}
	return class, start, true
}

var durationForm = regexp.MustCompile(`^\+?P(?:(\d{1,2})W)?(?:(\d{1,2})D)?(?:T(?:(\d{1,3})H)?(?:(\d{1,4})M)?(?:(\d{1,5})S)?)?$`)

// parseDuration reads a length such as PT1H30M.
func parseDuration(s string) (time.Duration, bool) {
	m := durationForm.FindStringSubmatch(strings.TrimSpace(s))
	if m == nil {
		return 0, false
	}
	var d time.Duration
	for i, unit := range []time.Duration{7 * 24 * time.Hour, 24 * time.Hour, time.Hour, time.Minute, time.Second} {
		n, _ := strconv.Atoi(m[i+1])
		d += time.Duration(n) * unit
	}
	return d, d > 0
}

// when reads a time, and whether it is a whole day.
func (r *reader) when(p property, value string, zones map[string]string) (time.Time, bool, error) {
	value = strings.TrimSpace(value)
	bad := fmt.Errorf("%q is no time such as 20260302T090000", clip(value))
	if len(value) == 8 {
		t, err := time.ParseInLocation("20060102", value, r.opts.zone())
		if err != nil {
			return t, true, bad
		}
		return t, true, nil
	}
	if u, ok := strings.CutSuffix(value, "Z"); ok {
		t, err := time.Parse("20060102T150405", u)
		if err != nil {
			return t, false, bad
		}
		return t.In(r.opts.zone()), false, nil
	}
	zone := r.opts.zone()
	if name := p.params["TZID"]; name != "" {
		var err error
		if zone, err = r.zone(name, zones); err != nil {
			return time.Time{}, false, err
		}
	}
	t, err := time.ParseInLocation("20060102T150405", value, zone)
	if err != nil {
		return t, false, bad
	}
	return t, false, nil
}

// zone finds the zone that a file names: as IANA does, as its own VTIMEZONE
// explains it, or as Windows does.
func (r *reader) zone(name string, zones map[string]string) (*time.Location, error) {
	name = strings.Trim(name, `"`)
	candidates := []string{r.opts.Zones[name], name, zones[name], windowsZones[name]}
	// /freeassociation.sourceforge.net/Tzfile/Europe/Dublin and the like.
	if parts := strings.Split(name, "/"); len(parts) > 2 {
		candidates = append(candidates, strings.Join(parts[len(parts)-2:], "/"))
	}
	for _, c := range candidates {
		if c == "" || strings.EqualFold(c, "local") {
			continue
		}
		if z, err := time.LoadLocation(c); err == nil {
			return z, nil
		}
	}
	return nil, fmt.Errorf("the zone %q is not known; give --mapping with zones, which IANA zone it is", clip(name))
}

// windowsZones are the names that Outlook writes, of the zones most schools are in.
var windowsZones = map[string]string{
	"GMT Standard Time": "Europe/London", "Greenwich Standard Time": "Atlantic/Reykjavik", "UTC": "UTC",
	"W. Europe Standard Time": "Europe/Berlin", "Central Europe Standard Time": "Europe/Budapest",
	"Central European Standard Time": "Europe/Warsaw", "Romance Standard Time": "Europe/Paris",
	"E. Europe Standard Time": "Europe/Chisinau", "GTB Standard Time": "Europe/Athens", "FLE Standard Time": "Europe/Helsinki",
	"Turkey Standard Time": "Europe/Istanbul", "Russian Standard Time": "Europe/Moscow", "Israel Standard Time": "Asia/Jerusalem",
	"Egypt Standard Time": "Africa/Cairo", "South Africa Standard Time": "Africa/Johannesburg",
	"Arabian Standard Time": "Asia/Dubai", "Arab Standard Time": "Asia/Riyadh", "Pakistan Standard Time": "Asia/Karachi",
	"India Standard Time": "Asia/Kolkata", "Bangladesh Standard Time": "Asia/Dhaka", "SE Asia Standard Time": "Asia/Bangkok",
	"China Standard Time": "Asia/Shanghai", "Singapore Standard Time": "Asia/Singapore", "Taipei Standard Time": "Asia/Taipei",
	"Tokyo Standard Time": "Asia/Tokyo", "Korea Standard Time": "Asia/Seoul", "W. Australia Standard Time": "Australia/Perth",
	"Cen. Australia Standard Time": "Australia/Adelaide", "E. Australia Standard Time": "Australia/Brisbane",
	"AUS Eastern Standard Time": "Australia/Sydney", "New Zealand Standard Time": "Pacific/Auckland",
	"Hawaiian Standard Time": "Pacific/Honolulu", "Alaskan Standard Time": "America/Anchorage",
	"Pacific Standard Time": "America/Los_Angeles", "Mountain Standard Time": "America/Denver", "US Mountain Standard Time": "America/Phoenix",
	"Central Standard Time": "America/Chicago", "Eastern Standard Time": "America/New_York", "Atlantic Standard Time": "America/Halifax",
	"SA Pacific Standard Time": "America/Bogota", "E. South America Standard Time": "America/Sao_Paulo",
	"Argentina Standard Time": "America/Buenos_Aires", "Central Standard Time (Mexico)": "America/Mexico_City",
}

// repeats returns when the meetings of an event begin, in order, and whether it
// recurs at all.
func (r *reader) repeats(e *event, start time.Time, zones map[string]string) (starts []time.Time, recurring bool) {
	starts = []time.Time{start}
	for _, p := range e.properties {
		switch p.name {
		case "RRULE":
			more, err := r.rule(e, p, start)
			if err != nil {
				r.problem(Problem{Row: p.line, Text: p.value}, "RRULE: %v; only its first meeting is read", err)
			}
			starts, recurring = append(starts, more...), true
		case "RDATE":
			recurring = true
			for value := range strings.SplitSeq(p.value, ",") {
				value, _, _ = strings.Cut(value, "/") // a period
				at, whole, err := r.when(p, value, zones)
				if err != nil || whole {
					r.problem(Problem{Row: p.line, Text: value}, "RDATE: it is no time such as 20260302T090000")
					continue
				}
				starts = append(starts, at)
			}
		}
	}
	slices.SortFunc(starts, time.Time.Compare)
	starts = slices.CompactFunc(starts, time.Time.Equal)
	for _, p := range e.properties {
		if p.name != "EXDATE" {
			continue
		}
		for value := range strings.SplitSeq(p.value, ",") {
			at, whole, err := r.when(p, value, zones)
			if err != nil {
				r.problem(Problem{Row: p.line, Text: value}, "EXDATE: %v", err)
				continue
			}
			before := len(starts)
			starts = slices.DeleteFunc(starts, func(s time.Time) bool {
				return s.Equal(at) || whole && timetable.DateOf(s.In(start.Location())) == timetable.DateOf(at)
			})
			if len(starts) == before {
				r.note(Problem{Row: p.line, Text: value}, "EXDATE: there is no meeting then; nothing is taken out")
			}
		}
	}
	if len(starts) > maxRepeats {
		r.problem(Problem{Row: e.line, Text: e.text("SUMMARY")}, "it meets more than %d times; only the first %d are read", maxRepeats, maxRepeats)
		starts = starts[:maxRepeats]
	}
	return starts, recurring
}

// rule expands a recurrence, no further than its bounds.
func (r *reader) rule(e *event, p property, start time.Time) ([]time.Time, error) {
	if len(p.value) > 500 {
		return nil, errors.New("it is longer than 500 bytes")
	}
	if start.Year() < 1970 || start.Year() > 2200 {
		return nil, fmt.Errorf("it begins in the year %d", start.Year())
	}
	o, err := rrule.StrToROptionInLocation(p.value, start.Location())
	if err != nil {
		return nil, fmt.Errorf("it cannot be read: %w", err)
	}
	if o.Freq == rrule.SECONDLY || o.Freq == rrule.MINUTELY || o.Freq == rrule.HOURLY {
		return nil, errors.New("a class that repeats within the day cannot be read")
	}
	if len(o.Byhour)+len(o.Byminute)+len(o.Bysecond) > 24 || o.Interval > 1000 {
		return nil, errors.New("it asks for too much")
	}
	last := r.opts.Until
	if last.IsZero() {
		last = start.AddDate(1, 0, 0)
	}
	if o.Count == 0 && (o.Until.IsZero() || o.Until.After(last)) {
		if o.Until.IsZero() {
			r.note(Problem{Row: p.line, Text: e.text("SUMMARY")}, "it repeats without an end; read until %s", last.Format(time.DateOnly))
		} else {
			r.note(Problem{Row: p.line, Text: e.text("SUMMARY")}, "it repeats until %s; read until %s", o.Until.Format(time.DateOnly), last.Format(time.DateOnly))
		}
		o.Until = last
	}
	if o.Count > 0 && o.Until.IsZero() {
		o.Until = start.AddDate(20, 0, 0) // COUNT ends it; this bounds rules that never meet
	}
	o.Dtstart = start
	rule, err := rrule.NewRRule(*o)
	if err != nil {
		return nil, fmt.Errorf("it cannot be read: %w", err)
	}
	var out []time.Time
	for next := rule.Iterator(); len(out) <= maxRepeats; {
		at, ok := next()
		if !ok {
			break
		}
		out = append(out, at)
	}
	return out, nil
}
