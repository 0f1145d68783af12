package interference

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A monotonic reads the machine's monotonic clock, which all its processes share,
// without a system call.
type monotonic struct {
	base int64
	at   time.Time
}

func newMonotonic() monotonic {
	var ts unix.Timespec
	at := time.Now()
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return monotonic{at: at} // cannot happen: the kernel has had this clock for twenty years
	}
	return monotonic{ts.Nano(), at}
}

// now returns nanoseconds since the machine's start.
func (m monotonic) now() int64 { return m.base + int64(time.Since(m.at)) }

// sleepUntil sleeps until a moment of the monotonic clock, in nanoseconds. It
// keeps its thread and what the runtime lent it, so that waking costs nothing
// but the kernel's own time.
func sleepUntil(ns int64) {
	ts := unix.NsecToTimespec(ns)
	for {
		_, _, errno := unix.RawSyscall6(unix.SYS_CLOCK_NANOSLEEP, unix.CLOCK_MONOTONIC, unix.TIMER_ABSTIME, uintptr(unsafe.Pointer(&ts)), 0, 0, 0)
		if errno != unix.EINTR {
			return
		}
	}
}

// realTime puts the calling thread above every ordinary one (SCHED_FIFO).
func realTime() error {
	attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 50}
	return unix.SchedSetAttr(0, &attr, 0)
}

// SetSlice asks the scheduler to give every thread of a process turns of this
// length (0.1 to 100 ms; 0 is the kernel's own choice): a short one is served
// sooner. Threads that begin later inherit it. It needs Linux 6.12.
func SetSlice(pid int, slice time.Duration) error {
	dir := "/proc/" + strconv.Itoa(pid) + "/task"
	threads, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, t := range threads {
		tid, err := strconv.Atoi(t.Name())
		if err != nil {
			continue
		}
		old, err := unix.SchedGetAttr(tid, 0)
		if errors.Is(err, unix.ESRCH) {
			continue // it ended meanwhile
		}
		if err != nil {
			return fmt.Errorf("read the scheduling of thread %d: %w", tid, err)
		}
		old.Size = unix.SizeofSchedAttr
		old.Runtime = uint64(slice)
		if err := unix.SchedSetAttr(tid, old, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("give thread %d turns of %v: %w", tid, slice, err)
		}
	}
	return nil
}

var errAgain error = unix.EAGAIN

// A rawConn is a socket that never blocks and that no runtime watches.
type rawConn struct{ fd int }

func dialRaw(to netip.AddrPort) (rawConn, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return rawConn{}, err
	}
	addr := &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	if err = unix.Connect(fd, addr); err == nil {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	}
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		_ = unix.Close(fd)
		return rawConn{}, err
	}
	return rawConn{fd}, nil
}

// read and write do not tell the runtime that they enter the kernel, which they
// leave at once: it would lend what the thread needs to go on to another.
func (c rawConn) read(b []byte) (int, error)  { return c.call(unix.SYS_READ, b) }
func (c rawConn) write(b []byte) (int, error) { return c.call(unix.SYS_WRITE, b) }

func (c rawConn) call(number uintptr, b []byte) (int, error) {
	for {
		n, _, errno := unix.RawSyscall(number, uintptr(c.fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// own makes a child a process group of its own: Ctrl-C is ours to answer, in order.
func own(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }
