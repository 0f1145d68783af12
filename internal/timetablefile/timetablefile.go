// Package timetablefile reads class timetables and holiday calendars as schools
// have them: iCalendar, Excel workbooks (lists, and grids of days and hours with
// merged headings) and CSV.
//
// [Read] reads a timetable, [ReadCalendar] a calendar. Nothing is skipped in
// silence: what could not be read is a [Problem] with its place and the reason,
// what was read but not as it stands is a note. Everything is bounded: the size
// of the file and of what it unpacks to, rows, columns, and what a recurrence may
// expand to.
//
// Not here: what an import changes (core/timetable) and where it is kept (cli).
package timetablefile

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/neap-dev/neap/core/timetable"
)

// Limits of what is read.
const (
	MaxBytes    = 16 << 20 // of a file
	maxUnpacked = 64 << 20 // of what a workbook unpacks to
	maxRows     = 100_000
	maxColumns  = 512
	maxCells    = 2_000_000
	maxSessions = 50_000
	maxRepeats  = 1000 // of one recurring event
	maxProblems = 1000
	maxText     = 80 // of a cell that is quoted
)

// Options say how to read what a file leaves open. The zero value is enough for
// a file that leaves nothing open.
type Options struct {
	Zone      *time.Location // of times without one; nil means UTC
	Year      int            // of dates without one; 0: they cannot be read
	DateOrder string         // "dmy" or "mdy", for dates such as 3/4/2026; empty: they cannot be read
	TermStart timetable.Date // a day of week 1, for classes that name only a weekday; zero: they cannot be read
	Weeks     string         // of the term in which those meet that do not say, such as 1-16
	Minutes   int            // that a class lasts that does not say; 0 means 60
	Until     time.Time      // how far a recurrence without an end is read; zero: a year

	Columns map[string]string // header in the file → field: see fields
	Periods map[int]Period    // of the day, for timetables that count them (节次)
	Zones   map[string]string // name in the file → IANA zone
}

// A Period is one of the numbered stretches of a school's day, in minutes from
// midnight.
type Period struct{ Start, End int }

func (o Options) zone() *time.Location {
	if o.Zone == nil {
		return time.UTC
	}
	return o.Zone
}

func (o Options) minutes() int { return cmp.Or(o.Minutes, 60) }

// Validate says in one sentence what is wrong with o, if anything.
func (o Options) Validate() error {
	if !slices.Contains([]string{"", "dmy", "mdy"}, o.DateOrder) {
		return fmt.Errorf("the order of dates %q is not one of dmy, mdy", o.DateOrder)
	}
	if o.Year != 0 && (o.Year < 1970 || o.Year > 2200) {
		return fmt.Errorf("the year %d is not between 1970 and 2200", o.Year)
	}
	if o.Minutes < 0 || o.Minutes > 24*60 {
		return fmt.Errorf("a class of %d minutes: it lasts 1 to 1440", o.Minutes)
	}
	if _, err := parseWeeks(o.Weeks); o.Weeks != "" && err != nil {
		return err
	}
	for header, field := range o.Columns {
		if _, ok := fields[field]; !ok {
			return fmt.Errorf("the column %q is to be %q, which is none of %s", header, field, strings.Join(fieldNames(), ", "))
		}
	}
	for n, p := range o.Periods {
		if p.Start < 0 || p.End <= p.Start || p.End > 24*60 {
			return fmt.Errorf("period %d does not end after it starts", n)
		}
	}
	return nil
}

// A Problem is a place in the file and what is the matter with it.
type Problem struct {
	Sheet  string `json:"sheet,omitempty"` // of a workbook
	Row    int    `json:"row"`             // or line; 0 means all of the sheet
	Cell   string `json:"cell,omitempty"`  // such as B3
	Text   string `json:"text,omitempty"`  // what stands there
	Reason string `json:"reason"`
}

// String returns the problem in one line.
func (p Problem) String() string {
	var where []string
	if p.Sheet != "" {
		where = append(where, "sheet "+p.Sheet)
	}
	if p.Row > 0 {
		word := "line"
		if p.Sheet != "" {
			word = "row"
		}
		where = append(where, fmt.Sprintf("%s %d", word, p.Row))
	}
	out := strings.Join(where, ", ")
	if p.Cell != "" {
		out += " (" + p.Cell + ")"
	}
	if p.Text != "" {
		out += fmt.Sprintf(" %q", p.Text)
	}
	return out + ": " + p.Reason
}

// A File is what was read from a timetable.
type File struct {
	Sessions []timetable.Session // in the order of their starts, without an ID unless the file has one
	Problems []Problem           // what could not be read
	Notes    []Problem           // what was read, but not as it stands
	Free     int                 // entries that say that there is no class
}

// Read reads a timetable. The name's ending tells what it is: .ics, .xlsx or
// .csv. An error means that nothing could be read.
func Read(name string, data []byte, opts Options) (*File, error) {
	if err := opts.Validate(); err != nil {
		return nil, err
	}
	if len(data) > MaxBytes {
		return nil, fmt.Errorf("%s: %d bytes are more than the %d MiB that a timetable may have; export the term alone", name, len(data), MaxBytes>>20)
	}
	r := &reader{opts: opts, seen: map[string]string{}}
	var err error
	switch kind := strings.ToLower(path.Ext(name)); {
	case kind == ".ics" || kind == ".ical" || kind == ".ifb":
		err = r.calendar(data)
	case kind == ".xlsx" || kind == ".xlsm":
		err = r.workbook(data)
	case kind == ".csv" || kind == ".tsv" || kind == ".txt":
		err = r.csv(data)
	case kind == ".xls" || kind == ".ods" || kind == ".numbers" || kind == ".pdf":
		err = fmt.Errorf("%s files cannot be read; save it as .xlsx or .csv", kind)
	default:
		err = fmt.Errorf("what it is cannot be told from its name; it must end in .ics, .xlsx or .csv")
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path.Base(name), err)
	}
	slices.SortStableFunc(r.out.Sessions, func(a, b timetable.Session) int {
		return cmp.Or(a.Start.Compare(b.Start), strings.Compare(a.Course, b.Course), strings.Compare(a.Room, b.Room))
	})
	return &r.out, nil
}

// A reader gathers what a file says.
type reader struct {
	opts Options
	out  File
	seen map[string]string // a session → where it stands
	full bool
}

// problem says that something could not be read.
func (r *reader) problem(p Problem, format string, args ...any) {
	add(&r.out.Problems, p, format, args...)
}

// note says that something was read, but not as it stands.
func (r *reader) note(p Problem, format string, args ...any) { add(&r.out.Notes, p, format, args...) }

func add(list *[]Problem, p Problem, format string, args ...any) {
	p.Reason = fmt.Sprintf(format, args...)
	if len(*list) == maxProblems {
		p = Problem{Reason: fmt.Sprintf("there are more than %d of these; the rest is not listed", maxProblems)}
	}
	if len(*list) > maxProblems {
		return
	}
	p.Text = clip(p.Text)
	*list = append(*list, p)
}

// clip shortens a text that is quoted.
func clip(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if r := []rune(s); len(r) > maxText {
		return string(r[:maxText-1]) + "…"
	}
	return s
}

// session takes a class in, unless it makes no sense or is there already.
func (r *reader) session(s timetable.Session, at Problem) {
	s.Course, s.Room = strings.Join(strings.Fields(s.Course), " "), strings.Join(strings.Fields(s.Room), " ")
	switch {
	case len(s.Course) > 256:
		r.problem(at, "the name of the course is longer than 256 bytes")
		return
	case len(s.Room) > 128:
		r.problem(at, "the name of the room is longer than 128 bytes")
		return
	case s.Start.Year() < 1970 || s.Start.Year() > 2200:
		r.problem(at, "the year %d is not between 1970 and 2200", s.Start.Year())
		return
	case !s.End.After(s.Start):
		r.problem(at, "it ends at %s, not after its start at %s", s.End.Format("15:04"), s.Start.Format("15:04"))
		return
	case s.End.Sub(s.Start) > 24*time.Hour:
		r.problem(at, "it lasts %.0f hours; a class lasts at most 24", s.End.Sub(s.Start).Hours())
		return
	case len(r.out.Sessions) >= maxSessions:
		if !r.full {
			r.full = true
			r.problem(at, "the file has more than %d classes; what follows is left out: import it in parts", maxSessions)
		}
		return
	}
	key := fmt.Sprint(s.Course, "\x00", s.Room, "\x00", s.Start.Unix(), "\x00", s.End.Unix())
	where := Problem{Sheet: at.Sheet, Row: at.Row, Cell: at.Cell}.String()
	if before, ok := r.seen[key]; ok {
		r.note(at, "the same class as %s; it counts once", strings.TrimSuffix(before, ": "))
		return
	}
	r.seen[key] = where
	r.out.Sessions = append(r.out.Sessions, s)
}
