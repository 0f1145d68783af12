// Package gpubook keeps the books of a cluster's GPUs: nodes and pods go in as the
// API server has them, and the machines, demands and spots of core/gpu come out.
// It is the one translation between the two, for all who place, move or show pods
// with GPUs.
//
//	what is left of a GPU = what it has − Σ pods that hold it − Σ places kept
//
// A pod holds what its annotation [v1alpha1.AnnotationGPUAllocation] says from when
// it is bound until it is over or gone; before that, what was reserved for it. A
// pod that was bound without such a word, by another scheduler, holds CPU and
// memory only, and is named by [Book.Conflicts], as are GPUs that pods hold more of
// than there is, and pods whose GPU is gone.
//
// Where to enter: [New], then [Book.SetNode] and [Book.SetPod] with every object,
// in any order and as often as you like: the same objects make the same books.
// [Book.Fleet] is what to choose in.
//
// Not here: informers, locks (a Book is not safe for concurrent use), the choice
// itself (core/gpu), and what a pod asks for (kube/convert).
package gpubook

import (
	"cmp"
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	helper "k8s.io/component-helpers/resource"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/gpu"
	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/kube/convert"
)

// A Book is the GPUs of a cluster and who holds them.
type Book struct {
	models   *convert.GPUModels
	fleet    *gpu.Fleet
	machines map[string]*machine // by node
	index    []*machine          // by machine of the fleet; nil where it is gone
	fresh    map[string]*machine // that have GPUs and are not in the fleet yet
	pods     map[types.UID]*entry
	reserved map[types.UID]v1alpha1.GPUAllocation
	placed   map[string]*entry // pods that hold GPUs, by namespace/name
	holds    map[string]*hold  // by key
	guest    string            // the pod for which holds are open
	claims   map[types.UID]*claim
	claimed  map[types.UID][]*claim // by the pod they are for
}

// A machine is one node and what is on it.
type machine struct {
	name    string
	node    *v1.Node // nil if only its pods are known
	devices []v1alpha1.GPUDevice
	models  []gpu.Model // of each device
	at      int         // its index in the fleet, −1 if it has none
	pods    map[types.UID]*entry
	holds   map[string]*hold
	daemons resource.Vector // what pods ask for that every machine has
}

// An entry is one pod.
type entry struct {
	pod     *v1.Pod
	node    string // "" waits
	asks    bool   // it wants GPUs
	daemon  bool
	request resource.Vector
	has     *v1alpha1.GPUAllocation // nil: no GPU
	wrong   string                  // what is wrong with it
	booked  []record
	demands []gpu.Demand // what it asks for, when so many models were known
	known   int
}

// A record is what the fleet has in its books.
type record struct {
	demand gpu.Demand
	spot   gpu.Spot
}

// A Hold is a place that is kept for a pod which is not there yet, or that
// something holds which is no pod.
type Hold struct {
	Pod       string // that may have it, as namespace/name; "" nobody
	Node      string
	Devices   []string // UUIDs, or names that Neap's DRA driver gives, such as gpu-0
	Milli     int64    // of each
	MemoryMiB int64    // of each
}

type hold struct {
	Hold
	claim  bool      // a claim holds it; else it is kept
	owner  types.UID // the pod that the claim is for
	booked []record
}

// New returns empty books. Several of them can share a catalogue of models, so
// that what one says of demands holds for the other; nil is one of its own.
func New(models *convert.GPUModels) *Book {
	if models == nil {
		models = new(convert.GPUModels)
	}
	return &Book{
		models: models, fleet: gpu.NewFleet(nil, gpu.NewNeap(nil, nil, 0)),
		machines: map[string]*machine{}, fresh: map[string]*machine{}, pods: map[types.UID]*entry{},
		reserved: map[types.UID]v1alpha1.GPUAllocation{}, placed: map[string]*entry{}, holds: map[string]*hold{},
		claims: map[types.UID]*claim{}, claimed: map[types.UID][]*claim{},
	}
}

// Len returns how many pods there are in the books.
func (b *Book) Len() int { return len(b.pods) }

// Models returns the catalogue of the models that nodes have or had.
func (b *Book) Models() *convert.GPUModels { return b.models }

// SetNode puts a node in the books, as it is now. The error says why its GPUs, or
// one of them, cannot be used; what pods hold of them stays booked where it can be.
func (b *Book) SetNode(node *v1.Node) error {
	m := b.machine(node.Name)
	if m.node == node {
		return nil
	}
	devices, err := convert.GPUDevices(node)
	models := make([]gpu.Model, len(devices))
	kept := devices[:0]
	for i := range devices {
		model, unknown := b.models.Add(devices[i].Model, devices[i].MemoryMiB)
		if unknown != nil {
			err = cmp.Or(err, fmt.Errorf("node %s: %w", node.Name, unknown))
			continue
		}
		models[len(kept)] = model
		kept = append(kept, devices[i])
	}
	models = models[:len(kept)]
	same := slices.Equal(m.devices, kept)
	if !same {
		b.clear(m)
	}
	m.node, m.devices, m.models = node, kept, models
	switch {
	case m.at < 0 && len(kept) > 0:
		b.fresh[m.name] = m
	case m.at < 0:
		delete(b.fresh, m.name)
	case len(kept) == 0:
		b.remove(m)
	default:
		b.fleet.Set(m.at, b.capacity(m))
	}
	if !same {
		b.fill(m)
	}
	return err
}

// SetMachine puts a node in the books with all that is on it: pods that are not
// among these have left it. What was reserved for them stays reserved.
func (b *Book) SetMachine(node *v1.Node, pods iter.Seq[*v1.Pod]) error {
	err := b.SetNode(node)
	there := make(map[types.UID]bool, len(b.machines[node.Name].pods))
	for pod := range pods {
		b.SetPod(pod)
		there[pod.UID] = true
	}
	for uid, e := range b.machines[node.Name].pods {
		if !there[uid] {
			b.strike(e)
		}
	}
	return err
}

// DeleteNode strikes a node out. Its pods stay until they are deleted too.
func (b *Book) DeleteNode(name string) {
	m := b.machines[name]
	if m == nil {
		return
	}
	b.clear(m)
	delete(b.fresh, name)
	b.remove(m)
	m.node, m.devices, m.models = nil, nil, nil
	b.fill(m)
	b.forget(m)
}

// SetPod puts a pod in the books, as it is now.
func (b *Book) SetPod(pod *v1.Pod) {
	if was := b.pods[pod.UID]; was != nil && was.pod == pod {
		return
	}
	if convert.Over(pod) {
		b.DeletePod(pod.UID)
		return
	}
	b.enter(pod)
}

// DeletePod strikes a pod out, with what was reserved for it.
func (b *Book) DeletePod(uid types.UID) {
	delete(b.reserved, uid)
	b.strike(b.pods[uid])
}

// Reserve books GPUs for a pod that is not bound yet. It counts until the pod is
// bound with an allocation, [Book.Release] or [Book.DeletePod].
func (b *Book) Reserve(pod *v1.Pod, a v1alpha1.GPUAllocation) {
	b.reserved[pod.UID] = a
	if e := b.pods[pod.UID]; e != nil {
		pod = e.pod // may know more, such as that it is bound
	}
	b.enter(pod)
}

// Release gives up what was reserved for a pod. What it holds because it is bound
// stays.
func (b *Book) Release(uid types.UID) {
	if _, ok := b.reserved[uid]; !ok {
		return
	}
	delete(b.reserved, uid)
	if e := b.pods[uid]; e != nil {
		b.enter(e.pod)
	}
}

// SetHold keeps a place until [Book.DeleteHold] of the same key. It does not count
// beside a pod that it is for, once that pod holds GPUs of the node.
func (b *Book) SetHold(key string, h Hold) {
	b.DeleteHold(key)
	kept := &hold{Hold: h}
	b.holds[key] = kept
	m := b.machine(h.Node)
	m.holds[key] = kept
	b.bookHold(m, kept)
}

// DeleteHold gives a place free.
func (b *Book) DeleteHold(key string) {
	h := b.holds[key]
	if h == nil {
		return
	}
	b.unbook(&h.booked)
	delete(b.holds, key)
	m := b.machines[h.Node]
	delete(m.holds, key)
	b.forget(m)
}

// Fleet returns the machines with GPUs as they are now. Its scorer is best fit until
// the caller sets another. The caller must not place in it: clone it for that. It
// is the same fleet every time, and a machine keeps its number while it is there.
func (b *Book) Fleet() *gpu.Fleet { return b.open("") }

// FleetFor is as Fleet, with the places open that are kept for this pod. It holds
// until the next call of either.
func (b *Book) FleetFor(pod *v1.Pod) *gpu.Fleet { return b.open(nameOf(pod)) }

// flush adds the machines that have come to the fleet: together, in the order of
// their names, so that it does not matter in which they were told.
func (b *Book) flush() {
	if len(b.fresh) == 0 {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(b.fresh)) {
		b.add(b.fresh[name])
	}
	clear(b.fresh)
}

func (b *Book) open(guest string) *gpu.Fleet {
	b.flush()
	if b.guest != guest {
		was := b.guest
		b.guest = guest
		for _, h := range b.holds {
			if h.Pod != "" && (h.Pod == was || h.Pod == guest) {
				b.rebookHold(h)
			}
		}
	}
	return b.fleet
}

// Machine returns the number of a node in the fleet, and false if it has no GPUs.
func (b *Book) Machine(node string) (int, bool) {
	b.flush()
	m := b.machines[node]
	if m == nil || m.at < 0 {
		return 0, false
	}
	return m.at, true
}

// Node returns the name of a machine of the fleet, "" if it is gone.
func (b *Book) Node(machine int) string {
	if machine < 0 || machine >= len(b.index) || b.index[machine] == nil {
		return ""
	}
	return b.index[machine].name
}

// Object returns the node that is a machine of the fleet, nil if it is gone.
func (b *Book) Object(machine int) *v1.Node {
	if b.Node(machine) == "" {
		return nil
	}
	return b.index[machine].node
}

// GPUs returns how many GPUs a node has.
func (b *Book) GPUs(node string) int {
	if m := b.machines[node]; m != nil {
		return len(m.devices)
	}
	return 0
}

// Without gives back to a copy of a machine what a pod has in the books there, and
// With takes it again. A pod that has nothing there takes what it asks for, if it
// fits, on the tightest GPUs.
func (b *Book) Without(m *gpu.Machine, pod *v1.Pod) {
	e := b.pods[pod.UID]
	if e == nil {
		return
	}
	for _, r := range e.booked {
		if r.spot.Machine == m.ID {
			change(m, r, 1)
		}
	}
}

// With is described at [Book.Without].
func (b *Book) With(m *gpu.Machine, pod *v1.Pod) {
	if e := b.pods[pod.UID]; e != nil && e.node == b.Node(m.ID) {
		for _, r := range e.booked {
			change(m, r, -1)
		}
		return
	}
	r := record{demand: Plain(pod)}
	all, err := b.Demands(pod)
	for i := range all {
		if err == nil && m.Fits(&all[i]) {
			r.demand, r.spot.Devices = all[i], m.Tightest(&all[i])
			break
		}
	}
	change(m, r, -1)
}

func change(m *gpu.Machine, r record, by int64) {
	m.CPU += by * r.demand.CPU
	m.Memory += by * r.demand.Memory
	m.Pods -= int(by)
	for on := r.spot.Devices; on != 0; on &= on - 1 {
		m.Idle[on.First()] += int16(by * r.demand.Milli)
		m.IdleMemory[on.First()] += int32(by * r.demand.DeviceMemory)
	}
}

// Demands returns what a pod asks for as [convert.GPURequest] does, of the models
// that are known, with Memory in MiB, as the fleet has it.
func (b *Book) Demands(pod *v1.Pod) ([]gpu.Demand, error) {
	out, err := convert.GPURequest(pod, b.models)
	for i := range out {
		out[i].Memory = mebi(out[i].Memory)
	}
	return out, err
}

// Plain returns what a pod asks for of CPU and memory.
func Plain(pod *v1.Pod) gpu.Demand {
	r := convert.Request(pod)
	return gpu.Demand{CPU: r[resource.CPU], Memory: mebi(r[resource.Memory])}
}

// Allocation returns what to write on a pod whose demand is placed on a spot. The
// zero value means that the machine is gone.
func (b *Book) Allocation(d gpu.Demand, s gpu.Spot) v1alpha1.GPUAllocation {
	name := b.Node(s.Machine)
	if name == "" {
		return v1alpha1.GPUAllocation{}
	}
	a := v1alpha1.GPUAllocation{Node: name}
	for i, device := range b.index[s.Machine].devices {
		if s.Devices>>i&1 == 1 {
			a.Devices = append(a.Devices, v1alpha1.GPUShare{UUID: device.UUID, Milli: d.Milli, MemoryMiB: d.DeviceMemory})
		}
	}
	return a
}

// Spot returns where the named GPUs of a node are, and false if one of them is not
// there.
func (b *Book) Spot(node string, uuids ...string) (gpu.Spot, bool) {
	b.flush()
	m := b.machines[node]
	if m == nil || m.at < 0 {
		return gpu.Spot{}, false
	}
	s := gpu.Spot{Machine: m.at}
	for _, uuid := range uuids {
		i := m.device(uuid)
		if i < 0 {
			return gpu.Spot{}, false
		}
		s.Devices |= 1 << i
	}
	return s, true
}

// A Hint is a spot that a plan found for a pod, and which of its demands fits there.
type Hint struct {
	gpu.Spot
	Demand int
}

// Hinted returns where the annotation [v1alpha1.AnnotationGPUSpot] wants a pod, and
// false if there is none, it makes no sense, or none of the demands fits there.
func (b *Book) Hinted(pod *v1.Pod, demands []gpu.Demand) (Hint, bool) {
	raw, ok := pod.Annotations[v1alpha1.AnnotationGPUSpot]
	if !ok {
		return Hint{}, false
	}
	var at struct {
		Node    string   `json:"node"`
		Devices []string `json:"devices"`
	}
	if json.Unmarshal([]byte(raw), &at) != nil {
		return Hint{}, false
	}
	fleet := b.FleetFor(pod)
	s, ok := b.Spot(at.Node, at.Devices...)
	if !ok {
		return Hint{}, false
	}
	for i, d := range demands {
		m := *fleet.Machine(s.Machine)
		m.Sick |= ^s.Devices // no other
		if d.Devices == s.Devices.Len() && m.Fits(&d) {
			return Hint{s, i}, true
		}
	}
	return Hint{}, false
}

// Basis returns what a scorer or a bound starts from: [Book.Capacities] and
// [Book.Shares].
func (b *Book) Basis() ([]gpu.Machine, []gpu.Share) { return b.Capacities(), b.Shares() }

// Capacities returns the machines of the fleet with nothing on them.
func (b *Book) Capacities() []gpu.Machine {
	fleet := b.Fleet()
	machines := make([]gpu.Machine, fleet.Len())
	for i := range machines {
		machines[i] = *fleet.Has(i)
	}
	return machines
}

// Shares returns the demands of the pods that are there or wait for a place, with what
// they would take instead, and how many there are of each: with fixed demands, that is what the services desire. Pods
// that ask for no GPU count where they are on machines with GPUs, but for those that
// every machine has.
func (b *Book) Shares() []gpu.Share {
	b.Fleet()
	at := map[string]int{}
	var shares []gpu.Share
	count := func(all []gpu.Demand, now int) {
		key := fmt.Sprint(now, all)
		i, ok := at[key]
		if !ok {
			i = len(shares)
			at[key] = i
			shares = append(shares, gpu.Share{Demand: all[now], Or: slices.Concat(all[:now], all[now+1:])})
		}
		shares[i].Count++
	}
	for _, e := range sorted(b.pods) {
		switch {
		case e.asks:
			if all, now, _ := b.held(e); len(all) > 0 {
				count(all, max(now, 0))
			}
		case e.node != "" && !e.daemon:
			if p, ok := b.claimant(e); ok && p.Now >= 0 {
				count(p.Demands[:1], 0)
			} else if m := b.machines[e.node]; m.at >= 0 {
				count([]gpu.Demand{e.plain()}, 0)
			}
		}
	}
	slices.SortStableFunc(shares, func(x, y gpu.Share) int {
		p, q := &x.Demand, &y.Demand
		return cmp.Or(cmp.Compare(p.CPU, q.CPU), cmp.Compare(p.Devices, q.Devices), cmp.Compare(p.Milli, q.Milli),
			cmp.Compare(p.DeviceMemory, q.DeviceMemory), cmp.Compare(p.Models, q.Models), cmp.Compare(p.Memory, q.Memory))
	})
	return shares
}

// machine returns the machine of that name, a new one if it is not known.
func (b *Book) machine(name string) *machine {
	m := b.machines[name]
	if m == nil {
		m = &machine{name: name, at: -1, pods: map[types.UID]*entry{}, holds: map[string]*hold{}}
		b.machines[name] = m
	}
	return m
}

// forget drops a machine of which nothing is known.
func (b *Book) forget(m *machine) {
	if m.node == nil && len(m.pods) == 0 && len(m.holds) == 0 {
		delete(b.machines, m.name)
	}
}

// capacity returns what a machine has for pods. One that takes none now has less
// than no CPU, so that nothing fits.
func (b *Book) capacity(m *machine) gpu.Machine {
	have := convert.Vector(m.node.Status.Allocatable)
	out := gpu.Machine{
		CPU:    have[resource.CPU] - m.daemons[resource.CPU],
		Memory: (have[resource.Memory] - m.daemons[resource.Memory]) >> 20,
		GPUs:   len(m.devices),
	}
	for i, d := range m.devices {
		out.Model[i], out.Idle[i], out.IdleMemory[i] = m.models[i], gpu.Whole, int32(d.MemoryMiB)
		if !d.Healthy {
			out.Sick |= 1 << i
		}
	}
	if convert.Machine(m.node, nil).Closed {
		out.CPU = -1
	}
	return out
}

// add puts a machine in the fleet, in the place of one that is gone if there is one.
func (b *Book) add(m *machine) {
	if m.at = slices.Index(b.index, nil); m.at >= 0 {
		b.index[m.at] = m
		b.fleet.Set(m.at, b.capacity(m))
	} else {
		m.at = b.fleet.Add(b.capacity(m))
		b.index = append(b.index, m)
	}
	b.fill(m)
}

// remove takes a machine that nothing is booked on out of the fleet.
func (b *Book) remove(m *machine) {
	if m.at < 0 {
		return
	}
	b.fleet.Set(m.at, gpu.Machine{CPU: -1})
	b.index[m.at] = nil
	m.at = -1
}

// clear takes what is on a machine out of the fleet's books, and fill writes it down
// again.
func (b *Book) clear(m *machine) {
	for _, e := range m.pods {
		b.unbook(&e.booked)
	}
	for _, h := range m.holds {
		b.unbook(&h.booked)
	}
}

func (b *Book) fill(m *machine) {
	for _, e := range m.pods {
		b.book(m, e)
	}
	for _, h := range m.holds {
		b.bookHold(m, h)
	}
}

// enter writes a pod down.
func (b *Book) enter(pod *v1.Pod) {
	e := &entry{pod: pod, node: pod.Spec.NodeName, asks: Asks(pod), request: convert.Request(pod)}
	owner := metav1.GetControllerOf(pod)
	e.daemon = !e.asks && owner != nil && (owner.Kind == "DaemonSet" || owner.Kind == "Node")
	reserved, promised := b.reserved[pod.UID]
	if e.asks {
		written, err := convert.GPUAllocation(pod)
		switch {
		case e.node == "":
			if promised {
				e.node, e.has = reserved.Node, &reserved
			}
		case promised && reserved.Node == e.node && (written == nil || !equal(*written, reserved)):
			e.has = &reserved // whatever an annotation from before says
		case err != nil:
			e.wrong = err.Error()
		case written != nil && written.Node != e.node:
			e.wrong = fmt.Sprintf("it is on node %s, and its GPUs are on node %s", e.node, written.Node)
		case written != nil:
			e.has, e.wrong = atLeast(pod, written)
			delete(b.reserved, pod.UID)
		default:
			e.wrong = fmt.Sprintf("scheduler %q bound it to node %s without saying which GPUs it has", pod.Spec.SchedulerName, e.node)
		}
	}
	b.strike(b.pods[pod.UID])
	if e.node == "" && !e.asks {
		return
	}
	b.pods[pod.UID] = e
	if e.node == "" {
		return
	}
	m := b.machine(e.node)
	m.pods[pod.UID] = e
	if e.daemon {
		m.daemons = m.daemons.Add(e.request)
		b.resize(m)
	}
	if e.has != nil {
		b.placed[nameOf(pod)] = e
		b.rebookHolds(m, nameOf(pod))
	}
	b.book(m, e)
}

func equal(a, b v1alpha1.GPUAllocation) bool {
	return a.Node == b.Node && slices.Equal(a.Devices, b.Devices)
}

// atLeast returns what an allocation says, raised to what the pod's resources ask for
// if somebody made it less: nobody can have given it less.
func atLeast(pod *v1.Pod, a *v1alpha1.GPUAllocation) (*v1alpha1.GPUAllocation, string) {
	all := helper.PodRequests(pod, helper.PodResourcesOptions{})
	n := int64(len(a.Devices))
	each := func(name v1.ResourceName) int64 {
		q := all[name]
		return max(0, (q.Value()+n-1)/n)
	}
	milli, memory := min(each(v1alpha1.ResourceGPUMilli), gpu.Whole), min(each(v1alpha1.ResourceGPUMemory), mostMemory)
	wrong := ""
	for i := range a.Devices {
		if s := &a.Devices[i]; s.Milli < milli || s.MemoryMiB < memory {
			wrong = fmt.Sprintf("its annotation %s gives it %d thousandths and %d MiB of GPU %s, less than the %d and %d it asks for: somebody changed it",
				v1alpha1.AnnotationGPUAllocation, s.Milli, s.MemoryMiB, s.UUID, milli, memory)
			s.Milli, s.MemoryMiB = max(s.Milli, milli), max(s.MemoryMiB, memory)
		}
	}
	return a, wrong
}

// mostMemory bounds the MiB that a pod can be thought to hold: more than any GPU has.
const mostMemory = 1 << 24

// strike takes an entry out.
func (b *Book) strike(e *entry) {
	if e == nil {
		return
	}
	b.unbook(&e.booked)
	delete(b.pods, e.pod.UID)
	if e.node == "" {
		return
	}
	m := b.machines[e.node]
	delete(m.pods, e.pod.UID)
	if e.daemon {
		m.daemons = m.daemons.Sub(e.request)
		b.resize(m)
	}
	if name := nameOf(e.pod); b.placed[name] == e {
		delete(b.placed, name)
		b.rebookHolds(m, name)
	}
	b.forget(m)
}

func (b *Book) resize(m *machine) {
	if m.at >= 0 {
		b.fleet.Set(m.at, b.capacity(m))
	}
}

// book writes in the fleet what a pod has.
func (b *Book) book(m *machine, e *entry) {
	if m.at < 0 || e.daemon {
		return
	}
	d := e.plain()
	if e.has == nil {
		b.record(&e.booked, d, gpu.Spot{Machine: m.at})
		return
	}
	b.bookShares(&e.booked, m, d, e.has.Devices)
}

// bookShares writes down shares of GPUs, those that are equal in one record.
func (b *Book) bookShares(booked *[]record, m *machine, d gpu.Demand, shares []v1alpha1.GPUShare) {
	for i := 0; i < len(shares); {
		s := gpu.Spot{Machine: m.at}
		d.Milli, d.DeviceMemory = shares[i].Milli, shares[i].MemoryMiB
		for ; i < len(shares) && shares[i].Milli == d.Milli && shares[i].MemoryMiB == d.DeviceMemory; i++ {
			if at := m.device(shares[i].UUID); at >= 0 {
				s.Devices |= 1 << at
			}
		}
		if d.Devices = s.Devices.Len(); d.Devices == 0 {
			d.Milli, d.DeviceMemory = 0, 0
		}
		b.record(booked, d, s)
		d.CPU, d.Memory = 0, 0
	}
}

func (b *Book) bookHold(m *machine, h *hold) {
	if m.at < 0 || !h.claim && (h.Pod != "" && h.Pod == b.guest || b.holding(m, h.Pod)) {
		return
	}
	shares := make([]v1alpha1.GPUShare, len(h.Devices))
	for i, uuid := range h.Devices {
		shares[i] = v1alpha1.GPUShare{UUID: uuid, Milli: h.Milli, MemoryMiB: h.MemoryMiB}
	}
	b.bookShares(&h.booked, m, gpu.Demand{}, shares)
}

func (b *Book) rebookHold(h *hold) {
	b.unbook(&h.booked)
	b.bookHold(b.machines[h.Node], h)
}

func (b *Book) rebookHolds(m *machine, name string) {
	for _, h := range m.holds {
		if h.Pod == name {
			b.rebookHold(h)
		}
	}
}

func (b *Book) record(booked *[]record, d gpu.Demand, s gpu.Spot) {
	if b.fleet.Record(d, s) == nil {
		*booked = append(*booked, record{d, s})
	}
}

func (b *Book) unbook(booked *[]record) {
	for _, r := range *booked {
		if err := b.fleet.Remove(r.demand, r.spot); err != nil {
			panic(fmt.Sprintf("gpubook: what was booked is not there: %v", err))
		}
	}
	*booked = nil
}

// device returns the number of a GPU on its machine, by its UUID or by how Neap's
// DRA driver calls it, −1 if it is not there.
func (m *machine) device(name string) int {
	return slices.IndexFunc(m.devices, func(d v1alpha1.GPUDevice) bool {
		return d.UUID == name || convert.GPUDeviceName(int(d.Index)) == name
	})
}

func (e *entry) plain() gpu.Demand {
	return gpu.Demand{CPU: e.request[resource.CPU], Memory: mebi(e.request[resource.Memory])}
}

// Asks reports whether a pod asks for GPUs by Neap's resources.
func Asks(pod *v1.Pod) bool {
	asks := func(c *v1.Container) bool {
		for _, list := range []v1.ResourceList{c.Resources.Requests, c.Resources.Limits} {
			for _, name := range []v1.ResourceName{v1alpha1.ResourceGPUMilli, v1alpha1.ResourceGPUMemory} {
				if q, ok := list[name]; ok && !q.IsZero() {
					return true
				}
			}
		}
		return false
	}
	for i := range pod.Spec.Containers {
		if asks(&pod.Spec.Containers[i]) {
			return true
		}
	}
	for i := range pod.Spec.InitContainers {
		if asks(&pod.Spec.InitContainers[i]) {
			return true
		}
	}
	return false
}

// mebi returns bytes as MiB, rounded up.
func mebi(bytes int64) int64 { return (bytes + 1<<20 - 1) >> 20 }

func nameOf(pod *v1.Pod) string { return pod.Namespace + "/" + pod.Name }

func compareNames(a, b *v1.Pod) int {
	return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name), strings.Compare(string(a.UID), string(b.UID)))
}
