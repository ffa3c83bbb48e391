// Mutate asks whether the tests would notice if the code of a package were wrong. It changes one thing at a
// time (a number by one, the boundary of a comparison, a condition, a status bit, a statement that is left
// out), runs the tests, and prints the changes that they survive.
//
//	go run ./internal/mutate [-n COUNT -seed N] [-only REGEXP] ./checks/model
//
// All changes are compiled into the test binaries at once, each under a switch, so that a change costs one run
// and no build. Survivors are compared with the package's testdata/survivors.txt, which says of each why no test
// can see it: the program fails for survivors that are not there.
package main

import (
	"context"
	"flag"
	"fmt"
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
		{pkg: "./checks/trace", run: "^(TestPlay|TestStories|TestModelAccountsForRecordedKernels|TestTraces)$"},
		{pkg: "./checks/model", run: "^Test"},
	}
}

func main() {
	n := flag.Int("n", 0, "try a sample of so many changes, instead of all")
	seed := flag.Uint64("seed", uint64(time.Now().UnixNano()), "of the sample")
	only := flag.String("only", "", "try changes that match this regular expression")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: mutate [-n COUNT -seed N] [-only REGEXP] PACKAGE-FOLDER")
		os.Exit(2)
	}
	unknown, err := mutate(context.Background(), flag.Arg(0), *n, *seed, *only)
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutate:", err)
		os.Exit(2)
	}
	if unknown > 0 {
		os.Exit(1)
	}
}

// mutate tries the changes and reports; unknown is how many survive without a reason.
func mutate(ctx context.Context, dir string, n int, seed uint64, only string) (unknown int, err error) {
	filter, err := regexp.Compile(only)
	if err != nil {
		return 0, fmt.Errorf("-only: %w", err)
	}
	known, err := readSurvivors(filepath.Join(dir, "testdata", "survivors.txt"))
	if err != nil {
		return 0, err
	}
	begin := time.Now()
	b, err := build(ctx, dir, suites())
	if err != nil {
		return 0, err
	}
	defer b.remove()
	reached, err := b.baseline(ctx)
	if err != nil {
		return 0, err
	}
	fmt.Fprintf(os.Stderr, "%d changes, %d of them reached; built in %s, a run takes %s\n", len(b.points), len(reached), time.Since(begin).Round(time.Second), b.took.Round(time.Millisecond))
	chosen := slices.DeleteFunc(slices.Clone(b.points), func(p point) bool { return !filter.MatchString(p.String()) })
	if n > 0 && n < len(chosen) {
		fmt.Fprintf(os.Stderr, "a sample of %d, -seed %d\n", n, seed)
		r := rand.New(rand.NewPCG(seed, 0))
		r.Shuffle(len(chosen), func(i, j int) { chosen[i], chosen[j] = chosen[j], chosen[i] })
		chosen = chosen[:n]
		slices.SortFunc(chosen, func(a, b point) int { return a.id - b.id })
	}
	survived := b.try(ctx, chosen, reached)
	unknown = report(chosen, survived, reached, known)
	fmt.Printf("%d changes tried, %d killed, %d survive, %d of them without a reason; %s\n",
		len(chosen), len(chosen)-len(survived), len(survived), unknown, time.Since(begin).Round(time.Second))
	return unknown, nil
}

// report prints survivors without a reason, and what of the list is out of date.
func report(chosen []point, survived, reached map[int]bool, known survivors) (unknown int) {
	for _, p := range chosen {
		listed := known.has(p.key())
		switch {
		case survived[p.id] && !listed:
			unknown++
			how := ""
			if !reached[p.id] {
				how = " (never reached)"
			}
			fmt.Println("survives:", p.String()+how)
		case !survived[p.id] && listed && !known.byPattern(p.key()):
			fmt.Println("listed, and killed now:", p)
		}
	}
	return unknown
}

// survivors are the changes that are known to survive; a * at the end of a key stands for anything.
type survivors struct {
	keys     map[string]bool
	patterns []string
}

func (s survivors) has(key string) bool { return s.keys[key] || s.byPattern(key) }

func (s survivors) byPattern(key string) bool {
	return slices.ContainsFunc(s.patterns, func(p string) bool { return strings.HasPrefix(key, p) })
}

// readSurvivors reads a list in which indented lines are changes, below the reason why they survive.
func readSurvivors(path string) (s survivors, err error) {
	s.keys = map[string]bool{}
	text, err := os.ReadFile(path)
	if err != nil {
		return s, fmt.Errorf("read the list of survivors: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		key, indented := strings.CutPrefix(strings.TrimRight(line, "\n"), "\t")
		if !indented {
			continue
		}
		if head, ok := strings.CutSuffix(key, "*"); ok {
			s.patterns = append(s.patterns, head)
		} else {
			s.keys[key] = true
		}
	}
	return s, nil
}
