// Package traffic holds the clients: they ask from fixed source ports and say what became of each
// request. A client is given its socket and knows no namespaces.
package traffic

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"syscall"
	"time"

	"github.com/miekg/dns"
)

// Class is what became of a request.
type Class string

// The classes.
const (
	Answered     Class = "answered"
	Timeout      Class = "timeout"
	Refused      Class = "refused"       // ICMP port unreachable
	Unreachable  Class = "unreachable"   // another ICMP error, or no route
	NotPermitted Class = "not-permitted" // EPERM: the client's own node refused the packet
	WrongSource  Class = "wrong-source"  // an answer from an address that was not asked
	Failed       Class = "error"
)

// Socket is a client's UDP socket towards one server.
type Socket interface {
	// Send sends a datagram to the server.
	Send(b []byte) error
	// Receive waits for a datagram.
	Receive(b []byte) (n int, from netip.AddrPort, err error)
	// SetReadDeadline bounds Receive, also one that waits already.
	SetReadDeadline(t time.Time) error
	Local() netip.AddrPort
	Remote() netip.AddrPort // the server
	Close() error
}

// Reported is an error that the kernel reports with the datagram that it is about.
type Reported struct {
	Err   error
	About []byte // the beginning of the datagram, as far as it is known
}

// Error is the error alone.
func (r *Reported) Error() string { return r.Err.Error() }

// Unwrap gives the kernel's error number.
func (r *Reported) Unwrap() error { return r.Err }

// DNS asks one question over UDP from one socket, which it keeps for life. It is not safe for concurrent
// use.
type DNS struct {
	socket   Socket
	question string
	identity string // owner of the TXT record that says who answered
	timeout  time.Duration
	id       uint16
	aaaa     bool // questions are of type AAAA
}

// NewDNS makes a client of a socket, which it closes in the end. identity is the owner name of the TXT
// record by which servers say who they are.
func NewDNS(s Socket, question, identity string, timeout time.Duration) *DNS {
	return &DNS{socket: s, question: question, identity: identity, timeout: timeout}
}

// AskForAAAA lets questions be of type AAAA; else they are of type A.
func (c *DNS) AskForAAAA() { c.aaaa = true }

// Local is the socket's address and port.
func (c *DNS) Local() netip.AddrPort { return c.socket.Local() }

// Close ends the client.
func (c *DNS) Close() error { return c.socket.Close() }

// Attempt is one request and what became of it.
type Attempt struct {
	Class Class
	By    string         // who answered, by its own word
	From  netip.AddrPort // for WrongSource: the address that answered
	Took  time.Duration  // from sending to the outcome
	Err   error          // why, unless it was answered
}

// Ask sends one query and waits for its outcome; see Send and Wait.
func (c *DNS) Ask(ctx context.Context) Attempt { return c.Send(ctx).Wait() }

// Question is a query that was sent, or could not be.
type Question struct {
	client *DNS
	ctx    context.Context
	start  time.Time
	failed error // it could not be sent
	stop   func() bool
}

// Send sends one query. Wait must be called for it before the client sends another.
func (c *DNS) Send(ctx context.Context) *Question {
	c.id++
	q := &Question{client: c, ctx: ctx, start: time.Now()}
	m := new(dns.Msg)
	qtype := dns.TypeA
	if c.aaaa {
		qtype = dns.TypeAAAA
	}
	m.SetQuestion(c.question, qtype)
	m.Id = c.id
	query, err := m.Pack()
	if err != nil {
		q.failed = fmt.Errorf("pack query: %w", err)
		return q
	}
	if q.failed = c.socket.SetReadDeadline(q.start.Add(c.timeout)); q.failed != nil {
		return q
	}
	q.stop = context.AfterFunc(ctx, func() { _ = c.socket.SetReadDeadline(time.Unix(1, 0)) })
	q.failed = c.socket.Send(query)
	return q
}

// Wait waits for the answer, an error, or the end of the timeout. Answers to earlier queries, and errors
// that are reported about them, are passed over. Cancelling the context of Send ends the wait.
func (q *Question) Wait() Attempt {
	if q.stop != nil {
		defer q.stop()
	}
	a := Attempt{Err: q.failed}
	if q.failed != nil {
		a.Class = classify(q.failed)
	} else {
		a = q.client.outcome()
	}
	a.Took = time.Since(q.start)
	if q.ctx.Err() != nil && a.Class == Timeout {
		a.Class, a.Err = Failed, q.ctx.Err()
	}
	return a
}

// outcome is what becomes of the last query.
func (c *DNS) outcome() Attempt {
	m, from, err := c.await()
	if err != nil {
		return Attempt{Class: classify(err), Err: err}
	}
	a := Attempt{Class: Answered, By: c.answeredBy(m)}
	if from != c.socket.Remote() {
		a.Class, a.From = WrongSource, from
		a.Err = fmt.Errorf("asked %s, answered from %s", c.socket.Remote(), from)
	}
	return a
}

// await waits for the answer to the last query.
func (c *DNS) await() (*dns.Msg, netip.AddrPort, error) {
	buf := make([]byte, 4096)
	for {
		n, from, err := c.socket.Receive(buf)
		if err != nil && c.isLate(err) {
			continue
		}
		if err != nil {
			return nil, from, err
		}
		m := new(dns.Msg)
		if m.Unpack(buf[:n]) == nil && m.Id == c.id && m.Response {
			return m, from, nil
		}
	}
}

// isLate reports whether an error is about an earlier query than the last one.
func (c *DNS) isLate(err error) bool {
	var r *Reported
	return errors.As(err, &r) && len(r.About) >= 2 && binary.BigEndian.Uint16(r.About) != c.id
}

func (c *DNS) answeredBy(m *dns.Msg) string {
	for _, rr := range m.Extra {
		if t, ok := rr.(*dns.TXT); ok && t.Hdr.Name == c.identity && len(t.Txt) > 0 {
			return t.Txt[0]
		}
	}
	return ""
}

func classify(err error) Class {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return Timeout
	case errors.Is(err, syscall.ECONNREFUSED):
		return Refused
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return Unreachable
	case errors.Is(err, syscall.EPERM):
		return NotPermitted
	}
	return Failed
}
