package lab

import (
	"net/netip"
	"strings"
	"time"

	"ctlab/checks"
	"ctlab/checks/conntrack"
)

// dnsPort is where servers answer and hosts are asked.
const dnsPort = 53

func serverKeys() []key[*Server] {
	return append([]key[*Server]{
		{"on", func(d *decoder, s *Server, f field) { s.On, _ = d.host(f) }},
		{"dns", func(d *decoder, s *Server, f field) {
			if d.isMap("servers."+s.Name+".dns", f.value, "a map; {} answers every name") {
				keys := later[*Server]("zone", "records", "delay", "rcode", "ttl")
				readMap(d, "servers."+s.Name+".dns", f.value.fields, keys, s)
			}
		}},
	}, later[*Server]("listen", "autostart", "echo", "exec", "ready")...)
}

func (d *decoder) readServers() {
	section := d.sections["servers"]
	if section == nil {
		return
	}
	there := map[string]*Server{}
	for _, f := range section.fields {
		s := &Server{Pos: d.pos(f.key), Name: f.name(), Port: dnsPort}
		d.lab.Servers = append(d.lab.Servers, s)
		d.names.servers[s.Name] = s
		context := "servers." + s.Name
		if !d.isMap(context, f.value, "a map, such as {on: NODE, dns: {}}") {
			continue
		}
		readMap(d, context, f.value.fields, serverKeys(), s)
		d.require(f, context, "on", "on: NODE")
		if f.value.find("echo") < 0 && f.value.find("exec") < 0 {
			d.require(f, context, "dns", "dns: {}")
		}
		if other := there[s.On]; other != nil && s.On != "" {
			d.fail(f.value.get("on"), "", "%s: %s (line %d) answers on port %d of %s already", s.Name, other.Name, other.Pos.Line, dnsPort, s.On)
		}
		there[s.On] = s
	}
}

// require reports a key that is missing from the map of a name.
func (d *decoder) require(f field, context, key, hint string) {
	if f.value.find(key) < 0 {
		d.fail(f.key, hint, "%s: %q is missing", context, key)
	}
}

// clientDraft is a client while it is read.
type clientDraft struct {
	*Client
	name   *node
	source field
}

func clientKeys() []key[*clientDraft] {
	return append([]key[*clientDraft]{
		{"on", func(d *decoder, c *clientDraft, f field) { c.On, _ = d.host(f) }},
		{"control", func(d *decoder, c *clientDraft, f field) { c.Control = d.bool(f) }},
		{"dns", (*decoder).clientDNS},
	}, later[*clientDraft]("udp", "tcp", "exec")...)
}

func clientDNSKeys() []key[*clientDraft] {
	return append([]key[*clientDraft]{
		{"server", (*decoder).clientServer},
		{"name", func(d *decoder, c *clientDraft, f field) { c.Question = d.question(f) }},
		{"source-port", func(d *decoder, c *clientDraft, f field) { c.source = f }},
		{"timeout", func(d *decoder, c *clientDraft, f field) { c.Timeout = d.duration(f, false) }},
		{"socket", func(d *decoder, c *clientDraft, f field) {
			c.Connected = d.oneOf(f, []string{"connected"}, "unconnected") == "connected"
		}},
	}, later[*clientDraft]("types", "over", "source", "recverr")...)
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
			d.require(f, context, "dns", "dns: {server: SERVICE}")
		}
		if f.value.find("on") < 0 {
			d.homeOf(c)
		}
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
	case n.Router:
		d.fail(c.name, "on: HOST", "%s: the node of its name is a router, and a client runs on a host", c.Name)
	default:
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

// clientServer finds the address that the client asks: a service's, or a host's.
func (d *decoder) clientServer(c *clientDraft, f field) {
	if !d.isScalar(f, "the name of a service or a node") {
		return
	}
	name := f.value.text
	service, host := d.names.services[name], d.names.nodes[name]
	switch {
	case service != nil:
		c.Server = name
		if port := udpPort(service); port != 0 {
			c.To = netip.AddrPortFrom(service.VIP, port)
		} else if len(service.Ports) > 0 {
			d.fail(f.value, "ports: [53/udp]", "server: %s has no UDP port", name)
		}
	case host != nil && host.Router:
		d.fail(f.value, "", "server: %q is a router, and a host or a service is needed", name)
	case host != nil:
		c.Server = name
		c.To = netip.AddrPortFrom(host.Address.Addr(), dnsPort)
	default:
		d.noServer(f)
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

func (d *decoder) noServer(f field) {
	name := f.value.text
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

const firstSourcePort = 40000

// socket is what two clients cannot share.
type socket struct {
	node string
	port uint16
}

// assignPorts gives the clients their source ports: what they say, else 40000 for the first client of
// the file, 40001 for the second, and so on, whatever the others say.
func (d *decoder) assignPorts(drafts []*clientDraft) {
	taken := map[socket]*clientDraft{}
	for i, c := range drafts {
		at := c.name
		c.SourcePort = uint16(firstSourcePort + i)
		if c.source.key != nil {
			at = c.source.value
			c.SourcePort = d.sourcePort(c.source)
		}
		s := socket{c.On, c.SourcePort}
		if s.port == 0 || s.node == "" {
			continue
		}
		if other := taken[s]; other != nil {
			d.fail(at, "each client of a node has its own", "source-port: %d on %s is taken by %s (line %d)", s.port, s.node, other.Name, other.Pos.Line)
		}
		taken[s] = c
	}
}

func (d *decoder) sourcePort(f field) uint16 {
	if v := f.value; v.kind == scalar && v.text == "fresh" {
		return 0
	}
	if v := f.value; v.kind == sequence || v.kind == scalar && strings.Contains(v.text, "..") {
		d.fail(v, "a number, or fresh", "source-port: more than one port is not supported yet")
		return 0
	}
	n, _ := d.number(f, 1, 65535)
	return uint16(n)
}
