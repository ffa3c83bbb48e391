package model

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"ctlab/checks/conntrack"
)

// fragment is a line of a fragment from 10.0.1.2 to 10.96.0.10: the first one with ports.
func fragment(ports bool, from, data int, more, df bool, rest string) string {
	line := fmt.Sprintf("udp 10.0.1.2:0 > 10.96.0.10:0 len %d ttl 64 ip-id 7", 20+data)
	if ports {
		line = fmt.Sprintf("udp 10.0.1.2:1001 > 10.96.0.10:53 len %d ttl 64 ip-id 7", 20+data)
	}
	if df {
		line += " df"
	}
	line += fmt.Sprintf(" frag %d", from)
	if more {
		line += "+"
	}
	return line + rest
}

// Each of these was played on 6.18.44 with the same fragments; what is wanted is what was seen there.
func TestFragments(t *testing.T) {
	first, second, last := fragment(true, 0, 1480, true, false, ""), fragment(false, 1480, 1480, true, false, ""), fragment(false, 2960, 1048, false, false, "")
	out := []string{
		"b udp 10.0.1.2:1001 > 10.0.2.2:53 len 1500 ttl 63 ip-id 7 frag 0+",
		"b udp 10.0.1.2:0 > 10.0.2.2:0 len 1500 ttl 63 ip-id 7 frag 1480+",
		"b udp 10.0.1.2:0 > 10.0.2.2:0 len 1068 ttl 63 ip-id 7 frag 2960"}
	cut := func(about, in string) pass { return pass{about, "a", in, "", nil, "", 0, ""} }
	bad := func(about, in string) pass { return pass{about, "a", in, "", nil, "ip_frag_queue", 0, ""} }
	for _, c := range []struct {
		protocolCase
		mtu int // of b
	}{
		{protocolCase{name: "in order", rules: serviceNAT, passes: []pass{
			cut("first", first), cut("second", second), {"last", "a", last, "new", out, "", 0, ""},
			{"answer", "b", "udp 10.0.2.2:53 > 10.0.1.2:1001 len 100 ttl 64 ip-id 7", "established-reply",
				[]string{"a udp 10.96.0.10:53 > 10.0.1.2:1001 len 100 ttl 63 ip-id 7"}, "", 0, ""},
		}, entries: []string{"udp 10.0.1.2:1001 > 10.96.0.10:53 | 10.0.2.2:53 > 10.0.1.2:1001 seen-reply,confirmed,dnat,snat-done,dnat-done 30s 1/1"}}, 0},
		{protocolCase{name: "the last comes first; one comes twice", rules: serviceNAT, passes: []pass{
			cut("last", last), cut("first", first), bad("first again", first), {"second", "a", second, "new", out, "", 0, ""},
		}}, 0},
		{protocolCase{name: "small ones leave as they came, without DF", rules: serviceNAT, passes: []pass{
			cut("first", fragment(true, 0, 600, true, true, "")), {"last", "a", fragment(false, 600, 228, false, true, ""), "new", []string{
				"b udp 10.0.1.2:1001 > 10.0.2.2:53 len 620 ttl 63 ip-id 7 frag 0+", "b udp 10.0.1.2:0 > 10.0.2.2:0 len 248 ttl 63 ip-id 7 frag 600"}, "", 0, ""},
		}}, 1400},
		{protocolCase{name: "an overlap ends all that is there", rules: serviceNAT, passes: []pass{
			cut("first", fragment(true, 0, 104, true, false, "")), bad("overlaps", fragment(false, 96, 104, true, false, "")),
			cut("second", fragment(false, 104, 104, true, false, "")), cut("last", fragment(false, 208, 100, false, false, "")),
		}, entries: []string{}}, 0},
		{protocolCase{name: "data behind the end", rules: serviceNAT, passes: []pass{
			cut("last", fragment(false, 104, 100, false, false, "")), bad("behind", fragment(false, 208, 104, true, false, "")),
			cut("first", fragment(true, 0, 104, true, false, "")),
		}, entries: []string{}}, 0},
		{protocolCase{name: "parts longer than the link takes are cut anew", rules: serviceNAT, passes: []pass{
			cut("first", fragment(true, 0, 1480, true, false, "")), {"last", "a", fragment(false, 1480, 528, false, false, ""), "new", []string{
				"b udp 10.0.1.2:1001 > 10.0.2.2:53 len 1396 ttl 63 ip-id 7 frag 0+", "b udp 10.0.1.2:0 > 10.0.2.2:0 len 652 ttl 63 ip-id 7 frag 1376"}, "", 0, ""},
			{"a whole packet", "a", "udp 10.0.1.2:1001 > 10.96.0.10:53 len 1500 ttl 64 ip-id 7", "new", []string{
				"b udp 10.0.1.2:1001 > 10.0.2.2:53 len 1396 ttl 63 ip-id 7 frag 0+", "b udp 10.0.1.2:0 > 10.0.2.2:0 len 124 ttl 63 ip-id 7 frag 1376"}, "", 0, ""},
		}}, 1400},
		{protocolCase{name: "also if a shorter part has DF", rules: serviceNAT, passes: []pass{
			cut("first", fragment(true, 0, 1480, true, false, "")), {"last", "a", fragment(false, 1480, 528, false, true, ""), "new", []string{
				"b udp 10.0.1.2:1001 > 10.0.2.2:53 len 1396 ttl 63 ip-id 7 frag 0+", "b udp 10.0.1.2:0 > 10.0.2.2:0 len 652 ttl 63 ip-id 7 frag 1376"}, "", 0, ""},
		}}, 1400},
		{protocolCase{name: "a part that is no multiple of 8 bytes is cut short", rules: serviceNAT, passes: []pass{
			cut("first", fragment(true, 0, 109, true, false, "")), {"last", "a", fragment(false, 104, 100, false, false, ""), "new", []string{
				"b udp 10.0.1.2:1001 > 10.0.2.2:53 len 124 ttl 63 ip-id 7 frag 0+", "b udp 10.0.1.2:0 > 10.0.2.2:0 len 120 ttl 63 ip-id 7 frag 104"}, "", 0, ""},
		}}, 0},
		{protocolCase{name: "or, with DF, their sender is told, by the service as it seems", rules: serviceNAT, passes: []pass{
			cut("first", fragment(true, 0, 1480, true, true, "")), {"last", "a", fragment(false, 1480, 528, false, true, ""), "new", []string{
				"own a icmp 10.96.0.10 > 10.0.1.2 type 3 code 4 id 0 len 576 ttl 64 ip-id 0 mtu 1400 about udp 10.0.1.2:1001 > 10.96.0.10:53 len 2028 ttl 64 ip-id 7 df"}, "ip_forward", 0, ""},
			{"a whole packet", "a", "udp 10.0.1.2:1001 > 10.96.0.10:53 len 1500 ttl 64 ip-id 7 df", "new", []string{
				"own a icmp 10.96.0.10 > 10.0.1.2 type 3 code 4 id 0 len 576 ttl 64 ip-id 0 mtu 1400 about udp 10.0.1.2:1001 > 10.96.0.10:53 len 1500 ttl 64 ip-id 7 df"}, "ip_forward", 0, ""},
		}, entries: []string{}}, 1400},
		{protocolCase{name: "a bad checksum is one of the whole", rules: serviceNAT, stats: "error=1 invalid=1", passes: []pass{
			cut("first", fragment(true, 0, 104, true, false, " bad checksum")), {"last", "a", fragment(false, 104, 100, false, false, ""), "invalid", []string{
				"own a icmp 10.0.1.1 > 10.0.1.2 type 3 code 0 id 0 len 252 ttl 64 ip-id 0 about udp 10.0.1.2:1001 > 10.96.0.10:53 len 224 ttl 64 ip-id 7"}, "ip_error", 0, ""},
		}, entries: []string{}}, 0},
		{protocolCase{name: "echo to the node is answered in fragments", rules: tracked, passes: []pass{
			cut("first", "icmp 10.0.1.2 > 10.0.1.1 type 8 code 0 id 9 len 1220 ttl 64 ip-id 1 frag 0+"),
			{"last", "a", "icmp 10.0.1.2 > 10.0.1.1 type 0 code 0 id 0 len 828 ttl 64 ip-id 1 frag 1200", "new", []string{
				"own a icmp 10.0.1.1 > 10.0.1.2 type 0 code 0 id 9 len 1500 ttl 64 ip-id 0 frag 0+", "own a icmp 10.0.1.1 > 10.0.1.2 type 0 code 0 id 0 len 548 ttl 64 ip-id 0 frag 1480"}, "", 0, ""},
		}}, 0},
		{protocolCase{name: "the time runs out between", rules: serviceNAT, passes: []pass{
			cut("first", first), cut("second", second), {"last", "a", last, "", nil, "", 35, ""},
		}, entries: []string{}}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.onNode = func(n *Namespace) { n.SetMTU("b", c.mtu) }
			c.run(t)
		})
	}
}

// An IPv6 packet that is too long for a link is never fragmented on its way.
func TestTooBig6(t *testing.T) {
	c := protocolCase{rules6: serviceNAT6, onNode: func(n *Namespace) { n.SetMTU("b", 1400) }, passes: []pass{
		{"too long", "a", "udp [fd00:1::2]:1000 > [fd00:96::10]:53 len 1500 ttl 64 ip-id 0", "new",
			[]string{"own a icmpv6 fd00:96::10 > fd00:1::2 type 2 code 0 id 0 len 1280 ttl 64 ip-id 0 mtu 1400 about udp [fd00:1::2]:1000 > [fd00:96::10]:53 len 1500 ttl 64 ip-id 0"}, "ip6_forward", 0, ""},
	}, entries: []string{}}
	c.run(t)
}

// Of a packet for the node itself whose rest never comes the sender is told, of others not; a fragment that begins no
// packet has nobody to tell.
func TestFragmentsExpire(t *testing.T) {
	nobody := func(*conntrack.Packet) bool { return false }
	for _, c := range []struct {
		in   string
		want []string
	}{
		{"udp 10.0.1.2:1010 > 10.0.1.1:53 len 620 ttl 64 ip-id 26 frag 0+",
			[]string{"icmp 10.0.1.1 > 10.0.1.2 type 11 code 1 id 0 len 576 ttl 64 ip-id 0 about udp 10.0.1.2:1010 > 10.0.1.1:53 len 620 ttl 64 ip-id 26 frag 0+"}},
		{"udp 10.0.1.2:1010 > 127.0.0.1:53 len 620 ttl 64 ip-id 26 frag 0+", nil},
		{"udp 10.0.1.2:1010 > 10.96.0.10:53 len 620 ttl 64 ip-id 26 frag 0+", nil},
		{"udp 10.0.1.2:0 > 10.0.1.1:0 len 620 ttl 64 ip-id 26 frag 600+", nil},
	} {
		n := dualNode(t, &protocolCase{rules: serviceNAT, sysctls: []string{"net.ipv4.ipfrag_time=2"}})
		p, err := conntrack.ParsePacket(c.in)
		if err != nil {
			t.Fatal(err)
		}
		n.Packet(conntrack.At(100), "a", p)
		if l := n.Elapse(conntrack.At(600), nobody); len(l) != 0 || len(n.frags) != 1 {
			t.Errorf("%s: %v before its time", c.in, l)
		}
		asked := 0
		yes := n.Clone(func(Choice) int { asked++; return 0 })
		if l := yes.Elapse(conntrack.At(610), func(*conntrack.Packet) bool { return true }); len(l) != len(c.want) || asked != 1 && p.Offset == 0 {
			t.Errorf("%s: it may be time: %v, asked %d times", c.in, l, asked)
		}
		var got []string
		for _, l := range n.Elapse(conntrack.At(665), nobody) {
			got = append(got, l.Packet.Line())
		}
		if !slices.Equal(got, c.want) || len(n.frags) != 0 {
			t.Errorf("%s: %q, want %q", c.in, got, c.want)
		}
	}
}

// Where the timer may or may not have run, both ways are allowed.
func TestFragmentsAtTheirTime(t *testing.T) {
	for answer, want := range []int{0, 2} {
		asked := 0
		n := dualNode(t, &protocolCase{rules: serviceNAT, sysctls: []string{"net.ipv4.ipfrag_time=1"}})
		n.cfg.Chooser = func(Choice) int { asked++; return answer }
		for at, line := range []string{fragment(true, 0, 104, true, false, ""), fragment(false, 104, 100, false, false, "")} {
			p, err := conntrack.ParsePacket(line)
			if err != nil {
				t.Fatal(err)
			}
			if o := n.Packet(conntrack.At(conntrack.Tick(at*254)), "a", p); at == 1 && len(o.Left) != want {
				t.Errorf("answer %d: %d leave", answer, len(o.Left))
			}
		}
		if asked != 1 {
			t.Errorf("asked %d times", asked)
		}
	}
}

// ipfrag_max_dist: more than 64 fragments of others in between, and the queue begins anew.
func TestFragmentsTooFar(t *testing.T) {
	for between, want := range map[int]int{63: 2, 64: 0} {
		n := dualNode(t, &protocolCase{rules: serviceNAT})
		pass := func(line string, id uint16) int {
			p, err := conntrack.ParsePacket(line)
			if err != nil {
				t.Fatal(err)
			}
			p.ID = id
			return len(n.Packet(conntrack.At(1), "a", p).Left)
		}
		pass(fragment(true, 0, 104, true, false, ""), 7)
		for i := range between {
			pass(fragment(true, 0, 104, true, false, ""), uint16(100+i))
		}
		if got := pass(fragment(false, 104, 100, false, false, ""), 7); got != want {
			t.Errorf("%d others: %d leave, want %d", between, got, want)
		}
	}
}

func TestSplit(t *testing.T) {
	for _, c := range []struct {
		length, mtu int
		want        []int
	}{{1480, 1400, []int{1376, 104}}, {1380, 1400, []int{1380}}, {1381, 1400, []int{1376, 5}}, {2756, 1400, []int{1376, 1380}}, {2757, 1400, []int{1376, 1376, 5}}} {
		if got := split(c.length, (c.mtu-20)&^7, c.mtu-20); !slices.Equal(got, c.want) {
			t.Errorf("%d over %d: %v, want %v", c.length, c.mtu, got, c.want)
		}
	}
	if a := netip.MustParseAddr("10.0.0.1"); headerOf(&conntrack.Packet{Src: a}) != 20 {
		t.Error("an IPv4 header has 20 bytes")
	}
}
