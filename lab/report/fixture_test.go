package report

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"ctlab/checks/conntrack"
	"ctlab/lab"
	"ctlab/topology/service"
)

const second = time.Second

// fixture makes results by hand, as a world would.
type fixture struct {
	t   *testing.T
	r   *lab.Result
	now time.Duration
	n   map[string]int // requests so far, by client
}

// newFixture is a lab with one router, a service with VIP 10.96.0.10, two or more pods and a squatter, and
// as many clients as are named.
func newFixture(t *testing.T, backends []string, clients ...string) *fixture {
	t.Helper()
	l := &lab.Lab{File: "x.yaml", Name: "x", About: "what is tried here", Variants: []lab.Variant{{Name: "fix", About: "it cures"}}}
	node := func(name, addr string) {
		l.Nodes = append(l.Nodes, &lab.Node{Name: name, Address: netip.MustParsePrefix(addr), Uplink: "node", Gateway: netip.MustParsePrefix(addr).Masked().Addr().Next()})
	}
	l.Nodes = append(l.Nodes, &lab.Node{Name: "node", Router: true})
	node("app", "10.244.2.5/24")
	node("coredns-1", "10.244.1.10/24")
	node("coredns-2", "10.244.1.11/24")
	node("squatter", "10.244.1.12/24")
	l.Services = []*lab.Service{{Name: "kube-dns", VIP: netip.MustParseAddr("10.96.0.10"), Ports: []lab.Port{{Number: 53, Proto: conntrack.UDP, Target: 53}},
		Backends: backends, Cleanup: lab.Cleanup{Mode: service.None}}}
	l.Servers = []*lab.Server{{Name: "coredns", On: "coredns-1"}}
	for _, c := range clients {
		l.Clients = append(l.Clients, &lab.Client{Name: c, On: "app", Server: "kube-dns"})
	}
	r := &lab.Result{Lab: l, Wall: 8 * second}
	r.Setting = lab.Setting{Kernel: "6.18.44", Iptables: "1.8.9 (nf_tables)", Profile: "6.18", Probed: "UDP rule after-2s", Nodes: 5, Took: 9 * time.Millisecond}
	r.Evidence.Waits = 7900 * time.Millisecond
	return &fixture{t, r, 0, map[string]int{}}
}

// port of the first client is 40053, of the next 40054.
func (f *fixture) tuple(client string) conntrack.Tuple {
	for i, c := range f.r.Lab.Clients {
		if c.Name == client {
			return f.parse(fmt.Sprintf("udp 10.244.2.5:%d > 10.96.0.10:53", 40053+i))
		}
	}
	f.t.Fatalf("no client %s", client)
	return conntrack.Tuple{}
}

func (f *fixture) parse(line string) conntrack.Tuple {
	f.t.Helper()
	t, err := conntrack.ParseTuple(line)
	if err != nil {
		f.t.Fatal(err)
	}
	return t
}

// entry of a client's flow, towards a node or (the VIP's name) without DNAT.
func (f *fixture) entry(client, to string, status conntrack.Status, left uint32) conntrack.Entry {
	o := f.tuple(client)
	e := conntrack.Entry{Orig: o, Status: status | conntrack.Confirmed | conntrack.SrcNATDone | conntrack.DstNATDone, Known: conntrack.HasTimeout | conntrack.HasID, Timeout: left, ID: 7}
	e.Reply, _ = o.Inverse()
	if n := f.r.Lab.Node(to); n != nil {
		e.Reply.Src = n.Address.Addr()
		e.Status |= conntrack.DstNAT
	}
	return e
}

// step adds a step that has just ended.
func (f *fixture) step(s lab.Step, took time.Duration, out lab.Outcome) *lab.StepResult {
	s.Index = len(f.r.Steps) + 1
	s.Pos = lab.Pos{File: "x.yaml", Line: 20 + s.Index, Col: 5}
	out.Began, out.Ended = f.now, f.now+took
	f.now += took
	f.r.Lab.Steps = append(f.r.Lab.Steps, &s)
	f.r.Steps = append(f.r.Steps, lab.StepResult{Step: &s, Outcome: out})
	return &f.r.Steps[len(f.r.Steps)-1]
}

// pause lets time pass before the next step, as its "after" says.
func (f *fixture) pause(d time.Duration) time.Duration { f.now += d; return d }

// attempt is a request at a moment. A lost one takes 300 ms.
func (f *fixture) attempt(client string, at time.Duration, class lab.Class, by string) lab.Attempt {
	f.n[client]++
	a := lab.Attempt{Client: client, Number: f.n[client], Node: "node", Tuple: f.tuple(client), At: at, Class: class, By: by, Took: 300 * time.Millisecond}
	if class == lab.Answered || class == lab.Refused {
		a.Took = 300 * time.Microsecond
	}
	return a
}

// query is a step in which a client asks n times, with the same result each time.
func (f *fixture) query(client string, n int, every time.Duration, class lab.Class, by string) *lab.StepResult {
	var as []lab.Attempt
	for i := range n {
		as = append(as, f.attempt(client, f.now+time.Duration(i)*every, class, by))
	}
	last := as[n-1]
	return f.step(lab.Step{Kind: lab.Query, Clients: []string{client}, Count: n}, last.At+last.Took-f.now, lab.Outcome{Attempts: as})
}

// restart moves coredns from coredns-1 to coredns-2, and the service with it.
func (f *fixture) restart(d lab.Death, reuse string, deleted ...lab.Deleted) *lab.StepResult {
	svc := f.r.Lab.Services[0]
	return f.step(lab.Step{Kind: lab.Restart, Server: "coredns", On: "coredns-2", Death: d, Reuse: reuse}, 4*time.Millisecond, lab.Outcome{Deleted: deleted,
		Restarted: &lab.Restarted{Server: "coredns", From: "coredns-1", To: "coredns-2", Death: d, Reuse: reuse, Services: []string{"kube-dns"}, Cleanup: svc.Cleanup}})
}

func (f *fixture) final(entries ...lab.Seen) {
	f.r.Evidence.Final = []lab.Snapshot{{Node: "node", At: f.now, Entries: entries, Hits: map[string]uint64{"kube-dns/coredns-2": 3}}}
}

func staleEntry(e conntrack.Entry) lab.Seen { return lab.Seen{Entry: e, Stale: true, Age: -1} }

const replied = conntrack.SeenReply | conntrack.Assured
