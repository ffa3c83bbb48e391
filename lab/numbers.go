package lab

import (
	"fmt"
	"slices"
	"strings"

	"ctlab/checks"
)

// wantedNumber reads a number, a range, all where that makes sense, or {same-as: PATH}.
func (d *decoder) wantedNumber(w *wantDraft, f field, all bool) (Number, bool) {
	n := Number{Pos: d.pos(f.value)}
	if f.value.kind == mapping {
		return d.sameAs(w, f, n)
	}
	if !d.isScalar(f, "a number") {
		return n, false
	}
	n.Text = f.value.text
	if n.Text == "all" {
		if n.All = all; !all {
			d.fail(f.value, "a number, or a range such as 1..", "%s: all of what?", f.name())
		}
		return n, all
	}
	r, err := checks.ParseRange(n.Text)
	if err != nil {
		if n.Text == "none" || n.Text == "no" {
			err.Hint = "write: 0"
		}
		d.failAt(f.value, err, f.name())
		return n, false
	}
	n.Range = r
	return n, true
}

func (d *decoder) sameAs(w *wantDraft, f field, n Number) (Number, bool) {
	v := f.value
	if len(v.fields) != 1 || v.fields[0].name() != "same-as" {
		d.fail(v, "{same-as: STEP.RESULT}", "%s: a map instead of a number", f.name())
		return n, false
	}
	path := v.fields[0]
	if !d.isScalar(path, "the path of a result") {
		return n, false
	}
	n.SameAs = path.value.text
	n.Text = "same-as " + n.SameAs
	return n, d.resultPath(w, path)
}

// resultPath checks STEP.RESULT, of a step before, or RESULT, of the same step.
func (d *decoder) resultPath(w *wantDraft, f field) bool {
	step, name, called, ok := d.resultStep(w, f)
	return ok && d.result(step, f, called, name)
}

// resultStep finds the step of a path, and what the rest of the path is.
func (d *decoder) resultStep(w *wantDraft, f field) (step *stepDraft, name, called string, ok bool) {
	path := f.value.text
	first, rest, dotted := strings.Cut(path, ".")
	if slices.Contains(resultNames(), first) {
		return w.step, path, "this step", true
	}
	step = w.run.named[first]
	switch line, named := w.run.names[first]; {
	case step != nil && !dotted:
		d.fail(f.value, first+"."+firstOr(results(step), "RESULT"), "same-as: which result of step %q?", first)
	case step != nil:
		return step, rest, fmt.Sprintf("step %q", first), true
	case named && first == w.step.Name:
		d.fail(f.value, "its own results stand alone: "+rest, "same-as: %q is this step", first)
	case named && line < w.step.node.line:
		// The step itself is wrong, which was said.
	case named:
		d.fail(f.value, "only steps before have results", "same-as: step %q comes later (line %d)", first, line)
	case !dotted:
		d.fail(f.value, checks.DidYouMean(first, results(w.step), "STEP.RESULT"), "same-as: this step has no result %s", checks.Quote(first))
	default:
		d.noStep(f, first)
	}
	return nil, "", "", false
}

func (d *decoder) noStep(f field, name string) {
	d.fail(f.value, d.stepHint(name), "same-as: no step is named %s", checks.Quote(name))
}

// stepHint is a hint at the named steps so far.
func (d *decoder) stepHint(name string) string {
	var names []string
	for _, s := range d.lab.Steps {
		if s.Name != "" {
			names = append(names, s.Name)
		}
	}
	if len(names) == 0 {
		return "there are no named steps before"
	}
	return checks.DidYouMean(name, names, "names: "+some(names))
}

// result checks that a step has a result.
func (d *decoder) result(s *stepDraft, f field, step, name string) bool {
	if strings.HasPrefix(name, "control.") && !d.controlled(s.Clients) && s.sends() {
		d.fail(f.value, "control: true in the client", "same-as: %s has no control", step)
		return false
	}
	if node, of := strings.CutPrefix(strings.TrimPrefix(name, "control."), "by."); of && s.sends() {
		return d.answerer(f, node)
	}
	there := results(s)
	if slices.Contains(there, name) {
		return true
	}
	hint := "it has none"
	if len(there) > 0 {
		hint = checks.DidYouMean(name, there, "results: "+some(there))
	}
	d.fail(f.value, hint, "same-as: %s has no result %s", step, checks.Quote(name))
	return false
}

// answerer checks the node of by.NODE in a path.
func (d *decoder) answerer(f field, name string) bool {
	if d.names.nodes[name] != nil || d.broken["nodes"] {
		return true
	}
	d.fail(f.value, d.nameList(name, "node"), "same-as: no node %s", checks.Quote(name))
	return false
}

// results are what a step can be asked for, besides by.NODE.
func results(s *stepDraft) []string {
	var names []string
	if s.sends() {
		names = countNames()
		for _, n := range countNames() {
			names = append(names, "control."+n)
		}
	}
	if deletes(s.Kind) {
		names = append(names, "deleted")
	}
	return names
}
