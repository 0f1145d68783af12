package timetable

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// A Change is what happens to one session. Before is zero for one that was
// added, After for one that was cancelled.
type Change struct {
	Kind   ChangeKind
	Before Session
	After  Session
}

// A ChangeKind says what happens to a session.
type ChangeKind string

// The kinds of changes.
const (
	Added     ChangeKind = "added"
	Cancelled ChangeKind = "cancelled"
	Moved     ChangeKind = "moved"   // to another time, maybe with other changes
	Changed   ChangeKind = "changed" // room, length, enrolled or modules
)

// String returns the change in one line.
func (c Change) String() string {
	const when = "Mon 2006-01-02 15:04"
	s := c.After
	if c.Kind == Cancelled {
		s = c.Before
	}
	line := fmt.Sprintf("%s %s %s–%s", c.Kind, s.Course, s.Start.Format(when), s.End.Format("15:04"))
	if s.Room != "" {
		line += " " + s.Room
	}
	if c.Kind == Added || c.Kind == Cancelled {
		return fmt.Sprintf("%s, %d enrolled", line, s.Enrolled)
	}
	var what []string
	if !c.Before.Start.Equal(c.After.Start) {
		what = append(what, "was "+c.Before.Start.Format(when))
	} else if !c.Before.End.Equal(c.After.End) {
		what = append(what, "ended "+c.Before.End.Format("15:04"))
	}
	if c.Before.Room != c.After.Room {
		what = append(what, fmt.Sprintf("room was %q", c.Before.Room))
	}
	if c.Before.Enrolled != c.After.Enrolled {
		what = append(what, fmt.Sprintf("enrolled %d, was %d", c.After.Enrolled, c.Before.Enrolled))
	}
	if !slices.Equal(c.Before.Modules, c.After.Modules) {
		what = append(what, fmt.Sprintf("modules %s, were %s", needs(c.After.Modules), needs(c.Before.Modules)))
	}
	return line + ": " + strings.Join(what, ", ")
}

func needs(modules []Need) string {
	if len(modules) == 0 {
		return "all"
	}
	var out []string
	for _, n := range modules {
		out = append(out, n.String())
	}
	return strings.Join(out, "+")
}

// sameWeek is how far a class may move and still be the same class.
const sameWeek = 7 * 24 * time.Hour

// Compare returns what changes from old to new, in the order of time, and the
// new sessions under the identities that they have already. A new session without
// an ID (a list has none) gets one. A session is the old one of the same ID; else the one of the same course, start and room; else of
// the same course and start; else, among what is left of the course, the one
// nearest in time, less than a week away, which has moved. Comparing with the
// result again gives no changes.
func Compare(old, new []Session) (kept []Session, changes []Change) {
	old, kept = slices.Clone(old), slices.Clone(new)
	slices.SortFunc(old, Session.before)
	slices.SortFunc(kept, Session.before)
	match := make([]int, len(kept)) // index in old, or -1
	taken := make([]bool, len(old))
	for i := range match {
		match[i] = -1
	}

	// 1. The same by what they say themselves.
	for _, key := range []func(Session) string{
		func(s Session) string { return s.ID },
		func(s Session) string { return fmt.Sprint(s.Course, "\x00", s.Start.Unix(), "\x00", s.Room) },
		func(s Session) string { return fmt.Sprint(s.Course, "\x00", s.Start.Unix()) },
	} {
		at := map[string][]int{}
		for j, s := range old {
			if k := key(s); !taken[j] && k != "" {
				at[k] = append(at[k], j)
			}
		}
		for i, s := range kept {
			if js := at[key(s)]; match[i] < 0 && len(js) > 0 {
				match[i], taken[js[0]] = js[0], true
				at[key(s)] = js[1:]
			}
		}
	}

	// 2. The nearest of the same course.
	type pair struct {
		i, j int
		far  time.Duration
	}
	left := map[string][]int{}
	for j, s := range old {
		if !taken[j] {
			left[s.Course] = append(left[s.Course], j)
		}
	}
	var pairs []pair
	for i, s := range kept {
		if match[i] >= 0 {
			continue
		}
		js := left[s.Course]
		first, _ := slices.BinarySearchFunc(js, s.Start.Add(-sameWeek), func(j int, at time.Time) int {
			return old[j].Start.Compare(at)
		})
		for n, j := range js[first:] {
			far := s.Start.Sub(old[j].Start).Abs()
			if n == 64 || old[j].Start.After(s.Start) && far >= sameWeek { // 64 meetings of one course in two weeks are enough
				break
			}
			if far < sameWeek {
				pairs = append(pairs, pair{i, j, far})
			}
		}
	}
	slices.SortStableFunc(pairs, func(a, b pair) int {
		return cmp.Or(cmp.Compare(a.far, b.far), cmp.Compare(a.i, b.i), cmp.Compare(a.j, b.j))
	})
	for _, p := range pairs {
		if match[p.i] < 0 && !taken[p.j] {
			match[p.i], taken[p.j] = p.j, true
		}
	}

	// 3. Say it, and keep the identities.
	used := map[string]bool{}
	for i := range kept {
		if match[i] >= 0 {
			kept[i].ID = old[match[i]].ID
			used[kept[i].ID] = true
		}
	}
	for i := range kept {
		s := &kept[i]
		if match[i] < 0 {
			if s.ID == "" {
				s.ID = s.Course + "@" + s.Start.UTC().Format("20060102T1504")
			}
			s.ID = free(s.ID, used)
			changes = append(changes, Change{Kind: Added, After: *s})
			continue
		}
		switch was := old[match[i]]; {
		case !was.Start.Equal(s.Start):
			changes = append(changes, Change{Moved, was, *s})
		case !same(was, *s):
			changes = append(changes, Change{Changed, was, *s})
		}
	}
	for j, s := range old {
		if !taken[j] {
			changes = append(changes, Change{Kind: Cancelled, Before: s})
		}
	}
	slices.SortStableFunc(changes, func(a, b Change) int { return a.when().Compare(b.when()) })
	return kept, changes
}

// when is where the change stands in a list.
func (c Change) when() time.Time {
	if c.Kind == Cancelled {
		return c.Before.Start
	}
	return c.After.Start
}

func same(a, b Session) bool {
	return a.Course == b.Course && a.Room == b.Room && a.Start.Equal(b.Start) && a.End.Equal(b.End) &&
		a.Enrolled == b.Enrolled && slices.Equal(a.Modules, b.Modules)
}

// free returns the ID, or a variant of it that no session uses, and marks it used.
func free(id string, used map[string]bool) string {
	name := id
	for n := 2; used[name]; n++ {
		name = fmt.Sprintf("%s~%d", id, n)
	}
	used[name] = true
	return name
}
