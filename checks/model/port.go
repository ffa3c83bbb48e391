package model

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"

	"ctlab/checks/conntrack"
)

// natRange is the range of a NAT target (struct nf_nat_range2): addresses, and ports if hasPort.
type natRange struct {
	from, to   netip.Addr // not valid: the address stays
	lo, hi     uint16
	hasPort    bool
	random     bool // --random or --random-fully (NF_NAT_RANGE_PROTO_RANDOM_ALL)
	persistent bool
}

// size is the number of ports, 0 where none are given.
func (r natRange) size() int {
	if !r.hasPort {
		return 0
	}
	return int(r.hi-r.lo) + 1
}

func (r natRange) holdsAddr(a netip.Addr) bool {
	return !r.from.IsValid() || r.from.Compare(a) <= 0 && a.Compare(r.to) <= 0
}

func (r natRange) holdsPort(p uint16) bool { return !r.hasPort || r.lo <= p && p <= r.hi }

// uniqueTuple is get_unique_tuple (nf_nat_core.c): keep what is right and free, else what another flow of
// the same source has, else the range's address and a port that is kept or searched.
func (n *Namespace) uniqueTuple(w *walk, cur conntrack.Tuple, m manip, r natRange) conntrack.Tuple {
	if !conntrack.HasPorts(cur.Proto) && !isICMP(cur.Proto) {
		r.hasPort = false // l4proto_in_range: any port will do
	}
	if m == srcManip && !r.random {
		if r.holdsAddr(cur.Src) && r.holdsPort(cur.SrcPort) { // nf_in_range
			if !n.tupleTakenNew(cur, w) {
				return cur
			}
		} else if t, ok := n.appropriateSource(w.ct, cur, r, w.at); ok && !n.tupleTaken(t, w) {
			w.say("find_appropriate_src", "another flow of this source has "+t.String())
			return t
		}
	}
	next := bestAddress(cur, m, r, w.ct.zone.id)
	if !r.random {
		if r.hasPort {
			if r.holdsPort(portOf(next, m)) && (r.lo == r.hi || !n.tupleTaken(next, w)) {
				return next // a range of one port is taken without asking whether it is free
			}
		} else if !n.tupleTaken(next, w) {
			return next
		}
	}
	return n.searchPort(w, next, m, r)
}

// appropriateSource is find_appropriate_src: what the newest entry with the same source address and port
// was mapped to, if the range allows it. Whether that is still free is another question. An entry that was
// deleted is in the by-source list for as long as a packet that waits for its neighbour holds it; one whose time is up,
// until it is collected, which may have happened at any moment.
func (n *Namespace) appropriateSource(own *entry, cur conntrack.Tuple, r natRange, at conntrack.Span) (conntrack.Tuple, bool) {
	for {
		e := n.newestFrom(own, cur, r)
		if e == nil {
			return cur, false
		}
		if !e.status.Has(conntrack.Dying) && e.expiry.From <= at.To && n.choose(Choice{Kind: ChooseTiming, Options: 2,
			Subject: "is " + e.orig.Line() + ", whose time is up, still in the by-source list?"}) != 0 {
			n.evict(e, "expired, collected")
			continue
		}
		mapped, _ := e.reply.Inverse()
		cur.Src, cur.SrcPort = mapped.Src, mapped.SrcPort
		return cur, true
	}
}

// newestFrom is the newest entry in the by-source list, of the same zone and with the tuple's source, whose mapping is
// in the range.
func (n *Namespace) newestFrom(own *entry, t conntrack.Tuple, r natRange) (newest *entry) {
	for _, e := range slices.Concat(n.entries, n.heldOutside()) {
		if e.bySource == 0 || newest != nil && e.bySource <= newest.bySource || e.zone.in(original) != own.zone.in(original) || e.orig.Proto != t.Proto || e.orig.Src != t.Src || e.orig.SrcPort != t.SrcPort {
			continue
		}
		mapped, _ := e.reply.Inverse()
		if r.holdsAddr(mapped.Src) && r.holdsPort(mapped.SrcPort) {
			newest = e
		}
	}
	return newest
}

// bestAddress is find_best_ips_proto: of a range of addresses the one to which the hash of source and
// destination, and of the zone (of the source alone if persistent), leads.
func bestAddress(t conntrack.Tuple, m manip, r natRange, zone uint16) conntrack.Tuple {
	if !r.from.IsValid() {
		return t
	}
	a := r.from
	if r.from != r.to && !a.Is4() {
		a = bestAddress6(t, r, zone)
	}
	if r.from != r.to && a.Is4() {
		var init uint32
		if !r.persistent {
			init = word(t.Dst) ^ uint32(zone)
		}
		first := binary.BigEndian.Uint32(r.from.AsSlice())
		span := binary.BigEndian.Uint32(r.to.AsSlice()) - first + 1
		// jhash2 of the four words of a source address, scaled to the range
		at := first + uint32(uint64(jhash([4]uint32{word(t.Src)}, init))*uint64(span)>>32)
		a = netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, at)))
	}
	if m == dstManip {
		t.Dst = a
	} else {
		t.Src = a
	}
	return t
}

// word is an IPv4 address as a little-endian processor reads it from a packet.
func word(a netip.Addr) uint32 {
	if !a.Is4() {
		return 0
	}
	return binary.LittleEndian.Uint32(a.AsSlice())
}

// jhash is jhash2 (include/linux/jhash.h) of the four words of union nf_inet_addr, of which an IPv4 address has the
// first.
func jhash(k [4]uint32, initval uint32) uint32 {
	a := 0xdeadbeef + uint32(4<<2) + initval
	b, c := a, a
	a += k[0]
	b += k[1]
	c += k[2]
	mix := func(x *uint32, y uint32, rot int) { *x = (*x - y) ^ bits.RotateLeft32(y, rot) }
	mix(&a, c, 4)
	c += b
	mix(&b, a, 6)
	a += c
	mix(&c, b, 8)
	b += a
	mix(&a, c, 16)
	c += b
	mix(&b, a, 19)
	a += c
	mix(&c, b, 4)
	b += a
	a += k[3]
	final := func(x *uint32, y uint32, rot int) { *x = (*x ^ y) - bits.RotateLeft32(y, rot) }
	final(&c, b, 14)
	final(&a, c, 11)
	final(&b, a, 25)
	final(&c, b, 16)
	final(&a, c, 4)
	final(&b, a, 14)
	final(&c, b, 24)
	return c
}

// setPort sets the port of one end, or the one id that an ICMP query has.
func setPort(t *conntrack.Tuple, m manip, port uint16) {
	if m == dstManip && !isICMP(t.Proto) {
		t.DstPort = port
	} else {
		t.SrcPort = port
	}
}

func portOf(t conntrack.Tuple, m manip) uint16 {
	if m == dstManip && !isICMP(t.Proto) {
		return t.DstPort
	}
	return t.SrcPort
}

// tupleTaken is nf_conntrack_tuple_taken for the reply that the tuple would have. The entry with our own
// original tuple does not count.
func (n *Namespace) tupleTaken(t conntrack.Tuple, w *walk) bool {
	inv, _ := t.Inverse()
	for _, r := range n.bucket(inv, w.ct.zone.in(reply), w.ct.zone) {
		switch {
		case n.expired(r.e, w.at):
			n.evict(r.e, "expired")
		case !w.ct.sameOriginal(r.e):
			n.stats["found"]++
			return true
		}
	}
	return false
}

// sameOriginal reports whether two entries are of the same flow: the clash of such is left to be resolved later.
func (e *entry) sameOriginal(o *entry) bool {
	return e.orig == o.orig && e.zone.in(original) == o.zone.in(original)
}

// tupleTakenNew is nf_nat_used_tuple_new (6.12): a tuple that is to stay as it is counts as free although it is
// taken, if the entry that has it is the same flow, seen from its other end, and without NAT.
func (n *Namespace) tupleTakenNew(t conntrack.Tuple, w *walk) bool {
	if !n.tupleTaken(t, w) {
		return false
	}
	if n.cfg.Profile.Clash != ClashMergesCrosswise || !n.allowsClash(t.Proto) || w.ct.status&usesNAT != 0 {
		return true
	}
	r, ok := n.findIn(w.ct.zone, t, w.at)
	switch {
	case !ok && n.cfg.Profile.ReverseLookup:
		inv, _ := t.Inverse()
		if r, ok = n.findIn(w.ct.zone, inv, w.at); !ok {
			return false // as if the entry had gone away
		}
	case !ok:
		return false
	case r.dir != reply:
		return true
	}
	return r.e.status&usesNAT != 0 || r.e.orig != w.ct.reply || r.e.reply != w.ct.orig
}

// maxAttempts is how many ports in a row a search tries at first (NF_NAT_MAX_ATTEMPTS); each further
// window, from a new random start, is half as long, down to 8.
const maxAttempts = 128

// searchPort is nf_nat_l4proto_unique_tuple. Where a search starts is the kernel's choice; it takes the
// first free port from there. If it finds none it leaves the last one, which is taken: the entry is lost
// when it is confirmed.
func (n *Namespace) searchPort(w *walk, t conntrack.Tuple, m manip, r natRange) conntrack.Tuple {
	if !conntrack.HasPorts(t.Proto) && !isICMP(t.Proto) || m == dstManip && !r.hasPort && !isICMP(t.Proto) {
		return t
	}
	lo, hi := r.lo, r.hi
	switch {
	case r.hasPort:
	case isICMP(t.Proto):
		lo, hi = n.idRange()
	default:
		lo, hi = portClass(t.SrcPort)
	}
	s := search{n: n, w: w, t: t, m: m, lo: lo, size: int(hi-lo) + 1}
	attempts := min(s.size, maxAttempts)
	if n.cfg.Profile.WholeRange {
		attempts = s.size
	}
	fixed := m == dstManip && !r.random && !n.cfg.Profile.RandomDestination
	for {
		start := 0
		if !fixed {
			start = s.start(attempts)
		}
		if s.window(start, attempts) {
			return s.t
		}
		if attempts >= s.size || attempts < 16 {
			w.say("nf_nat_l4proto_unique_tuple", fmt.Sprintf("no free port found in %d..%d", lo, hi))
			return s.t
		}
		attempts /= 2
	}
}

// search is one search for a port.
type search struct {
	n    *Namespace
	w    *walk
	t    conntrack.Tuple
	m    manip
	lo   uint16
	size int
}

// window tries ports in a row, wrapping at the end of the range.
func (s *search) window(start, attempts int) bool {
	for i := range attempts {
		setPort(&s.t, s.m, s.lo+uint16((start+i)%s.size))
		if !s.n.tupleTaken(s.t, s.w) {
			s.w.say("nf_nat_l4proto_unique_tuple", fmt.Sprintf("port %d is free", portOf(s.t, s.m)))
			return true
		}
	}
	return false
}

// start asks where the search begins. Ports that are taken just before it may have been tried without our
// knowing: so much more may the counter "found" show.
func (s *search) start(attempts int) int {
	if s.size == 1 || s.size == attempts && !s.anyFree() {
		return 0
	}
	c := Choice{Kind: ChoosePort, Subject: fmt.Sprintf("where the search for a port for %s in %d..%d starts", s.t, s.lo, int(s.lo)+s.size-1),
		Options: s.size, First: int(s.lo), About: s.w.p.Line(), Flow: s.w.ct.orig, Destination: s.m == dstManip, Own: s.w.local, Free: s.free}
	start := s.n.choose(c)
	before := 0
	for before < attempts-1 && !s.free(start-1-before) {
		before++
	}
	if before == maxAttempts-1 { // whole windows may have failed before
		before = 2 * maxAttempts
	}
	s.n.foundMore += uint32(before)
	return start
}

func (s *search) free(i int) bool {
	t := s.t
	setPort(&t, s.m, s.lo+uint16((i%s.size+s.size)%s.size))
	inv, _ := t.Inverse()
	return !slices.ContainsFunc(s.n.bucket(inv, s.w.ct.zone.in(reply), s.w.ct.zone), func(r ref) bool {
		return !s.w.ct.sameOriginal(r.e) && r.e.expiry.From > s.w.at.To // an expired one is evicted by who meets it
	})
}

func (s *search) anyFree() bool {
	for i := range s.size {
		if s.free(i) {
			return true
		}
	}
	return false
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
