package lab

import (
	"net/netip"
	"slices"
)

// script is what is known while the steps are read in their order.
type script struct {
	named   map[string]*stepDraft // the steps so far
	names   map[string]int        // the line of every step's name
	clock   clock
	where   map[string]string   // on which node a server is after the steps so far, running or not
	running sockets             // the servers that run
	gone    map[string]int      // nodes that have lost their address, and the line of the step
	given   map[given]bool      // addresses that steps gave to nodes
	asking  map[string]int      // clients that ask until they are stopped, and the line of the start
	started map[string]bool     // clients that were started and not stopped
	backs   map[string][]string // the backends of each service after the steps so far
	holding map[string]bool     // nodes on which packets were held
}

type given struct {
	node string
	addr netip.Addr
}

func newScript(d *decoder, items []*node) *script {
	run := &script{named: map[string]*stepDraft{}, names: stepNames(items), gone: map[string]int{}, where: map[string]string{},
		running: sockets{}, given: map[given]bool{}, asking: map[string]int{}, started: map[string]bool{}, backs: map[string][]string{}, holding: map[string]bool{}}
	for _, s := range d.lab.Services {
		run.backs[s.Name] = s.Backends
	}
	for _, s := range d.lab.Servers {
		run.where[s.Name] = s.On
		if !s.Stopped {
			run.running[s] = s.On
		}
	}
	return run
}

// play follows servers, addresses and clients through the steps, and reports what cannot be done.
func (d *decoder) play(s *stepDraft, run *script) {
	switch s.Kind {
	case Restart:
		d.playRestart(s, run)
	case Start:
		d.playStart(s, run)
	case Stop:
		d.playStop(s, run)
	case Query:
		d.playQuery(s, run)
	case SetAddress:
		d.playAddress(s, run)
	case Hold, Release:
		d.playHold(s, run)
	case SetBackends:
		d.playBackends(s, run)
	}
}

// playBackends reports backends that are taken away where they are not.
func (d *decoder) playBackends(s *stepDraft, run *script) {
	if _, known := run.backs[s.Service]; !known {
		return // reported
	}
	d.meets(s.own[string(SetBackends)].value, d.names.services[s.Service], append(slices.Clone(s.Set), s.Add...))
	if s.HasSet {
		run.backs[s.Service] = s.Set
		return
	}
	var next []string
	for _, name := range append(slices.Clone(run.backs[s.Service]), s.Add...) {
		if !slices.Contains(s.Remove, name) {
			next = append(next, name)
		}
	}
	for _, name := range s.Remove {
		if now := run.backs[s.Service]; !slices.Contains(now, name) {
			hint := s.Service + " has none then"
			if len(now) > 0 {
				hint = "its backends then: " + some(now)
			}
			d.fail(s.own["remove"].value, hint, "remove: %s is no backend of %s", name, s.Service)
		}
	}
	run.backs[s.Service] = next
}

// follows lets the services of a server that moves have its new node for a backend.
func (d *decoder) follows(s *stepDraft, at *node, run *script, from string) {
	if s.NoFollow || s.On == from {
		return
	}
	for name, now := range run.backs {
		if i := slices.Index(now, from); i >= 0 {
			d.meets(at, d.names.services[name], []string{s.On})
			run.backs[name] = slices.Clone(now)
			run.backs[name][i] = s.On
		}
	}
}

// playAddress gives a node addresses, perhaps back.
func (d *decoder) playAddress(s *stepDraft, run *script) {
	if len(s.Nodes) == 0 {
		return // reported
	}
	n := d.names.nodes[s.Nodes[0]]
	for _, a := range s.AddAddress {
		run.given[given{n.Name, a.Addr()}] = true
		if a.Addr() == n.Address.Addr() {
			delete(run.gone, n.Name)
		}
	}
}

func (d *decoder) playStart(s *stepDraft, run *script) {
	at := s.own[string(Start)]
	for _, c := range s.Clients {
		if line, asks := run.asking[c]; asks {
			d.fail(at.value, "stop: "+c, "start: %s %s in the background already (line %d)", c, d.asks(c), line)
		}
		run.started[c] = true
		if s.Count == 0 {
			run.asking[c] = s.Pos.Line
		}
	}
	for _, name := range s.Servers {
		server := d.names.servers[name]
		if server == nil || run.where[name] == "" {
			continue
		}
		if run.running[server] != "" {
			d.fail(at.value, "", "start: %s runs already, on %s", name, run.where[name])
			continue
		}
		d.canRun(s, at.value, run, server, run.where[name])
		run.running[server] = run.where[name]
	}
}

// asks is what a client does in the background.
func (d *decoder) asks(client string) string {
	if c := d.names.clients[client]; c != nil && c.Exec != nil {
		return "runs"
	}
	return "asks"
}

func (d *decoder) playStop(s *stepDraft, run *script) {
	at := s.own[string(Stop)]
	for _, c := range s.Clients {
		if !run.started[c] {
			d.fail(at.value, "start: "+c+" in a step before", "stop: %s was not started", c)
		}
		delete(run.started, c)
		delete(run.asking, c)
	}
	for _, name := range s.Servers {
		server := d.names.servers[name]
		if server == nil || run.where[name] == "" {
			continue
		}
		if run.running[server] == "" {
			d.fail(at.value, "", "stop: %s does not run", name)
		}
		delete(run.running, server)
		d.dies(s, run, run.where[name])
	}
}

func (d *decoder) playQuery(s *stepDraft, run *script) {
	for _, c := range s.Clients {
		if line, asks := run.asking[c]; asks {
			d.fail(s.own[string(Query)].value, "stop: "+c, "query: %s %s in the background (line %d)", c, d.asks(c), line)
		}
	}
}

// playRestart fills in what a restart leaves out, and moves the server.
func (d *decoder) playRestart(s *stepDraft, run *script) {
	server := d.names.servers[s.Server]
	if server == nil {
		return
	}
	from := run.where[s.Server]
	if _, given := s.own["on"]; !given {
		s.On = from
	}
	if _, given := s.own["death"]; !given {
		s.Death = DeathAddress
		if n := d.names.nodes[from]; s.On == from || n != nil && n.Router {
			s.Death = DeathProcess
		}
	}
	if s.On == "" || from == "" {
		return // reported
	}
	if run.running[server] == "" {
		d.fail(s.own[string(Restart)].value, "start: "+s.Server, "restart: %s does not run", s.Server)
	}
	at := s.own["on"].value
	if at == nil {
		at = s.own[string(Restart)].value
	}
	if lost := s.Death == DeathAddress || s.Death == DeathRoute || s.Death == DeathReuse; lost && s.On == from && s.own["death"].value != nil {
		what := map[Death]string{DeathRoute: "link"}[s.Death]
		if what == "" {
			what = "address"
		}
		d.fail(s.own["death"].value, "on: another node", "death: %s loses its %s, so nothing can come back on it", from, what)
	} else {
		d.canRun(s, at, run, server, s.On)
	}
	d.dies(s, run, from)
	d.follows(s, at, run, from)
	run.where[s.Server], run.running[server] = s.On, s.On
}

// dies follows what a death does to the node.
func (d *decoder) dies(s *stepDraft, run *script, from string) {
	n := d.names.nodes[from]
	if n != nil && n.Router && s.Death != DeathProcess && s.own["death"].value != nil {
		d.fail(s.own["death"].value, "death: process", "death: %s is a router; only the process can end", from)
		return
	}
	switch s.Death {
	case DeathReuse:
		if s.Reuse == from {
			d.fail(s.own["death"].value, "another node", "death: %s cannot be given its own address", from)
		}
		run.gone[from] = s.Pos.Line
	case DeathAddress, DeathRoute:
		run.gone[from] = s.Pos.Line
	}
}

// canRun reports a server that could not come up on a node.
func (d *decoder) canRun(s *stepDraft, at *node, run *script, server *Server, on string) {
	n := d.names.nodes[on]
	if n == nil {
		return
	}
	has := server.Listen.IsValid() && (server.Listen.IsUnspecified() || d.has(n, server.Listen) || run.given[given{on, server.Listen}])
	line, gone := run.gone[on]
	switch other := run.running.other(server, on); {
	case gone && !has:
		d.fail(at, "on: another node", "%s: %s has lost its address (line %d)", s.Kind, on, line)
	case server.Listen.IsValid() && !has:
		d.fail(at, "local: "+server.Listen.String()+" gives it one", "%s: %s listens on %s, which %s has not", s.Kind, server.Name, server.Listen, on)
	case !server.Listen.IsValid() && n.Router && len(d.routerAddresses()[on]) != 1:
		d.fail(at, "listen: any, or one of its addresses", "%s: %s is a router, which has no single address", s.Kind, on)
	case other != nil:
		d.fail(at, "on: another node", "%s: %s answers on port %d of %s already", s.Kind, other.Name, server.Port, on)
	}
}
