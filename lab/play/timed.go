package play

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"ctlab/checks/conntrack"
	"ctlab/lab"
	"ctlab/topology/service"
)

// timed is a Ground that knows where its time went, by kinds of acts. Waiting and asking are the lab's, not its own.
type timed struct {
	Ground
	now func() time.Time

	mu    sync.Mutex // clients in the background open sockets
	order []string
	spent map[string]time.Duration
}

func newTimed(g Ground) *timed {
	return &timed{Ground: g, now: time.Now, spent: map[string]time.Duration{}}
}

// taken lists where time went, in the order in which that began.
func (g *timed) taken() []lab.Phase {
	g.mu.Lock()
	defer g.mu.Unlock()
	var out []lab.Phase
	for _, what := range g.order {
		out = append(out, lab.Phase{Name: what, Took: g.spent[what]})
	}
	return out
}

// during counts the time until the returned function is called.
func (g *timed) during(what string) func() {
	begin := g.now()
	return func() {
		took := g.now().Sub(begin)
		g.mu.Lock()
		defer g.mu.Unlock()
		if _, known := g.spent[what]; !known {
			g.order = append(g.order, what)
		}
		g.spent[what] += took
	}
}

// What the acts are called.
const (
	loading  = "rules"
	counting = "rule counters"
	reading  = "table"
	opening  = "sockets"
	serving  = "servers"
	changing = "changes"
	readying = "ready"
)

func (g *timed) Ready() error {
	defer g.during(readying)()
	return g.Ground.Ready()
}

func (g *timed) Load(ctx context.Context, node string, f service.Family, text string, noflush bool) error {
	defer g.during(loading)()
	return g.Ground.Load(ctx, node, f, text, noflush)
}

func (g *timed) Hits(ctx context.Context, node string, f service.Family) (string, error) {
	defer g.during(counting)()
	return g.Ground.Hits(ctx, node, f)
}

func (g *timed) Sysctl(node string, s lab.Sysctl) error {
	defer g.during(changing)()
	return g.Ground.Sysctl(node, s)
}

func (g *timed) Link(node, dev, state string) error {
	defer g.during(changing)()
	return g.Ground.Link(node, dev, state)
}

func (g *timed) Address(node, dev string, a netip.Prefix, add bool) error {
	defer g.during(changing)()
	return g.Ground.Address(node, dev, a, add)
}

func (g *timed) Route(node, op string, r lab.Route) error {
	defer g.during(changing)()
	return g.Ground.Route(node, op, r)
}

func (g *timed) Forget(node, dev string, a netip.Addr) error {
	defer g.during(changing)()
	return g.Ground.Forget(node, dev, a)
}

func (g *timed) Serve(ctx context.Context, on string, at netip.AddrPort, identity string) (Server, error) {
	defer g.during(serving)()
	s, err := g.Ground.Serve(ctx, on, at, identity)
	if err != nil {
		return nil, err
	}
	return timedServer{s, g}, nil
}

type timedServer struct {
	Server
	ground *timed
}

func (s timedServer) Stop(ctx context.Context) (int, error) {
	defer s.ground.during(serving)()
	return s.Server.Stop(ctx)
}

func (g *timed) Open(c *lab.Client, port uint16) (Socket, error) {
	defer g.during(opening)()
	return g.Ground.Open(c, port)
}

func (g *timed) Get(node string, t conntrack.Tuple) (*Read, error) {
	defer g.during(reading)()
	return g.Ground.Get(node, t)
}

func (g *timed) Dump(node string) ([]Read, error) {
	defer g.during(reading)()
	return g.Ground.Dump(node)
}

func (g *timed) Count(node string) (uint32, error) {
	defer g.during(reading)()
	return g.Ground.Count(node)
}

func (g *timed) Stats(node string) (map[string]uint32, error) {
	defer g.during(reading)()
	return g.Ground.Stats(node)
}

func (g *timed) Delete(node string, e *conntrack.Entry) (bool, error) {
	defer g.during(reading)()
	return g.Ground.Delete(node, e)
}

func (g *timed) Flush(node string) error {
	defer g.during(reading)()
	return g.Ground.Flush(node)
}
