package trace_test

import (
	"slices"
	"strconv"
	"strings"
	"testing"

	"ctlab/checks/trace"
)

// router is a namespace that tracks, with a rule that translates, and a service that has no backend.
const router = `ctlab-trace 1
lab x
node node
kernel story
profile 6.18
hz 250
ctinfo BPF
in 0 0 sysctl net.ipv4.icmp_ratelimit 1000
in 0 0 sysctl net.ipv4.ip_default_ttl 64
in 0 0 sysctl net.ipv4.ip_forward 1
in 0 0 sysctl net.netfilter.nf_conntrack_acct 0
in 0 0 sysctl net.netfilter.nf_conntrack_checksum 1
in 0 0 sysctl net.netfilter.nf_conntrack_udp_timeout 30
in 0 0 sysctl net.netfilter.nf_conntrack_udp_timeout_stream 120
in 0 0 link app up
in 0 0 address app 10.0.1.1/32
in 0 0 route 10.0.1.2/32 dev app
in 0 0 arp app 10.0.1.2
in 0 0 link b1 up
in 0 0 address b1 10.0.2.101/32
in 0 0 route 10.0.2.1/32 dev b1
in 0 0 arp b1 10.0.2.1
in 0 0 rules restore
	*raw
	:PREROUTING ACCEPT [0:0]
	-A PREROUTING -p udp -m udp --dport 7 -j CT --notrack
	-A PREROUTING -p udp -m udp --dport 8 -j DROP
	COMMIT
	*nat
	:PREROUTING ACCEPT [0:0]
	-A PREROUTING -d 10.96.0.10/32 -p udp -m udp --dport 53 -j DNAT --to-destination 10.0.2.1:53
	COMMIT
	*filter
	:FORWARD ACCEPT [0:0]
	-A FORWARD -d 10.96.0.11/32 -p udp -j REJECT --reject-with icmp-port-unreachable
	COMMIT
in 0 0 route 10.96.0.11/32 dev b1
`

// tracked is what passes: a query, its answer, an error about the answer, packets that are not tracked or dropped in front of tracking,
// a packet with a wrong checksum, one that the node answers itself,
// and one that it sends to itself, where nobody takes it.
const tracked = `in 0.1 0 packet app udp 10.0.1.2:4000 > 10.96.0.10:53 len 60 ttl 64 ip-id 1 df
seen 0.1 0 ctinfo app udp 10.0.1.2:4000 > 10.96.0.10:53 len 60 ttl 64 ip-id 1 df is new
seen 0.1 0 left b1 udp 10.0.1.2:4000 > 10.0.2.1:53 len 60 ttl 63 ip-id 1 df
in 0.2 0 packet b1 udp 10.0.2.1:53 > 10.0.1.2:4000 len 60 ttl 64 ip-id 2
seen 0.2 0 ctinfo b1 udp 10.0.2.1:53 > 10.0.1.2:4000 len 60 ttl 64 ip-id 2 is established-reply
seen 0.2 0 left app udp 10.96.0.10:53 > 10.0.1.2:4000 len 60 ttl 63 ip-id 2
in 0.3 0 packet app icmp 10.0.1.2 > 10.96.0.10 type 3 code 3 id 0 len 88 ttl 64 ip-id 3 about udp 10.96.0.10:53 > 10.0.1.2:4000 len 60 ttl 63 ip-id 2
seen 0.3 0 ctinfo app icmp 10.0.1.2 > 10.96.0.10 type 3 code 3 id 0 len 88 ttl 64 ip-id 3 about udp 10.96.0.10:53 > 10.0.1.2:4000 len 60 ttl 63 ip-id 2 is related
seen 0.3 0 left b1 icmp 10.0.1.2 > 10.0.2.1 type 3 code 3 id 0 len 88 ttl 63 ip-id 3 about udp 10.0.2.1:53 > 10.0.1.2:4000 len 60 ttl 63 ip-id 2
in 0.4 0 packet app udp 10.0.1.2:4000 > 10.0.2.1:7 len 60 ttl 64 ip-id 4
seen 0.4 0 ctinfo app udp 10.0.1.2:4000 > 10.0.2.1:7 len 60 ttl 64 ip-id 4 is untracked
seen 0.4 0 left b1 udp 10.0.1.2:4000 > 10.0.2.1:7 len 60 ttl 63 ip-id 4
in 0.5 0 packet app udp 10.0.1.2:4000 > 10.0.2.1:8 len 60 ttl 64 ip-id 5
in 0.6 0 packet app udp 10.0.1.2:4000 > 10.0.2.1:53 len 60 ttl 64 ip-id 6 bad checksum
seen 0.6 0 ctinfo app udp 10.0.1.2:4000 > 10.0.2.1:53 len 60 ttl 64 ip-id 6 is invalid
seen 0.6 0 left b1 udp 10.0.1.2:4000 > 10.0.2.1:53 len 60 ttl 63 ip-id 6 bad checksum
in 0.7 0 packet app udp 10.0.1.2:4001 > 10.96.0.11:53 len 60 ttl 64 ip-id 7
seen 0.7 0 ctinfo app udp 10.0.1.2:4001 > 10.96.0.11:53 len 60 ttl 64 ip-id 7 is new
seen 0.7 0 ctinfo - icmp 10.0.1.1 > 10.0.1.2 type 3 code 3 id 0 len 88 ttl 64 ip-id 900 about udp 10.0.1.2:4001 > 10.96.0.11:53 len 60 ttl 63 ip-id 7 is related-reply
seen 0.7 0 left app icmp 10.0.1.1 > 10.0.1.2 type 3 code 3 id 0 len 88 ttl 64 ip-id 900 about udp 10.0.1.2:4001 > 10.96.0.11:53 len 60 ttl 63 ip-id 7
in 0.8 0 get udp 10.0.1.2:9 > 10.96.0.10:9
seen 0.8 0 absent udp 10.0.1.2:9 > 10.96.0.10:9
in 1.0 0 send udp 10.0.1.1:9 > 10.0.1.1:7 len 60 ttl 64 ip-id 0 df
seen 1.0 0 ctinfo - udp 10.0.1.1:9 > 10.0.1.1:7 len 60 ttl 64 ip-id 901 df is new
seen 1.0 0 ctinfo lo udp 10.0.1.1:9 > 10.0.1.1:7 len 60 ttl 64 ip-id 901 df is new
seen 1.0 0 ctinfo - icmp 10.0.1.1 > 10.0.1.1 type 3 code 3 id 0 len 88 ttl 64 ip-id 902 about udp 10.0.1.1:9 > 10.0.1.1:7 len 60 ttl 64 ip-id 901 df is related-reply
seen 1.0 0 ctinfo lo icmp 10.0.1.1 > 10.0.1.1 type 3 code 3 id 0 len 88 ttl 64 ip-id 902 about udp 10.0.1.1:9 > 10.0.1.1:7 len 60 ttl 64 ip-id 901 df is related-reply
`

func storyOf(t *testing.T, lines []string) trace.Trace {
	t.Helper()
	text := router + strings.Join(lines, "")
	records := strings.Count(text, "\nin ") + strings.Count(text, "\nseen ")
	traces, err := trace.Parse("story", strings.NewReader(text+"end "+strconv.Itoa(records)+"\n"))
	if err != nil {
		t.Fatal(err)
	}
	return traces[0]
}

// Each ctinfo must be that of a packet, and each packet that passes nf_conntrack_in must have one.
func TestCTInfoIsCompared(t *testing.T) {
	lines := slices.Collect(strings.SplitAfterSeq(strings.TrimSuffix(tracked, "\n"), "\n"))
	lines[len(lines)-1] += "\n"
	whole := storyOf(t, lines)
	r := trace.Replay(whole, profileOf(t, whole))
	for _, d := range r.Differences {
		t.Errorf("as it was: %s", d)
	}
	without := slices.DeleteFunc(slices.Clone(lines), func(l string) bool { return strings.Contains(l, " ctinfo ") })
	blind := storyOf(t, without)
	blind.CTInfo = ""
	b := trace.Replay(blind, profileOf(t, blind))
	if b.Verdict() != trace.Same || r.Fields-b.Fields != len(lines)-len(without) {
		t.Errorf("without ctinfos: %s, %s; with them: %s", b.Verdict(), b.Summary(), r.Summary())
	}
	for i, l := range lines {
		if !strings.Contains(l, " ctinfo ") {
			continue
		}
		cut := slices.Delete(slices.Clone(lines), i, i+1)
		if tr := storyOf(t, cut); trace.Replay(tr, profileOf(t, tr)).Verdict() != trace.Different {
			t.Errorf("not missed: %s", l)
		}
		tr := storyOf(t, cut)
		tr.CTLost = 1
		if v := trace.Replay(tr, profileOf(t, tr)).Verdict(); v != trace.Same {
			t.Errorf("%s, where not all were recorded, and this one was not: %s", v, l)
		}
		if at := strings.Index(l, " about "); at > 0 {
			bare := l[:at] + l[strings.LastIndex(l, " is "):]
			tr := storyOf(t, slices.Insert(slices.Clone(cut), i, bare))
			if v := trace.Replay(tr, profileOf(t, tr)).Verdict(); v != trace.Same {
				t.Errorf("%s, without what it quotes: %s", v, bare)
			}
		}
		twice := slices.Insert(slices.Clone(lines), i, l)
		if tr := storyOf(t, twice); trace.Replay(tr, profileOf(t, tr)).Verdict() != trace.Different {
			t.Errorf("seen twice, not reported: %s", l)
		}
		moved := slices.Insert(slices.Clone(cut), max(i-2, 0), l)
		if tr := storyOf(t, moved); trace.Replay(tr, profileOf(t, tr)).Verdict() != trace.Same {
			t.Errorf("seen a little before its packet, reported: %s", l)
		}
	}
}

// What was lost is known from the header.
func TestCTInfoHeader(t *testing.T) {
	for line, want := range map[string]string{"ctinfo BPF": "", "ctinfo nftrace lost 7": "", "ctinfo nftrace lost none": "want SOURCE", "ctinfo nftrace lost 0": "want SOURCE"} {
		text := strings.Replace(router, "ctinfo BPF", line, 1) + "end 17\n"
		traces, err := trace.Parse("header", strings.NewReader(text))
		if want != "" {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v", line, err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		if err := trace.Write(&b, traces...); err != nil || !strings.Contains(b.String(), "\n"+line+"\n") {
			t.Errorf("%s: %v, %s", line, err, b.String())
		}
	}
}

// What is seen of packets behind the end of what the tap saw says nothing, nor does a packet at the very end of it.
func TestCTInfoAtTheEnd(t *testing.T) {
	const (
		packet = "in 1 9 packet app udp 10.0.1.2:4000 > 10.0.2.1:7 len 60 ttl 64 ip-id 4\n"
		ctinfo = "seen 1.0001 9 ctinfo app udp 10.0.1.2:4000 > 10.0.2.1:7 len 60 ttl 64 ip-id 4 is untracked\n"
		left   = "seen 1.0001 9 left b1 udp 10.0.1.2:4000 > 10.0.2.1:7 len 60 ttl 63 ip-id 4\n"
		read   = "in 0.8 0 get udp 10.0.1.2:9 > 10.96.0.10:9\nseen 0.8 0 absent udp 10.0.1.2:9 > 10.96.0.10:9\n"
	)
	for name, c := range map[string]struct {
		lines []string
		want  trace.Verdict
	}{
		"packet at the end":   {[]string{read, packet, left, "seen 1.0002 9 ended\n"}, trace.Same},
		"packet long before":  {[]string{read, packet, left, "seen 1.1 9 ended\n"}, trace.Different},
		"ctinfo behind":       {[]string{read, "seen 0.9 9 ended\n", ctinfo}, trace.Same},
		"ctinfo without it":   {[]string{read, ctinfo, "seen 1.1 9 ended\n"}, trace.Different},
		"discovery":           {[]string{read, "in 1 9 packet app icmpv6 fe80::1 > ff02::16 type 143 code 0 id 0 len 96 ttl 1 ip-id 0\n", "seen 1.1 9 ended\n"}, trace.Same},
		"both before the end": {[]string{read, packet, ctinfo, left, "seen 1.1 9 ended\n"}, trace.Same},
	} {
		tr := storyOf(t, c.lines)
		if r := trace.Replay(tr, profileOf(t, tr)); r.Verdict() != c.want {
			t.Errorf("%s: %s, %v", name, r.Verdict(), r.Differences)
		}
	}
}
