//go:build linux

// Package queue holds packets on their way through a namespace: rules of nf_tables send those of some flows to a queue
// of nfnetlink_queue, where they wait until each is let go or dropped. The libraries that other programs use for the
// latter are for filters that decide at once; here packets are kept in order and released one by one.
package queue

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"ctlab/internal/netns"
)

// Packet is a packet that waits.
type Packet struct {
	Bytes []byte // from the network header on
	id    uint32 // the kernel's number for it
}

// Queue is a namespace's queue of packets that wait. If whoever reads it goes away, the kernel drops what waits, and
// lets pass what comes later (the rules have the bypass flag).
type Queue struct {
	name   string // of the namespace
	speaks []Family
	conn   *netlink.Conn
	rules  *nftables.Conn
	chain  map[place]*nftables.Chain
	more   chan struct{}
	done   chan struct{}

	mu      sync.Mutex
	waiting []Packet
	err     error // why nothing more is read
}

// number of the queue; each namespace has numbers of its own.
const number = 0

// Messages and attributes of nfnetlink_queue (include/uapi/linux/netfilter/nfnetlink_queue.h).
const (
	msgPacket  = 0
	msgVerdict = 1
	msgConfig  = 2

	attrPacketHeader  = 1
	attrVerdictHeader = 2
	attrPayload       = 10

	configCommand = 1
	configParams  = 2
	configMaxLen  = 3

	commandBind = 1
	copyPacket  = 2
	copyAll     = 0xffff

	verdictDrop   = 0
	verdictAccept = 1
)

// maxLen is how many packets may wait; more are dropped by the kernel (nfqnl_enqueue_packet).
const maxLen = 4096

// readBuffer is room for packets that are not read yet.
const readBuffer = 1 << 21

// Family is a family of packets.
type Family = nftables.TableFamily

// The families that can be held.
const (
	IPv4 = nftables.TableFamilyIPv4
	IPv6 = nftables.TableFamilyIPv6
)

// Open makes the queue of a namespace, to which no rule sends anything yet. A hold without addresses is for the packets
// of the given families. (In a family that nobody speaks it would do harm: with its last rule there tracking goes, and
// with the hooks of that all that waits.)
func Open(ns *netns.NS, speaks ...Family) (*Queue, error) {
	q := &Queue{speaks: speaks, name: ns.Name(), chain: map[place]*nftables.Chain{}, more: make(chan struct{}, 1), done: make(chan struct{})}
	if err := q.open(ns); err != nil {
		if q.conn != nil {
			err = errors.Join(err, q.conn.Close())
		}
		return nil, fmt.Errorf("queue of %s: %w", ns.Name(), err)
	}
	go q.read()
	return q, nil
}

func (q *Queue) open(ns *netns.NS) (err error) {
	if q.rules, err = nftables.New(nftables.WithNetNSFd(ns.FD())); err != nil {
		return err
	}
	if q.conn, err = netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: ns.FD()}); err != nil {
		return err
	}
	if err := q.conn.SetReadBuffer(readBuffer); err != nil { // fewer packets fit then, which shows if it matters
		return err
	}
	bind := []byte{commandBind, 0, 0, 0}
	params := append(binary.BigEndian.AppendUint32(nil, copyAll), copyPacket)
	limit := binary.BigEndian.AppendUint32(nil, maxLen)
	for _, attr := range []netlink.Attribute{{Type: configCommand, Data: bind}, {Type: configParams, Data: params}, {Type: configMaxLen, Data: limit}} {
		m, err := message(msgConfig, netlink.Request|netlink.Acknowledge, attr)
		if err != nil {
			return err
		}
		if _, err := q.conn.Execute(m); err != nil {
			return fmt.Errorf("configure nfnetlink_queue: %w", err)
		}
	}
	return nil
}

// message is a message to the queue.
func message(kind uint16, flags netlink.HeaderFlags, attrs ...netlink.Attribute) (netlink.Message, error) {
	data, err := netlink.MarshalAttributes(attrs)
	general := []byte{unix.AF_UNSPEC, 0, number >> 8, number & 0xff} // struct nfgenmsg
	return netlink.Message{Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_QUEUE<<8 | kind), Flags: flags}, Data: append(general, data...)}, err
}

// read takes packets from the kernel until the queue is closed.
func (q *Queue) read() {
	defer close(q.done)
	for {
		messages, err := q.conn.Receive()
		if errors.Is(err, os.ErrClosed) || errors.Is(err, unix.EBADF) {
			return
		}
		q.mu.Lock()
		for _, m := range messages {
			if p, ok := packetOf(m); ok {
				q.waiting = append(q.waiting, p)
			}
		}
		q.err = errors.Join(q.err, err)
		q.mu.Unlock()
		select {
		case q.more <- struct{}{}:
		default: // it is known already
		}
		if err != nil && !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.ENOENT) {
			return
		}
	}
}

// packetOf reads a packet out of a message.
func packetOf(m netlink.Message) (p Packet, ok bool) {
	const general = 4
	if m.Header.Type != unix.NFNL_SUBSYS_QUEUE<<8|msgPacket || len(m.Data) < general {
		return p, false
	}
	attrs, err := netlink.UnmarshalAttributes(m.Data[general:])
	if err != nil {
		return p, false
	}
	for _, a := range attrs {
		switch {
		case a.Type == attrPacketHeader && len(a.Data) >= 4:
			p.id, ok = binary.BigEndian.Uint32(a.Data), true
		case a.Type == attrPayload:
			p.Bytes = a.Data
		}
	}
	return p, ok
}

// Waiting are the packets that wait, in the order of their arrival. The error says that some may be missing.
func (q *Queue) Waiting() ([]Packet, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err != nil {
		return nil, fmt.Errorf("queue of %s: %w", q.name, q.err)
	}
	return slices.Clone(q.waiting), nil
}

// More receives when more packets wait than before. It has one reader.
func (q *Queue) More() <-chan struct{} { return q.more }

// Release lets the nth packet of Waiting go on, counted from 1, or drops it. It goes the rest of its way within the
// call (nfqnl_recv_verdict in net/netfilter/nfnetlink_queue.c, 6.18).
func (q *Queue) Release(nth int, accept bool) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if nth < 1 || nth > len(q.waiting) {
		return fmt.Errorf("queue of %s: packet %d of %d that wait", q.name, nth, len(q.waiting))
	}
	verdict := uint32(verdictDrop)
	if accept {
		verdict = verdictAccept
	}
	header := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, verdict), q.waiting[nth-1].id)
	m, err := message(msgVerdict, netlink.Request, netlink.Attribute{Type: attrVerdictHeader, Data: header})
	if err == nil {
		_, err = q.conn.Send(m)
	}
	if err != nil {
		return fmt.Errorf("queue of %s: release packet %d: %w", q.name, nth, err)
	}
	q.waiting = slices.Delete(q.waiting, nth-1, nth)
	return nil
}

// Close ends the queue. What still waits is dropped by the kernel.
func (q *Queue) Close() error {
	err := q.conn.Close()
	<-q.done
	return err
}
