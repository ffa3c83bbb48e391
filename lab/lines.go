package lab

import (
	"fmt"
	"net/netip"
	"slices"

	"ctlab/checks"
	"ctlab/topology/service"
)

// entryLine reads the line of an entry and turns its names into addresses.
func (d *decoder) entryLine(f field) (checks.EntryWant, bool) {
	line := d.oneLine(f, "an entry, such as udp app > any")
	if line == "" {
		return checks.EntryWant{}, false
	}
	w, err := checks.ParseEntryWant(line, d.resolve)
	if err != nil {
		d.failAt(f.value, err, "entry")
	}
	return w, err == nil
}

// eventLine reads the line of an event.
func (d *decoder) eventLine(f field) (PlacedEvent, bool) {
	line := d.oneLine(f, "an event, such as new udp app > any")
	if line == "" {
		return PlacedEvent{}, false
	}
	kind, no, w, err := checks.ParseEventWant(line, d.resolve)
	if err != nil {
		d.failAt(f.value, err, "event")
	}
	return PlacedEvent{d.pos(f.value), kind, no, w}, err == nil
}

// oneLine is a text of one line, or "" after an error.
func (d *decoder) oneLine(f field, what string) string {
	if f.value.kind == mapping {
		d.fail(f.value, what, "%s: a map is not supported here yet", f.name())
		return ""
	}
	if !d.isScalar(f, what) {
		return ""
	}
	return d.text(f)
}

// resolve is what names stand for in lines: a host for its address, a service for its VIP, a router for
// its address on the link towards the other end.
func (d *decoder) resolve(name, other string) (netip.Addr, *checks.LineError) {
	if s := d.names.services[name]; s != nil {
		if !s.VIP.IsValid() {
			return s.VIP, nil // reported
		}
		return d.choose(name, other, []netip.Addr{s.VIP})
	}
	switch n := d.names.nodes[name]; {
	case n == nil:
		return d.unresolved(name)
	case n.Router:
		return d.routerAddress(name, other)
	default:
		var all []netip.Addr
		for _, f := range Families() {
			if p := n.AddressIn(f); p.IsValid() {
				all = append(all, p.Addr())
			}
		}
		return d.choose(name, other, all)
	}
}

func (d *decoder) unresolved(name string) (netip.Addr, *checks.LineError) {
	if d.broken["nodes"] || d.broken["services"] {
		return netip.Addr{}, nil
	}
	places := append(append([]string(nil), d.names.order["node"]...), d.names.order["service"]...)
	hint := checks.DidYouMean(name, places, "nodes and services: "+some(places))
	if s := d.names.servers[name]; s != nil {
		hint = fmt.Sprintf("%q is a server; it runs on %s", name, s.On)
	} else if c := d.names.clients[name]; c != nil {
		hint = fmt.Sprintf("%q is a client; it runs on %s", name, c.On)
	}
	return netip.Addr{}, &checks.LineError{Msg: "no node or service " + checks.Quote(name), Hint: hint}
}

// routerAddress is the router's address that the other end sees. If the other end is no host of its, it
// must have a single one.
func (d *decoder) routerAddress(name, other string) (netip.Addr, *checks.LineError) {
	host := d.names.nodes[other]
	if a, err := netip.ParseAddr(other); err == nil {
		host = d.names.hosts[a]
	}
	if host != nil && host.Uplink == name {
		return d.choose(name, other, host.Gateways())
	}
	all := d.routerAddresses()[name]
	if len(all) == 0 {
		return netip.Addr{}, &checks.LineError{Msg: fmt.Sprintf("%q has no address: no host hangs on it", name)}
	}
	fit := slices.DeleteFunc(slices.Clone(all), func(a netip.Addr) bool { return !slices.Contains(d.families(other), service.FamilyOf(a)) })
	if len(fit) < 2 {
		return d.choose(name, other, all)
	}
	return netip.Addr{}, &checks.LineError{Msg: fmt.Sprintf("%q has %d addresses", name, len(fit)), Hint: "write one of them: " + some(texts(fit))}
}

// routerAddresses are the different addresses of each router, in the order of the file.
func (d *decoder) routerAddresses() map[string][]netip.Addr {
	if d.gateways != nil {
		return d.gateways
	}
	d.gateways = map[string][]netip.Addr{}
	type port struct {
		router  string
		address netip.Addr
	}
	seen := map[port]bool{}
	for _, n := range d.lab.Nodes {
		for _, g := range n.Gateways() {
			p := port{n.Uplink, g}
			if p.router == "" || seen[p] {
				continue
			}
			seen[p] = true
			d.gateways[p.router] = append(d.gateways[p.router], p.address)
		}
	}
	return d.gateways
}
