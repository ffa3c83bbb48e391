package main

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// What the sample's tests see is killed, what they do not see survives, and the list is held against both.
func TestSample(t *testing.T) {
	dir := "./testdata/sample"
	var out strings.Builder
	m := mutation{dir: dir, suites: []suite{{pkg: dir, tests: "."}}, out: &out, progress: io.Discard}
	unknown, err := m.run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	summary := lines[len(lines)-1]
	want := []string{
		"listed, and killed now: sample.go:6: Price: 10 -> 10+1",
		"survives: sample.go:25: Unused: a -> not a (never reached)",
		"survives: sample.go:25: Unused: b -> not b (never reached)",
		"survives: sample.go:25: Unused: a || b -> a && b (never reached)",
		"listed, and not in the code: sample.go Price: 11 -> 11+1",
	}
	if got := lines[:len(lines)-1]; !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if unknown != 3 || !strings.Contains(summary, "6 survive: 3 of them are not listed, 1 are listed without a reason") {
		t.Errorf("%d; %s", unknown, summary)
	}
}

// -write takes out of the list what is not so, and adds what is new.
func TestRewrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "survivors.txt")
	if err := os.WriteFile(path, []byte("A reason.\n\ta f: stays\n\ta f: killed\n\ta f: gone\n\tb *\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	known, err := readSurvivors(path)
	if err != nil {
		t.Fatal(err)
	}
	tried := []point{{id: 1, file: "a", fn: "f", what: "stays"}, {id: 2, file: "a", fn: "f", what: "killed"}, {id: 3, file: "a", fn: "f", what: "new"}, {id: 4, file: "b", fn: "g", what: "listed by a pattern"}}
	if err := known.rewrite(path, tried, map[int]bool{1: true, 3: true, 4: true}, true); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if want := "A reason.\n\ta f: stays\n\tb *\n\nNo test shows these yet.\n\ta f: new\n"; err != nil || string(got) != want {
		t.Errorf("%v\n%s", err, got)
	}
}
