package service

import (
	"crypto/sha256"
	"encoding/base32"
	"net/netip"

	"ctlab/checks/conntrack"
)

// The chains that all services share (pkg/proxy/iptables/proxier.go).
const (
	kubeServices         = "KUBE-SERVICES"
	kubeExternalServices = "KUBE-EXTERNAL-SERVICES"
	kubeNodePorts        = "KUBE-NODEPORTS"
	kubeForward          = "KUBE-FORWARD"
	kubeFirewall         = "KUBE-PROXY-FIREWALL"
	kubePostrouting      = "KUBE-POSTROUTING"
	kubeMarkMasq         = "KUBE-MARK-MASQ"
)

// kubeProxy writes services as kube-proxy's iptables mode does (pkg/proxy/iptables/proxier.go,
// syncProxyRules, 1.37), in the words of iptables-save. Traffic policies are Cluster, no source ranges, no
// session affinity, localhost node ports, and nothing known of which sources are pods. Where rule hits ask
// for a comment, it is ctlab's: SERVICE/BACKEND on the DNAT rule and SERVICE/reject on the REJECT rule.
func (rs ruleset) kubeProxy(services []Service) {
	rs.kubeJumps()
	rs.kubeShared()
	for _, s := range services {
		for _, p := range s.Ports {
			if len(s.Backends) == 0 {
				rs.kubeEmpty(s, p)
				continue
			}
			rs.kubeFrontends(s, p)
			rs.kubePort(s, p)
		}
	}
	rs.chain("nat", kubeServices).add(toNode, comment("kubernetes service nodeports; NOTE: this must be the last rule in this chain"), "-j", kubeNodePorts)
}

// kubeJumps are the jumps from the built-in chains. kube-proxy puts each before the ones that are there, so
// that they end up in this order (iptablesJumpChains, backwards).
func (rs ruleset) kubeJumps() {
	const isNew = "-m conntrack --ctstate NEW"
	for _, j := range []struct{ table, from, match, comment, to string }{
		{"nat", "PREROUTING", "", "kubernetes service portals", kubeServices},
		{"nat", "OUTPUT", "", "kubernetes service portals", kubeServices},
		{"nat", "POSTROUTING", "", "kubernetes postrouting rules", kubePostrouting},
		{"filter", "INPUT", isNew, "kubernetes load balancer firewall", kubeFirewall},
		{"filter", "INPUT", "", "kubernetes health check service ports", kubeNodePorts},
		{"filter", "INPUT", isNew, "kubernetes externally-visible service portals", kubeExternalServices},
		{"filter", "FORWARD", isNew, "kubernetes load balancer firewall", kubeFirewall},
		{"filter", "FORWARD", "", "kubernetes forwarding rules", kubeForward},
		{"filter", "FORWARD", isNew, "kubernetes service portals", kubeServices},
		{"filter", "FORWARD", isNew, "kubernetes externally-visible service portals", kubeExternalServices},
		{"filter", "OUTPUT", isNew, "kubernetes load balancer firewall", kubeFirewall},
		{"filter", "OUTPUT", isNew, "kubernetes service portals", kubeServices},
	} {
		rs.jump(j.table, j.from, j.match, comment(j.comment), "-j", j.to)
	}
}

// kubeShared are the chains that do not depend on services.
func (rs ruleset) kubeShared() {
	for _, name := range []string{kubeServices, kubeExternalServices, kubeForward, kubeNodePorts, kubeFirewall} {
		rs.chain("filter", name)
	}
	for _, name := range []string{kubeServices, kubeNodePorts, kubePostrouting, kubeMarkMasq} {
		rs.chain("nat", name)
	}
	// An INVALID packet of a translated flow would reach its receiver untranslated
	// (kubernetes/kubernetes#74839).
	forward := rs.chain("filter", kubeForward)
	forward.add("-m conntrack --ctstate INVALID -j DROP")
	forward.add(comment("kubernetes forwarding rules"), "-m mark --mark", masqueradeMark, "-j ACCEPT")
	forward.add(comment("kubernetes forwarding conntrack rule"), "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT")

	// The mark is taken off again (exclusive or), as the packet may pass the stack once more.
	post := rs.chain("nat", kubePostrouting)
	post.add("-m mark ! --mark", masqueradeMark, "-j RETURN")
	post.add("-j MARK --set-xmark 0x4000/0x0")
	post.add(comment("kubernetes service traffic requiring SNAT"), "-j MASQUERADE --random-fully")
	rs.chain("nat", kubeMarkMasq).add("-j MARK --set-xmark", masqueradeMark)
}

// kubeEmpty answers for a port of a service without backends. Flows that are older than the rule are
// translated before filter sees them, and pass it by (kubernetes/kubernetes#139628).
func (rs ruleset) kubeEmpty(s Service, p Port) {
	refusal := s.refusal()
	if refusal == "" {
		return
	}
	rs.chain("filter", kubeServices).add(to(s.VIP, p.Proto, p.Number), refusal)
	outside := rs.chain("filter", kubeExternalServices)
	for _, a := range s.external() {
		outside.add(to(a, p.Proto, p.Number), refusal)
	}
	if p.NodePort != 0 {
		outside.add(toPort(p.Proto, p.NodePort), toNode, refusal)
	}
}

// kubeFrontends leads packets for a port to its chains.
func (rs ruleset) kubeFrontends(s Service, p Port) {
	name := s.portName(p)
	services := rs.chain("nat", kubeServices)
	services.add(to(s.VIP, p.Proto, p.Number), comment(name+" cluster IP"), "-j", s.svcChain(p))
	for _, a := range s.ExternalIPs {
		services.add(to(a, p.Proto, p.Number), comment(name+" external IP"), "-j", s.extChain(p))
	}
	for _, a := range s.LoadBalancerIPs {
		services.add(to(a, p.Proto, p.Number), comment(name+" loadbalancer IP"), "-j", s.extChain(p))
	}
	if p.NodePort != 0 {
		rs.chain("nat", kubeNodePorts).add(toPort(p.Proto, p.NodePort), comment(name), "-j", s.extChain(p))
	}
}

// kubePort writes the chains of a port: EXT for what comes from outside, SVC to choose a backend, SEP for
// each backend.
func (rs ruleset) kubePort(s Service, p Port) {
	name := s.portName(p)
	if len(s.external()) > 0 || p.NodePort != 0 {
		ext := rs.chain("nat", s.extChain(p))
		if s.Masquerade != MasqueradeNone {
			ext.add(comment("masquerade traffic for "+name+" external destinations"), "-j", kubeMarkMasq)
		}
		ext.add("-j", s.svcChain(p))
	}
	svc := rs.chain("nat", s.svcChain(p))
	if s.Masquerade == MasqueradeAll { // --masquerade-all
		svc.add(to(s.VIP, p.Proto, p.Number), comment(name+" cluster IP"), "-j", kubeMarkMasq)
	}
	for i, b := range s.Backends {
		at := netip.AddrPortFrom(b.Addr, p.Target)
		svc.add(comment(name+" -> "+at.String()), s.share(len(s.Backends)-i), "-j", s.sepChain(p, b))
		rs.kubeEndpoint(s, p, b)
	}
}

// kubeEndpoint translates the destination, and marks what a backend sends to its own service (hairpin).
func (rs ruleset) kubeEndpoint(s Service, p Port, b Backend) {
	sep := rs.chain("nat", s.sepChain(p, b))
	if s.Masquerade != MasqueradeNone {
		sep.add("-s", netip.PrefixFrom(b.Addr, b.Addr.BitLen()).String(), comment(s.portName(p)), "-j", kubeMarkMasq)
	}
	proto := conntrack.ProtocolName(p.Proto)
	sep.add("-p", proto, comment(s.Comment(b)), "-m", proto, "-j DNAT --to-destination", netip.AddrPortFrom(b.Addr, p.Target).String())
}

func (s Service) svcChain(p Port) string { return "KUBE-SVC-" + s.kubeHash(p, "") }
func (s Service) extChain(p Port) string { return "KUBE-EXT-" + s.kubeHash(p, "") }
func (s Service) sepChain(p Port, b Backend) string {
	return "KUBE-SEP-" + s.kubeHash(p, netip.AddrPortFrom(b.Addr, p.Target).String())
}

// kubeHash is portProtoHash and servicePortEndpointChainName: what tells chains of one kind apart.
func (s Service) kubeHash(p Port, endpoint string) string {
	sum := sha256.Sum256([]byte(s.portName(p) + conntrack.ProtocolName(p.Proto) + endpoint))
	return base32.StdEncoding.EncodeToString(sum[:])[:16]
}
