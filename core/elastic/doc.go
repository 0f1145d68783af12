// Package elastic decides how many replicas a workload has, in which pools they
// are, and which of them leave first.
//
//	wanted  = clamp(max of all floors, Min, Max and hard caps)     a pin is the whole answer
//	desired = wanted, if it is not below what is there now
//	        = what the gates of scale-in let go, otherwise
//
// The floors come from layers: what a person decided (manual), the clock (cron),
// the classes (timetable), the forecast, the load itself (reactive) and its bursts
// (panic). The forecast lifts what the reactive layer says, at most MaxLift times
// outside of classes, and never lowers it. Without metrics nothing goes.
//
// Where to enter: [Decide] once a minute with a [Policy], what was seen and the
// [State] of the last decision; then [Spread] for the pools. [Judge] says
// afterwards whether the right replicas left, [Return] when one may move from a
// dear pool to a cheap one. [Schedule] and [Reactive] are the layers with rules
// of their own; each can be asked alone.
//
// Everything is explicit: no clock, no dice; equal arguments give equal decisions.
// A decision depends on what is declared and seen now, and on a State that may be
// lost: after any downtime the end is the same.
//
// Not here: what load will come (core/forecast), which classes there are
// (core/timetable), who writes /scale and binds pods (kube).
package elastic
