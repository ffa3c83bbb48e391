// Package fuzz throws random traffic at the kernel's connection tracking and lets the model account for it. A
// scenario is made from a seed: one namespace under test with three wires, a few addresses and ports, so that
// flows collide, and a list of operations: packets, answers to what came out, errors about it, pauses, changes of
// rules and of the table. Everything is played one operation at a time, and after each the table, the packets that
// left, ctinfo, the counters and the events are read. What was done and seen is a trace, which is replayed.
//
// Scenarios have pauses of seconds, in which entries expire; hundreds of namespaces are played side by side, each
// in the others' pauses.
package fuzz

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"ctlab/checks/conntrack"
)

// Kind is the kind of an operation.
type Kind string

// The kinds of operations.
const (
	Packet  Kind = "packet"  // a packet comes in on a wire
	Answer  Kind = "answer"  // who got a packet answers it
	Error   Kind = "error"   // who got a packet, or somebody on the way, answers it with an ICMP error
	Pause   Kind = "pause"   // nothing happens for a while
	Rules   Kind = "rules"   // rules are loaded
	Sysctl  Kind = "sysctl"  // a setting changes
	Delete  Kind = "delete"  // an entry is deleted
	Flush   Kind = "flush"   // the table is emptied
	Dump    Kind = "dump"    // the table is read as a whole
	Hold    Kind = "hold"    // packets of some flows wait on their way from now on
	Unhold  Kind = "unhold"  // no further packet waits
	Release Kind = "release" // one that waits goes on, or is dropped
	Link    Kind = "link"    // a device of the node goes down or up
	Address Kind = "address" // an address of the node's is taken away, or given back
)

// Op is one operation of a scenario.
type Op struct {
	Kind    Kind
	Wire    int              // of a packet: where it comes in; of an answer or error: -1 for where the packet came out
	Packet  conntrack.Packet // of a packet; of an error: its type, code and mtu
	Piece   [2]int           // of a packet that comes in fragments: which bytes behind its IP header this one has
	Of      int              // of an answer, error or deletion: which of those there are, modulo their number
	Text    string           // rules, or KEY VALUE of a sysctl, or the address
	Noflush bool
	Pause   time.Duration
	Hold    conntrack.Hold
	Accept  bool // of a release
	Up      bool // of a link, or an address that comes back

	// What was played names what it was about, in place of Of.
	Entry *conntrack.Key // of a deletion
	Held  Held           // of a release
}

// Held tells the packets that wait apart, whatever NAT does to them: no two have the same identification, or, in IPv6,
// the same length. Zero is no packet.
type Held struct {
	ID  uint16
	Len int
}

// Wire is a link end without a host behind it: packets are put on it and seen on it by hand.
type Wire struct {
	Device string         // the node's end
	Node   []netip.Prefix // the node's addresses on it
	Hosts  []netip.Addr   // who seems to be there
	Silent []netip.Addr   // who is there as well, and sends nothing of its own accord
}

// Scenario is what is played in one namespace.
type Scenario struct {
	Seed    uint64
	Number  int
	Wires   []Wire
	Six     bool     // it speaks IPv6
	Holds   bool     // packets are held in it
	Sysctls []string // KEY VALUE
	// Defaults are settings that are left as the kernel has them, and recorded.
	Defaults []string
	Rules    string
	Ops      []Op
}

// gre is a protocol of which nobody can tell whether the node itself takes it.
const gre = 47

// own reports whether an address is the node's.
func (s *Scenario) own(a netip.Addr) bool {
	for _, w := range s.Wires {
		if slices.ContainsFunc(w.Node, func(p netip.Prefix) bool { return p.Addr() == a }) {
			return true
		}
	}
	return a.IsLoopback()
}

// Packets counts the packets that the scenario sends.
func (s *Scenario) Packets() (n int) {
	for _, op := range s.Ops {
		switch op.Kind {
		case Packet, Answer, Error:
			n++
		}
	}
	return n
}

// Name is how reports and traces call the scenario.
func (s *Scenario) Name() string { return fmt.Sprintf("fuzz-%d-%d", s.Seed, s.Number) }
