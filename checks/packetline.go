package checks

import (
	"net/netip"
	"strconv"
	"strings"

	"ctlab/checks/conntrack"
)

// PacketWant is a packet as a lab's line says it: one to be made, or a wanted one, of which what is not written
// is not compared.
type PacketWant struct {
	Text       string // the line as written
	Proto      uint8
	Tuple      TupleWant
	Type, Code *uint8  // of ICMP
	QueryID    *uint16 // of an ICMP query
	Len        *int    // the whole IP packet, bytes
	Data       *int    // in place of Len: behind the L4 header, bytes
	TTL        *uint8
	ID         *uint16 // of the IP header
	DF         bool
	Fragment   *Fragment
	MTU        *int
	Bad        string // as conntrack.Packet has it; "" is not compared
	NoSum      bool   // UDP without a checksum
	Cut        *int   // after how many bytes it ends, whatever its headers say
	About      *PacketWant
}

// Fragment is where a fragment stands in its packet.
type Fragment struct {
	Offset int // bytes, a multiple of 8
	More   bool
}

// Crafted is a packet to be made.
type Crafted struct {
	conntrack.Packet
	FreeID bool // no ip-id is given: whoever sends it takes one that no other packet has
	NoSum  bool // UDP without a checksum (the field is 0)
}

// ParsePacket reads the line of a packet to be made,
//
//	PROTO SRC > DST [ICMP-TYPE] [KEY VALUE]... [about PACKET]
//
// and turns names into addresses by resolve. It also reads what conntrack.Packet.Line writes. What is not written is as
// small and as ordinary as can be: no data, ttl 64, a right checksum.
func ParsePacket(line string, resolve Resolve) (Crafted, *LineError) {
	r := newLineReader(line, resolve)
	w := r.packet(true)
	c := Crafted{FreeID: w.ID == nil, NoSum: w.NoSum}
	if r.err == nil {
		c.Packet = w.craft()
	}
	return c, r.err
}

// ParsePacketWant reads the line of a wanted packet.
func ParsePacketWant(line string, resolve Resolve) (PacketWant, *LineError) {
	r := newLineReader(line, resolve)
	w := r.packet(false)
	w.Text = line
	return *w, r.err
}

// packet reads a packet up to the end of the line. One to be made has one address and one port at each end.
func (r *lineReader) packet(exact bool) *PacketWant {
	w := &PacketWant{}
	first := r.peek(0)
	bare := r.accept("ip")
	if !bare {
		w.Proto = r.protocol()
	}
	r.w.Proto, r.bareIP = w.Proto, bare
	src := r.endpoint()
	if arrow := r.next(); r.err == nil && arrow.text != ">" {
		r.fail(arrow, "\">\" is missing before "+Quote(arrow.text), "SOURCE > DESTINATION")
	}
	dst := r.endpoint()
	w.Tuple = TupleWant{r.address(src, dst), r.address(dst, src)}
	r.seen = map[string]bool{}
	if w.icmp() {
		r.icmpType(w)
	}
	for r.more() && w.About == nil {
		r.packetWord(w, exact)
	}
	switch {
	case r.err != nil:
	case bare && !r.seen["proto"]:
		r.fail(first, "which protocol?", "ip SOURCE > DESTINATION proto 89")
	case exact:
		r.exact(w, first, src, dst)
	}
	return w
}

func (w *PacketWant) icmp() bool { return w.Proto == conntrack.ICMP || w.Proto == conntrack.ICMPv6 }

// exact reports what is open in a packet that is to be made.
func (r *lineReader) exact(w *PacketWant, first word, src, dst end) {
	for _, e := range []struct {
		end
		want EndpointWant
	}{{src, w.Tuple.Src}, {dst, w.Tuple.Dst}} {
		switch {
		case !e.want.Prefix.IsValid() && e.name: // the name is wrong, and that was said
		case !e.want.Prefix.IsValid() || !e.want.Prefix.IsSingleIP():
			r.fail(e.word, Quote(e.text)+" is not one address", "a packet has one address at each end")
		case !conntrack.HasPorts(w.Proto) || w.Fragment != nil && w.Fragment.Offset > 0:
		case e.want.MinPort != e.want.MaxPort:
			r.fail(e.word, Quote(e.text)+" has no port", "write "+Quote(e.host+":PORT"))
		}
	}
	switch {
	case w.icmp() && w.Type == nil:
		r.fail(first, "which type of "+first.text+"?", "echo-request, echo-reply, port-unreachable, or type N code N")
	case w.Len != nil && *w.Len < headerLen(w):
		r.fail(first, "len "+strconv.Itoa(*w.Len)+" is too short for its IP header", "len is the whole packet; data says how much is behind the headers")
	case w.Cut != nil && (*w.Cut < headerLen(w) || *w.Cut >= w.length()):
		r.fail(first, "cut "+strconv.Itoa(*w.Cut)+" is not inside the packet, behind its IP header", "")
	case w.NoSum && w.Proto != conntrack.UDP:
		r.fail(first, "only udp may have no checksum", "")
	}
}

// icmpType reads the type of an ICMP packet: a word, or type N [code N].
func (r *lineReader) icmpType(w *PacketWant) {
	for _, t := range icmpTypes(w.Proto) {
		if r.accept(t.name) {
			w.Type, w.Code = &t.typ, &t.code
			return
		}
	}
}

// icmpName is what a type and a code of ICMP are called.
type icmpName struct {
	name      string
	typ, code uint8
}

// icmpTypes are the names of types, as iptables has them where it has one.
func icmpTypes(proto uint8) []icmpName {
	if proto == conntrack.ICMPv6 {
		return []icmpName{
			{"echo-request", 128, 0}, {"echo-reply", 129, 0}, {"no-route", 1, 0}, {"admin-prohibited", 1, 1}, {"host-unreachable", 1, 3},
			{"port-unreachable", 1, 4}, {"packet-too-big", 2, 0}, {"time-exceeded", 3, 0}, {"parameter-problem", 4, 0},
		}
	}
	return []icmpName{
		{"echo-request", 8, 0}, {"echo-reply", 0, 0}, {"network-unreachable", 3, 0}, {"host-unreachable", 3, 1}, {"protocol-unreachable", 3, 2},
		{"port-unreachable", 3, 3}, {"fragmentation-needed", 3, 4}, {"admin-prohibited", 3, 13}, {"source-quench", 4, 0}, {"redirect", 5, 0},
		{"time-exceeded", 11, 0}, {"parameter-problem", 12, 0}, {"timestamp-request", 13, 0}, {"timestamp-reply", 14, 0},
	}
}

// packetWord reads one of the words behind the tuple, with its value.
func (r *lineReader) packetWord(w *PacketWant, exact bool) {
	key := r.next()
	if r.seen[key.text] {
		r.fail(key, Quote(key.text)+" was given already", "")
		return
	}
	r.seen[key.text] = true
	switch key.text {
	case "df":
		w.DF = true
	case "len":
		w.Len = r.whole(w, key, 65535)
	case "data":
		w.Data = r.whole(w, key, 65535)
	case "cut":
		w.Cut = r.whole(w, key, 65535)
		if !exact {
			r.fail(key, "a packet that is wanted is not cut", "bad length, or bad short")
		}
	case "mtu":
		w.MTU = r.whole(w, key, 65535)
	case "ttl":
		w.TTL = small[uint8](r.whole(w, key, 255))
	case "ip-id":
		w.ID = small[uint16](r.whole(w, key, 65535))
	case "frag":
		r.fragment(w, key)
	case "sum":
		r.sum(w)
	case "bad":
		r.bad(w)
	case "about":
		r.about(w, key, exact)
	default:
		r.protocolWord(w, key)
	}
	if r.seen["len"] && r.seen["data"] {
		r.fail(key, "both len and data", "len is the whole packet, data what is behind its headers")
	}
}

// protocolWord reads words that some protocols have.
func (r *lineReader) protocolWord(w *PacketWant, key word) {
	switch {
	case key.text == "proto" && r.bareIP:
		if n := r.whole(w, key, 255); n != nil {
			w.Proto = uint8(*n)
		}
		if conntrack.HasPorts(w.Proto) || w.icmp() {
			r.fail(key, "it has a name", "write "+conntrack.ProtocolName(w.Proto)+" in place of ip")
		}
	case key.text == "id" && w.icmp():
		w.QueryID = small[uint16](r.whole(w, key, 65535))
	case key.text == "type" && w.icmp() && w.Type == nil:
		w.Type = small[uint8](r.whole(w, key, 255))
		if r.accept("code") {
			w.Code = small[uint8](r.whole(w, key, 255))
		}
	case r.err == nil:
		r.fail(key, Quote(key.text)+" is no word of a packet", r.packetHint(w, key.text))
	}
}

func (r *lineReader) packetHint(w *PacketWant, text string) string {
	switch text {
	case "id":
		return "ip-id is that of the IP header; only icmp has an id"
	case "seq", "ack", "win", "S", "S.", ".", "P.", "F.", "R", "R.":
		return "sequence numbers and flags are not supported yet"
	}
	words := []string{"len", "data", "ttl", "ip-id", "df", "frag", "mtu", "sum", "bad", "cut", "about"}
	if w.icmp() {
		words = append(words, "id", "type", "code")
		if w.Type == nil {
			for _, t := range icmpTypes(w.Proto) {
				words = append(words, t.name)
			}
		}
	}
	return DidYouMean(text, words, strings.Join(words[:min(len(words), 11)], ", "))
}

// whole reads the number behind a key.
func (r *lineReader) whole(_ *PacketWant, key word, most int64) *int {
	if !r.more() {
		r.fail(key, Quote(key.text)+" has no value", "")
		return nil
	}
	value := r.next()
	n, err := ParseNumber(value.text)
	if err == nil && n > most {
		err = &LineError{0, len(value.text), key.text + " " + clip(value.text) + " is above " + strconv.FormatInt(most, 10), ""}
	}
	r.part(value.at, err)
	v := int(n)
	return &v
}

// small is a number of fewer bits; whoever read it has looked that it fits.
func small[T uint8 | uint16](n *int) *T {
	if n == nil {
		return nil
	}
	v := T(*n)
	return &v
}

func (r *lineReader) fragment(w *PacketWant, key word) {
	value := r.next()
	digits, more := strings.CutSuffix(value.text, "+")
	n, err := ParseNumber(digits)
	r.part(value.at, err)
	if err == nil && (n%8 != 0 || n > 65528) {
		r.fail(value, "frag "+clip(value.text)+" is no multiple of 8 up to 65528", "frag OFFSET, with a + if more follow")
	}
	if err == nil && n == 0 && !more {
		r.fail(key, "frag 0 is the whole packet", "frag 0+ is a first fragment")
	}
	w.Fragment = &Fragment{int(n), more}
}

func (r *lineReader) sum(w *PacketWant) {
	switch value := r.next(); value.text {
	case "bad":
		w.Bad = "checksum"
	case "none":
		w.NoSum = true
	default:
		r.fail(value, "sum "+Quote(value.text), "sum bad, or sum none")
	}
}

func (r *lineReader) bad(w *PacketWant) {
	value := r.next()
	switch w.Bad = value.text; value.text {
	case "checksum", "length", "short":
	default:
		r.fail(value, "bad "+Quote(value.text), "bad checksum, bad length or bad short")
	}
}

// about reads the packet that an ICMP error quotes.
func (r *lineReader) about(w *PacketWant, key word, exact bool) {
	if !w.icmp() {
		r.fail(key, "only an ICMP error is about another packet", "")
		return
	}
	bare := r.bareIP
	w.About = r.packet(exact)
	r.w.Proto, r.bareIP = w.Proto, bare
}

// Lengths of headers in bytes.
const (
	ipv4Header = 20
	ipv6Header = 40
	icmpHeader = 8
	// quoteLimit is how much of a packet an ICMP error quotes at most: 576 bytes in all (icmp_send, net/ipv4/icmp.c).
	quoteLimit = 576 - ipv4Header - icmpHeader
)

func headerLen(w *PacketWant) int {
	if w.Tuple.Src.Prefix.Addr().Is6() {
		return ipv6Header
	}
	return ipv4Header
}

// l4Header is the length of the header behind that of IP, where the packet has one.
func (w *PacketWant) l4Header() int {
	switch {
	case w.Fragment != nil && w.Fragment.Offset > 0:
		return 0
	case w.Proto == conntrack.TCP:
		return 20
	case w.Proto == conntrack.SCTP, w.Proto == 33:
		return 12
	case conntrack.HasPorts(w.Proto), w.icmp():
		return 8
	}
	return 0
}

// length is that of the whole packet to be made.
func (w *PacketWant) length() int {
	n := headerLen(w) + w.l4Header()
	switch {
	case w.Len != nil:
		return *w.Len
	case w.Data != nil:
		return n + *w.Data
	case w.About != nil:
		return n + min(w.About.length(), quoteLimit)
	}
	return n
}

// defaultTTL is that of a packet whose line does not say.
const defaultTTL = 64

// craft makes the packet.
func (w *PacketWant) craft() conntrack.Packet {
	p := conntrack.Packet{Proto: w.Proto, Src: w.Tuple.Src.Prefix.Addr(), Dst: w.Tuple.Dst.Prefix.Addr(), Len: w.length(), TTL: defaultTTL,
		DF: w.DF, Bad: w.Bad, ICMPType: or(w.Type, 0), ICMPCode: or(w.Code, 0), ICMPID: or(w.QueryID, 0), ID: or(w.ID, 0), MTU: or(w.MTU, 0)}
	p.TTL = or(w.TTL, p.TTL)
	if conntrack.HasPorts(w.Proto) && w.Tuple.Src.MinPort == w.Tuple.Src.MaxPort {
		p.SrcPort = w.Tuple.Src.MinPort
	}
	if conntrack.HasPorts(w.Proto) && w.Tuple.Dst.MinPort == w.Tuple.Dst.MaxPort {
		p.DstPort = w.Tuple.Dst.MinPort
	}
	if w.Fragment != nil {
		p.Offset, p.More = w.Fragment.Offset, w.Fragment.More
	}
	if w.About != nil {
		inner := w.About.craft()
		p.About = &inner
	}
	if w.Cut != nil {
		p.Len, p.Bad = *w.Cut, w.cutMeans()
	}
	return p
}

// cutMeans is what is wrong with a packet that was cut.
func (w *PacketWant) cutMeans() string {
	switch {
	case w.l4Header() == 8 && *w.Cut-headerLen(w) < 8:
		return "short"
	case w.Proto == conntrack.UDP:
		return "length"
	case w.icmp():
		return "checksum"
	}
	return w.Bad
}

func or[T any](v *T, otherwise T) T {
	if v == nil {
		return otherwise
	}
	return *v
}

// Matches reports whether the packet is a wanted one.
func (w *PacketWant) Matches(p *conntrack.Packet) bool { return len(w.Mismatch(p)) == 0 }

// Mismatch names what of the want the packet does not meet, in the words of its line. The fewer there are, the
// nearer is the packet.
func (w *PacketWant) Mismatch(p *conntrack.Packet) []string {
	var out []string
	need := func(ok bool, name string) {
		if !ok {
			out = append(out, name)
		}
	}
	need(w.Proto == p.Proto, "protocol")
	need(w.Tuple.Src.contains(p.Src, p.SrcPort), "source")
	need(w.Tuple.Dst.contains(p.Dst, p.DstPort), "destination")
	need(same(w.Type, p.ICMPType) && same(w.Code, p.ICMPCode), "type")
	need(same(w.QueryID, p.ICMPID), "id")
	need(same(w.Len, p.Len), "len")
	need(w.Data == nil || p.Len == ipHeader(p.Src)+w.l4Header()+*w.Data, "data")
	need(same(w.TTL, p.TTL), "ttl")
	need(same(w.ID, p.ID), "ip-id")
	need(!w.DF || p.DF, "df")
	need(w.Fragment == nil || *w.Fragment == Fragment{p.Offset, p.More}, "frag")
	need(same(w.MTU, p.MTU), "mtu")
	need(w.Bad == "" || w.Bad == p.Bad, "bad")
	switch {
	case w.About == nil:
	case p.About == nil:
		out = append(out, "about")
	default:
		for _, inner := range w.About.Mismatch(p.About) {
			out = append(out, "about "+inner)
		}
	}
	return out
}

func ipHeader(a netip.Addr) int {
	if a.Is6() {
		return ipv6Header
	}
	return ipv4Header
}

func same[T comparable](want *T, got T) bool { return want == nil || *want == got }
