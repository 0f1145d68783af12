package convert

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	_ "time/tzdata" // zones must resolve in an image without them

	"github.com/teambition/rrule-go"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/elastic"
	"github.com/neap-dev/neap/core/forecast"
	"github.com/neap-dev/neap/core/workload"
)

// An Elastic is what an ElasticPolicy declares, but for its classes (see [Classes]).
type Elastic struct {
	Key    workload.Key   // of the target
	Policy elastic.Policy // its Calendar is left nil: it is another object

	// LoadQuery is PromQL with $window for the load in units a second; "" if none
	// is declared. Metrics are what the reactive layer follows beside it, or
	// instead of it. Reactive says whether there is a reactive layer.
	LoadQuery string
	Metrics   []ElasticMetric
	Reactive  bool

	// History is how much of the past the forecast learns from; 0: no forecast.
	// Tau is the quantile that is made ready for.
	History time.Duration
	Tau     float64
}

// An ElasticMetric is a figure that replicas share.
type ElasticMetric struct {
	Name, Query string
	PerReplica  float64
}

// ElasticTarget returns the key of the workload that p names.
func ElasticTarget(p *v1alpha1.ElasticPolicy) workload.Key {
	return workload.Key{Namespace: p.Namespace, Kind: cmp.Or(p.Spec.TargetRef.Kind, "Deployment"), Name: p.Spec.TargetRef.Name}
}

// DeclaredElastic returns what p declares. The error names the field, what is
// wrong with it and what to write instead.
func DeclaredElastic(p *v1alpha1.ElasticPolicy) (Elastic, error) {
	out := Elastic{Key: ElasticTarget(p), Policy: elastic.Defaults(int(p.Spec.Min), int(p.Spec.Max))}
	var errs []error
	keep := func(field string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", field, err))
		}
	}
	number := func(field string, d v1alpha1.Decimal, into *float64) {
		if d == "" {
			return
		}
		v, err := strconv.ParseFloat(string(d), 64)
		if err != nil || !(v > 0) || math.IsInf(v, 0) {
			keep(field, fmt.Errorf("%q is not a number above 0 such as 12.5", d))
			return
		}
		*into = v
	}
	share := func(field string, d v1alpha1.Percent, into *float64) {
		if d == "" {
			return
		}
		s, ok := strings.CutSuffix(string(d), "%")
		v, err := strconv.ParseFloat(s, 64)
		if !ok || err != nil || !(v >= 0) || math.IsInf(v, 0) {
			keep(field, fmt.Errorf("%q is not a percentage such as 60%%", d))
			return
		}
		*into = v / 100
	}
	span := func(field, d string, into *time.Duration) {
		if d == "" {
			return
		}
		v, err := time.ParseDuration(d)
		if err != nil || v < 0 {
			keep(field, fmt.Errorf("%q is not a duration such as 10m", d))
			return
		}
		*into = v
	}

	if l := p.Spec.Load; l != nil {
		out.LoadQuery = string(l.Query)
		carries, target := 0.0, 0.6
		number("load.perReplica", l.PerReplica, &carries)
		share("load.target", l.Target, &target)
		if carries == 0 || target == 0 {
			keep("load", errors.New("perReplica and target must be above 0"))
		}
		out.Policy.Unit, out.Policy.Carries = carries*target, carries
	}
	for i := range p.Spec.Manual {
		out.Policy.Manual = append(out.Policy.Manual, manual(&p.Spec.Manual[i]))
	}
	for i := range p.Spec.Cron {
		c := &p.Spec.Cron[i]
		s, err := schedule(c)
		keep(fmt.Sprintf("cron %q", c.Name), err)
		out.Policy.Schedules = append(out.Policy.Schedules, s)
	}
	if f := p.Spec.Forecast; f != nil {
		out.History = time.Duration(cmp.Or(f.HistoryDays, 15)) * 24 * time.Hour
		under := 10.0
		number("forecast.underCost", f.UnderCost, &under)
		number("forecast.maxLift", f.MaxLift, &out.Policy.Forecast.MaxLift)
		out.Tau = forecast.Newsvendor(under, 1)
	}
	if r := p.Spec.Reactive; r != nil {
		out.Reactive = true
		share("reactive.tolerance.up", r.Tolerance.Up, &out.Policy.Reactive.Tolerance.Up)
		share("reactive.tolerance.down", r.Tolerance.Down, &out.Policy.Reactive.Tolerance.Down)
		span("reactive.stabilization", r.Stabilization, &out.Policy.Reactive.Down.Stabilize)
		share("reactive.panicPercent", r.PanicPercent, &out.Policy.Reactive.PanicShare)
		for _, m := range r.Metrics {
			o := ElasticMetric{Name: m.Name, Query: string(m.Query)}
			number(fmt.Sprintf("reactive metric %q: perReplica", m.Name), m.PerReplica, &o.PerReplica)
			out.Metrics = append(out.Metrics, o)
		}
	}
	if s := p.Spec.ScaleIn; s != nil {
		span("scaleIn.watch", s.Watch, &out.Policy.ScaleIn.Watch)
		share("scaleIn.step", s.Step, &out.Policy.ScaleIn.Step)
		span("scaleIn.holdIfNeededWithin", s.HoldIfNeededWithin, &out.Policy.ScaleIn.HoldIfNeededWithin)
	}
	if len(errs) == 0 {
		keep("spec", out.Policy.Validate())
	}
	if len(errs) > 0 { // the first is enough to act on
		return out, errs[0]
	}
	return out, nil
}

func or(n *int32, none int) int {
	if n == nil {
		return none
	}
	return int(*n)
}

func manual(m *v1alpha1.ManualLayer) elastic.ManualEntry {
	out := elastic.ManualEntry{
		Name: m.Name, Reason: m.Reason, By: m.By,
		Pin: or(m.Pin, elastic.None), Floor: or(m.Floor, elastic.None), Cap: or(m.Cap, elastic.None),
	}
	if m.From != nil {
		out.From = m.From.Time
	}
	if m.Until != nil {
		out.Until = m.Until.Time
	}
	return out
}

var weekdays = map[v1alpha1.DayKind]time.Weekday{
	"Sunday": time.Sunday, "Monday": time.Monday, "Tuesday": time.Tuesday, "Wednesday": time.Wednesday,
	"Thursday": time.Thursday, "Friday": time.Friday, "Saturday": time.Saturday,
}

var dayTypes = map[v1alpha1.DayKind]elastic.DayType{
	v1alpha1.DayWorkday: elastic.Workday, v1alpha1.DayWeekend: elastic.Weekend,
	v1alpha1.DayHoliday: elastic.Holiday, v1alpha1.DayMakeUp: elastic.MakeUp,
}

func schedule(c *v1alpha1.CronLayer) (elastic.Schedule, error) {
	out := elastic.Schedule{Name: c.Name, Floor: or(c.Floor, elastic.None), Cap: or(c.Cap, elastic.None)}
	var err error
	// "Local" is a zone to Go, and another one on every machine.
	if out.Zone, err = time.LoadLocation(cmp.Or(c.TimeZone, "UTC")); err != nil || c.TimeZone == "Local" {
		return out, fmt.Errorf("timeZone %q is not known: give an IANA zone such as Asia/Shanghai", c.TimeZone)
	}
	if out.Duration, err = time.ParseDuration(c.Duration); err != nil {
		return out, fmt.Errorf("duration %q is not a duration such as 4h30m", c.Duration)
	}
	if c.Ramp != "" {
		if out.Ramp, err = time.ParseDuration(c.Ramp); err != nil {
			return out, fmt.Errorf("ramp %q is not a duration such as 20m", c.Ramp)
		}
	}
	for _, s := range c.Except {
		t, err := time.Parse(time.DateOnly, s)
		if err != nil {
			return out, fmt.Errorf("except: %q is not a date such as 2026-10-01", s)
		}
		out.Except = append(out.Except, elastic.Date{Year: t.Year(), Month: t.Month(), Day: t.Day()})
	}
	if c.RRule != "" {
		out.Rule, err = Recurrence(c.RRule, out.Zone)
		return out, err
	}
	t, err := time.Parse("15:04", c.Start)
	if err != nil {
		return out, fmt.Errorf("start %q is not a time of day such as 18:30", c.Start)
	}
	out.Start = time.Duration(t.Hour())*time.Hour + time.Duration(t.Minute())*time.Minute
	for _, d := range c.Days {
		if w, ok := weekdays[d]; ok {
			out.Weekdays = append(out.Weekdays, w)
		} else if k, ok := dayTypes[d]; ok {
			out.Days = append(out.Days, k)
		} else {
			return out, fmt.Errorf("days: %q is no kind of day such as Workday or Monday", d)
		}
	}
	return out, nil
}

// What bounds the work of asking a recurrence for its starts, which counts them
// all from the first.
const (
	firstYear   = 2000
	mostADay    = 48
	longestRule = 50 * 366 * 24 * time.Hour // later, a rule says nothing
)

// recurrence is an RRULE with what belongs to it. What was asked for last is
// kept: a schedule is asked every minute for the same days.
type recurrence struct {
	set   *rrule.Set
	until time.Time // of the rule itself

	mu       sync.Mutex
	from, to time.Time
	starts   []time.Time
}

// Recurrence reads a recurrence of RFC 5545 with its DTSTART, such as
// "DTSTART:20260907T183000 RRULE:FREQ=WEEKLY;BYDAY=MO,WE". Times without a zone
// of their own are in zone.
func Recurrence(s string, zone *time.Location) (elastic.Recurrence, error) {
	const want = `write it such as "DTSTART:20260907T183000 RRULE:FREQ=WEEKLY;BYDAY=MO,WE"`
	odd := func(r rune) bool { return r <= ' ' && r != ' ' && r != '\n' || r > '~' }
	if strings.ContainsFunc(s, odd) { // the library takes it for something else
		return nil, fmt.Errorf("rrule %q holds a character that no rule has: %s", s, want)
	}
	var lines []string
	for _, l := range strings.Fields(s) {
		if strings.HasPrefix(l, "DTSTART") { // the library wants it first
			lines = slices.Insert(lines, 0, l)
		} else {
			lines = append(lines, l)
		}
	}
	if len(lines) == 0 || !strings.HasPrefix(lines[0], "DTSTART") {
		return nil, fmt.Errorf("rrule %q has no DTSTART: %s", s, want)
	}
	set, err := rrule.StrSliceToRRuleSetInLoc(lines, zone)
	if err != nil {
		return nil, fmt.Errorf("rrule %q cannot be read (%v): %s", s, err, want)
	}
	r := set.GetRRule()
	if r == nil {
		return nil, fmt.Errorf("rrule %q has no RRULE: %s", s, want)
	}
	o := r.OrigOptions
	often := max(len(o.Byhour), 1) * max(len(o.Byminute), 1) * max(len(o.Bysecond), 1)
	if o.Freq == rrule.HOURLY {
		often *= 24
	}
	if y := set.GetDTStart().Year(); o.Freq > rrule.HOURLY || often > mostADay || y < firstYear {
		return nil, fmt.Errorf("rrule %q begins too long ago or repeats too often: begin in %d or later, and start at most %d times a day", s, firstYear, mostADay)
	}
	return &recurrence{set: set, until: r.GetUntil()}, nil
}

// Starts implements elastic.Recurrence.
func (r *recurrence) Starts(from, to time.Time) []time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	if from.Before(r.from) || to.After(r.to) || r.to.IsZero() {
		r.from, r.to = from.Add(-24*time.Hour), to.Add(8*24*time.Hour)
		r.starts = nil
		if r.to.Sub(r.set.GetDTStart()) < longestRule {
			// A rule that never comes true again is looked for no further than asked.
			until := r.to
			if !r.until.IsZero() && r.until.Before(until) {
				until = r.until
			}
			r.set.GetRRule().Until(until)
			r.starts = r.set.Between(r.from, r.to, true)
		}
	}
	i, _ := slices.BinarySearchFunc(r.starts, from, time.Time.Compare)
	j, _ := slices.BinarySearchFunc(r.starts, to, time.Time.Compare)
	return r.starts[i:j:j]
}
