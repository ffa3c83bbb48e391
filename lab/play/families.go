package play

import (
	"net/netip"

	"ctlab/checks/model"
	"ctlab/lab"
	"ctlab/topology/service"
)

// ruleset is what a tracked node has of the rules of one family.
type ruleset struct {
	family  service.Family
	rules   *model.Ruleset // as loaded, to tell stale entries
	own     []lab.Rules    // the lab's own rules, as they are now
	dropped []netip.Addr   // addresses to which a policy drops everything
	jumps   bool           // FORWARD leads to that policy
}

// rulesets are those of the families that a node speaks; a node that speaks none has iptables rules.
func rulesets(l *lab.Lab, n *lab.Node) []*ruleset {
	var out []*ruleset
	for _, f := range lab.Families() {
		if !l.Speaks(n, f) && (f == service.IPv6 || l.Speaks(n, service.IPv6)) {
			continue
		}
		r := &ruleset{family: f, rules: model.NewRuleset(), own: n.Rules}
		if f == service.IPv6 {
			r.rules, r.own = model.NewRuleset6(), n.Rules6
		}
		out = append(out, r)
	}
	return out
}

// of is the node's ruleset of a family, or nil.
func (t *tracked) of(f service.Family) *ruleset {
	for _, r := range t.rulesets {
		if r.family == f {
			return r
		}
	}
	return nil
}

// texts are the lab's own rules as they are now.
func (r *ruleset) texts() []service.Own {
	var out []service.Own
	for _, text := range r.own {
		out = append(out, service.Own{Name: text.Name, Text: text.Text})
	}
	return out
}
