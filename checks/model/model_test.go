package model

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"ctlab/checks/conntrack"
)

const twoBackends = `*nat
:PREROUTING ACCEPT [0:0]
:svc - [0:0]
-A PREROUTING -j svc
-A svc -d 10.96.0.10/32 -p udp -m udp --dport 53 -m statistic --mode random --probability 0.5 -j DNAT --to-destination 10.0.2.1:53
-A svc -d 10.96.0.10/32 -p udp -m udp --dport 53 -j DNAT --to-destination 10.0.2.2:53
COMMIT
`

func load(t *testing.T, text string) *Ruleset {
	t.Helper()
	rs := NewRuleset()
	if err := rs.Restore(text, false); err != nil {
		t.Fatal(err)
	}
	return rs
}

// Stale means: none of the allowed choices of the present rules gives this binding.
func TestBindings(t *testing.T) {
	rs := load(t, twoBackends)
	orig, err := conntrack.ParseTuple("udp 10.0.1.2:40000 > 10.96.0.10:53")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, b := range rs.Bindings(orig, "app", nil) {
		got = append(got, b.String())
	}
	slices.Sort(got)
	if want := "10.0.2.1:53 > 10.0.1.2:40000, 10.0.2.2:53 > 10.0.1.2:40000"; strings.Join(got, ", ") != want {
		t.Errorf("got %s", got)
	}
	orig.DstPort = 54
	if b := rs.Bindings(orig, "app", nil); len(b) != 1 || b[0].Src != netip.MustParseAddr("10.96.0.10") {
		t.Errorf("a port without a rule: %v", b)
	}
}

// What the model does not know is an error that names it, and changes nothing.
func TestUnknownRulesAreNamed(t *testing.T) {
	for text, name := range map[string]string{
		"*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -m u32 --u32 0=1 -j ACCEPT\nCOMMIT": `match "u32"`,
		"*mangle\n:FORWARD ACCEPT [0:0]\n-A FORWARD -j TEE --gateway 10.0.0.1\nCOMMIT":     `target "TEE"`,
		"*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -j nowhere\nCOMMIT":                 `"nowhere"`,
		"*broute\nCOMMIT": `table "broute"`,
		"*nat\n":          "has no COMMIT",
	} {
		rs := load(t, twoBackends)
		before := len(rs.Hits())
		if err := rs.Restore(text, true); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%q: %v, want %s named", text, err, name)
		}
		if len(rs.Hits()) != before {
			t.Errorf("%q: the rules have changed", text)
		}
	}
}

// --noflush empties the user-defined chains that the text names and leaves the rest, with its counters.
func TestNoflush(t *testing.T) {
	rs := load(t, twoBackends)
	if err := rs.Restore("*nat\n:svc - [0:0]\n-A svc -j RETURN\nCOMMIT\n", true); err != nil {
		t.Fatal(err)
	}
	if hits := rs.Hits(); len(hits) != 2 || hits[0].Chain != "PREROUTING" || hits[1].Chain != "svc" {
		t.Errorf("%v", hits)
	}
	if rs.needsConntrack() {
		t.Error("a nat chain without a NAT target does not keep tracking on")
	}
	if rs := load(t, "*filter\n:x - [0:0]\n-A x -m conntrack --ctstate INVALID\nCOMMIT\n"); !rs.needsConntrack() {
		t.Error("a rule in a chain to which nothing jumps keeps tracking on")
	}
	if rs := load(t, "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -p udp -j ACCEPT\nCOMMIT\n"); rs.needsConntrack() {
		t.Error("this rule asks for no state")
	}
}

func TestProfileFor(t *testing.T) {
	for release, want := range map[string]string{"3.10.0-1160.el7": "3.10", "5.4.0-150-generic": "5.0", "5.10.262": "5.10", "6.1.0-18-amd64": "6.1", "6.18.44": "6.18", "7.3.4": "6.18", "6.2": "6.1"} {
		if p, err := ProfileFor(release); err != nil || p.Name != want {
			t.Errorf("%s: %s, %v; want %s", release, p.Name, err, want)
		}
	}
	for _, bad := range []string{"", "six", "2.6.32", "6"} {
		if p, err := ProfileFor(bad); err == nil {
			t.Errorf("%q: %s", bad, p.Name)
		}
	}
}

// FuzzRestore: no rules text makes the parser or the evaluation panic, and a refused one changes nothing.
func FuzzRestore(f *testing.F) {
	f.Add(twoBackends, false)
	f.Add("*raw\n:PREROUTING ACCEPT\n-A PREROUTING ! -i lo+ -s 10.0.0.0/8 -m mark --mark 0x1/0xff -j CT --notrack\nCOMMIT", true)
	f.Add(saved, false)
	f.Add("*nat\n:x -\n-A x -p udp -j SNAT --to-source 10.0.0.1-10.0.0.9:1-5 --persistent\n-I POSTROUTING 1 -j x\n-D x 1\n-X\nCOMMIT\n*filter\n-A OUTPUT -j REJECT\nCOMMIT", true)
	f.Fuzz(func(t *testing.T, text string, noflush bool) {
		rs := NewRuleset()
		if rs.Restore(text, noflush) != nil {
			if len(rs.tables) != 0 {
				t.Fatal("refused text has changed the rules")
			}
			return
		}
		n := New(Config{HZ: 250, Profile: profiles()[len(profiles())-1]})
		n.rules = rs
		n.SetLink("a", true)
		n.AddAddress("a", netip.MustParsePrefix("10.0.1.1/24"))
		n.AddRoute(Route{To: netip.MustParsePrefix("0.0.0.0/0"), Dev: "a"})
		n.Set("net.ipv4.ip_forward", "1")
		n.Send(conntrack.At(0), conntrack.Packet{Proto: conntrack.UDP, Dst: netip.MustParseAddr("10.96.0.10"), SrcPort: 1, DstPort: 53, Len: 60})
		n.Packet(conntrack.At(1), "a", conntrack.Packet{Proto: conntrack.UDP, Src: netip.MustParseAddr("10.0.1.2"), Dst: netip.MustParseAddr("10.96.0.10"), SrcPort: 1, DstPort: 53, Len: 60, TTL: 64})
	})
}

// The count of entries is exact while none has expired, and a range behind that.
func TestCount(t *testing.T) {
	n := New(Config{HZ: 250, Profile: profiles()[len(profiles())-1]})
	n.rules = load(t, twoBackends)
	n.Set("net.ipv4.ip_forward", "1")
	n.SetLink("b", true)
	n.AddRoute(Route{To: netip.MustParsePrefix("10.0.2.0/24"), Dev: "b"})
	n.Packet(conntrack.At(1), "a", conntrack.Packet{Proto: conntrack.UDP, Src: netip.MustParseAddr("10.0.1.2"), Dst: netip.MustParseAddr("10.96.0.10"), SrcPort: 1, DstPort: 53, Len: 60, TTL: 64})
	for at, want := range map[conntrack.Tick][2]int{2: {1, 1}, 7500: {1, 1}, 7501: {0, 1}} {
		if least, most := n.Count(conntrack.At(at)); least != want[0] || most != want[1] {
			t.Errorf("at tick %d: %d..%d, want %v", at, least, most, want)
		}
	}
}

// find_best_ips_proto's hash, with what was seen on 6.18.
func TestBestAddress(t *testing.T) {
	for _, c := range []struct {
		src, dst, from, to string
		m                  manip
		persistent         bool
		want               string
	}{
		{"10.77.1.2", "10.77.2.2", "10.77.2.10", "10.77.2.29", srcManip, false, "10.77.2.27"},
		{"10.77.1.2", "10.77.2.3", "10.77.2.10", "10.77.2.29", srcManip, false, "10.77.2.25"},
		{"10.77.1.2", "10.77.2.2", "10.77.2.10", "10.77.2.29", srcManip, true, "10.77.2.28"},
		{"10.77.1.3", "10.77.2.2", "10.77.2.10", "10.77.2.29", srcManip, true, "10.77.2.11"},
		{"10.77.1.2", "10.96.0.10", "10.77.2.2", "10.77.2.3", dstManip, false, "10.77.2.3"},
	} {
		tuple := conntrack.Tuple{Proto: conntrack.UDP, Src: netip.MustParseAddr(c.src), Dst: netip.MustParseAddr(c.dst)}
		got := bestAddress(tuple, c.m, natRange{from: netip.MustParseAddr(c.from), to: netip.MustParseAddr(c.to), persistent: c.persistent}, 0)
		if a := [2]netip.Addr{got.Src, got.Dst}[c.m]; a.String() != c.want {
			t.Errorf("%v: %s", c, a)
		}
	}
}
