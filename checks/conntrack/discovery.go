package conntrack

// IsDiscovery reports whether the packet is one by which IPv6 manages a link: neighbour, router or multicast listener
// discovery. The kernel sends such packets by itself; they pass the hooks, where rules count them, but conntrack leaves
// them untracked (noct_valid_new in net/netfilter/nf_conntrack_proto_icmpv6.c, 6.18; 151 and 152 seen there).
func (p *Packet) IsDiscovery() bool {
	if p.Proto != ICMPv6 || p.Dst.Is4() {
		return false
	}
	return p.ICMPType >= 130 && p.ICMPType <= 136 || p.ICMPType == 143 || p.ICMPType == 151 || p.ICMPType == 152
}
