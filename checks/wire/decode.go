package wire

import (
	"encoding/binary"
	"hash/crc32"
	"net/netip"

	"ctlab/checks/conntrack"
)

// Decode reads what conntrack looks at in an IPv4 or IPv6 packet. ok is false for what is none, and for what the
// kernel drops in front of the hooks (ip_rcv_core, ip6_rcv_core, 6.18): a header that cannot be, a wrong header
// checksum, fewer bytes than the header tells.
//
// The ID of an IPv6 packet is the lower half of its fragment header's, or 0. The checksum of L4 is checked as
// conntrack does, which takes a UDP packet without one also in IPv6, where its receiver does not.
func Decode(b []byte) (p conntrack.Packet, ok bool) { return decode(b, len(b), true) }

// DecodeUnverified is Decode without a look at the L4 checksum: of a packet that did not leave its host yet, its
// checksum may be filled in by nobody.
func DecodeUnverified(b []byte) (p conntrack.Packet, ok bool) { return decode(b, len(b), false) }

// DecodeCut is DecodeUnverified for a packet of which only the first bytes were kept; size is how many there were.
func DecodeCut(b []byte, size int) (p conntrack.Packet, ok bool) { return decode(b, size, false) }

func decode(b []byte, size int, verify bool) (p conntrack.Packet, ok bool) {
	l4, ok := decodeHeader(&p, b)
	if !ok || p.Len > size || b[0]>>4 == 4 && !headerSumGood(b) {
		return conntrack.Packet{}, false
	}
	d := l4Decoder{p: &p, b: l4.bytes(b), size: l4.end - l4.start}
	if p.IsFragment() {
		d.piece()
		return p, true
	}
	if d.size < headerSize(p.Proto) {
		d.short()
		return p, true
	}
	if len(d.b) < headerSize(p.Proto) {
		return conntrack.Packet{}, false // what was kept does not tell the tuple
	}
	d.whole(verify && len(d.b) == d.size)
	return p, true
}

// extent is where the L4 part of a packet is, in bytes from its beginning. end may lie behind what there is.
type extent struct{ start, end int }

// bytes are those of the extent that there are.
func (e extent) bytes(b []byte) []byte {
	end := min(e.end, len(b))
	return b[min(e.start, end):end]
}

// decodeHeader reads an IP header, the packet's own or a quoted one.
func decodeHeader(p *conntrack.Packet, b []byte) (l4 extent, ok bool) {
	switch {
	case len(b) >= ipv4Header && b[0]>>4 == 4:
		return decodeIPv4(p, b)
	case len(b) >= ipv6Header && b[0]>>4 == 6:
		return decodeIPv6(p, b)
	}
	return extent{}, false
}

func decodeIPv4(p *conntrack.Packet, b []byte) (l4 extent, ok bool) {
	header := int(b[0]&15) * 4
	*p = conntrack.Packet{
		Proto: b[9], TTL: b[8],
		Len: int(binary.BigEndian.Uint16(b[2:])),
		ID:  binary.BigEndian.Uint16(b[4:]),
		Src: netip.AddrFrom4([4]byte(b[12:16])), Dst: netip.AddrFrom4([4]byte(b[16:20])),
	}
	flags := binary.BigEndian.Uint16(b[6:])
	p.DF, p.More, p.Offset = flags&0x4000 != 0, flags&0x2000 != 0, int(flags&0x1fff)*8
	return extent{header, p.Len}, header >= ipv4Header && len(b) >= header && p.Len >= header
}

func headerSumGood(b []byte) bool {
	var s sum
	s.add(b[:int(b[0]&15)*4])
	return s.fold() == 0xffff
}

// decodeIPv6 reads the header and looks through extension headers as ipv6_skip_exthdr does
// (net/ipv6/exthdrs_core.c, 6.18).
func decodeIPv6(p *conntrack.Packet, b []byte) (l4 extent, ok bool) {
	*p = conntrack.Packet{
		Proto: b[6], TTL: b[7],
		Len: ipv6Header + int(binary.BigEndian.Uint16(b[4:])),
		Src: netip.AddrFrom16([16]byte(b[8:24])), Dst: netip.AddrFrom16([16]byte(b[24:40])),
	}
	at := ipv6Header
	for isExtension(p.Proto) && p.Offset == 0 {
		if at+8 > min(p.Len, len(b)) {
			return extent{}, false
		}
		h := b[at:]
		size := 8 + int(h[1])*8
		switch p.Proto {
		case fragment:
			size = fragmentHeader
			place := binary.BigEndian.Uint16(h[2:])
			p.Offset, p.More = int(place&^7), place&1 != 0
			if p.IsFragment() {
				p.ID = uint16(binary.BigEndian.Uint32(h[4:]))
			}
		case authHeader:
			size = 8 + int(h[1])*4
		}
		p.Proto = h[0]
		at += size
	}
	return extent{at, p.Len}, at <= p.Len
}

func isExtension(proto uint8) bool {
	switch proto {
	case hopByHop, routing, fragment, authHeader, destination:
		return true
	}
	return false
}

// l4Decoder reads what follows the IP header.
type l4Decoder struct {
	p    *conntrack.Packet
	b    []byte // what there is of it
	size int    // how much there was on the wire
	// inner: the packet is quoted. A quote within it is not read: an error about an error belongs to no entry.
	inner bool
}

// piece reads a fragment. Whether the whole is valid, only the whole tells; where it begins, its ports are there.
func (d l4Decoder) piece() {
	if d.p.Offset == 0 && len(d.b) >= tupleSize(d.p.Proto) {
		d.tuple()
	}
}

// quoted reads a packet that an ICMP error quotes, of which only the tuple is looked at.
func (d l4Decoder) quoted() {
	switch {
	case d.p.Offset > 0:
	case len(d.b) < tupleSize(d.p.Proto):
		d.short()
	default:
		d.tuple()
	}
}

// short reads what there is of a packet that ends within its L4 header: its ports, or the type and code of ICMP.
func (d l4Decoder) short() {
	d.p.Bad = badShort
	icmp := d.p.Proto == conntrack.ICMP || d.p.Proto == conntrack.ICMPv6
	switch {
	case conntrack.HasPorts(d.p.Proto) && len(d.b) >= tupleSize(d.p.Proto):
		d.tuple()
	case conntrack.HasPorts(d.p.Proto) && len(d.b) >= 2:
		d.p.SrcPort = binary.BigEndian.Uint16(d.b)
	case icmp && len(d.b) >= 2:
		d.p.ICMPType, d.p.ICMPCode = d.b[0], d.b[1]
	case icmp && len(d.b) == 1:
		d.p.ICMPType = d.b[0]
	}
}

// whole reads a packet that is no fragment.
func (d l4Decoder) whole(verify bool) {
	d.tuple()
	switch {
	case !d.lengthGood():
		d.p.Bad = badLength
	case verify && !d.checksumGood():
		d.p.Bad = badChecksum
	}
}

// tuple reads ports, or the fields of ICMP.
func (d l4Decoder) tuple() {
	p := d.p
	if conntrack.HasPorts(p.Proto) {
		p.SrcPort, p.DstPort = binary.BigEndian.Uint16(d.b), binary.BigEndian.Uint16(d.b[2:])
		return
	}
	if tupleSize(p.Proto) == 0 {
		return
	}
	p.ICMPType, p.ICMPCode = d.b[0], d.b[1]
	switch {
	case tellsMTU(p) && p.Proto == conntrack.ICMP:
		p.MTU = int(binary.BigEndian.Uint16(d.b[6:]))
	case tellsMTU(p):
		p.MTU = int(binary.BigEndian.Uint32(d.b[4:]) & maxMTU)
	case !isError(p):
		p.ICMPID = binary.BigEndian.Uint16(d.b[4:])
	}
	if isError(p) && !d.inner {
		d.quote()
	}
}

// maxMTU is the largest that a packet's line can tell.
const maxMTU = 1<<31 - 1

// quote reads the packet that an ICMP error quotes, which is one of the same IP version.
func (d l4Decoder) quote() {
	var inner conntrack.Packet
	b := d.b[icmpHeader:]
	l4, ok := decodeHeader(&inner, b)
	if !ok || inner.Src.Is4() != d.p.Src.Is4() {
		return
	}
	l4Decoder{p: &inner, b: l4.bytes(b), inner: true}.quoted()
	d.p.About = &inner
}

// lengthGood checks the length that the L4 header tells.
func (d l4Decoder) lengthGood() bool {
	switch d.p.Proto {
	case conntrack.UDP:
		n := int(binary.BigEndian.Uint16(d.b[4:]))
		return n >= 8 && n <= d.size
	case udpLite: // how much the checksum covers; 0 is all
		n := int(binary.BigEndian.Uint16(d.b[4:]))
		return n == 0 || n >= 8 && n <= d.size
	case conntrack.TCP:
		n := int(d.b[12]>>4) * 4
		return n >= 20 && n <= d.size
	}
	return true
}

func (d l4Decoder) checksumGood() bool {
	p, b := d.p, d.b
	switch p.Proto {
	case conntrack.UDP:
		if binary.BigEndian.Uint16(b[6:]) == 0 {
			return true
		}
	case udpLite:
		if n := int(binary.BigEndian.Uint16(b[4:])); n > 0 {
			return binary.BigEndian.Uint16(b[6:]) != 0 && sumCovered(p, b, n) == 0xffff
		}
		if binary.BigEndian.Uint16(b[6:]) == 0 {
			return false
		}
	case conntrack.SCTP:
		return binary.LittleEndian.Uint32(b[8:]) == sumSCTP(b)
	}
	_, has := checksumAt(p.Proto)
	return !has || sumL4(p.Src, p.Dst, p.Proto, b) == 0xffff
}

// sumCovered is sumL4 where the checksum covers the first n bytes only (UDP-Lite, RFC 3828: the pseudo header
// has the length of the whole).
func sumCovered(p *conntrack.Packet, b []byte, n int) uint16 {
	s := sum(sumL4(p.Src, p.Dst, p.Proto, b[:n]))
	return (s + sum(len(b)) + sum(0xffff-n)).fold()
}

// sumSCTP is the CRC32c of an SCTP packet, whose own field counts as 0 (RFC 9260, appendix A).
func sumSCTP(b []byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	crc := crc32.Update(0, table, b[:8])
	crc = crc32.Update(crc, table, make([]byte, 4))
	return crc32.Update(crc, table, b[12:])
}
