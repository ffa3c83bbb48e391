package model

import (
	"net/netip"
	"testing"

	"ctlab/checks/conntrack"
)

// Entries that fill the table count, leave no room for any other, are in no listing, and go with a flush.
func TestFill(t *testing.T) {
	profile, err := ProfileFor("6.18")
	if err != nil {
		t.Fatal(err)
	}
	const limit = 2000
	n := New(Config{Profile: profile, HZ: 250})
	n.Set("net.netfilter.nf_conntrack_max", "2000")
	entry := func(port uint16) conntrack.Entry {
		orig := conntrack.Tuple{Proto: conntrack.UDP, Src: netip.MustParseAddr("10.0.0.1"), SrcPort: port, Dst: netip.MustParseAddr("10.0.0.2"), DstPort: 53}
		reply, _ := orig.Inverse()
		return conntrack.Entry{Orig: orig, Reply: reply, Status: conntrack.Assured | conntrack.SeenReply | conntrack.Confirmed, Timeout: 60}
	}
	at := conntrack.At(1000)
	if !n.Create(at, entry(1)) {
		t.Fatal("no room in an empty table")
	}
	n.Fill(at, limit-1, 600)
	if least, most := n.Count(at); least != limit || most != limit {
		t.Errorf("%d to %d entries, want %d", least, most, limit)
	}
	if n.Create(at, entry(2)) {
		t.Error("there is room in a full table")
	}
	if listed := n.Dump(at); len(listed) != 1 {
		t.Errorf("%d entries are listed, want the one that can be told apart", len(listed))
	}
	full := n.Fingerprint()
	n.Flush(at)
	if n.Fingerprint() == full {
		t.Error("full and empty look alike")
	}
	if _, most := n.Count(at); most != 0 || !n.Create(at, entry(2)) {
		t.Errorf("%d entries after a flush", most)
	}
}
