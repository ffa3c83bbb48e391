package main

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/spf13/cobra"

	"ctlab/checks/model"
)

// fuzzFlags are those of fuzz.
type fuzzFlags struct {
	seed             uint64
	packets          int
	length           int
	duration         time.Duration
	jobs, sideBySide int
	only             int
	out, iptables    string
	ctinfo           bool
	traces           string
	shrink           int
	kernel           string
	profile          *model.Profile // that of kernel, or nil
}

func newFuzz() *cobra.Command {
	var f fuzzFlags
	c := &cobra.Command{
		Use:   "fuzz",
		Short: "random traffic against the kernel, for which the model must account",
		Long: `Plays random scenarios on this kernel: one namespace each, with three wires, few addresses and ports, so that flows
collide; packets, answers, errors, pauses in which entries expire, changes of rules, settings and the table. After each
packet the table, what left, ctinfo, counters and events are read, and the model, which is given what went in and nothing
else, must account for all of it. Hundreds of namespaces are played side by side.

A scenario in which kernel and model differ is written as a trace (ctlab replay, ctlab explain). In the end a few of them,
each of another kind, are played again and again with ever less in them, as long as the same differs; what is left is
written as a lab (ctlab run) and as a trace. The same seed makes the same scenarios. It needs root. Exit 1 if something differs,
6 if nothing was compared.`,
		Example: `  sudo ctlab fuzz --packets 20000
  sudo ctlab fuzz --seed 7 --only 12 --out finds`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !cmd.Flags().Changed("seed") {
				f.seed = uint64(rand.Uint32())
			}
			var err error
			if f.profile, err = namedProfile(f.kernel); err != nil {
				return exit(exitBadInput, err)
			}
			if err := f.check(cmd); err != nil {
				return exit(exitBadInput, err)
			}
			if f.packets < 0 || f.length < 1 || f.jobs < 0 || f.sideBySide < 1 {
				return fmt.Errorf("--packets, --length, -j and --namespaces count things")
			}
			if cmd.Flags().Changed("for") && !cmd.Flags().Changed("packets") {
				f.packets = 0 // until time is up
			}
			return fuzzing(cmd, f)
		},
	}
	c.Flags().Uint64Var(&f.seed, "seed", 0, "what to make scenarios of (default: another one each time; it is printed)")
	c.Flags().IntVar(&f.packets, "packets", 20000, "how many packets to send, about")
	c.Flags().IntVar(&f.length, "length", 80, "how many packets a scenario sends")
	c.Flags().DurationVar(&f.duration, "for", 0, "how long to go on, such as 10m; without --packets as many as there is time for")
	c.Flags().IntVarP(&f.jobs, "jobs", "j", 0, "how many processors play (default: all)")
	c.Flags().IntVar(&f.sideBySide, "namespaces", 100, "how many scenarios are played side by side on each processor")
	c.Flags().IntVar(&f.only, "only", -1, "play only the scenario with this number")
	c.Flags().BoolVar(&f.ctinfo, "ctinfo", true, "look at the ctinfo of each packet, by BPF")
	c.Flags().IntVar(&f.shrink, "shrink", 3, "how many of the finds are made smaller; 0: none")
	c.Flags().StringVar(&f.kernel, "kernel", "", "the model's kernel, such as 5.10 (default: this one's)")
	c.Flags().StringVar(&f.out, "out", "", "the folder for what is found (default: fuzz-SEED, made when there is something)")
	c.Flags().StringVar(&f.traces, "traces", "", "write the trace of every scenario to this folder")
	c.Flags().StringVar(&f.iptables, "iptables", "", iptablesHelp)
	return c
}

// check refuses flags that make no sense.
func (f *fuzzFlags) check(cmd *cobra.Command) error {
	switch only := cmd.Flags().Changed("only"); {
	case only && f.only < 0:
		return fmt.Errorf("--only %d: scenarios are counted from 0", f.only)
	case only && !cmd.Flags().Changed("seed"):
		return fmt.Errorf("--only: of which seed? --seed N")
	case f.shrink < 0:
		return fmt.Errorf("--shrink %d: it counts finds", f.shrink)
	}
	return checkIptables(f.iptables)
}
