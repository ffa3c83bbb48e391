package trace

import (
	"fmt"
	"slices"
	"strconv"
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
	Differences []Difference
	Lost        []string // why the comparison says nothing
	Packets     []Handled
	Modelled    []string // the model's rule counters at the end, for the story
}

// Handled is an input packet and what the model says became of it.
type Handled struct {
	Record  Record
	Dev     string
	Packet  conntrack.Packet
	Outcome model.Outcome
}

// Verdict of the report. A comparison of nothing is inconclusive, never a pass.
func (r Report) Verdict() Verdict {
	switch {
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
	for _, k := range []model.ChoiceKind{model.ChooseBackend, model.ChoosePort, model.ChooseTiming} {
		if n := r.Free[k]; n > 0 {
			free += n
			kinds = append(kinds, fmt.Sprintf("%d %s", n, k))
		}
	}
	s := fmt.Sprintf("compared: %d reads, %d fields, %d free", r.Reads, r.Fields, free)
	if len(kinds) > 0 {
		s += " (" + strings.Join(kinds, ", ") + ")"
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
	ended   bool     // the tap is closed
	ids     map[int]uint32
	reading []model.Predicted // what the last read must find
	single  bool              // the last read was a get
	open    bool              // what the last read found has not been told yet
	choices []model.Choice
	packets []Handled
	fields  int
	reads   int
}

// Replay drives the model with the inputs of a trace, and with nothing else, and holds everything that
// was seen against it.
func Replay(t Trace, profile model.Profile) Report {
	run := &replay{trace: t, report: Report{Header: t.Header, Profile: profile, Lost: slices.Clone(t.Lost)}}
	first := &hypothesis{profile: profile, hz: t.HZ, ids: map[int]uint32{}}
	first.ns = model.New(model.Config{Profile: profile, HZ: t.HZ})
	run.live = []*hypothesis{first}
	for i, r := range t.Records {
		run.at = i
		if r.Input() {
			run.input(r)
		} else {
			run.observe(r)
		}
		run.settle(r)
	}
	run.finish()
	return run.report
}

type replay struct {
	trace  Trace
	at     int
	live   []*hypothesis
	report Report
}

// input applies an input to every hypothesis, once for each way of answering the choices that it meets.
func (run *replay) input(r Record) {
	var next []*hypothesis
	for _, h := range run.live {
		forks := run.fork(h, r)
		next = append(next, forks...)
	}
	if len(next) > maxHypotheses {
		run.lose("more than %d ways to settle the choices at %s", maxHypotheses, r)
		next = next[:maxHypotheses]
	}
	run.live = next
}

func (run *replay) lose(format string, args ...any) {
	if msg := fmt.Sprintf(format, args...); !slices.Contains(run.report.Lost, msg) {
		run.report.Lost = append(run.report.Lost, msg)
	}
}

// smallChoice is how many answers are all tried; beyond, the observations that follow are asked which one
// to try.
const smallChoice = 8

func (run *replay) fork(h *hypothesis, r Record) []*hypothesis {
	var out []*hypothesis
	for pending := [][]int{nil}; len(pending) > 0 && len(out) <= maxHypotheses; {
		answers := pending[0]
		pending = pending[1:]
		asked := 0
		var opened []model.Choice
		var given []int
		chooser := func(c model.Choice) int {
			i := asked
			asked++
			opened = append(opened, c)
			a := 0
			switch {
			case i < len(answers):
				a = answers[i]
			case c.Options > smallChoice:
				a = run.lookAhead(c)
			default:
				for other := 1; other < c.Options; other++ {
					pending = append(pending, append(slices.Clone(given), other))
				}
			}
			given = append(given, a)
			return a
		}
		nh := h.clone(chooser)
		if err := nh.apply(r); err != nil {
			run.lose("%v", err)
		}
		nh.choices = append(nh.choices, opened...)
		out = append(out, nh)
	}
	return out
}

// lookAhead finds the answer to a choice of a number (a port) in what is seen later of its packet. The
// model has declared what is allowed; an answer outside falls back to the first.
func (run *replay) lookAhead(c model.Choice) int {
	want, err := conntrack.ParsePacket(c.About)
	if err != nil {
		return 0
	}
	for _, r := range run.trace.Records[run.at:] {
		if r.Kind != Left {
			continue
		}
		_, p, err := devicePacket(r.Args)
		if err == nil && p.Proto == want.Proto && p.ID == want.ID && p.Dst == want.Dst && p.DstPort == want.DstPort {
			if a := int(p.SrcPort) - c.First; a >= 0 && a < c.Options {
				return a
			}
		}
	}
	return 0
}

func (h *hypothesis) clone(c model.Chooser) *hypothesis {
	cp := *h
	cp.ns = h.ns.Clone(c)
	cp.lefts, cp.events, cp.early = slices.Clone(h.lefts), slices.Clone(h.events), slices.Clone(h.early)
	cp.choices, cp.packets, cp.reading = slices.Clone(h.choices), slices.Clip(h.packets), slices.Clone(h.reading)
	cp.ids = make(map[int]uint32, len(h.ids))
	for k, v := range h.ids {
		cp.ids[k] = v
	}
	return &cp
}

// apply hands one input to the model and collects what it predicts.
func (h *hypothesis) apply(r Record) error {
	err := h.feed(r)
	h.events = append(h.events, h.ns.Events()...)
	if err != nil {
		return fmt.Errorf("input %q: %w", r.String(), err)
	}
	return nil
}

func (h *hypothesis) feed(r Record) error {
	n := h.ns
	switch r.Kind {
	case Packet:
		dev, p, err := devicePacket(r.Args)
		if err != nil {
			return err
		}
		o := n.Packet(r.Span, dev, p)
		h.predict(o.Left)
		h.packets = append(h.packets, Handled{r, dev, p, o})
	case ARP:
		dev, a, err := deviceAddr(r.Args)
		if err != nil {
			return err
		}
		h.predict(n.Resolved(dev, a))
	case Neigh:
		dev, a, err := deviceAddr(r.Args)
		if err != nil {
			return err
		}
		h.predict(n.Lost(r.Span, dev, a))
	case Rules:
		return n.Load(r.Text, r.Args == "noflush")
	case Sysctl:
		key, value, _ := strings.Cut(r.Args, " ")
		n.Set(key, value)
	case Listen:
		n.Listen()
	case Link:
		dev, state, _ := strings.Cut(r.Args, " ")
		n.SetLink(dev, state == "up")
	case Address:
		dev, a, err := devicePrefix(r.Args)
		if err != nil {
			return err
		}
		n.AddAddress(dev, a)
	case Routing:
		route, err := parseRoute(r.Args)
		if err != nil {
			return err
		}
		n.AddRoute(route)
	default:
		return h.feedTable(r)
	}
	return nil
}

// feedTable handles the inputs that read or write the table.
func (h *hypothesis) feedTable(r Record) error {
	n := h.ns
	switch r.Kind {
	case Get:
		t, err := conntrack.ParseTuple(r.Args)
		if err != nil {
			return err
		}
		h.reading, h.single, h.open = nil, true, true
		if p, ok := n.Get(r.Span, t); ok {
			h.reading = []model.Predicted{p}
		}
	case Dump:
		h.reading, h.single, h.open = n.Dump(r.Span), false, true
	case Delete:
		t, err := conntrack.ParseTuple(r.Args)
		if err != nil {
			return err
		}
		n.Delete(r.Span, t)
	case Flush:
		n.Flush(r.Span)
	case Create:
		e, err := conntrack.ParseEntry(r.Args)
		if err != nil {
			return err
		}
		n.Create(r.Span, e)
	}
	return nil
}

// predict queues packets that must be seen leaving; those whose cause came late may have been seen.
func (h *hypothesis) predict(lefts []model.Left) {
	for _, l := range lefts {
		if l.Late && h.takeEarly(l) || h.ended {
			continue
		}
		h.lefts = append(h.lefts, l)
	}
}

func (h *hypothesis) takeEarly(l model.Left) bool {
	for i, r := range h.early {
		dev, p, err := devicePacket(r.Args)
		if err == nil && len(comparePacket(r, &l, dev, &p)) == 0 {
			h.early = slices.Delete(slices.Clone(h.early), i, i+1)
			return true
		}
	}
	return false
}

// observe holds one observation against every hypothesis and drops those that it contradicts. If it
// contradicts all of them, that is a difference, and the best one goes on.
func (run *replay) observe(r Record) {
	type result struct {
		h     *hypothesis
		diffs []Difference
	}
	var good []*hypothesis
	var best *result
	for _, h := range run.live {
		diffs := h.see(r)
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

// overdue takes out own packets that no input explained in time.
func (h *hypothesis) overdue(now time.Duration) (diffs []Difference) {
	for len(h.early) > 0 && now-h.early[0].At > lateness {
		diffs = append(diffs, Difference{h.early[0], "packet", "left", h.early[0].Args, "nothing leaves", ""})
		h.early = h.early[1:]
	}
	return diffs
}

// see holds one observation against the hypothesis.
func (h *hypothesis) see(r Record) []Difference {
	switch r.Kind {
	case Left:
		return h.seeLeft(r)
	case Entry:
		return h.seeEntry(r)
	case Absent:
		return h.seeAbsent(r)
	case Dumped:
		return h.seeDumped(r)
	case Ended:
		h.ended = true
	case Event:
		return h.seeEvent(r)
	case Count:
		return h.seeCount(r)
	case Stats:
		return h.seeStats(r)
	case Hits:
		return h.seeHits(r)
	case State:
		return h.seeState(r)
	}
	return nil
}

func (h *hypothesis) seeLeft(r Record) []Difference {
	dev, p, err := devicePacket(r.Args)
	if err != nil {
		return []Difference{{r, "packet", "line", r.Args, "", err.Error()}}
	}
	h.fields++
	var near []Difference
	nearAt := -1
	for i := range h.lefts {
		diffs := comparePacket(r, &h.lefts[i], dev, &p)
		if len(diffs) == 0 {
			h.lefts = slices.Delete(slices.Clone(h.lefts), i, i+1)
			return nil
		}
		if l := h.lefts[i]; nearAt < 0 && (l.Packet.ID == p.ID && !l.Own || l.Own && l.Packet.Dst == p.Dst) {
			near, nearAt = diffs, i
		}
	}
	if p.IsError() && near == nil {
		h.early = append(h.early, r)
		return nil
	}
	if near != nil {
		h.lefts = slices.Delete(slices.Clone(h.lefts), nearAt, nearAt+1)
		return near
	}
	return []Difference{{r, "packet", "left", r.Args, "nothing leaves", ""}}
}

// unread is the difference of something that was read without a read in the inputs.
func unread(r Record) []Difference {
	return []Difference{{r, "table", "read", r.Args, "no read", "a get or dump must stand before what it found"}}
}

func (h *hypothesis) seeAbsent(r Record) []Difference {
	if !h.open || !h.single {
		return unread(r)
	}
	h.open = false
	h.reads++
	h.fields++
	if len(h.reading) == 0 {
		return nil
	}
	p := h.reading[0]
	h.reading = nil
	return []Difference{{r, p.Entry.Tuples(), "entry", "absent", "present", p.WhyTimeout}}
}

func (h *hypothesis) seeEntry(r Record) []Difference {
	e, err := conntrack.ParseEntry(r.Args)
	if err != nil {
		return []Difference{{r, "entry", "line", r.Args, "", err.Error()}}
	}
	if !h.open {
		return unread(r)
	}
	h.open = !h.single
	h.reads++
	how := byDump
	if h.single {
		how = byGet
	}
	at := slices.IndexFunc(h.reading, func(p model.Predicted) bool { return h.single || p.Entry.Orig == e.Orig })
	if at < 0 {
		return []Difference{{r, e.Tuples(), "entry", "present", "absent", "no input made it, or its time is up"}}
	}
	p := h.reading[at]
	h.reading = slices.Delete(slices.Clone(h.reading), at, at+1)
	diffs, n := h.compareEntry(r, how, &p, &e)
	h.fields += n
	return diffs
}

func (h *hypothesis) seeDumped(r Record) (diffs []Difference) {
	if !h.open || h.single {
		return unread(r)
	}
	h.open = false
	h.reads++
	h.fields++
	for _, p := range h.reading {
		diffs = append(diffs, Difference{r, p.Entry.Tuples(), "entry", "absent", "present", p.WhyTimeout})
	}
	h.reading = nil
	return diffs
}

// seeEvent: the events of one entry come in the order in which they were predicted. The collector may
// take an expired entry at any moment.
func (h *hypothesis) seeEvent(r Record) []Difference {
	ev, err := conntrack.ParseEvent(r.Args)
	if err != nil {
		return []Difference{{r, "event", "line", r.Args, "", err.Error()}}
	}
	h.fields++
	at := h.nextEvent(ev.Entry.Orig)
	if at < 0 && ev.Kind == conntrack.Destroy && slices.Contains(h.ns.MayCollect(r.Span), ev.Entry.Orig) {
		h.ns.Collect(ev.Entry.Orig)
		h.events = append(h.events, h.ns.Events()...)
		at = h.nextEvent(ev.Entry.Orig)
	}
	if at < 0 {
		return []Difference{{r, ev.Entry.Tuples(), "event", string(ev.Kind), "none", ""}}
	}
	want := h.events[at]
	h.events = slices.Delete(slices.Clone(h.events), at, at+1)
	if want.Kind != ev.Kind {
		return []Difference{{r, ev.Entry.Tuples(), "event", string(ev.Kind), string(want.Kind), want.Why}}
	}
	// An event carries the time left at the moment when it was made: after its cause, before it was heard.
	r.Span.From = min(want.At.From, r.Span.To)
	diffs, n := h.compareEntry(r, byEvent, &want.Predicted, &ev.Entry)
	h.fields += n
	return diffs
}

func (h *hypothesis) nextEvent(t conntrack.Tuple) int {
	return slices.IndexFunc(h.events, func(e model.Event) bool { return e.Entry.Orig == t })
}

func (h *hypothesis) seeCount(r Record) []Difference {
	h.fields++
	n, _ := strconv.Atoi(r.Args)
	least, most := h.ns.Count(r.Span)
	if n >= least && n <= most {
		return nil
	}
	want := strconv.Itoa(least)
	if most != least {
		want += fmt.Sprintf("..%d", most)
	}
	return []Difference{{r, "namespace", "count of entries", r.Args, want, ""}}
}

func (h *hypothesis) seeStats(r Record) (diffs []Difference) {
	seen, err := parseStats(r.Args)
	if err != nil {
		return []Difference{{r, "namespace", "statistics", r.Args, "", err.Error()}}
	}
	want := h.ns.Stats()
	for _, name := range statNames() {
		h.fields++
		if seen[name] != want[name] {
			diffs = append(diffs, Difference{r, "namespace", "counter " + name, fmt.Sprint(seen[name]), fmt.Sprint(want[name]), ""})
		}
	}
	return diffs
}

func (h *hypothesis) seeHits(r Record) (diffs []Difference) {
	seen, err := model.ParseHits(r.Text)
	if err != nil {
		return []Difference{{r, "namespace", "rule counters", "unreadable", "", err.Error()}}
	}
	type place struct {
		table, chain string
		number       int
	}
	want := map[place]conntrack.Counters{}
	for _, hit := range h.ns.Rules().Hits() {
		want[place{hit.Table, hit.Chain, hit.Number}] = hit.Counters
	}
	for _, hit := range seen {
		h.fields++
		k := place{hit.Table, hit.Chain, hit.Number}
		w, ok := want[k]
		delete(want, k)
		if !ok || w != hit.Counters {
			model := "no such rule"
			if ok {
				model = fmt.Sprintf("%d:%d", w.Packets, w.Bytes)
			}
			diffs = append(diffs, Difference{r, "rule " + ruleName(hit), "packets:bytes", fmt.Sprintf("%d:%d", hit.Counters.Packets, hit.Counters.Bytes), model, ""})
		}
	}
	for k := range want {
		diffs = append(diffs, Difference{r, fmt.Sprintf("rule %s %s %d", k.table, k.chain, k.number), "rule", "absent", "present", ""})
	}
	return diffs
}

func ruleName(h model.Hit) string {
	if h.Comment != "" {
		return h.Comment
	}
	return fmt.Sprintf("%s %s %d", h.Table, h.Chain, h.Number)
}

// seeState compares an inventory of the namespace with what the inputs add up to, so that no input can
// be missing unnoticed.
func (h *hypothesis) seeState(r Record) []Difference {
	var want []string
	switch r.Args {
	case "sysctls":
		for k, v := range h.ns.Sysctls() {
			want = append(want, k+" "+v)
		}
		slices.Sort(want)
	case "links":
		want = h.ns.Links()
	case "addresses":
		want = h.ns.Addresses()
	case "routes":
		want = h.ns.Routes()
	default:
		return []Difference{{r, "namespace", "state", r.Args, "", "not known"}}
	}
	h.fields += len(want)
	got := textLines(r.Text)
	slices.Sort(got)
	if slices.Equal(got, want) {
		return nil
	}
	return []Difference{{r, "namespace", r.Args, strings.Join(minus(got, want), ", "), strings.Join(minus(want, got), ", "), "the recorded inputs add up to this"}}
}

func minus(a, b []string) []string {
	out := []string{}
	for _, s := range a {
		if !slices.Contains(b, s) {
			out = append(out, s)
		}
	}
	if len(out) == 0 {
		return []string{"nothing else"}
	}
	return out
}

// finish reports what was predicted and never seen, and takes over the surviving hypothesis.
func (run *replay) finish() {
	h := run.live[0]
	for _, other := range run.live {
		if len(other.left()) < len(h.left()) {
			h = other
		}
	}
	rep := &run.report
	if len(run.trace.Lost) == 0 {
		rep.Differences = append(rep.Differences, h.left()...)
	}
	rep.Reads, rep.Fields, rep.Packets = h.reads, h.fields, h.packets
	rep.Free = map[model.ChoiceKind]int{}
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

// left lists what is still expected at the end.
func (h *hypothesis) left() (diffs []Difference) {
	end := Record{}
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
