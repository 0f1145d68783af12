package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// A Module says what a workload is to the bill: which product features it
// serves, how its load is counted and which quality it must keep. Workloads
// without a Module are billed too, under their own name.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Namespaced,shortName=mod,categories=neap
// +kubebuilder:printcolumn:name="Kind",type=string,JSONPath=`.spec.targetRef.kind`
// +kubebuilder:printcolumn:name="Target",type=string,JSONPath=`.spec.targetRef.name`
// +kubebuilder:printcolumn:name="Pods",type=integer,JSONPath=`.status.pods`,description="Pods bound to machines now"
// +kubebuilder:printcolumn:name="Cost/h",type=string,JSONPath=`.status.lastHour.cost`,description="What the last closed hour cost, shared idle included"
// +kubebuilder:printcolumn:name="Requests",type=integer,JSONPath=`.status.lastHour.requests`,description="Load of the last closed hour"
// +kubebuilder:printcolumn:name="Guard",type=string,JSONPath=`.status.conditions[?(@.type=="GuardMet")].status`,description="Whether the quality targets were kept in the last closed hour"
// +kubebuilder:printcolumn:name="Features",type=string,JSONPath=`.spec.features[*].name`,priority=1
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type Module struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// Spec is what you declare about the workload.
	// +required
	Spec ModuleSpec `json:"spec"`

	// Status is what Neap found; it is written by Neap only.
	// +optional
	Status ModuleStatus `json:"status,omitzero"`
}

// ModuleSpec is what a user declares about a workload.
type ModuleSpec struct {
	// TargetRef names the workload in the Module's own namespace. It cannot
	// change, for the Module's history would then be another workload's.
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="targetRef cannot change: make another Module"
	// +required
	TargetRef TargetRef `json:"targetRef"`

	// Features are the product features that the workload serves, with the share
	// of it that each takes. The shares add up to 1000. Without features the
	// workload's cost belongs to no feature.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:XValidation:rule="self.map(f, f.share).sum() == 1000",message="the shares of a Module's features add up to 1000 (thousandths)"
	// +listType=map
	// +listMapKey=name
	// +optional
	Features []Feature `json:"features,omitempty"`

	// Load says how the workload's load is counted.
	// +optional
	Load *Load `json:"load,omitempty"`

	// Quality is the guard: what no saving may cost.
	// +optional
	Quality *Quality `json:"quality,omitempty"`
}

// TargetRef names a workload.
type TargetRef struct {
	// APIVersion of the workload.
	// +kubebuilder:default="apps/v1"
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +optional
	APIVersion string `json:"apiVersion,omitempty"`

	// Kind of the workload: Deployment, StatefulSet, DaemonSet, CronJob, Job, or
	// any kind that owns pods. It is the top owner: a Deployment, not its
	// ReplicaSet; a CronJob, not its Jobs.
	// +kubebuilder:default=Deployment
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="self.matches('^[A-Z][A-Za-z0-9]*$')",message="kind is a Kubernetes kind such as Deployment"
	// +kubebuilder:validation:XValidation:rule="self != 'ReplicaSet'",message="name the Deployment, not its ReplicaSet: a new version of it would fall out of the Module"
	// +optional
	Kind string `json:"kind,omitempty"`

	// Name of the workload.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +required
	Name string `json:"name"`
}

// Feature is a product feature and the share of a module that serves it.
type Feature struct {
	// Name of the feature, as the product's owner calls it.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	// +required
	Name string `json:"name"`

	// Share of the module in thousandths: 250 is a quarter. A single feature
	// takes all of it.
	// +kubebuilder:default=1000
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000
	// +optional
	Share int32 `json:"share,omitempty"`
}

// Query is a PromQL expression with one result. $window stands for the length
// of the time asked about, such as 3600s.
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=4096
// +kubebuilder:validation:XValidation:rule="self.contains('$window')",message="a query holds $window where its range goes, such as rate(http_requests_total[$window])"
type Query string

// Load says how the load of a module is counted.
type Load struct {
	// Query counts the requests in $window, such as
	// sum(increase(http_requests_total{namespace="shop",module="cart"}[$window])).
	// +required
	Query Query `json:"query"`
}

// Quality is the guard of a module.
//
// +kubebuilder:validation:XValidation:rule="has(self.success) || has(self.p99)",message="a guard needs success, p99 or both"
type Quality struct {
	// Success is the share of requests that succeed.
	// +optional
	Success *SuccessTarget `json:"success,omitempty"`

	// P99 is the latency that 99 of 100 requests stay below.
	// +optional
	P99 *LatencyTarget `json:"p99,omitempty"`
}

// SuccessTarget is the least share of requests that must succeed.
type SuccessTarget struct {
	// Query yields the share that succeeded over $window, from 0 to 1.
	// +required
	Query Query `json:"query"`

	// Target is the least share, in percent with at most four decimals, such as
	// "99.95%".
	// +kubebuilder:validation:MaxLength=9
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]{1,2}([.][0-9]{1,4})?|100([.]0{1,4})?)%$')",message="target is a percentage from 0% to 100% with at most four decimals, such as 99.95%"
	// +required
	Target string `json:"target"`
}

// LatencyTarget is the highest latency that is good enough.
type LatencyTarget struct {
	// Query yields the 99th percentile in seconds over $window.
	// +required
	Query Query `json:"query"`

	// Target is the highest 99th percentile, such as 300ms or 1.5s.
	// +kubebuilder:validation:MaxLength=16
	// +kubebuilder:validation:XValidation:rule="self.matches('^[0-9]{1,9}([.][0-9]{1,6})?(ms|s|m)$') && duration(self) > duration('0s')",message="target is a time above 0, such as 300ms or 1.5s"
	// +required
	Target string `json:"target"`
}

// ModuleStatus is what Neap found about a module.
type ModuleStatus struct {
	// ObservedGeneration is the generation of the spec that this status describes.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// Pods is how many pods of the workload are bound to machines now.
	// +optional
	Pods int32 `json:"pods"`

	// LastHour is the bill and the quality of the last closed hour.
	// +optional
	LastHour *ModuleHour `json:"lastHour,omitempty"`

	// Conditions: Ready, TargetFound, PriceKnown, LoadKnown, GuardMet.
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// ModuleHour is the bill and the quality of one module in one closed hour.
type ModuleHour struct {
	// From is when the hour began.
	// +optional
	From metav1.Time `json:"from"`

	// Cost is what the module cost in the hour, its share of idle included.
	// +optional
	Cost string `json:"cost"`

	// Used is the part of it that was used.
	// +optional
	Used string `json:"used"`

	// Currency of the amounts.
	// +optional
	Currency string `json:"currency"`

	// Requests is the load of the hour; absent if it is not known.
	// +optional
	Requests *int64 `json:"requests,omitempty"`

	// Success is the share of requests that succeeded, such as "99.9871%";
	// absent if it is not known.
	// +optional
	Success string `json:"success,omitempty"`

	// P99 is the 99th percentile of the latency; absent if it is not known.
	// +optional
	P99 *metav1.Duration `json:"p99,omitempty"`

	// Estimated says that part of the use was not measured and counts as what
	// was requested.
	// +optional
	Estimated bool `json:"estimated,omitempty"`
}

// ModuleList is a list of modules.
//
// +kubebuilder:object:root=true
type ModuleList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Module `json:"items"`
}
