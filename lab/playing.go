package lab

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	lateLimit = 20 * time.Millisecond  // a step that begins later than this after its time is reported
	lookEvery = 100 * time.Millisecond // between two looks of within and always
)

// play plays the steps in their order and judges each.
func (r *Result) play(ctx context.Context, w World, progress Progress) error {
	var begin, ended time.Duration
	for _, s := range r.Lab.Steps {
		planned := s.begins(begin, ended)
		begin = max(planned, ended)
		progress(fmt.Sprintf("step %d of %d: %s", s.Index, len(r.Lab.Steps), s.Title()))
		if err := w.WaitUntil(ctx, begin); err != nil {
			return err
		}
		res := StepResult{Step: s}
		err := r.do(ctx, w, s, &res)
		ended = res.Outcome.Ended
		if late := res.Outcome.Began - planned; late > lateLimit {
			res.Late = late
		}
		r.Steps = append(r.Steps, res)
		if errors.Is(err, context.Canceled) {
			return err
		}
		if err != nil {
			return fmt.Errorf("%s: step %d (%s): %w", s.Pos, s.Index, s.Title(), err)
		}
	}
	return nil
}

// begins is when the step is to begin, given when the one before it was to begin and when it ended.
func (s *Step) begins(before, ended time.Duration) time.Duration {
	switch {
	case s.At != nil:
		return *s.At
	case s.Behind > 0:
		return before + s.Behind
	}
	return ended + s.After
}

// do plays one step and judges it, at once, or by looking again and again.
func (r *Result) do(ctx context.Context, w World, s *Step, res *StepResult) error {
	out, err := r.bounded(ctx, w, s)
	res.Outcome = out
	if err != nil || out.NotPlayed != "" {
		return err
	}
	switch {
	case s.Within > 0:
		err = r.within(ctx, w, s, &res.Outcome)
	case s.Always > 0:
		err = r.always(ctx, w, s, &res.Outcome)
	}
	if err == nil {
		res.Wants = judge(r, s, &res.Outcome)
	}
	return err
}

// bounded plays a step within its deadline. In a simulated world the deadline is on virtual time too.
func (r *Result) bounded(ctx context.Context, w World, s *Step) (Outcome, error) {
	if s.Deadline == 0 || s.Awaited != nil { // how long a packet is waited for is part of the step
		return w.Do(ctx, s)
	}
	dctx := ctx
	if !r.Setting.Simulated {
		var cancel context.CancelFunc
		dctx, cancel = context.WithTimeout(ctx, s.Deadline)
		defer cancel()
	}
	out, err := w.Do(dctx, s)
	switch took := out.Ended - out.Began; {
	case ctx.Err() != nil:
		return out, err
	case dctx.Err() != nil && errors.Is(err, context.DeadlineExceeded): // it says what was waited for
		return out, fmt.Errorf("deadline exceeded: it may take %s: %w", s.Deadline, err)
	case dctx.Err() != nil:
		return out, fmt.Errorf("deadline exceeded: it may take %s", s.Deadline)
	case err == nil && took > s.Deadline:
		return out, fmt.Errorf("deadline exceeded: it may take %s and took %s", s.Deadline, took)
	}
	return out, err
}

// within looks until all that is wanted of tables is true at one moment, or the time is over; the step
// ends there.
func (r *Result) within(ctx context.Context, w World, s *Step, out *Outcome) error {
	return r.watch(ctx, w, s, out, s.Within, func() bool { return allMet(judgeTables(r, s, out)) })
}

// always looks until the time is over, or until something that is wanted of tables is not true.
func (r *Result) always(ctx context.Context, w World, s *Step, out *Outcome) error {
	return r.watch(ctx, w, s, out, s.Always, func() bool { return !allMet(judgeTables(r, s, out)) })
}

// watch looks again and again during a time that begins when the step's act has ended, until what was seen
// decides. The step ends with the last look.
func (r *Result) watch(ctx context.Context, w World, s *Step, out *Outcome, during time.Duration, decided func() bool) error {
	last := out.Ended + during
	for at := out.Ended; at < last && !decided(); {
		at = min(at+lookEvery, last)
		if err := w.WaitUntil(ctx, at); err != nil {
			return err
		}
		if err := w.Look(ctx, s, out); err != nil {
			return fmt.Errorf("looking again: %w", err)
		}
		out.Ended = w.Now()
	}
	return nil
}

func allMet(wants []WantResult) bool {
	for _, w := range wants {
		if !w.OK {
			return false
		}
	}
	return true
}
