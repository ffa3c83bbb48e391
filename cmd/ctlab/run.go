package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"ctlab/checks/trace"
	"ctlab/lab"
	"ctlab/lab/report"
)

type runFlags struct {
	variant, kernel, trace string
	keep, profile          bool
}

func newRun() *cobra.Command {
	var f runFlags
	c := &cobra.Command{
		Use:   "run LAB...",
		Short: "play labs on this kernel, with the model compared",
		Long: `Plays labs on this kernel, in network namespaces of its own; nothing is made in the caller's. LAB is a
file, or the name of a bundled lab (see ctlab labs). Needs root.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return runLabs(cmd, args, f) },
	}
	c.Flags().StringVar(&f.variant, "variant", "", "play this variant of the lab; all: the lab and each of its variants")
	c.Flags().StringVar(&f.kernel, "kernel", "", "the model's kernel, such as 5.10 (default: found by probing)")
	c.Flags().StringVar(&f.trace, "trace", "", "write what went in and what was seen to this file, for ctlab replay")
	c.Flags().BoolVar(&f.keep, "keep", false, "after the last step keep the network until Ctrl-C, to look around")
	c.Flags().BoolVar(&f.profile, "profile", false, "say where ctlab's own time went")
	return c
}

// runLabs reads every lab before it plays the first one.
func runLabs(cmd *cobra.Command, args []string, f runFlags) error {
	profile, err := namedProfile(f.kernel)
	if err != nil {
		return exit(exitBadInput, err)
	}
	all, err := loadAll(args, f.variant)
	if err != nil {
		return badInput(cmd.ErrOrStderr(), err)
	}
	if err := able(); err != nil {
		return err
	}
	out, err := openTrace(f.trace)
	if err != nil {
		return exit(exitBadInput, err)
	}
	code := exitPass
	for i, l := range all {
		if i > 0 {
			fmt.Fprintln(cmd.OutOrStdout())
		}
		c, err := runOne(cmd, l, lab.Options{Profile: profile}, f, out)
		if err != nil {
			return err
		}
		if code = worse(code, c); c == exitInterrupted {
			break
		}
	}
	if out != nil {
		if err := out.Close(); err != nil {
			return exit(exitBroken, fmt.Errorf("write trace: %w", err))
		}
	}
	return exit(code, nil)
}

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

func openTrace(path string) (*os.File, error) {
	if path == "" {
		return nil, nil
	}
	f, err := os.Create(path)
	if err != nil {
		return nil, fmt.Errorf("--trace: %w", err)
	}
	return f, nil
}

func runOne(cmd *cobra.Command, l *lab.Lab, opt lab.Options, f runFlags, out *os.File) (int, error) {
	progress := newProgress(cmd.ErrOrStderr(), l.Name)
	opt.Progress = progress.say
	w, handles := newWorld(l)
	if f.keep {
		opt.Keep = func(ctx context.Context) { keep(ctx, cmd.ErrOrStderr(), handles()) }
	}
	r := lab.Run(cmd.Context(), l, w, opt)
	progress.done()
	if err := cannotRun(r.Err); err != nil {
		return exitCannotRun, exit(exitCannotRun, err)
	}
	if err := report.Text(cmd.OutOrStdout(), r, report.Options{Color: useColor(cmd), Profile: f.profile}); err != nil {
		return exitBroken, exit(exitBroken, fmt.Errorf("write report: %w", err))
	}
	if out != nil {
		if err := trace.Write(out, r.Evidence.Traces...); err != nil {
			return exitBroken, exit(exitBroken, fmt.Errorf("write trace: %w", err))
		}
	}
	return map[lab.Verdict]int{lab.Pass: exitPass, lab.Fail: exitFail, lab.Unclear: exitInconclusive, lab.Broken: exitBroken, lab.Interrupted: exitInterrupted}[r.Verdict()], nil
}

// keep says how to look into the nodes, and waits for Ctrl-C.
func keep(ctx context.Context, stderr io.Writer, handles []handle) {
	fmt.Fprintln(stderr, "\nthe network stands until Ctrl-C; look into a node with:")
	for _, h := range handles {
		fmt.Fprintf(stderr, "  %-12s $ sudo nsenter --net=%s %s\n", h.node, h.path, h.command)
	}
	<-ctx.Done()
}

// handle is a node's namespace as a path for nsenter.
type handle struct{ node, path, command string }

// progress tells a person who waits what is being done: one line that changes on a terminal, plain lines
// elsewhere.
type progress struct {
	w     io.Writer
	name  string
	live  bool
	drawn bool
}

func newProgress(w io.Writer, name string) *progress {
	return &progress{w: w, name: name, live: isTerminal(w)}
}

func (p *progress) say(what string) {
	if p.live {
		fmt.Fprintf(p.w, "\r\x1b[K%s: %s", p.name, what)
		p.drawn = true
		return
	}
	fmt.Fprintf(p.w, "ctlab: %s: %s\n", p.name, what)
}

func (p *progress) done() {
	if p.drawn {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	fi, err := f.Stat()
	return err == nil && fi.Mode()&os.ModeCharDevice != 0 && !strings.HasSuffix(f.Name(), "null")
}

func useColor(cmd *cobra.Command) bool {
	if off, err := cmd.Flags().GetBool("no-color"); err != nil || off || os.Getenv("NO_COLOR") != "" {
		return false
	}
	return isTerminal(cmd.OutOrStdout())
}
