//go:build linux

package kernel

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"ctlab/checks/conntrack"
)

// Bounds of Fill: what one message holds at most, so that a batch fits into the socket's send buffer, and how many entries
// the tuples of filler are for.
const (
	fillBatch = 256
	fillPorts = 60000
	fillFirst = 1024
	maxFill   = fillPorts * 250
)

// fillTuple is the original tuple of the nth filling entry: of addresses that are for tests of network devices (RFC 2544).
func fillTuple(n int) conntrack.Tuple {
	return conntrack.Tuple{Proto: conntrack.UDP,
		Src: netip.AddrFrom4([4]byte{198, 18, 0, byte(1 + n/fillPorts)}), SrcPort: uint16(fillFirst + n%fillPorts),
		Dst: netip.AddrFrom4([4]byte{198, 19, 0, 1}), DstPort: 9}
}

// Fill makes count ASSURED UDP entries of a timeout in seconds, of tuples that no packet has (198.18.0.0/15). Requests go in
// batches, of which the last one is acknowledged: an acknowledgement each would take most of the time.
func (t *Table) Fill(count int, timeout uint32) (Moment, error) {
	at := Moment{From: t.clock()}
	if count > maxFill {
		return at, fmt.Errorf("fill with %d entries: there are tuples for %d", count, maxFill)
	}
	for made := 0; made < count; {
		t.seq++
		var batch []byte
		for last := min(made+fillBatch, count); made < last; made++ {
			batch = append(batch, t.filling(made, timeout, made == last-1)...)
		}
		if _, err := t.exchange(batch, nil); err != nil {
			return at, fmt.Errorf("fill with %d entries, at %d: %w", count, made, err)
		}
	}
	at.To = t.clock()
	return at, nil
}

// filling is the request for one entry; all of a batch have one number, so that an error of any of them is heard.
func (t *Table) filling(n int, timeout uint32, acknowledged bool) []byte {
	flags := uint16(unix.NLM_F_REQUEST | unix.NLM_F_CREATE | unix.NLM_F_EXCL)
	if acknowledged {
		flags |= unix.NLM_F_ACK
	}
	orig := fillTuple(n)
	reply, _ := orig.Inverse()
	m := newMessage(msgNew, flags, t.seq, unix.AF_INET)
	encodeTuple(m, ctaTupleOrig, orig)
	encodeTuple(m, ctaTupleReply, reply)
	m.u32(ctaStatus, uint32(conntrack.SeenReply|conntrack.Assured|conntrack.Confirmed))
	m.u32(ctaTimeout, timeout)
	return m.bytes()
}
