package trace

import (
	"fmt"
	"slices"
	"strings"

	"ctlab/checks/conntrack"
	"ctlab/checks/model"
)

// view is what there was to be seen at one moment of a look.
type view struct {
	table       []model.Predicted
	stats, more map[string]uint32
	least, most int
	hits        map[place]conntrack.Counters
}

// place is where a rule stands.
type place struct {
	table, chain string
	number       int
}

// readable is an entry that a read may find, in each of the forms that it had during the read.
type readable struct {
	versions []model.Predicted
	optional bool // there was a moment at which it was not there
}

// glimpse notes what a look would see now. It reads a copy: what a read evicts is evicted when it is over.
func (h *hypothesis) glimpse(a *act) {
	r := a.parts[0]
	var v view
	switch r.Kind {
	case Get, Dump:
		v.table = tableOf(h.ns.Clone(model.FirstOption), r)
	default:
		v = h.view(r)
	}
	views := slices.Clone(h.views[a])
	h.setViews(a, append(views, v))
}

func (h *hypothesis) setViews(a *act, views []view) {
	next := map[*act][]view{}
	for k, v := range h.views {
		next[k] = v
	}
	next[a] = views
	h.views = next
}

// tableOf reads the table as a get or dump does.
func tableOf(n *model.Namespace, r Record) []model.Predicted {
	if r.Kind == Dump {
		return n.Dump(r.Span)
	}
	k, err := conntrack.ParseKey(r.Args)
	if err != nil {
		return nil
	}
	if p, ok := n.GetKey(r.Span, k); ok {
		return []model.Predicted{p}
	}
	return nil
}

// view is what a look at anything but the table sees now.
func (h *hypothesis) view(r Record) view {
	v := view{}
	switch r.Kind {
	case Stats:
		v.stats, v.more = map[string]uint32{}, map[string]uint32{}
		for _, name := range statNames() {
			v.stats[name], v.more[name] = h.ns.StatRange(name)
		}
	case Count:
		v.least, v.most = h.ns.Count(r.Span)
	case Hits, Hits6:
		rules := h.ns.Rules()
		if r.Kind == Hits6 {
			rules = h.ns.Rules6()
		}
		v.hits = map[place]conntrack.Counters{}
		for _, hit := range rules.Hits() {
			v.hits[place{hit.Table, hit.Chain, hit.Number}] = hit.Counters
		}
	}
	return v
}

// closeLook ends a look in every hypothesis.
func (run *replay) closeLook(a *act) {
	r := a.parts[0]
	run.each(r, func(h *hypothesis) []Difference {
		views := h.views[a]
		h.setViews(a, nil)
		delete(h.views, a)
		if r.Kind == Get || r.Kind == Dump {
			return run.closeRead(h, a, views)
		}
		views = append(slices.Clone(views), h.view(r))
		if !same(views) {
			h.declare(a)
		}
		return h.compareViews(r, views)
	})
}

// closeRead holds what was found against the versions that each entry had.
func (run *replay) closeRead(h *hypothesis, a *act, views []view) (diffs []Difference) {
	if err := h.apply(a.parts[0]); err != nil {
		run.lose("%v", err)
	}
	for _, v := range views {
		h.addVersions(v.table)
	}
	for _, rd := range h.reading {
		if rd.optional || len(rd.versions) > 1 {
			h.declare(a)
		}
	}
	for _, j := range a.found {
		diffs = append(diffs, h.see(run.trace.Records[j])...)
	}
	return diffs
}

// addVersions adds what was to be read at another moment of the same read.
func (h *hypothesis) addVersions(table []model.Predicted) {
	was := map[int]bool{} // serials
	for _, p := range table {
		was[p.Serial] = true
		i := slices.IndexFunc(h.reading, func(rd readable) bool { return rd.versions[0].Serial == p.Serial })
		if i < 0 {
			h.reading = append(h.reading, readable{versions: []model.Predicted{p}, optional: true})
			continue
		}
		rd := &h.reading[i]
		if !slices.ContainsFunc(rd.versions, func(v model.Predicted) bool { return samePrediction(v, p) }) {
			rd.versions = append(slices.Clip(rd.versions), p)
		}
	}
	for i, rd := range h.reading {
		if !was[rd.versions[0].Serial] {
			h.reading[i].optional = true
		}
	}
}

func samePrediction(a, b model.Predicted) bool {
	return a.Expiry == b.Expiry && a.Entry.String() == b.Entry.String()
}

func same(views []view) bool {
	first := fmt.Sprint(views[0])
	return !slices.ContainsFunc(views, func(v view) bool { return fmt.Sprint(v) != first })
}

// compareViews holds a look that took its time against all that there was to be seen meanwhile.
func (h *hypothesis) compareViews(r Record, views []view) []Difference {
	switch r.Kind {
	case Stats:
		return h.compareStats(r, views)
	case Count:
		return h.compareCount(r, views)
	case Hits, Hits6:
		return h.compareHits(r, views)
	}
	return h.see(r)
}

func (h *hypothesis) compareCount(r Record, views []view) []Difference {
	h.fields++
	least, most := views[0].least, views[0].most
	for _, v := range views {
		least, most = min(least, v.least), max(most, v.most)
	}
	var n int
	if _, err := fmt.Sscan(r.Args, &n); err == nil && n >= least && n <= most {
		return nil
	}
	return []Difference{{r, "namespace", "count of entries", r.Args, numbers(uint32(least), uint32(most)), ""}}
}

func (h *hypothesis) compareStats(r Record, views []view) (diffs []Difference) {
	seen, err := parseStats(r.Args)
	if err != nil {
		return []Difference{{r, "namespace", "statistics", r.Args, "", err.Error()}}
	}
	for _, name := range statNames() {
		h.fields++
		least, most := views[0].stats[name], views[0].more[name]
		for _, v := range views {
			least, most = min(least, v.stats[name]), max(most, v.more[name])
		}
		if n := seen[name]; n < least || n > most {
			diffs = append(diffs, Difference{r, "namespace", "counter " + name, fmt.Sprint(n), numbers(least, most), ""})
		}
	}
	return diffs
}

func numbers(least, most uint32) string {
	if least == most {
		return fmt.Sprint(least)
	}
	return fmt.Sprintf("%d..%d", least, most)
}

// compareHits: each chain is read at one moment, not all at the same.
func (h *hypothesis) compareHits(r Record, views []view) (diffs []Difference) {
	seen, err := model.ParseHits(r.Text)
	if err != nil {
		return []Difference{{r, "namespace", "rule counters", "unreadable", "", err.Error()}}
	}
	type chain struct{ table, name string }
	chains := map[chain][]model.Hit{}
	var order []chain
	there := map[place]bool{}
	for _, hit := range seen {
		c := chain{hit.Table, hit.Chain}
		if chains[c] == nil {
			order = append(order, c)
		}
		chains[c] = append(chains[c], hit)
		there[place{hit.Table, hit.Chain, hit.Number}] = true
		h.fields++
	}
	for _, c := range order {
		var nearest []Difference
		for i, v := range slices.Backward(views) {
			d := chainDiffs(r, chains[c], v)
			if i == len(views)-1 || len(d) < len(nearest) {
				nearest = d
			}
		}
		diffs = append(diffs, nearest...)
	}
	for k := range views[len(views)-1].hits {
		everywhere := !slices.ContainsFunc(views, func(v view) bool { _, ok := v.hits[k]; return !ok })
		if everywhere && !there[k] {
			diffs = append(diffs, Difference{r, fmt.Sprintf("rule %s %s %d", k.table, k.chain, k.number), "rule", "absent", "present", ""})
		}
	}
	slices.SortFunc(diffs, func(a, b Difference) int { return strings.Compare(a.What, b.What) })
	return diffs
}

func chainDiffs(r Record, seen []model.Hit, v view) (diffs []Difference) {
	for _, hit := range seen {
		w, ok := v.hits[place{hit.Table, hit.Chain, hit.Number}]
		if ok && w == hit.Counters {
			continue
		}
		want := "no such rule"
		if ok {
			want = fmt.Sprintf("%d:%d", w.Packets, w.Bytes)
		}
		diffs = append(diffs, Difference{r, "rule " + ruleName(hit), "packets:bytes", fmt.Sprintf("%d:%d", hit.Counters.Packets, hit.Counters.Bytes), want, ""})
	}
	return diffs
}
