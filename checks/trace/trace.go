// Package trace holds what went into a namespace and what was seen of it, in a text form that parses
// back, and replays it: the model, driven by the inputs alone, must account for everything seen.
//
// Where nobody can know in which order things happened, as with rules that are loaded while packets pass,
// the replay follows each order that is possible, and counts that as a choice.
package trace

import (
	"fmt"
	"net/netip"
	"time"

	"ctlab/checks/conntrack"
	"ctlab/checks/model"
)

// Kind is the kind of a record.
type Kind string

// Inputs: what the namespace was given. A read is one, as it evicts what has expired.
const (
	Packet    Kind = "packet"     // DEV PACKET: arrived at the door of PREROUTING
	ARP       Kind = "arp"        // DEV ADDRESS: a neighbour announced itself
	Neigh     Kind = "neigh"      // DEV ADDRESS: a neighbour was given up or deleted
	Rules     Kind = "rules"      // restore|noflush, with the text
	Rules6    Kind = "rules6"     // the same of ip6tables
	Sysctl    Kind = "sysctl"     // KEY VALUE
	Listen    Kind = "listen"     // somebody listens to events from now on
	Link      Kind = "link"       // DEV up|down|gone, or DEV mtu N, bytes
	Address   Kind = "address"    // DEV ADDRESS/PREFIX
	NoAddress Kind = "no-address" // DEV ADDRESS/PREFIX: taken away
	Routing   Kind = "route"      // TO dev DEV, or TO via ADDRESS dev DEV
	NoRouting Kind = "no-route"   // the same, taken away
	Socket    Kind = "socket"     // open|close LOCAL:PORT [> REMOTE:PORT]: a UDP socket of the namespace's own
	Send      Kind = "send"       // PACKET: one of those sent it; ttl and ip-id are the kernel's choice
	Discover  Kind = "discover"   // DEV PACKET: the namespace's own stack sent a message of IPv6 discovery
	Get       Kind = "get"        // TUPLE [zone N]
	Dump      Kind = "dump"
	Delete    Kind = "delete" // TUPLE
	Flush     Kind = "flush"
	Create    Kind = "create"  // ENTRY
	Fill      Kind = "fill"    // N SECONDS: so many ASSURED entries were made that nothing else is about
	Update    Kind = "update"  // ENTRY: what it gives of time left, status and mark is set
	Hold      Kind = "hold"    // HOLD: packets that it names wait in POSTROUTING from now on
	Unhold    Kind = "unhold"  // no packet begins to wait from now on
	Release   Kind = "release" // N accept|drop: the nth of those that wait goes on, or is dropped
)

// Seen: what the namespace was observed to do or to hold.
const (
	Left   Kind = "left"   // DEV PACKET: left on a device
	CTInfo Kind = "ctinfo" // DEV PACKET is CTINFO: what nf_conntrack_in attached to it; DEV is - at LOCAL_OUT
	Entry  Kind = "entry"  // ENTRY: read by the get or dump before
	Absent Kind = "absent" // TUPLE: the get before found nothing
	Dumped Kind = "dumped" // N: the dump before is complete
	Event  Kind = "event"  // EVENT
	Count  Kind = "count"  // N: entries in the namespace
	Stats  Kind = "stats"  // NAME N ...: counters since the namespace was made
	Hits   Kind = "hits"   // with the text of iptables-save -c
	Hits6  Kind = "hits6"  // with the text of ip6tables-save -c
	Ended  Kind = "ended"  // the tap was closed: what leaves from now on is not seen
	State  Kind = "state"  // sysctl|links|addresses|routes, with one line each
)

// inputs tells inputs from observations; a kind that is in neither list does not exist.
func (k Kind) input() bool {
	switch k {
	case Packet, ARP, Neigh, Rules, Rules6, Sysctl, Listen, Link, Address, NoAddress, Routing, NoRouting, Socket, Send, Discover, Get, Dump, Delete, Flush, Create, Fill, Update, Hold, Unhold, Release:
		return true
	}
	return false
}

func (k Kind) seen() bool {
	switch k {
	case Left, CTInfo, Entry, Absent, Dumped, Event, Count, Stats, Hits, Hits6, State, Ended:
		return true
	}
	return false
}

// Record is one input or one observation.
type Record struct {
	At   time.Duration  // since the recording began
	Span conntrack.Span // the ticks within which the kernel acted
	Kind Kind
	Took time.Duration // of an act that took its time: it happened at some moment from At to At+Took
	Args string        // as the kind's comment says
	Text string        // several lines, for the kinds that have a text
}

// Input reports whether the record is an input.
func (r Record) Input() bool { return r.Kind.input() }

// end is the last moment at which the record may have happened.
func (r Record) end() time.Duration { return r.At + r.Took }

// String is the record's line. How long an act took stands behind its time: 12.345678+0.003100.
func (r Record) String() string {
	side := "seen"
	if r.Input() {
		side = "in  "
	}
	took := ""
	if r.Took > 0 {
		took = fmt.Sprintf("+%.6f", r.Took.Seconds())
	}
	s := fmt.Sprintf("%s %11.6f%s %s %s", side, r.At.Seconds(), took, r.Span, r.Kind)
	if r.Args != "" {
		s += " " + r.Args
	}
	return s
}

// Header says where and how a trace was recorded.
type Header struct {
	Lab     string
	Node    string
	Kernel  string            // release, as uname -r prints it
	Profile string            // the model's profile that was found by probing
	Assured model.AssuredRule // the one rule that probing decides
	Legacy  bool              // the rules were those of iptables-legacy
	HZ      int64
	CTInfo  string   // by what means the ctinfo of each packet was recorded, or ""
	CTLost  int      // how many are known to be missing, at least
	Lost    []string // evidence that was lost; the comparison is inconclusive
	Names   []Name   // for people
}

// Model is the profile by which the recording is to be accounted for: that of its release with what probing found,
// or the given one; in either case with the back end of iptables that was there.
func (h Header) Model(given *model.Profile) (model.Profile, error) {
	if given != nil {
		p := *given
		p.Legacy = h.Legacy
		return p, nil
	}
	p, err := model.ProfileFor(h.Profile)
	if err != nil {
		return p, fmt.Errorf("trace of %s: %w", h.Node, err)
	}
	if h.Assured != "" {
		p.Assured = h.Assured
	}
	p.Legacy = h.Legacy
	return p, nil
}

// everyCTInfo reports whether the ctinfo of every packet was recorded.
func (h Header) everyCTInfo() bool { return h.CTInfo != "" && h.CTLost == 0 }

// Name says whose an address is.
type Name struct {
	Name string
	Addr netip.Addr
}

// Trace is the record of one namespace, in the order of time.
type Trace struct {
	Header
	Records []Record
}

// CTInfoArgs are the arguments of a CTInfo record; dev is "" at LOCAL_OUT.
func CTInfoArgs(dev string, p *conntrack.Packet, ct string) string {
	if dev == "" {
		dev = noDevice
	}
	return PacketArgs(dev, p) + isWord + ct
}

// PacketArgs are the arguments of a Packet or Left record.
func PacketArgs(dev string, p *conntrack.Packet) string { return dev + " " + p.Line() }
