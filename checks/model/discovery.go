package model

import (
	"net/netip"

	"ctlab/checks/conntrack"
)

// Discovers handles a message of neighbour or multicast listener discovery that the namespace's own stack sends by a
// device (ndisc_send_skb in net/ipv6/ndisc.c, mld_sendpack in net/ipv6/mcast.c): it passes OUTPUT and POSTROUTING untracked,
// and rules count it. When the stack sends one is its own affair, and so nothing that leaves is predicted.
func (n *Namespace) Discovers(at conntrack.Span, dev string, p conntrack.Packet) {
	n.now = at
	w := &walk{at: at, p: &p, out: dev, local: true, info: noInfo, hook: "OUTPUT"}
	if !n.table(w, "raw") || !n.track(w) || !n.table(w, "mangle") || !n.table(w, "filter") {
		return
	}
	w.hook = "POSTROUTING"
	n.table(w, "mangle")
}

// multicast6 is ip6_mc_input: what is sent to a group is delivered if the device has joined it, and never forwarded.
func (n *Namespace) multicast6(w *walk) {
	switch {
	case !w.p.IsDiscovery():
		n.notModelled("a packet for everybody: %s", w.p.Line())
	case n.joined(w.in, w.p.Dst):
		w.say("ip6_mc_input", "delivered: "+w.in+" has joined "+w.p.Dst.String())
		n.deliver(w)
	default:
		w.say("ip6_mc_input", "nobody here has joined "+w.p.Dst.String())
	}
}

// joined reports whether a device takes what is sent to a group: all nodes, all routers where the namespace is one
// (dev_forward_change), and the groups at which neighbours ask for its addresses (addrconf_join_solict).
func (n *Namespace) joined(dev string, group netip.Addr) bool {
	switch group {
	case netip.IPv6LinkLocalAllNodes():
		return true
	case netip.IPv6LinkLocalAllRouters():
		return n.sysctl("net.ipv6.conf.all.forwarding", 0) != 0
	}
	l := n.links[dev]
	if l == nil {
		return false
	}
	for _, a := range l.addrs {
		if a.Addr().Is6() && solicited(a.Addr()) == group {
			return true
		}
	}
	return false
}

// solicited is the group at which neighbours ask for an address (RFC 4291, 2.7.1).
func solicited(a netip.Addr) netip.Addr {
	b, group := a.As16(), netip.MustParseAddr("ff02::1:ff00:0").As16()
	copy(group[13:], b[13:])
	return netip.AddrFrom16(group)
}
