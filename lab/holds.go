package lab

import (
	"net/netip"
	"slices"
	"strings"

	"ctlab/checks"
	"ctlab/checks/conntrack"
)

// holdKeys are those of a hold step; readHold reads them together.
func holdKeys() []key[*stepDraft] {
	ignore := func(*decoder, *stepDraft, field) {}
	return []key[*stepDraft]{
		{"match", "an entry without words: which packets wait, by the original tuple of their entries", holdShape, ignore},
		{"where", "before-confirm, or before-snat: in front of the source NAT hook", words(string(conntrack.BeforeConfirm), string(conntrack.BeforeSNAT)), ignore},
		{"ct", "new: only packets that begin a flow; any: all", words("new", "any"), ignore},
	}
}

func readHold(d *decoder, s *stepDraft, f field) {
	d.holder(s, f)
	d.stepNeeds(s, "match", "match: udp app:40000 > any")
	s.Hold = conntrack.Hold{Where: conntrack.BeforeConfirm, New: true}
	if where, given := s.own["where"]; given {
		s.Hold.Where = conntrack.HoldPlace(d.oneOf(where, []string{string(conntrack.BeforeConfirm), string(conntrack.BeforeSNAT)}))
	}
	if ct, given := s.own["ct"]; given {
		s.Hold.New = d.oneOf(ct, []string{"new", "any"}) == "new"
	}
	if match, given := s.own["match"]; given {
		d.readMatch(s, match)
	}
}

// holder reads the node on which packets wait.
func (d *decoder) holder(s *stepDraft, f field) {
	n := d.oneNode(f)
	switch {
	case n == nil:
	case !d.tracks(n.Name):
		d.fail(f.value, "there are: "+some(d.trackedNodes()), "%s: %q tracks nothing: it is a host without rules", f.name(), n.Name)
	default:
		s.Nodes = []string{n.Name}
	}
}

// anyProtocol stands in front of a tuple of whatever protocol.
const anyProtocol = "any "

// readMatch reads which packets wait: PROTO SRC > DST, each end one address or any, with one port or any.
func (d *decoder) readMatch(s *stepDraft, f field) {
	line := d.oneLine(f, "an entry without words, such as udp app:40000 > any")
	if line == "" {
		return
	}
	s.Text = line
	rest, any := strings.CutPrefix(line, anyProtocol)
	if any {
		line = "udp " + rest // as long, so that places stay the same
	}
	w, err := checks.ParseEntryWant(line, d.resolve)
	if err != nil {
		d.failAt(f.value, err, "match")
		return
	}
	s.Hold.Proto = w.Proto
	if any {
		s.Hold.Proto = 0
	}
	bare := checks.EntryWant{Text: w.Text, Times: checks.Exactly(1), Proto: w.Proto, Orig: w.Orig}
	if !sameWant(&w, &bare) {
		d.fail(f.value, "PROTOCOL SOURCE > DESTINATION", "match: only the original tuple says which packets wait")
		return
	}
	ok := true
	s.Hold.Src, s.Hold.SrcPort, ok = holdEnd(w.Orig.Src)
	if ok {
		s.Hold.Dst, s.Hold.DstPort, ok = holdEnd(w.Orig.Dst)
	}
	if !ok {
		d.fail(f.value, "such as udp app:40000 > any", "match: each end is one address or any, with one port or any")
	}
}

// sameWant reports whether nothing more is said of an entry.
func sameWant(a, b *checks.EntryWant) bool {
	return a.Times == b.Times && a.Reply == nil && a.TCPState == nil && a.Has|a.HasNot == 0 && a.Stale == nil && a.Left == nil && a.Zone == nil &&
		a.ZoneOrig == nil && a.ZoneReply == nil && a.Mark == nil && a.Packets == nil && a.Use == nil
}

// holdEnd is an end of a hold: an address or any, with a port or any.
func holdEnd(w checks.EndpointWant) (a netip.Addr, port uint16, ok bool) {
	if w.Prefix.IsValid() {
		a = w.Prefix.Addr()
	}
	any := w.MinPort == 0 && w.MaxPort == 65535
	if !any {
		port = w.MinPort
	}
	return a, port, (!w.Prefix.IsValid() || w.Prefix.IsSingleIP()) && (any || w.MinPort == w.MaxPort && port > 0)
}

// releaseKeys are those of a release step.
func releaseKeys() []key[*stepDraft] {
	return []key[*stepDraft]{
		{"packets", "how many must wait before any is released; 1. 0: none is, but no further packet waits", wholeNumber(0, maxHeld), func(d *decoder, s *stepDraft, f field) {
			if n, ok := d.number(f, 0, maxHeld); ok {
				s.Packets = int(n)
			}
		}},
		{"order", "which are released and in which order, by the numbers of their arrival; all as they came", listOf(wholeNumber(1, maxHeld)), (*decoder).readOrder},
		{"verdict", "accept, or drop", words("accept", "drop"), func(d *decoder, s *stepDraft, f field) { s.Drop = d.oneOf(f, []string{"accept", "drop"}) == "drop" }},
	}
}

// maxHeld bounds how many packets may wait (the kernel's queue has room for 1024, NFQNL_QMAX_DEFAULT).
const maxHeld = 1000

func (d *decoder) readOrder(s *stepDraft, f field) {
	for _, item := range d.list(f) {
		n, ok := d.number(item, 1, maxHeld)
		if ok && slices.Contains(s.Order, int(n)) {
			d.fail(item.value, "", "order: %d stands twice", n)
		} else if ok {
			s.Order = append(s.Order, int(n))
		}
	}
}

func readRelease(d *decoder, s *stepDraft, f field) {
	s.Packets = 1
	d.holder(s, f)
}

// playHold follows which nodes hold packets.
func (d *decoder) playHold(s *stepDraft, run *script) {
	if len(s.Nodes) == 0 {
		return // reported
	}
	if s.Kind == Hold {
		run.holding[s.Nodes[0]] = true
		return
	}
	if !run.holding[s.Nodes[0]] {
		d.fail(s.own[string(Release)].value, "hold: "+s.Nodes[0], "release: nothing is held on %s", s.Nodes[0])
	}
	most := s.Packets
	for _, n := range s.Order {
		if n > most {
			d.fail(s.own["order"].value, "packets: says how many", "order: packet %d of %d", n, most)
			break
		}
	}
}
