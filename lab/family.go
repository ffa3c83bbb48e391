package lab

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"ctlab/checks"
	"ctlab/topology/service"
)

// Families are both address families, in the order in which things are done for them.
func Families() []service.Family { return []service.Family{service.IPv4, service.IPv6} }

// Addresses are those of a host's eth0, the first one first; none on a router.
func (n *Node) Addresses() []netip.Prefix {
	if !n.Address.IsValid() {
		return nil
	}
	return append([]netip.Prefix{n.Address}, n.Also...)
}

// AddressIn is the first address of a family on a host's eth0; invalid if there is none.
func (n *Node) AddressIn(f service.Family) netip.Prefix {
	for _, p := range n.Addresses() {
		if service.FamilyOf(p.Addr()) == f {
			return p
		}
	}
	return netip.Prefix{}
}

// Gateways are the addresses of the router's port towards the host, one for each family that it has.
func (n *Node) Gateways() []netip.Addr {
	var out []netip.Addr
	for _, a := range []netip.Addr{n.Gateway, n.OtherGateway} {
		if a.IsValid() {
			out = append(out, a)
		}
	}
	return out
}

// gatewayIn is the one of a family; invalid if there is none.
func (n *Node) gatewayIn(f service.Family) netip.Addr {
	for _, a := range n.Gateways() {
		if service.FamilyOf(a) == f {
			return a
		}
	}
	return netip.Addr{}
}

// LeadsTo reports whether the router's route to one of a host's addresses leads to that host: of hosts on one router that
// have the same address, to the first.
func (l *Lab) LeadsTo(n *Node, a netip.Addr) bool {
	for _, other := range l.Nodes {
		if other == n {
			return true
		}
		if other.Uplink == n.Uplink && slices.ContainsFunc(other.Addresses(), func(p netip.Prefix) bool { return p.Addr() == a }) {
			return false
		}
	}
	return true
}

// Speaks reports whether a node has an address of a family, on whatever device, from the beginning or by a step, or
// rules for it.
func (l *Lab) Speaks(n *Node, f service.Family) bool {
	of := func(all []netip.Prefix) bool {
		return slices.ContainsFunc(all, func(p netip.Prefix) bool { return service.FamilyOf(p.Addr()) == f })
	}
	if of(n.Addresses()) || of(n.Local) || f == service.IPv6 && len(n.Rules6) > 0 || f == service.IPv4 && len(n.Rules) > 0 {
		return true
	}
	if slices.ContainsFunc(l.Nodes, func(h *Node) bool { return h.Uplink == n.Name && h.gatewayIn(f).IsValid() }) {
		return true
	}
	if slices.ContainsFunc(l.Services, func(s *Service) bool { return slices.Contains(s.On, n.Name) && service.FamilyOf(s.VIP) == f }) {
		return true
	}
	return slices.ContainsFunc(l.Steps, func(s *Step) bool {
		switch {
		case !slices.Contains(s.Nodes, n.Name):
			return s.Reuse == n.Name && slices.ContainsFunc(l.Nodes, func(o *Node) bool { return o.AddressIn(f).IsValid() })
		case s.Kind == SetAddress:
			return of(s.AddAddress)
		}
		return s.Kind == SetRules && s.Family == f
	})
}

// familyName is how messages call a family.
func familyName(f service.Family) string {
	if f == service.IPv6 {
		return "IPv6"
	}
	return "IPv4"
}

// families of what stands in a line: an address, a prefix, or the name of a node or service. All of them if it says
// nothing of its family.
func (d *decoder) families(text string) []service.Family {
	text, _, _ = strings.Cut(text, "/")
	if a, err := netip.ParseAddr(text); err == nil {
		return []service.Family{service.FamilyOf(a)}
	}
	if s := d.names.services[text]; s != nil && s.VIP.IsValid() {
		return []service.Family{service.FamilyOf(s.VIP)}
	}
	if n := d.names.nodes[text]; n != nil {
		if known := d.familiesOf(n); len(known) > 0 {
			return known
		}
	}
	return Families()
}

// familiesOf a node: of a host's eth0, or of a router's ports.
func (d *decoder) familiesOf(n *Node) []service.Family {
	all := n.Gateways()
	if n.Router {
		all = d.routerAddresses()[n.Name]
	}
	return slices.DeleteFunc(Families(), func(f service.Family) bool {
		return !slices.ContainsFunc(all, func(a netip.Addr) bool { return service.FamilyOf(a) == f })
	})
}

// choose picks the address of a name that has the family of the other end.
func (d *decoder) choose(name, other string, all []netip.Addr) (netip.Addr, *checks.LineError) {
	if len(all) == 0 {
		return netip.Addr{}, nil // reported
	}
	there := d.families(other)
	fit := slices.DeleteFunc(slices.Clone(all), func(a netip.Addr) bool { return !slices.Contains(there, service.FamilyOf(a)) })
	switch {
	case len(fit) == 1:
		return fit[0], nil
	case len(fit) == 0:
		return netip.Addr{}, &checks.LineError{Msg: fmt.Sprintf("%q has no %s address, and the other end, %s, has no other", name, familyName(there[0]), checks.Quote(other)), Hint: "both ends must have one of the same family"}
	case other == "" || len(d.names.nodes) == 0 || d.names.nodes[other] == nil:
		return netip.Addr{}, &checks.LineError{Msg: fmt.Sprintf("%q has addresses of both families", name), Hint: "write one of them: " + some(texts(fit))}
	}
	return netip.Addr{}, &checks.LineError{Msg: fmt.Sprintf("%q and %q have addresses of both families", name, other), Hint: "write one of them as an address"}
}

// meet reports a node that has no address of the family of what it talks to.
func (d *decoder) meet(f field, node string, with netip.Addr) {
	if with.IsValid() && !slices.Contains(d.families(node), service.FamilyOf(with)) {
		d.fail(f.value, "both ends must have one of the same family", "%s: %s has no %s address, and %s is one", f.name(), node, familyName(service.FamilyOf(with)), with)
	}
}

// meets reports backends, or further addresses, that a service cannot have for want of one of its family.
func (d *decoder) meets(at *node, s *Service, backends []string) {
	for _, name := range backends {
		n := d.names.nodes[name]
		if n == nil || !s.VIP.IsValid() || n.AddressIn(service.FamilyOf(s.VIP)).IsValid() || !n.Address.IsValid() {
			continue
		}
		hint := "a service and its backends have addresses of one family"
		if s.VIP.Is4() {
			hint = "vip: fd00:10:96::a makes it an IPv6 service"
		}
		d.fail(at, hint, "%s: backend %s has no %s address, and the VIP is %s", s.Name, name, familyName(service.FamilyOf(s.VIP)), s.VIP)
	}
	for _, a := range append(slices.Clone(s.ExternalIPs), s.LoadBalancerIPs...) {
		if s.VIP.IsValid() && service.FamilyOf(a) != service.FamilyOf(s.VIP) {
			d.fail(at, "a service has addresses of one family", "%s: %s and the VIP %s are of different families", s.Name, a, s.VIP)
		}
	}
}

func texts(all []netip.Addr) []string {
	out := make([]string, len(all))
	for i, a := range all {
		out[i] = a.String()
	}
	return out
}
