//go:build linux

package live

import (
	"context"
	"errors"
	"fmt"
	"iter"
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
	ipts    map[service.Family]topology.Iptables
	profile model.Profile
	seen    string
	err     error
}

// ErrNoRules says that there is iptables, but none whose rules this kernel takes.
var ErrNoRules = errors.New("no iptables program of this machine can load rules into this kernel")

// examine finds, in a scratch namespace, the iptables programs that work here (of one back end, if one is asked
// for; ip6tables of the same, if IPv6 is spoken) and the profile of this kernel.
func examine(ctx context.Context, backend string, six bool) (r probeResult) {
	r.release = release()
	if r.profile, r.err = model.ProfileFor(r.release); r.err != nil {
		return r
	}
	var net topology.Network
	defer func() { r.err = errors.Join(r.err, net.Close()) }()
	node, err := net.AddNode("probe")
	if err == nil {
		r.ipts, err = chooseBoth(ctx, node, backend, six)
	}
	if err != nil {
		r.err = err
		return r
	}
	if r.profile, r.seen, err = probeProfile(node, r.profile); err != nil {
		r.err = fmt.Errorf("probe this kernel: %w", err)
	}
	return r
}

// chooseBoth chooses iptables and, if IPv6 is spoken, ip6tables of the same back end.
func chooseBoth(ctx context.Context, node *topology.Node, backend string, six bool) (map[service.Family]topology.Iptables, error) {
	ipt, err := chooseIptables(ctx, node, topology.FindIptables(ctx, backend))
	out := map[service.Family]topology.Iptables{service.IPv4: ipt}
	if err == nil && six {
		out[service.IPv6], err = chooseIptables(ctx, node, topology.FindIP6tables(ctx, ipt.Backend()))
	}
	return out, err
}

// Iptables finds the iptables and ip6tables programs that labs would be played with here, of a back end if one is named.
func Iptables(ctx context.Context, backend string) (ipt, ip6t topology.Iptables, err error) {
	var network topology.Network
	defer network.Close()
	n, err := network.AddNode("iptables")
	if err != nil {
		return ipt, ip6t, err
	}
	if ipt, err = chooseIptables(ctx, n, topology.FindIptables(ctx, backend)); err != nil {
		return ipt, ip6t, err
	}
	ip6t, err = chooseIptables(ctx, n, topology.FindIP6tables(ctx, ipt.Backend()))
	return ipt, ip6t, err
}

// chooseIptables loads the anchor rule with the programs of one back end after the other, and takes the first with
// which that works.
func chooseIptables(ctx context.Context, node *topology.Node, there iter.Seq2[topology.Iptables, error]) (topology.Iptables, error) {
	text, err := service.Rules(nil, nil, true)
	if err != nil {
		return topology.Iptables{}, err
	}
	var refused []error
	for ipt, err := range there {
		if err == nil {
			err = ipt.Load(ctx, node, text, false)
		}
		if err == nil || errors.Is(err, topology.ErrNoIptables) || ctx.Err() != nil {
			return ipt, err
		}
		refused = append(refused, err)
	}
	return topology.Iptables{}, fmt.Errorf("%w: %w", ErrNoRules, errors.Join(refused...))
}

// probeProfile finds the profile of this kernel. Its release only predicts: stable releases carry later
// rules. So the one rule of the UDP tracker that matters here is tried: a query, its answer and a second
// query, all at once, and a look whether that made the entry ASSURED.
func probeProfile(node *topology.Node, p model.Profile) (model.Profile, string, error) {
	assured, err := probeAssured(node)
	if err != nil {
		return p, "", err
	}
	seen := "ASSURED only after 2 s"
	if assured {
		seen = "ASSURED with the first packet after a reply"
	}
	return p.ProbedAssured(assured), seen, nil
}

func probeAssured(node *topology.Node) (assured bool, err error) {
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
