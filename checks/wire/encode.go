package wire

import (
	"encoding/binary"
	"math"

	"ctlab/checks/conntrack"
)

// Encode makes the bytes of a packet: Decode gives them back as the same packet. What a Packet does not tell is
// filled in with a pattern that counts, so that each byte is known from its place. Checksums and lengths are right,
// unless Bad says otherwise. A Len that cannot be is moved to the nearest that can. An ICMP error ends with as much of
// the packet that it quotes as its Len has room for. Of a fragment the bytes are those of a packet that ends with
// it; Fragments makes fragments that fit together.
//
// It returns nil if the addresses are not of one IP version.
func Encode(p *conntrack.Packet) []byte {
	if !encodable(p) {
		return nil
	}
	b := layOut(p, math.MaxInt, headerSize(p.Proto))
	return b.bytes()
}

func encodable(p *conntrack.Packet) bool {
	if !p.Src.IsValid() || !p.Dst.IsValid() || p.Src.Is4() != p.Dst.Is4() {
		return false
	}
	return p.About == nil || p.About.Src.Is4() == p.Src.Is4() && encodable(p.About)
}

// Fragments cuts a packet into fragments of at most mtu bytes each, whose checksums are right once they are put
// together. A packet that fits is returned whole. They carry the packet's DF, as only a sender that is told to makes
// them. It returns nil if no fragment of that size can be.
func Fragments(p *conntrack.Packet, mtu int) [][]byte {
	whole := wholeOf(p)
	if b := Encode(&whole); len(b) <= mtu {
		return [][]byte{b}
	}
	first := whole
	first.More = true
	header := layOut(&first, math.MaxInt, 0).header
	step := (mtu - header) &^ 7
	if step <= 0 {
		return nil
	}
	var out [][]byte
	for from, size := 0, l4Size(&whole); from < size; from += step {
		out = append(out, Fragment(p, from, min(from+step, size)))
	}
	return out
}

// Fragment makes one fragment of a packet: bytes from to to of what follows its IP header. More is set if that is not
// the end. Any pieces can be had, also those that overlap or leave holes; from must be a multiple of 8.
func Fragment(p *conntrack.Packet, from, to int) []byte {
	whole := wholeOf(p)
	if !encodable(&whole) {
		return nil
	}
	all := layOut(&whole, math.MaxInt, headerSize(p.Proto))
	l4 := all.bytes()[all.header:]
	from, to = min(max(from, 0), len(l4)), min(to, len(l4))
	piece := whole
	piece.Bad, piece.Offset, piece.More = "", from, to < len(l4)
	b := layOut(&piece, math.MaxInt, 0)
	b.size = b.header + max(to-from, 0)
	out := b.head()
	return append(out, l4[from:max(from, to)]...)
}

func wholeOf(p *conntrack.Packet) conntrack.Packet {
	whole := *p
	whole.Offset, whole.More = 0, false
	return whole
}

func l4Size(p *conntrack.Packet) int {
	b := layOut(p, math.MaxInt, headerSize(p.Proto))
	return b.size - b.header
}

// layout says how long the parts of a packet are, in bytes.
type layout struct {
	p      *conntrack.Packet
	header int // the IP header with its options or extension headers
	size   int // all
	kept   int // how much of it is kept, where it is quoted
}

// The longest packets.
const (
	ipv4Most = 1<<16 - 1
	ipv6Most = ipv6Header + 1<<16 - 1
)

// layOut finds the lengths of a packet of which the first room bytes are kept, and whose L4 header needs so many
// bytes. A short one that is longer than its header has options, which leave too little for L4.
func layOut(p *conntrack.Packet, room, need int) layout {
	least, most, longest, unit := ipv4Header, ipv4HeaderMost, ipv4Most, 4
	if !p.Src.Is4() {
		least, most, longest, unit = ipv6Header, ipv6Most, ipv6Most, 8
		if p.IsFragment() {
			least += fragmentHeader
		}
	}
	l := layout{p: p, header: least}
	switch {
	case p.Bad == badShort && need > 0:
		l.size = max(p.Len, least)
		if room >= l.size {
			l.size = min(l.size, most+need-1)
		}
		if over := min(l.size, room) - (least + need - 1); over > 0 {
			l.header = min(least+(over+unit-1)/unit*unit, most)
		}
	case p.IsFragment():
		l.size = max(p.Len, least)
	default:
		l.size = max(p.Len, least+need)
	}
	l.size = min(l.size, longest)
	l.kept = min(l.size, room)
	return l
}

// bytes are the whole packet, or what is kept of it.
func (l layout) bytes() []byte {
	b := append(l.head(), l.l4()...)
	return b[:min(l.kept, len(b))]
}

// head is the IP header.
func (l layout) head() []byte {
	if l.p.Src.Is4() {
		return l.headIPv4()
	}
	return l.headIPv6()
}

func (l layout) headIPv4() []byte {
	const noOperation = 1
	p := l.p
	b := make([]byte, l.header)
	b[0] = 4<<4 | byte(l.header/4)
	binary.BigEndian.PutUint16(b[2:], uint16(l.size))
	binary.BigEndian.PutUint16(b[4:], p.ID)
	place := uint16(p.Offset/8) & 0x1fff
	if p.DF {
		place |= 0x4000
	}
	if p.More {
		place |= 0x2000
	}
	binary.BigEndian.PutUint16(b[6:], place)
	b[8], b[9] = p.TTL, p.Proto
	copy(b[12:], p.Src.AsSlice())
	copy(b[16:], p.Dst.AsSlice())
	for i := ipv4Header; i < len(b); i++ {
		b[i] = noOperation
	}
	var s sum
	s.add(b)
	binary.BigEndian.PutUint16(b[10:], ^s.fold())
	return b
}

func (l layout) headIPv6() []byte {
	p := l.p
	b := make([]byte, l.header)
	b[0] = 6 << 4
	binary.BigEndian.PutUint16(b[4:], uint16(l.size-ipv6Header))
	next := &b[6]
	b[7] = p.TTL
	copy(b[8:], p.Src.AsSlice())
	copy(b[24:], p.Dst.AsSlice())
	rest := b[ipv6Header:]
	if p.IsFragment() {
		*next, next = fragment, &rest[0]
		place := uint16(p.Offset) &^ 7
		if p.More {
			place |= 1
		}
		binary.BigEndian.PutUint16(rest[2:], place)
		binary.BigEndian.PutUint32(rest[4:], uint32(p.ID))
		rest = rest[fragmentHeader:]
	}
	for len(rest) > 0 { // options that are but padding
		n := min(len(rest), 256*8)
		*next, next = destination, &rest[0]
		rest[1] = byte(n/8 - 1)
		rest = rest[n:]
	}
	*next = p.Proto
	return b
}

// l4 is what follows the IP header.
func (l layout) l4() []byte {
	p := l.p
	b := make([]byte, max(l.size-l.header, 0))
	for i := range b {
		b[i] = byte(p.Offset + i)
	}
	if p.Offset > 0 {
		return b
	}
	if p.Proto == gre { // version 0, whose tuple has no keys (gre_pkt_to_tuple in net/netfilter/nf_conntrack_proto_gre.c)
		clear(b[:min(len(b), 2)])
	}
	copy(b, l.l4Header(len(b)))
	if p.Proto == gre {
		copy(b, []byte{0, 0, 0x08, 0}) // of version 0, around IPv4; the pattern would be one of version 1
	}
	if p.About != nil && len(b) > icmpHeader && isError(p) {
		room := min(l.kept-l.header, len(b)) - icmpHeader
		copy(b[icmpHeader:], layOut(p.About, max(room, 0), tupleSize(p.About.Proto)).bytes())
	}
	if len(b) >= headerSize(p.Proto) {
		l.seal(b)
	}
	return b
}

// l4Header is the L4 header of a packet with so many bytes of L4, without its checksum.
func (l layout) l4Header(size int) []byte {
	const ack = 0x10
	p := l.p
	b := make([]byte, headerSize(p.Proto))
	if conntrack.HasPorts(p.Proto) {
		binary.BigEndian.PutUint16(b, p.SrcPort)
		binary.BigEndian.PutUint16(b[2:], p.DstPort)
	}
	switch p.Proto {
	case conntrack.UDP:
		n := uint16(size)
		if p.Bad == badLength {
			n = max(n+1, 7) // more than there is; where that cannot be told, less than the header
		}
		binary.BigEndian.PutUint16(b[4:], n)
	case udpLite:
		if p.Bad == badLength {
			b[5] = 7
		}
	case conntrack.TCP:
		b[12], b[13] = 5<<4, ack
		if p.Bad == badLength {
			b[12] = 4 << 4
		}
	case conntrack.ICMP, conntrack.ICMPv6:
		l.icmpHeader(b)
	}
	return b
}

func (l layout) icmpHeader(b []byte) {
	const sequence = 1
	p := l.p
	b[0], b[1] = p.ICMPType, p.ICMPCode
	switch {
	case tellsMTU(p) && p.Proto == conntrack.ICMP:
		binary.BigEndian.PutUint16(b[6:], uint16(p.MTU))
	case tellsMTU(p):
		binary.BigEndian.PutUint32(b[4:], uint32(p.MTU))
	case !isError(p):
		binary.BigEndian.PutUint16(b[4:], p.ICMPID)
		binary.BigEndian.PutUint16(b[6:], sequence)
	}
}

// seal puts the checksum in, or a wrong one.
func (l layout) seal(b []byte) {
	p := l.p
	if p.Proto == conntrack.SCTP {
		crc := sumSCTP(b)
		if p.Bad == badChecksum {
			crc = ^crc
		}
		binary.LittleEndian.PutUint32(b[8:], crc)
		return
	}
	at, has := checksumAt(p.Proto)
	if !has {
		return
	}
	field := b[at : at+2]
	binary.BigEndian.PutUint16(field, 0)
	c := ^sumL4(p.Src, p.Dst, p.Proto, b)
	if p.Bad == badChecksum {
		c ^= 0x5555
	}
	if c == 0 && (p.Proto == conntrack.UDP || p.Proto == udpLite) { // 0 would mean none
		c = 0xffff
		if p.Bad == badChecksum {
			c ^= 0x3333
		}
	}
	binary.BigEndian.PutUint16(field, c)
}
