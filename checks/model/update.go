package model

import (
	"errors"

	"ctlab/checks/conntrack"
)

// unchangeable are the status bits that no program can change (IPS_UNCHANGEABLE_MASK).
const unchangeable = conntrack.SrcNATDone | conntrack.DstNATDone | conntrack.SrcNAT | conntrack.DstNAT | conntrack.Expected |
	conntrack.Confirmed | conntrack.Dying | conntrack.SeqAdjust | conntrack.Template | conntrack.NATClash | conntrack.Offload | conntrack.HWOffload

// The errors with which the kernel refuses a change of an entry.
var (
	ErrNoEntry   = errors.New("no such entry (ENOENT)")
	ErrFixed     = errors.New("the time left is fixed (EPERM)")
	ErrKeepsBits = errors.New("status bits cannot change so (EBUSY)")
)

// Update changes an entry as ctnetlink does (ctnetlink_change_conntrack): the one with the original tuple and zone
// of the given one gets its time left and its mark, where they are given, and its status bits besides its own,
// where there are any. One after the other: what stands before a part that is refused has changed. An UPDATE event
// is made at once, if nothing is refused.
func (n *Namespace) Update(at conntrack.Span, ce conntrack.Entry) error {
	n.now = at
	r, ok := n.findIn(zoneOf(&ce), ce.Orig, at)
	if !ok {
		return ErrNoEntry
	}
	e := r.e
	e.touched = at
	if ce.Has(conntrack.HasTimeout) {
		if e.status.Has(conntrack.FixedTimeout) {
			return ErrFixed
		}
		e.expiry = at.Add(n.seconds(int64(ce.Timeout)))
		e.whyTimeout = "as set through ctnetlink"
	}
	if ce.Status != 0 {
		if err := e.changeStatus(ce.Status); err != nil {
			return err
		}
	}
	if ce.Has(conntrack.HasMark) {
		e.mark = ce.Mark
	}
	n.report(e, conntrack.Update, at, bitMark, "changed through ctnetlink")
	return nil
}

// changeStatus is nf_ct_change_status_common: bits can be set, and only some.
func (e *entry) changeStatus(s conntrack.Status) error {
	differ := e.status ^ s
	if differ&(conntrack.Expected|conntrack.Confirmed|conntrack.Dying) != 0 || differ&^s&(conntrack.SeenReply|conntrack.Assured) != 0 {
		return ErrKeepsBits
	}
	e.status |= s &^ unchangeable
	e.whyStatus = "as set through ctnetlink"
	return nil
}
