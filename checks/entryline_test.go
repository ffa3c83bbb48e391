package checks

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"ctlab/checks/conntrack"
)

// places is a lab for lines: two hosts, a service, and a router with an address for each host.
func places(name, other string) (netip.Addr, *LineError) {
	addresses := map[string]string{
		"app": "10.244.2.5", "server": "10.244.1.10", "dns": "10.96.0.10", "six": "fd00::5",
		"node to app": "10.244.2.1", "node to server": "10.244.1.1",
	}
	for _, key := range []string{name, name + " to " + other} {
		if a, ok := addresses[key]; ok {
			return netip.MustParseAddr(a), nil
		}
	}
	return netip.Addr{}, &LineError{Msg: "no node or service " + Quote(name), Hint: "app, server, dns"}
}

// show writes what a want compares, which is not always what the line says.
func show(w EntryWant) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s x %s %s", w.Times, conntrack.ProtocolName(w.Proto), tupleText(w.Orig))
	if w.Reply != nil {
		b.WriteString(" | " + tupleText(*w.Reply))
	}
	if w.TCPState != nil {
		b.WriteString(" " + w.TCPState.String())
	}
	if w.Has|w.HasNot != 0 {
		fmt.Fprintf(&b, " has %s not %s", w.Has, w.HasNot)
	}
	if w.Stale != nil {
		fmt.Fprintf(&b, " stale %t", *w.Stale)
	}
	if w.Left != nil {
		fmt.Fprintf(&b, " left %s..%s", w.Left.Min, w.Left.Max)
	}
	for _, z := range []struct {
		name string
		zone *uint16
	}{{"zone", w.Zone}, {"zone-orig", w.ZoneOrig}, {"zone-reply", w.ZoneReply}} {
		if z.zone != nil {
			fmt.Fprintf(&b, " %s %d", z.name, *z.zone)
		}
	}
	if w.Mark != nil {
		fmt.Fprintf(&b, " mark %#x/%#x", *w.Mark, w.MarkMask)
	}
	if w.Packets != nil {
		fmt.Fprintf(&b, " packets %s/%s", w.Packets[0], w.Packets[1])
	}
	if w.Use != nil {
		fmt.Fprintf(&b, " use %s", w.Use)
	}
	return b.String()
}

func tupleText(t TupleWant) string { return endText(t.Src) + " > " + endText(t.Dst) }

func endText(e EndpointWant) string {
	text := "any"
	if e.Prefix.IsValid() {
		text = strings.TrimSuffix(e.Prefix.String(), "/32")
	}
	if e.MinPort == 0 && e.MaxPort == 65535 {
		return text
	}
	return fmt.Sprintf("%s:%d..%d", text, e.MinPort, e.MaxPort)
}

func TestParseEntryWant(t *testing.T) {
	for _, c := range []struct{ line, want string }{
		{"udp any > any", "1 x udp any > any"},
		{"udp app:40053 > dns:53", "1 x udp 10.244.2.5:40053..40053 > 10.96.0.10:53..53"},
		{"  udp   app >  dns ", "1 x udp 10.244.2.5 > 10.96.0.10"},
		{"no udp app > any", "0 x udp 10.244.2.5 > any"},
		{"3 x udp app > any", "3 x udp 10.244.2.5 > any"},
		{"3..5 x udp app > any", "3..5 x udp 10.244.2.5 > any"},
		{"3.. x udp app > any", "3.. x udp 10.244.2.5 > any"},
		{"..5 x udp app > any", "0..5 x udp 10.244.2.5 > any"},
		{"0 x udp app > any", "0 x udp 10.244.2.5 > any"},
		{"udp app:40053 > dns:53 | server:53 > app:40053 assured stale 5s..6s",
			"1 x udp 10.244.2.5:40053..40053 > 10.96.0.10:53..53 | 10.244.1.10:53..53 > 10.244.2.5:40053..40053 has assured not none stale true left 5s..6s"},
		{"tcp 10.1.0.2:40000 > dns:80 | server:80 > 10.1.0.2:40000 ESTABLISHED assured 432000s",
			"1 x tcp 10.1.0.2:40000..40000 > 10.96.0.10:80..80 | 10.244.1.10:80..80 > 10.1.0.2:40000..40000 ESTABLISHED has assured not none left 120h0m0s..120h0m0s"},
		{"udp 10.244.0.0/16:1024..65535 > any:53..", "1 x udp 10.244.0.0/16:1024..65535 > any:53..65535"},
		{"udp any:..1023 > any", "1 x udp any:0..1023 > any"},
		{"udp node > app | app > node", "1 x udp 10.244.2.1 > 10.244.2.5 | 10.244.2.5 > 10.244.2.1"},
		{"udp server > node:9", "1 x udp 10.244.1.10 > 10.244.1.1:9..9"},
		{"icmp app > server unreplied", "1 x icmp 10.244.2.5 > 10.244.1.10 has none not seen-reply"},
		{"icmpv6 six > fd00::1 unreplied", "1 x icmpv6 fd00::5/128 > fd00::1/128 has none not seen-reply"},
		{"udp [fd00::5]:40053 > [fd00:10:96::a]:53..54", "1 x udp fd00::5/128:40053..40053 > fd00:10:96::a/128:53..54"},
		{"udp six:9 > fd00::/64 | [fd00::/64] > [fd00::5]", "1 x udp fd00::5/128:9..9 > fd00::/64 | fd00::/64 > fd00::5/128"},
		{"gre app > server", "1 x gre 10.244.2.5 > 10.244.1.10"},
		{"89 app > server", "1 x 89 10.244.2.5 > 10.244.1.10"},
		{"udp any > any not-unreplied not-assured snat dnat-done not-dying", "1 x udp any > any has seen-reply,snat,dnat-done not assured,dying"},
		{"udp any > any not-stale 5s", "1 x udp any > any stale false left 5s..5s"},
		{"udp any > any 5s..", "1 x udp any > any left 5s..-1ns"},
		{"udp any > any ..1m30s", "1 x udp any > any left 0s..1m30s"},
		{"udp any > any 0s", "1 x udp any > any left 0s..0s"},
		{"udp any > any zone 3 zone-orig 4 zone-reply 5", "1 x udp any > any zone 3 zone-orig 4 zone-reply 5"},
		{"udp any > any mark 4", "1 x udp any > any mark 0x4/0xffffffff"},
		{"udp any > any mark 0x4/0xff use 1..2", "1 x udp any > any mark 0x4/0xff use 1..2"},
		{"udp any > any packets 3/2..4", "1 x udp any > any packets 3/2..4"},
		{"tcp any > any SYN_SENT2 not-seen-reply", "1 x tcp any > any SYN_SENT2 has none not seen-reply"},
	} {
		w, err := ParseEntryWant(c.line, places)
		if err != nil {
			t.Errorf("%s: %v", c.line, err)
			continue
		}
		if got := show(w); got != c.want || w.Text != c.line {
			t.Errorf("%s\n got %s\nwant %s", c.line, got, c.want)
		}
	}
}

// TestLineErrors marks the place of an error by ^ and ~ below the line.
func TestLineErrors(t *testing.T) {
	for _, c := range []struct{ line, mark, msg, hint string }{
		{"", "", "the line ends too early", "PROTO SOURCE"},
		{"udp app > dns asured", "              ^~~~~~", `"asured" is no state, status, time, zone or mark`, `did you mean "assured"?`},
		{"udp app > dns !assured", "              ^~~~~~~~", `"!assured" is no state`, `"not-assured"`},
		{"udp app > dns not-asured", "              ^~~~~~~~~~", `"not-asured" is no state`, `"not-assured"`},
		{"udp app > dns zzz", "              ^~~", `"zzz" is no state`, ""},
		{"udp app > dns | app", "                ^~~", "the line ends too early", ""},
		{"udp app > dns | app > nod", "                      ^~~", `no node or service "nod"`, "app, server, dns"},
		{"udp node > dns", "    ^~~~", `no node or service "node"`, ""},
		{"udp app:x > dns", "        ^", `"x" is no whole number`, ""},
		{"udp app:5..x > dns", "           ^", `"x" is no whole number`, ""},
		{"udp app:65536 > dns", "        ^~~~~", "port 65536 is above 65535", ""},
		{"udp app:70000.. > dns", "        ^~~~~~~", "port 70000.. is above 65535", ""},
		{"udp app: > dns", "       ^", "no port behind the colon", `write "app" alone`},
		{"udp app:.. > dns", "        ^~", `".." has no ends`, ""},
		{"udp 10.0.0.1/33 > dns", "    ^~~~~~~~~~~", "is no IPv4 address", ""},
		{"udp ::1 > dns", "          ^~~", `"::1" and "dns" are of different families`, "one family"},
		{"udp [::1:53 > any", "    ^~~~~~~", "the bracket is not closed", "[fd00::5]:53"},
		{"udp [::1]53 > any", "         ^~", `"53" behind the bracket`, "[fd00::5]:53"},
		{"udp [::1]: > any", "         ^", "no port behind the colon", ""},
		{"udp [::1]:x > any", "          ^", `"x" is no whole number`, ""},
		{"udp fd00::5:53x > any", "    ^~~~~~~~~~~", "is no IPv6 address", "brackets"},
		{"udp fd00::5/64 > any", "    ^~~~~~~~~~", "has bits behind its prefix", "fd00::/64"},
		{"udp fd00::5..fd00::9 > any", "    ^~~~~~~~~~~~~~~~", "ranges of addresses are not supported yet", ""},
		{"icmp6 app > dns", "^~~~~", `"icmp6" is no protocol`, "icmpv6"},
		{"udp * > dns", "    ^", `"*" is no address and no name`, "any"},
		{"017 app > dns", "^~~", "017 has a leading zero", ""},
		{"300 app > dns", "^~~", `"300" is no protocol`, ""},
		{"5 udp app > dns", "^", `"5" is no protocol`, "write: 5 x udp"},
		{"x x udp app > dns", "^", `"x" is no whole number`, ""},
		{"udp app > dns 5s 6s", "                 ^~", "a time was given already", ""},
		{"udp app > dns stale not-stale", "                    ^~~~~~~~~", "stale was given already", ""},
		{"udp app > dns unreplied seen-reply", "                        ^~~~~~~~~~", "its status bit was given already", ""},
		{"tcp app > dns CLOSE NONE", "                    ^~~~", "a state was given already", ""},
		{"udp app > dns zone 1 zone 1", "                     ^~~~", "zone was given already", ""},
		{"udp app > dns 5s..5s", "              ^~~~~~", "is a range of one time", "write: 5s"},
		{"udp app > dns 1s..300ms", "                  ^~~~~", "is not whole seconds", ""},
		{"udp app > dns mark 0x", "                   ^~", "is no mark of 32 bits", ""},
		{"udp app > dns mark 4/0xg", "                     ^~~", "is no mark of 32 bits", ""},
		{"udp app > dns packets 3", "                      ^", "is one number", "packets 3/2"},
		{"udp app > dns use", "              ^~~", "has no value", ""},
		{"udp app > dns helper ftp", "                     ^~~", `"ftp" is no state`, ""},
	} {
		_, err := ParseEntryWant(c.line, places)
		if err == nil {
			t.Errorf("%s: no error", c.line)
			continue
		}
		mark := ""
		if err.Len > 0 {
			mark = strings.Repeat(" ", err.Offset) + "^" + strings.Repeat("~", err.Len-1)
		}
		if mark != c.mark || !strings.Contains(err.Msg, c.msg) || !strings.Contains(err.Hint, c.hint) {
			t.Errorf("%s\n%s %s; %s\nwant\n%s %s; %s", c.line, mark, err.Msg, err.Hint, c.mark, c.msg, c.hint)
		}
	}
}

func TestParseEventWant(t *testing.T) {
	for _, c := range []struct {
		line string
		kind conntrack.EventKind
		no   bool
		err  string
	}{
		{"new udp app > dns", conntrack.New, false, ""},
		{"update udp app > dns assured", conntrack.Update, false, ""},
		{"no destroy udp app > any", conntrack.Destroy, true, ""},
		{"no udp app > any", "", false, `"udp" is no kind of event`},
		{"new no udp app > any", "", false, `"no" is no protocol`},
		{"new 2 x udp app > any", "", false, "an event has no number"},
		{"new udp app > any stale", "", false, "whether its entry is stale"},
		{"new", "", false, "the line ends too early"},
	} {
		kind, no, w, err := ParseEventWant(c.line, places)
		switch {
		case err != nil && (c.err == "" || !strings.Contains(err.Msg, c.err)):
			t.Errorf("%s: %v, want %q", c.line, err, c.err)
		case err == nil && (c.err != "" || kind != c.kind || no != c.no || w.Text != c.line || w.Proto != conntrack.UDP):
			t.Errorf("%s: %s %t %+v", c.line, kind, no, w)
		}
	}
}

func TestParseDuration(t *testing.T) {
	for _, c := range []struct {
		text string
		want time.Duration
		err  string
	}{
		{"300ms", 300 * time.Millisecond, ""},
		{"1m30s", 90 * time.Second, ""},
		{"432000s", 5 * 24 * time.Hour, ""},
		{"5d", 5 * 24 * time.Hour, ""},
		{"2.5s", 2500 * time.Millisecond, ""},
		{"0.5d1us", 12*time.Hour + time.Microsecond, ""},
		{"0.001us", time.Nanosecond, ""},
		{"0s", 0, ""},
		{"", 0, "is no time"},
		{"s", 0, "is no time"},
		{"-5s", 0, "is no time"},
		{"5", 0, "has no unit"},
		{"1m5", 0, "has no unit"},
		{"5x", 0, "is no time"},
		{"5 s", 0, "is no time"},
		{"5s1m", 0, "is no time"},
		{"5s5s", 0, "is no time"},
		{"05s", 0, "has a leading zero"},
		{".5s", 0, "is no time"},
		{"5.s", 0, "is no time"},
		{"1.2.3s", 0, "is no time"},
		{"1.2345s", 0, "more than three decimals"},
		{"99999999999999999999s", 0, "is too long"},
		{"106751d", 106751 * 24 * time.Hour, ""},
		{"106752d", 0, "is too long"},
		{"106751d24h", 0, "is too long"},
	} {
		got, err := ParseDuration(c.text)
		if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Msg, c.err) || got != c.want {
			t.Errorf("%q: %v %v, want %v %q", c.text, got, err, c.want, c.err)
		}
	}
}

func TestNearest(t *testing.T) {
	words := []string{"assured", "count", "seen-reply", "app", "after"}
	for text, want := range map[string]string{
		"asured": "assured", "cuont": "count", "ap": "app", "afer": "after", "seenreply": "seen-reply",
		"zzz": "", "": "", "assured": "", "counting-down": "",
	} {
		if got := Nearest(text, words); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

// FuzzEntryLine wants errors that lie in the line, and the same want from the same line.
func FuzzEntryLine(f *testing.F) {
	for _, line := range []string{
		"udp app:40053 > dns:53 | server:53 > app:40053 assured stale 5s..6s",
		"no tcp 10.0.0.0/8:1..5 > any:..7 ESTABLISHED not-assured mark 0x4/0xff zone 3 packets 3../2 use 1",
		"3..5 x udp node > app unreplied ..6s", "new udp app > dns", "no destroy icmp any > any", "udp [::1]:5 > \x00\xff", "0x x 0x x",
	} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		check := func(w EntryWant, err *LineError) {
			if err == nil {
				if w.Orig.Src.MinPort > w.Orig.Src.MaxPort || w.Times.Max >= 0 && w.Times.Min > w.Times.Max || w.Has&w.HasNot != 0 {
					t.Fatalf("%q: %+v", line, w)
				}
				return
			}
			if err.Offset < 0 || err.Len < 0 || err.Offset+err.Len > len(line) || err.Msg == "" {
				t.Fatalf("%q: %+v", line, err)
			}
		}
		w, err := ParseEntryWant(line, places)
		check(w, err)
		again, _ := ParseEntryWant(line, places)
		if err == nil && show(w) != show(again) {
			t.Fatalf("%q: %s, then %s", line, show(w), show(again))
		}
		_, _, w, err = ParseEventWant(line, places)
		check(w, err)
	})
}

// TestDistance holds the banded table against the whole one.
func TestDistance(t *testing.T) {
	words := []string{"", "a", "ab", "ba", "abc", "acb", "bca", "abcd", "badc", "assured", "asured", "unassured", "seen-reply", "seenreply", "destroy"}
	for _, a := range words {
		for _, b := range words {
			want := distance(a, b, 63)
			for limit := 1; limit < 5; limit++ {
				if got := distance(a, b, limit); got != want && (got <= limit || want <= limit) {
					t.Errorf("%q %q within %d: %d, want %d", a, b, limit, got, want)
				}
			}
		}
	}
}
