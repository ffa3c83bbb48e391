package lab

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"ctlab/checks"
	"ctlab/checks/conntrack"
	"ctlab/checks/trace"
)

// packets holds what was seen of the step's packets against what was wanted of them. What only the model tells, the
// state and the place where a packet was dropped, is judged when it was asked: see judgeOutcomes.
func (j *judgement) packets() {
	w := j.step.Want.Packet
	if w == nil {
		return
	}
	if len(j.out.Sent) == 0 {
		j.add(WantResult{Pos: j.step.Want.Pos, Want: "a packet", Got: "none was sent"})
	}
	for i := range j.out.Sent {
		s := &j.out.Sent[i]
		j.left(w, s)
		j.answers(w, s)
		j.packetEntry(w, s)
	}
}

// awaited demands that the packet came that a wait step waits for.
func (j *judgement) awaited() {
	w := j.step.Awaited
	if w == nil {
		return
	}
	res := WantResult{Pos: j.step.Pos, Want: j.step.Title(), OK: j.out.Awaited != nil, Got: "no such packet"}
	if res.OK {
		res.Got = j.out.Awaited.Packet.Line()
	}
	j.add(res)
}

// Meets reports whether all packets were seen that a step wants to be seen of the one that was sent.
func (s *Sent) Meets(l *Lab, step *Step) bool {
	if step.Want == nil || step.Want.Packet == nil {
		return true
	}
	w := *step.Want.Packet
	w.Nowhere = nil // waiting does not help
	j := newJudgement(&Result{Lab: l}, step, &Outcome{})
	j.left(&w, s)
	j.answers(&w, s)
	return allMet(j.results)
}

// answers judges what stacks answered, and what was seen at devices.
func (j *judgement) answers(w *PacketWant, s *Sent) {
	for _, reply := range w.Reply {
		j.passed("reply", reply, s, false, s.answers())
	}
	for i := range w.Seen {
		j.seen(&w.Seen[i], s)
	}
}

// left judges where a packet left, and as what.
func (j *judgement) left(w *PacketWant, s *Sent) {
	left := s.Left()
	if w.Nowhere != nil {
		j.add(WantResult{Pos: *w.Nowhere, Want: "out: none", OK: len(left) == 0, Got: passedText(j.run.Lab, s.Node, left)})
	}
	for _, out := range w.Out {
		if out.Node != s.Node { // else it is delivered there, which only the model tells
			j.passed("out", out, s, true, left)
		}
	}
}

// passed judges a packet on the link of a node.
func (j *judgement) passed(what string, w OutWant, s *Sent, out bool, all []Passed) {
	port := ""
	if n := j.run.Lab.Node(w.Node); n != nil && n.Uplink == s.Node {
		port = n.Port
	}
	res := WantResult{Pos: w.Pos, Want: what + ": " + w.Node, Got: passedText(j.run.Lab, s.Node, all)}
	if w.Packet != nil {
		res.Want = fmt.Sprintf("%s: {%s: %s}", what, w.Node, w.Packet.Text)
	}
	res.OK = slices.ContainsFunc(all, func(p Passed) bool {
		return p.Out == out && p.Dev == port && (w.Packet == nil || w.Packet.Matches(&p.Packet))
	})
	if !res.OK && w.Packet != nil {
		res.Got += differs(w.Packet, port, all)
	}
	j.add(res)
}

// differs says in which words the nearest packet on a device is not the wanted one.
func differs(w *checks.PacketWant, port string, all []Passed) string {
	var best []string
	for i := range all {
		if all[i].Dev != port {
			continue
		}
		if d := w.Mismatch(&all[i].Packet); best == nil || len(d) < len(best) {
			best = d
		}
	}
	if best == nil {
		return ""
	}
	return "; it differs in: " + strings.Join(best, ", ")
}

// passedText is what left or came, for people.
func passedText(l *Lab, node string, all []Passed) string {
	if len(all) == 0 {
		return "nothing"
	}
	var texts []string
	for _, p := range all {
		texts = append(texts, deviceOwner(l, node, p.Dev)+": "+p.Packet.Line())
	}
	return strings.Join(texts, "; ")
}

// deviceOwner is the node at the other end of a router's device.
func deviceOwner(l *Lab, router, dev string) string {
	for _, n := range l.Nodes {
		if n.Uplink == router && n.Port == dev {
			return n.Name
		}
	}
	return dev
}

// answers are the packets that came to the node behind the one that was sent.
func (s *Sent) answers() []Passed {
	var out []Passed
	for _, p := range s.Passed {
		if !p.Out && !(p.Dev == s.Dev && p.Packet.Proto == s.Packet.Proto && p.Packet.ID == s.Packet.ID) {
			out = append(out, p)
		}
	}
	return out
}

// seen demands packets in their order at a device, others between.
func (j *judgement) seen(w *SeenWant, s *Sent) {
	next := 0
	for i := range w.Packets {
		want := &w.Packets[i]
		at := slices.IndexFunc(s.Passed[min(next, len(s.Passed)):], func(p Passed) bool { return p.Dev == w.Dev && want.Matches(&p.Packet) })
		res := WantResult{Pos: w.Pos, Want: fmt.Sprintf("seen: {%s:%s: %s}", w.Node, w.Dev, want.Text), OK: at >= 0 && w.Node == s.Node, Got: "seen"}
		if !res.OK {
			res.Got = passedText(j.run.Lab, s.Node, slices.DeleteFunc(slices.Clone(s.Passed), func(p Passed) bool { return p.Dev != w.Dev }))
		} else {
			next += at + 1
		}
		j.add(res)
	}
}

// packetEntry judges the packet's entry.
func (j *judgement) packetEntry(w *PacketWant, s *Sent) {
	if w.NoEntry != nil {
		res := WantResult{Pos: *w.NoEntry, Want: "entry: none", OK: s.Entry == nil, Got: "no entry"}
		if s.Entry != nil {
			res.Got = s.Entry.Entry.String()
		}
		j.add(res)
	}
	if w.Entry == nil {
		return
	}
	res := WantResult{Pos: w.Entry.Pos, Want: "entry: " + w.Entry.Want.Text, Got: "no entry"}
	if e := s.Entry; e != nil {
		want := w.Entry.Want
		want.Proto = e.Entry.Orig.Proto // an error is about an entry of another protocol
		if strings.Contains(want.Text, " > ") {
			want.Proto = w.Entry.Want.Proto
		}
		differs := want.Mismatch(&e.Entry, e.Stale, e.Age)
		res.OK, res.Got = len(differs) == 0, e.Entry.String()
		if !res.OK {
			res.Near = &Near{*e, differs}
		}
	}
	j.add(res)
}

// judgeOutcomes asks the model what became of the packets that were put on wires, and holds that against what was
// wanted. On the kernel the model was driven by what was recorded, and whatever it says that can be seen was compared.
func (r *Result) judgeOutcomes() {
	for i := range r.Steps {
		step := &r.Steps[i]
		for k := range step.Outcome.Sent {
			r.ask(&step.Outcome.Sent[k])
		}
		w := step.Step.Want
		if w == nil || w.Packet == nil || step.Outcome.NotPlayed != "" {
			continue
		}
		j := newJudgement(r, step.Step, &step.Outcome)
		for k := range step.Outcome.Sent {
			j.outcome(w.Packet, &step.Outcome.Sent[k])
		}
		step.Wants = append(step.Wants, j.results...)
	}
}

// stampSlack is by how much the stamp of a packet may lie before the moment when it was sent, for want of precision.
const stampSlack = 100 * time.Microsecond

// ask finds what the model says of a packet.
func (r *Result) ask(s *Sent) {
	for _, c := range r.Comparisons {
		if c.Header.Node != s.Node {
			continue
		}
		for i := range c.Packets {
			h := &c.Packets[i]
			if h.Record.Kind == trace.Packet && h.Dev == s.Dev && h.Record.At >= s.At-stampSlack && isSame(&h.Packet, &s.Packet) {
				s.Outcome = &h.Outcome
				return
			}
		}
	}
}

// droppedAt is where a packet was dropped in the words of labs: TABLE CHAIN as it is, kernel functions by what they do.
func droppedAt(dropped string) string {
	where, _, _ := strings.Cut(dropped, ":")
	switch where {
	case "__nf_conntrack_confirm", "nf_ct_resolve_clash":
		return "confirm"
	case "ip_route_input", "ip_error", "ip_forward":
		return "routing"
	case "__nf_conntrack_alloc":
		return "conntrack"
	case "nf_nat_oif_changed":
		return "nat POSTROUTING"
	}
	return where
}

// isSame reports whether a packet that came is the one that was sent.
func isSame(a, b *conntrack.Packet) bool {
	return a.Proto == b.Proto && a.ID == b.ID && a.Src == b.Src && a.Dst == b.Dst && a.Offset == b.Offset && a.Len == b.Len
}

// outcome judges what the model tells of a packet.
func (j *judgement) outcome(w *PacketWant, s *Sent) {
	got := func(tell func() string) string {
		if s.Outcome == nil {
			return "not known: the model was not given the packet"
		}
		return tell()
	}
	if w.CT != nil {
		state := got(func() string { return s.Outcome.CT })
		if state == "" {
			state = "not tracked: no rule needs it"
		}
		j.add(WantResult{Pos: w.CT.Pos, Want: "ct: " + w.CT.Word, OK: state == w.CT.Word, Got: state})
	}
	if w.Dropped != nil {
		where := got(func() string { return droppedAt(s.Outcome.Dropped) })
		res := WantResult{Pos: w.Dropped.Pos, Want: "dropped: " + w.Dropped.Word, OK: where == w.Dropped.Word, Got: where}
		if s.Outcome != nil && s.Outcome.Dropped != "" {
			res.Got = s.Outcome.Dropped
		} else if s.Outcome != nil {
			res.Got = "not dropped"
		}
		j.add(res)
	}
	for _, out := range w.Out {
		if out.Node != s.Node {
			continue
		}
		where := got(func() string {
			if s.Outcome.Delivered == nil {
				return "not delivered there"
			}
			return s.Outcome.Delivered.Line()
		})
		res := WantResult{Pos: out.Pos, Want: "out: " + out.Node, Got: where}
		if s.Outcome != nil && s.Outcome.Local {
			res.OK = out.Packet == nil || s.Outcome.Delivered != nil && out.Packet.Matches(s.Outcome.Delivered)
		}
		j.add(res)
	}
}
