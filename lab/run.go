package lab

import (
	"context"
	"errors"
	"slices"
	"time"

	"ctlab/checks/model"
	"ctlab/checks/trace"
)

// Result is everything about one run of a lab.
type Result struct {
	Lab         *Lab
	Setting     Setting
	Steps       []StepResult
	Evidence    Evidence
	Comparisons []trace.Report // one a tracked node; of a simulated run for stories only
	Skipped     string         // why it was not played, and what would mend that; or ""
	Err         error          // why the run ended early, or nil
	CloseErr    error          // what went wrong when the network was taken down
	Wall        time.Duration  // from Build to Close
}

// StepResult is a step, its outcome and what it was held against.
type StepResult struct {
	Step    *Step
	Outcome Outcome
	Wants   []WantResult
	Late    time.Duration // how long after its time the step began, if that was more than 20 ms
}

// OK reports whether every want of the step was met.
func (s StepResult) OK() bool { return allMet(s.Wants) }

// Own is the time that ctlab itself took: the whole run less the waits of the script.
func (r *Result) Own() time.Duration { return r.Wall - r.Evidence.Waits }

// Problem is why the run ended early and what went wrong when its network was taken down, in words, or "".
func (r *Result) Problem() string {
	if r.Verdict() != Interrupted {
		if err := errors.Join(r.Err, r.CloseErr); err != nil {
			return err.Error()
		}
		return ""
	}
	if r.CloseErr != nil {
		return "interrupted; at the end: " + r.CloseErr.Error()
	}
	return "interrupted"
}

// Wants counts the wants that were met, and all.
func (r *Result) Wants() (met, all int) {
	for _, s := range r.Steps {
		for _, w := range s.Wants {
			all++
			if w.OK {
				met++
			}
		}
	}
	return met, all
}

// Verdict of a run, in the order in which one outweighs the other.
type Verdict string

// The verdicts of a run.
const (
	Pass         Verdict = "PASS"
	Fail         Verdict = "FAIL"         // a want was not met, or kernel and model differ
	Skipped      Verdict = "SKIPPED"      // this machine lacks what the lab needs
	Unclear      Verdict = "INCONCLUSIVE" // evidence was lost, or a step could not be played in this world
	Broken       Verdict = "BROKEN"       // something broke, or was left behind
	Interrupted  Verdict = "INTERRUPTED"
	cleanupLimit         = 10 * time.Second
)

// ErrEvidenceLost says that something happened of which the record is not complete, so that there is no verdict.
var ErrEvidenceLost = errors.New("evidence was lost")

// Verdict of the run.
func (r *Result) Verdict() Verdict {
	err := errors.Join(r.Err, r.CloseErr)
	switch {
	case r.Skipped != "":
		return Skipped
	case errors.Is(r.Err, context.Canceled):
		return Interrupted
	case err != nil && onlyLost(err):
		return Unclear
	case err != nil:
		return Broken
	}
	missed, unclear := r.missed()
	// A simulated world is the model itself, so that a comparison says nothing.
	if r.Lab.SkipModel == "" && !r.Setting.Simulated {
		for _, c := range r.Comparisons {
			if c.Verdict() == trace.Different {
				return Fail
			}
			unclear = unclear || c.Verdict() == trace.Inconclusive
		}
	}
	switch {
	case missed:
		return Fail
	case unclear:
		return Unclear
	}
	return Pass
}

// missed reports whether a want was missed for sure. Behind a step that this world could not play what is missed says
// nothing, so that all is unclear then.
func (r *Result) missed() (missed, unclear bool) {
	for i := range r.Steps {
		if r.Steps[i].Outcome.NotPlayed != "" {
			return false, true
		}
		if !r.Steps[i].OK() {
			return true, false
		}
	}
	return false, false
}

// onlyLost reports whether nothing is wrong but that evidence was lost.
func onlyLost(err error) bool {
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		return !slices.ContainsFunc(many.Unwrap(), func(e error) bool { return !onlyLost(e) })
	}
	if err == ErrEvidenceLost {
		return true
	}
	inner := errors.Unwrap(err)
	return inner != nil && onlyLost(inner)
}

// Progress is told what happens, for a person who waits.
type Progress func(what string)

// Options of a run.
type Options struct {
	Profile  *model.Profile                 // in place of the one that the world finds by probing
	Progress Progress                       // nil: nobody waits
	Keep     func(context.Context, *Result) // called with what there is so far when the steps are over and the network still stands
}

// Run plays a lab in a world. Whatever happens, the world is closed, and what was seen until then is in
// the Result.
func Run(ctx context.Context, l *Lab, w World, opt Options) *Result {
	r := &Result{Lab: l}
	progress := opt.Progress
	if progress == nil {
		progress = func(string) {}
	}
	start := time.Now()
	progress("building " + l.Name)
	r.Setting, r.Err = w.Build(ctx)
	if r.Err == nil {
		r.Err = r.play(ctx, w, progress)
	}
	if opt.Keep != nil && !errors.Is(r.Err, context.Canceled) {
		kept := time.Now()
		opt.Keep(ctx, r)
		start = start.Add(time.Since(kept)) // looking around is not part of the run
	}
	// Teardown has its own deadline and does not care that the run was interrupted.
	cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupLimit)
	defer cancel()
	r.Evidence, r.CloseErr = w.Close(cctx)
	r.Wall = time.Since(start)
	if len(r.Evidence.Traces) > 0 {
		progress("comparing with the model")
	}
	r.compare(opt.Profile)
	r.judgeOutcomes()
	return r
}

// compare replays each trace through the model. A lab that leaves the model out says why.
func (r *Result) compare(override *model.Profile) {
	for _, t := range r.Evidence.Traces {
		p, err := t.Header.Model(override)
		if err != nil {
			r.CloseErr = errors.Join(r.CloseErr, err)
			continue
		}
		r.Comparisons = append(r.Comparisons, trace.Replay(t, p))
	}
}
