package model

import (
	"fmt"
	"slices"

	"ctlab/checks/conntrack"
)

// slot is where an entry stands in the table: a tuple, and the zone's id in the direction of the tuple. Entries of
// zones that hold for one direction only may have equal tuples in different directions.
type slot struct {
	tuple conntrack.Tuple
	zone  uint16
	dir   direction
}

// slots of an entry. One that lost a clash stands under its reply tuple only (nf_ct_resolve_clash_harder).
func (e *entry) slots() []slot {
	r := slot{e.reply, e.zone.in(reply), reply}
	if e.status.Has(conntrack.NATClash) {
		return []slot{r}
	}
	return []slot{{e.orig, e.zone.in(original), original}, r}
}

// list puts an entry into the table (__nf_conntrack_hash_insert).
func (n *Namespace) list(e *entry) {
	n.listings++
	e.listed = n.listings
	n.entries = append(n.entries, e)
	for _, s := range e.slots() {
		n.bySlot[s] = ref{e, s.dir}
	}
}

// unlist takes an entry out of the table (clean_from_lists).
func (n *Namespace) unlist(e *entry) {
	if i := slices.Index(n.entries, e); i >= 0 {
		n.entries = slices.Delete(slices.Clone(n.entries), i, i+1)
	}
	for _, s := range e.slots() {
		if n.bySlot[s].e == e {
			delete(n.bySlot, s)
		}
	}
}

// bucket are the entries that a walk through the hash chain of a tuple and a zone's id meets, and that have the key
// of the tuple and the zone (nf_ct_key_equal), the newest first. Expired ones are among them.
func (n *Namespace) bucket(t conntrack.Tuple, id uint16, z zone) []ref {
	var out []ref
	for _, d := range []direction{original, reply} {
		if r, ok := n.bySlot[slot{t, id, d}]; ok && z.in(d) == id {
			out = append(out, r)
		}
	}
	if len(out) == 2 && out[0].e.listed <= out[1].e.listed { // of one entry the reply tuple goes in last
		out[0], out[1] = out[1], out[0]
	}
	return out
}

// lookup looks a tuple up in the zone of a packet.
func (n *Namespace) lookup(w *walk, t conntrack.Tuple) (ref, bool) { return n.findIn(w.zone, t, w.at) }

// findIn looks a tuple up in a zone (nf_conntrack_find_get): with the zone's id of the original direction, then,
// where it differs, of the reply direction. An expired entry that it meets is evicted (____nf_conntrack_find).
func (n *Namespace) findIn(z zone, t conntrack.Tuple, at conntrack.Span) (ref, bool) {
	ids := []uint16{z.in(original), z.in(reply)}
	for _, id := range slices.Compact(ids) {
		for _, r := range n.bucket(t, id, z) {
			if !n.expired(r.e, at) {
				return r, true
			}
			n.evict(r.e, "expired")
		}
	}
	return ref{}, false
}

// sitting finds what stands in the table where an entry would go in a direction. Nobody asks there whether it is
// expired; whether the garbage collector has come for it in the meantime cannot be known.
func (n *Namespace) sitting(e *entry, d direction, at conntrack.Span) (ref, bool) {
	t := e.orig
	if d == reply {
		t = e.reply
	}
	for _, r := range n.bucket(t, e.zone.in(d), e.zone) {
		if n.collected(r.e, at) {
			n.evict(r.e, "expired, collected")
			continue
		}
		return r, true
	}
	return ref{}, false
}

// collected reports whether an entry is gone for good by now: its timer has taken it, or the garbage collector.
func (n *Namespace) collected(e *entry, at conntrack.Span) bool {
	if n.cfg.Profile.TimersEvict {
		return n.expired(e, at)
	}
	if e.expiry.From > at.To {
		return false
	}
	return n.choose(Choice{Kind: ChooseTiming, Subject: fmt.Sprintf("has the garbage collector taken the expired %s?", e.orig.Line()), Options: 2}) == 1
}
