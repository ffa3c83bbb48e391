package conntrack

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Fields says which attributes of an Entry were given. What was not given is not zero: accounting,
// timestamps and helpers are there only if they were switched on when the entry was made.
type Fields uint32

// The attributes that an Entry may carry; both tuples and the status are always there.
const (
	HasTimeout Fields = 1 << iota
	HasMark
	HasUse
	HasID
	HasCounters // of both directions
	HasTimestamp
	HasStop // the stop stamp, in DESTROY events
	HasTCP
	HasHelper
	HasLabels
	HasMaster
	HasZone // both directions
	HasOrigZone
	HasReplyZone
	HasSecctx
	HasEventTime
)

// Counters are packets and bytes (whole IP packets) of one direction.
type Counters struct{ Packets, Bytes uint64 }

// TCPInfo is CTA_PROTOINFO_TCP.
type TCPInfo struct {
	State                   TCPState
	WScaleOrig, WScaleReply uint8
	FlagsOrig, FlagsReply   uint8
}

// Attr is an attribute that ctlab does not know, kept so that a newer kernel is reported, not hidden.
type Attr struct {
	Type  uint16
	Value string // raw bytes
}

// Entry is a conntrack entry as ctnetlink describes it (nf_conntrack_netlink.c, ctnetlink_fill_info).
type Entry struct {
	Known       Fields
	Orig, Reply Tuple
	Status      Status
	Timeout     uint32 // seconds left, rounded down
	Mark        uint32
	Use         uint32
	ID          uint32
	Zone        uint16
	OrigZone    uint16
	ReplyZone   uint16
	OrigCount   Counters
	ReplyCount  Counters
	Start, Stop uint64 // wall clock, ns
	EventTime   uint64 // wall clock, ns
	TCP         TCPInfo
	Helper      string
	Labels      string // raw bytes
	Secctx      string
	Master      Tuple
	Unknown     []Attr
}

// Has reports whether all attributes of f were given.
func (e *Entry) Has(f Fields) bool { return e.Known&f == f }

// Key is what makes an entry unique in one namespace: its original tuple and that direction's zone.
type Key struct {
	Tuple Tuple
	Zone  uint16
}

// Line is the tuple's line, and the zone behind it if it is not the default one; ParseKey reads it.
func (k Key) Line() string {
	if k.Zone == 0 {
		return k.Tuple.Line()
	}
	return fmt.Sprintf("%s zone %d", k.Tuple.Line(), k.Zone)
}

// ParseKey reads what Key.Line writes.
func ParseKey(line string) (Key, error) {
	f := &fields{words: strings.Fields(line)}
	k := Key{Tuple: f.tuple(f.protocol())}
	if f.take("zone") {
		k.Zone = uint16(f.uint(16))
	}
	return k, f.done(line)
}

// Key of the entry.
func (e *Entry) Key() Key {
	z := e.Zone
	if e.Has(HasOrigZone) {
		z = e.OrigZone
	}
	return Key{e.Orig, z}
}

// Tuples is the short form that names an entry: protocol and both tuples.
func (e *Entry) Tuples() string {
	return e.Orig.Line() + " | " + e.Reply.String()
}

// String is the full line, with every known attribute; ParseEntry reads it back.
func (e *Entry) String() string {
	var b strings.Builder
	b.WriteString(e.Tuples())
	if e.Has(HasTCP) {
		t := e.TCP
		fmt.Fprintf(&b, " %s wscale %d/%d tcp-flags 0x%x/0x%x", t.State, t.WScaleOrig, t.WScaleReply, t.FlagsOrig, t.FlagsReply)
	}
	fmt.Fprintf(&b, " status %s", e.Status)
	for _, a := range entryAttrs() {
		if e.Has(a.field) {
			b.WriteString(" " + a.word + " " + a.format(e))
		}
	}
	for _, u := range e.Unknown {
		fmt.Fprintf(&b, " unknown %d %s", u.Type, hexOrDash(u.Value))
	}
	return b.String()
}

// entryAttr is one attribute of the line form: its word, its text, how the text is read.
type entryAttr struct {
	field  Fields
	word   string
	format func(*Entry) string
	parse  func(*Entry, *fields)
}

func u32Attr(f Fields, word, verb string, at func(*Entry) *uint32) entryAttr {
	return entryAttr{f, word,
		func(e *Entry) string { return fmt.Sprintf(verb, *at(e)) },
		func(e *Entry, in *fields) { *at(e) = uint32(in.uint(32)) }}
}

func u16Attr(f Fields, word string, at func(*Entry) *uint16) entryAttr {
	return entryAttr{f, word,
		func(e *Entry) string { return strconv.Itoa(int(*at(e))) },
		func(e *Entry, in *fields) { *at(e) = uint16(in.uint(16)) }}
}

func u64Attr(f Fields, word string, at func(*Entry) *uint64) entryAttr {
	return entryAttr{f, word,
		func(e *Entry) string { return strconv.FormatUint(*at(e), 10) },
		func(e *Entry, in *fields) { *at(e) = in.uint(64) }}
}

func textAttr(f Fields, word string, at func(*Entry) *string) entryAttr {
	return entryAttr{f, word,
		func(e *Entry) string { return hexOrDash(*at(e)) },
		func(e *Entry, in *fields) { *at(e) = in.hex() }}
}

// entryAttrs is the line form of an entry behind its status, in the order of printing.
func entryAttrs() []entryAttr {
	return []entryAttr{
		{HasTimeout, "timeout",
			func(e *Entry) string { return (time.Duration(e.Timeout) * time.Second).String() },
			func(e *Entry, in *fields) { e.Timeout = in.seconds() }},
		u16Attr(HasZone, "zone", func(e *Entry) *uint16 { return &e.Zone }),
		u16Attr(HasOrigZone, "zone-orig", func(e *Entry) *uint16 { return &e.OrigZone }),
		u16Attr(HasReplyZone, "zone-reply", func(e *Entry) *uint16 { return &e.ReplyZone }),
		u32Attr(HasMark, "mark", "0x%x", func(e *Entry) *uint32 { return &e.Mark }),
		{HasCounters, "packets",
			func(e *Entry) string {
				o, r := e.OrigCount, e.ReplyCount
				return fmt.Sprintf("%d/%d bytes %d/%d", o.Packets, r.Packets, o.Bytes, r.Bytes)
			},
			func(e *Entry, in *fields) {
				e.OrigCount.Packets, e.ReplyCount.Packets = in.pair()
				in.expect("bytes")
				e.OrigCount.Bytes, e.ReplyCount.Bytes = in.pair()
			}},
		u32Attr(HasUse, "use", "%d", func(e *Entry) *uint32 { return &e.Use }),
		u32Attr(HasID, "id", "0x%x", func(e *Entry) *uint32 { return &e.ID }),
		u64Attr(HasTimestamp, "start", func(e *Entry) *uint64 { return &e.Start }),
		u64Attr(HasStop, "stop", func(e *Entry) *uint64 { return &e.Stop }),
		u64Attr(HasEventTime, "event-time", func(e *Entry) *uint64 { return &e.EventTime }),
		textAttr(HasHelper, "helper", func(e *Entry) *string { return &e.Helper }),
		textAttr(HasLabels, "labels", func(e *Entry) *string { return &e.Labels }),
		textAttr(HasSecctx, "secctx", func(e *Entry) *string { return &e.Secctx }),
		{HasMaster, "master",
			func(e *Entry) string { return e.Master.Line() },
			func(e *Entry, in *fields) { e.Master = in.tuple(in.protocol()) }},
	}
}

func hexOrDash(raw string) string {
	if raw == "" {
		return "-"
	}
	return hex.EncodeToString([]byte(raw))
}

func (f *fields) hex() string {
	w := f.next()
	if f.err != nil || w == "-" {
		return ""
	}
	b, err := hex.DecodeString(w)
	if err != nil {
		f.fail("%q is not hex", w)
	}
	return string(b)
}

func (f *fields) seconds() uint32 {
	w := f.next()
	if f.err != nil {
		return 0
	}
	d, err := time.ParseDuration(w)
	if err != nil || d < 0 || d%time.Second != 0 || d/time.Second > 1<<32-1 {
		f.fail("%q is not a time in whole seconds, such as 119s", w)
	}
	return uint32(d / time.Second)
}

func (f *fields) pair() (a, b uint64) {
	w := f.next()
	if f.err != nil {
		return 0, 0
	}
	x, y, ok := strings.Cut(w, "/")
	a, errA := strconv.ParseUint(x, 0, 64)
	b, errB := strconv.ParseUint(y, 0, 64)
	if !ok || errA != nil || errB != nil {
		f.fail("%q: want ORIGINAL/REPLY", w)
	}
	return a, b
}

// ParseEntry reads the full line form, as Entry.String writes it.
func ParseEntry(line string) (Entry, error) {
	f := &fields{words: strings.Fields(line)}
	e := f.entry()
	return e, f.done(line)
}

func (f *fields) entry() Entry {
	var e Entry
	proto := f.protocol()
	e.Orig = f.tuple(proto)
	f.expect("|")
	e.Reply = f.tuple(proto)
	attrs := entryAttrs()
	for f.err == nil && len(f.words) > 0 {
		w := f.next()
		if st, ok := ParseTCPState(w); ok {
			e.Known |= HasTCP
			e.TCP.State = st
			f.expect("wscale")
			a, b := f.pair()
			f.expect("tcp-flags")
			c, d := f.pair()
			e.TCP.WScaleOrig, e.TCP.WScaleReply, e.TCP.FlagsOrig, e.TCP.FlagsReply = uint8(a), uint8(b), uint8(c), uint8(d)
			continue
		}
		switch w {
		case "status":
			st, err := ParseStatus(f.next())
			if err != nil {
				f.fail("%v", err)
			}
			e.Status = st
			continue
		case "unknown":
			e.Unknown = append(e.Unknown, Attr{uint16(f.uint(16)), f.hex()})
			continue
		}
		f.attr(&e, attrs, w)
	}
	return e
}

func (f *fields) attr(e *Entry, attrs []entryAttr, word string) {
	for _, a := range attrs {
		if a.word == word {
			e.Known |= a.field
			a.parse(e, f)
			return
		}
	}
	f.fail("%q is no attribute of an entry", word)
}

// EventKind is the kind of a conntrack event.
type EventKind string

// The three kinds, as conntrack -E calls them.
const (
	New     EventKind = "new"
	Update  EventKind = "update"
	Destroy EventKind = "destroy"
)

// Event is a change of an entry, as multicast by ctnetlink.
type Event struct {
	Kind  EventKind
	Entry Entry
}

// String is the kind and the entry's full line.
func (e Event) String() string { return string(e.Kind) + " " + e.Entry.String() }

// ParseEvent reads what Event.String writes.
func ParseEvent(line string) (Event, error) {
	f := &fields{words: strings.Fields(line)}
	kind := EventKind(f.next())
	switch kind {
	case New, Update, Destroy:
	default:
		f.fail("%q is no kind of event", kind)
	}
	ev := Event{Kind: kind, Entry: f.entry()}
	return ev, f.done(line)
}
