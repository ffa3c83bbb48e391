package lab

import (
	"fmt"
	"net/netip"
	"strings"

	"ctlab/checks"
)

// pool is where hosts without an address get theirs, in subnets of poolBits.
func pool() netip.Prefix { return netip.MustParsePrefix("10.244.0.0/16") }

const poolBits = 24

// assignAddresses reads the addresses that the lab gives, checks them against each other, and then gives
// every other host the next free one, in the order of the file.
func (d *decoder) assignAddresses(drafts []*nodeDraft) {
	gateways := map[netip.Addr]*Node{}
	for _, n := range drafts {
		if n.address.key == nil || n.Router || n.kind == "" {
			continue
		}
		if p, ok := d.hostAddress(n); ok {
			n.Address, n.Gateway = p, p.Masked().Addr().Next()
			if d.unique(n) && gateways[n.Gateway] == nil {
				gateways[n.Gateway] = n.Node
			}
		}
	}
	for _, n := range drafts {
		if !n.Address.IsValid() {
			continue
		}
		if g := gateways[n.Address.Addr()]; g != nil {
			d.fail(n.address.value, gatewayHint(n), "%s: %s is the gateway of %s", n.Name, n.Address.Addr(), subnetOf(g, n))
		}
	}
	d.fillAddresses(drafts, gateways)
}

func subnetOf(g *Node, n *nodeDraft) string {
	if g == n.Node {
		return "its own subnet"
	}
	return fmt.Sprintf("%s's subnet %s", g.Name, g.Address.Masked())
}

func gatewayHint(n *nodeDraft) string {
	return "the router has the first address of the subnet; try " + netip.PrefixFrom(n.Address.Addr().Next(), n.Address.Bits()).String()
}

// hostAddress reads an address with its subnet's length.
func (d *decoder) hostAddress(n *nodeDraft) (netip.Prefix, bool) {
	f := n.address
	bad := func(hint, format string, args ...any) (netip.Prefix, bool) {
		d.fail(f.value, hint, "address: "+format, args...)
		return netip.Prefix{}, false
	}
	if f.value.kind == sequence {
		return bad("", "more than one address is not supported yet")
	}
	if !d.isScalar(f, "an address such as 10.244.1.10/24") {
		return netip.Prefix{}, false
	}
	text := f.value.text
	p, err := netip.ParsePrefix(text)
	if a, aErr := netip.ParseAddr(text); aErr == nil && a.Is4() {
		return bad(text+"/24", "%s has no prefix length", checks.Quote(text))
	}
	switch {
	case strings.Count(text, ":") > 1:
		return bad("", "IPv6 is not supported yet")
	case err != nil:
		return bad("such as 10.244.1.10/24", "%s is no address", checks.Quote(text))
	case !usable(p.Addr()):
		return bad("", "no host can have %s", p.Addr())
	case p.Bits() > 30:
		return bad("/24 is usual", "a /%d has no room for a gateway", p.Bits())
	case p.Bits() < 8:
		return bad("/24 is usual", "a /%d is too large", p.Bits())
	case p.Addr() == p.Masked().Addr() || p.Addr() == lastAddr(p):
		return bad("", "%s is the first or the last address of %s, which belongs to the subnet", p.Addr(), p.Masked())
	}
	return p, true
}

// usable reports whether a host may have the address.
func usable(a netip.Addr) bool {
	return a.Is4() && !a.IsUnspecified() && !a.IsLoopback() && !a.IsMulticast() && a.As4()[0] != 0 && a.As4()[0] < 240
}

// lastAddr is the broadcast address.
func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().As4()
	for bit := p.Bits(); bit < 32; bit++ {
		b[bit/8] |= 1 << (7 - bit%8)
	}
	return netip.AddrFrom4(b)
}

func (d *decoder) unique(n *nodeDraft) bool {
	a := n.Address.Addr()
	if other := d.names.hosts[a]; other != nil {
		d.fail(n.address.value, "each host has its own; without address: it gets a free one", "%s: %s is the address of %s (line %d)", n.Name, a, other.Name, other.Pos.Line)
		return false
	}
	d.names.hosts[a] = n.Node
	return true
}

func (d *decoder) fillAddresses(drafts []*nodeDraft, gateways map[netip.Addr]*Node) {
	next := pool().Addr()
	for _, n := range drafts {
		if n.Router || n.address.key != nil {
			continue
		}
		for next = next.Next(); !d.free(next, gateways); next = next.Next() {
			if !pool().Contains(next) {
				d.fail(n.name, "give it an address", "%s: no address is left in %s", n.Name, pool())
				return
			}
		}
		n.Address = netip.PrefixFrom(next, poolBits)
		n.Gateway = n.Address.Masked().Addr().Next()
		d.names.hosts[next] = n.Node
	}
}

// free reports whether an address of the pool can be given away: nobody has it, it is not the first, the
// last or the router's of its subnet, and nobody has the router's.
func (d *decoder) free(a netip.Addr, gateways map[netip.Addr]*Node) bool {
	subnet := netip.PrefixFrom(a, poolBits)
	first := subnet.Masked().Addr()
	switch {
	case !pool().Contains(a), a == first, a == first.Next(), a == lastAddr(subnet):
		return false
	}
	return d.names.hosts[a] == nil && gateways[a] == nil && d.names.hosts[first.Next()] == nil
}
