// Package play plays the steps of a lab in a world that is given as a Ground: the acts and looks that the
// kernel's world (lab/live) and the simulated one (lab/sim) offer alike. What a restart, a cleanup or a
// check is stands here, once; how a route is deleted or a packet travels stands there.
package play

import (
	"context"
	"net/netip"
	"time"

	"ctlab/checks"
	"ctlab/checks/conntrack"
	"ctlab/lab"
	"ctlab/topology/service"
)

// Ground is a network that a lab asked for, and what can be done with it. Nodes, clients and servers are
// called by their names. Times are counted from the end of Build. Every act on a tracked node is recorded
// by the ground as an input of that node, and every look as a read.
//
// All methods are called from one goroutine. Only what Begin started goes on in the background, while
// other methods run.
type Ground interface {
	// Build makes namespaces, links, addresses (also those on lo), sysctls and the routes of the lab. It
	// loads no rules and starts no program.
	Build(ctx context.Context) (lab.Setting, error)
	// Ready is called when rules are loaded and programs started: the clock begins.
	Ready() error
	Now() time.Duration
	WaitUntil(ctx context.Context, at time.Duration) error
	// Close ends what still runs, takes the network down and hands over the evidence (without Final).
	Close(ctx context.Context) (lab.Evidence, error)

	// Load loads iptables-save text (of IPv6, ip6tables-save text) into a tracked node: as a whole, or with --noflush.
	Load(ctx context.Context, node string, f service.Family, text string, noflush bool) error
	Sysctl(node string, s lab.Sysctl) error
	// Link sets a device up or down, or deletes it ("gone"), with both its ends.
	Link(node, dev, state string) error
	// Address adds an address to a device or removes it. Adding brings no route of a subnet.
	Address(node, dev string, a netip.Prefix, add bool) error
	// Route adds, deletes or replaces a route ("add", "del", "replace").
	Route(node, op string, r lab.Route) error
	// Forget deletes what a node knows of a neighbour, as the kernel does when a device goes.
	Forget(node, dev string, a netip.Addr) error

	// Serve starts a DNS server on a node, at an address and port; the unspecified address means any. It
	// answers every question and says that it runs on the node identity.
	Serve(ctx context.Context, on string, at netip.AddrPort, identity string) (Server, error)

	// Open opens a client's socket, with a source port or (0) a fresh one.
	Open(c *lab.Client, port uint16) (Socket, error)
	// Ask sends one question from each socket at the same moment, and waits for what becomes of all.
	Ask(ctx context.Context, from []Socket) ([]Reply, error)
	// Begin lets a client ask in the background, one question after the other.
	Begin(b Background) (Running, error)

	// Put puts a packet on a wire, and returns it as it was sent when the node at the other end has handled it. One
	// with a free ip-id gets one that no other has.
	Put(ctx context.Context, wire string, p checks.Crafted) (conntrack.Packet, error)
	// Mark is how many packets came to a tracked node and left it so far.
	Mark(node string) int
	// Passed are the packets that came to a tracked node and left it since a mark, in their order.
	Passed(node string, mark int) []lab.Passed
	// Await lets time pass until enough is true, which is asked again whenever packets passed a tracked node, or
	// until the limit.
	Await(ctx context.Context, node string, limit time.Duration, enough func() bool) error

	// Hold lets packets wait on their way through a tracked node, beside those that wait already.
	Hold(node string, h conntrack.Hold) error
	// Unhold lets no further packet wait.
	Unhold(node string) error
	// Held are the packets that wait, in the order of their arrival.
	Held(node string) ([]conntrack.Packet, error)
	// AwaitHeld lets time pass until so many packets wait, or until the limit.
	AwaitHeld(ctx context.Context, node string, n int, limit time.Duration) error
	// Release lets the nth of Held go on, counted from 1, or be dropped.
	Release(node string, nth int, accept bool) error

	// Get reads one entry by its original tuple; nil if there is none.
	Get(node string, t conntrack.Tuple) (*Read, error)
	// Dump reads the whole table.
	Dump(node string) ([]Read, error)
	// Count is the number of entries in the namespace.
	Count(node string) (uint32, error)
	// Delete deletes an entry by its original tuple and id; false if it was gone.
	Delete(node string, e *conntrack.Entry) (bool, error)
	Flush(node string) error
	// Fill makes ASSURED entries, which no packet of the lab is of, until there is no room for any more, and says how
	// many. They make no events.
	Fill(node string) (int, error)
	// Stats are the counters of conntrack -S, since the node was made.
	Stats(node string) (map[string]uint32, error)
	// Hits is the text of iptables-save -c or ip6tables-save -c, without its comment lines.
	Hits(ctx context.Context, node string, f service.Family) (string, error)
	// Events are those of the node so far.
	Events(node string) []conntrack.Event

	// Start starts a program in a node. ErrNotSimulated says that this ground cannot.
	Start(node string, c lab.Command) (Program, error)
	// Listening reports whether a node has a socket at a port, at whatever address.
	Listening(node string, tcp bool, port uint16) (bool, error)
}

// Program is a program that was started.
type Program interface {
	// Done is closed when it has ended, by itself or not.
	Done() <-chan struct{}
	// Stop ends it with everything that it started: by SIGINT and, when the grace is over, at once. It returns when
	// all is gone. What has ended already is none the worse for it.
	Stop(grace time.Duration) error
	// Output is what came of it so far; once it has ended, with its exit code.
	Output() lab.Program
}

// Server is a running server.
type Server interface {
	// Stop ends it at once, as a process that ends does, and says how many questions reached it.
	Stop(ctx context.Context) (asked int, err error)
}

// Socket is a client's open socket.
type Socket interface {
	// Tuple is the original tuple of what is sent from it.
	Tuple() conntrack.Tuple
	Close() error
}

// Reply is what became of one question.
type Reply struct {
	At    time.Duration // when it was sent
	Class lab.Class
	By    string         // who answered, as the server says it
	From  netip.AddrPort // with lab.WrongSource: the address that answered
	Took  time.Duration
	Err   string
}

// Background is a client that asks on its own. It asks again when its last question has an outcome and
// Every has passed since that was sent. With a control socket, each question is accompanied by one from a
// fresh port.
type Background struct {
	Client *lab.Client
	Socket Socket                                         // nil: a fresh one for each question
	Every  time.Duration                                  // 0: as soon as there is an outcome
	Count  int                                            // 0: until it is stopped
	Sent   func(t conntrack.Tuple, r Reply, control bool) // called for each question when it has its outcome; one call at a time, but perhaps while another method runs
}

// Running is a client in the background.
type Running interface {
	// Stop lets no further question begin and waits for the outcome of the last one.
	Stop(ctx context.Context) error
}

// Read is an entry that was read, and when.
type Read struct {
	At    time.Duration
	Entry conntrack.Entry
}
