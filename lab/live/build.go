//go:build linux

package live

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"ctlab/checks/kernel"
	"ctlab/checks/observe"
	"ctlab/checks/trace"
	"ctlab/lab"
	"ctlab/topology"
	"ctlab/topology/service"
)

// calibrationSamples is how many ticks the calibration watches at the start; later on it looks now and then.
const calibrationSamples = 12

// Build makes the network. While it works, another thread calibrates the tick clock and a scratch
// namespace shows which profile this kernel has.
func (g *Ground) Build(ctx context.Context) (lab.Setting, error) {
	start := time.Now()
	var set lab.Setting
	var err error
	if g.calib, err = observe.NewCalibration(); err != nil {
		return set, err
	}
	g.clock = g.calib.Now
	g.calm, g.calmed = make(chan struct{}), make(chan struct{})
	go func() {
		defer close(g.calmed)
		g.calib.Watch(calibrationSamples, g.calm)
		g.calib.Keep(g.calm)
	}()
	g.built = true
	probed := make(chan probeResult, 1)
	go func() { probed <- examine(ctx, g.Backend, g.speaksIPv6()) }()
	err = g.build(ctx)
	found := <-probed
	if err = errors.Join(err, found.err); err != nil {
		return set, err
	}
	g.profile, g.ipts = found.profile, found.ipts
	return lab.Setting{Kernel: found.release, Iptables: g.ipts[service.IPv4].Version, Profile: g.profile.Name, Probed: found.seen,
		Ordinary: InUserNamespace(), Limits: g.limits(), Nodes: len(g.lab.Nodes), Took: time.Since(start)}, nil
}

// limits are what the recording has to do without on this machine.
func (g *Ground) limits() (out []string) {
	if !g.calib.Exact() {
		out = append(out, "the kernel does not tell its tick by BPF, so that each is known to one more")
	}
	for _, t := range g.tracked {
		if err := t.awaitCTInfo(); err != nil {
			out = append(out, "ctinfo of packets is not compared: "+causes(err))
			break // all have the same
		}
	}
	for _, t := range g.tracked {
		if n := t.ears.Buffer(); n < kernel.EventBuffer {
			out = append(out, fmt.Sprintf("room for %d events that are not read yet (net.core.rmem_max)", n/kernel.EventCost))
			break // all have the same
		}
	}
	return out
}

// causes are several errors in one line.
func causes(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

func (g *Ground) build(ctx context.Context) error {
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"namespaces", g.buildNodes},
		{"links", g.buildLinks},
		{"addresses", g.buildAddresses},
	} {
		begin := time.Now()
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := step.do(); err != nil {
			return fmt.Errorf("build %s: %w", step.name, err)
		}
		g.phases = append(g.phases, lab.Phase{Name: step.name, Took: time.Since(begin)})
	}
	return nil
}

// buildNodes makes the namespaces; a tracked one is recorded before it has a link.
func (g *Ground) buildNodes() error {
	for _, spec := range g.lab.Nodes {
		n, err := g.net.AddNode(spec.Name)
		if err != nil {
			return err
		}
		g.nodes[spec.Name] = n
		if g.lab.Speaks(spec, service.IPv6) {
			if err := n.SpeakIPv6(); err != nil {
				return err
			}
		}
		if spec.Router {
			if err := g.track(spec, n); err != nil {
				return err
			}
		}
		for _, s := range spec.Sysctls {
			if err := n.NS.WriteSysctl(s.Name, s.Value); err != nil {
				return &lab.SettingError{Setting: s, Node: spec.Name, Err: err}
			}
		}
		if t := g.trackedNode(spec.Name); t != nil {
			if err := t.recordSysctls(); err != nil {
				return err
			}
		}
	}
	return nil
}

// buildLinks connects each host to its router.
func (g *Ground) buildLinks() error {
	for _, spec := range g.lab.Nodes {
		if spec.Router {
			continue
		}
		t, err := g.table(spec.Uplink)
		if err != nil {
			return fmt.Errorf("uplink of %s: %w", spec.Name, err)
		}
		ends := g.endsOf(spec)
		at, err := g.clock.during(func() error {
			return topology.Connect(topology.Uplink{Host: g.nodes[spec.Name], Router: t.node, Port: spec.Port, Ends: ends, Bare: spec.Wire})
		})
		if err != nil {
			return err
		}
		t.connected(at, spec.Port, ends)
		if spec.Wire {
			if err := g.openWire(spec, t); err != nil {
				return err
			}
		}
	}
	return nil
}

// endsOf are the ends of a host's uplink: its first address of each family, and the gateway of that.
func (g *Ground) endsOf(spec *lab.Node) []topology.End {
	var ends []topology.End
	for _, gateway := range spec.Gateways() {
		a := spec.AddressIn(service.FamilyOf(gateway))
		ends = append(ends, topology.End{Address: a, Gateway: gateway, NoRoute: !g.lab.LeadsTo(spec, a.Addr())})
	}
	return ends
}

// connected records what a new link brought a router.
func (t *tracked) connected(at kernel.Moment, port string, ends []topology.End) {
	t.rec.did(at, trace.Link, port+" up", "")
	add := func(a netip.Prefix) {
		t.own[a.Addr()] = true
		t.rec.did(at, trace.Address, port+" "+a.String(), "")
	}
	for _, e := range ends {
		if e.Gateway.Is6() {
			add(topology.LinkLocal())
		}
		add(e.Port())
		if !e.NoRoute {
			t.rec.did(at, trace.Routing, topology.Route{To: e.Host(), Dev: port}.String(), "")
		}
	}
}

// speaksIPv6 reports whether some node of the lab does.
func (g *Ground) speaksIPv6() bool {
	return slices.ContainsFunc(g.lab.Nodes, func(n *lab.Node) bool { return g.lab.Speaks(n, service.IPv6) })
}

// buildAddresses gives nodes their further addresses and routes.
func (g *Ground) buildAddresses() error {
	for _, spec := range g.lab.Nodes {
		for _, a := range spec.Also {
			if a == spec.AddressIn(service.FamilyOf(a.Addr())) { // the link brought it
				continue
			}
			if !spec.Wire {
				if err := g.Address(spec.Name, topology.HostDevice, a, true); err != nil {
					return err
				}
			}
			if !g.lab.LeadsTo(spec, a.Addr()) {
				continue
			}
			route := lab.Route{To: netip.PrefixFrom(a.Addr(), a.Addr().BitLen()), Dev: spec.Port}
			if err := g.Route(spec.Uplink, "add", route); err != nil {
				return err
			}
		}
		for _, a := range spec.Local {
			if err := g.Address(spec.Name, topology.Loopback, a, true); err != nil {
				return err
			}
		}
	}
	for _, spec := range g.lab.Nodes {
		for _, r := range spec.Routes {
			if err := g.Route(spec.Name, "add", r); err != nil {
				return err
			}
		}
	}
	return nil
}
