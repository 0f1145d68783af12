package player

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/sim/scenario"
)

// beginner makes the Deployments of modules with a policy. It is another manager
// than [FieldManager], which never speaks of their replicas: those are the
// policy's.
const beginner = "neap-player-begins"

// begin makes the Deployment of a module with a policy as the day begins, with
// the replicas that it begins with. One that is there keeps its own.
func (p *Player) begin(ctx context.Context, d *appsv1.Deployment) error {
	_, err := p.o.Client.AppsV1().Deployments(d.Namespace).Create(ctx, d, metav1.CreateOptions{FieldManager: beginner})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create deployment %s/%s: %w", d.Namespace, d.Name, err)
	}
	return nil
}

// policies applies what says how many replicas there are: the calendar, the
// timetables, then the policies that name them.
func (p *Player) policies(ctx context.Context) error {
	s := p.o.Scenario
	if !s.Elastic() {
		return nil
	}
	first := []func() error{func() error { return p.apply(ctx, calendar(s)) }}
	for i := range s.Timetables {
		first = append(first, func() error { return p.apply(ctx, timetable(s, &s.Timetables[i])) })
	}
	if err := parallel(ctx, first); err != nil {
		return err
	}
	var all []func() error
	for i := range s.Modules {
		if m := &s.Modules[i]; m.Elastic != nil {
			all = append(all, func() error { return p.apply(ctx, elasticPolicy(s, m)) })
		}
	}
	return parallel(ctx, all)
}

func typeMeta(kind string) metav1.TypeMeta {
	return metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: kind}
}

// calendar also says in which zone the scenario's days begin.
func calendar(s *scenario.Scenario) *v1alpha1.HolidayCalendar {
	out := &v1alpha1.HolidayCalendar{
		TypeMeta:   typeMeta("HolidayCalendar"),
		ObjectMeta: metav1.ObjectMeta{Name: s.Name, Annotations: simulated()},
		Spec:       v1alpha1.HolidayCalendarSpec{TimeZone: s.Location.String(), Source: "scenario " + s.Name},
	}
	for _, d := range s.Calendar {
		kind := v1alpha1.DayMakeUp
		if d.Holiday {
			kind = v1alpha1.DayHoliday
		}
		out.Spec.Days = append(out.Spec.Days, v1alpha1.CalendarDay{Date: d.Date, Kind: kind, Name: d.Name})
	}
	return out
}

func timetable(s *scenario.Scenario, t *scenario.Timetable) *v1alpha1.Timetable {
	out := &v1alpha1.Timetable{
		TypeMeta:   typeMeta("Timetable"),
		ObjectMeta: metav1.ObjectMeta{Namespace: t.Namespace, Name: t.Name, Annotations: simulated()},
		Spec:       v1alpha1.TimetableSpec{Source: "scenario " + s.Name, TimeZone: s.Location.String()},
	}
	for _, c := range t.Sessions {
		out.Spec.Sessions = append(out.Spec.Sessions, v1alpha1.Session{
			ID: c.ID, Course: c.Course, Room: c.Room, Start: metav1.NewTime(c.Start.UTC()), Minutes: int32(c.Length / time.Minute),
			Enrolled: int32(c.Enrolled), Modules: c.Modules,
		})
	}
	return out
}

func decimal(v float64) v1alpha1.Decimal {
	return v1alpha1.Decimal(strings.TrimSuffix(strings.TrimRight(strconv.FormatFloat(v, 'f', 6, 64), "0"), "."))
}

func percent(perMil int64) v1alpha1.Percent {
	return v1alpha1.Percent(fmt.Sprintf("%d.%d%%", perMil/10, perMil%10))
}

func number(n *int) *int32 {
	if n == nil {
		return nil
	}
	v := int32(*n)
	return &v
}

func instant(t time.Time) *metav1.Time {
	if t.IsZero() {
		return nil
	}
	m := metav1.NewTime(t.UTC())
	return &m
}

// elasticPolicy returns the policy of a module.
func elasticPolicy(s *scenario.Scenario, m *scenario.Module) *v1alpha1.ElasticPolicy {
	e, key := m.Elastic, m.Key()
	out := &v1alpha1.ElasticPolicy{
		TypeMeta:   typeMeta("ElasticPolicy"),
		ObjectMeta: metav1.ObjectMeta{Namespace: m.Namespace, Name: m.Name, Annotations: simulated()},
	}
	spec := &out.Spec
	spec.TargetRef = v1alpha1.TargetRef{APIVersion: "apps/v1", Kind: key.Kind, Name: key.Name}
	spec.Mode, spec.Min, spec.Max, spec.HolidayCalendar = v1alpha1.Mode(e.Mode), int32(e.Min), int32(e.Max), s.Name
	spec.Load = &v1alpha1.ElasticLoad{
		Query:      v1alpha1.Query(fmt.Sprintf("sum(rate(http_requests_total{namespace=%q,module=%q}[$window]))", m.Namespace, m.Name)),
		PerReplica: decimal(e.PerReplica), Target: percent(e.TargetPerMil),
	}
	for _, l := range e.Manual {
		spec.Manual = append(spec.Manual, v1alpha1.ManualLayer{Name: l.Name, Pin: number(l.Pin), Floor: number(l.Floor), Cap: number(l.Cap),
			From: instant(l.From), Until: instant(l.Until), Reason: l.Reason, By: l.By})
	}
	for _, w := range e.Cron {
		c := v1alpha1.CronLayer{Name: w.Name, Start: fmt.Sprintf("%02d:%02d", int(w.Start.Hours()), int(w.Start.Minutes())%60), Duration: w.Duration.String(),
			TimeZone: s.Location.String(), Except: w.Except, Floor: number(w.Floor), Cap: number(w.Cap)}
		for _, d := range w.Days {
			c.Days = append(c.Days, v1alpha1.DayKind(d))
		}
		if w.Ramp > 0 {
			c.Ramp = w.Ramp.String()
		}
		spec.Cron = append(spec.Cron, c)
	}
	if t := e.Timetable; t != nil {
		spec.Timetable = &v1alpha1.TimetableLayer{Names: t.Names, PerSeat: decimal(t.PerSeat), ReleaseAfter: t.ReleaseAfter.String()}
	}
	if f := e.Forecast; f != nil {
		spec.Forecast = &v1alpha1.ForecastLayer{HistoryDays: int32(f.HistoryDays), UnderCost: decimal(f.UnderCost), MaxLift: decimal(f.MaxLift)}
	}
	spec.Reactive = &v1alpha1.ReactiveLayer{
		Tolerance:     v1alpha1.Tolerance{Up: percent(e.Reactive.UpPerMil), Down: percent(e.Reactive.DownPerMil)},
		Stabilization: e.Reactive.Stabilization.String(), PanicPercent: percent(e.Reactive.PanicPerMil),
	}
	for _, x := range e.Pools {
		pool := v1alpha1.PolicyPool{Name: x.Name}
		if x.Min > 0 {
			pool.Min = number(&x.Min)
		}
		if x.Max > 0 {
			pool.Max = number(&x.Max)
		}
		spec.Pools = append(spec.Pools, pool)
	}
	back := e.ScaleIn.Return
	spec.ScaleIn = &v1alpha1.ScaleIn{Watch: e.ScaleIn.Watch.String(), Step: percent(e.ScaleIn.StepPerMil), HoldIfNeededWithin: e.ScaleIn.HoldIfNeededWithin.String(), Return: &back}
	if h := e.Headroom; h != nil {
		spec.Headroom = &v1alpha1.Headroom{Percent: percent(h.PerMil)}
		if h.Max > 0 {
			spec.Headroom.Max = number(&h.Max)
		}
	}
	return out
}
