// Package leaver sees to it that the pods of a workload leave in the order of
// its ElasticPolicy's pools, the last pool first.
//
//	cost       every bound pod has controller.kubernetes.io/pod-deletion-cost,
//	           [elastic.DeletionCost]. The scheduler plugin elasticfit writes it as
//	           it binds; the leaver writes it to the pods that others bound, once
//	cut-off    while the policy's status says that replicas are leaving, those that
//	           leave next get no traffic: their readiness gate neap.dev/serving is
//	           false. When they are not to leave after all, they come back, and so
//	           do those whose policy is gone, paused or no longer in charge
//	drop       a pod that a serverless provider refuses is deleted when the plan has
//	           no place for it there: its successor goes to another pool, or waits
//	check      after each scale-in, who left is compared with who should have
//	           ([elastic.Judge]); violations are counted, and told as events
//
// A StatefulSet's pods leave by ordinal and have no cost. During a rollout, when
// two ReplicaSets are scaled in proportion, nothing is judged or cut off. Where
// ACK's ResourcePolicy orders the same pods, nothing is written at all, and the
// condition OrderKept says so.
//
// Where to enter: [New], then [Reconciler.SetupWithManager]. [Decide] is what is
// to be done about one observation, and pure.
//
// Not here: how many leave and when (kube/controller/scaler), where pods are
// (kube/scheduler/elasticfit), who deletes them (Kubernetes' own controllers).
package leaver
