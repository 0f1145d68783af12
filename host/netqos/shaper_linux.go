package netqos

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/neap-dev/neap/core/colocate"
)

// The queue of the uplink.
var (
	root    = netlink.MakeHandle(0x4ea0, 0) // its handle is how we know our own
	whole   = netlink.MakeHandle(0x4ea0, 1)
	online  = netlink.MakeHandle(0x4ea0, 0x10)
	batch   = netlink.MakeHandle(0x4ea0, 0x20)
	frames  = netlink.MakeHandle(0x4ea1, 0)
	inbound = netlink.MakeHandle(0x4ea2, 0)
)

const (
	classifier   = "neap_class" // names of filters, by which Restore knows them
	marker       = "neap_mark"
	inDevice     = "neap-in"
	usable       = 97                     // percent of the link, so that its own queue stays empty
	segmentBelow = 2e9                    // bits a second: where 64 KiB take longer than a quarter of a millisecond
	mtu          = 1600                   // bytes, with headers
	linger       = 100 * time.Millisecond // what batch receives may wait so long
)

// A Shaper shapes one machine's network. Its methods may be called from several
// goroutines. Close it.
type Shaper struct {
	opts Options

	mu     sync.Mutex
	h      *netlink.Handle
	link   netlink.Link
	self   uint64 // inode of the machine's network namespace
	groups *ebpf.Map
	mark   *ebpf.Program
	pods   map[string]*pod // by directory
	in     netlink.Link    // made for the first pod with a veth

	out, into     *colocate.LinkBudget
	at            time.Duration
	last          counters
	first, closed bool
}

type pod struct {
	id      uint64
	reached bool   // its veths were looked for
	veths   []int  // of the machine, that lead to the pod
	blind   string // why not all of its packets are known as its
}

// counters are bytes since the machine's start.
type counters struct {
	onlineOut, batchOut, in, batchIn uint64
}

// Open takes the uplink over. Batch is at its floor until the first steps.
func Open(opts Options) (_ *Shaper, err error) {
	opts.Proc = cmp.Or(opts.Proc, "/proc")
	opts.ReservePercent = cmp.Or(opts.ReservePercent, 5)
	if opts.Namespace == "" {
		// In a container without the host's network, this thread's is not the machine's.
		machines := filepath.Join(opts.Proc, "1/ns/net")
		switch id := inode(machines); id {
		case 0:
			return nil, fmt.Errorf("look whether this is the machine's network (%s): %w", machines, ErrDenied)
		case inode("/proc/thread-self/ns/net"):
		default:
			opts.Namespace = machines
		}
	}
	s := &Shaper{opts: opts, pods: map[string]*pod{}, first: true}
	if s.h, err = handle(opts.Namespace); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	if s.self, err = namespaceOf(cmp.Or(opts.Namespace, "/proc/thread-self/ns/net")); err != nil {
		return nil, err
	}
	if s.link, err = s.uplink(); err != nil {
		return nil, err
	}
	if s.opts.Bits == 0 {
		if s.opts.Bits, err = speed(opts.Proc, s.link.Attrs().Name); err != nil {
			return nil, err
		}
	}
	rule := colocate.LinkRule{Bits: s.opts.Bits, ReservePercent: s.opts.ReservePercent}
	if err = rule.Validate(); err != nil {
		return nil, fmt.Errorf("shape %s: %w", s.link.Attrs().Name, err)
	}
	s.out, s.into = colocate.NewLinkBudget(rule), colocate.NewLinkBudget(rule)
	if s.groups, err = newGroups(); err != nil {
		return nil, err
	}
	if s.mark, err = newMarker(); err != nil {
		return nil, err
	}
	return s, s.take()
}

// take makes the uplink's queue ours.
func (s *Shaper) take() error {
	name, index := s.link.Attrs().Name, s.link.Attrs().Index
	qdiscs, err := s.h.QdiscList(s.link)
	if err != nil {
		return fmt.Errorf("list the queues of %s: %w", name, explain(err))
	}
	for _, q := range qdiscs {
		if a := q.Attrs(); a.Parent == netlink.HANDLE_ROOT && a.Handle != 0 && a.Handle != root {
			return fmt.Errorf("take over %s, whose root queue is %s %s: %w", name, q.Type(), netlink.HandleStr(a.Handle), ErrOwned)
		}
	}
	program, err := newClassifier(s.groups, int32(batch&0xffff))
	if err != nil {
		return err
	}
	defer program.Close() // the filter holds it
	if err := release(s.h, s.link); err != nil {
		return err
	}
	htb := netlink.NewHtb(netlink.QdiscAttrs{LinkIndex: index, Handle: root, Parent: netlink.HANDLE_ROOT})
	htb.Defcls = online & 0xffff
	if err := s.h.QdiscAdd(htb); err != nil {
		return fmt.Errorf("queue of %s: %w", name, explain(err))
	}
	all := s.opts.Bits / 100 * usable
	floor := s.opts.Bits / 100
	for _, c := range []*netlink.HtbClass{
		class(index, whole, root, all, all, 0),
		class(index, online, whole, all-floor, all, 0),
		class(index, batch, whole, floor, floor, 1),
	} {
		if err := s.h.ClassAdd(c); err != nil {
			return errors.Join(fmt.Errorf("class %s of %s: %w", netlink.HandleStr(c.Handle), name, explain(err)), release(s.h, s.link))
		}
	}
	if s.opts.Bits < segmentBelow {
		// A bucket that never runs dry and holds two frames cuts what is larger.
		const fast = 10e9 / 8
		if err := s.h.QdiscAdd(&netlink.Tbf{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: frames, Parent: batch},
			Rate: fast, Limit: 4 << 20, Buffer: uint32(2 * mtu / fast * 1e6 * netlink.TickInUsec())}); err != nil {
			return errors.Join(fmt.Errorf("queue of batch on %s: %w", name, explain(err)), release(s.h, s.link))
		}
	}
	err = s.h.FilterAdd(&netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: index, Parent: root, Handle: 1, Priority: 1, Protocol: unix.ETH_P_ALL},
		ClassId:     root, Fd: program.FD(), Name: classifier, DirectAction: true})
	if err != nil {
		return errors.Join(fmt.Errorf("filter of %s: %w", name, explain(err)), release(s.h, s.link))
	}
	return nil
}

// class returns a class of HTB; bits a second.
func class(link int, handle, parent uint32, rate, ceil int64, priority uint32) *netlink.HtbClass {
	bucket := func(bits int64) uint32 { return uint32(max(2*mtu, bits/8/10_000)) } // 100 µs
	return netlink.NewHtbClass(netlink.ClassAttrs{LinkIndex: link, Handle: handle, Parent: parent},
		netlink.HtbClassAttrs{Rate: uint64(rate), Ceil: uint64(ceil), Buffer: bucket(rate), Cbuffer: bucket(ceil), Quantum: mtu, Prio: priority})
}

// SetBatch makes exactly these groups batch's. A group is the directory of a pod in
// the v2 tree, or on a machine without one in any. It returns those that cannot be
// told apart, and why; a group that is gone is none of them.
func (s *Shaper) SetBatch(groups []string) ([]Blind, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs error
	for _, dir := range slices.Sorted(maps.Keys(s.pods)) {
		if p := s.pods[dir]; !slices.Contains(groups, dir) || p.id != inode(dir) {
			errs = errors.Join(errs, s.drop(dir))
		}
	}
	for _, dir := range groups {
		errs = errors.Join(errs, s.add(dir))
		s.reach(dir)
	}
	var blind []Blind
	for _, dir := range slices.Sorted(maps.Keys(s.pods)) {
		if p := s.pods[dir]; p.blind != "" {
			blind = append(blind, Blind{dir, p.blind})
		}
	}
	return blind, errs
}

// add has packets of the group's sockets known as batch's.
func (s *Shaper) add(dir string) error {
	if s.pods[dir] != nil {
		return nil
	}
	p := &pod{id: inode(dir)}
	if p.id == 0 {
		return nil // it went
	}
	if err := s.groups.Put(p.id, byte(1)); err != nil {
		return fmt.Errorf("batch group %s: %w", dir, explain(err))
	}
	s.pods[dir] = p
	return nil
}

// reach has whatever passes the pod's veths known as batch's. A pod's network is
// there before its first process; a group without one is looked at again.
func (s *Shaper) reach(dir string) {
	p := s.pods[dir]
	if p == nil || p.reached {
		return
	}
	pid, ok := process(dir, 3)
	if !ok {
		return
	}
	id := inode(s.network(pid))
	if id == 0 {
		return // the process ended
	}
	p.reached = true
	if id == s.self {
		return // it has the machine's own network: its sockets say whose it is
	}
	var err error
	if p.veths, err = s.veths(pid); err != nil {
		p.blind = err.Error()
	}
	for _, index := range p.veths {
		if err := s.attach(index); err != nil {
			p.blind = err.Error()
		}
	}
}

// network returns the file of a process' network namespace.
func (s *Shaper) network(pid int) string {
	return filepath.Join(s.opts.Proc, strconv.Itoa(pid), "ns/net")
}

func (s *Shaper) drop(dir string) error {
	p := s.pods[dir]
	delete(s.pods, dir)
	err := s.groups.Delete(p.id)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		err = nil
	}
	for _, index := range p.veths {
		if link, e := s.h.LinkByIndex(index); e == nil {
			err = errors.Join(err, release(s.h, link))
		}
	}
	return err
}

// veths returns the devices of the machine that lead to a process' network.
func (s *Shaper) veths(pid int) ([]int, error) {
	h, err := handle(s.network(pid))
	if err != nil {
		return nil, err
	}
	defer h.Close()
	var found []int
	links, err := h.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list the devices of process %d: %w", pid, explain(err))
	}
	for _, l := range links {
		a := l.Attrs()
		if l.Type() != "veth" || a.ParentIndex == 0 {
			continue
		}
		if peer, err := s.h.LinkByIndex(a.ParentIndex); err == nil && peer.Type() == "veth" && peer.Attrs().ParentIndex == a.Index {
			found = append(found, a.ParentIndex)
		}
	}
	if len(found) == 0 {
		return nil, errors.New("no veth leads from the machine to the pod: only packets that keep their socket are known as its")
	}
	return found, nil
}

// attach marks what comes out of a pod and sends what goes in past the budget.
func (s *Shaper) attach(index int) error {
	clsact := &netlink.GenericQdisc{QdiscType: "clsact", QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}
	alone := true
	if err := s.h.QdiscAdd(clsact); errors.Is(err, unix.EEXIST) {
		alone = false // the CNI's programs may be there: ours lets them go on
	} else if err != nil {
		return fmt.Errorf("mark what comes out of its veth: %w", explain(err))
	}
	if err := s.h.FilterReplace(&netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: index, Parent: netlink.HANDLE_MIN_INGRESS, Handle: 1, Priority: 1, Protocol: unix.ETH_P_ALL},
		Fd:          s.mark.FD(), Name: marker, DirectAction: true}); err != nil {
		return fmt.Errorf("mark what comes out of its veth: %w", explain(err))
	}
	if !alone {
		return errors.New("what it receives is not held: another program has its veth, and would not see what passes ours")
	}
	if err := s.receive(); err != nil {
		return fmt.Errorf("what it receives is not held: %w", err)
	}
	if err := s.h.FilterReplace(&netlink.U32{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: index, Parent: netlink.HANDLE_MIN_EGRESS, Priority: 1, Protocol: unix.ETH_P_ALL},
		Sel:         &netlink.TcU32Sel{Nkeys: 1, Flags: netlink.TC_U32_TERMINAL, Keys: []netlink.TcU32Key{{}}},
		Actions:     []netlink.Action{netlink.NewMirredAction(s.in.Attrs().Index)}}); err != nil {
		return fmt.Errorf("what it receives is not held: %w", explain(err))
	}
	return nil
}

// receive makes the device that batch's incoming packets pass, once.
func (s *Shaper) receive() error {
	if s.in != nil {
		return nil
	}
	ifb := &netlink.Ifb{LinkAttrs: netlink.NewLinkAttrs()}
	ifb.Name, ifb.TxQLen = inDevice, 1000
	if err := s.h.LinkAdd(ifb); err != nil {
		return fmt.Errorf("device %s: %w", inDevice, explain(err))
	}
	link, err := s.h.LinkByName(inDevice)
	if err != nil {
		return fmt.Errorf("device %s: %w", inDevice, explain(err))
	}
	err = s.h.LinkSetUp(link)
	if err == nil {
		err = s.h.QdiscReplace(bucket(link, s.opts.Bits/100))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("device %s: %w", inDevice, explain(err)), s.h.LinkDel(link))
	}
	s.in = link
	return nil
}

// bucket is the queue of the device for what batch receives; bits a second.
func bucket(link netlink.Link, bits int64) *netlink.Tbf {
	bytes := max(uint64(bits)/8, 1)
	return &netlink.Tbf{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Handle: inbound, Parent: netlink.HANDLE_ROOT},
		Rate: bytes, Limit: uint32(min(max(128<<10, float64(bytes)*linger.Seconds()), 1<<30)),
		Buffer: uint32(float64(max(2*mtu, bytes/10_000)) / float64(bytes) * 1e6 * netlink.TickInUsec())}
}

// Step measures what was sent and received since the step before and moves the
// budgets. at is of a clock that only goes forward. The first step only measures.
func (s *Shaper) Step(at time.Duration) (Use, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, dir := range slices.Sorted(maps.Keys(s.pods)) {
		s.reach(dir)
	}
	now, err := s.count()
	if err != nil {
		out, in := s.out.Next(at, -1), s.into.Next(at, -1)
		return Use{Way{-1, -1, out}, Way{-1, -1, in}}, errors.Join(err, s.set(out, in))
	}
	over, before, first := at-s.at, s.last, s.first
	s.at, s.last, s.first = at, now, false
	if first {
		floor := s.opts.Bits / 100
		return Use{Way{-1, -1, floor}, Way{-1, -1, floor}}, nil
	}
	var u Use
	u.Out.Online, u.Out.Batch = rate(before.onlineOut, now.onlineOut, over), rate(before.batchOut, now.batchOut, over)
	// What batch receives from pods of this machine did not come by the uplink: then
	// online's part looks smaller and batch's budget larger by the same amount, so
	// what comes by the uplink stays within it.
	u.In.Online, u.In.Batch = rate(before.in, now.in, over), rate(before.batchIn, now.batchIn, over)
	if u.In.Online >= 0 {
		u.In.Online = max(u.In.Online-max(u.In.Batch, 0), 0)
	}
	u.Out.Budget, u.In.Budget = s.out.Next(at, u.Out.Online), s.into.Next(at, u.In.Online)
	return u, s.set(u.Out.Budget, u.In.Budget)
}

// count reads the counters.
func (s *Shaper) count() (c counters, err error) {
	classes, err := s.h.ClassList(s.link, netlink.HANDLE_NONE)
	if err != nil {
		return c, fmt.Errorf("count %s: %w", s.link.Attrs().Name, explain(err))
	}
	found := 0
	for _, k := range classes {
		a := k.Attrs()
		if a.Statistics == nil {
			continue
		}
		switch a.Handle {
		case online:
			c.onlineOut, found = a.Statistics.Basic.Bytes, found+1
		case batch:
			c.batchOut, found = a.Statistics.Basic.Bytes, found+1
		}
	}
	if found != 2 {
		return c, fmt.Errorf("count %s: its queue is not ours any more: %w", s.link.Attrs().Name, ErrOwned)
	}
	link, err := s.h.LinkByIndex(s.link.Attrs().Index)
	if err != nil || link.Attrs().Statistics == nil {
		return c, fmt.Errorf("count %s: %w", s.link.Attrs().Name, explain(err))
	}
	c.in = link.Attrs().Statistics.RxBytes
	if s.in != nil {
		if link, err = s.h.LinkByIndex(s.in.Attrs().Index); err != nil || link.Attrs().Statistics == nil {
			return c, fmt.Errorf("count %s: %w", inDevice, explain(err))
		}
		c.batchIn = link.Attrs().Statistics.TxBytes
	}
	return c, nil
}

// set writes the budgets, bits a second.
func (s *Shaper) set(out, in int64) error {
	err := s.h.ClassChange(class(s.link.Attrs().Index, batch, whole, s.opts.Bits/100, out, 1))
	if err != nil {
		err = fmt.Errorf("batch's budget on %s: %w", s.link.Attrs().Name, explain(err))
	}
	if s.in != nil {
		if e := s.h.QdiscChange(bucket(s.in, in)); e != nil {
			err = errors.Join(err, fmt.Errorf("batch's budget on %s: %w", inDevice, explain(e)))
		}
	}
	return err
}

// Interface returns the uplink's name and how many bits a second it carries.
func (s *Shaper) Interface() (name string, bits int64) { return s.link.Attrs().Name, s.opts.Bits }

// Close puts everything back as it was found.
func (s *Shaper) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	var errs error
	for dir := range s.pods {
		errs = errors.Join(errs, s.drop(dir))
	}
	if s.link != nil && s.mark != nil {
		errs = errors.Join(errs, release(s.h, s.link))
	}
	if s.in != nil {
		errs = errors.Join(errs, s.h.LinkDel(s.in))
	}
	s.mark.Close()
	s.groups.Close()
	s.h.Close()
	return errs
}

// Restore takes away what a process left behind that was killed. namespace is the path
// of the machine's; this thread's if empty.
func Restore(namespace string) error {
	return everywhere(namespace, func(h *netlink.Handle, link netlink.Link) error {
		if link.Type() == "ifb" && link.Attrs().Name == inDevice {
			return h.LinkDel(link)
		}
		return release(h, link)
	})
}

// Bound puts batch at its floor wherever a process has left a budget, until the next
// [Shaper] takes over. namespace is as for [Restore].
func Bound(namespace string) error {
	return everywhere(namespace, func(h *netlink.Handle, link netlink.Link) error {
		index := link.Attrs().Index
		if link.Type() == "ifb" && link.Attrs().Name == inDevice {
			qdiscs, err := h.QdiscList(link)
			for _, q := range qdiscs {
				if q.Attrs().Handle == inbound {
					err = errors.Join(err, h.QdiscChange(bucket(link, smallest)))
				}
			}
			return err
		}
		classes, err := h.ClassList(link, netlink.HANDLE_NONE)
		for _, k := range classes {
			c, ok := k.(*netlink.HtbClass)
			if ok && c.Handle == batch && c.Parent == whole {
				floor := max(int64(c.Rate)*8, smallest)
				err = errors.Join(err, h.ClassChange(class(index, batch, whole, floor, floor, 1)))
			}
		}
		return err
	})
}

const smallest = 1e6 // bits a second

// everywhere calls do for every device of a namespace.
func everywhere(namespace string, do func(*netlink.Handle, netlink.Link) error) error {
	h, err := handle(namespace)
	if err != nil {
		return err
	}
	defer h.Close()
	links, err := h.LinkList()
	if err != nil {
		return fmt.Errorf("list the devices: %w", explain(err))
	}
	var errs error
	for _, link := range links {
		if err := do(h, link); err != nil && !vanished(err) {
			errs = errors.Join(errs, fmt.Errorf("%s: %w", link.Attrs().Name, explain(err)))
		}
	}
	return errs
}

// release takes what is ours from a device: its root queue, and filters by their name.
func release(h *netlink.Handle, link netlink.Link) error {
	qdiscs, err := h.QdiscList(link)
	if err != nil {
		if vanished(err) {
			return nil
		}
		return fmt.Errorf("list the queues of %s: %w", link.Attrs().Name, explain(err))
	}
	var errs error
	for _, q := range qdiscs {
		switch a := q.Attrs(); {
		case a.Parent == netlink.HANDLE_ROOT && a.Handle == root:
			errs = errors.Join(errs, h.QdiscDel(q))
		case q.Type() == "clsact":
			errs = errors.Join(errs, unmark(h, link, q))
		}
	}
	if vanished(errs) {
		return nil
	}
	return explain(errs)
}

// unmark takes our filters from a device and, if they were all, what held them.
func unmark(h *netlink.Handle, link netlink.Link, clsact netlink.Qdisc) error {
	ours, others := []netlink.Filter{}, 0
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		filters, err := h.FilterList(link, parent)
		if err != nil {
			return err
		}
		for _, f := range filters {
			switch f := f.(type) {
			case *netlink.BpfFilter:
				if f.Name == marker {
					ours = append(ours, f)
					continue
				}
			case *netlink.U32:
				if len(f.Actions) == 0 && f.Sel == nil { // the table its filters are in
					continue
				}
				if in, err := h.LinkByName(inDevice); err == nil && leadsTo(f, in.Attrs().Index) {
					ours = append(ours, f)
					continue
				}
			}
			others++
		}
	}
	switch {
	case len(ours) == 0:
		return nil
	case others == 0:
		return h.QdiscDel(clsact)
	}
	var errs error
	for _, f := range ours {
		errs = errors.Join(errs, h.FilterDel(f))
	}
	return errs
}

func leadsTo(f *netlink.U32, index int) bool {
	return slices.ContainsFunc(f.Actions, func(a netlink.Action) bool {
		m, ok := a.(*netlink.MirredAction)
		return ok && m.Ifindex == index
	})
}

// uplink finds the device to shape.
func (s *Shaper) uplink() (netlink.Link, error) {
	if s.opts.Interface != "" {
		link, err := s.h.LinkByName(s.opts.Interface)
		if err != nil {
			return nil, fmt.Errorf("find %s: %w", s.opts.Interface, explain(err))
		}
		return link, nil
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := s.h.RouteList(nil, family)
		if err != nil {
			return nil, fmt.Errorf("list the routes: %w", explain(err))
		}
		for _, r := range routes {
			if (r.Dst == nil || r.Dst.IP.IsUnspecified()) && r.LinkIndex > 0 {
				return s.h.LinkByIndex(r.LinkIndex)
			}
		}
	}
	return nil, errors.New("find the uplink: the machine has no default route; name the interface in the policy's network.interface")
}

// speed returns what a device's driver says it carries, bits a second. The process 1
// of proc sees the machine's devices.
func speed(proc, name string) (int64, error) {
	for _, file := range []string{filepath.Join(proc, "1/root/sys/class/net", name, "speed"), filepath.Join("/sys/class/net", name, "speed")} {
		data, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		if megabits, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64); err == nil && megabits > 0 {
			return megabits * 1e6, nil
		}
	}
	return 0, fmt.Errorf("how fast is %s: %w", name, ErrNoSpeed)
}

// handle opens a namespace.
func handle(namespace string) (*netlink.Handle, error) {
	if namespace == "" {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		return h, explain(err)
	}
	ns, err := netns.GetFromPath(namespace)
	if err != nil {
		return nil, fmt.Errorf("open the network of %s: %w", namespace, explain(err))
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open the network of %s: %w", namespace, explain(err))
	}
	return h, nil
}

func namespaceOf(path string) (uint64, error) {
	if id := inode(path); id != 0 {
		return id, nil
	}
	return 0, fmt.Errorf("there is no network namespace at %s", path)
}

// inode returns the number of a file, 0 if there is none.
func inode(path string) uint64 {
	var st syscall.Stat_t
	if syscall.Stat(path, &st) != nil {
		return 0
	}
	return st.Ino
}

// process returns one process of a group or of those below it.
func process(dir string, levels int) (pid int, ok bool) {
	if f, err := os.Open(filepath.Join(dir, "cgroup.procs")); err == nil {
		s := bufio.NewScanner(f)
		for s.Scan() && !ok {
			pid, err = strconv.Atoi(s.Text())
			ok = err == nil && pid > 0
		}
		f.Close()
	}
	if ok || levels == 0 {
		return pid, ok
	}
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if e.IsDir() {
			if pid, ok := process(filepath.Join(dir, e.Name()), levels-1); ok {
				return pid, ok
			}
		}
	}
	return 0, false
}

// explain gives the kernel's errors their meaning.
func explain(err error) error {
	switch {
	case err == nil || errors.Is(err, ErrAbsent) || errors.Is(err, ErrDenied):
		return err
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return fmt.Errorf("%w (%w)", ErrDenied, err)
	case errors.Is(err, ebpf.ErrNotSupported), errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("%w (%w)", ErrAbsent, err)
	case errors.Is(err, fs.ErrNotExist): // a queue, filter or device whose module is not there
		return fmt.Errorf("%w (%w)", ErrAbsent, err)
	}
	return err
}

// vanished says that a device went while it was looked at.
func vanished(err error) bool {
	var none netlink.LinkNotFoundError
	return errors.As(err, &none) || errors.Is(err, unix.ENODEV)
}
