package lab_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"ctlab/checks/conntrack"
	"ctlab/lab"
)

// fake is a World in which every client's query has a prepared result, and time stands where it is waited
// to.
type fake struct {
	now     time.Duration
	results map[string][]lab.Attempt // by step name
	deleted map[string][]lab.Deleted
	program *lab.Program
	ran     map[string][]lab.Program // by the step's name
	snaps   []lab.Snapshot
	looks   [][]lab.Snapshot // what further looks show; the last one stays
	setting lab.Setting
	failAt  string
	notAt   string        // a step that cannot be played
	slow    time.Duration // what a step takes; 0: 100 ms
	delay   time.Duration // how late each wait ends
	closed  int
	begun   []time.Duration
	looked  []time.Duration
}

func (f *fake) Build(context.Context) (lab.Setting, error) { return f.setting, nil }
func (f *fake) Now() time.Duration                         { return f.now }
func (f *fake) WaitUntil(ctx context.Context, at time.Duration) error {
	f.now = max(f.now, at+f.delay)
	return ctx.Err()
}
func (f *fake) Do(_ context.Context, s *lab.Step) (lab.Outcome, error) {
	f.begun = append(f.begun, f.now)
	out := lab.Outcome{Began: f.now, Attempts: f.results[s.Name]}
	if s.Kind == lab.Check {
		out.Snapshots = f.snaps
	}
	out.Deleted = f.deleted[s.Name]
	if s.Kind == lab.Exec && f.program != nil {
		out.Programs = []lab.Program{*f.program}
	}
	out.Programs = append(out.Programs, f.ran[s.Name]...)
	if f.notAt != "" && s.Name == f.notAt {
		out.NotPlayed = "this world has no programs"
	}
	f.now += max(f.slow, 100*time.Millisecond)
	out.Ended = f.now
	if f.failAt != "" && s.Name == f.failAt {
		return out, errors.New("the link is gone")
	}
	return out, nil
}
func (f *fake) Look(_ context.Context, _ *lab.Step, out *lab.Outcome) error {
	f.looked = append(f.looked, f.now)
	if len(f.looks) > 0 {
		f.snaps, f.looks = f.looks[0], f.looks[1:]
	}
	out.Snapshots = f.snaps
	return nil
}
func (f *fake) Close(context.Context) (lab.Evidence, error) {
	f.closed++
	return lab.Evidence{}, nil
}

func load(t *testing.T, want, check string) *lab.Lab {
	t.Helper()
	src := `lab: x
model: {skip: a fake world has no kernel}
nodes: {node: {kind: router}, app: {address: 10.0.1.2/24}, pod-1: {address: 10.0.2.2/24}, pod-2: {address: 10.0.3.2/24}}
services: {dns: {vip: 10.96.0.10, ports: 53/udp, backends: pod-1}}
servers: {s: {on: pod-1, dns: {}}}
clients: {app: {control: true, dns: {server: dns}}}
steps:
  - {name: ask, query: app, count: 3, every: 1s, want: ` + want + `}
  - {name: look, check: node, after: 2s, want: ` + check + `}
`
	l, err := lab.Load("x.yaml", []byte(src), "")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func world(t *testing.T) *fake {
	t.Helper()
	e, err := conntrack.ParseEntry("udp 10.0.1.2:40000 > 10.96.0.10:53 | 10.0.2.2:53 > 10.0.1.2:40000 status seen-reply,assured,confirmed,dnat,snat-done,dnat-done timeout 5s packets 3/2 bytes 1/1")
	if err != nil {
		t.Fatal(err)
	}
	return &fake{
		setting: lab.Setting{Kernel: "fake"},
		results: map[string][]lab.Attempt{"ask": {
			{Class: lab.Answered, By: "pod-1"}, {Class: lab.Answered, By: "pod-1"}, {Class: lab.Timeout},
			{Class: lab.Answered, By: "pod-2", Control: true},
		}},
		snaps: []lab.Snapshot{{Node: "node", Entries: []lab.Seen{{Entry: e, Stale: true, Age: time.Second}},
			Hits:  map[string]uint64{"dns/pod-1": 1, "dns/reject": 4, "policy.1": 2, "policy.2": 3},
			Stats: map[string]uint32{"invalid": 7}, Since: map[string]uint32{"invalid": 2, "found": 0},
			Events: []conntrack.Event{{Kind: conntrack.New, Entry: e}, {Kind: conntrack.Update, Entry: e}}}},
	}
}

// "after" counts from the end of the step before.
func TestTimes(t *testing.T) {
	w := world(t)
	lab.Run(context.Background(), load(t, "{sent: 3}", "{stale: 1}"), w, lab.Options{})
	if len(w.begun) != 2 || w.begun[0] != 0 || w.begun[1] != 2100*time.Millisecond {
		t.Errorf("steps began at %v", w.begun)
	}
}

// Whatever happens, the world is closed once, and the steps until then are in the result.
func TestClosedAlways(t *testing.T) {
	w := world(t)
	w.failAt = "ask"
	r := lab.Run(context.Background(), load(t, "{sent: 3}", "{stale: 1}"), w, lab.Options{})
	if w.closed != 1 || r.Verdict() != lab.Broken || len(r.Steps) != 1 || !strings.Contains(r.Err.Error(), "x.yaml:8:5: step 1 (query app 3x): the link is gone") {
		t.Errorf("closed %d, %s, %d steps, %v", w.closed, r.Verdict(), len(r.Steps), r.Err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	w = world(t)
	if r := lab.Run(ctx, load(t, "{sent: 3}", "{stale: 1}"), w, lab.Options{}); w.closed != 1 || r.Verdict() != lab.Interrupted {
		t.Errorf("interrupted: closed %d, %s", w.closed, r.Verdict())
	}
}

// An error weighs more than lost evidence, and an interrupt more than both.
func TestVerdictOfErrors(t *testing.T) {
	lost := fmt.Errorf("table of node: dump interrupted: %w", lab.ErrEvidenceLost)
	broken := errors.New("the link is gone")
	for _, c := range []struct {
		name            string
		err, atTheClose error
		want            lab.Verdict
	}{
		{"nothing", nil, nil, lab.Pass},
		{"lost in a step", fmt.Errorf("step 3: %w", lost), nil, lab.Unclear},
		{"lost at the end", nil, errors.Join(nil, lost), lab.Unclear},
		{"lost twice", lost, errors.Join(lost, lost), lab.Unclear},
		{"broken", broken, nil, lab.Broken},
		{"lost, and broken at the end", lost, broken, lab.Broken},
		{"both at the end", nil, errors.Join(lost, fmt.Errorf("close: %w", broken)), lab.Broken},
		{"interrupted and lost", context.Canceled, lost, lab.Interrupted},
	} {
		r := lab.Result{Lab: &lab.Lab{}, Err: c.err, CloseErr: c.atTheClose}
		if got := r.Verdict(); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}
