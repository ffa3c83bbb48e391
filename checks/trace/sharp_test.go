package trace_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"

	"ctlab/checks/conntrack"
	"ctlab/checks/model"
	"ctlab/checks/trace"
)

// recorded are traces of real kernels. They are never rewritten from the model.
func recorded(t *testing.T) map[string]trace.Trace {
	t.Helper()
	files, err := filepath.Glob("testdata/kernel/*.trace")
	if err != nil || len(files) == 0 {
		t.Fatalf("no recorded traces: %v", err)
	}
	all := map[string]trace.Trace{}
	for _, f := range files {
		for i, tr := range parseFile(t, f) {
			all[fmt.Sprintf("%s#%d", filepath.Base(f), i)] = tr
		}
	}
	return all
}

func parseFile(t *testing.T, path string) []trace.Trace {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	traces, err := trace.Parse(path, f)
	if err != nil {
		t.Fatal(err)
	}
	return traces
}

// With iptables-legacy each load replaces whole tables, so that the turns of all their rules begin anew; with nft
// they go on. The recorded run shows the former.
func TestTurnsBeginAnewInLegacyTables(t *testing.T) {
	tr := recorded(t)["6.18-legacy-turns.trace#0"]
	if v := trace.Replay(tr, profileOf(t, tr)).Verdict(); v != trace.Same {
		t.Errorf("as recorded: %s", v)
	}
	tr.Legacy = false
	if v := trace.Replay(tr, profileOf(t, tr)).Verdict(); v != trace.Different {
		t.Errorf("as if nft had loaded the rules: %s", v)
	}
}

func profileOf(t *testing.T, tr trace.Trace) model.Profile {
	t.Helper()
	p, err := tr.Model(nil)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestModelAccountsForRecordedKernels(t *testing.T) {
	for name, tr := range recorded(t) {
		r := trace.Replay(tr, profileOf(t, tr))
		if r.Verdict() != trace.Same || r.Reads < 15 || r.Free[model.ChooseTiming] != 0 {
			t.Errorf("%s: %s, %s", name, r.Verdict(), r.Summary())
		}
		for _, d := range r.Differences {
			t.Errorf("%s: %s", name, d)
		}
		for _, l := range r.Lost {
			t.Errorf("%s: %s", name, l)
		}
	}
}

// reported replays a changed trace and says whether the change was noticed.
func reported(t *testing.T, tr trace.Trace) bool {
	t.Helper()
	return trace.Replay(tr, profileOf(t, tr)).Verdict() != trace.Same
}

func with(tr trace.Trace, i int, r trace.Record) trace.Trace {
	tr.Records = slices.Clone(tr.Records)
	tr.Records[i] = r
	return tr
}

// Sharpness, first test: change one observed field.
func TestSharpChangedObservation(t *testing.T) {
	for name, tr := range recorded(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := 0
			for i, r := range tr.Records {
				if r.Input() {
					continue
				}
				for what, changed := range changes(r) {
					n++
					if !reported(t, with(tr, i, changed)) {
						t.Errorf("%s changed, not reported: %s", what, changed)
					}
				}
			}
			t.Logf("%d changes of one observed field, all reported", n)
		})
	}
}

// changes are the record with one observed field changed, by what was changed.
func changes(r trace.Record) map[string]trace.Record {
	out := map[string]trace.Record{}
	set := func(what, args, text string) {
		c := r
		c.Args, c.Text = args, text
		out[what] = c
	}
	number := func(what, pattern string, by int) {
		re := regexp.MustCompile(pattern)
		m := re.FindStringSubmatchIndex(r.Args)
		if m == nil {
			return
		}
		v, err := strconv.ParseInt(r.Args[m[2]:m[3]], 0, 64)
		if err != nil {
			panic(err)
		}
		set(what, r.Args[:m[2]]+strconv.FormatInt(v+int64(by), 10)+r.Args[m[3]:], r.Text)
	}
	switch r.Kind {
	case trace.Left:
		set("device", "other "+strings.SplitN(r.Args, " ", 2)[1], "")
		number("source port", `:(\d+) >`, 1)
		number("destination port", `> \S+:(\d+)`, 1)
		number("length", `len (\d+)`, 1)
		number("ttl", `ttl (\d+)`, 1)
	case trace.CTInfo:
		at := strings.LastIndex(r.Args, " is ")
		for _, ct := range []string{"new", "established", "related", "established-reply", "related-reply", "untracked", "invalid"} {
			if ct != r.Args[at+4:] {
				set("ctinfo "+ct, r.Args[:at+4]+ct, "")
			}
		}
		set("device", "other "+strings.SplitN(r.Args, " ", 2)[1], "")
		number("source port", `:(\d+) >`, 1)
	case trace.Entry, trace.Event:
		entryChanges(r, set, number)
	case trace.Absent:
		c := r
		c.Kind, c.Args = trace.Entry, r.Args+" | 10.0.0.9:1 > 10.0.0.8:2 status confirmed timeout 1s"
		out["an entry appears"] = c
	case trace.Dumped, trace.Count:
		if r.Kind == trace.Count {
			number("count", `^(\d+)`, 50)
		}
	case trace.Stats:
		set("a counter", "invalid 7", "")
	case trace.Hits, trace.Hits6:
		set("a rule's packets", "", regexp.MustCompile(`(?m)^\[(\d+):`).ReplaceAllString(r.Text, "[9$1:"))
	case trace.State:
		set("a line", r.Args, strings.Replace(r.Text, "\n", "7\n", 1))
	}
	return out
}

func entryChanges(r trace.Record, set func(what, args, text string), number func(what, pattern string, by int)) {
	number("reply port", `\| \S+:(\d+) >`, 1)
	number("reply destination port", `\| \S+ > \S+:(\d+)`, 1)
	number("time left, more", `timeout (\d+)s`, 2)
	number("time left, less", `timeout (\d+)s`, -2)
	number("packets", `packets (\d+)`, 1)
	number("reply packets", `packets \d+/(\d+)`, 1)
	number("bytes", `bytes (\d+)`, 1)
	number("mark", `mark (0x\w+)`, 1)
	number("use", `use (\d+)`, 100) // more than there are packets on their way
	number("id", ` id (0x\w+)`, 1)
	for _, w := range conntrack.StatusWords() {
		re := regexp.MustCompile(`status (\S+)`)
		s, err := conntrack.ParseStatus(re.FindStringSubmatch(r.Args)[1])
		if err != nil {
			panic(err)
		}
		bit, _ := conntrack.ParseStatusWord(w)
		set("status "+w, re.ReplaceAllString(r.Args, "status "+(s^bit).String()), "")
	}
	set("a helper", r.Args+" helper 746674", "")
	set("an unknown attribute", r.Args+" unknown 99 00", "")
	if i := strings.Index(r.Args, " timeout -"); i >= 0 {
		panic("a negative time")
	}
}

// Sharpness, second test: leave out each input.
func TestSharpMissingInput(t *testing.T) {
	for name, tr := range recorded(t) {
		n, silent := 0, map[trace.Kind]int{}
		for i, r := range tr.Records {
			if !r.Input() {
				continue
			}
			n++
			cut := tr
			cut.Records = slices.Delete(slices.Clone(tr.Records), i, i+1)
			if reported(t, cut) {
				continue
			}
			silent[r.Kind]++
			// A neighbour that is lost when nothing waits for it, and not asked for again, changes nothing. Of a message of
			// discovery nothing is seen but where a rule counts it.
			if r.Kind != trace.Neigh && r.Kind != trace.Discover && !strings.Contains(r.Args, " icmpv6 ") {
				t.Errorf("%s: left out, not reported: %s", name, r)
			}
		}
		t.Logf("%s: %d inputs left out one by one; not visible: %v", name, n, silent)
	}
}

// Sharpness, third test: shift each input that refreshes an entry by a second.
func TestSharpShiftedRefresh(t *testing.T) {
	for name, tr := range recorded(t) {
		n := 0
		for i, r := range tr.Records {
			if r.Kind != trace.Packet || !strings.Contains(r.Args, " udp ") || strings.Contains(r.Args, "about") {
				continue
			}
			n++
			r.At += time.Second
			r.Span = r.Span.Add(tr.HZ)
			late := with(tr, i, r)
			sort.SliceStable(late.Records, func(a, b int) bool { return late.Records[a].At < late.Records[b].At })
			if !reported(t, late) {
				t.Errorf("%s: shifted by a second, not reported: %s", name, r)
			}
		}
		t.Logf("%s: %d packets shifted one by one, all reported", name, n)
	}
}

// The generations of the UDP rule differ in ASSURED: by the model of 5.10 this kernel is wrong, and the
// comparison must say where.
func TestOtherKernelIsNamed(t *testing.T) {
	p, err := model.ProfileFor("5.10")
	if err != nil {
		t.Fatal(err)
	}
	for name, tr := range recorded(t) {
		r := trace.Replay(tr, p)
		named := slices.ContainsFunc(r.Differences, func(d trace.Difference) bool {
			return d.Field == "status" && strings.Contains(d.Model, "assured") && !strings.Contains(d.Kernel, "assured")
		})
		if r.Verdict() != trace.Different || !named {
			t.Errorf("%s: %s; ASSURED named: %v", name, r.Verdict(), named)
		}
	}
}

// What is written parses back to the same.
func TestTextRoundTrip(t *testing.T) {
	for name, tr := range recorded(t) {
		var b strings.Builder
		if err := trace.Write(&b, tr); err != nil {
			t.Fatal(err)
		}
		back, err := trace.Parse("again", strings.NewReader(b.String()))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var c strings.Builder
		if err := trace.Write(&c, back...); err != nil {
			t.Fatal(err)
		}
		if b.String() != c.String() {
			t.Errorf("%s: the second text differs from the first", name)
		}
	}
}
