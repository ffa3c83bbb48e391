//go:build linux

package live_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"ctlab/checks/conntrack"
	"ctlab/checks/model"
	"ctlab/checks/trace"
	"ctlab/lab"
	"ctlab/lab/live"
	"ctlab/lab/play"
	"ctlab/topology/service"
)

// patience bounds what should come at once.
const patience = 10 * time.Second

// network is a router with hosts: app, and two servers' nodes, of which dns-1 has two addresses.
func network() *lab.Lab {
	host := func(name, address, gateway string, also ...string) *lab.Node {
		n := &lab.Node{Name: name, Uplink: "node", Port: name, Address: netip.MustParsePrefix(address), Gateway: netip.MustParseAddr(gateway)}
		for _, a := range also {
			n.Also = append(n.Also, netip.MustParsePrefix(a))
		}
		return n
	}
	node := &lab.Node{Name: "node", Router: true, Anchor: true,
		Local:  []netip.Prefix{netip.MustParsePrefix("10.9.0.1/32")},
		Routes: []lab.Route{route("0.0.0.0/0", "10.2.0.11", "dns-2")}}
	return &lab.Lab{Name: "test", Nodes: []*lab.Node{node,
		host("app", "10.1.0.5/24", "10.1.0.1"), host("dns-1", "10.2.0.10/24", "10.2.0.1", "10.3.0.10/24"), host("dns-2", "10.2.0.11/24", "10.2.0.1")}}
}

func route(to, via, dev string) lab.Route {
	r := lab.Route{To: netip.MustParsePrefix(to), Dev: dev}
	if via != "" {
		r.Via = netip.MustParseAddr(via)
	}
	return r
}

// ground builds a network with the anchor rule loaded. When the test is over what was recorded is held
// against the model, which must account for it.
func ground(t *testing.T, l *lab.Lab) *live.Ground {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("needs root")
		}
		t.Skip("needs root")
	}
	g := live.New(l)
	set, err := g.Build(t.Context())
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		ev, err := g.Close(ctx)
		if err != nil {
			t.Error(err)
		}
		for _, tr := range ev.Traces {
			account(t, tr)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d nodes in %v", set.Nodes, set.Took)
	must(t, g.Load(t.Context(), "node", service.IPv4, anchor(t), false))
	must(t, g.Ready())
	return g
}

// anchor is the text that keeps tracking on.
func anchor(t *testing.T) string {
	t.Helper()
	text, err := service.Rules(nil, nil, true)
	must(t, err)
	return text
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func client(on, to string) *lab.Client {
	return &lab.Client{Name: "client", On: on, To: netip.MustParseAddrPort(to), Question: "www.ctlab.test.", Timeout: patience, Connected: true}
}

func open(t *testing.T, g *live.Ground, c *lab.Client, port uint16) play.Socket {
	t.Helper()
	s, err := g.Open(c, port)
	must(t, err)
	return s
}

// ask asks once from a fresh socket.
func ask(t *testing.T, g *live.Ground, c *lab.Client) play.Reply {
	t.Helper()
	s := open(t, g, c, 0)
	replies, err := g.Ask(t.Context(), []play.Socket{s})
	must(t, err)
	must(t, s.Close())
	return replies[0]
}

func serve(t *testing.T, g *live.Ground, on, at string) play.Server {
	t.Helper()
	s, err := g.Serve(t.Context(), on, netip.MustParseAddrPort(at), on)
	must(t, err)
	return s
}

// What a client is told, for each way in which its question can end.
func TestClasses(t *testing.T) {
	l := network()
	g := ground(t, l)
	one := serve(t, g, "dns-1", "0.0.0.0:53")
	serve(t, g, "dns-2", "10.2.0.11:53")
	serve(t, g, "node", "10.9.0.1:53")
	must(t, g.Load(t.Context(), "node", service.IPv4, "*filter\n-A FORWARD -p udp -m udp --dport 54 -j REJECT --reject-with icmp-host-unreachable\n"+
		"-A OUTPUT -p udp -m udp --dport 55 -j DROP\n-A FORWARD -p udp -m udp --dport 56 -j DROP\nCOMMIT\n", true))
	short := 150 * time.Millisecond
	tests := []struct {
		name   string
		on, to string
		set    func(*lab.Client)
		want   lab.Class
		by     string
		from   string
	}{
		{name: "answered", on: "app", to: "10.2.0.11:53", want: lab.Answered, by: "dns-2"},
		{name: "not connected", on: "app", to: "10.2.0.11:53", set: unconnected, want: lab.Answered, by: "dns-2"},
		{name: "router's own address", on: "app", to: "10.9.0.1:53", want: lab.Answered, by: "node"},
		{name: "from the router", on: "node", to: "10.2.0.11:53", want: lab.Answered, by: "dns-2"},
		{name: "from the router, not connected", on: "node", to: "10.2.0.11:53", set: unconnected, want: lab.Answered, by: "dns-2"},
		{name: "from the router, its own source", on: "node", to: "10.2.0.11:53", set: func(c *lab.Client) { c.Source = netip.MustParseAddr("10.9.0.1") }, want: lab.Answered, by: "dns-2"},
		{name: "router to itself", on: "node", to: "10.9.0.1:53", want: lab.Answered, by: "node"},
		{name: "primary address", on: "app", to: "10.2.0.10:53", want: lab.Answered, by: "dns-1"},
		{name: "second address", on: "app", to: "10.3.0.10:53", set: unconnected, want: lab.WrongSource, by: "dns-1", from: "10.2.0.10:53"},
		{name: "second address, connected", on: "app", to: "10.3.0.10:53", set: func(c *lab.Client) { c.Timeout = short }, want: lab.Timeout},
		{name: "nobody listens", on: "app", to: "10.2.0.11:99", want: lab.Refused},
		{name: "nobody listens, not connected", on: "app", to: "10.2.0.11:99", set: func(c *lab.Client) { unconnected(c); c.Timeout = short }, want: lab.Timeout},
		{name: "nobody listens, not connected but reported", on: "app", to: "10.2.0.11:99", set: func(c *lab.Client) { unconnected(c); c.RecvErr = true }, want: lab.Refused},
		{name: "host unreachable", on: "app", to: "10.2.0.11:54", set: func(c *lab.Client) { c.Timeout = short }, want: lab.Timeout},
		{name: "host unreachable, reported", on: "app", to: "10.2.0.11:54", set: func(c *lab.Client) { c.RecvErr = true }, want: lab.Unreachable},
		{name: "not permitted", on: "node", to: "10.2.0.11:55", want: lab.NotPermitted},
		{name: "dropped", on: "app", to: "10.2.0.11:56", set: func(c *lab.Client) { c.Timeout = short }, want: lab.Timeout},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := client(test.on, test.to)
			if test.set != nil {
				test.set(c)
			}
			r := ask(t, g, c)
			from := netip.AddrPort{}
			if test.from != "" {
				from = netip.MustParseAddrPort(test.from)
			}
			if r.Class != test.want || r.By != test.by || r.From != from || (r.Err == "") != (r.Class == lab.Answered) {
				t.Errorf("%+v", r)
			}
		})
	}
	if asked, err := one.Stop(t.Context()); asked != 3 || err != nil {
		t.Errorf("%d questions reached dns-1, want 3; %v", asked, err)
	}
	if r := ask(t, g, client("app", "10.2.0.10:53")); r.Class != lab.Refused {
		t.Errorf("the server was stopped: %+v", r)
	}
	if _, err := g.Serve(t.Context(), "node", netip.MustParseAddrPort("0.0.0.0:53"), "node"); err == nil {
		t.Error("a server on a tracked node was bound to any address")
	}
}

func unconnected(c *lab.Client) { c.Connected = false }

// A send for which there is no route any more says so; the packet is none.
func TestNoRouteOnSend(t *testing.T) {
	g := ground(t, network())
	s := open(t, g, client("node", "10.8.0.1:53"), 4000)
	must(t, g.Route("node", "del", route("0.0.0.0/0", "10.2.0.11", "dns-2")))
	replies, err := g.Ask(t.Context(), []play.Socket{s})
	must(t, err)
	if replies[0].Class != lab.Unreachable {
		t.Errorf("%+v", replies[0])
	}
}

// Two connected clients on one node share a source port; a hundred clients ask at once.
func TestManySockets(t *testing.T) {
	l := network()
	a, b := client("app", "10.2.0.10:53"), client("app", "10.2.0.11:53")
	a.Name, b.Name, a.SourcePort, b.SourcePort = "a", "b", 4000, 4000
	l.Clients = []*lab.Client{a, b}
	g := ground(t, l)
	serve(t, g, "dns-1", "10.2.0.10:53")
	serve(t, g, "dns-2", "10.2.0.11:53")
	sockets := []play.Socket{open(t, g, a, 4000), open(t, g, b, 4000)}
	for range 98 {
		sockets = append(sockets, open(t, g, a, 0))
	}
	seen := map[conntrack.Tuple]bool{}
	replies, err := g.Ask(t.Context(), sockets)
	must(t, err)
	for i, r := range replies {
		by := "dns-1"
		if i == 1 {
			by = "dns-2"
		}
		if tuple := sockets[i].Tuple(); r.Class != lab.Answered || r.By != by || seen[tuple] {
			t.Errorf("socket %d, %s: %+v", i, tuple.Line(), r)
		}
		seen[sockets[i].Tuple()] = true
	}
	if n, err := g.Count("node"); n != 100 || err != nil {
		t.Errorf("%d entries, %v", n, err)
	}
	if reads, err := g.Dump("node"); len(reads) != 100 || err != nil {
		t.Errorf("dump of %d entries, %v", len(reads), err)
	}
}

// Clients ask in the background while rules are loaded, the table is read and their server moves.
func TestBackground(t *testing.T) {
	g := ground(t, network())
	serve(t, g, "dns-2", "10.2.0.11:53")
	c := client("app", "10.2.0.11:53")
	c.Control = true
	type outcome struct {
		port    uint16
		reply   play.Reply
		control bool
	}
	const every = 10 * time.Millisecond
	var mu sync.Mutex
	var told []outcome
	several := make(chan bool, 1)
	run, err := g.Begin(play.Background{Client: c, Socket: open(t, g, c, 4000), Every: every,
		Sent: func(tuple conntrack.Tuple, r play.Reply, control bool) {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, outcome{tuple.SrcPort, r, control})
			if len(told) == 20 {
				several <- true
			}
		}})
	must(t, err)
	finite, err := g.Begin(play.Background{Client: client("node", "10.2.0.11:53"), Count: 5, Sent: func(_ conntrack.Tuple, r play.Reply, control bool) {
		if r.Class != lab.Answered || control {
			t.Errorf("from the router: %+v", r)
		}
	}})
	must(t, err)
	for range 3 {
		must(t, g.Load(t.Context(), "node", service.IPv4, anchor(t), false))
		if _, err := g.Dump("node"); err != nil {
			t.Error(err)
		}
		if _, err := g.Hits(t.Context(), "node", service.IPv4); err != nil {
			t.Error(err)
		}
	}
	<-several
	must(t, finite.Stop(t.Context()))
	must(t, run.Stop(t.Context()))
	if len(told)%2 != 0 {
		t.Fatalf("%d outcomes: one question has no control", len(told))
	}
	ports := map[uint16]bool{}
	for i, o := range told {
		if o.reply.Class != lab.Answered || o.control != (i%2 == 1) || !o.control && o.port != 4000 || o.control && ports[o.port] {
			t.Errorf("outcome %d: %+v", i, o)
		}
		if o.control {
			ports[o.port] = true
		}
		if i > 1 && !o.control && o.reply.At-told[i-2].reply.At < every {
			t.Errorf("question %d began %v behind the one before", i/2, o.reply.At-told[i-2].reply.At)
		}
	}
}

// Stop does not wait for an outcome longer than its context allows, and Close ends what still runs.
func TestBackgroundEnds(t *testing.T) {
	g := ground(t, network())
	c := client("app", "10.8.0.1:53") // into the void, by the default route
	c.Timeout = time.Hour
	sent := make(chan play.Reply, 2)
	begin := func(questions int) play.Running { // returns when so many are under way: each has an entry
		r, err := g.Begin(play.Background{Client: c, Sent: func(_ conntrack.Tuple, r play.Reply, _ bool) { sent <- r }})
		must(t, err)
		for asked := 0; asked < questions; {
			asked = 0
			for _, e := range g.Events("node") {
				if e.Kind == conntrack.New {
					asked++
				}
			}
			if g.Now() > patience {
				t.Fatal("no question was asked")
			}
		}
		return r
	}
	r := begin(1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Stop(ctx); err == nil {
		t.Error("Stop waited for an hour")
	}
	begin(2) // for Close
	late, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	if _, err := g.Close(late); err == nil {
		t.Error("Close waited for an hour")
	}
}

// What the kernel holds of links, addresses and routes after each change. (The model is held against it
// when the test is over.)
func TestChanges(t *testing.T) {
	g := ground(t, network())
	serve(t, g, "dns-1", "10.2.0.10:53")
	ok := func() {
		t.Helper()
		if r := ask(t, g, client("app", "10.2.0.10:53")); r.Class != lab.Answered {
			t.Errorf("%+v", r)
		}
	}
	ok()
	second := netip.MustParsePrefix("10.5.0.1/32")
	must(t, g.Address("node", "dns-1", second, true))
	must(t, g.Address("node", "dns-1", netip.MustParsePrefix("10.2.0.1/32"), false))
	must(t, g.Address("node", "dns-1", netip.MustParsePrefix("10.2.0.1/32"), true))
	ok() // with one address left the routes stayed
	must(t, g.Address("node", "lo", netip.MustParsePrefix("10.9.0.2/32"), true))
	must(t, g.Address("node", "lo", netip.MustParsePrefix("10.9.0.1/32"), false))

	must(t, g.Link("node", "dns-1", "down"))
	must(t, g.Link("node", "dns-1", "up"))
	r := route("10.2.0.10/32", "", "dns-1")
	if err := g.Route("node", "del", r); err == nil {
		t.Error("the route outlived its link")
	}
	must(t, g.Route("node", "add", r))
	ok()
	must(t, g.Route("node", "replace", route("10.2.0.10/32", "10.2.0.11", "dns-2")))
	must(t, g.Route("node", "replace", r))
	must(t, g.Route("node", "replace", route("10.7.0.0/16", "10.2.0.10", "dns-1")))
	must(t, g.Forget("node", "dns-1", netip.MustParseAddr("10.2.0.10")))
	ok()
	must(t, g.Sysctl("node", lab.Sysctl{Name: "net.netfilter.nf_conntrack_udp_timeout", Value: "7"}))

	must(t, g.Address("node", "app", netip.MustParsePrefix("10.1.0.1/32"), false))
	must(t, g.Link("dns-2", "eth0", "gone"))
	if err := g.Link("node", "dns-2", "up"); err == nil {
		t.Error("the router's end outlived the host's")
	}
	must(t, g.Link("node", "dns-1", "gone"))
	for _, err := range []error{g.Link("node", "app", "sideways"), g.Route("node", "bend", r), g.Sysctl("nobody", lab.Sysctl{})} {
		if err == nil {
			t.Error("nonsense was accepted")
		}
	}
}

// The host's end goes down: packets to it leave until the kernel has noticed, and wait from then on.
func TestHostDown(t *testing.T) {
	g := ground(t, network())
	serve(t, g, "dns-1", "10.2.0.10:53")
	c := client("app", "10.2.0.10:53")
	if r := ask(t, g, c); r.Class != lab.Answered {
		t.Errorf("%+v", r)
	}
	must(t, g.Link("dns-1", "eth0", "down"))
	c.Timeout = 100 * time.Millisecond
	for range 3 {
		if r := ask(t, g, c); r.Class != lab.Timeout {
			t.Errorf("%+v", r)
		}
	}
}

// Reading one entry, deleting it, and reading the settings of a node that is not tracked.
func TestTable(t *testing.T) {
	g := ground(t, network())
	serve(t, g, "dns-2", "10.2.0.11:53")
	s := open(t, g, client("app", "10.2.0.11:53"), 4000)
	if r, err := g.Get("node", s.Tuple()); r != nil || err != nil {
		t.Errorf("before: %v, %v", r, err)
	}
	_, err := g.Ask(t.Context(), []play.Socket{s})
	must(t, err)
	r, err := g.Get("node", s.Tuple())
	if r == nil || err != nil || r.Entry.Orig != s.Tuple() || r.At <= 0 || r.At > g.Now() {
		t.Fatalf("after: %v, %v", r, err)
	}
	found, err := g.Delete("node", &r.Entry)
	if !found || err != nil {
		t.Errorf("delete: %v, %v", found, err)
	}
	if found, err = g.Delete("node", &r.Entry); found || err != nil {
		t.Errorf("delete again: %v, %v", found, err)
	}
	must(t, g.Flush("node"))
	kinds := []conntrack.EventKind{}
	for _, e := range g.Events("node") {
		kinds = append(kinds, e.Kind)
	}
	if !slices.Equal(kinds, []conntrack.EventKind{conntrack.New, conntrack.Update, conntrack.Destroy}) {
		t.Errorf("events %v", kinds)
	}
	if _, err := g.Stats("node"); err != nil {
		t.Error(err)
	}
	if _, err := g.Dump("app"); err == nil {
		t.Error("a host has a table")
	}
}

// ended starts a program and waits for its end.
func ended(ctx context.Context, g *live.Ground, node string, argv ...string) (lab.Program, error) {
	p, err := g.Start(node, lab.Command{Argv: argv})
	if err != nil {
		return lab.Program{}, err
	}
	select {
	case <-p.Done():
	case <-ctx.Done():
		err = ctx.Err()
	}
	return p.Output(), errors.Join(err, p.Stop(0))
}

func TestExec(t *testing.T) {
	g := ground(t, network())
	p, err := ended(t.Context(), g, "app", "sh", "-c", "ls /sys/class/net /proc/thread-self/net/dev; cat /proc/thread-self/net/dev; echo oops >&2; exit 3")
	if err != nil || p.Exit != 3 || !strings.Contains(p.Stdout, "eth0:") || p.Stderr == "" {
		t.Errorf("%+v, %v", p, err)
	}
	p, err = ended(t.Context(), g, "app", "sh", "-c", "yes | head -c 3000000; kill -9 $$")
	if err != nil || len(p.Stdout) < 1<<20 || len(p.Stdout) > 1<<20+100 || p.Exit != 128+9 {
		t.Errorf("exit %d, %d bytes, %v", p.Exit, len(p.Stdout), err)
	}
	if _, err := ended(t.Context(), g, "app", "no-such-program"); err == nil {
		t.Error("a program that does not exist ran")
	}
	// What a program started holds its output, and does not keep anybody waiting.
	p, err = ended(t.Context(), g, "app", "sh", "-c", "sleep 1000 & exit 0")
	if err != nil || p.Exit != 0 {
		t.Errorf("%+v, %v", p, err)
	}
	p, err = ended(t.Context(), g, "app", "getent", "hosts", "dns-1")
	if err != nil || p.Exit != 0 || !strings.HasPrefix(p.Stdout, "10.2.0.10 ") {
		t.Errorf("%+v, %v", p, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := ended(ctx, g, "app", "sh", "-c", "sleep 1000; true"); err == nil {
		t.Error("a program outlived its context")
	}
}

// An address that is in use for a moment more is waited for; one that stays in use is an error.
func TestAddressInUse(t *testing.T) {
	g := ground(t, network())
	first := serve(t, g, "dns-1", "10.2.0.10:53")
	if _, err := g.Serve(t.Context(), "dns-1", netip.MustParseAddrPort("10.2.0.10:53"), "dns-1"); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("an address was given twice: %v", err)
	}
	stopped := make(chan error)
	go func() {
		time.Sleep(50 * time.Millisecond) // nothing tells when serve has tried for the first time
		_, err := first.Stop(t.Context())
		stopped <- err
	}()
	serve(t, g, "dns-1", "10.2.0.10:53")
	must(t, <-stopped)
}

// A socket at a port is seen when it is there, and only then.
func TestListening(t *testing.T) {
	g := ground(t, network())
	for _, c := range []struct {
		tcp, want bool
		port      uint16
		first     func()
	}{
		{false, false, 53, func() {}},
		{false, true, 53, func() { serve(t, g, "dns-1", "10.2.0.10:53") }},
		{true, true, 53, func() {}},
		{true, false, 54, func() {}},
	} {
		c.first()
		if got, err := g.Listening("dns-1", c.tcp, c.port); got != c.want || err != nil {
			t.Errorf("tcp %v, port %d: %v, %v", c.tcp, c.port, got, err)
		}
	}
	if got, err := g.Listening("dns-2", false, 53); got || err != nil {
		t.Errorf("on another node: %v, %v", got, err)
	}
}

// A large network builds, and every host is reachable.
func TestManyNodes(t *testing.T) {
	l := &lab.Lab{Name: "many", Nodes: []*lab.Node{{Name: "node", Router: true}}}
	for i := range 45 {
		l.Nodes = append(l.Nodes, &lab.Node{Name: fmt.Sprintf("h-%d", i), Uplink: "node", Port: fmt.Sprintf("h-%d", i),
			Address: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 1, 0, byte(i + 2)}), 24), Gateway: netip.MustParseAddr("10.1.0.1")})
	}
	g := ground(t, l)
	serve(t, g, "h-0", "10.1.0.2:53")
	var sockets []play.Socket
	for i := range 44 {
		sockets = append(sockets, open(t, g, client(fmt.Sprintf("h-%d", i+1), "10.1.0.2:53"), 4000))
	}
	replies, err := g.Ask(t.Context(), sockets)
	must(t, err)
	for i, r := range replies {
		if r.Class != lab.Answered {
			t.Errorf("h-%d: %+v", i+1, r)
		}
	}
}

// account replays a trace: the model must account for all that was seen, and know every input. What is
// written must be read back.
func account(t *testing.T, tr trace.Trace) {
	t.Helper()
	var b strings.Builder
	must(t, trace.Write(&b, tr))
	back, err := trace.Parse("trace", strings.NewReader(b.String()))
	must(t, err)
	profile, err := model.ProfileFor(tr.Kernel)
	must(t, err)
	r := trace.Replay(back[0], profile.ProbedAssured(tr.Assured == model.AssuredAtOnce))
	for _, d := range r.Differences {
		t.Errorf("kernel and model differ: %s", d)
	}
	if len(r.Lost) > 0 {
		t.Errorf("inconclusive: %s", strings.Join(r.Lost, "; "))
	}
	if t.Failed() && testing.Verbose() {
		t.Logf("%s", b.String())
	}
	t.Log(r.Summary())
}
