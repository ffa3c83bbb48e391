package conntrack

import (
	"fmt"
	"strconv"
	"strings"
)

// Tick is a moment in kernel ticks (jiffies). Where it starts counting is up to the recording; only
// differences have a meaning.
type Tick int64

// Span is a range of ticks, both ends included, within which the kernel acted.
type Span struct{ From, To Tick }

// At is the Span of a single tick.
func At(t Tick) Span { return Span{t, t} }

// Add moves the Span by n ticks.
func (s Span) Add(n int64) Span { return Span{s.From + Tick(n), s.To + Tick(n)} }

// Exact reports whether the Span is a single tick.
func (s Span) Exact() bool { return s.From == s.To }

// String is FROM..TO, or the one tick.
func (s Span) String() string {
	if s.Exact() {
		return strconv.FormatInt(int64(s.From), 10)
	}
	return fmt.Sprintf("%d..%d", s.From, s.To)
}

// ParseSpan reads what String writes.
func ParseSpan(text string) (Span, error) {
	from, to, ranged := strings.Cut(text, "..")
	a, err := strconv.ParseInt(from, 10, 64)
	if err != nil {
		return Span{}, fmt.Errorf("span %q: want TICK or TICK..TICK", text)
	}
	if !ranged {
		return At(Tick(a)), nil
	}
	b, err := strconv.ParseInt(to, 10, 64)
	if err != nil || b < a {
		return Span{}, fmt.Errorf("span %q: want TICK..TICK, the later one last", text)
	}
	return Span{Tick(a), Tick(b)}, nil
}
