//go:build linux

package main

import (
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"ctlab/labs"
)

// executable is this test binary as ctlab, at a place where every user may run it.
func executable(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ctlab-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	from, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	path := filepath.Join(dir, "ctlab")
	to, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	if _, err := io.Copy(to, from); err != nil {
		t.Fatal(err)
	}
	return path
}

// ordinary makes a command that of an ordinary user. As an ordinary user that is what it is already.
func ordinary(t *testing.T, cmd *exec.Cmd) *exec.Cmd {
	t.Helper()
	cmd.Dir = filepath.Dir(cmd.Path)
	if os.Geteuid() != 0 {
		return cmd
	}
	u, err := user.Lookup("nobody")
	if err != nil {
		t.Fatal(err)
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
	return cmd
}

// document is what the tests read of a JSON document.
type document struct {
	Runs []struct {
		Lab, Variant, Verdict, Error string
		Setting                      struct {
			Iptables     string
			OrdinaryUser bool `json:"ordinary-user"`
		}
		Model []struct {
			Verdict string
			Free    map[string]int
		}
	}
}

// Every bundled lab and each of its variants passes, whoever runs it and with whichever iptables. That root passes with
// the machine's default is TestLabsOnThisKernel in package labs.
func TestLabsByAnybodyWithAnyIptables(t *testing.T) {
	needRoot(t)
	path := executable(t)
	for _, by := range []struct {
		name, backend string
		ordinary      bool
	}{
		{"root with legacy", "legacy", false},
		{"an ordinary user with nft", "nft", true},
		{"an ordinary user with legacy", "legacy", true},
	} {
		t.Run(by.name, func(t *testing.T) {
			cmd := exec.Command(path, append([]string{"run", "--json", "--variant", "all", "-j", "4", "--iptables", by.backend}, labs.Names()...)...)
			if by.ordinary {
				cmd = ordinary(t, cmd)
			}
			var stderr strings.Builder
			cmd.Stderr = &stderr
			out, err := cmd.Output()
			var d document
			if jerr := json.Unmarshal(out, &d); jerr != nil {
				t.Fatalf("%v, %v\n%s", err, jerr, stderr.String())
			}
			if len(d.Runs) < 2*len(labs.Names()) {
				t.Errorf("%d runs of %d labs with their variants", len(d.Runs), len(labs.Names()))
			}
			skipped := false // for want of a program
			for _, r := range d.Runs {
				if r.Verdict == "SKIPPED" && lacksProgram(t, r.Lab, r.Variant) && os.Getenv("CI") == "" {
					skipped = true
					continue
				}
				if r.Verdict != "PASS" {
					t.Errorf("%s %s: %s %s", r.Lab, r.Variant, r.Verdict, r.Error)
				}
				if legacy := strings.Contains(r.Setting.Iptables, "legacy"); legacy != (by.backend == "legacy") || r.Setting.OrdinaryUser != by.ordinary {
					t.Errorf("%s %s: iptables %s, by an ordinary user: %v", r.Lab, r.Variant, r.Setting.Iptables, r.Setting.OrdinaryUser)
				}
				for _, m := range r.Model {
					// An ordinary user's ticks are known to one more, which now and then leaves a question open.
					if m.Free["timing"] > 0 && !by.ordinary {
						t.Errorf("%s %s: %d left to the timing", r.Lab, r.Variant, m.Free["timing"])
					}
				}
			}
			if err != nil && !skipped {
				t.Errorf("%v\n%s", err, stderr.String())
			}
		})
	}
}

// lacksProgram reports whether a bundled lab needs a program that this machine has not.
func lacksProgram(t *testing.T, name, variant string) bool {
	t.Helper()
	l, err := loadLab(name, variant)
	if err != nil {
		t.Fatal(err)
	}
	return absent(l) != ""
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatal("needs root")
	}
	t.Skip("needs root")
}
