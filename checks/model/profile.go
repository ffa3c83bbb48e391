package model

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// AssuredRule is when the UDP tracker takes the stream timeout and sets ASSURED on a flow that has seen
// a reply (nf_conntrack_proto_udp.c, nf_conntrack_udp_packet).
type AssuredRule string

// The three generations of the rule.
const (
	// AssuredAtOnce: stream timeout and ASSURED with the first packet after the reply (up to 4.20).
	AssuredAtOnce AssuredRule = "at-once"
	// AssuredAtOnceStreamLater: ASSURED at once, stream timeout once the flow is 2 s old (5.0 to 5.16,
	// without the stable releases that carry b7b1d02fc439).
	AssuredAtOnceStreamLater AssuredRule = "at-once-stream-later"
	// AssuredAfterTwoSeconds: both only once the flow is 2 s old (5.17; b7b1d02fc439).
	AssuredAfterTwoSeconds AssuredRule = "after-2s"
)

// Profile says how a kernel behaves where kernels differ. Names are those of mainline releases; a
// stable release may behave like a later one, which is why probing decides and a name only predicts.
type Profile struct {
	Name           string
	Assured        AssuredRule
	StreamTimeout  int  // built-in default of nf_conntrack_udp_timeout_stream, s
	WholeSeconds   bool // a refresh that gains less than a second is skipped (timers, up to 4.5)
	TimersEvict    bool // an expired entry goes away at its tick (up to 4.8), else when something touches it
	HooksOnDemand  bool // tracking starts with the first rule that needs it (4.10)
	DestroyTimeout bool // a DESTROY event carries the time that was left (5.11)
	// WholeRange: a search for a port tries all of the range (up to 4.20), else at most 128 and then half of it.
	WholeRange bool
	// RandomDestination: a search for a destination port starts anywhere (5.0 to 6.7), else at the first one.
	RandomDestination bool
	// LazyTokens: the tokens of ICMP errors are counted anew, and cut to their limit, only in a tick in which they were not yet
	// (inet_peer_xrlim_allow in net/ipv4/inetpeer.c, from 6.14; seen on 6.18).
	LazyTokens bool
	// PrefixRate: ICMPv6 errors to a prefix wider than /128 may come more often (icmpv6_xrlim_allow; 6.18 does not ask: seen).
	PrefixRate bool
	// Clash: what becomes of a packet whose entry cannot go into the table. A packet that joins another entry counts
	// as clash_resolve from 5.10, as insert_failed before.
	Clash    ClashRule
	GREClash bool // GRE packets may join another entry too (6.6)
	// GenericClash: so may those of protocols that are tracked by their number alone (a change of stable releases of
	// late 2025 and after; seen on 6.18.44).
	GenericClash bool
	// ReverseLookup: NAT looks for the entry that has a tuple by its reply tuple too, so that not every flow with NAT
	// passes for one without (6.16; 50d9ce9679dd).
	ReverseLookup bool
	OneVictim     bool // an early drop takes one entry (up to 4.5), else all that one hash chain has
	CollectsEarly bool // a full table makes the garbage collector take what is not ASSURED (4.12)
	// ZeroNet: all of 0.0.0.0/8 is martian (up to 5.2; 96125bf9985a), else 0.0.0.0 alone.
	ZeroNet bool
	// Legacy: rules are those of iptables-legacy, whose tables are replaced as a whole, also for one rule more.
	// This is a matter of the program, not of the release.
	Legacy     bool
	FromSource bool // read in the source of that release, not seen running
}

// profiles are ordered by release; conntrack-kernel facts per tree are in the comments of the fields.
func profiles() []Profile {
	return []Profile{
		{Name: "3.10", ZeroNet: true, PrefixRate: true, Clash: ClashDrops, OneVictim: true, WholeRange: true, Assured: AssuredAtOnce, StreamTimeout: 180, WholeSeconds: true, TimersEvict: true, FromSource: true},
		{Name: "4.4", ZeroNet: true, PrefixRate: true, Clash: ClashDrops, OneVictim: true, WholeRange: true, Assured: AssuredAtOnce, StreamTimeout: 180, WholeSeconds: true, TimersEvict: true, FromSource: true},
		{Name: "4.9", ZeroNet: true, PrefixRate: true, Clash: ClashMergesWithoutNAT, WholeRange: true, Assured: AssuredAtOnce, StreamTimeout: 180, FromSource: true},
		{Name: "4.19", ZeroNet: true, PrefixRate: true, Clash: ClashMerges, CollectsEarly: true, WholeRange: true, Assured: AssuredAtOnce, StreamTimeout: 180, HooksOnDemand: true, FromSource: true},
		{Name: "5.0", ZeroNet: true, PrefixRate: true, Clash: ClashMerges, CollectsEarly: true, RandomDestination: true, Assured: AssuredAtOnceStreamLater, StreamTimeout: 120, HooksOnDemand: true, FromSource: true},
		{Name: "5.10", PrefixRate: true, Clash: ClashHides, CollectsEarly: true, RandomDestination: true, Assured: AssuredAtOnceStreamLater, StreamTimeout: 120, HooksOnDemand: true, FromSource: true},
		{Name: "5.15", PrefixRate: true, Clash: ClashHides, CollectsEarly: true, RandomDestination: true, Assured: AssuredAtOnceStreamLater, StreamTimeout: 120, HooksOnDemand: true, DestroyTimeout: true, FromSource: true},
		{Name: "5.17", PrefixRate: true, Clash: ClashHides, CollectsEarly: true, RandomDestination: true, Assured: AssuredAfterTwoSeconds, StreamTimeout: 120, HooksOnDemand: true, DestroyTimeout: true, FromSource: true},
		{Name: "6.1", PrefixRate: true, Clash: ClashHides, CollectsEarly: true, RandomDestination: true, Assured: AssuredAfterTwoSeconds, StreamTimeout: 120, HooksOnDemand: true, DestroyTimeout: true, FromSource: true},
		{Name: "6.6", PrefixRate: true, Clash: ClashHides, CollectsEarly: true, RandomDestination: true, Assured: AssuredAfterTwoSeconds, StreamTimeout: 120, HooksOnDemand: true, GREClash: true, DestroyTimeout: true, FromSource: true},
		{Name: "6.12", PrefixRate: true, Clash: ClashMergesCrosswise, CollectsEarly: true, Assured: AssuredAfterTwoSeconds, StreamTimeout: 120, HooksOnDemand: true, GREClash: true, DestroyTimeout: true, FromSource: true},
		{Name: "6.18", ReverseLookup: true, LazyTokens: true, Clash: ClashMergesCrosswise, CollectsEarly: true, Assured: AssuredAfterTwoSeconds, StreamTimeout: 120, HooksOnDemand: true, GREClash: true, GenericClash: true, DestroyTimeout: true},
	}
}

// ProfileNames lists the names that ProfileFor knows exactly.
func ProfileNames() []string {
	var names []string
	for _, p := range profiles() {
		names = append(names, p.Name)
	}
	return names
}

// ProfileFor finds the profile of a kernel release such as "6.18.44-cloud" or "5.10": the newest one
// that is not newer than the release.
func ProfileFor(release string) (Profile, error) {
	want, err := parseRelease(release)
	if err != nil {
		return Profile{}, err
	}
	list := profiles()
	slices.Reverse(list)
	for _, p := range list {
		have, _ := parseRelease(p.Name)
		if have <= want {
			return p, nil
		}
	}
	return Profile{}, fmt.Errorf("kernel %q: older than %s, the oldest that the model knows", release, profiles()[0].Name)
}

// parseRelease turns MAJOR.MINOR into one comparable number.
func parseRelease(s string) (int, error) {
	parts := strings.FieldsFunc(s, func(r rune) bool { return r < '0' || r > '9' })
	if len(parts) < 2 || s[0] < '0' || s[0] > '9' {
		return 0, fmt.Errorf("kernel %q: want a release such as 6.1", s)
	}
	major, errA := strconv.Atoi(parts[0])
	minor, errB := strconv.Atoi(parts[1])
	if errA != nil || errB != nil || minor > 999 {
		return 0, fmt.Errorf("kernel %q: want a release such as 6.1", s)
	}
	return major*1000 + minor, nil
}

// ProbedAssured corrects the profile by what a probe saw: whether a query, its answer and a second
// query, all within two seconds, made the entry ASSURED.
func (p Profile) ProbedAssured(assured bool) Profile {
	switch {
	case !assured:
		p.Assured = AssuredAfterTwoSeconds
	case p.Assured == AssuredAfterTwoSeconds:
		p.Assured = AssuredAtOnceStreamLater
	}
	return p
}
