// Package timetablestatus writes into every Timetable how many classes it holds,
// when the next one begins, and whether it can be read.
//
// [Decide] is what the status says, and pure; the Reconciler only fetches and
// writes.
package timetablestatus

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/kube/convert"
)

// Decide returns the status of t at the time.
func Decide(t *v1alpha1.Timetable, now time.Time) v1alpha1.TimetableStatus {
	out := *t.Status.DeepCopy()
	out.ObservedGeneration = t.Generation
	sessions, err := convert.Sessions(t)
	out.Sessions, out.Next = int32(len(sessions)), nil
	for _, s := range sessions {
		if s.Start.After(now) && (out.Next == nil || s.Start.Before(out.Next.Time)) {
			out.Next = &metav1.Time{Time: s.Start}
		}
	}
	c := metav1.Condition{
		Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: "Read", Message: fmt.Sprintf("%d classes", len(sessions)),
		ObservedGeneration: t.Generation, LastTransitionTime: metav1.NewTime(now),
	}
	if err != nil {
		c.Status, c.Reason, c.Message = metav1.ConditionFalse, "Invalid", err.Error()
	}
	meta.SetStatusCondition(&out.Conditions, c)
	return out
}

// Options of a [Reconciler]. Every field is required.
type Options struct {
	Client client.Client
	Now    func() time.Time
}

// A Reconciler keeps the status of Timetables true.
type Reconciler struct{ o Options }

// New returns a Reconciler.
func New(o Options) *Reconciler { return &Reconciler{o} }

// SetupWithManager registers the Reconciler.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).Named("timetablestatus").For(&v1alpha1.Timetable{}).Complete(r)
}

// +kubebuilder:rbac:groups=neap.dev,resources=timetables,verbs=get;list;watch
// +kubebuilder:rbac:groups=neap.dev,resources=timetables/status,verbs=patch

// Reconcile implements reconcile.Reconciler.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	var t v1alpha1.Timetable
	if err := r.o.Client.Get(ctx, req.NamespacedName, &t); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	was := t.DeepCopy()
	t.Status = Decide(&t, r.o.Now())
	if !equality.Semantic.DeepEqual(was.Status, t.Status) {
		if err := r.o.Client.Status().Patch(ctx, &t, client.MergeFrom(was)); err != nil {
			return ctrl.Result{}, client.IgnoreNotFound(err)
		}
	}
	return ctrl.Result{RequeueAfter: time.Minute}, nil
}
