package model

import (
	"strconv"

	"ctlab/checks/conntrack"
)

// markMode is what a CONNMARK rule does.
type markMode string

const (
	setMark     markMode = "set"
	saveMark    markMode = "save"
	restoreMark markMode = "restore"
)

// connmark are the options of CONNMARK (struct xt_connmark_tginfo1).
type connmark struct {
	mode           markMode
	mark           uint32
	ctMask, nfMask uint32
}

// applyConnmark is connmark_tg (net/netfilter/xt_connmark.c): the entry's mark is set or saved from the packet's, or
// restored to it. A packet without an entry is left alone. A change makes an event.
func (e *evaluation) applyConnmark(c connmark) {
	if e.tmpl != nil && e.ct == nil { // the rule would see the mark of the CT rule's template
		e.ns.notModelled("CONNMARK between a CT rule and the tracker: %s", e.rule.text)
		return
	}
	if e.ct == nil {
		return
	}
	next := e.ct.mark
	switch c.mode {
	case setMark:
		next = next&^c.ctMask ^ c.mark
	case saveMark:
		next = next&^c.ctMask ^ e.mark&c.nfMask
	case restoreMark:
		e.mark = e.mark&^c.nfMask ^ next&c.ctMask
		return
	}
	if next == e.ct.mark {
		return
	}
	e.ct.mark = next
	if e.ct.events {
		e.ct.pending |= bitMark
	}
}

// connmarkOptions reads the options of CONNMARK.
func (p *ruleParser) connmarkOptions() (c connmark) {
	const all = 0xffffffff
	c.ctMask, c.nfMask = all, all
	switch opt := p.next(); opt {
	case "--save-mark":
		c.mode = saveMark
		p.connmarkMasks(&c)
	case "--restore-mark":
		c.mode = restoreMark
		p.connmarkMasks(&c)
	default:
		c.mode = setMark
		c.mark, c.ctMask = p.markChange(opt, "CONNMARK")
	}
	return c
}

// connmarkMasks reads the masks behind --save-mark and --restore-mark.
func (p *ruleParser) connmarkMasks(c *connmark) {
	for p.more() {
		opt := p.next()
		m, err := strconv.ParseUint(p.next(), 0, 32)
		if err != nil {
			p.fail("%s wants a mask", opt)
		}
		switch opt {
		case "--mask":
			c.ctMask, c.nfMask = uint32(m), uint32(m)
		case "--ctmask":
			c.ctMask = uint32(m)
		case "--nfmask":
			c.nfMask = uint32(m)
		default:
			p.fail("option %q of CONNMARK is not known to the model", opt)
		}
	}
}

// markMatch reads the --mark of whichever of the matches mark and connmark was named last. A packet without an entry
// matches no connmark, negated or not (connmark_mt).
func (p *ruleParser) markMatch() {
	v, m := p.maskedNumber(p.next())
	if p.marks != "connmark" {
		p.add(func(e *evaluation) bool { return e.mark&m == v }, "--mark", [2]uint32{v, m})
		return
	}
	neg := p.neg // add turns the answer round, which is not to happen to a packet without an entry
	p.add(func(e *evaluation) bool { return e.ct == nil && neg || e.ct != nil && e.ct.mark&m == v }, "connmark --mark", [2]uint32{v, m})
}

// ctOptions reads the options of CT.
func (p *ruleParser) ctOptions() (t template) {
	const zoned = "a rule has one zone"
	given := false
	for p.more() {
		opt := p.next()
		if opt == "--notrack" {
			t.notrack = true
			continue
		}
		only, ok := map[string]zoneOnly{"--zone": bothDirections, "--zone-orig": originalOnly, "--zone-reply": replyOnly}[opt]
		if !ok {
			p.fail("option %q of CT is not known to the model", opt)
			return t
		}
		if given {
			p.fail(zoned)
		}
		given, t.zone.only = true, only
		w := p.next()
		if t.fromMark = w == "mark"; t.fromMark {
			continue
		}
		id, err := strconv.ParseUint(w, 0, 16)
		if err != nil {
			p.fail("%s wants mark, or a number from 0 to 65535", opt)
		}
		t.zone.id = uint16(id)
	}
	if t.notrack && given {
		p.fail("--notrack has no zone")
	}
	return t
}

// showsMark reports whether an event shows the entry's mark: one that is not zero, or that has changed
// (ctnetlink_dump_mark).
func (e *entry) showsMark(changed eventBits) conntrack.Fields {
	if e.mark != 0 || changed&bitMark != 0 {
		return conntrack.HasMark
	}
	return 0
}
