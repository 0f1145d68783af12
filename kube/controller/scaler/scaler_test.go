package scaler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	scalefake "k8s.io/client-go/scale/fake"
	clienttesting "k8s.io/client-go/testing"
	clocktesting "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/yaml"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/metrics"
)

var monday = time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC)

// A source answers each query with a function of time.
type source struct {
	mu      sync.Mutex
	answers map[string]func(time.Time) float64
	err     error
}

func (s *source) set(query string, f func(time.Time) float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.answers == nil {
		s.answers = map[string]func(time.Time) float64{}
	}
	s.answers[query] = f
}

func (s *source) value(query string, at time.Time) (float64, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name, _, _ := strings.Cut(query, "[")
	f := s.answers[name]
	if s.err != nil || f == nil {
		return 0, false, s.err
	}
	v := f(at)
	return v, v != gone, nil
}

// gone is the answer of a query that yields nothing.
const gone = -12345

func (s *source) Instant(_ context.Context, query string, at time.Time) ([]metrics.Series, error) {
	v, ok, err := s.value(query, at)
	if err != nil || !ok {
		return nil, err
	}
	return []metrics.Series{{Points: []metrics.Point{{T: at, V: v}}}}, nil
}

func (s *source) Range(_ context.Context, query string, from, to time.Time, step time.Duration) ([]metrics.Series, error) {
	var out metrics.Series
	for t := from; !t.After(to); t = t.Add(step) {
		v, ok, err := s.value(query, t)
		if err != nil {
			return nil, err
		}
		if ok {
			out.Points = append(out.Points, metrics.Point{T: t, V: v})
		}
	}
	if len(out.Points) > 11_000 {
		return nil, errors.New("exceeded maximum resolution of 11,000 points per timeseries")
	}
	return []metrics.Series{out}, nil
}

func always(v float64) func(time.Time) float64 { return func(time.Time) float64 { return v } }

// A book is a ledger in memory.
type book struct {
	mu   sync.Mutex
	rows []bill.Decision
}

func (b *book) AppendDecision(_ context.Context, d bill.Decision) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range b.rows {
		if r.ID == d.ID {
			return nil
		}
	}
	b.rows = append(b.rows, d)
	return nil
}

func (b *book) actions() string {
	var out []string
	for _, r := range b.rows {
		out = append(out, fmt.Sprintf("%s %s", r.Action, r.Inputs["desired"]))
	}
	return strings.Join(out, ", ")
}

// A town is a cluster in memory with one Deployment, chat, that a policy names.
type town struct {
	t      *testing.T
	c      client.Client
	scales *scalefake.FakeScaleClient
	clock  *clocktesting.FakeClock
	source *source
	book   *book
	scaler *Scaler
	policy *v1alpha1.ElasticPolicy
	writes int   // of the scale
	refuse error // answers the next update of the scale
	// refused, if set, is called when that happened.
	refused func()
	doom    doom
	has     int // pods
}

var scheme = func() *runtime.Scheme {
	s := runtime.NewScheme()
	_ = clientgoscheme.AddToScheme(s)
	_ = v1alpha1.AddToScheme(s)
	return s
}()

var mapper = func() meta.RESTMapper {
	m := meta.NewDefaultRESTMapper(nil)
	m.Add(appsv1.SchemeGroupVersion.WithKind("Deployment"), meta.RESTScopeNamespace)
	return m
}()

const spec = `{targetRef: {apiVersion: apps/v1, kind: Deployment, name: chat}, mode: Auto, min: 2, max: 100, load: {query: "load[$window]", perReplica: "10", target: "50%"}, reactive: {stabilization: 5m, tolerance: {up: "5%", down: "10%"}}}`

// settle makes a town whose policy has the spec, with the objects in it.
func settle(t *testing.T, spec string, objects ...client.Object) *town {
	t.Helper()
	x := &town{t: t, clock: clocktesting.NewFakeClock(monday), source: &source{}, book: &book{}}
	x.policy = &v1alpha1.ElasticPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "live", Name: "chat", UID: "u1", Generation: 1, CreationTimestamp: metav1.NewTime(monday.Add(-time.Hour))}}
	if err := yaml.UnmarshalStrict([]byte(spec), &x.policy.Spec); err != nil {
		t.Fatal(err)
	}
	objects = append(objects, x.policy, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "live", Name: "chat"},
		Spec:       appsv1.DeploymentSpec{Replicas: ptr.To[int32](4), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "chat"}}},
	})
	x.c = fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).WithStatusSubresource(&v1alpha1.ElasticPolicy{}).Build()
	x.scales = &scalefake.FakeScaleClient{}
	x.scales.AddReactor("get", "*", func(a clienttesting.Action) (bool, runtime.Object, error) {
		get := a.(clienttesting.GetAction)
		var d appsv1.Deployment
		if err := x.c.Get(context.Background(), types.NamespacedName{Namespace: get.GetNamespace(), Name: get.GetName()}, &d); err != nil {
			return true, nil, err
		}
		return true, &autoscalingv1.Scale{
			ObjectMeta: metav1.ObjectMeta{Namespace: d.Namespace, Name: d.Name},
			Spec:       autoscalingv1.ScaleSpec{Replicas: *d.Spec.Replicas}, Status: autoscalingv1.ScaleStatus{Replicas: *d.Spec.Replicas, Selector: "app=chat"},
		}, nil
	})
	x.scales.AddReactor("update", "*", func(a clienttesting.Action) (bool, runtime.Object, error) {
		to := a.(clienttesting.UpdateAction).GetObject().(*autoscalingv1.Scale)
		x.writes++
		if err := x.refuse; err != nil {
			if x.refuse = nil; x.refused != nil {
				x.refused()
			}
			return true, nil, err
		}
		var d appsv1.Deployment
		if err := x.c.Get(context.Background(), client.ObjectKeyFromObject(to), &d); err != nil {
			return true, nil, err
		}
		d.Spec.Replicas = &to.Spec.Replicas
		return true, to, x.c.Update(context.Background(), &d)
	})
	x.source.set("load", always(20)) // 4 replicas at half of 10
	x.restart()
	x.pods(4)
	return x
}

// restart kills the scaler and starts another, which remembers nothing.
func (x *town) restart() {
	x.t.Helper()
	var err error
	x.doom.spare()
	mortal := interceptor.NewClient(x.c.(client.WithWatch), interceptor.Funcs{
		List: func(ctx context.Context, c client.WithWatch, l client.ObjectList, opts ...client.ListOption) error {
			return x.doom.around(func() error { return c.List(ctx, l, opts...) })
		},
		SubResourcePatch: func(ctx context.Context, c client.Client, sub string, obj client.Object, p client.Patch, opts ...client.SubResourcePatchOption) error {
			return x.doom.around(func() error { return c.SubResource(sub).Patch(ctx, obj, p, opts...) })
		},
	})
	x.scaler, err = New(Options{
		Client: mortal, Live: x.c, Scales: mortalScales{x.scales, &x.doom}, Mapper: mapper, Clock: x.clock, Metrics: x.source, Ledger: mortalLedger{x.book, &x.doom},
		Log: slog.New(slog.NewTextHandler(x.t.Output(), nil)),
	})
	if err != nil {
		x.t.Fatal(err)
	}
}

// pods makes n ready pods of the Deployment, on the node n1: those that are too
// many go, and those that are missing come. A new scaler is told of all.
func (x *town) pods(n int) {
	x.t.Helper()
	for ; x.has > n; x.has-- {
		if err := x.c.Delete(context.Background(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "live", Name: fmt.Sprintf("chat-%d", x.has-1)}}); err != nil {
			x.t.Fatal(err)
		}
	}
	for ; x.has < n; x.has++ {
		x.pod(fmt.Sprintf("chat-%d", x.has), "a", "n1")
	}
}

func (x *town) pod(name, revision, node string) {
	x.t.Helper()
	now := metav1.NewTime(x.clock.Now())
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "live", Name: name, UID: types.UID(name), Labels: map[string]string{"app": "chat", "pod-template-hash": revision}, CreationTimestamp: metav1.NewTime(now.Add(-90 * time.Second))},
		Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": apiresource.MustParse("1")}}}}},
	}
	if node != "" {
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: now}}
	}
	if err := x.c.Create(context.Background(), p); err != nil {
		x.t.Fatal(err)
	}
	x.scaler.Pod(p)
}

// minutes lets n minutes pass, deciding in each; pods follow at once.
func (x *town) minutes(n int) {
	x.t.Helper()
	for range n {
		if err := x.scaler.Minute(x.t.Context()); err != nil {
			x.t.Fatal(err)
		}
		if got := x.replicas(); got >= 0 {
			x.pods(got)
		}
		x.clock.Step(time.Minute)
	}
}

// replicas is what the Deployment asks for; −1 if it is gone.
func (x *town) replicas() int {
	x.t.Helper()
	var d appsv1.Deployment
	if err := x.c.Get(x.t.Context(), client.ObjectKey{Namespace: "live", Name: "chat"}, &d); err != nil {
		if apierrors.IsNotFound(err) {
			return -1
		}
		x.t.Fatal(err)
	}
	return int(*d.Spec.Replicas)
}

func (x *town) status() v1alpha1.ElasticPolicyStatus {
	x.t.Helper()
	var p v1alpha1.ElasticPolicy
	if err := x.c.Get(x.t.Context(), client.ObjectKeyFromObject(x.policy), &p); err != nil {
		x.t.Fatal(err)
	}
	return p.Status
}

// wants checks conditions, each such as "Ready False Paused", and what one says.
func (x *town) wants(say string, conditions ...string) {
	x.t.Helper()
	st := x.status()
	all := st.Reason
	for _, c := range st.Conditions {
		all += "\n" + c.Type + ": " + c.Message
	}
	for _, want := range conditions {
		f := strings.Fields(want)
		c := meta.FindStatusCondition(st.Conditions, f[0])
		if c == nil || string(c.Status) != f[1] || c.Reason != f[2] {
			x.t.Errorf("condition %s is %+v, want %s", f[0], c, want)
		}
	}
	if !strings.Contains(all, say) {
		x.t.Errorf("nothing says %q in\n%s", say, all)
	}
}

func (x *town) update(change func(*v1alpha1.ElasticPolicy)) {
	x.t.Helper()
	var p v1alpha1.ElasticPolicy
	if err := x.c.Get(x.t.Context(), client.ObjectKeyFromObject(x.policy), &p); err != nil {
		x.t.Fatal(err)
	}
	change(&p)
	p.Generation++
	if err := x.c.Update(x.t.Context(), &p); err != nil {
		x.t.Fatal(err)
	}
}

func TestAutoFollowsTheLoadOutAtOnceAndInAfterAWhile(t *testing.T) {
	x := settle(t, spec)
	x.minutes(1)
	if got := x.replicas(); got != 4 || x.writes != 0 {
		t.Errorf("at its target: %d replicas after %d writes, want 4 and none", got, x.writes)
	}
	x.source.set("load", always(95))
	x.minutes(1)
	if got := x.replicas(); got != 19 {
		t.Errorf("at a load of 95: %d replicas, want 19", got)
	}
	x.wants("", "Ready True Complete", "TargetFound True Found", "SoleOwner True Sole", "MetricsFresh True Fresh", "ScaleInAllowed True Allowed")
	if st := x.status(); st.Winner != "panic" || st.Desired != 19 || st.Selector != "app=chat" || st.Reason == "" {
		t.Errorf("status %+v", st)
	}
	x.source.set("load", always(20))
	x.minutes(5)
	if got := x.replicas(); got != 19 {
		t.Errorf("before the stabilisation is over: %d replicas, want 19", got)
	}
	x.minutes(2)
	if got := x.replicas(); got != 4 {
		t.Errorf("after it: %d replicas, want 4", got)
	}
	if got := x.book.actions(); !strings.HasPrefix(got, "scale 4, scale 19") || !strings.HasSuffix(got, "scale 4") {
		t.Errorf("the ledger has %s", got)
	}
	rows := len(x.book.rows)
	x.minutes(10)
	if len(x.book.rows) != rows || x.writes != 2 {
		t.Errorf("nothing changed, and the ledger has %d rows more after %d writes in all", len(x.book.rows)-rows, x.writes)
	}
}

func TestPreviewDecidesAndDoesNothing(t *testing.T) {
	x := settle(t, strings.Replace(spec, "Auto", "Preview", 1), &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Namespace: "live", Name: "web"},
		Spec:       autoscalingv2.HorizontalPodAutoscalerSpec{ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{Kind: "Deployment", Name: "chat"}},
	})
	x.source.set("load", always(95))
	x.minutes(1)
	if x.writes != 0 || x.status().Desired != 19 {
		t.Errorf("%d writes, desired %d; want none and 19", x.writes, x.status().Desired)
	}
	x.wants("HorizontalPodAutoscaler web sets the replicas of Deployment chat: delete it before mode Auto", "SoleOwner False OtherOwner", "Ready True Complete")
	if len(x.book.rows) != 1 || x.book.rows[0].Outcome != "advised" || x.book.rows[0].Mode != "Preview" || x.book.rows[0].Inputs["panic"] != "19" {
		t.Errorf("the ledger has %+v", x.book.rows)
	}
}

func TestObserveReportsAndDecidesNothing(t *testing.T) {
	x := settle(t, strings.Replace(spec, "Auto", "Observe", 1))
	x.source.set("load", always(95))
	x.minutes(2)
	if st := x.status(); x.writes != 0 || st.Desired != 4 || len(x.book.rows) != 0 || len(st.Layers) == 0 {
		t.Errorf("%d writes, %d rows, status %+v", x.writes, len(x.book.rows), st)
	}
	x.wants("mode Observe reports", "Ready True Complete")
}

func TestAnotherOwnerStopsUs(t *testing.T) {
	hpa := &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Namespace: "live", Name: "web"},
		Spec:       autoscalingv2.HorizontalPodAutoscalerSpec{ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{Kind: "Deployment", Name: "chat"}},
	}
	older := &v1alpha1.ElasticPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "live", Name: "elder", UID: "u0", CreationTimestamp: metav1.NewTime(monday.Add(-2 * time.Hour))},
		Spec: v1alpha1.ElasticPolicySpec{TargetRef: v1alpha1.TargetRef{Kind: "Deployment", Name: "chat"}, Mode: v1alpha1.ModeObserve, Min: 1, Max: 5}}
	for name, rival := range map[string]client.Object{"HorizontalPodAutoscaler web": hpa, "ElasticPolicy elder": older} {
		t.Run(name, func(t *testing.T) {
			x := settle(t, spec, rival.DeepCopyObject().(client.Object))
			x.source.set("load", always(95))
			x.minutes(2)
			if x.writes != 0 || x.replicas() != 4 {
				t.Errorf("%d writes, %d replicas; want none and 4", x.writes, x.replicas())
			}
			x.wants(name+" sets the replicas of Deployment chat too, so Neap leaves them alone: delete one of the two", "SoleOwner False OtherOwner", "Ready False OtherOwner")
			if got := x.book.actions(); got != "stop 4" {
				t.Errorf("the ledger has %s, want one stop", got)
			}
			if err := x.c.Delete(t.Context(), rival); err != nil {
				t.Fatal(err)
			}
			x.minutes(1)
			if x.replicas() != 19 {
				t.Errorf("alone again: %d replicas, want 19", x.replicas())
			}
			x.wants("", "SoleOwner True Sole", "Ready True Complete")
		})
	}
}

func TestAPauseIsKept(t *testing.T) {
	x := settle(t, spec)
	x.update(func(p *v1alpha1.ElasticPolicy) {
		p.Annotations = map[string]string{v1alpha1.AnnotationPause: "true"}
	})
	x.source.set("load", always(95))
	x.minutes(2)
	x.wants("the policy is paused by the annotation neap.dev/pause", "Ready False Paused")
	x.update(func(p *v1alpha1.ElasticPolicy) { p.Annotations = nil })
	var d appsv1.Deployment
	if err := x.c.Get(t.Context(), client.ObjectKeyFromObject(x.policy), &d); err != nil {
		t.Fatal(err)
	}
	d.Annotations = map[string]string{v1alpha1.AnnotationPause: "true"}
	if err := x.c.Update(t.Context(), &d); err != nil {
		t.Fatal(err)
	}
	x.minutes(2)
	x.wants("its target is paused by the annotation neap.dev/pause", "Ready False Paused")
	if x.writes != 0 {
		t.Errorf("%d writes while paused", x.writes)
	}
}

func TestWithoutMetricsReplicasAreHeldAndSaidTo(t *testing.T) {
	cases := map[string]struct {
		load func(time.Time) float64
		err  error
		want string
	}{
		"gone":         {load: always(gone), want: "the query gives no number now"},
		"not a number": {load: always(math.NaN()), want: "the query gives no number now"},
		"negative":     {load: always(-3), want: "the query gives no number now"},
		"infinite":     {load: always(math.Inf(1)), want: "the query gives no number now"},
		"refused":      {err: errors.New("prometheus at http://p: connection refused"), want: "connection refused"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			x := settle(t, spec)
			x.minutes(2)
			x.source.set("load", tc.load)
			x.source.err = tc.err
			x.minutes(30)
			if x.replicas() != 4 || x.writes != 0 {
				t.Errorf("%d replicas after %d writes, want the 4 that were there", x.replicas(), x.writes)
			}
			x.wants(tc.want, "MetricsFresh False Gone")
			x.source.err = nil
			x.source.set("load", always(50))
			x.minutes(1)
			if x.replicas() != 10 {
				t.Errorf("with metrics again: %d replicas, want 10", x.replicas())
			}
			x.wants("", "MetricsFresh True Fresh")
		})
	}
	t.Run("a floor still lifts", func(t *testing.T) {
		x := settle(t, strings.TrimSuffix(spec, "}")+`, manual: [{name: exam, floor: 12, reason: exam week}]}`)
		x.source.set("load", always(gone))
		x.minutes(2)
		if x.replicas() != 12 {
			t.Errorf("%d replicas, want the floor of 12", x.replicas())
		}
	})
}

func TestATargetThatIsNotThere(t *testing.T) {
	x := settle(t, spec)
	x.minutes(1)
	if err := x.c.Delete(t.Context(), &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "live", Name: "chat"}}); err != nil {
		t.Fatal(err)
	}
	x.minutes(2)
	x.wants("there is no Deployment chat with a /scale in namespace live", "TargetFound False NotFound", "Ready False NoTarget")
}

func TestATargetThatCannotBeReadForAMomentKeepsItsPlan(t *testing.T) {
	x := settle(t, strings.TrimSuffix(spec, "}")+`, pools: [{name: own}]}`, &v1alpha1.ResourcePool{ObjectMeta: metav1.ObjectMeta{Name: "own"}})
	x.minutes(1)
	was := x.status()
	x.scales.PrependReactor("get", "*", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewTimeoutError("etcd is slow", 1)
	})
	x.minutes(2)
	x.wants("Deployment chat could not be read", "TargetFound Unknown NotReadable", "Ready False NoTarget")
	is := x.status()
	if len(is.Pools) != 1 || is.Pools[0].Planned != was.Pools[0].Planned || is.Selector != was.Selector || is.Desired != was.Desired || is.Current != was.Current {
		t.Errorf("status %+v, was %+v", is, was)
	}
}

func TestATargetDeletedMidDecision(t *testing.T) {
	x := settle(t, spec)
	x.source.set("load", always(95))
	x.refuse = apierrors.NewNotFound(schema.GroupResource{Group: "apps", Resource: "deployments"}, "chat")
	x.minutes(1)
	x.wants("it is tried again in the next minute", "Ready False NotDone")
	x.minutes(1) // it was created again
	if x.replicas() != 19 {
		t.Errorf("%d replicas, want 19", x.replicas())
	}
}

func TestATargetWhoseStatusChangesIsScaledInTheSameMinute(t *testing.T) {
	x := settle(t, spec)
	x.source.set("load", always(95))
	x.refuse = apierrors.NewConflict(schema.GroupResource{Group: "apps", Resource: "deployments"}, "chat", errors.New("changed"))
	x.minutes(1)
	if x.replicas() != 19 || x.writes != 2 {
		t.Errorf("after a conflict: %d replicas by %d writes, want 19 by 2", x.replicas(), x.writes)
	}
	x.wants("", "Ready True Complete")
}

func TestATargetThatAPersonScalesMeanwhileWaitsForTheNextMinute(t *testing.T) {
	x := settle(t, spec)
	x.source.set("load", always(95))
	x.refuse = apierrors.NewConflict(schema.GroupResource{Group: "apps", Resource: "deployments"}, "chat", errors.New("changed"))
	x.refused = func() {
		var d appsv1.Deployment
		if err := x.c.Get(t.Context(), client.ObjectKeyFromObject(x.policy), &d); err != nil {
			t.Fatal(err)
		}
		d.Spec.Replicas = ptr.To[int32](6)
		if err := x.c.Update(t.Context(), &d); err != nil {
			t.Fatal(err)
		}
	}
	x.minutes(1)
	if x.replicas() != 6 {
		t.Errorf("%d replicas, want the person's 6", x.replicas())
	}
	x.wants("somebody else changed them meanwhile; it is tried again in the next minute", "Ready False NotDone")
	x.minutes(1)
	if x.replicas() != 19 {
		t.Errorf("%d replicas a minute later, want 19", x.replicas())
	}
}

func TestWhatMayNotBeDoneIsSaid(t *testing.T) {
	x := settle(t, spec)
	x.source.set("load", always(95))
	x.refuse = apierrors.NewForbidden(schema.GroupResource{Group: "apps", Resource: "deployments/scale"}, "chat", errors.New("no"))
	x.minutes(1)
	x.wants("grant Neap's controller update of its /scale", "Ready False Forbidden")
	if len(x.book.rows) != 1 || !strings.HasPrefix(x.book.rows[0].Outcome, "failed: ") {
		t.Errorf("the ledger has %+v", x.book.rows)
	}
}

func TestASpecThatMakesNoSenseIsNamedAndHolds(t *testing.T) {
	x := settle(t, strings.TrimSuffix(spec, "}")+`, cron: [{name: evening, start: "18:30", duration: 4h, timeZone: Mars/Olympus, floor: 50}]}`)
	x.source.set("load", always(95))
	x.minutes(1)
	x.wants(`cron "evening": timeZone "Mars/Olympus" is not known`, "Ready False Invalid")
	if x.writes != 0 {
		t.Errorf("%d writes", x.writes)
	}
	x.update(func(p *v1alpha1.ElasticPolicy) { p.Spec.Cron[0].TimeZone = "Asia/Shanghai" })
	x.minutes(1)
	x.wants("", "Ready True Complete")
}

func TestNothingGoesDuringARollout(t *testing.T) {
	x := settle(t, spec)
	x.minutes(1)
	x.source.set("load", always(5))
	x.pod("chat-new", "b", "n1")
	for range 10 { // pods stay as they are
		if err := x.scaler.Minute(t.Context()); err != nil {
			t.Fatal(err)
		}
		x.clock.Step(time.Minute)
	}
	if x.replicas() != 4 {
		t.Errorf("%d replicas, want 4", x.replicas())
	}
	x.wants("a rollout is in progress", "ScaleInAllowed False Rollout")
	if err := x.c.Delete(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "live", Name: "chat-new"}}); err != nil {
		t.Fatal(err)
	}
	x.minutes(7)
	if x.replicas() != 2 {
		t.Errorf("after it: %d replicas, want min", x.replicas())
	}
}

func TestTheGuardGatesEveryScaleIn(t *testing.T) {
	module := &v1alpha1.Module{ObjectMeta: metav1.ObjectMeta{Namespace: "live", Name: "chat"}, Spec: v1alpha1.ModuleSpec{
		TargetRef: v1alpha1.TargetRef{Kind: "Deployment", Name: "chat"}, Load: &v1alpha1.Load{Query: "count[$window]"},
		Quality: &v1alpha1.Quality{Success: &v1alpha1.SuccessTarget{Query: "success[$window]", Target: "99.9%"}},
	}}
	x := settle(t, spec, module)
	x.source.set("count", always(1000))
	x.source.set("success", always(0.9))
	x.minutes(1)
	x.source.set("load", always(5))
	x.minutes(10)
	if x.replicas() != 4 {
		t.Errorf("with a broken guard: %d replicas, want 4", x.replicas())
	}
	x.wants("the quality guard is not met", "ScaleInAllowed False Guard")
	x.source.set("success", always(1))
	x.minutes(1)
	if x.replicas() != 2 {
		t.Errorf("with a guard that is met: %d replicas, want 2", x.replicas())
	}
}

func TestAPinWinsAndIsNamed(t *testing.T) {
	x := settle(t, strings.TrimSuffix(spec, "}")+`, manual: [{name: freeze, pin: 7, reason: the exam, by: li}]}`)
	x.source.set("load", always(95))
	x.minutes(1)
	if st := x.status(); x.replicas() != 7 || st.Winner != "manual" || *st.Layers[0].Floor != 7 || *st.Layers[0].Cap != 7 {
		t.Errorf("%d replicas, status %+v", x.replicas(), st)
	}
	x.wants("the exam")
}

func TestScaleFromAndToZero(t *testing.T) {
	x := settle(t, strings.Replace(spec, "min: 2", "min: 0", 1))
	x.minutes(1)
	x.source.set("load", always(0))
	x.minutes(7)
	if x.replicas() != 0 {
		t.Fatalf("without load: %d replicas, want none", x.replicas())
	}
	x.source.set("load", always(11))
	x.minutes(1)
	if x.replicas() != 3 {
		t.Errorf("with load again: %d replicas, want 3", x.replicas())
	}
}

func TestPoolsAreFilledInOrderAndReported(t *testing.T) {
	node := func(name, pool string, cpu string) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{v1alpha1.LabelPool: pool}},
			Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{"cpu": apiresource.MustParse(cpu), "memory": apiresource.MustParse("64Gi"), "pods": apiresource.MustParse("110")}}}
	}
	x := settle(t, strings.TrimSuffix(spec, "}")+`, pools: [{name: own}, {name: cloud, max: 30}, {name: nowhere}]}`,
		node("n1", "own", "8"), node("v1", "cloud", "1000"),
		&v1alpha1.ResourcePool{ObjectMeta: metav1.ObjectMeta{Name: "own"}},
		&v1alpha1.ResourcePool{ObjectMeta: metav1.ObjectMeta{Name: "cloud"}, Spec: v1alpha1.ResourcePoolSpec{Kind: v1alpha1.PoolServerless, MachineType: "s"}},
	)
	x.source.set("load", always(95)) // 19 replicas
	x.minutes(1)
	st := x.status()
	if len(st.Pools) != 3 || st.Pools[0].Planned != 8 || st.Pools[1].Planned != 11 || st.Pools[0].Pods != 4 || st.Pools[0].Ready != 4 || st.Pools[1].Kind != v1alpha1.PoolServerless {
		t.Errorf("pools %+v, want 8 on machines and 11 serverless", st.Pools)
	}
	if p95 := st.Pools[0].StartP95; p95 == nil || p95.Duration != 90*time.Second {
		t.Errorf("the start time is %v, want the 90 s that the pods took", p95)
	}
	x.wants("ResourcePool nowhere, which spec.pools names, does not exist", "Ready False Incomplete")
	var text strings.Builder
	if err := x.scaler.WriteMetrics(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`neap_elastic_replicas{layer="desired",namespace="live",policy="chat"} 19`, `neap_elastic_replicas{layer="reactive",namespace="live",policy="chat"} 19`,
		`neap_elastic_replicas{layer="current",namespace="live",policy="chat"} 4`, `neap_elastic_winner{layer="panic",namespace="live",policy="chat"} 1`,
		`neap_elastic_pool_replicas{namespace="live",policy="chat",pool="cloud",state="planned"} 11`, `neap_elastic_demand{namespace="live",policy="chat"} 95`,
		`neap_elastic_start_p95_seconds{namespace="live",policy="chat",pool="own"} 90`, `neap_elastic_scale_in_violations_total{namespace="live",policy="chat"} 0`,
	} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("the metrics lack %s\n%s", want, text.String())
		}
	}
	if strings.Contains(text.String(), `layer="cron"`) {
		t.Error("a layer that says nothing has a metric")
	}
}

func TestAStagedScaleInSurvivesARestart(t *testing.T) {
	x := settle(t, strings.TrimSuffix(spec, "}")+`, scaleIn: {watch: 3m, step: "100%", holdIfNeededWithin: 0s}}`)
	x.minutes(1)
	x.source.set("load", always(10))
	for i := range 20 {
		x.minutes(1)
		if x.status().Leaving != nil {
			break
		}
		if i == 19 {
			t.Fatal("nothing was cut off in 20 minutes")
		}
	}
	l := *x.status().Leaving
	if l.Replicas != 2 || x.replicas() != 4 {
		t.Fatalf("leaving %+v of %d, want 2 of 4", l, x.replicas())
	}
	x.restart() // the load must be low for a stabilisation window again
	for range 12 {
		x.minutes(1)
		if x.replicas() == 2 {
			return
		}
	}
	t.Errorf("%d replicas, want 2; status %+v", x.replicas(), x.status())
}

func TestAClockThatJumps(t *testing.T) {
	t.Run("ahead, nothing goes for the time in between", func(t *testing.T) {
		x := settle(t, spec)
		x.minutes(2)
		x.clock.Step(5 * time.Hour)
		x.source.set("load", always(5))
		x.minutes(1)
		if x.replicas() != 4 {
			t.Errorf("%d replicas right after the jump, want 4", x.replicas())
		}
		x.minutes(7)
		if x.replicas() != 2 {
			t.Errorf("%d replicas a while after the jump, want 2", x.replicas())
		}
	})
	t.Run("back, time stands still", func(t *testing.T) {
		x := settle(t, spec)
		x.minutes(2)
		x.clock.SetTime(monday.Add(-3 * time.Hour))
		x.source.set("load", always(95))
		x.minutes(1)
		if x.replicas() != 19 {
			t.Errorf("%d replicas, want 19", x.replicas())
		}
	})
}

func TestTheForecastIsLearntFromThePastAndLiftsBeforeTheLoad(t *testing.T) {
	// Every day at 10:30 the load rises from 20 to some 200 within five minutes;
	// no two days and no two minutes are quite the same.
	noise := func(seed int64) float64 { return rand.New(rand.NewPCG(uint64(seed), 1)).Float64() - 0.5 }
	daily := func(at time.Time) float64 {
		m := at.Sub(at.Truncate(24*time.Hour)).Minutes() - 630
		up := min(max(m/5, 0), 1) - min(max((m-120)/30, 0), 1)
		return (20 + 180*up) * (1 + 0.3*noise(at.Unix()/86400)) * (1 + 0.2*noise(at.Unix()/60))
	}
	x := settle(t, strings.Replace(spec, "reactive:", "forecast: {historyDays: 8}, reactive:", 1))
	x.source.set("load", daily)
	x.minutes(1)
	st := x.status()
	if st.Forecast == nil || !st.Forecast.Skilled || st.Forecast.Period == nil || st.Forecast.FittedAt == nil {
		t.Fatalf("the forecast is %+v", st.Forecast)
	}
	x.wants("", "ForecastSkilled True Skilled", "Ready True Complete")
	if st.Forecast.Horizon.Duration != 150*time.Second {
		t.Errorf("it looks %v ahead, want the 90 s that pods take to start and a minute", st.Forecast.Horizon.Duration)
	}
	before := 0
	for x.clock.Now().Before(monday.Add(45 * time.Minute)) {
		now := x.clock.Now()
		x.minutes(1)
		if now.Before(monday.Add(30*time.Minute)) && x.status().Winner == "forecast" && x.replicas() > 8 {
			before++
		}
	}
	if before == 0 {
		t.Errorf("nothing was ready before the load came: %s", x.book.actions())
	}
	var text strings.Builder
	if err := x.scaler.WriteMetrics(&text); err != nil || !strings.Contains(text.String(), `neap_elastic_forecast{namespace="live",policy="chat",quantile="0.95"}`) {
		t.Errorf("metrics (%v):\n%s", err, text.String())
	}
}

func TestAForecastWithoutSkillSaysSoAndLiftsNothing(t *testing.T) {
	x := settle(t, strings.Replace(spec, "reactive:", "forecast: {historyDays: 3}, reactive:", 1))
	x.source.set("load", func(at time.Time) float64 {
		if at.Before(monday) {
			return gone
		}
		return 20
	})
	x.minutes(2)
	x.wants("the reactive layer carries the load alone", "ForecastSkilled False NoSkill", "Ready True Complete")
	if st := x.status(); st.Desired != 4 || st.Forecast.Reason == "" {
		t.Errorf("status %+v", st)
	}
}
