package trace_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"ctlab/checks/model"
	"ctlab/checks/trace"
)

// Each story is a rule of the kernel, told as a trace: what goes in, and what must be seen. They are
// written from the kernel's source and from what was seen running, never from the model.
func TestStories(t *testing.T) {
	files, err := filepath.Glob("testdata/stories/*.trace")
	if err != nil || len(files) < 20 {
		t.Fatalf("%d stories: %v", len(files), err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".trace"), func(t *testing.T) {
			for _, tr := range parseFile(t, f) {
				r := trace.Replay(tr, profileOf(t, tr))
				for _, d := range r.Differences {
					t.Errorf("at %s: %s", d.Record.At, d)
				}
				for _, l := range r.Lost {
					t.Error(l)
				}
				var orders int
				fmt.Sscanf(tr.Lab, "order %d", &orders)
				if free := r.Free[model.ChooseOrder]; free != orders {
					t.Errorf("%d order choices, want %d", free, orders)
				}
				undecided := strings.HasPrefix(tr.Lab, "undecided")
				if free := r.Free[model.ChooseTiming]; free != 0 && !undecided || free != 1 && undecided {
					t.Errorf("%d timing choices", free)
				}
			}
		})
	}
}
