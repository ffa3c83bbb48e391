package report

import (
	"net/netip"
	"strings"
	"testing"

	"ctlab/checks/conntrack"
	"ctlab/lab"
)

// TestNames wants each name to stand for the address that it stands for in a lab, and for no other: what is
// printed can be read back.
func TestNames(t *testing.T) {
	l, err := lab.Load("x", []byte(`lab: x
nodes:
  node: {kind: router}
  six: {address: fd00:1::5/64}
  both: {address: [10.2.0.5/24, fd00:2::5/64, fd00:2::6/128]}
  two: {address: [10.1.0.5/24, 10.1.0.6/24], local: 10.9.9.9}
services:
  dns: {ports: 53/udp, vip: 10.96.0.10, external-ips: 203.0.113.10, load-balancer-ips: 203.0.113.11}
steps: [{wait: 1s}]
`), "")
	if err != nil {
		t.Fatal(err)
	}
	names := NewNames(l)
	for addr, want := range map[string]string{
		"10.1.0.5": "two", "10.1.0.6": "10.1.0.6", "10.9.9.9": "10.9.9.9", "10.1.0.1": "node",
		"fd00:1::5": "six", "fd00:1::1": "node", "10.2.0.5": "both", "fd00:2::5": "both", "fd00:2::6": "fd00:2::6",
		"10.96.0.10": "dns", "203.0.113.10": "203.0.113.10", "203.0.113.11": "203.0.113.11",
	} {
		if got := names.addr(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s is called %s, want %s", addr, got, want)
		}
	}
	for text, want := range map[string]string{
		"udp [fd00:1::5]:40053 > [fd00:2::6]:53":     "udp six:40053 > [fd00:2::6]:53",
		"to fd00:1::5, from fd00:2::5.":              "to six, from both.",
		"waits for fd00:1::1 on six":                 "waits for node on six",
		"10.2.0.5:53 > 10.1.0.6:1 at 12:34:56":       "both:53 > 10.1.0.6:1 at 12:34:56",
		"fd00:1::5:53":                               "fd00:1::5:53",
		"icmpv6 fd00:1::5 > fd00:2::5 type 1 code 3": "icmpv6 six > both type 1 code 3",
	} {
		if got := names.Text(text); got != want {
			t.Errorf("%q became %q, want %q", text, got, want)
		}
	}
	if got := names.endpoint(netip.MustParseAddr("fd00:2::6"), 53); got != "[fd00:2::6]:53" {
		t.Errorf("an endpoint without a name: %s", got)
	}
}

// Two entries that only their zones tell apart do not look alike.
func TestEntriesOfZones(t *testing.T) {
	at := func(fields conntrack.Fields) *lab.Seen {
		return &lab.Seen{Entry: conntrack.Entry{Orig: conntrack.Tuple{Proto: conntrack.UDP}, Known: fields, Zone: 1, OrigZone: 2, ReplyZone: 3}}
	}
	for fields, want := range map[conntrack.Fields]string{0: " unreplied 0s", conntrack.HasZone: " unreplied zone 1 0s", conntrack.HasOrigZone: " unreplied zone-orig 2 0s", conntrack.HasReplyZone: " unreplied zone-reply 3 0s"} {
		if got := (Names{}).seen(at(fields)); !strings.HasSuffix(got, want) {
			t.Errorf("%s, want %s", got, want)
		}
	}
}
