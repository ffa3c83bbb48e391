package play

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"ctlab/checks/conntrack"
	"ctlab/checks/model"
	"ctlab/lab"
	"ctlab/topology/service"
)

// flow is a flow that the lab's own clients made, with the time of its last packet sent.
type flow struct {
	tuple conntrack.Tuple
	sent  time.Duration
}

// note remembers that a client sent a packet of a flow.
func (w *World) note(t *tracked, tuple conntrack.Tuple, at time.Duration) {
	if t == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if i, ok := t.index[tuple]; ok {
		t.flows[i].sent = at
		return
	}
	t.index[tuple] = len(t.flows)
	t.flows = append(t.flows, flow{tuple, at})
}

// unknownAge is the age of a flow that no client made.
const unknownAge = time.Duration(-1)

// age is the time since the flow's last packet was sent.
func (w *World) age(t *tracked, tuple conntrack.Tuple, at time.Duration) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	if i, ok := t.index[tuple]; ok {
		return max(0, at-t.flows[i].sent)
	}
	return unknownAge
}

func (w *World) get(t *tracked, tuple conntrack.Tuple) (*lab.Seen, error) {
	r, err := w.ground.Get(t.spec.Name, tuple)
	if r == nil || err != nil {
		return nil, err
	}
	s := w.seen(t, *r)
	return &s, nil
}

func (w *World) seen(t *tracked, r Read) lab.Seen {
	return lab.Seen{At: r.At, Entry: r.Entry, Stale: w.stale(t, &r.Entry), Age: w.age(t, r.Entry.Orig, r.At)}
}

// stale reports whether the present rules, asked about the entry's original tuple as a first packet, could
// not give its binding in any of their allowed choices.
func (w *World) stale(t *tracked, e *conntrack.Entry) bool {
	dev := ""
	if !t.addrs[e.Orig.Src] {
		if n := w.lab.Node(w.where[e.Orig.Src]); n != nil {
			dev = n.Port
		}
	}
	local := func(a netip.Addr) bool { return t.addrs[a] }
	r := t.of(service.FamilyOf(e.Orig.Src))
	if r == nil {
		return false // no rule could ever be asked
	}
	return !slices.Contains(r.rules.Targets(e.Orig, dev, local), netip.AddrPortFrom(e.Reply.Src, e.Reply.SrcPort))
}

// entries reads the whole table: count, GET each known flow, count again. Equal counts prove that nothing
// else is there. A GET takes expired entries out, which were counted before, so this is tried twice; otherwise
// the table is dumped, which costs more and more with the machine.
func (w *World) entries(t *tracked) ([]lab.Seen, error) {
	before, err := w.ground.Count(t.spec.Name)
	if err != nil {
		return nil, err
	}
	for range 2 {
		seen, err := w.known(t)
		if err != nil {
			return nil, err
		}
		after, err := w.ground.Count(t.spec.Name)
		if err != nil {
			return nil, err
		}
		if before == after && int(after) == len(seen)+t.filled {
			return seen, nil
		}
		before = after
	}
	if t.filled > 0 {
		return nil, fmt.Errorf("list the table of %s, which was filled: there are entries of which the lab does not know", t.spec.Name)
	}
	return w.dump(t)
}

// known reads the entries of the flows that the lab's own clients made.
func (w *World) known(t *tracked) ([]lab.Seen, error) {
	w.mu.Lock()
	flows := slices.Clone(t.flows)
	w.mu.Unlock()
	seen := []lab.Seen{}
	for _, f := range flows {
		s, err := w.get(t, f.tuple)
		if err != nil {
			return nil, err
		}
		if s != nil {
			seen = append(seen, *s)
		}
	}
	return seen, nil
}

func (w *World) dump(t *tracked) ([]lab.Seen, error) {
	reads, err := w.ground.Dump(t.spec.Name)
	if err != nil {
		return nil, err
	}
	seen := []lab.Seen{}
	for _, r := range reads {
		seen = append(seen, w.seen(t, r))
	}
	return seen, nil
}

// snapshot reads table, statistics and rule counters of a node. Counters count since the given ones.
func (w *World) snapshot(ctx context.Context, t *tracked, since map[string]uint32) (lab.Snapshot, error) {
	snap := lab.Snapshot{Node: t.spec.Name, At: w.Now()}
	var err error
	if snap.Entries, err = w.entries(t); err != nil {
		return snap, fmt.Errorf("read table of %s: %w", t.spec.Name, err)
	}
	if snap.Stats, err = w.ground.Stats(t.spec.Name); err != nil {
		return snap, fmt.Errorf("read counters of %s: %w", t.spec.Name, err)
	}
	snap.Since = map[string]uint32{}
	for name, n := range snap.Stats {
		if d := n - since[name]; d != 0 {
			snap.Since[name] = d
		}
	}
	snap.Hits = map[string]uint64{}
	for _, r := range t.rulesets {
		text, err := w.ground.Hits(ctx, t.spec.Name, r.family)
		if err != nil {
			return snap, fmt.Errorf("read rule counters of %s: %w", t.spec.Name, err)
		}
		if err := addHits(snap.Hits, text); err != nil {
			return snap, err
		}
	}
	snap.Events = w.ground.Events(t.spec.Name)
	return snap, nil
}

// addHits adds packets by rule comment.
func addHits(out map[string]uint64, text string) error {
	list, err := model.ParseHits(text)
	if err != nil {
		return err
	}
	for _, h := range list {
		if h.Comment == "" {
			continue
		}
		out[h.Comment] += h.Counters.Packets
	}
	return nil
}

// countersBefore are the counters before a step that is no check and wants to see them change.
func (w *World) countersBefore(s *lab.Step) (map[string]uint32, error) {
	if s.Kind == lab.Check || s.Want == nil || !s.Want.Still && len(s.Want.Counters) == 0 || len(w.tracked) != 1 {
		return nil, nil
	}
	return w.ground.Stats(w.tracked[0].spec.Name)
}

// check takes snapshots for a check step, and for any step whose wants need one.
func (w *World) check(ctx context.Context, s *lab.Step, before map[string]uint32, out *lab.Outcome) error {
	nodes := s.Nodes
	if s.Kind != lab.Check {
		nodes = nil
		if s.Want.NeedsTable() && len(w.tracked) == 1 {
			nodes = []string{w.tracked[0].spec.Name}
		}
	}
	for _, name := range nodes {
		t := w.trackedNode(name)
		if t == nil {
			return fmt.Errorf("%s is not tracked", name)
		}
		since := before
		if s.Kind == lab.Check {
			since = t.checked
		}
		snap, err := w.snapshot(ctx, t, since)
		if err != nil {
			return err
		}
		out.Snapshots = append(out.Snapshots, snap)
	}
	if s.Kind == lab.Check {
		w.checkpoint(out)
	}
	return nil
}

// checkpoint lets counters count from this check on.
func (w *World) checkpoint(out *lab.Outcome) {
	for i := range out.Snapshots {
		w.trackedNode(out.Snapshots[i].Node).checked = out.Snapshots[i].Stats
	}
}

// Look takes the step's snapshots once more. Counters still count from where they did.
func (w *World) Look(ctx context.Context, s *lab.Step, out *lab.Outcome) error {
	var fresh []lab.Snapshot
	for i := range out.Snapshots {
		old := &out.Snapshots[i]
		since := map[string]uint32{}
		for name, n := range old.Stats {
			since[name] = n - old.Since[name]
		}
		snap, err := w.snapshot(ctx, w.trackedNode(old.Node), since)
		if err != nil {
			return err
		}
		fresh = append(fresh, snap)
	}
	out.Snapshots, out.Ended = fresh, w.Now()
	if s.Kind == lab.Check {
		w.checkpoint(out)
	}
	return nil
}

// fill fills a table.
func (w *World) fill(t *tracked, out *lab.Outcome) error {
	n, err := w.ground.Fill(t.spec.Name)
	if err != nil {
		return err
	}
	t.filled += n
	out.Filled += n
	return nil
}

// table is the conntrack step: flush, or delete what matches, as conntrack -D does by listing first.
func (w *World) table(s *lab.Step, out *lab.Outcome) error {
	for _, node := range s.Nodes {
		t := w.trackedNode(node)
		if t == nil {
			return fmt.Errorf("%s is not tracked", node)
		}
		if s.Fill {
			if err := w.fill(t, out); err != nil {
				return err
			}
			continue
		}
		list := w.dump
		if t.filled > 0 {
			list = w.entries
		}
		seen, err := list(t)
		if err != nil {
			return err
		}
		if s.Flush {
			if err := w.ground.Flush(node); err != nil {
				return err
			}
			t.filled = 0
		}
		for i := range seen {
			switch e := &seen[i]; {
			case s.Flush:
				out.Deleted = append(out.Deleted, lab.Deleted{Node: node, Entry: e.Entry})
			case !s.Delete.Matches(&e.Entry, e.Stale, e.Age):
			default:
				if err := w.delete(t, e.Entry, out); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
