package interference

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"runtime"
)

// What the batch does with its CPUs.
const (
	BurnCPU    = "cpu"    // arithmetic in registers: takes CPU time and nothing else
	BurnMemory = "memory" // streams through 64 MiB: takes the shared cache and the memory's bandwidth too
)

// burn is the role of the batch. It waits for a line on stdin, by which time it
// is in its group, then keeps its threads busy until stdin ends.
func burn(args []string, stdin io.Reader, stdout io.Writer) error {
	flags := flag.NewFlagSet("burn", flag.ContinueOnError)
	kind := flags.String("kind", BurnCPU, "cpu or memory")
	threads := flags.Int("threads", runtime.NumCPU(), "busy threads")
	if err := flags.Parse(args); err != nil {
		return err
	}
	var body func()
	switch *kind {
	case BurnCPU:
		body = func() {
			x := uint64(1)
			for {
				for range 1 << 16 {
					x ^= x >> 29
					x *= 0xbf58476d1ce4e5b9
				}
				sink.Store(x)
			}
		}
	case BurnMemory:
		body = func() {
			from, to := make([]byte, 32<<20), make([]byte, 32<<20)
			for {
				copy(to, from)
				from, to = to, from
			}
		}
	default:
		return fmt.Errorf("--kind %q is not one of %s, %s", *kind, BurnCPU, BurnMemory)
	}
	if _, err := fmt.Fprintln(stdout, "ready"); err != nil {
		return err
	}
	in := bufio.NewReader(stdin)
	if _, err := in.ReadString('\n'); err != nil {
		return nil // the parent is gone before it began
	}
	// One P more than threads: the read below must end us whatever they do.
	runtime.GOMAXPROCS(*threads + 1)
	for range *threads {
		go func() {
			runtime.LockOSThread()
			body()
		}()
	}
	_, _ = io.Copy(io.Discard, in)
	return nil
}
