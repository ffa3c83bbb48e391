package lab

import (
	"fmt"
	"slices"
	"strings"
	"time"
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

// judge holds the outcome of a step that was played against its wants.
func judge(r *Result, s *Step, out *Outcome) []WantResult {
	j := newJudgement(r, s, out)
	j.awaited()
	if s.Want == nil {
		return j.results
	}
	j.traffic(s.Want.Traffic, r.Judged(s, out), "")
	if d := s.Want.Deleted; d != nil {
		j.number(d.Pos, "deleted", *d, int64(len(out.Deleted)), -1)
	}
	j.programs(s.Want)
	j.packets()
	j.tables()
	return j.results
}

// judgeTables is the part of judge that is about tables.
func judgeTables(r *Result, s *Step, out *Outcome) []WantResult {
	j := newJudgement(r, s, out)
	j.tables()
	return j.results
}

type judgement struct {
	run     *Result
	step    *Step
	out     *Outcome
	results []WantResult
}

func newJudgement(r *Result, s *Step, out *Outcome) *judgement {
	return &judgement{run: r, step: s, out: out}
}

func (j *judgement) add(res WantResult) { j.results = append(j.results, res) }

// Judged are the requests that the step's wants are about, those of control clients among them: all of the
// step's, or only those that were sent behind the step that since names.
func (r *Result) Judged(s *Step, out *Outcome) []Attempt {
	if s.Kind != Stop || s.Since == "" {
		return out.Attempts
	}
	before := r.named(s.Since)
	if before == nil {
		return out.Attempts
	}
	var as []Attempt
	for _, a := range out.Attempts {
		if a.At >= before.Outcome.Ended {
			as = append(as, a)
		}
	}
	return as
}

// named is the step of a name among those that were played, or nil.
func (r *Result) named(name string) *StepResult {
	for i := range r.Steps {
		if s := &r.Steps[i]; s.Step.Name != "" && s.Step.Name == name {
			return s
		}
	}
	return nil
}

// number judges a count; of is what "all" means.
func (j *judgement) number(pos Pos, what string, want Number, got, of int64) {
	j.add(j.held(pos, what, want, got, of))
}

// held is a count held against a wanted number.
func (j *judgement) held(pos Pos, what string, want Number, got, of int64) WantResult {
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
	return res
}

// resultsOf are the results of the step that a path [STEP.]REST leads to, and REST.
func (j *judgement) resultsOf(path string) (as []Attempt, out *Outcome, rest string) {
	first, behind, dotted := strings.Cut(path, ".")
	if s := j.run.named(first); dotted && s != nil {
		return j.run.Judged(s.Step, &s.Outcome), &s.Outcome, behind
	}
	return j.run.Judged(j.step, j.out), j.out, path
}

// lookup finds [STEP.]deleted, [STEP.][control.]CLASS and [STEP.][control.]by.NODE.
func (j *judgement) lookup(path string) (int64, error) {
	as, out, rest := j.resultsOf(path)
	if out.NotPlayed != "" {
		return 0, fmt.Errorf("same-as: %q was not played: %s", path, out.NotPlayed)
	}
	if rest == "deleted" {
		return int64(len(out.Deleted)), nil
	}
	what, control := strings.CutPrefix(rest, "control.")
	as = attemptsOf(as, control)
	if node, by := strings.CutPrefix(what, "by."); by {
		_, byNode := answers(as)
		return byNode[node], nil
	}
	if what == "" || strings.Contains(what, ".") {
		return 0, fmt.Errorf("same-as: no field %q", path)
	}
	return count(as, what), nil
}

// forEach judges several things by themselves. A want is met if all of them meet it; else it says which do not.
func (j *judgement) forEach(names []string, judge func(one *judgement, i int)) {
	var merged []WantResult
	missed := map[int][]string{}
	for i, name := range names {
		one := newJudgement(j.run, j.step, j.out)
		judge(one, i)
		if merged == nil {
			merged = slices.Clone(one.results)
		}
		for k, res := range one.results {
			if !res.OK {
				missed[k] = append(missed[k], name+": "+res.Got)
			}
		}
	}
	for k := range merged {
		merged[k].OK, merged[k].Got = len(missed[k]) == 0, "all of them"
		if !merged[k].OK {
			merged[k].Got = fewOf(missed[k])
		}
		j.add(merged[k])
	}
}

// programs holds what the step's programs left behind against what was wanted of each.
func (j *judgement) programs(w *Want) {
	if w.Exit == nil && w.Stdout == nil && w.Stderr == nil {
		return
	}
	switch all := j.out.Programs; len(all) {
	case 0:
		j.add(WantResult{Pos: w.Pos, Want: "a program", Got: "none ran"})
	case 1:
		j.program(w, &all[0])
	default:
		j.forEach(Runs(all), func(one *judgement, i int) { one.program(w, &all[i]) })
	}
}

// Runs are names for the runs of programs: the client, if there are several; the number of its run, if it ran several times.
func Runs(all []Program) []string {
	times := map[string]int{}
	for _, p := range all {
		times[p.Client]++
	}
	so := map[string]int{}
	names := make([]string, len(all))
	for i, p := range all {
		var parts []string
		if so[p.Client]++; len(times) > 1 {
			parts = append(parts, p.Client)
		}
		if times[p.Client] > 1 {
			parts = append(parts, fmt.Sprintf("run %d", so[p.Client]))
		}
		names[i] = strings.Join(parts, " ")
	}
	return names
}

// program holds what a program left behind against what was wanted of it.
func (j *judgement) program(w *Want, p *Program) {
	if w.Exit != nil {
		j.number(w.Exit.Pos, "exit", *w.Exit, int64(p.Exit), -1)
		if last := &j.results[len(j.results)-1]; !last.OK && p.Stderr != "" {
			last.Got += ": " + firstLine(p.Stderr)
		}
	}
	j.output("stdout", w.Stdout, p.Stdout)
	j.output("stderr", w.Stderr, p.Stderr)
}

func (j *judgement) output(name string, w *OutputWant, got string) {
	if w == nil {
		return
	}
	for _, has := range w.Has {
		res := WantResult{Pos: w.Pos, Want: fmt.Sprintf("%s has %q", name, has), OK: strings.Contains(got, has), Got: "it has"}
		if !res.OK {
			res.Got = fmt.Sprintf("%d lines: %s", lineCount(got), firstLine(got))
		}
		j.add(res)
	}
	if w.Lines != nil {
		j.number(w.Lines.Pos, name+" lines", *w.Lines, lineCount(got), -1)
	}
}

// lineCount counts a last line without its end too.
func lineCount(text string) int64 {
	n := int64(strings.Count(text, "\n"))
	if text != "" && !strings.HasSuffix(text, "\n") {
		n++
	}
	return n
}

// firstLine of an output, for people, at most 80 characters of it.
func firstLine(text string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	if line == "" {
		return "nothing"
	}
	short, rest := splitRunes(line, 80)
	if rest != "" {
		short += "..."
	}
	return Escape(short)
}

// timed holds a time against a wanted range.
func (j *judgement) timed(w TimeWant, what string, got time.Duration, note string) {
	ok := got >= w.Min && (w.Max < 0 || got <= w.Max)
	j.add(WantResult{Pos: w.Pos, Want: what + ": " + w.Text, Got: got.String() + note, OK: ok})
}
