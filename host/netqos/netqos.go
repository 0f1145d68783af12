package netqos

import (
	"errors"
	"time"
)

// Mark is the bit of a packet's mark that says it came out of a batch pod. Kubernetes
// uses 0x4000 and 0x8000, portmap 0x2000, AWS' CNI 0x80, Calico and Cilium the upper half.
const Mark = 0x1000

var (
	// ErrOwned is what taking over a device gives that somebody has set up.
	ErrOwned = errors.New("somebody else has set up its queue")
	// ErrAbsent is what a kernel gives that lacks something needed.
	ErrAbsent = errors.New("this kernel does not have it")
	// ErrNoSpeed is what a device gives that does not tell how fast it is.
	ErrNoSpeed = errors.New("it does not tell how much it carries; say so in the policy's network.megabits")
	// ErrDenied is what the kernel gives a process with too few rights.
	ErrDenied = errors.New("this needs the host's network, CAP_NET_ADMIN, CAP_BPF and, to reach pods, CAP_SYS_ADMIN and CAP_SYS_PTRACE")
)

// Options say what to shape. The zero Options take the interface of the default
// route, and its own word for how fast it is.
type Options struct {
	Interface      string // of the uplink
	Bits           int64  // a second, each way
	ReservePercent int64  // of the link, stays free; 5 if zero
	Namespace      string // path of the machine's network namespace; that of Proc's process 1 if empty
	Proc           string // where the machine's /proc is; /proc if empty
}

// A Use is what the uplink carries, bits a second, since the step before. What cannot
// be told is negative.
type Use struct {
	Out, In Way
}

// A Way is one direction. Batch gets no more than Budget.
type Way struct {
	Online, Batch, Budget int64
}

// A Blind says which groups are not told apart, and why.
type Blind struct {
	Group  string
	Reason string
}

// rate returns bits a second, negative if a counter began anew.
func rate(before, now uint64, over time.Duration) int64 {
	if over <= 0 || now < before {
		return -1
	}
	return int64(float64(now-before) * 8 / over.Seconds())
}
