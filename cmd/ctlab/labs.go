package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"ctlab/checks/model"
	"ctlab/lab"
	"ctlab/lab/report"
	"ctlab/labs"
)

// loadLab reads a lab from a file or, if there is no such file and the argument is a bare name, from the
// bundled ones.
func loadLab(arg, variant string) (*lab.Lab, error) {
	if !strings.ContainsAny(arg, "/.") {
		if src, ok := labs.Read(arg); ok {
			return lab.Load(arg, src, variant)
		}
		if _, err := os.Stat(arg); err != nil {
			return nil, fmt.Errorf("no lab %q: neither a file nor one of: %s", arg, strings.Join(labs.Names(), ", "))
		}
	}
	if isTrace(arg) {
		return nil, fmt.Errorf("%s: a recorded run, not a lab; ctlab replay or explain reads it", lab.Escape(arg))
	}
	return lab.ReadFile(arg, variant)
}

// loadAll reads labs, each as it is or in a variant; with "all" as it is and in each of its variants.
func loadAll(args []string, variant string) ([]*lab.Lab, error) {
	var all []*lab.Lab
	for _, arg := range args {
		base, err := loadLab(arg, "")
		if err != nil {
			return nil, err
		}
		names := []string{variant}
		if variant == "all" {
			names = []string{""}
			for _, v := range base.Variants {
				names = append(names, v.Name)
			}
		}
		for _, name := range names {
			l := base
			if name != "" {
				if l, err = loadLab(arg, name); err != nil {
					return nil, err
				}
			}
			all = append(all, l)
		}
	}
	return all, nil
}

// badInput prints what is wrong with a lab as it is, editors jump to its first words.
func badInput(stderr io.Writer, err error) error {
	if list, ok := err.(lab.Errors); ok {
		fmt.Fprintln(stderr, strings.TrimRight(list.Error(), "\n"))
		return exit(exitBadInput, nil)
	}
	return exit(exitBadInput, err)
}

// warnings of labs, each once: a lab and its variants share most of them.
func warnings(labs []*lab.Lab) []string {
	var out []string
	for _, l := range labs {
		for _, w := range l.Warnings() {
			if s := w.String(); !slices.Contains(out, s) {
				out = append(out, s)
			}
		}
	}
	return out
}

func newCheck() *cobra.Command {
	return &cobra.Command{
		Use:   "check LAB...",
		Short: "validate labs and their variants, and say what comes near a boundary",
		Long: `Validates labs with all their variants. Each is predicted as well, and what comes within 50 ms of a boundary
(a flow's 2 s, an entry's end) is listed: a run, in real time, may see it on the other side.`,
		Args: arguments(1, 0, "lab"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var failed error
			for _, arg := range args {
				all, err := loadAll([]string{arg}, "all")
				if err != nil {
					failed = badInput(cmd.ErrOrStderr(), err)
					continue
				}
				if err := checkOne(cmd, arg, all); err != nil {
					failed = badInput(cmd.ErrOrStderr(), err)
				}
			}
			return failed
		},
	}
}

// checkOne says what a lab has, and warns of its margins and those of its variants. The error is a step that no
// run could play, such as one that takes away what is not there.
func checkOne(cmd *cobra.Command, arg string, all []*lab.Lab) error {
	out, base := cmd.OutOrStdout(), all[0]
	near := 0
	warned := warnings(all)
	lines := slices.Clone(warned)
	for _, l := range all {
		margins, err := foresee(cmd.Context(), l, func(l *lab.Lab, what string) { lines = append(lines, labName(l)+": "+what) })
		if err != nil && l.SkipModel == "" {
			return fmt.Errorf("%s: %w", labName(l), err)
		}
		near += len(margins)
	}
	said := fmt.Sprintf("%s: ok, %d nodes, %d steps, %d variants", lab.Escape(arg), len(base.Nodes), len(base.Steps), len(base.Variants))
	if near > 0 {
		said += fmt.Sprintf("; %d near a boundary", near)
	}
	switch n := len(warned); n {
	case 0:
	case 1:
		said += "; a warning"
	default:
		said += fmt.Sprintf("; %d warnings", n)
	}
	fmt.Fprintln(out, said)
	for _, l := range lines {
		fmt.Fprintln(out, "  "+lab.Escape(l))
	}
	return nil
}

func newLabs() *cobra.Command {
	return &cobra.Command{
		Use:   "labs [NAME]",
		Short: "list the bundled labs, or print one",
		Args:  arguments(0, 1, "name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			out := cmd.OutOrStdout()
			if len(args) == 1 {
				src, ok := labs.Read(args[0])
				if !ok {
					return exit(exitBadInput, fmt.Errorf("no bundled lab %q; there are: %s", args[0], strings.Join(labs.Names(), ", ")))
				}
				_, err := out.Write(src)
				return err
			}
			for _, name := range labs.Names() {
				l, err := loadLab(name, "")
				if err != nil {
					return exit(exitBroken, err)
				}
				errs := []error{report.Hanging(out, fmt.Sprintf("%-26s ", name), l.About)}
				for _, v := range l.Variants {
					errs = append(errs, report.Hanging(out, fmt.Sprintf("  %-24s ", v.Name), v.About))
				}
				if err := errors.Join(errs...); err != nil {
					return exit(exitBroken, fmt.Errorf("write list: %w", err))
				}
			}
			return nil
		},
	}
}

func newSchema() *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "print a JSON Schema of the lab language, for editors",
		Long: `Prints a JSON Schema (draft 7) of the lab language, for completion, descriptions and marks in an editor. An
editor with yaml-language-server takes it from a comment in the first line of a lab:

  # yaml-language-server: $schema=lab.schema.json

The schema knows forms; ctlab check knows whether names exist and what fits together.`,
		Example: "  ctlab schema > lab.schema.json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := lab.Schema()
			if err != nil {
				return exit(exitBroken, err)
			}
			if _, err := cmd.OutOrStdout().Write(s); err != nil {
				return exit(exitBroken, fmt.Errorf("write schema: %w", err))
			}
			return nil
		},
	}
}

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "print version, build and the kernels that the model knows",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			version := "(built without version control)"
			if info, ok := debug.ReadBuildInfo(); ok {
				for _, s := range info.Settings {
					if s.Key == "vcs.revision" {
						version = s.Value
					}
				}
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "ctlab %s, %s %s/%s; model: %s\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH, strings.Join(model.ProfileNames(), " "))
			return err
		},
	}
}
