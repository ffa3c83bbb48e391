package lab

import (
	"slices"
	"strings"

	"ctlab/checks"
)

// script is what is known while the steps are read in their order.
type script struct {
	named map[string]*stepDraft // the steps so far
	names map[string]int        // the line of every step's name
	clock clock
	where map[string]string // on which node a server is after the steps so far
	there map[string]string // the server that is on a node
	gone  map[string]int    // nodes that have lost their address, and the line of the step
}

func newScript(d *decoder, items []*node) *script {
	run := &script{named: map[string]*stepDraft{}, names: stepNames(items), gone: map[string]int{},
		where: map[string]string{}, there: map[string]string{}}
	for _, s := range d.lab.Servers {
		run.where[s.Name], run.there[s.On] = s.On, s.Name
	}
	return run
}

func (r *script) move(server, from, to string) {
	delete(r.there, from)
	r.where[server], r.there[to] = to, server
}

func queryKeys() []key[*stepDraft] {
	return append([]key[*stepDraft]{
		{"count", func(d *decoder, s *stepDraft, f field) {
			if n, ok := d.number(f, 1, maxCount); ok {
				s.Count = int(n)
			}
		}},
	}, later[*stepDraft]("together", "sockets")...)
}

func readQuery(d *decoder, s *stepDraft, f field) {
	s.Clients = d.distinct(f, func(d *decoder, f field) (string, bool) { return d.refer(f, "client") })
}

func restartKeys() []key[*stepDraft] {
	return append([]key[*stepDraft]{
		{"on", func(d *decoder, s *stepDraft, f field) { s.On, _ = d.host(f) }},
		{"death", func(d *decoder, s *stepDraft, f field) {
			s.Death = Death(d.oneOf(f, []string{string(DeathProcess), string(DeathAddress)}, "route", "drop", "reuse"))
		}},
	}, later[*stepDraft]("follow")...)
}

func readRestart(d *decoder, s *stepDraft, f field) {
	s.Server, _ = d.refer(f, "server")
}

// play follows servers from node to node, and fills in what a restart leaves out.
func (d *decoder) play(s *stepDraft, run *script) {
	server := d.names.servers[s.Server]
	if s.Kind != Restart || server == nil {
		return
	}
	from := run.where[s.Server]
	if _, given := s.own["on"]; !given {
		s.On = from
	}
	if _, given := s.own["death"]; !given {
		s.Death = DeathAddress
		if s.On == from {
			s.Death = DeathProcess
		}
	}
	if s.On == "" || from == "" {
		return // reported
	}
	d.canRun(s, run, from)
	if s.Death == DeathAddress {
		run.gone[from] = s.Pos.Line
	}
	run.move(s.Server, from, s.On)
}

// canRun reports a server that could not come back where it is to.
func (d *decoder) canRun(s *stepDraft, run *script, from string) {
	at := s.own["on"].value
	if at == nil {
		at = s.own[string(Restart)].value
	}
	if line, gone := run.gone[s.On]; gone {
		d.fail(at, "on: another node", "restart: %s has lost its address (line %d)", s.On, line)
		return
	}
	if s.On == from && s.Death == DeathAddress {
		d.fail(s.own["death"].value, "on: another node", "death: %s loses its address, so nothing can come back on it", from)
		return
	}
	if other := run.there[s.On]; other != "" && other != s.Server {
		d.fail(at, "on: another node", "restart: %s answers on port %d of %s already", other, dnsPort, s.On)
	}
}

func readWait(d *decoder, s *stepDraft, f field) {
	if v := f.value; v.kind == scalar && strings.Contains(v.text, " > ") {
		d.fail(v, "a time, such as 500ms", "wait: waiting for a packet is not supported yet")
		return
	}
	s.Wait = d.duration(f, false)
}

func sysctlKeys() []key[*stepDraft] {
	return []key[*stepDraft]{
		{"set", func(d *decoder, s *stepDraft, f field) {
			if s.Sysctls = d.sysctls(f); f.value.kind == mapping && len(s.Sysctls) == 0 {
				d.fail(f.value, "", "set: an empty map")
			}
		}},
	}
}

func readSetSysctl(d *decoder, s *stepDraft, f field) {
	s.Nodes = d.distinct(f, func(d *decoder, f field) (string, bool) { return d.refer(f, "node") })
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
		{"delete", (*decoder).readDelete},
		{"flush", (*decoder).readFlush},
	}, later[*stepDraft]("insert", "update", "until")...)
}

func readTable(d *decoder, s *stepDraft, f field) {
	s.Nodes = d.tracked(f)
	del, deletes := s.own["delete"]
	_, flushes := s.own["flush"]
	switch {
	case deletes && flushes:
		d.fail(del.key, "make two steps of it", "conntrack: both delete and flush")
	case !deletes && !flushes && s.own["insert"].key == nil && s.own["update"].key == nil:
		d.fail(f.key, "delete: ENTRY, or flush: true", "conntrack: nothing says what to do with the table")
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

// tracked is one node or several, all of which track connections.
func (d *decoder) tracked(f field) []string {
	return d.distinct(f, func(d *decoder, f field) (string, bool) {
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
