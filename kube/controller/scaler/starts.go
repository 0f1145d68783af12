package scaler

import (
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/neap-dev/neap/kube/convert"
)

// births notes how long pods take from their creation to their readiness: to be
// scheduled, pulled, loaded and ready. Tell it of every pod; its methods may be
// called from any goroutine.
type births struct {
	now      func() time.Time
	observed bool // times are when we saw it, not what the API server wrote down

	mu   sync.Mutex
	pods map[types.UID]*birth
	seq  int64
}

// A birth is one pod's. seq orders births by when they were noted; 0 means that
// the pod is not ready yet, or that nobody knows how long it took.
type birth struct {
	created time.Time
	ready   bool
	took    time.Duration
	seq     int64
}

// longestStart bounds what counts as a start: a pod that became ready later than
// that was not starting all the time, or flapped while nobody watched.
const longestStart = 30 * time.Minute

func newBirths(now func() time.Time, observed bool) *births {
	return &births{now: now, observed: observed, pods: map[types.UID]*birth{}}
}

func (b *births) seen(pod *corev1.Pod) {
	now := b.now()
	ready, isReady := convert.BecameReady(pod)
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.pods[pod.UID]
	if p == nil {
		p = &birth{created: pod.CreationTimestamp.Time, ready: isReady && b.observed}
		if b.observed {
			p.created = now
		}
		b.pods[pod.UID] = p
	}
	if p.ready || !isReady {
		return
	}
	p.ready = true
	if b.observed {
		ready = now
	}
	if p.took = ready.Sub(p.created); p.took >= 0 && p.took <= longestStart {
		b.seq++
		p.seq = b.seq
	}
}

func (b *births) gone(pod *corev1.Pod) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.pods, pod.UID)
}

// age returns for how long a pod has been there.
func (b *births) age(uid types.UID, now time.Time) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p := b.pods[uid]; p != nil {
		return now.Sub(p.created)
	}
	return 0
}

// after returns how long a pod took to start, if it became ready after seq.
func (b *births) after(uid types.UID, seq int64) (took time.Duration, at int64, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.pods[uid]
	if p == nil || p.seq <= seq {
		return 0, 0, false
	}
	return p.took, p.seq, true
}

// startTimes are how long the last replicas of one workload took to start in one
// pool. The zero startTimes has seen none.
type startTimes struct {
	ring [64]time.Duration
	n    int
}

func (s *startTimes) add(took time.Duration) {
	s.ring[s.n%len(s.ring)] = took
	s.n++
}

// p95 returns the 95th percentile, to the second above, and whether any was seen.
func (s *startTimes) p95() (time.Duration, bool) {
	n := min(s.n, len(s.ring))
	if n == 0 {
		return 0, false
	}
	sorted := slices.Sorted(slices.Values(s.ring[:n]))
	return (sorted[min(n*95/100, n-1)] + time.Second - 1).Truncate(time.Second), true
}
