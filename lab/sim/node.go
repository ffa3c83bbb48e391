package sim

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"ctlab/checks/conntrack"
	"ctlab/lab"
)

// hostDevice is the name of a host's only device besides lo.
const hostDevice = "eth0"

// linkTime is how long a packet is on a link, between the hooks at both its ends.
const linkTime = 25 * time.Microsecond

// node is a host or a router: devices, addresses, routes, neighbours and sockets. What a router does with
// packets, its model says.
type node struct {
	g       *Ground
	spec    *lab.Node
	tracked *tracked // nil: a host
	devices []*device
	routes  []lab.Route
	sysctls map[string]string
	sockets []*socket
	errors  map[netip.Addr]*bucket // ICMP errors by their destination
	known   map[hop]bool           // neighbours that have answered
	probing map[hop]uint64         // neighbours that are being asked; the number of the search
	waiting map[hop][]conntrack.Packet
}

// device is a network device. A port and a host's eth0 are each other's peers.
type device struct {
	node  *node
	name  string
	up    bool
	addrs []netip.Prefix
	peer  *device // nil: lo, or the other end is gone
}

// carrier reports whether packets pass: both ends are up.
func (d *device) carrier() bool { return d.up && d.peer != nil && d.peer.up }

// hop is a neighbour on a device.
type hop struct {
	dev  string
	addr netip.Addr
}

func newNode(g *Ground, spec *lab.Node) *node {
	n := &node{g: g, spec: spec, sysctls: map[string]string{}, errors: map[netip.Addr]*bucket{},
		known: map[hop]bool{}, probing: map[hop]uint64{}, waiting: map[hop][]conntrack.Packet{}}
	n.addDevice("lo").up = true
	return n
}

func (n *node) addDevice(name string) *device {
	d := &device{node: n, name: name}
	n.devices = append(n.devices, d)
	return d
}

func (n *node) device(name string) *device {
	for _, d := range n.devices {
		if d.name == name {
			return d
		}
	}
	return nil
}

// has reports whether an address is one of the node's own.
func (n *node) has(a netip.Addr) bool {
	return slices.ContainsFunc(n.devices, func(d *device) bool { return d.has(a) })
}

// route is the longest match (fib_table_lookup).
func (n *node) route(dst netip.Addr) (best lab.Route, ok bool) {
	for _, r := range n.routes {
		if r.To.Contains(dst) && (!ok || r.To.Bits() > best.To.Bits()) {
			best, ok = r, true
		}
	}
	return best, ok
}

// source is the address from which packets to dst are sent when the sender does not care: the destination
// itself where it is local, else the first address of the route's device, of the gateway's subnet if there
// is one (inet_select_addr).
func (n *node) source(dst netip.Addr) (netip.Addr, bool) {
	if n.has(dst) {
		return dst, true
	}
	r, ok := n.route(dst)
	if !ok {
		return netip.Addr{}, false
	}
	a := n.device(r.Dev).firstFor(dst, r.Via)
	for _, d := range n.devices {
		if !a.IsValid() {
			a = d.firstFor(dst, netip.Addr{}) // a device without addresses borrows
		}
	}
	return a, a.IsValid()
}

// firstFor is the first address of the destination's family whose subnet has the gateway, or just the first. With one
// address on a device, and link-local ones for link-local destinations only, IPv6 chooses the same (ipv6_dev_get_saddr).
func (d *device) firstFor(dst, gateway netip.Addr) (first netip.Addr) {
	for _, p := range d.addrs {
		switch a := p.Addr(); {
		case !sameFamily(a, dst) || a.Is6() && a.IsLinkLocalUnicast():
		case gateway.IsValid() && p.Contains(gateway):
			return a
		case !first.IsValid():
			first = a
		}
	}
	return first
}

// sysctl reads a numeric setting.
func (n *node) sysctl(key string, def int64) int64 {
	v, err := strconv.ParseInt(n.sysctls[key], 10, 64)
	if err != nil {
		return def
	}
	return v
}

// The kernel's words for what can go wrong with acts on a network.
var (
	errExists    = errors.New("file exists")
	errNotThere  = errors.New("no such process")
	errNoDevice  = errors.New("cannot find device")
	errNoAddress = errors.New("cannot assign requested address")
	errAddrInUse = errors.New("address already in use")
	errUnknownOp = errors.New("no such operation")
)

// addAddress gives a device an address.
func (n *node) addAddress(dev string, a netip.Prefix) error {
	d := n.device(dev)
	switch {
	case d == nil:
		return fmt.Errorf("add address %s to %s: %w", a, dev, errNoDevice)
	case slices.Contains(d.addrs, a):
		return fmt.Errorf("add address %s to %s: %w", a, dev, errExists)
	}
	d.addrs = append(d.addrs, a)
	if n.tracked != nil {
		n.tracked.addAddress(dev, a)
	}
	return nil
}

// delAddress takes an address off a device, and with the first of a subnet the others of it, unless
// promote_secondaries is set (__inet_del_ifa). With its last address a device also loses its routes and
// neighbours (fib_inetaddr_event, fib_disable_ip). An IPv6 address takes nothing along (ipv6_del_addr).
func (n *node) delAddress(dev string, a netip.Prefix) error {
	d := n.device(dev)
	if d == nil {
		return fmt.Errorf("remove address %s from %s: %w", a, dev, errNoDevice)
	}
	i := slices.Index(d.addrs, a)
	if i < 0 {
		return fmt.Errorf("remove address %s from %s: %w", a, dev, errNoAddress)
	}
	six := a.Addr().Is6()
	first := !six && slices.IndexFunc(d.addrs, func(p netip.Prefix) bool { return p.Masked() == a.Masked() }) == i
	d.addrs = slices.DeleteFunc(d.addrs, func(p netip.Prefix) bool {
		return p == a || first && p.Masked() == a.Masked() && !n.promotes(dev)
	})
	if n.tracked != nil {
		n.tracked.delAddress(dev, a)
	}
	if !six && !slices.ContainsFunc(d.addrs, func(p netip.Prefix) bool { return p.Addr().Is4() }) {
		n.disable(d, netip.Addr.Is4)
	}
	return nil
}

func (n *node) promotes(dev string) bool {
	return n.sysctl("net.ipv4.conf.all.promote_secondaries", 0) != 0 || n.sysctl("net.ipv4.conf."+dev+".promote_secondaries", 0) != 0
}

// disable takes away the routes over a device and what is known of its neighbours, of some addresses (fib_disable_ip,
// rt6_disable_ip).
func (n *node) disable(d *device, of func(netip.Addr) bool) {
	for _, r := range slices.Clone(n.routes) {
		if r.Dev == d.name && of(r.To.Addr()) {
			n.dropRoute(r)
		}
	}
	n.forgetAll(d.name, of)
}

// all is every address.
func all(netip.Addr) bool { return true }

func (n *node) dropRoute(r lab.Route) {
	n.routes = slices.DeleteFunc(n.routes, func(o lab.Route) bool { return sameRoute(o, r) })
	if n.tracked != nil {
		n.tracked.delRoute(r)
	}
}

func sameRoute(a, b lab.Route) bool { return a.To == b.To && a.Via == b.Via && a.Dev == b.Dev }

// addRoute adds a route; there is one for a destination.
func (n *node) addRoute(r lab.Route) error {
	d := n.device(r.Dev)
	if d == nil || !d.up {
		return fmt.Errorf("add route %s: %w", r, errNoDevice)
	}
	if slices.ContainsFunc(n.routes, func(o lab.Route) bool { return o.To == r.To }) {
		return fmt.Errorf("add route %s: %w", r, errExists)
	}
	n.routes = append(n.routes, r)
	if n.tracked != nil {
		n.tracked.addRoute(r)
	}
	return nil
}

func (n *node) delRoute(r lab.Route) error {
	if !slices.ContainsFunc(n.routes, func(o lab.Route) bool { return sameRoute(o, r) }) {
		return fmt.Errorf("delete route %s: %w", r, errNotThere)
	}
	n.dropRoute(r)
	return nil
}

func (n *node) replaceRoute(r lab.Route) error {
	for _, o := range slices.Clone(n.routes) {
		if o.To == r.To {
			n.dropRoute(o)
		}
	}
	return n.addRoute(r)
}

// setLink takes a device up or down. Down, it loses its routes and its IPv6 addresses (addrconf_ifdown; keep_addr_on_down
// is 0); the other end notices.
func (n *node) setLink(d *device, up bool) {
	d.up = up
	if n.tracked != nil {
		n.tracked.setLink(d.name, up)
	}
	if up {
		return
	}
	n.disable(d, all)
	d.addrs = slices.DeleteFunc(d.addrs, func(p netip.Prefix) bool { return p.Addr().Is6() && d.name != "lo" })
	if d.peer != nil {
		d.peer.node.forgetAll(d.peer.name, all) // no carrier (neigh_carrier_down)
	}
}

// delLink deletes a device; its peer goes with it.
func (n *node) delLink(d *device) {
	for _, end := range []*device{d, d.peer} {
		if end == nil {
			continue
		}
		end.node.removeDevice(end)
		end.up, end.peer = false, nil
	}
}

func (n *node) removeDevice(d *device) {
	n.devices = slices.DeleteFunc(n.devices, func(o *device) bool { return o == d })
	n.routes = slices.DeleteFunc(n.routes, func(r lab.Route) bool { return r.Dev == d.name })
	for _, h := range n.neighbours(d.name) {
		n.unknow(h)
		delete(n.waiting, h)
	}
	if n.tracked != nil {
		n.tracked.delLink(d.name)
	}
}
