package model

import (
	"net/netip"
	"slices"
	"testing"

	"ctlab/checks/conntrack"
)

// node is a namespace with two devices and all neighbours known.
func node(t *testing.T, rules string) *Namespace {
	t.Helper()
	n := New(Config{HZ: 250, Profile: profiles()[len(profiles())-1]})
	n.Set("net.ipv4.ip_forward", "1")
	for _, d := range []struct{ dev, addr, peer string }{{"a", "10.0.1.1/32", "10.0.1.2"}, {"b", "10.0.2.101/32", "10.0.2.1"}} {
		n.SetLink(d.dev, true)
		n.AddAddress(d.dev, netip.MustParsePrefix(d.addr))
		peer := netip.MustParseAddr(d.peer)
		n.AddRoute(Route{To: netip.PrefixFrom(peer, 32), Dev: d.dev})
		n.Resolved(d.dev, peer)
	}
	if err := n.Load(rules, false); err != nil {
		t.Fatal(err)
	}
	return n
}

func packet(t *testing.T, tuple string) conntrack.Packet {
	t.Helper()
	tp, err := conntrack.ParseTuple("udp " + tuple)
	if err != nil {
		t.Fatal(err)
	}
	return conntrack.Packet{Proto: conntrack.UDP, Src: tp.Src, Dst: tp.Dst, SrcPort: tp.SrcPort, DstPort: tp.DstPort, Len: 60, TTL: 64}
}

const tracked = "*filter\n:a -\n-A a -m conntrack --ctstate INVALID\nCOMMIT\n"

func TestWhoTakesADatagram(t *testing.T) {
	ap := netip.MustParseAddrPort
	for _, c := range []struct {
		name   string
		socket Socket
		taken  bool
	}{
		{"bound to the address", Socket{Local: ap("10.0.1.1:53")}, true},
		{"bound to any address", Socket{Local: ap("0.0.0.0:53")}, true},
		{"bound to another address", Socket{Local: ap("10.0.2.101:53")}, false},
		{"bound to another port", Socket{Local: ap("10.0.1.1:54")}, false},
		{"connected to the sender", Socket{Local: ap("10.0.1.1:53"), Remote: ap("10.0.1.2:4000")}, true},
		{"connected to somebody else", Socket{Local: ap("10.0.1.1:53"), Remote: ap("10.0.1.2:4001")}, false},
	} {
		n := node(t, tracked)
		n.Bind(c.socket)
		o := n.Packet(conntrack.At(1), "a", packet(t, "10.0.1.2:4000 > 10.0.1.1:53"))
		if answered := len(o.Left) == 1; answered == c.taken || !o.Local || o.Delivered == nil {
			t.Errorf("%s: %d packets leave, delivered %v", c.name, len(o.Left), o.Delivered)
		}
		n.Unbind(c.socket)
		if o := n.Packet(conntrack.At(2), "a", packet(t, "10.0.1.2:4000 > 10.0.1.1:53")); len(o.Left) != 1 {
			t.Errorf("%s: closed, %d packets leave", c.name, len(o.Left))
		}
	}
}

func TestSend(t *testing.T) {
	for _, c := range []struct {
		name, rules, tuple string
		dropped            string
		left, delivered    bool
	}{
		{"leaves", tracked, "0.0.0.0:4000 > 10.0.2.1:53", "", true, false},
		{"no route", tracked, "0.0.0.0:4000 > 10.9.9.9:53", "ip_route_output_flow: network is unreachable: no route to 10.9.9.9", false, false},
		{"dropped", "*filter\n:OUTPUT DROP\nCOMMIT\n", "0.0.0.0:4000 > 10.0.2.1:53", "filter OUTPUT: the policy drops it", false, false},
		{"rejected", "*filter\n-A OUTPUT -p udp -j REJECT\nCOMMIT\n", "0.0.0.0:4000 > 10.0.2.1:53", "filter OUTPUT: rule filter \"-p udp -j REJECT\" rejects it", false, true},
		{"no route behind DNAT", "*nat\n-A OUTPUT -j DNAT --to-destination 10.9.9.9\nCOMMIT\n", "0.0.0.0:4000 > 10.0.2.1:53", "ip_route_me_harder: network is unreachable: no route to 10.9.9.9", false, false},
		{"to itself", tracked, "0.0.0.0:4000 > 10.0.2.101:53", "", false, true},
	} {
		n := node(t, c.rules)
		o := n.Send(conntrack.At(1), packet(t, c.tuple))
		if o.Dropped != c.dropped || len(o.Left) == 1 != c.left || (o.Delivered != nil) != c.delivered {
			t.Errorf("%s: dropped %q, %d leave, delivered %v", c.name, o.Dropped, len(o.Left), o.Delivered)
		}
		if c.delivered && (!o.Delivered.IsError() || len(n.Heard()) != 1) {
			t.Errorf("%s: no error is heard: %v", c.name, o.Delivered)
		}
		if c.left && (o.Left[0].Packet.Src != netip.MustParseAddr("10.0.2.101") || !o.Left[0].Own) {
			t.Errorf("%s: leaves as %v", c.name, o.Left[0])
		}
	}
}

func TestUnresolved(t *testing.T) {
	n := node(t, tracked)
	n.AddRoute(Route{To: netip.MustParsePrefix("10.0.3.0/24"), Dev: "b"})
	n.Send(conntrack.At(1), packet(t, "0.0.0.0:4000 > 10.0.3.7:53"))
	if u := n.Unresolved(); !slices.Equal(u, []Neighbour{{"b", netip.MustParseAddr("10.0.3.7")}}) {
		t.Errorf("%v", u)
	}
	if l := n.Lost(conntrack.At(2), "b", netip.MustParseAddr("10.0.3.7")); len(l) != 1 || len(l[0].Outcome.Left) != 0 || len(n.Heard()) != 1 || len(n.Unresolved()) != 0 {
		t.Errorf("%v leave", l)
	}
	n.Send(conntrack.At(3), packet(t, "0.0.0.0:4000 > 10.0.3.7:53"))
	n.DelLink(conntrack.At(4), "b")
	if len(n.Unresolved()) != 0 || n.Waiting() != 0 || len(n.Heard()) != 0 {
		t.Error("what waits on a device that goes is dropped without a word")
	}
	if got := n.Routes(); !slices.Equal(got, []string{"10.0.1.2/32 dev a"}) {
		t.Errorf("routes %v", got)
	}
}

// A margin is how far a question was from its boundary, the nearest time that it was asked.
func TestMargins(t *testing.T) {
	n := node(t, tracked)
	n.Packet(conntrack.At(0), "a", packet(t, "10.0.1.2:4000 > 10.0.2.1:53"))
	n.Packet(conntrack.At(1), "b", packet(t, "10.0.2.1:53 > 10.0.1.2:4000"))
	for _, at := range []conntrack.Tick{490, 505, 600} {
		n.Packet(conntrack.At(at), "a", packet(t, "10.0.1.2:4000 > 10.0.2.1:53"))
	}
	m := n.Margins(12)
	if len(m) != 1 || m[0].Off != 4 || m[0].At != conntrack.At(505) {
		t.Errorf("%v", m)
	}
	if m := n.Margins(3); len(m) != 0 {
		t.Errorf("%v", m)
	}
}

// inet_select_addr: the primary address in the next hop's subnet, else the first primary one; a device
// without addresses borrows one, but never one of 127.0.0.0/8.
func TestSelectAddr(t *testing.T) {
	n := New(Config{HZ: 250})
	n.AddAddress("lo", netip.MustParsePrefix("127.0.0.1/8"))
	n.SetLink("bare", true)
	for _, a := range []string{"10.1.0.1/24", "10.1.0.2/24", "10.2.0.1/24", "10.3.0.1/32"} {
		n.AddAddress("b", netip.MustParsePrefix(a))
	}
	for _, c := range []struct{ dev, hop, want string }{
		{"b", "10.1.0.9", "10.1.0.1"}, {"b", "10.2.0.9", "10.2.0.1"}, {"b", "10.9.0.9", "10.1.0.1"}, {"b", "10.3.0.1", "10.3.0.1"}, {"bare", "10.2.0.9", "10.1.0.1"},
	} {
		if a := n.selectAddr(c.dev, netip.MustParseAddr(c.hop)); a.String() != c.want {
			t.Errorf("%s towards %s: %s, want %s", c.dev, c.hop, a, c.want)
		}
	}
	n.DelAddress(conntrack.At(1), "b", netip.MustParsePrefix("10.1.0.1/24"))
	if got := n.Addresses(); !slices.Equal(got, []string{"b 10.2.0.1/24", "b 10.3.0.1/32", "lo 127.0.0.1/8"}) {
		t.Errorf("a secondary address goes with its primary one: %v", got)
	}
	n.Set("net.ipv4.conf.all.promote_secondaries", "1")
	n.AddAddress("b", netip.MustParsePrefix("10.2.0.2/24"))
	n.DelAddress(conntrack.At(1), "b", netip.MustParsePrefix("10.2.0.1/24"))
	if got := n.Addresses(); !slices.Equal(got, []string{"b 10.2.0.2/24", "b 10.3.0.1/32", "lo 127.0.0.1/8"}) {
		t.Errorf("unless it is promoted: %v", got)
	}
}
