package lab

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"ctlab/checks"
	"ctlab/checks/conntrack"
)

// maxSize of a lab file in bytes.
const maxSize = 1 << 20

// maxValues bounds the values and keys that a file may have: a parser makes many times its size of a file
// that is all commas, and nobody has asked for it yet.
const maxValues = 150000

// beyondValues finds the line in which a text has more places where a value or a key can begin than a lab
// may have. There are at least as many places as values.
func beyondValues(src string) (line int, many bool) {
	line = 1
	places := 1
	for i := range len(src) {
		switch c := src[i]; {
		case c == '\n':
			line++
			places++
		case c == ',' || c == ':' || c == '[' || c == '{':
			places++
		case (c == '-' || c == '?') && i+1 < len(src) && src[i+1] == ' ':
			places++
		}
		if places > maxValues {
			return line, true
		}
	}
	return 0, false
}

// checkText reports what no lab file may hold, before YAML sees it.
func checkText(s *source, src string) {
	if len(src) > maxSize {
		s.report(1, 1, 1, "", fmt.Sprintf("the file has more than %d bytes, which is the most that a lab may have", maxSize))
		return
	}
	if line, many := beyondValues(src); many {
		s.report(line, 1, 1, "names with {A..B}, and for in steps, stand for many", fmt.Sprintf("up to here the file has room for %d values, which is the most that a lab may have", maxValues))
		return
	}
	for i, line := range s.lines {
		if at, hint, msg := checkLine(line); msg != "" {
			s.report(i+1, columns(line[:at])+1, 1, hint, msg)
		}
	}
}

// checkLine finds the first character of a line that must not be there.
func checkLine(line string) (at int, hint, msg string) {
	for at, r := range line {
		switch {
		case r == '\t':
			return at, "write spaces", "a tab"
		case r == utf8.RuneError && !strings.HasPrefix(line[at:], "\uFFFD"):
			return at, "a lab is UTF-8 text", fmt.Sprintf("the byte 0x%02x is not UTF-8", line[at])
		case isControl(r):
			return at, "", fmt.Sprintf("a control character, %U", r)
		}
	}
	return 0, "", ""
}

// isControl is true for control characters, for what YAML takes for a line break, and for marks that
// change the direction of the text around them.
func isControl(r rune) bool {
	switch {
	case r < ' ', r >= 0x7f && r < 0xa0, r == 0x2028, r == 0x2029, r == 0xfeff:
		return true
	case r == 0x200e, r == 0x200f, r >= 0x202a && r <= 0x202e, r >= 0x2066 && r <= 0x2069:
		return true
	}
	return false
}

const leadingAlias = `YAML takes a leading "*" for an alias`

func aliasHint(name string) string {
	if name != "" && name[0] >= 'a' && name[0] <= 'z' {
		return "write the value again where it is needed"
	}
	return "write: any, and begin with the protocol"
}

func tagHint(tag string) string {
	word := strings.TrimLeft(tag, "!")
	if _, ok := conntrack.ParseStatusWord(word); ok || word == "stale" {
		return "not-" + word
	}
	return "labs have no tags"
}

// firstWord is the text up to where a plain word can end.
func firstWord(text string) string {
	if i := strings.IndexAny(text, " ,]}"); i >= 0 {
		return text[:i]
	}
	return text
}

// syntaxError answers what YAML refused. YAML's own words have no column and often the wrong line, so
// the mistakes that people make are looked for first.
func syntaxError(s *source, err error) {
	if second, ok := err.(secondDocument); ok {
		s.report(second.line, second.col, 3, "make another file of it", "a second document")
		return
	}
	if findTraps(s); len(s.errs) > 0 {
		return
	}
	line, msg := yamlMessage(err.Error())
	text := s.line(line)
	rest := strings.TrimLeft(text, " ")
	hint := ""
	if strings.HasPrefix(msg, "did not find expected") {
		hint = "here, or in the block that begins here"
	}
	s.report(line, len(text)-len(rest)+1, columns(rest), hint, "YAML: "+msg)
}

// yamlMessage takes the line out of a message of the library. The scanner counts lines from 1, the
// parser from 0, and neither says a word of the first line.
func yamlMessage(text string) (line int, msg string) {
	msg = strings.TrimPrefix(text, "yaml: ")
	rest, numbered := strings.CutPrefix(msg, "line ")
	number, after, _ := strings.Cut(rest, ": ")
	n, err := strconv.Atoi(number)
	if !numbered || err != nil {
		return 1, msg
	}
	for _, parser := range []string{"<stream-start>", "<document start>", "node content", "'-' indicator", "key", "',' or ']'", "',' or '}'"} {
		if after == "did not find expected "+parser {
			n++
		}
	}
	return n, after
}

// findTraps looks for values whose first character means something in YAML.
func findTraps(s *source) {
	inText := -1 // the indentation of the key of a block of text, whose lines hold anything
	for i, line := range s.lines {
		body := strings.TrimLeft(line, " ")
		indent := len(line) - len(body)
		if inText >= 0 && (body == "" || indent > inText) {
			continue
		}
		inText = -1
		t := trapScanner{line: line, pos: indent}
		t.scan()
		if t.text {
			inText = indent
		}
		if t.msg != "" {
			s.report(i+1, columns(line[:t.at])+1, columns(t.mark), t.hint, t.msg)
		}
	}
}

// trapScanner walks over one line and stops at the first trap.
type trapScanner struct {
	line      string
	pos       int
	depth     int    // of braces and brackets that were opened in this line
	key       string // the last one
	text      bool   // the line ends with | or >
	at        int
	mark      string
	msg, hint string
}

func (t *trapScanner) scan() {
	for t.msg == "" && !t.text && t.pos < len(t.line) {
		switch c := t.line[t.pos]; {
		case c == ' ' || c == ',' || c == ']' || c == '}' || c == ':':
			t.pos++
		case c == '#':
			return
		case c == '"' || c == '\'':
			end := strings.IndexByte(t.line[t.pos+1:], c)
			if end < 0 {
				return
			}
			t.pos += end + 2
		case strings.HasPrefix(t.line[t.pos:], "- "):
			t.pos += 2
		default:
			t.value()
		}
	}
}

var (
	textHeader = regexp.MustCompile(`^[|>][-+0-9]{0,2} *(#.*)?$`)
	ipv6       = regexp.MustCompile(`^\[[0-9a-fA-F.]*:[0-9a-fA-F.]*:[0-9a-fA-F:.]*\][^ ,]*`)
	bound      = regexp.MustCompile(`^>=? *([0-9][0-9.]*)`)
)

// value looks at the first character of a value or key.
func (t *trapScanner) value() {
	const far = 200 // looking further ahead at every character of a long line would take minutes
	rest := t.line[t.pos:]
	near := rest[:min(far, len(rest))]
	first := firstWord(near)
	switch rest[0] {
	case '*':
		t.trap("*", leadingAlias, aliasHint(first[1:]))
	case '!':
		t.trap(first, "YAML takes "+checks.Quote(first)+" for a tag", tagHint(first))
	case '@', '`':
		t.trap(rest[:1], fmt.Sprintf("YAML keeps a leading %q for itself", rest[:1]), "in quotes it is text")
	case '[', '{':
		if v6 := ipv6.FindString(near); v6 != "" {
			t.trap(v6, `YAML takes a leading "[" for a list`, "begin with the protocol, or use the node's name")
		}
		t.depth++
		t.pos++
	case '|', '>':
		if t.text = textHeader.MatchString(rest); t.text {
			return
		}
		hint := "begin with the protocol"
		if m := bound.FindStringSubmatch(near); m != nil {
			hint = m[1] + ".."
		}
		t.trap(rest[:1], fmt.Sprintf("YAML takes a leading %q for a block of text", rest[:1]), hint)
	default:
		t.plain(rest)
	}
}

// plain walks over a plain word or line up to where it can end.
func (t *trapScanner) plain(rest string) {
	for i := range len(rest) {
		next := rest[min(i+1, len(rest)):]
		switch c := rest[i]; {
		case c == ':' && (next == "" || next[0] == ' '):
			t.key = rest[:i]
		case c == ' ' && strings.HasPrefix(next, "#"):
		case t.depth > 0 && (c == ',' || c == ']' || c == '}'):
		case t.depth > 0 && c == '{':
			t.braces(rest, i)
			return
		default:
			continue
		}
		t.pos += max(1, i)
		return
	}
	t.pos += len(rest)
}

func (t *trapScanner) braces(rest string, i int) {
	end := strings.IndexByte(rest[i:], '}')
	if end < 0 {
		end = 0
	}
	t.pos += i
	t.trap(rest[i:i+end+1], "braces inside { } must be quoted", fmt.Sprintf("%s: %q", t.key, firstWord(rest[:i])+rest[i:i+end+1]))
}

func (t *trapScanner) trap(mark, msg, hint string) {
	t.at, t.mark, t.msg, t.hint = t.pos, mark, msg, hint
}
