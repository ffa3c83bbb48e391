package lab

import (
	"fmt"
	"net/netip"
	"strings"

	"ctlab/checks"
	"ctlab/topology/service"
)

// nodeRoutes reads the routes that a node has besides those of its links.
func (d *decoder) nodeRoutes(n *nodeDraft) {
	if n.routes.key == nil || isNone(n.routes.value) {
		return
	}
	for _, item := range d.list(n.routes) {
		if d.full() {
			return
		}
		r, ok := d.route(item, n.Node)
		if ok && r.To.Bits() == 0 && n.gatewayIn(service.FamilyOf(r.To.Addr())).IsValid() && !n.Router {
			d.fail(item.value, "a route step with replace changes it", "routes: %s has a default route already, to %s", n.Name, n.Uplink)
			continue
		}
		if ok {
			n.Routes = append(n.Routes, r)
		}
	}
}

// route reads what stands after ip route add: default|PREFIX [via ADDRESS] [dev NAME]. Hosts may be called
// by their names.
func (d *decoder) route(f field, n *Node) (Route, bool) {
	if !d.isScalar(f, "a route such as default via 192.168.50.2") {
		return Route{}, false
	}
	r := Route{Pos: d.pos(f.value)}
	words := fieldsAt(d.text(f))
	to, ok := d.destination(f, words[0], words[1:])
	if !ok {
		return r, false
	}
	r.To = to
	for rest := words[1:]; len(rest) > 0; rest = rest[2:] {
		if !d.routeWord(f, &r, rest) {
			return r, false
		}
	}
	return r, d.routeDev(f, n, &r)
}

// routeWord reads via ADDRESS or dev NAME from the front of the words.
func (d *decoder) routeWord(f field, r *Route, words []placed) bool {
	key := words[0]
	bad := &checks.LineError{Offset: key.at, Len: len(key.text)}
	switch {
	case key.text != "via" && key.text != "dev":
		bad.Msg, bad.Hint = checks.Quote(key.text)+" is no word of a route here", "via ADDRESS, dev NAME"
	case key.text == "via" && r.Via.IsValid(), key.text == "dev" && r.Dev != "":
		bad.Msg = checks.Quote(key.text) + " stands twice"
	case len(words) == 1:
		bad.Msg = "nothing behind " + key.text
	case key.text == "dev":
		r.Dev = words[1].text
		return true
	default:
		via, ok := d.hostAddr(f, words[1], r.To.String())
		if ok && via.Is4() != r.To.Addr().Is4() {
			d.failAt(f.value, &checks.LineError{Offset: words[1].at, Len: len(words[1].text), Msg: fmt.Sprintf("%s is no gateway to %s", via, r.To), Hint: "one of the same family"}, f.name())
			return false
		}
		r.Via = via
		return ok
	}
	d.failAt(f.value, bad, f.name())
	return false
}

// placed is a word of a value and where it begins in it, in bytes.
type placed struct {
	text string
	at   int
}

func fieldsAt(text string) []placed {
	var out []placed
	at := 0
	for _, w := range strings.Split(text, " ") {
		if w != "" {
			out = append(out, placed{w, at})
		}
		at += len(w) + 1
	}
	return out
}

// destination reads where a route leads to. The default route is of the family of its gateway.
func (d *decoder) destination(f field, w placed, rest []placed) (netip.Prefix, bool) {
	via := ""
	for i, key := range rest[:max(0, len(rest)-1)] {
		if key.text == "via" {
			via = rest[i+1].text
		}
	}
	if w.text == "default" {
		if known := d.families(via); via != "" && known[0] == service.IPv6 {
			return netip.PrefixFrom(netip.IPv6Unspecified(), 0), true
		}
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0), true
	}
	if !strings.Contains(w.text, "/") {
		a, ok := d.hostAddr(f, w, via)
		return netip.PrefixFrom(a, a.BitLen()), ok
	}
	p, err := netip.ParsePrefix(w.text)
	bad := &checks.LineError{Offset: w.at, Len: len(w.text)}
	switch {
	case err != nil:
		bad.Msg, bad.Hint = checks.Quote(w.text)+" is no destination", "default via ADDRESS, or such as 10.1.0.0/16"
	case p != p.Masked():
		bad.Msg, bad.Hint = p.String()+" has bits behind its length", p.Masked().String()
	default:
		return p, true
	}
	d.failAt(f.value, bad, f.name())
	return p, false
}

// hostAddr is an address, or the address of a host or VIP of a service that is called by its name, of the family of the
// other end.
func (d *decoder) hostAddr(f field, w placed, other string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(w.text)
	if err == nil && (a.Is4() || usable(a)) {
		return a, true
	}
	bad := &checks.LineError{Msg: checks.Quote(w.text) + " is no address", Hint: "such as 192.168.50.2"}
	if nameForm.MatchString(w.text) {
		if a, bad = d.resolve(w.text, other); bad == nil {
			return a, a.IsValid()
		}
	}
	bad.Offset, bad.Len = w.at, len(w.text)
	d.failAt(f.value, bad, f.name())
	return a, false
}

// routeDev finds the device of a route: a host has eth0; a router has a port towards the host that has the
// next hop's address.
func (d *decoder) routeDev(f field, n *Node, r *Route) bool {
	switch {
	case r.Dev != "":
		return d.device(f, n, r.Dev, strings.LastIndex(f.value.text, r.Dev))
	case !r.Via.IsValid():
		d.fail(f.value, "via ADDRESS, or dev NAME", "%s: a route to %s, but not by which way", f.name(), r.To)
		return false
	case !n.Router:
		r.Dev = "eth0"
		return true
	}
	if h := d.neighbour(n, r.Via); h != nil {
		r.Dev = h.Port
		return true
	}
	if !d.broken["nodes"] {
		d.fail(f.value, "dev NAME says by which port", "%s: no host on %s has the address %s", f.name(), n.Name, r.Via)
	}
	return false
}

// neighbour is the host on a router that has an address.
func (d *decoder) neighbour(router *Node, a netip.Addr) *Node {
	if h := d.names.hosts[a]; h != nil && h.Uplink == router.Name {
		return h
	}
	for _, h := range d.lab.Nodes { // it repeats another one's address
		if h.Uplink == router.Name && d.has(h, a) {
			return h
		}
	}
	return nil
}

// device reports a device that a node has not; at is where its name begins in the value.
func (d *decoder) device(f field, n *Node, dev string, at int) bool {
	if dev == "lo" || !n.Router && dev == "eth0" {
		return true
	}
	if h := d.names.nodes[dev]; n.Router && h != nil && h.Uplink == n.Name && h.Port == dev {
		return true
	}
	devs := d.devices(n)
	d.failAt(f.value, &checks.LineError{Offset: at, Len: len(dev), Msg: n.Name + " has no device " + checks.Quote(dev), Hint: checks.DidYouMean(dev, devs, "devices: "+some(devs))}, f.name())
	return false
}

// devices of a node: lo, a host's eth0, and a router's ports.
func (d *decoder) devices(n *Node) []string {
	if !n.Router {
		return []string{"eth0", "lo"}
	}
	var out []string
	for _, h := range d.lab.Nodes {
		if h.Uplink == n.Name {
			out = append(out, h.Port)
		}
	}
	return append(out, "lo")
}
