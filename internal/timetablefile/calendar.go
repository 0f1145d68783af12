package timetablefile

import (
	"bytes"
	"cmp"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/neap-dev/neap/core/elastic"
	"github.com/neap-dev/neap/core/timetable"
)

// A Day is a day that is not what its weekday says.
type Day struct {
	Date timetable.Date
	Kind elastic.DayType // Holiday or MakeUp
	Name string
}

// maxDays is how many days a calendar may name.
const maxDays = 2000

// ReadCalendar reads a calendar of holidays: .json as holiday-cn writes it
// ({"days": [{"name", "date", "isOffDay"}]}), .ics with one event for each
// holiday or make-up day, or .csv with the columns date, kind and name. Days come
// in order, each once. An error means that nothing could be read.
func ReadCalendar(name string, data []byte, opts Options) ([]Day, []Problem, error) {
	if len(data) > MaxBytes {
		return nil, nil, fmt.Errorf("%s: %d bytes are more than the %d MiB that a calendar may have", path.Base(name), len(data), MaxBytes>>20)
	}
	r := &reader{opts: opts, seen: map[string]string{}}
	var days []Day
	var err error
	switch strings.ToLower(path.Ext(name)) {
	case ".json":
		days, err = r.holidayJSON(data)
	case ".ics", ".ical":
		days, err = r.holidayEvents(data)
	case ".csv":
		days, err = r.holidayList(data)
	default:
		err = errors.New("what it is cannot be told from its name; it must end in .json, .ics or .csv")
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path.Base(name), err)
	}
	// A day that is worked to make up for a holiday lies beside one, not within:
	// where a file names it twice, that it is worked is the exception.
	slices.SortStableFunc(days, func(a, b Day) int {
		return cmp.Or(dayOf(a.Date).Compare(dayOf(b.Date)), -strings.Compare(string(a.Kind), string(b.Kind)))
	})
	days = slices.CompactFunc(days, func(a, b Day) bool { return a.Date == b.Date })
	if len(days) > maxDays {
		return nil, nil, fmt.Errorf("%s: it names %d days; at most %d", path.Base(name), len(days), maxDays)
	}
	return days, r.out.Problems, nil
}

func (r *reader) holidayJSON(data []byte) ([]Day, error) {
	var file struct {
		Days []struct {
			Name     string `json:"name"`
			Date     string `json:"date"`
			IsOffDay *bool  `json:"isOffDay"`
		} `json:"days"`
	}
	if err := json.Unmarshal(data, &file); err != nil {
		return nil, fmt.Errorf("it is no JSON of the form {\"days\": [{\"date\": \"2026-10-01\", \"isOffDay\": true}]}: %w", err)
	}
	if len(file.Days) == 0 {
		return nil, errors.New("it names no days")
	}
	var out []Day
	for i, d := range file.Days {
		date, err := timetable.ParseDate(d.Date)
		if err != nil || d.IsOffDay == nil || date.Year < 1970 || date.Year > 2200 {
			r.problem(Problem{Row: i + 1, Text: d.Date + " " + d.Name}, "day %d needs a date such as 2026-10-01 and isOffDay", i+1)
			continue
		}
		kind := elastic.MakeUp
		if *d.IsOffDay {
			kind = elastic.Holiday
		}
		out = append(out, Day{date, kind, clip(d.Name)})
	}
	return out, nil
}

// working are the words by which an event says that its day is worked.
var working = []string{"上班", "补班", "调休上班", "班", "make-up", "makeup", "make up", "working day", "workday"}

func (r *reader) holidayEvents(data []byte) ([]Day, error) {
	c, err := r.components(data)
	if err != nil {
		return nil, err
	}
	var out []Day
	for i := range c.events {
		e := &c.events[i]
		name := clip(e.text("SUMMARY"))
		place := Problem{Row: e.line, Text: name}
		if strings.EqualFold(e.text("STATUS"), "CANCELLED") {
			continue
		}
		p, _ := e.get("DTSTART")
		from, _, err := r.when(p, p.value, c.zones)
		if err != nil {
			r.problem(place, "DTSTART: %v", err)
			continue
		}
		to := from.AddDate(0, 0, 1)
		if p, ok := e.get("DTEND"); ok {
			if to, _, err = r.when(p, p.value, c.zones); err != nil {
				r.problem(place, "DTEND: %v", err)
				continue
			}
		} else if p, ok := e.get("DURATION"); ok {
			if d, ok := parseDuration(p.value); ok {
				to = from.Add(d)
			}
		}
		if _, ok := e.get("RRULE"); ok {
			r.problem(place, "a holiday that repeats by a rule is read in its first year only")
		}
		kind := elastic.Holiday
		lower := strings.ToLower(name)
		if slices.ContainsFunc(working, func(w string) bool { return strings.Contains(lower, w) }) {
			kind = elastic.MakeUp
		}
		if from.Year() < 1970 || from.Year() > 2200 || to.Sub(from) > 366*24*time.Hour {
			r.problem(place, "it is longer than a year, or not between 1970 and 2200")
			continue
		}
		// A day ends where the next begins; an event of no length has one day.
		y, m, d := from.Date()
		for n := 0; ; n++ {
			at := time.Date(y, m, d+n, 0, 0, 0, 0, time.UTC)
			ty, tm, td := to.Date()
			if n > 0 && !at.Before(time.Date(ty, tm, td, 0, 0, 0, 0, time.UTC)) || len(out) > maxDays {
				break
			}
			out = append(out, Day{timetable.DateOf(at), kind, name})
		}
	}
	if len(out) == 0 && len(r.out.Problems) == 0 {
		return nil, errors.New("it names no days")
	}
	return out, nil
}

func (r *reader) holidayList(data []byte) ([]Day, error) {
	in := csv.NewReader(bytes.NewReader(bytes.TrimPrefix(data, []byte("\ufeff"))))
	in.FieldsPerRecord = -1
	in.TrimLeadingSpace = true
	columns := map[string]int{}
	var out []Day
	for first := true; ; {
		record, err := in.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		var bad *csv.ParseError
		if errors.As(err, &bad) {
			r.problem(Problem{Row: bad.Line}, "it is no line of CSV: %v", bad.Err)
			continue
		}
		if err != nil {
			return nil, err
		}
		if first {
			first = false
			for i, h := range record {
				switch plain(h) {
				case "date", "day", "日期":
					columns["date"] = i
				case "kind", "type", "类型":
					columns["kind"] = i
				case "name", "holiday", "名称", "节日":
					columns["name"] = i
				}
			}
			if _, ok := columns["date"]; !ok {
				return nil, errors.New("its first line must name the columns: date,kind,name")
			}
			continue
		}
		line, _ := in.FieldPos(0)
		w := row{line, record}
		get := func(field string) string { return strings.ToValidUTF8(w.cell(columnOf(columns, field)), "") }
		if w.empty() {
			continue
		}
		m, err := parseMoment(get("date"), r.opts)
		var date timetable.Date
		if err == nil && m.hasDate() {
			date, err = m.date(r.opts)
		}
		if err != nil || date.Year < 1970 || date.Year > 2200 {
			r.problem(Problem{Row: line, Text: get("date")}, "it is no date such as 2026-10-01")
			continue
		}
		switch plain(get("kind")) {
		case "", "holiday", "off", "假期", "节假日", "休":
			out = append(out, Day{date, elastic.Holiday, clip(get("name"))})
		case "makeup", "makeupday", "workday", "working", "班", "补班", "上班", "调休":
			out = append(out, Day{date, elastic.MakeUp, clip(get("name"))})
		default:
			r.problem(Problem{Row: line, Text: get("kind")}, "it is neither holiday nor makeup")
		}
	}
	if len(out) == 0 && len(r.out.Problems) == 0 {
		return nil, errors.New("it names no days")
	}
	return out, nil
}
