package repacker

import (
	"context"
	"fmt"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/neap-dev/neap/api/v1alpha1"
)

const (
	// labelSick is "true" on plans that were made for sick GPUs.
	labelSick = "neap.dev/sick-gpus"
	// checkSick is how often sick GPUs are looked for, by the wall.
	checkSick = 30 * time.Second
	// sickAgain is how long after a plan for a machine's sick GPUs was over another is
	// made, if pods are still on them.
	sickAgain = time.Hour
)

// An evacuator makes plans for GPUs that are sick.
type evacuator struct{ r *Reconciler }

// Start implements manager.Runnable.
func (e *evacuator) Start(ctx context.Context) error {
	for {
		if err := e.r.Evacuate(ctx); err != nil && ctx.Err() == nil {
			e.r.log.Warn("sick GPUs are looked for again in a while", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(checkSick):
		}
	}
}

// Evacuate makes a plan for every machine that has pods on sick GPUs and none yet,
// and takes away its own plans that nothing is left to do for.
func (r *Reconciler) Evacuate(ctx context.Context) error {
	w, err := r.observe(ctx, &v1alpha1.RepackPlan{Spec: v1alpha1.RepackPlanSpec{Goal: v1alpha1.RepackEvacuate}})
	if err != nil {
		return err
	}
	var all v1alpha1.RepackPlanList
	if err := r.o.Live.List(ctx, &all, client.MatchingLabels{labelSick: "true"}); err != nil {
		return fmt.Errorf("list RepackPlans: %w", err)
	}
	known := map[string]*v1alpha1.RepackPlan{}
	for i := range all.Items {
		known[all.Items[i].Name] = &all.Items[i]
	}
	for _, node := range w.book.Nodes() {
		var sick []string
		holders := 0
		for _, d := range w.book.Devices(node.Name) {
			if !d.Healthy && len(sick) < 256 {
				sick = append(sick, d.UUID)
				holders += len(d.Holders)
			}
		}
		name := sickName(node.Name)
		was := known[name]
		switch {
		case holders == 0 && was != nil && was.Status.Phase == v1alpha1.RepackPlanned: // a dry run that is settled
			if err := client.IgnoreNotFound(r.o.Client.Delete(ctx, was)); err != nil {
				return fmt.Errorf("delete RepackPlan %s: %w", name, err)
			}
		case holders == 0, was != nil && !was.Status.Phase.Over(), was != nil && r.o.Clock.Now().Sub(lastEnd(was)) < sickAgain:
		case was != nil:
			if err := client.IgnoreNotFound(r.o.Client.Delete(ctx, was)); err != nil { // the next look makes the new one
				return fmt.Errorf("delete RepackPlan %s: %w", name, err)
			}
		default:
			p := &v1alpha1.RepackPlan{
				ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{labelSick: "true"}},
				Spec: v1alpha1.RepackPlanSpec{
					Goal: v1alpha1.RepackEvacuate, Devices: sick, Mode: r.o.Evacuate,
					Limits: v1alpha1.RepackLimits{Cooldown: "0s"}, // they had better leave at once
				},
			}
			if err := r.o.Client.Create(ctx, p, fieldOwner); err != nil && !apierrors.IsAlreadyExists(err) {
				return fmt.Errorf("make RepackPlan %s: %w", name, err)
			}
			r.log.Info("pods are on sick GPUs", "machine", node.Name, "gpus", strings.Join(sick, ","), "plan", name, "mode", r.o.Evacuate)
		}
	}
	return nil
}

// sickName is the name of the plan for a machine's sick GPUs.
func sickName(node string) string { return "sick-" + strings.ToLower(node[:min(len(node), 200)]) }
