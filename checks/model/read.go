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
	bitMark
)

// Predicted is an entry as a reader must find it. Everything but the time left is exact.
type Predicted struct {
	Entry      conntrack.Entry // without Timeout and ID
	Expiry     conntrack.Span  // the tick at which it expires
	Serial     int             // tells the entry from a later one with the same tuple
	Undecided  bool            // in a dump: it may be there or not
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
	e.zone.describe(&p.Entry)
	if e.made {
		p.Entry.Unknown = []conntrack.Attr{{Type: 24, Value: noSynproxy}}
	}
	if e.acct {
		p.Entry.Known |= conntrack.HasCounters
		p.Entry.OrigCount, p.Entry.ReplyCount = e.count[original], e.count[reply]
	}
	return p
}

// Decided reports whether it is certain, for each entry, whether its time is up at a Span, and no fragments wait: then a
// read or a deletion meets no choice.
func (n *Namespace) Decided(at conntrack.Span) bool {
	if len(n.frags) > 0 {
		return false
	}
	for _, e := range n.entries {
		if e.expiry.From <= at.To && e.expiry.To > at.From {
			return false
		}
	}
	return true
}

// Get reads one entry of the default zone by a tuple of either direction (ctnetlink_get_conntrack); an expired one
// is evicted.
func (n *Namespace) Get(at conntrack.Span, t conntrack.Tuple) (Predicted, bool) {
	return n.GetKey(at, conntrack.Key{Tuple: t})
}

// GetKey reads one entry by a tuple of either direction and the zone's id (CTA_ZONE).
func (n *Namespace) GetKey(at conntrack.Span, k conntrack.Key) (Predicted, bool) {
	n.now = at
	r, ok := n.findIn(zone{id: k.Zone}, k.Tuple, at)
	if !ok {
		return Predicted{}, false
	}
	p := n.predicted(r.e)
	p.Entry.Known |= conntrack.HasMark | conntrack.HasUse
	p.Entry.Use = uint32(2 + r.e.held) // the table's reference, the reader's, and packets that wait
	return p, true
}

// Dump reads the table (ctnetlink_dump_table); expired entries are evicted and not shown. Whether an entry is expired
// whose time runs out within the Span is left undecided: Collect takes it, if it was not shown.
func (n *Namespace) Dump(at conntrack.Span) []Predicted {
	n.now = at
	var out []Predicted
	for _, e := range append([]*entry(nil), n.entries...) {
		undecided := e.expiry.From <= at.To && e.expiry.To > at.From
		if !undecided && n.expired(e, at) {
			n.evict(e, "expired")
			continue
		}
		if e.status.Has(conntrack.NATClash) { // only original tuples are walked through
			continue
		}
		p := n.predicted(e)
		p.Entry.Known |= conntrack.HasMark | conntrack.HasUse
		p.Entry.Use = uint32(1 + e.held)
		p.Undecided = undecided
		out = append(out, p)
	}
	return out
}

// Delete removes the entry of the default zone with a tuple of either direction (ctnetlink_del_conntrack).
func (n *Namespace) Delete(at conntrack.Span, t conntrack.Tuple) bool {
	return n.DeleteKey(at, conntrack.Key{Tuple: t})
}

// DeleteKey removes the entry with a tuple of either direction and the zone's id.
func (n *Namespace) DeleteKey(at conntrack.Span, k conntrack.Key) bool {
	n.now = at
	r, ok := n.findIn(zone{id: k.Zone}, k.Tuple, at)
	if !ok {
		return false
	}
	r.e.touched = at
	n.evict(r.e, "deleted")
	return true
}

// Flush removes every entry (nf_ct_iterate_cleanup_net).
func (n *Namespace) Flush(at conntrack.Span) {
	n.filler = filler{}
	for _, e := range append([]*entry(nil), n.entries...) {
		e.touched = at
		n.evict(e, "deleted")
	}
}

// noSynproxy is CTA_SYNPROXY (24) with its three numbers at 0, as a little-endian kernel writes it: ctnetlink gives each
// entry that it makes the extension of SYNPROXY (ctnetlink_create_conntrack), and shows it in reads and in the events
// of its own changes. Seen on 6.18.
const noSynproxy = "\x08\x00\x01\x00\x00\x00\x00\x00\x08\x00\x02\x00\x00\x00\x00\x00\x08\x00\x03\x00\x00\x00\x00\x00"

// Create makes an entry as ctnetlink does (ctnetlink_create_conntrack); false means that there is one already, no
// room, or a status that no entry can be given. Bits that only the kernel sets, as those of NAT, are left out; no status at all is no
// request for one. Its stream stamp is zero, so that its first packet after a reply goes straight to the stream timeout.
func (n *Namespace) Create(at conntrack.Span, ce conntrack.Entry) bool {
	n.now = at
	z := zoneOf(&ce)
	if _, taken := n.findIn(z, ce.Orig, at); taken || !n.makeRoom(at, ce.Orig) {
		return false
	}
	n.serial++
	e := &entry{serial: n.serial, orig: ce.Orig, reply: ce.Reply, zone: z, status: conntrack.Confirmed,
		expiry: at.Add(n.seconds(int64(ce.Timeout))), streamAfter: conntrack.At(-1 << 40), mark: ce.Mark, touched: at,
		acct: n.sysctl("net.netfilter.nf_conntrack_acct", 0) != 0, events: n.listening,
		made: true, whyStatus: "as created", whyTimeout: "as created", whyReply: "as created"}
	if ce.Status != 0 && e.changeStatus(ce.Status) != nil {
		return false
	}
	for _, d := range []direction{original, reply} { // nf_conntrack_hash_check_insert
		if _, taken := n.sitting(e, d, at); taken {
			return false
		}
	}
	n.stats["insert"]++
	n.list(e)
	n.report(e, conntrack.New, at, bitMark, "created through ctnetlink")
	return true
}

// MayCollect reports whether the garbage collector (gc_worker) may take, at a Span, an entry with both tuples of the
// given one: its time may be up, or the table is nearly full. Collect lets it take that.
func (n *Namespace) MayCollect(at conntrack.Span, ce *conntrack.Entry) bool {
	return n.collectable(at, ce) != nil
}

// Collect lets the garbage collector take an entry that it may take.
func (n *Namespace) Collect(at conntrack.Span, ce *conntrack.Entry) {
	e := n.collectable(at, ce)
	switch {
	case e == nil:
	case e.expiry.From <= at.To:
		n.evict(e, "expired, collected")
	default:
		e.touched = at
		n.evict(e, "deleted: the table is nearly full (gc_worker)")
	}
}

func (n *Namespace) collectable(at conntrack.Span, ce *conntrack.Entry) *entry {
	for _, e := range n.entries {
		if e.orig != ce.Orig || e.reply != ce.Reply || e.zone != zoneOf(ce) {
			continue
		}
		if e.expiry.From <= at.To || !e.status.Has(conntrack.Assured) && n.pressure(at) {
			return e
		}
	}
	return nil
}

// deliverEvents is nf_ct_deliver_cached_events at the confirming hook: one message for all cached changes.
func (n *Namespace) deliverEvents(w *walk, kind conntrack.EventKind) {
	e := w.ct
	if e.status.Has(conntrack.Dying) || kind == conntrack.Update && e.pending == 0 {
		return
	}
	changed := e.pending
	e.pending = 0
	n.report(e, kind, w.at, changed, e.whyStatus)
	if e.events {
		n.events[len(n.events)-1].Entry.Unknown = nil // not one of these changes
	}
}

// report makes an event about an entry at once (nf_conntrack_eventmask_report).
func (n *Namespace) report(e *entry, kind conntrack.EventKind, at conntrack.Span, changed eventBits, why string) {
	if !e.events {
		return
	}
	ev := Event{Kind: kind, At: at, Predicted: n.predicted(e), Why: why}
	ev.Entry.Known &^= conntrack.HasCounters // counters are part of DESTROY only
	ev.Entry.Known |= e.showsMark(changed)
	n.events = append(n.events, ev)
}

func (n *Namespace) destroyEvent(e *entry, why string) {
	if !e.events {
		return
	}
	ev := Event{Kind: conntrack.Destroy, At: e.touched, Predicted: n.predicted(e), Why: why}
	ev.Entry.Known |= e.showsMark(0)
	ev.Entry.Unknown = nil
	ev.Gone, ev.Expired = true, strings.HasPrefix(why, "expired")
	n.events = append(n.events, ev)
}

// Events takes the events that were predicted since the last call.
func (n *Namespace) Events() []Event {
	ev := n.events
	n.events = nil
	return ev
}
