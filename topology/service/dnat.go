package service

import "net/netip"

// dnat writes services with the fewest rules: a chain for each, with one rule for a frontend and backend.
// A service that answers for itself when it has no backend has a chain of the same name in filter.
func (rs ruleset) dnat(services []Service) {
	masquerades := false
	for _, s := range services {
		rs.chain("nat", s.Chain())
		for _, from := range []string{"PREROUTING", "OUTPUT"} {
			rs.jump("nat", from, "-j", s.Chain())
		}
		if s.refusal() != "" {
			rs.chain("filter", s.Chain())
			for _, from := range []string{"INPUT", "FORWARD", "OUTPUT"} {
				rs.jump("filter", from, "-j", s.Chain())
			}
		}
		masquerades = masquerades || s.Masquerade == MasqueradeAll
	}
	if masquerades {
		rs.jump("nat", "POSTROUTING", "-m mark --mark "+masqueradeMark, comment("masquerade of services"), "-j MASQUERADE")
	}
	for _, s := range services {
		for _, p := range s.Ports {
			for _, front := range s.frontends(p) {
				rs.dnatFrontend(s, p, front)
			}
		}
	}
}

// frontends are the matches for a port of a service: at its addresses, and its node port.
func (s Service) frontends(p Port) []string {
	var fronts []string
	for _, a := range append([]netip.Addr{s.VIP}, s.external()...) {
		fronts = append(fronts, to(a, p.Proto, p.Number))
	}
	if p.NodePort != 0 {
		fronts = append(fronts, toPort(p.Proto, p.NodePort)+" "+toNode)
	}
	return fronts
}

func (rs ruleset) dnatFrontend(s Service, p Port, front string) {
	if len(s.Backends) == 0 {
		if r := s.refusal(); r != "" {
			rs.chain("filter", s.Chain()).add(front, r)
		}
		return
	}
	c := rs.chain("nat", s.Chain())
	if s.Masquerade == MasqueradeAll {
		c.add(front, comment(s.portName(p)), "-j MARK --set-xmark "+masqueradeMark)
	}
	for i, b := range s.Backends {
		c.add(front, comment(s.Comment(b)), s.share(len(s.Backends)-i), "-j DNAT --to-destination", netip.AddrPortFrom(b.Addr, p.Target).String())
	}
}
