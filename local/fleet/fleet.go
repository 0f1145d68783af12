package fleet

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/core/workload"
	"github.com/neap-dev/neap/kube/convert"
	"github.com/neap-dev/neap/local/clock"
	"github.com/neap-dev/neap/metrics"
	"github.com/neap-dev/neap/sim/scenario"
	"github.com/neap-dev/neap/sim/world"
)

// ModuleLabel on a pod names the module of the scenario, in the pod's
// namespace, whose work the pod does. Other pods use a little of what they asked for.
const ModuleLabel = "neap.dev/scenario-module"

// Container is the name of the one container of every simulated pod.
const Container = "main"

const (
	// longestStep is the most simulated time of one step of the physics; longer
	// ones smear what changes within them.
	longestStep = time.Minute
	// shortestStep is the least, so that a day at real speed is not sampled more
	// often than a Prometheus would.
	shortestStep = 15 * time.Second
	// rarestExport is the most simulated time between two samples when the host
	// can't keep up. It is below the lookback of PromQL.
	rarestExport = 4 * time.Minute
)

// Options say what the fleet does. Scenario and Clock are required.
type Options struct {
	Scenario *scenario.Scenario
	Clock    *clock.Clock
	// Metrics gets the samples of every step; nil if somebody scrapes
	// [Fleet.ServeHTTP] instead.
	Metrics *metrics.Embedded
	// Warm makes the pods that start before [Fleet.Run] ready at once: the day
	// begins with a fleet that has been running.
	Warm bool
	// Problem is told what went wrong and goes on; nil ignores it.
	Problem func(error)
}

// A Fleet is the physics of a cluster's simulated machines. Use [New]. It is
// safe for concurrent use.
type Fleet struct {
	opts Options

	runs atomic.Bool // Run was called

	mu      sync.Mutex
	world   *world.World
	modules map[moduleName]*scenario.Module
	nodes   map[string]int64 // rating in milli-NCU a core, by name
	// providers sell the pools that have one; nodePools are the pools of nodes.
	providers map[string]*provider
	nodePools map[string]string
	known     map[types.UID]*known
	lent      map[string]*convert.BatchCapacity    // by node; of those that lend to batch pods
	waiting   map[string]map[types.UID]*corev1.Pod // bound to a node that is not known yet
	last      time.Time                            // end of the last step
	told      time.Time                            // end of the last step whose samples are in the metrics
	step      time.Duration
	export    export
	view      View
	gone      func(types.UID) // set by Watch
	finished  func(finish)    // likewise
}

type moduleName struct{ namespace, name string }

type known struct {
	from             time.Time // first seen on its machine
	ready            bool
	requests, limits resource.Vector
	work             float64 // core-seconds after which it is done; 0: it takes its time
}

// New returns a fleet without machines.
func New(o Options) *Fleet {
	f := &Fleet{
		opts:      o,
		world:     world.New(o.Scenario.Modules),
		modules:   map[moduleName]*scenario.Module{},
		nodes:     map[string]int64{},
		providers: map[string]*provider{}, nodePools: map[string]string{},
		known: map[types.UID]*known{}, lent: map[string]*convert.BatchCapacity{},
		waiting: map[string]map[types.UID]*corev1.Pod{},
		step:    min(max(time.Duration(o.Clock.Speed()*float64(time.Second)), shortestStep), longestStep),
		gone:    func(types.UID) {}, finished: func(finish) {},
	}
	for i := range o.Scenario.Modules {
		m := &o.Scenario.Modules[i]
		f.modules[moduleName{m.Namespace, m.Name}] = m
	}
	for i := range o.Scenario.Pools {
		if p := &o.Scenario.Pools[i]; p.Provider != nil {
			f.providers[p.Name] = newProvider(p.Provider)
		}
	}
	f.export.init(o.Scenario.Modules)
	return f
}

// Watch makes the fleet follow the nodes and pods of the factory's informers.
// Call it before they start.
func (f *Fleet) Watch(factory informers.SharedInformerFactory, l *Lifecycle) error {
	if l != nil {
		f.gone, f.finished = l.Forget, l.finish
	}
	_, err := factory.Core().V1().Nodes().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { f.putNode(o.(*corev1.Node)) },
		UpdateFunc: func(_, o any) { f.putNode(o.(*corev1.Node)) },
		DeleteFunc: func(o any) {
			if n, ok := deleted[*corev1.Node](o); ok {
				f.dropNode(n.Name)
			}
		},
	})
	if err != nil {
		return fmt.Errorf("watch nodes: %w", err)
	}
	_, err = factory.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { f.putPod(o.(*corev1.Pod)) },
		UpdateFunc: func(_, o any) { f.putPod(o.(*corev1.Pod)) },
		DeleteFunc: func(o any) {
			if p, ok := deleted[*corev1.Pod](o); ok {
				f.dropPod(p)
			}
		},
	})
	if err != nil {
		return fmt.Errorf("watch pods: %w", err)
	}
	return nil
}

func deleted[T any](o any) (T, bool) {
	if d, ok := o.(cache.DeletedFinalStateUnknown); ok {
		o = d.Obj
	}
	t, ok := o.(T)
	return t, ok
}

// SetModule gives a module another version, which holds for the pods made from
// now on.
func (f *Fleet) SetModule(m scenario.Module) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.modules[moduleName{m.Namespace, m.Name}] = &m
	f.world.SetModule(m)
}

// now is the moment of the day that a change belongs to: not before the end of
// the last step, which is closed.
func (f *Fleet) now() time.Time {
	t := f.opts.Clock.Now()
	if t.Before(f.last) {
		return f.last
	}
	return t
}

// when returns the simulated time in an annotation of a pod, but never one in
// the closed past or the future.
func (f *Fleet) when(p *corev1.Pod, annotation string) time.Time {
	now := f.now()
	if t, err := time.Parse(time.RFC3339Nano, p.Annotations[annotation]); err == nil && t.Before(now) {
		return later(t, f.last)
	}
	return now
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func (f *Fleet) putNode(n *corev1.Node) {
	if n.Labels[SimulatedLabel] != "true" {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	m := world.Machine{
		RatingMillis: 1000,
		Name:         n.Name, Pool: n.Labels[v1alpha1.LabelPool], Type: n.Labels[corev1.LabelInstanceTypeStable],
		Capacity: convert.Vector(n.Status.Capacity),
	}
	if t, ok := f.opts.Scenario.Type(m.Type); ok {
		m.RatingMillis = t.Rating()
	}
	for _, t := range n.Spec.Taints {
		m.Serverless = m.Serverless || t.Key == v1alpha1.TaintServerless
	}
	f.world.AddMachine(m)
	f.nodes[n.Name], f.nodePools[n.Name] = m.RatingMillis, m.Pool
	f.lends(n)
	for _, p := range f.waiting[n.Name] {
		f.put(p)
	}
	delete(f.waiting, n.Name)
}

func (f *Fleet) dropNode(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.world.RemoveMachine(name)
	delete(f.nodes, name)
	delete(f.nodePools, name)
	delete(f.lent, name)
	delete(f.waiting, name)
}

func (f *Fleet) putPod(p *corev1.Pod) {
	if p.Spec.NodeName == "" {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.put(p)
}

func (f *Fleet) put(p *corev1.Pod) {
	if _, ok := f.nodes[p.Spec.NodeName]; !ok {
		w := f.waiting[p.Spec.NodeName]
		if w == nil {
			w = map[types.UID]*corev1.Pod{}
			f.waiting[p.Spec.NodeName] = w
		}
		w[p.UID] = p
		return
	}
	id := string(p.UID)
	k := f.known[p.UID]
	seller := f.provider(p.Spec.NodeName)
	if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
		if seller != nil {
			seller.leave(p.UID, f.now())
		}
		if k != nil {
			end := f.now()
			if life, ok := convert.SimulatedLife(p); ok && k.from.Add(life).Before(end) {
				end = later(k.from.Add(life), f.last)
			}
			f.world.RemovePod(id, end)
			delete(f.known, p.UID)
		}
		return
	}
	requests, limits := podResources(p)
	if k == nil {
		k = &known{from: f.now(), requests: requests, limits: limits, work: f.task(p)}
		f.known[p.UID] = k
		f.world.AddPod(world.Pod{
			ID: id, Namespace: p.Namespace, Name: p.Name, Module: f.moduleOf(p), Machine: p.Spec.NodeName,
			Requests: requests, Limits: limits, Batch: colocated(p),
		}, k.from)
	}
	if k.requests != requests || k.limits != limits {
		k.requests, k.limits = requests, limits
		f.world.Resize(id, requests, limits)
	}
	ready := p.DeletionTimestamp == nil && isReady(p)
	if seller != nil && ready {
		seller.hold(p, cpu(p))
	}
	switch {
	case ready && !k.ready:
		f.world.SetReady(id, f.when(p, ReadyAtAnnotation))
	case !ready && k.ready:
		f.world.SetUnready(id)
	}
	k.ready = ready
}

func (f *Fleet) dropPod(p *corev1.Pod) {
	defer f.gone(p.UID) // without the lock
	f.mu.Lock()
	defer f.mu.Unlock()
	if w := f.waiting[p.Spec.NodeName]; w != nil {
		delete(w, p.UID)
	}
	if seller := f.provider(p.Spec.NodeName); seller != nil {
		seller.leave(p.UID, f.now())
	}
	if f.known[p.UID] != nil {
		f.world.RemovePod(string(p.UID), f.now())
		delete(f.known, p.UID)
	}
}

// module returns the scenario's module whose work a pod does, or nil.
func (f *Fleet) module(p *corev1.Pod) *scenario.Module {
	return f.modules[moduleName{p.Namespace, p.Labels[ModuleLabel]}]
}

func (f *Fleet) moduleOf(p *corev1.Pod) workload.Key {
	if m := f.module(p); m != nil {
		return m.Key()
	}
	return workload.Key{Namespace: p.Namespace, Kind: "Pod", Name: p.Name}
}

// Durations returns how long the stages of a pod take: what the scenario says,
// drawn with dice that the pod's UID and the scenario's seed decide.
func (f *Fleet) Durations() Durations {
	spec := func(p *corev1.Pod) *scenario.Module {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.module(p)
	}
	return Durations{
		Refuse: f.refuse,
		Start: func(p *corev1.Pod) time.Duration {
			m := spec(p)
			if m != nil && f.opts.Warm && !f.runs.Load() {
				return 0
			}
			if took, ok := f.sandbox(p); ok {
				return took
			}
			if m == nil {
				return time.Second
			}
			return m.Start.Draw(f.dice(p, 1).Float64).AfterBound()
		},
		Run: func(p *corev1.Pod) time.Duration {
			m := spec(p)
			if m == nil || m.Work == nil {
				return work(p)
			}
			// A faster core does the same work in less time.
			return m.Work.RunTime.At(f.dice(p, 2).Float64()) * 1000 / time.Duration(f.rating(p.Spec.NodeName))
		},
		Stop: func(*corev1.Pod) time.Duration { return stopTime },
	}
}

// stopTime is how long a deleted pod takes to end.
const stopTime = time.Second

func (f *Fleet) dice(p *corev1.Pod, use uint64) *rand.Rand {
	h := fnv.New64a()
	_, _ = h.Write([]byte(p.UID)) // never fails
	return rand.New(rand.NewPCG(f.opts.Scenario.Seed^use, h.Sum64()))
}

// rating returns the milli-NCU a core of a node, 1000 if it is unknown.
func (f *Fleet) rating(node string) int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r := f.nodes[node]; r > 0 {
		return r
	}
	return 1000
}

// Run steps the physics until ctx is done.
func (f *Fleet) Run(ctx context.Context) error {
	f.runs.Store(true)
	f.mu.Lock()
	f.last = f.opts.Clock.Now()
	f.told = f.last
	f.mu.Unlock()
	for {
		to := f.last.Truncate(f.step).Add(f.step)
		t := f.opts.Clock.NewTimerAt(to)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-t.C():
		}
		if err := f.advance(ctx, to); err != nil && ctx.Err() == nil && f.opts.Problem != nil {
			f.opts.Problem(err)
		}
	}
}

// advance does one step, and exports it unless the host is too far behind.
func (f *Fleet) advance(ctx context.Context, to time.Time) error {
	f.mu.Lock()
	middle := f.last.Add(to.Sub(f.last) / 2)
	f.lend(middle)
	frame := f.world.Step(f.last, to, func(k workload.Key) float64 {
		m := f.modules[moduleName{k.Namespace, k.Name}]
		if m == nil {
			return 0
		}
		rps, _ := f.opts.Scenario.Requests(m, middle)
		return rps
	})
	f.last = to
	f.view.take(frame)
	f.export.take(frame)
	done := f.work(frame)
	behind := f.opts.Clock.Now().Sub(to)
	// Behind by more than a few steps: sample less often, down to what PromQL
	// still takes for one series without gaps. Counters lose nothing by it.
	due := to.Sub(f.export.at) >= min(f.step*time.Duration(1+behind/(3*f.step)), rarestExport)
	var edges []edge
	if due {
		edges = f.export.batch(to)
	}
	sink := f.opts.Metrics
	f.mu.Unlock()
	for _, d := range done {
		f.finished(d)
	}
	defer func() {
		f.mu.Lock()
		f.told = to
		f.mu.Unlock()
	}()
	if !due || sink == nil {
		return nil
	}
	var errs []error
	for _, e := range edges {
		if len(e.samples) > 0 {
			errs = append(errs, sink.Append(ctx, e.at, e.samples))
		}
		if len(e.ended) > 0 {
			errs = append(errs, sink.End(ctx, e.at.Add(time.Millisecond), e.ended))
		}
	}
	return errors.Join(errs...)
}

// CatchUp waits until the physics have come to t, but not longer than ctx.
func (f *Fleet) CatchUp(ctx context.Context, t time.Time) {
	for ctx.Err() == nil {
		f.mu.Lock()
		done := !f.last.Before(t.Truncate(f.step))
		f.mu.Unlock()
		if done {
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Told waits until the metrics know what happened up to t, but not longer than
// ctx. Before [Fleet.Run] nothing happens, and it does not wait.
func (f *Fleet) Told(ctx context.Context, t time.Time) {
	for ctx.Err() == nil {
		f.mu.Lock()
		done := f.last.IsZero() || !f.told.Before(t.Truncate(f.step))
		f.mu.Unlock()
		if done {
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// Behind returns how much of the day has passed since the last step.
func (f *Fleet) Behind() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.last.IsZero() {
		return 0
	}
	return f.opts.Clock.Now().Sub(f.last)
}

// podResources sums what the containers of a pod ask for. A limit that one
// container lacks is no limit.
func podResources(p *corev1.Pod) (requests, limits resource.Vector) {
	none := [resource.Kinds]bool{}
	for i := range p.Spec.Containers {
		r := &p.Spec.Containers[i].Resources
		requests = requests.Add(convert.Vector(r.Requests))
		l := convert.Vector(r.Limits)
		limits = limits.Add(l)
		for k := range l {
			none[k] = none[k] || l[k] == 0
		}
	}
	for k := range limits {
		if none[k] {
			limits[k] = 0
		}
	}
	return requests, limits
}
