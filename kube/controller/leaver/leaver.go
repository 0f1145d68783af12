package leaver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/kube/convert"
)

// Options of a [Reconciler]. Every field is required.
type Options struct {
	// Client reads policies, pools, nodes and pods from a cache, and writes.
	Client client.Client
	// Live reads kinds past the cache that the cluster may not have.
	Live client.Reader
	// Clock is the cluster's clock.
	Clock clock.PassiveClock
	// Events takes what a person should know.
	Events events.EventRecorder
}

// A Reconciler keeps the order in which pods leave.
type Reconciler struct {
	o Options

	mu     sync.Mutex
	states map[types.NamespacedName]State
	rivals map[string]rivalry // by namespace
}

// A rivalry is what was found of ACK's ResourcePolicies in a namespace.
type rivalry struct {
	at   time.Time // on the wall
	list []unstructured.Unstructured
}

// lookForRivals is how often ACK's ResourcePolicies are asked for, on the wall.
const lookForRivals = time.Minute

// New returns a Reconciler that remembers nothing yet.
func New(o Options) *Reconciler {
	return &Reconciler{o: o, states: map[types.NamespacedName]State{}, rivals: map[string]rivalry{}}
}

// SetupWithManager registers the Reconciler.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	if err := (&opener{r.o.Client}).setup(mgr); err != nil {
		return err
	}
	return ctrl.NewControllerManagedBy(mgr).Named("leaver").
		For(&v1alpha1.ElasticPolicy{}).
		Watches(&corev1.Pod{}, handler.EnqueueRequestsFromMapFunc(r.policiesOf)).
		Complete(r)
}

// policiesOf returns the policies that a pod is of.
func (r *Reconciler) policiesOf(ctx context.Context, pod client.Object) []reconcile.Request {
	var l v1alpha1.ElasticPolicyList
	if err := r.o.Client.List(ctx, &l, client.InNamespace(pod.GetNamespace()), client.UnsafeDisableDeepCopy); err != nil {
		return nil // the cache is not there yet, or is going
	}
	var out []reconcile.Request
	for i := range l.Items {
		p := &l.Items[i]
		if sel, ok := selector(p); ok && acts(p) && sel.Matches(labels.Set(pod.GetLabels())) {
			out = append(out, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(p)})
		}
	}
	return out
}

// acts reports whether the pods of a policy are Neap's to order.
func acts(p *v1alpha1.ElasticPolicy) bool {
	if p.Spec.Mode != v1alpha1.ModeAuto || p.Annotations[v1alpha1.AnnotationPause] == "true" || !p.DeletionTimestamp.IsZero() {
		return false
	}
	// The scaler stopped, because somebody else sets the replicas, or the target is paused.
	c := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionReady)
	return c == nil || c.Reason != "OtherOwner" && c.Reason != "Paused"
}

func selector(p *v1alpha1.ElasticPolicy) (labels.Selector, bool) {
	if p.Status.Selector == "" {
		return nil, false // the scaler has not found the target yet
	}
	sel, err := labels.Parse(p.Status.Selector)
	return sel, err == nil && !sel.Empty()
}

// +kubebuilder:rbac:groups=neap.dev,resources=elasticpolicies,verbs=get;list;watch
// +kubebuilder:rbac:groups=neap.dev,resources=elasticpolicies/status,verbs=patch
// +kubebuilder:rbac:groups="",resources=pods,verbs=get;list;watch;patch;delete
// +kubebuilder:rbac:groups="",resources=pods/status,verbs=patch
// +kubebuilder:rbac:groups="",resources=nodes,verbs=get;list;watch
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch

// Reconcile implements reconcile.Reconciler.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	var p v1alpha1.ElasticPolicy
	if err := r.o.Client.Get(ctx, req.NamespacedName, &p); err != nil {
		r.forget(req.NamespacedName)
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	sel, ok := selector(&p)
	if !ok || !acts(&p) {
		r.forget(req.NamespacedName)
		return ctrl.Result{}, nil
	}
	seen, err := r.observe(ctx, &p, sel)
	if err != nil {
		return ctrl.Result{}, err
	}
	r.mu.Lock()
	was := r.states[req.NamespacedName]
	r.mu.Unlock()
	v, next := Decide(seen, was)
	r.mu.Lock()
	r.states[req.NamespacedName] = next
	r.mu.Unlock()
	// What was judged is remembered no more, so it is written down whatever becomes of the rest.
	return ctrl.Result{}, errors.Join(r.report(ctx, &p, seen, v), r.apply(ctx, &p, v))
}

func (r *Reconciler) forget(key types.NamespacedName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.states, key)
}

// observe finds the pods of a policy and where they are.
func (r *Reconciler) observe(ctx context.Context, p *v1alpha1.ElasticPolicy, sel labels.Selector) (Observation, error) {
	seen := Observation{Pools: len(p.Spec.Pools), Stateful: p.Spec.TargetRef.Kind == "StatefulSet", Desired: int(p.Status.Desired)}
	if l := p.Status.Leaving; l != nil {
		seen.Leaving = int(l.Replicas)
	}
	seen.Planned = map[int]int{}
	for _, s := range p.Status.Pools {
		if i := slices.IndexFunc(p.Spec.Pools, func(q v1alpha1.PolicyPool) bool { return q.Name == s.Name }); i >= 0 {
			seen.Planned[i] = int(s.Planned)
		}
	}
	var pools v1alpha1.ResourcePoolList
	var pods corev1.PodList
	if err := errors.Join(
		r.o.Client.List(ctx, &pools, client.UnsafeDisableDeepCopy),
		r.o.Client.List(ctx, &pods, client.InNamespace(p.Namespace), client.MatchingLabelsSelector{Selector: sel}, client.UnsafeDisableDeepCopy),
	); err != nil {
		return seen, fmt.Errorf("list pools and pods: %w", err)
	}
	var declared []*v1alpha1.ResourcePool
	for i := range pools.Items {
		declared = append(declared, &pools.Items[i])
	}
	known, _ := convert.NewPools(declared) // a selector that makes no sense is told in the pool's own status
	rank := func(pool string) int {
		if i := slices.IndexFunc(p.Spec.Pools, func(q v1alpha1.PolicyPool) bool { return q.Name == pool }); i >= 0 {
			return i
		}
		return len(p.Spec.Pools)
	}
	asked := map[string]resource.Vector{} // of a node, by this workload: what else is on it need not be known
	for i := range pods.Items {
		asked[pods.Items[i].Spec.NodeName] = asked[pods.Items[i].Spec.NodeName].Add(convert.Request(&pods.Items[i]))
	}
	for i := range pods.Items {
		pod := &pods.Items[i]
		if convert.Over(pod) {
			continue
		}
		if status(pod, corev1.DisruptionTarget) == corev1.ConditionTrue {
			seen.Disrupted = append(seen.Disrupted, pod.UID)
		}
		if pod.DeletionTimestamp != nil {
			continue
		}
		one := Pod{
			UID: pod.UID, Name: pod.Name, Rank: len(p.Spec.Pools), Cost: pod.Annotations[corev1.PodDeletionCost],
			Ready: status(pod, corev1.PodReady) == corev1.ConditionTrue, Bound: pod.Spec.NodeName != "", Refused: convert.Refused(pod),
		}
		for _, l := range []string{"pod-template-hash", "controller-revision-hash", "rollouts-pod-template-hash"} {
			if one.Revision = pod.Labels[l]; one.Revision != "" {
				break
			}
		}
		if seen.Stateful {
			one.Ordinal, _ = strconv.Atoi(pod.Name[strings.LastIndexByte(pod.Name, '-')+1:])
		}
		one.Gated = slices.ContainsFunc(pod.Spec.ReadinessGates, func(g corev1.PodReadinessGate) bool { return g.ConditionType == v1alpha1.ReadinessServing })
		if one.Gated {
			serving := status(pod, v1alpha1.ReadinessServing)
			one.CutOff, one.Undecided = serving == corev1.ConditionFalse, serving == ""
		}
		var node corev1.Node
		if one.Bound && r.o.Client.Get(ctx, client.ObjectKey{Name: pod.Spec.NodeName}, &node, client.UnsafeDisableDeepCopy) == nil {
			one.Rank = rank(known.Of(&node).Name)
			one.Fullness = share(asked[pod.Spec.NodeName], convert.Vector(node.Status.Allocatable))
		}
		seen.Pods = append(seen.Pods, one)
	}
	slices.SortFunc(seen.Pods, func(a, b Pod) int { return strings.Compare(a.Name, b.Name) })
	seen.Rival = r.rival(ctx, p, pods.Items)
	return seen, nil
}

// share is how much of a machine is asked for, by the scarcer of CPU and memory.
func share(asks, of resource.Vector) float64 {
	most := 0.0
	for _, k := range []resource.Kind{resource.CPU, resource.Memory} {
		if of[k] > 0 {
			most = max(most, float64(asks[k])/float64(of[k]))
		}
	}
	return min(most, 1)
}

func status(pod *corev1.Pod, typ corev1.PodConditionType) corev1.ConditionStatus {
	for _, c := range pod.Status.Conditions {
		if c.Type == typ {
			return c.Status
		}
	}
	return ""
}

var resourcePolicies = schema.GroupVersionKind{Group: "scheduling.alibabacloud.com", Version: "v1alpha1", Kind: "ResourcePolicyList"}

// rival returns the ResourcePolicy of ACK that orders the same pods. It and
// deletion costs exclude each other.
func (r *Reconciler) rival(ctx context.Context, p *v1alpha1.ElasticPolicy, pods []corev1.Pod) string {
	r.mu.Lock()
	found := r.rivals[p.Namespace]
	r.mu.Unlock()
	if time.Since(found.at) > lookForRivals {
		var l unstructured.UnstructuredList
		l.SetGroupVersionKind(resourcePolicies)
		err := r.o.Live.List(ctx, &l, client.InNamespace(p.Namespace))
		if err != nil && !meta.IsNoMatchError(err) && !apierrors.IsNotFound(err) {
			ctrl.LoggerFrom(ctx).V(1).Info("ACK's ResourcePolicies cannot be looked for", "err", err) // most clusters have none
		}
		found = rivalry{at: time.Now(), list: l.Items}
		r.mu.Lock()
		r.rivals[p.Namespace] = found
		r.mu.Unlock()
	}
	for i := range found.list {
		want, _, err := unstructured.NestedStringMap(found.list[i].Object, "spec", "selector")
		if err != nil || len(want) == 0 {
			continue
		}
		if slices.ContainsFunc(pods, func(pod corev1.Pod) bool { return labels.SelectorFromSet(want).Matches(labels.Set(pod.Labels)) }) {
			return found.list[i].GetName()
		}
	}
	return ""
}

// apply writes costs and gates.
func (r *Reconciler) apply(ctx context.Context, p *v1alpha1.ElasticPolicy, v Verdict) error {
	var errs []error
	for name, cost := range v.Costs {
		patch := fmt.Appendf(nil, `{"metadata":{"annotations":{%q:"%d"}}}`, corev1.PodDeletionCost, cost)
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: name}}
		if err := client.IgnoreNotFound(r.o.Client.Patch(ctx, pod, client.RawPatch(types.MergePatchType, patch), client.FieldOwner("neap-leaver"))); err != nil {
			errs = append(errs, fmt.Errorf("write the deletion cost of pod %s/%s: %w", p.Namespace, name, err))
		}
	}
	for _, to := range []struct {
		pods           []string
		status, reason string
	}{{v.Open, "True", "Serves"}, {v.Shut, "False", "Leaving"}} {
		for _, name := range to.pods {
			pod := types.NamespacedName{Namespace: p.Namespace, Name: name}
			if err := client.IgnoreNotFound(gate(ctx, r.o.Client, pod, to.status, to.reason)); err != nil {
				errs = append(errs, fmt.Errorf("set the readiness gate of pod %s: %w", pod, err))
			}
		}
	}
	for _, name := range v.Drop {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: name}}
		if err := client.IgnoreNotFound(r.o.Client.Delete(ctx, pod)); err != nil {
			errs = append(errs, fmt.Errorf("delete pod %s/%s, which its provider refuses: %w", p.Namespace, name, err))
		}
	}
	return errors.Join(errs...)
}

// report tells what was found in the policy's status and events.
func (r *Reconciler) report(ctx context.Context, p *v1alpha1.ElasticPolicy, seen Observation, v Verdict) error {
	to := p.DeepCopy()
	to.Status.Violations += int64(v.Violations)
	said := metav1.Condition{
		Type: v1alpha1.ConditionOrderKept, Status: metav1.ConditionTrue, Reason: "Kept", Message: "replicas leave the last pool first",
		ObservedGeneration: p.Generation, LastTransitionTime: metav1.NewTime(r.o.Clock.Now()),
	}
	set := func(status metav1.ConditionStatus, reason, message string) {
		said.Status, said.Reason, said.Message = status, reason, message
	}
	was := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionOrderKept)
	switch {
	case seen.Rival != "":
		set(metav1.ConditionFalse, "OtherPolicy", fmt.Sprintf("ACK's ResourcePolicy %s orders the same pods, which excludes deletion costs: delete it, or leave spec.pools out", seen.Rival))
	case v.Ungated > 0:
		set(metav1.ConditionFalse, "NoGate", fmt.Sprintf("%d replicas that are to leave get traffic until they are deleted: they lack the readiness gate %s, which admission gives to new pods", v.Ungated, v1alpha1.ReadinessServing))
	case v.Violations > 0:
		set(metav1.ConditionFalse, "Violated", v.Reason)
		r.o.Events.Eventf(p, nil, corev1.EventTypeWarning, "LeftOutOfOrder", "ScaleIn", "%d replicas left before those that should have left first: %s", v.Violations, v.Reason)
	case v.Judged > 0:
		set(metav1.ConditionTrue, "Kept", fmt.Sprintf("the last %d replicas to leave were those that should have", v.Judged))
	case was != nil && (was.Reason == "Violated" || was.Reason == "Kept"):
		set(was.Status, was.Reason, was.Message) // until the next scale-in
	case seen.Pools == 0:
		set(metav1.ConditionUnknown, "NoPools", "the policy names no pools, so Kubernetes chooses who leaves")
	case seen.Stateful:
		set(metav1.ConditionTrue, "Kept", "replicas leave by ordinal, the highest first")
	}
	meta.SetStatusCondition(&to.Status.Conditions, said)
	now := meta.FindStatusCondition(to.Status.Conditions, v1alpha1.ConditionOrderKept)
	if v.Violations == 0 && was != nil && *was == *now {
		return nil
	}
	// Somebody else may have written in between: then it is looked at again.
	err := r.o.Client.Status().Patch(ctx, to, client.MergeFromWithOptions(p, client.MergeFromWithOptimisticLock{}))
	if apierrors.IsConflict(err) && v.Violations > 0 {
		err = r.count(ctx, client.ObjectKeyFromObject(p), v.Violations)
	}
	return client.IgnoreNotFound(err)
}

// count adds violations to a status that changed in between.
func (r *Reconciler) count(ctx context.Context, key types.NamespacedName, n int) error {
	for {
		var p v1alpha1.ElasticPolicy
		if err := r.o.Live.Get(ctx, key, &p); err != nil {
			return err
		}
		to := p.DeepCopy()
		to.Status.Violations += int64(n)
		err := r.o.Client.Status().Patch(ctx, to, client.MergeFromWithOptions(&p, client.MergeFromWithOptimisticLock{}))
		if !apierrors.IsConflict(err) {
			return err
		}
	}
}
