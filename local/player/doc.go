// Package player plays a scenario into a Kubernetes cluster: it buys and gives
// back simulated machines, deploys and scales modules, fires jobs and lets
// events happen, each at its simulated time and each with a row in the ledger.
//
//	what should be at t = f(scenario, t)        sim/scenario.Desired, pure
//
// The player acts when that changes, and once when it starts. So a player that
// was killed goes on where the cluster stands: what it missed is made up for,
// what was done already is not done again. Between changes it leaves alone what
// others do to the objects.
//
// The replicas of a module with a policy are the policy's: the player makes the
// ElasticPolicy, the Timetables and the HolidayCalendar that it names, and the
// workload with what it begins with, and never speaks of replicas again.
//
// Jobs are made from suspended CronJobs at simulated times, because the
// cluster's own controller knows only the wall's.
//
// Not here: how pods and machines behave (local/fleet), the bill.
package player
