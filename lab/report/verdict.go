package report

import (
	"fmt"
	"io"
	"strings"
	"time"

	"ctlab/checks/model"
	"ctlab/checks/trace"
	"ctlab/lab"
)

func (t *text) verdict() {
	r := t.r
	v := r.Verdict()
	color := map[lab.Verdict]string{lab.Pass: green, lab.Unclear: yellow, lab.Interrupted: yellow}[v]
	if color == "" {
		color = red
	}
	if r.Skipped != "" {
		if len(r.Steps) > 0 {
			t.line("")
		}
		t.hanging(t.paint(yellow, string(v))+"  ", r.Skipped)
		return
	}
	met, all := r.Wants()
	s := fmt.Sprintf("%d of %d wants met", met, all)
	if met == all {
		s = fmt.Sprintf("%d %s", all, plural(all, "want", "wants"))
	}
	if n := notPlayed(r); n > 0 {
		s += fmt.Sprintf("; %d %s not played", n, plural(n, "step", "steps"))
	}
	t.line("")
	t.hanging(t.paint(color, string(v))+"  ", s+t.compared())
	if r.Setting.Simulated {
		t.line("      %s of virtual time, predicted in %s", sec(virtual(r)), ms(r.Wall))
	} else {
		t.line("      %s, of which ctlab %s", sec(r.Wall), ms(r.Own()))
	}
	if t.opt.Profile {
		for _, p := range r.Evidence.Taken {
			t.line("      %-14s %s", p.Name, fineMS(p.Took))
		}
	}
	if v != lab.Pass {
		t.lastWords()
	}
	if r.CloseErr != nil {
		t.hanging("      "+t.paint(red, "at the end:")+" ", r.CloseErr.Error())
	}
}

// wordLimit is how many lines of a server's output are shown.
const wordLimit = 5

// lastWords are the ends of what servers said that are programs.
func (t *text) lastWords() {
	for _, s := range t.r.Evidence.Servers {
		said := strings.TrimSpace(strings.TrimSpace(s.Stdout) + "\n" + strings.TrimSpace(s.Stderr))
		if said == "" {
			continue
		}
		lines := strings.Split(said, "\n")
		t.line("      %s on %s said:", s.Client, s.Node)
		for _, l := range lines[max(0, len(lines)-wordLimit):] {
			t.line("%s", cut("        | "+lab.Escape(l), columns))
		}
	}
}

// compared says what was held against the model; of a prediction there is nothing to say.
func (t *text) compared() string {
	switch {
	case t.r.Setting.Simulated:
		return ""
	case t.r.Lab.SkipModel != "":
		return "; model left out: " + t.r.Lab.SkipModel
	}
	s := ""
	for _, c := range t.r.Comparisons {
		s += "; "
		if len(t.r.Comparisons) > 1 {
			s += c.Header.Node + " "
		}
		s += c.Summary()
	}
	return s
}

// NotBegun names the labs that an interrupt came before, if there are any.
func NotBegun(w io.Writer, names []string) error {
	t := &text{w: w}
	if len(names) > 0 {
		t.line("")
		for i, l := range wrap(fmt.Sprintf("interrupted; %d not begun: %s", len(names), strings.Join(names, ", ")), columns-2) {
			t.line("%s%s", strings.Repeat("  ", min(i, 1)), l)
		}
	}
	return t.err
}

func notPlayed(r *lab.Result) int {
	n := 0
	for i := range r.Steps {
		if r.Steps[i].Outcome.NotPlayed != "" {
			n++
		}
	}
	return n
}

// virtual is when the last step ended.
func virtual(r *lab.Result) time.Duration {
	if len(r.Steps) == 0 {
		return 0
	}
	return r.Steps[len(r.Steps)-1].Outcome.Ended
}

// differences lists fields in which kernel and model differ, and evidence that was lost.
func (t *text) differences() {
	if t.r.Lab.SkipModel != "" || t.r.Setting.Simulated {
		return
	}
	for _, c := range t.r.Comparisons {
		Differences(t.w, c, t.name.Text, t.opt.Color)
	}
}

// differenceLimit is how many differences are told in full.
const differenceLimit = 8

// Differences writes what a comparison found: each field in which kernel and model differ with the
// model's reason, the packets before it, and evidence that was lost.
func Differences(w io.Writer, c trace.Report, rename func(string) string, color bool) {
	t := &text{w: w, opt: Options{Color: color}}
	if len(c.Differences) > 0 {
		t.line("")
		differ := t.paint(red, "KERNEL AND MODEL DIFFER")
		if len(c.Header.Lost) > 0 {
			differ = t.paint(yellow, "differing after the loss")
		}
		t.line("  %s on %s: %d %s, by the model of profile %s", differ, c.Header.Node, len(c.Differences), plural(len(c.Differences), "field", "fields"), c.Profile.Name)
	}
	for i, d := range c.Differences {
		if i == differenceLimit {
			t.line("    ... and %d more", len(c.Differences)-i)
			break
		}
		when := "end"
		if d.Record.Kind != "" {
			when = fmt.Sprintf("%.3f s, ticks %s, %s", d.Record.At.Seconds(), d.Record.Span, d.Record.Kind)
		}
		t.hanging("    ", fmt.Sprintf("%s  (%s)", rename(d.What), when))
		t.hanging(fmt.Sprintf("      %-14s kernel  ", d.Field), rename(d.Kernel))
		t.hanging(fmt.Sprintf("      %-14s model   ", ""), rename(d.Model))
		if d.Why != "" {
			t.hanging(fmt.Sprintf("      %-14s reason  ", ""), d.Why)
		}
		if last := lastPacket(c, d); i == 0 && last != nil {
			t.hanging(fmt.Sprintf("      %-14s before  ", ""), fmt.Sprintf("%.3f s %s %s", last.Record.At.Seconds(), last.Dev, rename(last.Packet.Line())))
		}
	}
	for _, l := range c.Lost {
		t.hanging("  "+t.paint(yellow, "INCONCLUSIVE")+" on "+c.Header.Node+": ", l)
	}
	if c.Reads == 0 {
		t.line("  %s on %s: nothing was read, so nothing was compared", t.paint(yellow, "INCONCLUSIVE"), c.Header.Node)
	}
}

func lastPacket(c trace.Report, d trace.Difference) *trace.Handled {
	var last *trace.Handled
	for i := range c.Packets {
		if h := &c.Packets[i]; h.Record.At <= d.Record.At {
			last = h
		}
	}
	return last
}

// Replayed writes what came of holding a recorded run against the model.
func Replayed(w io.Writer, c trace.Report, rename func(string) string, color bool) error {
	h := c.Header
	t := &text{w: w, opt: Options{Color: color}}
	t.hanging("", fmt.Sprintf("%s, node %s, recorded on %s; %s", h.Lab, h.Node, h.Kernel, profileNote(c.Profile)))
	Differences(w, c, rename, color)
	t.hanging(string(c.Verdict())+"  ", c.Summary())
	return t.err
}

// profileNote says how the model was chosen.
func profileNote(p model.Profile) string {
	s := "model " + p.Name + ", UDP rule " + string(p.Assured)
	if p.FromSource {
		s += " (from source)"
	}
	return s
}
