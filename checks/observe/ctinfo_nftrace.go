//go:build linux

package observe

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"ctlab/checks/conntrack"
	"ctlab/internal/netns"
)

// Attributes of a trace record (enum nft_trace_attributes in include/uapi/linux/netfilter/nf_tables.h, 6.18). The kernel tells
// those of conntrack since Linux 6.16.
const (
	traceTable       = 1
	traceNetwork     = 8
	traceTransport   = 9
	traceIif         = 10
	traceCTDirection = 19
	traceCTState     = 21
)

// Messages of nf_tables, and the header of all messages of netfilter (struct nfgenmsg).
const (
	msgGeneration    = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWGEN
	msgGetGeneration = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN
	msgTrace         = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_TRACE
	generalHeader    = 4
)

// Bits of a packet's state (NF_CT_STATE_BIT and its like in include/uapi/linux/netfilter/nf_conntrack_common.h).
const (
	stateEstablished = 1 << 1
	stateRelated     = 1 << 2
	stateNew         = 1 << 3
	stateUntracked   = 1 << 6
)

// nftTraces records CTInfos by tracing of nf_tables: a chain of ours right behind nf_conntrack_in traces one rule of each packet. It works
// in user namespaces too.
type nftTraces struct {
	conn *netlink.Conn
	done chan struct{}
	seen []CTInfo
	lost int
	err  error
}

// traceBuffer is room for records that are not read yet, some 800 bytes each. An ordinary user gets net.core.rmem_max.
const traceBuffer = 1 << 24

// traceTableName is that of the table with our chains.
const traceTableName = "ctlab-ctinfo"

// openByTrace finds out in a namespace of its own whether this kernel tells the state of tracking.
func openByTrace(ns *netns.NS) (CTInfos, error) {
	if err := tryTrace(); err != nil {
		return nil, fmt.Errorf("nftrace: %w", err)
	}
	t, err := traceFrom(ns)
	if err != nil {
		return nil, fmt.Errorf("nftrace in %s: %w", ns.Name(), err)
	}
	return t, nil
}

func traceFrom(ns *netns.NS) (*nftTraces, error) {
	t := &nftTraces{done: make(chan struct{})}
	if err := t.open(ns); err != nil {
		return nil, errors.Join(err, t.release())
	}
	go t.collect()
	return t, nil
}

func (t *nftTraces) open(ns *netns.NS) (err error) {
	if t.conn, err = netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: ns.FD()}); err != nil {
		return err
	}
	if err := t.conn.SetReadBuffer(traceBuffer); err != nil {
		return err
	}
	if err := t.conn.JoinGroup(unix.NFNLGRP_NFTRACE); err != nil {
		return err
	}
	return addTraceChains(ns)
}

// addTraceChains makes the chains, which go with the namespace. The first rule of a chain switches tracing on, which tells of this very
// rule; the second switches it off, before the lab's own rules would be told of.
func addTraceChains(ns *netns.NS) error {
	rules, err := nftables.New(nftables.WithNetNSFd(ns.FD()))
	if err != nil {
		return err
	}
	table := rules.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: traceTableName})
	for name, hook := range map[string]*nftables.ChainHook{"arrived": nftables.ChainHookPrerouting, "sent": nftables.ChainHookOutput} {
		priority := nftables.ChainPriority(behindWatch)
		c := rules.AddChain(&nftables.Chain{Name: name, Table: table, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: &priority})
		for _, on := range []byte{1, 0} {
			rules.AddRule(&nftables.Rule{Table: table, Chain: c, Exprs: []expr.Any{
				&expr.Immediate{Register: 1, Data: []byte{on}},
				&expr.Meta{Key: expr.MetaKeyNFTRACE, SourceRegister: true, Register: 1},
			}})
		}
	}
	if err := rules.Flush(); err != nil {
		return fmt.Errorf("make chains: %w", err)
	}
	return nil
}

// tryTrace sends a datagram in a namespace of its own, where a rule about states keeps tracking on.
func tryTrace() (err error) {
	ns, err := netns.New("nftrace")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ns.Close()) }()
	t, err := traceFrom(ns)
	if err != nil {
		return err
	}
	err = sendTracked(ns)
	seen, _, closing := t.Close()
	if err = errors.Join(err, closing); err != nil {
		return err
	}
	for _, c := range seen {
		if c.Packet.Proto == conntrack.UDP && c.CT == "new" {
			return nil
		}
	}
	return errors.New("this kernel does not trace the state of tracking (before Linux 6.16)")
}

func sendTracked(ns *netns.NS) error {
	if err := ns.Do(setLoopbackUp); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	rules, err := nftables.New(nftables.WithNetNSFd(ns.FD()))
	if err != nil {
		return err
	}
	table := rules.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "ctlab-track"})
	c := rules.AddChain(&nftables.Chain{Name: "track", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter})
	rules.AddRule(&nftables.Rule{Table: table, Chain: c, Exprs: []expr.Any{&expr.Ct{Key: expr.CtKeySTATE, Register: 1}}})
	if err := rules.Flush(); err != nil {
		return fmt.Errorf("keep tracking on: %w", err)
	}
	conn, err := ns.DialUDP(netip.AddrPort{}, netip.MustParseAddrPort("127.0.0.1:9"), nil)
	if err != nil {
		return err
	}
	_, err = conn.Write([]byte("x"))
	return errors.Join(err, conn.Close())
}

// setLoopbackUp sets lo up in the namespace of the calling thread.
func setLoopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req)
}

// Source implements CTInfos.
func (t *nftTraces) Source() string { return "nftrace" }

// Where the buffer was full the answer for which Close asks is lost; then it is asked again.
const (
	answerTime = 100 * time.Millisecond
	askTimes   = 20
)

// ask asks for something, whose answer stands behind all records that the kernel has written.
func (t *nftTraces) ask() error {
	_, err := t.conn.Send(netlink.Message{Header: netlink.Header{Type: netlink.HeaderType(msgGetGeneration), Flags: netlink.Request}, Data: make([]byte, generalHeader)})
	return errors.Join(err, t.conn.SetReadDeadline(time.Now().Add(answerTime)))
}

// collect reads until the answer comes for which Close asked.
func (t *nftTraces) collect() {
	defer close(t.done)
	for asked := 1; ; {
		messages, err := t.conn.Receive()
		now := Monotonic()
		for _, m := range messages {
			if uint16(m.Header.Type) == msgGeneration {
				return
			}
			t.record(m, now)
		}
		switch {
		case errors.Is(err, unix.ENOBUFS): // how many, the kernel does not say
			t.lost++
		case errors.Is(err, os.ErrDeadlineExceeded) && asked < askTimes:
			asked++
			t.err = t.ask()
		case err != nil:
			t.err = err
		}
		if t.err != nil {
			return
		}
	}
}

// record takes a trace record of ours. The kernel gives it no time: At is when it was read.
func (t *nftTraces) record(m netlink.Message, at int64) {
	if uint16(m.Header.Type) != msgTrace || len(m.Data) < generalHeader {
		return
	}
	attrs, err := netlink.UnmarshalAttributes(m.Data[generalHeader:])
	if err != nil {
		t.lost++
		return
	}
	c, ours, ok := decodeTrace(attrs)
	switch {
	case !ours || reportsListeners(attrs):
	case !ok:
		t.lost++
	case !c.Packet.IsDiscovery(): // which is never tracked
		c.At = at
		t.seen = append(t.seen, c)
	}
}

// decodeTrace reads a record; ours says that it is of one of our chains. The record has at most 40 bytes of the IP header and 20 of what
// follows: of an ICMP error not what it quotes.
func decodeTrace(attrs []netlink.Attribute) (c CTInfo, ours, ok bool) {
	const wholeSize = 1<<16 + 40
	var network, transport []byte
	var state uint32
	reply := false
	for _, a := range attrs {
		switch {
		case a.Type == traceTable:
			ours = string(a.Data) == traceTableName+"\x00"
		case a.Type == traceNetwork:
			network = a.Data
		case a.Type == traceTransport:
			transport = a.Data
		case a.Type == traceIif && len(a.Data) == 4:
			c.Ifindex = int(binary.BigEndian.Uint32(a.Data))
		case a.Type == traceCTState && len(a.Data) == 4:
			state = binary.BigEndian.Uint32(a.Data)
		case a.Type == traceCTDirection && len(a.Data) == 1:
			reply = a.Data[0] != 0
		}
	}
	c.CT = traceCT(state, reply)
	head := append(network[:len(network):len(network)], transport...)
	c.Packet, ok = decodeHead(head, wholeSize)
	return c, ours, ok
}

// reportsListeners reports whether the record is of a packet with options for each hop, to a group on the link: a report of multicast
// listeners, whose extension header does not fit in.
func reportsListeners(attrs []netlink.Attribute) bool {
	const nextHeader, destination, options = 6, 24, 0
	i := slices.IndexFunc(attrs, func(a netlink.Attribute) bool { return a.Type == traceNetwork })
	if i < 0 || len(attrs[i].Data) < destination+16 {
		return false
	}
	b := attrs[i].Data
	return b[0]>>4 == 6 && b[nextHeader] == options && netip.AddrFrom16([16]byte(b[destination:destination+16])).IsLinkLocalMulticast()
}

// traceCT is the ctinfo of a state; without one nothing is attached.
func traceCT(state uint32, reply bool) string {
	switch {
	case state&stateUntracked != 0:
		return "untracked"
	case state&stateNew != 0:
		return "new"
	case state&stateRelated != 0 && reply:
		return "related-reply"
	case state&stateRelated != 0:
		return "related"
	case state&stateEstablished != 0 && reply:
		return "established-reply"
	case state&stateEstablished != 0:
		return "established"
	}
	return "invalid"
}

// Close implements CTInfos.
func (t *nftTraces) Close() (seen []CTInfo, lost int, err error) {
	err = t.ask()
	<-t.done
	if err = errors.Join(err, t.err, t.release()); err != nil {
		err = fmt.Errorf("nftrace: %w", err)
	}
	return t.seen, t.lost, err
}

func (t *nftTraces) release() error {
	if t.conn == nil {
		return nil
	}
	return t.conn.Close()
}
