package model

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// Fingerprint is equal for two namespaces that will answer all further inputs alike.
func (n *Namespace) Fingerprint() string {
	var b strings.Builder
	for _, e := range n.entries {
		fmt.Fprintln(&b, e.fingerprint())
	}
	for _, k := range sortedNeighbours(n.neigh) {
		fmt.Fprintln(&b, k, n.neigh[k].resolved)
		for _, q := range n.neigh[k].queue {
			fmt.Fprintln(&b, q.out.Packet.Line(), q.dir, q.from)
			if q.ct != nil {
				fmt.Fprintln(&b, q.ct.fingerprint())
			}
		}
	}
	for _, h := range n.holds {
		fmt.Fprintln(&b, h)
	}
	for _, w := range n.waiting {
		fmt.Fprintln(&b, w.held, w.next, w.p.Line(), w.in, w.out, w.hop, w.local, w.info, w.mark, w.zone)
		if w.ct != nil {
			fmt.Fprintln(&b, w.ct.fingerprint())
		}
	}
	n.rules.fingerprint(&b)
	n.rules6.fingerprint(&b)
	// fmt prints maps in the order of their keys
	fmt.Fprintln(&b, n.stats, n.foundMore, n.sysctls, n.Links(), n.Addresses(), n.routes, n.sockets, n.listening, n.pressed, n.unknown, n.filler)
	for _, k := range n.fragKeys() {
		fmt.Fprintln(&b, k, *n.frags[k])
	}
	fmt.Fprintln(&b, n.fragsOf, n.pathMTU)
	for _, a := range slices.SortedFunc(maps.Keys(n.peers), netip.Addr.Compare) {
		fmt.Fprintln(&b, a, *n.peers[a])
	}
	return b.String()
}

func (rs *Ruleset) fingerprint(b *strings.Builder) {
	for _, name := range slices.Sorted(maps.Keys(rs.tables)) {
		for _, c := range rs.tables[name].chains {
			fmt.Fprintln(b, name, c.name, c.policy)
			for _, r := range c.rules {
				fmt.Fprintln(b, r.text, r.nth, r.count)
			}
		}
	}
}

func (e *entry) fingerprint() string {
	return fmt.Sprint(e.orig, e.reply, e.zone, e.status, e.expiry, e.relative, e.gre, e.streamAfter, e.acct, e.events, e.count, e.mark, e.pending, e.held, e.masqueraded, e.touched)
}
