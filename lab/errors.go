package lab

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Error is one thing that is wrong with a lab file.
type Error struct {
	Pos  Pos
	Len  int    // how many characters are marked
	Msg  string // context and message
	Line string // the source line
	Hint string // how to mend it, or ""
}

// Errors is everything that is wrong with a lab file, in the order of the file.
type Errors []*Error

// maxErrors bounds what is collected: nobody reads more, and input that is wrong everywhere must not
// take long.
const maxErrors = 200

// Error is the full text of all errors.
func (e Errors) Error() string {
	var b strings.Builder
	for i, err := range e {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(err.Error())
	}
	if len(e) >= maxErrors {
		fmt.Fprintf(&b, "\n%s: that is %d errors; there may be more", Escape(e[0].Pos.File), len(e))
	}
	return b.String()
}

// Error is the position and the message, the source line, and a mark with the hint below it.
func (e *Error) Error() string {
	number := fmt.Sprintf("%5d", e.Pos.Line)
	shown, indent, width := excerpt(e.Line, e.Pos.Col, e.Len)
	mark := strings.Repeat(" ", len(number)) + " | " + strings.Repeat(" ", indent) + "^" + strings.Repeat("~", width-1)
	if e.Hint != "" {
		mark += " " + Escape(e.Hint)
	}
	return fmt.Sprintf("%s: %s\n%s | %s\n%s", e.Pos, Escape(e.Msg), number, shown, mark)
}

// A source line of at most maxLine columns is shown whole; of a longer one so many columns around the
// mark that the report keeps to maxLine.
const (
	maxLine = 100
	maxHead = 40
	maxBody = 30
	maxText = maxLine - len("12345 | ")
)

// excerpt is the line as it is shown, and where the mark begins and how wide it is there.
func excerpt(line string, col, length int) (shown string, indent, width int) {
	before, rest := splitRunes(line, col-1)
	marked, after := splitRunes(rest, length)
	head, body, tail := before, marked, after
	if len(line) <= maxLine*utf8.UTFMax {
		head, body, tail = Escape(before), Escape(marked), Escape(after)
	}
	if columns(head)+columns(body)+columns(tail) > maxLine {
		head, body = lastColumns(before, maxHead), firstColumns(marked, maxBody)
		tail = firstColumns(after, maxText-columns(head)-columns(body))
	}
	return head + body + tail, columns(head), max(1, columns(body))
}

func columns(s string) int { return utf8.RuneCountInString(s) }

// firstColumns escapes the beginning of a text that may be very long.
func firstColumns(s string, n int) string {
	first, _ := splitRunes(s, n+1)
	if first = Escape(first); columns(first) <= n {
		return first
	}
	first, _ = splitRunes(first, n-3)
	return first + "..."
}

// lastColumns escapes the end of a text that may be very long.
func lastColumns(s string, n int) string {
	last := Escape(lastRunes(s, n+1))
	if columns(last) <= n {
		return last
	}
	return "..." + lastRunes(last, n-3)
}

func splitRunes(s string, n int) (string, string) {
	i := 0
	for ; n > 0 && i < len(s); n-- {
		_, size := utf8.DecodeRuneInString(s[i:])
		i += size
	}
	return s[:i], s[i:]
}

func lastRunes(s string, n int) string {
	i := len(s)
	for ; n > 0 && i > 0; n-- {
		_, size := utf8.DecodeLastRuneInString(s[:i])
		i -= size
	}
	return s[i:]
}

// Escape makes control characters, line breaks, invisible characters and broken UTF-8 visible, so that a
// file, a path or a program's output cannot write to the terminal of whoever looks at it.
func Escape(s string) string {
	var b strings.Builder
	for i, r := range s {
		switch {
		case r == utf8.RuneError && !strings.HasPrefix(s[i:], "\uFFFD"):
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case unicode.IsPrint(r):
			b.WriteRune(r)
		case r == '\t':
			b.WriteString(`\t`)
		case r < 0x80:
			fmt.Fprintf(&b, `\x%02x`, r)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}

// source is the text of a file and what was found wrong with it.
type source struct {
	file   string
	lines  []string
	errs   Errors
	cursor cursor
}

func (s *source) full() bool { return len(s.errs) >= maxErrors }

// report adds an error; a length of 0 or less marks a single character.
func (s *source) report(line, col, length int, hint, msg string) {
	if s.full() {
		return
	}
	s.errs = append(s.errs, &Error{Pos: Pos{s.file, line, col}, Len: max(1, length), Msg: msg, Hint: hint})
}

// line is a line of the file without its line break; lines that do not exist are empty.
func (s *source) line(n int) string {
	if n < 1 || n > len(s.lines) {
		return ""
	}
	return s.lines[n-1]
}

// finish sorts the errors, fills in their lines, and drops what was said twice.
func (s *source) finish() Errors {
	for _, e := range s.errs {
		e.Pos.Line = min(max(1, e.Pos.Line), len(s.lines))
		e.Line = s.line(e.Pos.Line)
		length := utf8.RuneCountInString(e.Line)
		e.Pos.Col = min(max(1, e.Pos.Col), length+1)
		e.Len = max(1, min(e.Len, length+1-e.Pos.Col))
	}
	slices.SortStableFunc(s.errs, func(a, b *Error) int {
		return cmp.Or(cmp.Compare(a.Pos.Line, b.Pos.Line), cmp.Compare(a.Pos.Col, b.Pos.Col), cmp.Compare(a.Msg, b.Msg))
	})
	return slices.CompactFunc(s.errs, func(a, b *Error) bool { return a.Pos == b.Pos && a.Msg == b.Msg })
}
