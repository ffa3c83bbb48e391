package guest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A device that is there and opens is not enough: the processor must offer virtualization.
func TestProbeKVM(t *testing.T) {
	device := func(t *testing.T, there bool) string {
		path := filepath.Join(t.TempDir(), "kvm")
		if there {
			put(t, path, nil)
		}
		return path
	}
	for _, c := range []struct {
		name, cpuinfo string
		device        bool
		why           string // empty: it works
	}{
		{"Intel", "processor\t: 0\nflags\t\t: fpu vme vmx sse\n", true, ""},
		{"AMD", "flags : fpu svm\n", true, ""},
		{"no device", "flags : fpu vmx\n", false, "no such file"},
		{"a device in a guest whose processor has nothing", "flags : fpu sse hypervisor\n", true, "neither vmx nor svm"},
		{"vmx elsewhere than among the flags", "model name : vmx\nflags : fpu\nvmx flags : vnmi\n", true, "neither vmx nor svm"},
		{"a flag that begins alike", "flags : vmx_thing svme\n", true, "neither vmx nor svm"},
		{"no flags", "Processor : ARM\n", true, "neither vmx nor svm"},
	} {
		cpuinfo := filepath.Join(t.TempDir(), "cpuinfo")
		put(t, cpuinfo, []byte(c.cpuinfo))
		err := ProbeKVM(cpuinfo, device(t, c.device))
		if (err == nil) != (c.why == "") || err != nil && !strings.Contains(err.Error(), c.why) {
			t.Errorf("%s: %v, want %q", c.name, err, c.why)
		}
	}
	if err := ProbeKVM(filepath.Join(t.TempDir(), "none"), os.DevNull); err == nil {
		t.Error("without /proc/cpuinfo it works")
	}
}

func TestParseAccel(t *testing.T) {
	for s, ok := range map[string]bool{"auto": true, "kvm": true, "tcg": true, "": false, "hvf": false} {
		if _, err := ParseAccel(s); (err == nil) != ok {
			t.Errorf("%q: %v", s, err)
		}
	}
}
