package sim

import (
	"context"
	"fmt"
	"net/netip"

	"ctlab/checks/trace"
	"ctlab/lab"
	"ctlab/topology/service"
)

// Load loads rules into a tracked node, at once.
func (g *Ground) Load(_ context.Context, node string, f service.Family, text string, noflush bool) error {
	t, err := g.trackedNode(node)
	if err != nil {
		return fmt.Errorf("load rules: %w", err)
	}
	how := "restore"
	if noflush {
		how = "noflush"
	}
	load, kind := t.ns.Load, trace.Rules
	if f == service.IPv6 {
		load, kind = t.ns.Load6, trace.Rules6
	}
	if err := load(text, noflush); err != nil {
		return fmt.Errorf("load rules into %s: %w", node, err)
	}
	t.record(kind, how, text)
	return nil
}

// Sysctl changes a setting.
func (g *Ground) Sysctl(node string, s lab.Sysctl) error {
	n, err := g.node(node)
	if err != nil {
		return fmt.Errorf("set %s: %w", s.Name, err)
	}
	n.set(s)
	if n.tracked != nil {
		n.tracked.sysctl(s.Name, s.Value)
	}
	return nil
}

func (n *node) set(s lab.Sysctl) { n.sysctls[s.Name] = s.Value }

// Link sets a device up or down, or deletes it together with its other end.
func (g *Ground) Link(node, dev, state string) error {
	n, err := g.node(node)
	if err != nil {
		return fmt.Errorf("set link %s %s: %w", dev, state, err)
	}
	d := n.device(dev)
	if d == nil {
		return fmt.Errorf("set link %s of %s %s: %w", dev, node, state, errNoDevice)
	}
	switch state {
	case "up", "down":
		if d.up != (state == "up") {
			n.setLink(d, state == "up")
		}
	case "gone":
		n.delLink(d)
	default:
		return fmt.Errorf("set link %s of %s %q: %w", dev, node, state, errUnknownOp)
	}
	return nil
}

// Address adds an address to a device or removes it.
func (g *Ground) Address(node, dev string, a netip.Prefix, add bool) error {
	n, err := g.node(node)
	if err != nil {
		return fmt.Errorf("change address %s: %w", a, err)
	}
	change := n.delAddress
	if add {
		change = n.addAddress
	}
	if err := change(dev, a); err != nil {
		return fmt.Errorf("node %s: %w", node, err)
	}
	return nil
}

// Route adds, deletes or replaces a route.
func (g *Ground) Route(node, op string, r lab.Route) error {
	n, err := g.node(node)
	if err != nil {
		return fmt.Errorf("change route %s: %w", r, err)
	}
	r.To = r.To.Masked()
	switch op {
	case "add":
		err = n.addRoute(r)
	case "del":
		err = n.delRoute(r)
	case "replace":
		err = n.replaceRoute(r)
	default:
		err = fmt.Errorf("%q route %s: %w", op, r, errUnknownOp)
	}
	if err != nil {
		return fmt.Errorf("node %s: %w", node, err)
	}
	return nil
}

// Forget deletes what a node knows of a neighbour; what waits for it fails.
func (g *Ground) Forget(node, dev string, a netip.Addr) error {
	n, err := g.node(node)
	if err != nil {
		return fmt.Errorf("forget neighbour %s: %w", a, err)
	}
	n.lost(hop{dev, a})
	return nil
}
