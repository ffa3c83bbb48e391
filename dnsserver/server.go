// Package dnsserver is the DNS server under test: it answers every question over UDP and TCP, says who
// it is, and logs what it was asked. It is given sockets and knows no namespaces.
package dnsserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"github.com/miekg/dns"
)

// IdentityName is the owner of the TXT record, in the additional section of each answer, that says who
// answered. The name is the one of RFC 4892. The class is not CHAOS, as there, but that of the question: resolvers take
// a message of two classes for malformed (dig warns of it).
const IdentityName = "id.server."

// Query is a question that reached the server.
type Query struct {
	From     netip.AddrPort
	Question string
	TCP      bool
}

// Server is a running DNS server.
type Server struct {
	identity string
	udp, tcp *dns.Server
	done     sync.WaitGroup
	mu       sync.Mutex
	log      []Query
}

// datagrams hides what kind of socket it is. To a *net.UDPConn the library adds control messages, by which
// it answers from the address that was asked, as few servers do; from a socket that is bound to any address
// it is the kernel that chooses the source of an answer, by its route.
type datagrams struct{ net.PacketConn }

// Start serves on the sockets, and closes them in the end. identity says who answers. It returns when
// both sockets are being read.
func Start(identity string, pc net.PacketConn, l net.Listener) (*Server, error) {
	s := &Server{identity: identity}
	ready := make(chan struct{}, 2)
	started := func() { ready <- struct{}{} }
	s.udp = &dns.Server{PacketConn: datagrams{pc}, Handler: s.handler(false), NotifyStartedFunc: started}
	s.tcp = &dns.Server{Listener: l, Handler: s.handler(true), NotifyStartedFunc: started}
	failed := make(chan error, 2)
	for _, srv := range []*dns.Server{s.udp, s.tcp} {
		s.done.Add(1)
		go func() {
			defer s.done.Done()
			if err := srv.ActivateAndServe(); err != nil {
				failed <- err
			}
		}()
	}
	for range 2 {
		select {
		case <-ready:
		case err := <-failed:
			return nil, errors.Join(fmt.Errorf("start DNS server: %w", err), s.Stop(context.Background()))
		}
	}
	return s, nil
}

// Stop closes the sockets at once, as a process that ends does.
func (s *Server) Stop(ctx context.Context) error {
	err := errors.Join(notRunning(s.udp.ShutdownContext(ctx)), notRunning(s.tcp.ShutdownContext(ctx)))
	s.done.Wait()
	return err
}

func notRunning(err error) error {
	if err != nil && err.Error() == "dns: server not started" {
		return nil
	}
	return err
}

// Log lists the questions so far, in the order of arrival.
func (s *Server) Log() []Query {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Query(nil), s.log...)
}

func (s *Server) handler(tcp bool) dns.HandlerFunc {
	return func(w dns.ResponseWriter, r *dns.Msg) {
		s.note(w, r, tcp)
		// A client that has gone away is its own affair.
		_ = w.WriteMsg(s.answer(r))
	}
}

func (s *Server) note(w dns.ResponseWriter, r *dns.Msg, tcp bool) {
	q := Query{TCP: tcp}
	if ap, err := netip.ParseAddrPort(w.RemoteAddr().String()); err == nil {
		q.From = ap
	}
	if len(r.Question) > 0 {
		q.Question = r.Question[0].Name
	}
	s.mu.Lock()
	s.log = append(s.log, q)
	s.mu.Unlock()
}

// ttl is short, as that of a cluster's own names.
const ttl = 5

// answer gives an A or AAAA record of a documentation address (RFC 5737, RFC 3849) for every question of such a type, and
// says who answered.
func (s *Server) answer(r *dns.Msg) *dns.Msg {
	m := new(dns.Msg)
	m.SetReply(r)
	m.Authoritative = true
	for _, q := range r.Question {
		head := dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET, Ttl: ttl}
		switch q.Qtype {
		case dns.TypeA:
			m.Answer = append(m.Answer, &dns.A{Hdr: head, A: net.IPv4(192, 0, 2, 1)})
		case dns.TypeAAAA:
			m.Answer = append(m.Answer, &dns.AAAA{Hdr: head, AAAA: net.ParseIP("2001:db8::1")})
		}
	}
	m.Extra = append(m.Extra, &dns.TXT{
		Hdr: dns.RR_Header{Name: IdentityName, Rrtype: dns.TypeTXT, Class: dns.ClassINET},
		Txt: []string{s.identity},
	})
	return m
}
