// Package model is a userspace model of Linux connection tracking and NAT in one network namespace:
// given what went into the namespace, and within which ticks, it says what the kernel's table holds,
// which packets leave, and why. It is deterministic, reads no clock and no kernel, and cannot see
// anything that was observed. Functions are named for the kernel functions that they follow.
//
// What it covers, of IPv4 and IPv6, forwarded, sent by and delivered to the namespace itself (also over lo): UDP;
// queries of ICMP (echo, timestamp, information, address mask) and ICMPv6 (echo, node information), and what the
// stack answers to them; ICMP errors about all of these, those of the namespace's own stack and of REJECT included,
// within their rates; GRE of version 0, and protocols that are tracked by their number alone. Fragments of IPv4, which
// are put together, and cut where a link takes less. DNAT, SNAT, MASQUERADE, REDIRECT and null bindings with the
// kernel's choice of addresses, ports and ids; NOTRACK, zones, marks; packets that are held on their way, clashes, a full
// table; links, addresses and routes that come and go, and what that does to masqueraded entries; the neighbours
// behind the last hook. The rules are iptables-save and ip6tables-save text, each for its family; what hooks are
// registered follows iptables-nft (1.8.9).
//
// What it does not cover: TCP, SCTP, DCCP, UDP-Lite; the tunnels' ends that a kernel may have; fragments of IPv6, or
// where nothing is tracked; extension headers; redirects of IPv6, packets from or to a link's own address, to groups and
// broadcast (neighbour discovery passes the hooks, untracked, and is not answered); helpers and expectations; path MTUs
// that the namespace learns; policy routing; the limit of all ICMP errors together (icmp_msgs_per_sec). A packet that
// needs one of these is reported as not modelled, never guessed, but for the last.
package model

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sort"
	"strconv"

	"ctlab/checks/conntrack"
)

// Config is what a Namespace is made with.
type Config struct {
	Profile Profile
	HZ      int64 // ticks a second
	Chooser Chooser
}

// Namespace is the model of one network namespace.
type Namespace struct {
	cfg       Config
	rules     *Ruleset
	rules6    *Ruleset // of ip6tables
	sysctls   map[string]string
	links     map[string]*link
	routes    []Route
	entries   []*entry // confirmed, also expired ones that nothing has evicted yet
	bySlot    map[slot]ref
	listings  int // entries that were put into the table
	neigh     map[Neighbour]*neighState
	peers     map[netip.Addr]*peer
	pathMTU   int // some path may take no more, as it was told; 0: all do
	frags     map[fragKey]*fragQueue
	fragsOf   map[netip.Addr]int // how many fragments came from an address
	stats     map[string]uint32
	events    []Event
	ctinfos   []CTInfo
	listening bool
	sockets   []Socket
	heard     []conntrack.Packet
	margins   map[string]Margin
	localTo   func(netip.Addr) bool // instead of the addresses, where only rules are asked
	anyTurn   bool                  // the same: rules that count (statistic --mode nth) may be at any count
	now       conntrack.Span        // of the last input that had a time
	lastRange natRange              // of the last rule that gave a mapping
	foundMore uint32                // how far above Stats the counter "found" may lie
	serial    int
	sourced   int // entries that were put in the by-source list
	indexes   int
	holds     []conntrack.Hold
	waiting   []*walk // packets that are held, in the order of arrival
	pressed   bool    // an early drop has found nothing
	filler    filler  // entries of Fill
	missing   map[string]bool
	unknown   []string // what was met and is not modelled
}

type link struct {
	index int // in the order in which the devices appeared
	up    bool
	mtu   int            // 0: not told
	addrs []netip.Prefix // a secondary address stands behind its primary one
}

// Route is a route of the main table; without a Via the destination is on the link.
type Route struct {
	To  netip.Prefix
	Dev string
	Via netip.Addr
}

// String is the route as `ip route` prints it.
func (r Route) String() string {
	if r.Via.IsValid() {
		return fmt.Sprintf("%s via %s dev %s", r.To, r.Via, r.Dev)
	}
	return fmt.Sprintf("%s dev %s", r.To, r.Dev)
}

// entry is a conntrack entry (struct nf_conn). Entries are held by pointer and copied by Clone.
type entry struct {
	serial      int
	orig, reply conntrack.Tuple
	zone        zone
	listed      int // when it was put into the table, in the order of such; 0 while it was not
	status      conntrack.Status
	expiry      conntrack.Span // of a confirmed entry: the tick at which it expires
	relative    int64          // ticks, while it is unconfirmed
	gre         greTimes
	streamAfter conntrack.Span // the tick behind which a UDP flow counts as a stream
	acct        bool
	events      bool
	made        bool // through ctnetlink
	count       [2]conntrack.Counters
	mark        uint32
	masqueraded int // the index of the device for which the source was masqueraded, or 0
	bySource    int // its place in the by-source list of NAT, the newest with the highest number, or 0
	pending     eventBits
	held        int // packets that wait, at a hold or for a neighbour, and so refer to it
	touched     conntrack.Span
	whyStatus   string
	whyTimeout  string
	whyReply    string
}

// direction indexes an entry's tuples and counters.
type direction int

const (
	original direction = iota
	reply
)

type ref struct {
	e   *entry
	dir direction
}

func (r ref) tuple() conntrack.Tuple {
	if r.dir == original {
		return r.e.orig
	}
	return r.e.reply
}

// New makes the model of a fresh namespace: no rules, no links.
func New(cfg Config) *Namespace {
	if cfg.Chooser == nil {
		cfg.Chooser = FirstOption
	}
	return &Namespace{
		cfg: cfg, rules: NewRuleset(), rules6: NewRuleset6(),
		sysctls: map[string]string{}, links: map[string]*link{}, bySlot: map[slot]ref{},
		neigh: map[Neighbour]*neighState{}, peers: map[netip.Addr]*peer{}, frags: map[fragKey]*fragQueue{}, fragsOf: map[netip.Addr]int{}, stats: map[string]uint32{}, missing: map[string]bool{}, margins: map[string]Margin{},
	}
}

// Clone copies the namespace; the copy asks its own chooser.
func (n *Namespace) Clone(c Chooser) *Namespace {
	cp := *n
	cp.cfg.Chooser = c
	cp.rules, cp.rules6 = n.rules.Clone(), n.rules6.Clone()
	cp.sysctls, cp.stats, cp.missing = maps.Clone(n.sysctls), maps.Clone(n.stats), maps.Clone(n.missing)
	cp.sockets, cp.heard, cp.margins = slices.Clone(n.sockets), slices.Clone(n.heard), maps.Clone(n.margins)
	cp.ctinfos = slices.Clone(n.ctinfos)
	cp.routes, cp.events, cp.unknown = slices.Clone(n.routes), slices.Clone(n.events), slices.Clone(n.unknown)
	cp.links = map[string]*link{}
	for name, l := range n.links {
		cp.links[name] = &link{l.index, l.up, l.mtu, slices.Clone(l.addrs)}
	}
	copied := map[*entry]*entry{}
	clone := func(e *entry) *entry {
		if e == nil {
			return nil
		}
		if copied[e] == nil {
			ne := *e
			copied[e] = &ne
		}
		return copied[e]
	}
	cp.entries, cp.bySlot = nil, make(map[slot]ref, len(n.bySlot))
	for _, e := range n.entries {
		cp.entries = append(cp.entries, clone(e))
	}
	for s, r := range n.bySlot {
		cp.bySlot[s] = ref{clone(r.e), r.dir}
	}
	cp.neigh = map[Neighbour]*neighState{}
	for k, s := range n.neigh {
		ns := &neighState{resolved: s.resolved}
		for _, q := range s.queue {
			ns.queue = append(ns.queue, queued{q.out, clone(q.ct), q.dir, q.from, q.in})
		}
		cp.neigh[k] = ns
	}
	cp.frags, cp.fragsOf = map[fragKey]*fragQueue{}, maps.Clone(n.fragsOf)
	for k, q := range n.frags {
		nq := *q
		nq.parts, nq.runs = slices.Clone(q.parts), slices.Clone(q.runs)
		cp.frags[k] = &nq
	}
	cp.holds, cp.waiting = slices.Clone(n.holds), nil
	for _, w := range n.waiting {
		cp.waiting = append(cp.waiting, w.clone(clone))
	}
	cp.peers = map[netip.Addr]*peer{}
	for a, p := range n.peers {
		np := *p
		cp.peers[a] = &np
	}
	return &cp
}

func (n *Namespace) choose(c Choice) int { return n.cfg.Chooser(c) }

// notModelled notes that something was met that the model does not cover.
func (n *Namespace) notModelled(format string, args ...any) {
	n.unknown = append(n.unknown, fmt.Sprintf(format, args...))
}

// NotModelled lists what was met and is not covered; predictions after that mean nothing.
func (n *Namespace) NotModelled() []string { return n.unknown }

// Missing lists the sysctls that were needed and never given.
func (n *Namespace) Missing() []string { return slices.Sorted(maps.Keys(n.missing)) }

// Load loads rules at once, as iptables-restore does (iptables-restore --noflush with noflush).
func (n *Namespace) Load(text string, noflush bool) error { return n.load(n.rules, text, noflush) }

// Load6 is Load for the rules of IPv6, as ip6tables-restore does.
func (n *Namespace) Load6(text string, noflush bool) error { return n.load(n.rules6, text, noflush) }

func (n *Namespace) load(rs *Ruleset, text string, noflush bool) error {
	before := rs.Clone()
	if err := rs.Restore(text, noflush); err != nil {
		return err
	}
	n.dropUnhooked(rs, before, text, noflush)
	if n.cfg.Profile.Legacy {
		rs.beginTurns(text)
	}
	return nil
}

// Rules gives the present rules; the caller must not change them.
func (n *Namespace) Rules() *Ruleset { return n.rules }

// Rules6 are those of IPv6.
func (n *Namespace) Rules6() *Ruleset { return n.rules6 }

// Set changes a sysctl. Timeouts already stored do not change (nf_ct_refresh uses the new value).
func (n *Namespace) Set(key, value string) { n.sysctls[key] = value }

// Sysctls that were given.
func (n *Namespace) Sysctls() map[string]string { return n.sysctls }

// Listen says that somebody listens to events from now on: entries made later report theirs.
func (n *Namespace) Listen() { n.listening = true }

// Addresses of all devices, as DEV ADDRESS lines in order.
func (n *Namespace) Addresses() []string {
	var out []string
	for name, l := range n.links {
		for _, a := range l.addrs {
			out = append(out, name+" "+a.String())
		}
	}
	sort.Strings(out)
	return out
}

// Links that are there, as NAME up or NAME down, in order, without lo.
func (n *Namespace) Links() []string {
	var out []string
	for name, l := range n.links {
		if name == "lo" {
			continue // always there, and no input
		}
		state := " down"
		if l.up {
			state = " up"
		}
		out = append(out, name+state)
	}
	sort.Strings(out)
	return out
}

// Routes of the main table, in order of their text.
func (n *Namespace) Routes() []string {
	var out []string
	for _, r := range n.routes {
		out = append(out, r.String())
	}
	sort.Strings(out)
	return out
}

// sysctl reads a numeric sysctl; the default is used, and noted as missing, if it was never given.
func (n *Namespace) sysctl(key string, def int64) int64 {
	v, ok := n.sysctls[key]
	if !ok {
		n.missing[key] = true
		return def
	}
	i, err := strconv.ParseInt(v, 10, 64)
	if err != nil {
		n.notModelled("sysctl %s=%q", key, v)
		return def
	}
	return i
}

// given reads a numeric sysctl that nearly nobody changes: where it was not given it has its default.
func (n *Namespace) given(key string, def int64) int64 {
	if _, ok := n.sysctls[key]; !ok {
		return def
	}
	return n.sysctl(key, def)
}

// isLocal reports whether an address is the namespace's own; on lo that holds for the whole subnet of an
// address (fib_add_ifaddr).
func (n *Namespace) isLocal(a netip.Addr) bool {
	if n.localTo != nil {
		return n.localTo(a)
	}
	if a.IsLoopback() {
		return true
	}
	for name, l := range n.links {
		for _, p := range l.addrs {
			if p.Addr() == a || name == loopback && a.Is4() && p.Contains(a) {
				return true
			}
		}
	}
	return n.anycast(a)
}

// route finds the longest match among devices that are up.
func (n *Namespace) route(dst netip.Addr) (best Route, ok bool) {
	for _, r := range n.routes {
		l := n.links[r.Dev]
		if l == nil || !l.up || !r.To.Contains(dst) {
			continue
		}
		if !ok || r.To.Bits() > best.To.Bits() {
			best, ok = r, true
		}
	}
	return best, ok
}

// trackingOf reports whether the conntrack hooks of the packet's family are registered.
func (n *Namespace) trackingOf(w *walk) bool { return n.tracking(n.rulesOf(w)) }

// tracking reports whether the conntrack hooks of a family are registered, whose rules are given.
func (n *Namespace) tracking(rs *Ruleset) bool {
	return !n.cfg.Profile.HooksOnDemand || rs.needsConntrack() || n.holdsIn(rs.v6)
}

// Stats are the counters of conntrack -S that have moved.
func (n *Namespace) Stats() map[string]uint32 { return n.stats }

// Count is the range in which the namespace's count of entries may lie. Besides the live ones it holds
// those whose time may be up but that nothing has collected, and those that are not in the table while a packet
// that waits still refers to them (nf_conntrack_free runs with the last reference): they were taken out of it, or
// are not confirmed yet.
func (n *Namespace) Count(at conntrack.Span) (least, most int) {
	for _, e := range n.entries {
		if e.expiry.From > at.To {
			least++
		}
		if e.expiry.To > at.From || !n.cfg.Profile.TimersEvict {
			most++
		}
	}
	outside := len(n.heldOutside()) + n.filled(at)
	return least + outside, most + outside
}

// heldOutside are the entries that are not in the table while a packet that waits, for its neighbour or at a
// hold, refers to them.
func (n *Namespace) heldOutside() (held []*entry) {
	note := func(e *entry) {
		if e != nil && e.outside() && !slices.Contains(held, e) {
			held = append(held, e)
		}
	}
	for _, s := range n.neigh {
		for _, q := range s.queue {
			note(q.ct)
		}
	}
	for _, w := range n.waiting {
		note(w.ct)
	}
	return held
}

// outside reports whether an entry is not in the table: deleted, or not confirmed yet.
func (e *entry) outside() bool {
	return e.status.Has(conntrack.Dying) || !e.status.Has(conntrack.Confirmed)
}

// StatRange is the range in which a counter of conntrack -S must lie. Of "found" it is one, as how many taken
// ports a search for a port met depends on where it started, and of "error" while the time of fragments runs out.
func (n *Namespace) StatRange(name string) (least, most uint32) {
	v := n.stats[name]
	switch name {
	case "found":
		return v, v + n.foundMore
	case "error":
		return v, v + n.expiring()
	}
	return v, v
}
