//go:build linux

package observe

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"ctlab/checks/conntrack"
	"ctlab/checks/wire"
	"ctlab/internal/netns"
)

// CTInfo is what connection tracking thought of a packet right behind nf_conntrack_in: at PREROUTING for one that
// arrived, or at LOCAL_OUT for one that the namespace sent itself.
type CTInfo struct {
	At      int64            // CLOCK_MONOTONIC, ns
	Ifindex int              // of the device on which the packet arrived; 0 at LOCAL_OUT
	Packet  conntrack.Packet // put together, if it came in fragments. Its L4 checksum was not checked; its quote may be missing
	CT      string           // new, established, related, established-reply, related-reply, untracked or invalid
}

// CTInfos records the CTInfo of all packets of a namespace, IPv4 and IPv6.
type CTInfos interface {
	// Source says by what means.
	Source() string
	// Close ends the recording. The CTInfos come in the order in which the kernel wrote them; lost is how many are missing
	// because they were not read in time.
	Close() (seen []CTInfo, lost int, err error)
}

// OpenCTInfos records a namespace from now on, by the first means that this kernel and the privileges allow. Its error says of each
// why it does not work.
func OpenCTInfos(ns *netns.NS) (CTInfos, error) {
	var refused []error
	for _, open := range []func(*netns.NS) (CTInfos, error){openByBPF, openByTrace} {
		c, err := open(ns)
		if err == nil {
			return c, nil
		}
		refused = append(refused, err)
	}
	return nil, errors.Join(refused...)
}

func openByBPF(ns *netns.NS) (CTInfos, error) {
	b, err := OpenBPF()
	if err != nil {
		return nil, fmt.Errorf("BPF: %w", err)
	}
	c, err := b.CTInfos(ns)
	if errors.Is(err, os.ErrPermission) { // the library's guess at the cause is wrong since Linux 5.11
		err = fmt.Errorf("BPF: %w", unix.EPERM)
	}
	return c, err
}

// decodeHead reads a packet of which so much was kept, and so much was there.
func decodeHead(head []byte, size int) (p conntrack.Packet, ok bool) {
	if size > len(head) {
		return wire.DecodeCut(head, size)
	}
	return wire.DecodeUnverified(head)
}
