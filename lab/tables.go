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
		{"entries", func(d *decoder, w *wantDraft, f field) { w.Entries = d.entries(f) }},
		{"table", readTableWant},
		{"events", readEvents},
		{"rule-hits", readRuleHits},
		{"counters", readCounters},
		{"stale", func(d *decoder, w *wantDraft, f field) {
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

func (d *decoder) entries(f field) []PlacedEntry {
	if v := f.value; v.kind == scalar && v.text == "empty" {
		d.fail(v, "table: empty", "%s: what is there cannot be empty", f.name())
		return nil
	}
	var out []PlacedEntry
	for _, item := range d.list(f) {
		if w, ok := d.entryLine(item); ok {
			out = append(out, PlacedEntry{d.pos(item.value), w})
		}
	}
	return out
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
	w.Table = d.entries(f)
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

// rule checks SERVICE/BACKEND. The backend may be one that the service has later only.
func (d *decoder) rule(n *node) bool {
	service, backend, both := strings.Cut(n.text, "/")
	if !both {
		d.fail(n, "SERVICE/BACKEND", "rule-hits: %s is no rule", checks.Quote(n.text))
		return false
	}
	if d.names.services[service] == nil && !d.broken["services"] {
		d.failAt(n, &checks.LineError{Len: len(service), Msg: "no service " + checks.Quote(service), Hint: d.nameList(service, "service")}, "rule-hits")
		return false
	}
	host := d.names.nodes[backend]
	if (host == nil || host.Router) && !d.broken["nodes"] {
		d.failAt(n, &checks.LineError{Offset: len(service) + 1, Len: len(backend), Msg: "no host " + checks.Quote(backend), Hint: d.nameList(backend, "node")}, "rule-hits")
		return false
	}
	return true
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
