package model

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"ctlab/checks/conntrack"
)

// Ruleset is the iptables rules of one family in one namespace, as loaded from iptables-save text.
// What the text says and the model does not know is an error that names it.
type Ruleset struct {
	v6     bool // those of ip6tables
	tables map[string]*table
}

type table struct {
	name   string
	v6     bool
	chains []*chain // in the order of the text
}

type chain struct {
	name   string
	v6     bool
	policy string // "" for a user-defined chain
	rules  []*rule
}

// rule is one rule and its counters. Matches and target do not change after parsing.
type rule struct {
	text    string
	key     string // equal for rules that say the same
	tracked bool   // it holds connection tracking on
	comment string
	matches []match
	target  target
	nth     int // statistic --mode nth: packets seen, modulo its "every"
	count   conntrack.Counters
}

// match decides whether a rule applies to a packet.
type match func(*evaluation) bool

// target is what a rule does; kind is the target's name, or "jump", "goto", or "" for none.
type target struct {
	kind  string
	chain string // jump, goto
	nat   natRange
	mark  uint32
	mask  uint32
	code  uint8 // of the ICMP error of a REJECT
	tmpl  template
	cmark connmark
}

// NewRuleset is an empty Ruleset: no table is loaded.
func NewRuleset() *Ruleset { return &Ruleset{tables: map[string]*table{}} }

// NewRuleset6 is an empty Ruleset of ip6tables.
func NewRuleset6() *Ruleset { return &Ruleset{v6: true, tables: map[string]*table{}} }

// beginTurns lets rules that count (statistic --mode nth) begin anew, in all tables that the text has: where a table
// is replaced as a whole each of its rules is made anew, with a count of its own (statistic_mt_check in
// net/netfilter/xt_statistic.c; do_replace in net/ipv4/netfilter/ip_tables.c). Packet counters are carried over by
// iptables-restore.
func (rs *Ruleset) beginTurns(text string) {
	for line := range strings.Lines(text) {
		name, ok := strings.CutPrefix(strings.TrimSpace(line), "*")
		t := rs.tables[name]
		if !ok || t == nil {
			continue
		}
		for _, c := range t.chains {
			for _, r := range c.rules {
				r.nth = 0
			}
		}
	}
}

// Clone copies the rules with their counters.
func (rs *Ruleset) Clone() *Ruleset {
	c := NewRuleset()
	c.v6 = rs.v6
	for name, t := range rs.tables {
		nt := &table{name: name, v6: t.v6}
		for _, ch := range t.chains {
			nc := &chain{name: ch.name, v6: ch.v6, policy: ch.policy}
			for _, r := range ch.rules {
				cp := *r
				nc.rules = append(nc.rules, &cp)
			}
			nt.chains = append(nt.chains, nc)
		}
		c.tables[name] = nt
	}
	return c
}

func (t *table) chain(name string) *chain {
	for _, c := range t.chains {
		if c.name == name {
			return c
		}
	}
	return nil
}

// builtinChains are the chains that iptables has in each table, and so the places where a table can
// hook in.
func builtinChains(table string) []string {
	switch table {
	case "raw":
		return []string{"PREROUTING", "OUTPUT"}
	case "nat":
		return []string{"PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"}
	case "mangle":
		return []string{"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"}
	case "filter":
		return []string{"INPUT", "FORWARD", "OUTPUT"}
	}
	return nil
}

// Restore loads text as iptables-restore does: tables that it names are replaced, or with noflush only
// the user-defined chains that it names are emptied. On an error nothing has changed.
func (rs *Ruleset) Restore(text string, noflush bool) error {
	next := rs.Clone()
	var cur *table
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		var err error
		cur, err = next.restoreLine(cur, line, noflush)
		var bad *RuleError
		if errors.As(err, &bad) { // which says where
			return err
		}
		if err != nil {
			return fmt.Errorf("rules line %d: %w", i+1, err)
		}
	}
	if cur != nil {
		return fmt.Errorf("rules: table %s has no COMMIT", cur.name)
	}
	if err := next.checkJumps(); err != nil {
		return err
	}
	rs.tables = next.tables
	return nil
}

func (rs *Ruleset) restoreLine(cur *table, line string, noflush bool) (*table, error) {
	switch {
	case line[0] == '*':
		name := line[1:]
		if builtinChains(name) == nil {
			return nil, fmt.Errorf("table %q is not known to the model", name)
		}
		if rs.tables[name] == nil || !noflush {
			rs.tables[name] = &table{name: name, v6: rs.v6}
		}
		return rs.tables[name], nil
	case cur == nil:
		return nil, fmt.Errorf("%q stands outside a table", line)
	case line == "COMMIT":
		return nil, nil
	case line[0] == ':':
		return cur, cur.declare(line)
	}
	return cur, cur.command(line)
}

// declare handles ":CHAIN POLICY [packets:bytes]". A user-defined chain that exists is emptied, a
// built-in one keeps its rules.
func (t *table) declare(line string) error {
	f := strings.Fields(line[1:])
	if len(f) < 2 {
		return fmt.Errorf("%q: want :CHAIN POLICY", line)
	}
	name, policy := f[0], f[1]
	builtin := slices.Contains(builtinChains(t.name), name)
	if builtin && policy != "ACCEPT" && policy != "DROP" || !builtin && policy != "-" {
		return fmt.Errorf("%q: policy %q is not known to the model", line, policy)
	}
	c := t.chain(name)
	if c == nil {
		c = &chain{name: name, v6: t.v6}
		t.chains = append(t.chains, c)
	}
	if builtin {
		c.policy = policy
	} else {
		c.rules = nil
	}
	return nil
}

// command handles the commands of iptables that change a table.
func (t *table) command(line string) error {
	words, err := splitWords(line)
	if err != nil {
		return err
	}
	if len(words) > 0 && strings.HasPrefix(words[0], "[") { // of iptables-save -c; a restore without -c leaves them
		words = words[1:]
	}
	if len(words) == 0 {
		return fmt.Errorf("%q: want a command", line)
	}
	cmd := longCommand(words[0])
	if len(words) == 1 {
		return t.wholeTable(cmd, line)
	}
	name, rest := words[1], words[2:]
	switch cmd {
	case "-N":
		return t.newChain(name)
	case "-P":
		return t.declare(":" + strings.Join(words[1:], " "))
	case "-X":
		return t.deleteChain(name)
	}
	c := t.chain(name)
	if c == nil && slices.Contains(builtinChains(t.name), name) {
		c = &chain{name: name, v6: t.v6, policy: "ACCEPT"}
		t.chains = append(t.chains, c)
	}
	if c == nil {
		return fmt.Errorf("%q: no chain %q", line, name)
	}
	switch cmd {
	case "-F":
		c.rules = nil
		return nil
	case "-Z":
		c.zero()
		return nil
	case "-A":
		return c.insert(len(c.rules), rest)
	case "-I":
		return c.insertAt(rest)
	case "-D":
		return c.remove(rest)
	}
	return fmt.Errorf("command %q is not known to the model", words[0])
}

func longCommand(w string) string {
	long := map[string]string{"--append": "-A", "--insert": "-I", "--delete": "-D", "--flush": "-F", "--policy": "-P", "--new-chain": "-N", "--new": "-N", "--delete-chain": "-X", "--zero": "-Z"}
	if short, ok := long[w]; ok {
		return short
	}
	return w
}

// wholeTable handles a command that names no chain.
func (t *table) wholeTable(cmd, line string) error {
	switch cmd {
	case "-F":
		for _, c := range t.chains {
			c.rules = nil
		}
	case "-Z":
		for _, c := range t.chains {
			c.zero()
		}
	case "-X":
		return t.deleteChains()
	default:
		return fmt.Errorf("%q: want a command and a chain", line)
	}
	return nil
}

func (t *table) newChain(name string) error {
	if t.chain(name) != nil || slices.Contains(builtinChains(t.name), name) {
		return fmt.Errorf("-N %s: the chain exists", name)
	}
	t.chains = append(t.chains, &chain{name: name, v6: t.v6})
	return nil
}

func (t *table) deleteChain(name string) error {
	c := t.chain(name)
	if c == nil {
		return fmt.Errorf("-X %s: no such chain", name)
	}
	if len(c.rules) > 0 || t.isTarget(name) {
		return fmt.Errorf("-X %s: the chain has rules, or one leads to it", name)
	}
	t.chains = slices.DeleteFunc(t.chains, func(x *chain) bool { return x == c })
	return nil
}

// deleteChains deletes all user-defined chains, and, as iptables-nft 1.8.9 does, the built-in ones that are
// empty, and with them their hooks.
func (t *table) deleteChains() error {
	for _, c := range t.chains {
		if c.policy == "" && (len(c.rules) > 0 || t.isTarget(c.name)) {
			return fmt.Errorf("-X: the chain %s has rules, or one leads to it", c.name)
		}
	}
	t.chains = slices.DeleteFunc(t.chains, func(c *chain) bool { return c.policy != "DROP" && len(c.rules) == 0 })
	return nil
}

// isTarget reports whether a rule leads to the chain.
func (t *table) isTarget(name string) bool {
	for _, c := range t.chains {
		if slices.ContainsFunc(c.rules, func(r *rule) bool { return r.target.chain == name }) {
			return true
		}
	}
	return false
}

func (c *chain) zero() {
	for _, r := range c.rules {
		r.count = conntrack.Counters{}
	}
}

func (c *chain) insert(at int, words []string) error {
	r, err := parseRule(words, c.v6)
	if err != nil {
		return err
	}
	c.rules = slices.Insert(c.rules, at, r)
	return nil
}

// insertAt reads an optional number, from 1.
func (c *chain) insertAt(words []string) error {
	at := 1
	if n, ok := ruleNumber(words); ok {
		at, words = n, words[1:]
	}
	if at < 1 || at > len(c.rules)+1 {
		return fmt.Errorf("-I %s %d: the chain has %d rules", c.name, at, len(c.rules))
	}
	return c.insert(at-1, words)
}

// remove deletes a rule by its number, or the first that says the same.
func (c *chain) remove(words []string) error {
	if n, ok := ruleNumber(words); ok && len(words) == 1 {
		if n < 1 || n > len(c.rules) {
			return fmt.Errorf("-D %s %d: the chain has %d rules", c.name, n, len(c.rules))
		}
		c.rules = slices.Delete(slices.Clone(c.rules), n-1, n)
		return nil
	}
	want, err := parseRule(words, c.v6)
	if err != nil {
		return err
	}
	for i, r := range c.rules {
		if r.key == want.key {
			c.rules = slices.Delete(slices.Clone(c.rules), i, i+1)
			return nil
		}
	}
	return fmt.Errorf("-D %s %s: no rule says this", c.name, want.text)
}

func ruleNumber(words []string) (int, bool) {
	if len(words) == 0 {
		return 0, false
	}
	n, err := strconv.Atoi(words[0])
	return n, err == nil
}

// checkJumps refuses jumps to nowhere and in circles, as iptables does.
func (rs *Ruleset) checkJumps() error {
	for _, t := range rs.tables {
		done := map[string]int{}
		for _, c := range t.chains {
			if t.loops(c, done) {
				return fmt.Errorf("rules: table %s: chain %q leads back to itself", t.name, c.name)
			}
		}
		for _, c := range t.chains {
			for _, r := range c.rules {
				if r.target.chain != "" && t.chain(r.target.chain) == nil {
					return r.wrong(fmt.Errorf("target %q is neither a chain nor known to the model", r.target.chain))
				}
			}
		}
	}
	return nil
}

// loops walks the jumps from a chain; done says which chains are being walked (1) or have been (2).
func (t *table) loops(c *chain, done map[string]int) bool {
	switch done[c.name] {
	case 1:
		return true
	case 2:
		return false
	}
	done[c.name] = 1
	for _, r := range c.rules {
		if to := t.chain(r.target.chain); to != nil && t.loops(to, done) {
			return true
		}
	}
	done[c.name] = 2
	return false
}

// splitWords splits a rule into words; double quotes hold a word together.
func splitWords(line string) ([]string, error) {
	var words []string
	var b strings.Builder
	in, quoted := false, false
	for i := 0; i < len(line); i++ {
		c := line[i]
		switch {
		case c == '\\' && quoted && i+1 < len(line):
			i++
			b.WriteByte(line[i])
		case c == '"':
			quoted, in = !quoted, true
		case c == ' ' && !quoted:
			if in {
				words = append(words, b.String())
				b.Reset()
			}
			in = false
		default:
			b.WriteByte(c)
			in = true
		}
	}
	if quoted {
		return nil, fmt.Errorf("%q: a quote is not closed", line)
	}
	if in {
		words = append(words, b.String())
	}
	return words, nil
}

// needsConntrack reports whether some rule keeps tracking on (nf_ct_netns_get): a match on conntrack state,
// or a NAT target, even in a chain to which nothing jumps. An empty NAT chain does not, nor does NOTRACK
// (xt_ct_tg_check takes no reference for it); both seen on 6.18 with iptables-nft 1.8.9.
func (rs *Ruleset) needsConntrack() bool {
	for _, t := range rs.tables {
		for _, c := range t.chains {
			if slices.ContainsFunc(c.rules, func(r *rule) bool { return r.tracked }) {
				return true
			}
		}
	}
	return false
}

// hasNAT reports whether a built-in NAT chain exists; one registers the NAT hooks of all four places
// (nf_nat_core.c, nf_nat_register_fn).
func (rs *Ruleset) hasNAT() bool {
	t := rs.tables["nat"]
	return t != nil && slices.ContainsFunc(t.chains, func(c *chain) bool { return c.policy != "" })
}

// Hit is the counter of a rule.
type Hit struct {
	Table, Chain string
	Number       int // in its chain, from 1
	Comment      string
	Counters     conntrack.Counters
}

// Hits lists the counters of all rules, ordered by table, then as loaded.
func (rs *Ruleset) Hits() []Hit {
	var hits []Hit
	names := make([]string, 0, len(rs.tables))
	for n := range rs.tables {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		for _, c := range rs.tables[n].chains {
			for i, r := range c.rules {
				hits = append(hits, Hit{n, c.name, i + 1, r.comment, r.count})
			}
		}
	}
	return hits
}

// ParseHits reads the rule counters of `iptables-save -c` text.
func ParseHits(text string) ([]Hit, error) {
	var hits []Hit
	tableName, number := "", map[string]int{}
	for _, line := range strings.Split(text, "\n") {
		switch {
		case strings.HasPrefix(line, "*"):
			tableName, number = line[1:], map[string]int{}
		case strings.HasPrefix(line, "["):
			h := Hit{Table: tableName}
			head, rest, _ := strings.Cut(line, "] ")
			if _, err := fmt.Sscanf(head, "[%d:%d", &h.Counters.Packets, &h.Counters.Bytes); err != nil {
				return nil, fmt.Errorf("rule counters %q: %w", line, err)
			}
			words, err := splitWords(rest)
			if err != nil || len(words) < 2 {
				return nil, fmt.Errorf("rule counters: cannot read %q", line)
			}
			h.Chain = words[1]
			number[h.Chain]++
			h.Number = number[h.Chain]
			if i := slices.Index(words, "--comment"); i >= 0 && i+1 < len(words) {
				h.Comment = words[i+1]
			}
			hits = append(hits, h)
		}
	}
	return hits, nil
}
