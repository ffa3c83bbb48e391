package model

import (
	"fmt"

	"ctlab/checks/conntrack"
)

// ChoiceKind says what is free in a Choice.
type ChoiceKind string

// The kinds of choices.
const (
	ChooseBackend ChoiceKind = "backend" // statistic --mode random matched or not
	ChoosePort    ChoiceKind = "port"    // where NAT starts to search for a port: it takes the first free one from there
	ChooseTiming  ChoiceKind = "timing"  // a branch that the Spans cannot decide
	ChooseVictim  ChoiceKind = "victim"  // which entry an early drop finds, 0 for none
	ChooseOrder   ChoiceKind = "order"   // which of two overlapping acts came first; declared by the replay
)

// Choice is a point at which the kernel is free, or at which the recorded inputs cannot tell what it
// did. It is declared, with the number of its allowed answers, before anything observed settles it.
type Choice struct {
	Kind    ChoiceKind
	Subject string          // what it is about
	Options int             // answers 0 to Options-1 are allowed
	First   int             // what answer 0 stands for, where answers are numbers (a port)
	About   string          // the packet's line, where a choice belongs to a packet
	Flow    conntrack.Tuple // the original tuple of the packet's entry, where it has one

	// Of a port: whether it is the destination's, and whether the namespace itself sent the packet.
	Destination, Own bool
	// Of a port: whether it is free, so that a search which starts there ends there.
	Free func(answer int) bool

	Entries []conntrack.Entry // of a victim: what answers from 1 stand for; tuples only
}

// String says what is free.
func (c Choice) String() string {
	return fmt.Sprintf("%s: %s (%d allowed)", c.Kind, c.Subject, c.Options)
}

// Chooser answers choices with a number from 0 to Options-1.
type Chooser func(Choice) int

// FirstOption always takes the first allowed answer.
func FirstOption(Choice) int { return 0 }
