package model

import (
	"fmt"
	"slices"
	"strings"

	"ctlab/checks/conntrack"
)

// Hold lets the packets wait that a hold names, at its place in POSTROUTING, until Release lets each of them go on.
// It stands beside the holds that are there already. In the kernel it is a rule whose match asks conntrack, so that
// tracking is on while it stands, and whose target is NFQUEUE. The chains for both places are hooked in with the
// first one, and stay.
func (n *Namespace) Hold(h conntrack.Hold) { n.holds = append(n.holds, h) }

// Unhold takes all holds away, the rules without their chains. What waits goes on waiting, unless tracking ends with
// the holds.
func (n *Namespace) Unhold() {
	was, was6 := n.tracking(n.rules), n.tracking(n.rules6)
	n.holds = nil
	if was && !n.tracking(n.rules) || was6 && !n.tracking(n.rules6) {
		n.dropAll()
	}
}

// holdsIn reports whether packets of a family are held: by a hold with addresses of that family, or without any, if the
// namespace speaks it.
func (n *Namespace) holdsIn(six bool) bool {
	for _, h := range n.holds {
		switch {
		case h.Src.IsValid() && h.Src.Is6() == six, h.Dst.IsValid() && h.Dst.Is6() == six:
			return true
		case !h.Src.IsValid() && !h.Dst.IsValid() && n.speaks(six):
			return true
		}
	}
	return false
}

// speaks reports whether a device has an address of a family that is not the link's own.
func (n *Namespace) speaks(six bool) bool {
	for name, l := range n.links {
		for _, p := range l.addrs {
			if a := p.Addr(); name != loopback && a.Is6() == six && !a.IsLinkLocalUnicast() {
				return true
			}
		}
	}
	return false
}

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
	w.at, w.held = at, ""
	w.letGo()
	if !accept {
		w.drop("nf_reinject", "released to be dropped")
		return w.outcome(n)
	}
	w.say("nf_reinject", "goes on")
	if n.postroutingFrom(w, w.next) {
		n.output(w)
	}
	return w.outcome(n)
}

// pause is where a packet may have to wait; false means that it does. nfnetlink_queue drops a packet of an
// unconfirmed entry that another packet, an error about it, refers to as well (nf_ct_drop_unconfirmed).
func (n *Namespace) pause(w *walk, place conntrack.HoldPlace, hook int) bool {
	if w.ct == nil || !slices.ContainsFunc(n.holds, func(h conntrack.Hold) bool {
		return h.Where == place && h.Matches(w.ct.orig, w.info == isNew)
	}) {
		return true
	}
	if !w.ct.status.Has(conntrack.Confirmed) && (w.shared || w.ct.held > 0) {
		w.drop("nf_ct_drop_unconfirmed", "its unconfirmed entry belongs to another packet as well")
		return false
	}
	w.held, w.next = place, hook+1
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

// dropUnhooked drops all packets that wait if a chain is unhooked: the kernel drops then whatever its namespace has
// queued (__nf_unregister_net_hook, nf_queue_nf_hook_drop). A restore of a table by iptables-nft does that with all
// of its base chains, even if they are the same as before; but those of NAT share hooks, which stay as long as there
// is one (nf_nat_unregister_fn). Seen on 6.18.
func (n *Namespace) dropUnhooked(rs, before *Ruleset, text string, noflush bool) {
	gone := before.hasNAT() && !rs.hasNAT() || before.needsConntrack() && !n.tracking(rs)
	for name, t := range before.tables {
		replaced := !noflush && !n.cfg.Profile.Legacy && names(text, name)
		for _, c := range t.chains {
			after := rs.tables[name]
			gone = gone || name != "nat" && c.policy != "" && (replaced || after == nil || after.chain(c.name) == nil)
		}
	}
	if gone {
		n.dropAll()
	}
}

// names reports whether a text for iptables-restore has a table.
func names(text, table string) bool {
	for line := range strings.Lines(text) {
		if strings.TrimSpace(line) == "*"+table {
			return true
		}
	}
	return false
}

func (n *Namespace) dropAll() {
	for _, w := range n.waiting {
		w.letGo()
	}
	n.waiting = nil
}

// postroutingHooks are the hooks of POSTROUTING in their order, less the last one, which confirms. A packet that
// waited goes on behind the place at which its hook stood (nf_reinject takes the number of the next one): if another
// hook has come in before that meanwhile, its own is the next one once more. Seen on 6.18.
func (rs *Ruleset) postroutingHooks() []string {
	hooks := []string{string(conntrack.BeforeSNAT), string(conntrack.BeforeConfirm)}
	if rs.hasNAT() {
		hooks = slices.Insert(hooks, 1, "nat")
	}
	if t := rs.tables["mangle"]; t != nil && t.chain("POSTROUTING") != nil {
		hooks = slices.Insert(hooks, 0, "mangle")
	}
	return hooks
}

// postroutingFrom runs the hooks of POSTROUTING from the one with a number on; false means that the packet does not
// leave now.
func (n *Namespace) postroutingFrom(w *walk, number int) bool {
	for i, h := range n.rulesOf(w).postroutingHooks() {
		if i >= number && !n.postroutingHook(w, h, i) {
			return false
		}
	}
	return n.confirm(w)
}

func (n *Namespace) postroutingHook(w *walk, name string, number int) bool {
	switch name {
	case "mangle":
		return n.table(w, name)
	case "nat":
		return n.natHook(w, w.hook, srcManip)
	}
	return n.pause(w, conntrack.HoldPlace(name), number)
}
