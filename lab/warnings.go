package lab

import (
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
	"syscall"

	"ctlab/checks"
	"ctlab/topology/service"
)

// Warning is something that is probably not meant, and no error.
type Warning struct {
	Pos Pos
	Msg string
}

// String is the place and the message.
func (w Warning) String() string { return w.Pos.String() + ": " + w.Msg }

// Warnings are what a lab has that may not do what was meant: settings that no kernel known to ctlab has, and
// services that refuse packets which never get as far as their rule.
func (l *Lab) Warnings() []Warning {
	out := l.unroutedRejects()
	known := knownSettings()
	warn := func(all []Sysctl) {
		for _, s := range all {
			if msg := unknownSetting(known, s.Name); msg != "" {
				out = append(out, Warning{s.Pos, msg})
			}
		}
	}
	for _, n := range l.Nodes {
		warn(n.Sysctls)
	}
	for _, s := range l.Steps {
		warn(s.Sysctls)
	}
	return out
}

//go:embed sysctls.txt
var sysctlNames string

// knownSettings are the settings that kernels have below net.netfilter, net.ipv4 and net.core.
func knownSettings() []string {
	return slices.DeleteFunc(strings.Fields(sysctlNames), func(s string) bool { return !strings.HasPrefix(s, "net.") })
}

// unknownSetting says that a setting is not known, or nothing. Other parts of the tree than those that are
// listed may have any.
func unknownSetting(known []string, name string) string {
	parts := strings.Split(name, ".")
	form, dev := name, ""
	if len(parts) == 5 && (parts[2] == "conf" || parts[2] == "neigh") {
		dev, parts[3] = parts[3], "*"
		form = strings.Join(parts, ".")
	}
	others := []string{"ipv6", "bridge", "unix", "mpls", "sctp", "vsock", "smc", "mptcp"}
	if slices.Contains(known, form) || slices.Contains(others, parts[1]) {
		return ""
	}
	var like []string // of about the same length, since a hint compares the first hundred only
	for _, k := range known {
		if diff := len(k) - len(form); diff >= -3 && diff <= 3 {
			like = append(like, k)
		}
	}
	hint := "a run fails if the kernel has it not"
	if near := checks.Nearest(form, like); near != "" {
		hint = fmt.Sprintf("did you mean %q?", strings.Replace(near, "*", dev, 1))
	}
	return fmt.Sprintf("ctlab knows no setting %s; %s", checks.Quote(name), hint)
}

// unroutedRejects are services that are to refuse packets while they have no backend, on a node that has no
// route to them: a packet is routed before it meets the rule, which stands in FORWARD, and a packet without
// a route is dropped (ip_route_input_slow, ip_error).
func (l *Lab) unroutedRejects() []Warning {
	var out []Warning
	for _, s := range l.Services {
		if s.Empty != service.Reject || !l.emptied(s) {
			continue
		}
		for _, on := range s.On {
			if n := l.Node(on); n != nil && !l.routes(n, s.VIP) {
				out = append(out, Warning{s.Pos, fmt.Sprintf("%s: empty: reject, but %s has no route to its VIP: clients hear nothing; routes: default via ADDRESS gives it one", s.Name, on)})
			}
		}
	}
	return out
}

// emptied reports whether the service is without a backend at some time.
func (l *Lab) emptied(s *Service) bool {
	now := s.Backends
	if len(now) == 0 {
		return true
	}
	for _, step := range l.Steps {
		if step.Kind != SetBackends || step.Service != s.Name {
			continue
		}
		if step.HasSet {
			now = step.Set
		} else {
			now = slices.DeleteFunc(append(slices.Clone(now), step.Add...), func(b string) bool { return slices.Contains(step.Remove, b) })
		}
		if len(now) == 0 {
			return true
		}
	}
	return false
}

// routes reports whether a node has a route to an address, or the address itself, or may be given a route
// by a step.
func (l *Lab) routes(n *Node, a netip.Addr) bool {
	for _, p := range n.Local {
		if p.Addr() == a {
			return true
		}
	}
	for _, r := range n.Routes {
		if r.To.Contains(a) {
			return true
		}
	}
	return slices.ContainsFunc(l.Steps, func(s *Step) bool {
		return s.Kind == SetRoute && slices.Contains(s.Nodes, n.Name) && s.RouteOp != "del"
	})
}

// SettingError is a setting that the kernel did not take.
type SettingError struct {
	Setting Sysctl
	Node    string
	Err     error
}

// Error says where the lab has the setting, and what the kernel said.
func (e *SettingError) Error() string {
	err := e.Err
	if pe := (*fs.PathError)(nil); errors.As(err, &pe) {
		err = pe.Err
	}
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Sprintf("%s: this kernel has no setting %s", e.Setting.Pos, e.Setting.Name)
	}
	return fmt.Sprintf("%s: set %s to %s in %s: %v", e.Setting.Pos, e.Setting.Name, checks.Quote(e.Setting.Value), e.Node, err)
}

// Input reports whether the lab is wrong for this kernel, which has no such setting or not with such a value.
func (e *SettingError) Input() bool {
	return errors.Is(e.Err, fs.ErrNotExist) || errors.Is(e.Err, syscall.EINVAL) || errors.Is(e.Err, syscall.ERANGE)
}

// Unwrap is what the kernel said.
func (e *SettingError) Unwrap() error { return e.Err }
