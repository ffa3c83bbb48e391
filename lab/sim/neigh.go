package sim

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	"ctlab/checks/conntrack"
)

// A neighbour is asked three times (mcast_solicit) before it counts as failed, which takes some 3.06 s on a
// kernel with 250 ticks a second: three times retrans_time_ms, each rounded up by the timer wheel.
const (
	probes   = 3
	probeGap = 1020 * time.Millisecond
)

// search asks for a neighbour until it answers or is given up. A neighbour that is there answers at once:
// on a veth pair, question and answer pass within the sender's own call.
func (n *node) search(h hop, sender netip.Addr) {
	if n.known[h] || n.probing[h] != 0 {
		return
	}
	n.g.serial++
	n.probing[h] = n.g.serial
	n.probe(h, sender, n.g.serial, 1)
}

func (n *node) probe(h hop, sender netip.Addr, id uint64, try int) {
	switch {
	case n.probing[h] != id:
		return // it was found or forgotten meanwhile
	case try > probes:
		n.lost(h)
		return
	case n.asks(h, sender):
		n.found(h)
		return
	}
	n.g.after(probeGap, func() { n.probe(h, sender, id, try+1) })
}

// asks sends one ARP request or neighbour solicitation. A node that has the address learns the sender's (arp_process,
// neigh_event_ns, ndisc_recv_ns) and answers.
func (n *node) asks(h hop, sender netip.Addr) bool {
	d := n.device(h.dev)
	if d == nil || !d.carrier() || !d.peer.hears(h.addr) {
		return false
	}
	switch {
	case h.addr.Is6() && !d.has(sender):
		sender = d.local() // ndisc_solicit
	case h.addr.Is4() && !n.has(sender):
		sender = d.firstFor(h.addr, netip.Addr{}) // of a forwarded packet: an address of the device (arp_solicit)
	}
	if sender.IsValid() {
		d.peer.node.found(hop{d.peer.name, sender})
	}
	return true
}

// hears reports whether the node answers to an address on this device: IPv4 addresses belong to the node, IPv6 addresses to
// the device (ndisc_recv_ns).
func (d *device) hears(a netip.Addr) bool {
	if a.Is6() {
		return d.has(a)
	}
	return d.node.has(a)
}

// found notes that a neighbour announced itself; what waited for it leaves.
func (n *node) found(h hop) {
	if n.known[h] {
		return
	}
	n.known[h] = true
	delete(n.probing, h)
	if n.tracked != nil {
		n.tracked.resolved(h)
		return
	}
	waiting := n.waiting[h]
	delete(n.waiting, h)
	for _, p := range waiting {
		n.wire(h.dev, p)
	}
}

// lost notes that a neighbour failed or was forgotten. Whoever sent what waits for it hears that the host is
// unreachable (arp_error_report, ndisc_error_report).
func (n *node) lost(h hop) {
	n.unknow(h)
	if n.tracked != nil {
		n.tracked.lost(h)
		return
	}
	waiting := n.waiting[h]
	delete(n.waiting, h)
	for _, p := range waiting {
		n.hearError(unreachableHost(p))
	}
}

func (n *node) unknow(h hop) {
	delete(n.known, h)
	delete(n.probing, h)
}

// forgetAll forgets neighbours on a device, those with some addresses, and what a host has waiting for them
// (neigh_flush_dev).
func (n *node) forgetAll(dev string, of func(netip.Addr) bool) {
	for h := range n.waiting {
		if h.dev == dev && of(h.addr) {
			delete(n.waiting, h)
		}
	}
	for _, h := range n.neighbours(dev) {
		if of(h.addr) {
			n.lost(h)
		}
	}
}

// neighbours are the known and the searched ones on a device, in order.
func (n *node) neighbours(dev string) []hop {
	all := maps.Clone(n.known)
	for h := range n.probing {
		all[h] = true
	}
	maps.DeleteFunc(all, func(h hop, _ bool) bool { return h.dev != dev })
	return slices.SortedFunc(maps.Keys(all), func(a, b hop) int { return a.addr.Compare(b.addr) })
}

// wire sends a packet over a link, if it is up at both ends now and then.
func (n *node) wire(dev string, p conntrack.Packet) {
	d := n.device(dev)
	if d == nil || !d.carrier() {
		return
	}
	n.g.after(linkTime, func() {
		if d.carrier() {
			d.peer.node.receive(d.peer, p)
		}
	})
}
