//go:build linux

package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

// Attribute numbers of ctnetlink (include/uapi/linux/netfilter/nfnetlink_conntrack.h, 6.18).
const (
	ctaTupleOrig      = 1
	ctaTupleReply     = 2
	ctaStatus         = 3
	ctaProtoinfo      = 4
	ctaHelp           = 5
	ctaNATSrc         = 6
	ctaTimeout        = 7
	ctaMark           = 8
	ctaCountersOrig   = 9
	ctaCountersReply  = 10
	ctaUse            = 11
	ctaID             = 12
	ctaNATDst         = 13
	ctaTupleMaster    = 14
	ctaZone           = 18
	ctaSecctx         = 19
	ctaTimestamp      = 20
	ctaLabels         = 22
	ctaTimestampEvent = 27

	ctaTupleIP    = 1
	ctaTupleProto = 2
	ctaTupleZone  = 3

	ctaIPv4Src = 1
	ctaIPv4Dst = 2
	ctaIPv6Src = 3
	ctaIPv6Dst = 4

	ctaProtoNum     = 1
	ctaProtoSrcPort = 2
	ctaProtoDstPort = 3
	ctaICMPID       = 4
	ctaICMPType     = 5
	ctaICMPCode     = 6
	ctaICMPv6ID     = 7
	ctaICMPv6Type   = 8
	ctaICMPv6Code   = 9

	ctaProtoinfoTCP = 1
	ctaTCPState     = 1
	ctaTCPWScaleO   = 2
	ctaTCPWScaleR   = 3
	ctaTCPFlagsO    = 4
	ctaTCPFlagsR    = 5

	ctaCountersPackets = 1
	ctaCountersBytes   = 2

	ctaTimestampStart = 1
	ctaTimestampStop  = 2

	ctaHelpName   = 1
	ctaSecctxName = 1

	ctaNATv4MinIP = 1
	ctaNATv4MaxIP = 2
	ctaNATProto   = 3
	ctaNATv6MinIP = 4
	ctaNATv6MaxIP = 5

	ctaProtoNATPortMin = 1
	ctaProtoNATPortMax = 2
)

const attrTypeMask = 0x3fff // without NLA_F_NESTED and NLA_F_NET_BYTEORDER

var errShort = errors.New("attribute is too short")

// attrs walks netlink attributes. The first error sticks, so that decoders read as a list of fields.
type attrs struct {
	rest []byte
	typ  uint16
	val  []byte
	err  error
}

// next moves to the next attribute.
func (a *attrs) next() bool {
	if a.err != nil || len(a.rest) == 0 {
		return false
	}
	if len(a.rest) < 4 {
		a.err = errShort
		return false
	}
	n := int(binary.NativeEndian.Uint16(a.rest))
	if n < 4 || n > len(a.rest) {
		a.err = fmt.Errorf("attribute of %d bytes in %d", n, len(a.rest))
		return false
	}
	a.typ = binary.NativeEndian.Uint16(a.rest[2:]) & attrTypeMask
	a.val = a.rest[4:n]
	a.rest = a.rest[min((n+3)&^3, len(a.rest)):]
	return true
}

// fixed is the value if it has exactly n bytes, else an error and zeros.
func (a *attrs) fixed(n int) []byte {
	if len(a.val) != n {
		a.fail(fmt.Errorf("attribute %d has %d bytes, want %d", a.typ, len(a.val), n))
		return make([]byte, n)
	}
	return a.val
}

func (a *attrs) fail(err error) {
	if a.err == nil {
		a.err = err
	}
}

func (a *attrs) u8() uint8   { return a.fixed(1)[0] }
func (a *attrs) u16() uint16 { return binary.BigEndian.Uint16(a.fixed(2)) }
func (a *attrs) u32() uint32 { return binary.BigEndian.Uint32(a.fixed(4)) }
func (a *attrs) u64() uint64 { return binary.BigEndian.Uint64(a.fixed(8)) }

func (a *attrs) ip4() netip.Addr { return netip.AddrFrom4([4]byte(a.fixed(4))) }
func (a *attrs) ip6() netip.Addr { return netip.AddrFrom16([16]byte(a.fixed(16))) }

// text is the value as a string without its final NUL.
func (a *attrs) text() string {
	v := a.val
	if n := len(v); n > 0 && v[n-1] == 0 {
		v = v[:n-1]
	}
	return string(v)
}

// nested walks the attributes inside the value; fn is called for each.
func (a *attrs) nested(fn func(*attrs)) {
	in := attrs{rest: a.val}
	for in.next() {
		fn(&in)
	}
	if in.err != nil {
		a.fail(fmt.Errorf("in attribute %d: %w", a.typ, in.err))
	}
}

// message builds one netlink message.
type message struct{ b []byte }

// newMessage begins a ctnetlink message: nlmsghdr and nfgenmsg.
func newMessage(typ uint16, flags uint16, seq uint32, family uint8) *message {
	m := &message{b: make([]byte, 20, 256)}
	binary.NativeEndian.PutUint16(m.b[4:], nfnlSubsysCtnetlink<<8|typ)
	binary.NativeEndian.PutUint16(m.b[6:], flags)
	binary.NativeEndian.PutUint32(m.b[8:], seq)
	m.b[16] = family
	return m
}

// bytes is the finished message.
func (m *message) bytes() []byte {
	binary.NativeEndian.PutUint32(m.b, uint32(len(m.b)))
	return m.b
}

func (m *message) attr(typ uint16, v ...byte) {
	m.b = binary.NativeEndian.AppendUint16(m.b, uint16(4+len(v)))
	m.b = binary.NativeEndian.AppendUint16(m.b, typ)
	m.b = append(m.b, v...)
	for len(m.b)%4 != 0 {
		m.b = append(m.b, 0)
	}
}

func (m *message) u16(typ, v uint16)        { m.attr(typ, byte(v>>8), byte(v)) }
func (m *message) u32(typ uint16, v uint32) { m.attr(typ, binary.BigEndian.AppendUint32(nil, v)...) }

func (m *message) nest(typ uint16, fn func()) {
	o := len(m.b)
	m.b = append(m.b, 0, 0, 0, 0)
	binary.NativeEndian.PutUint16(m.b[o+2:], typ|0x8000)
	fn()
	binary.NativeEndian.PutUint16(m.b[o:], uint16(len(m.b)-o))
}

func (m *message) addr(typ4, typ6 uint16, a netip.Addr) {
	if a.Is4() {
		m.attr(typ4, a.AsSlice()...)
		return
	}
	m.attr(typ6, a.AsSlice()...)
}
