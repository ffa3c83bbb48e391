package sim

import (
	"net/netip"

	"ctlab/checks/conntrack"
)

// receive handles a packet that arrives on a device.
func (n *node) receive(d *device, p conntrack.Packet) {
	if n.tracked != nil {
		n.tracked.receive(d.name, p)
		return
	}
	if n.spec.Wire {
		return
	}
	// A host does not forward, and takes IPv4 packets from its own address for martians (fib_validate_source).
	if !n.has(p.Dst) || p.Src.Is4() && n.has(p.Src) {
		return
	}
	n.input(p, false)
}

// input is the host's own stack.
func (n *node) input(p conntrack.Packet, looped bool) {
	switch {
	case p.About != nil:
		n.hearError(icmpError{p.ICMPType, p.ICMPCode, *p.About})
	case p.Bad != "" || p.IsFragment():
	case p.Proto == conntrack.ICMP && p.ICMPType == echoRequest:
		n.echo(p)
	case p.Proto == conntrack.UDP && !n.deliver(p):
		n.refuse(p, portUnreachable, looped)
	case p.Proto != conntrack.UDP && p.Proto != conntrack.TCP && p.Proto != conntrack.ICMP:
		n.refuse(p, protUnreachable, looped)
	}
}

// echo answers an echo request (icmp_echo in net/ipv4/icmp.c); that is not limited.
func (n *node) echo(p conntrack.Packet) {
	p.ICMPType, p.Src, p.Dst, p.ID, p.TTL, p.DF = echoReply, p.Dst, p.Src, n.g.nextID(), n.ttl(p.Src), false
	n.output(p)
}

// quoteLimit is how much of a packet an ICMP error may quote: 576 bytes in all (icmp_send).
const quoteLimit = 576 - ipHeader - icmpHeader

// quoteLimit6 is the same of ICMPv6: 1280 bytes in all (icmp6_send).
const quoteLimit6 = 1280 - ipv6Header - icmpHeader

// refuse answers a packet that nobody takes with an ICMP error, as often as the rate limit allows; there is none
// on lo.
func (n *node) refuse(p conntrack.Packet, code uint8, looped bool) {
	about := p
	e := conntrack.Packet{Proto: conntrack.ICMP, ICMPType: unreachable, ICMPCode: code, Src: p.Dst, Dst: p.Src,
		Len: ipHeader + icmpHeader + min(p.Len, quoteLimit), ID: n.g.nextID(), TTL: n.ttl(p.Dst), About: &about}
	if p.Dst.Is6() {
		e.Proto, e.ICMPType, e.ICMPCode = conntrack.ICMPv6, unreachable6, portUnreachable6
		e.Len = ipv6Header + icmpHeader + min(p.Len, quoteLimit6)
	}
	if looped || n.allows(e.Dst) {
		n.output(e)
	}
}

// output sends a packet of the host's own.
func (n *node) output(p conntrack.Packet) {
	if n.has(p.Dst) {
		n.g.after(0, func() { n.input(p, true) })
		return
	}
	r, ok := n.route(p.Dst)
	if !ok {
		return
	}
	h := hop{r.Dev, p.Dst}
	if r.Via.IsValid() {
		h.addr = r.Via
	}
	if n.known[h] {
		n.wire(h.dev, p)
		return
	}
	n.waiting[h] = append(n.waiting[h], p)
	n.search(h, p.Src)
}

// ttl is that of packets of the node's own.
func (n *node) ttl(dst netip.Addr) uint8 {
	if dst.Is6() {
		return uint8(n.sysctl("net.ipv6.conf.default.hop_limit", 64))
	}
	return uint8(n.sysctl("net.ipv4.ip_default_ttl", 64))
}

// bucket is the token bucket of ICMP errors towards one destination (inet_peer_xrlim_allow): a token each
// icmp_ratelimit, at most six of them. A new one is full.
type bucket struct {
	tokens int64 // ticks
	last   int64 // tick
}

const burst = 6

// errorCost is how many ticks an ICMP error costs. To wide prefixes older kernels send more of ICMPv6 (icmpv6_xrlim_allow).
func (n *node) errorCost(to netip.Addr) int64 {
	if to.Is4() {
		return n.sysctl("net.ipv4.icmp_ratelimit", 1000) * hz / 1000
	}
	cost := n.sysctl(rateLimit6, defaultRate6(n.g.Profile)) * hz / 1000
	if r, ok := n.route(to); ok && n.g.Profile.PrefixRate {
		cost >>= (to.BitLen() - r.To.Bits()) >> 5
	}
	return cost
}

// allows takes a token for an ICMP error.
func (n *node) allows(to netip.Addr) bool {
	cost := n.errorCost(to)
	now := n.g.now / tick
	b := n.errors[to]
	if b == nil {
		b = &bucket{tokens: burst * cost, last: now}
		n.errors[to] = b
	}
	b.tokens, b.last = min(b.tokens+now-b.last, burst*cost), now
	if b.tokens < cost {
		return false
	}
	b.tokens -= cost
	return true
}
