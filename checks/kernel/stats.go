//go:build linux

package kernel

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Stats are the counters of a namespace, summed over all CPUs, by the names that conntrack -S prints
// with hyphens for underscores.
type Stats map[string]uint32

// statNames are the CTA_STATS_* attributes of IPCTNL_MSG_CT_GET_STATS_CPU. Those that modern kernels
// do not send any more have no name.
var statNames = map[uint16]string{2: "found", 4: "invalid", 8: "insert", 9: "insert-failed", 10: "drop", 11: "early-drop",
	12: "error", 13: "search-restart", 14: "clash-resolve", 15: "chain-toolong"}

// Stats reads the counters (ctnetlink_ct_stat_cpu_dump).
func (t *Table) Stats() (Stats, Moment, error) {
	t.seq++
	m := newMessage(msgGetStatsCPU, unix.NLM_F_REQUEST|unix.NLM_F_DUMP, t.seq, unix.AF_UNSPEC)
	sum := Stats{}
	at, err := t.ask(m, func(body []byte) error {
		a := attrs{rest: body[min(nfgenmsgLen, len(body)):]}
		for a.next() {
			if name, ok := statNames[a.typ]; ok {
				sum[name] += a.u32()
			}
		}
		return a.err
	})
	if err != nil {
		return nil, at, fmt.Errorf("read statistics: %w", err)
	}
	return sum, at, nil
}
