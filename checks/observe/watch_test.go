//go:build linux

package observe

import (
	"net/netip"
	"os"
	"testing"

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
