package report

import (
	"fmt"

	"ctlab/checks/conntrack"
	"ctlab/lab"
)

// sent is what became of the packets that a step put on wires.
func (t *text) sent(all []lab.Sent) []string {
	var lines []string
	for i := range all {
		lines = append(lines, t.became(&all[i])...)
	}
	return lines
}

// became is what became of a packet: its state, what left because of it, and where it ended if nothing did.
func (t *text) became(s *lab.Sent) []string {
	state := ""
	if s.Outcome != nil && s.Outcome.CT != "" {
		state = s.Outcome.CT + "; "
	}
	var lines []string
	say := func(format string, args ...any) {
		lines = append(lines, state+t.name.Text(fmt.Sprintf(format, args...)))
		state = ""
	}
	switch o := s.Outcome; {
	case o == nil:
	case o.Held != "":
		say("held %s", o.Held)
	case o.Dropped != "":
		say("dropped: %s", o.Dropped)
	case o.Local:
		say("delivered to %s", s.Node)
	}
	for _, l := range s.Left() {
		say("left on %s: %s", l.Dev, shortPacket(&l.Packet))
	}
	if len(lines) == 0 {
		say("nothing left")
	}
	return lines
}

// shortPacket is a packet without what is rarely looked at.
func shortPacket(p *conntrack.Packet) string {
	s := p.Tuple().Line()
	if p.About != nil {
		s = fmt.Sprintf("%s %s > %s type %d code %d about %s", conntrack.ProtocolName(p.Proto), p.Src, p.Dst, p.ICMPType, p.ICMPCode, p.About.Tuple().Line())
	}
	return s
}

// holding says which packets wait where.
func holding(s *lab.Step) string {
	which := "its packets"
	if s.Hold.New {
		which = "its new packets"
	}
	return which + " wait " + string(s.Hold.Where)
}

// released lists the packets that went on, or were dropped.
func (t *text) released(all []lab.Released) []string {
	if len(all) == 0 {
		return []string{"no further packet waits"}
	}
	var lines []string
	for _, r := range all {
		what := "went on"
		if r.Dropped {
			what = "was dropped"
		}
		lines = append(lines, fmt.Sprintf("packet %d %s: %s", r.Number, what, t.name.Text(shortPacket(&r.Packet))))
	}
	return lines
}

// awaited is the packet that a step waited for.
func (t *text) awaited(s *lab.StepResult) []string {
	switch p := s.Outcome.Awaited; {
	case s.Step.Awaited == nil:
		return nil
	case p == nil:
		return []string{"it did not come"}
	default:
		return []string{t.name.Text(shortPacket(&p.Packet))}
	}
}
