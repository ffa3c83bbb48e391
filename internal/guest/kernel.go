package guest

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Kernel is an unpacked kernel package: an image, and the modules that belong to it.
type Kernel struct {
	Release string // as uname -r says, such as 6.1.0-56-cloud-amd64
	Image   string // path of the bzImage

	modules map[string]string // path by name
	builtin map[string]bool   // what is in the image
}

// OpenKernel finds the kernel in the folder of an unpacked package. Debian has the image in boot/vmlinuz-RELEASE, and
// since it split its kernel packages (7.x) beside the modules, in usr/lib/modules/RELEASE/vmlinuz; so has Fedora.
func OpenKernel(dir string) (*Kernel, error) {
	root, release, err := moduleRoot(dir)
	if err != nil {
		return nil, err
	}
	k := &Kernel{Release: release, modules: map[string]string{}, builtin: map[string]bool{}}
	for _, image := range []string{filepath.Join(dir, "boot", "vmlinuz-"+release), filepath.Join(root, "vmlinuz"), filepath.Join(dir, "vmlinuz")} {
		if fi, err := os.Stat(image); err == nil && fi.Mode().IsRegular() {
			k.Image = image
			break
		}
	}
	if k.Image == "" {
		return nil, fmt.Errorf("open kernel %s: there are modules of %s, but no boot/vmlinuz-%[2]s", dir, release)
	}
	if err := k.index(root); err != nil {
		return nil, fmt.Errorf("open kernel %s: %w", dir, err)
	}
	return k, nil
}

// moduleRoot is the folder with the modules of the one kernel in dir.
func moduleRoot(dir string) (root, release string, err error) {
	if _, err := os.Stat(dir); err != nil {
		return "", "", fmt.Errorf("open kernel: %w", err)
	}
	var found []string
	for _, lib := range []string{"lib/modules", "usr/lib/modules"} {
		entries, err := os.ReadDir(filepath.Join(dir, lib))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", "", fmt.Errorf("open kernel %s: %w", dir, err)
		}
		for _, e := range entries {
			path := filepath.Join(dir, lib, e.Name())
			if real, err := filepath.EvalSymlinks(path); err == nil && e.IsDir() && !slices.Contains(found, real) {
				found = append(found, real)
			}
		}
	}
	switch len(found) {
	case 0:
		return "", "", fmt.Errorf("open kernel %s: no lib/modules/RELEASE in it", dir)
	case 1:
		return found[0], filepath.Base(found[0]), nil
	}
	return "", "", fmt.Errorf("open kernel %s: %d kernels are in it, one is wanted", dir, len(found))
}

// index learns where each module is.
func (k *Kernel) index(root string) error {
	b, err := os.ReadFile(filepath.Join(root, "modules.builtin"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for line := range strings.Lines(string(b)) {
		k.builtin[moduleName(strings.TrimSpace(line))] = true
	}
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || !strings.Contains(d.Name(), ".ko") {
			return err
		}
		k.modules[moduleName(path)] = path
		return nil
	})
}

// moduleName is the name of a module by its file. The kernel writes _ where files may have -.
func moduleName(path string) string {
	name, _, _ := strings.Cut(filepath.Base(path), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// module is a kernel module, ready to be loaded.
type module struct {
	name    string
	content []byte // ELF, not compressed
}

// load returns modules with all that they depend on, in an order in which they can be loaded, and the names of those
// that the kernel has neither as modules nor built in.
func (k *Kernel) load(names []string) (order []module, missing []string, err error) {
	seen := map[string]bool{}
	var visit func(string) error
	visit = func(name string) error {
		path, ok := k.modules[name]
		if seen[name] || !ok {
			return nil
		}
		seen[name] = true
		m, before, err := readModule(path)
		if err != nil {
			return err
		}
		for _, dep := range before {
			if err := visit(dep); err != nil {
				return err
			}
		}
		order = append(order, m)
		return nil
	}
	for _, name := range names {
		if k.modules[name] == "" && !k.builtin[name] {
			missing = append(missing, name)
		}
		if err := visit(name); err != nil {
			return nil, nil, err
		}
	}
	return order, missing, nil
}

// readModule reads a module, and the names of those that must be loaded before it.
func readModule(path string) (m module, before []string, err error) {
	m.name = moduleName(path)
	if m.content, err = unpacked(path); err != nil {
		return m, nil, fmt.Errorf("read module %s: %w", path, err)
	}
	if before, err = dependencies(m.content); err != nil {
		return m, nil, fmt.Errorf("read module %s: %w", path, err)
	}
	return m, before, nil
}

// dependencies are the names in a module's .modinfo that come before it: depends, whose symbols it uses, and the
// softdep pre, which it can do without or which may go by an alias (libcrc32c so names its algorithm).
func dependencies(content []byte) (names []string, err error) {
	f, err := elf.NewFile(bytes.NewReader(content))
	if err != nil {
		return nil, err
	}
	s := f.Section(".modinfo")
	if s == nil {
		return nil, errors.New("no section .modinfo")
	}
	info, err := s.Data()
	if err != nil {
		return nil, err
	}
	for field := range strings.SplitSeq(string(info), "\x00") {
		switch key, value, _ := strings.Cut(field, "="); key {
		case "depends":
			names = append(names, moduleNames(strings.FieldsFunc(value, func(r rune) bool { return r == ',' }))...)
		case "softdep":
			if pre, ok := strings.CutPrefix(value, "pre:"); ok {
				pre, _, _ = strings.Cut(pre, "post:")
				names = append(names, moduleNames(strings.Fields(pre))...)
			}
		}
	}
	return names, nil
}

func moduleNames(names []string) []string {
	for i := range names {
		names[i] = moduleName(names[i])
	}
	return names
}

// unpacked reads a file, and unpacks it by the ending of its name: distributions compress modules with xz, zstd or
// gzip. The programs of the first two are asked: the standard library does not know them.
func unpacked(path string) ([]byte, error) {
	switch filepath.Ext(path) {
	case ".xz":
		return output("xz", "-dc", path)
	case ".zst":
		return output("zstd", "-qdc", path)
	case ".gz":
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		z, err := gzip.NewReader(f)
		if err != nil {
			return nil, err
		}
		return io.ReadAll(z)
	}
	return os.ReadFile(path)
}

func output(program string, args ...string) ([]byte, error) {
	out, err := exec.Command(program, args...).Output()
	var ee *exec.ExitError
	if errors.As(err, &ee) && len(ee.Stderr) > 0 {
		return nil, fmt.Errorf("%s: %w: %s", program, err, strings.TrimSpace(string(ee.Stderr)))
	}
	return out, err
}

// Modules are what labs need of a kernel, by name; what a module depends on is found by itself. The guest has nothing
// that loads modules when the kernel asks for them, so all are loaded before the first lab.
func Modules() []string {
	return []string{
		"virtio_pci", "virtio_console", // the port for results
		"veth",
		"nf_conntrack", "nf_nat", "nf_conntrack_netlink",
		"ip_tables", "iptable_nat", "iptable_filter", "iptable_raw", "iptable_mangle",
		"nf_tables", "nft_compat", "nft_chain_nat", "nft_ct", "nft_nat", "nft_masq", "nft_redir", "nft_reject_ipv4", "nft_limit",
		"xt_tcpudp", "xt_nat", "xt_MASQUERADE", "xt_REDIRECT", "xt_conntrack", "xt_CT", "xt_comment", "xt_statistic",
		"xt_mark", "xt_addrtype", "xt_multiport", "ipt_REJECT",
	}
}
