package main

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"go/format"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/tools/go/packages"
)

//go:embed switches.go.txt
var switches string

// suite is a test binary and which of its tests are run.
type suite struct {
	pkg   string // its folder
	tests string // which of them, a regular expression
	bin   string
}

// binaries are the test binaries with all changes in them.
type binaries struct {
	points []point
	suites []suite
	tmp    string
	took   time.Duration // one run without a change
}

func (b *binaries) remove() { os.RemoveAll(b.tmp) }

// build rewrites the package in an overlay and builds the test binaries over it.
func build(ctx context.Context, dir string, suites []suite) (b *binaries, err error) {
	b = &binaries{suites: suites}
	tmp, err := os.MkdirTemp("", "mutate")
	if err != nil {
		return nil, err
	}
	b.tmp = tmp
	defer func() {
		if err != nil {
			os.RemoveAll(tmp)
		}
	}()
	overlay, err := b.overlay(ctx, dir)
	if err != nil {
		return nil, err
	}
	for i := range b.suites {
		s := &b.suites[i]
		s.bin = filepath.Join(b.tmp, strconv.Itoa(i)+".test")
		if out, err := exec.CommandContext(ctx, "go", "test", "-c", "-vet=off", "-overlay", overlay, "-o", s.bin, s.pkg).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("build the tests of %s with the changes: %w\n%s", s.pkg, err, out)
		}
	}
	return b, nil
}

// overlay writes the changed files and tells where they belong.
func (b *binaries) overlay(ctx context.Context, dir string) (path string, err error) {
	mode := packages.NeedName | packages.NeedFiles | packages.NeedCompiledGoFiles | packages.NeedSyntax | packages.NeedTypes | packages.NeedTypesInfo | packages.NeedImports | packages.NeedDeps
	pkgs, err := packages.Load(&packages.Config{Context: ctx, Mode: mode}, dir)
	if err != nil {
		return "", fmt.Errorf("load %s: %w", dir, err)
	}
	if len(pkgs) != 1 || len(pkgs[0].Errors) > 0 {
		return "", fmt.Errorf("load %s: want one package without errors: %v", dir, pkgs)
	}
	pkg := pkgs[0]
	r := &rewriter{pkg: pkg, seen: map[string]int{}}
	replace := map[string]string{}
	for i, f := range pkg.Syntax {
		name := pkg.CompiledGoFiles[i]
		source, err := os.ReadFile(name)
		if err != nil {
			return "", err
		}
		r.rewrite(f, source)
		var text bytes.Buffer
		if err := format.Node(&text, pkg.Fset, f); err != nil {
			return "", fmt.Errorf("print %s: %w", name, err)
		}
		replace[name] = filepath.Join(b.tmp, filepath.Base(name))
		if err := os.WriteFile(replace[name], text.Bytes(), 0o600); err != nil {
			return "", err
		}
	}
	b.points = r.points
	text := strings.NewReplacer("PACKAGE", pkg.Name, "COUNT", strconv.Itoa(len(r.points))).Replace(switches)
	extra := filepath.Join(b.tmp, "switches.go")
	replace[filepath.Join(filepath.Dir(pkg.CompiledGoFiles[0]), "mutate_switches.go")] = extra
	list, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	path = filepath.Join(b.tmp, "overlay.json")
	if err := os.WriteFile(extra, []byte(text), 0o600); err != nil {
		return "", err
	}
	return path, os.WriteFile(path, list, 0o600)
}

// run runs the tests; failed says that one failed, or did not come to its end in time.
func (s suite) run(ctx context.Context, limit time.Duration, env ...string) (out []byte, failed bool) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.bin, "-test.failfast", "-test.run", s.tests)
	cmd.Dir = s.pkg
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	return out, err != nil
}

// baseline runs everything without a change, which must pass, and tells which changes are reached.
func (b *binaries) baseline(ctx context.Context) (reached map[int]bool, err error) {
	const patience = time.Minute
	list := filepath.Join(b.tmp, "reached")
	for _, s := range b.suites {
		if out, failed := s.run(ctx, patience, "MUTANTS_REACHED="+list); failed {
			return nil, fmt.Errorf("the tests of %s fail without a change:\n%s", s.pkg, out)
		}
	}
	begin := time.Now()
	for _, s := range b.suites {
		s.run(ctx, patience)
	}
	b.took = time.Since(begin)
	text, err := os.ReadFile(list)
	if err != nil {
		return nil, err
	}
	reached = map[int]bool{}
	for word := range strings.FieldsSeq(string(text)) {
		id, err := strconv.Atoi(word)
		if err != nil {
			return nil, fmt.Errorf("list of reached changes: %w", err)
		}
		reached[id] = true
	}
	return reached, nil
}

// try tells which changes survive. What is not reached is not run.
func (b *binaries) try(ctx context.Context, chosen []point, reached map[int]bool, progress io.Writer) map[int]bool {
	survived := map[int]bool{}
	var mu sync.Mutex
	work := make(chan point)
	var all sync.WaitGroup
	for range runtime.NumCPU() {
		all.Go(func() {
			for p := range work {
				if !reached[p.id] || b.survives(ctx, p) {
					mu.Lock()
					survived[p.id] = true
					mu.Unlock()
				}
			}
		})
	}
	for i, p := range chosen {
		if i%100 == 0 {
			fmt.Fprintf(progress, "\r%d of %d ", i, len(chosen))
		}
		work <- p
	}
	close(work)
	all.Wait()
	fmt.Fprintln(progress)
	return survived
}

func (b *binaries) survives(ctx context.Context, p point) bool {
	limit := max(3*time.Second, 10*b.took)
	for _, s := range b.suites {
		if _, failed := s.run(ctx, limit, "MUTANT="+strconv.Itoa(p.id)); failed {
			return false
		}
	}
	return true
}
