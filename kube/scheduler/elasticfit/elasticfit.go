// Package elasticfit is a scheduler plugin that keeps the pods of a workload in
// the pools that its ElasticPolicy says, in the policy's order and no more than
// planned in each. It requires where PoolOrder prefers.
//
//	a pool may take a pod while
//	    pods of the pod's ReplicaSet there < planned   (a plan that the scaler wrote)
//	    pods of the workload there         < max       (a limit that the policy sets)
//	    and some machine of it has room for the pod, within the pool's own limit
//
// The first pool of the order that may take a pod gets it; a pod that none may
// take waits and says why. Pods are counted when they are reserved, one after
// the other, so that no race between creates can overfill a pool.
//
// On machines of a pool with a guard, pods without a GPU hold no more than
// [elastic.SpareMachine.Lendable], and where a GPU pod needs more than that
// leaves, those that a policy placed there are preempted, whatever their priority
// up to that of the GPU pod.
//
// A bound pod gets its controller.kubernetes.io/pod-deletion-cost in the same
// write, so that there is no moment in which it has none.
//
// Where to enter: [New]. Not here: how many replicas there are and how many are
// planned in which pool (kube/controller/scaler), what leaves first afterwards
// (kube/controller/leaver).
package elasticfit

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	appslisters "k8s.io/client-go/listers/apps/v1"
	"k8s.io/client-go/tools/cache"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/elastic"
	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/core/workload"
	"github.com/neap-dev/neap/kube/convert"
	"github.com/neap-dev/neap/kube/scheduler/binding"
	"github.com/neap-dev/neap/kube/scheduler/kinds"
)

// Name is what a scheduler configuration calls the plugin.
const Name = "ElasticFit"

// Messages of nodes that may not take a pod.
const (
	ErrPool  = "machine(s) of a pool that the ElasticPolicy does not let take the pod now"
	ErrGuard = "machine(s) whose free room is kept for GPU pods"
)

// stateKey is where a cycle keeps its [choice].
const stateKey = "neap.dev/" + Name

// ElasticFit is the plugin.
type ElasticFit struct {
	handle   fwk.Handle
	declared *declared
	sets     appslisters.ReplicaSetLister
	stateful appslisters.StatefulSetLister
	book     *book
	yield    *yielder

	synced func() bool // the pods that existed are in the book

	mu sync.Mutex
	// waiting are the pods of every workload that have been looked at and are not
	// reserved yet.
	waiting map[workload.Key]map[types.UID]*v1.Pod
	// refused are the pools in which no machine took a pod in the cycles before.
	refused map[types.UID]sets.Set[string]
}

var (
	_ fwk.PreFilterPlugin   = (*ElasticFit)(nil)
	_ fwk.FilterPlugin      = (*ElasticFit)(nil)
	_ fwk.PostFilterPlugin  = (*ElasticFit)(nil)
	_ fwk.ReservePlugin     = (*ElasticFit)(nil)
	_ fwk.BindPlugin        = (*ElasticFit)(nil)
	_ fwk.EnqueueExtensions = (*ElasticFit)(nil)
	_ fwk.SignPlugin        = (*ElasticFit)(nil)
)

// New makes the plugin; it has no arguments. It returns when everything declared
// is known.
func New(ctx context.Context, _ runtime.Object, h fwk.Handle) (fwk.Plugin, error) {
	client, err := kinds.Connect(h.KubeConfig())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", Name, err)
	}
	f, err := newPlugin(ctx, h, newDeclared(client))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", Name, err)
	}
	if err := f.declared.start(ctx, client); err != nil {
		return nil, fmt.Errorf("%s: %w", Name, err)
	}
	return f, nil
}

func newPlugin(ctx context.Context, h fwk.Handle, d *declared) (*ElasticFit, error) {
	informers := h.SharedInformerFactory()
	f := &ElasticFit{
		handle: h, declared: d, book: newBook(),
		sets:     informers.Apps().V1().ReplicaSets().Lister(),
		stateful: informers.Apps().V1().StatefulSets().Lister(),
		waiting:  map[workload.Key]map[types.UID]*v1.Pod{},
		refused:  map[types.UID]sets.Set[string]{},
	}
	d.repooled = f.wakeAll
	var err error
	if f.yield, err = newYielder(ctx, f); err != nil {
		return nil, err
	}
	pods, err := informers.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { f.seen(obj.(*v1.Pod)) },
		UpdateFunc: func(_, obj any) { f.seen(obj.(*v1.Pod)) },
		DeleteFunc: func(obj any) {
			if t, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = t.Obj
			}
			if pod, ok := obj.(*v1.Pod); ok {
				f.gone(pod)
			}
		},
	})
	if err != nil {
		return nil, err
	}
	for _, of := range []cache.SharedIndexInformer{informers.Apps().V1().ReplicaSets().Informer(), informers.Apps().V1().StatefulSets().Informer()} {
		if _, err := of.AddEventHandler(cache.ResourceEventHandlerFuncs{UpdateFunc: f.changedSet}); err != nil {
			return nil, err
		}
	}
	f.synced = func() bool {
		return pods.HasSynced() && informers.Apps().V1().ReplicaSets().Informer().HasSynced()
	}
	_, err = d.policies.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { f.changed(obj.(*v1alpha1.ElasticPolicy)) },
		UpdateFunc: func(_, obj any) { f.changed(obj.(*v1alpha1.ElasticPolicy)) },
		DeleteFunc: func(obj any) {
			if t, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = t.Obj
			}
			if p, ok := obj.(*v1alpha1.ElasticPolicy); ok {
				f.changed(p)
			}
		},
	})
	return f, err
}

// Name implements [fwk.Plugin].
func (*ElasticFit) Name() string { return Name }

// owner is whom a pod belongs to.
type owner struct {
	workload workload.Key // such as the Deployment
	revision types.UID    // what made the pod, such as one ReplicaSet of it
}

// owner finds whom a pod belongs to; ok is false for a pod that nobody controls.
func (f *ElasticFit) owner(pod *v1.Pod) (owner, bool) {
	ref := metav1.GetControllerOf(pod)
	if ref == nil {
		return owner{}, false
	}
	var between convert.Owners
	if ref.Kind == "ReplicaSet" {
		if set, err := f.sets.ReplicaSets(pod.Namespace).Get(ref.Name); err == nil && set.UID == ref.UID {
			between.Put(set)
		}
	}
	return owner{between.Of(pod), ref.UID}, true
}

// policy finds whom a pod belongs to, and the ElasticPolicy that decides where it
// goes, or nil.
func (f *ElasticFit) policy(pod *v1.Pod) (owner, *v1alpha1.ElasticPolicy) {
	by, owned := f.owner(pod)
	if !owned || f.paused(pod) {
		return by, nil
	}
	return by, f.declared.policy(by.workload)
}

// paused reports whether somebody wants a pod's workload left alone. A
// ReplicaSet has the annotations of its Deployment.
func (f *ElasticFit) paused(pod *v1.Pod) bool {
	ref := metav1.GetControllerOf(pod)
	var of metav1.Object
	var err error
	switch ref.Kind {
	case "ReplicaSet":
		of, err = f.sets.ReplicaSets(pod.Namespace).Get(ref.Name)
	case "StatefulSet":
		of, err = f.stateful.StatefulSets(pod.Namespace).Get(ref.Name)
	default:
		return false
	}
	return err == nil && pauses(of)
}

func pauses(of metav1.Object) bool { return of.GetAnnotations()[v1alpha1.AnnotationPause] == "true" }

// seen keeps the book true to what the API server says of a pod.
func (f *ElasticFit) seen(pod *v1.Pod) {
	switch {
	case pod.DeletionTimestamp != nil || convert.Over(pod):
		f.gone(pod)
	case pod.Spec.NodeName != "":
		if by, ok := f.owner(pod); ok {
			f.book.put(pod, pod.Spec.NodeName, by)
			f.forget(pod, by.workload)
		}
	}
}

// gone frees a pod's place for those that wait.
func (f *ElasticFit) gone(pod *v1.Pod) {
	by, ok := f.owner(pod)
	if !ok {
		return
	}
	f.forget(pod, by.workload)
	if f.book.drop(pod.UID) {
		f.wake(by.workload)
	}
}

// changed wakes the pods that wait for a policy.
func (f *ElasticFit) changed(p *v1alpha1.ElasticPolicy) { f.wake(convert.ElasticTarget(p)) }

// changedSet wakes the pods that wait when somebody paused a workload, or no
// longer does.
func (f *ElasticFit) changedSet(was, is any) {
	if pauses(was.(metav1.Object)) != pauses(is.(metav1.Object)) {
		f.wakeAll()
	}
}

func (f *ElasticFit) wakeAll() {
	f.mu.Lock()
	keys := slices.Collect(maps.Keys(f.waiting))
	f.mu.Unlock()
	for _, key := range keys {
		f.wake(key)
	}
}

func (f *ElasticFit) wake(key workload.Key) {
	f.mu.Lock()
	pods := make(map[string]*v1.Pod, len(f.waiting[key]))
	for uid, pod := range f.waiting[key] {
		pods[string(uid)] = pod
		delete(f.refused, uid) // what was refused may be otherwise now
	}
	f.mu.Unlock()
	if len(pods) > 0 {
		f.handle.Activate(klog.Background(), pods)
	}
}

func (f *ElasticFit) await(pod *v1.Pod, key workload.Key) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.waiting[key] == nil {
		f.waiting[key] = map[types.UID]*v1.Pod{}
	}
	f.waiting[key][pod.UID] = pod
}

func (f *ElasticFit) forget(pod *v1.Pod, key workload.Key) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.refused, pod.UID)
	delete(f.waiting[key], pod.UID)
	if len(f.waiting[key]) == 0 {
		delete(f.waiting, key)
	}
}

// A choice is what one scheduling cycle decided for a pod.
type choice struct {
	owner owner
	pools []string // that may take it, by the plan
	tried string   // the only one of them that is tried in this cycle; "" if all are
	rank  map[string]int
}

// Clone implements [fwk.StateData].
func (c *choice) Clone() fwk.StateData { return c }

func chosen(state fwk.CycleState) *choice {
	if d, err := state.Read(stateKey); err == nil {
		return d.(*choice)
	}
	return nil
}

// PreFilter implements [fwk.PreFilterPlugin]: it chooses the pool.
func (f *ElasticFit) PreFilter(ctx context.Context, state fwk.CycleState, pod *v1.Pod, nodes []fwk.NodeInfo) (*fwk.PreFilterResult, *fwk.Status) {
	if !f.synced() && !cache.WaitForCacheSync(ctx.Done(), f.synced) {
		return nil, fwk.AsStatus(ctx.Err())
	}
	by, policy := f.policy(pod)
	if policy != nil {
		f.await(pod, by.workload)
		// Once more: what changed before the pod waited has not woken it.
		by, policy = f.policy(pod)
	}
	if policy == nil {
		if f.declared.guards() && borrows(pod) {
			return nil, nil
		}
		return nil, fwk.NewStatus(fwk.Skip)
	}
	pools := f.look(policy, by, pod, nodes)

	// 1. What the plan allows.
	c := &choice{owner: by, rank: map[string]int{}}
	var refusals []string
	for i, p := range pools {
		c.rank[p.name] = i
		if p.full == "" {
			c.pools = append(c.pools, p.name)
		} else {
			refusals = append(refusals, p.full)
		}
	}
	state.Write(stateKey, c)
	if len(c.pools) == 0 {
		return nil, fwk.NewStatus(fwk.UnschedulableAndUnresolvable, fmt.Sprintf(
			"ElasticPolicy %q: no pool may take the pod: %s", policy.Name, strings.Join(refusals, "; ")))
	}

	// 2. The first of them that has a machine for the pod and has not refused it.
	f.mu.Lock()
	refused := f.refused[pod.UID]
	f.mu.Unlock()
	open := sets.New[string]()
	var lacking []string
	for _, p := range pools {
		if p.full != "" {
			continue
		}
		if why := p.lacks(pod, f); why != "" {
			lacking = append(lacking, why)
			continue
		}
		open.Insert(p.names()...)
		if fits := p.fits; len(fits) > 0 && !refused.Has(p.name) {
			c.tried = p.name
			return &fwk.PreFilterResult{NodeNames: sets.New(fits...)}, nil
		}
	}
	// 3. None has: the other plugins say why of every machine that may be, and
	// whether preemption helps.
	if open.Len() == 0 {
		return nil, fwk.NewStatus(fwk.UnschedulableAndUnresolvable, fmt.Sprintf(
			"ElasticPolicy %q: %s", policy.Name, strings.Join(append(refusals, lacking...), "; ")))
	}
	return &fwk.PreFilterResult{NodeNames: open}, nil
}

// PreFilterExtensions implements [fwk.PreFilterPlugin]. Preemption does not
// change what a pool may hold: those who leave come back.
func (*ElasticFit) PreFilterExtensions() fwk.PreFilterExtensions { return nil }

// candidate is one pool of a policy, seen for one pod.
type candidate struct {
	convert.Pool
	name  string
	full  string // why the plan lets it take no more; "" if it does
	nodes []fwk.NodeInfo
	fits  []string // machines with room
}

func (c *candidate) names() []string {
	out := make([]string, len(c.nodes))
	for i, n := range c.nodes {
		out[i] = n.Node().Name
	}
	return out
}

// look finds the machines of a policy's pools and what the plan leaves of them.
func (f *ElasticFit) look(policy *v1alpha1.ElasticPolicy, by owner, pod *v1.Pod, nodes []fwk.NodeInfo) []*candidate {
	pools := make([]*candidate, len(policy.Spec.Pools))
	byName := make(map[string]*candidate, len(pools))
	for i, p := range policy.Spec.Pools {
		pools[i] = &candidate{name: p.Name}
		byName[p.Name] = pools[i]
	}
	for _, n := range nodes {
		pool := f.declared.pool(n.Node())
		if c := byName[pool.Name]; c != nil {
			c.Pool = pool
			c.nodes = append(c.nodes, n)
		}
	}
	planned := map[string]int{}
	for _, s := range policy.Status.Pools {
		planned[s.Name] = int(s.Planned)
	}
	ordinal, ordered := 0, false
	if by.workload.Kind == "StatefulSet" {
		ordinal, ordered = ordinalOf(pod)
	}
	before := 0 // planned in the pools before this one
	for i, p := range policy.Spec.Pools {
		c := pools[i]
		revision, all := f.book.on(by, c.names())
		plan, known := planned[p.Name]
		switch {
		case p.Max != nil && all >= int(*p.Max):
			c.full = fmt.Sprintf("pool %s has %d of at most %d", p.Name, all, *p.Max)
		case known && ordered && (ordinal < before || ordinal >= before+plan):
			c.full = fmt.Sprintf("pool %s is planned for %d from ordinal %d", p.Name, plan, before)
		case known && !ordered && revision >= plan:
			c.full = fmt.Sprintf("pool %s has %d of %d planned", p.Name, revision, plan)
		}
		before += plan
	}
	return pools
}

// ordinalOf returns the number of a StatefulSet's pod.
func ordinalOf(pod *v1.Pod) (int, bool) {
	n, err := strconv.Atoi(pod.Name[strings.LastIndexByte(pod.Name, '-')+1:])
	return n, err == nil && n >= 0
}

// lacks says why no machine of the pool can take the pod whoever leaves, or ""
// and notes the machines that have room.
func (c *candidate) lacks(pod *v1.Pod, f *ElasticFit) string {
	if len(c.nodes) == 0 {
		return fmt.Sprintf("pool %s has no machine", c.name)
	}
	request := convert.Request(pod)
	if c.Kind == v1alpha1.PoolServerless {
		if most := c.MaxPod(); !within(request, most) {
			return fmt.Sprintf("pool %s takes no pod of this size", c.name)
		}
		if _, limit, limited := c.Limit(); limited {
			var held resource.Vector
			for _, n := range c.nodes {
				held = held.Add(requested(n))
			}
			if !within(held.Add(request), limit) {
				return fmt.Sprintf("pool %s has used up its limit", c.name)
			}
		}
	}
	affinity := nodeaffinity.GetRequiredNodeAffinity(pod)
	for _, n := range c.nodes {
		if ok, err := affinity.Match(n.Node()); err != nil || !ok {
			continue
		}
		_, tainted := corev1helpers.FindMatchingUntoleratedTaint(klog.Background(), n.Node().Spec.Taints, pod.Spec.Tolerations, func(t *v1.Taint) bool {
			return t.Effect == v1.TaintEffectNoSchedule || t.Effect == v1.TaintEffectNoExecute
		}, false)
		if !tainted && room(n, request) && f.guarded(pod, n) == nil {
			c.fits = append(c.fits, n.Node().Name)
		}
	}
	return ""
}

// within reports whether amounts fit a limit, in which 0 limits nothing.
func within(v, limit resource.Vector) bool {
	for k := range v {
		if limit[k] > 0 && v[k] > limit[k] {
			return false
		}
	}
	return true
}

func requested(n fwk.NodeInfo) resource.Vector { return vector(n.GetRequested()) }

func vector(r fwk.Resource) resource.Vector {
	return resource.Vector{
		resource.CPU: r.GetMilliCPU(), resource.Memory: r.GetMemory(),
		resource.GPU: r.GetScalarResources()[v1alpha1.ResourceGPU] * 1000,
	}
}

// room reports whether a node has what a pod asks for, and a place for it. Other
// resources than those that Neap accounts for are left to their own plugins.
func room(n fwk.NodeInfo, request resource.Vector) bool {
	return len(n.GetPods()) < n.GetAllocatable().GetAllowedPodNumber() &&
		requested(n).Add(request).Fits(vector(n.GetAllocatable()))
}

// Filter implements [fwk.FilterPlugin].
func (f *ElasticFit) Filter(_ context.Context, state fwk.CycleState, pod *v1.Pod, node fwk.NodeInfo) *fwk.Status {
	if c := chosen(state); c != nil {
		// A nominated node comes here whatever PreFilter said.
		pool := f.declared.pool(node.Node()).Name
		if pool == "" || (c.tried != "" && pool != c.tried) || !slices.Contains(c.pools, pool) {
			return fwk.NewStatus(fwk.UnschedulableAndUnresolvable, ErrPool)
		}
	}
	return f.guarded(pod, node)
}

// borrows reports whether a pod on a GPU machine uses what is spare there: it has
// no GPU, and is not part of every machine.
func borrows(pod *v1.Pod) bool {
	c := metav1.GetControllerOf(pod)
	return convert.Request(pod)[resource.GPU] == 0 && (c == nil || c.Kind != "DaemonSet" && c.Kind != "Node")
}

// guarded refuses pods without a GPU what is kept for GPU pods.
func (f *ElasticFit) guarded(pod *v1.Pod, node fwk.NodeInfo) *fwk.Status {
	keep := f.declared.pool(node.Node()).Guard()
	if keep.IsZero() || !borrows(pod) {
		return nil
	}
	m := elastic.SpareMachine{Allocatable: vector(node.GetAllocatable()), PerGPU: keep}
	held := convert.Request(pod)
	for _, p := range node.GetPods() {
		r := convert.Request(p.GetPod())
		if r[resource.GPU] > 0 {
			m.GPUPods = m.GPUPods.Add(r)
		} else {
			held = held.Add(r)
		}
	}
	if held.Fits(m.Lendable()) {
		return nil
	}
	return fwk.NewStatus(fwk.Unschedulable, ErrGuard)
}

// PostFilter implements [fwk.PostFilterPlugin]. A pod of a policy goes on to the
// next pool; for a GPU pod, pods leave that only use what is spare.
func (f *ElasticFit) PostFilter(ctx context.Context, state fwk.CycleState, pod *v1.Pod, nodes fwk.NodeToStatusReader) (*fwk.PostFilterResult, *fwk.Status) {
	if c := chosen(state); c != nil && c.tried != "" {
		f.mu.Lock()
		if f.refused[pod.UID] == nil {
			f.refused[pod.UID] = sets.New[string]()
		}
		f.refused[pod.UID].Insert(c.tried)
		f.mu.Unlock()
		f.handle.Activate(klog.FromContext(ctx), map[string]*v1.Pod{string(pod.UID): pod})
		// No preemption yet: the next pool may have room.
		return nil, fwk.NewStatus(fwk.UnschedulableAndUnresolvable, fmt.Sprintf("no machine of pool %s took the pod; the next is tried", c.tried))
	}
	f.mu.Lock()
	delete(f.refused, pod.UID) // all have been tried
	f.mu.Unlock()
	if convert.Request(pod)[resource.GPU] > 0 {
		return f.yield.preempt(ctx, state, pod, nodes)
	}
	return nil, fwk.NewStatus(fwk.Unschedulable)
}

// Reserve implements [fwk.ReservePlugin]: from now on the pod counts, and it is known
// what its binding says.
func (f *ElasticFit) Reserve(_ context.Context, state fwk.CycleState, pod *v1.Pod, node string) *fwk.Status {
	if slices.Contains(pod.Spec.ReadinessGates, v1.PodReadinessGate{ConditionType: v1alpha1.ReadinessServing}) {
		binding.Before(state, func(ctx context.Context) error { return f.open(ctx, pod) })
	}
	by, ok := f.owner(pod)
	if !ok {
		return nil
	}
	f.book.put(pod, node, by)
	c := chosen(state)
	if c == nil || by.workload.Kind == "StatefulSet" {
		return nil // a StatefulSet's pods leave by ordinal
	}
	info, err := f.handle.SnapshotSharedLister().NodeInfos().Get(node)
	if err != nil {
		return nil // the leaver writes the cost then
	}
	have, held := vector(info.GetAllocatable()), requested(info).Add(convert.Request(pod))
	fullness := 0.0
	for _, k := range []resource.Kind{resource.CPU, resource.Memory} {
		if have[k] > 0 {
			fullness = max(fullness, float64(held[k])/float64(have[k]))
		}
	}
	cost := elastic.DeletionCost(c.rank[f.declared.pool(info.Node()).Name], len(c.rank), min(fullness, 1))
	binding.Annotate(state, v1.PodDeletionCost, strconv.Itoa(int(cost)))
	return nil
}

// Unreserve implements [fwk.ReservePlugin].
func (f *ElasticFit) Unreserve(_ context.Context, _ fwk.CycleState, pod *v1.Pod, _ string) {
	if by, ok := f.owner(pod); ok && f.book.drop(pod.UID) {
		f.wake(by.workload)
	}
}

// opened is the readiness gate of a pod that has not been cut off.
const opened = `{"status":{"conditions":[{"type":"` + v1alpha1.ReadinessServing + `","status":"True","reason":"Serves"}]}}`

// open opens the gate by which a pod may be cut off later, before it is bound: no
// pod waits for the controller to become ready.
func (f *ElasticFit) open(ctx context.Context, pod *v1.Pod) error {
	_, err := f.handle.ClientSet().CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, []byte(opened), metav1.PatchOptions{}, "status")
	return err
}

// Bind implements [fwk.BindPlugin]. The deletion cost is part of the binding, so
// that it needs no write of its own.
func (f *ElasticFit) Bind(ctx context.Context, state fwk.CycleState, pod *v1.Pod, node string) *fwk.Status {
	return binding.Bind(ctx, f.handle, state, pod, node)
}

// EventsToRegister implements [fwk.EnqueueExtensions]. That a policy changed or a
// pod of the same workload left, the plugin sees itself.
func (f *ElasticFit) EventsToRegister(context.Context) ([]fwk.ClusterEventWithHint, error) {
	return []fwk.ClusterEventWithHint{
		{Event: fwk.ClusterEvent{Resource: fwk.Node, ActionType: fwk.Add | fwk.UpdateNodeAllocatable | fwk.UpdateNodeLabel | fwk.UpdateNodeTaint}},
		{Event: fwk.ClusterEvent{Resource: fwk.Pod, ActionType: fwk.Delete}, QueueingHintFn: f.afterPodLeft},
	}, nil
}

// afterPodLeft tries again when a pod left a machine that is guarded or of a pool
// with a limit.
func (f *ElasticFit) afterPodLeft(_ klog.Logger, _ *v1.Pod, was, _ any) (fwk.QueueingHint, error) {
	left, ok := was.(*v1.Pod)
	if !ok || left.Spec.NodeName == "" {
		return fwk.QueueSkip, nil
	}
	node, err := f.handle.SharedInformerFactory().Core().V1().Nodes().Lister().Get(left.Spec.NodeName)
	if err != nil {
		return fwk.Queue, nil // the machine has left too, and nobody knows its pool
	}
	pool := f.declared.pool(node)
	if _, _, limited := pool.Limit(); pool.Guard().IsZero() && !(limited && pool.Kind == v1alpha1.PoolServerless) {
		return fwk.QueueSkip, nil
	}
	return fwk.Queue, nil
}

// SignPod implements [fwk.SignPlugin]: what one pod of a policy is told does not
// hold for the next.
func (f *ElasticFit) SignPod(_ context.Context, pod *v1.Pod) ([]fwk.SignFragment, *fwk.Status) {
	if by, ok := f.owner(pod); ok && f.declared.policy(by.workload) != nil {
		return nil, fwk.NewStatus(fwk.Unschedulable, "its ElasticPolicy counts every pod")
	}
	return nil, nil
}
