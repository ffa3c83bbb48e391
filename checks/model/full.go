package model

import (
	"fmt"
	"strconv"

	"ctlab/checks/conntrack"
)

// leastTable is the least number of buckets that a kernel gives its table of its own accord, and so the least limit
// of entries (nf_conntrack_init_start). Below it no limit is asked for that was not given.
const leastTable = 1024

// limit is nf_conntrack_max, 0 for none. The value is the machine's; each namespace is held to it by itself.
func (n *Namespace) limit(count int) int64 {
	const key = "net.netfilter.nf_conntrack_max"
	if _, given := n.sysctls[key]; !given && count <= leastTable {
		return 0
	}
	return n.sysctl(key, 0)
}

// makeRoom is what __nf_conntrack_alloc does before it makes an entry: if there are too many, an early drop. false
// means that there is no room. The count holds what has expired and was not collected, so that it may be undecided
// whether there are too many.
func (n *Namespace) makeRoom(at conntrack.Span, t conntrack.Tuple) bool {
	least, most := n.Count(at)
	limit := n.limit(most + 1)
	switch {
	case limit == 0 || int64(most+1) <= limit:
		return true
	case int64(least+1) <= limit && n.choose(Choice{Kind: ChooseTiming, Subject: "is there room for " + t.Line() + ", or has nothing expired been collected?", Options: 2}) == 0:
		return true
	}
	if n.earlyDrop(at, t) {
		return true
	}
	n.pressed = true
	return false
}

// earlyDrop is early_drop: the hash chain of the new tuple and up to seven behind it are searched, and in the first
// that has any all entries of the namespace go that are not ASSURED. The hash is keyed at random, so that which ones
// these are, if any, is the kernel's choice. Up to 4.5 it is one entry. Seen on 6.18, with 262,144 entries: 50 new flows
// took 52 of them; 20 that were not ASSURED among them were found by none of 30, all of which were dropped.
func (n *Namespace) earlyDrop(at conntrack.Span, t conntrack.Tuple) bool {
	candidates := n.unassured(at)
	for taken := 0; ; taken++ {
		question := "which entry does early drop find for " + t.Line() + "? (the first answer: none)"
		if taken > 0 {
			question = "which one is in the same chain? (the first answer: none)"
		}
		a := 0
		if len(candidates) > 0 && (taken == 0 || !n.cfg.Profile.OneVictim) {
			a = n.choose(Choice{Kind: ChooseVictim, Subject: question, Options: len(candidates) + 1, Entries: tuples(candidates)})
		}
		if a == 0 {
			return taken > 0
		}
		victim := candidates[a-1]
		victim.touched = at
		n.evict(victim, "deleted: the table is full (early_drop)")
		n.stats["early-drop"]++
		candidates = candidates[a:]
	}
}

// unassured are the entries that an early drop may take.
func (n *Namespace) unassured(at conntrack.Span) (out []*entry) {
	for _, e := range n.entries {
		if !e.status.Has(conntrack.Assured) && e.expiry.To > at.From {
			out = append(out, e)
		}
	}
	return out
}

func tuples(entries []*entry) (out []conntrack.Entry) {
	for _, e := range entries {
		out = append(out, conntrack.Entry{Orig: e.orig, Reply: e.reply})
	}
	return out
}

// pressure reports whether the garbage collector may take entries that are not ASSURED: an early drop has failed in
// this namespace since, and it has 95 % of the limit or more (gc_worker; 4.12).
func (n *Namespace) pressure(at conntrack.Span) bool {
	if !n.pressed || !n.cfg.Profile.CollectsEarly {
		return false
	}
	limit, err := strconv.ParseInt(n.sysctls["net.netfilter.nf_conntrack_max"], 10, 64)
	_, most := n.Count(at)
	return err == nil && int64(most) >= limit/100*95
}

// allocate is init_conntrack for a packet: it makes an unconfirmed entry, in the packet's zone. Where the table is
// full the packet is dropped, and its sender, if that is the namespace itself, is told EPERM.
func (n *Namespace) allocate(w *walk, t conntrack.Tuple) bool {
	if !n.makeRoom(w.at, t) {
		n.stats["drop"]++
		w.drop("__nf_conntrack_alloc", fmt.Sprintf("table full: %d entries are allowed", n.limit(leastTable+1)))
		return false
	}
	w.ct = n.initConntrack(t)
	w.ct.zone = w.zone
	return true
}
