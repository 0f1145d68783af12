package colocator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/core/colocate"
)

// A leaver is a batch pod that has to leave its machine.
type leaver struct {
	m   *seen
	pod *corev1.Pod
	colocate.Departure
}

// leaving returns the pods that have to leave by now, those first whose time it is
// longest.
func (c *Colocator) leaving(w *world) []leaver {
	var due []leaver
	for _, p := range w.policies {
		if p.Spec.Mode == v1alpha1.ModeObserve {
			continue
		}
		var all []leaver
		for _, m := range w.machines {
			if m.policy == p {
				all = append(all, c.leavingOf(w, m)...)
			}
		}
		pace(all, w.declared[p.UID].Leaving.PerHour)
		for _, l := range all {
			if !l.At.After(w.now) {
				due = append(due, l)
			}
		}
	}
	return due
}

// leavingOf returns who has to leave one machine, sooner or later.
func (c *Colocator) leavingOf(w *world, m *seen) []leaver {
	if len(m.batch) == 0 || m.offer.Curve.Steps() == 0 {
		return nil
	}
	var tasks []colocate.Task
	var pods []*corev1.Pod
	for _, p := range m.batch {
		if p.DeletionTimestamp == nil {
			tasks = append(tasks, c.runs.task(p, w.learnt, m.declared.Policy.RunTime))
			pods = append(pods, p)
		}
	}
	var out []leaver
	for i, d := range colocate.Drain(bearable(m.offer), w.now, tasks, colocate.Leaving{Notice: m.declared.Leaving.Notice}) {
		if d.Fate == colocate.Leave {
			out = append(out, leaver{m, pods[i], d})
		}
	}
	return out
}

// squeeze is how many times what they get pods may ask for, outside of windows,
// before one of them leaves.
const squeeze = 2

// bearable is the curve that pods that run bear: what windows leave, for batch must be
// out of the way by then. At other times they may be slowed down, but not be short of
// memory for what they hold.
func bearable(o colocate.Offer) colocate.Curve {
	c := o.Peak
	if o.Binds == colocate.BoundUnknown || o.Binds == boundAgent || o.Binds == boundPolicy {
		// That nothing is known is no reason to lose work: nothing new comes, and the
		// agent, or its dead man's hand, bounds what runs.
		return c
	}
	c.CPUMilli, c.MemoryMiB = slices.Clone(c.CPUMilli), slices.Clone(c.MemoryMiB)
	for i := range c.CPUMilli {
		c.CPUMilli[i] = min(c.CPUMilli[i], squeeze*o.Curve.CPUMilli[i])
		c.MemoryMiB[i] = min(c.MemoryMiB[i], o.Curve.MemoryMiB[i])
	}
	return c
}

// pace moves departures to earlier times, so that in no hour there are more than
// perHour, and each as late as that allows.
func pace(all []leaver, perHour int64) {
	slices.SortStableFunc(all, func(a, b leaver) int { return b.At.Compare(a.At) }) // the latest first
	for i := range all {
		if k := i - int(perHour); perHour > 0 && k >= 0 {
			if latest := all[k].At.Add(-time.Hour); all[i].At.After(latest) {
				all[i].At = latest
			}
		}
	}
	slices.SortStableFunc(all, func(a, b leaver) int {
		return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Lost, b.Lost))
	})
}

// evict asks pods to leave, as many as there may in an hour. In mode Preview it only
// says so.
func (c *Colocator) evict(ctx context.Context, w *world, due []leaver) error {
	made := map[*v1alpha1.ColocationPolicy]int64{}
	of := map[string]*v1alpha1.ColocationPolicy{}
	for _, m := range w.machines {
		of[m.node.Name] = m.policy
	}
	for _, e := range c.runs.evictions(w.now.Add(-time.Hour)) {
		made[of[e.node]]++
	}
	var errs []error
	for _, l := range due {
		p := l.m.policy
		if p.Spec.Mode != v1alpha1.ModeAuto {
			errs = append(errs, c.tell(ctx, w, l, "advised"))
			continue
		}
		if !p.Spec.Ladder.Evict || made[p] >= l.m.declared.Leaving.PerHour {
			continue
		}
		switch err := c.dismiss(ctx, l); {
		case apierrors.IsNotFound(err):
			continue
		case apierrors.IsTooManyRequests(err): // its PodDisruptionBudget: the next minute is tried
			continue
		case err != nil:
			errs = append(errs, err)
			continue
		}
		made[p]++
		c.runs.left(l.pod)
		errs = append(errs, c.tell(ctx, w, l, "done"))
	}
	return errors.Join(errs...)
}

// dismiss asks one pod to leave.
func (c *Colocator) dismiss(ctx context.Context, l leaver) error {
	e := &policyv1.Eviction{
		ObjectMeta: metav1.ObjectMeta{Namespace: l.pod.Namespace, Name: l.pod.Name},
		DeleteOptions: &metav1.DeleteOptions{
			Preconditions:      &metav1.Preconditions{UID: &l.pod.UID},
			GracePeriodSeconds: ptr.To(int64(l.m.declared.Grace / time.Second)),
		},
	}
	if err := c.o.Client.SubResource("eviction").Create(ctx, l.pod.DeepCopy(), e); err != nil {
		return fmt.Errorf("evict batch pod %s/%s from node %s: %w", l.pod.Namespace, l.pod.Name, l.m.node.Name, err)
	}
	return nil
}

// tell writes down that a pod left, or would have.
func (c *Colocator) tell(ctx context.Context, w *world, l leaver, outcome string) error {
	if c.o.Ledger == nil {
		return nil
	}
	p := l.m.policy
	err := c.o.Ledger.AppendDecision(ctx, bill.Decision{
		ID: fmt.Sprintf("colocate/evict/%s/%s", p.UID, l.pod.UID), At: w.now, Actor: "colocator", Lever: "colocate", Mode: string(p.Spec.Mode),
		Action: "evict", Subject: l.pod.Namespace + "/" + l.pod.Name, Outcome: outcome,
		Reason: fmt.Sprintf("Batch pod on %s: %s.", l.m.node.Name, l.Why),
		Inputs: map[string]string{
			"node": l.m.node.Name, "policy": p.Name, "asksFor": l.Task.Need.String(),
			"lostCoreHours": fmt.Sprintf("%.3f", float64(l.Lost)/1000/3600),
			"ran":           w.now.Sub(l.Task.Started).Round(time.Second).String(), "expected": l.Task.RunTime.String(),
		},
	})
	if err != nil {
		return fmt.Errorf("write down the eviction of %s/%s: %w", l.pod.Namespace, l.pod.Name, err)
	}
	return nil
}
