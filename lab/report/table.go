package report

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"ctlab/lab"
)

// asIs is how tables call the lab without a variant.
const asIs = "(as is)"

// cells of a row, in the order of the table's columns.
func (r Row) cells() []string {
	outage := "-"
	if r.Lost > 0 {
		outage = outageText(r.Outage, r.ForGood)
	}
	return []string{r.name(), fmt.Sprintf("%d/%d", r.Lost, r.Sent), outage, r.Entry, fmt.Sprint(r.Deleted), fmt.Sprint(r.Harmed), string(r.Word) + r.flag()}
}

func (r Row) name() string {
	if r.Variant == "" {
		return asIs
	}
	return r.Variant
}

// flag is what must not be overlooked behind a row's word.
func (r Row) flag() string {
	switch {
	case r.Agreement == Differ:
		return " DIFF"
	case r.Verdict == lab.Fail:
		return " FAIL"
	case r.Verdict == lab.Unclear:
		return " ?"
	}
	return ""
}

func columnNames() []string {
	return []string{"variant", "lost", "outage", "entry at the end", "deleted", "harmed", "verdict"}
}

// The columns that may give way where a table is too wide.
const (
	variantColumn = 0
	entryColumn   = 3
	narrowVariant = 20
	narrowEntry   = 16
)

// ComparisonText writes a comparison as a table of at most 100 columns.
func ComparisonText(w io.Writer, c Comparison, opt Options) error {
	t := &text{w: w, opt: opt}
	setting := "kernel " + cmp.Or(c.Kernel, "not asked")
	if c.Simulated {
		setting = "predicted, model " + c.Profile
	}
	t.line("%s   %s; %d %s, %s", t.paint(bold, c.Lab), setting, len(c.Rows), plural(len(c.Rows), "run", "runs"), span(c.Took))
	rows := [][]string{columnNames()}
	for _, r := range c.Rows {
		rows = append(rows, r.cells())
	}
	wide := widths(rows)
	for _, cells := range rows {
		if len(cells[variantColumn]) > wide[variantColumn] {
			t.line("%s", cells[variantColumn])
			cells[variantColumn] = ""
		}
		cells[entryColumn] = cut(cells[entryColumn], wide[entryColumn])
		t.line("%s", strings.TrimRight(padded(cells, wide), " "))
	}
	for _, l := range c.notes() {
		for _, part := range wrap(l, columns) {
			t.line("%s", part)
		}
	}
	return t.err
}

func widths(rows [][]string) []int {
	wide, total := make([]int, len(rows[0])), 2*(len(rows[0])-1)
	for i := range wide {
		for _, cells := range rows {
			wide[i] = max(wide[i], utf8.RuneCountInString(cells[i]))
		}
		total += wide[i]
	}
	for _, give := range []struct{ column, least int }{{variantColumn, narrowVariant}, {entryColumn, narrowEntry}} {
		if n := min(total-columns, wide[give.column]-give.least); n > 0 {
			wide[give.column] -= n
			total -= n
		}
	}
	return wide
}

func padded(cells []string, wide []int) string {
	var b strings.Builder
	for i, c := range cells {
		fmt.Fprintf(&b, "%-*s  ", wide[i], c)
	}
	return b.String()
}

// notes are what the table cannot say: wants that failed, runs that broke, whether the model agreed.
func (c Comparison) notes() []string {
	var out []string
	met, agreed, compared, played := 0, 0, 0, 0
	for _, r := range c.Rows {
		if r.Skipped == "" {
			played++
		}
		if r.Err == "" && r.Skipped == "" && r.WantsMet == r.Wants {
			met++
		}
		switch r.Agreement {
		case Agreed:
			agreed++
			compared++
		case Differ, Inconclusive:
			compared++
		}
		for _, n := range r.notes(c) {
			out = append(out, r.name()+": "+n)
		}
	}
	if slices.ContainsFunc(c.Rows, func(r Row) bool { return r.ByHand }) {
		out = append(out, "Where a step of the lab deletes entries by hand, the verdict is that of the time before.")
	}
	last := fmt.Sprintf("In %d of %d runs all wants were met", met, played)
	switch {
	case played == 0:
		return append(out, "Nothing was played.")
	case met == played:
		last = "All wants met"
	}
	if compared > 0 {
		last += fmt.Sprintf("; kernel and model agreed in %d of %d runs", agreed, compared)
	}
	return append(out, last+".")
}

// notes about a single row.
func (r Row) notes(c Comparison) []string {
	var out []string
	switch {
	case r.Skipped != "":
		out = append(out, "skipped: "+r.Skipped)
	case r.Err != "":
		out = append(out, r.Err)
	case r.WantsMet < r.Wants:
		out = append(out, fmt.Sprintf("%d of %d wants failed: $ %s", r.Wants-r.WantsMet, r.Wants, c.command(r)))
	}
	if r.NotPlayed > 0 {
		out = append(out, fmt.Sprintf("%d %s not simulated", r.NotPlayed, plural(r.NotPlayed, "step", "steps")))
	}
	switch r.Agreement {
	case Differ:
		out = append(out, "kernel and model differ: $ "+c.command(r))
	case Inconclusive:
		out = append(out, fmt.Sprintf("kernel and model were not compared in full (%s): $ %s", r.Unclear, c.command(r)))
	case LeftOut:
		out = append(out, "the model is left out")
	}
	return out
}

// command plays a row again, alone.
func (c Comparison) command(r Row) string {
	s := "sudo ctlab run " + argument(c.File)
	if c.Simulated {
		s = "ctlab predict " + argument(c.File)
	}
	if r.Variant != "" {
		s += " --variant " + r.Variant
	}
	return s
}

// ComparisonMarkdown writes a comparison as a table for a page.
func ComparisonMarkdown(w io.Writer, c Comparison) error {
	t := &text{w: w}
	setting := "Linux " + c.Kernel
	if c.Simulated {
		setting = "predicted, model " + c.Profile
	}
	t.line("## %s", markdown(c.Lab))
	t.line("")
	t.line("%s (%s)", markdown(c.About), setting)
	t.line("")
	t.markdown(append(columnNames(), "what it is"))
	t.line("|%s", strings.Repeat(" --- |", len(columnNames())+1))
	for _, r := range c.Rows {
		about := r.About
		if r.Variant == "" {
			about = "the lab as it is"
		}
		t.markdown(append(r.cells(), about))
	}
	t.line("")
	for _, l := range c.notes() {
		t.line("%s", markdown(l))
	}
	return t.err
}

func (t *text) markdown(cells []string) {
	line := "|"
	for _, c := range cells {
		line += " " + markdown(c) + " |"
	}
	t.line("%s", line)
}

// markdown takes the meaning out of characters that a page would understand.
func markdown(s string) string {
	return strings.NewReplacer("|", `\|`, "<", "&lt;", "*", `\*`, "_", `\_`, "\n", " ").Replace(s)
}

// Fixes writes the page that says which fix works and what it costs: one table a lab, from runs on a
// kernel or from predictions. It holds no date and no duration, so that the same labs on the same kernel
// give the same page.
func Fixes(w io.Writer, all []Comparison) error {
	t := &text{w: w}
	t.line("# Which fix works, and what it costs")
	t.line("")
	t.line("Made by `ctlab compare --fixes LAB...` %s. Each row is a run of its own.", source(all))
	t.line("")
	t.line("- **lost**: requests that got no answer, of those sent; control clients do not count.")
	t.line("- **outage**: the longest time in which a client had no answer; *for good* if it had none any more at the end, for 2 s or longer.")
	t.line("- **entry at the end**: where the conntrack entry of the first client's flow leads.")
	t.line("- **deleted**, **harmed**: entries that were deleted by a cleanup or by hand, and those among them that were healthy.")
	for _, c := range all {
		t.line("")
		if t.err == nil {
			t.err = ComparisonMarkdown(w, c.timeless())
		}
	}
	return t.err
}

// source says where the numbers come from.
func source(all []Comparison) string {
	for _, c := range all {
		if !c.Simulated {
			return "on Linux " + c.Kernel
		}
	}
	return "by prediction; nothing was asked of a kernel"
}

// timeless is the comparison without what differs from run to run: outages in tenths of a second.
func (c Comparison) timeless() Comparison {
	c.Rows = slices.Clone(c.Rows)
	for i := range c.Rows {
		c.Rows[i].Outage = c.Rows[i].Outage.Round(100 * time.Millisecond)
	}
	return c
}
