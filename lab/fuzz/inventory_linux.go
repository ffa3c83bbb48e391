package fuzz

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"

	"ctlab/checks/trace"
)

// inventory reads the rules' counters, and what the namespace was given, back from the kernel, so that an input
// that is missing in the trace shows.
func (a *arena) inventory(ctx context.Context) error {
	if err := a.hits(ctx); err != nil {
		return err
	}
	for _, state := range []struct {
		name string
		read func() ([]string, error)
	}{{"sysctls", a.sysctls}, {"links", a.links}, {"addresses", a.addresses}, {"routes", a.routes}} {
		from := a.tick()
		lines, err := state.read()
		if err != nil {
			return fmt.Errorf("read %s: %w", state.name, err)
		}
		slices.Sort(lines)
		a.did(from, trace.State, state.name, strings.Join(lines, "\n"))
	}
	return nil
}

func (a *arena) hits(ctx context.Context) error {
	from, kind, ipt := a.tick(), trace.Hits, a.ipt
	if a.s.Six {
		kind, ipt = trace.Hits6, a.ip6t
	}
	text, err := ipt.Hits(ctx, a.node)
	if err != nil {
		return err
	}
	lines := slices.DeleteFunc(strings.Split(strings.TrimSpace(text), "\n"), func(l string) bool { return strings.HasPrefix(l, "#") })
	a.did(from, kind, "", strings.Join(lines, "\n"))
	return nil
}

// sysctls are those that the trace tells of.
func (a *arena) sysctls() (lines []string, err error) {
	var names []string
	for _, r := range a.records {
		if name, _, _ := strings.Cut(r.Args, " "); r.Kind == trace.Sysctl && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	values, err := a.node.NS.ReadSysctls(names...)
	for name, v := range values {
		lines = append(lines, name+" "+v)
	}
	return lines, err
}

func (a *arena) links() (lines []string, err error) {
	all, err := a.nl.LinkList()
	for _, l := range all {
		if l.Attrs().Flags&net.FlagLoopback != 0 {
			continue
		}
		state := " down"
		if l.Attrs().Flags&net.FlagUp != 0 {
			state = " up"
		}
		lines = append(lines, l.Attrs().Name+state)
	}
	return lines, err
}

func (a *arena) addresses() (lines []string, err error) {
	for _, l := range a.inner {
		addrs, err := a.nl.AddrList(l, a.family())
		if err != nil {
			return nil, err
		}
		for _, addr := range addrs {
			lines = append(lines, l.Attrs().Name+" "+addr.IPNet.String())
		}
	}
	return lines, nil
}

// routes are those of the wires' subnets.
func (a *arena) routes() (lines []string, err error) {
	for k, l := range a.inner {
		routes, err := a.nl.RouteListFiltered(a.family(), &netlink.Route{LinkIndex: l.Attrs().Index}, netlink.RT_FILTER_OIF)
		if err != nil {
			return nil, err
		}
		for _, r := range routes {
			if r.Dst != nil && !r.Dst.IP.IsMulticast() {
				lines = append(lines, r.Dst.String()+" dev "+a.s.Wires[k].Device)
			}
		}
	}
	return lines, nil
}
