//go:build linux

package live

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"ctlab/checks/conntrack"
	"ctlab/checks/kernel"
	"ctlab/checks/model"
	"ctlab/checks/observe"
	"ctlab/checks/trace"
	"ctlab/lab"
)

// flow is a flow that ctlab's own clients made, with the time of its last packet sent.
type flow struct {
	tuple conntrack.Tuple
	sent  time.Duration
}

// note remembers that a client sent a packet of a flow.
func (t *tracked) note(tuple conntrack.Tuple, at time.Duration) {
	for i := range t.flows {
		if t.flows[i].tuple == tuple {
			t.flows[i].sent = at
			return
		}
	}
	t.flows = append(t.flows, flow{tuple, at})
}

// unknownAge is the age of a flow that no client made.
const unknownAge = time.Duration(-1)

// age is the time since the flow's last packet was sent.
func (t *tracked) age(tuple conntrack.Tuple, at time.Duration) time.Duration {
	for _, f := range t.flows {
		if f.tuple == tuple {
			return max(0, at-f.sent)
		}
	}
	return unknownAge
}

// get reads the entry of a flow, and records that it was read and what was found.
func (w *World) get(t *tracked, tuple conntrack.Tuple) (*lab.Seen, error) {
	r, found, err := t.table.Get(tuple)
	if err != nil {
		return nil, err
	}
	t.rec.did(r.Moment, trace.Get, tuple.Line(), "")
	if !found {
		t.rec.seen(r.Moment, r.From, trace.Absent, tuple.Line(), "")
		return nil, nil
	}
	t.rec.seen(r.Moment, r.From, trace.Entry, r.Entry.String(), "")
	return w.look(t, r), nil
}

// look says of an entry that was read whether it is stale.
func (w *World) look(t *tracked, r kernel.Read) *lab.Seen {
	at := time.Duration(r.From - w.origin)
	return &lab.Seen{At: at, Entry: r.Entry, Stale: w.stale(t, &r.Entry), Age: t.age(r.Entry.Orig, at)}
}

// stale reports whether the present rules, asked about the entry's original tuple as a first packet,
// could not give its binding in any of their allowed choices.
func (w *World) stale(t *tracked, e *conntrack.Entry) bool {
	local := func(a netip.Addr) bool { return t.own[a] }
	return !slices.Contains(t.rules.Bindings(e.Orig, w.port(e.Orig.Src), local), e.Reply)
}

// port is the router's device towards an address.
func (w *World) port(a netip.Addr) string {
	for _, n := range w.lab.Nodes {
		if n.Address.Addr() == a {
			return n.Port
		}
	}
	return ""
}

// dumpTries bounds how often an interrupted dump is made again.
const dumpTries = 5

// entries reads the whole table: count, GET each known flow, count again. Equal counts prove that
// nothing else is there; otherwise the table is dumped, which costs more and more with the machine.
func (w *World) entries(t *tracked) ([]lab.Seen, error) {
	before, err := w.count(t)
	if err != nil {
		return nil, err
	}
	var seen []lab.Seen
	for _, f := range t.flows {
		s, err := w.get(t, f.tuple)
		if err != nil {
			return nil, err
		}
		if s != nil {
			seen = append(seen, *s)
		}
	}
	after, err := w.count(t)
	if err != nil {
		return nil, err
	}
	if before == after && int(after) == len(seen) {
		return seen, nil
	}
	return w.dump(t)
}

func (w *World) count(t *tracked) (uint32, error) {
	n, at, err := t.table.Count()
	if err != nil {
		return 0, err
	}
	t.rec.seen(at, at.From, trace.Count, itoa(n), "")
	return n, nil
}

func (w *World) dump(t *tracked) ([]lab.Seen, error) {
	for range dumpTries {
		reads, at, err := t.table.Dump()
		if errors.Is(err, kernel.ErrInterrupted) {
			t.rec.did(at, trace.Dump, "", "") // it evicted what had expired, whatever it missed
			continue
		}
		if err != nil {
			return nil, err
		}
		t.rec.did(at, trace.Dump, "", "")
		var seen []lab.Seen
		for _, r := range reads {
			t.rec.seen(r.Moment, at.From, trace.Entry, r.Entry.String(), "")
			seen = append(seen, *w.look(t, r))
		}
		t.rec.seen(at, at.From, trace.Dumped, itoa(uint32(len(reads))), "")
		return seen, nil
	}
	return nil, fmt.Errorf("dump %s: interrupted %d times in a row", t.spec.Name, dumpTries)
}

// snapshot reads table, statistics and rule counters of a node.
func (w *World) snapshot(ctx context.Context, t *tracked) (lab.Snapshot, error) {
	snap := lab.Snapshot{Node: t.spec.Name, At: w.Now()}
	var err error
	if snap.Entries, err = w.entries(t); err != nil {
		return snap, fmt.Errorf("read table of %s: %w", t.spec.Name, err)
	}
	stats, at, err := t.table.Stats()
	if err != nil {
		return snap, fmt.Errorf("read counters of %s: %w", t.spec.Name, err)
	}
	t.rec.seen(at, at.From, trace.Stats, statText(stats), "")
	snap.Stats = stats
	var text string
	hitsAt, err := during(func() (err error) {
		text, err = w.ipt.Hits(ctx, t.node)
		return err
	})
	if err != nil {
		return snap, err
	}
	text = countedRules(text)
	t.rec.seen(hitsAt, hitsAt.From, trace.Hits, "", text)
	hits, err := model.ParseHits(text)
	if err != nil {
		return snap, err
	}
	snap.Hits = map[string]uint64{}
	for _, h := range hits {
		if h.Comment != "" {
			snap.Hits[h.Comment] += h.Counters.Packets
		}
	}
	snap.Events = t.ears.SoFar()
	return snap, nil
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

// inventory reads sysctls, links, addresses and routes back, so that an input that was not recorded
// shows.
func (w *World) inventory(t *tracked) error {
	at := now()
	st, err := t.node.State()
	if err != nil {
		return err
	}
	at.To = observe.Monotonic()
	keys := slices.Clone(inputSysctls)
	for _, rec := range t.rec.recs {
		if key, _, _ := strings.Cut(rec.args, " "); rec.kind == trace.Sysctl && !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
	}
	values, err := t.node.NS.ReadSysctls(keys...)
	if err != nil {
		return fmt.Errorf("read sysctls of %s: %w", t.spec.Name, err)
	}
	var settings []string
	for k, v := range values {
		settings = append(settings, k+" "+v)
	}
	for name, list := range map[string][]string{"links": st.Links, "addresses": st.Addresses, "routes": st.Routes, "sysctls": settings} {
		t.rec.seen(at, at.From, trace.State, name, lines(list))
	}
	return nil
}
