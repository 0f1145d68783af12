// Package evictor evicts batch pods from a machine in need, those first with which
// the least work is lost.
//
// It asks the Eviction API, which heeds PodDisruptionBudgets, and asks for no more
// pods in an hour than the policy allows, however often it is started in that hour.
// [colocate.Evict] chooses. A refusal is tried again at the next need.
//
// Not here: leading batch out before a window, which the controller does in time.
package evictor

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/neap-dev/neap/core/colocate"
)

// Reason is the reason of events on pods that are evicted.
const Reason = "BatchEvicted"

// ErrRate says that there were as many evictions in the last hour as may be.
var ErrRate = errors.New("as many evictions as the policy allows were made in the last hour")

// A Candidate is a batch pod that may be evicted.
type Candidate struct {
	Pod  *corev1.Pod
	Task colocate.Task
}

// An Evictor evicts from one machine. Its methods may be called from several
// goroutines.
type Evictor struct {
	Client client.Client // required: creates evictions
	// Event tells a pod something; required.
	Event func(pod *corev1.Pod, reason, message string)
	// File keeps when pods were evicted over a restart; "" forgets it.
	File string

	mu       sync.Mutex
	recalled bool // File was read
	fault    error
	past     []time.Time
	lost     int64 // thousandths of a core times seconds

	boot func() (id string, up time.Duration) // thisBoot if nil
}

// Evict evicts as many of the candidates as free need, within perHour in any hour,
// and returns those that were. reason is one sentence for people.
func (e *Evictor) Evict(ctx context.Context, from []Candidate, need colocate.Room, now time.Time, perHour int64, grace time.Duration, reason string) ([]*corev1.Pod, error) {
	tasks := make([]colocate.Task, len(from))
	for i, c := range from {
		tasks[i] = c.Task
	}
	var gone []*corev1.Pod
	var errs []error
	for _, i := range colocate.Evict(tasks, need, now) {
		if _, ok := e.May(now, perHour); !ok {
			errs = append(errs, ErrRate)
			break
		}
		// It is on disk before it is asked for: who is killed in between has one less.
		if err := e.made(now); err != nil {
			errs = append(errs, err)
		}
		pod := from[i].Pod
		seconds := int64(grace / time.Second)
		err := e.Client.SubResource("eviction").Create(ctx, pod, &policyv1.Eviction{
			ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name},
			DeleteOptions: &metav1.DeleteOptions{
				GracePeriodSeconds: &seconds,
				Preconditions:      metav1.NewUIDPreconditions(string(pod.UID)),
			},
		})
		if err != nil {
			e.unmade(now)
			if !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) { // else it is gone
				errs = append(errs, fmt.Errorf("evict pod %s/%s: %w", pod.Namespace, pod.Name, err))
			}
			continue
		}
		lost := tasks[i].Lost(now)
		e.mu.Lock()
		e.lost += lost
		e.mu.Unlock()
		e.Event(pod, Reason, fmt.Sprintf("%s; %.0f core-seconds of its work are lost", reason, float64(lost)/1000))
		gone = append(gone, pod)
	}
	return gone, errors.Join(errs...)
}

// May tells whether one more eviction is within perHour, and how long to wait if not.
func (e *Evictor) May(now time.Time, perHour int64) (wait time.Duration, ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.recall(now)
	kept := e.past[:0]
	for _, at := range e.past {
		if at.Add(time.Hour).After(now) {
			kept = append(kept, at)
		}
	}
	e.past = kept
	return colocate.MayEvict(e.past, now, perHour)
}

// Lost returns how much work was lost by evictions, in core-seconds.
func (e *Evictor) Lost() float64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return float64(e.lost) / 1000
}
