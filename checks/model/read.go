package model

import (
	"strings"

	"ctlab/checks/conntrack"
)

// eventBits are the changes that wait in an entry's event cache.
type eventBits uint8

const (
	bitReply eventBits = 1 << iota
	bitAssured
)

// Predicted is an entry as a reader must find it. Everything but the time left is exact.
type Predicted struct {
	Entry      conntrack.Entry // without Timeout and ID
	Expiry     conntrack.Span  // the tick at which it expires
	Serial     int             // tells the entry from a later one with the same tuple
	Gone       bool            // in an event: destroyed
	Expired    bool            // in an event: destroyed because its time was up
	WhyStatus  string
	WhyTimeout string
	WhyReply   string
}

// Event is an event that the kernel must report.
type Event struct {
	Kind conntrack.EventKind
	At   conntrack.Span
	Predicted
	Why string
}

func (n *Namespace) predicted(e *entry) Predicted {
	p := Predicted{
		Entry:  conntrack.Entry{Orig: e.orig, Reply: e.reply, Status: e.status, Mark: e.mark, Known: conntrack.HasTimeout | conntrack.HasID},
		Expiry: e.expiry, Serial: e.serial, WhyStatus: e.whyStatus, WhyTimeout: e.whyTimeout, WhyReply: e.whyReply,
	}
	if e.acct {
		p.Entry.Known |= conntrack.HasCounters
		p.Entry.OrigCount, p.Entry.ReplyCount = e.count[original], e.count[reply]
	}
	return p
}

// Decided reports whether it is certain, for each entry, whether its time is up at a Span: then a read or a deletion
// meets no choice.
func (n *Namespace) Decided(at conntrack.Span) bool {
	for _, e := range n.entries {
		if e.expiry.From <= at.To && e.expiry.To > at.From {
			return false
		}
	}
	return true
}

// Get reads one entry by a tuple of either direction (ctnetlink_get_conntrack); an expired one is evicted.
func (n *Namespace) Get(at conntrack.Span, t conntrack.Tuple) (Predicted, bool) {
	n.now = at
	r, ok := n.find(t, at)
	if !ok {
		return Predicted{}, false
	}
	p := n.predicted(r.e)
	p.Entry.Known |= conntrack.HasMark | conntrack.HasUse
	p.Entry.Use = uint32(2 + r.e.held) // the table's reference, the reader's, and packets that wait
	return p, true
}

// Dump reads the table (ctnetlink_dump_table); expired entries are evicted and not shown.
func (n *Namespace) Dump(at conntrack.Span) []Predicted {
	n.now = at
	var out []Predicted
	for _, e := range append([]*entry(nil), n.entries...) {
		if n.expired(e, at) {
			n.evict(e, "expired")
			continue
		}
		p := n.predicted(e)
		p.Entry.Known |= conntrack.HasMark | conntrack.HasUse
		p.Entry.Use = uint32(1 + e.held)
		out = append(out, p)
	}
	return out
}

// Delete removes the entry with the original tuple (ctnetlink_del_conntrack).
func (n *Namespace) Delete(at conntrack.Span, t conntrack.Tuple) bool {
	r, ok := n.find(t, at)
	if !ok {
		return false
	}
	r.e.touched = at
	n.evict(r.e, "deleted")
	return true
}

// Flush removes every entry (nf_ct_iterate_cleanup_net).
func (n *Namespace) Flush(at conntrack.Span) {
	for _, e := range append([]*entry(nil), n.entries...) {
		e.touched = at
		n.evict(e, "deleted")
	}
}

// Create makes an entry as ctnetlink does (ctnetlink_create_conntrack). Its stream stamp is zero, so that
// its first packet after a reply goes straight to the stream timeout.
func (n *Namespace) Create(at conntrack.Span, ce conntrack.Entry) bool {
	for _, t := range []conntrack.Tuple{ce.Orig, ce.Reply} {
		if _, taken := n.find(t, at); taken {
			return false
		}
	}
	n.serial++
	n.stats["insert"]++
	e := &entry{serial: n.serial, orig: ce.Orig, reply: ce.Reply, status: ce.Status | conntrack.Confirmed,
		expiry: at.Add(n.seconds(int64(ce.Timeout))), streamAfter: conntrack.At(-1 << 40), mark: ce.Mark, touched: at,
		acct: n.sysctl("net.netfilter.nf_conntrack_acct", 0) != 0, events: n.listening,
		whyStatus: "as created", whyTimeout: "as created", whyReply: "as created"}
	n.entries = append(n.entries, e)
	n.byTuple[e.orig] = ref{e, original}
	n.byTuple[e.reply] = ref{e, reply}
	if e.events {
		n.events = append(n.events, Event{Kind: conntrack.New, At: at, Predicted: n.predicted(e), Why: "created through ctnetlink"})
	}
	return true
}

// MayCollect lists the entries whose time may be up at a Span: the garbage collector (gc_worker) may take
// them at any moment from now on. Collect takes one of them.
func (n *Namespace) MayCollect(at conntrack.Span) []conntrack.Tuple {
	var out []conntrack.Tuple
	for _, e := range n.entries {
		if e.expiry.From <= at.To {
			out = append(out, e.orig)
		}
	}
	return out
}

// Collect lets the garbage collector take an expired entry.
func (n *Namespace) Collect(t conntrack.Tuple) {
	if r, ok := n.byTuple[t]; ok {
		n.evict(r.e, "expired, collected")
	}
}

// deliverEvents is nf_ct_deliver_cached_events at the confirming hook: one message for all cached changes.
func (n *Namespace) deliverEvents(w *walk, kind conntrack.EventKind) {
	e := w.ct
	if !e.events || kind == conntrack.Update && e.pending == 0 {
		return
	}
	e.pending = 0
	ev := Event{Kind: kind, At: w.at, Predicted: n.predicted(e), Why: e.whyStatus}
	ev.Entry.Known &^= conntrack.HasCounters // counters are part of DESTROY only
	n.events = append(n.events, ev)
}

func (n *Namespace) destroyEvent(e *entry, why string) {
	if !e.events {
		return
	}
	ev := Event{Kind: conntrack.Destroy, At: e.touched, Predicted: n.predicted(e), Why: why}
	ev.Gone, ev.Expired = true, strings.HasPrefix(why, "expired")
	n.events = append(n.events, ev)
}

// Events takes the events that were predicted since the last call.
func (n *Namespace) Events() []Event {
	ev := n.events
	n.events = nil
	return ev
}
