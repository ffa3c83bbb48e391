package service_test

import (
	"net/netip"
	"strings"
	"testing"

	"ctlab/checks/conntrack"
	"ctlab/checks/model"
	"ctlab/topology/service"
)

func dns(backends ...string) service.Service {
	s := service.Service{Name: "dns", VIP: netip.MustParseAddr("10.96.0.10"), Ports: []service.Port{{Number: 53, Proto: conntrack.UDP, Target: 5353}}}
	for _, b := range backends {
		s.Backends = append(s.Backends, service.Backend{Name: "pod-" + b, Addr: netip.MustParseAddr("10.0.2." + b)})
	}
	return s
}

func TestRules(t *testing.T) {
	want := `*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:svc-dns - [0:0]
-A PREROUTING -j svc-dns
-A OUTPUT -j svc-dns
-A svc-dns -d 10.96.0.10/32 -p udp -m udp --dport 53 -m comment --comment "dns/pod-1" -m statistic --mode random --probability 0.50000000000 -j DNAT --to-destination 10.0.2.1:5353
-A svc-dns -d 10.96.0.10/32 -p udp -m udp --dport 53 -m comment --comment "dns/pod-2" -j DNAT --to-destination 10.0.2.2:5353
COMMIT
*filter
:ctlab-anchor - [0:0]
-A ctlab-anchor -m conntrack --ctstate INVALID -m comment --comment "ctlab anchor"
COMMIT
`
	if got := service.Rules([]service.Service{dns("1", "2")}, true); got != want {
		t.Errorf("got\n%s", got)
	}
}

// What is compiled, the model reads; a change names its own chain and the anchor only.
func TestModelReadsIt(t *testing.T) {
	rs := model.NewRuleset()
	if err := rs.Restore(service.Rules([]service.Service{dns("1")}, true), false); err != nil {
		t.Fatal(err)
	}
	change := service.Change(dns("2"), true)
	if strings.Contains(change, "PREROUTING") {
		t.Errorf("the change touches more than its own chain:\n%s", change)
	}
	if err := rs.Restore(change, true); err != nil {
		t.Fatal(err)
	}
	long := service.Service{Name: strings.Repeat("long-", 8)}
	if n := len(long.Chain()); n > 28 {
		t.Errorf("chain %q has %d characters", long.Chain(), n)
	}
}

// kube-proxy's decision: UDP entries of the frontend whose reply source serves no more, with or without
// DNAT; nothing of other ports, protocols or services.
func TestStaleEntries(t *testing.T) {
	var table []conntrack.Entry
	for _, line := range []string{
		"udp 10.0.1.2:1 > 10.96.0.10:53 | 10.0.2.1:5353 > 10.0.1.2:1 status confirmed",
		"udp 10.0.1.2:2 > 10.96.0.10:53 | 10.0.2.2:5353 > 10.0.1.2:2 status confirmed",
		"udp 10.0.1.2:3 > 10.96.0.10:53 | 10.96.0.10:53 > 10.0.1.2:3 status confirmed",
		"udp 10.0.1.2:4 > 10.96.0.10:54 | 10.0.2.1:54 > 10.0.1.2:4 status confirmed",
		"tcp 10.0.1.2:5 > 10.96.0.10:53 | 10.0.2.1:5353 > 10.0.1.2:5 status confirmed",
		"udp 10.0.1.2:6 > 10.0.2.1:5353 | 10.0.2.1:5353 > 10.0.1.2:6 status confirmed",
	} {
		e, err := conntrack.ParseEntry(line)
		if err != nil {
			t.Fatal(err)
		}
		table = append(table, e)
	}
	for backends, want := range map[string]string{"2": "1 3", "": "1 2 3", "1 2": "3"} {
		var got []string
		for _, e := range service.StaleEntries(dns(strings.Fields(backends)...), table) {
			got = append(got, string(rune('0'+e.Orig.SrcPort)))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("backends %q: %v, want %s", backends, got, want)
		}
	}
}
