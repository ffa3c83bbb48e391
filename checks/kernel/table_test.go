//go:build linux

package kernel_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"ctlab/checks/conntrack"
	"ctlab/checks/kernel"
	"ctlab/checks/observe"
	"ctlab/topology"
	"ctlab/topology/service"
)

// node makes a namespace with tracking on. Without root the test cannot run: in CI that is a failure.
func node(t *testing.T) *topology.Node {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("needs root")
		}
		t.Skip("needs root")
	}
	var net topology.Network
	t.Cleanup(func() {
		if err := net.Close(); err != nil {
			t.Error(err)
		}
	})
	n, err := net.AddNode("test")
	if err != nil {
		t.Fatal(err)
	}
	text, err := service.Rules(nil, nil, true)
	if err != nil {
		t.Fatal(err)
	}
	for ipt, err := range topology.FindIptables(context.Background(), "") {
		if err != nil {
			t.Fatal(err)
		}
		if err := ipt.Load(context.Background(), n, text, false); err != nil {
			t.Fatal(err)
		}
		break
	}
	return n
}

func open(t *testing.T, n *topology.Node) *kernel.Table {
	t.Helper()
	table, err := kernel.Open(n.NS, observe.Monotonic)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { table.Close() })
	return table
}

func tuple(proto uint8, src, dst string) conntrack.Tuple {
	s, d := netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst)
	return conntrack.Tuple{Proto: proto, Src: s.Addr(), SrcPort: s.Port(), Dst: d.Addr(), DstPort: d.Port()}
}

// An entry that ctlab creates with a NAT target comes back field by field, by GET, dump and event, and
// goes away by delete and flush.
func TestCreateGetDumpDelete(t *testing.T) {
	for _, c := range []struct{ family, client, vip, backend string }{
		{"ipv4", "10.0.0.1:40053", "10.96.0.10:53", "10.244.1.10:5300"},
		{"ipv6", "[fd00:10:244:2::5]:40053", "[fd00:10:96::a]:53", "[fd00:10:244:1::a]:5300"},
	} {
		t.Run(c.family, func(t *testing.T) { testCreate(t, c.client, c.vip, c.backend) })
	}
}

func testCreate(t *testing.T, client, vip, backend string) {
	n := node(t)
	ears, err := kernel.Listen(n.NS, observe.Monotonic)
	if err != nil {
		t.Fatal(err)
	}
	table := open(t, n)
	orig := tuple(conntrack.UDP, client, vip)
	to := tuple(conntrack.UDP, client, backend)
	if _, err := table.Create(kernel.Creation{Orig: orig, DNAT: &to, Status: conntrack.SeenReply | conntrack.Assured, Timeout: 100, Mark: 7}); err != nil {
		t.Fatal(err)
	}
	r, found, err := table.Get(orig)
	if err != nil || !found {
		t.Fatalf("get: found %v, %v", found, err)
	}
	e := r.Entry
	wantReply := tuple(conntrack.UDP, backend, client)
	if e.Orig != orig || e.Reply != wantReply || e.Mark != 7 || e.Timeout != 99 && e.Timeout != 100 {
		t.Errorf("get: %s", e.String())
	}
	want := conntrack.SeenReply | conntrack.Assured | conntrack.Confirmed | conntrack.DstNAT | conntrack.DstNATDone | conntrack.SrcNATDone
	if e.Status != want {
		t.Errorf("status %s, want %s", e.Status, want)
	}
	if _, found, err = table.Get(wantReply); err != nil || !found {
		t.Errorf("get by reply tuple: found %v, %v", found, err)
	}
	reads, _, err := table.Dump()
	if err != nil || len(reads) != 1 {
		t.Fatalf("dump: %d entries, %v", len(reads), err)
	}
	if d := reads[0].Entry; d.ID != e.ID || d.Reply != e.Reply || d.Use != 1 || e.Use != 2 {
		t.Errorf("dump %s\n get %s", d.String(), e.String())
	}
	if _, err := table.Create(kernel.Creation{Orig: orig, Timeout: 1}); err == nil {
		t.Error("a second entry with the same tuple was created")
	}
	if found, _, err := table.Delete(orig, e.ID+1); found || err != nil {
		t.Errorf("delete with a wrong id: found %v, %v", found, err)
	}
	if found, _, err := table.Delete(orig, e.ID); !found || err != nil {
		t.Errorf("delete: found %v, %v", found, err)
	}
	if count, _, err := table.Count(); count != 0 || err != nil {
		t.Errorf("count %d, %v", count, err)
	}
	if _, err := table.Flush(); err != nil {
		t.Error(err)
	}
	heard, lost, err := ears.Close()
	if err != nil || lost != 0 || len(heard) != 2 {
		t.Fatalf("%d events, %d lost, %v", len(heard), lost, err)
	}
	if heard[0].Event.Kind != conntrack.New || heard[1].Event.Kind != conntrack.Destroy || heard[1].Event.Entry.ID != e.ID {
		t.Errorf("events: %s; %s", heard[0].Event, heard[1].Event)
	}
}

// What ctlab decodes is what conntrack(8) prints, where that is installed.
func TestAgreesWithConntrack(t *testing.T) {
	n := node(t)
	path, err := exec.LookPath("conntrack")
	if err != nil && os.Getenv("CI") != "" {
		t.Fatal("conntrack is not installed")
	}
	if err != nil {
		t.Skip("conntrack is not installed")
	}
	table := open(t, n)
	for _, c := range []kernel.Creation{
		{Orig: tuple(conntrack.UDP, "10.0.0.1:1000", "10.0.0.2:53"), Timeout: 1000},
		{Orig: tuple(conntrack.UDP, "10.0.0.1:1001", "10.0.0.2:53"), Timeout: 2000, Status: conntrack.SeenReply},
		{Orig: tuple(conntrack.UDP, "10.0.0.1:1002", "10.0.0.2:53"), Timeout: 3000, Status: conntrack.SeenReply | conntrack.Assured, Mark: 5},
	} {
		if _, err := table.Create(c); err != nil {
			t.Fatal(err)
		}
	}
	reads, _, err := table.Dump()
	if err != nil || len(reads) != 3 {
		t.Fatalf("dump: %d entries, %v", len(reads), err)
	}
	var out []byte
	cmd := exec.Command(path, "-L", "-o", "id")
	err = n.NS.Do(func() (err error) {
		out, err = cmd.Output()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range reads {
		if line := conntrackLine(r.Entry); !containsLine(string(out), line) {
			t.Errorf("conntrack -L has no line %q in\n%s", line, out)
		}
	}
}

func itoa(n any) string { return fmt.Sprint(n) }

// conntrackLine is an entry as conntrack -L -o id prints it, without the time left.
func conntrackLine(e conntrack.Entry) string {
	side := func(t conntrack.Tuple) string {
		return "src=" + t.Src.String() + " dst=" + t.Dst.String() + " sport=" + itoa(t.SrcPort) + " dport=" + itoa(t.DstPort)
	}
	s := side(e.Orig)
	if !e.Status.Has(conntrack.SeenReply) {
		s += " [UNREPLIED]"
	}
	s += " " + side(e.Reply)
	if e.Status.Has(conntrack.Assured) {
		s += " [ASSURED]"
	}
	return s + " mark=" + itoa(e.Mark) + " use=" + itoa(e.Use) + " id=" + itoa(e.ID)
}

func containsLine(out, line string) bool {
	for _, l := range strings.Split(out, "\n") {
		if strings.Contains(strings.Join(strings.Fields(l), " "), line) {
			return true
		}
	}
	return false
}
