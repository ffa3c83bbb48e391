package sim_test

import (
	"context"
	"strings"
	"testing"

	"ctlab/checks/trace"
	"ctlab/lab"
	"ctlab/lab/play"
	"ctlab/lab/sim"
	"ctlab/labs"
)

// eachLab calls fn for every bundled lab and each of its variants.
func eachLab(tb testing.TB, fn func(name, variant string, src []byte)) {
	tb.Helper()
	for _, name := range labs.Names() {
		src, ok := labs.Read(name)
		if !ok {
			tb.Fatalf("no lab %s", name)
		}
		base, err := lab.Load(name, src, "")
		if err != nil {
			tb.Fatal(err)
		}
		fn(name, "", src)
		for _, v := range base.Variants {
			fn(name, v.Name, src)
		}
	}
}

func predict(tb testing.TB, name, variant string, src []byte, seed uint64) *lab.Result {
	tb.Helper()
	l, err := lab.Load(name, src, variant)
	if err != nil {
		tb.Fatal(err)
	}
	return lab.Run(context.Background(), l, play.New(l, sim.New(l, seed)), lab.Options{})
}

// Every bundled lab and each of its variants is predicted as it demands, whatever is free; its record is
// what the model says of it when it is replayed; and nothing in it comes near a boundary.
func TestLabs(t *testing.T) {
	eachLab(t, func(name, variant string, src []byte) {
		t.Run(strings.TrimSuffix(name+"/"+variant, "/"), func(t *testing.T) {
			for seed := range uint64(3) {
				r := predict(t, name, variant, src, seed)
				if r.Err != nil || r.CloseErr != nil {
					t.Fatal(r.Err, r.CloseErr)
				}
				judgeResult(t, r)
			}
		})
	})
}

func judgeResult(t *testing.T, r *lab.Result) {
	t.Helper()
	for _, s := range r.Steps {
		for _, w := range s.Wants {
			if !w.OK && s.Outcome.NotPlayed == "" {
				t.Errorf("%s: want %s, got %s", w.Pos, w.Want, w.Got)
			}
		}
	}
	if len(r.Comparisons) == 0 && r.Lab.SkipModel == "" {
		t.Error("nothing was compared")
	}
	for _, c := range r.Comparisons {
		if c.Verdict() != trace.Same {
			t.Errorf("%s replays %s: %v %v", c.Header.Node, c.Verdict(), c.Differences, c.Lost)
		}
	}
	for _, m := range r.Evidence.Margins {
		t.Errorf("%s at %v: %s: %v off", m.Node, m.At, m.What, m.Off)
	}
}

// BenchmarkLabs is the time that each lab takes, from reading it to its verdict.
func BenchmarkLabs(b *testing.B) {
	eachLab(b, func(name, variant string, src []byte) {
		b.Run(strings.TrimSuffix(name+"/"+variant, "/"), func(b *testing.B) {
			for b.Loop() {
				predict(b, name, variant, src, 1)
			}
		})
	})
}
