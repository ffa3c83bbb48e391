//go:build linux

// Package live is the World on this kernel: it builds the network in namespaces, plays the steps with
// real sockets in real time, and records what goes into each tracked node and what is seen of it.
package live

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"

	"ctlab/checks/kernel"
	"ctlab/checks/model"
	"ctlab/checks/observe"
	"ctlab/checks/trace"
	"ctlab/dnsserver"
	"ctlab/lab"
	"ctlab/topology"
	"ctlab/topology/service"
	"ctlab/traffic"
)

// World plays a lab on this kernel.
type World struct {
	lab     *lab.Lab
	net     topology.Network
	ipt     topology.Iptables
	nodes   map[string]*topology.Node
	tracked []*tracked // in the order of the file
	servers map[string]*server
	clients map[string]*client
	backs   map[string][]string // backends of each service, by node name
	asked   map[string]int
	calib   *observe.Calibration
	calmed  chan struct{} // closed when the first calibration is done
	profile model.Profile
	probed  string
	origin  int64 // CLOCK_MONOTONIC of time 0
	waits   time.Duration
	phases  []lab.Phase
	built   bool
}

// tracked is a node whose conntrack table is recorded.
type tracked struct {
	spec   *lab.Node
	node   *topology.Node
	rec    recorder
	tap    *observe.Tap
	tapped chan error // says that tap is open, or why not
	table  *kernel.Table
	ears   *kernel.Listener
	neigh  *observe.Neighbours
	rules  *model.Ruleset
	flows  []flow // known flows, for snapshots by GET
	own    map[netip.Addr]bool
}

type server struct {
	spec *lab.Server
	on   string
	dns  *dnsserver.Server
}

type client struct {
	spec   *lab.Client
	router *tracked
	dns    *traffic.DNS
	asked  int
	sent   time.Duration // when its last query was sent
}

// New prepares a world for a lab; nothing is made yet.
func New(l *lab.Lab) *World {
	return &World{lab: l, nodes: map[string]*topology.Node{}, servers: map[string]*server{}, clients: map[string]*client{},
		backs: map[string][]string{}, asked: map[string]int{}}
}

// calibrationSamples is how many ticks each calibration watches; the earliest of them counts.
const calibrationSamples = 12

// Build makes the network, loads the rules, starts the servers and opens the clients. While it works,
// another thread calibrates the tick clock and a scratch namespace shows which profile this kernel has.
func (w *World) Build(ctx context.Context) (lab.Setting, error) {
	start := time.Now()
	var set lab.Setting
	var err error
	if w.calib, err = observe.NewCalibration(); err != nil {
		return set, err
	}
	w.calmed = make(chan struct{})
	go func() {
		defer close(w.calmed)
		w.calib.Watch(calibrationSamples)
	}()
	if w.ipt, err = topology.FindIptables(ctx); err != nil {
		return set, err
	}
	probe := make(chan probeResult, 1)
	go func() { probe <- probeProfile(ctx, w.ipt) }()
	w.built = true
	err = w.build(ctx)
	found := <-probe
	if err = errors.Join(err, found.err); err != nil {
		return set, err
	}
	w.profile, w.probed = found.profile, found.seen
	w.origin = observe.Monotonic()
	set = lab.Setting{Kernel: found.release, Iptables: w.ipt.Version, Profile: w.profile.Name, Probed: w.probed,
		Nodes: len(w.lab.Nodes), Took: time.Since(start)}
	return set, nil
}

func (w *World) build(ctx context.Context) error {
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"namespaces", w.buildNodes},
		{"links", w.buildLinks},
		{"rules", w.buildRules},
		{"programs", w.buildPrograms},
	} {
		begin := time.Now()
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("build %s: %w", step.name, err)
		}
		w.phases = append(w.phases, lab.Phase{Name: step.name, Took: time.Since(begin)})
	}
	return nil
}

// buildNodes makes the namespaces; a tracked one is recorded before it has a link.
func (w *World) buildNodes(context.Context) (err error) {
	defer func() { // whatever happens, the tap must be known when it is stopped
		for _, t := range w.tracked {
			if t.tapped != nil {
				err = errors.Join(err, <-t.tapped)
			}
		}
	}()
	for _, spec := range w.lab.Nodes {
		n, err := w.net.AddNode(spec.Name)
		if err != nil {
			return err
		}
		w.nodes[spec.Name] = n
		if spec.Router {
			if err := w.track(spec, n); err != nil {
				return err
			}
		}
		for _, s := range spec.Sysctls {
			if err := n.NS.WriteSysctl(s.Name, s.Value); err != nil {
				return fmt.Errorf("set %s=%s in %s: %w", s.Name, s.Value, spec.Name, err)
			}
		}
		if t := w.trackedNode(spec.Name); t != nil {
			if err := t.recordSysctls(); err != nil {
				return err
			}
		}
	}
	return nil
}

// inputSysctls are the settings on which the model's answers depend. They are read and recorded, so that
// no default of this machine is taken for granted.
var inputSysctls = []string{
	"net.ipv4.icmp_ratelimit", "net.ipv4.ip_default_ttl", "net.ipv4.ip_forward",
	"net.netfilter.nf_conntrack_acct", "net.netfilter.nf_conntrack_checksum",
	"net.netfilter.nf_conntrack_udp_timeout", "net.netfilter.nf_conntrack_udp_timeout_stream",
}

// ErrNoConntrack says that the kernel has no connection tracking for namespaces.
var ErrNoConntrack = errors.New("this kernel shows no net.netfilter.nf_conntrack sysctls: is nf_conntrack loaded?")

func (w *World) track(spec *lab.Node, n *topology.Node) (err error) {
	t := &tracked{spec: spec, node: n, rules: model.NewRuleset(), own: map[netip.Addr]bool{}}
	w.tracked = append(w.tracked, t)
	if t.table, err = kernel.Open(n.NS, observe.Monotonic); err != nil {
		return err
	}
	if t.ears, err = kernel.Listen(n.NS, observe.Monotonic); err != nil {
		return err
	}
	t.rec.did(now(), trace.Listen, "", "")
	// Setting up the ring waits for the kernel's RCU, so it goes on while other nodes are made.
	t.tapped = make(chan error, 1)
	go func() {
		tap, err := observe.Open(n.NS)
		t.tap = tap
		t.tapped <- err
	}()
	if t.neigh, err = observe.WatchNeighbours(n.NS); err != nil {
		return err
	}
	if err := n.Forward(); err != nil {
		return err
	}
	err = n.NS.WriteSysctl("net.netfilter.nf_conntrack_acct", "1")
	if errors.Is(err, os.ErrNotExist) {
		return ErrNoConntrack
	}
	if err != nil {
		return fmt.Errorf("switch accounting on in %s: %w", spec.Name, err)
	}
	return nil
}

// recordSysctls records the settings with which the node starts: those that the model asks for, and those
// of the lab.
func (t *tracked) recordSysctls() error {
	keys := slices.Clone(inputSysctls)
	for _, s := range t.spec.Sysctls {
		if !slices.Contains(keys, s.Name) {
			keys = append(keys, s.Name)
		}
	}
	values, err := t.node.NS.ReadSysctls(keys...)
	if err != nil {
		return fmt.Errorf("read sysctls of %s: %w", t.spec.Name, err)
	}
	for _, key := range keys {
		if v, ok := values[key]; ok {
			t.rec.did(now(), trace.Sysctl, key+" "+v, "")
		}
	}
	return nil
}

// now is a moment without an extent.
func now() kernel.Moment {
	t := observe.Monotonic()
	return kernel.Moment{From: t, To: t}
}

// during runs fn and returns the moment around it.
func during(fn func() error) (kernel.Moment, error) {
	from := observe.Monotonic()
	err := fn()
	return kernel.Moment{From: from, To: observe.Monotonic()}, err
}

func (w *World) setSysctl(node string, s lab.Sysctl) error {
	at, err := during(func() error { return w.nodes[node].NS.WriteSysctl(s.Name, s.Value) })
	if err != nil {
		return fmt.Errorf("set %s=%s in %s: %w", s.Name, s.Value, node, err)
	}
	if t := w.trackedNode(node); t != nil {
		t.rec.did(at, trace.Sysctl, s.Name+" "+s.Value, "")
	}
	return nil
}

func (w *World) trackedNode(name string) *tracked {
	for _, t := range w.tracked {
		if t.spec.Name == name {
			return t
		}
	}
	return nil
}

func (w *World) buildLinks(context.Context) error {
	for _, spec := range w.lab.Nodes {
		if spec.Router {
			continue
		}
		t := w.trackedNode(spec.Uplink)
		at, err := during(func() error {
			return topology.Connect(topology.Uplink{Host: w.nodes[spec.Name], Router: t.node, Port: spec.Port, Address: spec.Address, Gateway: spec.Gateway})
		})
		if err != nil {
			return err
		}
		gateway := netip.PrefixFrom(spec.Gateway, 32)
		t.own[spec.Gateway] = true
		t.rec.did(at, trace.Link, spec.Port+" up", "")
		t.rec.did(at, trace.Address, spec.Port+" "+gateway.String(), "")
		t.rec.did(at, trace.Routing, model.Route{To: netip.PrefixFrom(spec.Address.Addr(), 32), Dev: spec.Port}.String(), "")
	}
	return nil
}

// buildRules loads each tracked node's rules in one call.
func (w *World) buildRules(ctx context.Context) error {
	for _, s := range w.lab.Services {
		w.backs[s.Name] = s.Backends
	}
	for _, t := range w.tracked {
		text, err := service.Rules(w.services(t), nil, t.spec.Anchor)
		if err != nil {
			return err
		}
		if text == "" {
			continue
		}
		if err := w.load(ctx, t, text, false); err != nil {
			return err
		}
	}
	return nil
}

// services are those of a node, with their present backends.
func (w *World) services(t *tracked) []service.Service {
	var out []service.Service
	for _, s := range w.lab.Services {
		if slices.Contains(s.On, t.spec.Name) {
			out = append(out, w.service(s))
		}
	}
	return out
}

// load loads rules into a tracked node, and into the model of its rules that tells stale entries.
func (w *World) load(ctx context.Context, t *tracked, text string, noflush bool) error {
	at, err := during(func() error { return w.ipt.Load(ctx, t.node, text, noflush) })
	if err != nil {
		return err
	}
	how := "restore"
	if noflush {
		how = "noflush"
	}
	t.rec.did(at, trace.Rules, how, text)
	return t.rules.Restore(text, noflush)
}

// service is a lab's service with its present backends.
func (w *World) service(s *lab.Service) service.Service {
	out := service.Service{Name: s.Name, VIP: s.VIP, ByTurns: s.Balance == "nth"}
	for _, p := range s.Ports {
		out.Ports = append(out.Ports, service.Port{Number: p.Number, Proto: p.Proto, Target: p.Target})
	}
	for _, b := range w.backs[s.Name] {
		out.Backends = append(out.Backends, service.Backend{Name: b, Addr: w.lab.Node(b).Address.Addr()})
	}
	return out
}

func (w *World) buildPrograms(context.Context) error {
	for _, spec := range w.lab.Servers {
		s := &server{spec: spec}
		w.servers[spec.Name] = s
		if err := w.startServer(s, spec.On); err != nil {
			return err
		}
	}
	for _, spec := range w.lab.Clients {
		c := &client{spec: spec, router: w.trackedNode(w.lab.Node(spec.On).Uplink), sent: -1}
		w.clients[spec.Name] = c
		if spec.SourcePort == 0 {
			continue // a fresh socket for each query
		}
		var err error
		if c.dns, err = w.dial(c, spec.SourcePort); err != nil {
			return fmt.Errorf("client %s: %w", spec.Name, err)
		}
	}
	return nil
}

func (w *World) startServer(s *server, on string) error {
	ns := w.nodes[on].NS
	at := netip.AddrPortFrom(w.lab.Node(on).Address.Addr(), s.spec.Port)
	pc, err := ns.ListenPacket(at)
	if err != nil {
		return fmt.Errorf("server %s on %s: %w", s.spec.Name, on, err)
	}
	l, err := ns.Listen(at)
	if err != nil {
		return errors.Join(fmt.Errorf("server %s on %s: %w", s.spec.Name, on, err), pc.Close())
	}
	if s.dns, err = dnsserver.Start(on, pc, l); err != nil {
		return fmt.Errorf("server %s on %s: %w", s.spec.Name, on, err)
	}
	s.on = on
	return nil
}

func (w *World) stopServer(ctx context.Context, s *server) error {
	if s.dns == nil {
		return nil
	}
	err := s.dns.Stop(ctx)
	w.asked[s.on] += len(s.dns.Log())
	s.dns = nil
	return err
}

// Now is the time since the first step began.
func (w *World) Now() time.Duration { return time.Duration(observe.Monotonic() - w.origin) }

// WaitUntil waits for a moment.
func (w *World) WaitUntil(ctx context.Context, at time.Duration) error {
	d := at - w.Now()
	if d <= 0 {
		return ctx.Err()
	}
	begin := w.Now()
	defer func() { w.waits += min(d, w.Now()-begin) }()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// FD is the descriptor that holds a node's namespace, while the network stands.
func (w *World) FD(node string) int { return w.nodes[node].NS.FD() }
