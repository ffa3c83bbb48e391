package guest

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// moduleFile is the smallest ELF file with a section .modinfo.
func moduleFile(info string) []byte {
	const head, section = 64, 64
	names := "\x00.modinfo\x00.shstrtab\x00"
	infoAt, namesAt := head, head+len(info)
	tableAt := (namesAt + len(names) + 7) &^ 7
	var b bytes.Buffer
	write := func(v any) { _ = binary.Write(&b, binary.LittleEndian, v) } // to memory
	h := elf.Header64{Type: uint16(elf.ET_REL), Machine: uint16(elf.EM_X86_64), Version: 1, Shoff: uint64(tableAt),
		Ehsize: head, Shentsize: section, Shnum: 3, Shstrndx: 2}
	copy(h.Ident[:], "\x7fELF\x02\x01\x01")
	write(h)
	b.WriteString(info + names)
	b.Write(make([]byte, tableAt-b.Len()))
	write(elf.Section64{})
	write(elf.Section64{Name: 1, Type: uint32(elf.SHT_PROGBITS), Off: uint64(infoAt), Size: uint64(len(info)), Addralign: 1})
	write(elf.Section64{Name: 10, Type: uint32(elf.SHT_STRTAB), Off: uint64(namesAt), Size: uint64(len(names)), Addralign: 1})
	return b.Bytes()
}

func put(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
}

func gzipped(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	if _, err := z.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func openFolder(dir string) (*Kernel, error) { return OpenKernel(dir, os.DirFS(dir)) }

func smallKernel(t *testing.T) string {
	dir := t.TempDir()
	mod := func(file, info string) {
		b := moduleFile(info)
		if strings.HasSuffix(file, ".gz") {
			b = gzipped(t, b)
		}
		put(t, filepath.Join(dir, "lib/modules/9.9-x/kernel", file), b)
	}
	put(t, filepath.Join(dir, "boot/vmlinuz-9.9-x"), []byte("image"))
	put(t, filepath.Join(dir, "lib/modules/9.9-x/modules.builtin"), []byte("kernel/drivers/virtio/virtio_pci.ko\n"))
	mod("net/nf_conntrack.ko", "license=GPL\x00depends=nf_defrag_ipv4,libcrc32c\x00")
	mod("net/nf_defrag_ipv4.ko.gz", "depends=\x00")
	mod("lib/libcrc32c.ko", "softdep=pre: crc32c-intel nobody post: late\x00depends=\x00")
	mod("arch/crc32c-intel.ko", "depends=\x00")
	mod("lib/late.ko", "depends=\x00")
	mod("net/nf_nat.ko", "depends=nf_conntrack,libcrc32c\x00")
	mod("a/circle-a.ko", "depends=circle_b\x00")
	mod("a/circle-b.ko", "depends=circle_a\x00")
	return dir
}

func TestModulesInOrderOfLoading(t *testing.T) {
	k, err := openFolder(smallKernel(t))
	if err != nil {
		t.Fatal(err)
	}
	if k.Release != "9.9-x" || filepath.Base(k.Image) != "vmlinuz-9.9-x" {
		t.Errorf("release %s, image %s", k.Release, k.Image)
	}
	for _, c := range []struct{ names, order, missing string }{
		{"nf_conntrack", "nf_defrag_ipv4 crc32c_intel libcrc32c nf_conntrack", ""},
		{"nf_nat nf_conntrack", "nf_defrag_ipv4 crc32c_intel libcrc32c nf_conntrack nf_nat", ""},
		{"virtio_pci", "", ""}, // built in
		{"nf_tables libcrc32c", "crc32c_intel libcrc32c", "nf_tables"},
		{"circle_a", "circle_b circle_a", ""}, // no kernel has that; it must end
	} {
		modules, missing, err := k.load(strings.Fields(c.names))
		var order []string
		for _, m := range modules {
			order = append(order, m.name)
		}
		if err != nil || strings.Join(order, " ") != c.order || strings.Join(missing, " ") != c.missing {
			t.Errorf("%s: %s; missing %s; %v\nwant %s; missing %s", c.names, order, missing, err, c.order, c.missing)
		}
	}
}

func TestModulesThatCannotBeRead(t *testing.T) {
	dir := smallKernel(t)
	bad := filepath.Join(dir, "lib/modules/9.9-x/kernel/net/veth.ko")
	for what, content := range map[string][]byte{
		"no ELF":              []byte("module"),
		"cut off":             moduleFile("depends=\x00")[:50],
		"without its section": bytes.Replace(moduleFile("depends=\x00"), []byte(".modinfo"), []byte(".modless"), 1),
	} {
		put(t, bad, content)
		k, err := openFolder(dir)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err = k.load([]string{"veth"}); err == nil || !strings.Contains(err.Error(), bad) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// Where packages have their kernels.
func TestOpenKernelLayouts(t *testing.T) {
	for what, c := range map[string]struct {
		files []string
		image string // or a part of the error
	}{
		"Debian until 7.x":     {[]string{"boot/vmlinuz-1", "lib/modules/1/a.ko"}, "boot/vmlinuz-1"},
		"Debian since, Fedora": {[]string{"usr/lib/modules/1/vmlinuz", "usr/lib/modules/1/a.ko"}, "usr/lib/modules/1/vmlinuz"},
		"image of another":     {[]string{"boot/vmlinuz-2", "lib/modules/1/a.ko"}, "no boot/vmlinuz-1"},
		"no modules":           {[]string{"boot/vmlinuz-1"}, "no lib/modules"},
		"two kernels":          {[]string{"boot/vmlinuz-1", "lib/modules/1/a.ko", "lib/modules/2/a.ko"}, "2 kernels"},
	} {
		dir := t.TempDir()
		for _, f := range c.files {
			put(t, filepath.Join(dir, f), nil)
		}
		k, err := openFolder(dir)
		switch {
		case err != nil && !strings.Contains(err.Error(), c.image):
			t.Errorf("%s: %v", what, err)
		case err == nil && k.Image != c.image:
			t.Errorf("%s: %s", what, k.Image)
		}
	}
	if _, err := openFolder(filepath.Join(t.TempDir(), "nothing")); err == nil {
		t.Error("a folder that is not there was opened")
	}
}

// A merged /usr has one folder under two names.
func TestOpenKernelMergedUsr(t *testing.T) {
	dir := t.TempDir()
	put(t, filepath.Join(dir, "usr/lib/modules/1/vmlinuz"), nil)
	if err := os.Symlink("usr/lib", filepath.Join(dir, "lib")); err != nil {
		t.Fatal(err)
	}
	if k, err := openFolder(dir); err != nil || k.Release != "1" {
		t.Errorf("%v, %v", k, err)
	}
}

func TestModulesAreNamedOnce(t *testing.T) {
	names := slices.Clone(Modules())
	slices.Sort(names)
	if once := slices.Compact(slices.Clone(names)); len(once) != len(names) {
		t.Errorf("named twice: %v", names)
	}
}
