package play

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"ctlab/checks/conntrack"
	"ctlab/lab"
	"ctlab/topology/service"
)

// buildRules loads each tracked node's rules in one call.
func (w *World) buildRules(ctx context.Context) error {
	for _, t := range w.tracked {
		for _, r := range t.rulesets {
			text, err := w.wholeText(t, r)
			if err != nil {
				return err
			}
			if err := w.load(ctx, t, r, text, false); err != nil {
				return err
			}
		}
	}
	return nil
}

// wholeText is everything that a node should have of a family: its services, its own rules, the anchor.
func (w *World) wholeText(t *tracked, r *ruleset) (string, error) {
	text, err := service.Rules(service.Of(r.family, w.services(t)), r.texts(), t.spec.Anchor)
	if err != nil {
		return "", fmt.Errorf("rules of %s: %w", t.spec.Name, err)
	}
	return text, nil
}

// load loads rules into a node, and into the model of its rules that tells stale entries.
func (w *World) load(ctx context.Context, t *tracked, r *ruleset, text string, noflush bool) error {
	if text == "" {
		return nil
	}
	// What the model of the rules does not know is refused before the kernel has it.
	next := r.rules.Clone()
	if err := next.Restore(text, noflush); err != nil && w.lab.SkipModel == "" {
		return fmt.Errorf("rules of %s: %w", t.spec.Name, err)
	}
	if err := w.ground.Load(ctx, t.spec.Name, r.family, text, noflush); err != nil {
		return err
	}
	r.rules = next
	return nil
}

// services are those of a node, with their present backends.
func (w *World) services(t *tracked) []service.Service {
	var out []service.Service
	for _, s := range w.lab.Services {
		if slices.Contains(s.On, t.spec.Name) {
			out = append(out, w.service(s))
		}
	}
	return out
}

func (w *World) service(s *lab.Service) service.Service {
	out := service.Service{Name: s.Name, VIP: s.VIP, ExternalIPs: s.ExternalIPs, LoadBalancerIPs: s.LoadBalancerIPs,
		Style: s.Style, ByTurns: s.Balance == "nth", Empty: s.Empty, Masquerade: s.Masquerade}
	for _, p := range s.Ports {
		out.Ports = append(out.Ports, service.Port{Name: p.Name, Number: p.Number, Proto: p.Proto, Target: p.Target, NodePort: p.NodePort})
	}
	for _, b := range w.backs[s.Name] {
		out.Backends = append(out.Backends, service.Backend{Name: b, Addr: w.lab.Node(b).AddressIn(service.FamilyOf(s.VIP)).Addr()})
	}
	return out
}

// setBackends is the backends step.
func (w *World) setBackends(ctx context.Context, s *lab.Step, out *lab.Outcome) error {
	spec := w.lab.Service(s.Service)
	next := slices.Clone(w.backs[spec.Name])
	if s.HasSet {
		next = slices.Clone(s.Set)
	}
	next = append(next, s.Add...)
	next = slices.DeleteFunc(next, func(n string) bool { return slices.Contains(s.Remove, n) })
	return w.follow(ctx, spec, dropTwice(next), out)
}

// follow gives a service its new backends and cleans up, in the order that its cleanup names.
func (w *World) follow(ctx context.Context, spec *lab.Service, next []string, out *lab.Outcome) error {
	was := w.backs[spec.Name]
	for _, on := range spec.On {
		t := w.trackedNode(on)
		w.backs[spec.Name] = was
		before := w.services(t)
		w.backs[spec.Name] = next
		r := t.of(service.FamilyOf(spec.VIP))
		rules := func() error {
			text := service.Change(service.Of(r.family, before), service.Of(r.family, w.services(t)), t.spec.Anchor)
			return w.load(ctx, t, r, text, true)
		}
		clean := func() error { return w.reconcile(t, spec.Cleanup.Mode, before, out) }
		acts := []func() error{rules, clean}
		if spec.Cleanup.CleanupFirst {
			acts = []func() error{clean, rules}
		}
		if err := acts[0](); err != nil {
			return err
		}
		if d := spec.Cleanup.Delay; d > 0 {
			if err := w.WaitUntil(ctx, w.Now()+d); err != nil {
				return err
			}
		}
		if err := acts[1](); err != nil {
			return err
		}
	}
	return nil
}

// reconcile deletes what kube-proxy would: list the table, then delete entry by entry. As there, a change of
// one service is a reason to look at all of the node.
func (w *World) reconcile(t *tracked, mode service.Mode, before []service.Service, out *lab.Outcome) error {
	if mode == service.None {
		return nil
	}
	seen, err := w.dump(t)
	if err != nil {
		return err
	}
	var table []conntrack.Entry
	for _, s := range seen {
		table = append(table, s.Entry)
	}
	gone := map[conntrack.Tuple]bool{}
	for i, after := range w.services(t) {
		if w.lab.Service(after.Name).Cleanup.Mode != mode {
			continue
		}
		for _, e := range service.Stale(mode, before[i], after, table) {
			if gone[e.Orig] {
				continue
			}
			gone[e.Orig] = true
			if err := w.delete(t, e, out); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *World) delete(t *tracked, e conntrack.Entry, out *lab.Outcome) error {
	found, err := w.ground.Delete(t.spec.Name, &e)
	if found {
		out.Deleted = append(out.Deleted, lab.Deleted{Node: t.spec.Name, Entry: e})
	}
	return err
}

// tellHarm says of each deleted entry whether the rules, as they are behind the step, could still give its
// binding.
func (w *World) tellHarm(out *lab.Outcome) {
	for i := range out.Deleted {
		d := &out.Deleted[i]
		d.Healthy = !w.stale(w.trackedNode(d.Node), &d.Entry)
	}
}

// setRules is the rules step: lines that are added, or the lab's own rules replaced as a whole.
func (w *World) setRules(ctx context.Context, s *lab.Step) error {
	t := w.trackedNode(s.Nodes[0])
	r := t.of(s.Family)
	if !s.HasReplace {
		text, err := service.Lines(s.Name, s.Change, r.texts()...)
		if err != nil {
			return fmt.Errorf("rules of %s: %w", t.spec.Name, err)
		}
		return w.load(ctx, t, r, text, true)
	}
	r.own = s.Replace
	text, err := w.wholeText(t, r)
	if err != nil {
		return err
	}
	for _, name := range r.rules.Tables() {
		if !strings.Contains("\n"+text, "\n*"+name+"\n") {
			text += "*" + name + "\nCOMMIT\n" // what is not named would stay
		}
	}
	r.jumps = false
	if err := w.load(ctx, t, r, text, false); err != nil {
		return err
	}
	return w.loadDrops(ctx, t, r)
}

// dropChain holds the policy of death: drop.
const dropChain = "ctlab-drop"

func (w *World) dropAll(ctx context.Context, t *tracked, a netip.Addr) error {
	if t == nil {
		return errors.New("death: drop needs a router that could drop")
	}
	r := t.of(service.FamilyOf(a))
	r.dropped = append(r.dropped, a)
	return w.loadDrops(ctx, t, r)
}

func (w *World) loadDrops(ctx context.Context, t *tracked, r *ruleset) error {
	if len(r.dropped) == 0 {
		return nil
	}
	var b strings.Builder
	fmt.Fprintf(&b, "*filter\n:%s - [0:0]\n", dropChain)
	for _, a := range r.dropped {
		fmt.Fprintf(&b, "-A %s -d %s -m comment --comment \"ctlab drop\" -j DROP\n", dropChain, netip.PrefixFrom(a, a.BitLen()))
	}
	if !r.jumps {
		fmt.Fprintf(&b, "-I FORWARD -j %s\n", dropChain)
	}
	b.WriteString("COMMIT\n")
	err := w.load(ctx, t, r, b.String(), true)
	r.jumps = r.jumps || err == nil
	return err
}
