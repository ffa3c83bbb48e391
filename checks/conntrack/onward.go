package conntrack

import "slices"

// Track finds the packet that came in for each that leaves, by what neither forwarding nor NAT changes. K is what the
// caller calls a packet by. The zero value is ready.
type Track[K comparable] struct {
	open map[trackKey][]came[K]
}

// trackKey is the same of a packet on its way in and on its way out. IPv6 has no identification.
type trackKey struct {
	six    bool
	proto  uint8
	id     uint16
	length int
}

type came[K any] struct {
	name K
	p    Packet
}

func keyOf(p *Packet) trackKey {
	if p.Src.Is4() {
		return trackKey{proto: p.Proto, id: p.ID}
	}
	return trackKey{six: true, proto: p.Proto, length: p.Len}
}

// Came notes a packet that came in. It takes the place of one that cannot be told from it.
func (t *Track[K]) Came(name K, p *Packet) {
	if t.open == nil {
		t.open = map[trackKey][]came[K]{}
	}
	k := keyOf(p)
	others := slices.DeleteFunc(t.open[k], func(c came[K]) bool { return !k.six || c.p.Tuple() == p.Tuple() })
	t.open[k] = append(others, came[K]{name, *p})
}

// Left finds the packet that now leaves, and forgets it. Of several IPv6 packets it is the last that has the same source
// or destination: NAT seldom changes both ends.
func (t *Track[K]) Left(p *Packet) (name K, ok bool) {
	k := keyOf(p)
	for i, c := range slices.Backward(t.open[k]) {
		if !k.six || sameEnd(&c.p, p) {
			t.open[k] = slices.Delete(t.open[k], i, i+1)
			return c.name, true
		}
	}
	return name, false
}

// sameEnd reports whether one end of two packets is the same.
func sameEnd(a, b *Packet) bool {
	if a.ICMPType != b.ICMPType {
		return false
	}
	return a.Src == b.Src && a.SrcPort == b.SrcPort || a.Dst == b.Dst && a.DstPort == b.DstPort
}
