// Package cgroup knows a machine's cgroups: it reads what groups use, and it is
// the one owner of the files that bound them.
//
// [Open] gives the machine's [Tree], whichever version its hierarchies have: a
// [Knob] means the same on both, and [Tree.Get] and [Tree.Set] find the file and
// its unit.
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
// at start and every minute. On an idle group that write fails with EINVAL: at
// start the kubelet exits, later it skips the other groups by the order of a map.
// So the Ledger holds a read lease (fcntl F_SETLEASE) on the weight's file for as
// long as the group is idle: the kernel stops whoever opens it for writing, tells
// the holder, which ends idle and lets go, and only then does the kubelet's open
// return. Lease before idle, idle off before the lease goes: no descriptor that
// can write the weight ever meets an idle group. When the kubelet has written (and
// on v1 read back), lease and idle return; the gap is some milliseconds a minute.
// A holder that hangs delays the kubelet by at most fs.lease-break-time (45 s); a
// holder that dies leaves idle behind: whoever watches over it must run [Restore].
//
// Groups of systemd (*.slice) get no lease, for systemd is PID 1 and must not be
// held up: it ends idle itself before it writes a weight, and the Ledger puts it
// back when inotify tells.
//
// What is not here: when to be idle and how large a quota is (core/colocate), and
// Kubernetes objects; [Layout] knows only how the kubelet names its groups.
package cgroup
