// Package forecast says what a workload will be asked for a start time from
// now, with quantiles that can be trusted, or says that it cannot tell.
//
//	demand(t+h) = season(t+h) · level(t) + residual,  residual ~ its own past at that hour and level
//
// Where to enter: [Fit] learns a [Model] from a [Series]; [Model.Observe] tells it
// every new value; [Model.Quantile] and [Model.Peak] ask it. A model without skill
// at the workload's own horizon ([Model.Skill]) answers nothing: the caller stays
// reactive.
//
// Everything is explicit: no clock, no dice; equal arguments give equal models.
//
// Not here: replicas and bounds (core/elastic), holidays (core/timetable), where
// the values come from.
package forecast
