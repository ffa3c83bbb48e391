//go:build linux

package live

import (
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// InUserNamespace reports whether the process is in a user namespace other than the machine's: it is root only of
// what it makes itself.
func InUserNamespace() bool {
	b, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && strings.Join(strings.Fields(string(b)), " ") != "0 0 4294967295"
}

// Privileged reports whether the process may make network namespaces and configure them.
func Privileged() bool {
	var data [2]unix.CapUserData // 64 capabilities in two words
	if err := unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &data[0]); err != nil {
		return false
	}
	const need = 1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_SYS_ADMIN | 1<<unix.CAP_NET_RAW
	return data[0].Effective&need == need
}
