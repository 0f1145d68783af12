// Package colocation replays batch jobs beside recorded online load and says how
// much batch got done, how much of it was lost, and how often the reserve of the
// online pods was promised away.
//
// A series is what online pods and system use of one machine of 32 cores, minute
// by minute, scaled so that its 99.9th percentile is a share of the machine. The
// queue of batch jobs is endless and well mixed: every minute the same sixteen
// jobs ask at each policy in the same order; who is refused goes back.
//
//	line(t)     = share of the machine that may be used (80 %), less in windows
//	free(t)     = max(0, line(t) − online(t))
//	promised(t) = Σ cores of the jobs that run
//	violation   = a minute with promised > free, and by how many core-hours
//	got         = min(promised, free): the node's budget holds batch down to it,
//	              so jobs take longer
//	evicted     = when got is below 60 % of promised for five minutes, jobs leave,
//	              least work lost first, until 80 % is met; what they did is lost
//
// The physics is one for all; policies differ in what they lend. Each has a
// safety parameter of its own, so that a policy is a curve: [Sweep] replays every
// value, [AtOffered] reads curves at equal core-hours offered. The peers
// ([Koordinator], [Volcano], [Crane], [Katalyst]) are their formulas, written anew;
// [Neap] is core/colocate and nothing else; [Oracle] knows the future.
//
// There is no memory, network or latency in it: what the machine feels is measured
// on machines.
package colocation
