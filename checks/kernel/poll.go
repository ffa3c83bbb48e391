//go:build linux

package kernel

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"ctlab/checks/conntrack"
	"ctlab/internal/netns"
)

// Events is a subscription to the conntrack events of one namespace that is read when its owner wants to. It is
// not safe for concurrent use. A Listener collects them all the time.
type Events struct {
	fd  int
	buf []byte
}

// ErrEventsLost says that the kernel had more events than the receive buffer holds (ENOBUFS).
var ErrEventsLost = errors.New("conntrack events were lost")

// OpenEvents subscribes to new, update and destroy events.
func OpenEvents(ns *netns.NS) (*Events, error) {
	const groups = 1<<0 | 1<<1 | 1<<2 // NFNLGRP_CONNTRACK_NEW, _UPDATE, _DESTROY
	e := &Events{buf: make([]byte, 16<<10)}
	err := ns.Do(func() (err error) {
		e.fd, err = openSocket(groups)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("subscribe to conntrack events in %s: %w", ns.Name(), err)
	}
	return e, nil
}

// Poll hands over the events that the kernel has queued, in the order in which it made them.
func (e *Events) Poll(fn func(conntrack.Event)) error {
	for {
		n, _, err := unix.Recvfrom(e.fd, e.buf, unix.MSG_DONTWAIT)
		switch err {
		case nil:
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			return nil
		case unix.ENOBUFS:
			return ErrEventsLost
		default:
			return fmt.Errorf("read conntrack events: %w", err)
		}
		err = eachMessage(e.buf[:n], func(h header, body []byte) error {
			ev, err := decodeEvent(h, body)
			if err == nil {
				fn(ev)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
}

// Close ends the subscription.
func (e *Events) Close() error { return unix.Close(e.fd) }
