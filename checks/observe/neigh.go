//go:build linux

package observe

import (
	"fmt"
	"net"
	"net/netip"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ctlab/internal/netns"
)

// NeighbourLost is the kernel's word that a neighbour was given up or deleted. At is when it was heard;
// the kernel acted before.
type NeighbourLost struct {
	At      int64
	Ifindex int
	Addr    netip.Addr
}

// Neighbours listens to a namespace's neighbour tables, of IPv4 and IPv6.
type Neighbours struct {
	updates chan netlink.NeighUpdate
	stop    chan struct{}
	done    sync.WaitGroup
	lost    []NeighbourLost
	mu      sync.Mutex
	err     error
}

// WatchNeighbours listens until Close.
func WatchNeighbours(ns *netns.NS) (*Neighbours, error) {
	w := &Neighbours{updates: make(chan netlink.NeighUpdate, 256), stop: make(chan struct{})}
	err := ns.Do(func() error {
		return netlink.NeighSubscribeWithOptions(w.updates, w.stop, netlink.NeighSubscribeOptions{ErrorCallback: w.fail})
	})
	if err != nil {
		return nil, fmt.Errorf("listen to neighbours in %s: %w", ns.Name(), err)
	}
	w.done.Add(1)
	go w.collect()
	return w, nil
}

func (w *Neighbours) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case <-w.stop: // closing the socket ends the library's reader with an error
	default:
		w.err = err
	}
}

// collect runs until the library closes the channel.
func (w *Neighbours) collect() {
	defer w.done.Done()
	for u := range w.updates {
		if u.Type != unix.RTM_DELNEIGH && u.State&unix.NUD_FAILED == 0 {
			continue
		}
		if a, ok := neighbour(u.Family, u.IP); ok && !a.IsMulticast() {
			w.lost = append(w.lost, NeighbourLost{Monotonic(), u.LinkIndex, a})
		}
	}
}

func neighbour(family int, ip net.IP) (a netip.Addr, ok bool) {
	switch family {
	case unix.AF_INET:
		return netip.AddrFromSlice(ip.To4())
	case unix.AF_INET6:
		return netip.AddrFromSlice(ip.To16())
	}
	return a, false
}

// Close ends the watch and returns what was lost, in the order of arrival.
func (w *Neighbours) Close() ([]NeighbourLost, error) {
	w.mu.Lock()
	close(w.stop)
	w.mu.Unlock()
	w.done.Wait()
	if w.err != nil {
		return w.lost, fmt.Errorf("listen to neighbours: %w", w.err)
	}
	return w.lost, nil
}
