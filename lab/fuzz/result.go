package fuzz

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"ctlab/checks/trace"
)

// Result is a scenario that was played, and what the replay of its trace says.
type Result struct {
	Scenario *Scenario
	Played   []Played
	Trace    trace.Trace
	Report   trace.Report
}

// Played is an operation as it was really done: an answer or an error is the packet that was sent, a deletion names
// its entry, a release its packet. What found nothing to do is not among them.
type Played struct {
	Op
	At      time.Duration // when it began, since the arena did
	Waiting int           // of a release: how many packets waited
}

// kind is what a result shows, without its values: two results of one kind have the same cause, most probably.
type kind struct {
	verdict      trace.Verdict
	thing, field string
	sides        string // what kernel and model say, if these are words and no values
}

// kind is that of the first difference, since what comes behind it is mostly its consequence; or why nothing was
// compared.
func (r *Result) kind() kind {
	k := kind{verdict: r.Report.Verdict()}
	switch {
	case k.verdict == trace.Same:
	case len(r.Report.Differences) > 0:
		d := r.Report.Differences[0]
		k.thing, k.field, k.sides = thing(d), d.Field, sideWord(d.Kernel)+"/"+sideWord(d.Model)
	case len(r.Report.Lost) > 0:
		k.field = withoutValues(r.Report.Lost[0])
	}
	return k
}

// thing is what kind of thing a difference is about: a packet of some protocol, an entry, which is named by its
// protocol alone, a rule, the namespace.
func thing(d trace.Difference) string {
	words := strings.Fields(d.What)
	switch {
	case len(words) == 0 || words[0] != "packet":
		return strings.Join(words[:min(1, len(words))], "")
	case len(words) > 1:
		return "packet " + words[1]
	}
	for _, side := range []string{d.Kernel, d.Model} { // DEV PACKET, of one that left
		if at := strings.Fields(side); strings.Contains(side, " > ") {
			if strings.Contains(side, " about ") {
				return "packet " + at[1] + " error"
			}
			return "packet " + at[1]
		}
	}
	return "packet"
}

// sideWord is a side of a difference that is no value, or "".
func sideWord(side string) string {
	if slices.Contains([]string{"absent", "present", "none", "new", "update", "destroy", "nothing leaves", "nothing was seen", "no such packet passes nf_conntrack_in"}, side) {
		return side
	}
	return ""
}

// withoutValues is a sentence without the words that have digits in them, and without what stands behind the last "at".
func withoutValues(s string) string {
	s, _, _ = strings.Cut(s, " at ")
	words := slices.DeleteFunc(strings.Fields(s), func(w string) bool { return strings.ContainsAny(w, "0123456789") })
	return strings.Join(words, " ")
}

// upTo are the operations that were begun when the first difference was seen: later ones have no part in it.
func (r *Result) upTo() []Played {
	if len(r.Report.Differences) == 0 {
		return r.Played
	}
	at := r.Report.Differences[0].Record.At
	n := 0
	for n < len(r.Played) && r.Played[n].At <= at {
		n++
	}
	return r.Played[:n]
}

// scenario is one that does what was done, with operations that do not depend on each other: any of them can be left
// out, and the others stay what they are.
func (r *Result) scenario(played []Played) *Scenario {
	s := r.Scenario.clone()
	s.Ops = nil
	for _, p := range played {
		s.Ops = append(s.Ops, p.Op)
	}
	return s
}

func (s *Scenario) clone() *Scenario {
	c := *s
	c.Sysctls, c.Defaults, c.Ops = slices.Clone(s.Sysctls), slices.Clone(s.Defaults), slices.Clone(s.Ops)
	c.Wires = slices.Clone(s.Wires)
	for i, w := range c.Wires {
		c.Wires[i].Node, c.Wires[i].Hosts, c.Wires[i].Silent = slices.Clone(w.Node), slices.Clone(w.Hosts), slices.Clone(w.Silent)
	}
	return &c
}

// hosts are all who are behind a wire.
func (w Wire) hosts() []netip.Addr { return slices.Concat(w.Hosts, w.Silent) }

// spoken are the addresses that packets had, where they came in and where they left.
func (r *Result) spoken() map[netip.Addr]bool {
	out := map[netip.Addr]bool{}
	for _, rec := range r.Trace.Records {
		if rec.Kind != trace.Packet && rec.Kind != trace.Left {
			continue
		}
		for _, word := range strings.Fields(rec.Args) {
			if a, err := netip.ParseAddr(word); err == nil {
				out[a] = true
			} else if ap, err := netip.ParseAddrPort(word); err == nil {
				out[ap.Addr()] = true
			}
		}
	}
	return out
}

// leaves reports whether a packet left on a device.
func (r *Result) leaves(dev string) bool {
	return slices.ContainsFunc(r.Trace.Records, func(rec trace.Record) bool {
		return rec.Kind == trace.Left && strings.HasPrefix(rec.Args, dev+" ")
	})
}

// tells reports whether an ICMP error left.
func (r *Result) tells() bool {
	return slices.ContainsFunc(r.Trace.Records, func(rec trace.Record) bool {
		return rec.Kind == trace.Left && strings.Contains(rec.Args, " about ")
	})
}
