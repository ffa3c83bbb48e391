package model

import (
	"fmt"
	"net/netip"
	"slices"

	"ctlab/checks/conntrack"
)

// manip is the half of NAT that a hook does (enum nf_nat_manip_type).
type manip int

const (
	srcManip manip = iota // POSTROUTING, INPUT
	dstManip              // PREROUTING, OUTPUT
)

func (m manip) bit() conntrack.Status {
	if m == srcManip {
		return conntrack.SrcNAT
	}
	return conntrack.DstNAT
}

func (m manip) doneBit() conntrack.Status {
	if m == srcManip {
		return conntrack.SrcNATDone
	}
	return conntrack.DstNATDone
}

// natHook is nf_nat_inet_fn (nf_nat_core.c): the rules are asked while this half is not set up and the
// packet is NEW; otherwise the stored mapping is applied. false means that the packet is dropped.
func (n *Namespace) natHook(w *walk, chain string, m manip) bool {
	if w.ct == nil || w.info == untracked || !n.rulesOf(w).hasNAT() {
		return true
	}
	if w.p.IsError() && (w.info == related || w.info == relatedReply) {
		return n.icmpReplyTranslation(w, m)
	}
	if w.info == isNew && !w.ct.status.Has(m.doneBit()) {
		if !n.askRules(w, chain, m) {
			return false
		}
	} else {
		if m == dstManip && w.info.dir() == original && w.in != loopback {
			w.say("nf_nat_inet_fn", "the mapping exists: the rules are not asked")
		}
		if n.oifChanged(w) {
			return false
		}
	}
	return n.natPacket(w, m)
}

// askRules walks the nat chain and falls back to a null binding.
func (n *Namespace) askRules(w *walk, chain string, m manip) bool {
	ev := w.evaluation(n)
	ev.nat = func(t target) verdict { return n.natTarget(w, m, t) }
	w.asked = w.asked || m == dstManip
	at := len(w.steps)
	if ev.walk(n.rulesOf(w), "nat", chain) == dropped {
		w.drop("nat "+chain, "a rule drops it")
		return false
	}
	w.mark = ev.mark
	for _, r := range ev.asked { // told before what its target did
		w.steps = slices.Insert(w.steps, at, Step{w.hook, "nf_nat_inet_fn", "rule " + r + " gives " + w.ct.reply.String()})
	}
	if !w.ct.status.Has(m.doneBit()) {
		w.say("nf_nat_alloc_null_binding", "no rule gives a mapping: the "+[...]string{"source", "destination"}[m]+" stays")
		n.nullBinding(w, m)
	}
	return true
}

// natTarget runs DNAT, SNAT, REDIRECT or MASQUERADE.
func (n *Namespace) natTarget(w *walk, m manip, t target) verdict {
	r := t.nat
	switch t.kind {
	case "MASQUERADE": // nf_nat_masquerade_ipv4
		if w.p.Src.IsUnspecified() && !w.v6() {
			return accepted
		}
		a := n.masqueradeTo(w)
		if !a.IsValid() {
			return dropped
		}
		r.from, r.to = a, a
		if l := n.links[w.out]; l != nil && !w.ct.status.Has(conntrack.Confirmed) {
			w.ct.masqueraded = l.index
		}
		w.say("nf_nat_masquerade_ipv4", "takes "+a.String()+", the source address towards the next hop")
	case "REDIRECT": // nf_nat_redirect_ipv4
		a, ok := n.redirectTo(w)
		if !ok {
			return dropped
		}
		r.from, r.to = a, a
	}
	n.natSetup(w, m, r)
	return accepted
}

// masqueradeTo is the address that MASQUERADE gives; none where there is none (nf_nat_masquerade_ipv4,
// nf_nat_masquerade_ipv6).
func (n *Namespace) masqueradeTo(w *walk) netip.Addr {
	if w.v6() {
		return n.source6(w.out, w.p.Dst)
	}
	return n.selectAddr(w.out, w.hop)
}

// redirectTo is the address that REDIRECT gives: the first of the device on which the packet came, or lo's for what
// the namespace itself sends (nf_nat_redirect_ipv4, nf_nat_redirect_ipv6).
func (n *Namespace) redirectTo(w *walk) (a netip.Addr, ok bool) {
	switch {
	case w.hook != "PREROUTING" && w.v6():
		return netip.IPv6Loopback(), true
	case w.hook != "PREROUTING":
		return netip.AddrFrom4([4]byte{127, 0, 0, 1}), true
	case w.v6():
		return n.redirectTo6(w)
	}
	if l := n.links[w.in]; l != nil {
		for _, p := range l.addrs {
			if p.Addr().Is4() {
				return p.Addr(), true
			}
		}
	}
	return a, false
}

// nullBinding is nf_nat_alloc_null_binding: the half keeps its address, "any port" will do.
func (n *Namespace) nullBinding(w *walk, m manip) {
	cur, _ := w.ct.reply.Inverse()
	addr := cur.Src
	if m == dstManip {
		addr = cur.Dst
	}
	n.natSetup(w, m, natRange{from: addr, to: addr})
}

// natSetup is nf_nat_setup_info: pick a tuple and write its inverse as the reply tuple. An entry that is
// confirmed already is left alone, whatever the rules say.
func (n *Namespace) natSetup(w *walk, m manip, r natRange) {
	e := w.ct
	if e.status.Has(conntrack.Confirmed) {
		return
	}
	n.lastRange = r
	cur, _ := e.reply.Inverse()
	next := n.uniqueTuple(w, cur, m, r)
	if next != cur {
		e.reply, _ = next.Inverse()
		e.status |= m.bit()
		e.whyReply = fmt.Sprintf("%s to %s by the first packet's rules (nf_nat_setup_info)", [...]string{"source NAT", "DNAT"}[m], next)
	}
	e.status |= m.doneBit()
	if m == srcManip && e.bySource == 0 {
		n.sourced++
		e.bySource = n.sourced
	}
}

// oifChanged is nf_nat_oif_changed: a masqueraded entry whose packets now leave by another device is
// deleted, and the packet dropped. nf_ct_kill_acct counts the packet a second time.
func (n *Namespace) oifChanged(w *walk) bool {
	e := w.ct
	l := n.links[w.out]
	if e.masqueraded == 0 || w.hook != "POSTROUTING" || w.info.dir() != original || l != nil && l.index == e.masqueraded {
		return false
	}
	e.account(w)
	e.touched = w.at
	n.evict(e, "deleted: masqueraded for another device (nf_nat_oif_changed)")
	w.drop("nf_nat_oif_changed", "the entry was masqueraded for another device: it is deleted")
	return true
}

// natPacket is nf_nat_packet: rewrite the packet if this hook does the half that its direction needs.
// false means that it is dropped.
func (n *Namespace) natPacket(w *walk, m manip) bool {
	e, dir := w.ct, w.info.dir()
	bit := m.bit()
	if dir == reply {
		bit ^= conntrack.SrcNAT | conntrack.DstNAT
	}
	if !e.status.Has(bit) {
		return true
	}
	if needsHeader(w.p) && w.p.Len < headerOf(w.p)+l4ToRewrite {
		w.drop("nf_nat_packet", "there is no header to write to")
		return false
	}
	w.own()
	rewrite(w.p, e.target(dir), m)
	w.say("nf_nat_packet", "rewritten to "+w.p.Tuple().String())
	return true
}

// target is the tuple that packets of a direction have after NAT: the inverse of the other direction's.
func (e *entry) target(dir direction) conntrack.Tuple {
	other := e.reply
	if dir == reply {
		other = e.orig
	}
	t, _ := other.Inverse()
	return t
}

// Bindings are the reply tuples that the present rules could give to a first packet with the original
// tuple, arriving on dev, in all of their allowed choices. An entry whose reply tuple is none of them is
// stale.
func (rs *Ruleset) Bindings(orig conntrack.Tuple, dev string, local func(netip.Addr) bool) []conntrack.Tuple {
	if local != nil && local(orig.Src) {
		dev = ""
	}
	var out []conntrack.Tuple
	rs.ask(orig, dev, local, func(reply conntrack.Tuple, _ natRange) { out = append(out, reply) })
	return out
}

// maxTargets bounds how many ports of a range Targets lists.
const maxTargets = 256

// Targets are the destinations that the present rules could give to a first packet with the original tuple,
// arriving on dev ("" if the namespace itself sends it), in all of their allowed choices; where no rule
// matches, the tuple's own destination. An entry whose reply source is none of them is stale.
func (rs *Ruleset) Targets(orig conntrack.Tuple, dev string, local func(netip.Addr) bool) []netip.AddrPort {
	var out []netip.AddrPort
	add := func(a netip.AddrPort) {
		if !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	rs.ask(orig, dev, local, func(reply conntrack.Tuple, r natRange) {
		add(netip.AddrPortFrom(reply.Src, reply.SrcPort))
		for i := range min(r.size(), maxTargets) {
			add(netip.AddrPortFrom(reply.Src, r.lo+uint16(i)))
		}
	})
	return out
}

// ask puts a first packet to the destination rules, once for each way of answering the choices, and tells
// what the entry's reply tuple became, and the range that gave it.
func (rs *Ruleset) ask(orig conntrack.Tuple, dev string, local func(netip.Addr) bool, tell func(reply conntrack.Tuple, r natRange)) {
	for prefix, done := []int(nil), false; !done; {
		n := New(Config{HZ: 250})
		n.rules, n.rules6, n.localTo, n.anyTurn = rs.Clone(), rs.Clone(), local, true
		taken := &script{answers: prefix}
		n.cfg.Chooser = taken.choose
		p := conntrack.Packet{Proto: orig.Proto, Src: orig.Src, Dst: orig.Dst, SrcPort: orig.SrcPort, DstPort: orig.DstPort, Len: 48, TTL: 64}
		w := &walk{p: &p, in: dev, ct: n.initConntrack(orig), info: isNew, hook: "PREROUTING", local: dev == ""}
		if w.local {
			w.hook = "OUTPUT"
		}
		if n.natHook(w, w.hook, dstManip) {
			tell(w.ct.reply, n.lastRange)
		}
		prefix, done = taken.next()
	}
}

// script answers choices from a list, then with 0, and walks through all lists.
type script struct {
	answers []int
	asked   []int // options of each choice met
}

func (s *script) choose(c Choice) int {
	i := len(s.asked)
	options := c.Options
	if c.Kind == ChoosePort {
		options = 1 // the range says which ports there are
	}
	s.asked = append(s.asked, options)
	if i < len(s.answers) {
		return s.answers[i]
	}
	s.answers = append(s.answers, 0)
	return 0
}

// next is the list of answers after this one in counting order; done is true after the last.
func (s *script) next() (answers []int, done bool) {
	a := append([]int(nil), s.answers[:len(s.asked)]...)
	for i := len(a) - 1; i >= 0; i-- {
		if a[i]+1 < s.asked[i] {
			a[i]++
			return a[:i+1], false
		}
	}
	return nil, true
}
