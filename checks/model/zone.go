package model

import "ctlab/checks/conntrack"

// zone is a conntrack zone (struct nf_conntrack_zone): an id, in both directions or in one. The zero value is the
// default zone.
type zone struct {
	id   uint16
	only zoneOnly
}

// zoneOnly says in which direction a zone's id holds; in the other one it is that of the default zone.
type zoneOnly uint8

const (
	bothDirections zoneOnly = iota
	originalOnly
	replyOnly
)

// in is the zone's id for a direction (nf_ct_zone_id).
func (z zone) in(d direction) uint16 {
	if z.only == originalOnly && d == reply || z.only == replyOnly && d == original {
		return 0
	}
	return z.id
}

// describe writes the zone into an entry as ctnetlink shows it; the default zone is not shown
// (ctnetlink_dump_zone_id).
func (z zone) describe(e *conntrack.Entry) {
	if z.id == 0 {
		return
	}
	switch z.only {
	case originalOnly:
		e.OrigZone, e.Known = z.id, e.Known|conntrack.HasOrigZone
	case replyOnly:
		e.ReplyZone, e.Known = z.id, e.Known|conntrack.HasReplyZone
	default:
		e.Zone, e.Known = z.id, e.Known|conntrack.HasZone
	}
}

// zoneOf is the zone that an entry's attributes give (ctnetlink_parse_zone, ctnetlink_parse_tuple_zone).
func zoneOf(e *conntrack.Entry) zone {
	switch {
	case e.Has(conntrack.HasOrigZone):
		return zone{e.OrigZone, originalOnly}
	case e.Has(conntrack.HasReplyZone):
		return zone{e.ReplyZone, replyOnly}
	}
	return zone{id: e.Zone}
}

// template is what a CT rule puts on a packet before it is tracked (net/netfilter/xt_CT.c).
type template struct {
	notrack  bool
	zone     zone
	fromMark bool // the zone's id is the packet's mark
}

// zoneOf is the zone of a packet with this template (nf_ct_zone_tmpl).
func (t *template) zoneOf(mark uint32) zone {
	z := zone{}
	switch {
	case t == nil:
	case t.fromMark:
		z = zone{uint16(mark), t.zone.only}
	default:
		z = t.zone
	}
	if z.id == 0 { // in whatever direction, that is the default zone
		return zone{}
	}
	return z
}
