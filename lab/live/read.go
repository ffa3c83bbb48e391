//go:build linux

package live

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"ctlab/checks/conntrack"
	"ctlab/checks/kernel"
	"ctlab/checks/trace"
	"ctlab/lab"
	"ctlab/lab/play"
	"ctlab/topology/service"
)

// Get reads the entry of a flow, and records that it was read and what was found.
func (g *Ground) Get(node string, tuple conntrack.Tuple) (*play.Read, error) {
	t, err := g.table(node)
	if err != nil {
		return nil, err
	}
	r, found, err := t.table.Get(tuple)
	if err != nil {
		return nil, fmt.Errorf("table of %s: %w", node, err)
	}
	t.rec.did(r.Moment, trace.Get, tuple.Line(), "")
	if !found {
		t.rec.saw(r.Moment, r.To, trace.Absent, tuple.Line(), "")
		return nil, nil
	}
	t.rec.saw(r.Moment, r.To, trace.Entry, r.Entry.String(), "")
	read := g.read(r)
	return &read, nil
}

func (g *Ground) read(r kernel.Read) play.Read {
	return play.Read{At: g.since(r.From), Entry: r.Entry}
}

// dumpTries bounds how often an interrupted dump is made again.
const dumpTries = 5

// Dump reads the whole table.
func (g *Ground) Dump(node string) ([]play.Read, error) {
	t, err := g.table(node)
	if err != nil {
		return nil, err
	}
	for range dumpTries {
		reads, at, err := t.table.Dump()
		if errors.Is(err, kernel.ErrInterrupted) {
			t.rec.did(at, trace.Dump, "", "") // it evicted what had expired, whatever it missed
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("table of %s: %w", node, err)
		}
		t.rec.did(at, trace.Dump, "", "")
		out := make([]play.Read, 0, len(reads))
		for _, r := range reads {
			t.rec.saw(r.Moment, at.To, trace.Entry, r.Entry.String(), "")
			out = append(out, g.read(r))
		}
		t.rec.saw(at, at.To, trace.Dumped, itoa(uint32(len(reads))), "")
		return out, nil
	}
	return nil, fmt.Errorf("table of %s: dump interrupted %d times in a row: %w", node, dumpTries, lab.ErrEvidenceLost)
}

// Count is the number of entries in the namespace.
func (g *Ground) Count(node string) (uint32, error) {
	t, err := g.table(node)
	if err != nil {
		return 0, err
	}
	n, at, err := t.table.Count()
	if err != nil {
		return 0, fmt.Errorf("table of %s: %w", node, err)
	}
	t.rec.counted(at, trace.Count, itoa(n), "")
	return n, nil
}

// Delete deletes an entry by its original tuple and id.
func (g *Ground) Delete(node string, e *conntrack.Entry) (bool, error) {
	t, err := g.table(node)
	if err != nil {
		return false, err
	}
	found, at, err := t.table.Delete(e.Orig, e.ID)
	if err != nil {
		return false, fmt.Errorf("table of %s: %w", node, err)
	}
	t.rec.did(at, trace.Delete, e.Orig.Line(), "")
	return found, nil
}

// Flush deletes every entry.
func (g *Ground) Flush(node string) error {
	t, err := g.table(node)
	if err != nil {
		return err
	}
	at, err := t.table.Flush()
	if err != nil {
		return fmt.Errorf("table of %s: %w", node, err)
	}
	t.rec.did(at, trace.Flush, "", "")
	return nil
}

// Stats are the counters of conntrack -S, since the node was made.
func (g *Ground) Stats(node string) (map[string]uint32, error) {
	t, err := g.table(node)
	if err != nil {
		return nil, err
	}
	stats, at, err := t.table.Stats()
	if err != nil {
		return nil, fmt.Errorf("table of %s: %w", node, err)
	}
	t.rec.counted(at, trace.Stats, trace.FormatStats(stats), "")
	return stats, nil
}

// Hits is the text of iptables-save -c or ip6tables-save -c, without its comment lines.
func (g *Ground) Hits(ctx context.Context, node string, f service.Family) (string, error) {
	t, err := g.table(node)
	if err != nil {
		return "", err
	}
	var text string
	at, err := g.clock.during(func() (err error) {
		text, err = g.ipts[f].Hits(ctx, t.node)
		return err
	})
	if err != nil {
		return "", err
	}
	text = countedRules(text)
	kind := trace.Hits
	if f == service.IPv6 {
		kind = trace.Hits6
	}
	t.rec.counted(at, kind, "", text)
	return text, nil
}

// countedRules leaves out the comment lines of iptables-save, which carry the date.
func countedRules(text string) string {
	var keep []string
	for _, l := range strings.Split(text, "\n") {
		if l != "" && l[0] != '#' {
			keep = append(keep, l)
		}
	}
	return strings.Join(keep, "\n")
}

// Events are those of the node so far.
func (g *Ground) Events(node string) []conntrack.Event {
	t := g.trackedNode(node)
	if t == nil {
		return nil
	}
	return t.ears.SoFar()
}
