package bill

import (
	"time"

	"github.com/neap-dev/neap/core/money"
	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/core/workload"
)

// A Box names why capacity that was paid for was not used.
type Box string

// The boxes. Every unit of idle money is in exactly one.
const (
	System     Box = "system"              // kept from pods by the machine: capacity − allocatable
	Spare      Box = "spare"               // declared: kept on purpose for a sudden need
	Slack      Box = "slack"               // requested by a pod and not used
	Shape      Box = "stranded-shape"      // no packing of today's pods gives it back: wrong shape or size
	Constraint Box = "stranded-constraint" // could be given back but for a placement rule
	Waiting    Box = "waiting-scale-down"  // could be given back now: its machine is not needed
	Unexplain  Box = "unexplained"         // exists to be 0
)

// Boxes lists the boxes in their fixed order, unexplained last.
var Boxes = []Box{System, Spare, Slack, Shape, Constraint, Waiting, Unexplain}

// An Hour is everything observed of one accounting period, at most one hour and
// never across a full hour of UTC. Times outside it are cut off at its ends.
type Hour struct {
	From, To time.Time
	Machines []Machine
	Pods     []Pod
	Loads    []Load
}

// A Machine is one machine, or the virtual machine of one serverless pod,
// during the hour.
type Machine struct {
	Name     string
	Pool     string // ResourcePool; "" if none
	Type     string // a type of the price book
	From, To time.Time

	Capacity    resource.Vector
	Allocatable resource.Vector // ≤ Capacity; for serverless equal to it
	Spare       resource.Vector // declared spare held on this machine, out of what is free

	// Serverless capacity is bought by the pod: the machine is exactly as large
	// as the pod on it and lives as long.
	Serverless bool

	// Domain is the machine's failure domain (zone), for placement rules.
	Domain string
	// Closed says new pods may not come here (cordoned, tainted for draining).
	Closed bool
	// MaxPods is the most pods the machine takes; 0 means no limit.
	MaxPods int
}

// A Pod is one pod on one machine during the hour. A pod is billed from the
// moment it is bound to the machine until it is gone from it.
type Pod struct {
	UID       string
	Namespace string
	Name      string
	Module    workload.Key
	Machine   string
	Labels    map[string]string
	From, To  time.Time

	Requests []Step   // oldest first; the first holds from From on
	Usage    []Sample // oldest first, not overlapping; gaps count as use == request, estimated

	// Headroom marks a pod that only holds room (a balloon): what it holds is Spare.
	Headroom bool
	// Daemon marks a pod that every machine has: it does not keep a machine from
	// being given back.
	Daemon bool
	// Rules restrict where the pod may be moved, for telling Constraint from Waiting.
	Rules Rules
}

// A Step is a request that holds from At until the next step.
type Step struct {
	At      time.Time
	Request resource.Vector
}

// A Sample is the average use of a pod between two instants.
type Sample struct {
	From, To time.Time
	Use      resource.Vector
	// Estimated says the use was not measured (a gap in the metrics).
	Estimated bool
	// Missing marks the resources that were not measured: there use counts as
	// the request, estimated, if the pod requests any.
	Missing [resource.Kinds]bool
}

// Rules are the placement rules of a pod as far as they can hold a machine.
type Rules struct {
	Pools   []string // pools the pod may run in; empty means the pool it is in
	Alone   string   // anti-affinity group: no two pods of a group on one machine
	Pinned  bool     // may not be moved at all (do-not-disrupt, local storage)
	Spread  string   // the group that Domains counts; "" means Alone's
	Domains int      // spread: at most this many more pods of the group in one domain than in another; 0 means none
}

// A Load is what a module was asked to do during the hour.
type Load struct {
	Module   workload.Key
	Requests int64 // Q; −1 if no load query is known
	// Success and P99 are the hour's quality, as core/quality found it;
	// Known is false where the module has no guard or the metrics had a gap.
	Known         bool
	SuccessMicros int64         // millionths of the requests that succeeded
	P99           time.Duration // 99th percentile latency
	Met           bool          // both targets kept
}

// An Amounts holds one value per resource.
type Amounts [resource.Kinds]money.Amount

// Sum returns the total over the resources.
func (a Amounts) Sum() money.Amount { return a[0] + a[1] + a[2] }

// Facts are the result of closing one hour. Σ Machines' Bill == Σ Pods' Used +
// Σ Machines' Idle, where Idle holds the pods' Slack and Headroom; and Σ Bill ==
// Σ Pods' (Used+Slack+Shared) + Σ Machines' Unshared. Pods are ordered by
// namespace, name, UID and From, machines by name and From; one pod or machine
// has several facts if it moved or changed within the hour.
type Facts struct {
	From, To time.Time
	Currency string
	Pods     []PodFact
	Machines []MachineFact
	Loads    []Load

	// Offers are the prices of the book's types at From, for [Explain].
	Offers []Offer

	// Notes say, one sentence each, what was put right in the observations and
	// what the reader must know to trust the figures.
	Notes []string
}

// A PodFact is one pod on one machine in one hour.
type PodFact struct {
	UID       string
	Namespace string
	Name      string
	Module    workload.Key
	Machine   string
	Pool      string
	Type      string
	Labels    map[string]string
	From, To  time.Time

	// Integrals over the pod's time in the hour: milli-core-seconds,
	// MiB-seconds, GPU-milli-seconds.
	RequestSeconds [resource.Kinds]int64
	UseSeconds     [resource.Kinds]int64
	// HeldSeconds is max(request, use): R of the identity.
	HeldSeconds [resource.Kinds]int64

	Used     Amounts // money for what was used
	Slack    Amounts // money for what was reserved on top
	Headroom Amounts // the whole share, of a pod that only holds room
	// IsHeadroom marks a pod that only holds room, also where that costs nothing.
	IsHeadroom bool
	Shared     Amounts // its module's share of the other idle boxes (see [Close])

	OpenCost Amounts // max(request, use) × price, as OpenCost would say; does not conserve

	EstimatedMillis int64        // thousandths of the pod's time whose use was not measured
	Estimated       money.Amount // how much of Used+Slack that time cost
}

// A MachineFact is one machine in one hour. Bill == Σ pods' Used + Σ Idle with ==.
type MachineFact struct {
	Name, Pool, Type string
	Serverless       bool
	From, To         time.Time

	CapacitySeconds [resource.Kinds]int64 // as in PodFact
	RatingMillis    int64
	ListPrice       money.PerHour // at From
	EffectivePrice  money.PerHour // at From
	List            money.Amount  // what the time would have cost at list price
	Bill            Amounts       // what it did cost

	// Idle holds every box; Slack and Spare include what its pods hold.
	Idle map[Box]Amounts
	// Unshared is idle money that no module could carry, for none ran in the
	// pool nor anywhere in the hour.
	Unshared Amounts
	// Binding is the resource that keeps more pods off: the fullest one.
	Binding resource.Kind
}

// Options tune [Close]. The zero value is right for production.
type Options struct {
	// Repack is how often within the hour free capacity is told apart into
	// Shape, Constraint and Waiting; 0 means every 15 minutes.
	Repack time.Duration
}
