package repacker_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrlconfig "sigs.k8s.io/controller-runtime/pkg/config"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/yaml"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/money"
	"github.com/neap-dev/neap/deploy"
	"github.com/neap-dev/neap/kube/controller"
	"github.com/neap-dev/neap/kube/controller/repacker"
	"github.com/neap-dev/neap/kube/convert"
	"github.com/neap-dev/neap/kube/gpubook"
	"github.com/neap-dev/neap/local/controlplane/clustertest"
)

func TestMain(m *testing.M) { clustertest.Main(m) }

// A site is a real control plane, with machines, scheduler and kubelets played by
// the test: what the repacker relies on of Kubernetes is Kubernetes' own.
type site struct {
	t  *testing.T
	c  client.Client
	ns string

	mu     sync.Mutex
	broken map[string]bool // machines on which nothing becomes ready
	least  map[string]int  // fewest ready pods that a Service of the app would send to
	twice  string          // a GPU that was given away twice
}

func newSite(t *testing.T) *site {
	t.Helper()
	cluster := clustertest.Start(t)
	s := &site{t: t, ns: clustertest.Namespace(t, cluster), broken: map[string]bool{}, least: map[string]int{}}
	ctrl.SetLogger(logr.Discard())
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme, apiextensionsv1.AddToScheme} {
		s.must(add(scheme))
	}
	cfg, err := cluster.RESTConfig()
	s.must(err)
	cfg.QPS, cfg.Burst = 500, 1000
	s.c, err = client.New(cfg, client.Options{Scheme: scheme})
	s.must(err)

	// 1. Neap's kinds.
	defs, err := deploy.CRDs()
	s.must(err)
	for _, d := range defs {
		if err := s.c.Create(t.Context(), d); err != nil && !apierrors.IsAlreadyExists(err) {
			t.Fatal(err)
		}
	}
	clustertest.Eventually(t, "RepackPlans to be served", func() error { return s.c.List(t.Context(), &v1alpha1.RepackPlanList{}) })

	// 2. The repacker, with the rights of the controller and no more.
	user := "repacker-" + s.ns
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: user}}
	for _, p := range slices.Concat(controller.Permissions, controller.RepackPermissions) {
		role.Rules = append(role.Rules, rbacv1.PolicyRule{APIGroups: []string{p.Group}, Resources: []string{p.Resource}, Verbs: p.Verbs})
	}
	s.must(s.c.Create(t.Context(), role))
	s.must(s.c.Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: user},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: user},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}},
	}))
	its, err := cluster.ConfigFor(user)
	s.must(err)
	mgr, err := ctrl.NewManager(its, ctrl.Options{Scheme: scheme, Metrics: metricsserver.Options{BindAddress: "0"}, Controller: ctrlconfig.Controller{SkipNameValidation: ptr.To(true)}})
	s.must(err)
	s.must(repacker.New(repacker.Options{
		Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Clock: clock.RealClock{},
		Price: func(*corev1.Node, *convert.Pools) money.Amount { return 3 * money.Unit },
	}).SetupWithManager(mgr))

	// 3. Scheduler and kubelets.
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() {
		if err := mgr.Start(ctx); err != nil {
			t.Error(err)
		}
	})
	all.Go(func() {
		for ctx.Err() == nil {
			if err := s.play(ctx); err != nil && ctx.Err() == nil {
				t.Logf("played again: %v", err)
			}
			time.Sleep(50 * time.Millisecond)
		}
	})
	t.Cleanup(func() { cancel(); all.Wait() })
	return s
}

func (s *site) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) create(doc string, obj client.Object) {
	s.t.Helper()
	s.must(yaml.UnmarshalStrict([]byte(doc), obj))
	s.must(s.c.Create(s.t.Context(), obj))
}

// machine makes a node with so many GPUs.
func (s *site) machine(name string, gpus int) string {
	s.t.Helper()
	name = s.ns + "-" + name
	var devices []v1alpha1.GPUDevice
	for i := range gpus {
		devices = append(devices, v1alpha1.GPUDevice{Index: int32(i), UUID: fmt.Sprintf("GPU-%s-%d", name, i), Model: "A10", MemoryMiB: 24000, Healthy: true})
	}
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{
		Name: name, Labels: map[string]string{"site": s.ns}, Annotations: map[string]string{v1alpha1.AnnotationGPUDevices: convert.WriteGPUDevices(devices)},
	}}
	s.must(s.c.Create(s.t.Context(), n))
	to := n.DeepCopy()
	s.must(yaml.Unmarshal([]byte(`{allocatable: {cpu: "64", memory: 256Gi, pods: "110"}, capacity: {cpu: "64", memory: 256Gi, pods: "110"}}`), &to.Status))
	s.beat(to)
	s.must(s.c.Status().Patch(s.t.Context(), to, client.MergeFrom(n)))
	return name
}

// beat says that a node is alive.
func (s *site) beat(n *corev1.Node) {
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "Played", LastHeartbeatTime: metav1.Now(), LastTransitionTime: metav1.Now()}}
}

// service makes a Deployment with a Service and a budget that wants all of it.
func (s *site) service(name string, replicas int, milli int, wish string) {
	s.t.Helper()
	s.create(fmt.Sprintf(`{metadata: {name: %s, namespace: %s}, spec: {selector: {app: %[1]s}, ports: [{port: 80}]}}`, name, s.ns), &corev1.Service{})
	s.create(fmt.Sprintf(`{metadata: {name: %s, namespace: %s}, spec: {maxUnavailable: 0, selector: {matchLabels: {app: %[1]s}}}}`, name, s.ns), &policyv1.PodDisruptionBudget{})
	s.create(fmt.Sprintf(`{metadata: {name: %s, namespace: %s}, spec: {replicas: %[3]d, selector: {matchLabels: {app: %[1]s}}, template: {
		metadata: {labels: {app: %[1]s, team: vision}, annotations: {wish: %[4]q}},
		spec: {schedulerName: played, terminationGracePeriodSeconds: 1, containers: [{name: c, image: i, resources: {
			requests: {cpu: "1", neap.dev/gpu-milli: "%[5]d", neap.dev/gpu-memory: "2000"}, limits: {neap.dev/gpu-milli: "%[5]d", neap.dev/gpu-memory: "2000"}}}]}}}}`,
		name, s.ns, replicas, wish, milli), &appsv1.Deployment{})
	s.serving(name, replicas)
}

// serving waits until so many pods of an app are ready.
func (s *site) serving(app string, n int) {
	s.t.Helper()
	clustertest.Eventually(s.t, fmt.Sprintf("%d pods of %s to serve", n, app), func() error {
		if got := len(s.ready(app)); got != n {
			return fmt.Errorf("%d serve", got)
		}
		return nil
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.least[app] = n
}

func (s *site) pods(ctx context.Context) []corev1.Pod {
	var l corev1.PodList
	if err := s.c.List(ctx, &l, client.InNamespace(s.ns)); err != nil && ctx.Err() == nil {
		s.t.Error(err)
	}
	return l.Items
}

func isReady(p *corev1.Pod) bool {
	return p.DeletionTimestamp == nil && slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

func (s *site) ready(app string) []corev1.Pod {
	return slices.DeleteFunc(s.pods(s.t.Context()), func(p corev1.Pod) bool { return p.Labels["app"] != app || !isReady(&p) })
}

// play does once what scheduler and kubelets do, and looks whether all is well.
func (s *site) play(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var nodes corev1.NodeList
	if err := s.c.List(ctx, &nodes, client.MatchingLabels{"site": s.ns}); err != nil {
		return err
	}
	book := gpubook.New(nil)
	for i := range nodes.Items {
		n := &nodes.Items[i]
		if err := book.SetNode(n); err != nil {
			return err
		}
		if len(n.Status.Conditions) == 0 || time.Since(n.Status.Conditions[0].LastHeartbeatTime.Time) > 20*time.Second {
			to := n.DeepCopy()
			s.beat(to)
			if err := s.c.Status().Patch(ctx, to, client.MergeFrom(n)); err != nil {
				return err
			}
		}
	}
	pods := s.pods(ctx)
	serving := map[string]int{}
	for i := range pods {
		book.SetPod(&pods[i])
		if isReady(&pods[i]) {
			serving[pods[i].Labels["app"]]++
		}
	}
	for app, was := range s.least {
		s.least[app] = min(was, serving[app])
	}
	for _, c := range book.Conflicts() {
		s.twice = c.Message
	}
	for i := range pods {
		if err := s.playPod(ctx, book, &pods[i]); err != nil {
			return err
		}
	}
	return nil
}

func (s *site) playPod(ctx context.Context, book *gpubook.Book, p *corev1.Pod) error {
	switch {
	case p.DeletionTimestamp != nil:
		return client.IgnoreNotFound(s.c.Delete(ctx, p, client.GracePeriodSeconds(0)))
	case p.Spec.NodeName == "":
		demands, err := book.Demands(p)
		if err != nil {
			return err
		}
		var wish struct {
			Node    string   `json:"node"`
			Devices []string `json:"devices"`
		}
		spot, ok := book.Fleet().Pick(demands[0])
		if text := p.Annotations[v1alpha1.AnnotationGPUSpot]; text != "" {
			if err := json.Unmarshal([]byte(text), &wish); err != nil {
				return err
			}
			spot, ok = book.Spot(wish.Node, wish.Devices...)
		} else { // where the test wants it: the first of the wishes that nobody has
			for _, w := range strings.Fields(p.Annotations["wish"]) {
				at, there := book.Spot(s.ns+"-"+w, "GPU-"+s.ns+"-"+w+"-0")
				if there && !slices.ContainsFunc(book.Pods(), func(q gpubook.Pod) bool { return q.Node == s.ns+"-"+w && q.Labels["app"] == p.Labels["app"] }) {
					spot, ok = at, true
					break
				}
			}
		}
		if !ok {
			return nil
		}
		a := book.Allocation(demands[0], spot)
		to := p.DeepCopy()
		metav1.SetMetaDataAnnotation(&to.ObjectMeta, v1alpha1.AnnotationGPUAllocation, convert.WriteGPUAllocation(a))
		if err := s.c.Patch(ctx, to, client.MergeFrom(p)); err != nil {
			return client.IgnoreNotFound(err)
		}
		book.Reserve(to, a)
		return client.IgnoreNotFound(s.c.SubResource("binding").Create(ctx, p, &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name}, Target: corev1.ObjectReference{Kind: "Node", Name: a.Node}}))
	case !isReady(p) && !s.broken[p.Spec.NodeName]:
		to := p.DeepCopy()
		to.Status.Phase = corev1.PodRunning
		to.Status.Conditions = append(to.Status.Conditions, corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()})
		return client.IgnoreNotFound(s.c.Status().Patch(ctx, to, client.MergeFrom(p)))
	}
	return nil
}

// make makes a plan.
func (s *site) make(name, spec string) {
	s.t.Helper()
	s.create(fmt.Sprintf(`{metadata: {name: %s}, spec: %s}`, name, spec), &v1alpha1.RepackPlan{})
}

// change edits a plan's spec as a person would.
func (s *site) change(plan, spec string) {
	s.t.Helper()
	patch := client.RawPatch(types.MergePatchType, fmt.Appendf(nil, `{"spec":%s}`, spec))
	s.must(s.c.Patch(s.t.Context(), &v1alpha1.RepackPlan{ObjectMeta: metav1.ObjectMeta{Name: plan}}, patch))
}

func (s *site) await(plan, what string, so func(*v1alpha1.RepackPlan) bool) *v1alpha1.RepackPlan {
	s.t.Helper()
	p := &v1alpha1.RepackPlan{}
	clustertest.Eventually(s.t, what, func() error {
		if err := s.c.Get(s.t.Context(), client.ObjectKey{Name: plan}, p); err != nil {
			return err
		}
		if !so(p) {
			return fmt.Errorf("it is %s: %s", p.Status.Phase, p.Status.Reason)
		}
		return nil
	})
	return p
}

// sound checks what must hold in the end.
func (s *site) sound() {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.twice != "" {
		s.t.Error(s.twice)
	}
	var l appsv1.DeploymentList
	s.must(s.c.List(s.t.Context(), &l, client.InNamespace(s.ns)))
	for _, d := range l.Items {
		if s.least[d.Name] < int(*d.Spec.Replicas) {
			s.t.Errorf("%s had %d ready pods at one time, want %d always", d.Name, s.least[d.Name], *d.Spec.Replicas)
		}
		if d.Generation != 1 {
			s.t.Errorf("the spec of %s was written", d.Name)
		}
	}
}

// Three services lie on three machines where one is enough for them; every budget
// wants all pods always.
func TestMachinesAreEmptiedOnARealControlPlane(t *testing.T) {
	s := newSite(t)
	for _, m := range []string{"a", "b", "c"} {
		s.machine(m, 1)
	}
	s.service("chat", 2, 200, "a b")
	s.service("hear", 1, 300, "c")
	s.make("all", `{goal: Empty, limits: {cooldown: 0s, movesPerHour: 100}}`)
	p := s.await("all", "the plan to be made", func(p *v1alpha1.RepackPlan) bool { return p.Status.Phase == v1alpha1.RepackPlanned })
	if f := p.Status.Freed; f.Machines != 2 || f.PerHour != "6.0000" {
		t.Fatalf("the plan gives back %+v", f)
	}
	s.change("all", `{"mode":"Execute"}`)
	p = s.await("all", "the plan to be over", func(p *v1alpha1.RepackPlan) bool { return p.Status.Phase.Over() })
	if p.Status.Phase != v1alpha1.RepackDone || p.Status.Done < 2 || p.Status.Failed > 0 || p.Status.LostServingSeconds != 0 {
		t.Errorf("%s: %s, %d moves, %d failed", p.Status.Phase, p.Status.Reason, p.Status.Done, p.Status.Failed)
	}
	s.serving("chat", 2)
	s.serving("hear", 1)
	machines := map[string]bool{}
	for _, q := range s.pods(t.Context()) {
		machines[q.Spec.NodeName] = true
		if o := metav1.GetControllerOf(&q); o == nil || o.Kind != "ReplicaSet" || len(q.OwnerReferences) != 1 || q.Labels[v1alpha1.LabelRepack] != "" || q.Labels["pod-template-hash"] == "" {
			t.Errorf("pod %s belongs to %+v and has labels %v", q.Name, q.OwnerReferences, q.Labels)
		}
	}
	if len(machines) != 1 {
		t.Errorf("pods are on %v, want one machine", machines)
	}
	s.sound()
}

// What a plan has begun is gone when a person aborts it, or deletes it.
func TestAnAbortedPlanLeavesNothingBehind(t *testing.T) {
	s := newSite(t)
	s.machine("a", 1)
	b := s.machine("b", 1)
	s.service("chat", 1, 200, "a")
	s.service("hear", 1, 600, "b")
	s.mu.Lock()
	s.broken[b] = true // a replacement there is never ready
	s.mu.Unlock()
	replacements := func() int {
		return len(slices.DeleteFunc(s.pods(t.Context()), func(p corev1.Pod) bool { return p.Labels[v1alpha1.LabelRepack] == "" }))
	}
	for name, give := range map[string]func(string){
		"aborted": func(plan string) {
			s.change(plan, `{"abort":true}`)
			s.await(plan, "the plan to stop", func(p *v1alpha1.RepackPlan) bool { return p.Status.Phase == v1alpha1.RepackStopped })
		},
		"deleted": func(plan string) {
			s.must(s.c.Delete(t.Context(), &v1alpha1.RepackPlan{ObjectMeta: metav1.ObjectMeta{Name: plan}}))
		},
	} {
		s.make(name, `{goal: Empty, mode: Execute, machines: [`+s.ns+`-a], limits: {cooldown: 0s, movesPerHour: 100}}`)
		clustertest.Eventually(t, "a replacement", func() error {
			if replacements() != 1 {
				return fmt.Errorf("there are %d", replacements())
			}
			return nil
		})
		give(name)
		clustertest.Eventually(t, "the replacement to be gone, for the plan was "+name, func() error {
			if replacements() != 0 {
				return fmt.Errorf("there are %d", replacements())
			}
			return nil
		})
	}
	s.serving("chat", 1)
	s.sound()
}
