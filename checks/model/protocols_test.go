package model

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"ctlab/checks/conntrack"
)

// pass is a packet that comes in, or that the namespace itself sends if dev is "", and what must become of it.
// The line of what leaves begins with its device; "own" before it says that the stack made it.
type pass struct {
	about    string
	dev, in  string
	ct       string
	left     []string
	dropped  string // the beginning of where
	seconds  int64  // since the packet before
	resolved string // DEV ADDRESS: after the packet that neighbour is known
}

// protocolCase is one namespace, what passes it, and what it must hold in the end.
type protocolCase struct {
	name    string
	rules   string
	rules6  string
	sysctls []string // KEY=VALUE
	sockets []string
	passes  []pass
	stats   string // NAME=N of those that have moved
	entries []string
	profile string
	onNode  func(*Namespace) // before the first packet
}

// The address plan of the namespaces on which the cases were tried on 6.18: 10.0.1.1/24 and fd00:1::1/64 on a,
// 10.0.2.1/24 and fd00:2::1/64 on b, whose neighbours .2 to .4 are known.
func dualNode(t *testing.T, c *protocolCase) *Namespace {
	t.Helper()
	prof := profiles()[len(profiles())-1]
	if c.profile != "" {
		var err error
		if prof, err = ProfileFor(c.profile); err != nil {
			t.Fatal(err)
		}
	}
	n := New(Config{HZ: 250, Profile: prof})
	n.AddAddress("lo", netip.MustParsePrefix("127.0.0.1/8"))
	n.AddAddress("lo", netip.MustParsePrefix("::1/128"))
	n.SetLink("lo", true)
	for i, dev := range []string{"a", "b"} {
		n.SetLink(dev, true)
		for _, format := range []string{"10.0.%d.1/24", "fd00:%d::1/64"} {
			p := netip.MustParsePrefix(fmt.Sprintf(format, i+1))
			n.AddAddress(dev, p)
			n.AddRoute(Route{To: p.Masked(), Dev: dev})
		}
		for host := 2; host <= 4; host++ {
			n.Resolved(dev, netip.MustParseAddr(fmt.Sprintf("10.0.%d.%d", i+1, host)))
			n.Resolved(dev, netip.MustParseAddr(fmt.Sprintf("fd00:%d::%d", i+1, host)))
		}
	}
	for _, s := range append([]string{"net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1", "net.netfilter.nf_conntrack_acct=1",
		"net.ipv4.conf.default.send_redirects=0", "net.ipv4.icmp_ratelimit=1000", "net.ipv6.icmp.ratelimit=0"}, c.sysctls...) {
		k, v, _ := strings.Cut(s, "=")
		n.Set(k, v)
	}
	if err := errors.Join(n.Load(c.rules, false), n.Load6(c.rules6, false)); err != nil {
		t.Fatal(err)
	}
	return n
}

func (c *protocolCase) run(t *testing.T) {
	n := dualNode(t, c)
	if c.onNode != nil {
		c.onNode(n)
	}
	at := conntrack.Tick(0)
	for _, s := range c.sockets {
		n.Bind(Socket{Local: netip.MustParseAddrPort(s)})
	}
	for _, p := range c.passes {
		at += conntrack.Tick(p.seconds*250) + 1
		packet, err := conntrack.ParsePacket(p.in)
		if err != nil {
			t.Fatal(err)
		}
		o := Outcome{}
		if p.dev == "" {
			o = n.Send(conntrack.At(at), packet)
		} else {
			o = n.Packet(conntrack.At(at), p.dev, packet)
		}
		p.check(t, &o)
	}
	p := c.profile
	if d := n.NotModelled(); len(d) > 0 {
		t.Errorf("%s: not modelled: %q", p, d)
	}
	if got := statsLine(n); got != c.stats {
		t.Errorf("counters %q, want %q", got, c.stats)
	}
	var got []string
	for _, p := range n.Dump(conntrack.At(at)) {
		e := p.Entry
		got = append(got, fmt.Sprintf("%s %s %ds %d/%d", e.Tuples(), e.Status, int64(p.Expiry.From-at)/250, e.OrigCount.Packets, e.ReplyCount.Packets))
	}
	if c.entries != nil && !slices.Equal(got, c.entries) {
		t.Errorf("entries\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.entries, "\n"))
	}
}

func statsLine(n *Namespace) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(n.Stats())) {
		out = append(out, fmt.Sprintf("%s=%d", k, n.Stats()[k]))
	}
	return strings.Join(out, " ")
}

func (p *pass) check(t *testing.T, o *Outcome) {
	t.Helper()
	if o.CT != p.ct {
		t.Errorf("%s: ctinfo %s, want %s", p.about, o.CT, p.ct)
	}
	var left []string
	for _, l := range o.Left {
		own := ""
		if l.Own {
			own = "own "
		}
		left = append(left, own+l.Dev+" "+l.Packet.Line())
	}
	if !slices.Equal(left, p.left) {
		t.Errorf("%s: left\n%q\nwant\n%q", p.about, left, p.left)
	}
	if !strings.HasPrefix(o.Dropped, p.dropped) || p.dropped == "" && o.Dropped != "" {
		t.Errorf("%s: dropped %q, want %q", p.about, o.Dropped, p.dropped)
	}
}

const serviceNAT = "*nat\n:PREROUTING ACCEPT\n:POSTROUTING ACCEPT\n-A PREROUTING -d 10.96.0.10 -j DNAT --to-destination 10.0.2.2\n" +
	"-A POSTROUTING -s 10.0.1.3 -o b -j MASQUERADE\nCOMMIT\n"

// Each of these was played on 6.18.44 with the same packets; what is wanted is what was seen there.
func TestICMPQueries(t *testing.T) {
	const done = "confirmed,snat-done,dnat-done"
	for _, c := range []protocolCase{
		{name: "the code is part of both tuples", rules: serviceNAT, stats: "invalid=1", passes: []pass{
			{"request", "a", "icmp 10.0.1.2 > 10.96.0.10 type 8 code 5 id 77 len 38 ttl 64 ip-id 1", "new",
				[]string{"b icmp 10.0.1.2 > 10.0.2.2 type 8 code 5 id 77 len 38 ttl 63 ip-id 1"}, "", 0, ""},
			{"answer", "b", "icmp 10.0.2.2 > 10.0.1.2 type 0 code 5 id 77 len 38 ttl 64 ip-id 1", "established-reply",
				[]string{"a icmp 10.96.0.10 > 10.0.1.2 type 0 code 5 id 77 len 38 ttl 63 ip-id 1"}, "", 10, ""},
			{"another code", "b", "icmp 10.0.2.2 > 10.0.1.2 type 0 code 0 id 77 len 38 ttl 64 ip-id 1", "invalid",
				[]string{"a icmp 10.0.2.2 > 10.0.1.2 type 0 code 0 id 77 len 38 ttl 63 ip-id 1"}, "", 5, ""},
		}, entries: []string{"icmp 10.0.1.2 > 10.96.0.10 type 8 code 5 id 77 | 10.0.2.2 > 10.0.1.2 type 0 code 5 id 77 seen-reply,confirmed,dnat,snat-done,dnat-done 24s 1/1"}},
		{name: "DNAT looks for a free id, from 0", rules: serviceNAT, stats: "found=1", passes: []pass{
			{"straight", "a", "icmp 10.0.1.2 > 10.0.2.2 type 8 code 0 id 99 len 38 ttl 64 ip-id 1", "new",
				[]string{"b icmp 10.0.1.2 > 10.0.2.2 type 8 code 0 id 99 len 38 ttl 63 ip-id 1"}, "", 0, ""},
			{"to the service", "a", "icmp 10.0.1.2 > 10.96.0.10 type 8 code 0 id 99 len 38 ttl 64 ip-id 1", "new",
				[]string{"b icmp 10.0.1.2 > 10.0.2.2 type 8 code 0 id 0 len 38 ttl 63 ip-id 1"}, "", 0, ""},
			{"error about it", "b", "icmp 10.0.2.2 > 10.0.1.2 type 3 code 1 id 0 len 56 ttl 64 ip-id 1 about icmp 10.0.1.2 > 10.0.2.2 type 8 code 0 id 0 len 38 ttl 63 ip-id 1", "related-reply",
				[]string{"a icmp 10.96.0.10 > 10.0.1.2 type 3 code 1 id 0 len 56 ttl 63 ip-id 1 about icmp 10.0.1.2 > 10.96.0.10 type 8 code 0 id 99 len 38 ttl 63 ip-id 1"}, "", 0, ""},
			{"answer", "b", "icmp 10.0.2.2 > 10.0.1.2 type 0 code 0 id 0 len 38 ttl 64 ip-id 1", "established-reply",
				[]string{"a icmp 10.96.0.10 > 10.0.1.2 type 0 code 0 id 99 len 38 ttl 63 ip-id 1"}, "", 0, ""},
		}, entries: []string{
			"icmp 10.0.1.2 > 10.0.2.2 type 8 code 0 id 99 | 10.0.2.2 > 10.0.1.2 type 0 code 0 id 99 " + done + " 29s 1/0",
			"icmp 10.0.1.2 > 10.96.0.10 type 8 code 0 id 99 | 10.0.2.2 > 10.0.1.2 type 0 code 0 id 0 seen-reply,confirmed,dnat,snat-done,dnat-done 30s 1/1"}},
		{name: "timestamp, information and address mask requests make entries", rules: serviceNAT, passes: []pass{
			{"timestamp", "a", "icmp 10.0.1.2 > 10.96.0.10 type 13 code 0 id 5 len 40 ttl 64 ip-id 1", "new",
				[]string{"b icmp 10.0.1.2 > 10.0.2.2 type 13 code 0 id 5 len 40 ttl 63 ip-id 1"}, "", 0, ""},
			{"information", "a", "icmp 10.0.1.2 > 10.96.0.10 type 15 code 0 id 5 len 28 ttl 64 ip-id 1", "new",
				[]string{"b icmp 10.0.1.2 > 10.0.2.2 type 15 code 0 id 5 len 28 ttl 63 ip-id 1"}, "", 0, ""},
			{"mask", "a", "icmp 10.0.1.2 > 10.96.0.10 type 17 code 0 id 5 len 32 ttl 64 ip-id 1", "new",
				[]string{"b icmp 10.0.1.2 > 10.0.2.2 type 17 code 0 id 5 len 32 ttl 63 ip-id 1"}, "", 0, ""},
		}},
		{name: "the node answers echo with its code, timestamps with code 0, and the rest not at all", rules: tracked, stats: "error=1 invalid=1", passes: []pass{
			{"echo", "a", "icmp 10.0.1.2 > 10.0.2.1 type 8 code 3 id 6 len 38 ttl 1 ip-id 1", "new",
				[]string{"own a icmp 10.0.2.1 > 10.0.1.2 type 0 code 3 id 6 len 38 ttl 64 ip-id 0"}, "", 0, ""},
			{"timestamp", "a", "icmp 10.0.1.2 > 10.0.1.1 type 13 code 3 id 5 len 60 ttl 64 ip-id 1 df", "new",
				[]string{"own a icmp 10.0.1.1 > 10.0.1.2 type 14 code 0 id 5 len 40 ttl 64 ip-id 0"}, "", 0, ""},
			{"short timestamp", "a", "icmp 10.0.1.2 > 10.0.1.1 type 13 code 0 id 7 len 31 ttl 64 ip-id 1", "new", nil, "", 0, ""},
			{"information", "a", "icmp 10.0.1.2 > 10.0.1.1 type 15 code 0 id 8 len 28 ttl 64 ip-id 1", "new", nil, "", 0, ""},
			{"probe", "a", "icmp 10.0.1.2 > 10.0.1.1 type 42 code 0 id 7 len 38 ttl 64 ip-id 1", "invalid", nil, "", 0, ""},
		}, entries: []string{
			"icmp 10.0.1.2 > 10.0.2.1 type 8 code 3 id 6 | 10.0.2.1 > 10.0.1.2 type 0 code 3 id 6 seen-reply,confirmed 29s 1/1",
			"icmp 10.0.1.2 > 10.0.1.1 type 13 code 3 id 5 | 10.0.1.1 > 10.0.1.2 type 14 code 3 id 5 confirmed 29s 1/0",
			"icmp 10.0.1.2 > 10.0.1.1 type 13 code 0 id 7 | 10.0.1.1 > 10.0.1.2 type 14 code 0 id 7 confirmed 29s 1/0",
			"icmp 10.0.1.2 > 10.0.1.1 type 15 code 0 id 8 | 10.0.1.1 > 10.0.1.2 type 16 code 0 id 8 confirmed 29s 1/0"}},
		{name: "what is wrong counts as error, what fits nothing as invalid", rules: tracked, stats: "error=4 invalid=2", passes: []pass{
			{"router advertisement", "a", "icmp 10.0.1.2 > 10.0.2.2 type 9 code 0 id 7 len 38 ttl 64 ip-id 1", "invalid",
				[]string{"b icmp 10.0.1.2 > 10.0.2.2 type 9 code 0 id 7 len 38 ttl 63 ip-id 1"}, "", 0, ""},
			{"answer to nothing", "a", "icmp 10.0.1.2 > 10.0.2.2 type 14 code 0 id 7 len 40 ttl 64 ip-id 1", "invalid",
				[]string{"b icmp 10.0.1.2 > 10.0.2.2 type 14 code 0 id 7 len 40 ttl 63 ip-id 1"}, "", 0, ""},
			{"short", "a", "icmp 10.0.1.2 > 10.0.2.2 type 8 code 0 id 0 len 25 ttl 64 ip-id 1 bad short", "invalid",
				[]string{"b icmp 10.0.1.2 > 10.0.2.2 type 8 code 0 id 0 len 25 ttl 63 ip-id 1 bad short"}, "", 0, ""},
			{"bad checksum", "a", "icmp 10.0.1.2 > 10.0.2.2 type 8 code 0 id 123 len 38 ttl 64 ip-id 1 bad checksum", "invalid",
				[]string{"b icmp 10.0.1.2 > 10.0.2.2 type 8 code 0 id 123 len 38 ttl 63 ip-id 1 bad checksum"}, "", 0, ""},
			{"error that quotes too little", "b", "icmp 10.0.2.2 > 10.0.1.2 type 3 code 1 id 0 len 52 ttl 64 ip-id 1 about icmp 10.0.1.2 > 10.0.2.2 type 8 code 0 id 0 len 38 ttl 63 ip-id 1 bad short", "invalid",
				[]string{"a icmp 10.0.2.2 > 10.0.1.2 type 3 code 1 id 0 len 52 ttl 63 ip-id 1 about icmp 10.0.1.2 > 10.0.2.2 type 8 code 0 id 0 len 38 ttl 63 ip-id 1 bad short"}, "", 0, ""},
			{"error about an error", "b", "icmp 10.0.2.2 > 10.0.1.2 type 3 code 1 id 0 len 56 ttl 64 ip-id 1 about icmp 10.0.1.2 > 10.0.2.2 type 11 code 0 id 0 len 56 ttl 63 ip-id 1", "invalid",
				[]string{"a icmp 10.0.2.2 > 10.0.1.2 type 3 code 1 id 0 len 56 ttl 63 ip-id 1 about icmp 10.0.1.2 > 10.0.2.2 type 11 code 0 id 0 len 56 ttl 63 ip-id 1"}, "", 0, ""},
		}, entries: []string{}},
		{name: "a masqueraded query, and an error about it", rules: serviceNAT, passes: []pass{
			{"request", "a", "icmp 10.0.1.3 > 10.0.2.2 type 8 code 0 id 99 len 38 ttl 64 ip-id 1", "new",
				[]string{"b icmp 10.0.2.1 > 10.0.2.2 type 8 code 0 id 99 len 38 ttl 63 ip-id 1"}, "", 0, ""},
			{"error", "b", "icmp 10.0.2.2 > 10.0.2.1 type 3 code 1 id 0 len 56 ttl 64 ip-id 1 about icmp 10.0.2.1 > 10.0.2.2 type 8 code 0 id 99 len 38 ttl 63 ip-id 1", "related-reply",
				[]string{"a icmp 10.0.2.2 > 10.0.1.3 type 3 code 1 id 0 len 56 ttl 63 ip-id 1 about icmp 10.0.1.3 > 10.0.2.2 type 8 code 0 id 99 len 38 ttl 63 ip-id 1"}, "", 0, ""},
		}},
		{name: "unchecked at PREROUTING, an error with a bad checksum is not translated", rules: serviceNAT, sysctls: []string{"net.netfilter.nf_conntrack_checksum=0"}, passes: []pass{
			{"request", "a", "icmp 10.0.1.2 > 10.96.0.10 type 8 code 0 id 77 len 38 ttl 64 ip-id 1", "new",
				[]string{"b icmp 10.0.1.2 > 10.0.2.2 type 8 code 0 id 77 len 38 ttl 63 ip-id 1"}, "", 0, ""},
			{"error", "b", "icmp 10.0.2.2 > 10.0.1.2 type 3 code 1 id 0 len 56 ttl 64 ip-id 1 bad checksum about icmp 10.0.1.2 > 10.0.2.2 type 8 code 0 id 77 len 38 ttl 63 ip-id 1", "related-reply",
				nil, "nf_nat_icmp_reply_translation", 0, ""},
		}},
		{name: "the stack reports on queries, but not on what it takes for errors", rules: tracked, stats: "invalid=1", passes: []pass{
			{"request", "a", "icmp 10.0.1.3 > 10.0.2.3 type 8 code 0 id 99 len 38 ttl 1 ip-id 1", "new",
				[]string{"own a icmp 10.0.1.1 > 10.0.1.3 type 11 code 0 id 0 len 66 ttl 64 ip-id 0 about icmp 10.0.1.3 > 10.0.2.3 type 8 code 0 id 99 len 38 ttl 1 ip-id 1"}, "ip_forward", 0, ""},
			{"router advertisement", "a", "icmp 10.0.1.3 > 10.0.2.3 type 9 code 0 id 99 len 38 ttl 1 ip-id 1", "invalid", nil, "ip_forward", 0, ""},
		}, entries: []string{}},
	} {
		t.Run(c.name, c.run)
	}
}

// The search for an id starts anywhere for a source; up to 4.20 it never takes the last id.
func TestIDRange(t *testing.T) {
	for profile, want := range map[string]int{"6.18": 65536, "5.10": 65536, "4.19": 65535} {
		n := dualNode(t, &protocolCase{rules: "*nat\n-A POSTROUTING -o b -j SNAT --to-source 10.0.2.1 --random\nCOMMIT\n", profile: profile})
		options := 0
		n.cfg.Chooser = func(c Choice) int { options = c.Options; return 5 }
		p, err := conntrack.ParsePacket("icmp 10.0.1.2 > 10.0.2.2 type 8 code 0 id 77 len 38 ttl 64 ip-id 1")
		if err != nil {
			t.Fatal(err)
		}
		o := n.Packet(conntrack.At(1), "a", p)
		if options != want || len(o.Left) != 1 || o.Left[0].Packet.ICMPID != 5 {
			t.Errorf("%s: %d ids, left %v", profile, options, o.Left)
		}
	}
}
