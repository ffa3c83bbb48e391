package lab

import (
	"fmt"
	"slices"
	"sort"
	"strings"

	"ctlab/checks"
	"ctlab/checks/conntrack"
)

// tables judges what was read of each node.
func (j *judgement) tables() {
	if !j.step.Want.NeedsTable() {
		return
	}
	if len(j.out.Snapshots) == 0 {
		j.add(WantResult{Pos: j.step.Want.Pos, Want: "a table", Got: "none was read"})
	}
	for i := range j.out.Snapshots {
		j.snapshot(j.step.Want, &j.out.Snapshots[i])
	}
}

func (j *judgement) snapshot(w *Want, s *Snapshot) {
	for i := range w.Entries {
		j.entry(&w.Entries[i], s)
	}
	if w.HasTable {
		j.table(w, s)
	}
	for _, h := range w.RuleHits {
		j.number(h.Pos, "rule-hits "+h.Rule, h.N, int64(hits(s, h.Rule)), -1)
	}
	if w.Still {
		res := WantResult{Pos: w.StillPos, Want: "counters: unchanged", OK: len(moved(s.Since)) == 0, Got: "no counter moved"}
		if !res.OK {
			res.Got = strings.Join(moved(s.Since), ", ")
		}
		j.add(res)
	}
	for _, c := range w.Counters {
		j.number(c.Pos, "counters "+c.Name, c.N, int64(s.Since[c.Name]), -1)
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

// hits of a rule; a name of the lab's own rules alone stands for all of its text's.
func hits(s *Snapshot, rule string) uint64 {
	n := s.Hits[rule]
	if strings.ContainsAny(rule, "/.") {
		return n
	}
	for name, packets := range s.Hits {
		if strings.HasPrefix(name, rule+".") {
			n += packets
		}
	}
	return n
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
	if w.Times != nil {
		times := j.held(w.Pos, "times", *w.Times, n, -1)
		res.OK, res.Want = times.OK, w.Want.Text+", "+times.Want
	}
	if !res.OK && n == 0 {
		res.Near = nearest(&w.Want, s.Entries)
	}
	j.add(res)
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
	j.add(res)
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
		j.add(res)
	}
}

func (p *PlacedEvent) matches(ev *conntrack.Event) bool {
	return ev.Kind == p.Kind && p.Want.Matches(&ev.Entry, false, -1)
}
