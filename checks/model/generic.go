package model

import (
	"slices"

	"ctlab/checks/conntrack"
)

// Protocols with a place of their own here, besides those of package conntrack.
const (
	igmp         = 2
	dccp         = 33
	gre          = 47
	noNextHeader = 59 // IPv6
)

// genericTracked reports whether a protocol is tracked by its number alone (nf_conntrack_proto_generic.c). Of the
// others only some are modelled. What UDP-Lite's checksum should be is another question to the kernel
// than to RFC 3828 (udplite_error takes UDP's pseudo header; seen on 6.18).
func genericTracked(proto uint8, v6 bool) bool {
	switch proto {
	case conntrack.ICMP, conntrack.ICMPv6, conntrack.TCP, conntrack.UDP, conntrack.SCTP, dccp, gre, conntrack.UDPLite:
		return false
	}
	return !v6 || !extensionHeader(proto)
}

// extensionHeader reports whether a number is that of an IPv6 header in front of which conntrack does not stop.
func extensionHeader(proto uint8) bool { return slices.Contains([]uint8{0, 43, 44, 51, 60}, proto) }

// genericPacket is generic_packet.
func (n *Namespace) genericPacket(w *walk) bool {
	n.refresh(w, n.seconds(n.sysctl("net.netfilter.nf_conntrack_generic_timeout", 600)), "generic_timeout")
	return true
}

// greTimes are the ticks that a GRE entry keeps from the moment at which it is made (nf_ct_gre).
type greTimes struct{ unreplied, stream int64 }

// grePacket is nf_conntrack_gre_packet (nf_conntrack_proto_gre.c). Packets are taken to be of version 0, as all are
// but those of PPTP: they have no keys in their tuples.
func (n *Namespace) grePacket(w *walk) bool {
	e := w.ct
	if !e.status.Has(conntrack.Confirmed) {
		e.gre = greTimes{n.seconds(n.given("net.netfilter.nf_conntrack_gre_timeout", 30)), n.seconds(n.given("net.netfilter.nf_conntrack_gre_timeout_stream", 180))}
	}
	if !e.status.Has(conntrack.SeenReply) {
		n.refresh(w, e.gre.unreplied, "gre_timeout: no reply before this packet")
		return true
	}
	n.refresh(w, e.gre.stream, "gre_timeout_stream: answered")
	if !e.status.Has(conntrack.Assured) {
		e.status |= conntrack.Assured
		e.pending |= bitAssured
		e.whyStatus = "assured: a packet came in a flow that had been answered (nf_conntrack_gre_packet)"
		w.say("nf_conntrack_gre_packet", "ASSURED is set")
	}
	return true
}

// headerOf is the length of an IP header without options, bytes.
func headerOf(p *conntrack.Packet) int {
	if p.Src.Is4() {
		return 20
	}
	return 40
}

// needsHeader reports whether NAT writes to the L4 header of a packet, and so wants it to be there (l4proto_manip_pkt).
func needsHeader(p *conntrack.Packet) bool {
	return conntrack.HasPorts(p.Proto) || isICMP(p.Proto) || p.Proto == gre
}

// unknownProtocol is the end of ip_protocol_deliver_rcu and ip6_protocol_deliver_rcu for what nobody takes. Whether the
// kernel has somebody for tunnels and the like depends on how it was built and what is loaded.
func (n *Namespace) unknownProtocol(w *walk) {
	switch proto := w.p.Proto; {
	case !w.v6() && proto == igmp || w.v6() && proto == noNextHeader:
	case slices.Contains([]uint8{4, 41, gre, 50, 51, 103, 108, 115, conntrack.SCTP, dccp, conntrack.TCP, conntrack.UDPLite}, proto),
		w.v6() && (extensionHeader(proto) || proto == 135 || proto == 139 || proto == 140):
		n.notModelled("who takes protocol %s? %s", conntrack.ProtocolName(proto), w.p.Line())
	default:
		w.say("ip_protocol_deliver_rcu", "nobody takes protocol "+conntrack.ProtocolName(proto))
		n.tell(w, unknownProtocol)
	}
}
