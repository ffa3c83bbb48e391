package report

import (
	"strings"
	"testing"
	"time"

	"ctlab/checks/conntrack"
	"ctlab/checks/trace"
	"ctlab/lab"
)

// Each result of the text tests as a row.
func TestRow(t *testing.T) {
	for name, want := range map[string]Row{
		"stale":         {Lost: 5, Sent: 8, Outage: 6304300 * time.Microsecond, ForGood: true, Entry: "coredns-1 assured stale", Word: BrokenWord},
		"no-dnat":       {Lost: 4, Sent: 4, Outage: 1600 * time.Millisecond, ForGood: true, Entry: "no DNAT stale", Word: BrokenWord},
		"dead":          {Lost: 2, Sent: 3, Outage: 1000600 * time.Microsecond, ForGood: true, Entry: "coredns-1 assured", Word: RefusedWord},
		"reuse":         {Sent: 3, Entry: "coredns-1 assured stale", Word: WrongServer},
		"forty-clients": {Lost: 20, Sent: 80, Outage: second, ForGood: true, Entry: "coredns-1 assured stale", Word: "20 of 40 lost"},
		"background":    {Lost: 3, Sent: 100, Outage: 80 * time.Millisecond, Entry: "none", Word: Recovered},
		"predicted":     {Sent: 1, Entry: "coredns-1", Word: Unharmed, Agreement: Predicted, NotPlayed: 1},
		"cleanup":       {Sent: 2, Deleted: 7, Harmed: 2, Entry: "coredns-2", Word: HarmedWord},
		"orders":        {Entry: "-", Word: NotRun},
		"programs":      {Entry: "-", Word: NotRun},
		"skipped":       {Entry: "-", Word: SkippedWord, Agreement: NotCompared, Skipped: skippedResult(t).Skipped},
		"healthy":       {Sent: 2, Entry: "coredns-1", Word: Unharmed},
	} {
		r := results()[name](t)
		got := Compare([]*lab.Result{r}).Rows[0]
		got.About, got.Verdict, got.Wants, got.WantsMet = "", "", 0, 0
		if want.Agreement == "" {
			want.Agreement, want.Unclear = Inconclusive, "nothing was recorded"
		}
		if got != want {
			t.Errorf("%s:\n got %+v\nwant %+v", name, got, want)
		}
	}
}

// variant makes a result the result of a variant.
func variant(r *lab.Result, name string) *lab.Result {
	r.Lab.Variant = name
	r.Comparisons = []trace.Report{{Header: trace.Header{Node: "node"}, Reads: 2, Fields: 30}}
	return r
}

// What loses nothing is healed where the lab as it is loses something, and unharmed where it does not.
func TestHealedAgainstTheBase(t *testing.T) {
	fixed := variant(healthyResult(t), "fix")
	if c := Compare([]*lab.Result{staleResult(t), fixed}); c.Rows[1].Word != Healed || c.Rows[0].Word != BrokenWord {
		t.Errorf("%s, %s", c.Rows[0].Word, c.Rows[1].Word)
	}
	if c := Compare([]*lab.Result{healthyResult(t), fixed}); c.Rows[1].Word != Unharmed {
		t.Errorf("%s", c.Rows[1].Word)
	}
	if c := Compare([]*lab.Result{reuseResult(t), fixed}); c.Rows[1].Word != Healed {
		t.Errorf("behind a wrong server: %s", c.Rows[1].Word)
	}
}

func TestLastWords(t *testing.T) {
	for class, want := range map[lab.Class]Word{
		lab.Timeout: BrokenWord, lab.Refused: RefusedWord, lab.Unreachable: CutOff, lab.NotPermitted: NotAllowed, lab.WrongSource: BrokenWord, lab.Answered: Unharmed,
	} {
		f := newFixture(t, []string{"coredns-1"}, "app")
		f.query("app", 2, second, class, "coredns-1")
		if got := Compare([]*lab.Result{f.r}).Rows[0].Word; got != want {
			t.Errorf("%s: %s, want %s", class, got, want)
		}
	}
}

// A lab that is skipped heals nothing, and is not counted among those whose wants were met.
func TestSkippedInComparison(t *testing.T) {
	skipped := variant(skippedResult(t), "fix")
	c := Compare([]*lab.Result{staleResult(t), skipped})
	var b strings.Builder
	if err := ComparisonText(&b, c, Options{}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"skipped\n", "fix: skipped: coredns is not installed", "In 0 of 1 runs all wants were met"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
	if c := Compare([]*lab.Result{skippedResult(t), variant(healthyResult(t), "fix")}); c.Rows[1].Word != Unharmed || c.Kernel != "6.18.44" {
		t.Errorf("%+v", c)
	}
	b.Reset()
	if err := ComparisonText(&b, Compare([]*lab.Result{skippedResult(t)}), Options{}); err != nil || !strings.Contains(b.String(), "Nothing was played.") {
		t.Errorf("%v\n%s", err, b.String())
	}
}

// What a step of the lab cures by hand leaves the word as it was before.
func TestCuredByHand(t *testing.T) {
	f := newFixture(t, []string{"coredns-1"}, "app")
	f.query("app", 1, 0, lab.Answered, "coredns-1")
	f.restart(lab.DeathAddress, "")
	f.query("app", 2, second, lab.Timeout, "")
	f.step(lab.Step{Kind: lab.Table, Nodes: []string{"node"}}, 0, lab.Outcome{}) // finds nothing
	f.query("app", 1, 0, lab.Timeout, "")
	f.step(lab.Step{Kind: lab.Table, Nodes: []string{"node"}}, 0, lab.Outcome{Deleted: []lab.Deleted{{Node: "node", Entry: f.entry("app", "coredns-1", 0, 5)}}})
	f.query("app", 1, 0, lab.Answered, "coredns-2")
	row := Compare([]*lab.Result{f.r}).Rows[0]
	if row.Word != BrokenWord || !row.ByHand || row.ForGood || row.Lost != 3 {
		t.Errorf("%+v", row)
	}
}

// Who was never a backend is the wrong server if a stale entry leads to it, or if it was given the address
// of one; not a cache that answers without an entry.
func TestWrongServer(t *testing.T) {
	f := newFixture(t, []string{"coredns-1"}, "app")
	f.query("app", 1, 0, lab.Answered, "node")
	if w := Compare([]*lab.Result{f.r}).Rows[0].Word; w != Unharmed {
		t.Errorf("a cache: %s", w)
	}
	f.r.Steps[0].Outcome.Attempts[0].After = &lab.Seen{Entry: f.entry("app", "kube-dns", 0, 5), Stale: true}
	if w := Compare([]*lab.Result{f.r}).Rows[0].Word; w != WrongServer {
		t.Errorf("a proxy through a stale entry: %s", w)
	}
}

// Entries of fresh ports are counted by backend.
func TestFreshPortsEntry(t *testing.T) {
	f := newFixture(t, []string{"coredns-1"}, "app")
	s := f.query("app", 3, second, lab.Answered, "coredns-1")
	var table []lab.Seen
	for i := range s.Outcome.Attempts {
		s.Outcome.Attempts[i].Tuple.SrcPort += uint16(i)
		e := f.entry("app", []string{"coredns-1", "coredns-2", "coredns-2"}[i], conntrack.SeenReply, 5)
		e.Orig.SrcPort += uint16(i)
		table = append(table, lab.Seen{Entry: e, Stale: i == 0})
	}
	f.final(table...)
	if got := Compare([]*lab.Result{f.r}).Rows[0].Entry; got != "1 on coredns-1 stale, 2 on coredns-2" {
		t.Error(got)
	}
}

// The outage is that of the client that was without an answer for longest; it is for good if any client's
// last request was lost, and control clients do not count.
func TestOutage(t *testing.T) {
	at := func(client string, at time.Duration, class lab.Class) lab.Attempt {
		return lab.Attempt{Client: client, At: at, Class: class}
	}
	for _, c := range []struct {
		as      []lab.Attempt
		longest time.Duration
		forGood bool
	}{
		{nil, 0, false},
		{[]lab.Attempt{at("a", 0, lab.Answered)}, 0, false},
		{[]lab.Attempt{at("a", 0, lab.Answered), at("a", 10, lab.Timeout), at("a", 20, lab.Answered)}, 20, false},
		{[]lab.Attempt{at("a", 0, lab.Timeout), at("a", 50, lab.Answered), at("b", 60, lab.Answered), at("b", 80, lab.Refused)}, 50, true},
		{[]lab.Attempt{{Client: "a", Control: true, Took: 9, Class: lab.Timeout}}, 0, false},
	} {
		if longest, forGood := outages(c.as, 100); longest != c.longest || forGood != c.forGood {
			t.Errorf("%v: %d, %v; want %d, %v", c.as, longest, forGood, c.longest, c.forGood)
		}
	}
}

func comparison(t *testing.T) Comparison {
	base := variant(staleResult(t), "")
	differs := variant(cleanupResult(t), "a-variant-whose-name-is-longer-than-any-column-would-like")
	differs.Comparisons[0].Differences = []trace.Difference{{What: "x"}}
	refused := variant(deadResult(t), "refused")
	refused.Comparisons[0].Lost = []string{"the tap lost 3 frames"}
	return Compare([]*lab.Result{base, variant(healthyResult(t), "fix"), differs, refused, variant(fortyResult(t), "forty")})
}

func TestComparison(t *testing.T) {
	var text, page, fixes strings.Builder
	c := comparison(t)
	if err := ComparisonText(&text, c, Options{}); err != nil {
		t.Fatal(err)
	}
	if err := ComparisonMarkdown(&page, c); err != nil {
		t.Fatal(err)
	}
	predicted := Compare([]*lab.Result{predictedResult(t)})
	if err := Fixes(&fixes, []Comparison{c, predicted}); err != nil {
		t.Fatal(err)
	}
	golden(t, "comparison.txt", text.String())
	golden(t, "comparison.md", page.String())
	golden(t, "fixes.md", fixes.String())
}
