//go:build linux

package topology

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// Iptables is the set of iptables programs that a run uses.
type Iptables struct {
	Restore, Save string // paths
	Version       string // as iptables-restore --version prints it, such as "1.8.9 (nf_tables)"
}

// ErrNoIptables says that the machine lacks iptables.
var ErrNoIptables = errors.New("iptables-restore is not installed")

// searchPath is where Debian and others keep iptables when an ordinary user's PATH does not show it.
var searchPath = []string{"", "/usr/sbin/", "/sbin/", "/usr/local/sbin/"}

// FindIptables looks for the iptables programs and asks for their version.
func FindIptables(ctx context.Context) (Iptables, error) {
	for _, dir := range searchPath {
		restore, err := exec.LookPath(dir + "iptables-restore")
		if err != nil {
			continue
		}
		save, err := exec.LookPath(dir + "iptables-save")
		if err != nil {
			continue
		}
		out, err := exec.CommandContext(ctx, restore, "--version").Output()
		if err != nil {
			return Iptables{}, fmt.Errorf("run %s --version: %w", restore, err)
		}
		version := strings.TrimSpace(string(out))
		version = strings.TrimPrefix(strings.TrimPrefix(version, "iptables-restore "), "v")
		return Iptables{restore, save, version}, nil
	}
	return Iptables{}, ErrNoIptables
}

// programTimeout bounds each run of an iptables program; they take some milliseconds.
const programTimeout = 10 * time.Second

// Load loads iptables-save text into the node in one call; with noflush what the text does not name
// stays.
func (ipt Iptables) Load(ctx context.Context, n *Node, text string, noflush bool) error {
	args := []string{"-w", "5"}
	if noflush {
		args = append(args, "--noflush")
	}
	_, err := run(ctx, n, text, ipt.Restore, args...)
	if err != nil {
		return fmt.Errorf("load rules into %s: %w", n.NS.Name(), err)
	}
	return nil
}

// Hits reads the node's rules with their counters.
func (ipt Iptables) Hits(ctx context.Context, n *Node) (string, error) {
	out, err := run(ctx, n, "", ipt.Save, "-c")
	if err != nil {
		return "", fmt.Errorf("read rule counters of %s: %w", n.NS.Name(), err)
	}
	return out, nil
}

// run starts a program inside a node and waits for it.
func run(ctx context.Context, n *Node, stdin, program string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, programTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdin = strings.NewReader(stdin)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := n.NS.Do(cmd.Start); err != nil {
		return "", fmt.Errorf("start %s: %w", program, err)
	}
	if err := cmd.Wait(); err != nil {
		if msg := strings.TrimSpace(stderr.String()); msg != "" {
			return "", fmt.Errorf("%s: %w: %s", program, err, strings.ReplaceAll(msg, "\n", "; "))
		}
		return "", fmt.Errorf("%s: %w", program, err)
	}
	return stdout.String(), nil
}
