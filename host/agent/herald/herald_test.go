package herald

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	kubefake "k8s.io/client-go/kubernetes/fake"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/colocate"
	"github.com/neap-dev/neap/host/agent/evictor"
	"github.com/neap-dev/neap/host/agent/warden"
	"github.com/neap-dev/neap/host/cgroup"
	"github.com/neap-dev/neap/kube/convert"
)

// A bench is node n with a kubelet's groups, and a herald between it and a cluster.
type bench struct {
	*Herald
	t    *testing.T
	api  client.Client
	w    *warden.Warden
	away bool // the cluster does not answer
}

func newBench(t *testing.T, objects ...client.Object) *bench {
	t.Helper()
	b := &bench{t: t}
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(s); err != nil {
			t.Fatal(err)
		}
	}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Status: corev1.NodeStatus{Capacity: corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("8"), corev1.ResourceMemory: resource.MustParse("16Gi"),
	}}}
	b.api = fake.NewClientBuilder().WithScheme(s).WithStatusSubresource(node).WithObjects(append(objects, node)...).
		WithInterceptorFuncs(interceptor.Funcs{Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
			if b.away {
				return errors.New("nobody answers")
			}
			return c.Get(ctx, key, o, opts...)
		}}).Build()
	tree := cgroup.NewFake(cgroup.V2).Tree()
	if err := tree.Make("/kubepods/besteffort"); err != nil {
		t.Fatal(err)
	}
	event := func(*corev1.Pod, string, string) {}
	b.w = warden.New(warden.Options{Tree: tree, Dir: t.TempDir(), Event: event, Proc: t.TempDir(), Evictor: &evictor.Evictor{Client: b.api, Event: event}})
	t.Cleanup(func() { b.w.Close() })
	b.Herald = New(Options{Node: "n", Namespace: "neap-system", Client: b.api, Kube: kubefake.NewClientset(), Warden: b.w,
		Probe: &colocate.Probe{Kernel: "6.18", Avoidance: colocate.AvoidIdle}})
	b.watch()
	return b
}

// turn hears the cluster, has the warden make a round, and tells the node.
func (b *bench) turn(now time.Time) *corev1.Node {
	b.t.Helper()
	b.round(b.t.Context(), now)
	if b.Herald.node != nil {
		b.tell(now)
	}
	b.w.Round(b.t.Context())
	b.say(b.t.Context(), now)
	was := b.away
	b.away = false
	defer func() { b.away = was }()
	node := new(corev1.Node)
	if err := b.api.Get(b.t.Context(), client.ObjectKey{Name: "n"}, node); err != nil {
		b.t.Fatal(err)
	}
	return node
}

func said(n *corev1.Node) corev1.NodeCondition {
	for _, c := range n.Status.Conditions {
		if c.Type == v1alpha1.NodeConditionColocation {
			return c
		}
	}
	return corev1.NodeCondition{}
}

func policy() *v1alpha1.ColocationPolicy {
	return &v1alpha1.ColocationPolicy{ObjectMeta: metav1.ObjectMeta{Name: "night"}, Spec: v1alpha1.ColocationPolicySpec{Mode: v1alpha1.ModeAuto, CPUPercent: 80}}
}

func TestTheNodeSaysWhatIsDoneThere(t *testing.T) {
	b := newBench(t, policy())
	now := time.Now()
	n := b.turn(now)
	if c := said(n); c.Status != corev1.ConditionTrue || c.Reason != warden.ReasonIdling {
		t.Errorf("the condition is %+v", c)
	}
	r, err := convert.NodeColocation(n)
	if err != nil || r == nil || r.Policy != "night" || r.Step != "None" {
		t.Errorf("the annotation is %+v, %v", r, err)
	}
	if !strings.Contains(n.Annotations[v1alpha1.AnnotationProbe], "6.18") {
		t.Errorf("the probe is %q", n.Annotations[v1alpha1.AnnotationProbe])
	}
	lease := new(coordinationv1.Lease)
	key := client.ObjectKey{Namespace: "neap-system", Name: v1alpha1.AgentLeasePrefix + "n"}
	if err := b.api.Get(t.Context(), key, lease); err != nil || *lease.Spec.LeaseDurationSeconds != 40 || lease.Spec.RenewTime.Sub(now) > time.Millisecond {
		t.Errorf("the lease is %+v, %v", lease.Spec, err)
	}
	b.turn(now.Add(10 * time.Second))
	if err := b.api.Get(t.Context(), key, lease); err != nil || lease.Spec.RenewTime.Sub(now) < 9*time.Second {
		t.Errorf("the lease is not renewed: %+v, %v", lease.Spec, err)
	}
	b.leave()
	if err := b.api.Get(t.Context(), key, lease); err == nil {
		t.Error("the lease stays")
	}
	n = new(corev1.Node)
	if err := b.api.Get(t.Context(), client.ObjectKey{Name: "n"}, n); err != nil {
		t.Fatal(err)
	}
	if c := said(n); c.Status != corev1.ConditionUnknown || n.Annotations[v1alpha1.AnnotationColocation] != "" {
		t.Errorf("after the end the condition is %+v, the annotation %q", c, n.Annotations[v1alpha1.AnnotationColocation])
	}
}

func TestWhereNoPolicyIsTheNodeSaysNothingOfIt(t *testing.T) {
	n := newBench(t).turn(time.Now())
	if c := said(n); c.Reason != warden.ReasonNoPolicy || n.Annotations[v1alpha1.AnnotationColocation] != "" {
		t.Errorf("the condition is %+v, the annotation %q", c, n.Annotations[v1alpha1.AnnotationColocation])
	}
}

func TestAClusterThatDoesNotAnswerHoldsUpNothing(t *testing.T) {
	b := newBench(t, policy())
	now := time.Now()
	b.turn(now)
	b.away = true
	for at := time.Duration(0); at < 3*time.Minute; at += renewEach {
		b.turn(now.Add(at))
	}
	if r := b.w.Report(); !r.Mute || r.Colocation.Policy != "night" {
		t.Errorf("the report is %+v", r)
	}
	b.away = false
	b.turn(now.Add(4 * time.Minute))
	if b.w.Report().Mute {
		t.Error("it is still mute")
	}
}

func TestASilentControllerLendsNothing(t *testing.T) {
	for name, tc := range map[string]struct {
		until time.Duration
		runs  string // what a batch pod there asks for
		want  int64
	}{"it has spoken": {time.Minute, "", 4000}, "it is silent": {-time.Minute, "", 0}, "it is silent, and a pod runs": {-time.Minute, "1500", 1500}} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, policy())
			if tc.runs != "" {
				asks := corev1.ResourceList{v1alpha1.ResourceBatchCPU: resource.MustParse(tc.runs)}
				if err := b.pods.Add(&corev1.Pod{
					ObjectMeta: metav1.ObjectMeta{Namespace: "etl", Name: "p", UID: "p", Labels: map[string]string{v1alpha1.LabelClass: v1alpha1.ClassBatch}},
					Spec:       corev1.PodSpec{NodeName: "n", Containers: []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{Requests: asks, Limits: asks}}}},
				}); err != nil {
					t.Fatal(err)
				}
			}
			now := time.Now()
			node := new(corev1.Node)
			if err := b.api.Get(t.Context(), client.ObjectKey{Name: "n"}, node); err != nil {
				t.Fatal(err)
			}
			node.Annotations = map[string]string{v1alpha1.AnnotationBatchCapacity: convert.BatchCapacity{
				At: now.Add(tc.until - time.Minute), Until: now.Add(tc.until), Start: now.Truncate(time.Hour), Step: convert.Span(time.Hour),
				CPUMilli: []int64{4000, 4000}, MemoryMiB: []int64{100, 100},
			}.String()}
			if err := b.api.Update(t.Context(), node); err != nil {
				t.Fatal(err)
			}
			lent := corev1.ResourceList{v1alpha1.ResourceBatchCPU: resource.MustParse("4000"), v1alpha1.ResourceKubernetesBatchCPU: resource.MustParse("4000")}
			for name, q := range lent {
				node.Status.Capacity[name] = q
			}
			node.Status.Allocatable = lent
			if err := b.api.Status().Update(t.Context(), node); err != nil {
				t.Fatal(err)
			}
			n := b.turn(now)
			if got := convert.BatchOffer(n).CPUMilli; got != tc.want {
				t.Errorf("the node offers %d, want %d", got, tc.want)
			}
			if cpu := n.Status.Capacity.Cpu().Value(); cpu != 8 {
				t.Errorf("its own cores are %d", cpu)
			}
		})
	}
}
