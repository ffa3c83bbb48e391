package model

import (
	"fmt"

	"ctlab/checks/conntrack"
)

// ctInfo is enum ip_conntrack_info.
type ctInfo int

const (
	established      ctInfo = 0
	related          ctInfo = 1
	isNew            ctInfo = 2
	establishedReply ctInfo = 3
	relatedReply     ctInfo = 4
	untracked        ctInfo = 7
	noInfo           ctInfo = -1 // no entry on the packet: INVALID, or tracking is off
)

// String is the name as `ct state` and reports use it.
func (i ctInfo) String() string {
	switch i {
	case established:
		return "established"
	case related:
		return "related"
	case isNew:
		return "new"
	case establishedReply:
		return "established-reply"
	case relatedReply:
		return "related-reply"
	case untracked:
		return "untracked"
	}
	return "invalid"
}

func (i ctInfo) dir() direction {
	if i >= establishedReply && i != untracked {
		return reply
	}
	return original
}

// seconds turns seconds into ticks.
func (n *Namespace) seconds(s int64) int64 { return s * n.cfg.HZ }

func (n *Namespace) udpTimeout() int64 {
	return n.seconds(n.sysctl("net.netfilter.nf_conntrack_udp_timeout", 30))
}

func (n *Namespace) udpStreamTimeout() int64 {
	return n.seconds(n.sysctl("net.netfilter.nf_conntrack_udp_timeout_stream", int64(n.cfg.Profile.StreamTimeout)))
}

// expired reports whether the entry's time is up at a Span: expiry - now <= 0 (nf_ct_is_expired).
func (n *Namespace) expired(e *entry, at conntrack.Span) bool {
	return n.reached(e.expiry, at, fmt.Sprintf("has %s expired?", e.orig.Line()))
}

// reached reports whether the tick "when" has come at the tick "at"; where the Spans leave it open it is
// a choice.
func (n *Namespace) reached(when, at conntrack.Span, question string) bool {
	off := int64(0)
	switch {
	case when.To <= at.From:
		off = int64(at.From - when.To)
	case when.From > at.To:
		off = int64(at.To - when.From)
	}
	n.noteMargin(Margin{at, question, off})
	return n.hasCome(when, at, question)
}

// hasCome is reached for a question of which nobody wants to know how near it was.
func (n *Namespace) hasCome(when, at conntrack.Span, question string) bool {
	switch {
	case when.To <= at.From:
		return true
	case when.From > at.To:
		return false
	}
	return n.choose(Choice{Kind: ChooseTiming, Subject: question, Options: 2}) == 0
}

// evict takes an entry out of the table and reports its end (nf_ct_delete). Of one that was deleted before nothing
// is left to do, though a packet may still have it.
func (n *Namespace) evict(e *entry, why string) {
	if e.status.Has(conntrack.Dying) {
		return
	}
	n.unlist(e)
	e.status |= conntrack.Dying
	n.destroyEvent(e, why)
}

// conntrackIn is nf_conntrack_in (nf_conntrack_core.c): find or make the entry, run the L4 tracker,
// note a first reply.
func (n *Namespace) conntrackIn(w *walk) {
	if w.p.Bad == "short" && !isICMP(w.p.Proto) && !w.p.HasTuple() || w.p.Bad == "fragment" {
		n.stats["invalid"]++
		w.say("nf_conntrack_in", "invalid: the L4 header cannot be read")
		return
	}
	switch {
	case w.p.Proto == conntrack.ICMP && !w.v6() && !n.icmpIn(w), w.p.Proto == conntrack.ICMPv6 && w.v6() && !n.icmp6In(w):
		return
	}
	if w.v6() && w.p.Proto == noNextHeader {
		n.stats["invalid"]++
		w.say("nf_conntrack_in", "invalid: there is no L4 header")
		return
	}
	if proto := w.p.Proto; proto != conntrack.UDP && !isICMP(proto) && proto != gre && !genericTracked(proto, w.v6()) {
		n.notModelled("protocol %s: %s", conntrack.ProtocolName(w.p.Proto), w.p.Line())
		return
	}
	known := n.resolveNormal(w)
	if w.dropped != "" {
		return
	}
	if !known || !n.handlePacket(w) {
		w.ct, w.info = nil, noInfo
		n.stats["invalid"]++
		return
	}
	if w.info == establishedReply && !w.ct.status.Has(conntrack.SeenReply) {
		w.ct.status |= conntrack.SeenReply
		w.ct.pending |= bitReply
		w.say("nf_conntrack_in", "the first reply: SEEN_REPLY is set")
		w.ct.whyStatus = "seen-reply: a packet came in reply direction (nf_conntrack_in)"
	}
}

// handlePacket is nf_conntrack_handle_packet: the tracker of the packet's protocol; false means INVALID.
func (n *Namespace) handlePacket(w *walk) bool {
	switch {
	case isICMP(w.p.Proto):
		return n.icmpPacket(w)
	case w.p.Proto == gre:
		return n.grePacket(w)
	case w.p.Proto == conntrack.UDP:
		return n.udpPacket(w)
	}
	return n.genericPacket(w)
}

// resolveNormal is resolve_normal_ct: look the tuple up, make an unconfirmed entry if there is none,
// and derive ctinfo; false means that there can be none, as the tuple has no inverse.
func (n *Namespace) resolveNormal(w *walk) bool {
	t := w.p.Tuple()
	before := len(n.entries)
	r, ok := n.lookup(w, t)
	if was := len(n.entries) < before; !ok {
		if _, ok := t.Inverse(); !ok {
			w.say("init_conntrack", "invalid: the tuple has no inverse")
			return false
		}
		if !n.allocate(w, t) {
			return false
		}
		w.info = isNew
		missed := "no entry has this tuple"
		if was {
			missed += ": the one that had it is expired"
		}
		w.say("resolve_normal_ct", missed)
		w.say("init_conntrack", "a new, unconfirmed entry; reply tuple "+w.ct.reply.String())
		return true
	}
	w.ct = r.e
	switch {
	case r.dir == reply:
		w.info = establishedReply
	case r.e.status.Has(conntrack.SeenReply):
		w.info = established
	default:
		w.info = isNew
	}
	w.say("resolve_normal_ct", "hit the entry of "+r.e.orig.Line()+" in "+[]string{"original", "reply"}[r.dir]+" direction: "+w.info.String())
	return true
}

// initConntrack makes an unconfirmed entry (init_conntrack). Its extensions follow the sysctls of now.
func (n *Namespace) initConntrack(t conntrack.Tuple) *entry {
	inv, _ := t.Inverse()
	n.serial++
	return &entry{
		serial: n.serial, orig: t, reply: inv,
		acct:     n.sysctl("net.netfilter.nf_conntrack_acct", 0) != 0,
		events:   n.listening,
		whyReply: "the plain inverse of the original tuple (init_conntrack)",
	}
}

// udpPacket is nf_conntrack_udp_packet (nf_conntrack_proto_udp.c), in the generation that the profile
// names; false means INVALID.
func (n *Namespace) udpPacket(w *walk) bool {
	if n.udpError(w) {
		return false
	}
	e, prof := w.ct, n.cfg.Profile
	if !e.status.Has(conntrack.Confirmed) {
		e.streamAfter = w.at.Add(n.seconds(2))
	}
	if !e.status.Has(conntrack.SeenReply) {
		n.refresh(w, n.udpTimeout(), "udp_timeout: no reply before this packet")
		return true
	}
	stream := prof.Assured == AssuredAtOnce || n.passed(e.streamAfter, w.at, e)
	if stream {
		n.refresh(w, n.udpStreamTimeout(), "udp_timeout_stream: "+answered(prof))
	} else {
		n.refresh(w, n.udpTimeout(), "udp_timeout: answered, not older than 2 s")
	}
	if (stream || prof.Assured != AssuredAfterTwoSeconds) && e.status&(conntrack.Assured|conntrack.NATClash) == 0 {
		e.status |= conntrack.Assured
		e.pending |= bitAssured
		e.whyStatus = "assured: " + assuredReason(prof) + " (nf_conntrack_udp_packet)"
		w.say("nf_conntrack_udp_packet", "ASSURED is set")
	}
	return true
}

func answered(p Profile) string {
	if p.Assured == AssuredAtOnce {
		return "answered"
	}
	return "answered, older than 2 s"
}

func assuredReason(p Profile) string {
	if p.Assured == AssuredAfterTwoSeconds {
		return "a packet came more than 2 s after the first, in a flow that had been answered"
	}
	return "a packet came in a flow that had been answered, profile " + p.Name + " does not wait 2 s"
}

// passed is time_after(now, when): strictly later.
func (n *Namespace) passed(when, at conntrack.Span, e *entry) bool {
	return n.reached(when.Add(1), at, fmt.Sprintf("is %s older than 2 s?", e.orig.Line()))
}

// udpError is udp_error: the length field, and the checksum at PREROUTING.
func (n *Namespace) udpError(w *walk) bool {
	switch w.p.Bad {
	case "":
		return false
	case "checksum":
		if w.local || n.sysctl("net.netfilter.nf_conntrack_checksum", 1) == 0 {
			return false
		}
	}
	w.say("udp_error", "invalid: bad "+w.p.Bad)
	return true
}

// tracker names the function that tracks a protocol.
func tracker(proto uint8) string {
	switch proto {
	case conntrack.ICMP:
		return "nf_conntrack_icmp_packet"
	case conntrack.ICMPv6:
		return "nf_conntrack_icmpv6_packet"
	case conntrack.UDP:
		return "nf_conntrack_udp_packet"
	case gre:
		return "nf_conntrack_gre_packet"
	}
	return "generic_packet"
}

// refresh is __nf_ct_refresh_acct: a new timeout, and the packet is counted.
func (n *Namespace) refresh(w *walk, ticks int64, why string) {
	e, fn := w.ct, tracker(w.p.Proto)
	e.account(w)
	e.touched = w.at
	if e.status.Has(conntrack.FixedTimeout) {
		w.say(fn, "the time left is fixed")
		return
	}
	e.whyTimeout = why + " (" + fn + ", __nf_ct_refresh_acct)"
	if !e.status.Has(conntrack.Confirmed) {
		e.relative = ticks
		w.after = fmt.Sprintf("%ds", ticks/n.cfg.HZ)
		w.say(fn, w.after+" once confirmed; "+why)
		return
	}
	w.before = n.left(e.expiry, w.at)
	w.after = w.before
	next := w.at.Add(ticks)
	if gain := next.From - e.expiry.From; n.cfg.Profile.WholeSeconds && gain >= 0 && int64(gain) < n.cfg.HZ {
		w.say(fn, w.before+" left, less than a second to gain; "+why)
		return
	}
	w.after = n.left(next, w.at)
	w.say(fn, fmt.Sprintf("%s -> %s left; %s", w.before, w.after, why))
	e.expiry = next
}

// account is nf_ct_acct_update.
func (e *entry) account(w *walk) {
	if !e.acct {
		return
	}
	c := &e.count[w.info.dir()]
	c.Packets++
	c.Bytes += uint64(w.p.Len)
}

// left is a remaining time for people, in whole seconds as the kernel prints it.
func (n *Namespace) left(expiry, at conntrack.Span) string {
	return fmt.Sprintf("%ds", max(0, int64(expiry.To-at.From)/n.cfg.HZ))
}

// confirm is nf_confirm: the entry of a packet in original direction goes into the table, and what has changed of
// one that is there is told. It returns false if the packet is dropped.
func (n *Namespace) confirm(w *walk) bool {
	e := w.ct
	if e == nil || w.info == untracked {
		return true
	}
	if e.status.Has(conntrack.Confirmed) {
		n.deliverEvents(w, conntrack.Update)
		return true
	}
	if w.info.dir() != original || w.info == related {
		return true
	}
	return n.insert(w)
}
