//go:build linux

package queue

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"

	"ctlab/checks/conntrack"
	"ctlab/internal/netns"
)

// listener is a namespace with a socket on lo, and what sends to it.
type listener struct {
	ns   *netns.NS
	conn *net.UDPConn
}

const arrival = 5 * time.Second // more than a packet on lo ever takes

func listen(t *testing.T) listener {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("needs root")
		}
		t.Skip("needs root")
	}
	ns, err := netns.New("queue")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	err = ns.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		return errors.Join(err, netlink.LinkSetUp(lo))
	})
	if err != nil {
		t.Fatal(err)
	}
	track(t, ns)
	conn, err := ns.ListenUDP(netip.MustParseAddrPort("127.0.0.1:53"), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return listener{ns, conn}
}

// track keeps tracking on, as a lab's anchor rule does.
func track(t *testing.T, ns *netns.NS) {
	t.Helper()
	c, err := nftables.New(nftables.WithNetNSFd(ns.FD()))
	if err != nil {
		t.Fatal(err)
	}
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "anchor"})
	chain := c.AddChain(&nftables.Chain{Name: "anchor", Table: table})
	c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{&expr.Ct{Key: expr.CtKeySTATE, Register: 1}}})
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
}

// send sends a datagram from a port.
func (l listener) send(t *testing.T, port uint16, text string) {
	t.Helper()
	c, err := l.ns.DialUDP(netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port), netip.MustParseAddrPort("127.0.0.1:53"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
}

// receive is what comes next.
func (l listener) receive(t *testing.T) string {
	t.Helper()
	b := make([]byte, 100)
	l.conn.SetReadDeadline(time.Now().Add(arrival))
	n, err := l.conn.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n])
}

// await waits until so many packets wait.
func await(t *testing.T, q *Queue, n int) []Packet {
	t.Helper()
	over := time.After(arrival)
	for {
		waiting, err := q.Waiting()
		if err != nil {
			t.Fatal(err)
		}
		if len(waiting) == n {
			return waiting
		}
		select {
		case <-q.More():
		case <-over:
			t.Fatalf("%d packets wait, want %d", len(waiting), n)
		}
	}
}

// Packets that a hold names wait and are let go in any order or dropped; others pass, and all do when the hold is over.
func TestHoldAndRelease(t *testing.T) {
	for _, where := range []conntrack.HoldPlace{conntrack.BeforeSNAT, conntrack.BeforeConfirm} {
		t.Run(string(where), func(t *testing.T) {
			l := listen(t)
			q, err := Open(l.ns, IPv4)
			if err != nil {
				t.Fatal(err)
			}
			defer q.Close()
			if err := q.Hold(conntrack.Hold{Where: where, Proto: conntrack.UDP, SrcPort: 4000, Dst: netip.MustParseAddr("127.0.0.1"), New: true}); err != nil {
				t.Fatal(err)
			}
			l.send(t, 4000, "one")
			l.send(t, 4000, "two")
			l.send(t, 4000, "three")
			l.send(t, 4001, "other")
			if got := l.receive(t); got != "other" {
				t.Fatalf("%q passed", got)
			}
			for i, p := range await(t, q, 3) {
				if text := string(p.Bytes[28:]); text != []string{"one", "two", "three"}[i] {
					t.Errorf("number %d that waits is %q", i+1, text)
				}
			}
			if err := q.Release(2, false); err != nil {
				t.Fatal(err)
			}
			if err := q.Release(2, true); err != nil {
				t.Fatal(err)
			}
			if got := l.receive(t); got != "three" {
				t.Errorf("%q was released", got)
			}
			if err := q.Unhold(); err != nil {
				t.Fatal(err)
			}
			await(t, q, 1) // the first one goes on waiting
			l.send(t, 4000, "four")
			if got := l.receive(t); got != "four" {
				t.Errorf("%q came when the hold was over", got)
			}
			if err := q.Release(1, true); err != nil {
				t.Fatal(err)
			}
			if got := l.receive(t); got != "one" {
				t.Errorf("%q was released last", got)
			}
			if err := q.Release(1, true); err == nil {
				t.Error("a packet was released that does not wait")
			}
		})
	}
}

// When nobody reads the queue any more, packets pass although the rules stand.
func TestNobodyReads(t *testing.T) {
	l := listen(t)
	q, err := Open(l.ns, IPv4)
	if err != nil {
		t.Fatal(err)
	}
	if err := q.Hold(conntrack.Hold{Where: conntrack.BeforeConfirm}); err != nil {
		t.Fatal(err)
	}
	l.send(t, 4000, "held")
	await(t, q, 1)
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	l.send(t, 4001, "later")
	if got := l.receive(t); got != "later" {
		t.Errorf("%q passed", got)
	}
}
