package model

import "ctlab/checks/conntrack"

// ClashRule is what a kernel does with a packet whose entry cannot go into the table, as another packet of the same
// flow, or one with the same reply tuple, was faster (nf_ct_resolve_clash in nf_conntrack_core.c).
type ClashRule string

// The generations of the rule.
const (
	// ClashDrops: the packet is dropped (up to 4.8).
	ClashDrops ClashRule = "drop"
	// ClashMergesWithoutNAT: it joins the entry that is there, if that has nothing to do with NAT (4.9).
	ClashMergesWithoutNAT ClashRule = "merge-without-nat"
	// ClashMerges: or if both tuples are the same (4.19; ed07d9a021df).
	ClashMerges ClashRule = "merge"
	// ClashHides: or else the entry goes into the table under its reply tuple only, for a second (5.7; 6a757c07e51f).
	ClashHides ClashRule = "hide"
	// ClashMergesCrosswise: to join, both tuples must be the same, or the same flow seen from its other end (6.12;
	// d8f84a9bc7c4, a4e6a1031e77).
	ClashMergesCrosswise ClashRule = "merge-crosswise"
)

// hides reports whether the kernel knows of entries that stand under their reply tuple only.
func (r ClashRule) hides() bool { return r == ClashHides || r == ClashMergesCrosswise }

// allowsClash tells the protocols whose packets need not be dropped (struct nf_conntrack_l4proto, allow_clash).
func (n *Namespace) allowsClash(proto uint8) bool {
	return proto == conntrack.UDP || proto == conntrack.UDPLite || proto == gre && n.cfg.Profile.GREClash ||
		genericTracked(proto, false) && n.cfg.Profile.GenericClash
}

// usesNAT are the bits that nf_nat_used_tuple_new takes for signs of NAT. (It means SEQ_ADJUST as well, which no flow
// here has. Up to some 6.18 stable release it took the number of that bit for its value, which is SEEN_REPLY and
// ASSURED: 6.18.2 has that in its source, 6.18.44 does not behave so.)
const usesNAT = conntrack.SrcNAT | conntrack.DstNAT

// insert is __nf_conntrack_confirm for a packet in original direction with an unconfirmed entry: it goes into the
// table under both tuples, if they are free. false means that the packet is dropped.
func (n *Namespace) insert(w *walk) bool {
	e := w.ct
	for _, d := range []direction{original, reply} {
		if r, taken := n.sitting(e, d, w.at); taken {
			return n.resolveClash(w, r)
		}
	}
	e.status |= conntrack.Confirmed
	e.expiry = w.at.Add(e.relative)
	n.list(e)
	w.say("__nf_conntrack_confirm", "in the table under both tuples, "+n.left(e.expiry, w.at)+" left")
	if e.whyStatus == "" {
		e.whyStatus = "confirmed at the last hook (__nf_conntrack_confirm)"
	}
	n.deliverEvents(w, conntrack.New)
	return true
}

// resolveClash is nf_ct_resolve_clash: another entry has one of the tuples.
func (n *Namespace) resolveClash(w *walk, winner ref) bool {
	rule := n.cfg.Profile.Clash
	if rule != ClashDrops && n.allowsClash(w.p.Proto) && (n.merge(w, winner) || rule.hides() && n.hide(w, winner)) {
		return true
	}
	n.stats["insert-failed"]++
	n.stats["drop"]++
	w.drop("nf_ct_resolve_clash", "another entry has the tuple "+winner.tuple().Line())
	return false
}

// merge is __nf_ct_resolve_clash: the packet joins the entry that is there, which is charged with it as it was
// counted in its own. ctinfo stays.
func (n *Namespace) merge(w *walk, winner ref) bool {
	e, loser := winner.e, w.ct
	if !n.canMerge(e, loser) {
		return false
	}
	counter := "clash-resolve"
	if !n.cfg.Profile.Clash.hides() {
		counter = "insert-failed"
	}
	n.stats[counter]++
	if d := w.info.dir(); e.acct && loser.acct {
		e.count[d].Packets++
		e.count[d].Bytes += loser.count[d].Bytes
	}
	w.ct = e
	w.say("__nf_ct_resolve_clash", "lost the race: it joins the entry of "+e.orig.Line())
	n.deliverEvents(w, conntrack.Update)
	return true
}

func (n *Namespace) canMerge(e, loser *entry) bool {
	const done = conntrack.SrcNATDone | conntrack.DstNATDone
	same := e.orig == loser.orig && e.reply == loser.reply &&
		e.zone.in(original) == loser.zone.in(original) && e.zone.in(reply) == loser.zone.in(reply)
	switch n.cfg.Profile.Clash {
	case ClashMergesWithoutNAT:
		return e.status&done == 0
	case ClashMergesCrosswise:
		return same || crosswise(e, loser)
	}
	return same || e.status&done == 0
}

// crosswise reports whether two entries are the same flow, each seen from one end (nf_ct_match_reverse).
func crosswise(a, b *entry) bool {
	return a.orig == b.reply && a.reply == b.orig &&
		a.zone.in(original) == b.zone.in(reply) && a.zone.in(reply) == b.zone.in(original)
}

// clashTime is how long an entry lives that stands under its reply tuple only, s.
const clashTime = 1

// hide is nf_ct_resolve_clash_harder: if the reply tuple is free the entry goes into the table under that alone.
// No dump shows it, and packets in original direction do not find it; it is counted, and a read by its reply tuple
// finds it. It makes no NEW event, but an UPDATE if something of it has changed before. Seen on 6.18.
func (n *Namespace) hide(w *walk, winner ref) bool {
	e := w.ct
	if winner.tuple() == e.reply {
		return n.merge(w, winner)
	}
	if r, taken := n.sitting(e, reply, w.at); taken {
		return n.merge(w, r)
	}
	e.status |= conntrack.Confirmed | conntrack.FixedTimeout | conntrack.NATClash
	e.expiry = w.at.Add(n.seconds(clashTime))
	e.whyStatus = "lost a clash (nf_ct_resolve_clash_harder)"
	e.whyTimeout = "1 s for an entry that lost a clash (nf_ct_resolve_clash_harder)"
	n.list(e)
	n.stats["clash-resolve"]++
	w.say("nf_ct_resolve_clash_harder", "lost the race: in the table under its reply tuple only, for a second")
	n.deliverEvents(w, conntrack.Update)
	return true
}
