// Package repacker carries RepackPlans out: it plans the moves of pods with GPUs
// that give machines back, make room or leave sick GPUs, and, in mode Execute,
// makes them.
//
//	observe   nodes and pods as a gpu.Fleet (kube/gpubook), services, disruption
//	          budgets, prices, and of every move under way its two pods
//	decide    gpu.Repack finds the moves, gpu.Plan.Verify holds them against the
//	          world as it is before each begins; [Next] says what one move needs now
//	act       one step of a move: a replacement at the new place, made from the
//	          ReplicaSet's template without the labels by which Services,
//	          ReplicaSets and budgets find pods; when it is ready the labels, so
//	          that the ReplicaSet has one pod too many; the old pod goes
//	record    the plan's status, a line in the ledger, metrics
//
// No step rests on what is remembered: a replacement's name follows from its plan
// and its move, and everything else is read from the two pods. So a controller that
// was killed at any point goes on where it was. The number of replicas of a workload
// is never written, and neither is anything of its ReplicaSet or Deployment.
//
// The ReplicaSet itself takes the old pod away when it has one too many, and it asks
// no budget. So the budget is asked before: once the replacement counts for it, a
// trial eviction of the old pod says whether it may go.
//
// Where to enter: [New], then [Reconciler.SetupWithManager]; [Reconciler.Reconcile]
// is one look at one plan.
//
// Not here: which moves there are (core/gpu), where a pod with GPUs is bound
// (kube/scheduler/gpufit), what runs where (kube/gpubook).
package repacker
