//go:build linux

// Package program runs the programs of a lab. Each has a PID and a mount namespace of its own, whose first process is
// this program again, as a small init (see init.go): when that ends, the kernel ends everything in it, daemons and
// grandchildren too. It ends with a pipe that the process which started it holds, so that nothing outlives that
// process, however it dies. (A parent-death signal would spare grandchildren.)
package program

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ctlab/internal/netns"
)

// Spec is a program to be started.
type Spec struct {
	Argv []string
	// Base is the folder to which a program's name with a slash in it is relative.
	Base string
	// Env are further variables of the environment, as NAME=VALUE.
	Env []string
	// Etc are texts of files below /etc by their names, such as hosts, as the program finds them. What the machine does
	// not have is missing there as well.
	Etc map[string]string
	// Files, if there are any, are written to a folder of the program's own, in memory, in which it then runs.
	Files map[string]string
}

// Program is a program that was started.
type Program struct {
	cmd            *exec.Cmd
	init           *initProcess
	stdout, stderr output
	done           chan struct{} // closed when it has ended and was waited for
	once           sync.Once
	stopped        error
}

// outputDelay is how long after the end of a program its output is waited for, when something that it started
// still holds it.
const outputDelay = 100 * time.Millisecond

// Start starts a program in a network namespace. It has no input.
//
// The program is a child of this process, put into the namespaces of its init by the thread that starts it
// (pid_namespaces(7): setns is for children). Before 3.12 the kernel has no vfork across PID namespaces, and start fails.
func Start(ns *netns.NS, s Spec) (*Program, error) {
	path, err := look(s.Argv[0], s.Base)
	if err != nil {
		return nil, err
	}
	dir, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	in, err := startInit(initConfig{Etc: s.Etc, Files: s.Files})
	if err != nil {
		return nil, err
	}
	p := &Program{cmd: exec.Command(path, s.Argv[1:]...), init: in, done: make(chan struct{})}
	p.cmd.Args[0] = s.Argv[0]
	p.cmd.Dir = dir
	if in.dir != "" {
		p.cmd.Dir = in.dir
	}
	p.cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":"+strings.Join(systemDirs(), ":"))
	p.cmd.Env = append(p.cmd.Env, s.Env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.stdout, &p.stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a Ctrl-C at the terminal is not for it
	p.cmd.WaitDelay = outputDelay
	err = ns.Do(func() error {
		if err := in.enter(); err != nil {
			return err
		}
		return p.cmd.Start()
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", s.Argv[0], err), in.close())
	}
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait() // what came of it is in its ProcessState
	}()
	return p, nil
}

// systemDirs are where programs for administrators are, to which an ordinary user's PATH may not lead.
func systemDirs() []string { return []string{"/usr/local/sbin", "/usr/sbin", "/sbin"} }

// look finds a program.
func look(name, base string) (string, error) {
	if strings.Contains(name, "/") {
		if !filepath.IsAbs(name) {
			name = filepath.Join(base, name)
		}
		path, err := exec.LookPath(name)
		if err != nil {
			return "", err
		}
		return filepath.Abs(path)
	}
	path, err := exec.LookPath(name)
	for _, dir := range systemDirs() {
		if err == nil {
			break
		}
		if p, e := exec.LookPath(filepath.Join(dir, name)); e == nil {
			path, err = p, nil
		}
	}
	return path, err
}

// Look finds a program as Start would.
func Look(name, base string) (string, error) { return look(name, base) }

// Done is closed when the program has ended, by itself or not.
func (p *Program) Done() <-chan struct{} { return p.done }

// Stop ends the program and everything that it started. It is interrupted first and given some grace, or, without
// grace, killed at once. Stop returns when all is gone.
func (p *Program) Stop(grace time.Duration) error {
	p.once.Do(func() { p.stopped = p.stop(grace) })
	return p.stopped
}

func (p *Program) stop(grace time.Duration) error {
	if grace > 0 {
		_ = unix.Kill(-p.cmd.Process.Pid, unix.SIGINT) // it may be gone already
		timer := time.NewTimer(grace)
		defer timer.Stop()
		select {
		case <-p.done:
		case <-timer.C:
		}
	}
	err := p.init.close()
	<-p.done
	return err
}

// signalled is added to the number of a signal that ended a program, as shells do.
const signalled = 128

// Exit is the exit code of a program that has ended; 128 and more is the signal that ended it.
func (p *Program) Exit() int {
	if s, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && s.Signaled() {
		return signalled + int(s.Signal())
	}
	return p.cmd.ProcessState.ExitCode()
}

// Stdout is what the program has written so far; of much, the beginning and the end.
func (p *Program) Stdout() string { return p.stdout.String() }

// Stderr is the same of the other stream.
func (p *Program) Stderr() string { return p.stderr.String() }

// initProcess is a running init.
type initProcess struct {
	cmd      *exec.Cmd
	alive    *os.File // the pipe's other end is the init's life
	pid, mnt *os.File // its namespaces
	dir      string   // where the files are, as seen in its mount namespace
}

// startInit starts this program again as the first process of a PID and a mount namespace, and waits until it has set
// itself up.
func startInit(c initConfig) (*initProcess, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	in := &initProcess{cmd: exec.Command("/proc/self/exe"), alive: w}
	in.cmd.Args = []string{initName, "-test.run=^$"} // a test binary that did not become an init would run its tests
	in.cmd.Stdin = r
	var said bytes.Buffer
	in.cmd.Stderr = &said
	out, err := in.cmd.StdoutPipe()
	if err != nil {
		return nil, errors.Join(err, w.Close())
	}
	in.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS, Setpgid: true}
	if err := in.cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start an init: %w", err), w.Close())
	}
	var ready initReady
	err = json.NewEncoder(w).Encode(c)
	if err == nil {
		err = json.NewDecoder(out).Decode(&ready)
	}
	if err == nil && ready.Error != "" {
		err = errors.New(ready.Error)
	}
	if err == nil {
		err = in.open()
	}
	if err != nil {
		err = errors.Join(err, in.close())
		return nil, fmt.Errorf("start an init: %w%s", err, strings.TrimSpace(said.String()))
	}
	in.dir = ready.Dir
	return in, nil
}

// open opens the namespaces.
func (in *initProcess) open() (err error) {
	if in.pid, err = os.Open(fmt.Sprintf("/proc/%d/ns/pid", in.cmd.Process.Pid)); err != nil {
		return err
	}
	in.mnt, err = os.Open(fmt.Sprintf("/proc/%d/ns/mnt", in.cmd.Process.Pid))
	return err
}

// enter lets what the calling thread starts be in the init's namespaces. The thread is good for nothing else then.
func (in *initProcess) enter() error {
	if err := unix.Setns(int(in.pid.Fd()), unix.CLONE_NEWPID); err != nil {
		return fmt.Errorf("enter PID namespace: %w", err)
	}
	// Threads share their root and working directory, with which they cannot change the mount namespace.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare working directory: %w", err)
	}
	if err := unix.Setns(int(in.mnt.Fd()), unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("enter mount namespace: %w", err)
	}
	return nil
}

// close ends the init, and so everything in its PID namespace. The kernel lets it go when all of that is gone.
func (in *initProcess) close() error {
	errs := []error{in.alive.Close()}
	if err := in.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		errs = append(errs, err)
	}
	_ = in.cmd.Wait() // killed, as it was told
	for _, f := range []*os.File{in.pid, in.mnt} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// maxOutput is how much is kept of the beginning of a stream, and of its end, in bytes.
const maxOutput = 512 << 10

// output keeps the beginning and the end of what is written to it.
type output struct {
	mu         sync.Mutex
	head, tail []byte
	left       int // bytes between them that were left out
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := min(len(b), maxOutput-len(o.head))
	o.head = append(o.head, b[:n]...)
	o.tail = append(o.tail, b[n:]...)
	if over := len(o.tail) - maxOutput; over > maxOutput { // not at each write
		o.left += over
		o.tail = append([]byte(nil), o.tail[over:]...)
	}
	return len(b), nil
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	tail, left := o.tail, o.left
	if over := len(tail) - maxOutput; over > 0 {
		tail, left = tail[over:], left+over
	}
	if left > 0 {
		return fmt.Sprintf("%s\n... %d bytes left out ...\n%s", o.head, left, tail)
	}
	return string(o.head) + string(tail)
}
