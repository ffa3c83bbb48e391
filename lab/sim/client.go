package sim

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"ctlab/checks/conntrack"
	"ctlab/lab"
	"ctlab/lab/play"
)

// client is a client's socket and the question that it waits for.
type client struct {
	g      *Ground
	spec   *lab.Client
	sock   *socket
	lastID uint16 // of DNS messages
	asking *question
}

// question is a question that has no outcome yet.
type question struct {
	id   uint16
	sent int64
	done func(play.Reply)
}

// Open opens a client's socket.
func (g *Ground) Open(spec *lab.Client, port uint16) (play.Socket, error) {
	c, err := g.open(spec, port)
	if err != nil {
		return nil, fmt.Errorf("open a socket on %s: %w", spec.On, err)
	}
	return c, nil
}

func (g *Ground) open(spec *lab.Client, port uint16) (*client, error) {
	n, err := g.node(spec.On)
	if err != nil {
		return nil, err
	}
	if port == 0 {
		if port, err = n.freshPort(); err != nil {
			return nil, err
		}
	}
	c := &client{g: g, spec: spec}
	c.sock = &socket{local: netip.AddrPortFrom(n.boundTo(spec), port), recvErr: spec.RecvErr, client: c}
	if spec.Connected {
		c.sock.remote = spec.To
	}
	if err := n.open(c.sock); err != nil {
		return nil, err
	}
	g.used[usedPort{spec.On, port}] = true
	return c, nil
}

// boundTo is the local address of a client's socket: the given one, else that of the route to the server. If
// there is no route yet it stays open, and questions are told that the network is unreachable.
func (n *node) boundTo(spec *lab.Client) netip.Addr {
	if spec.Source.IsValid() {
		return spec.Source
	}
	if a, ok := n.source(spec.To.Addr()); ok {
		return a
	}
	return unspecified(spec.To.Addr())
}

// The range of ports that the kernel deals out (net.ipv4.ip_local_port_range).
const (
	firstPort = 32768
	lastPort  = 60999
)

// freshPort picks a source port that the node has not used, as long as there is one.
func (n *node) freshPort() (uint16, error) {
	lo, hi := firstPort, lastPort
	if v, ok := n.sysctls["net.ipv4.ip_local_port_range"]; ok {
		if _, err := fmt.Sscan(v, &lo, &hi); err != nil || lo < 1 || hi > 65535 || lo > hi {
			return 0, fmt.Errorf("net.ipv4.ip_local_port_range %q: want two ports", v)
		}
	}
	begin := lo + n.g.rng.IntN(hi-lo+1)
	free := uint16(0)
	for i := range hi - lo + 1 {
		port := uint16(lo + (begin-lo+i)%(hi-lo+1))
		if slices.ContainsFunc(n.sockets, func(s *socket) bool { return s.local.Port() == port }) {
			continue
		}
		if !n.g.used[usedPort{n.spec.Name, port}] {
			return port, nil
		}
		if free == 0 {
			free = port
		}
	}
	if free == 0 {
		return 0, errAddrInUse
	}
	return free, nil
}

// Tuple is the original tuple of what is sent from the socket.
func (c *client) Tuple() conntrack.Tuple {
	src := c.sock.local.Addr()
	if a, ok := c.sock.node.source(c.spec.To.Addr()); ok && src.IsUnspecified() {
		src = a
	}
	return conntrack.Tuple{Proto: conntrack.UDP, Src: src, SrcPort: c.sock.local.Port(), Dst: c.spec.To.Addr(), DstPort: c.spec.To.Port()}
}

// Close closes the socket.
func (c *client) Close() error {
	c.sock.close()
	return nil
}

// ask sends a question; done is called when it has an outcome, perhaps at once.
func (c *client) ask(done func(play.Reply)) {
	c.lastID++
	q := &question{id: c.lastID, sent: c.g.now, done: done}
	c.asking = q
	if e := c.sock.send(c.spec.To, message{id: q.id, question: c.spec.Question, aaaa: c.spec.AAAA}); e != noError {
		c.fail(e)
		return
	}
	c.g.after(c.spec.Timeout, func() {
		if c.asking == q {
			c.end(play.Reply{Class: lab.Timeout})
		}
	})
}

// receive takes a datagram; answers to earlier questions are passed over.
func (c *client) receive(from netip.AddrPort, m message) {
	if c.asking == nil || !m.answer || m.id != c.asking.id {
		return
	}
	r := play.Reply{Class: lab.Answered, By: m.by}
	if from != c.spec.To {
		r.Class, r.From = lab.WrongSource, from
	}
	c.end(r)
}

// wake lets a client that waits see the error of its socket. Without one the error stays with the socket.
func (c *client) wake() {
	if c.asking == nil {
		return
	}
	e := c.sock.pending
	c.sock.pending = noError
	c.fail(e)
}

// told takes an error that says which question it is about; those about earlier ones are passed over.
func (c *client) told(e sockError, id uint16) {
	if c.asking != nil && c.asking.id == id {
		c.fail(e)
	}
}

func (c *client) fail(e sockError) {
	c.end(play.Reply{Class: e.class(), Err: string(e)})
}

func (c *client) end(r play.Reply) {
	q := c.asking
	c.asking = nil
	r.At, r.Took = time.Duration(q.sent-c.g.origin), time.Duration(c.g.now-q.sent)
	q.done(r)
}

// errForeign says that a socket was not opened by this ground.
var errForeign = errors.New("the socket is not one of this network")

// Ask sends one question from each socket at the same moment, and lets time pass until all have an outcome.
func (g *Ground) Ask(ctx context.Context, from []play.Socket) ([]play.Reply, error) {
	clients := make([]*client, len(from))
	for i, s := range from {
		c, ok := s.(*client)
		if !ok {
			return nil, errForeign
		}
		if c.asking != nil || slices.Contains(clients[:i], c) {
			return nil, fmt.Errorf("client %s: its socket waits for an outcome already", c.spec.Name)
		}
		clients[i] = c
	}
	replies := make([]play.Reply, len(from))
	open := len(from)
	for i, c := range clients {
		c.ask(func(r play.Reply) {
			replies[i] = r
			open--
		})
	}
	// What comes back through lo is there when sending returns, also if nothing is waited for.
	err := g.run(ctx, g.now, func() bool { return false })
	if err == nil {
		err = g.wait(func() error { return g.run(ctx, forever, func() bool { return open == 0 }) })
	}
	return replies, err
}
