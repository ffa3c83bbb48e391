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

// Verdict is the result of a comparison.
type Verdict string

// The three verdicts.
const (
	Same         Verdict = "same"
	Different    Verdict = "different"
	Inconclusive Verdict = "inconclusive"
)

// Report is the result of a replay.
type Report struct {
	Header      Header
	Profile     model.Profile
	Reads       int // entries read, by get or dump, and reads that found nothing
	Fields      int // fields compared
	Free        map[model.ChoiceKind]int
	Choices     []model.Choice // what was free, in order
	Differences []Difference
	Lost        []string // why the comparison says nothing
	Cut         bool     // there were too many ways to settle the choices: the right one may not have been followed
	Packets     []Handled
	GivenUp     []Handled // packets that waited for a neighbour, when it was given up
	Modelled    []string  // the model's rule counters at the end, for the story
}

// Handled is an input packet and what the model says became of it.
type Handled struct {
	Record  Record
	Dev     string
	Packet  conntrack.Packet
	Outcome model.Outcome
}

// Verdict of the report. A comparison of nothing is inconclusive, never a pass. Where the recording lost evidence, what
// differs says nothing: the model was not given all that the kernel was.
func (r Report) Verdict() Verdict {
	switch {
	case len(r.Header.Lost) > 0:
		return Inconclusive
	case r.Cut:
		return Inconclusive
	case len(r.Differences) > 0:
		return Different
	case len(r.Lost) > 0 || r.Reads == 0:
		return Inconclusive
	}
	return Same
}

// Summary is the line that each run prints.
func (r Report) Summary() string {
	free, kinds := 0, []string{}
	for _, k := range []model.ChoiceKind{model.ChooseBackend, model.ChoosePort, model.ChooseTiming, model.ChooseVictim, model.ChooseOrder} {
		if n := r.Free[k]; n > 0 {
			free += n
			kinds = append(kinds, fmt.Sprintf("%d %s", n, k))
		}
	}
	s := fmt.Sprintf("compared: %d reads, %d fields, %d free", r.Reads, r.Fields, free)
	if len(kinds) > 0 {
		s += " (" + strings.Join(kinds, ", ") + ")"
	}
	if r.Header.CTLost > 0 {
		s += "; the ctinfo of some packets was lost"
	}
	return s
}

// maxHypotheses bounds how many ways of settling choices are followed at once.
const maxHypotheses = 64

// lateness bounds how long after the fact the cause of an error packet of the namespace's own may be
// recorded: a neighbour's failure is announced by netlink, without a stamp, and read by a program that
// may have to wait for a processor.
const lateness = 500 * time.Millisecond

// hypothesis is one way of settling the choices so far: a model and what it predicts to be seen.
type hypothesis struct {
	ns      *model.Namespace
	profile model.Profile
	hz      int64
	lefts   []model.Left
	events  []model.Event
	early   []Record // own packets whose cause is not recorded yet
	looked  bool     // the trace has ctinfos
	ctinfos []pendingCT
	earlyCT []Record // the same of ctinfos
	ended   bool     // the tap is closed
	ids     map[int]uint32
	reading []readable      // what the last read must find
	done    map[*act]int    // how many parts of an act that is open have happened
	views   map[*act][]view // what there was to be seen so far by a look that is open
	single  bool            // the last read was a get
	open    bool            // what the last read found has not been told yet
	choices []model.Choice
	packets *trail
	fields  int
	reads   int
}

// trail is what became of the packets so far, the last one first. Hypotheses share what they have in common.
type trail struct {
	Handled
	before *trail
}

func (t *trail) list() (all []Handled) {
	for ; t != nil; t = t.before {
		all = append(all, t.Handled)
	}
	slices.Reverse(all)
	return all
}

// split parts the packets that waited for a neighbour in vain from those that went in.
func split(all []Handled) (givenUp, in []Handled) {
	for _, h := range all {
		if h.Record.Kind == Neigh {
			givenUp = append(givenUp, h)
		} else {
			in = append(in, h)
		}
	}
	return givenUp, in
}

// Replay drives the model with the inputs of a trace, and with nothing else, and holds everything that
// was seen against it.
func Replay(t Trace, profile model.Profile) Report {
	run := &replay{trace: t, report: Report{Header: t.Header, Profile: profile, Lost: slices.Clone(t.Lost)}}
	first := &hypothesis{profile: profile, hz: t.HZ, ids: map[int]uint32{}, done: map[*act]int{}}
	first.looked = t.CTInfo != "" || slices.ContainsFunc(t.Records, func(r Record) bool { return r.Kind == CTInfo })
	first.ns = model.New(model.Config{Profile: profile, HZ: t.HZ})
	run.live = []*hypothesis{first}
	plan := planFor(t.Records)
	for i, r := range t.Records {
		run.at = i
		for _, a := range plan.closes[i] {
			run.close(a)
		}
		for _, a := range plan.opens[i] {
			run.open(a)
		}
		if !plan.skip[i] {
			run.record(r)
		}
		for _, a := range plan.behind[i] {
			run.pass(a)
		}
	}
	for _, a := range plan.last {
		run.close(a)
	}
	run.finish()
	return run.report
}

func (run *replay) record(r Record) {
	run.holding = run.holding || r.Kind == Hold
	run.timers(r)
	if r.Input() {
		run.input(r)
	} else {
		run.observe(r)
	}
	run.settle(r)
}

// timers lets happen, before a record, what timers must have done by then, or are seen to have done by it: an entry may be
// told of as collected that an error about fragments still found.
func (run *replay) timers(r Record) {
	about := gaveUpFragments(r)
	var next []*hypothesis
	for _, h := range run.live {
		if about == nil && !h.ns.Due(r.Span) {
			next = append(next, h)
			continue
		}
		next = append(next, run.forkBy(h, func(nh *hypothesis) error {
			nh.predict(nh.ns.Elapse(r.Span, func(*conntrack.Packet) bool { return false }))
			if about != nil {
				nh.predict(nh.ns.GivenUp(r.Span, about))
			}
			nh.events = append(nh.events, nh.ns.Events()...)
			nh.predictCTInfo(r.At)
			return nil
		})...)
	}
	run.live = next
}

// gaveUpFragments is the fragment about which a record shows the namespace to tell that the rest of its packet did not
// come; nil if it shows something else.
func gaveUpFragments(r Record) *conntrack.Packet {
	if r.Kind != Left {
		return nil
	}
	_, p, err := devicePacket(r.Args)
	if err != nil || p.Proto != conntrack.ICMP || p.ICMPType != 11 || p.ICMPCode != 1 {
		return nil
	}
	return p.About
}

type replay struct {
	trace   Trace
	at      int
	live    []*hypothesis
	opened  []*act // what may be happening
	holding bool   // packets have been held
	report  Report
}

// input applies an input to every hypothesis, once for each way of answering the choices that it meets.
func (run *replay) input(r Record) {
	var next []*hypothesis
	for _, h := range run.live {
		if (r.Kind == Get || r.Kind == Dump || r.Kind == Delete) && h.ns.Decided(r.Span) { // no choice, so no copy
			if err := h.apply(r); err != nil {
				run.lose("%v", err)
			}
			next = append(next, h)
			continue
		}
		forks := run.fork(h, r)
		next = append(next, forks...)
	}
	if len(next) > maxHypotheses {
		run.report.Cut = true
		run.lose("more than %d ways to settle the choices at %s", maxHypotheses, r)
		next = next[:maxHypotheses]
	}
	if len(next) == 0 {
		run.lose("no way to settle the choices holds the packet of %s", r)
		return
	}
	run.live = next
}

func (run *replay) lose(format string, args ...any) {
	if msg := fmt.Sprintf(format, args...); !slices.Contains(run.report.Lost, msg) {
		run.report.Lost = append(run.report.Lost, msg)
	}
}

func (h *hypothesis) clone(c model.Chooser) *hypothesis {
	cp := *h
	cp.ns = h.ns.Clone(c)
	cp.lefts, cp.events, cp.early = slices.Clone(h.lefts), slices.Clone(h.events), slices.Clone(h.early)
	cp.choices, cp.reading = slices.Clone(h.choices), slices.Clone(h.reading)
	cp.done = maps.Clone(h.done)
	cp.ids = make(map[int]uint32, len(h.ids))
	for k, v := range h.ids {
		cp.ids[k] = v
	}
	return &cp
}

// observe holds one observation against every hypothesis.
func (run *replay) observe(r Record) {
	run.each(r, func(h *hypothesis) []Difference { return h.see(r) })
}

// each holds something against every hypothesis and drops those that it contradicts. If it contradicts all
// of them, that is a difference, and the best one goes on.
func (run *replay) each(r Record, see func(*hypothesis) []Difference) {
	type result struct {
		h     *hypothesis
		diffs []Difference
	}
	var good []*hypothesis
	var best *result
	for _, h := range run.live {
		diffs := see(h)
		if len(diffs) == 0 {
			good = append(good, h)
		} else if best == nil || len(diffs) < len(best.diffs) {
			best = &result{h, diffs}
		}
	}
	if len(good) > 0 {
		run.live = good
		return
	}
	run.report.Differences = append(run.report.Differences, best.diffs...)
	run.live = []*hypothesis{best.h}
}

// settle keeps an eye on what must have happened by now.
func (run *replay) settle(r Record) {
	var good []*hypothesis
	var worst []Difference
	for _, h := range run.live {
		late := h.overdue(r.At)
		if len(late) == 0 {
			good = append(good, h)
		} else {
			worst = late
		}
	}
	if len(good) > 0 {
		run.live = good
		return
	}
	run.report.Differences = append(run.report.Differences, worst...)
	run.live = run.live[:1]
}

// overdue takes out own packets that no input explained in time. Errors about fragments whose time ran out wait for
// the next input, before which the model does not say so.
func (h *hypothesis) overdue(now time.Duration) (diffs []Difference) {
	diffs = h.overdueCTInfo(now)
	var rest []Record
	for _, r := range h.early {
		if now-r.At <= lateness || aboutFragments(r) {
			rest = append(rest, r)
			continue
		}
		diffs = append(diffs, Difference{r, "packet", "left", r.Args, "nothing leaves", ""})
	}
	h.early = rest
	return diffs
}

func aboutFragments(r Record) bool {
	_, p, err := devicePacket(r.Args)
	return err == nil && p.About != nil && p.ICMPCode == 1 && (p.Proto == conntrack.ICMP && p.ICMPType == 11 || p.Proto == conntrack.ICMPv6 && p.ICMPType == 3)
}

// runTimers explains errors about fragments whose time ran out when no input came any more that would tell. Those that were
// not seen may be still to come.
func (h *hypothesis) runTimers(records []Record) {
	if len(records) == 0 || !slices.ContainsFunc(h.early, aboutFragments) {
		return
	}
	const coarsest = 4096 // how late a timer may be, in ticks (model.timerSlack), for any that a trace may see
	for _, l := range h.ns.Elapse(records[len(records)-1].Span.Add(coarsest), h.hasHeardOf) {
		h.takeEarly(l)
	}
}

// finish reports what was predicted and never seen, and takes over the surviving hypothesis.
func (run *replay) finish() {
	for _, h := range run.live {
		h.runTimers(run.trace.Records)
	}
	h, every := run.live[0], run.trace.everyCTInfo()
	for _, other := range run.live {
		if len(other.left(every)) < len(h.left(every)) {
			h = other
		}
	}
	rep := &run.report
	if len(run.trace.Lost) == 0 {
		rep.Differences = append(rep.Differences, h.left(every)...)
	}
	rep.Reads, rep.Fields = h.reads, h.fields
	rep.GivenUp, rep.Packets = split(h.packets.list())
	rep.Free, rep.Choices = map[model.ChoiceKind]int{}, h.choices
	for _, c := range h.choices {
		rep.Free[c.Kind]++
	}
	for _, u := range h.ns.NotModelled() {
		run.lose("not modelled: %s", u)
	}
	for _, m := range h.ns.Missing() {
		run.lose("the trace never gives sysctl %s", m)
	}
}

// left lists what is still expected at the end; of ctinfos only if every one was recorded.
func (h *hypothesis) left(everyCTInfo bool) (diffs []Difference) {
	end := Record{}
	diffs = h.leftCTInfo(everyCTInfo)
	for _, l := range h.lefts {
		diffs = append(diffs, Difference{end, "packet", "left", "nothing was seen", PacketArgs(l.Dev, &l.Packet), l.Why})
	}
	for _, r := range h.early {
		diffs = append(diffs, Difference{r, "packet", "left", r.Args, "nothing leaves", ""})
	}
	for _, e := range h.events {
		diffs = append(diffs, Difference{end, e.Entry.Tuples(), "event", "none", string(e.Kind), e.Why})
	}
	return diffs
}
