//go:build linux

package live

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"ctlab/checks"
	"ctlab/checks/conntrack"
	"ctlab/checks/observe"
	frames "ctlab/checks/wire"
	"ctlab/lab"
	"ctlab/topology"
)

// wire is a link end without a stack: its namespace has a device without addresses, whose kernel neither answers ARP nor
// takes packets. ctlab answers ARP in its place, and puts packets on it.
type wire struct {
	spec        *lab.Node
	node        *tracked // the router at the other end
	socket      *os.File // AF_PACKET, bound to ARP
	index       int
	own, router net.HardwareAddr
	marks       uint16
	done        chan struct{}
}

// openWire opens a wire whose link stands.
func (g *Ground) openWire(spec *lab.Node, t *tracked) (err error) {
	w := &wire{spec: spec, node: t, done: make(chan struct{})}
	n := g.nodes[spec.Name]
	if w.own, w.index, err = n.HardwareAddr(topology.HostDevice); err != nil {
		return err
	}
	if w.router, _, err = t.node.HardwareAddr(spec.Port); err != nil {
		return err
	}
	err = n.NS.Do(func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return err
		}
		w.socket = os.NewFile(uintptr(fd), "wire "+spec.Name)
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: network(unix.ETH_P_ARP), Ifindex: w.index})
	})
	if err != nil {
		return fmt.Errorf("open wire %s: %w", spec.Name, err)
	}
	g.wires[spec.Name] = w
	go w.answer()
	return nil
}

func (w *wire) close() error {
	err := w.socket.Close()
	<-w.done
	return err
}

// network is a number in network order, as the kernel's structures have it.
func network(v uint16) uint16 { return v<<8 | v>>8 }

// Operations of ARP, and where things stand in a message for IPv4 over Ethernet behind its frame's header.
const (
	arpRequest = 1
	arpReply   = 2
	etherLen   = 14
	arpLen     = 28
)

// answer answers ARP requests for the wire's addresses until the socket is closed.
func (w *wire) answer() {
	defer close(w.done)
	b := make([]byte, 128)
	for {
		n, err := w.socket.Read(b)
		if errors.Is(err, unix.ENETDOWN) {
			continue // the link went down, and may come back
		}
		if err != nil {
			return
		}
		if n < etherLen+arpLen || w.spec.Silent || bytes.Equal(b[6:12], w.own) {
			continue
		}
		arp := b[etherLen:]
		target := netip.AddrFrom4([4]byte(arp[24:28]))
		if binary.BigEndian.Uint16(arp[6:]) != arpRequest || !slices.Contains(w.addresses(), target) {
			continue
		}
		sender := netip.AddrFrom4([4]byte(arp[14:18]))
		_ = w.send(unix.ETH_P_ARP, w.arp(arpReply, target, net.HardwareAddr(arp[8:14]), sender)) // it is asked again
	}
}

func (w *wire) addresses() []netip.Addr {
	out := []netip.Addr{w.spec.Address.Addr()}
	for _, a := range w.spec.Also {
		out = append(out, a.Addr())
	}
	return out
}

// arp is an ARP message of the wire's.
func (w *wire) arp(operation uint16, sender netip.Addr, to net.HardwareAddr, target netip.Addr) []byte {
	b := make([]byte, 0, arpLen)
	b = append(b, 0, 1, 8, 0, 6, 4) // Ethernet, IPv4
	b = binary.BigEndian.AppendUint16(b, operation)
	b = append(append(b, w.own...), sender.AsSlice()...)
	return append(append(b, to...), target.AsSlice()...)
}

// send sends a frame to the router.
func (w *wire) send(protocol uint16, payload []byte) error {
	frame := append(append(slices.Clone(w.router), w.own...), byte(protocol>>8), byte(protocol))
	frame = append(frame, payload...)
	raw, err := w.socket.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	err = raw.Write(func(fd uintptr) bool {
		sent = unix.Sendto(int(fd), frame, 0, &unix.SockaddrLinklayer{Protocol: network(protocol), Ifindex: w.index})
		return !errors.Is(sent, unix.EAGAIN)
	})
	return errors.Join(err, sent)
}

// unknownMAC stands in requests for what is asked for.
func unknownMAC() net.HardwareAddr { return make(net.HardwareAddr, 6) }

// announce lets each wire that answers ARP say that it is there, by asking for its gateway, so that the first packet to
// it need not wait.
func (g *Ground) announce() error {
	for _, n := range g.lab.Nodes {
		w := g.wires[n.Name]
		if w == nil || n.Silent {
			continue
		}
		for _, a := range w.addresses() {
			if err := w.send(unix.ETH_P_ARP, w.arp(arpRequest, a, unknownMAC(), n.Gateway)); err != nil {
				return fmt.Errorf("announce wire %s: %w", n.Name, err)
			}
		}
		if err := g.handled(context.Background(), w); err != nil {
			return err
		}
	}
	return nil
}

// Put puts a packet on a wire, and returns it as it was sent when the router has handled it.
func (g *Ground) Put(ctx context.Context, name string, c checks.Crafted) (conntrack.Packet, error) {
	p := c.Packet
	w := g.wires[name]
	if w == nil {
		return p, fmt.Errorf("%s is no wire", name)
	}
	if c.FreeID {
		g.lastID++
		p.ID = g.lastID
	}
	b := frames.Encode(&p)
	if b == nil {
		return p, fmt.Errorf("%s: it has addresses of two families", p.Line())
	}
	protocol := uint16(unix.ETH_P_IP)
	if p.Src.Is6() {
		protocol = unix.ETH_P_IPV6
	}
	if c.NoSum {
		dropSum(b)
	}
	g.calib.Settle()
	g.clock()
	err := w.send(protocol, b)
	g.clock()
	if errors.Is(err, unix.ENETDOWN) || errors.Is(err, unix.ENXIO) {
		return p, nil // it is lost, as the link is down
	}
	if err != nil {
		return p, err
	}
	return p, g.handled(ctx, w)
}

// dropSum takes the checksum out of a UDP packet.
func dropSum(b []byte) {
	const sumAt = 6
	header := 40
	if b[0]>>4 == 4 {
		header = int(b[0]&15) * 4
	}
	if len(b) >= header+sumAt+2 {
		b[header+sumAt], b[header+sumAt+1] = 0, 0
	}
}

// handledLimit is how long a router may take to handle what was sent to it. It takes some ten microseconds.
const handledLimit = 250 * time.Millisecond

// nobodys are addresses that nobody has (class E), by their first byte.
const nobodys = 240

// isMark reports whether an ARP message is one of the marks of handled.
func isMark(a *observe.ARP) bool {
	return a.Sender.IsUnspecified() && a.Target.Is4() && a.Target.As4()[0] == nobodys
}

// handled waits until the router has handled what was sent before. Frames that one processor is given are handled one
// after the other, so that behind each of them stands a mark that the router passes over: an ARP probe (without a
// sender's address, RFC 5227) for an address of the class that nobody has. When the tap has seen the mark come in,
// it has seen everything leave that left because of what was before. On a link that is down no mark arrives: then it
// ends with the limit.
func (g *Ground) handled(ctx context.Context, w *wire) error {
	w.marks++
	mark := netip.AddrFrom4([4]byte{nobodys, 0, byte(w.marks >> 8), byte(w.marks)})
	_, seen := w.node.tap.SoFar(math.MaxInt)
	if err := w.send(unix.ETH_P_ARP, w.arp(arpRequest, netip.IPv4Unspecified(), unknownMAC(), mark)); err != nil {
		return fmt.Errorf("mark the end on wire %s: %w", w.spec.Name, err)
	}
	return w.node.await(ctx, handledLimit, func() bool {
		fresh, all := w.node.tap.SoFar(seen)
		seen = all
		return slices.ContainsFunc(fresh, func(f observe.Frame) bool { return f.ARP != nil && f.ARP.Target == mark })
	})
}

// await asks again and again whether it is enough, whenever the tap has seen more, until the limit.
func (t *tracked) await(ctx context.Context, limit time.Duration, enough func() bool) error {
	over := time.NewTimer(limit)
	defer over.Stop()
	for !enough() {
		select {
		case <-t.tap.More():
		case <-over.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// Await waits until enough is true, or until the limit.
func (g *Ground) Await(ctx context.Context, node string, limit time.Duration, enough func() bool) error {
	t, err := g.table(node)
	if err != nil {
		return err
	}
	begin := g.Now()
	defer func() { g.waits += g.Now() - begin }()
	return t.await(ctx, limit, enough)
}

// Mark is how many frames came to a tracked node and left it so far.
func (g *Ground) Mark(node string) int {
	t := g.trackedNode(node)
	if t == nil {
		return 0
	}
	_, all := t.tap.SoFar(math.MaxInt)
	return all
}

// Passed are the packets that came to a tracked node and left it since a mark.
func (g *Ground) Passed(node string, mark int) []lab.Passed {
	t := g.trackedNode(node)
	if t == nil {
		return nil
	}
	devices := t.node.Devices()
	var out []lab.Passed
	seen, _ := t.tap.SoFar(mark)
	for _, f := range seen {
		if dev, ok := devices[f.Ifindex]; ok && f.Packet != nil {
			out = append(out, lab.Passed{At: g.since(f.At), Dev: dev, Out: f.Out, Packet: *f.Packet})
		}
	}
	return out
}
