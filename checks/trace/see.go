package trace

import (
	"fmt"
	"slices"
	"strings"

	"ctlab/checks/conntrack"
	"ctlab/checks/model"
)

// see holds one observation against the hypothesis.
func (h *hypothesis) see(r Record) []Difference {
	switch r.Kind {
	case Left:
		return h.seeLeft(r)
	case CTInfo:
		return h.seeCTInfo(r)
	case Entry:
		return h.seeEntry(r)
	case Absent:
		return h.seeAbsent(r)
	case Dumped:
		return h.seeDumped(r)
	case Ended:
		h.ended = true
		h.endCTInfo(r.At)
	case Event:
		return h.seeEvent(r)
	case Count, Stats, Hits, Hits6:
		return h.compareViews(r, []view{h.view(r)})
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
	if len(h.reading) == 0 || h.reading[0].optional {
		h.reading = nil
		return nil
	}
	p := h.reading[0].versions[0]
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
	at := -1
	var nearest []Difference
	for i, rd := range h.reading {
		if !h.single && rd.versions[0].Entry.Orig != e.Orig {
			continue
		}
		for _, p := range rd.versions {
			diffs, n := h.compareEntry(r, how, &p, &e)
			h.fields += n
			if at < 0 || len(diffs) < len(nearest) {
				at, nearest = i, diffs
			}
		}
	}
	if at < 0 {
		return []Difference{{r, e.Tuples(), "entry", "present", "absent", "no input made it, or its time is up"}}
	}
	h.reading = slices.Delete(slices.Clone(h.reading), at, at+1)
	return nearest
}

func (h *hypothesis) seeDumped(r Record) (diffs []Difference) {
	if !h.open || h.single {
		return unread(r)
	}
	h.open = false
	h.reads++
	h.fields++
	for _, rd := range h.reading {
		p := rd.versions[0]
		if p.Undecided { // it was evicted
			h.ns.Collect(r.Span, &p.Entry)
			h.events = append(h.events, h.ns.Events()...)
			h.choices = append(slices.Clip(h.choices), model.Choice{Kind: model.ChooseTiming, Options: 2, Subject: "had " + p.Entry.Orig.Line() + " expired when it was dumped?"})
		}
		if !rd.optional {
			diffs = append(diffs, Difference{r, p.Entry.Tuples(), "entry", "absent", "present", p.WhyTimeout})
		}
	}
	h.reading = nil
	return diffs
}

// seeEvent: the events of one entry come in the order in which they were predicted. Entries that clashed have the
// same original tuple, so that it takes both tuples to know one. The collector may take an expired entry at any
// moment.
func (h *hypothesis) seeEvent(r Record) []Difference {
	ev, err := conntrack.ParseEvent(r.Args)
	if err != nil {
		return []Difference{{r, "event", "line", r.Args, "", err.Error()}}
	}
	h.fields++
	exact := func(e model.Event) bool { return e.Entry.Key() == ev.Entry.Key() && e.Entry.Reply == ev.Entry.Reply }
	at := slices.IndexFunc(h.events, exact)
	if at < 0 && ev.Kind == conntrack.Destroy && h.ns.MayCollect(r.Span, &ev.Entry) {
		h.ns.Collect(r.Span, &ev.Entry)
		h.events = append(h.events, h.ns.Events()...)
		at = slices.IndexFunc(h.events, exact)
	}
	if at < 0 { // what differs may be the reply tuple
		at = slices.IndexFunc(h.events, func(e model.Event) bool { return e.Entry.Orig == ev.Entry.Orig })
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
