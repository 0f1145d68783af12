package v1alpha1

import "k8s.io/apimachinery/pkg/api/resource"

// Money is a non-negative decimal amount of a currency with at most nine
// decimals, such as "0.3570". It is a string, so that no binary fraction can
// change it.
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=20
// +kubebuilder:validation:XValidation:rule="!self.startsWith('-')",message="a price must not be negative"
// +kubebuilder:validation:XValidation:rule="self.matches('^-?[0-9]{1,9}([.][0-9]{1,9})?$')",message="a price is a decimal such as 0.3570: at most nine digits before and nine after the point"
type Money string

// Amounts is an amount of each resource that is bought.
//
// +kubebuilder:validation:XValidation:rule="!has(self.cpu) || quantity(string(self.cpu)).compareTo(quantity('0')) >= 0",message="cpu must not be negative"
// +kubebuilder:validation:XValidation:rule="!has(self.memory) || quantity(string(self.memory)).compareTo(quantity('0')) >= 0",message="memory must not be negative"
// +kubebuilder:validation:XValidation:rule="!has(self.gpu) || quantity(string(self.gpu)).compareTo(quantity('0')) >= 0",message="gpu must not be negative"
type Amounts struct {
	// CPU in cores, such as 8 or 500m.
	// +optional
	CPU *resource.Quantity `json:"cpu,omitempty"`

	// Memory in bytes, such as 32Gi.
	// +optional
	Memory *resource.Quantity `json:"memory,omitempty"`

	// GPU counts whole GPUs, or parts of one in thousandths, such as 500m.
	// +optional
	GPU *resource.Quantity `json:"gpu,omitempty"`
}
