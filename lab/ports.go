package lab

import (
	"fmt"
	"strings"

	"ctlab/checks"
	"ctlab/checks/conntrack"
)

// ports are PORT/PROTOCOL, one or a list.
func (d *decoder) ports(f field) []Port {
	var out []Port
	seen := map[Port]bool{}
	for _, item := range d.list(f) {
		read := (*decoder).port
		if item.value.kind == mapping {
			read = (*decoder).portMap
		}
		p, ok := read(d, item)
		key := Port{Number: p.Number, Proto: p.Proto}
		if ok && seen[key] {
			d.fail(item.value, "", "ports: %s stands twice", portText(p.Number, p.Proto))
			continue
		}
		if ok {
			seen[key] = true
			out = append(out, p)
		}
	}
	return out
}

func portText(number uint16, proto uint8) string {
	return fmt.Sprintf("%d/%s", number, conntrack.ProtocolName(proto))
}

// portDraft is a port while its map is read.
type portDraft struct {
	Port
	bad bool
}

func portKeys() []key[*portDraft] {
	number := func(into func(*Port) *uint16) func(*decoder, *portDraft, field) {
		return func(d *decoder, p *portDraft, f field) {
			n, ok := d.number(f, 1, 65535)
			*into(&p.Port) = uint16(n)
			p.bad = p.bad || !ok
		}
	}
	return []key[*portDraft]{
		{"port", "of the VIP", wholeNumber(1, 65535), number(func(p *Port) *uint16 { return &p.Number })},
		{"target-port", "of the backends; else the same", wholeNumber(1, 65535), number(func(p *Port) *uint16 { return &p.Target })},
		{"node-port", "of the routers' own addresses", wholeNumber(1, 65535), number(func(p *Port) *uint16 { return &p.NodePort })},
		{"protocol", "udp or tcp", words("udp", "tcp"), func(d *decoder, p *portDraft, f field) {
			p.Proto = portProtocol(d.oneOf(f, []string{"udp", "tcp"}, "sctp"))
		}},
		{"name", "of the port", identifier, func(d *decoder, p *portDraft, f field) {
			if d.isScalar(f, "a name") && d.isName(f.value, "name") {
				p.Name = f.value.text
			}
		}},
	}
}

// portMap reads {port, protocol, target-port, node-port, name}.
func (d *decoder) portMap(f field) (Port, bool) {
	var p portDraft
	readMap(d, "ports", f.value.fields, portKeys(), &p)
	for _, needed := range []string{"port", "protocol"} {
		if f.value.find(needed) < 0 {
			d.fail(f.value, "{port: 53, protocol: udp}", "ports: %q is missing", needed)
			p.bad = true
		}
	}
	if p.Target == 0 {
		p.Target = p.Number
	}
	return p.Port, !p.bad && p.Proto != 0
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
