package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ctlab/checks/conntrack"
)

// TestGood holds all that is in the good labs, and in what their variants make of them, against golden
// texts.
func TestGood(t *testing.T) {
	for _, c := range []struct{ file, variant string }{
		{"flagship", ""},
		{"flagship", "fixed-by-cleanup"},
		{"first-lab", ""},
		{"defaults", ""},
		{"defaults", "none-left"},
		{"deaths", ""},
		{"deaths", "reuse"},
		{"deaths", "recverr"},
		{"order", ""},
		{"order", "rules-first"},
		{"gap", ""},
		{"gap", "drop"},
		{"gap", "local-vip"},
		{"partial", ""},
		{"frontends", ""},
		{"frontends", "quick"},
		{"network", ""},
		{"network", "half"},
		{"network", "bare"},
		{"programs", ""},
		{"programs", "without"},
		{"packets", ""},
		{"more-programs", ""},
		{"more-programs", "other-way-round"},
		{"more-programs", "all-built-in"},
		{"families", ""},
		{"families", "ipv4"},
	} {
		t.Run(c.file+" "+c.variant, func(t *testing.T) {
			l, err := ReadFile(filepath.Join("testdata/good", c.file+".yaml"), c.variant)
			if err != nil {
				t.Fatal(err)
			}
			name := strings.TrimSuffix(c.file+"+"+c.variant, "+")
			golden(t, filepath.Join("testdata/good", name+".txt"), dump(l))
		})
	}
}

// TestFlagship says in words what the golden text of the flagship must not lose.
func TestFlagship(t *testing.T) {
	l, err := ReadFile("testdata/good/flagship.yaml", "")
	if err != nil {
		t.Fatal(err)
	}
	if n := l.Node("app"); n.Address.String() != "10.244.2.5/24" || n.Gateway.String() != "10.244.2.1" || n.Port != "app" || n.Uplink != "node" {
		t.Errorf("app: %+v", n)
	}
	if c := l.Client("app"); c.To.String() != "10.96.0.10:53" || c.SourcePort != 40053 || c.Timeout != 300*time.Millisecond || !c.Control {
		t.Errorf("client: %+v", c)
	}
	after := l.Steps[2]
	if after.Want.Traffic.Counts[0].What != "timeout" || !after.Want.Traffic.Counts[0].N.All || after.Want.Traffic.Control.Counts[0].What != "answered" {
		t.Errorf("after: %+v", after.Want.Traffic)
	}
	w := l.Steps[3].Want.Entries[0].Want
	entry := func(reply, status string) *conntrack.Entry {
		e, err := conntrack.ParseEntry("udp 10.244.2.5:40053 > 10.96.0.10:53 | " + reply + " > 10.244.2.5:40053 status " + status)
		if err != nil {
			t.Fatal(err)
		}
		return &e
	}
	if e := entry("10.244.1.10:53", "seen-reply,assured,confirmed"); !w.Matches(e, true, -1) || w.Matches(e, false, -1) {
		t.Errorf("the stale entry: %v", w.Mismatch(e, true, -1))
	}
	if e := entry("10.244.1.11:53", "confirmed"); fmt.Sprint(w.Mismatch(e, false, -1)) != "[reply source assured stale]" {
		t.Errorf("another entry: %v", w.Mismatch(e, false, -1))
	}
}

// TestOrder moves the sections around, which must change nothing but places.
func TestOrder(t *testing.T) {
	src, err := os.ReadFile("testdata/good/first-lab.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var sections []string
	for _, line := range strings.SplitAfter(string(src), "\n") {
		if len(sections) == 0 || line != "" && line[0] != ' ' && line[0] != '#' {
			sections = append(sections, "")
		}
		sections[len(sections)-1] += line
	}
	want, err := Load("x", src, "")
	if err != nil {
		t.Fatal(err)
	}
	for shift := range sections {
		moved := strings.Join(append(append([]string(nil), sections[shift:]...), sections[:shift]...), "")
		l, err := Load("x", []byte(moved), "")
		if err != nil {
			t.Fatalf("%v\n%s", err, moved)
		}
		if l.Nodes[1].Address != want.Nodes[1].Address || l.Client("app").To != want.Client("app").To || len(l.Steps) != len(want.Steps) {
			t.Errorf("it differs:\n%s", dump(l))
		}
	}
}

func TestReadFile(t *testing.T) {
	dir := t.TempDir()
	big := filepath.Join(dir, "big.yaml")
	if err := os.WriteFile(big, make([]byte, maxSize+1), 0o644); err != nil {
		t.Fatal(err)
	}
	missing := filepath.Join(dir, "missing.yaml")
	for _, c := range []struct{ path, variant, want string }{
		{missing, "", missing + ": no such file"},
		{dir, "", dir + ": a folder, not a file"},
		{big, "", big + ":1:1: the file has "},
		{"testdata/good/flagship.yaml", "fixed", `no variant "fixed"; there are: fixed-by-cleanup`},
		{"testdata/good/first-lab.yaml", "fixed", `no variant "fixed"; the lab has none`},
	} {
		_, err := ReadFile(c.path, c.variant)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", c.path, err, c.want)
		}
		var list Errors
		if strings.Contains(c.want, "variant") && errors.As(err, &list) {
			t.Errorf("%s: the file is not wrong: %v", c.path, err)
		}
	}
}

// TestVariantErrors tells what is wrong with a variant from what is wrong anyway.
func TestVariantErrors(t *testing.T) {
	src, err := os.ReadFile("testdata/good/flagship.yaml")
	if err != nil {
		t.Fatal(err)
	}
	broken := strings.NewReplacer("count: 3", "count: 03", "backends: coredns-1,", "backends: coredns-9,").Replace(string(src))
	broken += "    steps.before.count: 3\n  also:\n    steps.after.every: 1\n"
	for _, c := range []struct {
		variant string
		want    []string
	}{
		{"", []string{`backends: no node "coredns-9"`, "count: 03 has a leading zero", `variant also: every: "1" has no unit`}},
		{"fixed-by-cleanup", []string{`backends: no node "coredns-9"`}},
		{"also", []string{`backends: no node "coredns-9"`, "count: 03 has a leading zero", `variant also: every: "1" has no unit`}},
	} {
		_, err := Load("x", []byte(broken), c.variant)
		list, _ := err.(Errors)
		var got []string
		for _, e := range list {
			got = append(got, e.Msg)
		}
		if strings.Join(got, "\n") != strings.Join(c.want, "\n") {
			t.Errorf("%q: got %q, want %q", c.variant, got, c.want)
		}
	}
}

// TestText reads texts as they were written, whatever YAML makes of them.
func TestText(t *testing.T) {
	for _, c := range []struct{ yaml, want string }{
		{"5.10", "5.10"}, {"on", "on"}, {"0x10", "0x10"}, {`"a: b"`, "a: b"}, {"'it''s'", "it's"}, {"1_000", "1_000"},
		{"2001-01-01", "2001-01-01"}, {".inf", ".inf"}, {"'~'", "~"}, {`"null"`, "null"}, {"a\n  b", "a b"},
	} {
		l, err := Load("x", []byte("about: "+c.yaml+"\nlab: x\nnodes: {node: {kind: router}}\nsteps: [{wait: 1s}]\n"), "")
		if err != nil {
			t.Errorf("%s: %v", c.yaml, err)
			continue
		}
		if l.About != c.want {
			t.Errorf("%s: got %q, want %q", c.yaml, l.About, c.want)
		}
	}
}

// TestLineEnds reads a file from Windows, with its byte order mark.
func TestLineEnds(t *testing.T) {
	src := "\uFEFFlab: x\r\nnodes: {node: {kind: router}}\r\nsteps:\r\n  - wait: 1s\r\n  - wait: 1\r\n"
	_, err := Load("x", []byte(src), "")
	want := "x:5:11: wait: \"1\" has no unit\n    5 |   - wait: 1\n      |           ^ 1ms or 1s?"
	if err == nil || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
}

// TestListens finds where servers answer: where they are told to, else at the address of their node.
func TestListens(t *testing.T) {
	src := `lab: x
nodes: {node: {kind: router, local: 10.9.9.9}, app: {uplink: node, address: 10.1.0.5/24}, pod: {uplink: node, address: 10.1.0.6/24}, both: {uplink: other, address: [fd00::7/64, 10.1.0.7/24]}, six: {uplink: other, address: fd00::8/64}, other: {kind: router}}
servers:
  own: {on: app, dns: {}}
  on-router: {on: node, listen: "10.1.0.1:5353", dns: {}}
  only: {on: node, dns: {}}
  every: {on: app, listen: "any:54", dns: {}}
  lo: {on: node, listen: "10.9.9.9", dns: {}}
steps: [{wait: 1s}]
`
	l, err := Load("x", []byte(src), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ server, on, want string }{
		{"own", "app", "10.1.0.5:53"}, {"own", "pod", "10.1.0.6:53"}, {"own", "node", "10.1.0.1:53"}, {"only", "node", "10.1.0.1:53"},
		{"on-router", "node", "10.1.0.1:5353"}, {"every", "pod", "0.0.0.0:54"}, {"lo", "node", "10.9.9.9:53"}, {"own", "nowhere", ""},
		{"own", "both", "10.1.0.7:53 [fd00::7]:53"}, {"every", "both", "0.0.0.0:54 [::]:54"}, {"own", "six", "[fd00::8]:53"}, {"every", "six", "[::]:54"},
	} {
		if got := fmt.Sprint(l.Listens(l.Server(c.server), c.on)); got != "["+c.want+"]" {
			t.Errorf("%s on %s: %s, want %s", c.server, c.on, got, c.want)
		}
	}
}
