// Package gpufit is a scheduler plugin that decides on which machine, and on which
// of its GPUs, a pod runs that asks for pieces of GPUs, as core/gpu says.
//
//	PreFilter   the best few machines, in the order of [gpu.Fleet.Best]
//	Score       the first of them that other plugins let pass gets everything
//	Reserve     the GPUs, in the books from now on
//	Bind        one request binds the pod and writes which GPUs it has
//
// Where none of the best machines passes, all that have room are tried next. Pods
// without GPUs are steered to machines without GPUs, and among machines with them
// to where they do least harm.
//
// The books are read from the scheduler's own snapshot at the beginning of each
// cycle: what is assumed, bound, forgotten or gone there is so here, and whatever
// wakes pods for the scheduler comes after its snapshot knows. A second pair of books
// says what the API server says: just before a pod is bound its GPUs are looked up
// there again, and a GPU that somebody gave away twice, a pod bound without GPUs or
// one whose GPU is gone is told as an event of the pod and counted.
//
// Where to enter: [Plugin]. Not here: what pods ask for (kube/convert), the books
// (kube/gpubook), and moving pods (kube/controller/repacker).
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
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/gpu"
	"github.com/neap-dev/neap/kube/convert"
	"github.com/neap-dev/neap/kube/gpubook"
	"github.com/neap-dev/neap/kube/scheduler/binding"
)

// Name is what a scheduler configuration calls the plugin.
const Name = "GPUFit"

// Messages of nodes that may not take a pod.
const (
	ErrGPU    = "machine(s) without the GPUs that the pod asks for"
	ErrNoRoom = "machine(s) without room on their GPUs"
)

const (
	// stateKey is where a cycle keeps its [choice].
	stateKey = "neap.dev/" + Name
	// most is how many machines are tried before all are.
	most = 16
	// doubt is how long GPUs are kept for a pod of which the API server has not said
	// whether it is bound: longer than it works on any request.
	doubt = time.Minute
)

// What NormalizeScore gives to machines for pods without GPUs: with the weight that
// the README advises, more than what spreads pods over machines, and less than what a
// pod says that it prefers.
const (
	scoreWithoutGPUs = fwk.MaxScore
	scoreBestOfGPUs  = 85
	scoreOfGPUs      = 70
)

// GPUFit is the plugin for one profile of a scheduler. Its books are those of all
// profiles.
type GPUFit struct {
	*books
	handle fwk.Handle
	look   sync.Once
	unfit  error // why the profile cannot place pods with claims; nil: it can
}

var (
	_ fwk.PreFilterPlugin     = (*GPUFit)(nil)
	_ fwk.PreFilterExtensions = (*GPUFit)(nil)
	_ fwk.FilterPlugin        = (*GPUFit)(nil)
	_ fwk.PostFilterPlugin    = (*GPUFit)(nil)
	_ fwk.PreScorePlugin      = (*GPUFit)(nil)
	_ fwk.ScorePlugin         = (*GPUFit)(nil)
	_ fwk.ScoreExtensions     = (*GPUFit)(nil)
	_ fwk.ReservePlugin       = (*GPUFit)(nil)
	_ fwk.BindPlugin          = (*GPUFit)(nil)
	_ fwk.EnqueueExtensions   = (*GPUFit)(nil)
	_ fwk.SignPlugin          = (*GPUFit)(nil)
)

// Plugin returns what makes the plugin, for one scheduler with all its profiles. It
// has no arguments.
func Plugin() func(context.Context, runtime.Object, fwk.Handle) (fwk.Plugin, error) {
	var mu sync.Mutex
	var shared *books
	return func(ctx context.Context, _ runtime.Object, h fwk.Handle) (fwk.Plugin, error) {
		mu.Lock()
		defer mu.Unlock()
		if shared == nil {
			b, err := newBooks(ctx, h)
			if err == nil {
				err = b.start(ctx, h)
			}
			if err != nil {
				return nil, fmt.Errorf("%s: %w", Name, err)
			}
			shared = b
		}
		return &GPUFit{books: shared, handle: h}, nil
	}
}

// Name implements [fwk.Plugin].
func (*GPUFit) Name() string { return Name }

// A choice is what one scheduling cycle decided for a pod.
type choice struct {
	demands []gpu.Demand
	first   bool           // not all machines with room are tried in this cycle
	rank    map[string]int // of the machines that are tried, best first; nil for pods without GPUs
	hint    *gpubook.Hint  // where a plan wants the pod; nil: nowhere
	best    string         // machine with GPUs for a pod without
	// changed are machines as they would be without pods that may be preempted.
	changed map[string]gpu.Machine
	has     *v1alpha1.GPUAllocation
	pins    pins // for a pod that asks by a claim; else nil
}

// Clone implements [fwk.StateData].
func (c *choice) Clone() fwk.StateData {
	out := *c
	out.changed = maps.Clone(c.changed)
	return &out
}

func chosen(state fwk.CycleState) *choice {
	if d, err := state.Read(stateKey); err == nil {
		return d.(*choice)
	}
	return nil
}

// PreFilter implements [fwk.PreFilterPlugin]: it chooses the machines.
func (f *GPUFit) PreFilter(ctx context.Context, state fwk.CycleState, pod *v1.Pod, nodes []fwk.NodeInfo) (*fwk.PreFilterResult, *fwk.Status) {
	if !f.concerns(pod) {
		return nil, fwk.NewStatus(fwk.Skip)
	}
	if err := f.ready(ctx); err != nil {
		return nil, fwk.AsStatus(err)
	}
	began := time.Now()
	defer func() { decisionSeconds.Observe(time.Since(began).Seconds()) }()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sync(nodes)
	f.waiting[pod.UID] = pod

	// 1. What it asks for, and whether any GPU could ever do.
	demands, offered, err := f.asked(ctx, pod)
	if _, again := err.(unsaid); again {
		return nil, fwk.AsStatus(err)
	}
	if err != nil {
		return nil, fwk.NewStatus(fwk.UnschedulableAndUnresolvable, err.Error())
	}
	if len(demands) == 0 {
		return nil, fwk.NewStatus(fwk.Skip)
	}
	c := &choice{demands: demands}
	state.Write(stateKey, c)
	fleet := f.now.FleetFor(pod)
	may := f.may(pod)
	if offered != nil {
		c.pins = pins{}
		state.Write(pinsKey, c.pins)
		may = f.among(may, offered)
	}

	// 2. Where a plan wants it, if it fits there.
	again := f.tried[pod.UID]
	if !again {
		if s, ok := f.now.Hinted(pod, demands); ok && may(s.Machine) && f.pin(c, s.Demand, s.Spot, offered) {
			c.hint, c.first = &s, true
			c.rank = map[string]int{f.now.Node(s.Machine): 0}
			return &fwk.PreFilterResult{NodeNames: sets.KeySet(c.rank)}, nil
		}
	}

	// 3. The best machines, or, where those were refused, all with room.
	k := most
	if again {
		k = fleet.Len()
	}
	best := fleet.Best(demands, k, may)
	if len(best) == 0 {
		return nil, fwk.NewStatus(fwk.Unschedulable, f.why(fleet, demands, may))
	}
	c.first = !again && len(best) == most
	c.rank = make(map[string]int, len(best))
	for i, b := range best {
		if f.pin(c, b.Alternative, b.Spot, offered) {
			c.rank[f.now.Node(b.Spot.Machine)] = i
		}
	}
	return &fwk.PreFilterResult{NodeNames: sets.KeySet(c.rank)}, nil
}

// may returns whether a machine of the fleet is one that the pod selects and
// tolerates. Other plugins say so too; here it keeps machines that are out of the
// question from being among the best.
func (f *books) may(pod *v1.Pod) func(int) bool {
	affinity := nodeaffinity.GetRequiredNodeAffinity(pod)
	return func(machine int) bool {
		node := f.now.Object(machine)
		if node == nil {
			return false
		}
		if ok, err := affinity.Match(node); err != nil || !ok {
			return false
		}
		_, tainted := corev1helpers.FindMatchingUntoleratedTaint(klog.Background(), node.Spec.Taints, pod.Spec.Tolerations, func(t *v1.Taint) bool {
			return t.Effect == v1.TaintEffectNoSchedule || t.Effect == v1.TaintEffectNoExecute
		}, false)
		return !tainted
	}
}

// why says why no machine has room now.
func (f *books) why(fleet *gpu.Fleet, demands []gpu.Demand, may func(int) bool) string {
	var could, refused, busy, narrow int
	for i := range fleet.Len() {
		has, left := *fleet.Has(i), *fleet.Machine(i)
		has.CPU, has.Memory = 1<<60, 1<<60
		left.CPU, left.Memory = 1<<60, 1<<60
		has.Sick = 0
		fits := func(m *gpu.Machine) bool {
			return slices.ContainsFunc(demands, func(d gpu.Demand) bool { return m.Fits(&d) })
		}
		switch {
		case f.now.Node(i) == "" || !fits(&has):
			continue
		case !may(i):
			refused++
		case !fits(&left):
			busy++
		default:
			narrow++
		}
		could++
	}
	text := fmt.Sprintf("no room on GPUs for %s: of %d machine(s) with such GPUs", say(demands), could)
	if could == 0 {
		return fmt.Sprintf("no machine has the GPUs for %s", say(demands))
	}
	sep := ""
	for _, part := range []struct {
		n    int
		what string
	}{{busy, "have too little left on them"}, {narrow, "have too little CPU or memory left, or are closed"}, {refused, "are not selected or not tolerated by the pod"}} {
		if part.n > 0 {
			text += fmt.Sprintf("%s %d %s", sep, part.n, part.what)
			sep = ","
		}
	}
	return text
}

// say tells what is asked for.
func say(demands []gpu.Demand) string {
	d := demands[0]
	text := fmt.Sprintf("%d thousandths", d.Milli)
	if d.DeviceMemory > 0 {
		text += fmt.Sprintf(" and %d MiB", d.DeviceMemory)
	}
	if d.Devices > 1 {
		text = fmt.Sprintf("%d times %s", d.Devices, text)
	}
	if len(demands) > 1 {
		text += ", or as much on another model"
	}
	return text
}

// PreFilterExtensions implements [fwk.PreFilterPlugin]: the GPUs of pods that may be
// preempted count as free.
func (f *GPUFit) PreFilterExtensions() fwk.PreFilterExtensions { return f }

// AddPod implements [fwk.PreFilterExtensions].
func (f *GPUFit) AddPod(_ context.Context, state fwk.CycleState, scheduled *v1.Pod, added fwk.PodInfo, node fwk.NodeInfo) *fwk.Status {
	f.change(state, scheduled, node, func(m *gpu.Machine) { f.now.With(m, added.GetPod()) })
	return nil
}

// RemovePod implements [fwk.PreFilterExtensions].
func (f *GPUFit) RemovePod(_ context.Context, state fwk.CycleState, scheduled *v1.Pod, removed fwk.PodInfo, node fwk.NodeInfo) *fwk.Status {
	f.change(state, scheduled, node, func(m *gpu.Machine) { f.now.Without(m, removed.GetPod()) })
	return nil
}

func (f *GPUFit) change(state fwk.CycleState, pod *v1.Pod, node fwk.NodeInfo, do func(*gpu.Machine)) {
	c := chosen(state)
	if c == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	name := node.Node().Name
	i, ok := f.now.Machine(name)
	if !ok {
		return
	}
	m, ok := c.changed[name]
	if !ok {
		m = *f.now.FleetFor(pod).Machine(i)
	}
	do(&m)
	if c.changed == nil {
		c.changed = map[string]gpu.Machine{}
	}
	c.changed[name] = m
}

// Filter implements [fwk.FilterPlugin].
func (f *GPUFit) Filter(_ context.Context, state fwk.CycleState, pod *v1.Pod, node fwk.NodeInfo) *fwk.Status {
	c := chosen(state)
	if c == nil {
		return nil
	}
	name := node.Node().Name
	m, ok := c.changed[name]
	if !ok {
		f.mu.Lock()
		var i int
		if i, ok = f.now.Machine(name); ok {
			m = *f.now.FleetFor(pod).Machine(i)
		}
		f.mu.Unlock()
	}
	if !ok {
		return fwk.NewStatus(fwk.UnschedulableAndUnresolvable, ErrGPU)
	}
	for i := range c.demands {
		if m.Fits(&c.demands[i]) {
			return nil
		}
	}
	return fwk.NewStatus(fwk.Unschedulable, ErrNoRoom)
}

// PostFilter implements [fwk.PostFilterPlugin]: where other plugins refused the best
// machines, all that have room are tried before anybody is preempted.
func (f *GPUFit) PostFilter(ctx context.Context, state fwk.CycleState, pod *v1.Pod, _ fwk.NodeToStatusReader) (*fwk.PostFilterResult, *fwk.Status) {
	c := chosen(state)
	if c == nil {
		return nil, fwk.NewStatus(fwk.Unschedulable)
	}
	f.mu.Lock()
	if c.first {
		f.tried[pod.UID] = true
	} else {
		delete(f.tried, pod.UID) // next time from the beginning
	}
	f.mu.Unlock()
	if !c.first {
		return nil, fwk.NewStatus(fwk.Unschedulable)
	}
	f.handle.Activate(klog.FromContext(ctx), map[string]*v1.Pod{string(pod.UID): pod})
	return nil, fwk.NewStatus(fwk.UnschedulableAndUnresolvable, "none of the machines that suit its GPUs best takes the pod; all others are tried")
}

// PreScore implements [fwk.PreScorePlugin]. For a pod without GPUs it looks where on
// machines with GPUs it does least harm, if there are no others.
func (f *GPUFit) PreScore(_ context.Context, state fwk.CycleState, pod *v1.Pod, nodes []fwk.NodeInfo) *fwk.Status {
	if chosen(state) != nil {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.syncAll(f.handle)
	among := map[int]bool{}
	for _, n := range nodes {
		if i, ok := f.now.Machine(n.Node().Name); ok {
			among[i] = true
		}
	}
	if len(among) == 0 {
		return fwk.NewStatus(fwk.Skip)
	}
	c := &choice{}
	if len(among) == len(nodes) {
		best := f.now.FleetFor(pod).Best([]gpu.Demand{gpubook.Plain(pod)}, 1, func(machine int) bool { return among[machine] })
		if len(best) > 0 {
			c.best = f.now.Node(best[0].Spot.Machine)
		}
	}
	state.Write(stateKey, c)
	return nil
}

// Score implements [fwk.ScorePlugin]. It is the rank of a machine, 0 being the best;
// NormalizeScore makes a score of it.
func (f *GPUFit) Score(_ context.Context, state fwk.CycleState, _ *v1.Pod, node fwk.NodeInfo) (int64, *fwk.Status) {
	c := chosen(state)
	if c == nil {
		return 0, nil
	}
	name := node.Node().Name
	if c.rank != nil {
		rank, ok := c.rank[name]
		if !ok {
			rank = len(c.rank)
		}
		return int64(rank), nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch _, gpus := f.now.Machine(name); {
	case !gpus:
		return scoreWithoutGPUs, nil
	case name == c.best:
		return scoreBestOfGPUs, nil
	}
	return scoreOfGPUs, nil
}

// ScoreExtensions implements [fwk.ScorePlugin].
func (f *GPUFit) ScoreExtensions() fwk.ScoreExtensions { return f }

// NormalizeScore implements [fwk.ScoreExtensions]. The first machine gets everything,
// so that nobody else breaks the tie.
func (*GPUFit) NormalizeScore(_ context.Context, state fwk.CycleState, _ *v1.Pod, scores fwk.NodeScoreList) *fwk.Status {
	c := chosen(state)
	if c == nil || c.rank == nil || len(scores) == 0 {
		return nil
	}
	first := slices.MinFunc(scores, func(a, b fwk.NodeScore) int { return int(a.Score - b.Score) }).Score
	for i := range scores {
		if scores[i].Score == first {
			scores[i].Score = fwk.MaxScore
		} else {
			scores[i].Score = fwk.MinScore
		}
	}
	return nil
}

// Reserve implements [fwk.ReservePlugin]: from now on the pod has its GPUs.
func (f *GPUFit) Reserve(_ context.Context, state fwk.CycleState, pod *v1.Pod, node string) *fwk.Status {
	c := chosen(state)
	if c == nil || c.rank == nil {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	fleet := f.now.FleetFor(pod)
	i, ok := f.now.Machine(node)
	if !ok {
		return fwk.NewStatus(fwk.Unschedulable, ErrGPU)
	}
	if c.pins != nil {
		delete(f.tried, pod.UID)
		f.desk.reserve(f.now, pod, node, c.pins[node])
		return nil
	}
	var a v1alpha1.GPUAllocation
	if c.hint != nil && c.hint.Machine == i {
		a = f.now.Allocation(c.demands[c.hint.Demand], c.hint.Spot)
	} else {
		best := fleet.Best(c.demands, 1, func(machine int) bool { return machine == i })
		if len(best) == 0 {
			return fwk.NewStatus(fwk.Unschedulable, ErrNoRoom)
		}
		a = f.now.Allocation(c.demands[best[0].Alternative], best[0].Spot)
	}
	c.has = &a
	f.now.Reserve(pod, a)
	delete(f.tried, pod.UID)
	binding.Annotate(state, v1alpha1.AnnotationGPUAllocation, convert.WriteGPUAllocation(a))
	binding.Before(state, func(context.Context) error { return f.stillFree(pod, a) })
	return nil
}

// Unreserve implements [fwk.ReservePlugin].
func (f *GPUFit) Unreserve(_ context.Context, state fwk.CycleState, pod *v1.Pod, _ string) {
	c := chosen(state)
	if c == nil || c.has == nil && c.pins == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if c.pins != nil {
		f.desk.release(f.now, pod)
		return
	}
	if err := binding.Err(state); err != nil && !refused(err) {
		f.keep(pod, *c.has)
	}
	f.now.Release(pod.UID)
}

// refused reports whether an error says for certain that a pod is not bound.
func refused(err error) bool {
	var s apierrors.APIStatus
	if !errors.As(err, &s) || apierrors.IsTimeout(err) || apierrors.IsServerTimeout(err) || apierrors.IsTooManyRequests(err) {
		return false
	}
	return s.Status().Code >= 400 && s.Status().Code < 500
}

// Bind implements [fwk.BindPlugin]: the allocation is part of the binding.
func (f *GPUFit) Bind(ctx context.Context, state fwk.CycleState, pod *v1.Pod, node string) *fwk.Status {
	return binding.Bind(ctx, f.handle, state, pod, node)
}

// EventsToRegister implements [fwk.EnqueueExtensions]. That a plan gave places free
// the plugin sees itself.
func (f *GPUFit) EventsToRegister(context.Context) ([]fwk.ClusterEventWithHint, error) {
	return append(f.claimEvents(), []fwk.ClusterEventWithHint{
		{Event: fwk.ClusterEvent{Resource: fwk.Node, ActionType: fwk.Add | fwk.UpdateNodeAllocatable | fwk.UpdateNodeLabel | fwk.UpdateNodeTaint | fwk.UpdateNodeAnnotation}, QueueingHintFn: f.afterNodeChanged},
		{Event: fwk.ClusterEvent{Resource: fwk.Pod, ActionType: fwk.Delete | fwk.UpdatePodScaleDown}, QueueingHintFn: f.afterPodLeft},
		{Event: fwk.ClusterEvent{Resource: fwk.Pod, ActionType: fwk.Update}, QueueingHintFn: afterPodChanged},
	}...), nil
}

// afterNodeChanged tries again when a machine with GPUs came or changed.
func (f *GPUFit) afterNodeChanged(_ klog.Logger, _ *v1.Pod, was, is any) (fwk.QueueingHint, error) {
	node, ok := is.(*v1.Node)
	if !ok {
		return fwk.Queue, nil
	}
	devices, err := convert.GPUDevices(node)
	if err != nil || len(devices) == 0 {
		return fwk.QueueSkip, nil
	}
	if old, ok := was.(*v1.Node); ok && same(old, node) {
		return fwk.QueueSkip, nil
	}
	return fwk.Queue, nil
}

// same reports whether two states of a node differ in nothing that matters here:
// agents write other annotations every few seconds.
func same(a, b *v1.Node) bool {
	return a.Annotations[v1alpha1.AnnotationGPUDevices] == b.Annotations[v1alpha1.AnnotationGPUDevices] &&
		maps.Equal(a.Labels, b.Labels) && a.Spec.Unschedulable == b.Spec.Unschedulable && slices.EqualFunc(a.Spec.Taints, b.Spec.Taints, func(x, y v1.Taint) bool { return x.MatchTaint(&y) && x.Value == y.Value }) &&
		equality.Semantic.DeepEqual(a.Status.Allocatable, b.Status.Allocatable) && equality.Semantic.DeepEqual(a.Status.Capacity, b.Status.Capacity)
}

// afterPodLeft tries again when a pod left a machine with GPUs, or shrank on it.
func (f *GPUFit) afterPodLeft(_ klog.Logger, _ *v1.Pod, was, _ any) (fwk.QueueingHint, error) {
	left, ok := was.(*v1.Pod)
	if !ok {
		return fwk.Queue, nil
	}
	if left.Spec.NodeName == "" {
		return fwk.QueueSkip, nil
	}
	if gpubook.Asks(left) {
		return fwk.Queue, nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.seen.GPUs(left.Spec.NodeName) == 0 {
		return fwk.QueueSkip, nil
	}
	return fwk.Queue, nil
}

// afterPodChanged tries a pod again that may ask for something else now.
func afterPodChanged(_ klog.Logger, pod *v1.Pod, was, is any) (fwk.QueueingHint, error) {
	old, ok := was.(*v1.Pod)
	changed, also := is.(*v1.Pod)
	if ok && also && (changed.UID != pod.UID || maps.Equal(old.Annotations, changed.Annotations)) {
		return fwk.QueueSkip, nil
	}
	return fwk.Queue, nil
}

// SignPod implements [fwk.SignPlugin]: what one pod with GPUs is told does not hold
// for the next.
func (*GPUFit) SignPod(_ context.Context, pod *v1.Pod) ([]fwk.SignFragment, *fwk.Status) {
	if gpubook.Asks(pod) {
		return nil, fwk.NewStatus(fwk.Unschedulable, "every pod with GPUs changes the books")
	}
	return nil, nil
}
