// Package probe finds out what a machine's kernel, hardware and kubelet can do for
// colocation, by trying where trying changes nothing: network queues in a namespace
// of its own, programs that are loaded and taken out, a look at this thread's own
// scheduling. What is absent is said to be.
//
// [Look] is the whole package. It reads below [Options].Root, where a container has
// the machine's files and tests have a made one's, and asks the kernel that runs.
//
// Trying a kind of queue may load the kernel's module for it, as the agent would.
//
// Not here: what follows from it. [colocate.Probe] has the verdict.
package probe
