package model

import (
	"ctlab/checks/conntrack"
)

// Step is one thing that happened to a packet, with the kernel function that did it.
type Step struct{ Hook, Func, What string }

// Left is a packet that leaves the namespace on a device.
type Left struct {
	Dev    string
	Packet conntrack.Packet
	Own    bool // made by the namespace's own stack: the IP id is its own choice
	Late   bool // its cause is known only some time after the fact (a neighbour's failure)
	Why    string
}

// Outcome is what became of a packet.
type Outcome struct {
	CT        string           // ctinfo, or "invalid", or "untracked"; "" where tracking is off
	Entry     *conntrack.Tuple // the original tuple of the packet's entry
	Asked     bool             // the destination NAT rules were asked
	Steps     []Step
	Dropped   string            // where and why, or ""
	Local     bool              // delivered to the namespace's own stack
	Delivered *conntrack.Packet // as the stack got it, if Local
	Left      []Left            // what leaves because of it, now
}

// walk is a packet on its way through the hooks.
type walk struct {
	at      conntrack.Span
	p       *conntrack.Packet
	owned   bool // p is our own copy and may be written
	in, out string
	local   bool // it began at LOCAL_OUT
	ct      *entry
	info    ctInfo
	mark    uint32
	asked   bool
	hook    string
	steps   []Step
	dropped string
	notrack bool
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

func (w *walk) evaluation(n *Namespace) *evaluation {
	return &evaluation{ns: n, p: w.p, in: w.in, out: w.out, mark: w.mark, ct: w.ct, info: w.info}
}

// Packet handles a packet that arrives on a device (ip_rcv and all that follows).
func (n *Namespace) Packet(at conntrack.Span, dev string, p conntrack.Packet) Outcome {
	w := &walk{at: at, p: &p, in: dev, info: noInfo}
	lefts := n.receive(w)
	return w.outcome(n, lefts)
}

func (w *walk) outcome(n *Namespace, lefts []Left) Outcome {
	o := Outcome{Asked: w.asked, Steps: w.steps, Dropped: w.dropped, Left: lefts}
	if n.tracking() {
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
func (n *Namespace) receive(w *walk) []Left {
	w.hook = "PREROUTING"
	if !n.table(w, "raw") || !n.track(w) || !n.table(w, "mangle") || !n.natHook(w, w.hook, dstManip) {
		return nil
	}
	if n.isLocal(w.p.Dst) {
		return n.deliver(w)
	}
	r, ok := n.route(w.p.Dst)
	if !ok || n.sysctl("net.ipv4.ip_forward", 0) == 0 {
		w.drop("ip_error", "no route to "+w.p.Dst.String())
		if n.sysctl("net.ipv4.ip_forward", 0) == 0 {
			return nil // a host drops what is not its own, silently
		}
		return n.ownError(w, 3, 0, false)
	}
	return n.forward(w, r)
}

// track runs the conntrack hook at priority -200.
func (n *Namespace) track(w *walk) bool {
	switch {
	case w.notrack:
		w.info = untracked
		w.say("nf_conntrack_in", "untracked by a rule")
	case n.tracking():
		n.conntrackIn(w)
	}
	return true
}

// table walks a table's chain at the present hook; false means dropped.
func (n *Namespace) table(w *walk, name string) bool {
	if n.rules.tables[name] == nil {
		return true
	}
	ev := w.evaluation(n)
	v := ev.walk(n.rules, name, w.hook)
	w.mark = ev.mark
	w.notrack = w.notrack || ev.notrack
	if v == dropped {
		w.drop(name+" "+w.hook, "a rule or the policy drops it")
	}
	return v != dropped
}

// deliver is INPUT. No program of ctlab listens on a tracked node, so a datagram is answered with port
// unreachable.
func (n *Namespace) deliver(w *walk) []Left {
	w.hook = "INPUT"
	if !n.table(w, "mangle") || !n.table(w, "filter") || !n.natHook(w, w.hook, srcManip) || !n.confirm(w) {
		return nil
	}
	if w.p.Proto == conntrack.UDP {
		return n.ownError(w, 3, 3, true)
	}
	return nil
}

// forward is FORWARD and POSTROUTING, then the neighbour.
func (n *Namespace) forward(w *walk, r Route) []Left {
	w.hook, w.out = "FORWARD", r.Dev
	if w.p.TTL <= 1 {
		w.drop("ip_forward", "time to live exceeded")
		return n.ownError(w, 11, 0, false)
	}
	w.own()
	w.p.TTL--
	if !n.table(w, "mangle") || !n.table(w, "filter") {
		return nil
	}
	if !n.postrouting(w) {
		return nil
	}
	return n.output(w, r, false)
}

func (n *Namespace) postrouting(w *walk) bool {
	w.hook = "POSTROUTING"
	return n.table(w, "mangle") && n.natHook(w, w.hook, srcManip) && n.confirm(w)
}
