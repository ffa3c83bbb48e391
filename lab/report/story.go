package report

import (
	"fmt"
	"strings"
	"time"

	"ctlab/checks/conntrack"
	"ctlab/checks/trace"
	"ctlab/lab"
)

// stories tells each stale entry: what it is, every packet that hit it, what kept it alive, and why the
// rules could not help. Without a stale entry the tables at the end are listed.
func (t *text) stories() {
	for i := range t.r.Evidence.Final {
		snap := &t.r.Evidence.Final[i]
		stale, idle := 0, 0
		for j := range snap.Entries {
			e := &snap.Entries[j]
			switch {
			case !e.Stale:
			case len(t.rows(e)) == 0: // a fresh port's: nobody will hit it again
				idle++
			default:
				t.line("")
				t.story(snap, e)
				stale++
			}
		}
		if stale == 0 {
			t.table(snap, idle)
			continue
		}
		if idle > 0 {
			t.line("  %d more stale %s on %s will expire: no client hits them again.", idle, plural(idle, "entry", "entries"), snap.Node)
		}
		t.counters(snap)
		if len(t.r.Lab.Variants) > 0 {
			t.line("  What else can happen, and what cures it: $ sudo ctlab run %s --variant all", t.r.Lab.File)
		}
		t.line("  Look yourself: $ sudo ctlab run %s --keep", t.r.Lab.File)
	}
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
	t.line("  %s on %s:", t.paint(red, "STALE"), snap.Node)
	t.line("  %s", t.name.seen(e))
	t.line("      %s asks %s; the entry sends it to %s%s", x.Orig.Src, x.Orig.Dst, x.Reply.Src, t.fate(x))
	t.line("")
	rows := t.rows(e)
	if len(rows) > 0 {
		t.line("    %-7s  %-18s  %-14s  %-18s  %s", "t", t.name.addr(x.Orig.Src)+"'s packet", "time left", "rules asked?", "what became of it")
		for _, r := range fold(rows) {
			t.line("    %-7s  %-18s  %-14s  %-18s  %s", r.at, r.what, r.left, r.asked, r.became)
		}
		t.line("")
	}
	t.mechanism(snap, e)
}

// fate says since when the entry's backend is gone.
func (t *text) fate(x *conntrack.Entry) string {
	for i := range t.r.Steps {
		out := &t.r.Steps[i].Outcome
		if r := out.Restarted; r != nil && r.From != r.To && r.From == t.name.addr(x.Reply.Src) {
			what := "where nothing listens since"
			if r.Death == lab.DeathAddress {
				what = "gone since"
			}
			return fmt.Sprintf(" (%s), %s %s", r.From, what, sec(out.Began))
		}
	}
	return ""
}

// row is one packet of a stale flow.
type row struct{ at, what, left, asked, became string }

func (t *text) rows(e *lab.Seen) []row {
	var rows []row
	for i := range t.r.Steps {
		as := t.r.Steps[i].Outcome.Attempts
		for j := range as {
			if a := &as[j]; a.Tuple == e.Entry.Orig && !a.Control {
				rows = append(rows, t.row(a))
			}
		}
	}
	return rows
}

func (t *text) row(a *lab.Attempt) row {
	r := row{at: sec(a.At), what: fmt.Sprintf("query %d", a.Number), became: outcome(a)}
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
	for _, h := range t.handled(a) {
		r.asked = "no"
		if h.Outcome.Asked {
			r.asked = "yes"
			if a.After != nil {
				r.asked = "yes: " + t.name.addr(a.After.Entry.Reply.Src)
			}
		}
	}
	return r
}

func was(s *lab.Seen, b conntrack.Status) bool { return s != nil && s.Entry.Status.Has(b) }

// foldAfter is how many rows are listed before those in the middle are left out.
const foldAfter = 14

func fold(rows []row) []row {
	if len(rows) <= foldAfter {
		return rows
	}
	out := append([]row(nil), rows[:foldAfter-4]...)
	out = append(out, row{at: "...", what: fmt.Sprintf("%d more", len(rows)-foldAfter+1), became: "the same"})
	return append(out, rows[len(rows)-3:]...)
}

// mechanism says in a few sentences, with the run's own numbers, why the flow does not recover.
func (t *text) mechanism(snap *lab.Snapshot, e *lab.Seen) {
	x := &e.Entry
	svc := t.service(x)
	if svc == nil {
		return
	}
	moved, now := t.movedAt(x), t.backends(svc)
	sent, fresh := t.after(x, moved)
	t.paragraph(fmt.Sprintf("The rules name %s since %s, but nf_nat_inet_fn asks them for a flow's first packet only: %s sent %d %s from port %d after that, and %s. "+
		"Every retry hits the old entry in nf_conntrack_in, and nf_conntrack_udp_packet starts its time anew before anything downstream can fail: "+
		"the entry outlives every client that asks again within %s.",
		strings.Join(now, ", "), sec(moved), t.name.addr(x.Orig.Src), sent, plural(sent, "query", "queries"), x.Orig.SrcPort, t.hits(svc, now, snap, fresh), t.lifetime(e, snap.Node)))
}

// columns is how wide a report may be.
const columns = 100

// paragraph writes indented lines of whole words.
func (t *text) paragraph(s string) {
	line := " "
	for _, w := range strings.Fields(s) {
		if len(line)+1+len(w) > columns {
			t.line("%s", line)
			line = " "
		}
		line += " " + w
	}
	t.line("%s", line)
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
	return value + " s"
}

func (t *text) service(x *conntrack.Entry) *lab.Service {
	for _, s := range t.r.Lab.Services {
		if s.VIP == x.Orig.Dst {
			return s
		}
	}
	return nil
}

// movedAt is when the entry's backend was restarted elsewhere.
func (t *text) movedAt(x *conntrack.Entry) time.Duration {
	at := time.Duration(0)
	for i := range t.r.Steps {
		if r := t.r.Steps[i].Outcome.Restarted; r != nil && r.From != r.To {
			at = t.r.Steps[i].Outcome.Ended
		}
	}
	return at
}

// backends are those that the rules name at the end.
func (t *text) backends(svc *lab.Service) []string {
	now := append([]string(nil), svc.Backends...)
	for i := range t.r.Steps {
		r := t.r.Steps[i].Outcome.Restarted
		if r == nil || r.From == r.To {
			continue
		}
		for j := range now {
			if now[j] == r.From {
				now[j] = r.To
			}
		}
	}
	return now
}

// after counts the flow's own queries, and those from fresh ports that were answered, since a moment.
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
