//go:build linux

package labs_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ctlab/checks/model"
	"ctlab/checks/trace"
	"ctlab/lab"
	"ctlab/lab/live"
	"ctlab/lab/play"
	"ctlab/topology"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatal("needs root")
	}
	t.Skip("needs root")
}

// needPrograms skips a lab whose programs are not installed; in CI all are.
func needPrograms(t *testing.T, l *lab.Lab) {
	t.Helper()
	for _, name := range l.Needs.Programs {
		if _, err := exec.LookPath(name); err == nil {
			continue
		}
		if os.Getenv("CI") != "" {
			t.Fatalf("%s is not installed", name)
		}
		t.Skipf("%s is not installed", name)
	}
}

// needRoom skips a lab that fills a table where the machine's limit is too large; in CI it is not.
func needRoom(t *testing.T, l *lab.Lab) {
	t.Helper()
	why := live.CannotFill(l)
	if why == "" {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// Every kind of step on this kernel.
func TestEveryStepOnThisKernel(t *testing.T) {
	needRoot(t)
	t.Parallel()
	l := everyStep(t)
	if r := lab.Run(t.Context(), l, play.New(l, live.New(l)), lab.Options{}); r.Verdict() != lab.Pass {
		t.Errorf("%s\n%s", r.Verdict(), text(t, r))
		keep(t, r)
	}
}

// Both families on one node, with the rules of either back end.
func TestDualStackOnThisKernel(t *testing.T) {
	needRoot(t)
	for _, backend := range []string{topology.Nft, topology.Legacy} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			l := dualStack(t)
			g := live.New(l)
			g.Backend = backend
			if r := lab.Run(t.Context(), l, play.New(l, g), lab.Options{}); r.Verdict() != lab.Pass {
				t.Errorf("%s\n%s", r.Verdict(), text(t, r))
				keep(t, r)
			}
		})
	}
}

// Every bundled lab and each of its variants, on this kernel: all wants are met, kernel and model agree,
// nothing was left to the timing, and the outcome is the one that was predicted.
func TestLabsOnThisKernel(t *testing.T) {
	needRoot(t)
	unclear := notPredicted(t)
	for _, v := range all(t) {
		t.Run(v.String(), func(t *testing.T) {
			l := v.load(t)
			if !l.Exclusive {
				t.Parallel()
			}
			needPrograms(t, l)
			needRoom(t, l)
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
			defer cancel()
			r := lab.Run(ctx, l, play.New(l, live.New(l)), lab.Options{})
			free := 0
			for _, c := range r.Comparisons {
				for _, choice := range c.Choices {
					if choice.Kind == model.ChooseTiming {
						free++
						t.Errorf("%s: left to the timing: %s", c.Header.Node, choice)
					}
				}
				if c.Verdict() != trace.Same {
					t.Errorf("%s: %s", c.Header.Node, c.Verdict())
				}
			}
			if !unclear[v.String()] {
				agree(t, predict(v.load(t), seed), r)
			}
			if r.Verdict() != lab.Pass || free > 0 || t.Failed() {
				t.Errorf("%s, %d timing choices\n%s", r.Verdict(), free, text(t, r))
				keep(t, r)
			}
		})
	}
}

// The wants of labs that no prediction can play fail as well when the cause or the fix is taken away.
func TestWantsFailOnThisKernel(t *testing.T) {
	needRoot(t)
	unclear, tried := notPredicted(t), 0
	for _, f := range flips(t) {
		if !unclear[f.variant.String()] {
			continue
		}
		tried++
		t.Run(f.variant.String()+", "+f.what, func(t *testing.T) {
			t.Parallel()
			needPrograms(t, f.lab)
			if r := lab.Run(t.Context(), f.lab, play.New(f.lab, live.New(f.lab)), lab.Options{}); r.Verdict() != lab.Fail {
				t.Errorf("%s, and should fail\n%s", r.Verdict(), text(t, r))
			}
		})
	}
	if tried == 0 {
		t.Error("none was tried")
	}
}

// keep writes the traces of a failed run into the test's artifacts (go test -artifacts), for ctlab replay.
func keep(t *testing.T, r *lab.Result) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.ArtifactDir(), "run.trace"))
	if err != nil {
		t.Error(err)
		return
	}
	defer f.Close()
	if err := trace.Write(f, r.Evidence.Traces...); err != nil {
		t.Error(err)
	}
	t.Logf("ctlab replay %s", f.Name())
}

// agree holds a prediction against what the kernel did: each want was met or missed in both, and each query
// step ended alike.
func agree(t *testing.T, predicted, seen *lab.Result) {
	t.Helper()
	if len(predicted.Steps) != len(seen.Steps) {
		t.Errorf("predicted %d steps, played %d: %v", len(predicted.Steps), len(seen.Steps), seen.Err)
	}
	for i, p := range predicted.Steps[:min(len(predicted.Steps), len(seen.Steps))] {
		s := seen.Steps[i]
		if p.Step.Kind == lab.Query && !atRandom(predicted.Lab) {
			if a, b := classes(p), classes(s); a != b {
				t.Errorf("step %d: predicted %s, on the kernel %s", p.Step.Index, a, b)
			}
		}
		for j := range p.Wants {
			if j < len(s.Wants) && p.Wants[j].OK != s.Wants[j].OK {
				t.Errorf("%s: predicted %t (%s), on the kernel %t (%s)", p.Wants[j].Pos, p.Wants[j].OK, p.Wants[j].Got, s.Wants[j].OK, s.Wants[j].Got)
			}
		}
		if len(p.Wants) != len(s.Wants) {
			t.Errorf("step %d: predicted %d wants, judged %d on the kernel", p.Step.Index, len(p.Wants), len(s.Wants))
		}
	}
}

// atRandom reports a lab in which chance decides which flows die: a service with several backends, at random.
func atRandom(l *lab.Lab) bool {
	for _, s := range l.Services {
		if s.Balance == "random" && len(s.Backends) > 1 {
			return true
		}
	}
	return false
}

// classes counts a step's requests by class, those from fresh ports by themselves.
func classes(s lab.StepResult) string {
	var parts []string
	for _, control := range []bool{false, true} {
		for _, c := range lab.Classes() {
			n := 0
			for _, a := range s.Outcome.Attempts {
				if a.Control == control && a.Class == c {
					n++
				}
			}
			if n > 0 {
				parts = append(parts, fmt.Sprintf("%s %d", c, n))
			}
		}
	}
	return strings.Join(parts, ", ")
}
