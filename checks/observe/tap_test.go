//go:build linux

package observe

import (
	"net/netip"
	"os"
	"testing"

	"ctlab/internal/netns"
)

// What does not fit into the ring while nobody reads is counted as lost, and what does is there.
func TestFullRingIsLoss(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("needs root")
		}
		t.Skip("needs root")
	}
	ns, err := netns.New("tap")
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	if err := ns.Do(setLoopbackUp); err != nil {
		t.Fatal(err)
	}
	conn, err := ns.DialUDP(netip.AddrPort{}, netip.MustParseAddrPort("127.0.0.1:9"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	tap, err := open(ns)
	if err != nil {
		t.Fatal(err)
	}
	const sent = 2 * frames
	for range sent {
		_, _ = conn.Write([]byte("x")) // nobody listens: every other one reports that
	}
	tap.done.Add(1)
	go tap.collect()
	seen, lost, err := tap.Close()
	if err != nil {
		t.Fatal(err)
	}
	if len(seen) != frames || lost < sent-frames {
		t.Errorf("%d frames sent through a ring of %d: %d seen, %d lost", sent, frames, len(seen), lost)
	}
}
