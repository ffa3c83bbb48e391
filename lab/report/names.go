package report

import (
	"fmt"
	"net/netip"
	"regexp"
	"time"

	"ctlab/checks/conntrack"
	"ctlab/lab"
)

// Names puts names in place of addresses.
type Names map[netip.Addr]string

func newNames(l *lab.Lab) Names {
	n := Names{}
	for _, node := range l.Nodes {
		if node.Address.IsValid() {
			n[node.Address.Addr()] = node.Name
		}
	}
	for _, s := range l.Services {
		n[s.VIP] = s.Name
	}
	return n
}

func (n Names) addr(a netip.Addr) string {
	if s, ok := n[a]; ok {
		return s
	}
	return a.String()
}

func (n Names) endpoint(a netip.Addr, port uint16) string {
	return fmt.Sprintf("%s:%d", n.addr(a), port)
}

func (n Names) tuple(t conntrack.Tuple) string {
	return n.endpoint(t.Src, t.SrcPort) + " > " + n.endpoint(t.Dst, t.DstPort)
}

// address finds IPv4 addresses in text.
var address = regexp.MustCompile(`\b\d+\.\d+\.\d+\.\d+\b`)

// Text puts names into a line that was made with addresses.
func (n Names) Text(s string) string {
	return address.ReplaceAllStringFunc(s, func(m string) string {
		if a, err := netip.ParseAddr(m); err == nil {
			return n.addr(a)
		}
		return m
	})
}

// seen is an entry's line in the form that labs read.
func (n Names) seen(e *lab.Seen) string {
	x := &e.Entry
	s := conntrack.ProtocolName(x.Orig.Proto) + " " + n.tuple(x.Orig) + " | " + n.tuple(x.Reply)
	if !x.Status.Has(conntrack.SeenReply) {
		s += " unreplied"
	}
	if x.Status.Has(conntrack.Assured) {
		s += " assured"
	}
	if e.Stale {
		s += " stale"
	}
	return s + " " + left(x)
}

func left(e *conntrack.Entry) string { return (time.Duration(e.Timeout) * time.Second).String() }
