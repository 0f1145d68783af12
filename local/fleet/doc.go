// Package fleet is a simulated fleet: machines and pods that live and die like
// real ones in a real Kubernetes cluster, and do nothing but be measured.
//
// Two parts share the work. KWOK's controllers play the kubelets: they hold the
// nodes' leases at wall time and move pods from bound to ready to completed to
// gone. [Lifecycle] tells them when: the durations are simulated time, drawn
// once a pod and divided by the day's speed. [Fleet] is the physics: it knows
// from informers which pod is where, lets sim/world do their work minute by
// simulated minute, and exports what a kubelet and an instrumented service
// would, in Prometheus' format and at simulated time.
//
// What it makes is marked: the label and the annotation neap.dev/simulated.
//
// Not here: which machines and modules there are (local/player), what the
// physics say (sim/physics, sim/world).
package fleet
