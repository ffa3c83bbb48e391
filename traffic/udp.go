//go:build linux

package traffic

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"
)

// UDP is a Socket of the kernel's.
type UDP struct {
	conn      *net.UDPConn
	to        netip.AddrPort
	connected bool
	reports   bool
}

// Connected is the socket of a client that connected it: the kernel delivers what the server itself sends,
// and nothing else.
func Connected(conn *net.UDPConn) *UDP {
	return &UDP{conn: conn, to: unmapped(conn.RemoteAddr()), connected: true}
}

// Unconnected is the socket of a client that did not connect it: it receives whatever is sent to its port,
// and is told of no ICMP error.
func Unconnected(conn *net.UDPConn, to netip.AddrPort) *UDP { return &UDP{conn: conn, to: to} }

// ReportErrors sets IP_RECVERR, or IPV6_RECVERR: the socket is told of every ICMP error about what it sent, also of those
// that are not fatal to a connected one, such as host unreachable (net/ipv4/udp.c, __udp4_lib_err; net/ipv6/udp.c,
// __udp6_lib_err).
func (u *UDP) ReportErrors() error {
	raw, err := u.conn.SyscallConn()
	if err != nil {
		return err
	}
	level, option := u.errors()
	var serr error
	if err := raw.Control(func(fd uintptr) { serr = syscall.SetsockoptInt(int(fd), level, option, 1) }); err != nil {
		return err
	}
	if serr != nil {
		return fmt.Errorf("set IP_RECVERR: %w", serr)
	}
	u.reports = true
	return nil
}

// errors are the level and the option by which a socket is told of errors, and by which it gets them.
func (u *UDP) errors() (level, option int) {
	if u.to.Addr().Is6() {
		return syscall.IPPROTO_IPV6, syscall.IPV6_RECVERR
	}
	return syscall.IPPROTO_IP, syscall.IP_RECVERR
}

// Local is the socket's own address and port.
func (u *UDP) Local() netip.AddrPort { return unmapped(u.conn.LocalAddr()) }

// Remote is the server that is asked.
func (u *UDP) Remote() netip.AddrPort { return u.to }

// IsConnected reports whether the kernel knows the server.
func (u *UDP) IsConnected() bool { return u.connected }

// SetReadDeadline ends a Receive; it may be called meanwhile.
func (u *UDP) SetReadDeadline(t time.Time) error { return u.conn.SetReadDeadline(t) }

// Close closes the socket.
func (u *UDP) Close() error { return u.conn.Close() }

// sendTries bounds how often a datagram is sent again because the error of an earlier one, which arrived
// meanwhile, took its place.
const sendTries = 3

// Send sends a datagram to the server. With ReportErrors an error about an earlier datagram, which the
// kernel would return in place of sending (sock_alloc_send_pskb in net/core/sock.c), is no error of this one.
func (u *UDP) Send(b []byte) error {
	for try := 1; ; try++ {
		u.drop()
		err := u.write(b)
		if err == nil || try == sendTries {
			return err
		}
		if r, ok := u.queued(); !ok || !errors.Is(err, r.Err) {
			return err
		}
	}
}

func (u *UDP) write(b []byte) (err error) {
	if u.connected {
		_, err = u.conn.Write(b)
	} else {
		_, err = u.conn.WriteToUDPAddrPort(b, u.to)
	}
	return err
}

// drop takes all errors out of the queue.
func (u *UDP) drop() {
	for ok := true; ok; {
		_, ok = u.queued()
	}
}

// Receive waits for a datagram. With ReportErrors an error is a *Reported.
func (u *UDP) Receive(b []byte) (n int, from netip.AddrPort, err error) {
	n, from, err = u.conn.ReadFromUDPAddrPort(b)
	if err == nil {
		return n, netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), nil
	}
	if r, ok := u.queued(); ok {
		return 0, netip.AddrPort{}, r
	}
	return 0, netip.AddrPort{}, err
}

// queued takes one error out of the socket's error queue: with it comes the datagram that it is about, as
// far as the ICMP message quotes it (net/ipv4/ip_sockglue.c, ip_recv_error).
func (u *UDP) queued() (*Reported, bool) {
	if !u.reports {
		return nil, false
	}
	raw, err := u.conn.SyscallConn()
	if err != nil {
		return nil, false
	}
	data, oob := make([]byte, 512), make([]byte, 512)
	n, oobn := 0, 0
	if cerr := raw.Control(func(fd uintptr) {
		n, oobn, _, _, err = syscall.Recvmsg(int(fd), data, oob, syscall.MSG_ERRQUEUE|syscall.MSG_DONTWAIT)
	}); cerr != nil || err != nil {
		return nil, false
	}
	messages, err := syscall.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return nil, false
	}
	level, option := u.errors()
	for _, m := range messages {
		if m.Header.Level == int32(level) && m.Header.Type == int32(option) {
			if errno, ok := extendedErrno(m.Data); ok {
				return &Reported{Err: errno, About: data[:n]}, true
			}
		}
	}
	return nil, false
}

// extendedErrno reads ee_errno of a struct sock_extended_err (include/uapi/linux/errqueue.h).
func extendedErrno(b []byte) (syscall.Errno, bool) {
	if len(b) < 4 {
		return 0, false
	}
	return syscall.Errno(binary.NativeEndian.Uint32(b)), true
}

func unmapped(a net.Addr) netip.AddrPort {
	ap := a.(*net.UDPAddr).AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
