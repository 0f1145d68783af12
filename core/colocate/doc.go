// Package colocate decides how much of a machine batch pods may have, now and
// over the day to come, so that the online pods beside them do not feel it.
//
//	online(τ)   = quantile of the highest use of online pods and system that came
//	              of times like now, carried over to the level of now: the same time
//	              of other days, or any time, as far as the machine keeps to the clock
//	capacity(τ) = machine · share(τ) − online(τ)          share is lower in windows
//	offered     = min of capacity over [now, now + run time]
//	              falls at once, rises by so much in five minutes
//	budget      = machine · share − online now − guard    every 100 ms to 1 s, on the machine
//
// A day in four steps, slowest first. [Capacity] says what a machine may lend in
// each quarter of an hour to come, a [Curve], and explains it in terms; what it
// knows of the past is a [Past]. [Admit] says whether one more [Task] fits under
// the falling curve for as long as it will run, and [Drain] which tasks leave
// before the curve falls below them. On the machine, the budget holds what batch
// gets now, the slack of each online workload narrows it, and the ladder says by
// which means: idle, quota, memory, freeze, evict. An
// [Attribution] finds out against whom.
//
// Everything is explicit: no clock, no dice; equal arguments give equal answers.
// A sensor that is lost, a pod without metrics and a controller that is silent
// make less of a capacity, never more.
//
// Not here: where use is measured and cgroups are written (host), who places and
// evicts pods (kube), what it earned (core/bill).
package colocate
