// Package typestatus writes into every MachineType what Neap makes of it: the
// price after the discount, and how many machines of the type there are.
//
// [Decide] is what the status says, and pure; the Reconciler only fetches and
// writes.
package typestatus

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/money"
	"github.com/neap-dev/neap/kube/convert"
)

// An Observation is what is known of one machine type now.
type Observation struct {
	Now      time.Time
	Machines int
	Invalid  error         // why its price cannot be used
	Price    money.PerHour // of a whole machine after the discount; 0 if bought by the unit
	ByUnit   bool
	Currency string // of the bill, and of Price
}

// Decide returns the status that an observation gives t.
func Decide(t *v1alpha1.MachineType, seen Observation) v1alpha1.MachineTypeStatus {
	out := *t.Status.DeepCopy()
	out.ObservedGeneration = t.Generation
	out.Machines = int32(seen.Machines)
	out.EffectivePrice = ""
	c := metav1.Condition{
		Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: "Priced", Message: "the bill uses this price",
		ObservedGeneration: t.Generation, LastTransitionTime: metav1.NewTime(seen.Now),
	}
	switch {
	case seen.Invalid != nil:
		c.Status, c.Reason, c.Message = metav1.ConditionFalse, "Invalid", seen.Invalid.Error()
	case !seen.ByUnit:
		out.EffectivePrice = convert.Money(money.Amount(seen.Price))
	}
	meta.SetStatusCondition(&out.Conditions, c)
	return out
}

// Options of a [Reconciler]. Every field is required.
type Options struct {
	Client client.Client
	// Observe says what the biller knows of a machine type.
	Observe func(*v1alpha1.MachineType) Observation
	// Again asks for every MachineType to be looked at again, such as after a
	// node came.
	Again source.Source
}

// A Reconciler keeps the status of MachineTypes true.
type Reconciler struct{ o Options }

// New returns a Reconciler.
func New(o Options) *Reconciler { return &Reconciler{o} }

// SetupWithManager registers the Reconciler.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).Named("typestatus").For(&v1alpha1.MachineType{}).WatchesRawSource(r.o.Again).Complete(r)
}

// +kubebuilder:rbac:groups=neap.dev,resources=machinetypes,verbs=get;list;watch
// +kubebuilder:rbac:groups=neap.dev,resources=machinetypes/status,verbs=patch

// Reconcile implements reconcile.Reconciler.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	var t v1alpha1.MachineType
	if err := r.o.Client.Get(ctx, req.NamespacedName, &t); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	was := t.DeepCopy()
	t.Status = Decide(&t, r.o.Observe(&t))
	if equality.Semantic.DeepEqual(was.Status, t.Status) {
		return ctrl.Result{RequeueAfter: time.Minute}, nil
	}
	if err := r.o.Client.Status().Patch(ctx, &t, client.MergeFrom(was)); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	return ctrl.Result{RequeueAfter: time.Minute}, nil
}
