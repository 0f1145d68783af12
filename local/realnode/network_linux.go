package realnode

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"sync"

	"github.com/vishvananda/netlink"
)

// service is where pods expect the API server.
var service = netip.MustParseAddr("10.96.0.1")

// A network is the addresses of a node.
type network struct {
	pods netip.Prefix
	node netip.Addr // of the machine, on the bridge
}

// makeNetwork makes the bridge that carries the node's address and the API server's.
// Pods have links of their own.
func makeNetwork() (network, error) {
	fail := func(err error) (network, error) {
		return network{}, fmt.Errorf("make the node's network: %w", err)
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return fail(err)
	}
	var taken []netip.Prefix
	for _, r := range routes {
		if r.Dst != nil {
			if p, err := netip.ParsePrefix(r.Dst.String()); err == nil && p.Bits() > 0 {
				taken = append(taken, p)
			}
		}
	}
	n, ok := choose(taken)
	if !ok {
		return fail(errors.New("this machine has routes to all of 10.213.0.0/16, and pods need a part of it"))
	}
	bridge := &netlink.Bridge{LinkAttrs: netlink.NewLinkAttrs()}
	bridge.Name = link
	if err := netlink.LinkAdd(bridge); err != nil {
		return fail(fmt.Errorf("add the bridge %s: %w", link, err))
	}
	for _, a := range []netip.Addr{n.node, service} {
		addr := &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(32, 32)}}
		if err := netlink.AddrAdd(bridge, addr); err != nil {
			return fail(fmt.Errorf("add the address %v: %w", a, err))
		}
	}
	if err := netlink.LinkSetUp(bridge); err != nil {
		return fail(err)
	}
	return n, nil
}

// choose returns a network that no route leads to.
func choose(taken []netip.Prefix) (network, bool) {
next:
	for third := range 256 {
		pods := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 213, byte(third), 0}), 24)
		for _, t := range taken {
			if t.Overlaps(pods) {
				continue next
			}
		}
		return network{pods: pods, node: netip.AddrFrom4([4]byte{10, 213, byte(third), 254})}, true
	}
	return network{}, false
}

// cni returns what containerd gives a pod its address by.
func (n network) cni() []byte {
	base := n.pods.Addr().As4()
	last := netip.AddrFrom4([4]byte{base[0], base[1], base[2], 250})
	return encode(map[string]any{
		"cniVersion": "0.4.0", "name": "neap-node",
		"plugins": []any{map[string]any{
			"type": "ptp",
			"ipam": map[string]any{
				"type": "host-local", "dataDir": runDir + "/addresses",
				"ranges": []any{[]any{map[string]string{"subnet": n.pods.String(), "rangeEnd": last.String()}}},
				"routes": []any{map[string]string{"dst": "0.0.0.0/0"}},
			},
		}},
	})
}

// removeNetwork takes the bridge away; pods' links go with their namespaces.
func removeNetwork() error {
	l, err := netlink.LinkByName(link)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err == nil {
		err = netlink.LinkDel(l)
	}
	if err != nil {
		return fmt.Errorf("remove the bridge %s: %w", link, err)
	}
	return nil
}

// A relay answers pods in the API server's name.
type relay struct {
	listener net.Listener
	running  sync.WaitGroup

	mu     sync.Mutex
	closed bool
	conns  map[net.Conn]bool
}

// serve starts the relay. It answers this machine and its pods only, however a
// packet came to the address.
func serve(n network, server string) (*relay, error) {
	to, err := url.Parse(server)
	if err != nil {
		return nil, fmt.Errorf("relay to the API server: %w", err)
	}
	l, err := net.Listen("tcp4", net.JoinHostPort(service.String(), "443"))
	if err != nil {
		return nil, fmt.Errorf("relay to the API server: %w", err)
	}
	r := &relay{listener: l, conns: map[net.Conn]bool{}}
	r.running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			from := c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr()
			if from != n.node && from != service && !n.pods.Contains(from) {
				c.Close()
				continue
			}
			r.running.Go(func() { r.carry(c, to.Host) })
		}
	})
	return r, nil
}

func (r *relay) carry(from net.Conn, host string) {
	to, err := net.Dial("tcp", host)
	if err != nil {
		from.Close()
		return
	}
	if !r.hold(from, to) {
		return
	}
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{to, from}, {from, to}} {
		both.Go(func() {
			_, _ = io.Copy(way[0], way[1])         // its end is the end
			_ = way[0].(*net.TCPConn).CloseWrite() // closed already is fine
		})
	}
	both.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range []net.Conn{from, to} {
		delete(r.conns, c)
		c.Close()
	}
}

// hold remembers connections to close; false: it is over, and they are closed.
func (r *relay) hold(conns ...net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range conns {
		if r.closed {
			c.Close()
		} else {
			r.conns[c] = true
		}
	}
	return !r.closed
}

func (r *relay) close() {
	r.listener.Close()
	r.mu.Lock()
	r.closed = true
	for c := range r.conns {
		c.Close()
	}
	r.mu.Unlock()
	r.running.Wait()
}

func freePort() (int, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("no port can be opened on 127.0.0.1: %w", err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}
