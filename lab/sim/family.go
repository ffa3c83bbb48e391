package sim

import (
	"net/netip"
	"strconv"

	"ctlab/checks/conntrack"
	"ctlab/checks/model"
	"ctlab/lab"
	"ctlab/topology/service"
)

// The link-local addresses of a link's ends, as topology gives them.
func routerLocal() netip.Prefix { return netip.MustParsePrefix("fe80::1/64") }
func hostLocal() netip.Prefix   { return netip.MustParsePrefix("fe80::2/64") }

// single is a prefix that holds one address.
func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// sameFamily reports whether two addresses are of one family.
func sameFamily(a, b netip.Addr) bool { return a.Is4() == b.Is4() }

// unspecified is the address of a family that means any.
func unspecified(like netip.Addr) netip.Addr {
	if like.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// defaultRoute is the one of the gateway's family.
func defaultRoute(gateway netip.Addr) lab.Route {
	return lab.Route{To: netip.PrefixFrom(unspecified(gateway), 0), Via: gateway, Dev: hostDevice}
}

// speaksIPv6 reports whether the node speaks IPv6.
func (n *node) speaksIPv6() bool { return n.g.lab.Speaks(n.spec, service.IPv6) }

// defaults6 are the settings of IPv6 on which the model's answers depend. Kernels that count ICMPv6 errors alike for every
// destination let ten of them pass in a second (icmpv6_sk_init in net/ipv6/icmp.c; read on 6.18).
func defaults6(p model.Profile) []lab.Sysctl {
	return []lab.Sysctl{
		{Name: "net.ipv6.conf.all.forwarding", Value: "1"},
		{Name: "net.ipv6.conf.default.hop_limit", Value: "64"},
		{Name: "net.netfilter.nf_conntrack_icmpv6_timeout", Value: "30"},
		{Name: rateLimit6, Value: strconv.FormatInt(defaultRate6(p), 10)},
	}
}

// rateLimit6 is the time between two ICMPv6 errors to a destination, in milliseconds.
const rateLimit6 = "net.ipv6.icmp.ratelimit"

func defaultRate6(p model.Profile) int64 {
	if p.PrefixRate {
		return 1000
	}
	return 100
}

// line is a packet as traces write it. Identifications, by which the simulation finds what is in a packet, are not in
// IPv6 headers.
func line(p conntrack.Packet) string {
	for q := &p; q.Dst.Is6(); q = q.About {
		q.ID = 0
		if q.About == nil {
			break
		}
		about := *q.About
		q.About = &about
	}
	return p.Line()
}

// local is the device's link-local address of IPv6.
func (d *device) local() netip.Addr {
	for _, p := range d.addrs {
		if p.Addr().Is6() && p.Addr().IsLinkLocalUnicast() {
			return p.Addr()
		}
	}
	return netip.Addr{}
}

// has reports whether the device has an address.
func (d *device) has(a netip.Addr) bool {
	for _, p := range d.addrs {
		if p.Addr() == a {
			return true
		}
	}
	return false
}
