package lab

import (
	"slices"
	"strings"

	"ctlab/checks"
)

func waitKeys() []key[*stepDraft] {
	return []key[*stepDraft]{
		{"on", "the node to which the packet is on its way; of a router: the one to which it came", identifier, func(*decoder, *stepDraft, field) {}},
	}
}

// readWait reads a time, or a packet and on whose link it is waited for.
func readWait(d *decoder, s *stepDraft, f field) {
	on, given := s.own["on"]
	if v := f.value; v.kind != mapping && !(v.kind == scalar && strings.Contains(v.text, " > ")) {
		s.Wait = d.duration(f, false)
		if given {
			d.fail(on.key, "leave it out", "wait: a time passes everywhere")
		}
		return
	}
	s.Awaited, _ = d.wantedPacket(f)
	if !given {
		d.fail(f.key, "on: NODE", "wait: on whose link?")
		return
	}
	if n := d.oneNode(on); n != nil {
		s.On = n.Name
	}
}

func sysctlKeys() []key[*stepDraft] {
	return []key[*stepDraft]{
		{"set", "the settings and their values", settings, func(d *decoder, s *stepDraft, f field) {
			if s.Sysctls = d.sysctls(f); f.value.kind == mapping && len(s.Sysctls) == 0 {
				d.fail(f.value, "", "set: an empty map")
			}
		}},
	}
}

func readSetSysctl(d *decoder, s *stepDraft, f field) {
	s.Nodes = d.distinct(f, "node")
	d.stepNeeds(s, "set", "set: {net.netfilter.nf_conntrack_udp_timeout: 5}")
}

// stepNeeds reports a key that the kind cannot do without.
func (d *decoder) stepNeeds(s *stepDraft, key, hint string) {
	if _, given := s.own[key]; !given {
		d.fail(s.own[string(s.Kind)].key, hint, "%s: %q is missing", s.Kind, key)
	}
}

func tableKeys() []key[*stepDraft] {
	return append([]key[*stepDraft]{
		{"delete", "an entry line; all entries that match are deleted", ref("entry"), (*decoder).readDelete},
		{"flush", "true: the whole table", words("true"), (*decoder).readFlush},
		{"fill", "assured: entries of that kind, which no packet is of, take all the room that is left", words("assured"), func(d *decoder, s *stepDraft, f field) {
			s.Fill = d.oneOf(f, []string{"assured"}) != ""
		}},
	}, later[*stepDraft]("insert", "update", "until")...)
}

func readTable(d *decoder, s *stepDraft, f field) {
	s.Nodes = d.tracked(f)
	del, deletes := s.own["delete"]
	_, flushes := s.own["flush"]
	fill, fills := s.own["fill"]
	switch {
	case deletes && flushes:
		d.fail(del.key, "make two steps of it", "conntrack: both delete and flush")
	case fills && (deletes || flushes):
		d.fail(fill.key, "make two steps of it", "conntrack: fill, and delete or flush")
	case !deletes && !flushes && !fills && s.own["insert"].key == nil && s.own["update"].key == nil:
		d.fail(f.key, "delete: ENTRY, flush: true, or fill: assured", "conntrack: nothing says what to do with the table")
	}
}

func (d *decoder) readDelete(s *stepDraft, f field) {
	if f.value.kind == mapping {
		d.fail(f.value, "an entry line", "delete: a map is not supported here yet")
		return
	}
	if w, ok := d.entryLine(f); ok {
		if w.Times != checks.Exactly(1) {
			d.fail(f.value, "all entries that match are deleted", "delete: no number of entries can be said")
		}
		s.Delete = &w
	}
}

func (d *decoder) readFlush(s *stepDraft, f field) {
	if v := f.value; v.kind == scalar && strings.HasPrefix(v.text, "zone") {
		d.fail(v, "flush: true", "flush: a single zone is not supported yet")
		return
	}
	if s.Flush = d.bool(f); f.value.kind == scalar && f.value.text == "false" {
		d.fail(f.value, "leave it out", "flush: false does nothing")
	}
}

func readCheck(d *decoder, s *stepDraft, f field) {
	s.Nodes = d.tracked(f)
}

func checkKeys() []key[*stepDraft] {
	return []key[*stepDraft]{{"since", "the step behind which counting begins", identifier, readSince}}
}

// readSince reads the name of a step before, behind which counting begins. That it exists is checked when
// the steps before are known.
func readSince(d *decoder, s *stepDraft, f field) {
	if d.isScalar(f, "the name of a step before") {
		s.Since = f.value.text
	}
}

// since checks the step that since names.
func (d *decoder) since(s *stepDraft, run *script) {
	f, given := s.own["since"]
	if !given || s.Since == "" || run.named[s.Since] != nil {
		return
	}
	line, later := run.names[s.Since]
	switch {
	case later && line < s.node.line: // that step itself is wrong, which was said
	case later:
		d.fail(f.value, "only steps before have been", "since: step %q is not before this one (line %d)", s.Since, line)
	default:
		d.fail(f.value, d.stepHint(s.Since), "since: no step is named %s", checks.Quote(s.Since))
	}
}

// tracked is one node or several, all of which track connections.
func (d *decoder) tracked(f field) []string {
	return d.distinctOf(f, d.many(f, "node"), func(d *decoder, f field) (string, bool) {
		name, ok := d.refer(f, "node")
		if ok && !d.tracks(name) {
			d.fail(f.value, "there are: "+some(d.trackedNodes()), "%s: %q tracks nothing: it is a host without rules", f.name(), name)
		}
		return name, ok
	})
}

// tracks reports whether a node's table is looked at.
func (d *decoder) tracks(name string) bool {
	return slices.Contains(d.trackedNodes(), name) || d.broken["node "+name]
}

// trackedNodes are the routers, and the hosts with rules or an anchor.
func (d *decoder) trackedNodes() []string {
	if d.trackers != nil {
		return d.trackers
	}
	rules := map[string]bool{}
	for _, s := range d.lab.Services {
		for _, on := range s.On {
			rules[on] = true
		}
	}
	d.trackers = []string{}
	for _, n := range d.lab.Nodes {
		if n.Router || n.Anchor || rules[n.Name] {
			d.trackers = append(d.trackers, n.Name)
		}
	}
	return d.trackers
}
