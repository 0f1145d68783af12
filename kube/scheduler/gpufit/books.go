package gpufit

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/gpu"
	"github.com/neap-dev/neap/kube/convert"
	"github.com/neap-dev/neap/kube/gpubook"
	"github.com/neap-dev/neap/kube/scheduler/kinds"
)

const (
	// lookEvery is how often it is looked whether the demands have changed much, and
	// rescoreEvery how old a scorer gets if they have changed at all.
	lookEvery    = 10 * time.Second
	rescoreEvery = 3 * time.Minute
)

// books are what the plugin knows, in all profiles of a scheduler.
type books struct {
	handle fwk.Handle

	// mu guards what follows. Whoever holds it must not call the scheduler's queue,
	// which asks the plugin for hints with its own lock held.
	mu sync.Mutex
	// now is what the scheduler's snapshot has, with what is reserved and kept.
	now *gpubook.Book
	// seen is what the API server says.
	seen  *gpubook.Book
	order []visited        // of the last snapshot
	at    map[string]int64 // generation of every node in it
	// waiting are pods with GPUs that have been looked at and are not bound.
	waiting map[types.UID]*v1.Pod
	// tried are pods that the best machines have refused.
	tried map[types.UID]bool
	// kept are the keys of places that are in doubt, by pod.
	kept map[types.UID][]string
	// told are conflicts that pods have heard of, by pod and GPU.
	told map[types.UID]map[string]bool
	// changes counts pods with GPUs that came or went since the scorer was made.
	changes int
	scored  time.Time
	fleet   int // machines that the scorer knows

	desk   *claimDesk // nil where there are no claims
	plans  cache.SharedIndexInformer
	synced []cache.InformerSynced
}

// visited is a node of a snapshot.
type visited struct {
	name       string
	generation int64
}

func newBooks(_ context.Context, h fwk.Handle) (*books, error) {
	registerMetrics()
	models := new(convert.GPUModels)
	b := &books{
		handle: h, now: gpubook.New(models), seen: gpubook.New(models), at: map[string]int64{},
		waiting: map[types.UID]*v1.Pod{}, tried: map[types.UID]bool{}, kept: map[types.UID][]string{}, told: map[types.UID]map[string]bool{},
	}
	b.now.Fleet().SetPrices(slices.Repeat([]int64{1}, gpu.MaxModels))
	pods, err := h.SharedInformerFactory().Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { b.podSeen(nil, obj.(*v1.Pod)) },
		UpdateFunc: func(was, is any) { b.podSeen(was.(*v1.Pod), is.(*v1.Pod)) },
		DeleteFunc: func(obj any) {
			if pod, ok := last(obj).(*v1.Pod); ok {
				b.podGone(pod)
			}
		},
	})
	if err != nil {
		return nil, err
	}
	nodes, err := h.SharedInformerFactory().Core().V1().Nodes().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { b.nodeSeen(nil, obj.(*v1.Node)) },
		UpdateFunc: func(was, is any) { b.nodeSeen(was.(*v1.Node), is.(*v1.Node)) },
		DeleteFunc: func(obj any) {
			if node, ok := last(obj).(*v1.Node); ok {
				b.mu.Lock()
				defer b.mu.Unlock()
				b.seen.DeleteNode(node.Name)
			}
		},
	})
	if err != nil {
		return nil, err
	}
	b.synced = []cache.InformerSynced{pods.HasSynced, nodes.HasSynced}
	return b, b.followClaims(h)
}

// last returns the object of a deletion.
func last(obj any) any {
	if t, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		return t.Obj
	}
	return obj
}

// start follows what is declared, and keeps the scorer up to date, until ctx ends.
func (b *books) start(ctx context.Context, h fwk.Handle) error {
	client, err := kinds.Connect(h.KubeConfig())
	if err != nil {
		return err
	}
	b.plans = kinds.Informer(client, "repackplans", &v1alpha1.RepackPlan{}, cache.Indexers{})
	if err := b.followPlans(); err != nil {
		return err
	}
	if err := kinds.Follow(ctx, client, map[string]cache.SharedIndexInformer{"repackplans": b.plans}); err != nil {
		return err
	}
	go b.run(ctx)
	return nil
}

// ready waits until what exists has been seen.
func (b *books) ready(ctx context.Context) error {
	for _, synced := range b.synced {
		if !synced() && !cache.WaitForCacheSync(ctx.Done(), b.synced...) {
			return errors.New("GPUFit has not read the pods and nodes yet")
		}
	}
	return nil
}

// sync takes in what changed in the scheduler's snapshot. The lock is held.
func (b *books) sync(nodes []fwk.NodeInfo) {
	if len(nodes) != len(b.order) {
		b.order = make([]visited, len(nodes))
	}
	moved := false
	for i, n := range nodes {
		name, generation := n.Node().Name, n.GetGeneration()
		v := &b.order[i]
		if v.name == name && v.generation == generation {
			continue
		}
		moved = moved || v.name != name
		*v = visited{name, generation}
		if was, ok := b.at[name]; !ok || was != generation {
			b.at[name] = generation
			b.visit(n)
		}
	}
	if !moved && len(b.at) == len(nodes) {
		return
	}
	there := make(map[string]bool, len(nodes))
	for _, v := range b.order {
		there[v.name] = true
	}
	for name := range b.at {
		if !there[name] {
			delete(b.at, name)
			_ = b.now.SetMachine(&v1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, slices.Values[[]*v1.Pod](nil)) // has no GPUs that could be wrong
			b.now.DeleteNode(name)
		}
	}
}

// visit takes in one node of the snapshot, with its pods if it has GPUs.
func (b *books) visit(n fwk.NodeInfo) {
	node := n.Node()
	had := b.now.GPUs(node.Name)
	_ = b.now.SetNode(node) // nodeSeen tells what is wrong with it
	if b.now.GPUs(node.Name) == 0 && had == 0 {
		return
	}
	_ = b.now.SetMachine(node, func(yield func(*v1.Pod) bool) {
		if b.now.GPUs(node.Name) == 0 {
			return // until it has some again its pods are of no interest
		}
		for _, p := range n.GetPods() {
			if !yield(p.GetPod()) {
				return
			}
		}
	})
}

// syncAll is sync for the points that are not handed the snapshot.
func (b *books) syncAll(h fwk.Handle) {
	if nodes, err := h.SnapshotSharedLister().NodeInfos().List(); err == nil {
		b.sync(nodes)
	}
}

// stillFree says what is wrong with giving these GPUs to a pod now, as far as the API
// server has told: another scheduler may have been here.
func (b *books) stillFree(pod *v1.Pod, a v1alpha1.GPUAllocation) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	devices := b.seen.Devices(a.Node)
	for _, share := range a.Devices {
		i := slices.IndexFunc(devices, func(d gpubook.Device) bool { return d.UUID == share.UUID })
		if i < 0 {
			return fmt.Errorf("GPU %s is not on node %s any more: the pod is placed anew", share.UUID, a.Node)
		}
		d := devices[i]
		if !d.Healthy {
			return fmt.Errorf("GPU %s of node %s has become sick (%s): the pod is placed anew", share.UUID, a.Node, d.Reason)
		}
		milli, memory := share.Milli, share.MemoryMiB
		for _, h := range d.Holders {
			if h.Pod != nil && h.Pod.UID == pod.UID {
				milli, memory = 0, 0 // it is there already
			}
		}
		if d.IdleMilli < milli || d.IdleMemoryMiB < memory {
			conflicts.WithLabelValues("before binding").Inc()
			return fmt.Errorf("GPU %s of node %s was given to somebody else meanwhile, by another scheduler: the pod is placed anew", share.UUID, a.Node)
		}
	}
	return nil
}

// keep keeps the GPUs of a pod of which nobody knows whether it was bound, until that
// is known, and for a while at most. The lock is held.
func (b *books) keep(pod *v1.Pod, a v1alpha1.GPUAllocation) {
	b.settle(pod.UID)
	for i, s := range a.Devices {
		key := fmt.Sprintf("binding/%s/%d", pod.UID, i)
		b.now.SetHold(key, gpubook.Hold{Pod: pod.Namespace + "/" + pod.Name, Node: a.Node, Devices: []string{s.UUID}, Milli: s.Milli, MemoryMiB: s.MemoryMiB})
		b.kept[pod.UID] = append(b.kept[pod.UID], key)
	}
	time.AfterFunc(doubt, func() {
		b.mu.Lock()
		open := b.settle(pod.UID)
		b.mu.Unlock()
		if open {
			b.wake()
		}
	})
}

// settle gives up what was kept for a pod in doubt, and reports whether anything was.
// The lock is held.
func (b *books) settle(pod types.UID) bool {
	for _, key := range b.kept[pod] {
		b.now.DeleteHold(key)
	}
	open := len(b.kept[pod]) > 0
	delete(b.kept, pod)
	return open
}

// wake lets all pods with GPUs that wait try again. The lock is not held.
func (b *books) wake() {
	b.mu.Lock()
	pods := make(map[string]*v1.Pod, len(b.waiting))
	for uid, pod := range b.waiting {
		pods[string(uid)] = pod
	}
	b.mu.Unlock()
	if len(pods) > 0 {
		b.handle.Activate(klog.Background(), pods)
	}
}

// podSeen takes in what the API server says of a pod.
func (b *books) podSeen(was, is *v1.Pod) {
	asks := b.concerns(is)
	b.mu.Lock()
	b.seen.SetPod(is)
	if !asks {
		b.mu.Unlock()
		return
	}
	switch {
	case is.Spec.NodeName != "":
		delete(b.waiting, is.UID)
		delete(b.tried, is.UID)
		b.settle(is.UID)
	case b.waiting[is.UID] != nil:
		b.waiting[is.UID] = is
	}
	var found []gpubook.Conflict
	if was == nil || was.Spec.NodeName != is.Spec.NodeName || !maps.Equal(was.Annotations, is.Annotations) {
		b.changes++
		found = b.conflictsOn(is.Spec.NodeName)
	}
	b.mu.Unlock()
	b.tell(found)
}

func (b *books) podGone(pod *v1.Pod) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.seen.DeletePod(pod.UID)
	if b.concerns(pod) {
		b.changes++
		delete(b.waiting, pod.UID)
		delete(b.tried, pod.UID)
		delete(b.told, pod.UID)
		b.settle(pod.UID)
	}
}

func (b *books) nodeSeen(was, is *v1.Node) {
	b.mu.Lock()
	err := b.seen.SetNode(is)
	var found []gpubook.Conflict
	if was != nil && !same(was, is) {
		found = b.conflictsOn(is.Name)
	}
	b.mu.Unlock()
	if err != nil && (was == nil || !same(was, is)) {
		klog.Background().Info("GPUs are left out", "node", is.Name, "err", err)
		b.event(is, "GPUsLeftOut", err.Error())
	}
	b.tell(found)
}

// conflictsOn returns what is wrong on a node and has not been told. The lock is held.
func (b *books) conflictsOn(node string) []gpubook.Conflict {
	for _, synced := range b.synced {
		if !synced() {
			return nil // run looks at all of it then
		}
	}
	if node == "" {
		return nil
	}
	return b.untold(b.seen.ConflictsOn(node))
}

func (b *books) untold(all []gpubook.Conflict) []gpubook.Conflict {
	var out []gpubook.Conflict
	for _, c := range all {
		known := true
		for _, p := range c.Pods {
			if b.told[p.UID] == nil {
				b.told[p.UID] = map[string]bool{}
			}
			known = known && b.told[p.UID][c.UUID]
			b.told[p.UID][c.UUID] = true
		}
		if !known {
			out = append(out, c)
		}
	}
	return out
}

// tell makes conflicts known. The lock is not held.
func (b *books) tell(all []gpubook.Conflict) {
	for _, c := range all {
		kind := "pod without its GPUs"
		if c.UUID != "" {
			kind = "GPU given away twice"
		}
		conflicts.WithLabelValues(kind).Inc()
		klog.Background().Info("GPU conflict", "node", c.Node, "gpu", c.UUID, "what", c.Message)
		for _, p := range c.Pods {
			b.event(p, "GPUConflict", c.Message)
		}
	}
}

func (b *books) event(of runtime.Object, reason, message string) {
	if r := b.handle.EventRecorder(); r != nil {
		r.Eventf(of, nil, v1.EventTypeWarning, reason, "Scheduling", "%s", message)
	}
}

// run looks for conflicts once all is known, and keeps the scorer up to date.
func (b *books) run(ctx context.Context) {
	if !cache.WaitForCacheSync(ctx.Done(), b.synced...) {
		return
	}
	b.mu.Lock()
	found := b.untold(b.seen.Conflicts())
	b.mu.Unlock()
	b.tell(found)
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		b.rescore()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// rescore makes a scorer for the demands that there are, if they or the machines have
// changed. What takes long is done without the lock.
func (b *books) rescore() {
	b.mu.Lock()
	// 1. Is it worth while?
	n := b.now.Fleet().Len()
	old := time.Since(b.scored) > rescoreEvery
	if n == 0 || n == b.fleet && (b.changes == 0 || !old && b.changes*10 < len(b.waiting)+b.seen.Len()) {
		b.mu.Unlock()
		return
	}
	machines, shares := b.now.Capacities(), b.seen.Shares()
	b.changes, b.scored, b.fleet = 0, time.Now(), n
	b.mu.Unlock()

	// 2. The scorer of these demands.
	began := time.Now()
	s := gpu.NewNeap(machines, shares, 0)
	rescoreSeconds.Observe(time.Since(began).Seconds())

	b.mu.Lock()
	defer b.mu.Unlock()
	b.now.Fleet().Rescore(s)
}
