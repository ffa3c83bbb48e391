package model

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"ctlab/checks/conntrack"
)

// natRange is the range of a NAT target: one address and, if hasPort, one port.
type natRange struct {
	addr    netip.Addr
	port    uint16
	hasPort bool
}

// ruleParser reads the words of one rule behind its chain.
type ruleParser struct {
	words []string
	r     *rule
	neg   bool // a "!" came before
	err   error
}

func parseRule(words []string) (*rule, error) {
	p := &ruleParser{words: words, r: &rule{text: strings.Join(words, " ")}}
	for p.err == nil && len(p.words) > 0 {
		p.option(p.next())
	}
	if p.err != nil {
		return nil, fmt.Errorf("rules: %q: %w", p.r.text, p.err)
	}
	return p.r, nil
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

// add appends a match, negated if a "!" came before it.
func (p *ruleParser) add(m match) {
	if p.neg {
		p.neg = false
		p.r.matches = append(p.r.matches, func(e *evaluation) bool { return !m(e) })
		return
	}
	p.r.matches = append(p.r.matches, m)
}

// option reads one option and its value. The list is the part of iptables that the model knows.
func (p *ruleParser) option(w string) {
	switch w {
	case "!":
		p.neg = true
	case "-s", "--source":
		pre := p.prefix()
		p.add(func(e *evaluation) bool { return pre.Contains(e.p.Src) })
	case "-d", "--destination":
		pre := p.prefix()
		p.add(func(e *evaluation) bool { return pre.Contains(e.p.Dst) })
	case "-i", "--in-interface":
		dev := p.next()
		p.add(func(e *evaluation) bool { return deviceMatches(dev, e.in) })
	case "-o", "--out-interface":
		dev := p.next()
		p.add(func(e *evaluation) bool { return deviceMatches(dev, e.out) })
	case "-p", "--protocol":
		proto, err := conntrack.ParseProtocol(p.next())
		if err != nil {
			p.fail("%v", err)
		}
		p.add(func(e *evaluation) bool { return e.p.Proto == proto })
	case "-m", "--match":
		p.module(p.next())
	case "--sport", "--source-port":
		lo, hi := p.ports()
		p.add(func(e *evaluation) bool { return e.p.SrcPort >= lo && e.p.SrcPort <= hi })
	case "--dport", "--destination-port":
		lo, hi := p.ports()
		p.add(func(e *evaluation) bool { return e.p.DstPort >= lo && e.p.DstPort <= hi })
	case "--comment":
		p.r.comment = p.next()
	case "--ctstate", "--state":
		p.ctstate()
	case "--mark":
		p.mark()
	case "--mode":
		p.statistic()
	case "--dst-type":
		p.dstType()
	case "-j", "--jump":
		p.jump(p.next())
	case "-g", "--goto":
		p.r.target = target{kind: "goto", chain: p.next()}
	default:
		p.fail("option %q is not known to the model", w)
	}
}

// module accepts the matches whose options stand in option.
func (p *ruleParser) module(name string) {
	switch name {
	case "udp", "tcp", "comment", "conntrack", "state", "mark", "statistic", "addrtype":
	default:
		p.fail("match %q is not known to the model", name)
	}
}

func (p *ruleParser) prefix() netip.Prefix {
	w := p.next()
	if p.err != nil {
		return netip.Prefix{}
	}
	if a, err := netip.ParseAddr(w); err == nil {
		return netip.PrefixFrom(a, a.BitLen())
	}
	pre, err := netip.ParsePrefix(w)
	if err != nil {
		p.fail("%q is no address", w)
	}
	return pre
}

func deviceMatches(pattern, dev string) bool {
	if head, ok := strings.CutSuffix(pattern, "+"); ok {
		return strings.HasPrefix(dev, head)
	}
	return pattern == dev
}

func (p *ruleParser) ports() (lo, hi uint16) {
	from, to, ranged := strings.Cut(p.next(), ":")
	if !ranged {
		to = from
	}
	a, errA := strconv.ParseUint(from, 10, 16)
	b, errB := strconv.ParseUint(to, 10, 16)
	if errA != nil || errB != nil {
		p.fail("%q is no port", from)
	}
	return uint16(a), uint16(b)
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
	})
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

func (p *ruleParser) mark() {
	v, m := p.maskedNumber(p.next())
	p.add(func(e *evaluation) bool { return e.mark&m == v })
}

func (p *ruleParser) dstType() {
	if t := p.next(); t != "LOCAL" {
		p.fail("address type %q is not known to the model", t)
	}
	p.add(func(e *evaluation) bool { return e.ns.isLocal(e.p.Dst) })
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
		p.add(func(e *evaluation) bool { return e.random(prob, text) })
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
			hit := e.rule.nth == packet
			e.rule.nth = (e.rule.nth + 1) % every
			return hit
		})
	default:
		p.fail("statistic mode %q is not known to the model", mode)
	}
}

func (p *ruleParser) want(option string) {
	if w := p.next(); p.err == nil && w != option {
		p.fail("want %s, got %q", option, w)
	}
}

// jump reads a target and its options; a name that is no target is a chain.
func (p *ruleParser) jump(name string) {
	switch name {
	case "ACCEPT", "DROP", "RETURN", "NOTRACK":
		p.r.target = target{kind: name}
		if name == "NOTRACK" {
			p.r.target.kind = "CT"
		}
	case "CT":
		p.want("--notrack")
		p.r.target = target{kind: "CT"}
	case "DNAT":
		p.want("--to-destination")
		p.r.target = target{kind: "DNAT", nat: p.natRange(p.next())}
	case "MARK":
		p.markTarget()
	case "SNAT", "MASQUERADE", "REDIRECT", "REJECT", "NFQUEUE", "LOG", "NFLOG", "TPROXY", "TRACE", "CONNMARK", "NETMAP", "SET", "TEE", "TCPMSS", "CHECKSUM":
		p.fail("target %q is not known to the model", name)
	default:
		p.r.target = target{kind: "jump", chain: name}
	}
}

func (p *ruleParser) markTarget() {
	opt := p.next()
	v, m := p.maskedNumber(p.next())
	switch opt {
	case "--set-xmark":
	case "--set-mark":
		m |= v
	case "--or-mark":
		m = v
	default:
		p.fail("option %q of MARK is not known to the model", opt)
	}
	p.r.target = target{kind: "MARK", mark: v, mask: m}
}

func (p *ruleParser) natRange(w string) natRange {
	if ap, err := netip.ParseAddrPort(w); err == nil {
		return natRange{ap.Addr(), ap.Port(), true}
	}
	a, err := netip.ParseAddr(w)
	if err != nil {
		p.fail("NAT to %q is not known to the model (one address, one port)", w)
	}
	return natRange{addr: a}
}
