package play

import (
	"context"
	"fmt"
	"time"

	"ctlab/checks/conntrack"
	"ctlab/lab"
)

// query lets the step's clients ask count times. A client asks again when all have an outcome and "every"
// has passed since they asked.
func (w *World) query(ctx context.Context, s *lab.Step, out *lab.Outcome) error {
	if w.programs(s) {
		return w.queryPrograms(ctx, s, out)
	}
	for i := range s.Count {
		if err := w.WaitUntil(ctx, out.Began+time.Duration(i)*s.Every); err != nil {
			return err
		}
		attempts, err := w.round(ctx, s)
		out.Attempts = append(out.Attempts, attempts...)
		if err != nil {
			return err
		}
	}
	return nil
}

// ask is one question on its way.
type ask struct {
	client *client
	socket Socket
	own    bool // the socket is closed afterwards
	got    lab.Attempt
}

// round is one question of each client, and of its control client, all at the same moment.
func (w *World) round(ctx context.Context, s *lab.Step) ([]lab.Attempt, error) {
	var asks []*ask
	var err error
	for _, name := range s.Clients {
		for _, control := range []bool{false, true} {
			if c := w.clients[name]; err == nil && (!control || c.spec.Control) {
				var a *ask
				if a, err = w.prepare(c, control); a != nil {
					asks = append(asks, a)
				}
			}
		}
	}
	if err != nil {
		return nil, closeAll(asks, err)
	}
	sockets := make([]Socket, len(asks))
	for i, a := range asks {
		sockets[i] = a.socket
	}
	replies, err := w.ground.Ask(ctx, sockets)
	if err != nil {
		return nil, closeAll(asks, err)
	}
	return w.finish(ctx, asks, replies)
}

func closeAll(asks []*ask, err error) error {
	for _, a := range asks {
		if a.own {
			_ = a.socket.Close() // the first error is the one to tell
		}
	}
	return err
}

// prepare opens the socket that is needed and reads the flow's entry as it is before the question.
func (w *World) prepare(c *client, control bool) (*ask, error) {
	a := &ask{client: c, socket: c.socket, own: control || c.socket == nil}
	var err error
	if a.own {
		if a.socket, err = w.fresh(c); err != nil {
			return nil, fmt.Errorf("client %s: %w", c.spec.Name, err)
		}
	}
	if !control {
		c.asked++
	}
	a.got = lab.Attempt{Client: c.spec.Name, Number: c.asked, Control: control, Tuple: a.socket.Tuple()}
	if c.router == nil {
		return a, nil
	}
	a.got.Node = c.router.spec.Name
	a.got.Before, err = w.get(c.router, a.got.Tuple)
	return a, err
}

// freshTries bounds the search for a port that no flow has had; the kernel has some 28,000 to offer.
const freshTries = 16

// fresh opens a socket with a port that this run has not used towards the server. The kernel picks at
// random and may come back to one whose entry is still there: seen once in some 500 queries.
func (w *World) fresh(c *client) (Socket, error) {
	for range freshTries {
		s, err := w.ground.Open(c.spec, 0)
		if err != nil {
			return nil, err
		}
		if c.router == nil || w.age(c.router, s.Tuple(), 0) == unknownAge {
			return s, nil
		}
		if err := s.Close(); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("no fresh source port in %d tries", freshTries)
}

// finish closes fresh sockets and reads the flows' entries as they are after the outcome. An answer has
// left the node when the client has it, so the order of packet and read is known.
func (w *World) finish(ctx context.Context, asks []*ask, replies []Reply) ([]lab.Attempt, error) {
	var attempts []lab.Attempt
	var first error
	for i, a := range asks {
		a.got = filled(a.got, replies[i])
		w.note(a.client.router, a.got.Tuple, a.got.At)
		var err error
		if a.own {
			err = a.socket.Close()
		}
		if err == nil && a.client.router != nil {
			a.got.After, err = w.get(a.client.router, a.got.Tuple)
		}
		attempts = append(attempts, a.got)
		if first == nil {
			first = err
		}
	}
	if first != nil {
		return attempts, first
	}
	return attempts, ctx.Err()
}

// filled is an attempt with what became of it.
func filled(a lab.Attempt, r Reply) lab.Attempt {
	a.At, a.Class, a.By, a.From, a.Took, a.Err = r.At, r.Class, r.By, r.From, r.Took, r.Err
	return a
}

// start lets clients ask in the background and servers answer.
func (w *World) start(ctx context.Context, s *lab.Step) error {
	for _, name := range s.Servers {
		srv := w.servers[name]
		if len(srv.running) > 0 {
			return fmt.Errorf("server %s runs already", name)
		}
		if err := w.startServer(ctx, srv, srv.on); err != nil {
			return err
		}
	}
	for _, name := range s.Clients {
		if err := w.begin(w.clients[name], s); err != nil {
			return err
		}
	}
	return nil
}

func (w *World) begin(c *client, s *lab.Step) error {
	if c.run != nil || c.program != nil {
		return fmt.Errorf("client %s is in the background already", c.spec.Name)
	}
	if c.spec.Exec != nil {
		return w.startProgram(c)
	}
	run, err := w.ground.Begin(Background{Client: c.spec, Socket: c.socket, Every: s.Every, Count: s.Count,
		Sent: func(t conntrack.Tuple, r Reply, control bool) { w.heard(c, t, r, control) }})
	if err != nil {
		return fmt.Errorf("client %s: %w", c.spec.Name, err)
	}
	c.run = run
	return nil
}

// heard takes the outcome of a question in the background.
func (w *World) heard(c *client, t conntrack.Tuple, r Reply, control bool) {
	w.mu.Lock()
	if !control {
		c.asked++
	}
	a := filled(lab.Attempt{Client: c.spec.Name, Number: c.asked, Control: control, Background: true, Tuple: t}, r)
	if c.router != nil {
		a.Node = c.router.spec.Name
	}
	c.past = append(c.past, a)
	w.mu.Unlock()
	w.note(c.router, t, r.At)
}

// stop ends clients, whose questions in the background are its outcome, and servers.
func (w *World) stop(ctx context.Context, s *lab.Step, out *lab.Outcome) error {
	for _, name := range s.Clients {
		c := w.clients[name]
		if c.spec.Exec != nil {
			got, err := w.stopProgram(c)
			if err != nil {
				return err
			}
			out.Programs = append(out.Programs, got)
			continue
		}
		if c.run == nil {
			return fmt.Errorf("client %s is not in the background", name)
		}
		err := c.run.Stop(ctx)
		c.run = nil
		w.mu.Lock()
		out.Attempts = append(out.Attempts, c.past...) // which of them are judged, since says
		c.past = nil
		w.mu.Unlock()
		if err != nil {
			return err
		}
	}
	for _, name := range s.Servers {
		if err := w.die(ctx, w.servers[name], s.Death, s.Reuse); err != nil {
			return err
		}
	}
	return nil
}
