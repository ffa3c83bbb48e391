//go:build linux

// Package topology builds a lab's network on this kernel: namespaces, veth pairs, addresses, routes,
// sysctls, iptables rules. Everything is in namespaces that it made and that no name keeps alive.
package topology

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
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
	ports map[string]int // device name to interface index
}

// AddNode makes a namespace. lo is up and IPv6 is off, so that no router solicitation or neighbour
// discovery ends up in a trace.
func (n *Network) AddNode(name string) (*Node, error) {
	ns, err := netns.New(name)
	if err != nil {
		return nil, err
	}
	node := &Node{NS: ns, ports: map[string]int{}}
	n.nodes = append(n.nodes, node)
	if err := node.open(); err != nil {
		return nil, fmt.Errorf("set up node %s: %w", name, err)
	}
	return node, nil
}

func (n *Node) open() (err error) {
	for _, family := range []string{"all", "default"} {
		err := n.NS.WriteSysctl("net.ipv6.conf."+family+".disable_ipv6", "1")
		if err != nil && !errors.Is(err, unix.ENOENT) { // a kernel without IPv6 needs no switch
			return fmt.Errorf("switch IPv6 off: %w", err)
		}
	}
	err = n.NS.Do(func() error {
		n.nl, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return fmt.Errorf("open rtnetlink: %w", err)
	}
	lo, err := n.nl.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	return n.nl.LinkSetUp(lo)
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
	Port         string       // the router's device
	Address      netip.Prefix // of the host's eth0
	Gateway      netip.Addr   // of the router's port
}

// HostDevice is the name of a host's only device.
const HostDevice = "eth0"

// Connect makes a veth pair between a host and its router, as the CNI plugin ptp does: the router's port
// has the gateway's address as /32 and a host route to the host; the host reaches everything, its own
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
	if err := u.Router.configure(u.Port, netip.PrefixFrom(u.Gateway, 32)); err != nil {
		return err
	}
	if err := u.Host.configure(HostDevice, u.Address); err != nil {
		return err
	}
	return errors.Join(
		u.Router.addRoute(u.Port, netip.PrefixFrom(u.Address.Addr(), 32), netip.Addr{}),
		u.Host.addRoute(HostDevice, netip.PrefixFrom(u.Gateway, 32), netip.Addr{}),
		u.Host.addRoute(HostDevice, netip.PrefixFrom(netip.IPv4Unspecified(), 0), u.Gateway))
}

// configure finds a device, gives it its address without the subnet's route, and takes it up.
func (n *Node) configure(dev string, a netip.Prefix) error {
	link, err := n.nl.LinkByName(dev)
	if err != nil {
		return fmt.Errorf("find %s in %s: %w", dev, n.NS.Name(), err)
	}
	n.ports[dev] = link.Attrs().Index
	addr := &netlink.Addr{IPNet: ipNet(a), Flags: unix.IFA_F_NOPREFIXROUTE}
	if err := n.nl.AddrAdd(link, addr); err != nil {
		return fmt.Errorf("add address %s to %s in %s: %w", a, dev, n.NS.Name(), err)
	}
	if err := n.nl.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up in %s: %w", dev, n.NS.Name(), err)
	}
	return nil
}

func (n *Node) addRoute(dev string, to netip.Prefix, via netip.Addr) error {
	r := &netlink.Route{LinkIndex: n.ports[dev], Dst: ipNet(to)}
	if via.IsValid() {
		r.Gw = via.AsSlice()
	} else {
		r.Scope = netlink.SCOPE_LINK
	}
	if err := n.nl.RouteAdd(r); err != nil {
		return fmt.Errorf("add route %s to %s: %w", to, n.NS.Name(), err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// Devices maps interface indexes to names, without lo.
func (n *Node) Devices() map[int]string {
	out := map[int]string{}
	for name, index := range n.ports {
		out[index] = name
	}
	return out
}

// RemoveAddress takes an address off a host.
func (n *Node) RemoveAddress(a netip.Prefix) error {
	link, err := n.nl.LinkByIndex(n.ports[HostDevice])
	if err == nil {
		err = n.nl.AddrDel(link, &netlink.Addr{IPNet: ipNet(a)})
	}
	if err != nil {
		return fmt.Errorf("remove address %s from %s: %w", a, n.NS.Name(), err)
	}
	return nil
}

// ForgetNeighbour deletes a neighbour entry, as the kernel does when the device goes away.
func (n *Node) ForgetNeighbour(dev string, a netip.Addr) error {
	err := n.nl.NeighDel(&netlink.Neigh{LinkIndex: n.ports[dev], Family: unix.AF_INET, IP: a.AsSlice()})
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("forget neighbour %s on %s in %s: %w", a, dev, n.NS.Name(), err)
	}
	return nil
}

// State is an inventory of a node, in the lines that traces use.
type State struct{ Links, Addresses, Routes []string }

// State reads links, addresses and routes of the main table back from the kernel, without lo's.
func (n *Node) State() (State, error) {
	var st State
	devices := n.Devices()
	links, err := n.nl.LinkList()
	if err != nil {
		return st, fmt.Errorf("list links of %s: %w", n.NS.Name(), err)
	}
	for _, l := range links {
		a := l.Attrs()
		if a.Name == "lo" {
			continue
		}
		up := " down"
		if a.Flags&net.FlagUp != 0 {
			up = " up"
		}
		st.Links = append(st.Links, a.Name+up)
	}
	addrs, err := n.nl.AddrList(nil, unix.AF_INET)
	if err != nil {
		return st, fmt.Errorf("list addresses of %s: %w", n.NS.Name(), err)
	}
	for _, a := range addrs {
		if dev, ok := devices[a.LinkIndex]; ok {
			st.Addresses = append(st.Addresses, dev+" "+a.IPNet.String())
		}
	}
	st.Routes, err = n.routes(devices)
	sort.Strings(st.Links)
	sort.Strings(st.Addresses)
	sort.Strings(st.Routes)
	return st, err
}

func (n *Node) routes(devices map[int]string) (out []string, err error) {
	routes, err := n.nl.RouteList(nil, unix.AF_INET)
	if err != nil {
		return nil, fmt.Errorf("list routes of %s: %w", n.NS.Name(), err)
	}
	for _, r := range routes {
		to := "0.0.0.0/0"
		if r.Dst != nil {
			to = r.Dst.String()
		}
		if r.Gw != nil {
			to += " via " + r.Gw.String()
		}
		out = append(out, to+" dev "+devices[r.LinkIndex])
	}
	return out, nil
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
