package service_test

import (
	"net/netip"
	"strings"
	"testing"

	"ctlab/checks/conntrack"
	"ctlab/checks/model"
	"ctlab/topology/service"
)

// six is a service with the IPv6 twin of each of its addresses: the same behind fd00::.
func six(s service.Service) service.Service {
	twin := func(a netip.Addr) netip.Addr {
		b := netip.MustParseAddr("fd00::").As16()
		copy(b[12:], a.AsSlice())
		return netip.AddrFrom16(b)
	}
	all := func(in []netip.Addr) (out []netip.Addr) {
		for _, a := range in {
			out = append(out, twin(a))
		}
		return out
	}
	s.VIP, s.ExternalIPs, s.LoadBalancerIPs = twin(s.VIP), all(s.ExternalIPs), all(s.LoadBalancerIPs)
	backends := s.Backends
	s.Backends = nil
	for _, b := range backends {
		s.Backends = append(s.Backends, service.Backend{Name: b.Name, Addr: twin(b.Addr)})
	}
	return s
}

// isIPv6 reports whether a text is for ip6tables.
func isIPv6(services []service.Service) bool {
	return len(services) > 0 && service.FamilyOf(services[0].VIP) == service.IPv6
}

// What is compiled for ip6tables, the model reads as such; where there is no backend it refuses by ICMPv6.
func TestModelReadsIPv6(t *testing.T) {
	for _, style := range []service.Style{service.DNAT, service.KubeProxy} {
		for _, backends := range [][]string{nil, {"1"}, {"1", "2"}} {
			text, err := service.Rules([]service.Service{six(dns(style, service.Reject, backends...))}, nil, true)
			if err != nil {
				t.Fatal(err)
			}
			rs := model.NewRuleset6()
			if err := rs.Restore(text, false); err != nil {
				t.Errorf("%s: %v", style, err)
			}
			orig := conntrack.Tuple{Proto: conntrack.UDP, Src: netip.MustParseAddr("fd00::1"), SrcPort: 40000, Dst: netip.MustParseAddr("fd00::a60:a"), DstPort: 53}
			targets := rs.Targets(orig, "app", func(netip.Addr) bool { return false })
			if want := max(1, len(backends)); len(targets) != want || len(backends) > 0 && targets[0].String() != "[fd00::a00:201]:5353" {
				t.Errorf("%s with %v: targets %v", style, backends, targets)
			}
			if refuses := strings.Contains(text, "icmp6-port-unreachable"); refuses != (len(backends) == 0) || strings.Contains(text, "icmp-port") {
				t.Errorf("%s with %v:\n%s", style, backends, text)
			}
		}
	}
}

func TestRulesRefusesBothFamilies(t *testing.T) {
	services := []service.Service{web("", "1"), six(dns("", service.Reject))}
	if _, err := service.Rules(services, nil, true); err == nil || !strings.Contains(err.Error(), "different families") {
		t.Errorf("%v", err)
	}
	for _, f := range []service.Family{service.IPv4, service.IPv6} {
		if of := service.Of(f, services); len(of) != 1 || service.FamilyOf(of[0].VIP) != f {
			t.Errorf("%s: %+v", f, of)
		}
	}
}

// Each family has a proxy of its own, which looks at entries of its family only: a node port of the other one's entries
// is none of its business.
func TestStaleOfAFamily(t *testing.T) {
	four, sixth := dns(service.KubeProxy, service.Reject, "1"), six(dns(service.KubeProxy, service.Reject, "1"))
	entry := func(line string) conntrack.Entry {
		e, err := conntrack.ParseEntry(line + " status confirmed,dnat,snat-done,dnat-done")
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	table := []conntrack.Entry{
		entry("udp [fd00::9]:1 > [fd00::a60:a]:53 | [fd00::a00:201]:5353 > [fd00::9]:1"), // healthy
		entry("udp [fd00::9]:2 > [fd00::a60:a]:53 | [fd00::a00:209]:5353 > [fd00::9]:2"), // no backend
		entry("udp [fd00::9]:3 > [fd00::77]:30053 | [fd00::a00:209]:5353 > [fd00::9]:3"), // the same at the node port
		entry("udp 10.0.0.9:4 > 192.168.50.1:30053 | 10.0.2.1:5353 > 10.0.0.9:4"),        // healthy
		entry("udp 10.0.0.9:5 > 192.168.50.1:30053 | 10.0.2.9:5353 > 10.0.0.9:5"),        // no backend
		entry("udp [fd00::9]:6 > [fd00::77]:30053 | [fd00::a00:201]:5353 > [fd00::9]:6"), // healthy
	}
	for _, c := range []struct {
		s    service.Service
		want []uint16
	}{{four, []uint16{5}}, {sixth, []uint16{2, 3}}} {
		var got []uint16
		for _, e := range service.Stale(service.Reconcile132, c.s, c.s, table) {
			got = append(got, e.Orig.SrcPort)
		}
		if len(got) != len(c.want) || got[0] != c.want[0] || got[len(got)-1] != c.want[len(c.want)-1] {
			t.Errorf("%s: stale are %v, want %v", c.s.VIP, got, c.want)
		}
	}
}
