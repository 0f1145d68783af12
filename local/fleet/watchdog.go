package fleet

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
)

const (
	// lookEvery and lateAfter are wall times.
	lookEvery = time.Second
	lateAfter = 4 * time.Second
	// mostNudges is how many pods are nudged in one look.
	mostNudges = 500
)

// Watch looks after pods whose next stage is overdue, until ctx is done. KWOK
// drops the events of a node's pods while its cache does not show yet that it
// holds the node's lease, and never hears of these pods again: with 500 new nodes
// that was 2 pods in 100. Any change of a pod makes it look again, so such a pod
// gets an annotation.
func (l *Lifecycle) Watch(ctx context.Context, factory informers.SharedInformerFactory) error {
	nodes, pods := factory.Core().V1().Nodes().Lister(), factory.Core().V1().Pods().Lister()
	since := map[types.UID]time.Time{} // when a pod was first seen overdue, at wall time
	t := time.NewTicker(lookEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		all, err := pods.List(labels.Everything())
		if err != nil {
			return fmt.Errorf("look after simulated pods: %w", err)
		}
		late := map[types.UID]time.Time{}
		nudged := 0
		for _, p := range all {
			if !l.overdue(p) {
				continue
			}
			if n, err := nodes.Get(p.Spec.NodeName); err != nil || n.Labels[SimulatedLabel] != "true" {
				continue
			}
			first, ok := since[p.UID]
			if !ok {
				first = time.Now()
			}
			if time.Since(first) > lateAfter && nudged < mostNudges {
				nudged++
				first = time.Now()
				patch := fmt.Appendf(nil, `{"metadata":{"annotations":{"neap.dev/simulated-nudge":%q}}}`, first.UTC().Format(time.RFC3339Nano))
				_, err := l.client.CoreV1().Pods(p.Namespace).Patch(ctx, p.Name, types.MergePatchType, patch, metav1.PatchOptions{})
				if err != nil && !apierrors.IsNotFound(err) && ctx.Err() == nil {
					break // the API server has no time; the next look tries again
				}
			}
			late[p.UID] = first
		}
		since = late
	}
}

// overdue reports whether a stage of a pod should have been played by now.
func (l *Lifecycle) overdue(p *corev1.Pod) bool {
	stage := next(p)
	if stage == None {
		return false
	}
	at, known := l.table.due(p.UID, stage)
	return !known || !at.After(l.day.Now())
}
