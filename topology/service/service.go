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
	Number uint16
	Proto  uint8
	Target uint16
}

// Service is a VIP and what stands behind it.
type Service struct {
	Name     string
	VIP      netip.Addr
	Ports    []Port
	Backends []Backend
	ByTurns  bool // nth instead of random
}

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
