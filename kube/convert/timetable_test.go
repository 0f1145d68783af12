package convert

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/elastic"
	"github.com/neap-dev/neap/core/timetable"
)

const autumn = `{metadata: {name: autumn, namespace: live, labels: {neap.dev/timetable: autumn}}, spec: {timeZone: Europe/Dublin, sessions: [
  {id: a, course: ALG, room: R1, start: "2026-10-05T08:00:00Z", minutes: 50, enrolled: 100},
  {id: b, course: BIO, start: "2026-10-05T08:00:00Z", minutes: 50, enrolled: 60, modules: [video, chat=2]},
  {id: c, course: GEO, start: "2026-10-05T08:00:00Z", minutes: 50, enrolled: 30, modules: [video]}]}}`

func TestClasses(t *testing.T) {
	first := read[v1alpha1.Timetable](t, autumn)
	second := read[v1alpha1.Timetable](t, `{metadata: {name: autumn-part-2, namespace: live, labels: {neap.dev/timetable: autumn}}, spec: {sessions: [
	  {id: d, course: LAW, start: "2026-10-06T08:00:00Z", minutes: 50, enrolled: 80},
	  {id: a, course: ALG, room: R1, start: "2026-10-05T08:00:00Z", minutes: 50, enrolled: 100}]}}`)
	before := read[v1alpha1.Timetable](t, `{metadata: {name: autumn.previous, namespace: live, labels: {neap.dev/timetable-previous: autumn}}, spec: {sessions: [
	  {id: x, course: OLD, start: "2026-10-06T08:00:00Z", minutes: 50, enrolled: 80}]}}`)
	elsewhere := read[v1alpha1.Timetable](t, strings.ReplaceAll(autumn, "live", "test"))
	layer := &v1alpha1.TimetableLayer{Names: []string{"autumn"}, PerSeat: "0.5"}
	got, opts, err := Classes(layer, "live", "chat", []*v1alpha1.Timetable{second, elsewhere, before, first})
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, s := range got.Sessions() {
		lines = append(lines, fmt.Sprintf("%s %s %d %g", s.Course, s.Start.Format("Mon 15:04 MST"), s.Enrolled, s.Factor(opts.Module)))
	}
	want := []string{"ALG Mon 09:00 IST 100 0.5", "BIO Mon 09:00 IST 60 1", "LAW Tue 08:00 UTC 80 0.5"}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Error(diff)
	}
	if opts.Module != "chat" || opts.Release != 15*time.Minute {
		t.Errorf("options %+v", opts)
	}
}

func TestClassesThatMakeNoSenseAreNamed(t *testing.T) {
	good := read[v1alpha1.Timetable](t, autumn)
	cases := map[string]struct {
		layer v1alpha1.TimetableLayer
		zone  string
		want  string
	}{
		"a timetable that is not there": {v1alpha1.TimetableLayer{Names: []string{"autumn", "spring"}}, "", "live/spring does not exist; import it"},
		"a zone that is none":           {v1alpha1.TimetableLayer{Names: []string{"autumn"}}, "Mars/Olympus", `timeZone "Mars/Olympus" is no IANA zone`},
		"a seat of nothing":             {v1alpha1.TimetableLayer{Names: []string{"autumn"}, PerSeat: "-1"}, "", `perSeat "-1"`},
		"a release that is no duration": {v1alpha1.TimetableLayer{Names: []string{"autumn"}, ReleaseAfter: "soon"}, "", `releaseAfter "soon"`},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			table := good.DeepCopy()
			table.Spec.TimeZone = tc.zone
			_, _, err := Classes(&tc.layer, "live", "chat", []*v1alpha1.Timetable{table})
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want …%s…", err, tc.want)
			}
		})
	}
}

func TestTimetablesComeBackAsTheyWere(t *testing.T) {
	table := read[v1alpha1.Timetable](t, autumn)
	sessions, err := Sessions(table)
	if err != nil {
		t.Fatal(err)
	}
	got := Timetables("live", "autumn", v1alpha1.TimetableSpec{TimeZone: "Europe/Dublin"}, sessions)
	if len(got) != 1 {
		t.Fatalf("%d objects, want 1", len(got))
	}
	back, err := Sessions(got[0])
	if diff := cmp.Diff(sessions, back); diff != "" || err != nil {
		t.Error(diff, err)
	}
}

func TestALargeTermIsCutIntoParts(t *testing.T) {
	var sessions []timetable.Session
	for i := range 9000 {
		start := time.Date(2026, 9, 1, 8, 0, 0, 0, time.UTC).Add(time.Duration(i) * time.Minute)
		sessions = append(sessions, timetable.Session{ID: fmt.Sprint("session-", i), Course: strings.Repeat("课", 40), Room: "A", Start: start, End: start.Add(time.Hour)})
	}
	got := Timetables("live", "autumn", v1alpha1.TimetableSpec{}, sessions)
	total, names := 0, map[string]bool{}
	for _, p := range got {
		raw, err := json.Marshal(p)
		if err != nil || len(raw) > 1_000_000 || p.Labels[v1alpha1.LabelTimetable] != "autumn" || names[p.Name] {
			t.Errorf("part %s of %d bytes: %v", p.Name, len(raw), err)
		}
		names[p.Name] = true
		total += len(p.Spec.Sessions)
	}
	if total != len(sessions) || len(got) < 3 || !names["autumn"] {
		t.Errorf("%d sessions in %d parts", total, len(got))
	}
}

func TestDays(t *testing.T) {
	c := read[v1alpha1.HolidayCalendar](t, `{metadata: {name: cn}, spec: {days: [{date: "2026-10-01", kind: Holiday}, {date: "2026-10-10", kind: MakeUp}]}}`)
	got, err := Days(c)
	want := timetable.Days{Named: map[timetable.Date]elastic.DayType{{Year: 2026, Month: 10, Day: 1}: elastic.Holiday, {Year: 2026, Month: 10, Day: 10}: elastic.MakeUp}}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
	c.Spec.Days[0].Date = "2026-02-30"
	if _, err := Days(c); err == nil || !strings.Contains(err.Error(), `holiday calendar cn: "2026-02-30"`) {
		t.Errorf("got %v", err)
	}
}
