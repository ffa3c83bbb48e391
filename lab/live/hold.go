//go:build linux

package live

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"ctlab/checks/conntrack"
	"ctlab/checks/trace"
	frames "ctlab/checks/wire"
	"ctlab/internal/queue"
	"ctlab/topology/service"
)

// ErrNoQueue says that the kernel cannot hold packets.
var ErrNoQueue = errors.New("this kernel cannot hold packets: it needs nf_tables with nft_compat, xt_NFQUEUE and nfnetlink_queue")

// Hold lets packets wait on their way through a tracked node.
func (g *Ground) Hold(node string, h conntrack.Hold) error {
	t, err := g.table(node)
	if err != nil {
		return err
	}
	if t.queue == nil {
		if t.queue, err = queue.Open(t.node.NS, g.families(t)...); err != nil {
			return unlessMissing(err)
		}
	}
	at, err := t.clock.during(func() error { return t.queue.Hold(h) })
	if err != nil {
		return unlessMissing(err)
	}
	t.rec.did(at, trace.Hold, h.String(), "")
	return nil
}

// families are those that the node speaks.
func (g *Ground) families(t *tracked) (out []queue.Family) {
	for f, family := range map[service.Family]queue.Family{service.IPv4: queue.IPv4, service.IPv6: queue.IPv6} {
		if g.lab.Speaks(t.spec, f) {
			out = append(out, family)
		}
	}
	return out
}

// unlessMissing says what a kernel lacks that does not know the words of a request.
func unlessMissing(err error) error {
	for _, missing := range []error{unix.EOPNOTSUPP, unix.ENOENT, unix.EPROTONOSUPPORT, unix.EINVAL} {
		if errors.Is(err, missing) {
			return fmt.Errorf("%w: %w", ErrNoQueue, err)
		}
	}
	return err
}

// held finds a tracked node on which packets are held.
func (g *Ground) held(node string) (*tracked, error) {
	t, err := g.table(node)
	if err == nil && t.queue == nil {
		err = fmt.Errorf("nothing is held on %s", node)
	}
	return t, err
}

// Unhold lets no further packet wait.
func (g *Ground) Unhold(node string) error {
	t, err := g.held(node)
	if err != nil {
		return err
	}
	at, err := t.clock.during(t.queue.Unhold)
	if err != nil {
		return err
	}
	t.rec.did(at, trace.Unhold, "", "")
	return nil
}

// Held are the packets that wait.
func (g *Ground) Held(node string) ([]conntrack.Packet, error) {
	t, err := g.held(node)
	if err != nil {
		return nil, err
	}
	waiting, err := t.queue.Waiting()
	if err != nil {
		return nil, err
	}
	out := make([]conntrack.Packet, len(waiting))
	for i, w := range waiting {
		out[i], _ = frames.Decode(w.Bytes)
	}
	return out, nil
}

// AwaitHeld waits until so many packets wait, or until the limit.
func (g *Ground) AwaitHeld(ctx context.Context, node string, n int, limit time.Duration) error {
	t, err := g.held(node)
	if err != nil {
		return err
	}
	begin := g.Now()
	defer func() { g.waits += g.Now() - begin }()
	over := time.NewTimer(limit)
	defer over.Stop()
	for {
		waiting, err := t.queue.Waiting()
		if err != nil {
			return err
		}
		if len(waiting) >= n {
			t.knowHeld(waiting)
			return nil
		}
		select {
		case <-t.queue.More():
		case <-over.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// knowHeld notes that packets were handled as far as to where they wait, so that what comes next is behind that.
func (t *tracked) knowHeld(waiting []queue.Packet) {
	now := t.clock()
	for _, w := range waiting {
		if p, ok := frames.Decode(w.Bytes); ok {
			t.rec.heldBy(now, &p)
		}
	}
}

// Release lets a packet that waits go on, or be dropped.
func (g *Ground) Release(node string, nth int, accept bool) error {
	t, err := g.held(node)
	if err != nil {
		return err
	}
	g.calib.Settle()
	at, err := t.clock.during(func() error { return t.queue.Release(nth, accept) })
	if err == nil {
		t.rec.called(at, trace.Release, trace.ReleaseArgs(nth, accept))
	}
	return err
}
