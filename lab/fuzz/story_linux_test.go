package fuzz

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ctlab/checks/conntrack"
	"ctlab/checks/kernel"
	"ctlab/checks/model"
	"ctlab/checks/observe"
	"ctlab/checks/trace"
	"ctlab/checks/wire"
	"ctlab/internal/netns"
	"ctlab/internal/queue"
	"ctlab/internal/story"
	"ctlab/lab/live"
	"ctlab/topology"
)

var record = flag.String("record", "", "write what this kernel did with each story into `FOLDER`")

// TestStoriesOnThisKernel plays the model's stories on the kernel, all of them side by side, and holds the model against
// what was seen. What a story expects of the model at its own ticks is another test's (checks/trace, TestPlay): here the
// ticks are those that were.
func TestStoriesOnThisKernel(t *testing.T) {
	if os.Getuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("needs root")
		}
		t.Skip("needs root")
	}
	files, err := filepath.Glob("../../checks/model/testdata/stories/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no stories: %v", err)
	}
	ipt, _, err := live.Iptables(t.Context(), topology.Nft)
	if err != nil {
		t.Fatal(err)
	}
	r := &run{cfg: Config{Ipt: ipt}}
	if err := r.prepare(); err != nil {
		t.Fatal(err)
	}
	newest, err := model.ProfileFor("9.9")
	if err != nil {
		t.Fatal(err)
	}
	if r.profile != newest {
		t.Skipf("the stories are about a kernel like %s, this one is like %s", newest.Name, r.profile.Name)
	}
	st := newStage(t, ipt)
	for _, f := range files {
		s, err := story.Read(f)
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case s.Profile != "":
			t.Logf("%s: not played: it is about %s", s.Name, s.Profile)
		case s.ModelOnly != "":
			t.Logf("%s: not played: %s", s.Name, s.ModelOnly)
		case s.Trace != "":
			st.add(t, s)
		}
	}
	st.play(t)
	for _, a := range st.actors {
		if a.err != nil {
			continue // it was said
		}
		h := trace.Header{Lab: a.s.Rules, Node: "node", Kernel: r.release, Profile: r.profile.Name, Assured: r.profile.Assured, HZ: r.hz}
		judgeStory(t, trace.Trace{Header: h, Records: a.records}, r.profile)
	}
}

func judgeStory(t *testing.T, tr trace.Trace, p model.Profile) {
	t.Run(tr.Lab, func(t *testing.T) {
		rep := trace.Replay(tr, p)
		for _, d := range rep.Differences {
			t.Errorf("at %s: %s", d.Record.At.Round(time.Millisecond), d)
		}
		for _, l := range rep.Lost {
			t.Error(l)
		}
		t.Log(rep.Summary())
		if *record == "" || t.Failed() {
			return
		}
		f, err := os.Create(filepath.Join(*record, tr.Lab+".trace"))
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(trace.Write(f, tr), f.Close()); err != nil {
			t.Fatal(err)
		}
	})
}

// stage is where stories are played: one processor, one outside.
type stage struct {
	ctx     context.Context
	outside *outside
	ticks   *observe.TickCounter
	ipt     topology.Iptables
	actors  []*actor
}

// actor is a story on its stage.
type actor struct {
	arena
	todo    []trace.Record
	packets []trace.Record // all of the story
	sockets map[netip.AddrPort]*net.UDPConn
}

func newStage(t *testing.T, ipt topology.Iptables) *stage {
	runtime.LockOSThread() // for good: the thread ends with the test
	var set unix.CPUSet
	set.Set(0)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		t.Fatal(err)
	}
	ticks, err := observe.OpenTickCounter()
	if err != nil {
		t.Fatal(err)
	}
	o, err := newOutside("outside-stories")
	if err != nil {
		t.Fatal(err)
	}
	st := &stage{ctx: t.Context(), outside: o, ticks: ticks, ipt: ipt}
	t.Cleanup(func() {
		for _, a := range st.actors {
			if err := a.Close(); err != nil {
				t.Error(err)
			}
		}
		if err := errors.Join(o.Close(), ticks.Close()); err != nil {
			t.Error(err)
		}
	})
	return st
}

// add builds a story's namespace, up to its first packet.
func (st *stage) add(t *testing.T, s story.Story) {
	traces, err := trace.Parse(s.Name, strings.NewReader("ctlab-trace 1\nhz 250\n"+s.Trace+fmt.Sprintf("end %d\n", strings.Count("\n"+s.Trace, "\nin ")+strings.Count("\n"+s.Trace, "\nseen "))))
	if err != nil {
		t.Fatal(err)
	}
	a := &actor{arena: arena{s: &Scenario{Rules: s.Name, Number: len(st.actors)}, outside: st.outside, ticks: st.ticks, ipt: st.ipt}, todo: traces[0].Records, sockets: map[netip.AddrPort]*net.UDPConn{}}
	st.actors = append(st.actors, a)
	for _, r := range a.todo {
		if r.Kind == trace.Packet {
			a.packets = append(a.packets, r)
		}
	}
	a.began, a.first = time.Now(), a.ticks.Now()
	if a.node, err = a.network.AddNode(s.Name); err == nil {
		err = a.open()
	}
	if err == nil {
		err = a.node.NS.Do(func() error {
			return errors.Join(writeSysctl("net.ipv4.conf.all.rp_filter", "0"), writeSysctl("net.ipv4.conf.default.rp_filter", "0"),
				writeSysctl("net.ipv4.icmp_msgs_per_sec", "1000000"), writeSysctl("net.ipv4.icmp_msgs_burst", "1000000"))
		})
	}
	for err == nil && len(a.todo) > 0 && a.todo[0].At == 0 && isSetting(a.todo[0].Kind) {
		err = a.do(st.ctx, a.todo[0])
		a.todo = a.todo[1:]
	}
	if err != nil {
		t.Errorf("%s: %v", s.Name, err)
		a.todo, a.err = nil, err
	}
}

// end reads everything that there is.
func (a *actor) end(ctx context.Context) error {
	for _, k := range []trace.Kind{trace.Dump, trace.Count, trace.Stats, trace.Hits} {
		if err := a.do(ctx, trace.Record{Kind: k}); err != nil {
			return err
		}
	}
	return errors.Join(a.see(), a.listen(), a.inventory())
}

// inventory reads the settings back, so that none can be missing in the recording unnoticed.
func (a *actor) inventory() error {
	lines := map[string][]string{}
	own, err := a.nl.AddrList(nil, unix.AF_INET)
	if err != nil {
		return err
	}
	for _, addr := range own {
		if addr.LinkIndex == 1 && !addr.IP.IsLoopback() {
			lines["addresses"] = append(lines["addresses"], "lo "+addr.IPNet.String())
		}
	}
	for k, w := range a.s.Wires {
		l, err := a.nl.LinkByIndex(a.inner[k].Attrs().Index)
		if err != nil {
			continue // it is gone
		}
		state := " down"
		if l.Attrs().Flags&net.FlagUp != 0 {
			state = " up"
		}
		lines["links"] = append(lines["links"], w.Device+state)
		addrs, err := a.nl.AddrList(l, unix.AF_INET)
		if err != nil {
			return err
		}
		for _, addr := range addrs {
			lines["addresses"] = append(lines["addresses"], w.Device+" "+addr.IPNet.String())
		}
		routes, err := a.nl.RouteList(l, unix.AF_INET)
		if err != nil {
			return err
		}
		for _, r := range routes {
			via := ""
			if r.Gw != nil {
				via = "via " + r.Gw.String() + " "
			}
			lines["routes"] = append(lines["routes"], r.Dst.String()+" "+via+"dev "+w.Device)
		}
	}
	var keys []string
	for _, r := range a.records {
		if key, _, _ := strings.Cut(r.Args, " "); r.Kind == trace.Sysctl && !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
	}
	values, err := a.node.NS.ReadSysctls(keys...)
	if err != nil {
		return err
	}
	for key, value := range values {
		lines["sysctls"] = append(lines["sysctls"], key+" "+value)
	}
	for _, what := range []string{"links", "addresses", "routes", "sysctls"} {
		slices.Sort(lines[what])
		a.record(conntrack.At(a.tick()), trace.State, what, strings.Join(lines[what], "\n"))
	}
	return nil
}

// isSetting reports whether a record belongs to what is there before the first packet.
func isSetting(k trace.Kind) bool {
	switch k {
	case trace.Packet, trace.Send, trace.Get, trace.Dump, trace.Create, trace.Delete, trace.Flush:
		return false
	}
	return true
}

// play plays all stories to their ends, each record at its time.
func (st *stage) play(t *testing.T) {
	begin := time.Now()
	for {
		var next *actor
		for _, a := range st.actors {
			if len(a.todo) > 0 && (next == nil || a.todo[0].At < next.todo[0].At) {
				next = a
			}
		}
		if next == nil {
			break
		}
		r := next.todo[0]
		next.todo = next.todo[1:]
		time.Sleep(time.Until(begin.Add(r.At)))
		st.outside.join(&next.arena)
		if err := cmp.Or(next.do(st.ctx, r), next.see(), next.listen(), next.err); err != nil {
			t.Errorf("%s: %s: %v", next.s.Rules, r, err)
			next.todo, next.err = nil, err
		}
	}
	for _, a := range st.actors {
		if a.err != nil {
			continue
		}
		if a.err = errors.Join(a.end(st.ctx), a.err); a.err != nil {
			t.Errorf("%s: %v", a.s.Rules, a.err)
		}
	}
}

// do does what a record says.
func (a *actor) do(ctx context.Context, r trace.Record) error {
	from := a.tick()
	switch r.Kind {
	case trace.Listen: // from the beginning
		return nil
	case trace.Packet:
		dev, line, _ := strings.Cut(r.Args, " ")
		p, err := conntrack.ParsePacket(line)
		if err != nil {
			return err
		}
		return a.packet(dev, p, a.bytesOf(p))
	case trace.Rules:
		return a.load(ctx, r.Text, r.Args == "noflush")
	case trace.Hits:
		text, err := a.ipt.Hits(ctx, a.node)
		if err == nil {
			a.did(from, trace.Hits, "", noComments(text))
		}
		return err
	case trace.Sysctl:
		return a.set(r.Args)
	case trace.Send, trace.Socket:
		return a.own(r)
	case trace.Hold, trace.Unhold, trace.Release:
		return a.wait(r)
	case trace.Link, trace.Address, trace.NoAddress, trace.Routing, trace.NoRouting, trace.ARP, trace.Neigh:
		if err := a.network4(r); err != nil {
			return err
		}
		a.did(from, r.Kind, r.Args, "")
		return nil
	}
	return a.tableDo(r)
}

func noComments(text string) string {
	var keep []string
	for line := range strings.Lines(text) {
		if line[0] != '#' {
			keep = append(keep, line)
		}
	}
	return strings.Join(keep, "")
}

// bytesOf makes a packet. A fragment is a part of the packet of which the other parts are in the story too.
func (a *actor) bytesOf(p conntrack.Packet) []byte {
	if !p.IsFragment() {
		return wire.Encode(&p)
	}
	whole := p
	for _, r := range a.packets {
		_, line, _ := strings.Cut(r.Args, " ")
		o, err := conntrack.ParsePacket(line)
		if err != nil || o.ID != p.ID || o.Src != p.Src || o.Proto != p.Proto {
			continue
		}
		if o.Offset == 0 {
			whole.SrcPort, whole.DstPort = o.SrcPort, o.DstPort
		}
		whole.Len = max(whole.Len, o.Offset+o.Len)
	}
	return wire.Fragment(&whole, p.Offset, p.Offset+p.Len-20)
}

func (a *actor) packet(dev string, p conntrack.Packet, b []byte) error {
	is, ok := wire.Decode(b)
	if !ok {
		return fmt.Errorf("%s: makes no packet", p.Line())
	}
	k := a.wire(dev)
	if k < 0 {
		return fmt.Errorf("there is no device %s", dev)
	}
	from := a.tick()
	if err := a.outside.put(a.outer[k], b); err != nil {
		return err
	}
	a.did(from, trace.Packet, trace.PacketArgs(dev, &is), "")
	return nil
}

func (a *actor) wire(dev string) int {
	return slices.IndexFunc(a.s.Wires, func(w Wire) bool { return w.Device == dev })
}

// network4 changes links, addresses, routes and neighbours.
func (a *actor) network4(r trace.Record) error {
	f := strings.Fields(r.Args)
	switch r.Kind {
	case trace.Link:
		if f[1] == "up" && a.wire(f[0]) < 0 {
			return a.newLink(f[0])
		}
		set := map[string]func(netlink.Link) error{"up": a.nl.LinkSetUp, "down": a.nl.LinkSetDown, "gone": a.nl.LinkDel}[f[1]]
		return set(a.inner[a.wire(f[0])])
	case trace.Address, trace.NoAddress:
		p, err := netip.ParsePrefix(f[1])
		if err != nil {
			return err
		}
		addr := &netlink.Addr{IPNet: ipNet(p), Flags: unix.IFA_F_NOPREFIXROUTE}
		if f[0] == topology.Loopback {
			addr.Flags = 0 // there the route is one of the table local
		}
		l, err := a.nl.LinkByName(f[0])
		if err != nil {
			return err
		}
		if r.Kind == trace.NoAddress {
			return a.nl.AddrDel(l, addr)
		}
		return a.nl.AddrAdd(l, addr)
	case trace.Routing, trace.NoRouting:
		return a.route(f, r.Kind == trace.Routing)
	}
	addr, err := netip.ParseAddr(f[1])
	if err != nil {
		return err
	}
	n := &netlink.Neigh{LinkIndex: a.inner[a.wire(f[0])].Attrs().Index, Family: unix.AF_INET, State: unix.NUD_PERMANENT, IP: addr.AsSlice(), HardwareAddr: hostMAC[:]}
	if r.Kind == trace.Neigh {
		return a.nl.NeighDel(n)
	}
	return a.nl.NeighSet(n)
}

// route reads TO [via ADDRESS] dev DEV.
func (a *actor) route(f []string, add bool) error {
	to, err := netip.ParsePrefix(f[0])
	if err != nil {
		return err
	}
	route := &netlink.Route{Dst: ipNet(to), Scope: netlink.SCOPE_LINK, LinkIndex: a.inner[a.wire(f[len(f)-1])].Attrs().Index}
	if f[1] == "via" {
		route.Gw, route.Scope = net.ParseIP(f[2]), netlink.SCOPE_UNIVERSE
	}
	if !add {
		return a.nl.RouteDel(route)
	}
	return a.nl.RouteReplace(route)
}

func (a *actor) newLink(dev string) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = dev, nodeMAC[:]
	veth := netlink.NewVeth(attrs)
	veth.PeerName, veth.PeerNamespace = fmt.Sprintf("%s-%d", dev, a.s.Number), netlink.NsFd(a.outside.ns.FD())
	if err := a.nl.LinkAdd(veth); err != nil {
		return err
	}
	inner, err := a.nl.LinkByName(dev)
	if err != nil {
		return err
	}
	outer, err := a.outside.nl.LinkByName(veth.PeerName)
	if err != nil {
		return err
	}
	a.s.Wires = append(a.s.Wires, Wire{Device: dev})
	a.inner, a.outer = append(a.inner, inner), append(a.outer, outer.Attrs().Index)
	// Who does not answer is given up when a story says so, and not before.
	patient := a.node.NS.WriteSysctl("net.ipv4.neigh."+dev+".mcast_solicit", "600")
	return errors.Join(patient, a.outside.nl.LinkSetUp(outer), a.nl.LinkSetUp(inner))
}

// own opens and closes sockets of the node, and sends by them.
func (a *actor) own(r trace.Record) error {
	from := a.tick()
	if r.Kind == trace.Send {
		p, err := conntrack.ParsePacket(r.Args)
		if err != nil {
			return err
		}
		c := a.sockets[netip.AddrPortFrom(p.Src, p.SrcPort)]
		if c == nil {
			return errors.New("no socket sends this")
		}
		// Whether the sender is told of an error is not compared here.
		_, _ = c.WriteToUDPAddrPort(make([]byte, p.Len-28), netip.AddrPortFrom(p.Dst, p.DstPort))
		a.did(from, trace.Send, r.Args, "")
		return a.outside.settle()
	}
	f := strings.Fields(r.Args)
	local, err := netip.ParseAddrPort(f[1])
	if err != nil {
		return err
	}
	if f[0] == "close" {
		err = a.sockets[local].Close()
		delete(a.sockets, local)
	} else {
		a.sockets[local], err = a.node.NS.ListenUDP(local, netns.Control(nil))
	}
	a.did(from, trace.Socket, r.Args, "")
	return err
}

// wait lets packets wait on their way, or go on.
func (a *actor) wait(r trace.Record) (err error) {
	from := a.tick()
	switch r.Kind {
	case trace.Hold:
		h, err := conntrack.ParseHold(r.Args)
		if err != nil {
			return err
		}
		if a.queue == nil {
			if a.queue, err = queue.Open(a.node.NS, queue.IPv4); err != nil {
				return err
			}
		}
		if err := a.queue.Hold(h); err != nil {
			return err
		}
	case trace.Unhold:
		if err := a.queue.Unhold(); err != nil {
			return err
		}
	default:
		var nth int
		var verdict string
		if _, err := fmt.Sscan(r.Args, &nth, &verdict); err != nil {
			return err
		}
		if _, err := a.waiting(); err != nil {
			return err
		}
		if err := cmp.Or(a.queue.Release(nth, verdict == "accept"), a.outside.settle()); err != nil {
			return err
		}
	}
	a.did(from, r.Kind, r.Args, "")
	return nil
}

// tableDo reads and writes the table.
func (a *actor) tableDo(r trace.Record) error {
	switch r.Kind {
	case trace.Dump:
		return a.dump()
	case trace.Flush:
		at, err := a.table.Flush()
		a.record(span(at), trace.Flush, "", "")
		return err
	case trace.Count:
		n, at, err := a.table.Count()
		a.record(span(at), trace.Count, fmt.Sprint(n), "")
		return err
	case trace.Stats:
		stats, at, err := a.table.Stats()
		a.record(span(at), trace.Stats, trace.FormatStats(stats), "")
		return err
	case trace.Create:
		return a.create(r.Args)
	}
	k, err := conntrack.ParseKey(r.Args)
	switch {
	case err != nil:
		return err
	case r.Kind == trace.Get:
		return a.get(k)
	case r.Kind == trace.Delete:
		_, at, err := a.table.DeleteKey(k, 0)
		a.record(span(at), trace.Delete, r.Args, "")
		return err
	}
	return fmt.Errorf("%s is not known", r.Kind)
}

// create makes an entry. One that is there already is refused, which is part of a story.
func (a *actor) create(args string) error {
	e, err := conntrack.ParseEntry(args)
	if err != nil {
		return err
	}
	at, err := a.table.Create(kernel.Creation{Orig: e.Orig, Status: e.Status, Timeout: e.Timeout, Mark: e.Mark})
	a.record(span(at), trace.Create, args, "")
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}
