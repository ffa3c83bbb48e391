package sim

import (
	"context"
	"fmt"
	"slices"
	"time"

	"ctlab/checks"
	"ctlab/checks/conntrack"
	"ctlab/lab"
)

// handledTime is how long a packet takes to a router, on to a host, and an answer of its stack back to where it came from.
const handledTime = 5 * linkTime

// Put puts a packet on a wire, and lets time pass until everybody has handled it who does so at once.
func (g *Ground) Put(ctx context.Context, wire string, c checks.Crafted) (conntrack.Packet, error) {
	p := c.Packet
	n, err := g.node(wire)
	if err != nil {
		return p, err
	}
	if c.FreeID {
		p.ID = g.nextID()
	}
	delete(g.payload, p.ID) // what it carries is no message
	n.wire(hostDevice, p)
	return p, g.wait(func() error { return g.pass(ctx, handledTime) })
}

// pass lets time pass.
func (g *Ground) pass(ctx context.Context, d time.Duration) error {
	until := g.now + int64(d)
	err := g.run(ctx, until, func() bool { return false })
	g.now = max(g.now, until)
	return err
}

// announce lets each wire that answers ARP say that it is there.
func (g *Ground) announce() {
	for _, spec := range g.lab.Nodes {
		router := g.nodes[spec.Uplink]
		if !spec.Wire || spec.Silent || router == nil {
			continue
		}
		for _, d := range g.nodes[spec.Name].devices {
			for _, a := range d.addrs {
				router.found(hop{spec.Port, a.Addr()})
			}
		}
	}
}

// Mark is how many packets came to a tracked node and left it so far.
func (g *Ground) Mark(node string) int {
	t, err := g.trackedNode(node)
	if err != nil {
		return 0
	}
	return len(t.passed)
}

// Passed are the packets that came to a tracked node and left it since a mark.
func (g *Ground) Passed(node string, mark int) []lab.Passed {
	t, err := g.trackedNode(node)
	if err != nil {
		return nil
	}
	return slices.Clone(t.passed[mark:])
}

// Await lets time pass until enough is true, or until the limit.
func (g *Ground) Await(ctx context.Context, node string, limit time.Duration, enough func() bool) error {
	if _, err := g.trackedNode(node); err != nil {
		return fmt.Errorf("wait for packets: %w", err)
	}
	return g.await(ctx, limit, enough)
}

// await lets time pass until enough is true, or else until the limit.
func (g *Ground) await(ctx context.Context, limit time.Duration, enough func() bool) error {
	return g.wait(func() error {
		until := g.now + int64(limit)
		err := g.run(ctx, until, enough)
		if err == nil && !enough() {
			g.now = max(g.now, until)
		}
		return err
	})
}

// pass notes a packet that came to the node or left it.
func (t *tracked) pass(dev string, out bool, p conntrack.Packet) {
	t.passed = append(t.passed, lab.Passed{At: time.Duration(t.g.now - t.g.origin), Dev: dev, Out: out, Packet: p})
}
