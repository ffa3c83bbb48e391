package lab

import (
	"cmp"
	"slices"
	"time"
)

// Outage is a time in which a client had no answer: from the sending of its last answered request, or of
// its first one if none was answered before, to the sending of the next answered one. Without a next one
// it lasts to the end of the step, and as far as the step knows for good.
type Outage struct {
	Client  string
	From    time.Duration
	Took    time.Duration
	ForGood bool
}

// BriefOutage is how long an outage that lasts to the end must have lasted for reports to call it one for good.
const BriefOutage = 2 * time.Second

// LongestOutage is the longest of all clients, among requests of which at least one was lost; the zero
// Outage if none was. Ended is the end of the step that judges them. Requests of a client and those of its
// control must not be mixed.
func LongestOutage(as []Attempt, ended time.Duration) Outage {
	byClient := map[string][]Attempt{}
	var clients []string
	for _, a := range as {
		if byClient[a.Client] == nil {
			clients = append(clients, a.Client)
		}
		byClient[a.Client] = append(byClient[a.Client], a)
	}
	var longest Outage
	for _, c := range clients {
		if o := outageOf(byClient[c], ended); o.Took > longest.Took {
			longest = o
			longest.Client = c
		}
	}
	return longest
}

// outageOf is the longest outage of one client.
func outageOf(as []Attempt, ended time.Duration) Outage {
	as = slices.Clone(as)
	slices.SortStableFunc(as, func(a, b Attempt) int { return cmp.Compare(a.At, b.At) })
	var longest Outage
	from, lost := as[0].At, false
	end := func(at time.Duration, forGood bool) {
		if lost && at-from > longest.Took {
			longest = Outage{From: from, Took: at - from, ForGood: forGood}
		}
	}
	for _, a := range as {
		if a.Class != Answered {
			lost = true
			continue
		}
		end(a.At, false)
		from, lost = a.At, false
	}
	end(ended, true)
	return longest
}

// note says more of an outage than its time.
func (o Outage) note() string {
	switch {
	case o.ForGood && o.Took < BriefOutage:
		return ", to the end"
	case o.ForGood:
		return ", for good"
	}
	return ""
}
