// Package modulestatus writes into every Module what Neap knows of it: whether
// its workload exists, how many pods it has, what the last closed hour cost and
// whether its quality was kept.
//
// [Decide] is what the status says, and pure; the Reconciler only fetches and
// writes. It never touches a Module's spec or its workload.
package modulestatus

import (
	"context"
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/core/money"
	"github.com/neap-dev/neap/kube/convert"
)

// An Hour is what the last closed hour says of one module.
type Hour struct {
	From      time.Time
	Currency  string
	Cost      money.Amount // shared idle included
	Used      money.Amount
	Load      *bill.Load // nil if nothing was asked
	Estimated bool
}

// An Observation is what is known of one module now.
type Observation struct {
	Now     time.Time
	Invalid error  // why the spec makes no sense
	Rival   string // another Module that already speaks for the workload

	Target   error // nil: it exists; NotFound: it does not; else why nobody knows
	Pods     int
	Unpriced []string // machine types of its pods that have no price
	Hour     *Hour    // nil before the first hour is closed
}

// Decide returns the status that an observation gives m. Conditions that do not
// change keep the time of their last transition.
func Decide(m *v1alpha1.Module, seen Observation) v1alpha1.ModuleStatus {
	out := *m.Status.DeepCopy()
	out.ObservedGeneration = m.Generation
	out.Pods = int32(seen.Pods)
	out.LastHour = nil
	set := func(typ string, status metav1.ConditionStatus, reason, message string) {
		meta.SetStatusCondition(&out.Conditions, metav1.Condition{
			Type: typ, Status: status, Reason: reason, Message: message,
			ObservedGeneration: m.Generation, LastTransitionTime: metav1.NewTime(seen.Now),
		})
	}
	target := m.Spec.TargetRef.Kind + " " + m.Spec.TargetRef.Name
	var lacking []string

	switch {
	case seen.Target == nil || seen.Pods > 0:
		set(v1alpha1.ConditionTargetFound, metav1.ConditionTrue, "Found", target+" exists")
	case apierrors.IsNotFound(seen.Target):
		s := fmt.Sprintf("there is no %s in namespace %s: correct targetRef, or create it", target, m.Namespace)
		set(v1alpha1.ConditionTargetFound, metav1.ConditionFalse, "NotFound", s)
		lacking = append(lacking, s)
	default:
		set(v1alpha1.ConditionTargetFound, metav1.ConditionUnknown, "NotReadable",
			fmt.Sprintf("%s has no pods, and whether it exists could not be read: %v", target, seen.Target))
	}

	if n := len(seen.Unpriced); n > 0 {
		s := fmt.Sprintf("pods run on machine types without a price: %s; declare them as MachineType", strings.Join(seen.Unpriced[:min(n, 3)], ", "))
		set(v1alpha1.ConditionPriceKnown, metav1.ConditionFalse, "NoPrice", s)
		lacking = append(lacking, s)
	} else {
		set(v1alpha1.ConditionPriceKnown, metav1.ConditionTrue, "Priced", "every machine its pods run on has a price")
	}

	var load *bill.Load
	if h := seen.Hour; h != nil {
		load = h.Load
		out.LastHour = &v1alpha1.ModuleHour{
			From: metav1.NewTime(h.From), Cost: convert.Money(h.Cost), Used: convert.Money(h.Used),
			Currency: h.Currency, Estimated: h.Estimated,
		}
		if load != nil && load.Requests >= 0 {
			out.LastHour.Requests = &load.Requests
		}
		if load != nil && load.Known && m.Spec.Quality != nil {
			if m.Spec.Quality.Success != nil {
				out.LastHour.Success = fmt.Sprintf("%d.%04d%%", load.SuccessMicros/10_000, load.SuccessMicros%10_000)
			}
			if m.Spec.Quality.P99 != nil {
				out.LastHour.P99 = &metav1.Duration{Duration: load.P99.Round(time.Millisecond)}
			}
		}
	}

	switch {
	case m.Spec.Load == nil:
		set(v1alpha1.ConditionLoadKnown, metav1.ConditionUnknown, "NoQuery", "spec.load says no query, so cost per request is not known")
	case seen.Hour == nil:
		set(v1alpha1.ConditionLoadKnown, metav1.ConditionUnknown, "NoHour", "no hour has been closed yet")
	case load == nil || load.Requests < 0:
		s := "the load query gave no single number in the last closed hour: try it in Prometheus with $window as 3600s"
		set(v1alpha1.ConditionLoadKnown, metav1.ConditionFalse, "NoAnswer", s)
		lacking = append(lacking, s)
	default:
		set(v1alpha1.ConditionLoadKnown, metav1.ConditionTrue, "Counted", fmt.Sprintf("%d requests in the last closed hour", load.Requests))
	}

	switch {
	case m.Spec.Quality == nil:
		set(v1alpha1.ConditionGuardMet, metav1.ConditionUnknown, "NoGuard", "spec.quality sets no target")
	case seen.Hour == nil:
		set(v1alpha1.ConditionGuardMet, metav1.ConditionUnknown, "NoHour", "no hour has been closed yet")
	case load == nil || !load.Known:
		set(v1alpha1.ConditionGuardMet, metav1.ConditionUnknown, "NotMeasured", "the last closed hour has no figure for every target")
	case load.Met:
		set(v1alpha1.ConditionGuardMet, metav1.ConditionTrue, "Met", "every target was kept in the last closed hour")
	default:
		set(v1alpha1.ConditionGuardMet, metav1.ConditionFalse, "Broken", broken(m, out.LastHour))
	}

	switch {
	case seen.Invalid != nil:
		set(v1alpha1.ConditionReady, metav1.ConditionFalse, "Invalid", seen.Invalid.Error())
	case seen.Rival != "":
		set(v1alpha1.ConditionReady, metav1.ConditionFalse, "Duplicate",
			fmt.Sprintf("Module %s already speaks for %s: delete one of the two", seen.Rival, target))
	case len(lacking) > 0:
		set(v1alpha1.ConditionReady, metav1.ConditionFalse, "Incomplete", strings.Join(lacking, "; "))
	default:
		set(v1alpha1.ConditionReady, metav1.ConditionTrue, "Complete", "its cost is on the bill")
	}
	return out
}

func broken(m *v1alpha1.Module, h *v1alpha1.ModuleHour) string {
	var parts []string
	if q := m.Spec.Quality.Success; q != nil {
		parts = append(parts, fmt.Sprintf("%s succeeded, the target is %s", h.Success, q.Target))
	}
	if q := m.Spec.Quality.P99; q != nil && h.P99 != nil {
		parts = append(parts, fmt.Sprintf("the 99th percentile was %v, the target is %s", h.P99.Duration, q.Target))
	}
	return "in the last closed hour " + strings.Join(parts, "; ")
}

// Options of a [Reconciler]. Every field is required.
type Options struct {
	Client client.Client
	// Live reads workloads past the cache: one small read a minute is cheaper
	// than watching every Deployment.
	Live client.Reader
	// Observe says what the biller knows of a module; Target is left to us.
	Observe func(*v1alpha1.Module) Observation
	// Again asks for every Module to be looked at again, such as after an hour
	// was closed.
	Again source.Source
}

// A Reconciler keeps the status of Modules true.
type Reconciler struct{ o Options }

// New returns a Reconciler.
func New(o Options) *Reconciler { return &Reconciler{o} }

// SetupWithManager registers the Reconciler.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).Named("modulestatus").For(&v1alpha1.Module{}).WatchesRawSource(r.o.Again).Complete(r)
}

// again is how soon a status is looked at without a reason: pods come and go.
const again = time.Minute

// +kubebuilder:rbac:groups=neap.dev,resources=modules,verbs=get;list;watch
// +kubebuilder:rbac:groups=neap.dev,resources=modules/status,verbs=patch
// +kubebuilder:rbac:groups=apps,resources=deployments;statefulsets;daemonsets,verbs=get
// +kubebuilder:rbac:groups=batch,resources=cronjobs;jobs,verbs=get

// Reconcile implements reconcile.Reconciler.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	var m v1alpha1.Module
	if err := r.o.Client.Get(ctx, req.NamespacedName, &m); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	seen := r.o.Observe(&m)
	seen.Target = r.target(ctx, &m)
	was := m.DeepCopy()
	m.Status = Decide(&m, seen)
	if equality.Semantic.DeepEqual(was.Status, m.Status) {
		return ctrl.Result{RequeueAfter: again}, nil
	}
	if err := r.o.Client.Status().Patch(ctx, &m, client.MergeFrom(was)); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	return ctrl.Result{RequeueAfter: again}, nil
}

func (r *Reconciler) target(ctx context.Context, m *v1alpha1.Module) error {
	gv, err := schema.ParseGroupVersion(m.Spec.TargetRef.APIVersion)
	if err != nil {
		return err
	}
	var obj metav1.PartialObjectMetadata
	obj.SetGroupVersionKind(gv.WithKind(m.Spec.TargetRef.Kind))
	return r.o.Live.Get(ctx, client.ObjectKey{Namespace: m.Namespace, Name: m.Spec.TargetRef.Name}, &obj)
}
