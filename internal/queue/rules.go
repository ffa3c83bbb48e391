//go:build linux

package queue

import (
	"encoding/binary"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"

	"ctlab/checks/conntrack"
)

// place is a chain that packets are held in.
type place struct {
	family nftables.TableFamily
	where  conntrack.HoldPlace
}

// tableName is that of the table that holds the chains; it is beside those of iptables.
const tableName = "ctlab-hold"

// Priorities of the chains: around source NAT, which is at 100, and before entries are confirmed, at the very end
// (include/uapi/linux/netfilter_ipv4.h).
const (
	beforeSNAT    nftables.ChainPriority = 99
	beforeConfirm nftables.ChainPriority = 200
)

// Hold sends packets to the queue from now on.
func (q *Queue) Hold(h conntrack.Hold) error {
	for _, family := range q.familiesOf(h) {
		// Both chains are made at once: a packet that waits goes on behind the number of its hook, which another chain in
		// front would change (nf_reinject in net/netfilter/nf_queue.c, 6.18), so that it would be held again.
		for _, where := range []conntrack.HoldPlace{conntrack.BeforeSNAT, conntrack.BeforeConfirm} {
			if c := q.chainOf(place{family, where}); where == h.Where {
				q.rules.AddRule(&nftables.Rule{Table: c.Table, Chain: c, Exprs: match(h)})
			}
		}
	}
	if err := q.rules.Flush(); err != nil {
		return fmt.Errorf("hold packets in %s: %w", q.name, err)
	}
	return nil
}

// familiesOf are those of the hold's addresses; without any, all that the namespace speaks.
func (q *Queue) familiesOf(h conntrack.Hold) []nftables.TableFamily {
	switch {
	case h.Src.Is6() || h.Dst.Is6():
		return []nftables.TableFamily{nftables.TableFamilyIPv6}
	case h.Src.Is4() || h.Dst.Is4():
		return []nftables.TableFamily{nftables.TableFamilyIPv4}
	}
	return q.speaks
}

// chainOf is the chain at a place; the first use makes it.
func (q *Queue) chainOf(p place) *nftables.Chain {
	if c := q.chain[p]; c != nil {
		return c
	}
	t := q.rules.AddTable(&nftables.Table{Family: p.family, Name: tableName})
	priority := beforeConfirm
	if p.where == conntrack.BeforeSNAT {
		priority = beforeSNAT
	}
	c := q.rules.AddChain(&nftables.Chain{Name: string(p.where), Table: t, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPostrouting, Priority: &priority})
	q.chain[p] = c
	return c
}

// Unhold sends nothing to the queue any more. The chains stay: with any hook that goes the kernel drops all that waits
// in the namespace (nf_queue_nf_hook_drop). So it does with those of conntrack, if no other rule needs tracking.
func (q *Queue) Unhold() error {
	for _, c := range q.chain {
		q.rules.FlushChain(c)
	}
	if err := q.rules.Flush(); err != nil {
		return fmt.Errorf("end holding packets in %s: %w", q.name, err)
	}
	return nil
}

// match is a rule that sends the packets of a hold to the queue. They are known by what conntrack says of them; a
// packet without an entry is none of them (nft_ct_get_eval ends the rule).
func match(h conntrack.Hold) []expr.Any {
	var out []expr.Any
	is := func(key expr.CtKey, value []byte) {
		out = append(out, &expr.Ct{Key: key, Register: 1}, // the original direction is number 0
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: value})
	}
	if h.New {
		none := []byte{0, 0, 0, 0}
		out = append(out, &expr.Ct{Key: expr.CtKeySTATE, Register: 1},
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(expr.CtStateBitNEW), Xor: none},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: none})
	}
	if h.Proto != 0 {
		is(expr.CtKeyPROTOCOL, []byte{h.Proto})
	} else { // any: what has an entry
		out = append(out, &expr.Ct{Key: expr.CtKeyPROTOCOL, Register: 1}, &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{255}})
	}
	if h.Src.IsValid() {
		is(expr.CtKeySRC, h.Src.AsSlice())
	}
	if h.Dst.IsValid() {
		is(expr.CtKeyDST, h.Dst.AsSlice())
	}
	if h.SrcPort != 0 {
		is(expr.CtKeyPROTOSRC, binary.BigEndian.AppendUint16(nil, h.SrcPort))
	}
	if h.DstPort != 0 {
		is(expr.CtKeyPROTODST, binary.BigEndian.AppendUint16(nil, h.DstPort))
	}
	return append(out, toQueue())
}

// toQueue is the NFQUEUE target of x_tables: some kernels lack nf_tables' own.
func toQueue() expr.Any {
	const revision, bypass = 3, 1
	info := make([]byte, 8) // struct xt_NFQ_info_v3: number, how many queues, flags; padded
	copy(info, binaryutil.NativeEndian.PutUint16(number))
	copy(info[2:], binaryutil.NativeEndian.PutUint16(1))
	copy(info[4:], binaryutil.NativeEndian.PutUint16(bypass))
	unknown := xt.Unknown(info)
	return &expr.Target{Name: "NFQUEUE", Rev: revision, Info: &unknown}
}
