package timetable

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Session is one meeting of one course.
type Session struct {
	ID       string // unique within a timetable and kept when the class moves: see Compare
	Course   string
	Room     string
	Start    time.Time
	End      time.Time
	Enrolled int    // people on the course's list; 0 if not known: no floor until some were counted
	Modules  []Need // what the class uses, by module; none means every module, factor 1
}

// A Need is what one person present in a class asks of a module.
type Need struct {
	Module string
	Factor float64 // demand per person, in the module's own unit
}

// String returns the need such as chat or video=2.
func (n Need) String() string {
	if n.Factor == 1 {
		return n.Module
	}
	return n.Module + "=" + strconv.FormatFloat(n.Factor, 'f', -1, 64)
}

// ParseNeed reads a need such as chat or video=2. The factor has at most six
// decimals.
func ParseNeed(s string) (Need, error) {
	name, factor, given := strings.Cut(strings.TrimSpace(s), "=")
	n := Need{Module: strings.TrimSpace(name), Factor: 1}
	if given {
		f, err := strconv.ParseFloat(strings.TrimSpace(factor), 64)
		n.Factor = math.Round(f*1e6) / 1e6
		if err != nil || !(n.Factor > 0) || n.Factor > 999_999 {
			return n, fmt.Errorf("module %q: what follows the = is a factor above 0, such as video=2", s)
		}
	}
	if !moduleName(n.Module) {
		return n, fmt.Errorf("module %q is no name of a module such as chat or video=2, of small letters, digits, dashes and dots", s)
	}
	return n, nil
}

// moduleName reports whether s may name a module of Kubernetes.
func moduleName(s string) bool {
	if len(s) == 0 || len(s) > 240 {
		return false
	}
	for i, r := range []byte(s) {
		if letter := r >= 'a' && r <= 'z' || r >= '0' && r <= '9'; !letter && (i == 0 || i == len(s)-1 || r != '-' && r != '.') {
			return false
		}
	}
	return true
}

// Factor is what one person present asks of the module; 0 if the class does not
// use it.
func (s Session) Factor(module string) float64 {
	if len(s.Modules) == 0 {
		return 1
	}
	for _, n := range s.Modules {
		if n.Module == module {
			return n.Factor
		}
	}
	return 0
}

// before orders sessions by start; equal ones by all else, the ID last.
func (s Session) before(o Session) int {
	return cmp.Or(s.Start.Compare(o.Start), cmp.Compare(s.Course, o.Course), cmp.Compare(s.Room, o.Room),
		s.End.Compare(o.End), cmp.Compare(s.Enrolled, o.Enrolled), cmp.Compare(s.ID, o.ID))
}

// A Timetable is a set of sessions in the order of their starts. The zero value
// has none. It does not change.
type Timetable struct {
	sessions []Session
	classes  []Session // the same, with those joined that go on
	longest  time.Duration
}

// pause is the longest break within one class: lessons of the same course in the
// same room with no more between them are one, whose people arrive once.
const pause = 15 * time.Minute

// New makes a timetable of the sessions. Those that do not end after they start
// are left out.
func New(sessions []Session) Timetable {
	var t Timetable
	for _, s := range sessions {
		if s.End.After(s.Start) {
			t.sessions = append(t.sessions, s)
		}
	}
	slices.SortFunc(t.sessions, Session.before)
	type place struct{ course, room string }
	last := map[place]int{}
	for _, s := range t.sessions {
		p := place{s.Course, s.Room}
		if i, ok := last[p]; ok {
			c := &t.classes[i]
			if gap := s.Start.Sub(c.End); gap >= 0 && gap <= pause && slices.Equal(c.Modules, s.Modules) {
				c.End, c.Enrolled = s.End, max(c.Enrolled, s.Enrolled)
				continue
			}
		}
		last[p] = len(t.classes)
		t.classes = append(t.classes, s)
	}
	for _, c := range t.classes {
		t.longest = max(t.longest, c.End.Sub(c.Start))
	}
	return t
}

// Sessions returns all sessions in the order of their starts. The caller must
// not change them.
func (t Timetable) Sessions() []Session { return t.sessions }

// Between returns the classes whose time, with the given stretch before the
// start and after the end, meets [from, to), in the order of their starts.
// Sessions that follow each other as one class are one.
func (t Timetable) Between(from, to time.Time, before, after time.Duration) []Session {
	first, _ := slices.BinarySearchFunc(t.classes, from.Add(-t.longest-after), func(s Session, at time.Time) int {
		return s.Start.Compare(at)
	})
	var out []Session
	for _, s := range t.classes[first:] {
		if !s.Start.Add(-before).Before(to) {
			break
		}
		if s.End.Add(after).After(from) {
			out = append(out, s)
		}
	}
	return out
}
