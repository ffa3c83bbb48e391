package fuzz

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"ctlab/checks/conntrack"
	"ctlab/checks/trace"
)

func TestReduce(t *testing.T) {
	for name, c := range map[string]struct {
		n      int
		needed []int
		most   int // tries
	}{
		"nothing":     {n: 0},
		"all of one":  {n: 1, needed: []int{0}, most: 1},
		"none of one": {n: 1, most: 1},
		"none":        {n: 100, most: 20},
		"the last":    {n: 100, needed: []int{99}, most: 40},
		"far apart":   {n: 100, needed: []int{3, 50, 97}, most: 70},
		"neighbours":  {n: 64, needed: []int{30, 31, 32, 33}, most: 60},
		"all":         {n: 9, needed: []int{0, 1, 2, 3, 4, 5, 6, 7, 8}, most: 20},
	} {
		t.Run(name, func(t *testing.T) {
			tries := 0
			got := reduce(c.n, func(sets [][]int) (ok []bool) {
				tries += len(sets)
				for _, s := range sets {
					ok = append(ok, holds(s, c.needed))
				}
				return ok
			})
			if !slices.Equal(got, c.needed) {
				t.Errorf("%v are left, want %v", got, c.needed)
			}
			if tries > c.most {
				t.Errorf("%d tries, want at most %d", tries, c.most)
			}
		})
	}
}

func holds[T comparable](all, needed []T) bool {
	return !slices.ContainsFunc(needed, func(n T) bool { return !slices.Contains(all, n) })
}

// Of two parts either is enough: both cannot be left out together, though each can alone.
func TestReduceOneOfTwo(t *testing.T) {
	got := reduce(16, func(sets [][]int) (ok []bool) {
		for _, s := range sets {
			ok = append(ok, slices.Contains(s, 2) || slices.Contains(s, 13))
		}
		return ok
	})
	if len(got) != 1 || got[0] != 2 && got[0] != 13 {
		t.Errorf("%v are left, want 2 or 13 alone", got)
	}
}

// fake plays scenarios without a kernel: one shows a difference if it has all that is needed for it.
type fake struct {
	needs  func(*Scenario) bool
	shows  trace.Difference
	other  bool // it shows something of another kind otherwise
	played [][]string
}

func (f *fake) play(_ context.Context, all []*Scenario) []Result {
	var out []Result
	var batch []string
	for _, s := range all {
		r := Result{Scenario: s, Report: trace.Report{Reads: 1}, Trace: trace.Trace{Header: trace.Header{Lab: s.Name()}}}
		for i, op := range s.Ops {
			r.Played = append(r.Played, Played{Op: op, At: time.Duration(i) * time.Millisecond})
			if op.Kind == Packet {
				r.Trace.Records = append(r.Trace.Records, trace.Record{Kind: trace.Packet, Args: trace.PacketArgs(s.Wires[op.Wire].Device, &op.Packet)})
			}
		}
		d := f.shows
		d.Record.At = time.Duration(len(s.Ops)-1) * time.Millisecond
		switch {
		case f.needs(s):
			r.Report.Differences = []trace.Difference{d}
		case f.other:
			d.Field = "another"
			r.Report.Differences = []trace.Difference{d}
		}
		batch = append(batch, fmt.Sprint(ids(s)))
		out = append(out, r)
	}
	f.played = append(f.played, batch)
	return out
}

// ids are those of a scenario's packets.
func ids(s *Scenario) (out []uint16) {
	for _, op := range s.Ops {
		if op.Kind == Packet {
			out = append(out, op.Packet.ID)
		}
	}
	return out
}

func packetWithID(id uint16) Op {
	return Op{Kind: Packet, Packet: conntrack.Packet{Proto: conntrack.UDP, Src: netip.MustParseAddr("10.0.0.1"), Dst: netip.MustParseAddr("10.0.1.1"), ID: id, Len: 40, TTL: 64}}
}

// crowded is a scenario with more in it than is needed.
func crowded() *Scenario {
	s := &Scenario{Seed: 1, Number: 2, Rules: "*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -j ONE\nCOMMIT\n*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -j TWO\n-A FORWARD -j THREE\nCOMMIT\n",
		Sysctls: []string{"net.a 1", "net.b 2", "net.ipv4.ip_forward 1", "net.netfilter.nf_conntrack_acct 0"}}
	for k := range 3 {
		addr := func(host byte) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(k), host}) }
		s.Wires = append(s.Wires, Wire{Device: fmt.Sprintf("w%d", k), Node: []netip.Prefix{netip.PrefixFrom(addr(254), 24), netip.PrefixFrom(addr(253), 24)},
			Hosts: []netip.Addr{addr(1), addr(2)}})
	}
	for i := range 40 {
		op := packetWithID(uint16(i + 1))
		op.Wire = i % 2 * 2
		s.Ops = append(s.Ops, op)
		if i%8 == 0 {
			s.Ops = append(s.Ops, Op{Kind: Pause, Pause: 2 * time.Second})
		}
	}
	s.Ops = append(s.Ops, Op{Kind: Rules, Text: "*filter\n-A FORWARD -j FOUR\n-A FORWARD -j FIVE\nCOMMIT\n"})
	return s
}

func TestShrink(t *testing.T) {
	needs := func(s *Scenario) bool {
		pause := time.Duration(0)
		for _, op := range s.Ops {
			pause += op.Pause
		}
		text := s.Rules
		for _, op := range s.Ops {
			text += op.Text
		}
		return holds(ids(s), []uint16{8, 22}) && pause >= 700*time.Millisecond && strings.Contains(text, "THREE") && slices.Contains(s.Sysctls, "net.b 2")
	}
	f := &fake{needs: needs, other: true, shows: trace.Difference{What: "udp 10.0.0.1:1 > 10.0.1.1:2", Field: "status", Kernel: "a", Model: "b", Why: "c"}}
	found := f.play(t.Context(), []*Scenario{crowded()})[0]
	got := shrink(t.Context(), found, Shrinking{}, f.play, time.Now, func(Shrinking) {})
	s := got.Result.Scenario
	if want := []uint16{8, 22}; !slices.Equal(ids(s), want) {
		t.Errorf("packets %v are left, want %v", ids(s), want)
	}
	if want := "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -j THREE\nCOMMIT\n"; s.Rules != want {
		t.Errorf("rules %q, want %q", s.Rules, want)
	}
	if want := []string{"net.b 2", "net.ipv4.ip_forward 1", "net.netfilter.nf_conntrack_acct 1"}; !slices.Equal(s.Sysctls, want) {
		t.Errorf("settings %q, want %q", s.Sysctls, want)
	}
	if want := []string{"net.a"}; !slices.Equal(s.Defaults, want) {
		t.Errorf("settings of the kernel's own %q, want %q", s.Defaults, want)
	}
	if len(s.Wires) != 1 || s.Wires[0].Device != "w2" || s.Ops[0].Wire != 0 || len(s.Wires[0].Node) != 1 || len(s.Wires[0].hosts()) != 0 {
		t.Errorf("wires %v", s.Wires)
	}
	var pause time.Duration
	for _, op := range s.Ops {
		pause += op.Pause
	}
	if len(s.Ops) != 3 || pause != time.Second {
		t.Errorf("%d operations with pauses of %s, want 3 and 1s", len(s.Ops), pause)
	}
	if got.Replays > maxReplays+confirmations || got.Shown != confirmations || got.Confirmed != confirmations {
		t.Errorf("%d replays, seen in %d of %d", got.Replays, got.Shown, got.Confirmed)
	}

	again := &fake{needs: needs, other: true, shows: f.shows}
	shrink(t.Context(), again.play(t.Context(), []*Scenario{crowded()})[0], Shrinking{}, again.play, time.Now, func(Shrinking) {})
	if !slices.EqualFunc(f.played, again.played, slices.Equal) {
		t.Error("the same find was made smaller in another order")
	}
}

// What is behind the first difference is not even tried, unless without it nothing is seen.
func TestShrinkCutsBehindTheDifference(t *testing.T) {
	f := &fake{needs: func(s *Scenario) bool { return slices.Contains(ids(s), 5) }, shows: trace.Difference{What: "packet", Field: "left", Kernel: "w0 udp 1 > 2", Model: "nothing leaves"}}
	found := f.play(t.Context(), []*Scenario{crowded()})[0]
	found.Report.Differences[0].Record.At = 9 * time.Millisecond
	got := shrink(t.Context(), found, Shrinking{}, f.play, time.Now, func(Shrinking) {})
	if got.Before != 10 || !slices.Equal(ids(got.Result.Scenario), []uint16{5}) {
		t.Errorf("%d operations at first, packets %v in the end", got.Before, ids(got.Result.Scenario))
	}
	for _, set := range slices.Concat(f.played[2:]...) {
		if strings.Contains(set, "40") {
			t.Errorf("played %s", set)
		}
	}
}

func TestShrinkWhatDoesNotComeBack(t *testing.T) {
	f := &fake{needs: func(*Scenario) bool { return true }, shows: trace.Difference{What: "namespace", Field: "count of entries"}}
	found := f.play(t.Context(), []*Scenario{crowded()})[0]
	f.needs = func(*Scenario) bool { return false }
	got := shrink(t.Context(), found, Shrinking{}, f.play, time.Now, func(Shrinking) {})
	if got.Confirmed != 0 || len(got.Played) != len(found.Played) {
		t.Errorf("seen in %d of %d, %d operations", got.Shown, got.Confirmed, len(got.Played))
	}
}

// What comes back by chance alone is tried once more.
func TestShrinkWhatComesBackLater(t *testing.T) {
	f := &fake{needs: func(s *Scenario) bool { return slices.Contains(ids(s), 3) }, shows: trace.Difference{What: "namespace", Field: "count of entries"}}
	found := f.play(t.Context(), []*Scenario{crowded()})[0]
	rounds := 0
	play := func(ctx context.Context, all []*Scenario) []Result {
		if rounds++; rounds == 1 {
			return make([]Result, len(all))
		}
		return f.play(ctx, all)
	}
	if got := shrink(t.Context(), found, Shrinking{}, play, time.Now, func(Shrinking) {}); got.Shown != confirmations || len(got.Played) != 1 {
		t.Errorf("seen in %d of %d, %d operations", got.Shown, got.Confirmed, len(got.Played))
	}
}

// Of a scenario that needs all that is in it, not more is played than may be.
func TestShrinkPlaysNoMoreThanItMay(t *testing.T) {
	whole := crowded().size()
	f := &fake{needs: func(s *Scenario) bool { return s.size() == whole }, shows: trace.Difference{What: "namespace", Field: "count of entries"}}
	found := f.play(t.Context(), []*Scenario{crowded()})[0]
	got := shrink(t.Context(), found, Shrinking{}, f.play, time.Now, func(Shrinking) {})
	if got.Replays > maxReplays+confirmations || got.Shown != confirmations {
		t.Errorf("%d replays, seen in %d of %d", got.Replays, got.Shown, got.Confirmed)
	}
}

// When time is up, what there is by then is the result.
func TestShrinkEndsInTime(t *testing.T) {
	f := &fake{needs: func(s *Scenario) bool { return slices.Contains(ids(s), 40) }, shows: trace.Difference{What: "namespace", Field: "count of entries"}}
	found := f.play(t.Context(), []*Scenario{crowded()})[0]
	now := time.Unix(0, 0)
	play := func(ctx context.Context, all []*Scenario) []Result {
		now = now.Add(maxShrink/2 + time.Second)
		return f.play(ctx, all)
	}
	got := shrink(t.Context(), found, Shrinking{}, play, func() time.Time { return now }, func(Shrinking) {})
	if rounds := len(f.played) - 1; rounds != 3 { // two, and the last one
		t.Errorf("%d rounds", rounds)
	}
	if n := len(got.Played); n == 0 || n >= len(found.Played) || got.Confirmed != confirmations {
		t.Errorf("%d operations are left", n)
	}
}

func TestKinds(t *testing.T) {
	different := func(d trace.Difference) Result {
		return Result{Report: trace.Report{Reads: 1, Differences: []trace.Difference{d}}}
	}
	lost := func(why string) Result { return Result{Report: trace.Report{Reads: 1, Lost: []string{why}}} }
	for name, c := range map[string]struct {
		a, b Result
		same bool
	}{
		"another value": {different(trace.Difference{What: "udp 1 > 2", Field: "packets", Kernel: "1/0", Model: "2/0"}),
			different(trace.Difference{What: "udp 3 > 4", Field: "packets", Kernel: "5/0", Model: "2/1"}), true},
		"another field":    {different(trace.Difference{What: "udp 1 > 2", Field: "packets"}), different(trace.Difference{What: "udp 1 > 2", Field: "bytes"}), false},
		"another protocol": {different(trace.Difference{What: "udp 1 > 2", Field: "packets"}), different(trace.Difference{What: "icmp 1 > 2", Field: "packets"}), false},
		"the other way round": {different(trace.Difference{What: "udp 1 > 2", Field: "entry", Kernel: "absent", Model: "present"}),
			different(trace.Difference{What: "udp 1 > 2", Field: "entry", Kernel: "present", Model: "absent"}), false},
		"an error in place of a packet": {different(trace.Difference{What: "packet", Field: "left", Kernel: "w0 udp 1 > 2 len 40", Model: "nothing leaves"}),
			different(trace.Difference{What: "packet", Field: "left", Kernel: "w0 icmp 1 > 2 type 3 about udp 2 > 1", Model: "nothing leaves"}), false},
		"another wire": {different(trace.Difference{What: "packet", Field: "left", Kernel: "w0 udp 1 > 2 len 40", Model: "nothing leaves"}),
			different(trace.Difference{What: "packet", Field: "left", Kernel: "w1 udp 2 > 1 len 41", Model: "nothing leaves"}), true},
		"not compared":          {lost("more than 64 ways to settle the choices at in 1.0 packet"), lost("more than 64 ways to settle the choices at in 2.0 release"), true},
		"for another reason":    {lost("more than 64 ways to settle the choices at in 1.0 packet"), lost("not modelled: a thing"), false},
		"compared, or not":      {lost("a"), Result{Report: trace.Report{Reads: 1}}, false},
		"different, or unclear": {lost("udp"), different(trace.Difference{What: "udp 1 > 2", Field: "packets"}), false},
	} {
		if same := c.a.kind() == c.b.kind(); same != c.same {
			t.Errorf("%s: %+v and %+v: the same is %v", name, c.a.kind(), c.b.kind(), same)
		}
	}
}

// Of each kind the find with the fewest operations is kept, and the first kinds are made smaller.
func TestFinds(t *testing.T) {
	var f finds
	for _, r := range []struct {
		number, ops int
		field       string
	}{{9, 3, "a"}, {5, 3, "a"}, {1, 4, "a"}, {7, 1, "b"}, {2, 9, "c"}} {
		res := Result{Scenario: &Scenario{Number: r.number}, Played: make([]Played, r.ops), Report: trace.Report{Differences: []trace.Difference{{What: "udp 1 > 2", Field: r.field}}}}
		f.add(res)
	}
	var got []int
	for _, r := range f.first(2) {
		got = append(got, r.Scenario.Number)
	}
	if want := []int{2, 5}; !slices.Equal(got, want) || len(slices.Collect(maps.Keys(f))) != 3 {
		t.Errorf("%v, want %v", got, want)
	}
}

// What differs comes before what says nothing.
func TestFindsThatSayNothing(t *testing.T) {
	var f finds
	f.add(Result{Scenario: &Scenario{Number: 1}, Report: trace.Report{Reads: 1, Lost: []string{"not modelled: a thing"}}})
	f.add(Result{Scenario: &Scenario{Number: 2}, Report: trace.Report{Reads: 1, Differences: []trace.Difference{{What: "udp 1 > 2", Field: "a"}}}})
	if got := f.first(1); len(got) != 1 || got[0].Scenario.Number != 2 {
		t.Errorf("%v", got)
	}
}

// IPv4 comes before IPv6, whatever the numbers are.
func TestFindsOfBothFamilies(t *testing.T) {
	var f finds
	for _, s := range []*Scenario{{Number: 1, Six: true}, {Number: 3}} {
		for _, field := range []string{"a", "b"} {
			if s.Six || field == "a" {
				f.add(Result{Scenario: s, Report: trace.Report{Differences: []trace.Difference{{What: "udp 1 > 2", Field: field}}}})
			}
		}
	}
	var got []int
	for _, r := range f.first(9) {
		got = append(got, r.Scenario.Number)
	}
	if want := []int{3, 1}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// Whoever speaks stays, and wires on which something leaves.
func TestShrinkKeepsWhoSpeaks(t *testing.T) {
	f := &fake{needs: func(s *Scenario) bool { return slices.Contains(ids(s), 7) }, shows: trace.Difference{What: "namespace", Field: "count of entries"}}
	play := func(ctx context.Context, all []*Scenario) []Result {
		out := f.play(ctx, all)
		for i := range out {
			out[i].Trace.Records = append(out[i].Trace.Records, trace.Record{Kind: trace.Left, Args: "w1 udp 10.0.0.1:1 > 10.0.1.2:53 len 40 ttl 63 ip-id 7"})
		}
		return out
	}
	got := shrink(t.Context(), play(t.Context(), []*Scenario{crowded()})[0], Shrinking{}, play, time.Now, func(Shrinking) {})
	var hosts []string
	for _, w := range got.Result.Scenario.Wires {
		hosts = append(hosts, fmt.Sprint(w.Device, w.hosts()))
	}
	if want := []string{"w0[10.0.0.1]", "w1[10.0.1.1 10.0.1.2]"}; !slices.Equal(hosts, want) {
		t.Errorf("%v, want %v", hosts, want)
	}
}
