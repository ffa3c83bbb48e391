package lab

import (
	"fmt"
	"strings"
	"time"

	"ctlab/topology/service"
)

// dump writes everything that a lab holds, a line for each thing, so that a test can compare it whole.
func dump(l *Lab) string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("lab %s variant %q about %q says %q why %q refs %q skip %q", l.Name, l.Variant, l.About, l.Says, l.Why, l.Refs, l.SkipModel)
	for _, n := range l.Nodes {
		p("node %s %d:%d router %t address %s uplink %q port %q gateway %s anchor %t %v", n.Name, n.Pos.Line, n.Pos.Col, n.Router, n.Address, n.Uplink, n.Port, n.Gateway, n.Anchor, n.Sysctls)
		if len(n.Also)+len(n.Local) > 0 {
			p("  also %s local %s", n.Also, n.Local)
		}
		if n.OtherGateway.IsValid() {
			p("  other gateway %s", n.OtherGateway)
		}
		for _, r := range n.Routes {
			p("  route %d:%d %s", r.Pos.Line, r.Pos.Col, r)
		}
		dumpRules(p, n.Rules)
		dumpRules(p, n.Rules6)
		if n.Wire {
			p("  wire silent %t", n.Silent)
		}
	}
	for _, s := range l.Services {
		p("service %s %d:%d on %v vip %s ports %v backends %v balance %s cleanup %v", s.Name, s.Pos.Line, s.Pos.Col, s.On, s.VIP, s.Ports, s.Backends, s.Balance, s.Cleanup)
		p("  style %s empty %s masquerade %s external %s load-balancer %s", s.Style, s.Empty, s.Masquerade, s.ExternalIPs, s.LoadBalancerIPs)
	}
	if len(l.Needs.Programs) > 0 {
		p("needs %+v", l.Needs)
	}
	for _, s := range l.Servers {
		p("server %s %d:%d on %s listen %s port %d stopped %t", s.Name, s.Pos.Line, s.Pos.Col, s.On, s.Listen, s.Port, s.Stopped)
		if s.Exec != nil {
			p("  run %+v ready %+v", *s.Exec, s.Ready)
		}
	}
	for _, c := range l.Clients {
		if c.Exec != nil {
			p("client %s %d:%d on %s run %+v", c.Name, c.Pos.Line, c.Pos.Col, c.On, *c.Exec)
			continue
		}
		p("client %s %d:%d on %s control %t server %s to %s asks %s from %d timeout %s connected %t", c.Name, c.Pos.Line, c.Pos.Col, c.On, c.Control, c.Server, c.To, c.Question, c.SourcePort, c.Timeout, c.Connected)
		if c.AAAA {
			p("  type AAAA")
		}
		if c.RecvErr || c.Source.IsValid() {
			p("  recverr %t source %s", c.RecvErr, c.Source)
		}
	}
	for _, s := range l.Steps {
		dumpStep(p, s)
	}
	for _, v := range l.Variants {
		p("variant %s %d:%d %q", v.Name, v.Pos.Line, v.Pos.Col, v.About)
	}
	return b.String()
}

func dumpRules(p func(string, ...any), rules []Rules) {
	for _, r := range rules {
		p("  rules %d:%d %s %q", r.Pos.Line, r.Pos.Col, r.Name, r.Text)
	}
}

func dumpStep(p func(string, ...any), s *Step) {
	at := time.Duration(-1)
	if s.At != nil {
		at = *s.At
	}
	p("step %d %s %q %d:%d at %s after %s behind %s every %s", s.Index, s.Kind, s.Name, s.Pos.Line, s.Pos.Col, at, s.After, s.Behind, s.Every)
	if s.Within+s.Always+s.Deadline > 0 {
		p("  within %s always %s deadline %s", s.Within, s.Always, s.Deadline)
	}
	switch s.Kind {
	case Query, Start, Stop:
		p("  clients %v count %d servers %v death %q reuse %q since %q", s.Clients, s.Count, s.Servers, s.Death, s.Reuse, s.Since)
	case Restart:
		p("  server %s on %s death %s reuse %q no follow %t", s.Server, s.On, s.Death, s.Reuse, s.NoFollow)
	case SetBackends:
		p("  service %s set %v %t add %v remove %v", s.Service, s.Set, s.HasSet, s.Add, s.Remove)
	case Wait:
		p("  wait %s", s.Wait)
		if s.Awaited != nil {
			p("  awaited on %s %q", s.On, s.Awaited.Text)
		}
	case PutPacket:
		p("  on %s %s free ip-id %t no sum %t", s.On, s.Packet.Line(), s.Packet.FreeID, s.Packet.NoSum)
	case Hold:
		p("  nodes %v hold %s", s.Nodes, s.Hold)
	case Release:
		p("  nodes %v packets %d order %v drop %t", s.Nodes, s.Packets, s.Order, s.Drop)
	case SetSysctl:
		p("  nodes %v set %v", s.Nodes, s.Sysctls)
	case SetRules:
		p("  nodes %v change %q replace %t", s.Nodes, s.Change, s.HasReplace)
		if s.Family != service.IPv4 {
			p("  family %s", s.Family)
		}
		dumpRules(p, s.Replace)
	case SetLink, SetAddress:
		p("  nodes %v dev %s state %q add %s del %s", s.Nodes, s.Dev, s.LinkState, s.AddAddress, s.DelAddress)
	case SetRoute:
		p("  nodes %v %s %v", s.Nodes, s.RouteOp, s.Routes)
	case Exec:
		p("  nodes %v run %q files %q", s.Nodes, s.Command.Argv, s.Command.Files)
	case Table:
		p("  nodes %v flush %t fill %t", s.Nodes, s.Flush, s.Fill)
		if s.Delete != nil {
			p("  delete %q", s.Delete.Text)
		}
	case Check:
		p("  nodes %v since %q", s.Nodes, s.Since)
	}
	if s.Want != nil {
		dumpWant(p, s.Want)
	}
}

func number(n Number) string {
	return fmt.Sprintf("%d:%d [%s] all %t same-as %q text %q", n.Pos.Line, n.Pos.Col, n.Range, n.All, n.SameAs, n.Text)
}

func dumpWant(p func(string, ...any), w *Want) {
	p("  want %d:%d", w.Pos.Line, w.Pos.Col)
	dumpTraffic(p, "   ", w.Traffic)
	for _, e := range w.Entries {
		p("    entry %d:%d %s x %q", e.Pos.Line, e.Pos.Col, e.Want.Times, e.Want.Text)
		if e.Times != nil {
			p("      times %s", number(*e.Times))
		}
	}
	for _, e := range w.Table {
		p("    table %d:%d %s x %q", e.Pos.Line, e.Pos.Col, e.Want.Times, e.Want.Text)
		if e.Times != nil {
			p("      times %s", number(*e.Times))
		}
	}
	if w.HasTable {
		p("    table of %d", len(w.Table))
	}
	for _, r := range w.RuleHits {
		p("    rule-hits %d:%d %s %s", r.Pos.Line, r.Pos.Col, r.Rule, number(r.N))
	}
	for _, c := range w.Counters {
		p("    counter %d:%d %s %s", c.Pos.Line, c.Pos.Col, c.Name, number(c.N))
	}
	if w.Still {
		p("    counters unchanged %d:%d", w.StillPos.Line, w.StillPos.Col)
	}
	if w.Stale != nil {
		p("    stale %s", number(*w.Stale))
	}
	for _, e := range w.Events {
		p("    event %d:%d no %t %s %q", e.Pos.Line, e.Pos.Col, e.No, e.Kind, e.Want.Text)
	}
	if w.Packet != nil {
		dumpPacketWant(p, w.Packet)
	}
	if w.Deleted != nil {
		p("    deleted %s", number(*w.Deleted))
	}
	if w.Exit != nil {
		p("    exit %s", number(*w.Exit))
	}
	for i, o := range []*OutputWant{w.Stdout, w.Stderr} {
		name := []string{"stdout", "stderr"}[i]
		if o != nil {
			p("    %s %d:%d has %q", name, o.Pos.Line, o.Pos.Col, o.Has)
		}
		if o != nil && o.Lines != nil {
			p("      lines %s", number(*o.Lines))
		}
	}
}

func dumpPacketWant(p func(string, ...any), w *PacketWant) {
	for i, word := range []*WordWant{w.CT, w.Dropped} {
		if word != nil {
			p("    %s %d:%d %q", []string{"ct", "dropped"}[i], word.Pos.Line, word.Pos.Col, word.Word)
		}
	}
	for i, outs := range [][]OutWant{w.Out, w.Reply} {
		for _, o := range outs {
			text := "any"
			if o.Packet != nil {
				text = o.Packet.Text
			}
			p("    %s %d:%d %s %q", []string{"out", "reply"}[i], o.Pos.Line, o.Pos.Col, o.Node, text)
		}
	}
	for i, pos := range []*Pos{w.Nowhere, w.NoEntry} {
		if pos != nil {
			p("    %s %d:%d none", []string{"out", "entry"}[i], pos.Line, pos.Col)
		}
	}
	for _, s := range w.Seen {
		for _, want := range s.Packets {
			p("    seen %d:%d %s:%s %q", s.Pos.Line, s.Pos.Col, s.Node, s.Dev, want.Text)
		}
	}
	if w.Entry != nil {
		p("    entry %d:%d %s proto %d %q", w.Entry.Pos.Line, w.Entry.Pos.Col, w.Entry.Want.Times, w.Entry.Want.Proto, w.Entry.Want.Text)
	}
}

func dumpTraffic(p func(string, ...any), indent string, t *TrafficWant) {
	if t == nil {
		return
	}
	for _, c := range t.Counts {
		p("%s %s %d:%d %s", indent, c.What, c.Pos.Line, c.Pos.Col, number(c.N))
	}
	for _, b := range t.By {
		p("%s by %s %d:%d %s", indent, b.Node, b.Pos.Line, b.Pos.Col, number(b.N))
	}
	for _, c := range t.Clients {
		p("%s clients %d:%d %s %v same-as %q", indent, c.Pos.Line, c.Pos.Col, c.What, c.Names, c.SameAs)
	}
	for _, w := range t.Latency {
		p("%s %s", indent, timeWant(w))
	}
	if t.Outage != nil {
		p("%s %s", indent, timeWant(*t.Outage))
	}
	dumpTraffic(p, indent+" control", t.Control)
	dumpTraffic(p, indent+" each", t.Each)
}

func timeWant(w TimeWant) string {
	return fmt.Sprintf("%s %d:%d %s..%s text %q", w.What, w.Pos.Line, w.Pos.Col, w.Min, w.Max, w.Text)
}
