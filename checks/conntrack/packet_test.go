package conntrack

import "testing"

// FuzzParsePacket: a line that is read gives a packet whose line is read as the same packet.
func FuzzParsePacket(f *testing.F) {
	for _, line := range []string{
		"udp 10.0.1.2:40000 > 10.96.0.10:53 len 60 ttl 64 ip-id 7",
		"udp [fd00::2]:40000 > [fd00::10]:53 len 80 ttl 64 ip-id 0 df",
		"icmp 10.0.1.2 > 10.0.2.2 type 8 code 5 id 77 len 38 ttl 64 ip-id 1 bad checksum",
		"icmp 10.0.2.2 > 10.0.1.2 type 3 code 4 id 0 len 56 ttl 64 ip-id 1 mtu 1300 about udp 10.0.1.2:1 > 10.0.2.2:2 len 1400 ttl 63 ip-id 1 df",
		"icmpv6 fd00::2 > fd00::3 type 2 code 0 id 0 len 1280 ttl 64 ip-id 0 mtu 1280 about icmpv6 fd00::3 > fd00::2 type 128 code 0 id 9 len 1400 ttl 63 ip-id 0",
		"89 10.0.1.2 > 224.0.0.5 len 64 ttl 1 ip-id 1",
		"gre 10.0.1.2 > 10.0.2.2 len 64 ttl 9 ip-id 1",
		"gre 10.0.1.2:0 > 10.0.2.2:7 len 64 ttl 9 ip-id 1",
		"udplite 10.0.1.2:0 > 10.0.2.2:0 len 64 ttl 9 ip-id 1",
		"udp 10.0.1.2:1 > 10.0.2.2:2 len 1500 ttl 64 ip-id 9 frag 0+",
		"udp 10.0.1.2:0 > 10.0.2.2:0 len 40 ttl 64 ip-id 9 frag 1480",
	} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		p, err := ParsePacket(line)
		if err != nil {
			return
		}
		again, err := ParsePacket(p.Line())
		if err != nil {
			t.Fatalf("%q is written as %q: %v", line, p.Line(), err)
		}
		if again.Line() != p.Line() || !samePacket(&again, &p) {
			t.Fatalf("%q is written as %q, and read as %q", line, p.Line(), again.Line())
		}
	})
}

// samePacket compares two packets with what they quote.
func samePacket(a, b *Packet) bool {
	if (a.About == nil) != (b.About == nil) {
		return false
	}
	if a.About != nil && !samePacket(a.About, b.About) {
		return false
	}
	x, y := *a, *b
	x.About, y.About = nil, nil
	return x == y
}
