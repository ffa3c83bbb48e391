package fuzz

import (
	"errors"
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"ctlab/checks/model"
	"ctlab/checks/trace"
	"ctlab/lab"
	"ctlab/lab/live"
	"ctlab/lab/play"
	"ctlab/topology"
)

var packets = flag.Int("packets", 0, "how many `PACKETS` TestFuzzFreshSeed sends (default: 20000 in CI, else 2000)")

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() == 0 {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatal("needs root")
	}
	t.Skip("needs root")
}

// config is what ctlab fuzz plays by itself.
func config(t *testing.T, seed uint64) Config {
	t.Helper()
	needRoot(t)
	ipt, ip6t, err := live.Iptables(t.Context(), topology.Nft)
	if err != nil {
		t.Fatal(err)
	}
	before := runtime.GOMAXPROCS(8 * runtime.NumCPU()) // as ctlab fuzz does
	t.Cleanup(func() { runtime.GOMAXPROCS(before) })
	return Config{Seed: seed, PerScenario: 80, Workers: runtime.NumCPU(), SideBySide: 100, Only: -1, CTInfo: true, Ipt: ipt, IP6t: ip6t}
}

// Random traffic that nobody has seen before: the model accounts for all of it. What it does not account for is kept
// with the test's artifacts (go test -artifacts): as it was played, and made smaller.
func TestFuzzFreshSeed(t *testing.T) {
	seed := uint64(rand.Uint32())
	cfg := config(t, seed)
	t.Logf("seed %d", seed)
	least := *packets
	if least == 0 {
		if least = 2000; os.Getenv("CI") != "" {
			least = 20000
		}
	}
	cfg.Packets = least + least/3 // as there is not always somebody to answer
	cfg.Shrink = 1
	found := func(r *Result, name string) {
		if r.Report.Verdict() != trace.Different { // too many ways to settle what nobody sees, of packets that were held
			t.Logf("%s: %s: %s", name, r.Report.Verdict(), r.Says())
			return
		}
		t.Errorf("%s: %s: %s; ctlab fuzz --seed %d --only %d", name, r.Report.Verdict(), r.Says(), seed, r.Scenario.Number)
		keep(t, name, r.Trace)
	}
	cfg.Found = func(r Result) { found(&r, r.Trace.Lab) }
	cfg.Shrunk = func(f Find) {
		found(&f.Result, f.Trace.Lab+".small")
		t.Logf("%d of %d operations, seen in %d of %d replays:\n%s", len(f.Played), f.Before, f.Shown, f.Confirmed, f.Operations())
		if text, err := f.Lab(); err == nil {
			t.Logf("as a lab:\n%s", text)
		}
	}
	totals, err := Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if totals.Inconclusive*20 > totals.Scenarios {
		t.Errorf("%d of %d scenarios say nothing", totals.Inconclusive, totals.Scenarios)
	}
	if totals.Packets < least {
		t.Errorf("%d packets, want at least %d", totals.Packets, least)
	}
	t.Logf("%d packets; %s; %s", totals.Packets, trace.Report{Reads: totals.Reads, Fields: totals.Fields, Free: totals.Free}.Summary(), totals.Took)
}

func keep(t *testing.T, name string, tr trace.Trace) {
	t.Helper()
	path := filepath.Join(t.ArtifactDir(), name+".trace")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(trace.Write(f, tr), f.Close()); err != nil {
		t.Fatal(err)
	}
	t.Logf("kept %s", path)
}

// A model that is wrong on purpose: what is found is made smaller, and as a lab it shows the same, to the same model.
func TestWhatIsFoundIsALab(t *testing.T) {
	cfg := config(t, 7)
	wrong, err := model.ProfileFor("5.10") // it sets ASSURED at once
	if err != nil {
		t.Fatal(err)
	}
	cfg.Packets, cfg.Model, cfg.Shrink = 160, &wrong, 1
	var found []Result
	var small []Find
	cfg.Found = func(r Result) { found = append(found, r) }
	cfg.Shrunk = func(f Find) { small = append(small, f) }
	cfg.Workers = 1 // so that no two are found at once
	if _, err := Run(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	if len(found) == 0 || len(small) != 1 {
		t.Fatalf("%d finds, %d made smaller", len(found), len(small))
	}
	f := small[0]
	if f.kind() != f.From.kind() || len(f.Played) == 0 || len(f.Played) > 4 || f.Shown == 0 {
		t.Errorf("%d operations of %d, seen in %d of %d: %s", len(f.Played), f.Before, f.Shown, f.Confirmed, f.Says())
	}
	text, err := f.Lab()
	if err != nil {
		t.Fatal(err)
	}
	l, err := lab.Load("find.yaml", []byte(text), "")
	if err != nil {
		t.Fatal(err)
	}
	field := f.Report.Differences[0].Field
	r := lab.Run(t.Context(), l, play.New(l, live.New(l)), lab.Options{Profile: &wrong})
	shown := slices.ContainsFunc(r.Comparisons, func(c trace.Report) bool {
		return slices.ContainsFunc(c.Differences, func(d trace.Difference) bool { return d.Field == field })
	})
	if r.Verdict() != lab.Fail || !shown {
		t.Errorf("%s, %s; it was %s\n%s", r.Verdict(), r.Problem(), f.Says(), text)
	}
	if r := lab.Run(t.Context(), l, play.New(l, live.New(l)), lab.Options{}); r.Verdict() != lab.Pass {
		t.Errorf("with the right model: %s, %s\n%s", r.Verdict(), r.Problem(), text)
	}
}
