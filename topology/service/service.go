// Package service compiles services (VIPs with backends) to iptables-save text, and decides which
// conntrack entries a service proxy deletes after its rules changed. It is pure.
package service

import (
	"fmt"
	"hash/fnv"
	"net/netip"

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

// The modes, each with the gaps that it had (pkg/proxy/conntrack); Stale says them in full.
const (
	None             Mode = "none"
	Legacy           Mode = "legacy"            // conntrack -D --orig-dst FRONTEND --dst-nat REMOVED-ENDPOINT, up to 1.31: misses entries without DNAT
	Reconcile132     Mode = "reconcile-1.32"    // by reply source; passes over services without endpoints, and matches addresses without the port
	ReconcileCurrent Mode = "reconcile-current" // by reply source and port, also when no endpoint is left (kubernetes/kubernetes#139628)
)

// Modes lists the modes in the order of the documentation.
func Modes() []Mode { return []Mode{None, Legacy, Reconcile132, ReconcileCurrent} }

// anchorChain holds the anchor rule. Nothing jumps to it: its rule counts no packet and changes no
// verdict, but as a rule that asks for conntrack state it keeps tracking on.
const anchorChain = "ctlab-anchor"

// AnchorComment marks the anchor rule.
const AnchorComment = "ctlab anchor"

// Rules is the text for a node that is set up, to be loaded with iptables-restore: the chains of all
// services and the jumps to them, then the lab's own rules, and the anchor if it is wanted. As on a node
// where a service proxy runs, the services' jumps stand first; own rules that are appended (-A) come behind
// them, inserted ones (-I) before them. Each own rule has the comment NAME.N besides its own, with N
// counting the rules of its text from 1. The text is empty if there is nothing to load.
//
// The services are of one family; of IPv6 the text is for ip6tables-restore.
//
// The error says which of the own rules is wrong, as Check does, or which service cannot be written.
func Rules(services []Service, own []Own, anchored bool) (string, error) {
	if err := check(services); err != nil {
		return "", err
	}
	rs := compile(services, anchored)
	if err := rs.merge(own); err != nil {
		return "", err
	}
	return rs.whole(), nil
}

// Change is the text that gives the services of a node their present backends, to be loaded with
// iptables-restore --noflush on top of what Rules or Change wrote for them as they were. Before and after
// are the same services; only backends may differ. The text rewrites the services' own chains that differ,
// and the anchor. It names no built-in chain, so nothing is added twice, and rules of other services keep
// their counters unless they share a chain with what changed. It is empty if there is nothing to load.
func Change(before, after []Service, anchored bool) string {
	return compile(before, anchored).change(compile(after, anchored))
}

// check refuses what compile could not write.
func check(services []Service) error {
	names := map[string]bool{}
	for _, s := range services {
		if names[s.Name] {
			return fmt.Errorf("service %s: there are two", s.Name)
		}
		names[s.Name] = true
		if s.VIP.IsValid() && FamilyOf(s.VIP) != FamilyOf(services[0].VIP) {
			return fmt.Errorf("service %s: %s and %s are of different families", s.Name, s.VIP, services[0].VIP)
		}
		switch s.Style {
		case "", DNAT, KubeProxy:
		default:
			return fmt.Errorf("service %s: style %q is not known", s.Name, s.Style)
		}
		ports := map[string]bool{}
		for _, p := range s.Ports {
			key := s.portName(p) + " " + conntrack.ProtocolName(p.Proto)
			if ports[key] {
				return fmt.Errorf("service %s: two ports are called %s", s.Name, s.portName(p))
			}
			ports[key] = true
		}
	}
	return nil
}

// compile writes the services' chains and jumps.
func compile(services []Service, anchored bool) ruleset {
	rs := ruleset{}
	var proxied, plain []Service
	for _, s := range services {
		if s.Style == KubeProxy {
			proxied = append(proxied, s)
		} else {
			plain = append(plain, s)
		}
	}
	if len(proxied) > 0 {
		rs.kubeProxy(proxied)
	}
	if len(plain) > 0 {
		rs.dnat(plain)
	}
	if anchored {
		rs.chain("filter", anchorChain).add("-m conntrack --ctstate INVALID", comment(AnchorComment))
	}
	return rs
}

// Comment is the comment of a backend's rules, and the key of its rule hits.
func (s Service) Comment(b Backend) string { return s.Name + "/" + b.Name }

// refusal is the end of the rule for packets to a service without backends, with its comment; "" if there is
// no such rule.
func (s Service) refusal() string {
	switch s.Empty {
	case Reject:
		with := "icmp-port-unreachable"
		if FamilyOf(s.VIP) == IPv6 {
			with = "icmp6-port-unreachable"
		}
		return comment(s.Name+"/reject") + " -j REJECT --reject-with " + with
	case Drop:
		return comment(s.Name+"/drop") + " -j DROP"
	}
	return ""
}

// portName is what kube-proxy calls a port of a service; one without a name has its number and protocol.
func (s Service) portName(p Port) string {
	if p.Name != "" {
		return s.Name + ":" + p.Name
	}
	return fmt.Sprintf("%s:%d/%s", s.Name, p.Number, conntrack.ProtocolName(p.Proto))
}

// external lists the addresses of a service besides its VIP.
func (s Service) external() []netip.Addr {
	return append(append([]netip.Addr(nil), s.ExternalIPs...), s.LoadBalancerIPs...)
}

// to matches packets to a port of an address.
func to(a netip.Addr, proto uint8, port uint16) string {
	return fmt.Sprintf("-d %s %s", netip.PrefixFrom(a, a.BitLen()), toPort(proto, port))
}

func toPort(proto uint8, port uint16) string {
	name := conntrack.ProtocolName(proto)
	return fmt.Sprintf("-p %s -m %s --dport %d", name, name, port)
}

// toNode matches what is addressed to the node itself.
const toNode = "-m addrtype --dst-type LOCAL"

// masqueradeMark is the mark of packets whose source is to be translated, as kube-proxy has it by default
// (--iptables-masquerade-bit 14).
const masqueradeMark = "0x4000/0x4000"

// share gives the first of n remaining backends its part of the flows.
func (s Service) share(n int) string {
	switch {
	case n == 1:
		return ""
	case s.ByTurns:
		return fmt.Sprintf("-m statistic --mode nth --every %d --packet 0", n)
	}
	return fmt.Sprintf("-m statistic --mode random --probability %.11f", 1/float64(n))
}

// maxChain is the longest chain name that iptables takes.
const maxChain = 28

// Chain is the name of the chain of a service whose style is DNAT.
func (s Service) Chain() string {
	name := "svc-" + s.Name
	if len(name) <= maxChain {
		return name
	}
	h := fnv.New32a()
	h.Write([]byte(s.Name))
	return fmt.Sprintf("%s-%08x", name[:maxChain-9], h.Sum32())
}
