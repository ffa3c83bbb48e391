//go:build linux

package observe

import (
	"errors"
	"fmt"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"

	"ctlab/internal/netns"
)

// look is a record of the ring as the program writes it.
type look struct {
	at, nfct        uint64
	ifindex, length uint32
	head            [headSize]byte
}

// headSize is how much of a packet is kept: enough for an ICMPv6 error with the headers that it quotes. It makes a record a
// multiple of 8 bytes.
const headSize = 104

// Sizes of the ring of looks, in bytes. Its reader is woken when so much waits, and at the end: to wake it for each packet costs more
// than to write the record.
const (
	ringSize = 1 << 20
	wakeSize = 1 << 18
)

// bpfLooks records CTInfos by two BPF netfilter links for each of IPv4 and IPv6.
type bpfLooks struct {
	ring, lost *ebpf.Map
	lostCount  []byte
	links      []link.Link
	reader     *ringbuf.Reader
	done       chan struct{}
	seen       []CTInfo
	err        error
}

// CTInfos records a namespace from now on.
func (b *BPF) CTInfos(ns *netns.NS) (CTInfos, error) {
	r := &bpfLooks{done: make(chan struct{})}
	if err := r.open(b, ns); err != nil {
		return nil, errors.Join(fmt.Errorf("BPF in %s: %w", ns.Name(), err), r.release())
	}
	go r.collect()
	return r, nil
}

func (r *bpfLooks) open(b *BPF, ns *netns.NS) (err error) {
	if r.ring, err = ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.RingBuf, MaxEntries: ringSize}); err != nil {
		return err
	}
	if r.lost, err = ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1, Flags: unix.BPF_F_MMAPABLE}); err != nil {
		return err
	}
	if r.lostCount, err = unix.Mmap(r.lost.FD(), 0, unix.Getpagesize(), unix.PROT_READ, unix.MAP_SHARED); err != nil {
		return fmt.Errorf("map a counter: %w", err)
	}
	if r.reader, err = ringbuf.NewReader(r.ring); err != nil {
		return err
	}
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.Netfilter, AttachType: ebpf.AttachNetfilter, License: "GPL",
		Instructions: b.look(r.ring.FD(), r.lost.FD())})
	if err != nil {
		return err
	}
	defer prog.Close()
	for _, hook := range []link.NetfilterInetHook{hookPrerouting, hookLocalOut} {
		l, err := attachNetfilter(ns, prog, hook, behindWatch)
		r.links = append(r.links, l...)
		if err != nil {
			return err
		}
	}
	return nil
}

// look is the program: it writes a record of the packet to the ring, or counts it as lost, and accepts it.
func (b *BPF) look(ring, lost int) asm.Instructions {
	const state, skb, accept = 0, 8, 1 // struct bpf_nf_ctx { state, skb }; NF_ACCEPT
	const noWakeup, forceWakeup, available = 1, 2, 0
	var l look
	at := func(field uintptr) int16 { return int16(field) }
	return asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMem(asm.R7, asm.R6, skb, asm.DWord),
		asm.LoadMapPtr(asm.R1, ring),
		asm.Mov.Imm(asm.R2, int32(unsafe.Sizeof(l))),
		asm.Mov.Imm(asm.R3, 0),
		asm.FnRingbufReserve.Call(),
		asm.JEq.Imm(asm.R0, 0, "full"),
		asm.Mov.Reg(asm.R8, asm.R0),
		asm.FnKtimeGetNs.Call(),
		asm.StoreMem(asm.R8, at(unsafe.Offsetof(l.at)), asm.R0, asm.DWord),
		asm.LoadMem(asm.R1, asm.R7, b.nfct, asm.DWord),
		asm.StoreMem(asm.R8, at(unsafe.Offsetof(l.nfct)), asm.R1, asm.DWord),
		// At LOCAL_OUT there is no device; a load from no address gives 0.
		asm.LoadMem(asm.R1, asm.R6, state, asm.DWord),
		asm.LoadMem(asm.R1, asm.R1, b.in, asm.DWord),
		asm.LoadMem(asm.R1, asm.R1, b.ifindex, asm.Word),
		asm.StoreMem(asm.R8, at(unsafe.Offsetof(l.ifindex)), asm.R1, asm.Word),
		asm.LoadMem(asm.R1, asm.R7, b.length, asm.Word),
		asm.StoreMem(asm.R8, at(unsafe.Offsetof(l.length)), asm.R1, asm.Word),
		asm.Mov.Reg(asm.R1, asm.R8),
		asm.Add.Imm(asm.R1, int32(unsafe.Offsetof(l.head))),
		asm.Mov.Imm(asm.R2, headSize),
		asm.LoadMem(asm.R3, asm.R7, b.data, asm.DWord),
		asm.FnProbeReadKernel.Call(),
		asm.LoadMapPtr(asm.R1, ring),
		asm.Mov.Imm(asm.R2, available),
		asm.FnRingbufQuery.Call(),
		asm.Mov.Imm(asm.R2, noWakeup),
		asm.JLT.Imm(asm.R0, wakeSize, "submit"),
		asm.Mov.Imm(asm.R2, forceWakeup),
		asm.Mov.Reg(asm.R1, asm.R8).WithSymbol("submit"),
		asm.FnRingbufSubmit.Call(),
		asm.Ja.Label("accept"),
		asm.LoadMapValue(asm.R1, lost, 0).WithSymbol("full"),
		asm.Mov.Imm(asm.R2, 1),
		asm.AddAtomic.Mem(asm.R1, asm.R2, asm.DWord, 0),
		asm.Mov.Imm(asm.R0, accept).WithSymbol("accept"),
		asm.Return(),
	}
}

// Source implements CTInfos.
func (r *bpfLooks) Source() string { return "BPF" }

func (r *bpfLooks) collect() {
	defer close(r.done)
	var rec ringbuf.Record
	for {
		if err := r.reader.ReadInto(&rec); err != nil {
			if !errors.Is(err, ringbuf.ErrFlushed) {
				r.err = err
			}
			return
		}
		if c, ok := decodeLook(rec.RawSample); ok {
			r.seen = append(r.seen, c)
		}
	}
}

func decodeLook(b []byte) (c CTInfo, ok bool) {
	if len(b) < int(unsafe.Sizeof(look{})) {
		return c, false
	}
	l := (*look)(unsafe.Pointer(&b[0]))
	p, ok := decodeHead(l.head[:min(int(l.length), headSize)], int(l.length))
	return CTInfo{At: int64(l.at), Ifindex: int(l.ifindex), Packet: p, CT: Attachment(l.nfct).CT()}, ok && !p.IsDiscovery()
}

// Close implements CTInfos.
func (r *bpfLooks) Close() (seen []CTInfo, lost int, err error) {
	errs := []error{r.closeLinks(), r.reader.Flush()}
	<-r.done
	lost = int(atomic.LoadUint64((*uint64)(unsafe.Pointer(&r.lostCount[0]))))
	errs = append(errs, r.err, r.release())
	if err = errors.Join(errs...); err != nil {
		err = fmt.Errorf("BPF: %w", err)
	}
	return r.seen, lost, err
}

func (r *bpfLooks) closeLinks() error {
	var errs []error
	for _, l := range r.links {
		errs = append(errs, l.Close())
	}
	r.links = nil
	return errors.Join(errs...)
}

func (r *bpfLooks) release() error {
	errs := []error{r.closeLinks()}
	if r.reader != nil {
		errs = append(errs, r.reader.Close())
	}
	if r.lostCount != nil {
		errs = append(errs, unix.Munmap(r.lostCount))
	}
	for _, m := range []*ebpf.Map{r.ring, r.lost} {
		if m != nil {
			errs = append(errs, m.Close())
		}
	}
	return errors.Join(errs...)
}
