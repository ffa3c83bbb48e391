package model

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"ctlab/checks/conntrack"
)

// neighState says whether packets to a next hop can leave. Until it is resolved they wait, and hold
// their entries; when resolution fails each is answered with host unreachable (arp_error_report).
type neighState struct {
	resolved bool
	queue    []queued
}

type queued struct {
	out  Left
	ct   *entry
	dir  ctInfo
	from conntrack.Span
	in   string // the device on which it came, or ""
}

// GivenUp is a packet that waited for a neighbour in vain, as it would have left, and what became of it.
type GivenUp struct {
	Packet  conntrack.Packet
	Outcome Outcome
}

// maxQueue is how many packets may wait for a neighbour before the kernel begins to drop them
// (unres_qlen_bytes, 212,992 bytes of buffers of some 2.3 KiB each); beyond, the model does not follow.
const maxQueue = 80

// output hands a packet to its neighbour, in fragments if it is too long. It leaves if the neighbour is resolved.
func (n *Namespace) output(w *walk) {
	if w.out == loopback {
		n.loop(w)
		return
	}
	for _, p := range n.fragments(w) {
		n.finishOutput(w, p)
	}
}

// finishOutput is ip_finish_output2, for a packet or each of its fragments.
func (n *Namespace) finishOutput(w *walk, p conntrack.Packet) {
	out := Left{Dev: w.out, Packet: p, Own: w.local}
	s := n.neighState(w.out, w.hop)
	if s.resolved {
		w.say("ip_finish_output2", "leaves on "+w.out)
		w.lefts = append(w.lefts, out)
		return
	}
	w.say("ip_finish_output2", "waits for the neighbour "+w.hop.String()+" on "+w.out)
	s.queue = append(s.queue, queued{out, w.ct, w.info, w.at, w.in})
	if w.ct != nil {
		w.ct.held++
	}
	if len(s.queue) > maxQueue {
		n.notModelled("more than %d packets wait for neighbour %s", maxQueue, w.hop)
	}
}

func (n *Namespace) neighState(dev string, a netip.Addr) *neighState {
	k := Neighbour{dev, a}
	if n.neigh[k] == nil {
		n.neigh[k] = &neighState{}
	}
	return n.neigh[k]
}

// Resolved says that a neighbour announced itself on a device, by an ARP answer or by its own request.
// What waited for it leaves.
func (n *Namespace) Resolved(dev string, a netip.Addr) []Left {
	s := n.neighState(dev, a)
	s.resolved = true
	var out []Left
	for _, q := range s.queue {
		q.release()
		q.out.Why = "the neighbour answered"
		out = append(out, q.out)
	}
	s.queue = nil
	return out
}

// Lost says that a neighbour was given up (nobody answered) or deleted. What waited for it is answered
// with host unreachable (arp_error_report), its sender over lo if that is the namespace itself.
func (n *Namespace) Lost(at conntrack.Span, dev string, a netip.Addr) []GivenUp {
	n.now = at
	s := n.neighState(dev, a)
	s.resolved = false
	waiting := s.queue
	s.queue = nil
	var out []GivenUp
	for _, q := range waiting {
		p := q.out.Packet
		w := &walk{at: at, p: &p, owned: true, local: q.out.Own, ct: q.ct, info: q.dir, in: q.in}
		w.drop("arp_error_report", "no answer from the neighbour "+a.String())
		n.tell(w, hostUnreachable)
		for i := range w.lefts {
			w.lefts[i].Late = true
			w.lefts[i].Why = "no answer from the neighbour " + a.String()
		}
		out = append(out, GivenUp{q.out.Packet, w.outcome(n)})
		q.release()
	}
	return out
}

// Neighbour is a next hop on a device.
type Neighbour struct {
	Dev  string
	Addr netip.Addr
}

// Unresolved are the neighbours for which packets wait, in order.
func (n *Namespace) Unresolved() []Neighbour {
	return slices.DeleteFunc(sortedNeighbours(n.neigh), func(k Neighbour) bool { return len(n.neigh[k].queue) == 0 })
}

func sortedNeighbours(m map[Neighbour]*neighState) []Neighbour {
	return slices.SortedFunc(maps.Keys(m), func(a, b Neighbour) int {
		return cmp.Or(strings.Compare(a.Dev, b.Dev), a.Addr.Compare(b.Addr))
	})
}

func (q queued) release() {
	if q.ct != nil {
		q.ct.held--
	}
}

// Waiting is how many packets wait for neighbours.
func (n *Namespace) Waiting() int {
	sum := 0
	for _, s := range n.neigh {
		sum += len(s.queue)
	}
	return sum
}
