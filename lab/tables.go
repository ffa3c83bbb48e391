package lab

import (
	"fmt"
	"slices"
	"strings"

	"ctlab/checks"
)

// tableWants are what can be demanded of a node's table, events and counters.
func tableWants() []key[*wantDraft] {
	return []key[*wantDraft]{
		{"entries", "entries that are there, others may be; a line, {line, times} or a list", ref("entries"), func(d *decoder, w *wantDraft, f field) { w.Entries = d.entries(w, f) }},
		{"table", "exactly these entries, or empty", either(words("empty"), ref("entries")), readTableWant},
		{"events", "events in this order, others between: [no] new|update|destroy ENTRY", oneOrMore(ref("event")), readEvents},
		{"rule-hits", "packets counted by rules: SERVICE/BACKEND, SERVICE/reject, or NAME.N of the lab's own", valuesOf(ref("wanted-number")), readRuleHits},
		{"counters", "conntrack -S since the last check: unchanged, or {COUNTER: N}", ref("counters"), readCounters},
		{"stale", "how many entries are stale", ref("wanted"), func(d *decoder, w *wantDraft, f field) {
			if n, ok := d.wantedNumber(w, f, true); ok {
				w.Stale = &n
			}
		}},
	}
}

// counterNames are the columns of conntrack -S, in kebab-case.
func counterNames() []string {
	return []string{"found", "invalid", "insert", "insert-failed", "drop", "early-drop", "error", "search-restart", "clash-resolve", "chain-toolong"}
}

// oneTable reports a want about a table if nothing says whose.
func (d *decoder) oneTable(w *wantDraft, fields []field) {
	if w.kind.name == Check {
		return
	}
	tracked := d.trackedNodes()
	if len(tracked) == 1 || d.broken["nodes"] {
		return
	}
	for _, f := range fields {
		if !slices.ContainsFunc(tableWants(), func(k key[*wantDraft]) bool { return k.name == f.name() }) {
			continue
		}
		if len(tracked) == 0 {
			d.fail(f.key, "a router tracks", "%s: this lab tracks no node", w.step.Kind)
			return
		}
		d.fail(f.key, "make it a step: check: "+tracked[0], "%s: this lab tracks %s", w.step.Kind, manyNodes(tracked))
		return
	}
}

func manyNodes(names []string) string {
	if len(names) == 2 {
		return fmt.Sprintf("two nodes, %q and %q", names[0], names[1])
	}
	return fmt.Sprintf("%d nodes: %s", len(names), some(names))
}

func (d *decoder) entries(w *wantDraft, f field) []PlacedEntry {
	if v := f.value; v.kind == scalar && v.text == "empty" {
		d.fail(v, "table: empty", "%s: what is there cannot be empty", f.name())
		return nil
	}
	var out []PlacedEntry
	for _, item := range d.list(f) {
		if item.value.kind == mapping {
			if p, ok := d.countedEntry(w, item); ok {
				out = append(out, p)
			}
			continue
		}
		if e, ok := d.entryLine(item); ok {
			out = append(out, PlacedEntry{Pos: d.pos(item.value), Want: e})
		}
	}
	return out
}

// countedEntry reads {line: ENTRY, times: NUMBER}.
func (d *decoder) countedEntry(w *wantDraft, f field) (PlacedEntry, bool) {
	p := PlacedEntry{Pos: d.pos(f.value)}
	ok := false
	readMap(d, f.name(), f.value.fields, countedKeys(w, &ok), &p)
	for _, needed := range []string{"line", "times"} {
		if f.value.find(needed) < 0 {
			d.fail(f.value, "{line: ENTRY, times: 2}", "%s: %q is missing", f.name(), needed)
			ok = false
		}
	}
	return p, ok && p.Times != nil
}

// countedKeys are those of {line, times}; ok becomes whether the line is.
func countedKeys(w *wantDraft, ok *bool) []key[*PlacedEntry] {
	return []key[*PlacedEntry]{
		{"line", "the entry", ref("entry"), func(d *decoder, p *PlacedEntry, f field) {
			p.Pos = d.pos(f.value)
			if p.Want, *ok = d.entryLine(f); *ok && p.Want.Times != checks.Exactly(1) {
				d.fail(f.value, "times: says it", "line: its number stands behind times")
			}
		}},
		{"times", "how many", ref("wanted-number"), func(d *decoder, p *PlacedEntry, f field) {
			if n, ok := d.wantedNumber(w, f, false); ok {
				p.Times = &n
			}
		}},
	}
}

func readTableWant(d *decoder, w *wantDraft, f field) {
	w.HasTable = true
	switch v := f.value; {
	case v.kind == scalar && v.text == "empty":
		return
	case v.kind == sequence && len(v.items) == 0:
		d.fail(v, "table: empty", "table: an empty list")
		return
	}
	w.Table = d.entries(w, f)
	for _, e := range w.Table {
		if e.Want.Times == checks.Exactly(0) {
			d.report(e.Pos.Line, e.Pos.Col, columns(e.Want.Text), "leave it out", "table: what is not listed must not be there")
		}
	}
}

func readEvents(d *decoder, w *wantDraft, f field) {
	for _, item := range d.list(f) {
		if ev, ok := d.eventLine(item); ok {
			w.Events = append(w.Events, ev)
		}
	}
}

func readRuleHits(d *decoder, w *wantDraft, f field) {
	if !d.isMap(f.name(), f.value, "a map, such as {kube-dns/coredns-1: 3}") {
		return
	}
	for _, item := range f.value.fields {
		n, ok := d.wantedNumber(w, item, false)
		if d.rule(item.key) && ok {
			w.RuleHits = append(w.RuleHits, RuleHitWant{d.pos(item.key), item.name(), n})
		}
	}
}

// rule checks SERVICE/BACKEND, SERVICE/reject, and NAME or NAME.N of the lab's own rules. A backend may be
// one that the service has later only, and a text one that it gets by a step.
func (d *decoder) rule(n *node) bool {
	service, backend, both := strings.Cut(n.text, "/")
	if !both {
		return d.ownRule(n)
	}
	if d.names.services[service] == nil && !d.broken["services"] {
		d.failAt(n, &checks.LineError{Len: len(service), Msg: "no service " + checks.Quote(service), Hint: d.nameList(service, "service")}, "rule-hits")
		return false
	}
	host := d.names.nodes[backend]
	if backend != "reject" && (host == nil || host.Router) && !d.broken["nodes"] {
		d.failAt(n, &checks.LineError{Offset: len(service) + 1, Len: len(backend), Msg: "no host " + checks.Quote(backend), Hint: d.nameList(backend, "node")}, "rule-hits")
		return false
	}
	return true
}

func (d *decoder) ownRule(n *node) bool {
	name, number, numbered := strings.Cut(n.text, ".")
	var texts []string
	for t := range d.names.rules {
		texts = append(texts, t)
	}
	slices.Sort(texts)
	switch i, err := checks.ParseNumber(number); {
	case !d.names.rules[name] && len(texts) == 0:
		d.fail(n, "SERVICE/BACKEND, or SERVICE/reject", "rule-hits: %s is no rule", checks.Quote(n.text))
	case !d.names.rules[name]:
		d.fail(n, checks.DidYouMean(name, texts, "SERVICE/BACKEND, SERVICE/reject, or rules: "+some(texts)), "rule-hits: no rules are called %s", checks.Quote(name))
	case numbered && (err != nil || i < 1):
		d.fail(n, name+".1 is the first", "rule-hits: %s is no number of a rule", checks.Quote(number))
	default:
		return true
	}
	return false
}

func readCounters(d *decoder, w *wantDraft, f field) {
	if v := f.value; v.kind == scalar && v.text != "" {
		w.Still, w.StillPos = d.oneOf(f, []string{"unchanged"}) != "", d.pos(v)
		return
	}
	if !d.isMap(f.name(), f.value, "a map, or unchanged") {
		return
	}
	for _, item := range f.value.fields {
		n, ok := d.wantedNumber(w, item, false)
		if !slices.Contains(counterNames(), item.name()) {
			d.unknownKey("counters", item.key, counterNames())
			continue
		}
		if ok {
			w.Counters = append(w.Counters, CounterWant{d.pos(item.key), item.name(), n})
		}
	}
}
