package lab

import (
	"fmt"
	"slices"
	"time"

	"ctlab/checks"
)

// maxSteps and maxCount bound what a lab may ask for.
const (
	maxSteps = 10000
	maxCount = 1000000
)

// stepDraft is a step while it is read.
type stepDraft struct {
	*Step
	node *node
	want field
	own  map[string]field // the keys that were given, by name
	// program: its clients are programs, or it is an exec step.
	program bool
}

// stepKind is a kind of step: its key, what it does, the keys that are its own, and what it can have
// results of. A kind without a reader is of the language and not supported yet.
type stepKind struct {
	name    Kind
	does    string
	value   shape // of its key
	read    func(d *decoder, s *stepDraft, f field)
	keys    []key[*stepDraft]
	traffic bool // it sends requests
	deletes bool // it may delete entries
	packets bool // it makes packets
}

// stepKinds is the whole vocabulary of steps, in the order in which it is shown.
func stepKinds() []stepKind {
	return append([]stepKind{
		{name: Query, does: "clients send requests and wait for what becomes of them", value: oneOrMore(nameOrGlob), read: readQuery, keys: queryKeys(), traffic: true},
		{name: Start, does: "clients ask in the background; servers start", value: oneOrMore(nameOrGlob), read: readStart, keys: startKeys()},
		{name: Stop, does: "clients stop asking, and are judged; servers end", value: oneOrMore(nameOrGlob), read: readStop, keys: stopKeys(), traffic: true, deletes: true},
		{name: Restart, does: "a server ends and comes back, perhaps on another node", value: identifier, read: readRestart, keys: restartKeys(), deletes: true},
		{name: SetBackends, does: "a service gets other backends", value: identifier, read: readSetBackends, keys: backendsKeys(), deletes: true},
		{name: SetRules, does: "the lab's own rules change", value: identifier, read: readSetRules, keys: rulesKeys()},
		{name: SetSysctl, does: "settings change", value: oneOrMore(nameOrGlob), read: readSetSysctl, keys: sysctlKeys()},
		{name: SetLink, does: "a link goes down or up, or away", value: linkEndShape, read: readSetLink, keys: linkKeys()},
		{name: SetAddress, does: "a node gets an address, or loses one", value: linkEndShape, read: readSetAddress, keys: addressKeys()},
		{name: SetRoute, does: "a node's routes change", value: identifier, read: readSetRoute, keys: routeKeys()},
		{name: Table, does: "entries are deleted", value: oneOrMore(nameOrGlob), read: readTable, keys: tableKeys(), deletes: true},
		{name: PutPacket, does: "a packet is put on a wire", value: ref("packet"), read: readPacket, keys: packetStepKeys(), packets: true},
		{name: Hold, does: "packets wait on their way through a node", value: identifier, read: readHold, keys: holdKeys()},
		{name: Release, does: "packets that wait go on, or are dropped; with the last of them the hold is over", value: identifier, read: readRelease, keys: releaseKeys()},
		{name: Wait, does: "time passes, or until a packet is on its way to a node", value: either(duration, ref("packet")), read: readWait, keys: waitKeys()},
		{name: Exec, does: "a program runs in a node", value: listOf(text), read: readExec, keys: execKeys()},
		{name: Check, does: "a node's table, counters and events are read", value: oneOrMore(nameOrGlob), read: readCheck, keys: checkKeys()},
	}, laterKinds("send", "burst")...)
}

func laterKinds(names ...string) []stepKind {
	kinds := make([]stepKind, len(names))
	for i, n := range names {
		kinds[i].name = Kind(n)
	}
	return kinds
}

// commonKeys are the keys that every step may have. Some are read before: the name, because later steps
// refer to it, and what decides which steps there are.
func commonKeys() []key[*stepDraft] {
	return []key[*stepDraft]{
		{"name", "what other steps and variants call it", identifier, func(*decoder, *stepDraft, field) {}},
		{"for", "the step again and again, such as {i: 1..3}; ${i} is the number", repetitionShape, func(*decoder, *stepDraft, field) {}},
		{"only-in", "variants that have the step", oneOrMore(identifier), func(*decoder, *stepDraft, field) {}},
		{"not-in", "variants that have it not", oneOrMore(identifier), func(*decoder, *stepDraft, field) {}},
		{"at", "when it begins, since the first step began", duration, func(d *decoder, s *stepDraft, f field) {
			at := d.duration(f, true)
			s.At = &at
		}},
		{"after", "how long after the end of the step before it begins", duration, func(d *decoder, s *stepDraft, f field) { s.After = d.duration(f, true) }},
		{"every", "from start to start of a client's requests, or of the step's repetitions", duration, readEvery},
		{"within", "its wants about tables come true in that time", duration, func(d *decoder, s *stepDraft, f field) { s.Within = d.duration(f, false) }},
		{"always", "its wants about tables hold all that time", duration, func(d *decoder, s *stepDraft, f field) { s.Always = d.duration(f, false) }},
		{"deadline", "how long the step itself may take", duration, func(d *decoder, s *stepDraft, f field) { s.Deadline = d.duration(f, false) }},
		{"want", "what the step demands", anything, func(_ *decoder, s *stepDraft, f field) { s.want = f }},
	}
}

// readEvery reads the time from start to start: of a client's requests, or of a step's repetitions.
func readEvery(d *decoder, s *stepDraft, f field) {
	every := d.duration(f, false)
	switch repeats := s.node.repeats; {
	case repeats == 0 || s.Kind == Start:
		s.Every = every
	case repeats > 1:
		s.Behind = every
	}
}

func (d *decoder) readSteps() {
	section := d.sections["steps"]
	if section == nil {
		return
	}
	if len(section.items) == 0 {
		d.fail(section, "- query: CLIENT", "steps: there are none")
	}
	if len(section.items) > maxSteps {
		d.fail(section.items[maxSteps], "", "steps: more than %d", maxSteps)
		section.items = section.items[:maxSteps]
	}
	kinds := stepKinds()
	run := newScript(d, section.items)
	for i, item := range section.items {
		if d.full() {
			return
		}
		if s := d.readStep(kinds, i+1, item, run); s != nil {
			d.lab.Steps = append(d.lab.Steps, s.Step)
		}
	}
}

// stepNames finds all names of steps, so that one that comes too late is not said to be missing.
func stepNames(items []*node) map[string]int {
	names := map[string]int{}
	for _, item := range items {
		if n := item.get("name"); n != nil && n.kind == scalar {
			if _, twice := names[n.text]; !twice {
				names[n.text] = n.line
			}
		}
	}
	return names
}

func (d *decoder) readStep(kinds []stepKind, index int, item *node, run *script) *stepDraft {
	context := fmt.Sprintf("step %d", index)
	if item.kind == mapping && len(item.fields) == 0 {
		d.fail(item, d.kindHint(), "%s: no kind; nothing says what it does", context)
		return nil
	}
	if !d.isMap(context, item, "a map with the kind of the step, such as query: CLIENT") {
		return nil
	}
	kind, act := d.kindOf(kinds, context, item)
	if kind == nil {
		return nil
	}
	if kind.read == nil {
		d.fail(act.key, "supported: "+some(supportedKinds(kinds)), "%s: %q is not supported yet", context, act.name())
		return nil
	}
	s := &stepDraft{Step: &Step{Pos: d.pos(item), Index: index, Kind: kind.name}, node: item, own: map[string]field{}}
	for _, f := range item.fields {
		s.own[f.name()] = f
	}
	d.stepName(s, run)
	kind.read(d, s, act)
	d.stepKeys(s, kinds, kind)
	if s.program && s.Kind != Start && s.Kind != Stop && s.own["deadline"].key == nil {
		s.Deadline = programLimit*time.Duration(max(1, s.Count)) + time.Duration(s.Count)*s.Every
	}
	d.stepTimes(s, run)
	d.play(s, run)
	d.since(s, run)
	if s.want.key != nil {
		d.readWant(s, kind, run)
	}
	d.looks(s)
	if s.Name != "" {
		run.named[s.Name] = s
	}
	return s
}

// kindOf finds the one key that says what the step does.
func (d *decoder) kindOf(kinds []stepKind, context string, item *node) (*stepKind, field) {
	var found *stepKind
	var act field
	for _, f := range item.fields {
		i := slices.IndexFunc(kinds, func(k stepKind) bool { return string(k.name) == f.name() })
		switch {
		case i < 0:
		case found == nil:
			found, act = &kinds[i], f
		default:
			d.fail(f.key, "make two steps of it", "%s: two kinds, %q (line %d) and %q", context, act.name(), act.key.line, f.name())
			return nil, act
		}
	}
	if found == nil {
		d.noKind(kinds, context, item)
	}
	return found, act
}

func (d *decoder) noKind(kinds []stepKind, context string, item *node) {
	var common, all []string
	for _, k := range commonKeys() {
		common = append(common, k.name)
	}
	for _, k := range kinds {
		all = append(all, string(k.name))
		for _, own := range k.keys {
			common = append(common, own.name)
		}
	}
	for _, f := range item.fields {
		if near := checks.Nearest(kebabCase(f.name()), all); near != "" && !slices.Contains(common, f.name()) {
			d.fail(f.key, fmt.Sprintf("did you mean %q?", near), "%s: no kind; %s is none", context, checks.Quote(f.name()))
			return
		}
	}
	d.fail(item.fields[0].key, d.kindHint(), "%s: no kind; nothing says what it does", context)
}

func supportedKinds(kinds []stepKind) []string {
	var names []string
	for _, k := range kinds {
		if k.read != nil {
			names = append(names, string(k.name))
		}
	}
	return names
}

func (d *decoder) kindHint() string {
	client := "CLIENT"
	if clients := d.names.order["client"]; len(clients) > 0 {
		client = clients[0]
	}
	return "add query: " + client + ", or " + some(supportedKinds(stepKinds())[1:])
}

// stepKeys reads the keys beside the kind.
func (d *decoder) stepKeys(s *stepDraft, kinds []stepKind, kind *stepKind) {
	keys := append(commonKeys(), kind.keys...)
	for _, f := range s.node.fields {
		if f.name() == string(kind.name) {
			continue
		}
		if k := ownerOf(kinds, f.name()); k != "" && !slices.ContainsFunc(keys, func(k key[*stepDraft]) bool { return k.name == f.name() }) {
			d.fail(f.key, fmt.Sprintf("%s belongs to %s", f.name(), k), "%s: unknown key %q", s.Kind, f.name())
			continue
		}
		readMap(d, string(s.Kind), []field{f}, keys, s)
	}
}

// ownerOf is the kind of step whose own key it is, or "".
func ownerOf(kinds []stepKind, name string) Kind {
	for _, k := range kinds {
		if slices.ContainsFunc(k.keys, func(own key[*stepDraft]) bool { return own.name == name }) {
			return k.name
		}
	}
	return ""
}

// stepName reads the name, which is unique and no result's, because STEP.FIELD and FIELD must differ.
func (d *decoder) stepName(s *stepDraft, run *script) {
	f, given := s.own["name"]
	if !given || !d.isScalar(f, "a name") || !d.isName(f.value, "name") {
		return
	}
	name := f.value.text
	switch before := run.named[name]; {
	case before != nil:
		d.fail(f.value, "", "name: step %d is called %q already (line %d)", before.Index, name, before.own["name"].value.line)
	case slices.Contains(resultNames(), name):
		d.fail(f.value, "choose another name", "name: %q is what a result is called", name)
	default:
		s.Name = name
	}
}

// clock is when the step before begins and ends at the earliest.
type clock struct {
	begins, ends time.Duration
	line         int
}

func (d *decoder) stepTimes(s *stepDraft, run *script) {
	every, at, after := s.own["every"], s.own["at"], s.own["after"]
	if _, counts := s.own["count"]; every.key != nil && s.node.repeats == 0 && s.Kind != Start && s.Count <= 1 && (!counts || s.Kind != Query) {
		d.fail(every.key, "every is from start to start of a count", "%s: every without a count above 1", s.Kind)
	}
	before := run.clock
	first := before.line == 0
	switch {
	case at.key != nil && after.key != nil:
		d.fail(at.key, "at counts from the first step, after from the step before", "%s: both at and after", s.Kind)
	case at.key == nil || s.At == nil:
	case first && *s.At > 0:
		d.fail(at.value, "leave it out", "at: the clock begins with the first step")
	case *s.At < before.begins:
		d.fail(at.value, "steps run in order", "the step before begins at %s (line %d)", before.begins, before.line)
	case *s.At < before.ends:
		d.fail(at.value, "steps run in order", "the step before ends at %s (line %d)", before.ends, before.line)
	}
	begins := max(before.ends+s.After, before.begins+s.Behind)
	if s.At != nil {
		begins = max(begins, *s.At)
	}
	took := s.Wait
	if s.Kind != Start { // which goes on in the background
		took += time.Duration(max(0, s.Count-1)) * s.Every
	}
	if took < 0 || begins+took < 0 { // it ends beyond what a Duration holds, some 292 years
		d.fail(s.node, "", "%s: it never ends", s.Kind)
		took = 0
	}
	run.clock = clock{begins, begins + took, s.Pos.Line}
}

// looks checks within and always, which look at tables again and again.
func (d *decoder) looks(s *stepDraft) {
	within, always := s.own["within"], s.own["always"]
	if within.key != nil && always.key != nil {
		d.fail(always.key, "make two steps of it", "%s: both within and always", s.Kind)
	}
	for _, f := range []field{within, always} {
		if f.key != nil && !asksTable(s.want.value) {
			d.fail(f.key, "entries, table, events, counters, rule-hits or stale", "%s: %s without a want about a table", s.Kind, f.name())
		}
	}
}

// asksTable reports a want of which some part is about a table.
func asksTable(want *node) bool {
	return want != nil && slices.ContainsFunc(tableWants(), func(k key[*wantDraft]) bool { return want.find(k.name) >= 0 })
}
