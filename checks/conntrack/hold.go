package conntrack

import (
	"fmt"
	"net/netip"
	"strings"
)

// HoldPlace is where in POSTROUTING packets are held.
type HoldPlace string

// The two places: on both sides of the source NAT hook (priority 100), and before the hook that puts a new entry into
// the table (NF_IP_PRI_CONNTRACK_CONFIRM, the last one).
const (
	BeforeSNAT    HoldPlace = "before-snat"    // at priority 99
	BeforeConfirm HoldPlace = "before-confirm" // at priority 200
)

// Hold says which packets wait on their way, and where, until they are released one by one. A packet is known by its
// entry's original tuple; one without an entry does not wait. Zero values, and invalid addresses, mean any.
type Hold struct {
	Where            HoldPlace
	Proto            uint8
	Src, Dst         netip.Addr // of the original tuple
	SrcPort, DstPort uint16
	New              bool // only packets in state NEW
}

// Matches reports whether a packet of the entry with this original tuple waits.
func (h Hold) Matches(orig Tuple, isNew bool) bool {
	return (isNew || !h.New) &&
		(h.Proto == 0 || h.Proto == orig.Proto) &&
		(!h.Src.IsValid() || h.Src == orig.Src) && (!h.Dst.IsValid() || h.Dst == orig.Dst) &&
		(h.SrcPort == 0 || h.SrcPort == orig.SrcPort) && (h.DstPort == 0 || h.DstPort == orig.DstPort)
}

// String is the text form: WHERE PROTO SRC > DST [new]. PROTO is "any" for all; an end is ADDRESS, ADDRESS:PORT,
// any or any:PORT.
func (h Hold) String() string {
	proto := "any"
	if h.Proto != 0 {
		proto = ProtocolName(h.Proto)
	}
	s := fmt.Sprintf("%s %s %s > %s", h.Where, proto, holdEnd(h.Src, h.SrcPort), holdEnd(h.Dst, h.DstPort))
	if h.New {
		s += " new"
	}
	return s
}

func holdEnd(a netip.Addr, port uint16) string {
	switch {
	case !a.IsValid() && port == 0:
		return "any"
	case !a.IsValid():
		return fmt.Sprintf("any:%d", port)
	case port == 0:
		return a.String()
	}
	return netip.AddrPortFrom(a, port).String()
}

// ParseHold reads what Hold.String writes.
func ParseHold(line string) (Hold, error) {
	f := &fields{words: strings.Fields(line)}
	h := Hold{Where: HoldPlace(f.next())}
	if f.err == nil && h.Where != BeforeSNAT && h.Where != BeforeConfirm {
		f.fail("%q: want %s or %s", h.Where, BeforeSNAT, BeforeConfirm)
	}
	if f.peek() == "any" {
		f.next()
	} else if h.Proto = f.protocol(); f.err == nil && h.Proto == 0 {
		f.fail("protocol 0 is written \"any\"")
	}
	h.Src, h.SrcPort = f.holdEnd()
	f.expect(">")
	h.Dst, h.DstPort = f.holdEnd()
	h.New = f.take("new")
	return h, f.done(line)
}

func (f *fields) holdEnd() (netip.Addr, uint16) {
	port, any := strings.CutPrefix(f.peek(), "any")
	switch {
	case !any:
		return f.endpoint()
	case port == "":
		f.next()
		return netip.Addr{}, 0
	case port[0] != ':':
		f.fail("%q: want any, or any:PORT", f.next())
		return netip.Addr{}, 0
	}
	f.words[0] = port[1:]
	return netip.Addr{}, uint16(f.uint(16))
}
