package report

import (
	"os"
	"strings"
	"testing"

	"ctlab/checks/trace"
)

// recorded is a run of the kernel, as it was replayed.
func recorded(t *testing.T) (trace.Report, Names) {
	t.Helper()
	const file = "../../checks/trace/testdata/kernel/6.18-coredns-restart.trace"
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all, err := trace.Parse(file, f)
	if err != nil {
		t.Fatal(err)
	}
	p, err := all[0].Model(nil)
	if err != nil {
		t.Fatal(err)
	}
	names := Names{}
	for _, n := range all[0].Names {
		names[n.Addr] = n.Name
	}
	return trace.Replay(all[0], p), names
}

// A recorded run, the flow that goes stale: the golden text shows the way through the hooks.
func TestExplain(t *testing.T) {
	r, names := recorded(t)
	flow, err := ParseFlow("udp app:40053 > kube-dns:53", names)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	n, err := Explain(&b, []trace.Report{r}, names, ExplainOptions{Flow: flow})
	if err != nil || n == 0 {
		t.Fatalf("%d packets, %v", n, err)
	}
	golden(t, "explain.txt", b.String())
}

// All packets are explained once, in blocks or in lists of the same; one is explained alone.
func TestExplainPicks(t *testing.T) {
	r, names := recorded(t)
	var b strings.Builder
	if n, err := Explain(&b, []trace.Report{r}, names, ExplainOptions{}); err != nil || n != len(r.Packets)+len(r.GivenUp) || len(r.GivenUp) == 0 {
		t.Errorf("%d of %d packets and %d that waited, %v", n, len(r.Packets), len(r.GivenUp), err)
	}
	b.Reset()
	if n, err := Explain(&b, []trace.Report{r}, names, ExplainOptions{Packet: 3}); err != nil || n != 1 || !strings.HasPrefix(b.String(), "packet 3 ") {
		t.Errorf("%d packets, %v\n%s", n, err, b.String())
	}
	if n, _ := Explain(&b, []trace.Report{r}, names, ExplainOptions{Packet: 100000}); n != 0 {
		t.Errorf("%d packets", n)
	}
}

func TestParseFlow(t *testing.T) {
	r, names := recorded(t)
	for text, some := range map[string]bool{
		"udp app:40053 > kube-dns:53":       true,
		"udp 10.244.2.5:40053 > 10.96.0.10": true,
		"udp any > any:53":                  true,
		"udp app:40054 > kube-dns:53":       false,
		"tcp app > kube-dns":                false,
		"udp kube-dns > app":                false,
	} {
		f, err := ParseFlow(text, names)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		n := 0
		for i := range r.Packets {
			if f.has(&r.Packets[i]) {
				n++
			}
		}
		if n > 0 != some {
			t.Errorf("%s: %d packets", text, n)
		}
	}
	for _, bad := range []string{"", "udp app kube-dns", "udp ap > kube-dns", "xyz app > kube-dns", "udp app:x > kube-dns", "udp app:70000 > kube-dns", "udp app < kube-dns"} {
		if f, err := ParseFlow(bad, names); err == nil {
			t.Errorf("%q is %+v", bad, f)
		}
	}
}
