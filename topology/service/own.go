package service

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Check says what is wrong with a text of own rules by its shape: the line, and what it should be. Whether
// matches and targets exist, iptables or the model says when the rules are loaded.
//
// A text whose first line begins with * (comments, which begin with #, aside) is what iptables-save prints;
// else it has lines as typed after iptables, with -t TABLE or for filter, of which -A, -I, -P and -N make
// sense at the beginning.
func Check(o Own) error {
	_, err := parse(o.Text, initial)
	return err
}

// LineError is what is wrong with a line of a text of own rules; lines count from 1.
type LineError struct {
	Text string // the name of the text, or "" where there is only one
	Line int
	Err  error
}

func (e *LineError) Error() string {
	s := fmt.Sprintf("line %d: %v", e.Line, e.Err)
	if e.Text != "" {
		s = "rules " + e.Text + ": " + s
	}
	return s
}

func (e *LineError) Unwrap() error { return e.Err }

// RuleLine is the line, from 1, of the rule that has the comment NAME.N in a loaded text, or 0 if this text
// has no such rule.
func (o Own) RuleLine(comment string) int {
	commands, err := parse(o.Text, later)
	if err != nil {
		return 0
	}
	for _, c := range commands {
		if c.number > 0 && own(o.Name, c.number) == comment {
			return c.line
		}
	}
	return 0
}

// Lines is the text for iptables-restore --noflush that does what the lines would, as typed after iptables:
// -A, -I, -D, -F, -P, -N and -X. Rules have the comment NAME.N, as in Rules, if there is a name. A rule that
// -D describes is looked up in the texts that were loaded before, in order to find the comment that it has
// there. Chains of services and ctlab's own may not be named; -F without a chain empties those of services
// too, as it would on a node.
func Lines(name, text string, loaded ...Own) (string, error) {
	if isSaved(text) {
		return "", errors.New("want lines as typed after iptables, not what iptables-save prints")
	}
	commands, err := parse(text, later)
	if err != nil {
		return "", err
	}
	if len(commands) == 0 {
		return "", errors.New("there are no rules in it")
	}
	var b strings.Builder
	open := ""
	for _, c := range commands {
		for _, n := range c.named() {
			if isServiceChain(n) {
				return "", &LineError{"", c.line, fmt.Errorf("chain %s is a service's", n)}
			}
		}
		switch {
		case c.op == "-D" && c.at == "":
			c.comment = c.find(loaded)
		case c.number > 0 && name != "":
			c.comment = own(name, c.number)
		}
		if c.table != open {
			closeTable(&b, open)
			fmt.Fprintf(&b, "*%s\n", c.table)
			open = c.table
		}
		b.WriteString(c.String() + "\n")
	}
	closeTable(&b, open)
	return b.String(), nil
}

func closeTable(b *strings.Builder, open string) {
	if open != "" {
		b.WriteString("COMMIT\n")
	}
}

// own is the comment of the nth rule of a text.
func own(name string, n int) string { return fmt.Sprintf("%s.%d", name, n) }

// isServiceChain reports whether a chain is one that Rules writes for services, by its name.
func isServiceChain(name string) bool {
	return strings.HasPrefix(name, "svc-") || strings.HasPrefix(name, "KUBE-")
}

// merge adds the lab's own rules behind those of the services.
func (rs ruleset) merge(texts []Own) error {
	var all [][]command
	for _, o := range texts {
		commands, err := parse(o.Text, initial)
		if err != nil {
			return fmt.Errorf("rules %s: %w", o.Name, err)
		}
		if err := rs.declare(o.Name, commands); err != nil {
			return err
		}
		all = append(all, commands)
	}
	for i, o := range texts {
		for _, c := range all[i] {
			if err := rs.append(o.Name, c); err != nil {
				return &LineError{o.Name, c.line, err}
			}
		}
	}
	return nil
}

// declare takes over tables, policies and chains.
func (rs ruleset) declare(name string, commands []command) error {
	for _, c := range commands {
		t := rs.table(c.table)
		switch {
		case c.op == "-P":
			t.policies[c.chain] = c.rest[0]
		case c.op == "-N" && t.find(c.chain) != nil:
			return &LineError{name, c.line, fmt.Errorf("chain %s is a service's", c.chain)}
		case c.op == "-N" && !slices.Contains(t.own, c.chain):
			t.own = append(t.own, c.chain)
		}
	}
	return nil
}

// append adds a rule, when all chains are declared.
func (rs ruleset) append(name string, c command) error {
	if c.number == 0 {
		return nil
	}
	t := rs.table(c.table)
	for _, n := range c.named() {
		if t.find(n) != nil {
			return fmt.Errorf("chain %s is a service's", n)
		}
	}
	if !slices.Contains(builtinChains(c.table), c.chain) && !slices.Contains(t.own, c.chain) {
		return fmt.Errorf("table %s has no chain %s; it begins with -N %s", c.table, c.chain, c.chain)
	}
	c.comment = own(name, c.number)
	t.ownRules = append(t.ownRules, c.String())
	return nil
}

// command is one line of a text.
type command struct {
	line    int
	table   string
	op      string // -A, -I, -D, -F, -P, -N, -X, or "" for a table that is named
	chain   string // "" for all chains of the table (-F)
	at      string // the number of a rule (-I, -D), or ""
	rest    []string
	number  int    // of a rule that is added, among those of its text, from 1; 0 for other commands
	comment string // ctlab's
}

// String is the command as iptables-restore reads it.
func (c command) String() string {
	switch c.op {
	case "-N":
		return ":" + c.chain + " - [0:0]"
	case "-P":
		return ":" + c.chain + " " + c.rest[0] + " [0:0]"
	}
	words := []string{c.op}
	for _, w := range []string{c.chain, c.at} {
		if w != "" {
			words = append(words, w)
		}
	}
	if c.comment != "" {
		words = append(words, comment(c.comment))
	}
	for _, w := range c.rest {
		words = append(words, quote(w))
	}
	return strings.Join(words, " ")
}

// named are the chains that a command names: its own and the one that it may jump to.
func (c command) named() []string {
	names := []string{c.chain}
	for i, w := range c.rest[:max(0, len(c.rest)-1)] {
		if slices.Contains([]string{"-j", "--jump", "-g", "--goto"}, w) {
			names = append(names, c.rest[i+1])
		}
	}
	return names
}

// find looks for the rule that -D describes in texts that were loaded, and returns its comment, or "".
func (c command) find(loaded []Own) string {
	for _, o := range loaded {
		commands, err := parse(o.Text, later)
		if err != nil {
			continue
		}
		for _, r := range commands {
			if r.number > 0 && r.table == c.table && r.chain == c.chain && slices.Equal(r.rest, c.rest) {
				return own(o.Name, r.number)
			}
		}
	}
	return ""
}

// phase is when a text is loaded.
type phase int

const (
	initial phase = iota
	later
)

// commandKind is a command of iptables: short and long form, and whether it makes sense at the beginning.
type commandKind struct {
	short, long string
	initial     bool
}

func commandKinds() []commandKind {
	return []commandKind{
		{"-A", "--append", true}, {"-I", "--insert", true}, {"-P", "--policy", true}, {"-N", "--new-chain", true},
		{"-D", "--delete", false}, {"-F", "--flush", false}, {"-X", "--delete-chain", false},
	}
}

// parse reads a text of either form.
func parse(text string, when phase) ([]command, error) {
	p := parser{when: when, saved: isSaved(text)}
	for i, l := range strings.Split(text, "\n") {
		l = strings.TrimSpace(l)
		if l == "" || l[0] == '#' {
			continue
		}
		p.line = i + 1
		if err := p.read(l); err != nil {
			return nil, &LineError{"", p.line, err}
		}
	}
	if p.saved && p.table != "" {
		return nil, &LineError{"", p.line, fmt.Errorf("table %s has no COMMIT", p.table)}
	}
	return p.commands, nil
}

// isSaved reports whether a text is what iptables-save prints.
func isSaved(text string) bool {
	for l := range strings.Lines(text) {
		if l = strings.TrimSpace(l); l != "" && l[0] != '#' {
			return l[0] == '*'
		}
	}
	return false
}

type parser struct {
	when     phase
	saved    bool   // what iptables-save prints
	table    string // of saved text: the one that is open
	line     int
	rules    int
	commands []command
}

func (p *parser) read(l string) error {
	if !p.saved {
		return p.typed(l)
	}
	switch {
	case l[0] == '*' && p.table != "":
		return fmt.Errorf("table %s has no COMMIT", p.table)
	case l[0] == '*':
		p.table = l[1:]
		p.add(command{})
		return knownTable(p.table)
	case p.table == "":
		return fmt.Errorf("%q stands outside a table", l)
	case l == "COMMIT":
		p.table = ""
		return nil
	case l[0] == ':':
		return p.declaration(l)
	}
	words, err := splitWords(l)
	if err != nil {
		return err
	}
	if strings.HasPrefix(words[0], "[") { // counters of iptables-save -c
		words = words[1:]
	}
	if len(words) == 0 || words[0] != "-A" && words[0] != "-I" {
		return fmt.Errorf("%q: want -A CHAIN, as iptables-save prints it", l)
	}
	return p.command(words)
}

// declaration reads ":CHAIN POLICY [packets:bytes]".
func (p *parser) declaration(l string) error {
	f := strings.Fields(l[1:])
	if len(f) < 2 {
		return fmt.Errorf("%q: want :CHAIN POLICY", l)
	}
	if f[1] == "-" {
		return p.command([]string{"-N", f[0]})
	}
	return p.command([]string{"-P", f[0], f[1]})
}

// typed reads a line as typed after iptables.
func (p *parser) typed(l string) error {
	words, err := splitWords(l)
	if err != nil {
		return err
	}
	p.table = "filter"
	for i, w := range words {
		if (w == "-t" || w == "--table") && (i == 0 || words[i-1] != "--comment") {
			if i+1 == len(words) {
				return fmt.Errorf("%s wants a table", w)
			}
			p.table = words[i+1]
			words = slices.Delete(words, i, i+2)
			break
		}
	}
	if err := knownTable(p.table); err != nil {
		return err
	}
	if len(words) == 0 {
		return errors.New("there is no command, such as -A")
	}
	if words[0] == "iptables" {
		return errors.New(`write what stands behind "iptables"`)
	}
	return p.command(words)
}

// command reads a command in the present table.
func (p *parser) command(words []string) error {
	kinds := commandKinds()
	i := slices.IndexFunc(kinds, func(k commandKind) bool { return words[0] == k.short || words[0] == k.long })
	switch {
	case i < 0:
		return fmt.Errorf("%q is no command that ctlab knows; a line begins with %s", words[0], p.known())
	case p.when == initial && !kinds[i].initial:
		return fmt.Errorf("%s makes no sense at the beginning; ctlab knows %s", words[0], p.known())
	}
	c := command{op: kinds[i].short, rest: words[1:]}
	if len(c.rest) > 0 {
		c.chain, c.rest = c.rest[0], c.rest[1:]
	}
	if (c.op == "-I" || c.op == "-D") && len(c.rest) > 0 {
		if _, err := strconv.ParseUint(c.rest[0], 10, 31); err == nil {
			c.at, c.rest = c.rest[0], c.rest[1:]
		}
	}
	if err := p.chain(c); err != nil {
		return err
	}
	if err := c.arguments(); err != nil {
		return err
	}
	if c.op == "-A" || c.op == "-I" {
		p.rules++
		c.number = p.rules
	}
	p.add(c)
	return nil
}

// known lists the commands for an error.
func (p *parser) known() string {
	var names []string
	for _, k := range commandKinds() {
		if k.initial || p.when == later {
			names = append(names, k.short)
		}
	}
	return strings.Join(names, ", ")
}

func (p *parser) add(c command) {
	c.line, c.table = p.line, p.table
	p.commands = append(p.commands, c)
}

// chain checks the chain of a command.
func (p *parser) chain(c command) error {
	builtin := slices.Contains(builtinChains(p.table), c.chain)
	switch {
	case c.chain == "" && c.op == "-F" && p.table == "filter":
		return errors.New("-F wants a chain: all of filter has ctlab's anchor in it")
	case c.chain == "" && c.op == "-F":
		return nil
	case c.chain == "":
		return fmt.Errorf("%s wants a chain", c.op)
	case strings.HasPrefix(c.chain, "ctlab-"):
		return fmt.Errorf("chain %s is ctlab's own", c.chain)
	case len(c.chain) > maxChain:
		return fmt.Errorf("chain %s has %d characters; iptables takes %d", c.chain, len(c.chain), maxChain)
	case strings.ContainsAny(c.chain[:1], "-!"):
		return fmt.Errorf("%s wants a chain, not %q", c.op, c.chain)
	case c.op == "-P" && !builtin:
		return fmt.Errorf("%s is no built-in chain of table %s; only those have a policy", c.chain, p.table)
	case (c.op == "-N" || c.op == "-X") && builtin:
		return fmt.Errorf("%s is a built-in chain of table %s", c.chain, p.table)
	case !builtin && isBuiltin(c.chain):
		return fmt.Errorf("table %s has no chain %s", p.table, c.chain)
	}
	return nil
}

// isBuiltin reports whether some table has the built-in chain.
func isBuiltin(chain string) bool {
	return slices.ContainsFunc(tables(), func(t builtins) bool { return slices.Contains(t.chains, chain) })
}

// arguments checks what stands behind the chain.
func (c command) arguments() error {
	switch c.op {
	case "-P":
		if len(c.rest) != 1 || c.rest[0] != "ACCEPT" && c.rest[0] != "DROP" {
			return fmt.Errorf("-P %s wants ACCEPT or DROP", c.chain)
		}
	case "-N", "-X", "-F":
		if len(c.rest) > 0 {
			return fmt.Errorf("%s %s: %q is too much", c.op, c.chain, strings.Join(c.rest, " "))
		}
	case "-D":
		if c.at == "" && len(c.rest) == 0 || c.at != "" && len(c.rest) > 0 {
			return fmt.Errorf("-D %s wants a rule or its number", c.chain)
		}
	}
	return nil
}

func knownTable(name string) error {
	if builtinChains(name) != nil {
		return nil
	}
	var names []string
	for _, t := range tables() {
		names = append(names, t.table)
	}
	return fmt.Errorf("table %q is not known; tables: %s", name, strings.Join(names, ", "))
}

// splitWords splits a line into words. Quotes of both kinds hold a word together, as in a shell; within
// double quotes a backslash takes the next character as it is.
func splitWords(l string) ([]string, error) {
	var words []string
	var word strings.Builder
	in, quoted := false, rune(0)
	escaped := false
	for _, r := range l {
		switch {
		case escaped:
			word.WriteRune(r)
			escaped = false
		case r == '\\' && quoted == '"':
			escaped = true
		case quoted != 0 && r == quoted:
			quoted = 0
		case quoted == 0 && (r == '"' || r == '\''):
			quoted, in = r, true
		case quoted == 0 && (r == ' ' || r == '\t'):
			if in {
				words = append(words, word.String())
				word.Reset()
			}
			in = false
		default:
			word.WriteRune(r)
			in = true
		}
	}
	if quoted != 0 {
		return nil, errors.New("a quote is not closed")
	}
	if in {
		words = append(words, word.String())
	}
	return words, nil
}
