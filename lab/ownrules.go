package lab

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"ctlab/checks/model"
	"ctlab/topology/service"
)

// unnamed is the name of a rules text without one.
const (
	unnamed  = "rules"
	unnamed6 = "rules6" // and of one for ip6tables
)

// nodeRules reads the lab's own rules of a node.
func (d *decoder) nodeRules(n *nodeDraft) {
	for _, f := range []field{n.rules, n.rules6} {
		switch {
		case f.key == nil || isNone(f.value):
		case !n.Router && n.kind != "":
			d.fail(f.key, "on routers so far", "nodes.%s: rules of a host are not supported yet", n.Name)
		case f.name() == unnamed6:
			n.Rules6 = d.rulesTexts(f, unnamed6, service.IPv6)
		default:
			n.Rules = d.rulesTexts(f, unnamed, service.IPv4)
		}
	}
}

// rulesTexts reads a text of rules, which has the given name, or a map of named ones.
func (d *decoder) rulesTexts(f field, unnamed string, family service.Family) []Rules {
	if f.value.kind == sequence {
		d.fail(f.value, "a block of text, a rule a line: "+f.name()+": |", "%s: a list instead of a text of iptables rules, or a map of named ones", f.name())
		return nil
	}
	if f.value.kind != mapping {
		if text, ok := d.rulesText(f, unnamed); ok {
			out := []Rules{{d.pos(f.value), unnamed, text}}
			d.fit(f, family, out, []*node{f.value})
			return out
		}
		return nil
	}
	if len(f.value.fields) == 0 {
		d.fail(f.value, "leave it out", "%s: an empty map", f.name())
	}
	var out []Rules
	var values []*node
	for _, item := range f.value.fields {
		if !d.isName(item.key, f.name()) {
			continue
		}
		if text, ok := d.rulesText(item, item.name()); ok {
			out = append(out, Rules{d.pos(item.value), item.name(), text})
			values = append(values, item.value)
		}
	}
	d.fit(f, family, out, values)
	return out
}

func (d *decoder) rulesText(f field, name string) (string, bool) {
	d.names.rules[name] = true
	if !d.isScalar(f, "iptables rules, as typed after iptables or as iptables-save prints them") || d.isCut(f) {
		return "", false
	}
	if err := service.Check(service.Own{Name: name, Text: f.value.text}); err != nil {
		d.failRules(f.value, "", f.name(), err)
		return "", false
	}
	return f.value.text, true
}

// failRules reports what is wrong with a text of rules, at the line where it is.
func (d *decoder) failRules(v *node, hint, context string, err error) {
	var bad *service.LineError
	if !errors.As(err, &bad) {
		d.fail(v, hint, "%s: %s", context, err)
		return
	}
	line := d.lineOf(v, bad.Line)
	switch {
	case line > 0:
	case strings.Contains(strings.TrimSpace(v.text), "\n"):
		d.fail(v, hint, "%s: line %d: %s", context, bad.Line, bad.Err)
		return
	default:
		d.fail(v, hint, "%s: %s", context, bad.Err)
		return
	}
	text := d.line(line)
	rest := strings.TrimLeft(text, " ")
	d.report(line, len(text)-len(rest)+1, columns(rest), hint, fmt.Sprintf("%s: %s", context, bad.Err))
}

// lineOf is the line of the file that has the nth line of a block of text as its own, or 0.
func (d *decoder) lineOf(v *node, n int) int {
	lines := strings.Split(v.text, "\n")
	if v.style != block || v.copy > 0 || n < 1 || n > len(lines) || strings.TrimSpace(d.line(v.line+n)) != strings.TrimSpace(lines[n-1]) {
		return 0
	}
	return v.line + n
}

// fit reports texts of rules that do not fit together, or that hold what the model does not know. The values
// are those that the texts were read from.
func (d *decoder) fit(f field, family service.Family, texts []Rules, values []*node) {
	var own []service.Own
	for _, t := range texts {
		own = append(own, service.Own{Name: t.Name, Text: t.Text})
	}
	text, err := service.Rules(nil, own, false)
	var line *service.LineError
	if errors.As(err, &line) {
		i := slices.IndexFunc(own, func(o service.Own) bool { return o.Name == line.Text })
		d.failRules(values[i], "", f.name(), &service.LineError{Line: line.Line, Err: line.Err})
		return
	}
	if err != nil {
		d.fail(f.value, "", "%s: %s", f.name(), err)
		return
	}
	known := model.NewRuleset()
	if family == service.IPv6 {
		known = model.NewRuleset6()
	}
	if err := known.Restore(text, false); err != nil && d.lab.SkipModel == "" {
		d.unknownToModel(f, own, values, err)
	}
}

// unknownToModel reports what the model does not know, at the line of the rule if that can be told.
func (d *decoder) unknownToModel(f field, own []service.Own, values []*node, err error) {
	hint := ""
	switch msg := err.Error(); {
	case strings.Contains(msg, "known to the model"):
		hint = "model: {skip: WHY} runs the kernel alone"
	case strings.Contains(msg, "is no address"):
		hint = "iptables knows no names of nodes: write the address"
	}
	var bad *model.RuleError
	if errors.As(err, &bad) {
		for i, o := range own {
			if n := o.RuleLine(bad.Comment); n > 0 {
				d.failRules(values[i], hint, f.name(), &service.LineError{Line: n, Err: bad})
				return
			}
		}
	}
	d.fail(f.value, hint, "%s: %s", f.name(), err)
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
