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
		sent := r.question()
		next.Reset(max(0, sent+r.Every-r.ground.Now()))
	}
}

// question asks once, beside a control if there is one, and tells the outcomes, that of the control last.
// It says when it asked.
func (r *running) question() time.Duration {
	control := make(chan struct{})
	var tuple conntrack.Tuple
	var reply play.Reply
	go func() {
		defer close(control)
		if r.Client.Control {
			tuple, reply = r.fresh()
		}
	}()
	t, got := r.own()
	r.tell(t, got, false)
	<-control
	if r.Client.Control {
		r.tell(tuple, reply, true)
	}
	return got.At
}

// own asks from the client's socket, or from a fresh one if it keeps none.
func (r *running) own() (conntrack.Tuple, play.Reply) {
	if s, ok := r.Socket.(*socket); ok {
		return s.tuple, r.ground.ask(r.ctx, s)
	}
	return r.fresh()
}

// fresh asks from a port of its own.
func (r *running) fresh() (conntrack.Tuple, play.Reply) {
	at := r.ground.Now()
	s, err := r.ground.Open(r.Client, 0)
	if err != nil {
		return conntrack.Tuple{}, play.Reply{At: at, Class: lab.Failed, Err: err.Error()}
	}
	reply := r.ground.ask(r.ctx, s.(*socket))
	if err := s.Close(); err != nil && reply.Err == "" {
		reply.Err = err.Error()
	}
	return s.Tuple(), reply
}

func (r *running) tell(t conntrack.Tuple, reply play.Reply, control bool) {
	r.ground.telling.Lock()
	defer r.ground.telling.Unlock()
	r.Sent(t, reply, control)
}
