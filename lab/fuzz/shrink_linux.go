package fuzz

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// shrinkAll makes finds smaller, one after the other.
func (r *run) shrinkAll(ctx context.Context) {
	all := r.finds.first(r.cfg.Shrink)
	for i, found := range all {
		if ctx.Err() != nil {
			return
		}
		f := shrink(ctx, found, Shrinking{Find: i + 1, Finds: len(all)}, r.replay, time.Now, func(s Shrinking) {
			if r.cfg.Shrinking != nil {
				r.cfg.Shrinking(s)
			}
		})
		if r.cfg.Shrunk != nil && ctx.Err() == nil {
			r.cfg.Shrunk(f)
		}
	}
}

// replay plays scenarios again, side by side on one processor. What cannot be played has no result, and is nobody's
// fault: a scenario of which something was left out may make no sense to the kernel.
func (r *run) replay(ctx context.Context, all []*Scenario) []Result {
	results := make([]Result, len(all))
	index := map[*Scenario]int{}
	var todo []*Scenario
	for i, s := range all {
		s = s.clone() // each its own, though it be the same
		index[s] = i
		todo = append(todo, s)
	}
	next := func() *Scenario {
		if len(todo) == 0 {
			return nil
		}
		s := todo[0]
		todo = todo[1:]
		return s
	}
	var judges sync.WaitGroup
	ended := make(chan error)
	go func() { // its thread ends with it
		ended <- r.work(ctx, 0, next, func(a *arena) {
			judges.Go(func() {
				if err := a.Close(); err != nil {
					r.fail(fmt.Errorf("play %s again: %w", a.s.Name(), err))
				}
				if a.err == nil {
					results[index[a.s]] = r.result(a)
				}
			})
		})
	}()
	if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
		r.fail(err)
	}
	judges.Wait()
	return results
}
