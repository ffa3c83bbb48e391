package conntrack

import (
	"fmt"
	"net/netip"
	"strings"
)

// Packet is what conntrack, NAT and the rules look at in one IP packet.
type Packet struct {
	Proto              uint8
	Src, Dst           netip.Addr
	SrcPort, DstPort   uint16
	ICMPType, ICMPCode uint8
	ICMPID             uint16
	Len                int    // the whole IP packet, bytes
	ID                 uint16 // the IP header's identification
	TTL                uint8
	Bad                string  // why the packet's L4 header is not valid ("checksum", "length", "short"), or ""
	About              *Packet // the packet that an ICMP error quotes
}

// IsError reports whether the packet is an ICMP error that quotes another packet
// (nf_conntrack_proto_icmp.c: the types that icmp_error hands to nf_conntrack_inet_error).
func (p *Packet) IsError() bool {
	if p.Proto != ICMP {
		return false
	}
	switch p.ICMPType {
	case 3, 4, 5, 11, 12:
		return true
	}
	return false
}

// Tuple of the packet (nf_ct_get_tuple).
func (p *Packet) Tuple() Tuple {
	t := Tuple{Proto: p.Proto, Src: p.Src, Dst: p.Dst, SrcPort: p.SrcPort, DstPort: p.DstPort}
	if p.Proto == ICMP || p.Proto == ICMPv6 {
		t.SrcPort, t.DstPort, t.ICMPType, t.ICMPCode = p.ICMPID, 0, p.ICMPType, p.ICMPCode
	}
	return t
}

// Line is the packet's line form: PROTO SRC:PORT > DST:PORT len N ttl N id N; an ICMP error ends with
// the packet that it quotes, behind "about". ParsePacket reads it.
func (p *Packet) Line() string {
	var b strings.Builder
	b.WriteString(p.Tuple().Line())
	fmt.Fprintf(&b, " len %d ttl %d ip-id %d", p.Len, p.TTL, p.ID)
	if p.Bad != "" {
		b.WriteString(" bad " + p.Bad)
	}
	if p.About != nil {
		b.WriteString(" about " + p.About.Line())
	}
	return b.String()
}

// ParsePacket reads what Packet.Line writes.
func ParsePacket(line string) (Packet, error) {
	f := &fields{words: strings.Fields(line)}
	p := f.packet()
	return p, f.done(line)
}

func (f *fields) packet() Packet {
	proto := f.protocol()
	t := f.tuple(proto)
	p := Packet{Proto: proto, Src: t.Src, Dst: t.Dst, SrcPort: t.SrcPort, DstPort: t.DstPort, ICMPType: t.ICMPType, ICMPCode: t.ICMPCode}
	if proto == ICMP || proto == ICMPv6 {
		p.ICMPID, p.SrcPort = t.SrcPort, 0
	}
	f.expect("len")
	p.Len = int(f.uint(31))
	f.expect("ttl")
	p.TTL = uint8(f.uint(8))
	f.expect("ip-id")
	p.ID = uint16(f.uint(16))
	if f.peek() == "bad" {
		f.next()
		p.Bad = f.next()
	}
	if f.peek() == "about" {
		f.next()
		inner := f.packet()
		p.About = &inner
	}
	return p
}
