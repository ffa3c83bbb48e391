package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// evil would change the title of a terminal's window, colour what follows, and go on in a new line.
const evil = "\x1b]0;title\a\u009b31m\x1b[31m\r\nnext\x9b"

// TestHostileArguments puts what a terminal would act on into every flag and argument. It comes back, if at
// all, in a form that can be seen.
func TestHostileArguments(t *testing.T) {
	out := filepath.Join(t.TempDir(), evil)
	for _, args := range [][]string{
		{evil}, {"run", evil}, {"check", evil}, {"check", evil + ".yaml"}, {"predict", evil}, {"explain", evil}, {"replay", evil}, {"labs", evil},
		{"--" + evil}, {"predict", "--" + evil, "healthy"}, {"version", evil}, {"help", evil}, {"completion", evil},
		{"predict", "--variant", evil, "healthy"}, {"compare", "--predicted", "--variant", evil, "healthy"},
		{"predict", "--kernel", evil, "healthy"}, {"replay", "--kernel", evil, "x"}, {"predict", "--seed", evil, "healthy"},
		{"predict", "-j", evil, "healthy"}, {"explain", "--flow", evil, "healthy"}, {"explain", "--flow", "udp " + evil + " > any", "healthy"},
		{"explain", "--packet", evil, "healthy"}, {"compare", "--format", evil, "healthy"}, {"predict", "--no-color=" + evil, "healthy"},
		{"predict", "--trace", out + "/x", "healthy"}, {"predict", "--junit", out + "/x", "healthy"},
	} {
		checkHarmless(t, args, exitBadInput, exitPass)
	}
}

// TestHostileTrace changes each line of a recorded run in turn, as somebody else may have before they sent
// it: it is refused with its line.
func TestHostileTrace(t *testing.T) {
	src, err := os.ReadFile("../../checks/trace/testdata/kernel/6.18-coredns-restart.trace")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(string(src), "\n")
	file := filepath.Join(t.TempDir(), "x.trace")
	for i := 0; i < len(lines) && i < 60; i++ {
		changed := append([]string(nil), lines...)
		changed[i] = strings.TrimSuffix(changed[i], "\n") + "\x1b[31m\n"
		if err := os.WriteFile(file, []byte(strings.Join(changed, "")), 0o644); err != nil {
			t.Fatal(err)
		}
		checkHarmless(t, []string{"replay", file}, exitBadInput)
		if i > 0 { // what begins otherwise is taken for a lab
			checkHarmless(t, []string{"explain", file}, exitBadInput)
		}
	}
}

// TestHostileLab plays a lab from a path that a terminal would act on, with a program's name that does.
func TestHostileLab(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "\x1b[31m")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "x.yaml")
	src := `lab: x
about: "a tab \t in it"
nodes: {node: {kind: router}, app: {}, dns-1: {}, dns-2: {}}
services: {dns: {ports: 53/udp, backends: dns-1}}
servers: {dns-server: {on: dns-1, dns: {}}}
clients: {app: {dns: {server: dns}}}
steps:
  - {query: app, want: answered}
  - {restart: dns-server, on: dns-2}
  - {query: app, count: 2, every: 50ms, want: answered}
  - {exec: ["a\nb\t"], on: node}
  - {check: node, want: {entries: udp app > any assured}}
variants: {other: {about: "line\tbreak", services.dns.cleanup: reconcile-current}}
`
	if err := os.WriteFile(file, []byte(src), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"check", file}, {"predict", file}, {"explain", file}, {"compare", "--predicted", file},
		{"compare", "--predicted", "--format", "markdown", file}, {"predict", "--json", file}} {
		checkHarmless(t, args, exitFail, exitPass, exitInconclusive)
	}
}

func checkHarmless(t *testing.T, args []string, codes ...int) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code := run(args, &stdout, &stderr)
	ok := false
	for _, c := range codes {
		ok = ok || c == code
	}
	if !ok {
		t.Errorf("%q: exit %d, want one of %v\n%s%s", args, code, codes, stdout.String(), stderr.String())
	}
	for _, s := range []string{stdout.String(), stderr.String()} {
		if s != strings.ToValidUTF8(s, "?") || strings.ContainsFunc(s, func(r rune) bool { return r != '\n' && (r < ' ' || r >= 0x7f && r < 0xa0) }) {
			t.Errorf("%q: not printable: %q", args, s)
		}
	}
}
