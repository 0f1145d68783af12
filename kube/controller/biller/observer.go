package biller

import (
	"cmp"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/core/workload"
	"github.com/neap-dev/neap/kube/convert"
)

// An Observer turns objects as they come and go into events. Its methods may be
// called from any goroutine, in any order, and again with the same object. It
// keeps pointers to the objects: they must not change, as in informers' caches.
type Observer struct {
	times Times
	now   func() time.Time
	woken chan struct{}

	mu      sync.Mutex
	pending []bill.Event
	since   time.Time // hours before it are closed for good

	declaredPools map[string]*v1alpha1.ResourcePool
	pools         *convert.Pools
	poolErr       error
	owners        convert.Owners
	nodes         map[string]*nodeState
	pods          map[types.UID]*podState
	byNode        map[string]map[types.UID]struct{}
	byOwner       map[types.UID]*ownerState
	starts        map[string]*startTimes // by pool

	prices  // see book.go
	modules // see modules.go
}

type nodeState struct {
	obj     *corev1.Node // nil: remembered, not seen again yet
	virtual bool         // decided when the node is first seen
	sent    *bill.Machine
}

type podState struct {
	obj   *corev1.Pod // nil: remembered, not seen again yet
	first time.Time   // when it was first seen bound
	pod   *bill.Pod   // as it was last told; nil: not yet
	own   *bill.Machine
	node  string
	over  bool
	ready bool
}

type ownerState struct {
	pods map[types.UID]struct{}
	gone bool
}

func (o *Observer) init(t Times, now func() time.Time) {
	o.times, o.now = t, now
	o.woken = make(chan struct{}, 1)
	o.declaredPools = map[string]*v1alpha1.ResourcePool{}
	o.pools, _ = convert.NewPools(nil)
	o.nodes, o.pods = map[string]*nodeState{}, map[types.UID]*podState{}
	o.byNode, o.byOwner = map[string]map[types.UID]struct{}{}, map[types.UID]*ownerState{}
	o.starts = map[string]*startTimes{}
	o.prices.init()
	o.modules.init()
}

func (o *Observer) poke() {
	select {
	case o.woken <- struct{}{}:
	default:
	}
}

// emit queues events; o.mu is held.
func (o *Observer) emit(events ...bill.Event) {
	o.pending = append(o.pending, events...)
	o.poke()
}

func (o *Observer) take() []bill.Event {
	o.mu.Lock()
	defer o.mu.Unlock()
	events := o.pending
	o.pending = nil
	return events
}

func (o *Observer) giveBack(events []bill.Event) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.pending = append(events, o.pending...)
}

func (o *Observer) waiting() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.pending)
}

// restore takes over what the journal's events say is there.
func (o *Observer) restore(events []bill.Event, since time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.since = since
	own := map[string]*bill.Machine{}
	for _, e := range events {
		switch e.Kind {
		case bill.MachineSeen:
			if m := *e.Machine; m.Serverless {
				own[m.Name] = &m
			} else {
				o.nodes[m.Name] = &nodeState{sent: &m}
			}
		case bill.MachineGone:
			delete(o.nodes, e.Name)
			delete(own, e.Name)
		case bill.PodSeen:
			p := *e.Pod
			s := &podState{first: e.At, pod: &p, own: own[p.Machine], node: p.Machine, ready: true}
			if s.own != nil { // node/namespace/name
				s.node = strings.TrimSuffix(p.Machine, "/"+p.Namespace+"/"+p.Name)
			}
			o.pods[types.UID(p.UID)] = s
		case bill.PodRequest:
			if s := o.pods[types.UID(e.Name)]; s != nil {
				s.pod.Requests = []bill.Step{{Request: *e.Request}}
			}
		case bill.PodModule:
			if s := o.pods[types.UID(e.Name)]; s != nil {
				s.pod.Module = *e.Module
			}
		case bill.PodGone:
			delete(o.pods, types.UID(e.Name))
		}
	}
	for uid, s := range o.pods {
		o.index(uid, s.node)
	}
}

// synced ends what was remembered and not seen again: it went while nobody
// watched, after last.
func (o *Observer) synced(last time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, uid := range sortedKeys(o.pods) {
		if s := o.pods[uid]; s.obj == nil && !s.over {
			o.endPod(uid, s, last)
			o.dropPod(uid, s)
		}
	}
	for _, name := range sortedKeys(o.nodes) {
		if n := o.nodes[name]; n.obj == nil {
			o.endNode(name, n, last)
			delete(o.nodes, name)
		}
	}
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// Node tells of a node that is new or changed.
func (o *Observer) Node(node *corev1.Node) {
	now := o.now()
	o.mu.Lock()
	defer o.mu.Unlock()
	n := o.nodes[node.Name]
	if n == nil {
		n = &nodeState{virtual: convert.Virtual(node, o.pools)}
		o.nodes[node.Name] = n
	} else if n.obj == nil && n.sent == nil {
		n.virtual = convert.Virtual(node, o.pools)
	}
	first := n.obj == nil
	n.obj = node
	o.tellNode(n, now)
	if first { // pods that came before their node
		for _, uid := range sortedKeys(o.byNode[node.Name]) {
			o.tellPod(uid, o.pods[uid], now)
		}
	}
}

func (o *Observer) tellNode(n *nodeState, now time.Time) {
	if n.virtual || n.obj == nil {
		return
	}
	m := convert.Machine(n.obj, o.pools)
	if n.sent != nil && *n.sent == m {
		return
	}
	at := now
	if n.sent == nil && o.times == API {
		at = notAfter(n.obj.CreationTimestamp.Time, now)
	}
	n.sent = &m
	o.emit(bill.Event{At: at, Kind: bill.MachineSeen, Machine: &m})
}

// notAfter takes a time that the API server wrote for what it is, unless it is
// nonsense: the server's clock may be a little ahead of ours, not a day.
func notAfter(t, now time.Time) time.Time {
	if t.IsZero() || t.After(now.Add(skew)) {
		return now
	}
	return t.UTC()
}

// NodeGone tells that a node is gone.
func (o *Observer) NodeGone(name string) {
	now := o.now()
	o.mu.Lock()
	defer o.mu.Unlock()
	if n := o.nodes[name]; n != nil {
		o.endNode(name, n, now)
		delete(o.nodes, name)
	}
}

func (o *Observer) endNode(name string, n *nodeState, at time.Time) {
	if n.sent != nil {
		o.emit(bill.Event{At: at, Kind: bill.MachineGone, Name: name})
	}
}

// Pod tells of a pod that is new or changed.
func (o *Observer) Pod(pod *corev1.Pod) {
	if pod.Spec.NodeName == "" {
		return
	}
	now := o.now()
	o.mu.Lock()
	defer o.mu.Unlock()
	s := o.pods[pod.UID]
	if s == nil {
		s = &podState{first: now}
		o.pods[pod.UID] = s
	}
	if s.obj == nil {
		s.node = pod.Spec.NodeName
		o.index(pod.UID, s.node)
		if c := metav1.GetControllerOf(pod); c != nil {
			w := o.byOwner[c.UID]
			if w == nil {
				w = &ownerState{pods: map[types.UID]struct{}{}}
				o.byOwner[c.UID] = w
			}
			w.pods[pod.UID] = struct{}{}
		}
	}
	s.obj = pod
	o.tellPod(pod.UID, s, now)
}

func (o *Observer) index(uid types.UID, node string) {
	if o.byNode[node] == nil {
		o.byNode[node] = map[types.UID]struct{}{}
	}
	o.byNode[node][uid] = struct{}{}
}

// tellPod emits what is new about a pod. A pod waits for its node: only then is
// it known whether the pod is its own machine.
func (o *Observer) tellPod(uid types.UID, s *podState, now time.Time) {
	n := o.nodes[s.node]
	if s.obj == nil || s.over || n == nil || n.obj == nil && s.pod == nil {
		return
	}
	over := convert.Over(s.obj)
	bound, _ := convert.Bound(s.obj)
	if s.pod == nil && over { // it ended before anyone saw it
		end, known := convert.Ended(s.obj)
		if o.times != API || !known || !end.After(o.since) {
			s.over = true
			return
		}
	}
	var node *corev1.Node
	if n.virtual {
		node = n.obj
	}
	p, own := convert.Pod(s.obj, o.owners.Of(s.obj), node, o.pools)
	if n.virtual && own == nil { // the pool that made it virtual is no longer declared
		own = s.own
		if own != nil {
			p.Machine = own.Name
		}
	}
	if s.pod == nil || !samePod(s.pod, &p) && !over {
		at := now
		if s.pod == nil {
			at = s.first
			if o.times == API {
				at = notAfter(bound, now)
			}
		}
		if own != nil && (s.own == nil || *s.own != *own) {
			s.own = own
			o.emit(bill.Event{At: at, Kind: bill.MachineSeen, Machine: own})
		}
		s.pod = &p
		o.emit(bill.Event{At: at, Kind: bill.PodSeen, Pod: &p})
	}
	o.learnStart(s, n, bound, now)
	if over {
		o.endPod(uid, s, o.ended(s, now))
	}
}

// ended returns when a pod that is over or gone ended: what was written down,
// where that is in the times the biller keeps, else now.
func (o *Observer) ended(s *podState, now time.Time) time.Time {
	if o.times == Observed {
		if life, known := convert.SimulatedLife(s.obj); known && !s.first.IsZero() {
			return notAfter(s.first.Add(life), now)
		}
		return now
	}
	if t, known := convert.Ended(s.obj); known {
		return notAfter(t, now)
	}
	return now
}

func samePod(a, b *bill.Pod) bool {
	return a.Machine == b.Machine && a.Module == b.Module && a.Requests[0].Request == b.Requests[0].Request &&
		a.Headroom == b.Headroom && a.Daemon == b.Daemon &&
		reflect.DeepEqual(a.Labels, b.Labels) && reflect.DeepEqual(a.Rules, b.Rules)
}

// endPod emits the end of a pod that was told of.
func (o *Observer) endPod(uid types.UID, s *podState, at time.Time) {
	if s.over {
		return
	}
	s.over = true
	if s.pod == nil {
		return
	}
	o.emit(bill.Event{At: at, Kind: bill.PodGone, Name: string(uid)})
	if s.own != nil {
		o.emit(bill.Event{At: at, Kind: bill.MachineGone, Name: s.own.Name})
	}
}

// PodGone tells that a pod's object is gone, with the last that was known of it.
func (o *Observer) PodGone(pod *corev1.Pod) {
	now := o.now()
	o.mu.Lock()
	defer o.mu.Unlock()
	s := o.pods[pod.UID]
	if s == nil {
		return
	}
	s.obj = pod
	o.tellPod(pod.UID, s, now)
	o.endPod(pod.UID, s, o.ended(s, now))
	o.dropPod(pod.UID, s)
}

func (o *Observer) dropPod(uid types.UID, s *podState) {
	delete(o.pods, uid)
	delete(o.byNode[s.node], uid)
	if len(o.byNode[s.node]) == 0 {
		delete(o.byNode, s.node)
	}
	if s.obj == nil {
		return
	}
	if c := metav1.GetControllerOf(s.obj); c != nil {
		if w := o.byOwner[c.UID]; w != nil {
			delete(w.pods, uid)
			if len(w.pods) == 0 {
				delete(o.byOwner, c.UID)
				if w.gone {
					o.owners.Forget(c.UID)
				}
			}
		}
	}
}

// Owner tells of an object between pods and their workload, such as a ReplicaSet
// or a Job.
func (o *Observer) Owner(obj metav1.Object) {
	now := o.now()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.owners.Put(obj)
	if w := o.byOwner[obj.GetUID()]; w != nil {
		w.gone = false
		for _, uid := range sortedKeys(w.pods) {
			o.tellPod(uid, o.pods[uid], now)
		}
	}
}

// OwnerGone tells that such an object is gone. Its pods keep their workload.
func (o *Observer) OwnerGone(uid types.UID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if w := o.byOwner[uid]; w != nil {
		w.gone = true
		return
	}
	o.owners.Forget(uid)
}

// Pool tells of a declared pool that is new or changed. Whether a node is virtual
// is decided when the node is first seen.
func (o *Observer) Pool(p *v1alpha1.ResourcePool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if old := o.declaredPools[p.Name]; old != nil && reflect.DeepEqual(old.Spec, p.Spec) {
		return
	}
	o.declaredPools[p.Name] = p
	o.repool()
}

// PoolGone tells that a declared pool is gone.
func (o *Observer) PoolGone(name string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.declaredPools, name)
	o.repool()
}

func (o *Observer) repool() {
	list := make([]*v1alpha1.ResourcePool, 0, len(o.declaredPools))
	for _, p := range o.declaredPools {
		list = append(list, p)
	}
	o.pools, o.poolErr = convert.NewPools(list)
	now := o.now()
	for _, name := range sortedKeys(o.nodes) {
		o.tellNode(o.nodes[name], now)
	}
}

// Pools returns the pools that are declared now.
func (o *Observer) Pools() *convert.Pools {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.pools
}

// PodsOf counts the pods of a workload that are on machines now, and returns the
// names of their machine types.
func (o *Observer) PodsOf(key workload.Key) (pods int, machineTypes []string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, s := range o.pods {
		if s.pod == nil || s.over || s.pod.Module != key {
			continue
		}
		pods++
		if t := o.typeOf(s); !slices.Contains(machineTypes, t) {
			machineTypes = append(machineTypes, t)
		}
	}
	slices.Sort(machineTypes)
	return pods, machineTypes
}

func (o *Observer) typeOf(s *podState) string {
	if s.own != nil {
		return s.own.Type
	}
	if n := o.nodes[s.node]; n != nil && n.sent != nil {
		return n.sent.Type
	}
	return ""
}

// PoolNow is what a pool holds now.
type PoolNow struct {
	Machines int
	Capacity resource.Vector // of a Serverless pool: what its pods ask for
	Types    []string        // of its machines, sorted
	Modules  []workload.Key  // that run in it, sorted
}

// PoolNow returns what a pool holds now.
func (o *Observer) PoolNow(name string) PoolNow {
	o.mu.Lock()
	defer o.mu.Unlock()
	var now PoolNow
	kinds, keys := map[string]bool{}, map[workload.Key]bool{}
	for _, n := range o.nodes {
		if n.sent != nil && n.sent.Pool == name {
			now.Machines++
			now.Capacity = now.Capacity.Add(n.sent.Capacity)
			kinds[n.sent.Type] = true
		}
	}
	for _, s := range o.pods {
		if s.pod == nil || s.over {
			continue
		}
		m := s.own
		if m == nil {
			if n := o.nodes[s.node]; n != nil {
				m = n.sent
			}
		} else if m.Pool == name {
			now.Capacity = now.Capacity.Add(m.Capacity)
			kinds[m.Type] = true
		}
		if m != nil && m.Pool == name && !s.pod.Daemon && !s.pod.Headroom {
			keys[s.pod.Module] = true
		}
	}
	now.Types = sortedKeys(kinds)
	for k := range keys {
		now.Modules = append(now.Modules, k)
	}
	slices.SortFunc(now.Modules, workload.Key.Compare)
	return now
}

// MachinesOf counts the machines of a type now.
func (o *Observer) MachinesOf(typ string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := 0
	for _, s := range o.nodes {
		if s.sent != nil && s.sent.Type == typ {
			n++
		}
	}
	return n
}

// startTimes are how long the last pods of a pool took to become ready.
type startTimes struct {
	ring [256]time.Duration
	n    int
}

func (o *Observer) learnStart(s *podState, n *nodeState, bound, now time.Time) {
	if s.ready {
		return
	}
	at, ok := convert.BecameReady(s.obj)
	if !ok {
		return
	}
	s.ready = true
	took := at.Sub(bound)
	if o.times == Observed {
		took = now.Sub(s.first)
	}
	m := s.own
	if m == nil {
		m = n.sent
	}
	if m == nil || m.Pool == "" || took < 0 {
		return
	}
	t := o.starts[m.Pool]
	if t == nil {
		t = &startTimes{}
		o.starts[m.Pool] = t
	}
	t.ring[t.n%len(t.ring)] = took
	t.n++
}

// StartTime returns the median and the 95th percentile of the time that the last
// pods of a pool took from being bound to being ready, and how many they were.
func (o *Observer) StartTime(pool string) (median, p95 time.Duration, pods int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	t := o.starts[pool]
	if t == nil {
		return 0, 0, 0
	}
	n := min(t.n, len(t.ring))
	sorted := slices.Sorted(slices.Values(t.ring[:n]))
	return sorted[n/2], sorted[min(n*95/100, n-1)], n
}
