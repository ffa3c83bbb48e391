package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// What reading a hostile file may cost: an error within a second of one processor, and 100 MB.
const (
	maxResident = 100 << 10 // kB
	maxCPU      = 2         // seconds, when the kernel ends it: a slow machine has the second one
)

// bombs are files that are meant to cost more than they show. Each is made when it is used: the memory that
// a process is said to have had is at least that of the one that started it.
func bombs() map[string]func() string {
	const megabyte = 1 << 20
	full := func(unit string) string { return strings.Repeat(unit, megabyte/len(unit)) }
	head := "lab: x\nnodes:\n  node: {kind: router}\n  app: {}\n  h: {}\n"
	return map[string]func() string{
		"laughs":             func() string { return laughs("[%s]", "*") },
		"laughs of maps":     func() string { return laughs("{l: [%s]}", "*") },
		"merges":             func() string { return laughs("{<<: [%s]}", "*") },
		"itself":             func() string { return "a: &a [*a, *a]\n" },
		"brackets":           func() string { return full("[") },
		"braces":             func() string { return full("{a: ") },
		"dashes":             func() string { return full("- ") },
		"question marks":     func() string { return full("? ") },
		"a flow list":        func() string { return "lab: x\nnodes: [" + full("a,") + "]" },
		"a flow list, short": func() string { return "lab: x\nnodes: [" + strings.Repeat("a,", 149000) + "]" },
		"empty values":       func() string { return full(",:") },
		"documents":          func() string { return full("---\n") },
		"comments":           func() string { return full("a: #\n") },
		"one key":            func() string { return full("a: 1\n") },
		"one line":           func() string { return "about: " + full("x") },
		"escapes":            func() string { return "about: \"" + full("\\x41") },
		"anchors":            func() string { return "[" + full("&a 1,") },
		"tags":               func() string { return "[" + full("!a 1,") },
		"patterns": func() string {
			return head + "clients:\n  c-{1..9999}: {on: app, dns: {server: h, name: \"" + strings.Repeat("x", 400) + "\"}}\nsteps: [{wait: 1s}]\n"
		},
		"patterns of many": func() string {
			return head + "clients:\n" + strings.Repeat("  c-{1..9999}: {on: app}\n", 9000) + "steps: [{wait: 1s}]\n"
		},
		"many and patterns": func() string {
			return head + "  p-{1..4000}: {sysctls: {net.a: 1, net.b: 2, net.c: 3, net.d: 4}}\nclients:\n  c-{1..9999}: {on: app, dns: {server: h}}\nsteps:\n" + strings.Repeat("  - {query: app}\n", 9999) + "  - {query: app, cuont: 1}\n"
		},
		"repetitions": func() string {
			return head + "clients: {app: {dns: {server: h}}}\nsteps:\n  - {query: app, for: {i: 1..9999}, want: {answered: all, timeout: 0, lost: ..0, x: 1}}\n"
		},
		"globs": func() string {
			return head + "clients:\n  c-{1..9999}: {on: app, dns: {server: h}}\nsteps:\n" + strings.Repeat("  - query: [c-*, c*]\n", 9000)
		},
		"10 MB of noise":    func() string { return noise(10 * megabyte) },
		"10 MB of spaces":   func() string { return strings.Repeat(" ", 10*megabyte) },
		"10 MB of nodes":    func() string { return "lab: x\nnodes:\n" + strings.Repeat("  n: {}\n", 10*megabyte/8) },
		"10 MB in one line": func() string { return "lab: " + strings.Repeat("x", 10*megabyte) },
		"binary":            func() string { return "\x7fELF\x02\x01\x01\x00\x00\x00\x00" },
		"empty":             func() string { return "" },
	}
}

func noise(size int) string {
	b := make([]byte, size)
	for i, r := 0, rand.New(rand.NewPCG(1, 2)); i < len(b); i++ {
		b[i] = byte(r.Uint32())
	}
	return string(b)
}

// laughs is the billion laughs: each line is nine of the one before.
func laughs(form, alias string) string {
	var b strings.Builder
	b.WriteString("lab: x\na0: &a0 {l: lol}\n")
	for i := range 9 {
		nine := strings.TrimSuffix(strings.Repeat(fmt.Sprintf("%sa%d, ", alias, i), 9), ", ")
		fmt.Fprintf(&b, "a%d: &a%d "+form+"\n", i+1, i+1, nine)
	}
	return b.String()
}

// TestBombs gives the real program what is meant to blow it up: each ends in exit 2 and a short error,
// within a bound of processor time that the kernel watches, and of memory.
func TestBombs(t *testing.T) {
	dir := t.TempDir()
	ctlab := build(t, dir)
	for name, src := range bombs() {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(dir, strings.ReplaceAll(name, " ", "-")+".yaml")
			if err := os.WriteFile(file, []byte(src()), 0o644); err != nil {
				t.Fatal(err)
			}
			for _, command := range []string{"check", "replay"} {
				out := limited(t, bounded(t, ctlab, command, file))
				checkRefusal(t, out, file)
			}
		})
	}
}

// checkRefusal wants a few short lines, none of which could draw on a terminal.
func checkRefusal(t *testing.T, out, about string) {
	t.Helper()
	const most = 300 << 10 // 200 errors of three lines
	if len(out) == 0 || len(out) > most {
		t.Errorf("%s: %d bytes of errors", about, len(out))
	}
	for _, line := range strings.Split(out, "\n") {
		if strings.ContainsFunc(line, func(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 }) || strings.ToValidUTF8(line, "") != line {
			t.Errorf("%s: not printable: %q", about, line)
		}
		if len(line) > 1000 {
			t.Errorf("%s: a line of %d bytes", about, len(line))
		}
	}
}

// bounded is a command that the kernel ends when it uses too much of a processor, and the test when it hangs.
func bounded(t *testing.T, program string, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return exec.CommandContext(ctx, "sh", append([]string{"-c", fmt.Sprintf(`ulimit -t %d; exec "$@"`, maxCPU), "sh", program}, args...)...)
}

// limited runs a command that must end with exit 2 within the bounds and print nothing on stdout; it
// returns what was written to stderr.
func limited(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if code := cmd.ProcessState.ExitCode(); code != exitBadInput {
		t.Errorf("%v: %v, want exit 2\n%.2000s", cmd.Args, err, stderr.String())
	}
	if stdout.Len() > 0 {
		t.Errorf("%v: stdout: %.200q", cmd.Args, stdout.String())
	}
	used, _ := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if used.Maxrss > maxResident {
		t.Errorf("%v: %d kB in memory", cmd.Args, used.Maxrss)
	}
	t.Logf("%s: %d kB, %s", cmd.Args[5], used.Maxrss, cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime())
	return stderr.String()
}

// build makes the real program, since the test binary has other costs, under the race detector above all.
func build(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(dir, "ctlab")
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", path, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return path
}

// TestNoFile gives the program paths at which there is no plain file, as root and as an ordinary user; each
// is refused at once, by every command that reads one.
func TestNoFile(t *testing.T) {
	dir, err := os.MkdirTemp("", "ctlab") // t.TempDir is closed to other users
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	ctlab := build(t, dir)
	in := func(name string) string { return filepath.Join(dir, name) }
	if err := errors.Join(
		syscall.Mkfifo(in("pipe.yaml"), 0o644),
		os.Mkdir(in("folder.yaml"), 0o755),
		os.WriteFile(in("secret.yaml"), nil, 0),
		os.Symlink(in("loop.yaml"), in("loop.yaml")),
		os.Symlink("/dev/zero", in("zero.yaml")),
	); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path, want string
		asUser     bool
	}{
		{path: in("pipe.yaml"), want: "a pipe, not a file"},
		{path: in("folder.yaml"), want: "a folder, not a file"},
		{path: in("zero.yaml"), want: "a device, not a file"},
		{path: "/dev/full", want: "a device, not a file"},
		{path: in("loop.yaml"), want: "too many levels of symbolic links"},
		{path: in("secret.yaml"), want: "not readable", asUser: true},
		{path: in("missing.yaml"), want: "no such file"},
		{path: in("secret.yaml/x"), want: "not a directory"},
		{path: in(strings.Repeat("x", 300) + ".yaml"), want: "file name too long"},
		{path: in("\x1b[31m\n\x9b.yaml"), want: `\x1b[31m\x0a\x9b.yaml: no such file`},
	} {
		for _, args := range [][]string{{"check"}, {"predict"}, {"compare", "--predicted"}, {"explain"}, {"replay"}} {
			cmd := bounded(t, ctlab, append(args, c.path)...)
			if c.asUser && os.Geteuid() == 0 {
				cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
			}
			out := limited(t, cmd)
			checkRefusal(t, out, c.path)
			if !strings.Contains(out, c.want) {
				t.Errorf("%q: got %s, want %s", cmd.Args, out, c.want)
			}
		}
	}
}
