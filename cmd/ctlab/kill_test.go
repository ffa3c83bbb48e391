//go:build linux

package main

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

const kills = 20

// However ctlab dies, nothing is left: its namespaces are held by descriptors, and what is in them goes
// with them. Each run makes five namespaces, so a leak would show as a hundred.
func TestKilledAtAnyMoment(t *testing.T) {
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
	dir := t.TempDir()
	if err := os.Symlink(self, dir+"/ctlab"); err != nil { // the test binary is ctlab by that name
		t.Fatal(err)
	}
	before, links := namespaces(t), rootLinks(t)
	for i := range kills {
		after := time.Duration(rand.IntN(120)) * time.Millisecond // while it builds
		if i%2 == 0 {
			after = time.Duration(rand.IntN(3000)) * time.Millisecond
		}
		cmd := exec.Command(dir+"/ctlab", "run", "coredns-restart")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(after) // the moment is the point
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
	}
	// The kernel frees namespaces later, and slabinfo counts the free places of slabs in use as well; other
	// tests may hold some, too.
	const slack = 50
	deadline := time.Now().Add(30 * time.Second)
	for namespaces(t) > before+slack && time.Now().Before(deadline) {
		time.Sleep(100 * time.Millisecond)
	}
	if n := namespaces(t); n > before+slack {
		t.Errorf("%d namespaces before %d kills, %d after", before, kills, n)
	}
	if now := rootLinks(t); now != links {
		t.Errorf("links of the root namespace before: %s; after: %s", links, now)
	}
}

// namespaces is how many network namespaces the kernel holds, the anonymous ones included.
func namespaces(t *testing.T) int {
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

func rootLinks(t *testing.T) string {
	t.Helper()
	entries, err := os.ReadDir("/sys/class/net")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}
