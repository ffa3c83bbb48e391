package lab

import (
	"fmt"
	"slices"
	"strings"

	"ctlab/checks"
)

// expandSteps leaves out the steps that the variant has not, and writes out the repetitions of the others.
func (d *decoder) expandSteps(section *node) *node {
	out := *section
	out.items = nil
	for _, item := range section.items {
		if !d.played(item) {
			continue
		}
		out.items = append(out.items, d.repetitions(item)...)
		if len(out.items) > maxSteps {
			break // readSteps says so
		}
	}
	return &out
}

// played reports whether the variant has the step; the lab as it is counts as no variant.
func (d *decoder) played(item *node) bool {
	only, not := item.find("only-in"), item.find("not-in")
	if only >= 0 && not >= 0 {
		d.fail(item.fields[not].key, "write one of them", "steps: both only-in and not-in")
	}
	if only >= 0 && !slices.Contains(d.variantList(item.fields[only]), d.variant) {
		return false
	}
	return not < 0 || !slices.Contains(d.variantList(item.fields[not]), d.variant)
}

func (d *decoder) variantList(f field) []string {
	var out []string
	for _, item := range d.list(f) {
		if !d.isScalar(item, "the name of a variant") {
			continue
		}
		name := item.value.text
		if !slices.Contains(d.variants, name) {
			hint := "there are none"
			if len(d.variants) > 0 {
				hint = checks.DidYouMean(name, d.variants, "variants: "+some(d.variants))
			}
			d.fail(item.value, hint, "%s: no variant %s", f.name(), checks.Quote(name))
		}
		out = append(out, name)
	}
	return out
}

// repetitions of a step with for: {VAR: A..B}, in whose strings ${VAR} is the value.
func (d *decoder) repetitions(item *node) []*node {
	at := item.find("for")
	if at < 0 {
		return []*node{item}
	}
	variable, r, ok := d.repetition(item, item.fields[at])
	count := int(r.Max - r.Min + 1)
	if !ok || !d.mayMake(item.fields[at].key, count*weight(item)) {
		return []*node{item}
	}
	out := make([]*node, count)
	for i := range out {
		out[i] = repeat(item, variable, int(r.Min)+i, i)
	}
	return out
}

// repetition reads the variable and its values.
func (d *decoder) repetition(item *node, f field) (variable string, values checks.Range, ok bool) {
	if !d.isMap("for", f.value, "a variable and its values, such as {round: 1..3}") {
		return "", values, false
	}
	if len(f.value.fields) != 1 {
		d.fail(f.value, "such as {round: 1..3}", "for: %d variables instead of one", len(f.value.fields))
		return "", values, false
	}
	v := f.value.fields[0]
	if !d.isName(v.key, "for") || !d.isScalar(v, "a range such as 1..3") {
		return "", values, false
	}
	r, err := checks.ParseRange(v.value.text)
	switch n := item.get("count"); {
	case err != nil:
		d.failAt(v.value, err, "for")
	case r.Max < 0 || strings.HasPrefix(v.value.text, ".."):
		d.fail(v.value, "such as 1..3", "for: %s has no end", checks.Quote(v.value.text))
	case r.Max-r.Min >= maxSteps:
		d.fail(v.value, "", "for: more than %d repetitions", maxSteps)
	case n != nil && n.text != "1":
		d.fail(f.key, "count repeats requests, for repeats the step", "for: together with a count above 1")
	default:
		return v.name(), r, true
	}
	return "", values, false
}

// repeat is the i-th repetition of a step, from 0. Only the first one has the step's times: the others
// follow it, with every at its pace.
func repeat(item *node, variable string, value, i int) *node {
	c := substitute(item, "${"+variable+"}", fmt.Sprint(value), i)
	c.repeats = i + 1
	paced := item.find("every") >= 0 && item.find(string(Start)) < 0 // a start's every is its clients'
	c.fields = slices.DeleteFunc(c.fields, func(f field) bool {
		switch f.name() {
		case "for":
			return true
		case "at":
			return i > 0
		case "after":
			return i > 0 && paced
		}
		return false
	})
	if n := c.get("name"); n != nil && n.kind == scalar && i > 0 {
		if n.written == "" {
			n.written = n.text
		}
		n.text = fmt.Sprintf("%s-%d", n.text, i+1)
	}
	return c
}

// substitute copies a tree with a value in place of a variable.
func substitute(n *node, variable, value string, i int) *node {
	c := copyOf(n, strings.ReplaceAll(n.text, variable, value), i)
	c.fields = make([]field, len(n.fields))
	for j, f := range n.fields {
		c.fields[j] = field{copyOf(f.key, strings.ReplaceAll(f.name(), variable, value), i), substitute(f.value, variable, value, i)}
	}
	c.items = make([]*node, len(n.items))
	for j, item := range n.items {
		c.items[j] = substitute(item, variable, value, i)
	}
	return c
}
