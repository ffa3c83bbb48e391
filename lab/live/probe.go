//go:build linux

package live

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"ctlab/checks/conntrack"
	"ctlab/checks/kernel"
	"ctlab/checks/model"
	"ctlab/checks/observe"
	"ctlab/topology"
	"ctlab/topology/service"
)

// probeResult is what a scratch namespace showed.
type probeResult struct {
	release string
	profile model.Profile
	seen    string
	err     error
}

// probeProfile finds the profile of this kernel. Its release only predicts: stable releases carry later
// rules. So the one rule of the UDP tracker that matters here is tried: a query, its answer and a second
// query, all at once, and a look whether that made the entry ASSURED.
func probeProfile(ctx context.Context, ipt topology.Iptables) (r probeResult) {
	r.release = release()
	if r.profile, r.err = model.ProfileFor(r.release); r.err != nil {
		return r
	}
	assured, err := probeAssured(ctx, ipt)
	if err != nil {
		r.err = fmt.Errorf("probe this kernel: %w", err)
		return r
	}
	r.profile = r.profile.ProbedAssured(assured)
	r.seen = "ASSURED only after 2 s"
	if assured {
		r.seen = "ASSURED with the first packet after a reply"
	}
	return r
}

func probeAssured(ctx context.Context, ipt topology.Iptables) (assured bool, err error) {
	var net topology.Network
	defer func() { err = errors.Join(err, net.Close()) }()
	node, err := net.AddNode("probe")
	if err != nil {
		return false, err
	}
	text, err := service.Rules(nil, nil, true)
	if err != nil {
		return false, err
	}
	if err := ipt.Load(ctx, node, text, false); err != nil {
		return false, err
	}
	a := netip.MustParseAddrPort("127.0.0.1:40000")
	b := netip.MustParseAddrPort("127.0.0.1:40001")
	client, err := node.NS.DialUDP(a, b, nil)
	if err != nil {
		return false, err
	}
	defer client.Close()
	server, err := node.NS.DialUDP(b, a, nil)
	if err != nil {
		return false, err
	}
	defer server.Close()
	buf := make([]byte, 16)
	for _, send := range []struct {
		from, to interface {
			Write([]byte) (int, error)
			Read([]byte) (int, error)
			SetReadDeadline(time.Time) error
		}
	}{{client, server}, {server, client}, {client, server}} {
		if _, err := send.from.Write([]byte("probe")); err != nil {
			return false, err
		}
		if err := send.to.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
			return false, err
		}
		if _, err := send.to.Read(buf); err != nil {
			return false, err
		}
	}
	return readAssured(node, conntrack.Tuple{Proto: conntrack.UDP, Src: a.Addr(), SrcPort: a.Port(), Dst: b.Addr(), DstPort: b.Port()})
}

func readAssured(node *topology.Node, t conntrack.Tuple) (bool, error) {
	table, err := kernel.Open(node.NS, observe.Monotonic)
	if err != nil {
		return false, err
	}
	defer table.Close()
	r, found, err := table.Get(t)
	if err != nil {
		return false, err
	}
	if !found {
		return false, errors.New("no entry for a local flow: the anchor rule does not keep tracking on")
	}
	return r.Entry.Status.Has(conntrack.Assured), nil
}
