// Package netqos keeps the network of a machine for its online pods and lends batch
// pods what they leave.
//
//	uplink, out:  HTB    online   first, up to the link less a little
//	                     batch    after it, up to the budget
//	pods, in:     IFB    what batch pods receive passes one device that holds the budget
//	budget        = link − online − max(reserve, online / 10), by core/colocate's LinkBudget
//
// [Open] takes the uplink over, [Shaper.SetBatch] says which groups are batch, and
// [Shaper.Step], called about once a second, measures and moves the budgets.
// [Shaper.Close] puts everything back, and so does [Restore], for what a killed
// process left; [Bound] puts what one left at its floor. What the queue holds back is
// in Neap's hands, so the link's own stays empty.
//
// A packet is batch's if its socket is in one of the groups, which a program asks the
// kernel by cgroup id, or if it bears [Mark]: a program puts that on whatever comes
// out of the veth of a batch pod, for routing takes the socket from a packet. Both
// work on cgroup v2 and where v1 has the v2 tree beside it; on v1 alone only pods with
// a veth are told apart. Below [segmentBelow], batch's packets are cut to frames, so
// that online waits for one frame and not for 64 KiB.
//
// It only takes what nobody has set up: a root queue of the uplink that is the
// kernel's own (its handle is 0) comes back by itself when ours goes. Anything else
// is [ErrOwned], and left alone.
//
// Not here: hardware queues. HTB is one lock for all of them, which a link of 25
// Gbit/s and more feels; there leave the network to the CNI's bandwidth manager.
package netqos
