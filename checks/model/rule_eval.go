package model

import (
	"fmt"
	"math"

	"ctlab/checks/conntrack"
)

// evaluation is one packet on its way through the chains of one hook.
type evaluation struct {
	ns      *Namespace
	rule    *rule
	p       *conntrack.Packet
	in, out string
	mark    uint32
	ct      *entry
	info    ctInfo
	asked   []string // NAT rules that matched, for the story
	by      string   // the rule that gave the verdict, "" if it was the policy
	nat     func(target) verdict
	tmpl    *template
	reject  *uint8 // the ICMP code with which a rule rejects the packet
	hotdrop bool   // a match refused to look at the packet, which is dropped
}

func (w *walk) evaluation(n *Namespace) *evaluation {
	return &evaluation{ns: n, p: w.p, in: w.in, out: w.out, mark: w.mark, ct: w.ct, info: w.info, tmpl: w.tmpl}
}

// verdict is what a chain says.
type verdict int

const (
	fallThrough verdict = iota
	accepted
	dropped
)

// walk runs the built-in chain of a table, if it is loaded.
func (e *evaluation) walk(rs *Ruleset, tableName, chainName string) verdict {
	t := rs.tables[tableName]
	if t == nil {
		return accepted
	}
	c := t.chain(chainName)
	if c == nil {
		return accepted
	}
	v := e.run(t, c)
	if v == fallThrough && c.policy == "DROP" {
		return dropped
	}
	if v == fallThrough {
		return accepted
	}
	return v
}

// run walks a chain. Jumps do not go in circles: Restore refuses those.
func (e *evaluation) run(t *table, c *chain) verdict {
	for _, r := range c.rules {
		e.rule = r
		matched := e.matches(r)
		if e.hotdrop {
			e.by = r.name(t)
			return dropped
		}
		if !matched {
			continue
		}
		r.count.Packets++
		r.count.Bytes += uint64(e.p.Len)
		v, leave := e.apply(t, r)
		if v != fallThrough || leave {
			return v
		}
	}
	return fallThrough
}

func (e *evaluation) matches(r *rule) bool {
	for _, m := range r.matches {
		if !m(e) {
			return false
		}
	}
	return true
}

// portsAt reports whether there is something to be looked at. A match of iptables-legacy (udp_mt in
// net/netfilter/xt_tcpudp.c, multiport_mt) drops a packet in which the part of the L4 header that it needs, in bytes, is cut
// short; nftables reads what it compares, and does not match if that is not there.
func (e *evaluation) portsAt(legacy, nft int) bool {
	if e.p.Bad != "short" {
		return true
	}
	have := e.p.Len - headerOf(e.p)
	if !e.ns.cfg.Profile.Legacy {
		return have >= nft
	}
	e.hotdrop = have < legacy
	return !e.hotdrop
}

// apply runs a rule's target; leave ends the chain without a verdict.
func (e *evaluation) apply(t *table, r *rule) (v verdict, leave bool) {
	switch r.target.kind {
	case "ACCEPT":
		e.by = r.name(t)
		return accepted, false
	case "DROP":
		e.by = r.name(t)
		return dropped, false
	case "RETURN":
		return fallThrough, true
	case "jump":
		return e.run(t, t.chain(r.target.chain)), false
	case "goto":
		return e.run(t, t.chain(r.target.chain)), true
	case "MARK":
		e.mark = e.mark&^r.target.mask ^ r.target.mark
	case "CONNMARK":
		e.applyConnmark(r.target.cmark)
	case "CT":
		if e.ct == nil && e.info != untracked && e.tmpl == nil { // the first one decides
			e.tmpl = &r.target.tmpl
		}
	case "REJECT":
		e.by = r.name(t)
		e.reject = &r.target.code
		return dropped, false
	case "DNAT", "SNAT", "MASQUERADE", "REDIRECT":
		if e.nat == nil { // such a target stands in the nat table only
			return fallThrough, false
		}
		e.asked = append(e.asked, r.name(t))
		return e.nat(r.target), false
	}
	return fallThrough, false
}

// decider names what gave the verdict.
func (e *evaluation) decider() string {
	if e.by == "" {
		return "the policy"
	}
	return "rule " + e.by
}

func (r *rule) name(t *table) string {
	if r.comment != "" {
		return r.comment
	}
	return fmt.Sprintf("%s %q", t.name, r.text)
}

// random is statistic --mode random. iptables stores the probability as a multiple of 2^-31; 0 and 1
// are no choice.
func (e *evaluation) random(prob float64, rule string) bool {
	if n := math.Round(prob * (1 << 31)); n == 0 || n == 1<<31 {
		return n != 0
	}
	return e.ns.choose(Choice{Kind: ChooseBackend, Subject: "does " + rule + " match?", Options: 2, About: e.p.Line()}) == 0
}

// hasState is the conntrack match's --ctstate (xt_conntrack.c, conntrack_mt; 6.18).
func (e *evaluation) hasState(s string) bool {
	switch s {
	case "INVALID":
		return e.ct == nil && e.info != untracked
	case "UNTRACKED":
		return e.info == untracked
	}
	if e.ct == nil {
		return false
	}
	switch s {
	case "NEW":
		return e.info == isNew
	case "ESTABLISHED":
		return e.info == established || e.info == establishedReply
	case "RELATED":
		return e.info == related || e.info == relatedReply
	case "SNAT":
		return e.ct.status.Has(conntrack.SrcNAT)
	case "DNAT":
		return e.ct.status.Has(conntrack.DstNAT)
	}
	return false
}
