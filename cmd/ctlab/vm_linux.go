package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"ctlab/internal/guest"
	"ctlab/internal/program"
	"ctlab/lab"
	"ctlab/labs"
	"ctlab/topology"
)

// firstProcess is what ctlab does as the first process of a guest, and does not return then.
func firstProcess() {
	if guest.IsInit() {
		guest.Init()
	}
}

// vmRun checks all that can be checked here, and then boots the guest.
func vmRun(cmd *cobra.Command, args []string, f vmFlags) error {
	if err := f.check(); err != nil {
		return err
	}
	_, all, err := prepared(cmd, args, f.variant, f.model, f.jobs)
	if err != nil {
		return err
	}
	f.programs = append(f.programs, needed(all)...)
	qemu, err := exec.LookPath(f.qemu)
	if err != nil {
		return exit(exitCannotRun, fmt.Errorf("%w: apt-get install qemu-system-x86", err))
	}
	if runtime.GOARCH != "amd64" {
		return exit(exitCannotRun, fmt.Errorf("guests are x86-64, this ctlab is %s", runtime.GOARCH))
	}
	if err := f.out.open(); err != nil {
		return exit(exitBadInput, err)
	}
	tell := func(what string) { fmt.Fprintln(cmd.ErrOrStderr(), "ctlab: vm:", escapeLines(what)) }
	m := guest.Machine{QEMU: qemu, Accel: guest.Accel(f.accel), CPUs: f.cpus, Memory: f.memory,
		BootTimeout: f.boot, Silence: f.silence, Progress: tell, Stderr: cmd.ErrOrStderr()}
	if f.console != "" {
		file, err := os.Create(f.console)
		if err != nil {
			return exit(exitBadInput, fmt.Errorf("--console: %w", err))
		}
		defer file.Close()
		m.Console = file
	}
	began := time.Now()
	release, err := f.load(cmd.Context(), &m, args)
	if err != nil {
		return err
	}
	defer m.Kernel.Close()
	defer m.Initrd.Close()
	tell(fmt.Sprintf("booting %s, packed in %.1f s", release, time.Since(began).Seconds()))
	r, err := m.Run(cmd.Context())
	return f.report(cmd, r, err, tell)
}

// needed are the programs that labs say they need, as far as they are here. A lab that lacks one is skipped in the guest.
func needed(all []*lab.Lab) (paths []string) {
	for _, l := range all {
		for _, name := range l.Needs.Programs {
			if path, err := program.Look(name, filepath.Dir(l.File)); err == nil && !slices.Contains(paths, path) {
				paths = append(paths, path)
			}
		}
	}
	return paths
}

func (f vmFlags) check() error {
	if f.kernel == "" {
		return exit(exitBadInput, errors.New("which kernel? --kernel takes a Debian package, or the folder of an unpacked one"))
	}
	if _, err := guest.ParseAccel(f.accel); err != nil {
		return exit(exitBadInput, fmt.Errorf("--accel %w", err))
	}
	if f.memory < 128 {
		return exit(exitBadInput, fmt.Errorf("--memory %d: MiB, at least 128", f.memory))
	}
	if f.boot <= 0 || f.silence <= 0 {
		return exit(exitBadInput, errors.New("--boot-timeout and --silence: more than 0"))
	}
	return errors.Join(checkIptables(f.iptables), atLeastOne("--cpus", f.cpus))
}

// load reads the kernel and makes the guest's root file system, both as files that have no name.
func (f vmFlags) load(ctx context.Context, m *guest.Machine, args []string) (release string, err error) {
	k, err := openKernel(ctx, f.kernel)
	if ctx.Err() != nil {
		return "", exit(exitInterrupted, errors.New("vm: interrupted"))
	}
	if err != nil {
		return "", exit(exitBadInput, fmt.Errorf("--kernel: %w", err))
	}
	image, err := f.image(ctx, k, args)
	if err != nil {
		return "", exit(exitCannotRun, err)
	}
	content, err := k.ReadImage()
	if err != nil {
		return "", exit(exitBadInput, err)
	}
	if m.Kernel, err = nameless("kernel"); err != nil {
		return "", exit(exitBroken, err)
	}
	if _, err := m.Kernel.Write(content); err != nil {
		return "", exit(exitBroken, err)
	}
	if m.Initrd, err = nameless("initramfs"); err != nil {
		return "", exit(exitBroken, err)
	}
	missing, err := image.Write(m.Initrd)
	if err != nil {
		return "", exit(exitCannotRun, err)
	}
	if len(missing) > 0 {
		m.Progress("not in this kernel: " + strings.Join(missing, " "))
	}
	return k.Release, nil
}

// nameless makes a file that is in no folder, and so gone with the last process that has it open.
func nameless(what string) (*os.File, error) {
	fd, err := unix.MemfdCreate(what, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	return os.NewFile(uintptr(fd), what), nil
}

// openKernel opens a kernel package, unpacked or not.
func openKernel(ctx context.Context, path string) (*guest.Kernel, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if fi.IsDir() {
		return guest.OpenKernel(path, os.DirFS(path))
	}
	files, err := guest.ReadPackage(ctx, path)
	if err != nil {
		return nil, err
	}
	return guest.OpenKernel(path, files)
}

// image is what the guest gets: this program, iptables in all its forms, what --program names, and the labs.
func (f vmFlags) image(ctx context.Context, k *guest.Kernel, args []string) (guest.Image, error) {
	self, err := os.Executable()
	if err != nil {
		return guest.Image{}, err
	}
	dir, err := os.Getwd()
	if err != nil || guest.Reserved(dir) {
		dir = "/"
	}
	image := guest.Image{Ctlab: self, Kernel: k, Programs: f.programs}
	for _, find := range []func(context.Context, string) iter.Seq2[topology.Iptables, error]{topology.FindIptables, topology.FindIP6tables} {
		for _, backend := range []string{"", topology.Nft, topology.Legacy} {
			for ipt, err := range find(ctx, backend) {
				if err == nil {
					image.Programs = append(image.Programs, ipt.Restore, ipt.Save)
				}
			}
		}
	}
	if len(image.Programs) == len(f.programs) {
		return image, fmt.Errorf("the guest gets this machine's iptables: %w: apt-get install iptables", topology.ErrNoIptables)
	}
	for _, name := range args {
		if !isFile(name) {
			continue // a bundled one
		}
		abs, err := filepath.Abs(name)
		if err != nil || guest.Reserved(abs) {
			return image, fmt.Errorf("%s: a lab of that path cannot be had in a guest: copy it elsewhere", name)
		}
		image.Labs = append(image.Labs, name)
	}
	image.Job = guest.Job{Dir: dir, Args: f.arguments(args), JUnit: f.out.junit != "", Trace: f.out.trace != ""}
	return image, nil
}

// arguments are those of ctlab in the guest.
func (f vmFlags) arguments(labs []string) []string {
	args := []string{"run", "--no-color", "-j", strconv.Itoa(f.jobs)}
	for _, o := range []struct{ flag, value string }{{"--variant", f.variant}, {"--kernel", f.model}, {"--iptables", f.iptables}} {
		if o.value != "" {
			args = append(args, o.flag, o.value)
		}
	}
	for _, o := range []struct {
		flag string
		on   bool
	}{{"--json", f.out.json}, {"--profile", f.profile}} {
		if o.on {
			args = append(args, o.flag)
		}
	}
	if f.out.junit != "" {
		args = append(args, "--junit", guest.JUnitFile)
	}
	if f.out.trace != "" {
		args = append(args, "--trace", guest.TraceFile)
	}
	return append(append(args, "--"), labs...)
}

// report gives out what came of the guest, and what is to be said of the guest itself.
func (f vmFlags) report(cmd *cobra.Command, r *guest.Result, err error, tell func(string)) error {
	_, notSaid := cmd.OutOrStdout().Write(r.Stdout)
	notSaid = errors.Join(notSaid, f.out.fill(r.JUnit, r.Trace))
	code := r.Exit
	for _, c := range r.Crashes {
		tell("the guest's kernel says: " + c)
		code = worse(code, exitBroken)
	}
	if n := len(r.Failures); n > 0 {
		tell(fmt.Sprintf("%d attempts before this one failed", n))
	}
	var infra *guest.Infra
	switch {
	case notSaid != nil:
		return exit(exitBroken, fmt.Errorf("write report: %w", notSaid))
	case cmd.Context().Err() != nil:
		return exit(exitInterrupted, errors.New("vm: interrupted"))
	case errors.As(err, &infra):
		for _, l := range infra.Console {
			tell("console: " + l)
		}
		return exit(exitBroken, err)
	case err != nil:
		return exit(exitCannotRun, err)
	case code < 0:
		return exit(exitBroken, nil) // its kernel broke, as was said
	}
	return exit(code, nil)
}

func isFile(arg string) bool {
	if strings.ContainsAny(arg, "/.") {
		return true
	}
	_, bundled := labs.Read(arg)
	return !bundled
}
