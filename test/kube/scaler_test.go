package kube

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
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/scale"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/kube/controller"
	"github.com/neap-dev/neap/kube/controller/scaler"
	"github.com/neap-dev/neap/local/controlplane/clustertest"
	"github.com/neap-dev/neap/metrics"
	"github.com/neap-dev/neap/store"
)

// loads answers each query by its name with a function of time; nil is silence.
type loads struct {
	mu sync.Mutex
	of map[string]func(time.Time) float64
}

func (l *loads) set(name string, f func(time.Time) float64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.of == nil {
		l.of = map[string]func(time.Time) float64{}
	}
	l.of[name] = f
}

func (l *loads) Instant(_ context.Context, query string, at time.Time) ([]metrics.Series, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	name, _, _ := strings.Cut(query, "[")
	if f := l.of[name]; f != nil {
		return []metrics.Series{{Points: []metrics.Point{{T: at, V: f(at)}}}}, nil
	}
	return nil, nil
}

func (l *loads) Range(context.Context, string, time.Time, time.Time, time.Duration) ([]metrics.Series, error) {
	return nil, nil
}

func always(v float64) func(time.Time) float64 { return func(time.Time) float64 { return v } }

func deployment(t *testing.T, ns, name string) *appsv1.Deployment {
	t.Helper()
	return parse[appsv1.Deployment](t, fmt.Sprintf(`{metadata: {name: %s, namespace: %s}, spec: {replicas: 3, selector: {matchLabels: {app: %s}}, template: {metadata: {labels: {app: %s}}, spec: {containers: [{name: c, image: none}]}}}}`, name, ns, name, name))
}

func elasticPolicy(t *testing.T, ns, name, target, rest string) *v1alpha1.ElasticPolicy {
	t.Helper()
	return parse[v1alpha1.ElasticPolicy](t, fmt.Sprintf(`{metadata: {name: %s, namespace: %s}, spec: {targetRef: %s, max: 50, load: {query: "%s[$window]", perReplica: "10", target: "50%%"}, reactive: {}, %s}}`, name, ns, target, name, rest))
}

// replicasOf is what a workload of any kind asks for.
func replicasOf(t *testing.T, c client.Client, apiVersion, kind, ns, name string) int64 {
	t.Helper()
	u := &unstructured.Unstructured{}
	u.SetAPIVersion(apiVersion)
	u.SetKind(kind)
	if err := c.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: name}, u); err != nil {
		t.Fatal(err)
	}
	n, _, _ := unstructured.NestedInt64(u.Object, "spec", "replicas")
	return n
}

// widgets makes a kind with a /scale that Kubernetes does not know by itself, and
// lets user scale it.
func widgets(t *testing.T, cfg *rest.Config, c client.Client, user string) {
	t.Helper()
	ext, err := apiextensions.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	crd := parse[apiextensionsv1.CustomResourceDefinition](t, `{metadata: {name: widgets.e2e.example}, spec: {group: e2e.example, scope: Namespaced, names: {kind: Widget, plural: widgets, singular: widget},
		versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}},
		subresources: {status: {}, scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas, labelSelectorPath: .status.selector}}}]}}`)
	if _, err := ext.ApiextensionsV1().CustomResourceDefinitions().Create(t.Context(), crd, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = ext.ApiextensionsV1().CustomResourceDefinitions().Delete(context.Background(), crd.Name, metav1.DeleteOptions{})
	})
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "widgets"}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{"e2e.example"}, Resources: []string{"widgets"}, Verbs: []string{"get"}},
		{APIGroups: []string{"e2e.example"}, Resources: []string{"widgets/scale"}, Verbs: []string{"get", "update"}},
	}}
	binding := &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "widgets"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "widgets"},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}}}
	for _, obj := range []client.Object{role, binding} {
		if err := c.Create(t.Context(), obj); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTheControllerScalesWithNoMoreRightsThanItNames(t *testing.T) {
	cluster, admin := cluster(t)
	ctx := t.Context()
	c := newClient(t, admin)
	ns := clustertest.Namespace(t, cluster)
	grant(t, c, "scaler")
	widgets(t, admin, c, "scaler")
	cfg, err := cluster.ConfigFor("scaler")
	if err != nil {
		t.Fatal(err)
	}

	// 1. Workloads that ask for three replicas, with a load for ten.
	load := &loads{}
	ref := func(name string) string { return "{name: " + name + "}" }
	var objects []client.Object
	for _, name := range []string{"auto", "preview", "owned", "silent", "shared", "deleted", "pinned"} {
		objects = append(objects, deployment(t, ns, name))
	}
	objects = append(objects,
		parse[appsv1.StatefulSet](t, `{metadata: {name: queue, namespace: `+ns+`}, spec: {replicas: 3, serviceName: queue, selector: {matchLabels: {app: queue}}, template: {metadata: {labels: {app: queue}}, spec: {containers: [{name: c, image: none}]}}}}`),
		parse[autoscalingv2.HorizontalPodAutoscaler](t, `{metadata: {name: rival, namespace: `+ns+`}, spec: {scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: owned}, minReplicas: 3, maxReplicas: 3}}`),
		elasticPolicy(t, ns, "auto", ref("auto"), "mode: Auto"),
		elasticPolicy(t, ns, "preview", ref("preview"), "mode: Preview"),
		elasticPolicy(t, ns, "owned", ref("owned"), "mode: Auto"),
		elasticPolicy(t, ns, "silent", ref("silent"), "mode: Auto"),
		elasticPolicy(t, ns, "shared", ref("shared"), "mode: Auto"),
		elasticPolicy(t, ns, "shared-too", ref("shared"), "mode: Auto"),
		elasticPolicy(t, ns, "deleted", ref("deleted"), "mode: Auto"),
		elasticPolicy(t, ns, "pinned", ref("pinned"), `mode: Auto, manual: [{name: exam, pin: 7, reason: exam week}]`),
		elasticPolicy(t, ns, "queue", "{kind: StatefulSet, name: queue}", "mode: Auto"),
		elasticPolicy(t, ns, "widget", "{apiVersion: e2e.example/v1, kind: Widget, name: widget}", "mode: Auto"),
		elasticPolicy(t, ns, "recurring", ref("auto"), `mode: Observe, cron: [{name: a, rrule: "DTSTART:20260907T183000 RRULE:FREQ=SOMETIMES", duration: 1h, floor: 2}]`),
	)
	for _, obj := range objects {
		if err := c.Create(ctx, obj); err != nil {
			t.Fatal(err)
		}
		if p, ok := obj.(*v1alpha1.ElasticPolicy); ok && p.Name != "silent" {
			load.set(p.Name, always(50))
		}
	}
	widget := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"replicas": int64(3)}}}
	widget.SetAPIVersion("e2e.example/v1")
	widget.SetKind("Widget")
	widget.SetNamespace(ns)
	widget.SetName("widget")
	clustertest.Eventually(t, "the widget", func() error { return client.IgnoreAlreadyExists(c.Create(ctx, widget.DeepCopy())) })

	// 2. The controller, by a clock of its own.
	clock := clocktesting.NewFakeClock(time.Now().UTC().Truncate(time.Minute))
	s, err := store.Open(t.TempDir(), store.Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	decided := make(chan time.Time, 100)
	ctl, err := controller.New(controller.Options{
		RESTConfig: cfg, Store: s, Ledger: s, Metrics: load, Clock: clock, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Decided: func(at time.Time) { decided <- at },
	})
	if err != nil {
		t.Fatal(err)
	}
	runCtx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- ctl.Run(runCtx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the controller ended with %v", err)
		}
	}()
	minute := func(step time.Duration) {
		t.Helper()
		clock.Step(step)
		select {
		case <-decided:
		case <-time.After(clustertest.Patience):
			t.Fatal("no minute passes")
		}
	}
	minute(0)
	if err := c.Delete(ctx, deployment(t, ns, "deleted")); err != nil {
		t.Fatal(err)
	}
	minute(time.Minute)

	// 3. Who was scaled, and who was not and why.
	says := func(name, condition, want string) {
		t.Helper()
		clustertest.Eventually(t, "the status of "+name, func() error {
			var p v1alpha1.ElasticPolicy
			if err := c.Get(ctx, client.ObjectKey{Namespace: ns, Name: name}, &p); err != nil {
				return err
			}
			if c := meta.FindStatusCondition(p.Status.Conditions, condition); c == nil || string(c.Status)+" "+c.Reason != want {
				return fmt.Errorf("%s is %+v, want %s; all: %+v", condition, c, want, p.Status)
			}
			return nil
		})
	}
	for name, want := range map[string]int64{"auto": 10, "preview": 3, "owned": 3, "silent": 3, "shared": 10, "pinned": 7} {
		if got := replicasOf(t, c, "apps/v1", "Deployment", ns, name); got != want {
			t.Errorf("%s has %d replicas, want %d", name, got, want)
		}
	}
	if got := replicasOf(t, c, "apps/v1", "StatefulSet", ns, "queue"); got != 10 {
		t.Errorf("the StatefulSet has %d replicas, want 10", got)
	}
	if got := replicasOf(t, c, "e2e.example/v1", "Widget", ns, "widget"); got != 10 {
		t.Errorf("a kind of somebody else's has %d replicas, want 10", got)
	}
	says("auto", "Ready", "True Complete")
	says("preview", "Ready", "True Complete")
	says("owned", "SoleOwner", "False OtherOwner")
	says("owned", "Ready", "False OtherOwner")
	says("silent", "MetricsFresh", "False Gone")
	says("shared-too", "SoleOwner", "False OtherOwner")
	says("deleted", "TargetFound", "False NotFound")
	says("recurring", "Ready", "False Invalid")

	// 4. A changed policy does not wait for the minute.
	clustertest.Eventually(t, "the policy to change", func() error {
		var p v1alpha1.ElasticPolicy
		if err := c.Get(ctx, client.ObjectKey{Namespace: ns, Name: "auto"}, &p); err != nil {
			return err
		}
		p.Spec.Manual = []v1alpha1.ManualLayer{{Name: "exam", Floor: new(int32(21)), Reason: "exam week"}}
		return c.Update(ctx, &p)
	})
	clustertest.Eventually(t, "the floor", func() error {
		if got := replicasOf(t, c, "apps/v1", "Deployment", ns, "auto"); got != 21 {
			return fmt.Errorf("%d replicas, want 21", got)
		}
		return nil
	})

	// 5. The ledger and the metrics.
	ds, err := s.Decisions(ctx, time.Time{}, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	var scaled bool
	for _, d := range ds {
		scaled = scaled || d.Actor == "scaler" && d.Action == "scale" && d.Subject == ns+"/Deployment/auto" && d.Outcome == "done" && d.Inputs["desired"] == "10"
	}
	if !scaled {
		t.Errorf("the ledger does not tell that auto was scaled to 10: %+v", ds)
	}
	var text strings.Builder
	if err := ctl.Scaler.WriteMetrics(&text); err != nil || !strings.Contains(text.String(), `neap_elastic_replicas{layer="desired",namespace="`+ns+`",policy="preview"} 10`) {
		t.Errorf("metrics (%v):\n%s", err, text.String())
	}
}

// ledger is in memory, by ID.
type ledger struct {
	mu   sync.Mutex
	rows map[string]bill.Decision
	last string
}

func (l *ledger) AppendDecision(_ context.Context, d bill.Decision) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.rows == nil {
		l.rows = map[string]bill.Decision{}
	}
	if _, ok := l.rows[d.ID]; !ok {
		l.rows[d.ID], l.last = d, d.Inputs["desired"]
	}
	return nil
}

// TestTheScalerIsKilledInABusyHour plays an hour of load a minute at a time
// against a real API server, twice: undisturbed, and killed at random moments.
func TestTheScalerIsKilledInABusyHour(t *testing.T) {
	cluster, admin := cluster(t)
	c := newClient(t, admin)
	ns := clustertest.Namespace(t, cluster)
	kinds, err := discovery.NewDiscoveryClientForConfig(admin)
	if err != nil {
		t.Fatal(err)
	}
	scales, err := scale.NewForConfig(rest.CopyConfig(admin), c.RESTMapper(), dynamic.LegacyAPIPathResolverFunc, scale.NewDiscoveryScaleKindResolver(kinds))
	if err != nil {
		t.Fatal(err)
	}
	start := time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC)
	busy := func(at time.Time) float64 {
		switch m := at.Sub(start).Minutes(); {
		case m < 15:
			return 20 + 12*m
		case m < 30:
			return 160 + 40*math.Sin(m)
		case m < 40:
			return 60
		default:
			return 95
		}
	}
	// play returns the replicas of every minute, and what is said at the end.
	play := func(name string, dice *rand.Rand) (replicas []int64, end v1alpha1.ElasticPolicyStatus, book *ledger, kills int) {
		d := deployment(t, ns, name)
		p := elasticPolicy(t, ns, name, "{name: "+name+"}", `mode: Auto, cron: [{name: class, start: "10:20", duration: 20m, floor: 12}]`)
		p.Spec.Reactive.PanicPercent = "0%" // no pod is ever ready, which is a panic without end
		for _, obj := range []client.Object{d, p} {
			if err := c.Create(t.Context(), obj); err != nil {
				t.Fatal(err)
			}
		}
		load := &loads{}
		load.set(name, busy)
		clock, book := clocktesting.NewFakeClock(start), &ledger{}
		fresh := func() *scaler.Scaler {
			s, err := scaler.New(scaler.Options{Client: c, Live: c, Scales: scales, Mapper: c.RESTMapper(), Clock: clock, Metrics: load, Ledger: book, Log: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		s := fresh()
		for minute := range 60 {
			if dice != nil && minute < 48 && dice.IntN(2) == 0 {
				// Killed somewhere in the minute, in the middle of a request or between two.
				ctx, kill := context.WithTimeout(t.Context(), time.Duration(dice.IntN(40_000))*time.Microsecond)
				_ = s.Minute(ctx)
				kill()
				kills++
				s = fresh()
			}
			if err := s.Minute(t.Context()); err != nil && !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
			replicas = append(replicas, replicasOf(t, c, "apps/v1", "Deployment", ns, name))
			clock.Step(time.Minute)
		}
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(p), p); err != nil {
			t.Fatal(err)
		}
		if err := c.Delete(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		return replicas, p.Status, book, kills
	}
	want, end, _, _ := play("whole", nil)
	for seed := range 3 {
		got, st, book, kills := play(fmt.Sprint("killed-", seed), rand.New(rand.NewPCG(uint64(seed), 1)))
		t.Logf("killed %d times: %v, undisturbed %v", kills, got, want)
		if n := len(want) - 1; got[n] != want[n] || st.Desired != end.Desired || st.Winner != end.Winner || (st.Leaving == nil) != (end.Leaving == nil) {
			t.Errorf("after %d kills the end is %d replicas (%s: %s), undisturbed %d (%s: %s)", kills, got[n], st.Winner, st.Reason, want[n], end.Winner, end.Reason)
		}
		for m := range want {
			if got[m] < want[m] {
				t.Errorf("after %d kills: %d replicas in minute %d, undisturbed %d", kills, got[m], m, want[m])
				break
			}
		}
		if book.last != fmt.Sprint(st.Desired) {
			t.Errorf("the ledger ends with %s, the status with %d", book.last, st.Desired)
		}
	}
}
