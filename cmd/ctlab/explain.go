package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"ctlab/checks/trace"
	"ctlab/lab"
	"ctlab/lab/report"
)

type explainFlags struct {
	variant, kernel, flow string
	packet                int
	seed                  uint64
}

func newExplain() *cobra.Command {
	var f explainFlags
	c := &cobra.Command{
		Use:   "explain LAB|TRACE",
		Short: "follow each packet through the hooks, with the kernel's functions",
		Long: `Prints what each packet met on the tracked nodes: hook by hook, with the names of the kernel's functions and
what they did, and what became of the packet. Of a lab, which is predicted, or of a run that was recorded
with --trace. Packets of a flow to which the same happened are told once.`,
		Example: `  ctlab explain coredns-restart --flow 'udp app:40053 > kube-dns:53'
  ctlab explain run.trace --packet 14`,
		Args: arguments(1, 1, "lab or trace"),
		RunE: func(cmd *cobra.Command, args []string) error { return explain(cmd, args[0], f) },
	}
	c.Flags().StringVar(&f.variant, "variant", "", "a variant of the lab")
	c.Flags().StringVar(&f.kernel, "kernel", "", kernelHelp)
	c.Flags().StringVar(&f.flow, "flow", "", "only packets of this flow, in both directions: PROTOCOL SOURCE > DESTINATION")
	c.Flags().IntVar(&f.packet, "packet", 0, "only this packet, counted from 1 on each node")
	c.Flags().Uint64Var(&f.seed, "seed", firstSeed, seedHelp)
	return c
}

func explain(cmd *cobra.Command, arg string, f explainFlags) error {
	if cmd.Flags().Changed("packet") {
		if err := atLeastOne("--packet", f.packet); err != nil {
			return err
		}
	}
	reports, names, err := explained(cmd, arg, f)
	if err != nil {
		return err
	}
	opt := report.ExplainOptions{Color: useColor(cmd), Packet: f.packet}
	if f.flow != "" {
		if opt.Flow, err = report.ParseFlow(f.flow, names); err != nil {
			return exit(exitBadInput, fmt.Errorf("--flow: %w", err))
		}
	}
	n, err := report.Explain(cmd.OutOrStdout(), reports, names, opt)
	switch {
	case err != nil:
		return exit(exitBroken, err)
	case n == 0:
		return exit(exitBadInput, errors.New("no such packet passed a tracked node"))
	}
	return nil
}

// explained are the replays of a recorded run, or of a lab's prediction.
func explained(cmd *cobra.Command, arg string, f explainFlags) ([]trace.Report, report.Names, error) {
	profile, err := namedProfile(f.kernel)
	if err != nil {
		return nil, nil, exit(exitBadInput, err)
	}
	if !isTrace(arg) {
		l, err := loadLab(arg, f.variant)
		if err != nil {
			return nil, nil, badInput(cmd.ErrOrStderr(), err)
		}
		r := predicted(cmd, profile, f.seed).play(cmd.Context(), l, nil)
		if err := errors.Join(r.Err, r.CloseErr); err != nil {
			return nil, nil, exit(exitBroken, err)
		}
		return r.Comparisons, report.NewNames(l), nil
	}
	traces, err := readTraces([]string{arg})
	if err != nil {
		return nil, nil, exit(exitBadInput, err)
	}
	names := report.Names{}
	var reports []trace.Report
	for _, t := range traces {
		p, err := t.Header.Model(profile)
		if err != nil {
			return nil, nil, exit(exitBadInput, err)
		}
		reports = append(reports, trace.Replay(t, p))
		for _, n := range t.Names {
			names[n.Addr] = n.Name
		}
	}
	return reports, names, nil
}

// isTrace reports whether a file begins as traces do.
func isTrace(path string) bool {
	f, err := lab.OpenFile(path)
	if err != nil {
		return false
	}
	defer f.Close()
	const begin = "ctlab-trace "
	head := make([]byte, len(begin))
	n, _ := f.Read(head)
	return string(head[:n]) == begin
}
