package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"ctlab/checks/model"
	"ctlab/lab"
	"ctlab/lab/report"
)

type runFlags struct {
	variant, kernel string
	iptables        string
	keep, profile   bool
	jobs            int
	out             outputs
}

func newRun() *cobra.Command {
	var f runFlags
	c := &cobra.Command{
		Use:   "run LAB...",
		Short: "play labs on this kernel, with the model compared",
		Long: `Plays labs on this kernel, in network namespaces of its own; nothing is made in the caller's. LAB is a
file, or the name of a bundled lab (see ctlab labs). As root, or as an ordinary user in a user namespace.`,
		Args: arguments(1, 0, "lab"),
		RunE: func(cmd *cobra.Command, args []string) error { return runLabs(cmd, args, f) },
	}
	c.Flags().StringVar(&f.variant, "variant", "", variantHelp)
	c.Flags().StringVar(&f.kernel, "kernel", "", "the model's kernel, such as 5.10 (default: found by probing)")
	c.Flags().StringVar(&f.iptables, "iptables", "", iptablesHelp)
	c.Flags().BoolVar(&f.keep, "keep", false, "after the last step report the steps, and keep the network until Ctrl-C, to look around; then comes the verdict")
	c.Flags().BoolVar(&f.profile, "profile", false, "say where ctlab's own time went")
	c.Flags().IntVarP(&f.jobs, "jobs", "j", 1, "how many labs and variants are played at once")
	f.out.flags(c)
	return c
}

const iptablesHelp = "the back end of iptables: nft or legacy (default: the machine's, if this kernel takes its rules)"

// checkIptables refuses a value of --iptables.
func checkIptables(backend string) error {
	if backend == "" || backend == "nft" || backend == "legacy" {
		return nil
	}
	return exit(exitBadInput, fmt.Errorf("--iptables %q: there are nft and legacy", backend))
}

const variantHelp = "play this variant of the lab; all: the lab and each of its variants"

// runLabs reads every lab before it plays the first one.
func runLabs(cmd *cobra.Command, args []string, f runFlags) error {
	if f.keep && f.jobs > 1 {
		return exit(exitBadInput, errors.New("--keep and -j: only one network can be looked at"))
	}
	if err := checkIptables(f.iptables); err != nil {
		return err
	}
	profile, labs, err := prepared(cmd, args, f.variant, f.kernel, f.jobs)
	if err != nil {
		return err
	}
	if err := able(); err != nil {
		return err
	}
	if err := f.out.open(); err != nil {
		return exit(exitBadInput, err)
	}
	opt := report.Options{Color: useColor(cmd), Profile: f.profile}
	var steps func(*lab.Result) error
	if f.keep {
		steps = func(r *lab.Result) error { return f.out.writeSteps(cmd, r, opt) }
	}
	all, err := onKernel(cmd, profile, f.iptables, steps).playAll(cmd.Context(), labs, f.jobs, func(r *lab.Result) error {
		return f.out.write(cmd, r, opt)
	})
	if err != nil {
		return err
	}
	return f.out.finish(cmd, all)
}

// prepared is what every command that plays labs begins with: the profile of --kernel, and the labs.
func prepared(cmd *cobra.Command, args []string, variant, kernel string, jobs int) (*model.Profile, []*lab.Lab, error) {
	if err := atLeastOne("-j", jobs); err != nil {
		return nil, nil, err
	}
	profile, err := namedProfile(kernel)
	if err != nil {
		return nil, nil, exit(exitBadInput, err)
	}
	all, err := loadAll(args, variant)
	if err != nil {
		return nil, nil, badInput(cmd.ErrOrStderr(), err)
	}
	for _, w := range warnings(all) {
		fmt.Fprintln(cmd.ErrOrStderr(), "ctlab: warning:", w)
	}
	return profile, all, nil
}

// onKernel plays labs on this kernel, with a back end of iptables or the one that works. What comes near a boundary is
// said before. With steps, which reports the steps of a run, the network is kept after that until Ctrl-C.
func onKernel(cmd *cobra.Command, profile *model.Profile, backend string, steps func(*lab.Result) error) *player {
	p := newPlayer(cmd.ErrOrStderr())
	p.play = func(ctx context.Context, l *lab.Lab, say lab.Progress) *lab.Result {
		if why := absent(l); why != "" {
			return &lab.Result{Lab: l, Skipped: why}
		}
		margins, err := foresee(ctx, l, p.warn)
		if err != nil && ctx.Err() == nil {
			p.warn(l, fmt.Sprintf("what comes near a boundary is not known: predict: %v", err))
		}
		opt := lab.Options{Profile: profile, Progress: say}
		w, handles := newWorld(l, backend)
		var notSaid error
		if steps != nil {
			opt.Keep = func(ctx context.Context, r *lab.Result) {
				r.Evidence.Margins = margins
				p.done()
				if notSaid = steps(r); notSaid == nil {
					keep(ctx, cmd.ErrOrStderr(), handles())
				}
			}
		}
		r := lab.Run(ctx, l, w, opt)
		r.Evidence.Margins = margins
		r.CloseErr = errors.Join(r.CloseErr, notSaid)
		return r
	}
	return p
}

// keep says how to look into the nodes, and waits for Ctrl-C.
func keep(ctx context.Context, stderr io.Writer, handles []handle) {
	fmt.Fprintln(stderr, "\nthe network stands until Ctrl-C, after which comes the verdict; look into a node with:")
	for _, h := range handles {
		fmt.Fprintf(stderr, "  %-12s $ %s\n", h.node, h.command)
	}
	<-ctx.Done()
}

// handle is a node and the command that looks into it.
type handle struct{ node, command string }
