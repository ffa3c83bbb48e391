package lab

import (
	"strings"

	"ctlab/checks"
	"ctlab/checks/conntrack"
	"ctlab/topology/service"
)

// serviceDraft is a service while it is read.
type serviceDraft struct {
	*Service
	name *node
	on   field
	vip  field
}

func serviceKeys() []key[*serviceDraft] {
	return append([]key[*serviceDraft]{
		{"on", func(_ *decoder, s *serviceDraft, f field) { s.on = f }},
		{"vip", func(_ *decoder, s *serviceDraft, f field) { s.vip = f }},
		{"ports", func(d *decoder, s *serviceDraft, f field) { s.Ports = d.ports(f) }},
		{"backends", func(d *decoder, s *serviceDraft, f field) { s.Backends = d.backends(f) }},
		{"style", func(d *decoder, _ *serviceDraft, f field) {
			d.oneOf(f, []string{"dnat"}, "kube-proxy", "nftables")
		}},
		{"balance", func(d *decoder, s *serviceDraft, f field) { s.Balance = d.oneOf(f, []string{"random", "nth"}) }},
		{"cleanup", func(d *decoder, s *serviceDraft, f field) {
			modes := []string{string(service.None), string(service.ReconcileCurrent)}
			s.Cleanup.Mode = service.Mode(d.oneOf(f, modes, "legacy", "reconcile-1.32"))
		}},
	}, later[*serviceDraft]("empty", "masquerade", "external-ips", "load-balancer-ips", "session-affinity",
		"external-traffic-policy", "internal-traffic-policy")...)
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
		d.serviceNodes(s)
	}
	d.assignVIPs(drafts)
}

// serviceNodes finds the nodes that get the service's rules.
func (d *decoder) serviceNodes(s *serviceDraft) {
	if s.on.key != nil {
		s.On = d.distinct(s.on, func(d *decoder, f field) (string, bool) { return d.refer(f, "node") })
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

// backends is a list of hosts; none is a service without one.
func (d *decoder) backends(f field) []string {
	switch {
	case f.value.kind == scalar && f.value.text == "none":
		return nil
	case f.value.kind == mapping:
		d.fail(f.value, "a node or a list of nodes", "backends: a map is not supported here yet")
		return nil
	}
	return d.hosts(f)
}

// ports are PORT/PROTOCOL, one or a list.
func (d *decoder) ports(f field) []Port {
	var out []Port
	seen := map[Port]bool{}
	for _, item := range d.list(f) {
		if item.value.kind == mapping {
			d.fail(item.value, "53/udp", "ports: a map is not supported here yet")
			continue
		}
		p, ok := d.port(item)
		if ok && seen[p] {
			d.fail(item.value, "", "ports: %s stands twice", item.value.text)
			continue
		}
		if ok {
			seen[p] = true
			out = append(out, p)
		}
	}
	return out
}

// portProtocol is the number of a protocol that a service may have, or 0.
func portProtocol(name string) uint8 {
	switch name {
	case "udp":
		return conntrack.UDP
	case "tcp":
		return conntrack.TCP
	}
	return 0
}

func (d *decoder) port(f field) (Port, bool) {
	if !d.isScalar(f, "a port such as 53/udp") {
		return Port{}, false
	}
	text := f.value.text
	number, name, both := strings.Cut(text, "/")
	if !both {
		d.fail(f.value, portHint(number), "ports: %s has no protocol", checks.Quote(text))
		return Port{}, false
	}
	if portProtocol(number) != 0 {
		d.fail(f.value, name+"/"+number+", as kubectl prints it", "ports: %s is the wrong way round", checks.Quote(text))
		return Port{}, false
	}
	n, err := checks.ParseNumber(number)
	proto := portProtocol(name)
	switch {
	case err != nil:
		d.failAt(f.value, err, "ports")
	case n < 1 || n > 65535:
		d.fail(f.value, "", "ports: %d is not in 1..65535", n)
	case name == "sctp":
		d.fail(f.value, "supported: udp, tcp", "ports: \"sctp\" is not supported yet")
	case proto == 0:
		d.fail(f.value, "53/udp or 53/tcp", "ports: %s is no protocol of a service", checks.Quote(name))
	default:
		return Port{Number: uint16(n), Proto: proto, Target: uint16(n)}, true
	}
	return Port{}, false
}

func portHint(number string) string {
	if n, err := checks.ParseNumber(number); err == nil && n > 0 {
		return number + "/udp or " + number + "/tcp"
	}
	return "53/udp or 53/tcp"
}
