package fuzz

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"ctlab/checks/conntrack"
)

// toIPv6 turns a scenario into its twin of IPv6: every address has one that stands for it, the rules are those of
// ip6tables, ICMP's types those of ICMPv6.
func (s *Scenario) toIPv6() {
	s.Six = true
	for i := range s.Wires {
		w := &s.Wires[i]
		for k, p := range w.Node {
			w.Node[k] = netip.PrefixFrom(twin(p.Addr()), 64)
		}
		for k, a := range w.Hosts {
			w.Hosts[k] = twin(a)
		}
		for k, a := range w.Silent {
			w.Silent[k] = twin(a)
		}
	}
	s.Sysctls = append(s.Sysctls, "net.ipv6.conf.all.forwarding 1", "net.ipv6.icmp.ratelimit 1000", "net.ipv6.conf.default.hop_limit 64",
		"net.netfilter.nf_conntrack_icmpv6_timeout 2")
	s.Rules = rulesTwin(s.Rules)
	s.Ops = slices.DeleteFunc(s.Ops, func(op Op) bool { return op.Piece[1] > 0 }) // fragments of IPv6 are not modelled
	for i := range s.Ops {
		op := &s.Ops[i]
		op.Packet = packetTwin(op.Packet, op.Kind)
		if op.Kind == Packet && op.Packet.Bad != "short" {
			op.Packet.Len = lengthOf(i) // in IPv6 packets have no identification: their lengths tell them apart
		}
		op.Hold.Src, op.Hold.Dst = twin(op.Hold.Src), twin(op.Hold.Dst)
		if op.Kind == Hold && op.Hold.Proto == conntrack.ICMP {
			op.Hold.Proto = conntrack.ICMPv6
		}
		if op.Kind == Rules {
			op.Text = rulesTwin(op.Text)
		}
	}
}

// lengthOf is the length of the packet of an operation, in bytes.
func lengthOf(op int) int { return 60 + op%1400 }

// twin is the IPv6 address that stands for an IPv4 address: 10.A.B.C is fd00:A:B::C.
func twin(a netip.Addr) netip.Addr {
	if !a.Is4() {
		return a
	}
	b := a.As4()
	if a.IsLoopback() {
		return netip.IPv6Loopback()
	}
	return netip.AddrFrom16([16]byte{0: 0xfd, 3: b[1], 5: b[2], 15: b[3]})
}

func packetTwin(p conntrack.Packet, kind Kind) conntrack.Packet {
	p.Src, p.Dst = twin(p.Src), twin(p.Dst)
	if p.Bad == "short" || p.Len > 0 {
		p.Len += 20 // the header is that much longer
	}
	if kind == Packet {
		p.ID = 0
	}
	if p.Proto != conntrack.ICMP {
		return p
	}
	p.Proto = conntrack.ICMPv6
	to := map[[2]uint8][2]uint8{{8, 0}: {128, 0}, {0, 0}: {129, 0}, {13, 0}: {128, 0}, {14, 0}: {129, 0}, {15, 0}: {139, 0}, {17, 0}: {140, 0}, {42, 0}: {200, 0},
		{3, 1}: {1, 3}, {3, 3}: {1, 4}, {3, 4}: {2, 0}, {11, 0}: {3, 0}}[[2]uint8{p.ICMPType, p.ICMPCode}]
	p.ICMPType, p.ICMPCode = to[0], to[1]
	return p
}

// rulesTwin turns rules into those of ip6tables that say the same.
func rulesTwin(text string) string {
	text = addressInRules.ReplaceAllStringFunc(text, func(m string) string {
		parts := addressInRules.FindStringSubmatch(m)
		from, to, ports, prefix := parts[1], parts[3], parts[4], parts[6]
		out := twin(netip.MustParseAddr(from)).String()
		if to != "" {
			out += "-" + twin(netip.MustParseAddr(to)).String()
		}
		if ports != "" {
			out = "[" + out + "]" + ports
		}
		if prefix != "" {
			out += "/128"
		}
		return out
	})
	return strings.NewReplacer("icmp-port-unreachable", "icmp6-port-unreachable", "icmp-host-prohibited", "icmp6-adm-prohibited").Replace(text)
}

// addressInRules finds an address, or a range, with ports or a prefix behind it.
var addressInRules = regexp.MustCompile(`(\d+\.\d+\.\d+\.\d+)(-(\d+\.\d+\.\d+\.\d+))?(:\d+(-\d+)?)?(/32)?`)
