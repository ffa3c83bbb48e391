package lab

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"gopkg.in/yaml.v3"

	"ctlab/checks"
)

// kind is what a node is; wrong is a node whose error was reported, so that nobody looks at it again.
type kind uint8

const (
	wrong kind = iota
	nothing
	scalar
	mapping
	sequence
)

// style is how a node is written, as far as marks need it.
type style uint8

const (
	plain  style = iota // a scalar without quotes; a mapping or sequence by indentation
	quoted              // col is the quote's
	block               // a text behind | or >; col is that character's
	flow                // a mapping or sequence in braces or brackets
)

// node is a value of the file. Scalars are the text that was written: YAML's types take no part.
type node struct {
	kind      kind
	line, col int
	style     style
	text      string
	fields    []field // of a mapping
	items     []*node // of a sequence
	written   string  // of a copy: the text as the file has it, where that is another
	copy      int     // a copy that a pattern or a repetition made, from 1; 0 is the first or the only one
	repeats   int     // of a step with "for": which repetition it is, from 1; else 0
}

// field is a key and its value; where a key has a list of values there is one field for each.
type field struct{ key, value *node }

func (f field) name() string { return f.key.text }

// find is the index of a key, or -1.
func (n *node) find(key string) int {
	for i, f := range n.fields {
		if f.key.text == key {
			return i
		}
	}
	return -1
}

// get is the value of a key, or nil.
func (n *node) get(key string) *node {
	if i := n.find(key); i >= 0 {
		return n.fields[i].value
	}
	return nil
}

// parse reads the text into nodes. Without a root there are errors in s.
func parse(s *source, src string) *node {
	s.lines = strings.Split(src, "\n")
	for i, l := range s.lines {
		s.lines[i] = strings.TrimSuffix(l, "\r")
	}
	checkText(s, src)
	if len(s.errs) > 0 {
		return nil
	}
	root, err := readYAML(src)
	switch {
	case err == io.EOF:
		s.report(1, 1, 1, "begin with lab: NAME", "the file is empty")
		return nil
	case err != nil:
		syntaxError(s, err)
		return nil
	}
	return convert(s, root.Content[0])
}

// secondDocument says where another document begins.
type secondDocument struct{ line, col int }

func (e secondDocument) Error() string { return "a second document" }

// readYAML reads the only document. The library panics on some broken input (it says "please report").
func readYAML(src string) (doc *yaml.Node, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%v", p)
		}
	}()
	dec := yaml.NewDecoder(bytes.NewReader([]byte(src)))
	doc = new(yaml.Node)
	if err := dec.Decode(doc); err != nil {
		return nil, err
	}
	// The library leaves a second document unread, without a word.
	var second yaml.Node
	switch err := dec.Decode(&second); {
	case err == io.EOF:
		return doc, nil
	case err != nil:
		return nil, err
	}
	return nil, secondDocument{second.Line, second.Column}
}

// convert turns the library's node into ours and reports what the language leaves out of YAML.
func convert(s *source, y *yaml.Node) *node {
	n := &node{line: y.Line, col: y.Column}
	if refused(s, y) {
		return n
	}
	switch y.Kind {
	case yaml.MappingNode:
		n.kind = mapping
		n.fields = convertFields(s, y.Content)
		if len(n.fields) == 0 && len(y.Content) > 0 {
			n.kind = wrong // it is not empty, and what it holds was reported
		}
	case yaml.SequenceNode:
		n.kind = sequence
		for _, item := range y.Content {
			n.items = append(n.items, convert(s, item))
		}
	default:
		n.kind, n.text = scalar, y.Value
		if at := strings.IndexFunc(n.text, unprintable); at >= 0 {
			r, _ := utf8.DecodeRuneInString(n.text[at:])
			s.report(n.line, n.col, 1, "", fmt.Sprintf("a control character, %U, written as an escape", r))
			return &node{line: n.line, col: n.col}
		}
	}
	switch {
	case y.Style&yaml.FlowStyle != 0:
		n.style = flow
	case y.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) != 0:
		n.style = quoted
	case y.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0:
		n.style = block
	case n.kind == scalar && isNull(n.text):
		n.kind = nothing
	}
	return n
}

// unprintable characters can stand in a value as escapes only, since checkText finds all others; line breaks
// and tabs may.
func unprintable(r rune) bool { return isControl(r) && r != '\n' && r != '\t' }

func isNull(text string) bool {
	switch text {
	case "", "~", "null", "Null", "NULL":
		return true
	}
	return false
}

func convertFields(s *source, content []*yaml.Node) []field {
	var fields []field
	first := make(map[string]int, len(content)/2)
	for i := 0; i+1 < len(content); i += 2 {
		y := content[i]
		key, value := convert(s, y), convert(s, content[i+1])
		if key.kind == wrong {
			continue
		}
		if y.Kind != yaml.ScalarNode || y.Value == "" {
			s.report(y.Line, y.Column, 1, "KEY: VALUE", "a key is a word")
			continue
		}
		if value.kind == nothing && value.text == "" {
			value.line, value.col, value.text = key.line, key.col, key.text
		}
		key.text = y.Value
		if line, twice := first[key.text]; twice {
			s.report(key.line, key.col, width(key), "", fmt.Sprintf("%s stands twice, first in line %d", checks.Quote(key.text), line))
			continue
		}
		first[key.text] = key.line
		fields = append(fields, field{key, value})
	}
	return fields
}

// refused reports aliases, anchors, merge keys and tags.
func refused(s *source, y *yaml.Node) bool {
	report := func(length int, hint, msg string) bool {
		s.report(y.Line, y.Column, length, hint, msg)
		return true
	}
	switch {
	case y.Kind == yaml.AliasNode:
		return report(1+columns(y.Value), aliasHint(y.Value), leadingAlias)
	case y.Anchor != "":
		return report(1+columns(y.Anchor), "write the value again where it is needed", `YAML takes a leading "&" for an anchor`)
	case y.Tag == "!!merge":
		return report(2, "write the keys again where they are needed", "merge keys are not part of the language")
	case s.hasTag(y):
		tag := firstWord(s.from(y.Line, y.Column))
		return report(columns(tag), tagHint(tag), "YAML takes "+checks.Quote(tag)+" for a tag")
	}
	return false
}

// hasTag looks into the text as well, since the library says nothing of a tag that is a lone "!".
func (s *source) hasTag(y *yaml.Node) bool {
	return y.Style&yaml.TaggedStyle != 0 || strings.HasPrefix(s.from(y.Line, y.Column), "!")
}

// cursor is a place in the text both in characters and in bytes. Nodes come in the order of the file, so
// going on from the last one keeps a file of one long line cheap.
type cursor struct{ line, col, byte int }

// from is the rest of a line from a column on.
func (s *source) from(line, col int) string {
	text := s.line(line)
	c := &s.cursor
	if c.line != line || c.col > col {
		*c = cursor{line, 1, 0}
	}
	for c.col < col && c.byte < len(text) {
		_, size := utf8.DecodeRuneInString(text[c.byte:])
		c.byte += size
		c.col++
	}
	return text[min(c.byte, len(text)):]
}

// width is how many characters the node takes in its first line.
func width(n *node) int {
	switch {
	case n.kind == mapping && n.style == plain && len(n.fields) > 0:
		return width(n.fields[0].key)
	case n.kind != scalar && n.kind != nothing || n.style == block:
		return 1
	}
	text := n.text
	if n.written != "" {
		text = n.written
	}
	first, _, _ := strings.Cut(text, "\n")
	if n.style == quoted {
		return columns(first) + 2
	}
	return columns(first)
}
