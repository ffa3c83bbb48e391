package report

import (
	"net/netip"
	"testing"

	"ctlab/lab"
)

// TestNames wants each name to stand for the address that it stands for in a lab, and for no other: what is
// printed can be read back.
func TestNames(t *testing.T) {
	l, err := lab.Load("x", []byte(`lab: x
nodes:
  node: {kind: router}
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
		"10.96.0.10": "dns", "203.0.113.10": "203.0.113.10", "203.0.113.11": "203.0.113.11",
	} {
		if got := names.addr(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s is called %s, want %s", addr, got, want)
		}
	}
}
