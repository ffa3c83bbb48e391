package trace

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"ctlab/checks/conntrack"
	"ctlab/checks/model"
)

// reading is how an entry was seen; it decides which attributes must be there.
type reading string

const (
	byGet   reading = "get"
	byDump  reading = "dump"
	byEvent reading = "event"
)

// field is one row of the comparison: both sides as text. A field without a row would not be compared;
// a test holds the table against the fields of conntrack.Entry.
type field struct {
	name string
	of   []string // the fields of conntrack.Entry that the row covers
	// text gives one side; what was not given is "absent".
	text func(e *conntrack.Entry) string
	why  func(p *model.Predicted) string
}

func optional(f conntrack.Fields, text func(*conntrack.Entry) string) func(*conntrack.Entry) string {
	return func(e *conntrack.Entry) string {
		if !e.Has(f) {
			return "absent"
		}
		return text(e)
	}
}

func whyStatus(p *model.Predicted) string { return p.WhyStatus }
func whyReply(p *model.Predicted) string  { return p.WhyReply }
func whyCount(*model.Predicted) string {
	return "each packet that the tracker accepted is counted at the first hook (nf_ct_acct_update)"
}
func whyMark(*model.Predicted) string {
	return "CONNMARK rules and ctnetlink set it; an event shows it if it is not zero or has changed"
}
func whyZone(*model.Predicted) string  { return "the CT rule that the first packet met gives it" }
func whyNever(*model.Predicted) string { return "nothing in this namespace sets it" }

// fields are compared exactly. Time left, id and start have rules of their own.
func fields() []field {
	return []field{
		{"original", []string{"Orig"}, func(e *conntrack.Entry) string { return e.Orig.Line() }, func(*model.Predicted) string { return "the first packet's tuple; never changed" }},
		{"reply", []string{"Reply"}, func(e *conntrack.Entry) string { return e.Reply.String() }, whyReply},
		{"status", []string{"Status"}, func(e *conntrack.Entry) string { return e.Status.String() }, whyStatus},
		{"mark", []string{"Mark"}, optional(conntrack.HasMark, func(e *conntrack.Entry) string { return fmt.Sprintf("0x%x", e.Mark) }), whyMark},
		{"packets", []string{"OrigCount", "ReplyCount"}, optional(conntrack.HasCounters, func(e *conntrack.Entry) string {
			return fmt.Sprintf("%d/%d", e.OrigCount.Packets, e.ReplyCount.Packets)
		}), whyCount},
		{"bytes", nil, optional(conntrack.HasCounters, func(e *conntrack.Entry) string {
			return fmt.Sprintf("%d/%d", e.OrigCount.Bytes, e.ReplyCount.Bytes)
		}), whyCount},
		{"use", []string{"Use"}, optional(conntrack.HasUse, func(e *conntrack.Entry) string { return strconv.Itoa(int(e.Use)) }),
			func(*model.Predicted) string {
				return "the table's reference, a GET's own, and packets that wait for a neighbour"
			}},
		{"zone", []string{"Zone", "OrigZone", "ReplyZone"}, func(e *conntrack.Entry) string {
			if !e.Has(conntrack.HasZone) && !e.Has(conntrack.HasOrigZone) && !e.Has(conntrack.HasReplyZone) {
				return "absent"
			}
			return fmt.Sprintf("%d/%d/%d", e.Zone, e.OrigZone, e.ReplyZone)
		}, whyZone},
		{"tcp", []string{"TCP"}, optional(conntrack.HasTCP, func(e *conntrack.Entry) string { return fmt.Sprint(e.TCP) }), whyNever},
		{"helper", []string{"Helper"}, optional(conntrack.HasHelper, func(e *conntrack.Entry) string { return e.Helper }), whyNever},
		{"labels", []string{"Labels"}, optional(conntrack.HasLabels, func(e *conntrack.Entry) string { return fmt.Sprintf("%x", e.Labels) }), whyNever},
		{"secctx", []string{"Secctx"}, optional(conntrack.HasSecctx, func(e *conntrack.Entry) string { return e.Secctx }), whyNever},
		{"master", []string{"Master"}, optional(conntrack.HasMaster, func(e *conntrack.Entry) string { return e.Master.Line() }), whyNever},
		{"unknown attributes", []string{"Unknown"}, func(e *conntrack.Entry) string { return fmt.Sprint(e.Unknown) }, whyNever},
		{"timestamps", []string{"Start", "Stop", "EventTime"}, func(e *conntrack.Entry) string {
			return fmt.Sprint(e.Has(conntrack.HasTimestamp), e.Has(conntrack.HasStop), e.Has(conntrack.HasEventTime))
		}, func(*model.Predicted) string { return "nf_conntrack_timestamp is off" }},
	}
}

// Difference is one field in which kernel and model differ.
type Difference struct {
	Record Record // where it was seen; for something that was not seen, the last record
	What   string // an entry, a packet, an event, a counter
	Field  string
	Kernel string
	Model  string
	Why    string // the model's reason
}

// String is the difference in one line.
func (d Difference) String() string {
	s := fmt.Sprintf("%s: %s: kernel %s, model %s", d.What, d.Field, d.Kernel, d.Model)
	if d.Why != "" {
		s += " (" + d.Why + ")"
	}
	return s
}

// compareEntry holds an entry that was read against its prediction. n counts the fields compared.
func (h *hypothesis) compareEntry(r Record, how reading, p *model.Predicted, e *conntrack.Entry) (diffs []Difference, n int) {
	differ := func(name, kernel, modelSide, why string) {
		diffs = append(diffs, Difference{r, p.Entry.Tuples(), name, kernel, modelSide, why})
	}
	holding := 0
	for _, f := range fields() {
		n++
		k, m := f.text(e), f.text(&p.Entry)
		if k != m && f.name == "use" {
			holding = h.holding(r, p)
			if above := int(e.Use) - int(p.Entry.Use); e.Has(conntrack.HasUse) && above > 0 && above <= holding {
				continue
			}
		}
		if k != m {
			differ(f.name, k, m, f.why(p))
		}
	}
	n++
	kernel, want, same := h.compareTimeout(r.Span, how, p, e)
	if !same {
		differ("time left", kernel, want, p.WhyTimeout)
	}
	n++
	if before, ok := h.ids[p.Serial]; !e.Has(conntrack.HasID) || ok && before != e.ID {
		differ("id", fmt.Sprintf("0x%x", e.ID), fmt.Sprintf("0x%x", before), "the id of an entry does not change")
	}
	if diffs == nil {
		h.ids[p.Serial] = e.ID
	}
	if diffs == nil && holding > 0 {
		h.choices = append(slices.Clip(h.choices), model.Choice{Kind: model.ChooseOrder, Options: holding + 1,
			Subject: "how many packets of " + p.Entry.Orig.Line() + " were on their way when it was read"})
	}
	return diffs, n
}

// lingering bounds how long after its stamp a packet may hold its entry: the reference goes with the packet, behind the
// tap, and the processor may be taken away in between (8 ms and 212 ms were seen on a busy guest with two of them).
const lingering = 250 * time.Millisecond

// holding is how many packets may have been in the hooks when an entry was read, and held it: at most each that the
// entry had in the time before.
func (h *hypothesis) holding(r Record, p *model.Predicted) (most int) {
	for t := h.packets; t != nil && t.Record.end()+lingering >= r.At; t = t.before {
		if t.Outcome.Entry != nil && *t.Outcome.Entry == p.Entry.Orig {
			most++
		}
	}
	return most
}

// compareTimeout: the kernel's number is right if some tick of the entry's expiry Span and some tick of
// the read Span give it. There is no other tolerance.
func (h *hypothesis) compareTimeout(read conntrack.Span, how reading, p *model.Predicted, e *conntrack.Entry) (kernel, want string, same bool) {
	hz := h.hz
	kernel = "absent"
	if e.Has(conntrack.HasTimeout) {
		kernel = fmt.Sprintf("%ds", e.Timeout)
	}
	low, high := int64(p.Expiry.From-read.To), int64(p.Expiry.To-read.From)
	if how == byEvent && p.Gone {
		if p.Expired || !h.profile.DestroyTimeout {
			return kernel, "absent", !e.Has(conntrack.HasTimeout)
		}
		if !e.Has(conntrack.HasTimeout) { // a DESTROY leaves out a time of less than a second
			return kernel, seconds(low/hz, high/hz), low < hz
		}
	}
	low = max(low, 0)
	if high < low {
		return kernel, "expired", false
	}
	want = seconds(low/hz, high/hz)
	return kernel, want, e.Has(conntrack.HasTimeout) && int64(e.Timeout) >= low/hz && int64(e.Timeout) <= high/hz
}

func seconds(a, b int64) string {
	if a == b {
		return fmt.Sprintf("%ds", a)
	}
	return fmt.Sprintf("%ds..%ds", a, b)
}

// comparePacket holds a packet that left against the prediction.
func comparePacket(r Record, want *model.Left, dev string, p *conntrack.Packet) (diffs []Difference) {
	if dev != want.Dev {
		diffs = append(diffs, Difference{r, "packet", "device", dev, want.Dev, want.Why})
	}
	seen, predicted := *p, want.Packet
	predicted.Bad = seen.Bad // NAT and forwarding mend checksums; a bad one stays bad
	if want.Own {
		seen.ID = predicted.ID
	}
	if seen.Line() != predicted.Line() {
		diffs = append(diffs, Difference{r, "packet", "left as", seen.Line(), predicted.Line(), want.Why})
	}
	return diffs
}
