package wire

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"ctlab/checks/conntrack"
)

// Packets as they were on the wire, and their lines.
func TestDecode(t *testing.T) {
	for name, c := range map[string]struct{ hex, want, unverified string }{
		"udp": {"4500 0020 1234 4000 4011 1497 0a000001 0a000002 9c75 0035 000c beef 61626364",
			"udp 10.0.0.1:40053 > 10.0.0.2:53 len 32 ttl 64 ip-id 4660 df bad checksum",
			"udp 10.0.0.1:40053 > 10.0.0.2:53 len 32 ttl 64 ip-id 4660 df"},
		"udp, no checksum": {"4500 0020 1234 0000 4011 5497 0a000001 0a000002 9c75 0035 000c 0000 61626364",
			"udp 10.0.0.1:40053 > 10.0.0.2:53 len 32 ttl 64 ip-id 4660", ""},
		"udp that tells too much": {"4500 0020 1234 4000 4011 1497 0a000001 0a000002 9c75 0035 00c8 beef 61626364",
			"udp 10.0.0.1:40053 > 10.0.0.2:53 len 32 ttl 64 ip-id 4660 df bad length", ""},
		"udp of 7 bytes": {"4500 001b 1234 4000 4011 149c 0a000001 0a000002 9c75 0035 0007 be",
			"udp 10.0.0.1:40053 > 10.0.0.2:53 len 27 ttl 64 ip-id 4660 df bad short", ""},
		"last fragment": {"4500 0020 1234 00b9 4011 53de 0a000001 0a000002 9c75 0035 000c beef 61626364",
			"udp 10.0.0.1:0 > 10.0.0.2:0 len 32 ttl 64 ip-id 4660 frag 1480", ""},
		"first fragment": {"4500 0020 1234 2000 4011 3497 0a000001 0a000002 9c75 0035 000c beef 61626364",
			"udp 10.0.0.1:40053 > 10.0.0.2:53 len 32 ttl 64 ip-id 4660 frag 0+", ""},
		"options": {"4600 0024 1234 0000 4011 5192 0a000001 0a000002 01010100 9c75 0035 000c 0000 61626364",
			"udp 10.0.0.1:40053 > 10.0.0.2:53 len 36 ttl 64 ip-id 4660", ""},
		"wrong header checksum": {"4500 0020 1234 4000 4011 1496 0a000001 0a000002 9c75 0035 000c beef 61626364", "", ""},
		"cut off":               {"4500 0020 1234 4000 4011 1497 0a000001 0a000002 9c75 0035 000c beef 616263", "", ""},
		"icmpv6 echo": {"6000 0000 0008 3a40 fd000000000000000000000000000001 fd000000000000000000000000000002 8000 856a 0007 0001",
			"icmpv6 fd00::1 > fd00::2 type 128 code 0 id 7 len 48 ttl 64 ip-id 0 bad checksum", "icmpv6 fd00::1 > fd00::2 type 128 code 0 id 7 len 48 ttl 64 ip-id 0"},
		"udp behind extension headers": {"6000 0000 0020 0040 fd000000000000000000000000000001 fd000000000000000000000000000002" +
			"3c00 010400000000 2b00 010400000000 1100 000000000000 9c75 0035 0008 0000",
			"udp [fd00::1]:40053 > [fd00::2]:53 len 72 ttl 64 ip-id 0", ""},
		"last fragment of IPv6": {"6000 0000 0010 2c40 fd000000000000000000000000000001 fd000000000000000000000000000002" +
			"1100 05a8 abcd1234 6162636465666768",
			"udp [fd00::1]:0 > [fd00::2]:0 len 56 ttl 64 ip-id 4660 frag 1448", ""},
	} {
		b, err := hex.DecodeString(strings.ReplaceAll(c.hex, " ", ""))
		if err != nil {
			t.Fatal(name, err)
		}
		if c.unverified == "" {
			c.unverified = c.want
		}
		if got := lineOf(Decode(b)); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", name, got, c.want)
		}
		if got := lineOf(DecodeUnverified(b)); got != c.unverified {
			t.Errorf("%s, unverified:\n got %s\nwant %s", name, got, c.unverified)
		}
	}
}

func lineOf(p conntrack.Packet, ok bool) string {
	if !ok {
		return ""
	}
	return p.Line()
}

// lines are packets that must come back from their bytes as they are.
const lines = `
udp 10.0.0.1:40053 > 10.0.0.2:53 len 32 ttl 64 ip-id 4660 df
udp 10.0.0.1:40053 > 10.0.0.2:53 len 29 ttl 64 ip-id 4660 bad checksum
udp 10.0.0.1:40053 > 10.0.0.2:53 len 32 ttl 64 ip-id 4660 bad length
udp 10.0.0.1:40053 > 10.0.0.2:53 len 65535 ttl 64 ip-id 4660 bad length
udp 10.0.0.1:0 > 10.0.0.2:0 len 24 ttl 64 ip-id 4660 bad short
udp 10.0.0.1:0 > 10.0.0.2:0 len 60 ttl 64 ip-id 4660 bad short
udp 10.0.0.1:40053 > 10.0.0.2:53 len 1500 ttl 64 ip-id 7 frag 0+
udp 10.0.0.1:0 > 10.0.0.2:0 len 1500 ttl 64 ip-id 7 frag 1480+
udp 10.0.0.1:0 > 10.0.0.2:0 len 99 ttl 64 ip-id 7 frag 2960
tcp 10.0.0.1:40053 > 10.0.0.2:53 len 40 ttl 64 ip-id 4660
tcp 10.0.0.1:40053 > 10.0.0.2:53 len 40 ttl 64 ip-id 4660 bad checksum
tcp 10.0.0.1:40053 > 10.0.0.2:53 len 40 ttl 64 ip-id 4660 bad length
sctp 10.0.0.1:40053 > 10.0.0.2:53 len 40 ttl 64 ip-id 4660
sctp 10.0.0.1:40053 > 10.0.0.2:53 len 40 ttl 64 ip-id 4660 bad checksum
udplite 10.0.0.1:40053 > 10.0.0.2:53 len 40 ttl 64 ip-id 4660
udplite 10.0.0.1:40053 > 10.0.0.2:53 len 40 ttl 64 ip-id 4660 bad checksum
gre 10.0.0.1 > 10.0.0.2 len 40 ttl 64 ip-id 4660
253 10.0.0.1 > 10.0.0.2 len 20 ttl 0 ip-id 0
icmp 10.0.0.1 > 10.0.0.2 type 8 code 0 id 99 len 84 ttl 64 ip-id 4660 df
icmp 10.0.0.1 > 10.0.0.2 type 8 code 0 id 99 len 84 ttl 64 ip-id 4660 bad checksum
icmp 10.0.0.1 > 10.0.0.2 type 3 code 4 id 0 len 56 ttl 64 ip-id 1 mtu 1400 about udp 10.0.0.2:53 > 10.0.0.1:40053 len 1500 ttl 63 ip-id 5 df
icmp 10.0.0.1 > 10.0.0.2 type 3 code 3 id 0 len 52 ttl 64 ip-id 1 about udp 10.0.0.2:53 > 10.0.0.1:40053 len 1500 ttl 63 ip-id 5 df
icmp 10.0.0.1 > 10.0.0.2 type 3 code 3 id 0 len 51 ttl 64 ip-id 1 about udp 10.0.0.2:0 > 10.0.0.1:0 len 1500 ttl 63 ip-id 5 df bad short
icmp 10.0.0.1 > 10.0.0.2 type 11 code 0 id 0 len 56 ttl 64 ip-id 1 about udp 10.0.0.2:0 > 10.0.0.1:0 len 1500 ttl 63 ip-id 5 df bad short
icmp 10.0.0.1 > 10.0.0.2 type 11 code 0 id 0 len 56 ttl 64 ip-id 1 about icmp 10.0.0.2 > 10.0.0.1 type 8 code 0 id 3 len 84 ttl 63 ip-id 5
icmp 10.0.0.1 > 10.0.0.2 type 11 code 0 id 0 len 56 ttl 64 ip-id 1 about udp 10.0.0.2:0 > 10.0.0.1:0 len 1500 ttl 63 ip-id 5 frag 1480
icmp 10.0.0.1 > 10.0.0.2 type 3 code 1 id 0 len 200 ttl 64 ip-id 1
udp [fd00::1]:40053 > [fd00::2]:53 len 60 ttl 64 ip-id 0
udp [fd00::1]:40053 > [fd00::2]:53 len 60 ttl 64 ip-id 0 bad checksum
udp [fd00::1]:40053 > [fd00::2]:53 len 65575 ttl 64 ip-id 0 bad length
udp [fd00::1]:0 > [fd00::2]:0 len 44 ttl 64 ip-id 0 bad short
udp [fd00::1]:0 > [fd00::2]:0 len 5001 ttl 64 ip-id 0 bad short
udp [fd00::1]:40053 > [fd00::2]:53 len 1496 ttl 64 ip-id 7 frag 0+
udp [fd00::1]:0 > [fd00::2]:0 len 99 ttl 64 ip-id 7 frag 1448
icmpv6 fd00::1 > fd00::2 type 128 code 0 id 7 len 48 ttl 64 ip-id 0
icmpv6 fd00::1 > fd00::2 type 135 code 0 id 0 len 72 ttl 255 ip-id 0
icmpv6 fd00::1 > fd00::2 type 2 code 0 id 0 len 96 ttl 64 ip-id 0 mtu 1280 about udp [fd00::2]:53 > [fd00::1]:40053 len 1500 ttl 63 ip-id 0
icmpv6 fd00::1 > fd00::2 type 1 code 4 id 0 len 91 ttl 64 ip-id 0 about udp [fd00::2]:0 > [fd00::1]:0 len 1500 ttl 63 ip-id 0 bad short
icmpv6 fd00::1 > fd00::2 type 1 code 4 id 0 len 180 ttl 64 ip-id 0 about udp [fd00::2]:0 > [fd00::1]:0 len 1500 ttl 63 ip-id 0 bad short
59 fd00::1 > fd00::2 len 40 ttl 64 ip-id 0`

func TestRoundTrip(t *testing.T) {
	for line := range strings.SplitSeq(strings.TrimSpace(lines), "\n") {
		p, err := conntrack.ParsePacket(line)
		if err != nil {
			t.Fatal(err)
		}
		if got := lineOf(Decode(Encode(&p))); got != line {
			t.Errorf("\n got %s\nwant %s", got, line)
		}
	}
}

// A Len that is too small or too large is moved to what can be.
func TestImpossibleLengths(t *testing.T) {
	for line, want := range map[string]int{
		"udp 10.0.0.1:1 > 10.0.0.2:2 len 0 ttl 64 ip-id 0":                    28,
		"udp 10.0.0.1:1 > 10.0.0.2:2 len 70000 ttl 64 ip-id 0":                65535,
		"udp [fd00::1]:1 > [fd00::2]:2 len 70000 ttl 64 ip-id 0":              65575,
		"udp 10.0.0.1:0 > 10.0.0.2:0 len 1000 ttl 64 ip-id 0 bad short":       67,
		"udp 10.0.0.1:0 > 10.0.0.2:0 len 0 ttl 64 ip-id 0 bad short":          20,
		"icmp 10.0.0.1 > 10.0.0.2 type 8 code 0 id 1 len 0 ttl 64 ip-id 0 df": 28,
	} {
		p, err := conntrack.ParsePacket(line)
		if err != nil {
			t.Fatal(err)
		}
		p.Len = want
		got := lineOf(Decode(Encode(&p)))
		if p.Line() != got {
			t.Errorf("%s: %s", line, got)
		}
	}
}

func TestMixedAddresses(t *testing.T) {
	for _, line := range []string{
		"udp 10.0.0.1:1 > [fd00::2]:2 len 28 ttl 64 ip-id 0",
		"icmp 10.0.0.1 > 10.0.0.2 type 3 code 1 id 0 len 200 ttl 64 ip-id 1 about udp [fd00::1]:1 > [fd00::2]:2 len 28 ttl 64 ip-id 0",
	} {
		p, err := conntrack.ParsePacket(line)
		if err != nil {
			t.Fatal(err)
		}
		if b := Encode(&p); b != nil {
			t.Errorf("%s: %x", line, b)
		}
		if b := Fragment(&p, 0, 8); b != nil {
			t.Errorf("%s, a fragment: %x", line, b)
		}
	}
}

// Any packet comes back from its bytes.
func TestRoundTripOfAny(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 20000 {
		p := anyPacket(r)
		b := Encode(&p)
		got, ok := Decode(b)
		if !ok || got.Line() != p.Line() {
			t.Fatalf("\n got %s\nwant %s\nfrom %x", lineOf(got, ok), p.Line(), b)
		}
	}
}

// anyPacket makes a packet that can be.
func anyPacket(r *rand.Rand) conntrack.Packet {
	p := conntrack.Packet{Src: netip.AddrFrom4([4]byte{10, 0, 0, byte(r.IntN(3))}), Dst: netip.AddrFrom4([4]byte{10, 0, 1, byte(r.IntN(3))}),
		TTL: uint8(r.IntN(256)), ID: uint16(r.IntN(1 << 16)), DF: r.IntN(2) == 0}
	icmp, header := conntrack.ICMP, ipv4Header
	if r.IntN(2) == 0 {
		p.Src, p.Dst = netip.AddrFrom16([16]byte{0xfd, 15: byte(r.IntN(3))}), netip.AddrFrom16([16]byte{0xfd, 15: byte(r.IntN(3))})
		icmp, header, p.DF, p.ID = conntrack.ICMPv6, ipv6Header, false, 0
	}
	p.Proto = []uint8{conntrack.UDP, icmp, conntrack.TCP, conntrack.SCTP, udpLite, dccp, 47, 99, 253}[r.IntN(9)]
	need := headerSize(p.Proto)
	p.Len = header + need + r.IntN(1500)
	switch r.IntN(6) {
	case 0:
		p.Bad = []string{badShort, badLength, badChecksum}[r.IntN(3)]
	case 1:
		p.Offset, p.More, p.ID = r.IntN(100)*8, true, uint16(r.IntN(1<<16))
	}
	_, sums := checksumAt(p.Proto)
	switch {
	case p.Bad == badShort && need > 0:
		p.Len = header + r.IntN(need)
		return p
	case p.Bad == badLength && p.Proto != conntrack.UDP && p.Proto != conntrack.TCP && p.Proto != udpLite, p.Bad == badChecksum && !sums, p.Bad == badShort:
		p.Bad = ""
	}
	if p.IsFragment() && header == ipv6Header {
		p.Len += fragmentHeader
	}
	if p.Offset > 0 {
		return p
	}
	fillL4(r, &p)
	return p
}

func fillL4(r *rand.Rand, p *conntrack.Packet) {
	switch {
	case conntrack.HasPorts(p.Proto):
		p.SrcPort, p.DstPort = uint16(r.IntN(1<<16)), uint16(r.IntN(1<<16))
	case tupleSize(p.Proto) > 0:
		p.ICMPType, p.ICMPCode = uint8(r.IntN(256)), uint8(r.IntN(6))
		if !isError(p) {
			p.ICMPID = uint16(r.IntN(1 << 16))
			return
		}
		if tellsMTU(p) {
			p.MTU = r.IntN(1 << 16)
		}
		for p.About == nil {
			q := anyPacket(r)
			if q.Src.Is4() == p.Src.Is4() && q.Bad != badShort && q.About == nil {
				q.Bad, p.About = "", &q
				p.Len = max(p.Len, 2*ipv6Header+2*fragmentHeader+icmpHeader+20)
			}
		}
	}
}

// Fragments have the bytes of the whole in their places.
func TestFragments(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	cut := 0
	for range 2000 {
		p := anyPacket(r)
		p.Offset, p.More = 0, false
		if p.Src.Is6() {
			p.ID = uint16(r.IntN(1 << 16))
		}
		whole := Encode(&p)
		want := whole[len(whole)-l4Size(&p):]
		mtu := 100 + r.IntN(1000)
		pieces := Fragments(&p, mtu)
		got := make([]byte, len(want))
		if len(pieces) > 1 {
			cut++
		} else if !bytes.Equal(pieces[0], whole) {
			t.Fatalf("%s: whole: %x", p.Line(), pieces[0])
		}
		for i, piece := range pieces {
			q, ok := Decode(piece)
			if !ok || len(piece) > mtu || len(pieces) > 1 && (q.More != (i < len(pieces)-1) || q.Proto != p.Proto || q.DF != p.DF || q.ID != p.ID) {
				t.Fatalf("%s cut by %d: piece %d: %s", p.Line(), mtu, i, lineOf(q, ok))
			}
			header := len(whole) - len(want)
			if q.IsFragment() && p.Src.Is6() {
				header += fragmentHeader
			}
			copy(got[q.Offset:], piece[header:])
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("%s cut by %d: \n got %x\nwant %x", p.Line(), mtu, got, want)
		}
	}
	if cut < 500 {
		t.Errorf("only %d packets had to be cut", cut)
	}
	p, _ := conntrack.ParsePacket("udp 10.0.0.1:1 > 10.0.0.2:2 len 100 ttl 64 ip-id 0")
	if got := Fragments(&p, 27); got != nil {
		t.Errorf("an MTU that holds no data: %x", got)
	}
}

// A decoded packet is made into bytes that decode to the same, and nothing panics.
func FuzzDecode(f *testing.F) {
	for line := range strings.SplitSeq(strings.TrimSpace(lines), "\n") {
		p, err := conntrack.ParsePacket(line)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(Encode(&p), true)
	}
	f.Fuzz(func(t *testing.T, b []byte, mend bool) {
		if mend && len(b) > 0 && b[0]>>4 == 4 {
			mendHeader(b)
		}
		DecodeCut(b, len(b)+100)
		DecodeUnverified(b)
		p, ok := Decode(b)
		if !ok {
			return
		}
		line := p.Line()
		if back, err := conntrack.ParsePacket(line); err != nil || back.Line() != line {
			t.Fatalf("the line %q does not parse back: %v", line, err)
		}
		again := Encode(&p)
		if got := lineOf(Decode(again)); got != line {
			t.Fatalf("\n got %s\nwant %s\nfrom %x\nthen %x", got, line, b, again)
		}
		if q, _ := Decode(again); !bytes.Equal(Encode(&q), again) {
			t.Fatalf("other bytes at the second time: %s", line)
		}
	})
}

// mendHeader puts the right checksum into an IPv4 header, so that the fuzzer need not find it.
func mendHeader(b []byte) {
	n := int(b[0]&15) * 4
	if n < ipv4Header || len(b) < n {
		return
	}
	b[10], b[11] = 0, 0
	var s sum
	s.add(b[:n])
	c := ^s.fold()
	b[10], b[11] = byte(c>>8), byte(c)
}

func ExampleEncode() {
	p, err := conntrack.ParsePacket("udp 10.0.0.1:40053 > 10.0.0.2:53 len 32 ttl 64 ip-id 4660 df")
	if err != nil {
		panic(err)
	}
	fmt.Printf("% x\n", Encode(&p))
	// Output: 45 00 00 20 12 34 40 00 40 11 14 97 0a 00 00 01 0a 00 00 02 9c 75 00 35 00 0c 3d 15 08 09 0a 0b
}
