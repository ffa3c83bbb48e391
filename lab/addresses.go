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
		if d.hostAddresses(n) && gateways[n.Gateway] == nil {
			gateways[n.Gateway] = n.Node
		}
	}
	for _, n := range drafts {
		if !n.Address.IsValid() {
			continue
		}
		if g := gateways[n.Address.Addr()]; g != nil {
			d.fail(n.also[0].value, gatewayHint(n), "%s: %s is the gateway of %s", n.Name, n.Address.Addr(), subnetOf(g, n))
		}
		for i, a := range n.Also {
			if g := gateways[a.Addr()]; g != nil {
				d.fail(n.also[i+1].value, "", "%s: %s is the gateway of %s", n.Name, a.Addr(), subnetOf(g, n))
			}
		}
	}
	for _, n := range drafts {
		d.uniqueLocal(n)
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

// hostAddresses reads a host's addresses: the first one has the gateway in its subnet, further ones stand
// behind it. It reports whether the first is the host's alone.
func (d *decoder) hostAddresses(n *nodeDraft) bool {
	alone := false
	for i, f := range d.list(n.address) {
		p, ok := d.hostAddress(f, i == 0)
		if !ok {
			if i == 0 {
				return false
			}
			continue
		}
		unique := d.unique(n, f, p.Addr())
		n.also = append(n.also, f)
		if i == 0 {
			n.Address, n.Gateway, alone = p, p.Masked().Addr().Next(), unique
			continue
		}
		n.Also = append(n.Also, p)
	}
	return alone
}

// hostAddress reads an address with its subnet's length; only the first one's subnet has a gateway.
func (d *decoder) hostAddress(f field, first bool) (netip.Prefix, bool) {
	p, ok := d.prefix(f, "such as 10.244.1.10/24")
	if !ok {
		return p, false
	}
	bad := func(hint, format string, args ...any) (netip.Prefix, bool) {
		d.fail(f.value, hint, f.name()+": "+format, args...)
		return netip.Prefix{}, false
	}
	switch {
	case p.Bits() > 30 && first:
		return bad("/24 is usual", "a /%d has no room for a gateway", p.Bits())
	case p.Bits() <= 30 && (p.Addr() == p.Masked().Addr() || p.Addr() == lastAddr(p)):
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
	if a, aErr := netip.ParseAddr(text); aErr == nil && a.Is4() {
		return bad(text+"/24", "%s has no prefix length", checks.Quote(text))
	}
	switch {
	case strings.Count(text, ":") > 1:
		return bad("", "IPv6 is not supported yet")
	case err != nil:
		return bad(hint, "%s is no address", checks.Quote(text))
	case !usable(p.Addr()):
		return bad("", "no host can have %s", p.Addr())
	case p.Bits() < 8:
		return bad("/24 is usual", "a /%d is too large", p.Bits())
	}
	return p, true
}

// addressOrPrefix reads an address, which is a /32, or ADDRESS/LENGTH.
func (d *decoder) addressOrPrefix(f field) (netip.Prefix, bool) {
	if v := f.value; v.kind == scalar && v.text != "" && !strings.Contains(v.text, "/") {
		a, ok := d.addr(f, "such as 10.96.0.10, or 10.96.0.10/32")
		return netip.PrefixFrom(a, 32), ok
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
	case strings.Count(f.value.text, ":") > 1:
		d.fail(f.value, "", "%s: IPv6 is not supported yet", f.name())
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
	for _, p := range append(append([]netip.Prefix{n.Address}, n.Also...), n.Local...) {
		if p.Addr() == a {
			return true
		}
	}
	return false
}
