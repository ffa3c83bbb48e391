package lab

import (
	"fmt"
	"slices"

	"ctlab/checks"
)

// wantDraft is a want while it is read, with the step that it is of.
type wantDraft struct {
	*Want
	step *stepDraft
	kind *stepKind
	run  *script
}

// wantKeys are what a step of the kind may demand.
func wantKeys(kind *stepKind) []key[*wantDraft] {
	var keys []key[*wantDraft]
	if kind.traffic {
		for _, what := range countNames() {
			keys = append(keys, key[*wantDraft]{what, readCount})
		}
		keys = append(keys, key[*wantDraft]{"by", readBy}, key[*wantDraft]{"control", readControl})
		keys = append(keys, later[*wantDraft]("not-permitted", "reset", "wrong-source", "each", "clients", "latency", "outage")...)
	}
	if kind.deletes {
		keys = append(keys, key[*wantDraft]{"deleted", readDeleted})
	}
	keys = append(keys, tableWants()...)
	return append(keys, later[*wantDraft]("expectations", "ct", "out", "reply", "dropped", "entry", "seen", "inserted", "exit", "stdout", "stderr")...)
}

// countNames are what the requests of a step can be counted by.
func countNames() []string {
	var names []string
	for _, c := range Classes() {
		names = append(names, string(c))
	}
	return append(names, "lost", "sent")
}

// resultNames are all words that STEP.FIELD may have for FIELD.
func resultNames() []string { return append(countNames(), "control", "deleted") }

func (d *decoder) readWant(s *stepDraft, kind *stepKind, run *script) {
	f := s.want
	w := &wantDraft{Want: &Want{Pos: d.pos(f.value)}, step: s, kind: kind, run: run}
	s.Want = w.Want
	if f.value.kind == scalar && f.value.text != "" && kind.traffic {
		w.Traffic = d.bareClass(f, s.Kind)
		return
	}
	if !d.isMap("want", f.value, "a map of what is wanted") {
		return
	}
	if len(f.value.fields) == 0 {
		d.fail(f.value, "leave it out", "want: an empty map")
	}
	d.readWants(w, f.value.fields, wantKeys(kind))
	d.oneTable(w, f.value.fields)
}

// readWants is readMap with the words in which a result is misspelt.
func (d *decoder) readWants(w *wantDraft, fields []field, keys []key[*wantDraft]) {
	for _, f := range fields {
		if !slices.ContainsFunc(keys, func(k key[*wantDraft]) bool { return k.name == f.name() }) {
			d.noWant(w, f.key, keys)
			continue
		}
		readMap(d, string(w.step.Kind), []field{f}, keys, w)
	}
}

func (d *decoder) noWant(w *wantDraft, n *node, keys []key[*wantDraft]) {
	var names []string
	for _, k := range keys {
		if k.read != nil {
			names = append(names, k.name)
		}
	}
	context := string(w.step.Kind)
	text := kebabCase(n.text)
	switch near := checks.Nearest(text, names); {
	case text != n.text:
		d.unknownKey(context, n, names)
	case slices.Contains(countNames(), text) || text == "by" || text == "control":
		d.fail(n, "only query has one", "%s: there is no %q, since nothing is sent", context, text)
	case text == "deleted":
		d.fail(n, "only restart and conntrack have one", "%s: there is no %q, since nothing is deleted", context, text)
	case near != "":
		d.fail(n, fmt.Sprintf("did you mean %q?", near), "%s: %s is no result", context, checks.Quote(text))
	case w.kind.traffic:
		d.fail(n, "lost (any), timeout, refused, unreachable, error", "%s: %s is no result", context, checks.Quote(text))
	default:
		d.fail(n, some(names), "%s: %s is no result", context, checks.Quote(text))
	}
}

// bareClass is a class alone: all requests are of it.
func (d *decoder) bareClass(f field, kind Kind) *TrafficWant {
	what := f.value.text
	names := slices.DeleteFunc(countNames(), func(n string) bool { return n == "sent" })
	if !slices.Contains(names, what) {
		hint := checks.DidYouMean(what, names, "lost (any), timeout, refused, unreachable, error")
		d.fail(f.value, hint, "%s: %s is no result", kind, checks.Quote(what))
		return nil
	}
	pos := d.pos(f.value)
	return &TrafficWant{Counts: []CountWant{{pos, what, Number{Pos: pos, All: true, Text: "all"}}}}
}

func (w *wantDraft) traffic() *TrafficWant {
	if w.Traffic == nil {
		w.Traffic = &TrafficWant{}
	}
	return w.Traffic
}

func readCount(d *decoder, w *wantDraft, f field) {
	if n, ok := d.wantedNumber(w, f, f.name() != "sent"); ok {
		t := w.traffic()
		t.Counts = append(t.Counts, CountWant{d.pos(f.key), f.name(), n})
	}
}

// readBy reads who answered: a node alone means all answers.
func readBy(d *decoder, w *wantDraft, f field) {
	t := w.traffic()
	if f.value.kind != mapping {
		if name, ok := d.host(f); ok {
			pos := d.pos(f.value)
			t.By = append(t.By, ByWant{d.pos(f.key), name, Number{Pos: pos, All: true, Text: "all"}})
		}
		return
	}
	if len(f.value.fields) == 0 {
		d.fail(f.value, "by: NODE", "by: an empty map")
	}
	for _, item := range f.value.fields {
		name, known := d.host(field{f.key, item.key})
		if n, ok := d.wantedNumber(w, item, true); ok && known {
			t.By = append(t.By, ByWant{d.pos(item.key), name, n})
		}
	}
}

// readControl reads what is wanted of the control client: the same as of the others.
func readControl(d *decoder, w *wantDraft, f field) {
	if !d.controlled(w.step.Clients) {
		d.fail(f.key, "clients: {"+firstOr(w.step.Clients, "CLIENT")+": {control: true, ...}}", "control: no client of the step has control: true")
		return
	}
	if f.value.kind == scalar && f.value.text != "" {
		w.traffic().Control = d.bareClass(f, "control")
		return
	}
	if !d.isMap("control", f.value, "a class or a map of them") {
		return
	}
	if len(f.value.fields) == 0 {
		d.fail(f.value, "control: answered", "control: an empty map")
	}
	inner := &wantDraft{Want: &Want{}, step: w.step, kind: w.kind, run: w.run}
	for _, item := range f.value.fields {
		switch {
		case item.name() == "by":
			readBy(d, inner, item)
		case slices.Contains(countNames(), item.name()):
			readCount(d, inner, item)
		default:
			d.unknownKey("control", item.key, append(countNames(), "by"))
		}
	}
	w.traffic().Control = inner.Traffic
}

// controlled reports whether one of the clients has a control; names that are wrong count as if.
func (d *decoder) controlled(clients []string) bool {
	for _, c := range clients {
		if d.names.clients[c] == nil || d.names.clients[c].Control {
			return true
		}
	}
	return len(clients) == 0
}

func firstOr(names []string, or string) string {
	if len(names) > 0 {
		return names[0]
	}
	return or
}

func readDeleted(d *decoder, w *wantDraft, f field) {
	if n, ok := d.wantedNumber(w, f, false); ok {
		w.Deleted = &n
	}
}
