package fuzz

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ctlab/checks/conntrack"
	"ctlab/checks/kernel"
	"ctlab/checks/observe"
	"ctlab/checks/trace"
	"ctlab/checks/wire"
	"ctlab/internal/netns"
	"ctlab/internal/queue"
	"ctlab/topology"
)

// arena is a namespace in which a scenario is played, and the trace of it so far.
type arena struct {
	s       *Scenario
	outside *outside
	ticks   *observe.TickCounter
	ipt     topology.Iptables
	ip6t    topology.Iptables

	network topology.Network
	node    *topology.Node
	nl      *netlink.Handle
	table   *kernel.Table
	events  *kernel.Events
	queue   *queue.Queue // where packets are held
	bpf     *observe.BPF // nil: ctinfo is not looked at
	watch   *observe.Watch
	outer   []int          // the index of each wire's outer end
	inner   []netlink.Link // the node's end of each wire
	began   time.Time
	first   conntrack.Tick
	records []trace.Record
	played  []Played
	slot    int  // no other arena of the outside has it
	next    int  // operation
	counted bool // the inventory was taken
	out     []egress
	live    []conntrack.Key // of entries that were reported and not ended
	err     error
}

// egress is a packet that came out of a wire.
type egress struct {
	wire   int
	packet conntrack.Packet
}

func writeSysctl(name, value string) error {
	return os.WriteFile(netns.SysctlPath(name), []byte(value), 0)
}

// build makes the namespace with its wires, up to the rules.
func (a *arena) build(ctx context.Context) (err error) {
	a.began = time.Now()
	a.first = a.ticks.Now()
	if a.node, err = a.network.AddNode(a.s.Name()); err != nil {
		return err
	}
	if err := a.open(); err != nil {
		return err
	}
	for k := range a.s.Wires {
		if err := a.connect(k); err != nil {
			return fmt.Errorf("connect %s: %w", a.s.Wires[k].Device, err)
		}
	}
	if err := a.load(ctx, a.s.Rules, false); err != nil {
		return err
	}
	return a.awaitWires(ctx)
}

// awaitWires waits until the kernel has noticed that both ends of each wire are up: before, the outer one throws away what
// is sent (its queue is a noop until linkwatch_do_dev, which runs at most once a second; net/core/link_watch.c).
func (a *arena) awaitWires(ctx context.Context) error {
	for _, index := range a.outer {
		for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(2 * time.Millisecond) {
			l, err := a.outside.nl.LinkByIndex(index)
			if err != nil {
				return fmt.Errorf("find a wire's outer end: %w", err)
			}
			if l.Attrs().OperState == netlink.OperUp {
				break
			}
			if ctx.Err() != nil || time.Now().After(deadline) {
				return errors.Join(ctx.Err(), fmt.Errorf("wire %s is %s", l.Attrs().Name, l.Attrs().OperState))
			}
		}
	}
	return nil
}

func (a *arena) open() (err error) {
	if a.s.Six {
		if err := a.node.SpeakIPv6(); err != nil {
			return err
		}
	}
	err = a.node.NS.Do(func() error {
		if a.nl, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
			return fmt.Errorf("open rtnetlink: %w", err)
		}
		for _, s := range a.s.Sysctls {
			name, value, _ := strings.Cut(s, " ")
			if err := writeSysctl(name, value); err != nil {
				return fmt.Errorf("set %s: %w", name, err)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	tick := func() int64 { return int64(a.tick()) }
	if a.table, err = kernel.Open(a.node.NS, tick); err != nil {
		return err
	}
	if a.events, err = kernel.OpenEvents(a.node.NS); err != nil {
		return err
	}
	if a.bpf != nil {
		if a.watch, err = a.bpf.Watch(a.node.NS); err != nil {
			return err
		}
	}
	if a.s.Holds {
		family := queue.IPv4
		if a.s.Six {
			family = queue.IPv6
		}
		if a.queue, err = queue.Open(a.node.NS, family); err != nil {
			return err
		}
	}
	a.did(a.tick(), trace.Listen, "", "")
	for _, s := range a.s.Sysctls {
		a.did(a.tick(), trace.Sysctl, s, "")
	}
	return a.defaults()
}

// defaults records settings that are as the kernel has them.
func (a *arena) defaults() error {
	values, err := a.node.NS.ReadSysctls(a.s.Defaults...)
	if err != nil {
		return err
	}
	for _, name := range a.s.Defaults {
		a.did(a.tick(), trace.Sysctl, name+" "+values[name], "")
	}
	return nil
}

// connect makes a wire: a veth pair with its outer end in the outside. Who is behind it is known to the node for good,
// so that nobody has to be asked.
func (a *arena) connect(k int) error {
	w := a.s.Wires[k]
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = w.Device, nodeMAC[:]
	attrs.NumTxQueues, attrs.NumRxQueues = 1, 1
	veth := netlink.NewVeth(attrs)
	veth.PeerName, veth.PeerNamespace = fmt.Sprintf("%s-%d", w.Device, a.slot), netlink.NsFd(a.outside.ns.FD())
	veth.PeerNumTxQueues, veth.PeerNumRxQueues = 1, 1
	if err := a.nl.LinkAdd(veth); err != nil {
		return fmt.Errorf("add the link: %w", err)
	}
	inner, err := a.nl.LinkByName(w.Device)
	if err != nil {
		return err
	}
	outer, err := a.outside.nl.LinkByName(veth.PeerName)
	if err != nil {
		return err
	}
	a.inner, a.outer = append(a.inner, inner), append(a.outer, outer.Attrs().Index)
	if err := errors.Join(a.outside.nl.LinkSetUp(outer), a.nl.LinkSetUp(inner)); err != nil {
		return err
	}
	a.did(a.tick(), trace.Link, w.Device+" up", "")
	for _, p := range w.Node {
		flags := unix.IFA_F_NOPREFIXROUTE
		if a.s.Six {
			flags |= unix.IFA_F_NODAD
		}
		if err := a.nl.AddrAdd(inner, &netlink.Addr{IPNet: ipNet(p), Flags: flags}); err != nil {
			return fmt.Errorf("add address %s: %w", p, err)
		}
		a.did(a.tick(), trace.Address, w.Device+" "+p.String(), "")
	}
	return a.reach(k)
}

// reach adds the route to a wire's subnet, and its hosts as neighbours.
func (a *arena) reach(k int) error {
	w, index := a.s.Wires[k], a.inner[k].Attrs().Index
	subnet := w.Node[0].Masked()
	if err := a.nl.RouteAdd(&netlink.Route{LinkIndex: index, Dst: ipNet(subnet), Scope: netlink.SCOPE_LINK}); err != nil {
		return fmt.Errorf("add route %s: %w", subnet, err)
	}
	a.did(a.tick(), trace.Routing, subnet.String()+" dev "+w.Device, "")
	for _, h := range slices.Concat(w.Hosts, w.Silent) {
		n := &netlink.Neigh{LinkIndex: index, Family: a.family(), State: unix.NUD_PERMANENT, IP: h.AsSlice(), HardwareAddr: hostMAC[:]}
		if err := a.nl.NeighSet(n); err != nil {
			return fmt.Errorf("add neighbour %s: %w", h, err)
		}
		a.did(a.tick(), trace.ARP, w.Device+" "+h.String(), "")
	}
	return nil
}

func (a *arena) family() int {
	if a.s.Six {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// Close lets everything go.
func (a *arena) Close() error {
	var errs []error
	if a.table != nil {
		errs = append(errs, a.table.Close())
	}
	if a.events != nil {
		errs = append(errs, a.events.Close())
	}
	if a.watch != nil {
		errs = append(errs, a.watch.Close())
	}
	if a.queue != nil {
		errs = append(errs, a.queue.Close())
	}
	if a.nl != nil {
		a.nl.Close()
	}
	return errors.Join(append(errs, a.network.Close())...)
}

// tick is the kernel's tick since the arena began.
func (a *arena) tick() conntrack.Tick { return a.ticks.Now() - a.first }

// did records something that has just been done, and was begun in a tick.
func (a *arena) did(from conntrack.Tick, kind trace.Kind, args, text string) {
	a.record(conntrack.Span{From: from, To: a.tick()}, kind, args, text)
}

func (a *arena) record(span conntrack.Span, kind trace.Kind, args, text string) {
	at := time.Since(a.began).Round(time.Microsecond)
	a.records = append(a.records, trace.Record{At: at, Span: span, Kind: kind, Args: args, Text: text})
}

// plays notes that an operation is begun.
func (a *arena) plays(op Op) {
	a.played = append(a.played, Played{Op: op, At: time.Since(a.began).Round(time.Microsecond)})
}

// saw records an observation of now.
func (a *arena) saw(kind trace.Kind, args string) {
	a.record(conntrack.At(a.tick()), kind, args, "")
}

// load loads rules; the previous ones are replaced.
func (a *arena) load(ctx context.Context, text string, noflush bool) error {
	from, kind, ipt := a.tick(), trace.Rules, a.ipt
	if a.s.Six {
		kind, ipt = trace.Rules6, a.ip6t
	}
	if err := ipt.Load(ctx, a.node, text, noflush); err != nil {
		return err
	}
	how := "restore"
	if noflush {
		how = "noflush"
	}
	a.did(from, kind, how, text)
	return nil
}

// left notes a packet that came out of a wire.
func (a *arena) left(k int, ip []byte) {
	p, ok := wire.Decode(ip)
	if !ok {
		a.err = errors.Join(a.err, fmt.Errorf("what left on %s is no IP packet: %x", a.s.Wires[k].Device, ip))
		return
	}
	if p.IsDiscovery() { // the node's own stack tells what groups it listens to
		a.saw(trace.Discover, trace.PacketArgs(a.s.Wires[k].Device, &p))
		return
	}
	a.saw(trace.Left, trace.PacketArgs(a.s.Wires[k].Device, &p))
	a.out = append(a.out, egress{k, p})
}

// listen notes the events that the kernel has made.
func (a *arena) listen() error {
	return a.events.Poll(func(ev conntrack.Event) {
		a.saw(trace.Event, ev.String())
		switch ev.Kind {
		case conntrack.New:
			a.live = append(a.live, ev.Entry.Key())
		case conntrack.Destroy:
			if i := slices.Index(a.live, ev.Entry.Key()); i >= 0 {
				a.live = slices.Delete(a.live, i, i+1)
			}
		}
	})
}

// look reads what there is: each entry that is known of and whatever has one of the given tuples, how many entries
// there are, the counters, the events.
func (a *arena) look(tuples ...conntrack.Tuple) error {
	if err := a.listen(); err != nil {
		return err
	}
	keys := slices.Clone(a.live)
	for _, t := range tuples {
		if _, ok := t.Inverse(); ok { // else the kernel refuses to look
			keys = append(keys, conntrack.Key{Tuple: t})
		}
	}
	for _, k := range keys {
		if err := a.get(k); err != nil {
			return err
		}
	}
	n, at, err := a.table.Count()
	if err != nil {
		return err
	}
	a.record(span(at), trace.Count, fmt.Sprint(n), "")
	stats, at, err := a.table.Stats()
	if err != nil {
		return err
	}
	a.record(span(at), trace.Stats, trace.FormatStats(stats), "")
	return a.listen()
}

func span(m kernel.Moment) conntrack.Span {
	return conntrack.Span{From: conntrack.Tick(m.From), To: conntrack.Tick(m.To)}
}

func (a *arena) get(k conntrack.Key) error {
	r, found, err := a.table.GetKey(k)
	if err != nil {
		return err
	}
	a.record(span(r.Moment), trace.Get, k.Line(), "")
	if found {
		a.record(span(r.Moment), trace.Entry, r.Entry.String(), "")
	} else {
		a.record(span(r.Moment), trace.Absent, k.Line(), "")
	}
	return nil
}

// dump reads the table as a whole, and the rules' counters.
func (a *arena) dump() error {
	reads, at, err := a.table.Dump()
	if errors.Is(err, kernel.ErrInterrupted) {
		return nil // the machine's table was resized: this look says nothing
	}
	if err != nil {
		return err
	}
	a.record(span(at), trace.Dump, "", "")
	for _, r := range reads {
		a.record(span(r.Moment), trace.Entry, r.Entry.String(), "")
	}
	a.record(span(at), trace.Dumped, fmt.Sprint(len(reads)), "")
	return nil
}
