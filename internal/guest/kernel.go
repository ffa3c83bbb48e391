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
	"path"
	"slices"
	"strings"
)

// Kernel is what a kernel package holds: an image, and the modules that belong to it.
type Kernel struct {
	Release string // as uname -r says, such as 6.1.0-56-cloud-amd64
	Image   string // name of the bzImage in the package

	name    string // of the package, for errors
	files   fs.FS
	modules map[string]string // name in the package by that of the module
	builtin map[string]bool   // what is in the image
}

// OpenKernel finds the kernel in the folder of an unpacked package, or in what ReadPackage read; name is what errors call it. Debian
// has the image in boot/vmlinuz-RELEASE, and since it split its kernel packages (7.x) beside the modules, in
// usr/lib/modules/RELEASE/vmlinuz; so has Fedora.
func OpenKernel(name string, files fs.FS) (*Kernel, error) {
	root, err := moduleRoot(files)
	if err != nil {
		return nil, fmt.Errorf("open kernel %s: %w", name, err)
	}
	k := &Kernel{Release: path.Base(root), name: name, files: files, modules: map[string]string{}, builtin: map[string]bool{}}
	for _, image := range []string{"boot/vmlinuz-" + k.Release, root + "/vmlinuz", "vmlinuz"} {
		if fi, err := fs.Stat(files, image); err == nil && fi.Mode().IsRegular() {
			k.Image = image
			break
		}
	}
	if k.Image == "" {
		return nil, fmt.Errorf("open kernel %s: there are modules of %s, but no boot/vmlinuz-%[2]s", name, k.Release)
	}
	if err := k.index(root); err != nil {
		return nil, fmt.Errorf("open kernel %s: %w", name, err)
	}
	return k, nil
}

// moduleRoot is the folder with the modules of the one kernel in a package. A merged /usr has it under two names.
func moduleRoot(files fs.FS) (string, error) {
	if _, err := fs.Stat(files, "."); err != nil {
		return "", err
	}
	var found []string
	for _, lib := range []string{"lib/modules", "usr/lib/modules"} {
		entries, err := fs.ReadDir(files, lib)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		for _, e := range entries {
			dir := path.Join(lib, e.Name())
			if e.IsDir() && !slices.ContainsFunc(found, func(other string) bool { return sameFolder(files, dir, other) }) {
				found = append(found, dir)
			}
		}
	}
	switch len(found) {
	case 0:
		return "", errors.New("no lib/modules/RELEASE in it")
	case 1:
		return found[0], nil
	}
	return "", fmt.Errorf("%d kernels are in it, one is wanted", len(found))
}

func sameFolder(files fs.FS, a, b string) bool {
	one, errA := fs.Stat(files, a)
	other, errB := fs.Stat(files, b)
	return errA == nil && errB == nil && os.SameFile(one, other)
}

// index learns where each module is.
func (k *Kernel) index(root string) error {
	b, err := fs.ReadFile(k.files, root+"/modules.builtin")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for line := range strings.Lines(string(b)) {
		k.builtin[moduleName(strings.TrimSpace(line))] = true
	}
	return fs.WalkDir(k.files, root, func(file string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || !strings.Contains(d.Name(), ".ko") {
			return err
		}
		k.modules[moduleName(file)] = file
		return nil
	})
}

// ReadImage returns the bzImage.
func (k *Kernel) ReadImage() ([]byte, error) {
	b, err := fs.ReadFile(k.files, k.Image)
	if err != nil {
		return nil, fmt.Errorf("read kernel %s: %w", k.name, err)
	}
	return b, nil
}

// moduleName is the name of a module by its file. The kernel writes _ where files may have -.
func moduleName(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".ko")
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
		file, ok := k.modules[name]
		if seen[name] || !ok {
			return nil
		}
		seen[name] = true
		m, before, err := k.readModule(file)
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
func (k *Kernel) readModule(file string) (m module, before []string, err error) {
	m.name = moduleName(file)
	content, err := fs.ReadFile(k.files, file)
	if err == nil {
		m.content, err = unpacked(path.Ext(file), content)
	}
	if err == nil {
		before, err = dependencies(m.content)
	}
	if err != nil {
		return m, nil, fmt.Errorf("read module %s: %w", path.Join(k.name, file), err)
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

// unpacked unpacks a file by the ending of its name: distributions compress modules with xz, zstd or gzip. The programs
// of the first two are asked: the standard library does not know them.
func unpacked(ending string, b []byte) ([]byte, error) {
	switch ending {
	case ".xz":
		return filter(b, "xz", "-dc")
	case ".zst":
		return filter(b, "zstd", "-qdc")
	case ".gz":
		z, err := gzip.NewReader(bytes.NewReader(b))
		if err != nil {
			return nil, err
		}
		return io.ReadAll(z)
	}
	return b, nil
}

// filter is what a program makes of its input.
func filter(in []byte, program string, args ...string) ([]byte, error) {
	cmd := exec.Command(program, args...)
	cmd.Stdin = bytes.NewReader(in)
	out, err := cmd.Output()
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
		"nf_conntrack", "nf_nat", "nf_conntrack_netlink", "nfnetlink_queue",
		"ip_tables", "iptable_nat", "iptable_filter", "iptable_raw", "iptable_mangle",
		"nf_tables", "nft_compat", "nft_chain_nat", "nft_ct", "nft_nat", "nft_masq", "nft_redir", "nft_reject_ipv4", "nft_limit",
		"xt_tcpudp", "xt_nat", "xt_MASQUERADE", "xt_REDIRECT", "xt_conntrack", "xt_CT", "xt_comment", "xt_statistic",
		"xt_mark", "xt_addrtype", "xt_multiport", "xt_NFQUEUE", "ipt_REJECT",
		"ip6_tables", "ip6table_nat", "ip6table_filter", "ip6table_raw", "ip6table_mangle", "nft_reject_ipv6", "ip6t_REJECT",
	}
}
