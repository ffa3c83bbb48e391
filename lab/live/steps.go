//go:build linux

package live

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"ctlab/checks/conntrack"
	"ctlab/checks/trace"
	"ctlab/dnsserver"
	"ctlab/lab"
	"ctlab/topology/service"
	"ctlab/traffic"
)

// Do plays one step.
func (w *World) Do(ctx context.Context, s *lab.Step) (out lab.Outcome, err error) {
	out.Began = w.Now()
	switch s.Kind {
	case lab.Query:
		err = w.query(ctx, s, &out)
	case lab.Restart:
		err = w.restart(ctx, s, &out)
	case lab.Wait:
		err = w.WaitUntil(ctx, out.Began+s.Wait)
	case lab.SetSysctl:
		err = w.sysctl(s)
	case lab.Table:
		err = w.change(s, &out)
	case lab.Check:
	default:
		err = fmt.Errorf("a %s step is not supported on the kernel", s.Kind)
	}
	if err == nil {
		err = w.check(ctx, s, &out)
	}
	out.Ended = w.Now()
	return out, err
}

// check takes snapshots for a check step, and for any step whose wants need one.
func (w *World) check(ctx context.Context, s *lab.Step, out *lab.Outcome) error {
	nodes := s.Nodes
	if s.Kind != lab.Check {
		nodes = nil
		if s.Want.NeedsTable() && len(w.tracked) == 1 {
			nodes = []string{w.tracked[0].spec.Name}
		}
	}
	for _, name := range nodes {
		t := w.trackedNode(name)
		if t == nil {
			return fmt.Errorf("%s is not tracked", name)
		}
		snap, err := w.snapshot(ctx, t)
		if err != nil {
			return err
		}
		out.Snapshots = append(out.Snapshots, snap)
	}
	return nil
}

// dial opens a client's socket; port 0 is a fresh one.
func (w *World) dial(c *client, port uint16) (*traffic.DNS, error) {
	node := w.lab.Node(c.spec.On)
	open := func(port uint16) (*net.UDPConn, error) {
		return w.nodes[c.spec.On].NS.DialUDP(netip.AddrPortFrom(node.Address.Addr(), port), c.spec.To)
	}
	return traffic.NewDNS(open, port, c.spec.Question, dnsserver.IdentityName, c.spec.Timeout)
}

// query lets the step's clients ask count times. A client asks again when its last request has an outcome
// and "every" has passed since it was sent.
func (w *World) query(ctx context.Context, s *lab.Step, out *lab.Outcome) error {
	for i := range s.Count {
		if err := w.WaitUntil(ctx, out.Began+time.Duration(i)*s.Every); err != nil {
			return err
		}
		attempts, err := w.round(ctx, s)
		out.Attempts = append(out.Attempts, attempts...)
		if err != nil {
			return err
		}
	}
	return nil
}

// round is one request of each client, and of its control client, all at the same time.
func (w *World) round(ctx context.Context, s *lab.Step) ([]lab.Attempt, error) {
	var asks []*ask
	for _, name := range s.Clients {
		c := w.clients[name]
		a, err := w.prepare(c, false)
		if err != nil {
			return nil, err
		}
		asks = append(asks, a)
		if !c.spec.Control {
			continue
		}
		if a, err = w.prepare(c, true); err != nil {
			return nil, err
		}
		asks = append(asks, a)
	}
	begin := w.Now()
	var done sync.WaitGroup
	for _, a := range asks {
		done.Add(1)
		go func() {
			defer done.Done()
			a.got.At = w.Now()
			a.result = a.dns.Ask(ctx)
		}()
	}
	done.Wait()
	w.waits += w.Now() - begin
	return w.finish(ctx, asks)
}

// ask is one request on its way.
type ask struct {
	client *client
	dns    *traffic.DNS
	own    bool // the socket is closed afterwards
	got    lab.Attempt
	result traffic.Attempt
}

// prepare opens the socket that is needed and reads the flow's entry as it is before the request.
func (w *World) prepare(c *client, control bool) (*ask, error) {
	a := &ask{client: c, dns: c.dns, own: control || c.dns == nil}
	var err error
	if a.own {
		if a.dns, err = w.fresh(c); err != nil {
			return nil, fmt.Errorf("client %s: %w", c.spec.Name, err)
		}
	}
	if !control {
		c.asked++
	}
	a.got = lab.Attempt{Client: c.spec.Name, Number: c.asked, Control: control, Node: c.router.spec.Name, Tuple: c.flow(a.dns)}
	a.got.Before, err = w.get(c.router, a.got.Tuple)
	return a, err
}

// flow is the original tuple of what the client sends from a socket.
func (c *client) flow(d *traffic.DNS) conntrack.Tuple {
	local := d.Local()
	return conntrack.Tuple{Proto: conntrack.UDP, Src: local.Addr().Unmap(), SrcPort: local.Port(), Dst: c.spec.To.Addr(), DstPort: c.spec.To.Port()}
}

// freshTries bounds the search for a port that no flow has had; the kernel has some 28,000 to offer.
const freshTries = 16

// fresh opens a socket with a port that this run has not used towards the server. The kernel picks at
// random and may come back to one whose entry is still there: seen once in some 500 queries.
func (w *World) fresh(c *client) (*traffic.DNS, error) {
	for range freshTries {
		d, err := w.dial(c, 0)
		if err != nil {
			return nil, err
		}
		if c.router.age(c.flow(d), 0) == unknownAge {
			return d, nil
		}
		if err := d.Close(); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("no fresh source port in %d tries", freshTries)
}

// finish closes fresh sockets and reads the flows' entries as they are after the outcome. An answer has
// left the node when the client has it, so the order of packet and read is known.
func (w *World) finish(ctx context.Context, asks []*ask) ([]lab.Attempt, error) {
	var attempts []lab.Attempt
	for _, a := range asks {
		a.got.Class, a.got.By, a.got.Took = lab.Class(a.result.Class), a.result.By, a.result.Took
		if a.result.Err != nil {
			a.got.Err = a.result.Err.Error()
		}
		a.client.router.note(a.got.Tuple, a.got.At)
		var err error
		if a.own {
			err = a.dns.Close()
		}
		if err == nil {
			a.got.After, err = w.get(a.client.router, a.got.Tuple)
		}
		attempts = append(attempts, a.got)
		if err != nil {
			return attempts, err
		}
	}
	return attempts, ctx.Err()
}

// restart ends a server and starts it again, here or on another node. Services that had the old node as
// a backend follow: first the rules, then the cleanup.
func (w *World) restart(ctx context.Context, s *lab.Step, out *lab.Outcome) error {
	srv := w.servers[s.Server]
	r := &lab.Restarted{Server: s.Server, From: srv.on, To: s.On, Death: s.Death}
	out.Restarted = r
	if err := w.stopServer(ctx, srv); err != nil {
		return err
	}
	if s.Death == lab.DeathAddress {
		if err := w.removeAddress(r.From); err != nil {
			return err
		}
	}
	if err := w.startServer(srv, r.To); err != nil {
		return err
	}
	if r.From == r.To {
		return nil
	}
	for _, spec := range w.lab.Services {
		if !slices.Contains(w.backs[spec.Name], r.From) {
			continue
		}
		r.Services = append(r.Services, spec.Name)
		if err := w.follow(ctx, spec, r, out); err != nil {
			return err
		}
	}
	return nil
}

// removeAddress takes a host's address away, and its neighbour entry on the router, which would vanish
// with a pod's link.
func (w *World) removeAddress(host string) error {
	spec := w.lab.Node(host)
	if err := w.nodes[host].RemoveAddress(spec.Address); err != nil {
		return err
	}
	t := w.trackedNode(spec.Uplink)
	at, err := during(func() error { return t.node.ForgetNeighbour(spec.Port, spec.Address.Addr()) })
	if err == nil {
		t.rec.did(at, trace.Neigh, spec.Port+" "+spec.Address.Addr().String(), "")
	}
	return err
}

// follow gives a service its new backend, then cleans up as its mode says.
func (w *World) follow(ctx context.Context, spec *lab.Service, r *lab.Restarted, out *lab.Outcome) error {
	was := w.backs[spec.Name]
	backs := slices.Clone(was)
	backs[slices.Index(backs, r.From)] = r.To
	old := w.service(spec)
	r.Cleanup = spec.Cleanup
	for _, on := range spec.On {
		t := w.trackedNode(on)
		w.backs[spec.Name] = was
		before := w.services(t)
		w.backs[spec.Name] = slices.Compact(backs)
		if err := w.load(ctx, t, service.Change(before, w.services(t), t.spec.Anchor), true); err != nil {
			return err
		}
		if spec.Cleanup.Mode != service.ReconcileCurrent {
			continue
		}
		if err := w.reconcile(t, old, w.service(spec), out); err != nil {
			return err
		}
	}
	return nil
}

// reconcile deletes what kube-proxy would: list the table, then delete entry by entry.
func (w *World) reconcile(t *tracked, before, after service.Service, out *lab.Outcome) error {
	seen, err := w.dump(t)
	if err != nil {
		return err
	}
	var table []conntrack.Entry
	for _, s := range seen {
		table = append(table, s.Entry)
	}
	for _, e := range service.Stale(service.ReconcileCurrent, before, after, table) {
		if err := w.delete(t, e, out); err != nil {
			return err
		}
	}
	return nil
}

func (w *World) delete(t *tracked, e conntrack.Entry, out *lab.Outcome) error {
	found, at, err := t.table.Delete(e.Orig, e.ID)
	if err != nil {
		return err
	}
	t.rec.did(at, trace.Delete, e.Orig.Line(), "")
	if found {
		out.Deleted = append(out.Deleted, lab.Deleted{Node: t.spec.Name, Entry: e})
	}
	return nil
}

func (w *World) sysctl(s *lab.Step) error {
	for _, node := range s.Nodes {
		for _, set := range s.Sysctls {
			if err := w.setSysctl(node, set); err != nil {
				return err
			}
		}
	}
	return nil
}

// change is the conntrack step: flush, or delete what matches, as conntrack -D does by listing first.
func (w *World) change(s *lab.Step, out *lab.Outcome) error {
	for _, node := range s.Nodes {
		t := w.trackedNode(node)
		if t == nil {
			return fmt.Errorf("%s is not tracked", node)
		}
		seen, err := w.dump(t)
		if err != nil {
			return err
		}
		if s.Flush {
			at, err := t.table.Flush()
			if err != nil {
				return err
			}
			t.rec.did(at, trace.Flush, "", "")
			for _, e := range seen {
				out.Deleted = append(out.Deleted, lab.Deleted{Node: t.spec.Name, Entry: e.Entry})
			}
			continue
		}
		for i := range seen {
			if !s.Delete.Matches(&seen[i].Entry, seen[i].Stale, seen[i].Age) {
				continue
			}
			if err := w.delete(t, seen[i].Entry, out); err != nil {
				return err
			}
		}
	}
	return nil
}

// Look takes the step's snapshots once more.
func (w *World) Look(ctx context.Context, s *lab.Step, out *lab.Outcome) error {
	out.Snapshots = nil
	return w.check(ctx, s, out)
}

var _ lab.World = (*World)(nil)
