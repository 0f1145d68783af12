package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// Labels of the objects that hold one term.
const (
	// LabelTimetable names the Timetable that an object is a part of. The first
	// part has that name itself.
	LabelTimetable = "neap.dev/timetable"
	// LabelTimetablePrevious names the Timetable that an object was a part of
	// before the last import. No policy reads it; `neap timetable undo` does.
	LabelTimetablePrevious = "neap.dev/timetable-previous"
)

// A Timetable holds the classes of a term, as `neap timetable import` read them. A
// term that is too large for one object has more parts, under the same
// [LabelTimetable]; who names the Timetable means all of them.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Namespaced,shortName=tt,categories=neap
// +kubebuilder:printcolumn:name="Source",type=string,JSONPath=`.spec.source`
// +kubebuilder:printcolumn:name="Imported",type=date,JSONPath=`.spec.importedAt`
// +kubebuilder:printcolumn:name="Sessions",type=integer,JSONPath=`.status.sessions`
// +kubebuilder:printcolumn:name="Next",type=date,JSONPath=`.status.next`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type Timetable struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// Spec holds the classes.
	// +required
	Spec TimetableSpec `json:"spec"`

	// Status is written by Neap only.
	// +optional
	Status TimetableStatus `json:"status,omitzero"`
}

// TimetableSpec holds the classes of a term.
type TimetableSpec struct {
	// Source is the file that they were read from.
	// +kubebuilder:validation:MaxLength=512
	// +optional
	Source string `json:"source,omitempty"`

	// SourceHash is the SHA-256 of that file, in hexadecimal.
	// +kubebuilder:validation:MaxLength=64
	// +optional
	SourceHash string `json:"sourceHash,omitempty"`

	// ImportedAt is when.
	// +optional
	ImportedAt *metav1.Time `json:"importedAt,omitempty"`

	// TimeZone is the IANA zone of the classes.
	// +kubebuilder:validation:XValidation:rule="self != 'Local' && !self.contains(':') && timestamp('2026-01-01T00:00:00Z').getFullYear(self) > 0",message="an IANA zone such as Asia/Shanghai"
	// +kubebuilder:default="UTC"
	// +kubebuilder:validation:MaxLength=64
	// +optional
	TimeZone string `json:"timeZone,omitempty"`

	// Sessions are the classes, each one meeting of a course.
	// +kubebuilder:validation:MaxItems=8000
	// +listType=atomic
	// +optional
	Sessions []Session `json:"sessions,omitempty"`
}

// Session is one meeting of a course.
type Session struct {
	// ID is stable over imports of the same class.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	// +required
	ID string `json:"id"`

	// Course that meets; attendance is learnt by course.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	// +required
	Course string `json:"course"`

	// Room, if it is known.
	// +kubebuilder:validation:MaxLength=128
	// +optional
	Room string `json:"room,omitempty"`

	// Start of the class.
	// +required
	Start metav1.Time `json:"start"`

	// Minutes that it lasts.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=10080
	// +required
	Minutes int32 `json:"minutes"`

	// Enrolled students.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=10000000
	// +required
	Enrolled int32 `json:"enrolled"`

	// Modules that the class needs, by the names that ElasticPolicies use; without
	// them, every policy that names the Timetable. A factor may follow the name:
	// whoever sits in a class with "video=2" asks video for twice its perSeat.
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=253
	// +kubebuilder:validation:items:Pattern=`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?(=[0-9]{1,6}([.][0-9]{1,6})?)?$`
	// +listType=set
	// +optional
	Modules []string `json:"modules,omitempty"`
}

// TimetableStatus is what Neap knows of a timetable.
type TimetableStatus struct {
	// ObservedGeneration is the generation of the spec that this status describes.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// Sessions is how many there are.
	// +optional
	Sessions int32 `json:"sessions"`

	// Next is when the next one begins.
	// +optional
	Next *metav1.Time `json:"next,omitempty"`

	// Conditions: Ready.
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// TimetableList is a list of timetables.
//
// +kubebuilder:object:root=true
type TimetableList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Timetable `json:"items"`
}
