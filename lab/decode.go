package lab

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"ctlab/checks"
)

// decoder turns nodes into a Lab. It is sticky: what is wrong is reported and left out, and it goes on,
// so that one run names everything. A lab with errors is thrown away, and may hold anything.
type decoder struct {
	*source
	lab      *Lab
	names    names
	sections map[string]*node // the maps and lists of the top level
	// broken sections were reported as a whole; names that are looked up in them are not errors too.
	broken   map[string]bool
	trackers []string                // see trackedNodes
	gateways map[string][]netip.Addr // see routerAddresses
	variants []string                // the names of all variants
	variant  string                  // the one that is decoded, or ""
	made     int                     // nodes that patterns and repetitions made
}

// key is a key of a map: what it is for and what its value may be, in words for people and as the schema for
// editors has it, and how the value is read. Without a reader the language has the key and ctlab does not
// support it yet.
type key[T any] struct {
	name  string
	about string
	value shape
	read  func(d *decoder, into T, f field)
}

// later are keys of the language that are not supported yet.
func later[T any](names ...string) []key[T] {
	keys := make([]key[T], len(names))
	for i, n := range names {
		keys[i].name = n
	}
	return keys
}

// readMap reads a map by a table of its keys. The context is how errors call the map.
func readMap[T any](d *decoder, context string, fields []field, keys []key[T], into T) {
	for _, f := range fields {
		if d.full() {
			return
		}
		i := slices.IndexFunc(keys, func(k key[T]) bool { return k.name == f.name() })
		switch {
		case i < 0:
			names := make([]string, len(keys))
			for j, k := range keys {
				names[j] = k.name
			}
			d.unknownKey(context, f.key, names)
		case keys[i].read == nil:
			d.notYet(f.key, context, f.name())
		default:
			keys[i].read(d, into, f)
		}
	}
}

// fail reports an error of a node. What is wrong with all copies of a place is said of the first.
func (d *decoder) fail(n *node, hint, format string, args ...any) {
	if n.kind != wrong && !(n.copy > 0 && d.reported(n)) {
		d.report(n.line, n.col, width(n), hint, fmt.Sprintf(format, args...))
	}
}

func (d *decoder) reported(n *node) bool {
	return slices.ContainsFunc(d.errs, func(e *Error) bool { return e.Pos.Line == n.line && e.Pos.Col == n.col })
}

// failAt reports an error of a part of a scalar: where the file has the same text as the value, which
// it has not in texts with escapes or of several lines, the part is marked.
func (d *decoder) failAt(n *node, err *checks.LineError, context string) {
	context = prefix(context)
	text := d.from(n.line, n.col)
	skip := 0
	if n.style == quoted {
		skip = 1
	}
	end := skip + err.Offset + err.Len
	if n.style == block || n.written != "" || len(text) < end || !strings.HasPrefix(text[skip:], n.text[:err.Offset+err.Len]) {
		d.fail(n, err.Hint, "%s%s", context, err.Msg)
		return
	}
	d.report(n.line, n.col+columns(text[:skip+err.Offset]), columns(text[skip+err.Offset:end]), err.Hint, context+err.Msg)
}

// notYet refuses what the language has and ctlab does not support so far.
func (d *decoder) notYet(n *node, context, what string) {
	d.fail(n, "", "%s%s is not supported yet", prefix(context), checks.Quote(what))
}

func (d *decoder) unknownKey(context string, key *node, known []string) {
	kebab := kebabCase(key.text)
	hint := checks.DidYouMean(kebab, known, "keys: "+some(known))
	if kebab != key.text {
		if near := checks.Nearest(kebab, known); near != "" && !slices.Contains(known, kebab) {
			kebab = near
		}
		hint = "keys are kebab-case: " + kebab
	}
	d.fail(key, hint, "%sunknown key %s", prefix(context), checks.Quote(key.text))
}

// prefix is the context in front of a message; the top level has none.
func prefix(context string) string {
	if context == "" {
		return ""
	}
	return context + ": "
}

// kebabCase writes sourcePort and source_port as source-port.
func kebabCase(s string) string {
	var b strings.Builder
	for i, r := range s {
		switch {
		case r == '_':
			b.WriteByte('-')
		case r >= 'A' && r <= 'Z':
			if before := s[:i]; before != "" && before[i-1] >= 'a' && before[i-1] <= 'z' {
				b.WriteByte('-')
			}
			b.WriteRune(r + 'a' - 'A')
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// some lists names for a hint: the first few of many, and none at a length that no name may have.
func some(names []string) string {
	const most = 12
	var short []string
	for i, n := range names {
		if i == most {
			short = append(short, "...")
			break
		}
		if head, rest := splitRunes(n, maxName); rest != "" {
			n = head + "..."
		}
		short = append(short, n)
	}
	return strings.Join(short, ", ")
}

// isScalar reports a value that is no text; what says what is needed, such as "a time".
func (d *decoder) isScalar(f field, what string) bool {
	v := f.value
	switch {
	case v.kind == scalar && v.text == "":
		d.fail(v, "", "%s: empty; it takes %s", f.name(), what)
	case v.kind == scalar:
		return true
	default:
		d.wrongKind(f.name(), v, what)
	}
	return false
}

func (d *decoder) wrongKind(context string, v *node, what string) {
	if v.kind == nothing {
		d.fail(v, "", "%s: no value; it takes %s", context, what)
		return
	}
	got := map[kind]string{scalar: "a text", mapping: "a map", sequence: "a list"}[v.kind]
	d.fail(v, "", "%s: %s instead of %s", context, got, what)
}

// isMap reports a value that is no map.
func (d *decoder) isMap(context string, v *node, what string) bool {
	if v.kind != mapping {
		d.wrongKind(context, v, what)
	}
	return v.kind == mapping
}

// list is the values of a key that takes one value or a list of them, each as a field of its own.
func (d *decoder) list(f field) []field {
	if f.value.kind != sequence {
		return []field{f}
	}
	if len(f.value.items) == 0 {
		d.fail(f.value, "leave it out", "%s: an empty list", f.name())
	}
	out := make([]field, len(f.value.items))
	for i, item := range f.value.items {
		out[i] = field{f.key, item}
	}
	return out
}

// text is a text of one line.
func (d *decoder) text(f field) string {
	if !d.isScalar(f, "a text") {
		return ""
	}
	if strings.Contains(strings.TrimSuffix(f.value.text, "\n"), "\n") {
		d.fail(f.value, "", "%s: more than one line", f.name())
	}
	return strings.TrimSuffix(f.value.text, "\n")
}

func (d *decoder) bool(f field) bool {
	return d.oneOf(f, []string{"true", "false"}) == "true"
}

// oneOf is one of a few words; words behind them are of the language and not supported yet.
func (d *decoder) oneOf(f field, words []string, later ...string) string {
	if f.value.kind == mapping && len(later) > 0 {
		for _, inner := range f.value.fields {
			d.fail(inner.key, "supported: "+some(words), "%s: a map with %s is not supported yet", f.name(), checks.Quote(inner.name()))
		}
		return ""
	}
	if !d.isScalar(f, "one of "+some(words)) {
		return ""
	}
	text := f.value.text
	switch {
	case slices.Contains(words, text):
		return text
	case slices.Contains(later, text):
		d.fail(f.value, "supported: "+some(words), "%s: %s is not supported yet", f.name(), checks.Quote(text))
	default:
		hint := ""
		if slices.Contains(words, "true") {
			hint = otherBool(text)
		}
		d.fail(f.value, checks.DidYouMean(text, words, hint), "%s: %s is none of %s", f.name(), checks.Quote(text), some(words))
	}
	return ""
}

// otherBool is a hint at the boolean that other tools would read.
func otherBool(text string) string {
	switch strings.ToLower(text) {
	case "yes", "on", "y", "1":
		return "write: true"
	case "no", "off", "n", "0":
		return "write: false"
	}
	return ""
}

// number is a whole number from least to most.
func (d *decoder) number(f field, least, most int64) (int64, bool) {
	if !d.isScalar(f, "a number") {
		return 0, false
	}
	n, err := checks.ParseNumber(f.value.text)
	if err != nil {
		d.failAt(f.value, err, f.name())
		return 0, false
	}
	if n < least || n > most {
		d.fail(f.value, "", "%s: %d is not in %d..%d", f.name(), n, least, most)
	}
	return n, n >= least && n <= most
}

// duration is a time, of at least one microsecond unless zero is allowed.
func (d *decoder) duration(f field, zero bool) time.Duration {
	if !d.isScalar(f, "a time") {
		return 0
	}
	t, err := checks.ParseDuration(f.value.text)
	if err != nil {
		d.failAt(f.value, err, f.name())
		return 0
	}
	if t == 0 && !zero {
		d.fail(f.value, "", "%s: %s is no time at all", f.name(), f.value.text)
	}
	return t
}

func (d *decoder) pos(n *node) Pos { return Pos{d.file, n.line, n.col} }
