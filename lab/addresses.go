package lab

import (
	"fmt"
	"net/netip"
	"strings"

	"ctlab/checks"
	"ctlab/topology/service"
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
		for _, g := range d.hostAddresses(n) {
			if gateways[g] == nil {
				gateways[g] = n.Node
			}
		}
	}
	for _, n := range drafts {
		if !n.Address.IsValid() {
			continue
		}
		if g := gateways[n.Address.Addr()]; g != nil {
			d.fail(n.also[0].value, gatewayHint(n), "%s: %s is the gateway of %s", n.Name, n.Address.Addr(), subnetOf(g, n, n.Address.Addr()))
		}
		for i, a := range n.Also {
			if g := gateways[a.Addr()]; g != nil {
				d.fail(n.also[i+1].value, "", "%s: %s is the gateway of %s", n.Name, a.Addr(), subnetOf(g, n, a.Addr()))
			}
		}
	}
	for _, n := range drafts {
		d.uniqueLocal(n)
	}
	d.fillAddresses(drafts, gateways)
}

func subnetOf(g *Node, n *nodeDraft, a netip.Addr) string {
	if g == n.Node {
		return "its own subnet"
	}
	return fmt.Sprintf("%s's subnet %s", g.Name, g.AddressIn(service.FamilyOf(a)).Masked())
}

func gatewayHint(n *nodeDraft) string {
	return "the router has the first address of the subnet; try " + netip.PrefixFrom(n.Address.Addr().Next(), n.Address.Bits()).String()
}

// hostAddresses reads a host's addresses: the first one of each family has the gateway in its subnet, further ones
// stand behind it. It returns the gateways of those that are the host's alone.
func (d *decoder) hostAddresses(n *nodeDraft) (alone []netip.Addr) {
	for i, f := range d.list(n.address) {
		p, ok := d.hostAddress(f, func(p netip.Prefix) bool { return !n.gatewayIn(service.FamilyOf(p.Addr())).IsValid() })
		if !ok {
			if i == 0 {
				return nil
			}
			continue
		}
		if n.Wire && p.Addr().Is6() {
			d.fail(f.value, "", "%s: IPv6 on a wire is not supported yet", n.Name)
		}
		unique := d.unique(n, f, p.Addr())
		n.also = append(n.also, f)
		gateway := p.Masked().Addr().Next()
		switch first := !n.gatewayIn(service.FamilyOf(p.Addr())).IsValid(); {
		case i == 0:
			n.Address, n.Gateway = p, gateway
		case first:
			n.Also, n.OtherGateway = append(n.Also, p), gateway
		default:
			n.Also = append(n.Also, p)
			continue
		}
		if unique {
			alone = append(alone, gateway)
		}
	}
	return alone
}

// hostAddress reads an address with its subnet's length; only the subnet of the first one of a family has a gateway.
func (d *decoder) hostAddress(f field, first func(netip.Prefix) bool) (netip.Prefix, bool) {
	p, ok := d.prefix(f, "such as 10.244.1.10/24")
	if !ok {
		return p, false
	}
	bad := func(hint, format string, args ...any) (netip.Prefix, bool) {
		d.fail(f.value, hint, f.name()+": "+format, args...)
		return netip.Prefix{}, false
	}
	roomy := p.Bits() <= p.Addr().BitLen()-2
	switch {
	case !roomy && first(p):
		return bad(usualLength(p.Addr())+" is usual", "a /%d has no room for a gateway", p.Bits())
	case roomy && p.Addr().Is6() && p.Addr() == p.Masked().Addr():
		return bad("", "%s is the first address of %s, which all routers on it have (RFC 4291, 2.6.1)", p.Addr(), p.Masked())
	case roomy && p.Addr().Is4() && (p.Addr() == p.Masked().Addr() || p.Addr() == lastAddr(p)):
		return bad("", "%s is the first or the last address of %s, which belongs to the subnet", p.Addr(), p.Masked())
	}
	return p, true
}

// prefix reads ADDRESS/LENGTH of an address that a node may have.
func (d *decoder) prefix(f field, hint string) (netip.Prefix, bool) {
	bad := func(hint, format string, args ...any) (netip.Prefix, bool) {
		d.fail(f.value, hint, f.name()+": "+format, args...)
		return netip.Prefix{}, false
	}
	if !d.isScalar(f, "an address such as 10.244.1.10/24") {
		return netip.Prefix{}, false
	}
	text := f.value.text
	p, err := netip.ParsePrefix(text)
	if a, aErr := netip.ParseAddr(text); aErr == nil {
		return bad(text+usualLength(a), "%s has no prefix length", checks.Quote(text))
	}
	switch {
	case err != nil:
		return bad(hint, "%s is no address", checks.Quote(text))
	case !usable(p.Addr()):
		return bad("", "no host can have %s", p.Addr())
	case p.Bits() < 8:
		return bad(usualLength(p.Addr())+" is usual", "a /%d is too large", p.Bits())
	}
	return p, true
}

// usualLength is the length of a usual subnet.
func usualLength(a netip.Addr) string {
	if a.Is4() {
		return "/24"
	}
	return "/64"
}

// addressOrPrefix reads an address, which is a prefix of its own, or ADDRESS/LENGTH.
func (d *decoder) addressOrPrefix(f field) (netip.Prefix, bool) {
	if v := f.value; v.kind == scalar && v.text != "" && !strings.Contains(v.text, "/") {
		a, ok := d.addr(f, "such as 10.96.0.10, or 10.96.0.10/32")
		return netip.PrefixFrom(a, a.BitLen()), ok
	}
	return d.prefix(f, "such as 10.96.0.10, or 10.96.0.10/32")
}

// addr reads an address that a node may have.
func (d *decoder) addr(f field, hint string) (netip.Addr, bool) {
	if !d.isScalar(f, "an address") {
		return netip.Addr{}, false
	}
	a, err := netip.ParseAddr(f.value.text)
	switch {
	case err != nil:
		d.fail(f.value, hint, "%s: %s is no address", f.name(), checks.Quote(f.value.text))
	case !usable(a):
		d.fail(f.value, hint, "%s: no node can have %s", f.name(), a)
	default:
		return a, true
	}
	return netip.Addr{}, false
}

// readLocal reads the addresses on lo.
func (d *decoder) readLocal(n *nodeDraft, f field) {
	if isNone(f.value) {
		return
	}
	for _, item := range d.list(f) {
		if p, ok := d.addressOrPrefix(item); ok {
			n.Local = append(n.Local, p)
			n.local = append(n.local, item)
		}
	}
}

// isNone reports the word that takes away or switches off.
func isNone(v *node) bool { return v.kind == scalar && v.style == plain && v.text == "none" }

// usable reports whether a host may have the address. Link-local ones of IPv6 are ctlab's own to give.
func usable(a netip.Addr) bool {
	if a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() {
		return false
	}
	if a.Is6() {
		return !a.Is4In6() && !a.IsLinkLocalUnicast() && a.Zone() == ""
	}
	return a.As4()[0] != 0 && a.As4()[0] < 240
}

// lastAddr is the broadcast address.
func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().As4()
	for bit := p.Bits(); bit < 32; bit++ {
		b[bit/8] |= 1 << (7 - bit%8)
	}
	return netip.AddrFrom4(b)
}

// unique gives the host an address that nobody else has, unless it is said to be so on purpose.
func (d *decoder) unique(n *nodeDraft, f field, a netip.Addr) bool {
	other := d.names.hosts[a]
	if other == nil {
		d.names.hosts[a] = n.Node
		return true
	}
	switch {
	case other == n.Node:
		d.fail(f.value, "", "%s: %s stands twice", n.Name, a)
	case !n.overlaps[other.Name]:
		d.fail(f.value, "if you mean it: overlaps: "+other.Name, "%s: %s is the address of %s (line %d)", n.Name, a, other.Name, other.Pos.Line)
	}
	return false
}

// uniqueLocal does the same for addresses on lo.
func (d *decoder) uniqueLocal(n *nodeDraft) {
	for i, p := range n.Local {
		a := p.Addr()
		other := d.names.hosts[a]
		if other == nil {
			other = d.names.local[a]
		}
		switch {
		case other == nil:
			d.names.local[a] = n.Node
		case other == n.Node:
			d.fail(n.local[i].value, "", "%s: it has %s already", n.Name, a)
		case !n.overlaps[other.Name]:
			d.fail(n.local[i].value, "if you mean it: overlaps: "+other.Name, "%s: %s is an address of %s (line %d)", n.Name, a, other.Name, other.Pos.Line)
		}
	}
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
	taken := d.names.hosts[a] != nil || d.names.local[a] != nil || gateways[a] != nil
	return !taken && d.names.hosts[first.Next()] == nil
}

// has reports whether an address is one of the node's when the lab is built.
func (d *decoder) has(n *Node, a netip.Addr) bool {
	if n.Router {
		for _, g := range d.routerAddresses()[n.Name] {
			if g == a {
				return true
			}
		}
	}
	for _, p := range append(n.Addresses(), n.Local...) {
		if p.Addr() == a {
			return true
		}
	}
	return false
}
