//go:build linux

// Package topology builds a lab's network on this kernel: namespaces, veth pairs, addresses, routes,
// sysctls, iptables rules. Everything is in namespaces that it made and that no name keeps alive.
package topology

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sort"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ctlab/internal/netns"
)

// Network is the running network of a lab.
type Network struct {
	nodes []*Node
}

// Node is a namespace with its links.
type Node struct {
	NS    *netns.NS
	nl    *netlink.Handle
	ports map[string]int // device name to interface index, also of devices that are gone
}

// AddNode makes a namespace. lo is up and IPv6 is off, so that no router solicitation or neighbour
// discovery ends up in a trace.
func (n *Network) AddNode(name string) (*Node, error) {
	ns, err := netns.New(name)
	if err != nil {
		return nil, err
	}
	node := &Node{NS: ns, ports: map[string]int{Loopback: loopbackIndex}}
	n.nodes = append(n.nodes, node)
	if err := node.open(); err != nil {
		return nil, fmt.Errorf("set up node %s: %w", name, err)
	}
	return node, nil
}

func (n *Node) open() error {
	return n.NS.Do(func() (err error) {
		for _, family := range []string{"all", "default"} {
			err := os.WriteFile(netns.SysctlPath("net.ipv6.conf."+family+".disable_ipv6"), []byte("1"), 0)
			if err != nil && !errors.Is(err, unix.ENOENT) { // a kernel without IPv6 needs no switch
				return fmt.Errorf("switch IPv6 off: %w", err)
			}
		}
		if n.nl, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
			return fmt.Errorf("open rtnetlink: %w", err)
		}
		if err := n.nl.LinkSetUp(n.device(Loopback)); err != nil {
			return fmt.Errorf("set lo up: %w", err)
		}
		return nil
	})
}

// Close lets every namespace go; the kernel takes down what is in them.
func (n *Network) Close() error {
	var errs []error
	for _, node := range slices.Backward(n.nodes) {
		if node.nl != nil {
			node.nl.Close()
		}
		errs = append(errs, node.NS.Close())
	}
	n.nodes = nil
	return errors.Join(errs...)
}

// Uplink is a host's link to its router.
type Uplink struct {
	Host, Router *Node
	Port         string // the router's device
	Ends         []End  // of each family that the host speaks
	Bare         bool   // eth0 gets neither addresses nor routes: the host's stack takes no part
}

// End is what an uplink has of one family.
type End struct {
	Address netip.Prefix // of the host's eth0
	Gateway netip.Addr   // of the router's port
	NoRoute bool         // the router has a route to Address already, to another host
}

// Port is the gateway as the router's port has it.
func (e End) Port() netip.Prefix { return single(e.Gateway) }

// Host is the host as the router's route has it.
func (e End) Host() netip.Prefix { return single(e.Address.Addr()) }

// single is a prefix that holds one address.
func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// HostDevice is the name of a host's only device besides lo.
const HostDevice = "eth0"

// Loopback is the name of the device that each namespace is born with. Its index is always the same
// (LOOPBACK_IFINDEX in include/net/flow.h; net/core/dev.c asks for it).
const (
	Loopback      = "lo"
	loopbackIndex = 1
)

// Connect makes a veth pair between a host and its router, as the CNI plugin ptp does: the router's port
// has the gateway's address as a prefix of its own and a host route to the host; the host reaches everything, its own
// subnet included, through the gateway. Several hosts may share a subnet.
//
// The peer is made inside its namespace: moving a veth end costs some 40 ms. One queue each is enough.
func Connect(u Uplink) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = u.Port
	attrs.NumTxQueues, attrs.NumRxQueues = 1, 1
	veth := netlink.NewVeth(attrs)
	veth.PeerName, veth.PeerNamespace = HostDevice, netlink.NsFd(u.Host.NS.FD())
	veth.PeerNumTxQueues, veth.PeerNumRxQueues = 1, 1
	if err := u.Router.nl.LinkAdd(veth); err != nil {
		return fmt.Errorf("add link %s to %s: %w", u.Port, u.Router.NS.Name(), err)
	}
	router, host := []netip.Prefix{}, []netip.Prefix{}
	for _, e := range u.Ends {
		if e.Gateway.Is6() {
			router, host = append(router, routerLocal()), append(host, hostLocal())
		}
		router, host = append(router, e.Port()), append(host, e.Address)
	}
	if err := u.Router.configure(u.Port, router); err != nil {
		return err
	}
	if u.Bare {
		host = nil
	}
	if err := u.Host.configure(HostDevice, host); err != nil {
		return err
	}
	var errs []error
	for _, e := range u.Ends {
		any := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if e.Gateway.Is6() {
			any = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
		if !e.NoRoute {
			errs = append(errs, u.Router.AddRoute(Route{To: e.Host(), Dev: u.Port}))
		}
		if u.Bare {
			continue
		}
		errs = append(errs,
			u.Host.AddRoute(Route{To: e.Port(), Dev: HostDevice}),
			u.Host.AddRoute(Route{To: any, Via: e.Gateway, Dev: HostDevice}))
	}
	return errors.Join(errs...)
}

// HardwareAddr is the link layer address of a device, and its index.
func (n *Node) HardwareAddr(dev string) (net.HardwareAddr, int, error) {
	link, err := n.nl.LinkByName(dev)
	if err != nil {
		return nil, 0, fmt.Errorf("find %s in %s: %w", dev, n.NS.Name(), err)
	}
	return link.Attrs().HardwareAddr, link.Attrs().Index, nil
}

// configure finds a device, gives it its addresses without their subnets' routes, and takes it up.
func (n *Node) configure(dev string, addresses []netip.Prefix) error {
	link, err := n.nl.LinkByName(dev)
	if err != nil {
		return fmt.Errorf("find %s in %s: %w", dev, n.NS.Name(), err)
	}
	n.ports[dev] = link.Attrs().Index
	for _, a := range addresses {
		if err := n.AddAddress(dev, a); err != nil {
			return err
		}
	}
	return n.SetLink(dev, true)
}

// device names a device in a request, which only carries its index; 0 finds none.
func (n *Node) device(dev string) netlink.Link {
	return &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Name: dev, Index: n.ports[dev]}}
}

// Devices maps interface indexes to names, without lo. It also knows devices that are gone.
func (n *Node) Devices() map[int]string {
	out := map[int]string{}
	for name, index := range n.ports {
		if name != Loopback {
			out[index] = name
		}
	}
	return out
}

// SetLink sets a device up or down. Down takes its routes and neighbours along, and up does not bring them
// back; its addresses stay (net/ipv4/fib_frontend.c, fib_netdev_event).
func (n *Node) SetLink(dev string, up bool) error {
	set, state := n.nl.LinkSetDown, "down"
	if up {
		set, state = n.nl.LinkSetUp, "up"
	}
	if err := set(n.device(dev)); err != nil {
		return fmt.Errorf("set %s %s in %s: %w", dev, state, n.NS.Name(), err)
	}
	return nil
}

// DeleteLink deletes a device; the other end of a veth pair goes with it.
func (n *Node) DeleteLink(dev string) error {
	if err := n.nl.LinkDel(n.device(dev)); err != nil {
		return fmt.Errorf("delete link %s of %s: %w", dev, n.NS.Name(), err)
	}
	return nil
}

// AddAddress gives a device an address, behind those that it has, without a route of its subnet. On lo the whole
// subnet is the node's own then, as it is with ip address add (net/ipv4/fib_frontend.c, fib_add_ifaddr).
func (n *Node) AddAddress(dev string, a netip.Prefix) error {
	addr := &netlink.Addr{IPNet: ipNet(a), Flags: unix.IFA_F_NOPREFIXROUTE}
	switch {
	case dev == Loopback:
		addr.Flags = 0
	case a.Addr().Is6():
		addr.Flags |= unix.IFA_F_NODAD // nothing waits until it may be used
	}
	if err := n.nl.AddrAdd(n.device(dev), addr); err != nil {
		return fmt.Errorf("add address %s to %s in %s: %w", a, dev, n.NS.Name(), err)
	}
	return nil
}

// RemoveAddress takes an address off a device. With its last IPv4 address a device loses its IPv4 routes and
// neighbours (net/ipv4/fib_frontend.c, fib_inetaddr_event); IPv6 takes nothing along.
func (n *Node) RemoveAddress(dev string, a netip.Prefix) error {
	if err := n.nl.AddrDel(n.device(dev), &netlink.Addr{IPNet: ipNet(a)}); err != nil {
		return fmt.Errorf("remove address %s from %s in %s: %w", a, dev, n.NS.Name(), err)
	}
	return nil
}

// ForgetNeighbour deletes a neighbour entry, as the kernel does when the device goes away.
func (n *Node) ForgetNeighbour(dev string, a netip.Addr) error {
	err := n.nl.NeighDel(&netlink.Neigh{LinkIndex: n.ports[dev], Family: familyOf(a), IP: a.AsSlice()})
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("forget neighbour %s on %s in %s: %w", a, dev, n.NS.Name(), err)
	}
	return nil
}

// familyOf an address, as the kernel numbers it.
func familyOf(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// State is an inventory of a node, in the lines that traces use.
type State struct{ Links, Addresses, Routes []string }

// State reads links, addresses and routes of the main table back from the kernel. Of lo it lists the
// addresses that it was not born with, and nothing else.
func (n *Node) State() (State, error) {
	var st State
	devices := n.Devices()
	links, err := n.nl.LinkList()
	if err != nil {
		return st, fmt.Errorf("list links of %s: %w", n.NS.Name(), err)
	}
	for _, l := range links {
		a := l.Attrs()
		if a.Index == loopbackIndex {
			continue
		}
		up := " down"
		if a.Flags&net.FlagUp != 0 {
			up = " up"
		}
		st.Links = append(st.Links, a.Name+up)
	}
	addrs, err := n.nl.AddrList(nil, unix.AF_UNSPEC)
	if err != nil {
		return st, fmt.Errorf("list addresses of %s: %w", n.NS.Name(), err)
	}
	for _, a := range addrs {
		dev, ok := devices[a.LinkIndex]
		if a.LinkIndex == loopbackIndex && !a.IP.IsLoopback() {
			dev, ok = Loopback, true
		}
		if ok {
			st.Addresses = append(st.Addresses, dev+" "+a.IPNet.String())
		}
	}
	routes, err := n.Routes()
	for _, r := range routes {
		st.Routes = append(st.Routes, r.String())
	}
	sort.Strings(st.Links)
	sort.Strings(st.Addresses)
	sort.Strings(st.Routes)
	return st, err
}

// Forward makes a node a router: it forwards, sends no redirects and does not filter by reverse path,
// whatever the machine's defaults are.
func (n *Node) Forward() error {
	var errs []error
	for _, s := range []string{"ip_forward=1", "conf.all.rp_filter=0", "conf.default.rp_filter=0", "conf.all.send_redirects=0", "conf.default.send_redirects=0"} {
		key, value, _ := strings.Cut(s, "=")
		errs = append(errs, n.NS.WriteSysctl("net.ipv4."+key, value))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("make %s a router: %w", n.NS.Name(), err)
	}
	return nil
}
