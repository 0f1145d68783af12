package repacker

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/rand"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/kube/convert"
)

const (
	fieldOwner = client.FieldOwner("neap-repacker")
	// lowest is the deletion cost of a pod that goes before all others.
	lowest = "-2147483648"
	// annotationCost on a pod with the lowest cost is what its cost was before.
	annotationCost = "neap.dev/repack-cost-was"
	// annotationRevision numbers the ReplicaSets of a Deployment.
	annotationRevision = "deployment.kubernetes.io/revision"
)

// A scene is one move with its objects as they are now, read past the cache.
type scene struct {
	plan  *v1alpha1.RepackPlan
	move  *v1alpha1.RepackMove
	old   *corev1.Pod        // nil if it is gone
	surge *corev1.Pod        // nil if it is not there
	set   *appsv1.ReplicaSet // nil if there is none
	seen  Seen

	// handKey is the label that the ReplicaSet alone selects by: without it Services
	// and budgets find the replacement, and the ReplicaSet does not. "" if there is none.
	handKey string
	// found are the keys of the template's labels that somebody selects by.
	found map[string]bool
}

// look reads everything about a move that is under way.
func (r *Reconciler) look(ctx context.Context, plan *v1alpha1.RepackPlan, m *v1alpha1.RepackMove) (*scene, error) {
	s := &scene{plan: plan, move: m}
	key := podKey(m.Pod)
	old, err := r.pod(ctx, key)
	if err != nil {
		return nil, err
	}
	if old != nil && string(old.UID) == m.UID && !convert.Over(old) {
		s.old = old
		_, marked := old.Annotations[annotationCost]
		s.seen.Old = OldPod{There: true, Leaving: old.DeletionTimestamp != nil, Marked: marked && old.Annotations[corev1.PodDeletionCost] == lowest}
	}
	if m.Evict {
		return s, nil
	}
	if s.surge, err = r.pod(ctx, types.NamespacedName{Namespace: key.Namespace, Name: m.SurgePod}); err != nil {
		return nil, err
	}
	if err := r.lookAtSet(ctx, s, key.Namespace); err != nil {
		return nil, err
	}
	if s.surge != nil {
		s.lookAtSurge()
	}
	return s, nil
}

// pod reads a pod, nil if it is not there.
func (r *Reconciler) pod(ctx context.Context, key types.NamespacedName) (*corev1.Pod, error) {
	var pod corev1.Pod
	if err := r.o.Live.Get(ctx, key, &pod); err != nil {
		return nil, client.IgnoreNotFound(err)
	}
	return &pod, nil
}

// lookAtSet reads the ReplicaSet of a move and who else selects its pods.
func (r *Reconciler) lookAtSet(ctx context.Context, s *scene, namespace string) error {
	var ref *metav1.OwnerReference
	for _, p := range []*corev1.Pod{s.old, s.surge} {
		if p != nil && ref == nil {
			ref = metav1.GetControllerOf(p)
		}
	}
	name := ""
	switch {
	case ref != nil && ref.Kind == "ReplicaSet":
		name = ref.Name
	case s.surge != nil: // the old one is gone, and nobody has taken the replacement yet
		name = s.surge.Annotations[annotationSet]
	}
	if name == "" {
		return nil
	}
	var set appsv1.ReplicaSet
	if err := r.o.Live.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, &set); err != nil {
		return client.IgnoreNotFound(err)
	}
	if set.DeletionTimestamp != nil || ref != nil && set.UID != ref.UID {
		return nil
	}
	s.set = &set
	s.seen.Set.There = true
	want := int32(1)
	if set.Spec.Replicas != nil {
		want = *set.Spec.Replicas
	}
	if owner := metav1.GetControllerOf(&set); owner != nil && owner.Kind == "Deployment" {
		var d appsv1.Deployment
		if err := r.o.Live.Get(ctx, types.NamespacedName{Namespace: namespace, Name: owner.Name}, &d); client.IgnoreNotFound(err) != nil {
			return err
		}
		s.seen.Set.Outdated = d.Annotations[annotationRevision] != set.Annotations[annotationRevision]
	}
	s.seen.Set.Outdated = s.seen.Set.Outdated || want == 0

	sel, err := metav1.LabelSelectorAsSelector(set.Spec.Selector)
	if err != nil {
		return fmt.Errorf("selector of ReplicaSet %s/%s: %w", namespace, name, err)
	}
	var pods corev1.PodList
	if err := r.o.Live.List(ctx, &pods, client.InNamespace(namespace), client.MatchingLabelsSelector{Selector: sel}); err != nil {
		return fmt.Errorf("list the pods of ReplicaSet %s/%s: %w", namespace, name, err)
	}
	has := int32(0)
	for i := range pods.Items {
		p := &pods.Items[i]
		if !metav1.IsControlledBy(p, &set) || p.DeletionTimestamp != nil || convert.Over(p) {
			continue
		}
		has++
		if p.UID != types.UID(s.move.UID) && p.Name != s.move.SurgePod && s.seen.Set.Unready == "" && !ready(p) {
			s.seen.Set.Unready = p.Name
		}
	}
	s.seen.Set.Unsteady = has != want || set.Status.ObservedGeneration < set.Generation
	return r.lookAtSelectors(ctx, s, namespace)
}

// lookAtSelectors finds out by which labels the ReplicaSet's pods are found.
func (r *Reconciler) lookAtSelectors(ctx context.Context, s *scene, namespace string) error {
	template := labels.Set(s.set.Spec.Template.Labels)
	others := map[string]bool{}
	var services corev1.ServiceList
	var budgets policyv1.PodDisruptionBudgetList
	if err := r.o.Live.List(ctx, &services, client.InNamespace(namespace)); err != nil {
		return fmt.Errorf("list the Services of namespace %s: %w", namespace, err)
	}
	if err := r.o.Live.List(ctx, &budgets, client.InNamespace(namespace)); err != nil {
		return fmt.Errorf("list the PodDisruptionBudgets of namespace %s: %w", namespace, err)
	}
	for i := range services.Items {
		if sel := services.Items[i].Spec.Selector; len(sel) > 0 && labels.SelectorFromSet(sel).Matches(template) {
			for k := range sel {
				others[k] = true
			}
		}
	}
	for i := range budgets.Items {
		if matches(budgets.Items[i].Spec.Selector, template) {
			maps.Copy(others, keysOf(budgets.Items[i].Spec.Selector))
		}
	}
	own := keysOf(s.set.Spec.Selector)
	for _, k := range slices.Sorted(maps.Keys(own)) {
		if !others[k] && s.handKey == "" {
			s.handKey = k
		}
	}
	s.found = own
	maps.Copy(s.found, others)
	return nil
}

func matches(sel *metav1.LabelSelector, of labels.Set) bool {
	s, err := metav1.LabelSelectorAsSelector(sel)
	return err == nil && s.Matches(of)
}

// keysOf are the keys of a selector.
func keysOf(sel *metav1.LabelSelector) map[string]bool {
	out := map[string]bool{}
	if sel == nil {
		return out
	}
	for k := range sel.MatchLabels {
		out[k] = true
	}
	for _, e := range sel.MatchExpressions {
		out[e.Key] = true
	}
	return out
}

// lookAtSurge tells how far the replacement is.
func (s *scene) lookAtSurge() {
	p := s.surge
	out := SurgePod{There: true, Leaving: p.DeletionTimestamp != nil, Over: convert.Over(p), Ready: ready(p)}
	if p.Spec.NodeName != "" {
		at, ok := placed(p, s.move)
		if ok {
			out.Placed = true
		} else {
			out.At = at
		}
	}
	if s.set != nil {
		template := s.set.Spec.Template.Labels
		out.Handed = matches(s.set.Spec.Selector, p.Labels)
		out.Counts = s.handKey == "" // it cannot count before it is handed over
		if !out.Counts {
			out.Counts = true
			for k, v := range template {
				if k != s.handKey && p.Labels[k] != v {
					out.Counts = false
				}
			}
		}
		out.Adopted = metav1.IsControlledBy(p, s.set)
	} else {
		out.Handed = p.Labels[v1alpha1.LabelRepack] == ""
	}
	s.seen.Surge = out
}

// placed reports whether a bound pod is where its move wants it, and where it is.
// Another device of the right machine is right, unless the move was to get away
// from that one.
func placed(p *corev1.Pod, m *v1alpha1.RepackMove) (at string, ok bool) {
	if p.Spec.NodeName != m.To.Machine {
		return "machine " + p.Spec.NodeName, false
	}
	if m.From.Machine != m.To.Machine {
		return "", true
	}
	a, err := convert.GPUAllocation(p)
	if err != nil || a == nil {
		return "", true
	}
	for _, d := range a.Devices {
		if slices.Contains(m.From.Devices, d.UUID) && !slices.Contains(m.To.Devices, d.UUID) {
			return "GPU " + d.UUID, false
		}
	}
	return "", true
}

func ready(p *corev1.Pod) bool { return condition(p, corev1.PodReady) == corev1.ConditionTrue }

func condition(p *corev1.Pod, typ corev1.PodConditionType) corev1.ConditionStatus {
	for _, c := range p.Status.Conditions {
		if c.Type == typ {
			return c.Status
		}
	}
	return ""
}

// podKey reads namespace/name.
func podKey(s string) types.NamespacedName {
	ns, name, _ := strings.Cut(s, "/")
	return types.NamespacedName{Namespace: ns, Name: name}
}

// surgeName is the name of the replacement of a pod in a plan's n-th version. It
// follows from these alone, so that it is the same after a crash, and looks like the
// names of the ReplicaSet's other pods.
func surgeName(set string, plan types.UID, n int, old string) string {
	h := fnv.New32a()
	_, _ = h.Write([]byte(string(plan) + "/" + strconv.Itoa(n) + "/" + old))
	return set[:min(len(set), 240)] + "-" + rand.SafeEncodeString(fmt.Sprint(h.Sum32()))
}

// annotationSet on a replacement names the ReplicaSet that it is made for.
const annotationSet = "neap.dev/repack-set"

// replacement is the pod that takes the old one's part, not found by anybody.
func (s *scene) replacement() (*corev1.Pod, error) {
	spot, err := json.Marshal(struct {
		Node    string   `json:"node"`
		Devices []string `json:"devices"`
	}{s.move.To.Machine, s.move.To.Devices})
	if err != nil {
		return nil, err
	}
	t := s.set.Spec.Template.DeepCopy()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: s.set.Namespace, Name: s.move.SurgePod,
			Labels: map[string]string{v1alpha1.LabelRepack: labelValue(s.plan.Name)}, Annotations: map[string]string{},
			Finalizers: t.Finalizers,
			// With the plan goes what no ReplicaSet has yet. It is no controller, so
			// that a ReplicaSet may become it.
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: v1alpha1.GroupVersion.String(), Kind: "RepackPlan", Name: s.plan.Name, UID: s.plan.UID,
			}},
		},
		Spec: t.Spec,
	}
	for k, v := range t.Labels {
		if !s.found[k] {
			pod.Labels[k] = v
		}
	}
	maps.Copy(pod.Annotations, t.Annotations)
	pod.Annotations[v1alpha1.AnnotationGPUSpot] = string(spot)
	pod.Annotations[annotationSet] = s.set.Name
	// What admission gave the old pod by its owner, it cannot give this one.
	if gate := (corev1.PodReadinessGate{ConditionType: v1alpha1.ReadinessServing}); slices.Contains(s.old.Spec.ReadinessGates, gate) && !slices.Contains(pod.Spec.ReadinessGates, gate) {
		pod.Spec.ReadinessGates = append(pod.Spec.ReadinessGates, gate)
	}
	return pod, nil
}

// labelValue is a name as the value of a label, which may be shorter.
func labelValue(name string) string {
	return strings.TrimRight(name[:min(len(name), 63)], "-.")
}

// errBudget is what a disruption budget says.
type errBudget struct{ said string }

func (e errBudget) Error() string { return e.said }

// act does a step.
func (r *Reconciler) act(ctx context.Context, s *scene, step Step) error {
	switch step {
	case StepCreate:
		pod, err := s.replacement()
		if err != nil {
			return err
		}
		if err := r.o.Client.Create(ctx, pod, fieldOwner); err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("make the replacement %s/%s: %w", pod.Namespace, pod.Name, err)
		}
	case StepCount:
		want := maps.Clone(s.set.Spec.Template.Labels)
		delete(want, s.handKey)
		return r.label(ctx, s, want, nil)
	case StepHand:
		// 1. The budget, now that the replacement counts for it.
		if err := r.evict(ctx, s.old, client.DryRunAll); err != nil {
			return err
		}
		// 2. The old pod goes before all others.
		if !s.seen.Old.Marked {
			if err := r.mark(ctx, s.old); err != nil {
				return err
			}
		}
		// 3. The ReplicaSet finds the new one, and sees that before it sees the old
		// one go: both come to it by one stream.
		if err := r.label(ctx, s, s.set.Spec.Template.Labels, s.plan); err != nil {
			return err
		}
		return r.evict(ctx, s.old)
	case StepEvict:
		return r.evict(ctx, s.old)
	case StepUndo:
		return r.undo(ctx, s)
	}
	return nil
}

// label gives the replacement labels; with a plan it is the plan's no more.
func (r *Reconciler) label(ctx context.Context, s *scene, want map[string]string, plan *v1alpha1.RepackPlan) error {
	p := s.surge.DeepCopy()
	maps.Copy(p.Labels, want)
	if plan != nil {
		delete(p.Labels, v1alpha1.LabelRepack)
		p.OwnerReferences = slices.DeleteFunc(p.OwnerReferences, func(o metav1.OwnerReference) bool { return o.UID == plan.UID })
	}
	patch := client.MergeFromWithOptions(s.surge, client.MergeFromWithOptimisticLock{})
	if err := r.o.Client.Patch(ctx, p, patch, fieldOwner); err != nil {
		return fmt.Errorf("label the replacement %s/%s: %w", p.Namespace, p.Name, err)
	}
	return nil
}

// mark gives the old pod the lowest deletion cost, and remembers on it what it was.
func (r *Reconciler) mark(ctx context.Context, old *corev1.Pod) error {
	p := old.DeepCopy()
	if _, ok := p.Annotations[annotationCost]; !ok {
		metav1.SetMetaDataAnnotation(&p.ObjectMeta, annotationCost, p.Annotations[corev1.PodDeletionCost])
	}
	metav1.SetMetaDataAnnotation(&p.ObjectMeta, corev1.PodDeletionCost, lowest)
	if err := r.o.Client.Patch(ctx, p, client.MergeFrom(old), fieldOwner); err != nil {
		return fmt.Errorf("mark pod %s/%s as the first to go: %w", p.Namespace, p.Name, err)
	}
	return nil
}

// undo takes back what a move did, unless a ReplicaSet has the replacement.
func (r *Reconciler) undo(ctx context.Context, s *scene) error {
	if s.old != nil {
		if was, ok := s.old.Annotations[annotationCost]; ok {
			p := s.old.DeepCopy()
			delete(p.Annotations, annotationCost)
			if p.Annotations[corev1.PodDeletionCost] = was; was == "" {
				delete(p.Annotations, corev1.PodDeletionCost)
			}
			if err := client.IgnoreNotFound(r.o.Client.Patch(ctx, p, client.MergeFrom(s.old), fieldOwner)); err != nil {
				return fmt.Errorf("take the mark off pod %s/%s: %w", p.Namespace, p.Name, err)
			}
		}
	}
	if s.surge != nil && metav1.GetControllerOf(s.surge) == nil {
		// Of this version only: were it adopted since, it would be somebody's.
		only := client.Preconditions{UID: &s.surge.UID, ResourceVersion: &s.surge.ResourceVersion}
		if err := client.IgnoreNotFound(r.o.Client.Delete(ctx, s.surge, only)); err != nil {
			return fmt.Errorf("delete the replacement %s/%s: %w", s.surge.Namespace, s.surge.Name, err)
		}
	}
	return nil
}

// evict asks a pod to go. What its budget says is an errBudget.
func (r *Reconciler) evict(ctx context.Context, pod *corev1.Pod, opts ...client.SubResourceCreateOption) error {
	e := &policyv1.Eviction{
		ObjectMeta:    metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name},
		DeleteOptions: &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &pod.UID}},
	}
	err := r.o.Client.SubResource("eviction").Create(ctx, pod.DeepCopy(), e, opts...)
	switch {
	case err == nil, apierrors.IsNotFound(err), apierrors.IsConflict(err): // another pod by now
		return nil
	case apierrors.IsTooManyRequests(err):
		return errBudget{fmt.Sprintf("pod %s/%s may not go yet: %s", pod.Namespace, pod.Name, budgetSays(err))}
	}
	return fmt.Errorf("evict pod %s/%s: %w", pod.Namespace, pod.Name, err)
}

// budgetSays is the cause that the API server gives for a refusal.
func budgetSays(err error) string {
	var status apierrors.APIStatus
	if s, ok := err.(apierrors.APIStatus); ok {
		status = s
		if d := status.Status().Details; d != nil && len(d.Causes) > 0 {
			return d.Causes[0].Message
		}
	}
	return err.Error()
}
