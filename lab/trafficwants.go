package lab

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"ctlab/checks"
)

// trafficKeys are what can be demanded of requests.
func trafficKeys() []key[*wantDraft] {
	var keys []key[*wantDraft]
	for _, what := range countNames() {
		value := ref("wanted")
		if what == "sent" {
			value = ref("wanted-number")
		}
		keys = append(keys, key[*wantDraft]{what, "how many requests: N, A..B, all, or {same-as: STEP.RESULT}", value, readCount})
	}
	return append(keys, []key[*wantDraft]{
		{"by", "the node whose server answers all, or {NODE: N}", either(identifier, valuesOf(ref("wanted"))), readBy},
		{"each", "the same of each client by itself", ref("each"), readEach},
		{"clients", "which clients had all requests end in one way: {CLASS: NAMES, by: {NODE: NAMES}}", ref("clients"), readClientsWant},
		{"latency", "times of answered requests", object(latencyKeys()), readLatency},
		{"outage", "the longest time without an answer, such as ..200ms", durationRange, func(d *decoder, w *wantDraft, f field) {
			if t, ok := d.timeWant(f); ok {
				w.traffic().Outage = &t
			}
		}},
	}...)
}

func trafficNames() []string {
	var names []string
	for _, k := range trafficKeys() {
		names = append(names, k.name)
	}
	return names
}

// bareClass is a class alone: all requests are of it.
func (d *decoder) bareClass(f field, context string) *TrafficWant {
	what := f.value.text
	names := slices.DeleteFunc(countNames(), func(n string) bool { return n == "sent" })
	if !slices.Contains(names, what) {
		hint := checks.DidYouMean(what, names, "lost (any), timeout, refused, unreachable, error")
		d.fail(f.value, hint, "%s: %s is no result", context, checks.Quote(what))
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
	if n, ok := d.wantedNumber(w, f, f.name() != "sent"); ok && d.possible(w, f, n) {
		t := w.traffic()
		t.Counts = append(t.Counts, CountWant{d.pos(f.key), f.name(), n})
	}
}

// possible reports a number that is more than the requests that the step sends.
func (d *decoder) possible(w *wantDraft, f field, n Number) bool {
	if w.most == 0 || n.All || n.SameAs != "" || n.Range.Min <= w.most {
		return true
	}
	sent := fmt.Sprintf("%d requests", w.most)
	if w.most == 1 {
		sent = "one request"
	}
	d.fail(f.value, fmt.Sprintf("at most %d", w.most), "%s: %s of %s that the step sends", f.name(), n.Text, sent)
	return false
}

// readBy reads who answered: a node alone means all answers.
func readBy(d *decoder, w *wantDraft, f field) {
	t := w.traffic()
	if f.value.kind != mapping {
		if name, ok := d.refer(f, "node"); ok {
			pos := d.pos(f.value)
			t.By = append(t.By, ByWant{d.pos(f.key), name, Number{Pos: pos, All: true, Text: "all"}})
		}
		return
	}
	if len(f.value.fields) == 0 {
		d.fail(f.value, "by: NODE", "by: an empty map")
	}
	for _, item := range f.value.fields {
		name, known := d.refer(field{f.key, item.key}, "node")
		if n, ok := d.wantedNumber(w, item, true); ok && known && d.possible(w, item, n) {
			t.By = append(t.By, ByWant{d.pos(item.key), name, n})
		}
	}
}

// readControl reads what is wanted of the control clients: the same as of the others.
func readControl(d *decoder, w *wantDraft, f field) {
	if !d.controlled(w.step.Clients) {
		d.fail(f.key, "clients: {"+firstOr(w.step.Clients, "CLIENT")+": {control: true, ...}}", "control: no client of the step has control: true")
		return
	}
	most := int64(0)
	if w.most > 0 {
		most = int64(w.step.Count) * int64(d.controls(w.step.Clients))
	}
	if t := d.innerTraffic(w, f, trafficKeys(), most); t != nil {
		w.traffic().Control = t
	}
}

// readEach reads what is wanted of each client by itself.
func readEach(d *decoder, w *wantDraft, f field) {
	if t := d.innerTraffic(w, f, keysWithout(trafficKeys(), "each", "clients"), int64(w.step.Count)); t != nil {
		w.traffic().Each = t
	}
}

func keysWithout(keys []key[*wantDraft], names ...string) []key[*wantDraft] {
	return slices.DeleteFunc(keys, func(k key[*wantDraft]) bool { return slices.Contains(names, k.name) })
}

// innerTraffic reads a class, or a map of wants of at most so many requests, or 0.
func (d *decoder) innerTraffic(w *wantDraft, f field, keys []key[*wantDraft], most int64) *TrafficWant {
	if f.value.kind == scalar && f.value.text != "" {
		return d.bareClass(f, f.name())
	}
	if !d.isMap(f.name(), f.value, "a class or a map of them") {
		return nil
	}
	if len(f.value.fields) == 0 {
		d.fail(f.value, f.name()+": answered", "%s: an empty map", f.name())
	}
	inner := &wantDraft{Want: &Want{}, step: w.step, kind: w.kind, run: w.run, most: most}
	readMap(d, f.name(), f.value.fields, keys, inner)
	return inner.Traffic
}

// controls is how many of the clients have a control.
func (d *decoder) controls(clients []string) int {
	n := 0
	for _, c := range clients {
		if d.names.clients[c] != nil && d.names.clients[c].Control {
			n++
		}
	}
	return n
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

// readClientsWant reads which clients had all of their requests end in one way: {CLASS: NAMES}, and
// {by: {NODE: NAMES}}.
func readClientsWant(d *decoder, w *wantDraft, f field) {
	if !d.isMap(f.name(), f.value, "a map, such as {answered: [NAME, NAME]}") {
		return
	}
	if len(f.value.fields) == 0 {
		d.fail(f.value, "clients: {answered: NAME}", "clients: an empty map")
	}
	for _, item := range f.value.fields {
		switch name := item.name(); {
		case name == "by":
			d.clientsBy(w, item)
		case slices.Contains(countNames(), name) && name != "sent":
			d.clientsWant(w, item, name)
		default:
			d.unknownKey("clients", item.key, append(slices.DeleteFunc(countNames(), func(n string) bool { return n == "sent" }), "by"))
		}
	}
}

func (d *decoder) clientsBy(w *wantDraft, f field) {
	if !d.isMap("by", f.value, "a map, such as {NODE: [NAME, NAME]}") {
		return
	}
	for _, item := range f.value.fields {
		if name, ok := d.refer(field{f.key, item.key}, "node"); ok {
			d.clientsWant(w, item, "by."+name)
		}
	}
}

// clientsWant reads names of clients, none, or {same-as: STEP.clients.WHAT}.
func (d *decoder) clientsWant(w *wantDraft, f field, what string) {
	c := ClientsWant{Pos: d.pos(f.key), What: what}
	switch {
	case f.value.kind == mapping:
		if len(f.value.fields) != 1 || f.value.fields[0].name() != "same-as" {
			d.fail(f.value, "{same-as: STEP.clients."+what+"}", "%s: a map instead of names", f.name())
			return
		}
		path := f.value.fields[0]
		if !d.isScalar(path, "the path of a result") || !d.clientsPath(w, path) {
			return
		}
		c.SameAs = path.value.text
	case !isNone(f.value):
		c.Names = d.distinct(f, "client")
	}
	t := w.traffic()
	t.Clients = append(t.Clients, c)
}

// clientsPath checks [STEP.]clients.CLASS and [STEP.]clients.by.NODE.
func (d *decoder) clientsPath(w *wantDraft, f field) bool {
	step, name, called, ok := d.resultStep(w, f)
	if !ok {
		return false
	}
	what, of := strings.CutPrefix(name, "clients.")
	if node, by := strings.CutPrefix(what, "by."); of && by && step.sends() {
		return d.answerer(f, node)
	}
	if of && step.sends() && slices.Contains(countNames(), what) && what != "sent" {
		return true
	}
	d.fail(f.value, "such as clients.answered, or clients.by.NODE", "same-as: %s has no clients %s", called, checks.Quote(name))
	return false
}

// readLatency reads times of answered requests.
func readLatency(d *decoder, w *wantDraft, f field) {
	if !d.isMap(f.name(), f.value, "a map, such as {p99: ..10ms}") {
		return
	}
	if len(f.value.fields) == 0 {
		d.fail(f.value, "latency: {p99: ..10ms}", "latency: an empty map")
	}
	readMap(d, "latency", f.value.fields, latencyKeys(), w)
}

func latencyKeys() []key[*wantDraft] {
	read := func(d *decoder, w *wantDraft, f field) {
		if t, ok := d.timeWant(f); ok {
			w.traffic().Latency = append(w.traffic().Latency, t)
		}
	}
	return []key[*wantDraft]{
		{"p50", "half of them took no longer", durationRange, read},
		{"p99", "99 of 100 took no longer", durationRange, read},
		{"max", "the longest", durationRange, read},
	}
}

// timeWant reads a time or a range of times.
func (d *decoder) timeWant(f field) (TimeWant, bool) {
	t := TimeWant{Pos: d.pos(f.key), What: f.name(), Max: -1}
	if !d.isScalar(f, "a time, or a range such as ..200ms") {
		return t, false
	}
	t.Text = f.value.text
	from, to, ranged := strings.Cut(t.Text, "..")
	end := func(text string, at int, into *time.Duration) bool {
		v, err := checks.ParseDuration(text)
		if *into = v; err != nil {
			err.Offset += at
			d.failAt(f.value, err, f.name())
		}
		return err == nil
	}
	switch {
	case !ranged:
		ok := end(from, 0, &t.Min)
		t.Max = t.Min
		return t, ok
	case from == "" && to == "":
		d.fail(f.value, "..200ms, or 1.9s..", "%s: a range without ends", f.name())
		return t, false
	case from != "" && !end(from, 0, &t.Min), to != "" && !end(to, len(from)+2, &t.Max):
		return t, false
	case to != "" && t.Max < t.Min:
		d.fail(f.value, to+".."+from, "%s: %s runs backwards", f.name(), checks.Quote(t.Text))
		return t, false
	}
	return t, true
}
