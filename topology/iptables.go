//go:build linux

package topology

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Iptables is a set of iptables programs of one back end.
type Iptables struct {
	Restore, Save string // paths
	Version       string // as iptables-restore --version prints it, such as "1.8.9 (nf_tables)"
	IPv6          bool   // they are ip6tables
}

// The back ends of iptables: which part of the kernel holds the rules.
const (
	Nft    = "nft"    // nf_tables, through its x_tables compatibility
	Legacy = "legacy" // ip_tables
)

// Backend is Nft or Legacy. Before 1.8 there was only the latter, and versions did not say so.
func (ipt Iptables) Backend() string {
	if strings.Contains(ipt.Version, "nf_tables") {
		return Nft
	}
	return Legacy
}

// ErrNoIptables says that the machine lacks iptables, or the back end that was asked for.
var ErrNoIptables = errors.New("iptables is not installed")

// searchPath is where Debian and others keep iptables when an ordinary user's PATH does not show it.
var searchPath = []string{"", "/usr/sbin/", "/sbin/", "/usr/local/sbin/"}

// FindIptables goes through the iptables programs of this machine, one set for each back end; the machine's default
// comes first. With a back end it looks for that one only. Whether this kernel takes their rules is another question.
func FindIptables(ctx context.Context, backend string) iter.Seq2[Iptables, error] {
	return find(ctx, "iptables", backend)
}

// FindIP6tables does the same for ip6tables. The machine's default may be of another back end than that of iptables.
func FindIP6tables(ctx context.Context, backend string) iter.Seq2[Iptables, error] {
	return find(ctx, "ip6tables", backend)
}

func find(ctx context.Context, name, backend string) iter.Seq2[Iptables, error] {
	return func(yield func(Iptables, error) bool) {
		tried, any := map[string]bool{}, false // programs, and back ends
		for _, prefix := range []string{name, name + "-" + Nft, name + "-" + Legacy} {
			ipt, ok := lookPath(prefix)
			if !ok {
				continue
			}
			ipt.IPv6 = name == "ip6tables"
			// The default is a link to one of the others.
			program, err := filepath.EvalSymlinks(ipt.Restore)
			if err == nil && tried[program] {
				continue
			}
			tried[program] = true
			if ipt.Version, err = ipt.ask(ctx); err == nil {
				if backend != "" && ipt.Backend() != backend || tried[ipt.Backend()] {
					continue
				}
				tried[ipt.Backend()] = true
			}
			any = true
			if !yield(ipt, err) {
				return
			}
		}
		switch {
		case any:
		case backend != "":
			yield(Iptables{}, fmt.Errorf("%s-%s: %w", name, backend, ErrNoIptables))
		default:
			yield(Iptables{}, ErrNoIptables)
		}
	}
}

func lookPath(prefix string) (Iptables, bool) {
	for _, dir := range searchPath {
		restore, err := exec.LookPath(dir + prefix + "-restore")
		if err != nil {
			continue
		}
		if save, err := exec.LookPath(dir + prefix + "-save"); err == nil {
			return Iptables{Restore: restore, Save: save}, true
		}
	}
	return Iptables{}, false
}

// ask asks for the version, without the program's name and the v in front.
func (ipt Iptables) ask(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, programTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, ipt.Restore, "--version").Output()
	if err != nil {
		if ctx.Err() != nil { // it was killed
			err = ctx.Err()
		}
		return "", fmt.Errorf("run %s --version: %w", ipt.Restore, err)
	}
	_, version, _ := strings.Cut(strings.TrimSpace(string(out)), " ")
	return strings.TrimPrefix(version, "v"), nil
}

// waits reports whether iptables-restore knows -w, as it does since 1.6.2.
func (ipt Iptables) waits() bool {
	var have [3]int
	number, _, _ := strings.Cut(ipt.Version, " ")
	for i, part := range strings.SplitN(number, ".", len(have)) {
		have[i], _ = strconv.Atoi(part)
	}
	return slices.Compare(have[:], []int{1, 6, 2}) >= 0
}

// programTimeout bounds each run of an iptables program; they take some milliseconds.
const programTimeout = 10 * time.Second

// Load loads iptables-save text into the node in one call; with noflush what the text does not name
// stays.
func (ipt Iptables) Load(ctx context.Context, n *Node, text string, noflush bool) error {
	var args []string
	if ipt.waits() {
		args = append(args, "-w", "5")
	}
	if noflush {
		args = append(args, "--noflush")
	}
	if _, err := ipt.run(ctx, n, text, ipt.Restore, args...); err != nil {
		return fmt.Errorf("load rules into %s: %w", n.NS.Name(), err)
	}
	return nil
}

// Hits reads the node's rules with their counters.
func (ipt Iptables) Hits(ctx context.Context, n *Node) (string, error) {
	out, err := ipt.run(ctx, n, "", ipt.Save, "-c")
	if err != nil {
		return "", fmt.Errorf("read rule counters of %s: %w", n.NS.Name(), err)
	}
	return out, nil
}

// run starts a program inside a node and waits for it. The thread that starts it waits as well, so that the
// program is killed when ctlab is: Pdeathsig is about the thread. Its process group is its own, so that a
// Ctrl-C at the terminal is ctlab's alone to deal with.
func (ipt Iptables) run(ctx context.Context, n *Node, stdin, program string, args ...string) (string, error) {
	limited, cancel := context.WithTimeout(ctx, programTimeout)
	defer cancel()
	cmd := exec.CommandContext(limited, program, args...)
	cmd.Stdin = strings.NewReader(stdin)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	cmd.WaitDelay = outputDelay
	if lock := ipt.lock(); lock != nil {
		defer lock.Close()
		cmd.ExtraFiles = []*os.File{lock} // descriptor 3
		cmd.Env = append(cmd.Env, "XTABLES_LOCKFILE=/proc/self/fd/3")
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := n.NS.Do(cmd.Run)
	switch {
	case err == nil:
		return stdout.String(), nil
	case ctx.Err() != nil:
		return "", fmt.Errorf("%s: %w", program, ctx.Err())
	case limited.Err() != nil:
		return "", fmt.Errorf("%s: killed, as it did not end within %v", program, programTimeout)
	}
	if msg := strings.TrimSpace(stderr.String()); msg != "" {
		return "", fmt.Errorf("%s: %w: %s", program, err, strings.ReplaceAll(msg, "\n", "; "))
	}
	return "", fmt.Errorf("%s: %w", program, err)
}

// outputDelay is how long after the end of a program its output is waited for, when something that it started
// still holds it. It must be long enough to read the output on a machine that is busy or emulated: a tenth of a second
// was not.
const outputDelay = 2 * time.Second

// lock is a lock file of its own for a run of the legacy programs, which no name leads to. The machine's,
// /run/xtables.lock, is for root alone, and there is nothing to be locked out of a namespace that is ours. Where
// a kernel has none (before 3.17), the machine's must do.
func (ipt Iptables) lock() *os.File {
	if ipt.Backend() != Legacy {
		return nil
	}
	fd, err := unix.MemfdCreate("xtables.lock", unix.MFD_CLOEXEC)
	if err != nil {
		return nil
	}
	return os.NewFile(uintptr(fd), "xtables.lock")
}
