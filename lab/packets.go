package lab

import (
	"cmp"
	"slices"
	"strings"

	"ctlab/checks"
)

// PacketWant is what a step demands of the packet that it makes; empty parts demand nothing.
type PacketWant struct {
	CT      *WordWant // ctinfo
	Out     []OutWant // where it left, perhaps as what; a router's own name: delivered to its stack
	Nowhere *Pos      // out: none
	Dropped *WordWant // where: TABLE CHAIN, routing, conntrack or confirm
	Reply   []OutWant // what stacks answered
	Seen    []SeenWant
	Entry   *PlacedEntry // the packet's entry
	NoEntry *Pos         // entry: none
}

// WordWant demands one of a few words.
type WordWant struct {
	Pos  Pos
	Word string
}

// OutWant demands a packet on the link of a node, or nil: any packet.
type OutWant struct {
	Pos    Pos
	Node   string
	Packet *checks.PacketWant
}

// SeenWant demands packets in this order, others between, on a device of a router.
type SeenWant struct {
	Pos     Pos
	Node    string
	Dev     string
	Packets []checks.PacketWant
}

// bareWire reads what a wire alone has, and reports what it has not.
func (d *decoder) bareWire(n *nodeDraft) {
	if n.silent.key != nil {
		n.Silent = d.bool(n.silent)
		if !n.Wire && n.kind != "" {
			d.fail(n.silent.key, "of wires so far", "nodes.%s: silent of a %s is not supported yet", n.Name, n.kind)
		}
	}
	if !n.Wire {
		return
	}
	for _, f := range n.local {
		d.fail(f.value, "address: gives it several", "nodes.%s: a wire has no stack and no lo", n.Name)
	}
	if n.routes.key != nil {
		d.fail(n.routes.key, "", "nodes.%s: a wire has no stack and no routes", n.Name)
	}
	if len(n.Sysctls) > 0 {
		d.report(n.Sysctls[0].Pos.Line, n.Sysctls[0].Pos.Col, columns(n.Sysctls[0].Name), "", "nodes."+n.Name+": a wire has no stack and no sysctls")
	}
}

// stack looks up a node on which programs can run.
func (d *decoder) stack(f field) (string, bool) {
	name, ok := d.refer(f, "node")
	if ok && d.isWire(f.value, f.name(), name) {
		return "", false
	}
	return name, ok
}

// isWire reports a node on which nothing can run.
func (d *decoder) isWire(at *node, context, name string) bool {
	n := d.names.nodes[name]
	if n == nil || !n.Wire {
		return false
	}
	d.fail(at, "kind: host gives it one", "%s: %s is a wire; without a stack no program can run there", context, n.Name)
	return true
}

// packetStepKeys are read with the packet.
func packetStepKeys() []key[*stepDraft] {
	return []key[*stepDraft]{
		{"on", "the wire; the one that owns the source address by itself", identifier, func(*decoder, *stepDraft, field) {}},
	}
}

// readPacket reads a packet and finds its wire.
func readPacket(d *decoder, s *stepDraft, f field) {
	if line := d.packetLine(f); line != "" {
		if p, err := checks.ParsePacket(line, d.resolve); err != nil {
			d.failPacket(f, err)
		} else {
			s.Packet, s.Text = &p, line
		}
	}
	if on, given := s.own["on"]; given {
		d.wireOf(s, on)
		return
	}
	if s.Packet == nil {
		return // reported
	}
	switch n := d.names.hosts[s.Packet.Src]; {
	case n != nil && n.Wire:
		s.On = n.Name
	case n != nil:
		d.fail(f.value, "kind: wire makes it one, or on: WIRE", "packet: %s is no wire; its stack makes its packets", n.Name)
	case !d.broken["nodes"]:
		d.fail(f.key, "on: "+cmp.Or(d.firstWire(), "WIRE"), "packet: no wire has the address %s", s.Packet.Src)
	}
}

func (d *decoder) firstWire() string {
	for _, n := range d.lab.Nodes {
		if n.Wire {
			return n.Name
		}
	}
	return ""
}

// wireOf reads the name of a wire.
func (d *decoder) wireOf(s *stepDraft, f field) {
	n := d.oneNode(f)
	switch {
	case n == nil:
	case !n.Wire && !d.broken["node "+n.Name]:
		d.fail(f.value, "kind: wire makes it one", "on: %s is no wire", n.Name)
	default:
		s.On = n.Name
	}
}

// wantedPacket reads a packet of which what is not written is not compared.
func (d *decoder) wantedPacket(f field) (*checks.PacketWant, bool) {
	line := d.packetLine(f)
	if line == "" {
		return nil, false
	}
	p, err := checks.ParsePacketWant(line, d.resolve)
	if err != nil {
		d.failPacket(f, err)
	}
	return &p, err == nil
}

func (d *decoder) failPacket(f field, err *checks.LineError) {
	if f.value.kind == mapping {
		d.fail(f.value, err.Hint, "%s: %s", f.name(), err.Msg)
		return
	}
	d.failAt(f.value, err, "packet")
}

// packetLine is the line of a packet, also of one that is written as a map; "" after an error.
func (d *decoder) packetLine(f field) string {
	if f.value.kind != mapping {
		if !d.isScalar(f, "a packet, such as udp app:40000 > web:53") {
			return ""
		}
		return d.text(f)
	}
	p := packetParts{}
	readMap(d, f.name(), f.value.fields, packetKeys(), &p)
	for _, needed := range []string{"protocol", "from", "to"} {
		if f.value.find(needed) < 0 {
			d.fail(f.value, "{protocol: udp, from: app:40000, to: web:53}", "%s: %q is missing", f.name(), needed)
			return ""
		}
	}
	if p.broken {
		return ""
	}
	line := strings.Join(slices.Concat([]string{p.protocol, p.from, ">", p.to}, p.kind, p.words), " ")
	if p.about != "" {
		line += " about " + p.about
	}
	return line
}

// packetParts are the words of a packet that is written as a map.
type packetParts struct {
	protocol, from, to string
	kind, words        []string
	about              string
	broken             bool
}

func packetKeys() []key[*packetParts] {
	word := func(into func(p *packetParts) *string) func(*decoder, *packetParts, field) {
		return func(d *decoder, p *packetParts, f field) { *into(p) = d.packetWord(p, f) }
	}
	behind := func(name string) func(*decoder, *packetParts, field) {
		return func(d *decoder, p *packetParts, f field) { p.words = append(p.words, name, d.packetWord(p, f)) }
	}
	return []key[*packetParts]{
		{"protocol", "udp, icmp, ...; ip goes with proto", text, word(func(p *packetParts) *string { return &p.protocol })},
		{"from", "its source, ADDRESS or ADDRESS:PORT", text, word(func(p *packetParts) *string { return &p.from })},
		{"to", "its destination, ADDRESS or ADDRESS:PORT", text, word(func(p *packetParts) *string { return &p.to })},
		{"proto", "the number of a protocol without a name", wholeNumber(0, 255), behind("proto")},
		{"type", "of icmp: a name such as echo-request, or a number", text, func(d *decoder, p *packetParts, f field) {
			w := d.packetWord(p, f)
			if _, err := checks.ParseNumber(w); err == nil {
				p.kind = append([]string{"type", w}, p.kind...)
				return
			}
			p.kind = append([]string{w}, p.kind...)
		}},
		{"code", "of icmp, with a type that is a number", wholeNumber(0, 255), func(d *decoder, p *packetParts, f field) { p.kind = append(p.kind, "code", d.packetWord(p, f)) }},
		{"id", "of an icmp query", wholeNumber(0, 65535), behind("id")},
		{"len", "the whole packet, bytes", wholeNumber(0, 65535), behind("len")},
		{"data", "in place of len: behind the headers, bytes", wholeNumber(0, 65535), behind("data")},
		{"ttl", "64 by itself", wholeNumber(0, 255), behind("ttl")},
		{"ip-id", "the identification in the IP header", wholeNumber(0, 65535), behind("ip-id")},
		{"df", "true: it must not be fragmented", boolean, func(d *decoder, p *packetParts, f field) {
			if d.bool(f) {
				p.words = append(p.words, "df")
			}
		}},
		{"frag", "OFFSET of a fragment, with a + if more follow", text, behind("frag")},
		{"mtu", "what an error about a packet too big tells", wholeNumber(0, 65535), behind("mtu")},
		{"sum", "bad: a wrong checksum; none: without one", words("bad", "none"), behind("sum")},
		{"bad", "what is wrong with the header behind IP's", words("checksum", "length", "short"), behind("bad")},
		{"cut", "after how many bytes it ends, whatever its headers say", wholeNumber(0, 65535), behind("cut")},
		{"about", "the packet that an icmp error quotes", ref("packet"), func(d *decoder, p *packetParts, f field) {
			p.about = d.packetLine(f)
			p.broken = p.broken || p.about == ""
		}},
	}
}

// packetWord is a value that is one word of a packet's line.
func (d *decoder) packetWord(p *packetParts, f field) string {
	if !d.isScalar(f, "a word") {
		p.broken = true
		return ""
	}
	if strings.ContainsAny(f.value.text, " \n") {
		d.fail(f.value, "", "%s: %s is not one word", f.name(), checks.Quote(f.value.text))
		p.broken = true
	}
	return f.value.text
}

// packetWants are what can be demanded of a packet.
func packetWants() []key[*wantDraft] {
	return []key[*wantDraft]{
		{"ct", "its state: " + strings.Join(ctWords(), ", "), words(ctWords()...), func(d *decoder, w *wantDraft, f field) {
			w.packet().CT = &WordWant{d.pos(f.value), d.oneOf(f, ctWords())}
		}},
		{"out", "the node towards which it left, or {NODE: PACKET}, or none; a router itself: delivered there", outShape, readOut},
		{"dropped", "where: TABLE CHAIN, routing, conntrack (the table is full), or confirm (another entry has its tuple)", droppedShape, readDropped},
		{"entry", "its entry, without a tuple perhaps; or none", orNone(either(text, ref("entry"))), readPacketEntry},
		{"reply", "what the stack of a node answered: {NODE: PACKET}", valuesOf(ref("packet")), func(d *decoder, w *wantDraft, f field) {
			w.packet().Reply = d.outWants(f)
		}},
		{"seen", "packets in this order at a router's device: {NODE:DEVICE: [PACKET, ...]}", valuesOf(oneOrMore(ref("packet"))), readSeen},
	}
}

func (w *wantDraft) packet() *PacketWant {
	if w.Packet == nil {
		w.Packet = &PacketWant{}
	}
	return w.Packet
}

// ctWords are the values of ctinfo, and those of packets without an entry.
func ctWords() []string {
	return []string{"new", "established", "established-reply", "related", "related-reply", "invalid", "untracked"}
}

// readOut reads NODE, {NODE: PACKET} or none.
func readOut(d *decoder, w *wantDraft, f field) {
	switch v := f.value; {
	case isNone(v):
		pos := d.pos(v)
		w.packet().Nowhere = &pos
	case v.kind == mapping:
		w.packet().Out = d.outWants(f)
	default:
		if n := d.oneNode(f); n != nil {
			w.packet().Out = []OutWant{{d.pos(v), n.Name, nil}}
		}
	}
}

// outWants reads {NODE: PACKET}.
func (d *decoder) outWants(f field) []OutWant {
	var out []OutWant
	if !d.isMap(f.name(), f.value, "a map, such as {app: udp web:53 > app:40000}") {
		return nil
	}
	if len(f.value.fields) == 0 {
		d.fail(f.value, "leave it out", "%s: an empty map", f.name())
	}
	for _, item := range f.value.fields {
		n := d.oneNode(field{f.key, item.key})
		if p, ok := d.wantedPacket(item); ok && n != nil {
			out = append(out, OutWant{d.pos(item.key), n.Name, p})
		}
	}
	return out
}

func readDropped(d *decoder, w *wantDraft, f field) {
	if !d.isScalar(f, "TABLE CHAIN, routing, conntrack or confirm") {
		return
	}
	text := f.value.text
	table, chain, both := strings.Cut(text, " ")
	tables, chains := []string{"raw", "mangle", "nat", "filter"}, []string{"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"}
	switch {
	case !both && text != "routing" && text != "confirm" && text != "conntrack":
		d.fail(f.value, "such as: filter FORWARD", "dropped: %s is none of TABLE CHAIN, routing, conntrack, confirm", checks.Quote(text))
	case both && !slices.Contains(tables, table):
		d.fail(f.value, "tables: "+some(tables), "dropped: no table %s", checks.Quote(table))
	case both && !slices.Contains(chains, chain):
		d.fail(f.value, checks.DidYouMean(strings.ToUpper(chain), chains, "chains: "+some(chains)), "dropped: %s is no built-in chain", checks.Quote(chain))
	default:
		w.packet().Dropped = &WordWant{d.pos(f.value), text}
	}
}

// readPacketEntry reads an entry of which the tuple may be left out: it is the packet's.
func readPacketEntry(d *decoder, w *wantDraft, f field) {
	pos := d.pos(f.value)
	if isNone(f.value) {
		w.packet().NoEntry = &pos
		return
	}
	line := d.oneLine(f, "an entry without its tuple, such as seen-reply 30s; or none")
	if line == "" || w.step.Packet == nil {
		return
	}
	if strings.Contains(line, " > ") {
		if e, ok := d.entryLine(f); ok {
			w.packet().Entry = &PlacedEntry{Pos: pos, Want: e}
		}
		return
	}
	e, err := checks.ParseEntryWords(line, w.step.Packet.Proto)
	if err != nil {
		d.failAt(f.value, err, "entry")
		return
	}
	w.packet().Entry = &PlacedEntry{Pos: pos, Want: e}
}

// readSeen reads {NODE:DEVICE: [PACKET, ...]}.
func readSeen(d *decoder, w *wantDraft, f field) {
	if !d.isMap(f.name(), f.value, "a map, such as {node:app: udp web:53 > app:40000}") {
		return
	}
	for _, item := range f.value.fields {
		name, dev, _ := strings.Cut(item.name(), ":")
		n := d.oneNode(field{f.key, copyOf(item.key, name, item.key.copy)})
		if n == nil {
			continue
		}
		if !n.Router || !slices.Contains(d.devices(n), dev) || dev == "lo" {
			d.fail(item.key, "NODE:DEVICE of a router", "seen: %s is no device of a router", checks.Quote(item.name()))
			continue
		}
		seen := SeenWant{Pos: d.pos(item.key), Node: n.Name, Dev: dev}
		for _, one := range d.list(item) {
			if p, ok := d.wantedPacket(one); ok {
				seen.Packets = append(seen.Packets, *p)
			}
		}
		w.packet().Seen = append(w.packet().Seen, seen)
	}
}
