package model

import (
	"slices"

	"ctlab/checks/conntrack"
)

// The types of ICMP that have names here (include/uapi/linux/icmp.h).
const (
	echoReply      = 0
	echoRequest    = 8
	timestampQuery = 13
	timestampReply = 14
	infoQuery      = 15
	maskQuery      = 17
	lastICMPType   = 18 // NR_ICMP_TYPES
)

func isICMP(proto uint8) bool { return proto == conntrack.ICMP || proto == conntrack.ICMPv6 }

// quoted reports whether a tuple can be read from what an ICMP error quotes (nf_ct_get_tuplepr).
func quoted(p *conntrack.Packet) bool {
	return p.About != nil && p.About.Bad != "short" && p.About.Bad != "fragment" && p.About.Offset == 0
}

// icmpPacket is nf_conntrack_icmp_packet (nf_conntrack_proto_icmp.c) and nf_conntrack_icmpv6_packet: only a query makes an entry; each valid
// packet of either direction gives it the whole time again, and none ever makes it ASSURED.
func (n *Namespace) icmpPacket(w *walk) bool {
	switch typ := w.ct.orig.ICMPType; {
	case w.v6() != (w.p.Proto == conntrack.ICMPv6): // the other family's ICMP
	case w.v6() && (typ == echoRequest6 || typ == infoQuery6):
		n.refresh(w, n.seconds(n.sysctl("net.netfilter.nf_conntrack_icmpv6_timeout", 30)), "icmpv6_timeout")
		return true
	case !w.v6() && slices.Contains([]uint8{echoRequest, timestampQuery, infoQuery, maskQuery}, typ):
		n.refresh(w, n.seconds(n.sysctl("net.netfilter.nf_conntrack_icmp_timeout", 30)), "icmp_timeout")
		return true
	}
	w.say(tracker(w.p.Proto), "invalid: an answer to nothing")
	return false
}

// idRange is the range in which NAT searches for the id of an ICMP query, whichever end it rewrites
// (nf_nat_l4proto_unique_tuple; up to 4.20 icmp_unique_tuple, which leaves the last one out).
func (n *Namespace) idRange() (lo, hi uint16) {
	if n.cfg.Profile.WholeRange {
		return 0, 65534
	}
	return 0, 65535
}

// rewrite is nf_nat_ipv4_manip_pkt or nf_nat_ipv6_manip_pkt: one end of a packet becomes that of a tuple. Of an ICMP query or answer
// the id does too, whichever end it is (icmp_manip_pkt).
func rewrite(p *conntrack.Packet, t conntrack.Tuple, m manip) {
	if m == srcManip {
		p.Src = t.Src
	} else {
		p.Dst = t.Dst
	}
	switch {
	case isICMP(p.Proto):
		if hasID(p) {
			p.ICMPID = t.SrcPort
		}
	case m == srcManip:
		p.SrcPort = t.SrcPort
	default:
		p.DstPort = t.DstPort
	}
}

// hasID reports whether NAT takes an ICMP packet to have an id (icmp_manip_pkt; icmpv6_manip_pkt knows echo only).
func hasID(p *conntrack.Packet) bool {
	if p.Proto == conntrack.ICMPv6 {
		return p.ICMPType == echoRequest6 || p.ICMPType == echoReply6
	}
	_, query := p.Tuple().Inverse()
	return query
}

// isErrorToStack reports whether the stack takes a packet for an ICMP error, about which it sends none. icmp_send takes
// types that nobody uses and the discovery of routers for errors too; for icmp6_send see is_ineligible.
func isErrorToStack(p *conntrack.Packet) bool {
	if p.Src.Is4() != (p.Proto == conntrack.ICMP) || !isICMP(p.Proto) {
		return false
	}
	if p.Len <= headerOf(p) { // without a type
		return true
	}
	if p.Proto == conntrack.ICMPv6 {
		return p.IsError()
	}
	return p.ICMPType > lastICMPType || slices.Contains([]uint8{1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12}, p.ICMPType)
}

// icmpReceive is icmp_rcv: the namespace's stack answers echo and timestamp requests. Information and address
// mask requests it throws away, and so do answers for which there is no socket (ping_rcv).
func (n *Namespace) icmpReceive(w *walk) {
	answer := *w.p
	switch w.p.ICMPType {
	case echoRequest: // icmp_echo keeps the code
		if n.given("net.ipv4.icmp_echo_ignore_all", 0) != 0 {
			w.say("icmp_echo", "ignored: icmp_echo_ignore_all")
			return
		}
		answer.ICMPType = echoReply
	case timestampQuery:
		if w.p.Len < 20+8+4 {
			w.say("icmp_timestamp", "too short for a stamp")
			return
		}
		answer.ICMPType, answer.ICMPCode, answer.Len = timestampReply, 0, 20+8+12
	default:
		return
	}
	if n.given("net.ipv4.icmp_ratemask", 6168)>>answer.ICMPType&1 != 0 {
		n.notModelled("sysctl net.ipv4.icmp_ratemask limits type %d", answer.ICMPType)
	}
	answer.Src, answer.Dst = w.p.Dst, w.p.Src
	answer.ID, answer.DF = 0, false
	n.ownReply(w, &answer, "icmp_reply")
}

// ownReply sends what the namespace's stack answers to a packet that it got. It is a packet of its own, which
// finds its entry as any other.
func (n *Namespace) ownReply(to *walk, p *conntrack.Packet, fn string) {
	r, ok := n.routeOut(p.Dst)
	if !ok {
		to.say(fn, "nothing: no route to "+p.Dst.String())
		return
	}
	to.say(fn, "answers: "+p.Tuple().String())
	w := &walk{at: to.at, p: p, owned: true, local: true, info: noInfo}
	p.TTL = n.ownTTL(w, r)
	n.localOut(w, r)
	if w.dropped != "" {
		to.say(fn, "the answer is dropped at "+w.dropped)
	}
	to.lefts = append(to.lefts, w.lefts...)
	if w.delivered != nil {
		to.delivered = w.delivered
	}
}
