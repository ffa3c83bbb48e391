package main

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"time"

	"github.com/spf13/cobra"

	"ctlab/checks/trace"
	"ctlab/lab/fuzz"
	"ctlab/lab/live"
)

func fuzzing(cmd *cobra.Command, f fuzzFlags) error {
	if !live.Privileged() || live.InUserNamespace() {
		return exit(exitCannotRun, errors.New("fuzzing needs root, as it reads the kernel's tick counter: sudo ctlab fuzz"))
	}
	ipt, ip6t, err := live.Iptables(cmd.Context(), f.iptables)
	if err != nil {
		return exit(exitCannotRun, err)
	}
	if f.jobs == 0 {
		f.jobs = runtime.NumCPU()
	}
	if f.out == "" {
		f.out = fmt.Sprintf("fuzz-%d", f.seed)
	}
	// Those who judge must not keep those who play waiting: the kernel's scheduler divides the processors better.
	runtime.GOMAXPROCS(8 * runtime.NumCPU())
	fmt.Fprintf(cmd.ErrOrStderr(), "seed %d\n", f.seed)
	finds := newFinds(cmd, f)
	totals, err := fuzz.Run(cmd.Context(), fuzz.Config{
		Seed: f.seed, Packets: f.packets, PerScenario: f.length, For: f.duration, Workers: f.jobs, SideBySide: f.sideBySide, Only: f.only, CTInfo: f.ctinfo,
		Ipt: ipt, IP6t: ip6t, Progress: fuzzProgress(cmd.ErrOrStderr()), Found: finds.add, Played: finds.played,
		Model: f.profile, Shrink: f.shrink, Shrinking: shrinkProgress(cmd.ErrOrStderr()), Shrunk: finds.small,
	})
	finds.clear()
	writeTotals(cmd.OutOrStdout(), f.seed, totals)
	switch {
	case finds.err != nil:
		return exit(exitBroken, finds.err)
	case cmd.Context().Err() != nil:
		return exit(exitInterrupted, nil)
	case err != nil:
		return exit(exitBroken, err)
	case totals.Different > 0:
		return exit(exitFail, nil)
	case totals.Inconclusive > 0 || totals.Reads == 0:
		return exit(exitInconclusive, nil)
	}
	return nil
}

// fuzzProgress shows on a terminal how far it is.
func fuzzProgress(w io.Writer) func(fuzz.Totals) {
	if !isTerminal(w) {
		return nil
	}
	return func(t fuzz.Totals) { fmt.Fprintf(w, "\r\x1b[K%s", totalsLine(t)) }
}

func totalsLine(t fuzz.Totals) string {
	perSecond := float64(t.Packets) / max(t.Took.Seconds(), 0.001)
	return fmt.Sprintf("%d packets in %d scenarios, %.0f/s; %d different, %d inconclusive", t.Packets, t.Scenarios, perSecond, t.Different, t.Inconclusive)
}

func writeTotals(w io.Writer, seed uint64, t fuzz.Totals) {
	fmt.Fprintf(w, "seed %d: %s\n", seed, totalsLine(t))
	fmt.Fprintf(w, "%s; %s\n", trace.Report{Reads: t.Reads, Fields: t.Fields, Free: t.Free}.Summary(), t.Took.Round(time.Second/10))
}
