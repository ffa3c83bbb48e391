// Package sim is the Ground in a simulated network: the steps of a lab are played on virtual time, in
// milliseconds, without privileges and on any operating system. Routers are models of connection tracking
// (checks/model); hosts, links, neighbours, UDP sockets, DNS servers and clients are simulated here.
package sim

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"ctlab/checks/model"
	"ctlab/checks/trace"
	"ctlab/lab"
	"ctlab/lab/play"
)

// hz is how many ticks a simulated kernel has in a second.
const hz = 250

// tick is the length of a tick in nanoseconds.
const tick = int64(time.Second) / hz

// Ground is a network of simulated hosts and modelled routers. Time passes only while it waits for
// something: an act takes none, a packet takes linkTime for each link, a server answerTime to answer.
//
// Simulated are UDP over IPv4 and IPv6, longest-match routes, source address selection, connected and unconnected
// sockets with what they hear of ICMP errors (IP_RECVERR), port unreachable with its rate limit, neighbours
// that never answer, links that go down or away. A neighbour that has answered once is known until its link
// goes down or it is forgotten: entries do not age, as they would after half a minute. A lost carrier is noticed
// at once, where a kernel may take a second (net/core/link_watch.c). Not simulated are TCP, fragments, full
// queues and buffers, reverse path filters, the garbage collector of conntrack, the limit of all ICMP errors
// together (icmp_msgs_per_sec), and programs.
type Ground struct {
	// Profile is the kernel that is simulated. New sets the newest one that the model knows; it may be
	// changed before Build.
	Profile model.Profile

	lab     *lab.Lab
	seed    uint64
	rng     *rand.Rand
	queue   queue
	now     int64 // virtual ns
	origin  int64 // now when the clock began
	serial  uint64
	nodes   map[string]*node
	tracked []*tracked // in the order of the file
	payload map[uint16]message
	lastID  uint16 // of IP headers
	used    map[usedPort]bool
	waits   time.Duration
}

// usedPort is a source port that a node has used.
type usedPort struct {
	node string
	port uint16
}

// New prepares a simulated network for a lab; nothing is made yet. The seed decides what is free: random
// backends, source ports that NAT picks, fresh ports of clients.
func New(l *lab.Lab, seed uint64) *Ground {
	return &Ground{lab: l, seed: seed, rng: rand.New(rand.NewPCG(seed, uint64(hz))), nodes: map[string]*node{},
		payload: map[uint16]message{}, used: map[usedPort]bool{}, Profile: newest()}
}

// newest is the profile of the newest kernel that the model knows.
func newest() model.Profile {
	names := model.ProfileNames()
	p, err := model.ProfileFor(names[len(names)-1])
	if err != nil {
		panic(err) // the model knows its own names
	}
	return p
}

// Build makes nodes, links, addresses, sysctls and routes. It takes no time.
func (g *Ground) Build(ctx context.Context) (lab.Setting, error) {
	set := lab.Setting{Profile: g.Profile.Name, Nodes: len(g.lab.Nodes), Simulated: true, Seed: g.seed}
	for _, spec := range g.lab.Nodes {
		n := newNode(g, spec)
		g.nodes[spec.Name] = n
		if spec.Router {
			n.tracked = g.track(n)
			g.tracked = append(g.tracked, n.tracked)
		}
		for _, s := range spec.Sysctls {
			n.set(s)
		}
		if n.tracked != nil {
			n.tracked.recordSysctls()
		}
	}
	for _, spec := range g.lab.Nodes {
		if err := g.connect(spec); err != nil {
			return set, fmt.Errorf("build %s: %w", spec.Name, err)
		}
	}
	for _, spec := range g.lab.Nodes {
		for _, r := range spec.Routes {
			if err := g.Route(spec.Name, "add", r); err != nil {
				return set, fmt.Errorf("build %s: %w", spec.Name, err)
			}
		}
	}
	return set, ctx.Err()
}

// connect gives a node the addresses on lo, and a host its link, as lab/live does: the router's port has the
// gateway's address as /32 and a host route to each address of the host; the host reaches everything
// through the gateway.
func (g *Ground) connect(spec *lab.Node) error {
	n := g.nodes[spec.Name]
	for _, a := range spec.Local {
		if err := n.addAddress("lo", a); err != nil {
			return err
		}
	}
	router := g.nodes[spec.Uplink]
	if spec.Router || router == nil {
		return nil
	}
	eth, port := n.addDevice(hostDevice), router.addDevice(spec.Port)
	eth.peer, port.peer = port, eth
	eth.up = true
	router.setLink(port, true)
	var errs []error
	for _, a := range spec.Gateways() {
		if a.Is6() {
			errs = append(errs, router.addAddress(port.name, routerLocal()))
		}
		errs = append(errs, router.addAddress(port.name, single(a)))
	}
	for _, a := range spec.Addresses() {
		if !spec.Silent { // else nobody answers for its addresses
			errs = append(errs, n.addAddress(hostDevice, a))
		}
		if g.lab.LeadsTo(spec, a.Addr()) {
			errs = append(errs, router.addRoute(lab.Route{To: single(a.Addr()), Dev: port.name}))
		}
	}
	for _, a := range spec.Gateways() {
		if spec.Wire {
			break // it has no stack that could have routes
		}
		if a.Is6() {
			errs = append(errs, n.addAddress(hostDevice, hostLocal()))
		}
		errs = append(errs, n.addRoute(lab.Route{To: single(a), Dev: hostDevice}), n.addRoute(defaultRoute(a)))
	}
	return errors.Join(errs...)
}

// Ready begins the clock.
func (g *Ground) Ready() error {
	g.announce()
	g.origin = g.now
	return nil
}

// Now is the virtual time since Ready.
func (g *Ground) Now() time.Duration { return time.Duration(g.now - g.origin) }

// WaitUntil lets virtual time pass until a moment.
func (g *Ground) WaitUntil(ctx context.Context, at time.Duration) error {
	return g.wait(func() error {
		until := g.origin + int64(at)
		if err := g.run(ctx, until, func() bool { return false }); err != nil {
			return err
		}
		g.now = max(g.now, until)
		return nil
	})
}

// wait counts the virtual time that passes in fn.
func (g *Ground) wait(fn func() error) error {
	begin := g.now
	err := fn()
	g.waits += time.Duration(g.now - begin)
	return err
}

// marginTicks is 50 ms, within which a world with real time may see a step on the other side of a boundary.
const marginTicks = int64(50*time.Millisecond) / tick

// Close hands over what was recorded.
func (g *Ground) Close(context.Context) (lab.Evidence, error) {
	ev := lab.Evidence{Waits: g.waits}
	for _, t := range g.tracked {
		t.inventory()
		ev.Traces = append(ev.Traces, trace.Trace{Header: g.header(t), Records: t.records})
		for _, m := range t.ns.Margins(marginTicks) {
			ev.Margins = append(ev.Margins, lab.Margin{At: time.Duration(int64(m.At.From)*tick - g.origin), Node: t.node.spec.Name, What: m.What, Off: time.Duration(m.Off * tick)})
		}
	}
	return ev, nil
}

func (g *Ground) header(t *tracked) trace.Header {
	return trace.Header{Lab: g.lab.Name, Node: t.node.spec.Name, Kernel: "simulated", Profile: g.Profile.Name, Assured: g.Profile.Assured, HZ: hz, Names: g.names()}
}

// names are the addresses that people know by name.
func (g *Ground) names() (out []trace.Name) {
	for _, n := range g.lab.Nodes {
		for _, f := range lab.Families() {
			if a := n.AddressIn(f); a.IsValid() {
				out = append(out, trace.Name{Name: n.Name, Addr: a.Addr()})
			}
		}
	}
	for _, s := range g.lab.Services {
		out = append(out, trace.Name{Name: s.Name, Addr: s.VIP})
	}
	return out
}

// Start starts no program.
func (g *Ground) Start(string, lab.Command) (play.Program, error) {
	return nil, fmt.Errorf("run a program: %w", play.ErrNotSimulated)
}

// Listening is asked of programs only.
func (g *Ground) Listening(string, bool, uint16) (bool, error) { return false, play.ErrNotSimulated }

// node finds a node by name.
func (g *Ground) node(name string) (*node, error) {
	if n := g.nodes[name]; n != nil {
		return n, nil
	}
	return nil, fmt.Errorf("node %s: there is none", name)
}

// trackedNode finds a tracked node by name.
func (g *Ground) trackedNode(name string) (*tracked, error) {
	n, err := g.node(name)
	if err != nil {
		return nil, err
	}
	if n.tracked == nil {
		return nil, fmt.Errorf("node %s: it is not tracked", name)
	}
	return n.tracked, nil
}

var _ play.Ground = (*Ground)(nil)
