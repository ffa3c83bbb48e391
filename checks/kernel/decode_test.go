//go:build linux

package kernel

import (
	"net/netip"
	"testing"

	"ctlab/checks/conntrack"
)

// sample is the body of an entry message as the encoder's helpers make it, with attributes of all shapes.
func sample() []byte {
	m := newMessage(msgNew, 0, 1, 2)
	orig := conntrack.Tuple{Proto: conntrack.UDP, Src: netip.MustParseAddr("10.0.0.1"), SrcPort: 40053, Dst: netip.MustParseAddr("10.96.0.10"), DstPort: 53}
	inv, _ := orig.Inverse()
	encodeTuple(m, ctaTupleOrig, orig)
	encodeTuple(m, ctaTupleReply, inv)
	m.u32(ctaStatus, 0x1ae)
	m.u32(ctaTimeout, 0)
	m.nest(ctaCountersOrig, func() { m.attr(ctaCountersPackets, 0, 0, 0, 0, 0, 0, 0, 9) })
	m.nest(ctaHelp, func() { m.attr(ctaHelpName, 't', 'f', 't', 'p', 0) })
	m.u16(ctaZone, 5)
	m.attr(99, 1, 2, 3)
	return m.bytes()[16:]
}

func TestDecodeEntry(t *testing.T) {
	e, err := decodeEntry(sample())
	if err != nil {
		t.Fatal(err)
	}
	want := "udp 10.0.0.1:40053 > 10.96.0.10:53 | 10.96.0.10:53 > 10.0.0.1:40053 status seen-reply,assured,confirmed,dnat,snat-done,dnat-done " +
		"timeout 0s zone 5 packets 9/0 bytes 0/0 helper 74667470 unknown 99 010203"
	if e.String() != want {
		t.Errorf("got  %s\nwant %s", e.String(), want)
	}
	// Absent is not zero: a time of 0 was given, a mark was not.
	if !e.Has(conntrack.HasTimeout) || e.Has(conntrack.HasMark) || e.Has(conntrack.HasID) {
		t.Errorf("known: %b", e.Known)
	}
	back, err := conntrack.ParseEntry(e.String())
	if err != nil || back.String() != want || back.Known != e.Known {
		t.Errorf("back: %s, %v", back.String(), err)
	}
}

func TestDecodeRefuses(t *testing.T) {
	for name, b := range map[string][]byte{
		"empty": nil, "no tuples": {2, 0, 0, 0}, "attribute longer than the message": {2, 0, 0, 0, 200, 0, 3, 0},
		"attribute of length 3": {2, 0, 0, 0, 3, 0, 3, 0}, "status of 2 bytes": append(sample(), 6, 0, 3, 0, 1, 2, 0, 0),
	} {
		if _, err := decodeEntry(b); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// FuzzDecode: no bytes from the kernel make the decoder panic, and what it takes has a line form that
// parses back.
func FuzzDecode(f *testing.F) {
	f.Add(sample())
	f.Add(sample()[:40])
	f.Fuzz(func(t *testing.T, b []byte) {
		_ = eachMessage(b, func(h header, body []byte) error { _, err := decodeEvent(h, body); return err })
		e, err := decodeEntry(b)
		if err != nil {
			return
		}
		back, err := conntrack.ParseEntry(e.String())
		if err != nil {
			t.Fatalf("%s: %v", e.String(), err)
		}
		if back.String() != e.String() {
			t.Fatalf("%s\n%s", e.String(), back.String())
		}
	})
}
