package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// Marks of repacking on pods.
const (
	// LabelRepack names the RepackPlan that a pod stands in for another one of: it
	// is on the replacement until its service has it.
	LabelRepack = "neap.dev/repack"
	// AnnotationGPUSpot on a pod is the place that a plan found for it, as JSON:
	// {"node":"gpu-7","devices":["GPU-…"]}. The scheduler takes it if the pod fits
	// there.
	AnnotationGPUSpot = "neap.dev/gpu-spot"
)

// A RepackPlan moves pods with GPUs to other places, so that pods that wait find
// one (Admit), machines can be given back (Empty) or GPUs that are sick run
// nothing (Evacuate). Neap finds the moves and tells them in the status; in mode
// Execute it also makes them: for every pod first a replacement that is ready at
// the new place, then the old one goes.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,shortName=rpp,categories=neap
// +kubebuilder:printcolumn:name="Goal",type=string,JSONPath=`.spec.goal`
// +kubebuilder:printcolumn:name="Mode",type=string,JSONPath=`.spec.mode`
// +kubebuilder:printcolumn:name="Phase",type=string,JSONPath=`.status.phase`
// +kubebuilder:printcolumn:name="Moves",type=integer,JSONPath=`.status.planned`,description="Moves of the plan"
// +kubebuilder:printcolumn:name="Done",type=integer,JSONPath=`.status.done`,description="Moves that are made"
// +kubebuilder:printcolumn:name="Machines",type=integer,JSONPath=`.status.freed.machines`,description="Machines that run nothing with GPUs afterwards"
// +kubebuilder:printcolumn:name="Saved/h",type=string,JSONPath=`.status.freed.perHour`,description="What those machines cost in an hour"
// +kubebuilder:printcolumn:name="Gap",type=integer,JSONPath=`.status.gap.gpus`,description="GPUs that the best possible packing could need fewer, at most"
// +kubebuilder:printcolumn:name="Why",type=string,JSONPath=`.status.reason`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type RepackPlan struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// Spec is what you declare.
	// +required
	Spec RepackPlanSpec `json:"spec"`

	// Status is what Neap planned and did; it is written by Neap only.
	// +optional
	Status RepackPlanStatus `json:"status,omitzero"`
}

// RepackGoal is what a plan is for.
//
// +kubebuilder:validation:Enum=Admit;Empty;Evacuate
type RepackGoal string

// The goals: Admit finds places for pods that wait, Empty gives machines back,
// Evacuate takes everything off machines or devices.
const (
	RepackAdmit    RepackGoal = "Admit"
	RepackEmpty    RepackGoal = "Empty"
	RepackEvacuate RepackGoal = "Evacuate"
)

// RepackMode says how far a plan goes.
//
// +kubebuilder:validation:Enum=DryRun;Execute
type RepackMode string

// The modes: DryRun plans, Execute also moves.
const (
	RepackDryRun  RepackMode = "DryRun"
	RepackExecute RepackMode = "Execute"
)

// Unsurged says what becomes of pods that cannot have a replacement first.
//
// +kubebuilder:validation:Enum=Leave;Evict
type Unsurged string

// Leave leaves them where they are, Evict evicts them; their controller then
// makes them anew.
const (
	UnsurgedLeave Unsurged = "Leave"
	UnsurgedEvict Unsurged = "Evict"
)

// PodName is a pod as namespace/name.
//
// +kubebuilder:validation:MaxLength=317
// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?/[a-z0-9]([-.a-z0-9]*[a-z0-9])?$')",message="a pod is written namespace/name, such as live/chat-7d9f-x2x5k"
type PodName string

// RepackPlanSpec is what a user declares about a plan.
//
// +kubebuilder:validation:XValidation:rule="self.goal == oldSelf.goal && has(self.pods) == has(oldSelf.pods) && has(self.machines) == has(oldSelf.machines) && has(self.devices) == has(oldSelf.devices)",message="what a plan is for cannot change: make another plan"
// +kubebuilder:validation:XValidation:rule="self.goal == 'Admit' ? has(self.pods) : !has(self.pods)",message="goal Admit needs pods, the ones that wait; the other goals take none"
// +kubebuilder:validation:XValidation:rule="self.goal != 'Admit' || !has(self.machines)",message="goal Admit takes no machines: leave them out"
// +kubebuilder:validation:XValidation:rule="self.goal == 'Evacuate' || !has(self.devices)",message="only goal Evacuate takes devices: leave them out"
// +kubebuilder:validation:XValidation:rule="!(has(oldSelf.abort) && oldSelf.abort) || has(self.abort) && self.abort",message="a plan that was aborted stays so: make another plan"
// +kubebuilder:validation:XValidation:rule="oldSelf.mode != 'Execute' || self.mode == 'Execute'",message="a plan that executes does not become a dry run: pause or abort it"
type RepackPlanSpec struct {
	// Goal: Admit, Empty or Evacuate. It cannot change.
	// +required
	Goal RepackGoal `json:"goal"`

	// Pods are those that wait and are to be admitted, the most urgent first.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=256
	// +listType=atomic
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="what a plan is for cannot change: make another plan"
	// +optional
	Pods []PodName `json:"pods,omitempty"`

	// Machines are the nodes that may be emptied, or are to be evacuated. Goal
	// Empty without machines chooses among all.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=253
	// +listType=atomic
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="what a plan is for cannot change: make another plan"
	// +optional
	Machines []string `json:"machines,omitempty"`

	// Devices are GPUs, by UUID, that are to be evacuated. Goal Evacuate without
	// machines and devices is for all GPUs that are sick.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=253
	// +listType=atomic
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="what a plan is for cannot change: make another plan"
	// +optional
	Devices []string `json:"devices,omitempty"`

	// Mode: DryRun plans, Execute also moves.
	// +kubebuilder:default=DryRun
	// +optional
	Mode RepackMode `json:"mode,omitempty"`

	// Paused begins no further move; what is under way is brought to its end.
	// +optional
	Paused bool `json:"paused,omitempty"`

	// Abort ends the plan: replacements that no service has yet are deleted, moves
	// that cannot be taken back any more are brought to their end. It is final.
	// +optional
	Abort bool `json:"abort,omitempty"`

	// Limits bound what is moved.
	// +kubebuilder:default={}
	// +optional
	Limits RepackLimits `json:"limits,omitzero"`

	// MinimumSaving is what moves that belong together must save in an hour. Below
	// it they are not planned, and a plan that is under way stops.
	// +optional
	MinimumSaving *Money `json:"minimumSaving,omitempty"`

	// Unsurged says what becomes of pods that are to move and that no ReplicaSet
	// owns, such as those of a StatefulSet: they cannot have a replacement first.
	// Leave leaves them and says so; Evict evicts them, and they do not serve until
	// their controller's new one is ready. Pods without a controller always stay.
	// +kubebuilder:default=Leave
	// +optional
	Unsurged Unsurged `json:"unsurged,omitempty"`
}

// RepackLimits bound what a plan moves.
type RepackLimits struct {
	// MovesPerHour is how many moves may begin within any hour.
	// +kubebuilder:default=30
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=10000
	// +optional
	MovesPerHour int32 `json:"movesPerHour,omitempty"`

	// MaxMoves is how many moves the plan may have.
	// +kubebuilder:default=100
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000
	// +optional
	MaxMoves int32 `json:"maxMoves,omitempty"`

	// Parallel is how many moves may be under way at once.
	// +kubebuilder:default=1
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=16
	// +optional
	Parallel int32 `json:"parallel,omitempty"`

	// Cooldown is how long after a move no other pod of the same service is moved.
	// +kubebuilder:default="30m"
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('0s') && duration(self) <= duration('168h')",message="a duration up to 168h, such as 30m"
	// +kubebuilder:validation:MaxLength=16
	// +optional
	Cooldown string `json:"cooldown,omitempty"`

	// ReadyWithin is how long a replacement may take to be ready. Without it, it is
	// three times what its service's pods took, and 10m at least.
	// +kubebuilder:validation:XValidation:rule="duration(self) > duration('0s') && duration(self) <= duration('24h')",message="a duration above 0 and up to 24h, such as 20m"
	// +kubebuilder:validation:MaxLength=16
	// +optional
	ReadyWithin string `json:"readyWithin,omitempty"`
}

// RepackPhase is how far a plan is.
//
// +kubebuilder:validation:Enum=Pending;Planned;Running;Paused;Done;Stopped;Failed
type RepackPhase string

// The phases. Done, Stopped and Failed are final.
const (
	RepackPending RepackPhase = "Pending" // nothing is planned yet
	RepackPlanned RepackPhase = "Planned" // the moves are known; a dry run stays so
	RepackRunning RepackPhase = "Running"
	RepackPaused  RepackPhase = "Paused"
	RepackDone    RepackPhase = "Done"
	RepackStopped RepackPhase = "Stopped" // by a person or by rule; the reason says why
	RepackFailed  RepackPhase = "Failed"  // it could not be planned, or too many moves failed
)

// Over reports whether a plan in this phase does nothing any more.
func (p RepackPhase) Over() bool {
	return p == RepackDone || p == RepackStopped || p == RepackFailed
}

// RepackPlanStatus is what Neap planned and did.
type RepackPlanStatus struct {
	// Phase says how far the plan is.
	// +optional
	Phase RepackPhase `json:"phase,omitempty"`

	// Reason says in one sentence what is waited for, or why it is over.
	// +optional
	Reason string `json:"reason,omitempty"`

	// ObservedGeneration is the generation of the spec that the status is of.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// PlannedAt is when the moves that are not made yet were found.
	// +optional
	PlannedAt *metav1.Time `json:"plannedAt,omitempty"`

	// Replans counts how often the world changed so that the rest of the plan had
	// to be found anew.
	// +optional
	Replans int32 `json:"replans,omitempty"`

	// Planned is how many moves there are.
	// +optional
	Planned int32 `json:"planned,omitempty"`

	// Done is how many of them are made.
	// +optional
	Done int32 `json:"done,omitempty"`

	// Failed is how many of them were given up.
	// +optional
	Failed int32 `json:"failed,omitempty"`

	// Further says why there are not more moves.
	// +optional
	Further string `json:"further,omitempty"`

	// Moves are those made and those to come, in their order.
	// +kubebuilder:validation:MaxItems=4096
	// +listType=atomic
	// +optional
	Moves []RepackMove `json:"moves,omitempty"`

	// Holds are places that the scheduler keeps for the pods named.
	// +kubebuilder:validation:MaxItems=1024
	// +listType=atomic
	// +optional
	Holds []RepackHold `json:"holds,omitempty"`

	// Places are where the pods to be admitted will run.
	// +kubebuilder:validation:MaxItems=256
	// +listType=atomic
	// +optional
	Places []RepackHold `json:"places,omitempty"`

	// Left names pods that should have been moved or admitted and are not, each
	// with why.
	// +kubebuilder:validation:MaxItems=1024
	// +listType=atomic
	// +optional
	Left []RepackLeft `json:"left,omitempty"`

	// Before, Peak and After are what the pods with GPUs hold: before the plan, at
	// most while it is carried out, and after it.
	// +optional
	Before *RepackLevel `json:"before,omitempty"`
	// +optional
	Peak *RepackLevel `json:"peak,omitempty"`
	// +optional
	After *RepackLevel `json:"after,omitempty"`

	// Freed is what the plan gives back.
	// +optional
	Freed *RepackFreed `json:"freed,omitempty"`

	// Gap is how far from the best possible packing the fleet is after the plan, at
	// most: no packing of these pods is better by more.
	// +optional
	Gap *RepackGap `json:"gap,omitempty"`

	// LostServingSeconds is for how long pods did not serve that had no replacement
	// first, over all moves made.
	// +optional
	LostServingSeconds int64 `json:"lostServingSeconds,omitempty"`

	// Conditions are: Ready, which is True while nothing stands in the way.
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// RepackMoveState is how far a move is.
//
// +kubebuilder:validation:Enum=Pending;Surging;Switching;Leaving;Done;Skipped;Failed;Undone
type RepackMoveState string

// The states of a move. Done, Skipped, Failed and Undone are final.
const (
	MovePending   RepackMoveState = "Pending"
	MoveSurging   RepackMoveState = "Surging"   // the replacement starts
	MoveSwitching RepackMoveState = "Switching" // it is ready and takes the old one's part
	MoveLeaving   RepackMoveState = "Leaving"   // the service has it; the old one goes
	MoveDone      RepackMoveState = "Done"
	MoveSkipped   RepackMoveState = "Skipped" // there was nothing to move any more
	MoveFailed    RepackMoveState = "Failed"  // the old one stays
	MoveUndone    RepackMoveState = "Undone"  // the plan was aborted; the old one stays
)

// Over reports whether a move in this state does nothing any more.
func (s RepackMoveState) Over() bool {
	return s == MoveDone || s == MoveSkipped || s == MoveFailed || s == MoveUndone
}

// RepackSpot is a place: GPUs of one machine.
type RepackSpot struct {
	// Machine is the node.
	// +required
	Machine string `json:"machine"`

	// Devices are the UUIDs of its GPUs.
	// +listType=atomic
	// +optional
	Devices []string `json:"devices,omitempty"`
}

// RepackMove is one pod that goes from one place to another.
type RepackMove struct {
	// Pod is the one that moves, as namespace/name.
	// +required
	Pod string `json:"pod"`

	// UID is the pod's own; another pod of the same name is not it.
	// +optional
	UID string `json:"uid,omitempty"`

	// Service is the workload that it is of, such as live/Deployment/chat.
	// +optional
	Service string `json:"service,omitempty"`

	// From is where it is, To where its replacement runs.
	// +required
	From RepackSpot `json:"from"`
	// +required
	To RepackSpot `json:"to"`

	// Milli is what it takes of the compute of each of To's devices, in thousandths.
	// +optional
	Milli int64 `json:"milli,omitempty"`

	// MemoryMiB is what it takes of their memory.
	// +optional
	MemoryMiB int64 `json:"memoryMiB,omitempty"`

	// LoadSeconds is how long a replacement is expected to take until it serves.
	// +optional
	LoadSeconds int64 `json:"loadSeconds,omitempty"`

	// Cost is what the move costs: the second place for as long as it is held.
	// +optional
	Cost Money `json:"cost,omitempty"`

	// After is how many moves, from the first of the plan's list, have to be over
	// before this one finds its place free.
	// +optional
	After int32 `json:"after,omitempty"`

	// Evict is true for a pod that has no replacement first.
	// +optional
	Evict bool `json:"evict,omitempty"`

	// State says how far the move is.
	// +required
	State RepackMoveState `json:"state"`

	// SurgePod is the replacement's name, in the pod's namespace.
	// +optional
	SurgePod string `json:"surgePod,omitempty"`

	// StartedAt is when the move began.
	// +optional
	StartedAt *metav1.Time `json:"startedAt,omitempty"`

	// EndedAt is when it was over.
	// +optional
	EndedAt *metav1.Time `json:"endedAt,omitempty"`

	// Message says what is waited for, or what went wrong.
	// +optional
	Message string `json:"message,omitempty"`
}

// RepackHold is a place that is kept for one pod.
type RepackHold struct {
	// Pod that the place is kept for, as namespace/name. It need not exist yet.
	// +required
	Pod string `json:"pod"`

	// Machine is the node.
	// +required
	Machine string `json:"machine"`

	// Devices are the UUIDs of its GPUs.
	// +listType=atomic
	// +required
	Devices []string `json:"devices"`

	// Milli is how many thousandths are kept of each of the devices.
	// +optional
	Milli int64 `json:"milli,omitempty"`

	// MemoryMiB is how much of their memory is kept.
	// +optional
	MemoryMiB int64 `json:"memoryMiB,omitempty"`
}

// RepackLeft is a pod that stays.
type RepackLeft struct {
	// Pod as namespace/name.
	// +required
	Pod string `json:"pod"`

	// Reason says why it stays.
	// +required
	Reason string `json:"reason"`
}

// RepackLevel is what pods with GPUs hold.
type RepackLevel struct {
	// GPUs is how many GPUs the machines have that run any.
	// +optional
	GPUs int32 `json:"gpus"`

	// Machines is how many machines run any.
	// +optional
	Machines int32 `json:"machines"`
}

// RepackFreed is what a plan gives back.
type RepackFreed struct {
	// Machines is how many run no pod with GPUs afterwards.
	// +optional
	Machines int32 `json:"machines"`

	// GPUs is how many those machines have.
	// +optional
	GPUs int32 `json:"gpus"`

	// Names are the machines.
	// +listType=atomic
	// +optional
	Names []string `json:"names,omitempty"`

	// PerHour is what they cost in an hour; absent where a price is not known.
	// +optional
	PerHour Money `json:"perHour,omitempty"`

	// Cost is what all moves of the plan cost together.
	// +optional
	Cost Money `json:"cost,omitempty"`
}

// RepackGap is how far from the best possible something is, at most.
type RepackGap struct {
	// GPUs that the best packing could need fewer.
	// +optional
	GPUs int32 `json:"gpus"`

	// PerHour is what could be saved in an hour; absent where a price is not known.
	// +optional
	PerHour Money `json:"perHour,omitempty"`
}

// RepackPlanList is a list of RepackPlans.
//
// +kubebuilder:object:root=true
type RepackPlanList struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ListMeta `json:"metadata,omitzero"`
	Items           []RepackPlan `json:"items"`
}
