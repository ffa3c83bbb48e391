//go:build linux

package observe

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// jiffies asks the kernel for its tick counter, by a BPF program of two instructions that is run for its
// result: the helper bpf_jiffies64 (Linux 5.6). It changes nothing, is attached to nothing, and goes with its
// descriptor. It needs root; elsewhere the coarse clock must do.
type jiffies struct {
	fd   int
	kind uint32
}

// Numbers of include/uapi/linux/bpf.h.
const (
	bpfProgLoad     = 5
	bpfProgTestRun  = 10
	socketFilter    = 1  // run with a packet, which it does not look at; some 5 us
	syscallProgram  = 31 // run without one (Linux 5.14); some 1.5 us
	helperJiffies64 = 118
	sleepable       = 1 << 4
)

type bpfLoad struct {
	kind, count         uint32
	code, license       uint64
	logLevel, logSize   uint32
	log                 uint64
	kernelVersion, flag uint32
}

type bpfRun struct {
	fd, result         uint32
	sizeIn, sizeOut    uint32
	in, out            uint64
	repeat, took       uint32
	ctxIn, ctxOut      uint32
	context, contextTo uint64
	flags, cpu         uint32
	batch, _           uint32
}

func openJiffies() (*jiffies, error) {
	var errs []error
	for _, kind := range []uint32{syscallProgram, socketFilter} {
		fd, err := loadJiffies(kind)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		j := &jiffies{fd, kind}
		if _, err = j.read(); err == nil {
			return j, nil
		}
		errs = append(errs, err, j.close())
	}
	return nil, errors.Join(errs...)
}

func loadJiffies(kind uint32) (int, error) {
	code := [...]uint64{0x85 | helperJiffies64<<32, 0x95} // call the helper; exit with what it returned
	license := [...]byte{'G', 'P', 'L', 0}                // the kernel offers the helper to such programs only
	a := bpfLoad{kind: kind, count: uint32(len(code)), code: address(unsafe.Pointer(&code)), license: address(unsafe.Pointer(&license))}
	if kind == syscallProgram {
		a.flag = sleepable
	}
	fd, _, errno := unix.Syscall(unix.SYS_BPF, bpfProgLoad, uintptr(unsafe.Pointer(&a)), unsafe.Sizeof(a))
	runtime.KeepAlive(&code)
	runtime.KeepAlive(&license)
	if errno != 0 {
		return -1, fmt.Errorf("load a BPF program that reads jiffies: %w", errno)
	}
	return int(fd), nil
}

func address(p unsafe.Pointer) uint64 { return uint64(uintptr(p)) }

// read is the lower half of jiffies.
func (j *jiffies) read() (uint32, error) {
	var packet [64]byte
	a := bpfRun{fd: uint32(j.fd)}
	if j.kind == socketFilter {
		a.sizeIn, a.in = uint32(len(packet)), address(unsafe.Pointer(&packet))
	}
	_, _, errno := unix.Syscall(unix.SYS_BPF, bpfProgTestRun, uintptr(unsafe.Pointer(&a)), unsafe.Sizeof(a))
	runtime.KeepAlive(&packet)
	if errno != 0 {
		return 0, fmt.Errorf("run a BPF program that reads jiffies: %w", errno)
	}
	return a.result, nil
}

func (j *jiffies) close() error { return unix.Close(j.fd) }
