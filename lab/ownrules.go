package lab

import (
	"fmt"
	"strings"

	"ctlab/topology/service"
)

// unnamed is the name of a rules text without one.
const unnamed = "rules"

// checkOwn reports what is wrong with a text of iptables rules. What it holds beyond its shape is for
// whoever compiles it to say.
func checkOwn(o service.Own) error {
	text := strings.TrimLeft(o.Text, " \n")
	if strings.HasPrefix(text, "*") || strings.HasPrefix(text, "#") {
		return checkSaved(text)
	}
	return checkTyped(text)
}

// checkSaved looks at what iptables-save prints: tables, each with its COMMIT.
func checkSaved(text string) error {
	table := ""
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		switch {
		case line == "" || line[0] == '#':
		case line[0] == '*' && table != "":
			return fmt.Errorf("line %d: %s begins before the COMMIT of *%s", i+1, line, table)
		case line[0] == '*':
			table = line[1:]
		case table == "":
			return fmt.Errorf("line %d stands in no table", i+1)
		case line == "COMMIT":
			table = ""
		case line[0] != ':' && line[0] != '-' && line[0] != '[':
			return fmt.Errorf("line %d is no rule", i+1)
		}
	}
	if table != "" {
		return fmt.Errorf("the COMMIT of *%s is missing", table)
	}
	return nil
}

// checkTyped looks at lines as typed after iptables.
func checkTyped(text string) error {
	rules := 0
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		switch {
		case line == "" || line[0] == '#':
			continue
		case strings.HasPrefix(line, "iptables "):
			return fmt.Errorf("line %d: rules are written without the word iptables", i+1)
		case line[0] != '-':
			return fmt.Errorf("line %d begins with neither -, * nor #", i+1)
		}
		rules++
	}
	if rules == 0 {
		return fmt.Errorf("no rule in it")
	}
	return nil
}

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
			return []Rules{{d.pos(f.value), unnamed, text}}
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
	return out
}

func (d *decoder) rulesText(f field, name string) (string, bool) {
	d.names.rules[name] = true
	if !d.isScalar(f, "iptables rules, as typed after iptables or as iptables-save prints them") || d.isCut(f) {
		return "", false
	}
	if err := checkOwn(service.Own{Name: name, Text: f.value.text}); err != nil {
		d.fail(f.value, "", "%s: %s", f.name(), err)
		return "", false
	}
	return f.value.text, true
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
