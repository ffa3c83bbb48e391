package labs_test

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"ctlab/checks/trace"
	"ctlab/lab"
	"ctlab/lab/play"
	"ctlab/lab/report"
	"ctlab/lab/sim"
	"ctlab/labs"
)

// seed of the predictions in the tests; what is free must not decide a want, so any will do.
const seed = 7

// variant is a bundled lab, or one of its variants.
type variant struct {
	lab, name string
	src       []byte
}

func (v variant) String() string { return strings.TrimSuffix(v.lab+"/"+v.name, "/") }

func (v variant) load(t testing.TB) *lab.Lab {
	t.Helper()
	l, err := lab.Load(v.lab, v.src, v.name)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// all lists every bundled lab and each of its variants.
func all(t testing.TB) []variant {
	t.Helper()
	var out []variant
	for _, name := range labs.Names() {
		src, ok := labs.Read(name)
		if !ok {
			t.Fatalf("no lab %s", name)
		}
		base := variant{lab: name, src: src}
		out = append(out, base)
		for _, v := range base.load(t).Variants {
			out = append(out, variant{name, v.Name, src})
		}
	}
	return out
}

func predict(l *lab.Lab, seed uint64) *lab.Result {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return lab.Run(ctx, l, play.New(l, sim.New(l, seed)), lab.Options{})
}

func text(t testing.TB, r *lab.Result) string {
	t.Helper()
	var b strings.Builder
	if err := report.Text(&b, r, report.Options{}); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// notPredicted are the labs and variants whose predictions are inconclusive.
func notPredicted(t testing.TB) map[string]bool {
	t.Helper()
	listed := map[string]bool{}
	for name := range listedLabs(t, "testdata/not-predicted.txt") {
		listed[name] = true
	}
	return listed
}

// listedLabs reads a list of labs and variants, each with what is said of it.
func listedLabs(t testing.TB, file string) map[string]string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]string{}
	for line := range strings.Lines(string(b)) {
		name, why, _ := strings.Cut(strings.TrimSpace(line), " ")
		if name == "" || name == "#" {
			continue
		}
		if listed[name] = strings.TrimSpace(why); listed[name] == "" {
			t.Errorf("%s: %s: no reason", file, name)
		}
	}
	return listed
}

// testdata/skipped.txt lists the labs that a machine may skip, and for want of which programs: no other lab may be.
func TestSkippedLabsAreListed(t *testing.T) {
	const file = "testdata/skipped.txt"
	listed := listedLabs(t, file)
	for _, v := range all(t) {
		if needs := strings.Join(v.load(t).Needs.Programs, " "); needs != listed[v.String()] {
			t.Errorf("%s needs %q; %s has %q", v, needs, file, listed[v.String()])
		}
		delete(listed, v.String())
	}
	for name := range listed {
		t.Errorf("%s lists %s, which there is not", file, name)
	}
}

// verdict is what the prediction of a lab or variant should come to.
func (v variant) verdict(listed map[string]bool) lab.Verdict {
	if listed[v.String()] {
		return lab.Unclear
	}
	return lab.Pass
}

// Every bundled lab and each of its variants, in the simulated world: all wants are met, nothing comes near a
// boundary, and the prediction replays.
func TestLabsPredicted(t *testing.T) {
	listed := notPredicted(t)
	for _, v := range all(t) {
		t.Run(v.String(), func(t *testing.T) {
			r := predict(v.load(t), seed)
			for _, c := range r.Comparisons {
				if c.Verdict() != trace.Same {
					t.Errorf("%s: the prediction does not replay: %s", c.Header.Node, c.Verdict())
				}
			}
			for _, m := range r.Evidence.Margins {
				t.Errorf("%v: %s on %s: %v from a boundary", m.At, m.What, m.Node, m.Off)
			}
			if want := v.verdict(listed); r.Verdict() != want || t.Failed() {
				t.Errorf("%s, want %s\n%s", r.Verdict(), want, text(t, r))
			}
		})
		delete(listed, v.String())
	}
	for name := range listed {
		t.Errorf("testdata/not-predicted.txt lists %s, which there is not", name)
	}
}

// What is free decides no want.
func TestLabsPredictedWithOtherSeeds(t *testing.T) {
	listed := notPredicted(t)
	for _, v := range all(t) {
		for s := range uint64(5) {
			if r := predict(v.load(t), 100+s); r.Verdict() != v.verdict(listed) {
				t.Errorf("%s, seed %d: %s\n%s", v, 100+s, r.Verdict(), text(t, r))
			}
		}
	}
}

func BenchmarkPredict(b *testing.B) {
	for _, v := range all(b) {
		l := v.load(b)
		b.Run(v.String(), func(b *testing.B) {
			for b.Loop() {
				predict(l, seed)
			}
		})
	}
}

// everyStep is a lab with every kind of step in it.
func everyStep(t testing.TB) *lab.Lab {
	t.Helper()
	l, err := lab.ReadFile("testdata/every-step.yaml", "")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// dualStack is a lab whose nodes have both families.
func dualStack(t testing.TB) *lab.Lab {
	t.Helper()
	l, err := lab.ReadFile("testdata/dual-stack.yaml", "")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// Both families on one node, and all that is changed while they talk, in the simulated world.
func TestDualStackPredicted(t *testing.T) {
	if r := predict(dualStack(t), seed); r.Verdict() != lab.Pass {
		t.Errorf("%s\n%s", r.Verdict(), text(t, r))
	}
}

// Every kind of step is played in the simulated world, but for the programs that no prediction can run.
func TestEveryStepPredicted(t *testing.T) {
	l := everyStep(t)
	kinds := map[lab.Kind]bool{}
	for _, s := range l.Steps {
		kinds[s.Kind] = true
	}
	for _, k := range []lab.Kind{lab.Query, lab.Start, lab.Stop, lab.Restart, lab.SetBackends, lab.SetRules, lab.SetSysctl, lab.SetLink,
		lab.SetAddress, lab.SetRoute, lab.Table, lab.PutPacket, lab.Hold, lab.Release, lab.Wait, lab.Exec, lab.Check} {
		if !kinds[k] {
			t.Errorf("no %s step", k)
		}
	}
	r := predict(l, seed)
	for _, s := range r.Steps {
		if !s.OK() || (s.Outcome.NotPlayed != "") != (s.Step.Kind == lab.Exec) {
			t.Errorf("step %d: wants met %t, not played %q\n%s", s.Step.Index, s.OK(), s.Outcome.NotPlayed, text(t, r))
		}
	}
	if r.Err != nil || r.Verdict() != lab.Unclear {
		t.Errorf("%s, %v", r.Verdict(), r.Err)
	}
}
