package play

import (
	"context"
	"fmt"
	"time"

	"ctlab/lab"
)

// exec runs a step's program to its end.
func (w *World) exec(ctx context.Context, s *lab.Step, out *lab.Outcome) error {
	p, err := w.ground.Start(s.Nodes[0], lab.Command{Argv: s.Argv})
	if err != nil {
		return err
	}
	got, err := w.ran(ctx, p)
	got.Node = s.Nodes[0]
	out.Programs = append(out.Programs, got)
	return err
}

// ran waits for the end of a program. When the context is done, that is its end.
func (w *World) ran(ctx context.Context, p Program) (lab.Program, error) {
	begin := w.Now()
	select {
	case <-p.Done():
	case <-ctx.Done():
	}
	err := p.Stop(0)
	got := p.Output()
	got.At, got.Took = begin, w.Now()-begin
	if ctx.Err() != nil {
		err = fmt.Errorf("it was ended after %v: %w", got.Took.Round(time.Millisecond), ctx.Err())
	}
	return got, err
}
