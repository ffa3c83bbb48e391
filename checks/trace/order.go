package trace

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"ctlab/checks/conntrack"
	"ctlab/checks/model"
)

// An act that took its time happened at some moment of it, and nobody can know at which side of the
// packets that were on their way meanwhile. An act that changes something is tried at each of its possible
// places; a look sees each thing in one of the states that it had meanwhile.
//
// act is such an act, together with what was found by it.
type act struct {
	at    int      // its record
	parts []Record // what happens, one after the other, each at a place of its own
	found []int    // the records of what a get or dump found
	among int      // how many packets overlap it
	look  bool     // it changes nothing
	begin time.Duration
	end   time.Duration
}

// packetEnd bounds how long after its stamp a packet without a time of its own may be on its way.
const packetEnd = 500 * time.Microsecond

// plan says for each record which acts open before it, may happen behind it, and must have happened before
// it.
type plan struct {
	opens, behind, closes map[int][]*act
	last                  []*act // acts that are open when the records end
	skip                  map[int]bool
}

func planFor(records []Record) plan {
	p := plan{opens: map[int][]*act{}, behind: map[int][]*act{}, closes: map[int][]*act{}, skip: map[int]bool{}}
	ends := packetEnds(records)
	for i, r := range records {
		if !takesTime(r) {
			continue
		}
		a := &act{at: i, parts: parts(r), look: looks(r), begin: r.At, end: r.end()}
		first := i
		for _, j := range overlaps(records, ends, i) {
			first = min(first, j)
			p.behind[j] = append(p.behind[j], a)
			a.among++
		}
		if a.among == 0 {
			continue
		}
		p.skip[i] = true
		p.opens[first] = append(p.opens[first], a)
		for _, j := range foundBy(records, i) {
			p.skip[j] = true
			a.found = append(a.found, j)
		}
		closing := slices.IndexFunc(records[i:], func(o Record) bool { return o.At > a.end })
		if closing < 0 {
			p.last = append(p.last, a)
		} else {
			p.closes[i+closing] = append(p.closes[i+closing], a)
		}
	}
	return p
}

// takesTime reports whether the record is an act or a look whose place among packets may be unknown.
func takesTime(r Record) bool {
	if r.Took <= 0 {
		return false
	}
	switch r.Kind {
	case Packet, Send, Discover, Release, ARP, Listen, Left, Entry, Absent, Dumped, Event, Ended:
		return false
	}
	return true
}

// looks reports whether the record reads something and changes nothing that matters.
func looks(r Record) bool {
	switch r.Kind {
	case Get, Dump, Hits, Hits6, Stats, Count, State:
		return true
	}
	return false
}

// parts are the steps of an act: rules are loaded table by table, each in a transaction of its own.
func parts(r Record) []Record {
	if r.Kind != Rules && r.Kind != Rules6 {
		return []Record{r}
	}
	var out []Record
	part := r
	part.Text = ""
	for _, line := range textLines(r.Text) {
		part.Text += line + "\n"
		if strings.TrimSpace(line) == "COMMIT" {
			out = append(out, part)
			part.Text = ""
		}
	}
	if part.Text != "" || len(out) == 0 {
		return []Record{r} // whatever it is, it is not several tables
	}
	return out
}

// packetEnds says until when each packet was on its way: as recorded, or until it was seen leaving.
func packetEnds(records []Record) map[int]time.Duration {
	ends, open := map[int]time.Duration{}, conntrack.Track[int]{}
	for i, r := range records {
		switch r.Kind {
		case Send, Release:
			ends[i] = r.end()
		case Packet, Left:
			_, p, err := devicePacket(r.Args)
			if err != nil {
				continue
			}
			if r.Kind == Packet {
				ends[i] = r.end()
				open.Came(i, &p)
			} else if in, ok := open.Left(&p); ok && r.At-records[in].At <= packetEnd {
				ends[in] = max(ends[in], r.At)
			}
		}
	}
	return ends
}

// overlaps lists the packets that were on their way during an act that concerns them. A neighbour is given up
// by the kernel itself, and when is known less well than when ctlab does something: reads, and the end of what is
// seen, may lie in that time too.
func overlaps(records []Record, ends map[int]time.Duration, i int) []int {
	a := records[i]
	var out []int
	for j := i - 1; j >= 0 && records[j].At+time.Second > a.At; j-- {
		if end, ok := ends[j]; ok && end >= a.At && concerns(a, records[j]) {
			out = append(out, j)
		}
	}
	for j := i + 1; j < len(records) && records[j].At <= a.end(); j++ {
		_, packet := ends[j]
		// a neighbour that answers lets packets go on, which held their entries until then
		answered := records[j].Kind == ARP && (a.Kind == Get || a.Kind == Dump || a.Kind == Count)
		if packet && concerns(a, records[j]) || answered || a.Kind == Neigh && (looks(records[j]) || records[j].Kind == Ended) {
			out = append(out, j)
		}
	}
	return out
}

// concerns reports whether the order of an act and a packet can matter: a read or deletion of one entry
// has to do with the packets of its flow, in either direction and on either side of NAT. Messages of IPv6 discovery are
// untracked: rules count them, and nothing else comes of them.
func concerns(act, packet Record) bool {
	if isDiscovery(packet) {
		return act.Kind == Rules6 || act.Kind == Hits6
	}
	if act.Kind != Get && act.Kind != Delete {
		return true
	}
	k, err := conntrack.ParseKey(act.Args)
	t := k.Tuple
	line := packet.Args
	if packet.Kind == Packet {
		_, line, _ = strings.Cut(line, " ")
	}
	p, perr := conntrack.ParsePacket(line)
	if err != nil || perr != nil {
		return true
	}
	return p.Proto == t.Proto && (p.Src == t.Src && p.SrcPort == t.SrcPort || p.SrcPort == t.DstPort || p.DstPort == t.SrcPort)
}

// isDiscovery reports whether a packet is a message of IPv6 discovery.
func isDiscovery(r Record) bool {
	if r.Kind != Packet || !strings.Contains(r.Args, " icmpv6 ") {
		return false
	}
	_, p, err := devicePacket(r.Args)
	return err == nil && p.IsDiscovery()
}

// foundBy are the records of what a get or dump found: those up to the next read.
func foundBy(records []Record, i int) (found []int) {
	kind := records[i].Kind
	if kind != Get && kind != Dump {
		return nil
	}
	for j := i + 1; j < len(records); j++ {
		switch records[j].Kind {
		case Get, Dump:
			return found
		case Entry, Absent, Dumped:
			found = append(found, j)
			if kind == Get || records[j].Kind == Dumped {
				return found
			}
		}
	}
	return found
}

// open lets an act begin in every hypothesis: what it will be is declared now, before anything settles it.
func (run *replay) open(a *act) {
	if !a.look {
		for _, h := range run.live {
			h.declare(a)
		}
	}
	run.opened = append(run.opened, a)
	run.pass(a)
}

// mayHappen reports whether all acts that ended before this one began have happened.
func (run *replay) mayHappen(h *hypothesis, a *act) bool {
	return !slices.ContainsFunc(run.opened, func(b *act) bool {
		return !b.look && b.end < a.begin && h.done[b] < len(b.parts)
	})
}

func (h *hypothesis) declare(a *act) {
	h.choices = append(h.choices, model.Choice{Kind: model.ChooseOrder, Options: a.among + 1,
		Subject: fmt.Sprintf("when %s happened among %d packets", a.parts[0].Kind, a.among)})
}

// pass is a place at which an act may happen. A look notes what there is to be seen.
func (run *replay) pass(a *act) {
	var next []*hypothesis
	for _, h := range run.live {
		if !run.mayHappen(h, a) {
			next = append(next, h)
			continue
		}
		if a.look {
			h.glimpse(a)
			next = append(next, h)
			continue
		}
		waiting := []*hypothesis{h}
		for len(waiting) > 0 {
			w := waiting[0]
			waiting = waiting[1:]
			next = append(next, w)
			if w.done[a] < len(a.parts) {
				waiting = append(waiting, run.proceed(w, a)...)
			}
		}
	}
	run.keep(next, a.parts[0])
}

// proceed applies the next part of an act.
func (run *replay) proceed(h *hypothesis, a *act) []*hypothesis {
	forks := run.fork(h, a.parts[h.done[a]])
	for _, f := range forks {
		f.done[a]++
	}
	return forks
}

// close lets an act happen, at the latest, and holds what it found against what was to be seen.
func (run *replay) close(a *act) {
	run.opened = slices.DeleteFunc(run.opened, func(b *act) bool { return b == a })
	if a.look {
		run.closeLook(a)
		return
	}
	run.force(a)
	for _, b := range slices.Clone(run.opened) {
		run.pass(b) // what waited for this one may happen now
	}
}

// force lets what has not happened yet of an act happen.
func (run *replay) force(a *act) {
	var next []*hypothesis
	for _, h := range run.live {
		waiting := []*hypothesis{h}
		for len(waiting) > 0 {
			w := waiting[0]
			waiting = waiting[1:]
			if w.done[a] < len(a.parts) {
				waiting = append(waiting, run.proceed(w, a)...)
				continue
			}
			delete(w.done, a)
			next = append(next, w)
		}
	}
	run.keep(next, a.parts[0])
}

// keep takes over hypotheses, each state once.
func (run *replay) keep(next []*hypothesis, r Record) {
	if len(next) > 1 {
		seen := map[string]bool{}
		next = slices.DeleteFunc(next, func(h *hypothesis) bool {
			k := h.fingerprint()
			double := seen[k]
			seen[k] = true
			return double
		})
	}
	if len(next) > maxHypotheses {
		run.report.Cut = true
		run.lose("more than %d ways to settle the choices at %s", maxHypotheses, r)
		next = next[:maxHypotheses]
	}
	run.live = next
}

// fingerprint is equal for hypotheses that predict the same from now on.
func (h *hypothesis) fingerprint() string {
	var b strings.Builder
	b.WriteString(h.ns.Fingerprint())
	for _, a := range slices.SortedFunc(maps.Keys(h.done), func(a, b *act) int { return a.at - b.at }) {
		fmt.Fprintln(&b, a.at, h.done[a])
	}
	for _, a := range slices.SortedFunc(maps.Keys(h.views), func(a, b *act) int { return a.at - b.at }) {
		fmt.Fprintln(&b, a.at, h.views[a])
	}
	for _, l := range h.lefts {
		fmt.Fprintln(&b, l.Dev, l.Packet.Line(), l.Own, l.Late)
	}
	for _, e := range h.events {
		fmt.Fprintln(&b, e.Kind, e.At, e.Entry.String(), e.Expiry)
	}
	fmt.Fprintln(&b, h.early, h.open, h.single, h.ended, h.reading)
	for _, c := range h.ctinfos {
		fmt.Fprintln(&b, c.Dev, c.Packet.Line(), c.CT)
	}
	fmt.Fprintln(&b, h.earlyCT)
	return b.String()
}
