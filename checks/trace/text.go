package trace

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"ctlab/checks/conntrack"
	"ctlab/checks/model"
)

// magic begins every trace; the number changes when older readers would misread the rest.
const magic = "ctlab-trace 1"

// Write writes traces one behind the other.
func Write(w io.Writer, traces ...Trace) error {
	b := bufio.NewWriter(w)
	for _, t := range traces {
		writeHeader(b, t.Header)
		for _, r := range t.Records {
			fmt.Fprintln(b, r)
			for _, line := range textLines(r.Text) {
				fmt.Fprintln(b, "\t"+line)
			}
		}
		fmt.Fprintln(b, "end", len(t.Records))
	}
	return b.Flush()
}

func writeHeader(w io.Writer, h Header) {
	fmt.Fprintln(w, magic)
	fmt.Fprintln(w, "lab", h.Lab)
	fmt.Fprintln(w, "node", h.Node)
	fmt.Fprintln(w, "kernel", h.Kernel)
	fmt.Fprintln(w, "profile", h.Profile)
	fmt.Fprintln(w, "assured", h.Assured)
	if h.Legacy {
		fmt.Fprintln(w, "iptables legacy")
	}
	fmt.Fprintln(w, "hz", h.HZ)
	switch {
	case h.CTLost > 0:
		fmt.Fprintln(w, "ctinfo", h.CTInfo, "lost", h.CTLost)
	case h.CTInfo != "":
		fmt.Fprintln(w, "ctinfo", h.CTInfo)
	}
	for _, l := range h.Lost {
		fmt.Fprintln(w, "lost", l)
	}
	for _, n := range h.Names {
		fmt.Fprintln(w, "name", n.Name, n.Addr)
	}
}

func textLines(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(text, "\n"), "\n")
}

// Parse reads what Write writes. Empty lines and lines that begin with # are skipped. Errors carry
// file:line.
func Parse(file string, r io.Reader) ([]Trace, error) {
	p := &parser{file: file}
	s := bufio.NewScanner(r)
	s.Buffer(nil, maxLine)
	for s.Scan() {
		p.line++
		if strings.ContainsFunc(strings.TrimPrefix(s.Text(), "\t"), unprintable) || !utf8.Valid(s.Bytes()) {
			return nil, fmt.Errorf("%s:%d: a control character, or no UTF-8: this is no trace", file, p.line)
		}
		if err := p.read(s.Text()); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", file, p.line, err)
		}
	}
	if err := s.Err(); errors.Is(err, bufio.ErrTooLong) {
		return nil, fmt.Errorf("%s:%d: a line of more than %d bytes", file, p.line+1, maxLine)
	} else if err != nil {
		return nil, fmt.Errorf("%s:%d: %w", file, p.line+1, err)
	}
	if p.cur != nil {
		return nil, fmt.Errorf("%s:%d: the trace ends without its end line: it was cut off", file, p.line)
	}
	if len(p.done) == 0 {
		return nil, fmt.Errorf("%s: no trace in it; the first line of one is %q", file, magic)
	}
	return p.done, nil
}

// maxLine is how long a line of a trace may be, in bytes.
const maxLine = 1 << 20

// unprintable characters are in no trace: names, words and numbers are all there is, and text of rules. A
// report of a trace that somebody else made must not draw on the terminal.
func unprintable(r rune) bool { return r != '\t' && !unicode.IsPrint(r) }

type parser struct {
	file string
	line int
	cur  *Trace
	done []Trace
}

func (p *parser) read(line string) error {
	if text, ok := strings.CutPrefix(line, "\t"); ok {
		return p.text(text)
	}
	line = strings.TrimSpace(line)
	if line == "" || line[0] == '#' {
		return nil
	}
	if line == magic {
		if p.cur != nil {
			return fmt.Errorf("a trace begins inside another")
		}
		p.cur = &Trace{}
		return nil
	}
	if p.cur == nil {
		return fmt.Errorf("%.40q: a trace begins with %q", line, magic)
	}
	word, rest, _ := strings.Cut(line, " ")
	switch word {
	case "in", "seen":
		return p.record(word, rest)
	case "end":
		return p.end(rest)
	}
	return p.header(word, rest)
}

func (p *parser) text(line string) error {
	if p.cur == nil || len(p.cur.Records) == 0 {
		return fmt.Errorf("an indented line belongs to no record")
	}
	r := &p.cur.Records[len(p.cur.Records)-1]
	switch r.Kind {
	case Rules, Rules6, Hits, Hits6, State:
		r.Text += line + "\n"
		return nil
	}
	return fmt.Errorf("a %s record has no text", r.Kind)
}

func (p *parser) end(count string) error {
	if n, err := strconv.Atoi(count); err != nil || n != len(p.cur.Records) {
		return fmt.Errorf("the end line says %s records, there are %d", count, len(p.cur.Records))
	}
	if p.cur.HZ == 0 {
		return fmt.Errorf("the header has no hz")
	}
	p.done, p.cur = append(p.done, *p.cur), nil
	return nil
}

func (p *parser) header(word, rest string) error {
	h := &p.cur.Header
	switch word {
	case "lab":
		h.Lab = rest
	case "node":
		h.Node = rest
	case "kernel":
		h.Kernel = rest
	case "profile":
		h.Profile = rest
	case "assured":
		h.Assured = model.AssuredRule(rest)
	case "iptables":
		if rest != "legacy" && rest != "nft" {
			return fmt.Errorf("iptables %q: want nft or legacy", rest)
		}
		h.Legacy = rest == "legacy"
	case "hz":
		n, err := strconv.ParseInt(rest, 10, 64)
		if err != nil || n < 1 || n > 10000 {
			return fmt.Errorf("hz %q: want a number of ticks a second", rest)
		}
		h.HZ = n
	case "ctinfo":
		return h.parseCTInfo(rest)
	case "lost":
		h.Lost = append(h.Lost, rest)
	case "name":
		name, text, _ := strings.Cut(rest, " ")
		a, err := netip.ParseAddr(text)
		if err != nil {
			return fmt.Errorf("name %s: %w", name, err)
		}
		h.Names = append(h.Names, Name{name, a})
	default:
		return fmt.Errorf("%q is neither a header nor a record", word)
	}
	return nil
}

func (p *parser) record(side, rest string) error {
	rest = strings.TrimLeft(rest, " ")
	at, rest, _ := strings.Cut(rest, " ")
	span, rest, _ := strings.Cut(rest, " ")
	kind, args, _ := strings.Cut(rest, " ")
	when, took, takes := strings.Cut(at, "+")
	r := Record{Kind: Kind(kind), Args: args}
	var err error
	if r.At, err = parseTime(when); err != nil {
		return err
	}
	if takes {
		if r.Took, err = parseTime(took); err != nil || r.Took < 0 {
			return fmt.Errorf("time %q: want seconds, or seconds+seconds", at)
		}
	}
	if r.Span, err = conntrack.ParseSpan(span); err != nil {
		return err
	}
	if side == "in" && !r.Kind.input() || side == "seen" && !r.Kind.seen() {
		return fmt.Errorf("%q is no kind of what was %s", kind, map[string]string{"in": "put in", "seen": "seen"}[side])
	}
	if err := checkArgs(r); err != nil {
		return err
	}
	p.cur.Records = append(p.cur.Records, r)
	return nil
}

// parseTime reads seconds, with microseconds at most.
func parseTime(text string) (time.Duration, error) {
	seconds, err := strconv.ParseFloat(text, 64)
	if err != nil || !(math.Abs(seconds) < 1e6) {
		return 0, fmt.Errorf("time %q: want seconds", text)
	}
	return time.Duration(math.Round(seconds*1e6)) * time.Microsecond, nil
}

// checkArgs parses the arguments once, so that errors come with their line.
func checkArgs(r Record) (err error) {
	switch r.Kind {
	case Packet, Left, Discover:
		_, _, err = devicePacket(r.Args)
	case CTInfo:
		_, err = parseCTInfo(r.Args)
	case ARP, Neigh:
		_, _, err = deviceAddr(r.Args)
	case Address, NoAddress:
		_, _, err = devicePrefix(r.Args)
	case Routing, NoRouting:
		_, err = parseRoute(r.Args)
	case Link:
		_, _, err = deviceState(r.Args)
	case Send:
		_, err = conntrack.ParsePacket(r.Args)
	case Socket:
		_, _, err = parseSocket(r.Args)
	case Hold:
		_, err = conntrack.ParseHold(r.Args)
	case Release:
		_, _, err = parseRelease(r.Args)
	case Get, Absent, Delete:
		_, err = conntrack.ParseKey(r.Args)
	case Entry, Create, Update:
		_, err = conntrack.ParseEntry(r.Args)
	case Fill:
		_, _, err = parseFill(r.Args)
	case Event:
		_, err = conntrack.ParseEvent(r.Args)
	case Count, Dumped:
		_, err = strconv.Atoi(r.Args)
	case Stats:
		_, err = parseStats(r.Args)
	}
	return err
}

func devicePacket(args string) (dev string, p conntrack.Packet, err error) {
	dev, line, _ := strings.Cut(args, " ")
	p, err = conntrack.ParsePacket(line)
	return dev, p, err
}

func deviceAddr(args string) (dev string, a netip.Addr, err error) {
	dev, text, _ := strings.Cut(args, " ")
	a, err = netip.ParseAddr(text)
	return dev, a, err
}

func devicePrefix(args string) (dev string, a netip.Prefix, err error) {
	dev, text, _ := strings.Cut(args, " ")
	a, err = netip.ParsePrefix(text)
	return dev, a, err
}

// parseFill reads N SECONDS.
func parseFill(args string) (n int, timeout int64, err error) {
	count, seconds, _ := strings.Cut(args, " ")
	if n, err = strconv.Atoi(count); err != nil || n < 0 {
		return 0, 0, fmt.Errorf("fill %q: want N SECONDS", args)
	}
	if timeout, err = strconv.ParseInt(seconds, 10, 32); err != nil || timeout < 0 {
		return 0, 0, fmt.Errorf("fill %q: want N SECONDS", args)
	}
	return n, timeout, nil
}

func deviceState(args string) (dev, state string, err error) {
	dev, state, _ = strings.Cut(args, " ")
	switch state {
	case "up", "down", "gone":
		return dev, state, nil
	}
	if mtu, ok := strings.CutPrefix(state, "mtu "); ok {
		if n, err := strconv.Atoi(mtu); err == nil && n > 0 {
			return dev, state, nil
		}
	}
	return dev, state, fmt.Errorf("link %q: want DEV up, down or gone, or DEV mtu N", args)
}

// parseSocket reads open|close LOCAL:PORT [> REMOTE:PORT].
func parseSocket(args string) (open bool, s model.Socket, err error) {
	f := strings.Fields(args)
	if len(f) != 2 && (len(f) != 4 || f[2] != ">") || f[0] != "open" && f[0] != "close" {
		return false, s, fmt.Errorf("socket %q: want open|close LOCAL:PORT [> REMOTE:PORT]", args)
	}
	if s.Local, err = netip.ParseAddrPort(f[1]); err == nil && len(f) == 4 {
		s.Remote, err = netip.ParseAddrPort(f[3])
	}
	return f[0] == "open", s, err
}

// SocketArgs are the arguments of a Socket record.
func SocketArgs(open bool, s model.Socket) string {
	text := "close " + s.Local.String()
	if open {
		text = "open " + s.Local.String()
	}
	if s.Remote.IsValid() {
		text += " > " + s.Remote.String()
	}
	return text
}

// parseRelease reads N accept|drop.
func parseRelease(args string) (nth int, accept bool, err error) {
	number, verdict, _ := strings.Cut(args, " ")
	nth, err = strconv.Atoi(number)
	if err != nil || nth < 1 || verdict != "accept" && verdict != "drop" {
		return 0, false, fmt.Errorf("release %q: want N accept|drop, N from 1", args)
	}
	return nth, verdict == "accept", nil
}

// ReleaseArgs are the arguments of a Release record.
func ReleaseArgs(nth int, accept bool) string {
	if accept {
		return fmt.Sprintf("%d accept", nth)
	}
	return fmt.Sprintf("%d drop", nth)
}

func parseRoute(args string) (r model.Route, err error) {
	f := strings.Fields(args)
	if len(f) == 5 && f[1] == "via" && f[3] == "dev" {
		if r.Via, err = netip.ParseAddr(f[2]); err != nil {
			return r, err
		}
		f = []string{f[0], f[3], f[4]}
	}
	if len(f) != 3 || f[1] != "dev" {
		return r, fmt.Errorf("route %q: want TO [via ADDRESS] dev DEV", args)
	}
	r.Dev = f[2]
	r.To, err = netip.ParsePrefix(f[0])
	return r, err
}

// FormatStats is the Args of a Stats record: the counters that are not zero, in a fixed order.
func FormatStats(stats map[string]uint32) string {
	var f []string
	for _, name := range statNames() {
		if v := stats[name]; v != 0 {
			f = append(f, fmt.Sprintf("%s %d", name, v))
		}
	}
	return strings.Join(f, " ")
}

// statNames are the counters of conntrack -S, in the order of printing.
func statNames() []string {
	return []string{"found", "invalid", "insert", "insert-failed", "drop", "early-drop", "error", "search-restart", "clash-resolve", "chain-toolong"}
}

func parseStats(args string) (map[string]uint32, error) {
	f := strings.Fields(args)
	if len(f)%2 != 0 {
		return nil, fmt.Errorf("stats %q: want pairs of a name and a number", args)
	}
	stats := map[string]uint32{}
	for i := 0; i < len(f); i += 2 {
		n, err := strconv.ParseUint(f[i+1], 10, 32)
		if err != nil {
			return nil, fmt.Errorf("stats %s: %q is no number", f[i], f[i+1])
		}
		stats[f[i]] = uint32(n)
	}
	return stats, nil
}
