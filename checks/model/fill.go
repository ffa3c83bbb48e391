package model

import "ctlab/checks/conntrack"

// filler is many entries that differ in nothing that matters: they are ASSURED, no packet is of them, nobody listened when
// they were made, and the table holds them until it is flushed or their time is up. Only their number is kept.
type filler struct {
	count  int
	expiry conntrack.Span
}

// Fill makes many such entries as ctnetlink does (ctnetlink_create_conntrack), of a timeout in seconds. The caller makes
// no more than there is room for.
func (n *Namespace) Fill(at conntrack.Span, count int, timeout int64) {
	n.now = at
	n.filler = filler{count: n.filler.count + count, expiry: at.Add(n.seconds(timeout))}
	n.stats["insert"] += uint32(count)
}

// filled are the entries of Fill that count.
func (n *Namespace) filled(at conntrack.Span) int {
	if n.filler.count > 0 && n.filler.expiry.From <= at.To {
		n.notModelled("entries that fill the table expire")
	}
	return n.filler.count
}
