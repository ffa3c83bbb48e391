package fuzz

import (
	"cmp"
	"maps"
	"slices"

	"ctlab/checks/trace"
)

// finds are, of each kind of what was found, the one that is seen after the fewest operations.
type finds map[kind]Result

// maxKinds bounds how many are kept: with more, something is wrong with everything.
const maxKinds = 50

func (f *finds) add(r Result) {
	if *f == nil {
		*f = finds{}
	}
	k := r.kind()
	before, known := (*f)[k]
	if !known && len(*f) >= maxKinds || known && order(before, r) <= 0 {
		return
	}
	(*f)[k] = r
}

// order is by the number of operations up to the first difference, IPv4 first, which labs can show.
func order(a, b Result) int {
	return cmp.Or(families(a, b), cmp.Compare(len(a.upTo()), len(b.upTo())), cmp.Compare(a.Scenario.Number, b.Scenario.Number))
}

// verdicts puts what differs before what says nothing.
func verdicts(a, b Result) int {
	last := func(r Result) int {
		if r.Report.Verdict() == trace.Different {
			return 0
		}
		return 1
	}
	return cmp.Compare(last(a), last(b))
}

// families puts IPv4 before IPv6.
func families(a, b Result) int {
	switch {
	case a.Scenario.Six == b.Scenario.Six:
		return 0
	case b.Scenario.Six:
		return -1
	}
	return 1
}

// first are at most n of the finds: what differs first, then IPv4, then those of scenarios with lower numbers.
func (f finds) first(n int) []Result {
	all := slices.SortedFunc(maps.Values(f), func(a, b Result) int {
		return cmp.Or(verdicts(a, b), families(a, b), cmp.Compare(a.Scenario.Number, b.Scenario.Number), order(a, b))
	})
	return all[:min(n, len(all))]
}
