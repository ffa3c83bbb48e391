package main

import (
	"bufio"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// However ctlab ends, QEMU ends with it, and no file is left. Interrupted it exits with 130.
func TestQEMUEndsWithCtlab(t *testing.T) {
	path := executable(t)
	for signal, want := range map[syscall.Signal]int{syscall.SIGINT: 130, syscall.SIGTERM: 130, syscall.SIGKILL: -1} {
		t.Run(signal.String(), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			for name, content := range map[string]string{
				"kernel/boot/vmlinuz-9.9": "", "kernel/lib/modules/9.9/modules.builtin": "",
				"qemu": "#!/bin/sh\necho $$ > pid.new; mv pid.new pid\nexec sleep 1000\n",
			} {
				path := filepath.Join(dir, name)
				if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o755)); err != nil {
					t.Fatal(err)
				}
			}
			tmp := filepath.Join(dir, "tmp")
			if err := os.Mkdir(tmp, 0o755); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(path, "vm", "run", "--qemu", "./qemu", "--accel", "tcg", "--kernel", "kernel", "healthy")
			cmd.Dir, cmd.Env = dir, append(os.Environ(), "TMPDIR="+tmp)
			stderr, err := cmd.StderrPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			for s := bufio.NewScanner(stderr); s.Scan() && !strings.Contains(s.Text(), "booting"); {
			}
			pid := awaitPID(t, filepath.Join(dir, "pid"))
			if err := cmd.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait() // its code is what counts
			if got := cmd.ProcessState.ExitCode(); got != want {
				t.Errorf("exit %d, want %d", got, want)
			}
			awaitEnd(t, pid)
			if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
				t.Errorf("left: %v, %v", left, err)
			}
		})
	}
}

// Killed while it reads a package, ctlab leaves neither a folder nor the program that reads it.
func TestPackageReaderEndsWithCtlab(t *testing.T) {
	path := executable(t)
	for signal, want := range map[syscall.Signal]int{syscall.SIGINT: 130, syscall.SIGKILL: -1} {
		t.Run(signal.String(), func(t *testing.T) {
			t.Parallel()
			dir, tmp := t.TempDir(), t.TempDir()
			for name, content := range map[string]string{
				"kernel.deb": "", "qemu": "#!/bin/sh\n", "dpkg-deb": "#!/bin/sh\necho $$ > pid.new; mv pid.new pid\nexec sleep 1000\n",
			} {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			cmd := exec.Command(path, "vm", "run", "--qemu", "./qemu", "--kernel", "kernel.deb", "healthy")
			cmd.Dir, cmd.Env = dir, append(os.Environ(), "TMPDIR="+tmp, "PATH="+dir+":"+os.Getenv("PATH"))
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			pid := awaitPID(t, filepath.Join(dir, "pid"))
			if err := cmd.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait() // its code is what counts
			if got := cmd.ProcessState.ExitCode(); got != want {
				t.Errorf("exit %d, want %d", got, want)
			}
			awaitEnd(t, pid)
			if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
				t.Errorf("left: %v, %v", left, err)
			}
		})
	}
}

// patience bounds what is awaited of other processes.
const patience = 20 * time.Second

func awaitPID(t *testing.T, file string) int {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		b, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
		if err != nil {
			t.Fatal(err)
		}
		return pid
	}
	t.Fatal("QEMU was not started")
	return 0
}

// awaitEnd waits for the end of a process; one that nobody waits for has ended as well.
func awaitEnd(t *testing.T, pid int) {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		if err != nil || strings.Contains(string(stat), ") Z ") {
			return
		}
	}
	_ = syscall.Kill(pid, syscall.SIGKILL) // it is ours
	t.Errorf("QEMU, process %d, goes on", pid)
}
