package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// A HolidayCalendar says which days are holidays and which weekend days are
// worked to make up for them.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=hc,categories=neap
// +kubebuilder:printcolumn:name="Zone",type=string,JSONPath=`.spec.timeZone`
// +kubebuilder:printcolumn:name="Source",type=string,JSONPath=`.spec.source`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type HolidayCalendar struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// Spec holds the days.
	// +required
	Spec HolidayCalendarSpec `json:"spec"`
}

// HolidayCalendarSpec holds the days that are not what their weekday says.
type HolidayCalendarSpec struct {
	// TimeZone is the IANA zone in which the days begin.
	// +kubebuilder:validation:XValidation:rule="self != 'Local' && !self.contains(':') && timestamp('2026-01-01T00:00:00Z').getFullYear(self) > 0",message="an IANA zone such as Asia/Shanghai"
	// +kubebuilder:default="UTC"
	// +kubebuilder:validation:MaxLength=64
	// +optional
	TimeZone string `json:"timeZone,omitempty"`

	// Source says where the days were taken from.
	// +kubebuilder:validation:MaxLength=512
	// +optional
	Source string `json:"source,omitempty"`

	// Days that are not what their weekday says.
	// +kubebuilder:validation:MaxItems=2000
	// +listType=map
	// +listMapKey=date
	// +optional
	Days []CalendarDay `json:"days,omitempty"`
}

// CalendarDay is one such day.
type CalendarDay struct {
	// Date such as 2026-10-01.
	// +kubebuilder:validation:Pattern=`^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])$`
	// +required
	Date string `json:"date"`

	// Kind: Holiday, or MakeUp for a weekend day that is worked.
	// +kubebuilder:validation:XValidation:rule="self == 'Holiday' || self == 'MakeUp'",message="kind is Holiday or MakeUp: other days are what their weekday says"
	// +required
	Kind DayKind `json:"kind"`

	// Name of the holiday.
	// +kubebuilder:validation:MaxLength=128
	// +optional
	Name string `json:"name,omitempty"`
}

// HolidayCalendarList is a list of calendars.
//
// +kubebuilder:object:root=true
type HolidayCalendarList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []HolidayCalendar `json:"items"`
}
