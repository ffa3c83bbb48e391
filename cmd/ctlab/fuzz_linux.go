package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
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
	finds := &finds{out: cmd.OutOrStdout(), dir: f.out}
	totals, err := fuzz.Run(cmd.Context(), fuzz.Config{
		Seed: f.seed, Packets: f.packets, PerScenario: f.length, For: f.duration, Workers: f.jobs, SideBySide: f.sideBySide, Only: f.only, CTInfo: f.ctinfo,
		Ipt: ipt, IP6t: ip6t, Progress: fuzzProgress(cmd.ErrOrStderr()), Found: finds.add,
	})
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

// mostSaid is how many differences of a scenario are printed.
const mostSaid = 2

// finds writes down what was found.
type finds struct {
	mu  sync.Mutex
	out io.Writer
	dir string
	err error
}

func (f *finds) add(r fuzz.Result) {
	f.mu.Lock()
	defer f.mu.Unlock()
	path := filepath.Join(f.dir, r.Trace.Lab+".trace")
	f.err = errors.Join(f.err, f.write(path, r.Trace))
	fmt.Fprintf(f.out, "%s: %s; ctlab replay %s\n", r.Trace.Lab, r.Report.Verdict(), path)
	var said []string
	for _, d := range r.Report.Differences {
		said = append(said, d.String())
	}
	said = append(said, r.Report.Lost...)
	for i, s := range said {
		if i == mostSaid { // what comes behind the first is mostly its consequence
			fmt.Fprintf(f.out, "  and %d more\n", len(said)-i)
			break
		}
		fmt.Fprintln(f.out, "  "+strings.ReplaceAll(s, "\n", " "))
	}
}

func (f *finds) write(path string, t trace.Trace) error {
	if err := os.MkdirAll(f.dir, 0o755); err != nil {
		return err
	}
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(trace.Write(file, t), file.Close())
}
