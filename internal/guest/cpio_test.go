package guest

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The archive is read by another program: cpio.
func TestArchiveIsReadByCpio(t *testing.T) {
	var b bytes.Buffer
	a := newArchive(&b)
	a.file("/usr/bin/prog", 0o755, []byte("odd"))
	a.file("/etc/empty", 0o644, nil)
	a.file("etc/empty", 0o644, []byte("a second one of that name is left out"))
	a.link("/bin/prog", "/usr/bin/prog")
	a.folder("/proc")
	if err := a.close(); err != nil {
		t.Fatal(err)
	}
	if b.Len()%4 != 0 {
		t.Errorf("%d bytes: not a multiple of four", b.Len())
	}
	if _, err := exec.LookPath("cpio"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	dir := t.TempDir()
	cmd := exec.Command("cpio", "--quiet", "--extract")
	cmd.Dir, cmd.Stdin = dir, &b
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Fatalf("cpio: %v\n%s", err, out)
	}
	for name, want := range map[string]string{"usr/bin/prog": "odd", "etc/empty": ""} {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || string(got) != want {
			t.Errorf("%s: %q, %v; want %q", name, got, err, want)
		}
	}
	if fi, err := os.Stat(filepath.Join(dir, "usr/bin/prog")); err != nil || fi.Mode().Perm() != 0o755 {
		t.Errorf("usr/bin/prog: %v, %v", fi, err)
	}
	if to, err := os.Readlink(filepath.Join(dir, "bin/prog")); err != nil || to != "/usr/bin/prog" {
		t.Errorf("bin/prog: a link to %q, %v", to, err)
	}
	if fi, err := os.Stat(filepath.Join(dir, "proc")); err != nil || !fi.IsDir() {
		t.Errorf("proc: %v, %v", fi, err)
	}
}

// The form of an entry, byte by byte.
func TestArchiveHeader(t *testing.T) {
	var b bytes.Buffer
	newArchive(&b).device("/console", 5, 1)
	want := "070701" + "00000001" + "00002180" + "00000000" + "00000000" + "00000001" + "00000000" + "00000000" +
		"00000000" + "00000000" + "00000005" + "00000001" + "00000008" + "00000000" + "console\x00" + "\x00\x00"
	if b.String() != want {
		t.Errorf("got  %q\nwant %q", b.String(), want)
	}
}

type full struct{ left int }

var errFull = errors.New("no space")

func (f *full) Write(b []byte) (int, error) {
	if len(b) > f.left {
		return 0, errFull
	}
	f.left -= len(b)
	return len(b), nil
}

func TestArchiveErrors(t *testing.T) {
	a := newArchive(&full{200})
	a.file("/a", 0o644, make([]byte, 300))
	a.file("/b", 0o644, nil)
	if err := a.close(); !errors.Is(err, errFull) {
		t.Errorf("a full disk: %v", err)
	}
	for _, name := range []string{"/a\x00b", "/" + strings.Repeat("a/", 3000)} {
		a := newArchive(io.Discard)
		a.file(name, 0o644, nil)
		if err := a.close(); err == nil {
			t.Errorf("a name of %d bytes was taken: %.20q", len(name), name)
		}
	}
}
