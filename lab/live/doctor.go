//go:build linux

package live

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"os"
	"strings"

	"ctlab/checks/kernel"
	"ctlab/checks/model"
	"ctlab/checks/observe"
	"ctlab/internal/program"
	"ctlab/topology"
	"ctlab/topology/service"
)

// Finding is what was found of something that ctlab needs, or can make use of.
type Finding struct {
	What   string // such as "iptables-nft"
	State  State
	Detail string // what is there, or why it does not work
	For    string // what it is for
	Mend   string // the command that mends it; empty if nothing needs to be mended
}

// State of a finding.
type State string

// The states: Missing is something without which no lab can be run, Absent what only some can do without.
const (
	Works   State = "ok"
	Absent  State = "absent"
	Missing State = "MISSING"
)

// Examine tries everything that labs need of this machine, in namespaces of its own.
func Examine(ctx context.Context) []Finding {
	out := []Finding{examineKernel()}
	var net topology.Network
	defer net.Close()
	node, err := net.AddNode("doctor")
	if err != nil {
		return append(out, Finding{"namespaces", Missing, err.Error(), "the nodes of a lab", "sudo ctlab doctor"})
	}
	out = append(out, Finding{"namespaces", Works, "network namespaces can be made", "the nodes of a lab", ""})
	out = append(out, examineLinks(&net, node), examineTap(node), examineCTInfo(node), examineTicks())
	found, ipt := examineIptables(ctx, node)
	out = append(out, found...)
	out = append(out, examineTable(node))
	if ipt.Restore != "" {
		out = append(out, examineRules(ctx, ipt, node)...)
	}
	return append(out, ExaminePrograms()...)
}

func examineKernel() Finding {
	names := model.ProfileNames()
	f := Finding{"kernel", Works, release(), "the model knows " + names[0] + " to " + names[len(names)-1], ""}
	if _, err := model.ProfileFor(release()); err != nil {
		f.State, f.Detail = Missing, err.Error()
	}
	return f
}

func examineLinks(net *topology.Network, router *topology.Node) Finding {
	f := Finding{"veth", Works, "links between namespaces can be made", "the links of a lab", ""}
	host, err := net.AddNode("host")
	if err == nil {
		err = topology.Connect(topology.Uplink{Host: host, Router: router, Port: "host",
			Ends: []topology.End{{Address: netip.MustParsePrefix("10.0.0.2/24"), Gateway: netip.MustParseAddr("10.0.0.1")}}})
	}
	if err == nil {
		err = router.Forward()
	}
	if err != nil {
		f.State, f.Detail, f.Mend = Missing, err.Error(), "modprobe veth"
	}
	return f
}

func examineTap(n *topology.Node) Finding {
	f := Finding{"packets", Works, "an AF_PACKET ring can be had", "what goes in and out of a node", ""}
	tap, err := observe.Open(n.NS)
	if err == nil {
		_, _, err = tap.Close()
	}
	if err != nil {
		f.State, f.Detail, f.Mend = Missing, err.Error(), "a kernel with CONFIG_PACKET, and CAP_NET_RAW"
	}
	return f
}

// examineCTInfo tries the means by which the ctinfo of each packet can be recorded.
func examineCTInfo(n *topology.Node) Finding {
	f := Finding{What: "ctinfo", State: Works, For: "what tracking thought of each packet"}
	c, err := observe.OpenCTInfos(n.NS)
	if err == nil {
		f.Detail = "told by " + c.Source()
		_, _, err = c.Close()
	}
	if err != nil {
		f.State, f.Detail, f.Mend = Absent, causes(err), "sudo ctlab, and Linux 6.4 with CONFIG_BPF_SYSCALL and CONFIG_DEBUG_INFO_BTF"
	}
	return f
}

func examineTicks() Finding {
	f := Finding{What: "ticks", State: Works, For: "times left, compared to the tick"}
	c, err := observe.NewCalibration()
	if err != nil {
		f.State, f.Detail = Missing, err.Error()
		return f
	}
	defer c.Close()
	length, _ := observe.TickLength() // it was read just now
	f.Detail = fmt.Sprintf("of %v, told by the kernel (BPF)", length)
	if !c.Exact() {
		f.State, f.Detail = Absent, fmt.Sprintf("of %v, from the coarse clock: each is known to one more", length)
		f.Mend = "sudo ctlab"
	}
	return f
}

// examineIptables tries the programs of both back ends, and returns those that ctlab run takes.
func examineIptables(ctx context.Context, n *topology.Node) (out []Finding, chosen topology.Iptables) {
	const use = "VIPs and rules of labs"
	text, err := service.Rules(nil, nil, true)
	if err != nil {
		return []Finding{{"iptables", Missing, err.Error(), use, ""}}, chosen
	}
	for _, backend := range []string{topology.Nft, topology.Legacy} {
		f := Finding{What: "iptables-" + backend, For: use, Mend: mendModules(backend)}
		out = append(out, f.tryLoad(ctx, n, text, topology.FindIptables(ctx, backend)))
	}
	for _, backend := range []string{topology.Nft, topology.Legacy} {
		f := Finding{What: "ip6tables-" + backend, For: "the same, of IPv6", Mend: mendModules6(backend)}
		out = append(out, f.tryLoad(ctx, n, text, topology.FindIP6tables(ctx, backend)))
	}
	chosen, err = chooseIptables(ctx, n, topology.FindIptables(ctx, ""))
	f := Finding{"iptables", Works, "ctlab run takes " + chosen.Backend() + "; --iptables takes another", use, ""}
	if err != nil {
		f = Finding{"iptables", Missing, "none that works", use, "apt-get install iptables"}
	}
	return append(out, f), chosen
}

// tryLoad loads a text with the first of some programs; Mend is what to do if that does not work.
func (f Finding) tryLoad(ctx context.Context, n *topology.Node, text string, there iter.Seq2[topology.Iptables, error]) Finding {
	f.State = Absent
	for ipt, err := range there {
		if errors.Is(err, topology.ErrNoIptables) {
			f.Mend = "apt-get install iptables"
		}
		if err == nil {
			err = ipt.Load(ctx, n, text, false)
		}
		if f.Detail = fmt.Sprint(err); err == nil {
			f.State, f.Detail, f.Mend = Works, ipt.Version+", "+ipt.Restore, ""
		}
		break
	}
	return f
}

func mendModules6(backend string) string {
	if backend == topology.Legacy {
		return "modprobe -a ip6_tables ip6table_nat ip6table_filter"
	}
	return mendModules(backend)
}

func mendModules(backend string) string {
	if backend == topology.Legacy {
		return "modprobe -a ip_tables iptable_nat iptable_filter"
	}
	return "modprobe -a nf_tables nft_compat nft_chain_nat"
}

func examineTable(n *topology.Node) Finding {
	f := Finding{"conntrack", Works, "table, events and sysctls can be read", "what is compared with the model", ""}
	err := n.NS.WriteSysctl("net.netfilter.nf_conntrack_acct", "1")
	if os.IsNotExist(err) {
		err = ErrNoConntrack
	}
	var table *kernel.Table
	if err == nil {
		table, err = kernel.Open(n.NS, observe.Monotonic)
	}
	if err == nil {
		_, _, err = table.Dump()
		table.Close()
	}
	var ears *kernel.Listener
	if err == nil {
		ears, err = kernel.Listen(n.NS, observe.Monotonic)
	}
	if err == nil {
		_, _, err = ears.Close()
	}
	if err != nil {
		f.State, f.Detail, f.Mend = Missing, err.Error(), "modprobe -a nf_conntrack nf_conntrack_netlink"
	}
	return f
}

// extension is a match or target of iptables, a rule with it, and the module that has it.
type extension struct{ name, table, rule, use, module string }

func extensions() []extension {
	return []extension{
		{"DNAT", "nat", "-A PREROUTING -p udp -j DNAT --to-destination 10.0.0.1:53", "VIPs", "xt_nat"},
		{"MASQUERADE", "nat", "-A POSTROUTING -j MASQUERADE --random-fully", "style kube-proxy, masquerade", "xt_MASQUERADE"},
		{"statistic", "nat", "-A PREROUTING -m statistic --mode random --probability 0.5 -j RETURN", "services with several backends", "xt_statistic"},
		{"comment", "nat", "-A PREROUTING -m comment --comment x -j RETURN", "rules with names, and so rule-hits", "xt_comment"},
		{"addrtype", "nat", "-A PREROUTING -m addrtype --dst-type LOCAL -j RETURN", "node ports", "xt_addrtype"},
		{"mark", "mangle", "-A PREROUTING -m mark --mark 1 -j MARK --set-xmark 1/1", "style kube-proxy", "xt_mark"},
		{"conntrack", "filter", "-A FORWARD -m conntrack --ctstate INVALID -j DROP", "rules about states", "xt_conntrack"},
		{"REJECT", "filter", "-A FORWARD -p udp -j REJECT", "services without backends", "ipt_REJECT"},
		{"CT", "raw", "-A PREROUTING -p udp -j CT --notrack", "NOTRACK, a fix that people try", "xt_CT"},
	}
}

// usedIn reports whether rules use the extension.
func (e extension) usedIn(text string) bool {
	return strings.Contains(text, "-m "+e.name+" ") || strings.Contains(text, "-j "+e.name)
}

// try loads the rule.
func (e extension) try(ctx context.Context, ipt topology.Iptables, n *topology.Node) error {
	rule := e.rule
	if ipt.IPv6 {
		rule = strings.ReplaceAll(rule, "10.0.0.1:", "[fd00::1]:")
	}
	return ipt.Load(ctx, n, "*"+e.table+"\n"+rule+"\nCOMMIT\n", true)
}

func examineRules(ctx context.Context, ipt topology.Iptables, n *topology.Node) (out []Finding) {
	for _, e := range extensions() {
		f := Finding{What: "rules: " + e.name, State: Works, For: e.use}
		if err := e.try(ctx, ipt, n); err != nil {
			f.State, f.Detail, f.Mend = Absent, err.Error(), "modprobe "+e.module
		}
		out = append(out, f)
	}
	return out
}

// MissingExtension says that rules could not be loaded because the kernel, or iptables, lacks a match or target that
// they use.
type MissingExtension struct {
	Name, Module string
	Err          error // of the load
}

func (e *MissingExtension) Error() string {
	return fmt.Sprintf("rules with %s cannot be loaded here: %v", e.Name, e.Err)
}

// Unwrap gives what loading said.
func (e *MissingExtension) Unwrap() error { return e.Err }

// explainRefusal looks, when rules were refused, whether that is for want of an extension that they use.
func explainRefusal(ctx context.Context, ipt topology.Iptables, text string, refused error) error {
	var net topology.Network
	defer net.Close()
	scratch, err := net.AddNode("doctor")
	plain := extension{table: "nat", rule: "-A PREROUTING -j RETURN"}
	if err != nil || plain.try(ctx, ipt, scratch) != nil { // it is not for want of an extension
		return refused
	}
	for _, e := range extensions() {
		if e.usedIn(text) && e.try(ctx, ipt, scratch) != nil && ctx.Err() == nil {
			module := e.module
			if ipt.IPv6 {
				module = strings.Replace(module, "ipt_", "ip6t_", 1)
			}
			return &MissingExtension{e.name, module, refused}
		}
	}
	return refused
}

// KnownProgram is a program that ctlab can make use of.
type KnownProgram struct{ Name, For, Mend string }

// Programs lists what ctlab can make use of, and the command that installs it.
func Programs() []KnownProgram {
	return []KnownProgram{
		{"conntrack", "looking yourself, at a network that --keep keeps", "apt-get install conntrack"},
		{"tcpdump", "the same", "apt-get install tcpdump"},
		{"nsenter", "the same", "apt-get install util-linux"},
		{"dig", "labs whose client it is", "apt-get install dnsutils"},
		{"dnsperf", "labs whose client it is", "apt-get install dnsperf"},
		{"coredns", "labs with the real CoreDNS", "(cd labs/coredns && go build -o /usr/local/bin/coredns .)"},
		{"qemu-system-x86_64", "ctlab vm run", "apt-get install qemu-system-x86"},
	}
}

// NotInstalled says that a program is missing, and what would mend that, if it is one that ctlab knows.
func NotInstalled(name string) string {
	why := name + " is not installed"
	for _, known := range Programs() {
		if known.Name == name {
			why += ": " + known.Mend
		}
	}
	return why
}

// ExaminePrograms looks for programs that ctlab can make use of.
func ExaminePrograms() (out []Finding) {
	for _, p := range Programs() {
		f := Finding{What: p.Name, State: Works, For: p.For}
		var err error
		if f.Detail, err = program.Look(p.Name, ""); err != nil {
			f.State, f.Detail, f.Mend = Absent, "not installed", p.Mend
		}
		out = append(out, f)
	}
	return out
}
