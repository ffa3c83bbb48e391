package guest

import (
	"archive/tar"
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// tarOf makes a tar archive of files by their names; those whose names end in / are folders.
func tarOf(t *testing.T, files ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range files {
		h := &tar.Header{Name: name, Mode: 0o644, Typeflag: tar.TypeReg, Size: int64(len(name))}
		if strings.HasSuffix(name, "/") {
			h.Typeflag, h.Size = tar.TypeDir, 0
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			if _, err := w.Write([]byte(name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestKernelFiles(t *testing.T) {
	files, err := kernelFiles(bytes.NewReader(tarOf(t, "./", "./boot/", "./boot/vmlinuz-1", "./boot/System.map-1", "./usr/share/doc/a",
		"./lib/modules/1/a.ko", "usr/lib/modules/1/b.ko", "./../../lib/modules/1/c.ko")))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	if err := fs.WalkDir(files, ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			names = append(names, name)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if want := []string{"boot/vmlinuz-1", "lib/modules/1/a.ko", "lib/modules/1/c.ko", "usr/lib/modules/1/b.ko"}; !slices.Equal(names, want) {
		t.Errorf("kept %q, want %q", names, want)
	}
	if b, err := fs.ReadFile(files, "boot/vmlinuz-1"); err != nil || string(b) != "./boot/vmlinuz-1" {
		t.Errorf("image %q, %v", b, err)
	}
}

func TestKernelFilesRefuses(t *testing.T) {
	var huge bytes.Buffer // says that it is larger than is kept, and has nothing
	if err := tar.NewWriter(&huge).WriteHeader(&tar.Header{Name: "lib/modules/1/a.ko", Typeflag: tar.TypeReg, Size: packageMax + 1}); err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		in  []byte
		why string
	}{
		"too large": {huge.Bytes(), "more than 1024 MiB"},
		"cut off":   {tarOf(t, "lib/modules/1/a.ko")[:520], "unexpected EOF"},
		"no tar":    {bytes.Repeat([]byte("x"), 1024), "invalid tar header"},
	} {
		if _, err := kernelFiles(bytes.NewReader(c.in)); err == nil || !strings.Contains(err.Error(), c.why) {
			t.Errorf("%s: %v, want %q", what, err, c.why)
		}
	}
}

// A package as dpkg-deb makes it holds the same kernel as the folder that it is made of, for both layouts.
func TestReadPackage(t *testing.T) {
	if _, err := exec.LookPath("dpkg-deb"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	for _, image := range []string{"boot/vmlinuz-9.9-x", "usr/lib/modules/9.9-x/vmlinuz"} {
		dir, deb := t.TempDir(), filepath.Join(t.TempDir(), "kernel.deb")
		root := "."
		if strings.HasPrefix(image, "usr/") {
			root = "usr"
		}
		put(t, filepath.Join(dir, "DEBIAN/control"), []byte("Package: kernel\nVersion: 1\nArchitecture: all\nMaintainer: nobody <nobody@localhost>\nDescription: a kernel\n"))
		put(t, filepath.Join(dir, image), []byte("image"))
		put(t, filepath.Join(dir, root, "lib/modules/9.9-x/veth.ko"), moduleFile("depends=\x00"))
		if out, err := exec.Command("dpkg-deb", "--root-owner-group", "--build", dir, deb).CombinedOutput(); err != nil {
			t.Fatalf("dpkg-deb: %v: %s", err, out)
		}
		files, err := ReadPackage(t.Context(), deb)
		if err != nil {
			t.Fatal(err)
		}
		k, err := OpenKernel("kernel.deb", files)
		if err != nil {
			t.Fatal(err)
		}
		content, err := k.ReadImage()
		if err != nil || string(content) != "image" || k.Image != image || k.Release != "9.9-x" {
			t.Errorf("image %s of %s: %q, %v", k.Image, k.Release, content, err)
		}
		if modules, missing, err := k.load([]string{"veth"}); err != nil || len(modules) != 1 || len(missing) != 0 {
			t.Errorf("%s: modules %v, missing %v, %v", image, modules, missing, err)
		}
	}
}
