package model

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"ctlab/checks/conntrack"
)

// ruleParser reads the words of one rule behind its chain.
type ruleParser struct {
	words []string
	v6    bool // a rule of ip6tables
	r     *rule
	neg   bool     // a "!" came before
	marks string   // the match whose option --mark is: mark, or connmark
	key   []string // what the rule says, each option in one form
	err   error
}

func parseRule(words []string, v6 bool) (*rule, error) {
	p := &ruleParser{words: words, v6: v6, r: &rule{text: strings.Join(words, " ")}}
	for p.err == nil && len(p.words) > 0 {
		p.option(p.next())
	}
	if p.neg {
		p.fail("a \"!\" belongs to nothing")
	}
	if p.err != nil {
		return nil, p.r.wrong(p.err)
	}
	slices.Sort(p.key)
	p.r.key = strings.Join(p.key, "\n")
	return p.r, nil
}

// RuleError is what is wrong with a rule.
type RuleError struct {
	Comment string // the rule's, by which one may know it
	Rule    string // its words behind the chain, less the comment
	Err     error
}

func (e *RuleError) Error() string { return fmt.Sprintf("%q: %v", e.Rule, e.Err) }

func (e *RuleError) Unwrap() error { return e.Err }

// wrong takes the rule's first comment, which is the one that was added to the rule of a lab, for its mark.
func (r *rule) wrong(err error) error {
	e := &RuleError{Rule: r.text, Err: err}
	if rest, ok := strings.CutPrefix(r.text, "-m comment --comment "); ok {
		e.Comment, e.Rule, _ = strings.Cut(rest, " ")
	}
	return e
}

func (p *ruleParser) next() string {
	if len(p.words) == 0 {
		p.fail("a word is missing at the end")
		return ""
	}
	w := p.words[0]
	p.words = p.words[1:]
	return w
}

func (p *ruleParser) fail(format string, args ...any) {
	if p.err == nil {
		p.err = fmt.Errorf(format, args...)
	}
}

// add appends a match, negated if a "!" came before it. name and value are the one form in which two
// rules that say the same are equal.
func (p *ruleParser) add(m match, name string, value any) {
	if p.neg {
		p.neg = false
		p.key = append(p.key, fmt.Sprint("! ", name, " ", value))
		p.r.matches = append(p.r.matches, func(e *evaluation) bool { return !m(e) })
		return
	}
	p.key = append(p.key, fmt.Sprint(name, " ", value))
	p.r.matches = append(p.r.matches, m)
}

// option reads one option and its value. The list is the part of iptables that the model knows.
func (p *ruleParser) option(w string) {
	switch w {
	case "!":
		p.neg = true
	case "-s", "--source", "--src":
		pre := p.prefix()
		p.add(func(e *evaluation) bool { return pre.Contains(e.p.Src) }, "-s", pre)
	case "-d", "--destination", "--dst":
		pre := p.prefix()
		p.add(func(e *evaluation) bool { return pre.Contains(e.p.Dst) }, "-d", pre)
	case "-i", "--in-interface":
		dev := p.next()
		p.add(func(e *evaluation) bool { return deviceMatches(dev, e.in) }, "-i", dev)
	case "-o", "--out-interface":
		dev := p.next()
		p.add(func(e *evaluation) bool { return deviceMatches(dev, e.out) }, "-o", dev)
	case "-p", "--protocol":
		p.protocol()
	case "-m", "--match":
		p.module(p.next())
	case "-j", "--jump":
		p.jump(p.next())
	case "-g", "--goto":
		p.r.target = target{kind: "goto", chain: p.next()}
		p.key = append(p.key, "-g "+p.r.target.chain)
	case "-c", "--set-counters":
		p.counters()
	default:
		p.matchOption(w)
	}
}

// matchOption reads an option of a match.
func (p *ruleParser) matchOption(w string) {
	switch w {
	case "--sport", "--source-port":
		lo, hi := p.ports(p.next())
		p.add(func(e *evaluation) bool { return e.portsAt(8, 2) && e.p.SrcPort >= lo && e.p.SrcPort <= hi }, "--sport", [2]uint16{lo, hi})
	case "--dport", "--destination-port":
		lo, hi := p.ports(p.next())
		p.add(func(e *evaluation) bool { return e.portsAt(8, 4) && e.p.DstPort >= lo && e.p.DstPort <= hi }, "--dport", [2]uint16{lo, hi})
	case "--sports", "--source-ports":
		in, list := p.portList()
		p.add(func(e *evaluation) bool { return e.portsAt(4, 4) && in(e.p.SrcPort) }, "--sports", list)
	case "--dports", "--destination-ports":
		in, list := p.portList()
		p.add(func(e *evaluation) bool { return e.portsAt(4, 4) && in(e.p.DstPort) }, "--dports", list)
	case "--ports":
		in, list := p.portList()
		p.add(func(e *evaluation) bool { return e.portsAt(4, 4) && (in(e.p.SrcPort) || in(e.p.DstPort)) }, "--ports", list)
	case "--comment":
		p.r.comment = p.next()
		p.key = append(p.key, "--comment "+p.r.comment)
	case "--ctstate", "--state":
		p.ctstate()
	case "--mark":
		p.markMatch()
	case "--mode":
		p.statistic()
	case "--dst-type":
		p.localType("--dst-type", func(e *evaluation) netip.Addr { return e.p.Dst })
	case "--src-type":
		p.localType("--src-type", func(e *evaluation) netip.Addr { return e.p.Src })
	case "--src-range":
		lo, hi := p.addrRange(p.next())
		p.add(func(e *evaluation) bool { return lo.Compare(e.p.Src) <= 0 && e.p.Src.Compare(hi) <= 0 }, "--src-range", [2]netip.Addr{lo, hi})
	case "--dst-range":
		lo, hi := p.addrRange(p.next())
		p.add(func(e *evaluation) bool { return lo.Compare(e.p.Dst) <= 0 && e.p.Dst.Compare(hi) <= 0 }, "--dst-range", [2]netip.Addr{lo, hi})
	case "--icmp-type", "--icmpv6-type":
		p.icmpType(w)
	case "--tcp-flags": // TCP is not modelled; such a rule is never asked about anything else
		mask, set := p.next(), p.next()
		p.add(func(*evaluation) bool { return false }, "--tcp-flags", mask+" "+set)
	case "--syn":
		p.add(func(*evaluation) bool { return false }, "--tcp-flags", "FIN,SYN,RST,ACK SYN")
	default:
		p.fail("option %q is not known to the model", w)
	}
}

// module accepts the matches whose options stand in option.
func (p *ruleParser) module(name string) {
	switch name {
	case "udp":
		p.r.matches = append(p.r.matches, func(e *evaluation) bool { return !e.ns.cfg.Profile.Legacy || e.portsAt(8, 8) })
	case "mark":
		p.marks = name
	case "connmark":
		p.marks = name
		p.r.tracked = true // connmark_mt_check
	case "tcp", "icmp", "icmp6", "icmpv6", "comment", "statistic", "addrtype", "multiport", "iprange":
	case "conntrack", "state":
		p.r.tracked = true // conntrack_mt_check holds tracking on
	default:
		p.fail("match %q is not known to the model", name)
	}
}

func (p *ruleParser) prefix() netip.Prefix {
	w := p.next()
	if p.err != nil {
		return netip.Prefix{}
	}
	if a, err := netip.ParseAddr(w); err == nil && a.Is4() != p.v6 {
		return netip.PrefixFrom(a, a.BitLen())
	}
	addr, mask, _ := strings.Cut(w, "/")
	if m, err := netip.ParseAddr(mask); err == nil && m.Is4() { // ADDRESS/255.255.255.0
		bits4 := binary.BigEndian.Uint32(m.AsSlice())
		ones := bits.LeadingZeros32(^bits4)
		if bits4<<ones != 0 {
			p.fail("the mask of %q is not known to the model", w)
		}
		w = addr + "/" + strconv.Itoa(ones)
	}
	pre, err := netip.ParsePrefix(w)
	if err != nil || pre.Addr().Is4() == p.v6 {
		p.fail("%q is no address", w)
	}
	return pre.Masked()
}

func deviceMatches(pattern, dev string) bool {
	if head, ok := strings.CutSuffix(pattern, "+"); ok {
		return strings.HasPrefix(dev, head)
	}
	return pattern == dev
}

func (p *ruleParser) protocol() {
	w := p.next()
	if w == "all" {
		return
	}
	if w == "ipv6-icmp" || w == "icmp6" {
		w = "icmpv6"
	}
	proto, err := conntrack.ParseProtocol(w)
	if err != nil {
		p.fail("%v", err)
	}
	if proto == 0 {
		return // any
	}
	p.add(func(e *evaluation) bool { return e.p.Proto == proto }, "-p", proto)
}

// counters reads -c PACKETS BYTES.
func (p *ruleParser) counters() {
	for _, to := range []*uint64{&p.r.count.Packets, &p.r.count.Bytes} {
		v, err := strconv.ParseUint(p.next(), 10, 64)
		if err != nil {
			p.fail("-c wants two numbers")
		}
		*to = v
	}
}

func (p *ruleParser) ports(w string) (lo, hi uint16) {
	from, to, ranged := strings.Cut(w, ":")
	if !ranged {
		to = from
	}
	if ranged && from == "" {
		from = "0"
	}
	if ranged && to == "" {
		to = "65535"
	}
	a, errA := strconv.ParseUint(from, 10, 16)
	b, errB := strconv.ParseUint(to, 10, 16)
	if errA != nil || errB != nil || a > b {
		p.fail("%q is no port", w)
	}
	return uint16(a), uint16(b)
}

// portList reads the list of a multiport match.
func (p *ruleParser) portList() (in func(uint16) bool, list string) {
	list = p.next()
	var ranges [][2]uint16
	for _, w := range strings.Split(list, ",") {
		lo, hi := p.ports(w)
		ranges = append(ranges, [2]uint16{lo, hi})
	}
	return func(port uint16) bool {
		return slices.ContainsFunc(ranges, func(r [2]uint16) bool { return r[0] <= port && port <= r[1] })
	}, list
}

func (p *ruleParser) addrRange(w string) (lo, hi netip.Addr) {
	from, to, ranged := strings.Cut(w, "-")
	if !ranged {
		to = from
	}
	lo, errA := netip.ParseAddr(from)
	hi, errB := netip.ParseAddr(to)
	if errA != nil || errB != nil || lo.Is4() == p.v6 || lo.BitLen() != hi.BitLen() || hi.Less(lo) {
		p.fail("%q is no address or range of addresses", w)
	}
	return lo, hi
}

// icmpType reads TYPE or TYPE/CODE, as numbers.
func (p *ruleParser) icmpType(option string) {
	w := p.next()
	if p.v6 != (option == "--icmpv6-type") {
		p.fail("%s does not belong to this family", option)
	}
	typ, code, coded := strings.Cut(w, "/")
	a, errA := strconv.ParseUint(typ, 10, 8)
	b, errB := uint64(0), error(nil)
	if coded {
		b, errB = strconv.ParseUint(code, 10, 8)
	}
	if errA != nil || errB != nil {
		p.fail("ICMP type %q is not known to the model (a number, or TYPE/CODE)", w)
	}
	p.add(func(e *evaluation) bool {
		if e.p.Bad == "short" { // it drops the packet, as a match of xtables does; where is another matter
			e.ns.notModelled("%s of a packet that is cut short: %s", option, e.p.Line())
		}
		return uint64(e.p.ICMPType) == a && (!coded || uint64(e.p.ICMPCode) == b)
	}, option, w)
}

func (p *ruleParser) ctstate() {
	states := strings.Split(p.next(), ",")
	known := []string{"INVALID", "NEW", "ESTABLISHED", "RELATED", "UNTRACKED", "SNAT", "DNAT"}
	for _, s := range states {
		if !slices.Contains(known, s) {
			p.fail("conntrack state %q is not known to the model", s)
		}
	}
	p.add(func(e *evaluation) bool {
		for _, s := range states {
			if e.hasState(s) {
				return true
			}
		}
		return false
	}, "--ctstate", slices.Sorted(slices.Values(states)))
}

func (p *ruleParser) maskedNumber(w string) (value, mask uint32) {
	v, m, masked := strings.Cut(w, "/")
	a, errA := strconv.ParseUint(v, 0, 32)
	b := uint64(0xffffffff)
	var errB error
	if masked {
		b, errB = strconv.ParseUint(m, 0, 32)
	}
	if errA != nil || errB != nil {
		p.fail("%q is no mark", w)
	}
	return uint32(a), uint32(b)
}

// localType reads LOCAL, the one type of address that rules of services ask for.
func (p *ruleParser) localType(option string, of func(*evaluation) netip.Addr) {
	if t := p.next(); t != "LOCAL" {
		p.fail("address type %q is not known to the model", t)
	}
	p.add(func(e *evaluation) bool { return e.ns.isLocal(of(e)) }, option, "LOCAL")
}

// statistic reads --mode random --probability P, or --mode nth --every N --packet K.
func (p *ruleParser) statistic() {
	switch mode := p.next(); mode {
	case "random":
		p.want("--probability")
		prob, err := strconv.ParseFloat(p.next(), 64)
		if err != nil || prob < 0 || prob > 1 {
			p.fail("--probability wants a number from 0 to 1")
		}
		text := p.r.text
		p.add(func(e *evaluation) bool { return e.random(prob, text) }, "--probability", math.Round(prob*(1<<31)))
	case "nth":
		p.want("--every")
		every, errA := strconv.Atoi(p.next())
		packet := 0
		var errB error
		if len(p.words) > 0 && p.words[0] == "--packet" {
			p.next()
			packet, errB = strconv.Atoi(p.next())
		}
		if errA != nil || errB != nil || every < 1 || packet < 0 || packet >= every {
			p.fail("--every wants a number, --packet a smaller one")
			return
		}
		// statistic_mt (xt_statistic.c) counts to every and matches as it wraps; that is packet, packet+every, ...
		p.add(func(e *evaluation) bool {
			if e.ns.anyTurn && every > 1 {
				return e.ns.choose(Choice{Kind: ChooseBackend, Subject: "is it the turn of " + e.rule.text + "?", Options: 2, About: e.p.Line()}) == 0
			}
			hit := e.rule.nth == packet
			e.rule.nth = (e.rule.nth + 1) % every
			return hit
		}, "--every", [2]int{every, packet})
	default:
		p.fail("statistic mode %q is not known to the model", mode)
	}
}

func (p *ruleParser) want(option string) {
	if w := p.next(); p.err == nil && w != option {
		p.fail("want %s, got %q", option, w)
	}
}
