package report

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"ctlab/lab"
	"ctlab/topology/service"
)

// title is the step's, with lists of more than three names shortened to the first, the last and their
// number.
func title(s *lab.Step) string {
	full := s.Title()
	if len(full) <= titleWide {
		return full
	}
	for _, names := range [][]string{s.Clients, s.Servers, s.Nodes} {
		if n := len(names); n > 3 {
			full = strings.Replace(full, strings.Join(names, ", "), fmt.Sprintf("%s..%s (%d)", names[0], names[n-1], n), 1)
		}
	}
	return full
}

// cut shortens a line that is too long.
func cut(s string, width int) string {
	if utf8.RuneCountInString(s) <= width {
		return s
	}
	return string([]rune(s)[:width-3]) + "..."
}

// happened is what came of a step, in lines of at most saidWide characters; there is at least one.
func (t *text) happened(s *lab.StepResult) []string {
	if why := s.Outcome.NotPlayed; why != "" {
		return wrap(notSimulated(why), saidWide)
	}
	var lines []string
	for _, l := range t.said(s) {
		lines = append(lines, wrap(l, saidWide)...)
	}
	lines = append(lines, t.deleted(s.Outcome.Deleted)...)
	lines = append(lines, latencyLines(s)...)
	if len(lines) == 0 {
		return []string{""}
	}
	return lines
}

// notSimulated is why a step was not played. The reason may say itself that it is for want of simulation.
func notSimulated(why string) string {
	return "not simulated: " + strings.TrimSuffix(why, ": not simulated")
}

// said is what came of a step in its own words.
func (t *text) said(s *lab.StepResult) []string {
	out := &s.Outcome
	switch s.Step.Kind {
	case lab.Query:
		if len(out.Programs) > 0 {
			return programs(out.Programs)
		}
		return traffic(out.Attempts)
	case lab.Start:
		return []string{t.started(s.Step)}
	case lab.Stop:
		if len(out.Programs) > 0 {
			return append(stopped(s.Step), programs(out.Programs)...)
		}
		return append(stopped(s.Step), background(&lab.Outcome{Began: out.Began, Ended: out.Ended, Attempts: t.r.Judged(s.Step, out)})...)
	case lab.Restart:
		return []string{t.restarted(out)}
	case lab.SetBackends:
		return []string{t.backendsSet(s)}
	case lab.Exec:
		return programs(out.Programs)
	case lab.PutPacket:
		return t.sent(out.Sent)
	case lab.Wait:
		return t.awaited(s)
	case lab.Hold:
		return []string{holding(s.Step)}
	case lab.Release:
		return t.released(out.Released)
	case lab.Check:
		return []string{t.checked(out)}
	}
	return []string{changed(s)}
}

// changed is what a step did that only gives orders.
func changed(s *lab.StepResult) string {
	step := s.Step
	switch step.Kind {
	case lab.Table:
		if step.Flush {
			return "flushed"
		}
		if step.Fill {
			return fmt.Sprintf("%d entries made", s.Outcome.Filled)
		}
		return fmt.Sprintf("%d deleted", len(s.Outcome.Deleted))
	case lab.SetSysctl:
		var set []string
		for _, c := range step.Sysctls {
			set = append(set, c.Name+" = "+c.Value)
		}
		return strings.Join(set, ", ")
	case lab.SetRules:
		return rulesChanged(step)
	case lab.SetAddress:
		var parts []string
		for _, a := range step.AddAddress {
			parts = append(parts, "+"+a.String())
		}
		for _, a := range step.DelAddress {
			parts = append(parts, "-"+a.String())
		}
		return strings.Join(parts, ", ") + " on " + step.Dev
	case lab.SetRoute:
		var parts []string
		for _, r := range step.Routes {
			parts = append(parts, step.RouteOp+" "+r.String())
		}
		return strings.Join(parts, ", ")
	}
	return ""
}

func rulesChanged(s *lab.Step) string {
	if !s.HasReplace {
		first, rest, _ := strings.Cut(strings.TrimSpace(s.Change), "\n")
		if n := strings.Count(rest, "\n") + 1; rest != "" {
			return fmt.Sprintf("%s, and %d more %s", first, n, plural(n, "line", "lines"))
		}
		return first
	}
	var names []string
	for _, r := range s.Replace {
		names = append(names, r.Name)
	}
	if len(names) == 0 {
		return "the lab's own rules taken away"
	}
	return "the lab's own rules are now: " + strings.Join(names, ", ")
}

func (t *text) started(s *lab.Step) string {
	if len(s.Servers) > 0 && len(s.Clients) == 0 {
		return "up"
	}
	if c := t.r.Lab.Client(s.Clients[0]); c != nil && c.Exec != nil { // and so are the others
		return "runs in the background"
	}
	said := "asking in the background"
	if s.Every > 0 {
		said += ", every " + s.Every.String()
	}
	if s.Count > 0 {
		said += fmt.Sprintf(", %d times", s.Count)
	}
	return said
}

func stopped(s *lab.Step) []string {
	if len(s.Servers) == 0 {
		return nil
	}
	return []string{"down" + gone(s.Death, s.Reuse)}
}

// background is the tally of traffic in the background, and its outage.
func background(out *lab.Outcome) []string {
	lines := traffic(out.Attempts)
	if longest, forGood := outages(out.Attempts, out.Ended); longest > 0 {
		lines[0] += "; outage " + outageText(longest, forGood)
	}
	return lines
}

// traffic is the tally of requests, and of those from fresh ports.
func traffic(all []lab.Attempt) []string {
	if len(all) == 0 {
		return nil
	}
	lines := []string{tally(all, false)}
	if c := tally(all, true); c != "" {
		lines = append(lines, "from fresh ports: "+c)
	}
	return lines
}

// tally is "answered 3 by coredns-1 (0.3 ms), timeout 2". It counts requests, never lists clients.
func tally(all []lab.Attempt, control bool) string {
	var parts []string
	for _, class := range lab.Classes() {
		n, took := 0, time.Duration(0)
		by := counts{}
		for _, a := range all {
			if a.Control != control || a.Class != class {
				continue
			}
			n++
			took += a.Took
			if class == lab.WrongSource {
				by.add(a.From.String())
				continue
			}
			by.add(a.By)
		}
		switch {
		case n == 0:
		case class == lab.Answered:
			parts = append(parts, fmt.Sprintf("answered %d%s (%s)", n, by.from(), fineMS(took/time.Duration(n))))
		case class == lab.WrongSource:
			parts = append(parts, fmt.Sprintf("%s %d from %s", class, n, strings.Join(by.names, ", ")))
		default:
			parts = append(parts, fmt.Sprintf("%s %d", class, n))
		}
	}
	return strings.Join(parts, ", ")
}

// counts counts names, in the order of their first occurrence.
type counts struct {
	names []string
	n     map[string]int
}

func (c *counts) add(name string) {
	if c.n == nil {
		c.n = map[string]int{}
	}
	if c.n[name]++; c.n[name] == 1 {
		c.names = append(c.names, name)
	}
}

// from is " by NODE", or how many each node answered.
func (c *counts) from() string {
	if len(c.names) == 1 {
		return " by " + c.names[0]
	}
	slices.Sort(c.names)
	var parts []string
	for _, name := range c.names {
		parts = append(parts, fmt.Sprintf("%d by %s", c.n[name], name))
	}
	return ": " + strings.Join(parts, ", ")
}

// gone is what a death did besides ending the process.
func gone(how lab.Death, reuse string) string {
	switch how {
	case lab.DeathAddress:
		return ", old address gone"
	case lab.DeathRoute:
		return ", old link and route gone"
	case lab.DeathDrop:
		return ", old address dropped by policy"
	case lab.DeathReuse:
		return ", old address reused by " + reuse
	}
	return ""
}

func (t *text) restarted(out *lab.Outcome) string {
	r := out.Restarted
	if r == nil {
		return ""
	}
	if r.From == r.To {
		return "on " + r.To + ", same address"
	}
	s := r.From + " > " + r.To + gone(r.Death, r.Reuse)
	if len(r.Services) == 0 {
		return s + ", rules unchanged"
	}
	return s + cleanedUp(r.Cleanup, len(out.Deleted))
}

// cleanedUp says in which order rules and entries were handled, and what that deleted.
func cleanedUp(c lab.Cleanup, deleted int) string {
	if c.Mode == service.None || c.Mode == "" {
		return ", rules replaced, no cleanup"
	}
	cleanup := fmt.Sprintf("cleanup %s deleted %d", c.Mode, deleted)
	delay := ""
	if c.Delay > 0 {
		delay = c.Delay.String() + " later "
	}
	if c.CleanupFirst {
		return ", " + cleanup + ", " + delay + "rules replaced"
	}
	return ", rules replaced, " + delay + cleanup
}

func (t *text) backendsSet(s *lab.StepResult) string {
	c, ok := t.past.of(s.Step.Index, s.Step.Service)
	if !ok {
		return ""
	}
	said := s.Step.Service + ": " + noneOr(c.from) + " > " + noneOr(c.to)
	svc := t.r.Lab.Service(s.Step.Service)
	if svc == nil {
		return said
	}
	return said + cleanedUp(svc.Cleanup, len(s.Outcome.Deleted))
}

func noneOr(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return few(names, 4)
}

// outputLimit is how many lines of a program's output are shown.
const outputLimit = 3

// programLimit is how many programs of a step are told of one after the other.
const programLimit = 3

// programs is what came of programs, one after the other. Of many it is the tally of their exit codes, and the first that
// failed, or the last.
func programs(all []lab.Program) (lines []string) {
	if len(all) > programLimit {
		codes := counts{}
		for i := range all {
			codes.add(all[i].Ending())
		}
		told := slices.IndexFunc(all, func(p lab.Program) bool { return p.Exit != 0 })
		if told < 0 {
			told = len(all) - 1
		}
		tally := make([]string, len(codes.names))
		for i, c := range codes.names {
			tally[i] = fmt.Sprintf("%s %dx", c, codes.n[c])
		}
		lines, all = []string{fmt.Sprintf("%d runs: %s; one of them:", len(all), strings.Join(tally, ", "))}, all[told:told+1]
	}
	for i := range all {
		lines = append(lines, executed(&all[i])...)
	}
	return lines
}

func executed(p *lab.Program) []string {
	lines := []string{p.Ending()}
	if p.Client != "" {
		lines = []string{fmt.Sprintf("%s: %s after %s", p.Client, p.Ending(), ms(p.Took))}
	}
	for _, stream := range []string{p.Stdout, p.Stderr} {
		out := slices.DeleteFunc(strings.Split(stream, "\n"), func(l string) bool { return strings.TrimSpace(l) == "" })
		for i, l := range out {
			if i == outputLimit {
				lines = append(lines, fmt.Sprintf("| ... and %d more %s", len(out)-i, plural(len(out)-i, "line", "lines")))
				break
			}
			lines = append(lines, cut("| "+lab.Escape(l), saidWide))
		}
	}
	return lines
}

// deletedLimit is how many deleted entries of a step are listed.
const deletedLimit = 4

func (t *text) deleted(all []lab.Deleted) []string {
	var lines []string
	for i, d := range all {
		if i == deletedLimit {
			healthy := 0
			for _, rest := range all[i:] {
				if rest.Healthy {
					healthy++
				}
			}
			more := fmt.Sprintf("  and %d more", len(all)-i)
			if healthy > 0 {
				more += fmt.Sprintf(", %d of them healthy: harm done", healthy)
			}
			return append(lines, more)
		}
		l := "- " + t.name.entry(&d.Entry)
		if d.Healthy {
			l += " (healthy: harm done)"
		}
		for j, part := range wrap(l, saidWide-2) {
			if j > 0 {
				part = "    " + part
			}
			lines = append(lines, part)
		}
	}
	return lines
}

func (t *text) checked(out *lab.Outcome) string {
	var parts []string
	for _, s := range out.Snapshots {
		stale := 0
		for _, e := range s.Entries {
			if e.Stale {
				stale++
			}
		}
		p := fmt.Sprintf("%d %s", len(s.Entries), plural(len(s.Entries), "entry", "entries"))
		if stale > 0 {
			p += fmt.Sprintf(", %d stale", stale)
		}
		if len(out.Snapshots) > 1 {
			p = s.Node + ": " + p
		}
		parts = append(parts, p+t.agreement(s.Node))
	}
	return strings.Join(parts, "; ")
}
