package lab

import (
	"context"
	"fmt"
	"net/netip"
	"syscall"
	"time"

	"ctlab/checks/conntrack"
	"ctlab/checks/model"
	"ctlab/checks/trace"
)

// World plays a lab's steps. lab/play is its one implementation; what differs between the kernel
// (lab/live) and the simulated network (lab/sim) lies below that. All times are counted from the start of
// the first step.
type World interface {
	// Build makes the network, starts the servers and opens the clients' sockets.
	Build(ctx context.Context) (Setting, error)
	// Now is the time since the first step began.
	Now() time.Duration
	// WaitUntil waits for a moment.
	WaitUntil(ctx context.Context, at time.Duration) error
	// Do plays one step. An Outcome may come with an error: it holds what there was before it.
	Do(ctx context.Context, s *Step) (Outcome, error)
	// Look takes the step's snapshots once more, into its outcome (within, always).
	Look(ctx context.Context, s *Step, out *Outcome) error
	// Close ends background traffic, reads everything once more, takes the network down and hands over the
	// evidence. It must be called after Build, also if that failed.
	Close(ctx context.Context) (Evidence, error)
}

// Setting says where a lab is played.
type Setting struct {
	Kernel    string   // release
	Iptables  string   // version
	Profile   string   // of the model
	Probed    string   // what probing found
	Ordinary  bool     // not as root of the machine, but in a user namespace
	Limits    []string // what the recording has to do without, for want of privileges or of the kernel
	Nodes     int
	Took      time.Duration // of Build
	Simulated bool          // predicted on virtual time; nothing was asked of a kernel
	Seed      uint64        // of what is free, in a simulated world
}

// Outcome is what came of a step.
type Outcome struct {
	Began, Ended time.Duration
	Attempts     []Attempt
	Restarted    *Restarted
	Deleted      []Deleted  // by a cleanup or a conntrack step
	Filled       int        // by a conntrack step
	Snapshots    []Snapshot // check, and steps whose wants are about tables
	Programs     []Program  // what programs did: of an exec step, or of clients that are programs
	Sent         []Sent     // packets that were put on wires
	Awaited      *Passed    // wait: the packet that came; nil if none did
	Released     []Released // packets that waited, in the order in which they were released
	NotPlayed    string     // why this world cannot play the step; its wants are not judged
}

// Sent is a packet that was put on a wire.
type Sent struct {
	Wire    string
	Node    string // the tracked node at the other end of the wire
	Dev     string // and its device there
	At      time.Duration
	Packet  conntrack.Packet
	Passed  []Passed       // what came to the node and left it from then on, until the step was over
	Entry   *Seen          // the packet's entry behind the step, where a want is about it; nil if there was none
	Outcome *model.Outcome // what became of it, as the model says; nil as long as the model was not asked
}

// Released is a packet that waited on its way through a node and was released.
type Released struct {
	Node    string
	Number  int // by its arrival, from 1
	Packet  conntrack.Packet
	Dropped bool
}

// Passed is a packet that came to a tracked node, or left it.
type Passed struct {
	At     time.Duration
	Dev    string
	Out    bool
	Packet conntrack.Packet
}

// Left are the packets that left because of the one that was sent: itself, perhaps changed, or errors about it.
func (s *Sent) Left() []Passed {
	var out []Passed
	for _, p := range s.Passed {
		if p.Out && s.leads(&p.Packet) {
			out = append(out, p)
		}
	}
	return out
}

// leads reports whether a packet that left is the one that was sent, or an error of the node's own about it: the
// identification of the IP header is never changed on the way.
func (s *Sent) leads(p *conntrack.Packet) bool {
	if p.Proto == s.Packet.Proto && p.ID == s.Packet.ID {
		return true
	}
	return p.About != nil && p.About.Proto == s.Packet.Proto && p.About.ID == s.Packet.ID
}

// Deleted is an entry that was deleted. Healthy says that the rules, as they are behind the step, could
// still give its binding: deleting it was harm done.
type Deleted struct {
	Node    string
	Entry   conntrack.Entry
	Healthy bool
}

// Program is a program that ran, and what came of it.
type Program struct {
	Client         string // "" for an exec step
	Node           string
	At, Took       time.Duration
	Exit           int // 128 and more: the signal that ended it
	Stdout, Stderr string
}

// signalled is what shells add to the number of a signal that ended a program.
const signalled = 128

// Ending is the exit code in words, with the signal that it stands for.
func (p *Program) Ending() string {
	if n := p.Exit - signalled; n > 0 && n <= int(lastSignal) {
		return fmt.Sprintf("exit %d (%s)", p.Exit, syscall.Signal(n))
	}
	return fmt.Sprintf("exit %d", p.Exit)
}

// lastSignal is the last of those that are the same on all systems by number and name.
const lastSignal = syscall.SIGTERM

// Attempt is one request of a client and what became of it.
type Attempt struct {
	Client     string
	Number     int // of the client's requests in this run, from 1
	Control    bool
	Node       string // the tracked node on its way
	Tuple      conntrack.Tuple
	At         time.Duration
	Class      Class
	By         string         // the node of the server that answered
	From       netip.AddrPort // with WrongSource: who answered
	Background bool           // of a started client
	Took       time.Duration
	Err        string
	Before     *Seen // the flow's entry just before sending; nil if there was none
	After      *Seen // and after the outcome
}

// Seen is an entry that was read.
type Seen struct {
	At    time.Duration
	Entry conntrack.Entry
	Stale bool          // the present rules could not give its first packet this binding
	Age   time.Duration // since the flow's last packet was sent, or below 0 if unknown
}

// Restarted is what a restart did.
type Restarted struct {
	Server, From, To string
	Death            Death
	Reuse            string   // who has the address now
	Services         []string // whose rules were replaced
	Cleanup          Cleanup
}

// Snapshot is a node's table, counters and events at a check.
type Snapshot struct {
	Node    string
	At      time.Duration
	Entries []Seen
	Hits    map[string]uint64 // packets by rule comment
	Stats   map[string]uint32 // counters of conntrack -S, since the node was made
	Since   map[string]uint32 // the same, since the last check of the node or since the step began
	Events  []conntrack.Event // since the node was made
}

// Evidence is what is left when the network is gone.
type Evidence struct {
	Traces  []trace.Trace
	Final   []Snapshot     // the last read of each tracked node
	Asked   map[string]int // questions that reached each built-in server, by the node on which it ran
	Servers []Program      // servers that are programs, in the order in which they ended; Client is the server's name
	Waits   time.Duration  // time that the script waited: pauses, and outcomes of requests
	Taken   []Phase        // where ctlab's own time went
	Margins []Margin       // of a simulated world: what came near a boundary
}

// Margin is something that came within 50 ms of a boundary, so that a world with real time may see it
// on the other side.
type Margin struct {
	At   time.Duration
	Node string
	What string        // such as "udp app:40053 > kube-dns:53: is it older than 2 s?"
	Off  time.Duration // how far from the boundary; below 0 before it
}

// Phase is a part of ctlab's own time.
type Phase struct {
	Name string
	Took time.Duration
}
