package report

import (
	"cmp"
	"fmt"
	"io"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"ctlab/checks/conntrack"
	"ctlab/checks/model"
	"ctlab/checks/trace"
)

// ExplainOptions say which packets are explained.
type ExplainOptions struct {
	Color  bool
	Packet int   // this one alone, counted from 1 on each node; 0: all
	Flow   *Flow // nil: all
}

// Flow picks packets by their flow.
type Flow struct {
	proto    uint8
	src, dst flowEnd
}

type flowEnd struct {
	addr netip.Addr // invalid: any
	port uint16     // 0: any
}

// ParseFlow reads PROTO ENDPOINT > ENDPOINT, as labs write it: an endpoint is a name or an address, or
// "any", and perhaps a port.
func ParseFlow(text string, names Names) (*Flow, error) {
	words := strings.Fields(text)
	if len(words) != 4 || words[2] != ">" {
		return nil, fmt.Errorf("flow %q: want PROTOCOL SOURCE > DESTINATION, such as udp app:40053 > kube-dns:53", text)
	}
	proto, err := conntrack.ParseProtocol(words[0])
	if err != nil {
		return nil, fmt.Errorf("flow %q: %w", text, err)
	}
	f := &Flow{proto: proto}
	for i, end := range []*flowEnd{&f.src, &f.dst} {
		if *end, err = parseEnd(words[1+2*i], names); err != nil {
			return nil, fmt.Errorf("flow %q: %w", text, err)
		}
	}
	return f, nil
}

func parseEnd(word string, names Names) (end flowEnd, err error) {
	host, port, hasPort := strings.Cut(word, ":")
	if hasPort {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil {
			return end, fmt.Errorf("%q is no port", port)
		}
		end.port = uint16(n)
	}
	if host == "any" {
		return end, nil
	}
	for a, name := range names {
		if name == host && (!end.addr.IsValid() || a.Less(end.addr)) {
			end.addr = a
		}
	}
	if end.addr.IsValid() {
		return end, nil
	}
	if end.addr, err = netip.ParseAddr(host); err != nil {
		return end, fmt.Errorf("%q is neither a name nor an address", host)
	}
	return end, nil
}

func (e flowEnd) is(a netip.Addr, port uint16) bool {
	return (!e.addr.IsValid() || e.addr == a) && (e.port == 0 || e.port == port)
}

func (f *Flow) is(t conntrack.Tuple) bool {
	return t.Proto == f.proto && f.src.is(t.Src, t.SrcPort) && f.dst.is(t.Dst, t.DstPort)
}

// has reports whether a packet is of the flow: by its own tuple, by the entry that it hit (answers and
// errors), or by the packet that it quotes.
func (f *Flow) has(h *trace.Handled) bool {
	p := &h.Packet
	return f == nil || f.is(p.Tuple()) || h.Outcome.Entry != nil && f.is(*h.Outcome.Entry) || p.About != nil && f.is(p.About.Tuple())
}

// Explain writes what each packet met on its way through a node: hook by hook, with the kernel's functions,
// and what became of it. Packets of a flow and direction with the story of the one before are only named.
// It returns how many packets it explained.
func Explain(w io.Writer, reports []trace.Report, names Names, opt ExplainOptions) (int, error) {
	e := &explainer{text: text{w: w, opt: Options{Color: opt.Color}, name: names}}
	for i := range reports {
		e.node(&reports[i], opt, len(reports) > 1)
	}
	return e.told, e.err
}

type explainer struct {
	text
	told int
}

// block is the account of one packet and the packets that have the same.
type block struct {
	number int // 0: a packet that waited for a neighbour, when that was given up
	h      *trace.Handled
	same   []string
}

// at names a packet by its number and time.
func (b *block) at() string {
	if b.number == 0 {
		return fmt.Sprintf("%.3f s", b.h.Record.At.Seconds())
	}
	return fmt.Sprintf("%d (%.3f s)", b.number, b.h.Record.At.Seconds())
}

func (e *explainer) node(r *trace.Report, opt ExplainOptions, several bool) {
	var blocks []*block
	last := map[string]*block{} // of each flow and direction
	for _, b := range accounts(r) {
		if opt.Packet != 0 && opt.Packet != b.number || !opt.Flow.has(b.h) {
			continue
		}
		flow := direction(b.h)
		if l := last[flow]; l != nil && storyKey(l.h) == storyKey(b.h) {
			l.same = append(l.same, b.at())
			continue
		}
		blocks, last[flow] = append(blocks, b), b
	}
	for i, b := range blocks {
		if e.told > 0 {
			e.line("")
		}
		if i == 0 && several {
			h := r.Header
			e.line("%s", e.paint(bold, fmt.Sprintf("%s, node %s, recorded on %s", h.Lab, h.Node, h.Kernel)))
			e.line("")
		}
		e.block(r.Header.Node, b)
	}
}

// accounts are the packets in the order of time, and among them those that waited for a neighbour in vain.
func accounts(r *trace.Report) []*block {
	var all []*block
	for i := range r.Packets {
		all = append(all, &block{number: i + 1, h: &r.Packets[i]})
	}
	for i := range r.GivenUp {
		all = append(all, &block{h: &r.GivenUp[i]})
	}
	slices.SortStableFunc(all, func(a, b *block) int { return cmp.Compare(a.h.Record.At, b.h.Record.At) })
	return all
}

// direction is a key for the packets of one flow in one direction.
func direction(h *trace.Handled) string {
	entry := ""
	if h.Outcome.Entry != nil {
		entry = h.Outcome.Entry.Line()
	}
	return fmt.Sprintf("%s %d %s %s", h.Packet.Tuple().Line(), h.Packet.ICMPType, entry, h.Dev)
}

// varying is what differs in two stories that are the same: times left and IP ids.
var varying = regexp.MustCompile(`\b\d+s\b|ip-id \d+`)

// storyKey is a packet's story without what always differs.
func storyKey(h *trace.Handled) string {
	var b strings.Builder
	for _, s := range h.Outcome.Steps {
		fmt.Fprintln(&b, s.Hook, s.Func, s.What)
	}
	b.WriteString(h.Outcome.CT + strings.Join(became(h), "\n"))
	return varying.ReplaceAllString(b.String(), "")
}

func (e *explainer) block(node string, b *block) {
	e.told += 1 + len(b.same)
	h := b.h
	title, from := fmt.Sprintf("packet %d", b.number), "from "+h.Dev
	switch {
	case b.number == 0:
		title, from = "a packet that waited", "towards "+h.Dev
	case h.Dev == "":
		from = "sent by the node itself"
	}
	e.line("%s  %.3f s  on %s, %s; ctinfo: %s", e.paint(bold, title), h.Record.At.Seconds(), node, from, ctinfo(&h.Outcome))
	e.hanging("  ", e.name.Text(h.Packet.Line()))
	e.hooks(h.Outcome.Steps)
	for _, l := range became(h) {
		e.hanging("  => ", e.name.Text(l))
	}
	if len(b.same) > 0 {
		begin := "  the same: "
		if b.number > 0 {
			begin += plural(len(b.same), "packet ", "packets ")
		}
		e.hanging(begin, few(b.same, 12))
	}
}

func ctinfo(o *model.Outcome) string {
	if o.CT == "" {
		return "none, tracking is off"
	}
	return o.CT
}

// callers are the functions that are registered at the hooks, or called by the stack, and within which the
// others do their part (net/netfilter/nf_conntrack_core.c, nf_conntrack_proto.c, nf_nat_core.c of 6.18).
func callers() map[string]string {
	return map[string]string{
		"resolve_normal_ct":             "nf_conntrack_in",
		"init_conntrack":                "resolve_normal_ct",
		"nf_conntrack_icmpv4_error":     "nf_conntrack_in",
		"nf_conntrack_inet_error":       "nf_conntrack_in",
		"nf_conntrack_udp_packet":       "nf_conntrack_in",
		"udp_error":                     "nf_conntrack_in",
		"find_appropriate_src":          "nf_nat_inet_fn",
		"nf_nat_alloc_null_binding":     "nf_nat_inet_fn",
		"nf_nat_icmp_reply_translation": "nf_nat_inet_fn",
		"nf_nat_l4proto_unique_tuple":   "nf_nat_inet_fn",
		"nf_nat_masquerade_ipv4":        "nf_nat_inet_fn",
		"nf_nat_oif_changed":            "nf_nat_inet_fn",
		"nf_nat_packet":                 "nf_nat_inet_fn",
		"__nf_conntrack_confirm":        "nf_confirm",
	}
}

// callPath is a function behind those that called it, the outermost first.
func callPath(fn string) []string {
	path := []string{fn}
	for c := callers()[fn]; c != ""; c = callers()[c] {
		path = slices.Insert(path, 0, c)
	}
	return path
}

// hooks writes the steps, those of a hook below its name and those of a function below the one that called
// it.
func (e *explainer) hooks(steps []model.Step) {
	if len(steps) == 0 {
		e.line("    no hook had anything to do with it")
	}
	hook, open := "", []string(nil)
	for _, s := range steps {
		if s.Hook != hook {
			hook, open = s.Hook, nil
			e.line("  %s", hook)
		}
		path := callPath(s.Func)
		depth := len(path) - 1
		for i, caller := range path[:depth] {
			if i >= len(open) || open[i] != caller {
				e.line("    %s%s", strings.Repeat("  ", i), caller)
			}
		}
		e.column(strings.Repeat("  ", depth+1), s.Func, e.name.Text(s.What))
		open = path
	}
}

// functionWide is the column of the kernel's functions.
const functionWide = 30

func (e *explainer) column(indent, fn, s string) {
	left := "  " + indent + fn
	for _, l := range wrap(s, columns-4-functionWide-2) {
		e.line("%-*s  %s", 4+functionWide, left, l)
		left = ""
	}
}

// became says what became of a packet in the end.
func became(h *trace.Handled) []string {
	o := &h.Outcome
	var out []string
	if o.Dropped != "" {
		out = append(out, "dropped at "+o.Dropped)
	}
	if o.Local {
		out = append(out, "delivered to the node itself")
	}
	for _, l := range o.Left {
		verb := "leaves on"
		if l.Own {
			verb = "the node answers on"
		}
		s := fmt.Sprintf("%s %s as %s", verb, l.Dev, l.Packet.Line())
		if l.Own && l.Why != "" {
			s += " (" + l.Why + ")"
		}
		out = append(out, s)
	}
	if len(out) == 0 {
		out = append(out, "stays: it waits until its next hop is resolved")
	}
	return out
}
