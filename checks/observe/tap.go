//go:build linux

// Package observe sees the packets at the doors of a namespace: the AF_PACKET tap, which works on any
// kernel, needs no rule and changes nothing; and the clock that turns its stamps into kernel ticks.
package observe

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"ctlab/checks/conntrack"
	"ctlab/checks/wire"
	"ctlab/internal/netns"
)

// Frame is what the tap saw: an IP packet, or an ARP or neighbour discovery message, on its way in or out of a device.
type Frame struct {
	At      int64 // CLOCK_MONOTONIC, ns; taken in the softirq that then runs the hooks
	Ifindex int
	Out     bool
	Packet  *conntrack.Packet // nil for a message about neighbours
	ARP     *ARP
	// Discovery is a packet by which IPv6 manages the link; ARP says it too if it is about a neighbour.
	Discovery *conntrack.Packet
	Raw       []byte // from the network header on
}

// ARP is an ARP message for IPv4, or for IPv6 a neighbour solicitation or, as a reply, an advertisement.
type ARP struct {
	Reply          bool
	Sender, Target netip.Addr
}

// The ring: frames of 2 KiB (a whole packet of up to the usual MTU with its header), 4 MiB in all.
const (
	frameSize = 2048
	blockSize = 1 << 18
	blocks    = 16
	frames    = blocks * blockSize / frameSize
)

// ErrClockStepped says that stamps taken before and after do not compare.
var ErrClockStepped = errors.New("the wall clock was stepped during the run")

// Tap is an AF_PACKET ring over all devices of a namespace. The ring (and not recvmsg) is used for its
// stamps: with no stamp on the packet the kernel takes one in tpacket_rcv, right before the hooks
// (net/packet/af_packet.c, 6.18), while recvmsg would stamp when the reader comes around.
type Tap struct {
	fd, stop int
	ring     []byte
	pos      int
	offset   int64 // wall clock minus monotonic
	done     sync.WaitGroup
	more     chan struct{}
	mu       sync.Mutex
	frames   []Frame
	err      error
}

// Open taps a namespace from now on, including devices that come later.
func Open(ns *netns.NS) (*Tap, error) {
	t, err := open(ns)
	if err != nil {
		return nil, err
	}
	t.done.Add(1)
	go t.collect()
	return t, nil
}

// open makes a tap from which nobody reads yet.
func open(ns *netns.NS) (*Tap, error) {
	t := &Tap{fd: -1, stop: -1, offset: WallOffset(), more: make(chan struct{}, 1)}
	err := ns.Do(func() (err error) {
		t.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		return err
	})
	if err == nil {
		err = t.start()
	}
	if err != nil {
		t.release()
		return nil, fmt.Errorf("tap %s: %w", ns.Name(), err)
	}
	return t, nil
}

// start maps the ring before it binds, so that nothing is received in between.
func (t *Tap) start() (err error) {
	if err = unix.SetsockoptInt(t.fd, unix.SOL_PACKET, unix.PACKET_VERSION, unix.TPACKET_V2); err != nil {
		return err
	}
	req := unix.TpacketReq{Block_size: blockSize, Block_nr: blocks, Frame_size: frameSize, Frame_nr: frames}
	if err = unix.SetsockoptTpacketReq(t.fd, unix.SOL_PACKET, unix.PACKET_RX_RING, &req); err != nil {
		return err
	}
	t.ring, err = unix.Mmap(t.fd, 0, blocks*blockSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	if t.stop, err = unix.Eventfd(0, unix.EFD_CLOEXEC); err != nil {
		return err
	}
	return unix.Bind(t.fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL)})
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

func (t *Tap) collect() {
	defer t.done.Done()
	for {
		fds := []unix.PollFd{{Fd: int32(t.fd), Events: unix.POLLIN | unix.POLLERR}, {Fd: int32(t.stop), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); err != nil && err != unix.EINTR {
			t.err = err
			return
		}
		t.drain()
		if fds[1].Revents != 0 {
			return
		}
	}
}

func (t *Tap) drain() {
	for {
		f := t.ring[t.pos*frameSize : (t.pos+1)*frameSize]
		h := (*unix.Tpacket2Hdr)(unsafe.Pointer(&f[0]))
		if atomic.LoadUint32(&h.Status)&unix.TP_STATUS_USER == 0 {
			return
		}
		if fr, ok := t.decode(h, f); ok {
			t.mu.Lock()
			t.frames = append(t.frames, fr)
			t.mu.Unlock()
			select {
			case t.more <- struct{}{}:
			default: // it is known already
			}
		}
		atomic.StoreUint32(&h.Status, unix.TP_STATUS_KERNEL)
		t.pos = (t.pos + 1) % frames
	}
}

// SoFar is what the tap has seen up to now, behind the first n frames, and how many there are in all.
func (t *Tap) SoFar(n int) (seen []Frame, all int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.frames[min(n, len(t.frames)):]), len(t.frames)
}

// More receives when the tap has seen more than before. It has one reader.
func (t *Tap) More() <-chan struct{} { return t.more }

// decode copies a frame out of the ring; ok is false for what is neither a packet that reaches the hooks nor a message
// about neighbours.
func (t *Tap) decode(h *unix.Tpacket2Hdr, f []byte) (fr Frame, ok bool) {
	const align = unix.TPACKET_ALIGNMENT
	ll := (*unix.RawSockaddrLinklayer)(unsafe.Pointer(&f[(unix.SizeofTpacket2Hdr+align-1)&^(align-1)]))
	fr.At = int64(h.Sec)*int64(time.Second) + int64(h.Nsec) - t.offset
	fr.Ifindex = int(ll.Ifindex)
	fr.Out = ll.Pkttype == unix.PACKET_OUTGOING
	if ll.Pkttype == unix.PACKET_OTHERHOST {
		return fr, false // ip_rcv drops it before the hooks
	}
	end := min(int(h.Net)+int(h.Snaplen), len(f))
	if int(h.Net) > end {
		return fr, false
	}
	fr.Raw = append([]byte(nil), f[h.Net:end]...)
	switch htons(ll.Protocol) {
	case unix.ETH_P_IP, unix.ETH_P_IPV6:
		// An offloaded checksum is not filled in yet; the kernel takes it as good.
		verified := h.Status&(unix.TP_STATUS_CSUMNOTREADY|unix.TP_STATUS_CSUM_VALID) != 0
		fr.ip(int(h.Len), verified)
	case unix.ETH_P_ARP:
		fr.ARP = decodeARP(fr.Raw)
	}
	return fr, fr.Packet != nil || fr.ARP != nil || fr.Discovery != nil
}

// ip reads an IP packet that was so long on the wire. Messages by which IPv6 manages the link are not among the packets:
// the kernel makes them by itself, and does not track them.
func (fr *Frame) ip(size int, verified bool) {
	var p conntrack.Packet
	var ok bool
	switch {
	case size > len(fr.Raw):
		p, ok = wire.DecodeCut(fr.Raw, size)
	case verified:
		p, ok = wire.DecodeUnverified(fr.Raw)
	default:
		p, ok = wire.Decode(fr.Raw)
	}
	if !ok {
		return
	}
	if p.IsDiscovery() {
		fr.Discovery, fr.ARP = &p, decodeND(&p, fr.Raw)
		return
	}
	fr.Packet = &p
}

// Close stops the tap and returns what it saw, in the order in which the kernel put it into the ring,
// and how many frames were lost because the ring was full. The socket goes some 30 ms later, which nobody waits for:
// closing a ring waits for two RCU grace periods (packet_release and packet_set_ring in net/packet/af_packet.c).
func (t *Tap) Close() (seen []Frame, lost int, err error) {
	if _, err := unix.Write(t.stop, []byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
		return nil, 0, fmt.Errorf("stop tap: %w", err)
	}
	t.done.Wait()
	t.drain()
	st, err := unix.GetsockoptTpacketStats(t.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err == nil {
		lost = int(st.Drops)
	}
	if moved := time.Duration(WallOffset() - t.offset).Abs(); moved > tolerance {
		err = errors.Join(err, fmt.Errorf("%w by %v", ErrClockStepped, moved))
	}
	go func() { _ = t.release() }() // what it can say, nobody could do anything about
	err = errors.Join(err, t.err)
	if err != nil {
		err = fmt.Errorf("tap: %w", err)
	}
	return t.frames, lost, err
}

func (t *Tap) release() error {
	var errs []error
	if t.ring != nil {
		errs = append(errs, unix.Munmap(t.ring))
		t.ring = nil
	}
	for _, fd := range []int{t.fd, t.stop} {
		if fd >= 0 {
			errs = append(errs, unix.Close(fd))
		}
	}
	return errors.Join(errs...)
}
