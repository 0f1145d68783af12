package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is the API group and version of everything in this package.
var GroupVersion = schema.GroupVersion{Group: "neap.dev", Version: "v1alpha1"}

// AddToScheme registers the kinds of this package.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion,
		&MachineType{}, &MachineTypeList{},
		&ResourcePool{}, &ResourcePoolList{},
		&Module{}, &ModuleList{},
		&ElasticPolicy{}, &ElasticPolicyList{},
		&Timetable{}, &TimetableList{},
		&HolidayCalendar{}, &HolidayCalendarList{},
		&RepackPlan{}, &RepackPlanList{},
		&GPUClass{}, &GPUClassList{},
		&ColocationPolicy{}, &ColocationPolicyList{},
	)
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}

// Labels, taints and resources that Neap reads on nodes and pods.
const (
	// LabelPool on a node names the ResourcePool it belongs to, where the pool
	// has no selector.
	LabelPool = "neap.dev/pool"
	// LabelSimulated is "true" on nodes that exist only in a simulation.
	LabelSimulated = "neap.dev/simulated"
	// AnnotationSimulatedLife on a pod whose work is done is how long, by the
	// simulated day, it took from its binding on, such as 1m30s.
	AnnotationSimulatedLife = "neap.dev/simulated-life"
	// LabelHeadroom is "true" on pods that only hold room for a sudden need.
	LabelHeadroom = "neap.dev/headroom"
	// LabelClass on a pod says what class of work it is; ClassJob goes to the
	// serverless pools by itself.
	LabelClass = "neap.dev/class"
	// ClassJob is the class of short work that nobody waits for.
	ClassJob = "job"
	// AnnotationSpread on a pod of the job class is over how long its Job may be
	// started after its time, such as 5m: every Job has its own moment in it.
	AnnotationSpread = "neap.dev/spread"
	// AnnotationServerlessPools on a pod of the job class names the pools that
	// admission let it into, separated by commas.
	AnnotationServerlessPools = "neap.dev/serverless-pools"
	// GateBurst is the scheduling gate at which pods of the job class wait for
	// their turn.
	GateBurst = "neap.dev/burst"
	// ReadinessServing is the readiness gate by which Neap cuts a pod off from
	// traffic before it is deleted. Admission gives it to the pods of
	// ElasticPolicies that watch what they cut off.
	ReadinessServing = "neap.dev/serving"
	// AnnotationPause is "true" on an ElasticPolicy, or on its target, that Neap
	// must leave alone for now.
	AnnotationPause = "neap.dev/pause"
	// TaintServerless is on virtual nodes, whose pods are bought one by one.
	TaintServerless = "neap.dev/serverless"
	// ResourceGPU is the extended resource that counts whole GPUs.
	ResourceGPU = "nvidia.com/gpu"
)

// Condition types in the status of the kinds.
const (
	// ConditionReady is True when everything that Neap needs from the object is
	// there; its message says what is missing.
	ConditionReady = "Ready"
	// ConditionTargetFound says whether a Module's workload exists.
	ConditionTargetFound = "TargetFound"
	// ConditionPriceKnown says whether every machine concerned has a price.
	ConditionPriceKnown = "PriceKnown"
	// ConditionLoadKnown says whether a Module's load could be counted in the
	// last closed hour.
	ConditionLoadKnown = "LoadKnown"
	// ConditionGuardMet says whether the quality targets were kept in the last
	// closed hour.
	ConditionGuardMet = "GuardMet"
	// ConditionWithinLimit says whether a ResourcePool is within its limit.
	ConditionWithinLimit = "WithinLimit"
	// ConditionSoleOwner says whether Neap alone sets the target's replicas; its
	// message names the other owner.
	ConditionSoleOwner = "SoleOwner"
	// ConditionMetricsFresh says whether the load is known; without it replicas
	// are held.
	ConditionMetricsFresh = "MetricsFresh"
	// ConditionForecastSkilled says whether the forecast beats repeating the past.
	ConditionForecastSkilled = "ForecastSkilled"
	// ConditionScaleInAllowed says whether replicas may go now, and if not why.
	ConditionScaleInAllowed = "ScaleInAllowed"
	// ConditionOrderKept says whether replicas leave in the order of the pools,
	// and if not why.
	ConditionOrderKept = "OrderKept"
)
