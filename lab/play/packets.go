package play

import (
	"context"
	"fmt"
	"slices"
	"time"

	"ctlab/lab"
)

// answerLimit is how long a packet that is wanted to leave, or an answer, is waited for. Through the kernel it takes
// some ten microseconds, through a stack that answers as many more.
const answerLimit = 500 * time.Millisecond

// packet puts a step's packet on its wire, and waits until the node there has handled it and what is wanted to be
// seen was.
func (w *World) packet(ctx context.Context, s *lab.Step, out *lab.Outcome) error {
	wire := w.lab.Node(s.On)
	sent := lab.Sent{Wire: s.On, Node: wire.Uplink, Dev: wire.Port, At: w.Now()}
	mark := w.ground.Mark(sent.Node)
	var err error
	if sent.Packet, err = w.ground.Put(ctx, s.On, *s.Packet); err != nil {
		return fmt.Errorf("put a packet on %s: %w", s.On, err)
	}
	err = w.ground.Await(ctx, sent.Node, answerLimit, func() bool {
		sent.Passed = w.ground.Passed(sent.Node, mark)
		return sent.Meets(w.lab, s)
	})
	if err == nil {
		err = w.packetEntry(s, &sent)
	}
	out.Sent = append(out.Sent, sent)
	return err
}

// packetEntry reads the packet's entry, if a want is about it.
func (w *World) packetEntry(s *lab.Step, sent *lab.Sent) error {
	if s.Want == nil || s.Want.Packet == nil || s.Want.Packet.Entry == nil && s.Want.Packet.NoEntry == nil {
		return nil
	}
	tuple := sent.Packet.Tuple()
	about := sent.Packet.About
	if about != nil {
		tuple, _ = about.Tuple().Inverse() // as nf_conntrack_inet_error looks for it
	}
	t := w.trackedNode(sent.Node)
	r, err := w.ground.Get(sent.Node, tuple)
	if r == nil || err != nil {
		return err
	}
	if about == nil { // an error is no packet of the flow
		w.note(t, r.Entry.Orig, sent.At)
	}
	seen := w.seen(t, *r)
	sent.Entry = &seen
	return nil
}

// heldLimit is how long packets that are to wait may take to come, unless the step has a deadline.
const heldLimit = 5 * time.Second

// release waits until enough packets are held, and lets them go on in the wanted order. With the last of them the hold
// is over; with none, it is over for what comes from now on.
func (w *World) release(ctx context.Context, s *lab.Step, out *lab.Outcome) error {
	node := s.Nodes[0]
	if s.Packets == 0 {
		return w.ground.Unhold(node)
	}
	limit := heldLimit
	if s.Deadline > 0 {
		limit = s.Deadline
	}
	if err := w.ground.AwaitHeld(ctx, node, s.Packets, limit); err != nil {
		return err
	}
	held, err := w.ground.Held(node)
	if err != nil {
		return err
	}
	if len(held) < s.Packets {
		return fmt.Errorf("%d of %d packets wait on %s", len(held), s.Packets, node)
	}
	order := s.Order
	for i := 1; len(s.Order) == 0 && i <= len(held); i++ {
		order = append(order, i)
	}
	if len(order) == len(held) {
		if err := w.ground.Unhold(node); err != nil {
			return err
		}
	}
	waiting := make([]int, len(held)) // the numbers of those that still wait
	for i := range waiting {
		waiting[i] = i + 1
	}
	for _, number := range order {
		nth := slices.Index(waiting, number)
		if err := w.ground.Release(node, nth+1, !s.Drop); err != nil {
			return err
		}
		waiting = slices.Delete(waiting, nth, nth+1)
		out.Released = append(out.Released, lab.Released{Node: node, Number: number, Packet: held[number-1], Dropped: s.Drop})
	}
	return nil
}

// mark notes how many packets have passed each tracked node when a step begins.
func (w *World) mark() {
	for _, t := range w.tracked {
		name := t.spec.Name
		w.marks[name] = [2]int{w.marks[name][1], w.ground.Mark(name)}
	}
}

// awaitPacket waits for a packet on the link of a node, which may have passed since the step before began, as that may
// have been its cause.
func (w *World) awaitPacket(ctx context.Context, s *lab.Step, out *lab.Outcome) error {
	n := w.lab.Node(s.On)
	node, dev, towards := n.Uplink, n.Port, true
	if n.Router {
		node, towards = n.Name, false
	}
	limit := heldLimit
	if s.Deadline > 0 {
		limit = s.Deadline
	}
	return w.ground.Await(ctx, node, limit, func() bool {
		for _, p := range w.ground.Passed(node, w.marks[node][0]) {
			if p.Out == towards && (n.Router || p.Dev == dev) && s.Awaited.Matches(&p.Packet) {
				out.Awaited = &p
				return true
			}
		}
		return false
	})
}
