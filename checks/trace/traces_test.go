package trace_test

import (
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"ctlab/checks/model"
	"ctlab/checks/trace"
)

const tracesDir = "testdata/traces"

// traceFiles are the recordings of what a real kernel did with random scenarios and with the model's stories.
func traceFiles(t *testing.T) (files []string) {
	t.Helper()
	err := filepath.WalkDir(tracesDir, func(path string, _ fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".trace") {
			files = append(files, path)
		}
		return err
	})
	if err != nil || len(files) < 50 {
		t.Fatalf("%d recorded traces: %v", len(files), err)
	}
	return files
}

// TestTraces: the model accounts for every recording.
func TestTraces(t *testing.T) {
	for _, f := range traceFiles(t) {
		t.Run(name(f), func(t *testing.T) {
			t.Parallel()
			for _, tr := range parseFile(t, f) {
				r := trace.Replay(tr, profileOf(t, tr))
				if r.Verdict() != trace.Same {
					t.Errorf("%s: %s", r.Verdict(), r.Summary())
				}
				for _, d := range r.Differences {
					t.Errorf("at %s: %s", d.Record.At, d)
				}
				for _, l := range r.Lost {
					t.Error(l)
				}
			}
		})
	}
}

func name(file string) string {
	rel, _ := filepath.Rel(tracesDir, file)
	return strings.TrimSuffix(filepath.ToSlash(rel), ".trace")
}

// sampleOf is how many recordings there are for each one whose every detail is changed in turn.
const sampleOf = 10

// TestTracesAreSharp asks of a sample of the recordings what TestSharp... asks of the labs': change one observed field,
// leave out each input, shift each packet by a second; each must be reported. What cannot be seen is in
// testdata/traces/silent.txt, with the reason.
func TestTracesAreSharp(t *testing.T) {
	allowed := readSilent(t)
	for _, f := range traceFiles(t) {
		h := fnv.New32a() // of the name, so that a new recording moves no other one in or out
		h.Write([]byte(name(f)))
		if h.Sum32()%sampleOf != 0 {
			continue
		}
		t.Run(name(f), func(t *testing.T) {
			t.Parallel()
			for _, tr := range parseFile(t, f) {
				ports := trace.Replay(tr, profileOf(t, tr)).Free[model.ChoosePort] > 0
				n, silent := 0, 0
				for what, changed := range mutilations(tr) {
					n++
					if reported(t, changed) || ports && strings.HasPrefix(what, "source port") {
						continue
					}
					silent++
					if strings.HasPrefix(what, "without neighbour ") {
						continue // for whom nothing waits
					}
					if key := name(f) + ": " + what; !allowed[key] {
						t.Errorf("not reported: %s", key)
					}
				}
				t.Logf("%d changes, %d of them listed as silent", n, silent)
			}
		})
	}
}

// mutilations are the trace with one thing wrong, by what that is.
func mutilations(tr trace.Trace) map[string]trace.Trace {
	out := map[string]trace.Trace{}
	for i, r := range tr.Records {
		if !r.Input() {
			for what, changed := range changes(r) {
				if what != "id" { // one that is seen once may be any
					out[fmt.Sprintf("%s of %d %s", what, i, r.Kind)] = with(tr, i, changed)
				}
			}
			continue
		}
		cut := tr
		cut.Records = slices.Delete(slices.Clone(tr.Records), i, i+1)
		kind := string(r.Kind)
		if r.Kind == trace.ARP || r.Kind == trace.Neigh {
			kind = "neighbour " + kind
		}
		out[fmt.Sprintf("without %s %s, %d", kind, r.Args, i)] = cut
		if r.Kind == trace.Packet && strings.Contains(r.Args, " udp ") && !strings.Contains(r.Args, " about ") && !strings.Contains(r.Args, " bad ") {
			late := r
			late.At += time.Second
			late.Span = late.Span.Add(tr.HZ)
			shifted := with(tr, i, late)
			sort.SliceStable(shifted.Records, func(a, b int) bool { return shifted.Records[a].At < shifted.Records[b].At })
			out[fmt.Sprintf("a second later: %d %s", i, r.Args)] = shifted
		}
	}
	return out
}

// readSilent reads the list of changes that nothing shows: indented lines below the reason why.
func readSilent(t *testing.T) map[string]bool {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(tracesDir, "silent.txt"))
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		if key, ok := strings.CutPrefix(strings.TrimRight(line, "\n"), "\t"); ok {
			keys[key] = true
		}
	}
	return keys
}
