// Package interference measures what batch work does to an online service on
// this machine, and what each way of keeping it back costs the batch.
//
// A measurement is a row: one arm (a way to hold batch back), one online load,
// some seconds. Three programs run in it, each a child of its own:
//
//	serve   answers requests of a fixed amount of work over TCP on loopback
//	load    sends them: Poisson arrivals, open loop, one thread above all others
//	burn    one thread a CPU that computes, or that streams through memory
//
// Latency counts from the moment when a request was meant to be sent until its
// answer is written, so neither a stalled sender nor a stalled server hides
// what it did: nobody waits for an answer before sending the next request. The
// answer is stamped by the server because its caller would be another machine.
//
//	p99 ratio = p99 with batch ÷ p99 of the same round's solo row
//	share     = batch cores ÷ (cores − online − loader)
//
// Both are always told, for batch that got nothing disturbs nobody. All arms of
// a round and load see the same arrivals, in random order; a row that foreign
// programs, the hypervisor or the sender's own lateness disturbed is rejected
// and measured again.
//
// [Harness.Measure] makes one row, [Run] a whole plan of them, and may be
// stopped and resumed; [Harness.React] and [Harness.Wave] drive steps and square waves
// through a control loop. [Summarise] and [Frontier] say what came of it, [Plot]
// draws it. [Main] is what the children run.
//
// Not here: the control loops themselves, which are the agent's and come in
// as an [Arm]. What one machine cannot show, such as SMT siblings, cache ways
// or NUMA, is not emulated.
package interference
