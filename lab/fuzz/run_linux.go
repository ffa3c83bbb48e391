package fuzz

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"ctlab/checks/model"
	"ctlab/checks/observe"
	"ctlab/checks/trace"
	"ctlab/topology"
)

// Config says what to play.
type Config struct {
	Seed        uint64
	Packets     int           // how many packets in all; 0: no limit
	PerScenario int           // how many packets a scenario has
	For         time.Duration // how long; 0: no limit
	Workers     int           // how many processors play
	SideBySide  int           // how many namespaces each of them has at once
	Only        int           // play the one scenario with this number; -1: all
	CTInfo      bool          // look at what conntrack attaches to each packet
	Ipt         topology.Iptables
	IP6t        topology.Iptables // of the same back end
	Progress    func(Totals)      // called now and then
	Found       func(Result)      // called for each scenario in which kernel and model differ, or that says nothing
	Played      func(Result)      // called for each scenario

	Model     *model.Profile  // in place of the one for this kernel
	Shrink    int             // how many finds are made smaller when all is played
	Shrinking func(Shrinking) // called now and then meanwhile
	Shrunk    func(Find)      // called for each of them
}

// Totals is what was done so far.
type Totals struct {
	Scenarios, Packets       int
	Reads, Fields            int
	Different, Inconclusive  int
	Free                     map[model.ChoiceKind]int
	Took, Playing, Replaying time.Duration
}

// run is one run of the fuzzer.
type run struct {
	cfg     Config
	profile model.Profile
	hz      int64
	release string
	bpf     *observe.BPF
	began   time.Time
	number  atomic.Int64
	sent    atomic.Int64
	mu      sync.Mutex
	totals  Totals
	finds   finds
	errs    []error
}

// Run plays scenarios until there is enough, or ctx is done.
func Run(ctx context.Context, cfg Config) (Totals, error) {
	r := &run{cfg: cfg, began: time.Now(), totals: Totals{Free: map[model.ChoiceKind]int{}}}
	if err := r.prepare(); err != nil {
		return r.totals, err
	}
	r.playAll(ctx)
	r.shrinkAll(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.totals, errors.Join(r.errs...)
}

// playAll plays scenarios until there is enough.
func (r *run) playAll(ctx context.Context) {
	cfg := r.cfg
	if cfg.For > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, cfg.For)
		defer cancel()
	}
	// Who is judged while others play: as many at once as there are processors.
	judging := make(chan *arena, cfg.Workers*cfg.SideBySide)
	var judges, workers sync.WaitGroup
	for range max(1, runtime.NumCPU()) {
		judges.Go(func() {
			for a := range judging {
				r.judge(a)
			}
		})
	}
	for cpu := range cfg.Workers {
		workers.Go(func() {
			if err := r.work(ctx, cpu, r.next, func(a *arena) { judging <- a }); err != nil && !errors.Is(err, ctx.Err()) {
				r.fail(err)
			}
		})
	}
	stop := make(chan struct{})
	go r.tell(stop)
	workers.Wait()
	close(judging)
	judges.Wait()
	close(stop)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.totals.Took = time.Since(r.began)
}

func (r *run) prepare() error {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return fmt.Errorf("find the kernel's release: %w", err)
	}
	r.release = unix.ByteSliceToString(u.Release[:])
	var err error
	if r.profile, err = model.ProfileFor(r.release); err != nil {
		return err
	}
	length, err := observe.TickLength()
	if err != nil {
		return err
	}
	r.hz = int64(time.Second / length)
	if r.cfg.CTInfo {
		r.bpf, err = observe.OpenBPF()
	}
	return err
}

// tell reports progress every second.
func (r *run) tell(stop <-chan struct{}) {
	if r.cfg.Progress == nil {
		return
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
			r.mu.Lock()
			t := r.totals
			t.Took = time.Since(r.began)
			r.mu.Unlock()
			r.cfg.Progress(t)
		}
	}
}

func (r *run) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.errs) < 10 {
		r.errs = append(r.errs, err)
	}
}

// next is the next scenario to play.
func (r *run) next() *Scenario {
	n := int(r.number.Add(1)) - 1
	if r.cfg.Only >= 0 {
		if n > 0 {
			return nil
		}
		return Generate(r.cfg.Seed, r.cfg.Only, r.cfg.PerScenario)
	}
	if r.cfg.Packets > 0 && r.sent.Add(int64(r.cfg.PerScenario)) > int64(r.cfg.Packets+r.cfg.PerScenario-1) {
		return nil
	}
	return Generate(r.cfg.Seed, n, r.cfg.PerScenario)
}

func (r *run) work(ctx context.Context, cpu int, next func() *Scenario, done func(*arena)) error {
	ticks, err := observe.OpenTickCounter()
	if err != nil {
		return err
	}
	o, err := newOutside(fmt.Sprintf("outside-%d", cpu))
	if err != nil {
		return errors.Join(err, ticks.Close())
	}
	w := &worker{cpu: cpu, outside: o, ticks: ticks, bpf: r.bpf, ipt: r.cfg.Ipt, ip6t: r.cfg.IP6t, done: done}
	return errors.Join(w.run(ctx, r.cfg.SideBySide, next), o.Close(), ticks.Close())
}

// judge replays what was seen, and lets the arena go.
func (r *run) judge(a *arena) {
	err := a.Close()
	if a.err != nil && !errors.Is(a.err, context.Canceled) && !errors.Is(a.err, context.DeadlineExceeded) {
		err = errors.Join(a.err, err)
	}
	if err != nil {
		r.fail(err)
	}
	if a.err != nil {
		return
	}
	began := time.Now()
	res := r.result(a)
	r.count(res, time.Since(began))
	if r.cfg.Played != nil {
		r.cfg.Played(res)
	}
	if res.Report.Verdict() != trace.Same {
		r.found(res)
	}
}

// result is what the replay of an arena's trace says.
func (r *run) result(a *arena) Result {
	h := trace.Header{Lab: a.s.Name(), Node: "node", Kernel: r.release, Profile: r.profile.Name, Assured: r.profile.Assured,
		Legacy: r.cfg.Ipt.Backend() == topology.Legacy, HZ: r.hz}
	res := Result{Scenario: a.s, Played: a.played, Trace: trace.Trace{Header: h, Records: a.records}}
	profile := r.profile
	if r.cfg.Model != nil {
		profile = *r.cfg.Model
	}
	profile.Legacy = h.Legacy
	res.Report = trace.Replay(res.Trace, profile)
	return res
}

func (r *run) found(res Result) {
	if r.cfg.Found != nil {
		r.cfg.Found(res)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.finds.add(res)
}

func (r *run) count(res Result, took time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := &r.totals
	t.Scenarios++
	t.Packets += len(res.Report.Packets)
	t.Reads += res.Report.Reads
	t.Fields += res.Report.Fields
	t.Replaying += took
	switch res.Report.Verdict() {
	case trace.Different:
		t.Different++
	case trace.Inconclusive:
		t.Inconclusive++
	}
	free := map[model.ChoiceKind]int{} // a new one: a progress report may hold the last
	for k, n := range t.Free {
		free[k] = n
	}
	for k, n := range res.Report.Free {
		free[k] += n
	}
	t.Free = free
}
