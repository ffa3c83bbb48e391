package sim

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"ctlab/checks/conntrack"
	"ctlab/checks/model"
	"ctlab/checks/trace"
	"ctlab/lab"
)

// tracked is a node whose packets go through a model, and the record of what the model was given and said.
// Replayed, the record must come out the same: the model is deterministic, and the record complete.
type tracked struct {
	g       *Ground
	node    *node
	ns      *model.Namespace
	records []trace.Record
	events  []conntrack.Event
	passed  []lab.Passed
}

func (g *Ground) track(n *node) *tracked {
	t := &tracked{g: g, node: n}
	t.ns = model.New(model.Config{Profile: g.Profile, HZ: hz, Chooser: g.choose})
	t.ns.Listen()
	t.record(trace.Listen, "", "")
	all := defaults(g.Profile)
	if n.speaksIPv6() {
		all = append(all, defaults6(g.Profile)...)
	}
	for _, s := range all {
		n.sysctls[s.Name] = s.Value
	}
	return t
}

// choose answers what is free at random.
func (g *Ground) choose(c model.Choice) int { return g.rng.IntN(c.Options) }

// defaults are the settings on which the model's answers depend, as lab/live reads them from a fresh
// namespace in which it has switched on forwarding and accounting.
func defaults(p model.Profile) []lab.Sysctl {
	return []lab.Sysctl{
		{Name: "net.ipv4.icmp_ratelimit", Value: "1000"},
		{Name: "net.ipv4.conf.all.send_redirects", Value: "0"},
		{Name: "net.ipv4.conf.default.send_redirects", Value: "0"},
		{Name: "net.ipv4.ip_default_ttl", Value: "64"},
		{Name: "net.ipv4.ip_forward", Value: "1"},
		{Name: "net.netfilter.nf_conntrack_acct", Value: "1"},
		{Name: "net.netfilter.nf_conntrack_checksum", Value: "1"},
		{Name: "net.netfilter.nf_conntrack_generic_timeout", Value: "600"},
		{Name: "net.netfilter.nf_conntrack_icmp_timeout", Value: "30"},
		{Name: "net.netfilter.nf_conntrack_udp_timeout", Value: "30"},
		{Name: "net.netfilter.nf_conntrack_udp_timeout_stream", Value: strconv.Itoa(p.StreamTimeout)},
	}
}

// recordSysctls gives the model the settings with which the node starts.
func (t *tracked) recordSysctls() {
	keys := make([]string, 0, len(t.node.sysctls))
	for k := range t.node.sysctls {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		t.sysctl(k, t.node.sysctls[k])
	}
}

func (t *tracked) sysctl(key, value string) {
	t.ns.Set(key, value)
	t.record(trace.Sysctl, key+" "+value, "")
}

// span is the present tick.
func (t *tracked) span() conntrack.Span { return conntrack.At(conntrack.Tick(t.g.now / tick)) }

// record writes down an input or what was seen.
func (t *tracked) record(kind trace.Kind, args, text string) {
	t.records = append(t.records, trace.Record{At: time.Duration(t.g.now - t.g.origin).Round(time.Microsecond), Span: t.span(), Kind: kind, Args: args, Text: text})
}

// receive is a packet that arrives on a port.
func (t *tracked) receive(port string, p conntrack.Packet) {
	t.record(trace.Packet, port+" "+line(p), "")
	t.pass(port, false, p)
	t.handle(t.ns.Packet(t.span(), port, p))
}

// send is a packet that a socket of the node's own sends.
func (t *tracked) send(p conntrack.Packet) sockError {
	t.record(trace.Send, line(p), "")
	o := t.ns.Send(t.span(), p)
	t.handle(o)
	return sendError(o)
}

// sendError is what the sender of a packet is told: why a hook on the way out dropped it, and nothing of
// what happens behind lo.
func sendError(o model.Outcome) sockError {
	if o.Dropped == "" || len(o.Steps) == 0 {
		return noError
	}
	switch last := o.Steps[len(o.Steps)-1]; {
	case last.Func == "ip_route_output_flow" || last.Func == "ip_route_me_harder":
		return noNetwork
	case last.Hook != "OUTPUT" && last.Hook != "POSTROUTING":
		return noError
	}
	return notPermitted
}

// handle carries out what became of a packet.
func (t *tracked) handle(o model.Outcome) {
	t.leave(o.Left)
	if o.Delivered != nil && o.Delivered.Proto == conntrack.UDP {
		p := *o.Delivered
		t.g.after(0, func() { t.node.deliver(p) })
	}
}

// leave sends what the model lets leave, takes its events, and asks for neighbours for which packets wait.
func (t *tracked) leave(lefts []model.Left) {
	for _, l := range lefts {
		t.record(trace.Left, l.Dev+" "+line(l.Packet), "")
		t.pass(l.Dev, true, l.Packet)
		t.node.wire(l.Dev, l.Packet)
	}
	t.hear()
	for _, e := range t.ns.Heard() {
		if e.About != nil {
			t.g.after(0, func() { t.node.hearError(icmpError{e.ICMPType, e.ICMPCode, *e.About}) })
		}
	}
	for _, nb := range t.ns.Unresolved() {
		t.node.search(hop{nb.Dev, nb.Addr}, netip.Addr{})
	}
}

// hear takes over the model's events.
func (t *tracked) hear() {
	for _, ev := range t.ns.Events() {
		e := t.event(ev)
		t.events = append(t.events, e)
		t.record(trace.Event, e.String(), "")
	}
}

// event is a model's event as a listener gets it: one that has expired tells no time, one that was destroyed
// tells it on newer kernels only, and not if it is less than a second.
func (t *tracked) event(ev model.Event) conntrack.Event {
	e := t.entry(ev.Predicted)
	if ev.Gone && (ev.Expired || !t.g.Profile.DestroyTimeout || e.Timeout == 0) {
		e.Known &^= conntrack.HasTimeout
		e.Timeout = 0
	}
	return conntrack.Event{Kind: ev.Kind, Entry: e}
}

// entry is what a reader gets of a predicted entry now: the whole seconds that are left, and an id.
func (t *tracked) entry(p model.Predicted) conntrack.Entry {
	e := p.Entry
	e.Timeout = uint32(max(0, int64(p.Expiry.From-t.span().From)/hz))
	e.ID = t.id(p.Serial)
	return e
}

// id makes up the id of an entry; the kernel's is a hash too.
func (t *tracked) id(serial int) uint32 {
	const golden = 0x9e3779b1 // odd: no two serials have the same
	return uint32(serial)*golden ^ uint32(t.g.seed)
}

// resolved is a neighbour that announced itself.
func (t *tracked) resolved(h hop) {
	t.record(trace.ARP, h.dev+" "+h.addr.String(), "")
	t.leave(t.ns.Resolved(h.dev, h.addr))
}

// lost is a neighbour that was given up or forgotten.
func (t *tracked) lost(h hop) {
	t.record(trace.Neigh, h.dev+" "+h.addr.String(), "")
	for _, g := range t.ns.Lost(t.span(), h.dev, h.addr) {
		t.leave(g.Outcome.Left)
	}
}

func (t *tracked) bind(s *socket) {
	t.record(trace.Socket, "open "+s.line(), "")
	t.ns.Bind(model.Socket{Local: s.local, Remote: s.remote})
}

func (t *tracked) unbind(s *socket) {
	t.record(trace.Socket, "close "+s.line(), "")
	t.ns.Unbind(model.Socket{Local: s.local, Remote: s.remote})
}

// line is the socket as traces write it.
func (s *socket) line() string {
	if s.remote.IsValid() {
		return s.local.String() + " > " + s.remote.String()
	}
	return s.local.String()
}

func (t *tracked) addAddress(dev string, a netip.Prefix) {
	t.record(trace.Address, dev+" "+a.String(), "")
	t.ns.AddAddress(dev, a)
}

func (t *tracked) delAddress(dev string, a netip.Prefix) {
	t.record(trace.NoAddress, dev+" "+a.String(), "")
	t.ns.DelAddress(t.span(), dev, a)
	t.hear()
}

func modelRoute(r lab.Route) model.Route { return model.Route{To: r.To, Dev: r.Dev, Via: r.Via} }

func (t *tracked) addRoute(r lab.Route) {
	t.record(trace.Routing, modelRoute(r).String(), "")
	t.ns.AddRoute(modelRoute(r))
}

// delRoute takes a route from the model, unless that has lost it together with its device.
func (t *tracked) delRoute(r lab.Route) {
	m := modelRoute(r)
	if !slices.Contains(t.ns.Routes(), m.String()) {
		return
	}
	t.record(trace.NoRouting, m.String(), "")
	t.ns.DelRoute(m)
}

func (t *tracked) setLink(dev string, up bool) {
	state := "down"
	if up {
		state = "up"
	}
	t.record(trace.Link, dev+" "+state, "")
	if up {
		t.ns.SetLink(dev, true)
	} else {
		t.ns.Down(t.span(), dev)
	}
	t.hear()
}

func (t *tracked) delLink(dev string) {
	t.record(trace.Link, dev+" gone", "")
	t.ns.DelLink(t.span(), dev)
	t.hear()
}

// inventory records what the node has at the end, as its own side of the simulation sees it.
func (t *tracked) inventory() {
	var links, addresses, routes, settings []string
	for _, d := range t.node.devices {
		for _, a := range d.addrs {
			addresses = append(addresses, d.name+" "+a.String())
		}
		switch {
		case d.name == "lo": // as in lab/live: every namespace has it
		case d.up:
			links = append(links, d.name+" up")
		default:
			links = append(links, d.name+" down")
		}
	}
	for _, r := range t.node.routes {
		routes = append(routes, modelRoute(r).String())
	}
	for k, v := range t.node.sysctls {
		settings = append(settings, k+" "+v)
	}
	for _, s := range []struct {
		name  string
		lines []string
	}{{"links", links}, {"addresses", addresses}, {"routes", routes}, {"sysctls", settings}} {
		slices.Sort(s.lines)
		t.record(trace.State, s.name, strings.Join(s.lines, "\n"))
	}
}
