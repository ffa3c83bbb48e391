//go:build linux

package program_test

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"ctlab/internal/netns"
	"ctlab/internal/program"
)

// patience bounds what should come at once.
const patience = 10 * time.Second

func namespace(t *testing.T) *netns.NS {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("needs root")
		}
		t.Skip("needs root")
	}
	ns, err := netns.New("test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	return ns
}

func start(t *testing.T, s program.Spec) *program.Program {
	t.Helper()
	p, err := program.Start(namespace(t), s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(0); err != nil {
			t.Error(err)
		}
	})
	return p
}

func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v for %s", patience, what)
		}
	}
}

func shell(script string) []string { return []string{"sh", "-c", script} }

func TestOutputAndExit(t *testing.T) {
	for _, c := range []struct {
		script, stdout, stderr string
		exit                   int
	}{
		{"echo out; echo err >&2; exit 3", "out\n", "err\n", 3},
		{"kill -9 $$", "", "", 128 + 9},
		{"cat", "", "", 0},
		{"cat /sys/class/net/lo/ifindex; ls /sys/class/net", "1\nlo\n", "", 0},
	} {
		p := start(t, program.Spec{Argv: shell(c.script)})
		<-p.Done()
		if p.Stdout() != c.stdout && !strings.Contains(c.script, "/sys") || p.Stderr() != c.stderr || p.Exit() != c.exit {
			t.Errorf("%s: exit %d, %q, %q", c.script, p.Exit(), p.Stdout(), p.Stderr())
		}
	}
}

// Of much output the beginning and the end are kept.
func TestMuchOutput(t *testing.T) {
	p := start(t, program.Spec{Argv: shell("echo first; head -c 3000000 /dev/zero | tr '\\0' x; echo; echo last")})
	<-p.Done()
	out := p.Stdout()
	if !strings.HasPrefix(out, "first\n") || !strings.HasSuffix(out, "\nlast\n") || !strings.Contains(out, "bytes left out") || len(out) > 1<<20+100 {
		t.Errorf("%d bytes: %.20q ... %q", len(out), out, out[len(out)-20:])
	}
}

// What a program finds: its files where it runs, names in its hosts file, and no trace of either elsewhere.
func TestFilesAndHosts(t *testing.T) {
	before, err := os.ReadFile("/etc/hosts")
	if err != nil {
		t.Fatal(err)
	}
	mounts := mountinfo(t)
	p := start(t, program.Spec{Argv: shell("cat Corefile; getent hosts kube-dns; ls /etc/no-such-file 2>&1 | wc -l; basename $(pwd); echo x > new && ls"), Etc: map[string]string{"hosts": "127.0.0.1 localhost\n10.96.0.10 kube-dns\n", "nsswitch.conf": "hosts: files\n", "no-such-file": "x"},
		Files: map[string]string{"Corefile": ". {\n}\n"}})
	<-p.Done()
	if want := ". {\n}\n10.96.0.10      kube-dns\n1\nfiles\nCorefile\nnew\n"; p.Stdout() != want || p.Exit() != 0 {
		t.Errorf("exit %d, %q, %q; want %q", p.Exit(), p.Stdout(), p.Stderr(), want)
	}
	if after, _ := os.ReadFile("/etc/hosts"); string(after) != string(before) {
		t.Errorf("/etc/hosts is now %q", after)
	}
	if now := mountinfo(t); now != mounts {
		t.Errorf("mounts before:\n%s\nafter:\n%s", mounts, now)
	}
	cwd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	q := start(t, program.Spec{Argv: []string{"pwd"}})
	if <-q.Done(); strings.TrimSpace(q.Stdout()) != cwd {
		t.Errorf("a program without files runs in %q", q.Stdout())
	}
}

func mountinfo(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Everything that a program started ends with it: in its process group or not, daemons, and what ignores signals.
func TestStopEndsEverything(t *testing.T) {
	const script = `sleep $MARK &
setsid sleep $MARK &
sh -c 'trap "" INT TERM HUP; sleep $MARK & wait' &
setsid sh -c 'setsid sleep $MARK &' &
wait`
	for _, grace := range []time.Duration{0, 50 * time.Millisecond} {
		p := start(t, program.Spec{Argv: shell(script), Env: []string{"MARK=" + mark()}})
		await(t, "all of them", func() bool { return asleep(mark()) == 4 })
		if err := p.Stop(grace); err != nil {
			t.Fatal(err)
		}
		if left := asleep(mark()); left > 0 {
			t.Errorf("%d are left", left)
		}
	}
}

// A program that is interrupted has its grace, and what it says in it is kept.
func TestGrace(t *testing.T) {
	p := start(t, program.Spec{Argv: shell(`trap 'echo summary; exit 7' INT; echo ready; while :; do sleep 0.01; done`)})
	await(t, "the program", func() bool { return p.Stdout() != "" })
	if err := p.Stop(patience); err != nil {
		t.Fatal(err)
	}
	if p.Exit() != 7 || p.Stdout() != "ready\nsummary\n" {
		t.Errorf("exit %d, %q", p.Exit(), p.Stdout())
	}
}

// mark is how long this process lets others sleep, by which it knows them: other tests run at the same time.
func mark() string { return fmt.Sprintf("1000.%d", os.Getpid()) }

// asleep is how many processes sleep for so long.
func asleep(mark string) (n int) {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		if b, _ := os.ReadFile(f); string(b) == "sleep\x00"+mark+"\x00" {
			n++
		}
	}
	return n
}

// children are those of this process, the inits above all.
func children(t *testing.T) (pids []string) {
	t.Helper()
	files, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil || len(files) == 0 {
		t.Fatal("the kernel lists no children", err)
	}
	for _, f := range files {
		text, _ := os.ReadFile(f) // the thread may be gone
		pids = append(pids, strings.Fields(string(text))...)
	}
	return pids
}

func TestCannotStart(t *testing.T) {
	ns := namespace(t)
	for _, argv := range [][]string{{"no-such-program"}, {"./no-such-program"}, {"/etc/hosts"}} {
		if p, err := program.Start(ns, program.Spec{Argv: argv}); err == nil {
			t.Errorf("%q was started: %v", argv, p.Stop(0))
		}
	}
	if p, err := program.Start(ns, program.Spec{Argv: []string{"true"}, Files: map[string]string{"no/such/folder": ""}}); err == nil {
		t.Errorf("a file in no folder was written: %v", p.Stop(0))
	}
	if left := children(t); len(left) > 0 {
		t.Errorf("inits are left: %v", left)
	}
}

// A program with a slash in its name is looked for from the base.
func TestRelativeToBase(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "mine"), []byte("#!/bin/sh\necho mine\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	p := start(t, program.Spec{Argv: []string{"./mine"}, Base: dir})
	if <-p.Done(); p.Stdout() != "mine\n" {
		t.Errorf("%q, %q", p.Stdout(), p.Stderr())
	}
}

// starter tells this binary that it is to start a program with a daemon, and to be killed: by the mark of both.
const starter = "CTLAB_TEST_STARTER"

// When the process that started a program is killed, the program ends, with its daemons: the test runs itself for that.
func TestKilledStarter(t *testing.T) {
	if mark := os.Getenv(starter); mark != "" {
		p := start(t, program.Spec{Argv: shell("setsid sleep " + mark + " & sleep " + mark)})
		await(t, "both", func() bool { return asleep(mark) == 2 })
		fmt.Println("started")
		<-p.Done()
	}
	namespace(t)
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestKilledStarter$", "-test.v")
	cmd.Env = append(os.Environ(), starter+"="+mark())
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := ""
	for buf := make([]byte, 4096); !strings.Contains(said, "started"); {
		n, err := out.Read(buf)
		if said += string(buf[:n]); err != nil {
			t.Fatalf("%v: %s", err, said)
		}
	}
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	await(t, "the end of both", func() bool { return asleep(mark()) == 0 })
}

// All of it once more by an ordinary user, as root of a user namespace.
func TestInUserNamespace(t *testing.T) {
	const inside = "CTLAB_TEST_USER_NAMESPACE"
	if os.Getenv(inside) != "" {
		t.Skip("this is it")
	}
	namespace(t)
	nobody, err := user.Lookup("nobody")
	if err != nil {
		t.Fatal(err)
	}
	uid, err := strconv.Atoi(nobody.Uid)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe", "-test.v")
	cmd.Env = append(os.Environ(), inside+"=1")
	one := []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET | syscall.CLONE_NEWNS,
		UidMappings: one, GidMappings: one, Credential: &syscall.Credential{NoSetGroups: true}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if n := strings.Count(string(out), "\n--- PASS: "); n < 5 {
		t.Errorf("%d tests passed there\n%s", n, out)
	}
}
