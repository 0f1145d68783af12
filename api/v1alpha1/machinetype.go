package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// A MachineType says what one kind of machine has, costs and can do. Its name is
// the value of the node label node.kubernetes.io/instance-type. Capacity that is
// bought by the pod (serverless) is a MachineType with prices per unit.
//
// Every price that Neap shows comes from here; a node whose type is not
// declared has no known price, and the bill says so.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,shortName=mt,categories=neap
// +kubebuilder:printcolumn:name="CPU",type=string,JSONPath=`.spec.capacity.cpu`,description="Cores of one machine"
// +kubebuilder:printcolumn:name="Memory",type=string,JSONPath=`.spec.capacity.memory`,description="Memory of one machine"
// +kubebuilder:printcolumn:name="GPU",type=string,JSONPath=`.spec.capacity.gpu`,description="GPUs of one machine"
// +kubebuilder:printcolumn:name="List/h",type=string,JSONPath=`.spec.price.list`,description="List price of one machine for an hour"
// +kubebuilder:printcolumn:name="Price/h",type=string,JSONPath=`.status.effectivePrice`,description="Price of one machine for an hour after the discount"
// +kubebuilder:printcolumn:name="Currency",type=string,JSONPath=`.spec.price.currency`
// +kubebuilder:printcolumn:name="NCU/core",type=string,JSONPath=`.spec.rating.ncuPerCore`,description="Work per core against the reference core"
// +kubebuilder:printcolumn:name="Machines",type=integer,JSONPath=`.status.machines`,description="Machines of this type now"
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type MachineType struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// Spec is what you declare about the type.
	// +required
	Spec MachineTypeSpec `json:"spec"`

	// Status is what Neap found; it is written by Neap only.
	// +optional
	Status MachineTypeStatus `json:"status,omitzero"`
}

// MachineTypeSpec is what a user declares about a machine type.
//
// +kubebuilder:validation:XValidation:rule="has(self.price.units) || has(self.capacity)",message="capacity is required for a machine with a list price"
// +kubebuilder:validation:XValidation:rule="!has(self.price.units) || !has(self.capacity)",message="capacity bought by the unit has no capacity of its own: remove spec.capacity or spec.price.units"
type MachineTypeSpec struct {
	// Capacity is what one machine has before anything is kept for the system.
	// Leave it out for capacity that is bought by the pod.
	// +optional
	Capacity *Capacity `json:"capacity,omitempty"`

	// Price is what the machine costs. A change holds from the moment Neap sees
	// it; hours already closed keep the price they were closed with.
	// +required
	Price Price `json:"price"`

	// Rating is how much work a core of this type does. Without it a core counts
	// as the reference core (1 NCU).
	// +optional
	Rating *Rating `json:"rating,omitempty"`
}

// Capacity is what one machine has.
//
// +kubebuilder:validation:XValidation:rule="has(self.cpu) && quantity(string(self.cpu)).compareTo(quantity('0')) > 0",message="a machine has more than 0 cpu"
// +kubebuilder:validation:XValidation:rule="has(self.memory) && quantity(string(self.memory)).compareTo(quantity('0')) > 0",message="a machine has more than 0 memory"
type Capacity struct {
	Amounts `json:",inline"`
}

// Price is what capacity costs: either a whole machine by the hour (list) or
// single units by the hour (units).
//
// +kubebuilder:validation:XValidation:rule="has(self.list) != has(self.units)",message="give exactly one of list (price of a whole machine for an hour) and units (prices of a core, a GiB and a GPU for an hour)"
type Price struct {
	// Currency is the ISO 4217 code, three capital letters.
	// +kubebuilder:default=USD
	// +kubebuilder:validation:MaxLength=3
	// +kubebuilder:validation:XValidation:rule="self.matches('^[A-Z]{3}$')",message="currency is an ISO 4217 code of three capital letters, such as USD"
	// +optional
	Currency string `json:"currency,omitempty"`

	// List is the list price of one machine for one hour, such as "0.3570".
	// +optional
	List *Money `json:"list,omitempty"`

	// Units are list prices of capacity that is bought by the pod.
	// +optional
	Units *UnitPrices `json:"units,omitempty"`

	// DiscountPercent is taken off the list price: 0 to 100 with at most one
	// decimal, such as 30 or "37.5".
	// +kubebuilder:default=0
	// +kubebuilder:validation:XValidation:rule="string(self).matches('^([0-9]{1,2}([.][0-9])?|100([.]0)?)$')",message="discountPercent is from 0 to 100 with at most one decimal, such as 30 or '37.5'"
	// +optional
	DiscountPercent *intstr.IntOrString `json:"discountPercent,omitempty"`
}

// UnitPrices are list prices for an hour of one unit of each resource.
//
// +kubebuilder:validation:XValidation:rule="has(self.cpu) || has(self.memory) || has(self.gpu)",message="at least one of cpu, memory and gpu needs a price"
type UnitPrices struct {
	// CPU is the price of one core for one hour.
	// +optional
	CPU *Money `json:"cpu,omitempty"`

	// Memory is the price of one GiB for one hour.
	// +optional
	Memory *Money `json:"memory,omitempty"`

	// GPU is the price of one GPU for one hour.
	// +optional
	GPU *Money `json:"gpu,omitempty"`
}

// Ratio is a positive decimal with at most three decimals, such as "1.215".
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=8
// +kubebuilder:validation:XValidation:rule="self.matches('^[0-9]{1,4}([.][0-9]{1,3})?$') && double(self) > 0.0",message="a rating is a decimal above 0 with at most three decimals, such as 1.215"
type Ratio string

// Rating is how much work one core does, in normalised compute units (NCU),
// against the reference core that does 1.
//
// +kubebuilder:validation:XValidation:rule="!has(self.low) || double(self.low) <= double(self.ncuPerCore)",message="low must not be above ncuPerCore"
// +kubebuilder:validation:XValidation:rule="!has(self.high) || double(self.high) >= double(self.ncuPerCore)",message="high must not be below ncuPerCore"
type Rating struct {
	// NCUPerCore is the best estimate, such as "1.21": a core of this type does
	// 1.21 times the work of the reference core.
	// +required
	NCUPerCore Ratio `json:"ncuPerCore"`

	// Low is the lower end of the interval in which the rating is believed to be.
	// +optional
	Low *Ratio `json:"low,omitempty"`

	// High is the upper end of the interval in which the rating is believed to be.
	// +optional
	High *Ratio `json:"high,omitempty"`

	// Source says where the rating comes from, such as
	// "CoreMark, one run, 2025-12". A number without its source is not a rating.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	// +required
	Source string `json:"source"`
}

// MachineTypeStatus is what Neap found about a machine type.
type MachineTypeStatus struct {
	// ObservedGeneration is the generation of the spec that this status describes.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// Machines is how many nodes of this type there are now.
	// +optional
	Machines int32 `json:"machines"`

	// EffectivePrice is the price of one machine for an hour after the discount.
	// It is empty for capacity that is bought by the unit.
	// +optional
	EffectivePrice string `json:"effectivePrice,omitempty"`

	// Conditions: Ready.
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// MachineTypeList is a list of machine types.
//
// +kubebuilder:object:root=true
type MachineTypeList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []MachineType `json:"items"`
}
