// Package traffic holds the clients: they ask from fixed source ports and say what became of each
// request. A client is given a dial function and knows no namespaces.
package traffic

import (
	"context"
	"errors"
	"fmt"
	"net"
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
	Answered    Class = "answered"
	Timeout     Class = "timeout"
	Refused     Class = "refused"     // ICMP port unreachable
	Unreachable Class = "unreachable" // another ICMP error
	Failed      Class = "error"
)

// Dial opens a UDP socket with the local port given, 0 for a fresh one, connected to the server.
type Dial func(localPort uint16) (*net.UDPConn, error)

// DNS asks one question over UDP from one socket, which it keeps for life.
type DNS struct {
	conn     *net.UDPConn
	question string
	identity string // owner of the TXT record that says who answered
	timeout  time.Duration
	id       uint16
}

// NewDNS opens the client's socket. identity is the owner name of the TXT record by which servers say who
// they are.
func NewDNS(dial Dial, localPort uint16, question, identity string, timeout time.Duration) (*DNS, error) {
	conn, err := dial(localPort)
	if err != nil {
		return nil, fmt.Errorf("open client socket: %w", err)
	}
	return &DNS{conn: conn, question: question, identity: identity, timeout: timeout}, nil
}

// Local is the socket's address and port.
func (c *DNS) Local() netip.AddrPort {
	return c.conn.LocalAddr().(*net.UDPAddr).AddrPort()
}

// Close ends the client.
func (c *DNS) Close() error { return c.conn.Close() }

// Attempt is one request and what became of it.
type Attempt struct {
	Class Class
	By    string        // who answered
	Took  time.Duration // from sending to the outcome
	Err   error         // for Failed: why
}

// Ask sends one query and waits for its answer, an error, or the end of the timeout. Answers to earlier
// queries are passed over. Cancelling ctx ends the wait.
func (c *DNS) Ask(ctx context.Context) Attempt {
	c.id++
	m := new(dns.Msg)
	m.SetQuestion(c.question, dns.TypeA)
	m.Id = c.id
	query, err := m.Pack()
	if err != nil {
		return Attempt{Class: Failed, Err: fmt.Errorf("pack query: %w", err)}
	}
	start := time.Now()
	if err := c.conn.SetReadDeadline(start.Add(c.timeout)); err != nil {
		return Attempt{Class: Failed, Err: err}
	}
	stop := context.AfterFunc(ctx, func() { _ = c.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := c.conn.Write(query); err != nil {
		return Attempt{Class: classify(err), Took: time.Since(start), Err: err}
	}
	by, err := c.await()
	a := Attempt{Class: Answered, By: by, Took: time.Since(start), Err: err}
	if err != nil {
		a.Class = classify(err)
	}
	if ctx.Err() != nil && a.Class == Timeout {
		a.Class, a.Err = Failed, ctx.Err()
	}
	return a
}

func (c *DNS) await() (by string, err error) {
	buf := make([]byte, 4096)
	for {
		n, err := c.conn.Read(buf)
		if err != nil {
			return "", err
		}
		m := new(dns.Msg)
		if m.Unpack(buf[:n]) != nil || m.Id != c.id || !m.Response {
			continue
		}
		return c.answeredBy(m), nil
	}
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
	}
	return Failed
}
