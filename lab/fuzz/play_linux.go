package fuzz

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"ctlab/checks/conntrack"
	"ctlab/checks/observe"
	"ctlab/checks/trace"
	"ctlab/checks/wire"
	"ctlab/internal/queue"
)

// play does operations until there is a pause, which it returns, or something that is done elsewhere (slow), or the
// end (done).
func (a *arena) play() (pause time.Duration, slow func(context.Context) error, done bool) {
	for a.err == nil && a.next < len(a.s.Ops) {
		op := a.s.Ops[a.next]
		a.next++
		switch op.Kind {
		case Pause:
			a.plays(op)
			return op.Pause, nil, false
		case Rules:
			if a.err = a.releaseAll(); a.err != nil {
				return 0, nil, true
			}
			a.plays(op)
			return 0, func(ctx context.Context) error { return a.load(ctx, op.Text, op.Noflush) }, false
		}
		err := a.listen() // the collector may have been here meanwhile
		if err == nil {
			err = a.do(op)
		}
		if err != nil {
			a.err = fmt.Errorf("%s: %s: %w", a.s.Name(), op.Kind, err)
		}
	}
	if a.err == nil && !a.counted {
		a.counted = true
		return 0, a.inventory, false
	}
	return 0, nil, true
}

func (a *arena) do(op Op) error {
	switch op.Kind {
	case Packet:
		if op.Piece[1] > 0 {
			return a.putBytes(op, wire.Fragment(&op.Packet, op.Piece[0], op.Piece[1]))
		}
		return a.put(op.Wire, op.Packet)
	case Answer:
		return a.answer(op)
	case Error:
		return a.tell(op)
	case Hold, Unhold, Release:
		return a.holding(op)
	case Sysctl:
		return a.set(op.Text)
	case Delete:
		return a.delete(op)
	case Flush:
		a.plays(op)
		at, err := a.table.Flush()
		if err != nil {
			return err
		}
		a.record(span(at), trace.Flush, "", "")
		return a.look()
	case Dump:
		a.plays(op)
		if err := a.dump(); err != nil {
			return err
		}
		return a.look()
	}
	return fmt.Errorf("not known")
}

// put puts a packet on a wire and looks at what became of it.
func (a *arena) put(k int, p conntrack.Packet) error {
	return a.putBytes(Op{Kind: Packet, Wire: k, Packet: p}, wire.Encode(&p))
}

// putBytes puts a packet, or a fragment of it, on a wire.
func (a *arena) putBytes(op Op, b []byte) error {
	is, ok := wire.Decode(b)
	if !ok {
		return fmt.Errorf("%s: makes no packet", op.Packet.Line())
	}
	before := a.seenByConntrack()
	k := op.Wire
	a.plays(op)
	from := a.tick()
	if err := a.outside.put(a.outer[k], b); err != nil {
		return err
	}
	a.did(from, trace.Packet, trace.PacketArgs(a.s.Wires[k].Device, &is), "")
	if now := a.seenByConntrack(); now.Count == before.Count+1 && !is.IsFragment() { // no other one came in again through lo
		a.saw(trace.CTInfo, trace.CTInfoArgs(a.s.Wires[k].Device, &is, now.Last.CT()))
	}
	return a.behind(is)
}

// seenByConntrack is what a watch saw behind nf_conntrack_in of packets that came in.
func (a *arena) seenByConntrack() observe.Glance {
	if a.watch == nil {
		return observe.Glance{}
	}
	return a.watch.At(observe.Prerouting)
}

// behind looks at what became of a packet.
func (a *arena) behind(p conntrack.Packet) error {
	if err := a.see(); err != nil {
		return err
	}
	if p.About != nil {
		return a.look(p.About.Tuple())
	}
	return a.look(p.Tuple())
}

// see notes what came out of the wires.
func (a *arena) see() error {
	return a.outside.drain(func(index int, ip []byte) {
		if b, ok := a.outside.owner(index); ok {
			b.arena.left(b.wire, ip)
		}
	})
}

// answer answers a packet that came out.
func (a *arena) answer(op Op) error {
	if len(a.out) == 0 {
		return nil
	}
	e := a.out[op.Of%len(a.out)]
	p := e.packet
	if p.About != nil || p.IsError() || p.IsFragment() || p.Proto == gre && a.s.own(p.Src) {
		return nil
	}
	p.Src, p.Dst, p.SrcPort, p.DstPort = p.Dst, p.Src, p.DstPort, p.SrcPort
	if inv, ok := e.packet.Tuple().Inverse(); ok {
		p.ICMPType = inv.ICMPType
	}
	if p.TTL, p.ID, p.Bad = 64, uint16(30000+a.next), ""; a.s.Six {
		p.ID, p.Len = 0, lengthOf(a.next-1)
	}
	return a.put(e.at(op.Wire), p)
}

func (e egress) at(k int) int {
	if k < 0 {
		return e.wire
	}
	return k
}

// tell answers a packet that came out with an ICMP error about it.
func (a *arena) tell(op Op) error {
	if len(a.out) == 0 {
		return nil
	}
	e := a.out[op.Of%len(a.out)]
	if e.packet.About != nil || e.packet.IsError() || e.packet.Offset > 0 {
		return nil
	}
	p, about := op.Packet, e.packet
	about.Bad = ""
	p.About, p.Src, p.Dst = &about, about.Dst, about.Src
	p.ID = uint16(30000 + a.next)
	if p.Len = 28 + min(about.Len, 548); a.s.Six {
		p.Len, p.ID = 48+min(about.Len, 1232), 0
	}
	return a.put(e.at(op.Wire), p)
}

// holding lets packets wait on their way, or go on.
func (a *arena) holding(op Op) error {
	from := a.tick()
	switch op.Kind {
	case Hold:
		a.plays(op)
		if err := a.queue.Hold(op.Hold); err != nil {
			return err
		}
		a.did(from, trace.Hold, op.Hold.String(), "")
	case Unhold:
		a.plays(op)
		if err := a.queue.Unhold(); err != nil {
			return err
		}
		a.did(from, trace.Unhold, "", "")
	case Release:
		return a.release(op)
	}
	return a.look()
}

// release lets one of the packets that wait go on.
func (a *arena) release(op Op) error {
	waiting, err := a.waiting()
	if err != nil || len(waiting) == 0 {
		return err
	}
	nth := a.choose(waiting, op)
	if nth == 0 {
		return nil
	}
	from := a.tick()
	if err := a.queue.Release(nth, op.Accept); err != nil {
		return err
	}
	if err := a.outside.settle(); err != nil {
		return err
	}
	a.did(from, trace.Release, trace.ReleaseArgs(nth, op.Accept), "")
	p, ok := wire.Decode(waiting[nth-1].Bytes)
	if !ok {
		return fmt.Errorf("what was held is no packet: %x", waiting[nth-1].Bytes)
	}
	return a.behind(p)
}

// choose is which of the packets that wait a release is about, counted from 1; 0 if it does not wait.
func (a *arena) choose(waiting []queue.Packet, op Op) int {
	nth := op.Of%len(waiting) + 1
	if op.Held != (Held{}) {
		nth = 1 + slices.IndexFunc(waiting, func(w queue.Packet) bool { return heldOf(w) == op.Held })
	}
	if nth == 0 {
		return 0
	}
	played := Op{Kind: Release, Of: nth - 1, Accept: op.Accept}
	if held := heldOf(waiting[nth-1]); slices.ContainsFunc(a.played, func(p Played) bool { return p.Kind == Packet && p.is(held) }) {
		played.Held = held // and not one of the node's own packets, which have other numbers each time
	}
	a.plays(played)
	a.played[len(a.played)-1].Waiting = len(waiting)
	return nth
}

func heldOf(w queue.Packet) Held {
	p, _ := wire.Decode(w.Bytes)
	return Held{p.ID, p.Len}
}

// is reports whether a packet that was put on a wire may be one that waits. Fragments wait as one packet.
func (p *Played) is(h Held) bool {
	return p.Packet.ID == h.ID && (p.Packet.Len == h.Len || p.Piece[1] > 0)
}

// releaseAll lets all that waits go on: with the hooks of rules that go, the kernel would drop it.
func (a *arena) releaseAll() error {
	for a.queue != nil {
		waiting, err := a.waiting()
		if err != nil || len(waiting) == 0 {
			return err
		}
		if err := a.release(Op{Accept: true}); err != nil {
			return err
		}
	}
	return nil
}

// waiting are the packets that wait, once the kernel has told of each.
func (a *arena) waiting() ([]queue.Packet, error) {
	all, err := a.queued()
	for err == nil {
		var known []queue.Packet
		known, err = a.queue.Waiting()
		switch {
		case err != nil || len(known) == all:
			return known, err
		case len(known) > all:
			return nil, fmt.Errorf("%d packets wait, %d are known: the kernel dropped some", all, len(known))
		}
		select {
		case <-a.queue.More():
		case <-time.After(2 * time.Second):
			err = fmt.Errorf("%d packets wait, %d are known", all, len(known))
		}
	}
	return nil, err
}

// queued is how many packets wait, as the kernel counts them.
func (a *arena) queued() (n int, err error) {
	var b []byte
	err = a.node.NS.Do(func() (err error) {
		b, err = os.ReadFile("/proc/thread-self/net/netfilter/nfnetlink_queue")
		return err
	})
	if err != nil {
		return 0, err
	}
	var number, reader int
	if _, err := fmt.Sscan(string(b), &number, &reader, &n); err != nil {
		return 0, fmt.Errorf("read how many packets wait in %q: %w", b, err)
	}
	return n, nil
}

func (a *arena) set(text string) error {
	a.plays(Op{Kind: Sysctl, Text: text})
	name, value, _ := strings.Cut(text, " ")
	from := a.tick()
	if err := a.node.NS.WriteSysctl(name, value); err != nil {
		return err
	}
	a.did(from, trace.Sysctl, text, "")
	return nil
}

func (a *arena) delete(op Op) error {
	k := op.Entry
	if k == nil {
		if len(a.live) == 0 {
			return nil
		}
		k = &a.live[op.Of%len(a.live)]
	}
	return a.deleteKey(*k)
}

func (a *arena) deleteKey(k conntrack.Key) error {
	a.plays(Op{Kind: Delete, Entry: &k})
	_, at, err := a.table.DeleteKey(k, 0)
	if err != nil {
		return err
	}
	a.record(span(at), trace.Delete, k.Line(), "")
	return a.look(k.Tuple)
}
