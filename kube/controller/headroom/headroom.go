package headroom

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/kube/convert"
)

const (
	// PriorityClass is the name of the balloons' priority: −10, so that any other
	// pod takes their place. An autoscaler still makes machines for it.
	PriorityClass = "neap-headroom"
	// Image is what a balloon runs unless told otherwise: it does nothing.
	Image = "registry.k8s.io/pause:3.10"
	// annotationReason on an object that holds room says how much and why.
	annotationReason = "neap.dev/reason"
	// labelPolicy on a balloon is the UID of its policy.
	labelPolicy = "neap.dev/headroom-of"

	fieldOwner = client.FieldOwner("neap-headroom")
	priority   = -10
	// again is how often what was written is written again, by the wall, whether
	// or not it is seen that somebody changed it.
	again = time.Minute
)

var (
	bufferKind     = schema.GroupVersionKind{Group: "autoscaling.x-k8s.io", Version: "v1beta1", Kind: "CapacityBuffer"}
	templateKind   = schema.GroupVersionKind{Version: "v1", Kind: "PodTemplate"}
	deploymentKind = schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "Deployment"}
)

// Options of a [Reconciler].
type Options struct {
	// Client reads policies and pools from a cache, and writes. Required.
	Client client.Client
	// Live reads past the cache: targets, and what this package made. Required.
	Live client.Reader
	// Image is what a balloon runs; "" means Image.
	Image string
	// Log takes what happens; nil means slog.Default.
	Log *slog.Logger
}

// A Reconciler keeps the room of ElasticPolicies.
type Reconciler struct {
	o   Options
	log *slog.Logger

	mu      sync.Mutex
	written map[types.UID]written
}

// written is what was last written for one policy, and when by the wall.
type written struct {
	what string
	at   time.Time
}

// New returns a Reconciler.
func New(o Options) *Reconciler {
	o.Image = cmp.Or(o.Image, Image)
	log := cmp.Or(o.Log, slog.Default()).With("component", "headroom")
	return &Reconciler{o: o, log: log, written: map[types.UID]written{}}
}

// SetupWithManager registers the Reconciler.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).Named("headroom").For(&v1alpha1.ElasticPolicy{}).Complete(r)
}

// +kubebuilder:rbac:groups=neap.dev,resources=elasticpolicies;resourcepools,verbs=get;list;watch
// +kubebuilder:rbac:groups=apps,resources=deployments,verbs=get;create;patch;delete
// +kubebuilder:rbac:groups="",resources=podtemplates,verbs=get;create;patch;delete
// +kubebuilder:rbac:groups=autoscaling.x-k8s.io,resources=capacitybuffers,verbs=get;create;patch;delete
// +kubebuilder:rbac:groups=scheduling.k8s.io,resources=priorityclasses,verbs=get;create

// Reconcile implements reconcile.Reconciler.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	// 1. Observe.
	var p v1alpha1.ElasticPolicy
	if err := r.o.Client.Get(ctx, req.NamespacedName, &p); err != nil || p.DeletionTimestamp != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err) // what was made goes with it
	}
	if p.Annotations[v1alpha1.AnnotationPause] == "true" {
		return ctrl.Result{}, nil
	}
	rule, declared, err := convert.Headroom(&p)
	if err != nil {
		return r.later(&p, err)
	}
	if !declared || p.Spec.Mode != v1alpha1.ModeAuto || meta.IsStatusConditionFalse(p.Status.Conditions, v1alpha1.ConditionSoleOwner) {
		return ctrl.Result{}, r.remove(ctx, &p)
	}
	target := &unstructured.Unstructured{}
	target.SetAPIVersion(cmp.Or(p.Spec.TargetRef.APIVersion, "apps/v1"))
	target.SetKind(cmp.Or(p.Spec.TargetRef.Kind, "Deployment"))
	if err := r.o.Live.Get(ctx, client.ObjectKey{Namespace: p.Namespace, Name: p.Spec.TargetRef.Name}, target); err != nil {
		if apierrors.IsNotFound(err) || meta.IsNoMatchError(err) {
			return ctrl.Result{RequeueAfter: again}, r.remove(ctx, &p) // nobody to keep room for
		}
		return ctrl.Result{}, err
	}
	if target.GetAnnotations()[v1alpha1.AnnotationPause] == "true" {
		return ctrl.Result{RequeueAfter: again}, nil
	}
	var pools v1alpha1.ResourcePoolList
	if err := r.o.Client.List(ctx, &pools); err != nil {
		return ctrl.Result{}, err
	}

	// 2. Decide.
	byName := map[string]*v1alpha1.ResourcePool{}
	for i := range pools.Items {
		byName[pools.Items[i].Name] = &pools.Items[i]
	}
	owned, most, err := ownedRoom(&p, byName)
	if err != nil {
		return r.later(&p, err)
	}
	n, reason := rule.Replicas(int(p.Status.Current), int(p.Status.Desired), int(p.Status.Soon))
	if most >= 0 && n > most {
		n = most
		reason += fmt.Sprintf(", of which its pools of machines take %d", most)
	}
	template, err := templateOf(target)
	if err != nil {
		return r.later(&p, err)
	}
	labels := map[string]string{v1alpha1.LabelHeadroom: "true", labelPolicy: string(p.UID)}
	pod, err := room(template, owned, r.o.Image, labels)
	if err != nil {
		return r.later(&p, err)
	}
	served, err := r.served()
	if err != nil {
		return ctrl.Result{}, err
	}

	// 3. Act.
	result, err := r.act(ctx, &p, served, n, pod, reason)
	if apierrors.IsForbidden(err) {
		return r.later(&p, fmt.Errorf("%w; set headroom.enabled in the chart's values to allow it", err))
	}
	return result, err
}

// act writes the room down.
func (r *Reconciler) act(ctx context.Context, p *v1alpha1.ElasticPolicy, served bool, n int, pod corev1.PodTemplateSpec, reason string) (ctrl.Result, error) {
	keep, drop := r.balloons(p, n, pod, reason), []*unstructured.Unstructured(nil)
	if served {
		keep, drop = r.buffer(p, n, pod, reason), keep
	}
	text, err := json.Marshal(keep)
	if err != nil {
		return ctrl.Result{}, err
	}
	if w := r.last(p.UID); w.what == string(text) && time.Since(w.at) < again {
		return ctrl.Result{RequeueAfter: again}, nil
	}
	if !served {
		if err := r.ensurePriority(ctx); err != nil {
			return ctrl.Result{}, err
		}
	}
	for _, obj := range keep {
		if there, mine, err := r.whose(ctx, p, obj); err != nil {
			return ctrl.Result{}, err
		} else if there && !mine {
			return r.later(p, fmt.Errorf("%s %s/%s is there already and does not belong to the policy; rename one of them", obj.GetKind(), p.Namespace, obj.GetName()))
		}
		if err := r.o.Client.Apply(ctx, client.ApplyConfigurationFromUnstructured(obj), fieldOwner, client.ForceOwnership); err != nil {
			return ctrl.Result{}, fmt.Errorf("write %s %s/%s: %w", obj.GetKind(), p.Namespace, obj.GetName(), err)
		}
	}
	for _, obj := range drop {
		if err := r.delete(ctx, p, obj); err != nil {
			return ctrl.Result{}, err
		}
	}
	r.remember(p.UID, string(text))
	return ctrl.Result{RequeueAfter: again}, nil
}

// later says what only a person can put right, and looks again in a while.
func (r *Reconciler) later(p *v1alpha1.ElasticPolicy, err error) (ctrl.Result, error) {
	if w := r.last(p.UID); w.what != err.Error() {
		r.log.Warn("no room is kept", "policy", p.Namespace+"/"+p.Name, "err", err)
		r.remember(p.UID, err.Error())
	}
	return ctrl.Result{RequeueAfter: again}, nil
}

func (r *Reconciler) last(uid types.UID) written {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.written[uid]
}

func (r *Reconciler) remember(uid types.UID, what string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.written[uid] = written{what, time.Now()}
}

// served reports whether the cluster has buffers.
func (r *Reconciler) served() (bool, error) {
	_, err := r.o.Client.RESTMapper().RESTMapping(bufferKind.GroupKind(), bufferKind.Version)
	if meta.IsNoMatchError(err) {
		return false, nil
	}
	return err == nil, err
}

// templateOf returns the template that the target makes its pods from.
func templateOf(target *unstructured.Unstructured) (*corev1.PodTemplateSpec, error) {
	from, ok, err := unstructured.NestedMap(target.Object, "spec", "template")
	if err != nil || !ok {
		return nil, fmt.Errorf("%s %q has no spec.template, so that the size of its pods is not known", target.GetKind(), target.GetName())
	}
	t := &corev1.PodTemplateSpec{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(from, t); err != nil {
		return nil, fmt.Errorf("%s %q: spec.template: %w", target.GetKind(), target.GetName(), err)
	}
	return t, nil
}

// nameOf is the name of what is made for a policy.
func nameOf(p *v1alpha1.ElasticPolicy) string {
	const suffix = "-headroom"
	if len(p.Name)+len(suffix) > 253 {
		return string(p.UID) + suffix
	}
	return p.Name + suffix
}

// object returns an object of the policy.
func object(p *v1alpha1.ElasticPolicy, kind schema.GroupVersionKind, reason string, body map[string]any) *unstructured.Unstructured {
	u := &unstructured.Unstructured{Object: maps.Clone(body)}
	u.SetGroupVersionKind(kind)
	u.SetNamespace(p.Namespace)
	u.SetName(nameOf(p))
	u.SetLabels(map[string]string{v1alpha1.LabelHeadroom: "true"})
	if reason != "" {
		u.SetAnnotations(map[string]string{annotationReason: reason})
	}
	u.SetOwnerReferences([]metav1.OwnerReference{*metav1.NewControllerRef(p, v1alpha1.GroupVersion.WithKind("ElasticPolicy"))})
	return u
}

// asMap is a value as an object's field.
func asMap(v any) map[string]any {
	m, err := runtime.DefaultUnstructuredConverter.ToUnstructured(v)
	if err != nil {
		panic(err) // a type of the API that is none
	}
	return m
}

// balloons are pods that hold room and give way.
func (r *Reconciler) balloons(p *v1alpha1.ElasticPolicy, n int, pod corev1.PodTemplateSpec, reason string) []*unstructured.Unstructured {
	return []*unstructured.Unstructured{object(p, deploymentKind, reason, map[string]any{"spec": map[string]any{
		"replicas": int64(n),
		"selector": map[string]any{"matchLabels": map[string]any{labelPolicy: string(p.UID)}},
		// Room that is moved needs not be there twice.
		"strategy": map[string]any{"type": "Recreate"},
		"template": asMap(&pod),
	}})}
}

// buffer is room that the cluster's autoscaler keeps.
func (r *Reconciler) buffer(p *v1alpha1.ElasticPolicy, n int, pod corev1.PodTemplateSpec, reason string) []*unstructured.Unstructured {
	pod.Spec.PriorityClassName = "" // it is not a pod that has to give way
	return []*unstructured.Unstructured{
		object(p, templateKind, "", map[string]any{"template": asMap(&pod)}),
		object(p, bufferKind, reason, map[string]any{"spec": map[string]any{
			"provisioningStrategy": "buffer.x-k8s.io/active-capacity",
			"podTemplateRef":       map[string]any{"name": nameOf(p)},
			"replicas":             int64(n),
		}}),
	}
}

// whose reports whether an object is there, and whether it is the policy's.
func (r *Reconciler) whose(ctx context.Context, p *v1alpha1.ElasticPolicy, obj *unstructured.Unstructured) (there, mine bool, err error) {
	var is metav1.PartialObjectMetadata
	is.SetGroupVersionKind(obj.GroupVersionKind())
	if err := r.o.Live.Get(ctx, client.ObjectKeyFromObject(obj), &is); err != nil {
		if apierrors.IsNotFound(err) || meta.IsNoMatchError(err) {
			return false, false, nil
		}
		return false, false, err
	}
	return true, metav1.IsControlledBy(&is, p), nil
}

// delete takes an object away, if it is there and the policy's.
func (r *Reconciler) delete(ctx context.Context, p *v1alpha1.ElasticPolicy, obj *unstructured.Unstructured) error {
	_, mine, err := r.whose(ctx, p, obj)
	if err != nil || !mine {
		return err
	}
	err = r.o.Client.Delete(ctx, obj, client.PropagationPolicy(metav1.DeletePropagationBackground))
	if err = client.IgnoreNotFound(err); err != nil {
		return fmt.Errorf("delete %s %s/%s: %w", obj.GetKind(), obj.GetNamespace(), obj.GetName(), err)
	}
	return nil
}

// remove takes away all that was made for a policy, once.
func (r *Reconciler) remove(ctx context.Context, p *v1alpha1.ElasticPolicy) error {
	const nothing = "nothing"
	if r.last(p.UID).what == nothing {
		return nil
	}
	kinds := []schema.GroupVersionKind{deploymentKind, templateKind}
	if served, err := r.served(); err != nil {
		return err
	} else if served {
		kinds = append(kinds, bufferKind)
	}
	for _, kind := range kinds {
		if err := r.delete(ctx, p, object(p, kind, "", nil)); err != nil {
			return err
		}
	}
	r.remember(p.UID, nothing)
	return nil
}

// ensurePriority makes the balloons' priority, if it is not there. It is nobody's,
// and stays.
func (r *Reconciler) ensurePriority(ctx context.Context) error {
	err := r.o.Live.Get(ctx, client.ObjectKey{Name: PriorityClass}, &schedulingv1.PriorityClass{})
	if !apierrors.IsNotFound(err) {
		return err
	}
	err = r.o.Client.Create(ctx, &schedulingv1.PriorityClass{
		ObjectMeta:       metav1.ObjectMeta{Name: PriorityClass},
		Value:            priority,
		PreemptionPolicy: ptr.To(corev1.PreemptNever),
		Description:      "Pods that hold room for others, and give way to them.",
	})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}
