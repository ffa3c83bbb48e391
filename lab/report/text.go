// Package report turns the Result of a run into text for people.
package report

import (
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"ctlab/checks/trace"
	"ctlab/lab"
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
	past *history
	err  error
}

// Text writes the report of a run.
func Text(w io.Writer, r *lab.Result, opt Options) error {
	if err := Steps(w, r, opt); err != nil {
		return err
	}
	return Verdict(w, r, opt)
}

// Steps writes the first part of a report: where the lab was played, and what came of its steps.
func Steps(w io.Writer, r *lab.Result, opt Options) error {
	t := newText(w, r, opt)
	t.head()
	t.steps()
	return t.err
}

// Verdict writes the rest, for which the network must be gone: the tables at the end and their stories, the
// comparison with the model, the verdict.
func Verdict(w io.Writer, r *lab.Result, opt Options) error {
	t := newText(w, r, opt)
	t.stories()
	t.differences()
	t.verdict()
	return t.err
}

func newText(w io.Writer, r *lab.Result, opt Options) *text {
	return &text{w: w, opt: opt, r: r, name: NewNames(r.Lab), past: newHistory(r)}
}

func (t *text) line(format string, args ...any) {
	if t.err == nil {
		_, t.err = io.WriteString(t.w, harmless(fmt.Sprintf(format, args...), t.opt.Color)+"\n")
	}
}

// hanging writes text behind a beginning; further lines stand below the text.
func (t *text) hanging(begin, s string) {
	wide := utf8.RuneCountInString(painted.ReplaceAllString(begin, ""))
	for _, l := range wrap(s, columns-wide) {
		t.line("%s%s", begin, l)
		begin = strings.Repeat(" ", wide)
	}
}

// Hanging writes text of whole words behind a beginning, in lines of at most 100 columns of which further
// ones stand below the text.
func Hanging(w io.Writer, begin, s string) error {
	t := &text{w: w}
	t.hanging(begin, s)
	return t.err
}

// painted are the sequences that paint writes.
var painted = regexp.MustCompile(`\x1b\[(0|1|31|32|33)m`)

// harmless makes everything visible that could draw on a terminal, but for the report's own colours:
// paths, programs' outputs and texts of errors hold anything.
func harmless(line string, color bool) string {
	if !color {
		return lab.Escape(line)
	}
	var b strings.Builder
	rest := 0
	for _, at := range painted.FindAllStringIndex(line, -1) {
		b.WriteString(lab.Escape(line[rest:at[0]]) + line[at[0]:at[1]])
		rest = at[1]
	}
	return b.String() + lab.Escape(line[rest:])
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
	about := wrap(about(l), max(columns-3-len(title), 20))
	t.line("%s", strings.TrimRight(t.paint(bold, title)+"   "+about[0], " "))
	for _, more := range about[1:] {
		t.line("%s   %s", strings.Repeat(" ", len(title)), more)
	}
	switch {
	case set.Simulated:
		defer t.standIns()
		t.line("predicted: simulated network on virtual time, seed %d, model %s; nothing was asked of a kernel", set.Seed, set.Profile)
	case set.Kernel == "":
		return
	default:
		t.line("kernel %s, iptables %s; %d nodes up in %s", set.Kernel, set.Iptables, set.Nodes, ms(set.Took))
		t.line("model %s; probing found: %s", set.Profile, set.Probed)
		t.limits(set)
	}
	t.margins()
	t.line("")
}

// standIns says which servers a prediction does not run.
func (t *text) standIns() {
	var names []string
	for _, s := range t.r.Lab.Servers {
		if s.Exec != nil {
			names = append(names, s.Name)
		}
	}
	if len(names) > 0 {
		t.hanging("", "no program is run: the built-in DNS server stands in for "+few(names, 4))
	}
}

// limits says with what less the run was recorded.
func (t *text) limits(set lab.Setting) {
	said := slices.Clone(set.Limits)
	if set.Ordinary {
		said = slices.Insert(said, 0, "as an ordinary user, in a user namespace")
	}
	if len(said) == 0 {
		return
	}
	for _, l := range wrap(strings.Join(said, "; "), columns) {
		t.line("%s", l)
	}
}

// marginLimit is how many margins are listed.
const marginLimit = 6

// margins warns of what a world with real time may see on the other side of a boundary.
func (t *text) margins() {
	all := Margins(t.r)
	for i, m := range all {
		if i == marginLimit {
			t.line("... and %d more", len(all)-i)
			break
		}
		for _, l := range wrap(m, columns) {
			t.line("%s", t.paint(yellow, l))
		}
	}
}

// Margins are warnings, each a line: what came within 50 ms of a boundary, when, and in which step.
func Margins(r *lab.Result) []string {
	names := NewNames(r.Lab)
	var out []string
	for _, m := range r.Evidence.Margins {
		off, side := m.Off, "behind"
		if off < 0 {
			off, side = -off, "before"
		}
		out = append(out, fmt.Sprintf("near a boundary: at %.3f s on %s%s: %s, %s %s it", m.At.Seconds(), m.Node, during(r, m.At), names.Text(m.What), ms(off), side))
	}
	return out
}

// during names the step in which a moment lies.
func during(r *lab.Result, at time.Duration) string {
	for i := range r.Steps {
		if out := &r.Steps[i].Outcome; out.Began <= at && at <= out.Ended {
			return fmt.Sprintf(" (step %d, %s)", r.Steps[i].Step.Index, title(r.Steps[i].Step))
		}
	}
	return ""
}

// The columns of a step's line: when, what, what came of it, the mark.
const (
	columns   = 100 // how wide a report may be
	titleWide = 24
	saidWide  = columns - 8 - 2 - titleWide - 2 - 6
)

func (t *text) steps() {
	for i := range t.r.Steps {
		s := &t.r.Steps[i]
		t.step(s, t.mark(s))
		if late := lateness(t.r.Steps, i); late > tolerated {
			t.more(t.paint(yellow, fmt.Sprintf("began %s late", ms(late))))
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
		t.hanging("  "+t.paint(red, "stopped:")+" ", t.r.Err.Error())
	}
}

func (t *text) mark(s *lab.StepResult) string {
	switch {
	case s.Outcome.NotPlayed != "":
		return t.paint(yellow, "skip")
	case t.r.Err != nil && s == &t.r.Steps[len(t.r.Steps)-1]:
		return t.paint(red, "stop")
	case !s.OK():
		return t.paint(red, "FAIL")
	case len(s.Wants) == 0:
		return ""
	}
	return t.paint(green, "ok")
}

// step writes the lines of a step. A title that is too long gets a line of its own.
func (t *text) step(s *lab.StepResult, mark string) {
	said := t.happened(s)
	at, title := sec(s.Outcome.Began), title(s.Step)
	if len(title) > titleWide {
		t.line("%8s  %s", at, cut(title, columns-10))
		at, title = "", ""
	}
	t.line("%s", strings.TrimRight(fmt.Sprintf("%8s  %-*s  %-*s  %s", at, titleWide, title, saidWide, said[0], mark), " "))
	for _, more := range said[1:] {
		t.more(more)
	}
}

// more is a further line about a step.
func (t *text) more(s string) {
	if s == "" {
		return
	}
	t.line("%8s  %-*s  %s", "", titleWide, "", s)
}

// tolerated is by how much a step may begin late without a word.
const tolerated = 20 * time.Millisecond

// lateness is how much later a step began than its script says.
func lateness(steps []lab.StepResult, i int) time.Duration {
	s := steps[i].Step
	due := s.After
	if i > 0 {
		before := &steps[i-1].Outcome
		due = max(before.Ended+s.After, before.Began+s.Behind)
	}
	if s.At != nil {
		due = max(due, *s.At)
	}
	return steps[i].Outcome.Began - due
}

func (t *text) agreement(node string) string {
	for _, c := range t.r.Comparisons {
		if c.Header.Node != node || t.r.Lab.SkipModel != "" || t.r.Setting.Simulated {
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

// missed tells a want that was not met: its place, what was wanted, what there was.
func (t *text) missed(w lab.WantResult) {
	pos := w.Pos.String()
	t.under(pos, "want", w.Want)
	t.under("", "got", w.Got)
	if w.Near == nil {
		return
	}
	t.under("", "near", t.name.seen(&w.Near.Entry))
	t.under("", "", "which differs in: "+strings.Join(w.Near.Differs, ", "))
}

// under writes a remark below a step's line: a place, a word, and text in as many lines as it takes. A
// place that is long stands on a line of its own.
func (t *text) under(pos, word, s string) {
	const wide = 18
	if len(pos) > wide {
		t.line("          %s", pos)
		pos = ""
	}
	for _, l := range wrap(s, columns-10-wide-2-6) {
		t.line("%s", strings.TrimRight(fmt.Sprintf("          %-*s  %-4s  %s", wide, pos, word, l), " "))
		pos, word = "", ""
	}
}

// storyLimit is how many requests of a failed step are told; the rest is counted.
const storyLimit = 3

// attempts tells what became of the first requests of a failed step, and what the model says of each. Of
// many clients, those come first whose requests were lost.
func (t *text) attempts(s *lab.StepResult) {
	asked := told(s.Outcome.Attempts)
	if names := losers(s.Outcome.Attempts); len(names) > 1 {
		t.line("          |  lost: %s", few(names, 5))
	}
	for i, a := range asked {
		if i == storyLimit {
			t.line("          |  and %d more", len(asked)-i)
			break
		}
		t.line("          |  %s  %.3f s  %s  %s", t.query(a, s.Step), a.At.Seconds(), t.name.tuple(a.Tuple), outcome(a))
		for _, h := range t.handled(a) {
			for _, l := range wrap(a.Node+": "+t.name.Text(modelStory(h)), columns-21) {
				t.line("          |          %s", l)
			}
		}
	}
}

// query names a request; if several clients ask, also whose it is.
func (t *text) query(a *lab.Attempt, s *lab.Step) string {
	if len(s.Clients) > 1 {
		return fmt.Sprintf("%s query %d", a.Client, a.Number)
	}
	return fmt.Sprintf("query %d", a.Number)
}

// told are the requests without those of control clients; lost ones first, if some but not all are lost.
func told(all []lab.Attempt) []*lab.Attempt {
	var lost, answered []*lab.Attempt
	for i := range all {
		switch a := &all[i]; {
		case a.Control:
		case a.Class == lab.Answered:
			answered = append(answered, a)
		default:
			lost = append(lost, a)
		}
	}
	return append(lost, answered...)
}

// losers are the clients that lost a request, in the order of their first loss.
func losers(all []lab.Attempt) []string {
	var names []string
	for _, a := range all {
		if !a.Control && a.Class != lab.Answered && !slices.Contains(names, a.Client) {
			names = append(names, a.Client)
		}
	}
	return names
}

func outcome(a *lab.Attempt) string {
	switch a.Class {
	case lab.Answered:
		return fmt.Sprintf("answered by %s in %s", a.By, fineMS(a.Took))
	case lab.Timeout:
		return "nothing for " + ms(a.Took)
	case lab.Failed:
		return "error: " + a.Err
	case lab.WrongSource:
		return fmt.Sprintf("answered from %s, which was not asked", a.From)
	}
	return fmt.Sprintf("%s after %s", a.Class, fineMS(a.Took))
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
	for i, s := range h.Outcome.Steps {
		ends := h.Outcome.Dropped != "" && i == len(h.Outcome.Steps)-1
		if ends || !slices.Contains(asides(), s.Func) {
			parts = append(parts, s.What)
		}
	}
	return strings.Join(parts, "; ")
}

// asides are the functions of which one line need not tell: what they do is in the others' part of it, or
// goes without saying.
func asides() []string {
	return []string{"init_conntrack", "nf_conntrack_in", "nf_conntrack_udp_packet", "ip_route_input", "ip_route_output_flow", "nft_do_chain", "ipt_do_table",
		"ip_forward", "nf_nat_alloc_null_binding", "nf_nat_masquerade_ipv4", "nf_nat_l4proto_unique_tuple"}
}
