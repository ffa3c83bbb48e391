package lab

import (
	"fmt"
	"slices"
	"strings"

	"ctlab/checks"
)

// variant is a set of values that replace those of the lab.
type variant struct {
	name  *node
	about string
	edits []edit
}

// edit is a path and the value that replaces what is there.
type edit struct {
	path  *node
	parts []part
	value *node
}

// part is a step of a path and where it begins in the path's text, in bytes.
type part struct {
	text string
	at   int
}

// maxVariantWork bounds how many nodes all variants together may have to go through: each of them is the
// whole lab over again.
const maxVariantWork = 2000000

// maxParts is more than any path of the language has.
const maxParts = 8

// readVariants reads the variants without looking at what their paths lead to.
func readVariants(s *source, root *node) []*variant {
	section := root.get("variants")
	if section == nil {
		return nil
	}
	d := &decoder{source: s}
	if !d.isMap("variants", section, "a map of variants by their names") {
		return nil
	}
	var out []*variant
	for _, f := range section.fields {
		d.isName(f.key, "variants")
		v := &variant{name: f.key}
		out = append(out, v)
		if !d.isMap("variant "+f.name(), f.value, "a map of paths and values") {
			continue
		}
		for _, e := range f.value.fields {
			d.readEdit(v, e)
		}
		d.overlaps(v)
	}
	return out
}

func (d *decoder) readEdit(v *variant, f field) {
	switch f.name() {
	case "about":
		v.about = d.text(f)
		return
	}
	parts := splitPath(f.name())
	switch {
	case len(parts) > maxParts, slices.ContainsFunc(parts, func(p part) bool { return p.text == "" }):
		d.fail(f.key, "such as steps.NAME.want", "variant %s: %s is no path", v.name.text, checks.Quote(f.name()))
	case f.value.kind == nothing:
		d.fail(f.value, "none takes it away", "variant %s: no value", v.name.text)
	case f.value.kind != wrong:
		v.edits = append(v.edits, edit{f.key, parts, f.value})
	}
}

// dotAfter is where the first dot is that stands in no braces, as a pattern's do, or -1.
func dotAfter(text string) int {
	inside := false
	for i, r := range text {
		switch {
		case r == '{', r == '}':
			inside = r == '{'
		case r == '.' && !inside:
			return i
		}
	}
	return -1
}

// splitPath splits at dots; behind sysctls, and behind the set of a step, the rest is a setting's name, behind files that of a
// file.
func splitPath(text string) []part {
	var parts []part
	for at := 0; ; {
		whole := len(parts) == 3 && (parts[2].text == "files" || parts[0].text == "nodes" && parts[2].text == "sysctls" || parts[0].text == "steps" && parts[2].text == "set")
		end := dotAfter(text[at:])
		if end < 0 || whole || len(parts) > maxParts {
			return append(parts, part{text[at:], at})
		}
		parts = append(parts, part{text[at : at+end], at})
		at += end + 1
	}
}

// overlaps reports paths of which one leads into what another one replaces.
func (d *decoder) overlaps(v *variant) {
	clash := false
	paths := map[string]bool{}
	for _, e := range v.edits {
		paths[e.path.text] = true
	}
	for _, e := range v.edits {
		for _, p := range e.parts[1:] {
			if outer := e.path.text[:p.at-1]; paths[outer] {
				d.fail(e.path, "write one of them", "variant %s: %s lies in %s, which is replaced too", v.name.text, e.path.text, outer)
				clash = true
				break
			}
		}
	}
	if clash {
		v.edits = nil // which of them is meant is not known
	}
}

// validateVariants validates the lab that each variant makes. Errors that the lab has without it were
// said already.
func validateVariants(s *source, root *node, variants []*variant, base *decoder) {
	nodes, work := base.made, 0
	all := variantNames(variants)
	for _, v := range variants {
		if s.full() {
			return
		}
		if work += nodes * len(v.edits); len(v.edits) > 0 {
			work += nodes
		}
		if work > maxVariantWork {
			s.report(v.name.line, v.name.col, width(v.name), "make several files", "too many variants for a lab of this size")
			return
		}
		decodeVariant(s, root, v, all, base.errs)
	}
}

func variantNames(variants []*variant) []string {
	names := make([]string, len(variants))
	for i, v := range variants {
		names[i] = v.name.text
	}
	return names
}

// size is the number of nodes of a tree.
func size(n *node) int {
	total := 1
	for _, f := range n.fields {
		total += 1 + size(f.value)
	}
	for _, item := range n.items {
		total += size(item)
	}
	return total
}

// decodeVariant is the lab that a variant makes. What is wrong with it is reported in the variant's
// name, unless the lab without it has the same error.
func decodeVariant(s *source, root *node, v *variant, all []string, base Errors) *Lab {
	root = clone(root)
	d := &decoder{source: s}
	d.apply(root, v)
	changed := decode(s, root, all, v.name.text)
	type place struct {
		line, col int
		msg       string
	}
	known := map[place]bool{}
	for _, e := range base {
		known[place{e.Pos.Line, e.Pos.Col, e.Msg}] = true
	}
	for _, e := range changed.errs {
		msg := "variant " + v.name.text + ": " + e.Msg
		if known[place{e.Pos.Line, e.Pos.Col, e.Msg}] {
			msg = e.Msg
		}
		s.report(e.Pos.Line, e.Pos.Col, e.Len, e.Hint, msg)
	}
	return changed.lab
}

func clone(n *node) *node {
	c := *n
	c.fields = make([]field, len(n.fields))
	for i, f := range n.fields {
		c.fields[i] = field{f.key, clone(f.value)}
	}
	c.items = make([]*node, len(n.items))
	for i, item := range n.items {
		c.items[i] = clone(item)
	}
	return &c
}

// target is where an edit puts its value: a key of a map, or an item of the list of steps.
type target struct {
	parent *node
	key    *node
	item   int // of a list
	value  *node
}

// apply finds all targets before it changes anything, so that the order of the paths does not matter.
func (d *decoder) apply(root *node, v *variant) {
	var targets []target
	for _, e := range v.edits {
		if t, ok := d.find(root, v, e); ok {
			targets = append(targets, t)
		}
	}
	var removed []*node
	for _, t := range targets {
		none := t.value.kind == scalar && t.value.style == plain && t.value.text == "none" && !noneIsValue(t.key.text)
		i := t.parent.find(t.key.text)
		switch {
		case t.parent.kind == sequence && none:
			removed = append(removed, t.parent.items[t.item])
		case t.parent.kind == sequence:
			t.parent.items[t.item] = t.value
		case i >= 0 && none:
			t.parent.fields = slices.Delete(t.parent.fields, i, i+1)
		case i >= 0:
			t.parent.fields[i] = field{t.key, t.value}
		default:
			t.parent.fields = append(t.parent.fields, field{t.key, t.value})
		}
	}
	if steps := root.get("steps"); steps != nil && len(removed) > 0 {
		steps.items = slices.DeleteFunc(steps.items, func(n *node) bool { return slices.Contains(removed, n) })
	}
}

// noneIsValue reports keys whose value none says something else than their absence.
func noneIsValue(key string) bool {
	return slices.Contains([]string{"masquerade", "replace", "set"}, key)
}

// find follows a path. Names must exist; whether the last keys exist is left to the decoder, which knows
// them and finds them at their place in the path.
func (d *decoder) find(root *node, v *variant, e edit) (target, bool) {
	at := root
	for i, p := range e.parts {
		last := i == len(e.parts)-1
		key := keyOf(e.path, p)
		switch {
		case i == 0 && !d.isSection(v, p, key):
			return target{}, false
		case i == 1 && at.kind == sequence:
			item := stepNamed(at, p.text)
			if item < 0 {
				d.noName(v, key, at, "step")
				return target{}, false
			}
			if last {
				return target{parent: at, key: key, item: item, value: e.value}, true
			}
			at = at.items[item]
			continue
		case at.kind != mapping:
			outer := e.path.text[:p.at-1]
			d.fail(e.path, "replace it as a whole: "+outer, "variant %s: %s is no map", v.name.text, outer)
			return target{}, false
		case i == 1 && !slices.Contains(nameless(), e.parts[0].text) && at.find(p.text) < 0:
			d.noName(v, key, at, strings.TrimSuffix(e.parts[0].text, "s"))
			return target{}, false
		case last:
			return target{parent: at, key: key, value: e.value}, true
		}
		next := at.get(p.text)
		if next == nil {
			next = &node{kind: mapping, line: key.line, col: key.col}
			at.fields = append(at.fields, field{key, next})
		}
		at = next
	}
	return target{}, false
}

// keyOf is a part of a path as a key of its own, at its place in the file.
func keyOf(path *node, p part) *node {
	skip := 0
	if path.style == quoted {
		skip = 1
	}
	return &node{kind: scalar, line: path.line, col: path.col + skip + columns(path.text[:p.at]), text: p.text}
}

// variable are the sections that a variant can change.
func variable() []string {
	return append([]string{"nodes", "services", "servers", "clients", "steps"}, nameless()...)
}

// nameless are those of them that hold keys and no names.
func nameless() []string { return []string{"model", "needs"} }

// isSection reports paths that begin with what no variant can change.
func (d *decoder) isSection(v *variant, p part, key *node) bool {
	names := variable()
	if slices.Contains(names, p.text) {
		return true
	}
	d.fail(key, checks.DidYouMean(p.text, names, "paths begin with "+some(names)), "variant %s: no path begins with %s", v.name.text, checks.Quote(p.text))
	return false
}

func stepNamed(steps *node, name string) int {
	return slices.IndexFunc(steps.items, func(item *node) bool {
		n := item.get("name")
		return n != nil && n.text == name
	})
}

func (d *decoder) noName(v *variant, key, section *node, kind string) {
	var names []string
	for _, f := range section.fields {
		names = append(names, f.name())
	}
	for _, item := range section.items {
		if n := item.get("name"); n != nil {
			names = append(names, n.text)
		}
	}
	hint := "there are none"
	if len(names) > 0 {
		hint = "names: " + some(names)
		if near := checks.Nearest(key.text, names); near != "" {
			hint = fmt.Sprintf("did you mean %q? %s", near, hint)
		}
	}
	d.fail(key, hint, "variant %s: no %s is named %s", v.name.text, kind, checks.Quote(key.text))
}

func noVariant(file, name string, variants []*variant) error {
	if len(variants) == 0 {
		return fmt.Errorf("%s: no variant %s; the lab has none", Escape(file), checks.Quote(name))
	}
	return fmt.Errorf("%s: no variant %s; there are: %s", Escape(file), checks.Quote(name), strings.Join(variantNames(variants), ", "))
}
