package service

import "net/netip"

// Family is an address family: what iptables or ip6tables is about.
type Family string

// The families.
const (
	IPv4 Family = "ipv4"
	IPv6 Family = "ipv6"
)

// FamilyOf an address.
func FamilyOf(a netip.Addr) Family {
	if a.Is4() {
		return IPv4
	}
	return IPv6
}

// Of are the services whose VIP is of a family; one has addresses and backends of one family only.
func Of(f Family, services []Service) []Service {
	var out []Service
	for _, s := range services {
		if FamilyOf(s.VIP) == f {
			out = append(out, s)
		}
	}
	return out
}
