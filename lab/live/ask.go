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

	"golang.org/x/sys/unix"

	"ctlab/checks/conntrack"
	"ctlab/checks/trace"
	"ctlab/dnsserver"
	"ctlab/internal/netns"
	"ctlab/lab"
	"ctlab/lab/play"
	"ctlab/traffic"
)

// socket is a client's open socket.
type socket struct {
	ground *Ground
	tuple  conntrack.Tuple
	dns    *traffic.DNS
}

// Tuple is the original tuple of what is sent from it.
func (s *socket) Tuple() conntrack.Tuple { return s.tuple }

// Close closes the socket.
func (s *socket) Close() error {
	s.ground.mu.Lock()
	delete(s.ground.sockets, s)
	s.ground.mu.Unlock()
	return s.dns.Close()
}

// freshTries bounds the search for a port that no flow has had; the kernel has some 28,000 to offer.
const freshTries = 16

// Open opens a client's socket. A fresh port is one that this run has not used towards the server: the
// kernel picks at random and may come back to one whose entry is still there.
func (g *Ground) Open(c *lab.Client, port uint16) (play.Socket, error) {
	for range freshTries {
		s, err := g.open(c, port)
		if err != nil {
			return nil, fmt.Errorf("open a socket on %s: %w", c.On, err)
		}
		g.mu.Lock()
		again := g.used[s.tuple]
		g.used[s.tuple], g.sockets[s] = true, true
		g.mu.Unlock()
		if port != 0 || !again {
			return s, nil
		}
		if err := s.Close(); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("open a socket on %s: no fresh source port in %d tries", c.On, freshTries)
}

func (g *Ground) open(c *lab.Client, port uint16) (*socket, error) {
	n, err := g.node(c.On)
	if err != nil {
		return nil, err
	}
	var udp *traffic.UDP
	at, err := g.clock.during(func() (err error) {
		udp, err = g.bind(n.NS, c, port)
		return err
	})
	if err != nil {
		return nil, err
	}
	if c.RecvErr {
		if err := udp.ReportErrors(); err != nil {
			return nil, errors.Join(err, udp.Close())
		}
	}
	local := udp.Local()
	s := &socket{ground: g, tuple: conntrack.Tuple{Proto: conntrack.UDP, Src: local.Addr(), SrcPort: local.Port(), Dst: c.To.Addr(), DstPort: c.To.Port()}}
	var conn traffic.Socket = udp
	if t := g.trackedNode(c.On); t != nil {
		own := &ownSocket{UDP: udp, node: t}
		t.rec.called(at, trace.Socket, "open "+own.name())
		conn = own
	}
	s.dns = traffic.NewDNS(conn, c.Question, dnsserver.IdentityName, c.Timeout)
	if c.AAAA {
		s.dns.AskForAAAA()
	}
	return s, nil
}

// bind opens the socket in its namespace. Without an address of its own a client has the one that the
// kernel's route gives it.
func (g *Ground) bind(ns *netns.NS, c *lab.Client, port uint16) (*traffic.UDP, error) {
	var control netns.Control
	if g.sharesPort(c, port) {
		control = reuseAddress
	}
	if c.Connected {
		conn, err := ns.DialUDP(netip.AddrPortFrom(c.Source, port), c.To, control)
		if err != nil {
			return nil, err
		}
		return traffic.Connected(conn), nil
	}
	source := c.Source
	if !source.IsValid() {
		probe, err := ns.DialUDP(netip.AddrPort{}, c.To, nil)
		if err != nil {
			return nil, err
		}
		source = probe.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
		if err := probe.Close(); err != nil {
			return nil, err
		}
	}
	conn, err := ns.ListenUDP(netip.AddrPortFrom(source, port), control)
	if err != nil {
		return nil, err
	}
	return traffic.Unconnected(conn, c.To), nil
}

// sharesPort reports whether another client on the same node has the same source port; connected sockets
// can share one.
func (g *Ground) sharesPort(c *lab.Client, port uint16) bool {
	if port == 0 || !c.Connected {
		return false
	}
	for _, o := range g.lab.Clients {
		if o.Name != c.Name && o.On == c.On && o.SourcePort == port && o.Connected {
			return true
		}
	}
	return false
}

func reuseAddress(_, _ string, raw syscall.RawConn) error {
	var serr error
	err := raw.Control(func(fd uintptr) { serr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
	return errors.Join(err, serr)
}

// ownSocket is a client's socket on a tracked node: what it sends is an input of the node.
type ownSocket struct {
	*traffic.UDP
	node *tracked
}

func (s *ownSocket) Send(b []byte) error {
	at, err := s.node.clock.during(func() error { return s.UDP.Send(b) })
	s.node.sent(at, s.Local(), s.Remote(), len(b), err)
	return err
}

func (s *ownSocket) Close() error {
	name := s.name()
	at, err := s.node.clock.during(s.UDP.Close)
	s.node.rec.called(at, trace.Socket, "close "+name)
	return err
}

// name is the socket in the words of a trace.
func (s *ownSocket) name() string {
	if !s.IsConnected() {
		return s.Local().String()
	}
	return s.Local().String() + " > " + s.Remote().String()
}

// isRefusedByRules reports whether a packet was made and then refused: by a rule or a full table at
// LOCAL_OUT (nf_hook_slow in net/netfilter/core.c returns EPERM), or by the device's queue.
func isRefusedByRules(err error) bool {
	return errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOBUFS)
}

// Ask sends one question from each socket, one right behind the other, and waits for what becomes of all.
// They are not sent by several threads: packets that two processors handle at once have no order that
// anybody could record, and with rules that count (statistic --mode nth) their order decides. Of the first
// two ICMP errors to a host, made at once, one may even be lost (inet_peer_xrlim_allow, net/ipv4/inetpeer.c,
// takes its tokens without a lock).
func (g *Ground) Ask(ctx context.Context, from []play.Socket) ([]play.Reply, error) {
	replies := make([]play.Reply, len(from))
	var done sync.WaitGroup
	start := g.Now()
	for i, s := range from {
		q := g.send(ctx, s.(*socket))
		done.Add(1)
		go func() {
			defer done.Done()
			replies[i] = q.reply()
		}()
	}
	done.Wait()
	g.waits += g.Now() - start
	return replies, ctx.Err()
}

// question is a question on its way.
type question struct {
	at   time.Duration
	sent *traffic.Question
}

// send sends a question. A packet on a veth goes through the hooks within the call that sends it, so the clock
// is asked right before and after.
func (g *Ground) send(ctx context.Context, s *socket) question {
	q := question{at: g.Now()}
	q.sent = s.dns.Send(ctx)
	g.clock()
	return q
}

// reply waits for what becomes of the question.
func (q question) reply() play.Reply {
	a := q.sent.Wait()
	r := play.Reply{At: q.at, Class: lab.Class(a.Class), By: a.By, From: a.From, Took: a.Took}
	if a.Err != nil {
		r.Err = a.Err.Error()
	}
	return r
}
