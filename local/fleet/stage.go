package fleet

import (
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// A Stage is what happens to a pod next.
type Stage string

// The stages of a pod on a simulated machine.
const (
	None     Stage = ""         // nothing until somebody changes the pod
	Ready    Stage = "ready"    // it starts, and all its containers become ready
	Refused  Stage = "refused"  // instead: its provider does not create it
	Resized  Stage = "resized"  // its machine gives it what it asks for now
	CutOff   Stage = "cutoff"   // its readiness gate was shut, and it is ready no more
	BackOn   Stage = "backon"   // its readiness gate was opened again
	Complete Stage = "complete" // its work is done; only pods of Jobs
	Gone     Stage = "gone"     // it was deleted and leaves the machine
)

// bound is no stage: it is when a pod was first seen on its machine.
const bound Stage = "bound"

// Durations say how long the stages of a pod take, in simulated time. They are
// asked once a pod.
type Durations struct {
	// Refuse says why a bound pod is not created, "" if it is. It is asked more
	// than once. nil creates all.
	Refuse func(*corev1.Pod) string
	// Start is from the pod's binding until it is ready. nil means at once.
	Start func(*corev1.Pod) time.Duration
	// Run is from there until a Job's pod is done. nil means at once.
	Run func(*corev1.Pod) time.Duration
	// Stop is from the deletion until the pod is gone. nil means at once.
	Stop func(*corev1.Pod) time.Duration
}

// next returns what happens to a pod next.
func next(pod *corev1.Pod) Stage {
	switch {
	case pod.Spec.NodeName == "":
		return None
	case pod.DeletionTimestamp != nil:
		if pod.DeletionGracePeriodSeconds != nil && *pod.DeletionGracePeriodSeconds == 0 {
			return None // it is gone for the machine; a finalizer keeps the object
		}
		return Gone
	case pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed:
		return None
	case !isReady(pod) && shut(pod):
		return None
	case !isReady(pod) && pod.Status.Phase == corev1.PodRunning && len(pod.Spec.ReadinessGates) > 0:
		return BackOn
	case !isReady(pod):
		return Ready
	case shut(pod):
		return CutOff
	case resizing(pod):
		return Resized
	case ofJob(pod):
		if colocated(pod) && pod.Annotations[WorkDoneAnnotation] == "" {
			return None // it is done when its work is
		}
		return Complete
	}
	return None
}

func isReady(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// shut reports whether somebody shut a readiness gate of the pod.
func shut(pod *corev1.Pod) bool {
	for _, g := range pod.Spec.ReadinessGates {
		if slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == g.ConditionType && c.Status == corev1.ConditionFalse
		}) {
			return true
		}
	}
	return false
}

// resizing reports whether a container asks for something else than it has.
func resizing(pod *corev1.Pod) bool {
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		for j := range pod.Status.ContainerStatuses {
			s := &pod.Status.ContainerStatuses[j]
			if s.Name == c.Name && s.Resources != nil &&
				!(equal(s.Resources.Requests, c.Resources.Requests) && equal(s.Resources.Limits, c.Resources.Limits)) {
				return true
			}
		}
	}
	return false
}

func equal(a, b corev1.ResourceList) bool {
	if len(a) != len(b) {
		return false
	}
	for name, q := range a {
		if other, ok := b[name]; !ok || q.Cmp(other) != 0 {
			return false
		}
	}
	return true
}

// ofJob reports whether the pod ends by itself.
func ofJob(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.OwnerReferences, func(o metav1.OwnerReference) bool { return o.Kind == "Job" })
}

// A timetable remembers when the stages of every pod are due, so that a change
// of the pod in between neither delays nor redraws them.
type timetable struct {
	durations Durations

	mu   sync.Mutex
	pods map[types.UID]due
	sent map[sending]time.Time // wall time
}

// due holds the simulated times of the stages that were drawn.
type due map[Stage]time.Time

type sending struct {
	uid   types.UID
	stage Stage
}

// at returns when the stage of the pod is due. now is the moment of the day.
func (t *timetable) at(pod *corev1.Pod, stage Stage, now time.Time) time.Time {
	var ask func(*corev1.Pod) time.Duration
	from := now
	switch stage {
	case Ready:
		ask = t.durations.Start
	case Complete:
		ask = t.durations.Run
		if at, err := time.Parse(time.RFC3339Nano, pod.Annotations[ReadyAtAnnotation]); err == nil {
			from = at // it may have run for a while before this process started
		}
		if at, err := time.Parse(time.RFC3339Nano, pod.Annotations[WorkDoneAnnotation]); err == nil {
			from, ask = at, nil
		}
	case Gone:
		ask = t.durations.Stop
	default:
		return now
	}
	t.mu.Lock()
	at, known := t.pods[pod.UID][stage]
	t.mu.Unlock()
	if known {
		return at
	}
	// Asked without the lock: what answers may be waiting for it in forget.
	took := time.Duration(0)
	if ask != nil {
		took = max(0, ask(pod))
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	d := t.pods[pod.UID]
	if d == nil {
		d = due{}
		t.pods[pod.UID] = d
	}
	if _, known := d[stage]; !known {
		d[stage] = from.Add(took)
		if stage == Ready {
			d[bound] = from
		}
	}
	return d[stage]
}

// played remembers that a stage is being written to the API server. Until that
// comes back as an event, the pod still looks as if the stage were due. It
// returns when the stage was due, which is never after now.
func (t *timetable) played(uid types.UID, stage Stage, now time.Time) time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sent[sending{uid, stage}] = time.Now()
	if at, ok := t.pods[uid][stage]; ok && at.Before(now) {
		return at
	}
	return now
}

// resendAfter is when a stage that was written and did not come back is written
// again, in wall time.
const resendAfter = 5 * time.Second

// playing reports whether a stage was written a moment ago.
func (t *timetable) playing(uid types.UID, stage Stage) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	at, ok := t.sent[sending{uid, stage}]
	return ok && time.Since(at) < resendAfter
}

// due returns when a stage is due, if that was asked for yet.
func (t *timetable) due(uid types.UID, stage Stage) (time.Time, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	at, ok := t.pods[uid][stage]
	return at, ok
}

// life returns how long a pod takes from when it was first seen bound until it
// is done; 0 if either is not known.
func (t *timetable) life(uid types.UID) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	from, ok := t.pods[uid][bound]
	to, done := t.pods[uid][Complete]
	if !ok || !done {
		return 0
	}
	return to.Sub(from)
}

// forget drops a pod that is gone.
func (t *timetable) forget(uid types.UID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.pods, uid)
	for _, s := range []Stage{Ready, Complete} {
		delete(t.sent, sending{uid, s})
	}
}
