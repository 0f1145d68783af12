// Package colocator says, every minute of the cluster's day, how much of every
// machine batch pods may have, and leads them out before that is less than they need.
//
//	observe   nodes, pods, policies, agents; what online pods and the system use, by
//	          PromQL, and what they used in the days before
//	decide    colocate.Capacity for every machine, colocate.Drain for its batch pods
//	          (pure, in core)
//	act       in mode Auto only: the annotation neap.dev/batch-capacity and the
//	          resources in the node's status; evictions through the Eviction API
//	record    what batch earned and what it cost: the ledger, the policy's status, metrics
//
// A capacity holds for three minutes: a controller that is silent lends nothing. It
// is zero where no agent holds batch back, and where what online uses is not
// measured; it does not grow while a service beside batch misses its quality. What is
// remembered between two minutes may be lost at any moment: capacities then rise from
// what stands on the nodes, and the past is read again from the metrics.
//
// Beside that it learns, hour by hour, how much CPU one pod of each online workload
// uses at its highest, for the scheduler: a quantile of the hour and of the pods, kept
// by the hour of the day in the policy's status; the week before is read at a start.
//
// Batch is led out of a window in time, whoever can finish finishing. Where the room
// shrinks outside of windows, pods stay while they would have half of what they asked
// for: the agent slows them down, and room comes back.
//
// Where to enter: [New], then [Colocator.Run]; [Colocator.Minute] is one minute.
//
// Not here: what is decided (core/colocate), where batch pods are bound
// (kube/scheduler/colocatefit), how they are held back (host/agent).
package colocator
