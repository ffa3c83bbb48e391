package observe

import (
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"

	"ctlab/checks/conntrack"
	"ctlab/checks/wire"
)

// Neighbour discovery says the same as ARP does.
func TestDecodeND(t *testing.T) {
	a, b, many := netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2"), netip.MustParseAddr("ff02::1:ff00:2")
	for name, c := range map[string]struct {
		kind     uint8
		src, dst netip.Addr
		target   netip.Addr
		want     *ARP
	}{
		"solicitation":         {135, a, many, b, &ARP{Sender: a, Target: b}},
		"advertisement":        {136, b, a, b, &ARP{Reply: true, Sender: b, Target: a}},
		"router solicitation":  {133, a, many, b, nil},
		"address being tested": {135, netip.IPv6Unspecified(), many, b, &ARP{Sender: netip.IPv6Unspecified(), Target: b}},
	} {
		p := conntrack.Packet{Proto: conntrack.ICMPv6, ICMPType: c.kind, Src: c.src, Dst: c.dst, Len: 72, TTL: 255}
		raw := wire.Encode(&p)
		copy(raw[48:], c.target.AsSlice())
		fr := Frame{Raw: raw}
		fr.ip(len(raw), true)
		if fr.Packet != nil || (fr.ARP == nil) != (c.want == nil) || fr.ARP != nil && *fr.ARP != *c.want {
			t.Errorf("%s: %+v", name, fr)
		}
		fr = Frame{Raw: raw}
		if fr.ip(len(raw), false); fr.ARP != nil || fr.Packet != nil {
			t.Errorf("%s with a wrong checksum: %+v", name, fr)
		}
	}
}

// The packet is told as far as it was kept.
func TestCutFrame(t *testing.T) {
	p := conntrack.Packet{Proto: conntrack.UDP, Src: netip.MustParseAddr("10.0.0.1"), Dst: netip.MustParseAddr("10.0.0.2"), SrcPort: 1, DstPort: 2, Len: 3000, TTL: 64}
	raw := wire.Encode(&p)[:1500]
	fr := Frame{Raw: raw}
	if fr.ip(3000, false); fr.Packet == nil || fr.Packet.Line() != p.Line() {
		t.Errorf("kept in part: %+v", fr.Packet)
	}
	fr = Frame{Raw: raw}
	if fr.ip(1500, false); fr.Packet != nil {
		t.Errorf("cut off on the wire, which ip_rcv drops: %s", fr.Packet.Line())
	}
}

func FuzzDecodeNeighbours(f *testing.F) {
	for _, text := range []string{
		"00010800060400010200000000010a0000010000000000000a000002",
		"6000000000203aff fd000000000000000000000000000001 ff0200000000000000000001ff000002 87000000 00000000 fd000000000000000000000000000002 0101020000000001",
	} {
		b, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, len(b), true)
	}
	f.Fuzz(func(_ *testing.T, b []byte, size int, verified bool) {
		decodeARP(b)
		fr := Frame{Raw: b}
		fr.ip(size, verified)
	})
}
