// Package netns makes Linux network namespaces and opens sockets in them. It is the only place in
// ctlab that enters a namespace.
//
// A namespace is held by a file descriptor and has no name, so nothing of it is left when the
// process ends, however it ends. There is no way to "be" in a namespace: [NS.Do] runs a function on
// a thread that is thrown away afterwards, and sockets keep the namespace in which they were made.
package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"syscall"

	"github.com/vishvananda/netns"
)

// init pins main to the process's first thread. Without it a throwaway goroutine of this package can
// land there; Go parks that thread instead of ending it, and the thread-group leader stays in a lab's
// namespace: /proc/self/net and everything that looks a process up by PID would then be wrong.
func init() { runtime.LockOSThread() }

// NS is a network namespace, held by a file descriptor.
type NS struct {
	name string // for messages only
	h    netns.NsHandle
}

// New makes an empty network namespace. The name appears in error messages and nowhere else.
func New(name string) (*NS, error) {
	ns := &NS{name: name}
	err := onThread(func() error {
		h, err := netns.New()
		ns.h = h
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("create namespace %s: %w", name, err)
	}
	return ns, nil
}

// Name is the name given to New.
func (ns *NS) Name() string { return ns.name }

// FD is the descriptor that holds the namespace; it is valid until Close.
func (ns *NS) FD() int { return int(ns.h) }

// Close lets the namespace go. The kernel frees it, with its links, rules and entries, when the last
// socket in it is closed as well.
func (ns *NS) Close() error {
	if !ns.h.IsOpen() {
		return nil
	}
	return ns.h.Close()
}

// Do runs fn on a fresh thread inside the namespace. fn must not start goroutines (they run outside)
// and must not look up host names (the resolver's goroutine would ask outside). Commands started by
// fn run inside; sockets that it opens stay inside. A panic in fn is raised again in the caller.
func (ns *NS) Do(fn func() error) error {
	return onThread(func() error {
		if err := netns.Set(ns.h); err != nil {
			return fmt.Errorf("enter namespace %s: %w", ns.name, err)
		}
		return fn()
	})
}

// Control sets options on a socket before it is bound, as in net.ListenConfig; nil sets none.
type Control func(network, address string, c syscall.RawConn) error

// ListenUDP opens an unconnected UDP socket at addr.
func (ns *NS) ListenUDP(addr netip.AddrPort, control Control) (*net.UDPConn, error) {
	var pc net.PacketConn
	err := ns.Do(func() (err error) {
		l := net.ListenConfig{Control: control}
		pc, err = l.ListenPacket(context.Background(), network("udp", addr), addr.String())
		return err
	})
	if err != nil {
		return nil, err
	}
	return pc.(*net.UDPConn), nil
}

// Listen opens a TCP listener at addr.
func (ns *NS) Listen(addr netip.AddrPort) (l *net.TCPListener, err error) {
	err = ns.Do(func() error {
		l, err = net.ListenTCP(network("tcp", addr), net.TCPAddrFromAddrPort(addr))
		return err
	})
	return l, err
}

// DialUDP opens a UDP socket bound to local and connected to remote. An invalid local address, or a
// local port of 0, leaves the choice to the kernel.
func (ns *NS) DialUDP(local, remote netip.AddrPort, control Control) (*net.UDPConn, error) {
	var c net.Conn
	err := ns.Do(func() (err error) {
		d := net.Dialer{Control: control}
		if local.Addr().IsValid() || local.Port() != 0 {
			d.LocalAddr = &net.UDPAddr{IP: local.Addr().AsSlice(), Port: int(local.Port())}
		}
		c, err = d.Dial(network("udp", remote), remote.String())
		return err
	})
	if err != nil {
		return nil, err
	}
	return c.(*net.UDPConn), nil
}

// network is that of the address's family, so that the unspecified IPv4 address makes no IPv6 socket.
func network(proto string, a netip.AddrPort) string {
	if a.Addr().Is4() {
		return proto + "4"
	}
	return proto + "6"
}

// WriteSysctl sets a sysctl below net. in the namespace; name is dotted, as sysctl(8) prints it.
// /proc/sys/net shows the namespace of the thread that opens the file.
func (ns *NS) WriteSysctl(name, value string) error {
	return ns.Do(func() error {
		return os.WriteFile(SysctlPath(name), []byte(value), 0)
	})
}

// ReadSysctls reads the named sysctls in the namespace, in one visit. A name that this kernel lacks
// is left out of the result.
func (ns *NS) ReadSysctls(names ...string) (map[string]string, error) {
	got := make(map[string]string, len(names))
	err := ns.Do(func() error {
		for _, n := range names {
			b, err := os.ReadFile(SysctlPath(n))
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			if err != nil {
				return err
			}
			got[n] = trimNewline(string(b))
		}
		return nil
	})
	return got, err
}

// SysctlPath is the file of a sysctl. As in sysctl(8), a slash in the name stands for a dot within
// one element (an interface name such as eth0/100).
func SysctlPath(name string) string {
	b := []byte(name)
	for i, c := range b {
		switch c {
		case '.':
			b[i] = '/'
		case '/':
			b[i] = '.'
		}
	}
	return "/proc/sys/" + string(b)
}

func trimNewline(s string) string {
	for len(s) > 0 && (s[len(s)-1] == '\n' || s[len(s)-1] == ' ') {
		s = s[:len(s)-1]
	}
	return s
}

// end says how a function on a throwaway thread ended.
type end struct {
	how string // "returned", "panicked" or "goexit"
	err error
	val any
}

// onThread runs fn on a fresh goroutine whose thread is never unlocked and so ends with it: there is
// nothing to restore and nothing to get wrong.
func onThread(fn func() error) error {
	ch := make(chan end, 1)
	go func() {
		runtime.LockOSThread()
		e := end{how: "goexit"}
		defer func() {
			if e.how == "goexit" {
				if v := recover(); v != nil {
					e = end{how: "panicked", val: v}
				}
			}
			ch <- e
		}()
		e = end{how: "returned", err: fn()}
	}()
	e := <-ch
	switch e.how {
	case "panicked":
		panic(e.val)
	case "goexit":
		panic("netns: runtime.Goexit inside Do (t.Fatal belongs outside)")
	}
	return e.err
}
