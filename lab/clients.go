package lab

import (
	"cmp"
	"net/netip"
	"strings"
	"time"

	"ctlab/checks"
	"ctlab/checks/conntrack"
)

// clientDraft is a client while it is read.
type clientDraft struct {
	*Client
	name    *node
	server  field
	source  field // source-port
	address field // source
}

func (c *clientDraft) command() *Command {
	if c.Exec == nil {
		c.Exec = &Command{}
	}
	return c.Exec
}

func clientKeys() []key[*clientDraft] {
	return append([]key[*clientDraft]{
		{"on", "the node on which it runs; else the one of its name", identifier, func(d *decoder, c *clientDraft, f field) { c.On, _ = d.stack(f) }},
		{"control", "true: beside every query one from a fresh port", boolean, func(d *decoder, c *clientDraft, f field) { c.Control = d.bool(f) }},
		{"dns", "a client that asks for a name", object(clientDNSKeys(), "server"), (*decoder).clientDNS},
		{"exec", "a program and its arguments; no shell reads it", commandShape, func(d *decoder, c *clientDraft, f field) { c.command().Argv = d.command(f) }},
		{"files", "files that the program finds in the folder in which it runs, by their names", filesShape, func(d *decoder, c *clientDraft, f field) { c.command().Files = d.files(f) }},
	}, later[*clientDraft]("udp", "tcp")...)
}

func clientDNSKeys() []key[*clientDraft] {
	return append([]key[*clientDraft]{
		{"server", "a service, a node or an address, each perhaps with :PORT", placeWithPort, func(_ *decoder, c *clientDraft, f field) { c.server = f }},
		{"name", "the name that it asks for", text, func(d *decoder, c *clientDraft, f field) { c.Question = d.question(f) }},
		{"source-port", "a number, or fresh; else 40000, 40001, ... in the order of the file", sourcePortShape, func(d *decoder, c *clientDraft, f field) { c.source = f }},
		{"timeout", "how long it waits for an answer; 1s", duration, func(d *decoder, c *clientDraft, f field) { c.Timeout = d.duration(f, false) }},
		{"socket", "connected sockets hear of ICMP errors, and take answers from whom they ask only", words("connected", "unconnected"), func(d *decoder, c *clientDraft, f field) {
			c.Connected = d.oneOf(f, []string{"connected", "unconnected"}) == "connected"
		}},
		{"source", "one of its node's addresses, to which the socket is bound", address, func(_ *decoder, c *clientDraft, f field) { c.address = f }},
		{"recverr", "true: IP_RECVERR, the socket hears of every ICMP error", boolean, func(d *decoder, c *clientDraft, f field) { c.RecvErr = d.bool(f) }},
		{"types", "of the question; A", words("A", "AAAA"), func(d *decoder, c *clientDraft, f field) { c.AAAA = d.oneOf(f, []string{"A", "AAAA"}) == "AAAA" }},
	}, later[*clientDraft]("over")...)
}

func (d *decoder) readClients() {
	section := d.sections["clients"]
	if section == nil {
		return
	}
	var drafts []*clientDraft
	for _, f := range section.fields {
		c := &clientDraft{name: f.key, Client: &Client{Pos: d.pos(f.key), Name: f.name(), Question: "www.ctlab.test.",
			Timeout: time.Second, Connected: true}}
		drafts = append(drafts, c)
		d.lab.Clients = append(d.lab.Clients, c.Client)
		d.names.clients[c.Name] = c.Client
		context := "clients." + c.Name
		if !d.isMap(context, f.value, "a map, such as {dns: {server: SERVICE}}") {
			continue
		}
		readMap(d, context, f.value.fields, clientKeys(), c)
		if f.value.find("udp") < 0 && f.value.find("tcp") < 0 && f.value.find("exec") < 0 {
			d.require(f, context, "dns", "dns: {server: SERVICE}, or exec: [PROGRAM, ARGUMENT, ...]")
		}
		if f.value.find("on") < 0 {
			d.homeOf(c)
		}
		if !d.isProgram(context, f, c.Exec, []string{"files"}, "dns", []string{"control"}) {
			c.Exec = nil
		}
		if c.server.key != nil {
			d.clientServer(c, c.server)
		}
		d.sourceAddress(c)
	}
	d.assignPorts(drafts)
}

// homeOf puts a client on the node of its name.
func (d *decoder) homeOf(c *clientDraft) {
	n := d.names.nodes[c.Name]
	switch {
	case n == nil && d.broken["nodes"]:
	case n == nil:
		d.fail(c.name, "on: NODE", "%s: no node has its name, so it must say where it runs", c.Name)
	case !d.isWire(c.name, "clients", n.Name):
		c.On = n.Name
	}
}

func (d *decoder) clientDNS(c *clientDraft, f field) {
	context := "clients." + c.Name + ".dns"
	if !d.isMap(context, f.value, "a map, such as {server: SERVICE}") {
		return
	}
	readMap(d, context, f.value.fields, clientDNSKeys(), c)
	d.require(f, context, "server", "server: SERVICE")
}

// clientServer finds the address that the client asks: a service's, a node's, or one that is written out,
// each perhaps with a port.
func (d *decoder) clientServer(c *clientDraft, f field) {
	if !d.isScalar(f, "the name of a service or a node, or an address") {
		return
	}
	host, port, ok := d.endpoint(f)
	if !ok {
		return
	}
	if a, err := netip.ParseAddr(host.text); err == nil {
		if !usable(a) {
			d.fail(f.value, "", "server: no node can have %s", a)
			return
		}
		c.Server, c.To = host.text, netip.AddrPortFrom(a, cmp.Or(port, dnsPort))
		d.meet(f, c.On, a)
		return
	}
	service, node := d.names.services[host.text], d.names.nodes[host.text]
	switch {
	case service != nil:
		c.Server = service.Name
		c.To = netip.AddrPortFrom(service.VIP, d.servicePort(f, service, port))
		d.meet(f, c.On, service.VIP)
	case node != nil:
		a, err := d.resolve(node.Name, c.On)
		if err != nil {
			d.fail(f.value, err.Hint, "server: %s", err.Msg)
			return
		}
		c.Server, c.To = node.Name, netip.AddrPortFrom(a, cmp.Or(port, dnsPort))
	default:
		d.noServer(f, host.text)
	}
}

// servicePort is the port of a service that is asked: the one that is given, or see udpPort.
func (d *decoder) servicePort(f field, s *Service, given uint16) uint16 {
	if len(s.Ports) == 0 {
		return given // reported
	}
	if given == 0 {
		port := udpPort(s)
		if port == 0 {
			d.fail(f.value, "ports: [53/udp]", "server: %s has no UDP port", s.Name)
		}
		return port
	}
	var texts []string
	for _, p := range s.Ports {
		if p.Number == given && p.Proto == conntrack.UDP {
			return given
		}
		texts = append(texts, portText(p.Number, p.Proto))
	}
	d.fail(f.value, "ports: "+some(texts), "server: %s has no port %d/udp", s.Name, given)
	return given
}

// sourceAddress reads the address that a client's socket is bound to, one of its node's.
func (d *decoder) sourceAddress(c *clientDraft) {
	f := c.address
	if f.key == nil {
		return
	}
	a, ok := d.addr(f, "such as 10.244.2.5")
	n := d.names.nodes[c.On]
	if c.Source = a; ok && n != nil && !d.has(n, a) {
		d.fail(f.value, "address: or local: of the node may have more than one", "source: %s has no address %s", n.Name, a)
	}
}

// udpPort is where DNS is asked: 53 if the service has it, else its first UDP port, else 0.
func udpPort(s *Service) uint16 {
	var first uint16
	for _, p := range s.Ports {
		if p.Proto != conntrack.UDP {
			continue
		}
		if p.Number == dnsPort {
			return dnsPort
		}
		if first == 0 {
			first = p.Number
		}
	}
	return first
}

func (d *decoder) noServer(f field, name string) {
	if d.broken["services"] || d.broken["nodes"] {
		return
	}
	if s := d.names.servers[name]; s != nil {
		hint := "a service, or the node that it runs on"
		if s.On != "" {
			hint += ": " + s.On
		}
		d.fail(f.value, hint, "server: %q is a program, and an address is needed", name)
		return
	}
	places := append(append([]string(nil), d.names.order["service"]...), d.names.order["node"]...)
	d.fail(f.value, checks.DidYouMean(name, places, "there are: "+some(places)), "server: no service or node %s", checks.Quote(name))
}

// question is a domain name, fully qualified.
func (d *decoder) question(f field) string {
	if !d.isScalar(f, "a domain name") {
		return ""
	}
	name := strings.TrimSuffix(f.value.text, ".")
	ok := len(name) <= 253
	for _, label := range strings.Split(name, ".") {
		ok = ok && label != "" && len(label) <= 63 && strings.Trim(label, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") == ""
	}
	if !ok {
		d.fail(f.value, "such as www.ctlab.test", "name: %s is no domain name", checks.Quote(f.value.text))
	}
	return name + "."
}
