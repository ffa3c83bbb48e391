package report

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"ctlab/checks/conntrack"
	"ctlab/checks/model"
	"ctlab/checks/trace"
	"ctlab/lab"
)

// storiesTold is how many entries of a node are told in full; the others are named.
const storiesTold = 1

// stories tells the entries in which requests were lost or went astray: what the entry is, every packet
// that hit it, what kept it alive, and why the rules could not help. Without one the tables at the end are
// listed.
func (t *text) stories() {
	for i := range t.r.Evidence.Final {
		t.node(&t.r.Evidence.Final[i])
	}
}

// plight is what is wrong with an entry.
type plight int

const (
	sound plight = iota
	stale        // the rules could not give its binding
	dead         // they could, but nothing lives there
)

// node tells the story of one node's table.
func (t *text) node(snap *lab.Snapshot) {
	var told []*lab.Seen
	idle := 0
	for j := range snap.Entries {
		e := &snap.Entries[j]
		switch {
		case t.plight(e) == sound:
		case len(t.rows(e)) == 0: // a fresh port's: nobody will hit it again
			idle++
		default:
			told = append(told, e)
		}
	}
	if len(told) == 0 {
		t.table(snap, idle)
		return
	}
	for _, e := range told[:min(storiesTold, len(told))] {
		t.line("")
		t.story(snap, e)
	}
	t.others(told[min(storiesTold, len(told)):])
	if idle > 0 {
		t.line("  %d more stale %s on %s will expire: no client hits them again.", idle, plural(idle, "entry", "entries"), snap.Node)
	}
	t.counters(snap)
	file := argument(t.r.Lab.File)
	this := file
	if v := t.r.Lab.Variant; v != "" {
		this += " --variant " + v
	}
	ctlab := "sudo ctlab "
	if t.r.Setting.Ordinary {
		ctlab = "ctlab "
	}
	compare, look := ctlab+"compare "+file, ctlab+"run "+this+" --keep"
	if t.r.Setting.Simulated {
		compare, look = "ctlab compare --predicted "+file, "ctlab explain "+this
	}
	if len(t.r.Lab.Variants) > 0 {
		t.line("  What else can happen, and what cures it: $ %s", compare)
	}
	t.line("  Look yourself: $ %s", look)
}

func (t *text) plight(e *lab.Seen) plight {
	switch {
	case e.Stale:
		return stale
	case !dnatted(&e.Entry) || !t.lastLost(e):
		return sound
	}
	if _, ok := t.past.died(t.name.addr(e.Entry.Reply.Src)); ok {
		return dead
	}
	return sound
}

// lastLost reports whether the flow's last request was lost.
func (t *text) lastLost(e *lab.Seen) bool {
	as := t.requests(e)
	return len(as) > 0 && as[len(as)-1].Class != lab.Answered
}

// others names the entries whose story would be like the one told.
func (t *text) others(rest []*lab.Seen) {
	if len(rest) == 0 {
		return
	}
	var flows []string
	for _, e := range rest {
		flows = append(flows, t.name.endpoint(e.Entry.Orig.Src, e.Entry.Orig.SrcPort)+" at "+t.name.addr(e.Entry.Reply.Src))
	}
	t.paragraph(fmt.Sprintf("%d more %s like it: %s.", len(rest), plural(len(rest), "entry", "entries"), few(flows, 4)))
}

// tableLimit is how many entries of a table without a stale one are listed.
const tableLimit = 10

func (t *text) table(snap *lab.Snapshot, stale int) {
	t.line("")
	which := "none stale"
	if stale > 0 {
		which = fmt.Sprintf("%d stale, which no client hits again", stale)
	}
	t.line("  %s at the end: %d %s, %s", snap.Node, len(snap.Entries), plural(len(snap.Entries), "entry", "entries"), which)
	for i := range snap.Entries {
		if i == tableLimit {
			t.line("  ... and %d more", len(snap.Entries)-i)
			break
		}
		t.line("  %s", t.name.seen(&snap.Entries[i]))
	}
}

func (t *text) story(snap *lab.Snapshot, e *lab.Seen) {
	x := &e.Entry
	head := "STALE"
	switch {
	case t.plight(e) == dead:
		head = "BACKEND DEAD, not stale,"
	case t.astray(e) != "":
		head = "STALE, WRONG SERVER"
	}
	t.line("  %s on %s:", t.paint(red, head), snap.Node)
	t.line("  %s", t.name.seen(e))
	for _, l := range wrap(t.leads(x), columns-6) {
		t.line("      %s", l)
	}
	t.line("")
	rows := t.rows(e)
	t.line("    %-7s  %-16s  %-13s  %-17s  %s", "t", t.name.addr(x.Orig.Src)+"'s packet", "time left", "rules asked?", "what became of it")
	for _, r := range fold(rows) {
		became := wrap(r.became, columns-4-7-2-16-2-13-2-17-2)
		t.line("    %-7s  %-16s  %-13s  %-17s  %s", r.at, r.what, r.left, r.asked, became[0])
		for _, more := range became[1:] {
			t.line("    %-7s  %-16s  %-13s  %-17s  %s", "", "", "", "", more)
		}
	}
	t.line("")
	t.mechanism(snap, e)
}

// leads says where the entry sends its packets, and what is there.
func (t *text) leads(x *conntrack.Entry) string {
	if !dnatted(x) {
		return fmt.Sprintf("%s asks %s; the entry leaves it at that: it was made while no rule matched", x.Orig.Src, x.Orig.Dst)
	}
	return fmt.Sprintf("%s asks %s; the entry sends it to %s%s", x.Orig.Src, x.Orig.Dst, x.Reply.Src, t.fate(x))
}

// fate says since when the entry's backend is gone.
func (t *text) fate(x *conntrack.Entry) string {
	node := t.name.addr(x.Reply.Src)
	d, ok := t.past.died(node)
	if !ok {
		return ""
	}
	at := sec(d.at)
	switch d.how {
	case lab.DeathAddress:
		return fmt.Sprintf(" (%s), gone since %s", node, at)
	case lab.DeathRoute:
		return fmt.Sprintf(" (%s), without link and route since %s", node, at)
	case lab.DeathDrop:
		return fmt.Sprintf(" (%s), to which policy drops everything since %s", node, at)
	case lab.DeathReuse:
		return fmt.Sprintf(", the address of %s until %s, of %s since", node, at, d.reuse)
	}
	return fmt.Sprintf(" (%s), where nothing listens since %s", node, at)
}

// row is one packet of a stale flow.
type row struct {
	at, what, left, asked, became string
	made                          bool // it asked the rules: the flow's entry is its
}

// requests are those of the entry's own flow, in the order of time.
func (t *text) requests(e *lab.Seen) []*lab.Attempt {
	var out []*lab.Attempt
	for i := range t.r.Steps {
		as := t.r.Steps[i].Outcome.Attempts
		for j := range as {
			if a := &as[j]; a.Tuple == e.Entry.Orig && !a.Control {
				out = append(out, a)
			}
		}
	}
	slices.SortStableFunc(out, func(a, b *lab.Attempt) int { return int(a.At - b.At) })
	return out
}

func (t *text) rows(e *lab.Seen) []row {
	var rows []row
	for _, a := range t.requests(e) {
		rows = append(rows, t.row(a))
	}
	return rows
}

// astray is the node that answers the flow although it was never a backend, or "".
func (t *text) astray(e *lab.Seen) string {
	for _, a := range slices.Backward(t.requests(e)) {
		if a.Class == lab.Answered {
			if wrongServer(t.r, t.past, a) {
				return a.By
			}
			return ""
		}
	}
	return ""
}

func (t *text) row(a *lab.Attempt) row {
	r := row{at: sec(a.At), what: fmt.Sprintf("query %d", a.Number), became: outcome(a)}
	if wrongServer(t.r, t.past, a) {
		r.became += ": the wrong server"
	}
	if a.After != nil {
		r.left = left(&a.After.Entry)
		if a.Before == nil {
			r.left = "new, " + r.left
		} else {
			r.left = left(&a.Before.Entry) + " -> " + r.left
		}
		if was(a.Before, conntrack.Assured) != was(a.After, conntrack.Assured) {
			r.became += "; ASSURED from now on"
		}
	}
	if hs := t.handled(a); len(hs) > 0 { // the first one is the request; others may begin as soon as it has its outcome
		o := &hs[0].Outcome
		r.asked = "no"
		if o.Asked {
			r.asked = "yes" + t.bound(a, o)
		}
		switch { // nobody reads the table for each request in the background, but the model knows
		case a.After != nil || o.After == "":
		case o.Before == "":
			r.left = "new, " + o.After
		default:
			r.left = o.Before + " -> " + o.After
		}
		r.made = o.Asked
	}
	return r
}

// bound is what the rules gave to a flow's first packet, as the entry has it, or the packet that left.
func (t *text) bound(a *lab.Attempt, o *model.Outcome) string {
	switch {
	case a.After == nil:
		for _, l := range o.Left {
			if !l.Own && l.Packet.Dst != a.Tuple.Dst {
				return ": " + t.name.addr(l.Packet.Dst)
			}
		}
		return ""
	case !dnatted(&a.After.Entry):
		return ": none matched"
	}
	return ": " + t.name.addr(a.After.Entry.Reply.Src)
}

func was(s *lab.Seen, b conntrack.Status) bool { return s != nil && s.Entry.Status.Has(b) }

// foldAfter is how many rows are listed before those in the middle are left out.
const foldAfter = 14

// fold leaves out the middle of many rows, but for packets that made the entry anew.
func fold(rows []row) []row {
	if len(rows) <= foldAfter {
		return rows
	}
	const first, last = foldAfter - 4, 3
	out := append([]row(nil), rows[:first]...)
	begin := first
	for i := first; i < len(rows)-last; i++ {
		if rows[i].made && len(out) < 2*foldAfter {
			out = append(append(out, folded(rows[begin:i])...), rows[i])
			begin = i + 1
		}
	}
	out = append(out, folded(rows[begin:len(rows)-last])...)
	return append(out, rows[len(rows)-last:]...)
}

// folded is a row in place of several, or nothing in place of none.
func folded(hidden []row) []row {
	if len(hidden) < 2 {
		return hidden
	}
	kinds := counts{}
	for _, r := range hidden {
		kinds.add(firstWord(r.became))
	}
	var became []string
	for _, k := range kinds.names {
		became = append(became, fmt.Sprintf("%d %s", kinds.n[k], k))
	}
	return []row{{at: "...", what: fmt.Sprintf("%d more", len(hidden)), became: strings.Join(became, ", ")}}
}

func firstWord(s string) string {
	w, _, _ := strings.Cut(s, " ")
	return w
}

// mechanism says in a few sentences, with the run's own numbers, why the flow does not recover.
func (t *text) mechanism(snap *lab.Snapshot, e *lab.Seen) {
	svc := t.service(&e.Entry)
	if svc == nil {
		return
	}
	if t.plight(e) == dead {
		t.paragraph(fmt.Sprintf("The rules still give %s to a flow's first packet, so the entry is as good as a new one would be: it is not stale. "+
			"The backend is dead. Deleting the entry cures nothing; the rules have to change, or the server to come back.", t.name.addr(e.Entry.Reply.Src)))
		return
	}
	t.paragraph(t.cause(svc, e) + t.rulesSince(svc, snap, e) + fmt.Sprintf(
		"Every retry hits the old entry in nf_conntrack_in, and nf_conntrack_udp_packet starts its time anew before anything downstream can fail: "+
			"the entry outlives every client that asks again within %s.", t.lifetime(e, snap.Node)))
}

// cause says how the entry came to be what it is, where that is not plain from its line.
func (t *text) cause(svc *lab.Service, e *lab.Seen) string {
	if !dnatted(&e.Entry) {
		s := "No rule matched the flow's first packet"
		if as := t.requests(e); len(as) > 0 && len(t.past.backends(svc.Name, as[0].At)) == 0 {
			s += fmt.Sprintf(" at %s, as %s had no backend", sec(as[0].At), svc.Name)
		}
		return s + ": nf_nat_inet_fn gave it a null binding, its reply tuple is the plain inverse, and NAT counts as done for the life of the entry. "
	}
	if by := t.astray(e); by != "" {
		return fmt.Sprintf("The answers come from %s, which was never a backend of %s: it was given the address, and the entry knows addresses only. ", by, svc.Name)
	}
	return ""
}

// rulesSince says what the rules name now, and that the flow's packets did not ask them.
func (t *text) rulesSince(svc *lab.Service, snap *lab.Snapshot, e *lab.Seen) string {
	x := &e.Entry
	since, now := t.past.since(svc.Name), t.past.backends(svc.Name, end)
	sent, fresh := t.after(x, since)
	asked := fmt.Sprintf("but nf_nat_inet_fn asks them for a flow's first packet only: %s sent %d %s from port %d after that",
		t.name.addr(x.Orig.Src), sent, plural(sent, "query", "queries"), x.Orig.SrcPort)
	if len(now) == 0 {
		return fmt.Sprintf("%s has no backend since %s, %s. ", svc.Name, sec(since), asked)
	}
	return fmt.Sprintf("The rules name %s since %s, %s, and %s. ", strings.Join(now, ", "), sec(since), asked, t.hits(svc, now, snap, fresh))
}

// paragraph writes indented lines of whole words.
func (t *text) paragraph(s string) {
	for _, l := range wrap(s, columns-2) {
		t.line("  %s", l)
	}
}

// lifetime is how long the entry lives after each packet: the timeout that its state has on the node.
func (t *text) lifetime(e *lab.Seen, node string) string {
	key := "net.netfilter.nf_conntrack_udp_timeout"
	if e.Entry.Status.Has(conntrack.Assured) {
		key += "_stream"
	}
	value := ""
	for _, tr := range t.r.Evidence.Traces {
		for _, r := range tr.Records {
			if k, v, _ := strings.Cut(r.Args, " "); tr.Node == node && r.Kind == trace.Sysctl && k == key {
				value = v
			}
		}
	}
	if value == "" {
		return strings.TrimPrefix(key, "net.netfilter.")
	}
	return value + " s"
}

func (t *text) service(x *conntrack.Entry) *lab.Service { return serviceOf(t.r.Lab, x.Orig) }

// serviceOf is the service whose frontend a packet is sent to, or nil.
func serviceOf(l *lab.Lab, orig conntrack.Tuple) *lab.Service {
	for _, s := range l.Services {
		for _, p := range s.Ports {
			if p.Proto != orig.Proto {
				continue
			}
			if p.Number == orig.DstPort && slices.Contains(frontends(s), orig.Dst) || p.NodePort != 0 && p.NodePort == orig.DstPort {
				return s
			}
		}
	}
	return nil
}

// after counts the flow's own queries, and those from fresh ports, since a moment.
func (t *text) after(x *conntrack.Entry, moved time.Duration) (sent, fresh int) {
	for i := range t.r.Steps {
		for _, a := range t.r.Steps[i].Outcome.Attempts {
			switch {
			case a.At < moved:
			case a.Tuple == x.Orig:
				sent++
			case a.Control:
				fresh++
			}
		}
	}
	return sent, fresh
}

func (t *text) hits(svc *lab.Service, now []string, snap *lab.Snapshot, fresh int) string {
	n := uint64(0)
	var rules []string
	for _, b := range now {
		n += snap.Hits[svc.Name+"/"+b]
		rules = append(rules, svc.Name+"/"+b)
	}
	s := fmt.Sprintf("rule %s counted %d %s", strings.Join(rules, ", "), n, plural(int(n), "packet", "packets"))
	if fresh > 0 && uint64(fresh) == n {
		s += fmt.Sprintf(", %s from %s", plural(fresh, "that of the query", fmt.Sprintf("those of the %d queries", fresh)), plural(fresh, "a fresh port", "fresh ports"))
	}
	return s
}

func (t *text) counters(snap *lab.Snapshot) {
	moved := trace.FormatStats(snap.Stats)
	if moved == "" {
		t.line("  conntrack -S: no counter moved; nothing in the statistics betrays it.")
		return
	}
	t.line("  conntrack -S: %s", moved)
}
