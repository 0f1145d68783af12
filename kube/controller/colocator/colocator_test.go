package colocator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/yaml"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/core/machine"
	"github.com/neap-dev/neap/core/money"
	"github.com/neap-dev/neap/kube/convert"
	"github.com/neap-dev/neap/metrics"
)

var monday = time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC)

// A plant is what the metrics say: cores by pod and by node, as functions of time.
type plant struct {
	mu    sync.Mutex
	cores map[string]float64 // by namespace/pod
	// past is what all containers of a node used, in cores; nil knows nothing.
	past func(node string, at time.Time) float64
	// pod is what a pod used at its highest in the hour until at, in cores; nil knows
	// nothing.
	pod func(name string, at time.Time) float64
	p99 float64 // of every Module
	err error
}

func (p *plant) Instant(_ context.Context, query string, at time.Time) ([]metrics.Series, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return nil, p.err
	}
	point := func(v float64) []metrics.Point { return []metrics.Point{{T: at, V: v}} }
	if strings.HasPrefix(query, "p99") {
		return []metrics.Series{{Points: point(p.p99)}}, nil
	}
	if !strings.HasPrefix(query, "sum by (namespace,pod)") {
		return nil, nil // what nodes use in all nobody measures
	}
	var out []metrics.Series
	for name, cores := range p.cores {
		ns, pod, _ := strings.Cut(name, "/")
		v := cores
		if strings.Contains(query, metrics.MemoryBytes) {
			v = cores * (1 << 30)
		}
		out = append(out, metrics.Series{Labels: map[string]string{"namespace": ns, "pod": pod}, Points: point(v)})
	}
	return out, nil
}

func (p *plant) Range(_ context.Context, query string, from, to time.Time, step time.Duration) ([]metrics.Series, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil && p.pod != nil && strings.HasPrefix(query, "quantile_over_time(0.95,") {
		var out []metrics.Series
		for name := range p.cores {
			ns, pod, _ := strings.Cut(name, "/")
			s := metrics.Series{Labels: map[string]string{"namespace": ns, "pod": pod}}
			for t := from; !t.After(to); t = t.Add(step) {
				s.Points = append(s.Points, metrics.Point{T: t, V: p.pod(name, t)})
			}
			out = append(out, s)
		}
		return out, nil
	}
	if p.err != nil || p.past == nil || !strings.HasPrefix(query, "max_over_time(sum by (node)") {
		return nil, p.err
	}
	var out []metrics.Series
	for _, n := range []string{"a", "b"} {
		s := metrics.Series{Labels: map[string]string{"node": n}}
		for t := from; !t.After(to); t = t.Add(step) {
			s.Points = append(s.Points, metrics.Point{T: t, V: p.past(n, t)})
		}
		out = append(out, s)
	}
	return out, nil
}

// A book is a ledger and a memory.
type book struct {
	rows  []bill.Decision
	state map[string]string
}

func (b *book) AppendDecision(_ context.Context, d bill.Decision) error {
	for _, r := range b.rows {
		if r.ID == d.ID {
			return nil
		}
	}
	b.rows = append(b.rows, d)
	return nil
}

func (b *book) SetState(_ context.Context, key, value string) error {
	b.state[key] = value
	return nil
}

func (b *book) State(_ context.Context, key string) (string, error) { return b.state[key], nil }

func (b *book) row(action string) *bill.Decision {
	for i := range b.rows {
		if b.rows[i].Action == action {
			return &b.rows[i]
		}
	}
	return nil
}

// A yard is a cluster in memory: two nodes, a and b, of 16 cores and 64 GiB.
type yard struct {
	t      testing.TB
	c      client.Client
	clock  *clocktesting.FakeClock
	plant  *plant
	book   *book
	co     *Colocator
	evicts []string
	refuse error // of the next evictions
	writes int   // of nodes
}

const valley = `{mode: Auto, cpuPercent: 80, memoryPercent: 80, priority: 0,
  windows: [{name: evening, from: "18:00", to: "22:30", timeZone: UTC, cpuPercent: 0}],
  ladder: {idle: Auto, quota: true, memory: true, evict: true}, evictions: {perHour: 10, gracePeriod: 30s}}`

func newYard(t testing.TB, policy string, more ...client.Object) *yard {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	y := &yard{t: t, clock: clocktesting.NewFakeClock(monday), plant: &plant{cores: map[string]float64{}, p99: 0.1}, book: &book{state: map[string]string{}}}
	p := &v1alpha1.ColocationPolicy{ObjectMeta: metav1.ObjectMeta{Name: "valley", UID: "valley", Generation: 1}}
	if err := yaml.UnmarshalStrict([]byte(policy), &p.Spec); err != nil {
		t.Fatal(err)
	}
	objects := append([]client.Object{p, machineNode("a"), machineNode("b"), lease("a"), lease("b")}, more...)
	y.c = fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).WithStatusSubresource(&v1alpha1.ColocationPolicy{}, &corev1.Node{}).
		WithInterceptorFuncs(interceptor.Funcs{
			Patch: func(ctx context.Context, c client.WithWatch, obj client.Object, patch client.Patch, opts ...client.PatchOption) error {
				if _, ok := obj.(*corev1.Node); ok {
					y.writes++
				}
				return c.Patch(ctx, obj, patch, opts...)
			},
			SubResourceCreate: func(ctx context.Context, c client.Client, _ string, obj, sub client.Object, _ ...client.SubResourceCreateOption) error {
				if y.refuse != nil {
					return y.refuse
				}
				if e := sub.(*policyv1.Eviction); *e.DeleteOptions.GracePeriodSeconds != 30 || *e.DeleteOptions.Preconditions.UID != obj.GetUID() {
					t.Errorf("evicted with %+v", e.DeleteOptions)
				}
				y.evicts = append(y.evicts, obj.GetName())
				return c.Delete(ctx, obj)
			},
		}).Build()
	y.restart()
	return y
}

// restart puts a new process in the place of the one before.
func (y *yard) restart() {
	prices := machine.NewPriceBook("USD")
	if err := prices.Set(time.Time{}, machine.Type{Name: "m", Currency: "USD", List: money.PerHour(money.Unit), Capacity: [3]int64{16000, 64 << 30}}); err != nil {
		y.t.Fatal(err)
	}
	co, err := New(Options{
		Client: y.c, Live: y.c, Clock: y.clock, Observed: true, Metrics: y.plant, Ledger: y.book, Memory: y.book,
		Prices: func() *machine.PriceBook { return prices }, Lasts: 30 * time.Minute, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		y.t.Fatal(err)
	}
	y.co = co
}

// minute lets d pass and decides. Agents live meanwhile.
func (y *yard) minute(d time.Duration) {
	y.t.Helper()
	for left := d; ; left -= time.Minute {
		y.clock.Step(min(max(left, 0), time.Minute))
		var pods corev1.PodList
		if err := y.c.List(context.Background(), &pods); err != nil {
			y.t.Fatal(err)
		}
		for i := range pods.Items {
			y.co.Pod(&pods.Items[i])
		}
		if err := y.co.Minute(context.Background()); err != nil {
			y.t.Fatal(err)
		}
		if left <= time.Minute {
			return
		}
	}
}

func (y *yard) node(name string) *corev1.Node {
	y.t.Helper()
	n := &corev1.Node{}
	if err := y.c.Get(context.Background(), types.NamespacedName{Name: name}, n); err != nil {
		y.t.Fatal(err)
	}
	return n
}

// offered is what a node's status offers, in thousandths of a core.
func (y *yard) offered(name string) int64 {
	q := y.node(name).Status.Allocatable[v1alpha1.ResourceBatchCPU]
	return q.Value()
}

func (y *yard) capacity(name string) convert.BatchCapacity {
	y.t.Helper()
	c, err := convert.NodeBatchCapacity(y.node(name))
	if err != nil {
		y.t.Fatal(err)
	}
	return c
}

func (y *yard) policy() *v1alpha1.ColocationPolicy {
	y.t.Helper()
	p := &v1alpha1.ColocationPolicy{}
	if err := y.c.Get(context.Background(), types.NamespacedName{Name: "valley"}, p); err != nil {
		y.t.Fatal(err)
	}
	return p
}

func (y *yard) condition(kind string) string {
	y.t.Helper()
	if c := meta.FindStatusCondition(y.policy().Status.Conditions, kind); c != nil {
		return string(c.Status) + " " + c.Reason + " " + c.Message
	}
	return ""
}

// use makes a pod use so many cores, and as many GiB.
func (y *yard) use(pod string, cores float64) { y.plant.cores[pod] = cores }

func machineNode(name string) *corev1.Node {
	l := corev1.ResourceList{corev1.ResourceCPU: apiresource.MustParse("16"), corev1.ResourceMemory: apiresource.MustParse("64Gi"), corev1.ResourcePods: apiresource.MustParse("110")}
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), Labels: map[string]string{corev1.LabelInstanceTypeStable: "m"}},
		Status:     corev1.NodeStatus{Capacity: l, Allocatable: l.DeepCopy()},
	}
}

func lease(node string) *coordinationv1.Lease {
	now := metav1.NowMicro()
	now.Time = now.Add(time.Hour) // the tests are shorter than that
	return &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: "neap-system", Name: "neap-agent-" + node}, Spec: coordinationv1.LeaseSpec{RenewTime: &now}}
}

func onlinePod(name, node, cpu string) *corev1.Pod {
	yes := true
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID(name), OwnerReferences: []metav1.OwnerReference{{Kind: "ReplicaSet", Name: "web-1", Controller: &yes}}, Labels: map[string]string{"pod-template-hash": "1"}},
		Spec: corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: apiresource.MustParse(cpu), corev1.ResourceMemory: apiresource.MustParse("2Gi")},
		}}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning},
	}
}

func batchPod(name, node string, milli int64, runTime string) *corev1.Pod {
	p := onlinePod(name, node, "0")
	yes := true
	p.Namespace, p.Labels = "etl", map[string]string{v1alpha1.LabelClass: v1alpha1.ClassBatch}
	p.OwnerReferences = []metav1.OwnerReference{{Kind: "Job", Name: "nightly-29000000", Controller: &yes}}
	p.Annotations = map[string]string{v1alpha1.AnnotationBatchRunTime: runTime}
	if runTime == "" {
		p.Annotations = nil
	}
	p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{
		v1alpha1.ResourceBatchCPU: *apiresource.NewQuantity(milli, apiresource.DecimalSI), v1alpha1.ResourceBatchMemory: *apiresource.NewQuantity(1<<30, apiresource.BinarySI),
	}
	return p
}

// aDay is a past with 4 cores in the evening and 2 at other times.
func aDay(_ string, at time.Time) float64 {
	if h := at.Add(-time.Second).Hour(); h >= 18 && h < 23 {
		return 4
	}
	return 2
}

func TestAutoLendsWhatOnlineLeaves(t *testing.T) {
	y := newYard(t, valley, onlinePod("web", "a", "4"))
	y.plant.past = aDay
	y.use("shop/web", 2)
	y.minute(time.Minute)
	c := y.capacity("a")
	// 80 % of 16 cores less about 2, and nothing in the evening.
	if got := y.offered("a"); got < 9000 || got > 11_000 {
		t.Errorf("node a offers %d thousandths, want about 10,000; it says %q", got, c.Why)
	}
	room := c.Curve()
	if at := room.At(monday.Add(9 * time.Hour)); at.CPUMilli != 0 { // 19:00
		t.Errorf("at 19:00 it lends %v, want nothing: the window is open", at)
	}
	if c.Policy != "valley" || !c.Until.Equal(c.At.Add(30*time.Minute)) {
		t.Errorf("the capacity is %s, from %v until %v", c.Policy, c.At, c.Until)
	}
	s := y.policy().Status
	if s.Nodes != 2 || s.CapacityMilli < 10_000 || s.WouldReclaimMilli != 0 || !strings.Contains(s.Reason, "batch may use") {
		t.Errorf("the status says %+v", s)
	}
	if got := y.condition("Ready"); got != "True Auto " {
		t.Errorf("Ready: %s", got)
	}
	if d := y.book.row("lend"); d == nil || d.Lever != "colocate" || d.Actor != "colocator" {
		t.Errorf("the ledger has %+v", y.book.rows)
	}
}

func TestPreviewAndObserveWriteNothing(t *testing.T) {
	for _, mode := range []string{"Preview", "Observe"} {
		y := newYard(t, strings.Replace(valley, "Auto,", mode+",", 1), onlinePod("web", "a", "4"))
		y.plant.past = aDay
		y.use("shop/web", 2)
		y.minute(10 * time.Minute)
		if y.writes != 0 {
			t.Errorf("mode %s wrote %d times to nodes", mode, y.writes)
		}
		s := y.policy().Status
		if s.WouldReclaimMilli < 20_000 || s.CapacityMilli != 0 || s.EarnedPerDay == "" || s.EarnedPerDay == "0" {
			t.Errorf("in mode %s the status says %+v", mode, s)
		}
	}
}

func TestLeavingAutoTakesEverythingBack(t *testing.T) {
	y := newYard(t, strings.Replace(valley, "mode: Auto,", "mode: Auto, resources: Kubernetes,", 1), onlinePod("web", "a", "4"))
	y.plant.past = aDay
	y.use("shop/web", 2)
	y.minute(time.Minute)
	if q := y.node("a").Status.Allocatable[v1alpha1.ResourceKubernetesBatchCPU]; q.IsZero() {
		t.Fatal("resources: Kubernetes offers nothing by these names")
	}
	p := y.policy()
	p.Spec.Mode = v1alpha1.ModeObserve
	if err := y.c.Update(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	y.minute(time.Minute)
	n := y.node("a")
	if len(n.Annotations) != 0 || len(n.Status.Capacity) != 3 || len(n.Status.Allocatable) != 3 {
		t.Errorf("left behind: %v, %v, %v", n.Annotations, n.Status.Capacity, n.Status.Allocatable)
	}
	y.writes = 0
	y.minute(2 * time.Minute)
	if y.writes != 0 {
		t.Errorf("%d more writes", y.writes)
	}
}

func TestNothingIsLentWhereNothingIsKnown(t *testing.T) {
	cases := map[string]struct {
		change func(*yard)
		want   string
	}{
		"no agent":                  {func(y *yard) { _ = y.c.Delete(context.Background(), lease("a")) }, "no Neap agent runs there"},
		"an agent that cannot hold": {func(y *yard) { y.say("a", "idle is refused by the kernel") }, "idle is refused by the kernel"},
		"another system":            {func(y *yard) { y.koordinator("a") }, "another system"},
		"no metrics":                {func(y *yard) { y.plant.err = errors.New("the disk is gone") }, "the disk is gone"},
		"nobody is measured":        {func(y *yard) { clear(y.plant.cores) }, "no container is measured"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			y := newYard(t, valley, onlinePod("web", "a", "4"))
			y.plant.past = aDay
			y.use("shop/web", 2)
			tc.change(y)
			y.minute(time.Minute)
			c := y.capacity("a")
			if got := y.offered("a"); got != 0 || !strings.Contains(c.Why, tc.want) || c.Curve().At(monday).CPUMilli != 0 {
				t.Errorf("node a offers %d, for %q; want nothing, for %q", got, c.Why, tc.want)
			}
		})
	}
}

func (y *yard) say(node, message string) {
	n := y.node(node)
	n.Status.Conditions = []corev1.NodeCondition{{Type: v1alpha1.NodeConditionColocation, Status: corev1.ConditionFalse, Reason: "X", Message: message}}
	if err := y.c.Status().Update(context.Background(), n); err != nil {
		y.t.Fatal(err)
	}
}

func (y *yard) koordinator(node string) {
	n := y.node(node)
	n.Status.Allocatable[v1alpha1.ResourceKubernetesBatchCPU] = apiresource.MustParse("5000")
	if err := y.c.Status().Update(context.Background(), n); err != nil {
		y.t.Fatal(err)
	}
}

func TestLostMetricsTakeTheCapacityAway(t *testing.T) {
	y := newYard(t, valley, onlinePod("web", "a", "4"))
	y.plant.past = aDay
	y.use("shop/web", 2)
	y.minute(time.Minute)
	before := y.offered("a")
	y.plant.err = errors.New("Prometheus does not answer")
	y.minute(11 * time.Minute)
	if got := y.offered("a"); before == 0 || got != 0 {
		t.Errorf("offered %d with metrics and %d eleven minutes without", before, got)
	}
	if got := y.condition("MetricsFresh"); !strings.Contains(got, "Prometheus does not answer") {
		t.Errorf("MetricsFresh: %s", got)
	}
	y.plant.err = nil
	y.minute(time.Minute)
	if got := y.offered("a"); got > 16_000*11/100 {
		t.Errorf("a minute after they are back %d are offered at once", got)
	}
}

func TestAnUnmeasuredPodLowersTheCapacity(t *testing.T) {
	y := newYard(t, valley, onlinePod("web", "a", "4"), onlinePod("new", "a", "3"))
	y.plant.past = aDay
	y.use("shop/web", 2)
	y.minute(time.Minute)
	with := y.offered("a")
	y.use("shop/new", 0.1)
	y.minute(30 * time.Minute)
	if without := y.offered("a"); without-with < 2000 {
		t.Errorf("%d with a pod of 3 cores that is not measured, %d once it is", with, without)
	}
}

func TestBatchIsOutBeforeTheWindow(t *testing.T) {
	y := newYard(t, valley, onlinePod("web", "a", "4"),
		batchPod("short", "a", 2000, "20m"), batchPod("long", "a", 2000, "10h"), batchPod("old", "a", 2000, "10h"))
	y.plant.past = aDay
	y.use("shop/web", 2)
	saved := &corev1.Pod{}
	if err := y.c.Get(t.Context(), types.NamespacedName{Namespace: "etl", Name: "old"}, saved); err != nil {
		t.Fatal(err)
	}
	y.clock.SetTime(monday.Add(7*time.Hour + 30*time.Minute)) // 17:30
	y.minute(0)
	y.minute(24 * time.Minute)
	if len(y.evicts) > 0 {
		t.Errorf("at 17:54 already %v were evicted", y.evicts)
	}
	if err := y.c.Delete(t.Context(), batchPod("short", "a", 0, "")); err != nil { // it is done
		t.Fatal(err)
	}
	y.minute(5 * time.Minute)
	if got := strings.Join(y.evicts, " "); got != "long old" && got != "old long" {
		t.Errorf("at 17:59 evicted are %q, want long and old, and short not: it could finish", got)
	}
	d := y.book.row("evict")
	if d == nil || d.Inputs["node"] != "a" || !strings.Contains(d.Reason, "18:00") || d.Outcome != "done" {
		t.Errorf("the ledger says %+v", d)
	}
}

func TestEvictionsKeepToTheirRateAndToBudgets(t *testing.T) {
	policy := strings.Replace(valley, "perHour: 10", "perHour: 1", 1)
	y := newYard(t, policy, onlinePod("web", "a", "4"), batchPod("one", "a", 2000, "10h"), batchPod("two", "a", 2000, "10h"))
	y.plant.past = aDay
	y.use("shop/web", 2)
	y.clock.SetTime(monday.Add(6*time.Hour + 30*time.Minute)) // 16:30
	y.minute(0)
	y.refuse = apierrors.NewTooManyRequests("the budget", 10)
	y.minute(40 * time.Minute) // 17:10: one is due by 16:58
	if len(y.evicts) != 0 {
		t.Errorf("evicted against a budget: %v", y.evicts)
	}
	y.refuse = nil
	y.minute(20 * time.Minute)
	if len(y.evicts) != 1 {
		t.Errorf("by 17:30 %v were evicted, want one", y.evicts)
	}
	y.minute(35 * time.Minute) // 18:05
	if len(y.evicts) != 1 {
		t.Errorf("within the hour %v were evicted, want one", y.evicts)
	}
	y.minute(time.Hour)
	if len(y.evicts) != 2 {
		t.Errorf("after another hour %v were evicted, want both", y.evicts)
	}
}

func TestASpikeOutsideOfWindowsEvictsNobody(t *testing.T) {
	y := newYard(t, valley, onlinePod("web", "a", "4"), batchPod("one", "a", 8000, "2h"))
	y.plant.past = aDay
	y.use("shop/web", 2)
	y.minute(5 * time.Minute)
	y.use("shop/web", 6)
	y.minute(5 * time.Minute)
	lent := y.capacity("a")
	if got := lent.Curve().At(lent.At).CPUMilli; got > 7500 || len(y.evicts) > 0 {
		t.Errorf("lent %d after the spike, evicted %v; want less than what the pod asks for, and it stays", got, y.evicts)
	}
	// A kubelet that restarts finds room for what runs.
	if got := y.offered("a"); got != 8000 {
		t.Errorf("the node's status offers %d, want what the pod asks for", got)
	}
}

func TestWhatRisesRisesSlowlyOverARestart(t *testing.T) {
	y := newYard(t, valley, onlinePod("web", "a", "4"))
	y.plant.past = aDay
	y.use("shop/web", 12)
	y.minute(time.Minute)
	low := y.offered("a")
	y.use("shop/web", 1)
	for range 10 {
		y.restart()
		y.minute(time.Minute)
	}
	// Ten minutes at a tenth of the machine in five.
	if got := y.offered("a"); got-low > 3300 {
		t.Errorf("from %d to %d in ten minutes with a restart in each", low, got)
	}
}

func TestKilledAnywhereItEndsTheSame(t *testing.T) {
	run := func(restarts bool) string {
		y := newYard(t, valley, onlinePod("web", "a", "4"), batchPod("one", "a", 2000, "10h"))
		y.plant.past = aDay
		y.use("shop/web", 2)
		y.use("etl/one", 2)
		y.clock.SetTime(monday.Add(7*time.Hour + 30*time.Minute))
		y.minute(0)
		for range 40 {
			if restarts {
				y.restart()
			}
			y.minute(time.Minute)
		}
		return fmt.Sprint(y.evicts, y.offered("a"), y.offered("b"), y.book.row("evict") != nil)
	}
	if plain, killed := run(false), run(true); plain != killed || !strings.Contains(plain, "[one] 0 0 true") {
		t.Errorf("without restarts %s, with one every minute %s", plain, killed)
	}
}

func TestABrokenGuardHoldsTheRoom(t *testing.T) {
	m := &v1alpha1.Module{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}}
	m.Spec.TargetRef = v1alpha1.TargetRef{APIVersion: "apps/v1", Kind: "Deployment", Name: "web"}
	m.Spec.Quality = &v1alpha1.Quality{P99: &v1alpha1.LatencyTarget{Query: "p99[$window]", Target: "200ms"}}
	y := newYard(t, valley, m, onlinePod("web", "a", "4"), batchPod("one", "a", 1000, "10h"))
	y.plant.past = aDay
	y.use("shop/web", 9)
	y.use("etl/one", 1)
	y.minute(time.Minute)
	y.plant.p99 = 0.5
	y.minute(10 * time.Minute)
	at := y.offered("a")
	y.use("shop/web", 1)
	y.minute(40 * time.Minute)
	if got := y.offered("a"); got > at {
		t.Errorf("with a broken guard the room grew from %d to %d", at, got)
	}
	if got := y.condition("GuardMet"); !strings.Contains(got, "False Broken") || !strings.Contains(got, "shop/web") {
		t.Errorf("GuardMet: %s", got)
	}
	y.plant.p99 = 0.1
	y.minute(40 * time.Minute)
	if got := y.offered("a"); got <= at {
		t.Errorf("with the guard met again the room is %d, as before", got)
	}
	if v := y.co.policies["valley"].account.Total.Violations; v < 40 || v > 55 {
		t.Errorf("%v minutes of violation, want about 45", v)
	}
}

func TestTheMoneyOfAnHour(t *testing.T) {
	y := newYard(t, valley, onlinePod("web", "a", "4"), batchPod("one", "a", 4000, "5h"))
	y.plant.past = aDay
	y.use("shop/web", 2)
	y.use("etl/one", 4) // and 4 GiB
	y.minute(0)
	y.minute(30 * time.Minute)
	y.restart() // the accounts go on; at most keepEvery is lost
	y.minute(35 * time.Minute)
	d := y.book.row("account")
	if d == nil || d.RealisedNano == nil {
		t.Fatalf("no account in %+v", y.book.rows)
	}
	// 4 of 16 cores and 4 of 64 GiB of a machine of one dollar: between 1/16 and 1/4.
	if got := d.RealisedNano.Float(); got < 0.1 || got > 0.25 {
		t.Errorf("an hour of 4 cores earned %v", got)
	}
	if !strings.Contains(y.policy().Status.EarnedPerDay, "0.") || y.policy().Status.Currency != "USD" {
		t.Errorf("the status says %q %s", y.policy().Status.EarnedPerDay, y.policy().Status.Currency)
	}
	var text strings.Builder
	if err := y.co.WriteMetrics(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`neap_batch_capacity_milli{node="a",policy="valley"}`, `neap_batch_allocated_milli{node="a"} 4000`, `neap_batch_term_milli{node="a",term="online"}`,
		`neap_batch_earned_per_hour{currency="USD",policy="valley"} 0.1`, `neap_batch_online_milli{node="a"} 2000`} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("the metrics lack %s:\n%s", want, text.String())
		}
	}
}

func TestRunTimesAreLearntByOwner(t *testing.T) {
	y := newYard(t, valley)
	y.plant.past = aDay
	y.use("shop/other", 1)
	y.minute(0)
	for i := range 5 {
		p := batchPod(fmt.Sprint("run", i), "a", 1000, "")
		p.Annotations = map[string]string{v1alpha1.AnnotationSimulatedLife: fmt.Sprintf("%dm", 10*(i+1))}
		y.co.Pod(p)
		p.Status.Phase = corev1.PodSucceeded
		y.co.Pod(p)
		y.co.Pod(p)
	}
	y.minute(time.Minute)
	want := "etl/CronJob/nightly"
	got := y.policy().Status.RunTimes
	if len(got) != 1 || got[0].Owner != want || got[0].P80.Duration != 40*time.Minute || got[0].Pods != 5 {
		t.Errorf("learnt %+v, want 40 minutes of five pods of %s", got, want)
	}
	y.restart()
	y.minute(time.Minute)
	if again := y.policy().Status.RunTimes; len(again) != 1 || again[0] != got[0] {
		t.Errorf("after a restart %+v", again)
	}
}

func TestThePastIsOnlinesAlone(t *testing.T) {
	if v := milli(math.NaN()) + mib(math.NaN()) + mib(-1); v != 0 {
		t.Errorf("no number is %d", v)
	}
	y := newYard(t, valley, onlinePod("web", "a", "4"), batchPod("one", "a", 4000, "1h"))
	y.plant.past = aDay
	y.use("shop/web", 2)
	y.minute(time.Minute)
	quiet := y.offered("a")
	y.use("etl/one", 8)
	y.minute(10 * time.Minute)
	if got := y.offered("a"); got < quiet {
		t.Errorf("with batch at work %d are offered, %d without: batch counts as online", got, quiet)
	}
}
