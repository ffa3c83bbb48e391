package lab

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"ctlab/checks"
)

// names is who there is in a lab. Places (nodes, services) share one set of names, because either can
// stand for an address; programs (servers, clients) share another.
type names struct {
	places, programs map[string]declared
	order            map[string][]string // by kind, in the order of the file
	nodes            map[string]*Node
	services         map[string]*Service
	servers          map[string]*Server
	clients          map[string]*Client
	hosts            map[netip.Addr]*Node // who has an address on eth0
	local            map[netip.Addr]*Node // who has one on lo
	rules            map[string]bool      // the names of rules texts
}

// declared is what a name is the name of ("node", "service", "server", "client").
type declared struct {
	kind string
	line int
}

func newNames() names {
	return names{
		places: map[string]declared{}, programs: map[string]declared{}, order: map[string][]string{},
		nodes: map[string]*Node{}, services: map[string]*Service{}, servers: map[string]*Server{}, clients: map[string]*Client{},
		hosts: map[netip.Addr]*Node{}, local: map[netip.Addr]*Node{}, rules: map[string]bool{},
	}
}

func (n *names) declare(set map[string]declared, kind string, key *node) {
	if _, taken := set[key.text]; !taken {
		set[key.text] = declared{kind, key.line}
	}
	n.order[kind] = append(n.order[kind], key.text)
}

// reserved words mean something where names stand.
func reserved() []string {
	return []string{"any", "all", "none", "empty", "no", "not", "new", "update", "destroy"}
}

var (
	nameForm    = regexp.MustCompile(`^[a-z][a-z0-9-]*$`)
	patternForm = regexp.MustCompile(`\{[^}]*\}`)
)

// maxName is a DNS label's length.
const maxName = 63

// isName reports what is wrong with a name that is declared.
func (d *decoder) isName(n *node, context string) bool {
	switch text := n.text; {
	case patternForm.MatchString(text):
		d.fail(n, "such as app-{1..40}", "%s: %s is no pattern", context, checks.Quote(text))
	case !nameForm.MatchString(text):
		d.fail(n, nameHint(text), "%s: %s is no name", context, checks.Quote(text))
	case len(text) > maxName:
		d.fail(n, "", "%s: the name has %d characters; at most %d", context, len(text), maxName)
	case slices.Contains(reserved(), text):
		d.fail(n, "reserved: "+some(reserved()), "%s: %s is a reserved word", context, checks.Quote(text))
	default:
		return true
	}
	return false
}

func nameHint(text string) string {
	rules := "lower case letters, digits, hyphens; a letter first"
	if better := kebabCase(text); nameForm.MatchString(better) {
		rules = better + ": " + rules
	}
	return rules
}

// declareAll collects the names of a section before anything that may refer to them is read.
func (d *decoder) declareAll(set map[string]declared, section, kind string, most int) {
	v := d.sections[section]
	if v == nil {
		return
	}
	if len(v.fields) > most {
		d.fail(v.fields[most].key, "", "%s: more than %d", section, most)
		v.fields = v.fields[:most]
	}
	for _, f := range v.fields {
		if d.isName(f.key, section) {
			if before, taken := set[f.name()]; taken {
				d.fail(f.key, sharedHint(kind), "%s: %q is a %s already (line %d)", section, f.name(), before.kind, before.line)
			}
		}
		d.names.declare(set, kind, f.key)
	}
}

func sharedHint(kind string) string {
	if kind == "service" || kind == "node" {
		return "nodes and services share one set of names: both stand for addresses"
	}
	return "servers and clients share one set of names"
}

// refer looks a name up and says what else it is if it is none of the kind.
func (d *decoder) refer(f field, kind string) (string, bool) {
	if !d.isScalar(f, "the name of a "+kind) {
		return "", false
	}
	name := f.value.text
	set, other := d.names.places, d.names.programs
	if kind == "server" || kind == "client" {
		set, other = other, set
	}
	what, there := set[name]
	if !there {
		what, there = other[name] // an error, but one that can be named
	}
	switch {
	case there && what.kind == kind:
		return name, true
	case d.broken[kind+"s"]:
	case there:
		d.fail(f.value, d.insteadHint(name, what.kind, kind), "%s: %q is a %s, not a %s", f.name(), name, what.kind, kind)
	default:
		d.fail(f.value, d.nameList(name, kind), "%s: no %s %s", f.name(), kind, checks.Quote(name))
	}
	return "", false
}

// nameList is a hint at the names that there are.
func (d *decoder) nameList(name, kind string) string {
	there := d.names.order[kind]
	if len(there) == 0 {
		return "there are no " + kind + "s"
	}
	list := kind + "s: " + some(there)
	if near := checks.Nearest(name, there); near != "" {
		list = fmt.Sprintf("did you mean %q? %s", near, list)
	}
	return list
}

func (d *decoder) insteadHint(name, is, wanted string) string {
	switch {
	case is == "server" && wanted == "client":
		return "to restart it: restart: " + name
	case is == "client" && wanted == "server":
		return "to let it ask: query: " + name
	}
	return d.nameList("", wanted)
}

// host looks up a node that is a host.
func (d *decoder) host(f field) (string, bool) {
	name, ok := d.refer(f, "node")
	if !ok {
		return "", false
	}
	if n := d.names.nodes[name]; n != nil && n.Router {
		d.fail(f.value, "", "%s: %q is a router, and a host is needed", f.name(), name)
		return "", false
	}
	return name, true
}

// hosts is one host or a list of them, none of them twice.
func (d *decoder) hosts(f field) []string {
	return d.distinctOf(f, d.many(f, "node"), (*decoder).host)
}

// distinct is one name of a kind or a list of them, none of them twice.
func (d *decoder) distinct(f field, kind string) []string {
	return d.distinctOf(f, d.many(f, kind), func(d *decoder, f field) (string, bool) { return d.refer(f, kind) })
}

// distinctOf reads names, none of which may stand twice.
func (d *decoder) distinctOf(f field, items []field, read func(*decoder, field) (string, bool)) []string {
	var out []string
	seen := map[string]bool{}
	for _, item := range items {
		name, ok := read(d, item)
		if ok && seen[name] {
			d.fail(item.value, "", "%s: %q stands twice", f.name(), name)
			continue
		}
		if ok {
			seen[name] = true
			out = append(out, name)
		}
	}
	return out
}

// many is the items of a list of names, with patterns and globs written out.
func (d *decoder) many(f field, kinds ...string) []field {
	var out []field
	for _, item := range d.list(f) {
		text := item.value.text
		p, found, err := parsePattern(text)
		switch {
		case item.value.kind != scalar:
			out = append(out, item)
		case isGlob(text):
			out = append(out, d.glob(item, kinds)...)
		case err != nil:
			d.fail(item.value, err.Hint, "%s: %s", f.name(), err.Msg)
		case !found:
			out = append(out, item)
		case d.mayMake(item.value, p.count()):
			for i := range p.count() {
				out = append(out, field{item.key, copyOf(item.value, p.name(i), i)})
			}
		}
	}
	return out
}

// glob is the names of some kinds that a glob stands for.
func (d *decoder) glob(f field, kinds []string) []field {
	var out []field
	for _, kind := range kinds {
		names := d.names.order[kind]
		if d.broken[kind+"s"] || !d.mayMake(f.value, len(names)/10) {
			return nil
		}
		for _, name := range names {
			if globMatches(f.value.text, name) {
				out = append(out, field{f.key, copyOf(f.value, name, len(out))})
			}
		}
	}
	if !d.mayMake(f.value, len(out)) {
		return nil
	}
	if len(out) == 0 {
		d.fail(f.value, d.nameList("", kinds[0]), "%s: no %s matches %s", f.name(), strings.Join(kinds, " or "), checks.Quote(f.value.text))
	}
	return out
}
