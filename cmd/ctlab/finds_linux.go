package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"ctlab/checks/model"
	"ctlab/checks/trace"
	"ctlab/lab"
	"ctlab/lab/fuzz"
)

// finds says what was found, and writes it down.
type finds struct {
	mu       sync.Mutex
	ctx      context.Context // of the command
	out      io.Writer
	stderr   io.Writer
	dir      string
	kernel   string         // of --kernel
	profile  *model.Profile // that of kernel, or nil
	iptables string
	traces   string // the folder for all traces, or ""
	err      error
}

func newFinds(cmd *cobra.Command, f fuzzFlags) *finds {
	return &finds{ctx: cmd.Context(), out: cmd.OutOrStdout(), stderr: cmd.ErrOrStderr(), dir: f.out, kernel: f.kernel, profile: f.profile, iptables: f.iptables, traces: f.traces}
}

// clear takes the line away that tells progress.
func (f *finds) clear() {
	if isTerminal(f.stderr) {
		fmt.Fprint(f.stderr, "\r\x1b[K")
	}
}

// command is one of ctlab's, with the model's kernel that was asked for.
func (f *finds) command(words ...string) string {
	if f.kernel != "" {
		words = append(words, "--kernel "+f.kernel)
	}
	return strings.Join(words, " ")
}

// played writes the trace of a scenario, if all are wanted.
func (f *finds) played(r fuzz.Result) {
	if f.traces == "" {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = errors.Join(f.err, f.writeTrace(filepath.Join(f.traces, r.Trace.Lab+".trace"), r.Trace))
}

// add takes a scenario in which kernel and model differ, or which says nothing, as it was played.
func (f *finds) add(r fuzz.Result) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.clear()
	path := filepath.Join(f.dir, r.Trace.Lab+".trace")
	f.err = errors.Join(f.err, f.writeTrace(path, r.Trace))
	fmt.Fprintf(f.out, "%s: %s; %s\n", r.Trace.Lab, r.Report.Verdict(), f.command("ctlab replay", path))
	f.says(r)
	if more := len(r.Report.Differences) + len(r.Report.Lost) - 1; more > 0 { // mostly what comes of the first
		fmt.Fprintf(f.out, "  and %d more\n", more)
	}
}

// says prints what differs, both sides, and the model's reason.
func (f *finds) says(r fuzz.Result) {
	why := ""
	if d := r.Report.Differences; len(d) > 0 && d[0].Why != "" {
		why = " (" + d[0].Why + ")"
	}
	fmt.Fprintf(f.out, "  %s%s\n", r.Says(), why)
}

// small takes a find that was made smaller.
func (f *finds) small(found fuzz.Find) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.clear()
	name := filepath.Join(f.dir, found.Trace.Lab)
	if found.Confirmed == 0 {
		fmt.Fprintf(f.out, "%s: it did not come back in %d replays\n", found.Trace.Lab, found.Replays)
		return
	}
	fmt.Fprintf(f.out, "%s: %d operations of %d are enough; seen in %d of %d last replays (%d in %s)\n", found.Trace.Lab, len(found.Played), found.Before,
		found.Shown, found.Confirmed, found.Replays, found.Took.Round(time.Second/10))
	f.says(found.Result)
	err := f.writeTrace(name+".small.trace", found.Trace)
	if err == nil {
		err = f.writeLab(name, &found)
	}
	f.err = errors.Join(f.err, err)
}

// writeLab writes a find as a lab, or, if labs cannot say it, as a list of operations.
func (f *finds) writeLab(name string, found *fuzz.Find) error {
	text, err := found.Lab()
	var l *lab.Lab
	if err == nil {
		l, err = lab.Load(name+".yaml", []byte(text), "")
	}
	if err != nil {
		fmt.Fprintf(f.out, "  %s.small.trace, %s.txt; it is no lab: %s\n", name, name, strings.ReplaceAll(err.Error(), "\n", "; "))
		return f.write(name+".txt", func(w io.Writer) error {
			_, err := io.WriteString(w, found.Operations())
			return err
		})
	}
	command := f.command("sudo ctlab run", name+".yaml")
	if f.iptables != "" {
		command += " --iptables " + f.iptables
	}
	if !f.shows(l, found) {
		command += " (which does not show it)"
	}
	fmt.Fprintf(f.out, "  %s.small.trace, %s.yaml; %s\n", name, name, command)
	return f.write(name+".yaml", func(w io.Writer) error {
		_, err := io.WriteString(w, text)
		return err
	})
}

// shows plays a find as a lab, and reports whether the same field differs, or whether it says nothing either.
func (f *finds) shows(l *lab.Lab, found *fuzz.Find) bool {
	w, _ := newWorld(l, f.iptables)
	r := lab.Run(f.ctx, l, w, lab.Options{Profile: f.profile})
	if len(found.Report.Differences) == 0 {
		return r.Verdict() == lab.Unclear
	}
	return slices.ContainsFunc(r.Comparisons, func(c trace.Report) bool {
		return slices.ContainsFunc(c.Differences, func(d trace.Difference) bool { return d.Field == found.Report.Differences[0].Field })
	})
}

func (f *finds) writeTrace(path string, t trace.Trace) error {
	return f.write(path, func(w io.Writer) error { return trace.Write(w, t) })
}

func (f *finds) write(path string, fn func(io.Writer) error) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(fn(file), file.Close())
}

// shrinkProgress shows on a terminal how far it is with making finds smaller.
func shrinkProgress(w io.Writer) func(fuzz.Shrinking) {
	if !isTerminal(w) {
		return nil
	}
	return func(s fuzz.Shrinking) {
		fmt.Fprintf(w, "\r\x1b[Kmaking %s smaller (%d of %d): %d of %d operations, after %d of at most %d replays", s.Name, s.Find, s.Finds, s.Ops, s.Of, s.Replays, s.MaxReplays)
	}
}
