package netbench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/neap-dev/neap/host/netqos"
)

const (
	machineAddress = "10.255.77.1"
	farAddress     = "10.255.77.2"
	machineDevice  = "neap0"
	farDevice      = "neap1"
	buffer         = 256 << 10 // bytes that wait before the far end's limit
)

// A cable is two namespaces and a link between them.
type cable struct {
	machine, far netns.NsHandle
}

// lay makes a cable that carries bits a second to the far end.
func lay(bits int64) (_ *cable, err error) {
	c := &cable{machine: netns.None(), far: netns.None()}
	defer func() {
		if err != nil {
			c.cut()
		}
	}()
	for _, ns := range []*netns.NsHandle{&c.machine, &c.far} {
		if *ns, err = namespace(); err != nil {
			return nil, fmt.Errorf("%w: make a network namespace (needs root): %w", ErrUnable, err)
		}
	}
	h, err := netlink.NewHandleAt(c.machine, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	f, err := netlink.NewHandleAt(c.far, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.TxQLen = machineDevice, 1000
	if err = h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: farDevice, PeerNamespace: netlink.NsFd(c.far)}); err != nil {
		return nil, fmt.Errorf("%w: make a veth: %w", ErrUnable, err)
	}
	for _, end := range []struct {
		h             *netlink.Handle
		name, address string
	}{{h, machineDevice, machineAddress}, {f, farDevice, farAddress}} {
		link, err := end.h.LinkByName(end.name)
		if err != nil {
			return nil, err
		}
		if err := end.h.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(end.address), Mask: net.CIDRMask(24, 32)}}); err != nil {
			return nil, err
		}
		if err := end.h.LinkSetUp(link); err != nil {
			return nil, err
		}
	}
	return c, limit(f, bits)
}

// limit makes the far end let in so much: what comes in passes a device whose queue
// is the link's.
func limit(h *netlink.Handle, bits int64) error {
	ifb := &netlink.Ifb{LinkAttrs: netlink.NewLinkAttrs()}
	ifb.Name, ifb.TxQLen = "limit", 1000
	if err := h.LinkAdd(ifb); err != nil {
		return fmt.Errorf("%w: make an ifb: %w", ErrUnable, err)
	}
	in, err := h.LinkByName("limit")
	if err != nil {
		return err
	}
	if err := h.LinkSetUp(in); err != nil {
		return err
	}
	rate := uint64(bits) / 8
	if err := h.QdiscReplace(&netlink.Tbf{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: in.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
		Rate: rate, Limit: buffer, Buffer: uint32(2 * 1600 / float64(rate) * 1e6 * netlink.TickInUsec())}); err != nil {
		return fmt.Errorf("%w: make a token bucket: %w", ErrUnable, err)
	}
	link, err := h.LinkByName(farDevice)
	if err != nil {
		return err
	}
	if err := h.QdiscAdd(&netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_INGRESS}}); err != nil {
		return fmt.Errorf("%w: make an ingress queue: %w", ErrUnable, err)
	}
	return h.FilterAdd(&netlink.U32{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: link.Attrs().Index, Parent: netlink.MakeHandle(0xffff, 0), Priority: 1, Protocol: unix.ETH_P_ALL},
		Sel:         &netlink.TcU32Sel{Nkeys: 1, Flags: netlink.TC_U32_TERMINAL, Keys: []netlink.TcU32Key{{}}},
		Actions:     []netlink.Action{netlink.NewMirredAction(in.Attrs().Index)}})
}

func (c *cable) cut() {
	c.machine.Close()
	c.far.Close()
}

// namespace makes one without a name: it ends with whoever is in it or holds it.
func namespace() (ns netns.NsHandle, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlock: the thread ends with the goroutine
		if err = unix.Unshare(unix.CLONE_NEWNET); err == nil {
			ns, err = netns.Get()
		}
	}()
	<-done
	return ns, err
}

// inside runs do on a thread that is in the namespace.
func inside(ns netns.NsHandle, do func() error) (err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if err = netns.Set(ns); err == nil {
			err = do()
		}
	}()
	<-done
	return err
}

// hurry puts this thread, and so the child it starts, before whatever else the
// machine does: the network is measured here, not the wait for a CPU. Callers go
// first of all. What may not be real-time is at least hurried.
func hurry(role string) {
	attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 10}
	if role == "load" {
		attr.Priority = 20
	}
	if role == "bulk" || role == "sink" || unix.SchedSetAttr(0, &attr, 0) != nil {
		unix.Setpriority(unix.PRIO_PROCESS, 0, -15)
	}
}

// A part is a child process that plays a role.
type part struct {
	cmd  *exec.Cmd
	in   interface{ Close() error }
	errs bytes.Buffer

	mu    sync.Mutex
	last  string // line it printed
	ended chan struct{}
}

// play starts a role in a namespace, and in a group if that is not empty.
func play(ctx context.Context, self func(string, ...string) *exec.Cmd, ns netns.NsHandle, group, role string, args ...string) (*part, error) {
	p := &part{cmd: self(role, args...), ended: make(chan struct{})}
	in, err := p.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	p.in = in
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.cmd.Stderr = &p.errs
	if group != "" {
		dir, err := os.Open(group)
		if err != nil {
			return nil, err
		}
		defer dir.Close()
		p.cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	}
	if err := inside(ns, func() error { hurry(role); return p.cmd.Start() }); err != nil {
		return nil, fmt.Errorf("start %s: %w", role, err)
	}
	ready := make(chan struct{})
	go func() {
		defer close(p.ended)
		for s := bufio.NewScanner(out); s.Scan(); {
			if s.Text() == "ready" {
				close(ready)
				continue
			}
			p.mu.Lock()
			p.last = s.Text()
			p.mu.Unlock()
		}
	}()
	select {
	case <-ready:
		return p, nil
	case <-p.ended:
		p.kill()
		return nil, fmt.Errorf("%s ended before it began: %s", role, strings.TrimSpace(p.errs.String()))
	case <-ctx.Done():
		p.kill()
		return nil, ctx.Err()
	}
}

func (p *part) line() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last
}

// end lets the role finish and returns its last line.
func (p *part) end(ctx context.Context) (string, error) {
	p.in.Close()
	select {
	case <-p.ended:
	case <-ctx.Done():
	case <-time.After(30 * time.Second):
	}
	p.kill()
	return p.line(), ctx.Err()
}

func (p *part) kill() {
	p.in.Close()
	p.cmd.Process.Kill()
	p.cmd.Wait()
}

// measure runs one arm on a cable of its own.
func measure(ctx context.Context, opts Options, arm string, seed uint64) (row Row, err error) {
	row.Arm = arm
	c, err := lay(opts.Bits)
	if err != nil {
		return row, err
	}
	defer c.cut()
	group, err := makeGroup()
	if err != nil {
		return row, err
	}
	defer removeGroup(group)

	priority := 0
	var shaper *netqos.Shaper
	switch arm {
	case Solo, None:
	case HTB:
		if priority, err = fixed(c.machine, opts.Bits); err != nil {
			return row, err
		}
	case Neap:
		shaper, err = netqos.Open(netqos.Options{Interface: machineDevice, Bits: opts.Bits, Namespace: fmt.Sprintf("/proc/self/fd/%d", int(c.machine))})
		if err != nil {
			return row, fmt.Errorf("%w: %w", ErrUnable, err)
		}
		defer func() { err = errors.Join(err, shaper.Close()) }()
		if _, err := shaper.SetBatch([]string{group}); err != nil {
			return row, err
		}
	default:
		return row, fmt.Errorf("arm %q is not one of %s", arm, strings.Join(Arms(), ", "))
	}

	parts := map[string]*part{}
	defer func() {
		for _, p := range parts {
			p.kill()
		}
	}()
	start := func(ns netns.NsHandle, group, role string, args ...string) error {
		p, err := play(ctx, opts.Self, ns, group, role, args...)
		if err == nil {
			parts[role] = p
		}
		return err
	}
	if err := errors.Join(start(c.far, "", "serve"), start(c.far, "", "sink")); err != nil {
		return row, err
	}
	if arm != Solo {
		if err := start(c.machine, group, "bulk", strconv.Itoa(opts.Streams), strconv.Itoa(priority)); err != nil {
			return row, err
		}
	}
	calls := []string{strconv.FormatFloat(opts.Calls, 'g', -1, 64), strconv.Itoa(opts.Bytes), strconv.FormatUint(seed, 10)}
	// The first callers only warm up: their latencies are theirs.
	if err := start(c.machine, "", "load", calls...); err != nil {
		return row, err
	}
	if err := loop(ctx, shaper, opts.Warm); err != nil {
		return row, err
	}
	if _, err := parts["load"].end(ctx); err != nil {
		return row, err
	}
	if err := start(c.machine, "", "load", calls...); err != nil {
		return row, err
	}
	before, from := received(parts["sink"]), time.Now()
	if err := loop(ctx, shaper, opts.Time); err != nil {
		return row, err
	}
	bulked, took := received(parts["sink"])-before, time.Since(from).Seconds()
	line, err := parts["load"].end(ctx)
	if err != nil {
		return row, err
	}
	var got Calls
	if err := json.Unmarshal([]byte(line), &got); err != nil {
		return row, fmt.Errorf("what load printed, %q: %w", line, err)
	}
	row.P50Ms, row.P99Ms, row.LateMs, row.Calls, row.Failed = got.P50Ms, got.P99Ms, got.LateMs, got.Sent, got.Failed
	row.OnlineMbit = float64(got.Sent) * float64(opts.Bytes) * 8 / 1e6 / took
	row.BulkMbit = bulked * 8 / 1e6 / took
	row.RestShare = row.BulkMbit / max(float64(opts.Bits)/1e6-row.OnlineMbit, 1e-9)
	row.OK = got.Failed == 0 && got.Sent > 0 && got.LateMs <= latestMs
	return row, nil
}

// loop waits, and steps the shaper each second meanwhile.
func loop(ctx context.Context, shaper *netqos.Shaper, lasting time.Duration) error {
	begin := time.Now()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	end := time.After(lasting)
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-end:
			return nil
		case <-tick.C:
			if shaper == nil {
				continue
			}
			if _, err := shaper.Step(time.Since(start)); err != nil {
				return fmt.Errorf("after %v: %w", time.Since(begin).Round(time.Second), err)
			}
		}
	}
}

var start = time.Now() // of the clock that steps go by

func received(sink *part) float64 {
	v, _ := strconv.ParseFloat(sink.line(), 64)
	return v
}

// fixed sets up the classes that network QoS usually means (system, online, batch at
// 40, 30 and 30 % of the link, each up to all of it), and returns batch's priority.
func fixed(ns netns.NsHandle, bits int64) (int, error) {
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return 0, err
	}
	defer h.Close()
	link, err := h.LinkByName(machineDevice)
	if err != nil {
		return 0, err
	}
	index := link.Attrs().Index
	htb := netlink.NewHtb(netlink.QdiscAttrs{LinkIndex: index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT})
	htb.Defcls = 3
	if err := h.QdiscAdd(htb); err != nil {
		return 0, fmt.Errorf("%w: make HTB: %w", ErrUnable, err)
	}
	for i, percent := range []int64{100, 40, 30, 30} {
		parent := netlink.MakeHandle(1, 1)
		if i == 0 {
			parent = netlink.MakeHandle(1, 0)
		}
		err := h.ClassAdd(netlink.NewHtbClass(netlink.ClassAttrs{LinkIndex: index, Handle: netlink.MakeHandle(1, uint16(i+1)), Parent: parent},
			netlink.HtbClassAttrs{Rate: uint64(bits * percent / 100), Ceil: uint64(bits), Prio: uint32(i)}))
		if err != nil {
			return 0, fmt.Errorf("class %d: %w", i+1, err)
		}
	}
	return int(netlink.MakeHandle(1, 4)), nil
}

func setPriority(c *net.TCPConn, priority int) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PRIORITY, priority) }); err != nil {
		return err
	}
	return inner
}

// unified returns the v2 tree of the machine.
func unified() (string, error) {
	for _, dir := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		if _, err := os.Stat(filepath.Join(dir, "cgroup.controllers")); err == nil {
			return dir, nil
		}
	}
	return "", fmt.Errorf("%w: there is no cgroup v2 tree below /sys/fs/cgroup", ErrUnable)
}

func makeGroup() (string, error) {
	root, err := unified()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(root, fmt.Sprintf("neap-netbench-%d", os.Getpid()))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("%w: make a group (needs root): %w", ErrUnable, err)
	}
	return dir, nil
}

func removeGroup(dir string) {
	for range 500 { // until the kernel has reaped who was in it
		if err := os.Remove(dir); err == nil || errors.Is(err, os.ErrNotExist) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// sweep removes the groups of benches that were killed.
func sweep() {
	root, err := unified()
	if err != nil {
		return
	}
	left, _ := filepath.Glob(filepath.Join(root, "neap-netbench-*"))
	for _, dir := range left {
		pid, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(dir), "neap-netbench-"))
		if err == nil && pid != os.Getpid() && syscall.Kill(pid, 0) == syscall.ESRCH {
			os.Remove(dir)
		}
	}
}
