package lab

import (
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"
)

// attemptsOf are the requests of the control clients, or those of the others.
func attemptsOf(all []Attempt, control bool) []Attempt {
	var as []Attempt
	for _, a := range all {
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

// answers counts the answered requests, and by whom they were.
func answers(as []Attempt) (answered int64, byNode map[string]int64) {
	byNode = map[string]int64{}
	for _, a := range as {
		if a.Class == Answered {
			answered++
			byNode[a.By]++
		}
	}
	return answered, byNode
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

// traffic holds requests against what is wanted of them. All are the step's, with those of the control
// clients; wants without "control" are about the others.
func (j *judgement) traffic(w *TrafficWant, all []Attempt, prefix string) {
	if w == nil {
		return
	}
	j.requests(w, attemptsOf(all, false), j.step.Clients, prefix)
	if w.Control != nil {
		j.requests(w.Control, attemptsOf(all, true), j.controlled(), prefix+"control ")
	}
}

// controlled are the clients of the step that have a control.
func (j *judgement) controlled() []string {
	return slices.DeleteFunc(slices.Clone(j.step.Clients), func(name string) bool {
		c := j.run.Lab.Client(name)
		return c == nil || !c.Control
	})
}

// requests holds requests of some clients against what is wanted of them.
func (j *judgement) requests(w *TrafficWant, as []Attempt, clients []string, prefix string) {
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
	for _, c := range w.Clients {
		j.clients(c, as, prefix)
	}
	j.latency(w.Latency, as, prefix)
	if w.Outage != nil {
		o := LongestOutage(as, j.out.Ended)
		j.timed(*w.Outage, prefix+"outage", o.Took, o.note())
	}
	if w.Each != nil {
		j.each(w.Each, as, clients, prefix)
	}
}

// by holds who answered against who should have. Without a number it means every answer, and that there
// was one.
func (j *judgement) by(b ByWant, as []Attempt, prefix string) {
	answered, byNode := answers(as)
	if !b.N.All {
		j.number(b.Pos, prefix+"by "+b.Node, b.N, byNode[b.Node], answered)
		return
	}
	res := WantResult{Pos: b.Pos, Want: prefix + "by: " + b.Node, Got: nodeCounts(byNode)}
	res.OK = answered > 0 && byNode[b.Node] == answered
	j.add(res)
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

// each judges every client by itself. A want is met if all of them meet it; else it says who
// does not.
func (j *judgement) each(w *TrafficWant, as []Attempt, clients []string, prefix string) {
	byClient := map[string][]Attempt{}
	for _, a := range as {
		byClient[a.Client] = append(byClient[a.Client], a)
	}
	j.forEach(clients, func(one *judgement, i int) {
		one.requests(w, byClient[clients[i]], clients[i:i+1], prefix+"each ")
	})
}

// fewOf shows the first few of many.
func fewOf(texts []string) string {
	const most = 3
	if len(texts) <= most {
		return strings.Join(texts, "; ")
	}
	return fmt.Sprintf("%s; and %d more", strings.Join(texts[:most], "; "), len(texts)-most)
}

// clientsOf are the clients all of whose requests ended in one way (a class, lost, or by.NODE), sorted by
// their names.
func clientsOf(as []Attempt, what string) []string {
	node, by := strings.CutPrefix(what, "by.")
	ended := map[string]bool{}
	for _, a := range as {
		so := count([]Attempt{a}, what) == 1
		if by {
			so = a.Class == Answered && a.By == node
		}
		before, seen := ended[a.Client]
		ended[a.Client] = so && (before || !seen)
	}
	var names []string
	for name, all := range ended {
		if all {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	return names
}

// clients holds which clients ended in a way against which should have.
func (j *judgement) clients(w ClientsWant, as []Attempt, prefix string) {
	got := clientsOf(as, w.What)
	want := slices.Sorted(slices.Values(w.Names))
	res := WantResult{Pos: w.Pos, Want: prefix + "clients " + w.What + ": " + nameList(want)}
	if w.SameAs != "" {
		all, out, rest := j.resultsOf(w.SameAs)
		want = clientsOf(attemptsOf(all, false), strings.TrimPrefix(rest, "clients."))
		res.Want = fmt.Sprintf("%sclients %s: same as %s (%s)", prefix, w.What, w.SameAs, nameList(want))
		if out.NotPlayed != "" {
			res.Got = "not played: " + out.NotPlayed
			j.add(res)
			return
		}
	}
	if res.OK = slices.Equal(got, want); res.OK {
		res.Got = nameList(got)
	} else {
		res.Got = difference(got, want)
	}
	j.add(res)
}

func nameList(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return some(names)
}

// difference says who is missing and who is too much.
func difference(got, want []string) string {
	without := func(a, b []string) []string {
		return slices.DeleteFunc(slices.Clone(a), func(n string) bool { return slices.Contains(b, n) })
	}
	var parts []string
	if missing := without(want, got); len(missing) > 0 {
		parts = append(parts, "without "+some(missing))
	}
	if extra := without(got, want); len(extra) > 0 {
		parts = append(parts, "also "+some(extra))
	}
	return strings.Join(parts, "; ")
}

// latency holds percentiles of the times of answered requests against wanted ones.
func (j *judgement) latency(wants []TimeWant, as []Attempt, prefix string) {
	if len(wants) == 0 {
		return
	}
	var times []time.Duration
	for _, a := range as {
		if a.Class == Answered {
			times = append(times, a.Took)
		}
	}
	slices.Sort(times)
	for _, w := range wants {
		what := prefix + "latency " + w.What
		if len(times) == 0 {
			j.add(WantResult{Pos: w.Pos, Want: what + ": " + w.Text, Got: "nothing was answered"})
			continue
		}
		j.timed(w, what, Percentile(times, map[string]int{"p50": 50, "p99": 99, "max": 100}[w.What]), "")
	}
}

// Percentile of sorted times by nearest rank: the smallest one that at least p percent do not exceed. There
// must be one at least.
func Percentile(sorted []time.Duration, p int) time.Duration {
	rank := (len(sorted)*p + 99) / 100
	return sorted[max(0, rank-1)]
}
