package sim

import (
	"context"
	"time"

	"ctlab/checks/conntrack"
	"ctlab/lab"
	"ctlab/lab/play"
)

// running is a client that asks in the background.
type running struct {
	g       *Ground
	spec    play.Background
	asked   int
	open    int // questions without an outcome
	stopped bool
}

// Begin lets a client ask in the background, for the first time at once.
func (g *Ground) Begin(b play.Background) (play.Running, error) {
	r := &running{g: g, spec: b}
	if b.Socket != nil {
		if _, ok := b.Socket.(*client); !ok {
			return nil, errForeign
		}
	}
	r.ask()
	return r, nil
}

// ask sends one question, and one from a fresh port beside it if the client has a control client. The
// outcome of that is told last.
func (r *running) ask() {
	begun := r.g.now
	r.asked++
	r.open = 1
	control := func() {}
	end := func() {
		if r.open--; r.open == 0 {
			control()
			r.next(begun)
		}
	}
	if r.spec.Client.Control {
		r.open = 2
	}
	kept, _ := r.spec.Socket.(*client)
	r.askFrom(kept, func(t conntrack.Tuple, reply play.Reply) {
		r.spec.Sent(t, reply, false)
		end()
	})
	if r.spec.Client.Control {
		r.askFrom(nil, func(t conntrack.Tuple, reply play.Reply) {
			control = func() { r.spec.Sent(t, reply, true) }
			end()
		})
	}
}

// askFrom sends a question from a socket, or from a fresh one.
func (r *running) askFrom(kept *client, done func(conntrack.Tuple, play.Reply)) {
	if kept != nil {
		kept.ask(func(reply play.Reply) { done(kept.Tuple(), reply) })
		return
	}
	c, err := r.g.open(r.spec.Client, 0)
	if err != nil {
		done(conntrack.Tuple{}, play.Reply{At: r.g.Now(), Class: lab.Failed, Err: err.Error()})
		return
	}
	c.ask(func(reply play.Reply) {
		c.sock.close()
		done(c.Tuple(), reply)
	})
}

// restTime is the least time between two questions, so that time passes also for a client that hears at once
// that nothing can be sent.
const restTime = 20 * time.Microsecond

// next plans the question behind the one that began at a moment.
func (r *running) next(begun int64) {
	if r.spec.Count > 0 && r.asked >= r.spec.Count {
		return
	}
	wait := max(restTime, r.spec.Every-time.Duration(r.g.now-begun))
	r.g.after(wait, func() {
		if !r.stopped {
			r.ask()
		}
	})
}

// Stop lets no further question begin and lets time pass until the last one has its outcome.
func (r *running) Stop(ctx context.Context) error {
	r.stopped = true
	return r.g.wait(func() error { return r.g.run(ctx, forever, func() bool { return r.open == 0 }) })
}
