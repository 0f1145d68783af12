package scaler

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/elastic"
	"github.com/neap-dev/neap/core/quality"
	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/core/timetable"
	"github.com/neap-dev/neap/kube/convert"
	"github.com/neap-dev/neap/kube/moduleload"
	"github.com/neap-dev/neap/metrics"
)

var updateOptions = metav1.UpdateOptions{FieldManager: "neap-scaler"}

// An observation is what is known of one policy in one minute. Where something
// is not known, the error beside it says why.
type observation struct {
	Now      time.Time
	Policy   *v1alpha1.ElasticPolicy
	Declared convert.Elastic
	Invalid  error    // why the spec makes no sense
	Missing  []string // what it names and is not there, one clause each

	target    target
	TargetErr error
	Rival     string // who else sets the replicas, such as "HorizontalPodAutoscaler web"
	Paused    string // what says so; "" if nothing does

	Current, Ready int
	Pods           []*corev1.Pod
	Rollout        bool
	Pending        time.Duration // how long the oldest pod without a machine has waited
	Pools          []elastic.Pool
	kinds          map[string]v1alpha1.PoolKind
	readyIn        map[string]int
	roomSince      map[string]time.Time // by pool, where there is room

	Load    float64 // units a second; NaN: not known
	Metrics []elastic.Metric
	LoadErr error // why a figure that is followed is not known

	Class    elastic.Class
	Forecast elastic.Forecast
	Horizon  time.Duration
	Learnt   *learnt // nil: no forecast is declared

	Guard    quality.Status
	GuardErr error

	State  elastic.State
	ActErr error
}

// A target is a workload as its /scale shows it.
type target struct {
	scale    *autoscalingv1.Scale
	resource schema.GroupResource
	paused   bool
}

// declared keeps what a policy declares until it changes.
type declared struct {
	generation int64
	elastic    convert.Elastic
	err        error
}

// A request is what one replica asks for; known is false before one was seen.
type request struct {
	vector resource.Vector
	known  bool
}

// classes keeps what the timetables and the calendar say until they change.
type classes struct {
	versions string
	table    timetable.Timetable
	options  timetable.Options
	tableErr error

	calendarVersion string
	days            elastic.Calendar
	zone            *time.Location
	daysErr         error
}

// observe finds out what there is to know of p.
func (s *Scaler) observe(ctx context.Context, w *world, p *v1alpha1.ElasticPolicy, st *state) *observation {
	seen := &observation{Now: w.now, Policy: p, Load: math.NaN(), State: st.decision}
	if d := &st.declared; d.generation != p.Generation || d.elastic.Policy.Max == 0 {
		d.generation = p.Generation
		d.elastic, d.err = convert.DeclaredElastic(p)
	}
	seen.Declared, seen.Invalid = st.declared.elastic, st.declared.err
	key := seen.Declared.Key

	// 1. The target, and whether it is ours.
	seen.target, seen.TargetErr = s.target(ctx, p)
	if p.Annotations[v1alpha1.AnnotationPause] == "true" {
		seen.Paused = "the policy"
	} else if seen.target.paused {
		seen.Paused = "its target"
	}
	seen.Rival = w.rivals[key]
	if first := w.first[key]; first != nil && first.UID != p.UID {
		seen.Rival = "ElasticPolicy " + first.Name
	}
	if seen.TargetErr != nil {
		return seen
	}

	// 2. Its pods.
	seen.Current, seen.Ready = int(seen.target.scale.Spec.Replicas), int(seen.target.scale.Status.Replicas)
	if sel, err := labels.Parse(seen.target.scale.Status.Selector); err == nil && seen.target.scale.Status.Selector != "" {
		seen.Pods = w.pods.find(p.Namespace, sel)
		seen.Ready = s.lookAtPods(seen, st)
	}
	s.lookAtPools(w, st, seen)
	s.lookAtPrices(w, st, seen)

	// 3. What it is asked for, now and soon.
	s.lookAtClasses(w, p, st, seen)
	s.lookAtLoad(ctx, w, st, seen)
	return seen
}

// target reads the /scale of what p names, and whether it is paused.
func (s *Scaler) target(ctx context.Context, p *v1alpha1.ElasticPolicy) (target, error) {
	ref := p.Spec.TargetRef
	gv, err := schema.ParseGroupVersion(cmp.Or(ref.APIVersion, "apps/v1"))
	if err != nil {
		return target{}, err
	}
	kind := gv.WithKind(cmp.Or(ref.Kind, "Deployment"))
	mapping, err := s.o.Mapper.RESTMapping(kind.GroupKind(), kind.Version)
	if err != nil {
		return target{}, err
	}
	t := target{resource: mapping.Resource.GroupResource()}
	if t.scale, err = s.o.Scales.Scales(p.Namespace).Get(ctx, t.resource, ref.Name, metav1.GetOptions{}); err != nil {
		return target{}, err
	}
	var object metav1.PartialObjectMetadata
	object.SetGroupVersionKind(kind)
	if err := s.o.Live.Get(ctx, client.ObjectKey{Namespace: p.Namespace, Name: ref.Name}, &object); err != nil {
		return target{}, err
	}
	t.paused = object.Annotations[v1alpha1.AnnotationPause] == "true"
	return t, nil
}

// revisionLabels are where workloads write which revision a pod is of.
var revisionLabels = []string{"pod-template-hash", "controller-revision-hash", "rollouts-pod-template-hash"}

// lookAtPods learns from the pods and returns how many are ready.
func (s *Scaler) lookAtPods(seen *observation, st *state) (ready int) {
	revisions := map[string]bool{}
	var newest *corev1.Pod
	for _, pod := range seen.Pods {
		if _, ok := convert.BecameReady(pod); ok {
			ready++
		}
		for _, l := range revisionLabels {
			if v := pod.Labels[l]; v != "" {
				revisions[v] = true
				break
			}
		}
		if pod.Spec.NodeName == "" {
			seen.Pending = max(seen.Pending, s.births.age(pod.UID, seen.Now))
		}
		if newest == nil || pod.CreationTimestamp.After(newest.CreationTimestamp.Time) || pod.CreationTimestamp.Equal(&newest.CreationTimestamp) && pod.Name > newest.Name {
			newest = pod
		}
	}
	seen.Rollout = len(revisions) > 1
	if newest != nil {
		st.replica = request{convert.Request(newest), true}
	}
	return ready
}

// Start times where nothing was learnt yet.
const (
	defaultStart   = 5 * time.Minute
	machineStart   = 3 * time.Minute // to buy a machine, on top of the start on it
	decisionsApart = time.Minute     // what is asked for later comes later

	refusedAfter = 30 * time.Second // a provider that only paces creates has taken a replica by then
	refusedFor   = 5 * time.Minute  // how long a provider that refused is not asked for more
)

// lookAtPools counts the pods by pool, learns how long they take to start, and
// finds the room there is.
func (s *Scaler) lookAtPools(w *world, st *state, seen *observation) {
	p := seen.Policy
	counted := st.counted
	in, refused := map[string]int{}, map[string]int{}
	seen.kinds, seen.readyIn = map[string]v1alpha1.PoolKind{}, map[string]int{}
	for _, pod := range seen.Pods {
		pool := w.poolOf[pod.Spec.NodeName]
		switch {
		case pod.Spec.NodeName == "":
		case convert.Refused(pod) && s.births.age(pod.UID, seen.Now) > refusedAfter:
			refused[pool]++
		default:
			in[pool]++
		}
		if _, ok := convert.BecameReady(pod); ok {
			seen.readyIn[pool]++
		}
		if took, at, ok := w.births.after(pod.UID, st.counted); ok && pod.Spec.NodeName != "" {
			if st.starts[pool] == nil {
				st.starts[pool] = &startTimes{}
			}
			st.starts[pool].add(took)
			counted = max(counted, at)
		}
	}
	st.counted = counted

	for _, declared := range p.Spec.Pools {
		pool := elastic.Pool{Name: declared.Name, Max: elastic.None, Room: elastic.None, Pods: in[declared.Name], Start: seen.start(w, st, declared.Name)}
		if declared.Min != nil {
			pool.Min = int(*declared.Min)
		}
		if declared.Max != nil {
			pool.Max = int(*declared.Max)
		}
		d := w.declared[declared.Name]
		if d == nil {
			seen.Missing = append(seen.Missing, fmt.Sprintf("ResourcePool %s, which spec.pools names, does not exist", declared.Name))
			pool.Room = 0
			seen.Pools = append(seen.Pools, pool)
			continue
		}
		seen.kinds[declared.Name] = cmp.Or(d.Spec.Kind, v1alpha1.PoolMachines)
		pool.Serverless = d.Spec.Kind == v1alpha1.PoolServerless
		pool.Room, pool.Grow = roomIn(w, declared.Name, st.replica)
		pool.GrowStart = pool.Start + machineStart
		if seen.Pending > pool.GrowStart {
			pool.Grow = 0 // nobody buys machines, or there are none to be had
		}
		if n := refused[declared.Name]; n > 0 {
			st.refusedAt[declared.Name] = seen.Now
			seen.Missing = append(seen.Missing, fmt.Sprintf("the provider of ResourcePool %s refuses %d replicas: its quota may be used up", declared.Name, n))
		}
		if at, ok := st.refusedAt[declared.Name]; ok && seen.Now.Sub(at) < refusedFor && !at.After(seen.Now) {
			pool.Room = 0
		}
		seen.Pools = append(seen.Pools, pool)
	}
	// What is asked for now must do until what is asked for next is there.
	slowest := time.Duration(0)
	if len(seen.Pools) == 0 {
		slowest = seen.start(w, st, "")
		for name := range st.starts {
			slowest = max(slowest, seen.start(w, st, name))
		}
	}
	for _, pool := range seen.Pools {
		slowest = max(slowest, pool.Start)
	}
	seen.Horizon = slowest + decisionsApart
}

// start returns how long a replica takes to start in a pool: what was learnt of
// this workload, else what the status remembers, else what the pool's pods took.
func (seen *observation) start(w *world, st *state, pool string) time.Duration {
	if t := st.starts[pool]; t != nil {
		if p95, ok := t.p95(); ok {
			return p95
		}
	}
	for _, s := range seen.Policy.Status.Pools {
		if s.Name == pool && s.StartP95 != nil && s.StartP95.Duration > 0 {
			return s.StartP95.Duration
		}
	}
	if d := w.declared[pool]; d != nil && d.Status.Start != nil && d.Status.Start.P95.Duration > 0 {
		return d.Status.Start.P95.Duration
	}
	if pool == "" && len(st.starts) > 0 {
		return 0 // the pools that it is in say more
	}
	return defaultStart
}

// roomIn returns how many more replicas fit in a pool now, and how many more once
// it has the machines that its limit allows.
func roomIn(w *world, name string, replica request) (room, grow int) {
	pool, ok := w.pools.Get(name)
	if !ok {
		return 0, 0
	}
	machines, total, limited := pool.Limit()
	if pool.Kind == v1alpha1.PoolServerless {
		if !limited || !replica.known {
			return elastic.None, 0
		}
		left := int64(math.MaxInt32)
		for _, k := range resource.All {
			if total[k] > 0 && replica.vector[k] > 0 {
				left = min(left, max(total[k]-w.free().asked[name][k], 0)/replica.vector[k])
			}
		}
		if left == math.MaxInt32 {
			return elastic.None, 0
		}
		return int(left), 0
	}
	if !replica.known {
		return elastic.None, 0
	}
	rooms := w.free().rooms[name]
	for _, r := range rooms {
		room += r.fits(r.free, replica.vector)
	}
	if more := int(machines) - len(rooms); limited && machines >= 0 && more > 0 && len(rooms) > 0 {
		biggest := 0
		for _, r := range rooms {
			biggest = max(biggest, r.fits(r.empty, replica.vector))
		}
		grow = more * biggest
	}
	return room, grow
}

// lookAtClasses finds out which days and classes there are.
func (s *Scaler) lookAtClasses(w *world, p *v1alpha1.ElasticPolicy, st *state, seen *observation) {
	c := &st.classes
	// 1. The calendar.
	calendar := w.calendars[p.Spec.HolidayCalendar]
	version := p.Spec.HolidayCalendar
	if calendar != nil {
		version += "@" + calendar.ResourceVersion
	}
	if c.calendarVersion != version || c.zone == nil {
		c.calendarVersion, c.days, c.zone, c.daysErr = version, nil, time.UTC, nil
		for _, sched := range seen.Declared.Policy.Schedules {
			c.zone = cmp.Or(sched.Zone, time.UTC)
			break
		}
		if calendar != nil {
			days, err := convert.Days(calendar)
			c.days, c.daysErr = days, err
			if zone, err := time.LoadLocation(cmp.Or(calendar.Spec.TimeZone, "UTC")); err == nil {
				c.zone = zone
			}
		}
	}
	if calendar == nil && p.Spec.HolidayCalendar != "" {
		seen.Missing = append(seen.Missing, fmt.Sprintf("HolidayCalendar %s does not exist", p.Spec.HolidayCalendar))
	} else if c.daysErr != nil {
		seen.Missing = append(seen.Missing, c.daysErr.Error())
	}
	seen.Declared.Policy.Calendar = c.days

	// 2. The classes.
	layer := p.Spec.Timetable
	if layer == nil {
		return
	}
	var versions strings.Builder
	fmt.Fprint(&versions, p.Generation)
	for _, name := range layer.Names {
		for _, t := range convert.Parts(w.timetables, p.Namespace, name) {
			fmt.Fprint(&versions, " ", t.Name, "@", t.ResourceVersion)
		}
	}
	if v := versions.String(); c.versions != v {
		c.versions = v
		c.table, c.options, c.tableErr = convert.Classes(layer, p.Namespace, p.Spec.TargetRef.Name, w.timetables)
	}
	if c.tableErr != nil {
		seen.Missing = append(seen.Missing, c.tableErr.Error())
	}
	st.demand.mu.Lock()
	attendance := st.demand.attendance
	st.demand.mu.Unlock()
	options := c.options
	if carries := seen.Declared.Policy.Carries; carries > 0 {
		options.Fill = seen.Declared.Policy.Unit / carries
	}
	seen.Class = attendance.Class(c.table, w.now, seen.Horizon, options)
}

// lookAtLoad asks for the load and for what else is followed, and what is foretold.
func (s *Scaler) lookAtLoad(ctx context.Context, w *world, st *state, seen *observation) {
	d := &seen.Declared
	if d.LoadQuery != st.demand.query {
		st.demand = &demand{query: d.LoadQuery}
	}
	if d.LoadQuery != "" {
		seen.Load, seen.LoadErr = s.ask(ctx, st, d.LoadQuery, w.now)
		// Without a reactive layer the load is not followed, but its loss holds.
		if d.Reactive || seen.LoadErr != nil {
			seen.Metrics = append(seen.Metrics, elastic.Metric{Name: "load", Total: seen.Load, Burst: seen.Load, PerReplica: d.Policy.Unit})
		}
	}
	for _, m := range d.Metrics {
		v, err := s.ask(ctx, st, m.Query, w.now)
		if err != nil && seen.LoadErr == nil {
			seen.LoadErr = fmt.Errorf("metric %s: %w", m.Name, err)
		}
		seen.Metrics = append(seen.Metrics, elastic.Metric{Name: m.Name, Total: v, PerReplica: m.PerReplica})
	}
	seen.Forecast = elastic.Forecast{Demand: math.NaN(), Return: math.NaN(), Soon: math.NaN()}
	if d.LoadQuery != "" && (d.History > 0 || seen.Policy.Spec.Timetable != nil) {
		s.foretell(ctx, w, st, seen)
	}
}

// windows are the stretches over which a query is asked, shortest first: counters
// that are scraped once a minute say nothing about a single one.
var windows = []time.Duration{time.Minute, 2 * time.Minute, 5 * time.Minute}

// ask returns the one value that a query has now. What is not a number of its
// own is an error that says what to do.
func (s *Scaler) ask(ctx context.Context, st *state, query string, now time.Time) (float64, error) {
	if s.o.Metrics == nil {
		return math.NaN(), errors.New("there are no metrics to ask: give the controller --prometheus")
	}
	tries := windows
	if st.demand.window != 0 {
		tries = []time.Duration{st.demand.window}
	}
	for _, window := range tries {
		v, err := moduleload.One(ctx, s.o.Metrics, query, now.Add(-window), now)
		if err != nil && !metrics.Partial(err) {
			return math.NaN(), err
		}
		if err == nil && v >= 0 && !math.IsInf(v, 1) {
			st.demand.window, st.demand.silent = window, 0
			return v, nil
		}
	}
	// A window that worked is kept for a while, so that late metrics are seen to be
	// late, and not averaged with what was before.
	if st.demand.silent++; st.demand.silent >= 10 {
		st.demand.window = 0
	}
	return math.NaN(), fmt.Errorf("the query gives no number now: try it in Prometheus with $window as %ds: %s", int(windows[1].Seconds()), query)
}

// guardWindow is over how long the quality is judged before replicas go.
const guardWindow = 5 * time.Minute

// guard says whether the Module of the target keeps its quality now; "" if it
// promises none.
func (s *Scaler) guard(ctx context.Context, w *world, seen *observation) (quality.Status, error) {
	m := w.modules[seen.Declared.Key]
	if m == nil {
		return "", nil
	}
	declared, err := convert.DeclaredModule(m)
	if err != nil {
		return quality.Unknown, err
	}
	if !declared.Guarded() {
		return "", nil
	}
	if s.o.Metrics == nil {
		return quality.Unknown, errors.New("there are no metrics to ask: give the controller --prometheus")
	}
	l, err := moduleload.Ask(ctx, s.o.Metrics, declared, w.now.Add(-guardWindow), w.now)
	switch {
	case l.Known && l.Met:
		return quality.Met, nil
	case l.Known:
		return quality.Broken, nil
	case err == nil && l.Requests == 0:
		return quality.Met, nil // nobody asked, so nobody was let down
	}
	return quality.Unknown, err
}
