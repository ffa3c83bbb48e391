//go:build linux

package live

import (
	"context"
	"sync"
	"time"

	"ctlab/checks/conntrack"
	"ctlab/lab"
	"ctlab/lab/play"
)

// running is a client in the background.
type running struct {
	ground *Ground
	play.Background
	ctx    context.Context // ends with the wait for the last outcome
	cancel context.CancelFunc
	enough chan struct{} // closed: no further question
	once   sync.Once
	done   chan struct{}
}

// Begin lets a client ask in the background, one question after the other.
func (g *Ground) Begin(b play.Background) (play.Running, error) {
	r := &running{ground: g, Background: b, enough: make(chan struct{}), done: make(chan struct{})}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	g.mu.Lock()
	g.running[r] = true
	g.mu.Unlock()
	go r.run()
	return r, nil
}

// Stop lets no further question begin and waits for the outcome of the last one.
func (r *running) Stop(ctx context.Context) error {
	r.ground.mu.Lock()
	delete(r.ground.running, r)
	r.ground.mu.Unlock()
	r.once.Do(func() { close(r.enough) })
	select {
	case <-r.done:
		return nil
	case <-ctx.Done():
		r.cancel()
		<-r.done
		return ctx.Err()
	}
}

func (r *running) run() {
	defer close(r.done)
	defer r.cancel()
	next := time.NewTimer(0)
	defer next.Stop()
	for i := 0; r.Count == 0 || i < r.Count; i++ {
		select {
		case <-r.enough:
			return
		default:
		}
		select {
		case <-r.enough:
			return
		case <-next.C:
		}
		sent := r.round()
		next.Reset(max(0, sent+r.Every-r.ground.Now()))
	}
}

// round asks once, beside a control if there is one, and tells the outcomes, that of the control last. It
// says when it asked.
func (r *running) round() time.Duration {
	r.ground.calib.Settle()
	own := r.prepare(r.Socket)
	var control asked
	if r.Client.Control {
		control = r.prepare(nil)
	}
	own.send(r.ctx, r.ground)
	if r.Client.Control {
		control.send(r.ctx, r.ground)
	}
	heard := make(chan play.Reply, 1) // an early answer of the control has its own time
	if r.Client.Control {
		go func() { heard <- control.reply() }()
	}
	r.tell(own.tuple, own.reply(), false)
	if r.Client.Control {
		r.tell(control.tuple, <-heard, true)
	}
	return own.at
}

// asked is a question of a client in the background.
type asked struct {
	question
	socket play.Socket
	tuple  conntrack.Tuple
	fresh  bool  // the socket is closed with the outcome
	err    error // why there is no socket
}

// prepare takes a socket, or opens a fresh one.
func (r *running) prepare(from play.Socket) asked {
	a := asked{socket: from, fresh: from == nil}
	if a.fresh {
		a.socket, a.err = r.ground.Open(r.Client, 0)
	}
	if a.err == nil {
		a.tuple = a.socket.Tuple()
	}
	return a
}

func (a *asked) send(ctx context.Context, g *Ground) {
	if a.err != nil {
		a.at = g.Now()
		return
	}
	a.question = g.send(ctx, a.socket.(*socket))
}

func (a asked) reply() play.Reply {
	if a.err != nil {
		return play.Reply{At: a.at, Class: lab.Failed, Err: a.err.Error()}
	}
	reply := a.question.reply()
	if !a.fresh {
		return reply
	}
	if err := a.socket.Close(); err != nil && reply.Err == "" {
		reply.Err = err.Error()
	}
	return reply
}

func (r *running) tell(t conntrack.Tuple, reply play.Reply, control bool) {
	r.ground.telling.Lock()
	defer r.ground.telling.Unlock()
	r.Sent(t, reply, control)
}
