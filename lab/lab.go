// Package lab is the lab language and its runner: it reads a lab file, says everything that is wrong
// with it at once, and plays its steps in a World. It is pure; the kernel's world is lab/live.
package lab

import (
	"fmt"
	"net/netip"
	"time"

	"ctlab/checks"
	"ctlab/checks/conntrack"
)

// Pos is a place in a lab file; lines and columns count from 1, columns in characters.
type Pos struct {
	File      string
	Line, Col int
}

// String is FILE:LINE:COL, which editors jump to.
func (p Pos) String() string { return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Col) }

// Lab is a validated lab: every name in it exists, every address is resolved. It does not change.
type Lab struct {
	File      string
	Name      string
	About     string
	Says      []string // what users say
	Why       string   // the mechanism
	Refs      []string
	SkipModel string // why the model takes no part, or ""
	Variant   string // the variant that was applied, or ""
	Nodes     []*Node
	Services  []*Service
	Servers   []*Server
	Clients   []*Client
	Steps     []*Step
	Variants  []Variant
}

// Variant names a variant of the lab.
type Variant struct {
	Pos   Pos
	Name  string
	About string
}

// Node is a network namespace.
type Node struct {
	Pos     Pos
	Name    string
	Router  bool         // kind: router; it forwards and is tracked
	Address netip.Prefix // of a host's eth0; invalid on a router
	Uplink  string       // the router that the host hangs on
	Port    string       // the name of the router's port towards the host
	Gateway netip.Addr   // the address of that port: the first of the host's subnet
	Anchor  bool         // keep tracking on with an anchor rule (tracked nodes)
	Sysctls []Sysctl     // in the order of the file
}

// Sysctl is a setting below net.
type Sysctl struct{ Name, Value string }

// Port is a service port.
type Port struct {
	Number uint16
	Proto  uint8 // conntrack.UDP or conntrack.TCP
	Target uint16
}

// Cleanup says which stale entries are deleted after a service's rules changed.
type Cleanup string

// The modes of Cleanup that are supported.
const (
	CleanupNone      Cleanup = "none"
	CleanupReconcile Cleanup = "reconcile-current" // kube-proxy since the fix of kubernetes/kubernetes#139628
)

// Service is a VIP that DNAT rules on its nodes turn into one of the backends.
type Service struct {
	Pos      Pos
	Name     string
	On       []string // nodes that get the rules
	VIP      netip.Addr
	Ports    []Port
	Backends []string // nodes
	Balance  string   // "random" or "nth"
	Cleanup  Cleanup
}

// Server is a program that answers; Zone and the rest of its behaviour are the DNS server's defaults.
type Server struct {
	Pos  Pos
	Name string
	On   string
	Port uint16 // DNS over UDP and TCP
}

// Client asks a server from a source port that it keeps for life.
type Client struct {
	Pos        Pos
	Name       string
	On         string
	Control    bool // beside every request one from a fresh port
	Server     string
	To         netip.AddrPort
	Question   string // the name asked for, a fully qualified A question
	SourcePort uint16 // 0: a fresh one each time
	Timeout    time.Duration
	Connected  bool // socket: connected
}

// Kind is what a step does.
type Kind string

// The kinds of steps.
const (
	Query     Kind = "query"
	Restart   Kind = "restart"
	Wait      Kind = "wait"
	SetSysctl Kind = "sysctl"
	Table     Kind = "conntrack"
	Check     Kind = "check"
)

// Death is how a backend goes away.
type Death string

// The deaths that are supported.
const (
	DeathProcess Death = "process" // the process ends, its address lives
	DeathAddress Death = "address" // the process ends and its node's address is gone
)

// Step is one step; only the fields of its kind are set.
type Step struct {
	Pos   Pos
	Index int // counts from 1
	Name  string
	Kind  Kind
	At    *time.Duration // from the start of the first step
	After time.Duration  // from the end of the step before
	Every time.Duration  // start to start
	Want  *Want

	Clients []string // query
	Count   int      // query

	Server string // restart
	On     string // restart: the node on which it comes back
	Death  Death  // restart

	Wait time.Duration // wait

	Nodes   []string          // sysctl, conntrack, check
	Sysctls []Sysctl          // sysctl
	Delete  *checks.EntryWant // conntrack
	Flush   bool              // conntrack
}

// Title is how reports call the step: its kind and what it acts on.
func (s *Step) Title() string {
	switch s.Kind {
	case Query:
		t := "query " + join(s.Clients)
		if s.Count > 1 {
			t += fmt.Sprintf(" %dx", s.Count)
		}
		return t
	case Restart:
		return "restart " + s.Server
	case Wait:
		return "wait " + s.Wait.String()
	case Table:
		if s.Flush {
			return "conntrack " + join(s.Nodes) + " flush"
		}
		return "conntrack " + join(s.Nodes) + " delete"
	}
	return string(s.Kind) + " " + join(s.Nodes)
}

func join(names []string) string {
	out := ""
	for i, n := range names {
		if i > 0 {
			out += ", "
		}
		out += n
	}
	return out
}

// Class is what became of a request.
type Class string

// The classes of results; Lost stands for all but Answered.
const (
	Answered    Class = "answered"
	Timeout     Class = "timeout"
	Refused     Class = "refused"     // ICMP port unreachable
	Unreachable Class = "unreachable" // another ICMP error
	Failed      Class = "error"
)

// Classes lists the classes in the order of reports.
func Classes() []Class { return []Class{Answered, Timeout, Refused, Unreachable, Failed} }

// Number is a wanted number: a range, all of the requests, or a field of a step.
type Number struct {
	Pos    Pos
	Range  checks.Range
	All    bool
	SameAs string // STEP.FIELD[.FIELD], or FIELD of this step
	Text   string // as written
}

// TrafficWant is what a query step demands.
type TrafficWant struct {
	Counts  []CountWant
	By      []ByWant
	Control *TrafficWant // of the control client
}

// CountWant demands a number of results: of a class, or "lost" or "sent".
type CountWant struct {
	Pos  Pos
	What string
	N    Number
}

// ByWant demands which node's server answered: all answers (N.All), or N of them.
type ByWant struct {
	Pos  Pos
	Node string
	N    Number
}

// Want is everything that a step demands; empty parts demand nothing.
type Want struct {
	Pos      Pos
	Traffic  *TrafficWant
	Entries  []PlacedEntry // these are there, others may be
	Table    []PlacedEntry // exactly these
	HasTable bool          // Table was given; an empty one demands an empty table
	RuleHits []RuleHitWant // packets counted by a rule
	Counters []CounterWant // change of conntrack -S since the run began
	Still    bool          // counters: unchanged
	StillPos Pos           // of Still
	Stale    *Number       // how many entries are stale
	Events   []PlacedEvent // in this order, others between
	Deleted  *Number       // entries that a cleanup or a conntrack step deleted
}

// PlacedEntry is a wanted entry and its place in the file.
type PlacedEntry struct {
	Pos  Pos
	Want checks.EntryWant
}

// PlacedEvent is a wanted event and its place in the file.
type PlacedEvent struct {
	Pos  Pos
	Kind conntrack.EventKind
	No   bool // it must not occur
	Want checks.EntryWant
}

// RuleHitWant demands the packet count of a rule; Rule is SERVICE/BACKEND.
type RuleHitWant struct {
	Pos  Pos
	Rule string
	N    Number
}

// CounterWant demands the change of a statistics counter, such as insert-failed.
type CounterWant struct {
	Pos  Pos
	Name string
	N    Number
}

// Node finds a node by name, or returns nil.
func (l *Lab) Node(name string) *Node {
	for _, n := range l.Nodes {
		if n.Name == name {
			return n
		}
	}
	return nil
}

// Service finds a service by name, or returns nil.
func (l *Lab) Service(name string) *Service {
	for _, s := range l.Services {
		if s.Name == name {
			return s
		}
	}
	return nil
}

// Server finds a server by name, or returns nil.
func (l *Lab) Server(name string) *Server {
	for _, s := range l.Servers {
		if s.Name == name {
			return s
		}
	}
	return nil
}

// Client finds a client by name, or returns nil.
func (l *Lab) Client(name string) *Client {
	for _, c := range l.Clients {
		if c.Name == name {
			return c
		}
	}
	return nil
}

// NeedsTable reports whether some part of the want is about a node's table, counters or events.
func (w *Want) NeedsTable() bool {
	return w != nil && (w.HasTable || w.Still || w.Stale != nil || len(w.Entries)+len(w.RuleHits)+len(w.Counters)+len(w.Events) > 0)
}
