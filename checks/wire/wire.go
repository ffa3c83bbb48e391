// Package wire turns packets into bytes and back: conntrack.Packet, which has what connection tracking, NAT and
// the rules look at, and IPv4 or IPv6 packets as they are on the wire. It is pure: it opens no socket.
package wire

import (
	"encoding/binary"
	"net/netip"

	"ctlab/checks/conntrack"
)

// What is wrong with a packet's L4 header, as conntrack.Packet.Bad names it.
const (
	badShort    = "short"    // the packet ends within the L4 header
	badLength   = "length"   // the length that the L4 header tells cannot be
	badChecksum = "checksum" // the L4 checksum is wrong
)

// Protocols that have no name in package conntrack.
const (
	dccp    uint8 = 33
	gre     uint8 = 47
	udpLite uint8 = 136
)

// Extension headers of IPv6 through which the kernel looks for the L4 header (ipv6_ext_hdr in
// net/ipv6/exthdrs_core.c, 6.18).
const (
	hopByHop    uint8 = 0
	routing     uint8 = 43
	fragment    uint8 = 44
	authHeader  uint8 = 51
	destination uint8 = 60
)

const (
	ipv4Header     = 20
	ipv4HeaderMost = 60
	ipv6Header     = 40
	fragmentHeader = 8
	icmpHeader     = 8
)

// headerSize is how much of the L4 header its tracker must be able to read, in bytes; less is a short packet
// (udp_error, tcp_error, icmp_error, icmpv6_error, sctp_error in net/netfilter, 6.18). Of other protocols it is
// what holds the ports.
func headerSize(proto uint8) int {
	switch proto {
	case conntrack.TCP:
		return 20
	case conntrack.SCTP, dccp:
		return 12
	case conntrack.UDP, udpLite, conntrack.ICMP, conntrack.ICMPv6:
		return 8
	}
	return 0
}

// tupleSize is how much of the L4 header the tuple needs, in bytes (nf_ct_get_tuple).
func tupleSize(proto uint8) int {
	switch {
	case conntrack.HasPorts(proto):
		return 4
	case proto == conntrack.ICMP || proto == conntrack.ICMPv6:
		return icmpHeader
	}
	return 0
}

// isError reports whether the packet is an ICMP error, which quotes another one. In ICMPv6 these are all types
// below 128 (icmpv6_error in net/netfilter/nf_conntrack_proto_icmpv6.c, 6.18).
func isError(p *conntrack.Packet) bool {
	return p.Proto == conntrack.ICMPv6 && p.ICMPType < 128 || p.Proto == conntrack.ICMP && p.IsError()
}

// tellsMTU reports whether the packet is the ICMP error that tells the size of what gets through.
func tellsMTU(p *conntrack.Packet) bool {
	return p.Proto == conntrack.ICMP && p.ICMPType == 3 && p.ICMPCode == 4 || p.Proto == conntrack.ICMPv6 && p.ICMPType == 2
}

// checksumAt is where in the L4 header the Internet checksum stands; ok is false for protocols without one.
func checksumAt(proto uint8) (offset int, ok bool) {
	switch proto {
	case conntrack.UDP, udpLite:
		return 6, true
	case conntrack.TCP:
		return 16, true
	case conntrack.ICMP, conntrack.ICMPv6:
		return 2, true
	}
	return 0, false
}

// sumL4 is the folded sum over an L4 packet with its pseudo header, over all of it whatever its own length says, as
// nf_checksum has it (net/netfilter/utils.c, 6.18): 0xffff where the checksum is right.
func sumL4(src, dst netip.Addr, proto uint8, l4 []byte) uint16 {
	var s sum
	if proto != conntrack.ICMP {
		s.add(src.AsSlice())
		s.add(dst.AsSlice())
		s += sum(proto) + sum(len(l4)&0xffff) + sum(len(l4)>>16)
	}
	s.add(l4)
	return s.fold()
}

// sum is a running sum of 16-bit words (RFC 1071).
type sum uint64

func (s *sum) add(b []byte) {
	for ; len(b) > 1; b = b[2:] {
		*s += sum(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		*s += sum(b[0]) << 8
	}
}

func (s sum) fold() uint16 {
	for s>>16 != 0 {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}
