package releaser

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/neap-dev/neap/api/v1alpha1"
)

var midnight = time.Date(2026, 9, 16, 0, 0, 0, 0, time.UTC)

// job is the pod of the i-th Job, which waits at the gate.
func job(i int, change ...func(*corev1.Pod)) *corev1.Pod {
	yes := true
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "ops", Name: fmt.Sprintf("job-%d", i), UID: types.UID(fmt.Sprintf("pod-%d", i)), CreationTimestamp: metav1.NewTime(midnight),
			Labels:          map[string]string{v1alpha1.LabelClass: v1alpha1.ClassJob},
			Annotations:     map[string]string{v1alpha1.AnnotationServerlessPools: "eci"},
			OwnerReferences: []metav1.OwnerReference{{Kind: "Job", Name: fmt.Sprintf("report-%d", midnight.Unix()/60), UID: types.UID(fmt.Sprintf("job-%d", i)), Controller: &yes}},
		},
		Spec: corev1.PodSpec{
			SchedulingGates: []corev1.PodSchedulingGate{{Name: v1alpha1.GateBurst}},
			Containers: []corev1.Container{{Name: "main", Resources: corev1.ResourceRequirements{
				Requests: corev1.ResourceList{corev1.ResourceCPU: apiresource.MustParse("500m")}}}},
		},
		Status: corev1.PodStatus{Phase: corev1.PodPending},
	}
	for _, c := range change {
		c(p)
	}
	return p
}

func spread(s string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Annotations[v1alpha1.AnnotationSpread] = s }
}

func eci(change ...func(*v1alpha1.ResourcePoolSpec)) []v1alpha1.ResourcePool {
	p := v1alpha1.ResourcePool{ObjectMeta: metav1.ObjectMeta{Name: "eci"}, Spec: v1alpha1.ResourcePoolSpec{Kind: v1alpha1.PoolServerless}}
	for _, c := range change {
		c(&p.Spec)
	}
	return []v1alpha1.ResourcePool{p}
}

func paced(perSecond, burst int32) func(*v1alpha1.ResourcePoolSpec) {
	return func(s *v1alpha1.ResourcePoolSpec) {
		s.Serverless = &v1alpha1.ServerlessLimits{Creation: &v1alpha1.CreationRate{PerSecond: perSecond, Burst: burst}}
	}
}

// A run is a Releaser at work.
type run struct {
	*testing.T
	*Releaser
	client *fake.Clientset
	clock  *clocktesting.FakeClock
	log    *syncBuffer
	stop   func()
}

type syncBuffer struct {
	sync.Mutex
	bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.Lock()
	defer b.Unlock()
	return b.Buffer.Write(p)
}

func (b *syncBuffer) String() string {
	b.Lock()
	defer b.Unlock()
	return b.Buffer.String()
}

func start(t *testing.T, pools []v1alpha1.ResourcePool, objects ...runtime.Object) *run {
	r := &run{T: t, client: fake.NewClientset(objects...), clock: clocktesting.NewFakeClock(midnight), log: &syncBuffer{}}
	r.again(pools)
	return r
}

// again starts a Releaser that knows nothing.
func (r *run) again(pools []v1alpha1.ResourcePool) {
	ctx, cancel := context.WithCancel(r.Context())
	done := make(chan error, 1)
	r.Releaser = New(Options{
		Client: r.client, Clock: r.clock, Log: slog.New(slog.NewTextHandler(r.log, nil)),
		Pools: func(context.Context) ([]v1alpha1.ResourcePool, error) { return pools, nil },
	})
	go func() { done <- r.Start(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			r.Error(err)
		}
	})
	r.Cleanup(func() { r.stop() })
}

// free counts the pods without the gate.
func (r *run) free() int {
	r.Helper()
	l, err := r.client.CoreV1().Pods("ops").List(r.Context(), metav1.ListOptions{})
	if err != nil {
		r.Fatal(err)
	}
	n := 0
	for i := range l.Items {
		if !gated(&l.Items[i]) {
			n++
		}
	}
	return n
}

// bind places every free pod, as a scheduler does, until the Releaser knows.
func (r *run) bind() {
	r.Helper()
	l, err := r.client.CoreV1().Pods("ops").List(r.Context(), metav1.ListOptions{})
	if err != nil {
		r.Fatal(err)
	}
	for i := range l.Items {
		if p := &l.Items[i]; !gated(p) && p.Spec.NodeName == "" {
			p.Spec.NodeName = "virtual-eci"
			if _, err := r.client.CoreV1().Pods("ops").Update(r.Context(), p, metav1.UpdateOptions{}); err != nil {
				r.Fatal(err)
			}
		}
	}
	unknown := func() (n int) {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, w := range r.running {
			if w.bound.IsZero() {
				n++
			}
		}
		return n
	}
	for deadline := time.Now().Add(30 * time.Second); unknown() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			r.Fatalf("%d pods are bound and not known to be", unknown())
		}
	}
}

// settle waits until n pods are free and the Releaser rests, and no more are.
func (r *run) settle(n int) {
	r.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for r.free() < n {
		if time.Now().After(deadline) {
			r.Fatalf("%d pods are free, want %d; log: %s", r.free(), n, r.log)
		}
		time.Sleep(5 * time.Millisecond)
	}
	time.Sleep(5 * restless)
	if got := r.free(); got != n {
		r.Fatalf("%d pods are free, want %d", got, n)
	}
}

// step lets time pass once the Releaser waits for it.
func (r *run) step(d time.Duration) {
	r.Helper()
	for deadline := time.Now().Add(30 * time.Second); !r.clock.HasWaiters(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			r.Fatal("it waits for no time")
		}
	}
	r.clock.Step(d)
}

func TestABurstIsLetGoAtTheProvidersPace(t *testing.T) {
	var pods []runtime.Object
	for i := range 300 {
		pods = append(pods, job(i))
	}
	r := start(t, eci(paced(20, 100)), pods...)
	r.settle(0) // a controller that has just begun does not know what was taken before
	r.step(time.Second)
	r.settle(20)
	r.step(2 * time.Second)
	r.settle(60)
	r.step(time.Hour) // those that no scheduler has placed yet may come at once with the next
	r.settle(100)
	r.bind()
	r.step(time.Hour) // of which the bucket keeps its burst
	r.settle(200)
	r.bind()

	// Killed and started again, it loses none and takes none too much.
	r.stop()
	r.again(eci(paced(20, 100)))
	r.settle(200)
	r.step(time.Second)
	r.settle(220)
	r.bind()
	r.step(5 * time.Second)
	r.settle(300)
}

func TestAJobHasItsOwnMomentInItsSpread(t *testing.T) {
	var pods []runtime.Object
	for i := range 100 {
		pods = append(pods, job(i, spread("10m")))
	}
	same := job(100, spread("10m")) // of the same Job as the first
	same.OwnerReferences = pods[0].(*corev1.Pod).OwnerReferences
	r := start(t, eci(), append(pods, same)...)
	time.Sleep(100 * time.Millisecond)
	early := r.free()
	if early > 10 {
		t.Errorf("%d of 100 are let go at once", early)
	}
	for range 5 {
		r.clock.Step(time.Minute)
		time.Sleep(100 * time.Millisecond)
	}
	if half := r.free(); half < 30 || half > 70 {
		t.Errorf("after half of the spread %d of 100 were let go", half)
	}
	r.clock.Step(5 * time.Minute)
	r.settle(101)
}

func TestADeadlineCutsTheSpreadShort(t *testing.T) {
	ten := int64(10)
	r := start(t, eci(), job(1, spread("1h")), &batchv1.CronJob{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ops", Name: "report"}, Spec: batchv1.CronJobSpec{StartingDeadlineSeconds: &ten},
	})
	r.settle(0)
	r.step(11 * time.Second)
	r.settle(1)
}

func TestALimitLetsInWhatHasRoom(t *testing.T) {
	var pods []runtime.Object
	for i := range 5 {
		pods = append(pods, job(i))
	}
	r := start(t, eci(func(s *v1alpha1.ResourcePoolSpec) {
		s.Limit = &v1alpha1.PoolLimit{Amounts: v1alpha1.Amounts{CPU: apiresource.NewQuantity(1, apiresource.DecimalSI)}}
	}), pods...)
	r.settle(2)
	l, err := r.client.CoreV1().Pods("ops").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range l.Items {
		if p := &l.Items[i]; !gated(p) {
			p.Status.Phase = corev1.PodSucceeded
			if _, err := r.client.CoreV1().Pods("ops").UpdateStatus(t.Context(), p, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
			break
		}
	}
	r.settle(3)
}

func TestASpreadThatCannotBeReadIsNoneAndSaid(t *testing.T) {
	r := start(t, eci(), job(1, spread("soon")))
	r.settle(1)
	if !strings.Contains(r.log.String(), "must be a duration up to 6h") || !strings.Contains(r.log.String(), "soon") {
		t.Errorf("the log says %s", r.log)
	}
}

func TestWhatTheAPIServerRefusesIsTriedAgain(t *testing.T) {
	r := start(t, eci())
	var once sync.Once
	r.client.PrependReactor("patch", "pods", func(k8stesting.Action) (handled bool, _ runtime.Object, err error) {
		once.Do(func() { handled, err = true, errors.New("too busy") })
		return handled, nil, err
	})
	if _, err := r.client.CoreV1().Pods("ops").Create(t.Context(), job(1), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	r.settle(1)
}

func TestOtherPodsAreLeftAlone(t *testing.T) {
	r := start(t, eci(),
		job(1, func(p *corev1.Pod) { p.Labels = nil }),
		job(2, func(p *corev1.Pod) { p.Spec.SchedulingGates[0].Name = "example.com/quota" }),
		job(3))
	r.settle(2) // the second never had our gate
	p, err := r.client.CoreV1().Pods("ops").Get(t.Context(), "job-2", metav1.GetOptions{})
	if err != nil || len(p.Spec.SchedulingGates) != 1 {
		t.Errorf("another's gate: %v, %v", p.Spec.SchedulingGates, err)
	}
}
