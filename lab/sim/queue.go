package sim

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"math"
	"time"
)

// event is something that happens at a moment of virtual time.
type event struct {
	at    int64
	order uint64 // of events of the same moment: as they were planned
	do    func()
}

// queue holds the events to come; the next one is first.
type queue []event

func (q queue) Len() int      { return len(q) }
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q queue) Less(i, j int) bool {
	if q[i].at != q[j].at {
		return q[i].at < q[j].at
	}
	return q[i].order < q[j].order
}

// Push is part of heap.Interface.
func (q *queue) Push(x any) { *q = append(*q, x.(event)) }

// Pop is part of heap.Interface.
func (q *queue) Pop() any {
	last := len(*q) - 1
	e := (*q)[last]
	(*q)[last] = event{}
	*q = (*q)[:last]
	return e
}

// after plans something for a time from now.
func (g *Ground) after(d time.Duration, do func()) {
	g.serial++
	heap.Push(&g.queue, event{g.now + int64(d), g.serial, do})
}

// forever is a moment that does not come.
const forever = math.MaxInt64

// maxEvents bounds how much happens while a lab waits once.
const maxEvents = 50_000_000

// ErrTooMuch says that more happened in one wait than any lab can mean.
var ErrTooMuch = errors.New("too many events in one wait of the simulation")

// run lets happen what is planned up to a moment, or until done.
func (g *Ground) run(ctx context.Context, until int64, done func() bool) error {
	for n := 0; !done(); n++ {
		if n%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		if n == maxEvents {
			return fmt.Errorf("%w: %d by %v", ErrTooMuch, n, g.Now())
		}
		if len(g.queue) == 0 || g.queue[0].at > until {
			return ctx.Err()
		}
		e := heap.Pop(&g.queue).(event)
		g.now = max(g.now, e.at)
		e.do()
	}
	return ctx.Err()
}
