package sim

import (
	"net/netip"
	"slices"

	"ctlab/checks/conntrack"
	"ctlab/lab"
)

// socket is a UDP socket. An unspecified local address means any, an invalid remote that it is not
// connected.
type socket struct {
	node    *node
	local   netip.AddrPort
	remote  netip.AddrPort
	recvErr bool // IP_RECVERR
	pending sockError
	server  *server // who reads from it: a server or a client
	client  *client
}

// sockError is an error that a socket's owner is told of.
type sockError string

// The errors, in the kernel's words.
const (
	noError      sockError = ""
	refused      sockError = "connection refused"      // ECONNREFUSED
	noHost       sockError = "no route to host"        // EHOSTUNREACH
	noNetwork    sockError = "network is unreachable"  // ENETUNREACH
	notPermitted sockError = "operation not permitted" // EPERM
	otherError   sockError = "protocol error"
)

// class is the result of a request that ended with the error.
func (e sockError) class() lab.Class {
	switch e {
	case refused:
		return lab.Refused
	case noHost, noNetwork:
		return lab.Unreachable
	case notPermitted:
		return lab.NotPermitted
	}
	return lab.Failed
}

// open adds a socket if its address and port are free; connected ones may share them, as those with
// SO_REUSEADDR do.
func (n *node) open(s *socket) error {
	a := s.local.Addr()
	if !a.IsUnspecified() && !n.has(a) {
		return errNoAddress
	}
	for _, o := range n.sockets {
		same := sameFamily(o.local.Addr(), a) && (o.local.Addr() == a || o.local.Addr().IsUnspecified() || a.IsUnspecified())
		shared := o.remote.IsValid() && s.remote.IsValid()
		if o.local.Port() == s.local.Port() && same && !shared {
			return errAddrInUse
		}
	}
	s.node = n
	n.sockets = append(n.sockets, s)
	if n.tracked != nil {
		n.tracked.bind(s)
	}
	return nil
}

func (s *socket) close() {
	n := s.node
	if !slices.Contains(n.sockets, s) {
		return
	}
	n.sockets = slices.DeleteFunc(n.sockets, func(o *socket) bool { return o == s })
	if n.tracked != nil {
		n.tracked.unbind(s)
	}
}

// lookup finds the socket for packets from remote to local: a connected one before one that is bound to the
// address before one that is bound to any (compute_score in net/ipv4/udp.c).
func (n *node) lookup(local, remote netip.AddrPort) *socket {
	var best *socket
	top := -1
	for _, s := range n.sockets {
		score := 0
		switch s.local.Addr() {
		case local.Addr():
			score++
		case unspecified(local.Addr()):
		default:
			continue
		}
		if s.remote.IsValid() {
			if s.remote != remote {
				continue
			}
			score += 2
		}
		if s.local.Port() == local.Port() && score > top {
			best, top = s, score
		}
	}
	return best
}

// send sends a message from the socket (udp_sendmsg): first an error that waits is told, and nothing is sent.
func (s *socket) send(to netip.AddrPort, m message) sockError {
	if e := s.pending; e != noError {
		s.pending = noError
		return e
	}
	n := s.node
	src := s.local.Addr()
	switch a, ok := n.source(to.Addr()); {
	case !ok, !src.IsUnspecified() && !n.has(src): // ip_route_output_key_hash_rcu
		return noNetwork
	case src.IsUnspecified():
		src = a
	}
	p := conntrack.Packet{Proto: conntrack.UDP, Src: src, SrcPort: s.local.Port(), Dst: to.Addr(), DstPort: to.Port(),
		Len: m.length(to.Addr()), ID: n.g.nextID(), TTL: n.ttl(to.Addr()), DF: to.Addr().Is4()}
	n.g.payload[p.ID] = m
	if n.tracked != nil {
		return n.tracked.send(p)
	}
	n.output(p)
	return noError
}

// nextID is the identification of the next IP packet; 0 is nobody's.
func (g *Ground) nextID() uint16 {
	if g.lastID++; g.lastID == 0 {
		g.lastID++
	}
	return g.lastID
}

// deliver hands a datagram to its socket; false means that there is none.
func (n *node) deliver(p conntrack.Packet) bool {
	from := netip.AddrPortFrom(p.Src, p.SrcPort)
	s := n.lookup(netip.AddrPortFrom(p.Dst, p.DstPort), from)
	if s == nil {
		return false
	}
	m := n.g.payload[p.ID]
	switch {
	case s.server != nil:
		s.server.receive(from, m)
	case s.client != nil:
		s.client.receive(from, m)
	}
	return true
}

// ICMP types and codes that the simulation names.
const (
	echoReply       uint8 = 0
	unreachable     uint8 = 3
	echoRequest     uint8 = 8
	timeExceeded    uint8 = 11
	parameter       uint8 = 12
	hostUnreachable uint8 = 1
	protUnreachable uint8 = 2
	portUnreachable uint8 = 3
	fragNeeded      uint8 = 4

	unreachable6       uint8 = 1
	timeExceeded6      uint8 = 3
	parameter6         uint8 = 4
	noRoute6           uint8 = 0
	addressUnreachable uint8 = 3
	portUnreachable6   uint8 = 4
)

// icmpError is an ICMP error about a packet that the node sent.
type icmpError struct {
	typ, code uint8
	about     conntrack.Packet
}

// hearError tells the socket that sent the packet (__udp4_lib_err): with IP_RECVERR of every error, else of
// fatal ones if it is connected.
func (n *node) hearError(e icmpError) {
	if e.about.Proto != conntrack.UDP {
		return
	}
	s := n.lookup(netip.AddrPortFrom(e.about.Src, e.about.SrcPort), netip.AddrPortFrom(e.about.Dst, e.about.DstPort))
	what, fatal := e.meaning()
	if s == nil || what == noError || !s.recvErr && (!fatal || !s.remote.IsValid()) {
		return
	}
	if s.client == nil {
		return // servers pass errors over
	}
	if s.recvErr {
		// The client reads the error queue, which says what the error is about.
		s.client.told(what, n.g.payload[e.about.ID].id)
		return
	}
	s.pending = what
	s.client.wake()
}

// unreachableHost is what the sender of a packet hears when a neighbour does not answer.
func unreachableHost(p conntrack.Packet) icmpError {
	if p.Dst.Is6() {
		return icmpError{typ: unreachable6, code: addressUnreachable, about: p}
	}
	return icmpError{typ: unreachable, code: hostUnreachable, about: p}
}

// meaning6 is icmpv6_err_convert (net/ipv6/icmp.c).
func (e icmpError) meaning6() (what sockError, fatal bool) {
	switch e.typ {
	case timeExceeded6:
		return noHost, false
	case parameter6:
		return otherError, true
	case unreachable6:
	default:
		return noError, false
	}
	switch e.code {
	case noRoute6:
		return noNetwork, false
	case portUnreachable6:
		return refused, true
	case 1, 5, 6: // EACCES
		return otherError, true
	}
	return noHost, false
}

// meaning is icmp_err_convert (net/ipv4/icmp.c) and what __udp4_lib_err adds.
func (e icmpError) meaning() (what sockError, fatal bool) {
	if e.about.Dst.Is6() {
		return e.meaning6()
	}
	switch e.typ {
	case timeExceeded:
		return noHost, false
	case parameter:
		return otherError, true
	case unreachable:
	default:
		return noError, false
	}
	switch e.code {
	case 0, 11:
		return noNetwork, false
	case hostUnreachable, 12:
		return noHost, false
	case portUnreachable:
		return refused, true
	case fragNeeded, 5:
		return noError, false
	case 6, 9:
		return noNetwork, true
	case protUnreachable, 7, 8:
		return otherError, true
	}
	return noHost, true
}
