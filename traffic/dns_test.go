//go:build linux

package traffic_test

import (
	"context"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/miekg/dns"

	"ctlab/traffic"
)

const patience = 5 * time.Second

// listen opens a UDP socket on loopback; port 0 is a free one.
func listen(t *testing.T, addr string) *net.UDPConn {
	t.Helper()
	c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(addr)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func at(c *net.UDPConn) netip.AddrPort { return c.LocalAddr().(*net.UDPAddr).AddrPort() }

// answer waits for one query and answers it from another socket, with its id or another one.
func answer(t *testing.T, asked, from *net.UDPConn, ids ...uint16) {
	t.Helper()
	buf := make([]byte, 512)
	n, client, err := asked.ReadFromUDPAddrPort(buf)
	if err != nil {
		t.Error(err)
		return
	}
	var q dns.Msg
	if err := q.Unpack(buf[:n]); err != nil {
		t.Error(err)
		return
	}
	for _, off := range ids {
		m := new(dns.Msg)
		m.SetReply(&q)
		m.Id += off
		b, err := m.Pack()
		if err != nil {
			t.Error(err)
			return
		}
		if _, err := from.WriteToUDPAddrPort(b, client); err != nil {
			t.Error(err)
		}
	}
}

func client(t *testing.T, s *traffic.UDP, timeout time.Duration) *traffic.DNS {
	t.Helper()
	c := traffic.NewDNS(s, "www.ctlab.test.", "id.server.", timeout)
	t.Cleanup(func() { c.Close() })
	return c
}

func dial(t *testing.T, to netip.AddrPort) *net.UDPConn {
	t.Helper()
	c, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// An answer from an address that was not asked reaches a socket that is not connected, and says so; a
// connected one never sees it. Answers to another query are passed over.
func TestWrongSource(t *testing.T) {
	asked, other := listen(t, "127.0.0.2:0"), listen(t, "127.0.0.3:0")
	c := client(t, traffic.Unconnected(listen(t, "127.0.0.1:0"), at(asked)), patience)
	go answer(t, asked, other, 1, 0)
	if a := c.Ask(context.Background()); a.Class != traffic.WrongSource || a.From != at(other) || a.Err == nil {
		t.Errorf("not connected: %+v", a)
	}
	go answer(t, asked, asked, 1, 0)
	if a := c.Ask(context.Background()); a.Class != traffic.Answered || a.From.IsValid() {
		t.Errorf("not connected, from the address that was asked: %+v", a)
	}
	c = client(t, traffic.Connected(dial(t, at(asked))), 200*time.Millisecond)
	go answer(t, asked, other, 0)
	if a := c.Ask(context.Background()); a.Class != traffic.Timeout {
		t.Errorf("connected: %+v", a)
	}
}

// Port unreachable reaches a socket that is connected, or that asked for reports.
func TestRefused(t *testing.T) {
	gone := listen(t, "127.0.0.2:0")
	to := at(gone)
	gone.Close()
	for _, test := range []struct {
		name               string
		connected, reports bool
		want               traffic.Class
	}{
		{"connected", true, false, traffic.Refused},
		{"connected, reports", true, true, traffic.Refused},
		{"not connected", false, false, traffic.Timeout},
		{"not connected, reports", false, true, traffic.Refused},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := traffic.Unconnected(listen(t, "127.0.0.1:0"), to)
			if test.connected {
				s = traffic.Connected(dial(t, to))
			}
			if test.reports {
				if err := s.ReportErrors(); err != nil {
					t.Fatal(err)
				}
			}
			timeout := patience
			if test.want == traffic.Timeout {
				timeout = 100 * time.Millisecond
			}
			c := client(t, s, timeout)
			for range 3 { // an error that is left in the queue would be taken for the next one's
				if a := c.Ask(context.Background()); a.Class != test.want {
					t.Errorf("%+v", a)
				}
			}
		})
	}
}

// late is a socket that is told of an error about an earlier query before its answer comes.
type late struct {
	*traffic.UDP
	reported bool
}

func (l *late) Receive(b []byte) (int, netip.AddrPort, error) {
	if !l.reported {
		l.reported = true
		return 0, netip.AddrPort{}, &traffic.Reported{Err: os.ErrPermission, About: []byte{0xff, 0xff, 1, 0}}
	}
	return l.UDP.Receive(b)
}

// An error that is about an earlier query says nothing about this one.
func TestLateError(t *testing.T) {
	asked := listen(t, "127.0.0.2:0")
	s := &late{UDP: traffic.Connected(dial(t, at(asked)))}
	c := traffic.NewDNS(s, "www.ctlab.test.", "id.server.", patience)
	defer c.Close()
	go answer(t, asked, asked, 0)
	if a := c.Ask(context.Background()); a.Class != traffic.Answered {
		t.Errorf("%+v", a)
	}
}
