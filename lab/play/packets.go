package play

import (
	"context"
	"fmt"
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
