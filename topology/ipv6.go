//go:build linux

package topology

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// ErrNoIPv6 says that the kernel has no IPv6, or was started without it.
var ErrNoIPv6 = errors.New("this kernel has no IPv6")

// The link-local addresses of a link. Neighbours are asked from them for packets that are forwarded (ndisc_solicit and
// ndisc_send_ns in net/ipv6/ndisc.c). The kernel's own would be made of a random hardware address.
func routerLocal() netip.Prefix { return netip.MustParsePrefix("fe80::1/64") }
func hostLocal() netip.Prefix   { return netip.MustParsePrefix("fe80::2/64") }

// LinkLocal is the link-local address of every port of a router that speaks IPv6.
func LinkLocal() netip.Prefix { return routerLocal() }

// aDay in milliseconds.
const aDay = "86400000"

// SpeakIPv6 switches IPv6 on in a node that has no link yet. Its devices get no address of the kernel's making, announce and
// ask for nothing when they come up, and use an address at once. What is left are neighbour discovery, and a report of the
// multicast groups that addresses join, for which net/ipv6/mcast.c knows no switch; it is said again after some time
// within the given interval, which is longer than any lab.
func (n *Node) SpeakIPv6() error {
	for _, s := range []struct{ name, value string }{
		{"conf.default.accept_dad", "0"}, {"conf.default.dad_transmits", "0"}, {"conf.default.accept_ra", "0"}, {"conf.default.autoconf", "0"},
		{"conf.default.router_solicitations", "0"}, {"conf.default.addr_gen_mode", "1"},
		{"conf.default.mldv1_unsolicited_report_interval", aDay}, {"conf.default.mldv2_unsolicited_report_interval", aDay},
		{"conf.default.disable_ipv6", "0"}, {"conf.all.disable_ipv6", "0"},
	} {
		err := n.NS.WriteSysctl("net.ipv6."+s.name, s.value)
		if errors.Is(err, unix.ENOENT) && s.name != "conf.all.disable_ipv6" {
			continue // an older kernel
		}
		if errors.Is(err, unix.ENOENT) {
			err = ErrNoIPv6
		}
		if err != nil {
			return fmt.Errorf("switch IPv6 on in %s: %w", n.NS.Name(), err)
		}
	}
	return nil
}

// Forward6 lets a router forward IPv6 too.
func (n *Node) Forward6() error {
	if err := n.NS.WriteSysctl("net.ipv6.conf.all.forwarding", "1"); err != nil {
		return fmt.Errorf("make %s a router of IPv6: %w", n.NS.Name(), err)
	}
	return nil
}
