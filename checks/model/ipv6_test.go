package model

import (
	"net/netip"
	"testing"

	"ctlab/checks/conntrack"
)

const serviceNAT6 = "*nat\n:PREROUTING ACCEPT\n:POSTROUTING ACCEPT\n-A PREROUTING -d fd00:96::10/128 -j DNAT --to-destination fd00:2::2\n" +
	"-A PREROUTING -d fd00:96::11/128 -p udp -j REDIRECT --to-ports 99\n-A POSTROUTING -s fd00:1::3/128 -o b -j MASQUERADE\nCOMMIT\n"

const tracked6 = "*filter\n:a -\n-A a -m conntrack --ctstate INVALID\nCOMMIT\n"

// Each of these was played on 6.18.44 with the same packets; what is wanted is what was seen there.
func TestIPv6(t *testing.T) {
	for _, c := range []protocolCase{
		{name: "UDP to a service, its answer, and errors about it", rules6: serviceNAT6, stats: "error=1", passes: []pass{
			{"query", "a", "udp [fd00:1::2]:1000 > [fd00:96::10]:53 len 58 ttl 64 ip-id 0", "new",
				[]string{"b udp [fd00:1::2]:1000 > [fd00:2::2]:53 len 58 ttl 63 ip-id 0"}, "", 0, ""},
			{"answer", "b", "udp [fd00:2::2]:53 > [fd00:1::2]:1000 len 58 ttl 64 ip-id 0", "established-reply",
				[]string{"a udp [fd00:96::10]:53 > [fd00:1::2]:1000 len 58 ttl 63 ip-id 0"}, "", 0, ""},
			{"port unreachable", "b", "icmpv6 fd00:2::2 > fd00:1::2 type 1 code 4 id 0 len 106 ttl 64 ip-id 0 about udp [fd00:1::2]:1000 > [fd00:2::2]:53 len 58 ttl 63 ip-id 0", "related-reply",
				[]string{"a icmpv6 fd00:96::10 > fd00:1::2 type 1 code 4 id 0 len 106 ttl 63 ip-id 0 about udp [fd00:1::2]:1000 > [fd00:96::10]:53 len 58 ttl 63 ip-id 0"}, "", 0, ""},
			{"too big", "b", "icmpv6 fd00:2::2 > fd00:1::2 type 2 code 0 id 0 len 106 ttl 64 ip-id 0 mtu 1280 about udp [fd00:1::2]:1000 > [fd00:2::2]:53 len 58 ttl 63 ip-id 0", "related-reply",
				[]string{"a icmpv6 fd00:96::10 > fd00:1::2 type 2 code 0 id 0 len 106 ttl 63 ip-id 0 mtu 1280 about udp [fd00:1::2]:1000 > [fd00:96::10]:53 len 58 ttl 63 ip-id 0"}, "", 0, ""},
			{"a type that nobody knows", "b", "icmpv6 fd00:2::2 > fd00:1::2 type 100 code 0 id 0 len 106 ttl 64 ip-id 0 about udp [fd00:1::2]:1000 > [fd00:2::2]:53 len 58 ttl 63 ip-id 0", "related-reply",
				[]string{"a icmpv6 fd00:96::10 > fd00:1::2 type 100 code 0 id 0 len 106 ttl 63 ip-id 0 about udp [fd00:1::2]:1000 > [fd00:96::10]:53 len 58 ttl 63 ip-id 0"}, "", 0, ""},
			{"about nothing", "b", "icmpv6 fd00:2::2 > fd00:1::2 type 1 code 0 id 0 len 106 ttl 64 ip-id 0 about udp [fd00:1::2]:1001 > [fd00:2::2]:53 len 58 ttl 63 ip-id 0", "invalid",
				[]string{"a icmpv6 fd00:2::2 > fd00:1::2 type 1 code 0 id 0 len 106 ttl 63 ip-id 0 about udp [fd00:1::2]:1001 > [fd00:2::2]:53 len 58 ttl 63 ip-id 0"}, "", 0, ""},
		}, entries: []string{"udp [fd00:1::2]:1000 > [fd00:96::10]:53 | [fd00:2::2]:53 > [fd00:1::2]:1000 seen-reply,confirmed,dnat,snat-done,dnat-done 29s 1/1"}},
		{name: "echo to a service: the id is searched from 0; node information has an id that NAT does not write", rules6: serviceNAT6, stats: "found=2", passes: []pass{
			{"straight", "a", "icmpv6 fd00:1::2 > fd00:2::2 type 128 code 0 id 99 len 58 ttl 64 ip-id 0", "new",
				[]string{"b icmpv6 fd00:1::2 > fd00:2::2 type 128 code 0 id 99 len 58 ttl 63 ip-id 0"}, "", 0, ""},
			{"to the service", "a", "icmpv6 fd00:1::2 > fd00:96::10 type 128 code 0 id 99 len 58 ttl 64 ip-id 0", "new",
				[]string{"b icmpv6 fd00:1::2 > fd00:2::2 type 128 code 0 id 0 len 58 ttl 63 ip-id 0"}, "", 0, ""},
			{"straight", "a", "icmpv6 fd00:1::2 > fd00:2::2 type 139 code 0 id 98 len 58 ttl 64 ip-id 0", "new",
				[]string{"b icmpv6 fd00:1::2 > fd00:2::2 type 139 code 0 id 98 len 58 ttl 63 ip-id 0"}, "", 0, ""},
			{"to the service", "a", "icmpv6 fd00:1::2 > fd00:96::10 type 139 code 0 id 98 len 58 ttl 64 ip-id 0", "new",
				[]string{"b icmpv6 fd00:1::2 > fd00:2::2 type 139 code 0 id 98 len 58 ttl 63 ip-id 0"}, "", 0, ""},
		}, entries: []string{
			"icmpv6 fd00:1::2 > fd00:2::2 type 128 code 0 id 99 | fd00:2::2 > fd00:1::2 type 129 code 0 id 99 confirmed,snat-done,dnat-done 29s 1/0",
			"icmpv6 fd00:1::2 > fd00:96::10 type 128 code 0 id 99 | fd00:2::2 > fd00:1::2 type 129 code 0 id 0 confirmed,dnat,snat-done,dnat-done 29s 1/0",
			"icmpv6 fd00:1::2 > fd00:2::2 type 139 code 0 id 98 | fd00:2::2 > fd00:1::2 type 140 code 0 id 98 confirmed,snat-done,dnat-done 29s 1/0",
			"icmpv6 fd00:1::2 > fd00:96::10 type 139 code 0 id 98 | fd00:2::2 > fd00:1::2 type 140 code 0 id 0 confirmed,dnat,snat-done,dnat-done 30s 1/0"}},
		{name: "MASQUERADE and REDIRECT", rules6: serviceNAT6, passes: []pass{
			{"masqueraded", "a", "udp [fd00:1::3]:1000 > [fd00:2::2]:53 len 58 ttl 64 ip-id 0", "new",
				[]string{"b udp [fd00:2::1]:1000 > [fd00:2::2]:53 len 58 ttl 63 ip-id 0"}, "", 0, ""},
			{"masqueraded echo", "a", "icmpv6 fd00:1::3 > fd00:2::2 type 128 code 0 id 99 len 58 ttl 64 ip-id 0", "new",
				[]string{"b icmpv6 fd00:2::1 > fd00:2::2 type 128 code 0 id 99 len 58 ttl 63 ip-id 0"}, "", 0, ""},
			{"error", "b", "icmpv6 fd00:2::2 > fd00:2::1 type 4 code 1 id 0 len 106 ttl 64 ip-id 0 about icmpv6 fd00:2::1 > fd00:2::2 type 128 code 0 id 99 len 58 ttl 63 ip-id 0", "related-reply",
				[]string{"a icmpv6 fd00:2::2 > fd00:1::3 type 4 code 1 id 0 len 106 ttl 63 ip-id 0 about icmpv6 fd00:1::3 > fd00:2::2 type 128 code 0 id 99 len 58 ttl 63 ip-id 0"}, "", 0, ""},
			{"redirected", "a", "udp [fd00:1::2]:1000 > [fd00:96::11]:53 len 58 ttl 64 ip-id 0", "new",
				[]string{"own a icmpv6 fd00:96::11 > fd00:1::2 type 1 code 4 id 0 len 106 ttl 64 ip-id 0 about udp [fd00:1::2]:1000 > [fd00:96::11]:53 len 58 ttl 64 ip-id 0"}, "", 0, ""},
		}},
		{name: "what the node itself says", rules6: tracked6 + "*filter\n:FORWARD ACCEPT\n-A FORWARD -d fd00:2::4/128 -j REJECT\n-A FORWARD -m conntrack --ctstate RELATED\nCOMMIT\n", passes: []pass{
			{"echo, with its code", "a", "icmpv6 fd00:1::2 > fd00:2::1 type 128 code 5 id 7 len 58 ttl 1 ip-id 0", "new",
				[]string{"own a icmpv6 fd00:2::1 > fd00:1::2 type 129 code 5 id 7 len 58 ttl 64 ip-id 0"}, "", 0, ""},
			{"no socket", "a", "udp [fd00:1::2]:1000 > [fd00:2::1]:53 len 58 ttl 64 ip-id 0", "new",
				[]string{"own a icmpv6 fd00:2::1 > fd00:1::2 type 1 code 4 id 0 len 106 ttl 64 ip-id 0 about udp [fd00:1::2]:1000 > [fd00:2::1]:53 len 58 ttl 64 ip-id 0"}, "", 0, ""},
			{"a subnet's router address", "a", "udp [fd00:1::2]:1001 > [fd00:2::]:53 len 58 ttl 64 ip-id 0", "new",
				[]string{"own a icmpv6 fd00:2:: > fd00:1::2 type 1 code 4 id 0 len 106 ttl 64 ip-id 0 about udp [fd00:1::2]:1001 > [fd00:2::]:53 len 58 ttl 64 ip-id 0"}, "", 0, ""},
			{"no route", "a", "udp [fd00:1::2]:1000 > [fd00:99::1]:53 len 58 ttl 64 ip-id 0", "new",
				[]string{"own a icmpv6 fd00:1::1 > fd00:1::2 type 1 code 0 id 0 len 106 ttl 64 ip-id 0 about udp [fd00:1::2]:1000 > [fd00:99::1]:53 len 58 ttl 64 ip-id 0"}, "ip6_pkt_discard", 0, ""},
			{"hop limit", "a", "udp [fd00:1::2]:1000 > [fd00:2::2]:53 len 58 ttl 1 ip-id 0", "new",
				[]string{"own a icmpv6 fd00:1::1 > fd00:1::2 type 3 code 0 id 0 len 106 ttl 64 ip-id 0 about udp [fd00:1::2]:1000 > [fd00:2::2]:53 len 58 ttl 1 ip-id 0"}, "ip_forward", 0, ""},
			{"rejected", "a", "udp [fd00:1::2]:1000 > [fd00:2::4]:53 len 58 ttl 64 ip-id 0", "new",
				[]string{"own a icmpv6 fd00:1::1 > fd00:1::2 type 1 code 4 id 0 len 106 ttl 64 ip-id 0 about udp [fd00:1::2]:1000 > [fd00:2::4]:53 len 58 ttl 63 ip-id 0"}, "filter FORWARD", 0, ""},
			{"no packet is too long for an error", "a", "udp [fd00:1::2]:1000 > [fd00:99::1]:53 len 1400 ttl 64 ip-id 0", "new",
				[]string{"own a icmpv6 fd00:1::1 > fd00:1::2 type 1 code 0 id 0 len 1280 ttl 64 ip-id 0 about udp [fd00:1::2]:1000 > [fd00:99::1]:53 len 1400 ttl 64 ip-id 0"}, "ip6_pkt_discard", 0, ""},
		}},
		{name: "what is wrong counts as error, what fits nothing as invalid, discovery as nothing", rules6: tracked6, stats: "error=4 invalid=3", passes: []pass{
			{"error without a quote", "a", "icmpv6 fd00:1::2 > fd00:2::2 type 127 code 0 id 0 len 64 ttl 64 ip-id 0", "invalid",
				[]string{"b icmpv6 fd00:1::2 > fd00:2::2 type 127 code 0 id 0 len 64 ttl 63 ip-id 0"}, "", 0, ""},
			{"listener report", "a", "icmpv6 fd00:1::2 > fd00:2::2 type 131 code 0 id 5 len 64 ttl 64 ip-id 0", "untracked",
				[]string{"b icmpv6 fd00:1::2 > fd00:2::2 type 131 code 0 id 5 len 64 ttl 63 ip-id 0"}, "", 0, ""},
			{"multicast routers", "a", "icmpv6 fd00:1::2 > fd00:2::2 type 151 code 0 id 5 len 64 ttl 64 ip-id 0", "untracked",
				[]string{"b icmpv6 fd00:1::2 > fd00:2::2 type 151 code 0 id 5 len 64 ttl 63 ip-id 0"}, "", 0, ""},
			{"redirect", "a", "icmpv6 fd00:1::2 > fd00:2::2 type 137 code 0 id 5 len 64 ttl 64 ip-id 0", "invalid",
				[]string{"b icmpv6 fd00:1::2 > fd00:2::2 type 137 code 0 id 5 len 64 ttl 63 ip-id 0"}, "", 0, ""},
			{"router renumbering", "a", "icmpv6 fd00:1::2 > fd00:2::2 type 138 code 0 id 5 len 64 ttl 64 ip-id 0", "invalid",
				[]string{"b icmpv6 fd00:1::2 > fd00:2::2 type 138 code 0 id 5 len 64 ttl 63 ip-id 0"}, "", 0, ""},
			{"short", "a", "icmpv6 fd00:1::2 > fd00:2::2 type 0 code 0 id 0 len 44 ttl 64 ip-id 0 bad short", "invalid",
				[]string{"b icmpv6 fd00:1::2 > fd00:2::2 type 0 code 0 id 0 len 44 ttl 63 ip-id 0 bad short"}, "", 0, ""},
			{"bad checksum", "a", "icmpv6 fd00:1::2 > fd00:2::2 type 128 code 0 id 5 len 58 ttl 64 ip-id 0 bad checksum", "invalid",
				[]string{"b icmpv6 fd00:1::2 > fd00:2::2 type 128 code 0 id 5 len 58 ttl 63 ip-id 0 bad checksum"}, "", 0, ""},
			{"bad checksum of UDP", "a", "udp [fd00:1::2]:5 > [fd00:2::2]:6 len 58 ttl 64 ip-id 0 bad checksum", "invalid",
				[]string{"b udp [fd00:1::2]:5 > [fd00:2::2]:6 len 58 ttl 63 ip-id 0 bad checksum"}, "", 0, ""},
			{"the other family's ICMP", "a", "icmp fd00:1::2 > fd00:2::2 type 8 code 0 id 5 len 58 ttl 64 ip-id 0", "invalid",
				[]string{"b icmp fd00:1::2 > fd00:2::2 type 8 code 0 id 5 len 58 ttl 63 ip-id 0"}, "", 0, ""},
		}, entries: []string{}},
		{name: "addresses that do not pass", rules6: tracked6, passes: []pass{
			{"from the node's own", "a", "udp [fd00:2::1]:5 > [fd00:2::2]:6 len 58 ttl 64 ip-id 0", "new",
				[]string{"b udp [fd00:2::1]:5 > [fd00:2::2]:6 len 58 ttl 63 ip-id 0"}, "", 0, ""},
			{"from any", "a", "udp [::]:5 > [fd00:2::2]:6 len 58 ttl 64 ip-id 0", "new", nil, "ip6_forward", 0, ""},
			{"from ::1", "a", "udp [::1]:5 > [fd00:2::2]:6 len 58 ttl 64 ip-id 0", "invalid", nil, "ip6_rcv_core", 0, ""},
			{"to ::1", "a", "udp [fd00:1::2]:5 > [::1]:6 len 58 ttl 64 ip-id 0", "invalid", nil, "ip6_rcv_core", 0, ""},
			{"from a group", "a", "udp [ff02::5]:5 > [fd00:2::2]:6 len 58 ttl 64 ip-id 0", "invalid", nil, "ip6_rcv_core", 0, ""},
		}, entries: []string{"udp [fd00:2::1]:5 > [fd00:2::2]:6 | [fd00:2::2]:6 > [fd00:2::1]:5 confirmed 29s 1/0"}},
		{name: "no router: what has a route is dropped without a word, what has none is not", rules6: tracked6, sysctls: []string{"net.ipv6.conf.all.forwarding=0"}, passes: []pass{
			{"route", "a", "udp [fd00:1::2]:5 > [fd00:2::2]:6 len 58 ttl 64 ip-id 0", "new", nil, "ip6_forward", 0, ""},
			{"the subnet's router address", "a", "udp [fd00:1::2]:5 > [fd00:2::]:6 len 58 ttl 64 ip-id 0", "new", nil, "ip6_forward", 0, ""},
			{"no route", "a", "udp [fd00:1::2]:5 > [fd00:99::2]:6 len 58 ttl 64 ip-id 0", "new",
				[]string{"own a icmpv6 fd00:1::1 > fd00:1::2 type 1 code 0 id 0 len 106 ttl 64 ip-id 0 about udp [fd00:1::2]:5 > [fd00:99::2]:6 len 58 ttl 64 ip-id 0"}, "ip6_pkt_discard", 0, ""},
		}},
		{name: "each family has its own rules", rules: tracked, passes: []pass{
			{"IPv6 is not tracked", "a", "udp [fd00:1::2]:5 > [fd00:2::2]:6 len 58 ttl 64 ip-id 0", "",
				[]string{"b udp [fd00:1::2]:5 > [fd00:2::2]:6 len 58 ttl 63 ip-id 0"}, "", 0, ""},
			{"IPv4 is", "a", "udp 10.0.1.2:5 > 10.0.2.2:6 len 58 ttl 64 ip-id 0", "new",
				[]string{"b udp 10.0.1.2:5 > 10.0.2.2:6 len 58 ttl 63 ip-id 0"}, "", 0, ""},
		}},
	} {
		t.Run(c.name, c.run)
	}
}

// The rate of errors to an address: seen on 6.18.44 with ratelimit 1000 were six at once and then one a second,
// although the route is a /64; before, such a route got one each quarter of a second.
func TestRateOfErrors6(t *testing.T) {
	for _, c := range []struct {
		profile string
		want    int
	}{{"6.18", 6 + 2}, {"6.12", 6 + 9}} {
		n := dualNode(t, &protocolCase{rules6: tracked6, profile: c.profile, sysctls: []string{"net.ipv6.icmp.ratelimit=1000"}})
		p, err := conntrack.ParsePacket("udp [fd00:1::2]:1000 > [fd00:2::1]:53 len 58 ttl 64 ip-id 0")
		if err != nil {
			t.Fatal(err)
		}
		got := 0
		for at := conntrack.Tick(0); at < 600; at += 5 {
			got += len(n.Packet(conntrack.At(at), "a", p).Left)
		}
		if got != c.want {
			t.Errorf("%s: %d errors in 2.4 s, want %d", c.profile, got, c.want)
		}
	}
}

// Which source an own packet gets; the first three were seen on 6.18.44 as the choice of MASQUERADE.
func TestSource6(t *testing.T) {
	n := New(Config{HZ: 250})
	n.AddAddress("lo", netip.MustParsePrefix("::1/128"))
	for _, a := range []string{"fe80::1/64", "fd00:1::1/64", "fd00:1::77/64", "fd00:3::1/64"} {
		n.AddAddress("a", netip.MustParsePrefix(a))
	}
	for _, a := range []string{"fe80::2/64", "fd00:2::1/64", "2001:db8::1/64"} {
		n.AddAddress("b", netip.MustParsePrefix(a))
	}
	for _, c := range []struct{ dev, dst, want string }{
		{"a", "fd00:1::3", "fd00:1::77"}, // of equals the newest
		{"a", "fd00:50::3", "fd00:3::1"},
		{"b", "fd00:2::3", "fd00:2::1"}, // the label goes before the prefix
		{"b", "2001:db8:9::1", "2001:db8::1"},
		{"a", "2001:db8:9::1", "fd00:3::1"}, // the device goes before the label
		{"a", "fd00:1::1", "fd00:1::1"},
		{"a", "fd00:2::1", "fd00:2::1"}, // the address itself goes before the device
		{"b", "fe80::9", "fe80::2"},
		{"c", "fd00:2::3", "fd00:2::1"},
	} {
		if a := n.source6(c.dev, netip.MustParseAddr(c.dst)); a.String() != c.want {
			t.Errorf("%s towards %s: %s, want %s", c.dev, c.dst, a, c.want)
		}
	}
}

func TestRules6(t *testing.T) {
	for _, text := range []string{
		"-A FORWARD -p ipv6-icmp -m icmp6 --icmpv6-type 128 -j REJECT --reject-with icmp6-adm-prohibited",
		"-A FORWARD -s fd00::/8 ! -d fd00:1::1/128 -p udp -m udp --dport 53 -j DROP",
		"-A FORWARD -m iprange --src-range fd00::1-fd00::9 -j ACCEPT",
	} {
		rs := NewRuleset6()
		if err := rs.Restore("*filter\n"+text+"\nCOMMIT\n", false); err != nil {
			t.Error(err)
		}
		if err := NewRuleset().Restore("*filter\n"+text+"\nCOMMIT\n", false); err == nil {
			t.Errorf("iptables takes %q", text)
		}
	}
	for to, want := range map[string]natRange{
		"fd00::1":               {from: netip.MustParseAddr("fd00::1"), to: netip.MustParseAddr("fd00::1")},
		"fd00::1-fd00::4":       {from: netip.MustParseAddr("fd00::1"), to: netip.MustParseAddr("fd00::4")},
		"[fd00::1]:53":          {from: netip.MustParseAddr("fd00::1"), to: netip.MustParseAddr("fd00::1"), lo: 53, hi: 53, hasPort: true},
		"[fd00::1-fd00::4]:5-9": {from: netip.MustParseAddr("fd00::1"), to: netip.MustParseAddr("fd00::4"), lo: 5, hi: 9, hasPort: true},
		":53":                   {lo: 53, hi: 53, hasPort: true},
	} {
		rs := NewRuleset6()
		if err := rs.Restore("*nat\n-A PREROUTING -p udp -j DNAT --to-destination "+to+"\nCOMMIT\n", false); err != nil {
			t.Error(err)
			continue
		}
		if got := rs.tables["nat"].chains[0].rules[0].target.nat; got != want {
			t.Errorf("%s: %+v", to, got)
		}
	}
}

// Which address of a range a source gets, as seen on 6.18.44.
func TestAddressOfARange6(t *testing.T) {
	for _, c := range []struct {
		src, dst, from, to string
		persistent         bool
		want               string
	}{
		{"fd00:1::2", "fd00:2::2", "fd00:1:0:5::10", "fd00:1:0:9::30", false, "fd00:1:0:7:7177:d27a:7177:d27a"},
		{"fd00:1::3", "fd00:2::2", "fd00:1:0:5::10", "fd00:1:0:9::30", false, "fd00:1:0:5:798:7323:798:7323"},
		{"fd00:1::4", "fd00:2::2", "fd00:1:0:5::10", "fd00:1:0:9::30", false, "fd00:1:0:6:3373:9ed3:3373:9ed3"},
		{"fd00:1::2", "fd00:2::2", "fd00:2::10", "fd00:2::30", true, "fd00:2::13"},
		{"fd00:1::3", "fd00:2::3", "fd00:2::10", "fd00:2::30", true, "fd00:2::2a"},
		{"fd00:1::4", "fd00:2::3", "fd00:2::10", "fd00:2::30", true, "fd00:2::29"},
	} {
		addr := netip.MustParseAddr
		tuple := conntrack.Tuple{Proto: conntrack.UDP, Src: addr(c.src), Dst: addr(c.dst)}
		got := bestAddress(tuple, srcManip, natRange{from: addr(c.from), to: addr(c.to), persistent: c.persistent}, 0)
		if got.Src.String() != c.want {
			t.Errorf("%s > %s: %s, want %s", c.src, c.dst, got.Src, c.want)
		}
	}
}
