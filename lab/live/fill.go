//go:build linux

package live

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"ctlab/checks/trace"
	"ctlab/lab"
)

const (
	tableLimit = "net.netfilter.nf_conntrack_max"
	sendEvents = "net.netfilter.nf_conntrack_events"
	// fillTimeout is how long entries that fill a table are there, in seconds: longer than a lab may take.
	fillTimeout = 600
	// fillMost is how many of them are made at most: they cost some 320 bytes and 5 us each.
	fillMost = 300000
)

// CannotFill says why a lab's table cannot be filled on this machine, or nothing. The limit is one number for all
// namespaces, which only the first may change.
func CannotFill(l *lab.Lab) string {
	if !l.Fills() {
		return ""
	}
	b, err := os.ReadFile("/proc/sys/" + strings.ReplaceAll(tableLimit, ".", "/"))
	if err != nil {
		return "" // whatever is missing says so itself
	}
	switch n, err := strconv.Atoi(strings.TrimSpace(string(b))); {
	case err != nil:
		return fmt.Sprintf("read %s: %v", tableLimit, err)
	case n == 0:
		return tableLimit + " is 0: there is no limit"
	case n > fillMost:
		return fmt.Sprintf("%s is %d; a lab fills a table with %d entries at most", tableLimit, n, fillMost)
	}
	return ""
}

// Fill makes entries until there is no room. Nobody is told of them: the events are switched off meanwhile, which holds for an
// entry as long as it lives (nf_ct_ecache_ext_add).
func (g *Ground) Fill(node string) (int, error) {
	t, err := g.table(node)
	if err != nil {
		return 0, err
	}
	made, err := t.fill()
	if err != nil {
		return 0, fmt.Errorf("table of %s: %w", node, err)
	}
	return made, nil
}

func (t *tracked) fill() (made int, err error) {
	ns := t.node.NS
	values, err := ns.ReadSysctls(tableLimit, sendEvents)
	if err != nil {
		return 0, err
	}
	limit, err := strconv.Atoi(values[tableLimit])
	if err != nil || limit == 0 || limit > fillMost {
		return 0, fmt.Errorf("fill: %s is %q", tableLimit, values[tableLimit])
	}
	t.recordSysctl(t.clock.now(), tableLimit, values[tableLimit])
	if events, given := values[sendEvents]; given {
		if err := ns.WriteSysctl(sendEvents, "0"); err != nil {
			return 0, err
		}
		defer func() { err = errors.Join(err, ns.WriteSysctl(sendEvents, events)) }()
	}
	count, _, err := t.table.Count()
	if err != nil {
		return 0, err
	}
	made = max(0, limit-int(count))
	at, err := t.table.Fill(made, fillTimeout)
	if err != nil {
		return 0, err
	}
	t.rec.did(at, trace.Fill, fmt.Sprintf("%d %d", made, fillTimeout), "")
	return made, nil
}
