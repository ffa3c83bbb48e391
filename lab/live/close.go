//go:build linux

package live

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"ctlab/checks/trace"
	"ctlab/lab"
	"ctlab/topology"
	"ctlab/topology/service"
)

// Close ends what still runs, takes the network down and hands over the evidence. A network that was not
// ready leaves no traces.
func (g *Ground) Close(ctx context.Context) (lab.Evidence, error) {
	var ev lab.Evidence
	if !g.built {
		return ev, nil
	}
	g.built = false
	begin := time.Now()
	close(g.calm) // the last sample of the tick clock is not older than the pace at which they are taken
	complete := g.origin != 0
	errs := []error{g.endPrograms(ctx)}
	for _, w := range g.wires {
		errs = append(errs, w.close())
	}
	for _, t := range g.tracked {
		if complete {
			errs = append(errs, t.inventory())
		}
		errs = append(errs, t.stop())
	}
	errs = append(errs, g.net.Close())
	<-g.calmed
	if complete {
		ev.Traces = g.traces()
	}
	errs = append(errs, g.calib.Close())
	ev.Waits = g.waits
	ev.Taken = append(g.phases, lab.Phase{Name: "teardown", Took: time.Since(begin)})
	return ev, errors.Join(errs...)
}

// endPrograms ends clients, servers and programs that were not ended.
func (g *Ground) endPrograms(ctx context.Context) error {
	g.mu.Lock()
	running, sockets, servers := slices.Collect(maps.Keys(g.running)), slices.Collect(maps.Keys(g.sockets)), slices.Collect(maps.Keys(g.servers))
	programs := slices.Collect(maps.Keys(g.programs))
	g.mu.Unlock()
	var errs []error
	for _, r := range running {
		errs = append(errs, r.Stop(ctx))
	}
	for _, p := range programs {
		errs = append(errs, p.Stop(0))
	}
	for _, s := range sockets {
		errs = append(errs, s.Close())
	}
	for _, s := range servers {
		_, err := s.Stop(ctx)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// traces are the recordings of the tracked nodes, on the clock as it is known at the end.
func (g *Ground) traces() (traces []trace.Trace) {
	ticks := g.calib.Ticks()
	for _, t := range g.tracked {
		if !g.calib.Agreed() {
			t.rec.lose("the tick clock could not be read: the machine is too busy, or its ticks come late")
		}
		h := trace.Header{Lab: g.lab.Name, Node: t.spec.Name, Kernel: release(), Profile: g.profile.Name, Assured: g.profile.Assured, Legacy: g.ipts[service.IPv4].Backend() == topology.Legacy, HZ: ticks.HZ, CTInfo: t.ctsBy, CTLost: t.ctsLost, Names: g.names()}
		traces = append(traces, t.rec.trace(h, ticks, g.origin))
	}
	return traces
}

// names are the addresses that people know by name.
func (g *Ground) names() (out []trace.Name) {
	for _, n := range g.lab.Nodes {
		for _, f := range lab.Families() {
			if a := n.AddressIn(f); a.IsValid() {
				out = append(out, trace.Name{Name: n.Name, Addr: a.Addr()})
			}
		}
	}
	for _, s := range g.lab.Services {
		out = append(out, trace.Name{Name: s.Name, Addr: s.VIP})
	}
	return out
}

func release() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return "unknown"
	}
	return strings.TrimRight(string(u.Release[:]), "\x00")
}
