package model

import (
	"net/netip"

	"ctlab/checks/conntrack"
)

// Socket is a UDP socket of the namespace itself. An unspecified local address means any, an invalid
// Remote that it is not connected.
type Socket struct{ Local, Remote netip.AddrPort }

// Neighbour is a next hop on a device.
type Neighbour struct {
	Dev  string
	Addr netip.Addr
}

// Margin is a question that was decided near its boundary.
type Margin struct {
	At   conntrack.Span
	What string
	Off  int64 // ticks from the boundary; below 0 before it
}

// Bind says that a socket of the namespace's own was opened, Unbind that it was closed: while it is there,
// what is delivered to it is not answered with port unreachable.
func (n *Namespace) Bind(s Socket) {}

// Unbind is the end of what Bind began.
func (n *Namespace) Unbind(s Socket) {}

// Send handles a packet that a socket of the namespace itself sends (LOCAL_OUT, then POSTROUTING). Its
// Outcome is Dropped where the sender is told that it is not permitted.
func (n *Namespace) Send(at conntrack.Span, p conntrack.Packet) Outcome { return Outcome{} }

// DelLink takes a device away, with its addresses, routes and neighbours (and masqueraded entries).
func (n *Namespace) DelLink(at conntrack.Span, name string) {}

// DelAddress takes an address off a device.
func (n *Namespace) DelAddress(at conntrack.Span, dev string, a netip.Prefix) {}

// DelRoute takes a route away.
func (n *Namespace) DelRoute(r Route) {}

// Unresolved are the neighbours for which packets wait.
func (n *Namespace) Unresolved() []Neighbour { return nil }

// Margins are the questions that were decided within the given number of ticks of their boundary.
func (n *Namespace) Margins(ticks int64) []Margin { return nil }

// Targets are the destinations that the present rules could give to a first packet with the original tuple,
// arriving on dev ("" if the namespace itself sends it), in all of their allowed choices; where no rule
// matches, the tuple's own destination. An entry whose reply source is none of them is stale.
func (rs *Ruleset) Targets(orig conntrack.Tuple, dev string, local func(netip.Addr) bool) []netip.AddrPort {
	return nil
}
