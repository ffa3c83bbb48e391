package play

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"ctlab/lab"
)

// hostDevice is the name of a host's only device.
const hostDevice = "eth0"

func (w *World) startServer(ctx context.Context, s *server, on string) error {
	s.on = on
	running, err := w.serve(ctx, s.spec, on)
	s.running = append(s.running, running...)
	if err != nil {
		return fmt.Errorf("server %s on %s: %w", s.spec.Name, on, err)
	}
	return nil
}

// serve starts the built-in server, at each of its addresses, or a program. A world that runs no programs lets the former
// stand in for the latter.
func (w *World) serve(ctx context.Context, spec *lab.Server, on string) (running []Server, err error) {
	if spec.Exec != nil {
		if srv, err := w.serveProgram(ctx, spec, on); !errors.Is(err, ErrNotSimulated) {
			if err != nil {
				return nil, err
			}
			return []Server{srv}, nil
		}
	}
	for _, at := range w.lab.Listens(spec, on) {
		srv, err := w.ground.Serve(ctx, on, at, on)
		if err != nil {
			return running, err
		}
		running = append(running, srv)
	}
	return running, nil
}

func (w *World) stopServer(ctx context.Context, s *server) error {
	var errs []error
	for _, r := range s.running {
		asked, err := r.Stop(ctx)
		w.asked[s.on] += asked
		errs = append(errs, err)
	}
	s.running = nil
	return errors.Join(errs...)
}

// restart ends a server and starts it again, here or on another node. Services that had the old node as a
// backend follow.
func (w *World) restart(ctx context.Context, s *lab.Step, out *lab.Outcome) error {
	srv := w.servers[s.Server]
	r := &lab.Restarted{Server: s.Server, From: srv.on, To: s.On, Death: s.Death, Reuse: s.Reuse}
	out.Restarted = r
	if err := w.die(ctx, srv, s.Death, s.Reuse); err != nil {
		return err
	}
	if err := w.startServer(ctx, srv, r.To); err != nil {
		return err
	}
	if r.From == r.To || s.NoFollow {
		return nil
	}
	for _, spec := range w.lab.Services {
		i := slices.Index(w.backs[spec.Name], r.From)
		if i < 0 {
			continue
		}
		next := slices.Clone(w.backs[spec.Name])
		next[i] = r.To
		if err := w.follow(ctx, spec, dropTwice(next), out); err != nil {
			return err
		}
		r.Services, r.Cleanup = append(r.Services, spec.Name), spec.Cleanup
	}
	return nil
}

// dropTwice keeps the first of equal names.
func dropTwice(names []string) []string {
	var out []string
	for _, n := range names {
		if !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out
}

// die ends a server, and what its death takes along.
func (w *World) die(ctx context.Context, s *server, how lab.Death, reuse string) error {
	if err := w.stopServer(ctx, s); err != nil {
		return err
	}
	node := w.lab.Node(s.on)
	if how == lab.DeathRoute {
		return w.ground.Link(node.Uplink, node.Port, "gone")
	}
	for _, f := range lab.Families() {
		if at := node.AddressIn(f); at.IsValid() {
			if err := w.loseOne(ctx, node, at, how, reuse); err != nil {
				return err
			}
		}
	}
	return nil
}

// loseOne is what a death does to one address of the node.
func (w *World) loseOne(ctx context.Context, node *lab.Node, at netip.Prefix, how lab.Death, reuse string) error {
	switch how {
	case lab.DeathAddress:
		return w.loseAddress(node, at)
	case lab.DeathDrop:
		return w.dropAll(ctx, w.trackedNode(node.Uplink), at.Addr())
	case lab.DeathReuse:
		return w.giveAddress(ctx, node, w.lab.Node(reuse), at)
	}
	return nil
}

// loseAddress takes an address off a host, and what its router knows of it, which would vanish with a
// pod's link.
func (w *World) loseAddress(host *lab.Node, a netip.Prefix) error {
	if err := w.ground.Address(host.Name, hostDevice, a, false); err != nil {
		return err
	}
	return w.ground.Forget(host.Uplink, host.Port, a.Addr())
}

// giveAddress moves an address, with the router's route to it, to another host. The servers there answer at
// it too, as those that are bound to any address would.
func (w *World) giveAddress(ctx context.Context, from, to *lab.Node, a netip.Prefix) error {
	route := func(n *lab.Node) lab.Route {
		return lab.Route{To: netip.PrefixFrom(a.Addr(), a.Addr().BitLen()), Dev: n.Port}
	}
	err := w.loseAddress(from, a)
	for _, act := range []func() error{
		func() error { return w.ground.Route(from.Uplink, "del", route(from)) },
		func() error { return w.ground.Address(to.Name, hostDevice, a, true) },
		func() error { return w.ground.Route(to.Uplink, "add", route(to)) },
	} {
		if err == nil {
			err = act()
		}
	}
	if err != nil {
		return err
	}
	w.where[a.Addr()] = to.Name
	for _, s := range w.servers {
		if s.on != to.Name || len(s.running) == 0 || s.spec.Exec != nil || s.spec.Listen.IsValid() && s.spec.Listen.IsUnspecified() {
			continue
		}
		srv, err := w.ground.Serve(ctx, to.Name, netip.AddrPortFrom(a.Addr(), s.spec.Port), to.Name)
		if err != nil {
			return fmt.Errorf("server %s on %s at %s: %w", s.spec.Name, to.Name, a.Addr(), err)
		}
		s.running = append(s.running, srv)
	}
	return nil
}
