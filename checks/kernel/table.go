//go:build linux

// Package kernel reads and writes the kernel's conntrack table through ctnetlink. It is the only
// reader of the kernel's table in ctlab, with its own codec: every attribute is decoded, what is absent
// is not zero, and what is unknown is kept.
package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"ctlab/checks/conntrack"
	"ctlab/internal/netns"
)

const (
	nfnlSubsysCtnetlink = 1

	msgNew         = 0
	msgGet         = 1
	msgDelete      = 2
	msgGetStatsCPU = 4
	msgGetStats    = 5

	statsGlobalEntries = 1
)

// ErrInterrupted is returned by Dump when the table was resized under it (NLM_F_DUMP_INTR): entries
// may be missing or doubled, and the dump has to be made again.
var ErrInterrupted = errors.New("dump interrupted")

// Clock gives the time that reads and writes are marked with, in nanoseconds of CLOCK_MONOTONIC.
type Clock func() int64

// Moment is the time within which the kernel answered, from just before the call to just after it.
type Moment struct{ From, To int64 }

// Read is an entry and when it was read.
type Read struct {
	Moment
	Entry conntrack.Entry
}

// Table is a connection to the conntrack table of one namespace. It is not safe for concurrent use.
type Table struct {
	fd    int
	seq   uint32
	buf   []byte
	clock Clock
}

// Open connects to the table of a namespace.
func Open(ns *netns.NS, clock Clock) (*Table, error) {
	t := &Table{fd: -1, buf: make([]byte, 64<<10), clock: clock}
	err := ns.Do(func() (err error) {
		t.fd, err = openSocket(0)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open ctnetlink in %s: %w", ns.Name(), err)
	}
	return t, nil
}

// openSocket makes a connected netfilter netlink socket that gives up on an answer after two seconds.
func openSocket(groups uint32) (int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return -1, err
	}
	err = errors.Join(
		unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}),
		unix.Connect(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 2}))
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// Close ends the connection.
func (t *Table) Close() error { return unix.Close(t.fd) }

// Get reads the entry that has the tuple in either direction, in the default zone. found is false if there is
// none (or none that has not expired; the read itself evicts an expired one).
func (t *Table) Get(tuple conntrack.Tuple) (r Read, found bool, err error) {
	return t.GetKey(conntrack.Key{Tuple: tuple})
}

// GetKey is Get in a zone: that of the direction in which the entry has the tuple.
func (t *Table) GetKey(k conntrack.Key) (r Read, found bool, err error) {
	m := t.request(msgGet, 0, k.Tuple)
	encodeKey(m, k)
	r.Moment, err = t.ask(m, func(body []byte) (err error) {
		r.Entry, err = decodeEntry(body)
		found = err == nil
		return err
	})
	if errors.Is(err, unix.ENOENT) {
		return r, false, nil
	}
	if err == nil && !found {
		err = errors.New("no entry in the answer")
	}
	if err != nil {
		return r, false, fmt.Errorf("get %s: %w", k.Line(), err)
	}
	return r, true, nil
}

// Dump reads the whole table. Each Read has its own Moment: the kernel fills batch k of a dump in the
// call before the one that returns it. The Moment returned is that of the whole dump.
func (t *Table) Dump() ([]Read, Moment, error) {
	t.seq++
	m := newMessage(msgGet, unix.NLM_F_REQUEST|unix.NLM_F_DUMP, t.seq, unix.AF_UNSPEC)
	whole := Moment{From: t.clock()}
	if _, err := unix.Write(t.fd, m.bytes()); err != nil {
		return nil, whole, fmt.Errorf("dump: %w", err)
	}
	batch := Moment{whole.From, t.clock()} // the first batch is made inside send
	var reads []Read
	interrupted := false
	for {
		next := Moment{From: t.clock()}
		n, err := t.recv()
		if err != nil {
			return nil, whole, fmt.Errorf("dump: %w", err)
		}
		next.To = t.clock()
		done, intr, err := t.messages(t.buf[:n], func(body []byte) error {
			e, err := decodeEntry(body)
			reads = append(reads, Read{batch, e})
			return err
		})
		interrupted = interrupted || intr
		whole.To = next.To
		if err != nil {
			return nil, whole, fmt.Errorf("dump: %w", err)
		}
		if done && interrupted {
			return reads, whole, fmt.Errorf("dump: %w", ErrInterrupted)
		}
		if done {
			return reads, whole, nil
		}
		batch = next // receiving batch k makes the kernel fill batch k+1
	}
}

// Count is the number of entries in the namespace, including those that are not confirmed yet and
// those that have expired but were not collected.
func (t *Table) Count() (n uint32, at Moment, err error) {
	t.seq++
	m := newMessage(msgGetStats, unix.NLM_F_REQUEST|unix.NLM_F_ACK, t.seq, unix.AF_UNSPEC)
	at, err = t.ask(m, func(body []byte) error {
		a := attrs{rest: body[min(nfgenmsgLen, len(body)):]}
		for a.next() {
			if a.typ == statsGlobalEntries {
				n = a.u32()
			}
		}
		return a.err
	})
	if err != nil {
		return 0, at, fmt.Errorf("count: %w", err)
	}
	return n, at, nil
}

// Delete removes the entry with the original tuple and, if id is not 0, with that id. found is false
// if there is none.
func (t *Table) Delete(tuple conntrack.Tuple, id uint32) (found bool, at Moment, err error) {
	return t.DeleteKey(conntrack.Key{Tuple: tuple}, id)
}

// DeleteKey is Delete in a zone.
func (t *Table) DeleteKey(k conntrack.Key, id uint32) (found bool, at Moment, err error) {
	m := t.request(msgDelete, 0, k.Tuple)
	encodeKey(m, k)
	if id != 0 {
		m.u32(ctaID, id)
	}
	at, err = t.ask(m, nil)
	if errors.Is(err, unix.ENOENT) {
		return false, at, nil
	}
	if err != nil {
		return false, at, fmt.Errorf("delete %s: %w", k.Line(), err)
	}
	return true, at, nil
}

// Flush removes every entry.
func (t *Table) Flush() (Moment, error) {
	t.seq++
	m := newMessage(msgDelete, unix.NLM_F_REQUEST|unix.NLM_F_ACK, t.seq, unix.AF_UNSPEC)
	at, err := t.ask(m, nil)
	if err != nil {
		return at, fmt.Errorf("flush: %w", err)
	}
	return at, nil
}

// Creation is an entry to be made. The kernel computes the reply tuple from the NAT targets; without
// targets it is the plain inverse.
type Creation struct {
	Orig    conntrack.Tuple
	DNAT    *conntrack.Tuple // its Dst and DstPort are the target
	SNAT    *conntrack.Tuple // its Src and SrcPort are the source that is put in
	Status  conntrack.Status // seen-reply, assured
	Timeout uint32           // seconds
	Mark    uint32
}

// Create makes an entry (ctnetlink_create_conntrack). It fails with EEXIST if there is one.
func (t *Table) Create(c Creation) (Moment, error) {
	reply, ok := c.Orig.Inverse()
	if !ok {
		return Moment{}, fmt.Errorf("create %s: the tuple has no inverse", c.Orig.Line())
	}
	m := t.request(msgNew, unix.NLM_F_CREATE|unix.NLM_F_EXCL, c.Orig)
	encodeTuple(m, ctaTupleOrig, c.Orig)
	encodeTuple(m, ctaTupleReply, reply)
	m.u32(ctaStatus, uint32(c.Status|conntrack.Confirmed))
	m.u32(ctaTimeout, c.Timeout)
	if c.Mark != 0 {
		m.u32(ctaMark, c.Mark)
	}
	if c.DNAT != nil {
		encodeNAT(m, ctaNATDst, c.DNAT.Dst, c.DNAT.DstPort)
	}
	if c.SNAT != nil {
		encodeNAT(m, ctaNATSrc, c.SNAT.Src, c.SNAT.SrcPort)
	}
	at, err := t.ask(m, nil)
	if err != nil {
		return at, fmt.Errorf("create %s: %w", c.Orig.Line(), err)
	}
	return at, nil
}

// request begins a message about a tuple that wants an acknowledgement.
func (t *Table) request(typ, flags uint16, tuple conntrack.Tuple) *message {
	t.seq++
	family := uint8(unix.AF_INET)
	if !tuple.Src.Is4() {
		family = unix.AF_INET6
	}
	return newMessage(typ, unix.NLM_F_REQUEST|unix.NLM_F_ACK|flags, t.seq, family)
}

// ask sends a request and reads the answer up to the acknowledgement. ctnetlink works inside send, so
// the Moment is the time around it.
func (t *Table) ask(m *message, fn func(body []byte) error) (Moment, error) {
	return t.exchange(m.bytes(), fn)
}

// exchange is ask for one finished message or several, of which the last one is acknowledged.
func (t *Table) exchange(requests []byte, fn func(body []byte) error) (Moment, error) {
	at := Moment{From: t.clock()}
	_, err := unix.Write(t.fd, requests)
	at.To = t.clock()
	for err == nil {
		n, rerr := t.recv()
		if rerr != nil {
			return at, rerr
		}
		var done bool
		done, _, err = t.messages(t.buf[:n], fn)
		if done {
			break
		}
	}
	return at, err
}

func (t *Table) recv() (int, error) {
	for {
		n, _, err := unix.Recvfrom(t.fd, t.buf, unix.MSG_TRUNC)
		if err == unix.EINTR {
			continue
		}
		if err == nil && n > len(t.buf) {
			return 0, fmt.Errorf("answer of %d bytes, buffer of %d", n, len(t.buf))
		}
		return n, err
	}
}

// messages hands the bodies of the answer's messages to fn. done is true at the end of a dump or at an
// acknowledgement; intr if the kernel flagged the dump as interrupted.
func (t *Table) messages(b []byte, fn func(body []byte) error) (done, intr bool, err error) {
	err = eachMessage(b, func(h header, body []byte) error {
		if h.seq != t.seq {
			return nil // the rest of an answer that was given up
		}
		intr = intr || h.flags&unix.NLM_F_DUMP_INTR != 0
		switch h.typ {
		case unix.NLMSG_DONE:
			done = true
		case unix.NLMSG_ERROR:
			done = true
			return ackError(body)
		default:
			if fn != nil {
				return fn(body)
			}
		}
		return nil
	})
	return done, intr, err
}

// header is the part of struct nlmsghdr that readers need.
type header struct {
	typ, flags uint16
	seq        uint32
}

// eachMessage splits a datagram into its netlink messages.
func eachMessage(b []byte, fn func(h header, body []byte) error) error {
	for len(b) > 0 {
		if len(b) < unix.NLMSG_HDRLEN {
			return fmt.Errorf("netlink message: %d bytes left over", len(b))
		}
		n := int(binary.NativeEndian.Uint32(b))
		if n < unix.NLMSG_HDRLEN || n > len(b) {
			return fmt.Errorf("netlink message of %d bytes in %d", n, len(b))
		}
		h := header{binary.NativeEndian.Uint16(b[4:]), binary.NativeEndian.Uint16(b[6:]), binary.NativeEndian.Uint32(b[8:])}
		if err := fn(h, b[unix.NLMSG_HDRLEN:n]); err != nil {
			return err
		}
		b = b[min((n+3)&^3, len(b)):]
	}
	return nil
}

func ackError(body []byte) error {
	if len(body) < 4 {
		return errShort
	}
	if code := int32(binary.NativeEndian.Uint32(body)); code != 0 {
		return unix.Errno(-code)
	}
	return nil
}
