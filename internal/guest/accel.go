package guest

import (
	"fmt"
	"os"
	"slices"
	"strings"
)

// Accel is how QEMU runs the guest's code.
type Accel string

// The ways: Auto is KVM where it really works, else TCG.
const (
	Auto Accel = "auto"
	KVM  Accel = "kvm" // in hardware
	TCG  Accel = "tcg" // translated, anywhere
)

// ParseAccel reads the value of a flag.
func ParseAccel(s string) (Accel, error) {
	if a := Accel(s); slices.Contains([]Accel{Auto, KVM, TCG}, a) {
		return a, nil
	}
	return "", fmt.Errorf("%q: there are auto, kvm and tcg", s)
}

// ProbeKVM says why KVM cannot be used here, or nil. That /dev/kvm is there and can be opened does not suffice: inside some
// virtual machines it is (PVM), but an ordinary kernel gets nowhere in it. So the processor must say vmx (Intel) or svm (AMD)
// as well. What passes both and still does not boot is left to the deadline of the boot.
func ProbeKVM(cpuinfo, device string) error {
	b, err := os.ReadFile(cpuinfo)
	if err != nil {
		return err
	}
	if !hasVirtualization(string(b)) {
		return fmt.Errorf("%s has neither vmx nor svm", cpuinfo)
	}
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return f.Close()
}

func hasVirtualization(cpuinfo string) bool {
	for line := range strings.Lines(cpuinfo) {
		key, flags, _ := strings.Cut(line, ":")
		if strings.TrimSpace(key) != "flags" {
			continue
		}
		words := strings.Fields(flags)
		return slices.Contains(words, "vmx") || slices.Contains(words, "svm")
	}
	return false
}
