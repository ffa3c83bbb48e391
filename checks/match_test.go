package checks

import (
	"fmt"
	"testing"
	"time"

	"ctlab/checks/conntrack"
)

func parsed(t *testing.T, line string) *conntrack.Entry {
	t.Helper()
	e, err := conntrack.ParseEntry(line)
	if err != nil {
		t.Fatal(err)
	}
	return &e
}

const udpEntry = "udp 10.244.2.5:40053 > 10.96.0.10:53 | 10.244.1.10:53 > 10.244.2.5:40053 status seen-reply,assured,confirmed,dnat"

func TestMismatch(t *testing.T) {
	full := udpEntry + " timeout 5s zone 3 mark 0x14 packets 3/2 bytes 300/200 use 1"
	tcp := "tcp 10.244.2.5:1 > 10.96.0.10:80 | 10.244.1.10:80 > 10.244.2.5:1 CLOSE_WAIT wscale 7/7 tcp-flags 0x0/0x0 status confirmed"
	for _, c := range []struct{ entry, line, want string }{
		{udpEntry, "udp any > any", "[]"},
		{udpEntry, "udp app:40053 > dns:53 | server:53 > app:40053 assured seen-reply dnat", "[]"},
		{udpEntry, "udp app:40000..40100 > 10.96.0.0/16", "[]"},
		{udpEntry, "tcp app > dns", "[protocol]"},
		{udpEntry, "udp server > dns", "[source]"},
		{udpEntry, "udp app:40054 > dns:54", "[source destination]"},
		{udpEntry, "udp app > dns | dns > any:40054", "[reply source reply destination]"},
		{udpEntry, "udp app > dns unreplied not-assured snat", "[snat not-seen-reply not-assured]"},
		{udpEntry, "udp app > dns stale", "[]"},
		{udpEntry, "udp app > dns not-stale", "[not-stale]"},
		{udpEntry, "udp app > dns 5s", "[time left]"},
		{udpEntry, "udp app > dns zone 0 zone-orig 0 zone-reply 0 mark 0", "[]"},
		{udpEntry, "udp app > dns zone 1 mark 1", "[zone mark]"},
		{udpEntry, "udp app > dns packets ../..", "line"},
		{udpEntry, "udp app > dns packets 0../0.. use 0..", "[packets use]"},
		{full, "udp app > dns 5s zone 3 zone-orig 3 zone-reply 3 mark 0x14 packets 3/2 use 1", "[]"},
		{full, "udp app > dns mark 0x4/0xf packets 1../..2", "[]"},
		{full, "udp app > dns mark 0x4", "[mark]"},
		{full, "udp app > dns zone-orig 4", "[zone-orig]"},
		{full, "udp app > dns packets 3/3", "[packets]"},
		{full, "udp app > dns packets 2/2 use 2", "[packets use]"},
		{udpEntry + " zone-orig 4", "udp app > dns zone-orig 4 zone-reply 0", "[]"},
		{udpEntry + " zone-orig 4", "udp app > dns zone 4", "[zone]"},
		{tcp, "tcp app > dns CLOSE_WAIT", "[]"},
		{tcp, "tcp app > dns CLOSE", "[state]"},
	} {
		w, err := ParseEntryWant(c.line, places)
		if c.want == "line" {
			if err == nil {
				t.Errorf("%s: no error", c.line)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.line, err)
			continue
		}
		e := parsed(t, c.entry)
		if got := fmt.Sprint(w.Mismatch(e, true, 0)); got != c.want {
			t.Errorf("%s\n%s\ngot %s, want %s", c.entry, c.line, got, c.want)
		}
		if w.Matches(e, true, 0) != (c.want == "[]") {
			t.Errorf("%s: Matches and Mismatch do not agree", c.line)
		}
	}
}

func TestTimeLeft(t *testing.T) {
	for _, c := range []struct {
		want  string
		shown uint32
		age   time.Duration
		ok    bool
	}{
		{"5s", 5, 0, true},
		{"5s", 4, 0, true}, // the read came a little later
		{"5s", 3, 0, false},
		{"5s", 6, 0, false},
		{"5s", 4, 300 * time.Millisecond, true},
		{"5s", 3, 300 * time.Millisecond, true},
		{"5s", 2, 300 * time.Millisecond, false},
		{"5s", 6, 300 * time.Millisecond, false},
		{"5s", 2, 2 * time.Second, true},
		{"5s", 1, 2 * time.Second, false},
		{"5s", 5, 2 * time.Second, true}, // as printed by a run that read as late
		{"5s", 3, -1, true},
		{"5s", 2, -1, false},
		{"5s", 6, -1, false},
		{"0s", 0, time.Hour, true},
		{"432000s", 431999, 10 * time.Millisecond, true},
		{"5s..6s", 5, time.Hour, true},
		{"5s..6s", 6, 0, true},
		{"5s..6s", 4, 0, false},
		{"5s..6s", 7, 0, false},
		{"5s..", 4294967295, 0, true},
		{"5s..", 4, 0, false},
		{"..5s", 0, 0, true},
		{"..5s", 6, 0, false},
	} {
		w, err := ParseEntryWant("udp any > any "+c.want, places)
		if err != nil {
			t.Fatal(err)
		}
		e := parsed(t, fmt.Sprintf("%s timeout %ds", udpEntry, c.shown))
		if got := w.Matches(e, false, c.age); got != c.ok {
			t.Errorf("want %s, shown %d, age %s: %t", c.want, c.shown, c.age, got)
		}
	}
}
