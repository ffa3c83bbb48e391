package model

import (
	"net/netip"
	"slices"
	"strings"

	"ctlab/checks/conntrack"
)

// SetLink says that a device exists, up or down; Down says at which tick it went down.
func (n *Namespace) SetLink(name string, up bool) {
	l := n.link(name)
	if l.up && !up {
		n.Down(n.now, name)
	}
	l.up = up
}

func (n *Namespace) link(name string) *link {
	if n.links[name] == nil {
		n.indexes++
		n.links[name] = &link{index: n.indexes}
	}
	return n.links[name]
}

// Down sets a device down: its routes go away (fib_disable_ip), its neighbours are forgotten together with
// what waits for them (neigh_ifdown), and the entries that were masqueraded on it are deleted
// (masq_device_event). Its IPv4 addresses stay.
func (n *Namespace) Down(at conntrack.Span, name string) {
	n.now = at
	l := n.link(name)
	l.up = false
	if name != loopback { // its IPv6 addresses go, without keep_addr_on_down (addrconf_ifdown)
		if n.given("net.ipv6.conf.all.keep_addr_on_down", 0) != 0 || n.given("net.ipv6.conf."+sysctlName(name)+".keep_addr_on_down", 0) != 0 {
			n.notModelled("keep_addr_on_down: %s goes down", name)
		}
		l.addrs = slices.DeleteFunc(slices.Clone(l.addrs), func(p netip.Prefix) bool { return !p.Addr().Is4() })
	}
	n.routes = slices.DeleteFunc(slices.Clone(n.routes), func(r Route) bool { return r.Dev == name })
	n.forgetNeighbours(name)
	n.dropQueued(name)
	n.flushMasquerade(at, "the device "+name+" went down", func(e *entry) bool { return e.masqueraded == l.index })
}

// DelLink takes a device away, with its addresses, routes and neighbours (and masqueraded entries).
func (n *Namespace) DelLink(at conntrack.Span, name string) {
	if n.links[name] == nil {
		return
	}
	n.Down(at, name)
	delete(n.links, name)
}

// broadcast reports whether an address is the last one of a device's subnet (fib_add_ifaddr).
func (n *Namespace) broadcast(a netip.Addr) bool {
	for _, l := range n.links {
		for _, p := range l.addrs {
			if a.Is4() && p.Addr().Is4() && p.Bits() < 31 && p.Contains(a) && !p.Contains(a.Next()) {
				return true
			}
		}
	}
	return false
}

func (n *Namespace) forgetNeighbours(dev string) {
	for k, s := range n.neigh {
		if k.Dev != dev {
			continue
		}
		for _, q := range s.queue {
			q.release()
		}
		delete(n.neigh, k)
	}
}

// flushMasquerade deletes the masqueraded entries that a change of devices or addresses touches
// (nf_nat_masquerade.c). The kernel does it from a work queue, very soon after.
func (n *Namespace) flushMasquerade(at conntrack.Span, why string, touched func(*entry) bool) {
	for _, e := range slices.Clone(n.entries) {
		if e.masqueraded != 0 && touched(e) {
			e.touched = at
			n.evict(e, "deleted: "+why)
		}
	}
}

// AddAddress gives a device an address; it brings no route of its subnet.
func (n *Namespace) AddAddress(dev string, a netip.Prefix) {
	l := n.link(dev)
	if !slices.Contains(l.addrs, a) {
		l.addrs = append(l.addrs, a)
	}
}

// DelAddress takes an address off a device, and with a primary address its secondary ones, unless
// promote_secondaries says otherwise (__inet_del_ifa). With the last address all routes of the device go
// (fib_inetaddr_event). Entries that were masqueraded to an address on this device are deleted
// (masq_inet_event).
func (n *Namespace) DelAddress(at conntrack.Span, dev string, a netip.Prefix) {
	l := n.links[dev]
	if l == nil {
		return
	}
	i := slices.Index(l.addrs, a)
	if i < 0 {
		return
	}
	gone := []netip.Prefix{a}
	if a.Addr().Is4() && !l.secondary(i) && !n.switchedOn(dev, "promote_secondaries") {
		for _, p := range l.addrs[i+1:] {
			if p.Masked() == a.Masked() {
				gone = append(gone, p)
			}
		}
	}
	l.addrs = slices.DeleteFunc(slices.Clone(l.addrs), func(p netip.Prefix) bool { return slices.Contains(gone, p) })
	if is4 := func(p netip.Prefix) bool { return p.Addr().Is4() }; is4(a) && !slices.ContainsFunc(l.addrs, is4) {
		n.routes = slices.DeleteFunc(slices.Clone(n.routes), func(r Route) bool { return r.Dev == dev && is4(r.To) })
	}
	for _, p := range gone {
		n.flushMasquerade(at, "the address "+p.Addr().String()+" is gone", func(e *entry) bool {
			return e.masqueraded == l.index && e.reply.Dst == p.Addr()
		})
	}
}

// switchedOn reads a switch of net.ipv4.conf, which holds if it is on for the device or for all.
func (n *Namespace) switchedOn(dev, name string) bool {
	for _, k := range []string{"all", strings.ReplaceAll(dev, ".", "/")} {
		if v, ok := n.sysctls["net.ipv4.conf."+k+"."+name]; ok && v != "0" {
			return true
		}
	}
	return false
}

// sysctlName is a device's name in the name of a sysctl.
func sysctlName(dev string) string { return strings.ReplaceAll(dev, ".", "/") }

// deviceSysctl is a device's own setting; where it was not given, the one that devices begin with.
func (n *Namespace) deviceSysctl(dev, name string, def int64) int64 {
	key := "net.ipv4.conf." + sysctlName(dev) + "." + name
	if _, ok := n.sysctls[key]; ok {
		return n.sysctl(key, def)
	}
	return n.sysctl("net.ipv4.conf.default."+name, def)
}

// AddRoute adds a route to the main table, or replaces the one with the same destination.
func (n *Namespace) AddRoute(r Route) {
	n.routes = slices.DeleteFunc(slices.Clone(n.routes), func(o Route) bool { return o.To == r.To })
	n.routes = append(n.routes, r)
}

// DelRoute takes a route away.
func (n *Namespace) DelRoute(r Route) {
	n.routes = slices.DeleteFunc(slices.Clone(n.routes), func(o Route) bool { return o == r })
}
