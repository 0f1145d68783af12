package scenario

import (
	"time"

	"github.com/neap-dev/neap/core/machine"
	"github.com/neap-dev/neap/core/money"
	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/core/workload"
	"github.com/neap-dev/neap/sim/physics"
)

// A Scenario is a simulated stretch of time. It is read-only once loaded and
// safe for concurrent use.
type Scenario struct {
	Name        string
	Description string
	Source      string // the file it was read from
	RealSeries  bool   // the load comes from real series, not from the generator

	Start    time.Time      // simulated time at which it begins, in Location
	Location *time.Location // of every time of day in it
	Length   time.Duration  // how long it is meant to run; load and schedules go on after it
	Seed     uint64
	Currency string

	MachineTypes []machine.Type // those its pools use, sorted by name
	Pools        []Pool         // by Order, then name
	Modules      []Module       // sorted by Key
	Colocations  []Colocation   // as written
	Timetables   []Timetable    // as written
	Calendar     []CalendarDay  // as written
	Events       []Event        // by time, then as written
}

// A PoolKind says how capacity of a pool is bought.
type PoolKind string

// The kinds of pools.
const (
	Machines           PoolKind = "Machines"
	SpareOnGPUMachines PoolKind = "SpareOnGPUMachines" // GPU machines whose spare CPU other modules may use
	Serverless         PoolKind = "Serverless"         // bought by the pod
)

// A Pool is a set of alike machines, or serverless capacity.
type Pool struct {
	Name        string
	Kind        PoolKind
	MachineType string
	Order       int // modules that name no pools fill pools of lower order first

	Count    int         // machines at Start; 0 for serverless
	Schedule []CountStep // machines by time of day, oldest first; empty keeps Count
	Elastic  *Owned      // machines instead while policies play; nil: the same
	Limit    int         // most machines, or most pods of serverless; 0 means no limit
	MaxPods  int         // most pods on one machine

	Capacity    resource.Vector // of one machine; zero for serverless
	Allocatable resource.Vector // what pods may request of it
	SparePerMil int64           // thousandths of Allocatable declared as spare
	PerGPU      resource.Vector // kept for each GPU from pods without one; of SpareOnGPUMachines
	GPUModel    string          // of its GPUs where pods may share them; else empty
	GPUMemory   int64           // MiB of each of these
	Zones       []string        // machines are spread over them in turn; never empty
	// Taint says that only modules that name the pool may run in it; always true for serverless.
	Taint     bool
	StartTime time.Duration // from buying a machine until it takes pods
	Provider  *Provider     // of serverless capacity; nil allows everything
}

// Owned is how many machines a pool has while policies play.
type Owned struct {
	Count    int
	Schedule []CountStep
}

// A Provider is what sells the capacity of a serverless pool: what it allows, and
// how fast a pod starts that says nothing of it itself. Zero values limit nothing.
type Provider struct {
	// PerSecond and Burst are the token bucket of pod creations.
	PerSecond, Burst int
	MaxPod           resource.Vector // the largest pod
	Quota            int64           // milli-cores that may run at once
	Cold             physics.Quantiles
	Warm             *Warm // nil: every start is cold
}

// A Warm is a provider's keeping of sandboxes that pods left, ready for the next
// pod of the same image. A start in one is quick and creates nothing.
type Warm struct {
	Sandboxes int // of every image, when the day begins
	Start     physics.Quantiles
	Keep      time.Duration // how long a sandbox waits for its next pod
}

// A CountStep is a number of machines or replicas from a time of day on.
type CountStep struct {
	At    time.Duration // since local midnight
	Count int
}

// A Kind is the class of a module.
type Kind string

// The kinds of modules.
const (
	Online    Kind = "online"
	Inference Kind = "inference"
	Batch     Kind = "batch"
	Cron      Kind = "cron"
)

// A Module is one workload.
type Module struct {
	Name, Namespace string
	Kind            Kind
	Features        []workload.Feature // shares sum to 1000; empty if none was given

	// Pools are those it may run in, most wanted first; never empty.
	Pools []string
	// Replicas and Schedule are for online and inference.
	Replicas int
	Schedule []CountStep
	// Elastic, if any, is what sets its replicas and pools instead.
	Elastic *Elastic
	// Alone says that no two of its pods may share a machine.
	Alone bool

	Requests, Limits resource.Vector // a limit of 0 means none
	// GPU is what it asks of GPUs that it may share; nil for none. Requests then
	// have the least that this comes to.
	GPU *GPUNeed

	Needs Needs
	Start physics.Start
	// Colocate says that its pods are of the batch class: they use what online
	// modules leave of the machines of its pools.
	Colocate bool
	// Load is what it is asked to do; nil for batch and cron.
	Load *Demand
	// Work is what batch and cron do; nil for the others.
	Work *Work

	// Targets are the quality promised; zero means none.
	Targets Targets
}

// Key names the module to the bill. Batch and cron modules are CronJobs: batch
// jobs are fired from a suspended one, so that all its jobs have one parent.
func (m *Module) Key() workload.Key {
	kind := "Deployment"
	if m.Work != nil {
		kind = "CronJob"
	}
	return workload.Key{Namespace: m.Namespace, Kind: kind, Name: m.Name}
}

// Needs are what one pod uses, on a machine rated 1 NCU a core.
type Needs struct {
	BaseCPU       int64         // milli-cores without load
	CPUPerRequest time.Duration // core time
	GPUPerRequest time.Duration // time of a whole GPU

	BaseMemory       int64 // bytes
	MemoryPerRequest int64 // bytes for each request in flight

	ServiceTime time.Duration // what a request waits for elsewhere (databases, other modules)
	Concurrency int           // requests one pod works on at once
	Timeout     time.Duration // after which a request has failed
}

// A Targets is the quality a module promises.
type Targets struct {
	SuccessMicros int64         // millionths of the requests that must succeed; 0 means none
	P99           time.Duration // 0 means none
}

// A Work is what jobs do.
type Work struct {
	// Cron is the schedule of a cron module, in the scenario's zone; empty for batch.
	Cron string
	// Jobs is when batch jobs start: Count jobs evenly spread until the next step.
	Jobs []CountStep
	// Pods is how many pods one job runs at once.
	Pods int
	// RunTime is how long a pod works on a machine rated 1 NCU a core.
	RunTime physics.Quantiles
	Use     resource.Vector // while it works: milli-cores, bytes, GPU thousandths
}

// An Event is something that happens at one moment. Exactly one of the pointers is set.
type Event struct {
	At     time.Time
	Reason string // shown in the ledger; may be empty

	Scale    *Scale
	Resize   *Resize
	Price    *PriceChange
	Machines *MachineCount
	Deploy   *Deploy
	Load     *LoadChange
	Sick     *Sickness
	Repack   *Repack
}

// A Scale sets the replicas of a module until its schedule's next step.
type Scale struct {
	Module   workload.Key
	Replicas int
}

// A Resize changes the requests and limits of a module's running pods in place.
type Resize struct {
	Module           workload.Key
	Requests, Limits resource.Vector
}

// A PriceChange gives a machine type another price from then on.
type PriceChange struct {
	Type machine.Type // whole, with the new price
	Was  money.PerHour
}

// A MachineCount buys or gives back machines of a pool.
type MachineCount struct {
	Pool  string
	Count int
}

// A Deploy replaces a module's pods by a new version, one after another.
type Deploy struct {
	Module workload.Key
	Spec   Module // the whole new version
}

// A LoadChange multiplies a module's load for a while.
type LoadChange struct {
	Module workload.Key
	Factor float64
	Until  time.Time
}

// Pool returns the pool of that name, or nil.
func (s *Scenario) Pool(name string) *Pool {
	for i := range s.Pools {
		if s.Pools[i].Name == name {
			return &s.Pools[i]
		}
	}
	return nil
}

// Module returns the module of that key, or nil.
func (s *Scenario) Module(key workload.Key) *Module {
	for i := range s.Modules {
		if s.Modules[i].Key() == key {
			return &s.Modules[i]
		}
	}
	return nil
}

// Type returns the machine type of that name.
func (s *Scenario) Type(name string) (machine.Type, bool) {
	for _, t := range s.MachineTypes {
		if t.Name == name {
			return t, true
		}
	}
	return machine.Type{}, false
}

// Requests returns the requests a second that the module is asked for at t,
// load events included. known is false in a gap of a real series.
func (s *Scenario) Requests(m *Module, t time.Time) (rps float64, known bool) {
	if m.Load == nil {
		return 0, true
	}
	rps, known = m.Load.At(t)
	for i := range s.Events {
		e := &s.Events[i]
		if e.Load != nil && e.Load.Module == m.Key() && !t.Before(e.At) && t.Before(e.Load.Until) {
			rps *= e.Load.Factor
		}
	}
	return rps, known
}

// CountAt returns the count that steps give at t: the last step of the day up
// to t's time of day, or yesterday's last one before the first step. It is
// otherwise where there are no steps.
func CountAt(steps []CountStep, otherwise int, t time.Time, in *time.Location) int {
	if len(steps) == 0 {
		return otherwise
	}
	now := timeOfDay(t.In(in))
	n := steps[len(steps)-1].Count
	for _, s := range steps {
		if s.At <= now {
			n = s.Count
		}
	}
	return n
}

func timeOfDay(t time.Time) time.Duration {
	return time.Duration(t.Hour())*time.Hour + time.Duration(t.Minute())*time.Minute + time.Duration(t.Second())*time.Second + time.Duration(t.Nanosecond())
}
