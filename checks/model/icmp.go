package model

import (
	"fmt"
	"net/netip"

	"ctlab/checks/conntrack"
)

// icmpIn is nf_conntrack_icmpv4_error (nf_conntrack_proto_icmp.c): checks, and the entry of a quoted
// packet.
func (n *Namespace) icmpIn(w *walk) {
	if w.p.Bad == "checksum" && !w.local && n.sysctl("net.netfilter.nf_conntrack_checksum", 1) != 0 || w.p.ICMPType > 18 {
		n.stats["error"]++
		w.say("nf_conntrack_icmpv4_error", "invalid: bad checksum or unknown type")
		return
	}
	if !w.p.IsError() {
		n.notModelled("ICMP type %d: %s", w.p.ICMPType, w.p.Line())
		return
	}
	n.inetError(w)
}

// inetError is nf_conntrack_inet_error: the quoted packet's tuple, inverted, is looked up. The error is
// RELATED to the entry and changes nothing of it: no refresh, no reply, no accounting.
func (n *Namespace) inetError(w *walk) {
	if w.p.About == nil {
		n.stats["error"]++
		return
	}
	inv, ok := w.p.About.Tuple().Inverse()
	if ok {
		var r ref
		if r, ok = n.find(inv, w.at); ok && r.tuple().Dst == w.p.Dst {
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
func (n *Namespace) icmpReplyTranslation(w *walk, m manip) {
	dir, bit := w.info.dir(), m.bit()
	if dir == reply {
		bit ^= conntrack.SrcNAT | conntrack.DstNAT
	}
	if !w.ct.status.Has(bit) || w.p.About == nil {
		return
	}
	other := w.ct.orig
	if dir == original {
		other = w.ct.reply
	}
	outer, _ := other.Inverse()
	w.own()
	if m == srcManip {
		w.p.About.Dst, w.p.About.DstPort = other.Dst, other.DstPort
		w.p.Src = outer.Src
	} else {
		w.p.About.Src, w.p.About.SrcPort = other.Src, other.SrcPort
		w.p.Dst = outer.Dst
	}
	w.say("nf_nat_icmp_reply_translation", "outer and quoted header rewritten: "+w.p.Src.String()+" > "+w.p.Dst.String())
}

// quoteLimit is how much of a packet an ICMP error may quote: 576 bytes in all (icmp_send).
const quoteLimit = 576 - 20 - 8

// ownError is icmp_send: the namespace's stack answers a packet with an error about it, which belongs to
// the packet's entry (nf_ct_attach) and passes OUTPUT and POSTROUTING as everything that the stack sends.
// What the namespace itself sent is answered over lo.
func (n *Namespace) ownError(about *walk, typ, code uint8) {
	if about.p.IsError() {
		return // never an error about an error
	}
	r, ok := n.routeOut(about.p.Src)
	if !ok {
		return
	}
	quote := *about.p
	quote.Bad = ""
	p := &conntrack.Packet{Proto: conntrack.ICMP, ICMPType: typ, ICMPCode: code, Src: n.sourceFor(r, quote.Src), Dst: quote.Src,
		Len: 28 + min(quote.Len, quoteLimit), TTL: uint8(n.sysctl("net.ipv4.ip_default_ttl", 64)), About: &quote}
	if n.isLocal(quote.Dst) {
		p.Src = quote.Dst
	}
	if r.Dev != loopback && !n.rateAllows(p.Dst, about.at) {
		return
	}
	w := &walk{at: about.at, p: p, owned: true, local: true, ct: about.ct, info: noInfo}
	if about.ct != nil {
		w.info = relatedReply
		if about.info.dir() == reply {
			w.info = related
		}
	}
	n.localOut(w, r)
	about.lefts = append(about.lefts, w.lefts...)
	if w.delivered != nil {
		about.delivered = w.delivered
	}
}

// rate is the token bucket of ICMP errors towards one destination (inet_peer_xrlim_allow): a token a
// second (icmp_ratelimit), at most six. A new peer begins full.
type rate struct {
	tokens int64 // ticks
	last   conntrack.Span
}

const burst = 6

func (n *Namespace) rateAllows(to netip.Addr, at conntrack.Span) bool {
	cost := n.sysctl("net.ipv4.icmp_ratelimit", 1000) * n.cfg.HZ / 1000
	if cost == 0 {
		return true
	}
	r := n.rates[to]
	if r == nil {
		r = &rate{tokens: burst * cost, last: at}
		n.rates[to] = r
	}
	r.tokens = min(r.tokens+int64(at.To-r.last.From), burst*cost)
	r.last = at
	if r.tokens < cost {
		return false
	}
	r.tokens -= cost
	return true
}
