// Package runqueue measures how long the threads of control groups wait for a CPU
// after they could have run: what a service feels of its neighbours before its own
// latencies say so.
//
//	wait = time a thread was runnable and not running, before one run
//
// Open a [Meter], [Meter.Watch] the groups, [Meter.Read] their histograms, subtract
// the one of a moment ago ([Histogram.Since]) and take a [Histogram.Quantile].
//
// With eBPF ([Traced]) every wait of every thread is counted, by one program on the
// kernel's sched_switch that takes the growth of the thread's own run_delay: waits
// that were split by a migration are whole, and the sum is what /proc tells, to the
// nanosecond. Nothing is compiled: the program is written in instructions, with the
// offsets of the running kernel's BTF. Without ([Sampled]) the threads'
// /proc/…/schedstat is read: per thread only a mean since the last look, so a
// quantile is too low where a thread's waits differ.
//
// Both need a kernel with CONFIG_SCHED_INFO, which distributions have. Groups are
// directories of the hierarchy that schedules CPUs: that of controller cpu on cgroup
// v1, the only one on v2. Threads of a group are those in its directory and the two
// levels below it (a pod, its containers, and one level in them).
//
// Not here: which groups matter, targets, and what is done about it.
package runqueue
