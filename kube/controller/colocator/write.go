package colocator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/colocate"
	"github.com/neap-dev/neap/kube/convert"
)

// write puts on every node what batch may have there: of those in mode Auto. From all
// others it takes away what stands there.
func (c *Colocator) write(ctx context.Context, w *world) error {
	var mu sync.Mutex
	var errs []error
	var wg sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	for _, m := range w.machines {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			var err error
			if m.acts() {
				err = c.offer(ctx, w, m)
			} else {
				err = c.withdraw(ctx, m)
			}
			if err != nil && !apierrors.IsNotFound(err) { // a node that is gone needs nothing
				mu.Lock()
				errs = append(errs, fmt.Errorf("write the batch capacity of node %s: %w", m.node.Name, err))
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(errs) > 5 {
		errs = append(errs[:5], fmt.Errorf("and so on %d more nodes", len(errs)-5))
	}
	return errors.Join(errs...)
}

func (m *seen) acts() bool { return m.policy != nil && m.policy.Spec.Mode == v1alpha1.ModeAuto }

// offer writes what a machine lends, where that is new or has to be renewed.
func (c *Colocator) offer(ctx context.Context, w *world, m *seen) error {
	st := m.state
	is := convert.NewBatchCapacity(m.policy.Name, m.offer)
	is.Until = is.At.Add(c.o.Lasts)
	if c.renews(w, m, is) {
		err := c.patch(ctx, m.node, "", map[string]any{"metadata": map[string]any{"annotations": map[string]any{v1alpha1.AnnotationBatchCapacity: is.String()}}})
		if err != nil {
			return err
		}
		st.wrote = is
	}
	// What runs there stays offered: a kubelet that restarts fails pods that ask for
	// more than its node has. It gives away nothing that is not given away.
	return c.resources(ctx, m.node, convert.BatchQuantities(steady(m.offer).Max(m.asked), m.policy.Spec.Resources))
}

// renews reports whether what stands on a node has to be written again: it runs out,
// is not ours, or differs by more than a hundredth of the machine. What falls is
// written at once; what rises may wait for the next renewal.
func (c *Colocator) renews(w *world, m *seen, is convert.BatchCapacity) bool {
	was, err := convert.NodeBatchCapacity(m.node)
	if err != nil {
		return true
	}
	if was.At.Before(m.state.wrote.At) { // the cache has not seen our last write yet
		was = m.state.wrote
	}
	if was.Policy != is.Policy || was.Binds != is.Binds && (was.Binds == string(boundAgent) || is.Binds == string(boundAgent)) {
		return true
	}
	if age := w.now.Sub(was.At); age < 0 || age >= c.o.Lasts/3 {
		return true
	}
	old, grain := was.Curve(), max(m.observation.Machine.CPUMilli/100, 1)
	for i := range is.CPUMilli {
		if at := is.Curve().Begin(i); old.At(at).CPUMilli-is.CPUMilli[i] > grain {
			return true
		}
	}
	return false
}

// steady is what a node's status says of an offer: whole hundredths of the machine,
// so that not every minute is a change.
func steady(o colocate.Offer) colocate.Room {
	down := func(v, all int64) int64 {
		grain := max(all/100, 1)
		return v / grain * grain
	}
	return colocate.Room{CPUMilli: down(o.Now.CPUMilli, o.Terms.Machine.CPUMilli), MemoryMiB: down(o.Now.MemoryMiB, o.Terms.Machine.MemoryMiB)}
}

// resources makes a node's status offer want to batch pods, and nothing else of ours.
func (c *Colocator) resources(ctx context.Context, n *corev1.Node, want corev1.ResourceList) error {
	change := func(is corev1.ResourceList) map[string]any {
		out := map[string]any{}
		for _, name := range convert.BatchNames(v1alpha1.BatchResourcesKubernetes) {
			q, wanted := want[name]
			has, there := is[name]
			switch {
			case wanted && (!there || has.Cmp(q) != 0):
				out[string(name)] = q.String()
			case !wanted && there && ours(is, name):
				out[string(name)] = nil
			}
		}
		return out
	}
	status := map[string]any{}
	if d := change(n.Status.Capacity); len(d) > 0 {
		status["capacity"] = d
	}
	if d := change(n.Status.Allocatable); len(d) > 0 {
		status["allocatable"] = d
	}
	if len(status) == 0 {
		return nil
	}
	return c.patch(ctx, n, "status", map[string]any{"status": status})
}

// ours reports whether a resource that a node offers is of our making. Those by
// Koordinator's names we always write beside our own, and alike.
func ours(is corev1.ResourceList, name corev1.ResourceName) bool {
	twin := map[corev1.ResourceName]corev1.ResourceName{
		v1alpha1.ResourceKubernetesBatchCPU: v1alpha1.ResourceBatchCPU, v1alpha1.ResourceKubernetesBatchMemory: v1alpha1.ResourceBatchMemory,
	}[name]
	if twin == "" {
		return true
	}
	own, ok := is[twin]
	return ok && own.Cmp(is[name]) == 0
}

// rival says which other system offers batch resources on a node, if any does.
func rival(n *corev1.Node) error {
	for _, name := range []corev1.ResourceName{v1alpha1.ResourceKubernetesBatchCPU, v1alpha1.ResourceKubernetesBatchMemory} {
		if q, ok := n.Status.Allocatable[name]; ok && !q.IsZero() && !ours(n.Status.Allocatable, name) {
			return fmt.Errorf("another system, such as Koordinator or Volcano, offers %s there; two must not: take the node from one of them", name)
		}
	}
	return nil
}

// withdraw takes from a node what stands there of us.
func (c *Colocator) withdraw(ctx context.Context, m *seen) error {
	if !carries(m.node) {
		return nil
	}
	if _, ok := m.node.Annotations[v1alpha1.AnnotationBatchCapacity]; ok {
		err := c.patch(ctx, m.node, "", map[string]any{"metadata": map[string]any{"annotations": map[string]any{v1alpha1.AnnotationBatchCapacity: nil}}})
		if err != nil {
			return err
		}
	}
	m.state.wrote = convert.BatchCapacity{}
	return c.resources(ctx, m.node, nil)
}

// patch merges a change into a node. The cached node is left as it is.
func (c *Colocator) patch(ctx context.Context, n *corev1.Node, subresource string, change map[string]any) error {
	text, err := json.Marshal(change)
	if err != nil {
		return err
	}
	to := &corev1.Node{}
	to.Name = n.Name
	patch := client.RawPatch(types.MergePatchType, text)
	if subresource != "" {
		return c.o.Client.SubResource(subresource).Patch(ctx, to, patch)
	}
	return c.o.Client.Patch(ctx, to, patch)
}
