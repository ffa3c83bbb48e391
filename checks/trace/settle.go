package trace

import (
	"errors"
	"slices"

	"ctlab/checks/conntrack"
	"ctlab/checks/model"
)

// smallChoice is how many answers are all tried; beyond, the observations that follow are asked which one
// to try.
const smallChoice = 8

func (run *replay) fork(h *hypothesis, r Record) []*hypothesis {
	return run.forkBy(h, func(nh *hypothesis) error { return nh.apply(r) })
}

// forkBy lets something happen in copies of a hypothesis, one for each way of answering the choices that it meets. What can
// meet one must happen here, and nowhere else: a hypothesis asks nobody afterwards.
func (run *replay) forkBy(h *hypothesis, act func(*hypothesis) error) []*hypothesis {
	var out []*hypothesis
	for pending := [][]int{nil}; len(pending) > 0 && len(out) <= maxHypotheses; {
		answers := pending[0]
		pending = pending[1:]
		asked := 0
		var opened []model.Choice
		var given []int
		chooser := func(c model.Choice) int {
			i := asked
			asked++
			opened = append(opened, c)
			a := 0
			switch {
			case i < len(answers):
				a = answers[i]
			default:
				all := run.candidates(c)
				a = all[0]
				for _, other := range all[1:] {
					pending = append(pending, append(slices.Clone(given), other))
				}
			}
			given = append(given, a)
			return a
		}
		nh := h.clone(chooser)
		err := act(nh)
		if errors.Is(err, errNotHeld) && len(run.live) > 1 {
			continue
		}
		if err != nil {
			run.lose("%v", err)
		}
		nh.choices = append(nh.choices, opened...)
		out = append(out, nh)
	}
	return out
}

// candidates are the answers to a choice that are tried: all of a few; of a number (a port) the one that is seen later. Where
// nobody sees it, as the packet is dropped, any free one is as good, but for others that take the same later. What is seen of
// an entry may be another packet's while packets are held: of a few answers all are tried then, that one first.
func (run *replay) candidates(c model.Choice) (all []int) {
	if c.Kind == model.ChooseVictim && c.Options > smallChoice {
		return []int{run.victim(c)}
	}
	if c.Kind == model.ChoosePort || c.Options > smallChoice {
		a, ok, sure := run.lookAhead(c)
		if ok && (sure || c.Options > smallChoice || !run.holding) {
			return []int{a}
		}
		if ok {
			all = append(all, a)
		}
	}
	for a := range c.Options {
		if c.Free != nil && !c.Free(a) || slices.Contains(all, a) {
			continue
		}
		if all = append(all, a); c.Options > smallChoice {
			break
		}
	}
	if all == nil {
		return []int{0}
	}
	return all
}

// victim finds which entry an early drop took, by the events that follow; 0 where none tells.
func (run *replay) victim(c model.Choice) int {
	at := run.trace.Records[run.at].end()
	for _, r := range run.trace.Records[run.at+1:] {
		if r.Kind == Delete || r.Kind == Flush || r.At > at+lateness {
			break
		}
		if r.Kind != Event {
			continue
		}
		ev, err := conntrack.ParseEvent(r.Args)
		if err != nil || ev.Kind != conntrack.Destroy || !ev.Entry.Has(conntrack.HasTimeout) {
			continue
		}
		i := slices.IndexFunc(c.Entries, func(e conntrack.Entry) bool { return e.Orig == ev.Entry.Orig && e.Reply == ev.Entry.Reply })
		if i >= 0 {
			return i + 1
		}
	}
	return 0
}

// lookAhead finds the answer to a choice of a number (a port) in what is seen later of its packet or its
// entry; only the packet itself is sure to be the one. The model has declared what is allowed.
func (run *replay) lookAhead(c model.Choice) (answer int, ok, sure bool) {
	want, err := conntrack.ParsePacket(c.About)
	if err != nil {
		return 0, false, false
	}
	// The packet itself tells, if it can be known and leaves, however long it was held. Else its entry does, which may be
	// another packet's; or another flow of the same source, which takes the same port if it can (find_appropriate_src).
	for i, tells := range []func(Record) (uint16, bool){
		func(r Record) (uint16, bool) { p, ok := portIn(r, c, &want); return p, ok && r.Kind == Left && !c.Own },
		func(r Record) (uint16, bool) { return portIn(r, c, &want) },
		func(r Record) (uint16, bool) { return portOfSource(r, c) },
	} {
		for _, r := range run.trace.Records[run.at:] {
			port, ok := tells(r)
			if a := int(port) - c.First; ok && a >= 0 && a < c.Options && (c.Free == nil || c.Free(a)) {
				return a, true, i == 0
			}
		}
	}
	return 0, false, false
}

// portIn is the port that a record shows to have been chosen for a packet or its flow.
func portIn(r Record, c model.Choice, want *conntrack.Packet) (port uint16, ok bool) {
	var e conntrack.Entry
	switch r.Kind {
	case Left:
		_, p, err := devicePacket(r.Args)
		if err != nil || p.Proto != want.Proto || p.Len != want.Len && !p.More || p.Offset > 0 || p.ID != want.ID && !c.Own {
			return 0, false // of a packet that leaves in parts the first one tells
		}
		if want.Proto == conntrack.ICMPv6 && want.ICMPType != 128 && want.ICMPType != 129 {
			return 0, false // only the id of an echo is rewritten (icmpv6_manip_pkt): what leaves tells nothing
		}
		if want.Proto == conntrack.ICMP || want.Proto == conntrack.ICMPv6 {
			return p.ICMPID, p.ICMPType == want.ICMPType && (p.Dst == want.Dst || c.Destination && p.Src == want.Src)
		}
		if c.Destination {
			return p.DstPort, p.Src == want.Src && p.SrcPort == want.SrcPort && !c.Own
		}
		return p.SrcPort, p.Dst == want.Dst && p.DstPort == want.DstPort
	case Entry:
		var err error
		if e, err = conntrack.ParseEntry(r.Args); err != nil {
			return 0, false
		}
	case Event:
		ev, err := conntrack.ParseEvent(r.Args)
		if err != nil || ev.Kind != conntrack.New { // of the others it may be an entry before that is heard of late
			return 0, false
		}
		e = ev.Entry
	default:
		return 0, false
	}
	if c.Destination || want.Proto == conntrack.ICMP || want.Proto == conntrack.ICMPv6 { // which have one id, not two ports
		return e.Reply.SrcPort, e.Orig == c.Flow
	}
	return e.Reply.DstPort, e.Orig == c.Flow
}

// portOfSource is the port that source NAT gave to another flow of the choice's source.
func portOfSource(r Record, c model.Choice) (port uint16, ok bool) {
	if r.Kind != Event || c.Destination {
		return 0, false
	}
	ev, err := conntrack.ParseEvent(r.Args)
	if err != nil || ev.Kind != conntrack.New {
		return 0, false
	}
	o := ev.Entry.Orig
	return ev.Entry.Reply.DstPort, ev.Entry.Status.Has(conntrack.SrcNAT) && o != c.Flow && o.Proto == c.Flow.Proto && o.Src == c.Flow.Src && o.SrcPort == c.Flow.SrcPort
}
