package service

import (
	"net/netip"
	"slices"

	"ctlab/checks/conntrack"
)

// Stale are the entries of a table that kube-proxy would delete for a service whose backends changed. Only
// UDP entries of the service's family are ever deleted; backends that are not ready or terminating do not exist here.
//
//   - Legacy (ClearEntriesForNAT and ClearEntriesForPortNAT, up to 1.31) looks for each backend that is gone:
//     entries to an address of the service, whatever the port, or to a node port at any address, that are
//     DNATed to it. It misses entries without DNAT. (kube-proxy also deleted all entries to a service's
//     addresses when its first backend came; this mode does not.)
//   - Reconcile132 (CleanStaleEntries in 1.32.0) looks at the reply source of the same entries: what is no
//     backend is stale, with or without DNAT. So of services that share an address each finds the entries of
//     the others stale (kubernetes/kubernetes#129982). It passes over a service without backends
//     (kubernetes/kubernetes#139628).
//   - ReconcileCurrent (CleanStaleEntries since kubernetes/kubernetes#139629) compares address and port, of
//     the original destination and of the reply source, also when no backend is left. Only then node ports
//     are passed over: they are matched at any address, and other traffic may go to that port.
func Stale(mode Mode, before, after Service, table []conntrack.Entry) []conntrack.Entry {
	var stale []conntrack.Entry
	for _, e := range table {
		if e.Orig.Proto == conntrack.UDP && FamilyOf(e.Orig.Dst) == FamilyOf(after.VIP) && isStale(mode, before, after, &e) {
			stale = append(stale, e)
		}
	}
	return stale
}

func isStale(mode Mode, before, after Service, e *conntrack.Entry) bool {
	switch mode {
	case Legacy:
		gone := before.hasBackend(e.Reply.Src) && !after.hasBackend(e.Reply.Src)
		return gone && e.Status.Has(conntrack.DstNAT) && after.frontsAnyPort(e.Orig)
	case Reconcile132:
		return len(after.Backends) > 0 && after.frontsAnyPort(e.Orig) && !after.hasBackend(e.Reply.Src)
	case ReconcileCurrent:
		return slices.ContainsFunc(after.Ports, func(p Port) bool {
			return after.fronts(p, e.Orig) && !(p.Target == e.Reply.SrcPort && after.hasBackend(e.Reply.Src))
		})
	}
	return false
}

// frontsAnyPort reports whether a tuple goes to an address of a UDP service, or to a node port.
func (s Service) frontsAnyPort(t conntrack.Tuple) bool {
	return slices.ContainsFunc(s.Ports, func(p Port) bool {
		return p.Proto == conntrack.UDP && (s.hasAddress(t.Dst) || p.NodePort != 0 && p.NodePort == t.DstPort)
	})
}

// fronts reports whether a tuple goes to a UDP port of a service, or to its node port while there are
// backends.
func (s Service) fronts(p Port, t conntrack.Tuple) bool {
	if p.Proto != conntrack.UDP {
		return false
	}
	return s.hasAddress(t.Dst) && p.Number == t.DstPort || p.NodePort != 0 && p.NodePort == t.DstPort && len(s.Backends) > 0
}

func (s Service) hasAddress(a netip.Addr) bool { return a == s.VIP || slices.Contains(s.external(), a) }

func (s Service) hasBackend(a netip.Addr) bool {
	return slices.ContainsFunc(s.Backends, func(b Backend) bool { return b.Addr == a })
}
