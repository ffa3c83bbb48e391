//go:build linux

package kernel

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"ctlab/checks/conntrack"
	"ctlab/internal/netns"
)

// Heard is an event and when it was received; the kernel acted before that.
type Heard struct {
	At    int64
	Event conntrack.Event
}

// Listener collects the conntrack events of one namespace. The kernel makes events only for entries
// that were created while somebody listened (sysctl nf_conntrack_events=2), so open it first.
type Listener struct {
	fd, stop int // stop is an eventfd that ends the reader
	clock    Clock
	done     sync.WaitGroup
	reading  sync.Mutex // one reader at a time, so that the order of arrival is kept
	mu       sync.Mutex // what follows
	heard    []Heard
	lost     int
	err      error
}

// EventBuffer is the receive buffer asked for, in bytes, and EventCost what an event is accounted with. The
// kernel doubles the number that is asked for (sock_setsockopt in net/core/sock.c), so it holds about 13,000.
const (
	EventBuffer = 16 << 20
	EventCost   = 1280
)

// eventSize is more than the longest message about an entry, in bytes.
const eventSize = 64 << 10

// Listen subscribes to new, update and destroy events and collects them until Close.
func Listen(ns *netns.NS, clock Clock) (*Listener, error) {
	const groups = 1<<0 | 1<<1 | 1<<2 // NFNLGRP_CONNTRACK_NEW, _UPDATE, _DESTROY
	l := &Listener{clock: clock}
	err := ns.Do(func() (err error) {
		l.fd, err = openSocket(groups)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen to conntrack events in %s: %w", ns.Name(), err)
	}
	if err := unix.SetsockoptInt(l.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, EventBuffer/2); err != nil {
		// Refused in a user namespace: what net.core.rmem_max allows has to do, and an overflow is reported as loss.
		_ = unix.SetsockoptInt(l.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, EventBuffer/2)
	}
	l.stop, err = unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		unix.Close(l.fd)
		return nil, fmt.Errorf("listen to conntrack events in %s: %w", ns.Name(), err)
	}
	l.done.Add(1)
	go l.collect()
	return l, nil
}

// Buffer is the size of the receive buffer, in bytes; 0 if the kernel does not say.
func (l *Listener) Buffer() int {
	n, err := unix.GetsockoptInt(l.fd, unix.SOL_SOCKET, unix.SO_RCVBUF)
	if err != nil {
		return 0
	}
	return n
}

func (l *Listener) collect() {
	defer l.done.Done()
	buf := make([]byte, eventSize)
	for {
		fds := []unix.PollFd{{Fd: int32(l.fd), Events: unix.POLLIN}, {Fd: int32(l.stop), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); err != nil && err != unix.EINTR {
			l.fail(err)
			return
		}
		l.drain(buf)
		if fds[1].Revents != 0 {
			return
		}
	}
}

// drain reads what is queued.
func (l *Listener) drain(buf []byte) {
	l.reading.Lock()
	defer l.reading.Unlock()
	for {
		n, _, err := unix.Recvfrom(l.fd, buf, unix.MSG_DONTWAIT)
		switch err {
		case nil:
			l.add(buf[:n])
		case unix.EINTR:
		case unix.ENOBUFS: // reported before what is still queued
			l.mu.Lock()
			l.lost++
			l.mu.Unlock()
		case unix.EAGAIN:
			return
		default:
			l.fail(err)
			return
		}
	}
}

func (l *Listener) add(b []byte) {
	at := l.clock()
	err := eachMessage(b, func(h header, body []byte) error {
		ev, err := decodeEvent(h, body)
		if err != nil {
			return err
		}
		l.mu.Lock()
		l.heard = append(l.heard, Heard{at, ev})
		l.mu.Unlock()
		return nil
	})
	if err != nil {
		l.fail(err)
	}
}

// decodeEvent reads one event message (ctnetlink_conntrack_event).
func decodeEvent(h header, body []byte) (conntrack.Event, error) {
	kind := conntrack.Update
	switch {
	case h.typ&0xff == msgDelete:
		kind = conntrack.Destroy
	case h.flags&unix.NLM_F_CREATE != 0:
		kind = conntrack.New
	}
	e, err := decodeEntry(body)
	return conntrack.Event{Kind: kind, Entry: e}, err
}

func (l *Listener) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = errors.Join(l.err, err)
}

// Close ends the subscription and returns what was heard, in the order of arrival, and how often the
// kernel reported that events were lost.
func (l *Listener) Close() (heard []Heard, lost int, err error) {
	if _, err := unix.Write(l.stop, []byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
		return nil, 0, fmt.Errorf("stop listening to conntrack events: %w", err)
	}
	l.done.Wait()
	err = errors.Join(l.err, unix.Close(l.fd), unix.Close(l.stop))
	if err != nil {
		err = fmt.Errorf("listen to conntrack events: %w", err)
	}
	return l.heard, l.lost, err
}

// SoFar is what was heard until now, with all that the kernel has queued.
func (l *Listener) SoFar() []conntrack.Event {
	l.drain(make([]byte, eventSize))
	l.mu.Lock()
	defer l.mu.Unlock()
	events := make([]conntrack.Event, 0, len(l.heard))
	for _, h := range l.heard {
		events = append(events, h.Event)
	}
	return events
}
