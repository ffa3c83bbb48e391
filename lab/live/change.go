//go:build linux

package live

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"

	"ctlab/checks/kernel"
	"ctlab/checks/trace"
	"ctlab/lab"
	"ctlab/topology"
	"ctlab/topology/service"
)

// act does something to a node and, if it is tracked, records it with its moment.
func (g *Ground) act(node string, do func(n *topology.Node) error, record func(t *tracked, at kernel.Moment)) error {
	n, err := g.node(node)
	if err != nil {
		return err
	}
	at, err := g.clock.during(func() error { return do(n) })
	if err != nil {
		return err
	}
	if t := g.trackedNode(node); t != nil {
		record(t, at)
	}
	return nil
}

// Load loads iptables-save or ip6tables-save text into a tracked node. Where IPv6 is spoken the tap is awaited first: the
// stack's own packets may come by at any time, and rules count them.
func (g *Ground) Load(ctx context.Context, node string, f service.Family, text string, noflush bool) error {
	kind := trace.Rules
	if t := g.trackedNode(node); t != nil && f == service.IPv6 {
		kind = trace.Rules6
		if err := t.awaitTap(); err != nil {
			return err
		}
	}
	ipt := g.ipts[f]
	how := "restore"
	if noflush {
		how = "noflush"
	}
	return g.act(node,
		func(n *topology.Node) error {
			err := ipt.Load(ctx, n, text, noflush)
			var refused *exec.ExitError
			if errors.As(err, &refused) {
				return explainRefusal(ctx, ipt, text, err)
			}
			return err
		},
		func(t *tracked, at kernel.Moment) { t.rec.did(at, kind, how, text) })
}

// Sysctl sets a setting.
func (g *Ground) Sysctl(node string, s lab.Sysctl) error {
	err := g.act(node,
		func(n *topology.Node) error { return n.NS.WriteSysctl(s.Name, s.Value) },
		func(t *tracked, at kernel.Moment) { t.recordSysctl(at, s.Name, s.Value) })
	if err != nil {
		return &lab.SettingError{Setting: s, Node: node, Err: err}
	}
	return nil
}

// Link sets a device up or down, or deletes it ("gone") with both its ends. What the kernel takes along by
// itself, such as routes, is not recorded: the model must know.
func (g *Ground) Link(node, dev, state string) error {
	do := func(n *topology.Node) error {
		switch state {
		case "up", "down":
			return n.SetLink(dev, state == "up")
		case "gone":
			return n.DeleteLink(dev)
		}
		return fmt.Errorf("set %s of %s to %q: it can be up, down or gone", dev, node, state)
	}
	n, err := g.node(node)
	if err != nil {
		return err
	}
	at, err := g.clock.during(func() error { return do(n) })
	if err != nil {
		return err
	}
	if t := g.trackedNode(node); t != nil {
		t.linkChanged(at, dev, state)
	} else {
		g.otherEnd(node, dev, state, at)
	}
	return nil
}

func (t *tracked) linkChanged(at kernel.Moment, dev, state string) {
	t.rec.did(at, trace.Link, dev+" "+state, "")
	if state != "up" {
		t.rec.forgot(loss{at: at, dev: dev})
	}
}

// otherEnd tells a host's router what became of its end of the link: it goes too, or has no carrier any
// more and forgets its neighbours.
func (g *Ground) otherEnd(host, dev, state string, at kernel.Moment) {
	spec := g.lab.Node(host)
	if dev != topology.HostDevice {
		return
	}
	switch t := g.trackedNode(spec.Uplink); state {
	case "gone":
		t.linkChanged(at, spec.Port, state)
	case "down":
		t.rec.forgot(loss{at: at, dev: spec.Port, late: true})
	}
}

// Address adds an address to a device or removes it.
func (g *Ground) Address(node, dev string, a netip.Prefix, add bool) error {
	return g.act(node,
		func(n *topology.Node) error {
			if add {
				return n.AddAddress(dev, a)
			}
			return n.RemoveAddress(dev, a)
		},
		func(t *tracked, at kernel.Moment) {
			kind := trace.NoAddress
			if add {
				kind, t.own[a.Addr()] = trace.Address, true
			}
			t.rec.did(at, kind, dev+" "+a.String(), "")
			if !add { // with the last one, neighbours go too
				t.rec.forgot(loss{at: at, dev: dev})
			}
		})
}

// Route adds, deletes or replaces a route.
func (g *Ground) Route(node, op string, r lab.Route) error {
	route := topology.Route{To: r.To.Masked(), Via: r.Via, Dev: r.Dev}
	if op == "replace" {
		return g.replaceRoute(node, route)
	}
	return g.act(node,
		func(n *topology.Node) error {
			switch op {
			case "add":
				return n.AddRoute(route)
			case "del":
				return n.DeleteRoute(route)
			}
			return fmt.Errorf("route of %s: it can be added, deleted or replaced, not %q", node, op)
		},
		func(t *tracked, at kernel.Moment) {
			kind := trace.Routing
			if op == "del" {
				kind = trace.NoRouting
			}
			t.rec.did(at, kind, route.String(), "")
		})
}

// replaceRoute is recorded as the end of the route that had the destination, if there was one, and the
// beginning of its successor, at one moment.
func (g *Ground) replaceRoute(node string, route topology.Route) error {
	var before []topology.Route
	return g.act(node,
		func(n *topology.Node) (err error) {
			if before, err = n.Routes(); err != nil {
				return err
			}
			return n.ReplaceRoute(route)
		},
		func(t *tracked, at kernel.Moment) {
			for _, old := range before {
				if old.To == route.To {
					t.rec.did(at, trace.NoRouting, old.String(), "")
				}
			}
			t.rec.did(at, trace.Routing, route.String(), "")
		})
}

// Forget deletes what a node knows of a neighbour.
func (g *Ground) Forget(node, dev string, a netip.Addr) error {
	return g.act(node,
		func(n *topology.Node) error { return n.ForgetNeighbour(dev, a) },
		func(t *tracked, at kernel.Moment) {
			t.rec.did(at, trace.Neigh, dev+" "+a.String(), "")
			t.rec.forgot(loss{at: at, dev: dev, addr: a})
		})
}
