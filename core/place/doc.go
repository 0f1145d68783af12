// Package place decides where a pod may run, where it should, and what a fleet
// could give back.
//
// A pod fits on a machine if its request fits into what is free, the machine
// takes one more pod, is open and in a pool the pod may use, has no pod of the
// same anti-affinity group, and would not hold more of its spread group than its
// failure domain may. Among those that fit, [Fleet.Pick] prefers, like
// kube-scheduler's defaults, the least and most evenly filled machine and an
// even spread of the pod's siblings.
//
// [Repack] looks for machines that today's pods do not need: greedily, the least
// loaded first, moving its pods into free room elsewhere, first by the rules,
// then without them. It is a lower bound: a cleverer packing may give back more,
// never less.
//
// Not here: preemption, volumes, and the real scheduler (kube/scheduler).
package place
