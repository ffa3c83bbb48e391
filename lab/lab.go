// Package lab is the lab language and its runner: it reads a lab file, says everything that is wrong
// with it at once, and plays its steps in a World. It is pure; the kernel's world is lab/live.
package lab

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"ctlab/checks"
	"ctlab/checks/conntrack"
	"ctlab/topology/service"
)

// Pos is a place in a lab file; lines and columns count from 1, columns in characters.
type Pos struct {
	File      string
	Line, Col int
}

// String is FILE:LINE:COL, which editors jump to; it can be printed, whatever the file is called.
func (p Pos) String() string { return fmt.Sprintf("%s:%d:%d", Escape(p.File), p.Line, p.Col) }

// Lab is a validated lab: every name in it exists, every address is resolved. It does not change.
type Lab struct {
	File      string
	Name      string
	About     string
	Says      []string // what users say
	Why       string   // the mechanism
	Refs      []string
	SkipModel string // why the model takes no part, or ""
	Exclusive bool   // no other lab is played beside it
	Needs     Needs
	Variant   string // the variant that was applied, or ""
	Nodes     []*Node
	Services  []*Service
	Servers   []*Server
	Clients   []*Client
	Steps     []*Step
	Variants  []Variant
}

// Needs is what a machine must have so that the lab can be played there; else it is skipped, by name.
type Needs struct {
	Programs []string // names, as they are looked for in PATH
}

// Command is a program and its arguments; no shell reads it.
type Command struct {
	Argv []string
	// Files are written to a folder of its own, in which the program then runs. Without any it runs where ctlab does.
	Files []File
}

// File is a file that a program finds in its folder.
type File struct{ Name, Text string }

// Ready says when a server's program is ready: when a line of its output has a text in it, or else when its node has a
// socket at a port.
type Ready struct {
	Line string
	Port uint16
	TCP  bool
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
	Router  bool           // kind: router; it forwards and is tracked
	Wire    bool           // kind: wire; a link end without a stack, for packets by hand
	Silent  bool           // of a wire: it answers no ARP
	Address netip.Prefix   // of a host's eth0; invalid on a router
	Also    []netip.Prefix // further addresses of a host's eth0, behind the first
	Local   []netip.Prefix // addresses on lo
	Uplink  string         // the router that the host hangs on
	Port    string         // the name of the router's port towards the host
	Gateway netip.Addr     // the address of that port: the first of the host's subnet
	// OtherGateway is that of the first address in Also whose family is not Address's; invalid without one.
	OtherGateway netip.Addr
	Anchor       bool     // keep tracking on with an anchor rule (tracked nodes)
	Sysctls      []Sysctl // in the order of the file
	Routes       []Route  // besides those that its links bring
	Rules        []Rules  // the lab's own iptables rules (tracked nodes), in the order of the file
	Rules6       []Rules  // and its ip6tables rules
}

// Route is a route of a node's main table. Dev is always known; without a Via the destination is on the
// link.
type Route struct {
	Pos Pos
	To  netip.Prefix
	Via netip.Addr
	Dev string
}

// String is the route as `ip route` takes it.
func (r Route) String() string {
	to := r.To.String()
	if r.To.Bits() == 0 {
		to = "default"
	}
	if r.Via.IsValid() {
		return to + " via " + r.Via.String() + " dev " + r.Dev
	}
	return to + " dev " + r.Dev
}

// Rules are a named text of iptables rules: what iptables-save prints, or lines as typed after iptables
// (topology/service says how they are merged with those of services). A text without a name has "rules".
type Rules struct {
	Pos  Pos
	Name string
	Text string
}

// Sysctl is a setting below net.
type Sysctl struct {
	Name, Value string
	Pos         Pos
}

// Port is a service port.
type Port struct {
	Name     string
	Number   uint16
	Proto    uint8 // conntrack.UDP or conntrack.TCP
	Target   uint16
	NodePort uint16 // 0: none
}

// Cleanup says which stale entries are deleted when a service's backends change, and when.
type Cleanup struct {
	Mode         service.Mode
	CleanupFirst bool          // order: cleanup-first; else the rules change first
	Delay        time.Duration // between the two
}

// Service is a VIP that DNAT rules on its nodes turn into one of the backends.
type Service struct {
	Pos             Pos
	Name            string
	On              []string // nodes that get the rules
	VIP             netip.Addr
	Ports           []Port
	Backends        []string // nodes
	Style           service.Style
	Balance         string        // "random" or "nth"
	Empty           service.Empty // what becomes of packets while there is no backend
	Masquerade      service.Masquerade
	ExternalIPs     []netip.Addr
	LoadBalancerIPs []netip.Addr
	Cleanup         Cleanup
}

// Server is a program that answers; Zone and the rest of its behaviour are the DNS server's defaults.
type Server struct {
	Pos     Pos
	Name    string
	On      string
	Listen  netip.Addr // invalid: the address of the node on which it runs, wherever that is; unspecified: any address
	Port    uint16     // DNS over UDP and TCP
	Stopped bool       // autostart: false
	Exec    *Command   // a program; nil: the built-in DNS server
	Ready   Ready      // of a program
}

// Client asks a server from a source port that it keeps for life.
type Client struct {
	Pos        Pos
	Name       string
	On         string
	Control    bool // beside every request one from a fresh port
	Server     string
	To         netip.AddrPort
	Question   string // the name asked for, fully qualified
	AAAA       bool   // the question is of type AAAA; else A
	SourcePort uint16 // 0: a fresh one each time
	Timeout    time.Duration
	Connected  bool       // socket: connected
	RecvErr    bool       // IP_RECVERR: the socket is told of every ICMP error
	Source     netip.Addr // of the socket; invalid: as the route has it
	Exec       *Command   // a program that asks, in place of all that is about questions
}

// Kind is what a step does.
type Kind string

// The kinds of steps.
const (
	Query       Kind = "query"
	Start       Kind = "start" // clients ask in the background; servers start
	Stop        Kind = "stop"
	Restart     Kind = "restart"
	SetBackends Kind = "backends"
	SetRules    Kind = "rules"
	SetSysctl   Kind = "sysctl"
	SetLink     Kind = "link"
	SetAddress  Kind = "address"
	SetRoute    Kind = "route"
	Table       Kind = "conntrack"
	PutPacket   Kind = "packet"
	Hold        Kind = "hold"
	Release     Kind = "release"
	Wait        Kind = "wait"
	Exec        Kind = "exec"
	Check       Kind = "check"
)

// Death is how a backend goes away.
type Death string

// The deaths.
const (
	DeathProcess Death = "process" // the process ends, its address lives
	DeathAddress Death = "address" // and its node's address is gone
	DeathRoute   Death = "route"   // and its node's link and the router's route to it are gone
	DeathDrop    Death = "drop"    // and a rule in FORWARD drops what goes to its node's address
	DeathReuse   Death = "reuse"   // and another node has been given the address
)

// Step is one step; only the fields of its kind are set.
type Step struct {
	Pos      Pos
	Index    int // counts from 1, repetitions included
	Name     string
	Kind     Kind
	At       *time.Duration // from the start of the first step
	After    time.Duration  // from the end of the step before
	Behind   time.Duration  // from the start of the step before (a repetition with every); its end is waited for too
	Every    time.Duration  // start to start, of the requests of clients
	Within   time.Duration  // all wants must become true at one moment in this time; 0: at once
	Always   time.Duration  // all wants must hold whenever they are looked at during this time; 0: once
	Deadline time.Duration  // bounds the step itself; 0: none of its own
	Want     *Want

	Clients []string // query, start, stop
	Count   int      // query: requests of each client; start: 0 until it is stopped

	Servers  []string // start, stop
	Server   string   // restart
	On       string   // restart: the node on which it comes back; packet: the wire; wait: the node
	Death    Death    // restart, stop of a server
	Reuse    string   // with DeathReuse: the node that gets the address
	NoFollow bool     // restart: follow: false, services keep their backends

	Service          string   // backends
	Set, Add, Remove []string // backends: nodes; Set counts if HasSet
	HasSet           bool

	Packet *checks.Crafted // packet; it is put on the wire On
	Text   string          // packet, and match of hold: as it is written

	Hold    conntrack.Hold // hold: which packets wait on Nodes[0], and where
	Packets int            // release: how many must wait
	Order   []int          // release: by the numbers of arrival, from 1; none: all as they came
	Drop    bool           // release: verdict: drop

	Wait    time.Duration      // wait
	Awaited *checks.PacketWant // wait: a packet towards the node On, or one that comes to it if it is a router

	Nodes   []string          // sysctl, conntrack, check; the one node of rules, link, address, route, exec
	Sysctls []Sysctl          // sysctl
	Delete  *checks.EntryWant // conntrack
	Flush   bool              // conntrack
	Fill    bool              // conntrack: with ASSURED entries, until there is no room

	Change     string  // rules: lines as typed after iptables
	Replace    []Rules // rules: the lab's own rules from now on; counts if HasReplace
	HasReplace bool
	Family     service.Family // rules: whose, iptables' or ip6tables'

	Dev                    string         // link, address: the device on the node
	LinkState              string         // link: "up", "down" or "gone"
	AddAddress, DelAddress []netip.Prefix // address
	RouteOp                string         // route: "add", "del" or "replace"
	Routes                 []Route        // route

	Command Command // exec

	Since string // stop, check: the step behind which counting begins
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
	case Start, Stop:
		return string(s.Kind) + " " + join(append(append([]string(nil), s.Clients...), s.Servers...))
	case Restart:
		return "restart " + s.Server
	case SetBackends:
		return "backends " + s.Service
	case PutPacket:
		return "packet " + s.Text
	case Hold:
		return "hold " + join(s.Nodes) + " " + s.Text
	case Wait:
		if s.Awaited != nil {
			return "wait " + s.Awaited.Text + " on " + s.On
		}
		return "wait " + s.Wait.String()
	case Exec:
		return "exec " + join(s.Command.Argv)
	case SetLink:
		return "link " + join(s.Nodes) + ":" + s.Dev + " " + s.LinkState
	case Table:
		if s.Flush {
			return "conntrack " + join(s.Nodes) + " flush"
		}
		if s.Fill {
			return "conntrack " + join(s.Nodes) + " fill"
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
	Answered     Class = "answered"
	Timeout      Class = "timeout"
	Refused      Class = "refused"       // ICMP port unreachable
	Unreachable  Class = "unreachable"   // another ICMP error
	NotPermitted Class = "not-permitted" // EPERM: a rule or the table of the client's own node refused the packet
	WrongSource  Class = "wrong-source"  // an answer from an address that was not asked
	Failed       Class = "error"
)

// Classes lists the classes in the order of reports.
func Classes() []Class {
	return []Class{Answered, Timeout, Refused, Unreachable, NotPermitted, WrongSource, Failed}
}

// Number is a wanted number: a range, all of the requests, or a field of a step.
type Number struct {
	Pos    Pos
	Range  checks.Range
	All    bool
	SameAs string // STEP.FIELD[.FIELD], or FIELD of this step
	Text   string // as written
}

// TrafficWant is what a step demands of the requests that it judges.
type TrafficWant struct {
	Counts  []CountWant
	By      []ByWant
	Control *TrafficWant // of the control clients
	Each    *TrafficWant // of each client by itself
	Clients []ClientsWant
	Latency []TimeWant // of answered requests: p50, p99, max
	Outage  *TimeWant  // the longest time without an answer
}

// ClientsWant demands which clients had all of their requests end as a class, or answered by a node
// (What is "by.NODE"): Names, or the same ones as SameAs says (STEP.clients.WHAT).
type ClientsWant struct {
	Pos    Pos
	What   string
	Names  []string
	SameAs string
}

// TimeWant demands a time; What is "p50", "p99", "max" or "outage".
type TimeWant struct {
	Pos      Pos
	What     string
	Min, Max time.Duration // Max below 0: no upper end
	Text     string
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
	Pos            Pos
	Traffic        *TrafficWant
	Entries        []PlacedEntry // these are there, others may be
	Table          []PlacedEntry // exactly these
	HasTable       bool          // Table was given; an empty one demands an empty table
	RuleHits       []RuleHitWant // packets counted by a rule
	Counters       []CounterWant // change of conntrack -S since the last check of the node, or since the step began
	Still          bool          // counters: unchanged
	StillPos       Pos           // of Still
	Stale          *Number       // how many entries are stale
	Events         []PlacedEvent // in this order, others between
	Packet         *PacketWant   // of a packet step
	Deleted        *Number       // entries that a cleanup or a conntrack step deleted
	Exit           *Number       // exec: the exit code
	Stdout, Stderr *OutputWant   // exec
}

// OutputWant is what an exec step demands of a stream.
type OutputWant struct {
	Pos   Pos
	Has   []string // each is in it
	Lines *Number
}

// PlacedEntry is a wanted entry and its place in the file. With Times it says how many, in place of the
// line's own number.
type PlacedEntry struct {
	Pos   Pos
	Want  checks.EntryWant
	Times *Number
}

// PlacedEvent is a wanted event and its place in the file.
type PlacedEvent struct {
	Pos  Pos
	Kind conntrack.EventKind
	No   bool // it must not occur
	Want checks.EntryWant
}

// RuleHitWant demands the packet count of a rule; Rule is SERVICE/BACKEND, SERVICE/reject, or NAME or
// NAME.N of the lab's own rules: all of a text's, or its Nth.
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

// Fills reports whether a step fills a table.
func (l *Lab) Fills() bool {
	return slices.ContainsFunc(l.Steps, func(s *Step) bool { return s.Fill })
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

// Listens are the endpoints at which a server answers while it runs on a node: the address that it was given; where that
// is any, any of each family that the node has; else the node's first address of each family, or a router's only one.
func (l *Lab) Listens(s *Server, on string) []netip.AddrPort {
	var out []netip.AddrPort
	at := func(a netip.Addr) { out = append(out, netip.AddrPortFrom(a, s.Port)) }
	n := l.Node(on)
	switch {
	case s.Listen.IsValid() && !s.Listen.IsUnspecified():
		at(s.Listen)
		return out
	case n == nil:
		return nil
	}
	for _, f := range Families() {
		switch {
		case s.Listen.IsValid() && l.Speaks(n, f):
			at(anyAddress(f))
		case s.Listen.IsValid():
		case n.AddressIn(f).IsValid():
			at(n.AddressIn(f).Addr())
		}
	}
	for _, h := range l.Nodes {
		if !s.Listen.IsValid() && h.Uplink == on && len(out) == 0 {
			at(h.Gateway)
		}
	}
	return out
}

// anyAddress is the unspecified address of a family.
func anyAddress(f service.Family) netip.Addr {
	if f == service.IPv6 {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}

// NeedsTable reports whether some part of the want is about a node's table, counters or events.
func (w *Want) NeedsTable() bool {
	return w != nil && (w.HasTable || w.Still || w.Stale != nil || len(w.Entries)+len(w.RuleHits)+len(w.Counters)+len(w.Events) > 0)
}
