package biller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/core/money"
	"github.com/neap-dev/neap/core/workload"
	"github.com/neap-dev/neap/kube/controller/biller/billertest"
	"github.com/neap-dev/neap/metrics"
)

var start = time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC)

func at(minutes float64) time.Time { return start.Add(time.Duration(minutes * float64(time.Minute))) }

// A world is a biller with a clock and a store under a test's control. Run is
// not used: step does one turn of it.
type world struct {
	t     *testing.T
	clock *clocktesting.FakeClock
	store *billertest.Memory
	m     metrics.Source
	times Times
	*Biller
}

func newWorld(t *testing.T, times Times, m metrics.Source) *world {
	w := &world{t: t, clock: clocktesting.NewFakeClock(start), store: &billertest.Memory{}, m: m, times: times}
	w.restart()
	return w
}

// restart is a new process on the same store; nothing is told to it yet.
func (w *world) restart() {
	w.t.Helper()
	b, err := New(Options{Store: w.store, Clock: w.clock, Times: w.times, Metrics: w.m, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		w.t.Fatal(err)
	}
	if err := b.Restore(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	w.Biller = b
}

func (w *world) turn() error {
	now := w.now()
	if err := w.drain(w.t.Context()); err != nil {
		return err
	}
	if err := w.beat(w.t.Context(), now); err != nil {
		return err
	}
	return w.closeDue(w.t.Context(), now)
}

func (w *world) to(t time.Time) {
	w.t.Helper()
	w.clock.SetTime(t)
	if err := w.turn(); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) facts() []bill.Facts {
	w.t.Helper()
	facts, err := w.store.Facts(w.t.Context(), time.Time{}, time.Time{})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range facts {
		closes(w.t, f)
	}
	return facts
}

// closes fails the test unless the hour closes to the last unit.
func closes(t *testing.T, f bill.Facts) {
	t.Helper()
	r, err := bill.Summarise([]bill.Facts{f}, bill.ByModule, nil)
	if err != nil {
		t.Fatal(err)
	}
	sum := r.AllocatedNano
	for _, a := range r.IdleNano {
		sum += a
	}
	if sum != r.BillNano || r.UnexplainedNano != 0 {
		t.Errorf("hour %v: allocated and idle are %v of %v, unexplained %v", f.From, sum, r.BillNano, r.UnexplainedNano)
	}
}

func total(f bill.Facts) (sum money.Amount) {
	for _, m := range f.Machines {
		sum += m.Bill.Sum()
	}
	return sum
}

func machineType(name, list string) *v1alpha1.MachineType {
	price := v1alpha1.Money(list)
	cpu, memory := resource.MustParse("4"), resource.MustParse("16Gi")
	return &v1alpha1.MachineType{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: v1alpha1.MachineTypeSpec{
			Capacity: &v1alpha1.Capacity{Amounts: v1alpha1.Amounts{CPU: &cpu, Memory: &memory}},
			Price:    v1alpha1.Price{Currency: "USD", List: &price},
		},
	}
}

func node(name, typ string, created time.Time) *corev1.Node {
	l := corev1.ResourceList{"cpu": resource.MustParse("4"), "memory": resource.MustParse("16Gi"), "pods": resource.MustParse("110")}
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(created), Labels: map[string]string{
			corev1.LabelInstanceTypeStable: typ, v1alpha1.LabelPool: "general",
		}},
		Status: corev1.NodeStatus{Capacity: l, Allocatable: l},
	}
}

func pod(name, on string, bound time.Time) *corev1.Pod {
	yes := true
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Namespace: "shop", UID: types.UID("uid-" + name), CreationTimestamp: metav1.NewTime(bound),
			Labels:          map[string]string{"app": "cart", "pod-template-hash": "6f9"},
			OwnerReferences: []metav1.OwnerReference{{Kind: "ReplicaSet", Name: "cart-6f9", UID: "rs", Controller: &yes}},
		},
		Spec: corev1.PodSpec{NodeName: on, Containers: []corev1.Container{{
			Name: "c", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse("1"), "memory": resource.MustParse("4Gi")}},
		}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{
			{Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(bound)},
		}},
	}
}

func finished(p *corev1.Pod, t time.Time) *corev1.Pod {
	p = p.DeepCopy()
	p.Status.Phase = corev1.PodSucceeded
	p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{FinishedAt: metav1.NewTime(t)}}}}
	return p
}

func (w *world) fleet() {
	w.MachineType(machineType("m", "0.40"))
	w.Node(node("n1", "m", at(-600)))
	w.Synced()
}

func TestAThirtySecondPodIsBilledToTheSecond(t *testing.T) {
	w := newWorld(t, API, nil)
	w.fleet()
	p := pod("job-1", "n1", at(10))
	w.clock.SetTime(at(10.1)) // the event comes late, the time in it is right
	w.Pod(p)
	w.clock.SetTime(at(10.6))
	w.Pod(finished(p, at(10.5)))
	w.to(at(62))
	facts := w.facts()
	if len(facts) != 1 || len(facts[0].Pods) != 1 {
		t.Fatalf("got %d hours, want one with one pod: %+v", len(facts), facts)
	}
	f := facts[0].Pods[0]
	if got := f.To.Sub(f.From); got != 30*time.Second {
		t.Errorf("the pod is billed for %v, want 30 s", got)
	}
	if f.RequestSeconds[0] != 30*1000 || f.RequestSeconds[1] != 30*4096 {
		t.Errorf("the pod's request is %v, want 30 s of 1 core and 4 GiB", f.RequestSeconds)
	}
	if got, want := total(facts[0]), money.Amount(400_000_000); got != want {
		t.Errorf("the hour cost %v, want %v", got, want)
	}
	if f.EstimatedMillis != 1000 || len(facts[0].Notes) == 0 {
		t.Errorf("without metrics the use is estimated and a note says so; got %d thousandths, notes %q", f.EstimatedMillis, facts[0].Notes)
	}
	if f.Module != (workload.Key{Namespace: "shop", Kind: "Deployment", Name: "cart"}) {
		t.Errorf("the pod belongs to %v", f.Module)
	}
}

func TestObservedTimesAreTheClocks(t *testing.T) {
	w := newWorld(t, Observed, nil)
	w.fleet()
	wall := time.Date(2031, 1, 1, 0, 0, 0, 0, time.UTC) // what the API server writes means nothing here
	w.clock.SetTime(at(10))
	p := pod("a", "n1", wall)
	w.Pod(p)
	w.clock.SetTime(at(40))
	w.Pod(finished(p, wall))
	w.to(at(62))
	f := w.facts()[0]
	if p := f.Pods[0]; !p.From.Equal(at(10)) || !p.To.Equal(at(40)) {
		t.Errorf("billed from %v to %v", p.From, p.To)
	}
	if m := f.Machines[0]; !m.From.Equal(start) {
		t.Errorf("the machine is billed from %v", m.From)
	}
}

func TestASimulatedPodEndsWhenTheDaySaysSo(t *testing.T) {
	w := newWorld(t, Observed, nil)
	w.fleet()
	w.clock.SetTime(at(10))
	p := pod("a", "n1", at(10))
	w.Pod(p)
	w.clock.SetTime(at(12)) // the API server took its time, which is none of the day's
	p = finished(p, at(12))
	p.Annotations = map[string]string{v1alpha1.AnnotationSimulatedLife: "30s"}
	w.Pod(p)
	w.PodGone(p)
	w.to(at(62))
	if got := w.facts()[0].Pods[0]; got.To.Sub(got.From) != 30*time.Second {
		t.Errorf("billed from %v to %v, want 30 s", got.From, got.To)
	}
}

func TestAResizeIsARequestStep(t *testing.T) {
	w := newWorld(t, API, nil)
	w.fleet()
	p := pod("a", "n1", at(0))
	w.Pod(p)
	w.clock.SetTime(at(30))
	p = p.DeepCopy()
	p.Spec.Containers[0].Resources.Requests["cpu"] = resource.MustParse("3")
	w.Pod(p)
	w.to(at(62))
	if got, want := w.facts()[0].Pods[0].RequestSeconds[0], int64(1800*1000+1800*3000); got != want {
		t.Errorf("requested %d milli-core-seconds, want %d", got, want)
	}
}

func TestAPodOnAVirtualNodeIsBilledByItself(t *testing.T) {
	w := newWorld(t, API, nil)
	cpu, memory := v1alpha1.Money("0.05"), v1alpha1.Money("0.005")
	w.MachineType(&v1alpha1.MachineType{ObjectMeta: metav1.ObjectMeta{Name: "eci"}, Spec: v1alpha1.MachineTypeSpec{
		Price: v1alpha1.Price{Currency: "USD", Units: &v1alpha1.UnitPrices{CPU: &cpu, Memory: &memory}},
	}})
	w.Pool(&v1alpha1.ResourcePool{ObjectMeta: metav1.ObjectMeta{Name: "burst"}, Spec: v1alpha1.ResourcePoolSpec{Kind: v1alpha1.PoolServerless, MachineType: "eci"}})
	p := pod("a", "virtual-burst", at(15))
	w.clock.SetTime(at(15))
	w.Pod(p) // before its node is known
	n := node("virtual-burst", "", at(0))
	n.Labels = map[string]string{v1alpha1.LabelPool: "burst"}
	w.Node(n)
	w.Synced()
	w.clock.SetTime(at(45))
	w.PodGone(finished(p, at(45)))
	w.to(at(62))
	f := w.facts()[0]
	if len(f.Machines) != 1 || !f.Machines[0].Serverless || f.Machines[0].Name != "virtual-burst/shop/a" {
		t.Fatalf("machines %+v", f.Machines)
	}
	// Half an hour of 1 core at 0.05 and 4 GiB at 0.005.
	if got, want := total(f), money.Amount(35_000_000); got != want {
		t.Errorf("cost %v, want %v", got, want)
	}
}

func TestARestartLosesNothing(t *testing.T) {
	one, two := newWorld(t, API, nil), newWorld(t, API, nil)
	for _, w := range []*world{one, two} {
		w.fleet()
		w.Node(node("n2", "m", at(0)))
		for i := range 5 {
			w.Pod(pod(fmt.Sprint("p", i), "n1", at(float64(i))))
		}
		w.to(at(30))
	}
	// The second biller is killed and started again; the API server tells of
	// everything once more, but p0 and n2 went while it was away for a minute.
	two.clock.SetTime(at(31))
	two.restart()
	two.MachineType(machineType("m", "0.40"))
	two.Node(node("n1", "m", at(-600)))
	for i := 1; i < 5; i++ {
		two.Pod(pod(fmt.Sprint("p", i), "n1", at(float64(i))))
	}
	two.Synced()
	one.clock.SetTime(at(30)) // the first one saw them go
	one.PodGone(pod("p0", "n1", at(0)))
	one.NodeGone("n2")
	for _, w := range []*world{one, two} {
		w.to(at(62))
		w.to(at(125))
	}
	a, b := one.facts(), two.facts()
	if len(a) != 2 || len(b) != 2 {
		t.Fatalf("closed %d and %d hours, want 2", len(a), len(b))
	}
	for i := range a {
		if total(a[i]) != total(b[i]) || len(a[i].Pods) != len(b[i].Pods) {
			t.Errorf("hour %v: %v with %d pods, after a restart %v with %d", a[i].From, total(a[i]), len(a[i].Pods), total(b[i]), len(b[i].Pods))
		}
		for n := range a[i].Pods {
			if p, q := a[i].Pods[n], b[i].Pods[n]; !p.From.Equal(q.From) || !p.To.Equal(q.To) || p.Module != q.Module {
				t.Errorf("pod %s: %v–%v, after a restart %v–%v", p.Name, p.From, p.To, q.From, q.To)
			}
		}
	}
	if len(b[0].Notes) != len(a[0].Notes) {
		t.Errorf("notes %q", b[0].Notes)
	}
}

func TestMissedHoursAreClosedAndTheirUseIsEstimated(t *testing.T) {
	m := embedded(t)
	w := newWorld(t, API, m)
	w.fleet()
	w.Pod(pod("a", "n1", at(0)))
	w.to(at(5))
	use(t, m, "a", at(-2), at(300), 0.5)
	// Away from 10:05 to 13:30. A pod came and went at 11:20; its object is still there.
	w.clock.SetTime(at(210))
	w.restart()
	w.fleet2()
	w.Pod(pod("a", "n1", at(0)))
	w.Pod(finished(pod("b", "n1", at(80)), at(90)))
	w.Synced()
	w.to(at(210))
	facts := w.facts()
	if len(facts) != 3 {
		t.Fatalf("closed %d hours, want the 3 that ended", len(facts))
	}
	if got := len(facts[1].Pods); got != 2 {
		t.Errorf("the second hour has %d pods, want the one that came and went, too", got)
	}
	if got := facts[1].Pods[0].EstimatedMillis; got != 1000 {
		t.Errorf("use while nobody watched is estimated to %d thousandths, want all", got)
	}
}

func (w *world) fleet2() {
	w.MachineType(machineType("m", "0.40"))
	w.Node(node("n1", "m", at(-600)))
}

func embedded(t *testing.T) *metrics.Embedded {
	t.Helper()
	m, err := metrics.Open(t.TempDir(), metrics.EmbeddedOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// use writes what a kubelet would show of a pod that uses cores all the time.
func use(t *testing.T, m *metrics.Embedded, name string, from, to time.Time, cores float64) {
	t.Helper()
	for ts := from; !ts.After(to); ts = ts.Add(time.Minute) {
		text := fmt.Sprintf("container_cpu_usage_seconds_total{namespace=%q,pod=%q,container=\"c\"} %v\ncontainer_memory_working_set_bytes{namespace=%q,pod=%q,container=\"c\"} 1e9\n",
			"shop", name, ts.Sub(from).Seconds()*cores, "shop", name)
		if err := m.AppendText(t.Context(), ts, strings.NewReader(text), nil); err != nil {
			t.Fatal(err)
		}
	}
}

// Run is one loop over what the other tests do step by step; here it runs by
// itself while three hours pass.
func TestRunClosesHoursAsTheyEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &billertest.Memory{}
		b, err := New(Options{Store: store, Clock: clock.RealClock{}, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		if err := b.Restore(ctx); err != nil {
			t.Fatal(err)
		}
		var closed []time.Time
		b.OnClose(func(c Closed) { closed = append(closed, c.Facts.From) })
		done := make(chan error, 1)
		go func() { done <- b.Run(ctx) }()
		began := time.Now()
		b.MachineType(machineType("m", "0.40"))
		b.Node(node("n1", "m", began))
		b.Synced()
		time.Sleep(90 * time.Minute)
		b.Pod(pod("a", "n1", time.Now()))
		store.Fail(errors.New("no space left on device"))
		b.Pod(pod("b", "n1", time.Now()))
		time.Sleep(time.Minute)
		synctest.Wait()
		if b.Problem() == "" {
			t.Error("a store that takes nothing is no problem")
		}
		store.Fail(nil)
		time.Sleep(time.Minute)
		synctest.Wait()
		if p := b.Problem(); p != "" {
			t.Errorf("the store works again, but the problem is still %q", p)
		}
		time.Sleep(100 * time.Minute)
		cancel()
		if err := <-done; err != nil {
			t.Errorf("a cancelled run ends with %v", err)
		}
		if want := []time.Time{began, began.Add(time.Hour), began.Add(2 * time.Hour)}; !slices.EqualFunc(closed, want, time.Time.Equal) {
			t.Errorf("closed %v, want %v", closed, want)
		}
		facts, _ := store.Facts(t.Context(), time.Time{}, time.Time{})
		if len(facts) != 3 || len(facts[1].Pods) != 2 || len(facts[2].Pods) != 2 {
			t.Errorf("facts %+v", facts)
		}
		alive, _ := store.State(t.Context(), stateAlive)
		if alive != time.Now().UTC().Format(time.RFC3339Nano) {
			t.Errorf("at its end everything up to %s is recorded, want up to now", alive)
		}
	})
}

// flaky fails until it is mended.
type flaky struct {
	metrics.Source
	broken bool
}

func (f *flaky) Instant(ctx context.Context, q string, at time.Time) ([]metrics.Series, error) {
	if f.broken {
		return nil, errors.New("query at http://prometheus: timed out; check that it runs")
	}
	return f.Source.Instant(ctx, q, at)
}

func TestAnHourWithoutMetricsIsClosedAsEstimatedAndAgainWhenTheyReturn(t *testing.T) {
	m := embedded(t)
	src := &flaky{Source: m, broken: true}
	w := newWorld(t, API, src)
	w.fleet()
	w.Pod(pod("a", "n1", at(0)))
	use(t, m, "a", at(-2), at(80), 0.5)
	w.to(at(62))
	f := w.facts()[0]
	if f.Pods[0].EstimatedMillis != 1000 || f.Pods[0].UseSeconds[0] != 3600*1000 {
		t.Errorf("without metrics use is %d, estimated %d thousandths; want the request, all estimated", f.Pods[0].UseSeconds[0], f.Pods[0].EstimatedMillis)
	}
	if notes := strings.Join(f.Notes, "\n"); !strings.Contains(notes, "the metrics could not be read") {
		t.Errorf("notes %q do not say so", notes)
	}
	w.to(at(75)) // tried again, in vain
	if n := w.store.HourWrites(); n != 1 {
		t.Errorf("the hour was written %d times, want 1", n)
	}
	src.broken = false
	w.restart() // the plan to try again outlives the process
	w.fleet2()
	w.Pod(pod("a", "n1", at(0)))
	w.Synced()
	w.to(at(90))
	f = w.facts()[0]
	if f.Pods[0].EstimatedMillis != 0 || f.Pods[0].UseSeconds[0] != 1800*1000 {
		t.Errorf("with metrics use is %d, estimated %d thousandths; want half a core, nothing estimated", f.Pods[0].UseSeconds[0], f.Pods[0].EstimatedMillis)
	}
	w.to(at(110))
	if n := w.store.HourWrites(); n != 2 {
		t.Errorf("the hour was written %d times, want 2", n)
	}
}

func TestAMachineOfATypeNobodyDeclaredIsNamedAndBilledOnceItIs(t *testing.T) {
	w := newWorld(t, API, nil)
	w.fleet()
	w.Node(node("n2", "x9", at(0)))
	w.Pod(pod("a", "n1", at(0)))
	w.Pod(pod("b", "n2", at(0)))
	w.to(at(62))
	f := w.facts()[0]
	if len(f.Machines) != 1 || len(f.Pods) != 1 {
		t.Errorf("%d machines and %d pods are billed, want those with a price", len(f.Machines), len(f.Pods))
	}
	if notes := strings.Join(f.Notes, "\n"); !strings.Contains(notes, `1 machine (n2) is left out, for no MachineType "x9" is declared`) || !strings.Contains(notes, "1 pods left out") {
		t.Errorf("notes are %q", notes)
	}
	w.MachineType(machineType("x9", "1"))
	w.to(at(80))
	if f := w.facts()[0]; len(f.Machines) != 2 || len(f.Pods) != 2 || total(f) != 1_400_000_000 {
		t.Errorf("closed again with %d machines for %v", len(f.Machines), total(f))
	}
}

func TestANewPriceHoldsFromTheMomentItIsSeen(t *testing.T) {
	w := newWorld(t, API, nil)
	w.fleet()
	w.to(at(30))
	w.MachineType(machineType("m", "0.80"))
	w.to(at(45))
	w.restart() // and is remembered
	w.MachineType(machineType("m", "0.80"))
	w.Node(node("n1", "m", at(-600)))
	w.Synced()
	w.to(at(62))
	if got, want := total(w.facts()[0]), money.Amount(600_000_000); got != want {
		t.Errorf("the hour cost %v, want %v", got, want)
	}
}

func TestAFullStoreLosesNothing(t *testing.T) {
	w := newWorld(t, API, nil)
	w.fleet()
	w.to(at(1))
	full := errors.New("write the journal: no space left on device")
	w.store.Fail(full)
	w.clock.SetTime(at(10))
	w.Pod(pod("a", "n1", at(10)))
	if err := w.turn(); !errors.Is(err, full) {
		t.Fatalf("got %v, want the store's error", err)
	}
	w.clock.SetTime(at(20))
	w.Pod(finished(pod("a", "n1", at(10)), at(20)))
	w.clock.SetTime(at(62))
	if err := w.turn(); !errors.Is(err, full) {
		t.Fatalf("got %v, want the store's error", err)
	}
	w.store.Fail(nil)
	w.to(at(63))
	f := w.facts()
	if len(f) != 1 || len(f[0].Pods) != 1 || f[0].Pods[0].To.Sub(f[0].Pods[0].From) != 10*time.Minute {
		t.Errorf("got %+v, want one hour with a pod of 10 minutes", f)
	}
}

func TestAClockThatStepsBackBillsNoTimeTwice(t *testing.T) {
	w := newWorld(t, Observed, nil)
	w.fleet()
	w.clock.SetTime(at(0))
	w.Pod(pod("a", "n1", at(0)))
	w.to(at(62))
	w.to(at(3)) // back by an hour
	w.Pod(pod("b", "n1", at(3)))
	w.to(at(61))
	w.to(at(125))
	facts := w.facts()
	if len(facts) != 2 || w.store.HourWrites() != 2 {
		t.Fatalf("closed %d hours with %d writes, want 2", len(facts), w.store.HourWrites())
	}
	for _, f := range facts {
		if got, want := total(f), money.Amount(400_000_000); got != want {
			t.Errorf("hour %v cost %v, want %v", f.From, got, want)
		}
	}
	for _, p := range facts[1].Pods {
		if p.Name == "b" && !p.From.Equal(at(62)) {
			t.Errorf("the pod that came while the clock was behind is billed from %v, want the last moment known", p.From)
		}
	}
}

func TestLoadAndQualityComeFromTheModulesQueries(t *testing.T) {
	m := embedded(t)
	w := newWorld(t, API, m)
	w.fleet()
	w.Pod(pod("a", "n1", at(0)))
	for i := 0; i <= 62; i++ {
		text := fmt.Sprintf("requests_total{code=\"200\"} %d\nrequests_total{code=\"500\"} %d\np99 0.25\n", i*60*99, i*60)
		if err := m.AppendText(t.Context(), at(float64(i-1)), strings.NewReader(text), nil); err != nil {
			t.Fatal(err)
		}
	}
	w.Module(&v1alpha1.Module{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart"}, Spec: v1alpha1.ModuleSpec{
		TargetRef: v1alpha1.TargetRef{Kind: "Deployment", Name: "cart"},
		Features:  []v1alpha1.Feature{{Name: "buying", Share: 1000}},
		Load:      &v1alpha1.Load{Query: "sum(increase(requests_total[$window]))"},
		Quality: &v1alpha1.Quality{
			Success: &v1alpha1.SuccessTarget{Query: `sum(rate(requests_total{code!~"5.."}[$window])) / sum(rate(requests_total[$window]))`, Target: "99.5%"},
			P99:     &v1alpha1.LatencyTarget{Query: "max_over_time(p99[$window])", Target: "300ms"},
		},
	}})
	w.Module(&v1alpha1.Module{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "many"}, Spec: v1alpha1.ModuleSpec{
		TargetRef: v1alpha1.TargetRef{Kind: "Deployment", Name: "many"},
		Load:      &v1alpha1.Load{Query: "increase(requests_total[$window])"},
	}})
	w.to(at(62))
	f := w.facts()[0]
	if len(f.Loads) != 2 {
		t.Fatalf("loads %+v", f.Loads)
	}
	l := f.Loads[0]
	if math.Abs(float64(l.Requests)-360_000) > 6000 || !l.Known || l.Met || l.SuccessMicros != 990_000 || l.P99 != 250*time.Millisecond {
		t.Errorf("load %+v, want about 360,000 requests of which 99 %% succeed in time, which is too few", l)
	}
	if l := f.Loads[1]; l.Requests != -1 {
		t.Errorf("a query with several results gave %d requests, want −1", l.Requests)
	}
	if notes := strings.Join(f.Notes, "\n"); !strings.Contains(notes, "module shop/many: ") || !strings.Contains(notes, "yields 2 results, want one") {
		t.Errorf("notes %q do not name the module whose query is wrong", notes)
	}
	features, _ := w.store.Features(t.Context())
	if got := features[workload.Key{Namespace: "shop", Kind: "Deployment", Name: "cart"}]; len(got) != 1 || got[0].Name != "buying" {
		t.Errorf("features %v", features)
	}
}

func TestProvisionalGrowsIntoTheClosedHour(t *testing.T) {
	m := embedded(t)
	w := newWorld(t, API, m)
	w.fleet()
	w.Pod(pod("a", "n1", at(0)))
	use(t, m, "a", at(-2), at(70), 0.5)
	if err := w.turn(); err != nil {
		t.Fatal(err)
	}
	for _, minute := range []float64{1, 7, 20, 21, 59.9} {
		w.to(at(minute))
		f, err := w.Provisional(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		closes(t, f)
		want := money.PerHour(400_000_000).Between(start, at(minute))
		if got := total(f); got != want || !f.To.Equal(at(minute)) {
			t.Errorf("after %v minutes it cost %v, want %v", minute, got, want)
		}
		if got, want := f.Pods[0].UseSeconds[0], int64(minute*60*500); math.Abs(float64(got-want)) > 600 || f.Pods[0].EstimatedMillis > 20 {
			t.Errorf("after %v minutes it used %d, want %d; estimated %d", minute, got, want, f.Pods[0].EstimatedMillis)
		}
	}
}

func TestTheFirstHourBeginsWhenTheBillerDoes(t *testing.T) {
	w := newWorld(t, API, nil)
	w.clock.SetTime(at(45))
	w.store = &billertest.Memory{}
	w.restart()
	w.fleet()
	w.to(at(62))
	f := w.facts()[0]
	if !f.From.Equal(at(45)) || total(f) != 100_000_000 {
		t.Errorf("the first hour is from %v and costs %v, want a quarter of an hour", f.From, total(f))
	}
}

func TestOptionsAreChecked(t *testing.T) {
	store, c := &billertest.Memory{}, clocktesting.NewFakeClock(start)
	for want, o := range map[string]Options{
		"biller: Store is required":  {Clock: c},
		"biller: Clock is required":  {Store: store},
		`biller: Times is "Guessed"`: {Store: store, Clock: c, Times: "Guessed"},
		"biller: Grace is -1s":       {Store: store, Clock: c, Grace: -time.Second},
	} {
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
