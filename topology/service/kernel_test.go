//go:build linux

package service_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"ctlab/topology/service"
)

// load is a text and how it is loaded.
type load struct {
	text    string
	noflush bool
	six     bool // of ip6tables
}

// kernelRules loads texts one after the other, in a network namespace of their own that ends with the
// script, and returns what iptables-save prints behind each. Without root that cannot be done: in CI that
// is a failure.
func kernelRules(t *testing.T, loads ...load) []string {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("needs root")
		}
		t.Skip("needs root")
	}
	dir := t.TempDir()
	script := "set -e\n"
	for i, l := range loads {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), []byte(l.text), 0o644); err != nil {
			t.Fatal(err)
		}
		flag := ""
		if l.noflush {
			flag = "--noflush"
		}
		program := "iptables"
		if l.six {
			program = "ip6tables"
		}
		script += fmt.Sprintf("%s-restore -w 5 %s < %d; %s-save > %d.out\n", program, flag, i, program, i)
	}
	cmd := exec.Command("unshare", "-n", "sh", "-c", script)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	out, err := cmd.CombinedOutput()
	var saved []string
	for i := range loads {
		text, readErr := os.ReadFile(filepath.Join(dir, fmt.Sprintf("%d.out", i)))
		if err != nil || readErr != nil {
			t.Fatalf("load %d of %d: %v\n%s\n%s", i+1, len(loads), err, out, loads[i].text)
		}
		saved = append(saved, canonical(string(text)))
	}
	return saved
}

// canonical is what iptables-save printed without remarks and counters, with the chains of each table in
// the order of their names, and without chains that have no rule and to which nothing jumps.
func canonical(saved string) string {
	var out []string
	var chains []string // ":NAME POLICY"
	var rules []string
	for l := range strings.Lines(saved) {
		l = strings.TrimSpace(l)
		switch {
		case strings.HasPrefix(l, "*"):
			out, chains, rules = append(out, l), nil, nil
		case strings.HasPrefix(l, ":"):
			chains = append(chains, l[:strings.Index(l, " [")])
		case strings.HasPrefix(l, "-A"):
			rules = append(rules, l+" ")
		case l == "COMMIT":
			slices.Sort(chains)
			for _, c := range chains {
				out = append(out, chainLines(c, rules)...)
			}
		}
	}
	return strings.Join(out, "\n")
}

func chainLines(declared string, rules []string) []string {
	name, policy, _ := strings.Cut(declared[1:], " ")
	lines := []string{declared}
	used := policy != "-"
	for _, r := range rules {
		if strings.HasPrefix(r, "-A "+name+" ") {
			lines = append(lines, r)
		}
		used = used || strings.Contains(r, " -j "+name+" ")
	}
	if !used && len(lines) == 1 {
		return nil
	}
	return lines
}

func rules(t *testing.T, services ...service.Service) load {
	t.Helper()
	text, err := service.Rules(services, nil, true)
	if err != nil {
		t.Fatal(err)
	}
	return load{text: text, six: isIPv6(services)}
}

// Every golden text is one that iptables takes.
func TestKernelTakesRules(t *testing.T) {
	for _, g := range golden() {
		text, err := service.Rules(g.services, g.own, g.anchored)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(g.name, func(t *testing.T) {
			got := kernelRules(t, load{text: text, six: isIPv6(g.services)})[0]
			for l := range strings.Lines(text) {
				if c, ok := strings.CutPrefix(l, "-A "); ok && !strings.Contains(got, "-A "+c[:strings.Index(c, " ")]+" ") {
					t.Errorf("not in the kernel: %s", l)
				}
			}
		})
	}
}

// Changes on top of each other leave what Rules would have loaded at once.
func TestKernelChange(t *testing.T) {
	for _, c := range []struct {
		name       string
		dns, other service.Style
		empty      service.Empty
		masquerade service.Masquerade
		six        bool
	}{
		{"dnat", service.DNAT, service.DNAT, service.Reject, service.MasqueradeAuto, false},
		{"dnat-silent", service.DNAT, service.DNAT, service.Nothing, service.MasqueradeAll, false},
		{"kube-proxy", service.KubeProxy, service.KubeProxy, service.Reject, service.MasqueradeAuto, false},
		{"kube-proxy-drop", service.KubeProxy, service.KubeProxy, service.Drop, service.MasqueradeAll, false},
		{"kube-proxy-silent", service.KubeProxy, service.KubeProxy, service.Nothing, service.MasqueradeNone, false},
		{"mixed", service.KubeProxy, service.DNAT, service.Reject, service.MasqueradeAuto, false},
		{"ipv6", service.KubeProxy, service.DNAT, service.Reject, service.MasqueradeAuto, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			node := func(backends string) []service.Service {
				s := masquerade(dns(c.dns, c.empty, strings.Fields(backends)...), c.masquerade)
				if c.six {
					return []service.Service{six(s), six(web(c.other, "1"))}
				}
				return []service.Service{s, web(c.other, "1")}
			}
			steps := []string{"", "1", "1 2", "2 3", "", "", "3"}
			loads := []load{rules(t, node(steps[0])...)}
			for i := 1; i < len(steps); i++ {
				loads = append(loads, load{service.Change(node(steps[i-1]), node(steps[i]), true), true, c.six})
			}
			for i, got := range kernelRules(t, loads...) {
				if want := kernelRules(t, rules(t, node(steps[i])...))[0]; got != want {
					t.Errorf("after %q: got\n%s\nwant\n%s", steps[:i+1], got, want)
				}
			}
		})
	}
}

// Lines do to the kernel's rules what was typed; a rule that was loaded with ctlab's comment is found.
func TestKernelLines(t *testing.T) {
	loaded := []service.Own{{Name: "policy", Text: "-N mine\n-A FORWARD -s 10.0.0.1 -j mine\n-A mine -m comment --comment 'in two words' -j DROP\n-t nat -A POSTROUTING -j MASQUERADE"}}
	base, err := service.Rules([]service.Service{web("", "1")}, loaded, true)
	if err != nil {
		t.Fatal(err)
	}
	lines, err := service.Lines("cut", "-I FORWARD 2 -j ACCEPT\n-D FORWARD -s 10.0.0.1 -j mine\n-F mine\n-X mine\n-P FORWARD DROP\n-t nat -F POSTROUTING\n-t raw -N early\n-t raw -A PREROUTING -j early", loaded...)
	if err != nil {
		t.Fatal(err)
	}
	want, err := service.Rules([]service.Service{web("", "1")}, []service.Own{{Name: "cut", Text: "-P FORWARD DROP\n-A FORWARD -j ACCEPT\n-t raw -N early\n-t raw -A PREROUTING -j early"}}, true)
	if err != nil {
		t.Fatal(err)
	}
	got := kernelRules(t, load{text: base}, load{lines, true, false})[1]
	if want := kernelRules(t, load{text: want})[0]; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
