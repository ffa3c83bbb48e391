package lab

import (
	"slices"
	"strings"

	"ctlab/checks"
)

func queryKeys() []key[*stepDraft] {
	return append([]key[*stepDraft]{{"count", "how many requests each client sends", wholeNumber(1, maxCount), readQueryCount}}, later[*stepDraft]("together", "sockets", "data")...)
}

func readQueryCount(d *decoder, s *stepDraft, f field) {
	if n, ok := d.number(f, 1, maxCount); ok {
		s.Count = int(n)
	}
}

func readQuery(d *decoder, s *stepDraft, f field) {
	s.Count = 1
	s.Clients = d.distinct(f, "client")
	s.program = d.programs(s, f)
}

func startKeys() []key[*stepDraft] {
	return append([]key[*stepDraft]{{"count", "how many requests each client sends; else until it is stopped", wholeNumber(1, maxCount), readQueryCount}}, later[*stepDraft]("sockets")...)
}

// readPrograms reads the clients and servers that are started or stopped.
func readPrograms(d *decoder, s *stepDraft, f field) {
	read := func(d *decoder, f field) (string, bool) {
		if !d.isScalar(f, "the name of a client or a server") {
			return "", false
		}
		name := f.value.text
		switch there := d.names.programs[name]; {
		case there.kind == "client":
			s.Clients = append(s.Clients, name)
		case there.kind == "server":
			s.Servers = append(s.Servers, name)
		default:
			d.noProgram(f, name)
			return "", false
		}
		return name, true
	}
	d.distinctOf(f, d.many(f, "client", "server"), read)
	s.Clients, s.Servers = unique(s.Clients), unique(s.Servers)
}

// unique drops names that stand again, which was reported.
func unique(names []string) []string {
	var out []string
	seen := map[string]bool{}
	for _, n := range names {
		if !seen[n] {
			seen[n] = true
			out = append(out, n)
		}
	}
	return out
}

func (d *decoder) noProgram(f field, name string) {
	if d.broken["clients"] || d.broken["servers"] {
		return
	}
	all := append(append([]string(nil), d.names.order["client"]...), d.names.order["server"]...)
	if is, there := d.names.places[name]; there {
		d.fail(f.value, "clients and servers: "+some(all), "%s: %q is a %s, not a client or a server", f.name(), name, is.kind)
		return
	}
	d.fail(f.value, checks.DidYouMean(name, all, "clients and servers: "+some(all)), "%s: no client or server %s", f.name(), checks.Quote(name))
}

// readStart reads what is started. Clients go on until they are stopped, unless a count is given.
func readStart(d *decoder, s *stepDraft, f field) {
	readPrograms(d, s, f)
	s.program = d.programs(s, f)
	for _, name := range []string{"count", "every"} {
		switch own, given := s.own[name]; {
		case given && len(s.Clients) == 0 && len(s.Servers) > 0:
			d.fail(own.key, "", "start: %s is for clients", name)
		case given && s.program:
			d.fail(own.key, "it runs once", "start: %s is for clients that ask", name)
		}
	}
}

func stopKeys() []key[*stepDraft] {
	return append([]key[*stepDraft]{{"since", "the step behind which its outcome begins", identifier, readSince}, {"death", "how a server goes away", deathShape, readDeath}}, later[*stepDraft]("sockets", "how")...)
}

func readStop(d *decoder, s *stepDraft, f field) {
	readPrograms(d, s, f)
	if s.program = d.programs(s, f); s.program {
		if own, given := s.own["since"]; given {
			d.fail(own.key, "", "stop: since is for clients that ask")
		}
	}
	if len(s.Servers) > 0 {
		s.Death = DeathProcess
	}
	if own, given := s.own["death"]; given && len(s.Servers) == 0 && len(s.Clients) > 0 {
		d.fail(own.key, "", "stop: death is for servers")
	}
	if own, given := s.own["since"]; given && len(s.Clients) == 0 && len(s.Servers) > 0 {
		d.fail(own.key, "", "stop: since is for clients")
	}
}

// sends reports whether the step has requests that can be judged.
func (s *stepDraft) sends() bool {
	return !s.program && (s.Kind == Query || s.Kind == Stop && (len(s.Clients) > 0 || len(s.Servers) == 0))
}

func restartKeys() []key[*stepDraft] {
	return []key[*stepDraft]{
		{"on", "the node on which it comes back", identifier, func(d *decoder, s *stepDraft, f field) { s.On, _ = d.stack(f) }},
		{"death", "how the old server goes away; address, and process where it stays on its node", deathShape, readDeath},
		{"follow", "false: services keep their backends", boolean, func(d *decoder, s *stepDraft, f field) {
			s.NoFollow = d.oneOf(f, []string{"true", "false"}) == "false"
		}},
	}
}

func readRestart(d *decoder, s *stepDraft, f field) {
	s.Server, _ = d.refer(f, "server")
}

// readDeath reads a death by its word, or {reuse: NODE}.
func readDeath(d *decoder, s *stepDraft, f field) {
	words := []string{string(DeathProcess), string(DeathAddress), string(DeathRoute), string(DeathDrop)}
	if f.value.kind != mapping {
		if v := f.value; v.kind == scalar && v.text == string(DeathReuse) {
			d.fail(v, "{reuse: NODE}", "death: reuse by which node?")
			return
		}
		if v := f.value; v.kind == scalar && v.text != "" && !slices.Contains(words, v.text) {
			d.fail(v, checks.DidYouMean(v.text, words, ""), "death: %s is none of %s, {reuse: NODE}", checks.Quote(v.text), strings.Join(words, ", "))
			return
		}
		s.Death = Death(d.oneOf(f, words))
		return
	}
	if len(f.value.fields) != 1 || f.value.fields[0].name() != string(DeathReuse) {
		d.fail(f.value, "{reuse: NODE}", "death: a map instead of {reuse: NODE}, or one of %s", strings.Join(words, ", "))
		return
	}
	s.Death = DeathReuse
	if name, ok := d.host(f.value.fields[0]); ok && !d.isWire(f.value.fields[0].value, "death", name) {
		s.Reuse = name
	}
}
