package play

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"ctlab/checks/conntrack"
	"ctlab/lab"
)

// World plays a lab on a Ground. It implements lab.World.
type World struct {
	lab     *lab.Lab
	ground  *timed
	tracked []*tracked // in the order of the file
	servers map[string]*server
	clients map[string]*client
	backs   map[string][]string // backends of each service, by node name
	asked   map[string]int      // questions that reached servers, by the node on which they ran
	where   map[netip.Addr]string
	ended   map[string]time.Duration // when named steps were over
	served  []lab.Program            // servers that are programs and have ended
	waited  time.Duration            // for programs, whose time is not ctlab's own
	marks   map[string][2]int        // by tracked node, how many packets had passed when the step before began, and when this one did
	started bool                     // Build came to its end
	built   bool                     // Build began

	mu sync.Mutex // what background clients report: attempts, counts and flows
}

// tracked is a node whose table is looked at.
type tracked struct {
	spec     *lab.Node
	rulesets []*ruleset // of each family that it speaks
	addrs    map[netip.Addr]bool
	flows    []flow
	index    map[conntrack.Tuple]int // of flows
	checked  map[string]uint32       // counters at the last check
	filled   int                     // entries that fill the table
}

type server struct {
	spec    *lab.Server
	on      string
	running []Server // one an address
}

type client struct {
	spec     *lab.Client
	router   *tracked // the node that tracks its packets; nil if none does
	socket   Socket   // nil: a fresh one for each question
	asked    int
	run      Running
	program  *background   // a program that runs in the background
	unplayed error         // why it could not be started
	past     []lab.Attempt // of the background
}

// New prepares a world; nothing is made yet.
func New(l *lab.Lab, g Ground) *World {
	return &World{lab: l, ground: newTimed(g), servers: map[string]*server{}, clients: map[string]*client{}, backs: map[string][]string{},
		asked: map[string]int{}, where: map[netip.Addr]string{}, ended: map[string]time.Duration{}, marks: map[string][2]int{}}
}

// Build makes the network, loads the rules, starts the servers and opens the clients' sockets. The setting's
// Took is the ground's part.
func (w *World) Build(ctx context.Context) (lab.Setting, error) {
	w.built = true
	set, err := w.ground.Build(ctx)
	if err != nil {
		return set, err
	}
	w.look()
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{{"rules", w.buildRules}, {"programs", w.buildPrograms}} {
		if err := ctx.Err(); err != nil {
			return set, err
		}
		if err := step.do(ctx); err != nil {
			return set, fmt.Errorf("build %s: %w", step.name, err)
		}
	}
	w.started = true
	return set, w.ground.Ready()
}

// look notes who is where at the beginning.
func (w *World) look() {
	for _, n := range w.lab.Nodes {
		if n.Router {
			w.tracked = append(w.tracked, &tracked{spec: n, rulesets: rulesets(w.lab, n), addrs: map[netip.Addr]bool{},
				index: map[conntrack.Tuple]int{}, checked: map[string]uint32{}})
		}
	}
	for _, n := range w.lab.Nodes {
		if t := w.trackedNode(n.Name); t != nil {
			for _, a := range n.Local {
				t.addrs[a.Addr()] = true
			}
			continue
		}
		for _, a := range n.Addresses() {
			if w.lab.LeadsTo(n, a.Addr()) {
				w.where[a.Addr()] = n.Name
			}
		}
		if t := w.trackedNode(n.Uplink); t != nil {
			for _, g := range n.Gateways() {
				t.addrs[g] = true
			}
		}
	}
	for _, s := range w.lab.Services {
		w.backs[s.Name] = s.Backends
	}
}

func (w *World) buildPrograms(ctx context.Context) error {
	for _, spec := range w.lab.Servers {
		s := &server{spec: spec, on: spec.On}
		w.servers[spec.Name] = s
		if spec.Stopped {
			continue
		}
		if err := w.startServer(ctx, s, spec.On); err != nil {
			return err
		}
	}
	for _, spec := range w.lab.Clients {
		c := &client{spec: spec, router: w.trackedNode(spec.On)}
		if c.router == nil {
			c.router = w.trackedNode(w.lab.Node(spec.On).Uplink)
		}
		w.clients[spec.Name] = c
		if spec.SourcePort == 0 || spec.Exec != nil {
			continue
		}
		var err error
		if c.socket, err = w.ground.Open(spec, spec.SourcePort); err != nil {
			return fmt.Errorf("client %s: %w", spec.Name, err)
		}
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

// Now is the time since the first step began.
func (w *World) Now() time.Duration { return w.ground.Now() }

// WaitUntil waits for a moment.
func (w *World) WaitUntil(ctx context.Context, at time.Duration) error {
	return w.ground.WaitUntil(ctx, at)
}

// Do plays one step.
func (w *World) Do(ctx context.Context, s *lab.Step) (out lab.Outcome, err error) {
	out.Began = w.Now()
	w.mark()
	before, err := w.countersBefore(s)
	if err == nil {
		err = w.act(ctx, s, &out)
	}
	if errors.Is(err, ErrNotSimulated) {
		out.NotPlayed, err = err.Error(), nil
	}
	if err == nil {
		err = w.died()
	}
	if err == nil {
		w.tellHarm(&out)
		err = w.check(ctx, s, before, &out)
	}
	out.Ended = w.Now()
	if s.Name != "" {
		w.ended[s.Name] = out.Ended
	}
	return out, err
}

func (w *World) act(ctx context.Context, s *lab.Step, out *lab.Outcome) error {
	switch s.Kind {
	case lab.Query:
		return w.query(ctx, s, out)
	case lab.Start:
		return w.start(ctx, s)
	case lab.Stop:
		return w.stop(ctx, s, out)
	case lab.Restart:
		return w.restart(ctx, s, out)
	case lab.SetBackends:
		return w.setBackends(ctx, s, out)
	case lab.SetRules:
		return w.setRules(ctx, s)
	case lab.SetSysctl, lab.SetLink, lab.SetAddress, lab.SetRoute:
		return w.change(s)
	case lab.Table:
		return w.table(s, out)
	case lab.PutPacket:
		return w.packet(ctx, s, out)
	case lab.Hold:
		return w.ground.Hold(s.Nodes[0], s.Hold)
	case lab.Release:
		return w.release(ctx, s, out)
	case lab.Wait:
		if s.Awaited != nil {
			return w.awaitPacket(ctx, s, out)
		}
		return w.WaitUntil(ctx, out.Began+s.Wait)
	case lab.Exec:
		return w.exec(ctx, s, out)
	case lab.Check:
		return nil
	}
	return fmt.Errorf("a %s step is not supported", s.Kind)
}

// Close ends the background, reads everything once more and takes the network down.
func (w *World) Close(ctx context.Context) (lab.Evidence, error) {
	if !w.built {
		return lab.Evidence{}, nil
	}
	var errs []error
	for _, c := range w.clients {
		if c.run != nil {
			errs = append(errs, c.run.Stop(ctx))
		}
		if c.program != nil {
			errs = append(errs, c.program.Stop(0))
		}
	}
	var final []lab.Snapshot
	if w.started {
		for _, t := range w.tracked {
			snap, err := w.snapshot(ctx, t, nil)
			errs = append(errs, err)
			final = append(final, snap)
		}
	}
	for _, c := range w.clients {
		if c.socket != nil {
			errs = append(errs, c.socket.Close())
		}
	}
	for _, s := range w.servers {
		errs = append(errs, w.stopServer(ctx, s))
	}
	ev, err := w.ground.Close(ctx)
	ev.Final, ev.Asked, ev.Servers = final, w.asked, w.served
	ev.Waits += w.waited
	ev.Taken = append(ev.Taken, w.ground.taken()...)
	return ev, errors.Join(append(errs, err)...)
}

var _ lab.World = (*World)(nil)
