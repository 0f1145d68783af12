package runqueue

import "fmt"

// A Nudger has the kernel choose again where it runs an idle group (cpu.idle) although
// a thread that is in none waits for the same CPU. Such a group is woken past at once,
// but it has a weight still, of 3: whenever a CPU chooses anew without a thread waking
// (one yields, one of real time has done, the clock ticks) and online has had its share
// to the microsecond, it is the group's turn, and that lasts until the tick, up to 4 ms
// where the kernel ticks 250 times a second.
//
// A program on the kernel's sched_switch sees it, and calls a thread of this process
// that stays on that CPU. The thread goes before the idle group, sleeps, and the CPU
// chooses anew, by now for online. It needs what [Traced] needs, and a thread and 8 KiB
// for each CPU; it writes nothing, and ends with the process, however that ends.
type Nudger struct{ nudger *nudger }

// Nudge begins to nudge on all CPUs that this process may use. Close it.
func Nudge() (*Nudger, error) {
	n, err := nudge()
	if err != nil {
		return nil, fmt.Errorf("nudge the scheduler: %w", err)
	}
	return &Nudger{n}, nil
}

// Count returns how often it has nudged.
func (n *Nudger) Count() uint64 { return n.nudger.count.Load() }

// Close ends it. It must not be called twice.
func (n *Nudger) Close() error { return n.nudger.close() }
