// Package report turns the Result of a run into text for people.
package report

import (
	"fmt"
	"io"
	"strings"
	"time"

	"ctlab/checks/model"
	"ctlab/checks/trace"
	"ctlab/lab"
	"ctlab/topology/service"
)

// Options of a text report.
type Options struct {
	Color   bool
	Profile bool // break down ctlab's own time
}

// text writes a report line by line; the first write error sticks.
type text struct {
	w    io.Writer
	opt  Options
	r    *lab.Result
	name Names
	err  error
}

// Text writes the report of a run.
func Text(w io.Writer, r *lab.Result, opt Options) error {
	t := &text{w: w, opt: opt, r: r, name: newNames(r.Lab)}
	t.head()
	t.steps()
	t.stories()
	t.differences()
	t.verdict()
	return t.err
}

func (t *text) line(format string, args ...any) {
	if t.err == nil {
		_, t.err = fmt.Fprintf(t.w, format+"\n", args...)
	}
}

// Colours of a terminal; they only add.
const (
	red    = "31"
	green  = "32"
	yellow = "33"
	bold   = "1"
)

func (t *text) paint(color, s string) string {
	if !t.opt.Color {
		return s
	}
	return "\x1b[" + color + "m" + s + "\x1b[0m"
}

func (t *text) head() {
	l, set := t.r.Lab, t.r.Setting
	title := l.Name
	if l.Variant != "" {
		title += " / " + l.Variant
	}
	t.line("%s   %s", t.paint(bold, title), l.About)
	if set.Kernel == "" {
		return
	}
	t.line("kernel %s, iptables %s; %d nodes up in %s", set.Kernel, set.Iptables, set.Nodes, ms(set.Took))
	t.line("model %s; probing found: %s", set.Profile, set.Probed)
	t.line("")
}

// ms is a time in milliseconds without decimals.
func ms(d time.Duration) string {
	return fmt.Sprintf("%d ms", d.Round(time.Millisecond).Milliseconds())
}

// sec is a moment of the run.
func sec(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }

func (t *text) steps() {
	for i := range t.r.Steps {
		s := &t.r.Steps[i]
		mark := t.paint(green, "ok")
		switch {
		case !s.OK():
			mark = t.paint(red, "FAIL")
		case len(s.Wants) == 0:
			mark = ""
		}
		said := t.happened(s)
		t.line("%s", strings.TrimRight(fmt.Sprintf("%8s  %-24s  %-60s  %s", sec(s.Outcome.Began), s.Step.Title(), said[0], mark), " "))
		for _, more := range said[1:] {
			t.line("%8s  %-24s  %s", "", "", more)
		}
		for _, w := range s.Wants {
			if !w.OK {
				t.missed(w)
			}
		}
		if !s.OK() {
			t.attempts(s)
		}
	}
	if t.r.Err != nil {
		t.line("")
		if t.r.Verdict() == lab.Interrupted {
			t.line("  %s; this is what there was until then", t.paint(yellow, "interrupted"))
			return
		}
		t.line("  %s %v", t.paint(red, "stopped:"), t.r.Err)
	}
}

// happened is what came of a step, in one line or two.
func (t *text) happened(s *lab.StepResult) []string {
	out := &s.Outcome
	switch s.Step.Kind {
	case lab.Query:
		lines := []string{tally(out.Attempts, false)}
		if c := tally(out.Attempts, true); c != "" {
			lines = append(lines, "from fresh ports: "+c)
		}
		return lines
	case lab.Restart:
		return []string{restarted(out)}
	case lab.Table:
		return []string{fmt.Sprintf("%d deleted", len(out.Deleted))}
	case lab.Check:
		return []string{t.checked(out)}
	}
	return []string{""}
}

// tally is "answered 3 by coredns-1 (0.3 ms), timeout 2".
func tally(all []lab.Attempt, control bool) string {
	var parts []string
	for _, class := range lab.Classes() {
		n, by, took := 0, []string{}, time.Duration(0)
		for _, a := range all {
			if a.Control != control || a.Class != class {
				continue
			}
			n++
			took += a.Took
			if a.By != "" && !contains(by, a.By) {
				by = append(by, a.By)
			}
		}
		if n == 0 {
			continue
		}
		p := fmt.Sprintf("%s %d", class, n)
		if class == lab.Answered {
			p += fmt.Sprintf(" by %s (%.1f ms)", strings.Join(by, ", "), float64(took.Microseconds())/float64(n)/1000)
		}
		parts = append(parts, p)
	}
	return strings.Join(parts, ", ")
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

func restarted(out *lab.Outcome) string {
	r := out.Restarted
	if r == nil {
		return ""
	}
	if r.From == r.To {
		return "on " + r.To + ", same address"
	}
	s := r.From + " > " + r.To
	if r.Death == lab.DeathAddress {
		s += ", old address gone"
	}
	if len(r.Services) == 0 {
		return s
	}
	s += ", rules replaced"
	if r.Cleanup.Mode == service.None {
		return s + ", no cleanup"
	}
	return s + fmt.Sprintf(", cleanup deleted %d", len(out.Deleted))
}

func (t *text) checked(out *lab.Outcome) string {
	var parts []string
	for _, s := range out.Snapshots {
		stale := 0
		for _, e := range s.Entries {
			if e.Stale {
				stale++
			}
		}
		p := fmt.Sprintf("%d %s", len(s.Entries), plural(len(s.Entries), "entry", "entries"))
		if stale > 0 {
			p += fmt.Sprintf(", %d stale", stale)
		}
		if len(out.Snapshots) > 1 {
			p = s.Node + ": " + p
		}
		parts = append(parts, p+t.agreement(s.Node))
	}
	return strings.Join(parts, "; ")
}

func (t *text) agreement(node string) string {
	for _, c := range t.r.Comparisons {
		if c.Header.Node != node || t.r.Lab.SkipModel != "" {
			continue
		}
		switch c.Verdict() {
		case trace.Same:
			return "; kernel and model agree"
		case trace.Different:
			return "; kernel and model DIFFER"
		}
		return "; comparison inconclusive"
	}
	return ""
}

func plural(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}

// missed tells a want that was not met: its place, what was wanted, what there was.
func (t *text) missed(w lab.WantResult) {
	t.line("          %s  want  %s", w.Pos, w.Want)
	t.line("          %s  got   %s", strings.Repeat(" ", len(w.Pos.String())), w.Got)
	if w.Near == nil {
		return
	}
	pad := strings.Repeat(" ", len(w.Pos.String()))
	t.line("          %s  near  %s", pad, t.name.seen(&w.Near.Entry))
	t.line("          %s        which differs in: %s", pad, strings.Join(w.Near.Differs, ", "))
}

// storyLimit is how many requests of a failed step are told; the rest is counted.
const storyLimit = 3

// attempts tells what became of the first requests of a failed step, and what the model says of each.
func (t *text) attempts(s *lab.StepResult) {
	told := 0
	for i := range s.Outcome.Attempts {
		a := &s.Outcome.Attempts[i]
		if a.Control {
			continue
		}
		if told++; told > storyLimit {
			continue
		}
		t.line("          |  query %d  %.3f s  %s  %s", a.Number, a.At.Seconds(), t.name.tuple(a.Tuple), outcome(a))
		for _, h := range t.handled(a) {
			t.line("          |           %s: %s", a.Node, t.name.Text(modelStory(h)))
		}
	}
	if told > storyLimit {
		t.line("          |  and %d more", told-storyLimit)
	}
}

func outcome(a *lab.Attempt) string {
	switch a.Class {
	case lab.Answered:
		return fmt.Sprintf("answered by %s in %.1f ms", a.By, float64(a.Took.Microseconds())/1000)
	case lab.Timeout:
		return fmt.Sprintf("nothing for %s", ms(a.Took))
	case lab.Failed:
		return "error: " + a.Err
	}
	return fmt.Sprintf("%s after %.1f ms", a.Class, float64(a.Took.Microseconds())/1000)
}

// handled are the packets of the request itself, as the model saw them pass the node.
func (t *text) handled(a *lab.Attempt) []trace.Handled {
	var out []trace.Handled
	for _, c := range t.r.Comparisons {
		if c.Header.Node != a.Node {
			continue
		}
		for _, h := range c.Packets {
			if h.Packet.Tuple() == a.Tuple && h.Record.At >= a.At && h.Record.At < a.At+a.Took+time.Millisecond {
				out = append(out, h)
			}
		}
	}
	return out
}

// modelStory is the model's account of one packet, in one line.
func modelStory(h trace.Handled) string {
	var parts []string
	for _, s := range h.Outcome.Steps {
		parts = append(parts, s.What)
	}
	return strings.Join(parts, "; ")
}

func (t *text) verdict() {
	r := t.r
	v := r.Verdict()
	color := map[lab.Verdict]string{lab.Pass: green, lab.Unclear: yellow, lab.Interrupted: yellow}[v]
	if color == "" {
		color = red
	}
	met, all := r.Wants()
	s := fmt.Sprintf("%s  %d of %d wants met", t.paint(color, string(v)), met, all)
	if met == all {
		s = fmt.Sprintf("%s  %d %s", t.paint(color, string(v)), all, plural(all, "want", "wants"))
	}
	if r.Lab.SkipModel != "" {
		s += "; model left out: " + r.Lab.SkipModel
	} else {
		for _, c := range r.Comparisons {
			s += "; "
			if len(r.Comparisons) > 1 {
				s += c.Header.Node + " "
			}
			s += c.Summary()
		}
	}
	t.line("")
	t.line("%s", s)
	t.line("      %.1f s, of which ctlab %s", r.Wall.Seconds(), ms(r.Own()))
	if t.opt.Profile {
		for _, p := range r.Evidence.Taken {
			t.line("      %-12s %.1f ms", p.Name, float64(p.Took.Microseconds())/1000)
		}
	}
	if r.CloseErr != nil {
		t.line("      %s %v", t.paint(red, "at the end:"), r.CloseErr)
	}
}

// differences lists fields in which kernel and model differ, and evidence that was lost.
func (t *text) differences() {
	if t.r.Lab.SkipModel != "" {
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
		t.line("  %s on %s: %d %s, by the model of profile %s", t.paint(red, "KERNEL AND MODEL DIFFER"), c.Header.Node, len(c.Differences), plural(len(c.Differences), "field", "fields"), c.Profile.Name)
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
		t.line("    %s  (%s)", rename(d.What), when)
		t.line("      %-14s kernel  %s", d.Field, rename(d.Kernel))
		t.line("      %-14s model   %s", "", rename(d.Model))
		if d.Why != "" {
			t.line("      %-14s reason  %s", "", d.Why)
		}
		if last := lastPacket(c, d); i == 0 && last != nil {
			t.line("      %-14s before  %.3f s %s %s", "", last.Record.At.Seconds(), last.Dev, rename(last.Packet.Line()))
		}
	}
	for _, l := range c.Lost {
		t.line("  %s on %s: %s", t.paint(yellow, "INCONCLUSIVE"), c.Header.Node, l)
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

// ProfileNote says how the model was chosen, for replay.
func ProfileNote(p model.Profile) string {
	s := "model " + p.Name + ", UDP rule " + string(p.Assured)
	if p.FromSource {
		s += " (from source)"
	}
	return s
}
