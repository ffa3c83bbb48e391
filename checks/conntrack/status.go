package conntrack

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"
)

// Status is the set of IPS_* bits of an entry (CTA_STATUS;
// include/uapi/linux/netfilter/nf_conntrack_common.h, 6.18).
type Status uint32

// The status bits, with the kernel's numbers.
const (
	Expected     Status = 1 << iota
	SeenReply           // a valid packet came in reply direction
	Assured             // not evicted by early drop
	Confirmed           // in the table; an entry that can be read has it
	SrcNAT              // the reply tuple was changed by source NAT
	DstNAT              // the reply tuple was changed by destination NAT
	SeqAdjust           // a helper changed payload lengths
	SrcNATDone          // the source half of NAT is set up, if only by a null binding
	DstNATDone          // the destination half of NAT is set up
	Dying               // deleted; seen in DESTROY events only
	FixedTimeout        // refresh leaves the timeout alone
	Template            // a template of the CT target, never in the table
	NATClash            // lost a clash, in the table under its reply tuple only
	Helper              // a helper was attached explicitly
	Offload             // in a flowtable
	HWOffload
)

var statusWords = [...]string{"expected", "seen-reply", "assured", "confirmed", "snat", "dnat", "seq-adjust", "snat-done", "dnat-done",
	"dying", "fixed-timeout", "template", "nat-clash", "helper", "offload", "hw-offload"}

// Has reports whether all bits of b are set.
func (s Status) Has(b Status) bool { return s&b == b }

// Words are the names of the set bits in bit order; a bit without a name is written as a hex number.
func (s Status) Words() []string {
	var w []string
	for rest := uint32(s); rest != 0; rest &= rest - 1 {
		i := bits.TrailingZeros32(rest)
		if i < len(statusWords) {
			w = append(w, statusWords[i])
		} else {
			w = append(w, fmt.Sprintf("0x%x", 1<<i))
		}
	}
	return w
}

// String is the words joined by commas, or "none".
func (s Status) String() string {
	if s == 0 {
		return "none"
	}
	return strings.Join(s.Words(), ",")
}

// ParseStatusWord finds a single status word, such as "assured".
func ParseStatusWord(w string) (Status, bool) {
	for i, n := range statusWords {
		if n == w {
			return 1 << i, true
		}
	}
	return 0, false
}

// ParseStatus reads what String writes.
func ParseStatus(text string) (Status, error) {
	if text == "none" {
		return 0, nil
	}
	var s Status
	for _, w := range strings.Split(text, ",") {
		if b, ok := ParseStatusWord(w); ok {
			s |= b
			continue
		}
		n, err := strconv.ParseUint(w, 0, 32)
		if err != nil {
			return 0, fmt.Errorf("status %q: no such word", w)
		}
		s |= Status(n)
	}
	return s, nil
}

// StatusWords lists the words of all bits, in bit order.
func StatusWords() []string { return append([]string(nil), statusWords[:]...) }

// TCPState is the state of the TCP tracker (enum tcp_conntrack; nf_conntrack_tcp.h).
type TCPState uint8

var tcpStates = [...]string{"NONE", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK", "TIME_WAIT", "CLOSE", "SYN_SENT2"}

// String is the kernel's name of the state.
func (s TCPState) String() string {
	if int(s) < len(tcpStates) {
		return tcpStates[s]
	}
	return fmt.Sprintf("TCP_STATE_%d", uint8(s))
}

// ParseTCPState reads what String writes.
func ParseTCPState(w string) (TCPState, bool) {
	for i, n := range tcpStates {
		if n == w {
			return TCPState(i), true
		}
	}
	return 0, false
}
