//go:build linux

package topology

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// Route is a route of a node's main table; without a Via the destination is on the link.
type Route struct {
	To  netip.Prefix
	Via netip.Addr
	Dev string
}

// String is the route in the line that traces use, as `ip route` prints it, but for the default route.
func (r Route) String() string {
	if r.Via.IsValid() {
		return fmt.Sprintf("%s via %s dev %s", r.To, r.Via, r.Dev)
	}
	return fmt.Sprintf("%s dev %s", r.To, r.Dev)
}

// request is the route as netlink takes it.
func (n *Node) request(r Route) *netlink.Route {
	req := &netlink.Route{LinkIndex: n.ports[r.Dev], Dst: ipNet(r.To), Scope: netlink.SCOPE_LINK}
	if r.Via.IsValid() {
		req.Gw, req.Scope = r.Via.AsSlice(), netlink.SCOPE_UNIVERSE
	}
	return req
}

// AddRoute adds a route; there must be none to the same destination.
func (n *Node) AddRoute(r Route) error {
	if err := n.nl.RouteAdd(n.request(r)); err != nil {
		return fmt.Errorf("add route %s to %s: %w", r, n.NS.Name(), err)
	}
	return nil
}

// ReplaceRoute takes the place of the route to the same destination, if there is one.
func (n *Node) ReplaceRoute(r Route) error {
	if err := n.nl.RouteReplace(n.request(r)); err != nil {
		return fmt.Errorf("replace route %s in %s: %w", r, n.NS.Name(), err)
	}
	return nil
}

// DeleteRoute takes a route away.
func (n *Node) DeleteRoute(r Route) error {
	if err := n.nl.RouteDel(n.request(r)); err != nil {
		return fmt.Errorf("delete route %s from %s: %w", r, n.NS.Name(), err)
	}
	return nil
}

// Routes of the main table.
func (n *Node) Routes() ([]Route, error) {
	var out []Route
	for _, any := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		list, err := n.nl.RouteList(nil, familyOf(any))
		if err != nil {
			return nil, fmt.Errorf("list routes of %s: %w", n.NS.Name(), err)
		}
		for _, r := range list {
			if r.LinkIndex == loopbackIndex {
				continue // to the node's own addresses, which IPv6 lists here
			}
			out = append(out, n.listed(r, any))
		}
	}
	return out, nil
}

// listed is a route as netlink lists it; a destination that is left out is that of the default route.
func (n *Node) listed(r netlink.Route, any netip.Addr) Route {
	route := Route{To: netip.PrefixFrom(any, 0), Dev: n.Devices()[r.LinkIndex]}
	if r.Dst != nil {
		a, _ := netip.AddrFromSlice(r.Dst.IP)
		bits, _ := r.Dst.Mask.Size()
		if any.Is4() {
			a = a.Unmap()
		}
		route.To = netip.PrefixFrom(a, bits)
	}
	if r.Gw != nil {
		route.Via, _ = netip.AddrFromSlice(r.Gw)
		route.Via = route.Via.Unmap()
	}
	return route
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
