//go:build linux

// Package live is the Ground on this kernel: it builds a lab's network in namespaces, lets real sockets
// talk in real time, and records what goes into each tracked node and what is seen of it.
package live

import (
	"context"
	"fmt"
	"sync"
	"time"

	"ctlab/checks/conntrack"
	"ctlab/checks/kernel"
	"ctlab/checks/model"
	"ctlab/checks/observe"
	"ctlab/lab"
	"ctlab/lab/play"
	"ctlab/topology"
	"ctlab/topology/service"
)

// Ground is a lab's network on this kernel.
type Ground struct {
	// Backend is the back end of iptables, topology.Nft or topology.Legacy. Empty leaves it to probing, which takes
	// the machine's default if that works.
	Backend string

	lab     *lab.Lab
	net     topology.Network
	ipts    map[service.Family]topology.Iptables // of the families that tracked nodes speak; always of IPv4
	nodes   map[string]*topology.Node
	tracked []*tracked // in the order of the file
	calib   *observe.Calibration
	clock   clock
	calm    chan struct{} // closed when no more samples of the tick clock are needed
	calmed  chan struct{} // closed when none is taken any more
	profile model.Profile
	origin  int64 // CLOCK_MONOTONIC of time 0; 0 before Ready
	waits   time.Duration
	phases  []lab.Phase
	built   bool // Build began
	wires   map[string]*wire
	lastID  uint16 // of packets that were put on wires

	mu       sync.Mutex // what clients in the background change too
	used     map[conntrack.Tuple]bool
	sockets  map[*socket]bool
	servers  map[*server]bool
	running  map[*running]bool
	programs map[*started]bool
	telling  sync.Mutex // one call of Sent at a time
}

var _ play.Ground = (*Ground)(nil)

// New prepares the ground of a lab; nothing is made yet.
func New(l *lab.Lab) *Ground {
	return &Ground{lab: l, clock: observe.Monotonic, nodes: map[string]*topology.Node{}, wires: map[string]*wire{}, used: map[conntrack.Tuple]bool{},
		sockets: map[*socket]bool{}, servers: map[*server]bool{}, running: map[*running]bool{}, programs: map[*started]bool{}}
}

// Ready is called when rules are loaded and programs started: the taps are awaited, and the clock begins.
func (g *Ground) Ready() error {
	for _, t := range g.tracked {
		if err := t.awaitTap(); err != nil {
			return err
		}
	}
	if err := g.announce(); err != nil {
		return err
	}
	g.origin = g.clock()
	return nil
}

// Now is the time since Ready.
func (g *Ground) Now() time.Duration { return g.since(g.clock()) }

// since is a moment of CLOCK_MONOTONIC on the lab's clock.
func (g *Ground) since(ns int64) time.Duration { return time.Duration(ns - g.origin) }

// WaitUntil waits for a moment.
func (g *Ground) WaitUntil(ctx context.Context, at time.Duration) error {
	defer g.calib.Settle() // what comes next has its tick known
	begin := g.Now()
	d := at - begin
	if d <= 0 {
		return ctx.Err()
	}
	defer func() { g.waits += min(d, g.Now()-begin) }()
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
func (g *Ground) FD(node string) int { return g.nodes[node].NS.FD() }

func (g *Ground) node(name string) (*topology.Node, error) {
	if n := g.nodes[name]; n != nil {
		return n, nil
	}
	return nil, fmt.Errorf("there is no node %s", name)
}

// trackedNode finds a tracked node by name, or returns nil.
func (g *Ground) trackedNode(name string) *tracked {
	for _, t := range g.tracked {
		if t.spec.Name == name {
			return t
		}
	}
	return nil
}

// table finds a tracked node whose table is to be read or written.
func (g *Ground) table(name string) (*tracked, error) {
	if t := g.trackedNode(name); t != nil {
		return t, nil
	}
	return nil, fmt.Errorf("%s is not tracked", name)
}

// clock is CLOCK_MONOTONIC in ns. What it is asked around an act tells in which tick of the kernel that was.
type clock func() int64

// now is a moment without an extent.
func (c clock) now() kernel.Moment {
	t := c()
	return kernel.Moment{From: t, To: t}
}

// during runs fn and returns the moment around it.
func (c clock) during(fn func() error) (kernel.Moment, error) {
	from := c()
	err := fn()
	return kernel.Moment{From: from, To: c()}, err
}
