package lab

import (
	"fmt"
	"slices"
	"sort"
	"strings"

	"ctlab/checks"
	"ctlab/checks/conntrack"
)

// WantResult is one thing that a lab demanded, and what there was.
type WantResult struct {
	Pos  Pos
	Want string // as the lab says it
	Got  string
	OK   bool
	Near *Near // for an entry that is missing: the nearest one
}

// Near is the entry that comes nearest to a wanted one, and the words in which it differs.
type Near struct {
	Entry   Seen
	Differs []string
}

// judge holds a step's outcome against its wants.
func judge(r *Result, s *Step, out *Outcome) []WantResult {
	if s.Want == nil {
		return nil
	}
	j := &judgement{run: r, step: s, out: out}
	j.traffic(s.Want.Traffic, j.attempts(false), "")
	if d := s.Want.Deleted; d != nil {
		j.number(d.Pos, "deleted", *d, int64(len(out.Deleted)), -1)
	}
	for i := range out.Snapshots {
		j.snapshot(s.Want, &out.Snapshots[i])
	}
	return j.results
}

type judgement struct {
	run     *Result
	step    *Step
	out     *Outcome
	results []WantResult
}

func (j *judgement) attempts(control bool) []Attempt {
	return attemptsOf(j.out, control)
}

func attemptsOf(out *Outcome, control bool) []Attempt {
	var as []Attempt
	for _, a := range out.Attempts {
		if a.Control == control {
			as = append(as, a)
		}
	}
	return as
}

// count is how many attempts are of a class, or "sent" or "lost".
func count(as []Attempt, what string) int64 {
	n := int64(0)
	for _, a := range as {
		if what == "sent" || what == "lost" && a.Class != Answered || string(a.Class) == what {
			n++
		}
	}
	return n
}

// summary lists the classes that occurred, for "got".
func summary(as []Attempt) string {
	var parts []string
	for _, c := range Classes() {
		if n := count(as, string(c)); n > 0 {
			parts = append(parts, fmt.Sprintf("%s %d", c, n))
		}
	}
	if len(parts) == 0 {
		return "nothing was sent"
	}
	return strings.Join(parts, ", ")
}

func (j *judgement) traffic(w *TrafficWant, as []Attempt, prefix string) {
	if w == nil {
		return
	}
	for _, c := range w.Counts {
		n := count(as, c.What)
		j.number(c.Pos, prefix+c.What, c.N, n, int64(len(as)))
		if last := &j.results[len(j.results)-1]; !last.OK {
			last.Got = fmt.Sprintf("%d of %d: %s", n, len(as), summary(as))
		}
	}
	for _, b := range w.By {
		j.by(b, as, prefix)
	}
	j.traffic(w.Control, j.attempts(true), prefix+"control ")
}

// by holds who answered against who should have. Without a number it means every answer, and that there
// was one.
func (j *judgement) by(b ByWant, as []Attempt, prefix string) {
	answered, byNode := int64(0), map[string]int64{}
	for _, a := range as {
		if a.Class == Answered {
			answered++
			byNode[a.By]++
		}
	}
	if !b.N.All {
		j.number(b.Pos, prefix+"by "+b.Node, b.N, byNode[b.Node], answered)
		return
	}
	res := WantResult{Pos: b.Pos, Want: prefix + "by: " + b.Node, Got: nodeCounts(byNode)}
	res.OK = answered > 0 && byNode[b.Node] == answered
	j.results = append(j.results, res)
}

func nodeCounts(byNode map[string]int64) string {
	if len(byNode) == 0 {
		return "nobody"
	}
	var parts []string
	for n, c := range byNode {
		parts = append(parts, fmt.Sprintf("%s %d", n, c))
	}
	sort.Strings(parts)
	return strings.Join(parts, ", ")
}

// number holds a count against a wanted number; of is what "all" means.
func (j *judgement) number(pos Pos, what string, want Number, got, of int64) {
	res := WantResult{Pos: pos, Want: what + ": " + want.Text, Got: fmt.Sprint(got)}
	switch {
	case want.SameAs != "":
		other, err := j.lookup(want.SameAs)
		res.OK = err == nil && other == got
		res.Want = fmt.Sprintf("%s: same as %s (%d)", what, want.SameAs, other)
		if err != nil {
			res.Got = err.Error()
		}
	case want.All:
		res.OK = got == of && of > 0
		res.Got = fmt.Sprintf("%d of %d", got, of)
	default:
		res.OK = want.Range.Contains(got)
	}
	j.results = append(j.results, res)
}

// lookup finds [STEP.][control.]FIELD of an outcome.
func (j *judgement) lookup(path string) (int64, error) {
	out, parts := j.out, strings.Split(path, ".")
	for i := range j.run.Steps {
		if s := &j.run.Steps[i]; s.Step.Name != "" && s.Step.Name == parts[0] && len(parts) > 1 {
			out, parts = &s.Outcome, parts[1:]
			break
		}
	}
	control := parts[0] == "control"
	if control {
		parts = parts[1:]
	}
	if len(parts) != 1 {
		return 0, fmt.Errorf("same-as: no field %q", path)
	}
	if parts[0] == "deleted" {
		return int64(len(out.Deleted)), nil
	}
	return count(attemptsOf(out, control), parts[0]), nil
}

func (j *judgement) snapshot(w *Want, s *Snapshot) {
	for i := range w.Entries {
		j.entry(&w.Entries[i], s)
	}
	if w.HasTable {
		j.table(w, s)
	}
	for _, h := range w.RuleHits {
		j.number(h.Pos, "rule-hits "+h.Rule, h.N, int64(s.Hits[h.Rule]), -1)
	}
	if w.Still {
		res := WantResult{Pos: w.StillPos, Want: "counters: unchanged", OK: len(moved(s.Stats)) == 0, Got: "no counter moved"}
		if !res.OK {
			res.Got = strings.Join(moved(s.Stats), ", ")
		}
		j.results = append(j.results, res)
	}
	for _, c := range w.Counters {
		j.number(c.Pos, "counters "+c.Name, c.N, int64(s.Stats[c.Name]), -1)
	}
	if w.Stale != nil {
		n := int64(0)
		for _, e := range s.Entries {
			if e.Stale {
				n++
			}
		}
		j.number(w.Stale.Pos, "stale", *w.Stale, n, int64(len(s.Entries)))
	}
	j.events(w, s)
}

// moved lists counters that are not zero.
func moved(stats map[string]uint32) []string {
	var out []string
	for name, n := range stats {
		if n != 0 {
			out = append(out, fmt.Sprintf("%s +%d", name, n))
		}
	}
	sort.Strings(out)
	return out
}

func (j *judgement) entry(w *PlacedEntry, s *Snapshot) {
	n := int64(0)
	for i := range s.Entries {
		if e := &s.Entries[i]; w.Want.Matches(&e.Entry, e.Stale, e.Age) {
			n++
		}
	}
	res := WantResult{Pos: w.Pos, Want: w.Want.Text, Got: plural(n, "such entry", "such entries"), OK: w.Want.Times.Contains(n)}
	if !res.OK && n == 0 {
		res.Near = nearest(&w.Want, s.Entries)
	}
	j.results = append(j.results, res)
}

func plural(n int64, one, many string) string {
	switch n {
	case 0:
		return "no " + one
	case 1:
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

func nearest(w *checks.EntryWant, entries []Seen) (best *Near) {
	for i := range entries {
		e := entries[i]
		differs := w.Mismatch(&e.Entry, e.Stale, e.Age)
		if best == nil || len(differs) < len(best.Differs) {
			best = &Near{e, differs}
		}
	}
	return best
}

// table demands that each line is met and that every entry is meant by some line.
func (j *judgement) table(w *Want, s *Snapshot) {
	for i := range w.Table {
		j.entry(&w.Table[i], s)
	}
	pos := w.Pos
	if len(w.Table) > 0 {
		pos = w.Table[0].Pos
	}
	var extra []string
	for i := range s.Entries {
		e := &s.Entries[i]
		meant := slices.ContainsFunc(w.Table, func(p PlacedEntry) bool { return p.Want.Matches(&e.Entry, e.Stale, e.Age) })
		if !meant {
			extra = append(extra, e.Entry.Tuples())
		}
	}
	res := WantResult{Pos: pos, Want: "table: nothing else", OK: len(extra) == 0, Got: "nothing else"}
	if !res.OK {
		res.Got = strings.Join(extra, "; ")
	}
	j.results = append(j.results, res)
}

// events demands the wanted events in their order, with others between; "no" events must not occur at all.
func (j *judgement) events(w *Want, s *Snapshot) {
	next := 0
	for i := range w.Events {
		want := &w.Events[i]
		at := slices.IndexFunc(s.Events[min(next, len(s.Events)):], func(ev conntrack.Event) bool { return want.matches(&ev) })
		if want.No {
			at = slices.IndexFunc(s.Events, func(ev conntrack.Event) bool { return want.matches(&ev) })
		}
		res := WantResult{Pos: want.Pos, Want: want.Want.Text, OK: at >= 0 != want.No, Got: "no such event"}
		switch {
		case at >= 0 && want.No:
			res.Got = s.Events[at].String()
		case at >= 0:
			res.Got = "seen"
			next += at + 1
		}
		j.results = append(j.results, res)
	}
}

func (p *PlacedEvent) matches(ev *conntrack.Event) bool {
	return ev.Kind == p.Kind && p.Want.Matches(&ev.Entry, false, -1)
}
