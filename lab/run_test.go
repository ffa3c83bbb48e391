package lab_test

import (
	"context"
	"errors"
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
	snaps   []lab.Snapshot
	failAt  string
	closed  int
	begun   []time.Duration
}

func (f *fake) Build(context.Context) (lab.Setting, error) { return lab.Setting{Kernel: "fake"}, nil }
func (f *fake) Now() time.Duration                         { return f.now }
func (f *fake) WaitUntil(ctx context.Context, at time.Duration) error {
	f.now = max(f.now, at)
	return ctx.Err()
}
func (f *fake) Do(_ context.Context, s *lab.Step) (lab.Outcome, error) {
	f.begun = append(f.begun, f.now)
	out := lab.Outcome{Began: f.now, Attempts: f.results[s.Name]}
	if s.Kind == lab.Check {
		out.Snapshots = f.snaps
	}
	f.now += 100 * time.Millisecond
	out.Ended = f.now
	if s.Name == f.failAt {
		return out, errors.New("the link is gone")
	}
	return out, nil
}
func (f *fake) Look(_ context.Context, _ *lab.Step, out *lab.Outcome) error {
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
		results: map[string][]lab.Attempt{"ask": {
			{Class: lab.Answered, By: "pod-1"}, {Class: lab.Answered, By: "pod-1"}, {Class: lab.Timeout},
			{Class: lab.Answered, By: "pod-2", Control: true},
		}},
		snaps: []lab.Snapshot{{Node: "node", Entries: []lab.Seen{{Entry: e, Stale: true, Age: time.Second}},
			Hits: map[string]uint64{"dns/pod-1": 1}, Stats: map[string]uint32{"invalid": 2},
			Events: []conntrack.Event{{Kind: conntrack.New, Entry: e}, {Kind: conntrack.Update, Entry: e}}}},
	}
}

// Each want is met by the fake world as it is, and its neighbour is not.
func TestWants(t *testing.T) {
	entry := "udp app:40000 > dns:53 | pod-1:53 > app:40000"
	for _, c := range []struct{ where, met, missed string }{
		{"ask", "{answered: 2}", "{answered: 3}"},
		{"ask", "{answered: 1..2, lost: 1}", "{lost: 0}"},
		{"ask", "{sent: 3}", "{answered: all}"},
		{"ask", "{by: pod-1}", "{by: pod-2}"},
		{"ask", "{by: {pod-1: 2}}", "{by: {pod-1: 1}}"},
		{"ask", "{control: {answered: all, by: pod-2}}", "{control: {timeout: 1}}"},
		{"ask", "{lost: {same-as: control.answered}}", "{answered: {same-as: control.answered}}"},
		{"look", "{entries: " + entry + " assured stale 5s}", "{entries: " + entry + " not-assured}"},
		{"look", "{entries: no udp app > dns | pod-2 > app}", "{entries: no udp app > dns}"},
		{"look", "{entries: 1..2 x udp app > any}", "{entries: 2 x udp app > any}"},
		{"look", "{table: [" + entry + "]}", "{table: empty}"},
		{"look", "{stale: 1}", "{stale: 0}"},
		{"look", "{rule-hits: {dns/pod-1: 1}}", "{rule-hits: {dns/pod-1: {same-as: ask.answered}}}"},
		{"look", "{counters: {invalid: 2}}", "{counters: unchanged}"},
		{"look", "{events: [new udp app > dns, update udp app > dns assured]}", "{events: [update udp app > dns, new udp app > dns]}"},
		{"look", "{events: no destroy udp app > dns}", "{events: no new udp app > dns}"},
	} {
		for want, verdict := range map[string]lab.Verdict{c.met: lab.Pass, c.missed: lab.Fail} {
			ask, look := "{sent: 3}", "{stale: 1}"
			if c.where == "ask" {
				ask = want
			} else {
				look = want
			}
			r := lab.Run(context.Background(), load(t, ask, look), world(t), lab.Options{})
			if r.Verdict() != verdict {
				t.Errorf("%s %s: %s, want %s", c.where, want, r.Verdict(), verdict)
			}
			for _, s := range r.Steps {
				for _, w := range s.Wants {
					if !w.OK && (w.Pos.Line == 0 || w.Got == "" || w.Want == "") {
						t.Errorf("%s: a missed want tells nothing: %+v", want, w)
					}
				}
			}
		}
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
