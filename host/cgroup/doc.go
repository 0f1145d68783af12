// Package cgroup knows a machine's cgroups: it reads what groups use, and it is
// the one owner of the files that bound them.
//
// [Open] gives the machine's [Tree], whichever version its hierarchies have: a
// [Knob] means the same on both, and [Tree.Get] and [Tree.Set] find the file and
// its unit. [NewFake] gives a machine in memory that obeys the kernel's rules:
// the same cases run on both.
//
// # The kernel's rules
//
//   - A burst is at most the quota: EINVAL, also when the quota would fall below.
//   - v1: a child's quota ÷ period is at most its parent's: EINVAL on both sides.
//     v2 has no such rule, the smaller bound holds.
//   - An idle group refuses a weight (EINVAL), and reads 3 shares (v2: weight 1 or
//     0). Ending idle resets the weight to the default, not to what it was.
//   - Idle and quota go together: idle for latency, quota for a hard ceiling.
//   - Idle helps only against siblings of the idle group: it belongs where the
//     online group is a sibling, which is the kubelet's best-effort group.
//
// # One owner
//
// A [Ledger] is what an agent writes by: a table of what each file should hold
// and why, written in the order in which the kernel takes it (shrink: burst, then
// children's quota, then parents'; grow: the other way), read back, and put back
// when somebody else writes, which is counted. What a file held before is kept on
// disk before the first write, so that [Ledger.Restore], or [Restore] after a
// crash, leaves every file as it was found. A second owner of the same groups is
// refused.
//
// # Idle beside a kubelet
//
// The kubelet with the cgroupfs driver writes the weight of its best-effort group
// at start and every minute, and on V1 reads it back. On an idle group the write
// fails with EINVAL: at start the kubelet exits, later it skips the other groups
// by the order of a map. So the Ledger holds a write lease (fcntl F_SETLEASE) on
// the weight's file for as long as the group is idle. The kernel stops whoever
// opens the file and tells the holder, which ends idle, writes the weight that
// ending it reset, and lets the lease go; only then does the other's open return.
// It finds the file as it left it, writes, reads back, and never learns of idle.
// Some milliseconds after, when nobody has the file open, lease and idle return.
//
//	idle ⇒ the lease stands ⇒ nobody else has the weight open
//
// The kernel holds the second implication, the order of our writes the first: no
// pace of machine, kubelet or holder comes into it. Readers are held up alike,
// for as long as it takes this process to run.
//
// A holder that hangs delays others by fs.lease-break-time (45 s) at most. A
// holder that is killed leaves the group idle without a lease: whoever watches
// over it runs [Restore] within seconds, and a kubelet's unit may do the same
// before it starts (ExecStartPre). Since Linux 7.0 filesystems opt in to leases:
// where cgroup files give none, Idle is [ErrAbsent] below the cgroupfs driver, and
// the kubelet's own weight of 2 with a quota is what is left.
//
// Groups of systemd (*.slice) get no lease, for systemd is PID 1 and must not be
// held up: it ends idle itself before it writes a weight, so its write does not
// fail, and the Ledger puts idle back when inotify tells.
//
// A group's weight must not be read with [Tree.Get] while a ledger of the same
// process holds it idle, unless that can wait.
//
// What is not here: when to be idle and how large a quota is (core/colocate), and
// Kubernetes objects; [Layout] knows only how the kubelet names its groups.
package cgroup
