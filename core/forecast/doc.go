// Package forecast says what a workload will be asked for a start time from
// now, with quantiles that can be trusted, or says that it cannot tell.
//
//	demand(t+h) = what came of the moments most like this one
//
// An analogue is a minute of the last fifteen days at the same time of the day,
// give or take an hour. It counts for more the nearer its minute is, the more its
// day is of the same kind and has had the same hours before, the newer it is, and
// the nearer its level is to what is now; what came of it is carried over to the
// level of now.
//
//	skill   = demand correlates from day to day in both halves of the history, and
//	          the pinball loss, at the workload's own horizon and from origins within
//	          the past, is below that of the day before and of what is now
//	band    = 5 % and 95 % of the analogues, each end moved as what came demands
//	          (adaptive conformal inference), so that it holds 90 %
//	provide = the capacity c that makes c + worth · P(demand > c) least
//
// Where to enter: [Fit] learns a [Model] from a [Series]; [Model.Observe] tells it
// every new value; [Model.Quantile], [Model.Peak] and [Model.Provide] ask it. A
// model without skill ([Model.Skill] says why) answers nothing: the caller stays
// reactive. Fit again every hour, with the model as Previous.
//
// Everything is explicit: no clock, no dice; equal arguments give equal models.
//
// Not here: replicas and bounds (core/elastic), holidays (core/timetable), where
// the values come from.
package forecast
