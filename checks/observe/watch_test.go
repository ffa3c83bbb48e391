//go:build linux

package observe

import (
	"net/netip"
	"os"
	"testing"
	"unsafe"

	"github.com/mdlayher/netlink"

	"ctlab/internal/netns"
)

// giveUp leaves a test out on a machine that does not have what it needs, but not in CI.
func giveUp(t testing.TB, why any) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// needNamespace makes a namespace for a test.
func needNamespace(t testing.TB) *netns.NS {
	t.Helper()
	if os.Geteuid() != 0 {
		giveUp(t, "needs root")
	}
	ns, err := netns.New("watched")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	if err := ns.Do(setLoopbackUp); err != nil {
		t.Fatal(err)
	}
	return ns
}

// needBPF opens what a test of BPF needs.
func needBPF(t testing.TB) (*BPF, *netns.NS) {
	t.Helper()
	ns := needNamespace(t)
	b, err := OpenBPF()
	if err != nil {
		giveUp(t, err)
	}
	w, err := b.Watch(ns)
	if err != nil {
		giveUp(t, err)
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

// Each packet has its record, which tells it apart, by whatever means.
func TestCTInfos(t *testing.T) {
	for name, open := range map[string]func(*netns.NS) (CTInfos, error){"BPF": openByBPF, "nftrace": openByTrace} {
		t.Run(name, func(t *testing.T) { testCTInfos(t, name, open) })
	}
}

func testCTInfos(t *testing.T, name string, open func(*netns.NS) (CTInfos, error)) {
	ns := needNamespace(t)
	c, err := open(ns)
	if err != nil {
		giveUp(t, err)
	}
	if c.Source() != name {
		t.Errorf("%s, want %s", c.Source(), name)
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
	seen, lost, err := c.Close()
	if err != nil || lost != 0 {
		t.Fatal(lost, err)
	}
	if len(seen) != 8 {
		t.Fatalf("%d records of 2 datagrams and 2 errors about them, which pass two places each: %+v", len(seen), seen)
	}
	for i, got := range seen {
		if got.CT != "invalid" || got.Ifindex != i%2 || got.At > Monotonic() || got.Packet.Src.String() != want[i/4] {
			t.Errorf("record %d: %+v", i, got)
		}
		about := &got.Packet
		if i%4 >= 2 {
			about = about.About
		}
		if about == nil {
			if name == "BPF" {
				t.Errorf("record %d: the quote is missing", i)
			}
			continue
		}
		if about.SrcPort != 40053 || about.DstPort != 9 || about.Len != payload+28+20*(i/4) {
			t.Errorf("record %d: %s", i, about.Line())
		}
	}
}

// A record that the reader is too late for is known to be lost.
func TestTraceLost(t *testing.T) {
	ns := needNamespace(t)
	r := &nftTraces{done: make(chan struct{})}
	if err := r.open(ns); err != nil { // nobody reads yet
		giveUp(t, err)
	}
	if err := r.conn.SetReadBuffer(1 << 14); err != nil {
		t.Fatal(err)
	}
	conn, err := ns.DialUDP(netip.AddrPort{}, netip.MustParseAddrPort("127.0.0.1:9"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for range 200 {
		_, _ = conn.Write([]byte("x")) // nobody listens: every other one reports that
	}
	go r.collect()
	if seen, lost, err := r.Close(); err != nil || lost == 0 || len(seen) == 0 {
		t.Errorf("%d seen, %d lost, %v", len(seen), lost, err)
	}
}

func TestTraceCT(t *testing.T) {
	for _, c := range []struct {
		state uint32
		reply bool
		want  string
	}{{0, false, "invalid"}, {1, false, "invalid"}, {2, false, "established"}, {2, true, "established-reply"}, {4, false, "related"}, {4, true, "related-reply"},
		{8, false, "new"}, {64, false, "untracked"}} {
		if got := traceCT(c.state, c.reply); got != c.want {
			t.Errorf("%+v: %s", c, got)
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

// A report of listeners has a header more than a record has room for; nothing else is taken for one.
func TestReportsListeners(t *testing.T) {
	head := func(next byte, to string) []netlink.Attribute {
		b := make([]byte, 40)
		b[0], b[6] = 6<<4, next
		copy(b[24:], netip.MustParseAddr(to).AsSlice())
		return []netlink.Attribute{{Type: traceTable, Data: []byte("x")}, {Type: traceNetwork, Data: b}}
	}
	for _, c := range []struct {
		attrs []netlink.Attribute
		want  bool
	}{{head(0, "ff02::16"), true}, {head(0, "fd00::1"), false}, {head(58, "ff02::16"), false}, {nil, false},
		{[]netlink.Attribute{{Type: traceNetwork, Data: make([]byte, 20)}}, false}} {
		if got := reportsListeners(c.attrs); got != c.want {
			t.Errorf("%v: %v", c.attrs, got)
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

func BenchmarkCTInfosOpen(b *testing.B) {
	for name, open := range map[string]func(*netns.NS) (CTInfos, error){"BPF": openByBPF, "nftrace": openByTrace} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				c, err := open(needNamespace(b))
				if err != nil {
					b.Fatal(err)
				}
				if _, _, err := c.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
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
