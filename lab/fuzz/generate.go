package fuzz

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"time"

	"ctlab/checks/conntrack"
)

// maker makes one scenario.
type maker struct {
	*rand.Rand
	s       *Scenario
	clients []netip.Addr
	servers []netip.Addr
	id      uint16
	pieces  []Op // fragments that are still to come
	loose   bool // nothing may hold tracking on, without which the model does not follow fragments
}

// vip is an address that no wire has; rules lead it somewhere, or it is nowhere.
var vip = netip.MustParseAddr("10.96.0.10")

// Generate makes the scenario with a number from a seed. The same seed and number make the same scenario.
func Generate(seed uint64, number, packets int) *Scenario {
	m := &maker{Rand: rand.New(rand.NewPCG(seed, uint64(number))), s: &Scenario{Seed: seed, Number: number}}
	for k := range 3 {
		m.s.Wires = append(m.s.Wires, m.wire(k))
	}
	m.clients = append(m.clients, m.s.Wires[0].Hosts...)
	m.servers = append(m.servers, append(m.s.Wires[1].Hosts, m.s.Wires[2].Hosts...)...)
	m.s.Holds = m.one(3)
	m.sysctls()
	m.s.Rules = m.rules()
	for m.s.Packets() < packets {
		m.s.Ops = append(m.s.Ops, m.op())
	}
	m.s.Ops = append(m.s.Ops, Op{Kind: Dump})
	if m.one(3) {
		m.s.toIPv6()
	}
	return m.s
}

func (m *maker) wire(k int) Wire {
	addr := func(host byte) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(k), host}) }
	w := Wire{Device: fmt.Sprintf("w%d", k), Node: []netip.Prefix{netip.PrefixFrom(addr(254), 24)}, Hosts: []netip.Addr{addr(1), addr(2)}}
	if m.one(3) {
		w.Node = append(w.Node, netip.PrefixFrom(addr(253), 24))
	} else {
		w.Silent = append(w.Silent, addr(253))
	}
	return w
}

// one is true once in n times.
func (m *maker) one(n int) bool { return m.IntN(n) == 0 }

func pick[T any](m *maker, of ...T) T { return of[m.IntN(len(of))] }

func (m *maker) sysctls() {
	m.s.Sysctls = []string{
		fmt.Sprintf("net.netfilter.nf_conntrack_udp_timeout %d", 1+m.IntN(3)),
		fmt.Sprintf("net.netfilter.nf_conntrack_udp_timeout_stream %d", 2+m.IntN(4)),
		fmt.Sprintf("net.netfilter.nf_conntrack_acct %d", min(1, m.IntN(4))),
		"net.netfilter.nf_conntrack_checksum 1", "net.netfilter.nf_conntrack_generic_timeout 3",
		fmt.Sprintf("net.netfilter.nf_conntrack_icmp_timeout %d", 1+m.IntN(3)),
		"net.ipv4.icmp_msgs_per_sec 1000000", "net.ipv4.icmp_msgs_burst 1000000",
		"net.ipv4.ip_forward 1",
		"net.ipv4.conf.all.rp_filter 0", "net.ipv4.conf.default.rp_filter 0",
		"net.ipv4.conf.all.send_redirects 0", "net.ipv4.conf.default.send_redirects 0",
		fmt.Sprintf("net.ipv4.icmp_ratelimit %d", pick(m, 0, 1000)),
		"net.ipv4.ip_default_ttl 64", "net.ipv4.ipfrag_time 2",
		"net.netfilter.nf_conntrack_gre_timeout 2", "net.netfilter.nf_conntrack_gre_timeout_stream 4",
	}
}

// op makes the next operation.
func (m *maker) op() Op {
	if m.loose {
		m.pieces = nil
	}
	if len(m.pieces) > 0 && !m.one(3) {
		op := m.pieces[0]
		m.pieces = m.pieces[1:]
		return op
	}
	if !m.loose && m.one(25) {
		m.cut()
	}
	if m.s.Holds && m.one(4) {
		return m.holding()
	}
	switch n := m.IntN(100); {
	case n < 48:
		return m.packet()
	case n < 74:
		return Op{Kind: Answer, Wire: m.elsewhere(), Of: m.IntN(1 << 16)}
	case n < 80:
		return m.error()
	case n < 90:
		return Op{Kind: Pause, Pause: m.pause()}
	case n < 92:
		return Op{Kind: Rules, Text: m.rules()}
	case n < 94:
		return Op{Kind: Delete, Of: m.IntN(1 << 16)}
	case n < 95:
		return Op{Kind: Sysctl, Text: pick(m, "net.netfilter.nf_conntrack_udp_timeout 2", "net.netfilter.nf_conntrack_udp_timeout_stream 3",
			"net.netfilter.nf_conntrack_acct 1", "net.netfilter.nf_conntrack_acct 0", "net.netfilter.nf_conntrack_checksum 0", "net.netfilter.nf_conntrack_checksum 1")}
	case n < 96 && m.one(3):
		return Op{Kind: Dump}
	case n < 97 && m.one(3):
		return Op{Kind: Flush}
	}
	return m.packet()
}

// holding is an operation that has to do with packets that wait on their way.
func (m *maker) holding() Op {
	switch m.IntN(12) {
	case 0:
		return Op{Kind: Unhold}
	case 1:
		h := conntrack.Hold{Where: pick(m, conntrack.BeforeSNAT, conntrack.BeforeConfirm), New: !m.one(4)}
		if m.one(2) {
			h.Proto = conntrack.UDP
		}
		if m.one(2) {
			h.Src = pick(m, m.clients...)
		}
		if m.one(3) {
			h.DstPort, h.Proto = 53, conntrack.UDP
		}
		return Op{Kind: Hold, Hold: h}
	}
	return Op{Kind: Release, Of: m.IntN(1 << 16), Accept: !m.one(12)}
}

// pause is long or short: what matters are the moments at which timeouts run out and flows become two seconds old.
func (m *maker) pause() time.Duration {
	switch m.IntN(5) {
	case 0:
		return time.Duration(1+m.IntN(3)) * time.Second
	case 1:
		return time.Duration(900+m.IntN(1300)) * time.Millisecond
	}
	return time.Duration(m.IntN(40)) * time.Millisecond
}

// elsewhere is the wire on which an answer comes: nearly always the one on which the packet came out.
func (m *maker) elsewhere() int {
	if m.one(12) {
		return m.IntN(len(m.s.Wires))
	}
	return -1
}

func (m *maker) port() uint16 {
	if m.one(4) {
		return pick[uint16](m, 53, 400, 900)
	}
	return pick[uint16](m, 40000, 40001, 5300)
}

// host is an address: of a client, of a server, the node's own, the VIP, or of nobody.
func (m *maker) host() netip.Addr {
	switch m.IntN(12) {
	case 0:
		return pick(m, m.s.Wires...).Node[0].Addr()
	case 1, 2, 3, 4:
		return vip
	case 5:
		return pick(m, netip.MustParseAddr("10.99.0.1"), netip.MustParseAddr("127.0.0.1"))
	case 6, 7:
		return pick(m, m.clients...)
	}
	return pick(m, m.servers...)
}

// packet is a new packet from one of the wires.
func (m *maker) packet() Op {
	m.id++
	op := Op{Kind: Packet, Wire: 0}
	p := conntrack.Packet{Proto: conntrack.UDP, ID: m.id, TTL: 64, Src: pick(m, m.clients...), Dst: m.host(), SrcPort: m.port(), DstPort: pick[uint16](m, 53, 53, 53, 5300)}
	if m.one(5) { // a server speaks first
		op.Wire = 1 + m.IntN(2)
		p.Src, p.SrcPort = pick(m, m.s.Wires[op.Wire].Hosts...), pick[uint16](m, 53, 5300)
		p.Dst, p.DstPort = pick(m, pick(m, m.clients...), m.host()), m.port()
	}
	p.Len = 28 + m.IntN(64)
	switch m.IntN(16) {
	case 0, 1:
		m.query(&p)
	case 2: // tracked by its number alone, or nearly
		p.Proto, p.SrcPort, p.DstPort = pick[uint8](m, 89, 143, gre, 2), 0, 0
		if p.Proto == gre && (m.s.own(p.Dst) || p.Dst == vip) {
			p.Proto = 89
		}
	}
	switch m.IntN(40) {
	case 0:
		if p.Proto == conntrack.UDP || p.Proto == conntrack.ICMP {
			p.Bad = "checksum"
		}
	case 1:
		if p.Proto == conntrack.UDP {
			p.Bad = "length"
		}
	case 2:
		if p.Proto == conntrack.UDP || p.Proto == conntrack.ICMP {
			p.Bad = "short"
			p.Len = pick(m, 20, 22, 24, 27)
		}
	case 3:
		p.TTL = 1
	}
	op.Packet = p
	return op
}

// cut makes the fragments of a packet. They may come in any order, twice, overlap, or not at all.
func (m *maker) cut() {
	op := m.packet()
	if op.Packet.Bad != "" {
		return
	}
	op.Packet.Len = 28 + 100 + m.IntN(1500)
	op.Packet.DF = m.one(6)
	size, data := 8*(1+m.IntN(60)), op.Packet.Len-20
	var pieces []Op
	for from := 0; from < data; from += size {
		op.Piece = [2]int{from, min(from+size, data)}
		if m.one(30) {
			op.Piece[0] = max(0, from-8)
		}
		switch m.IntN(30) {
		case 0:
		case 1:
			pieces = append(pieces, op, op)
		default:
			pieces = append(pieces, op)
		}
		if len(pieces) > 8 {
			size = data
		}
	}
	if m.one(2) {
		m.Shuffle(len(pieces), func(i, j int) { pieces[i], pieces[j] = pieces[j], pieces[i] })
	}
	m.pieces = append(m.pieces, pieces...)
}

// query turns a packet into an ICMP query, or an answer to none.
func (m *maker) query(p *conntrack.Packet) {
	p.Proto, p.SrcPort, p.DstPort = conntrack.ICMP, 0, 0
	p.ICMPType = pick[uint8](m, 8, 8, 8, 8, 0, 13, 15, 17, 14, 42)
	p.ICMPID = pick[uint16](m, 7, 8)
	p.Len = max(p.Len, 40)
}

func (m *maker) error() Op {
	p := conntrack.Packet{Proto: conntrack.ICMP, TTL: 64}
	switch m.IntN(5) {
	case 0:
		p.ICMPType, p.ICMPCode = 3, 1
	case 1:
		p.ICMPType = 11
	case 2:
		p.ICMPType, p.ICMPCode, p.MTU = 3, 4, 1280
	default:
		p.ICMPType, p.ICMPCode = 3, 3
	}
	if m.one(20) {
		p.Bad = "checksum"
	}
	return Op{Kind: Error, Wire: m.elsewhere(), Of: m.IntN(1 << 16), Packet: p}
}

// rules are the node's rules, as iptables-save text.
func (m *maker) rules() string {
	var b strings.Builder
	table := func(name string, chains, rules []string) {
		fmt.Fprintf(&b, "*%s\n", name)
		for _, c := range chains {
			fmt.Fprintf(&b, ":%s ACCEPT [0:0]\n", c)
		}
		for _, r := range rules {
			fmt.Fprintf(&b, "-A %s\n", r)
		}
		b.WriteString("COMMIT\n")
	}
	if m.one(4) {
		table("raw", []string{"PREROUTING", "OUTPUT"}, m.some(2, "PREROUTING -i w0 -j CT --zone 1", "PREROUTING -i w1 -j CT --zone-orig 2", "PREROUTING -s 10.0.0.2/32 -j CT --zone-reply 3",
			"PREROUTING -d 10.0.0.1/32 -j CT --zone 1", "PREROUTING -s 10.0.0.2/32 -p udp -j CT --notrack", "PREROUTING -d 10.96.0.10/32 -p udp -j CT --notrack",
			"PREROUTING -i w1 -p udp -m udp --sport 53 -j CT --notrack"))
	}
	if m.one(4) {
		table("mangle", []string{"PREROUTING", "FORWARD", "POSTROUTING"}, m.some(3, "PREROUTING -m connmark --mark 0x5 -j MARK --set-xmark 0x1/0xffffffff",
			"FORWARD -p udp -m udp --dport 53 -j CONNMARK --set-xmark 0x5/0xff", "FORWARD -j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff", "PREROUTING -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff", "PREROUTING -p udp -m udp --sport 40001 -j MARK --set-xmark 0x1/0xffffffff",
			"FORWARD -p udp -m udp --sport 400 -j DROP", "POSTROUTING -o w2 -p udp -m udp --sport 900 -j DROP"))
	}
	if !m.one(8) {
		table("nat", []string{"PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"}, append(m.destination(), m.source()...))
	}
	anchor := []string{"FORWARD -m conntrack --ctstate NEW -m comment --comment \"ctlab anchor\""}
	if m.one(10) && !m.s.Holds { // without tracking the kernel drops what is held
		anchor = nil
	}
	m.loose = anchor == nil
	table("filter", []string{"INPUT", "FORWARD", "OUTPUT"}, append(anchor, m.some(2, "FORWARD -m conntrack --ctstate INVALID -j DROP",
		"FORWARD -s 10.0.0.2/32 -d 10.0.2.2/32 -j DROP", "FORWARD -p udp -m udp --dport 5300 -j REJECT --reject-with icmp-port-unreachable",
		"FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT", "INPUT -p udp -m udp --dport 5300 -j DROP", "FORWARD -i w2 -m conntrack --ctstate NEW -j DROP",
		"FORWARD -m mark --mark 0x1 -j REJECT --reject-with icmp-host-prohibited")...))
	return b.String()
}

// some are at most n of the given rules, in their order.
func (m *maker) some(n int, rules ...string) (out []string) {
	for _, r := range rules {
		if len(out) < n && m.one(len(rules)) {
			out = append(out, r)
		}
	}
	return out
}

// destination are rules of nat PREROUTING.
func (m *maker) destination() []string {
	const to = "PREROUTING -d 10.96.0.10/32 -p udp -m udp --dport 53 "
	kind := m.IntN(8)
	if m.s.Holds && (kind == 1 || kind == 2) {
		kind = 0 // which backend or port it was is not seen before the packet is released, and others depend on it
	}
	switch kind {
	case 0:
		return []string{to + "-m statistic --mode nth --every 2 --packet 0 -j DNAT --to-destination 10.0.1.1:53", to + "-j DNAT --to-destination 10.0.2.1:53"}
	case 1:
		return []string{to + "-m statistic --mode random --probability 0.50000000000 -j DNAT --to-destination 10.0.1.1:53", to + "-j DNAT --to-destination 10.0.2.1:53"}
	case 2:
		return []string{to + "-j DNAT --to-destination 10.0.1.1:5300-5302"}
	case 3:
		return []string{to + "-j DNAT --to-destination 10.0.1.1-10.0.1.2"}
	case 4:
		return []string{"PREROUTING -p udp -m udp --dport 53 -j REDIRECT --to-ports 5300"}
	case 5:
		return nil
	}
	return []string{to + "-j DNAT --to-destination " + pick(m, "10.0.1.1:53", "10.0.1.2:5300", "10.0.2.1", "10.0.2.2:53", "10.0.0.1:53", "10.0.1.254:53")}
}

// source are rules of nat POSTROUTING.
func (m *maker) source() []string {
	dev := pick(m, "-o w1 ", "-o w2 ", "")
	kind := m.IntN(9)
	if m.s.Holds && (kind == 2 || kind == 3) {
		kind = 0 // the same of a few ports
	}
	switch kind {
	case 0:
		return []string{"POSTROUTING " + dev + "-j MASQUERADE"}
	case 1:
		return []string{"POSTROUTING " + dev + "-j MASQUERADE --random-fully"}
	case 2:
		return []string{"POSTROUTING " + dev + "-p udp -j MASQUERADE --to-ports 40000-40002"}
	case 3:
		return []string{"POSTROUTING " + dev + "-p udp -j SNAT --to-source 10.0.1.254:3000-3003"}
	case 4:
		return []string{"POSTROUTING " + dev + "-j SNAT --to-source 10.0.1.253-10.0.1.254"}
	case 5:
		return []string{"POSTROUTING -s 10.0.0.1/32 -j SNAT --to-source 10.0.0.2"}
	}
	return nil
}
