//go:build linux

package live

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"ctlab/checks/conntrack"
	"ctlab/checks/kernel"
	"ctlab/checks/trace"
	"ctlab/dnsserver"
	"ctlab/lab/play"
)

// server is a running DNS server.
type server struct {
	ground *Ground
	dns    *dnsserver.Server
}

// Serve starts a DNS server on a node. On a tracked node it must be bound to an address: from a socket that
// is bound to any, nobody but the kernel knows which source an answer will have.
func (g *Ground) Serve(_ context.Context, on string, at netip.AddrPort, identity string) (play.Server, error) {
	n, err := g.node(on)
	if err != nil {
		return nil, err
	}
	t := g.trackedNode(on)
	if t != nil && at.Addr().IsUnspecified() {
		return nil, fmt.Errorf("a server on %s must listen at one of its addresses, not at any: the node is tracked", on)
	}
	var pc net.PacketConn
	var moment kernel.Moment
	err = whileInUse(func() (err error) {
		moment, err = g.clock.during(func() (err error) {
			pc, err = n.NS.ListenUDP(at, nil)
			return err
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	if t != nil {
		pc = t.recordedConn(moment, pc, at)
	} else {
		pc = timedConn{pc, g.clock}
	}
	var l *net.TCPListener
	err = whileInUse(func() (err error) {
		l, err = n.NS.Listen(at)
		return err
	})
	if err != nil {
		return nil, errors.Join(err, pc.Close())
	}
	dns, err := dnsserver.Start(identity, pc, l)
	if err != nil {
		return nil, err
	}
	s := &server{g, dns}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.servers[s] = true
	return s, nil
}

// Stop ends the server at once and says how many questions reached it.
func (s *server) Stop(ctx context.Context) (int, error) {
	s.ground.mu.Lock()
	delete(s.ground.servers, s)
	s.ground.mu.Unlock()
	err := s.dns.Stop(ctx)
	// A program that is just being started, for this lab or another one in the process, holds copies of all
	// sockets between fork and exec, and with them the address.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	return len(s.dns.Log()), err
}

// inUse bounds how long an address may still be in use by a server that has stopped.
const inUse = 500 * time.Millisecond

// whileInUse binds a socket, and tries again while the address is in use. A program that is just being started, for this
// lab or another one in the process, has copies of all sockets until it closes them in execve, shortly after vfork returned
// (begin_new_exec in fs/exec.c: do_close_on_exec comes behind exec_mmap); on a busy machine that is milliseconds.
func whileInUse(bind func() error) error {
	for deadline := time.Now().Add(inUse); ; time.Sleep(time.Millisecond) {
		err := bind()
		if !errors.Is(err, syscall.EADDRINUSE) || time.Now().After(deadline) {
			return err
		}
	}
}

// timedConn is a server's socket on a host. Asking the clock around each answer tells in which tick the node
// has it.
type timedConn struct {
	net.PacketConn
	clock clock
}

func (c timedConn) WriteTo(b []byte, to net.Addr) (int, error) {
	c.clock()
	defer c.clock()
	return c.PacketConn.WriteTo(b, to)
}

// ownConn is a server's socket on a tracked node: what it sends is an input of the node.
type ownConn struct {
	net.PacketConn
	node  *tracked
	local netip.AddrPort
	once  sync.Once // a server may close its socket twice
}

func (t *tracked) recordedConn(at kernel.Moment, pc net.PacketConn, local netip.AddrPort) *ownConn {
	t.rec.called(at, trace.Socket, "open "+local.String())
	return &ownConn{PacketConn: pc, node: t, local: local}
}

func (c *ownConn) WriteTo(b []byte, to net.Addr) (n int, err error) {
	at, err := c.node.clock.during(func() (err error) {
		n, err = c.PacketConn.WriteTo(b, to)
		return err
	})
	if a, ok := to.(*net.UDPAddr); ok {
		c.node.sent(at, c.local, a.AddrPort(), len(b), err)
	}
	return n, err
}

func (c *ownConn) Close() error {
	at, err := c.node.clock.during(c.PacketConn.Close)
	c.once.Do(func() { c.node.rec.called(at, trace.Socket, "close "+c.local.String()) })
	return err
}

// The lengths of headers.
const (
	ipv4Header = 20
	ipv6Header = 40
	udpHeader  = 8
)

// sent records a datagram that a socket of the node's own sent. What failed before a packet was made, for
// want of a route or because of an earlier error, is none; what the rules refused is. A UDP socket asks for DF unless it was
// told otherwise (ip_dont_fragment; net.ipv4.ip_no_pmtu_disc is 0).
func (t *tracked) sent(at kernel.Moment, from, to netip.AddrPort, payload int, err error) {
	if err != nil && !isRefusedByRules(err) {
		return
	}
	p := conntrack.Packet{Proto: conntrack.UDP, Src: from.Addr(), SrcPort: from.Port(), Dst: to.Addr().Unmap(), DstPort: to.Port(),
		Len: ipv4Header + udpHeader + payload, TTL: t.ttl, DF: true}
	if p.Dst.Is6() {
		p.Len, p.TTL, p.DF = ipv6Header+udpHeader+payload, t.hops, false
	}
	t.rec.called(at, trace.Send, p.Line())
}
