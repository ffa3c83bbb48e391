package lab

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"ctlab/checks"
)

// pattern is a name that stands for many: app-{1..40}.
type pattern struct {
	before, after string
	text          string // {1..40}
	first, last   int
	digits        int // to pad to; 0: as they are
}

// maxPattern is how many names a pattern may stand for.
const maxPattern = 10000

var rangeForm = regexp.MustCompile(`\{([0-9]+)\.\.([0-9]+)\}`)

// parsePattern finds the {A..B} of a text. Without one it is not found; an error is of the text as a whole.
func parsePattern(text string) (p pattern, found bool, err *checks.LineError) {
	at := rangeForm.FindAllStringSubmatchIndex(text, 2)
	if len(at) == 0 {
		return p, false, nil
	}
	m := at[0]
	from, to := text[m[2]:m[3]], text[m[4]:m[5]]
	p = pattern{before: text[:m[0]], after: text[m[1]:], text: text[m[0]:m[1]]}
	bad := func(msg, hint string) (pattern, bool, *checks.LineError) {
		return p, true, &checks.LineError{Len: len(text), Msg: msg, Hint: hint}
	}
	if len(at) > 1 {
		return bad(checks.Quote(text)+" has two patterns", "one {A..B} in a name")
	}
	var fromErr, toErr error
	p.first, fromErr = strconv.Atoi(from)
	p.last, toErr = strconv.Atoi(to)
	if from[0] == '0' && len(from) > 1 {
		p.digits = len(from)
	}
	switch {
	case fromErr != nil || toErr != nil || p.last-p.first >= maxPattern:
		return bad(fmt.Sprintf("%s stands for more than %d names", checks.Quote(text), maxPattern), "")
	case p.first > p.last:
		return bad(p.text+" runs backwards", "{"+to+".."+from+"}")
	case to[0] == '0' && len(to) > 1 && p.digits == 0, p.digits > 0 && len(to) != p.digits:
		return bad(p.text+" has numbers of different lengths", "{01..40}, or {1..40}")
	}
	return p, true, nil
}

func (p pattern) count() int { return p.last - p.first + 1 }

// name is the i-th name, from 0.
func (p pattern) name(i int) string {
	return fmt.Sprintf("%s%0*d%s", p.before, p.digits, p.first+i, p.after)
}

// isGlob reports a name with a star, which refers to existing names.
func isGlob(text string) bool { return strings.Contains(text, "*") }

// globMatches reports whether a glob's stars can stand for what the name has in their places.
func globMatches(glob, name string) bool {
	parts := strings.Split(glob, "*")
	rest, ok := strings.CutPrefix(name, parts[0])
	for _, p := range parts[1 : len(parts)-1] {
		i := strings.Index(rest, p)
		if !ok || i < 0 {
			return false
		}
		rest = rest[i+len(p):]
	}
	return ok && strings.HasSuffix(rest, parts[len(parts)-1])
}

// maxMade bounds how much patterns, globs and repetitions may make of a file, with what the file has
// itself, as weight counts it.
const maxMade = 300000

// weight of a tree: its nodes, and what their texts hold.
func weight(n *node) int {
	total := 1 + len(n.text)/16
	for _, f := range n.fields {
		total += 1 + len(f.key.text)/16 + weight(f.value)
	}
	for _, item := range n.items {
		total += weight(item)
	}
	return total
}

// mayMake counts what is made, and reports too much of it.
func (d *decoder) mayMake(n *node, more int) bool {
	if d.made += more; d.made > maxMade {
		d.fail(n, "fewer or smaller ones", "patterns and repetitions make more than %d values", maxMade)
		return false
	}
	return true
}

// expand is the file with its patterns and repetitions written out, and without the steps that the
// variant has not. The tree that is given stays as it is, since variants are made of it.
func (d *decoder) expand(root *node) *node {
	out := *root
	out.fields = make([]field, len(root.fields))
	for i, f := range root.fields {
		out.fields[i] = f
		switch name := f.name(); {
		case f.value.kind == mapping && (name == "nodes" || name == "services" || name == "servers" || name == "clients"):
			out.fields[i].value = d.expandNames(f)
		case f.value.kind == sequence && name == "steps":
			out.fields[i].value = d.expandSteps(f.value)
		}
	}
	return &out
}

// expandNames writes out a section's keys that are patterns.
func (d *decoder) expandNames(section field) *node {
	out := *section.value
	out.fields = nil
	for _, f := range section.value.fields {
		p, found, err := parsePattern(f.name())
		if err != nil {
			d.fail(f.key, err.Hint, "%s: %s", section.name(), err.Msg)
		}
		if err != nil || found && !d.mayMake(f.key, p.count()*(1+weight(f.value))) {
			d.broken[section.name()] = true
			continue
		}
		if !found {
			out.fields = append(out.fields, f)
			continue
		}
		deal := &dealer{d, section.name(), f.key, p}
		for i := range p.count() {
			out.fields = append(out.fields, field{copyOf(f.key, p.name(i), i), deal.value("", f.value, i)})
		}
	}
	return &out
}

// copyOf is the i-th copy of a node, from 0, with a text of its own.
func copyOf(n *node, text string, i int) *node {
	c := *n
	c.copy = max(i, n.copy)
	if c.text = text; text != n.text && c.written == "" {
		c.written = n.text
	}
	return &c
}

// dealer gives each name of a pattern its copy of the value, in which equally long patterns and ranges of
// ports are dealt out.
type dealer struct {
	*decoder
	section string
	key     *node
	names   pattern
}

func (d *dealer) value(key string, n *node, i int) *node {
	text := n.text
	if n.kind == scalar && n.style != block {
		text = d.text(key, n, i)
	}
	c := copyOf(n, text, i)
	c.fields = make([]field, len(n.fields))
	for j, f := range n.fields {
		c.fields[j] = field{copyOf(f.key, f.name(), i), d.value(f.name(), f.value, i)}
	}
	c.items = make([]*node, len(n.items))
	for j, item := range n.items {
		c.items[j] = d.value(key, item, i)
	}
	return c
}

func (d *dealer) text(key string, n *node, i int) string {
	p, found, err := parsePattern(n.text)
	what := "names"
	if key == "source-port" && !found {
		p, found = portRange(n.text)
		what = "ports"
	}
	switch {
	case err != nil:
		d.fail(n, err.Hint, "%s: %s", key, err.Msg)
	case !found:
	case p.count() == d.names.count():
		return p.name(i)
	case i > 0 && what == "names":
		return p.name(min(i, p.count()-1))
	case i > 0:
		return p.name(i)
	default:
		d.fail(n, d.fitting(p, what), "%d %s for %d %s, %s (line %d)", p.count(), what, d.names.count(), d.section, d.key.text, d.key.line)
		return p.name(0)
	}
	return n.text
}

// fitting is the pattern or range as it would have to be.
func (d *dealer) fitting(p pattern, what string) string {
	last := fmt.Sprintf("%0*d", p.digits, p.first+d.names.count()-1)
	first := fmt.Sprintf("%0*d", p.digits, p.first)
	if what == "ports" {
		return first + ".." + last
	}
	return p.before + "{" + first + ".." + last + "}" + p.after
}

// portRange reads a range of ports as a pattern of numbers.
func portRange(text string) (pattern, bool) {
	if !strings.Contains(text, "..") {
		return pattern{}, false
	}
	r, err := checks.ParseRange(text)
	if err != nil || r.Min < 1 || r.Max > 65535 || r.Max < r.Min || strings.HasPrefix(text, "..") {
		return pattern{}, false
	}
	return pattern{text: text, first: int(r.Min), last: int(r.Max)}, true
}
