package report

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"time"

	"ctlab/checks/conntrack"
	"ctlab/lab"
)

// Names puts names in place of addresses.
type Names map[netip.Addr]string

// NewNames are the names that a lab gives to addresses: its nodes', its services', and a router's name for
// its own addresses towards its hosts. A name stands for the address that it stands for in a lab: further
// addresses of a node or a service have none.
func NewNames(l *lab.Lab) Names {
	n := Names{}
	for _, node := range l.Nodes {
		for _, g := range node.Gateways() {
			n[g] = node.Uplink
		}
	}
	for _, s := range l.Services {
		n[s.VIP] = s.Name
	}
	for _, node := range l.Nodes {
		for _, f := range lab.Families() {
			a := node.AddressIn(f)
			if _, taken := n[a.Addr()]; a.IsValid() && !taken {
				n[a.Addr()] = node.Name
			}
		}
	}
	return n
}

// frontends are the addresses of a service, its node ports aside.
func frontends(s *lab.Service) []netip.Addr {
	return append(append([]netip.Addr{s.VIP}, s.ExternalIPs...), s.LoadBalancerIPs...)
}

func (n Names) addr(a netip.Addr) string {
	if s, ok := n[a]; ok {
		return s
	}
	return a.String()
}

func (n Names) endpoint(a netip.Addr, port uint16) string {
	if _, named := n[a]; !named {
		return netip.AddrPortFrom(a, port).String()
	}
	return fmt.Sprintf("%s:%d", n.addr(a), port)
}

func (n Names) tuple(t conntrack.Tuple) string {
	if !conntrack.HasPorts(t.Proto) {
		return n.Text(t.String())
	}
	return n.endpoint(t.Src, t.SrcPort) + " > " + n.endpoint(t.Dst, t.DstPort)
}

// address finds IPv4 addresses in text, and IPv6 addresses with or without brackets; some of the latter are none.
var address = regexp.MustCompile(`\b\d+\.\d+\.\d+\.\d+\b|\[[0-9a-f:.]*:[0-9a-f:.]*\]|\b[0-9a-f]*:[0-9a-f:]*:[0-9a-f:]*[0-9a-f]\b`)

// Text puts names into a line that was made with addresses.
func (n Names) Text(s string) string {
	return address.ReplaceAllStringFunc(s, func(m string) string {
		if a, err := netip.ParseAddr(strings.Trim(m, "[]")); err == nil && n[a] != "" {
			return n[a]
		}
		return m
	})
}

// entry is an entry's two tuples, with names.
func (n Names) entry(x *conntrack.Entry) string {
	return conntrack.ProtocolName(x.Orig.Proto) + " " + n.tuple(x.Orig) + " | " + n.tuple(x.Reply)
}

// seen is an entry's line in the form that labs read.
func (n Names) seen(e *lab.Seen) string {
	x := &e.Entry
	s := n.entry(x)
	if !x.Status.Has(conntrack.SeenReply) {
		s += " unreplied"
	}
	if x.Status.Has(conntrack.Assured) {
		s += " assured"
	}
	if e.Stale {
		s += " stale"
	}
	return s + zoneWords(x) + " " + left(x)
}

// zoneWords says in which zone an entry is, if it is not the default one.
func zoneWords(x *conntrack.Entry) string {
	for _, z := range []struct {
		has  conntrack.Fields
		word string
		id   uint16
	}{{conntrack.HasZone, "zone", x.Zone}, {conntrack.HasOrigZone, "zone-orig", x.OrigZone}, {conntrack.HasReplyZone, "zone-reply", x.ReplyZone}} {
		if x.Has(z.has) {
			return fmt.Sprintf(" %s %d", z.word, z.id)
		}
	}
	return ""
}

func left(e *conntrack.Entry) string { return fmt.Sprintf("%ds", e.Timeout) }

// dnatted reports whether the entry sends its packets elsewhere than the client said.
func dnatted(x *conntrack.Entry) bool { return x.Status.Has(conntrack.DstNAT) }

// few lists the first names and counts the others.
func few(names []string, limit int) string {
	if len(names) <= limit {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:limit], ", "), len(names)-limit)
}

// plainArgument needs no quotes in a shell.
var plainArgument = regexp.MustCompile(`^[A-Za-z0-9_./+:,@%-]+$`)

// argument is a word of a command that a person may copy into a shell.
func argument(s string) string {
	if plainArgument.MatchString(s) {
		return s
	}
	return "'" + strings.ReplaceAll(lab.Escape(s), "'", `'\''`) + "'"
}

func plural(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}

// ms is a time in milliseconds without decimals.
func ms(d time.Duration) string {
	return fmt.Sprintf("%d ms", d.Round(time.Millisecond).Milliseconds())
}

// fineMS is a time in milliseconds with one decimal.
func fineMS(d time.Duration) string {
	return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
}

// sec is a moment of the run.
func sec(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }

// span is a length of time, in the unit that reads best.
func span(d time.Duration) string {
	if d < time.Second {
		return ms(d)
	}
	return sec(d)
}

// wrap breaks text into lines of at most width characters, at blanks but not between a number and its unit.
func wrap(s string, width int) []string {
	var lines []string
	line := ""
	for _, w := range words(s) {
		switch {
		case line == "":
			line = w
		case len(line)+1+len(w) > width:
			lines = append(lines, line)
			line = w
		default:
			line += " " + w
		}
	}
	return append(lines, line)
}

func words(s string) []string {
	var out []string
	for _, w := range strings.Fields(s) {
		unit := strings.TrimRight(w, ",.;:)")
		if n := len(out); n > 0 && (unit == "ms" || unit == "s") {
			out[n-1] += " " + w
			continue
		}
		out = append(out, w)
	}
	return out
}
