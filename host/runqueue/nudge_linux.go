package runqueue

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// apart is how far nudges of a CPU are apart at least: whom the kernel means to run
// now, for that is its due, runs so long.
const apart = 100 * time.Microsecond

// idleDepth is how many levels a batch thread's group is below an idle one at most.
const idleDepth = 6

type nudger struct {
	program *ebpf.Program
	link    link.Link
	rings   *ebpf.Map // a CPU → its perf event
	cpus    []nudged
	stop    int // an eventfd
	count   atomic.Uint64
	work    sync.WaitGroup
}

// nudged is a CPU, and the ring in which the program writes that it went wrong there.
type nudged struct {
	cpu  int
	fd   int
	ring []byte
}

func nudge() (_ *nudger, err error) {
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		return nil, fmt.Errorf("the kernel tells no types (CONFIG_DEBUG_INFO_BTF): %w", err)
	}
	at, err := findQueue(kernel)
	if err != nil {
		return nil, err
	}
	n := &nudger{stop: -1}
	defer func() {
		if err != nil {
			_ = n.close() // what stands in the way is said already
		}
	}()
	possible, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, err
	}
	if n.stop, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return nil, os.NewSyscallError("eventfd", err)
	}
	n.rings, err = ebpf.NewMap(&ebpf.MapSpec{Name: "neap_nudge", Type: ebpf.PerfEventArray, KeySize: 4, ValueSize: 4, MaxEntries: uint32(possible)})
	if err != nil {
		return nil, fmt.Errorf("map neap_nudge: %w", err)
	}
	for cpu := range possible {
		c, err := openRing(cpu)
		if errors.Is(err, unix.ENODEV) {
			continue // it is switched off
		}
		if err != nil {
			return nil, err
		}
		n.cpus = append(n.cpus, c)
		if err := n.rings.Put(uint32(cpu), uint32(c.fd)); err != nil {
			return nil, fmt.Errorf("map neap_nudge: %w", err)
		}
	}
	n.program, err = ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "neap_nudge", Type: ebpf.Tracing, AttachType: ebpf.AttachTraceRawTp, AttachTo: "sched_switch",
		Instructions: onWrongSwitch(at, n.rings.FD()),
		License:      "Dual BSD/GPL", // the kernel lets only such programs read its structures
	})
	if err != nil {
		return nil, fmt.Errorf("the kernel refuses the program: %w", err)
	}
	for _, c := range n.cpus {
		n.work.Go(func() { n.attend(c) })
	}
	if n.link, err = link.AttachTracing(link.TracingOptions{Program: n.program}); err != nil {
		return nil, fmt.Errorf("attach to sched_switch: %w", err)
	}
	return n, nil
}

// openRing opens a perf event of a CPU that only programs write to, every time with a
// call for whoever waits.
func openRing(cpu int) (nudged, error) {
	attr := unix.PerfEventAttr{
		Type: unix.PERF_TYPE_SOFTWARE, Config: unix.PERF_COUNT_SW_BPF_OUTPUT, Size: uint32(unsafe.Sizeof(unix.PerfEventAttr{})),
		Sample_type: unix.PERF_SAMPLE_RAW, Wakeup: 1,
	}
	fd, err := unix.PerfEventOpen(&attr, -1, cpu, -1, unix.PERF_FLAG_FD_CLOEXEC)
	if err != nil {
		return nudged{}, os.NewSyscallError("perf_event_open", err)
	}
	ring, err := unix.Mmap(fd, 0, 2*os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		_ = unix.Close(fd)
		return nudged{}, os.NewSyscallError("mmap", err)
	}
	return nudged{cpu, fd, ring}, nil
}

// attend stays on a CPU and wakes whenever it went wrong there. To have woken is all:
// its thread goes before batch, and when it sleeps again the kernel chooses anew.
func (n *nudger) attend(c nudged) {
	runtime.LockOSThread() // and never unlock: the thread ends with the goroutine
	var one unix.CPUSet
	one.Set(c.cpu)
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return // not one of ours: nobody is nudged there
	}
	page := (*unix.PerfEventMmapPage)(unsafe.Pointer(unsafe.SliceData(c.ring)))
	var last time.Time
	for {
		fds := []unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLIN}, {Fd: int32(n.stop), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) || fds[1].Revents != 0 {
			return
		}
		if fds[0].Revents == 0 {
			continue
		}
		atomic.StoreUint64(&page.Data_tail, atomic.LoadUint64(&page.Data_head)) // read, whatever it is
		if time.Since(last) < apart {
			pause := unix.NsecToTimespec(int64(apart))
			_ = unix.ClockNanosleep(unix.CLOCK_MONOTONIC, 0, &pause, nil) // shorter does no harm
		}
		last = time.Now()
		n.count.Add(1)
	}
}

func (n *nudger) close() error {
	var errs error
	if n.link != nil {
		errs = n.link.Close()
	}
	if n.stop >= 0 {
		_, err := unix.Write(n.stop, []byte{1, 0, 0, 0, 0, 0, 0, 0})
		errs = errors.Join(errs, err)
		n.work.Wait()
		errs = errors.Join(errs, unix.Close(n.stop))
	}
	for _, c := range n.cpus {
		errs = errors.Join(errs, unix.Munmap(c.ring), unix.Close(c.fd))
	}
	return errors.Join(errs, n.program.Close(), n.rings.Close())
}

// queueOffsets are those of the fields that onWrongSwitch reads in the running kernel.
type queueOffsets struct {
	taskGroup       int16 // in task_struct
	idle, above     int16 // in task_group
	fair            int16 // of the pointer to its cfs_rq in task_struct
	queue           int16 // in cfs_rq
	runnable, idles int16 // how many fair threads, and idle ones of them, in rq
}

func findQueue(kernel *btf.Spec) (at queueOffsets, err error) {
	for _, f := range []struct {
		at          *int16
		path, older []string
	}{
		{&at.taskGroup, []string{"task_struct", "sched_task_group"}, nil},
		{&at.idle, []string{"task_group", "idle"}, nil},
		{&at.above, []string{"task_group", "parent"}, nil},
		{&at.fair, []string{"task_struct", "se", "cfs_rq"}, nil},
		{&at.queue, []string{"cfs_rq", "rq"}, nil},
		{&at.runnable, []string{"rq", "cfs", "h_nr_runnable"}, []string{"rq", "cfs", "h_nr_running"}}, // until 6.13
		{&at.idles, []string{"rq", "cfs", "h_nr_idle"}, []string{"rq", "cfs", "idle_h_nr_running"}},   // until 6.13
	} {
		*f.at, err = offset(kernel, f.path)
		if err != nil && f.older != nil {
			*f.at, err = offset(kernel, f.older)
		}
		if err != nil {
			return at, err
		}
	}
	return at, nil
}

// onWrongSwitch returns the program that runs whenever a CPU goes from one thread to
// another. If the next one is of an idle group, and a thread that is not waits for the
// same CPU, it calls the thread that attends it.
//
//	R6 the arguments   R7 the next thread   R8 its group, then one above
func onWrongSwitch(at queueOffsets, rings int) asm.Instructions {
	const word, thisCPU = -8, 0xffffffff // on the stack; BPF_F_CURRENT_CPU
	p := asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMem(asm.R7, asm.R1, 16, asm.DWord), // the third argument: next
		asm.LoadMem(asm.R8, asm.R7, at.taskGroup, asm.DWord),
	}
	for range idleDepth {
		p = append(p,
			asm.JEq.Imm(asm.R8, 0, "exit"),
			asm.LoadMem(asm.R1, asm.R8, at.idle, asm.Word),
			asm.JNE.Imm(asm.R1, 0, "batch"),
			asm.LoadMem(asm.R8, asm.R8, at.above, asm.DWord),
		)
	}
	return append(p,
		asm.Ja.Label("exit"),
		asm.LoadMem(asm.R1, asm.R7, at.fair, asm.DWord).WithSymbol("batch"),
		asm.LoadMem(asm.R1, asm.R1, at.queue, asm.DWord),
		asm.LoadMem(asm.R2, asm.R1, at.runnable, asm.Word),
		asm.LoadMem(asm.R3, asm.R1, at.idles, asm.Word),
		asm.JLE.Reg(asm.R2, asm.R3, "exit"),
		asm.Mov.Imm(asm.R1, 0),
		asm.StoreMem(asm.RFP, word, asm.R1, asm.DWord),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.LoadMapPtr(asm.R2, rings),
		asm.LoadImm(asm.R3, thisCPU, asm.DWord),
		asm.Mov.Reg(asm.R4, asm.RFP),
		asm.Add.Imm(asm.R4, word),
		asm.Mov.Imm(asm.R5, 8),
		asm.FnPerfEventOutput.Call(),
		asm.Mov.Imm(asm.R0, 0).WithSymbol("exit"),
		asm.Return(),
	)
}
