package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Machine is a virtual machine to be.
type Machine struct {
	QEMU   string   // path of qemu-system-x86_64
	Accel  Accel    // Auto: KVM if ProbeKVM finds nothing against it
	CPUs   int      // virtual ones; a translated guest with one has a clock of its own, see processor
	Memory int      // MiB
	Kernel *os.File // the image
	Initrd *os.File // its root file system, as Image.Write writes it

	BootTimeout time.Duration // until the Hello; 0: no end
	Silence     time.Duration // the longest that a guest may say nothing; 0: no end

	Progress func(string) // told what happens; may be nil
	Stderr   io.Writer    // gets what ctlab in the guest writes to stderr, as it comes
	Console  io.Writer    // gets what the guest's kernel writes to its serial line, of all attempts; may be nil

	probe func() error // in place of ProbeKVM, in tests
}

// Result is what a guest had to say.
type Result struct {
	Hello  Hello
	Accel  Accel // with which it ran
	Exit   int   // the exit code of ctlab in the guest
	Stdout []byte
	JUnit  []byte
	Trace  []byte

	Crashes  []string // lines of the console by which a kernel that was up says that it is broken
	Failures []error  // attempts before, in which the machinery failed: each an *Infra
}

// Infra says that the machinery failed, not a lab: QEMU ended, the guest did not come up, or broke off.
type Infra struct {
	Accel   Accel
	Why     string
	Console []string // the last lines
}

func (e *Infra) Error() string { return fmt.Sprintf("guest (%s): %s", e.Accel, e.Why) }

// Retries is how often a guest is started again after the machinery failed.
const Retries = 2

// outputMax bounds what a guest may send.
const outputMax = 512 << 20

// Run boots the machine and waits for its end. When the machinery fails, it starts it again, at most Retries times; with Auto, without KVM from
// then on. What comes back beside an error is as far as the guest came. The error is an *Infra, of the last attempt, or that of ctx.
func (m *Machine) Run(ctx context.Context) (*Result, error) {
	accel := m.Accel
	if accel == Auto {
		accel = KVM
		if err := m.probeKVM(); err != nil {
			accel = TCG
			m.say(fmt.Sprintf("no KVM here (%v)", err))
		}
	}
	var failures []error
	for {
		r, err := m.attempt(ctx, accel)
		r.Failures = failures
		var infra *Infra
		if !errors.As(err, &infra) || ctx.Err() != nil || len(failures) == Retries {
			return r, err
		}
		failures = append(failures, err)
		m.say(fmt.Sprintf("%v", err))
		if accel == KVM && m.Accel == Auto && r.Hello.Version == 0 {
			accel = TCG
			m.say("the next attempt is without KVM")
		}
		m.say(fmt.Sprintf("retry %d of %d", len(failures), Retries))
	}
}

func (m *Machine) probeKVM() error {
	if m.probe != nil {
		return m.probe()
	}
	return ProbeKVM("/proc/cpuinfo", "/dev/kvm")
}

func (m *Machine) say(what string) {
	if m.Progress != nil {
		m.Progress(what)
	}
}

// attempt boots the machine once.
func (m *Machine) attempt(ctx context.Context, accel Accel) (*Result, error) {
	r := &Result{Accel: accel, Exit: -1}
	p, err := m.start(ctx, accel)
	if err != nil {
		return r, fmt.Errorf("start %s: %w", m.QEMU, err)
	}
	why := m.listen(p, r)
	ended := p.stop(why == "")
	crashes, early, tail := p.console.said()
	r.Crashes = crashes
	if r.Hello.Version == 0 {
		crashes = early
	}
	switch {
	case ctx.Err() != nil:
		return r, ctx.Err()
	case why == "" || r.Hello.Version != 0 && len(crashes) > 0:
		return r, nil // a kernel that broke while labs ran is a result
	case len(crashes) > 0:
		why += "; the console says: " + crashes[0]
	case p.stderr.Len() > 0:
		why += "; " + strings.TrimSpace(p.stderr.String())
	case ended != nil:
		why += "; " + ended.Error()
	}
	return r, &Infra{accel, why, tail}
}

// listen takes what the guest sends, until its End or until something is wrong, and says what.
func (m *Machine) listen(p *process, r *Result) (wrong string) {
	size := 0
	for {
		limit, what := m.Silence, fmt.Sprintf("nothing was heard of it for %v", m.Silence)
		if r.Hello.Version == 0 {
			limit, what = m.BootTimeout, fmt.Sprintf("it was not up within %v", m.BootTimeout)
		}
		f, err := p.next(limit)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return what
		case errors.Is(err, io.EOF) && r.Hello.Version == 0:
			return "QEMU ended before the guest was up"
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return "the port was closed before the end"
		case err != nil:
			return err.Error()
		}
		if size += len(f.Payload); size > outputMax {
			return fmt.Sprintf("it sent more than %d MiB", outputMax>>20)
		}
		over, err := m.take(f, r)
		if err != nil {
			return err.Error()
		}
		if over {
			return ""
		}
	}
}

// take takes one frame.
func (m *Machine) take(f Frame, r *Result) (over bool, err error) {
	if (r.Hello.Version == 0) != (f.Kind == KindHello) {
		return false, fmt.Errorf("%w that was to come: %q", ErrGarbage, f.Kind)
	}
	switch f.Kind {
	case KindHello:
		if err := f.parse(&r.Hello); err != nil {
			return false, err
		}
		if r.Hello.Version != Version {
			return false, fmt.Errorf("%w of this version: %d, want %d", ErrGarbage, r.Hello.Version, Version)
		}
		m.say(fmt.Sprintf("up: kernel %s, %s, %d modules", r.Hello.Release, r.Accel, r.Hello.Modules))
		for _, why := range r.Hello.Refused {
			m.say("module not loaded: " + why)
		}
	case KindStdout:
		r.Stdout = append(r.Stdout, f.Payload...)
	case KindStderr:
		if m.Stderr != nil {
			_, err = m.Stderr.Write(f.Payload)
		}
	case KindJUnit:
		r.JUnit = append(r.JUnit, f.Payload...)
	case KindTrace:
		r.Trace = append(r.Trace, f.Payload...)
	case KindEnd:
		var end End
		if err := f.parse(&end); err != nil {
			return false, err
		}
		if end.Error != "" {
			return false, fmt.Errorf("ctlab did not run in it: %s", end.Error)
		}
		r.Exit = end.Exit
		return true, nil
	}
	return false, err
}

// process is QEMU as it runs.
type process struct {
	port    *os.File // what the guest sends
	console console
	stderr  bytes.Buffer // to be read after its end
	kill    context.CancelFunc
	ended   chan error // of the program
	heard   chan struct{}
}

// start starts QEMU. Everything that it opens is named by a descriptor, so that nothing of it is left in a folder. The thread
// that starts it waits for it as well: the kernel kills it when that thread ends, that is, when ctlab does in whatever way. Its
// process group is its own, so that a Ctrl-C at the terminal is ctlab's to deal with.
func (m *Machine) start(ctx context.Context, accel Accel) (*process, error) {
	port, portEnd, err := pollablePipe()
	if err != nil {
		return nil, err
	}
	serial, serialEnd, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, port.Close(), portEnd.Close())
	}
	limited, kill := context.WithCancel(ctx)
	p := &process{port: port, kill: kill, ended: make(chan error, 1), heard: make(chan struct{})}
	cmd := exec.CommandContext(limited, m.QEMU, m.args(accel)...)
	cmd.ExtraFiles = []*os.File{m.Kernel, m.Initrd, portEnd, serialEnd} // descriptors 3 to 6
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	cmd.Stderr = &p.stderr
	cmd.WaitDelay = time.Second
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // for ever: the thread ends with this function
		err := cmd.Start()
		started <- err
		if err == nil {
			p.ended <- cmd.Wait()
		}
	}()
	err = <-started
	closed := errors.Join(portEnd.Close(), serialEnd.Close())
	if err != nil || closed != nil {
		kill()
		return nil, errors.Join(err, closed, port.Close(), serial.Close())
	}
	console := io.Writer(&p.console)
	if m.Console != nil {
		console = io.MultiWriter(console, m.Console)
	}
	go func() {
		defer close(p.heard)
		defer serial.Close()
		_, _ = io.Copy(console, serial) // it ends with QEMU, in whatever way
	}()
	return p, nil
}

// pollablePipe is a pipe whose reading end knows deadlines.
func pollablePipe() (r, w *os.File, err error) {
	fds := make([]int, 2)
	if err := unix.Pipe2(fds, unix.O_CLOEXEC); err != nil {
		return nil, nil, os.NewSyscallError("pipe2", err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		return nil, nil, err
	}
	return os.NewFile(uintptr(fds[0]), "port"), os.NewFile(uintptr(fds[1]), "port"), nil
}

// next is the next frame. Its error is os.ErrDeadlineExceeded after limit.
func (p *process) next(limit time.Duration) (Frame, error) {
	var deadline time.Time
	if limit > 0 {
		deadline = time.Now().Add(limit)
	}
	if err := p.port.SetReadDeadline(deadline); err != nil {
		return Frame{}, err
	}
	return ReadFrame(p.port)
}

// powerOff is how long a guest that said its End may take to power off.
const powerOff = 20 * time.Second

// stop waits for the end of QEMU, and kills it if it is not to end by itself, or does not. It returns what it ended with.
func (p *process) stop(byItself bool) error {
	defer p.port.Close()
	if byItself {
		timer := time.AfterFunc(powerOff, p.kill)
		defer timer.Stop()
	} else {
		p.kill()
	}
	err := <-p.ended
	p.kill()
	<-p.heard
	return err
}

// args are the arguments of QEMU.
func (m *Machine) args(accel Accel) []string {
	return append(m.processor(accel),
		"-M", "q35", "-smp", strconv.Itoa(m.CPUs), "-m", strconv.Itoa(m.Memory),
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-kernel", "/proc/self/fd/3", "-initrd", "/proc/self/fd/4", "-append", commandLine(),
		"-chardev", "file,id=console,path=/proc/self/fd/6", "-serial", "chardev:console",
		"-device", "virtio-serial-pci", "-chardev", "file,id=result,path=/proc/self/fd/5", "-device", "virtserialport,chardev=result,name="+portName,
	)
}

// processor are the arguments for how code is run. Translated code is many times slower than the machine: a guest whose clock is the
// machine's answers after timeouts of a lab that have nothing to do with its kernel, the more so the busier the machine is. So
// the clock of a guest with one processor counts instructions, of 2 ns each, and jumps to the next timer when it has nothing to do
// (-icount of QEMU: shift is the logarithm of the nanoseconds). With more processors this does not get on, and the clock is the
// machine's.
func (m *Machine) processor(accel Accel) []string {
	const model = "Nehalem" // with more, such as max, some kernels do not come up
	switch {
	case accel == KVM:
		return []string{"-accel", "kvm", "-cpu", "host"}
	case m.CPUs == 1:
		return []string{"-accel", "tcg,thread=single", "-cpu", model, "-icount", "shift=1,sleep=off"}
	}
	return []string{"-accel", "tcg,thread=multi", "-cpu", model}
}

// commandLine is the kernel's. Its log shows warnings and worse; after a panic it ends; what only costs time is left out. The word after
// the -- is for the first process.
func commandLine() string {
	return "console=ttyS0 loglevel=5 panic=-1 reboot=t rdinit=/init nokaslr mitigations=off tsc=reliable no_timer_check audit=0 " +
		"random.trust_cpu=on cryptomgr.notests net.ifnames=0 -- " + roleWord
}
