package model

import (
	"fmt"
	"net/netip"

	"ctlab/checks/conntrack"
)

// Step is one thing that happened to a packet, with the kernel function that did it.
type Step struct{ Hook, Func, What string }

// Left is a packet that leaves the namespace on a device.
type Left struct {
	Dev    string
	Packet conntrack.Packet
	Own    bool           // made by the namespace's own stack: the IP id is its own choice
	Late   bool           // its cause is known only some time after the fact (a neighbour's failure)
	Since  conntrack.Tick // of what a timer sent: not before
	Why    string
}

// Outcome is what became of a packet.
type Outcome struct {
	CT        string           // ctinfo, or "invalid", or "untracked"; "" where tracking is off
	Entry     *conntrack.Tuple // the original tuple of the packet's entry
	Asked     bool             // the destination NAT rules were asked
	Steps     []Step
	Dropped   string              // where and why, or ""
	Held      conntrack.HoldPlace // where it waits until it is released, or ""
	Local     bool                // delivered to the namespace's own stack
	Before    string              // the time left of the packet's entry, such as "3s"; "" where the packet made it
	After     string              // and behind the packet; "" where the packet gave it none
	Delivered *conntrack.Packet   // what the stack got last: the packet itself, or the ICMP error that came back to the sender through lo
	Left      []Left              // what leaves because of it, now
}

// walk is a packet on its way through the hooks.
type walk struct {
	at        conntrack.Span
	p         *conntrack.Packet
	owned     bool // p is our own copy and may be written
	in, out   string
	hop       netip.Addr // the next hop, where out is known
	local     bool       // it began at LOCAL_OUT
	ct        *entry
	info      ctInfo
	mark      uint32
	tmpl      *template
	zone      zone
	asked     bool
	before    string // see Outcome
	after     string
	hook      string
	steps     []Step
	dropped   string
	stolen    bool                // it is a fragment, and was kept
	pieces    []int               // of a packet that was put together: how long the data of its parts was
	largest   int                 // and how long the longest part
	held      conntrack.HoldPlace // where it waits, or ""
	next      int                 // the number of the hook behind the one at which it waits
	shared    bool                // it is an error about a packet that is on its way with the same entry
	delivered *conntrack.Packet   // what the namespace's own stack got last
	lefts     []Left              // what leaves because of it
}

func (w *walk) say(fn, what string) { w.steps = append(w.steps, Step{w.hook, fn, what}) }

func (w *walk) drop(where, why string) {
	w.dropped = where + ": " + why
	w.say(where, "dropped: "+why)
}

// own makes p a private copy, with a private quote.
func (w *walk) own() {
	if w.owned {
		return
	}
	cp := *w.p
	if cp.About != nil {
		inner := *cp.About
		cp.About = &inner
	}
	w.p, w.owned = &cp, true
}

// Packet handles a packet that arrives on a device (ip_rcv and all that follows).
func (n *Namespace) Packet(at conntrack.Span, dev string, p conntrack.Packet) Outcome {
	n.now = at
	w := &walk{at: at, p: &p, in: dev, info: noInfo}
	n.receive(w)
	return w.outcome(n)
}

func (w *walk) outcome(n *Namespace) Outcome {
	o := Outcome{Asked: w.asked, Steps: w.steps, Dropped: w.dropped, Held: w.held, Left: w.lefts, Delivered: w.delivered, Before: w.before, After: w.after}
	if n.trackingOf(w) && !w.stolen {
		o.CT = w.info.String()
	}
	if w.ct != nil {
		t := w.ct.orig
		o.Entry = &t
	}
	o.Local = w.dropped == "" && w.hook == "INPUT"
	return o
}

// receive is PREROUTING, routing, and then the way in or through.
func (n *Namespace) receive(w *walk) {
	w.hook = "PREROUTING"
	if w.v6() && !n.received6(w) {
		return
	}
	if !n.defragment(w) || !n.table(w, "raw") || !n.track(w) || !n.table(w, "mangle") || !n.natHook(w, w.hook, dstManip) {
		return
	}
	if w.v6() {
		n.route6(w)
		return
	}
	if why := n.martian(w); why != "" {
		w.drop("ip_route_input", "martian "+why)
		return
	}
	if n.isLocal(w.p.Dst) {
		w.say("ip_route_input", "local delivery: "+w.p.Dst.String()+" is the node's own")
		n.deliver(w)
		return
	}
	if n.sysctl("net.ipv4.ip_forward", 0) == 0 { // a host drops what is not its own, silently
		w.drop("ip_error", "no forwarding: "+w.p.Dst.String()+" is not its own")
		return
	}
	r, ok := n.route(w.p.Dst)
	if !ok {
		w.drop("ip_error", "no route to "+w.p.Dst.String())
		if n.routeErrorAllowed(w.p.Src, w.at) {
			n.ownError(w, 3, 0, 0)
		}
		return
	}
	w.towards(r)
	w.say("ip_route_input", w.way())
	n.forward(w)
}

// martian says what is wrong with the addresses of a packet that came in on a device: a source or destination
// that nobody can have, or in 127.0.0.0/8 without route_localnet (ip_route_input_slow), or a source that is the
// namespace's own (fib_validate_source).
func (n *Namespace) martian(w *walk) string {
	zero := func(a netip.Addr) bool { // ipv4_is_zeronet
		return a.IsUnspecified() || n.cfg.Profile.ZeroNet && a.Is4() && a.As4()[0] == 0
	}
	last := netip.AddrFrom4([4]byte{255, 255, 255, 255})
	switch {
	case w.p.Dst == last || w.p.Dst.IsMulticast() || n.broadcast(w.p.Dst):
		n.notModelled("a packet for everybody: %s", w.p.Line())
	case w.p.Src.IsMulticast() || w.p.Src == last || zero(w.p.Src):
		return "source " + w.p.Src.String()
	case zero(w.p.Dst):
		return "destination " + w.p.Dst.String()
	case w.in == loopback:
	case w.p.Src.IsLoopback() && !n.switchedOn(w.in, "route_localnet"):
		return "source " + w.p.Src.String()
	case w.p.Dst.IsLoopback() && !n.switchedOn(w.in, "route_localnet"):
		return "destination " + w.p.Dst.String()
	case n.isLocal(w.p.Src) && !n.switchedOn(w.in, "accept_local"):
		return "source " + w.p.Src.String()
	}
	return ""
}

// track runs the conntrack hook at priority -200. A packet that carries its entry, as those that come
// back through lo do, is left alone.
func (n *Namespace) track(w *walk) bool {
	switch {
	case w.ct != nil || w.info == untracked:
		w.say("nf_conntrack_in", "seen before, as "+w.info.String()+": left alone")
	case w.tmpl != nil && w.tmpl.notrack:
		w.info = untracked
		w.say("nf_conntrack_in", "untracked by a rule")
	case n.trackingOf(w):
		w.zone = w.tmpl.zoneOf(w.mark)
		n.conntrackIn(w)
	}
	w.tmpl = nil
	if w.dropped != "" {
		return false
	}
	n.noteCTInfo(w)
	return true
}

// table walks a table's chain at the present hook; false means dropped.
func (n *Namespace) table(w *walk, name string) bool {
	if n.rulesOf(w).tables[name] == nil {
		return true
	}
	ev := w.evaluation(n)
	v := ev.walk(n.rulesOf(w), name, w.hook)
	w.mark = ev.mark
	w.tmpl = ev.tmpl
	if v != dropped {
		if name == "filter" || ev.by != "" {
			w.say(n.chainWalker(), fmt.Sprintf("%s %s: %s accepts it", name, w.hook, ev.decider()))
		}
		return true
	}
	does := " drops it"
	if ev.reject != nil {
		does = " rejects it"
	}
	w.dropped = name + " " + w.hook + ": " + ev.decider() + does
	w.say(n.chainWalker(), w.dropped)
	if ev.reject == nil {
		return false
	}
	n.reject(w, *ev.reject)
	return false
}

// chainWalker is the function that walks the chains of iptables-nft, or of iptables-legacy.
func (n *Namespace) chainWalker() string {
	if n.cfg.Profile.Legacy {
		return "ipt_do_table"
	}
	return "nft_do_chain"
}

// deliver is INPUT and what the stack does then: an ICMP error is heard by the sender, a datagram that no
// socket takes is answered with port unreachable (__udp4_lib_rcv).
func (n *Namespace) deliver(w *walk) {
	w.hook = "INPUT"
	if !n.table(w, "mangle") || !n.table(w, "filter") || !n.natHook(w, w.hook, srcManip) || !n.confirm(w) {
		return
	}
	got := *w.p
	w.delivered = &got
	icmp, icmp6 := w.p.Proto == conntrack.ICMP && !w.v6(), w.p.Proto == conntrack.ICMPv6 && w.v6()
	switch {
	case !icmp && !icmp6 && w.p.Proto != conntrack.UDP:
		n.unknownProtocol(w)
	case w.p.Bad != "":
	case w.p.IsError():
		n.learnMTU(w.p)
		n.heard = append(n.heard, got)
	case icmp:
		n.icmpReceive(w)
	case icmp6:
		n.echo6(w)
	case !n.taken(w.p):
		n.noSocket(w)
	}
}

// noSocket is the end of __udp4_lib_rcv and __udp6_lib_rcv: the sender is told.
func (n *Namespace) noSocket(w *walk) {
	w.say("__udp4_lib_rcv", "no socket takes it")
	answer := *w
	answer.ct, answer.info = nil, noInfo // nf_reset_ct: the error finds its entry by what it quotes
	n.tell(&answer, portUnreachable)
	w.lefts, w.delivered, w.steps = answer.lefts, answer.delivered, answer.steps
}

// forward is FORWARD and POSTROUTING, then the neighbour.
func (n *Namespace) forward(w *walk) {
	w.hook = "FORWARD"
	if w.p.TTL <= 1 {
		w.drop("ip_forward", "time to live exceeded")
		n.tell(w, timeExceeded)
		return
	}
	if n.tooBig(w) {
		return
	}
	w.own()
	w.p.TTL--
	w.say("ip_forward", fmt.Sprintf("time to live %d -> %d", w.p.TTL+1, w.p.TTL))
	if w.in == w.out && !w.v6() {
		n.redirect(w)
	}
	if n.table(w, "mangle") && n.table(w, "filter") && n.postrouting(w) {
		n.output(w)
	}
}

func (n *Namespace) postrouting(w *walk) bool {
	w.hook = "POSTROUTING"
	return n.postroutingFrom(w, 0)
}

// towards notes where a route leads.
func (w *walk) towards(r Route) {
	w.out, w.hop = r.Dev, w.p.Dst
	if r.Via.IsValid() {
		w.hop = r.Via
	}
}

// way says where a packet goes from here.
func (w *walk) way() string {
	if w.hop == w.p.Dst {
		return "device " + w.out + ", " + w.hop.String() + " is on the link"
	}
	return "device " + w.out + ", next hop " + w.hop.String()
}
