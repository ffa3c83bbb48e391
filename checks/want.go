// Package checks holds what a lab demands of entries and numbers, as pure functions on values.
package checks

import (
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"ctlab/checks/conntrack"
)

// Range is a range of whole numbers, both ends included; Max -1 means no upper end.
type Range struct{ Min, Max int64 }

// Exactly n.
func Exactly(n int64) Range { return Range{n, n} }

// Contains reports whether n lies in the range.
func (r Range) Contains(n int64) bool { return n >= r.Min && (r.Max < 0 || n <= r.Max) }

// String is A..B, A.., or the one number.
func (r Range) String() string {
	switch {
	case r.Max < 0:
		return fmt.Sprintf("%d..", r.Min)
	case r.Min == r.Max:
		return strconv.FormatInt(r.Min, 10)
	}
	return fmt.Sprintf("%d..%d", r.Min, r.Max)
}

// EndpointWant is a wanted address and port; the zero Prefix means any address.
type EndpointWant struct {
	Prefix           netip.Prefix
	MinPort, MaxPort uint16 // 0 and 65535: any
}

// TupleWant is a wanted tuple.
type TupleWant struct{ Src, Dst EndpointWant }

// TimeLeft is a wanted time left. A single time (Min == Max) allows for the whole seconds of the
// kernel and the measured time since the packet; a range is taken literally.
type TimeLeft struct{ Min, Max time.Duration }

// EntryWant is a wanted entry, as a lab's entry line says it; what is not written is not compared.
type EntryWant struct {
	Text        string // the line as written
	Times       Range  // how many entries must match; {1, 1} unless the line says otherwise, {0, 0} for "no"
	Proto       uint8
	Orig        TupleWant
	Reply       *TupleWant
	TCPState    *conntrack.TCPState
	Has, HasNot conntrack.Status
	Stale       *bool
	Left        *TimeLeft
	Zone        *uint16
	ZoneOrig    *uint16
	ZoneReply   *uint16
	Mark        *uint32
	MarkMask    uint32 // with Mark; all ones unless the line says otherwise
	Packets     *[2]Range
	Use         *Range
}
