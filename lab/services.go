package lab

import (
	"net/netip"
	"slices"

	"ctlab/topology/service"
)

// serviceDraft is a service while it is read.
type serviceDraft struct {
	*Service
	name       *node
	on         field
	vip        field
	emptyGiven bool
}

func serviceKeys() []key[*serviceDraft] {
	return append([]key[*serviceDraft]{
		{"on", "routers that get its rules; the only one by itself", oneOrMore(nameOrGlob), func(_ *decoder, s *serviceDraft, f field) { s.on = f }},
		{"vip", "its address; else the next free one of 10.96.0.10 and up", address, func(_ *decoder, s *serviceDraft, f field) { s.vip = f }},
		{"ports", "such as 53/udp, or {port, protocol, target-port, node-port, name}", oneOrMore(either(portShape, object(portKeys(), "port", "protocol"))), func(d *decoder, s *serviceDraft, f field) { s.Ports = d.ports(f) }},
		{"backends", "the hosts that it sends to, or none", backendsShape, func(d *decoder, s *serviceDraft, f field) { s.Backends = d.backends(f) }},
		{"style", "whose rules: plain DNAT rules, or kube-proxy's chains", words(string(service.DNAT), string(service.KubeProxy)), func(d *decoder, s *serviceDraft, f field) {
			s.Style = service.Style(d.oneOf(f, []string{string(service.DNAT), string(service.KubeProxy)}, "nftables"))
		}},
		{"balance", "how rules choose among backends", words("random", "nth"), func(d *decoder, s *serviceDraft, f field) { s.Balance = d.oneOf(f, []string{"random", "nth"}) }},
		{"empty", "what becomes of packets while there is no backend; kube-proxy: reject, else nothing", words(string(service.Nothing), string(service.Reject), string(service.Drop)), func(d *decoder, s *serviceDraft, f field) {
			s.Empty = service.Empty(d.oneOf(f, []string{string(service.Nothing), string(service.Reject), string(service.Drop)}))
			s.emptyGiven = true
		}},
		{"masquerade", "which packets get the router's address as their source; auto: as the style does", words(string(service.MasqueradeAuto), string(service.MasqueradeAll), string(service.MasqueradeNone)), func(d *decoder, s *serviceDraft, f field) {
			words := []string{string(service.MasqueradeAuto), string(service.MasqueradeAll), string(service.MasqueradeNone)}
			s.Masquerade = service.Masquerade(d.oneOf(f, words))
		}},
		{"cleanup", "which stale entries are deleted when backends change: a mode, or {mode, order, delay}", either(words(cleanupModes()...), object(cleanupKeys(), "mode")), readCleanup},
		{"external-ips", "further addresses of the service", orNone(oneOrMore(address)), func(d *decoder, s *serviceDraft, f field) { s.ExternalIPs = d.addrs(f) }},
		{"load-balancer-ips", "further addresses of the service", orNone(oneOrMore(address)), func(d *decoder, s *serviceDraft, f field) { s.LoadBalancerIPs = d.addrs(f) }},
	}, later[*serviceDraft]("session-affinity", "external-traffic-policy", "internal-traffic-policy")...)
}

func cleanupModes() []string {
	var words []string
	for _, m := range service.Modes() {
		words = append(words, string(m))
	}
	return words
}

// readCleanup reads a mode, or a map of mode, order and delay.
func readCleanup(d *decoder, s *serviceDraft, f field) {
	if f.value.kind != mapping {
		s.Cleanup.Mode = service.Mode(d.oneOf(f, cleanupModes()))
		return
	}
	readMap(d, "cleanup", f.value.fields, cleanupKeys(), &s.Cleanup)
	if f.value.find("mode") < 0 {
		d.fail(f.value, "mode: "+string(service.ReconcileCurrent), "cleanup: \"mode\" is missing")
	}
}

func cleanupKeys() []key[*Cleanup] {
	return []key[*Cleanup]{
		{"mode", "as which version of kube-proxy deletes", words(cleanupModes()...), func(d *decoder, c *Cleanup, f field) { c.Mode = service.Mode(d.oneOf(f, cleanupModes())) }},
		{"order", "rules change first, or entries are deleted first", words("rules-first", "cleanup-first"), func(d *decoder, c *Cleanup, f field) {
			c.CleanupFirst = d.oneOf(f, []string{"rules-first", "cleanup-first"}) == "cleanup-first"
		}},
		{"delay", "between the two", duration, func(d *decoder, c *Cleanup, f field) { c.Delay = d.duration(f, true) }},
	}
}

// addrs is one address or a list of them, none of them twice.
func (d *decoder) addrs(f field) []netip.Addr {
	if isNone(f.value) {
		return nil
	}
	var out []netip.Addr
	for _, item := range d.list(f) {
		a, ok := d.addr(item, "such as 203.0.113.10")
		if ok && slices.Contains(out, a) {
			d.fail(item.value, "", "%s: %s stands twice", f.name(), a)
			continue
		}
		if ok {
			out = append(out, a)
		}
	}
	return out
}

func (d *decoder) readServices() {
	section := d.sections["services"]
	if section == nil {
		return
	}
	var drafts []*serviceDraft
	for _, f := range section.fields {
		s := &serviceDraft{Service: &Service{Pos: d.pos(f.key), Name: f.name(), Balance: "random", Style: service.DNAT, Empty: service.Nothing, Masquerade: service.MasqueradeAuto, Cleanup: Cleanup{Mode: service.None}}, name: f.key}
		drafts = append(drafts, s)
		d.lab.Services = append(d.lab.Services, s.Service)
		d.names.services[s.Name] = s.Service
		context := "services." + s.Name
		if !d.isMap(context, f.value, "a map, such as {ports: 53/udp, backends: NODE}") {
			continue
		}
		readMap(d, context, f.value.fields, serviceKeys(), s)
		if f.value.find("ports") < 0 {
			d.fail(f.key, "ports: 53/udp", "%s: \"ports\" is missing", context)
		}
		if s.Style == service.KubeProxy && !s.emptyGiven {
			s.Empty = service.Reject
		}
		d.serviceNodes(s)
	}
	d.assignVIPs(drafts)
	for _, s := range drafts {
		d.meets(s.name, s.Service, s.Backends)
	}
	d.frontends(drafts)
}

// serviceNodes finds the nodes that get the service's rules.
func (d *decoder) serviceNodes(s *serviceDraft) {
	if s.on.key != nil {
		s.On = d.distinct(s.on, "node")
		return
	}
	for _, n := range d.lab.Nodes {
		if n.Router {
			s.On = append(s.On, n.Name)
		}
	}
	switch {
	case len(s.On) > 1:
		d.fail(s.name, "on: "+s.On[0], "%s: there are %d routers: %s", s.Name, len(s.On), some(s.On))
	case len(s.On) == 0 && len(d.lab.Nodes) == 1:
		d.fail(s.name, "kind: router makes a node one", "%s: there is no router that could have its rules", s.Name)
	}
}

// backends is a list of hosts; none or an empty list is a service without one.
func (d *decoder) backends(f field) []string {
	switch {
	case isNone(f.value), f.value.kind == sequence && len(f.value.items) == 0:
		return nil
	case f.value.kind == mapping:
		d.fail(f.value, "a node or a list of nodes", "%s: a map is not supported here yet", f.name())
		return nil
	}
	return d.hosts(f)
}
