package play

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"ctlab/lab"
)

// exec runs a step's program to its end.
func (w *World) exec(ctx context.Context, s *lab.Step, out *lab.Outcome) error {
	got, err := w.run(ctx, s.Nodes[0], s.Command)
	if !errors.Is(err, ErrNotSimulated) {
		out.Programs = append(out.Programs, got)
	}
	return err
}

// run runs a program to its end. When the context is done, that is its end.
func (w *World) run(ctx context.Context, node string, c lab.Command) (lab.Program, error) {
	begin := w.Now()
	p, err := w.ground.Start(node, c)
	if err != nil {
		return lab.Program{Node: node, At: begin}, err
	}
	select {
	case <-p.Done():
	case <-ctx.Done():
	}
	cut := ctx.Err()
	if err = p.Stop(0); cut != nil {
		err = fmt.Errorf("%s did not end: %w", c.Argv[0], cut)
	}
	got := p.Output()
	got.Node, got.At, got.Took = node, begin, w.Now()-begin
	w.waited += got.Took
	return got, err
}

// programs reports whether the step's clients are programs; no step has both.
func (w *World) programs(s *lab.Step) bool {
	return len(s.Clients) > 0 && w.clients[s.Clients[0]].spec.Exec != nil
}

// queryPrograms runs one client after the other.
func (w *World) queryPrograms(ctx context.Context, s *lab.Step, out *lab.Outcome) error {
	for _, name := range s.Clients {
		if err := w.queryProgram(ctx, s, w.clients[name], out); err != nil {
			return err
		}
	}
	return nil
}

// queryProgram runs it once, or several times one after the other.
func (w *World) queryProgram(ctx context.Context, s *lab.Step, c *client, out *lab.Outcome) error {
	for i := range s.Count {
		if err := w.WaitUntil(ctx, out.Began+time.Duration(i)*s.Every); err != nil {
			return err
		}
		got, err := w.run(ctx, c.spec.On, *c.spec.Exec)
		if errors.Is(err, ErrNotSimulated) {
			return err
		}
		got.Client = c.spec.Name
		out.Programs = append(out.Programs, got)
		if err != nil {
			return err
		}
	}
	return nil
}

// background is a client that is a program and runs in the background.
type background struct {
	Program
	began time.Duration
}

func (w *World) startProgram(c *client) error {
	began := w.Now()
	p, err := w.ground.Start(c.spec.On, *c.spec.Exec)
	if err != nil {
		c.unplayed = err
		return err
	}
	c.program = &background{p, began}
	return nil
}

// stopGrace is how long a program that is interrupted may take to end, such as for its summary.
const stopGrace = 3 * time.Second

// stopProgram ends a client's program in the background, which may have come to its end.
func (w *World) stopProgram(c *client) (lab.Program, error) {
	p := c.program
	if p == nil {
		return lab.Program{}, cmp.Or(c.unplayed, fmt.Errorf("client %s is not in the background", c.spec.Name))
	}
	c.program = nil
	err := p.Stop(stopGrace)
	got := p.Output()
	got.Client, got.Node, got.At, got.Took = c.spec.Name, c.spec.On, p.began, w.Now()-p.began
	return got, err
}

// programServer is a server that is a program.
type programServer struct {
	Program
	world *World
	name  string
	node  string
	began time.Duration
	ended bool // it was to end, or it was said that it has
}

const (
	readyLimit = 10 * time.Second // a program that is not ready by then is not going to be
	readyLook  = 2 * time.Millisecond
)

// serveProgram starts a server that is a program, and waits until it is ready.
func (w *World) serveProgram(ctx context.Context, spec *lab.Server, on string) (Server, error) {
	began := w.Now()
	p, err := w.ground.Start(on, *spec.Exec)
	if err != nil {
		return nil, err
	}
	s := &programServer{Program: p, world: w, name: spec.Name, node: on, began: began}
	if err := w.awaitReady(ctx, s, spec.Ready); err != nil {
		s.ended = true // what there is to say of its end was said
		_, stopErr := s.Stop(ctx)
		return nil, errors.Join(err, stopErr)
	}
	return s, nil
}

// awaitReady looks again and again, as nothing says when a program is ready.
func (w *World) awaitReady(ctx context.Context, s *programServer, r lab.Ready) error {
	defer func() { w.waited += w.Now() - s.began }()
	limited, cancel := context.WithTimeout(ctx, readyLimit)
	defer cancel()
	look := time.NewTicker(readyLook)
	defer look.Stop()
	for {
		if ready, err := w.ready(s, r); ready || err != nil {
			return err
		}
		select {
		case <-s.Done():
			return s.Ended()
		case <-limited.Done():
			took := (w.Now() - s.began).Round(10 * time.Millisecond)
			return fmt.Errorf("not ready within %v (%w): %s; it said: %s", took, limited.Err(), unready(r), s.lastWords())
		case <-look.C:
		}
	}
}

func (w *World) ready(s *programServer, r lab.Ready) (bool, error) {
	if r.Line != "" {
		out := s.Output()
		return strings.Contains(out.Stdout, r.Line) || strings.Contains(out.Stderr, r.Line), nil
	}
	return w.ground.Listening(s.node, r.TCP, r.Port)
}

// unready says what was waited for.
func unready(r lab.Ready) string {
	switch {
	case r.Line != "":
		return fmt.Sprintf("no line of its output has %q", r.Line)
	case r.TCP:
		return fmt.Sprintf("no socket at port %d/tcp", r.Port)
	}
	return fmt.Sprintf("no socket at port %d/udp", r.Port)
}

// Stop ends the program as a crash does. How many questions reached it nobody knows.
func (s *programServer) Stop(context.Context) (int, error) {
	err := s.died()
	s.ended = true
	err = errors.Join(err, s.Program.Stop(0))
	got := s.Output()
	got.Client, got.Node, got.At, got.Took = s.name, s.node, s.began, s.world.Now()-s.began
	s.world.served = append(s.world.served, got)
	return 0, err
}

// Ended is an error if the program has ended by itself.
func (s *programServer) Ended() error {
	select {
	case <-s.Done():
	default:
		return nil
	}
	if s.ended {
		return nil
	}
	s.ended = true
	out := s.Output()
	return fmt.Errorf("ended by itself: %s; it said: %s", out.Ending(), s.lastWords())
}

// died is the same, and names the server.
func (s *programServer) died() error {
	if err := s.Ended(); err != nil {
		return fmt.Errorf("server %s on %s: %w", s.name, s.node, err)
	}
	return nil
}

// lastLines is how many lines of its output an error about a server has.
const lastLines = 3

// lastWords are the last lines of the program's output.
func (s *programServer) lastWords() string {
	out := s.Output()
	text := strings.TrimSpace(strings.TrimSpace(out.Stdout) + "\n" + strings.TrimSpace(out.Stderr))
	if text == "" {
		return "nothing"
	}
	lines := strings.Split(text, "\n")
	return strings.Join(lines[max(0, len(lines)-lastLines):], " / ")
}

// died looks whether a server that is a program has ended by itself.
func (w *World) died() error {
	var errs []error
	for _, s := range w.servers {
		for _, r := range s.running {
			if p, ok := r.(*programServer); ok {
				errs = append(errs, p.died())
			}
		}
	}
	return errors.Join(errs...)
}
