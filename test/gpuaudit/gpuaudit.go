// Package gpuaudit checks that no GPU is given away twice. It reads what the API
// server says, reads it with none of Neap's own code, and so makes none of its
// mistakes.
//
//	for every GPU at every moment: Σ thousandths of the pods on it ≤ 1000, Σ MiB ≤ what it has
//	for every pod that asks for GPUs, from when it is bound: it has what it asks for, on its node, and keeps it
//
// A pod has its GPUs from its binding until it is gone, or has succeeded or failed.
// The API server tells of pods in the order in which things happened to them, so a
// GPU that was given to one pod before another had left it is found, however short
// the moment.
//
// Where to enter: [New], then [Auditor.Follow], or [Auditor.Node] and [Auditor.Pod]
// with what you have.
package gpuaudit

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// mostFaults bounds how many faults are remembered; they are counted beyond it.
const mostFaults = 100

// An Auditor remembers what was said and what was wrong with it. It is safe for
// concurrent use.
type Auditor struct {
	mu         sync.Mutex
	nodes      map[string]map[string]device // by node and uuid; those that were ever there
	pods       map[types.UID]tenancy
	used       map[string]map[string]use // by node and uuid
	placements int
	faults     []string
	count      int
}

type device struct {
	UUID      string `json:"uuid"`
	MemoryMiB int64  `json:"memoryMiB"`
}

type tenancy struct {
	name, node, raw string
	shares          []share
}

type share struct {
	UUID      string `json:"uuid"`
	Milli     int64  `json:"milli"`
	MemoryMiB int64  `json:"memoryMiB"`
}

type use struct {
	milli, memory int64
	pods          map[string]bool
}

// New returns an auditor who has seen nothing.
func New() *Auditor {
	return &Auditor{nodes: map[string]map[string]device{}, pods: map[types.UID]tenancy{}, used: map[string]map[string]use{}}
}

// Follow audits a cluster until ctx ends. It returns when all that exists has been
// looked at.
func (a *Auditor) Follow(ctx context.Context, client kubernetes.Interface) error {
	factory := informers.NewSharedInformerFactory(client, 0)
	// Nodes first: a pod on a node that was not seen yet would be a fault.
	nodes := factory.Core().V1().Nodes().Informer()
	known, err := nodes.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { a.Node(o.(*v1.Node)) },
		UpdateFunc: func(_, o any) { a.Node(o.(*v1.Node)) },
	})
	if err != nil {
		return err
	}
	factory.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), known.HasSynced) {
		return ctx.Err()
	}
	pods, err := factory.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { a.Pod(o.(*v1.Pod)) },
		UpdateFunc: func(_, o any) { a.Pod(o.(*v1.Pod)) },
		DeleteFunc: func(o any) {
			if d, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = d.Obj
			}
			if p, ok := o.(*v1.Pod); ok {
				a.Gone(p)
			}
		},
	})
	if err != nil {
		return err
	}
	factory.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), pods.HasSynced) {
		return ctx.Err()
	}
	return nil
}

// Node takes in a node. GPUs that it does not name any more stay known: pods may
// still be on them.
func (a *Auditor) Node(n *v1.Node) {
	raw, ok := n.Annotations["neap.dev/gpu-devices"]
	if !ok {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	var list []device
	if err := json.Unmarshal([]byte(raw), &list); err != nil {
		a.fault("node %s describes its GPUs as %s: %v", n.Name, raw, err)
		return
	}
	if a.nodes[n.Name] == nil {
		a.nodes[n.Name], a.used[n.Name] = map[string]device{}, map[string]use{}
	}
	for _, d := range list {
		a.nodes[n.Name][d.UUID] = d
	}
}

// Pod takes in a pod as it is now.
func (a *Auditor) Pod(p *v1.Pod) {
	milli, memory := asked(p)
	if milli == 0 && memory == 0 || p.Spec.NodeName == "" {
		return
	}
	if p.Status.Phase == v1.PodSucceeded || p.Status.Phase == v1.PodFailed {
		a.Gone(p)
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	raw := p.Annotations["neap.dev/gpu-allocation"]
	name := p.Namespace + "/" + p.Name
	if was, ok := a.pods[p.UID]; ok {
		if was.node != p.Spec.NodeName || was.raw != raw {
			a.fault("pod %s was on node %s with %s, and is on node %s with %s", name, was.node, was.raw, p.Spec.NodeName, raw)
		}
		return
	}
	a.placements++
	t := tenancy{name: name, node: p.Spec.NodeName, raw: raw}
	defer func() { a.pods[p.UID] = t }()
	var said struct {
		Node    string  `json:"node"`
		Devices []share `json:"devices"`
	}
	if err := json.Unmarshal([]byte(raw), &said); err != nil {
		a.fault("pod %s is bound to node %s with the GPUs %q: %v", name, t.node, raw, err)
		return
	}
	if said.Node != t.node {
		a.fault("pod %s is on node %s, its GPUs are on node %s", name, t.node, said.Node)
	}
	a.judge(p, name, milli, memory, said.Devices)
	for i, s := range said.Devices {
		d, ok := a.nodes[t.node][s.UUID]
		if !ok {
			a.fault("pod %s has GPU %s, which node %s does not", name, s.UUID, t.node)
			continue
		}
		if slices.ContainsFunc(said.Devices[:i], func(o share) bool { return o.UUID == s.UUID }) {
			a.fault("pod %s has GPU %s twice", name, s.UUID)
			continue
		}
		t.shares = append(t.shares, s)
		u := a.used[t.node][s.UUID]
		u.milli, u.memory = u.milli+s.Milli, u.memory+s.MemoryMiB
		if u.pods == nil {
			u.pods = map[string]bool{}
		}
		u.pods[name] = true
		a.used[t.node][s.UUID] = u
		if u.milli > 1000 || u.memory > d.MemoryMiB {
			a.fault("GPU %s of node %s has %d thousandths and %d of %d MiB given away, to %s", s.UUID, t.node, u.milli, u.memory, d.MemoryMiB,
				strings.Join(slices.Sorted(maps.Keys(u.pods)), ", "))
		}
	}
}

// judge compares what a pod has with what it asks for.
func (a *Auditor) judge(p *v1.Pod, name string, milli, memory int64, has []share) {
	n := int64(1)
	if s, ok := p.Annotations["neap.dev/gpu-count"]; ok {
		n, _ = strconv.ParseInt(strings.TrimSpace(s), 10, 64)
	} else if milli > 1000 {
		n = milli / 1000
	}
	if int64(len(has)) != n || n == 0 {
		a.fault("pod %s has %d GPUs, and asks for %d", name, len(has), n)
		return
	}
	exact := p.Annotations["neap.dev/gpu-models"] == "" // else the model has a demand of its own
	for _, s := range has {
		switch {
		case s.Milli < 1 || s.Milli > 1000 || s.MemoryMiB < 0:
			a.fault("pod %s has %d thousandths and %d MiB of GPU %s", name, s.Milli, s.MemoryMiB, s.UUID)
		case s.Milli*n < milli || s.MemoryMiB*n < memory:
			a.fault("pod %s has %d thousandths and %d MiB of each GPU, and asks for %d and %d of %d", name, s.Milli, s.MemoryMiB, milli, memory, n)
		case exact && (milli > 0 && s.Milli*n != milli || memory > 0 && s.MemoryMiB*n != memory):
			a.fault("pod %s has %d thousandths and %d MiB of each GPU, more than the %d and %d of %d that it asks for", name, s.Milli, s.MemoryMiB, milli, memory, n)
		}
	}
}

// Gone takes in that a pod is gone.
func (a *Auditor) Gone(p *v1.Pod) {
	a.mu.Lock()
	defer a.mu.Unlock()
	t, ok := a.pods[p.UID]
	if !ok {
		return
	}
	delete(a.pods, p.UID)
	for _, s := range t.shares {
		u := a.used[t.node][s.UUID]
		u.milli, u.memory = u.milli-s.Milli, u.memory-s.MemoryMiB
		delete(u.pods, t.name)
		a.used[t.node][s.UUID] = u
	}
}

// Faults returns what was wrong, and how often something was.
func (a *Auditor) Faults() ([]string, int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.faults), a.count
}

// Placements returns how many pods with GPUs were bound, those gone included.
func (a *Auditor) Placements() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.placements
}

// Held returns how many pods have GPUs now, and the thousandths they have.
func (a *Auditor) Held() (pods int, milli int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, node := range a.used {
		for _, u := range node {
			milli += u.milli
		}
	}
	return len(a.pods), milli
}

func (a *Auditor) fault(format string, args ...any) {
	a.count++
	if len(a.faults) < mostFaults {
		a.faults = append(a.faults, fmt.Sprintf(format, args...))
	}
}

// asked adds up what a pod's containers ask for at once.
func asked(p *v1.Pod) (milli, memory int64) {
	of := func(c *v1.Container, name v1.ResourceName) int64 {
		if q, ok := c.Resources.Requests[name]; ok {
			return q.Value()
		}
		q := c.Resources.Limits[name]
		return q.Value()
	}
	for i := range p.Spec.Containers {
		milli += of(&p.Spec.Containers[i], "neap.dev/gpu-milli")
		memory += of(&p.Spec.Containers[i], "neap.dev/gpu-memory")
	}
	for i := range p.Spec.InitContainers {
		milli = max(milli, of(&p.Spec.InitContainers[i], "neap.dev/gpu-milli"))
		memory = max(memory, of(&p.Spec.InitContainers[i], "neap.dev/gpu-memory"))
	}
	return milli, memory
}
