package sim

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"ctlab/lab/play"
)

// answerTime is how long a server thinks.
const answerTime = 60 * time.Microsecond

// server is a DNS server that answers every question.
type server struct {
	sock     *socket
	identity string
	asked    int
	stopped  bool
}

// errAnyOnTracked is a limit of lab/live, kept here so that both agree: there, nobody but the kernel knows which
// source the answers of such a server have.
var errAnyOnTracked = errors.New("a server on a tracked node must listen at one of its addresses")

// Serve starts a server. One that is bound to any address answers from the address that the route to the
// client names, whichever was asked.
func (g *Ground) Serve(ctx context.Context, on string, at netip.AddrPort, identity string) (play.Server, error) {
	n, err := g.node(on)
	if err != nil {
		return nil, err
	}
	if n.tracked != nil && at.Addr().IsUnspecified() {
		return nil, fmt.Errorf("listen on %s in %s: %w", at, on, errAnyOnTracked)
	}
	s := &server{identity: identity}
	s.sock = &socket{local: at, server: s}
	if err := n.open(s.sock); err != nil {
		return nil, fmt.Errorf("listen on %s in %s: %w", at, on, err)
	}
	return s, ctx.Err()
}

// receive takes a question and answers it a little later, unless the server was stopped meanwhile.
func (s *server) receive(from netip.AddrPort, m message) {
	if m.answer {
		return
	}
	s.asked++
	s.sock.node.g.after(answerTime, func() {
		if !s.stopped {
			s.sock.send(from, message{id: m.id, answer: true, question: m.question, aaaa: m.aaaa, by: s.identity})
		}
	})
}

// Stop ends the server at once.
func (s *server) Stop(context.Context) (asked int, err error) {
	s.stopped = true
	s.sock.close()
	return s.asked, nil
}
