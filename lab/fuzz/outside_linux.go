package fuzz

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ctlab/internal/netns"
)

// outside is the namespace with the other ends of all wires of a worker. Nothing in it has an address, so it
// answers nothing; one packet socket puts packets on wires, another one sees what comes out of them.
type outside struct {
	ns      *netns.NS
	nl      *netlink.Handle
	send    int
	receive int
	fence   fence
	buf     []byte
	sides   map[int]side // by the index of the outer end
}

// join says that an arena's wires end here.
func (o *outside) join(a *arena) {
	for k, index := range a.outer {
		o.sides[index] = side{a, k}
	}
}

// leave says that an arena is gone.
func (o *outside) leave(a *arena) {
	for _, index := range a.outer {
		delete(o.sides, index)
	}
}

// owner finds the wire with an outer end.
func (o *outside) owner(index int) (side, bool) {
	s, ok := o.sides[index]
	return s, ok
}

// fence is a veth pair with nothing behind it. What is sent through it comes out when the processor has done what
// it had queued before: packets are queued for the processor that sends them, and the worker stays on one.
type fence struct {
	in, out int // interface indexes
	socket  int
	buf     [64]byte
}

// The Ethernet addresses of the ends: the node's, and that of everybody behind a wire, which is not the wire's own,
// so that the outside's own stack looks away.
var (
	nodeMAC = [6]byte{2, 0, 0, 0, 1, 1}
	hostMAC = [6]byte{2, 0, 0, 0, 2, 2}
)

const (
	etherIPv4  = 0x0800
	etherIPv6  = 0x86dd
	etherFence = 0x88b5 // IEEE 802: local experiments
)

func htons(v uint16) uint16 { return v<<8 | v>>8 }

func newOutside(name string) (o *outside, err error) {
	o = &outside{send: -1, receive: -1, fence: fence{socket: -1}, buf: make([]byte, 64<<10), sides: map[int]side{}}
	if o.ns, err = netns.New(name); err != nil {
		return nil, err
	}
	if err := o.ns.Do(o.open); err != nil {
		return nil, errors.Join(fmt.Errorf("set up %s: %w", name, err), o.Close())
	}
	return o, nil
}

func (o *outside) open() (err error) {
	if err := quiet(); err != nil {
		return err
	}
	if o.nl, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return fmt.Errorf("open rtnetlink: %w", err)
	}
	if o.send, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
		return fmt.Errorf("open a packet socket: %w", err)
	}
	if o.receive, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(htons(unix.ETH_P_ALL))); err != nil {
		return fmt.Errorf("open a packet socket: %w", err)
	}
	err = errors.Join(
		unix.SetsockoptInt(o.receive, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		unix.SetsockoptInt(o.receive, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20))
	if err != nil {
		return fmt.Errorf("set up a packet socket: %w", err)
	}
	return o.openFence()
}

func (o *outside) openFence() error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "fence"
	veth := netlink.NewVeth(attrs)
	veth.PeerName = "beyond"
	if err := o.nl.LinkAdd(veth); err != nil {
		return fmt.Errorf("add the fence: %w", err)
	}
	for _, end := range []struct {
		name  string
		index *int
	}{{"fence", &o.fence.in}, {"beyond", &o.fence.out}} {
		l, err := o.nl.LinkByName(end.name)
		if err != nil {
			return fmt.Errorf("find the fence: %w", err)
		}
		*end.index = l.Attrs().Index
		if err := o.nl.LinkSetUp(l); err != nil {
			return fmt.Errorf("set the fence up: %w", err)
		}
	}
	s, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(htons(etherFence)))
	if err != nil {
		return fmt.Errorf("open the fence's socket: %w", err)
	}
	o.fence.socket = s
	return errors.Join(
		unix.Bind(s, &unix.SockaddrLinklayer{Protocol: htons(etherFence), Ifindex: o.fence.out}),
		unix.SetsockoptTimeval(s, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 2}))
}

// quiet keeps IPv6's own messages out of a namespace. It runs inside.
func quiet() error {
	for _, family := range []string{"all", "default"} {
		if err := writeSysctl("net.ipv6.conf."+family+".disable_ipv6", "1"); err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	return nil
}

func (o *outside) Close() error {
	var errs []error
	for _, fd := range []int{o.send, o.receive, o.fence.socket} {
		if fd >= 0 {
			errs = append(errs, unix.Close(fd))
		}
	}
	if o.nl != nil {
		o.nl.Close()
	}
	return errors.Join(append(errs, o.ns.Close())...)
}

// put sends an IP packet into the wire whose outer end has an index, and returns when the kernel has done with it.
func (o *outside) put(index int, ip []byte) error {
	frame := make([]byte, 14, 14+len(ip))
	copy(frame, nodeMAC[:])
	copy(frame[6:], hostMAC[:])
	kind := uint16(etherIPv4)
	if len(ip) > 0 && ip[0]>>4 == 6 {
		kind = etherIPv6
	}
	binary.BigEndian.PutUint16(frame[12:], kind)
	frame = append(frame, ip...)
	if err := unix.Sendto(o.send, frame, 0, &unix.SockaddrLinklayer{Ifindex: index, Halen: 6, Protocol: htons(kind)}); err != nil {
		return fmt.Errorf("put a packet on a wire: %w", err)
	}
	return o.settle()
}

// settle waits until the processor has done what it had queued. If it was behind, what it did may have queued more:
// then once again.
func (o *outside) settle() error {
	for {
		at, err := o.fence.pass(o.send)
		if err != nil || at {
			return err
		}
	}
}

// pass sends something through the fence. atOnce says that it had come out when sending returned.
func (f *fence) pass(socket int) (atOnce bool, err error) {
	var frame [60]byte
	copy(frame[:], hostMAC[:])
	copy(frame[6:], hostMAC[:])
	binary.BigEndian.PutUint16(frame[12:], etherFence)
	if err := unix.Sendto(socket, frame[:], 0, &unix.SockaddrLinklayer{Ifindex: f.in, Halen: 6, Protocol: htons(etherFence)}); err != nil {
		return false, fmt.Errorf("pass the fence: %w", err)
	}
	flags := unix.MSG_DONTWAIT
	for deadline := time.Now().Add(2 * time.Second); ; flags = 0 {
		_, _, err := unix.Recvfrom(f.socket, f.buf[:], flags)
		switch {
		case err == nil:
			return flags != 0, nil
		case err == unix.EINTR || err == unix.EAGAIN && time.Now().Before(deadline):
		default:
			return false, fmt.Errorf("pass the fence: %w", err)
		}
	}
}

// drain hands over the IP packets that came out of wires since the last time, with the index of the outer end.
func (o *outside) drain(fn func(index int, ip []byte)) error {
	for {
		n, from, err := unix.Recvfrom(o.receive, o.buf, unix.MSG_DONTWAIT)
		switch err {
		case nil:
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			return nil
		default:
			return fmt.Errorf("see what leaves: %w", err)
		}
		ll, ok := from.(*unix.SockaddrLinklayer)
		if !ok || n < 14 || ll.Ifindex == o.fence.out {
			continue
		}
		switch binary.BigEndian.Uint16(o.buf[12:]) {
		case etherIPv4, etherIPv6:
			fn(ll.Ifindex, o.buf[14:n])
		}
	}
}
