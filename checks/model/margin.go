package model

import (
	"slices"
	"strings"

	"ctlab/checks/conntrack"
)

// Margin is a question that was decided near its boundary.
type Margin struct {
	At   conntrack.Span
	What string
	Off  int64 // ticks from the boundary; below 0 before it
}

// noteMargin keeps the nearest decision of each question, if it was within a second of the boundary.
func (n *Namespace) noteMargin(m Margin) {
	if max(m.Off, -m.Off) > n.cfg.HZ {
		return
	}
	if old, ok := n.margins[m.What]; !ok || max(m.Off, -m.Off) < max(old.Off, -old.Off) {
		n.margins[m.What] = m
	}
}

// Margins are the questions that were decided within the given number of ticks of their boundary (at most
// a second), each at its nearest, in the order of time.
func (n *Namespace) Margins(ticks int64) []Margin {
	var out []Margin
	for _, m := range n.margins {
		if max(m.Off, -m.Off) <= ticks {
			out = append(out, m)
		}
	}
	slices.SortFunc(out, func(a, b Margin) int {
		if a.At.From != b.At.From {
			return int(a.At.From - b.At.From)
		}
		return strings.Compare(a.What, b.What)
	})
	return out
}
