package checks

import (
	"net/netip"
	"strconv"
	"strings"
	"unicode/utf8"

	"ctlab/checks/conntrack"
)

// LineError is what is wrong with a line, or with a single value, and where. Offset and Len count
// bytes and lie within the line.
type LineError struct {
	Offset, Len int
	Msg, Hint   string
}

// Error is the message alone; who prints it knows the line.
func (e *LineError) Error() string { return e.Msg }

// Resolve finds the address that a name stands for. Other is what stands at the other end of the
// tuple, without its port and as it was written: a router has one address on each of its links, and
// the other end says which of them is meant. Of an error only message and hint are used.
type Resolve func(name, other string) (netip.Addr, *LineError)

// ParseEntryWant reads the line of a wanted entry,
//
//	[N x | A..B x | no] PROTO SRC > DST [| SRC > DST] WORD...
//
// and turns names into addresses by resolve.
func ParseEntryWant(line string, resolve Resolve) (EntryWant, *LineError) {
	r := newLineReader(line, resolve)
	r.w.Times = r.times()
	r.entry()
	return r.w, r.err
}

// ParseEventWant reads the line of a wanted event, [no] new|update|destroy ENTRY. The entry's Text is
// the whole line.
func ParseEventWant(line string, resolve Resolve) (kind conntrack.EventKind, no bool, w EntryWant, err *LineError) {
	r := newLineReader(line, resolve)
	r.event = true
	no = r.accept("no")
	first := r.next()
	switch kind = conntrack.EventKind(first.text); kind {
	case conntrack.New, conntrack.Update, conntrack.Destroy:
	default:
		r.fail(first, Quote(first.text)+" is no kind of event", "new, update or destroy comes first")
	}
	if count := r.peek(0); r.peek(1).text == "x" {
		r.fail(count, "an event has no number", "write a line for each")
	}
	r.entry()
	return kind, no, r.w, r.err
}

// word is a word of a line and where it stands in it.
type word struct {
	text string
	at   int
}

// lineReader reads a line word by word. The first error sticks, so that readers look like lists of words.
type lineReader struct {
	resolve Resolve
	words   []word
	pos     int
	seen    map[string]bool // words that may stand once
	event   bool            // the line is an event's
	bareIP  bool            // the packet that is read began with ip, and has no ports
	w       EntryWant
	err     *LineError
}

func newLineReader(line string, resolve Resolve) *lineReader {
	r := &lineReader{resolve: resolve, seen: map[string]bool{}}
	r.w = EntryWant{Text: line, Times: Exactly(1)}
	for at := 0; at < len(line); {
		end := strings.IndexByte(line[at:], ' ')
		if end < 0 {
			end = len(line) - at
		}
		if end > 0 {
			r.words = append(r.words, word{line[at : at+end], at})
		}
		at += end + 1
	}
	return r
}

func (r *lineReader) fail(w word, msg, hint string) {
	if r.err == nil {
		r.err = &LineError{w.at, len(w.text), msg, hint}
	}
}

// part reports an error of a value that begins at the given byte of the line.
func (r *lineReader) part(at int, err *LineError) {
	if r.err == nil && err != nil {
		r.err = &LineError{at + err.Offset, err.Len, err.Msg, err.Hint}
	}
}

func (r *lineReader) more() bool { return r.err == nil && r.pos < len(r.words) }

// peek is a coming word, or the zero word.
func (r *lineReader) peek(ahead int) word {
	if r.err != nil || r.pos+ahead >= len(r.words) {
		return word{}
	}
	return r.words[r.pos+ahead]
}

func (r *lineReader) accept(text string) bool {
	if r.more() && r.peek(0).text == text {
		r.pos++
		return true
	}
	return false
}

func (r *lineReader) next() word {
	if r.err != nil {
		return word{}
	}
	if r.pos >= len(r.words) {
		var last word
		if len(r.words) > 0 {
			last = r.words[len(r.words)-1]
		}
		r.fail(last, "the line ends too early", "PROTO SOURCE > DESTINATION, as in udp app:40000 > 10.96.0.10:53")
		return word{}
	}
	r.pos++
	return r.words[r.pos-1]
}

// times reads how many entries are wanted.
func (r *lineReader) times() Range {
	if r.accept("no") {
		return Exactly(0)
	}
	if r.peek(1).text != "x" {
		return Exactly(1)
	}
	n := r.next()
	r.pos++
	times, err := ParseRange(n.text)
	r.part(n.at, err)
	return times
}

func (r *lineReader) entry() {
	r.w.Proto = r.protocol()
	r.w.Orig = r.tuple()
	if r.accept("|") {
		t := r.tuple()
		r.w.Reply = &t
	}
	for r.more() {
		r.word()
	}
}

// protocols are the names that a line may begin with, for hints; a number is allowed too.
func protocols() []string {
	return []string{"udp", "tcp", "icmp", "icmpv6", "sctp", "dccp", "gre", "udplite"}
}

func (r *lineReader) protocol() uint8 {
	w := r.next()
	if r.err != nil {
		return 0
	}
	p, err := conntrack.ParseProtocol(w.text)
	named := func(name string) bool { _, err := conntrack.ParseProtocol(name); return err == nil }
	switch {
	case w.text == "icmp6" || w.text == "ipv6-icmp":
		r.fail(w, Quote(w.text)+" is no protocol", "icmpv6, as conntrack prints it")
	case startsNumber(w.text) && !startsNumber(r.peek(0).text) && named(r.peek(0).text):
		r.fail(w, Quote(w.text)+" is no protocol", "write: "+clip(w.text)+" x "+r.peek(0).text)
	case err != nil && r.peek(0).text == ">":
		r.fail(w, Quote(w.text)+" is no protocol", "the protocol comes first: udp "+clip(w.text)+" > ...")
	case err != nil:
		r.fail(w, Quote(w.text)+" is no protocol", DidYouMean(w.text, protocols(), "udp, tcp, icmp or another one comes first"))
	case startsNumber(w.text):
		_, bad := ParseNumber(w.text)
		r.part(w.at, bad)
	}
	return p
}

// end is one end of a tuple before names have become addresses.
type end struct {
	word
	host string
	want EndpointWant
	name bool // host is a name
}

func (r *lineReader) tuple() TupleWant {
	src := r.endpoint()
	if arrow := r.next(); r.err == nil && arrow.text != ">" {
		r.fail(arrow, "\">\" is missing before "+Quote(arrow.text), "SOURCE > DESTINATION")
	}
	dst := r.endpoint()
	t := TupleWant{r.address(src, dst), r.address(dst, src)}
	if a, b := t.Src.Prefix, t.Dst.Prefix; a.IsValid() && b.IsValid() && a.Addr().Is4() != b.Addr().Is4() {
		r.fail(dst.word, Quote(src.host)+" and "+Quote(dst.host)+" are of different families", "both ends have addresses of one family")
	}
	return t
}

func (r *lineReader) endpoint() end {
	w := r.next()
	e := end{word: w, want: EndpointWant{MaxPort: 65535}}
	if r.err != nil {
		return e
	}
	host, ports, given, err := cutPorts(w.text)
	r.part(w.at, err)
	e.host = host
	if given {
		r.ports(&e, ports, w.at+len(w.text)-len(ports))
	}
	switch {
	case host == "any":
	case strings.Contains(host, ":"):
		prefix, err := parseIPv6(host)
		e.want.Prefix = prefix
		r.part(w.at+strings.Index(w.text, host), err)
	case startsNumber(host):
		prefix, err := parseIPv4(host)
		e.want.Prefix = prefix
		r.part(w.at, err)
	case isName(host):
		e.name = true
	default:
		r.fail(word{host, w.at}, Quote(host)+" is no address and no name", "app:40000, 10.96.0.10:53, 10.244.0.0/16 or any")
	}
	return e
}

// cutPorts splits an endpoint at the colon before its ports. An IPv6 address before ports stands in brackets, as else
// nobody could tell where it ends.
func cutPorts(text string) (host, ports string, given bool, err *LineError) {
	inner, rest, closed := strings.Cut(text, "]")
	switch {
	case strings.HasPrefix(text, "[") && !closed:
		return text, "", false, &LineError{0, len(text), Quote(text) + ": the bracket is not closed", "[fd00::5]:53"}
	case strings.HasPrefix(text, "["):
		ports, given = strings.CutPrefix(rest, ":")
		if !given && rest != "" {
			return text, "", false, &LineError{len(inner) + 1, len(rest), Quote(rest) + " behind the bracket", "[fd00::5]:53"}
		}
		return inner[1:], ports, given, nil
	case strings.Count(text, ":") > 1:
		return text, "", false, nil
	}
	host, ports, given = strings.Cut(text, ":")
	return host, ports, given, nil
}

func parseIPv6(text string) (netip.Prefix, *LineError) {
	whole := func(msg, hint string) *LineError { return &LineError{0, len(text), msg, hint} }
	if strings.Contains(text, "..") {
		return netip.Prefix{}, whole(Quote(text)+": ranges of addresses are not supported yet", "a prefix, such as fd00::/64")
	}
	if a, err := netip.ParseAddr(text); err == nil && a.Is6() && a.Zone() == "" {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(text)
	switch {
	case err != nil || !p.Addr().Is6():
		return p, whole(Quote(text)+" is no IPv6 address", "a port stands behind brackets: [fd00::5]:53")
	case p.Masked() != p:
		return p, whole(Quote(text)+" has bits behind its prefix", p.Masked().String())
	}
	return p, nil
}

func (r *lineReader) ports(e *end, text string, at int) {
	if r.bareIP || !conntrack.HasPorts(r.w.Proto) {
		r.fail(e.word, protocolWord(r.w.Proto, r.bareIP)+" has no ports", "write "+Quote(e.host)+" alone")
		return
	}
	n, err := ParseRange(text)
	if err == nil && n.Max < 0 {
		n.Max = 65535
	}
	if err == nil && max(n.Min, n.Max) > 65535 {
		err = &LineError{0, len(text), "port " + clip(text) + " is above 65535", ""}
	}
	if err != nil && text == "" {
		err = &LineError{-1, 1, "no port behind the colon", "any port: write " + Quote(e.host) + " alone"}
	}
	r.part(at, err)
	e.want.MinPort, e.want.MaxPort = uint16(n.Min), uint16(n.Max)
}

// protocolWord is the protocol as the line has it.
func protocolWord(proto uint8, bareIP bool) string {
	if bareIP {
		return "ip"
	}
	return conntrack.ProtocolName(proto)
}

func parseIPv4(text string) (netip.Prefix, *LineError) {
	whole := func(msg, hint string) *LineError { return &LineError{0, len(text), msg, hint} }
	if strings.Contains(text, "..") {
		return netip.Prefix{}, whole(Quote(text)+": ranges of addresses are not supported yet", "a prefix, such as 10.244.0.0/16")
	}
	if a, err := netip.ParseAddr(text); err == nil && a.Is4() {
		return netip.PrefixFrom(a, 32), nil
	}
	p, err := netip.ParsePrefix(text)
	if err != nil || !p.Addr().Is4() {
		return p, whole(Quote(text)+" is no IPv4 address", "")
	}
	if p.Masked() != p {
		return p, whole(Quote(text)+" has bits behind its prefix", p.Masked().String())
	}
	return p, nil
}

func isName(s string) bool {
	for i, c := range []byte(s) {
		letter := c >= 'a' && c <= 'z'
		if !letter && (i == 0 || c != '-' && (c < '0' || c > '9')) {
			return false
		}
	}
	return s != "" && len(s) <= 63
}

func (r *lineReader) address(e, other end) EndpointWant {
	if r.err != nil || !e.name {
		return e.want
	}
	a, err := r.resolve(e.host, other.host)
	if err != nil {
		r.fail(word{e.host, e.at}, err.Msg, err.Hint)
		return e.want
	}
	if a.IsValid() {
		e.want.Prefix = netip.PrefixFrom(a, a.BitLen())
	}
	return e.want
}

// word reads one of the words behind the tuples.
func (r *lineReader) word() {
	w := r.next()
	for _, v := range valueWords() {
		if v.word == w.text {
			r.once(w, w.text)
			r.value(w, v)
			return
		}
	}
	positive, negated := strings.CutPrefix(w.text, "not-")
	state, isState := conntrack.ParseTCPState(w.text)
	switch {
	case isState:
		r.once(w, "a state")
		if r.w.Proto != conntrack.TCP {
			r.fail(w, w.text+" is a state of TCP, and this is "+conntrack.ProtocolName(r.w.Proto), "")
		}
		r.w.TCPState = &state
	case positive == "stale":
		r.once(w, "stale")
		if r.event {
			r.fail(w, "an event does not say whether its entry is stale", "")
		}
		stale := !negated
		r.w.Stale = &stale
	case startsNumber(w.text) || strings.HasPrefix(w.text, ".."):
		r.once(w, "a time")
		left, err := parseTimeLeft(w.text)
		r.w.Left = &left
		r.part(w.at, err)
	default:
		r.status(w, positive, negated)
	}
}

// once refuses a second word about the same thing.
func (r *lineReader) once(w word, about string) {
	if r.seen[about] {
		r.fail(w, Quote(w.text)+": "+about+" was given already", "")
	}
	r.seen[about] = true
}

func (r *lineReader) value(w word, v valueWord) {
	if !r.more() {
		r.fail(w, Quote(w.text)+" has no value", "")
		return
	}
	value := r.next()
	r.part(value.at, v.read(&r.w, value.text))
}

func (r *lineReader) status(w word, positive string, negated bool) {
	bit, ok := conntrack.ParseStatusWord(positive)
	if positive == "unreplied" {
		bit, ok, negated = conntrack.SeenReply, true, !negated
	}
	if !ok {
		r.fail(w, Quote(w.text)+" is no state, status, time, zone or mark", wordHint(w.text))
		return
	}
	if (r.w.Has|r.w.HasNot)&bit != 0 {
		r.fail(w, Quote(w.text)+": its status bit was given already", "")
	}
	if negated {
		r.w.HasNot |= bit
	} else {
		r.w.Has |= bit
	}
}

// wordHint answers words of other tools, then misspelt ones.
func wordHint(text string) string {
	bare := strings.ToLower(strings.Trim(text, "[]!"))
	switch text {
	case "status":
		return "write the status words alone, such as assured"
	case "timeout":
		return "write the time alone, such as 5s"
	case "bytes", "master", "labels", "wscale", "tcp-flags", "type", "code", "id", "|":
		return "what can be said: a state, status words, stale, a time, zone, mark, packets, use"
	}
	if _, ok := conntrack.ParseTCPState(strings.ToUpper(bare)); ok {
		return "did you mean \"" + strings.ToUpper(bare) + "\"?"
	}
	if _, ok := conntrack.ParseStatusWord(bare); ok || bare == "unreplied" {
		if strings.HasPrefix(text, "!") {
			bare = "not-" + bare
		}
		return "did you mean \"" + bare + "\"?"
	}
	words := append(conntrack.StatusWords(), "unreplied", "stale")
	for _, w := range words {
		words = append(words, "not-"+w)
	}
	for _, v := range valueWords() {
		words = append(words, v.word)
	}
	return DidYouMean(text, words, "")
}

// DidYouMean is a hint at the candidate that was probably meant, or else if none is near.
func DidYouMean(text string, candidates []string, orElse string) string {
	if near := Nearest(text, candidates); near != "" {
		return "did you mean \"" + near + "\"?"
	}
	return orElse
}

// Nearest is the candidate with the fewest differences from text, or "" if all are too different to be
// a slip of the fingers.
func Nearest(text string, candidates []string) string {
	const most = 100 // of a huge lab's names: a hint must not cost more than the rest
	limit := min(3, 1+len(text)/5)
	best := ""
	for _, c := range candidates[:min(most, len(candidates))] {
		if d := distance(text, c, limit); d <= limit && c != text {
			best, limit = c, d-1
		}
	}
	return best
}

// distance counts the letters that were left out, added, changed or swapped with their neighbour; any
// number above the limit stands for more than the limit. Only the band of the table is filled in which
// a number within the limit can stand.
func distance(a, b string, limit int) int {
	if diff := len(a) - len(b); diff > limit || -diff > limit || len(a) > 63 {
		return limit + 1
	}
	before, last, row := make([]int, len(b)+2), make([]int, len(b)+2), make([]int, len(b)+2)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		from, to := max(1, i-limit), min(len(b), i+limit)
		row[from-1], row[to+1] = limit+1, limit+1
		if from == 1 {
			row[0] = i
		}
		for j := from; j <= to; j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}

// Quote puts a word into a message: in quotes, control characters escaped, cut where it is very long.
func Quote(text string) string { return strconv.Quote(clip(text)) }

// clip cuts a text that is too long for a message.
func clip(text string) string {
	const most = 60
	if len(text) <= most {
		return text
	}
	cut := most - 3
	for cut > 0 && !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut] + "..."
}

// ParseEntryWords reads the words of a wanted entry whose tuple is left out, such as "seen-reply 30s".
func ParseEntryWords(line string, proto uint8) (EntryWant, *LineError) {
	r := newLineReader(line, nil)
	any := EndpointWant{MaxPort: 65535}
	r.w.Proto, r.w.Orig = proto, TupleWant{any, any}
	for r.more() {
		r.word()
	}
	return r.w, r.err
}
