package service_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"ctlab/checks/conntrack"
	"ctlab/topology/service"
)

// staleTable holds entries to every kind of frontend of dns, numbered by their client's port; others go to
// another port of the same addresses, to other addresses, or use TCP. The backends' port is 5353.
func staleTable(t *testing.T) []conntrack.Entry {
	const dnat, plain = "confirmed,dnat,snat-done,dnat-done", "confirmed,snat-done,dnat-done"
	var table []conntrack.Entry
	for i, e := range []struct{ proto, to, from, status string }{
		{"udp", "10.96.0.10:53", "10.0.2.1:5353", dnat},         // 1
		{"udp", "10.96.0.10:53", "10.0.2.2:5353", dnat},         // 2
		{"udp", "10.96.0.10:53", "10.96.0.10:53", plain},        // 3: without DNAT
		{"udp", "203.0.113.10:53", "10.0.2.1:5353", dnat},       // 4: external IP
		{"udp", "198.51.100.7:53", "10.0.2.1:5353", dnat},       // 5: load-balancer IP
		{"udp", "192.168.50.1:30053", "10.0.2.1:5353", dnat},    // 6: node port
		{"udp", "192.168.50.9:30053", "192.168.50.9:30053", ""}, // 7: another host's port of that number
		{"udp", "203.0.113.10:514", "10.0.2.8:514", dnat},       // 8: another service at the external IP
		{"udp", "203.0.113.10:514", "10.0.2.1:514", dnat},       // 9: the same, to a node that dns has too
		{"udp", "10.96.0.10:54", "10.96.0.10:54", plain},        // 10: no port of the service
		{"tcp", "10.96.0.10:53", "10.0.2.1:5353", dnat},         // 11
		{"udp", "10.0.2.1:5353", "10.0.2.1:5353", plain},        // 12: to the backend itself
		{"udp", "10.96.0.10:53", "10.0.2.2:53", dnat},           // 13: to a port that the backend had
		{"udp", "10.96.0.77:53", "10.0.2.1:5353", dnat},         // 14: another service
	} {
		if e.status == "" {
			e.status = plain
		}
		entry, err := conntrack.ParseEntry(fmt.Sprintf("%s 10.0.1.2:%d > %s | %s > 10.0.1.2:%d status %s", e.proto, i+1, e.to, e.from, i+1, e.status))
		if err != nil {
			t.Fatal(err)
		}
		table = append(table, entry)
	}
	return table
}

func TestStale(t *testing.T) {
	for _, c := range []struct {
		mode          service.Mode
		before, after string // backends
		want          string // client ports
	}{
		{service.None, "1", "2", ""},
		{service.Legacy, "1", "2", "1 4 5 6 9"},
		{service.Legacy, "1", "", "1 4 5 6 9"},
		{service.Legacy, "1 2", "2", "1 4 5 6 9"},
		{service.Legacy, "", "2", ""}, // the entry without DNAT stays
		{service.Legacy, "1", "1 2", ""},
		{service.Reconcile132, "1", "2", "1 3 4 5 6 7 8 9 10"},
		{service.Reconcile132, "1", "1 2", "3 7 8 10"},
		{service.Reconcile132, "1", "", ""},
		{service.Reconcile132, "", "2", "1 3 4 5 6 7 8 9 10"},
		{service.ReconcileCurrent, "1", "2", "1 3 4 5 6 7 13"},
		{service.ReconcileCurrent, "1", "1 2", "3 7 13"},
		{service.ReconcileCurrent, "1", "", "1 2 3 4 5 13"},
		{"", "1", "2", ""},
	} {
		before, after := dns("", "", strings.Fields(c.before)...), dns("", "", strings.Fields(c.after)...)
		var got []string
		for _, e := range service.Stale(c.mode, before, after, staleTable(t)) {
			got = append(got, fmt.Sprint(e.Orig.SrcPort))
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s, backends %q to %q: %v, want %s", c.mode, c.before, c.after, got, c.want)
		}
	}
}

// A service of TCP ports only has nothing to clean, whatever goes to its addresses.
func TestStaleTCPOnly(t *testing.T) {
	s := dns("", "", "2")
	s.Ports = s.Ports[1:]
	before := s
	before.Backends = []service.Backend{{Name: "pod-1", Addr: netip.MustParseAddr("10.0.2.1")}}
	for _, mode := range service.Modes() {
		if got := service.Stale(mode, before, s, staleTable(t)); len(got) > 0 {
			t.Errorf("%s: %v", mode, got)
		}
	}
}
