package convert

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	helper "k8s.io/component-helpers/resource"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/colocate"
	"github.com/neap-dev/neap/core/elastic"
	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/core/workload"
)

// Batch reports whether pod is of the batch class. All other pods are online, and
// so are those that every machine has, whatever their label.
func Batch(pod *corev1.Pod) bool {
	return pod.Labels[v1alpha1.LabelClass] == v1alpha1.ClassBatch && !daemon(pod)
}

// BatchNames are the resources that nodes of a policy offer to batch pods: CPU
// and memory in turn.
func BatchNames(r v1alpha1.BatchResources) []corev1.ResourceName {
	out := []corev1.ResourceName{v1alpha1.ResourceBatchCPU, v1alpha1.ResourceBatchMemory}
	if r == v1alpha1.BatchResourcesKubernetes {
		out = append(out, v1alpha1.ResourceKubernetesBatchCPU, v1alpha1.ResourceKubernetesBatchMemory)
	}
	return out
}

// BatchQuantities returns room in the words of the resources r: what a node's
// status says.
func BatchQuantities(room colocate.Room, r v1alpha1.BatchResources) corev1.ResourceList {
	out := corev1.ResourceList{}
	for i, name := range BatchNames(r) {
		if i%2 == 0 {
			out[name] = *apiresource.NewQuantity(max(room.CPUMilli, 0), apiresource.DecimalSI)
		} else {
			out[name] = *apiresource.NewQuantity(max(min(room.MemoryMiB, math.MaxInt64>>20), 0)<<20, apiresource.BinarySI)
		}
	}
	return out
}

// BatchRequest returns what pod asks of batch resources, by either of their
// names: its containers and sidecars together or its largest init container,
// whichever is more. Memory is rounded up to MiB.
func BatchRequest(pod *corev1.Pod) colocate.Room {
	return batchRoom(helper.PodRequests(pod, helper.PodResourcesOptions{}))
}

// BatchOffer returns what a node's status offers to batch pods: the larger where
// it goes by both names. Memory is rounded down to MiB.
func BatchOffer(node *corev1.Node) colocate.Room {
	value := func(name corev1.ResourceName) int64 {
		q := node.Status.Allocatable[name]
		return max(q.Value(), 0)
	}
	return colocate.Room{
		CPUMilli:  max(value(v1alpha1.ResourceBatchCPU), value(v1alpha1.ResourceKubernetesBatchCPU)),
		MemoryMiB: max(value(v1alpha1.ResourceBatchMemory), value(v1alpha1.ResourceKubernetesBatchMemory)) >> 20,
	}
}

func batchRoom(list corev1.ResourceList) colocate.Room {
	sum := func(names ...corev1.ResourceName) int64 {
		total := int64(0)
		for _, name := range names {
			q := list[name]
			total += min(max(q.Value(), 0), math.MaxInt64/4)
		}
		return total
	}
	return colocate.Room{
		CPUMilli:  sum(v1alpha1.ResourceBatchCPU, v1alpha1.ResourceKubernetesBatchCPU),
		MemoryMiB: (sum(v1alpha1.ResourceBatchMemory, v1alpha1.ResourceKubernetesBatchMemory) + 1<<20 - 1) >> 20,
	}
}

// BatchWord is what a user said about a batch pod.
type BatchWord struct {
	RunTime time.Duration // expected; 0: not said
	Freeze  time.Duration // how long it may be frozen; 0: not at all
	Saved   time.Time     // when it last saved its work; zero: not said
}

// longest is the longest duration that a user may say of a batch pod.
const longest = 30 * 24 * time.Hour

// BatchSays reads the annotations of a batch pod. What cannot be read counts as
// not said, and is in the error.
func BatchSays(pod *corev1.Pod) (BatchWord, error) {
	var w BatchWord
	var errs []error
	length := func(name string, into *time.Duration) {
		s, ok := pod.Annotations[name]
		if !ok {
			return
		}
		d, err := time.ParseDuration(s)
		if err != nil || d <= 0 || d > longest {
			errs = append(errs, fmt.Errorf("the annotation %s is %q: give a duration above 0 and up to 720h, such as 45m", name, s))
			return
		}
		*into = d
	}
	length(v1alpha1.AnnotationBatchRunTime, &w.RunTime)
	length(v1alpha1.AnnotationBatchFreeze, &w.Freeze)
	if s, ok := pod.Annotations[v1alpha1.AnnotationBatchCheckpointedAt]; ok {
		t, err := time.Parse(time.RFC3339, s)
		if err != nil {
			errs = append(errs, fmt.Errorf("the annotation %s is %q: give a time in RFC 3339, such as 2026-03-02T18:00:00Z", v1alpha1.AnnotationBatchCheckpointedAt, s))
		} else {
			w.Saved = t
		}
	}
	return w, errors.Join(errs...)
}

// BatchTask returns the task that a batch pod is. Its run time is what it says,
// else what was learnt of its owner, else usual; learnt may be nil. It started when
// it was bound; one of which nobody has told yet that it is bound has not started.
func BatchTask(pod *corev1.Pod, owner workload.Key, learnt map[workload.Key]time.Duration, usual time.Duration) colocate.Task {
	said, _ := BatchSays(pod)
	t := colocate.Task{
		Name:    pod.Namespace + "/" + pod.Name,
		Need:    BatchRequest(pod),
		RunTime: cmp.Or(said.RunTime, learnt[owner], usual),
		Saved:   said.Saved,
	}
	if at, ok := Bound(pod); ok && (pod.Status.StartTime != nil || at.After(pod.CreationTimestamp.Time)) {
		t.Started = at
	}
	return t
}

// LearntRunTimes returns how long pods took, by their owners, as policies have
// it in their status: the longest where several know an owner.
func LearntRunTimes(policies ...*v1alpha1.ColocationPolicy) map[workload.Key]time.Duration {
	out := map[workload.Key]time.Duration{}
	for _, p := range policies {
		for _, r := range p.Status.RunTimes {
			parts := strings.Split(r.Owner, "/")
			if len(parts) == 3 && r.P80.Duration > 0 {
				k := workload.Key{Namespace: parts[0], Kind: parts[1], Name: parts[2]}
				out[k] = max(out[k], r.P80.Duration)
			}
		}
	}
	return out
}

// DayHours is something of each hour of the day, from midnight UTC on.
type DayHours [24]int64

// A Peak is how much CPU one pod of an online workload uses at its highest.
type Peak struct {
	At    time.Time // until when its pods were measured
	Milli DayHours  // thousandths of a core; -1 is not known
}

// PeakLasts is how long a Peak holds of a workload that nobody measures: a week and a
// day, so that one that rests at weekends is still known.
const PeakLasts = 8 * 24 * time.Hour

// LearntPeaks returns how much pods of online workloads use, as policies have it in
// their status: the highest where several know an hour.
func LearntPeaks(policies ...*v1alpha1.ColocationPolicy) map[workload.Key]Peak {
	out := map[workload.Key]Peak{}
	for _, p := range policies {
		for _, l := range p.Status.OnlinePeaks {
			parts := strings.Split(l.Owner, "/")
			if len(parts) != 3 || len(l.HourlyMilli) != len(DayHours{}) {
				continue
			}
			k := workload.Key{Namespace: parts[0], Kind: parts[1], Name: parts[2]}
			peak, known := out[k]
			for h, v := range l.HourlyMilli {
				if v = max(v, -1); !known || v > peak.Milli[h] {
					peak.Milli[h] = v
				}
			}
			if l.MeasuredAt.After(peak.At) {
				peak.At = l.MeasuredAt.UTC()
			}
			out[k] = peak
		}
	}
	return out
}

// PodPeak returns how much CPU a pod is foreseen to use at most in each hour of the
// day: what was learnt of its owner, else what it asks for. In an hour in which its
// owner was never measured it is the higher of what it asks for and of what it uses in
// any other.
func PodPeak(pod *corev1.Pod, learnt map[workload.Key]Peak, now time.Time) DayHours {
	var owners Owners
	asks := Request(pod)[resource.CPU]
	peak, known := learnt[owners.Of(pod)]
	if age := now.Sub(peak.At).Abs(); !known || age > PeakLasts {
		for h := range peak.Milli {
			peak.Milli[h] = -1
		}
	}
	unknown := max(asks, slices.Max(peak.Milli[:]))
	for h, v := range peak.Milli {
		if v < 0 {
			peak.Milli[h] = unknown
		}
	}
	return peak.Milli
}

// A BatchCapacity is the annotation neap.dev/batch-capacity of a node: what batch
// pods may use there, in all, from now on.
type BatchCapacity struct {
	Policy string    `json:"policy"`
	At     time.Time `json:"at"`    // when it was decided
	Until  time.Time `json:"until"` // from then on it lends nothing

	Start       time.Time `json:"start"` // of the first step
	Step        Span      `json:"step"`
	CPUMilli    []int64   `json:"cpuMilli"`
	MemoryMiB   []int64   `json:"memoryMiB"`
	OnlineMilli []int64   `json:"onlineMilli,omitempty"` // the highest use foreseen of online pods and system

	Terms BatchTerms `json:"terms"`
	Binds string     `json:"binds,omitempty"`
	Why   string     `json:"why,omitempty"` // one sentence
}

// BatchTerms are the parts of a capacity of CPU, in thousandths of a core: see
// [colocate.Terms].
type BatchTerms struct {
	Machine    int64 `json:"machine"`
	Percent    int64 `json:"percent"`
	Allowed    int64 `json:"allowed"`
	Online     int64 `json:"online"`
	Unmeasured int64 `json:"unmeasured"`
	Risen      int64 `json:"risen"`
	Days       int64 `json:"days"`
}

// Span is a duration that is written such as "15m0s".
type Span time.Duration

// MarshalText writes it.
func (s Span) MarshalText() ([]byte, error) { return []byte(time.Duration(s).String()), nil }

// UnmarshalText reads it.
func (s *Span) UnmarshalText(text []byte) error {
	d, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("%q is no duration such as 15m", text)
	}
	*s = Span(d)
	return nil
}

// BatchLasts is how long a BatchCapacity holds that nobody renews.
const BatchLasts = 3 * time.Minute

// NewBatchCapacity returns what an offer says, in the name of a policy.
func NewBatchCapacity(policy string, o colocate.Offer) BatchCapacity {
	return BatchCapacity{
		Policy: policy, At: o.At.UTC(), Until: o.At.Add(BatchLasts).UTC(),
		Start: o.Curve.Start.UTC(), Step: Span(o.Curve.Step),
		CPUMilli: o.Curve.CPUMilli, MemoryMiB: o.Curve.MemoryMiB, OnlineMilli: o.Online.CPUMilli,
		Terms: BatchTerms{
			Machine: o.Terms.Machine.CPUMilli, Percent: o.Terms.Percent, Allowed: o.Terms.Allowed.CPUMilli, Online: o.Terms.Online.CPUMilli,
			Unmeasured: o.Terms.Unmeasured.CPUMilli, Risen: o.Terms.Risen.CPUMilli, Days: o.Terms.Days,
		},
		Binds: string(o.Binds), Why: o.Why,
	}
}

// String returns it as the annotation has it.
func (c BatchCapacity) String() string {
	raw, err := json.Marshal(c)
	if err != nil { // a year beyond 9999
		return "{}"
	}
	return string(raw)
}

// Curve returns what may be lent.
func (c BatchCapacity) Curve() colocate.Curve {
	return colocate.Curve{Start: c.Start, Step: time.Duration(c.Step), CPUMilli: c.CPUMilli, MemoryMiB: c.MemoryMiB}
}

// Online returns the highest use of CPU that is foreseen of online pods and the
// system from from until before to; false where nothing is foreseen.
func (c BatchCapacity) Online(from, to time.Time) (milli int64, known bool) {
	return c.OnlineWith(DayHours{}, from, to)
}

// OnlineWith is Online with what more pods use beside it in each hour of the day.
func (c BatchCapacity) OnlineWith(more DayHours, from, to time.Time) (milli int64, known bool) {
	steps := colocate.Curve{Start: c.Start, Step: time.Duration(c.Step), CPUMilli: c.OnlineMilli, MemoryMiB: c.OnlineMilli}
	for i := max(steps.Index(from), 0); i < steps.Steps() && (!known || steps.Begin(i).Before(to)); i++ {
		milli, known = max(milli, c.OnlineMilli[i]+more[steps.Begin(i).UTC().Hour()]), true
	}
	return milli, known
}

// Fresh reports whether it holds at now: it has not run out, and was not decided
// in a future that only a wrong clock knows.
func (c BatchCapacity) Fresh(now time.Time) bool {
	return now.Before(c.Until) && c.At.Sub(now) < BatchLasts
}

// mostSteps is how many steps a curve may have.
const mostSteps = 1000

// ErrNoBatchCapacity says that a node offers nothing to batch pods.
var ErrNoBatchCapacity = errors.New("no batch capacity was given to this node")

// NodeBatchCapacity reads a node's annotation. Without it the error is
// [ErrNoBatchCapacity].
func NodeBatchCapacity(node *corev1.Node) (BatchCapacity, error) {
	raw, ok := node.Annotations[v1alpha1.AnnotationBatchCapacity]
	if !ok {
		return BatchCapacity{}, ErrNoBatchCapacity
	}
	return ParseBatchCapacity(raw)
}

// ParseBatchCapacity reads what [BatchCapacity.String] wrote. The error says what
// is wrong; then nothing is lent.
func ParseBatchCapacity(raw string) (BatchCapacity, error) {
	bad := func(format string, a ...any) (BatchCapacity, error) {
		return BatchCapacity{}, fmt.Errorf("the annotation %s: "+format, append([]any{v1alpha1.AnnotationBatchCapacity}, a...)...)
	}
	var c BatchCapacity
	if err := json.Unmarshal([]byte(raw), &c); err != nil {
		return bad("%w", err)
	}
	switch n := len(c.CPUMilli); {
	case n == 0 || n > mostSteps:
		return bad("%d steps; a curve has 1 to %d", n, mostSteps)
	case len(c.MemoryMiB) != n:
		return bad("%d steps of CPU and %d of memory", n, len(c.MemoryMiB))
	case len(c.OnlineMilli) != 0 && len(c.OnlineMilli) != n:
		return bad("%d steps of CPU and %d of online use", n, len(c.OnlineMilli))
	case time.Duration(c.Step) < time.Minute || time.Duration(c.Step) > 24*time.Hour:
		return bad("a step of %v; it is 1m to 24h", time.Duration(c.Step))
	case c.Until.Before(c.At) || c.Until.Sub(c.At) > time.Hour:
		return bad("it holds from %v until %v; that is an hour at most", c.At, c.Until)
	}
	for _, all := range [][]int64{c.CPUMilli, c.MemoryMiB, c.OnlineMilli} {
		if i := slices.IndexFunc(all, func(v int64) bool { return v < 0 || v > math.MaxInt64>>21 }); i >= 0 {
			return bad("step %d is %d; it is 0 or more", i, all[i])
		}
	}
	return c, nil
}

// A ColocationReport is the annotation neap.dev/colocation of a node: what its
// agent sees and does.
type ColocationReport struct {
	At            time.Time `json:"at"`
	Policy        string    `json:"policy,omitempty"`
	Avoidance     string    `json:"avoidance"` // idle, weight+quota or none
	Step          string    `json:"step"`      // None, Idle, Quota, Memory, Freeze or Evict
	OnlineMilli   int64     `json:"onlineMilli"`
	BatchMilli    int64     `json:"batchMilli"`
	SystemMilli   int64     `json:"systemMilli"`
	BudgetMilli   int64     `json:"budgetMilli"`
	Why           string    `json:"why,omitempty"`
	ForeignWrites int64     `json:"foreignWrites,omitempty"`
}

// NodeColocation reads a node's annotation; nil if it has none.
func NodeColocation(node *corev1.Node) (*ColocationReport, error) {
	raw, ok := node.Annotations[v1alpha1.AnnotationColocation]
	if !ok {
		return nil, nil
	}
	r := new(ColocationReport)
	if err := json.Unmarshal([]byte(raw), r); err != nil {
		return nil, fmt.Errorf("the annotation %s of node %s: %w", v1alpha1.AnnotationColocation, node.Name, err)
	}
	return r, nil
}

// ColocationOf returns the policy that holds for a node: of those that select it,
// the one of the highest priority, then the first by name; nil if none does. A
// virtual node has none, nor has a policy that is being deleted any node.
func ColocationOf(node *corev1.Node, policies []*v1alpha1.ColocationPolicy, pools *Pools) *v1alpha1.ColocationPolicy {
	if Virtual(node, pools) {
		return nil
	}
	var best *v1alpha1.ColocationPolicy
	for _, p := range policies {
		if p.DeletionTimestamp != nil || !selects(p.Spec.NodeSelector, node) {
			continue
		}
		if best == nil || cmp.Or(cmp.Compare(best.Spec.Priority, p.Spec.Priority), strings.Compare(p.Name, best.Name)) < 0 {
			best = p
		}
	}
	return best
}

func selects(s *metav1.LabelSelector, node *corev1.Node) bool {
	if s == nil {
		return true
	}
	sel, err := metav1.LabelSelectorAsSelector(s)
	return err == nil && sel.Matches(labels.Set(node.Labels))
}

// A Colocation is what a ColocationPolicy declares about capacity.
type Colocation struct {
	Policy  colocate.Policy  // its Windows are left nil: they are those of Hours around now
	Hours   []colocate.Hours // see [colocate.Windows]
	History time.Duration    // how much of the past is learnt from
	Leaving colocate.Leaving
	Grace   time.Duration // that an evicted pod has to end by itself
}

// DeclaredColocation returns what p declares; days may be nil. The error names
// the field, what is wrong with it and what to write instead.
func DeclaredColocation(p *v1alpha1.ColocationPolicy, days elastic.Calendar) (Colocation, error) {
	s := &p.Spec
	var errs []error
	duration := func(field, text string, usual time.Duration) time.Duration {
		d, err := time.ParseDuration(cmp.Or(text, usual.String()))
		if err != nil || d <= 0 {
			errs = append(errs, fmt.Errorf("%s: %q is no duration above 0 such as %s", field, text, usual))
			return usual
		}
		return d
	}
	out := Colocation{
		Policy: colocate.Policy{
			CPUPercent: int64(cmp.Or(s.CPUPercent, 80)), MemoryPercent: int64(cmp.Or(s.MemoryPercent, 80)),
			Quantile:     float64(s.Capacity.QuantilePercent) / 100,
			RunTime:      duration("capacity.defaultRunTime", s.Capacity.DefaultRunTime, time.Hour),
			RisePercent:  int64(cmp.Or(s.Capacity.RisePercentPer5Minutes, 10)),
			MinimumMilli: s.Capacity.MinimumMilli,
		},
		History: time.Duration(cmp.Or(s.Capacity.HistoryDays, 14)) * 24 * time.Hour,
		Grace:   duration("evictions.gracePeriod", s.Evictions.GracePeriod, 30*time.Second),
	}
	out.Leaving = colocate.Leaving{Notice: out.Grace + time.Minute, PerHour: int64(cmp.Or(s.Evictions.PerHour, 10))}
	for _, w := range s.Windows {
		hours, err := windowHours(w, out.Policy.MemoryPercent, days)
		if err != nil {
			errs = append(errs, fmt.Errorf("window %s: %w", w.Name, err))
			continue
		}
		out.Hours = append(out.Hours, hours...)
	}
	if err := errors.Join(errs...); err != nil {
		return out, fmt.Errorf("colocation policy %s: %w", p.Name, err)
	}
	return out, nil
}

// windowHours returns the hours of a window: one for each kind of day that it
// names, for a day that is one of them counts.
func windowHours(w v1alpha1.ColocationWindow, memory int64, days elastic.Calendar) ([]colocate.Hours, error) {
	h := colocate.Hours{Name: w.Name, CPUPercent: int64(w.CPUPercent), MemoryPercent: memory, Calendar: days}
	if w.MemoryPercent != nil {
		h.MemoryPercent = int64(*w.MemoryPercent)
	}
	var err error
	if h.From, err = elastic.ParseClock(w.From); err != nil {
		return nil, fmt.Errorf("from: %w", err)
	}
	if h.To = 24 * time.Hour; w.To != "24:00" {
		if h.To, err = elastic.ParseClock(w.To); err != nil {
			return nil, fmt.Errorf("to: %w", err)
		}
	}
	if h.Location, err = time.LoadLocation(cmp.Or(w.TimeZone, "UTC")); err != nil {
		return nil, fmt.Errorf("timeZone %q is no IANA zone such as Asia/Shanghai", w.TimeZone)
	}
	if len(w.Days) == 0 {
		return []colocate.Hours{h}, nil
	}
	var out []colocate.Hours
	for _, kind := range w.Days {
		one := h
		if day, ok := weekdays[kind]; ok {
			one.Days = []time.Weekday{day}
		} else {
			one.WorkingDays = true
			if kind != v1alpha1.DayWorkday {
				one.Calendar = only{days, dayTypes[kind]}
			}
		}
		out = append(out, one)
	}
	return out, nil
}

// only is a calendar in which the days of one kind are the working days.
type only struct {
	days elastic.Calendar
	kind elastic.DayType
}

// DayType implements [elastic.Calendar].
func (o only) DayType(t time.Time) elastic.DayType {
	kind := elastic.Workday
	if o.days != nil {
		kind = o.days.DayType(t)
	} else if w := t.Weekday(); w == time.Saturday || w == time.Sunday {
		kind = elastic.Weekend
	}
	if kind == o.kind {
		return elastic.Workday
	}
	return elastic.Weekend
}
