//go:build linux

package kernel

import (
	"fmt"
	"net/netip"

	"ctlab/checks/conntrack"
)

// nfgenmsgLen is the length of struct nfgenmsg, which begins the body of every message.
const nfgenmsgLen = 4

// decodeEntry reads the body of an entry message: nfgenmsg, then the attributes that
// ctnetlink_fill_info (nf_conntrack_netlink.c, 6.18) or ctnetlink_conntrack_event wrote.
func decodeEntry(body []byte) (conntrack.Entry, error) {
	var e conntrack.Entry
	if len(body) < nfgenmsgLen {
		return e, fmt.Errorf("decode entry: %w", errShort)
	}
	a := attrs{rest: body[nfgenmsgLen:]}
	for a.next() {
		decodeAttr(&e, &a)
	}
	if a.err != nil {
		return e, fmt.Errorf("decode entry: %w", a.err)
	}
	for _, t := range []conntrack.Tuple{e.Orig, e.Reply} {
		if !t.Src.IsValid() || !t.Dst.IsValid() {
			return e, fmt.Errorf("decode entry: a tuple, or an address of one, is missing")
		}
	}
	if e.Orig.Proto != e.Reply.Proto {
		return e, fmt.Errorf("decode entry: protocol %d in one tuple, %d in the other", e.Orig.Proto, e.Reply.Proto)
	}
	return e, nil
}

// decodeAttr reads one top-level attribute. It is a flat list on purpose.
func decodeAttr(e *conntrack.Entry, a *attrs) {
	switch a.typ {
	case ctaTupleOrig:
		var zone bool
		e.Orig, e.OrigZone, zone = decodeTuple(a)
		e.Known |= known(zone, conntrack.HasOrigZone)
	case ctaTupleReply:
		var zone bool
		e.Reply, e.ReplyZone, zone = decodeTuple(a)
		e.Known |= known(zone, conntrack.HasReplyZone)
	case ctaTupleMaster:
		e.Master, _, _ = decodeTuple(a)
		e.Known |= conntrack.HasMaster
	case ctaStatus:
		e.Status = conntrack.Status(a.u32())
	case ctaTimeout:
		e.Timeout = a.u32()
		e.Known |= conntrack.HasTimeout
	case ctaMark:
		e.Mark = a.u32()
		e.Known |= conntrack.HasMark
	case ctaUse:
		e.Use = a.u32()
		e.Known |= conntrack.HasUse
	case ctaID:
		e.ID = a.u32()
		e.Known |= conntrack.HasID
	case ctaZone:
		e.Zone = a.u16()
		e.Known |= conntrack.HasZone
	case ctaCountersOrig:
		e.OrigCount = decodeCounters(a)
		e.Known |= conntrack.HasCounters
	case ctaCountersReply:
		e.ReplyCount = decodeCounters(a)
		e.Known |= conntrack.HasCounters
	case ctaTimestamp:
		decodeTimestamp(e, a)
	case ctaTimestampEvent:
		e.EventTime = a.u64()
		e.Known |= conntrack.HasEventTime
	case ctaProtoinfo:
		decodeProtoinfo(e, a)
	case ctaHelp:
		e.Helper = decodeName(a, ctaHelpName)
		e.Known |= conntrack.HasHelper
	case ctaSecctx:
		e.Secctx = decodeName(a, ctaSecctxName)
		e.Known |= conntrack.HasSecctx
	case ctaLabels:
		e.Labels = string(a.val)
		e.Known |= conntrack.HasLabels
	default:
		e.Unknown = append(e.Unknown, conntrack.Attr{Type: a.typ, Value: string(a.val)})
	}
}

func known(there bool, f conntrack.Fields) conntrack.Fields {
	if there {
		return f
	}
	return 0
}

func decodeTuple(a *attrs) (t conntrack.Tuple, zone uint16, hasZone bool) {
	a.nested(func(a *attrs) {
		switch a.typ {
		case ctaTupleIP:
			a.nested(func(a *attrs) { decodeAddrs(&t, a) })
		case ctaTupleProto:
			a.nested(func(a *attrs) { decodeProto(&t, a) })
		case ctaTupleZone:
			zone, hasZone = a.u16(), true
		}
	})
	return t, zone, hasZone
}

func decodeAddrs(t *conntrack.Tuple, a *attrs) {
	switch a.typ {
	case ctaIPv4Src:
		t.Src = a.ip4()
	case ctaIPv4Dst:
		t.Dst = a.ip4()
	case ctaIPv6Src:
		t.Src = a.ip6()
	case ctaIPv6Dst:
		t.Dst = a.ip6()
	}
}

func decodeProto(t *conntrack.Tuple, a *attrs) {
	switch a.typ {
	case ctaProtoNum:
		t.Proto = a.u8()
	case ctaProtoSrcPort, ctaICMPID, ctaICMPv6ID:
		t.SrcPort = a.u16()
	case ctaProtoDstPort:
		t.DstPort = a.u16()
	case ctaICMPType, ctaICMPv6Type:
		t.ICMPType = a.u8()
	case ctaICMPCode, ctaICMPv6Code:
		t.ICMPCode = a.u8()
	}
}

func decodeCounters(a *attrs) (c conntrack.Counters) {
	a.nested(func(a *attrs) {
		switch a.typ {
		case ctaCountersPackets:
			c.Packets = a.u64()
		case ctaCountersBytes:
			c.Bytes = a.u64()
		}
	})
	return c
}

func decodeTimestamp(e *conntrack.Entry, a *attrs) {
	a.nested(func(a *attrs) {
		switch a.typ {
		case ctaTimestampStart:
			e.Start = a.u64()
			e.Known |= conntrack.HasTimestamp
		case ctaTimestampStop:
			e.Stop = a.u64()
			e.Known |= conntrack.HasStop
		}
	})
}

func decodeProtoinfo(e *conntrack.Entry, a *attrs) {
	a.nested(func(a *attrs) {
		if a.typ != ctaProtoinfoTCP {
			e.Unknown = append(e.Unknown, conntrack.Attr{Type: ctaProtoinfo, Value: string(a.val)})
			return
		}
		e.Known |= conntrack.HasTCP
		a.nested(func(a *attrs) { decodeTCP(&e.TCP, a) })
	})
}

func decodeTCP(t *conntrack.TCPInfo, a *attrs) {
	switch a.typ {
	case ctaTCPState:
		t.State = conntrack.TCPState(a.u8())
	case ctaTCPWScaleO:
		t.WScaleOrig = a.u8()
	case ctaTCPWScaleR:
		t.WScaleReply = a.u8()
	case ctaTCPFlagsO:
		t.FlagsOrig = a.fixed(2)[0] // struct nf_ct_tcp_flags: flags, mask
	case ctaTCPFlagsR:
		t.FlagsReply = a.fixed(2)[0]
	}
}

func decodeName(a *attrs, typ uint16) (name string) {
	a.nested(func(a *attrs) {
		if a.typ == typ {
			name = a.text()
		}
	})
	return name
}

// encodeTuple writes a tuple as attribute typ.
func encodeKey(m *message, k conntrack.Key) {
	encodeTuple(m, ctaTupleOrig, k.Tuple)
	if k.Zone != 0 {
		m.u16(ctaZone, k.Zone)
	}
}

func encodeTuple(m *message, typ uint16, t conntrack.Tuple) {
	m.nest(typ, func() {
		m.nest(ctaTupleIP, func() {
			m.addr(ctaIPv4Src, ctaIPv6Src, t.Src)
			m.addr(ctaIPv4Dst, ctaIPv6Dst, t.Dst)
		})
		m.nest(ctaTupleProto, func() { encodeProto(m, t) })
	})
}

func encodeProto(m *message, t conntrack.Tuple) {
	m.attr(ctaProtoNum, t.Proto)
	switch t.Proto {
	case conntrack.ICMP:
		m.u16(ctaICMPID, t.SrcPort)
		m.attr(ctaICMPType, t.ICMPType)
		m.attr(ctaICMPCode, t.ICMPCode)
	case conntrack.ICMPv6:
		m.u16(ctaICMPv6ID, t.SrcPort)
		m.attr(ctaICMPv6Type, t.ICMPType)
		m.attr(ctaICMPv6Code, t.ICMPCode)
	default:
		m.u16(ctaProtoSrcPort, t.SrcPort)
		m.u16(ctaProtoDstPort, t.DstPort)
	}
}

// encodeNAT writes the NAT target of a new entry: one address and, if it is not 0, one port.
func encodeNAT(m *message, typ uint16, to netip.Addr, port uint16) {
	minIP, maxIP := uint16(ctaNATv4MinIP), uint16(ctaNATv4MaxIP)
	if !to.Is4() {
		minIP, maxIP = ctaNATv6MinIP, ctaNATv6MaxIP
	}
	m.nest(typ, func() {
		m.attr(minIP, to.AsSlice()...)
		m.attr(maxIP, to.AsSlice()...)
		if port == 0 {
			return
		}
		m.nest(ctaNATProto, func() {
			m.u16(ctaProtoNATPortMin, port)
			m.u16(ctaProtoNATPortMax, port)
		})
	})
}
