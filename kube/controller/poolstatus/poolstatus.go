// Package poolstatus writes into every ResourcePool what Neap knows of it: its
// machines, how fast pods start in it, what the last closed hour cost, and
// whether the modules in it kept their quality.
//
// [Decide] is what the status says, and pure; the Reconciler only fetches and
// writes.
package poolstatus

import (
	"context"
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/money"
	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/kube/convert"
)

// An Hour is what the last closed hour says of one pool.
type Hour struct {
	From       time.Time
	Currency   string
	Cost, Idle money.Amount
	Met        int      // modules in the pool that kept their targets
	Broken     []string // those that did not
}

// An Observation is what is known of one pool now.
type Observation struct {
	Now      time.Time
	Invalid  error // why the selector makes no sense
	Machines int
	Capacity resource.Vector
	Unpriced []string // machine types in the pool without a price

	// StartMedian, StartP95 over Started pods; Started is 0 if none was seen.
	StartMedian, StartP95 time.Duration
	Started               int

	// Limits as declared; −1 and 0 say nothing.
	LimitMachines int64
	LimitTotal    resource.Vector
	Limited       bool

	Hour *Hour // nil before the first hour is closed
}

// Decide returns the status that an observation gives p.
func Decide(p *v1alpha1.ResourcePool, seen Observation) v1alpha1.ResourcePoolStatus {
	out := *p.Status.DeepCopy()
	out.ObservedGeneration = p.Generation
	out.Machines = int32(seen.Machines)
	out.Capacity = convert.Amounts(seen.Capacity)
	out.Start, out.LastHour = nil, nil
	if seen.Started > 0 {
		out.Start = &v1alpha1.StartTime{
			Median: metav1.Duration{Duration: seen.StartMedian.Round(100 * time.Millisecond)},
			P95:    metav1.Duration{Duration: seen.StartP95.Round(100 * time.Millisecond)},
			Pods:   int32(seen.Started),
		}
	}
	if h := seen.Hour; h != nil {
		out.LastHour = &v1alpha1.PoolHour{
			From: metav1.NewTime(h.From), Cost: convert.Money(h.Cost), Idle: convert.Money(h.Idle), Currency: h.Currency,
		}
	}
	set := func(typ string, status metav1.ConditionStatus, reason, message string) {
		meta.SetStatusCondition(&out.Conditions, metav1.Condition{
			Type: typ, Status: status, Reason: reason, Message: message,
			ObservedGeneration: p.Generation, LastTransitionTime: metav1.NewTime(seen.Now),
		})
	}
	var lacking []string

	if n := len(seen.Unpriced); n > 0 {
		s := fmt.Sprintf("machine types without a price: %s; declare them as MachineType", strings.Join(seen.Unpriced[:min(n, 3)], ", "))
		set(v1alpha1.ConditionPriceKnown, metav1.ConditionFalse, "NoPrice", s)
		lacking = append(lacking, s)
	} else {
		set(v1alpha1.ConditionPriceKnown, metav1.ConditionTrue, "Priced", "every machine in the pool has a price")
	}

	switch over := beyond(seen); {
	case !seen.Limited:
		set(v1alpha1.ConditionWithinLimit, metav1.ConditionTrue, "NoLimit", "spec.limit sets none")
	case over != "":
		set(v1alpha1.ConditionWithinLimit, metav1.ConditionFalse, "Beyond", over)
	default:
		set(v1alpha1.ConditionWithinLimit, metav1.ConditionTrue, "Within", "the pool holds no more than spec.limit")
	}

	switch h := seen.Hour; {
	case h == nil:
		set(v1alpha1.ConditionGuardMet, metav1.ConditionUnknown, "NoHour", "no hour has been closed yet")
	case len(h.Broken) > 0:
		n := len(h.Broken)
		s := strings.Join(h.Broken[:min(n, 3)], ", ")
		if n > 3 {
			s += ", …"
		}
		set(v1alpha1.ConditionGuardMet, metav1.ConditionFalse, "Broken", fmt.Sprintf("in the last closed hour %d of %d guarded modules missed a target: %s", n, n+h.Met, s))
	case h.Met == 0:
		set(v1alpha1.ConditionGuardMet, metav1.ConditionUnknown, "NotMeasured", "no module in the pool has a target that was measured in the last closed hour")
	default:
		set(v1alpha1.ConditionGuardMet, metav1.ConditionTrue, "Met", fmt.Sprintf("all %d guarded modules kept their targets in the last closed hour", h.Met))
	}

	switch {
	case seen.Invalid != nil:
		set(v1alpha1.ConditionReady, metav1.ConditionFalse, "Invalid", seen.Invalid.Error())
	case len(lacking) > 0:
		set(v1alpha1.ConditionReady, metav1.ConditionFalse, "Incomplete", strings.Join(lacking, "; "))
	default:
		set(v1alpha1.ConditionReady, metav1.ConditionTrue, "Complete", "its cost is on the bill")
	}
	return out
}

// beyond says what of the pool is over its limit; "" if nothing.
func beyond(seen Observation) string {
	var over []string
	if n := seen.LimitMachines; n >= 0 && int64(seen.Machines) > n {
		over = append(over, fmt.Sprintf("%d machines, the limit is %d", seen.Machines, n))
	}
	for _, k := range resource.All {
		if l := seen.LimitTotal[k]; l > 0 && seen.Capacity[k] > l {
			over = append(over, fmt.Sprintf("%s %s, the limit is %s", amount(k, seen.Capacity), k, amount(k, seen.LimitTotal)))
		}
	}
	return strings.Join(over, "; ")
}

func amount(k resource.Kind, v resource.Vector) string {
	var one resource.Vector
	one[k] = v[k]
	a := convert.Amounts(one)
	switch k {
	case resource.CPU:
		return a.CPU.String()
	case resource.Memory:
		return a.Memory.String()
	}
	return a.GPU.String()
}

// Options of a [Reconciler]. Every field is required.
type Options struct {
	Client client.Client
	// Observe says what the biller knows of a pool.
	Observe func(*v1alpha1.ResourcePool) Observation
	// Again asks for every ResourcePool to be looked at again, such as after an
	// hour was closed or a node came.
	Again source.Source
}

// A Reconciler keeps the status of ResourcePools true.
type Reconciler struct{ o Options }

// New returns a Reconciler.
func New(o Options) *Reconciler { return &Reconciler{o} }

// SetupWithManager registers the Reconciler.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).Named("poolstatus").For(&v1alpha1.ResourcePool{}).WatchesRawSource(r.o.Again).Complete(r)
}

// +kubebuilder:rbac:groups=neap.dev,resources=resourcepools,verbs=get;list;watch
// +kubebuilder:rbac:groups=neap.dev,resources=resourcepools/status,verbs=patch

// Reconcile implements reconcile.Reconciler.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	var p v1alpha1.ResourcePool
	if err := r.o.Client.Get(ctx, req.NamespacedName, &p); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	was := p.DeepCopy()
	p.Status = Decide(&p, r.o.Observe(&p))
	if equality.Semantic.DeepEqual(was.Status, p.Status) {
		return ctrl.Result{RequeueAfter: time.Minute}, nil
	}
	if err := r.o.Client.Status().Patch(ctx, &p, client.MergeFrom(was)); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	return ctrl.Result{RequeueAfter: time.Minute}, nil
}
