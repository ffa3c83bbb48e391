package lab_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"ctlab/checks/conntrack"
	"ctlab/lab"
)

const ms = time.Millisecond

// asked is a request of a client: when it was sent, by whom it was answered ("": it was not), and how long
// that took.
func asked(client string, at time.Duration, by string, took time.Duration) lab.Attempt {
	a := lab.Attempt{Client: client, At: at, Class: lab.Timeout, Took: took}
	if by != "" {
		a.Class, a.By = lab.Answered, by
	}
	return a
}

func control(a lab.Attempt) lab.Attempt {
	a.Control = true
	return a
}

func class(a lab.Attempt, c lab.Class) lab.Attempt {
	a.Class = c
	return a
}

// wanted is a world in which every want of the language can be judged: three clients, of which one is lost
// after its first answer and one is always; requests in the background; a program; a table.
func wanted(t *testing.T) *fake {
	f := world(t)
	f.results = map[string][]lab.Attempt{
		"ask": {
			asked("app", 0, "pod-1", 1*ms), asked("app", 10*ms, "", 30*ms), asked("app", 40*ms, "pod-1", 3*ms),
			asked("web", 0, "pod-2", 2*ms), asked("web", 20*ms, "pod-2", 9*ms),
			class(asked("dead", 0, "", 1*ms), lab.Refused),
			control(asked("app", 0, "pod-2", 2*ms)), control(asked("app", 10*ms, "pod-2", 4*ms)),
		},
		"again": {asked("app", 110*ms, "pod-1", ms), asked("web", 110*ms, "pod-2", ms), asked("dead", 110*ms, "", ms)},
		"odd": {
			class(asked("app", 0, "", 0), lab.NotPermitted), class(asked("app", 1, "", 0), lab.WrongSource),
			class(asked("app", 2, "", 0), lab.Unreachable), class(asked("app", 3, "", 0), lab.Failed),
		},
		// The step before ended at 600 ms: two of these were sent behind it.
		"halt": {asked("app", 450*ms, "pod-1", ms), asked("app", 610*ms, "pod-2", ms), asked("app", 640*ms, "", ms)},
	}
	f.deleted = map[string][]lab.Deleted{"moved": {{Node: "node"}, {Node: "node", Healthy: true}}, "swept": {{Node: "node"}},
		"backs": {{Node: "node"}}, "halt": {{Node: "node"}}}
	f.program = &lab.Program{Exit: 3, Stdout: "one\ntwo\nthree", Stderr: "no such host\n"}
	return f
}

// wantedLab is its lab, with a want in one of its steps.
func wantedLab(t *testing.T, where, want string) *lab.Lab {
	t.Helper()
	steps := []struct{ name, what string }{
		{"ask", "query: [app, web, dead], count: 2, every: 10ms"},
		{"again", "query: [app, web, dead], count: 2, every: 10ms"},
		{"odd", "query: app, count: 3, every: 10ms"},
		{"begin", "start: app"},
		{"backs", "backends: dns, set: pod-2"},
		{"moved", "restart: s, on: pod-2, death: process"},
		{"halt", "stop: app, since: moved"},
		{"swept", "conntrack: node, flush: true"},
		{"run", "exec: [resolve, dns]"},
		{"look", "check: node"},
		{"late", "query: app"},
	}
	var b strings.Builder
	b.WriteString(`lab: x
model: {skip: a fake world has no kernel}
nodes:
  node: {kind: router, rules: {policy: "-A FORWARD -j ACCEPT"}}
  app: {address: 10.0.1.2/24}
  pod-1: {address: 10.0.2.2/24}
  pod-2: {address: 10.0.3.2/24}
services: {dns: {vip: 10.96.0.10, ports: 53/udp, backends: pod-1}}
servers: {s: {on: pod-1, dns: {}}}
clients:
  app: {control: true, dns: {server: dns}}
  web: {on: app, dns: {server: dns}}
  dead: {on: app, dns: {server: dns}}
steps:
`)
	for _, s := range steps {
		line := "{name: " + s.name + ", " + s.what
		if s.name == where {
			line += ", want: " + want
		}
		fmt.Fprintf(&b, "  - %s}\n", line)
	}
	l, err := lab.Load("x.yaml", []byte(b.String()), "")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

const entry = "udp app:40000 > dns:53 | pod-1:53 > app:40000"

// Each want is met by the fake world as it is, and its neighbour is not.
func TestWants(t *testing.T) {
	for _, c := range []struct{ where, met, missed string }{
		{"ask", "{answered: 4}", "{answered: 3}"},
		{"ask", "{answered: 1..4, lost: 2}", "{lost: 0}"},
		{"ask", "{sent: 6}", "{answered: all}"},
		{"ask", "{timeout: 1, refused: 1}", "timeout"},
		{"again", "{by: {pod-1: 1, pod-2: 1}}", "{by: pod-2}"},
		{"ask", "{by: {pod-1: 2}}", "{by: {pod-1: 1}}"},
		{"ask", "{by: {pod-1: 2, pod-2: 2, app: 0}}", "{by: {pod-1: all}}"},
		{"odd", "{not-permitted: 1, wrong-source: 1, unreachable: 1, error: 1, lost: all}", "{not-permitted: 0}"},
		{"odd", "{wrong-source: 1..}", "{wrong-source: all}"},
		{"odd", "{unreachable: 1}", "{unreachable: 2..}"},
		{"odd", "{error: 1}", "{error: 0}"},
		{"odd", "lost", "refused"},
		{"ask", "{control: {answered: all, by: pod-2}}", "{control: {timeout: 1}}"},
		{"ask", "{control: {latency: {max: 4ms}}}", "{control: {latency: {max: 9ms}}}"},
		{"ask", "{control: {each: {sent: 2}}}", "{control: {each: {sent: 1}}}"},
		{"ask", "{lost: {same-as: control.answered}}", "{sent: {same-as: control.answered}}"},
		{"ask", "{answered: {same-as: answered}}", "{lost: {same-as: by.app}}"},
		{"again", "{answered: {same-as: ask.by.pod-2}}", "{lost: {same-as: ask.control.by.pod-2}}"},
		{"again", "{each: {sent: 1}}", "{each: {answered: 1}}"},
		{"ask", "{each: {sent: 1..3, outage: ..100ms}}", "{each: {sent: 2..}}"},
		{"ask", "{each: {refused: ..1}}", "{each: answered}"},
		{"ask", "{clients: {answered: web}}", "{clients: {answered: [app, web]}}"},
		{"ask", "{clients: {lost: dead, refused: dead, timeout: none}}", "{clients: {lost: none}}"},
		{"ask", "{clients: {by: {pod-2: web}}}", "{clients: {by: {pod-2: [web, dead]}}}"},
		{"again", "{clients: {lost: {same-as: ask.clients.refused}}}", "{clients: {answered: {same-as: ask.clients.answered}}}"},
		{"again", "{clients: {by: {pod-2: {same-as: ask.clients.by.pod-2}}}}", "{clients: {answered: {same-as: clients.lost}}}"},
		{"ask", "{latency: {p50: 2ms, p99: 9ms, max: 9ms}}", "{latency: {p50: 3ms}}"},
		{"ask", "{latency: {max: 5ms..10ms}}", "{latency: {max: ..8ms}}"},
		{"odd", "{lost: all}", "{latency: {p50: 0s..}}"},
		{"ask", "{outage: 100ms}", "{outage: ..99ms}"}, // dead's, to the end of the step
		{"late", "{outage: 0s}", "{outage: 1ms..}"},    // nothing was lost
		{"halt", "{answered: 1, timeout: 1, by: pod-2}", "{answered: 2}"},
		{"halt", "{outage: 90ms, deleted: 1}", "{deleted: 0}"},
		{"moved", "{deleted: 2}", "{deleted: {same-as: backs.deleted}}"},
		{"backs", "{deleted: 1}", "{deleted: 2..}"},
		{"swept", "{deleted: {same-as: backs.deleted}}", "{deleted: {same-as: moved.deleted}}"},
		{"run", "{exit: 3}", "{exit: 0}"},
		{"run", "{stdout: {has: [one, two], lines: 3}}", "{stdout: {has: four}}"},
		{"run", "{stderr: {lines: 1}}", "{stdout: {lines: 2}}"},
		{"run", "{stderr: {has: no such host}}", "{stderr: {has: one}}"},
		{"look", "{entries: " + entry + " assured stale 5s}", "{entries: " + entry + " not-assured}"},
		{"look", "{entries: no udp app > dns | pod-2 > app}", "{entries: no udp app > dns}"},
		{"look", "{entries: 1..2 x udp app > any}", "{entries: 2 x udp app > any}"},
		{"look", "{entries: {line: udp app > any, times: 1}}", "{entries: {line: udp app > any, times: 2}}"},
		{"look", "{entries: [{line: udp app > any, times: {same-as: ask.timeout}}]}", "{entries: {line: udp app > any, times: {same-as: ask.lost}}}"},
		{"look", "{table: [" + entry + "]}", "{table: empty}"},
		{"look", "{table: {line: udp app > any, times: ..1}}", "{table: {line: tcp app > any, times: 0..}}"},
		{"look", "{stale: 1}", "{stale: 0}"},
		{"look", "{rule-hits: {dns/pod-1: 1}}", "{rule-hits: {dns/pod-1: {same-as: ask.answered}}}"},
		{"look", "{rule-hits: {dns/reject: 4, policy: 5, policy.2: 3}}", "{rule-hits: {policy.1: 3}}"},
		{"look", "{rule-hits: {dns/pod-2: 0}}", "{rule-hits: {policy: 2}}"},
		{"look", "{counters: {invalid: 2}}", "{counters: unchanged}"},
		{"look", "{counters: {found: 0, invalid: {same-as: moved.deleted}}}", "{counters: {invalid: 7}}"},
		{"look", "{events: [new udp app > dns, update udp app > dns assured]}", "{events: [update udp app > dns, new udp app > dns]}"},
		{"look", "{events: no destroy udp app > dns}", "{events: no new udp app > dns}"},
	} {
		for want, verdict := range map[string]lab.Verdict{c.met: lab.Pass, c.missed: lab.Fail} {
			r := lab.Run(context.Background(), wantedLab(t, c.where, want), wanted(t), lab.Options{})
			if r.Verdict() != verdict || r.Err != nil {
				t.Errorf("%s %s: %s, want %s; %v\n%s", c.where, want, r.Verdict(), verdict, r.Err, missedWants(r))
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

func missedWants(r *lab.Result) string {
	var b strings.Builder
	for _, s := range r.Steps {
		for _, w := range s.Wants {
			if !w.OK {
				fmt.Fprintf(&b, "  %s want %s got %s\n", w.Pos, w.Want, w.Got)
			}
		}
	}
	return b.String()
}

// Counters are those since the last look, whatever the node had counted before.
func TestUnchanged(t *testing.T) {
	f := wanted(t)
	f.snaps[0].Since = map[string]uint32{"invalid": 0}
	if r := lab.Run(context.Background(), wantedLab(t, "look", "{counters: unchanged}"), f, lab.Options{}); r.Verdict() != lab.Pass {
		t.Errorf("%s\n%s", r.Verdict(), missedWants(r))
	}
}

// A missed want says what there was instead.
func TestGot(t *testing.T) {
	for _, c := range []struct{ where, want, says, got string }{
		{"ask", "{answered: all}", "answered: all", "4 of 6: answered 4, timeout 1, refused 1"},
		{"ask", "{by: pod-2}", "by: pod-2", "pod-1 2, pod-2 2"},
		{"ask", "{each: answered}", "each answered: all", "app: 2 of 3: answered 2, timeout 1; dead: 0 of 1: refused 1"},
		{"ask", "{clients: {answered: app}}", "clients answered: app", "without app; also web"},
		{"again", "{clients: {lost: {same-as: ask.clients.answered}}}", "clients lost: same as ask.clients.answered (web)", "without web; also dead"},
		{"ask", "{outage: 1s}", "outage: 1s", "100ms, to the end"},
		{"ask", "{latency: {p99: ..1ms}}", "latency p99: ..1ms", "9ms"},
		{"odd", "{latency: {p99: ..1ms}}", "latency p99: ..1ms", "nothing was answered"},
		{"run", "{exit: 0}", "exit: 0", "3: no such host"},
		{"run", "{stdout: {has: four}}", `stdout has "four"`, "3 lines: one"},
		{"look", "{entries: {line: tcp any > any, times: {same-as: ask.lost}}}", "tcp any > any, times: same as ask.lost (2)", "no such entry"},
		{"look", "{counters: unchanged}", "counters: unchanged", "invalid +2"},
		{"moved", "{deleted: {same-as: ask.lost}, stale: 0}", "a table", "none was read"},
	} {
		r := lab.Run(context.Background(), wantedLab(t, c.where, c.want), wanted(t), lab.Options{})
		if text := missedWants(r); !strings.Contains(text, "want "+c.says+" got "+c.got+"\n") {
			t.Errorf("%s: no %q, %q in\n%s", c.want, c.says, c.got, text)
		}
	}
}

func TestOutage(t *testing.T) {
	at := func(sent int, by string) lab.Attempt { return asked("app", time.Duration(sent)*ms, by, ms) }
	for _, c := range []struct {
		name string
		as   []lab.Attempt
		want lab.Outage
	}{
		{"nothing was sent", nil, lab.Outage{}},
		{"nothing was lost", []lab.Attempt{at(0, "x"), at(900, "x")}, lab.Outage{}},
		{"one lost between", []lab.Attempt{at(0, "x"), at(10, ""), at(30, "x")}, lab.Outage{Client: "app", Took: 30 * ms}},
		{"not in order", []lab.Attempt{at(30, "x"), at(10, ""), at(0, "x")}, lab.Outage{Client: "app", Took: 30 * ms}},
		{"from the first", []lab.Attempt{at(5, ""), at(30, "x")}, lab.Outage{Client: "app", From: 5 * ms, Took: 25 * ms}},
		{"to the end", []lab.Attempt{at(5, "x"), at(10, ""), at(30, "")}, lab.Outage{Client: "app", From: 5 * ms, Took: 995 * ms, ForGood: true}},
		{"the longest", []lab.Attempt{at(0, ""), at(1, "x"), at(2, ""), at(50, "x"), at(51, ""), at(60, "x")}, lab.Outage{Client: "app", From: ms, Took: 49 * ms}},
		{"of two clients", []lab.Attempt{at(0, ""), at(1, "x"), asked("web", 0, "", 0), asked("web", 7*ms, "x", 0)}, lab.Outage{Client: "web", Took: 7 * ms}},
	} {
		if got := lab.LongestOutage(c.as, 1000*ms); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

// The nearest rank is one of the values, never a mean.
func TestPercentile(t *testing.T) {
	hundred := make([]time.Duration, 100)
	for i := range hundred {
		hundred[i] = time.Duration(i + 1)
	}
	for _, c := range []struct {
		sorted []time.Duration
		p      int
		want   time.Duration
	}{
		{hundred, 50, 50}, {hundred, 99, 99}, {hundred, 100, 100}, {hundred[:1], 50, 1}, {hundred[:1], 99, 1},
		{hundred[:2], 50, 1}, {hundred[:3], 50, 2}, {hundred[:10], 99, 10}, {hundred[:51], 99, 51},
	} {
		if got := lab.Percentile(c.sorted, c.p); got != c.want {
			t.Errorf("p%d of %d: %d, want %d", c.p, len(c.sorted), got, c.want)
		}
	}
}

// snapshots with and without the entry that world has.
func snapshots(t *testing.T) (with, without []lab.Snapshot) {
	s := world(t).snaps[0]
	empty := s
	empty.Entries = nil
	empty.Events = []conntrack.Event{}
	return []lab.Snapshot{s}, []lab.Snapshot{empty}
}

// What is wanted of programs is wanted of every one that the step ran; what is missed says of which run.
func TestWantsOfPrograms(t *testing.T) {
	ran := map[string][]lab.Program{
		"thrice": {{Client: "dig", Stdout: "NOERROR\n"}, {Client: "dig", Exit: 9, Stderr: "no servers could be reached\nat all\n"}, {Client: "dig", Stdout: "NOERROR\n"}},
		"both":   {{Client: "dig", Exit: 1}, {Client: "dig", Exit: 1}, {Client: "load", Exit: 130}, {Client: "load"}},
		"halt":   {{Client: "load", Exit: 130, Stdout: "sent 5\nlost 2\n"}},
	}
	for _, c := range []struct{ where, want, missed string }{
		{"thrice", "{exit: ..9}", ""},
		{"thrice", "{exit: 0}", "exit: 0, got run 2: 9: no servers could be reached"},
		{"thrice", "{stdout: {has: NOERROR}}", `stdout has "NOERROR", got run 2: 0 lines: nothing`},
		{"thrice", "{stdout: {lines: ..1}, stderr: {lines: ..2}}", ""},
		{"both", "{exit: 1}", "exit: 1, got load run 1: 130; load run 2: 0"},
		{"both", "{exit: 7}", "exit: 7, got dig run 1: 1; dig run 2: 1; load run 1: 130; and 1 more"},
		{"halt", "{exit: 130, stdout: {has: [sent 5, lost 2]}}", ""},
		{"halt", "{exit: 0}", "exit: 0, got 130"},
		{"nobody", "{exit: 0}", "a program, got none ran"},
	} {
		src := `lab: x
model: {skip: a fake world has no kernel}
nodes: {node: {kind: router}, app: {}}
clients: {dig: {on: app, exec: [dig]}, load: {on: app, exec: [dnsperf]}}
steps:
  - {name: thrice, query: dig, count: 3}
  - {name: both, query: [dig, load], count: 2}
  - {start: load}
  - {name: halt, stop: load}
  - {name: nobody, query: dig}
`
		for _, line := range strings.Split(src, "\n") {
			if strings.Contains(line, "name: "+c.where+",") {
				src = strings.Replace(src, line, strings.TrimSuffix(line, "}")+", want: "+c.want+"}", 1)
			}
		}
		l, err := lab.Load("x.yaml", []byte(src), "")
		if err != nil {
			t.Fatal(err)
		}
		f := world(t)
		f.ran = ran
		var missed []string
		for _, s := range lab.Run(t.Context(), l, f, lab.Options{}).Steps {
			for _, w := range s.Wants {
				if !w.OK {
					missed = append(missed, w.Want+", got "+w.Got)
				}
			}
		}
		if got := strings.Join(missed, "\n"); got != c.missed {
			t.Errorf("%s %s: missed %q, want %q", c.where, c.want, got, c.missed)
		}
	}
}
