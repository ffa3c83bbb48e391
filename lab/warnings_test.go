package lab

import (
	"io/fs"
	"strings"
	"syscall"
	"testing"
)

// TestWarnings wants a word of what may not do what was meant, at its place, and none of anything else.
func TestWarnings(t *testing.T) {
	const head = "lab: x\nnodes:\n  node: {kind: router%s}\n  a: {}\n  b: {}\nservices:\n  dns: {ports: 53/udp, backends: a%s}\nsteps:\n  - %s\n"
	for _, c := range []struct{ node, service, step, want string }{
		{"", "", "wait: 1s", ""},
		{", sysctls: {net.netfilter.nf_conntrack_udp_timout: 5}", "", "wait: 1s", `x:3:34: ctlab knows no setting "net.netfilter.nf_conntrack_udp_timout"; did you mean "net.netfilter.nf_conntrack_udp_timeout"?`},
		{", sysctls: {net.ipv4.conf.a.forwading: 5}", "", "wait: 1s", `x:3:34: ctlab knows no setting "net.ipv4.conf.a.forwading"; did you mean "net.ipv4.conf.a.forwarding"?`},
		{", sysctls: {net.ipv4.conf.a.forwarding: 5, net.ipv6.new: 1, net.core.somaxconn: 9}", "", "wait: 1s", ""},
		{"", "", "{sysctl: node, set: {net.netfiler.x: 1}}", `x:9:26: ctlab knows no setting "net.netfiler.x"; a run fails if the kernel has it not`},
		{"", ", empty: reject", "wait: 1s", ""}, // it always has a backend
		{"", ", empty: reject", "{backends: dns, remove: a}", "x:7:3: dns: empty: reject, but node has no route to its VIP"},
		{"", ", style: kube-proxy", "{backends: dns, set: none}", "x:7:3: dns: empty: reject, but node has no route to its VIP"},
		{"", ", style: kube-proxy", "{backends: dns, set: b}", ""},
		{", routes: default via b", ", empty: reject", "{backends: dns, remove: a}", ""},
		{"", ", empty: drop", "{backends: dns, remove: a}", ""},
	} {
		src := strings.NewReplacer("%s}\n  a", c.node+"}\n  a", "%s}\nsteps", c.service+"}\nsteps", "%s\n", c.step+"\n").Replace(head)
		l, err := Load("x", []byte(src), "")
		if err != nil {
			t.Errorf("%v\n%s", err, src)
			continue
		}
		var got []string
		for _, w := range l.Warnings() {
			got = append(got, w.String())
		}
		if s := strings.Join(got, "\n"); !strings.HasPrefix(s, c.want) || c.want == "" && s != "" {
			t.Errorf("got %q, want %q, of\n%s", s, c.want, src)
		}
	}
}

func TestSettingError(t *testing.T) {
	s := Sysctl{"net.x", "5", Pos{"f", 1, 2}}
	for _, c := range []struct {
		err   error
		want  string
		input bool
	}{
		{&fs.PathError{Op: "open", Path: "/proc/sys/net/x", Err: syscall.ENOENT}, "f:1:2: this kernel has no setting net.x", true},
		{&fs.PathError{Op: "write", Path: "/proc/sys/net/x", Err: syscall.EINVAL}, `f:1:2: set net.x to "5" in n: invalid argument`, true},
		{&fs.PathError{Op: "open", Path: "/proc/sys/net/x", Err: syscall.EACCES}, `f:1:2: set net.x to "5" in n: permission denied`, false},
	} {
		e := &SettingError{s, "n", c.err}
		if e.Error() != c.want || e.Input() != c.input {
			t.Errorf("%q, input %v; want %q", e, e.Input(), c.want)
		}
	}
}
