package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"ctlab/checks/trace"
	"ctlab/lab"
	"ctlab/lab/report"
)

// player plays labs, some of them at once, and tells a person who waits what is being done.
type player struct {
	play func(context.Context, *lab.Lab, lab.Progress) *lab.Result

	mu    sync.Mutex
	w     io.Writer // progress and warnings
	live  bool      // one line that changes, as on a terminal
	drawn bool
}

func newPlayer(stderr io.Writer) *player { return &player{w: stderr, live: isTerminal(stderr)} }

// played is what came of several labs.
type played struct {
	results  []*lab.Result
	notBegun []string // labs and variants that an interrupt came before
	code     int      // the exit code that outweighs the others
}

// occupy waits until a lab may be played: an exclusive one when no other is, and no other meanwhile.
func occupy(m *sync.RWMutex, exclusive bool) (leave func()) {
	if exclusive {
		m.Lock()
		return m.Unlock
	}
	m.RLock()
	return m.RUnlock
}

// playAll plays labs, n at once, and hands over each result in the order of the labs as soon as it is there.
// It ends early when a lab cannot be played on this machine. When it is interrupted, those that play are
// handed over as far as they came.
func (p *player) playAll(ctx context.Context, labs []*lab.Lab, n int, each func(*lab.Result) error) (played, error) {
	var all played
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	pending := make([]chan *lab.Result, len(labs))
	for i := range pending {
		pending[i] = make(chan *lab.Result, 1)
	}
	next := make(chan int, len(labs))
	for i := range labs {
		next <- i
	}
	close(next)
	var alone sync.RWMutex // held for writing by a lab that is played alone
	for range n {
		wg.Go(func() {
			for i := range next {
				unlock := occupy(&alone, labs[i].Exclusive)
				if ctx.Err() == nil {
					pending[i] <- p.play(ctx, labs[i], p.saying(labs[i]))
				}
				unlock()
				close(pending[i])
			}
		})
	}
	for i := range labs {
		r := <-pending[i]
		if r == nil {
			all.notBegun = append(all.notBegun, labName(labs[i]))
			all.code = exitInterrupted
			continue
		}
		p.done()
		lacks := cannotRun(r.Err)
		switch {
		case lacks == nil:
		case lacks.code == exitSkipped: // also where that showed in a later step
			if r.Skipped = oneLine(lacks); len(r.Steps) == 0 {
				r.Err = nil
			}
			lacks = nil
		case len(r.Steps) == 0: // nothing to report, and the others would fare no better
			p.warn(r.Lab, oneLine(lacks))
			cancel()
			all.code = worse(all.code, lacks.code)
			return all, nil
		default:
			r.Err = lacks
		}
		var setting *lab.SettingError
		if errors.As(r.Err, &setting) && setting.Input() {
			cancel()
			return all, exit(exitBadInput, setting)
		}
		all.results = append(all.results, r)
		if err := each(r); err != nil {
			cancel()
			return all, exit(exitBroken, err)
		}
		if lacks != nil {
			all.code = worse(all.code, lacks.code)
			continue
		}
		all.code = worse(all.code, exitCode(r.Verdict()))
	}
	return all, nil
}

// oneLine puts errors that were joined on one line.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

func exitCode(v lab.Verdict) int {
	switch v {
	case lab.Pass:
		return exitPass
	case lab.Skipped:
		return exitSkipped
	case lab.Fail:
		return exitFail
	case lab.Unclear:
		return exitInconclusive
	case lab.Interrupted:
		return exitInterrupted
	}
	return exitBroken
}

// labName is the name of a lab and its variant.
func labName(l *lab.Lab) string {
	if l.Variant == "" {
		return l.Name
	}
	return l.Name + "/" + l.Variant
}

// saying is the progress of one lab.
func (p *player) saying(l *lab.Lab) lab.Progress {
	return func(what string) { p.say(labName(l), what) }
}

// lineWide is how much of a line that changes is drawn: a longer one would wrap and stay.
const lineWide = 78

func (p *player) say(name, what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.live {
		fmt.Fprintf(p.w, "ctlab: %s: %s\n", name, lab.Escape(what))
		return
	}
	fmt.Fprintf(p.w, "\r\x1b[K%.*s", lineWide, lab.Escape(name+": "+what))
	p.drawn = true
}

// warn writes a line that stays.
func (p *player) warn(l *lab.Lab, what string) {
	p.done()
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(p.w, "ctlab: %s: %s\n", labName(l), lab.Escape(what))
}

// done takes the line that changes away.
func (p *player) done() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.drawn {
		fmt.Fprint(p.w, "\r\x1b[K")
		p.drawn = false
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

// outputs are the forms in which results are wanted.
type outputs struct {
	json         bool
	junit, trace string

	junitFile, traceFile *os.File
	written              int
	begun                *lab.Lab // whose steps were written, while its network stood
}

func (o *outputs) flags(c *cobra.Command) {
	c.Flags().BoolVar(&o.json, "json", false, "print one JSON document in place of reports (docs/json.md)")
	c.Flags().StringVar(&o.junit, "junit", "", "write a JUnit report to this file")
	c.Flags().StringVar(&o.trace, "trace", "", "write what went in and what was seen to this file, for ctlab replay and explain")
}

// open makes the files before anything is played.
func (o *outputs) open() error {
	for _, f := range []struct {
		flag, path string
		file       **os.File
	}{{"--junit", o.junit, &o.junitFile}, {"--trace", o.trace, &o.traceFile}} {
		if f.path == "" {
			continue
		}
		var err error
		if *f.file, err = os.Create(f.path); err != nil {
			return fmt.Errorf("%s: %w", f.flag, err)
		}
	}
	return nil
}

// fill writes the files of --junit and --trace as they are, and closes them.
func (o *outputs) fill(junit, trace []byte) error {
	var errs []error
	for _, f := range []struct {
		file    *os.File
		content []byte
	}{{o.junitFile, junit}, {o.traceFile, trace}} {
		if f.file == nil {
			continue
		}
		_, err := f.file.Write(f.content)
		errs = append(errs, err, f.file.Close())
	}
	return errors.Join(errs...)
}

// write gives out a result as soon as it is there: the text of the report, and the traces.
func (o *outputs) write(cmd *cobra.Command, r *lab.Result, opt report.Options) error {
	if o.traceFile != nil {
		if err := trace.Write(o.traceFile, r.Evidence.Traces...); err != nil {
			return fmt.Errorf("write trace: %w", err)
		}
	}
	if o.json {
		return nil
	}
	if o.begun != r.Lab {
		if err := o.writeSteps(cmd, r, opt); err != nil {
			return err
		}
	}
	if err := report.Verdict(cmd.OutOrStdout(), r, opt); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}

// writeSteps writes the text of a report as far as its steps.
func (o *outputs) writeSteps(cmd *cobra.Command, r *lab.Result, opt report.Options) error {
	o.begun = r.Lab
	if o.json {
		return nil
	}
	if o.written++; o.written > 1 {
		fmt.Fprintln(cmd.OutOrStdout())
	}
	if err := report.Steps(cmd.OutOrStdout(), r, opt); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}

// finish writes what is made of all results together, closes the files and gives the exit code.
func (o *outputs) finish(cmd *cobra.Command, all played) error {
	var err error
	if o.json {
		err = report.NewDocument(cmd.Name(), all.results, nil, all.notBegun, all.code).Write(cmd.OutOrStdout())
	} else {
		err = report.NotBegun(cmd.OutOrStdout(), all.notBegun)
	}
	if err != nil {
		return exit(exitBroken, fmt.Errorf("write report: %w", err))
	}
	if o.junitFile != nil {
		if err := report.JUnit(o.junitFile, all.results); err != nil {
			return exit(exitBroken, fmt.Errorf("write JUnit report: %w", err))
		}
	}
	for _, f := range []*os.File{o.junitFile, o.traceFile} {
		if f == nil {
			continue
		}
		if err := f.Close(); err != nil {
			return exit(exitBroken, fmt.Errorf("write %s: %w", f.Name(), err))
		}
	}
	return exit(all.code, nil)
}
