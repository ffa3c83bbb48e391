package model

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"ctlab/checks/conntrack"
)

// fragKey tells to which packet a fragment belongs (struct frag_v4_compare_key).
type fragKey struct {
	src, dst netip.Addr
	proto    uint8
	id       uint16
	dev      string
}

// fragQueue are the fragments of a packet that is not complete (struct ipq). Data stands in it by its place in the
// packet, from and to in bytes.
type fragQueue struct {
	parts    []part
	length   int  // of the data, as far as it is known
	last     bool // the end of the packet is there
	size, df int  // the longest fragment, and the longest that must not be fragmented, with their headers
	seen     int  // of the source's fragments, at this queue's newest
	expires  conntrack.Span
	slack    int64 // how many ticks later the timer may run
	runs     []run // parts that came in order count as one
}

type run struct{ from, to int }

// part is a fragment's data. Of the first one the packet gets its header.
type part struct {
	from, to int
	packet   conntrack.Packet
}

// defragment is ip_defrag of nf_defrag_ipv4, in front of the raw table: a fragment is kept until its packet is whole,
// which goes on in its place. It reports whether there is a packet.
func (n *Namespace) defragment(w *walk) bool {
	if !w.p.IsFragment() || w.ct != nil || w.info == untracked {
		return true
	}
	if w.v6() || !n.trackingOf(w) {
		n.notModelled("a fragment where nothing puts it together, or of IPv6: %s", w.p.Line())
		return false
	}
	w.stolen = true
	k := fragKey{w.p.Src, w.p.Dst, w.p.Proto, w.p.ID, w.in}
	if q := n.frags[k]; q != nil && n.fragmentsDead(q, w.at) {
		n.expireFragments(w, k)
	}
	q := n.frags[k]
	if q == nil {
		q = n.newFragQueue(w.at)
		n.frags[k] = q
	}
	n.notTooFar(q, w)
	if why := q.insert(w.p); why != "" {
		w.drop("ip_frag_queue", why)
		if why != duplicate {
			delete(n.frags, k)
		}
		return false
	}
	if !q.whole() {
		w.say("ip_frag_queue", fmt.Sprintf("waits for the rest: %d parts are there", len(q.parts)))
		return false
	}
	delete(n.frags, k)
	whole := q.packet()
	if whole.Len > 65535 {
		w.drop("ip_frag_reasm", "longer than a packet can be")
		return false
	}
	w.p, w.owned, w.stolen = whole, true, false
	w.pieces, w.largest = q.pieces(), q.size
	w.say("ip_frag_reasm", fmt.Sprintf("whole, of %d parts", len(q.parts)))
	return true
}

func (n *Namespace) newFragQueue(at conntrack.Span) *fragQueue {
	ticks := n.seconds(n.given("net.ipv4.ipfrag_time", 30))
	return &fragQueue{expires: at.Add(ticks), slack: timerSlack(ticks)}
}

// timerSlack is how much later than asked a timer may run, in ticks: the further away, the coarser it is kept
// (calc_wheel_index in kernel/time/timer.c). It never runs in the tick asked for. The wheel may be a little behind
// the time, and so find it further away than it is.
func timerSlack(ticks int64) int64 {
	const behind = 16
	slack := int64(1)
	ticks += behind
	for start := int64(63); ticks >= start && slack < 1<<24; start *= 8 {
		slack *= 8
	}
	return slack
}

// fragmentsDead reports whether a queue's timer has run.
func (n *Namespace) fragmentsDead(q *fragQueue, at conntrack.Span) bool {
	return n.hasCome(conntrack.Span{From: q.expires.From + 1, To: q.expires.To + conntrack.Tick(q.slack) + 1}, at, "has the time of fragments run out?")
}

// notTooFar is ip_frag_too_far: where more than ipfrag_max_dist other fragments of the same source came since the queue's
// newest, the queue begins anew.
func (n *Namespace) notTooFar(q *fragQueue, w *walk) {
	most := int(n.given("net.ipv4.ipfrag_max_dist", 64))
	if most == 0 {
		return
	}
	n.fragsOf[w.p.Src]++
	before := q.seen
	q.seen = n.fragsOf[w.p.Src]
	if len(q.parts) > 0 && q.seen-before > most {
		fresh := n.newFragQueue(w.at)
		fresh.seen = q.seen
		*q = *fresh
		w.say("ip_frag_reinit", "too many others came in between: what was there is forgotten")
	}
}

// duplicate is what is said of a fragment that is there already.
const duplicate = "it is there already"

// insert is ip_frag_queue and inet_frag_queue_insert; it says what is wrong with a fragment. What is wrong and no
// duplicate is the end of the whole queue.
func (q *fragQueue) insert(p *conntrack.Packet) (wrong string) {
	from, to := p.Offset, p.Offset+p.Len-headerOf(p)
	switch {
	case !p.More && (to < q.length || q.last && to != q.length):
		return "there is data behind its end"
	case !p.More:
		q.last, q.length = true, to
	default:
		to &^= 7
		if to > q.length && q.last {
			return "it goes beyond the end"
		}
		q.length = max(q.length, to)
	}
	if to == from {
		return "it is empty"
	}
	if wrong := q.place(run{from, to}); wrong != "" {
		return wrong
	}
	q.parts = append(q.parts, part{from, to, *p})
	size := to - from + headerOf(p)
	q.size = max(q.size, size)
	if p.DF {
		q.df = max(q.df, size)
	}
	return ""
}

// place finds a place for data among what is there: no two may overlap. Data that came in order is one run, within
// which it may be repeated.
func (q *fragQueue) place(r run) (wrong string) {
	last := len(q.runs) - 1
	switch {
	case last < 0:
		q.runs = append(q.runs, r)
	case q.runs[last].to < r.to && r.from < q.runs[last].to:
		return "it overlaps"
	case q.runs[last].to < r.to && r.from == q.runs[last].to:
		q.runs[last].to = r.to
	case q.runs[last].to < r.to:
		q.runs = append(q.runs, r)
	default:
		return q.placeBefore(r)
	}
	return ""
}

// placeBefore finds a place that is not behind all the others.
func (q *fragQueue) placeBefore(r run) (wrong string) {
	for _, o := range q.runs {
		switch {
		case r.to <= o.from || r.from >= o.to:
		case r.from >= o.from && r.to <= o.to:
			return duplicate
		default:
			return "it overlaps"
		}
	}
	q.runs = append(q.runs, r)
	slices.SortFunc(q.runs, func(a, b run) int { return a.from - b.from })
	return ""
}

func (q *fragQueue) whole() bool {
	sum := 0
	for _, p := range q.parts {
		sum += p.to - p.from
	}
	return q.last && q.first() != nil && sum == q.length
}

// first is the part where the packet begins.
func (q *fragQueue) first() *part {
	for i := range q.parts {
		if q.parts[i].from == 0 {
			return &q.parts[i]
		}
	}
	return nil
}

// packet is the whole packet: the first part's header, and DF if the longest part had it (ip_frag_reasm).
func (q *fragQueue) packet() *conntrack.Packet {
	p := q.first().packet
	p.Len, p.More, p.DF = headerOf(&p)+q.length, false, q.df == q.size
	for _, part := range q.parts {
		p.Bad = cmp.Or(p.Bad, part.packet.Bad)
	}
	return &p
}

// pieces are the lengths of the parts' data in their order.
func (q *fragQueue) pieces() (out []int) {
	parts := slices.SortedFunc(slices.Values(q.parts), func(a, b part) int { return a.from - b.from })
	for _, p := range parts {
		out = append(out, p.to-p.from)
	}
	return out
}

// Elapse says that a time has come: what timers did until then happens. These are the queues of fragments that nobody
// completed: about one that begins a packet for the namespace itself the sender is told (ip_expire). While a timer may
// or may not have run, that is a choice, which is put off until somebody asks for the fragment that begins the packet.
func (n *Namespace) Elapse(at conntrack.Span, asks func(first *conntrack.Packet) bool) []Left {
	w := &walk{at: at}
	for _, k := range n.fragKeys() {
		q := n.frags[k]
		first := q.first()
		if q.due(at) || first != nil && asks(&first.packet) && n.fragmentsDead(q, at) {
			n.expireFragments(w, k)
		}
	}
	return w.lefts
}

// Due reports whether there is a timer that must have run by a Span, and of which Elapse was not told.
func (n *Namespace) Due(at conntrack.Span) bool {
	for _, q := range n.frags {
		if q.due(at) {
			return true
		}
	}
	return false
}

// due reports whether the queue's timer must have run.
func (q *fragQueue) due(at conntrack.Span) bool {
	return at.From > q.expires.To+conntrack.Tick(q.slack)
}

// GivenUp says that the namespace was seen to tell the sender of a fragment that the rest did not come: the queue's time ran
// out before that, at a moment that only this shows. What is known of the flow then decides what the error is to
// connection tracking.
func (n *Namespace) GivenUp(at conntrack.Span, about *conntrack.Packet) []Left {
	w := &walk{at: at}
	for _, k := range n.fragKeys() {
		if k.src == about.Src && k.dst == about.Dst && k.proto == about.Proto && k.id == about.ID && n.frags[k].expires.From <= at.To {
			n.expireFragments(w, k)
		}
	}
	return w.lefts
}

// expiring is how many queues may have told a sender already that their time has run out. What they tell belongs to no
// entry, and counts as error.
func (n *Namespace) expiring() (most uint32) {
	for k, q := range n.frags {
		if q.expires.From <= n.now.To && q.first() != nil && n.isLocal(k.dst) {
			most++
		}
	}
	return most
}

// fragKeys are the keys of the queues, in the order in which their time runs out.
func (n *Namespace) fragKeys() []fragKey {
	return slices.SortedFunc(maps.Keys(n.frags), func(a, b fragKey) int {
		return cmp.Or(cmp.Compare(n.frags[a].expires.From, n.frags[b].expires.From), a.src.Compare(b.src), a.dst.Compare(b.dst),
			cmp.Compare(a.proto, b.proto), cmp.Compare(a.id, b.id), cmp.Compare(a.dev, b.dev))
	})
}

// expireFragments is ip_expire. Where a packet for somebody else is put together only because it is tracked, its sender
// is not told.
func (n *Namespace) expireFragments(w *walk, k fragKey) {
	q := n.frags[k]
	delete(n.frags, k)
	first := q.first()
	if first == nil || !n.isLocal(k.dst) || n.links[k.dev] == nil {
		return
	}
	p := first.packet
	about := &walk{at: conntrack.Span{From: q.expires.From + 1, To: q.expires.To + conntrack.Tick(q.slack)}, p: &p, owned: true, info: noInfo, in: k.dev}
	if n.martian(about) != "" { // the route is asked for anew
		return
	}
	n.tell(about, fragmentsMissing)
	for _, l := range about.lefts {
		l.Late, l.Since, l.Why = true, about.at.From, "the time of fragments ran out"
		w.lefts = append(w.lefts, l)
	}
}

// SetMTU says how long a packet a device takes, bytes.
func (n *Namespace) SetMTU(dev string, mtu int) { n.link(dev).mtu = mtu }

// learnMTU is what an error that was delivered to the namespace itself does to what it sends later, which is not
// modelled where it would matter (ipv4_update_pmtu, ip6_update_pmtu).
func (n *Namespace) learnMTU(p *conntrack.Packet) {
	if p.MTU > 0 || p.ICMPType == 3 && p.ICMPCode == 4 && p.Proto == conntrack.ICMP {
		told := max(p.MTU, 552) // ip_rt_min_pmtu
		n.pathMTU = min(cmp.Or(n.pathMTU, told), told)
	}
}

// mtu of a device; what was not told is that of Ethernet, or of lo.
func (n *Namespace) mtu(dev string) int {
	if l := n.links[dev]; l != nil && l.mtu > 0 {
		return l.mtu
	}
	if dev == loopback {
		return 65536
	}
	return 1500
}

// tooBig is the check of ip_forward and ip6_forward: whether the packet is dropped, and its sender told, because it may
// not be fragmented.
func (n *Namespace) tooBig(w *walk) bool {
	mtu := n.mtu(w.out)
	if w.v6() {
		if w.p.Len <= max(mtu, 1280) {
			return false
		}
		w.drop("ip6_forward", fmt.Sprintf("longer than the %d bytes that %s takes", mtu, w.out))
		n.ownError6(w, tooBig6, 0, max(mtu, 1280))
		return true
	}
	if w.p.Len <= mtu || !w.p.DF || w.pieces != nil && w.largest <= mtu {
		return false
	}
	w.drop("ip_forward", fmt.Sprintf("longer than the %d bytes that %s takes, and not to be fragmented", mtu, w.out))
	n.fragmentationNeeded(w, mtu)
	return true
}

// fragments is ip_fragment (net/ipv4/ip_output.c): what goes out of a packet. One that was put together leaves in the
// parts in which it came, if all of them fit.
func (n *Namespace) fragments(w *walk) []conntrack.Packet {
	mtu, p := n.mtu(w.out), *w.p
	if w.local && n.pathMTU > 0 && p.Len > n.pathMTU && w.out != loopback {
		n.notModelled("a packet of the namespace's own, after a path was said to take less: %s", p.Line())
	}
	if w.p.Len <= mtu && w.pieces == nil || w.out == loopback {
		return []conntrack.Packet{p}
	}
	if w.v6() {
		n.notModelled("an IPv6 packet of the namespace's own is longer than the %d bytes that %s takes: %s", mtu, w.out, p.Line())
		return nil
	}
	if p.DF && w.pieces == nil { // only its own can come here
		n.notModelled("a packet of the namespace's own is longer than the %d bytes that %s takes, and not to be fragmented: %s", mtu, w.out, p.Line())
		return nil
	}
	header, sizes := headerOf(&p), w.pieces
	if sizes == nil || w.largest > mtu {
		sizes = split(p.Len-header, (mtu-header)&^7, mtu-header)
	}
	var out []conntrack.Packet
	at := 0
	for i, size := range sizes {
		f := p
		f.Offset, f.More, f.Len, f.DF = at, i < len(sizes)-1, header+size, false
		if i > 0 { // only the first has the L4 header
			f.SrcPort, f.DstPort, f.ICMPType, f.ICMPCode, f.ICMPID, f.MTU, f.About = 0, 0, 0, 0, 0, 0, nil
			f.Bad = ""
		}
		out = append(out, f)
		at += size
	}
	w.say("ip_do_fragment", fmt.Sprintf("leaves in %d parts", len(out)))
	return out
}

// split cuts a length into parts; only the last may be longer than a part before.
func split(length, size, most int) (out []int) {
	for length > most {
		out = append(out, size)
		length -= size
	}
	return append(out, length)
}
