// Package netbench measures what an online service's calls feel of a bulk sender on
// the same machine, over a made link, with and without Neap's network shaping.
//
//	namespace "machine"  ── veth ──  namespace "far", which lets in so much a second
//	  load: calls, open loop             serve: answers
//	  bulk: streams, in a batch cgroup   sink: counts
//
// The link's limit stands at the far end, behind a buffer as a switch has one, so
// whatever the machine does about its own queue is seen honestly. Calls are sent at
// Poisson times and their latency counts from the time they were to be sent: a
// sender that is held up cannot hide it. [Run] runs arms in random order in every
// round; a round's own solo is what its others are compared with.
//
// Roles are child processes ([Role]) that end with their parent; namespaces, devices
// and queues end with the last process in them, and the group is swept at the next
// start if the parent was killed.
package netbench
