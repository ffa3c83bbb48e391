package guest

import (
	"crypto/rand"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// Image is what the guest finds in its root file system, which is one initramfs.
type Image struct {
	Ctlab    string   // path of the program that is the guest's /init, and what runs in it
	Kernel   *Kernel  // whose modules are in it
	Programs []string // paths of further programs, as they are to be found in the guest as well
	Labs     []string // files, under the names by which Job.Args has them
	Job      Job
}

// Job is what the guest is to do.
type Job struct {
	Args    []string `json:"args"`    // of ctlab
	Dir     string   `json:"dir"`     // the working folder
	Modules []string `json:"modules"` // files, in the order of loading
	Seed    []byte   `json:"seed"`    // of the kernel's random numbers
	JUnit   bool     `json:"junit"`   // whether the report and the traces are wanted
	Trace   bool     `json:"trace"`
}

// Where things are in the guest.
const (
	jobFile   = "/ctlab/job.json"
	ctlabFile = "/init"
	JUnitFile = "/ctlab/junit.xml"
	TraceFile = "/ctlab/run.trace"
)

// reserved folders are mounted in the guest, or its own: no file of a lab can be there.
func reserved() []string { return []string{"/proc", "/sys", "/dev", "/ctlab"} }

// Write writes the image as a cpio archive. It returns the names of modules that the kernel does not have.
func (m Image) Write(w io.Writer) (missing []string, err error) {
	a := newArchive(w)
	a.device("/dev/console", 5, 1)
	for _, dir := range append(reserved(), "/run", "/tmp", "/etc", "/mnt", m.Job.Dir) {
		a.folder(dir)
	}
	modules, missing, err := m.Kernel.load(Modules())
	if err != nil {
		return nil, err
	}
	for _, mod := range modules {
		name := "/ctlab/modules/" + mod.name + ".ko"
		a.file(name, 0o644, mod.content)
		m.Job.Modules = append(m.Job.Modules, name)
	}
	m.Job.Seed = make([]byte, 256)
	if _, err := rand.Read(m.Job.Seed); err != nil {
		return nil, err
	}
	job, err := json.Marshal(m.Job)
	if err != nil {
		return nil, err
	}
	a.file(jobFile, 0o644, job)
	p := packer{a, searchPath("/etc/ld.so.conf")}
	if err := p.programs(m); err != nil {
		return nil, err
	}
	for _, lab := range m.Labs {
		if err := p.lab(lab, m.Job.Dir); err != nil {
			return nil, err
		}
	}
	return missing, a.close()
}

// packer puts files of this machine into an archive, where they are found by the same names.
type packer struct {
	*archive
	libraries []string // folders in which shared libraries are looked for
}

func (p packer) programs(m Image) error {
	init, err := os.ReadFile(m.Ctlab)
	if err != nil {
		return fmt.Errorf("pack ctlab: %w", err)
	}
	p.file(ctlabFile, 0o755, init)
	if err := p.needs(m.Ctlab); err != nil {
		return fmt.Errorf("pack ctlab: %w", err)
	}
	for _, path := range m.Programs {
		if err := p.program(path); err != nil {
			return fmt.Errorf("pack %s: %w", path, err)
		}
		if dir := filepath.Dir(path); !slices.Contains(searchedFolders(), dir) { // found by name all the same
			abs, err := filepath.Abs(path)
			if err != nil {
				return err
			}
			p.link("/usr/local/bin/"+filepath.Base(path), abs)
		}
	}
	// What programs look up: the names of protocols (iptables), those of hosts and users, and where libraries are, if that is
	// not where the loader looks by itself.
	for _, f := range []struct{ name, text string }{
		{"/etc/protocols", "ip 0 IP\nicmp 1 ICMP\ntcp 6 TCP\nudp 17 UDP\nsctp 132 SCTP\n"},
		{"/etc/hosts", "127.0.0.1 localhost\n"},
		{"/etc/nsswitch.conf", "hosts: files dns\n"},
		{"/etc/resolv.conf", ""},
		{"/etc/passwd", "root:x:0:0:root:/:/bin/sh\n"},
		{"/etc/group", "root:x:0:\n"},
	} {
		p.file(f.name, 0o644, []byte(f.text))
	}
	if cache, err := os.ReadFile("/etc/ld.so.cache"); err == nil {
		p.file("/etc/ld.so.cache", 0o644, cache)
	}
	return nil
}

// searchedFolders are those in which the guest looks for programs.
func searchedFolders() []string {
	return []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}
}

// lab adds the file of a lab under its own name, as seen from the working folder.
func (p packer) lab(name, dir string) error {
	src, err := os.ReadFile(name)
	if err != nil {
		return fmt.Errorf("pack lab: %w", err)
	}
	if !filepath.IsAbs(name) {
		name = filepath.Join(dir, name)
	}
	p.file(name, 0o644, src)
	return nil
}

// Reserved reports whether a path cannot be used in the guest, as it has something of its own there.
func Reserved(path string) bool {
	return slices.ContainsFunc(reserved(), func(dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") })
}

// program adds a file with all that it needs to run: its loader, its shared libraries and, if it is an iptables program, the
// extensions of iptables.
func (p packer) program(path string) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	real, err := p.linked(path)
	if err != nil {
		return err
	}
	return p.needs(real)
}

// linked adds a file under its own name, and as a link under the name by which it was looked for.
func (p packer) linked(path string) (real string, err error) {
	if real, err = filepath.EvalSymlinks(path); err != nil {
		return "", err
	}
	if !p.have[real] {
		fi, err := os.Stat(real)
		if err != nil {
			return "", err
		}
		content, err := os.ReadFile(real)
		if err != nil {
			return "", err
		}
		p.file(real, uint32(fi.Mode().Perm()), content)
	}
	if real != path {
		p.link(path, real)
	}
	return real, nil
}

// needs adds what a program, or a library, is linked with. What is no ELF file, such as a script, needs nothing that is known here.
func (p packer) needs(path string) error {
	f, err := elf.Open(path)
	var format *elf.FormatError
	if errors.As(err, &format) || errors.Is(err, io.EOF) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if loader := interpreter(f); loader != "" {
		if _, err := p.linked(loader); err != nil {
			return fmt.Errorf("loader: %w", err)
		}
	}
	names, err := f.ImportedLibraries()
	if err != nil {
		return err
	}
	dirs := append(runPath(f, path), p.libraries...)
	for _, name := range names {
		if err := p.library(name, dirs); err != nil {
			return err
		}
	}
	return nil
}

// interpreter is the loader that a program asks for; a static one asks for none.
func interpreter(f *elf.File) string {
	for _, prog := range f.Progs {
		if prog.Type != elf.PT_INTERP {
			continue
		}
		if b, err := io.ReadAll(prog.Open()); err == nil {
			return strings.TrimRight(string(b), "\x00")
		}
	}
	return ""
}

// runPath are the folders in which a file itself wants its libraries to be looked for.
func runPath(f *elf.File, path string) (dirs []string) {
	for _, tag := range []elf.DynTag{elf.DT_RUNPATH, elf.DT_RPATH} {
		values, _ := f.DynString(tag) // none in a static program
		for _, v := range values {
			v = strings.NewReplacer("$ORIGIN", filepath.Dir(path), "${ORIGIN}", filepath.Dir(path)).Replace(v)
			dirs = append(dirs, filepath.SplitList(v)...)
		}
	}
	return dirs
}

func (p packer) library(name string, dirs []string) error {
	for _, dir := range dirs {
		path := filepath.Join(dir, name)
		if !isELF(path) {
			continue
		}
		if p.have[path] {
			return nil
		}
		real, err := p.linked(path)
		if err != nil {
			return err
		}
		if err := p.needs(real); err != nil {
			return err
		}
		if strings.HasPrefix(name, "libxtables.so") {
			return p.extensions(filepath.Join(filepath.Dir(real), "xtables"))
		}
		return nil
	}
	return fmt.Errorf("library %s is not found in %s", name, strings.Join(dirs, " "))
}

// isELF reports whether a library is one of this machine's own kind: there may be those of others beside it.
func isELF(path string) bool {
	f, err := elf.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	return f.Class == elf.ELFCLASS64 && f.Machine == map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[runtime.GOARCH]
}

// extensions adds the matches and targets of iptables, which it loads by name from a folder beside its library.
func (p packer) extensions(dir string) error {
	files, err := filepath.Glob(filepath.Join(dir, "*.so"))
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := p.program(f); err != nil {
			return err
		}
	}
	return nil
}

// searchPath is where the loader looks for libraries: what ld.so.conf says, and the folders that it knows by itself.
func searchPath(conf string) []string {
	dirs := confDirs(conf, 0)
	triple := map[string]string{"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}[runtime.GOARCH]
	for _, dir := range []string{"/lib/" + triple, "/usr/lib/" + triple, "/lib64", "/usr/lib64", "/lib", "/usr/lib"} {
		if _, err := os.Stat(dir); err == nil && !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// confDirs are the folders that a file in the format of ld.so.conf names.
func confDirs(conf string, depth int) (dirs []string) {
	b, err := os.ReadFile(conf)
	if err != nil || depth > 4 {
		return nil
	}
	for line := range strings.Lines(string(b)) {
		line, _, _ = strings.Cut(line, "#")
		line = strings.TrimSpace(line)
		if pattern, ok := strings.CutPrefix(line, "include "); ok {
			if !filepath.IsAbs(pattern) {
				pattern = filepath.Join(filepath.Dir(conf), pattern)
			}
			files, _ := filepath.Glob(strings.TrimSpace(pattern)) // a bad pattern names no file
			for _, f := range files {
				dirs = append(dirs, confDirs(f, depth+1)...)
			}
		} else if line != "" && !slices.Contains(dirs, line) {
			dirs = append(dirs, line)
		}
	}
	return dirs
}
