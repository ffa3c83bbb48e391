package fuzz

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// How much is done to make one find smaller.
const (
	maxReplays = 90
	maxShrink  = time.Minute
	// confirmations is how often the smallest scenario is played again in the end.
	confirmations = 3
	// begins is how often it is tried whether it comes back at all, as something may be left to chance.
	begins = 2
)

// Find is something that was found, made smaller.
type Find struct {
	Result        // of the smallest scenario that shows it
	From   Result // as it was found
	Before int    // how many operations were done up to the first difference when it was found
	// Replays is how many scenarios were played to make it smaller, and Took how long that took.
	Replays int
	Took    time.Duration
	// Shown is how often it was seen when the smallest scenario was played Confirmed times more. If it never came
	// back at all, Result is what was found.
	Shown, Confirmed int
}

// Shrinking is how far it is with making finds smaller.
type Shrinking struct {
	Name                string // of the scenario
	Find, Finds         int    // which of how many
	Ops, Of             int    // how many operations are left
	Replays, MaxReplays int
}

// player plays scenarios side by side and returns their results in the same order. One that could not be played has
// none.
type player func(context.Context, []*Scenario) []Result

// shrinker makes one find smaller.
type shrinker struct {
	ctx      context.Context
	play     player
	kind     kind
	progress func(Shrinking)
	now      func() time.Time
	until    time.Time
	best     Result
	at       Shrinking
}

// shrink makes a find smaller: it leaves out operations, then rules, addresses, wires and settings, and shortens
// pauses, as long as the first difference is of the same kind.
func shrink(ctx context.Context, found Result, at Shrinking, play player, now func() time.Time, progress func(Shrinking)) Find {
	began := now()
	played := found.upTo()
	at.Name, at.Ops, at.Of, at.MaxReplays = found.Scenario.Name(), len(played), len(played), maxReplays
	s := &shrinker{ctx: ctx, play: play, kind: found.kind(), progress: progress, now: now, until: began.Add(maxShrink), best: found, at: at}
	f := Find{Result: found, From: found, Before: len(played)}
	back := false
	for try := 0; try < begins && !back; try++ {
		back = s.begin(found, played)
	}
	if back {
		s.ops()
		s.rules()
		s.tables()
		s.addresses()
		s.wires()
		s.sysctls()
		s.pauses()
		f.Result = s.best
		f.Shown, f.Confirmed = s.confirm()
	}
	f.Replays, f.Took = s.at.Replays, now().Sub(began)
	return f
}

// begin plays what was done again, up to the first difference, or, if that does not show it, all of it; and, as what
// was done last has most to do with it, only the last operations.
func (s *shrinker) begin(found Result, played []Played) bool {
	all := []*Scenario{found.scenario(found.Played)}
	for n := len(played); n > 0; n /= 2 {
		all = append(all, found.scenario(played[len(played)-n:]))
	}
	ok, results := s.tryAll(all)
	for i := len(ok) - 1; i >= 0; i-- {
		if ok[i] {
			s.best = results[i]
			return true
		}
	}
	return false
}

// tryAll plays scenarios, as long as there is time, and tells which show what is looked for.
func (s *shrinker) tryAll(all []*Scenario) ([]bool, []Result) {
	ok := make([]bool, len(all))
	if s.ctx.Err() != nil || s.now().After(s.until) || s.at.Replays+len(all) > maxReplays {
		return ok, nil
	}
	s.at.Ops = len(s.best.Played)
	s.progress(s.at)
	s.at.Replays += len(all)
	results := s.play(s.ctx, all)
	for i := range results {
		ok[i] = results[i].Scenario != nil && results[i].kind() == s.kind
	}
	return ok, results
}

// reduce leaves out of n parts of the best scenario what is not needed; make makes the scenario with some of them.
func (s *shrinker) reduce(n int, make func(from *Scenario, parts []int) *Scenario) {
	from := s.best.Scenario
	reduce(n, func(sets [][]int) []bool {
		all := []*Scenario{}
		for _, parts := range sets {
			all = append(all, make(from, parts))
		}
		ok, results := s.tryAll(all)
		// Who asks takes the first of a round that holds, and asks on from there; only a smaller one is better.
		for i := range results {
			if ok[i] && results[i].Scenario.size() < s.best.Scenario.size() {
				s.best = results[i]
			}
		}
		return ok
	})
}

// size is how much there is to a scenario.
func (s *Scenario) size() int {
	n := len(s.Ops) + len(s.Wires) + strings.Count(s.Rules, "\n")
	for _, op := range s.Ops {
		n += strings.Count(op.Text, "\n")
	}
	for _, line := range s.Sysctls {
		if !slices.Contains(ofLabs(), line) {
			n++
		}
	}
	for _, w := range s.Wires {
		n += len(w.Node) + len(w.hosts())
	}
	return n
}

func (s *shrinker) ops() {
	s.reduce(len(s.best.Scenario.Ops), func(from *Scenario, parts []int) *Scenario {
		c := from.clone()
		c.Ops = nil
		for _, i := range parts {
			c.Ops = append(c.Ops, from.Ops[i])
		}
		return c
	})
}

// rules leaves out rules of all texts.
func (s *shrinker) rules() {
	lines := len(ruleLines(s.best.Scenario.Rules))
	for _, op := range s.best.Scenario.Ops {
		if op.Kind == Rules {
			lines += len(ruleLines(op.Text))
		}
	}
	s.reduce(lines, func(from *Scenario, parts []int) *Scenario {
		c := from.clone()
		n := 0
		keep := func(text string) string {
			out := keepRules(text, func(i int) bool { return slices.Contains(parts, n+i) })
			n += len(ruleLines(text))
			return out
		}
		c.Rules = keep(c.Rules)
		for i, op := range c.Ops {
			if op.Kind == Rules {
				c.Ops[i].Text = keep(op.Text)
			}
		}
		return c
	})
}

// ruleLines are the rules of a text.
func ruleLines(text string) (out []string) {
	for l := range strings.Lines(text) {
		if isRule(l) {
			out = append(out, l)
		}
	}
	return out
}

// keepRules is a text with some of its rules, counted from 0. Its tables stay, as their hooks count.
func keepRules(text string, keep func(int) bool) string {
	var b strings.Builder
	n := 0
	for l := range strings.Lines(text) {
		if isRule(l) {
			n++
			if !keep(n - 1) {
				continue
			}
		}
		b.WriteString(l)
	}
	return b.String()
}

// tables leaves out tables without rules.
func (s *shrinker) tables() {
	texts := func(of *Scenario) []*string {
		out := []*string{&of.Rules}
		for i := range of.Ops {
			if of.Ops[i].Kind == Rules {
				out = append(out, &of.Ops[i].Text)
			}
		}
		return out
	}
	n := 0
	for _, text := range texts(s.best.Scenario) {
		n += len(newRuleset(*text).empty())
	}
	s.reduce(n, func(from *Scenario, parts []int) *Scenario {
		c := from.clone()
		n := 0
		for _, text := range texts(c) {
			rs := newRuleset(*text)
			empty := rs.empty()
			for i, name := range empty {
				if !slices.Contains(parts, n+i) {
					rs.drop(name)
				}
			}
			n += len(empty)
			*text = rs.String()
		}
		return c
	})
}

// addresses leaves out addresses of the node, except for the first of each wire, and hosts. Whoever a packet comes from
// or goes to stays: a neighbour that is not known is another story.
func (s *shrinker) addresses() {
	spoken := s.best.spoken()
	free := func(a netip.Addr) bool { return !spoken[a] }
	n := 0
	for _, w := range s.best.Scenario.Wires {
		n += len(w.Node) - 1
		for _, h := range w.hosts() {
			if free(h) {
				n++
			}
		}
	}
	s.reduce(n, func(from *Scenario, parts []int) *Scenario {
		c := from.clone()
		n := 0
		gone := func(free bool) bool {
			if !free {
				return false
			}
			n++
			return !slices.Contains(parts, n-1)
		}
		for i := range c.Wires {
			w := &c.Wires[i]
			w.Node = append(w.Node[:1], slices.DeleteFunc(w.Node[1:], func(netip.Prefix) bool { return gone(true) })...)
			w.Hosts = slices.DeleteFunc(w.Hosts, func(a netip.Addr) bool { return gone(free(a)) })
			w.Silent = slices.DeleteFunc(w.Silent, func(a netip.Addr) bool { return gone(free(a)) })
		}
		return c
	})
}

// wires leaves out wires on which nothing comes in and nothing leaves.
func (s *shrinker) wires() {
	used := map[int]bool{}
	for _, op := range s.best.Scenario.Ops {
		used[op.Wire] = used[op.Wire] || onWire(op.Kind)
	}
	var free []int
	for k, w := range s.best.Scenario.Wires {
		if !used[k] && len(used) > 0 && !s.best.leaves(w.Device) {
			free = append(free, k)
		}
	}
	s.reduce(len(free), func(from *Scenario, parts []int) *Scenario {
		c := from.clone()
		c.Wires = nil
		moved := map[int]int{}
		for k, w := range from.Wires {
			if i := slices.Index(free, k); i < 0 || slices.Contains(parts, i) {
				moved[k] = len(c.Wires)
				c.Wires = append(c.Wires, w)
			}
		}
		for i := range c.Ops {
			if onWire(c.Ops[i].Kind) {
				c.Ops[i].Wire = moved[c.Ops[i].Wire]
			}
		}
		return c
	})
}

// onWire reports whether an operation as it was played has to do with a wire.
func onWire(k Kind) bool { return k == Packet || k == Link || k == Address }

// sysctls leaves out settings; what a lab or the kernel has instead is recorded.
func (s *shrinker) sysctls() {
	needed := ofLabs()
	if s.best.tells() {
		needed = append(needed, unlimited()...)
	}
	var free []string
	for _, line := range s.best.Scenario.Sysctls {
		if !slices.Contains(needed, line) {
			free = append(free, line)
		}
	}
	s.reduce(len(free), func(from *Scenario, parts []int) *Scenario {
		c := from.clone()
		c.Sysctls = nil
		for _, line := range from.Sysctls {
			if i := slices.Index(free, line); i < 0 || slices.Contains(parts, i) {
				c.Sysctls = append(c.Sysctls, line)
			} else if i := slices.IndexFunc(ofLabs(), func(l string) bool { return sysctlName(l) == sysctlName(line) }); i >= 0 {
				c.Sysctls = append(c.Sysctls, ofLabs()[i])
			} else {
				c.Defaults = append(c.Defaults, sysctlName(line))
			}
		}
		return c
	})
}

func sysctlName(line string) string {
	name, _, _ := strings.Cut(line, " ")
	return name
}

// unlimited are settings without which the kernel leaves it to chance whether it tells of an error: the credit that
// all errors share is counted with a random part (icmp_global_allow in net/ipv4/icmp.c, 6.18).
func unlimited() []string {
	return []string{"net.ipv4.icmp_msgs_per_sec 1000000", "net.ipv4.icmp_msgs_burst 1000000"}
}

// ofLabs are settings that a lab makes on every router of its own accord.
func ofLabs() []string {
	return []string{"net.ipv4.ip_forward 1", "net.ipv4.conf.all.rp_filter 0", "net.ipv4.conf.default.rp_filter 0",
		"net.ipv4.conf.all.send_redirects 0", "net.ipv4.conf.default.send_redirects 0", "net.netfilter.nf_conntrack_acct 1"}
}

// pauses shortens pauses: all of them as far as it goes, then each.
func (s *shrinker) pauses() {
	var at []int
	for i, op := range s.best.Scenario.Ops {
		if op.Kind == Pause {
			at = append(at, i)
		}
	}
	if len(at) == 0 {
		return
	}
	s.firstOf(shorter(s.best.Scenario, at, 8), shorter(s.best.Scenario, at, 4), shorter(s.best.Scenario, at, 2))
	if len(at) > 1 {
		for _, i := range at {
			s.firstOf(shorter(s.best.Scenario, []int{i}, 4), shorter(s.best.Scenario, []int{i}, 2))
		}
	}
}

// firstOf takes the first of some scenarios that shows it.
func (s *shrinker) firstOf(all ...*Scenario) {
	ok, results := s.tryAll(all)
	if i := slices.Index(ok, true); i >= 0 {
		s.best = results[i]
	}
}

// shorter is a scenario with some pauses divided, to 10 ms at least.
func shorter(from *Scenario, at []int, by time.Duration) *Scenario {
	c := from.clone()
	for _, i := range at {
		p := &c.Ops[i].Pause
		*p = min(*p, max((*p/by).Round(10*time.Millisecond), 10*time.Millisecond))
	}
	return c
}

// confirm plays the smallest scenario again and counts how often it shows it. There is always time for that.
func (s *shrinker) confirm() (shown, of int) {
	if s.ctx.Err() != nil {
		return 0, 0
	}
	results := s.play(s.ctx, slices.Repeat([]*Scenario{s.best.Scenario}, confirmations))
	for i := range results {
		if results[i].Scenario != nil && results[i].kind() == s.kind {
			shown++
		}
	}
	s.at.Replays += len(results)
	return shown, len(results)
}
