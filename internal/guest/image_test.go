package guest

import (
	"bytes"
	"debug/elf"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// listed are the names in a cpio archive, read by walking its headers.
func listed(t *testing.T, b []byte) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	for at := 0; ; {
		field := func(i int) (n int) {
			for _, c := range b[at+6+8*i : at+6+8*i+8] {
				n = n<<4 | strings.IndexByte("0123456789ABCDEF", c)
			}
			return n
		}
		size, nameSize := field(6), field(11)
		name := string(b[at+110 : at+110+nameSize-1])
		at = (at + 110 + nameSize + 3) &^ 3
		if name == "TRAILER!!!" {
			return files
		}
		if _, twice := files[name]; twice {
			t.Errorf("%s is in it twice", name)
		}
		files[name] = b[at : at+size]
		at = (at + size + 3) &^ 3
	}
}

func written(t *testing.T, m Image) ([]byte, []string) {
	t.Helper()
	var b bytes.Buffer
	missing, err := m.Write(&b)
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), missing
}

// What the guest gets: a program of this machine runs there only with its loader and all libraries, its own and
// those of its libraries.
func TestImage(t *testing.T) {
	k, err := openFolder(smallKernel(t))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	t.Chdir(dir)
	put(t, filepath.Join(dir, "labs/mine.yaml"), []byte("lab: mine\n"))
	put(t, filepath.Join(dir, "tool"), []byte("#!/bin/sh\n"))
	ls, err := exec.LookPath("ls")
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	m := Image{Ctlab: self, Kernel: k, Programs: []string{ls, filepath.Join(dir, "tool")}, Labs: []string{"labs/mine.yaml", filepath.Join(dir, "labs/mine.yaml")},
		Job: Job{Args: []string{"run", "labs/mine.yaml"}, Dir: dir}}
	b, missing := written(t, m)
	files := listed(t, b)
	inside := strings.TrimPrefix(dir, "/")
	for _, name := range []string{"init", "dev/console", "proc", "etc/protocols", inside + "/labs/mine.yaml", inside + "/tool", "usr/local/bin/tool",
		"ctlab/modules/nf_conntrack.ko", "ctlab/job.json"} {
		if _, ok := files[name]; !ok {
			t.Errorf("%s is not in it", name)
		}
	}
	if !slices.Contains(missing, "nf_tables") || slices.Contains(missing, "nf_nat") {
		t.Errorf("missing: %v", missing)
	}
	var job Job
	if err := json.Unmarshal(files["ctlab/job.json"], &job); err != nil {
		t.Fatal(err)
	}
	if want := "/ctlab/modules/nf_conntrack.ko"; len(job.Seed) == 0 || !slices.Contains(job.Modules, want) {
		t.Errorf("job: %d bytes of seed, modules %v", len(job.Seed), job.Modules)
	}
	if again, _ := written(t, m); len(again) != len(b) {
		t.Errorf("%d bytes, and again %d", len(b), len(again))
	}
	complete(t, files)
}

// complete demands that everything that an ELF file of the image asks for is in it, by name.
func complete(t *testing.T, files map[string][]byte) {
	t.Helper()
	have, asked := map[string]bool{}, 0
	for name := range files {
		have[filepath.Base(name)] = true
	}
	for name, content := range files {
		f, err := elf.NewFile(bytes.NewReader(content))
		if err != nil || f.Type == elf.ET_REL {
			continue
		}
		names, err := f.ImportedLibraries()
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if loader := interpreter(f); loader != "" {
			names = append(names, filepath.Base(loader))
		}
		for _, n := range names {
			if asked++; !have[n] {
				t.Errorf("%s asks for %s, which is not there", name, n)
			}
		}
	}
	if asked == 0 {
		t.Error("no program asks for anything: ls is not linked with a library?")
	}
}

func TestImageErrors(t *testing.T) {
	k, err := openFolder(smallKernel(t))
	if err != nil {
		t.Fatal(err)
	}
	here := filepath.Join(t.TempDir(), "here")
	put(t, here, nil)
	for want, m := range map[string]Image{
		"pack ctlab: ":            {Ctlab: here + "-not", Kernel: k},
		"pack /no/such/program: ": {Ctlab: here, Kernel: k, Programs: []string{"/no/such/program"}},
		"pack lab: ":              {Ctlab: here, Kernel: k, Labs: []string{"/no/such/lab.yaml"}},
	} {
		if _, err := m.Write(&bytes.Buffer{}); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// Libraries are looked for where ld.so.conf says, with what it includes.
func TestSearchPath(t *testing.T) {
	dir := t.TempDir()
	conf := filepath.Join(dir, "ld.so.conf")
	put(t, conf, []byte("# first\n/opt/a # why\ninclude conf.d/*.conf\n/opt/b\n"))
	put(t, filepath.Join(dir, "conf.d/1.conf"), []byte("/opt/c\n/opt/c\n"))
	put(t, filepath.Join(dir, "conf.d/2.conf"), []byte("include "+conf+"\n")) // in a circle
	got := confDirs(conf, 0)
	if !slices.Equal(got[:2], []string{"/opt/a", "/opt/c"}) || got[len(got)-1] != "/opt/b" {
		t.Errorf("%v", got)
	}
	if !slices.Contains(searchPath(conf), "/usr/lib") {
		t.Errorf("without those that the loader knows by itself: %v", searchPath(conf))
	}
}

func TestReserved(t *testing.T) {
	for path, want := range map[string]bool{"/proc/self/fd/63": true, "/dev/shm/lab.yaml": true, "/ctlab": true, "/home/x/lab.yaml": false, "/development/lab.yaml": false} {
		if Reserved(path) != want {
			t.Errorf("%s: %t", path, !want)
		}
	}
}
