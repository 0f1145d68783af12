package leaver

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/neap-dev/neap/api/v1alpha1"
)

// An opener gives traffic to pods with the gate that no policy orders any more:
// the policy is gone, paused or no longer in mode Auto, or somebody else sets its
// replicas. Nobody else would, and a gate that nobody opens is an outage.
type opener struct{ c client.Client }

func (o *opener) setup(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).Named("leaver-opener").
		For(&corev1.Pod{}, builder.WithPredicates(predicate.NewPredicateFuncs(shut))).
		Watches(&v1alpha1.ElasticPolicy{}, handler.EnqueueRequestsFromMapFunc(o.shutIn), builder.WithPredicates(stopped)).
		Complete(o)
}

// shut reports whether a pod is on a machine and gets no traffic because of the gate.
func shut(obj client.Object) bool {
	pod, ok := obj.(*corev1.Pod)
	return ok && pod.Spec.NodeName != "" && pod.DeletionTimestamp == nil && status(pod, v1alpha1.ReadinessServing) != corev1.ConditionTrue &&
		slices.ContainsFunc(pod.Spec.ReadinessGates, func(g corev1.PodReadinessGate) bool { return g.ConditionType == v1alpha1.ReadinessServing })
}

// stopped lets through that a policy orders its pods no more.
var stopped = predicate.Funcs{
	CreateFunc: func(event.CreateEvent) bool { return false },
	UpdateFunc: func(e event.UpdateEvent) bool {
		was, is := e.ObjectOld.(*v1alpha1.ElasticPolicy), e.ObjectNew.(*v1alpha1.ElasticPolicy)
		return acts(was) && !acts(is)
	},
}

// shutIn returns the pods without traffic in a policy's namespace.
func (o *opener) shutIn(ctx context.Context, policy client.Object) []reconcile.Request {
	var pods corev1.PodList
	if err := o.c.List(ctx, &pods, client.InNamespace(policy.GetNamespace()), client.UnsafeDisableDeepCopy); err != nil {
		return nil // the cache is not there yet, or is going
	}
	var out []reconcile.Request
	for i := range pods.Items {
		if shut(&pods.Items[i]) {
			out = append(out, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&pods.Items[i])})
		}
	}
	return out
}

// Reconcile implements reconcile.Reconciler.
func (o *opener) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	var pod corev1.Pod
	if err := o.c.Get(ctx, req.NamespacedName, &pod); err != nil || !shut(&pod) {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	var l v1alpha1.ElasticPolicyList
	if err := o.c.List(ctx, &l, client.InNamespace(req.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		return ctrl.Result{}, err
	}
	for i := range l.Items {
		if sel, ok := selector(&l.Items[i]); ok && acts(&l.Items[i]) && sel.Matches(labels.Set(pod.Labels)) {
			return ctrl.Result{}, nil
		}
	}
	return ctrl.Result{}, client.IgnoreNotFound(gate(ctx, o.c, req.NamespacedName, "True", "Serves"))
}

// gate sets the condition that decides whether a pod gets traffic.
func gate(ctx context.Context, c client.Client, pod types.NamespacedName, status, reason string) error {
	patch := fmt.Appendf(nil, `{"status":{"conditions":[{"type":%q,"status":%q,"reason":%q,"lastTransitionTime":%q}]}}`,
		v1alpha1.ReadinessServing, status, reason, time.Now().UTC().Format(time.RFC3339))
	obj := &corev1.Pod{}
	obj.Namespace, obj.Name = pod.Namespace, pod.Name
	return c.SubResource("status").Patch(ctx, obj, client.RawPatch(types.StrategicMergePatchType, patch), client.FieldOwner("neap-leaver"))
}
