// Package headroom keeps room on owned machines free ahead of what the forecast,
// the timetable and the clock foresee for a workload, so that its next replicas
// find a machine that is already there.
//
//	room = elastic.Headroom.Replicas(current, desired, soon) of the policy's status
//
// Where the cluster serves CapacityBuffer (autoscaling.x-k8s.io), the room is an
// object of that kind, which the cluster's autoscaler fills; the schedule that
// such buffers lack comes from here. Elsewhere it is a Deployment of balloons:
// pods that do nothing, at a priority below all others, which give way at once.
//
// Everything made belongs to its ElasticPolicy, is written again when somebody
// else changed it, and goes with the policy, with its headroom, or with its mode
// Auto. A policy or target that a person paused is left as it is.
//
// Where to enter: [Reconciler]. Not here: how much room (core/elastic), and what
// is foreseen (kube/controller/scaler).
package headroom
