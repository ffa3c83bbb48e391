//go:build linux

package live

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"ctlab/internal/program"
	"ctlab/lab"
	"ctlab/lab/play"
)

// started is a program that was started.
type started struct {
	*program.Program
	ground *Ground
}

// Start starts a program in a node; the lab's names resolve in it. It has no input. What its own sockets send from a
// tracked node is not recorded.
func (g *Ground) Start(node string, c lab.Command) (play.Program, error) {
	n, err := g.node(node)
	if err != nil {
		return nil, err
	}
	for _, t := range g.tracked { // a program may send at once
		if err := t.awaitTap(); err != nil {
			return nil, err
		}
	}
	spec := program.Spec{Argv: c.Argv, Base: filepath.Dir(g.lab.File), Env: g.env(node), Etc: g.etc(), Files: map[string]string{}}
	for _, f := range c.Files {
		spec.Files[f.Name] = f.Text
	}
	p, err := program.Start(n.NS, spec)
	if errors.Is(err, exec.ErrNotFound) {
		return nil, errors.New(NotInstalled(c.Argv[0]))
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", node, err)
	}
	s := &started{p, g}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.programs[s] = true
	return s, nil
}

// Stop ends the program, with everything that it started.
func (s *started) Stop(grace time.Duration) error {
	s.ground.mu.Lock()
	delete(s.ground.programs, s)
	s.ground.mu.Unlock()
	return s.Program.Stop(grace)
}

// Output is what came of the program so far.
func (s *started) Output() lab.Program {
	out := lab.Program{Stdout: s.Stdout(), Stderr: s.Stderr()}
	select {
	case <-s.Done():
		out.Exit = s.Exit()
	default:
	}
	return out
}

// env says to a program where it runs, so that one configuration does for all nodes.
func (g *Ground) env(node string) []string {
	env := []string{"CTLAB_NODE=" + node}
	if a := g.lab.Node(node).Address; a.IsValid() {
		env = append(env, "CTLAB_ADDRESS="+a.Addr().String())
	}
	return env
}

// etc is how programs resolve names: the lab's are known, and nobody is asked for others. Questions to the machine's
// own resolvers would be traffic of the lab.
func (g *Ground) etc() map[string]string {
	hosts := "127.0.0.1 localhost\n"
	for _, n := range g.names() {
		hosts += n.Addr.String() + " " + n.Name + "\n"
	}
	return map[string]string{"hosts": hosts, "nsswitch.conf": "hosts: files\n", "resolv.conf": "# the node itself\n"}
}

// Listening reports whether a node has a socket at a port, by the list that the kernel shows.
func (g *Ground) Listening(node string, tcp bool, port uint16) (found bool, err error) {
	n, err := g.node(node)
	if err != nil {
		return false, err
	}
	file := "udp"
	if tcp {
		file = "tcp"
	}
	err = n.NS.Do(func() error {
		for _, f := range []string{file, file + "6"} {
			b, err := os.ReadFile("/proc/thread-self/net/" + f)
			if err != nil && !os.IsNotExist(err) { // a kernel without IPv6
				return err
			}
			found = found || hasSocket(string(b), tcp, port)
		}
		return nil
	})
	return found, err
}

// hasSocket looks for a local port in /proc/net/udp or tcp (udp4_format_sock in net/ipv4/udp.c, get_openreq4 and others
// in net/ipv4/tcp_ipv4.c): the second field ends with it in hexadecimal; a TCP socket that listens is in state 0A.
func hasSocket(table string, tcp bool, port uint16) bool {
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) < 4 {
			continue
		}
		_, hex, _ := strings.Cut(f[1], ":")
		n, err := strconv.ParseUint(hex, 16, 16)
		if err == nil && uint16(n) == port && (!tcp || f[3] == "0A") {
			return true
		}
	}
	return false
}
