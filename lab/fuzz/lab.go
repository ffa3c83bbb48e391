package fuzz

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"ctlab/checks/conntrack"
	"ctlab/checks/trace"
	"ctlab/checks/wire"
)

// Lab is a lab that does what was played: a router with the same rules, settings and addresses, and wires on which the
// same packets are put. It says what was seen and how that came to be. The error names what the language of labs
// cannot say.
func (f *Find) Lab() (string, error) {
	if f.Result.Scenario.Six {
		return "", errors.New("wires of labs have no IPv6 so far")
	}
	w := &labWriter{r: &f.Result, rules: newRuleset(f.Result.Scenario.Rules)}
	w.head(f)
	w.nodes()
	if err := w.steps(); err != nil {
		return "", fmt.Errorf("%s as a lab: %w", f.Result.Scenario.Name(), err)
	}
	return w.String(), nil
}

// labWriter writes a result as a lab.
type labWriter struct {
	strings.Builder
	r       *Result
	rules   *ruleset
	holds   []conntrack.Hold // what the scenario holds
	written []conntrack.Hold // what the lab does so far
}

func (w *labWriter) line(format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) }

// block writes a text below a key.
func (w *labWriter) block(indent, key, text string) {
	w.line("%s%s: |", indent, key)
	for l := range strings.Lines(text) {
		w.line("%s  %s", indent, strings.TrimRight(l, "\n"))
	}
}

func (w *labWriter) head(f *Find) {
	s := w.r.Scenario
	w.line("lab: %s", s.Name())
	w.line("about: %s", strconv.Quote(asciiOnly(w.r.brief())))
	var b strings.Builder
	fmt.Fprintf(&b, "Found by ctlab fuzz --seed %d --only %d on kernel %s; %d operations, of %d.\n", s.Seed, s.Number, w.r.Trace.Kernel, len(w.r.Played), f.Before)
	if len(w.r.Report.Differences) > 0 {
		d := w.r.Report.Differences[0]
		fmt.Fprintf(&b, "what:   %s\nfield:  %s\nkernel: %s\nmodel:  %s (%s)\n", d.What, d.Field, d.Kernel, d.Model, w.r.Report.Profile.Name)
		if d.Why != "" {
			fmt.Fprintf(&b, "why:    %s\n", d.Why)
		}
	}
	for _, l := range w.r.Report.Lost {
		fmt.Fprintf(&b, "not compared: %s\n", strings.ReplaceAll(l, "\n", " "))
	}
	w.block("", "why", b.String())
}

// asciiOnly is a text of which Go's and YAML's quoted forms are the same.
func asciiOnly(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return ' '
		}
		return r
	}, s)
}

// brief is what was seen, without what exactly it was seen of.
func (r *Result) brief() string {
	if len(r.Report.Differences) == 0 {
		return r.Says()
	}
	d := r.Report.Differences[0]
	return fmt.Sprintf("%s %s: kernel %s, model %s", thing(d), d.Field, d.Kernel, d.Model)
}

// Says is what was seen, in one line: the first difference, or why nothing was compared.
func (r *Result) Says() string {
	switch {
	case len(r.Report.Differences) > 0:
		d := r.Report.Differences[0]
		return fmt.Sprintf("%s: %s: kernel %s, model %s", d.What, d.Field, d.Kernel, d.Model)
	case len(r.Report.Lost) > 0:
		return strings.ReplaceAll(r.Report.Lost[0], "\n", " ")
	}
	return string(r.Report.Verdict())
}

func (w *labWriter) nodes() {
	s := w.r.Scenario
	w.line("\nnodes:")
	w.line("  node:\n    kind: router\n    anchor: false # the rules below are all that there is")
	sysctls := slices.DeleteFunc(slices.Clone(s.Sysctls), func(line string) bool { return slices.Contains(ofLabs(), line) })
	if len(sysctls) > 0 {
		w.line("    sysctls:")
	}
	for _, line := range sysctls {
		name, value, _ := strings.Cut(line, " ")
		w.line("      %s: %s", name, strconv.Quote(value))
	}
	w.ruleset("rules")
	for k, end := range s.Wires {
		addrs := []string{link(k, 2).String()}
		for _, h := range end.hosts() {
			addrs = append(addrs, netip.PrefixFrom(h, end.Node[0].Bits()).String())
		}
		w.line("  %s: {kind: wire, address: [%s]}", end.Device, strings.Join(addrs, ", "))
	}
}

// ruleset writes all rules that there are from then on.
func (w *labWriter) ruleset(key string) {
	if text := w.rules.brief(); text != "" {
		w.block("    ", key, text)
	} else {
		w.line("    %s: none", key)
	}
}

// link is an address of the subnet that connects a wire in a lab, where the router has the first one of the subnet. A
// scenario gives its router other addresses: those come by a step, with which this subnet goes.
func link(k int, host byte) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(4*k) + host}), 30)
}

func (w *labWriter) steps() error {
	w.line("\nsteps:")
	var routes []string
	for k, end := range w.r.Scenario.Wires {
		var own []string
		for _, p := range end.Node {
			own = append(own, p.String())
		}
		w.line("  - {address: node:%s, add: [%s]}", end.Device, strings.Join(own, ", "))
		w.line("  - {address: node:%s, del: %s}", end.Device, netip.PrefixFrom(link(k, 1).Addr(), 32)) // not at once: with a last address neighbours go
		routes = append(routes, end.Node[0].Masked().String()+" dev "+end.Device)
	}
	w.line("  - {route: node, add: [%s]}", strings.Join(routes, ", "))
	for i := range w.r.Played {
		if err := w.step(&w.r.Played[i]); err != nil {
			return err
		}
	}
	w.line("  - check: node")
	return nil
}

func (w *labWriter) step(p *Played) error {
	switch p.Kind {
	case Packet:
		w.packet(p)
	case Pause:
		if p.Pause > 0 {
			w.line("  - wait: %s", p.Pause)
		}
	case Rules:
		if err := w.rules.load(p.Text, p.Noflush); err != nil {
			return err
		}
		w.line("  - rules: node")
		w.ruleset("replace")
	case Sysctl:
		name, value, _ := strings.Cut(p.Text, " ")
		w.line("  - {sysctl: node, set: {%s: %q}}", name, value)
	case Delete:
		w.line("  - conntrack: node\n    delete: %s", p.Entry.Line())
	case Flush:
		w.line("  - {conntrack: node, flush: true}")
	case Dump:
		w.line("  - check: node")
	case Hold:
		w.holds = append(w.holds, p.Hold)
	case Unhold:
		w.holds = nil
	case Release:
		w.release(p)
	default:
		return fmt.Errorf("no step does what %s does", p.Kind)
	}
	return nil
}

// packet writes a packet, and before it what is held from now on, if that has changed.
func (w *labWriter) packet(p *Played) {
	if len(w.written) > len(w.holds) || !slices.Equal(w.written, w.holds[:len(w.written)]) {
		w.line("  - {release: node, packets: 0}")
		w.written = nil
	}
	for _, h := range w.holds[len(w.written):] {
		state := "any"
		if h.New {
			state = "new"
		}
		rest := strings.TrimSuffix(strings.TrimPrefix(h.String(), string(h.Where)+" "), " new")
		w.line("  - {hold: node, match: %q, where: %s, ct: %s}", rest, h.Where, state)
	}
	w.written = slices.Clone(w.holds)
	w.line("  - packet: %s\n    on: %s", p.sent().Line(), w.r.Scenario.Wires[p.Wire].Device)
}

// sent is a packet as it was on the wire, perhaps as a fragment.
func (p *Played) sent() *conntrack.Packet {
	if p.Piece[1] == 0 {
		return &p.Packet
	}
	is, _ := wire.Decode(wire.Fragment(&p.Packet, p.Piece[0], p.Piece[1]))
	return &is
}

// release writes that a packet goes on. With the last one the lab's holds are over.
func (w *labWriter) release(p *Played) {
	var words []string
	if p.Waiting > 1 {
		words = append(words, fmt.Sprintf("packets: %d, order: [%d]", p.Waiting, p.Of+1))
	} else {
		w.written = nil
	}
	if !p.Accept {
		words = append(words, "verdict: drop")
	}
	w.line("  - {%s}", strings.Join(append([]string{"release: node"}, words...), ", "))
}

// ruleset is what is loaded, by its tables: a text replaces those that it names.
type ruleset struct {
	order []string
	table map[string][]string // the lines between *TABLE and COMMIT
}

func newRuleset(text string) *ruleset {
	rs := &ruleset{table: map[string][]string{}}
	_ = rs.load(text, false) // only more rules can be refused
	return rs
}

func (rs *ruleset) load(text string, noflush bool) error {
	if noflush {
		return fmt.Errorf("no step adds rules as iptables-save has them")
	}
	open := ""
	for l := range strings.Lines(text) {
		l = strings.TrimSpace(l)
		switch name, begins := strings.CutPrefix(l, "*"); {
		case begins:
			if open = name; !slices.Contains(rs.order, name) {
				rs.order = append(rs.order, name)
			}
			rs.table[name] = nil
		case l != "" && l != "COMMIT":
			rs.table[open] = append(rs.table[open], l)
		}
	}
	return nil
}

// empty are the tables without rules.
func (rs *ruleset) empty() (out []string) {
	for _, name := range rs.order {
		if !slices.ContainsFunc(rs.table[name], isRule) {
			out = append(out, name)
		}
	}
	return out
}

func isRule(line string) bool { return strings.HasPrefix(line, "-A ") }

func (rs *ruleset) drop(name string) {
	rs.order = slices.DeleteFunc(rs.order, func(n string) bool { return n == name })
	delete(rs.table, name)
}

// String is what iptables-restore takes.
func (rs *ruleset) String() string { return rs.text(func(string) bool { return true }) }

// brief leaves out what a lab has by itself: chains that accept.
func (rs *ruleset) brief() string {
	return rs.text(func(line string) bool { return !strings.HasPrefix(line, ":") || !strings.Contains(line, " ACCEPT ") })
}

func (rs *ruleset) text(with func(line string) bool) string {
	var b strings.Builder
	for _, name := range rs.order {
		fmt.Fprintf(&b, "*%s\n", name)
		for _, l := range rs.table[name] {
			if with(l) {
				b.WriteString(l + "\n")
			}
		}
		b.WriteString("COMMIT\n")
	}
	return b.String()
}

// Operations are what was played, a line each.
func (r *Result) Operations() string {
	var b strings.Builder
	for i := range r.Played {
		fmt.Fprintln(&b, r.Played[i].String(r.Scenario.Wires))
	}
	return b.String()
}

// String is the operation in one line, but for the rules, which stand in lines of their own.
func (p *Played) String(wires []Wire) string {
	words := []string{fmt.Sprintf("%9.6f", p.At.Seconds()), string(p.Kind)}
	switch p.Kind {
	case Packet:
		words = append(words, wires[p.Wire].Device, p.sent().Line())
	case Pause:
		words = append(words, p.Pause.String())
	case Rules:
		words = append(words, "\n\t"+strings.ReplaceAll(strings.TrimSpace(p.Text), "\n", "\n\t"))
	case Sysctl:
		words = append(words, p.Text)
	case Delete:
		words = append(words, p.Entry.Line())
	case Hold:
		words = append(words, p.Op.Hold.String())
	case Release:
		words = append(words, trace.ReleaseArgs(p.Of+1, p.Accept))
	}
	return strings.Join(words, " ")
}
