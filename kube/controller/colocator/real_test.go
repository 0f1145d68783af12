package colocator_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/deploy"
	"github.com/neap-dev/neap/kube/controller"
	"github.com/neap-dev/neap/kube/controller/colocator"
	"github.com/neap-dev/neap/kube/convert"
	"github.com/neap-dev/neap/local/controlplane/clustertest"
	"github.com/neap-dev/neap/metrics"
)

func TestMain(m *testing.M) { clustertest.Main(m) }

// twoCores says that every pod has used two cores, now and always.
type twoCores struct{ namespace, node string }

func (s twoCores) Instant(_ context.Context, query string, at time.Time) ([]metrics.Series, error) {
	if !strings.HasPrefix(query, "sum by (namespace,pod)") {
		return nil, nil
	}
	v := 2.0
	if strings.Contains(query, metrics.MemoryBytes) {
		v = 1 << 30
	}
	return []metrics.Series{{Labels: map[string]string{"namespace": s.namespace, "pod": "web"}, Points: []metrics.Point{{T: at, V: v}}}}, nil
}

func (s twoCores) Range(_ context.Context, query string, from, to time.Time, step time.Duration) ([]metrics.Series, error) {
	if !strings.HasPrefix(query, "max_over_time(sum by (node)") {
		return nil, nil
	}
	out := metrics.Series{Labels: map[string]string{"node": s.node}}
	for t := from; !t.After(to); t = t.Add(step) {
		out.Points = append(out.Points, metrics.Point{T: t, V: 2})
	}
	return []metrics.Series{out}, nil
}

// On a real API server, with the rights that the chart grants and no more: a capacity
// is written once and not again by the next process, a batch pod is evicted before the
// window, and nothing is left of a policy that is gone.
func TestOnARealAPIServer(t *testing.T) {
	cluster := clustertest.Start(t)
	ns := clustertest.Namespace(t, cluster)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme, apiextensionsv1.AddToScheme} {
		must(add(scheme))
	}
	cfg, err := cluster.RESTConfig()
	must(err)
	c, err := client.New(cfg, client.Options{Scheme: scheme})
	must(err)
	create := func(obj client.Object) {
		t.Helper()
		if err := c.Create(t.Context(), obj); err != nil && !apierrors.IsAlreadyExists(err) {
			t.Fatal(err)
		}
	}
	fill := func(text string, obj client.Object) client.Object {
		t.Helper()
		must(yaml.UnmarshalStrict([]byte(strings.ReplaceAll(text, "NS", ns)), obj))
		return obj
	}

	// 1. Neap's kinds, and the rights of the controller.
	defs, err := deploy.CRDs()
	must(err)
	for _, d := range defs {
		create(d)
	}
	clustertest.Eventually(t, "ColocationPolicies to be served", func() error { return c.List(t.Context(), &v1alpha1.ColocationPolicyList{}) })
	user := "colocator-" + ns
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: user}}
	for _, p := range slices.Concat(controller.Permissions, controller.ColocationPermissions) {
		role.Rules = append(role.Rules, rbacv1.PolicyRule{APIGroups: []string{p.Group}, Resources: []string{p.Resource}, Verbs: p.Verbs})
	}
	subjects := []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}}
	create(role)
	create(&rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: user}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: user}, Subjects: subjects})
	create(&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: user}, Rules: []rbacv1.PolicyRule{{APIGroups: []string{"coordination.k8s.io"}, Resources: []string{"leases"}, Verbs: []string{"list"}}}})
	create(&rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: user}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: user}, Subjects: subjects})
	its, err := cluster.ConfigFor(user)
	must(err)
	own, err := client.New(its, client.Options{Scheme: scheme})
	must(err)

	// 2. A machine with an agent, a service and a batch pod.
	machine := fill(`{metadata: {name: NS-a, labels: {group: NS}}, status: {capacity: {cpu: "16", memory: 64Gi, pods: "110"}, allocatable: {cpu: "16", memory: 64Gi, pods: "110"}}}`, &corev1.Node{}).(*corev1.Node)
	create(machine)
	create(agentLease(ns, machine.Name))
	create(fill(`{metadata: {name: web, namespace: NS}, spec: {nodeName: NS-a, containers: [{name: c, image: none, resources: {requests: {cpu: "4", memory: 2Gi}}}]}}`, &corev1.Pod{}))
	batch := fill(`{metadata: {name: etl, namespace: NS, labels: {neap.dev/class: batch}, annotations: {neap.dev/batch-run-time: 10h}},
		spec: {nodeName: NS-a, containers: [{name: c, image: none, resources: {requests: {neap.dev/batch-cpu: "2000", neap.dev/batch-memory: 1Gi}, limits: {neap.dev/batch-cpu: "2000", neap.dev/batch-memory: 1Gi}}}]}}`, &corev1.Pod{})
	create(batch)
	policy := fill(`{metadata: {name: NS}, spec: {mode: Auto, nodeSelector: {matchLabels: {group: NS}}, windows: [{name: evening, from: "18:00", to: "22:30", cpuPercent: 0}]}}`, &v1alpha1.ColocationPolicy{})
	create(policy)

	clock := clocktesting.NewFakeClock(time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC))
	process := func() *colocator.Colocator {
		t.Helper()
		co, err := colocator.New(colocator.Options{Client: own, Live: own, Clock: clock, Observed: true, Metrics: twoCores{ns, machine.Name}, AgentNamespace: ns})
		must(err)
		for _, p := range []string{"web", "etl"} {
			pod := &corev1.Pod{}
			if c.Get(t.Context(), types.NamespacedName{Namespace: ns, Name: p}, pod) == nil {
				co.Pod(pod)
			}
		}
		return co
	}
	look := func() *corev1.Node {
		t.Helper()
		n := &corev1.Node{}
		must(c.Get(t.Context(), client.ObjectKeyFromObject(machine), n))
		return n
	}
	batchThere := func() bool {
		t.Helper()
		p := &corev1.Pod{}
		err := c.Get(t.Context(), client.ObjectKeyFromObject(batch), p)
		must(client.IgnoreNotFound(err))
		return err == nil && p.DeletionTimestamp == nil
	}

	// 3. What is left is lent; the next process finds nothing to change.
	must(process().Minute(t.Context()))
	first := look()
	if got := convert.BatchOffer(first).CPUMilli; got < 9000 || got > 11_000 {
		t.Errorf("the node offers %d thousandths, want about 10,800", got)
	}
	if _, err := convert.NodeBatchCapacity(first); err != nil {
		t.Error(err)
	}
	must(process().Minute(t.Context()))
	if again := look(); again.Annotations[v1alpha1.AnnotationBatchCapacity] != first.Annotations[v1alpha1.AnnotationBatchCapacity] ||
		convert.BatchOffer(again) != convert.BatchOffer(first) {
		t.Error("the next process has written the node again")
	}
	is := &v1alpha1.ColocationPolicy{}
	must(c.Get(t.Context(), client.ObjectKeyFromObject(policy), is))
	if is.Status.Nodes != 1 || is.Status.CapacityMilli == 0 || is.Status.UsedMilli != 2000 {
		t.Errorf("the policy's status is %+v", is.Status)
	}

	// 4. Batch is out before the window, whoever is killed on the way.
	for clock.SetTime(time.Date(2026, 3, 2, 17, 50, 0, 0, time.UTC)); clock.Now().Hour() < 18 && batchThere(); clock.Step(time.Minute) {
		must(process().Minute(t.Context()))
	}
	if batchThere() {
		t.Error("at 18:00 the batch pod is still there")
	}

	// 5. Nothing is left of a policy that is gone.
	must(c.Delete(t.Context(), policy))
	must(process().Minute(t.Context()))
	left := look()
	if _, ok := left.Annotations[v1alpha1.AnnotationBatchCapacity]; ok || len(left.Status.Capacity) != 3 || len(left.Status.Allocatable) != 3 {
		t.Errorf("left behind: %v, %v, %v", left.Annotations, left.Status.Capacity, left.Status.Allocatable)
	}
}

func agentLease(namespace, node string) client.Object {
	now := metav1.NowMicro()
	now.Time = now.Add(time.Hour) // the test is shorter than that
	return &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: v1alpha1.AgentLeasePrefix + node},
		Spec:       coordinationv1.LeaseSpec{RenewTime: &now},
	}
}
