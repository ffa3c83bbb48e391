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
	most int64 // requests that there can be, or 0 where that is not known
}

// wantKeys are what a step may demand.
func wantKeys(s *stepDraft, kind *stepKind) []key[*wantDraft] {
	var keys []key[*wantDraft]
	if s.sends() {
		keys = append(trafficKeys(), key[*wantDraft]{"control", "the same of the queries from fresh ports", ref("traffic"), readControl})
	}
	if kind.deletes {
		keys = append(keys, key[*wantDraft]{"deleted", "how many entries the step deleted", ref("wanted-number"), readDeleted})
	}
	if s.program {
		keys = append(keys, programKeys()...)
	}
	if kind.packets {
		keys = append(keys, packetWants()...)
	}
	keys = append(keys, tableWants()...)
	return append(keys, later[*wantDraft]("reset", "expectations", "inserted")...)
}

// deletes reports kinds of steps that may delete entries.
func deletes(kind Kind) bool {
	return slices.ContainsFunc(stepKinds(), func(k stepKind) bool { return k.name == kind && k.deletes })
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
func resultNames() []string { return append(countNames(), "control", "by", "clients", "deleted") }

func (d *decoder) readWant(s *stepDraft, kind *stepKind, run *script) {
	f := s.want
	w := &wantDraft{Want: &Want{Pos: d.pos(f.value)}, step: s, kind: kind, run: run}
	s.Want = w.Want
	if s.Kind == Query && len(s.Clients) >= len(s.own[string(Query)].value.items) { // none of them was wrong
		w.most = int64(s.Count * len(s.Clients))
	}
	if f.value.kind == scalar && f.value.text != "" && s.sends() {
		w.Traffic = d.bareClass(f, string(s.Kind))
		return
	}
	if !d.isMap("want", f.value, "a map of what is wanted") {
		return
	}
	if len(f.value.fields) == 0 {
		d.fail(f.value, "leave it out", "want: an empty map")
	}
	d.readWants(w, f.value.fields, wantKeys(s, kind))
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
	case slices.Contains(append(trafficNames(), "control"), text) && w.step.program && len(w.step.Clients) > 0:
		d.fail(n, "exit, stdout, stderr", "%s: there is no %q, since %s is a program", context, text, w.step.Clients[0])
	case slices.Contains(append(trafficNames(), "control"), text):
		d.fail(n, "only query, and stop of a client, have one", "%s: there is no %q, since nothing is sent", context, text)
	case text == "deleted":
		d.fail(n, "restart, backends, conntrack and stop have one", "%s: there is no %q, since nothing is deleted", context, text)
	case slices.ContainsFunc(programKeys(), func(k key[*wantDraft]) bool { return k.name == text }):
		d.fail(n, "only exec has one, and clients that are programs", "%s: there is no %q, since no program runs", context, text)
	case slices.ContainsFunc(packetWants(), func(k key[*wantDraft]) bool { return k.name == text }):
		d.fail(n, "only packet has one", "%s: there is no %q, since no packet is made", context, text)
	case near != "":
		d.fail(n, fmt.Sprintf("did you mean %q?", near), "%s: %s is no result", context, checks.Quote(text))
	case w.step.sends():
		d.fail(n, "lost (any), timeout, refused, unreachable, error", "%s: %s is no result", context, checks.Quote(text))
	default:
		d.fail(n, some(names), "%s: %s is no result", context, checks.Quote(text))
	}
}

func readDeleted(d *decoder, w *wantDraft, f field) {
	if n, ok := d.wantedNumber(w, f, false); ok {
		w.Deleted = &n
	}
}

// programKeys are what can be demanded of a program.
func programKeys() []key[*wantDraft] {
	return []key[*wantDraft]{
		{"exit", "the exit code", ref("wanted-number"), func(d *decoder, w *wantDraft, f field) {
			if n, ok := d.wantedNumber(w, f, false); ok {
				w.Exit = &n
			}
		}},
		{"stdout", "what it wrote", object(outputKeys(nil)), func(d *decoder, w *wantDraft, f field) { w.Stdout = d.outputWant(w, f) }},
		{"stderr", "what it wrote", object(outputKeys(nil)), func(d *decoder, w *wantDraft, f field) { w.Stderr = d.outputWant(w, f) }},
	}
}

// outputWant reads {has: TEXT, lines: NUMBER}.
func (d *decoder) outputWant(w *wantDraft, f field) *OutputWant {
	out := &OutputWant{Pos: d.pos(f.value)}
	if !d.isMap(f.name(), f.value, "a map, such as {has: TEXT, lines: 1..}") {
		return out
	}
	if len(f.value.fields) == 0 {
		d.fail(f.value, "{has: TEXT, lines: 1..}", "%s: an empty map", f.name())
	}
	readMap(d, f.name(), f.value.fields, outputKeys(w), out)
	return out
}

func outputKeys(w *wantDraft) []key[*OutputWant] {
	return []key[*OutputWant]{
		{"has", "texts, each of which is in it", oneOrMore(text), func(d *decoder, o *OutputWant, f field) {
			for _, item := range d.list(f) {
				if d.isScalar(item, "a text") {
					o.Has = append(o.Has, item.value.text)
				}
			}
		}},
		{"lines", "how many lines", ref("wanted-number"), func(d *decoder, o *OutputWant, f field) {
			if n, ok := d.wantedNumber(w, f, false); ok {
				o.Lines = &n
			}
		}},
	}
}
