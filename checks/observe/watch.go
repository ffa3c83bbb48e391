//go:build linux

package observe

import (
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"ctlab/internal/netns"
)

// Place is a place among the hooks of a namespace.
type Place int

// The places that a Watch looks from. The first two stand right behind nf_conntrack_in, which is at priority -200; the others
// are the last of their hooks but for the confirmation.
const (
	Prerouting Place = iota
	LocalOut
	LocalIn
	Forward
	Postrouting
	places
)

// Priorities right behind NF_IP_PRI_CONNTRACK: of a Watch, and of what records CTInfos.
const (
	behindConntrack = -199
	behindWatch     = -198
)

// lastPriority is the last that a BPF link may have (bpf_nf_check_pf_and_hooks and nf_confirm, which has the very last;
// net/netfilter/nf_bpf_link.c, 6.18).
const lastPriority = math.MaxInt32 - 1

// Hooks by their numbers (enum nf_inet_hooks).
const (
	hookPrerouting link.NetfilterInetHook = iota
	hookLocalIn
	hookForward
	hookLocalOut
	hookPostrouting
)

// hook of the place, and the priority there.
func (p Place) hook() (hook link.NetfilterInetHook, priority int32) {
	switch p {
	case Prerouting:
		return hookPrerouting, behindConntrack
	case LocalIn:
		return hookLocalIn, lastPriority
	case Forward:
		return hookForward, lastPriority
	case LocalOut:
		return hookLocalOut, behindConntrack
	}
	return hookPostrouting, lastPriority
}

// Attachment is what skb->_nfct holds: what connection tracking thinks of a packet, and its entry.
type Attachment uint64

// CT is the packet's ctinfo, as the model names it: new, established, related, established-reply, related-reply,
// untracked, or invalid where nothing is attached, which is also so where tracking is off
// (enum ip_conntrack_info in include/uapi/linux/netfilter/nf_conntrack_common.h). An error of the namespace's own about a
// packet that is not tracked has a ctinfo, of nf_conntrack_attach, and no entry; rules take it for invalid (conntrack_mt in
// net/netfilter/xt_conntrack.c, 6.18).
func (a Attachment) CT() string {
	const untracked = 7
	if a.Conn() == 0 && a != untracked {
		return "invalid"
	}
	switch a & 7 {
	case 0:
		return "established"
	case 1:
		return "related"
	case 2:
		return "new"
	case 3:
		return "established-reply"
	case 4:
		return "related-reply"
	case untracked:
		return "untracked"
	}
	return fmt.Sprintf("ctinfo %d", a&7)
}

// Conn tells entries apart: it is the same for all packets of one, and 0 where there is none. The kernel gives the number of
// an entry that is gone to another.
func (a Attachment) Conn() uint64 { return uint64(a &^ 7) }

// Glance is what a Watch saw at a place.
type Glance struct {
	Count uint64     // packets that came by since the Watch was opened
	Last  Attachment // of the last of them
}

// BPF makes BPF programs that look at packets between the hooks of a namespace (netfilter links, Linux 6.4). They change
// nothing. It needs root.
type BPF struct {
	nfct, length, data int16 // in struct sk_buff: what connection tracking attached; bytes from data on; the network header
	in                 int16 // in struct nf_hook_state: the device
	ifindex            int16 // in struct net_device
}

// OpenBPF finds out what the programs need to know of this kernel. Whether it takes them, only trying tells.
func OpenBPF() (*BPF, error) {
	types, err := openTypes()
	if err != nil {
		return nil, err
	}
	defer func() { _ = types.close() }() // it was only read
	b := &BPF{}
	for _, f := range []struct {
		structure, field string
		offset           *int16
	}{
		{"sk_buff", "_nfct", &b.nfct}, {"sk_buff", "len", &b.length}, {"sk_buff", "data", &b.data},
		{"nf_hook_state", "in", &b.in}, {"net_device", "ifindex", &b.ifindex},
	} {
		if *f.offset, err = types.offset(f.structure, f.field); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// Watch counts the packets of a namespace, IPv4 and IPv6, at each Place, and keeps what was attached to the last one. The numbers
// are in memory that is shared with the kernel: to read them costs no system call.
type Watch struct {
	slots  *ebpf.Map
	memory []byte
	links  []link.Link
}

// slot is a Glance as the program writes it.
type slot struct{ count, last uint64 }

const slotSize = int(unsafe.Sizeof(slot{}))

// Watch watches a namespace from now on, until Close. It fails where this kernel or the privileges do not allow it, and where
// another one watches the same namespace.
func (b *BPF) Watch(ns *netns.NS) (*Watch, error) {
	w := &Watch{}
	if err := w.open(b, ns); err != nil {
		return nil, errors.Join(fmt.Errorf("watch %s by BPF: %w", ns.Name(), err), w.Close())
	}
	return w, nil
}

func (w *Watch) open(b *BPF, ns *netns.NS) (err error) {
	w.slots, err = ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: uint32(int(places) * slotSize), MaxEntries: 1, Flags: unix.BPF_F_MMAPABLE})
	if err != nil {
		return err
	}
	w.memory, err = unix.Mmap(w.slots.FD(), 0, unix.Getpagesize(), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map the numbers: %w", err)
	}
	for p := range places {
		if err := w.attach(b, ns, p); err != nil {
			return err
		}
	}
	return nil
}

// attach loads the program of a place. The links stay when it is closed, which they hold.
func (w *Watch) attach(b *BPF, ns *netns.NS, p Place) error {
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.Netfilter, AttachType: ebpf.AttachNetfilter, License: "GPL",
		Instructions: b.count(w.slots.FD(), int(p)*slotSize)})
	if err != nil {
		return err
	}
	defer prog.Close()
	hook, priority := p.hook()
	l, err := attachNetfilter(ns, prog, hook, priority)
	w.links = append(w.links, l...)
	return err
}

// count is the program: it notes what is attached to the packet, then counts it, and accepts.
func (b *BPF) count(slots, offset int) asm.Instructions {
	const skb, accept = 8, 1 // struct bpf_nf_ctx { state, skb }; NF_ACCEPT
	return asm.Instructions{
		asm.LoadMem(asm.R1, asm.R1, skb, asm.DWord),
		asm.LoadMem(asm.R2, asm.R1, b.nfct, asm.DWord),
		asm.LoadMapValue(asm.R1, slots, uint32(offset)),
		asm.StoreMem(asm.R1, 8, asm.R2, asm.DWord),
		asm.Mov.Imm(asm.R3, 1),
		asm.AddAtomic.Mem(asm.R1, asm.R3, asm.DWord, 0),
		asm.Mov.Imm(asm.R0, accept),
		asm.Return(),
	}
}

// attachNetfilter links a program in a namespace, for IPv4 and IPv6. The links go with their descriptors.
func attachNetfilter(ns *netns.NS, prog *ebpf.Program, hook link.NetfilterInetHook, priority int32) (links []link.Link, err error) {
	err = ns.Do(func() error {
		for _, family := range []link.NetfilterProtocolFamily{link.NetfilterProtoIPv4, link.NetfilterProtoIPv6} {
			l, err := link.AttachNetfilter(link.NetfilterOptions{Program: prog, ProtocolFamily: family, Hook: hook, Priority: priority})
			if err != nil {
				return fmt.Errorf("at hook %d, priority %d: %w", hook, priority, err)
			}
			links = append(links, l)
		}
		return nil
	})
	return links, err
}

// At is what was seen at a place until now.
func (w *Watch) At(p Place) Glance {
	s := (*slot)(unsafe.Pointer(&w.memory[int(p)*slotSize]))
	count := atomic.LoadUint64(&s.count)
	return Glance{Count: count, Last: Attachment(atomic.LoadUint64(&s.last))}
}

// Close ends the watch.
func (w *Watch) Close() error {
	var errs []error
	for _, l := range w.links {
		errs = append(errs, l.Close())
	}
	w.links = nil
	if w.memory != nil {
		errs = append(errs, unix.Munmap(w.memory))
		w.memory = nil
	}
	if w.slots != nil {
		errs = append(errs, w.slots.Close())
		w.slots = nil
	}
	return errors.Join(errs...)
}
