package fuzz

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"ctlab/checks/observe"
	"ctlab/topology"
)

// worker plays scenarios side by side on one processor: each in the pauses of the others. Packets are queued for the
// processor that sends them, so what a worker sends is dealt with before what it sends next.
type worker struct {
	cpu     int
	outside *outside
	ticks   *observe.TickCounter
	bpf     *observe.BPF
	ipt     topology.Iptables
	ip6t    topology.Iptables
	ready   chan *arena // built, or back from something slow
	waiting waiting
	slow    sync.WaitGroup
	begun   int // arenas
	done    func(*arena)
}

// side is one end of a wire, by the index of its outer end.
type side struct {
	arena *arena
	wire  int
}

// waiting are arenas in a pause, by when it ends.
type waiting []pausing

type pausing struct {
	until time.Time
	arena *arena
}

func (w waiting) Len() int           { return len(w) }
func (w waiting) Less(i, j int) bool { return w[i].until.Before(w[j].until) }
func (w waiting) Swap(i, j int)      { w[i], w[j] = w[j], w[i] }
func (w *waiting) Push(x any)        { *w = append(*w, x.(pausing)) }
func (w *waiting) Pop() any {
	last := (*w)[len(*w)-1]
	*w = (*w)[:len(*w)-1]
	return last
}

// run plays the scenarios that next gives, at most side by side, until there are no more or ctx is done. It hands
// each arena to done when it has ended, or failed; done must close it.
func (w *worker) run(ctx context.Context, most int, next func() *Scenario) error {
	runtime.LockOSThread() // for good: the thread ends with the worker
	var set unix.CPUSet
	set.Set(w.cpu)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("stay on processor %d: %w", w.cpu, err)
	}
	w.ready = make(chan *arena, most)
	playing := 0
	defer w.slow.Wait()
	for {
		for playing < most && ctx.Err() == nil {
			s := next()
			if s == nil {
				break
			}
			playing++
			w.begun++
			a := &arena{s: s, slot: w.begun, outside: w.outside, ticks: w.ticks, bpf: w.bpf, ipt: w.ipt, ip6t: w.ip6t}
			w.aside(ctx, a, a.build)
			if playing%builders == 0 {
				break // play meanwhile
			}
		}
		if playing == 0 {
			return ctx.Err()
		}
		a := w.await(playing < most)
		if a == nil {
			continue
		}
		if w.turn(ctx, a) {
			playing--
		}
	}
}

// builders is how many arenas are begun at once.
const builders = 8

// aside does something slow with an arena elsewhere.
func (w *worker) aside(ctx context.Context, a *arena, fn func(context.Context) error) {
	w.slow.Add(1)
	go func() {
		defer w.slow.Done()
		if err := fn(ctx); err != nil {
			a.err = errors.Join(a.err, fmt.Errorf("%s: %w", a.s.Name(), err))
		}
		w.ready <- a
	}()
}

// await waits for an arena that can go on; nil if there may be none for a while and more can be begun.
func (w *worker) await(more bool) *arena {
	select {
	case a := <-w.ready:
		return a
	default:
	}
	var timer <-chan time.Time
	if len(w.waiting) > 0 {
		left := time.Until(w.waiting[0].until)
		if left <= 0 {
			return heap.Pop(&w.waiting).(pausing).arena
		}
		timer = time.After(left)
	}
	if more && timer == nil {
		timer = time.After(time.Millisecond)
	}
	select {
	case a := <-w.ready:
		return a
	case <-timer:
		return nil
	}
}

// turn plays an arena up to its next pause. It reports whether the arena has ended.
func (w *worker) turn(ctx context.Context, a *arena) bool {
	if ctx.Err() != nil {
		a.err = errors.Join(a.err, ctx.Err())
	}
	w.outside.join(a)
	pause, slow, done := a.play()
	switch {
	case done:
		w.outside.leave(a)
		w.done(a)
		return true
	case slow != nil:
		w.aside(ctx, a, slow)
	default:
		heap.Push(&w.waiting, pausing{time.Now().Add(pause), a})
	}
	return false
}
