package convert

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/elastic"
)

func policy(change func(*v1alpha1.ElasticPolicySpec)) *v1alpha1.ElasticPolicy {
	p := &v1alpha1.ElasticPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: "live", Name: "chat"},
		Spec: v1alpha1.ElasticPolicySpec{
			TargetRef: v1alpha1.TargetRef{APIVersion: "apps/v1", Kind: "Deployment", Name: "chat"}, Min: 2, Max: 300,
			Load: &v1alpha1.ElasticLoad{Query: "rate(x[$window])", PerReplica: "50", Target: "60%"},
		},
	}
	if change != nil {
		change(&p.Spec)
	}
	return p
}

func TestDeclaredElasticReadsWhatIsDeclared(t *testing.T) {
	got, err := DeclaredElastic(policy(func(s *v1alpha1.ElasticPolicySpec) {
		s.Manual = []v1alpha1.ManualLayer{{Name: "exam", Floor: ptr.To[int32](40), Reason: "exam week", By: "li"}}
		s.Cron = []v1alpha1.CronLayer{{Name: "evening", Start: "18:30", Days: []v1alpha1.DayKind{"Workday", "Sunday"}, Duration: "4h", TimeZone: "Asia/Shanghai", Floor: ptr.To[int32](90), Except: []string{"2026-10-01"}, Ramp: "20m"}}
		s.Forecast = &v1alpha1.ForecastLayer{HistoryDays: 7, UnderCost: "9", MaxLift: "2.5"}
		s.Reactive = &v1alpha1.ReactiveLayer{
			Metrics:   []v1alpha1.ReactiveMetric{{Name: "cpu", Query: "q[$window]", PerReplica: "1.5"}},
			Tolerance: v1alpha1.Tolerance{Up: "5%", Down: "10%"}, Stabilization: "3m", PanicPercent: "150%",
		}
		s.ScaleIn = &v1alpha1.ScaleIn{Watch: "2m", Step: "25%", HoldIfNeededWithin: "10m"}
	}))
	if err != nil {
		t.Fatal(err)
	}
	if got.Key.String() != "live/Deployment/chat" || got.Policy.Unit != 30 || got.Policy.Min != 2 || got.Policy.Max != 300 {
		t.Errorf("target and load: %+v", got)
	}
	if diff := cmp.Diff([]elastic.ManualEntry{{Name: "exam", Pin: elastic.None, Floor: 40, Cap: elastic.None, Reason: "exam week", By: "li"}}, got.Policy.Manual); diff != "" {
		t.Error(diff)
	}
	s := got.Policy.Schedules[0]
	s.Zone = nil // unexported fields
	if diff := cmp.Diff(elastic.Schedule{
		Name: "evening", Start: 18*time.Hour + 30*time.Minute, Days: []elastic.DayType{elastic.Workday}, Weekdays: []time.Weekday{time.Sunday},
		Duration: 4 * time.Hour, Except: []elastic.Date{{Year: 2026, Month: 10, Day: 1}}, Floor: 90, Cap: elastic.None, Ramp: 20 * time.Minute,
	}, s); diff != "" {
		t.Error(diff)
	}
	if got.History != 7*24*time.Hour || got.Tau != 0.9 || got.Policy.Forecast.MaxLift != 2.5 {
		t.Errorf("forecast: %+v", got)
	}
	r := got.Policy.Reactive
	if r.Tolerance != (elastic.Tolerance{Up: 0.05, Down: 0.1}) || r.Down.Stabilize != 3*time.Minute || r.PanicShare != 1.5 {
		t.Errorf("reactive: %+v", r)
	}
	if in := got.Policy.ScaleIn; in.Watch != 2*time.Minute || in.Step != 0.25 || in.HoldIfNeededWithin != 10*time.Minute {
		t.Errorf("scale-in: %+v", in)
	}
}

func TestDeclaredElasticNamesWhatMakesNoSense(t *testing.T) {
	cron := func(change func(*v1alpha1.CronLayer)) func(*v1alpha1.ElasticPolicySpec) {
		c := v1alpha1.CronLayer{Name: "evening", Start: "18:30", Duration: "4h", TimeZone: "UTC", Floor: ptr.To[int32](9)}
		change(&c)
		return func(s *v1alpha1.ElasticPolicySpec) { s.Cron = []v1alpha1.CronLayer{c} }
	}
	rule := func(r string) func(*v1alpha1.ElasticPolicySpec) {
		return cron(func(c *v1alpha1.CronLayer) { c.Start, c.RRule = "", r })
	}
	cases := map[string]struct {
		change func(*v1alpha1.ElasticPolicySpec)
		want   string
	}{
		"a zone that nobody knows":       {cron(func(c *v1alpha1.CronLayer) { c.TimeZone = "Mars/Olympus" }), `cron "evening": timeZone "Mars/Olympus" is not known: give an IANA zone such as Asia/Shanghai`},
		"the machine's own zone":         {cron(func(c *v1alpha1.CronLayer) { c.TimeZone = "Local" }), `timeZone "Local" is not known`},
		"a time that is none":            {cron(func(c *v1alpha1.CronLayer) { c.Start = "25:00" }), `start "25:00" is not a time of day`},
		"a date that is none":            {cron(func(c *v1alpha1.CronLayer) { c.Except = []string{"2026-02-30"} }), `"2026-02-30" is not a date`},
		"a rule without a beginning":     {rule("RRULE:FREQ=DAILY"), "has no DTSTART"},
		"a beginning without a rule":     {rule("DTSTART:20260907T183000"), "has no RRULE"},
		"a rule that nobody can read":    {rule("DTSTART:20260907T183000 RRULE:FREQ=SOMETIMES"), "cannot be read"},
		"a rule for every second":        {rule("DTSTART:20260907T183000 RRULE:FREQ=SECONDLY"), "repeats too often"},
		"a rule for most seconds":        {rule("DTSTART:20260907T183000 RRULE:FREQ=DAILY;BYHOUR=1,2,3,4,5,6,7;BYMINUTE=1,2,3,4,5,6,7"), "repeats too often"},
		"a load that no replica carries": {func(s *v1alpha1.ElasticPolicySpec) { s.Load.PerReplica = "0" }, `load.perReplica: "0" is not a number above 0`},
		"a target of nothing":            {func(s *v1alpha1.ElasticPolicySpec) { s.Load.Target = "0%" }, "load: perReplica and target must be above 0"},
		"a percentage without a sign":    {func(s *v1alpha1.ElasticPolicySpec) { s.ScaleIn = &v1alpha1.ScaleIn{Step: "25"} }, `scaleIn.step: "25" is not a percentage`},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if _, err := DeclaredElastic(policy(tc.change)); err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want one sentence with %q", err, tc.want)
			}
		})
	}
}

func TestARecurrenceStartsByTheClockOfItsZone(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	r, err := Recurrence("RRULE:FREQ=WEEKLY;BYDAY=MO EXDATE:20261026T080000 DTSTART:20261019T080000", berlin)
	if err != nil {
		t.Fatal(err)
	}
	at := func(y int, m time.Month, d, h int) time.Time { return time.Date(y, m, d, h, 0, 0, 0, time.UTC) }
	var got []time.Time
	for _, s := range r.Starts(at(2026, 10, 1, 0), at(2026, 11, 10, 0)) {
		got = append(got, s.UTC())
	}
	// The clocks of Berlin change on 25 October; the 26th is left out.
	if diff := cmp.Diff([]time.Time{at(2026, 10, 19, 6), at(2026, 11, 2, 7), at(2026, 11, 9, 7)}, got); diff != "" {
		t.Error(diff)
	}
	if got := r.Starts(at(2026, 10, 19, 6), at(2026, 10, 19, 6)); len(got) != 0 {
		t.Errorf("nothing starts in no time, got %v", got)
	}
}

func TestARuleThatNeverComesTrueIsCheap(t *testing.T) {
	r, err := Recurrence("DTSTART:20260101T000000 RRULE:FREQ=DAILY;BYMONTH=2;BYMONTHDAY=30", time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	from := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	for i := range 1000 {
		if s := r.Starts(from.Add(time.Duration(i)*time.Minute), from.Add(7*24*time.Hour)); len(s) > 0 {
			t.Fatal(s)
		}
	}
	if took := time.Since(began); took > time.Minute {
		t.Errorf("a thousand minutes took %v", took)
	}
}

// FuzzRecurrence – whatever is written, reading it ends soon, and what it starts
// lies in the time asked for.
func FuzzRecurrence(f *testing.F) {
	f.Add("DTSTART:20260907T183000 RRULE:FREQ=WEEKLY;BYDAY=MO,WE")
	f.Add("DTSTART;TZID=Asia/Shanghai:20260907T183000 RRULE:FREQ=MONTHLY;BYDAY=-1FR;COUNT=3 EXDATE:20261030T183000")
	f.Add("DTSTART:20260101T000000 RRULE:FREQ=YEARLY;BYWEEKNO=53;BYDAY=SU;INTERVAL=7;UNTIL=20300101T000000Z RDATE:20260909T000000")
	from := time.Date(2026, 9, 1, 0, 0, 0, 0, time.UTC)
	to := from.Add(30 * 24 * time.Hour)
	f.Fuzz(func(t *testing.T, s string) {
		if len(s) > 1024 {
			return // the API server takes no longer one
		}
		began := time.Now()
		defer func() {
			if took := time.Since(began); took > time.Minute {
				t.Errorf("%q took %v", s, took)
			}
		}()
		r, err := Recurrence(s, time.UTC)
		if err != nil {
			return
		}
		for _, at := range r.Starts(from, to) {
			if at.Before(from) || !at.Before(to) {
				t.Errorf("%q starts at %v, outside of what was asked", s, at)
			}
		}
	})
}
