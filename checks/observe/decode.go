package observe

import (
	"encoding/binary"
	"net/netip"

	"ctlab/checks/conntrack"
)

// decodeIPv4 reads what conntrack looks at in an IPv4 packet; nil if it is none. verified says that the
// L4 checksum need not be checked.
func decodeIPv4(b []byte, verified bool) *conntrack.Packet {
	p, l4 := decodeIPHeader(b)
	if p == nil {
		return nil
	}
	if binary.BigEndian.Uint16(b[6:])&0x1fff != 0 {
		p.Bad = "fragment"
		return p
	}
	decodeL4(p, l4)
	if p.Bad == "" && !verified && !checksumGood(p, l4) {
		p.Bad = "checksum"
	}
	return p
}

func decodeIPHeader(b []byte) (*conntrack.Packet, []byte) {
	if len(b) < 20 || b[0]>>4 != 4 {
		return nil, nil
	}
	ihl := int(b[0]&15) * 4
	if ihl < 20 || len(b) < ihl {
		return nil, nil
	}
	p := &conntrack.Packet{
		Proto: b[9], TTL: b[8],
		Len: int(binary.BigEndian.Uint16(b[2:])),
		ID:  binary.BigEndian.Uint16(b[4:]),
		Src: netip.AddrFrom4([4]byte(b[12:16])), Dst: netip.AddrFrom4([4]byte(b[16:20])),
	}
	return p, b[ihl:max(ihl, min(len(b), p.Len))]
}

// decodeL4 fills in ports, ICMP fields and, for an ICMP error, the packet that it quotes.
func decodeL4(p *conntrack.Packet, l4 []byte) {
	switch p.Proto {
	case conntrack.UDP, conntrack.TCP, conntrack.SCTP, 33, 136:
		if len(l4) < 8 {
			p.Bad = "short"
			return
		}
		p.SrcPort, p.DstPort = binary.BigEndian.Uint16(l4), binary.BigEndian.Uint16(l4[2:])
		if n := int(binary.BigEndian.Uint16(l4[4:])); p.Proto == conntrack.UDP && (n > len(l4) || n < 8) {
			p.Bad = "length"
		}
	case conntrack.ICMP:
		decodeICMP(p, l4)
	}
}

func decodeICMP(p *conntrack.Packet, l4 []byte) {
	if len(l4) < 8 {
		p.Bad = "short"
		return
	}
	p.ICMPType, p.ICMPCode = l4[0], l4[1]
	if !p.IsError() {
		p.ICMPID = binary.BigEndian.Uint16(l4[4:])
		return
	}
	inner, rest := decodeIPHeader(l4[8:])
	if inner == nil {
		return
	}
	if len(rest) >= 8 {
		decodeL4(inner, rest)
		inner.Bad = "" // a quoted packet is cut short; nobody checks it
	}
	p.About = inner
}

// checksumGood verifies the checksum of UDP (0 means none) and ICMP.
func checksumGood(p *conntrack.Packet, l4 []byte) bool {
	var sum uint32
	switch p.Proto {
	case conntrack.UDP:
		if binary.BigEndian.Uint16(l4[6:]) == 0 {
			return true
		}
		l4 = l4[:binary.BigEndian.Uint16(l4[4:])]
		for _, a := range []netip.Addr{p.Src, p.Dst} {
			raw := a.As4()
			sum += uint32(binary.BigEndian.Uint16(raw[:])) + uint32(binary.BigEndian.Uint16(raw[2:]))
		}
		sum += uint32(p.Proto) + uint32(len(l4))
	case conntrack.ICMP:
	default:
		return true
	}
	for ; len(l4) > 1; l4 = l4[2:] {
		sum += uint32(binary.BigEndian.Uint16(l4))
	}
	if len(l4) == 1 {
		sum += uint32(l4[0]) << 8
	}
	for sum>>16 != 0 {
		sum = sum>>16 + sum&0xffff
	}
	return sum == 0xffff
}

// decodeARP reads an ARP message for IPv4 over Ethernet.
func decodeARP(b []byte) *ARP {
	if len(b) < 28 || binary.BigEndian.Uint16(b[2:]) != 0x0800 || b[4] != 6 || b[5] != 4 {
		return nil
	}
	return &ARP{
		Reply:  binary.BigEndian.Uint16(b[6:]) == 2,
		Sender: netip.AddrFrom4([4]byte(b[14:18])),
		Target: netip.AddrFrom4([4]byte(b[24:28])),
	}
}
