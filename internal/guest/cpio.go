package guest

import (
	"fmt"
	"io"
	"path"
	"strings"
)

// archive writes a cpio archive in the newc format, which the kernel unpacks as its first root file system
// (Documentation/driver-api/early-userspace/buffer-format.rst). Folders above a name are made as needed. Owner is
// root, times are 0: the same files make the same archive.
type archive struct {
	w    io.Writer
	n    int64 // bytes written
	ino  uint32
	have map[string]bool // names that are in it
	err  error           // the first one; nothing is written after it
}

func newArchive(w io.Writer) *archive { return &archive{w: w, have: map[string]bool{"/": true}} }

// File types in a mode, as in stat(2).
const (
	typeFolder  = 0o040000
	typeChar    = 0o020000
	typeRegular = 0o100000
	typeLink    = 0o120000
)

// nameMax is the longest name that the kernel takes (PATH_MAX in include/uapi/linux/limits.h, with the final NUL).
const nameMax = 4096

// file adds a file, unless there is one of that name.
func (a *archive) file(name string, perm uint32, content []byte) {
	a.entry(name, typeRegular|perm, 0, 0, content)
}

// link adds a symbolic link.
func (a *archive) link(name, target string) { a.entry(name, typeLink|0o777, 0, 0, []byte(target)) }

// folder adds a folder.
func (a *archive) folder(name string) { a.entry(name, typeFolder|0o755, 0, 0, nil) }

// device adds a character device.
func (a *archive) device(name string, major, minor uint32) {
	a.entry(name, typeChar|0o600, major, minor, nil)
}

func (a *archive) entry(name string, mode, major, minor uint32, content []byte) {
	name = path.Clean("/" + name)
	if a.have[name] || a.err != nil {
		return
	}
	a.folder(path.Dir(name))
	a.have[name] = true
	a.ino++
	a.header(strings.TrimPrefix(name, "/"), a.ino, mode, major, minor, content)
}

// close ends the archive and returns the first error of all.
func (a *archive) close() error {
	a.header("TRAILER!!!", 0, 0, 0, 0, nil)
	return a.err
}

// header writes one entry: thirteen fields of eight hexadecimal digits after the magic number, then name and content, each padded to
// four bytes.
func (a *archive) header(name string, ino, mode, major, minor uint32, content []byte) {
	if len(name)+1 > nameMax || strings.ContainsRune(name, 0) {
		a.err = fmt.Errorf("archive %.40q: not a name of a file", name)
	}
	if int64(len(content)) > 1<<32-1 {
		a.err = fmt.Errorf("archive %s: larger than 4 GiB", name)
	}
	a.printf("070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X", ino, mode, 0, 0, 1, 0, len(content), 0, 0, major, minor, len(name)+1, 0)
	a.printf("%s\x00", name)
	a.pad()
	a.write(content)
	a.pad()
}

func (a *archive) printf(format string, args ...any) { a.write(fmt.Appendf(nil, format, args...)) }

func (a *archive) pad() { a.write(make([]byte, -a.n&3)) }

func (a *archive) write(b []byte) {
	if a.err != nil || len(b) == 0 {
		return
	}
	n, err := a.w.Write(b)
	a.n, a.err = a.n+int64(n), err
}
