package v1alpha1

import (
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// PoolKind says how the capacity of a pool is bought.
//
// +kubebuilder:validation:Enum=Machines;SpareOnGPUMachines;Serverless
type PoolKind string

// The kinds of pools.
const (
	// PoolMachines are machines, bought whole by the hour.
	PoolMachines PoolKind = "Machines"
	// PoolSpareOnGPUMachines are GPU machines whose spare CPU and memory other
	// workloads may use.
	PoolSpareOnGPUMachines PoolKind = "SpareOnGPUMachines"
	// PoolServerless is virtual capacity, bought by the pod.
	PoolServerless PoolKind = "Serverless"
)

// A ResourcePool says which machines belong together: those that a selector
// finds, or virtual nodes whose pods are bought one by one. A node belongs to
// at most one pool.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,shortName=rp,categories=neap
// +kubebuilder:printcolumn:name="Kind",type=string,JSONPath=`.spec.kind`
// +kubebuilder:printcolumn:name="Order",type=integer,JSONPath=`.spec.order`
// +kubebuilder:printcolumn:name="Machines",type=integer,JSONPath=`.status.machines`,description="Machines in the pool now"
// +kubebuilder:printcolumn:name="CPU",type=string,JSONPath=`.status.capacity.cpu`,description="Cores in the pool now"
// +kubebuilder:printcolumn:name="Cost/h",type=string,JSONPath=`.status.lastHour.cost`,description="What the last closed hour cost"
// +kubebuilder:printcolumn:name="Idle/h",type=string,JSONPath=`.status.lastHour.idle`,description="What of it was not used"
// +kubebuilder:printcolumn:name="Start",type=string,JSONPath=`.status.start.median`,description="Median time from a pod's binding to its readiness"
// +kubebuilder:printcolumn:name="Guard",type=string,JSONPath=`.status.conditions[?(@.type=="GuardMet")].status`,description="Whether the modules in the pool kept their quality targets"
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type ResourcePool struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// Spec is what you declare about the pool.
	// +required
	Spec ResourcePoolSpec `json:"spec"`

	// Status is what Neap found; it is written by Neap only.
	// +optional
	Status ResourcePoolStatus `json:"status,omitzero"`
}

// ResourcePoolSpec is what a user declares about a pool.
//
// +kubebuilder:validation:XValidation:rule="self.kind != 'Serverless' || has(self.machineType)",message="a Serverless pool needs machineType: the MachineType with the unit prices that its pods are charged by"
// +kubebuilder:validation:XValidation:rule="self.kind == 'Serverless' || !has(self.machineType)",message="machineType is for Serverless pools only: machines name their type in the label node.kubernetes.io/instance-type"
// +kubebuilder:validation:XValidation:rule="self.kind != 'Serverless' || !has(self.spare)",message="a Serverless pool holds no spare: its capacity is bought with each pod"
// +kubebuilder:validation:XValidation:rule="self.kind != 'Serverless' || !has(self.limit) || !has(self.limit.machines)",message="a Serverless pool has no machines to limit: limit cpu, memory or gpu"
// +kubebuilder:validation:XValidation:rule="self.kind == 'Serverless' || !has(self.serverless)",message="serverless says what a provider allows: it is for Serverless pools only"
// +kubebuilder:validation:XValidation:rule="self.kind == 'SpareOnGPUMachines' || !has(self.guard)",message="guard keeps room for GPU pods: it is for SpareOnGPUMachines pools only"
type ResourcePoolSpec struct {
	// Kind says how the capacity is bought: Machines are bought whole,
	// SpareOnGPUMachines are GPU machines whose spare CPU and memory other
	// workloads may use, Serverless is bought by the pod. It cannot change, for
	// the pool's past bills would no longer mean what they say.
	// +kubebuilder:default=Machines
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="kind cannot change: make another pool"
	// +optional
	Kind PoolKind `json:"kind,omitempty"`

	// Selector finds the pool's nodes by their labels. Without it they are the
	// nodes with the label neap.dev/pool=<name of the pool>. A node that several
	// pools select belongs to the one with the lowest order, then the first by name.
	// +kubebuilder:validation:XValidation:rule="(has(self.matchLabels) && size(self.matchLabels) > 0) || (has(self.matchExpressions) && size(self.matchExpressions) > 0)",message="an empty selector would take every node: name at least one label, or leave selector out"
	// +optional
	Selector *metav1.LabelSelector `json:"selector,omitempty"`

	// MachineType names the MachineType whose unit prices the pods of a
	// Serverless pool are charged by.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +optional
	MachineType string `json:"machineType,omitempty"`

	// Order says which pool comes first where several could: lowest first.
	// +kubebuilder:default=0
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=1000
	// +optional
	Order int32 `json:"order"`

	// Limit is the most that the pool should hold. Neap reports a pool beyond it
	// in the condition WithinLimit.
	// +optional
	Limit *PoolLimit `json:"limit,omitempty"`

	// Spare is capacity kept free on purpose for a sudden need. The bill shows
	// it as declared spare, apart from waste.
	// +optional
	Spare *Spare `json:"spare,omitempty"`

	// Serverless says what the provider of a Serverless pool allows.
	// +optional
	Serverless *ServerlessLimits `json:"serverless,omitempty"`

	// Guard keeps room for GPU pods on the machines of a SpareOnGPUMachines pool.
	// Pods without a GPU may hold only what is left, and those that an
	// ElasticPolicy placed there leave at once when a GPU pod needs their room.
	// +optional
	Guard *GPUGuard `json:"guard,omitempty"`
}

// GPUGuard is what of a GPU machine belongs to its GPUs, used or not.
//
// +kubebuilder:validation:XValidation:rule="!has(self.cpuPerGPU) || quantity(string(self.cpuPerGPU)).compareTo(quantity('0')) >= 0",message="cpuPerGPU must not be negative"
// +kubebuilder:validation:XValidation:rule="!has(self.memoryPerGPU) || quantity(string(self.memoryPerGPU)).compareTo(quantity('0')) >= 0",message="memoryPerGPU must not be negative"
// +kubebuilder:validation:XValidation:rule="has(self.cpuPerGPU) || has(self.memoryPerGPU)",message="an empty guard keeps nothing: give cpuPerGPU, memoryPerGPU or both"
type GPUGuard struct {
	// CPUPerGPU is how many cores are kept for each GPU, such as 8.
	// +optional
	CPUPerGPU *resource.Quantity `json:"cpuPerGPU,omitempty"`

	// MemoryPerGPU is how much memory is kept for each GPU, such as 64Gi.
	// +optional
	MemoryPerGPU *resource.Quantity `json:"memoryPerGPU,omitempty"`
}

// ServerlessLimits are what a provider of serverless capacity allows. What is
// left out has no limit.
type ServerlessLimits struct {
	// MaxPod is the largest pod that the provider takes, such as 64 cores and
	// 512Gi. Larger pods of the job class stay on machines.
	// +optional
	MaxPod *Amounts `json:"maxPod,omitempty"`

	// Creation is how fast the provider creates pods. Pods of the job class wait
	// at a scheduling gate for their turn, so that a burst is not refused.
	// +optional
	Creation *CreationRate `json:"creation,omitempty"`
}

// CreationRate is a provider's token bucket: Burst pods at once, and PerSecond
// more every second.
type CreationRate struct {
	// PerSecond is how many pods a second can be created in the long run.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100000
	// +required
	PerSecond int32 `json:"perSecond"`

	// Burst is how many can be created at once after a pause.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100000
	// +required
	Burst int32 `json:"burst"`
}

// PoolLimit is the most that a pool should hold.
//
// +kubebuilder:validation:XValidation:rule="has(self.machines) || has(self.cpu) || has(self.memory) || has(self.gpu)",message="an empty limit limits nothing: give machines, cpu, memory or gpu"
type PoolLimit struct {
	// Machines is the most machines.
	// +kubebuilder:validation:Minimum=0
	// +optional
	Machines *int32 `json:"machines,omitempty"`

	Amounts `json:",inline"`
}

// Spare is capacity kept free on purpose, on every machine or over the pool.
//
// +kubebuilder:validation:XValidation:rule="has(self.perMachine) != has(self.total)",message="give exactly one of perMachine and total"
type Spare struct {
	// PerMachine is kept free on every machine of the pool.
	// +optional
	PerMachine *Amounts `json:"perMachine,omitempty"`

	// Total is kept free over the whole pool, divided over its machines by their
	// size.
	// +optional
	Total *Amounts `json:"total,omitempty"`
}

// ResourcePoolStatus is what Neap found about a pool.
type ResourcePoolStatus struct {
	// ObservedGeneration is the generation of the spec that this status describes.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// Machines is how many nodes the pool has now.
	// +optional
	Machines int32 `json:"machines"`

	// Capacity is what those machines have together; for a Serverless pool, what
	// its pods ask for.
	// +optional
	Capacity Amounts `json:"capacity,omitzero"`

	// Start is the learnt time from a pod's binding to its readiness.
	// +optional
	Start *StartTime `json:"start,omitempty"`

	// LastHour is the bill of the last closed hour.
	// +optional
	LastHour *PoolHour `json:"lastHour,omitempty"`

	// Conditions: Ready, PriceKnown, WithinLimit, GuardMet.
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// StartTime is how long pods took from being bound to being ready.
type StartTime struct {
	// Median of the pods seen lately.
	// +optional
	Median metav1.Duration `json:"median"`

	// P95 is the 95th percentile of the pods seen lately.
	// +optional
	P95 metav1.Duration `json:"p95"`

	// Pods is how many pods the figures rest on.
	// +optional
	Pods int32 `json:"pods"`
}

// PoolHour is the bill of one pool in one closed hour.
type PoolHour struct {
	// From is when the hour began.
	// +optional
	From metav1.Time `json:"from"`

	// Cost is what the pool's machines cost in the hour.
	// +optional
	Cost string `json:"cost"`

	// Idle is what of it was not used.
	// +optional
	Idle string `json:"idle"`

	// Currency of the amounts.
	// +optional
	Currency string `json:"currency"`
}

// ResourcePoolList is a list of pools.
//
// +kubebuilder:object:root=true
type ResourcePoolList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []ResourcePool `json:"items"`
}
