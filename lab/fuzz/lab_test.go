package fuzz

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"ctlab/checks/conntrack"
	"ctlab/checks/trace"
	"ctlab/lab"
)

// Every scenario is a lab, as far as labs can say what it does.
func TestEveryScenarioIsALab(t *testing.T) {
	labs := 0
	for n := range 300 {
		s := Generate(1, n, 40)
		r := Result{Scenario: s, Trace: trace.Trace{Header: trace.Header{Lab: s.Name()}}}
		for _, op := range s.Ops {
			switch op.Kind { // those of which it is known beforehand what they do
			case Packet, Pause, Rules, Sysctl, Flush, Dump, Hold:
				r.Played = append(r.Played, Played{Op: op})
			}
		}
		text, err := (&Find{Result: r}).Lab()
		if s.Six {
			if err == nil {
				t.Errorf("%s speaks IPv6, and is a lab", s.Name())
			}
			continue
		}
		if err != nil {
			t.Error(err)
			continue
		}
		labs++
		l, err := lab.Load(s.Name(), []byte(text), "")
		if err != nil {
			t.Errorf("%s: %v\n%s", s.Name(), err, text)
			continue
		}
		samePackets(t, l, r.Played)
		if t.Failed() {
			return
		}
	}
	if labs == 0 {
		t.Error("no scenario is a lab")
	}
}

// samePackets holds the packets of a lab against those that were played.
func samePackets(t *testing.T, l *lab.Lab, played []Played) {
	t.Helper()
	var want, got []string
	for i := range played {
		if played[i].Kind == Packet {
			want = append(want, played[i].sent().Line())
		}
	}
	for _, s := range l.Steps {
		if s.Packet != nil {
			got = append(got, s.Packet.Packet.Line())
		}
	}
	if !slices.Equal(got, want) {
		for i := range want {
			if i >= len(got) || got[i] != want[i] {
				t.Errorf("%s: packet %d of the lab is not the one that was played: %s", l.Name, i+1, want[i])
				return
			}
		}
		t.Errorf("%s: %d packets, want %d", l.Name, len(got), len(want))
	}
}

func TestLabText(t *testing.T) {
	addr := netip.MustParseAddr
	packet := func(wire int, id uint16, src, dst string) Played {
		from, to := netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst)
		return Played{Op: Op{Kind: Packet, Wire: wire, Packet: conntrack.Packet{Proto: conntrack.UDP, Src: from.Addr(), Dst: to.Addr(), SrcPort: from.Port(), DstPort: to.Port(), ID: id, Len: 40, TTL: 64}}}
	}
	key := conntrack.Key{Tuple: conntrack.Tuple{Proto: conntrack.UDP, Src: addr("10.0.0.1"), Dst: addr("10.0.1.1"), SrcPort: 1, DstPort: 53}, Zone: 3}
	hold := conntrack.Hold{Where: conntrack.BeforeConfirm, Proto: conntrack.UDP, Src: addr("10.0.0.1"), New: true}
	f := Find{Before: 70, Result: Result{
		Scenario: &Scenario{Seed: 7, Number: 12, Rules: "*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -i w0 -j CT --zone 3\nCOMMIT\n*filter\n:FORWARD DROP [0:0]\nCOMMIT\n",
			Sysctls: []string{"net.ipv4.ip_forward 1", "net.netfilter.nf_conntrack_udp_timeout 2"},
			Wires: []Wire{
				{Device: "w0", Node: []netip.Prefix{netip.MustParsePrefix("10.0.0.254/24"), netip.MustParsePrefix("10.0.0.253/24")}, Hosts: []netip.Addr{addr("10.0.0.1")}},
				{Device: "w1", Node: []netip.Prefix{netip.MustParsePrefix("10.0.1.254/24")}, Hosts: []netip.Addr{addr("10.0.1.1")}, Silent: []netip.Addr{addr("10.0.1.253")}},
			}},
		Played: []Played{
			{Op: Op{Kind: Hold, Hold: hold}},
			packet(0, 1, "10.0.0.1:1", "10.0.1.1:53"),
			packet(1, 2, "10.0.1.1:53", "10.0.0.1:1"),
			{Op: Op{Kind: Release, Of: 1, Accept: false, Held: Held{ID: 2}}, Waiting: 2},
			{Op: Op{Kind: Release, Accept: true, Held: Held{ID: 1}}, Waiting: 1},
			{Op: Op{Kind: Pause, Pause: 1200 * time.Millisecond}},
			packet(0, 3, "10.0.0.1:1", "10.0.1.1:53"),
			{Op: Op{Kind: Rules, Text: "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -j DROP\nCOMMIT\n"}},
			{Op: Op{Kind: Sysctl, Text: "net.netfilter.nf_conntrack_udp_timeout 5"}},
			{Op: Op{Kind: Delete, Entry: &key}},
			{Op: Op{Kind: Flush}},
		},
		Trace: trace.Trace{Header: trace.Header{Kernel: "6.18"}},
		Report: trace.Report{Differences: []trace.Difference{
			{What: "udp 10.0.0.1:1 > 10.0.1.1:53", Field: "status", Kernel: "seen-reply", Model: "assured", Why: "because: so"}, {What: "of no importance"}}},
	}}
	f.Report.Profile.Name = "5.10"
	got, err := f.Lab()
	if err != nil {
		t.Fatal(err)
	}
	const want = `lab: fuzz-7-12
about: "udp status: kernel seen-reply, model assured"
why: |
  Found by ctlab fuzz --seed 7 --only 12 on kernel 6.18; 11 operations, of 70.
  what:   udp 10.0.0.1:1 > 10.0.1.1:53
  field:  status
  kernel: seen-reply
  model:  assured (5.10)
  why:    because: so

nodes:
  node:
    kind: router
    anchor: false # the rules below are all that there is
    sysctls:
      net.netfilter.nf_conntrack_udp_timeout: "2"
    rules: |
      *raw
      -A PREROUTING -i w0 -j CT --zone 3
      COMMIT
      *filter
      :FORWARD DROP [0:0]
      COMMIT
  w0: {kind: wire, address: [192.0.2.2/30, 10.0.0.1/24]}
  w1: {kind: wire, address: [192.0.2.6/30, 10.0.1.1/24, 10.0.1.253/24]}

steps:
  - {address: node:w0, add: [10.0.0.254/24, 10.0.0.253/24]}
  - {address: node:w0, del: 192.0.2.1/32}
  - {address: node:w1, add: [10.0.1.254/24]}
  - {address: node:w1, del: 192.0.2.5/32}
  - {route: node, add: [10.0.0.0/24 dev w0, 10.0.1.0/24 dev w1]}
  - {hold: node, match: "udp 10.0.0.1 > any", where: before-confirm, ct: new}
  - packet: udp 10.0.0.1:1 > 10.0.1.1:53 len 40 ttl 64 ip-id 1
    on: w0
  - packet: udp 10.0.1.1:53 > 10.0.0.1:1 len 40 ttl 64 ip-id 2
    on: w1
  - {release: node, packets: 2, order: [2], verdict: drop}
  - {release: node}
  - wait: 1.2s
  - {hold: node, match: "udp 10.0.0.1 > any", where: before-confirm, ct: new}
  - packet: udp 10.0.0.1:1 > 10.0.1.1:53 len 40 ttl 64 ip-id 3
    on: w0
  - rules: node
    replace: |
      *raw
      -A PREROUTING -i w0 -j CT --zone 3
      COMMIT
      *filter
      -A FORWARD -j DROP
      COMMIT
  - {sysctl: node, set: {net.netfilter.nf_conntrack_udp_timeout: "5"}}
  - conntrack: node
    delete: udp 10.0.0.1:1 > 10.0.1.1:53 zone 3
  - {conntrack: node, flush: true}
  - check: node
`
	if got != want {
		t.Errorf("the lab is\n%s", got)
	}
	if _, err := lab.Load("lab.yaml", []byte(got), ""); err != nil {
		t.Error(err)
	}
	const operations = " 0.000000 hold before-confirm udp 10.0.0.1 > any new\n 0.000000 packet w0 udp 10.0.0.1:1 > 10.0.1.1:53 len 40 ttl 64 ip-id 1\n"
	if got := f.Operations(); !strings.HasPrefix(got, operations) {
		t.Errorf("the operations are\n%s", got)
	}
}

// A hold may end while packets wait, and begin again, also in a lab.
func TestLabEndsAHold(t *testing.T) {
	s := &Scenario{Wires: []Wire{{Device: "w0", Node: []netip.Prefix{netip.MustParsePrefix("10.0.0.254/24")}}}}
	hold := Played{Op: Op{Kind: Hold, Hold: conntrack.Hold{Where: conntrack.BeforeSNAT}}}
	played := []Played{hold, {Op: packetWithID(1)}, {Op: Op{Kind: Unhold}}, {Op: packetWithID(2)}, hold, {Op: packetWithID(3)}, {Op: Op{Kind: Release, Of: 1, Accept: true}, Waiting: 2}}
	text, err := (&Find{Result: Result{Scenario: s, Played: played}}).Lab()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for l := range strings.Lines(text) {
		if word, _, _ := strings.Cut(strings.Trim(l, " -{\n"), ":"); slices.Contains([]string{"hold", "packet", "release"}, word) {
			got = append(got, strings.TrimSpace(l))
		}
	}
	const hold1 = `- {hold: node, match: "any any > any", where: before-snat, ct: any}`
	want := []string{hold1, "- packet: udp 10.0.0.1:0 > 10.0.1.1:0 len 40 ttl 64 ip-id 1", "- {release: node, packets: 0}", "- packet: udp 10.0.0.1:0 > 10.0.1.1:0 len 40 ttl 64 ip-id 2",
		hold1, "- packet: udp 10.0.0.1:0 > 10.0.1.1:0 len 40 ttl 64 ip-id 3", "- {release: node, packets: 2, order: [2]}"}
	if !slices.Equal(got, want) {
		t.Errorf("%s", strings.Join(got, "\n"))
	}
}
