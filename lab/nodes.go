package lab

import (
	"regexp"
	"strings"

	"ctlab/checks"
)

// nodeDraft is a node while it is read: what it refers to may stand further down.
type nodeDraft struct {
	*Node
	name     *node
	kind     string
	anchor   string
	uplink   field
	address  field
	also     []field // of Also
	local    []field // of Local
	routes   field
	rules    field
	rules6   field
	silent   field
	overlaps map[string]bool // nodes whose addresses it repeats on purpose
}

func nodeKeys() []key[*nodeDraft] {
	return append([]key[*nodeDraft]{
		{"kind", "a router forwards and is tracked; hosts hang on it; a wire has no stack, packets are put on it by hand", words("host", "router", "wire"), func(d *decoder, n *nodeDraft, f field) { n.kind = d.oneOf(f, []string{"host", "router", "wire"}) }},
		{"uplink", "the router that a host hangs on; the only one by itself", identifier, func(_ *decoder, n *nodeDraft, f field) { n.uplink = f }},
		{"address", "of a host's eth0, one or several, such as 10.244.1.10/24; else the next free one of 10.244.0.0/16", oneOrMore(addressWithLength), func(_ *decoder, n *nodeDraft, f field) { n.address = f }},
		{"local", "addresses on lo", orNone(oneOrMore(addressOrPrefix)), (*decoder).readLocal},
		{"overlaps", "nodes whose address it repeats on purpose", oneOrMore(nameOrGlob), func(d *decoder, n *nodeDraft, f field) {
			n.overlaps = map[string]bool{}
			for _, other := range d.distinct(f, "node") {
				n.overlaps[other] = true
			}
		}},
		{"routes", "besides those of its links, as after ip route add", orNone(oneOrMore(route)), func(_ *decoder, n *nodeDraft, f field) { n.routes = f }},
		{"rules", "a router's own iptables rules: lines as typed after iptables, or iptables-save text, or a map of named ones", rules, func(_ *decoder, n *nodeDraft, f field) { n.rules = f }},
		{"rules6", "a router's own ip6tables rules, in the same forms", rules, func(_ *decoder, n *nodeDraft, f field) { n.rules6 = f }},
		{"sysctls", "settings below net.", settings, func(d *decoder, n *nodeDraft, f field) { n.Sysctls = d.sysctls(f) }},
		{"anchor", "a rule that keeps tracking on; true on routers", boolean, func(d *decoder, n *nodeDraft, f field) { n.anchor = d.oneOf(f, []string{"true", "false"}) }},
		{"silent", "true: a wire that answers no ARP", boolean, func(_ *decoder, n *nodeDraft, f field) { n.silent = f }},
	}, later[*nodeDraft]("bridges", "ip-rules", "sets", "mtu")...)
}

func (d *decoder) readNodes() {
	section := d.sections["nodes"]
	if section == nil {
		return
	}
	if len(section.fields) == 0 {
		d.fail(section, requiredHint("nodes"), "nodes: there are none")
	}
	var drafts []*nodeDraft
	for _, f := range section.fields {
		n := &nodeDraft{Node: &Node{Pos: d.pos(f.key), Name: f.name()}, name: f.key, kind: "host"}
		drafts = append(drafts, n)
		d.lab.Nodes = append(d.lab.Nodes, n.Node)
		d.names.nodes[n.Name] = n.Node
		if f.value.kind != mapping {
			d.wrongKind("nodes."+n.Name, f.value, "a map; {} if there is nothing to say")
			n.kind = "" // unknown, so that nothing is concluded from it
			continue
		}
		readMap(d, "nodes."+n.Name, f.value.fields, nodeKeys(), n)
		n.Router, n.Wire = n.kind == "router", n.kind == "wire"
		d.bareWire(n)
		n.Anchor = n.anchor == "true" || n.Router && n.anchor == ""
	}
	d.connect(drafts)
	d.assignAddresses(drafts)
	for _, n := range drafts {
		d.nodeRoutes(n)
		d.nodeRules(n)
	}
}

// connect finds each host's router.
func (d *decoder) connect(drafts []*nodeDraft) {
	var routers []string
	unknown := false
	for _, n := range drafts {
		if n.Router {
			routers = append(routers, n.Name)
		}
		if n.kind == "" {
			unknown, d.broken["node "+n.Name] = true, true
		}
	}
	for _, n := range drafts {
		switch {
		case n.kind == "":
		case n.Router:
			d.bareRouter(n)
		default:
			d.connectHost(n, routers, unknown)
		}
	}
}

func (d *decoder) bareRouter(n *nodeDraft) {
	for _, f := range []field{n.uplink, n.address} {
		if f.key != nil {
			d.fail(f.key, "", "nodes.%s: %s of a router is not supported yet", n.Name, f.name())
		}
	}
}

func (d *decoder) connectHost(n *nodeDraft, routers []string, unknown bool) {
	switch f := n.uplink; {
	case f.key != nil:
		d.readUplink(n, f)
	case len(routers) == 1:
		n.Uplink = routers[0]
	case unknown || d.broken["routers"]:
		return
	case len(routers) == 0:
		d.fail(n.name, "add one: node: {kind: router}", "%s: there is no router to hang on", n.Name)
		d.broken["routers"] = true // the other hosts have the same error
	default:
		d.fail(n.name, "uplink: "+routers[0], "%s: there are %d routers: %s", n.Name, len(routers), some(routers))
	}
	if n.Uplink != "" {
		d.namePort(n)
	}
}

func (d *decoder) readUplink(n *nodeDraft, f field) {
	if v := f.value; v.kind == mapping || v.kind == scalar && (v.text == "none" || strings.Contains(v.text, ":")) {
		d.fail(v, "uplink: ROUTER", "uplink: only the name of a router is supported so far")
		return
	}
	name, ok := d.refer(f, "node")
	if !ok {
		return
	}
	if r := d.names.nodes[name]; !r.Router && !d.broken["node "+name] {
		d.fail(f.value, "kind: router makes it one", "uplink: %q is no router", name)
		return
	}
	n.Uplink = name
}

// maxInterface is IFNAMSIZ without the final zero.
const maxInterface = 15

// namePort gives the router's port the host's name, as rules want to say -i app.
func (d *decoder) namePort(n *nodeDraft) {
	n.Port = n.Name
	switch {
	case len(n.Name) > maxInterface:
		d.fail(n.name, "choose a shorter name", "its port on %q would have %d characters; the kernel takes %d", n.Uplink, len(n.Name), maxInterface)
	case n.Name == "lo" || n.Name == "default":
		d.fail(n.name, "choose another name", "its port on %q would be called %q, which the kernel keeps for itself", n.Uplink, n.Name)
	}
}

// sysctlForm keeps settings below /proc/sys/net: parts between dots, none of them empty.
var sysctlForm = regexp.MustCompile(`^net(\.[A-Za-z0-9_-]+)+$`)

func (d *decoder) sysctls(f field) []Sysctl {
	var out []Sysctl
	if !d.isMap(f.name(), f.value, "a map of settings, such as {net.netfilter.nf_conntrack_udp_timeout: 5}") {
		return nil
	}
	for _, s := range f.value.fields {
		name := s.name()
		switch {
		case strings.Contains(name, "/"):
			d.fail(s.key, strings.ReplaceAll(name, "/", "."), "%s: %s is written with dots", f.name(), checks.Quote(name))
		case !sysctlForm.MatchString(name):
			d.fail(s.key, "settings of a network namespace begin with net.", "%s: %s is not below net", f.name(), checks.Quote(name))
		}
		out = append(out, Sysctl{Name: name, Value: d.text(s), Pos: d.pos(s.key)})
	}
	return out
}
