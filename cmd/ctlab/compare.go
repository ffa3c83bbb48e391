package main

import (
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"ctlab/lab"
	"ctlab/lab/report"
)

type compareFlags struct {
	variants         []string
	kernel, format   string
	iptables         string
	json, fixes, sim bool
	seed             uint64
	jobs             int
}

func newCompare() *cobra.Command {
	var f compareFlags
	c := &cobra.Command{
		Use:   "compare LAB...",
		Short: "play labs with all their variants, side by side in one table",
		Long: `Plays each lab as it is and with each of its variants, and prints one table a lab: what was lost, for how
long, which entries were deleted and which of them were healthy, and where the client's entry leads at the
end. On this kernel, or predicted. LAB is a file, or the name of a bundled lab.`,
		Args: arguments(1, 0, "lab"),
		RunE: func(cmd *cobra.Command, args []string) error { return compareLabs(cmd, args, f) },
	}
	c.Flags().StringSliceVar(&f.variants, "variant", nil, "only these variants, beside the lab as it is")
	c.Flags().StringVar(&f.format, "format", "text", "text, markdown or json")
	c.Flags().BoolVar(&f.json, "json", false, "the same as --format json (docs/json.md)")
	c.Flags().BoolVar(&f.sim, "predicted", false, "predict, instead of playing on this kernel: no root, any system")
	c.Flags().StringVar(&f.iptables, "iptables", "", iptablesHelp)
	c.Flags().StringVar(&f.kernel, "kernel", "", "the model's kernel, such as 5.10")
	c.Flags().Uint64Var(&f.seed, "seed", firstSeed, seedHelp+", in predictions")
	c.Flags().IntVarP(&f.jobs, "jobs", "j", 1, "how many variants are played at once")
	c.Flags().BoolVar(&f.fixes, "fixes", false, "write the page docs/fixes.md")
	return c
}

func compareLabs(cmd *cobra.Command, args []string, f compareFlags) error {
	if f.json {
		f.format = "json"
	}
	if !slices.Contains([]string{"text", "markdown", "json"}, f.format) {
		return exit(exitBadInput, fmt.Errorf("--format %q: there are text, markdown and json", f.format))
	}
	if err := checkIptables(f.iptables); err != nil {
		return err
	}
	if err := atLeastOne("-j", f.jobs); err != nil {
		return err
	}
	profile, err := namedProfile(f.kernel)
	if err != nil {
		return exit(exitBadInput, err)
	}
	loaded := map[string]time.Duration{}
	var labs []*lab.Lab
	for _, arg := range args {
		began := time.Now()
		all, err := withVariants(arg, f.variants)
		if err != nil {
			return badInput(cmd.ErrOrStderr(), err)
		}
		labs = append(labs, all...)
		loaded[arg] = time.Since(began)
	}
	p := predicted(cmd, profile, f.seed)
	if !f.sim {
		if err := able(); err != nil {
			return err
		}
		p = onKernel(cmd, profile, f.iptables, nil)
	}
	all, err := p.playAll(cmd.Context(), labs, f.jobs, func(*lab.Result) error { return nil })
	if err != nil {
		return err
	}
	if err := f.print(cmd, all, loaded); err != nil {
		return exit(exitBroken, fmt.Errorf("write table: %w", err))
	}
	return exit(all.code, nil)
}

// withVariants is a lab with all its variants, or with some of them.
func withVariants(arg string, variants []string) ([]*lab.Lab, error) {
	if len(variants) == 0 {
		return loadAll([]string{arg}, "all")
	}
	var all []*lab.Lab
	for _, v := range append([]string{""}, variants...) {
		l, err := loadLab(arg, v)
		if err != nil {
			return nil, err
		}
		all = append(all, l)
	}
	return all, nil
}

// print writes the tables; loaded is the time that reading each lab took, which is part of what its table took.
func (f compareFlags) print(cmd *cobra.Command, all played, loaded map[string]time.Duration) error {
	w := cmd.OutOrStdout()
	var tables []report.Comparison
	for _, runs := range byLab(all.results) {
		c := report.Compare(runs)
		c.Took += loaded[c.File]
		tables = append(tables, c)
	}
	switch {
	case f.fixes && len(all.notBegun) == 0:
		return report.Fixes(w, tables)
	case f.format == "json":
		return report.NewDocument("compare", all.results, tables, all.notBegun, all.code).Write(w)
	}
	for i, c := range tables {
		if i > 0 {
			fmt.Fprintln(w)
		}
		if err := f.table(w, c, useColor(cmd)); err != nil {
			return err
		}
	}
	return report.NotBegun(w, all.notBegun)
}

func (f compareFlags) table(w io.Writer, c report.Comparison, color bool) error {
	if f.format == "markdown" {
		return report.ComparisonMarkdown(w, c)
	}
	return report.ComparisonText(w, c, report.Options{Color: color})
}

// byLab puts the runs of a lab together; the lab as it is begins each.
func byLab(results []*lab.Result) [][]*lab.Result {
	var out [][]*lab.Result
	for _, r := range results {
		if r.Lab.Variant == "" || len(out) == 0 {
			out = append(out, nil)
		}
		out[len(out)-1] = append(out[len(out)-1], r)
	}
	return out
}
