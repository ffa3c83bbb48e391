//go:build linux

package dnsserver_test

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"

	"ctlab/dnsserver"
	"ctlab/traffic"
)

// A client with a fixed port is answered by who the server says it is; when the server is gone it is
// refused by the host, and the server knows who asked.
func TestAskAndStop(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", pc.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	srv, err := dnsserver.Start("pod-1", pc, l)
	if err != nil {
		t.Fatal(err)
	}
	to := pc.LocalAddr().(*net.UDPAddr)
	conn, err := net.DialUDP("udp4", nil, to)
	if err != nil {
		t.Fatal(err)
	}
	c := traffic.NewDNS(traffic.Connected(conn), "www.ctlab.test.", dnsserver.IdentityName, 5*time.Second)
	defer c.Close()
	for range 2 {
		if a := c.Ask(context.Background()); a.Class != traffic.Answered || a.By != "pod-1" {
			t.Fatalf("%+v", a)
		}
	}
	if log := srv.Log(); len(log) != 2 || log[0].From != netip.AddrPortFrom(c.Local().Addr(), c.Local().Port()) || log[0].Question != "www.ctlab.test." {
		t.Errorf("log %+v", log)
	}
	if err := srv.Stop(context.Background()); err != nil {
		t.Fatal(err)
	}
	if a := c.Ask(context.Background()); a.Class != traffic.Refused {
		t.Errorf("after the end: %+v", a)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if a := c.Ask(ctx); a.Class == traffic.Answered {
		t.Errorf("cancelled: %+v", a)
	}
}

// A server that is bound to any address answers from the one that the kernel's route chooses, which need
// not be the one that was asked.
func TestAnyAddress(t *testing.T) {
	pc, err := net.ListenPacket("udp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp4", pc.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	srv, err := dnsserver.Start("pod-1", pc, l)
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Stop(context.Background())
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	port := uint16(pc.LocalAddr().(*net.UDPAddr).Port)
	asked, primary := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), port), netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)
	c := traffic.NewDNS(traffic.Unconnected(conn, asked), "www.ctlab.test.", dnsserver.IdentityName, 5*time.Second)
	defer c.Close()
	if a := c.Ask(context.Background()); a.Class != traffic.WrongSource || a.From != primary || a.By != "pod-1" {
		t.Errorf("%+v", a)
	}
}

// All records of an answer are of the question's class: resolvers take anything else for malformed.
func TestOneClass(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", pc.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	srv, err := dnsserver.Start("pod-1", pc, l)
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Stop(context.Background())
	m := new(dns.Msg)
	m.SetQuestion("www.ctlab.test.", dns.TypeA)
	got, _, err := new(dns.Client).Exchange(m, pc.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	all := append(got.Answer, got.Extra...)
	for _, rr := range all {
		if rr.Header().Class != dns.ClassINET {
			t.Errorf("%s", rr)
		}
	}
	if len(all) != 2 {
		t.Errorf("%d records, want the answer and who gave it", len(all))
	}
}
