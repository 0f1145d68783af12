package colocator

import (
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/colocate"
	"github.com/neap-dev/neap/core/workload"
	"github.com/neap-dev/neap/kube/convert"
)

const (
	// keepRuns is how many runs of an owner are remembered, the newest.
	keepRuns = 50
	// leastRuns is how many runs say something about the next.
	leastRuns = 3
	// mostOwners is how many owners a policy's status tells of, of a kind.
	mostOwners = 512
)

// runs follows batch pods: when they began, how long those of each owner took, and
// which were evicted. It is safe for concurrent use.
type runs struct {
	now      func() time.Time
	observed bool

	mu      sync.Mutex
	owners  convert.Owners
	began   map[types.UID]time.Time // when a pod was first seen on its node
	over    map[types.UID]bool      // counted among the runs
	took    map[workload.Key]*taken
	evicted map[types.UID]eviction // within the last hour
}

// A taken is how long the pods of one owner took, the newest last.
type taken struct {
	lengths []time.Duration
	node    string // where the newest was
	at      time.Time
}

// An eviction is a batch pod that had to leave, whoever made it.
type eviction struct {
	at   time.Time
	node string
	lost int64 // thousandths of a core times seconds
}

func newRuns(now func() time.Time, observed bool) *runs {
	return &runs{now: now, observed: observed, began: map[types.UID]time.Time{}, over: map[types.UID]bool{}, took: map[workload.Key]*taken{}, evicted: map[types.UID]eviction{}}
}

func (r *runs) owner(obj metav1.Object) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.owners.Put(obj)
}

func (r *runs) ownerGone(uid types.UID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.owners.Forget(uid)
}

// of returns the owner of a pod.
func (r *runs) of(pod *corev1.Pod) workload.Key {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.owners.Of(pod)
}

func (r *runs) seen(pod *corev1.Pod) {
	if !convert.Batch(pod) || pod.Spec.NodeName == "" {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	began, known := r.began[pod.UID]
	if !known {
		began = r.now()
		if at, ok := convert.Bound(pod); ok && !r.observed {
			began = at
		}
		r.began[pod.UID] = began
	}
	if pod.DeletionTimestamp != nil && evictedByAPI(pod) {
		r.evict(pod)
	}
	if pod.Status.Phase != corev1.PodSucceeded || r.over[pod.UID] {
		return
	}
	r.over[pod.UID] = true
	length := r.now().Sub(began)
	if r.observed {
		if life, ok := convert.SimulatedLife(pod); ok {
			length = life
		} else if !known {
			return // it was over before it was seen
		}
	} else if end, ok := convert.Ended(pod); ok {
		length = end.Sub(began)
	}
	if length <= 0 {
		return
	}
	key := r.owners.Of(pod)
	t := r.took[key]
	if t == nil {
		t = &taken{}
		r.took[key] = t
	}
	t.lengths = append(t.lengths, length)
	if n := len(t.lengths); n > keepRuns {
		t.lengths = slices.Delete(t.lengths, 0, n-keepRuns)
	}
	t.node, t.at = pod.Spec.NodeName, r.now()
}

// evictedByAPI reports whether a pod leaves because somebody evicted it.
func evictedByAPI(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue && c.Reason == "EvictionByEvictionAPI"
	})
}

// evict counts a pod that was evicted, once; r.mu is held.
func (r *runs) evict(pod *corev1.Pod) {
	if _, ok := r.evicted[pod.UID]; ok {
		return
	}
	said, _ := convert.BatchSays(pod)
	t := colocate.Task{Need: convert.BatchRequest(pod), Started: r.began[pod.UID], Saved: said.Saved}
	r.evicted[pod.UID] = eviction{at: r.now(), node: pod.Spec.NodeName, lost: t.Lost(r.now())}
}

// left counts a pod that this process has evicted.
func (r *runs) left(pod *corev1.Pod) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.evict(pod)
}

// evictions returns what was evicted from and later on, of the last hour at most.
func (r *runs) evictions(from time.Time) []eviction {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []eviction
	for uid, e := range r.evicted {
		if r.now().Sub(e.at) > time.Hour {
			delete(r.evicted, uid)
		} else if !e.at.Before(from) {
			out = append(out, e)
		}
	}
	slices.SortFunc(out, func(a, b eviction) int { return a.at.Compare(b.at) })
	return out
}

func (r *runs) gone(pod *corev1.Pod) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.began, pod.UID)
	delete(r.over, pod.UID)
}

// task returns the task that a batch pod is.
func (r *runs) task(pod *corev1.Pod, learnt map[workload.Key]time.Duration, usual time.Duration) colocate.Task {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := convert.BatchTask(pod, r.owners.Of(pod), learnt, usual)
	if began, ok := r.began[pod.UID]; ok {
		t.Started = began
	}
	return t
}

// learnt adds to what a policy's status tells of the owners what was seen since, of
// pods on nodes that are the policy's.
func (r *runs) learnt(was []v1alpha1.LearntRunTime, of func(node string) bool) []v1alpha1.LearntRunTime {
	r.mu.Lock()
	defer r.mu.Unlock()
	by := map[string]v1alpha1.LearntRunTime{}
	for _, l := range was {
		by[l.Owner] = l
	}
	newest := map[string]time.Time{}
	for key, t := range r.took {
		owner := key.Namespace + "/" + key.Kind + "/" + key.Name
		newest[owner] = t.at
		if len(t.lengths) < leastRuns || !of(t.node) {
			continue
		}
		sorted := slices.Sorted(slices.Values(t.lengths))
		p80 := sorted[(len(sorted)*8+9)/10-1].Round(time.Second)
		n := int32(len(t.lengths))
		if known := by[owner]; known.Pods > n && known.P80.Duration > p80 {
			continue // it rests on more runs, from before this process
		}
		by[owner] = v1alpha1.LearntRunTime{Owner: owner, P80: metav1.Duration{Duration: p80}, Pods: n}
	}
	out := make([]v1alpha1.LearntRunTime, 0, len(by))
	for _, l := range by {
		out = append(out, l)
	}
	slices.SortFunc(out, func(a, b v1alpha1.LearntRunTime) int {
		if c := newest[b.Owner].Compare(newest[a.Owner]); c != 0 && len(by) > mostOwners {
			return c
		}
		return strings.Compare(a.Owner, b.Owner)
	})
	out = out[:min(len(out), mostOwners)]
	slices.SortFunc(out, func(a, b v1alpha1.LearntRunTime) int { return strings.Compare(a.Owner, b.Owner) })
	return out
}
