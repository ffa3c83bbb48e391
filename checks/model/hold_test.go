package model

import (
	"strings"
	"testing"

	"ctlab/checks/conntrack"
)

func hold(t *testing.T, line string) conntrack.Hold {
	t.Helper()
	h, err := conntrack.ParseHold(line)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

const flow = "10.0.1.2:4000 > 10.0.2.1:53"

// A held packet has its entry with it: counted, and not in the table until it is confirmed. Clones know of it, and
// fingerprints.
func TestHeldPacket(t *testing.T) {
	for _, place := range []string{"before-snat", "before-confirm"} {
		n := node(t, tracked)
		empty := n.Fingerprint()
		n.Hold(hold(t, place+" udp any > any:53 new"))
		if n.Fingerprint() == empty {
			t.Errorf("%s: the fingerprint does not know of the hold", place)
		}
		o := n.Packet(conntrack.At(1), "a", packet(t, flow))
		if string(o.Held) != place || len(o.Left) != 0 || o.Dropped != "" || len(n.Held()) != 1 {
			t.Fatalf("%s: %+v", place, o)
		}
		least, most := n.Count(conntrack.At(1))
		if dump := n.Dump(conntrack.At(1)); least != 1 || most != 1 || len(dump) != 0 {
			t.Errorf("%s: count %d..%d, dump %v", place, least, most, dump)
		}
		before := n.Fingerprint()
		clone := n.Clone(FirstOption)
		o = clone.Release(conntrack.At(500), 1, true)
		if len(o.Left) != 1 || o.Left[0].Packet.TTL != 63 || o.Held != "" || len(clone.Held()) != 0 {
			t.Errorf("%s: released: %+v", place, o)
		}
		if dump := clone.Dump(conntrack.At(500)); len(dump) != 1 || dump[0].Expiry != conntrack.At(500+30*250) {
			t.Errorf("%s: the time spent waiting is not charged: %v", place, dump)
		}
		if n.Fingerprint() != before || len(n.Held()) != 1 {
			t.Errorf("%s: the clone's release has changed the original", place)
		}
		if o = n.Release(conntrack.At(500), 1, false); len(o.Left) != 0 || o.Dropped == "" {
			t.Errorf("%s: released to be dropped: %+v", place, o)
		}
		if least, most := n.Count(conntrack.At(500)); least != 0 || most != 0 {
			t.Errorf("%s: count %d..%d of nothing", place, least, most)
		}
	}
}

func TestWhatIsHeld(t *testing.T) {
	n := node(t, tracked)
	n.Hold(hold(t, "before-snat any any > any"))
	n.Hold(hold(t, "before-confirm any any > any"))
	if o := n.Packet(conntrack.At(1), "a", packet(t, flow)); o.Held != conntrack.BeforeSNAT {
		t.Errorf("held at %q", o.Held)
	}
	n.Packet(conntrack.At(1), "a", packet(t, "10.0.1.2:4001 > 10.0.2.1:53"))
	// held again, as the last one
	if o := n.Release(conntrack.At(2), 1, true); o.Held != conntrack.BeforeConfirm {
		t.Errorf("held at %q", o.Held)
	}
	if h := n.Held(); len(h) != 2 || h[0].SrcPort != 4001 || h[1].SrcPort != 4000 {
		t.Errorf("order: %v", h)
	}
	// no hold any more: those that wait still do, others do not
	n.Unhold()
	if o := n.Packet(conntrack.At(3), "a", packet(t, "10.0.1.2:4002 > 10.0.2.1:53")); o.Held != "" || len(n.Held()) != 2 {
		t.Errorf("held at %q", o.Held)
	}
	if n.Release(conntrack.At(3), 3, true); !strings.Contains(strings.Join(n.NotModelled(), ""), "packet 3 of 2") {
		t.Errorf("released what is not there: %v", n.NotModelled())
	}
	// with the device goes what came from it or would leave by it
	n.Down(conntrack.At(4), "b")
	if least, most := n.Count(conntrack.At(4)); len(n.Held()) != 0 || least != 1 || most != 1 {
		t.Errorf("%v, count %d..%d", n.Held(), least, most)
	}
}

// A hold is a rule that asks conntrack: tracking is on while it stands. A packet without an entry is not held.
func TestHoldTracks(t *testing.T) {
	n := node(t, "*raw\n:PREROUTING ACCEPT\n-A PREROUTING -p udp --sport 4001 -j CT --notrack\nCOMMIT\n")
	if o := n.Packet(conntrack.At(1), "a", packet(t, flow)); o.CT != "" {
		t.Errorf("tracked without a need: %s", o.CT)
	}
	n.Hold(hold(t, "before-confirm udp any > any"))
	if o := n.Packet(conntrack.At(1), "a", packet(t, flow)); o.CT != "new" || o.Held == "" {
		t.Errorf("%+v", o)
	}
	if o := n.Packet(conntrack.At(1), "a", packet(t, "10.0.1.2:4001 > 10.0.2.1:53")); o.CT != "untracked" || o.Held != "" {
		t.Errorf("%+v", o)
	}
}
