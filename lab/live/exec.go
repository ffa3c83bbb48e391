//go:build linux

package live

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ctlab/lab"
)

// maxOutput is how much of each stream of a program is kept, in bytes.
const maxOutput = 1 << 20

// outputDelay is how long after the end of a program its output is waited for, when something that it
// started still holds it.
const outputDelay = 100 * time.Millisecond

// signalled is added to the number of a signal that ended a program, as shells do.
const signalled = 128

// Exec runs a program in a node, in a process group of its own, which ends with it or with ctx. It has no
// input. What its own sockets send from a tracked node is not recorded.
func (g *Ground) Exec(ctx context.Context, node string, argv []string) (lab.Program, error) {
	n, err := g.node(node)
	if err != nil {
		return lab.Program{}, err
	}
	var stdout, stderr limited
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return endGroup(cmd.Process.Pid) }
	cmd.WaitDelay = outputDelay
	if err := n.NS.Do(cmd.Start); err != nil {
		return lab.Program{}, fmt.Errorf("start %s in %s: %w", argv[0], node, err)
	}
	err = cmd.Wait()
	err = errors.Join(ctx.Err(), exitError(err), endGroup(cmd.Process.Pid))
	if err != nil {
		err = fmt.Errorf("run %s in %s: %w", argv[0], node, err)
	}
	return lab.Program{Exit: exitCode(cmd), Stdout: stdout.kept.String(), Stderr: stderr.kept.String()}, err
}

// exitError is what went wrong besides the program's own end.
func exitError(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) || errors.Is(err, exec.ErrWaitDelay) {
		return nil
	}
	return err
}

func exitCode(cmd *exec.Cmd) int {
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return signalled + int(status.Signal())
	}
	return cmd.ProcessState.ExitCode()
}

// endGroup kills a process group; it may be gone already.
func endGroup(leader int) error {
	if err := unix.Kill(-leader, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process group %d: %w", leader, err)
	}
	return nil
}

// limited keeps the beginning of what is written to it and passes over the rest. The buffer is no embedded
// one, as io.Copy would then read into it without a limit.
type limited struct{ kept bytes.Buffer }

func (l *limited) Write(b []byte) (int, error) {
	l.kept.Write(b[:min(len(b), max(0, maxOutput-l.kept.Len()))])
	return len(b), nil
}
