package sim

import (
	"context"
	"fmt"
	"time"

	"ctlab/checks/conntrack"
	"ctlab/checks/trace"
)

// Hold lets packets wait on their way through a tracked node.
func (g *Ground) Hold(node string, h conntrack.Hold) error {
	t, err := g.trackedNode(node)
	if err != nil {
		return fmt.Errorf("hold packets: %w", err)
	}
	t.record(trace.Hold, h.String(), "")
	t.ns.Hold(h)
	return nil
}

// Unhold lets no further packet wait.
func (g *Ground) Unhold(node string) error {
	t, err := g.trackedNode(node)
	if err != nil {
		return fmt.Errorf("end holding packets: %w", err)
	}
	t.record(trace.Unhold, "", "")
	t.ns.Unhold()
	return nil
}

// Held are the packets that wait.
func (g *Ground) Held(node string) ([]conntrack.Packet, error) {
	t, err := g.trackedNode(node)
	if err != nil {
		return nil, fmt.Errorf("list held packets: %w", err)
	}
	return t.ns.Held(), nil
}

// AwaitHeld lets time pass until so many packets wait.
func (g *Ground) AwaitHeld(ctx context.Context, node string, n int, limit time.Duration) error {
	t, err := g.trackedNode(node)
	if err != nil {
		return fmt.Errorf("wait for held packets: %w", err)
	}
	return g.await(ctx, limit, func() bool { return len(t.ns.Held()) >= n })
}

// Release lets a packet that waits go on, or be dropped.
func (g *Ground) Release(node string, nth int, accept bool) error {
	t, err := g.trackedNode(node)
	if err != nil {
		return fmt.Errorf("release a packet: %w", err)
	}
	t.record(trace.Release, trace.ReleaseArgs(nth, accept), "")
	t.handle(t.ns.Release(t.span(), nth, accept))
	return nil
}
