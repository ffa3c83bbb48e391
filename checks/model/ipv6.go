package model

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"

	"ctlab/checks/conntrack"
)

// v6 reports whether the packet is an IPv6 packet.
func (w *walk) v6() bool { return !w.p.Dst.Is4() }

// rulesOf are the rules of the packet's family: those of iptables or of ip6tables.
func (n *Namespace) rulesOf(w *walk) *Ruleset {
	if w.v6() {
		return n.rules6
	}
	return n.rules
}

// The types of ICMPv6 that have names here (include/uapi/linux/icmpv6.h, include/net/ndisc.h).
const (
	tooBig6      = 2
	echoRequest6 = 128
	echoReply6   = 129
	infoQuery6   = 139
	redirect6    = 137
)

// untracked6 are the types of neighbour and multicast listener discovery, which are never tracked (noct_valid_new in
// nf_conntrack_proto_icmpv6.c; 151 and 152 seen on 6.18).
func untracked6(typ uint8) bool {
	return slices.Contains([]uint8{130, 131, 132, 133, 134, 135, 136, 143, 151, 152}, typ)
}

// icmp6In is nf_conntrack_icmpv6_error (nf_conntrack_proto_icmpv6.c). It reports whether the packet goes on as any
// other does. All types below 128 are errors, known or not.
func (n *Namespace) icmp6In(w *walk) bool {
	wrong := ""
	switch {
	case w.p.Bad == "short":
		wrong = "the header is not whole"
	case w.p.Bad == "checksum" && !w.local && n.sysctl("net.netfilter.nf_conntrack_checksum", 1) != 0:
		wrong = "bad checksum"
	case untracked6(w.p.ICMPType):
		w.info = untracked
		w.say("nf_conntrack_icmpv6_error", "untracked: discovery of neighbours and listeners")
		return false
	case w.p.IsError():
		n.inetError(w)
		return false
	case w.p.ICMPType == redirect6 && w.p.ICMPCode == 0: // nf_conntrack_icmpv6_redirect
		if w.p.TTL == 255 && w.p.Src.IsLinkLocalUnicast() {
			n.notModelled("a redirect: %s", w.p.Line())
		}
		wrong = "a redirect from afar"
	default:
		return true
	}
	n.stats["error"]++
	w.say("nf_conntrack_icmpv6_error", "invalid: "+wrong)
	return false
}

// received6 is ip6_rcv_core: what is dropped before any hook sees it.
func (n *Namespace) received6(w *walk) bool {
	if w.p.Src.IsMulticast() || w.in != loopback && (w.p.Src.IsLoopback() || w.p.Dst.IsLoopback()) {
		w.drop("ip6_rcv_core", "from "+w.p.Src.String()+" to "+w.p.Dst.String())
		return false
	}
	return true
}

// route6 is what follows PREROUTING: ip6_route_input, and ip6_forward or ip6_pkt_discard.
func (n *Namespace) route6(w *walk) {
	if w.p.Dst.IsMulticast() {
		n.multicast6(w)
		return
	}
	if n.isLocal(w.p.Dst) {
		w.say("ip6_route_input", "local delivery: "+w.p.Dst.String()+" is the node's own")
		n.deliver(w)
		return
	}
	if w.p.Dst.IsUnspecified() || w.p.Dst.IsLinkLocalUnicast() {
		n.notModelled("a packet for %s: %s", w.p.Dst, w.p.Line())
		return
	}
	r, ok := n.route(w.p.Dst)
	if !ok {
		w.drop("ip6_pkt_discard", "no route to "+w.p.Dst.String())
		n.tell(w, noRoute)
		return
	}
	w.towards(r)
	w.say("ip6_route_input", w.way())
	if why := n.unforwardable6(w); why != "" {
		w.drop("ip6_forward", why)
		return
	}
	n.forward(w)
}

// unforwardable6 says why ip6_forward drops a packet without a word.
func (n *Namespace) unforwardable6(w *walk) string {
	switch {
	case n.given("net.ipv6.conf.all.forwarding", 0) == 0:
		return "no forwarding: " + w.p.Dst.String() + " is not its own"
	case w.p.TTL <= 1: // says so itself
	case w.in == w.out && !n.hasLinkLocal(w.in):
		n.take(w.p.Dst, w.at, n.seconds(1), n.seconds(6)) // the limit of redirects, from the destination's bucket
		w.say("ndisc_send_redirect", "nothing: the device has no address of the link's own")
	case w.in == w.out:
		n.notModelled("an IPv6 packet leaves by the device on which it came: is there a redirect? %s", w.p.Line())
	case w.p.Src.IsUnspecified():
		return "source " + w.p.Src.String()
	case w.p.Src.IsLinkLocalUnicast():
		n.notModelled("an IPv6 packet from a link's own address leaves the link: %s", w.p.Line())
	}
	return ""
}

// hasLinkLocal reports whether a device has an address that a redirect could come from (ndisc_send_redirect).
func (n *Namespace) hasLinkLocal(dev string) bool {
	l := n.links[dev]
	return l != nil && slices.ContainsFunc(l.addrs, func(p netip.Prefix) bool { return p.Addr().Is6() && p.Addr().IsLinkLocalUnicast() })
}

// anycast reports whether an address is the routers' own of a subnet (addrconf_join_anycast), which a router has.
func (n *Namespace) anycast(a netip.Addr) bool {
	if a.Is4() || n.given("net.ipv6.conf.all.forwarding", 0) == 0 {
		return false
	}
	for _, l := range n.links {
		for _, p := range l.addrs {
			if !p.Addr().Is4() && p.Bits() < 127 && p.Masked().Addr() == a {
				return true
			}
		}
	}
	return false
}

// echo6 is icmpv6_rcv as far as it answers: echo requests.
func (n *Namespace) echo6(w *walk) {
	switch {
	case w.p.ICMPType != echoRequest6:
		return
	case n.given("net.ipv6.icmp.echo_ignore_all", 0) != 0:
		w.say("icmpv6_rcv", "ignored: echo_ignore_all")
		return
	case n.anycast(w.p.Dst):
		n.notModelled("an echo request to an anycast address: %s", w.p.Line())
		return
	}
	answer := *w.p
	answer.ICMPType, answer.Src, answer.Dst, answer.ID = echoReply6, w.p.Dst, w.p.Src, 0
	n.ownReply(w, &answer, "icmpv6_echo_reply")
}

// hopLimit is the hop limit of packets of the namespace's own that leave by a device (ip6_dst_hoplimit).
func (n *Namespace) hopLimit(dev string) uint8 {
	key := "net.ipv6.conf.%s.hop_limit"
	return uint8(n.given(fmt.Sprintf(key, sysctlName(dev)), n.given(fmt.Sprintf(key, "default"), 64)))
}

// quoteLimit6 is how much of a packet an ICMPv6 error may quote: 1280 bytes in all (icmp6_send).
const quoteLimit6 = 1280 - 40 - 8

// ownError6 is icmp6_send: what ownError is for IPv4.
func (n *Namespace) ownError6(about *walk, typ, code uint8, mtu int) {
	src := about.p.Src
	if src.IsUnspecified() || src.IsMulticast() || isErrorToStack(about.p) {
		return
	}
	r, ok := n.routeOut(src)
	if !ok {
		about.say("icmp6_send", "nothing: no route to "+src.String())
		return
	}
	if src.IsLinkLocalUnicast() {
		n.notModelled("an ICMPv6 error to %s: %s", src, about.p.Line())
		return
	}
	quote := quoteOf(about.p)
	p := &conntrack.Packet{Proto: conntrack.ICMPv6, ICMPType: typ, ICMPCode: code, Src: n.errorSource6(about, r), Dst: src,
		Len: 48 + min(quote.Len, quoteLimit6), TTL: n.hopLimit(r.Dev), MTU: mtu, About: &quote}
	if typ != tooBig6 && r.Dev != loopback && !n.rateAllows6(p.Dst, r, about.at) {
		about.say("icmp6_send", "nothing: the rate limit of "+p.Dst.String()+" is reached")
		return
	}
	n.sendError(about, p, r, "icmp6_send")
}

// errorSource6 is the source of an error: the address to which the packet was sent, if that is the namespace's own,
// else one of the device on which it came.
func (n *Namespace) errorSource6(about *walk, r Route) netip.Addr {
	if n.isLocal(about.p.Dst) {
		return about.p.Dst
	}
	if about.in != "" {
		return n.source6(about.in, about.p.Src)
	}
	return n.sourceFor(r, about.p.Src)
}

// rateAllows6 is icmpv6_xrlim_allow, for which an address has the same bucket as for everything else. Up to 6.12 the
// errors to a wide prefix may come more often.
func (n *Namespace) rateAllows6(to netip.Addr, r Route, at conntrack.Span) bool {
	cost := n.sysctl("net.ipv6.icmp.ratelimit", 1000) * n.cfg.HZ / 1000
	if plen := r.To.Bits(); n.cfg.Profile.PrefixRate && plen < 128 {
		cost >>= (128 - plen) >> 5
	}
	return n.take(to, at, cost, 6*cost)
}

// source6 is ipv6_dev_get_saddr (net/ipv6/addrconf.c) for a device towards a destination: of all addresses the one
// that RFC 6724 prefers, and of equals the one that the kernel meets first. A device keeps those of a wider scope
// first, and of one scope the newest (ipv6_link_dev_addr).
func (n *Namespace) source6(dev string, dst netip.Addr) netip.Addr {
	var best netip.Prefix
	for _, name := range n.linkOrder() {
		if name != dev && (dst.IsLinkLocalUnicast() || dst.IsMulticast()) {
			continue
		}
		for _, p := range n.links[name].list6() {
			if !best.IsValid() || n.prefer6(p, best, dev, dst) {
				best = p
			}
		}
	}
	return best.Addr()
}

// list6 are the IPv6 addresses of a device in the order in which the kernel keeps them.
func (l *link) list6() (out []netip.Prefix) {
	for _, p := range l.addrs {
		if !p.Addr().Is4() {
			out = append(out, p)
		}
	}
	slices.Reverse(out)
	slices.SortStableFunc(out, func(a, b netip.Prefix) int { return scope6(b.Addr()) - scope6(a.Addr()) })
	return out
}

// prefer6 reports whether an address is better than another as the source towards a destination (ipv6_get_saddr_eval).
func (n *Namespace) prefer6(p, than netip.Prefix, dev string, dst netip.Addr) bool {
	for _, score := range []func(netip.Prefix) int{
		func(p netip.Prefix) int { return truth(p.Addr() == dst) },
		func(p netip.Prefix) int { // the smallest scope that is wide enough, else the widest
			s := scope6(p.Addr())
			if s >= scope6(dst) {
				return -s
			}
			return s - 128
		},
		func(p netip.Prefix) int { return truth(n.has(dev, p)) },
		func(p netip.Prefix) int { return truth(label6(p.Addr()) == label6(dst)) },
		func(p netip.Prefix) int { return min(commonBits(p.Addr(), dst), p.Bits()) },
	} {
		if a, b := score(p), score(than); a != b {
			return a > b
		}
	}
	return false
}

func truth(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (n *Namespace) has(dev string, p netip.Prefix) bool {
	l := n.links[dev]
	return l != nil && slices.Contains(l.addrs, p)
}

// scope6 is the scope of a unicast address (ipv6_addr_scope): the link, the site or the world.
func scope6(a netip.Addr) int {
	switch b := a.As16(); {
	case a.IsLoopback() || a.IsLinkLocalUnicast():
		return 0x02
	case b[0] == 0xfe && b[1]&0xc0 == 0xc0:
		return 0x05
	}
	return 0x0e
}

// label6 is the label of an address in the kernel's own policy table (ip6addrlbl_init_table in
// net/ipv6/addrlabel.c).
func label6(a netip.Addr) int {
	label, bits := 1, -1
	for p, l := range map[string]int{"::1/128": 0, "fc00::/7": 5, "fec0::/10": 11, "2002::/16": 2, "3ffe::/16": 12, "2001::/32": 6,
		"2001:10::/28": 7, "::ffff:0.0.0.0/96": 4, "::/96": 3} {
		if pre := netip.MustParsePrefix(p); pre.Contains(a) && pre.Bits() > bits {
			label, bits = l, pre.Bits()
		}
	}
	return label
}

// commonBits is how many bits two addresses have in common from the first (ipv6_addr_diff).
func commonBits(a, b netip.Addr) int {
	for n := 0; n < 128; n++ {
		if p, err := a.Prefix(n + 1); err != nil || !p.Contains(b) {
			return n
		}
	}
	return 128
}

// redirectTo6 is the address that REDIRECT gives to what comes in on a device (nf_nat_redirect_ipv6): the first
// whose scope is the destination's.
func (n *Namespace) redirectTo6(w *walk) (a netip.Addr, ok bool) {
	l := n.links[w.in]
	if l == nil {
		return a, false
	}
	for _, p := range l.list6() {
		if scope6(p.Addr())&scope6(w.p.Dst) != 0 {
			return p.Addr(), true
		}
	}
	return a, false
}

// bestAddress6 is find_best_ips_proto for a range of IPv6 addresses: word by word the hash of the source, mixed with
// the destination, scaled to the range; once a word is below the range's last, the words behind it are free.
func bestAddress6(t conntrack.Tuple, r natRange, zone uint16) netip.Addr {
	src, dst, low, high := words6(t.Src), words6(t.Dst), words6(r.from), words6(r.to)
	initial := uint32(0)
	if !r.persistent {
		initial = bits.ReverseBytes32(dst[3]) ^ uint32(zone)
	}
	j := jhash([4]uint32{bits.ReverseBytes32(src[0]), bits.ReverseBytes32(src[1]), bits.ReverseBytes32(src[2]), bits.ReverseBytes32(src[3])}, initial)
	var out [16]byte
	free := false
	for i := range 4 {
		first, dist := uint32(0), ^uint32(0)
		if !free {
			first, dist = low[i], high[i]-low[i]+1
		}
		v := first + uint32(uint64(j)*uint64(dist)>>32)
		binary.BigEndian.PutUint32(out[4*i:], v)
		free = free || v != high[i]
		if !r.persistent {
			j ^= bits.ReverseBytes32(dst[i])
		}
	}
	return netip.AddrFrom16(out)
}

// words6 are the four words of an IPv6 address, in the order of the net.
func words6(a netip.Addr) (w [4]uint32) {
	b := a.As16()
	for i := range w {
		w[i] = binary.BigEndian.Uint32(b[4*i:])
	}
	return w
}
