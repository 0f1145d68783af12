package elasticfit

import (
	"sync"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/neap-dev/neap/core/workload"
)

// A book knows on which node every pod is that is bound or reserved. A pod that
// is being deleted is in it no more: its place is free for the next.
//
// What it says is never less than what is there: the scheduler reserves one pod
// after the other, and a pod leaves the book only when the API server has said
// that it goes, or the scheduler that it was not bound after all.
type book struct {
	mu   sync.RWMutex
	pods map[types.UID]entry
	// Pods of every controller, such as one ReplicaSet, and of every workload, by node.
	revisions map[types.UID]map[string]int
	workloads map[workload.Key]map[string]int
}

type entry struct {
	node     string
	revision types.UID
	workload workload.Key
}

func newBook() *book {
	return &book{
		pods:      map[types.UID]entry{},
		revisions: map[types.UID]map[string]int{},
		workloads: map[workload.Key]map[string]int{},
	}
}

// put writes down that a pod is on a node.
func (b *book) put(pod *v1.Pod, node string, by owner) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := entry{node, by.revision, by.workload}
	if was, ok := b.pods[pod.UID]; ok {
		if was == e {
			return
		}
		b.strike(pod.UID, was)
	}
	b.pods[pod.UID] = e
	add(b.revisions, e.revision, node)
	add(b.workloads, e.workload, node)
}

// drop strikes a pod out and reports whether it was in the book.
func (b *book) drop(uid types.UID) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	e, ok := b.pods[uid]
	if ok {
		b.strike(uid, e)
	}
	return ok
}

func (b *book) strike(uid types.UID, e entry) {
	delete(b.pods, uid)
	remove(b.revisions, e.revision, e.node)
	remove(b.workloads, e.workload, e.node)
}

// on returns how many pods of one revision and of its whole workload are on
// each of the nodes.
func (b *book) on(by owner, nodes []string) (revision, workload int) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	mine, all := b.revisions[by.revision], b.workloads[by.workload]
	if len(all) == 0 {
		return 0, 0
	}
	for _, n := range nodes {
		revision += mine[n]
		workload += all[n]
	}
	return revision, workload
}

func add[K comparable](m map[K]map[string]int, k K, node string) {
	if m[k] == nil {
		m[k] = map[string]int{}
	}
	m[k][node]++
}

func remove[K comparable](m map[K]map[string]int, k K, node string) {
	if m[k][node]--; m[k][node] == 0 {
		delete(m[k], node)
	}
	if len(m[k]) == 0 {
		delete(m, k)
	}
}
