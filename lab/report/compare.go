package report

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"ctlab/checks/conntrack"
	"ctlab/checks/trace"
	"ctlab/lab"
)

// Comparison is a lab and its variants side by side.
type Comparison struct {
	Lab       string
	File      string
	About     string
	Kernel    string // release; "" of predictions
	Profile   string // of the model
	Simulated bool
	Took      time.Duration // of all runs, one after the other, and of reading the lab if that was timed
	Rows      []Row         // the lab as it is comes first
}

// Row is what came of one variant.
type Row struct {
	Variant   string // "" for the lab as it is
	About     string
	Lost      int // requests, of those of control clients none
	Sent      int
	Outage    time.Duration // the longest time without an answer for any client
	ForGood   bool          // some client had none any more at the end
	Deleted   int           // entries, by cleanups and conntrack steps
	Harmed    int           // healthy ones among them
	Entry     string        // the first client's at the end: backend, assured, stale
	Word      Word
	Verdict   lab.Verdict
	WantsMet  int
	Wants     int
	Agreement Agreement
	Unclear   string // the first reason why the comparison is inconclusive
	NotPlayed int    // steps
	ByHand    bool   // a conntrack step deleted entries; Word is of the time before
	Err       string
	Skipped   string // why it was not played, and what would mend that
}

// Word is what became of a lab's clients, in a word.
type Word string

// The words of a row. Partial ones say how many clients were lost: "22 of 40 lost".
const (
	Unharmed    Word = "unharmed"  // nothing was lost, and nothing is without the variant either
	HarmedWord  Word = "harmed"    // nothing was lost, but healthy entries were deleted
	Recovered   Word = "recovered" // something was lost, and every client is answered at the end, as the lab has it
	Healed      Word = "healed"    // every client is answered at the end, and was not without the variant
	BrokenWord  Word = "broken"    // no client is
	RefusedWord Word = "refused"   // nor this, and each is told so
	CutOff      Word = "unreachable"
	NotAllowed  Word = "not permitted"
	WrongServer Word = "WRONG SERVER" // who answers was never a backend
	SkippedWord Word = "skipped"      // this machine lacks what it needs
	NotRun      Word = "not run"
)

// Agreement is what the comparison of kernel and model came to.
type Agreement string

// The agreements.
const (
	Agreed       Agreement = "agree"
	Differ       Agreement = "differ"
	Inconclusive Agreement = "inconclusive"
	LeftOut      Agreement = "left-out"  // the lab says that the model takes no part
	Predicted    Agreement = "predicted" // nothing was asked of a kernel
	NotCompared  Agreement = "skipped"   // nothing was played
)

// Compare puts the runs of one lab side by side: the lab as it is first, then its variants.
func Compare(runs []*lab.Result) Comparison {
	if len(runs) == 0 {
		return Comparison{}
	}
	first := runs[0]
	c := Comparison{Lab: first.Lab.Name, File: first.Lab.File, About: first.Lab.About, Profile: first.Setting.Profile, Simulated: first.Setting.Simulated}
	for _, r := range runs {
		if !c.Simulated && c.Kernel == "" { // the first may have been skipped
			c.Kernel, c.Profile = r.Setting.Kernel, r.Setting.Profile
		}
		c.Took += r.Wall
		c.Rows = append(c.Rows, newRow(r))
	}
	c.words(runs)
	return c
}

func newRow(r *lab.Result) Row {
	all := requests(r)
	row := Row{Variant: r.Lab.Variant, About: about(r.Lab), Verdict: r.Verdict(), NotPlayed: notPlayed(r), Entry: lastEntry(r, all)}
	for _, a := range all {
		row.Sent++
		if a.Class != lab.Answered {
			row.Lost++
		}
	}
	row.Agreement, row.Unclear = agreement(r)
	row.Outage, row.ForGood = outages(all, virtual(r))
	for i := range r.Steps {
		for _, d := range r.Steps[i].Outcome.Deleted {
			row.Deleted++
			if d.Healthy {
				row.Harmed++
			}
		}
	}
	row.WantsMet, row.Wants = r.Wants()
	row.Err, row.Skipped = r.Problem(), r.Skipped
	return row
}

// about is the text of the variant that was played, or of the lab.
func about(l *lab.Lab) string {
	for _, v := range l.Variants {
		if v.Name == l.Variant && v.About != "" {
			return v.About
		}
	}
	return l.About
}

// requests are all of a run's, each once, without those of control clients.
func requests(r *lab.Result) []lab.Attempt {
	type key struct {
		client string
		number int
	}
	seen := map[key]bool{}
	var out []lab.Attempt
	for i := range r.Steps {
		for _, a := range r.Steps[i].Outcome.Attempts {
			k := key{a.Client, a.Number}
			if a.Control || seen[k] {
				continue
			}
			seen[k] = a.Number > 0
			out = append(out, a)
		}
	}
	return out
}

func agreement(r *lab.Result) (a Agreement, unclear string) {
	switch {
	case r.Skipped != "":
		return NotCompared, ""
	case r.Setting.Simulated:
		return Predicted, ""
	case r.Lab.SkipModel != "":
		return LeftOut, ""
	case len(r.Comparisons) == 0:
		return Inconclusive, "nothing was recorded"
	}
	a = Agreed
	for _, c := range r.Comparisons {
		switch c.Verdict() {
		case trace.Different:
			return Differ, ""
		case trace.Inconclusive:
			a, unclear = Inconclusive, "nothing was read"
			if len(c.Lost) > 0 {
				unclear = c.Lost[0]
			}
		}
	}
	return a, unclear
}

// words gives each row its word. What a variant heals is seen in the first row: where nothing is harmed,
// nothing is healed.
func (c *Comparison) words(runs []*lab.Result) {
	for i, r := range runs {
		c.Rows[i].Word = word(r, &c.Rows[i])
	}
	if runs[0].Lab.Variant != "" || c.Rows[0].Word == Unharmed || c.Rows[0].Word == SkippedWord {
		return
	}
	base := c.Rows[0].Word
	for i := range c.Rows {
		if w := c.Rows[i].Word; w == Unharmed || w == Recovered && base != Recovered {
			c.Rows[i].Word = Healed
		}
	}
}

// cure is when a step of the lab first deleted entries by hand, or the end.
func cure(r *lab.Result) time.Duration {
	for i := range r.Steps {
		if s := &r.Steps[i]; s.Step.Kind == lab.Table && len(s.Outcome.Deleted) > 0 {
			return s.Outcome.Began
		}
	}
	return end
}

// word looks at the last request of each client. What a step of the lab cures by hand does not count: the
// word is that of the time before.
func word(r *lab.Result, row *Row) Word {
	if r.Skipped != "" {
		return SkippedWord
	}
	hand := cure(r)
	row.ByHand = hand != end
	before := slices.DeleteFunc(requests(r), func(a lab.Attempt) bool { return a.At >= hand })
	if r.Err != nil || len(before) == 0 {
		return NotRun
	}
	past, clients := newHistory(r), byClient(before)
	losses := map[lab.Class]int{}
	lost := 0
	for _, as := range clients {
		last := &as[len(as)-1]
		if wrongServer(r, past, last) {
			return WrongServer
		}
		if last.Class != lab.Answered {
			losses[last.Class]++
			lost++
		}
	}
	switch {
	case lost == 0 && slices.ContainsFunc(before, func(a lab.Attempt) bool { return a.Class != lab.Answered }):
		return Recovered
	case lost == 0 && row.Harmed > 0:
		return HarmedWord
	case lost == 0:
		return Unharmed
	case lost < len(clients):
		return Word(fmt.Sprintf("%d of %d lost", lost, len(clients)))
	}
	for class, w := range map[lab.Class]Word{lab.Refused: RefusedWord, lab.Unreachable: CutOff, lab.NotPermitted: NotAllowed} {
		if losses[class] == lost {
			return w
		}
	}
	return BrokenWord
}

// wrongServer reports whether a request to a service was answered by somebody who was never its backend:
// by who was given the address of one, or through a stale entry. (A cache that answers at the service's
// address without connection tracking is no wrong server.)
func wrongServer(r *lab.Result, past *history, a *lab.Attempt) bool {
	svc := serviceOf(r.Lab, a.Tuple)
	if a.Class != lab.Answered || svc == nil || slices.Contains(past.ever(svc.Name), a.By) {
		return false
	}
	return a.After != nil && a.After.Stale || slices.ContainsFunc(past.deaths, func(d death) bool { return d.reuse == a.By })
}

// lastEntry describes the entry of the first client's flow at the end: its backend, and whether it is
// assured and stale. Where the client's requests have entries of their own, they are counted.
func lastEntry(r *lab.Result, all []lab.Attempt) string {
	if len(all) == 0 {
		return "-"
	}
	tuples, node := map[conntrack.Tuple]bool{}, ""
	for _, a := range byClient(all)[0] {
		tuples[a.Tuple], node = true, a.Node
	}
	names := NewNames(r.Lab)
	found := counts{}
	for _, snap := range r.Evidence.Final {
		for i := range snap.Entries {
			if e := &snap.Entries[i]; snap.Node == node && tuples[e.Entry.Orig] {
				found.add(state(r.Lab, names, e, len(tuples) == 1))
			}
		}
	}
	switch {
	case len(found.names) == 0:
		return "none"
	case len(tuples) == 1:
		return found.names[0]
	}
	slices.Sort(found.names)
	var parts []string
	for _, n := range found.names {
		parts = append(parts, fmt.Sprintf("%d on %s", found.n[n], n))
	}
	return strings.Join(parts, ", ")
}

// state is where an entry leads, and (of a single one) whether it is assured.
func state(l *lab.Lab, names Names, e *lab.Seen, single bool) string {
	s := names.addr(e.Entry.Reply.Src)
	if !dnatted(&e.Entry) && serviceOf(l, e.Entry.Orig) != nil {
		s = "no DNAT"
	}
	if single && e.Entry.Status.Has(conntrack.Assured) {
		s += " assured"
	}
	if e.Stale {
		s += " stale"
	}
	return s
}
