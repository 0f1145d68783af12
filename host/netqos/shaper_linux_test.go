package netqos

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// A machine is a namespace with an uplink "up" that leads nowhere, and pods.
type machine struct {
	t    *testing.T
	ns   netns.NsHandle
	path string
	h    *netlink.Handle
	away netns.NsHandle
	pods map[string]netns.NsHandle // by group
}

func made(t *testing.T) *machine {
	t.Helper()
	ns := namespace(t)
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	m := &machine{t: t, ns: ns, path: fmt.Sprintf("/proc/self/fd/%d", int(ns)), h: h, away: namespace(t), pods: map[string]netns.NsHandle{}}
	m.veth("up", "away", m.away, "10.1.0.1/24", "10.1.0.2/24")
	return m
}

// namespace makes one without a name, which ends with the test.
func namespace(t *testing.T) (ns netns.NsHandle) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			ns, err = netns.Get()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skipf("a network namespace of its own (needs root): %v", err)
	}
	t.Cleanup(func() { ns.Close() })
	return ns
}

func (m *machine) veth(name, peer string, there netns.NsHandle, address, far string) {
	m.t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	f, err := netlink.NewHandleAt(there, unix.NETLINK_ROUTE)
	if err == nil {
		defer f.Close()
		err = m.h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: peer, PeerNamespace: netlink.NsFd(there)})
	}
	for _, end := range []struct {
		h             *netlink.Handle
		name, address string
	}{{m.h, name, address}, {f, peer, far}} {
		var link netlink.Link
		if err == nil {
			link, err = end.h.LinkByName(end.name)
		}
		if err == nil {
			ip, n, _ := net.ParseCIDR(end.address)
			err = end.h.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: ip, Mask: n.Mask}})
		}
		if err == nil {
			err = end.h.LinkSetUp(link)
		}
	}
	if err != nil {
		m.t.Fatal(err)
	}
}

// state is everything about queues, filters and devices, in words.
func (m *machine) state() string {
	m.t.Helper()
	var all []string
	links, err := m.h.LinkList()
	if err != nil {
		m.t.Fatal(err)
	}
	for _, l := range links {
		all = append(all, "device "+l.Attrs().Name)
		qdiscs, err := m.h.QdiscList(l)
		if err != nil {
			m.t.Fatal(err)
		}
		for _, q := range qdiscs {
			all = append(all, fmt.Sprintf("%s: %s %s", l.Attrs().Name, q.Type(), netlink.HandleStr(q.Attrs().Handle)))
		}
		for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
			filters, _ := m.h.FilterList(l, parent)
			for _, f := range filters {
				all = append(all, fmt.Sprintf("%s: %s", l.Attrs().Name, f.Type()))
			}
		}
	}
	slices.Sort(all)
	return strings.Join(all, "\n")
}

func (m *machine) open() *Shaper {
	m.t.Helper()
	s, err := Open(Options{Interface: "up", Bits: 100e6, Namespace: m.path})
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { s.Close() })
	return s
}

// pod makes a pod with a network of its own: a process in it, and a group.
func (m *machine) pod(name string) (group string) {
	m.t.Helper()
	there := namespace(m.t)
	m.veth(name, "eth0", there, "10.2.0.1/24", "10.2.0.2/24")
	cmd := exec.Command("sleep", "600")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started, stop := make(chan error), make(chan struct{})
	go func() { // Pdeathsig goes by thread: this one waits for the end
		runtime.LockOSThread()
		err := netns.Set(there)
		if err == nil {
			err = cmd.Start()
		}
		started <- err
		<-stop
	}()
	if err := <-started; err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait(); close(stop) })
	group = m.t.TempDir()
	if err := os.WriteFile(filepath.Join(group, "cgroup.procs"), []byte(strconv.Itoa(cmd.Process.Pid)+"\n"), 0o644); err != nil {
		m.t.Fatal(err)
	}
	m.pods[group] = there
	return group
}

// in runs do on a thread of a namespace.
func in(t *testing.T, ns netns.NsHandle, do func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := netns.Set(ns)
		if err == nil {
			err = do()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// route makes a namespace send everything by way of a neighbour.
func route(t *testing.T, ns netns.NsHandle, device, via string) {
	t.Helper()
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	link, err := h.LinkByName(device)
	if err == nil {
		err = h.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: net.ParseIP(via)})
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestARoutedPodIsKnownBothWays(t *testing.T) {
	m := made(t)
	batchPod := m.pod("pod1")
	route(t, m.pods[batchPod], "eth0", "10.2.0.1")
	route(t, m.away, "away", "10.1.0.1")
	in(t, m.ns, func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644) })
	s := m.open()
	if blind, err := s.SetBatch([]string{batchPod}); err != nil || len(blind) > 0 {
		t.Fatal(blind, err)
	}
	send := func(from netns.NsHandle, to string) {
		in(t, from, func() error {
			c, err := net.ListenPacket("udp4", ":0") // not connected: that nobody listens there is no error
			if err != nil {
				return err
			}
			defer c.Close()
			address, err := net.ResolveUDPAddr("udp4", to)
			if err != nil {
				return err
			}
			for range 5 {
				if _, err := c.WriteTo(make([]byte, 1000), address); err != nil {
					return err
				}
				time.Sleep(time.Millisecond)
			}
			return nil
		})
	}
	const packets = 5 * 1042 // bytes on the wire
	until := func(what string, ok func(c counters) bool) {
		t.Helper()
		var c counters
		var err error
		for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			if c, err = s.count(); err == nil && ok(c) {
				return
			}
		}
		t.Errorf("%s: %+v, %v", what, c, err)
	}
	begin, err := s.count()
	if err != nil {
		t.Fatal(err)
	}
	send(m.pods[batchPod], "10.1.0.2:9")
	until("what the pod sends is batch's", func(c counters) bool { return c.batchOut-begin.batchOut >= packets })
	send(m.away, "10.2.0.2:9")
	until("what the pod receives passes the budget", func(c counters) bool { return c.batchIn-begin.batchIn >= packets })
	middle, err := s.count()
	if err != nil {
		t.Fatal(err)
	}
	send(m.ns, "10.1.0.2:9")
	until("what others send is online's", func(c counters) bool { return c.onlineOut-middle.onlineOut >= packets })
	if c, err := s.count(); err != nil || c.batchOut-middle.batchOut >= packets {
		t.Errorf("what others send is batch's: %+v, then %+v, %v", middle, c, err)
	}
}

func TestWhatIsTakenComesBack(t *testing.T) {
	m := made(t)
	group := m.pod("pod1")
	before := m.state()
	s := m.open()
	if blind, err := s.SetBatch([]string{group}); err != nil || len(blind) > 0 {
		t.Fatal(blind, err)
	}
	taken := m.state()
	for _, want := range []string{"up: htb 4ea0:0", "up: tbf", "device neap-in", "pod1: clsact", "pod1: bpf", "pod1: u32"} {
		if !strings.Contains(taken, want) {
			t.Errorf("%q is missing in\n%s", want, taken)
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if after := m.state(); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

func TestWhatAKilledProcessLeftIsBoundedAndRestored(t *testing.T) {
	m := made(t)
	group := m.pod("pod1")
	before := m.state()
	killed := m.open() // and never closed before what follows
	if _, err := killed.SetBatch([]string{group}); err != nil {
		t.Fatal(err)
	}
	killed.Step(0)
	for at := time.Second; at < 10*time.Second; at += time.Second {
		if _, err := killed.Step(at); err != nil {
			t.Fatal(err)
		}
	}
	if got := m.ceil(); got < 50e6 {
		t.Fatalf("beside an idle online batch may send %d bits a second", got)
	}
	if err := Bound(m.path); err != nil {
		t.Fatal(err)
	}
	if got := m.ceil(); got > 2e6 {
		t.Errorf("bounded batch may send %d bits a second", got)
	}
	if err := Restore(m.path); err != nil {
		t.Fatal(err)
	}
	if after := m.state(); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	if err := Restore(m.path); err != nil {
		t.Errorf("with nothing left: %v", err)
	}
}

// ceil is how many bits a second batch may send.
func (m *machine) ceil() int64 {
	m.t.Helper()
	up, err := m.h.LinkByName("up")
	if err != nil {
		m.t.Fatal(err)
	}
	classes, err := m.h.ClassList(up, netlink.HANDLE_NONE)
	if err != nil {
		m.t.Fatal(err)
	}
	for _, c := range classes {
		if c := c.(*netlink.HtbClass); c.Handle == batch {
			return int64(c.Ceil) * 8
		}
	}
	m.t.Fatal("batch has no class")
	return 0
}

func TestAnotherOnesQueueIsLeftAlone(t *testing.T) {
	m := made(t)
	up, err := m.h.LinkByName("up")
	if err != nil {
		t.Fatal(err)
	}
	if err := m.h.QdiscAdd(netlink.NewHtb(netlink.QdiscAttrs{LinkIndex: up.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT})); err != nil {
		t.Fatal(err)
	}
	before := m.state()
	if _, err := Open(Options{Interface: "up", Bits: 100e6, Namespace: m.path}); !errors.Is(err, ErrOwned) {
		t.Errorf("a queue that somebody set up gives %v", err)
	}
	if after := m.state(); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

func TestAVethWithAnothersProgramKeepsIt(t *testing.T) {
	m := made(t)
	group := m.pod("pod1")
	link, err := m.h.LinkByName("pod1")
	if err != nil {
		t.Fatal(err)
	}
	index := link.Attrs().Index
	if err := m.h.QdiscAdd(&netlink.GenericQdisc{QdiscType: "clsact", QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}); err != nil {
		t.Fatal(err)
	}
	if err := m.h.FilterAdd(&netlink.U32{FilterAttrs: netlink.FilterAttrs{LinkIndex: index, Parent: netlink.HANDLE_MIN_EGRESS, Priority: 7, Protocol: unix.ETH_P_ALL},
		Sel: &netlink.TcU32Sel{Nkeys: 1, Flags: netlink.TC_U32_TERMINAL, Keys: []netlink.TcU32Key{{}}}}); err != nil {
		t.Fatal(err)
	}
	before := m.state()
	s := m.open()
	blind, err := s.SetBatch([]string{group})
	if err != nil || len(blind) != 1 || blind[0].Group != group {
		t.Errorf("blind %v, %v", blind, err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if after := m.state(); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

func TestAQueueThatIsTakenAwayPutsBatchAtItsFloor(t *testing.T) {
	m := made(t)
	s := m.open()
	s.Step(0)
	if u, err := s.Step(time.Second); err != nil || u.Out.Budget < 90e6 {
		t.Fatalf("%+v, %v", u, err)
	}
	up, _ := m.h.LinkByName("up")
	if err := release(m.h, up); err != nil {
		t.Fatal(err)
	}
	u, err := s.Step(2 * time.Second)
	if !errors.Is(err, ErrOwned) || u.Out.Budget != 1e6 || u.Out.Online >= 0 {
		t.Errorf("%+v, %v", u, err)
	}
}

func TestWhatCannotBeShapedIsSaid(t *testing.T) {
	m := made(t)
	if _, err := Open(Options{Interface: "none", Namespace: m.path}); err == nil || !strings.Contains(err.Error(), "none") {
		t.Errorf("an unknown interface gives %v", err)
	}
	if _, err := Open(Options{Namespace: m.path}); err == nil || !strings.Contains(err.Error(), "default route") {
		t.Errorf("no default route gives %v", err)
	}
	if _, err := Open(Options{Interface: "up", Namespace: "/proc/self/fd/9999"}); err == nil {
		t.Error("no namespace gives no error")
	}
	s := m.open()
	if blind, err := s.SetBatch([]string{"/nowhere/pod"}); err != nil || len(blind) > 0 {
		t.Errorf("a group that went gives %v, %v", blind, err)
	}
}
