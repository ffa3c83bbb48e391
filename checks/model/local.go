package model

import (
	"net/netip"
	"slices"

	"ctlab/checks/conntrack"
)

// Socket is a UDP socket of the namespace itself. An unspecified local address means any of its family, an invalid
// Remote that it is not connected.
type Socket struct{ Local, Remote netip.AddrPort }

// Bind says that a socket of the namespace's own was opened, Unbind that it was closed: while it is there,
// what is delivered to it is not answered with port unreachable.
func (n *Namespace) Bind(s Socket) { n.sockets = append(n.sockets, s) }

// Unbind is the end of what Bind began.
func (n *Namespace) Unbind(s Socket) {
	if i := slices.Index(n.sockets, s); i >= 0 {
		n.sockets = slices.Delete(slices.Clone(n.sockets), i, i+1)
	}
}

// taken reports whether a socket takes a datagram that was delivered (udp4_lib_lookup2: a connected
// socket must match both ends, an unspecified local address matches any).
func (n *Namespace) taken(p *conntrack.Packet) bool {
	for _, s := range n.sockets {
		if s.Local.Port() != p.DstPort || s.Local.Addr().Is4() != p.Dst.Is4() || !s.Local.Addr().IsUnspecified() && s.Local.Addr() != p.Dst {
			continue
		}
		if !s.Remote.IsValid() || s.Remote == netip.AddrPortFrom(p.Src, p.SrcPort) {
			return true
		}
	}
	return false
}

// Heard takes the ICMP errors that were delivered to the namespace itself since the last call: those that
// came in and those of its own stack about its own packets, which travel over lo.
func (n *Namespace) Heard() []conntrack.Packet {
	h := n.heard
	n.heard = nil
	return h
}

// Send handles a packet that a socket of the namespace itself sends (LOCAL_OUT, then POSTROUTING). An
// unspecified source is chosen by the route. The time to live and the IP id are the stack's own choice.
// Its Outcome is Dropped where the sender is told so: not permitted (EPERM) if a hook drops the packet,
// unreachable if there is no route (ip_route_output_flow, ip_route_me_harder).
func (n *Namespace) Send(at conntrack.Span, p conntrack.Packet) Outcome {
	n.now = at
	w := &walk{at: at, p: &p, local: true, info: noInfo, hook: "OUTPUT"}
	w.own()
	r, ok := n.routeOut(p.Dst)
	if !ok {
		w.drop("ip_route_output_flow", "network is unreachable: no route to "+p.Dst.String())
		return w.outcome(n)
	}
	w.p.TTL = n.ownTTL(w, r)
	if !p.Src.IsValid() || p.Src.IsUnspecified() {
		w.p.Src = n.sourceFor(r, p.Dst)
	}
	n.localOut(w, r)
	return w.outcome(n)
}

// ownTTL is the time to live, or the hop limit, of what the namespace itself sends.
func (n *Namespace) ownTTL(w *walk, r Route) uint8 {
	if w.v6() {
		return n.hopLimit(r.Dev)
	}
	return uint8(n.sysctl("net.ipv4.ip_default_ttl", 64))
}

// localOut is LOCAL_OUT and POSTROUTING of a packet that the namespace itself made.
func (n *Namespace) localOut(w *walk, r Route) {
	w.hook, w.in = "OUTPUT", ""
	w.towards(r)
	w.say("ip_route_output_flow", w.way())
	before := w.p.Dst
	if !n.table(w, "raw") || !n.track(w) || !n.table(w, "mangle") || !n.natHook(w, w.hook, dstManip) {
		return
	}
	if w.p.Dst != before { // nf_nat_ipv4_local_fn asks for the route again
		r, ok := n.routeOut(w.p.Dst)
		if !ok {
			w.drop("ip_route_me_harder", "network is unreachable: no route to "+w.p.Dst.String())
			return
		}
		w.towards(r)
		w.say("ip_route_me_harder", w.way())
	}
	if n.table(w, "filter") && n.postrouting(w) {
		n.output(w)
	}
}

// loop is loopback_xmit: the packet comes in again, with its entry.
func (n *Namespace) loop(w *walk) {
	w.say("loopback_xmit", "comes in again on lo")
	w.in, w.out, w.hop = loopback, "", netip.Addr{}
	n.receive(w)
}

const loopback = "lo"

// routeOut is the route of a packet that the namespace itself sends: its own addresses are behind lo.
func (n *Namespace) routeOut(dst netip.Addr) (Route, bool) {
	if n.isLocal(dst) {
		return Route{To: netip.PrefixFrom(dst, dst.BitLen()), Dev: loopback}, true
	}
	return n.route(dst)
}

// sourceFor is the source address that a route gives to what the namespace itself sends
// (fib_result_prefsrc): towards itself the destination, else an address of the device.
func (n *Namespace) sourceFor(r Route, dst netip.Addr) netip.Addr {
	if r.Dev == loopback && n.isLocal(dst) {
		return dst
	}
	if !dst.Is4() {
		return n.source6(r.Dev, dst)
	}
	return n.selectAddr(r.Dev, r.Via)
}

// selectAddr is inet_select_addr (net/ipv4/devinet.c) for the scope of the whole net: the primary address
// whose subnet holds the next hop, else the first; a device without addresses borrows from the others.
func (n *Namespace) selectAddr(dev string, hop netip.Addr) netip.Addr {
	var first netip.Addr
	if l := n.links[dev]; l != nil {
		for i, p := range l.addrs {
			if !p.Addr().Is4() || l.secondary(i) || p.Addr().IsLoopback() {
				continue
			}
			if hop.IsValid() && p.Contains(hop) {
				return p.Addr()
			}
			if !first.IsValid() {
				first = p.Addr()
			}
		}
	}
	if first.IsValid() {
		return first
	}
	for _, name := range n.linkOrder() {
		for _, p := range n.links[name].addrs {
			if p.Addr().Is4() && !p.Addr().IsLoopback() {
				return p.Addr()
			}
		}
	}
	return netip.Addr{}
}

// secondary reports whether the i-th address stands in the subnet of an earlier one (IFA_F_SECONDARY).
func (l *link) secondary(i int) bool {
	for _, p := range l.addrs[:i] {
		if p.Masked() == l.addrs[i].Masked() {
			return true
		}
	}
	return false
}

// linkOrder are the devices in the order in which they appeared, lo first.
func (n *Namespace) linkOrder() []string {
	names := make([]string, 0, len(n.links))
	for name := range n.links {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int {
		switch {
		case a == b:
			return 0
		case a == loopback || b != loopback && n.links[a].index < n.links[b].index:
			return -1
		}
		return 1
	})
	return names
}
