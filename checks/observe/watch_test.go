//go:build linux

package observe

import (
	"net/netip"
	"os"
	"testing"
	"unsafe"

	"ctlab/internal/netns"
)

// needBPF opens what a test needs; where the machine does not have it, the test is left out, but not in CI.
func needBPF(t testing.TB) (*BPF, *netns.NS) {
	t.Helper()
	giveUp := t.Skip
	if os.Getenv("CI") != "" {
		giveUp = t.Fatal
	}
	if os.Geteuid() != 0 {
		giveUp("needs root")
	}
	b, err := OpenBPF()
	if err != nil {
		giveUp(err)
	}
	ns, err := netns.New("watched")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	if err := ns.Do(setLoopbackUp); err != nil {
		t.Fatal(err)
	}
	w, err := b.Watch(ns)
	if err != nil {
		giveUp(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b, ns
}

// A packet over lo passes four places, one after the other; without a rule that asks for it there is no tracking.
func TestWatch(t *testing.T) {
	b, ns := needBPF(t)
	w, err := b.Watch(ns)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for n, addr := range []string{"127.0.0.1:9", "[::1]:9"} {
		conn, err := ns.DialUDP(netip.AddrPort{}, netip.MustParseAddrPort(addr), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := conn.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		// The packet, and the error that comes back as nobody listens.
		want := Glance{Count: uint64(2 * (n + 1))}
		for p, want := range map[Place]Glance{Prerouting: want, LocalOut: want, LocalIn: want, Postrouting: want, Forward: {}} {
			if got := w.At(p); got != want {
				t.Errorf("%s: place %d: %+v, want %+v", addr, p, got, want)
			}
		}
	}
}

// Each packet has its record, which tells it apart.
func TestCTInfos(t *testing.T) {
	_, ns := needBPF(t)
	c, err := OpenCTInfos(ns)
	if err != nil {
		t.Fatal(err)
	}
	const payload = 300
	var want []string
	for _, addr := range []string{"127.0.0.1", "::1"} {
		conn, err := ns.DialUDP(netip.AddrPortFrom(netip.MustParseAddr(addr), 40053), netip.AddrPortFrom(netip.MustParseAddr(addr), 9), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := conn.Write(make([]byte, payload)); err != nil {
			t.Fatal(err)
		}
		want = append(want, addr)
	}
	before := Monotonic()
	seen, lost, err := c.Close()
	if err != nil || lost != 0 {
		t.Fatal(lost, err)
	}
	if len(seen) != 8 {
		t.Fatalf("%d records of 2 datagrams and 2 errors about them, which pass two places each: %+v", len(seen), seen)
	}
	for i, got := range seen {
		about := &got.Packet
		if i%4 >= 2 {
			about = about.About
		}
		if got.CT != "invalid" || got.Ifindex != i%2 || got.At > before || about == nil || about.SrcPort != 40053 || about.DstPort != 9 ||
			about.Src.String() != want[i/4] || i%4 < 2 && about.Len != payload+28+20*(i/4) {
			t.Errorf("record %d: %+v, about %+v", i, got, about)
		}
	}
}

// What does not fit into the ring is counted.
func TestCTInfosLost(t *testing.T) {
	b, ns := needBPF(t)
	r := &bpfLooks{done: make(chan struct{})}
	if err := r.open(b, ns); err != nil { // nobody reads yet
		t.Fatal(err)
	}
	conn, err := ns.DialUDP(netip.AddrPort{}, netip.MustParseAddrPort("127.0.0.1:9"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	const sent = 4000 // of which each has four records, counting the error about it
	for range sent {
		_, _ = conn.Write([]byte("x")) // nobody listens: every other one reports that
	}
	go r.collect()
	seen, lost, err := r.Close()
	if err != nil {
		t.Fatal(err)
	}
	if most := ringSize / int(unsafe.Sizeof(look{})); len(seen) > most || len(seen) < most/2 || lost == 0 {
		t.Errorf("%d seen, %d lost; there is room for %d", len(seen), lost, most)
	}
}

func TestAttachment(t *testing.T) {
	for a, want := range map[Attachment]string{0: "invalid", 7: "untracked", 0x1000: "established", 0x1001: "related", 0x1002: "new",
		0x1003: "established-reply", 0x1004: "related-reply", 0x1005: "ctinfo 5"} {
		if a.CT() != want {
			t.Errorf("%#x: %s, want %s", uint64(a), a.CT(), want)
		}
	}
	if a := Attachment(0xffff888000001003); a.Conn() != 0xffff888000001000 {
		t.Errorf("conn %#x", a.Conn())
	}
}

func BenchmarkOpenBPF(b *testing.B) {
	for b.Loop() {
		if _, err := OpenBPF(); err != nil {
			b.Skip(err)
		}
	}
}

func BenchmarkWatchOpen(b *testing.B) {
	bpf, ns := needBPF(b)
	for b.Loop() {
		w, err := bpf.Watch(ns)
		if err != nil {
			b.Fatal(err)
		}
		if err := w.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkWatchRead(b *testing.B) {
	bpf, ns := needBPF(b)
	w, err := bpf.Watch(ns)
	if err != nil {
		b.Fatal(err)
	}
	defer w.Close()
	for b.Loop() {
		w.At(Prerouting)
	}
}

func BenchmarkCTInfosOpen(b *testing.B) {
	_, ns := needBPF(b)
	for b.Loop() {
		c, err := OpenCTInfos(ns)
		if err != nil {
			b.Fatal(err)
		}
		if _, _, err := c.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// What has no entry is invalid, but for what is told to be untracked, whatever else is in the lowest bits.
func TestAttachmentWithoutEntry(t *testing.T) {
	for nfct, want := range map[Attachment]string{0: "invalid", 1: "invalid", 7: "untracked", 0x1000: "established", 0x1001: "related", 0x1007: "untracked"} {
		if got := nfct.CT(); got != want {
			t.Errorf("%#x: %s, want %s", uint64(nfct), got, want)
		}
	}
}
