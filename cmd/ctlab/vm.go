package main

import (
	"time"

	"github.com/spf13/cobra"
)

// vmFlags are those of vm run. What is also one of run means the same, but for kernel: it is the guest's.
type vmFlags struct {
	kernel, model string
	variant       string
	iptables      string
	accel, qemu   string
	programs      []string
	profile       bool
	jobs          int
	cpus, memory  int
	boot, silence time.Duration
	out           outputs
	console       string
}

func newVM() *cobra.Command {
	c := &cobra.Command{
		Use:   "vm",
		Short: "play labs on another kernel, in a virtual machine",
	}
	c.AddCommand(newVMRun())
	return c
}

func newVMRun() *cobra.Command {
	var f vmFlags
	c := &cobra.Command{
		Use:   "run --kernel DIR|DEB LAB...",
		Short: "play labs on another kernel, in a QEMU guest",
		Long: `Boots a kernel in QEMU and plays labs on it, as ctlab run does; nothing is installed, and no root is needed. The
guest has this very program as its first process, the iptables programs of this machine, and the labs. What
comes back is what ctlab run prints there, and its exit code. Where QEMU fails, or the guest before it is up, it
is started again, at most twice, which is said; this never counts as a pass, nor does a guest whose kernel
complains in its log (exit 5).`,
		Example: `  apt-get download linux-image-6.1.0-56-cloud-amd64
  ctlab vm run --kernel linux-image-6.1.0-56-cloud-amd64_*.deb coredns-restart`,
		Args: arguments(1, 0, "lab"),
		RunE: func(cmd *cobra.Command, args []string) error { return vmRun(cmd, args, f) },
	}
	c.Flags().StringVar(&f.kernel, "kernel", "", "the guest's kernel: a Debian package, or the folder of an unpacked one")
	c.Flags().StringVar(&f.model, "model", "", "the model's kernel, such as 5.10 (default: found by probing)")
	c.Flags().StringVar(&f.variant, "variant", "", variantHelp)
	c.Flags().StringVar(&f.iptables, "iptables", "", iptablesHelp)
	c.Flags().StringVar(&f.accel, "accel", "auto", "auto, kvm or tcg (translated, works anywhere); auto: KVM if it works here")
	c.Flags().StringVar(&f.qemu, "qemu", "qemu-system-x86_64", "the QEMU program")
	c.Flags().StringArrayVar(&f.programs, "program", nil, "a program, or another file, that the guest is to have beside what labs say they need; may be given several times")
	c.Flags().BoolVar(&f.profile, "profile", false, "say where ctlab's own time went")
	c.Flags().IntVarP(&f.jobs, "jobs", "j", 1, "how many labs and variants are played at once")
	c.Flags().IntVar(&f.cpus, "cpus", 1, "processors of the guest; without KVM, only with one the guest's clock waits for a slow machine")
	c.Flags().IntVar(&f.memory, "memory", 384, "memory of the guest, MiB")
	c.Flags().DurationVar(&f.boot, "boot-timeout", 60*time.Second, "how long the guest may take until it is up")
	c.Flags().DurationVar(&f.silence, "silence", 60*time.Second, "how long the guest may say nothing after that; it says every second that it is alive")
	c.Flags().StringVar(&f.console, "console", "", "write what the guest's kernel says to this file")
	f.out.flags(c)
	return c
}
