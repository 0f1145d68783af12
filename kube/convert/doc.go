// Package convert turns API objects into the values of core: nodes into
// machines, pods into billed pods, declared types, pools and modules into what
// the price book and the bill know. It is the only place where the two meet.
//
// Nothing here decides or remembers. Where an object says nonsense (a quantity
// beyond all machines, a label that is no selector) the result is bounded, or an
// error that names the object; it never panics.
//
// Where to enter: [NewPools] once per snapshot, then [Machine] per node and
// [Pod] per pod, with [Owners] finding the workload that a pod belongs to.
// [Bound] and [Ended] read the exact lifetime of a pod from its status.
// [TrimNode] and [TrimPod] drop what none of these reads, for informers' caches.
package convert
