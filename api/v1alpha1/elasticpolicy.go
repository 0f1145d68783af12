package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// An ElasticPolicy says how many replicas a workload has, and in which pools.
// Its layers each say a number for now: a person (manual), the clock (cron), the
// class timetable, the forecast and the load itself (reactive). One arbiter
// takes the highest floor, keeps the bounds, and tells in the status which layer
// won and why.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Namespaced,shortName=elp,categories=neap
// +kubebuilder:printcolumn:name="Kind",type=string,JSONPath=`.spec.targetRef.kind`
// +kubebuilder:printcolumn:name="Target",type=string,JSONPath=`.spec.targetRef.name`
// +kubebuilder:printcolumn:name="Mode",type=string,JSONPath=`.spec.mode`
// +kubebuilder:printcolumn:name="Current",type=integer,JSONPath=`.status.current`,description="Replicas that the workload has"
// +kubebuilder:printcolumn:name="Desired",type=integer,JSONPath=`.status.desired`,description="Replicas that it should have now"
// +kubebuilder:printcolumn:name="Winner",type=string,JSONPath=`.status.winner`,description="The layer that decided"
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Why",type=string,JSONPath=`.status.reason`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type ElasticPolicy struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// Spec is what you declare.
	// +required
	Spec ElasticPolicySpec `json:"spec"`

	// Status is what Neap found and decided; it is written by Neap only.
	// +optional
	Status ElasticPolicyStatus `json:"status,omitzero"`
}

// Mode says how far a policy goes.
//
// +kubebuilder:validation:Enum=Observe;Preview;Auto
type Mode string

// The modes: Observe reports, Preview also decides and records, Auto acts.
const (
	ModeObserve Mode = "Observe"
	ModePreview Mode = "Preview"
	ModeAuto    Mode = "Auto"
)

// ElasticPolicySpec is what a user declares about a workload's replicas.
//
// +kubebuilder:validation:XValidation:rule="self.min <= self.max",message="min must not be above max"
// +kubebuilder:validation:XValidation:rule="!has(self.forecast) || has(self.load)",message="a forecast needs load: what is to be foretold"
// +kubebuilder:validation:XValidation:rule="!has(self.timetable) || has(self.load)",message="a timetable needs load: what one replica carries"
// +kubebuilder:validation:XValidation:rule="!has(self.reactive) || has(self.load) || has(self.reactive.metrics)",message="a reactive layer needs load, or metrics of its own"
type ElasticPolicySpec struct {
	// TargetRef names a workload with a /scale in the policy's own namespace. It
	// cannot change.
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="targetRef cannot change: make another ElasticPolicy"
	// +required
	TargetRef TargetRef `json:"targetRef"`

	// Mode: Observe reports, Preview decides and records without acting, Auto acts.
	// +kubebuilder:default=Preview
	// +optional
	Mode Mode `json:"mode,omitempty"`

	// Min is the fewest replicas.
	// +kubebuilder:default=1
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=100000
	// +optional
	Min int32 `json:"min"`

	// Max is the most replicas. Nothing but a manual pin goes beyond it.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100000
	// +required
	Max int32 `json:"max"`

	// Load is what the workload is asked for and what one replica carries. The
	// forecast, the timetable and the reactive layer count in it.
	// +optional
	Load *ElasticLoad `json:"load,omitempty"`

	// Manual holds what people decided: pins, floors and caps.
	// +kubebuilder:validation:MaxItems=32
	// +listType=map
	// +listMapKey=name
	// +optional
	Manual []ManualLayer `json:"manual,omitempty"`

	// Cron holds windows of time with a floor or a cap.
	// +kubebuilder:validation:MaxItems=64
	// +listType=map
	// +listMapKey=name
	// +optional
	Cron []CronLayer `json:"cron,omitempty"`

	// Timetable makes the workload ready before classes begin.
	// +optional
	Timetable *TimetableLayer `json:"timetable,omitempty"`

	// Forecast makes the workload ready for the load that its past foretells. It
	// lifts, and never lowers, what the reactive layer says.
	// +optional
	Forecast *ForecastLayer `json:"forecast,omitempty"`

	// Reactive follows the load as it is.
	// +optional
	Reactive *ReactiveLayer `json:"reactive,omitempty"`

	// HolidayCalendar names the HolidayCalendar that says which days are workdays,
	// holidays and make-up days. Without it, Saturdays and Sundays are weekends
	// and all other days workdays.
	// +kubebuilder:validation:MaxLength=253
	// +optional
	HolidayCalendar string `json:"holidayCalendar,omitempty"`

	// Pools are the ResourcePools that the replicas may be in, the first filled
	// first and left last. Without pools placement is left to the scheduler.
	// +kubebuilder:validation:MaxItems=16
	// +listType=map
	// +listMapKey=name
	// +optional
	Pools []PolicyPool `json:"pools,omitempty"`

	// ScaleIn says how replicas are taken away.
	// +optional
	ScaleIn *ScaleIn `json:"scaleIn,omitempty"`

	// Headroom keeps room on owned machines free ahead of what forecast and
	// timetable foresee.
	// +optional
	Headroom *Headroom `json:"headroom,omitempty"`
}

// Decimal is a non-negative decimal number such as "12.5".
//
// +kubebuilder:validation:MaxLength=20
// +kubebuilder:validation:XValidation:rule="self.matches('^[0-9]{1,12}([.][0-9]{1,6})?$') && double(self) > 0.0",message="a number above 0 with at most six decimals, such as 12.5"
type Decimal string

// Percent is a whole or decimal percentage such as "60%".
//
// +kubebuilder:validation:MaxLength=9
// +kubebuilder:validation:XValidation:rule="self.matches('^[0-9]{1,4}([.][0-9]{1,4})?%$')",message="a percentage such as 60%"
type Percent string

// ElasticLoad is what a workload is asked for.
type ElasticLoad struct {
	// Query yields the load now in units a second, averaged over $window, such as
	// sum(rate(http_requests_total{namespace="live",module="chat"}[$window])).
	// Count it where it cannot saturate: at the gateway, not in the pods.
	// +required
	Query Query `json:"query"`

	// PerReplica is how many units a second one replica carries when fully used.
	// +required
	PerReplica Decimal `json:"perReplica"`

	// Target is how much of PerReplica a replica should be given.
	// +kubebuilder:validation:XValidation:rule="double(self.substring(0, self.size() - 1)) > 0.0 && double(self.substring(0, self.size() - 1)) <= 100.0",message="a percentage above 0% and up to 100%"
	// +kubebuilder:default="60%"
	// +optional
	Target Percent `json:"target,omitempty"`
}

// ManualLayer is what a person decided.
//
// +kubebuilder:validation:XValidation:rule="(has(self.pin) ? 1 : 0) + (has(self.floor) ? 1 : 0) + (has(self.cap) ? 1 : 0) == 1",message="give exactly one of pin, floor and cap"
// +kubebuilder:validation:XValidation:rule="!has(self.from) || !has(self.until) || self.from < self.until",message="from must be before until"
type ManualLayer struct {
	// Name tells entries apart.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +required
	Name string `json:"name"`

	// Pin is the number of replicas, whatever the other layers say.
	// +kubebuilder:validation:Minimum=0
	// +optional
	Pin *int32 `json:"pin,omitempty"`

	// Floor is the fewest replicas.
	// +kubebuilder:validation:Minimum=0
	// +optional
	Floor *int32 `json:"floor,omitempty"`

	// Cap is the most replicas, whatever the floors say.
	// +kubebuilder:validation:Minimum=0
	// +optional
	Cap *int32 `json:"cap,omitempty"`

	// From is when it begins; without it, it holds already.
	// +optional
	From *metav1.Time `json:"from,omitempty"`

	// Until is when it ends; without it, it holds until it is removed.
	// +optional
	Until *metav1.Time `json:"until,omitempty"`

	// Reason is shown wherever this layer decides.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	// +required
	Reason string `json:"reason"`

	// By is who decided it.
	// +kubebuilder:validation:MaxLength=128
	// +optional
	By string `json:"by,omitempty"`
}

// DayKind is a kind of day.
//
// +kubebuilder:validation:Enum=Workday;Weekend;Holiday;MakeUp;Monday;Tuesday;Wednesday;Thursday;Friday;Saturday;Sunday
type DayKind string

// The kinds of days of a HolidayCalendar. A MakeUp day is a Saturday or Sunday
// that is worked; it is a Workday too. A Holiday is neither Workday nor Weekend.
const (
	DayWorkday DayKind = "Workday"
	DayWeekend DayKind = "Weekend"
	DayHoliday DayKind = "Holiday"
	DayMakeUp  DayKind = "MakeUp"
)

// CronLayer is a window of time that comes again: a start and a duration. It
// holds from its start to its end, also for a controller that was down at the start.
//
// +kubebuilder:validation:XValidation:rule="has(self.floor) != has(self.cap)",message="give exactly one of floor and cap"
// +kubebuilder:validation:XValidation:rule="has(self.start) != has(self.rrule)",message="give start and days, or rrule"
// +kubebuilder:validation:XValidation:rule="!has(self.rrule) || !has(self.days)",message="rrule says the days itself: leave days out"
// +kubebuilder:validation:XValidation:rule="!has(self.ramp) || duration(self.ramp) < duration(self.duration)",message="ramp must be shorter than duration"
type CronLayer struct {
	// Name tells entries apart.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +required
	Name string `json:"name"`

	// Start is the time of day at which the window begins, such as "18:30".
	// +kubebuilder:validation:XValidation:rule="self.matches('^([01][0-9]|2[0-3]):[0-5][0-9]$')",message="a time of day such as 18:30"
	// +kubebuilder:validation:MaxLength=5
	// +optional
	Start string `json:"start,omitempty"`

	// Days are the days on which it begins; a day that is one of them counts.
	// Without days it is every day.
	// +kubebuilder:validation:MaxItems=11
	// +listType=set
	// +optional
	Days []DayKind `json:"days,omitempty"`

	// RRule is a recurrence of RFC 5545 with a DTSTART, instead of start and days:
	// "DTSTART:20260907T183000 RRULE:FREQ=WEEKLY;BYDAY=MO,WE". Times are in TimeZone.
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:XValidation:rule="self.contains('DTSTART') && self.contains('RRULE:')",message="a recurrence has a DTSTART and an RRULE, such as DTSTART:20260907T183000 RRULE:FREQ=WEEKLY;BYDAY=MO,WE"
	// +optional
	RRule string `json:"rrule,omitempty"`

	// Duration is how long the window is, up to a week.
	// +kubebuilder:validation:XValidation:rule="duration(self) > duration('0s') && duration(self) <= duration('168h')",message="a duration above 0 and up to 168h, such as 4h30m"
	// +kubebuilder:validation:MaxLength=16
	// +required
	Duration string `json:"duration"`

	// TimeZone is an IANA zone such as Asia/Shanghai.
	// +kubebuilder:validation:XValidation:rule="self != 'Local' && !self.contains(':') && timestamp('2026-01-01T00:00:00Z').getFullYear(self) > 0",message="an IANA zone such as Asia/Shanghai"
	// +kubebuilder:default="UTC"
	// +kubebuilder:validation:MaxLength=64
	// +optional
	TimeZone string `json:"timeZone,omitempty"`

	// Except are dates on which the window does not begin, such as "2026-10-01".
	// +kubebuilder:validation:MaxItems=366
	// +kubebuilder:validation:items:Pattern=`^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])$`
	// +listType=set
	// +optional
	Except []string `json:"except,omitempty"`

	// Floor is the fewest replicas in the window.
	// +kubebuilder:validation:Minimum=0
	// +optional
	Floor *int32 `json:"floor,omitempty"`

	// Cap is the most replicas in the window, whatever the floors say.
	// +kubebuilder:validation:Minimum=0
	// +optional
	Cap *int32 `json:"cap,omitempty"`

	// Ramp is how long a floor takes to rise to its height after the start, and to
	// fall before the end. Without it, it is there at once.
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('0s')",message="a duration such as 20m"
	// +kubebuilder:validation:MaxLength=16
	// +optional
	Ramp string `json:"ramp,omitempty"`
}

// TimetableLayer makes a workload ready for classes.
type TimetableLayer struct {
	// Names are the Timetables in the policy's namespace.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +listType=set
	// +required
	Names []string `json:"names"`

	// Module is the name by which the Timetables know the workload; without it,
	// it is the target's name.
	// +kubebuilder:validation:MaxLength=253
	// +optional
	Module string `json:"module,omitempty"`

	// PerSeat is how many units of load a second one attending student makes.
	// +kubebuilder:default="1"
	// +optional
	PerSeat Decimal `json:"perSeat,omitempty"`

	// ReleaseAfter is how long after a class's start its floor is kept; from then
	// on reactive and forecast carry it.
	// +kubebuilder:default="15m"
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('0s') && duration(self) <= duration('24h')",message="a duration up to 24h, such as 15m"
	// +kubebuilder:validation:MaxLength=16
	// +optional
	ReleaseAfter string `json:"releaseAfter,omitempty"`
}

// ForecastLayer makes a workload ready for the load that its past foretells.
// How far it looks ahead is the workload's own learnt start time.
type ForecastLayer struct {
	// HistoryDays is how many days of the load are learnt from.
	// +kubebuilder:default=15
	// +kubebuilder:validation:Minimum=2
	// +kubebuilder:validation:Maximum=60
	// +optional
	HistoryDays int32 `json:"historyDays,omitempty"`

	// UnderCost is how many times dearer a replica short is than one too many. It
	// sets which quantile of the forecast is made ready for.
	// +kubebuilder:default="10"
	// +optional
	UnderCost Decimal `json:"underCost,omitempty"`

	// MaxLift bounds how far the forecast lifts above what the load needs, now or
	// at its usual busy times, as a factor. It does not hold around classes.
	// +kubebuilder:default="3"
	// +optional
	MaxLift Decimal `json:"maxLift,omitempty"`
}

// ReactiveLayer follows the load, as a HorizontalPodAutoscaler does.
type ReactiveLayer struct {
	// Metrics beside the policy's load; the one that wants most replicas counts.
	// +kubebuilder:validation:MaxItems=16
	// +listType=map
	// +listMapKey=name
	// +optional
	Metrics []ReactiveMetric `json:"metrics,omitempty"`

	// Tolerance up and down: a change smaller than this is not made.
	// +kubebuilder:default={up:"7%",down:"10%"}
	// +optional
	Tolerance Tolerance `json:"tolerance,omitzero"`

	// Stabilization is how long the load must be lower before replicas go. A
	// forecast with skill that sees no return may shorten it.
	// +kubebuilder:default="5m"
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('0s') && duration(self) <= duration('1h')",message="a duration up to 1h, such as 5m"
	// +kubebuilder:validation:MaxLength=16
	// +optional
	Stabilization string `json:"stabilization,omitempty"`

	// PanicPercent starts the panic rule: when the load of the last moments is
	// this much of what the ready replicas carry, replicas are only added.
	// +kubebuilder:default="200%"
	// +optional
	PanicPercent Percent `json:"panicPercent,omitempty"`
}

// ReactiveMetric is a figure that replicas share.
type ReactiveMetric struct {
	// Name tells metrics apart.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +required
	Name string `json:"name"`

	// Query yields the figure of the whole workload over $window, such as the
	// cores that it uses.
	// +required
	Query Query `json:"query"`

	// PerReplica is how much of it one replica should have.
	// +required
	PerReplica Decimal `json:"perReplica"`
}

// Tolerance is how far from its target a figure may be.
type Tolerance struct {
	// Up is the tolerance before replicas are added.
	// +kubebuilder:default="7%"
	// +optional
	Up Percent `json:"up,omitempty"`

	// Down is the tolerance before replicas are taken away.
	// +kubebuilder:default="10%"
	// +optional
	Down Percent `json:"down,omitempty"`
}

// PolicyPool is a pool that replicas may be in.
//
// +kubebuilder:validation:XValidation:rule="!has(self.max) || !has(self.min) || self.min <= self.max",message="min must not be above max"
type PolicyPool struct {
	// Name of the ResourcePool.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +required
	Name string `json:"name"`

	// Min is how many replicas are kept in the pool while there are as many.
	// +kubebuilder:validation:Minimum=0
	// +optional
	Min *int32 `json:"min,omitempty"`

	// Max is the most replicas in the pool; without it the pool's own limit holds.
	// +kubebuilder:validation:Minimum=0
	// +optional
	Max *int32 `json:"max,omitempty"`
}

// ScaleIn says how replicas are taken away. The Module's quality guard gates
// every step, and no step is made during a rollout or without metrics.
type ScaleIn struct {
	// Watch is how long replicas that were cut off from traffic are watched before
	// they are deleted; a breach of the guard takes them back. "0s" deletes at once.
	// +kubebuilder:default="0s"
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('0s') && duration(self) <= duration('1h')",message="a duration up to 1h, such as 2m"
	// +kubebuilder:validation:MaxLength=16
	// +optional
	Watch string `json:"watch,omitempty"`

	// Step is the most that goes at once, in percent of the replicas.
	// +kubebuilder:validation:XValidation:rule="double(self.substring(0, self.size() - 1)) > 0.0 && double(self.substring(0, self.size() - 1)) <= 100.0",message="a percentage above 0% and up to 100%"
	// +kubebuilder:default="100%"
	// +optional
	Step Percent `json:"step,omitempty"`

	// HoldIfNeededWithin keeps replicas that would be wanted again so soon.
	// +kubebuilder:default="10m"
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('0s') && duration(self) <= duration('6h')",message="a duration up to 6h, such as 10m"
	// +kubebuilder:validation:MaxLength=16
	// +optional
	HoldIfNeededWithin string `json:"holdIfNeededWithin,omitempty"`

	// Return moves replicas from serverless pools back to owned machines that
	// have had room for longer than the move costs.
	// +kubebuilder:default=true
	// +optional
	Return *bool `json:"return,omitempty"`
}

// Headroom is room on owned machines kept free ahead of need.
type Headroom struct {
	// Percent of the replicas desired at the horizon that room is kept for.
	// +kubebuilder:default="10%"
	// +optional
	Percent Percent `json:"percent,omitempty"`

	// Max is the most replicas that room is kept for.
	// +kubebuilder:validation:Minimum=0
	// +optional
	Max *int32 `json:"max,omitempty"`
}

// ElasticPolicyStatus is what Neap found and decided.
type ElasticPolicyStatus struct {
	// ObservedGeneration is the generation of the spec that this status describes.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// DecidedAt is since when the decision below is what it is.
	// +optional
	DecidedAt *metav1.Time `json:"decidedAt,omitempty"`

	// Current is how many replicas the workload asks for.
	// +optional
	Current int32 `json:"current"`

	// Ready is how many of them are ready.
	// +optional
	Ready int32 `json:"ready"`

	// Desired is how many it should have.
	// +optional
	Desired int32 `json:"desired"`

	// Soon is the most replicas that the clock, the classes and the forecast are
	// known to want within scaleIn.holdIfNeededWithin.
	// +optional
	Soon int32 `json:"soon,omitempty"`

	// Winner is the layer that decided.
	// +optional
	Winner string `json:"winner,omitempty"`

	// Reason is why, in one sentence.
	// +optional
	Reason string `json:"reason,omitempty"`

	// Layers is what each layer said.
	// +kubebuilder:validation:MaxItems=256
	// +listType=atomic
	// +optional
	Layers []LayerStatus `json:"layers,omitempty"`

	// Pools is where the replicas should be and are.
	// +listType=map
	// +listMapKey=name
	// +optional
	Pools []PolicyPoolStatus `json:"pools,omitempty"`

	// Forecast says what the forecast is worth.
	// +optional
	Forecast *ForecastStatus `json:"forecast,omitempty"`

	// Leaving is the scale-in that is under way; absent if none is.
	// +optional
	Leaving *LeavingStatus `json:"leaving,omitempty"`

	// Returning is the move to a cheaper pool that is under way; absent if none is.
	// +optional
	Returning *ReturningStatus `json:"returning,omitempty"`

	// Decisions counts the changes of the decision, for the ledger.
	// +optional
	Decisions int64 `json:"decisions,omitempty"`

	// Selector finds the target's pods, as its /scale says.
	// +optional
	Selector string `json:"selector,omitempty"`

	// Violations counts replicas that left before those that should have left first.
	// +optional
	Violations int64 `json:"violations,omitempty"`

	// Conditions: Ready, TargetFound, SoleOwner, MetricsFresh, ForecastSkilled,
	// ScaleInAllowed, OrderKept.
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// LayerStatus is what one layer said.
type LayerStatus struct {
	// Layer is manual, cron, timetable, forecast, reactive or panic.
	// +required
	Layer string `json:"layer"`

	// Name of the layer's entry, if it has one.
	// +optional
	Name string `json:"name,omitempty"`

	// Floor is the fewest replicas it wants; absent if it says nothing.
	// +optional
	Floor *int32 `json:"floor,omitempty"`

	// Cap is the most replicas it allows; absent if it says nothing.
	// +optional
	Cap *int32 `json:"cap,omitempty"`

	// Reason is why, in one sentence.
	// +optional
	Reason string `json:"reason,omitempty"`

	// Until is when it ends, if that is known.
	// +optional
	Until *metav1.Time `json:"until,omitempty"`
}

// LeavingStatus is a scale-in under way: replicas are cut off from traffic and
// watched before they are deleted. Where it disappears without the workload
// having become smaller, those that were cut off come back.
type LeavingStatus struct {
	// Replicas that go, the last of the order of the pools first.
	// +required
	Replicas int32 `json:"replicas"`

	// Since is when they were chosen to go.
	// +required
	Since metav1.Time `json:"since"`
}

// ReturningStatus is a move of replicas to a cheaper pool: new ones are started
// there, and when they are ready as many leave the last pool.
type ReturningStatus struct {
	// Replicas that were started beyond those desired.
	// +required
	Replicas int32 `json:"replicas"`

	// From is the pool that they leave.
	// +required
	From string `json:"from"`

	// To is the pool that they were started in.
	// +required
	To string `json:"to"`

	// Since is when they were started.
	// +required
	Since metav1.Time `json:"since"`
}

// PolicyPoolStatus is one pool of a policy.
type PolicyPoolStatus struct {
	// Name of the ResourcePool.
	// +required
	Name string `json:"name"`

	// Kind of the ResourcePool. While it is Serverless here, the target's new pods
	// are given the toleration that they need there.
	// +optional
	Kind PoolKind `json:"kind,omitempty"`

	// Planned is how many replicas may be in the pool now. The scheduler keeps it.
	// +optional
	Planned int32 `json:"planned"`

	// Pods is how many are bound there.
	// +optional
	Pods int32 `json:"pods"`

	// Ready is how many of them are ready.
	// +optional
	Ready int32 `json:"ready"`

	// StartP95 is the learnt time from a replica's creation to its readiness.
	// +optional
	StartP95 *metav1.Duration `json:"startP95,omitempty"`

	// Reason is why no more are planned here.
	// +optional
	Reason string `json:"reason,omitempty"`
}

// ForecastStatus says what a forecast is worth.
type ForecastStatus struct {
	// Skilled says whether it beats repeating the past at the workload's horizon.
	// Without skill it lifts nothing.
	// +optional
	Skilled bool `json:"skilled"`

	// Skill is by how much its loss is below that of the best naive forecast.
	// +optional
	Skill string `json:"skill,omitempty"`

	// Coverage is how often the load lay in the 90 % band, out of sample.
	// +optional
	Coverage string `json:"coverage,omitempty"`

	// Period that was found in the load, such as 24h0m0s; absent if none.
	// +optional
	Period *metav1.Duration `json:"period,omitempty"`

	// Horizon is how far ahead it looks: the learnt start time.
	// +optional
	Horizon *metav1.Duration `json:"horizon,omitempty"`

	// FittedAt is when it last learnt.
	// +optional
	FittedAt *metav1.Time `json:"fittedAt,omitempty"`

	// Reason is why there is no forecast.
	// +optional
	Reason string `json:"reason,omitempty"`
}

// ElasticPolicyList is a list of policies.
//
// +kubebuilder:object:root=true
type ElasticPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []ElasticPolicy `json:"items"`
}
