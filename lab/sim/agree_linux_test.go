package sim_test

import (
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"ctlab/checks/conntrack"
	"ctlab/lab"
	"ctlab/lab/live"
	"ctlab/lab/play"
	"ctlab/lab/sim"
	"ctlab/topology/service"
)

// scene is played on two grounds; said is what its questions came to.
type scene struct {
	play.Ground
	t    *testing.T
	lab  *lab.Lab
	said []string
}

func (s *scene) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *scene) serve(on, at string) play.Server {
	s.t.Helper()
	srv, err := s.Serve(s.t.Context(), on, netip.MustParseAddrPort(at), on)
	s.must(err)
	return srv
}

// sockets are one of each kind: connected or not, without and with IP_RECVERR.
func (s *scene) sockets(timeout time.Duration) (out []play.Socket) {
	s.t.Helper()
	for i := range 4 {
		c := *s.lab.Clients[0]
		c.Timeout, c.Connected, c.RecvErr = timeout, i < 2, i%2 == 1
		sock, err := s.Open(&c, 0)
		s.must(err)
		s.t.Cleanup(func() { _ = sock.Close() })
		out = append(out, sock)
	}
	return out
}

func (s *scene) ask(from ...play.Socket) {
	s.t.Helper()
	replies, err := s.Ask(s.t.Context(), from)
	s.must(err)
	s.said = append(s.said, classes(replies))
}

func (s *scene) load(rules string, noflush bool) {
	s.t.Helper()
	s.must(s.Load(s.t.Context(), "node", service.IPv4, rules, noflush))
}

func (s *scene) output(rule string) {
	s.load("*filter\n-F OUTPUT\n-A OUTPUT -d "+one+rule+"\nCOMMIT\n", true)
}

func (s *scene) loseAddress() {
	s.must(s.Address("one", "eth0", netip.MustParsePrefix(one+"/24"), false))
	s.must(s.Forget("node", "one", netip.MustParseAddr(one)))
}

func route(to, via, dev string) lab.Route {
	r := lab.Route{To: netip.MustParsePrefix(to), Dev: dev}
	if via != "" {
		r.Via = netip.MustParseAddr(via)
	}
	return r
}

// Timeouts: longer than a neighbour takes to fail, and long enough for everything else.
const (
	longEnough = 3500 * time.Millisecond
	short      = time.Second
)

// noticed is longer than the kernel takes to see that a carrier is gone (linkwatch_do_dev, once a second).
const noticed = 1500 * time.Millisecond

// gone is a server that ends in a certain way, seen from all kinds of sockets.
func gone(timeout time.Duration, how func(*scene)) func(*scene) {
	return func(s *scene) {
		srv := s.serve("one", one+":53")
		from := s.sockets(timeout)
		s.ask(from...)
		_, err := srv.Stop(s.t.Context())
		s.must(err)
		how(s)
		s.ask(from...)
	}
}

var scenes = []struct {
	name   string
	change func(*lab.Lab) // nil: none
	play   func(*scene)
}{
	{"the process ends", nil, gone(short, func(*scene) {})},
	{"the address is gone", nil, gone(longEnough, (*scene).loseAddress)},
	{"the link is down", nil, gone(longEnough, func(s *scene) {
		s.must(s.Link("one", "eth0", "down"))
		s.must(s.WaitUntil(s.t.Context(), s.Now()+noticed))
	})},
	{"the link is gone, default route",
		func(l *lab.Lab) { l.Node("node").Routes = []lab.Route{route("0.0.0.0/0", two, "two")} },
		gone(short, func(s *scene) { s.must(s.Link("node", "one", "gone")) })},
	{"dropped", nil, gone(short, func(s *scene) { s.load("*filter\n-A FORWARD -d "+one+" -j DROP\nCOMMIT\n", true) })},
	{"prohibited", nil, gone(short, func(s *scene) {
		s.load("*filter\n-A FORWARD -d "+one+" -j REJECT --reject-with icmp-admin-prohibited\nCOMMIT\n", true)
	})},
	{"the address comes back", nil, comesBack},
	{"the client's own link", nil, ownLink},
	{"refusals are limited", nil, func(s *scene) {
		for range 4 {
			for _, sock := range s.sockets(600 * time.Millisecond)[:2] { // the connected ones
				s.ask(sock)
			}
		}
	}},
	{"an answer from elsewhere", func(l *lab.Lab) {
		l.Node("one").Also = []netip.Prefix{netip.MustParsePrefix("10.244.1.99/24")}
		l.Clients[0].To = netip.MustParseAddrPort("10.244.1.99:53")
	}, func(s *scene) {
		s.serve("one", "0.0.0.0:53")
		s.ask(s.sockets(short)...)
	}},
	{"hairpin", func(l *lab.Lab) { l.Clients[0].On = "one" }, func(s *scene) {
		s.serve("one", one+":53")
		s.ask(s.sockets(short)...)
		s.load("*nat\n-A POSTROUTING -s "+one+" -d "+one+" -j MASQUERADE\nCOMMIT\n", true)
		s.ask(s.sockets(short)...)
	}},
	{"on the router", func(l *lab.Lab) {
		l.Clients[0].On = "node"
		l.Node("node").Routes = []lab.Route{route("10.96.0.0/16", two, "two")}
	}, onTheRouter},
}

func comesBack(s *scene) {
	c := *s.lab.Clients[0]
	c.Timeout = longEnough
	s.loseAddress()
	run, err := s.Begin(play.Background{Client: &c, Count: 1, Sent: func(_ conntrack.Tuple, r play.Reply, _ bool) {
		s.said = append(s.said, classes([]play.Reply{r}))
	}})
	s.must(err)
	s.must(s.WaitUntil(s.t.Context(), s.Now()+1500*time.Millisecond))
	s.must(s.Address("one", "eth0", netip.MustParsePrefix(one+"/24"), true))
	s.must(s.Route("one", "add", route("10.244.1.1/32", "", "eth0")))
	s.must(s.Route("one", "add", route("0.0.0.0/0", "10.244.1.1", "eth0")))
	s.serve("one", one+":53")
	s.must(run.Stop(s.t.Context()))
}

func ownLink(s *scene) {
	s.serve("one", one+":53")
	from := s.sockets(short)
	s.must(s.Link("app", "eth0", "down"))
	s.ask(from...)
	s.must(s.Link("app", "eth0", "up"))
	s.ask(from...) // its routes are gone for good
	s.must(s.Route("app", "add", route("10.244.2.1/32", "", "eth0")))
	s.must(s.Route("app", "add", route("0.0.0.0/0", "10.244.2.1", "eth0")))
	s.ask(from...)
	s.must(s.Address("app", "eth0", netip.MustParsePrefix("10.244.2.5/24"), false))
	s.ask(from...)
}

func onTheRouter(s *scene) {
	srv := s.serve("one", one+":53")
	from := s.sockets(longEnough)
	s.ask(from...)
	_, err := srv.Stop(s.t.Context())
	s.must(err)
	s.ask(from...)
	s.loseAddress()
	s.ask(from...)
	s.output(" -j DROP")
	s.ask(from...)
	s.output(" -j REJECT")
	s.ask(from...)
	s.ask(from...)                                            // a connected socket hears of the error that came with the refusal
	for _, to := range []string{"10.250.0.1", "10.244.2.1"} { // no route; an address of its own
		s.load(rules(to), false)
		s.must(s.Flush("node"))
		s.ask(from...)
	}
	s.load("*filter\n-A INPUT -p udp -j DROP\nCOMMIT\n", true)
	s.ask(from...)
}

// The simulated network and this kernel give every kind of socket the same answers.
func TestAsThisKernel(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("needs root")
		}
		t.Skip("needs root")
	}
	for _, c := range scenes {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			stage := func(ground func(*lab.Lab) play.Ground) string {
				l, err := lab.Load("test.yaml", []byte(network), "")
				if err != nil {
					t.Fatal(err)
				}
				if c.change != nil {
					c.change(l)
				}
				s := &scene{Ground: ground(l), t: t, lab: l}
				_, err = s.Build(t.Context())
				s.must(err)
				s.load(rules(one), false)
				s.must(s.Ready())
				c.play(s)
				_, err = s.Close(t.Context())
				s.must(err)
				return strings.Join(s.said, "\n")
			}
			kernel := stage(func(l *lab.Lab) play.Ground { return live.New(l) })
			simulated := stage(func(l *lab.Lab) play.Ground { return sim.New(l, 1) })
			if kernel != simulated {
				t.Errorf("kernel\n%s\nsimulated\n%s", kernel, simulated)
			}
		})
	}
}
