package sim

import (
	"net/netip"
	"strings"
)

// message is what the simulation needs to know of a DNS message.
type message struct {
	id       uint16
	answer   bool
	question string
	aaaa     bool   // the question is of type AAAA
	by       string // of an answer: the node on which the server runs
}

// Lengths of IPv4, UDP and DNS headers, and of a record behind its name: type, class, TTL, length.
const (
	ipHeader     = 20
	ipv6Header   = 40
	icmpHeader   = 8
	udpHeader    = 8
	dnsHeader    = 12
	questionTail = 4
	recordHead   = 10
	ipv4Length   = 4
	ipv6Length   = 16
)

// identityName is the owner of the TXT record in which a server says who it is.
const identityName = "id.server."

// nameLength is the length of a name on the wire, without compression: a length byte in front of each label,
// and the root's.
func nameLength(name string) int {
	name = strings.TrimSuffix(name, ".")
	if name == "" {
		return 1
	}
	return len(name) + 2
}

// length of the whole IP packet to an address, as lab/live's clients and servers send it: a question; in the
// answer a record of its type, and a TXT record that says who answered.
func (m message) length(to netip.Addr) int {
	n := ipHeader + udpHeader + dnsHeader + nameLength(m.question) + questionTail
	if to.Is6() {
		n += ipv6Header - ipHeader
	}
	if m.answer {
		n += nameLength(m.question) + recordHead + ipv4Length
		if m.aaaa {
			n += ipv6Length - ipv4Length
		}
		n += nameLength(identityName) + recordHead + 1 + len(m.by)
	}
	return n
}
