package model

import (
	"fmt"
	"slices"

	"ctlab/checks/conntrack"
)

// Hold lets the packets wait that a hold names, at its place in POSTROUTING, until Release lets each of them go on.
// It stands beside the holds that are there already. In the kernel it is a rule whose match asks conntrack, so that
// tracking is on while it stands, and whose target is NFQUEUE.
func (n *Namespace) Hold(h conntrack.Hold) { n.holds = append(n.holds, h) }

// Unhold takes all holds away. What waits goes on waiting: in the kernel the rules go and their chains stay
// (with the hook of a chain the kernel drops all that waits, nf_queue_nf_hook_drop).
func (n *Namespace) Unhold() { n.holds = nil }

// Held are the packets that wait at a hold, as they are there, in the order of their arrival.
func (n *Namespace) Held() []conntrack.Packet {
	var out []conntrack.Packet
	for _, w := range n.waiting {
		out = append(out, *w.p)
	}
	return out
}

// Release ends the waiting of the nth packet of Held, counted from 1: it goes on where it was, or is dropped
// (nf_reinject). It may be held again, at a later place, and is then the last one.
func (n *Namespace) Release(at conntrack.Span, nth int, accept bool) Outcome {
	n.now = at
	if nth < 1 || nth > len(n.waiting) {
		n.notModelled("release of packet %d of %d that are held", nth, len(n.waiting))
		return Outcome{}
	}
	w := n.waiting[nth-1]
	n.waiting = slices.Delete(slices.Clone(n.waiting), nth-1, nth)
	place := w.held
	w.at, w.held = at, ""
	w.letGo()
	if !accept {
		w.drop("nf_reinject", "released to be dropped")
		return w.outcome(n)
	}
	w.say("nf_reinject", "goes on "+string(place))
	if n.behind(w, place) {
		n.output(w)
	}
	return w.outcome(n)
}

// pause is where a packet may have to wait; false means that it does. nfnetlink_queue drops a packet of an
// unconfirmed entry that another packet, an error about it, refers to as well (nf_ct_drop_unconfirmed).
func (n *Namespace) pause(w *walk, place conntrack.HoldPlace) bool {
	if w.ct == nil || !slices.ContainsFunc(n.holds, func(h conntrack.Hold) bool {
		return h.Where == place && h.Matches(w.ct.orig, w.info == isNew)
	}) {
		return true
	}
	if !w.ct.status.Has(conntrack.Confirmed) && (w.shared || w.ct.held > 0) {
		w.drop("nf_ct_drop_unconfirmed", "its unconfirmed entry belongs to another packet as well")
		return false
	}
	w.held = place
	w.own()
	w.ct.held++
	n.waiting = append(slices.Clone(n.waiting), w)
	w.say("nf_queue", fmt.Sprintf("held %s, as number %d", place, len(n.waiting)))
	return false
}

// letGo gives back the reference that a packet held.
func (w *walk) letGo() {
	if w.ct != nil {
		w.ct.held--
	}
}

// clone copies a packet that waits; entry gives the copy of an entry.
func (w *walk) clone(entry func(*entry) *entry) *walk {
	cp := *w
	cp.owned = false
	cp.own()
	cp.ct = entry(w.ct)
	cp.steps = slices.Clone(w.steps)
	cp.lefts = slices.Clone(w.lefts)
	return &cp
}

// dropQueued drops the packets that wait with one of their devices, when it goes down (nfqnl_dev_drop).
func (n *Namespace) dropQueued(dev string) {
	n.waiting = slices.DeleteFunc(slices.Clone(n.waiting), func(w *walk) bool {
		gone := w.in == dev || w.out == dev
		if gone {
			w.letGo()
		}
		return gone
	})
}
