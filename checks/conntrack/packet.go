package conntrack

import (
	"fmt"
	"net/netip"
	"strconv"
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
	DF                 bool    // it must not be fragmented
	Offset             int     // of a fragment that is not the first: where its data stands in the packet, bytes
	More               bool    // of a fragment that is not the last
	MTU                int     // that an ICMP error about a packet too big tells, bytes
	Bad                string  // why the packet's L4 header is not valid ("checksum", "length", "short"), or ""
	About              *Packet // the packet that an ICMP error quotes
}

// IsError reports whether the packet is an ICMP error that quotes another packet
// (nf_conntrack_proto_icmp.c, nf_conntrack_proto_icmpv6.c: the types that are handed to nf_conntrack_inet_error).
func (p *Packet) IsError() bool {
	if p.Proto == ICMPv6 && !p.Src.Is4() {
		return p.ICMPType < 128
	}
	if p.Proto != ICMP || !p.Src.Is4() {
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

// HasTuple reports whether a packet that is cut short still has the ports of its tuple: 4 bytes behind the IP header
// (nf_ct_get_tuple in net/netfilter/nf_conntrack_core.c).
func (p *Packet) HasTuple() bool {
	const ports = 4
	header := 20
	if !p.Src.Is4() {
		header = 40
	}
	return HasPorts(p.Proto) && p.Len >= header+ports
}

// QuotedL4 is how many bytes there are, of what an ICMP error quotes, behind the quoted IP header.
func (p *Packet) QuotedL4() int {
	if p.About == nil {
		return 0
	}
	const icmp = 8
	header := 20
	if !p.Src.Is4() {
		header = 40
	}
	return min(p.About.Len-header, p.Len-header-icmp-header)
}

// IsFragment reports whether the packet is a part of a larger one.
func (p *Packet) IsFragment() bool { return p.Offset > 0 || p.More }

// Line is the packet's line form: PROTO SRC:PORT > DST:PORT len N ttl N ip-id N, then, where they are so, df,
// frag OFFSET (with a + if more follow), mtu N; an ICMP error ends with the packet that it quotes, behind
// "about". ParsePacket reads it.
func (p *Packet) Line() string {
	var b strings.Builder
	b.WriteString(p.Tuple().Line())
	fmt.Fprintf(&b, " len %d ttl %d ip-id %d", p.Len, p.TTL, p.ID)
	if p.DF {
		b.WriteString(" df")
	}
	switch {
	case p.More:
		fmt.Fprintf(&b, " frag %d+", p.Offset)
	case p.Offset > 0:
		fmt.Fprintf(&b, " frag %d", p.Offset)
	}
	if p.MTU > 0 {
		fmt.Fprintf(&b, " mtu %d", p.MTU)
	}
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
	p.DF = f.take("df")
	if f.take("frag") {
		p.Offset, p.More = f.offset()
	}
	if f.take("mtu") {
		p.MTU = int(f.uint(31))
	}
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

// take reads a word if it is the next one.
func (f *fields) take(word string) bool {
	if f.peek() != word {
		return false
	}
	f.next()
	return true
}

// offset reads where a fragment stands: OFFSET, or OFFSET+ if more follow.
func (f *fields) offset() (offset int, more bool) {
	w := f.next()
	digits, more := strings.CutSuffix(w, "+")
	n, err := strconv.ParseUint(digits, 10, 16)
	if f.err == nil && (err != nil || n%8 != 0) {
		f.fail("%q is no fragment offset: a multiple of 8, with + if more follow", w)
	}
	return int(n), more
}
