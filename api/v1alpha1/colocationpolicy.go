package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// A ColocationPolicy says on which nodes batch work may use what online services
// leave, how much of it and at what times, and how it is held back. A node that
// several policies select has the one with the highest priority, then the first by
// name.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,shortName=clp,categories=neap
// +kubebuilder:printcolumn:name="Mode",type=string,JSONPath=`.spec.mode`
// +kubebuilder:printcolumn:name="Nodes",type=integer,JSONPath=`.status.nodes`,description="Nodes that the policy holds for"
// +kubebuilder:printcolumn:name="Capacity",type=integer,JSONPath=`.status.capacityMilli`,description="Thousandths of a core that batch may use now"
// +kubebuilder:printcolumn:name="Used",type=integer,JSONPath=`.status.usedMilli`,description="Thousandths of a core that batch pods ask for now"
// +kubebuilder:printcolumn:name="Would reclaim",type=integer,JSONPath=`.status.wouldReclaimMilli`,description="Thousandths of a core that mode Auto would give to batch now"
// +kubebuilder:printcolumn:name="Earned/day",type=string,JSONPath=`.status.earnedPerDay`,description="What the batch work of the last day was worth, less what it cost online"
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Why",type=string,JSONPath=`.status.reason`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type ColocationPolicy struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// Spec is what you declare.
	// +required
	Spec ColocationPolicySpec `json:"spec"`

	// Status is what Neap found and did; it is written by Neap only.
	// +optional
	Status ColocationPolicyStatus `json:"status,omitzero"`
}

// BatchResources says by which names batch capacity is asked for.
//
// +kubebuilder:validation:Enum=Neap;Kubernetes
type BatchResources string

// The names: Neap is neap.dev/batch-cpu and neap.dev/batch-memory; Kubernetes is
// these and kubernetes.io/batch-cpu and kubernetes.io/batch-memory beside them.
const (
	BatchResourcesNeap       BatchResources = "Neap"
	BatchResourcesKubernetes BatchResources = "Kubernetes"
)

// ColocationPolicySpec is what a user declares about colocation on nodes.
//
// +kubebuilder:validation:XValidation:rule="!has(self.windows) || self.windows.all(w, w.cpuPercent <= self.cpuPercent)",message="a window gives batch less, not more: its cpuPercent must not be above the policy's"
// +kubebuilder:validation:XValidation:rule="!has(self.windows) || self.windows.all(w, !has(w.memoryPercent) || w.memoryPercent <= self.memoryPercent)",message="a window gives batch less, not more: its memoryPercent must not be above the policy's"
// +kubebuilder:validation:XValidation:rule="self.mode != 'Auto' || self.ladder.idle != 'Never' || self.ladder.quota",message="nothing would hold batch back on the CPU: allow idle or quota in the ladder, or use mode Preview"
// +kubebuilder:validation:XValidation:rule="!has(self.windows) || self.windows.all(w, w.cpuPercent > 0) || self.ladder.evict",message="a window with cpuPercent 0 puts batch out, which needs evict in the ladder"
type ColocationPolicySpec struct {
	// Mode: Observe reports what batch could use, Preview also decides and records
	// without acting, Auto acts.
	// +kubebuilder:default=Preview
	// +optional
	Mode Mode `json:"mode,omitempty"`

	// NodeSelector finds the nodes by their labels. Without it they are all nodes
	// but virtual ones.
	// +kubebuilder:validation:XValidation:rule="(has(self.matchLabels) && size(self.matchLabels) > 0) || (has(self.matchExpressions) && size(self.matchExpressions) > 0)",message="an empty selector selects nothing in particular: name at least one label, or leave nodeSelector out to take every node"
	// +optional
	NodeSelector *metav1.LabelSelector `json:"nodeSelector,omitempty"`

	// Priority says which policy a node has that several select: the highest.
	// +kubebuilder:default=0
	// +kubebuilder:validation:Minimum=-1000
	// +kubebuilder:validation:Maximum=1000
	// +optional
	Priority int32 `json:"priority"`

	// Resources says by which names batch capacity is asked for: Neap, or
	// Kubernetes for pods that come from Koordinator or Volcano.
	// +kubebuilder:default=Neap
	// +optional
	Resources BatchResources `json:"resources,omitempty"`

	// CPUPercent is how much of a machine's cores online and batch together may use.
	// +kubebuilder:default=80
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	// +optional
	CPUPercent int32 `json:"cpuPercent,omitempty"`

	// MemoryPercent is how much of a machine's memory online and batch together may
	// use.
	// +kubebuilder:default=80
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	// +optional
	MemoryPercent int32 `json:"memoryPercent,omitempty"`

	// HolidayCalendar names the HolidayCalendar that says which days are workdays,
	// holidays and make-up days. Without it, Saturdays and Sundays are weekends and
	// all other days workdays.
	// +kubebuilder:validation:MaxLength=253
	// +optional
	HolidayCalendar string `json:"holidayCalendar,omitempty"`

	// Windows are times at which batch gets less, such as the evening peak. Where
	// several hold, the least counts. Batch is led out before a window opens.
	// +kubebuilder:validation:MaxItems=64
	// +listType=map
	// +listMapKey=name
	// +optional
	Windows []ColocationWindow `json:"windows,omitempty"`

	// Capacity says how the room for batch is found.
	// +kubebuilder:default={}
	// +optional
	Capacity ColocationCapacity `json:"capacity,omitzero"`

	// Ladder says by what means batch is held back, each one stronger than the one
	// before it.
	// +kubebuilder:default={idle:Auto,quota:true,memory:true,freeze:false,evict:true,attribute:false}
	// +optional
	Ladder ColocationLadder `json:"ladder,omitzero"`

	// Evictions bound how batch pods are evicted.
	// +kubebuilder:default={}
	// +optional
	Evictions ColocationEvictions `json:"evictions,omitzero"`

	// Slack says what online services feel, and how much of it is too much. Without
	// it, pressure and the delay in the run queue are watched by their defaults.
	// +kubebuilder:default={}
	// +optional
	Slack ColocationSlack `json:"slack,omitzero"`

	// Network bounds what batch pods send, so that online has its part of the link.
	// Without it the network is left alone.
	// +optional
	Network *ColocationNetwork `json:"network,omitempty"`

	// Guard is what the online services on these nodes must keep, beside the quality
	// of their own Modules. While it is not met, room for batch does not grow.
	// +optional
	Guard *Quality `json:"guard,omitempty"`
}

// ColocationWindow is a time of day at which batch gets less.
//
// +kubebuilder:validation:XValidation:rule="self.from != self.to",message="from and to are the same time: a window of a whole day goes from 00:00 to 24:00"
type ColocationWindow struct {
	// Name tells windows apart, and is shown where one of them binds.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +required
	Name string `json:"name"`

	// Days are the days on which it begins; a day that is one of them counts.
	// Without days it is every day.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=11
	// +listType=set
	// +optional
	Days []DayKind `json:"days,omitempty"`

	// From is when it begins, such as "18:00".
	// +kubebuilder:validation:XValidation:rule="self.matches('^([01][0-9]|2[0-3]):[0-5][0-9]$')",message="a time of day such as 18:00"
	// +kubebuilder:validation:MaxLength=5
	// +required
	From string `json:"from"`

	// To is when it ends, such as "22:30", up to "24:00". A time before from is on
	// the next day.
	// +kubebuilder:validation:XValidation:rule="self.matches('^(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$')",message="a time of day such as 22:30, up to 24:00"
	// +kubebuilder:validation:MaxLength=5
	// +required
	To string `json:"to"`

	// TimeZone is an IANA zone such as Asia/Shanghai.
	// +kubebuilder:validation:XValidation:rule="self != 'Local' && !self.contains(':') && timestamp('2026-01-01T00:00:00Z').getFullYear(self) > 0",message="an IANA zone such as Asia/Shanghai"
	// +kubebuilder:default="UTC"
	// +kubebuilder:validation:MaxLength=64
	// +optional
	TimeZone string `json:"timeZone,omitempty"`

	// CPUPercent is how much of a machine's cores online and batch together may use
	// in the window; 0: batch is out.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=100
	// +required
	CPUPercent int32 `json:"cpuPercent"`

	// MemoryPercent is the same of memory; without it, it is the policy's.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=100
	// +optional
	MemoryPercent *int32 `json:"memoryPercent,omitempty"`
}

// ColocationCapacity says how the room for batch is found.
type ColocationCapacity struct {
	// QuantilePercent of what online used at the same hour of the week is kept for
	// it. Give 95 where idle is not in force.
	// +kubebuilder:default=70
	// +kubebuilder:validation:Minimum=50
	// +kubebuilder:validation:Maximum=100
	// +optional
	QuantilePercent int32 `json:"quantilePercent,omitempty"`

	// HistoryDays is how many days of use are learnt from.
	// +kubebuilder:default=14
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=60
	// +optional
	HistoryDays int32 `json:"historyDays,omitempty"`

	// DefaultRunTime is how long a batch pod is taken to run that does not say so and
	// whose owner's pods were not seen yet.
	// +kubebuilder:default="1h"
	// +kubebuilder:validation:XValidation:rule="duration(self) > duration('0s') && duration(self) <= duration('24h')",message="a duration above 0 and up to 24h, such as 1h"
	// +kubebuilder:validation:MaxLength=16
	// +optional
	DefaultRunTime string `json:"defaultRunTime,omitempty"`

	// RisePercentPer5Minutes is by how much of the machine the room may grow in five
	// minutes. It shrinks at once.
	// +kubebuilder:default=10
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	// +optional
	RisePercentPer5Minutes int32 `json:"risePercentPer5Minutes,omitempty"`

	// MinimumMilli is the least room in thousandths of a core: less than that is not
	// offered at all.
	// +kubebuilder:default=100
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=1000000
	// +optional
	MinimumMilli int64 `json:"minimumMilli"`
}

// Idle says whether batch is put into the kernel's idle class.
//
// +kubebuilder:validation:Enum=Auto;Always;Never
type Idle string

// Auto uses cpu.idle where the kubelet on the node can bear it, Always everywhere
// the kernel has it, Never nowhere.
const (
	IdleAuto   Idle = "Auto"
	IdleAlways Idle = "Always"
	IdleNever  Idle = "Never"
)

// ColocationLadder says by what means batch is held back.
//
// +kubebuilder:validation:XValidation:rule="!self.freeze || self.quota",message="freeze comes after quota in the ladder: allow quota as well"
// +kubebuilder:validation:XValidation:rule="!self.attribute || self.freeze",message="attribute freezes batch pods for a moment: allow freeze as well"
type ColocationLadder struct {
	// Idle lets online pods have the CPU at once when they want it.
	// +kubebuilder:default=Auto
	// +optional
	Idle Idle `json:"idle,omitempty"`

	// Quota bounds the CPU time of all batch pods of a node together.
	// +kubebuilder:default=true
	// +optional
	Quota bool `json:"quota"`

	// Memory bounds the memory of batch pods when the node is short of it.
	// +kubebuilder:default=true
	// +optional
	Memory bool `json:"memory"`

	// Freeze stops batch pods that allow it by neap.dev/batch-freeze, for a while.
	// +kubebuilder:default=false
	// +optional
	Freeze bool `json:"freeze"`

	// Evict evicts batch pods, those first whose work is least.
	// +kubebuilder:default=true
	// +optional
	Evict bool `json:"evict"`

	// Attribute finds out which batch pod an online service suffers from when less CPU
	// for batch did not help: one pod at a time that allows it by neap.dev/batch-freeze
	// stands still for a second now and then. Who is found is frozen and evicted first.
	// +kubebuilder:default=false
	// +optional
	Attribute bool `json:"attribute"`
}

// ColocationEvictions bound how batch pods are evicted.
type ColocationEvictions struct {
	// PerHour is how many evictions there may be within any hour, on all nodes of
	// the policy together. Leading batch out before a window counts, an emergency
	// of a node as well.
	// +kubebuilder:default=10
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=10000
	// +optional
	PerHour int32 `json:"perHour,omitempty"`

	// GracePeriod is how long an evicted pod has to end by itself.
	// +kubebuilder:default="30s"
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s') && duration(self) <= duration('1h')",message="a duration from 1s to 1h, such as 30s"
	// +kubebuilder:validation:MaxLength=16
	// +optional
	GracePeriod string `json:"gracePeriod,omitempty"`
}

// ColocationSlack says what online services feel and how much of it is too much.
type ColocationSlack struct {
	// P99 is the 99th percentile of the online services of these nodes. $node in the
	// query stands for the node's name.
	// +optional
	P99 *LatencyTarget `json:"p99,omitempty"`

	// RunQueueTargetMicroseconds is the highest 99th percentile of how long threads
	// of online pods wait for a CPU; 0 leaves it out.
	// +kubebuilder:default=5000
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=10000000
	// +optional
	RunQueueTargetMicroseconds int64 `json:"runQueueTargetMicroseconds"`

	// PressurePermille is the highest share of time in which some thread of online
	// pods waited for a CPU, in thousandths, less what their own limits made them
	// wait; 0 leaves it out. It counts where the run queue cannot be watched.
	// +kubebuilder:default=100
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=1000
	// +optional
	PressurePermille int32 `json:"pressurePermille"`

	// CoolDown is how long batch stays down after a target was missed: at most, where
	// idle is in force, for half a minute is enough there if it does not happen again.
	// +kubebuilder:default="5m"
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('0s') && duration(self) <= duration('1h')",message="a duration up to 1h, such as 5m"
	// +kubebuilder:validation:MaxLength=16
	// +optional
	CoolDown string `json:"coolDown,omitempty"`
}

// ColocationNetwork bounds what batch pods send.
type ColocationNetwork struct {
	// Interface is the link that is shared, such as eth0; without it, it is that of
	// the default route.
	// +kubebuilder:validation:MaxLength=15
	// +kubebuilder:validation:XValidation:rule="self.matches('^[A-Za-z0-9_.-]*$')",message="the name of a network interface such as eth0"
	// +optional
	Interface string `json:"interface,omitempty"`

	// Megabits is what the link carries in a second.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000000
	// +required
	Megabits int32 `json:"megabits"`

	// ReservePercent of the link is kept free beside what online uses.
	// +kubebuilder:default=5
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=90
	// +optional
	ReservePercent int32 `json:"reservePercent"`
}

// ColocationPolicyStatus is what Neap found and did.
type ColocationPolicyStatus struct {
	// ObservedGeneration is the generation of the spec that the status is of.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// Nodes is how many nodes the policy holds for.
	// +optional
	Nodes int32 `json:"nodes"`

	// CapacityMilli is what batch may use now on all of them, in thousandths of a
	// core. In modes Observe and Preview it is 0.
	// +optional
	CapacityMilli int64 `json:"capacityMilli"`

	// CapacityMemoryMiB is the same of memory.
	// +optional
	CapacityMemoryMiB int64 `json:"capacityMemoryMiB"`

	// UsedMilli is what the batch pods there ask for, in thousandths of a core.
	// +optional
	UsedMilli int64 `json:"usedMilli"`

	// WouldReclaimMilli is what batch could use now in mode Auto.
	// +optional
	WouldReclaimMilli int64 `json:"wouldReclaimMilli"`

	// EarnedPerDay is what the batch work of the last day was worth, less what online
	// lost by it and what work was lost; in modes Observe and Preview what mode Auto
	// would earn at most. It may be negative.
	// +optional
	EarnedPerDay string `json:"earnedPerDay,omitempty"`

	// Currency of the amounts.
	// +optional
	Currency string `json:"currency,omitempty"`

	// Reason says in one sentence what binds, or what is missing.
	// +optional
	Reason string `json:"reason,omitempty"`

	// RunTimes are how long pods of the batch class took, learnt by their owners.
	// +kubebuilder:validation:MaxItems=512
	// +listType=map
	// +listMapKey=owner
	// +optional
	RunTimes []LearntRunTime `json:"runTimes,omitempty"`

	// OnlinePeaks are how much CPU one pod of an online workload uses at its highest,
	// learnt on the nodes of the policy; by it the scheduler places the next one.
	// +kubebuilder:validation:MaxItems=512
	// +listType=map
	// +listMapKey=owner
	// +optional
	OnlinePeaks []LearntPeak `json:"onlinePeaks,omitempty"`

	// Conditions: Ready, MetricsFresh, GuardMet.
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// LearntRunTime is how long the pods of one owner took.
type LearntRunTime struct {
	// Owner as namespace/kind/name: its topmost owner, such as etl/CronJob/nightly.
	// +required
	Owner string `json:"owner"`

	// P80 is what 80 of 100 of its pods took at most.
	// +required
	P80 metav1.Duration `json:"p80"`

	// Pods is how many pods the figure rests on.
	// +required
	Pods int32 `json:"pods"`
}

// LearntPeak is how much CPU one pod of an online workload uses at its highest.
type LearntPeak struct {
	// Owner as namespace/kind/name, such as shop/Deployment/web.
	// +required
	Owner string `json:"owner"`

	// PeakMilli is the highest of HourlyMilli.
	// +required
	PeakMilli int64 `json:"peakMilli"`

	// HourlyMilli is how much it uses at most in each hour of the day, from midnight
	// UTC on, in thousandths of a core; -1 where that is not known yet.
	// +kubebuilder:validation:MinItems=24
	// +kubebuilder:validation:MaxItems=24
	// +listType=atomic
	// +required
	HourlyMilli []int64 `json:"hourlyMilli"`

	// Pods is how many pods were measured last.
	// +required
	Pods int32 `json:"pods"`

	// MeasuredAt is until when they were measured.
	// +required
	MeasuredAt metav1.Time `json:"measuredAt"`
}

// ColocationPolicyList is a list of policies.
//
// +kubebuilder:object:root=true
type ColocationPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []ColocationPolicy `json:"items"`
}
