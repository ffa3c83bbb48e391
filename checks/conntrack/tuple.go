// Package conntrack holds the nouns of Linux connection tracking: tuples, entries, status bits, ticks,
// packets, events, and the one line form that each of them has everywhere in ctlab (in reports, traces
// and labs). It is pure data: it reads no kernel and knows no rule.
package conntrack

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Protocol numbers that have a name in the line forms.
const (
	ICMP    uint8 = 1
	TCP     uint8 = 6
	UDP     uint8 = 17
	ICMPv6  uint8 = 58
	SCTP    uint8 = 132
	UDPLite uint8 = 136
)

var protocolNames = map[uint8]string{ICMP: "icmp", TCP: "tcp", UDP: "udp", ICMPv6: "icmpv6", SCTP: "sctp", 33: "dccp", 47: "gre", UDPLite: "udplite"}

// ProtocolName is the lower-case name, or the number where there is none.
func ProtocolName(p uint8) string {
	if n, ok := protocolNames[p]; ok {
		return n
	}
	return strconv.Itoa(int(p))
}

// ParseProtocol reads what ProtocolName writes.
func ParseProtocol(s string) (uint8, error) {
	for p, n := range protocolNames {
		if n == s {
			return p, nil
		}
	}
	if n, err := strconv.ParseUint(s, 10, 8); err == nil {
		return uint8(n), nil
	}
	return 0, fmt.Errorf("protocol %q: unknown", s)
}

// HasPorts reports whether the protocol's tuples carry ports.
func HasPorts(proto uint8) bool {
	switch proto {
	case TCP, UDP, SCTP, 33, UDPLite:
		return true
	}
	return false
}

// Tuple is one direction of a flow (struct nf_conntrack_tuple, without the direction and the zone).
// It is comparable. For ICMP the id stands in SrcPort, type and code in ICMPType and ICMPCode; GRE
// keys stand in the ports.
type Tuple struct {
	Proto              uint8
	Src, Dst           netip.Addr
	SrcPort, DstPort   uint16
	ICMPType, ICMPCode uint8
}

// icmpInverse maps an ICMP query type to its answer's and back, as invmap in
// net/netfilter/nf_conntrack_proto_icmp.c (6.18) does.
var icmpInverse = map[uint8]uint8{8: 0, 0: 8, 13: 14, 14: 13, 15: 16, 16: 15, 17: 18, 18: 17}
var icmpv6Inverse = map[uint8]uint8{128: 129, 129: 128, 139: 140, 140: 139}

// Inverse is the tuple of the other direction (nf_ct_invert_tuple). ok is false for ICMP types that
// have no inverse; such packets are INVALID.
func (t Tuple) Inverse() (inv Tuple, ok bool) {
	inv = Tuple{Proto: t.Proto, Src: t.Dst, Dst: t.Src, SrcPort: t.DstPort, DstPort: t.SrcPort}
	var types map[uint8]uint8
	switch t.Proto {
	case ICMP:
		types = icmpInverse
	case ICMPv6:
		types = icmpv6Inverse
	default:
		return inv, true
	}
	inv.SrcPort, inv.DstPort, inv.ICMPCode = t.SrcPort, 0, t.ICMPCode
	inv.ICMPType, ok = types[t.ICMPType]
	return inv, ok
}

// String is the tuple without its protocol: SRC:PORT > DST:PORT.
func (t Tuple) String() string {
	switch {
	case t.Proto == ICMP || t.Proto == ICMPv6:
		return fmt.Sprintf("%s > %s type %d code %d id %d", t.Src, t.Dst, t.ICMPType, t.ICMPCode, t.SrcPort)
	case HasPorts(t.Proto) || t.SrcPort != 0 || t.DstPort != 0:
		return netip.AddrPortFrom(t.Src, t.SrcPort).String() + " > " + netip.AddrPortFrom(t.Dst, t.DstPort).String()
	}
	return t.Src.String() + " > " + t.Dst.String()
}

// Line is the tuple with its protocol in front; ParseTuple reads it.
func (t Tuple) Line() string { return ProtocolName(t.Proto) + " " + t.String() }

// ParseTuple reads what Line writes.
func ParseTuple(line string) (Tuple, error) {
	f := &fields{words: strings.Fields(line)}
	proto := f.protocol()
	t := f.tuple(proto)
	return t, f.done(line)
}

// fields reads a line word by word; the first error sticks, so that readers look like lists of words.
type fields struct {
	words []string
	err   error
}

func (f *fields) peek() string {
	if f.err != nil || len(f.words) == 0 {
		return ""
	}
	return f.words[0]
}

func (f *fields) next() string {
	if f.err != nil {
		return ""
	}
	if len(f.words) == 0 {
		f.err = fmt.Errorf("the line ends too early")
		return ""
	}
	w := f.words[0]
	f.words = f.words[1:]
	return w
}

func (f *fields) fail(format string, args ...any) {
	if f.err == nil {
		f.err = fmt.Errorf(format, args...)
	}
}

func (f *fields) expect(word string) {
	if w := f.next(); f.err == nil && w != word {
		f.fail("want %q, got %q", word, w)
	}
}

func (f *fields) uint(bits int) uint64 {
	w := f.next()
	if f.err != nil {
		return 0
	}
	n, err := strconv.ParseUint(w, 0, bits)
	if err != nil {
		f.fail("%q is not a number of %d bits", w, bits)
	}
	return n
}

func (f *fields) protocol() uint8 {
	w := f.next()
	if f.err != nil {
		return 0
	}
	p, err := ParseProtocol(w)
	if err != nil {
		f.fail("%v", err)
	}
	return p
}

func (f *fields) endpoint() (netip.Addr, uint16) {
	w := f.next()
	if f.err != nil {
		return netip.Addr{}, 0
	}
	if ap, err := netip.ParseAddrPort(w); err == nil {
		return ap.Addr(), ap.Port()
	}
	a, err := netip.ParseAddr(w)
	if err != nil {
		f.fail("%q is no address", w)
	}
	return a, 0
}

func (f *fields) tuple(proto uint8) Tuple {
	t := Tuple{Proto: proto}
	t.Src, t.SrcPort = f.endpoint()
	f.expect(">")
	t.Dst, t.DstPort = f.endpoint()
	if proto == ICMP || proto == ICMPv6 {
		f.expect("type")
		t.ICMPType = uint8(f.uint(8))
		f.expect("code")
		t.ICMPCode = uint8(f.uint(8))
		f.expect("id")
		t.SrcPort = uint16(f.uint(16))
	}
	return t
}

func (f *fields) done(line string) error {
	if f.err == nil && len(f.words) > 0 {
		f.fail("%q is left over", strings.Join(f.words, " "))
	}
	if f.err != nil {
		return fmt.Errorf("%q: %w", line, f.err)
	}
	return nil
}
