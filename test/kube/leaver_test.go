package kube

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrlconfig "sigs.k8s.io/controller-runtime/pkg/config"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/deploy"
	"github.com/neap-dev/neap/kube/controller/leaver"
	"github.com/neap-dev/neap/local/controlplane/clustertest"
)

// runLeaver runs the leaver with no more rights than the controller names.
func runLeaver(w *poolWorld) {
	w.t.Helper()
	user := "leaver-" + w.ns
	grant(w.t, w.c, user)
	cfg, err := w.cluster.ConfigFor(user)
	if err != nil {
		w.t.Fatal(err)
	}
	mgr, err := ctrl.NewManager(cfg, ctrl.Options{
		Scheme: scheme(w.t), Metrics: metricsserver.Options{BindAddress: "0"},
		Controller: ctrlconfig.Controller{SkipNameValidation: ptr.To(true)},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	err = leaver.New(leaver.Options{
		Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Clock: clock.RealClock{}, Events: mgr.GetEventRecorder("neap"),
	}).SetupWithManager(mgr)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- mgr.Start(ctx) }()
	w.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	})
}

// admit installs Neap's admission policies, but for those about GPUs: other tests in
// this cluster play the agents that write what GPUs there are.
func admit(w *poolWorld) {
	w.t.Helper()
	policies, err := deploy.Admission()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, p := range policies {
		if strings.HasPrefix(p.GetName(), "gpu") {
			continue
		}
		if err := w.c.Create(w.t.Context(), p); err != nil && !apierrors.IsAlreadyExists(err) {
			w.t.Fatal(err)
		}
	}
}

// decide writes what the scaler would.
func (w *poolWorld) decide(p *v1alpha1.ElasticPolicy, desired, leaving int) {
	w.t.Helper()
	clustertest.Eventually(w.t, "a decision to be written", func() error {
		if err := w.c.Get(w.t.Context(), client.ObjectKeyFromObject(p), p); err != nil {
			return err
		}
		p.Status.Selector, p.Status.Desired, p.Status.Leaving = "app="+p.Name, int32(desired), nil
		if leaving > 0 {
			p.Status.Leaving = &v1alpha1.LeavingStatus{Replicas: int32(leaving), Since: metav1.Now()}
		}
		return w.c.Status().Update(w.t.Context(), p)
	})
}

func (w *poolWorld) awaitOrder(p *v1alpha1.ElasticPolicy, reason, message string) {
	w.t.Helper()
	clustertest.Eventually(w.t, "the condition OrderKept to say "+message, func() error {
		if err := w.c.Get(w.t.Context(), client.ObjectKeyFromObject(p), p); err != nil {
			return err
		}
		if c := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionOrderKept); c == nil || c.Reason != reason || !strings.Contains(c.Message, message) {
			return fmt.Errorf("it says %+v", c)
		}
		return nil
	})
}

// traffic waits until so many pods of an app are ready in each pool: those that a
// Service would send to.
func (w *poolWorld) traffic(app string, owned, sls int) {
	w.t.Helper()
	clustertest.Eventually(w.t, fmt.Sprintf("%d owned and %d serverless pods of %s to have traffic", owned, sls, app), func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		ready := map[string]int{}
		for _, p := range w.pods {
			if pool, _, _ := strings.Cut(p.Spec.NodeName, "-"); p.Labels["app"] == app && !condition(p, corev1.PodReady).IsZero() {
				ready[pool]++
			}
		}
		if ready["owned"] != owned || ready["sls"] != sls {
			return fmt.Errorf("%v have", ready)
		}
		return nil
	})
}

func TestReplicasAreCutOffComeBackAndLeaveInOrder(t *testing.T) {
	w := newPoolWorld(t)
	admit(w)
	runLeaver(w)
	p := w.policy("web", 12, 0, 8)
	if err := w.c.Patch(t.Context(), p, client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"scaleIn":{"watch":"1m"}}}`))); err != nil {
		t.Fatal(err)
	}
	clustertest.Eventually(t, "admission to know the policy", func() error {
		pod := &corev1.Pod{}
		unmarshal(t, fmt.Sprintf(`{metadata: {name: trial, namespace: %s, labels: {pod-template-hash: x}, ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: web-x, uid: x, controller: true}]}, spec: %s}`, w.ns, podSpec), pod)
		if err := w.c.Create(t.Context(), pod, client.DryRunAll); err != nil {
			return err
		}
		if len(pod.Spec.ReadinessGates) == 0 {
			return errors.New("a pod got no gate")
		}
		return nil
	})
	d := w.deployment("web", 20)
	w.decide(p, 20, 0)
	w.traffic("web", 12, 8)

	// 1. Those that leave next lose their traffic, and only those.
	w.decide(p, 20, 8)
	w.traffic("web", 12, 0)
	w.await("web", map[string]int{"owned": 12, "sls": 8})
	// 2. The guard broke: they come back.
	w.decide(p, 20, 0)
	w.traffic("web", 12, 8)
	// 3. Again, and now they go.
	w.decide(p, 20, 8)
	w.traffic("web", 12, 0)
	w.decide(p, 12, 0)
	w.scale(d, 12)
	w.await("web", map[string]int{"owned": 12})
	w.traffic("web", 12, 0)
	w.awaitOrder(p, "Kept", "the last 8 replicas to leave were those that should have")
	if p.Status.Violations != 0 {
		t.Errorf("%d violations", p.Status.Violations)
	}
	// 4. Where the template came before the policy, pods have no gate, and it is said.
	w.deployment("old", 3)
	w.awaitReady("old", 3)
	late := w.policy("old", 3, 0, 0)
	w.decide(late, 3, 1)
	w.awaitOrder(late, "NoGate", "lack the readiness gate neap.dev/serving")
	// Those that another policy did not place have their cost now.
	clustertest.Eventually(t, "the costs", func() error {
		var pods corev1.PodList
		if err := w.c.List(t.Context(), &pods, client.InNamespace(w.ns), client.MatchingLabels{"app": "old"}); err != nil {
			return err
		}
		for _, pod := range pods.Items {
			if pod.Annotations[corev1.PodDeletionCost] == "" {
				return errors.New(pod.Name + " has none")
			}
		}
		return nil
	})
}

func TestWhereACKOrdersThePodsNeapDoesNot(t *testing.T) {
	w := newPoolWorld(t)
	ext, err := apiextensions.NewForConfig(w.cfg)
	if err != nil {
		t.Fatal(err)
	}
	crd := &apiextensionsv1.CustomResourceDefinition{}
	unmarshal(t, `{metadata: {name: resourcepolicies.scheduling.alibabacloud.com}, spec: {group: scheduling.alibabacloud.com, scope: Namespaced,
		names: {kind: ResourcePolicy, listKind: ResourcePolicyList, plural: resourcepolicies, singular: resourcepolicy},
		versions: [{name: v1alpha1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]}}`, crd)
	if _, err := ext.ApiextensionsV1().CustomResourceDefinitions().Create(t.Context(), crd, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	theirs := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "scheduling.alibabacloud.com/v1alpha1", "kind": "ResourcePolicy",
		"metadata": map[string]any{"name": "theirs", "namespace": w.ns},
		"spec":     map[string]any{"selector": map[string]any{"app": "web"}, "units": []any{map[string]any{"resource": "ecs"}, map[string]any{"resource": "eci"}}},
	}}
	clustertest.Eventually(t, "ACK's kind to be served", func() error { return newClient(t, w.cfg).Create(t.Context(), theirs) })
	w.deployment("web", 2)
	w.awaitReady("web", 2)
	runLeaver(w)
	p := w.policy("web", 2, 0, 0)
	w.decide(p, 2, 0)
	w.awaitOrder(p, "OtherPolicy", "ACK's ResourcePolicy theirs orders the same pods, which excludes deletion costs")
	var pods corev1.PodList
	if err := w.c.List(t.Context(), &pods, client.InNamespace(w.ns)); err != nil {
		t.Fatal(err)
	}
	for _, pod := range pods.Items {
		if cost := pod.Annotations[corev1.PodDeletionCost]; cost != "" {
			t.Errorf("%s was given the cost %s", pod.Name, cost)
		}
	}
}
