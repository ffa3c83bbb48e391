//go:build linux

package live

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	"ctlab/checks/conntrack"
	"ctlab/checks/kernel"
	"ctlab/checks/observe"
	"ctlab/checks/trace"
	"ctlab/topology"
)

// recorder keeps everything that goes into a tracked node and everything that is seen of it, in
// nanoseconds; ticks are put in at the end, when the clock is known best.
type recorder struct {
	mu     sync.Mutex
	recs   []raw
	losses []loss
	probes []probe
	errors []int64             // when the node itself said that a host is unreachable
	marks  map[string][]int64  // by device, when it had handled all that came before (see Ground.handled)
	held   map[packetKey]int64 // when a packet was known to wait at a hold
	lost   []string
}

// probe is an ARP request, or a neighbour solicitation, of the node's own.
type probe struct {
	at   int64
	dev  string
	addr netip.Addr
}

// raw is a record before its ticks are known.
type raw struct {
	at, took   int64 // when, and for how long; records are ordered by at
	from, to   int64 // within which the kernel acted
	kind       trace.Kind
	args, text string
}

func (r *recorder) add(rec raw) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.recs = append(r.recs, rec)
}

// did records something that ctlab did itself, between two readings of the clock. It happened at some
// moment in between.
func (r *recorder) did(at kernel.Moment, kind trace.Kind, args, text string) {
	r.add(raw{at: at.From, took: at.To - at.From, from: at.From, to: at.To, kind: kind, args: args, text: text})
}

// counted records a reading of counters, which like an act took its time.
func (r *recorder) counted(at kernel.Moment, kind trace.Kind, args, text string) {
	r.did(at, kind, args, text)
}

// called records a call on a socket of the node's own. Its place is before the call: what is seen of it
// comes behind.
func (r *recorder) called(at kernel.Moment, kind trace.Kind, args string) {
	r.add(raw{at: at.From, from: at.From, to: at.To, kind: kind, args: args})
}

// saw records an observation, whose place is at order: what a read found stands where the read had ended,
// behind the packets that came meanwhile.
func (r *recorder) saw(at kernel.Moment, order int64, kind trace.Kind, args, text string) {
	r.add(raw{at: order, from: at.From, to: at.To, kind: kind, args: args, text: text})
}

func (r *recorder) lose(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lost = append(r.lost, fmt.Sprintf(format, args...))
}

// frames turns what the tap saw into packets that came, packets that left, and neighbours that announced
// themselves.
func (r *recorder) frames(frames []observe.Frame, devices map[int]string, own map[netip.Addr]bool) {
	for _, f := range frames {
		dev, ok := devices[f.Ifindex]
		if !ok {
			continue // lo
		}
		rec := raw{at: f.At, from: f.At, to: f.At}
		if f.Discovery != nil { // rules count it
			first := rec
			first.kind, first.args = trace.Packet, trace.PacketArgs(dev, f.Discovery)
			if f.Out {
				first.kind = trace.Discover
			}
			r.add(first)
		}
		switch {
		case f.Packet != nil && f.Out:
			rec.kind, rec.args = trace.Left, trace.PacketArgs(dev, f.Packet)
			if isHostUnreachable(f.Packet) {
				r.errors = append(r.errors, f.At)
			}
		case f.Packet != nil:
			rec.kind, rec.args = trace.Packet, trace.PacketArgs(dev, f.Packet)
		case f.ARP != nil && !f.Out && isLinkLocal(f.ARP.Sender):
			continue
		case f.ARP != nil && !f.Out && isMark(f.ARP):
			if r.marks == nil {
				r.marks = map[string][]int64{}
			}
			r.marks[dev] = append(r.marks[dev], f.At)
			continue
		case f.ARP != nil && !f.Out && own[f.ARP.Target] && f.ARP.Sender.IsValid() && !f.ARP.Sender.IsUnspecified():
			rec.kind, rec.args = trace.ARP, dev+" "+f.ARP.Sender.String()
		case f.ARP != nil && f.Out && !f.ARP.Reply:
			r.probes = append(r.probes, probe{f.At, dev, f.ARP.Target})
			continue
		default:
			continue
		}
		r.add(rec)
	}
}

// ctinfos turns what was attached to packets into records.
func (r *recorder) ctinfos(seen []observe.CTInfo, devices map[int]string) {
	for _, c := range seen {
		dev, ok := devices[c.Ifindex]
		if c.Ifindex == loopbackIndex {
			dev, ok = topology.Loopback, true
		}
		if ok || c.Ifindex == 0 {
			r.add(raw{at: c.At, from: c.At, to: c.At, kind: trace.CTInfo, args: trace.CTInfoArgs(dev, &c.Packet, c.CT)})
		}
	}
}

// loopbackIndex is the index of lo in every namespace (LOOPBACK_IFINDEX in include/net/flow.h).
const loopbackIndex = 1

// isLinkLocal reports whether an address is one that IPv6 has on each link for itself: no packet is routed to it, so that
// it does not matter whether that neighbour is known.
func isLinkLocal(a netip.Addr) bool { return a.Is6() && a.IsLinkLocalUnicast() }

// isHostUnreachable reports whether a packet says that a neighbour did not answer: ICMP host unreachable, ICMPv6 address
// unreachable.
func isHostUnreachable(p *conntrack.Packet) bool {
	return p.Proto == conntrack.ICMP && p.ICMPType == 3 && p.ICMPCode == 1 || p.Proto == conntrack.ICMPv6 && p.ICMPType == 1 && p.ICMPCode == 3
}

func (r *recorder) events(heard []kernel.Heard) {
	for _, h := range heard {
		r.add(raw{at: h.At, from: h.At, to: h.At, kind: trace.Event, args: h.Event.String()})
	}
}

// loss is an act by which the kernel forgets neighbours: one, or all of a device.
type loss struct {
	at   kernel.Moment
	dev  string
	addr netip.Addr // invalid: all
	late bool       // the kernel does it later, from a work queue
}

// forgot says that an act of ctlab's own made the kernel forget neighbours.
func (r *recorder) forgot(l loss) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.losses = append(r.losses, l)
}

// echoDelay bounds how long after an act the kernel's word of a neighbour that was lost by it is heard. A
// loss of another cause takes longer: three probes, a second each. A device whose other end went down is
// looked after by a work queue, at most once a second (net/core/link_watch.c).
const echoDelay = 2 * time.Second

// A neighbour is given up retransTime after the last of its probes, at the earliest (neigh_timer_handler in
// net/core/neighbour.c; net.ipv4.neigh.DEV.retrans_time_ms, less a tick of its clock). The kernel's word of
// that is heard some hundred microseconds later, or when a busy machine comes round to it.
const (
	retransTime = time.Second - 10*time.Millisecond
	wordDelay   = 500 * time.Millisecond
	errorDelay  = 10 * time.Millisecond // between giving up and the first error, on a machine that stalls
)

// lostWhen is when the kernel may have given up a neighbour, of which it was heard at the given moment. What
// waited for the neighbour is answered with host unreachable, which leaves like any packet some microseconds
// later: where the node sent one meanwhile, it bounds that time as the leaving of a packet bounds its own.
func (r *recorder) lostWhen(dev string, a netip.Addr, heard int64) (from, to int64) {
	from, to = 0, heard
	for _, p := range r.probes {
		if at := p.at + int64(retransTime); p.dev == dev && p.addr == a && at <= heard {
			from = max(from, at)
		}
	}
	if from == 0 { // nobody asked for it
		from = heard - int64(wordDelay)
	}
	for _, e := range r.errors {
		if e >= from && e <= to {
			return max(from, e-int64(errorDelay)), e
		}
	}
	return from, to
}

// neighbours turns the kernel's word that neighbours were lost into records. It is heard late; what
// ctlab itself did is put where that was.
func (r *recorder) neighbours(lost []observe.NeighbourLost, devices map[int]string) {
	for _, n := range lost {
		dev, ok := devices[n.Ifindex]
		if !ok || isLinkLocal(n.Addr) {
			continue
		}
		from, to := r.lostWhen(dev, n.Addr, n.At)
		rec := raw{at: from, took: to - from, from: from, to: to, kind: trace.Neigh, args: dev + " " + n.Addr.String()}
		for _, l := range r.losses {
			if l.dev != dev || l.addr.IsValid() && l.addr != n.Addr || n.At < l.at.From || n.At-l.at.From > int64(echoDelay) {
				continue
			}
			rec.at, rec.from, rec.to = l.at.From, l.at.From, l.at.To
			if l.late {
				rec.to = n.At
			}
			rec.took = rec.to - rec.from
		}
		r.add(rec)
	}
}

// trace puts the records in order and gives them their ticks. epoch is time 0.
func (r *recorder) trace(h trace.Header, ticks observe.Ticks, epoch int64) trace.Trace {
	r.mu.Lock()
	defer r.mu.Unlock()
	sort.SliceStable(r.recs, func(i, j int) bool { return r.recs[i].at < r.recs[j].at })
	r.dropRepeated()
	r.bound()
	h.Lost = append(h.Lost, r.lost...)
	t := trace.Trace{Header: h}
	for _, rec := range r.recs {
		t.Records = append(t.Records, trace.Record{
			At:   time.Duration(rec.at - epoch).Round(time.Microsecond),
			Took: time.Duration(rec.took).Round(time.Microsecond),
			Span: ticks.Between(rec.from, rec.to),
			Kind: rec.kind, Args: rec.args, Text: rec.text,
		})
	}
	return t
}

// dropRepeated leaves out what says nothing new of a neighbour: announcements while it is known, and the
// kernel's word that it is lost right after ctlab itself deleted it.
func (r *recorder) dropRepeated() {
	const sameLoss = 100 * time.Millisecond
	known, lostAt := map[string]bool{}, map[string]int64{}
	r.recs = slices.DeleteFunc(r.recs, func(rec raw) bool {
		switch rec.kind {
		case trace.Link: // one that goes down forgets its neighbours, whether or not the word of that is heard
			if dev, state, _ := strings.Cut(rec.args, " "); state != "up" {
				maps.DeleteFunc(known, func(args string, _ bool) bool { return strings.HasPrefix(args, dev+" ") })
			}
		case trace.ARP:
			if known[rec.args] {
				return true
			}
			known[rec.args] = true
		case trace.Neigh:
			at, lost := lostAt[rec.args]
			if lost && !known[rec.args] && rec.at-at < int64(sameLoss) {
				return true
			}
			known[rec.args], lostAt[rec.args] = false, rec.at
		}
		return false
	})
}

// actDelay is how long after its stamp a packet that never leaves may be on its way through the hooks.
// From the stamp to the stamp of leaving it took 26 us (median), 140 us (one of a hundred) and at most
// 280 us in some 1,000 packets on a virtual machine with two cores, idle and busy.
const actDelay = 500 * time.Microsecond

// waitDelay is how long a packet may be on its way that did not have to wait: the processor of an emulated machine may be
// taken away in the middle: 212 ms were seen. Beyond that it is another packet, with an identification that came again.
const waitDelay = 250 * time.Millisecond

// packetKey tells a packet from others on its way through the node.
type packetKey struct {
	proto uint8
	id    uint16
}

// heldBy notes that a packet waits at a hold.
func (r *recorder) heldBy(at int64, p *conntrack.Packet) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if k := (packetKey{p.Proto, p.ID}); r.held[k] == 0 {
		if r.held == nil {
			r.held = map[packetKey]int64{}
		}
		r.held[k] = at
	}
}

// actedBy is until when the kernel acted on a packet that came at a moment and is not seen leaving: until it is known to
// be handled, or for actDelay. What is known in so many nanoseconds is told in microseconds, so that it must not seem
// later than what came next.
func (r *recorder) actedBy(came int64, dev string, k packetKey) int64 {
	const told = int64(2 * time.Microsecond)
	until := came + int64(actDelay)
	for _, mark := range r.marks[dev] {
		if mark >= came {
			until = min(until, mark-told)
			break
		}
	}
	if held, ok := r.held[k]; ok && held >= came {
		until = min(until, held-told)
	}
	return max(came, until)
}

// bound says until when the kernel acted on each packet: until it left, or for actDelay. One that waited for a neighbour, who
// answered on the device by which it left, was acted on before it waited.
func (r *recorder) bound() {
	open := conntrack.Track[int]{} // the packets that came and have not left
	answered := map[string]int64{} // when a neighbour on a device was last heard of
	for i := range r.recs {
		rec := &r.recs[i]
		dev, line, _ := strings.Cut(rec.args, " ")
		if rec.kind == trace.ARP {
			answered[dev] = rec.from
		}
		if rec.kind == trace.Release { // what has not left by now was held or dropped, or is about to leave because of it
			open = conntrack.Track[int]{}
		}
		if rec.kind != trace.Packet && rec.kind != trace.Left {
			continue
		}
		p, err := conntrack.ParsePacket(line)
		if err != nil {
			continue
		}
		if rec.kind == trace.Packet {
			rec.to = r.actedBy(rec.from, dev, packetKey{p.Proto, p.ID})
			rec.took = rec.to - rec.from
			open.Came(i, &p)
			continue
		}
		if in, ok := open.Left(&p); ok {
			came := &r.recs[in]
			limit := int64(waitDelay)
			if answered[dev] >= came.from {
				limit = int64(actDelay)
			}
			if left := rec.from - came.from; left <= limit {
				came.to, came.took = rec.from, left
			}
		}
	}
}

func itoa(n uint32) string { return strconv.FormatUint(uint64(n), 10) }

// lines joins lines in order.
func lines(in []string) string {
	out := slices.Clone(in)
	slices.Sort(out)
	return strings.Join(out, "\n")
}
