package world

import (
	"slices"
	"time"

	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/core/workload"
	"github.com/neap-dev/neap/sim/physics"
	"github.com/neap-dev/neap/sim/scenario"
)

// A Machine is where pods run.
type Machine struct {
	Name, Pool, Type string
	Capacity         resource.Vector
	RatingMillis     int64 // milli-NCU a core; 0 counts as 1000
	// Serverless machines are as large as what each pod on them asks for: no
	// contention, and no more than that.
	Serverless bool
}

// A Pod is bound to a machine.
type Pod struct {
	ID              string // unique, such as the UID
	Namespace, Name string
	Module          workload.Key
	Machine         string
	Requests        resource.Vector
	Limits          resource.Vector // 0 means none
	// Batch says that it uses what all others leave, as far as [World.Lend] allows.
	Batch bool
}

// A World is a fleet under load. Use [New]. It is not safe for concurrent use.
type World struct {
	machines map[string]*machineState
	order    []*machineState // by name
	pods     map[string]*podState
	podOrder []*podState // as added
	modules  map[workload.Key]*moduleState
	modOrder []*moduleState // by key

	claims  []physics.Claim
	grants  []float64
	serving []*podState
	frame   Frame
}

type machineState struct {
	Machine
	pods   []*podState // as added
	cpu    float64     // core-seconds since it was added
	lent   bool        // Lend was called
	most   int64       // milli-cores that batch pods and all others may use together
	online float64     // cores of this step, without batch pods
	batch  float64     // cores of this step
	budget float64     // cores that batch pods could have had
}

type podState struct {
	Pod
	spec    *scenario.Module // nil for pods the scenario does not know
	machine *machineState
	module  *moduleState // nil for pods the scenario does not know

	from     time.Time // added
	ready    time.Time // zero: not ready
	gone     time.Time // zero: there
	cpuSum   float64   // core-seconds
	alive    float64   // seconds in this step
	up       float64   // ready seconds in this step
	rps      float64   // while ready
	need     float64   // cores, average while alive
	grant    float64
	avail    float64 // cores it could get
	outcome  physics.Outcome
	inFlight float64
}

type moduleState struct {
	spec scenario.Module
	key  workload.Key
	pods []*podState

	requests, failed float64 // totals
	sum              float64
	buckets          [len(Bounds)]float64 // totals, cumulative over le
	last             serveKey
	lastOut          physics.Outcome
	lastTail         [len(Bounds)]float64
}

type serveKey struct {
	station physics.Station
	lambda  float64
}

// New returns an empty World that knows the modules.
func New(modules []scenario.Module) *World {
	w := &World{machines: map[string]*machineState{}, pods: map[string]*podState{}, modules: map[workload.Key]*moduleState{}}
	for i := range modules {
		w.SetModule(modules[i])
	}
	return w
}

// SetModule adds a module or gives it a new version, which holds for the pods
// added from now on; those that are there keep what they had.
func (w *World) SetModule(m scenario.Module) {
	key := m.Key()
	if s, ok := w.modules[key]; ok {
		s.spec = m
		return
	}
	s := &moduleState{spec: m, key: key}
	w.modules[key] = s
	i, _ := slices.BinarySearchFunc(w.modOrder, key, func(s *moduleState, k workload.Key) int { return s.key.Compare(k) })
	w.modOrder = slices.Insert(w.modOrder, i, s)
}

// AddMachine adds a machine. One of the same name is changed: its pods stay.
func (w *World) AddMachine(m Machine) {
	if s, ok := w.machines[m.Name]; ok {
		s.Machine = m
		return
	}
	s := &machineState{Machine: m}
	w.machines[m.Name] = s
	i, _ := slices.BinarySearchFunc(w.order, m.Name, func(s *machineState, n string) int {
		switch {
		case s.Name < n:
			return -1
		case s.Name > n:
			return 1
		}
		return 0
	})
	w.order = slices.Insert(w.order, i, s)
}

// RemoveMachine removes a machine and the pods on it, which have no further
// use: remove them first with [World.RemovePod] to account for their last
// seconds. Unknown names are ignored.
func (w *World) RemoveMachine(name string) {
	s, ok := w.machines[name]
	if !ok {
		return
	}
	for _, p := range slices.Clone(s.pods) {
		w.drop(p)
	}
	delete(w.machines, name)
	w.order = slices.DeleteFunc(w.order, func(m *machineState) bool { return m == s })
}

// Lend says how many milli-cores of a machine its batch pods and all others may use
// together from now on; whatever it is, batch pods keep a hundredth of a core each, so
// that one that holds a lock comes to let go of it. Before it is called, batch pods
// compete with all others by the weight of what they ask for. Unknown names are ignored.
func (w *World) Lend(machine string, most int64) {
	if m, ok := w.machines[machine]; ok {
		m.lent, m.most = true, most
	}
}

// AddPod adds a pod that is bound to its machine at that moment, not ready. It
// reports false, and adds nothing, if the machine is unknown or the ID taken.
func (w *World) AddPod(p Pod, at time.Time) bool {
	m, ok := w.machines[p.Machine]
	if _, taken := w.pods[p.ID]; taken || !ok {
		return false
	}
	s := &podState{Pod: p, machine: m, from: at}
	if mod, ok := w.modules[p.Module]; ok {
		spec := mod.spec
		s.spec, s.module = &spec, mod
		mod.pods = append(mod.pods, s)
	}
	m.pods = append(m.pods, s)
	w.pods[p.ID] = s
	w.podOrder = append(w.podOrder, s)
	return true
}

// SetReady says that the pod takes load, or works, from at on.
func (w *World) SetReady(id string, at time.Time) {
	if p, ok := w.pods[id]; ok {
		p.ready = at
	}
}

// SetUnready says that the pod takes no load any more.
func (w *World) SetUnready(id string) {
	if p, ok := w.pods[id]; ok {
		p.ready = time.Time{}
	}
}

// Resize changes what a pod asks for.
func (w *World) Resize(id string, requests, limits resource.Vector) {
	if p, ok := w.pods[id]; ok {
		p.Requests, p.Limits = requests, limits
	}
}

// RemovePod says that the pod is gone at that moment. The next Step that ends
// at it or later still reports its last use. Unknown IDs are ignored.
func (w *World) RemovePod(id string, at time.Time) {
	if p, ok := w.pods[id]; ok && p.gone.IsZero() {
		p.gone = at
	}
}

// Pods returns how many pods there are.
func (w *World) Pods() int { return len(w.pods) }

// drop forgets a pod.
func (w *World) drop(p *podState) {
	is := func(q *podState) bool { return q == p }
	delete(w.pods, p.ID)
	p.machine.pods = slices.DeleteFunc(p.machine.pods, is)
	if p.module != nil {
		p.module.pods = slices.DeleteFunc(p.module.pods, is)
	}
	w.podOrder = slices.DeleteFunc(w.podOrder, is)
}

// PoolOf returns the pool of a machine, "" if it is unknown.
func (w *World) PoolOf(machine string) string {
	if m, ok := w.machines[machine]; ok {
		return m.Pool
	}
	return ""
}
