package report

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"ctlab/checks"
	"ctlab/checks/conntrack"
	"ctlab/lab"
	"ctlab/topology/service"
)

var update = flag.Bool("update", false, "write the golden files anew")

// results are made by hand, one for each kind of story that a report tells; testdata holds their texts.
func results() map[string]func(*testing.T) *lab.Result {
	return map[string]func(*testing.T) *lab.Result{
		"stale":         staleResult,
		"no-dnat":       noDNATResult,
		"dead":          deadResult,
		"reuse":         reuseResult,
		"forty-clients": fortyResult,
		"background":    backgroundResult,
		"predicted":     predictedResult,
		"cleanup":       cleanupResult,
		"orders":        ordersResult,
		"healthy":       healthyResult,
		"programs":      programsResult,
		"stand-ins":     standInsResult,
		"skipped":       skippedResult,
	}
}

func staleResult(t *testing.T) *lab.Result {
	f := newFixture(t, []string{"coredns-1"}, "app")
	before := f.query("app", 3, 200*time.Millisecond, lab.Answered, "coredns-1")
	e := f.entry("app", "coredns-1", replied, 5)
	before.Outcome.Attempts[0].After = &lab.Seen{Entry: f.entry("app", "coredns-1", conntrack.SeenReply, 5)}
	before.Wants = []lab.WantResult{{Want: "answered: all", Got: "3 of 3", OK: true}}
	f.restart(lab.DeathAddress, "")
	f.pause(2 * second)
	after := f.query("app", 5, second, lab.Timeout, "")
	after.Step.After = 2 * second
	for i := range after.Outcome.Attempts {
		a := &after.Outcome.Attempts[i]
		a.Before, a.After = &lab.Seen{Entry: e}, &lab.Seen{Entry: e}
		control := *a
		control.Control, control.Class, control.By, control.Took = true, lab.Answered, "coredns-2", 400*time.Microsecond
		control.Tuple.SrcPort = uint16(50000 + i)
		after.Outcome.Attempts = append(after.Outcome.Attempts, control)
	}
	after.Wants = []lab.WantResult{{Pos: lab.Pos{File: "x.yaml", Line: 41, Col: 13}, Want: "answered: all", Got: "0 of 5: timeout 5",
		Near: &lab.Near{Entry: staleEntry(e), Differs: []string{"reply source"}}}}
	f.final(staleEntry(e))
	return f.r
}

func noDNATResult(t *testing.T) *lab.Result {
	f := newFixture(t, nil, "app")
	f.query("app", 2, second/2, lab.Timeout, "")
	f.step(lab.Step{Kind: lab.SetBackends, Service: "kube-dns", Set: []string{"coredns-2"}, HasSet: true}, 0, lab.Outcome{})
	f.query("app", 2, second/2, lab.Timeout, "")
	f.final(staleEntry(f.entry("app", "kube-dns", 0, 29)))
	return f.r
}

func deadResult(t *testing.T) *lab.Result {
	f := newFixture(t, []string{"coredns-1"}, "app")
	f.query("app", 1, 0, lab.Answered, "coredns-1")
	f.step(lab.Step{Kind: lab.Stop, Servers: []string{"coredns"}, Death: lab.DeathProcess}, 0, lab.Outcome{})
	f.query("app", 2, second, lab.Refused, "")
	f.final(lab.Seen{Entry: f.entry("app", "coredns-1", replied, 119)})
	return f.r
}

func reuseResult(t *testing.T) *lab.Result {
	f := newFixture(t, []string{"coredns-1"}, "app")
	f.query("app", 1, 0, lab.Answered, "coredns-1")
	f.restart(lab.DeathReuse, "squatter")
	f.query("app", 2, second, lab.Answered, "squatter")
	f.final(staleEntry(f.entry("app", "coredns-1", replied, 119)))
	return f.r
}

func fortyNames() []string {
	var names []string
	for i := range 40 {
		names = append(names, "app-"+string(rune('a'+i/26))+string(rune('a'+i%26)))
	}
	return names
}

func fortyResult(t *testing.T) *lab.Result {
	names := fortyNames()
	f := newFixture(t, []string{"coredns-1", "coredns-2"}, names...)
	var before, after []lab.Attempt
	var table []lab.Seen
	for i, n := range names {
		pod := "coredns-2"
		if i%2 == 0 {
			pod = "coredns-1"
		}
		before = append(before, f.attempt(n, 0, lab.Answered, pod))
		if i%2 == 0 {
			after = append(after, f.attempt(n, second, lab.Timeout, ""))
			table = append(table, staleEntry(f.entry(n, pod, replied, 119)))
		} else {
			after = append(after, f.attempt(n, second, lab.Answered, pod))
			table = append(table, lab.Seen{Entry: f.entry(n, pod, replied, 119)})
		}
	}
	f.step(lab.Step{Kind: lab.Query, Clients: names, Count: 1}, second/2, lab.Outcome{Attempts: before})
	f.step(lab.Step{Kind: lab.SetBackends, Service: "kube-dns", Remove: []string{"coredns-1"}}, 0, lab.Outcome{})
	f.step(lab.Step{Kind: lab.Stop, Servers: []string{"coredns"}, Death: lab.DeathAddress}, 0, lab.Outcome{})
	s := f.step(lab.Step{Kind: lab.Query, Clients: names, Count: 1}, second/2, lab.Outcome{Attempts: after})
	s.Wants = []lab.WantResult{{Pos: lab.Pos{File: "labs/two-backends-partial.yaml", Line: 140, Col: 13}, Want: "answered: all", Got: "20 of 40: answered 20, timeout 20"}}
	f.final(table...)
	return f.r
}

func backgroundResult(t *testing.T) *lab.Result {
	f := newFixture(t, []string{"coredns-1", "coredns-2"}, "app")
	var as []lab.Attempt
	for i := range 100 {
		class, by := lab.Answered, "coredns-2"
		if i >= 10 && i < 13 {
			class, by = lab.Timeout, ""
		}
		a := f.attempt("app", time.Duration(i)*20*time.Millisecond, class, by)
		a.Took = 10*time.Millisecond + time.Duration(i*i)*time.Microsecond
		a.Background = true
		as = append(as, a)
	}
	f.step(lab.Step{Kind: lab.Start, Clients: []string{"app"}, Every: 20 * time.Millisecond}, 0, lab.Outcome{})
	f.pause(2 * second)
	f.step(lab.Step{Kind: lab.Stop, Clients: []string{"app"}, After: 2 * second}, 0, lab.Outcome{Attempts: as})
	f.final()
	return f.r
}

func predictedResult(t *testing.T) *lab.Result {
	f := newFixture(t, []string{"coredns-1"}, "app")
	f.r.Setting = lab.Setting{Simulated: true, Seed: 7, Profile: "6.18"}
	f.query("app", 1, 0, lab.Answered, "coredns-1")
	f.step(lab.Step{Kind: lab.Exec, Nodes: []string{"node"}, Command: lab.Command{Argv: []string{"ip", "route"}}}, 0, lab.Outcome{NotPlayed: "a program needs a kernel"})
	f.r.Evidence.Margins = []lab.Margin{{At: 3999 * time.Millisecond, Node: "node", What: "udp 10.244.2.5:40053 > 10.96.0.10:53: is it older than 2 s?", Off: -12 * time.Millisecond}}
	f.r.Wall = 4 * time.Millisecond
	f.final(lab.Seen{Entry: f.entry("app", "coredns-1", conntrack.SeenReply, 29)})
	return f.r
}

func cleanupResult(t *testing.T) *lab.Result {
	f := newFixture(t, []string{"coredns-1"}, fortyNames()...)
	f.r.Lab.Services[0].Cleanup = lab.Cleanup{Mode: service.ReconcileCurrent, CleanupFirst: true, Delay: 100 * time.Millisecond}
	f.query("app-aa", 1, 0, lab.Answered, "coredns-1")
	var deleted []lab.Deleted
	for i, n := range fortyNames()[:7] {
		deleted = append(deleted, lab.Deleted{Node: "node", Entry: f.entry(n, "coredns-1", replied, 5), Healthy: i%3 == 1})
	}
	f.restart(lab.DeathRoute, "", deleted...)
	f.query("app-aa", 1, 0, lab.Answered, "coredns-2")
	f.final(lab.Seen{Entry: f.entry("app-aa", "coredns-2", conntrack.SeenReply, 29)})
	return f.r
}

// ordersResult has a step of each kind that only gives orders, and one that began late.
func ordersResult(t *testing.T) *lab.Result {
	f := newFixture(t, []string{"coredns-1"}, "app")
	for _, s := range []lab.Step{
		{Kind: lab.SetSysctl, Nodes: []string{"node"}, Sysctls: []lab.Sysctl{{Name: "net.netfilter.nf_conntrack_udp_timeout", Value: "5"}}},
		{Kind: lab.SetRules, Nodes: []string{"node"}, Change: "-t nat -F PREROUTING\n-A FORWARD -j DROP\n"},
		{Kind: lab.SetRules, Nodes: []string{"node"}, HasReplace: true, Replace: []lab.Rules{{Name: "policy"}}},
		{Kind: lab.SetLink, Nodes: []string{"node"}, Dev: "coredns-1", LinkState: "down"},
		{Kind: lab.SetAddress, Nodes: []string{"app"}, Dev: "eth0", AddAddress: f.r.Lab.Nodes[1].Also, DelAddress: append(f.r.Lab.Nodes[1].Also, f.r.Lab.Nodes[1].Address)},
		{Kind: lab.SetRoute, Nodes: []string{"node"}, RouteOp: "del", Routes: []lab.Route{{To: f.r.Lab.Nodes[2].Address.Masked(), Dev: "coredns-1"}}},
		{Kind: lab.Table, Nodes: []string{"node"}, Flush: true},
		{Kind: lab.Start, Servers: []string{"coredns"}},
		{Kind: lab.Wait, Wait: 2 * second},
	} {
		f.step(s, 0, lab.Outcome{})
	}
	f.step(lab.Step{Kind: lab.Exec, Nodes: []string{"node"}, Command: lab.Command{Argv: []string{"sh", "-c", "seq 5"}}}, 0, lab.Outcome{Programs: []lab.Program{{Exit: 3, Stdout: "1\n2\n3\n4\n5\n", Stderr: "\x1b[31moh\n"}}})
	at := 2 * second
	f.now = 2034 * time.Millisecond
	f.step(lab.Step{Kind: lab.Check, Nodes: []string{"node"}, At: &at}, 0, lab.Outcome{Snapshots: []lab.Snapshot{{Node: "node", Entries: []lab.Seen{staleEntry(f.entry("app", "coredns-1", 0, 1))}}}})
	f.final()
	return f.r
}

// programsResult has clients and a server that are programs, and a want that was not met.
func programsResult(t *testing.T) *lab.Result {
	f := newFixture(t, []string{"coredns-1"}, "app", "dig", "dnsperf")
	f.r.Lab.Servers[0].Exec = &lab.Command{Argv: []string{"coredns"}}
	f.r.Lab.Client("dig").Exec = &lab.Command{Argv: []string{"dig"}}
	f.r.Lab.Client("dnsperf").Exec = &lab.Command{Argv: []string{"dnsperf"}}
	ran := func(client string, at time.Duration, exit int, stdout, stderr string) lab.Program {
		return lab.Program{Client: client, Node: "app", At: at, Took: 20 * time.Millisecond, Exit: exit, Stdout: stdout, Stderr: stderr}
	}
	f.step(lab.Step{Kind: lab.Query, Clients: []string{"dig"}, Count: 1}, 20*time.Millisecond, lab.Outcome{Programs: []lab.Program{ran("dig", 0, 0, "10.244.1.10\n", "")}})
	f.step(lab.Step{Kind: lab.Start, Clients: []string{"dnsperf"}}, 0, lab.Outcome{})
	missed := f.step(lab.Step{Kind: lab.Query, Clients: []string{"dig"}, Count: 4}, 60*time.Millisecond, lab.Outcome{Programs: []lab.Program{
		ran("dig", 20*time.Millisecond, 0, "10.244.1.10\n", ""), ran("dig", 40*time.Millisecond, 9, "", ";; connection timed out; no servers could be reached\n"), ran("dig", 60*time.Millisecond, 0, "10.244.1.10\n", ""), ran("dig", 80*time.Millisecond, 9, "", ";; the same\n")}})
	missed.Wants = []lab.WantResult{{Pos: missed.Step.Pos, Want: "exit: 0", Got: "run 2: 9: ;; connection timed out; no servers could be reached"}}
	f.step(lab.Step{Kind: lab.Query, Clients: []string{"dig", "dnsperf"}, Count: 1}, 60*time.Millisecond, lab.Outcome{Programs: []lab.Program{ran("dig", 0, 0, "", ""), ran("dnsperf", 0, 0, "", "")}})
	f.step(lab.Step{Kind: lab.Stop, Clients: []string{"dnsperf"}}, 0, lab.Outcome{Programs: []lab.Program{ran("dnsperf", 20*time.Millisecond, 130, "Statistics:\n\n  Queries sent: 5\n  Queries lost: 2\n", "Warning: requested\n")}})
	f.r.Evidence.Servers = []lab.Program{
		{Client: "coredns", Node: "coredns-1", At: -second, Took: 2 * second, Exit: 130, Stdout: "1\n2\n3\n4\n5\n6\n7\n", Stderr: "\x1b[31mplugin/errors: 2 " + strings.Repeat("x", 100) + "\n"},
		{Client: "coredns", Node: "coredns-2", At: second, Took: 0, Exit: 1},
	}
	f.final()
	return f.r
}

// standInsResult is a prediction of a lab with a program for a server.
func standInsResult(t *testing.T) *lab.Result {
	r := predictedResult(t)
	r.Lab.Servers[0].Exec = &lab.Command{Argv: []string{"coredns"}}
	return r
}

func skippedResult(t *testing.T) *lab.Result {
	r := newFixture(t, []string{"coredns-1"}, "app").r
	r.Setting, r.Evidence, r.Wall = lab.Setting{}, lab.Evidence{}, 0
	r.Skipped = "coredns is not installed: (cd labs/coredns && go build -o /usr/local/bin/coredns .); dig is not installed: apt-get install dnsutils"
	return r
}

func healthyResult(t *testing.T) *lab.Result {
	f := newFixture(t, []string{"coredns-1"}, "app")
	f.query("app", 2, second, lab.Answered, "coredns-1")
	f.final(lab.Seen{Entry: f.entry("app", "coredns-1", conntrack.SeenReply, 29)})
	return f.r
}

// The text of each result is that of its file, and at most 100 columns wide.
func TestText(t *testing.T) {
	for name, make := range results() {
		t.Run(name, func(t *testing.T) {
			var b strings.Builder
			if err := Text(&b, make(t), Options{}); err != nil {
				t.Fatal(err)
			}
			golden(t, name+".txt", b.String())
		})
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	for i, l := range strings.Split(got, "\n") {
		if n := utf8.RuneCountInString(l); n > columns && strings.HasSuffix(name, ".txt") {
			t.Errorf("%s:%d has %d columns: %s", name, i+1, n, l)
		}
	}
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (go test -update writes it anew):\n%s", file, got)
	}
}

// A histogram has few lines, and its counts are those of the times.
func TestHistogram(t *testing.T) {
	for _, times := range [][]time.Duration{
		{time.Microsecond}, {0, 0, second}, {99 * time.Microsecond, 100 * time.Microsecond, 10 * second}, {3 * time.Millisecond, 3 * time.Millisecond},
	} {
		lines, sum := histogram(times), 0
		for _, l := range lines {
			f := strings.Fields(l)
			n, err := checks.ParseNumber(f[len(f)-1])
			if err != nil {
				t.Fatal(err)
			}
			sum += int(n)
		}
		if sum != len(times) || len(lines) > rows {
			t.Errorf("%v: %d in %d lines\n%s", times, sum, len(lines), strings.Join(lines, "\n"))
		}
	}
}
