package sim_test

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"ctlab/checks/conntrack"
	"ctlab/checks/model"
	"ctlab/checks/trace"
	"ctlab/lab"
	"ctlab/lab/play"
	"ctlab/lab/sim"
	"ctlab/topology/service"
)

const network = `
lab: test
nodes:
  node: {kind: router}
  app: {address: 10.244.2.5/24}
  one: {address: 10.244.1.10/24}
  two: {address: 10.244.1.11/24}
services:
  dns: {vip: 10.96.0.10, ports: 53/udp, backends: one}
servers:
  one: {on: one, dns: {}}
clients:
  client: {on: app, dns: {server: dns, source-port: 40053, timeout: 300ms}}
steps:
  - wait: 1s
`

// rules lead the VIP to a backend.
func rules(backends ...string) string {
	text := "*nat\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n:svc - [0:0]\n-A PREROUTING -j svc\n-A OUTPUT -j svc\n"
	for i, b := range backends {
		text += "-A svc -d 10.96.0.10/32 -p udp -m udp --dport 53 -m comment --comment \"dns/" + b + "\""
		if i+1 < len(backends) {
			text += " -m statistic --mode random --probability 0.50000000000"
		}
		text += " -j DNAT --to-destination " + b + ":53\n"
	}
	return text + "COMMIT\n" + anchor
}

const anchor = "*filter\n:anchor - [0:0]\n-A anchor -m conntrack --ctstate INVALID\nCOMMIT\n"

const one, two = "10.244.1.10", "10.244.1.11"

// world is a Ground under test.
type world struct {
	*sim.Ground
	t   *testing.T
	lab *lab.Lab
}

// build makes the network; change may alter the lab first.
func build(t *testing.T, change func(*lab.Lab)) world {
	t.Helper()
	return buildFor(t, 1, change)
}

func buildFor(t *testing.T, seed uint64, change func(*lab.Lab)) world {
	t.Helper()
	l, err := lab.Load("test.yaml", []byte(network), "")
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(l)
	}
	w := world{sim.New(l, seed), t, l}
	if _, err := w.Build(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.must(w.Load(t.Context(), "node", service.IPv4, rules(one), false))
	return w
}

func (w world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w world) serve(on, at string) play.Server {
	w.t.Helper()
	s, err := w.Serve(w.t.Context(), on, netip.MustParseAddrPort(at), on)
	w.must(err)
	return s
}

func (w world) open() play.Socket {
	w.t.Helper()
	s, err := w.Open(w.lab.Clients[0], w.lab.Clients[0].SourcePort)
	w.must(err)
	return s
}

func (w world) ask(from ...play.Socket) []play.Reply {
	w.t.Helper()
	r, err := w.Ask(w.t.Context(), from)
	w.must(err)
	return r
}

func (w world) pass(d time.Duration) {
	w.t.Helper()
	w.must(w.WaitUntil(w.t.Context(), w.Now()+d))
}

// close ends the world and replays its record: the model, driven by what was recorded, must account for
// all that was seen, and for a good many records.
func (w world) close() trace.Trace {
	w.t.Helper()
	ev, err := w.Close(w.t.Context())
	w.must(err)
	if len(ev.Traces) != 1 {
		w.t.Fatalf("%d traces, want 1", len(ev.Traces))
	}
	tr := parsedBack(w.t, ev.Traces[0])
	rep := trace.Replay(tr, w.Profile)
	for _, d := range rep.Differences {
		w.t.Errorf("replay: %v", d)
	}
	for _, l := range rep.Lost {
		w.t.Errorf("replay: lost: %s", l)
	}
	if len(tr.Records) < 20 {
		w.t.Errorf("only %d records", len(tr.Records))
	}
	return tr
}

func parsedBack(t *testing.T, tr trace.Trace) trace.Trace {
	t.Helper()
	var b bytes.Buffer
	if err := trace.Write(&b, tr); err != nil {
		t.Fatal(err)
	}
	back, err := trace.Parse("record", &b)
	if err != nil {
		t.Fatal(err)
	}
	return back[0]
}

func classes(replies []play.Reply) string {
	var out []string
	for _, r := range replies {
		out = append(out, strings.TrimSpace(string(r.Class)+" "+r.By))
	}
	return strings.Join(out, ", ")
}

func (w world) want(replies []play.Reply, want string) {
	w.t.Helper()
	if got := classes(replies); got != want {
		w.t.Errorf("got %s, want %s", got, want)
	}
}

func tuple(t *testing.T, line string) conntrack.Tuple {
	t.Helper()
	tp, err := conntrack.ParseTuple(line)
	if err != nil {
		t.Fatal(err)
	}
	return tp
}

const flow = "udp 10.244.2.5:40053 > 10.96.0.10:53"

// The whole story of a stale entry: answered through DNAT, lost when the rules and the backend changed,
// although a fresh port is answered, and well again when the entry is deleted.
func TestStaleEntry(t *testing.T) {
	w := build(t, nil)
	server := w.serve("one", one+":53")
	c := w.open()
	w.must(w.Ready())
	if got := c.Tuple().Line(); got != flow {
		t.Errorf("tuple %s, want %s", got, flow)
	}
	w.want(w.ask(c), "answered one")
	asked, err := server.Stop(t.Context())
	w.must(err)
	if asked != 1 {
		t.Errorf("%d questions reached the server, want 1", asked)
	}
	w.serve("two", two+":53")
	w.must(w.Address("one", "eth0", netip.MustParsePrefix(one+"/24"), false))
	w.must(w.Forget("node", "one", netip.MustParseAddr(one)))
	w.must(w.Load(t.Context(), "node", service.IPv4, rules(two), false))
	w.pass(3 * time.Second)
	fresh, err := w.Open(w.lab.Clients[0], 0)
	w.must(err)
	w.want(w.ask(c, fresh), "timeout, answered two")
	r, err := w.Get("node", tuple(t, flow))
	w.must(err)
	if r == nil || !r.Entry.Status.Has(conntrack.Assured) || r.Entry.Reply.Src.String() != one || r.Entry.Timeout != 119 {
		t.Fatalf("entry %v, want it assured by a packet 300 ms ago, with %s", r, one)
	}
	stale := r.Entry
	stale.ID++
	if found, err := w.Delete("node", &stale); found || err != nil {
		t.Errorf("deleted an entry with another id: %v", err)
	}
	if found, err := w.Delete("node", &r.Entry); !found || err != nil {
		t.Errorf("did not delete the entry: %v", err)
	}
	w.want(w.ask(c), "answered two")
	var events []string
	for _, e := range w.Events("node") {
		if e.Entry.Orig == c.Tuple() {
			events = append(events, string(e.Kind)+" "+e.Entry.Reply.Src.String())
		}
	}
	if got, want := strings.Join(events, ", "), "new 10.244.1.10, update 10.244.1.10, update 10.244.1.10, destroy 10.244.1.10, new 10.244.1.11, update 10.244.1.11"; got != want {
		t.Errorf("events %s\nwant %s", got, want)
	}
	w.close()
}

// What a connected socket, one with IP_RECVERR and an unconnected one hear of each way in which a backend
// can be gone.
func TestHowABackendIsGone(t *testing.T) {
	address := func(w world) {
		w.must(w.Address("one", "eth0", netip.MustParsePrefix(one+"/24"), false))
		w.must(w.Forget("node", "one", netip.MustParseAddr(one)))
	}
	for _, c := range []struct {
		name                          string
		gone                          func(world)
		connected, recvErr, unrelated string
	}{
		{"process", func(world) {}, "refused", "refused", "timeout"},
		{"address", address, "timeout", "unreachable", "timeout"},
		{"link down", func(w world) { w.must(w.Link("one", "eth0", "down")) }, "timeout", "unreachable", "timeout"},
		{"link gone", func(w world) { w.must(w.Link("node", "one", "gone")) }, "timeout", "unreachable", "timeout"},
		{"drop", func(w world) {
			w.must(w.Load(w.t.Context(), "node", service.IPv4, "*filter\n-A FORWARD -d "+one+" -j DROP\nCOMMIT\n", true))
		}, "timeout", "timeout", "timeout"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for i, want := range []string{c.connected, c.recvErr, c.unrelated} {
				w := build(t, func(l *lab.Lab) {
					l.Clients[0].Timeout = 4 * time.Second
					l.Clients[0].Connected, l.Clients[0].RecvErr = i < 2, i == 1
				})
				server := w.serve("one", one+":53")
				s := w.open()
				w.want(w.ask(s), "answered one")
				_, err := server.Stop(t.Context())
				w.must(err)
				c.gone(w)
				w.want(w.ask(s), want)
				w.close()
			}
		})
	}
}

// A neighbour that does not answer is given up after three questions, together with all that waits for it.
func TestNeighbourFails(t *testing.T) {
	w := build(t, func(l *lab.Lab) {
		l.Clients[0].Timeout, l.Clients[0].RecvErr = 4*time.Second, true
	})
	w.must(w.Address("one", "eth0", netip.MustParsePrefix(one+"/24"), false))
	first, err := w.Open(w.lab.Clients[0], 0)
	w.must(err)
	begin := w.Now()
	w.want(w.ask(first), "unreachable")
	if got := w.Now() - begin; got < 3060*time.Millisecond || got > 3061*time.Millisecond {
		t.Errorf("given up after %v, want 3.06 s and two links", got)
	}
	run, err := w.Begin(play.Background{Client: w.lab.Clients[0], Count: 1, Sent: func(_ conntrack.Tuple, r play.Reply, _ bool) {
		if r.Class != lab.Unreachable || r.Took > 3100*time.Millisecond {
			t.Errorf("%s after %v", r.Class, r.Took)
		}
	}})
	w.must(err)
	w.pass(2 * time.Second)
	r := w.ask(first)
	if r[0].Class != lab.Unreachable || r[0].Took > 1100*time.Millisecond {
		t.Errorf("a packet that joins the queue: %s after %v, want it to fail together with the first", r[0].Class, r[0].Took)
	}
	w.must(run.Stop(t.Context()))
	w.close()
}

// An error about an earlier question is passed over.
func TestLateError(t *testing.T) {
	w := build(t, func(l *lab.Lab) { l.Clients[0].RecvErr = true })
	w.must(w.Address("one", "eth0", netip.MustParsePrefix(one+"/24"), false))
	c := w.open()
	w.want(w.ask(c), "timeout")
	w.must(w.Load(t.Context(), "node", service.IPv4, "*filter\n-A FORWARD -d "+one+" -j DROP\nCOMMIT\n", true))
	w.lab.Clients[0].Timeout = 4 * time.Second
	w.want(w.ask(c), "timeout")
	if tr := w.close(); count(tr, trace.Left, "icmp 10.96.0.10 > 10.244.2.5 type 3 code 1") != 1 {
		t.Error("want one error, about the first question")
	}
}

// A neighbour that comes back between two questions gets what waits for it.
func TestNeighbourComesBack(t *testing.T) {
	w := build(t, func(l *lab.Lab) { l.Clients[0].Timeout = 4 * time.Second })
	w.must(w.Address("one", "eth0", netip.MustParsePrefix(one+"/24"), false))
	var got []play.Reply
	run, err := w.Begin(play.Background{Client: w.lab.Clients[0], Count: 1, Sent: func(_ conntrack.Tuple, r play.Reply, _ bool) { got = append(got, r) }})
	w.must(err)
	w.pass(1500 * time.Millisecond)
	w.must(w.Address("one", "eth0", netip.MustParsePrefix(one+"/24"), true))
	w.must(w.Route("one", "add", lab.Route{To: netip.MustParsePrefix("10.244.1.1/32"), Dev: "eth0"}))
	w.must(w.Route("one", "add", lab.Route{To: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("10.244.1.1"), Dev: "eth0"}))
	w.serve("one", one+":53")
	w.must(run.Stop(t.Context()))
	w.want(got, "answered one")
	w.close()
}

// A server that is bound to any address answers from the one that its route names: an unconnected socket
// hears it from there, a connected one refuses it.
func TestWrongSource(t *testing.T) {
	for _, connected := range []bool{false, true} {
		w := build(t, func(l *lab.Lab) {
			l.Node("one").Also = []netip.Prefix{netip.MustParsePrefix("10.244.1.99/24")}
			l.Clients[0].Connected, l.Clients[0].To = connected, netip.MustParseAddrPort("10.244.1.99:53")
		})
		w.serve("one", "0.0.0.0:53")
		r := w.ask(w.open())
		if connected {
			w.want(r, "timeout")
		} else if w.want(r, "wrong-source one"); r[0].From.String() != one+":53" {
			t.Errorf("from %s, want %s:53", r[0].From, one)
		}
		tr := w.close()
		refusals := count(tr, trace.Packet, "icmp 10.244.2.5 > "+one+" type 3 code 3")
		if want := map[bool]int{true: 1}[connected]; refusals != want {
			t.Errorf("connected %v: %d port unreachable, want %d", connected, refusals, want)
		}
	}
}

func count(tr trace.Trace, kind trace.Kind, part string) (n int) {
	for _, r := range tr.Records {
		if r.Kind == kind && strings.Contains(r.Args, part) {
			n++
		}
	}
	return n
}

// A host answers at most six times at once with port unreachable, then once a second.
func TestRefusalsAreLimited(t *testing.T) {
	w := build(t, nil)
	var sockets []play.Socket
	for range 8 {
		s, err := w.Open(w.lab.Clients[0], 0)
		w.must(err)
		sockets = append(sockets, s)
	}
	w.want(w.ask(sockets...), "refused, refused, refused, refused, refused, refused, timeout, timeout")
	w.pass(time.Second)
	w.want(w.ask(sockets[6:]...), "refused, timeout")
	w.must(w.Sysctl("one", lab.Sysctl{Name: "net.ipv4.icmp_ratelimit", Value: "0"}))
	w.want(w.ask(sockets[6:]...), "refused, refused")
	w.close()
}

// An error that comes between two questions of a connected socket ends the next one before it is sent.
func TestPendingError(t *testing.T) {
	w := build(t, func(l *lab.Lab) { l.Clients[0].Timeout = 10 * time.Microsecond })
	c := w.open()
	w.want(w.ask(c), "timeout")
	w.pass(time.Millisecond)
	w.want(w.ask(c), "refused")
	w.want(w.ask(c), "timeout")
	w.pass(time.Millisecond)
	if tr := w.close(); count(tr, trace.Packet, flow) != 2 {
		t.Errorf("%d packets, want 2: nothing is sent where an error waits", count(tr, trace.Packet, flow))
	}
}

// A server that ends while it thinks does not answer.
func TestStoppedServer(t *testing.T) {
	w := build(t, nil)
	server := w.serve("one", one+":53")
	var got []play.Reply
	run, err := w.Begin(play.Background{Client: w.lab.Clients[0], Count: 1, Sent: func(_ conntrack.Tuple, r play.Reply, _ bool) { got = append(got, r) }})
	w.must(err)
	w.pass(80 * time.Microsecond) // two links are passed, the answer is not ready
	if asked, err := server.Stop(t.Context()); asked != 1 || err != nil {
		t.Fatalf("%d questions reached the server, %v; want 1", asked, err)
	}
	w.must(run.Stop(t.Context()))
	w.want(got, "timeout")
	w.close()
}

// A fresh port is one that was never used, as long as there are any; then one that is free.
func TestFreshPorts(t *testing.T) {
	w := build(t, nil)
	w.must(w.Sysctl("app", lab.Sysctl{Name: "net.ipv4.ip_local_port_range", Value: "50000\t50099"}))
	seen := map[uint16]bool{}
	for i := range 200 {
		s, err := w.Open(w.lab.Clients[0], 0)
		w.must(err)
		port := s.Tuple().SrcPort
		if port < 50000 || port > 50099 || seen[port] != (i >= 100) {
			t.Fatalf("socket %d: port %d, used before: %v", i, port, seen[port])
		}
		seen[port] = true
		w.must(s.Close())
	}
}

func TestBackground(t *testing.T) {
	w := build(t, func(l *lab.Lab) {
		l.Clients[0].Control, l.Clients[0].Timeout = true, 15*time.Millisecond
	})
	server := w.serve("one", one+":53")
	c := w.open()
	w.must(w.Ready())
	var got []play.Reply
	ports, told := map[uint16]int{}, 0
	run, err := w.Begin(play.Background{Client: w.lab.Clients[0], Socket: c, Every: 20 * time.Millisecond,
		Sent: func(t conntrack.Tuple, r play.Reply, control bool) {
			ports[t.SrcPort]++
			if told++; control != (told%2 == 0) {
				w.t.Fatalf("outcome %d, of the control %v: want that of the control last", told, control)
			}
			if !control {
				got = append(got, r)
			}
		}})
	w.must(err)
	w.pass(time.Second)
	_, err = server.Stop(t.Context())
	w.must(err)
	w.must(w.Address("one", "eth0", netip.MustParsePrefix(one+"/24"), false))
	w.serve("two", two+":53")
	w.must(w.Load(t.Context(), "node", service.IPv4, rules(two), false))
	w.pass(time.Second)
	w.must(run.Stop(t.Context()))
	asked := len(got)
	w.pass(time.Second)
	if asked != 101 || len(got) != asked {
		t.Errorf("%d questions, %d after the stop; want 101 in two seconds, each 20 ms", asked, len(got)-asked)
	}
	for i, r := range got {
		want := lab.Answered
		if r.At >= time.Second {
			want = lab.Timeout
		}
		if r.Class != want || r.At != time.Duration(i)*20*time.Millisecond {
			t.Fatalf("question %d at %v: %s, want %s", i, r.At, r.Class, want)
		}
	}
	if len(ports) != 102 || ports[40053] != 101 {
		t.Errorf("%d ports, the kept one %d times; want a fresh one beside each question", len(ports), ports[40053])
	}
	w.close()
}

// A client that hears at once that nothing can be sent does not stop time.
func TestBusyClient(t *testing.T) {
	w := build(t, nil)
	c := w.open()
	w.must(w.Link("app", "eth0", "down"))
	n := 0
	run, err := w.Begin(play.Background{Client: w.lab.Clients[0], Socket: c, Sent: func(_ conntrack.Tuple, r play.Reply, _ bool) {
		n++
		if r.Class != lab.Unreachable && r.Class != lab.Timeout {
			t.Fatalf("%s, want unreachable", r.Class)
		}
	}})
	w.must(err)
	w.pass(10 * time.Millisecond)
	w.must(run.Stop(t.Context()))
	if n < 2 || n > 1000 {
		t.Errorf("%d questions in 10 ms", n)
	}
}

// A client and a server on the router itself.
func TestOnTheRouter(t *testing.T) {
	local := func(l *lab.Lab) { l.Clients[0].On = "node" }
	def := lab.Route{To: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr(two), Dev: "two"}
	t.Run("client", func(t *testing.T) {
		w := build(t, func(l *lab.Lab) {
			local(l)
			l.Node("node").Routes = []lab.Route{def}
		})
		w.serve("one", one+":53")
		c := w.open()
		if got := c.Tuple().Src.String(); got != "10.244.1.1" {
			t.Errorf("source %s, want that of the route to the VIP", got)
		}
		w.want(w.ask(c), "answered one")
		w.must(w.Load(t.Context(), "node", service.IPv4, "*filter\n-A OUTPUT -d "+one+" -j DROP\nCOMMIT\n", true))
		w.want(w.ask(c), "not-permitted")
		w.close()
	})
	t.Run("rejected", func(t *testing.T) {
		w := build(t, func(l *lab.Lab) {
			local(l)
			l.Node("node").Routes = []lab.Route{def}
		})
		w.must(w.Load(t.Context(), "node", service.IPv4, "*filter\n-A OUTPUT -d "+one+" -j REJECT\nCOMMIT\n", true))
		c := w.open()
		// The packet is refused at once, and the error that comes with it waits for the next question.
		for _, want := range []string{"not-permitted", "refused", "not-permitted"} {
			w.want(w.ask(c), want)
		}
		w.close()
	})
	t.Run("no route behind the VIP", func(t *testing.T) {
		w := build(t, func(l *lab.Lab) {
			local(l)
			l.Node("node").Routes = []lab.Route{{To: netip.MustParsePrefix("10.96.0.0/16"), Via: netip.MustParseAddr(two), Dev: "two"}}
		})
		w.must(w.Load(t.Context(), "node", service.IPv4, rules("10.250.0.1"), false))
		w.want(w.ask(w.open()), "unreachable")
		w.close()
	})
	t.Run("no route to the VIP", func(t *testing.T) {
		w := build(t, local)
		w.serve("one", one+":53")
		w.want(w.ask(w.open()), "unreachable")
		w.close()
	})
	t.Run("refused", func(t *testing.T) {
		w := build(t, func(l *lab.Lab) {
			local(l)
			l.Node("node").Routes = []lab.Route{def}
		})
		w.want(w.ask(w.open()), "refused")
		w.close()
	})
	t.Run("server", func(t *testing.T) {
		w := build(t, func(l *lab.Lab) {
			l.Clients[0].To = netip.MustParseAddrPort("10.244.1.1:53")
		})
		c := w.open()
		w.want(w.ask(c), "refused")
		w.serve("node", "10.244.1.1:53")
		w.want(w.ask(c), "answered node")
		w.close()
	})
	t.Run("both", func(t *testing.T) {
		w := build(t, func(l *lab.Lab) {
			local(l)
			l.Clients[0].To = netip.MustParseAddrPort("10.244.1.1:53")
		})
		c := w.open()
		w.want(w.ask(c), "refused")
		w.serve("node", "10.244.1.1:53")
		w.want(w.ask(c), "answered node")
		w.close()
	})
}

// A host that asks a server of its own never leaves.
func TestOnOneHost(t *testing.T) {
	w := build(t, func(l *lab.Lab) { l.Clients[0].To = netip.MustParseAddrPort("10.244.2.5:53") })
	c := w.open()
	w.want(w.ask(c), "refused")
	w.serve("app", "10.244.2.5:53")
	w.want(w.ask(c), "answered app")
	w.close()
}

// A backend that asks its own service gets its own packet back, and takes it for a martian.
func TestHairpin(t *testing.T) {
	w := build(t, func(l *lab.Lab) { l.Clients[0].On = "one" })
	server := w.serve("one", one+":53")
	w.want(w.ask(w.open()), "timeout")
	if asked, err := server.Stop(t.Context()); asked != 0 || err != nil {
		t.Errorf("%d questions reached the server, %v; want none", asked, err)
	}
	w.serve("one", one+":53")
	w.must(w.Flush("node"))
	w.must(w.Load(t.Context(), "node", service.IPv4, "*nat\n-A POSTROUTING -s "+one+" -d "+one+" -j MASQUERADE\nCOMMIT\n", true))
	c, err := w.Open(w.lab.Clients[0], 0)
	w.must(err)
	w.want(w.ask(c), "answered one")
	w.close()
}

// The client's own link: down, its routes are gone for good; up again, a route brings it back.
func TestOwnLink(t *testing.T) {
	w := build(t, nil)
	w.serve("one", one+":53")
	c := w.open()
	w.must(w.Link("app", "eth0", "down"))
	w.want(w.ask(c), "unreachable")
	w.must(w.Link("app", "eth0", "up"))
	w.want(w.ask(c), "unreachable")
	w.must(w.Route("app", "add", lab.Route{To: netip.MustParsePrefix("10.244.2.1/32"), Dev: "eth0"}))
	w.must(w.Route("app", "add", lab.Route{To: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("10.244.2.1"), Dev: "eth0"}))
	w.want(w.ask(c), "answered one")
	w.must(w.Address("app", "eth0", netip.MustParsePrefix("10.244.2.5/24"), false))
	w.want(w.ask(c), "unreachable")
	w.close()
}

// A router's port without carrier keeps its route; the host behind it cannot be asked for.
func TestGatewayIsGone(t *testing.T) {
	w := build(t, func(l *lab.Lab) {
		l.Clients[0].Timeout, l.Clients[0].RecvErr = 4*time.Second, true
	})
	w.serve("one", one+":53")
	c := w.open()
	w.want(w.ask(c), "answered one")
	w.must(w.Link("node", "app", "down"))
	w.want(w.ask(c), "unreachable")
	w.close()
}

// Acts that the kernel refuses.
func TestRefusedActs(t *testing.T) {
	w := build(t, nil)
	w.serve("one", one+":53")
	other := *w.lab.Clients[0]
	other.Source = netip.MustParseAddr("10.9.9.9")
	unconnected := *w.lab.Clients[0]
	unconnected.Connected = false
	w.open()
	for name, err := range map[string]error{
		"address already in use":         second(w.Serve(t.Context(), "one", netip.MustParseAddrPort("0.0.0.0:53"), "one")),
		"cannot assign":                  second(w.Serve(t.Context(), "one", netip.MustParseAddrPort("10.9.9.9:53"), "one")),
		"cannot assign requested":        second(w.Open(&other, 1)),
		"client: address already in use": second(w.Open(&unconnected, 40053)),
		"one of its addresses":           second(w.Serve(t.Context(), "node", netip.MustParseAddrPort("0.0.0.0:53"), "node")),
		"file exists":                    w.Route("node", "add", lab.Route{To: netip.MustParsePrefix(one + "/32"), Dev: "one"}),
		"no such process":                w.Route("node", "del", lab.Route{To: netip.MustParsePrefix("10.9.9.9/32"), Dev: "one"}),
		"cannot find device":             w.Link("node", "nowhere", "up"),
		"there is none":                  w.Link("nobody", "eth0", "up"),
		"not tracked":                    w.Load(t.Context(), "app", service.IPv4, "", false),
		"rules":                          w.Load(t.Context(), "node", service.IPv4, "*nat\n-A PREROUTING -m u32 -j ACCEPT\nCOMMIT\n", true),
		"not simulated":                  second(w.Start("app", lab.Command{Argv: []string{"true"}})),
	} {
		if part := name[strings.LastIndex(name, ": ")+1:]; err == nil || !strings.Contains(err.Error(), strings.TrimSpace(part)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := w.Start("app", lab.Command{}); !errors.Is(err, play.ErrNotSimulated) {
		t.Errorf("exec: %v", err)
	}
}

func second[T any](_ T, err error) error { return err }

// A cancelled run ends at once.
func TestCancel(t *testing.T) {
	w := build(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	c := w.open()
	cancel()
	if _, err := w.Ask(ctx, []play.Socket{c}); !errors.Is(err, context.Canceled) {
		t.Errorf("ask: %v", err)
	}
	if err := w.WaitUntil(ctx, time.Hour); !errors.Is(err, context.Canceled) {
		t.Errorf("wait: %v", err)
	}
}

// The same seed gives the same record, another one other backends and ports.
func TestSeed(t *testing.T) {
	play := func(seed uint64) (string, trace.Trace) {
		w := buildFor(t, seed, nil)
		w.must(w.Load(t.Context(), "node", service.IPv4, rules(one, two), false))
		w.serve("one", one+":53")
		w.serve("two", two+":53")
		var by []string
		for range 20 {
			s, err := w.Open(w.lab.Clients[0], 0)
			w.must(err)
			by = append(by, classes(w.ask(s)))
			w.must(s.Close())
		}
		return strings.Join(by, ", "), w.close()
	}
	first, record := play(1)
	again, same := play(1)
	if first != again || !reflect.DeepEqual(record, same) {
		t.Error("the same seed gives another run")
	}
	if !strings.Contains(first, "one") || !strings.Contains(first, "two") {
		t.Errorf("20 random choices: %s", first)
	}
	if other, _ := play(2); other == first {
		t.Error("another seed gives the same backends")
	}
}

// Reads: what the table holds, in all the ways of looking.
func TestReads(t *testing.T) {
	w := build(t, nil)
	w.serve("one", one+":53")
	w.want(w.ask(w.open()), "answered one")
	dump, err := w.Dump("node")
	w.must(err)
	get, err := w.Get("node", tuple(t, flow))
	w.must(err)
	n, err := w.Count("node")
	w.must(err)
	if len(dump) != 1 || n != 1 || get == nil || get.Entry.ID == 0 || get.Entry.ID != dump[0].Entry.ID {
		t.Errorf("count %d, dump %v, get %v", n, dump, get)
	}
	if e := dump[0].Entry; e.OrigCount.Packets != 1 || e.ReplyCount.Packets != 1 || e.Timeout != 30 {
		t.Errorf("entry %s", &e)
	}
	text, err := w.Hits(t.Context(), "node", service.IPv4)
	w.must(err)
	hits, err := model.ParseHits(text)
	w.must(err)
	found := false
	for _, h := range hits {
		found = found || h.Table == "nat" && h.Chain == "svc" && h.Comment == "dns/"+one && h.Counters.Packets == 1
	}
	if !found {
		t.Errorf("no packet counted by the backend's rule:\n%s", text)
	}
	stats, err := w.Stats("node")
	w.must(err)
	if stats["insert-failed"] != 0 || stats["drop"] != 0 {
		t.Errorf("stats %v", stats)
	}
	w.must(w.Flush("node"))
	if get, err = w.Get("node", tuple(t, flow)); get != nil || err != nil {
		t.Errorf("after a flush: %v %v", get, err)
	}
	if ev := w.Events("node"); len(ev) != 3 || ev[2].Kind != conntrack.Destroy || !ev[2].Entry.Has(conntrack.HasTimeout) {
		t.Errorf("events %v", ev)
	}
	w.close()
}

// A question that is sent near the 2 s rule is a margin, one that is not is none.
func TestMargins(t *testing.T) {
	for gap, want := range map[time.Duration]int{1980 * time.Millisecond: 1, 2020 * time.Millisecond: 1, 1900 * time.Millisecond: 0, 2100 * time.Millisecond: 0} {
		w := build(t, nil)
		w.serve("one", one+":53")
		c := w.open()
		w.want(w.ask(c), "answered one")
		w.pass(gap)
		w.want(w.ask(c), "answered one")
		ev, err := w.Close(t.Context())
		w.must(err)
		near := 0
		for _, m := range ev.Margins {
			if m.Node == "node" && strings.Contains(m.What, "2 s") {
				near++
			}
		}
		if near != want {
			t.Errorf("%v apart: margins %v", gap, ev.Margins)
		}
		if ev.Waits < gap {
			t.Errorf("waited %v", ev.Waits)
		}
	}
}

// Messages have the lengths that the kernel's tap saw: checks/trace/testdata/kernel/6.18-coredns-restart.trace.
func TestLengths(t *testing.T) {
	w := build(t, func(l *lab.Lab) { l.Clients[0].Question = "www.ctlab.test." })
	_, err := w.Serve(t.Context(), "one", netip.MustParseAddrPort(one+":53"), "coredns-1")
	w.must(err)
	w.want(w.ask(w.open()), "answered coredns-1")
	tr := w.close()
	for _, want := range []string{"len 60", "len 121"} {
		if n := count(tr, trace.Packet, want); n != 1 {
			t.Errorf("%d packets of %s, want 1", n, want)
		}
	}
}
