package sim

import (
	"context"
	"errors"
	"fmt"
	"time"

	"ctlab/lab/play"
)

// running is a client that asks in the background.
type running struct {
	g       *Ground
	spec    play.Background
	asked   int
	open    int // questions without an outcome
	stopped bool
	err     error // why it ended by itself
}

// Begin lets a client ask in the background, for the first time at once.
func (g *Ground) Begin(b play.Background) (play.Running, error) {
	r := &running{g: g, spec: b}
	if b.Socket != nil {
		if _, ok := b.Socket.(*client); !ok {
			return nil, errForeign
		}
	}
	return r, r.ask()
}

// ask sends one question, and one from a fresh port beside it if the client has a control client.
func (r *running) ask() error {
	kept, _ := r.spec.Socket.(*client)
	own, err := r.socket(kept)
	if err != nil {
		return err
	}
	asks := []*client{own}
	if r.spec.Client.Control {
		control, err := r.socket(nil)
		if err != nil {
			return err
		}
		asks = append(asks, control)
	}
	begun := r.g.now
	r.asked++
	r.open += len(asks)
	for i, c := range asks {
		c.ask(func(reply play.Reply) {
			if c != kept {
				c.sock.close()
			}
			r.spec.Sent(c.Tuple(), reply, i > 0)
			if r.open--; r.open == 0 {
				r.next(begun)
			}
		})
	}
	return nil
}

func (r *running) socket(kept *client) (*client, error) {
	if kept != nil {
		return kept, nil
	}
	c, err := r.g.open(r.spec.Client, 0)
	if err != nil {
		return nil, fmt.Errorf("open a socket on %s: %w", r.spec.Client.On, err)
	}
	return c, nil
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
		if r.stopped {
			return
		}
		r.err = r.ask()
	})
}

// Stop lets no further question begin and lets time pass until the last one has its outcome.
func (r *running) Stop(ctx context.Context) error {
	r.stopped = true
	err := r.g.wait(func() error { return r.g.run(ctx, forever, func() bool { return r.open == 0 }) })
	return errors.Join(err, r.err)
}
