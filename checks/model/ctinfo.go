package model

import "ctlab/checks/conntrack"

// CTInfo is what connection tracking thinks of a packet right behind nf_conntrack_in, at PREROUTING or LOCAL_OUT. Later on a
// clash may change it.
type CTInfo struct {
	Dev    string // on which the packet arrived; "" at LOCAL_OUT
	Packet conntrack.Packet
	Own    bool   // made by the namespace's own stack: the IP id is its own choice
	CT     string // ctinfo, or "untracked", or "invalid" where nothing is attached
}

// CTInfos takes those of the packets since the last call, in order. A packet that the raw table dropped has none.
func (n *Namespace) CTInfos() []CTInfo {
	c := n.ctinfos
	n.ctinfos = nil
	return c
}

func (n *Namespace) noteCTInfo(w *walk) {
	p := *w.p
	if p.About != nil { // NAT rewrites it later
		quoted := *p.About
		p.About = &quoted
	}
	n.ctinfos = append(n.ctinfos, CTInfo{Dev: w.in, Packet: p, Own: w.local, CT: w.info.String()})
}
