package trace

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"ctlab/checks/conntrack"
	"ctlab/checks/model"
)

const (
	noDevice = "-"
	isWord   = " is "
)

// parseCTInfo reads DEV PACKET is CTINFO.
func parseCTInfo(args string) (c model.CTInfo, err error) {
	at := strings.LastIndex(args, isWord)
	if at < 0 {
		return c, fmt.Errorf("ctinfo %q: want DEV PACKET is CTINFO", args)
	}
	c.CT = args[at+len(isWord):]
	switch c.CT {
	case "new", "established", "related", "established-reply", "related-reply", "untracked", "invalid":
	default:
		return c, fmt.Errorf("ctinfo %q: no such", c.CT)
	}
	if c.Dev, c.Packet, err = devicePacket(args[:at]); c.Dev == noDevice {
		c.Dev = ""
	}
	return c, err
}

// parseCTInfo reads the header's SOURCE, or SOURCE lost N.
func (h *Header) parseCTInfo(text string) (err error) {
	source, lost, some := strings.Cut(text, " lost ")
	h.CTInfo = source
	if some {
		h.CTLost, err = strconv.Atoi(lost)
	}
	if err != nil || strings.ContainsRune(source, ' ') || some && h.CTLost <= 0 {
		return fmt.Errorf("ctinfo %q: want SOURCE, or SOURCE lost N", text)
	}
	return nil
}

// pendingCT is a prediction of a ctinfo that must be seen, and when its packet came.
type pendingCT struct {
	model.CTInfo
	at time.Duration
}

// sees reports whether a ctinfo that was seen is of this packet. The L4 checksum of what was seen is not known, nor by each means
// what it quotes.
func (p pendingCT) sees(c model.CTInfo) bool {
	seen, want := c.Packet, p.Packet
	seen.Bad, want.Bad = "", ""
	if p.Own {
		seen.ID = want.ID
		seen.About = quotedID(seen.About, want.About)
	}
	if seen.About == nil {
		want.About = nil
	}
	return c.Dev == p.Dev && seen.Line() == want.Line()
}

// quotedID is a packet that an error of the stack's own quotes. If that is of its own as well, and went over lo, where nothing is
// recorded, its IP id was its own choice too, and the model has 0.
func quotedID(seen, want *conntrack.Packet) *conntrack.Packet {
	if seen == nil || want == nil || want.ID != 0 {
		return seen
	}
	q := *seen
	q.ID = 0
	return &q
}

// predictCTInfo queues what the model says of packets since the last input; where the cause came late it may have been
// seen.
func (h *hypothesis) predictCTInfo(at time.Duration) {
	for _, c := range h.ns.CTInfos() {
		p := pendingCT{c, at}
		if !h.looked || h.ended || h.takeEarlyCTInfo(p) {
			continue
		}
		h.ctinfos = append(slices.Clip(h.ctinfos), p)
	}
}

func (h *hypothesis) takeEarlyCTInfo(p pendingCT) bool {
	for i, r := range h.earlyCT {
		if c, err := parseCTInfo(r.Args); err == nil && p.sees(c) && p.CT == c.CT {
			h.earlyCT = slices.Delete(slices.Clone(h.earlyCT), i, i+1)
			return true
		}
	}
	return false
}

// seeCTInfo holds a ctinfo against the first packet that it may be of. One of a packet that nothing explains yet waits for its
// cause; behind the end of what the tap saw nobody knows the packets.
func (h *hypothesis) seeCTInfo(r Record) []Difference {
	c, err := parseCTInfo(r.Args)
	if err != nil {
		return []Difference{{r, "packet", "line", r.Args, "", err.Error()}}
	}
	i := slices.IndexFunc(h.ctinfos, func(p pendingCT) bool { return p.sees(c) })
	if i < 0 {
		if !h.ended {
			h.earlyCT = append(slices.Clip(h.earlyCT), r)
		}
		return nil
	}
	h.fields++
	want := h.ctinfos[i]
	h.ctinfos = slices.Delete(slices.Clone(h.ctinfos), i, i+1)
	if want.CT == c.CT {
		return nil
	}
	return []Difference{{r, "packet " + c.Packet.Line(), "ctinfo", c.CT, want.CT, "what nf_conntrack_in attaches"}}
}

// overdueCTInfo takes out what no input explained in time.
func (h *hypothesis) overdueCTInfo(now time.Duration) (diffs []Difference) {
	for len(h.earlyCT) > 0 && now-h.earlyCT[0].At > lateness {
		diffs = append(diffs, unexplainedCTInfo(h.earlyCT[0]))
		h.earlyCT = h.earlyCT[1:]
	}
	return diffs
}

func unexplainedCTInfo(r Record) Difference {
	return Difference{r, "packet", "ctinfo", r.Args, "no such packet passes nf_conntrack_in", ""}
}

// endCTInfo: packets that were on their way when the tap was closed may not have been seen any more.
func (h *hypothesis) endCTInfo(ended time.Duration) {
	h.ctinfos = slices.DeleteFunc(slices.Clone(h.ctinfos), func(p pendingCT) bool { return p.at > ended-packetEnd })
}

// leftCTInfo lists what is still expected at the end. A packet without a ctinfo says something only if all were recorded.
func (h *hypothesis) leftCTInfo(every bool) (diffs []Difference) {
	for _, r := range h.earlyCT {
		diffs = append(diffs, unexplainedCTInfo(r))
	}
	if !every {
		return diffs
	}
	for _, p := range h.ctinfos {
		if p.Packet.IsDiscovery() { // of these a recording has no ctinfo: the kernel makes many, and tracks none
			continue
		}
		diffs = append(diffs, Difference{Record{At: p.at}, "packet " + p.Packet.Line(), "ctinfo", "nothing was seen", p.CT, ""})
	}
	return diffs
}
