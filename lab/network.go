package lab

import (
	"ctlab/topology/service"
	"net/netip"
	"slices"
	"strings"
)

func backendsKeys() []key[*stepDraft] {
	return []key[*stepDraft]{
		{"set", "all its backends from now on", backendsShape, func(d *decoder, s *stepDraft, f field) { s.Set, s.HasSet = d.backends(f), true }},
		{"add", "further backends", oneOrMore(nameOrGlob), func(d *decoder, s *stepDraft, f field) { s.Add = d.hosts(f) }},
		{"remove", "backends that go", oneOrMore(nameOrGlob), func(d *decoder, s *stepDraft, f field) { s.Remove = d.hosts(f) }},
	}
}

func readSetBackends(d *decoder, s *stepDraft, f field) {
	s.Service, _ = d.refer(f, "service")
	set, sets := s.own["set"]
	_, adds := s.own["add"]
	_, removes := s.own["remove"]
	switch {
	case sets && (adds || removes):
		d.fail(set.key, "set says it all", "backends: both set and add or remove")
	case !sets && !adds && !removes:
		d.fail(f.key, "set: NODE, add: NODE, or remove: NODE", "backends: nothing says what changes")
	}
}

func rulesKeys() []key[*stepDraft] {
	return []key[*stepDraft]{
		{"change", "lines as typed after iptables", text, func(d *decoder, s *stepDraft, f field) {
			if !d.isScalar(f, "lines as typed after iptables") || d.isCut(f) {
				return
			}
			if _, err := service.Lines("", f.value.text); err != nil {
				d.failRules(f.value, "replace takes what iptables-save prints", "change", err)
			}
			s.Change = f.value.text
		}},
		{"replace", "all of the lab's own rules from now on, or none", rules, func(d *decoder, s *stepDraft, f field) {
			s.HasReplace = true
			if !isNone(f.value) {
				name, family := s.unnamedRules()
				s.Replace = d.rulesTexts(f, name, family)
			}
		}},
		{"family", "whose rules: iptables' (ipv4) or ip6tables' (ipv6)", words(string(service.IPv4), string(service.IPv6)), func(d *decoder, s *stepDraft, f field) {
			s.Family = service.Family(d.oneOf(f, []string{string(service.IPv4), string(service.IPv6)}))
		}},
	}
}

func readSetRules(d *decoder, s *stepDraft, f field) {
	if n := d.oneNode(f); n != nil {
		s.Nodes = []string{n.Name}
		if !n.Router && !d.broken["node "+n.Name] {
			d.fail(f.value, "on routers so far", "rules: rules of a host are not supported yet")
		}
	}
	if s.Family == "" {
		s.Family = service.IPv4
	}
	d.oneOfKeys(s, f, "change", "replace")
}

// unnamedRules is the name of a text without one, and its family.
func (s *stepDraft) unnamedRules() (string, service.Family) {
	if f, given := s.own["family"]; given && f.value.text == string(service.IPv6) {
		return unnamed6, service.IPv6
	}
	return unnamed, service.IPv4
}

// oneOfKeys reports a step that has none of some keys, or several.
func (d *decoder) oneOfKeys(s *stepDraft, f field, keys ...string) {
	var found []string
	for _, k := range keys {
		if _, given := s.own[k]; given {
			found = append(found, k)
		}
	}
	switch len(found) {
	case 0:
		d.fail(f.key, strings.Join(keys, ": or ")+":", "%s: nothing says what changes", s.Kind)
	case 1:
	default:
		d.fail(s.own[found[1]].key, "make two steps of it", "%s: both %s and %s", s.Kind, found[0], found[1])
	}
}

// oneNode is the node of its name, or nil.
func (d *decoder) oneNode(f field) *Node {
	name, ok := d.refer(f, "node")
	if !ok {
		return nil
	}
	return d.names.nodes[name]
}

// linkEnd reads NODE:DEV; a default stands for a DEV that is left out.
func (d *decoder) linkEnd(s *stepDraft, f field, dev string) *Node {
	if !d.isScalar(f, "a link end such as node:app") {
		return nil
	}
	name, given, both := strings.Cut(f.value.text, ":")
	n := d.oneNode(field{f.key, copyOf(f.value, name, f.value.copy)})
	switch {
	case n == nil:
		return nil
	case both:
		dev = given
	case dev == "":
		devs := d.devices(n)
		d.fail(f.value, n.Name+":"+devs[0], "%s: which link of %s?", f.name(), n.Name)
		return nil
	case n.Router:
		d.fail(f.value, n.Name+":"+d.devices(n)[0], "%s: %s is a router; which of its devices?", f.name(), n.Name)
		return nil
	}
	if !d.device(f, n, dev, strings.LastIndex(f.value.text, dev)) {
		return nil
	}
	if n.Wire && s.Kind == SetAddress {
		d.fail(f.value, "", "address: %s is a wire; it has no stack that could have an address", n.Name)
		return nil
	}
	s.Nodes, s.Dev = []string{n.Name}, dev
	return n
}

func linkKeys() []key[*stepDraft] {
	return []key[*stepDraft]{
		{"set", "what becomes of it", words("up", "down", "gone"), func(d *decoder, s *stepDraft, f field) { s.LinkState = d.oneOf(f, []string{"up", "down", "gone"}) }},
	}
}

func readSetLink(d *decoder, s *stepDraft, f field) {
	if d.linkEnd(s, f, ""); s.Dev == "lo" {
		d.fail(f.value, "", "link: lo stays")
	}
	d.stepNeeds(s, "set", "set: up, down, or gone")
}

func addressKeys() []key[*stepDraft] {
	return []key[*stepDraft]{
		{"add", "addresses that it gets", oneOrMore(addressOrPrefix), func(d *decoder, s *stepDraft, f field) { s.AddAddress = d.prefixes(f) }},
		{"del", "addresses that it loses", oneOrMore(addressOrPrefix), func(d *decoder, s *stepDraft, f field) { s.DelAddress = d.prefixes(f) }},
	}
}

func (d *decoder) prefixes(f field) []netip.Prefix {
	var out []netip.Prefix
	for _, item := range d.list(f) {
		if p, ok := d.addressOrPrefix(item); ok && !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	return out
}

func readSetAddress(d *decoder, s *stepDraft, f field) {
	d.linkEnd(s, f, "eth0")
	_, adds := s.own["add"]
	if _, dels := s.own["del"]; !adds && !dels {
		d.fail(f.key, "add: ADDRESS/LENGTH, or del: ADDRESS/LENGTH", "address: nothing says what changes")
	}
}

// routeKeys only know their names: which route is meant depends on the node, see readSetRoute.
func routeKeys() []key[*stepDraft] {
	ignore := func(*decoder, *stepDraft, field) {}
	return []key[*stepDraft]{
		{"add", "routes that it gets, as after ip route add", oneOrMore(route), ignore},
		{"del", "routes that it loses", oneOrMore(route), ignore},
		{"replace", "routes in place of those to the same destination", oneOrMore(route), ignore},
	}
}

func readSetRoute(d *decoder, s *stepDraft, f field) {
	d.oneOfKeys(s, f, "add", "del", "replace")
	n := d.oneNode(f)
	if n == nil {
		return
	}
	if n.Wire {
		d.fail(f.value, "", "route: %s is a wire; it has no stack that could have a route", n.Name)
		return
	}
	s.Nodes = []string{n.Name}
	for _, op := range []string{"add", "del", "replace"} {
		routes, given := s.own[op]
		if !given {
			continue
		}
		s.RouteOp = op
		for _, item := range d.list(routes) {
			if r, ok := d.route(item, n); ok {
				s.Routes = append(s.Routes, r)
			}
		}
	}
}

func execKeys() []key[*stepDraft] {
	return []key[*stepDraft]{
		{"on", "the node in which it runs; the only router by itself", identifier, func(d *decoder, s *stepDraft, f field) {
			if name, ok := d.stack(f); ok {
				s.Nodes = []string{name}
			}
		}},
		{"files", "files that the program finds in the folder in which it runs, by their names", filesShape, func(d *decoder, s *stepDraft, f field) { s.Command.Files = d.files(f) }},
	}
}

// readExec reads a command and its arguments. Without on it runs on the only router.
func readExec(d *decoder, s *stepDraft, f field) {
	s.program = true
	if s.Command.Argv = d.command(f); f.value.kind != sequence {
		return
	}
	if _, given := s.own["on"]; given {
		return
	}
	var routers []string
	for _, n := range d.lab.Nodes {
		if n.Router {
			routers = append(routers, n.Name)
		}
	}
	if len(routers) == 1 {
		s.Nodes = routers
	} else if !d.broken["nodes"] {
		d.fail(f.key, "on: NODE", "exec: on which of the nodes? %s", some(d.names.order["node"]))
	}
}
