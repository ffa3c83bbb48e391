package trace_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"ctlab/checks/conntrack"
	"ctlab/checks/model"
	"ctlab/checks/trace"
)

func story(t *testing.T, name string) trace.Trace {
	t.Helper()
	return parseFile(t, filepath.Join("testdata/stories", name+".trace"))[0]
}

// Sharpness of the stories: each changed observation is reported. Only a port that NAT picked at random may
// have been another.
func TestStoriesAreSharp(t *testing.T) {
	files, err := filepath.Glob("testdata/stories/*.trace")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, f := range files {
		for _, tr := range parseFile(t, f) {
			ports := trace.Replay(tr, profileOf(t, tr)).Free[model.ChoosePort]
			for i, r := range tr.Records {
				if r.Input() {
					continue
				}
				for what, changed := range changes(r) {
					n++
					if what == "id" || what == "source port" && ports > 0 {
						continue // an id that is seen once may be any
					}
					if v := trace.Replay(with(tr, i, changed), profileOf(t, tr)).Verdict(); v != trace.Different {
						t.Errorf("%s: %s changed, %s: %s", filepath.Base(f), what, v, changed)
					}
				}
			}
		}
	}
	t.Logf("%d changes of one observed field", n)
}

// Of two packets during a rules load the first may find the old rules and the second the new ones, or both
// the same; never the first the new ones and the second the old ones.
func TestOrderOfRulesLoad(t *testing.T) {
	tr := story(t, "order-of-a-rules-load")
	var lefts []int
	for i, r := range tr.Records {
		if r.Kind == trace.Left {
			lefts = append(lefts, i)
		}
	}
	to := func(tr trace.Trace, at int, backend string) trace.Trace {
		r := tr.Records[lefts[at]]
		dev := map[string]string{"10.0.2.1": "b1", "10.0.2.2": "b2"}[backend]
		_, rest, _ := strings.Cut(r.Args, " ")
		head, tail, _ := strings.Cut(rest, " > ")
		_, tail, _ = strings.Cut(tail, ":")
		r.Args = dev + " " + head + " > " + backend + ":" + tail
		return with(tr, lefts[at], r)
	}
	// Without the reads behind it each of the four can be told; the read of the first flow decides.
	for i, r := range tr.Records {
		if r.Kind == trace.Get || r.Kind == trace.Hits {
			tr.Records = slices.Clip(tr.Records[:i])
			break
		}
	}
	for _, c := range []struct {
		first, second string
		differs       bool
	}{{"10.0.2.1", "10.0.2.1", false}, {"10.0.2.1", "10.0.2.2", false}, {"10.0.2.2", "10.0.2.2", false}, {"10.0.2.2", "10.0.2.1", true}} {
		r := trace.Replay(to(to(tr, 0, c.first), 1, c.second), profileOf(t, tr))
		if (len(r.Differences) > 0) != c.differs {
			t.Errorf("%s, then %s: %v", c.first, c.second, r.Differences)
		}
	}
}

// What a read found may stand directly behind it, or behind its end.
func TestReadsBeforeAndBehindTheirEnd(t *testing.T) {
	tr := story(t, "dump-during-traffic")
	at := slices.IndexFunc(tr.Records, func(r trace.Record) bool { return r.Kind == trace.Dump })
	var found, others []trace.Record
	for _, r := range tr.Records[at+1:] {
		if r.Kind == trace.Dump {
			break
		}
		if r.Kind == trace.Entry || r.Kind == trace.Dumped {
			found = append(found, r)
		} else {
			others = append(others, r)
		}
	}
	rest := tr.Records[at+1+len(found)+len(others):]
	tr.Records = slices.Concat(tr.Records[:at+1], found, others, rest)
	if r := trace.Replay(tr, profileOf(t, tr)); r.Verdict() != trace.Same || r.Free[model.ChooseOrder] != 2 {
		t.Errorf("%s, %s: %v", r.Verdict(), r.Summary(), r.Differences)
	}
}

// The time that an act took stands behind its time, and is optional.
func TestTook(t *testing.T) {
	r := trace.Record{At: 12345678 * time.Microsecond, Took: 3100 * time.Microsecond, Span: conntrack.At(5), Kind: trace.Dump}
	if want := "in     12.345678+0.003100 5 dump"; r.String() != want {
		t.Errorf("%q, want %q", r.String(), want)
	}
}

// traffic is a trace of packets of some flows through DNAT, each answered by nobody.
func traffic(flows, packets int, load bool) trace.Trace {
	var b strings.Builder
	records := 0
	add := func(format string, args ...any) {
		fmt.Fprintf(&b, format+"\n", args...)
		records++
	}
	b.WriteString("ctlab-trace 1\nlab x\nnode n\nkernel k\nprofile 6.18\nhz 250\n")
	add("in 0 0 sysctl net.ipv4.ip_forward 1")
	add("in 0 0 link b up")
	add("in 0 0 route 0.0.0.0/0 dev b")
	add("in 0 0 arp b 10.0.2.1")
	add("in 0 0 rules restore\n\t*nat\n\t:PREROUTING ACCEPT\n\t-A PREROUTING -p udp -j DNAT --to-destination 10.0.2.1:53\n\tCOMMIT")
	for i := range packets {
		at, port := float64(i)/1000, 40000+i%flows
		if load && i%100 == 50 {
			add("in %f+0.003000 %d rules noflush\n\t*nat\n\t-F PREROUTING\n\t-A PREROUTING -p udp -j DNAT --to-destination 10.0.2.1:53\n\tCOMMIT", at, i/4)
		}
		add("in %f %d packet a udp 10.0.1.1:%d > 10.0.9.9:53 len 60 ttl 64 ip-id %d", at+0.0001, i/4, port, i)
		add("seen %f %d left b udp 10.0.1.1:%d > 10.0.2.1:53 len 60 ttl 63 ip-id %d", at+0.0002, i/4, port, i)
	}
	fmt.Fprintf(&b, "end %d\n", records)
	traces, err := trace.Parse("made", strings.NewReader(b.String()))
	if err != nil {
		panic(err)
	}
	return traces[0]
}

func BenchmarkReplay(b *testing.B) {
	for _, load := range []bool{false, true} {
		b.Run(fmt.Sprintf("2000-packets-100-entries-loads-%v", load), func(b *testing.B) {
			tr := traffic(100, 2000, load)
			p, err := model.ProfileFor("6.18")
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				if r := trace.Replay(tr, p); len(r.Differences) > 0 {
					b.Fatal(r.Differences[0])
				}
			}
		})
	}
}

// An act that began when another had ended does not come before it, even where both overlap one packet.
func TestOrderOfTwoActs(t *testing.T) {
	load := func(at, backend string) string {
		return "in " + at + " 250 rules noflush\n\t*nat\n\t-F PREROUTING\n\t-A PREROUTING -p udp -j DNAT --to-destination " + backend + "\n\tCOMMIT\n"
	}
	text := func(backend, last string) string {
		return "ctlab-trace 1\nlab x\nnode n\nkernel k\nprofile 6.18\nhz 250\nin 0 0 sysctl net.ipv4.ip_forward 1\nin 0 0 sysctl net.netfilter.nf_conntrack_acct 0\n" +
			"in 0 0 sysctl net.netfilter.nf_conntrack_udp_timeout 30\nin 0 0 link b up\nin 0 0 route 0.0.0.0/0 dev b\n" +
			"in 0 0 arp b 10.0.2.1\nin 0 0 arp b 10.0.2.2\nin 0 0 arp b 10.0.2.3\n" +
			load("0.5", "10.0.2.1") + load("1.0+0.001", "10.0.2.2") +
			"in 1.0009+0.0005 250 packet a udp 10.0.1.2:1 > 10.0.9.9:53 len 60 ttl 64 ip-id 1\n" +
			load("1.0012+0.001", "10.0.2.3") +
			"seen 1.0014 250 left b udp 10.0.1.2:1 > " + backend + ":53 len 60 ttl 63 ip-id 1\n" +
			"in 2 500 packet a udp 10.0.1.2:2 > 10.0.9.9:53 len 60 ttl 64 ip-id 2\nseen 2 500 left b udp 10.0.1.2:2 > " + last + ":53 len 60 ttl 63 ip-id 2\nend 15\n"
	}
	for _, c := range []struct {
		during, last string
		differs      bool
	}{{"10.0.2.1", "10.0.2.3", false}, {"10.0.2.2", "10.0.2.3", false}, {"10.0.2.3", "10.0.2.3", false}, {"10.0.2.2", "10.0.2.2", true}, {"10.0.2.3", "10.0.2.2", true}} {
		traces, err := trace.Parse("made", strings.NewReader(text(c.during, c.last)))
		if err != nil {
			t.Fatal(err)
		}
		r := trace.Replay(traces[0], profileOf(t, traces[0]))
		if (len(r.Differences) > 0) != c.differs || len(r.Lost) > 0 || r.Free[model.ChooseOrder] != 2 {
			t.Errorf("%v: %v %v, %s", c, r.Differences, r.Lost, r.Summary())
		}
	}
}

// A packet may hold its entry for a while behind its stamp: a use count may be above by as many packets as the entry
// had shortly before the read, and by no more, nor later, nor below.
func TestUseOfAnEntryWithPacketsOnTheirWay(t *testing.T) {
	for _, c := range []struct {
		at, tick int // of the read: ms
		use      int
		verdict  trace.Verdict
		free     int
	}{
		{20, 5, 1, trace.Same, 0}, {20, 5, 2, trace.Same, 1}, {20, 5, 3, trace.Same, 1}, {20, 5, 4, trace.Different, 0}, {20, 5, 0, trace.Different, 0},
		{400, 100, 1, trace.Same, 0}, {400, 100, 2, trace.Different, 0},
	} {
		tr := traffic(1, 2, false)
		entry := fmt.Sprintf("udp 10.0.1.1:40000 > 10.0.9.9:53 | 10.0.2.1:53 > 10.0.1.1:40000 status confirmed,dnat,snat-done,dnat-done timeout 29s mark 0x0 use %d id 0x1", c.use)
		at := time.Duration(c.at) * time.Millisecond
		for _, r := range []trace.Record{{Kind: trace.Dump}, {Kind: trace.Entry, Args: entry}, {Kind: trace.Dumped, Args: "1"}} {
			r.At, r.Span = at, conntrack.At(conntrack.Tick(c.tick))
			tr.Records = append(tr.Records, r)
		}
		r := trace.Replay(tr, profileOf(t, tr))
		if len(r.Differences) == 0 && c.verdict == trace.Different || len(r.Differences) > 0 && c.verdict == trace.Same || r.Free[model.ChooseOrder] != c.free {
			t.Errorf("use %d, read at %d ms: %s, want %s with %d free: %v", c.use, c.at, r.Summary(), c.verdict, c.free, r.Differences)
		}
	}
}

// A packet that waits for a neighbour holds its entry until the neighbour answers: a dump meanwhile may see both.
func TestUseWhileANeighbourAnswers(t *testing.T) {
	for use, want := range map[int]trace.Verdict{1: trace.Same, 2: trace.Same, 3: trace.Different} {
		text := fmt.Sprintf(`ctlab-trace 1
lab x
node n
kernel k
profile 6.18
hz 250
in 0 0 sysctl net.ipv4.ip_forward 1
in 0 0 link b up
in 0 0 route 0.0.0.0/0 dev b
in 0 0 rules restore
	*filter
	:FORWARD ACCEPT
	-A FORWARD -m conntrack --ctstate NEW
	COMMIT
in 0.1 25 packet a udp 10.0.1.1:1 > 10.0.2.1:2 len 60 ttl 64 ip-id 1
in 0.5+0.010000 125 dump
in 0.505 126 arp b 10.0.2.1
seen 0.505 126 left b udp 10.0.1.1:1 > 10.0.2.1:2 len 60 ttl 63 ip-id 1
seen 0.510 127 entry udp 10.0.1.1:1 > 10.0.2.1:2 | 10.0.2.1:2 > 10.0.1.1:1 status confirmed timeout 29s mark 0x0 use %d id 0x1
seen 0.510 127 dumped 1
end 10
`, use)
		traces, err := trace.Parse("made", strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		r := trace.Replay(traces[0], profileOf(t, traces[0]))
		if got := len(r.Differences) == 0; got != (want == trace.Same) {
			t.Errorf("use %d: %v, want %s", use, r.Differences, want)
		}
	}
}

// When a queue of fragments is given up is known to a quarter of a second only. Here that decides whether the error about
// it is within its rate, and nothing but what does not leave, and a counter, tell. Recorded on 6.18.44, and shortened.
func TestFragmentsGivenUpAtTheEdgeOfTheRate(t *testing.T) {
	tr := parseFile(t, "testdata/finds/fragments-given-up-at-the-edge-of-the-rate.trace")[0]
	r := trace.Replay(tr, profileOf(t, tr))
	if r.Verdict() != trace.Same || r.Free[model.ChooseTiming] != 1 {
		t.Errorf("%s, %s: %v", r.Verdict(), r.Summary(), r.Differences)
	}
	last := len(tr.Records) - 1
	for tr.Records[last].Kind != trace.Stats {
		last--
	}
	more := tr.Records[last]
	more.Args = strings.Replace(more.Args, "error 11", "error 12", 1)
	if v := trace.Replay(with(tr, last, more), profileOf(t, tr)).Verdict(); v != trace.Different {
		t.Errorf("one error more: %s", v)
	}
}

// What timers did, they did before the collector took the entry of which it is told later: the error about fragments still
// belonged to it, and counts as none.
func TestFragmentsGivenUpBeforeTheirEntryGoes(t *testing.T) {
	for errors, want := range map[int]trace.Verdict{0: trace.Same, 1: trace.Different} {
		text := fmt.Sprintf(`ctlab-trace 1
lab x
node n
kernel k
profile 6.18
hz 250
in 0 0 listen
in 0 0 sysctl net.ipv4.ip_forward 1
in 0 0 sysctl net.ipv4.ip_default_ttl 64
in 0 0 sysctl net.ipv4.icmp_ratelimit 0
in 0 0 sysctl net.ipv4.ipfrag_time 2
in 0 0 sysctl net.netfilter.nf_conntrack_acct 0
in 0 0 sysctl net.netfilter.nf_conntrack_checksum 1
in 0 0 sysctl net.netfilter.nf_conntrack_udp_timeout 3
in 0 0 link a up
in 0 0 address a 10.0.1.254/24
in 0 0 route 10.0.1.0/24 dev a
in 0 0 arp a 10.0.1.1
in 0 0 rules restore
	*filter
	:FORWARD ACCEPT
	-A FORWARD -m conntrack --ctstate NEW
	COMMIT
in 0.1 0 socket open 10.0.1.254:6
in 0.1 0 packet a udp 10.0.1.1:5 > 10.0.1.254:6 len 60 ttl 64 ip-id 1
seen 0.1 0 event new udp 10.0.1.1:5 > 10.0.1.254:6 | 10.0.1.254:6 > 10.0.1.1:5 status confirmed timeout 3s id 0x1
in 0.2 25 packet a udp 10.0.1.1:5 > 10.0.1.254:6 len 44 ttl 64 ip-id 2 frag 0+
seen 2.3 530 left a icmp 10.0.1.254 > 10.0.1.1 type 11 code 1 id 0 len 72 ttl 64 ip-id 7 about udp 10.0.1.1:5 > 10.0.1.254:6 len 44 ttl 64 ip-id 2 frag 0+
seen 3.2 800 event destroy udp 10.0.1.1:5 > 10.0.1.254:6 | 10.0.1.254:6 > 10.0.1.1:5 status confirmed,dying id 0x1
in 3.3 801 get udp 10.0.1.1:5 > 10.0.1.254:6
seen 3.3 801 absent udp 10.0.1.1:5 > 10.0.1.254:6
seen 3.3 801 stats error %d
end 22
`, errors)
		traces, err := trace.Parse("made", strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		if r := trace.Replay(traces[0], profileOf(t, traces[0])); r.Verdict() != want {
			t.Errorf("%d errors: %s, want %s: %v %v", errors, r.Verdict(), want, r.Differences, r.Lost)
		}
	}
}
