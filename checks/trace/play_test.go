package trace

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"ctlab/checks/conntrack"
	"ctlab/checks/model"
	storyfile "ctlab/internal/story"
)

const played = "../model/testdata/stories"

// TestPlay tells the stories of the model: what goes in, in the words of a trace, and what comes of it.
//
//	profile 4.19            the model of which kernel; without it the newest
//	given NAME...           the inputs of the files given/NAME, and those that stand below, at time 0
//	play [brief] [choose=(1,0,...)]
//	SECONDS [TICKS] INPUT   as in a trace; hits, stats and count ask for what there is to be seen;
//	                        a packet without len is completed (story.Lines)
//	profiles                what is known of each kernel
//	replay                  a recording as it stands in a trace; the model is held against what was seen
//
// A packet is followed by what it met on its way (not with brief), what left and the events that it caused.
// -rewrite writes what the model says into the files, but not into those that say "# from kernel".
func TestPlay(t *testing.T) {
	files, err := filepath.Glob(played + "/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no stories: %v", err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) {
			fromKernel := isFromKernel(t, f)
			s := newStory("6.18")
			datadriven.RunTest(t, f, func(t *testing.T, d *datadriven.TestData) string {
				got := s.do(t, d)
				if d.Rewrite && fromKernel {
					if got != d.Expected {
						t.Errorf("%s comes from a kernel, and is not rewritten: the model says\n%s", f, got)
					}
					return d.Expected
				}
				return got
			})
		})
	}
}

func isFromKernel(t *testing.T, file string) bool {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains("\n"+string(text), "\n# from kernel ")
}

// story is a namespace that is being told of.
type story struct {
	h       *hypothesis
	lines   storyfile.Lines
	answers []int // to the choices that come
	brief   bool
	out     strings.Builder
}

func newStory(release string) *story {
	p, err := model.ProfileFor(release)
	if err != nil {
		panic(err)
	}
	s := &story{h: &hypothesis{profile: p, hz: storyfile.HZ, ids: map[int]uint32{}, done: map[*act]int{}}}
	s.h.ns = model.New(model.Config{Profile: p, HZ: storyfile.HZ, Chooser: s.choose})
	return s
}

func (s *story) choose(c model.Choice) int {
	answer := 0
	if len(s.answers) > 0 {
		answer, s.answers = s.answers[0], s.answers[1:]
	}
	if answer < 0 || answer >= c.Options {
		s.say("answer %d is not allowed", answer)
		answer = 0
	}
	s.say("free: %s; here %d", c, answer+c.First)
	return answer
}

func (s *story) say(format string, args ...any) { fmt.Fprintf(&s.out, "  "+format+"\n", args...) }

func (s *story) do(t *testing.T, d *datadriven.TestData) string {
	s.out.Reset()
	s.brief, s.answers = d.HasArg("brief"), nil
	switch d.Cmd {
	case "profile":
		*s = *newStory(d.CmdArgs[0].Key)
		s.h.ns = model.New(model.Config{Profile: s.h.profile, HZ: storyfile.HZ, Chooser: s.choose})
	case "given":
		for _, name := range d.CmdArgs {
			text, err := os.ReadFile(filepath.Join(played, "given", name.Key))
			if err != nil {
				d.Fatalf(t, "%v", err)
			}
			s.give(t, d, string(text))
		}
		s.give(t, d, d.Input)
	case "play":
		for _, a := range d.CmdArgs {
			if a.Key == "choose" {
				s.answers = numbersOf(t, d, a.Vals)
			}
		}
		s.play(s.read(t, d, d.Input))
	case "profiles":
		names := model.ProfileNames()
		for _, name := range names {
			p, err := model.ProfileFor(name)
			if err != nil {
				d.Fatalf(t, "%v", err)
			}
			s.say("%+v", p)
		}
	case "replay":
		return s.replay(t, d)
	default:
		d.Fatalf(t, "%q is no word of a story", d.Cmd)
	}
	for _, u := range s.h.ns.NotModelled() {
		s.say("not modelled: %s", u)
	}
	return s.out.String()
}

func numbersOf(t *testing.T, d *datadriven.TestData, words []string) (out []int) {
	for _, w := range words {
		n, err := strconv.Atoi(w)
		if err != nil {
			d.Fatalf(t, "choose: %v", err)
		}
		out = append(out, n)
	}
	return out
}

// give applies inputs that stand without a time; they tell nothing.
func (s *story) give(t *testing.T, d *datadriven.TestData, input string) {
	s.brief = true
	s.play(s.read(t, d, storyfile.Given(input)))
	s.out.Reset()
}

// read reads inputs as records of a trace.
func (s *story) read(t *testing.T, d *datadriven.TestData, input string) []Record {
	p := &parser{cur: &Trace{Header: Header{HZ: storyfile.HZ}}}
	for line := range strings.Lines(input) {
		line = s.lines.Line(strings.TrimRight(line, "\n"))
		if err := p.read(line); err != nil {
			d.Fatalf(t, "%q: %v", line, err)
		}
	}
	return p.cur.Records
}

func (s *story) play(records []Record) {
	for _, r := range records {
		s.tell(r)
	}
}

// tell plays one record and says what comes of it.
func (s *story) tell(r Record) {
	told := s.out.Len()
	line := fmt.Sprintf("%g %s", r.At.Seconds(), r.Kind)
	if r.Kind != Rules && r.Kind != Packet && r.Kind != Send && r.Input() && r.Args != "" {
		line += " " + r.Args
	}
	if !r.Input() {
		fmt.Fprintln(&s.out, line)
		s.tellView(r)
		return
	}
	before := s.h.packets
	if err := s.h.apply(r); err != nil {
		s.say("refused: %v", err)
	}
	for _, h := range trailSince(s.h.packets, before) {
		line = s.tellPacket(line, h)
	}
	s.tellLefts()
	s.tellTable(r)
	for _, e := range s.h.events {
		s.say("event %s %s", e.Kind, s.eventLine(e))
	}
	s.h.events = nil
	if rest := s.out.String(); len(rest) > told || r.Kind == Packet || r.Kind == Send || r.Kind == Get || r.Kind == Dump {
		s.out.Reset()
		s.out.WriteString(rest[:told] + line + "\n" + rest[told:])
	}
}

func trailSince(last, before *trail) (out []Handled) {
	for ; last != before; last = last.before {
		out = append(out, last.Handled)
	}
	slices.Reverse(out)
	return out
}

// tellPacket adds to the line what became of the packet, and tells its steps.
func (s *story) tellPacket(line string, h Handled) string {
	o := h.Outcome
	sep := ": "
	if h.Record.Kind != Neigh {
		line += strings.TrimRight(" "+h.Dev, " ") + " " + h.Packet.Tuple().Line()
	}
	for _, w := range []string{o.CT, o.Dropped} {
		if w != "" {
			line += sep + w
			sep = ", "
		}
	}
	if o.Asked {
		line += sep + "rules asked"
		sep = ", "
	}
	if o.Local {
		line += sep + "delivered"
	}
	if o.After != "" {
		line += fmt.Sprintf(", %s -> %s left", cmp.Or(o.Before, "new"), o.After)
	}
	if s.brief {
		return line
	}
	steps := o.Steps
	for i, st := range steps { // what came before it waited was told
		if h.Record.Kind == Release && st.Func == "nf_reinject" {
			steps = o.Steps[i:]
		}
	}
	for _, st := range steps {
		s.say("%s %s: %s", st.Hook, st.Func, st.What)
	}
	return line
}

func (s *story) tellLefts() {
	for _, l := range s.h.lefts {
		own := ""
		if l.Own {
			own = " (the node's own)"
		}
		s.say("left %s%s", PacketArgs(l.Dev, &l.Packet), own)
	}
	s.h.lefts = nil
	for _, p := range s.h.ns.Heard() {
		s.say("heard %s", p.Line())
	}
}

// tellTable tells what a read finds.
func (s *story) tellTable(r Record) {
	if r.Kind != Get && r.Kind != Dump {
		return
	}
	for _, rd := range s.h.reading {
		s.say("entry %s", entryAt(rd.versions[0], r.Span.To).String())
	}
	if len(s.h.reading) == 0 {
		s.say("absent")
	}
}

// entryAt is the entry as a reader finds it at a tick.
func entryAt(p model.Predicted, at conntrack.Tick) *conntrack.Entry {
	e := p.Entry
	e.Known &^= conntrack.HasID
	e.Timeout = uint32(max(0, int64(p.Expiry.From-at)/storyfile.HZ))
	return &e
}

// eventLine is the entry as an event tells of it: a DESTROY has no time left where that is less than a second.
func (s *story) eventLine(ev model.Event) string {
	e := entryAt(ev.Predicted, ev.At.To)
	if ev.Gone && (ev.Expired || e.Timeout == 0 || !s.h.profile.DestroyTimeout) {
		e.Known &^= conntrack.HasTimeout
	}
	return e.String()
}

// tellView tells what a look at counters finds.
func (s *story) tellView(r Record) {
	v := s.h.view(r)
	switch r.Kind {
	case Count:
		s.say("%s", numbers(uint32(v.least), uint32(v.most)))
	case Stats:
		for _, name := range statNames() {
			if v.more[name] > 0 {
				s.say("%s %s", name, numbers(v.stats[name], v.more[name]))
			}
		}
	case Hits:
		for _, h := range s.h.ns.Rules().Hits() {
			s.say("%s %s %d [%d:%d] %s", h.Table, h.Chain, h.Number, h.Counters.Packets, h.Counters.Bytes, h.Comment)
		}
	}
}

// replay holds the model against a recording.
func (s *story) replay(t *testing.T, d *datadriven.TestData) string {
	traces, err := Parse(d.Pos, strings.NewReader(d.Input))
	if err != nil {
		d.Fatalf(t, "%v", err)
	}
	var out strings.Builder
	for _, tr := range traces {
		p, err := tr.Model(nil)
		if err != nil {
			d.Fatalf(t, "%v", err)
		}
		r := Replay(tr, p)
		fmt.Fprintf(&out, "%s; %s\n", r.Verdict(), r.Summary())
		for _, diff := range r.Differences {
			fmt.Fprintf(&out, "  at %s: %s\n", diff.Record.At.Round(time.Millisecond), diff)
		}
		for _, l := range r.Lost {
			fmt.Fprintf(&out, "  %s\n", l)
		}
	}
	return out.String()
}
