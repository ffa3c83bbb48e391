package play

import (
	"net/netip"

	"ctlab/lab"
)

// change is the steps that change a node's settings, links, addresses and routes.
func (w *World) change(s *lab.Step) error {
	for _, node := range s.Nodes {
		if err := w.changeNode(node, s); err != nil {
			return err
		}
	}
	return nil
}

func (w *World) changeNode(node string, s *lab.Step) error {
	for _, set := range s.Sysctls {
		if err := w.ground.Sysctl(node, set); err != nil {
			return err
		}
	}
	if s.Kind == lab.SetLink {
		return w.ground.Link(node, s.Dev, s.LinkState)
	}
	for _, a := range s.DelAddress {
		if err := w.setAddress(node, s.Dev, a, false); err != nil {
			return err
		}
	}
	for _, a := range s.AddAddress {
		if err := w.setAddress(node, s.Dev, a, true); err != nil {
			return err
		}
	}
	for _, r := range s.Routes {
		if err := w.ground.Route(node, s.RouteOp, r); err != nil {
			return err
		}
	}
	return nil
}

func (w *World) setAddress(node, dev string, a netip.Prefix, add bool) error {
	if err := w.ground.Address(node, dev, a, add); err != nil {
		return err
	}
	t := w.trackedNode(node)
	switch {
	case t != nil && add:
		t.addrs[a.Addr()] = true
	case t != nil:
		delete(t.addrs, a.Addr())
	case add:
		w.where[a.Addr()] = node
	}
	return nil
}
