package kube

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/core/money"
	"github.com/neap-dev/neap/core/workload"
	"github.com/neap-dev/neap/kube/controller"
	"github.com/neap-dev/neap/kube/observe"
	"github.com/neap-dev/neap/local/controlplane/clustertest"
	"github.com/neap-dev/neap/metrics"
	"github.com/neap-dev/neap/store"
)

// grant gives a user exactly what the controller says it needs, as the chart does.
func grant(t *testing.T, c client.Client, user string) {
	t.Helper()
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: user}}
	for _, p := range controller.Permissions {
		role.Rules = append(role.Rules, rbacv1.PolicyRule{APIGroups: []string{p.Group}, Resources: []string{p.Resource}, Verbs: p.Verbs})
	}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: user},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: user},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}},
	}
	for _, obj := range []client.Object{role, binding} {
		if err := c.Create(t.Context(), obj); err != nil {
			t.Fatal(err)
		}
	}
}

func parse[T any](t *testing.T, doc string) *T {
	t.Helper()
	out := new(T)
	unmarshal(t, doc, out)
	return out
}

func unmarshal(t *testing.T, doc string, out any) {
	t.Helper()
	if err := yaml.UnmarshalStrict([]byte(doc), out); err != nil {
		t.Fatal(err)
	}
}

// A kubelet does by hand what a real one would: it has a machine, binds pods to
// it and says how they fare.
type kubelet struct {
	t    *testing.T
	c    client.Client
	api  kubernetes.Interface
	node string
}

func newKubelet(t *testing.T, c client.Client, api kubernetes.Interface, name, typ, pool string) *kubelet {
	t.Helper()
	node := parse[corev1.Node](t, fmt.Sprintf(`{metadata: {name: %s, labels: {node.kubernetes.io/instance-type: %s, neap.dev/pool: %s}}}`, name, typ, pool))
	if err := c.Create(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Delete(context.Background(), node) })
	clustertest.Eventually(t, "the node's status", func() error {
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(node), node); err != nil {
			return err
		}
		l := corev1.ResourceList{"cpu": apiresource.MustParse("4"), "memory": apiresource.MustParse("16Gi"), "pods": apiresource.MustParse("110")}
		node.Status.Capacity, node.Status.Allocatable = l, l
		return c.Status().Update(t.Context(), node)
	})
	return &kubelet{t, c, api, name}
}

// pod waits for a pod with a label and binds it to the machine.
func (k *kubelet) pod(ns, label, value string) *corev1.Pod {
	k.t.Helper()
	var pods corev1.PodList
	clustertest.Eventually(k.t, "a pod with "+label+"="+value, func() error {
		if err := k.c.List(k.t.Context(), &pods, client.InNamespace(ns), client.MatchingLabels{label: value}); err != nil {
			return err
		}
		if len(pods.Items) == 0 {
			return errors.New("there is none")
		}
		return nil
	})
	pod := &pods.Items[0]
	err := k.api.CoreV1().Pods(ns).Bind(k.t.Context(), &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Name: pod.Name, Namespace: ns}, Target: corev1.ObjectReference{Kind: "Node", Name: k.node},
	}, metav1.CreateOptions{})
	if err != nil {
		k.t.Fatal(err)
	}
	if err := k.c.Get(k.t.Context(), client.ObjectKeyFromObject(pod), pod); err != nil {
		k.t.Fatal(err)
	}
	return pod
}

// status changes a pod's status.
func (k *kubelet) status(pod *corev1.Pod, change func(*corev1.PodStatus)) {
	k.t.Helper()
	clustertest.Eventually(k.t, "the status of pod "+pod.Name, func() error {
		if err := k.c.Get(k.t.Context(), client.ObjectKeyFromObject(pod), pod); err != nil {
			return err
		}
		change(&pod.Status)
		return k.c.Status().Update(k.t.Context(), pod)
	})
}

func condition(pod *corev1.Pod, typ corev1.PodConditionType) time.Time {
	for _, c := range pod.Status.Conditions {
		if c.Type == typ && c.Status == corev1.ConditionTrue {
			return c.LastTransitionTime.UTC()
		}
	}
	return time.Time{}
}

func TestTheControllerBillsAClusterWithNoMoreRightsThanItNames(t *testing.T) {
	cluster, admin := cluster(t)
	ctx := t.Context()
	c := newClient(t, admin)
	api := clustertest.Client(t, cluster)
	ns := clustertest.Namespace(t, cluster)
	grant(t, c, "biller")
	cfg, err := cluster.ConfigFor("biller")
	if err != nil {
		t.Fatal(err)
	}

	// 1. What a user declares.
	declared := []client.Object{
		parse[v1alpha1.MachineType](t, `{metadata: {name: e2e-large}, spec: {capacity: {cpu: 4, memory: 16Gi}, price: {list: "0.80", discountPercent: 50}}}`),
		parse[v1alpha1.ResourcePool](t, `{metadata: {name: e2e}, spec: {limit: {machines: 1}}}`),
		parse[v1alpha1.Module](t, `{metadata: {name: cart, namespace: `+ns+`}, spec: {targetRef: {name: cart}, features: [{name: buying}]}}`),
		parse[v1alpha1.Module](t, `{metadata: {name: ghost, namespace: `+ns+`}, spec: {targetRef: {name: ghost}}}`),
		parse[v1alpha1.Module](t, `{metadata: {name: second, namespace: `+ns+`}, spec: {targetRef: {name: cart}}}`),
	}
	for _, obj := range declared {
		if err := c.Create(ctx, obj); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Delete(context.Background(), obj) })
	}

	// 2. A machine, a Deployment and a Job that runs for 30 seconds.
	k := newKubelet(t, c, api, "e2e-1", "e2e-large", "e2e")
	container := `{containers: [{name: c, image: none, resources: {requests: {cpu: 1, memory: 4Gi}}}], terminationGracePeriodSeconds: 0, schedulerName: this-test, tolerations: [{operator: Exists}]`
	dep := parse[appsv1.Deployment](t, `{metadata: {name: cart, namespace: `+ns+`}, spec: {selector: {matchLabels: {app: cart}}, template: {metadata: {labels: {app: cart}}, spec: `+container+`}}}}`)
	job := parse[batchv1.Job](t, `{metadata: {name: report, namespace: `+ns+`}, spec: {template: {metadata: {labels: {app: report}}, spec: `+container+`, restartPolicy: Never}}}}`)
	for _, obj := range []client.Object{dep, job} {
		if err := c.Create(ctx, obj); err != nil {
			t.Fatal(err)
		}
	}
	// 3. The controller, with a clock of its own and a real store.
	clock := clocktesting.NewFakeClock(time.Now().UTC().Truncate(time.Second))
	from := clock.Now()
	s, err := store.Open(t.TempDir(), store.Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctl, err := controller.New(controller.Options{RESTConfig: cfg, Store: s, Clock: clock, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	runCtx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- ctl.Run(runCtx) }()
	stopped := false
	stop := func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the controller ended with %v", err)
		}
	}
	defer stop()
	select {
	case <-ctl.Synced():
	case err := <-done:
		stopped = true
		t.Fatalf("the controller ended with %v", err)
	case <-time.After(clustertest.Patience):
		t.Fatal("the controller has not seen the cluster yet")
	}

	// 4. The pods run; the Job's ends after 30 seconds by the API's own times.
	clock.SetTime(time.Now().Add(time.Minute).UTC())
	served, report := k.pod(ns, "app", "cart"), k.pod(ns, "app", "report")
	k.status(served, func(s *corev1.PodStatus) {
		s.Phase = corev1.PodRunning
		s.Conditions = append(s.Conditions, corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(condition(served, corev1.PodScheduled).Add(7 * time.Second))})
	})
	bound := condition(report, corev1.PodScheduled)
	k.status(report, func(s *corev1.PodStatus) {
		s.Phase = corev1.PodSucceeded
		s.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
			StartedAt: metav1.NewTime(bound), FinishedAt: metav1.NewTime(bound.Add(30 * time.Second)),
		}}}}
	})
	clustertest.Eventually(t, "the biller to see both pods and the end of one", func() error {
		h := ctl.Biller.Hour(clock.Now().Add(-2*time.Hour), clock.Now().Add(time.Hour))
		var ended, found int
		for _, p := range h.Pods {
			if p.Namespace != ns {
				continue
			}
			found++
			if p.To.Equal(bound.Add(30 * time.Second)) {
				ended++
			}
		}
		if found != 2 || ended != 1 {
			return fmt.Errorf("%d pods, %d ended", found, ended)
		}
		return nil
	})
	provisional, err := ctl.Biller.Provisional(ctx)
	if err != nil || provisional.Currency != "USD" {
		t.Errorf("provisional facts in %q: %v", provisional.Currency, err)
	}

	// 5. Two hours end, and a third if the pods came just before a full hour.
	hours := int(clock.Now().Truncate(time.Hour).Sub(from.Truncate(time.Hour))/time.Hour) + 2
	for i := range hours {
		end := from.Truncate(time.Hour).Add(time.Duration(i+1) * time.Hour)
		if clock.Now().After(end.Add(3 * time.Minute)) {
			continue
		}
		clock.SetTime(end.Add(3 * time.Minute))
		clustertest.Eventually(t, "the hour to be closed", func() error {
			last, ok := ctl.Biller.Last()
			if !ok || !last.Facts.To.Equal(end) {
				return fmt.Errorf("the last closed hour ends at %v, want %v; %s", last.Facts.To, end, ctl.Biller.Problem())
			}
			return nil
		})
	}
	facts, err := s.Facts(ctx, time.Time{}, time.Time{})
	if err != nil || len(facts) != hours {
		t.Fatalf("%d hours in the store: %v", len(facts), err)
	}
	if !facts[0].From.Equal(from) {
		t.Errorf("the first hour begins at %v, want when the controller started, %v", facts[0].From, from)
	}
	var reported time.Duration
	for _, f := range facts {
		closes(t, f)
		for _, p := range f.Pods {
			if p.Namespace == ns && p.Name == report.Name {
				reported += p.To.Sub(p.From)
				if p.Module != (workload.Key{Namespace: ns, Kind: "Job", Name: "report"}) {
					t.Errorf("the Job's pod belongs to %v", p.Module)
				}
			}
		}
	}
	if reported != 30*time.Second {
		t.Errorf("the pod of 30 seconds is billed for %v", reported)
	}
	if got, want := facts[hours-1].Machines[0].Bill.Sum(), money.Amount(400_000_000); got != want {
		t.Errorf("the machine cost %v in the second hour, want %v", got, want)
	}

	// 6. Statuses.
	clustertest.Eventually(t, "the statuses", func() error {
		var typ v1alpha1.MachineType
		var pool v1alpha1.ResourcePool
		var cart, ghost, second v1alpha1.Module
		for i, obj := range []client.Object{&typ, &pool, &cart, &ghost, &second} {
			if err := c.Get(ctx, client.ObjectKeyFromObject(declared[i]), obj); err != nil {
				return err
			}
		}
		switch {
		case typ.Status.Machines != 1 || typ.Status.EffectivePrice != "0.4000" || !meta.IsStatusConditionTrue(typ.Status.Conditions, v1alpha1.ConditionReady):
			return fmt.Errorf("machine type %+v", typ.Status)
		case pool.Status.Machines != 1 || pool.Status.LastHour == nil || pool.Status.LastHour.Cost != "0.4000" || pool.Status.Start == nil || pool.Status.Start.Median.Duration != 7*time.Second ||
			!meta.IsStatusConditionTrue(pool.Status.Conditions, v1alpha1.ConditionWithinLimit):
			return fmt.Errorf("pool %+v", pool.Status)
		case cart.Status.Pods != 1 || cart.Status.LastHour == nil || cart.Status.LastHour.Cost != "0.4000" || !cart.Status.LastHour.Estimated ||
			!meta.IsStatusConditionTrue(cart.Status.Conditions, v1alpha1.ConditionReady) || cart.Status.ObservedGeneration != cart.Generation:
			return fmt.Errorf("module cart %+v", cart.Status)
		case !meta.IsStatusConditionFalse(ghost.Status.Conditions, v1alpha1.ConditionTargetFound):
			return fmt.Errorf("module ghost %+v", ghost.Status)
		}
		if r := meta.FindStatusCondition(second.Status.Conditions, v1alpha1.ConditionReady); r == nil || r.Reason != "Duplicate" {
			return fmt.Errorf("module second %+v", second.Status)
		}
		return nil
	})
	cells := map[string]any{}
	tab := table(t, admin, "/apis/neap.dev/v1alpha1/namespaces/"+ns+"/modules")
	for i, col := range tab.ColumnDefinitions {
		cells[col.Name] = tab.Rows[0].Cells[i]
	}
	if cells["Name"] != "cart" || cells["Target"] != "cart" || cells["Cost/h"] != "0.4000" || fmt.Sprint(cells["Pods"]) != "1" {
		t.Errorf("kubectl get modules shows %v", cells)
	}
	stop()
	if alive, err := s.State(context.Background(), "biller/alive"); err != nil || alive == "" {
		t.Errorf("what was recorded is not written down: %q, %v", alive, err)
	}
}

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
		t.Errorf("hour %v: allocated and idle are %v of %v", f.From, sum, r.BillNano)
	}
}

func TestAControllerThatMayNotReadSaysSoInOneSentence(t *testing.T) {
	cluster, _ := cluster(t)
	cfg, err := cluster.ConfigFor("nobody-in-particular")
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(t.TempDir(), store.Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	err = controller.Run(t.Context(), controller.Options{RESTConfig: cfg, Store: s, Log: slog.New(slog.DiscardHandler)})
	var forbidden *observe.ForbiddenError
	if !errors.As(err, &forbidden) {
		t.Fatalf("got %v, want a ForbiddenError", err)
	}
	if s := err.Error(); strings.Contains(s, "\n") || !strings.Contains(s, `user "nobody-in-particular" may not list nodes`) || !strings.Contains(s, "ClusterRole") {
		t.Errorf("it says %q", s)
	}
}

// logged is what a command has written so far.
type logged struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestTheCommandIsElectedServesAndStops(t *testing.T) {
	cluster, admin := cluster(t)
	ns := clustertest.Namespace(t, cluster)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cmd := controller.NewCommand(func(s *store.Store, _ metrics.Source) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "page of ", filepath.Base(s.Dir())) })
	})
	out := &logged{}
	cmd.SetErr(out)
	cmd.SetArgs([]string{
		"--kubeconfig", cluster.Kubeconfig, "--store", filepath.Join(t.TempDir(), "bills"), "--leader-elect-namespace", ns,
		"--listen", "127.0.0.1:0", "--health-address", "", "--metrics-address", "", "--log-format", "text",
	})
	done := make(chan error, 1)
	go func() { done <- cmd.ExecuteContext(ctx) }()
	c := newClient(t, admin)
	clustertest.Eventually(t, "the lease", func() error {
		select {
		case err := <-done:
			t.Fatalf("the command ended with %v\n%s", err, out)
		default:
		}
		return c.Get(ctx, client.ObjectKey{Namespace: ns, Name: "neap-controller.neap.dev"}, &coordinationv1.Lease{})
	})
	url := regexp.MustCompile(`url=(http://127\.0\.0\.1:\d+)`).FindStringSubmatch(out.String())
	if url == nil {
		t.Fatalf("it does not say where the dashboard is:\n%s", out)
	}
	res, err := http.Get(url[1])
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(res.Body)
	res.Body.Close()
	if string(body) != "page of bills" {
		t.Errorf("the dashboard says %q", body)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("a stopped command ends with %v\n%s", err, out)
	}
}
