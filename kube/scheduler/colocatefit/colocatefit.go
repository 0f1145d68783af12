// Package colocatefit is a scheduler plugin that places batch pods where they fit
// for as long as they run, and online pods where the machine's own peak leaves room
// for theirs.
//
//	batch    fits while, in every step of the node's curve from now to the pod's
//	         expected end, room ≥ its request + those of the batch pods still there
//	online   prefers nodes by machine − the highest, over the quarters of the day to
//	         come, of (use foreseen + its own peak at that hour + those of what has
//	         come since)
//
// The curve is the annotation neap.dev/batch-capacity, which the controller renews
// every minute; one that it does not renew lends nothing. A pod's run time is what
// the pod says, else what its owner's pods took ([convert.LearntRunTimes]), else the
// policy's default. Whether a pod fits is [colocate.Admit]'s word. A pod's peak is what
// was learnt of its owner's pods, else its request ([convert.PodPeak]).
//
// The pods of a node are those of the scheduler's own snapshot, in which every pod
// is that was placed before, so that racing creates overfill nothing; and just before
// a pod is reserved, the newest curve is asked again.
//
// No online pod is refused and none is moved: its requests hold as ever. Where to
// enter: [New]. Not here: what a machine may lend (core/colocate, written down by
// kube/controller), how batch is held back on the machine (host/agent).
package colocatefit

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/colocate"
	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/core/workload"
	"github.com/neap-dev/neap/kube/convert"
	"github.com/neap-dev/neap/kube/scheduler/kinds"
)

// Name is what a scheduler configuration calls the plugin.
const Name = "ColocateFit"

// Messages of nodes that may not take a batch pod.
const (
	ErrNone   = "machine(s) that lend nothing to batch pods"
	ErrStale  = "machine(s) whose batch capacity nobody renews"
	ErrBroken = "machine(s) whose batch capacity cannot be read"
	ErrFull   = "machine(s) without room for a batch pod of this size now"
	ErrFalls  = "machine(s) whose room for batch ends before the pod would"
)

// stateKey is where a cycle keeps the pod as a task.
const stateKey = "neap.dev/" + Name

// usual is how long a batch pod is taken to run where no policy says it.
const usual = time.Hour

// ahead is how far online's peak is looked for.
const ahead = 24 * time.Hour

// ColocateFit is the plugin.
type ColocateFit struct {
	handle fwk.Handle
	nodes  corelisters.NodeLister
	synced func() bool
	now    func() time.Time

	policies cache.SharedIndexInformer

	mu      sync.RWMutex
	learnt  map[workload.Key]time.Duration
	peaks   map[workload.Key]convert.Peak
	version int // of learnt, and of the policies' default run times
	seen    map[string]view
	days    map[string]day
}

// A view is what was last read of a node.
type view struct {
	raw        string // the annotation
	generation int64
	version    int
	capacity   convert.BatchCapacity
	err        error
	running    []colocate.Task
}

var (
	_ fwk.PreFilterPlugin   = (*ColocateFit)(nil)
	_ fwk.FilterPlugin      = (*ColocateFit)(nil)
	_ fwk.PostFilterPlugin  = (*ColocateFit)(nil)
	_ fwk.PreScorePlugin    = (*ColocateFit)(nil)
	_ fwk.ScorePlugin       = (*ColocateFit)(nil)
	_ fwk.ReservePlugin     = (*ColocateFit)(nil)
	_ fwk.EnqueueExtensions = (*ColocateFit)(nil)
	_ fwk.SignPlugin        = (*ColocateFit)(nil)
)

// New makes the plugin; it has no arguments. It returns when the policies are known.
func New(ctx context.Context, _ runtime.Object, h fwk.Handle) (fwk.Plugin, error) {
	client, err := kinds.Connect(h.KubeConfig())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", Name, err)
	}
	f, err := newPlugin(h, kinds.Informer(client, "colocationpolicies", &v1alpha1.ColocationPolicy{}, cache.Indexers{}))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", Name, err)
	}
	if err := kinds.Follow(ctx, client, map[string]cache.SharedIndexInformer{"colocationpolicies": f.policies}); err != nil {
		return nil, fmt.Errorf("%s: %w", Name, err)
	}
	return f, nil
}

func newPlugin(h fwk.Handle, policies cache.SharedIndexInformer) (*ColocateFit, error) {
	nodes := h.SharedInformerFactory().Core().V1().Nodes()
	f := &ColocateFit{
		handle: h, nodes: nodes.Lister(), now: time.Now, policies: policies,
		seen: map[string]view{}, days: map[string]day{},
	}
	learn := func(any) { f.learn() }
	_, err := policies.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: learn, UpdateFunc: func(_, _ any) { f.learn() }, DeleteFunc: learn})
	if err != nil {
		return nil, err
	}
	follow, err := nodes.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { f.tell(obj.(*v1.Node)) },
		UpdateFunc: func(_, obj any) { f.tell(obj.(*v1.Node)) },
		DeleteFunc: func(obj any) {
			if t, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = t.Obj
			}
			if node, ok := obj.(*v1.Node); ok {
				f.mu.Lock()
				defer f.mu.Unlock()
				delete(f.seen, node.Name)
				delete(f.days, node.Name)
			}
		},
	})
	if err != nil {
		return nil, err
	}
	f.synced = follow.HasSynced
	return f, nil
}

// Name implements [fwk.Plugin].
func (*ColocateFit) Name() string { return Name }

// learn takes over what policies know of run times and peaks.
func (f *ColocateFit) learn() {
	var all []*v1alpha1.ColocationPolicy
	for _, obj := range f.policies.GetStore().List() {
		all = append(all, obj.(*v1alpha1.ColocationPolicy))
	}
	learnt, peaks := convert.LearntRunTimes(all...), convert.LearntPeaks(all...)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.learnt, f.peaks = learnt, peaks
	f.version++
}

// usual is how long a pod is taken to run under a policy where nothing is known.
func (f *ColocateFit) usual(policy string) time.Duration {
	obj, ok, err := f.policies.GetStore().GetByKey(policy)
	if err != nil || !ok {
		return usual
	}
	d, err := time.ParseDuration(obj.(*v1alpha1.ColocationPolicy).Spec.Capacity.DefaultRunTime)
	if err != nil || d <= 0 {
		return usual
	}
	return d
}

// task returns the task that a pod is on a node of a policy.
func (f *ColocateFit) task(pod *v1.Pod, policy string) colocate.Task {
	var owners convert.Owners
	f.mu.RLock()
	learnt := f.learnt
	f.mu.RUnlock()
	return convert.BatchTask(pod, owners.Of(pod), learnt, f.usual(policy))
}

// look returns what a node lends, and the batch pods there but for one.
func (f *ColocateFit) look(node fwk.NodeInfo, but *v1.Pod) (convert.BatchCapacity, []colocate.Task, error) {
	object := node.Node()
	raw, has := object.Annotations[v1alpha1.AnnotationBatchCapacity]
	if !has {
		return convert.BatchCapacity{}, nil, convert.ErrNoBatchCapacity
	}
	f.mu.RLock()
	v, known := f.seen[object.Name]
	version := f.version
	f.mu.RUnlock()
	if !known || v.raw != raw {
		v.raw, v.generation = raw, -1
		v.capacity, v.err = convert.ParseBatchCapacity(raw)
	}
	if v.err == nil && (v.generation != node.GetGeneration() || v.version != version) {
		v.generation, v.version, v.running = node.GetGeneration(), version, nil
		for _, p := range node.GetPods() {
			if pod := p.GetPod(); convert.Batch(pod) && pod.UID != but.UID {
				v.running = append(v.running, f.task(pod, v.capacity.Policy))
			}
		}
		f.mu.Lock()
		f.seen[object.Name] = v
		f.mu.Unlock()
	}
	return v.capacity, v.running, v.err
}

// verdict says whether a batch pod fits on a node, and if not the message.
func (f *ColocateFit) verdict(pod *v1.Pod, node fwk.NodeInfo) (colocate.Verdict, string) {
	c, running, err := f.look(node, pod)
	switch {
	case errors.Is(err, convert.ErrNoBatchCapacity):
		return colocate.Verdict{Why: err.Error()}, ErrNone
	case err != nil:
		return colocate.Verdict{Why: err.Error()}, ErrBroken
	}
	now, running, fresh := f.clock(node.Node(), c, running)
	if !fresh {
		return colocate.Verdict{Why: fmt.Sprintf("what it lends was decided at %s and nobody has renewed it: is Neap's controller running, and are the clocks right?", c.At.UTC().Format(time.RFC3339))}, ErrStale
	}
	v := colocate.Admit(c.Curve(), now, f.task(pod, c.Policy), running)
	switch {
	case v.Fits:
		return v, ""
	case v.Until.After(now):
		return v, ErrFalls
	}
	return v, ErrFull
}

// asked marks a cycle as that of a batch pod.
type asked struct{}

// Clone implements [fwk.StateData].
func (a asked) Clone() fwk.StateData { return a }

// PreFilter implements [fwk.PreFilterPlugin]: online pods go anywhere.
func (f *ColocateFit) PreFilter(ctx context.Context, state fwk.CycleState, pod *v1.Pod, _ []fwk.NodeInfo) (*fwk.PreFilterResult, *fwk.Status) {
	if !convert.Batch(pod) {
		return nil, fwk.NewStatus(fwk.Skip)
	}
	if !f.synced() && !cache.WaitForCacheSync(ctx.Done(), f.synced) {
		return nil, fwk.AsStatus(ctx.Err())
	}
	state.Write(stateKey, asked{})
	return nil, nil
}

// PreFilterExtensions implements [fwk.PreFilterPlugin]: nothing is kept that pods on
// a node change.
func (*ColocateFit) PreFilterExtensions() fwk.PreFilterExtensions { return nil }

// Filter implements [fwk.FilterPlugin].
func (f *ColocateFit) Filter(_ context.Context, _ fwk.CycleState, pod *v1.Pod, node fwk.NodeInfo) *fwk.Status {
	_, message := f.verdict(pod, node)
	switch message {
	case "":
		return nil
	case ErrFull, ErrFalls:
		return fwk.NewStatus(fwk.Unschedulable, message)
	}
	return fwk.NewStatus(fwk.UnschedulableAndUnresolvable, message)
}

// PostFilter implements [fwk.PostFilterPlugin]: it says of the node that comes
// closest what is missing there.
func (f *ColocateFit) PostFilter(_ context.Context, state fwk.CycleState, pod *v1.Pod, statuses fwk.NodeToStatusReader) (*fwk.PostFilterResult, *fwk.Status) {
	if _, err := state.Read(stateKey); err != nil {
		return nil, fwk.NewStatus(fwk.Unschedulable)
	}
	nodes, err := f.handle.SnapshotSharedLister().NodeInfos().List()
	if err != nil {
		return nil, fwk.AsStatus(err)
	}
	best, why, least := "", "", int64(0)
	for _, node := range nodes {
		name := node.Node().Name
		if statuses.Get(name).Plugin() != Name {
			continue // others do not let it there
		}
		v, message := f.verdict(pod, node)
		short := v.Short.CPUMilli + v.Short.MemoryMiB // the same for both, as good as any
		if message == "" || message != ErrFull && message != ErrFalls {
			short = 1 << 60
		}
		if best == "" || short < least || short == least && name < best {
			best, why, least = name, v.Why, short
		}
	}
	if best == "" {
		return nil, fwk.NewStatus(fwk.Unschedulable)
	}
	return nil, fwk.NewStatus(fwk.Unschedulable, fmt.Sprintf("%s comes closest: %s", best, why))
}

// PreScore implements [fwk.PreScorePlugin]: where no node says anything of batch,
// there is nothing to prefer.
func (f *ColocateFit) PreScore(_ context.Context, _ fwk.CycleState, _ *v1.Pod, nodes []fwk.NodeInfo) *fwk.Status {
	for _, n := range nodes {
		if _, ok := n.Node().Annotations[v1alpha1.AnnotationBatchCapacity]; ok {
			return nil
		}
	}
	return fwk.NewStatus(fwk.Skip)
}

// Score implements [fwk.ScorePlugin].
func (f *ColocateFit) Score(_ context.Context, _ fwk.CycleState, pod *v1.Pod, node fwk.NodeInfo) (int64, *fwk.Status) {
	c, running, err := f.look(node, pod)
	now, running, fresh := f.clock(node.Node(), c, running)
	known := err == nil && fresh
	if convert.Batch(pod) {
		if !known {
			return 0, nil
		}
		return batchScore(c, now, f.task(pod, c.Policy), running), nil
	}
	machine := node.GetAllocatable().GetMilliCPU()
	if known {
		if peak, ok := c.OnlineWith(f.coming(node, c, pod, now), now, now.Add(ahead)); ok {
			return share(machine-peak-c.Terms.Unmeasured, machine), nil
		}
	}
	return share(machine-node.GetRequested().GetMilliCPU()-convert.Request(pod)[resource.CPU], machine), nil
}

// ScoreExtensions implements [fwk.ScorePlugin].
func (*ColocateFit) ScoreExtensions() fwk.ScoreExtensions { return nil }

// batchScore is how much of the room over the pod's run is left beside all.
func batchScore(c convert.BatchCapacity, now time.Time, asks colocate.Task, running []colocate.Task) int64 {
	room := c.Curve().Least(now, now.Add(asks.Remaining(now)))
	left := room.Sub(asks.Need)
	for _, t := range running {
		left = left.Sub(t.Need)
	}
	return share(left.CPUMilli, room.CPUMilli)
}

// share is part of whole as a score.
func share(part, whole int64) int64 {
	if whole <= 0 || part <= 0 {
		return fwk.MinScore
	}
	return min(part, whole) * fwk.MaxScore / whole
}

// coming is what a pod and the online pods that came after the curve was decided, so
// that it does not foresee them, use at most in each hour of the day.
func (f *ColocateFit) coming(node fwk.NodeInfo, c convert.BatchCapacity, asks *v1.Pod, now time.Time) convert.DayHours {
	f.mu.RLock()
	learnt := f.peaks
	f.mu.RUnlock()
	decided := f.decided(node.Node(), c)
	total := convert.PodPeak(asks, learnt, now)
	for _, p := range node.GetPods() {
		pod := p.GetPod()
		if convert.Batch(pod) || pod.UID == asks.UID {
			continue
		}
		if at, ok := convert.Bound(pod); !ok || at.After(decided) || pod.Status.StartTime == nil {
			for h, v := range convert.PodPeak(pod, learnt, now) {
				total[h] += v
			}
		}
	}
	return total
}

// Reserve implements [fwk.ReservePlugin]: what the node lends may have fallen since
// the snapshot was taken.
func (f *ColocateFit) Reserve(_ context.Context, state fwk.CycleState, pod *v1.Pod, name string) *fwk.Status {
	if _, err := state.Read(stateKey); err != nil {
		return nil
	}
	newest, err := f.nodes.Get(name)
	if err != nil {
		return fwk.NewStatus(fwk.Unschedulable, fmt.Sprintf("machine %s is gone", name))
	}
	node, err := f.handle.SnapshotSharedLister().NodeInfos().Get(name)
	if err != nil {
		return fwk.AsStatus(err)
	}
	if newest.Annotations[v1alpha1.AnnotationBatchCapacity] == node.Node().Annotations[v1alpha1.AnnotationBatchCapacity] {
		return nil
	}
	node = node.Snapshot()
	node.SetNode(newest)
	if v, message := f.verdict(pod, node); message != "" {
		return fwk.NewStatus(fwk.Unschedulable, fmt.Sprintf("machine %s lends less than a moment ago: %s", name, v.Why))
	}
	return nil
}

// Unreserve implements [fwk.ReservePlugin]: nothing was written down.
func (*ColocateFit) Unreserve(context.Context, fwk.CycleState, *v1.Pod, string) {}

// EventsToRegister implements [fwk.EnqueueExtensions].
func (f *ColocateFit) EventsToRegister(context.Context) ([]fwk.ClusterEventWithHint, error) {
	return []fwk.ClusterEventWithHint{
		{Event: fwk.ClusterEvent{Resource: fwk.Node, ActionType: fwk.Add | fwk.UpdateNodeAnnotation}, QueueingHintFn: f.afterNodeChanged},
		{Event: fwk.ClusterEvent{Resource: fwk.Pod, ActionType: fwk.Delete}, QueueingHintFn: f.afterPodLeft},
	}, nil
}

// afterNodeChanged tries again when a node lends more than it did, and enough.
func (f *ColocateFit) afterNodeChanged(_ klog.Logger, pod *v1.Pod, was, is any) (fwk.QueueingHint, error) {
	node, ok := is.(*v1.Node)
	if !ok {
		return fwk.Queue, nil
	}
	c, err := convert.NodeBatchCapacity(node)
	if err != nil {
		return fwk.QueueSkip, nil
	}
	asks := f.task(pod, c.Policy)
	room := c.Curve().Least(c.At, c.At.Add(asks.Remaining(c.At)))
	if !asks.Need.Fits(room) {
		return fwk.QueueSkip, nil
	}
	if old, ok := was.(*v1.Node); ok {
		before, err := convert.NodeBatchCapacity(old)
		if err == nil && room.Fits(before.Curve().Least(before.At, before.At.Add(asks.Remaining(before.At)))) && c.At.Before(before.Until) {
			return fwk.QueueSkip, nil
		}
	}
	return fwk.Queue, nil
}

// afterPodLeft tries again when a batch pod left a node.
func (*ColocateFit) afterPodLeft(_ klog.Logger, _ *v1.Pod, was, _ any) (fwk.QueueingHint, error) {
	if left, ok := was.(*v1.Pod); ok && (left.Spec.NodeName == "" || !convert.Batch(left)) {
		return fwk.QueueSkip, nil
	}
	return fwk.Queue, nil
}

// SignPod implements [fwk.SignPlugin]: every batch pod takes of the room that the
// next is told, and online pods whose peak is known are alike if they have one owner.
func (f *ColocateFit) SignPod(_ context.Context, pod *v1.Pod) ([]fwk.SignFragment, *fwk.Status) {
	if convert.Batch(pod) {
		return nil, fwk.NewStatus(fwk.Unschedulable, "every batch pod takes of the room of the next")
	}
	var owners convert.Owners
	owner := owners.Of(pod)
	f.mu.RLock()
	defer f.mu.RUnlock()
	if _, known := f.peaks[owner]; !known {
		return nil, nil
	}
	return []fwk.SignFragment{{Key: stateKey + ".owner", Value: owner}}, nil
}
