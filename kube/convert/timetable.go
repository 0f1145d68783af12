package convert

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/elastic"
	"github.com/neap-dev/neap/core/timetable"
)

// Limits of one Timetable object. etcd takes 1.5 MiB of JSON, of which some must
// be left for what others write beside it.
const (
	partSessions = 4000
	partBytes    = 900_000
)

// Sessions returns the classes that t holds, in its own time zone, each ID once:
// of several, the first. The error names the object.
func Sessions(t *v1alpha1.Timetable) ([]timetable.Session, error) {
	zone, err := time.LoadLocation(cmp.Or(t.Spec.TimeZone, "UTC"))
	if err != nil {
		return nil, fmt.Errorf("timetable %s/%s: timeZone %q is no IANA zone such as Europe/Dublin", t.Namespace, t.Name, t.Spec.TimeZone)
	}
	seen := map[string]bool{}
	var out []timetable.Session
	for i := range t.Spec.Sessions {
		s := &t.Spec.Sessions[i]
		if seen[s.ID] {
			continue
		}
		seen[s.ID] = true
		start := s.Start.In(zone)
		c := timetable.Session{ID: s.ID, Course: s.Course, Room: s.Room, Start: start,
			End: start.Add(time.Duration(s.Minutes) * time.Minute), Enrolled: int(s.Enrolled)}
		for _, m := range s.Modules {
			need, err := timetable.ParseNeed(m)
			if err != nil {
				return nil, fmt.Errorf("timetable %s/%s: session %s: %w", t.Namespace, t.Name, s.ID, err)
			}
			c.Modules = append(c.Modules, need)
		}
		out = append(out, c)
	}
	return out, nil
}

// Classes returns the classes of the Timetables that the layer names, of all
// their parts among declared, with what they ask of the module in the unit of
// its load. Without a name of its own in the layer the module is the target. A
// Timetable that is not there is an error; the classes of the others are
// returned all the same.
func Classes(layer *v1alpha1.TimetableLayer, namespace, target string, declared []*v1alpha1.Timetable) (timetable.Timetable, timetable.Options, error) {
	opts := timetable.Options{Module: cmp.Or(layer.Module, target)}
	perSeat, err := strconv.ParseFloat(cmp.Or(string(layer.PerSeat), "1"), 64)
	if err != nil || !(perSeat > 0) || math.IsInf(perSeat, 0) {
		return timetable.Timetable{}, opts, fmt.Errorf("timetable: perSeat %q is no number above 0", layer.PerSeat)
	}
	if opts.Release, err = time.ParseDuration(cmp.Or(layer.ReleaseAfter, timetable.DefaultRelease.String())); err != nil || opts.Release < 0 {
		return timetable.Timetable{}, opts, fmt.Errorf("timetable: releaseAfter %q is no duration such as 15m", layer.ReleaseAfter)
	}
	opts.Release = max(opts.Release, 1) // 0 would be the default
	var all []timetable.Session
	var problem error
	for _, name := range layer.Names {
		parts := Parts(declared, namespace, name)
		if len(parts) == 0 {
			problem = cmp.Or(problem, fmt.Errorf("timetable %s/%s does not exist; import it with neap timetable import", namespace, name))
		}
		seen := map[string]bool{} // while parts are rewritten one after the other, a class may stand in two
		for _, p := range parts {
			sessions, err := Sessions(p)
			if err != nil {
				problem = cmp.Or(problem, err)
			}
			for _, s := range sessions {
				if !seen[s.ID] {
					seen[s.ID] = true
					all = append(all, s)
				}
			}
		}
	}
	for i := range all {
		if f := all[i].Factor(opts.Module); f > 0 {
			all[i].Modules = []timetable.Need{{Module: opts.Module, Factor: f * perSeat}}
		}
	}
	all = slices.DeleteFunc(all, func(s timetable.Session) bool { return s.Factor(opts.Module) == 0 })
	return timetable.New(all), opts, problem
}

// Parts returns the objects that hold the Timetable, in the order of their names.
func Parts(declared []*v1alpha1.Timetable, namespace, name string) []*v1alpha1.Timetable {
	var out []*v1alpha1.Timetable
	for _, t := range declared {
		if t.Namespace == namespace && t.DeletionTimestamp == nil && (t.Name == name || t.Labels[v1alpha1.LabelTimetable] == name) {
			out = append(out, t)
		}
	}
	slices.SortFunc(out, func(a, b *v1alpha1.Timetable) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// Timetables returns the objects that hold the sessions: one called name, and
// further parts if it would be too large for one. base is the spec without
// sessions.
func Timetables(namespace, name string, base v1alpha1.TimetableSpec, sessions []timetable.Session) []*v1alpha1.Timetable {
	var out []*v1alpha1.Timetable
	part := func() *v1alpha1.Timetable {
		t := &v1alpha1.Timetable{Spec: base}
		t.APIVersion, t.Kind = v1alpha1.GroupVersion.String(), "Timetable"
		t.Namespace, t.Name = namespace, name
		if len(out) > 0 {
			t.Name = fmt.Sprintf("%s-part-%d", name, len(out)+1)
		}
		t.Labels = map[string]string{v1alpha1.LabelTimetable: name}
		out = append(out, t)
		return t
	}
	t, bytes := part(), 0
	for _, s := range sessions {
		declared := v1alpha1.Session{ID: s.ID, Course: s.Course, Room: s.Room, Start: metav1.NewTime(s.Start.UTC()),
			Minutes: int32(min((s.End.Sub(s.Start)+time.Minute-1)/time.Minute, math.MaxInt32)), Enrolled: int32(min(max(s.Enrolled, 0), math.MaxInt32))}
		size := 140 + len(s.ID) + len(s.Course) + len(s.Room)
		for _, n := range s.Modules {
			declared.Modules = append(declared.Modules, n.String())
			size += len(n.String()) + 3
		}
		if len(t.Spec.Sessions) == partSessions || bytes+size > partBytes {
			t, bytes = part(), 0
		}
		t.Spec.Sessions = append(t.Spec.Sessions, declared)
		bytes += size
	}
	return out
}

// Days returns the days that c declares. The error names the calendar.
func Days(c *v1alpha1.HolidayCalendar) (timetable.Days, error) {
	out := timetable.Days{Named: map[timetable.Date]elastic.DayType{}}
	for _, d := range c.Spec.Days {
		date, err := timetable.ParseDate(d.Date)
		if err != nil {
			return out, fmt.Errorf("holiday calendar %s: %w", c.Name, err)
		}
		switch d.Kind {
		case v1alpha1.DayHoliday:
			out.Named[date] = elastic.Holiday
		case v1alpha1.DayMakeUp:
			out.Named[date] = elastic.MakeUp
		default:
			return out, fmt.Errorf("holiday calendar %s: %s is of the kind %q; it is Holiday or MakeUp", c.Name, d.Date, d.Kind)
		}
	}
	return out, nil
}
