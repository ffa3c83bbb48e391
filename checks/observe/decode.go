package observe

import (
	"encoding/binary"
	"net/netip"

	"ctlab/checks/conntrack"
)

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

// Messages of neighbour discovery (RFC 4861).
const (
	neighbourSolicitation  = 135
	neighbourAdvertisement = 136
)

// decodeND reads a neighbour solicitation or advertisement; nil for anything else. The message stands right behind the
// IPv6 header.
func decodeND(p *conntrack.Packet, b []byte) *ARP {
	const header, target = 40, 8
	if p.Bad != "" || len(b) < header+target+16 || b[6] != conntrack.ICMPv6 {
		return nil
	}
	about := netip.AddrFrom16([16]byte(b[header+target : header+target+16]))
	switch p.ICMPType {
	case neighbourSolicitation:
		return &ARP{Sender: p.Src, Target: about}
	case neighbourAdvertisement:
		return &ARP{Reply: true, Sender: about, Target: p.Dst}
	}
	return nil
}
