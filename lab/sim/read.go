package sim

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"ctlab/checks/conntrack"
	"ctlab/checks/trace"
	"ctlab/lab"
	"ctlab/lab/play"
	"ctlab/topology/service"
)

// Get reads one entry.
func (g *Ground) Get(node string, tuple conntrack.Tuple) (*play.Read, error) {
	t, err := g.trackedNode(node)
	if err != nil {
		return nil, fmt.Errorf("read entry: %w", err)
	}
	t.record(trace.Get, tuple.Line(), "")
	p, ok := t.ns.Get(t.span(), tuple)
	if !ok {
		t.record(trace.Absent, tuple.Line(), "")
		t.hear()
		return nil, nil
	}
	e := t.entry(p)
	t.record(trace.Entry, e.String(), "")
	t.hear()
	return &play.Read{At: g.Now(), Entry: e}, nil
}

// Dump reads the whole table.
func (g *Ground) Dump(node string) ([]play.Read, error) {
	t, err := g.trackedNode(node)
	if err != nil {
		return nil, fmt.Errorf("read table: %w", err)
	}
	t.record(trace.Dump, "", "")
	var reads []play.Read
	for _, p := range t.ns.Dump(t.span()) {
		e := t.entry(p)
		t.record(trace.Entry, e.String(), "")
		reads = append(reads, play.Read{At: g.Now(), Entry: e})
	}
	t.record(trace.Dumped, strconv.Itoa(len(reads)), "")
	t.hear()
	return reads, nil
}

// Count is the number of entries, also of expired ones that nothing has touched: nothing collects them here.
func (g *Ground) Count(node string) (uint32, error) {
	t, err := g.trackedNode(node)
	if err != nil {
		return 0, fmt.Errorf("count entries: %w", err)
	}
	_, most := t.ns.Count(t.span())
	t.record(trace.Count, strconv.Itoa(most), "")
	return uint32(most), nil
}

// Delete deletes an entry.
func (g *Ground) Delete(node string, e *conntrack.Entry) (bool, error) {
	t, err := g.trackedNode(node)
	if err != nil {
		return false, fmt.Errorf("delete entry: %w", err)
	}
	if p, ok := t.ns.Get(t.span(), e.Orig); ok && t.id(p.Serial) != e.ID {
		return false, nil // a later entry with the same tuple
	}
	t.record(trace.Delete, e.Orig.Line(), "")
	found := t.ns.Delete(t.span(), e.Orig)
	t.hear()
	return found, nil
}

// Flush deletes all entries.
func (g *Ground) Flush(node string) error {
	t, err := g.trackedNode(node)
	if err != nil {
		return fmt.Errorf("flush table: %w", err)
	}
	t.record(trace.Flush, "", "")
	t.ns.Flush(t.span())
	t.hear()
	return nil
}

// tableLimit is a simulated machine's nf_conntrack_max, and fillTimeout how long what fills a table is there, in seconds.
const (
	tableLimit  = 65536
	fillTimeout = 600
)

// Fill makes entries until there is no room.
func (g *Ground) Fill(node string) (int, error) {
	t, err := g.trackedNode(node)
	if err != nil {
		return 0, fmt.Errorf("fill table: %w", err)
	}
	if err := g.Sysctl(node, lab.Sysctl{Name: "net.netfilter.nf_conntrack_max", Value: strconv.Itoa(tableLimit)}); err != nil {
		return 0, err
	}
	_, most := t.ns.Count(t.span())
	n := max(0, tableLimit-most)
	t.record(trace.Fill, fmt.Sprintf("%d %d", n, fillTimeout), "")
	t.ns.Fill(t.span(), n, fillTimeout)
	return n, nil
}

// Stats are the counters of the node.
func (g *Ground) Stats(node string) (map[string]uint32, error) {
	t, err := g.trackedNode(node)
	if err != nil {
		return nil, fmt.Errorf("read counters: %w", err)
	}
	stats := maps.Clone(t.ns.Stats())
	t.record(trace.Stats, trace.FormatStats(stats), "")
	return stats, nil
}

// Hits lists the rules with their counters in the form of iptables-save -c; of a rule its comment stands there.
func (g *Ground) Hits(_ context.Context, node string, f service.Family) (string, error) {
	t, err := g.trackedNode(node)
	if err != nil {
		return "", fmt.Errorf("read rule counters: %w", err)
	}
	var b strings.Builder
	table := ""
	rules, kind := t.ns.Rules(), trace.Hits
	if f == service.IPv6 {
		rules, kind = t.ns.Rules6(), trace.Hits6
	}
	for _, h := range rules.Hits() {
		if h.Table != table {
			if table != "" {
				b.WriteString("COMMIT\n")
			}
			table = h.Table
			fmt.Fprintf(&b, "*%s\n", table)
		}
		fmt.Fprintf(&b, "[%d:%d] -A %s", h.Counters.Packets, h.Counters.Bytes, h.Chain)
		if h.Comment != "" {
			fmt.Fprintf(&b, " -m comment --comment %q", h.Comment)
		}
		b.WriteString("\n")
	}
	if table != "" {
		b.WriteString("COMMIT\n")
	}
	t.record(kind, "", b.String())
	return b.String(), nil
}

// Events are those of the node so far.
func (g *Ground) Events(node string) []conntrack.Event {
	t, err := g.trackedNode(node)
	if err != nil {
		return nil
	}
	return slices.Clone(t.events)
}
