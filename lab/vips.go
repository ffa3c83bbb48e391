package lab

import (
	"net/netip"

	"ctlab/checks"
	"ctlab/topology/service"
)

// vipPool is where services without a VIP get theirs.
func vipPool() netip.Prefix { return netip.MustParsePrefix("10.96.0.0/16") }

const firstVIP = 10 // as a cluster's DNS service has

// assignVIPs reads the VIPs that the lab gives and deals out the next free ones to the other services.
func (d *decoder) assignVIPs(drafts []*serviceDraft) {
	subnets := d.subnets()
	taken := map[netip.Addr]*Service{}
	for _, s := range drafts {
		if s.vip.key == nil || !d.readVIP(s, subnets) {
			continue
		}
		if other := taken[s.VIP]; other != nil {
			d.fail(s.vip.value, "each service has its own; without vip: it gets a free one", "%s: %s is the VIP of %s (line %d)", s.Name, s.VIP, other.Name, other.Pos.Line)
			continue
		}
		taken[s.VIP] = s.Service
	}
	next := vipPool().Addr()
	for range firstVIP - 1 {
		next = next.Next()
	}
	for _, s := range drafts {
		if s.vip.key != nil {
			continue
		}
		for next = next.Next(); taken[next] != nil || subnets.of(next) != nil || d.names.local[next] != nil; next = next.Next() {
			if !vipPool().Contains(next) {
				break
			}
		}
		if s.VIP = next; !vipPool().Contains(next) {
			d.fail(s.name, "give it a vip", "%s: no VIP is left in %s", s.Name, vipPool())
			return
		}
	}
}

func (d *decoder) readVIP(s *serviceDraft, subnets subnets) bool {
	f := s.vip
	if f.value.kind == sequence {
		d.fail(f.value, "", "vip: more than one address is not supported yet")
		return false
	}
	if !d.isScalar(f, "an address such as 10.96.0.10") {
		return false
	}
	a, err := netip.ParseAddr(f.value.text)
	switch n := subnets.of(a); {
	case err != nil:
		d.fail(f.value, "such as 10.96.0.10", "vip: %s is no address", checks.Quote(f.value.text))
	case !usable(a):
		d.fail(f.value, "such as 10.96.0.10", "vip: no service can have %s", a)
	case n != nil && d.names.local[a] == nil: // an address on lo is reached by routes
		d.fail(f.value, "hosts would ask for it by "+asking(a)+"; try "+d.freeVIP(subnets, a), "%s: the VIP lies in %s's subnet %s", s.Name, n.Name, n.AddressIn(service.FamilyOf(a)).Masked())
	default:
		s.VIP = a
		return true
	}
	return false
}

// asking is how hosts ask for a neighbour.
func asking(a netip.Addr) string {
	if a.Is4() {
		return "ARP"
	}
	return "neighbour discovery"
}

// freeVIP is a VIP for a hint, of the family of another one.
func (d *decoder) freeVIP(subnets subnets, like netip.Addr) string {
	free := []string{"10.96.0.10", "172.30.0.10", "192.168.96.10"}
	if like.Is6() {
		free = []string{"fd00:10:96::a", "fd00:172:30::a"}
	}
	for _, text := range free {
		if a := netip.MustParseAddr(text); subnets.of(a) == nil {
			return text
		}
	}
	return "another one"
}

// subnets finds the subnet of an address by one look-up for each length that occurs.
type subnets struct {
	lengths []int
	nodes   map[netip.Prefix]*Node
}

func (d *decoder) subnets() subnets {
	s := subnets{nodes: map[netip.Prefix]*Node{}}
	lengths := map[int]bool{}
	for _, n := range d.lab.Nodes {
		for _, f := range Families() {
			a := n.AddressIn(f)
			if !a.IsValid() {
				continue
			}
			if bits := a.Bits(); !lengths[bits] {
				lengths[bits] = true
				s.lengths = append(s.lengths, bits)
			}
			if p := a.Masked(); s.nodes[p] == nil {
				s.nodes[p] = n
			}
		}
	}
	return s
}

// frontend is what traffic is sent to.
type frontend struct {
	node  string // of a node port, where addr is any address of the family
	addr  netip.Addr
	port  uint16
	proto uint8
}

// frontends reports services that want the same traffic. Two may share an external address if their ports
// differ.
func (d *decoder) frontends(drafts []*serviceDraft) {
	taken := map[frontend]*Service{}
	claim := func(s *serviceDraft, what string, f frontend) {
		other := taken[f]
		if other != nil && other != s.Service {
			d.fail(s.name, "", "%s: %s belongs to %s (line %d)", s.Name, what, other.Name, other.Pos.Line)
			return
		}
		taken[f] = s.Service
	}
	for _, s := range drafts { // two that have the same VIP were reported
		for _, p := range s.Ports {
			taken[frontend{addr: s.VIP, port: p.Number, proto: p.Proto}] = s.Service
		}
	}
	for _, s := range drafts {
		for _, p := range s.Ports {
			for _, a := range append(append([]netip.Addr(nil), s.ExternalIPs...), s.LoadBalancerIPs...) {
				claim(s, a.String()+" with "+portText(p.Number, p.Proto), frontend{addr: a, port: p.Number, proto: p.Proto})
			}
			for _, on := range s.On {
				if p.NodePort != 0 {
					claim(s, "the node port "+portText(p.NodePort, p.Proto)+" of "+on, frontend{node: on, addr: anyAddress(service.FamilyOf(s.VIP)), port: p.NodePort, proto: p.Proto})
				}
			}
		}
	}
}

// of is a node whose subnet holds the address, or nil.
func (s subnets) of(a netip.Addr) *Node {
	for _, bits := range s.lengths {
		if p, err := a.Prefix(bits); err == nil && s.nodes[p] != nil {
			return s.nodes[p]
		}
	}
	return nil
}
