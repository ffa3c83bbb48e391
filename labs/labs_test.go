//go:build linux

package labs_test

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"ctlab/checks/trace"
	"ctlab/lab"
	"ctlab/lab/live"
	"ctlab/lab/play"
	"ctlab/lab/report"
	"ctlab/labs"
)

// Every bundled lab and each of its variants, on this kernel: all wants are met, kernel and model agree,
// and nothing was left to the timing.
func TestLabsOnThisKernel(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("needs root")
		}
		t.Skip("needs root")
	}
	for _, name := range labs.Names() {
		src, ok := labs.Read(name)
		if !ok {
			t.Fatalf("no lab %s", name)
		}
		base, err := lab.Load(name, src, "")
		if err != nil {
			t.Fatal(err)
		}
		variants := []string{""}
		for _, v := range base.Variants {
			variants = append(variants, v.Name)
		}
		for _, v := range variants {
			t.Run(strings.TrimSuffix(name+"/"+v, "/"), func(t *testing.T) { playLab(t, name, src, v) })
		}
	}
}

func playLab(t *testing.T, name string, src []byte, variant string) {
	l, err := lab.Load(name, src, variant)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	r := lab.Run(ctx, l, play.New(l, live.New(l)), lab.Options{})
	free := 0
	for _, c := range r.Comparisons {
		free += c.Free["timing"]
		if c.Verdict() != trace.Same {
			t.Errorf("%s: %s", c.Header.Node, c.Verdict())
		}
	}
	if r.Verdict() == lab.Pass && free == 0 && !t.Failed() {
		return
	}
	var b strings.Builder
	if err := report.Text(&b, r, report.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Errorf("%s, %d timing choices\n%s", r.Verdict(), free, b.String())
}
