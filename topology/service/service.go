// Package service compiles services (VIPs with backends) to iptables-save text, and decides which
// conntrack entries a service proxy deletes after its rules changed. It is pure.
package service

import (
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"strings"

	"ctlab/checks/conntrack"
)

// Backend is a node behind a VIP.
type Backend struct {
	Name string
	Addr netip.Addr
}

// Port of a service.
type Port struct {
	Name     string
	Number   uint16
	Proto    uint8 // conntrack.UDP or conntrack.TCP
	Target   uint16
	NodePort uint16 // 0: none
}

// Style is how a service's rules are written.
type Style string

// The styles.
const (
	DNAT      Style = "dnat"       // the fewest rules: one a port and backend
	KubeProxy Style = "kube-proxy" // the chains of kube-proxy's iptables mode
)

// Empty is what becomes of packets to a service that has no backend.
type Empty string

// The three answers.
const (
	Nothing Empty = "nothing" // no rule matches
	Reject  Empty = "reject"  // port unreachable, as kube-proxy does
	Drop    Empty = "drop"
)

// Masquerade is which flows of a service get a new source.
type Masquerade string

// The answers. As the style does means, for kube-proxy: what comes by node port, external or load-balancer
// IP, and a backend that calls its own service (hairpin); for dnat: nothing.
const (
	MasqueradeAuto Masquerade = "auto"
	MasqueradeAll  Masquerade = "all"
	MasqueradeNone Masquerade = "none"
)

// Service is a VIP and what stands behind it.
type Service struct {
	Name            string
	VIP             netip.Addr
	ExternalIPs     []netip.Addr
	LoadBalancerIPs []netip.Addr
	Ports           []Port
	Backends        []Backend
	Style           Style      // "": DNAT
	ByTurns         bool       // nth instead of random
	Empty           Empty      // "": Nothing
	Masquerade      Masquerade // "": auto
}

// Own are rules of a lab's own, under a name: what iptables-save prints, or lines as typed after iptables.
type Own struct{ Name, Text string }

// Mode is which entries are deleted when a service's backends change.
type Mode string

// The modes, each with the gaps that it had (pkg/proxy/conntrack).
const (
	None             Mode = "none"
	Legacy           Mode = "legacy"            // conntrack -D --orig-dst FRONTEND --dst-nat REMOVED-ENDPOINT, up to 1.31: misses entries without DNAT
	Reconcile132     Mode = "reconcile-1.32"    // by reply source; passes over services without endpoints, and matches external and load-balancer IPs without the port
	ReconcileCurrent Mode = "reconcile-current" // by reply source and port, also when no endpoint is left (kubernetes/kubernetes#139628)
)

// Modes lists the modes in the order of the documentation.
func Modes() []Mode { return []Mode{None, Legacy, Reconcile132, ReconcileCurrent} }

// anchorChain holds the anchor rule. Nothing jumps to it: its rule counts no packet and changes no
// verdict, but as a rule that asks for conntrack state it keeps tracking on.
const anchorChain = "ctlab-anchor"

// AnchorComment marks the anchor rule.
const AnchorComment = "ctlab anchor"

func anchor(b *strings.Builder) {
	fmt.Fprintf(b, "*filter\n:%s - [0:0]\n-A %s -m conntrack --ctstate INVALID -m comment --comment %q\nCOMMIT\n", anchorChain, anchorChain, AnchorComment)
}

// Rules is the text for a node that is set up: the chains of all services, jumps to them from PREROUTING
// and OUTPUT, and the anchor if it is wanted. It is loaded with iptables-restore.
func Rules(services []Service, anchored bool) string {
	var b strings.Builder
	if len(services) > 0 {
		b.WriteString("*nat\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n")
		for _, s := range services {
			fmt.Fprintf(&b, ":%s - [0:0]\n", s.Chain())
		}
		for _, s := range services {
			fmt.Fprintf(&b, "-A PREROUTING -j %s\n-A OUTPUT -j %s\n", s.Chain(), s.Chain())
		}
		for _, s := range services {
			s.rules(&b)
		}
		b.WriteString("COMMIT\n")
	}
	if anchored {
		anchor(&b)
	}
	return b.String()
}

// Change is the text that gives one service its present backends. It names its own chain only, and the
// anchor, and is loaded with iptables-restore --noflush, as kube-proxy does.
func Change(s Service, anchored bool) string {
	var b strings.Builder
	fmt.Fprintf(&b, "*nat\n:%s - [0:0]\n", s.Chain())
	s.rules(&b)
	b.WriteString("COMMIT\n")
	if anchored {
		anchor(&b)
	}
	return b.String()
}

// maxChain is the longest chain name that iptables takes.
const maxChain = 28

// Chain is the name of the service's chain.
func (s Service) Chain() string {
	name := "svc-" + s.Name
	if len(name) <= maxChain {
		return name
	}
	h := fnv.New32a()
	h.Write([]byte(s.Name))
	return fmt.Sprintf("%s-%08x", name[:maxChain-9], h.Sum32())
}

// Comment is the comment of a backend's rules, and the key of its rule hits.
func (s Service) Comment(b Backend) string { return s.Name + "/" + b.Name }

func (s Service) rules(b *strings.Builder) {
	for _, p := range s.Ports {
		for i, be := range s.Backends {
			proto := conntrack.ProtocolName(p.Proto)
			fmt.Fprintf(b, "-A %s -d %s/32 -p %s -m %s --dport %d -m comment --comment %q%s -j DNAT --to-destination %s\n",
				s.Chain(), s.VIP, proto, proto, p.Number, s.Comment(be), s.share(len(s.Backends)-i), netip.AddrPortFrom(be.Addr, p.Target))
		}
	}
}

// share gives the first of n remaining backends its part of the flows.
func (s Service) share(n int) string {
	switch {
	case n == 1:
		return ""
	case s.ByTurns:
		return fmt.Sprintf(" -m statistic --mode nth --every %d --packet 0", n)
	}
	return fmt.Sprintf(" -m statistic --mode random --probability %.11f", 1/float64(n))
}

// StaleEntries are the UDP entries that kube-proxy deletes after the rules of the service changed: those
// with one of its frontends as original destination whose reply source is none of its backends
// (pkg/proxy/conntrack/cleanup.go, CleanStaleEntries; since the fix of kubernetes/kubernetes#139628 also
// when no backend is left). The form that looks at the reply source also catches entries without DNAT.
func StaleEntries(s Service, table []conntrack.Entry) []conntrack.Entry {
	var stale []conntrack.Entry
	for _, e := range table {
		if e.Orig.Proto != conntrack.UDP || e.Orig.Dst != s.VIP {
			continue
		}
		frontend := slices.ContainsFunc(s.Ports, func(p Port) bool { return p.Proto == conntrack.UDP && p.Number == e.Orig.DstPort })
		serving := slices.ContainsFunc(s.Backends, func(b Backend) bool { return b.Addr == e.Reply.Src })
		if frontend && !serving {
			stale = append(stale, e)
		}
	}
	return stale
}
