//go:build linux

package main

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// tortures is how many times ctlab is killed in each of the ways in which TestKilledAtAnyMoment does it.
var tortures = flag.Int("torture", 2, "how often ctlab is ended, by each signal, user and lab")

// However ctlab dies, nothing is left: no process, namespace, link, mount, rule or file, and the next run works. When it
// is interrupted it says so, reports what it has, and exits with 130.
func TestKilledAtAnyMoment(t *testing.T) {
	needRoot(t)
	// Orphans of ctlab become children of this process, so that none can hide.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	defer unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
	path := executable(t)
	namespaces, kept := countNamespaces(t), surroundings(t)
	ended := map[string]int{}
	for _, v := range victims(t, path) {
		for range *tortures {
			ended[v.strike(t, path)]++
			if t.Failed() {
				t.Fatalf("%s", v)
			}
		}
		if v.signal == syscall.SIGKILL { // and the next run works
			next := v
			if next.lab == "coredns-restart" {
				next.lab = "overbroad-cleanup" // the shortest
			}
			cmd := next.command(t, path)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%s: the next run: %v\n%s", v, err, out)
			}
		}
	}
	for _, how := range sortedKeys(ended) {
		t.Logf("%4d x %s", ended[how], how)
	}
	if now := surroundings(t); now != kept {
		t.Errorf("before:\n%s\nafter:\n%s", kept, now)
	}
	// The kernel frees namespaces later, and slabinfo counts the free places of slabs in use as well; other
	// tests may hold some, too. Each victim has six.
	const slack = 50
	deadline := time.Now().Add(30 * time.Second)
	for countNamespaces(t) > namespaces+slack && time.Now().Before(deadline) {
		time.Sleep(100 * time.Millisecond)
	}
	if n := countNamespaces(t); n > namespaces+slack {
		t.Errorf("%d namespaces before, %d after", namespaces, n)
	}
}

// victim is a way to run ctlab and to end it.
type victim struct {
	lab      string // bundled, or the path of a file
	signal   syscall.Signal
	ordinary bool
	within   time.Duration // when, at most, after the start
}

func victims(t *testing.T, path string) (all []victim) {
	t.Helper()
	programs, err := filepath.Abs("testdata/torture/programs.yaml")
	if err != nil {
		t.Fatal(err)
	}
	src, err := os.ReadFile(programs)
	if err != nil {
		t.Fatal(err)
	}
	if programs = filepath.Join(filepath.Dir(path), "programs.yaml"); os.WriteFile(programs, src, 0o644) != nil { // where everybody can read it
		t.Fatal(programs)
	}
	for _, lab := range []string{"coredns-restart", programs} {
		for _, signal := range []syscall.Signal{syscall.SIGKILL, syscall.SIGINT, syscall.SIGTERM} {
			for _, ordinary := range []bool{false, true} {
				for _, within := range []time.Duration{120 * time.Millisecond, 3 * time.Second} { // while it builds; later
					all = append(all, victim{lab, signal, ordinary, within})
				}
			}
		}
	}
	return all
}

func (v victim) String() string {
	by := "root"
	if v.ordinary {
		by = "an ordinary user"
	}
	return fmt.Sprintf("%s by %s, %s within %v", filepath.Base(v.lab), by, v.signal, v.within)
}

// command runs the lab in a folder of its own, which is also where its temporary files would be.
func (v victim) command(t *testing.T, path string) *exec.Cmd {
	t.Helper()
	dir, err := os.MkdirTemp(filepath.Dir(path), "cwd-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "run", v.lab)
	if v.ordinary {
		cmd = ordinary(t, cmd)
	}
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "TMPDIR="+dir, "HOME="+dir)
	return cmd
}

// strike runs the lab, ends it at a random moment, and looks whether anything is left. It says how it ended.
func (v victim) strike(t *testing.T, path string) string {
	t.Helper()
	cmd := v.command(t, path)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(rand.N(v.within)) // the moment is the point
	if err := cmd.Process.Signal(v.signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatal(err)
	}
	_ = cmd.Wait() // what came of it is in ProcessState
	if v.signal != syscall.SIGKILL {
		v.interrupted(t, cmd.ProcessState, stdout.String(), stderr.String())
	}
	for _, left := range survivors(t) {
		t.Errorf("a process is left: %s", left)
	}
	left, err := os.ReadDir(cmd.Dir)
	if err != nil || len(left) > 0 {
		t.Errorf("files are left: %v, %v", left, err)
	}
	return fmt.Sprintf("%s: %s", v.signal, cmd.ProcessState)
}

// interrupted checks how ctlab ends when it is told to. Told before it listens it dies of the signal, and told too late
// it has passed.
func (v victim) interrupted(t *testing.T, s *os.ProcessState, stdout, stderr string) {
	t.Helper()
	switch begun := strings.Contains(stderr, "building"); {
	case s.ExitCode() == exitInterrupted && (!begun || strings.Contains(stdout, "INTERRUPTED")):
	case s.ExitCode() == exitPass && strings.Contains(stdout, "\nPASS"):
	case s.ExitCode() < 0 && !begun:
	default:
		t.Errorf("%s\n%s\n%s", s, stderr, stdout)
	}
}

// survivors are the processes that this one has inherited and that do not end.
func survivors(t *testing.T) (left []string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		left = nil
		for _, pid := range children(t) {
			var status unix.WaitStatus
			if got, err := unix.Wait4(pid, &status, unix.WNOHANG, nil); err == nil && got == 0 {
				cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
				left = append(left, fmt.Sprintf("%d %q", pid, bytes.ReplaceAll(cmdline, []byte{0}, []byte{' '})))
			}
		}
		if len(left) == 0 || time.Now().After(deadline) {
			return left
		}
	}
}

// children of all threads of this process.
func children(t *testing.T) (pids []int) {
	t.Helper()
	files, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		text, _ := os.ReadFile(f) // the thread may be gone
		for _, word := range strings.Fields(string(text)) {
			pid, err := strconv.Atoi(word)
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, pid)
		}
	}
	return pids
}

// countNamespaces is how many network namespaces the kernel holds, the anonymous ones included.
func countNamespaces(t *testing.T) int {
	t.Helper()
	f, err := os.Open("/proc/slabinfo")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		var n int
		if _, err := fmt.Sscanf(s.Text(), "net_namespace %d", &n); err == nil {
			return n
		}
	}
	t.Fatal("/proc/slabinfo does not list net_namespace")
	return 0
}

// surroundings are the links, mounts and rules of this process's own namespaces.
func surroundings(t *testing.T) string {
	t.Helper()
	var out []string
	links, err := os.ReadDir("/sys/class/net")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		out = append(out, "link "+l.Name())
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	out = append(out, string(mounts))
	for _, program := range []string{"iptables-nft-save", "iptables-legacy-save"} {
		saved, err := exec.Command(program).Output()
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(saved)) {
			if strings.HasPrefix(line, "-A") {
				out = append(out, program+": "+line)
			}
		}
	}
	return strings.Join(out, "\n")
}

func sortedKeys(m map[string]int) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
