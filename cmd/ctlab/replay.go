package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"ctlab/checks/model"
	"ctlab/checks/trace"
	"ctlab/lab"
	"ctlab/lab/report"
)

func newReplay() *cobra.Command {
	var kernel string
	c := &cobra.Command{
		Use:   "replay TRACE...",
		Short: "check recorded runs against the model, anywhere and without root",
		Args:  arguments(1, 0, "trace"),
		RunE: func(cmd *cobra.Command, args []string) error {
			profile, err := namedProfile(kernel)
			if err != nil {
				return exit(exitBadInput, err)
			}
			traces, err := readTraces(args)
			if err != nil {
				return exit(exitBadInput, err)
			}
			code := exitPass
			for _, t := range traces {
				c, err := replayOne(cmd.OutOrStdout(), t, profile, useColor(cmd))
				if err != nil {
					return err
				}
				code = worse(code, c)
			}
			return exit(code, nil)
		},
	}
	c.Flags().StringVar(&kernel, "kernel", "", "the model's kernel, such as 5.10 (default: the one of the trace)")
	return c
}

// namedProfile is the profile of --kernel, or nil.
func namedProfile(kernel string) (*model.Profile, error) {
	if kernel == "" {
		return nil, nil
	}
	p, err := model.ProfileFor(kernel)
	if err != nil {
		return nil, fmt.Errorf("--kernel: %w; the model knows %s", err, strings.Join(model.ProfileNames(), " "))
	}
	return &p, nil
}

func readTraces(paths []string) ([]trace.Trace, error) {
	var all []trace.Trace
	for _, path := range paths {
		f, err := lab.OpenFile(path)
		if err != nil {
			return nil, err
		}
		traces, err := trace.Parse(path, f)
		f.Close()
		if err != nil {
			return nil, err
		}
		all = append(all, traces...)
	}
	return all, nil
}

func replayOne(w io.Writer, t trace.Trace, profile *model.Profile, color bool) (code int, err error) {
	p, err := t.Header.Model(profile)
	if err != nil {
		return 0, exit(exitBadInput, err)
	}
	c := trace.Replay(t, p)
	if err := report.Replayed(w, c, traceNames(t.Names), color); err != nil {
		return 0, exit(exitBroken, fmt.Errorf("write report: %w", err))
	}
	switch c.Verdict() {
	case trace.Different:
		return exitFail, nil
	case trace.Inconclusive:
		return exitInconclusive, nil
	}
	return exitPass, nil
}

// traceNames puts a trace's names in place of addresses.
func traceNames(names []trace.Name) func(string) string {
	n := report.Names{}
	for _, x := range names {
		n[x.Addr] = x.Name
	}
	return n.Text
}

// worse is the exit code that outweighs the other: 5, 1, 6, 3, 4, 0, the first that occurs.
func worse(a, b int) int {
	for _, code := range []int{exitInterrupted, exitBroken, exitFail, exitInconclusive, exitCannotRun, exitSkipped} {
		if a == code || b == code {
			return code
		}
	}
	return exitPass
}
