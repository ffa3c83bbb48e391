package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The test binary is QEMU as well, if it is called by a name that begins with qemu-: what follows are the acts of its attempts, the last of
// which is that of all others.
func TestMain(m *testing.M) {
	if acts, ok := strings.CutPrefix(filepath.Base(os.Args[0]), "qemu-"); ok {
		fakeQEMU(strings.Split(acts, "-"))
		return
	}
	os.Exit(m.Run())
}

// fakeQEMU does what a QEMU and its guest do, as seen from outside. Its attempts are counted in a file beside it.
func fakeQEMU(acts []string) {
	counter := os.Args[0] + ".attempts"
	before, _ := os.ReadFile(counter) // none at first
	if err := os.WriteFile(counter, append(before, '.'), 0o644); err != nil {
		panic(err)
	}
	port, console := openFor("id=result"), openFor("id=console")
	say := func(kind Kind, text string) {
		if err := WriteFrame(port, kind, []byte(text)); err != nil {
			panic(err)
		}
	}
	hello := func() {
		fmt.Fprintf(console, "[1.0] %s\r\n", readyLine)
		say(KindHello, `{"version":1,"release":"9.9","modules":3}`)
	}
	const panicked = "[2.0] Kernel panic - not syncing: Attempted to kill init!\r\n"
	switch act := acts[min(len(before), len(acts)-1)]; act {
	case "dies":
		fmt.Fprintln(os.Stderr, "qemu: no such machine")
		os.Exit(1)
	case "hangs":
		hang()
	case "garbage":
		fmt.Fprint(port, "SeaBIOS (version 1.16.2)")
		hang()
	case "panics":
		fmt.Fprint(console, panicked)
	case "lateron": // panics when it is up
		hello()
		say(KindStdout, "half a rep")
		fmt.Fprint(console, panicked)
	case "mute":
		hello()
		hang()
	case "breaks": // off
		hello()
		say(KindStdout, "half a rep")
	case "nothing": // hello twice
		hello()
		hello()
	case "noctlab":
		hello()
		say(KindEnd, `{"exit":-1,"error":"exec format error"}`)
	case "stays": // after its end
		hello()
		say(KindEnd, `{"exit":0}`)
		hang()
	default: // passes, fails, warns
		if act == "warns" {
			fmt.Fprint(console, "[0.1] WARNING: CPU: 0 PID: 1 at early.c:1\r\n")
		}
		hello()
		if act == "warns" {
			fmt.Fprint(console, "[3.1] WARNING: CPU: 0 PID: 9 at net/core/dev.c:1\r\n")
		}
		say(KindStdout, "the report\n")
		say(KindStderr, "progress\n")
		say(KindAlive, "")
		say(KindJUnit, "<testsuites/>")
		say(KindTrace, "ctlab-trace 1\n")
		say(KindEnd, fmt.Sprintf(`{"exit":%d}`, map[string]int{"fails": 1}[act]))
	}
}

// hang lasts until the process is killed. A select without cases would be a deadlock, which Go ends.
func hang() {
	for {
		time.Sleep(time.Hour)
	}
}

// openFor opens the file of a chardev, as QEMU does.
func openFor(id string) *os.File {
	for _, a := range os.Args {
		if path, ok := strings.CutPrefix(a, "file,"+id+",path="); ok {
			f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
			if err != nil {
				panic(err)
			}
			return f
		}
	}
	panic("no chardev with " + id)
}

func machine(t *testing.T, acts string) (*Machine, *[]string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	qemu := filepath.Join(t.TempDir(), "qemu-"+acts)
	if err := os.Symlink(self, qemu); err != nil {
		t.Fatal(err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { null.Close() })
	var said []string
	return &Machine{QEMU: qemu, Accel: TCG, CPUs: 1, Memory: 256, Kernel: null, Initrd: null, BootTimeout: time.Minute, Silence: time.Minute,
		Progress: func(s string) { said = append(said, s) }, Stderr: io.Discard}, &said
}

func TestMachine(t *testing.T) {
	for _, c := range []struct {
		acts     string
		exit     int
		failures int    // attempts before
		why      string // of the error; empty: none
		crash    string
	}{
		{acts: "passes"},
		{acts: "fails", exit: 1},
		{acts: "dies-passes", failures: 1},
		{acts: "panics-breaks-fails", failures: 2, exit: 1},
		{acts: "garbage-dies-panics-passes", failures: 2, exit: -1, why: "QEMU ended before the guest was up; the console says: [2.0] Kernel panic"},
		{acts: "dies", failures: 2, exit: -1, why: "QEMU ended before the guest was up; qemu: no such machine"},
		{acts: "garbage", failures: 2, exit: -1, why: `not a frame: it begins with "SeaBI`},
		{acts: "breaks", failures: 2, exit: -1, why: "the port was closed before the end"},
		{acts: "nothing", failures: 2, exit: -1, why: "not a frame that was to come: 'h'"},
		{acts: "noctlab", failures: 2, exit: -1, why: "ctlab did not run in it: exec format error"},
		{acts: "lateron", exit: -1, crash: "Kernel panic"}, // no retry: it is a result
		{acts: "warns", crash: "net/core/dev.c"},
	} {
		t.Run(c.acts, func(t *testing.T) {
			t.Parallel()
			m, said := machine(t, c.acts)
			r, err := m.Run(t.Context())
			var infra *Infra
			switch {
			case (err == nil) != (c.why == ""), err != nil && !errors.As(err, &infra):
				t.Errorf("error %v, want %q", err, c.why)
			case err != nil && !strings.Contains(infra.Why, c.why):
				t.Errorf("why %q, want %q", infra.Why, c.why)
			}
			if r.Exit != c.exit || len(r.Failures) != c.failures {
				t.Errorf("exit %d after %d failures, want %d after %d; said %q", r.Exit, len(r.Failures), c.exit, c.failures, *said)
			}
			attempts, err := os.ReadFile(m.QEMU + ".attempts")
			if err != nil || len(attempts) != c.failures+1 {
				t.Errorf("%d attempts, %v; want %d", len(attempts), err, c.failures+1)
			}
			if (len(r.Crashes) > 0) != (c.crash != "") || c.crash != "" && (len(r.Crashes) != 1 || !strings.Contains(r.Crashes[0], c.crash)) {
				t.Errorf("crashes %q, want one with %q", r.Crashes, c.crash)
			}
		})
	}
}

func TestMachineGivesWhatCame(t *testing.T) {
	m, said := machine(t, "passes")
	var stderr, console bytes.Buffer
	m.Stderr, m.Console = &stderr, &console
	r, err := m.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got := []string{string(r.Stdout), string(r.JUnit), string(r.Trace), stderr.String(), r.Hello.Release, string(r.Accel)}
	if want := []string{"the report\n", "<testsuites/>", "ctlab-trace 1\n", "progress\n", "9.9", "tcg"}; !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if !strings.Contains(console.String(), readyLine) || !slices.Contains(*said, "up: kernel 9.9, tcg, 3 modules") {
		t.Errorf("console %q, said %q", console.String(), *said)
	}
}

// Deadlines, of which each is the only thing that can end the guest.
func TestMachineDeadlines(t *testing.T) {
	for acts, why := range map[string]string{"hangs": "it was not up within", "mute": "nothing was heard of it"} {
		t.Run(acts, func(t *testing.T) {
			t.Parallel()
			m, _ := machine(t, acts)
			if acts == "hangs" {
				m.BootTimeout = 10 * time.Millisecond
			} else {
				m.Silence = 10 * time.Millisecond
			}
			r, err := m.Run(t.Context())
			var infra *Infra
			if !errors.As(err, &infra) || !strings.Contains(infra.Why, why) || len(r.Failures) != Retries || r.Exit != -1 {
				t.Errorf("%v after %d failures, exit %d; want %q", err, len(r.Failures), r.Exit, why)
			}
		})
	}
}

// A KVM that passed the probe and does not get the guest up is not tried again, where there was a choice.
func TestMachineGoesOnWithoutKVM(t *testing.T) {
	for asked, want := range map[Accel]Accel{Auto: TCG, KVM: KVM} {
		m, said := machine(t, "dies-passes")
		m.Accel, m.probe = asked, func() error { return nil }
		r, err := m.Run(t.Context())
		var first *Infra
		if err != nil || len(r.Failures) != 1 || !errors.As(r.Failures[0], &first) || first.Accel != KVM || r.Accel != want {
			t.Errorf("%s: %v, ran with %s, want %s; failures %v", asked, err, r.Accel, want, r.Failures)
		}
		if told := slices.Contains(*said, "the next attempt is without KVM"); told != (want == TCG) {
			t.Errorf("%s: said %q", asked, *said)
		}
	}
}

// Whose clock a guest has: what a slow machine makes late is not to be late in the guest.
func TestMachineClock(t *testing.T) {
	for _, c := range []struct {
		accel   Accel
		cpus    int
		counted bool
		thread  string
	}{
		{TCG, 1, true, "tcg,thread=single"},
		{TCG, 2, false, "tcg,thread=multi"},
		{KVM, 1, false, "kvm"},
		{KVM, 2, false, "kvm"},
	} {
		m := Machine{CPUs: c.cpus, Memory: 256}
		args := m.args(c.accel)
		if counted := slices.Contains(args, "-icount"); counted != c.counted || !slices.Contains(args, c.thread) {
			t.Errorf("%s with %d processors: %q", c.accel, c.cpus, args)
		}
	}
}

func TestMachineWithoutQEMU(t *testing.T) {
	m, _ := machine(t, "passes")
	m.QEMU += "-not-there"
	var infra *Infra
	if _, err := m.Run(t.Context()); !errors.Is(err, os.ErrNotExist) || errors.As(err, &infra) {
		t.Errorf("%v", err)
	}
}

// When the context ends, so does QEMU.
func TestMachineInterrupted(t *testing.T) {
	m, _ := machine(t, "mute")
	ctx, cancel := context.WithCancel(t.Context())
	m.Progress = func(string) { cancel() } // it is up
	r, err := m.Run(ctx)
	if !errors.Is(err, context.Canceled) || len(r.Failures) != 0 {
		t.Errorf("%v after %d failures", err, len(r.Failures))
	}
	// Children are waited for before Run returns.
	if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); !errors.Is(err, syscall.ECHILD) {
		t.Errorf("a child is left: %d, %v", pid, err)
	}
}

func TestConsole(t *testing.T) {
	var c console
	for _, part := range []string{"[0.1] BUG: ear", "ly\r\n\r\n[0.2] fine\n[1.0] " + readyLine + "\n[1.5] Oops: 0002 [#1] SMP\n",
		strings.Repeat("x", 3*consoleLine), "\n[2.0] DEBUG: nothing\n[2.5] Out of memory: Killed process 9 (ctlab)\n[3] watchdog: BUG: soft lockup"} {
		if _, err := c.Write([]byte(part)); err != nil {
			t.Fatal(err)
		}
	}
	crashes, early, tail := c.said()
	if want := []string{"[1.5] Oops: 0002 [#1] SMP", "[2.5] Out of memory: Killed process 9 (ctlab)", "[3] watchdog: BUG: soft lockup"}; !slices.Equal(crashes, want) {
		t.Errorf("crashes %q, want %q", crashes, want)
	}
	if want := []string{"[0.1] BUG: early"}; !slices.Equal(early, want) {
		t.Errorf("early %q, want %q", early, want)
	}
	if len(tail) > consoleTail || tail[0] != "[0.1] BUG: early" {
		t.Errorf("tail %q", tail)
	}
}
