package main

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// TestKeep looks at what is said while the network stands, and after Ctrl-C.
func TestKeep(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("needs root")
		}
		t.Skip("needs root")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctlab := t.TempDir() + "/ctlab"
	if err := os.Symlink(self, ctlab); err != nil { // the test binary is ctlab by that name
		t.Fatal(err)
	}
	cmd := exec.Command(ctlab, "run", "healthy", "--keep")
	stdout, err := os.Create(t.TempDir() + "/stdout")
	if err != nil {
		t.Fatal(err)
	}
	defer stdout.Close()
	cmd.Stdout = stdout
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	for s := bufio.NewScanner(stderr); s.Scan(); {
		said.WriteString(s.Text() + "\n")
		if !strings.HasPrefix(s.Text(), "  coredns ") { // the last node
			continue
		}
		if now := read(t, stdout.Name()); !strings.Contains(now, "answered 1 by coredns") || strings.Contains(now, "PASS") {
			t.Errorf("while the network stands: %q", now)
		}
		if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v\n%s", err, said.String())
	}
	end := read(t, stdout.Name())
	if strings.Count(end, "answered 1 by coredns") != 1 || !strings.Contains(end, "\nPASS  ") {
		t.Errorf("after Ctrl-C: %q", end)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
