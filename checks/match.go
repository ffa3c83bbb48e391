package checks

import (
	"cmp"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"ctlab/checks/conntrack"
)

// Matches reports whether the entry is a wanted one. Stale says whether the entry is stale; age is the
// time since the entry's last packet, or below 0 if that is not known.
func (w *EntryWant) Matches(e *conntrack.Entry, stale bool, age time.Duration) bool {
	return len(w.Mismatch(e, stale, age)) == 0
}

// Mismatch names what of the want the entry does not meet, in the order of the line: "protocol",
// "source", "destination", "reply source", "reply destination", "state", status words as the line has
// them ("not-assured"), "stale" or "not-stale", "time left", "zone", "zone-orig", "zone-reply",
// "mark", "packets", "use". The fewer there are, the nearer is the entry.
func (w *EntryWant) Mismatch(e *conntrack.Entry, stale bool, age time.Duration) []string {
	var out []string
	need := func(ok bool, name string) {
		if !ok {
			out = append(out, name)
		}
	}
	need(w.Proto == e.Orig.Proto, "protocol")
	need(w.Orig.Src.contains(e.Orig.Src, e.Orig.SrcPort), "source")
	need(w.Orig.Dst.contains(e.Orig.Dst, e.Orig.DstPort), "destination")
	if w.Reply != nil {
		need(w.Reply.Src.contains(e.Reply.Src, e.Reply.SrcPort), "reply source")
		need(w.Reply.Dst.contains(e.Reply.Dst, e.Reply.DstPort), "reply destination")
	}
	if w.TCPState != nil {
		need(e.Has(conntrack.HasTCP) && e.TCP.State == *w.TCPState, "state")
	}
	out = append(out, (w.Has &^ e.Status).Words()...)
	for _, word := range (w.HasNot & e.Status).Words() {
		out = append(out, "not-"+word)
	}
	if w.Stale != nil {
		need(*w.Stale == stale, map[bool]string{true: "stale", false: "not-stale"}[*w.Stale])
	}
	if w.Left != nil {
		need(e.Has(conntrack.HasTimeout) && w.Left.matches(e.Timeout, age), "time left")
	}
	orig, reply := zones(e)
	need(w.Zone == nil || orig == *w.Zone && reply == *w.Zone, "zone")
	need(w.ZoneOrig == nil || orig == *w.ZoneOrig, "zone-orig")
	need(w.ZoneReply == nil || reply == *w.ZoneReply, "zone-reply")
	// The kernel leaves a mark of 0 out, so an entry without one has the mark 0.
	need(w.Mark == nil || e.Mark&w.MarkMask == *w.Mark, "mark")
	if p := w.Packets; p != nil {
		known := e.Has(conntrack.HasCounters)
		need(known && p[0].contains(e.OrigCount.Packets) && p[1].contains(e.ReplyCount.Packets), "packets")
	}
	need(w.Use == nil || e.Has(conntrack.HasUse) && w.Use.Contains(int64(e.Use)), "use")
	return out
}

func (w EndpointWant) contains(a netip.Addr, port uint16) bool {
	if w.Prefix.IsValid() && !w.Prefix.Contains(a) {
		return false
	}
	return w.MinPort <= port && port <= w.MaxPort
}

func (r Range) contains(n uint64) bool { return n < 1<<63 && r.Contains(int64(n)) }

// zones of the two directions; a direction that the kernel says nothing of is in zone 0.
func zones(e *conntrack.Entry) (orig, reply uint16) {
	if e.Has(conntrack.HasZone) {
		return e.Zone, e.Zone
	}
	if e.Has(conntrack.HasOrigZone) {
		orig = e.OrigZone
	}
	if e.Has(conntrack.HasReplyZone) {
		reply = e.ReplyZone
	}
	return orig, reply
}

// matches compares a wanted time left with the kernel's whole seconds.
//
// A packet sets an entry's time to W seconds; a read that comes a later is shown W-a, rounded down. A
// single wanted time is such a W, so what is shown is at most W and at least W - ceil(a). The measured
// age may fall short of a (the read comes after the measurement, and the kernel counts in ticks), which
// can cost one more second. A time that was copied from a report is not W but what was shown at some
// age; it is shown again by a run that reads as late, which is why the upper end does not sink with a.
// If the age is not known it counts as nothing, or 1 second: an author who knows better writes a range.
func (t TimeLeft) matches(seconds uint32, age time.Duration) bool {
	shown := time.Duration(seconds) * time.Second
	if t.Min != t.Max {
		return shown >= t.Min && (t.Max < 0 || shown <= t.Max)
	}
	if age < 0 {
		age = time.Second
	}
	late := (age + time.Second - 1) / time.Second * time.Second
	return shown <= t.Min && shown >= t.Min-late-time.Second
}

// valueWord is a word that takes a value, which is the word behind it.
type valueWord struct {
	word string
	read func(w *EntryWant, value string) *LineError
}

func valueWords() []valueWord {
	return []valueWord{
		{"zone", func(w *EntryWant, v string) *LineError { return readZone(&w.Zone, v) }},
		{"zone-orig", func(w *EntryWant, v string) *LineError { return readZone(&w.ZoneOrig, v) }},
		{"zone-reply", func(w *EntryWant, v string) *LineError { return readZone(&w.ZoneReply, v) }},
		{"mark", readMark},
		{"packets", readPackets},
		{"use", func(w *EntryWant, v string) *LineError {
			n, err := ParseRange(v)
			w.Use = &n
			return err
		}},
	}
}

func readZone(zone **uint16, text string) *LineError {
	n, err := ParseNumber(text)
	if err == nil && n > 65535 {
		err = &LineError{0, len(text), "zone " + clip(text) + " is above 65535", ""}
	}
	z := uint16(n)
	*zone = &z
	return err
}

func readMark(w *EntryWant, text string) *LineError {
	value, mask, masked := strings.Cut(text, "/")
	w.MarkMask = 1<<32 - 1
	v, err := parseMark(value)
	if err == nil && masked {
		if w.MarkMask, err = parseMark(mask); err != nil {
			err.Offset += len(value) + 1
		}
	}
	if err == nil && v&^w.MarkMask != 0 {
		err = &LineError{0, len(text), Quote(text) + ": the mark has bits outside its mask", ""}
	}
	w.Mark = &v
	return err
}

func parseMark(text string) (uint32, *LineError) {
	digits, hex := strings.CutPrefix(text, "0x")
	if hex {
		if n, err := strconv.ParseUint(digits, 16, 32); err == nil {
			return uint32(n), nil
		}
		return 0, &LineError{0, len(text), Quote(text) + " is no mark of 32 bits", "mark 0x4/0xff"}
	}
	n, err := ParseNumber(text)
	if err == nil && n > 1<<32-1 {
		err = &LineError{0, len(text), Quote(text) + " is no mark of 32 bits", "mark 0x4/0xff"}
	}
	return uint32(n), err
}

func readPackets(w *EntryWant, text string) *LineError {
	orig, reply, both := strings.Cut(text, "/")
	if !both {
		return &LineError{0, len(text), "packets: " + Quote(text) + " is one number", "packets ORIGINAL/REPLY, such as packets 3/2"}
	}
	o, err := ParseRange(orig)
	if err != nil {
		return err
	}
	p, err := ParseRange(reply)
	if err != nil {
		err.Offset += len(orig) + 1
		return err
	}
	w.Packets = &[2]Range{o, p}
	return nil
}

// ParseNumber reads a whole number from 0 in decimal.
func ParseNumber(text string) (int64, *LineError) {
	fail := func(msg, hint string) (int64, *LineError) { return 0, &LineError{0, len(text), msg, hint} }
	digits := strings.ReplaceAll(text, "_", "")
	switch {
	case isDigits(text) && len(text) > 1 && text[0] == '0':
		return fail(clip(text)+" has a leading zero", leadingZeroHint(text))
	case isDigits(text) && len(text) > 15:
		return fail(clip(text)+" is too large", "")
	case isDigits(text):
		n, _ := strconv.ParseInt(text, 10, 64)
		return n, nil
	case isDigits(digits) && startsNumber(text):
		return fail(Quote(text)+" has an underscore", "write: "+clip(digits))
	case strings.HasPrefix(text, "0x"):
		return fail(Quote(text)+" is hexadecimal", "write it in decimal")
	case startsNumber(text):
		if f, err := strconv.ParseFloat(text, 64); err == nil && f == float64(int64(f)) && f < 1e15 {
			return fail(Quote(text)+" is no plain whole number", "write: "+strconv.FormatInt(int64(f), 10))
		}
	}
	return fail(Quote(text)+" is no whole number", "")
}

func isDigits(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

func startsNumber(s string) bool { return s != "" && s[0] >= '0' && s[0] <= '9' }

func leadingZeroHint(text string) string {
	decimal := strings.TrimLeft(text, "0")
	if decimal == "" {
		return "write: 0"
	}
	if n, err := strconv.ParseInt(text, 8, 64); err == nil {
		return clip(decimal) + ", or octal " + strconv.FormatInt(n, 10) + "? write it in decimal"
	}
	return "write: " + clip(decimal)
}

// ParseRange reads N, A..B, A.. or ..B.
func ParseRange(text string) (Range, *LineError) {
	from, to, ranged := strings.Cut(text, "..")
	if !ranged {
		n, err := ParseNumber(text)
		return Exactly(n), err
	}
	r := Range{0, -1}
	var err *LineError
	if from != "" || to == "" {
		r.Min, err = ParseNumber(from)
	}
	if err == nil && to != "" {
		if r.Max, err = ParseNumber(to); err != nil {
			err.Offset += len(from) + 2
		}
	}
	if from == "" && to == "" {
		err = &LineError{0, len(text), "\"..\" has no ends", "2..4, 2.. or ..4"}
	}
	if err == nil && r.Max >= 0 && r.Max < r.Min {
		err = &LineError{0, len(text), Quote(text) + " runs backwards", clip(to) + ".." + clip(from)}
	}
	return r, err
}

// unit is a unit of time; units of one duration come in this order, the longest first.
type unit struct {
	name string
	d    time.Duration
}

func units() []unit {
	return []unit{{"d", 24 * time.Hour}, {"h", time.Hour}, {"m", time.Minute}, {"s", time.Second},
		{"ms", time.Millisecond}, {"us", time.Microsecond}}
}

// ParseDuration reads a time: numbers with units, such as 300ms, 2.5s, 1m30s or 5d.
func ParseDuration(text string) (time.Duration, *LineError) {
	fail := func(msg, hint string) (time.Duration, *LineError) {
		return 0, &LineError{0, len(text), msg, hint}
	}
	if !startsNumber(text) {
		return fail(Quote(text)+" is no time", "300ms, 5s or 1m30s")
	}
	var total time.Duration
	left := units()
	for rest := text; rest != ""; {
		number := rest[:len(rest)-len(strings.TrimLeft(rest, "0123456789."))]
		rest = rest[len(number):]
		name := rest[:len(rest)-len(strings.TrimLeft(rest, "abcdefghijklmnopqrstuvwxyz"))]
		rest = rest[len(name):]
		if name == "" && rest == "" {
			return fail(Quote(text)+" has no unit", unitHint(text))
		}
		for len(left) > 0 && left[0].name != name {
			left = left[1:]
		}
		if len(left) == 0 {
			return fail(Quote(text)+" is no time", "300ms, 5s or 1m30s; units: d h m s ms us")
		}
		d, msg := scale(number, left[0].d)
		if msg != "" || total+d < 0 {
			return fail(Quote(text)+cmp.Or(msg, " is too long"), "")
		}
		total += d
		left = left[1:]
	}
	return total, nil
}

func unitHint(text string) string {
	if isDigits(text) {
		return clip(text) + "ms or " + clip(text) + "s?"
	}
	return "units: d h m s ms us"
}

// scale is number times d; a fraction has up to three digits, which keeps the product whole and small.
func scale(number string, d time.Duration) (time.Duration, string) {
	whole, fraction, pointed := strings.Cut(number, ".")
	if !isDigits(whole) || pointed && !isDigits(fraction) {
		return 0, " is no time"
	}
	if len(whole) > 1 && whole[0] == '0' {
		return 0, " has a leading zero"
	}
	if len(fraction) > 3 {
		return 0, " has more than three decimals"
	}
	n, err := strconv.ParseInt(whole, 10, 64)
	if err != nil || n > int64((1<<63-1)/d) {
		return 0, " is too long"
	}
	thousandths, _ := strconv.ParseInt((fraction + "000")[:3], 10, 64)
	t := time.Duration(n)*d + time.Duration(thousandths)*d/1000
	if t < 0 {
		return 0, " is too long"
	}
	return t, ""
}

// parseTimeLeft reads a time or a range of times. The kernel shows whole seconds, so nothing finer can
// be wanted; a range of one second would be taken for a single time, which means something else.
func parseTimeLeft(text string) (TimeLeft, *LineError) {
	from, to, ranged := strings.Cut(text, "..")
	if !ranged {
		d, err := wholeSeconds(text, 0)
		return TimeLeft{d, d}, err
	}
	t := TimeLeft{0, -1} // a Max below 0 is no upper end
	var err *LineError
	if from != "" || to == "" {
		t.Min, err = wholeSeconds(from, 0)
	}
	if err == nil && to != "" {
		t.Max, err = wholeSeconds(to, len(from)+2)
	}
	switch {
	case err != nil:
	case t.Max >= 0 && t.Max < t.Min:
		err = &LineError{0, len(text), Quote(text) + " runs backwards", clip(to) + ".." + clip(from)}
	case t.Max == t.Min:
		err = &LineError{0, len(text), Quote(text) + " is a range of one time", "write: " + clip(to)}
	}
	return t, err
}

func wholeSeconds(text string, at int) (time.Duration, *LineError) {
	d, err := ParseDuration(text)
	if err == nil && d%time.Second != 0 {
		err = &LineError{0, len(text), Quote(text) + " is not whole seconds, which is what the kernel shows", ""}
	}
	if err != nil {
		err.Offset += at
	}
	return d, err
}
