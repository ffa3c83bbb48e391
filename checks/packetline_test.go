package checks

import (
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"ctlab/checks/conntrack"
)

// endsOfPackets resolves the names of the tests.
func endsOfPackets(name, _ string) (netip.Addr, *LineError) {
	switch name {
	case "app":
		return netip.MustParseAddr("10.1.0.2"), nil
	case "web":
		return netip.MustParseAddr("10.96.0.10"), nil
	}
	return netip.Addr{}, &LineError{Msg: "no node or service " + Quote(name)}
}

func TestParsePacket(t *testing.T) {
	for _, c := range []struct{ line, want string }{
		{"udp app:40000 > web:53", "udp 10.1.0.2:40000 > 10.96.0.10:53 len 28 ttl 64 ip-id 0"},
		{"udp app:40000 > web:53 data 40 ttl 1 ip-id 7 df", "udp 10.1.0.2:40000 > 10.96.0.10:53 len 68 ttl 1 ip-id 7 df"},
		{"udp app:1 > web:2 sum bad", "udp 10.1.0.2:1 > 10.96.0.10:2 len 28 ttl 64 ip-id 0 bad checksum"},
		{"udp app:1 > web:2 data 8 cut 32", "udp 10.1.0.2:1 > 10.96.0.10:2 len 32 ttl 64 ip-id 0 bad length"},
		{"udp app:1 > web:2 cut 24", "udp 10.1.0.2:1 > 10.96.0.10:2 len 24 ttl 64 ip-id 0 bad short"},
		{"udp app:1 > web:2 data 1480 frag 0+", "udp 10.1.0.2:1 > 10.96.0.10:2 len 1508 ttl 64 ip-id 0 frag 0+"},
		{"udp app > web data 100 frag 1480", "udp 10.1.0.2:0 > 10.96.0.10:0 len 120 ttl 64 ip-id 0 frag 1480"},
		{"icmp app > web echo-request id 7", "icmp 10.1.0.2 > 10.96.0.10 type 8 code 0 id 7 len 28 ttl 64 ip-id 0"},
		{"icmp web > app type 13 id 9", "icmp 10.96.0.10 > 10.1.0.2 type 13 code 0 id 9 len 28 ttl 64 ip-id 0"},
		{"icmp app > web echo-reply cut 30 data 9", "icmp 10.1.0.2 > 10.96.0.10 type 0 code 0 id 0 len 30 ttl 64 ip-id 0 bad checksum"},
		{"icmp web > app port-unreachable about udp app:1 > web:2 data 4",
			"icmp 10.96.0.10 > 10.1.0.2 type 3 code 3 id 0 len 60 ttl 64 ip-id 0 about udp 10.1.0.2:1 > 10.96.0.10:2 len 32 ttl 64 ip-id 0"},
		{"icmp web > app fragmentation-needed mtu 1400 about udp app:1 > web:2 len 1500",
			"icmp 10.96.0.10 > 10.1.0.2 type 3 code 4 id 0 len 576 ttl 64 ip-id 0 mtu 1400 about udp 10.1.0.2:1 > 10.96.0.10:2 len 1500 ttl 64 ip-id 0"},
		{"ip app > web proto 89 len 20", "89 10.1.0.2 > 10.96.0.10 len 20 ttl 64 ip-id 0"},
	} {
		p, err := ParsePacket(c.line, endsOfPackets)
		if err != nil {
			t.Errorf("%s: %s (%s)", c.line, err.Msg, err.Hint)
			continue
		}
		if got := p.Line(); got != c.want {
			t.Errorf("%s\n got %s\nwant %s", c.line, got, c.want)
		}
		if p.FreeID == strings.Contains(c.line, "ip-id") {
			t.Errorf("%s: free ip-id %t", c.line, p.FreeID)
		}
	}
}

func TestParsePacketRefuses(t *testing.T) {
	for _, c := range []struct{ line, msg, marked string }{
		{"udp app > web:53", `"app" has no port`, "app"},
		{"udp app:1..9 > web:53", `"app:1..9" has no port`, "app:1..9"},
		{"udp any:1 > web:53", `"any:1" is not one address`, "any:1"},
		{"udp 10.0.0.0/8:1 > web:53", "", ""},
		{"udp app:1 > wob:53", `no node or service "wob"`, "wob"},
		{"udp app:1 > web:2 lenn 5", `"lenn" is no word of a packet`, "lenn"},
		{"udp app:1 > web:2 len", `"len" has no value`, "len"},
		{"udp app:1 > web:2 len 5 len 6", `"len" was given already`, "len"},
		{"udp app:1 > web:2 len 28 data 6", "both len and data", "data"},
		{"udp app:1 > web:2 len 19", "len 19 is too short for its IP header", "udp"},
		{"udp app:1 > web:2 ttl 256", "ttl 256 is above 255", "256"},
		{"udp app:1 > web:2 ttl 010", "", ""},
		{"udp app:1 > web:2 id 4", `"id" is no word of a packet`, "id"},
		{"udp app:1 > web:2 frag 7", "frag 7 is no multiple of 8 up to 65528", "7"},
		{"udp app:1 > web:2 frag 0", "frag 0 is the whole packet", "frag"},
		{"udp app:1 > web:2 sum good", `sum "good"`, "good"},
		{"udp app:1 > web:2 cut 28", "cut 28 is not inside the packet, behind its IP header", "udp"},
		{"udp app:1 > web:2 about udp app:1 > web:2", "only an ICMP error is about another packet", "about"},
		{"icmp app:1 > web echo-request", "icmp has no ports", "app:1"},
		{"icmp app > web", "which type of icmp?", "icmp"},
		{"icmp app > web echo-reqest", `"echo-reqest" is no word of a packet`, "echo-reqest"},
		{"icmp app > web port-unreachable about udp app > web:2", `"app" has no port`, "app"},
		{"ip app > web", "which protocol?", "ip"},
		{"ip app:1 > web proto 89", "ip has no ports", "app:1"},
		{"ip app > web proto 17", "it has a name", "proto"},
		{"upd app:1 > web:2", `"upd" is no protocol`, "upd"},
		{"udp app:1 web:2", `">" is missing before "web:2"`, "web:2"},
		{"udp app:1 >", "the line ends too early", ">"},
		{"", "the line ends too early", ""},
	} {
		_, err := ParsePacket(c.line, endsOfPackets)
		if err == nil {
			t.Errorf("%q is read", c.line)
			continue
		}
		if err.Offset < 0 || err.Offset+err.Len > len(c.line) {
			t.Errorf("%q: marks %d+%d of %d", c.line, err.Offset, err.Len, len(c.line))
			continue
		}
		if got := c.line[err.Offset : err.Offset+err.Len]; c.msg != "" && (err.Msg != c.msg || got != c.marked) {
			t.Errorf("%q: %s at %q; want %s at %q", c.line, err.Msg, got, c.msg, c.marked)
		}
	}
}

// TestPacketLinesAreRead: what reports and traces print of a packet, a lab can say.
func TestPacketLinesAreRead(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 5000 {
		want := randomPacket(rng, true)
		got, err := ParsePacket(want.Line(), endsOfPackets)
		if err != nil {
			t.Fatalf("%s: %s", want.Line(), err.Msg)
		}
		if got.Line() != want.Line() {
			t.Fatalf("\n got %s\nwant %s", got.Line(), want.Line())
		}
		w, err := ParsePacketWant(want.Line(), endsOfPackets)
		if err != nil || !w.Matches(&want) {
			t.Fatalf("%s does not match itself: %v %v", want.Line(), err, w.Mismatch(&want))
		}
	}
}

func randomPacket(rng *rand.Rand, quotes bool) conntrack.Packet {
	address := func() netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(rng.IntN(3)), byte(rng.IntN(256))}) }
	protos := []uint8{conntrack.UDP, conntrack.TCP, conntrack.ICMP, conntrack.SCTP, 33, 136, 47, 89}
	p := conntrack.Packet{Proto: protos[rng.IntN(len(protos))], Src: address(), Dst: address(), Len: 20 + rng.IntN(1481), TTL: uint8(rng.IntN(256)), ID: uint16(rng.IntN(65536)),
		DF: rng.IntN(2) == 0, More: rng.IntN(4) == 0, Bad: []string{"", "", "checksum", "length", "short"}[rng.IntN(5)]}
	if rng.IntN(4) == 0 {
		p.Offset = 8 * rng.IntN(8000)
	}
	switch {
	case conntrack.HasPorts(p.Proto):
		p.SrcPort, p.DstPort = uint16(rng.IntN(65536)), uint16(rng.IntN(65536))
	case p.Proto == conntrack.ICMP:
		p.ICMPType, p.ICMPCode, p.ICMPID = uint8(rng.IntN(20)), uint8(rng.IntN(4)), uint16(rng.IntN(65536))
		if quotes && rng.IntN(2) == 0 {
			inner := randomPacket(rng, false)
			p.About, p.MTU = &inner, rng.IntN(2)*1400
		}
	}
	return p
}

func TestPacketWant(t *testing.T) {
	p := conntrack.Packet{Proto: conntrack.UDP, Src: netip.MustParseAddr("10.96.0.10"), SrcPort: 53, Dst: netip.MustParseAddr("10.1.0.2"), DstPort: 40000, Len: 68, TTL: 63, ID: 9}
	for _, c := range []struct{ line, differs string }{
		{"udp web:53 > app:40000", ""},
		{"udp web > app", ""},
		{"udp any > any:1024..65535", ""},
		{"udp web:53 > app data 40 ttl 63", ""},
		{"udp web:53 > app data 41", "data"},
		{"udp web:54 > app ttl 64 df", "source ttl df"},
		{"tcp web:53 > app", "protocol"},
		{"udp web > 10.2.0.0/16 bad checksum", "destination bad"},
		{"udp web > app frag 8", "frag"},
		{"icmp web > app port-unreachable about udp app > web", "protocol type about"},
	} {
		w, err := ParsePacketWant(c.line, endsOfPackets)
		if err != nil {
			t.Errorf("%s: %s", c.line, err.Msg)
			continue
		}
		if got := strings.Join(w.Mismatch(&p), " "); got != c.differs {
			t.Errorf("%s: differs in %q, want %q", c.line, got, c.differs)
		}
	}
}
