package model

import (
	"fmt"
	"strings"
)

// jump reads a target and its options; a name that is no target is a chain.
func (p *ruleParser) jump(name string) {
	t := target{kind: name}
	switch name {
	case "ACCEPT", "DROP", "RETURN":
	case "NOTRACK":
		t.kind = "CT"
		t.tmpl.notrack = true
	case "CT":
		t.tmpl = p.ctOptions()
		p.r.tracked = p.r.tracked || !t.tmpl.notrack // xt_ct_tg_check
	case "CONNMARK":
		t.cmark = p.connmarkOptions()
		p.r.tracked = true // connmark_tg_check
	case "LOG", "NFLOG": // they change nothing
		p.logOptions()
	case "DNAT", "SNAT", "MASQUERADE", "REDIRECT":
		t.nat = p.natOptions(name)
		p.r.tracked = true // xt_nat_checkentry holds tracking on
	case "MARK":
		t.mark, t.mask = p.markOptions()
	case "REJECT":
		t.code = p.rejectOptions()
	case "NFQUEUE", "TPROXY", "TRACE", "CONNSECMARK", "SECMARK", "NETMAP", "SET", "TEE", "TCPMSS", "CHECKSUM", "CLASSIFY", "TOS", "DSCP", "TTL", "AUDIT", "SYNPROXY", "HMARK", "IDLETIMER", "RATEEST":
		p.fail("target %q is not known to the model", name)
	default:
		t = target{kind: "jump", chain: name}
	}
	p.r.target = t
	p.key = append(p.key, fmt.Sprintf("-j %s %v", name, t))
}

// more reports whether an option of the target follows.
func (p *ruleParser) more() bool {
	return p.err == nil && len(p.words) > 0 && strings.HasPrefix(p.words[0], "--")
}

func (p *ruleParser) logOptions() {
	for p.more() {
		switch opt := p.next(); opt {
		case "--log-prefix", "--log-level", "--nflog-group", "--nflog-prefix", "--nflog-size", "--nflog-range", "--nflog-threshold":
			p.next()
		case "--log-tcp-sequence", "--log-tcp-options", "--log-ip-options", "--log-uid", "--log-macdecode":
		default:
			p.fail("option %q of LOG is not known to the model", opt)
		}
	}
}

func (p *ruleParser) markOptions() (value, mask uint32) { return p.markChange(p.next(), "MARK") }

// markChange reads the value of an option that changes a mark: the bits of the mask are cleared, those of the value
// turned round.
func (p *ruleParser) markChange(opt, target string) (value, mask uint32) {
	v, m := p.maskedNumber(p.next())
	switch opt {
	case "--set-xmark":
	case "--set-mark":
		m |= v
	case "--or-mark":
		m = v
	case "--xor-mark":
		m = 0
	case "--and-mark":
		v, m = 0, ^v
	default:
		p.fail("option %q of %s is not known to the model", opt, target)
	}
	return v, m
}

// rejectOptions reads the ICMP code of a REJECT.
func (p *ruleParser) rejectOptions() uint8 {
	if !p.more() && p.v6 {
		return portUnreachable.code6
	}
	if !p.more() {
		return portUnreachable.code
	}
	p.want("--reject-with")
	codes := map[string]uint8{"icmp-net-unreachable": 0, "icmp-host-unreachable": 1, "icmp-proto-unreachable": 2, "icmp-port-unreachable": 3,
		"net-unreach": 0, "host-unreach": 1, "proto-unreach": 2, "port-unreach": 3,
		"icmp-net-prohibited": 9, "icmp-host-prohibited": 10, "icmp-admin-prohibited": 13, "net-prohib": 9, "host-prohib": 10, "admin-prohib": 13}
	if p.v6 {
		codes = map[string]uint8{"icmp6-no-route": 0, "icmp6-adm-prohibited": 1, "icmp6-addr-unreachable": 3, "icmp6-port-unreachable": 4,
			"icmp6-policy-fail": 5, "icmp6-reject-route": 6, "no-route": 0, "adm-prohibited": 1, "addr-unreach": 3, "port-unreach": 4,
			"policy-fail": 5, "reject-route": 6}
	}
	w := p.next()
	code, ok := codes[w]
	if !ok {
		p.fail("REJECT with %q is not known to the model", w)
	}
	return code
}

// natOptions reads the range of a NAT target.
func (p *ruleParser) natOptions(name string) (r natRange) {
	given := false
	for p.more() {
		switch opt := p.next(); {
		case opt == "--to-destination" && name == "DNAT" || opt == "--to-source" && name == "SNAT":
			p.natTo(&r)
			given = true
		case opt == "--to-ports" && (name == "MASQUERADE" || name == "REDIRECT"):
			p.natPorts(&r, p.next())
		case opt == "--random" || opt == "--random-fully":
			r.random = true
		case opt == "--persistent" && (name == "SNAT" || name == "DNAT"):
			r.persistent = true
		default:
			p.fail("option %q of %s is not known to the model", opt, name)
		}
	}
	if !given && (name == "DNAT" || name == "SNAT") {
		p.fail("%s needs an address", name)
	}
	return r
}

// natTo reads ADDRESS, ADDRESS-ADDRESS, either with :PORT or :PORT-PORT, or the ports alone. IPv6 addresses stand
// in brackets where ports follow.
func (p *ruleParser) natTo(r *natRange) {
	w := p.next()
	addrs, ports, ported := strings.Cut(w, ":")
	if p.v6 {
		addrs, ports, ported = cutPorts6(w)
	}
	if strings.Contains(ports, ":") {
		p.fail("NAT to %q is not known to the model", w)
		return
	}
	if addrs != "" {
		r.from, r.to = p.addrRange(addrs)
	}
	if ported {
		p.natPorts(r, ports)
	}
}

// cutPorts6 parts [ADDRESS]:PORTS, [ADDRESS-ADDRESS]:PORTS or :PORTS; without brackets there are only addresses.
func cutPorts6(w string) (addrs, ports string, ported bool) {
	if ports, ok := strings.CutPrefix(w, ":"); ok && !strings.Contains(ports, ":") {
		return "", ports, true
	}
	inner, bracketed := strings.CutPrefix(w, "[")
	if !bracketed {
		return w, "", false
	}
	addrs, ports, _ = strings.Cut(inner, "]")
	ports, ported = strings.CutPrefix(ports, ":")
	return addrs, ports, ported
}

func (p *ruleParser) natPorts(r *natRange, w string) {
	if strings.Contains(w, "/") {
		p.fail("the base port of NAT to %q is not known to the model", w)
		return
	}
	r.lo, r.hi = p.ports(strings.Replace(w, "-", ":", 1))
	r.hasPort = true
}
