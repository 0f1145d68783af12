package probe

import (
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/neap-dev/neap/core/colocate"
	"github.com/neap-dev/neap/host/runqueue"
)

// kernel asks the kernel that runs.
func kernel(p *colocate.Probe) {
	// Since 6.12 the kernel tells the slice of ordinary threads; before it says 0.
	var state = colocate.Unknown
	attr, err := unix.SchedGetAttr(0, 0)
	if err == nil {
		state = has(attr.Runtime > 0)
	}
	add(p, "sched.slice", state, "shorter waits for online threads, with more of the CPU for batch", "")
	add(p, "throttle.at-exit", sinceKernel(p.Kernel, 6, 18), "a quota never stops who holds a lock of the kernel", "kernels from 6.18 on")

	const prSchedCore, get = 62, 0 // PR_SCHED_CORE, PR_SCHED_CORE_GET
	var cookie uint64
	switch err := unix.Prctl(prSchedCore, get, 0, 0, uintptr(unsafe.Pointer(&cookie))); {
	case err == nil, errors.Is(err, unix.ENODEV): // known, and no core has two threads
		add(p, "core-sched", colocate.Yes, "online and batch never share a core", detailOf(err))
	case errors.Is(err, unix.EINVAL):
		add(p, "core-sched", colocate.No, "online and batch never share a core", "CONFIG_SCHED_CORE")
	default:
		add(p, "core-sched", colocate.Unknown, "online and batch never share a core", err.Error())
	}

	meter, err := runqueue.Open(runqueue.Options{Source: runqueue.Traced})
	add(p, "runqueue.ebpf", tried(err), "how long online waits for a CPU, every time", detailOf(err))
	if err == nil {
		meter.Close()
	}
	if meter, err = runqueue.Open(runqueue.Options{Source: runqueue.Sampled}); err == nil {
		meter.Close()
	}
	add(p, "runqueue.schedstat", tried(err), "how long online waits for a CPU, on the mean", detailOf(err))
	network(p)
}

// network tries queues on the loopback device of a namespace of its own.
func network(p *colocate.Probe) {
	tries := []struct {
		name, use string
		err       error
	}{
		{"net.htb", "online's packets go before batch's", nil},
		{"net.clsact", "programs see a device's packets", nil},
		{"net.tcx", "the same, beside those of others", nil},
		{"net.ifb", "what batch receives is held", nil},
		{"net.fq", "packets leave at a time each", nil},
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			done <- err
			return
		}
		defer h.Close()
		lo, err := h.LinkByName("lo")
		if err != nil {
			done <- err
			return
		}
		index := lo.Attrs().Index
		root := netlink.QdiscAttrs{LinkIndex: index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT}
		tries[0].err = h.QdiscAdd(netlink.NewHtb(root))
		h.QdiscDel(netlink.NewHtb(root))
		tries[1].err = h.QdiscAdd(&netlink.GenericQdisc{QdiscType: "clsact", QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}})
		tries[2].err = tcx(index)
		ifb := &netlink.Ifb{LinkAttrs: netlink.NewLinkAttrs()}
		ifb.Name = "neap-probe"
		tries[3].err = h.LinkAdd(ifb)
		tries[4].err = h.QdiscAdd(&netlink.GenericQdisc{QdiscType: "fq", QdiscAttrs: root})
		done <- nil
	}()
	failed := <-done
	for _, t := range tries {
		if failed != nil {
			t.err = fmt.Errorf("make a network namespace: %w", failed)
		}
		add(p, t.name, tried(t.err), t.use, detailOf(t.err))
	}
}

// tcx attaches a program that does nothing, and takes it away.
func tcx(index int) error {
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "neap_probe", Type: ebpf.SchedCLS, License: "Dual BSD/GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()}})
	if err != nil {
		return err
	}
	defer program.Close()
	l, err := link.AttachTCX(link.TCXOptions{Interface: index, Program: program, Attach: ebpf.AttachTCXIngress})
	if err != nil {
		return err
	}
	return l.Close()
}

// tried makes of an attempt what is known: who may not try does not know.
func tried(err error) colocate.State {
	switch {
	case err == nil:
		return colocate.Yes
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return colocate.Unknown
	}
	return colocate.No
}

func detailOf(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// sinceKernel compares a release such as 6.18.44-generic.
func sinceKernel(release string, major, minor int) colocate.State {
	f := strings.SplitN(release, ".", 3)
	if len(f) < 2 {
		return colocate.Unknown
	}
	a, err := strconv.Atoi(f[0])
	b, err2 := strconv.Atoi(strings.TrimRightFunc(f[1], func(r rune) bool { return r < '0' || r > '9' }))
	if err != nil || err2 != nil {
		return colocate.Unknown
	}
	return has(a > major || a == major && b >= minor)
}
