//go:build linux

package live

import (
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ctlab/lab"
	"ctlab/lab/play"
)

// maxOutput is how much of each stream of a program is kept, in bytes.
const maxOutput = 1 << 20

// outputDelay is how long after the end of a program its output is waited for, when something that it
// started still holds it.
const outputDelay = 100 * time.Millisecond

// signalled is added to the number of a signal that ended a program, as shells do.
const signalled = 128

// program is a program that was started.
type program struct {
	cmd            *exec.Cmd
	stdout, stderr limited
	done           chan struct{}
}

// Start starts a program in a node, in a process group of its own. It has no input. What its own sockets send from a
// tracked node is not recorded.
func (g *Ground) Start(node string, c lab.Command) (play.Program, error) {
	n, err := g.node(node)
	if err != nil {
		return nil, err
	}
	p := &program{cmd: exec.Command(c.Argv[0], c.Argv[1:]...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.stdout, &p.stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p.cmd.WaitDelay = outputDelay
	if err := n.NS.Do(p.cmd.Start); err != nil {
		return nil, fmt.Errorf("start %s in %s: %w", c.Argv[0], node, err)
	}
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait() // what came of it is in its ProcessState
	}()
	return p, nil
}

func (p *program) Done() <-chan struct{} { return p.done }

func (p *program) Stop(grace time.Duration) error {
	if grace > 0 {
		_ = unix.Kill(-p.cmd.Process.Pid, unix.SIGINT) // it may be gone already
		select {
		case <-p.done:
		case <-time.After(grace):
		}
	}
	if err := unix.Kill(-p.cmd.Process.Pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process group %d: %w", p.cmd.Process.Pid, err)
	}
	<-p.done
	return nil
}

func (p *program) Output() lab.Program {
	out := lab.Program{Stdout: p.stdout.String(), Stderr: p.stderr.String()}
	select {
	case <-p.done:
		out.Exit = exitCode(p.cmd)
	default:
	}
	return out
}

// Listening reports whether a node has a socket at a port.
func (g *Ground) Listening(node string, tcp bool, port uint16) (bool, error) {
	return false, errors.New("not built")
}

func exitCode(cmd *exec.Cmd) int {
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return signalled + int(status.Signal())
	}
	return cmd.ProcessState.ExitCode()
}

// limited keeps the beginning of what is written to it and passes over the rest.
type limited struct {
	mu   sync.Mutex
	kept bytes.Buffer
}

func (l *limited) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.kept.Write(b[:min(len(b), max(0, maxOutput-l.kept.Len()))])
	return len(b), nil
}

func (l *limited) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.kept.String()
}
