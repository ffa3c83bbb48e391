package model

import (
	"fmt"
	"net/netip"

	"ctlab/checks/conntrack"
)

// icmpIn is nf_conntrack_icmpv4_error (nf_conntrack_proto_icmp.c): checks, and the entry of a quoted
// packet. It reports whether the packet goes on as any other does.
func (n *Namespace) icmpIn(w *walk) bool {
	wrong := ""
	switch {
	case w.p.Bad == "short":
		wrong = "the header is not whole"
	case w.p.Bad == "checksum" && !w.local && n.sysctl("net.netfilter.nf_conntrack_checksum", 1) != 0:
		wrong = "bad checksum"
	case w.p.ICMPType > lastICMPType:
		wrong = "unknown type"
	}
	if wrong != "" {
		n.stats["error"]++
		w.say("nf_conntrack_icmpv4_error", "invalid: "+wrong)
		return false
	}
	if w.p.IsError() {
		n.inetError(w)
		return false
	}
	return true
}

// inetError is nf_conntrack_inet_error: the quoted packet's tuple, inverted, is looked up. The error is
// RELATED to the entry and changes nothing of it: no refresh, no reply, no accounting.
func (n *Namespace) inetError(w *walk) {
	if !quoted(w.p) {
		n.stats["error"]++
		w.say("nf_conntrack_inet_error", "invalid: it quotes no packet whose ports or type could be read")
		return
	}
	inv, ok := w.p.About.Tuple().Inverse()
	if ok {
		var r ref
		if r, ok = n.lookup(w, inv); ok && r.tuple().Dst == w.p.Dst {
			w.ct, w.info = r.e, related
			if r.dir == reply {
				w.info = relatedReply
			}
			w.say("nf_conntrack_inet_error", fmt.Sprintf("%s to the entry of %s; nothing of it changes", w.info, r.e.orig.Line()))
			return
		}
	}
	n.stats["error"]++
	w.say("nf_conntrack_inet_error", "invalid: no entry for the quoted packet")
}

// icmpReplyTranslation is nf_nat_icmp_reply_translation (nf_nat_proto.c): the quoted packet is rewritten
// with the opposite half of what the error itself gets.
//
// false means that the packet is dropped: no redirect about a flow that NAT has changed.
func (n *Namespace) icmpReplyTranslation(w *walk, m manip) bool {
	if w.p.Bad == "checksum" {
		w.drop("nf_nat_icmp_reply_translation", "the checksum is wrong")
		return false
	}
	const done = conntrack.SrcNATDone | conntrack.DstNATDone
	if w.p.Bad == "checksum" { // with nf_conntrack_checksum=0, or one that the namespace itself sent
		w.drop("nf_nat_icmp_reply_translation", "bad checksum")
		return false
	}
	if w.p.ICMPType == redirectType && (!w.ct.status.Has(done) || w.ct.status&(conntrack.SrcNAT|conntrack.DstNAT) != 0) {
		w.drop("nf_nat_icmp_reply_translation", "a redirect about a flow with NAT")
		return false
	}
	dir, bit := w.info.dir(), m.bit()
	if dir == reply {
		bit ^= conntrack.SrcNAT | conntrack.DstNAT
	}
	if !w.ct.status.Has(bit) || w.p.About == nil {
		return true
	}
	if needsHeader(w.p.About) && w.p.QuotedL4() < l4ToRewrite {
		w.drop("nf_nat_icmp_reply_translation", "too little is quoted")
		return false
	}
	other := w.ct.orig
	if dir == original {
		other = w.ct.reply
	}
	outer, _ := other.Inverse()
	w.own()
	rewrite(w.p.About, other, dstManip-m)
	rewrite(w.p, outer, m)
	w.say("nf_nat_icmp_reply_translation", "outer and quoted header rewritten: "+w.p.Src.String()+" > "+w.p.Dst.String())
	return true
}

// l4ToRewrite is how much of an L4 header must be there to be rewritten, also of a quoted one, in bytes (udp_manip_pkt,
// tcp_manip_pkt, icmp_manip_pkt, gre_manip_pkt in net/netfilter/nf_nat_proto.c).
const l4ToRewrite = 8

// quoteLimit is how much of a packet an ICMP error may quote: 576 bytes in all (icmp_send).
const quoteLimit = 576 - 20 - 8

// ownError is icmp_send: the namespace's stack answers a packet with an error about it, which belongs to
// the packet's entry (nf_ct_attach) and passes OUTPUT and POSTROUTING as everything that the stack sends.
// What the namespace itself sent is answered over lo.
func (n *Namespace) ownError(about *walk, typ, code uint8, mtu int) {
	if about.p.Offset > 0 {
		return // only about the first part
	}
	if isErrorToStack(about.p) {
		return // never an error about an error
	}
	r, ok := n.routeOut(about.p.Src)
	if !ok {
		about.say("icmp_send", "nothing: no route to "+about.p.Src.String())
		return
	}
	quote := quoteOf(about.p)
	p := &conntrack.Packet{Proto: conntrack.ICMP, ICMPType: typ, ICMPCode: code, Src: n.sourceFor(r, quote.Src), Dst: quote.Src,
		Len: 28 + min(quote.Len, quoteLimit), TTL: uint8(n.sysctl("net.ipv4.ip_default_ttl", 64)), MTU: mtu, About: &quote}
	if n.isLocal(quote.Dst) {
		p.Src = quote.Dst
	}
	limited := typ != redirectType && !(typ == 3 && code == 4) // icmpv4_mask_allow
	if limited && r.Dev != loopback && !n.rateAllows(p.Dst, about.at) {
		about.say("icmp_send", "nothing: the rate limit of "+p.Dst.String()+" is reached")
		return
	}
	n.sendError(about, p, r, "icmp_send")
}

// quoteOf is a packet as an error quotes it: of one that is cut short the ports may be missing, else nobody asks
// whether it is valid.
func quoteOf(p *conntrack.Packet) conntrack.Packet {
	q := *p
	if q.Bad != "short" || q.HasTuple() {
		q.Bad = ""
	}
	return q
}

// sendError sends an error of the namespace's own, with the entry of what it is about.
func (n *Namespace) sendError(about *walk, p *conntrack.Packet, r Route, fn string) {
	w := &walk{at: about.at, p: p, owned: true, local: true, ct: about.ct, info: noInfo, shared: true}
	if about.ct != nil {
		w.info = relatedReply
		if about.info.dir() == reply {
			w.info = related
		}
	}
	about.say(fn, fmt.Sprintf("tells %s: %s", p.Dst, errorName(p)))
	n.localOut(w, r)
	if w.dropped != "" {
		about.say(fn, "the error is dropped at "+w.dropped)
	}
	about.lefts = append(about.lefts, w.lefts...)
	if w.delivered != nil {
		about.delivered = w.delivered
	}
}

// errorName is what an ICMP error says.
func errorName(p *conntrack.Packet) string {
	names := map[[2]uint8]string{{3, 0}: "net unreachable", {3, 1}: "host unreachable", {3, 2}: "protocol unreachable", {3, 3}: "port unreachable",
		{3, 4}: "fragmentation needed", {3, 13}: "prohibited", {redirectType, 1}: "redirect", {11, 0}: "time to live exceeded", {11, 1}: "fragments missing"}
	if p.Proto == conntrack.ICMPv6 {
		names = map[[2]uint8]string{{1, 0}: "no route", {1, 1}: "prohibited", {1, 3}: "address unreachable", {1, 4}: "port unreachable",
			{tooBig6, 0}: "packet too big", {3, 0}: "hop limit exceeded", {3, 1}: "fragments missing", {4, 1}: "protocol unknown"}
	}
	if s, ok := names[[2]uint8{p.ICMPType, p.ICMPCode}]; ok {
		return s
	}
	return fmt.Sprintf("type %d code %d", p.ICMPType, p.ICMPCode)
}

// failure is what the stack tells the sender of a packet, in ICMP and in ICMPv6.
type failure struct{ typ, code, typ6, code6 uint8 }

var (
	noRoute         = failure{3, 0, 1, 0}
	hostUnreachable = failure{3, 1, 1, 3}
	portUnreachable = failure{3, 3, 1, 4}
	timeExceeded    = failure{11, 0, 3, 0}
	unknownProtocol = failure{3, 2, 4, 1}
	// fragmentsMissing is what ip_expire says.
	fragmentsMissing = failure{11, 1, 3, 1}
)

// tell sends an error about a packet to its sender.
func (n *Namespace) tell(about *walk, f failure) {
	if about.v6() {
		n.ownError6(about, f.typ6, f.code6, 0)
		return
	}
	n.ownError(about, f.typ, f.code, 0)
}

// fragmentationNeeded tells the sender of a packet how long it may be.
func (n *Namespace) fragmentationNeeded(about *walk, mtu int) { n.ownError(about, 3, 4, mtu) }

// reject is what REJECT does (nf_send_unreach, nf_send_unreach6): it answers no packet that it knows to be broken.
func (n *Namespace) reject(w *walk, code uint8) {
	if w.p.Bad != "" && w.p.Bad != "length" { // a checksum that is wrong, or not there
		return
	}
	if p := w.p.Proto; !isICMP(p) && p != conntrack.UDP && (p != gre || w.p.Len < headerOf(w.p)+4) { // nf_reject_verify_csum
		n.notModelled("REJECT sums up the payload of protocol %s: %s", conntrack.ProtocolName(p), w.p.Line())
		return
	}
	n.tell(w, failure{3, code, 1, code})
}

// peer is what the stack remembers of an address to which it sent errors (struct inet_peer): one bucket of
// tokens, in ticks, for all of them, and the redirects sent. Where Spans leave it open the bucket is a range.
type peer struct {
	least, most int64
	last        conntrack.Span
	redirects   int
}

// peer finds what is known of an address. A new one has been quiet for a minute (inet_getpeer).
func (n *Namespace) peer(a netip.Addr, at conntrack.Span) *peer {
	if n.peers[a] == nil {
		n.peers[a] = &peer{last: at.Add(-n.seconds(60))}
	}
	return n.peers[a]
}

// fill puts a token into the bucket for each tick since the last time, up to a limit. A lazy one is left alone within a
// tick, and so may hold more than the limit.
func (p *peer) fill(at conntrack.Span, limit int64, lazy bool) {
	least := min(p.least+max(0, int64(at.From-p.last.To)), limit)
	most := min(p.most+max(0, int64(at.To-p.last.From)), limit)
	switch {
	case !lazy || at.From > p.last.To:
		p.least, p.most = least, most
	case at.To > p.last.From:
		p.least, p.most = min(p.least, least), max(p.most, most)
	}
}

// take fills the bucket with the time that has passed, up to a limit, and takes the cost of an error out of
// it, if it is there.
func (n *Namespace) take(to netip.Addr, at conntrack.Span, cost, limit int64) bool {
	p := n.peer(to, at)
	p.fill(at, limit, n.cfg.Profile.LazyTokens)
	p.last = at
	switch {
	case p.most < cost:
		return false
	case p.least < cost && n.choose(Choice{Kind: ChooseTiming, Subject: "is an ICMP error to " + to.String() + " within its rate?", Options: 2}) != 0:
		p.most = cost - 1
		return false
	}
	p.least, p.most = max(p.least, cost)-cost, p.most-cost
	return true
}

// rateAllows is inet_peer_xrlim_allow: a token a second (icmp_ratelimit), at most six.
func (n *Namespace) rateAllows(to netip.Addr, at conntrack.Span) bool {
	cost := n.sysctl("net.ipv4.icmp_ratelimit", 1000) * n.cfg.HZ / 1000
	return n.take(to, at, cost, 6*cost)
}

// routeErrorAllowed is the limit that ip_error (net/ipv4/route.c) has of its own for packets without a route:
// a token a second, at most five, from the same bucket. So such an error costs two.
func (n *Namespace) routeErrorAllowed(to netip.Addr, at conntrack.Span) bool {
	return n.take(to, at, n.seconds(1), n.seconds(5))
}

// redirectType is ICMP_REDIRECT.
const redirectType = 5

// redirect is ip_rt_send_redirect (net/ipv4/route.c): a packet that leaves by the device on which it came is
// answered with a redirect, at most nine times, each with twice the pause of the last (20 ms at first),
// until nothing has been sent to the source for some 20 s.
func (n *Namespace) redirect(w *walk) {
	if !n.switchedOn(w.in, "send_redirects") && n.deviceSysctl(w.in, "send_redirects", 1) == 0 {
		return
	}
	const most = 9
	load := n.cfg.HZ / 50
	p := n.peer(w.p.Src, w.at)
	if n.hasCome(p.last.Add(load<<10+1), w.at, "is the silence for redirects to "+w.p.Src.String()+" over?") {
		p.least, p.most, p.redirects = 0, 0, 0
	}
	switch {
	case p.redirects >= most:
		p.last = w.at
	case p.redirects == 0 || n.hasCome(p.last.Add(load<<p.redirects+1), w.at, "is the pause for redirects to "+w.p.Src.String()+" over?"):
		w.say("ip_rt_send_redirect", "tells "+w.p.Src.String()+" of a shorter way")
		n.ownError(w, redirectType, 1, 0)
		p.redirects++
		p.last = w.at
	}
}
