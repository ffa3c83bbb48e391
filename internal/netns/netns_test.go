package netns_test

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"

	"ctlab/internal/netns"
)

func open(t *testing.T) *netns.NS {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("needs root")
		}
		t.Skip("needs root")
	}
	ns, err := netns.New("test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	return ns
}

func namespace(t *testing.T, path string) string {
	t.Helper()
	link, err := os.Readlink(path)
	if err != nil {
		t.Fatal(err)
	}
	return link
}

// Whatever runs inside, the process's first thread, and so /proc/self, stays outside.
func TestFirstThreadStaysOutside(t *testing.T) {
	ns := open(t)
	outside := namespace(t, "/proc/self/ns/net")
	for range 300 {
		inside := ""
		if err := ns.Do(func() (err error) { inside, err = os.Readlink("/proc/thread-self/ns/net"); return err }); err != nil {
			t.Fatal(err)
		}
		if inside == outside {
			t.Fatal("Do ran outside")
		}
	}
	if now := namespace(t, "/proc/self/ns/net"); now != outside {
		t.Errorf("the first thread moved from %s to %s", outside, now)
	}
}

// A fresh namespace has lo alone, and it is down: nothing can be reached from it.
func TestSocketsStayInside(t *testing.T) {
	ns := open(t)
	if c, err := ns.DialUDP(netip.AddrPort{}, netip.MustParseAddrPort("127.0.0.1:53"), nil); err == nil {
		c.Close()
		t.Error("127.0.0.1 was reachable with lo down")
	}
	names := ""
	if err := ns.Do(func() error {
		links, err := net.Interfaces()
		for _, l := range links {
			names += l.Name + " "
		}
		return err
	}); err != nil || strings.TrimSpace(names) != "lo" {
		t.Errorf("links %q, %v", names, err)
	}
}

// An error comes back, a panic is raised again, and runtime.Goexit cannot pass for success.
func TestHowDoEnds(t *testing.T) {
	ns := open(t)
	boom := errors.New("boom")
	if err := ns.Do(func() error { return boom }); !errors.Is(err, boom) {
		t.Errorf("got %v", err)
	}
	for name, fn := range map[string]func() error{"panic": func() error { panic("boom") }, "goexit": func() error { runtime.Goexit(); return nil }} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: nothing was raised", name)
				}
			}()
			_ = ns.Do(fn)
		}()
	}
}
