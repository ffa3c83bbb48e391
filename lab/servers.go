package lab

import (
	"cmp"
	"net/netip"
	"strings"

	"ctlab/checks"
)

// dnsPort is where servers answer and hosts are asked.
const dnsPort = 53

// serverDraft is a server while it is read.
type serverDraft struct {
	*Server
	listen field
	ready  bool // it says when it is ready
}

func (s *serverDraft) command() *Command {
	if s.Exec == nil {
		s.Exec = &Command{}
	}
	return s.Exec
}

func serverKeys() []key[*serverDraft] {
	return append([]key[*serverDraft]{
		{"on", "the node on which it runs", identifier, func(d *decoder, s *serverDraft, f field) { s.On, _ = d.stack(f) }},
		{"listen", "an address, any, a port, or ADDRESS:PORT; else its node's address and port 53", listenShape, func(_ *decoder, s *serverDraft, f field) { s.listen = f }},
		{"autostart", "false: a start step starts it", boolean, func(d *decoder, s *serverDraft, f field) {
			s.Stopped = d.oneOf(f, []string{"true", "false"}) == "false"
		}},
		{"dns", "the built-in DNS server; {} answers every name and says who it is", object(serverDNSKeys()), func(d *decoder, s *serverDraft, f field) {
			if d.isMap("servers."+s.Name+".dns", f.value, "a map; {} answers every name") {
				readMap(d, "servers."+s.Name+".dns", f.value.fields, serverDNSKeys(), s)
			}
		}},
		{"exec", "a program and its arguments; no shell reads it", commandShape, func(d *decoder, s *serverDraft, f field) { s.command().Argv = d.command(f) }},
		{"files", "files that the program finds in the folder in which it runs, by their names", filesShape, func(d *decoder, s *serverDraft, f field) { s.command().Files = d.files(f) }},
		{"ready", "when the program is ready: its node has a socket at PORT or PORT/tcp, or {line: TEXT}; else at its port", readyShape, (*decoder).readReady},
	}, later[*serverDraft]("echo")...)
}

func serverDNSKeys() []key[*serverDraft] {
	return later[*serverDraft]("zone", "records", "delay", "rcode", "ttl")
}

func (d *decoder) readServers() {
	section := d.sections["servers"]
	if section == nil {
		return
	}
	there := sockets{}
	for _, f := range section.fields {
		s := &serverDraft{Server: &Server{Pos: d.pos(f.key), Name: f.name(), Port: dnsPort}}
		d.lab.Servers = append(d.lab.Servers, s.Server)
		d.names.servers[s.Name] = s.Server
		context := "servers." + s.Name
		if !d.isMap(context, f.value, "a map, such as {on: NODE, dns: {}}") {
			continue
		}
		readMap(d, context, f.value.fields, serverKeys(), s)
		d.require(f, context, "on", "on: NODE")
		if f.value.find("echo") < 0 && f.value.find("exec") < 0 {
			d.require(f, context, "dns", "dns: {}, or exec: [PROGRAM, ARGUMENT, ...]")
		}
		known := d.readListen(f, s)
		if !d.isProgram(context, f, s.Exec, []string{"files", "ready"}, "dns", nil) {
			s.Exec = nil
		} else if !s.ready {
			s.Ready.Port = s.Port
		}
		if !known || s.On == "" || s.Stopped {
			continue
		}
		if other := there.other(s.Server, s.On); other != nil {
			d.fail(f.value.get("on"), "", "%s: %s (line %d) answers on port %d of %s already", s.Name, other.Name, other.Pos.Line, s.Port, s.On)
		}
		there[s.Server] = s.On
	}
}

// readListen reads an address, any, one of them with a port, or a port alone. A router has one address on each link, so
// its servers must say which. It reports whether it is known where the server listens.
func (d *decoder) readListen(f field, s *serverDraft) bool {
	n := d.names.nodes[s.On]
	if s.listen.key == nil {
		if n != nil && n.Router && len(d.routerAddresses()[n.Name]) != 1 {
			d.fail(f.key, "listen: any, or one of its addresses", "servers.%s: %s is a router, which has no single address", s.Name, n.Name)
			return false
		}
		if n != nil && n.Router {
			s.Listen = d.routerAddresses()[n.Name][0]
		}
		return true
	}
	if !d.isScalar(s.listen, "an address, or any") {
		return false
	}
	if n, err := checks.ParseNumber(s.listen.value.text); err == nil { // a port alone, of whatever address
		if n < 1 || n > 65535 {
			d.fail(s.listen.value, "", "listen: %d is no port", n)
		}
		s.Port = uint16(n)
		return n >= 1 && n <= 65535
	}
	host, port, ok := d.endpoint(s.listen)
	if !ok {
		return false
	}
	s.Port = cmp.Or(port, s.Port)
	if host.text == "any" {
		s.Listen = netip.IPv4Unspecified()
		return true
	}
	a, ok := d.hostAddr(s.listen, host, s.On)
	if s.Listen = a; ok && n != nil && !s.Stopped && !d.has(n, a) {
		d.fail(s.listen.value, "local: "+a.String()+" gives it one", "listen: %s has no address %s", n.Name, a)
	}
	return ok
}

// endpoint splits HOST or HOST:PORT; without a port it is 0. An IPv6 address before a port stands in brackets.
func (d *decoder) endpoint(f field) (placed, uint16, bool) {
	text := f.value.text
	if _, err := netip.ParseAddr(text); err == nil {
		return placed{text, 0}, 0, true
	}
	host, number, given := strings.Cut(text, ":")
	at := 0
	if inner, rest, ok := strings.Cut(text, "]"); ok && strings.HasPrefix(inner, "[") {
		host, at = inner[1:], 1
		number, given = strings.CutPrefix(rest, ":")
		if !given && rest != "" {
			d.fail(f.value, "[fd00::5]:53", "%s: %s is no address with a port", f.name(), checks.Quote(text))
			return placed{}, 0, false
		}
	}
	if !given {
		return placed{host, at}, 0, true
	}
	n, err := checks.ParseNumber(number)
	if err == nil && (n < 1 || n > 65535) {
		err = &checks.LineError{Len: len(number), Msg: number + " is no port"}
	}
	if err != nil {
		err.Offset += len(text) - len(number)
		d.failAt(f.value, err, f.name())
		return placed{}, 0, false
	}
	return placed{host, at}, uint16(n), true
}

// sockets are the servers that run, and where.
type sockets map[*Server]string

// other is a server on the node that has the server's socket.
func (there sockets) other(s *Server, on string) *Server {
	var found *Server
	for o, node := range there {
		if o == s || node != on || o.Port != s.Port {
			continue
		}
		same := o.Listen == s.Listen || o.Listen.IsValid() && o.Listen.IsUnspecified() || s.Listen.IsValid() && s.Listen.IsUnspecified()
		if same && (found == nil || o.Pos.Line < found.Pos.Line) {
			found = o
		}
	}
	return found
}

// require reports a key that is missing from the map of a name.
func (d *decoder) require(f field, context, key, hint string) {
	if f.value.find(key) < 0 {
		d.fail(f.key, hint, "%s: %q is missing", context, key)
	}
}
