package report

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"ctlab/lab"
)

// outages is the longest time in which a client had no answer (lab.LongestOutage), over all clients, those
// of controls left out. forGood says that some client's last request was lost.
func outages(all []lab.Attempt, ended time.Duration) (longest time.Duration, forGood bool) {
	clients := byClient(all)
	for _, as := range clients {
		forGood = forGood || as[len(as)-1].Class != lab.Answered
	}
	return lab.LongestOutage(slices.Concat(clients...), ended).Took, forGood
}

func outageText(longest time.Duration, forGood bool) string {
	switch {
	case forGood && longest < time.Millisecond: // nothing was asked after the first loss
		return "to the end"
	case forGood && longest < lab.BriefOutage:
		return span(longest) + " to the end"
	case forGood:
		return "for good"
	}
	return span(longest)
}

// byClient are the requests of each client in the order of time, without those of control clients, the
// clients in the order of their first request.
func byClient(all []lab.Attempt) [][]lab.Attempt {
	var out [][]lab.Attempt
	place := map[string]int{}
	for _, a := range all {
		if a.Control {
			continue
		}
		i, ok := place[a.Client]
		if !ok {
			i = len(out)
			place[a.Client] = i
			out = append(out, nil)
		}
		out[i] = append(out[i], a)
	}
	for _, as := range out {
		slices.SortStableFunc(as, func(a, b lab.Attempt) int { return int(a.At - b.At) })
	}
	return out
}

// enough is from how many answers on a step's latency is shown.
const enough = 20

// latencyLines are the percentiles of the answered requests and a histogram, if there are enough or the
// lab wants something of them.
func latencyLines(s *lab.StepResult) []string {
	wanted := s.Step.Want != nil && s.Step.Want.Traffic != nil && len(s.Step.Want.Traffic.Latency) > 0
	var took []time.Duration
	for _, a := range s.Outcome.Attempts {
		if a.Class == lab.Answered && !a.Control {
			took = append(took, a.Took)
		}
	}
	if len(took) == 0 || len(took) < enough && !wanted {
		return nil
	}
	slices.Sort(took)
	lines := []string{fmt.Sprintf("latency: p50 %s, p99 %s, max %s", fineMS(lab.Percentile(took, 50)), fineMS(lab.Percentile(took, 99)), fineMS(took[len(took)-1]))}
	return append(lines, histogram(took)...)
}

// The shape of a histogram.
const (
	finest  = 100 * time.Microsecond // the end of the first bucket
	barWide = 30
	rows    = 6 // at most
)

// histogram draws sorted times in buckets whose ends double, or grow faster where that takes too many
// lines.
func histogram(sorted []time.Duration) []string {
	for factor := time.Duration(2); ; factor *= 2 {
		if lines := buckets(sorted, factor); len(lines) <= rows {
			return lines
		}
	}
}

func buckets(sorted []time.Duration, factor time.Duration) []string {
	type bucket struct {
		end time.Duration
		n   int
	}
	first := finest
	for sorted[0] >= first {
		first *= factor
	}
	all, most := []bucket{{end: first}}, 0
	for _, d := range sorted {
		for last := all[len(all)-1]; d >= last.end; last = all[len(all)-1] {
			all = append(all, bucket{end: last.end * factor})
		}
		last := &all[len(all)-1]
		last.n++
		most = max(most, last.n)
	}
	var lines []string
	for _, b := range all {
		bar := strings.Repeat("#", (b.n*barWide+most-1)/most)
		lines = append(lines, fmt.Sprintf("  below %-9s %-*s %d", fmt.Sprintf("%g ms", float64(b.end.Microseconds())/1000), barWide, bar, b.n))
	}
	return lines
}
