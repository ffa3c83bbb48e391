package lab

import (
	"strings"

	"ctlab/checks/model"
	"ctlab/topology/service"
)

// unnamed is the name of a rules text without one.
const unnamed = "rules"

// nodeRules reads the lab's own rules of a node.
func (d *decoder) nodeRules(n *nodeDraft) {
	switch {
	case n.rules.key == nil || isNone(n.rules.value):
	case !n.Router && n.kind != "":
		d.fail(n.rules.key, "on routers so far", "nodes.%s: rules of a host are not supported yet", n.Name)
	default:
		n.Rules = d.rulesTexts(n.rules)
	}
}

// rulesTexts reads a text of rules, or a map of named ones.
func (d *decoder) rulesTexts(f field) []Rules {
	if f.value.kind != mapping {
		if text, ok := d.rulesText(f, unnamed); ok {
			out := []Rules{{d.pos(f.value), unnamed, text}}
			d.fit(f, out)
			return out
		}
		return nil
	}
	if len(f.value.fields) == 0 {
		d.fail(f.value, "leave it out", "%s: an empty map", f.name())
	}
	var out []Rules
	for _, item := range f.value.fields {
		if !d.isName(item.key, f.name()) {
			continue
		}
		if text, ok := d.rulesText(item, item.name()); ok {
			out = append(out, Rules{d.pos(item.value), item.name(), text})
		}
	}
	d.fit(f, out)
	return out
}

func (d *decoder) rulesText(f field, name string) (string, bool) {
	d.names.rules[name] = true
	if !d.isScalar(f, "iptables rules, as typed after iptables or as iptables-save prints them") || d.isCut(f) {
		return "", false
	}
	if err := service.Check(service.Own{Name: name, Text: f.value.text}); err != nil {
		d.fail(f.value, "", "%s: %s", f.name(), err)
		return "", false
	}
	return f.value.text, true
}

// fit reports texts of rules that do not fit together, or that hold what the model does not know.
func (d *decoder) fit(f field, texts []Rules) {
	var own []service.Own
	for _, t := range texts {
		own = append(own, service.Own{Name: t.Name, Text: t.Text})
	}
	text, err := service.Rules(nil, own, false)
	if err != nil {
		d.fail(f.value, "", "%s", strings.TrimPrefix(err.Error(), "rules "+unnamed+": "))
		return
	}
	if err := model.NewRuleset().Restore(text, false); err != nil && d.lab.SkipModel == "" {
		hint := "model: {skip: WHY} runs the kernel alone"
		if strings.Contains(err.Error(), "is no address") {
			hint = "iptables knows no names of nodes: write the address"
		}
		d.fail(f.value, hint, "%s", err)
	}
}

// isCut reports a plain value of rules with a comment behind it: iptables knows # inside a rule, and YAML
// cuts it off without a word.
func (d *decoder) isCut(f field) bool {
	v := f.value
	if v.style != plain {
		return false
	}
	first, _, _ := strings.Cut(v.text, "\n")
	rest, ok := strings.CutPrefix(d.from(v.line, v.col), first)
	if !ok || !strings.HasPrefix(strings.TrimLeft(rest, " "), "#") || !strings.HasPrefix(rest, " ") {
		return false
	}
	at := columns(first) + columns(rest) - columns(strings.TrimLeft(rest, " "))
	d.report(v.line, v.col+at, 1, "a block of text (|) may hold #", f.name()+": YAML cuts rules off at a #")
	return true
}
