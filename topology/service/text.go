package service

import (
	"fmt"
	"slices"
	"strings"
)

// tables are the tables that a text may have, in the order of a whole text, with their built-in chains.
func tables() []builtins {
	return []builtins{
		{"raw", []string{"PREROUTING", "OUTPUT"}},
		{"mangle", []string{"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"}},
		{"nat", []string{"PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"}},
		{"filter", []string{"INPUT", "FORWARD", "OUTPUT"}},
	}
}

type builtins struct {
	table  string
	chains []string
}

// builtinChains are the built-in chains of a table; nil if there is no such table.
func builtinChains(table string) []string {
	for _, t := range tables() {
		if t.table == table {
			return t.chains
		}
	}
	return nil
}

// ruleset is iptables-save text that is being composed, table by table.
type ruleset map[string]*table

type table struct {
	policies map[string]string // of built-in chains; what is not here is ACCEPT
	jumps    []string          // rules of services in built-in chains
	chains   []*chain          // of services, in the order of their declaration
	own      []string          // chains that the lab's own rules declare
	ownRules []string          // the lab's own rules: they come last, so -A is behind the jumps and -I before them
}

// chain is a user-defined chain; its rules are whole lines.
type chain struct {
	name  string
	rules []string
}

func (rs ruleset) table(name string) *table {
	if rs[name] == nil {
		rs[name] = &table{policies: map[string]string{}}
	}
	return rs[name]
}

// chain declares a chain of services, or finds it.
func (rs ruleset) chain(tableName, name string) *chain {
	t := rs.table(tableName)
	if c := t.find(name); c != nil {
		return c
	}
	c := &chain{name: name}
	t.chains = append(t.chains, c)
	return c
}

func (t *table) find(name string) *chain {
	if t == nil {
		return nil
	}
	for _, c := range t.chains {
		if c.name == name {
			return c
		}
	}
	return nil
}

// jump appends a rule to a built-in chain.
func (rs ruleset) jump(tableName, builtin string, words ...string) {
	t := rs.table(tableName)
	t.jumps = append(t.jumps, line(builtin, words))
}

// add appends a rule.
func (c *chain) add(words ...string) { c.rules = append(c.rules, line(c.name, words)) }

func line(chain string, words []string) string {
	var b strings.Builder
	b.WriteString("-A " + chain)
	for _, w := range words {
		if w != "" {
			b.WriteString(" " + w)
		}
	}
	return b.String()
}

// comment is a match that is always true. As iptables-save does, it encloses what is not one plain word
// (libxtables/xtables.c, xtables_save_string).
func comment(text string) string {
	plain := func(r rune) bool {
		return r == '_' || r == '-' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
	}
	if text == "" || strings.ContainsFunc(text, func(r rune) bool { return !plain(r) }) {
		text = enclose(text)
	}
	return "-m comment --comment " + text
}

// whole is the text for iptables-restore without --noflush.
func (rs ruleset) whole() string {
	var b strings.Builder
	for _, t := range tables() {
		if rs[t.table] != nil {
			rs[t.table].write(&b, t)
		}
	}
	return b.String()
}

func (t *table) write(b *strings.Builder, in builtins) {
	fmt.Fprintf(b, "*%s\n", in.table)
	for _, c := range in.chains {
		policy := t.policies[c]
		if policy == "" {
			policy = "ACCEPT"
		}
		fmt.Fprintf(b, ":%s %s [0:0]\n", c, policy)
	}
	for _, c := range t.chains {
		fmt.Fprintf(b, ":%s - [0:0]\n", c.name)
	}
	for _, c := range t.own {
		fmt.Fprintf(b, ":%s - [0:0]\n", c)
	}
	writeLines(b, t.jumps)
	for _, c := range t.chains {
		writeLines(b, c.rules)
	}
	writeLines(b, t.ownRules)
	b.WriteString("COMMIT\n")
}

// change is the text for iptables-restore --noflush that turns the chains of rs into those of next.
// Declaring a chain empties it. A chain that next lacks is left empty: kube-proxy deletes it too, but
// leaves that undone in large clusters, and to the packets it is the same. As kube-proxy does, filter comes
// before nat (pkg/proxy/iptables/proxier.go, syncProxyRules, 1.37); each table is replaced at one moment.
func (rs ruleset) change(next ruleset) string {
	var b strings.Builder
	for _, t := range slices.Backward(tables()) {
		var write []*chain
		if now := next[t.table]; now != nil {
			for _, c := range now.chains {
				if was := rs[t.table].find(c.name); was == nil || c.always() || !slices.Equal(was.rules, c.rules) {
					write = append(write, c)
				}
			}
		}
		if was := rs[t.table]; was != nil {
			for _, c := range was.chains {
				if next[t.table].find(c.name) == nil {
					write = append(write, &chain{name: c.name})
				}
			}
		}
		writeChains(&b, t.table, write)
	}
	return b.String()
}

// always reports whether every text has the chain: a text that is loaded keeps tracking on.
func (c *chain) always() bool { return c.name == anchorChain }

func writeChains(b *strings.Builder, table string, chains []*chain) {
	if len(chains) == 0 {
		return
	}
	fmt.Fprintf(b, "*%s\n", table)
	for _, c := range chains {
		fmt.Fprintf(b, ":%s - [0:0]\n", c.name)
	}
	for _, c := range chains {
		writeLines(b, c.rules)
	}
	b.WriteString("COMMIT\n")
}

func writeLines(b *strings.Builder, lines []string) {
	for _, l := range lines {
		b.WriteString(l + "\n")
	}
}

// quote writes a word as iptables-restore reads it: within double quotes if it must be, where a backslash
// takes the next character as it is (iptables/xshared.c, add_param_to_argv). Single quotes mean nothing to
// it.
func quote(w string) string {
	if w != "" && !strings.ContainsAny(w, " \t\"'\\") {
		return w
	}
	return enclose(w)
}

func enclose(w string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(w) + `"`
}
