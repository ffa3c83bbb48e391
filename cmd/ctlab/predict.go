package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"ctlab/checks/model"
	"ctlab/lab"
	"ctlab/lab/play"
	"ctlab/lab/report"
	"ctlab/lab/sim"
)

type predictFlags struct {
	variant, kernel string
	seed            uint64
	jobs            int
	out             outputs
}

func newPredict() *cobra.Command {
	var f predictFlags
	c := &cobra.Command{
		Use:   "predict LAB...",
		Short: "play labs in a simulated network: no privileges, no waiting, any system",
		Long: `Plays labs in a simulated network on virtual time. Nothing is asked of a kernel, so nothing is compared with
one: the lab's wants are judged, and what comes near a boundary is said. What a kernel is free to choose
(random backends and ports) is drawn from --seed. LAB is a file, or the name of a bundled lab.`,
		Args: arguments(1, 0, "lab"),
		RunE: func(cmd *cobra.Command, args []string) error { return predictLabs(cmd, args, f) },
	}
	c.Flags().StringVar(&f.variant, "variant", "", variantHelp)
	c.Flags().StringVar(&f.kernel, "kernel", "", kernelHelp)
	c.Flags().Uint64Var(&f.seed, "seed", firstSeed, seedHelp)
	c.Flags().IntVarP(&f.jobs, "jobs", "j", 1, "how many labs and variants are played at once")
	f.out.flags(c)
	return c
}

// What commands that predict say of their flags.
const (
	kernelHelp = "the kernel that is simulated, such as 5.10 (default: the newest that the model knows)"
	seedHelp   = "decides what a kernel is free to choose"
)

// firstSeed is the seed of predictions that are asked for none.
const firstSeed = 1

func predictLabs(cmd *cobra.Command, args []string, f predictFlags) error {
	profile, labs, err := prepared(cmd, args, f.variant, f.kernel, f.jobs)
	if err != nil {
		return err
	}
	if err := f.out.open(); err != nil {
		return exit(exitBadInput, err)
	}
	all, err := predicted(cmd, profile, f.seed).playAll(cmd.Context(), labs, f.jobs, func(r *lab.Result) error {
		return f.out.write(cmd, r, report.Options{Color: useColor(cmd)})
	})
	if err != nil {
		return err
	}
	return f.out.finish(cmd, all)
}

// predicted plays labs in the simulated network. It takes milliseconds, so nobody is told of its progress.
func predicted(cmd *cobra.Command, profile *model.Profile, seed uint64) *player {
	p := newPlayer(cmd.ErrOrStderr())
	p.play = func(ctx context.Context, l *lab.Lab, _ lab.Progress) *lab.Result {
		return lab.Run(ctx, l, simulated(l, profile, seed), lab.Options{Profile: profile})
	}
	return p
}

func simulated(l *lab.Lab, profile *model.Profile, seed uint64) lab.World {
	g := sim.New(l, seed)
	if profile != nil {
		g.Profile = *profile
	}
	return play.New(l, g)
}

// unrecorded is a world whose traces nobody wants: there is nothing to replay.
type unrecorded struct{ lab.World }

func (w unrecorded) Close(ctx context.Context) (lab.Evidence, error) {
	ev, err := w.World.Close(ctx)
	ev.Traces = nil
	return ev, err
}

// foresee predicts a lab and warns of what comes near a boundary: a run may see it on the other side.
// The error is a step that cannot be played.
func foresee(ctx context.Context, l *lab.Lab, warn func(*lab.Lab, string)) ([]lab.Margin, error) {
	r := lab.Run(ctx, l, unrecorded{simulated(l, nil, firstSeed)}, lab.Options{})
	if err := errors.Join(r.Err, r.CloseErr); err != nil {
		return nil, err
	}
	for _, line := range report.Margins(r) {
		warn(l, line)
	}
	return r.Evidence.Margins, nil
}
