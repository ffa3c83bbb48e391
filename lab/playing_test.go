package lab_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"ctlab/checks/trace"
	"ctlab/lab"
)

// script is a lab with steps of its own.
func script(t *testing.T, steps ...string) *lab.Lab {
	t.Helper()
	src := `lab: x
model: {skip: a fake world has no kernel}
nodes: {node: {kind: router}, app: {address: 10.0.1.2/24}, pod-1: {address: 10.0.2.2/24}}
services: {dns: {vip: 10.96.0.10, ports: 53/udp, backends: pod-1}}
clients: {app: {dns: {server: dns}}}
steps:
  - ` + strings.Join(steps, "\n  - ") + "\n"
	l, err := lab.Load("x.yaml", []byte(src), "")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func run(l *lab.Lab, f *fake) *lab.Result {
	return lab.Run(context.Background(), l, f, lab.Options{})
}

// A want within a time is looked for every 100 ms and ends the step when it is met.
func TestWithin(t *testing.T) {
	with, without := snapshots(t)
	for _, c := range []struct {
		name    string
		looks   [][]lab.Snapshot
		looked  int
		ended   time.Duration
		verdict lab.Verdict
	}{
		{"at once", nil, 0, 100 * ms, lab.Pass},
		{"later", [][]lab.Snapshot{without, without, with, without}, 3, 400 * ms, lab.Pass},
		{"never", [][]lab.Snapshot{without}, 4, 450 * ms, lab.Fail},
	} {
		f := world(t)
		f.snaps, f.looks = without, c.looks
		if c.looks == nil {
			f.snaps = with
		}
		r := run(script(t, "{check: node, within: 350ms, want: {stale: 1}}"), f)
		s := r.Steps[0]
		if len(f.looked) != c.looked || s.Outcome.Ended != c.ended || r.Verdict() != c.verdict || len(s.Wants) != 1 {
			t.Errorf("%s: looked at %v, ended %s, %s, %+v", c.name, f.looked, s.Outcome.Ended, r.Verdict(), s.Wants)
		}
	}
}

// Wants that must become true do so at one moment: two of which each was true once are not met.
func TestWithinOneMoment(t *testing.T) {
	with, without := snapshots(t)
	f := world(t)
	f.snaps, f.looks = with, [][]lab.Snapshot{without, with, without}
	if r := run(script(t, "{check: node, within: 300ms, want: {stale: 1, table: empty}}"), f); r.Verdict() != lab.Fail {
		t.Errorf("%s", r.Verdict())
	}
}

// A want that must hold always is judged at every look; the first look that misses it ends the step.
func TestAlways(t *testing.T) {
	with, without := snapshots(t)
	for _, c := range []struct {
		name    string
		looks   [][]lab.Snapshot
		ended   time.Duration
		verdict lab.Verdict
	}{
		{"it holds", nil, 450 * ms, lab.Pass},
		{"once it does not", [][]lab.Snapshot{with, without, with}, 300 * ms, lab.Fail},
		{"not at first", [][]lab.Snapshot{with}, 100 * ms, lab.Fail},
	} {
		f := world(t)
		f.snaps, f.looks = with, c.looks
		if c.name == "not at first" {
			f.snaps = without
		}
		r := run(script(t, "{check: node, always: 350ms, want: {stale: 1}}"), f)
		if s := r.Steps[0]; s.Outcome.Ended != c.ended || r.Verdict() != c.verdict {
			t.Errorf("%s: looked at %v, ended %s, %s", c.name, f.looked, s.Outcome.Ended, r.Verdict())
		}
	}
}

// A step that takes longer than its deadline ends the run, on virtual time as well.
func TestDeadline(t *testing.T) {
	for _, simulated := range []bool{false, true} {
		for deadline, broken := range map[string]bool{"100ms": false, "99ms": true} {
			f := world(t)
			f.setting.Simulated = simulated
			r := run(script(t, "{query: app, deadline: "+deadline+"}"), f)
			if (r.Err != nil) != broken || broken && !strings.Contains(r.Err.Error(), "x.yaml:7:5: step 1 (query app): deadline exceeded: it may take 99ms") {
				t.Errorf("deadline %s, simulated %t: %v", deadline, simulated, r.Err)
			}
		}
	}
}

// blocked is a world whose steps end only when they are interrupted.
type blocked struct{ *fake }

func (b blocked) Do(ctx context.Context, _ *lab.Step) (lab.Outcome, error) {
	<-ctx.Done()
	return lab.Outcome{}, fmt.Errorf("waiting: %w", ctx.Err())
}

func TestDeadlineInterrupts(t *testing.T) {
	r := lab.Run(context.Background(), script(t, "{query: app, deadline: 1ms}"), blocked{world(t)}, lab.Options{})
	if r.Err == nil || !strings.Contains(r.Err.Error(), "deadline exceeded: it may take 1ms") || r.Verdict() != lab.Broken {
		t.Errorf("%v, %s", r.Err, r.Verdict())
	}
}

// Repetitions begin at the pace of every, or when the one before has ended if that is later. A step that
// begins after its time is late.
func TestBegins(t *testing.T) {
	for _, c := range []struct {
		name  string
		steps []string
		slow  time.Duration
		delay time.Duration
		begun []time.Duration
		late  []time.Duration
	}{
		{"repetitions", []string{"{query: app, for: {round: 1..3}, every: 1s, after: 200ms}"}, 0, 0, []time.Duration{200 * ms, 1200 * ms, 2200 * ms}, nil},
		{"slow ones", []string{"{query: app, for: {round: 1..3}, every: 50ms}"}, 0, 0, []time.Duration{0, 100 * ms, 200 * ms}, []time.Duration{0, 50 * ms, 50 * ms}},
		{"without every", []string{"{query: app, for: {round: 1..2}, after: 300ms}"}, 0, 0, []time.Duration{300 * ms, 700 * ms}, nil},
		{"at", []string{"{query: app}", "{query: app, at: 2s}", "{query: app}"}, 0, 0, []time.Duration{0, 2000 * ms, 2100 * ms}, nil},
		{"late at", []string{"{query: app}", "{query: app, at: 2s}"}, 3000 * ms, 0, []time.Duration{0, 3000 * ms}, []time.Duration{0, 1000 * ms}},
		{"a little late", []string{"{query: app}", "{query: app, after: 1s}"}, 0, 20 * ms, []time.Duration{20 * ms, 1140 * ms}, nil},
		{"too late", []string{"{query: app}", "{query: app, after: 1s}"}, 0, 21 * ms, []time.Duration{21 * ms, 1142 * ms}, []time.Duration{21 * ms, 21 * ms}},
	} {
		f := world(t)
		f.slow, f.delay = c.slow, c.delay
		r := run(script(t, c.steps...), f)
		if !slices.Equal(f.begun, c.begun) {
			t.Errorf("%s: begun at %v, want %v", c.name, f.begun, c.begun)
		}
		late := make([]time.Duration, len(r.Steps))
		for i, s := range r.Steps {
			late[i] = s.Late
		}
		if want := append(slices.Clone(c.late), make([]time.Duration, len(late)-len(c.late))...); !slices.Equal(late, want) {
			t.Errorf("%s: late by %v, want %v", c.name, late, want)
		}
	}
}

// A step that a world cannot play is not judged, and leaves the run unclear: also what is missed behind it, as the step
// might have made it come true. What was missed before has failed.
func TestNotPlayed(t *testing.T) {
	const odd = "{name: odd, exec: [true], want: {exit: 1}}"
	for _, c := range []struct {
		steps []string
		want  lab.Verdict
	}{
		{[]string{odd, "{query: app, want: {sent: 0}}"}, lab.Unclear},
		{[]string{odd, "{query: app, want: {sent: 1}}"}, lab.Unclear},
		{[]string{"{query: app, want: {sent: 1}}", odd}, lab.Fail},
		{[]string{"{query: app, want: {sent: 0}}", odd}, lab.Unclear},
	} {
		f := world(t)
		f.notAt = "odd"
		r := run(script(t, c.steps...), f)
		if r.Verdict() != c.want {
			t.Errorf("%q: %s, want %s", c.steps, r.Verdict(), c.want)
		}
		for _, s := range r.Steps {
			if s.Step.Name == "odd" && len(s.Wants) != 0 {
				t.Errorf("%q: judged: %+v", c.steps, s.Wants)
			}
		}
	}
}

// A difference from the model decides a run on a kernel, and says nothing of a simulated one.
func TestSimulated(t *testing.T) {
	l := script(t, "{query: app}")
	l.SkipModel = ""
	different := trace.Report{Differences: []trace.Difference{{}}}
	for simulated, verdict := range map[bool]lab.Verdict{false: lab.Fail, true: lab.Pass} {
		r := run(l, world(t))
		r.Setting.Simulated = simulated
		r.Comparisons = []trace.Report{different}
		if r.Verdict() != verdict {
			t.Errorf("simulated %t: %s, want %s", simulated, r.Verdict(), verdict)
		}
	}
}
