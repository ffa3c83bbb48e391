// Mutate asks whether the tests would notice if the code of a package were wrong. It changes one thing at a
// time (a number by one, the boundary of a comparison, a condition, a status bit, a statement that is left
// out), runs the tests, and prints the changes that they survive.
//
//	go run ./internal/mutate [-n COUNT -seed N] [-only REGEXP] [-write] ./checks/model
//
// All changes are compiled into the test binaries at once, each under a switch, so that a change costs one run
// and no build. Survivors are compared with the package's testdata/survivors.txt, which says of each why no test
// can see it: the program fails for survivors that are not there.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// What is run for each change, in this order: the first that fails ends it.
func suites() []suite {
	return []suite{
		{pkg: "./checks/trace", tests: "^(TestPlay|TestStories|TestModelAccountsForRecordedKernels|TestTraces)$"},
		{pkg: "./checks/model", tests: "^Test"},
	}
}

func main() {
	n := flag.Int("n", 0, "try a sample of so many changes, instead of all")
	seed := flag.Uint64("seed", uint64(time.Now().UnixNano()), "of the sample")
	only := flag.String("only", "", "try changes that match this regular expression")
	write := flag.Bool("write", false, "bring the list up to date: survivors without a reason are put at its end, and what is not so any more is taken out")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: mutate [-n COUNT -seed N] [-only REGEXP] [-write] PACKAGE-FOLDER")
		os.Exit(2)
	}
	m := mutation{dir: flag.Arg(0), suites: suites(), n: *n, seed: *seed, only: *only, write: *write, out: os.Stdout, progress: os.Stderr}
	unknown, err := m.run(context.Background())
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutate:", err)
		os.Exit(2)
	}
	if unknown > 0 {
		os.Exit(1)
	}
}

// mutation is what is to be tried, and where that is told.
type mutation struct {
	dir           string // the package's folder
	suites        []suite
	n             int // 0: all
	seed          uint64
	only          string
	write         bool // the list
	out, progress io.Writer
}

// run tries the changes and reports; unknown is how many survive without a reason.
func (m mutation) run(ctx context.Context) (unknown int, err error) {
	filter, err := regexp.Compile(m.only)
	if err != nil {
		return 0, fmt.Errorf("-only: %w", err)
	}
	known, err := readSurvivors(m.list())
	if err != nil {
		return 0, err
	}
	begin := time.Now()
	b, err := build(ctx, m.dir, m.suites)
	if err != nil {
		return 0, err
	}
	defer b.remove()
	reached, err := b.baseline(ctx)
	if err != nil {
		return 0, err
	}
	fmt.Fprintf(m.progress, "%d changes, %d of them reached; built in %s, a run takes %s\n", len(b.points), len(reached), time.Since(begin).Round(time.Second), b.took.Round(time.Millisecond))
	chosen := m.sample(slices.DeleteFunc(slices.Clone(b.points), func(p point) bool { return !filter.MatchString(p.String()) }))
	survived := b.try(ctx, chosen, reached, m.progress)
	unknown = m.report(chosen, survived, reached, known)
	if m.write {
		if err := known.rewrite(m.list(), chosen, survived, m.all()); err != nil {
			return unknown, err
		}
	}
	fmt.Fprintf(m.out, "%d changes tried, %d killed, %d survive: %d of them are not listed, %d are listed without a reason; %s\n",
		len(chosen), len(chosen)-len(survived), len(survived), unknown, known.open(chosen, survived), time.Since(begin).Round(time.Second))
	return unknown, nil
}

// list is where the survivors are listed.
func (m mutation) list() string { return filepath.Join(m.dir, "testdata", "survivors.txt") }

// all reports whether nothing is left out.
func (m mutation) all() bool { return m.n == 0 && m.only == "" }

// sample picks n of the changes.
func (m mutation) sample(all []point) []point {
	if m.n == 0 || m.n >= len(all) {
		return all
	}
	fmt.Fprintf(m.progress, "a sample of %d, -seed %d\n", m.n, m.seed)
	r := rand.New(rand.NewPCG(m.seed, 0))
	r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	slices.SortFunc(all[:m.n], func(a, b point) int { return a.id - b.id })
	return all[:m.n]
}

// report prints survivors without a reason, and what of the list is out of date.
func (m mutation) report(chosen []point, survived, reached map[int]bool, known survivors) (unknown int) {
	for _, p := range chosen {
		listed := known.has(p.key())
		switch {
		case survived[p.id] && !listed:
			unknown++
			how := ""
			if !reached[p.id] {
				how = " (never reached)"
			}
			fmt.Fprintln(m.out, "survives:", p.String()+how)
		case !survived[p.id] && listed && !known.byPattern(p.key()):
			fmt.Fprintln(m.out, "listed, and killed now:", p)
		}
	}
	if m.all() {
		known.gone(m.out, chosen)
	}
	return unknown
}

// survivors are the changes that are known to survive; a * at the end of a key stands for anything.
type survivors struct {
	keys     map[string]bool // true where the list has a reason
	patterns []string
}

func (s survivors) has(key string) bool {
	_, listed := s.keys[key]
	return listed || s.byPattern(key)
}

// open counts the survivors that are listed without a reason.
func (s survivors) open(chosen []point, survived map[int]bool) (n int) {
	for _, p := range chosen {
		if reason, listed := s.keys[p.key()]; survived[p.id] && listed && !reason {
			n++
		}
	}
	return n
}

func (s survivors) byPattern(key string) bool {
	return slices.ContainsFunc(s.patterns, func(p string) bool { return strings.HasPrefix(key, p) })
}

// gone says what the list has and the code has not.
func (s survivors) gone(out io.Writer, all []point) {
	there := map[string]bool{}
	for _, p := range all {
		there[p.key()] = true
	}
	for _, k := range slices.Sorted(maps.Keys(s.keys)) {
		if !there[k] {
			fmt.Fprintln(out, "listed, and not in the code:", k)
		}
	}
}

// unexplained is the heading of survivors for which nobody has found a reason, or written a test.
const unexplained = "No test shows these yet."

// rewrite takes the changes that were killed out of the list, and if all were tried those that are not in the code, and
// puts the new survivors at its end.
func (s survivors) rewrite(path string, tried []point, survived map[int]bool, all bool) error {
	gone := maps.Clone(s.keys)
	for key := range gone {
		gone[key] = all
	}
	var fresh []string
	for _, p := range tried {
		gone[p.key()] = !survived[p.id]
		switch {
		case !survived[p.id]:
		case !s.has(p.key()):
			fresh = append(fresh, "\t"+p.key()+"\n")
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var b strings.Builder
	for line := range strings.Lines(string(text)) {
		if key, indented := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "\t"); !indented || !gone[key] {
			b.WriteString(line)
		}
	}
	if !strings.Contains(b.String(), unexplained) {
		b.WriteString("\n" + unexplained + "\n")
	}
	b.WriteString(strings.Join(fresh, ""))
	return os.WriteFile(path, []byte(b.String()), 0o644)
}

// readSurvivors reads a list in which indented lines are changes, below the reason why they survive.
func readSurvivors(path string) (s survivors, err error) {
	s.keys = map[string]bool{}
	text, err := os.ReadFile(path)
	if err != nil {
		return s, fmt.Errorf("read the list of survivors: %w", err)
	}
	explained := true
	for line := range strings.Lines(string(text)) {
		key, indented := strings.CutPrefix(strings.TrimRight(line, "\n"), "\t")
		if !indented {
			explained = key != unexplained
			continue
		}
		if head, ok := strings.CutSuffix(key, "*"); ok {
			s.patterns = append(s.patterns, head)
		} else {
			s.keys[key] = explained
		}
	}
	return s, nil
}
