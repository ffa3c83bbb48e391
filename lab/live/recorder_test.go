//go:build linux

package live

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"ctlab/checks/conntrack"
	"ctlab/checks/kernel"
	"ctlab/checks/observe"
	"ctlab/checks/trace"
)

const ms = int64(1e6)

func moment(from, to int64) kernel.Moment { return kernel.Moment{From: from * ms, To: to * ms} }

// order is the kinds of a recording in their order, with the length of what took its time, in ms.
func order(r *recorder) string {
	var out []string
	for _, rec := range r.trace(trace.Header{}, ticks(), 0).Records {
		s := string(rec.Kind)
		if rec.Took > 0 && rec.Kind != trace.Packet {
			s += "+" + rec.Took.String()
		}
		out = append(out, s)
	}
	return strings.Join(out, " ")
}

func ticks() observe.Ticks {
	c, err := observe.NewCalibration()
	if err != nil {
		panic(err)
	}
	c.Watch(1, nil)
	return c.Ticks()
}

func packet(at int64, kind trace.Kind, id uint16) raw {
	p := conntrack.Packet{Proto: conntrack.UDP, Src: netip.MustParseAddr("10.0.0.1"), Dst: netip.MustParseAddr("10.0.0.2"), Len: 28, TTL: 64, ID: id}
	return raw{at: at, from: at, to: at, kind: kind, args: trace.PacketArgs("app", &p)}
}

// What a read found stands behind the packets that came while it went on; an act stands where it began.
func TestOrder(t *testing.T) {
	dumped := func(r *recorder) {
		r.did(moment(10, 20), trace.Dump, "", "")
		r.saw(moment(10, 12), 20*ms, trace.Entry, "", "")
		r.saw(moment(10, 20), 20*ms, trace.Dumped, "1", "")
	}
	neigh := func(at int64) []observe.NeighbourLost {
		return []observe.NeighbourLost{{At: at * ms, Ifindex: 2, Addr: netip.MustParseAddr("10.0.0.2")}}
	}
	arp := func(r *recorder, at int64) { r.add(raw{at: at * ms, kind: trace.ARP, args: "app 10.0.0.2"}) }
	devices := map[int]string{2: "app"}
	for _, test := range []struct {
		name, want string
		record     func(r *recorder)
	}{
		{"a packet while the table is dumped", "dump+10ms packet entry dumped", func(r *recorder) {
			dumped(r)
			r.add(packet(15*ms, trace.Packet, 1))
		}},
		{"a packet before and one behind", "packet dump+10ms entry dumped packet", func(r *recorder) {
			r.add(packet(25*ms, trace.Packet, 2))
			dumped(r)
			r.add(packet(5*ms, trace.Packet, 1))
		}},
		{"counters are read at some moment", "hits+5ms packet", func(r *recorder) {
			r.counted(moment(1, 6), trace.Hits, "", "")
			r.add(packet(3*ms, trace.Packet, 1))
		}},
		{"a packet of the node's own is sent before it leaves", "send left", func(r *recorder) {
			r.called(moment(1, 3), trace.Send, "")
			r.add(packet(2*ms, trace.Left, 0))
		}},
		{"a neighbour announces itself many times", "arp", func(r *recorder) {
			arp(r, 1)
			arp(r, 2)
		}},
		{"a neighbour is forgotten, announces itself, and only then the kernel is heard", "arp neigh+1ms arp", func(r *recorder) {
			arp(r, 1)
			r.did(moment(10, 11), trace.Neigh, "app 10.0.0.2", "")
			r.forgot(loss{at: moment(10, 11), dev: "app", addr: netip.MustParseAddr("10.0.0.2")})
			arp(r, 12)
			r.neighbours(neigh(13), devices)
		}},
		{"a device goes down and up", "arp link+1ms neigh+1ms link arp", func(r *recorder) {
			arp(r, 1)
			r.did(moment(10, 11), trace.Link, "app down", "")
			r.forgot(loss{at: moment(10, 11), dev: "app"})
			r.called(moment(12, 12), trace.Link, "app up")
			arp(r, 13)
			r.neighbours(neigh(14), devices)
		}},
		{"a device goes down and up, and the kernel is not heard", "arp link link arp", func(r *recorder) {
			arp(r, 1)
			r.called(moment(10, 11), trace.Link, "app down")
			r.called(moment(12, 12), trace.Link, "app up")
			arp(r, 13)
		}},
		{"the other end goes down: the kernel notices some time after", "arp neigh+40ms packet", func(r *recorder) {
			arp(r, 1)
			r.forgot(loss{at: moment(10, 11), dev: "app", late: true})
			r.add(packet(20*ms, trace.Packet, 1))
			r.neighbours(neigh(50), devices)
		}},
		{"a neighbour is given up long after an act", "arp packet neigh+10ms", func(r *recorder) {
			arp(r, 1)
			r.forgot(loss{at: moment(10, 11), dev: "app"})
			r.add(packet(20*ms, trace.Packet, 1))
			r.probes = append(r.probes, probe{int64(2000 * ms), "app", netip.MustParseAddr("10.0.0.2")})
			r.neighbours(neigh(3000), devices)
		}},
		{"a neighbour is given up, and no probe was seen", "neigh+500ms", func(r *recorder) {
			r.neighbours(neigh(3000), devices)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var r recorder
			test.record(&r)
			if got := order(&r); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

// Devices have their names, lo too; what came in on a device that nobody knows is left out.
func TestCTInfoRecords(t *testing.T) {
	p := conntrack.Packet{Proto: conntrack.UDP, Src: netip.MustParseAddr("10.0.0.1"), Dst: netip.MustParseAddr("10.0.0.2"), Len: 28, TTL: 64}
	var r recorder
	var seen []observe.CTInfo
	for i, index := range []int{0, 1, 2, 3} {
		seen = append(seen, observe.CTInfo{At: int64(i) * ms, Ifindex: index, Packet: p, CT: "new"})
	}
	r.ctinfos(seen, map[int]string{2: "app"})
	var got []string
	for _, rec := range r.trace(trace.Header{}, ticks(), 0).Records {
		got = append(got, rec.Args)
	}
	line := " " + p.Line() + " is new"
	if want := []string{"-" + line, "lo" + line, "app" + line}; !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
}

// The kernel acted on a packet before it left, or within a bounded time.
func TestPacketBound(t *testing.T) {
	var r recorder
	r.add(packet(1*ms, trace.Packet, 1))
	r.add(packet(1*ms+30_000, trace.Left, 1))
	r.add(packet(1000*ms, trace.Packet, 2)) // its processor was taken away
	r.add(packet(1212*ms, trace.Left, 2))
	r.add(packet(1300*ms, trace.Packet, 3))
	r.add(raw{at: 1306 * ms, from: 1306 * ms, to: 1306 * ms, kind: trace.ARP, args: "app 10.0.0.2"})
	r.add(packet(1307*ms, trace.Left, 3))   // that neighbour is what it had waited for
	r.add(packet(1400*ms, trace.Packet, 4)) // never leaves
	r.add(packet(3000*ms, trace.Left, 4))   // another one
	r.trace(trace.Header{}, ticks(), 0)
	for i, want := range map[int]int64{0: 30_000, 2: 212 * ms, 4: int64(actDelay), 7: int64(actDelay)} {
		if rec := r.recs[i]; rec.took != want || rec.to-rec.from != want {
			t.Errorf("record %d took %d ns, want %d", i, rec.took, want)
		}
	}
}

// A packet that is known to be handled, or to wait at a hold, was acted on by then; what leaves when it is released says
// nothing about when it came.
func TestPacketBoundByMarksAndHolds(t *testing.T) {
	var r recorder
	r.add(packet(1*ms, trace.Packet, 1)) // never leaves
	r.frames([]observe.Frame{{At: 1*ms + 50_000, Ifindex: 1, ARP: &observe.ARP{Sender: netip.IPv4Unspecified(), Target: netip.MustParseAddr("240.0.0.1")}}},
		map[int]string{1: "app"}, nil)
	r.add(packet(2*ms, trace.Packet, 2)) // is held
	r.heldBy(2*ms+80_000, &conntrack.Packet{Proto: conntrack.UDP, ID: 2})
	r.called(kernel.Moment{From: 100 * ms, To: 100*ms + 1000}, trace.Release, "1 accept")
	r.add(packet(100*ms+500, trace.Left, 2))
	r.trace(trace.Header{}, ticks(), 0)
	for i, want := range map[int]int64{0: 48_000, 1: 78_000} { // less what is lost in microseconds
		if rec := r.recs[i]; rec.took != want {
			t.Errorf("record %d took %d ns, want %d", i, rec.took, want)
		}
	}
	if len(r.recs) != 4 {
		t.Errorf("%d records: a mark is none", len(r.recs))
	}
}
