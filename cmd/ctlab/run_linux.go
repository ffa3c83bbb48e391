package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"ctlab/internal/program"
	"ctlab/lab"
	"ctlab/lab/live"
	"ctlab/lab/play"
	"ctlab/topology"
)

// newWorld is the kernel's world, and the way to look into its nodes.
func newWorld(l *lab.Lab, backend string) (lab.World, func() []handle) {
	g := live.New(l)
	g.Backend = backend
	return play.New(l, g), func() []handle {
		enter := "sudo nsenter"
		if live.InUserNamespace() {
			enter = fmt.Sprintf("nsenter --preserve-credentials --user=/proc/%d/ns/user", os.Getpid())
		}
		var out []handle
		for _, n := range l.Nodes {
			command := "ip address"
			if n.Router {
				command = "conntrack -L"
			}
			out = append(out, handle{n.Name, fmt.Sprintf("%s --net=/proc/%d/fd/%d %s", enter, os.Getpid(), g.FD(n.Name), command)})
		}
		return out
	}
}

// able sees to it, before anything is built, that labs can be played here. An ordinary user may not make network
// namespaces, but may be root in a user namespace: there ctlab runs once more, with the same arguments, and able
// returns with what came of that.
func able() error {
	if live.Privileged() {
		return nil
	}
	code, err := inUserNamespace()
	if err != nil {
		return exit(exitCannotRun, fmt.Errorf("playing labs needs root, or a user namespace, which cannot be made here: %w: %s; ctlab predict needs neither", err, userNamespaceMend(err)))
	}
	return &exitError{code: code}
}

// inUserNamespace runs this program again in new user, network and mount namespaces, and returns its exit code.
// The kernel kills it when this process ends in whatever way: main is on the process's first thread, which lives as
// long as the process (see internal/netns).
func inUserNamespace() (int, error) {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, interrupts()...)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		var path *fs.PathError // it is not about the path
		if errors.As(err, &path) {
			err = path.Err
		}
		return 0, err
	}
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		for {
			select {
			case s := <-signals: // a terminal tells both; once too often does no harm
				_ = cmd.Process.Signal(s)
			case <-ended:
				return
			}
		}
	}()
	err := cmd.Wait()
	var ee *exec.ExitError
	if err != nil && !errors.As(err, &ee) {
		return 0, err
	}
	if code := cmd.ProcessState.ExitCode(); code >= 0 {
		return code, nil
	}
	if s, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && slices.Contains(interrupts(), os.Signal(s.Signal())) {
		return exitInterrupted, nil // before it could listen to signals, and so before it had made anything
	}
	fmt.Fprintln(os.Stderr, "ctlab: the process in the user namespace ended:", cmd.ProcessState)
	return exitBroken, nil
}

// userNamespaceMend is the command that lets an ordinary user make user namespaces, as far as is known why that was
// refused.
func userNamespaceMend(err error) string {
	for _, s := range []struct{ path, refuses, mend string }{
		{"/proc/sys/kernel/unprivileged_userns_clone", "0", "sudo sysctl kernel.unprivileged_userns_clone=1"}, // Debian's own
		{"/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1", "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0"},
		{"/proc/sys/user/max_user_namespaces", "0", "sudo sysctl user.max_user_namespaces=10000"}, // CentOS 7's default
	} {
		if b, err := os.ReadFile(s.path); err == nil && string(b) == s.refuses+"\n" {
			return s.mend
		}
	}
	if errors.Is(err, syscall.ENOSPC) {
		return "sudo sysctl user.max_user_namespaces=10000"
	}
	return "sudo " + strings.Join(os.Args, " ")
}

// absent says what a lab needs and is not here, such as programs, and what would mend that.
func absent(l *lab.Lab) string {
	var missing []string
	for _, name := range l.Needs.Programs {
		if _, err := program.Look(name, filepath.Dir(l.File)); err != nil {
			missing = append(missing, live.NotInstalled(name))
		}
	}
	if why := live.CannotFill(l); why != "" {
		missing = append(missing, why)
	}
	return strings.Join(missing, "; ")
}

// cannotRun names what this machine lacks and the command that mends it, or is nil. Its exit code is that of a machine
// that cannot run labs, or of a lab that is skipped for want of a feature.
func cannotRun(err error) *exitError {
	mend := ""
	var missing *live.MissingExtension
	switch {
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		mend = "ulimit -n 4096 (a lab needs some 20 descriptors, and 5 for each node)"
	case errors.As(err, &missing):
		return &exitError{exitSkipped, fmt.Errorf("%w: modprobe %s, or another iptables (ctlab doctor tries what there is)", err, missing.Module)}
	case errors.Is(err, live.ErrNoQueue):
		return &exitError{exitSkipped, fmt.Errorf("%w: modprobe -a nft_compat xt_NFQUEUE nfnetlink_queue", err)}
	case errors.Is(err, topology.ErrNoIptables):
		mend = "apt-get install iptables"
	case errors.Is(err, live.ErrNoRules):
		mend = "modprobe nf_tables nft_compat nf_nat, or ip_tables iptable_nat (ctlab doctor tries them)"
	case errors.Is(err, live.ErrNoConntrack) && live.InUserNamespace():
		mend = "sudo ctlab, or sudo modprobe nf_conntrack; older kernels hide these from user namespaces"
	case errors.Is(err, live.ErrNoConntrack):
		mend = "modprobe nf_conntrack"
	case errors.Is(err, syscall.ENOSPC): // of namespaces
		mend = "sysctl user.max_net_namespaces=1000"
	case errors.Is(err, syscall.EPERM), errors.Is(err, fs.ErrPermission):
		mend = "run as root, with CAP_SYS_ADMIN, CAP_NET_ADMIN and CAP_NET_RAW"
	default:
		return nil
	}
	return &exitError{exitCannotRun, fmt.Errorf("%w: %s", err, mend)}
}
