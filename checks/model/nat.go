package model

import (
	"fmt"
	"net/netip"

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
	if w.ct == nil || w.info == untracked || !n.rules.hasNAT() {
		return true
	}
	if w.p.IsError() && (w.info == related || w.info == relatedReply) {
		n.icmpReplyTranslation(w, m)
		return true
	}
	if w.info == isNew && !w.ct.status.Has(m.doneBit()) {
		if !n.askRules(w, chain, m) {
			return false
		}
	} else if w.info == isNew || w.info == established {
		if m == dstManip {
			w.say("nf_nat_inet_fn", "the mapping exists: the rules are not asked")
		}
	}
	n.natPacket(w, m)
	return true
}

// askRules walks the nat chain and falls back to a null binding.
func (n *Namespace) askRules(w *walk, chain string, m manip) bool {
	ev := w.evaluation(n)
	ev.nat = func(r natRange) { n.natSetup(w, m, r) }
	w.asked = w.asked || m == dstManip
	if ev.walk(n.rules, "nat", chain) == dropped {
		w.drop("nat "+chain, "a rule drops it")
		return false
	}
	w.mark = ev.mark
	for _, r := range ev.asked {
		w.say("nf_nat_inet_fn", "rule "+r+" gives "+w.ct.reply.String())
	}
	if !w.ct.status.Has(m.doneBit()) {
		if m == dstManip {
			w.say("nf_nat_inet_fn", "no rule matches: null binding")
		}
		n.nullBinding(w, m)
	}
	return true
}

// nullBinding is nf_nat_alloc_null_binding: the half keeps its address, "any port" will do.
func (n *Namespace) nullBinding(w *walk, m manip) {
	cur, _ := w.ct.reply.Inverse()
	addr := cur.Src
	if m == dstManip {
		addr = cur.Dst
	}
	n.natSetup(w, m, natRange{addr: addr})
}

// natSetup is nf_nat_setup_info: pick a tuple and write its inverse as the reply tuple. An entry that is
// confirmed already is left alone, whatever the rules say.
func (n *Namespace) natSetup(w *walk, m manip, r natRange) {
	e := w.ct
	if e.status.Has(conntrack.Confirmed) {
		return
	}
	cur, _ := e.reply.Inverse()
	next := n.uniqueTuple(w, cur, m, r)
	if next != cur {
		e.reply, _ = next.Inverse()
		e.status |= m.bit()
		e.whyReply = fmt.Sprintf("%s to %s by the first packet's rules (nf_nat_setup_info)", [...]string{"source NAT", "DNAT"}[m], next)
	}
	e.status |= m.doneBit()
}

// uniqueTuple is get_unique_tuple for one address and at most one port.
func (n *Namespace) uniqueTuple(w *walk, cur conntrack.Tuple, m manip, r natRange) conntrack.Tuple {
	next := cur
	if m == dstManip {
		next.Dst = r.addr
		if r.hasPort {
			next.DstPort = r.port
		}
		return next // a range of one port is taken without asking whether it is free
	}
	next.Src = r.addr
	if r.hasPort {
		next.SrcPort = r.port
		return next
	}
	if !n.tupleTaken(next, w) {
		return next
	}
	return n.searchPort(w, next)
}

// tupleTaken is nf_conntrack_tuple_taken for the reply that the tuple would have. The entry with our own
// original tuple does not count.
func (n *Namespace) tupleTaken(t conntrack.Tuple, w *walk) bool {
	inv, _ := t.Inverse()
	r, ok := n.find(inv, w.at)
	if !ok || r.e.orig == w.ct.orig {
		return false
	}
	n.stats["found"]++
	return true
}

// searchPort is nf_nat_l4proto_unique_tuple for source NAT: a random start in the port's class. Which
// free port the kernel takes is free.
func (n *Namespace) searchPort(w *walk, t conntrack.Tuple) conntrack.Tuple {
	lo, hi := portClass(t.SrcPort)
	c := Choice{Kind: ChoosePort, Subject: fmt.Sprintf("source port for %s in %d..%d", t, lo, hi), Options: int(hi-lo) + 1, First: int(lo), About: w.p.Line()}
	t.SrcPort = lo + uint16(n.choose(c))
	if inv, _ := t.Inverse(); n.byTuple[inv].e != nil {
		n.notModelled("the port chosen for %s is taken", t)
	}
	return t
}

// portClass is the class in which a source port stays (nf_nat_l4proto_unique_tuple).
func portClass(port uint16) (lo, hi uint16) {
	switch {
	case port < 512:
		return 1, 511
	case port < 1024:
		return 600, 1023
	}
	return 1024, 65535
}

// natPacket is nf_nat_packet: rewrite the packet if this hook does the half that its direction needs.
func (n *Namespace) natPacket(w *walk, m manip) {
	e, dir := w.ct, w.info.dir()
	bit := m.bit()
	if dir == reply {
		bit ^= conntrack.SrcNAT | conntrack.DstNAT
	}
	if !e.status.Has(bit) {
		return
	}
	target := e.target(dir)
	w.own()
	if m == srcManip {
		w.p.Src, w.p.SrcPort = target.Src, target.SrcPort
	} else {
		w.p.Dst, w.p.DstPort = target.Dst, target.DstPort
	}
	w.say("nf_nat_packet", "rewritten to "+w.p.Tuple().String())
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
	var out []conntrack.Tuple
	for prefix, done := []int(nil), false; !done; {
		n := New(Config{HZ: 250})
		n.rules = rs.Clone()
		taken := &script{answers: prefix}
		n.cfg.Chooser = taken.choose
		p := conntrack.Packet{Proto: orig.Proto, Src: orig.Src, Dst: orig.Dst, SrcPort: orig.SrcPort, DstPort: orig.DstPort, Len: 28, TTL: 64}
		w := &walk{p: &p, in: dev, ct: n.initConntrack(orig), info: isNew}
		hook := "PREROUTING"
		if local != nil && local(orig.Src) {
			hook = "OUTPUT"
		}
		n.natHook(w, hook, dstManip)
		out = append(out, w.ct.reply)
		prefix, done = taken.next()
	}
	return out
}

// script answers choices from a list, then with 0, and walks through all lists.
type script struct {
	answers []int
	asked   []int // options of each choice met
}

func (s *script) choose(c Choice) int {
	i := len(s.asked)
	s.asked = append(s.asked, c.Options)
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
