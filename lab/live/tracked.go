//go:build linux

package live

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"ctlab/checks/kernel"
	"ctlab/checks/observe"
	"ctlab/checks/trace"
	"ctlab/internal/queue"
	"ctlab/lab"
	"ctlab/topology"
	"ctlab/topology/service"
)

// tracked is a node whose conntrack table is recorded.
type tracked struct {
	spec   *lab.Node
	node   *topology.Node
	clock  clock
	rec    recorder
	tap    *observe.Tap
	tapped chan struct{} // closed when tap is open, or tapErr says why not
	tapErr error
	cts    observe.CTInfos // nil where there is none
	looks  chan struct{}   // closed when cts is open, or ctsErr says why not
	ctsErr error
	ctsBy  string // by what means they were recorded
	// ctsLost is how many are missing. Nothing is wrong with what else was recorded.
	ctsLost int
	table   *kernel.Table
	ears    *kernel.Listener
	queue   *queue.Queue // of packets that are held; nil as long as none were
	neigh   *observe.Neighbours
	own     map[netip.Addr]bool // addresses that it has or had
	ttl     uint8               // net.ipv4.ip_default_ttl
	hops    uint8               // net.ipv6.conf.default.hop_limit
	six     bool                // it speaks IPv6
}

// ErrNoConntrack says that the kernel has no connection tracking for namespaces.
var ErrNoConntrack = errors.New("this kernel shows no net.netfilter.nf_conntrack sysctls: is nf_conntrack loaded?")

// inputSysctls are the settings on which the model's answers depend. They are read and recorded, so that
// no default of this machine is taken for granted.
var inputSysctls = []string{
	"net.ipv4.icmp_ratelimit", defaultTTL, "net.ipv4.ip_forward",
	"net.ipv4.conf.all.send_redirects", "net.ipv4.conf.default.send_redirects",
	"net.netfilter.nf_conntrack_acct", "net.netfilter.nf_conntrack_checksum",
	"net.netfilter.nf_conntrack_icmp_timeout", "net.netfilter.nf_conntrack_generic_timeout",
	"net.netfilter.nf_conntrack_udp_timeout", "net.netfilter.nf_conntrack_udp_timeout_stream",
}

// inputSysctls6 are those of them that are about IPv6; of a node that does not speak it they are not recorded.
var inputSysctls6 = []string{"net.ipv6.conf.all.forwarding", "net.ipv6.icmp.ratelimit", hopLimit,
	"net.netfilter.nf_conntrack_icmpv6_timeout"}

// The settings that give packets of a node's own their TTL, and their hop limit.
const (
	defaultTTL = "net.ipv4.ip_default_ttl"
	hopLimit   = "net.ipv6.conf.default.hop_limit"
)

// sysctls are the settings on which the model's answers about the node depend.
func (t *tracked) sysctls() []string {
	if t.six {
		return slices.Concat(inputSysctls, inputSysctls6)
	}
	return slices.Clone(inputSysctls)
}

// track begins the recording of a node, and makes it a router.
func (g *Ground) track(spec *lab.Node, n *topology.Node) (err error) {
	t := &tracked{spec: spec, node: n, clock: g.clock, own: map[netip.Addr]bool{}, six: g.lab.Speaks(spec, service.IPv6)}
	g.tracked = append(g.tracked, t)
	if t.table, err = kernel.Open(n.NS, kernel.Clock(t.clock)); err != nil {
		return err
	}
	if t.ears, err = kernel.Listen(n.NS, kernel.Clock(t.clock)); err != nil {
		return err
	}
	t.rec.did(t.clock.now(), trace.Listen, "", "")
	// Setting up the ring waits for the kernel's RCU, so it goes on while the rest is built.
	t.tapped = make(chan struct{})
	go func() {
		defer close(t.tapped)
		t.tap, t.tapErr = observe.Open(n.NS)
	}()
	t.looks = make(chan struct{})
	go func() {
		defer close(t.looks)
		t.cts, t.ctsErr = observe.OpenCTInfos(n.NS)
	}()
	if t.neigh, err = observe.WatchNeighbours(n.NS); err != nil {
		return err
	}
	if err := n.Forward(); err != nil {
		return err
	}
	if t.six {
		if err := n.Forward6(); err != nil {
			return err
		}
	}
	err = n.NS.WriteSysctl("net.netfilter.nf_conntrack_acct", "1")
	if errors.Is(err, os.ErrNotExist) {
		return ErrNoConntrack
	}
	if err != nil {
		return fmt.Errorf("switch accounting on in %s: %w", spec.Name, err)
	}
	return nil
}

// awaitTap waits for the tap, without which no packet must come by.
func (t *tracked) awaitTap() error {
	if t.tapped == nil {
		return nil
	}
	<-t.tapped
	return t.tapErr
}

// awaitCTInfo waits until ctinfos are recorded, or says why they are not.
func (t *tracked) awaitCTInfo() error {
	if t.looks == nil {
		return nil
	}
	<-t.looks
	return t.ctsErr
}

// recordSysctls records the settings with which the node starts: those that the model asks for, and those
// of the lab.
func (t *tracked) recordSysctls() error {
	keys := t.sysctls()
	for _, s := range t.spec.Sysctls {
		if !slices.Contains(keys, s.Name) {
			keys = append(keys, s.Name)
		}
	}
	values, err := t.node.NS.ReadSysctls(keys...)
	if err != nil {
		return fmt.Errorf("read sysctls of %s: %w", t.spec.Name, err)
	}
	for _, key := range keys {
		if v, ok := values[key]; ok {
			t.recordSysctl(t.clock.now(), key, v)
		}
	}
	return nil
}

func (t *tracked) recordSysctl(at kernel.Moment, key, value string) {
	switch n, err := strconv.ParseUint(value, 10, 8); {
	case err != nil:
	case key == defaultTTL:
		t.ttl = uint8(n)
	case key == hopLimit:
		t.hops = uint8(n)
	}
	t.rec.did(at, trace.Sysctl, key+" "+value, "")
}

// inventory reads sysctls, links, addresses and routes back, so that an input that was not recorded
// shows.
func (t *tracked) inventory() error {
	at := t.clock.now()
	st, err := t.node.State()
	if err != nil {
		return err
	}
	at.To = t.clock()
	keys := t.sysctls()
	for _, rec := range t.rec.recs {
		if key, _, _ := strings.Cut(rec.args, " "); rec.kind == trace.Sysctl && !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
	}
	values, err := t.node.NS.ReadSysctls(keys...)
	if err != nil {
		return fmt.Errorf("read sysctls of %s: %w", t.spec.Name, err)
	}
	var settings []string
	for k, v := range values {
		settings = append(settings, k+" "+v)
	}
	for _, part := range []struct {
		name string
		list []string
	}{{"links", st.Links}, {"addresses", st.Addresses}, {"routes", st.Routes}, {"sysctls", settings}} {
		t.rec.saw(at, at.From, trace.State, part.name, lines(part.list))
	}
	return nil
}

// stop ends tap, listeners and table, and takes over what they collected. Also a node that is only half
// set up is stopped.
func (t *tracked) stop() error {
	errs := []error{t.awaitTap()}
	devices := t.node.Devices()
	if t.tap != nil {
		// The recording ends here. What the tap sees while it is being closed is part of a story whose rest
		// nobody hears.
		ended := t.clock.now()
		t.rec.saw(ended, ended.From, trace.Ended, "", "")
		frames, lost, err := t.tap.Close()
		frames = slices.DeleteFunc(frames, func(f observe.Frame) bool { return f.At > ended.From })
		t.rec.frames(frames, devices, t.own)
		if lost > 0 {
			t.rec.lose("the tap lost %d frames", lost)
		}
		if errors.Is(err, observe.ErrClockStepped) {
			t.rec.lose("%v", err)
			err = nil
		}
		errs = append(errs, err)
	}
	if t.queue != nil {
		errs = append(errs, t.queue.Close())
	}
	if t.ears != nil {
		heard, lost, err := t.ears.Close()
		t.rec.events(heard)
		if lost > 0 {
			t.rec.lose("conntrack events were lost %d times", lost)
		}
		errs = append(errs, err)
	}
	if t.neigh != nil {
		lost, err := t.neigh.Close()
		t.rec.neighbours(lost, devices)
		errs = append(errs, err)
	}
	if t.table != nil {
		errs = append(errs, t.table.Close())
	}
	return errors.Join(append(errs, t.stopCTInfo(devices))...)
}

// stopCTInfo ends the recording of ctinfos. It comes last, so that each packet that the tap saw has been looked at.
func (t *tracked) stopCTInfo(devices map[int]string) error {
	if t.awaitCTInfo() != nil || t.cts == nil {
		return nil // the report says why
	}
	seen, lost, err := t.cts.Close()
	t.rec.ctinfos(seen, devices)
	t.ctsBy, t.ctsLost = t.cts.Source(), lost
	return err
}
