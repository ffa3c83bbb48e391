package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"ctlab/lab"
	"ctlab/lab/live"
	"ctlab/lab/play"
	"ctlab/topology"
)

// newWorld is the kernel's world, and the way to look into its nodes.
func newWorld(l *lab.Lab) (lab.World, func() []handle) {
	g := live.New(l)
	return play.New(l, g), func() []handle {
		var out []handle
		for _, n := range l.Nodes {
			command := "ip address"
			if n.Router {
				command = "conntrack -L"
			}
			out = append(out, handle{n.Name, fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), g.FD(n.Name)), command})
		}
		return out
	}
}

// able says early, before anything is built, whether labs can be played here.
func able() error {
	if os.Geteuid() != 0 {
		return exit(exitCannotRun, errors.New("playing labs needs root: sudo ctlab "+strings.Join(os.Args[1:], " ")+"; without it: ctlab predict"))
	}
	return nil
}

// cannotRun names what this machine lacks and the command that mends it, or is nil.
func cannotRun(err error) error {
	switch {
	case errors.Is(err, topology.ErrNoIptables):
		return fmt.Errorf("%w: apt-get install iptables", err)
	case errors.Is(err, live.ErrNoConntrack):
		return fmt.Errorf("%w: modprobe nf_conntrack", err)
	case errors.Is(err, syscall.EPERM):
		return fmt.Errorf("%w: run as root, with CAP_SYS_ADMIN and CAP_NET_ADMIN", err)
	}
	return nil
}
